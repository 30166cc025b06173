/* test_attention.c - ifa_run: cases worked out by hand, one backend against the other bit by bit,
 * what a result must not depend on (threads, rows chosen, place in the batch, floating-point
 * environment), the integer sums replayed in 64 bits, and every refusal. */
#include <fenv.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/backend.h"
#include "common/operand.h"
#include "common/problem.h"
#include "common/random.h"
#include "ifa.h"

#ifdef _OPENMP
#include <omp.h>
#endif
#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

enum { UNWRITTEN = 0xcd, SEED = 271828 };

static int have_openmp(void) { return ifa_backend_supports("openmp", NULL, NULL) == IFA_OK; }

static uint32_t below(uint64_t stream, uint64_t index, uint32_t count) {
  return ifa_random_below(SEED, stream, index, count);
}

/* ---- data ---- */

typedef struct data {
  ifa_problem p;
  ifa_inputs in;
  void *q, *k, *v;
  float *q_scale, *k_scale, *v_scale, *v_channel_scale;
} data;

static void *filled(size_t bytes, int byte) {
  void *memory = malloc(bytes + 1);
  assert_non_null(memory);
  memset(memory, byte, bytes + 1);
  return memory;
}

static size_t operand_bytes(ifa_type type, ifa_strides s, int64_t heads, int64_t batch,
                            int64_t tokens, int32_t dim) {
  return (size_t)ifa_extent_bytes(type, s, batch, heads, tokens, dim);
}

/* Allocates everything for a problem. Operands are 0 and scales 1. */
static data data_new(ifa_problem problem) {
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

static void data_free(data *d) {
  free(d->q);
  free(d->k);
  free(d->v);
  free(d->q_scale);
  free(d->k_scale);
  free(d->v_scale);
  free(d->v_channel_scale);
}

static void fill_operand(ifa_type type, void *to, size_t bytes, uint64_t stream, uint64_t index,
                         int extremes) {
  (void)type; /* any byte is two INT4 or one INT8 */
  for (size_t i = 0; i < bytes; i++) {
    uint64_t bits = ifa_random_bits(SEED + index, stream, i);
    static const uint8_t ends[] = {0x80, 0x7f, 0x00, 0x88, 0x77, 0xff};
    ((uint8_t *)to)[i] = extremes ? ends[bits % 6] : (uint8_t)(bits >> 32);
  }
}

static void fill_scales(float *scales, int64_t count, float base, uint64_t stream, uint64_t index,
                        uint32_t octaves) {
  for (int64_t i = 0; i < count; i++) {
    float x = ldexpf(base * (1.0f + ifa_random_uniform(SEED + index, stream, (uint64_t)i)),
                     (int)ifa_random_below(SEED + index, stream + 100, (uint64_t)i, octaves + 1));
    scales[i] = ifa_random_below(SEED + index, stream + 200, (uint64_t)i, 23) == 0 ? 0.0f : x;
  }
}

/* Random contents: operands of any value, scores from less than an octave to thousands, scales over
 * some octaves, some of them 0. */
static void data_fill(data *d, uint64_t index) {
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

static void **stage_at(ifa_stages *stages, int i) {
  void **all[] = {(void **)&stages->s,          (void **)&stages->unit,    (void **)&stages->p,
                  (void **)&stages->value_unit, (void **)&stages->value_p, (void **)&stages->l,
                  (void **)&stages->acc};
  return all[i];
}

static result result_new(const ifa_problem *problem, int64_t rows) {
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

static void result_free(result *r) {
  free(r->o);
  free(r->lse);
  for (int i = 0; i < 7; i++) free(*stage_at(&r->stages, i));
}

static int64_t rows_of(const data *d) {
  return d->in.rows ? d->in.row_count : d->p.batch * d->p.q_heads * d->p.nq;
}

static void expect_ok(ifa_status status, const ifa_message *why) {
  if (status != IFA_OK) fail_msg("%s: %s", ifa_status_name(status), why->text);
  assert_string_equal(why->text, "");
}

static result run(const char *backend, const data *d, int with_stages) {
  result r = result_new(&d->p, rows_of(d));
  ifa_outputs out = {.o = r.o, .lse = r.lse, .stages = with_stages ? &r.stages : NULL};
  ifa_message why = {"left over"};
  expect_ok(ifa_run(backend, &d->p, &d->in, &out, &why), &why);
  return r;
}

static void expect_same(const result *a, const result *b, int with_stages, const data *d) {
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

/* ---- by hand ---- */

static ifa_problem small(int64_t nq, int64_t nk, int32_t head_dim) {
  ifa_problem p = ifa_problem_default();
  p.nq = nq, p.nk = nk, p.head_dim = head_dim;
  p.lse = 1;
  return p;
}

/* At least scalar, cpu and cpu-portable. */
static int for_backends(void (*check)(const char *backend)) {
  int count = 0;
  for (int i = 0; i < ifa_backend_count(); i++)
    if (ifa_backend_supports(ifa_backend_name(i), NULL, NULL) == IFA_OK)
      check(ifa_backend_name(i)), count++;
  return count;
}

/* One key: p * v / p is v, exactly; then times the scale, rounded once. */
static void check_one_key(const char *backend) {
  for (int scale = IFA_SCALE_TENSOR; scale <= IFA_SCALE_TOKEN_CHANNEL; scale++) {
    if (scale == IFA_SCALE_BLOCK) continue;
    ifa_problem p = small(1, 1, 5);
    p.v_scale = (ifa_granularity)scale;
    data d = data_new(p);
    const int8_t v[5] = {-128, 127, 0, 1, -7};
    memcpy(d.v, v, 5);
    memset(d.q, 3, 5);
    memset(d.k, -5, 5);
    for (int i = 0; i < 5; i++)
      d.v_scale[i] = scale == IFA_SCALE_CHANNEL ? 0.1f * (float)(i + 1) : 0.3f,
      d.v_channel_scale[i] = 0.7f;
    result r = run(backend, &d, 0);
    for (int i = 0; i < 5; i++) {
      float expected = (float)v[i] * d.v_scale[scale == IFA_SCALE_CHANNEL ? i : 0];
      if (scale == IFA_SCALE_TOKEN || scale == IFA_SCALE_TOKEN_CHANNEL) {
        /* 0.3 becomes an 8-bit weight: off by up to 1/255 or so */
        expected *= scale == IFA_SCALE_TOKEN_CHANNEL ? 0.7f : 1.0f;
        assert_true(fabsf(((float *)r.o)[i] - expected) <= 0.008f * fabsf(expected));
      } else {
        assert_memory_equal((float *)r.o + i, &expected, 4);
      }
    }
    /* the weight, 128 or more, is off by 0.66 at most */
    assert_true(fabsf(r.lse[0] - 5 * 3 * -5 * 0.125f) < 0.006f);
    result_free(&r);
    data_free(&d);
  }
}

/* Equal scores: the mean of v, whatever the weight. 0.25 is exact and so are the sums. */
static void check_equal_scores(const char *backend) {
  ifa_problem p = small(2, 7, 3);
  data d = data_new(p);
  const int8_t v[21] = {1,   -128, 127,  2,    -128, 127,  3,   -128, -127, 4,   -128,
                        127, 5,    -128, -127, 6,    -128, 127, 8,    -128, -126};
  memcpy(d.v, v, 21);
  memset(d.q, 9, 6);
  memset(d.k, 11, 21);
  for (int i = 0; i < 3; i++) d.v_scale[i] = 0.25f;
  result r = run(backend, &d, 0);
  const float expected[3] = {29.0f / 7.0f * 0.25f, -32.0f, 128.0f / 7.0f * 0.25f};
  assert_memory_equal(r.o, expected, 12);
  assert_memory_equal((float *)r.o + 3, expected, 12);
  assert_true(fabs((double)r.lse[0] - (3 * 9 * 11 * 0.125 + log(7))) < 0.006);
  result_free(&r);
  data_free(&d);
}

/* sm_scale 0, or a scale of 0: every score is 0. Where u is not negative the unit is 1 and n =
 * 29696, whose weight stands for 1/2; where it is, the unit is 0 and the weight 255. */
static void check_zero_scores_of(const char *backend, int8_t k) {
  ifa_problem p = small(1, 40, 4);
  p.kv_tile = 32, p.sm_scale = 0.0f, p.out_type = IFA_F16;
  data d = data_new(p);
  memset(d.q, 100, 4);
  memset(d.k, k, 160);
  for (int j = 0; j < 160; j++) ((int8_t *)d.v)[j] = (int8_t)(j % 4 == 0 ? j / 4 : j % 4);
  result r = run(backend, &d, 1);
  uint8_t weight = r.stages.p[0];
  int32_t unit = k < 0 ? 0 : 1;
  assert_true(k < 0 ? weight == 255 : weight == 127 || weight == 128);
  for (int j = 0; j < 40; j++) assert_int_equal(r.stages.p[j], weight);
  for (int j = 0; j < 40; j++) assert_int_equal(r.stages.s[j], 400 * k);
  assert_true(r.stages.unit[0] == unit && r.stages.unit[1] == unit &&
              r.stages.value_unit[0] == IFA_NO_UNIT);
  assert_int_equal(r.stages.l[0], 40 * weight);
  assert_int_equal(r.stages.acc[0], 780 * weight);
  assert_int_equal(r.stages.acc[3], 120 * weight);
  assert_memory_equal(r.o, ((uint16_t[]){0x4ce0, 0x3c00, 0x4000, 0x4200}), 8); /* 19.5, 1, 2, 3 */
  assert_true(fabs((double)r.lse[0] - log(40.0 * weight / (k < 0 ? 255 : 127.5))) < 2e-6);
  result_free(&r);
  data_free(&d);
}

static void check_zero_scores(const char *backend) {
  static const int8_t keys[] = {-100, 0, 100};
  for (size_t i = 0; i < sizeof keys; i++) check_zero_scores_of(backend, keys[i]);
}

/* Two keys, one of them 30 octaves and more below: it has weight 0. */
static void check_far_key(const char *backend) {
  ifa_problem p = small(1, 2, 1);
  p.sm_scale = 1.0f;
  data d = data_new(p);
  ((int8_t *)d.q)[0] = 100;
  ((int8_t *)d.k)[0] = 10, ((int8_t *)d.k)[1] = -10; /* 1000 and -1000 nats */
  ((int8_t *)d.v)[0] = 77, ((int8_t *)d.v)[1] = -128;
  result r = run(backend, &d, 1);
  assert_true(*(float *)r.o == 77.0f);
  assert_int_equal(r.stages.p[1], 0);
  assert_int_equal(r.stages.unit[0], 1443); /* 1000 * log2(e) = 1442.695 */
  assert_true(fabs((double)r.lse[0] - 1000.0) < 0.006);
  result_free(&r);
  data_free(&d);
}

/* No keys at all: +0 and -inf, in every output type. */
static void check_no_keys(const char *backend) {
  for (int type = IFA_F32; type <= IFA_BF16; type++) {
    ifa_problem p = small(3, 0, 4);
    p.out_type = (ifa_type)type;
    data d = data_new(p);
    d.in.k = d.in.v = NULL;
    result r = run(backend, &d, 1);
    for (size_t i = 0; i < r.o_bytes; i++) assert_int_equal(((uint8_t *)r.o)[i], 0);
    for (int i = 0; i < 3; i++) assert_true(isinf(r.lse[i]) && r.lse[i] < 0);
    result_free(&r);
    data_free(&d);
  }
  ifa_problem p = small(0, 5, 4); /* no rows: nothing to write, and nothing needed */
  ifa_outputs out = {0};
  float scale[20] = {1, 1, 1, 1, 1};
  int8_t kv[20] = {0};
  ifa_inputs in = {.k = kv, .v = kv, .k_scale = scale, .v_scale = scale};
  ifa_message why = {"left over"};
  expect_ok(ifa_run(backend, &p, &in, &out, &why), &why);
}

/* Rows that see nothing among rows that do: causal with nq > nk. Row i sees keys 0 .. i - 3. */
static void check_masked_rows(const char *backend) {
  ifa_problem p = small(5, 2, 2);
  p.causal = 1;
  data d = data_new(p);
  memcpy(d.v, ((int8_t[]){10, -20, 30, 41}), 4);
  result r = run(backend, &d, 1);
  const float *o = r.o;
  for (int i = 0; i < 6; i++) assert_true(o[i] == 0.0f && !signbit(o[i]));
  for (int i = 0; i < 3; i++) {
    assert_true(isinf(r.lse[i]) && r.lse[i] < 0);
    assert_true(r.stages.unit[i] == IFA_NO_UNIT && r.stages.l[i] == 0 && r.stages.p[2 * i] == 0 &&
                r.stages.p[2 * i + 1] == 0);
  }
  assert_true(o[6] == 10.0f && o[7] == -20.0f && o[8] == 20.0f && o[9] == 10.5f);
  assert_true(r.stages.p[6] >= 127 && r.stages.p[7] == 0 && r.stages.p[9] >= 127);
  result_free(&r);
  data_free(&d);
}

/* A window of 2 sees j = i - 1, i, i + 1; with causal i - 1, i. */
static void check_windows(const char *backend) {
  for (int causal = 0; causal < 2; causal++) {
    ifa_problem p = small(4, 4, 1);
    p.window = 2, p.causal = causal;
    data d = data_new(p);
    memcpy(d.v, ((int8_t[]){4, 8, 16, 32}), 4);
    result r = run(backend, &d, 0);
    const float both[4] = {6.0f, 28.0f / 3.0f, 56.0f / 3.0f, 24.0f},
                left[4] = {4.0f, 6.0f, 12.0f, 24.0f};
    assert_memory_equal(r.o, causal ? left : both, 16);
    result_free(&r);
    data_free(&d);
  }
}

/* Query heads 0, 1 read key/value head 0, heads 2, 3 read 1; K and V shared by a head stride of 0
 * gives all heads the same. */
static void check_head_groups(const char *backend) {
  ifa_problem p = small(1, 1, 2);
  p.q_heads = 4, p.kv_heads = 2;
  data d = data_new(p);
  memcpy(d.v, ((int8_t[]){1, 2, 3, 4}), 4);
  result r = run(backend, &d, 0);
  assert_memory_equal(r.o, ((float[]){1, 2, 1, 2, 3, 4, 3, 4}), 32);
  result_free(&r);
  d.p.v_stride = (ifa_strides){2, 0, 2};
  r = run(backend, &d, 0);
  assert_memory_equal(r.o, ((float[]){1, 2, 1, 2, 1, 2, 1, 2}), 32);
  result_free(&r);
  data_free(&d);
}

static void test_one_key(void **state) {
  (void)state;
  assert_true(for_backends(check_one_key) >= 3 + have_openmp());
}
static void test_equal_scores(void **state) {
  (void)state;
  assert_true(for_backends(check_equal_scores) >= 3 + have_openmp());
}
static void test_zero_scores(void **state) {
  (void)state;
  assert_true(for_backends(check_zero_scores) >= 3 + have_openmp());
}
static void test_far_key(void **state) {
  (void)state;
  assert_true(for_backends(check_far_key) >= 3 + have_openmp());
}
static void test_no_keys(void **state) {
  (void)state;
  assert_true(for_backends(check_no_keys) >= 3 + have_openmp());
}
static void test_masked_rows(void **state) {
  (void)state;
  assert_true(for_backends(check_masked_rows) >= 3 + have_openmp());
}
static void test_windows(void **state) {
  (void)state;
  assert_true(for_backends(check_windows) >= 3 + have_openmp());
}
static void test_head_groups(void **state) {
  (void)state;
  assert_true(for_backends(check_head_groups) >= 3 + have_openmp());
}

/* ---- random problems ---- */

static ifa_strides random_strides(uint64_t stream, uint64_t i, ifa_type type, int64_t heads,
                                  int64_t tokens, int64_t dim, int written) {
  uint32_t choice = below(stream, i, written ? 3 : 4);
  int64_t row = (dim + 3) / 2 * 2 + 2 * below(stream + 1, i, 5);
  if (choice == 1) return ifa_strides_bnhd(type, heads, tokens, dim);
  if (choice == 2) return (ifa_strides){row * tokens * heads + 6, row * tokens, row};
  if (choice == 3) return (ifa_strides){row * tokens, 0, row}; /* all heads share one matrix */
  return (ifa_strides){0, 0, 0};
}

static ifa_problem random_problem(uint64_t i) {
  static const int32_t taus[] = {0, 1, 2, 8, 64, IFA_TAU_INF};
  static const ifa_granularity v_scales[] = {IFA_SCALE_TENSOR, IFA_SCALE_CHANNEL, IFA_SCALE_TOKEN,
                                             IFA_SCALE_TOKEN_CHANNEL};
  ifa_problem p = ifa_problem_default();
  p.batch = 1 + below(0, i, 2);
  p.kv_heads = 1 + below(1, i, 3);
  p.q_heads = p.kv_heads * (1 + below(2, i, 3));
  p.nq = below(3, i, 8) ? 1 + below(4, i, 12) : below(4, i, 80);
  p.nk = below(5, i, 4) ? 1 + below(6, i, 300) : below(6, i, 1200);
  p.head_dim = (int32_t)(1 + below(7, i, below(8, i, 5) ? 40 : 256));
  p.q_type = below(9, i, 3) ? IFA_I8 : IFA_I4, p.k_type = below(10, i, 3) ? IFA_I8 : IFA_I4,
  p.v_type = below(11, i, 3) ? IFA_I8 : IFA_I4;
  p.q_scale = (ifa_granularity)below(12, i, 3), p.k_scale = (ifa_granularity)below(13, i, 3),
  p.v_scale = v_scales[below(14, i, 4)];
  p.kv_tile = 32 << below(15, i, 4);
  p.q_block = (int32_t)(1 + below(16, i, 20));
  p.k_block = p.kv_tile * (int32_t)(1 + below(17, i, 3));
  p.kv_split = p.kv_tile * below(18, i, 4);
  p.sm_scale = below(19, i, 12) ? 0.01f + ifa_random_uniform(SEED, 20, i) : 0.0f;
  p.causal = (int32_t)below(21, i, 2);
  p.window = below(22, i, 2) ? 0 : 1 + below(23, i, 200);
  p.tau = taus[below(24, i, 6)];
  p.out_type = (ifa_type)below(25, i, 3);
  p.lse = (int32_t)below(26, i, 2);
  p.q_stride = random_strides(27, i, p.q_type, p.q_heads, p.nq, p.head_dim, 0);
  p.k_stride = random_strides(29, i, p.k_type, p.kv_heads, p.nk, p.head_dim, 0);
  p.v_stride = random_strides(31, i, p.v_type, p.kv_heads, p.nk, p.head_dim, 0);
  p.o_stride = random_strides(33, i, p.out_type, p.q_heads, p.nq, p.head_dim, 1);
  return p;
}

/* About a third of the rows; NULL if there are none. */
static int64_t *random_rows(const ifa_problem *p, uint64_t i, int64_t *count) {
  int64_t total = p->batch * p->q_heads * p->nq,
          *rows = filled((size_t)(total + 1) * sizeof *rows, 0);
  *count = 0;
  for (int64_t r = 0; r < total; r++)
    if (ifa_random_below(SEED + i, 50, (uint64_t)r, 3) == 0) rows[(*count)++] = r;
  return rows;
}

/* The bytes of the output that belong to row `number` begin here. */
static size_t row_begin(const ifa_problem *p, int64_t number) {
  int64_t matrix = number / p->nq;
  return (size_t)ifa_offset(p->o_stride, matrix / p->q_heads, matrix % p->q_heads, number % p->nq) *
         ifa_type_bytes(p->out_type);
}

/* The chosen rows are those of the whole run, and nothing else is written. */
static void check_subset(const data *d, const result *whole, const result *part) {
  ifa_problem p = ifa_problem_resolved(&d->p);
  uint8_t *expected = filled(whole->o_bytes, UNWRITTEN);
  float *lse = filled(whole->lse_count * sizeof(float), UNWRITTEN);
  for (int64_t i = 0; i < d->in.row_count; i++) {
    size_t begin = row_begin(&p, d->in.rows[i]),
           bytes = (size_t)p.head_dim * ifa_type_bytes(p.out_type);
    memcpy(expected + begin, (const uint8_t *)whole->o + begin, bytes);
    if (p.lse) lse[d->in.rows[i]] = whole->lse[d->in.rows[i]];
    for (int s = 0; s < 7; s++) {
      ifa_stages x = whole->stages, y = part->stages;
      size_t each = whole->stage_bytes[s] / (size_t)(p.batch * p.q_heads * p.nq);
      assert_memory_equal((uint8_t *)*stage_at(&y, s) + (size_t)i * each,
                          (uint8_t *)*stage_at(&x, s) + (size_t)d->in.rows[i] * each, each);
    }
  }
  assert_memory_equal(part->o, expected, whole->o_bytes);
  if (p.lse) assert_memory_equal(part->lse, lse, whole->lse_count * sizeof(float));
  free(expected);
  free(lse);
}

static void test_random_problems(void **state) {
  (void)state;
  const char *other = have_openmp() ? "openmp" : "scalar";
  for (uint64_t i = 0; i < 400; i++) {
    data d = data_new(random_problem(i));
    data_fill(&d, i);
    result scalar = run("scalar", &d, 1), openmp = run(other, &d, 1), plain = run(other, &d, 0);
    expect_same(&scalar, &openmp, 1, &d);
    expect_same(&scalar, &plain, 0, &d);
    int64_t count, *rows = random_rows(&d.p, i, &count);
    d.in.rows = rows, d.in.row_count = count;
    result part = run("scalar", &d, 1), other_part = run(other, &d, 1);
    check_subset(&d, &scalar, &part);
    check_subset(&d, &scalar, &other_part);
    result_free(&scalar), result_free(&openmp), result_free(&plain), result_free(&part),
        result_free(&other_part);
    free(rows);
    data_free(&d);
  }
}

/* ---- a scale of -0 is a scale of 0 ---- */

/* Turns every 0 among the scales, and sm_scale if it is one, into -0. Says how many there were. */
static int turn_zeros(data *d) {
  const ifa_problem *p = &d->p;
  struct {
    float *scales;
    int64_t count;
  } all[] = {
      {d->q_scale,
       ifa_scale_count(p->q_scale, p->batch, p->q_heads, p->nq, p->head_dim, p->q_block)},
      {d->k_scale,
       ifa_scale_count(p->k_scale, p->batch, p->kv_heads, p->nk, p->head_dim, p->k_block)},
      {d->v_scale, ifa_scale_count(p->v_scale, p->batch, p->kv_heads, p->nk, p->head_dim, 0)},
      {d->v_channel_scale, p->batch * p->kv_heads * p->head_dim},
      {&d->p.sm_scale, 1}};
  int turned = 0;
  for (int i = 0; i < 5; i++)
    for (int64_t j = 0; j < all[i].count; j++)
      if (all[i].scales[j] == 0.0f) all[i].scales[j] = -0.0f, turned++;
  return turned;
}

/* Outputs are equal, and if V has no factor per tensor or channel, their bits too: such a factor
 * decides the sign of a zero, as in every product. */
static void expect_equal_outputs(const data *d, const result *a, const result *b) {
  ifa_problem p = ifa_problem_resolved(&d->p);
  if (p.v_scale == IFA_SCALE_TOKEN) assert_memory_equal(a->o, b->o, a->o_bytes);
  for (int64_t i = 0; i < rows_of(d); i++) {
    size_t begin = row_begin(&p, i) / ifa_type_bytes(p.out_type);
    for (int32_t j = 0; j < p.head_dim; j++)
      assert_true(ifa_float_get(p.out_type, a->o, (int64_t)begin + j) ==
                  ifa_float_get(p.out_type, b->o, (int64_t)begin + j));
  }
  if (p.lse) assert_memory_equal(a->lse, b->lse, a->lse_count * sizeof(float));
  for (int s = 0; s < 7; s++) {
    ifa_stages x = a->stages, y = b->stages;
    assert_memory_equal(*stage_at(&x, s), *stage_at(&y, s), a->stage_bytes[s]);
  }
}

static void test_minus_zero(void **state) {
  (void)state;
  static const char *const others[] = {"openmp",      "cpu-portable",     "cpu-avx2",
                                       "cpu-avxvnni", "cpu-avx512vnni",   "cpu-avx512fp16",
                                       "cpu-amx",     "cpu-neon-dotprod", "cpu-neon-i8mm"};
  int turned = 0;
  for (uint64_t i = 0; i < 60; i++) {
    data d = data_new(random_problem(i));
    data_fill(&d, i);
    result plus = run("scalar", &d, 1);
    turned += turn_zeros(&d) > 0;
    result minus = run("scalar", &d, 1);
    expect_equal_outputs(&d, &plus, &minus);
    for (size_t b = 0; b < sizeof others / sizeof others[0]; b++) {
      if (ifa_backend_supports(others[b], &d.p, NULL) != IFA_OK) continue;
      result other = run(others[b], &d, 0);
      expect_same(&minus, &other, 0, &d);
      result_free(&other);
    }
    result_free(&plus), result_free(&minus);
    data_free(&d);
  }
  assert_true(turned > 40);
}

/* Three keys, the first token's scale 0: the second's y decides U'. */
static void test_minus_zero_by_hand(void **state) {
  (void)state;
  ifa_problem p = ifa_problem_default();
  p.nk = 3, p.head_dim = 1, p.v_scale = IFA_SCALE_TOKEN, p.kv_tile = 32, p.sm_scale = 1.0f;
  static const int8_t k[] = {1, 1, 0}, v[] = {50, 100, -77};
  for (int minus = 0; minus < 2; minus++) {
    data d = data_new(p);
    memcpy(d.k, k, sizeof k), memcpy(d.v, v, sizeof v);
    *(int8_t *)d.q = 1;
    d.v_scale[0] = minus ? -0.0f : 0.0f, d.v_scale[2] = 0.3f;
    result r = run("scalar", &d, 1);
    uint32_t bits;
    memcpy(&bits, r.o, sizeof bits);
    assert_int_equal(bits, 0x421a81e0);
    result_free(&r);
    data_free(&d);
  }
}

static void test_not_available(void **state) {
  (void)state;
  ifa_message why = {""};
#ifdef _OPENMP
  assert_int_equal(ifa_backend_supports("openmp", NULL, &why), IFA_OK);
#else
  ifa_problem p = ifa_problem_default();
  assert_int_equal(ifa_backend_supports("openmp", NULL, &why), IFA_NOT_AVAILABLE);
  assert_non_null(strstr(why.text, "OpenMP"));
  assert_int_equal(ifa_backend_supports("openmp", &p, &why), IFA_NOT_AVAILABLE);
  data d = data_new(p);
  float o[64] = {5};
  assert_int_equal(ifa_run("openmp", &p, &d.in, &(ifa_outputs){.o = o}, &why), IFA_NOT_AVAILABLE);
  assert_true(o[0] == 5);
  data_free(&d);
#endif
  assert_int_equal(ifa_backend_supports("scalar", NULL, &why), IFA_OK);
}

/* ---- independence ---- */

static void test_threads_and_schedules(void **state) {
  (void)state;
#ifdef _OPENMP
  static const int threads[] = {1, 2, 3, 5, 16};
  static const struct {
    omp_sched_t kind;
    int chunk;
  } schedules[] = {{omp_sched_static, 1}, {omp_sched_dynamic, 3}, {omp_sched_guided, 1}};
  int before = omp_get_max_threads();
  for (uint64_t i = 1000; i < 1006; i++) {
    ifa_problem p = random_problem(i);
    p.batch = 2, p.nq = 70; /* several tasks a matrix */
    p.q_stride = p.o_stride = (ifa_strides){0, 0, 0};
    data d = data_new(p);
    data_fill(&d, i);
    result scalar = run("scalar", &d, 1);
    for (int t = 0; t < 5; t++)
      for (int s = 0; s < 3; s++) {
        omp_set_num_threads(threads[t]);
        omp_set_schedule(schedules[s].kind, schedules[s].chunk);
        result r = run("openmp", &d, 1);
        expect_same(&scalar, &r, 1, &d);
        result_free(&r);
      }
    omp_set_num_threads(before);
    result_free(&scalar);
    data_free(&d);
  }
#else
  skip();
#endif
}

/* The matrix (q, k, v) of one head with its scales, as head `h` of batch `b` of a larger problem.
 */
static void place(data *to, int64_t b, int64_t h, const data *one) {
  const ifa_problem *p = &to->p;
  int64_t q_bytes = p->nq * p->head_dim, kv_bytes = p->nk * p->head_dim, head = b * p->q_heads + h;
  memcpy((int8_t *)to->q + head * q_bytes, one->q, (size_t)q_bytes);
  memcpy((int8_t *)to->k + head * kv_bytes, one->k, (size_t)kv_bytes);
  memcpy((int8_t *)to->v + head * kv_bytes, one->v, (size_t)kv_bytes);
  memcpy(to->q_scale + head * p->nq, one->q_scale, (size_t)p->nq * 4);
  memcpy(to->k_scale + head * p->nk, one->k_scale, (size_t)p->nk * 4);
  int64_t v_scales = ifa_scale_count(p->v_scale, 1, 1, p->nk, p->head_dim, 0);
  memcpy(to->v_scale + head * v_scales, one->v_scale, (size_t)v_scales * 4);
}

static void check_place(const char *backend) {
  for (uint64_t i = 0; i < 6; i++) {
    ifa_problem p = small(37, 150, 24);
    p.v_scale = i % 2 ? IFA_SCALE_TOKEN : IFA_SCALE_CHANNEL;
    p.causal = i / 2 % 2, p.kv_split = i == 5 ? 64 : 0;
    data one = data_new(p);
    data_fill(&one, 2000 + i);
    result alone = run(backend, &one, 0);
    p.batch = 1 + (int64_t)i % 3, p.q_heads = p.kv_heads = 1 + (int64_t)i;
    data many = data_new(p);
    data_fill(&many, 3000 + i);
    for (int64_t head = 0; head < p.batch * p.q_heads; head += 2)
      place(&many, head / p.q_heads, head % p.q_heads, &one);
    result r = run(backend, &many, 0);
    for (int64_t head = 0; head < p.batch * p.q_heads; head += 2) {
      assert_memory_equal((uint8_t *)r.o + (size_t)head * alone.o_bytes, alone.o, alone.o_bytes);
      assert_memory_equal(r.lse + head * 37, alone.lse, 37 * sizeof(float));
    }
    if (p.batch * p.q_heads > 1)
      assert_memory_not_equal((uint8_t *)r.o + alone.o_bytes, alone.o, alone.o_bytes);
    result_free(&alone), result_free(&r);
    data_free(&one), data_free(&many);
  }
}

static void test_place_in_the_batch(void **state) {
  (void)state;
  assert_true(for_backends(check_place) >= 3 + have_openmp());
}

/* A problem whose sums and output pass through subnormals: scales of 2^-70 by token and by channel.
 */
static data subnormal_data(void) {
  ifa_problem p = small(9, 200, 16);
  p.v_scale = IFA_SCALE_TOKEN_CHANNEL;
  p.kv_split = 64;
  data d = data_new(p);
  data_fill(&d, 4000);
  for (int j = 0; j < 200; j++) d.v_scale[j] = 0x1p-70f * (1.0f + (float)j / 200);
  for (int c = 0; c < 16; c++) d.v_channel_scale[c] = 0x1.4p-70f;
  return d;
}

static int count_subnormals(const float *x, int count) {
  int found = 0;
  for (int i = 0; i < count; i++) found += fpclassify(x[i]) == FP_SUBNORMAL;
  return found;
}

static void check_environment(const char *backend) {
  static const int modes[] = {FE_TONEAREST, FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO};
  for (int kind = 0; kind < 3; kind++) {
    data d = kind == 0 ? subnormal_data() : data_new(random_problem(5000 + (uint64_t)kind));
    if (kind) data_fill(&d, 5000 + (uint64_t)kind);
    result expected = run(backend, &d, 1);
    if (kind == 0) assert_true(count_subnormals(expected.o, 9 * 16) > 50);
    for (int m = 0; m < 4; m++) {
      result r = result_new(&d.p, rows_of(&d));
      ifa_outputs out = {.o = r.o, .lse = r.lse, .stages = &r.stages};
      ifa_message why;
      fesetround(modes[m]);
#if defined(__SSE2__)
      unsigned before = _mm_getcsr() | 0x8040u; /* flush to zero, denormals are zero */
      _mm_setcsr(before);
#endif
      ifa_status status = ifa_run(backend, &d.p, &d.in, &out, &why);
      int mode = fegetround();
#if defined(__SSE2__)
      unsigned after = _mm_getcsr();
      _mm_setcsr(before & ~0x8040u);
#endif
      fesetround(FE_TONEAREST);
      expect_ok(status, &why);
      assert_int_equal(mode, modes[m]);
#if defined(__SSE2__)
      assert_int_equal(after & 0xffc0u, before & 0xffc0u);
#endif
      expect_same(&expected, &r, 1, &d);
      result_free(&r);
    }
    result_free(&expected);
    data_free(&d);
  }
}

static void test_environment(void **state) {
  (void)state;
  assert_true(for_backends(check_environment) >= 3 + have_openmp());
}

/* A library elsewhere has set flush-to-zero in the threads that OpenMP will use. */
static void test_environment_of_threads(void **state) {
  (void)state;
#if defined(_OPENMP) && defined(__SSE2__)
  data d = subnormal_data();
  result expected = run("scalar", &d, 0);
  int kept = 0, threads = 0;
  omp_set_num_threads(4);
  /* some runtimes give each region the environment of the thread that enters it, */
  _mm_setcsr(_mm_getcsr() | 0x8040u);
#pragma omp parallel
  _mm_setcsr(_mm_getcsr() | 0x8040u); /* others leave each thread its own */
  result r = result_new(&d.p, rows_of(&d));
  ifa_outputs out = {.o = r.o, .lse = r.lse};
  ifa_message why;
  ifa_status status = ifa_run("openmp", &d.p, &d.in, &out, &why);
#pragma omp parallel reduction(+ : kept, threads)
  {
    threads++;
    kept += (_mm_getcsr() & 0x8040u) == 0x8040u;
    _mm_setcsr(_mm_getcsr() & ~0x8040u);
  }
  _mm_setcsr(_mm_getcsr() & ~0x8040u);
  expect_ok(status, &why);
  assert_int_equal(kept, threads);
  expect_same(&expected, &r, 0, &d);
  result_free(&expected), result_free(&r);
  data_free(&d);
#else
  skip();
#endif
}

/* ---- the integer sums, replayed in 64 bits ---- */

static int64_t moved(int64_t x, int64_t up) {
  if (x == 0) return 0;
  assert_true(up > -32);
  if (up < 0) return x * ((int64_t)1 << -up);
  int64_t divisor = (int64_t)1 << (up > 40 ? 40 : up);
  return x / divisor - (x % divisor < 0);
}

/* From the stages' scores no further: units, p and P are taken as they are; l and acc must be their
 * sums, and no sum may pass 31 bits. */
static void replay_row(const data *d, const result *r, int64_t row, const int8_t *v) {
  ifa_problem p = ifa_problem_resolved(&d->p);
  int per_token = p.v_scale == IFA_SCALE_TOKEN || p.v_scale == IFA_SCALE_TOKEN_CHANNEL;
  int64_t tiles = ifa_ceil_div(p.nk, p.kv_tile), splits = ifa_ceil_div(p.nk, p.kv_split), l = 0,
          acc[256] = {0};
  int32_t unit = IFA_NO_UNIT, value_unit = IFA_NO_UNIT;
  for (int64_t t = 0; t < tiles; t++) {
    int64_t start = t * p.kv_tile, end = ifa_min64(start + p.kv_tile, p.nk);
    int32_t u = r->stages.unit[row * tiles + t],
            w = per_token ? r->stages.value_unit[row * tiles + t] : u;
    if (start % p.kv_split == 0) l = 0, memset(acc, 0, sizeof acc), unit = value_unit = IFA_NO_UNIT;
    if (unit != IFA_NO_UNIT) l = moved(l, (int64_t)u - unit);
    for (int c = 0; value_unit != IFA_NO_UNIT && c < p.head_dim; c++)
      acc[c] = moved(acc[c], (int64_t)w - value_unit);
    unit = u, value_unit = w;
    for (int64_t j = start; j < end; j++) {
      l += r->stages.p[row * p.nk + j];
      for (int c = 0; c < p.head_dim; c++)
        acc[c] += r->stages.value_p[row * p.nk + j] * (int64_t)v[j * p.head_dim + c];
      if (!per_token)
        assert_int_equal(r->stages.p[row * p.nk + j], r->stages.value_p[row * p.nk + j]);
    }
    assert_true(l <= INT32_MAX);
    for (int c = 0; c < p.head_dim; c++) assert_true(acc[c] <= INT32_MAX && acc[c] >= -INT32_MAX);
    if (end % p.kv_split != 0 && end != p.nk) continue;
    int64_t split = start / p.kv_split;
    assert_int_equal(r->stages.l[row * splits + split], l);
    for (int c = 0; c < p.head_dim; c++)
      assert_int_equal(r->stages.acc[(row * splits + split) * p.head_dim + c], acc[c]);
  }
}

/* 70001 keys with weight 255 and value -128, the largest products there are: -128 * 255 * 32768 in
 * a split. */
static void check_largest_sums(const char *backend) {
  float scale = 0x1p-12f / 1.44269504f;
  ifa_problem p = small(1, 70001, 4);
  p.sm_scale = 1.0f, p.k_scale = p.v_scale = IFA_SCALE_TENSOR, p.kv_tile = 256;
  data d = data_new(p);
  memcpy(d.q, ((int8_t[]){127, 127, 1, 0}), 4);
  /* 4095 quarter steps: just below the unit */
  for (int64_t j = 0; j < p.nk; j++) memcpy((int8_t *)d.k + 4 * j, ((int8_t[]){32, 0, 31, 0}), 4);
  memset(d.v, -128, 4 * 70001);
  d.q_scale[0] = scale;
  for (int tau = 0; tau < 3; tau++) {
    d.p.tau = (int32_t[]){0, 2, IFA_TAU_INF}[tau];
    result r = run(backend, &d, 1);
    const int64_t keys[3] = {32768, 32768, 70001 - 65536};
    for (int s = 0; s < 3; s++) {
      assert_int_equal(r.stages.l[s], 255 * keys[s]);
      for (int c = 0; c < 4; c++) assert_int_equal(r.stages.acc[4 * s + c], -128 * 255 * keys[s]);
    }
    replay_row(&d, &r, 0, d.v);
    for (int c = 0; c < 4; c++) assert_true(((float *)r.o)[c] == -128.0f);
    assert_true(fabs((double)r.lse[0] - log(70001.0) - 4095.0 / 4096 * log(2)) < 1e-3);
    result_free(&r);
  }
  data_free(&d);
}

/* Extreme operands, scores that rise and fall over many octaves, over 65,536 keys. */
static void check_extreme_sums(const char *backend) {
  static const int32_t taus[] = {0, 2, 64, IFA_TAU_INF};
  for (int i = 0; i < 8; i++) {
    ifa_problem p = small(1, 66000, 3);
    p.tau = taus[i % 4], p.kv_tile = 64, p.v_scale = i < 4 ? IFA_SCALE_CHANNEL : IFA_SCALE_TOKEN;
    data d = data_new(p);
    for (int64_t j = 0; j < p.nk; j++) {
      uint64_t bits = ifa_random_bits(SEED, 70 + (uint64_t)i, (uint64_t)j),
               tile = ifa_random_bits(SEED, 90 + (uint64_t)i, (uint64_t)(j / 64));
      for (int c = 0; c < 3; c++) {
        ((int8_t *)d.k)[3 * j + c] = (int8_t)(bits >> c & 1 ? -128 : 127);
        ((int8_t *)d.v)[3 * j + c] = (int8_t)(bits >> (8 + c) % 20 & 3 ? -128 : 127);
      }
      d.k_scale[j] = ldexpf(1.0f, -(int)(tile % 12)); /* tiles reach from 2 octaves to thousands */
      d.v_scale[j] = p.v_scale == IFA_SCALE_TOKEN ? ldexpf(1.0f, (int)(tile >> 20) % 30) : 1.0f;
    }
    memset(d.q, -128, 3);
    d.q_scale[0] = 0.01f;
    result r = run(backend, &d, 1);
    replay_row(&d, &r, 0, d.v);
    result_free(&r);
    data_free(&d);
  }
}

/* V per token, and nothing but zeros so far: the value unit may fall any number of octaves. */
static void check_fall_of_nothing(const char *backend) {
  ifa_problem p = small(1, 96, 4);
  p.kv_tile = 32, p.v_scale = IFA_SCALE_TOKEN, p.tau = 0;
  data d = data_new(p);
  for (int j = 0; j < 96; j++) {
    d.v_scale[j] = j < 32 ? 0x1p90f : j < 64 ? 1.0f : 0x1p-90f;
    memset((int8_t *)d.v + 4 * j, j < 64 ? 0 : 100, 4);
  }
  result r = run(backend, &d, 1);
  assert_true(r.stages.value_unit[0] - r.stages.value_unit[1] == 90 &&
              r.stages.value_unit[1] - r.stages.value_unit[2] == 90);
  replay_row(&d, &r, 0, d.v);
  /* 100/3 * 2^-90 */
  for (int c = 0; c < 4; c++)
    assert_true(((float *)r.o)[c] > 0x1p-85f && ((float *)r.o)[c] < 0x1p-84f);
  result_free(&r);
  data_free(&d);
}

/* Largest k with m * 2^k <= 2^31 - 1 - growth. */
static int32_t headroom(int64_t m, int64_t growth) {
  int32_t k = 0;
  while (m * ((int64_t)2 << k) <= INT32_MAX - growth) k++;
  return k;
}

/* The fall of the unit after a first tile of 32 keys, in a split with room for `rest` keys more, of
 * which 40 come, 25 octaves below: as far as the headroom allows. */
static void check_fall(const char *backend, ifa_granularity v_scale, int64_t rest, int64_t *m) {
  ifa_problem p = small(1, 32 + (rest < 40 ? rest : 40), 1);
  p.kv_tile = 32, p.kv_split = 32 + rest, p.tau = 1, p.v_scale = v_scale, p.sm_scale = 1.0f;
  data d = data_new(p);
  ((int8_t *)d.q)[0] = 100;
  d.q_scale[0] = 0.00175f;
  for (int64_t j = 0; j < p.nk; j++) {
    ((int8_t *)d.k)[j] = j < 32 ? 0 : -100; /* 17.5 nats */
    ((int8_t *)d.v)[j] = j < 32 ? 125 : -128;
    d.v_scale[j] = j < 32 ? 1.0f : 0.5f;
  }
  result r = run(backend, &d, 1);
  int per_token = v_scale == IFA_SCALE_TOKEN;
  int32_t *unit = r.stages.unit, *value_unit = r.stages.value_unit;
  int64_t l = 32 * (int64_t)r.stages.p[0];
  *m = 125 * 32 * (int64_t)r.stages.value_p[0];
  assert_int_equal(unit[0] - unit[1],
                   per_token ? headroom(l, 255 * rest) : headroom(*m, 32640 * rest));
  if (per_token) assert_int_equal(value_unit[0] - value_unit[1], headroom(*m, 32640 * rest));
  replay_row(&d, &r, 0, d.v);
  result_free(&r);
  data_free(&d);
}

/* Both sides of the headroom's edge: with `rest` keys to come the sums may take k octaves, with a
 * tile more they may not. */
static void check_headroom_edge(const char *backend) {
  for (int kind = 0; kind < 2; kind++)
    for (int k = 10, edges = 0; k < 15 || !edges; k++) {
      ifa_granularity v_scale = kind ? IFA_SCALE_TOKEN : IFA_SCALE_CHANNEL;
      int64_t m;
      check_fall(backend, v_scale, 32, &m);
      int64_t rest = (INT32_MAX - m * ((int64_t)1 << k)) / 32640 / 32 * 32;
      assert_true(k < 20);
      if (rest < 32 || rest > 32768 - 64) continue;
      assert_int_equal(headroom(m, 32640 * rest), k);
      assert_int_equal(headroom(m, 32640 * (rest + 32)), k - 1);
      check_fall(backend, v_scale, rest, &m);
      check_fall(backend, v_scale, rest + 32, &m);
      edges++;
    }
}

/* Row i of a causal prefill, and the same token decoded when it was the last: the same bits,
 * whatever follows. Value scales span what a binary16 cannot hold, scores rise and fall so that the
 * headroom binds. */
static void check_prefill_and_decode(const char *backend) {
  static const int64_t rows[] = {0, 31, 32, 33, 70, 127, 128, 149};
  for (int kind = 0; kind < 4; kind++) {
    ifa_problem p = small(150, 150, 5);
    p.kv_tile = 32, p.kv_split = kind & 1 ? 64 : 0, p.tau = kind & 1 ? 2 : 0, p.causal = 1,
    p.window = kind == 3 ? 40 : 0;
    p.v_scale = kind < 2 ? IFA_SCALE_TOKEN : IFA_SCALE_TOKEN_CHANNEL, p.lse = 1;
    data d = data_new(p);
    data_fill(&d, 900 + (uint64_t)kind);
    for (int64_t j = 0; j < p.nk; j++) {
      uint64_t bits = ifa_random_bits(SEED, 500 + (uint64_t)kind, (uint64_t)j);
      d.q_scale[j] = 0x1p-8f, d.k_scale[j] = ldexpf(0.25f, -(int)(bits % 8));
      d.v_scale[j] =
          ldexpf(1.0f + (float)(bits >> 8 & 1023) / 1024.0f, (int)(bits >> 20) % 40 - 20);
    }
    result all = run(backend, &d, 1);
    for (size_t n = 0; n < sizeof rows / sizeof rows[0]; n++) {
      data one = d;
      one.p.nq = 1, one.p.nk = rows[n] + 1;
      one.in.q = (int8_t *)d.q + rows[n] * p.head_dim;
      one.in.q_scale = d.q_scale + rows[n];
      result last = run(backend, &one, 1);
      assert_memory_equal(last.o, (float *)all.o + rows[n] * p.head_dim,
                          (size_t)p.head_dim * sizeof(float));
      assert_memory_equal(last.lse, all.lse + rows[n], sizeof(float));
      result_free(&last);
    }
    result_free(&all);
    data_free(&d);
  }
}

static void test_prefill_and_decode(void **state) {
  (void)state;
  assert_true(for_backends(check_prefill_and_decode) >= 3 + have_openmp());
}
static void test_headroom_edge(void **state) {
  (void)state;
  assert_true(for_backends(check_headroom_edge) >= 3 + have_openmp());
}
static void test_largest_sums(void **state) {
  (void)state;
  assert_true(for_backends(check_largest_sums) >= 3 + have_openmp());
}
static void test_extreme_sums(void **state) {
  (void)state;
  assert_true(for_backends(check_extreme_sums) >= 3 + have_openmp());
}
static void test_fall_of_nothing(void **state) {
  (void)state;
  assert_true(for_backends(check_fall_of_nothing) >= 3 + have_openmp());
}

/* ---- refusals ---- */

typedef struct call {
  ifa_problem p;
  ifa_inputs in;
  ifa_outputs out;
  float o[4 * 8], lse[4];
} call;

static const int8_t call_operand[64] = {1, 2, 3};
static const float call_scale[64] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
                                     1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};

/* Two heads, two rows, three keys, head_dim 8: a valid call. */
static void call_new(call *c) {
  *c = (call){.p = small(2, 3, 8)};
  c->p.q_heads = c->p.kv_heads = 2, c->p.v_scale = IFA_SCALE_TOKEN_CHANNEL;
  c->in = (ifa_inputs){.q = call_operand,
                       .k = call_operand,
                       .v = call_operand,
                       .q_scale = call_scale,
                       .k_scale = call_scale,
                       .v_scale = call_scale,
                       .v_channel_scale = call_scale};
  memset(c->o, UNWRITTEN, sizeof c->o);
  memset(c->lse, UNWRITTEN, sizeof c->lse);
  c->out = (ifa_outputs){.o = c->o, .lse = c->lse};
}

static void expect_refusal(call *c, ifa_status status, const char *first, const char *second) {
  for (int i = 0; i < ifa_backend_count(); i++) {
    const char *backend = ifa_backend_name(i);
    ifa_message why = {""};
    if (ifa_backend_supports(backend, NULL, NULL) != IFA_OK) continue;
    ifa_status got = ifa_run(backend, &c->p, &c->in, &c->out, &why);
    if (got != status)
      fail_msg("%s: %s (%s) where '%s' '%s' was expected", backend, ifa_status_name(got), why.text,
               first, second);
    if (!strstr(why.text, first) || !strstr(why.text, second))
      fail_msg("'%s' does not say '%s' and '%s'", why.text, first, second);
    assert_int_equal(ifa_run(backend, &c->p, &c->in, &c->out, NULL), status);
    for (size_t b = 0; b < sizeof c->o; b++) assert_int_equal(((uint8_t *)c->o)[b], UNWRITTEN);
    for (size_t b = 0; b < sizeof c->lse; b++) assert_int_equal(((uint8_t *)c->lse)[b], UNWRITTEN);
  }
}

static void test_null_pointers(void **state) {
  (void)state;
  call c;
  ifa_message why = {""};
  call_new(&c);
  expect_ok(ifa_run("scalar", &c.p, &c.in, &c.out, &why), &why); /* the call as it stands is good */
  static const struct {
    size_t offset;
    const char *name;
  } inputs[] = {{offsetof(ifa_inputs, q), "q is NULL"},
                {offsetof(ifa_inputs, k), "k is NULL"},
                {offsetof(ifa_inputs, v), "v is NULL"},
                {offsetof(ifa_inputs, q_scale), "q_scale is NULL"},
                {offsetof(ifa_inputs, k_scale), "k_scale is NULL"},
                {offsetof(ifa_inputs, v_scale), "v_scale is NULL"},
                {offsetof(ifa_inputs, v_channel_scale), "v_channel_scale is NULL"}};
  for (size_t i = 0; i < sizeof inputs / sizeof *inputs; i++) {
    call_new(&c);
    memset((char *)&c.in + inputs[i].offset, 0, sizeof(void *));
    expect_refusal(&c, IFA_BAD_ARGUMENT, inputs[i].name, "");
  }
  call_new(&c);
  c.out.o = NULL;
  expect_refusal(&c, IFA_BAD_ARGUMENT, "o is NULL", "");
  call_new(&c);
  c.out.lse = NULL;
  expect_refusal(&c, IFA_BAD_ARGUMENT, "lse is NULL", "");
  call_new(&c);
  c.p.lse = 0;
  expect_refusal(&c, IFA_BAD_ARGUMENT, "lse is given", "");
  call_new(&c);
  assert_int_equal(ifa_run("scalar", &c.p, NULL, &c.out, &why), IFA_BAD_ARGUMENT);
  assert_string_equal(why.text, "inputs is NULL");
  assert_int_equal(ifa_run("scalar", &c.p, &c.in, NULL, &why), IFA_BAD_ARGUMENT);
  assert_string_equal(why.text, "outputs is NULL");
  assert_int_equal(ifa_run("scalar", NULL, &c.in, &c.out, &why), IFA_BAD_ARGUMENT);
  assert_string_equal(why.text, "problem is NULL");
  assert_int_equal(ifa_run(NULL, &c.p, &c.in, &c.out, &why), IFA_BAD_ARGUMENT);
  assert_non_null(strstr(why.text, "backend is NULL"));
  assert_int_equal(ifa_run("cuda9", &c.p, &c.in, &c.out, &why), IFA_BAD_ARGUMENT);
  assert_non_null(strstr(why.text, "cuda9"));
  assert_int_equal(ifa_run("", &c.p, &c.in, &c.out, NULL), IFA_BAD_ARGUMENT);
  assert_int_equal(ifa_run("Scalar", &c.p, &c.in, &c.out, NULL), IFA_BAD_ARGUMENT);
}

static void test_bad_problem(void **state) {
  (void)state;
  call c;
  ifa_message why = {""};
  call_new(&c);
  c.p.head_dim = 0;
  expect_refusal(&c, IFA_BAD_PROBLEM, "head_dim", "0");
  assert_int_equal(ifa_backend_supports("scalar", &c.p, &why), IFA_BAD_PROBLEM);
  assert_non_null(strstr(why.text, "head_dim"));
  call_new(&c);
  c.p.kv_tile = 96;
  expect_refusal(&c, IFA_BAD_PROBLEM, "kv_tile", "96");
  call_new(&c);
  c.p.o_stride = (ifa_strides){32, 16, 7};
  expect_refusal(&c, IFA_BAD_PROBLEM, "o_stride", "overlap");
}

static void test_bad_rows(void **state) {
  (void)state;
  static const struct {
    int64_t rows[3], count;
    const char *first, *second;
  } bad[] = {{{0, 2, 1}, 3, "rows[2]", "1"},
             {{0, 0, 1}, 2, "rows[1]", "0"},
             {{0, 1, 4}, 3, "rows[2]", "4"},
             {{-1, 1, 2}, 3, "rows[0]", "-1"},
             {{0, INT64_MAX, 0}, 2, "rows[1]", "9223372036854775807"},
             {{0, 1, 2}, -1, "row_count", "-1"},
             {{0, 1, 2}, INT64_MIN, "row_count", "-9223372036854775808"}};
  call c;
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    call_new(&c);
    c.in.rows = bad[i].rows, c.in.row_count = bad[i].count;
    expect_refusal(&c, IFA_BAD_ARGUMENT, bad[i].first, bad[i].second);
  }
  call_new(&c);
  c.in.row_count = 1;
  expect_refusal(&c, IFA_BAD_ARGUMENT, "row_count is 1", "rows is NULL");
  c.in.row_count = -1;
  expect_refusal(&c, IFA_BAD_ARGUMENT, "row_count is -1", "");
  c.in.rows = (int64_t[]){0}, c.in.row_count = 0; /* no row at all is fine, and writes nothing */
  expect_refusal(&c, IFA_OK, "", "");
}

static void test_bad_scales(void **state) {
  (void)state;
  static const struct {
    float value;
    const char *text;
  } bad[] = {{-1.0f, "-1"},
             {NAN, "nan"},
             {INFINITY, "inf"},
             {-INFINITY, "-inf"},
             {0x1.fffffep-101f, "e-31"},
             {0x1p-140f, "e-43"},
             {0x1.000002p100f, "e+30"}};
  static const struct {
    size_t offset;
    const char *name;
    int count;
  } arrays[] = {{offsetof(ifa_inputs, q_scale), "q_scale", 4},
                {offsetof(ifa_inputs, k_scale), "k_scale", 6},
                {offsetof(ifa_inputs, v_scale), "v_scale", 6},
                {offsetof(ifa_inputs, v_channel_scale), "v_channel_scale", 16}};
  for (size_t a = 0; a < 4; a++)
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
      for (int at = 0; at <= arrays[a].count; at += arrays[a].count - 1) {
        call c;
        float scales[20];
        const float *pointer = scales;
        char name[40];
        call_new(&c);
        memcpy(scales, call_scale, sizeof scales);
        scales[at] = bad[i].value;
        memcpy((char *)&c.in + arrays[a].offset, &pointer, sizeof pointer);
        snprintf(name, sizeof name, "%s[%d] is ", arrays[a].name, at);
        expect_refusal(&c, IFA_BAD_DATA, name, bad[i].text);
        scales[at] = 0.0f; /* the end of its array was seen: what lies past it is not read */
        scales[arrays[a].count] = NAN;
        ifa_message why;
        expect_ok(ifa_run("scalar", &c.p, &c.in, &c.out, &why), &why);
      }
}

/* A subnormal scale is too small, also for a caller with denormals-are-zero. */
static void test_bad_scale_with_denormals_are_zero(void **state) {
  (void)state;
#if defined(__SSE2__)
  call c;
  float scales[4] = {0x1p-140f, 1, 1, 1};
  ifa_message why = {""};
  call_new(&c);
  c.in.q_scale = scales;
  unsigned before = _mm_getcsr();
  _mm_setcsr(before | 0x8040u);
  ifa_status status = ifa_run("scalar", &c.p, &c.in, &c.out, &why);
  unsigned after = _mm_getcsr();
  _mm_setcsr(before);
  assert_int_equal(status, IFA_BAD_DATA);
  /* restored after a failure too */
  assert_int_equal(after & 0xffc0u, (before | 0x8040u) & 0xffc0u);
#else
  skip();
#endif
}

/* The limit of 2^22 octaves, exactly: head_dim 8 * 128 * 128 = 2^17, times log2(e). */
static void test_score_range(void **state) {
  (void)state;
  call c;
  ifa_message why;
  float q[4] = {0, 0, 0, 0}, k[6] = {0, 0, 0, 0, 0, 0};
  call_new(&c);
  c.in.q_scale = q, c.in.k_scale = k;
  c.p.sm_scale = 1.0f;
  k[5] = 2.0f;
  float edge = 16.0f / 1.44269504f; /* edge * 2 * log2(e) * 2^17 = 2^22, up to rounding */
  for (int step = -3; step <= 3; step++) {
    q[3] = edge;
    for (int i = 0; i < (step < 0 ? -step : step); i++) q[3] = nextafterf(q[3], step < 0 ? 0 : 100);
    double octaves = (double)q[3] * 1.0 * (double)1.44269504f * 2.0 * 8 * 128 * 128;
    if (octaves <= 4194304.0) {
      expect_ok(ifa_run("scalar", &c.p, &c.in, &c.out, &why), &why);
      memset(c.o, UNWRITTEN, sizeof c.o);
      memset(c.lse, UNWRITTEN, sizeof c.lse);
    } else {
      expect_refusal(&c, IFA_BAD_DATA, "q_scale[3] is 11.09", "k_scale[5] is 2");
    }
    assert_true(step != -3 || octaves < 4194304.0);
    assert_true(step != 3 || octaves > 4194304.0);
  }
  c.p.q_type = IFA_I4; /* 8 * 8 * 128: a sixteenth */
  q[3] = 16 * edge * 0.999f;
  expect_ok(ifa_run("scalar", &c.p, &c.in, &c.out, &why), &why);
  memset(c.o, UNWRITTEN, sizeof c.o);
  memset(c.lse, UNWRITTEN, sizeof c.lse);
  q[3] = 16 * edge * 1.001f;
  expect_refusal(&c, IFA_BAD_DATA, "2^22", "");
  k[5] = 0x1p100f, q[3] = 0x1p100f, c.p.sm_scale = 0x1p20f;
  expect_refusal(&c, IFA_BAD_DATA, "2^22", "");
}

/* ---- time on a device ---- */

/* Of the backends that this machine has: measured where there is a device
 * (gpu/tests/test_attention.cu looks closer), else refused. */
static void test_time_on_device(void **state) {
  (void)state;
  int8_t q[4] = {1, 2, 3, 4}, k[8] = {1}, v[8] = {2};
  float scales[4] = {1, 1, 1, 1}, o[4];
  ifa_problem p = ifa_problem_default();
  p.nq = 1, p.nk = 2, p.head_dim = 4;
  ifa_inputs in = {.q = q, .k = k, .v = v, .q_scale = scales, .k_scale = scales, .v_scale = scales};
  ifa_outputs out = {.o = o};
  double seconds[2] = {-1, -1};
  ifa_message why;
  for (int i = 0; i < ifa_backend_count(); i++) {
    const char *name = ifa_backend_name(i);
    ifa_status supported = ifa_backend_supports(name, &p, NULL),
               status = ifa_time_on_device(name, &p, &in, &out, seconds, 2, &why);
    if (supported != IFA_OK) assert_int_equal(status, supported);
    else if (strncmp(name, "cuda", 4) == 0) assert_int_equal(status, IFA_OK);
    else {
      assert_int_equal(status, IFA_UNSUPPORTED);
      assert_non_null(strstr(why.text, name));
    }
  }
  assert_int_equal(ifa_time_on_device("scalar", &p, &in, &out, NULL, 2, &why), IFA_BAD_ARGUMENT);
  assert_int_equal(ifa_time_on_device("scalar", &p, &in, &out, seconds, 0, &why), IFA_BAD_ARGUMENT);
  assert_int_equal(ifa_time_on_device("nonesuch", &p, &in, &out, seconds, 2, &why),
                   IFA_BAD_ARGUMENT);
}

/* ---- names ---- */

static void test_names(void **state) {
  (void)state;
  int count = ifa_backend_count(), openmp = 0;
  assert_true(count >= 2);
  assert_string_equal(ifa_backend_name(0), "scalar");
  for (int i = 0; i < count; i++) {
    assert_true(strlen(ifa_backend_name(i)) > 0 && strlen(ifa_backend_description(i)) > 10);
    assert_null(strchr(ifa_backend_description(i), '\n'));
    openmp += strcmp(ifa_backend_name(i), "openmp") == 0;
    for (int j = 0; j < i; j++) assert_string_not_equal(ifa_backend_name(i), ifa_backend_name(j));
  }
  assert_int_equal(openmp, 1);
  assert_true(ifa_backend_name(-1) == NULL && ifa_backend_name(count) == NULL &&
              ifa_backend_description(-1) == NULL && ifa_backend_description(count) == NULL);
  ifa_message why = {""};
  assert_int_equal(ifa_backend_supports("nonesuch", NULL, &why), IFA_BAD_ARGUMENT);
  assert_non_null(strstr(why.text, "nonesuch"));
  assert_int_equal(ifa_backend_supports(NULL, NULL, NULL), IFA_BAD_ARGUMENT);
  ifa_problem p = ifa_problem_default();
  snprintf(why.text, sizeof why.text, "left over");
  expect_ok(ifa_backend_supports("scalar", &p, &why), &why);
  for (int i = IFA_OK; i <= IFA_IO; i++)
    for (int j = IFA_OK; j < i; j++)
      assert_string_not_equal(ifa_status_name((ifa_status)i), ifa_status_name((ifa_status)j));
  assert_string_equal(ifa_status_name(IFA_OK), "ok");
  assert_string_equal(ifa_status_name(IFA_BAD_PROBLEM), "bad problem");
  assert_non_null(ifa_status_name((ifa_status)99));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_one_key),
      cmocka_unit_test(test_equal_scores),
      cmocka_unit_test(test_zero_scores),
      cmocka_unit_test(test_far_key),
      cmocka_unit_test(test_no_keys),
      cmocka_unit_test(test_masked_rows),
      cmocka_unit_test(test_windows),
      cmocka_unit_test(test_head_groups),
      cmocka_unit_test(test_not_available),
      cmocka_unit_test(test_random_problems),
      cmocka_unit_test(test_minus_zero),
      cmocka_unit_test(test_minus_zero_by_hand),
      cmocka_unit_test(test_threads_and_schedules),
      cmocka_unit_test(test_place_in_the_batch),
      cmocka_unit_test(test_environment),
      cmocka_unit_test(test_environment_of_threads),
      cmocka_unit_test(test_largest_sums),
      cmocka_unit_test(test_extreme_sums),
      cmocka_unit_test(test_fall_of_nothing),
      cmocka_unit_test(test_prefill_and_decode),
      cmocka_unit_test(test_headroom_edge),
      cmocka_unit_test(test_null_pointers),
      cmocka_unit_test(test_bad_problem),
      cmocka_unit_test(test_bad_rows),
      cmocka_unit_test(test_bad_scales),
      cmocka_unit_test(test_bad_scale_with_denormals_are_zero),
      cmocka_unit_test(test_score_range),
      cmocka_unit_test(test_time_on_device),
      cmocka_unit_test(test_names),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
