/* block.c - for the kernels that have no better: V's scales of a tile that a mask cuts, and the
 * table of the weight function. */
#include <pthread.h>
#include <string.h>

#include "cpu/kernels/units.h"
#include "cpu/kernels/versions.h"
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#if defined(__x86_64__)
/* A product with 2^-exponent is exact, or far too small for a binary16. */
IFA_TARGET_AVX2 static int32_t scales_by_f16c(const float *scale, int32_t count, float factor,
                                              uint16_t *scale16) {
  int32_t j = 0;
  for (; j + 8 <= count; j += 8) {
    __m256 x = _mm256_mul_ps(_mm256_loadu_ps(scale + j), _mm256_set1_ps(factor));
    x = _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x); /* a scale may be -0 */
    _mm_storeu_si128((__m128i *)(scale16 + j), _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
  }
  return j;
}
#endif

int32_t ifa_cpu_value_scales(const float *scale, int32_t count, uint16_t *scale16) {
  float largest = 0.0f;
  for (int32_t j = 0; j < count; j++) largest = scale[j] > largest ? scale[j] : largest;
  const int32_t exponent = ifa_cpu_value_exponent(largest);
  int32_t j = 0;
#if defined(__x86_64__)
  /* 2^-108 .. 2^92 */
  if (ifa_cpu_version() >= IFA_VERSION_AVX2)
    j = scales_by_f16c(scale, count, ifa_pow2(-exponent), scale16);
#endif
  for (; j < count; j++) scale16[j] = ifa_value_scale16(scale[j], exponent);
  return exponent;
}

int32_t ifa_cpu_partial_values(const ifa_cpu_layout *y, const uint8_t *tile, int32_t from,
                               int32_t to, uint16_t *scale16) {
  memset(scale16, 0, (size_t)y->keys * sizeof *scale16);
  if (to <= from) return 0;
  return ifa_cpu_value_scales(ifa_cpu_v_scale(y, tile) + from, to - from, scale16 + from);
}

uint8_t ifa_cpu_weight[IFA_WEIGHT_TOP + 1];
uint16_t ifa_cpu_weight16[IFA_WEIGHT_TOP + 1];

static void fill(void) {
  for (int32_t n = 0; n <= IFA_WEIGHT_TOP; n++) {
    ifa_cpu_weight[n] = (uint8_t)ifa_weight(n);
    ifa_cpu_weight16[n] = ifa_weight16(n);
  }
}

void ifa_cpu_fill_tables(void) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, fill);
}
