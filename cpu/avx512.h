/* avx512.h - what the two AVX-512 instruction sets share: both products by vpdpbusd (docs/cpu.md has pictures), the 16 rows' reductions, units.
 *
 * vpdpbusd adds four products of unsigned by signed bytes to each int32, without saturation (vpdpbusds saturates and is not used).
 *     scores: (Q + 128) unsigned, broadcast; K signed; the sums start at K's bias -128 * sum_d K_jd
 *     values: P unsigned, broadcast; V signed
 * A group of up to 6 rows by 4 vectors keeps 24 sums in registers: 4 loads of K or V and 6 broadcasts serve 24 vpdpbusd. */
#ifndef IFA_CPU_AVX512_H
#define IFA_CPU_AVX512_H

#include <immintrin.h>
#include <string.h>

#include "cpu/units.h"

#define INLINE static inline __attribute__((always_inline))
#if defined(__clang__)
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 8")
#endif

enum { GROUP_ROWS = 6, GROUP_VECTORS = 4, SIXTEEN = 16 };

INLINE __m512i broadcast4(const uint8_t *bytes) {
  int32_t x;
  memcpy(&x, bytes, sizeof x);
  return _mm512_set1_epi32(x);
}

/* INT4: the bytes 16 * value of the low or the high nibbles. */
INLINE __m512i nibbles(const uint8_t *at, int high) {
  __m512i x = _mm512_loadu_si512(at);
  return _mm512_and_si512(high ? x : _mm512_slli_epi16(x, 4), _mm512_set1_epi8((char)0xf0));
}

/* Prefetches `ahead` bytes past the line at `at`; 0: nothing. The last group of rows of a product does so with what is read next: V after K, the next tile's
 * K after V. */
INLINE void prefetch(const uint8_t *at, ptrdiff_t ahead) {
  if (ahead) _mm_prefetch((const char *)((uintptr_t)at + (uintptr_t)ahead), _MM_HINT_T1);
}

/* ---- scores ---- */

/* `rows` rows by 16 * `vectors` keys; both constants, so that the sums stay in registers. */
INLINE void score_group(const ifa_cpu_layout *y, const uint8_t *q, const uint8_t *k, const int32_t *bias, int32_t *s, int rows, int vectors, int packed, ptrdiff_t ahead) {
  const size_t dim = (size_t)y->dim, pitch = packed ? dim * 8 : dim * 16; /* bytes from one 16 keys to the next */
  __m512i sum[GROUP_ROWS][GROUP_VECTORS], b[GROUP_VECTORS];
  UNROLL for (int v = 0; v < vectors; v++) {
    b[v] = _mm512_loadu_si512(bias + 16 * v);
    if (packed) b[v] = _mm512_slli_epi32(b[v], 4);
    UNROLL for (int r = 0; r < rows; r++) sum[r][v] = b[v];
  }
  for (size_t d = 0; d < dim; d += 4) {
    const uint8_t *at = k + (packed ? d / 8 * 64 : d * 16);
    UNROLL for (int v = 0; v < vectors; v++)
      b[v] = packed ? nibbles(at + (size_t)v * pitch, (d & 4) != 0) : _mm512_loadu_si512(at + (size_t)v * pitch);
    if (!packed || !(d & 4)) /* once a line */
      UNROLL for (int v = 0; v < vectors; v++) prefetch(at + (size_t)v * pitch, ahead);
    UNROLL for (int r = 0; r < rows; r++) {
      __m512i four = broadcast4(q + (size_t)r * dim + d);
      UNROLL for (int v = 0; v < vectors; v++) sum[r][v] = _mm512_dpbusd_epi32(sum[r][v], four, b[v]);
    }
  }
  UNROLL for (int r = 0; r < rows; r++)
    UNROLL for (int v = 0; v < vectors; v++)
      _mm512_storeu_si512(s + (size_t)r * (size_t)y->keys + 16 * v, packed ? _mm512_srai_epi32(sum[r][v], 4) : sum[r][v]);
}

INLINE void score_rows(const ifa_cpu_layout *y, const uint8_t *q, const uint8_t *k, const int32_t *bias, int32_t *s, int rows, int vectors, int packed, ptrdiff_t ahead) {
  switch (rows) {
    case 1: score_group(y, q, k, bias, s, 1, vectors, packed, ahead); break;
    case 2: score_group(y, q, k, bias, s, 2, vectors, packed, ahead); break;
    case 3: score_group(y, q, k, bias, s, 3, vectors, packed, ahead); break;
    case 4: score_group(y, q, k, bias, s, 4, vectors, packed, ahead); break;
    case 5: score_group(y, q, k, bias, s, 5, vectors, packed, ahead); break;
    default: score_group(y, q, k, bias, s, 6, vectors, packed, ahead);
  }
}

INLINE void score_tile(ifa_cpu_block *b, const uint8_t *tile, int packed) {
  const ifa_cpu_layout *y = b->layout;
  const int32_t *bias = ifa_cpu_k_bias(y, tile);
  const size_t keys_bytes = (size_t)y->dim * (packed ? 8 : 16);
  for (int32_t base = 0; base < y->keys; base += 64) {
    for (int32_t row = b->first, rows; row < b->last; row += rows) {
      const uint8_t *q = b->q + (size_t)row * (size_t)y->dim, *k = tile + (size_t)(base / 16) * keys_bytes;
      int32_t *s = b->s + (size_t)row * (size_t)y->keys + base;
      rows = b->last - row < GROUP_ROWS ? b->last - row : GROUP_ROWS;
      const ptrdiff_t ahead = row + rows == b->last ? y->at_v : 0;
      if (y->keys == 32) score_rows(y, q, k, bias + base, s, rows, 2, packed, ahead);
      else score_rows(y, q, k, bias + base, s, rows, 4, packed, ahead);
    }
  }
}

static void scores(ifa_cpu_block *b, const uint8_t *tile) {
  if (b->layout->k_bits == 4) score_tile(b, tile, 1);
  else score_tile(b, tile, 0);
}

/* ---- values ---- */

/* `rows` rows by 16 * `vectors` channels. */
INLINE void value_group(const ifa_cpu_layout *y, const uint8_t *p, const uint8_t *v, int32_t *acc, int rows, int vectors, int packed, ptrdiff_t ahead) {
  const size_t dim = (size_t)y->dim, keys = (size_t)y->keys;
  __m512i sum[GROUP_ROWS][GROUP_VECTORS], b[GROUP_VECTORS];
  UNROLL for (int r = 0; r < rows; r++)
    UNROLL for (int c = 0; c < vectors; c++) sum[r][c] = packed ? _mm512_setzero_si512() : _mm512_loadu_si512(acc + (size_t)r * dim + 16 * c);
  for (size_t j = 0; j < keys; j += 4) {
    const uint8_t *at = v + (packed ? j / 8 : j / 4) * dim * 4;
    UNROLL for (int c = 0; c < vectors; c++) b[c] = packed ? nibbles(at + 64 * c, (j & 4) != 0) : _mm512_loadu_si512(at + 64 * c);
    if (!packed || !(j & 4))
      UNROLL for (int c = 0; c < vectors; c++) prefetch(at + 64 * c, ahead);
    UNROLL for (int r = 0; r < rows; r++) {
      __m512i four = broadcast4(p + (size_t)r * keys + j);
      UNROLL for (int c = 0; c < vectors; c++) sum[r][c] = _mm512_dpbusd_epi32(sum[r][c], four, b[c]);
    }
  }
  UNROLL for (int r = 0; r < rows; r++)
    UNROLL for (int c = 0; c < vectors; c++) {
      int32_t *to = acc + (size_t)r * dim + 16 * c;
      if (packed) sum[r][c] = _mm512_add_epi32(_mm512_loadu_si512(to), _mm512_srai_epi32(sum[r][c], 4));
      _mm512_storeu_si512(to, sum[r][c]);
    }
}

INLINE void value_rows(const ifa_cpu_layout *y, const uint8_t *p, const uint8_t *v, int32_t *acc, int rows, int vectors, int packed, ptrdiff_t ahead) {
  switch (rows) {
    case 1: value_group(y, p, v, acc, 1, vectors, packed, ahead); break;
    case 2: value_group(y, p, v, acc, 2, vectors, packed, ahead); break;
    case 3: value_group(y, p, v, acc, 3, vectors, packed, ahead); break;
    case 4: value_group(y, p, v, acc, 4, vectors, packed, ahead); break;
    case 5: value_group(y, p, v, acc, 5, vectors, packed, ahead); break;
    default: value_group(y, p, v, acc, 6, vectors, packed, ahead);
  }
}

INLINE void value_tile(ifa_cpu_block *b, const uint8_t *tile, int packed) {
  const ifa_cpu_layout *y = b->layout;
  for (int32_t at = y->at_k_scale; b->next && at < y->bytes; at += 64) prefetch(b->next, at); /* the next tile's scales and sums: wanted at once */
  for (int32_t d = 0; d < y->dim; d += 64) {
    const uint8_t *v = tile + y->at_v + 4 * d;
    for (int32_t row = b->first, rows; row < b->last; row += rows) {
      const uint8_t *p = b->p + (size_t)row * (size_t)y->keys;
      int32_t *acc = b->acc + (size_t)row * (size_t)y->dim + d;
      rows = b->last - row < GROUP_ROWS ? b->last - row : GROUP_ROWS;
      const ptrdiff_t ahead = b->next && row + rows == b->last ? (ptrdiff_t)((uintptr_t)b->next - (uintptr_t)(tile + y->at_v)) : 0;
      switch (y->dim - d) {
        case 16: value_rows(y, p, v, acc, rows, 1, packed, ahead); break;
        case 32: value_rows(y, p, v, acc, rows, 2, packed, ahead); break;
        case 48: value_rows(y, p, v, acc, rows, 3, packed, ahead); break;
        default: value_rows(y, p, v, acc, rows, 4, packed, ahead);
      }
    }
  }
}

static void values(ifa_cpu_block *b, const uint8_t *tile) {
  if (b->layout->v_bits == 4) value_tile(b, tile, 1);
  else value_tile(b, tile, 0);
}

/* ---- weights: what does not depend on how the function is computed ---- */

/* Live keys among the 16 from `base` on. */
INLINE __mmask16 live_mask(int32_t from, int32_t to, int32_t base) {
  int32_t a = from - base, e = to - base;
  a = a < 0 ? 0 : a > 16 ? 16 : a;
  e = e < 0 ? 0 : e > 16 ? 16 : e;
  return (__mmask16)(e > a ? ((1u << e) - 1) & ~((1u << a) - 1) : 0);
}

/* Largest of each of 16 vectors: lane i of the result is that of vector i. Pairs of vectors are folded into one, four times. */
#define FOLD(name, type, unpacklo32, unpackhi32, unpacklo64, unpackhi64, lanes, max)                                                       \
  INLINE type name(const type *x) {                                                                                                         \
    type a[8], b[4], c[2];                                                                                                                  \
    UNROLL for (int i = 0; i < 8; i++) a[i] = max(unpacklo32(x[2 * i], x[2 * i + 1]), unpackhi32(x[2 * i], x[2 * i + 1]));                  \
    UNROLL for (int i = 0; i < 4; i++) b[i] = max(unpacklo64(a[2 * i], a[2 * i + 1]), unpackhi64(a[2 * i], a[2 * i + 1]));                  \
    UNROLL for (int i = 0; i < 2; i++) c[i] = max(lanes(b[2 * i], b[2 * i + 1], 0x88), lanes(b[2 * i], b[2 * i + 1], 0xdd));                \
    return max(lanes(c[0], c[1], 0x88), lanes(c[0], c[1], 0xdd));                                                                           \
  }
#define UNPACKLO_PD(a, b) _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)))
#define UNPACKHI_PD(a, b) _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)))
FOLD(fold_max, __m512, _mm512_unpacklo_ps, _mm512_unpackhi_ps, UNPACKLO_PD, UNPACKHI_PD, _mm512_shuffle_f32x4, _mm512_max_ps)
FOLD(fold_max16, __m512i, _mm512_unpacklo_epi32, _mm512_unpackhi_epi32, _mm512_unpacklo_epi64, _mm512_unpackhi_epi64, _mm512_shuffle_i32x4, _mm512_max_epu16)

/* Rows whose unit does not stay when the tile wants `want`. */
INLINE __mmask16 moving(__m512i unit, __m512i want, int32_t tau) {
  __m512i low = _mm512_sub_epi32(unit, _mm512_set1_epi32(tau == IFA_TAU_INF ? 1 << 30 : tau));
  return _mm512_cmpgt_epi32_mask(want, unit) | _mm512_cmplt_epi32_mask(want, low); /* no unit: INT32_MIN, below every wish */
}

/* Section 4 for 16 rows from `row` on: u into s, and the largest of each. Rows outside first..last-1 give -inf. */
INLINE __m512 score_units(ifa_cpu_block *b, const uint8_t *tile, int32_t row, int whole) {
  const ifa_cpu_layout *y = b->layout;
  const float *k_scale = ifa_cpu_k_scale(y, tile);
  __m512 largest[SIXTEEN];
  for (int32_t i = 0; i < SIXTEEN; i++) {
    float *u = (float *)b->s + (size_t)(row + i) * (size_t)y->keys;
    __m512 most = _mm512_set1_ps(-INFINITY);
    if (row + i >= b->first && row + i < b->last)
      for (int32_t j = 0; j < y->keys; j += 16) {
        __m512 x = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_loadu_si512(u + j)), _mm512_loadu_ps(k_scale + j));
        _mm512_storeu_ps(u + j, x);
        most = whole ? _mm512_max_ps(most, x) : _mm512_mask_max_ps(most, live_mask(b->from[row + i], b->to[row + i], j), most, x);
      }
    largest[i] = most;
  }
  return fold_max(largest);
}

/* Sections 5 and 6 for 16 rows: units follow; z = fma(u, slope, shift) for n scaled by 32768, which is exact. Rows without a live key keep theirs. */
INLINE __mmask16 follow_units(ifa_cpu_block *b, const uint8_t *tile, int32_t row, __m512 largest, float *slope, float *shift) {
  __m512 r = _mm512_mul_ps(_mm512_load_ps(b->factor + row), _mm512_set1_ps(ifa_cpu_head(b->layout, tile)->k_factor));
  __mmask16 live = _mm512_cmp_ps_mask(largest, _mm512_set1_ps(-INFINITY), _CMP_GT_OQ);
  __m512i want = _mm512_add_epi32(_mm512_cvt_roundps_epi32(_mm512_mul_ps(largest, r), _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC), _mm512_set1_epi32(1));
  uint32_t move = live & moving(_mm512_load_si512(b->unit + row), want, b->tau);
  if (move) {
    int32_t wants[SIXTEEN];
    _mm512_storeu_si512(wants, want);
    for (; move; move &= move - 1) ifa_cpu_follow_unit(b, row + __builtin_ctz(move), wants[__builtin_ctz(move)]);
  }
  _mm512_storeu_ps(slope, _mm512_mul_ps(_mm512_mul_ps(r, _mm512_set1_ps(0.03125f)), _mm512_set1_ps(32768.0f)));
  _mm512_storeu_ps(shift, _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_set1_epi32(IFA_OCTAVES), _mm512_load_si512(b->unit + row))), _mm512_set1_ps(1024.0f)));
  return live;
}

/* Section 8 for a row that sees keys from..to-1 only: its b, and its s_j, 0 where not live. */
INLINE int32_t partial_values(const ifa_cpu_layout *y, const uint8_t *tile, int32_t from, int32_t to, uint16_t *scale16) {
  const float *scale = ifa_cpu_v_scale(y, tile);
  __m512 most = _mm512_setzero_ps();
  for (int32_t j = 0; j < y->keys; j += 16) most = _mm512_max_ps(most, _mm512_maskz_loadu_ps(live_mask(from, to, j), scale + j));
  int32_t exponent = ifa_value_exponent(_mm512_reduce_max_ps(most));
  __m512 unit = _mm512_set1_ps(ldexpf(1.0f, -exponent)); /* 2^-108 .. 2^92; the product is exact, or far too small for a binary16 */
  for (int32_t j = 0; j < y->keys; j += 16) {
    __m512 x = _mm512_mul_ps(_mm512_maskz_loadu_ps(live_mask(from, to, j), scale + j), unit);
    _mm256_storeu_si256((__m256i *)(scale16 + j), _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
  return exponent;
}

/* Section 8: U' of 16 rows follows the largest y (a binary16 pattern in the low half of each lane); rows of `live` only. value_shift gets U + b - U',
 * at least -24: below, P is 0 anyway. */
INLINE void follow_value_units(ifa_cpu_block *b, int32_t row, __mmask16 live, __m512i largest, const int32_t *exponent, int32_t *value_shift) {
  __m512i top = _mm512_add_epi32(_mm512_load_si512(b->unit + row), _mm512_loadu_si512(exponent));
  __m512i m = _mm512_sub_epi32(_mm512_set1_epi32(22), _mm512_srli_epi32(_mm512_add_epi32(largest, _mm512_set1_epi32(7)), 10));
  __m512i want = _mm512_sub_epi32(top, _mm512_min_epi32(m, _mm512_set1_epi32(15)));
  uint32_t move = live & _mm512_test_epi32_mask(largest, largest) & moving(_mm512_load_si512(b->value_unit + row), want, b->tau);
  if (move) {
    int32_t wants[SIXTEEN];
    _mm512_storeu_si512(wants, want);
    for (; move; move &= move - 1) ifa_cpu_follow_value_unit(b, row + __builtin_ctz(move), wants[__builtin_ctz(move)]);
  }
  __m512i up = _mm512_sub_epi32(top, _mm512_load_si512(b->value_unit + row));
  _mm512_storeu_si512(value_shift, _mm512_min_epi32(_mm512_max_epi32(up, _mm512_set1_epi32(-24)), _mm512_set1_epi32(15)));
}

#endif
