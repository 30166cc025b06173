/* close.c - the bound for kernels of other arithmetics. With the operands rounded as the claim says
 * (to nearest, scale = absmax / largest), s_j = sm * q.k_j, e_j = exp(s_j - max s), L = sum e_j,
 * w_j = e_j / L, o = sum w_j v_j, all in binary64, the kernel's o~ is off by at most
 *
 *   scores, exp   sum_j w_j (e^D_j - 1) |v_jd - o_d|           D_j: how far score j may be off, and
 *                                                                its weight at each rise of the
 *                                                                maximum
 *   weights       sum_j z_j c_jd / L + min(1, 9.2 / sqrt) sums of h_j c_jd / L
 *                                                              h_j: half a step of the weights'
 *                                                                format at e_j, z_j: what is not
 *                                                                random in that (weights that
 *                                                                vanish)
 *   sums          sum_j (n + rises_j + 2) u w_j (|v_jd| + |o_d|)   u: of the accumulator; any order
 *   values        sum_j w_j * (a step of V, where its rounding is a tie but for a hair)
 *
 * divided by 1 - (the relative error of L), and the output's rounding. 9.2: Hoeffding's inequality
 * at 10^-18. docs/close.md derives it. */
#include "validate/judge/close.h"

#include <float.h>
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

/* The formats imply none; unlike infinity, which stands where an output may rightly be infinite. */
static const double NO_BOUND = DBL_MAX;
static const double LAMBDA = 9.2; /* 2 exp(-9.2^2 / 2) < 10^-18 */
/* of expf: four units in the last place; a GPU's ex2.approx has two */
static const double EXP_ERROR = 0x1p-21;

/* ---- operands ---- */

/* One matrix [tokens][head_dim] on its grid. */
typedef struct matrix {
  double *x;
  double *slack;   /* a step where a hair would have rounded x the other way, else 0 */
  double *norm;    /* of each token */
  char *uncertain; /* has the token any slack? */
} matrix;

typedef struct scored {
  double s;
  int64_t key;
} scored;

typedef struct close_context {
  const ifa_data *d;
  const ifa_claim *claim;
  matrix q, k, v;
  int64_t q_loaded, kv_loaded; /* numbers of the matrices; -1: none */
  /* 'q', 'k' or 'v': an operand that its claimed format cannot hold; 0: none */
  char overflow;
  double k_mean[IFA_MAX_HEAD_DIM];
  double *group;                  /* scales of a matrix being loaded */
  double *s, *e, *delta, *raises; /* [nk] of a row */
  scored *order;                  /* [nk] live keys by score */
  int64_t *chain;                 /* [nk] room for count_raises */
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

/* How far a number of the claim's format may be from x, at most. scale: of its group. */
static double half_step_of_operand(ifa_operand_format f, double x, double scale) {
  switch (f.format) {
    case IFA_FORMAT_F16: return fmax(fabs(x) * 0x1p-11, 0x1p-25);
    case IFA_FORMAT_BF16: return fmax(fabs(x) * 0x1p-8, 0x1p-134);
    case IFA_FORMAT_E4M3: return fmax(fabs(x) * 0x1p-4, scale * 0x1p-10);
    case IFA_FORMAT_E5M2: return fmax(fabs(x) * 0x1p-3, scale * 0x1p-17);
    case IFA_FORMAT_INT8: return scale * 0.5;
    default: return 0;
  }
}

/* Floats to the claim's format. `mean`: what to subtract from each channel, or NULL. "at-least":
 * the floats themselves, and the format is how uncertain they are. */
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
    if (c->claim->at_least) {
      int fits = isfinite(round_to(f.format, x)) != 0;
      m->slack[i] = half_step_of_operand(f, m->x[i], scale) * (1 + 0x1p-20);
      m->x[i] = fits ? (double)source[i] : INFINITY;
      continue;
    }
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
    case IFA_FORMAT_F16: return fmax(e * 0x1p-11, 0x1p-25);
    case IFA_FORMAT_BF16: return e * 0x1p-8;
    case IFA_FORMAT_E4M3: return fmax(e * 0x1p-4, 0x1p-10);
    case IFA_FORMAT_E5M2: return fmax(e * 0x1p-3, 0x1p-17);
    default: return 0; /* a binary32 weight is what expf gave */
  }
}

typedef struct close_row {
  int64_t first, end, row;
  double top, l, shift; /* shift: what removing K's mean took from every score */
  /* a kernel may compute it from Q before or after its rounding */
  double shift_error;
  double l_error; /* relative */
  double o[IFA_MAX_HEAD_DIM], bound[IFA_MAX_HEAD_DIM];
  double largest[IFA_MAX_HEAD_DIM]; /* that a partial sum may be */
} close_row;

/* Scores, and how far each may be off before exp: products in any order, what is left of ties, and
 * the float operations between a product and exp's argument. */
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
    c->delta[j] = sm * ((dim + 16) * unit * q_norm * c->k.norm[j] + loose);
    if (c->s[j] > row->top) row->top = c->s[j];
  }
  for (int64_t j = row->first; j < row->end; j++)
    c->delta[j] += 8 * unit * (fabs(c->s[j]) + fabs(row->top));
  if (!c->claim->k_mean || c->claim->at_least) return;
  double rounded = 0;
  for (int32_t i = 0; i < dim; i++) {
    rounded += sm * q[i] * c->k_mean[i];
    row->shift += sm * (double)c->d->q[at->index * dim + i] * c->k_mean[i];
    row->shift_error += sm * fabs(q[i] * c->k_mean[i]) * 0x1p-20;
  }
  row->shift_error += fabs(rounded - row->shift);
}

/* raises[j]: how often a running maximum that has seen key j may still rise, keys coming in
 * ascending or in descending order, in pieces of any size. It rises at most at every key of the
 * chain "the next one that is larger". */
static void count_raises(close_context *c, const close_row *row) {
  int64_t depth = 0, *chain = c->chain;
  for (int64_t j = row->end - 1; j >= row->first; j--) {
    while (depth > 0 && c->s[chain[depth - 1]] <= c->s[j]) depth--;
    c->raises[j] = (double)depth;
    chain[depth++] = j;
  }
  depth = 0;
  for (int64_t j = row->first; j < row->end; j++) {
    while (depth > 0 && c->s[chain[depth - 1]] <= c->s[j]) depth--;
    c->raises[j] = fmax(c->raises[j], (double)depth);
    chain[depth++] = j;
  }
}

/* The largest first. */
static int by_score(const void *a, const void *b) {
  double x = ((const scored *)a)->s, y = ((const scored *)b)->s;
  return (x < y) - (x > y);
}

/* What rounding the weights may do: `fixed` for certain, `line` if all errors conspire, and the sum
 * of squares of what is independent. */
typedef struct weight_errors {
  double fixed[IFA_MAX_HEAD_DIM], line[IFA_MAX_HEAD_DIM], square[IFA_MAX_HEAD_DIM];
  double l_fixed, l_line, l_square;
} weight_errors;

/* A run of keys whose weights lie within an eighth of a step: one rounding error, nearly, for all.
 */
typedef struct cluster {
  double e, h;    /* of its first key; h 0: nothing in it is random */
  int64_t groups; /* of exactly equal scores */
  double count, v[IFA_MAX_HEAD_DIM];
} cluster;

static void close_cluster(const close_row *row, int32_t dim, const cluster *q, weight_errors *w) {
  if (q->groups < 2 || q->h == 0) return; /* one group has its own square already */
  w->l_square += q->h * q->count * q->h * q->count;
  for (int32_t i = 0; i < dim; i++) {
    double sum = q->h * fmax(fabs(q->v[i]), fabs(q->v[i] - q->count * row->o[i]));
    w->square[i] += sum * sum;
  }
}

/* Keys order[from .. to) of one score: one weight, hence in a tile one rounding error. */
static void add_group(close_context *c, const close_row *row, int64_t from, int64_t to, cluster *q,
                      weight_errors *w) {
  int32_t dim = c->d->p.head_dim;
  int64_t key = c->order[from].key;
  double grown = c->e[key] * exp(fmin(c->delta[key], 1)),
         h = fmin(half_step(c->claim->p, grown), 1.0), n = (double)(to - from),
         z = grown <= h ? grown : h * h / (3 * grown), sum[IFA_MAX_HEAD_DIM] = {0};
  if (grown <= h) h = 0; /* it may vanish, all of it: nothing is random */
  if (q->groups == 0 || q->e - grown > q->h / 4) {
    close_cluster(row, dim, q, w);
    *q = (cluster){.e = grown, .h = h};
  }
  q->groups++;
  q->count += n;
  for (int64_t at = from; at < to; at++) {
    const double *v = c->v.x + c->order[at].key * dim;
    for (int32_t i = 0; i < dim; i++) {
      sum[i] += fmax(fabs(v[i]), fabs(v[i] - row->o[i]));
      q->v[i] += v[i];
    }
  }
  w->l_fixed += z * n;
  w->l_line += h * n;
  w->l_square += h * n * h * n;
  for (int32_t i = 0; i < dim; i++) {
    w->fixed[i] += z * sum[i];
    w->line[i] += h * sum[i];
    w->square[i] += h * sum[i] * h * sum[i];
  }
}

static void add_weight_errors(close_context *c, close_row *row) {
  int32_t dim = c->d->p.head_dim;
  weight_errors w = {0};
  cluster q = {0};
  if (c->claim->p == IFA_FORMAT_F32) return;
  for (int64_t j = row->first; j < row->end; j++) c->order[j] = (scored){c->s[j], j};
  qsort(c->order + row->first, (size_t)(row->end - row->first), sizeof *c->order, by_score);
  for (int64_t from = row->first, to; from < row->end; from = to) {
    double s = c->order[from].s;
    for (to = from + 1; to < row->end && s - c->order[to].s <= 1e-12 * fabs(s);) to++;
    add_group(c, row, from, to, &q, &w);
  }
  close_cluster(row, dim, &q, &w);
  row->l_error += (w.l_fixed + fmin(w.l_line, LAMBDA * sqrt(w.l_square))) / row->l;
  for (int32_t i = 0; i < dim; i++)
    row->bound[i] += (w.fixed[i] + fmin(w.line[i], LAMBDA * sqrt(w.square[i]))) / row->l;
}

/* Scores, exp and sums: the worst case, whatever the order. */
static void find_bound(close_context *c, close_row *row) {
  int32_t dim = c->d->p.head_dim;
  double n = (double)(row->end - row->first), unit = unit_of(c->claim->acc), l_sums = 0;
  /* products, or sums, that are flushed to 0: below the accumulator's least number */
  double vanished = n * (c->claim->acc == IFA_FORMAT_F16 ? 0x1p-25 : 0x1p-126) / row->l;
  for (int64_t j = row->first; j < row->end; j++) {
    const double *v = c->v.x + j * dim, *slack = c->v.slack + j * dim;
    double grown = exp(c->delta[j] + (2 + c->raises[j]) * EXP_ERROR), w = c->e[j] / row->l,
           most = w * grown + fmin(half_step(c->claim->p, c->e[j] * grown), 1.0) / row->l,
           sums = most * (n + c->raises[j] + 2) * unit, score = w * (grown - 1),
           flushed = c->e[j] < 0x1p-125 ? most : 0; /* below binary32's least normal number */
    row->l_error += score + flushed;
    l_sums += sums;
    for (int32_t i = 0; i < dim; i++)
      row->bound[i] += (score + flushed) * fabs(v[i] - row->o[i]) + (sums + flushed) * fabs(v[i]);
    for (int32_t i = 0; i < dim && c->claim->acc == IFA_FORMAT_F16; i++)
      row->largest[i] += most * row->l * fabs(v[i]);
    if (!c->v.uncertain[j]) continue;
    /* a weight that vanishes here may not do so there */
    for (int32_t i = 0; i < dim; i++) row->bound[i] += most * slack[i];
  }
  row->l_error += l_sums;
  for (int32_t i = 0; i < dim; i++) row->bound[i] += l_sums * fabs(row->o[i]) + vanished;
  if (row->l_error < 0.5) add_weight_errors(c, row);
  for (int32_t i = 0; i < dim; i++)
    row->bound[i] = row->l_error < 0.5 ? row->bound[i] / (1 - row->l_error) : NO_BOUND;
}

/* Of an output of size o, at most, to the claim's type and the case's. */
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
  count_raises(c, row);
  for (int64_t j = row->first; j < row->end; j++) row->l += c->e[j] = exp(c->s[j] - row->top);
  for (int64_t j = row->first; j < row->end; j++) {
    const double *v = c->v.x + j * dim;
    for (int32_t i = 0; i < dim; i++) row->o[i] += c->e[j] * v[i];
  }
  for (int32_t i = 0; i < dim; i++) row->o[i] /= row->l;
  find_bound(c, row);
}

/* ---- what is expected ---- */

/* Of one computed row. */
typedef struct expected_row {
  int64_t row; /* its number */
  int empty;   /* it sees no key */
  double lse, lse_bound;
} expected_row;

struct ifa_close {
  const ifa_data *d;
  expected_row *rows;
  double *o, *bound; /* [computed row][head_dim]; the bound holds the output's rounding */
  char overflow;     /* as in close_context */
};

static void expect_row(close_context *c, int64_t r, ifa_close *e) {
  const ifa_problem *p = &c->d->p;
  ifa_row at = ifa_row_at(p, c->d->rows ? c->d->rows[r] : r);
  close_row row = {.row = at.index};
  expected_row *x = &e->rows[r];
  ifa_live_keys(p, at.row, &row.first, &row.end);
  *x = (expected_row){.row = at.index, .empty = row.end <= row.first, .lse = -INFINITY};
  if (!x->empty) compute_row(c, &at, &row);
  if (c->overflow) return;
  for (int32_t i = 0; i < p->head_dim; i++) {
    double bound = row.bound[i], known = bound == NO_BOUND ? 0 : bound,
           rounding = output_rounding(c->claim->o, p->out_type, fabs(row.o[i]) + known);
    e->o[r * p->head_dim + i] = row.o[i];
    if (isinf(rounding) || row.largest[i] * 1.01 > 65504) bound = INFINITY;
    else if (bound != NO_BOUND) bound += rounding;
    e->bound[r * p->head_dim + i] = x->empty ? 0 : bound;
  }
  if (x->empty) return;
  x->lse = row.top + log(row.l) + row.shift;
  x->lse_bound =
      row.l_error < 0.5
          ? -log1p(-row.l_error) + (fabs(x->lse) + fabs(row.top)) * 0x1p-21 + row.shift_error + 1e-6
          : NO_BOUND;
}

static int new_context(const ifa_data *d, const ifa_claim *claim, close_context *c) {
  const ifa_problem *p = &d->p;
  size_t keys = (size_t)p->nk + 1,
         groups = (size_t)ifa_max64(ifa_max64(p->nq, p->nk), p->head_dim) + 1;
  *c = (close_context){.d = d,
                       .claim = claim,
                       .q_loaded = -1,
                       .kv_loaded = -1,
                       .group = malloc(groups * sizeof(double)),
                       .s = malloc(keys * sizeof(double)),
                       .e = malloc(keys * sizeof(double)),
                       .delta = malloc(keys * sizeof(double)),
                       .raises = malloc(keys * sizeof(double)),
                       .order = malloc(keys * sizeof(scored)),
                       .chain = malloc(keys * sizeof(int64_t))};
  int ok = new_matrix(p->nq, p->head_dim, &c->q);
  ok &= new_matrix(p->nk, p->head_dim, &c->k);
  ok &= new_matrix(p->nk, p->head_dim, &c->v);
  return ok && c->group && c->s && c->e && c->delta && c->raises && c->order && c->chain;
}

static void free_context(close_context *c) {
  free_matrix(&c->q);
  free_matrix(&c->k);
  free_matrix(&c->v);
  free(c->group);
  free(c->s);
  free(c->e);
  free(c->delta);
  free(c->raises);
  free(c->order);
  free(c->chain);
}

ifa_status ifa_close_make(const ifa_data *d, const ifa_claim *claim, ifa_close **close,
                          ifa_message *message) {
  close_context c;
  ifa_close *e = *close = calloc(1, sizeof *e);
  size_t elements = (size_t)(d->row_count * d->p.head_dim) + 1;
  int ok = new_context(d, claim, &c) && e;
  if (ok) {
    *e = (ifa_close){.d = d,
                     .rows = malloc(((size_t)d->row_count + 1) * sizeof *e->rows),
                     .o = malloc(elements * sizeof *e->o),
                     .bound = malloc(elements * sizeof *e->bound)};
    ok = e->rows && e->o && e->bound;
  }
  for (int64_t r = 0; ok && r < d->row_count && !c.overflow; r++) expect_row(&c, r, e);
  if (ok) e->overflow = c.overflow;
  free_context(&c);
  return ok ? IFA_OK
            : ifa_fail(message, IFA_OUT_OF_MEMORY, "no memory to compute the case in binary64");
}

void ifa_close_free(ifa_close *e) {
  if (!e) return;
  free(e->rows);
  free(e->o);
  free(e->bound);
  free(e);
}

const double *ifa_close_right(const ifa_close *e) { return e->overflow ? NULL : e->o; }
const double *ifa_close_bound(const ifa_close *e) { return e->overflow ? NULL : e->bound; }

void ifa_close_lse(const ifa_close *e, double *right, double *bound) {
  for (int64_t r = 0; r < e->d->row_count; r++) {
    right[r] = e->rows[r].lse;
    bound[r] = e->rows[r].lse_bound;
  }
}

static void take_operand(close_context *c, char which, int64_t heads, int64_t tokens,
                         const float *floats, matrix *m, float *to) {
  int64_t size = tokens * c->d->p.head_dim;
  for (int64_t n = 0; n < c->d->p.batch * heads; n++) {
    load_operand(c, which, n / heads, n % heads, heads, tokens, floats, m);
    for (int64_t i = 0; i < size; i++) to[n * size + i] = (float)m->x[i];
  }
}

ifa_status ifa_close_operands(const ifa_data *d, const ifa_claim *claim, float *q, float *k,
                              float *v, ifa_message *message) {
  close_context c;
  int ok = new_context(d, claim, &c);
  if (ok) {
    take_operand(&c, 'q', d->p.q_heads, d->p.nq, d->q, &c.q, q);
    take_operand(&c, 'k', d->p.kv_heads, d->p.nk, d->k, &c.k, k);
    take_operand(&c, 'v', d->p.kv_heads, d->p.nk, d->v, &c.v, v);
  }
  free_context(&c);
  return ok ? IFA_OK : ifa_fail(message, IFA_OUT_OF_MEMORY, "no memory for rounded operands");
}

/* ---- the verdict ---- */

/* The first place's message: a sentence also where a number is none. */
static void describe(const char *name, const char *where, const ifa_place *x, ifa_message *m) {
  if (isinf(x->right))
    ifa_fail(m, IFA_BAD_DATA, "%s%s is %.9g; it should be -infinity: the row sees no key", name,
             where, x->value);
  else if (!isfinite(x->value))
    ifa_fail(
        m, IFA_BAD_DATA, "%s%s is %.9g; binary64 gives %.9g%s", name, where, x->value, x->right,
        x->bound < NO_BOUND ? "" : "; its formats imply no bound here, but a number it must be");
  else if (x->bound == 0)
    ifa_fail(m, IFA_BAD_DATA, "%s%s is %.9g; it should be %.9g: the row sees no key", name, where,
             x->value, x->right);
  else
    ifa_fail(m, IFA_BAD_DATA, "%s%s is %.9g; binary64 gives %.9g and the bound is %.3g", name,
             where, x->value, x->right, x->bound);
}

static void note(const ifa_problem *p, const char *name, int64_t row, int32_t d, double right,
                 double got, double bound, ifa_outcome *o) {
  char where[80];
  ifa_place_text(p, row, d, where, sizeof where);
  ifa_place place = {.expected = ifa_bits_of_f32((float)right),
                     .got = ifa_bits_of_f32((float)got),
                     .digits = 8,
                     .bounded = 1,
                     .right = right,
                     .value = got,
                     .bound = bound};
  o->verdict = IFA_FAILED;
  if (o->mismatches++ == 0) {
    o->stage = name;
    describe(name, where, &place, &o->message);
  }
  if (o->place_count == IFA_MAX_PLACES) return;
  snprintf(place.where, sizeof place.where, "%s%s", name, where);
  o->places[o->place_count++] = place;
}

static void judge_row(const ifa_close *e, int64_t r, const ifa_run_buffers *got,
                      ifa_distance_sums *sums, ifa_outcome *o) {
  const ifa_problem *p = &e->d->p;
  const expected_row *x = &e->rows[r];
  const double *right = e->o + r * p->head_dim, *bounds = e->bound + r * p->head_dim;
  double values[IFA_MAX_HEAD_DIM];
  int bounded = 1;
  for (int32_t d = 0; d < p->head_dim; d++) {
    values[d] = (double)ifa_float_get(p->out_type, got->o.data, ifa_output_index(e->d, r, d));
    double bound = bounds[d], error = fabs(values[d] - right[d]),
           share = error == 0 || (isinf(bound) && !isnan(error)) ? 0 : error / bound;
    bounded &= bound < NO_BOUND;
    if (ifa_distance_worse(share, sums->result.worst_bound) || !sums->result.worst_bound_at[0]) {
      sums->result.worst_bound = share;
      ifa_place_text(p, x->row, d, sums->result.worst_bound_at, sizeof sums->result.worst_bound_at);
    }
    /* no bound is no leave to be no number, but where the output may overflow its type */
    int finite = isfinite(values[d]) || (isinf(bound) && !isnan(values[d]));
    if (!finite || !(error <= bound)) note(p, "o", x->row, d, right[d], values[d], bound, o);
  }
  sums->result.unbounded_rows += !bounded;
  o->compared += bounded ? p->head_dim : 0;
  ifa_distance_add(sums, p, x->row, right, values);
  if (!p->lse) return;
  double lse = (double)((const float *)got->lse.data)[x->row];
  o->compared += bounded;
  if (x->empty ? lse != x->lse : !(isfinite(lse) && fabs(lse - x->lse) <= x->lse_bound))
    note(p, "lse", x->row, -1, x->lse, lse, x->lse_bound, o);
}

void ifa_close_judge(const ifa_close *e, const ifa_run_buffers *got, ifa_outcome *o) {
  ifa_distance_sums sums = {0};
  if (e->overflow) { /* what the right answer would be, nobody can say */
    *o = (ifa_outcome){.verdict = IFA_NOT_SUPPORTED, .seconds = o->seconds};
    ifa_fail(&o->message, IFA_UNSUPPORTED, "%c has values that its claimed format cannot hold",
             e->overflow);
    return;
  }
  for (int64_t r = 0; r < e->d->row_count; r++) judge_row(e, r, got, &sums, o);
  if (e->d->row_count) o->distance = ifa_distance_finish(&sums);
  if (o->verdict != IFA_PASSED || o->compared > 0) return;
  o->verdict = IFA_EMPTY;
  if (e->d->row_count)
    ifa_fail(&o->message, IFA_BAD_DATA, "the formats imply no bound for any row");
}

void ifa_close_check(const ifa_data *d, const ifa_claim *claim, const ifa_run_buffers *got,
                     ifa_outcome *o) {
  ifa_close *e;
  if (ifa_close_make(d, claim, &e, &o->message) == IFA_OK) ifa_close_judge(e, got, o);
  else o->verdict = IFA_FAILED;
  ifa_close_free(e);
}
