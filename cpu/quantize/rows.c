/* rows.c - see rows.h. */
#include "cpu/quantize/rows.h"

#include <math.h>
#include <string.h>

#include "cpu/kernels/versions.h"

#define ROW_INFINITY 0x7f800000u

IFA_BODY uint32_t magnitude_of(float x) { return ifa_bits_of_f32(x) & 0x7fffffffu; }

IFA_BODY uint32_t largest_body(const float *x, int32_t dim, uint32_t largest) {
  for (int32_t d = 0; d < dim; d++) {
    uint32_t magnitude = magnitude_of(x[d]);
    largest = magnitude > largest ? magnitude : largest;
  }
  return largest;
}

/* The bits of the largest |x| of a row, ROW_INFINITY if one is an infinity or a NaN. */
IFA_BODY uint32_t largest_half(ifa_type type, const uint16_t *half, int32_t dim) {
  uint16_t largest = 0;
  for (int32_t d = 0; d < dim; d++) {
    uint16_t magnitude = half[d] & 0x7fffu;
    largest = magnitude > largest ? magnitude : largest;
  }
  if (type == IFA_BF16) return (uint32_t)largest << 16;
  return largest >= 0x7c00u ? ROW_INFINITY : ifa_bits_of_f32(ifa_f16_to_f32(largest));
}

IFA_BODY void widen_half(ifa_type type, const uint16_t *half, int32_t dim, float *x) {
  if (type == IFA_BF16) {
    for (int32_t d = 0; d < dim; d++) x[d] = ifa_f32_of_bits((uint32_t)half[d] << 16);
    return;
  }
  /* binary16's fields under binary32's bias, also for subnormals: exact */
  for (int32_t d = 0; d < dim; d++) {
    uint32_t bits = half[d];
    x[d] = ifa_mul(ifa_f32_of_bits((bits & 0x7fffu) << 13 | (bits & 0x8000u) << 16), 0x1p112f);
  }
}

IFA_BODY uint32_t widen_body(ifa_type type, const void *from, int64_t index, int32_t dim,
                             float *x) {
  if (type == IFA_F32) {
    memcpy(x, (const float *)from + index, (size_t)dim * sizeof *x);
    return largest_body(x, dim, 0);
  }
  const uint16_t *half = (const uint16_t *)from + index;
  uint32_t largest = largest_half(type, half, dim);
  if (largest != ROW_INFINITY) widen_half(type, half, dim, x);
  return largest;
}

/* |x| < 2^22: adding 1.5 * 2^23 rounds to an integer, whose low byte is that of the sum's pattern.
 * Nothing is left to clamp: x * inverse is at most most * (1 + 2^-24)^2 in magnitude. */
IFA_BODY int8_t integer_of(float x) {
  return (int8_t)(uint8_t)ifa_bits_of_f32(ifa_add(x, 0x1.8p23f));
}

IFA_BODY void grid_body(const float *x, float inverse, int32_t dim, int8_t *restrict q) {
  for (int32_t d = 0; d < dim; d++) q[d] = integer_of(ifa_mul(x[d], inverse));
}

IFA_BODY void grid_by_channel_body(const float *x, const float *inverse, int32_t dim,
                                   int8_t *restrict q) {
  for (int32_t d = 0; d < dim; d++) q[d] = integer_of(ifa_mul(x[d], inverse[d]));
}

IFA_BODY void group_scales_body(const uint32_t *largest, float most, int32_t count,
                                float *restrict scale, float *restrict inverse) {
  for (int32_t i = 0; i < count; i++)
    scale[i] = ifa_group_scale(ifa_f32_of_bits(largest[i]), most, &inverse[i]);
}

IFA_BODY void largest_by_channel_body(const float *x, int32_t dim, uint32_t *largest) {
  for (int32_t d = 0; d < dim; d++) {
    uint32_t magnitude = magnitude_of(x[d]);
    largest[d] = magnitude > largest[d] ? magnitude : largest[d];
  }
}

enum { ROWS_TOGETHER = 16 };

/* A row as binary32, where it lies or in x; less the mean. */
IFA_BODY const float *row_of(ifa_type type, const void *from, int64_t at, int32_t dim,
                             const float *mean, float *x) {
  const float *row = x;
  if (type == IFA_F32) row = (const float *)from + at;
  else widen_half(type, (const uint16_t *)from + at, dim, x);
  if (!mean) return row;
  for (int32_t d = 0; d < dim; d++) x[d] = ifa_add(row[d], -mean[d]);
  return x;
}

/* IFA_ROW_LARGEST holds for the elements; less a mean they may be twice that. */
IFA_BODY int token_rows_body(ifa_type type, const void *from, const int64_t *at, int32_t count,
                             int32_t dim, int32_t most, const float *mean, float *scale,
                             int8_t *const *q) {
  uint32_t largest[ROWS_TOGETHER] = {0}, top = 0;
  float inverse[ROWS_TOGETHER], x[IFA_MAX_HEAD_DIM];
  for (int32_t i = 0; i < count; i++) {
    if (type == IFA_F32 && !mean) largest[i] = largest_body((const float *)from + at[i], dim, 0);
    else if (!mean) largest[i] = largest_half(type, (const uint16_t *)from + at[i], dim);
    else largest[i] = largest_body(row_of(type, from, at[i], dim, mean, x), dim, 0);
  }
  for (int32_t i = 0; i < ROWS_TOGETHER; i++) top = largest[i] > top ? largest[i] : top;
  if (top > (mean ? IFA_ROW_LARGEST + (1u << 23) : IFA_ROW_LARGEST)) return 0;
  group_scales_body(largest, (float)most, count, scale, inverse);
  for (int32_t i = 0; i < count; i++)
    grid_body(row_of(type, from, at[i], dim, mean, x), inverse[i], dim, q[i]);
  return 1;
}

/* Loops of constant length where rows usually have it. */
IFA_BODY int token_rows_by_length(ifa_type type, const void *from, const int64_t *at, int32_t count,
                                  int32_t dim, int32_t most, const float *mean, float *scale,
                                  int8_t *const *q) {
  if (type == IFA_F32 && dim == 128 && !mean)
    return token_rows_body(IFA_F32, from, at, count, 128, most, NULL, scale, q);
  if (type == IFA_F32 && dim == 128)
    return token_rows_body(IFA_F32, from, at, count, 128, most, mean, scale, q);
  if (type == IFA_F32 && dim == 64 && !mean)
    return token_rows_body(IFA_F32, from, at, count, 64, most, NULL, scale, q);
  return token_rows_body(type, from, at, count, dim, most, mean, scale, q);
}

IFA_BODY void multiply_body(float *x, const float *by, int32_t dim) {
  for (int32_t d = 0; d < dim; d++) x[d] = ifa_mul(x[d], by[d]);
}

IFA_BODY void subtract_body(float *x, const float *what, int32_t dim) {
  for (int32_t d = 0; d < dim; d++) x[d] = ifa_add(x[d], -what[d]);
}

IFA_BODY void add_up_body(const float *x, float factor, int32_t dim, int32_t *restrict sum) {
  for (int32_t d = 0; d < dim; d++) sum[d] += ifa_rne(ifa_mul(x[d], factor));
}

/* A version of all of them, for the instruction set that TARGET asks for. */
#define VERSION(name, TARGET)                                                                      \
  TARGET static uint32_t widen_##name(ifa_type type, const void *from, int64_t index, int32_t dim, \
                                      float *x) {                                                  \
    return widen_body(type, from, index, dim, x);                                                  \
  }                                                                                                \
  TARGET static uint32_t largest_##name(const float *x, int32_t dim, uint32_t largest) {           \
    return largest_body(x, dim, largest);                                                          \
  }                                                                                                \
  TARGET static void grid_##name(const float *x, float inverse, int32_t dim, int8_t *q) {          \
    grid_body(x, inverse, dim, q);                                                                 \
  }                                                                                                \
  TARGET static void grid_by_channel_##name(const float *x, const float *inverse, int32_t dim,     \
                                            int8_t *q) {                                           \
    grid_by_channel_body(x, inverse, dim, q);                                                      \
  }                                                                                                \
  TARGET static void group_scales_##name(const uint32_t *largest, float most, int32_t count,       \
                                         float *scale, float *inverse) {                           \
    group_scales_body(largest, most, count, scale, inverse);                                       \
  }                                                                                                \
  TARGET static void largest_by_channel_##name(const float *x, int32_t dim, uint32_t *largest) {   \
    largest_by_channel_body(x, dim, largest);                                                      \
  }                                                                                                \
  TARGET static void multiply_##name(float *x, const float *by, int32_t dim) {                     \
    multiply_body(x, by, dim);                                                                     \
  }                                                                                                \
  TARGET static void subtract_##name(float *x, const float *what, int32_t dim) {                   \
    subtract_body(x, what, dim);                                                                   \
  }                                                                                                \
  TARGET static int token_rows_##name(ifa_type type, const void *from, const int64_t *at,          \
                                      int32_t count, int32_t dim, int32_t most, const float *mean, \
                                      float *scale, int8_t *const *q) {                            \
    return token_rows_by_length(type, from, at, count, dim, most, mean, scale, q);                 \
  }                                                                                                \
  TARGET static void add_up_##name(const float *x, float factor, int32_t dim, int32_t *sum) {      \
    add_up_body(x, factor, dim, sum);                                                              \
  }                                                                                                \
  static const ifa_row_kernels name = {widen_##name,        largest_##name,                        \
                                       grid_##name,         grid_by_channel_##name,                \
                                       group_scales_##name, largest_by_channel_##name,             \
                                       multiply_##name,     subtract_##name,                       \
                                       token_rows_##name,   add_up_##name};

VERSION(generic, )
#if defined(__x86_64__)
VERSION(avx2, IFA_TARGET_AVX2)
VERSION(avx512, IFA_TARGET_AVX512)
#endif

IFA_CHOOSE_VERSION(ifa_row_kernels, ifa_row_kernels)

float ifa_row_quantize(const ifa_row_kernels *rows, const float *x, int32_t dim, uint32_t largest,
                       ifa_type type, int8_t *q) {
  const int32_t most = type == IFA_I4 ? 7 : 127;
  float inverse, scale = ifa_group_scale(ifa_f32_of_bits(largest), (float)most, &inverse);
  rows->grid(x, inverse, dim, q);
  return scale;
}

/* ---- a mean ---- */

void ifa_row_mean_begin(ifa_row_mean *m, uint32_t largest, int32_t dim) {
  m->dim = dim;
  m->rows = m->exponent = 0;
  m->zero = ifa_f32_of_bits(largest) < IFA_TINY_GROUP;
  if (!m->zero) frexpf(ifa_f32_of_bits(largest), &m->exponent);
  m->factor = ifa_pow2(24 - m->exponent); /* -93 < exponent <= 100 */
  memset(m->part, 0, (size_t)dim * sizeof *m->part);
  memset(m->sum, 0, (size_t)dim * sizeof *m->sum);
}

static void gather(ifa_row_mean *m) {
  for (int32_t d = 0; d < m->dim; d++) m->sum[d] += (double)m->part[d];
  memset(m->part, 0, (size_t)m->dim * sizeof *m->part);
}

void ifa_row_mean_add(const ifa_row_kernels *k, ifa_row_mean *m, const float *x) {
  if (m->zero) return;
  k->add_up(x, m->factor, m->dim, m->part);
  if (++m->rows % 64 == 0) gather(m);
}

void ifa_row_mean_end(ifa_row_mean *m, float *mean) {
  const double unit = ldexp(1.0, m->exponent - 24); /* exact: at least 2^-117, at most 2^76 */
  gather(m);
  for (int32_t d = 0; d < m->dim; d++)
    mean[d] = m->rows ? (float)(m->sum[d] / (double)m->rows * unit) : 0.0f;
}
