/* fp8.h - the two 8-bit floating formats as bit patterns: exact widening, narrowing with one
 * rounding to nearest even.
 *
 *            sign exponent fraction  bias  largest finite        smallest subnormal  infinity
 *              NaN
 *   e4m3fn     1      4       3        7   0x7e = 448            2^-9                none
 *     0x7f 0xff
 *   e5m2       1      5       2       15   0x7b = 57344          2^-16               0x7c 0xfc
 *     0x7d-0x7f 0xfd-0xff
 *
 * Source: OCP 8-bit Floating Point Specification 1.0, tables 1 and 2 (Micikevicius et al., arXiv
 * 2209.05433). What lies past e4m3fn's range, infinity included, saturates at 448 (the processors'
 * cvt.rn.satfinite.e4m3); in e5m2 it becomes infinity (a cast in PyTorch). Integer code only, so
 * the answers do not depend on the processor or its flags. */
#ifndef IFA_REF_FP8_H
#define IFA_REF_FP8_H

#include "common/half.h"

/* The code, without sign, of |x| rounded to nearest even in a format with `fraction_bits` (2 or 3)
 * and exponent `bias` and no largest exponent: code = (exponent field << fraction_bits) + fraction.
 * Codes ascend as |x| does, so the caller caps. NaN is the caller's; infinity counts as 2^1024. |x|
 * has 53 significant bits; below the smallest normal number 2^(1 - bias) the last place stays at
 * 2^(1 - bias - fraction_bits). */
static inline uint32_t ifa_fp8_magnitude(double x, int fraction_bits, int bias) {
  uint64_t bits = ifa_bits_of_f64(x) & 0x7fffffffffffffffu;
  int exponent = (int)(bits >> 52) - 1023, smallest = 1 - bias;
  if (exponent < smallest - fraction_bits - 1) return 0; /* below half of the smallest subnormal */
  uint64_t significand = (bits & 0xfffffffffffffu) | 0x10000000000000u;
  int drop = 52 - fraction_bits + (exponent < smallest ? smallest - exponent : 0); /* 49 .. 54 */
  uint64_t kept = significand >> drop, rest = significand & (((uint64_t)1 << drop) - 1),
           tie = (uint64_t)1 << (drop - 1);
  if (rest > tie || (rest == tie && (kept & 1))) kept++;
  /* kept holds the leading one, hence exponent field - 1; a carry out of the fraction moves into
   * the exponent field. */
  uint32_t field = exponent < smallest ? 0 : (uint32_t)(exponent - smallest) << fraction_bits;
  return field + (uint32_t)kept;
}

static inline uint8_t ifa_f64_to_e4m3(double x) {
  uint8_t sign = (uint8_t)(ifa_bits_of_f64(x) >> 56 & 0x80u);
  if (x != x) return (uint8_t)(sign | 0x7fu);
  uint32_t code = ifa_fp8_magnitude(x, 3, 7);
  return (uint8_t)(sign | (code < 0x7eu ? code : 0x7eu));
}

static inline uint8_t ifa_f64_to_e5m2(double x) {
  uint8_t sign = (uint8_t)(ifa_bits_of_f64(x) >> 56 & 0x80u);
  if (x != x) return (uint8_t)(sign | 0x7eu);
  uint32_t code = ifa_fp8_magnitude(x, 2, 15);
  return (uint8_t)(sign | (code < 0x7cu ? code : 0x7cu));
}

/* e4m3fn -> binary32, exact. The same seven bits read as a binary16 magnitude (shifted by 7) have
 * bias 15 instead of 7, so the value is 2^8 times that binary16, subnormals included; only the NaN
 * code must be told apart. */
static inline float ifa_e4m3_to_f32(uint8_t code) {
  uint16_t sign = (uint16_t)((code & 0x80u) << 8);
  if ((code & 0x7fu) == 0x7fu) return ifa_f16_to_f32((uint16_t)(sign | 0x7e00u));
  return 256.0f * ifa_f16_to_f32((uint16_t)(sign | (code & 0x7fu) << 7));
}

/* e5m2 -> binary32, exact: an e5m2 number is the upper byte of a binary16. */
static inline float ifa_e5m2_to_f32(uint8_t code) { return ifa_f16_to_f32((uint16_t)(code << 8)); }

#endif
