/* avx512_vnni.c - AVX-512 VNNI: both products (also for avx512_fp16.c), and, for processors without
 * FP16 (Cascade Lake, Ice Lake), the weight function in binary32, 16 keys an instruction.
 *
 * vpdpbusd adds four products of unsigned by signed bytes to each int32, without saturation
 * (vpdpbusds saturates and is not used).
 *     scores: (Q + 128) unsigned, broadcast; K signed; the sums start at K's bias -128 * sum_d K_jd
 *     values: P unsigned, broadcast; V signed
 * A group of up to 6 rows by 4 vectors keeps 24 sums in registers: 4 loads of K or V and 6
 * broadcasts serve 24 vpdpbusd. */
#include "cpu/kernels/avx512.h"
#include "cpu/kernels/unfold.h"

enum { GROUP_ROWS = IFA_CPU_AVX512_GROUP_ROWS, GROUP_VECTORS = 4 };

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

/* Prefetches the line `ahead` bytes past `at`; 0: nothing. The last group of rows of a product does
 * so with the same part of the next tile. */
INLINE void prefetch(const uint8_t *at, ptrdiff_t ahead) {
  if (ahead) _mm_prefetch((const char *)((uintptr_t)at + (uintptr_t)ahead), _MM_HINT_T0);
}
INLINE ptrdiff_t to_next(const ifa_cpu_block *b, const uint8_t *tile, int32_t end) {
  return b->next && end == b->last ? (ptrdiff_t)((uintptr_t)b->next - (uintptr_t)tile) : 0;
}

void ifa_cpu_avx512_unfold(const ifa_cpu_layout *y, const uint8_t *tile, const ifa_cpu_layout *wide,
                           uint8_t *to) {
  ifa_cpu_unfold_tile(y, tile, wide, to);
}

/* ---- scores ---- */

/* `rows` rows by 16 * `vectors` keys; both constants, so that the sums stay in registers. */
INLINE void score_group(const ifa_cpu_layout *y, const uint8_t *q, const uint8_t *k,
                        const int32_t *bias, int32_t *s, int rows, int vectors, int packed,
                        ptrdiff_t ahead) {
  /* bytes from one 16 keys to the next */
  const size_t dim = (size_t)y->dim, pitch = packed ? dim * 8 : dim * 16;
  __m512i sum[GROUP_ROWS][GROUP_VECTORS], b[GROUP_VECTORS];
  UNROLL for (int v = 0; v < vectors; v++) {
    b[v] = _mm512_loadu_si512(bias + 16 * v);
    if (packed) b[v] = _mm512_slli_epi32(b[v], 4);
    UNROLL for (int r = 0; r < rows; r++) sum[r][v] = b[v];
  }
  for (size_t d = 0; d < dim; d += packed ? 8 : 4) { /* a line of each 16 keys */
    const uint8_t *at = k + (packed ? d * 8 : d * 16);
    UNROLL for (int v = 0; v < vectors; v++) prefetch(at + (size_t)v * pitch, ahead);
    for (int half = 0; half < (packed ? 2 : 1); half++) {
      UNROLL for (int v = 0; v < vectors; v++) b[v] =
          packed ? nibbles(at + (size_t)v * pitch, half)
                 : _mm512_loadu_si512(at + (size_t)v * pitch);
      UNROLL for (int r = 0; r < rows; r++) {
        __m512i four = broadcast4(q + (size_t)r * dim + d + 4 * half);
        UNROLL for (int v = 0; v < vectors; v++) sum[r][v] =
            _mm512_dpbusd_epi32(sum[r][v], four, b[v]);
      }
    }
  }
  UNROLL for (int r = 0; r < rows; r++) UNROLL for (int v = 0; v < vectors; v++)
      _mm512_storeu_si512(s + (size_t)r * (size_t)y->keys + 16 * v,
                          packed ? _mm512_srai_epi32(sum[r][v], 4) : sum[r][v]);
}

INLINE void score_rows(const ifa_cpu_layout *y, const uint8_t *q, const uint8_t *k,
                       const int32_t *bias, int32_t *s, int rows, int vectors, int packed,
                       ptrdiff_t ahead) {
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
      const uint8_t *q = b->q + (size_t)row * (size_t)y->dim,
                    *k = tile + (size_t)(base / 16) * keys_bytes;
      int32_t *s = b->s + (size_t)row * (size_t)y->keys + base;
      rows = b->last - row < GROUP_ROWS ? b->last - row : GROUP_ROWS;
      const ptrdiff_t ahead = to_next(b, tile, row + rows);
      int32_t from, to;
      ifa_cpu_seen_by(b, row, rows, &from, &to);
      if (from >= base + 64 || to <= base) continue; /* nobody looks there */
      if (y->keys == 32 || to <= base + 32)
        score_rows(y, q, k, bias + base, s, rows, 2, packed, ahead);
      else score_rows(y, q, k, bias + base, s, rows, 4, packed, ahead);
    }
  }
}

void ifa_cpu_avx512_scores(ifa_cpu_block *b, const uint8_t *tile) {
  if (b->layout->k_bits == 4) score_tile(b, tile, 1);
  else score_tile(b, tile, 0);
}

/* ---- values ---- */

/* `rows` rows by 16 * `vectors` channels, keys from .. end - 1. */
INLINE void value_group(const ifa_cpu_layout *y, const uint8_t *p, const uint8_t *v, int32_t *acc,
                        int32_t from, int32_t end, int rows, int vectors, int packed,
                        ptrdiff_t ahead) {
  const size_t dim = (size_t)y->dim, keys = (size_t)y->keys;
  __m512i sum[GROUP_ROWS][GROUP_VECTORS], b[GROUP_VECTORS];
  UNROLL for (int r = 0; r < rows; r++) UNROLL for (int c = 0; c < vectors; c++) sum[r][c] =
      packed ? _mm512_setzero_si512() : _mm512_loadu_si512(acc + (size_t)r * dim + 16 * c);
  for (size_t j = (size_t)from; j < (size_t)end; j += packed ? 8 : 4) {
    const uint8_t *at = v + (packed ? j / 8 : j / 4) * dim * 4;
    UNROLL for (int c = 0; c < vectors; c++) prefetch(at + 64 * c, ahead);
    for (int half = 0; half < (packed ? 2 : 1); half++) {
      UNROLL for (int c = 0; c < vectors; c++) b[c] =
          packed ? nibbles(at + 64 * c, half) : _mm512_loadu_si512(at + 64 * c);
      UNROLL for (int r = 0; r < rows; r++) {
        __m512i four = broadcast4(p + (size_t)r * keys + j + 4 * half);
        UNROLL for (int c = 0; c < vectors; c++) sum[r][c] =
            _mm512_dpbusd_epi32(sum[r][c], four, b[c]);
      }
    }
  }
  UNROLL for (int r = 0; r < rows; r++) UNROLL for (int c = 0; c < vectors; c++) {
    int32_t *to = acc + (size_t)r * dim + 16 * c;
    if (packed)
      sum[r][c] = _mm512_add_epi32(_mm512_loadu_si512(to), _mm512_srai_epi32(sum[r][c], 4));
    _mm512_storeu_si512(to, sum[r][c]);
  }
}

INLINE void value_rows(const ifa_cpu_layout *y, const uint8_t *p, const uint8_t *v, int32_t *acc,
                       int32_t from, int32_t end, int rows, int vectors, int packed,
                       ptrdiff_t ahead) {
  switch (rows) {
    case 1: value_group(y, p, v, acc, from, end, 1, vectors, packed, ahead); break;
    case 2: value_group(y, p, v, acc, from, end, 2, vectors, packed, ahead); break;
    case 3: value_group(y, p, v, acc, from, end, 3, vectors, packed, ahead); break;
    case 4: value_group(y, p, v, acc, from, end, 4, vectors, packed, ahead); break;
    case 5: value_group(y, p, v, acc, from, end, 5, vectors, packed, ahead); break;
    default: value_group(y, p, v, acc, from, end, 6, vectors, packed, ahead);
  }
}

INLINE void value_tile(ifa_cpu_block *b, const uint8_t *tile, int packed) {
  const ifa_cpu_layout *y = b->layout;
  /* the next tile's scales and sums: wanted at once */
  for (int32_t at = y->at_k_scale; b->next && at < y->bytes; at += 64) prefetch(b->next, at);
  for (int32_t d = 0, width; d < y->dim; d += width) {
    width = y->dim - d >= 64 ? 64 : y->dim - d >= 32 ? 32 : 16;
    const uint8_t *v = tile + y->at_v + 4 * d;
    for (int32_t row = b->first, rows; row < b->last; row += rows) {
      const uint8_t *p = b->p + (size_t)row * (size_t)y->keys;
      int32_t *acc = b->acc + (size_t)row * (size_t)y->dim + d;
      rows = b->last - row < GROUP_ROWS ? b->last - row : GROUP_ROWS;
      const ptrdiff_t ahead = to_next(b, tile, row + rows);
      int32_t from, end; /* P is 0 elsewhere */
      ifa_cpu_seen_by(b, row, rows, &from, &end);
      if (width == 64) value_rows(y, p, v, acc, from, end, rows, 4, packed, ahead);
      else if (width == 32) value_rows(y, p, v, acc, from, end, rows, 2, packed, ahead);
      else value_rows(y, p, v, acc, from, end, rows, 1, packed, ahead);
    }
  }
}

void ifa_cpu_avx512_values(ifa_cpu_block *b, const uint8_t *tile) {
  if (b->layout->v_bits == 4) value_tile(b, tile, 1);
  else value_tile(b, tile, 0);
}

/* ---- weights ----
 *
 * Every binary16 step of docs/numerics.md, section 6, is a binary32 fma that is exact (at most 22
 * bits), then rounded to 11 bits. For x = fma(w, C3, C2) and x = fma(., w, C1), whose binade
 * varies, by c = fl(8193 x), fl(fl(x - c) + c); for g, which lies in [2^-8, 2^-7), by adding and
 * subtracting 1.5 * 2^5, whose unit in the last place is g's 2^-18. tests/cpu/cpu_kernels.c tries
 * all n. */

/* Times 2^112: h is then n << 13 as a binary32 pattern, under its own bias. */
#define UP 0x1p112f
#define C3 (UP * 0x1.9d4p-11f)
#define C2 (UP * -0x1.d5cp-10f)
#define C1 (UP * -0x1.1f4p-13f)
#define C0 (UP * 0x1.24p-7f)

INLINE __m512 set(float x) { return _mm512_set1_ps(x); }

#define EACH(count) UNROLL for (int v = 0; v < (count); v++)

/* 2^112 g of each; n13 is n << 13. Step by step for all vectors: they wait for each other's results
 * less than for their own. */
INLINE void weight_g(const __m512i *n13, __m512 *x, int vectors) {
  __m512 w[4], c[4];
  /* 2 - 2^-10 - f: (~n & 1023) << 13 under the exponent of 1 */
  EACH(vectors)
  w[v] = _mm512_castsi512_ps(_mm512_ternarylogic_epi32(n13[v], _mm512_set1_epi32(1023 << 13),
                                                       _mm512_set1_epi32(0x3f800000), 0xae));
  EACH(vectors) x[v] = _mm512_fmadd_ps(w[v], set(C3), set(C2));
  EACH(vectors) c[v] = _mm512_fmadd_ps(w[v], set(8193 * C3), set(8193 * C2));
  EACH(vectors) x[v] = _mm512_sub_ps(x[v], c[v]);
  EACH(vectors) x[v] = _mm512_add_ps(x[v], c[v]);
  EACH(vectors) x[v] = _mm512_fmadd_ps(x[v], w[v], set(C1));
  EACH(vectors) c[v] = _mm512_mul_ps(x[v], set(8193.0f));
  EACH(vectors) x[v] = _mm512_sub_ps(x[v], c[v]);
  EACH(vectors) x[v] = _mm512_add_ps(x[v], c[v]);
  EACH(vectors) x[v] = _mm512_fmadd_ps(x[v], w[v], set(UP * 48.0f + C0));
  EACH(vectors) x[v] = _mm512_sub_ps(x[v], set(UP * 48.0f));
}

/* rne(h g), 0..255: the low bits of 1.5 * 2^23 + that. */
INLINE __m512i rounded_product(__m512i n13, __m512 g) {
  const __m512 one = set(0x1.8p23f);
  return _mm512_sub_epi32(_mm512_castps_si512(_mm512_fmadd_ps(_mm512_castsi512_ps(n13), g, one)),
                          _mm512_castps_si512(one));
}

/* n << 13 of 16 keys, which is z << 13; 0 where not live. Patterns of positive numbers ascend as
 * they do; negative ones are negative. */
INLINE __m512i weight_index13(const float *u, __m512 slope, __m512 shift, __m512 least,
                              __mmask16 live) {
  return _mm512_maskz_slli_epi32(
      live,
      _mm512_max_epi32(_mm512_castps_si512(_mm512_fmadd_ps(_mm512_loadu_ps(u), slope, shift)),
                       _mm512_castps_si512(least)),
      13);
}

/* Four vectors of 0..255 as bytes in the keys' order: the packs work in quarters of 16 bytes, the
 * permutation puts their dwords in order. */
INLINE __m512i store_weights(uint8_t *p, const __m512i *weight, int vectors) {
  __m512i low = _mm512_packus_epi32(weight[0], weight[1]),
          high = vectors == 4 ? _mm512_packus_epi32(weight[2], weight[3]) : _mm512_setzero_si512();
  __m512i bytes = _mm512_permutexvar_epi32(
      _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15),
      _mm512_packus_epi16(low, high));
  if (vectors == 4) _mm512_storeu_si512(p, bytes);
  else _mm256_storeu_si256((__m256i *)p, _mm512_castsi512_si256(bytes));
  return bytes;
}

INLINE __mmask16 live_of(const ifa_cpu_block *b, int32_t row, int32_t base, int whole) {
  return whole ? 0xffff : live_mask(b->from[row], b->to[row], base);
}

/* Section 6 of 16 * vectors keys, V per tensor or channel: p = 0 below n = 21512, so n need not go
 * below 20480, where h is normal. */
INLINE void channel_weights(const float *u, float slope, float shift, __mmask16 live, int vectors,
                            __m512i *weight) {
  __m512i n13[4];
  __m512 g[4];
  EACH(vectors) {
    n13[v] = weight_index13(u + 16 * v, set(slope), set(shift), set(IFA_INDEX_ZERO + 20), live);
  }
  weight_g(n13, g, vectors);
  EACH(vectors) weight[v] = rounded_product(n13[v], g[v]);
}

/* Sections 4 to 6. Of a tile that is cut, vectors one by one, those without a live key left out. */
INLINE void weigh_channel(ifa_cpu_block *b, const uint8_t *tile, int vectors, int whole) {
  const int32_t keys = b->layout->keys, first = b->first, last = b->last;
  float slope[SIXTEEN], shift[SIXTEEN];
  for (int32_t base = first / SIXTEEN * SIXTEEN; base < last; base += SIXTEEN) {
    follow_units(b, tile, base, score_units(b, tile, base, vectors, whole), slope, shift);
    for (int32_t i = 0; i < SIXTEEN; i++) {
      int32_t row = base + i;
      if (row < first || row >= last) continue;
      const float *u = (const float *)b->s + (size_t)row * (size_t)keys;
      uint8_t *p = b->p + (size_t)row * (size_t)keys;
      __m512i sum = _mm512_load_si512(b->l[row]), weight[4];
      for (int32_t j = 0; j < keys; j += 16 * vectors) {
        if (whole) {
          channel_weights(u + j, slope[i], shift[i], 0xffff, vectors, weight);
        } else {
          EACH(vectors) {
            const __mmask16 live = live_of(b, row, j + 16 * v, 0);
            weight[v] = _mm512_setzero_si512();
            if (live) channel_weights(u + j + 16 * v, slope[i], shift[i], live, 1, weight + v);
          }
        }
        sum = _mm512_dpbusd_epi32(sum, store_weights(p + j, weight, vectors), _mm512_set1_epi8(1));
      }
      _mm512_store_si512(b->l[row], sum);
    }
  }
}

INLINE __m256i to_f16(__m512 x) {
  return _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

INLINE __m512 from_f16(const uint16_t *at) {
  return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)at));
}

/* Section 8 for 16 * vectors keys of a row, from key j on, after its unit: y takes the place of u,
 * 2 bytes a key, before u of the next keys. Adds p to *sum; *most: the largest so far. All n count,
 * also where h is subnormal. */
INLINE void weigh_values(const ifa_cpu_block *b, int32_t row, int32_t j, const float *scale,
                         const uint16_t *scale16, float slope, float shift, int vectors, int whole,
                         __m512i *sum, __m256i *most) {
  const float *u = (const float *)b->s + (size_t)row * (size_t)b->layout->keys + j;
  uint16_t *to = (uint16_t *)(b->s + (size_t)row * (size_t)b->layout->keys) + j;
  __m512i n13[4];
  __m512 g[4], weight[4];
  EACH(vectors) {
    const __mmask16 live = live_of(b, row, j + 16 * v, whole);
    n13[v] = weight_index13(u + 16 * v, set(slope), set(shift), set(IFA_INDEX_ZERO), live);
  }
  weight_g(n13, g, vectors);
  EACH(vectors) *sum = _mm512_add_epi32(*sum, rounded_product(n13[v], g[v]));
  EACH(vectors) weight[v] = _mm512_mul_ps(_mm512_castsi512_ps(n13[v]), g[v]);
  EACH(vectors) {
    const __m512 s = whole ? _mm512_loadu_ps(scale + j + 16 * v) : from_f16(scale16 + j + 16 * v);
    const __m256i value = to_f16(_mm512_mul_ps(_mm512_cvtph_ps(to_f16(weight[v])), s));
    *most = _mm256_max_epu16(*most, value);
    _mm256_storeu_si256((__m256i *)(to + 16 * v), value);
  }
}

/* Sections 4 to 8, V per token. */
INLINE void weigh_token(ifa_cpu_block *b, const uint8_t *tile, int vectors, int whole) {
  const ifa_cpu_layout *y = b->layout;
  const int32_t keys = y->keys, first = b->first, last = b->last;
  float slope[SIXTEEN], shift[SIXTEEN], scales[IFA_CPU_MAX_TILE]; /* s_j, of a whole tile */
  int32_t exponent[SIXTEEN], value_shift[SIXTEEN];
  __m512i largest[SIXTEEN];
  for (int32_t j = 0; whole && j < keys; j += 16)
    _mm512_storeu_ps(scales + j, from_f16(ifa_cpu_v_scale16(y, tile) + j));
  for (int32_t base = first / SIXTEEN * SIXTEEN; base < last; base += SIXTEEN) {
    __mmask16 live =
        follow_units(b, tile, base, score_units(b, tile, base, vectors, whole), slope, shift);
    for (int32_t i = 0; i < SIXTEEN; i++) {
      int32_t row = base + i, from = 0, end = keys;
      uint16_t partial[IFA_CPU_MAX_TILE];
      const uint16_t *scale16 = ifa_cpu_v_scale16(y, tile);
      largest[i] = _mm512_setzero_si512();
      exponent[i] = ifa_cpu_head(y, tile)->value_exponent;
      if (row < first || row >= last) continue;
      if (!whole && (b->from[row] > 0 || b->to[row] < keys)) {
        exponent[i] = partial_values(y, tile, b->from[row], b->to[row], 0, partial);
        scale16 = partial;
        ifa_cpu_seen_by(b, row, 1, &from, &end);
      }
      __m512i sum = _mm512_load_si512(b->l[row]);
      __m256i most = _mm256_setzero_si256();
#define VALUES(n) \
  weigh_values(b, row, from, scales, scale16, slope[i], shift[i], n, whole, &sum, &most)
      for (; from + 16 * vectors <= end; from += 16 * vectors) VALUES(vectors);
      if (!whole && end - from == 48) VALUES(3);
      else if (!whole && end - from == 32) VALUES(2);
      else if (!whole && end - from == 16) VALUES(1);
#undef VALUES
      largest[i] = _mm512_cvtepu16_epi32(most);
      _mm512_store_si512(b->l[row], sum);
    }
    follow_value_units(b, base, live, fold_max16(largest), exponent, value_shift);
    for (int32_t i = 0; i < SIXTEEN; i++) {
      int32_t row = base + i;
      if (row < first || row >= last) continue;
      const uint16_t *from = (const uint16_t *)(b->s + (size_t)row * (size_t)keys);
      uint8_t *p = b->p + (size_t)row * (size_t)keys;
      const __m512 up = _mm512_castsi512_ps(_mm512_set1_epi32((value_shift[i] + 127) << 23));
      __m512i weight[4];
      for (int32_t j = 0; j < keys; j += 16 * vectors) {
        EACH(vectors) {
          const __mmask16 seen = live_of(b, row, j + 16 * v, whole);
          const __m256i value = _mm256_maskz_loadu_epi16(seen, from + j + 16 * v);
          weight[v] = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_cvtph_ps(value), up));
        }
        store_weights(p + j, weight, vectors);
      }
    }
  }
}

static void weigh(ifa_cpu_block *b, const uint8_t *tile) {
  weigh_by(b, tile, weigh_channel, weigh_token);
}

const ifa_cpu_kernels ifa_cpu_avx512_vnni = IFA_CPU_AVX512_KERNELS(weigh);
