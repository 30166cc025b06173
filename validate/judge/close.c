/* close.c - the bound for kernels of other arithmetics. With the operands rounded as the claim says
 * (to nearest, scale = absmax / largest), s_j = sm * q.k_j, e_j = exp(s_j - max s), L = sum e_j,
 * w_j = e_j / L, o = sum w_j v_j, all in binary64, the kernel's o~ is off by at most
 *
 *   scores    e^D * sum_j w_j (e^D_j - 1) |v_jd - o_d|          D_j: how far score j may be off, D
 *                                                               the largest
 *   weights   sum_j z_j c_jd / L + min(1, 9.2 / sqrt) sums of h_j c_jd / L      h_j: half a step of
 *     the weights' format at e_j,
 *                                                                z_j: what is not random in that
 *                                                                  (weights that vanish)
 *   sums      2 min(n, 9.2 sqrt(n)) u * sum_j w_j |v_jd|         u: of the accumulator
 *   values    sum_j w_j * (a step of V, where its rounding is a tie but for a hair)
 *
 * divided by 1 - (the relative error of L), and the output's rounding. 9.2: Hoeffding's inequality
 * at 10^-18. docs/validate.md derives it. */
#include "validate/judge/close.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/operand.h"
#include "common/problem.h"
#include "ref/baselines/fp8.h"
#include "ref/rows.h"
#include "validate/judge/distance.h"

static const double LAMBDA = 9.2; /* 2 exp(-9.2^2 / 2) < 10^-18 */

/* ---- operands ---- */

/* One matrix [tokens][head_dim] on its grid. */
typedef struct matrix {
  double *x;
  double *slack;   /* a step where a hair would have rounded x the other way, else 0 */
  double *norm;    /* of each token */
  char *uncertain; /* has the token any slack? */
} matrix;

typedef struct close_context {
  const ifa_data *d;
  const ifa_claim *claim;
  matrix q, k, v;
  int64_t q_loaded, kv_loaded; /* numbers of the matrices; -1: none */
  /* 'q', 'k' or 'v': an operand that its claimed format cannot hold; 0: none */
  char overflow;
  double k_mean[IFA_MAX_HEAD_DIM];
  double *group;         /* scales of a matrix being loaded */
  double *s, *e, *delta; /* [nk] of a row */
  int64_t *order;        /* [nk] live keys by score */
} close_context;

static double round_to(ifa_format format, double x) {
  switch (format) {
    case IFA_FORMAT_F16: return (double)ifa_f16_to_f32(ifa_f32_to_f16((float)x));
    case IFA_FORMAT_BF16: return (double)ifa_bf16_to_f32(ifa_f32_to_bf16((float)x));
    case IFA_FORMAT_E4M3: return (double)ifa_e4m3_to_f32(ifa_f64_to_e4m3(x));
    case IFA_FORMAT_E5M2: return (double)ifa_e5m2_to_f32(ifa_f64_to_e5m2(x));
    case IFA_FORMAT_INT8: return fmin(fmax(rint(x), -127.0), 127.0);
    default: return x;
  }
}

static int64_t group_of(ifa_share share, int64_t token, int32_t d) {
  return share == IFA_SHARE_TOKEN ? token : share == IFA_SHARE_CHANNEL ? d : 0;
}

/* Floats to the claim's format. `mean`: what to subtract from each channel, or NULL. */
static void round_matrix(close_context *c, ifa_operand_format f, const float *source,
                         const double *mean, int64_t tokens, matrix *m) {
  int32_t dim = c->d->p.head_dim;
  double largest = f.format == IFA_FORMAT_INT8 ? 127.0 : 448.0;
  for (int64_t g = 0; g < ifa_max64(tokens, dim); g++) c->group[g] = 0.0;
  for (int64_t i = 0; i < tokens * dim; i++) {
    m->x[i] = (double)source[i];
    if (mean) m->x[i] = (double)(float)(m->x[i] - mean[i % dim]);
    double *g = &c->group[group_of(f.share, i / dim, (int32_t)(i % dim))];
    *g = fmax(*g, fabs(m->x[i]));
  }
  for (int64_t i = 0; i < tokens * dim; i++) {
    double scale =
        f.share == IFA_SHARE_NONE
            ? 1.0
            : (double)(float)(c->group[group_of(f.share, i / dim, (int32_t)(i % dim))] / largest);
    double x = scale > 0 ? m->x[i] / scale : 0.0;
    m->x[i] = round_to(f.format, x) * scale;
    m->slack[i] =
        f.share == IFA_SHARE_NONE
            ? 0.0
            : fabs(round_to(f.format, x * (1 + 0x1p-22)) - round_to(f.format, x * (1 - 0x1p-22))) *
                  scale;
  }
}

static void finish_matrix(matrix *m, int64_t tokens, int32_t dim) {
  for (int64_t t = 0; t < tokens; t++) {
    double sum = 0;
    m->uncertain[t] = 0;
    for (int64_t i = t * dim; i < (t + 1) * dim; i++) {
      sum += m->x[i] * m->x[i];
      if (m->slack[i] > 0) m->uncertain[t] = 1;
    }
    m->norm[t] = sqrt(sum);
  }
}

/* The case's own integers and scales. */
static void take_given(close_context *c, char which, int64_t b, int64_t h, int64_t tokens,
                       matrix *m) {
  const ifa_data *d = c->d;
  const ifa_problem *p = &d->p;
  ifa_type type = which == 'q' ? p->q_type : which == 'k' ? p->k_type : p->v_type;
  ifa_strides strides = which == 'q' ? p->q_stride : which == 'k' ? p->k_stride : p->v_stride;
  const void *data = which == 'q' ? d->q_int : which == 'k' ? d->k_int : d->v_int;
  int64_t number = b * (which == 'q' ? p->q_heads : p->kv_heads) + h;
  for (int64_t t = 0; t < tokens; t++)
    for (int32_t i = 0; i < p->head_dim; i++) {
      double scale;
      if (which == 'q')
        scale = (double)ifa_token_scale(p->q_scale, d->q_scale, number, p->nq, p->q_block, t);
      else if (which == 'k')
        scale = (double)ifa_token_scale(p->k_scale, d->k_scale, number, p->nk, p->k_block, t);
      else if (p->v_scale == IFA_SCALE_TENSOR) scale = (double)d->v_scale[number];
      else if (p->v_scale == IFA_SCALE_CHANNEL)
        scale = (double)d->v_scale[number * p->head_dim + i];
      else
        scale =
            (double)d->v_scale[number * p->nk + t] *
            (p->v_scale == IFA_SCALE_TOKEN ? 1.0
                                           : (double)d->v_channel_scale[number * p->head_dim + i]);
      m->x[t * p->head_dim + i] =
          scale * (double)ifa_operand_get(type, data, ifa_offset(strides, b, h, t) + i);
      m->slack[t * p->head_dim + i] = 0;
    }
}

static void load_operand(close_context *c, char which, int64_t b, int64_t h, int64_t heads,
                         int64_t tokens, const float *floats, matrix *m) {
  ifa_operand_format f = which == 'q' ? c->claim->q : which == 'k' ? c->claim->k : c->claim->v;
  int32_t dim = c->d->p.head_dim;
  const float *source = floats + (b * heads + h) * tokens * dim;
  if (which == 'k') {
    for (int32_t i = 0; i < dim; i++) {
      double sum = 0;
      for (int64_t t = 0; t < tokens && c->claim->k_mean; t++) sum += (double)source[t * dim + i];
      c->k_mean[i] = tokens ? sum / (double)tokens : 0.0;
    }
  }
  if (f.format == IFA_FORMAT_GIVEN) take_given(c, which, b, h, tokens, m);
  else round_matrix(c, f, source, which == 'k' && c->claim->k_mean ? c->k_mean : NULL, tokens, m);
  for (int64_t i = 0; i < tokens * dim; i++)
    if (!isfinite(m->x[i])) c->overflow = which;
  finish_matrix(m, tokens, dim);
}

static void load_row(close_context *c, const ifa_row *at) {
  const ifa_problem *p = &c->d->p;
  int64_t q = at->batch * p->q_heads + at->head, kv = at->batch * p->kv_heads + at->kv_head;
  if (q != c->q_loaded)
    load_operand(c, 'q', at->batch, at->head, p->q_heads, p->nq, c->d->q, &c->q);
  if (kv != c->kv_loaded) {
    load_operand(c, 'k', at->batch, at->kv_head, p->kv_heads, p->nk, c->d->k, &c->k);
    load_operand(c, 'v', at->batch, at->kv_head, p->kv_heads, p->nk, c->d->v, &c->v);
  }
  c->q_loaded = q;
  c->kv_loaded = kv;
}

static int new_matrix(int64_t tokens, int32_t dim, matrix *m) {
  size_t elements = (size_t)(tokens * dim) + 1;
  *m = (matrix){malloc(elements * sizeof(double)), malloc(elements * sizeof(double)),
                malloc(((size_t)tokens + 1) * sizeof(double)), malloc((size_t)tokens + 1)};
  return m->x && m->slack && m->norm && m->uncertain;
}

static void free_matrix(matrix *m) {
  free(m->x);
  free(m->slack);
  free(m->norm);
  free(m->uncertain);
}

/* ---- one row ---- */

/* Unit roundoff of a float format; half of the least step, absolute, beside it. */
static double unit_of(ifa_format f) {
  return f == IFA_FORMAT_F16    ? 0x1p-11
         : f == IFA_FORMAT_BF16 ? 0x1p-8
         : f == IFA_FORMAT_E4M3 ? 0x1p-4
         : f == IFA_FORMAT_E5M2 ? 0x1p-3
                                : 0x1p-24;
}

/* Half a step of the weights' format at e (the largest weight is 1), at most. */
static double half_step(ifa_format f, double e) {
  switch (f) {
    case IFA_FORMAT_INT8: return 0.5 / 127.0;
    case IFA_FORMAT_UINT8: return 0.5 / 255.0;
    /* the exponential function of a GPU, and its argument's rounding */
    case IFA_FORMAT_F32: return e * 0x1p-20;
    case IFA_FORMAT_F16: return fmax(e * 0x1p-11, 0x1p-25) + e * 0x1p-20;
    case IFA_FORMAT_BF16: return e * (0x1p-8 + 0x1p-20);
    case IFA_FORMAT_E4M3: return fmax(e * 0x1p-4, 0x1p-10);
    default: return fmax(e * 0x1p-3, 0x1p-17);
  }
}

typedef struct close_row {
  int64_t first, end, row;
  double top, l, shift; /* shift: what removing K's mean took from every score */
  /* a kernel may compute it from Q before or after its rounding */
  double shift_error;
  double delta;   /* the largest D_j */
  double l_error; /* relative */
  double o[IFA_MAX_HEAD_DIM], bound[IFA_MAX_HEAD_DIM];
} close_row;

static void find_scores(close_context *c, const ifa_row *at, close_row *row) {
  int32_t dim = c->d->p.head_dim;
  const double *q = c->q.x + at->row * dim, *q_slack = c->q.slack + at->row * dim;
  double sm = (double)c->d->p.sm_scale, unit = unit_of(IFA_FORMAT_F32), q_norm = c->q.norm[at->row];
  row->top = -INFINITY;
  for (int64_t j = row->first; j < row->end; j++) {
    const double *k = c->k.x + j * dim, *k_slack = c->k.slack + j * dim;
    double sum = 0, loose = 0;
    for (int32_t i = 0; i < dim; i++) sum += q[i] * k[i];
    if (c->q.uncertain[at->row] || c->k.uncertain[j])
      for (int32_t i = 0; i < dim; i++)
        loose += q_slack[i] * fabs(k[i]) + k_slack[i] * fabs(q[i]) + q_slack[i] * k_slack[i];
    c->s[j] = sum * sm;
    c->delta[j] =
        sm * ((dim + 16) * unit * q_norm * c->k.norm[j] + loose) + fabs(c->s[j]) * 0x1p-20;
    if (c->s[j] > row->top) row->top = c->s[j];
  }
  if (!c->claim->k_mean) return;
  double rounded = 0;
  for (int32_t i = 0; i < dim; i++) {
    rounded += sm * q[i] * c->k_mean[i];
    row->shift += sm * (double)c->d->q[at->index * dim + i] * c->k_mean[i];
    row->shift_error += sm * fabs(q[i] * c->k_mean[i]) * 0x1p-20;
  }
  row->shift_error += fabs(rounded - row->shift);
}

static const double *sort_scores;
static int by_score(const void *a, const void *b) {
  double x = sort_scores[*(const int64_t *)a], y = sort_scores[*(const int64_t *)b];
  return (x > y) - (x < y);
}

/* Keys of the same score have the same weight and, in one tile, the same rounding error: they count
 * as one. Sorted so that they are neighbours. */
static void order_keys(close_context *c, const close_row *row) {
  for (int64_t j = row->first; j < row->end; j++) c->order[j] = j;
  if (c->claim->p == IFA_FORMAT_F32) return;
  sort_scores = c->s;
  qsort(c->order + row->first, (size_t)(row->end - row->first), sizeof *c->order, by_score);
}

/* What the rounding of the weights may do to the output and to L. */
static void add_weight_errors(close_context *c, close_row *row) {
  int32_t dim = c->d->p.head_dim;
  double fixed[IFA_MAX_HEAD_DIM] = {0}, line[IFA_MAX_HEAD_DIM] = {0},
         square[IFA_MAX_HEAD_DIM] = {0}, sum[IFA_MAX_HEAD_DIM];
  double l_fixed = 0, l_line = 0, l_square = 0;
  for (int64_t at = row->first, next; at < row->end; at = next) {
    double s = c->s[c->order[at]], e = c->e[c->order[at]], h = fmin(half_step(c->claim->p, e), 1.0),
           z = e <= h ? e : h * h / (3 * e);
    if (e <= h) h = 0; /* it may vanish, all of it: nothing is random */
    for (int32_t i = 0; i < dim; i++) sum[i] = 0;
    for (next = at; next < row->end && c->s[c->order[next]] - s <= 1e-12 * fabs(s); next++) {
      const double *v = c->v.x + c->order[next] * dim;
      for (int32_t i = 0; i < dim; i++) sum[i] += fmax(fabs(v[i]), fabs(v[i] - row->o[i]));
      /* not sorted, and summed up as they come */
      if (c->claim->p == IFA_FORMAT_F32) {
        next++;
        break;
      }
    }
    double n = (double)(next - at);
    l_fixed += z * n;
    l_line += h * n;
    l_square += h * n * h * n;
    for (int32_t i = 0; i < dim; i++) {
      fixed[i] += z * sum[i];
      line[i] += h * sum[i];
      square[i] += h * sum[i] * h * sum[i];
    }
  }
  row->l_error += (l_fixed + fmin(l_line, LAMBDA * sqrt(l_square))) / row->l;
  for (int32_t i = 0; i < dim; i++)
    row->bound[i] += (fixed[i] + fmin(line[i], LAMBDA * sqrt(square[i]))) / row->l;
}

static void find_bound(close_context *c, close_row *row) {
  int32_t dim = c->d->p.head_dim;
  double n = (double)(row->end - row->first), unit = unit_of(c->claim->acc),
         sums = 2 * fmin(n, LAMBDA * sqrt(n)) * unit;
  for (int64_t j = row->first; j < row->end; j++) row->delta = fmax(row->delta, c->delta[j]);
  double grown = exp(row->delta);
  for (int64_t j = row->first; j < row->end; j++) {
    const double *v = c->v.x + j * dim, *slack = c->v.slack + j * dim;
    double w = c->e[j] / row->l, score = w * expm1(c->delta[j]) * grown;
    for (int32_t i = 0; i < dim; i++)
      row->bound[i] += score * fabs(v[i] - row->o[i]) + w * sums * fabs(v[i]);
    if (!c->v.uncertain[j]) continue;
    /* a weight that vanishes here may not do so there */
    double most = (c->e[j] + fmin(half_step(c->claim->p, c->e[j]), 1.0)) * grown / row->l;
    for (int32_t i = 0; i < dim; i++) row->bound[i] += most * slack[i];
  }
  row->l_error = sums + 0x1p-20;
  add_weight_errors(c, row);
  for (int32_t i = 0; i < dim; i++)
    row->bound[i] = row->l_error < 0.5 ? row->bound[i] / (1 - row->l_error) : INFINITY;
}

static double output_rounding(ifa_format claimed, ifa_type stored, double o) {
  double least[] = {[IFA_FORMAT_F32] = 0x1p-149,
                    [IFA_FORMAT_F16] = 0x1p-25,
                    [IFA_FORMAT_BF16] = 0x1p-134,
                    [IFA_FORMAT_E4M3] = 0x1p-10,
                    [IFA_FORMAT_E5M2] = 0x1p-17};
  ifa_format type = stored == IFA_F16    ? IFA_FORMAT_F16
                    : stored == IFA_BF16 ? IFA_FORMAT_BF16
                                         : IFA_FORMAT_F32;
  /* may rightly be infinite */
  if ((type == IFA_FORMAT_F16 || claimed == IFA_FORMAT_F16) && fabs(o) * 1.01 > 65504.0)
    return INFINITY;
  return fabs(o) * (unit_of(claimed) + unit_of(type) + 0x1p-20) + least[claimed] + least[type];
}

static void compute_row(close_context *c, const ifa_row *at, close_row *row) {
  int32_t dim = c->d->p.head_dim;
  load_row(c, at);
  find_scores(c, at, row);
  for (int64_t j = row->first; j < row->end; j++) row->l += c->e[j] = exp(c->s[j] - row->top);
  for (int64_t j = row->first; j < row->end; j++) {
    const double *v = c->v.x + j * dim;
    for (int32_t i = 0; i < dim; i++) row->o[i] += c->e[j] * v[i];
  }
  for (int32_t i = 0; i < dim; i++) row->o[i] /= row->l;
  order_keys(c, row);
  find_bound(c, row);
}

/* ---- the verdict ---- */

static void note(const ifa_problem *p, const char *name, int64_t row, int32_t d, double expected,
                 double got, double bound, ifa_outcome *o) {
  char where[80];
  ifa_place_text(p, row, d, where, sizeof where);
  o->verdict = IFA_FAILED;
  if (o->mismatches++ == 0) {
    o->stage = name;
    ifa_fail(&o->message, IFA_BAD_DATA, "%s%s is %.9g; binary64 gives %.9g and the bound is %.3g",
             name, where, got, expected, bound);
  }
  if (o->place_count == IFA_MAX_PLACES) return;
  ifa_place *place = &o->places[o->place_count++];
  snprintf(place->where, sizeof place->where, "%s%s", name, where);
  place->expected = ifa_bits_of_f32((float)expected);
  place->got = ifa_bits_of_f32((float)got);
  place->digits = 8;
}

static void check_row(close_context *c, int64_t r, const ifa_run_buffers *got,
                      ifa_distance_sums *sums, ifa_outcome *o) {
  const ifa_problem *p = &c->d->p;
  ifa_row at = ifa_row_at(p, c->d->rows ? c->d->rows[r] : r);
  close_row row = {.row = at.index};
  double values[IFA_MAX_HEAD_DIM];
  int bounded = 1;
  ifa_live_keys(p, at.row, &row.first, &row.end);
  int empty = row.end <= row.first;
  if (!empty) compute_row(c, &at, &row);
  if (c->overflow) return;
  for (int32_t d = 0; d < p->head_dim; d++) {
    values[d] = (double)ifa_float_get(p->out_type, got->o.data, ifa_output_index(c->d, r, d));
    double rounding = empty ? 0 : output_rounding(c->claim->o, p->out_type, row.o[d]),
           bound = row.bound[d] + rounding;
    double error = fabs(values[d] - row.o[d]),
           share = error == 0 || (isinf(bound) && !isnan(error)) ? 0 : error / bound;
    bounded &= isfinite(bound) != 0;
    if (ifa_distance_worse(share, sums->result.worst_bound) || !sums->result.worst_bound_at[0]) {
      sums->result.worst_bound = share;
      ifa_place_text(p, at.index, d, sums->result.worst_bound_at,
                     sizeof sums->result.worst_bound_at);
    }
    /* no bound is no leave to be no number */
    int finite = isfinite(values[d]) || (rounding == INFINITY && !isnan(values[d]));
    if (!finite || !(error <= bound)) note(p, "o", at.index, d, row.o[d], values[d], bound, o);
  }
  sums->result.unbounded_rows += !bounded;
  o->compared += bounded ? p->head_dim : 0;
  ifa_distance_add(sums, p, at.index, row.o, values);
  if (!p->lse) return;
  double lse = (double)((const float *)got->lse.data)[at.index],
         exact = empty ? -INFINITY : row.top + log(row.l) + row.shift;
  double bound = row.l_error < 0.5 ? row.delta + row.l_error / (1 - row.l_error) +
                                         fabs(exact) * 0x1p-20 + row.shift_error + 1e-6
                                   : INFINITY;
  o->compared += bounded;
  if (empty ? lse != exact : !(isfinite(lse) && fabs(lse - exact) <= bound))
    note(p, "lse", at.index, -1, exact, lse, bound, o);
}

void ifa_close_check(const ifa_data *d, const ifa_claim *claim, const ifa_run_buffers *got,
                     ifa_outcome *o) {
  const ifa_problem *p = &d->p;
  size_t keys = (size_t)p->nk + 1,
         groups = (size_t)ifa_max64(ifa_max64(p->nq, p->nk), p->head_dim) + 1;
  close_context c = {.d = d,
                     .claim = claim,
                     .q_loaded = -1,
                     .kv_loaded = -1,
                     .group = malloc(groups * sizeof(double)),
                     .s = malloc(keys * sizeof(double)),
                     .e = malloc(keys * sizeof(double)),
                     .delta = malloc(keys * sizeof(double)),
                     .order = malloc(keys * sizeof(int64_t))};
  ifa_distance_sums sums = {0};
  int ok = new_matrix(p->nq, p->head_dim, &c.q);
  ok &= new_matrix(p->nk, p->head_dim, &c.k);
  ok &= new_matrix(p->nk, p->head_dim, &c.v);
  if (!ok || !c.group || !c.s || !c.e || !c.delta || !c.order) {
    o->verdict = IFA_FAILED;
    ifa_fail(&o->message, IFA_OUT_OF_MEMORY, "no memory to compute the case in binary64");
  } else {
    for (int64_t r = 0; r < d->row_count && !c.overflow; r++) check_row(&c, r, got, &sums, o);
    if (d->row_count) o->distance = ifa_distance_finish(&sums);
    if (c.overflow) { /* what the right answer would be, nobody can say */
      *o = (ifa_outcome){.verdict = IFA_NOT_SUPPORTED, .seconds = o->seconds};
      ifa_fail(&o->message, IFA_UNSUPPORTED, "%c has values that its claimed format cannot hold",
               c.overflow);
    } else if (o->verdict == IFA_PASSED && o->compared == 0) {
      o->verdict = IFA_EMPTY;
      if (d->row_count)
        ifa_fail(&o->message, IFA_BAD_DATA, "the formats imply no bound for any row");
    }
  }
  free_matrix(&c.q);
  free_matrix(&c.k);
  free_matrix(&c.v);
  free(c.group);
  free(c.s);
  free(c.e);
  free(c.delta);
  free(c.order);
}
