/* output.c - see output.h. */
#include "cpu/output.h"

#include <string.h>

#include "common/operand.h"
#include "cpu/kernels/versions.h"
#if defined(__x86_64__)
#include <immintrin.h>
#endif

IFA_BODY void first_body(const int32_t *acc, int32_t dim, float *restrict o) {
  for (int32_t d = 0; d < dim; d++) o[d] = (float)acc[d];
}

IFA_BODY void merge_body(const int32_t *acc, float grow, float keep, int32_t dim,
                         float *restrict o) {
  for (int32_t d = 0; d < dim; d++) o[d] = ifa_fma((float)acc[d], grow, ifa_mul(o[d], keep));
}

IFA_BODY void finish_body(const float *o, const int32_t *acc, float l, const float *scale,
                          int32_t step, const float *channel, int32_t dim, float *restrict out) {
  for (int32_t d = 0; o && d < dim; d++) out[d] = ifa_div(o[d], l);
  for (int32_t d = 0; !o && d < dim; d++) out[d] = ifa_div((float)acc[d], l);
  for (int32_t d = 0; step && d < dim; d++) out[d] = ifa_mul(out[d], scale[d]);
  for (int32_t d = 0; !step && d < dim; d++) out[d] = ifa_mul(out[d], scale[0]);
  for (int32_t d = 0; channel && d < dim; d++) out[d] = ifa_mul(out[d], channel[d]);
}

/* Bfloat16 by integers; binary16 by `halves`, which the instruction set has or has not. */
IFA_BODY void store_body(ifa_type type, const float *from, int32_t dim, void *to, int64_t at,
                         void (*halves)(const float *, int32_t, uint16_t *)) {
  if (type == IFA_F32) {
    memcpy((float *)to + at, from, (size_t)dim * sizeof(float));
    return;
  }
  uint16_t *restrict half = (uint16_t *)to + at;
  if (type == IFA_F16) {
    halves(from, dim, half);
    return;
  }
  for (int32_t d = 0; d < dim; d++) {
    uint32_t bits = ifa_bits_of_f32(from[d]);
    half[d] = (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
  }
}

#define VERSION(name, TARGET, halves)                                                      \
  TARGET static void first_##name(const int32_t *acc, int32_t dim, float *o) {             \
    first_body(acc, dim, o);                                                               \
  }                                                                                        \
  TARGET static void merge_##name(const int32_t *acc, float grow, float keep, int32_t dim, \
                                  float *o) {                                              \
    merge_body(acc, grow, keep, dim, o);                                                   \
  }                                                                                        \
  TARGET static void finish_##name(const float *o, const int32_t *acc, float l,            \
                                   const float *scale, int32_t step, const float *channel, \
                                   int32_t dim, float *out) {                              \
    finish_body(o, acc, l, scale, step, channel, dim, out);                                \
  }                                                                                        \
  TARGET static void store_##name(ifa_type type, const float *from, int32_t dim, void *to, \
                                  int64_t at) {                                            \
    store_body(type, from, dim, to, at, halves);                                           \
  }                                                                                        \
  static const ifa_output_kernels name = {first_##name, merge_##name, finish_##name, store_##name};

static void halves_by_integers(const float *from, int32_t dim, uint16_t *to) {
  for (int32_t d = 0; d < dim; d++) to[d] = ifa_f32_to_f16(from[d]);
}

VERSION(generic, , halves_by_integers)
#if defined(__x86_64__)
IFA_TARGET_AVX2 static void halves_by_f16c(const float *from, int32_t dim, uint16_t *to) {
  int32_t d = 0;
  for (; d + 8 <= dim; d += 8)
    _mm_storeu_si128((__m128i *)(to + d),
                     _mm256_cvtps_ph(_mm256_loadu_ps(from + d), _MM_FROUND_TO_NEAREST_INT));
  for (; d < dim; d++) to[d] = ifa_f32_to_f16(from[d]);
}

VERSION(avx2, IFA_TARGET_AVX2, halves_by_f16c)
VERSION(avx512, IFA_TARGET_AVX512, halves_by_f16c)
#endif

IFA_CHOOSE_VERSION(ifa_output_kernels, ifa_output_kernels)
