/* openmp.c - the oracle's bits on every core: the same algorithm (docs/numerics.md) with the work
 * arranged for caches and vectors, on as many threads as OpenMP has (common/team.h).
 *
 * A task is up to 32 computed rows of one (batch, head). It walks the key tiles once for all of its
 * rows; each tile of K is unpacked to 16 bits, and each tile of V is unpacked and transposed, so
 * that both products are dot products of int16 rows, which every vector unit has an instruction
 * for:
 *
 *     S[row][j]    = sum over d of q16[row][d] * k16[j][d]
 *     acc[row][d] += sum over j of w16[row][j] * v16[d][j]
 *
 * All sums are integer sums, so this order gives the oracle's values; tasks share nothing, so
 * neither the number of threads nor who takes which task can change a bit. The weight function is
 * looked up: tables of all its 30721 values, made from contract.h. */
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "common/backend.h"
#include "common/fpenv.h"
#include "common/team.h"
#include "ref/rows.h"

enum {
  TASK_ROWS = 32,
  MAX_TILE = 256,
  DIM_STEP = 16 /* rows of q16 and k16 are padded with zeros to a multiple of this */
};

/* ---- tables of the weight function ---- */

static uint8_t weight_table[IFA_WEIGHT_TOP + 1];    /* p(n) */
static uint16_t weight16_table[IFA_WEIGHT_TOP + 1]; /* W(n) */
static pthread_once_t tables_once = PTHREAD_ONCE_INIT;

static void fill_tables(void) {
  for (int32_t n = 0; n <= IFA_WEIGHT_TOP; n++) {
    weight_table[n] = (uint8_t)ifa_weight(n);
    weight16_table[n] = ifa_weight16(n);
  }
}

/* ---- one task ---- */

typedef struct task_row {
  ifa_row at;
  int64_t number;               /* among the computed rows: first index of the stages */
  int64_t live_first, live_end; /* keys that the row sees */
  float row_factor;
  ifa_split_sums split;
  ifa_row_sums sums;
} task_row;

typedef struct task {
  const ifa_problem *p;
  const ifa_inputs *in;
  const ifa_outputs *out;
  int32_t dim; /* head_dim rounded up to DIM_STEP */
  int32_t row_count;
  task_row rows[TASK_ROWS];
  int16_t q16[TASK_ROWS][IFA_MAX_HEAD_DIM]; /* [row][d] */
  int16_t k16[MAX_TILE][IFA_MAX_HEAD_DIM];  /* [j][d] */
  int16_t v16[IFA_MAX_HEAD_DIM][MAX_TILE];  /* [d][j] */
  /* V per token: s_j for a row that sees the whole tile */
  uint16_t s16[MAX_TILE];
  int32_t value_exponent; /* and b */
} task;

static void unpack_row(ifa_type type, const void *data, int64_t offset, int32_t count,
                       int16_t *to) {
  if (type == IFA_I8)
    for (int32_t d = 0; d < count; d++) to[d] = ((const int8_t *)data)[offset + d];
  else
    for (int32_t d = 0; d < count; d++) to[d] = (int16_t)ifa_int4_get(data, offset + d);
}

static void load_rows(task *t, int64_t first_number, int32_t count) {
  const ifa_problem *p = t->p;
  t->row_count = count;
  for (int32_t i = 0; i < count; i++) {
    task_row *row = &t->rows[i];
    row->number = first_number + i;
    row->at = ifa_row_at(p, ifa_computed_row(t->in, row->number));
    row->sums.unit = row->sums.value_unit = IFA_NO_UNIT;
    row->sums.l = 0.0f;
    memset(row->sums.o, 0, sizeof row->sums.o);
    ifa_live_keys(p, row->at.row, &row->live_first, &row->live_end);
    row->row_factor = ifa_row_factor(ifa_token_scale(p->q_scale, t->in->q_scale,
                                                     row->at.batch * p->q_heads + row->at.head,
                                                     p->nq, p->q_block, row->at.row),
                                     p->sm_scale);
    memset(t->q16[i], 0, sizeof t->q16[i]);
    unpack_row(p->q_type, t->in->q,
               ifa_offset(p->q_stride, row->at.batch, row->at.head, row->at.row), p->head_dim,
               t->q16[i]);
  }
}

/* Section 8: b, and s_j for the keys from .. to-1, which are those that a row sees. */
static int32_t scale_values(const float *scale, int32_t from, int32_t to, uint16_t *s16) {
  float largest = 0.0f;
  for (int32_t j = from; j < to; j++) largest = scale[j] > largest ? scale[j] : largest;
  int32_t exponent = ifa_value_exponent(largest);
  for (int32_t j = from; j < to; j++) s16[j] = ifa_value_scale16(scale[j], exponent);
  return exponent;
}

static void load_tile(task *t, int64_t start, int32_t count) {
  const ifa_problem *p = t->p;
  int64_t batch = t->rows[0].at.batch, head = t->rows[0].at.kv_head;
  for (int32_t j = 0; j < count; j++)
    unpack_row(p->k_type, t->in->k, ifa_offset(p->k_stride, batch, head, start + j), p->head_dim,
               t->k16[j]);
  for (int32_t j = 0; j < p->kv_tile; j++) {
    int16_t v[IFA_MAX_HEAD_DIM] = {0};
    if (j < count)
      unpack_row(p->v_type, t->in->v, ifa_offset(p->v_stride, batch, head, start + j), p->head_dim,
                 v);
    for (int32_t d = 0; d < p->head_dim; d++) t->v16[d][j] = v[d];
  }
  if (!ifa_values_per_token(p)) return;
  t->value_exponent =
      scale_values(t->in->v_scale + (batch * p->kv_heads + head) * p->nk + start, 0, count, t->s16);
}

/* count is a multiple of DIM_STEP (padding is zero). */
static int32_t dot16(const int16_t *restrict a, const int16_t *restrict b, int32_t count) {
  int32_t sum = 0;
  for (int32_t i = 0; i < count; i++) sum += (int32_t)a[i] * b[i];
  return sum;
}

static int32_t largest_magnitude(const int32_t *x, int32_t count) {
  int32_t low = 0, high = 0;
  for (int32_t i = 0; i < count; i++) {
    low = x[i] < low ? x[i] : low;
    high = x[i] > high ? x[i] : high;
  }
  return -low > high ? -low : high;
}

/* acc and its unit; looked at only when the unit really moves. */
static void move_value_unit(task_row *row, int32_t unit, int32_t head_dim) {
  ifa_split_sums *split = &row->split;
  if (split->value_unit != IFA_NO_UNIT && unit != split->value_unit)
    for (int32_t d = 0; d < head_dim; d++)
      split->acc[d] = ifa_shift(split->acc[d], unit - split->value_unit);
  split->value_unit = unit;
}

/* Does the tile's wish move the unit at all? Then the headroom must be looked up; mostly it does
 * not. */
static int unit_stays(int32_t unit, int32_t want, int32_t tau) {
  return unit != IFA_NO_UNIT && want <= unit && (tau == IFA_TAU_INF || want >= unit - tau);
}

static void follow_unit(const task *t, task_row *row, int32_t want, int32_t growth_keys) {
  int own_value_unit = ifa_values_per_token(t->p);
  ifa_split_sums *split = &row->split;
  if (unit_stays(split->unit, want, t->p->tau)) return;
  int32_t magnitude = split->l, growth = IFA_WEIGHT_MAX * growth_keys;
  if (!own_value_unit) {
    int32_t largest = largest_magnitude(split->acc, t->p->head_dim);
    magnitude = largest > magnitude ? largest : magnitude;
    growth = IFA_MAX_PRODUCT * growth_keys;
  }
  int32_t unit = ifa_next_unit(split->unit, want, t->p->tau, magnitude, growth);
  if (split->unit != IFA_NO_UNIT) split->l = ifa_shift(split->l, unit - split->unit);
  split->unit = unit;
  if (!own_value_unit) move_value_unit(row, unit, t->p->head_dim);
}

static void follow_value_unit(const task *t, task_row *row, int32_t want, int32_t growth_keys) {
  if (unit_stays(row->split.value_unit, want, t->p->tau)) return;
  int32_t magnitude = largest_magnitude(row->split.acc, t->p->head_dim);
  move_value_unit(row,
                  ifa_next_unit(row->split.value_unit, want, t->p->tau, magnitude,
                                IFA_MAX_PRODUCT * growth_keys),
                  t->p->head_dim);
}

/* Section 8, for keys from .. to-1 of the tile, s_j and b given: P into weight[]. */
static void weigh_values(const task *t, task_row *row, const int32_t *n, int32_t from, int32_t to,
                         const uint16_t *s16, int32_t exponent, int32_t growth_keys,
                         int16_t *weight) {
  uint16_t y[MAX_TILE], largest = 0;
  for (int32_t j = from; j < to; j++) {
    y[j] = ifa_value_weight16(weight16_table[n[j]], s16[j]);
    largest = y[j] > largest ? y[j] : largest;
  }
  if (largest == 0) {
    for (int32_t j = from; j < to; j++) weight[j] = 0;
    return;
  }
  follow_value_unit(t, row, row->split.unit + exponent - ifa_value_shift(largest), growth_keys);
  int32_t m = row->split.unit + exponent - row->split.value_unit;
  for (int32_t j = from; j < to; j++) weight[j] = (int16_t)ifa_value_weight(y[j], m);
}

static void record_tile(const task *t, const task_row *row, int64_t start, int32_t from, int32_t to,
                        const int32_t *s, const int32_t *n, const int16_t *weight) {
  const ifa_problem *p = t->p;
  const ifa_stages *stages = t->out->stages;
  int64_t tile = row->number * ifa_ceil_div(p->nk, p->kv_tile) + start / p->kv_tile,
          key = row->number * p->nk + start;
  int live = to > from;
  if (stages->unit) stages->unit[tile] = live ? row->split.unit : IFA_NO_UNIT;
  if (stages->value_unit)
    stages->value_unit[tile] =
        live && ifa_values_per_token(p) ? row->split.value_unit : IFA_NO_UNIT;
  for (int32_t j = 0; j < (int32_t)ifa_min64(p->kv_tile, p->nk - start); j++) {
    int seen = j >= from && j < to;
    if (stages->s) stages->s[key + j] = seen ? s[j] : 0;
    if (stages->p) stages->p[key + j] = seen ? weight_table[n[j]] : 0;
    if (stages->value_p) stages->value_p[key + j] = seen ? (uint8_t)weight[j] : 0;
  }
}

/* One row over one tile of `count` keys from `start`. */
static void attend_tile(const task *t, int32_t index, task_row *row, int64_t start, int32_t count,
                        int32_t growth_keys) {
  const ifa_problem *p = t->p;
  int64_t kv_matrix = row->at.batch * p->kv_heads + row->at.kv_head;
  int32_t from = (int32_t)ifa_min64(count, ifa_max64(0, row->live_first - start)),
          to = (int32_t)ifa_min64(count, row->live_end - start);
  int32_t s[MAX_TILE], n[MAX_TILE];
  int16_t weight[MAX_TILE] = {0}; /* of the keys that are not live: 0 */
  if (to > from) {
    float u[MAX_TILE], r = row->row_factor, largest = -INFINITY;
    for (int32_t j = from; j < to; j++) s[j] = dot16(t->q16[index], t->k16[j], t->dim);
    if (p->k_scale == IFA_SCALE_TOKEN) {
      for (int32_t j = from; j < to; j++)
        u[j] = ifa_score(s[j], t->in->k_scale[kv_matrix * p->nk + start + j]);
    } else {
      for (int32_t j = from; j < to; j++) u[j] = (float)s[j];
      r = ifa_mul(r,
                  ifa_token_scale(p->k_scale, t->in->k_scale, kv_matrix, p->nk, p->k_block, start));
    }
    for (int32_t j = from; j < to; j++) largest = u[j] > largest ? u[j] : largest;
    follow_unit(t, row, ifa_tile_unit(largest, r), growth_keys);
    for (int32_t j = from; j < to; j++) n[j] = ifa_weight_index(u[j], r, row->split.unit);
    for (int32_t j = from; j < to; j++) {
      weight[j] = weight_table[n[j]];
      row->split.l += weight[j];
    }
    if (ifa_values_per_token(p)) {
      const uint16_t *s16 = t->s16;
      uint16_t own[MAX_TILE];
      int32_t exponent = t->value_exponent;
      if (from > 0 || to < count) {
        exponent = scale_values(t->in->v_scale + kv_matrix * p->nk + start, from, to, own);
        s16 = own;
      }
      weigh_values(t, row, n, from, to, s16, exponent, growth_keys, weight);
    }
    for (int32_t d = 0; d < p->head_dim; d++)
      row->split.acc[d] += dot16(t->v16[d], weight, p->kv_tile);
  }
  if (t->out->stages) record_tile(t, row, start, from, to, s, n, weight);
}

static void record_split(const task *t, const task_row *row, int64_t split) {
  const ifa_stages *stages = t->out->stages;
  int64_t at = row->number * ifa_ceil_div(t->p->nk, t->p->kv_split) + split;
  if (!stages) return;
  if (stages->l) stages->l[at] = row->split.l;
  if (stages->acc)
    memcpy(stages->acc + at * t->p->head_dim, row->split.acc,
           (size_t)t->p->head_dim * sizeof(int32_t));
}

/* Is any key of start .. start+count-1 live for any row of the task? Without stages to fill, other
 * tiles are passed over. */
static int tile_is_live(const task *t, int64_t start, int64_t count) {
  for (int32_t i = 0; i < t->row_count; i++)
    if (t->rows[i].live_first < start + count && t->rows[i].live_end > start) return 1;
  return 0;
}

static void run_task(task *t) {
  const ifa_problem *p = t->p;
  for (int64_t split = 0; split * p->kv_split < p->nk; split++) {
    int64_t end = ifa_min64((split + 1) * p->kv_split, p->nk);
    for (int32_t i = 0; i < t->row_count; i++) {
      memset(&t->rows[i].split, 0, sizeof t->rows[i].split);
      t->rows[i].split.unit = t->rows[i].split.value_unit = IFA_NO_UNIT;
    }
    for (int64_t start = split * p->kv_split; start < end; start += p->kv_tile) {
      int32_t count = (int32_t)ifa_min64(p->kv_tile, end - start);
      if (!t->out->stages && !tile_is_live(t, start, count)) continue;
      load_tile(t, start, count);
      for (int32_t i = 0; i < t->row_count; i++)
        attend_tile(t, i, &t->rows[i], start, count, (int32_t)((split + 1) * p->kv_split - start));
    }
    for (int32_t i = 0; i < t->row_count; i++) {
      record_split(t, &t->rows[i], split);
      ifa_merge_split(&t->rows[i].sums, &t->rows[i].split, p->head_dim);
    }
  }
  for (int32_t i = 0; i < t->row_count; i++)
    ifa_write_row(p, t->in, t->out, t->rows[i].at, &t->rows[i].sums);
}

/* How many computed rows from `number` on, at most TASK_ROWS, have its (batch, head)? Tasks start
 * at multiples of TASK_ROWS and are cut where the matrix changes. */
static int32_t rows_together(const task *t, int64_t number, int64_t end) {
  int64_t matrix = ifa_computed_row(t->in, number) / t->p->nq;
  int32_t count = 1;
  while (number + count < end && ifa_computed_row(t->in, number + count) / t->p->nq == matrix)
    count++;
  return count;
}

typedef struct call {
  const ifa_problem *p;
  const ifa_inputs *in;
  const ifa_outputs *out;
  int64_t rows;
  ifa_team_items tasks;
} call;

/* A member without memory leaves the tasks to the others. */
static void take_tasks(void *context, int member) {
  (void)member;
  call *c = context;
  task *t = calloc(1, sizeof *t);
  if (!t) return;
  ifa_fpenv env;
  ifa_fpenv_enter(&env); /* each thread has its own */
  t->p = c->p;
  t->in = c->in;
  t->out = c->out;
  t->dim = (c->p->head_dim + DIM_STEP - 1) / DIM_STEP * DIM_STEP;
  for (int64_t i; (i = ifa_team_take(&c->tasks)) < c->tasks.count;) {
    int64_t end = ifa_min64((i + 1) * TASK_ROWS, c->rows);
    for (int64_t number = i * TASK_ROWS; number < end; number += t->row_count) {
      load_rows(t, number, rows_together(t, number, end));
      run_task(t);
    }
  }
  free(t);
  ifa_fpenv_leave(&env);
}

/* About 40 thousand million operations a second, two for each product. */
static double nanoseconds(const ifa_problem *p, int64_t rows) {
  return (double)rows * (double)p->nk * p->head_dim * 0.1;
}

static ifa_status run(const ifa_problem *p, const ifa_inputs *in, const ifa_outputs *out,
                      ifa_message *message) {
  call c = {.p = p, .in = in, .out = out, .rows = ifa_computed_rows(p, in)};
  c.tasks.count = ifa_ceil_div(c.rows, TASK_ROWS);
  pthread_once(&tables_once, fill_tables);
  ifa_team_run(ifa_team_size(ifa_team_default(), c.tasks.count, nanoseconds(p, c.rows)), take_tasks,
               &c);
  if (c.tasks.next < c.tasks.count) /* nobody had memory */
    return ifa_fail(message, IFA_OUT_OF_MEMORY, "no memory for a thread's %zu bytes", sizeof(task));
  return ifa_succeed(message);
}

static ifa_status supports(const ifa_problem *problem, ifa_message *message) {
#ifdef _OPENMP
  (void)problem;
  return ifa_succeed(message);
#else
  (void)problem;
  return ifa_fail(message, IFA_NOT_AVAILABLE, "openmp: built without OpenMP");
#endif
}

const ifa_backend ifa_backend_openmp = {
    "openmp", "the oracle's bits on every core, arranged for caches and vectors", supports, run,
    NULL};
