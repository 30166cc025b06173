/* cuda_fp16.h - what gpu/ uses of CUDA's, for the emulation. */
#ifndef IFA_TESTS_GPU_EMULATION_FP16_H
#define IFA_TESTS_GPU_EMULATION_FP16_H

#include "tests/gpu/emulation/emulation.h"

struct __half {
  uint16_t bits;
};
struct __half2 {
  __half x, y;
} __attribute__((aligned(4)));
static inline __half __float2half_rn(float x) { return {ifa_f32_to_f16(x)}; }
static inline unsigned short __half_as_ushort(__half x) { return x.bits; }
static inline __half2 __floats2half2_rn(float x, float y) {
  return {__float2half_rn(x), __float2half_rn(y)};
}

#endif
