/* attention_f64.c - softmax attention as a textbook writes it, in binary64: the truth of every
 * error table.
 *
 *   S_ij = sm_scale * sum_c Q_ic K_jc
 *   m_i  = max_j S_ij,   l_i = sum_j exp(S_ij - m_i),   lse_i = m_i + log l_i
 *   O_ic = (sum_j exp(S_ij - m_i) V_jc) / l_i               j over the keys that row i sees
 *
 * (Vaswani et al., arXiv 1706.03762, equation 1.) Two passes and no tiles: the maximum is known
 * before the first exponential, so nothing is rescaled. Products of binary32 numbers are exact in
 * binary64 (48 bits); each sum of n terms is off by at most n * 2^-53 of the sum of its terms'
 * magnitudes: about 1e-12 for a million keys, against errors of 1e-4 and more in what is measured.
 * The range suffices for any finite binary32 input: |S| <= 2^20 * 256 * 2^256.
 *
 * Threads: a row is one thread's and its sums have a fixed order, so the bits do not depend on the
 * number of threads. */
#include <math.h>
#include <stdlib.h>

#include "common/team.h"
#include "ref/baselines/tiles.h"

/* Four partial sums, c mod 4, because one sum would wait for each addition; always in this order.
 */
static double dot(const float *a, const float *b, int32_t length) {
  double sum[4] = {0, 0, 0, 0};
  int32_t c = 0;
  for (; c + 4 <= length; c += 4) {
    for (int32_t part = 0; part < 4; part++) sum[part] += (double)a[c + part] * (double)b[c + part];
  }
  for (; c < length; c++) sum[0] += (double)a[c] * (double)b[c];
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

/* Pass one: s[j] for the keys of `keys`, and their maximum. */
static double row_scores(const ifa_float_problem *p, const float *q, const float *k,
                         ifa_key_range keys, double *s) {
  double m = -INFINITY;
  for (int64_t j = keys.begin; j < keys.end; j++) {
    s[j - keys.begin] = (double)p->sm_scale * dot(q, k + j * p->head_dim, p->head_dim);
    m = fmax(m, s[j - keys.begin]);
  }
  return m;
}

/* Pass two: o and lse from the scores. */
static void row_values(const ifa_float_problem *p, const float *v, ifa_key_range keys,
                       const double *s, double m, double *o, double *lse) {
  double l = 0, sum[IFA_MAX_HEAD_DIM] = {0};
  for (int64_t j = keys.begin; j < keys.end; j++) {
    double weight = exp(s[j - keys.begin] - m);
    const float *value = v + j * p->head_dim;
    l += weight;
    for (int32_t c = 0; c < p->head_dim; c++) sum[c] += weight * (double)value[c];
  }
  for (int32_t c = 0; c < p->head_dim; c++) o[c] = sum[c] / l;
  if (lse) *lse = m + log(l);
}

/* 1, or 0 without memory. */
static int run_row(const ifa_float_problem *p, const ifa_float_inputs *in, int64_t number,
                   double *o, double *lse) {
  int64_t matrix = ifa_float_kv_head(p, number / p->nq) * p->nk * p->head_dim;
  ifa_key_range keys = ifa_live_keys(p, number % p->nq);
  if (keys.begin >= keys.end) {
    for (int32_t c = 0; c < p->head_dim; c++) o[c] = 0;
    if (lse) *lse = -INFINITY;
    return 1;
  }
  double *s = malloc((size_t)(keys.end - keys.begin) * sizeof *s);
  if (!s) return 0;
  double m = row_scores(p, in->q + number * p->head_dim, in->k + matrix, keys, s);
  row_values(p, in->v + matrix, keys, s, m, o, lse);
  free(s);
  return 1;
}

typedef struct call {
  const ifa_float_problem *p;
  const ifa_float_inputs *in;
  const ifa_float_outputs *out;
  ifa_team_items rows;
  atomic_int failed;
} call;

static void take_rows(void *context, int member) {
  (void)member;
  call *c = context;
  for (int64_t r; (r = ifa_team_take(&c->rows)) < c->rows.count;)
    if (!run_row(c->p, c->in, ifa_float_row(c->in, r), c->out->o + r * c->p->head_dim,
                 c->out->lse ? c->out->lse + r : NULL))
      atomic_store(&c->failed, 1);
}

ifa_status ifa_attention_f64(const ifa_float_problem *p, const ifa_float_inputs *in,
                             const ifa_float_outputs *out, ifa_message *message) {
  call c = {.p = p, .in = in, .out = out, .rows.count = ifa_float_row_count(p, in)};
  /* a nanosecond for each of two products, about */
  double nanoseconds = 2.0 * (double)c.rows.count * (double)p->nk * p->head_dim;
  ifa_team_run(ifa_team_size(ifa_team_default(), c.rows.count, nanoseconds), take_rows, &c);
  if (c.failed)
    return ifa_fail(message, IFA_OUT_OF_MEMORY, "f64: no memory for %lld scores", (long long)p->nk);
  return ifa_succeed(message);
}
