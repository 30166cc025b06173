/* scalar.c - the oracle: docs/numerics.md, sections 3 to 11, in the document's order, one row at a
 * time, one key at a time.
 *
 * Written to be read beside the document and to be obviously right, not to be fast (ref/openmp.c
 * gives the same bits faster). A row is computed split by split; a split, tile by tile:
 *
 *     score_tile     S, u       what the tile's keys score, and the unit that the largest score
 *                               asks for
 *     weigh_tile     U, p, l    the row's unit follows; weights relative to it; their sum
 *     weigh_values   U', P      only when V is scaled per token: weights times scales, with a unit
 *                               of their own
 *     add_values     acc        acc += P * V
 *
 * ref/README.md walks through it with numbers. */
#include "common/backend.h"
#include "ref/rows.h"

/* The problem with its data, and the row being computed. */
typedef struct row_job {
  const ifa_problem *p;
  const ifa_inputs *in;
  const ifa_stages *stages; /* NULL, or what to record */
  int64_t number;           /* of the row among the computed rows: first index of the stages */
  ifa_row at;
  float row_factor; /* r_i */
} row_job;

/* The live keys of one tile and what has been computed for them so far. Index 0 is key `first`. */
typedef struct tile {
  int64_t start; /* first key of the tile, live or not */
  int64_t first; /* live keys: first .. first + count - 1 */
  int32_t count;
  int32_t growth_keys; /* keys from `start` to the end of the split */
  float u[256];        /* scores in units of the key scale */
  float r;             /* octaves per unit of u: r_i, or r_it */
  int32_t want;        /* e_it */
  int32_t n[256];      /* weight index */
  /* what multiplies V: p, or P when V is per token */
  int32_t weight[256];
} tile;

/* Section 4. S_ij = sum over d of Q_id * K_jd: at most 256 * 128 * 128 = 2^22, exact. */
static int32_t dot(const row_job *job, int64_t key) {
  const ifa_problem *p = job->p;
  int64_t q = ifa_offset(p->q_stride, job->at.batch, job->at.head, job->at.row);
  int64_t k = ifa_offset(p->k_stride, job->at.batch, job->at.kv_head, key);
  int32_t sum = 0;
  for (int32_t d = 0; d < p->head_dim; d++)
    sum += ifa_operand_get(p->q_type, job->in->q, q + d) *
           ifa_operand_get(p->k_type, job->in->k, k + d);
  return sum;
}

/* Sections 4 and 5: scores, and the unit that the tile asks for. */
static void score_tile(const row_job *job, tile *t) {
  const ifa_problem *p = job->p;
  int64_t kv_matrix = job->at.batch * p->kv_heads + job->at.kv_head;
  int per_token = p->k_scale == IFA_SCALE_TOKEN;
  float largest = -INFINITY;
  t->r = job->row_factor;
  if (!per_token)
    t->r = ifa_mul(t->r, ifa_token_scale(p->k_scale, job->in->k_scale, kv_matrix, p->nk, p->k_block,
                                         t->start));
  for (int32_t j = 0; j < t->count; j++) {
    int32_t s = dot(job, t->first + j);
    t->u[j] =
        per_token ? ifa_score(s, job->in->k_scale[kv_matrix * p->nk + t->first + j]) : (float)s;
    if (t->u[j] > largest) largest = t->u[j];
    if (job->stages && job->stages->s) job->stages->s[job->number * p->nk + t->first + j] = s;
  }
  t->want = ifa_tile_unit(largest, t->r);
}

static int32_t largest_magnitude(const int32_t *x, int32_t count) {
  int32_t largest = 0;
  for (int32_t d = 0; d < count; d++) {
    int32_t magnitude = x[d] < 0 ? -x[d] : x[d];
    if (magnitude > largest) largest = magnitude;
  }
  return largest;
}

/* Section 7: moves acc to another unit. */
static void shift_accumulators(ifa_split_sums *sums, int32_t up, int32_t head_dim) {
  for (int32_t d = 0; d < head_dim; d++) sums->acc[d] = ifa_shift(sums->acc[d], up);
  sums->value_unit += up;
}

/* Sections 5 to 7: the row's unit follows the tile, the weights are taken relative to it and
 * summed. Unless V is per token, acc has the same unit as l and moves with it. */
static void weigh_tile(const row_job *job, tile *t, ifa_split_sums *sums) {
  const ifa_problem *p = job->p;
  int own_value_unit = ifa_values_per_token(p);
  int32_t magnitude = sums->l, growth = IFA_WEIGHT_MAX * t->growth_keys;
  if (!own_value_unit) {
    int32_t largest = largest_magnitude(sums->acc, p->head_dim);
    if (largest > magnitude) magnitude = largest;
    growth = IFA_MAX_PRODUCT * t->growth_keys;
  }
  int32_t unit = ifa_next_unit(sums->unit, t->want, p->tau, magnitude, growth);
  if (sums->unit != IFA_NO_UNIT && unit != sums->unit) {
    sums->l = ifa_shift(sums->l, unit - sums->unit);
    if (!own_value_unit) shift_accumulators(sums, unit - sums->unit, p->head_dim);
  }
  sums->unit = unit;
  if (!own_value_unit) sums->value_unit = unit;

  for (int32_t j = 0; j < t->count; j++) {
    t->n[j] = ifa_weight_index(t->u[j], t->r, unit);
    t->weight[j] = ifa_weight(t->n[j]);
    sums->l += t->weight[j];
    if (job->stages && job->stages->p)
      job->stages->p[job->number * p->nk + t->first + j] = (uint8_t)t->weight[j];
  }
}

/* Section 8: V per token. The token's scale, relative to the largest of the tile's live keys, is
 * folded into its weight, and the products get a unit of their own, so that they too use their 8
 * bits. */
static void weigh_values(const row_job *job, tile *t, ifa_split_sums *sums) {
  const ifa_problem *p = job->p;
  const float *scale = job->in->v_scale + (job->at.batch * p->kv_heads + job->at.kv_head) * p->nk;
  float largest = 0.0f;
  for (int32_t j = 0; j < t->count; j++)
    if (scale[t->first + j] > largest) largest = scale[t->first + j];
  int32_t k = ifa_value_exponent(largest);

  uint16_t y[256], largest_y = 0;
  for (int32_t j = 0; j < t->count; j++) {
    y[j] = ifa_value_weight16(ifa_weight16(t->n[j]), ifa_value_scale16(scale[t->first + j], k));
    /* patterns of non-negative binary16 sort like their values */
    if (y[j] > largest_y) largest_y = y[j];
  }
  if (largest_y == 0) { /* nothing to add: no unit is asked for */
    for (int32_t j = 0; j < t->count; j++) t->weight[j] = 0;
    return;
  }
  int32_t want = sums->unit + k - ifa_value_shift(largest_y);
  int32_t unit =
      ifa_next_unit(sums->value_unit, want, p->tau, largest_magnitude(sums->acc, p->head_dim),
                    IFA_MAX_PRODUCT * t->growth_keys);
  if (sums->value_unit != IFA_NO_UNIT && unit != sums->value_unit)
    shift_accumulators(sums, unit - sums->value_unit, p->head_dim);
  sums->value_unit = unit;

  for (int32_t j = 0; j < t->count; j++)
    t->weight[j] = ifa_value_weight(y[j], sums->unit + k - unit);
}

/* Section 7: acc_d += P_ij * V_jd. |acc| stays below 2^31: the headroom rule counted these
 * products. */
static void add_values(const row_job *job, const tile *t, ifa_split_sums *sums) {
  const ifa_problem *p = job->p;
  for (int32_t j = 0; j < t->count; j++) {
    int64_t v = ifa_offset(p->v_stride, job->at.batch, job->at.kv_head, t->first + j);
    for (int32_t d = 0; d < p->head_dim; d++)
      sums->acc[d] += t->weight[j] * ifa_operand_get(p->v_type, job->in->v, v + d);
    if (job->stages && job->stages->value_p)
      job->stages->value_p[job->number * p->nk + t->first + j] = (uint8_t)t->weight[j];
  }
}

static void record_units(const row_job *job, int64_t start, int32_t unit, int32_t value_unit) {
  int64_t at = job->number * ifa_ceil_div(job->p->nk, job->p->kv_tile) + start / job->p->kv_tile;
  if (!job->stages) return;
  if (job->stages->unit) job->stages->unit[at] = unit;
  if (job->stages->value_unit)
    job->stages->value_unit[at] = ifa_values_per_token(job->p) ? value_unit : IFA_NO_UNIT;
}

/* One split, from nothing: the tiles between `start` and `end` that hold a live key. */
static void sum_split(const row_job *job, int64_t start, int64_t live_first, int64_t live_end,
                      ifa_split_sums *sums) {
  int64_t split_end = start + job->p->kv_split, end = ifa_min64(split_end, job->p->nk);
  tile t;
  *sums = (ifa_split_sums){.unit = IFA_NO_UNIT, .value_unit = IFA_NO_UNIT};
  for (t.start = start; t.start < end; t.start += job->p->kv_tile) {
    t.first = ifa_max64(t.start, live_first);
    t.count = (int32_t)(ifa_min64(ifa_min64(t.start + job->p->kv_tile, end), live_end) - t.first);
    t.growth_keys = (int32_t)(split_end - t.start);
    if (t.count <= 0) {
      record_units(job, t.start, IFA_NO_UNIT, IFA_NO_UNIT);
      continue;
    }
    score_tile(job, &t);
    weigh_tile(job, &t, sums);
    if (ifa_values_per_token(job->p)) weigh_values(job, &t, sums);
    add_values(job, &t, sums);
    record_units(job, t.start, sums->unit, sums->value_unit);
  }
}

static void record_split(const row_job *job, int64_t split, const ifa_split_sums *sums) {
  int64_t at = job->number * ifa_ceil_div(job->p->nk, job->p->kv_split) + split;
  if (!job->stages) return;
  if (job->stages->l) job->stages->l[at] = sums->l;
  if (job->stages->acc)
    for (int32_t d = 0; d < job->p->head_dim; d++)
      job->stages->acc[at * job->p->head_dim + d] = sums->acc[d];
}

/* Keys that the row does not see hold 0. */
static void clear_stages(const row_job *job) {
  for (int64_t j = 0; job->stages && j < job->p->nk; j++) {
    int64_t at = job->number * job->p->nk + j;
    if (job->stages->s) job->stages->s[at] = 0;
    if (job->stages->p) job->stages->p[at] = 0;
    if (job->stages->value_p) job->stages->value_p[at] = 0;
  }
}

/* Sections 3 to 11 for one row. */
static void attend_row(row_job *job, const ifa_outputs *out) {
  const ifa_problem *p = job->p;
  int64_t live_first, live_end;
  ifa_row_sums row = {.unit = IFA_NO_UNIT, .value_unit = IFA_NO_UNIT};
  clear_stages(job);
  ifa_live_keys(p, job->at.row, &live_first, &live_end);
  job->row_factor = ifa_row_factor(ifa_token_scale(p->q_scale, job->in->q_scale,
                                                   job->at.batch * p->q_heads + job->at.head, p->nq,
                                                   p->q_block, job->at.row),
                                   p->sm_scale);
  for (int64_t start = 0; start < p->nk; start += p->kv_split) {
    ifa_split_sums sums;
    sum_split(job, start, live_first, live_end, &sums);
    record_split(job, start / p->kv_split, &sums);
    ifa_merge_split(&row, &sums, p->head_dim);
  }
  ifa_write_row(p, job->in, out, job->at, &row);
}

static ifa_status supports(const ifa_problem *problem, ifa_message *message) {
  (void)problem; /* the oracle computes every valid problem */
  return ifa_succeed(message);
}

static ifa_status run(const ifa_problem *p, const ifa_inputs *in, const ifa_outputs *out,
                      ifa_message *message) {
  for (int64_t r = 0; r < ifa_computed_rows(p, in); r++) {
    row_job job = {.p = p,
                   .in = in,
                   .stages = out->stages,
                   .number = r,
                   .at = ifa_row_at(p, ifa_computed_row(in, r))};
    attend_row(&job, out);
  }
  return ifa_succeed(message);
}

const ifa_backend ifa_backend_scalar = {
    "scalar", "the oracle: one row and one key at a time, in the order of docs/numerics.md",
    supports, run, NULL};
