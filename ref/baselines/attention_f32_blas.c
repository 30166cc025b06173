/* attention_f32_blas.c - textbook attention in binary32 as a user of a matrix library would write
 * it.
 *
 *   S = sm_scale * Q K^T       cblas_sgemm, [rows, nk]
 *   P = exp(S - max S) by row, 0 where masked;  l = sum_j P_j
 *   O = P V / l                cblas_sgemm, [rows, head_dim]
 *
 * (arXiv 1706.03762, equation 1.) Per head, and at most BLOCK_ROWS query rows at a time: S holds
 * BLOCK_ROWS * nk numbers, at most BLOCK_SCORES unless a single row needs more. The library picks
 * its order of summation by size and by processor, so the last bits of a row may depend on which
 * other rows are computed and on the number of threads. */
#include "ref/baselines/tiles.h"

#ifdef IFA_HAVE_OPENBLAS
#include <cblas.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK_ROWS = 256, BLOCK_SCORES = 1 << 26 };

typedef struct blas_block {
  const ifa_float_problem *p;
  const ifa_float_inputs *in;
  int64_t first, last; /* computed rows, all of one head, last - first <= BLOCK_ROWS */
  float *q, *s, *o;    /* [rows][head_dim], [rows][nk], [rows][head_dim] */
} blas_block;

/* s[nk] from scores to weights; the dead keys get weight 0. Returns the sum of the weights; *lse =
 * m + log l. */
static float softmax_row(float *s, int64_t nk, ifa_key_range live, double *lse) {
  float m = -INFINITY, l = 0.0f;
  for (int64_t j = live.begin; j < live.end; j++) m = fmaxf(m, s[j]);
  for (int64_t j = 0; j < nk; j++) {
    s[j] = j >= live.begin && j < live.end ? expf(s[j] - m) : 0.0f;
    l += s[j];
  }
  if (lse) *lse = live.begin < live.end ? (double)m + log((double)l) : -INFINITY;
  return l;
}

static void run_block(const blas_block *b, const ifa_float_outputs *out) {
  const ifa_float_problem *p = b->p;
  int rows = (int)(b->last - b->first), d = p->head_dim, nk = (int)p->nk;
  int64_t head = ifa_float_row(b->in, b->first) / p->nq,
          matrix = ifa_float_kv_head(p, head) * p->nk * d;
  float l[BLOCK_ROWS];
  for (int r = 0; r < rows; r++) {
    memcpy(b->q + r * d, b->in->q + ifa_float_row(b->in, b->first + r) * d,
           (size_t)d * sizeof(float));
  }
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, rows, nk, d, p->sm_scale, b->q, d,
              b->in->k + matrix, d, 0.0f, b->s, nk);
  for (int r = 0; r < rows; r++) {
    ifa_key_range live = ifa_live_keys(p, ifa_float_row(b->in, b->first + r) % p->nq);
    l[r] = softmax_row(b->s + r * p->nk, p->nk, live, out->lse ? out->lse + b->first + r : NULL);
  }
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, rows, d, nk, 1.0f, b->s, nk,
              b->in->v + matrix, d, 0.0f, b->o, d);
  for (int r = 0; r < rows; r++) {
    for (int c = 0; c < d; c++)
      out->o[(b->first + r) * d + c] = l[r] == 0.0f ? 0.0 : (double)(b->o[r * d + c] / l[r]);
  }
}

/* Without keys there is no matrix to multiply. */
static void write_empty(const ifa_float_problem *p, int64_t count, const ifa_float_outputs *out) {
  for (int64_t r = 0; r < count; r++) {
    for (int32_t c = 0; c < p->head_dim; c++) out->o[r * p->head_dim + c] = 0;
    if (out->lse) out->lse[r] = -INFINITY;
  }
}

static void run_blocks(blas_block *b, int64_t count, int64_t block_rows,
                       const ifa_float_outputs *out) {
  for (b->first = 0; b->first < count; b->first = b->last) {
    int64_t head = ifa_float_row(b->in, b->first) / b->p->nq, most = b->first + block_rows;
    for (b->last = b->first + 1; b->last < count && b->last < most; b->last++) {
      if (ifa_float_row(b->in, b->last) / b->p->nq != head) break;
    }
    run_block(b, out);
  }
}

ifa_status ifa_attention_f32_blas(const ifa_float_problem *p, const ifa_float_inputs *in,
                                  const ifa_float_outputs *out, ifa_message *message) {
  int64_t count = ifa_float_row_count(p, in), block_rows = BLOCK_ROWS;
  if (p->nk == 0) {
    write_empty(p, count, out);
    return ifa_succeed(message);
  }
  while (block_rows > 1 && block_rows * p->nk > BLOCK_SCORES) block_rows /= 2;
  blas_block b = {.p = p, .in = in};
  b.q = malloc((size_t)(block_rows * p->head_dim) * sizeof(float));
  b.o = malloc((size_t)(block_rows * p->head_dim) * sizeof(float));
  b.s = malloc((size_t)(block_rows * p->nk) * sizeof(float));
  int ok = b.q && b.o && b.s;
  if (ok) run_blocks(&b, count, block_rows, out);
  free(b.q);
  free(b.o);
  free(b.s);
  if (ok) return ifa_succeed(message);
  return ifa_fail(message, IFA_OUT_OF_MEMORY, "f32-blas: no memory for %lld scores",
                  (long long)(block_rows * p->nk));
}
#endif
