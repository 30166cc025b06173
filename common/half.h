/* half.h - binary16 and bfloat16 as bit patterns: exact widening, and narrowing with one rounding
 * to nearest even. Integer code only, so the answers do not depend on the processor, its flags or
 * the compiler. C and CUDA. */
#ifndef IFA_COMMON_HALF_H
#define IFA_COMMON_HALF_H

#include <stdint.h>
#include <string.h>

#ifdef __CUDACC__
#define IFA_FN static __host__ __device__ __forceinline__
#else
#define IFA_FN static inline
#endif

IFA_FN uint32_t ifa_bits_of_f32(float x) {
  uint32_t u;
  memcpy(&u, &x, sizeof u);
  return u;
}
IFA_FN float ifa_f32_of_bits(uint32_t u) {
  float x;
  memcpy(&x, &u, sizeof x);
  return x;
}
IFA_FN uint64_t ifa_bits_of_f64(double x) {
  uint64_t u;
  memcpy(&u, &x, sizeof u);
  return u;
}

/* binary16 -> binary32, exact for every pattern (NaN payloads are kept, shifted). */
IFA_FN float ifa_f16_to_f32(uint16_t h) {
  uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exponent = (h >> 10) & 31u, fraction = h & 1023u;
  if (exponent == 31) return ifa_f32_of_bits(sign | 0x7f800000u | (fraction << 13));
  if (exponent != 0) return ifa_f32_of_bits(sign | ((exponent + 112u) << 23) | (fraction << 13));
  if (fraction == 0) return ifa_f32_of_bits(sign);
  exponent = 113; /* subnormal: fraction * 2^-24; shift the leading one up to bit 10 */
  while (!(fraction & 1024u)) {
    fraction <<= 1;
    exponent--;
  }
  return ifa_f32_of_bits(sign | (exponent << 23) | ((fraction & 1023u) << 13));
}

/* binary64 -> binary16, one rounding to nearest even; overflow gives infinity, NaN a quiet NaN. */
IFA_FN uint16_t ifa_f64_to_f16(double x) {
  uint64_t bits = ifa_bits_of_f64(x), fraction = bits & 0xfffffffffffffu;
  uint16_t sign = (uint16_t)(bits >> 48 & 0x8000u);
  int exponent = (int)(bits >> 52 & 0x7ffu) - 1023;
  if (exponent == 1024) return (uint16_t)(sign | (fraction ? 0x7e00u : 0x7c00u));
  if (exponent > 15) return (uint16_t)(sign | 0x7c00u);
  if (exponent < -25) return sign; /* below half of the smallest subnormal 2^-24 */
  uint64_t significand = fraction | 0x10000000000000u; /* 53 bits */
  /* keep 11 bits, fewer when subnormal */
  int drop = exponent >= -14 ? 42 : 42 + (-14 - exponent);
  uint64_t kept = significand >> drop, rest = significand & (((uint64_t)1 << drop) - 1),
           tie = (uint64_t)1 << (drop - 1);
  if (rest > tie || (rest == tie && (kept & 1))) kept++;
  /* A carry out of the significand moves into the exponent field, up to infinity, as it should. */
  uint32_t field = exponent >= -14 ? (uint32_t)(exponent + 14) << 10 : 0;
  return (uint16_t)(sign | (field + (uint32_t)kept));
}

/* binary32 -> binary16: widening to binary64 is exact, so this too rounds once. A GPU has an
 * instruction for it. */
IFA_FN uint16_t ifa_f32_to_f16(float x) {
#ifdef __CUDA_ARCH__
  uint16_t h;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(x));
  return h;
#else
  return ifa_f64_to_f16((double)x);
#endif
}

IFA_FN float ifa_bf16_to_f32(uint16_t h) { return ifa_f32_of_bits((uint32_t)h << 16); }

IFA_FN uint16_t ifa_f32_to_bf16(float x) {
  uint32_t bits = ifa_bits_of_f32(x);
  /* NaN stays NaN, quiet */
  if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(bits >> 16 | 0x40u);
  return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

#endif
