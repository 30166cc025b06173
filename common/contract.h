/* contract.h - the arithmetic of docs/numerics.md, one function a formula, in the document's order
 * and with its section numbers.
 *
 * Everything here is elementwise and defined to the last bit. The oracle (ref/scalar.c) is written
 * with these functions alone; faster backends use them or prove their own forms equal
 * (tests/common/test_contract.c tries every input where it can). C and CUDA. */
#ifndef IFA_COMMON_CONTRACT_H
#define IFA_COMMON_CONTRACT_H

#include "common/exact.h"
#include "ifa.h"

#define IFA_LOG2E 1.44269504f /* log2(e) rounded to binary32: 0x3fb8aa3b */
#define IFA_OCTAVES 30        /* span of the weight function below a row's unit */
#define IFA_INDEX_ZERO \
  12288 /* 1.5 * 2^13: what is added to x - U + 30, so that n is the low bits of the sum, */
#define IFA_INDEX_ZERO_BITS 0x46400000u /* and its pattern as a binary32 */
#define IFA_WEIGHT_TOP 30720            /* largest weight index: 1024 steps an octave */
#define IFA_WEIGHT_MAX 255              /* largest weight */
#define IFA_MAX_PRODUCT 32640           /* 255 * 128: largest |P * V| */

/* ---- 4. Scores ---- */

/* r_i: octaves per unit of u. sm_scale, scales >= 0. */
IFA_FN float ifa_row_factor(float q_scale, float sm_scale) {
  return ifa_mul(ifa_mul(q_scale, sm_scale), IFA_LOG2E);
}

/* u_ij for K per token; |S| <= 2^22, so its conversion is exact. For K per block or tensor u_ij =
 * S_ij and the block's scale multiplies the row factor instead: r_it = fl(r_i * k_scale). */
IFA_FN float ifa_score(int32_t s, float k_scale) { return ifa_mul((float)s, k_scale); }

/* ---- 5. Units ---- */

/* e_it: the least integer that is certainly above every score of the tile. `largest` is max_j u_ij
 * over the live keys. A negative one is below 0 even where its product is too small for a binary32.
 */
IFA_FN int32_t ifa_tile_unit(float largest, float r) {
  float x = ifa_mul(largest, r);
  return x == 0.0f && largest < 0.0f ? 0 : (int32_t)floorf(x) + 1;
}

/* How far accumulators of magnitude at most `magnitude` (>= 0) may be shifted left when `growth`
 * may still be added to them: the largest k in 0..wanted with magnitude * 2^k <= 2^31 - 1 - growth.
 */
IFA_FN int32_t ifa_headroom(int32_t magnitude, int32_t growth, int32_t wanted) {
  int32_t limit = INT32_MAX - growth, k = 0;
  if (magnitude == 0) return wanted;
  while (k < wanted && magnitude <= limit >> (k + 1)) k++;
  return k;
}

/* The unit that a row takes on for a tile that asks for `want`. Raising is always possible; a tile
 * more than tau octaves below is followed down as far as the accumulators allow. */
IFA_FN int32_t ifa_next_unit(int32_t unit, int32_t want, int32_t tau, int32_t magnitude,
                             int32_t growth) {
  if (unit == IFA_NO_UNIT || want > unit) return want;
  if (tau == IFA_TAU_INF || want >= unit - tau) return unit;
  return unit - ifa_headroom(magnitude, growth, unit - want);
}

/* An integer sum moved to a unit `up` octaves higher: floor(x / 2^up). Lower (up < 0): x * 2^-up,
 * which the headroom keeps in range (more than 31 octaves only when x is 0). */
IFA_FN int32_t ifa_shift(int32_t x, int32_t up) {
  if (up < -31) return 0;
  if (up <= 0) return (int32_t)((uint32_t)x << -up);
  if (up > 31) up = 31;
  return x >= 0 ? x >> up : ~(~x >> up);
}

/* ---- 6. Weights: a function of one integer ---- */

/* n_ij in 0..30720: where the score lies below the unit, in 1/1024 octaves from the bottom of 30.
 * One rounding, that of z: from 2^13 to 2^14 a binary32's last place is 2^-10. */
IFA_FN int32_t ifa_weight_index(float u, float r, int32_t unit) {
  float z = ifa_fma(u, r, (float)(IFA_INDEX_ZERO + IFA_OCTAVES - unit));
  z = z > IFA_INDEX_ZERO ? z : IFA_INDEX_ZERO;
  z = z < IFA_INDEX_ZERO + IFA_OCTAVES ? z : IFA_INDEX_ZERO + IFA_OCTAVES;
  return (int32_t)(ifa_bits_of_f32(z) - IFA_INDEX_ZERO_BITS);
}

/* Constants of g as binary16 patterns, found by tools/weight_search.c. */
#define IFA_WEIGHT_C3 0x1275
#define IFA_WEIGHT_C2 0x9757
#define IFA_WEIGHT_C1 0x887d
#define IFA_WEIGHT_C0 0x2090

/* g: what turns the piecewise-linear h into 255 * 2^x; about 255 * 2^-15 * 2^f / (1 + f), f = (n
 * mod 1024)/1024, as a cubic in w = 2 - f - 2^-10, whose binary16 pattern is the complement of n's
 * fraction under the exponent of 1. */
IFA_FN uint16_t ifa_weight_g(int32_t n) {
  uint16_t w = (uint16_t)((~n & 1023) | 0x3c00);
  uint16_t g = ifa_fma16(w, IFA_WEIGHT_C3, IFA_WEIGHT_C2);
  g = ifa_fma16(g, w, IFA_WEIGHT_C1);
  return ifa_fma16(g, w, IFA_WEIGHT_C0);
}

/* h * g, exact in binary32 (11 + 11 significant bits); h is the binary16 whose pattern is n. */
IFA_FN float ifa_weight_exact(int32_t n) {
  return ifa_f16_to_f32((uint16_t)n) * ifa_f16_to_f32(ifa_weight_g(n));
}

/* p_ij: the weight, 0..255, about 255 * 2^((n - 30720)/1024). */
IFA_FN int32_t ifa_weight(int32_t n) { return ifa_rne(ifa_weight_exact(n)); }

/* W_ij: the same before rounding to an integer, as a binary16, 0 <= W <= 255. */
IFA_FN uint16_t ifa_weight16(int32_t n) { return ifa_f32_to_f16(ifa_weight_exact(n)); }

/* ---- 8. V scaled per token ---- */

/* Does this section apply? */
IFA_FN int ifa_values_per_token(const ifa_problem *p) {
  return p->v_scale == IFA_SCALE_TOKEN || p->v_scale == IFA_SCALE_TOKEN_CHANNEL;
}

/* b: the exponent with largest * 2^-b in (128, 256]; 0 if the scales are all 0. */
IFA_FN int32_t ifa_value_exponent(float largest) {
  int exponent;
  if (largest == 0.0f) return 0;
  return frexpf(largest, &exponent) == 0.5f ? exponent - 9 : exponent - 8;
}

/* s_j: a token's scale relative to the largest that the row sees in the tile, rounded once to
 * binary16. A scale may be -0: s_j and y_ij are looked at as patterns and must have no sign. */
IFA_FN uint16_t ifa_value_scale16(float v_scale, int32_t b) {
  return ifa_f64_to_f16(scalbn(fabs((double)v_scale), -b));
}

/* y_ij = fl16(W_ij * s_j) <= 65280. */
IFA_FN uint16_t ifa_value_weight16(uint16_t w16, uint16_t s16) { return ifa_mul16(w16, s16); }

/* m: the largest integer <= 15 with y * 2^m <= 255, for the tile's largest y > 0 as a binary16
 * pattern. 255 is 1.9921875 * 2^7; adding 7 to the pattern carries into the exponent exactly when
 * the significand is above that. */
IFA_FN int32_t ifa_value_shift(uint16_t largest_y) {
  int32_t m = 22 - ((largest_y + 7) >> 10);
  return m < 15 ? m : 15;
}

/* P_ij = rne(y * 2^m), 0..255; y * 2^m is exact in binary32 or far below one half. */
IFA_FN int32_t ifa_value_weight(uint16_t y, int32_t m) {
  return ifa_rne(scalbnf(ifa_f16_to_f32(y), m));
}

/* ---- 9. Splits ---- */

/* A float sum and a split's integer sum, each times the power of two that takes it to the new unit.
 */
IFA_FN float ifa_merge_by(float sum, float power, int32_t split_sum, float split_power) {
  return ifa_fma((float)split_sum, split_power, ifa_mul(sum, power));
}

/* A float sum (unit e) and a split's integer sum (unit e_split), both moved to the unit e_new =
 * max(e, e_split) and added. */
IFA_FN float ifa_merge(float sum, int32_t e, int32_t split_sum, int32_t e_split, int32_t e_new) {
  return ifa_merge_by(sum, ifa_pow2(e - e_new), split_sum, ifa_pow2(e_split - e_new));
}

/* ---- 10. Output ---- */

/* V per tensor or channel. */
IFA_FN float ifa_output(float o, float l, float v_scale) { return ifa_mul(ifa_div(o, l), v_scale); }

/* V per token: `up` = E' - E, the value unit above the weight unit. scalbnf rounds only where the
 * result is subnormal. */
IFA_FN float ifa_output_token(float o, float l, int32_t up) { return scalbnf(ifa_div(o, l), up); }

/* ---- 11. Log-sum-exp ---- */

/* log2(x), x a positive normal binary32, as (integer, fraction): x = 2^*whole * m, m in [0.75,
 * 1.5), and log2(m) returned by the series 2/ln2 * (t + t^3/3 + t^5/5 + t^7/7 + t^9/9), t =
 * (m-1)/(m+1). */
IFA_FN float ifa_log2(float x, int32_t *whole) {
  int32_t bits = (int32_t)ifa_bits_of_f32(x), offset = bits - 0x3f400000;
  *whole = offset >= 0 ? offset >> 23 : ~(~offset >> 23);
  float m = ifa_f32_of_bits((uint32_t)(bits - *whole * 0x800000));
  float t = ifa_div(ifa_add(m, -1.0f), ifa_add(m, 1.0f)), s = ifa_mul(t, t);
  float y = ifa_fma(s, 0.320598898f, 0.412198583f);
  y = ifa_fma(y, s, 0.577078016f);
  y = ifa_fma(y, s, 0.961796694f);
  y = ifa_fma(y, s, 2.88539008f);
  return ifa_mul(y, t);
}

/* ln(sum of e^score) for a row with unit e and weight sum l (255 stands for weight 1): (e + log2(l)
 * - log2(255)) * ln 2. */
IFA_FN float ifa_lse(float l, int32_t e) {
  int32_t whole;
  float fraction = ifa_add(ifa_log2(l, &whole), -7.99435344f);
  return ifa_fma((float)(e + whole), 0.693147182f, ifa_mul(fraction, 0.693147182f));
}

/* ---- 12. Quantizers ---- */

#define IFA_TINY_GROUP                                                                             \
  0x1p-93f /* a group with a smaller absmax is a zero group: its scale would leave [2^-100, 2^100] \
            */
#define IFA_HUGE_ELEMENT \
  0x1p99f /* elements beyond are refused; subtracting a mean may double the rest */

/* Scale of a group, and the factor that takes an element to the grid: fl(Qmax / absmax). Both 0 for
 * a zero group. */
IFA_FN float ifa_group_scale(float absmax, float q_max, float *inverse) {
  if (absmax < IFA_TINY_GROUP) {
    *inverse = 0.0f;
    return 0.0f;
  }
  *inverse = ifa_div(q_max, absmax);
  return ifa_div(absmax, q_max);
}

#endif
