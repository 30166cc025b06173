/* neon_dotprod.c - AArch64 with the dot product and half precision instructions (Armv8.2-A and
 * later: Neoverse N1, Cortex-A55 and A75, Apple M1).
 *
 *     scores   sdot: a vector of K holds 4 channels of 4 keys; 4 channels of a row of Q are one
 *              lane of another
 *     weigh    section 6 as it is written: binary16 vectors, 8 keys at once; fmla rounds once, as
 *              the document's fma16 does
 *     values   udot, for there is no unsigned by signed product without i8mm: V + 128 is unsigned,
 *              and what that adds, 128 * sum of P,
 *              is taken off before: acc += sum P (V + 128) - 128 sum P
 *
 * A step is 16 keys (scores) or 16 channels (values) of up to 4 rows: 16 accumulators, and each
 * vector of K or V serves 4 rows. */
#include <arm_neon.h>

#include "cpu/kernels/neon.h"
#include "cpu/kernels/unfold.h"
#include "cpu/kernels/units.h"

/* ---- scores ---- */

/* 16 keys by `rows` rows; k is the 16 keys' part of the tile. */
static inline __attribute__((always_inline)) void score_16_keys(const int8_t *q, const int8_t *k,
                                                                int32_t *s, int32_t dim,
                                                                int32_t keys, int rows) {
  int32x4_t sum[4][4];
  for (int r = 0; r < rows; r++)
    for (int i = 0; i < 4; i++) sum[r][i] = vdupq_n_s32(0);
  for (int32_t d = 0; d < dim; d += 16) {
    int8x16_t a[4];
    for (int r = 0; r < rows; r++) a[r] = vld1q_s8(q + r * dim + d);
#define LANE(lane)                                                                        \
  for (int i = 0; i < 4; i++) {                                                           \
    int8x16_t x = vld1q_s8(k + (d / 4 + (lane)) * 64 + 16 * i);                           \
    for (int r = 0; r < rows; r++) sum[r][i] = vdotq_laneq_s32(sum[r][i], x, a[r], lane); \
  }
    LANE(0) LANE(1) LANE(2) LANE(3)
#undef LANE
  }
  for (int r = 0; r < rows; r++)
    for (int i = 0; i < 4; i++) vst1q_s32(s + r * keys + 4 * i, sum[r][i]);
}

static inline __attribute__((always_inline)) void score_rows(const ifa_cpu_block *b,
                                                             const uint8_t *tile, int32_t row,
                                                             int rows) {
  const ifa_cpu_layout *y = b->layout;
  const int8_t *k = (const int8_t *)tile;
  for (int32_t j = 0; j < y->keys; j += 16)
    score_16_keys((const int8_t *)b->q + row * y->dim, k + j * y->dim, b->s + row * y->keys + j,
                  y->dim, y->keys, rows);
}

void ifa_cpu_neon_scores(const ifa_cpu_block *b, const uint8_t *tile, int32_t first, int32_t last) {
  int32_t row = first;
  for (; row + 4 <= last; row += 4) score_rows(b, tile, row, 4);
  for (; row < last; row++) score_rows(b, tile, row, 1);
}

static void scores(ifa_cpu_block *b, const uint8_t *tile) {
  ifa_cpu_neon_scores(b, tile, b->first, b->last);
}

/* ---- weights ---- */

/* Keys at .. at+7 of a row: all bits where the row sees the key. */
static inline uint16x8_t live8(int32_t at, int32_t from, int32_t to) {
  static const int16_t count[8] = {0, 1, 2, 3, 4, 5, 6, 7};
  int16x8_t j = vaddq_s16(vld1q_s16(count), vdupq_n_s16((int16_t)at));
  return vandq_u16(vcgeq_s16(j, vdupq_n_s16((int16_t)from)),
                   vcltq_s16(j, vdupq_n_s16((int16_t)to)));
}

/* Section 4: u over s, in place; the largest of the live ones. */
static inline __attribute__((always_inline)) float score_units(int32_t *s, const float *k_scale,
                                                               int32_t keys, int32_t from,
                                                               int32_t to, int whole) {
  float32x4_t largest = vdupq_n_f32(-INFINITY);
  for (int32_t j = 0; j < keys; j += 8) {
    float32x4_t low = vmulq_f32(vcvtq_f32_s32(vld1q_s32(s + j)), vld1q_f32(k_scale + j));
    float32x4_t high = vmulq_f32(vcvtq_f32_s32(vld1q_s32(s + j + 4)), vld1q_f32(k_scale + j + 4));
    vst1q_s32(s + j, vreinterpretq_s32_f32(low));
    vst1q_s32(s + j + 4, vreinterpretq_s32_f32(high));
    if (!whole) {
      /* widened with its sign: all bits again */
      int16x8_t live = vreinterpretq_s16_u16(live8(j, from, to));
      low = vbslq_f32(vreinterpretq_u32_s32(vmovl_s16(vget_low_s16(live))), low,
                      vdupq_n_f32(-INFINITY));
      high = vbslq_f32(vreinterpretq_u32_s32(vmovl_s16(vget_high_s16(live))), high,
                       vdupq_n_f32(-INFINITY));
    }
    largest = vmaxq_f32(largest, vmaxq_f32(low, high));
  }
  return vmaxvq_f32(largest);
}

/* n of section 6: the low half of z. No live key is above 30720; keys that are not live must not
 * become infinities. */
static inline uint16x4_t index4(const int32_t *u, float32x4_t r, float32x4_t offset) {
  float32x4_t z = vfmaq_f32(offset, vreinterpretq_f32_s32(vld1q_s32(u)), r);
  z = vminq_f32(vmaxq_f32(z, vdupq_n_f32(IFA_INDEX_ZERO)),
                vdupq_n_f32(IFA_INDEX_ZERO + IFA_OCTAVES));
  return vmovn_u32(vreinterpretq_u32_f32(z));
}

static inline float16x8_t half8(uint16_t pattern) {
  return vreinterpretq_f16_u16(vdupq_n_u16(pattern));
}

/* An integer 0..1023 from x = a * b, rounded once to the nearest: 1024 + x is a binary16 whose last
 * place is 1. */
static inline uint16x8_t round8(float16x8_t a, float16x8_t b) {
  return vandq_u16(vreinterpretq_u16_f16(vfmaq_f16(half8(0x6400), a, b)), vdupq_n_u16(1023));
}

/* Sections 5, 6 and 8 for one row that sees keys from .. to-1 of the tile. */
static inline __attribute__((always_inline)) void weigh_row(ifa_cpu_block *b, const uint8_t *tile,
                                                            int32_t row, int whole) {
  const ifa_cpu_layout *y = b->layout;
  int32_t keys = y->keys, from = b->from[row], to = b->to[row], *s = b->s + row * keys;
  uint8_t *p = b->p + row * keys;
  if (to <= from) {
    for (int32_t j = 0; j < keys; j += 16) vst1q_u8(p + j, vdupq_n_u8(0));
    return;
  }
  float r = ifa_mul(b->factor[row], ifa_cpu_head(y, tile)->k_factor);
  int32_t want = ifa_tile_unit(score_units(s, ifa_cpu_k_scale(y, tile), keys, from, to, whole), r);
  if (!ifa_cpu_unit_stays(b->unit[row], want, b->tau)) ifa_cpu_follow_unit(b, row, want);

  uint16_t own_scale16[IFA_CPU_MAX_TILE], values[IFA_CPU_MAX_TILE];
  const uint16_t *scale16 = NULL;
  int32_t value_exponent = 0;
  if (b->values_per_token) {
    scale16 = whole ? ifa_cpu_v_scale16(y, tile) : own_scale16;
    value_exponent = whole ? ifa_cpu_head(y, tile)->value_exponent
                           : ifa_cpu_partial_values(y, tile, from, to, own_scale16);
  }

  float32x4_t factor = vdupq_n_f32(r),
              offset = vdupq_n_f32((float)(IFA_INDEX_ZERO + IFA_OCTAVES - b->unit[row]));
  uint32x4_t l = vdupq_n_u32(0);
  uint16x8_t largest = vdupq_n_u16(0);
  for (int32_t j = 0; j < keys; j += 8) {
    uint16x8_t n = vcombine_u16(index4(s + j, factor, offset), index4(s + j + 4, factor, offset));
    float16x8_t w =
        vreinterpretq_f16_u16(vorrq_u16(vbicq_u16(vdupq_n_u16(1023), n), vdupq_n_u16(0x3c00)));
    float16x8_t g = vfmaq_f16(half8(IFA_WEIGHT_C2), w, half8(IFA_WEIGHT_C3)),
                h = vreinterpretq_f16_u16(n);
    g = vfmaq_f16(half8(IFA_WEIGHT_C1), g, w);
    g = vfmaq_f16(half8(IFA_WEIGHT_C0), g, w);
    uint16x8_t weight = round8(h, g);
    if (!whole) weight = vandq_u16(weight, live8(j, from, to));
    l = vpadalq_u16(l, weight);
    if (b->values_per_token) {
      float16x8_t value = vmulq_f16(vmulq_f16(h, g), vreinterpretq_f16_u16(vld1q_u16(scale16 + j)));
      vst1q_u16(values + j, vreinterpretq_u16_f16(value)); /* 0 where not live: s_j is 0 there */
      largest = vmaxq_u16(largest, vreinterpretq_u16_f16(value));
    } else {
      vst1_u8(p + j, vmovn_u16(weight));
    }
  }
  b->l[row][0] += (int32_t)vaddvq_u32(l);
  if (!b->values_per_token) return;

  uint16_t largest_value = vmaxvq_u16(largest);
  if (largest_value == 0) {
    for (int32_t j = 0; j < keys; j += 16) vst1q_u8(p + j, vdupq_n_u8(0));
    return;
  }
  want = b->unit[row] + value_exponent - ifa_value_shift(largest_value);
  if (!ifa_cpu_unit_stays(b->value_unit[row], want, b->tau))
    ifa_cpu_follow_value_unit(b, row, want);
  /* y * 2^m, m <= 15. Below 2^-24 every product is under 2^-8, as it is at 2^-24: P is 0. */
  int32_t m = b->unit[row] + value_exponent - b->value_unit[row];
  float16x8_t scale = half8((uint16_t)(m >= -14 ? (m + 15) << 10 : m >= -24 ? 1 << (m + 24) : 1));
  for (int32_t j = 0; j < keys; j += 8)
    vst1_u8(p + j, vmovn_u16(round8(vreinterpretq_f16_u16(vld1q_u16(values + j)), scale)));
}

void ifa_cpu_neon_weigh(ifa_cpu_block *b, const uint8_t *tile) {
  for (int32_t row = b->first; row < b->last; row++) {
    if (b->whole) weigh_row(b, tile, row, 1);
    else weigh_row(b, tile, row, 0);
  }
}

/* ---- values ---- */

/* 16 channels by `rows` rows; v is the 16 channels' part of the tile's first group of 4 keys. */
static inline __attribute__((always_inline)) void add_16_channels(const uint8_t *p, const int8_t *v,
                                                                  int32_t *acc, int32_t dim,
                                                                  int32_t keys, int rows,
                                                                  const int32_t *sum_p) {
  int32x4_t sum[4][4];
  for (int r = 0; r < rows; r++)
    for (int i = 0; i < 4; i++)
      sum[r][i] = vsubq_s32(vld1q_s32(acc + r * dim + 4 * i), vdupq_n_s32(128 * sum_p[r]));
  for (int32_t j = 0; j < keys; j += 16) {
    uint8x16_t a[4];
    for (int r = 0; r < rows; r++) a[r] = vld1q_u8(p + r * keys + j);
#define LANE(lane)                                                                                 \
  for (int i = 0; i < 4; i++) {                                                                    \
    uint8x16_t x = veorq_u8(                                                                       \
        vreinterpretq_u8_s8(vld1q_s8(v + (j / 4 + (lane)) * 4 * dim + 16 * i)), vdupq_n_u8(128));  \
    for (int r = 0; r < rows; r++)                                                                 \
      sum[r][i] =                                                                                  \
          vreinterpretq_s32_u32(vdotq_laneq_u32(vreinterpretq_u32_s32(sum[r][i]), x, a[r], lane)); \
  }
    LANE(0) LANE(1) LANE(2) LANE(3)
#undef LANE
  }
  for (int r = 0; r < rows; r++)
    for (int i = 0; i < 4; i++) vst1q_s32(acc + r * dim + 4 * i, sum[r][i]);
}

static inline __attribute__((always_inline)) void add_rows(const ifa_cpu_block *b,
                                                           const uint8_t *tile, int32_t row,
                                                           int rows) {
  const ifa_cpu_layout *y = b->layout;
  const uint8_t *p = b->p + row * y->keys;
  int32_t sum_p[4];
  for (int r = 0; r < rows; r++) {
    uint32x4_t sum = vdupq_n_u32(0);
    for (int32_t j = 0; j < y->keys; j += 16)
      sum = vdotq_u32(sum, vld1q_u8(p + r * y->keys + j), vdupq_n_u8(1));
    sum_p[r] = (int32_t)vaddvq_u32(sum);
  }
  for (int32_t d = 0; d < y->dim; d += 16)
    add_16_channels(p, (const int8_t *)tile + y->at_v + 4 * d, b->acc + row * y->dim + d, y->dim,
                    y->keys, rows, sum_p);
}

void ifa_cpu_neon_values(const ifa_cpu_block *b, const uint8_t *tile, int32_t first, int32_t last) {
  int32_t row = first;
  for (; row + 4 <= last; row += 4) add_rows(b, tile, row, 4);
  for (; row < last; row++) add_rows(b, tile, row, 1);
}

static void values(ifa_cpu_block *b, const uint8_t *tile) {
  ifa_cpu_neon_values(b, tile, b->first, b->last);
}

const ifa_cpu_kernels ifa_cpu_neon_dotprod = {.q_form = IFA_CPU_SIGNED8,
                                              .p_bytes = 1,
                                              .slowness = 2,
                                              .scores = scores,
                                              .weigh = ifa_cpu_neon_weigh,
                                              .values = values,
                                              .nibble_rows = 0,
                                              .unfold = ifa_cpu_unfold_tile};
