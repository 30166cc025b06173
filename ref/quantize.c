/* quantize.c - the quantizers as docs/numerics.md, section 12, has them, one element at a time: for
 * reading, and for tests. A group's largest magnitude does not depend on the order in which it is
 * looked for, and the mean is an integer sum, so every order of work gives the same bits:
 * cpu/quantize/ is what ifa_quantize runs. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

#include "common/contract.h"
#include "common/fpenv.h"
#include "common/inputs.h"
#include "common/operand.h"
#include "common/problem.h"
#include "common/quantize.h"

/* One [tokens, head_dim] matrix being quantized. x: its elements as binary32, with the mean
 * subtracted if asked. */
typedef struct matrix {
  const ifa_quantize_args *a;
  int64_t batch, head, number; /* number = batch * heads + head */
  float *x;                    /* [tokens][head_dim] */
} matrix;

static float largest_of(float largest, float x) {
  float magnitude = fabsf(x);
  return magnitude > largest ? magnitude : largest;
}

/* q = clamp(rne(fl(x * inverse))). The product is at most q_max + 1 in magnitude. */
static int32_t to_grid(float x, float inverse, int32_t q_max) {
  int32_t q = ifa_rne(ifa_mul(x, inverse));
  return q > q_max ? q_max : q < -q_max ? -q_max : q;
}

static ifa_status load(matrix *m, ifa_message *message) {
  const ifa_quantize_args *a = m->a;
  ifa_status status = ifa_quantize_check_elements("src", a, m->batch, m->head, message);
  if (status != IFA_OK) return status;
  for (int64_t t = 0; t < a->tokens; t++)
    for (int64_t d = 0; d < a->head_dim; d++)
      m->x[t * a->head_dim + d] =
          ifa_float_get(a->src_type, a->src, ifa_offset(a->src_stride, m->batch, m->head, t) + d);
  return IFA_OK;
}

/* mean_d = the channel's mean, summed in integers: every x is rounded to a multiple of 2^(e-24),
 * where 2^e is the least power of two above the matrix's absmax, so that the sum is exact in 64
 * bits in any order. x becomes fl(x - mean). */
static void subtract_mean(matrix *m) {
  const ifa_quantize_args *a = m->a;
  float absmax = 0.0f;
  int e = 0;
  for (int64_t i = 0; i < a->tokens * a->head_dim; i++) absmax = largest_of(absmax, m->x[i]);
  if (absmax >= IFA_TINY_GROUP) frexpf(absmax, &e);
  for (int64_t d = 0; d < a->head_dim; d++) {
    int64_t sum = 0;
    for (int64_t t = 0; absmax >= IFA_TINY_GROUP && t < a->tokens; t++)
      sum += (int64_t)rint(scalbn((double)m->x[t * a->head_dim + d], 24 - e));
    float mean = a->tokens ? (float)scalbn((double)sum / (double)a->tokens, e - 24) : 0.0f;
    if (a->mean) a->mean[m->number * a->head_dim + d] = mean;
    for (int64_t t = 0; t < a->tokens; t++)
      m->x[t * a->head_dim + d] = ifa_add(m->x[t * a->head_dim + d], -mean);
  }
}

static float q_max_of(const matrix *m) { return m->a->dst_type == IFA_I4 ? 7.0f : 127.0f; }

static void store(const matrix *m, int64_t token, int64_t d, float inverse) {
  const ifa_quantize_args *a = m->a;
  ifa_operand_set(a->dst_type, a->dst, ifa_offset(a->dst_stride, m->batch, m->head, token) + d,
                  to_grid(m->x[token * a->head_dim + d], inverse, (int32_t)q_max_of(m)));
}

/* An INT4 row of odd length ends in half a byte that belongs to no element: it holds 0. */
static void clear_padding(const matrix *m) {
  const ifa_quantize_args *a = m->a;
  if (a->dst_type != IFA_I4 || a->head_dim % 2 == 0) return;
  for (int64_t t = 0; t < a->tokens; t++)
    ifa_int4_set(a->dst, ifa_offset(a->dst_stride, m->batch, m->head, t) + a->head_dim, 0);
}

/* Groups of `rows` tokens, from scale[0] on: token (1), block, tensor (all). */
static void quantize_by_rows(matrix *m, int64_t rows, float *scale) {
  int64_t dim = m->a->head_dim;
  for (int64_t start = 0, group = 0; start < m->a->tokens; start += rows, group++) {
    int64_t end = ifa_min64(start + rows, m->a->tokens);
    float absmax = 0.0f, inverse;
    for (int64_t i = start * dim; i < end * dim; i++) absmax = largest_of(absmax, m->x[i]);
    scale[group] = ifa_group_scale(absmax, q_max_of(m), &inverse);
    for (int64_t t = start; t < end; t++)
      for (int64_t d = 0; d < dim; d++) store(m, t, d, inverse);
  }
}

static float channel_absmax(const matrix *m, int64_t d) {
  float absmax = 0.0f;
  for (int64_t t = 0; t < m->a->tokens; t++)
    absmax = largest_of(absmax, m->x[t * m->a->head_dim + d]);
  return absmax;
}

static void quantize_by_channel(matrix *m, float *scale) {
  for (int64_t d = 0; d < m->a->head_dim; d++) {
    float inverse;
    scale[d] = ifa_group_scale(channel_absmax(m, d), q_max_of(m), &inverse);
    for (int64_t t = 0; t < m->a->tokens; t++) store(m, t, d, inverse);
  }
}

/* Token and channel: x / c_d is quantized per token, c_d the channel's absmax (its grid would be a
 * single step: Qmax = 1). */
static void quantize_by_token_and_channel(matrix *m, float *scale, float *channel_scale) {
  for (int64_t d = 0; d < m->a->head_dim; d++) {
    float inverse;
    channel_scale[d] = ifa_group_scale(channel_absmax(m, d), 1.0f, &inverse);
    for (int64_t t = 0; t < m->a->tokens; t++)
      m->x[t * m->a->head_dim + d] = ifa_mul(m->x[t * m->a->head_dim + d], inverse);
  }
  quantize_by_rows(m, 1, scale);
}

static ifa_status quantize_matrix(matrix *m, ifa_message *message) {
  const ifa_quantize_args *a = m->a;
  ifa_status status = load(m, message);
  if (status != IFA_OK) return status;
  if (a->subtract_mean) subtract_mean(m);
  clear_padding(m);
  int64_t scales = ifa_scale_count(a->granularity, 1, 1, a->tokens, a->head_dim, a->block);
  float *scale = scales ? a->scale + m->number * scales : NULL; /* no tokens, no token scales */
  switch (a->granularity) {
    case IFA_SCALE_TENSOR:
      scale[0] = 0.0f; /* also without tokens */
      quantize_by_rows(m, a->tokens ? a->tokens : 1, scale);
      break;
    case IFA_SCALE_BLOCK: quantize_by_rows(m, a->block, scale); break;
    case IFA_SCALE_TOKEN: quantize_by_rows(m, 1, scale); break;
    case IFA_SCALE_CHANNEL: quantize_by_channel(m, scale); break;
    case IFA_SCALE_TOKEN_CHANNEL:
      quantize_by_token_and_channel(m, scale, a->channel_scale + m->number * a->head_dim);
      break;
  }
  return IFA_OK;
}

ifa_status ifa_quantize_scalar(const ifa_quantize_args *args, ifa_message *message) {
  ifa_quantize_args a;
  ifa_status status = ifa_quantize_check(args, &a, message);
  if (status != IFA_OK) return status;
  float *x = malloc((size_t)(a.tokens * a.head_dim + 1) * sizeof *x);
  if (!x)
    return ifa_fail(message, IFA_OUT_OF_MEMORY, "no memory for %" PRId64 " x %" PRId64 " elements",
                    a.tokens, a.head_dim);
  ifa_fpenv env;
  ifa_fpenv_enter(&env);
  for (int64_t number = 0; number < a.batch * a.heads && status == IFA_OK; number++) {
    matrix m = {
        .a = &a, .batch = number / a.heads, .head = number % a.heads, .number = number, .x = x};
    status = quantize_matrix(&m, message);
  }
  ifa_fpenv_leave(&env);
  free(x);
  return status == IFA_OK ? ifa_succeed(message) : status;
}
