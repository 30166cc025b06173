/* avx512.h - what the two AVX-512 instruction sets share: both products, reductions of 16 rows at
 * once, units. */
#ifndef IFA_CPU_AVX512_H
#define IFA_CPU_AVX512_H

#include <immintrin.h>
#include <string.h>

#include "cpu/kernels/units.h"

#define INLINE IFA_CPU_INLINE
#define UNROLL IFA_CPU_UNROLL

enum { SIXTEEN = 16 };

/* Rows whose sums fit the registers; tiles of 4 bits are read as they lie by one group at most. */
enum { IFA_CPU_AVX512_GROUP_ROWS = 6, IFA_CPU_AVX512_NIBBLE_ROWS = IFA_CPU_AVX512_GROUP_ROWS };

/* Both products, and tiles of 4 bits as bytes; avx512_vnni.c. */
void ifa_cpu_avx512_scores(ifa_cpu_block *b, const uint8_t *tile);
void ifa_cpu_avx512_values(ifa_cpu_block *b, const uint8_t *tile);
void ifa_cpu_avx512_unfold(const ifa_cpu_layout *y, const uint8_t *tile, const ifa_cpu_layout *wide,
                           uint8_t *to);

#define IFA_CPU_AVX512_KERNELS(weigh_)                                                       \
  {                                                                                          \
    .q_form = IFA_CPU_OFFSET8, .p_bytes = 1, .slowness = 1, .scores = ifa_cpu_avx512_scores, \
    .weigh = weigh_, .values = ifa_cpu_avx512_values, .fetches = 1,                          \
    .nibble_rows = IFA_CPU_AVX512_NIBBLE_ROWS, .unfold = ifa_cpu_avx512_unfold,              \
  }

/* ---- weights: what does not depend on how the function is computed ---- */

/* Vectors of 16 keys at a time, and whether all rows see all of them, are constants in the loops.
 */
typedef void weigh_some(ifa_cpu_block *b, const uint8_t *tile, int vectors, int whole);
INLINE void weigh_by(ifa_cpu_block *b, const uint8_t *tile, weigh_some *channel,
                     weigh_some *token) {
  const int whole = b->whole;
  if (b->values_per_token) {
    if (b->layout->keys == 32) token(b, tile, 2, whole);
    else if (whole) token(b, tile, 4, 1);
    else token(b, tile, 4, 0);
  } else {
    if (b->layout->keys == 32) channel(b, tile, 2, whole);
    else if (whole) channel(b, tile, 4, 1);
    else channel(b, tile, 4, 0);
  }
}

/* Live keys among the 16 from `base` on. */
INLINE __mmask16 live_mask(int32_t from, int32_t to, int32_t base) {
  int32_t a = from - base, e = to - base;
  a = a < 0 ? 0 : a > 16 ? 16 : a;
  e = e < 0 ? 0 : e > 16 ? 16 : e;
  return (__mmask16)(e > a ? ((1u << e) - 1) & ~((1u << a) - 1) : 0);
}

/* Largest of each of 16 vectors: lane i of the result is that of vector i. Pairs of vectors are
 * folded into one, four times. */
#define FOLD(name, type, unpacklo32, unpackhi32, unpacklo64, unpackhi64, lanes, max)   \
  INLINE type name(const type *x) {                                                    \
    type a[8], b[4], c[2];                                                             \
    UNROLL for (int i = 0; i < 8; i++) a[i] =                                          \
        max(unpacklo32(x[2 * i], x[2 * i + 1]), unpackhi32(x[2 * i], x[2 * i + 1]));   \
    UNROLL for (int i = 0; i < 4; i++) b[i] =                                          \
        max(unpacklo64(a[2 * i], a[2 * i + 1]), unpackhi64(a[2 * i], a[2 * i + 1]));   \
    UNROLL for (int i = 0; i < 2; i++) c[i] =                                          \
        max(lanes(b[2 * i], b[2 * i + 1], 0x88), lanes(b[2 * i], b[2 * i + 1], 0xdd)); \
    return max(lanes(c[0], c[1], 0x88), lanes(c[0], c[1], 0xdd));                      \
  }
#define UNPACKLO_PD(a, b) \
  _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)))
#define UNPACKHI_PD(a, b) \
  _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)))
FOLD(fold_max, __m512, _mm512_unpacklo_ps, _mm512_unpackhi_ps, UNPACKLO_PD, UNPACKHI_PD,
     _mm512_shuffle_f32x4, _mm512_max_ps)
FOLD(fold_max16, __m512i, _mm512_unpacklo_epi32, _mm512_unpackhi_epi32, _mm512_unpacklo_epi64,
     _mm512_unpackhi_epi64, _mm512_shuffle_i32x4, _mm512_max_epu16)

/* Rows whose unit does not stay when the tile wants `want`. */
INLINE __mmask16 moving(__m512i unit, __m512i want, int32_t tau) {
  __m512i low = _mm512_sub_epi32(unit, _mm512_set1_epi32(tau == IFA_TAU_INF ? 1 << 30 : tau));
  /* no unit: INT32_MIN, below every wish */
  return _mm512_cmpgt_epi32_mask(want, unit) | _mm512_cmplt_epi32_mask(want, low);
}

/* Section 4 for 16 rows from `row` on: u into s, and the largest of each. Rows outside
 * first..last-1 give -inf. Of a tile that is cut, vectors without a live key are left alone. */
INLINE __m512 score_units(ifa_cpu_block *b, const uint8_t *tile, int32_t row, int vectors,
                          int whole) {
  const ifa_cpu_layout *y = b->layout;
  const int32_t keys = y->keys, first = b->first - row, last = b->last - row;
  const int together = whole ? vectors : 1;
  const float *k_scale = ifa_cpu_k_scale(y, tile);
  float *u = (float *)b->s + (size_t)row * (size_t)keys;
  __m512 largest[SIXTEEN];
  for (int32_t i = 0; i < SIXTEEN; i++, u += keys) {
    __m512 most = _mm512_set1_ps(-INFINITY);
    int32_t from = 0, end = 0;
    if (i >= first && i < last) {
      end = keys;
      if (!whole) ifa_cpu_seen_by(b, row + i, 1, &from, &end);
    }
    for (int32_t base = from; base < end; base += 16 * together)
      for (int v = 0; v < together; v++) {
        const int32_t j = base + 16 * v;
        __m512 x = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_loadu_si512(u + j)),
                                 _mm512_loadu_ps(k_scale + j));
        _mm512_storeu_ps(u + j, x);
        most = whole ? _mm512_max_ps(most, x)
                     : _mm512_mask_max_ps(most, live_mask(b->from[row + i], b->to[row + i], j),
                                          most, x);
      }
    largest[i] = most;
  }
  return fold_max(largest);
}

/* Sections 5 and 6 for 16 rows: units follow; z = fma(u, slope, shift). Rows without a live key
 * keep theirs. */
INLINE __mmask16 follow_units(ifa_cpu_block *b, const uint8_t *tile, int32_t row, __m512 largest,
                              float *slope, float *shift) {
  __m512 r = _mm512_mul_ps(_mm512_load_ps(b->factor + row),
                           _mm512_set1_ps(ifa_cpu_head(b->layout, tile)->k_factor));
  __mmask16 live = _mm512_cmp_ps_mask(largest, _mm512_set1_ps(-INFINITY), _CMP_GT_OQ);
  __m512 x = _mm512_mul_ps(largest, r), zero = _mm512_setzero_ps();
  /* negative, and too small for a binary32 */
  __mmask16 vanished =
      _mm512_mask_cmp_ps_mask(_mm512_cmp_ps_mask(largest, zero, _CMP_LT_OQ), x, zero, _CMP_EQ_OQ);
  __m512i want = _mm512_maskz_add_epi32(
      _mm512_knot(vanished), _mm512_cvt_roundps_epi32(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC),
      _mm512_set1_epi32(1));
  uint32_t move = live & moving(_mm512_load_si512(b->unit + row), want, b->tau);
  if (move) {
    int32_t wants[SIXTEEN];
    _mm512_storeu_si512(wants, want);
    for (; move; move &= move - 1)
      ifa_cpu_follow_unit(b, row + __builtin_ctz(move), wants[__builtin_ctz(move)]);
  }
  _mm512_storeu_ps(slope, r);
  _mm512_storeu_ps(
      shift, _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_set1_epi32(IFA_INDEX_ZERO + IFA_OCTAVES),
                                                 _mm512_load_si512(b->unit + row))));
  return live;
}

/* Section 8 for a row that sees keys from..to-1 only: its b, and its s_j, 0 where not live, of
 * all keys or of the groups of 16 with one that it sees. */
INLINE int32_t partial_values(const ifa_cpu_layout *y, const uint8_t *tile, int32_t from,
                              int32_t to, int all, uint16_t *scale16) {
  const int32_t first = all ? 0 : from / 16 * 16, end = all ? y->keys : to;
  const float *scale = ifa_cpu_v_scale(y, tile);
  __m512 most = _mm512_setzero_ps();
  for (int32_t j = first; j < end; j += 16)
    most = _mm512_max_ps(most, _mm512_maskz_loadu_ps(live_mask(from, to, j), scale + j));
  int32_t exponent = ifa_cpu_value_exponent(_mm512_reduce_max_ps(most));
  /* 2^-108 .. 2^92; the product is exact, or far too small for a binary16 */
  __m512 unit = _mm512_set1_ps(ifa_pow2(-exponent));
  for (int32_t j = first; j < end; j += 16) {
    __m512 x = _mm512_mul_ps(_mm512_maskz_loadu_ps(live_mask(from, to, j), scale + j), unit);
    x = _mm512_abs_ps(x); /* a scale may be -0 */
    _mm256_storeu_si256((__m256i *)(scale16 + j),
                        _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
  return exponent;
}

/* Section 8: U' of 16 rows follows the largest y (a binary16 pattern in the low half of each lane);
 * rows of `live` only. value_shift gets U + b - U', at least -24: below, P is 0 anyway. */
INLINE void follow_value_units(ifa_cpu_block *b, int32_t row, __mmask16 live, __m512i largest,
                               const int32_t *exponent, int32_t *value_shift) {
  __m512i top = _mm512_add_epi32(_mm512_load_si512(b->unit + row), _mm512_loadu_si512(exponent));
  __m512i m =
      _mm512_sub_epi32(_mm512_set1_epi32(22),
                       _mm512_srli_epi32(_mm512_add_epi32(largest, _mm512_set1_epi32(7)), 10));
  __m512i want = _mm512_sub_epi32(top, _mm512_min_epi32(m, _mm512_set1_epi32(15)));
  uint32_t move = live & _mm512_test_epi32_mask(largest, largest) &
                  moving(_mm512_load_si512(b->value_unit + row), want, b->tau);
  if (move) {
    int32_t wants[SIXTEEN];
    _mm512_storeu_si512(wants, want);
    for (; move; move &= move - 1)
      ifa_cpu_follow_value_unit(b, row + __builtin_ctz(move), wants[__builtin_ctz(move)]);
  }
  __m512i up = _mm512_sub_epi32(top, _mm512_load_si512(b->value_unit + row));
  _mm512_storeu_si512(value_shift, _mm512_min_epi32(_mm512_max_epi32(up, _mm512_set1_epi32(-24)),
                                                    _mm512_set1_epi32(15)));
}

#endif
