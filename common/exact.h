/* exact.h - the floating-point operations that the contract allows, each one IEEE 754 operation
 * rounded once to nearest even.
 *
 * Writing them as calls keeps a compiler from fusing a product and a sum: on the device through the
 * _rn intrinsics, on the host because this tree is compiled with -ffp-contract=off and without
 * fast-math. C and CUDA. docs/numerics.md, section 13. */
#ifndef IFA_COMMON_EXACT_H
#define IFA_COMMON_EXACT_H

#include <float.h>
#include <math.h>

#include "common/half.h"

#if defined(__FAST_MATH__)
#error "the bit contract does not survive -ffast-math"
#endif
#if !defined(__CUDACC__) && FLT_EVAL_METHOD != 0 && \
    FLT_EVAL_METHOD != 16 /* 16: with _Float16 kept in binary16 too */
#error "binary32 expressions must be evaluated in binary32 (x87: compile with -msse2 -mfpmath=sse)"
#endif

#ifdef __CUDA_ARCH__
IFA_FN float ifa_mul(float a, float b) { return __fmul_rn(a, b); }
IFA_FN float ifa_add(float a, float b) { return __fadd_rn(a, b); }
IFA_FN float ifa_div(float a, float b) { return __fdiv_rn(a, b); }
IFA_FN float ifa_fma(float a, float b, float c) { return __fmaf_rn(a, b, c); }
#else
IFA_FN float ifa_mul(float a, float b) { return a * b; }
IFA_FN float ifa_add(float a, float b) { return a + b; }
IFA_FN float ifa_div(float a, float b) { return a / b; }
IFA_FN float ifa_fma(float a, float b, float c) { return fmaf(a, b, c); }
#endif

/* Nearest integer, ties to even; the caller knows that it fits an int32. */
IFA_FN int32_t ifa_rne(float x) { return (int32_t)rintf(x); }

/* 2^k as a factor for k <= 0: exact, and 0 below 2^-126 (so that no implementation needs subnormal
 * factors). */
IFA_FN float ifa_pow2(int32_t k) {
  return k < -126 ? 0.0f : ifa_f32_of_bits((uint32_t)(127 + k) << 23);
}

/* a*b + c in binary16, rounded once. The sum is formed in binary64, where it is exact whenever the
 * operands and the sum are multiples of 2^-48 below 2^4 in magnitude: true for every use in
 * contract.h. */
IFA_FN uint16_t ifa_fma16(uint16_t a, uint16_t b, uint16_t c) {
  /* 22 significant bits: exact */
  double product = (double)ifa_f16_to_f32(a) * (double)ifa_f16_to_f32(b);
  return ifa_f64_to_f16(product + (double)ifa_f16_to_f32(c));
}

/* a*b in binary16, rounded once; the product is exact in binary32. */
IFA_FN uint16_t ifa_mul16(uint16_t a, uint16_t b) {
  return ifa_f32_to_f16(ifa_f16_to_f32(a) * ifa_f16_to_f32(b));
}

#endif
