/* avx2.h - what the two instruction sets of 256 bits share: sections 4 to 8 in binary32. The weight
 * function as in avx512_vnni.c, which says why it is exact. */
#ifndef IFA_CPU_AVX2_H
#define IFA_CPU_AVX2_H

#include <immintrin.h>
#include <string.h>

#include "cpu/kernels/units.h"

#define INLINE IFA_CPU_INLINE
#define UNROLL IFA_CPU_UNROLL

INLINE __m256i load(const void *at) { return _mm256_loadu_si256((const __m256i *)at); }
INLINE void store(void *at, __m256i x) { _mm256_storeu_si256((__m256i *)at, x); }

/* Times 2^112, as in avx512_vnni.c. */
#define UP 0x1p112f
#define C3 (UP * 0x1.9d4p-11f)
#define C2 (UP * -0x1.d5cp-10f)
#define C1 (UP * -0x1.1f4p-13f)
#define C0 (UP * 0x1.24p-7f)

INLINE __m256 set(float x) { return _mm256_set1_ps(x); }

/* All ones in the lanes of live keys among the 8 from `base` on. */
INLINE __m256i live_mask(int32_t from, int32_t to, int32_t base) {
  __m256i key =
      _mm256_add_epi32(_mm256_set1_epi32(base), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  return _mm256_andnot_si256(_mm256_cmpgt_epi32(_mm256_set1_epi32(from), key),
                             _mm256_cmpgt_epi32(_mm256_set1_epi32(to), key));
}

INLINE float largest_of(__m256 x) {
  __m128 a = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  a = _mm_max_ps(a, _mm_movehl_ps(a, a));
  return _mm_cvtss_f32(_mm_max_ss(a, _mm_movehdup_ps(a)));
}

/* Largest of 8 unsigned words. */
INLINE uint16_t largest_word(__m128i x) {
  x = _mm_minpos_epu16(_mm_xor_si128(x, _mm_set1_epi16(-1)));
  return (uint16_t)~_mm_extract_epi16(x, 0);
}

#define EACH UNROLL for (int v = 0; v < VECTORS; v++)
enum { VECTORS = 4 };

/* 2^112 g of each; n13 is n << 13. Step by step for all vectors: they wait for each other's results
 * less than for their own. */
INLINE void weight_g(const __m256i *n13, __m256 *x) {
  __m256 w[VECTORS], c[VECTORS];
  EACH w[v] = _mm256_castsi256_ps(_mm256_or_si256(
      _mm256_andnot_si256(n13[v], _mm256_set1_epi32(1023 << 13)), _mm256_set1_epi32(0x3f800000)));
  EACH x[v] = _mm256_fmadd_ps(w[v], set(C3), set(C2));
  EACH c[v] = _mm256_fmadd_ps(w[v], set(8193 * C3), set(8193 * C2));
  EACH x[v] = _mm256_add_ps(_mm256_sub_ps(x[v], c[v]), c[v]);
  EACH x[v] = _mm256_fmadd_ps(x[v], w[v], set(C1));
  EACH c[v] = _mm256_mul_ps(x[v], set(8193.0f));
  EACH x[v] = _mm256_add_ps(_mm256_sub_ps(x[v], c[v]), c[v]);
  EACH x[v] = _mm256_fmadd_ps(x[v], w[v], set(UP * 48.0f + C0));
  EACH x[v] = _mm256_sub_ps(x[v], set(UP * 48.0f));
}

/* rne(h g), 0..255: the low bits of 1.5 * 2^23 + that. */
INLINE __m256i rounded_product(__m256i n13, __m256 g) {
  const __m256 one = set(0x1.8p23f);
  return _mm256_sub_epi32(_mm256_castps_si256(_mm256_fmadd_ps(_mm256_castsi256_ps(n13), g, one)),
                          _mm256_castps_si256(one));
}

/* n << 13 of 8 keys, which is z << 13; 0 where not live. */
INLINE __m256i weight_index13(const ifa_cpu_block *b, int32_t row, int32_t j, const float *u,
                              __m256 r, __m256 shift, __m256 least, int whole) {
  __m256i z =
      _mm256_max_epi32(_mm256_castps_si256(_mm256_fmadd_ps(_mm256_loadu_ps(u + j), r, shift)),
                       _mm256_castps_si256(least));
  if (!whole) z = _mm256_and_si256(z, live_mask(b->from[row], b->to[row], j));
  return _mm256_slli_epi32(z, 13);
}

/* Weights of 16 keys from key j on: words, or bytes. */
INLINE void store_weights(uint8_t *p, int32_t j, __m256i a, __m256i b, int bytes) {
  __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xd8);
  if (bytes == 2) store(p + 2 * j, words);
  else
    _mm_storeu_si128((__m128i *)(p + j), _mm_packus_epi16(_mm256_castsi256_si128(words),
                                                          _mm256_extracti128_si256(words, 1)));
}

INLINE __m128i to_f16(__m256 x) {
  return _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
INLINE __m256 from_f16(const uint16_t *at) {
  return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)at));
}

/* Section 8 for a row that sees keys from..to-1 only: its b, and its s_j, 0 where not live. */
INLINE int32_t partial_values(const ifa_cpu_layout *y, const uint8_t *tile, int32_t from,
                              int32_t to, uint16_t *scale16) {
  const float *scale = ifa_cpu_v_scale(y, tile);
  __m256 most = _mm256_setzero_ps();
  for (int32_t j = 0; j < y->keys; j += 8)
    most = _mm256_max_ps(most, _mm256_and_ps(_mm256_loadu_ps(scale + j),
                                             _mm256_castsi256_ps(live_mask(from, to, j))));
  int32_t exponent = ifa_cpu_value_exponent(largest_of(most));
  /* 2^-92 .. 2^108; the product is exact, or far too small for a binary16 */
  __m256 unit = set(ifa_pow2(-exponent));
  for (int32_t j = 0; j < y->keys; j += 8) {
    __m256 x =
        _mm256_and_ps(_mm256_loadu_ps(scale + j), _mm256_castsi256_ps(live_mask(from, to, j)));
    x = _mm256_andnot_ps(set(-0.0f), _mm256_mul_ps(x, unit)); /* a scale may be -0 */
    _mm_storeu_si128((__m128i *)(scale16 + j), to_f16(x));
  }
  return exponent;
}

/* Section 8 for one row after its unit: u in, P out; returns the sums of p. y takes the place of u,
 * 2 bytes a key. */
INLINE __m256i weigh_values(ifa_cpu_block *b, const uint8_t *tile, int32_t row, float *u,
                            uint8_t *p, __m256 r, __m256 shift, int bytes, int whole) {
  const ifa_cpu_layout *y = b->layout;
  const uint16_t *scale16 = ifa_cpu_v_scale16(y, tile);
  uint16_t *value = (uint16_t *)u, partial[IFA_CPU_MAX_TILE];
  int32_t exponent = ifa_cpu_head(y, tile)->value_exponent;
  __m256i sum = _mm256_setzero_si256();
  __m128i most = _mm_setzero_si128();
  if (!whole && (b->from[row] > 0 || b->to[row] < y->keys)) {
    exponent = partial_values(y, tile, b->from[row], b->to[row], partial);
    scale16 = partial;
  }
  for (int32_t j = 0; j < y->keys; j += 8 * VECTORS) {
    __m256i n13[VECTORS];
    __m256 g[VECTORS];
    EACH n13[v] = weight_index13(b, row, j + 8 * v, u, r, shift, set(IFA_INDEX_ZERO), whole);
    weight_g(n13, g);
    EACH sum = _mm256_add_epi32(sum, rounded_product(n13[v], g[v]));
    EACH g[v] = _mm256_mul_ps(_mm256_castsi256_ps(n13[v]), g[v]);
    EACH {
      __m128i x =
          to_f16(_mm256_mul_ps(_mm256_cvtph_ps(to_f16(g[v])), from_f16(scale16 + j + 8 * v)));
      most = _mm_max_epu16(most, x);
      _mm_storeu_si128((__m128i *)(value + j + 8 * v), x);
    }
  }
  uint16_t largest = largest_word(most);
  int32_t m = 0;
  if (largest > 0) {
    ifa_cpu_follow_value_unit(b, row, b->unit[row] + exponent - ifa_value_shift(largest));
    m = b->unit[row] + exponent - b->value_unit[row];
    m = m < -24 ? -24 : m; /* below, P is 0 anyway */
  }
  __m256 up = set(ifa_pow2(m));
  for (int32_t j = 0; j < y->keys; j += 16)
    store_weights(p, j, _mm256_cvtps_epi32(_mm256_mul_ps(from_f16(value + j), up)),
                  _mm256_cvtps_epi32(_mm256_mul_ps(from_f16(value + j + 8), up)), bytes);
  return sum;
}

/* V per tensor or channel: p = 0 below n = 21512, so n need not go below 20480, where h is normal.
 */
INLINE __m256i weigh_keys(const ifa_cpu_block *b, int32_t row, const float *u, uint8_t *p, __m256 r,
                          __m256 shift, int bytes, int whole) {
  __m256i sum = _mm256_setzero_si256();
  for (int32_t j = 0; j < b->layout->keys; j += 8 * VECTORS) {
    __m256i n13[VECTORS];
    __m256 g[VECTORS];
    EACH n13[v] = weight_index13(b, row, j + 8 * v, u, r, shift, set(IFA_INDEX_ZERO + 20), whole);
    weight_g(n13, g);
    EACH n13[v] = rounded_product(n13[v], g[v]);
    EACH sum = _mm256_add_epi32(sum, n13[v]);
    for (int v = 0; v < VECTORS; v += 2) store_weights(p, j + 8 * v, n13[v], n13[v + 1], bytes);
  }
  return sum;
}

/* Sections 4 to 8; `bytes` of a weight: 1 or 2. */
INLINE void weigh_rows(ifa_cpu_block *b, const uint8_t *tile, int bytes, int whole) {
  const ifa_cpu_layout *y = b->layout;
  const float *k_scale = ifa_cpu_k_scale(y, tile), factor = ifa_cpu_head(y, tile)->k_factor;
  for (int32_t row = b->first; row < b->last; row++) {
    float *u = (float *)b->s + (size_t)row * (size_t)y->keys, r = ifa_mul(b->factor[row], factor);
    uint8_t *p = b->p + (size_t)row * (size_t)y->keys * (size_t)bytes;
    const __m256 lowest = set(-INFINITY);
    __m256 most = lowest;
    if (!whole && b->to[row] <= b->from[row]) {
      memset(p, 0, (size_t)y->keys * (size_t)bytes);
      continue;
    }
    for (int32_t j = 0; j < y->keys; j += 8) {
      __m256 x = _mm256_mul_ps(_mm256_cvtepi32_ps(load(u + j)), _mm256_loadu_ps(k_scale + j));
      _mm256_storeu_ps(u + j, x);
      most = _mm256_max_ps(
          most,
          whole ? x
                : _mm256_blendv_ps(lowest, x,
                                   _mm256_castsi256_ps(live_mask(b->from[row], b->to[row], j))));
    }
    ifa_cpu_follow_unit(b, row, ifa_tile_unit(largest_of(most), r));
    __m256 shift = set((float)(IFA_INDEX_ZERO + IFA_OCTAVES - b->unit[row]));
    __m256i sum = b->values_per_token
                      ? weigh_values(b, tile, row, u, p, set(r), shift, bytes, whole)
                      : weigh_keys(b, row, u, p, set(r), shift, bytes, whole);
    store(b->l[row], _mm256_add_epi32(load(b->l[row]), sum));
  }
}

#endif
