/* attention.h - what the tests of ifa_run share: a problem with data, results with their stages,
 * and comparing them. */
#ifndef IFA_TESTS_REF_ATTENTION_H
#define IFA_TESTS_REF_ATTENTION_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/backend.h"
#include "common/operand.h"
#include "common/problem.h"
#include "common/random.h"
#include "ifa.h"

enum { UNWRITTEN = 0xcd, SEED = 271828 };

static inline int have_openmp(void) { return ifa_backend_supports("openmp", NULL, NULL) == IFA_OK; }

static inline uint32_t below(uint64_t stream, uint64_t index, uint32_t count) {
  return ifa_random_below(SEED, stream, index, count);
}

/* ---- data ---- */

typedef struct data {
  ifa_problem p;
  ifa_inputs in;
  void *q, *k, *v;
  float *q_scale, *k_scale, *v_scale, *v_channel_scale;
} data;

static inline void *filled(size_t bytes, int byte) {
  void *memory = malloc(bytes + 1);
  assert_non_null(memory);
  memset(memory, byte, bytes + 1);
  return memory;
}

static inline size_t operand_bytes(ifa_type type, ifa_strides s, int64_t heads, int64_t batch,
                                   int64_t tokens, int32_t dim) {
  return (size_t)ifa_extent_bytes(type, s, batch, heads, tokens, dim);
}

/* Allocates everything for a problem. Operands are 0 and scales 1. */
static inline data data_new(ifa_problem problem) {
  data d = {.p = problem};
  ifa_message why = {""};
  if (ifa_problem_check(&problem, &why) != IFA_OK) fail_msg("%s", why.text);
  ifa_problem p = ifa_problem_resolved(&problem);
  size_t scales = (size_t)(p.batch * (p.q_heads * (p.nq + 1) + p.kv_heads * (p.nk + p.head_dim)));
  d.q = filled(operand_bytes(p.q_type, p.q_stride, p.q_heads, p.batch, p.nq, p.head_dim), 0);
  d.k = filled(operand_bytes(p.k_type, p.k_stride, p.kv_heads, p.batch, p.nk, p.head_dim), 0);
  d.v = filled(operand_bytes(p.v_type, p.v_stride, p.kv_heads, p.batch, p.nk, p.head_dim), 0);
  float **all[] = {&d.q_scale, &d.k_scale, &d.v_scale, &d.v_channel_scale};
  for (int i = 0; i < 4; i++) {
    *all[i] = filled(scales * sizeof(float), 0);
    for (size_t s = 0; s < scales; s++) (*all[i])[s] = 1.0f;
  }
  d.in = (ifa_inputs){.q = d.q,
                      .k = d.k,
                      .v = d.v,
                      .q_scale = d.q_scale,
                      .k_scale = d.k_scale,
                      .v_scale = d.v_scale,
                      .v_channel_scale = d.v_channel_scale};
  return d;
}

static inline void data_free(data *d) {
  free(d->q);
  free(d->k);
  free(d->v);
  free(d->q_scale);
  free(d->k_scale);
  free(d->v_scale);
  free(d->v_channel_scale);
}

static inline void fill_operand(ifa_type type, void *to, size_t bytes, uint64_t stream,
                                uint64_t index, int extremes) {
  (void)type; /* any byte is two INT4 or one INT8 */
  for (size_t i = 0; i < bytes; i++) {
    uint64_t bits = ifa_random_bits(SEED + index, stream, i);
    static const uint8_t ends[] = {0x80, 0x7f, 0x00, 0x88, 0x77, 0xff};
    ((uint8_t *)to)[i] = extremes ? ends[bits % 6] : (uint8_t)(bits >> 32);
  }
}

static inline void fill_scales(float *scales, int64_t count, float base, uint64_t stream,
                               uint64_t index, uint32_t octaves) {
  for (int64_t i = 0; i < count; i++) {
    float x = ldexpf(base * (1.0f + ifa_random_uniform(SEED + index, stream, (uint64_t)i)),
                     (int)ifa_random_below(SEED + index, stream + 100, (uint64_t)i, octaves + 1));
    scales[i] = ifa_random_below(SEED + index, stream + 200, (uint64_t)i, 23) == 0 ? 0.0f : x;
  }
}

/* Random contents: operands of any value, scores from less than an octave to thousands, scales over
 * some octaves, some of them 0. */
static inline void data_fill(data *d, uint64_t index) {
  ifa_problem p = ifa_problem_resolved(&d->p);
  int extremes = below(40, index, 4) == 0;
  fill_operand(p.q_type, d->q,
               operand_bytes(p.q_type, p.q_stride, p.q_heads, p.batch, p.nq, p.head_dim), 1, index,
               extremes);
  fill_operand(p.k_type, d->k,
               operand_bytes(p.k_type, p.k_stride, p.kv_heads, p.batch, p.nk, p.head_dim), 2, index,
               extremes);
  fill_operand(p.v_type, d->v,
               operand_bytes(p.v_type, p.v_stride, p.kv_heads, p.batch, p.nk, p.head_dim), 3, index,
               extremes);
  int levels = (p.q_type == IFA_I4 ? 3 : 7) + (p.k_type == IFA_I4 ? 3 : 7);
  /* q_scale * k_scale */
  float reach =
      ldexpf(1.0f / (p.sm_scale > 0 ? p.sm_scale : 1.0f), (int)below(41, index, 13) - levels - 2);
  uint32_t wide = below(42, index, 4) == 0 ? 60 : 3;
  fill_scales(d->q_scale,
              ifa_scale_count(p.q_scale, p.batch, p.q_heads, p.nq, p.head_dim, p.q_block),
              reach * 0.25f, 4, index, 1);
  fill_scales(d->k_scale,
              ifa_scale_count(p.k_scale, p.batch, p.kv_heads, p.nk, p.head_dim, p.k_block), 0.25f,
              5, index, 3);
  fill_scales(d->v_scale, ifa_scale_count(p.v_scale, p.batch, p.kv_heads, p.nk, p.head_dim, 0),
              wide == 60 ? 0x1p-70f : 0.01f, 6, index, wide);
  fill_scales(d->v_channel_scale, p.batch * p.kv_heads * p.head_dim, wide == 60 ? 0x1p-70f : 0.5f,
              7, index, wide);
}

/* What a run gives. */
typedef struct result {
  size_t o_bytes, lse_count, stage_bytes[7];
  void *o;
  float *lse;
  ifa_stages stages;
} result;

static inline void **stage_at(ifa_stages *stages, int i) {
  void **all[] = {(void **)&stages->s,          (void **)&stages->unit,    (void **)&stages->p,
                  (void **)&stages->value_unit, (void **)&stages->value_p, (void **)&stages->l,
                  (void **)&stages->acc};
  return all[i];
}

static inline result result_new(const ifa_problem *problem, int64_t rows) {
  ifa_problem p = ifa_problem_resolved(problem);
  size_t r = (size_t)rows, nk = (size_t)p.nk, tiles = (size_t)ifa_ceil_div(p.nk, p.kv_tile),
         splits = (size_t)ifa_ceil_div(p.nk, p.kv_split);
  result out = {.o_bytes = (size_t)ifa_extent_bytes(p.out_type, p.o_stride, p.batch, p.q_heads,
                                                    p.nq, p.head_dim),
                .lse_count = p.lse ? (size_t)(p.batch * p.q_heads * p.nq) : 0,
                .stage_bytes = {4 * r * nk, 4 * r * tiles, r * nk, 4 * r * tiles, r * nk,
                                4 * r * splits, 4 * r * splits * (size_t)p.head_dim}};
  out.o = filled(out.o_bytes, UNWRITTEN);
  if (p.lse) out.lse = filled(out.lse_count * sizeof(float), UNWRITTEN);
  for (int i = 0; i < 7; i++) *stage_at(&out.stages, i) = filled(out.stage_bytes[i], UNWRITTEN);
  return out;
}

static inline void result_free(result *r) {
  free(r->o);
  free(r->lse);
  for (int i = 0; i < 7; i++) free(*stage_at(&r->stages, i));
}

static inline int64_t rows_of(const data *d) {
  return d->in.rows ? d->in.row_count : d->p.batch * d->p.q_heads * d->p.nq;
}

static inline void expect_ok(ifa_status status, const ifa_message *why) {
  if (status != IFA_OK) fail_msg("%s: %s", ifa_status_name(status), why->text);
  assert_string_equal(why->text, "");
}

static inline result run(const char *backend, const data *d, int with_stages) {
  result r = result_new(&d->p, rows_of(d));
  ifa_outputs out = {.o = r.o, .lse = r.lse, .stages = with_stages ? &r.stages : NULL};
  ifa_message why = {"left over"};
  expect_ok(ifa_run(backend, &d->p, &d->in, &out, &why), &why);
  return r;
}

static inline void expect_same(const result *a, const result *b, int with_stages, const data *d) {
  static const char *const names[] = {"s", "unit", "p", "value_unit", "value_p", "l", "acc"};
  char text[512] = "";
  ifa_problem_print(&d->p, text, sizeof text, NULL);
  for (int i = 0; with_stages && i < 7; i++) {
    ifa_stages x = a->stages, y = b->stages;
    if (memcmp(*stage_at(&x, i), *stage_at(&y, i), a->stage_bytes[i]) != 0)
      fail_msg("stage %s differs: %s", names[i], text);
  }
  if (memcmp(a->o, b->o, a->o_bytes) != 0) fail_msg("o differs: %s", text);
  if (a->lse_count && memcmp(a->lse, b->lse, a->lse_count * sizeof(float)) != 0)
    fail_msg("lse differs: %s", text);
}

static inline ifa_problem small(int64_t nq, int64_t nk, int32_t head_dim) {
  ifa_problem p = ifa_problem_default();
  p.nq = nq;
  p.nk = nk;
  p.head_dim = head_dim;
  p.lse = 1;
  return p;
}

/* At least scalar, cpu and cpu-portable. */
static inline int for_backends(void (*check)(const char *backend)) {
  int count = 0;
  for (int i = 0; i < ifa_backend_count(); i++)
    if (ifa_backend_supports(ifa_backend_name(i), NULL, NULL) == IFA_OK)
      check(ifa_backend_name(i)), count++;
  return count;
}

#endif
