/* dpbusd256.h - vpdpbusd on 256 bits under its VEX encoding. With IFA_AVX_VNNI_EMULATION, AVX2 in
 * its place (tests/cpu/avx_vnni_emulation.h), to test the kernels on machines without it. */
#ifndef IFA_CPU_DPBUSD256_H
#define IFA_CPU_DPBUSD256_H

#include <immintrin.h>

#ifdef IFA_AVX_VNNI_EMULATION
#include "tests/cpu/avx_vnni_emulation.h"
#else
/* sum + four products of unsigned bytes of a by signed bytes of b, in each int32. */
#define DPBUSD256_TARGET "avx2,avxvnni"
static inline __attribute__((always_inline, target(DPBUSD256_TARGET))) __m256i dpbusd256(
    __m256i sum, __m256i a, __m256i b) {
  return _mm256_dpbusd_avx_epi32(sum, a, b);
}
#endif
#endif
