#include "validate/judge/compare.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/operand.h"
#include "common/problem.h"
#include "validate/judge/bound.h"
#include "validate/cases/buffers.h"
#include "common/clock.h"
#include "validate/judge/digest.h"

/* Stages are recorded for cases of at most this many scores, and for larger ones (up to the second
 * number) after a mismatch. */
enum { STAGE_SCORES = 1 << 22, STAGE_SCORES_ON_FAILURE = 1 << 27 };

struct ifa_expected {
  ifa_run_buffers buffers; /* with all stages, or of a large case the units only */
  double seconds;
  ifa_message overrun; /* not empty: the oracle itself wrote where it must not */
};

const char *ifa_verdict_name(ifa_verdict verdict) {
  static const char *const names[IFA_VERDICTS] = {"passed",        "failed",    "unsupported",
                                                  "not available", "empty",     "crashed",
                                                  "timed out",     "bad output"};
  return (unsigned)verdict < IFA_VERDICTS ? names[verdict] : "?";
}

/* ---- running ---- */

static ifa_status run_unchecked(const ifa_data *d, const char *backend, ifa_stage_level level,
                                uint8_t poison, ifa_run_buffers *buffers, double *seconds,
                                ifa_message *message) {
  ifa_status status = ifa_run_buffers_make(d, level, poison, buffers, message);
  if (status != IFA_OK) return status;
  ifa_inputs in = ifa_data_inputs(d);
  ifa_outputs out = ifa_run_buffers_outputs(buffers);
  double start = ifa_now();
  status = ifa_run(backend, &d->p, &in, &out, message);
  *seconds = ifa_now() - start;
  return status;
}

static ifa_status run_into(const ifa_data *d, const char *backend, ifa_stage_level level,
                           uint8_t poison, ifa_run_buffers *buffers, double *seconds,
                           ifa_message *message) {
  ifa_status status = run_unchecked(d, backend, level, poison, buffers, seconds, message);
  return status == IFA_OK ? ifa_run_buffers_check(d, buffers, message) : status;
}

static int64_t scores(const ifa_data *d) { return d->row_count * d->p.nk; }

ifa_status ifa_expected_make(const ifa_data *d, ifa_expected **expected, ifa_message *message) {
  *expected = calloc(1, sizeof **expected);
  if (!*expected) return ifa_fail(message, IFA_OUT_OF_MEMORY, "no memory for the oracle's result");
  ifa_expected *e = *expected;
  ifa_stage_level level = scores(d) <= STAGE_SCORES ? IFA_STAGES_ALL : IFA_STAGES_UNITS;
  ifa_status status =
      run_unchecked(d, "scalar", level, IFA_ORACLE_POISON, &e->buffers, &e->seconds, message);
  /* a defect of the oracle, not of the case */
  if (status == IFA_OK) ifa_run_buffers_check(d, &e->buffers, &e->overrun);
  return status;
}

void ifa_expected_free(ifa_expected *expected) {
  if (expected) ifa_run_buffers_free(&expected->buffers);
  free(expected);
}

/* ---- elements ---- */

static uint32_t pattern_at(const void *data, int64_t index, int bytes) {
  if (bytes == 4) return ((const uint32_t *)data)[index];
  if (bytes == 2) return ((const uint16_t *)data)[index];
  return ((const uint8_t *)data)[index];
}

static int is_nan(ifa_type type, uint32_t pattern) {
  if (type == IFA_F32) return (pattern & 0x7fffffffu) > 0x7f800000u;
  return (pattern & 0x7fffu) > (type == IFA_F16 ? 0x7c00u : 0x7f80u);
}

float *ifa_expected_floats(const ifa_data *d, const ifa_expected *expected) {
  float *values = malloc(((size_t)(d->row_count * d->p.head_dim) + 1) * sizeof *values);
  for (int64_t r = 0; values && r < d->row_count; r++)
    for (int32_t i = 0; i < d->p.head_dim; i++)
      values[r * d->p.head_dim + i] =
          ifa_float_get(d->p.out_type, expected->buffers.o.data, ifa_output_index(d, r, i));
  return values;
}

static int64_t row_index(const ifa_data *d, int64_t r) { return d->rows ? d->rows[r] : r; }

static ifa_status digest_outputs(const ifa_data *d, const ifa_run_buffers *buffers, char hex[33],
                                 ifa_message *message) {
  int width = (int)ifa_type_bytes(d->p.out_type);
  ifa_digest *digest = ifa_digest_new();
  snprintf(hex, 33, "%s", "no memory");
  if (!digest) return ifa_fail(message, IFA_OUT_OF_MEMORY, "no memory for a digest");
  for (int64_t r = 0; r < d->row_count; r++) {
    for (int32_t i = 0; i < d->p.head_dim; i++)
      ifa_digest_add(digest, pattern_at(buffers->o.data, ifa_output_index(d, r, i), width), width);
    if (d->p.lse) ifa_digest_add(digest, pattern_at(buffers->lse.data, row_index(d, r), 4), 4);
  }
  ifa_digest_finish(digest, hex);
  return IFA_OK;
}

void ifa_expected_digest(const ifa_data *d, const ifa_expected *expected, char hex[33]) {
  digest_outputs(d, &expected->buffers, hex, NULL);
}

ifa_status ifa_backend_digest(const ifa_data *d, const char *backend, char hex[33],
                              ifa_message *message) {
  ifa_run_buffers buffers;
  double seconds;
  ifa_status status =
      run_into(d, backend, IFA_STAGES_NONE, IFA_BACKEND_POISON, &buffers, &seconds, message);
  if (status == IFA_OK) status = digest_outputs(d, &buffers, hex, message);
  ifa_run_buffers_free(&buffers);
  return status;
}

static void digest_operand(ifa_digest *digest, const ifa_problem *p, ifa_type type,
                           ifa_strides strides, const void *data, int64_t heads, int64_t tokens) {
  for (int64_t row = 0; row < p->batch * heads * tokens; row++)
    for (int32_t d = 0; d < p->head_dim; d++) {
      int64_t at =
          ifa_offset(strides, row / tokens / heads, row / tokens % heads, row % tokens) + d;
      ifa_digest_add(digest, (uint32_t)ifa_operand_get(type, data, at), 1);
    }
}

static void digest_scales(ifa_digest *digest, const float *scales, int64_t count) {
  for (int64_t i = 0; i < count; i++) ifa_digest_add(digest, ifa_bits_of_f32(scales[i]), 4);
}

void ifa_data_digest(const ifa_data *d, char hex[17]) {
  const ifa_problem *p = &d->p;
  char whole[33];
  ifa_digest *digest = ifa_digest_new();
  snprintf(hex, 17, "%s", "no memory");
  if (!digest) return;
  digest_operand(digest, p, p->q_type, p->q_stride, d->q_int, p->q_heads, p->nq);
  digest_operand(digest, p, p->k_type, p->k_stride, d->k_int, p->kv_heads, p->nk);
  digest_operand(digest, p, p->v_type, p->v_stride, d->v_int, p->kv_heads, p->nk);
  digest_scales(digest, d->q_scale,
                ifa_scale_count(p->q_scale, p->batch, p->q_heads, p->nq, p->head_dim, p->q_block));
  digest_scales(digest, d->k_scale,
                ifa_scale_count(p->k_scale, p->batch, p->kv_heads, p->nk, p->head_dim, p->k_block));
  digest_scales(digest, d->v_scale,
                ifa_scale_count(p->v_scale, p->batch, p->kv_heads, p->nk, p->head_dim, 1));
  if (d->v_channel_scale)
    digest_scales(digest, d->v_channel_scale, p->batch * p->kv_heads * p->head_dim);
  ifa_digest_finish(digest, whole);
  memcpy(hex, whole, 16);
  hex[16] = '\0';
}

/* ---- comparing ---- */

/* One array of the results: per computed row, `per_row` elements of `bytes` bytes. */
typedef struct stage {
  /* inner: what the index within a row counts; NULL for a single element */
  const char *name, *inner;
  int64_t per_row;
  int bytes;
  const void *expected, *got;
  /* 1: element r * per_row + i; 0: the output, by its strides; 2: lse, by row number */
  int dense;
} stage;

static int64_t element_index(const ifa_data *d, const stage *s, int64_t r, int64_t i) {
  if (s->dense == 1) return r * s->per_row + i;
  return s->dense == 0 ? ifa_output_index(d, r, (int32_t)i) : row_index(d, r);
}

static void note_place(const ifa_data *d, const stage *s, int64_t r, int64_t i, uint32_t expected,
                       uint32_t got, ifa_outcome *o) {
  if (o->place_count == IFA_MAX_PLACES) return;
  ifa_place *place = &o->places[o->place_count++];
  int64_t row = row_index(d, r), matrix = row / d->p.nq;
  int used =
      snprintf(place->where, sizeof place->where, "%s[b %" PRId64 "][h %" PRId64 "][i %" PRId64 "]",
               s->name, matrix / d->p.q_heads, matrix % d->p.q_heads, row % d->p.nq);
  if (s->inner && strcmp(s->name, "acc") == 0)
    snprintf(place->where + used, sizeof place->where - (size_t)used,
             "[split %" PRId64 "][d %" PRId64 "]", i / d->p.head_dim, i % d->p.head_dim);
  else if (s->inner)
    snprintf(place->where + used, sizeof place->where - (size_t)used, "[%s %" PRId64 "]", s->inner,
             i);
  place->expected = expected;
  place->got = got;
  place->digits = 2 * s->bytes;
}

/* Elements of the stage that differ; the first ten are noted. NaN in an output differs from
 * everything. poison: 0, or the pattern of what was not written and need not be; *shown gets the
 * number of the others. */
static int64_t compare_stage(const ifa_data *d, const stage *s, uint32_t poison, int64_t *shown,
                             ifa_outcome *o) {
  int64_t mismatches = 0, hidden = 0;
  for (int64_t r = 0; r < d->row_count; r++)
    for (int64_t i = 0; i < s->per_row; i++) {
      int64_t at = element_index(d, s, r, i);
      uint32_t expected = pattern_at(s->expected, at, s->bytes),
               got = pattern_at(s->got, at, s->bytes);
      if (poison && s->dense == 1 && got == poison) {
        hidden++;
        continue;
      }
      if (expected == got &&
          (s->dense == 1 || !is_nan(s->dense == 0 ? d->p.out_type : IFA_F32, got)))
        continue;
      mismatches++;
      note_place(d, s, r, i, expected, got, o);
    }
  *shown = d->row_count * s->per_row - hidden;
  o->compared += *shown;
  return mismatches;
}

static uint32_t poison_of(const ifa_run_buffers *b, int bytes) {
  if (!b->stages_are_voluntary) return 0;
  return b->o.poison * (bytes == 4 ? 0x01010101u : bytes == 2 ? 0x0101u : 1u);
}

/* All arrays that both runs have, in the order of the computation; stops at the first that differs.
 */
void ifa_compare_buffers(const ifa_data *d, const ifa_run_buffers *e, const ifa_run_buffers *g,
                         ifa_outcome *o) {
  const ifa_problem *p = &d->p;
  int64_t tiles = ifa_ceil_div(p->nk, p->kv_tile), splits = ifa_ceil_div(p->nk, p->kv_split);
  int width = (int)ifa_type_bytes(p->out_type);
  const stage list[] = {{"S", "key", p->nk, 4, e->s.data, g->s.data, 1},
                        {"unit", "tile", tiles, 4, e->unit.data, g->unit.data, 1},
                        {"p", "key", p->nk, 1, e->p.data, g->p.data, 1},
                        {"value_unit", "tile", tiles, 4, e->value_unit.data, g->value_unit.data, 1},
                        {"P", "key", p->nk, 1, e->value_p.data, g->value_p.data, 1},
                        {"l", "split", splits, 4, e->l.data, g->l.data, 1},
                        {"acc", "split", splits * p->head_dim, 4, e->acc.data, g->acc.data, 1},
                        {"o", "d", p->head_dim, width, e->o.data, g->o.data, 0},
                        {"lse", NULL, p->lse ? 1 : 0, 4, e->lse.data, g->lse.data, 2}};
  const int staged = e->level == IFA_STAGES_ALL && g->level == IFA_STAGES_ALL;
  for (size_t i = 0; i < sizeof list / sizeof list[0]; i++) {
    if (!list[i].expected || !list[i].got) continue;
    int64_t shown;
    o->mismatches = compare_stage(d, &list[i], poison_of(g, list[i].bytes), &shown, o);
    o->stages_compared |= staged && list[i].dense == 1 && shown > 0;
    if (o->mismatches == 0) continue;
    o->stage = list[i].name;
    o->verdict = IFA_FAILED;
    ifa_fail(&o->message, IFA_BAD_DATA, "%s differs in %" PRId64 " of %" PRId64 " elements%s",
             o->stage, o->mismatches, d->row_count * list[i].per_row,
             o->stages_compared                  ? "; it is the first stage to differ"
             : staged && g->stages_are_voluntary ? "; no stages shown"
                                                 : "");
    return;
  }
}

/* A backend's own failure where the oracle has a result. */
static void judge_status(ifa_status status, ifa_outcome *o) {
  if (status == IFA_OK) return;
  o->verdict = status == IFA_UNSUPPORTED     ? IFA_NOT_SUPPORTED
               : status == IFA_NOT_AVAILABLE ? IFA_ABSENT
                                             : IFA_FAILED;
}

int ifa_stages_affordable(const ifa_data *d) { return scores(d) <= STAGE_SCORES_ON_FAILURE; }

/* The oracle's stages are made here if `expected` has none. */
void ifa_compare_stages(const ifa_data *d, const ifa_expected *expected, const ifa_run_buffers *got,
                        ifa_outcome *o) {
  ifa_run_buffers oracle = {0};
  const ifa_run_buffers *reference = &expected->buffers;
  double seconds;
  ifa_status status = IFA_OK;
  if (reference->level != IFA_STAGES_ALL) {
    status = run_into(d, "scalar", IFA_STAGES_ALL, IFA_ORACLE_POISON, &oracle, &seconds, NULL);
    reference = &oracle;
  }
  if (status == IFA_OK) ifa_compare_buffers(d, reference, got, o);
  ifa_run_buffers_free(&oracle);
}

static void compare_with_stages(const ifa_data *d, const ifa_expected *expected,
                                const char *backend, ifa_outcome *o) {
  ifa_run_buffers got = {0};
  double seconds;
  ifa_status status =
      run_into(d, backend, IFA_STAGES_ALL, IFA_BACKEND_POISON, &got, &seconds, &o->message);
  if (status == IFA_UNSUPPORTED) ifa_succeed(&o->message); /* the backend cannot show its stages */
  else judge_status(status, o);
  if (status == IFA_OK) ifa_compare_stages(d, expected, &got, o);
  ifa_run_buffers_free(&got);
}

void ifa_compare_outputs(const ifa_data *d, const ifa_expected *expected,
                         const ifa_run_buffers *got, ifa_outcome *o) {
  ifa_distance_sums sums = {0};
  double right[IFA_MAX_HEAD_DIM], values[IFA_MAX_HEAD_DIM];
  ifa_compare_buffers(d, &expected->buffers, got, o);
  for (int64_t r = 0; r < d->row_count; r++) {
    for (int32_t i = 0; i < d->p.head_dim; i++) {
      right[i] =
          (double)ifa_float_get(d->p.out_type, expected->buffers.o.data, ifa_output_index(d, r, i));
      values[i] = (double)ifa_float_get(d->p.out_type, got->o.data, ifa_output_index(d, r, i));
    }
    ifa_distance_add(&sums, &d->p, row_index(d, r), right, values);
  }
  o->distance = ifa_distance_finish(&sums);
  if (o->verdict == IFA_PASSED && o->compared == 0) o->verdict = IFA_EMPTY;
}

/* The run that counts is the one without stages; a second run with them names the first stage to
 * differ. */
static void compare_backend(const ifa_data *d, const ifa_expected *expected, const char *backend,
                            ifa_outcome *o) {
  ifa_run_buffers got;
  ifa_status status =
      run_into(d, backend, IFA_STAGES_NONE, IFA_BACKEND_POISON, &got, &o->seconds, &o->message);
  judge_status(status, o);
  if (status == IFA_OK) ifa_compare_buffers(d, &expected->buffers, &got, o);
  ifa_run_buffers_free(&got);
  if (status != IFA_OK) return;

  ifa_outcome staged = {0};
  if (o->verdict == IFA_PASSED ? expected->buffers.level == IFA_STAGES_ALL
                               : ifa_stages_affordable(d))
    compare_with_stages(d, expected, backend, &staged);
  if (staged.verdict == IFA_FAILED || (staged.stages_compared && o->verdict == IFA_PASSED)) {
    staged.seconds = o->seconds;
    staged.compared += o->compared;
    *o = staged;
  }
}

static void compare_oracle(const ifa_data *d, const ifa_expected *expected, ifa_outcome *o) {
  float *values = ifa_expected_floats(d, expected);
  const float *lse = d->p.lse ? (const float *)expected->buffers.lse.data : NULL;
  ifa_bound_check(d, values, lse, expected->buffers.stages.unit,
                  expected->buffers.stages.value_unit, o);
  free(values);
  o->seconds = expected->seconds;
}

void ifa_compare(const ifa_data *d, const ifa_expected *expected, const char *backend,
                 ifa_outcome *o) {
  *o = (ifa_outcome){0};
  ifa_status status = ifa_backend_supports(backend, &d->p, &o->message);
  judge_status(status, o);
  if (status != IFA_OK) return;
  if (expected->overrun.text[0]) {
    o->verdict = IFA_FAILED;
    ifa_fail(&o->message, IFA_BAD_DATA, "the oracle's own run: %s", expected->overrun.text);
    return;
  }
  if (strcmp(backend, "scalar") == 0) compare_oracle(d, expected, o);
  else compare_backend(d, expected, backend, o);
  if (o->verdict == IFA_PASSED && o->compared == 0) o->verdict = IFA_EMPTY;
}
