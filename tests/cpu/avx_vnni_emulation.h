/* avx_vnni_emulation.h - vpdpbusd in AVX2. */
#ifndef IFA_TESTS_AVX_VNNI_EMULATION_H
#define IFA_TESTS_AVX_VNNI_EMULATION_H

#include <immintrin.h>

/* Even and odd bytes as words, then vpmaddwd, which cannot saturate: 255 * 128 * 2 < 2^16. */
#define DPBUSD256_TARGET "avx2"
static inline __attribute__((always_inline, target(DPBUSD256_TARGET))) __m256i dpbusd256(
    __m256i sum, __m256i a, __m256i b) {
  __m256i even = _mm256_madd_epi16(_mm256_and_si256(a, _mm256_set1_epi16(255)),
                                   _mm256_srai_epi16(_mm256_slli_epi16(b, 8), 8)),
          odd = _mm256_madd_epi16(_mm256_srli_epi16(a, 8), _mm256_srai_epi16(b, 8));
  return _mm256_add_epi32(sum, _mm256_add_epi32(even, odd));
}

#endif
