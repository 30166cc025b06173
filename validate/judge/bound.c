/* bound.c - an independent check of the oracle: softmax of the quantized problem in binary64, and
 * how far the contract may be from it.
 *
 * With true weights w_j = 2^(x_j), l = sum w_j, o = sum w_j v_j / l, and the oracle's unit U_t of
 * tile t (2^U_t stands for 255):
 *
 *   a weight is off by at most      A_t = (0.75 + X) 2^U_t / 255     0.655 for p (docs/numerics.md,
 *     6), 0.09 for the rounding of n
 *   a value weight, V per token,    B_t = (1.5 + X) 2^U'_t / 255     0.5 for P, 0.41 for g, 0.46
 *     for binary16 roundings and n
 *                                       + 2^(U_t + b_t - 13) / 255   255 * 2^-30 * 256, and W that
 *                                         rounds to 0; both times |V|
 *   X = 255 * 0.7 * 2^-22 max|x|                                     binary32 roundings of u and r
 *   a weight of less than a quarter of a count becomes 0: its error is itself, if that is less
 *   each shift loses less than one unit of l and of acc; at most one shift a tile
 *   s splits: 2 + s roundings of 2^-24 of sum |w_j V_jd|, of merging them in binary32
 *
 * so that |l~ - l| <= L = sum over tiles (n_t A_t + 2^U_t / 255), the numerator of o_d is off by at
 * most N_d, the same with |V_jd|, and
 *
 *   |o~_d - o_d| <= (N_d + |o_d| L) / (l - L) + rounding of the last steps and of the output type.
 *
 * docs/validate.md derives this. A NaN is outside every bound. */
#include "validate/judge/bound.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/contract.h"
#include "common/operand.h"
#include "common/problem.h"
#include "ref/rows.h"

/* One row's binary64 result and the bound's parts. */
typedef struct exact_row {
  /* 2^top scales everything: the largest unit or score of the row */
  double top;
  double l, l_error;
  double o[IFA_MAX_HEAD_DIM], o_error[IFA_MAX_HEAD_DIM]; /* numerators until divided */
  double size[IFA_MAX_HEAD_DIM];                         /* sums of |w V| */
} exact_row;

typedef struct row_context {
  const ifa_data *d;
  ifa_row at;
  int64_t kv_matrix, live_first, live_end;
  const int32_t *unit, *value_unit; /* of this row's tiles */
  double *x;                        /* [nk] scores in octaves */
} row_context;

static double score(const row_context *c, int64_t key) {
  const ifa_problem *p = &c->d->p;
  int64_t q = ifa_offset(p->q_stride, c->at.batch, c->at.head, c->at.row),
          k = ifa_offset(p->k_stride, c->at.batch, c->at.kv_head, key), sum = 0;
  for (int32_t d = 0; d < p->head_dim; d++)
    sum += (int64_t)ifa_operand_get(p->q_type, c->d->q_int, q + d) *
           ifa_operand_get(p->k_type, c->d->k_int, k + d);
  double q_scale = ifa_token_scale(p->q_scale, c->d->q_scale, c->at.batch * p->q_heads + c->at.head,
                                   p->nq, p->q_block, c->at.row);
  double k_scale = ifa_token_scale(p->k_scale, c->d->k_scale, c->kv_matrix, p->nk, p->k_block, key);
  return (double)sum * q_scale * k_scale * p->sm_scale * 1.4426950408889634;
}

/* The factor of V_jd that depends on the token, and the one that depends on the channel. */
static double token_factor(const row_context *c, int64_t key) {
  return ifa_values_per_token(&c->d->p) ? c->d->v_scale[c->kv_matrix * c->d->p.nk + key] : 1.0;
}

static double channel_factor(const row_context *c, int32_t dim) {
  const ifa_problem *p = &c->d->p;
  if (p->v_scale == IFA_SCALE_TENSOR) return c->d->v_scale[c->kv_matrix];
  if (p->v_scale == IFA_SCALE_CHANNEL) return c->d->v_scale[c->kv_matrix * p->head_dim + dim];
  return p->v_scale == IFA_SCALE_TOKEN_CHANNEL
             ? c->d->v_channel_scale[c->kv_matrix * p->head_dim + dim]
             : 1.0;
}

/* B_t / 255, or A_t / 255 where V is not per token; `step` gets the worth of one unit of acc. */
static double value_error(const row_context *c, int64_t tile, double widening, double top,
                          double *step) {
  const ifa_problem *p = &c->d->p;
  if (!ifa_values_per_token(p)) {
    *step = exp2(c->unit[tile] - top) / 255.0;
    return (0.75 + widening) * *step;
  }
  float largest = 0.0f;
  for (int64_t j = tile * p->kv_tile; j < ifa_min64((tile + 1) * p->kv_tile, p->nk); j++) {
    float scale = c->d->v_scale[c->kv_matrix * p->nk + j];
    if (scale > largest) largest = scale;
  }
  double vanished = exp2(c->unit[tile] + ifa_value_exponent(largest) - 13.0 - top) / 255.0;
  *step = c->value_unit[tile] == IFA_NO_UNIT ? 0.0 : exp2(c->value_unit[tile] - top) / 255.0;
  return (1.5 + widening) * *step + vanished;
}

/* A weight of less than a quarter of a count becomes 0, so its error is the weight itself. */
static double lesser_error(double weight, double step, double error) {
  return weight < 0.25 * step ? weight : error;
}

static void add_tile(const row_context *c, int64_t tile, double widening, exact_row *row) {
  const ifa_problem *p = &c->d->p;
  int64_t from = ifa_max64(tile * p->kv_tile, c->live_first),
          to = ifa_min64(ifa_min64((tile + 1) * p->kv_tile, p->nk), c->live_end);
  if (to <= from) return;
  double step = exp2(c->unit[tile] - row->top) / 255.0, v_step,
         b = value_error(c, tile, widening, row->top, &v_step);
  double a = (0.75 + widening) * step;
  row->l_error += step;
  for (int32_t d = 0; d < p->head_dim; d++) row->o_error[d] += v_step;
  for (int64_t j = from; j < to; j++) {
    double w = exp2(c->x[j] - row->top), factor = token_factor(c, j);
    int64_t v = ifa_offset(p->v_stride, c->at.batch, c->at.kv_head, j);
    row->l += w;
    row->l_error += lesser_error(w, step, a);
    double error =
        ifa_values_per_token(p) ? lesser_error(w * factor, v_step, b) : lesser_error(w, step, b);
    for (int32_t d = 0; d < p->head_dim; d++) {
      double value = ifa_operand_get(p->v_type, c->d->v_int, v + d);
      row->o[d] += w * factor * value;
      row->size[d] += w * factor * fabs(value);
      row->o_error[d] += error * fabs(value);
    }
  }
}

static void sum_row(const row_context *c, exact_row *row) {
  const ifa_problem *p = &c->d->p;
  double largest = 0.0;
  *row = (exact_row){.top = -INFINITY};
  for (int64_t j = c->live_first; j < c->live_end; j++) {
    c->x[j] = score(c, j);
    if (c->x[j] > row->top) row->top = c->x[j];
    if (fabs(c->x[j]) > largest) largest = fabs(c->x[j]);
  }
  double widening = 255.0 * 0.7 * 0x1p-22 * largest;
  for (int64_t tile = 0; tile * p->kv_tile < p->nk; tile++) add_tile(c, tile, widening, row);
  double merging = (double)(2 + ifa_ceil_div(p->nk, p->kv_split)) * 0x1p-24;
  for (int32_t d = 0; d < p->head_dim; d++)
    row->o_error[d] += merging * (row->size[d] + row->o_error[d]);
  row->l_error += merging * (row->l + row->l_error);
}

/* Half a unit in the last place of the output type, relative and absolute, and some for the last
 * binary32 steps. */
static double output_rounding(ifa_type type, double o) {
  double relative = type == IFA_F16 ? 0x1p-11 : type == IFA_BF16 ? 0x1p-8 : 0.0;
  double least = type == IFA_F16 ? 0x1p-25 : type == IFA_BF16 ? 0x1p-134 : 0x1p-149;
  return fabs(o) * (relative + 0x1p-20) + least;
}

static void note(const row_context *c, const char *name, int32_t d, double expected, double got,
                 double bound, ifa_outcome *o) {
  o->mismatches++;
  o->verdict = IFA_FAILED;
  o->stage = name;
  if (o->mismatches == 1)
    ifa_fail(&o->message, IFA_BAD_DATA,
             "%s[b %" PRId64 "][h %" PRId64 "][i %" PRId64
             "][d %d] is %.9g; binary64 gives %.9g and the bound is %.3g",
             name, c->at.batch, c->at.head, c->at.row, (int)d, got, expected, bound);
  if (o->place_count == IFA_MAX_PLACES) return;
  ifa_place *place = &o->places[o->place_count++];
  snprintf(place->where, sizeof place->where,
           "%s[b %" PRId64 "][h %" PRId64 "][i %" PRId64 "][d %d]", name, c->at.batch, c->at.head,
           c->at.row, (int)d);
  place->expected = ifa_bits_of_f32((float)expected);
  place->got = ifa_bits_of_f32((float)got);
  place->digits = 8;
}

static void check_row(const row_context *c, const float *values, const float *lse, ifa_outcome *o) {
  const ifa_problem *p = &c->d->p;
  exact_row row;
  sum_row(c, &row);
  int empty = c->live_end <= c->live_first;
  double room = row.l - row.l_error;
  for (int32_t d = 0; d < p->head_dim; d++) {
    double factor = channel_factor(c, d), exact = empty ? 0.0 : row.o[d] / row.l * factor;
    double bound = empty      ? 0.0
                   : room > 0 ? (row.o_error[d] * factor + fabs(exact) * row.l_error) / room
                              : INFINITY;
    bound += empty ? 0.0 : output_rounding(p->out_type, exact);
    /* may rightly be infinite */
    if ((fabs(exact) + bound) * 1.01 > (p->out_type == IFA_F16 ? 65504.0 : (double)FLT_MAX))
      bound = INFINITY;
    if (!(fabs((double)values[d] - exact) <= bound))
      note(c, "o", d, exact, (double)values[d], bound, o);
  }
  o->compared += p->head_dim + (lse != NULL);
  if (!lse) return;
  double exact = empty ? -INFINITY : (log2(row.l) + row.top) * 0.69314718055994531,
         got = (double)lse[c->at.index];
  double bound = room > 0 ? row.l_error / room + fabs(exact) * 0x1p-20 + 1e-6 : INFINITY;
  if (empty ? got != exact : !(fabs(got - exact) <= bound)) note(c, "lse", 0, exact, got, bound, o);
}

void ifa_bound_check(const ifa_data *d, const float *values, const float *lse, const int32_t *unit,
                     const int32_t *value_unit, ifa_outcome *o) {
  const ifa_problem *p = &d->p;
  int64_t tiles = ifa_ceil_div(p->nk, p->kv_tile);
  double *x = malloc(((size_t)p->nk + 1) * sizeof *x);
  if (!x || !values) {
    o->verdict = IFA_FAILED;
    ifa_fail(&o->message, IFA_OUT_OF_MEMORY, "no memory to check the oracle");
  }
  for (int64_t r = 0; x && values && r < d->row_count; r++) {
    row_context c = {.d = d,
                     .at = ifa_row_at(p, d->rows ? d->rows[r] : r),
                     .unit = unit + r * tiles,
                     .value_unit = value_unit + r * tiles,
                     .x = x};
    c.kv_matrix = c.at.batch * p->kv_heads + c.at.kv_head;
    ifa_live_keys(p, c.at.row, &c.live_first, &c.live_end);
    check_row(&c, values + r * p->head_dim, lse, o);
  }
  free(x);
}
