/* quantize.c - ifa_quantize: docs/numerics.md, section 12, row by row (rows.h) on all cores, with
 * the bits of ref/quantize.c. Allocates nothing: rows are read once for each thing that must be
 * known before they can be written (a mean, a group's largest magnitude), and once more to be
 * written.
 *
 * Per token, a row is all there is to know: pieces of work are some rows. Otherwise a piece is a
 * [tokens, head_dim] matrix. */
#include <math.h>
#include <stdatomic.h>
#include <string.h>

#include "common/fpenv.h"
#include "common/inputs.h"
#include "common/operand.h"
#include "common/problem.h"
#include "common/quantize.h"
#include "common/team.h"
#include "cpu/quantize/rows.h"

enum { ROWS_OF_PIECE = 64, TOGETHER = 16 };

typedef struct job {
  const ifa_quantize_args *a;
  const ifa_row_kernels *rows;
  ifa_team_items pieces;
  int64_t pieces_of_matrix;
  atomic_int bad; /* an element that is not acceptable was seen */
} job;

/* One [tokens, head_dim] matrix. mean: NULL, or what is subtracted. */
typedef struct matrix {
  job *j;
  const ifa_quantize_args *a;
  int64_t batch, head, number;
  const float *mean;
} matrix;

/* ---- a row in, a row out ---- */

/* The bits of its largest |x|. An element that is not acceptable is noted; x is then all 0. */
static uint32_t load(const matrix *m, int64_t token, float *x) {
  const ifa_quantize_args *a = m->a;
  const int32_t dim = (int32_t)a->head_dim;
  int64_t at = ifa_offset(a->src_stride, m->batch, m->head, token);
  uint32_t largest = m->j->rows->widen(a->src_type, a->src, at, dim, x);
  if (largest > IFA_ROW_LARGEST) {
    atomic_store_explicit(&m->j->bad, 1, memory_order_relaxed);
    memset(x, 0, (size_t)dim * sizeof *x);
    largest = 0;
  }
  if (!m->mean) return largest;
  m->j->rows->subtract(x, m->mean, dim);
  return m->j->rows->largest(x, dim, 0);
}

static void store(const matrix *m, int64_t token, int8_t *q) {
  const ifa_quantize_args *a = m->a;
  int64_t at = ifa_offset(a->dst_stride, m->batch, m->head, token), dim = a->head_dim;
  if (a->dst_type == IFA_I8) {
    memcpy((int8_t *)a->dst + at, q, (size_t)dim);
    return;
  }
  /* a row of odd length ends in half a byte that belongs to no element: it holds 0 */
  int64_t nibbles = dim + dim % 2;
  q[dim] = 0;
  if (at % 2 == 0) {
    uint8_t *to = (uint8_t *)a->dst + at / 2;
    for (int64_t i = 0; i < nibbles / 2; i++)
      to[i] = (uint8_t)((q[2 * i] & 15) | (q[2 * i + 1] & 15) << 4);
    return;
  }
  for (int64_t d = 0; d < nibbles; d++) ifa_int4_set(a->dst, at + d, q[d]);
}

static int32_t most_of(const ifa_quantize_args *a) { return a->dst_type == IFA_I4 ? 7 : 127; }

/* ---- what must be known of a matrix first ---- */

static void find_mean(matrix *m, float *mean) {
  const ifa_quantize_args *a = m->a;
  const int32_t dim = (int32_t)a->head_dim;
  float x[IFA_MAX_HEAD_DIM];
  ifa_row_mean sums;
  uint32_t largest = 0;
  for (int64_t t = 0; t < a->tokens; t++) {
    uint32_t of_row = load(m, t, x);
    largest = of_row > largest ? of_row : largest;
  }
  ifa_row_mean_begin(&sums, largest, dim);
  for (int64_t t = 0; t < a->tokens; t++) {
    load(m, t, x);
    ifa_row_mean_add(m->j->rows, &sums, x);
  }
  ifa_row_mean_end(&sums, mean);
  if (a->mean) memcpy(a->mean + m->number * dim, mean, (size_t)dim * sizeof *mean);
}

/* Each channel's scale, and the factor that takes its elements to -most .. most. */
static void find_channels(const matrix *m, float most, float *scale, float *inverse) {
  const int32_t dim = (int32_t)m->a->head_dim;
  float x[IFA_MAX_HEAD_DIM];
  uint32_t largest[IFA_MAX_HEAD_DIM] = {0};
  for (int64_t t = 0; t < m->a->tokens; t++) {
    load(m, t, x);
    m->j->rows->largest_by_channel(x, dim, largest);
  }
  m->j->rows->group_scales(largest, most, dim, scale, inverse);
}

/* ---- the scale choices ---- */

/* Tokens first .. first + count - 1 with a scale each, up to 16 at once.
 * 0: there is an element that is not acceptable. */
static int quantize_together(const matrix *m, int64_t first, int32_t count, float *scale) {
  const ifa_quantize_args *a = m->a;
  int64_t at[TOGETHER];
  int8_t q[TOGETHER][IFA_MAX_HEAD_DIM + 1], *to[TOGETHER];
  for (int32_t i = 0; i < count; i++) {
    at[i] = ifa_offset(a->src_stride, m->batch, m->head, first + i);
    to[i] = q[i];
    if (a->dst_type == IFA_I8)
      to[i] = (int8_t *)a->dst + ifa_offset(a->dst_stride, m->batch, m->head, first + i);
  }
  if (!m->j->rows->token_rows(a->src_type, a->src, at, count, (int32_t)a->head_dim, most_of(a),
                              m->mean, scale, to))
    return 0;
  for (int32_t i = 0; a->dst_type == IFA_I4 && i < count; i++) store(m, first + i, q[i]);
  return 1;
}

/* Tokens first .. end-1 with a scale each, from scale[first] on. channel_inverse: NULL, or applied
 * before. */
static void quantize_tokens(const matrix *m, int64_t first, int64_t end, float *scale,
                            const float *channel_inverse) {
  const int32_t dim = (int32_t)m->a->head_dim;
  float x[IFA_MAX_HEAD_DIM];
  int8_t q[IFA_MAX_HEAD_DIM + 1];
  for (int64_t t = first, count; !channel_inverse && t < end; t += count) {
    count = ifa_min64(TOGETHER, end - t);
    if (!quantize_together(m, t, (int32_t)count, scale + t)) break;
    first = t + count;
  }
  for (int64_t t = first; t < end; t++) {
    uint32_t largest = load(m, t, x);
    if (channel_inverse) {
      m->j->rows->multiply(x, channel_inverse, dim);
      largest = m->j->rows->largest(x, dim, 0);
    }
    scale[t] = ifa_row_quantize(m->j->rows, x, dim, largest, m->a->dst_type, q);
    store(m, t, q);
  }
}

/* Groups of `tokens` tokens with a scale each: blocks, or the whole tensor. */
static void quantize_groups(const matrix *m, int64_t tokens, float *scale) {
  const ifa_quantize_args *a = m->a;
  const int32_t dim = (int32_t)a->head_dim, most = most_of(a);
  float x[IFA_MAX_HEAD_DIM];
  int8_t q[IFA_MAX_HEAD_DIM + 1];
  for (int64_t start = 0; start < a->tokens; start += tokens) {
    int64_t end = ifa_min64(start + tokens, a->tokens);
    uint32_t largest = 0;
    for (int64_t t = start; t < end; t++) {
      uint32_t of_row = load(m, t, x);
      largest = of_row > largest ? of_row : largest;
    }
    float inverse;
    scale[start / tokens] = ifa_group_scale(ifa_f32_of_bits(largest), (float)most, &inverse);
    for (int64_t t = start; t < end; t++) {
      load(m, t, x);
      m->j->rows->grid(x, inverse, dim, q);
      store(m, t, q);
    }
  }
}

static void quantize_channels(const matrix *m, float *scale) {
  const ifa_quantize_args *a = m->a;
  const int32_t dim = (int32_t)a->head_dim, most = most_of(a);
  float x[IFA_MAX_HEAD_DIM], inverse[IFA_MAX_HEAD_DIM];
  int8_t q[IFA_MAX_HEAD_DIM + 1];
  find_channels(m, (float)most, scale, inverse);
  for (int64_t t = 0; t < a->tokens; t++) {
    load(m, t, x);
    m->j->rows->grid_by_channel(x, inverse, dim, q);
    store(m, t, q);
  }
}

/* x / c_d is quantized per token, c_d the channel's largest magnitude (its grid would be a single
 * step). */
static void quantize_tokens_and_channels(const matrix *m, float *scale, float *channel_scale) {
  float inverse[IFA_MAX_HEAD_DIM];
  find_channels(m, 1.0f, channel_scale, inverse);
  quantize_tokens(m, 0, m->a->tokens, scale, inverse);
}

static void quantize_matrix(matrix *m) {
  const ifa_quantize_args *a = m->a;
  float mean[IFA_MAX_HEAD_DIM];
  if (a->subtract_mean) {
    find_mean(m, mean);
    m->mean = mean;
  }
  int64_t scales = ifa_scale_count(a->granularity, 1, 1, a->tokens, a->head_dim, a->block);
  float *scale = scales ? a->scale + m->number * scales : NULL; /* no tokens, no token scales */
  switch (a->granularity) {
    case IFA_SCALE_TENSOR:
      scale[0] = 0.0f; /* also without tokens */
      quantize_groups(m, a->tokens ? a->tokens : 1, scale);
      break;
    case IFA_SCALE_BLOCK: quantize_groups(m, a->block, scale); break;
    case IFA_SCALE_TOKEN: quantize_tokens(m, 0, a->tokens, scale, NULL); break;
    case IFA_SCALE_CHANNEL: quantize_channels(m, scale); break;
    case IFA_SCALE_TOKEN_CHANNEL:
      quantize_tokens_and_channels(m, scale, a->channel_scale + m->number * a->head_dim);
      break;
  }
}

/* ---- all of it ---- */

static int by_rows(const ifa_quantize_args *a) {
  return a->granularity == IFA_SCALE_TOKEN && !a->subtract_mean;
}

static void work(void *context, int member) {
  job *j = context;
  const ifa_quantize_args *a = j->a;
  ifa_fpenv env;
  (void)member;
  ifa_fpenv_enter(&env);
  for (int64_t piece; (piece = ifa_team_take(&j->pieces)) < j->pieces.count;) {
    int64_t number = piece / j->pieces_of_matrix, first = piece % j->pieces_of_matrix;
    matrix m = {j, a, number / a->heads, number % a->heads, number, NULL};
    if (!by_rows(a)) {
      quantize_matrix(&m);
      continue;
    }
    first *= ROWS_OF_PIECE;
    int64_t end = ifa_min64(first + ROWS_OF_PIECE, a->tokens);
    quantize_tokens(&m, first, end, a->scale + number * a->tokens, NULL);
  }
  ifa_fpenv_leave(&env);
}

ifa_status ifa_quantize_with(const ifa_row_kernels *rows, const ifa_quantize_args *args,
                             ifa_message *message) {
  ifa_quantize_args a;
  ifa_status status = ifa_quantize_check(args, &a, message);
  if (status != IFA_OK) return status;
  job j = {.a = &a, .rows = rows};
  int64_t matrices = a.batch * a.heads;
  j.pieces_of_matrix = by_rows(&a) ? ifa_ceil_div(a.tokens, ROWS_OF_PIECE) : 1;
  j.pieces.count = matrices * j.pieces_of_matrix;
  double elements = (double)matrices * (double)a.tokens * (double)a.head_dim;
  int threads = ifa_team_size(ifa_team_default(), j.pieces.count, 0.4 * elements);
  ifa_team_run(threads, work, &j);
  for (int64_t n = 0; atomic_load(&j.bad) && n < matrices && status == IFA_OK; n++)
    status = ifa_quantize_check_elements("src", &a, n / a.heads, n % a.heads, message);
  return status == IFA_OK ? ifa_succeed(message) : status;
}

ifa_status ifa_quantize(const ifa_quantize_args *args, ifa_message *message) {
  return ifa_quantize_with(ifa_row_kernels_best(), args, message);
}
