/* rows.c - see rows.h. The loops are written once and compiled for each instruction set: a function
 * that is always inlined takes on its caller's. */
#include "cpu/quantize/rows.h"

#include <string.h>

#define BODY static inline __attribute__((always_inline))

BODY uint32_t magnitude_of(float x) { return ifa_bits_of_f32(x) & 0x7fffffffu; }

BODY uint32_t largest_body(const float *x, int32_t dim, uint32_t largest) {
  for (int32_t d = 0; d < dim; d++) {
    uint32_t magnitude = magnitude_of(x[d]);
    largest = magnitude > largest ? magnitude : largest;
  }
  return largest;
}

BODY uint32_t widen_body(ifa_type type, const void *from, int64_t index, int32_t dim, float *x) {
  if (type == IFA_F32) {
    memcpy(x, (const float *)from + index, (size_t)dim * sizeof *x);
    return largest_body(x, dim, 0);
  }
  const uint16_t *half = (const uint16_t *)from + index;
  uint16_t largest = 0;
  for (int32_t d = 0; d < dim; d++) {
    uint16_t magnitude = half[d] & 0x7fffu;
    largest = magnitude > largest ? magnitude : largest;
  }
  if (type == IFA_BF16) {
    for (int32_t d = 0; d < dim; d++) x[d] = ifa_f32_of_bits((uint32_t)half[d] << 16);
    return (uint32_t)largest << 16;
  }
  if (largest >= 0x7c00u) return 0x7f800000u; /* an infinity or a NaN */
  /* binary16's fields under binary32's bias, also for subnormals: exact */
  for (int32_t d = 0; d < dim; d++) {
    uint32_t bits = half[d];
    x[d] = ifa_mul(ifa_f32_of_bits((bits & 0x7fffu) << 13 | (bits & 0x8000u) << 16), 0x1p112f);
  }
  return ifa_bits_of_f32(ifa_f16_to_f32(largest));
}

/* |x| < 2^22: adding 1.5 * 2^23 rounds to an integer, and leaves it in the low bits. */
BODY int32_t rne(float x) {
  return (int32_t)(ifa_bits_of_f32(ifa_add(x, 0x1.8p23f)) - 0x4b400000u);
}

BODY int8_t clamp(int32_t q, int32_t most) {
  q = q > most ? most : q;
  return (int8_t)(q < -most ? -most : q);
}

BODY void grid_body(const float *x, float inverse, int32_t most, int32_t dim, int8_t *q) {
  for (int32_t d = 0; d < dim; d++) q[d] = clamp(rne(ifa_mul(x[d], inverse)), most);
}

BODY void grid_by_channel_body(const float *x, const float *inverse, int32_t most, int32_t dim,
                               int8_t *q) {
  for (int32_t d = 0; d < dim; d++) q[d] = clamp(rne(ifa_mul(x[d], inverse[d])), most);
}

BODY void largest_by_channel_body(const float *x, int32_t dim, uint32_t *largest) {
  for (int32_t d = 0; d < dim; d++) {
    uint32_t magnitude = magnitude_of(x[d]);
    largest[d] = magnitude > largest[d] ? magnitude : largest[d];
  }
}

BODY void multiply_body(float *x, const float *by, int32_t dim) {
  for (int32_t d = 0; d < dim; d++) x[d] = ifa_mul(x[d], by[d]);
}

BODY void subtract_body(float *x, const float *what, int32_t dim) {
  for (int32_t d = 0; d < dim; d++) x[d] = ifa_add(x[d], -what[d]);
}

/* The product is exact (a binary32 times a power of two); adding 1.5 * 2^52 rounds it. */
BODY void add_up_body(const float *x, double factor, int32_t dim, double *sum) {
  for (int32_t d = 0; d < dim; d++) {
    double scaled = (double)x[d] * factor, rounded = scaled + 0x1.8p52;
    sum[d] += rounded - 0x1.8p52;
  }
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
  TARGET static void grid_##name(const float *x, float inverse, int32_t most, int32_t dim,         \
                                 int8_t *q) {                                                      \
    grid_body(x, inverse, most, dim, q);                                                           \
  }                                                                                                \
  TARGET static void grid_by_channel_##name(const float *x, const float *inverse, int32_t most,    \
                                            int32_t dim, int8_t *q) {                              \
    grid_by_channel_body(x, inverse, most, dim, q);                                                \
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
  TARGET static void add_up_##name(const float *x, double factor, int32_t dim, double *sum) {      \
    add_up_body(x, factor, dim, sum);                                                              \
  }                                                                                                \
  static const ifa_row_kernels name = {widen_##name,                                               \
                                       largest_##name,                                             \
                                       grid_##name,                                                \
                                       grid_by_channel_##name,                                     \
                                       largest_by_channel_##name,                                  \
                                       multiply_##name,                                            \
                                       subtract_##name,                                            \
                                       add_up_##name};

VERSION(generic, )
#if defined(__x86_64__)
VERSION(avx2, __attribute__((target("avx2"))))
VERSION(avx512,
        __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512"))))
#endif

const ifa_row_kernels *ifa_row_kernels_at(int index) {
  const ifa_row_kernels *have[4] = {&generic};
  int count = 1;
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2")) have[count++] = &avx2;
  if (count == 2 && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl"))
    have[count++] = &avx512;
#endif
  return index >= 0 && index < count ? have[index] : NULL;
}

const ifa_row_kernels *ifa_row_kernels_best(void) {
  const ifa_row_kernels *best = &generic;
  for (int i = 0; ifa_row_kernels_at(i); i++) best = ifa_row_kernels_at(i);
  return best;
}

float ifa_row_quantize(const ifa_row_kernels *rows, const float *x, int32_t dim, uint32_t largest,
                       ifa_type type, int8_t *q) {
  const int32_t most = type == IFA_I4 ? 7 : 127;
  float inverse, scale = ifa_group_scale(ifa_f32_of_bits(largest), (float)most, &inverse);
  rows->grid(x, inverse, most, dim, q);
  return scale;
}
