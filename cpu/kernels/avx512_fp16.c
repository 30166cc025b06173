/* avx512_fp16.c - AVX-512 VNNI with AVX512-FP16: the weight function as docs/numerics.md writes it,
 * in binary16, 32 keys an instruction. */
#include "cpu/kernels/avx512.h"

/* 64 keys are four vectors of n, packed by vpackusdw to two of 16-bit words: words of `low` are
 * keys 0..31, of `high` keys 32..63, in the order that vpackusdw leaves. Their weights are bytes
 * (low in the even ones, high in the odd ones) that one vpermb puts in the keys' order. */
#define BYTE_OF(k) (char)(2 * (8 * ((k) % 16 / 4) + (k) % 4 + 4 * ((k) % 32 / 16)) + (k) / 32)
#define BYTES4(k) BYTE_OF(k), BYTE_OF(k + 1), BYTE_OF(k + 2), BYTE_OF(k + 3)
#define BYTES16(k) BYTES4(k), BYTES4(k + 4), BYTES4(k + 8), BYTES4(k + 12)
static const char byte_order[64]
    __attribute__((aligned(64))) = {BYTES16(0), BYTES16(16), BYTES16(32), BYTES16(48)};

/* Key of each word of a packed vector, for 16-bit values that come in the keys' order. */
#define KEY_OF(w) (int16_t)((w) / 8 * 4 + (w) % 4 + 16 * ((w) % 8 / 4))
#define KEYS4(w) KEY_OF(w), KEY_OF(w + 1), KEY_OF(w + 2), KEY_OF(w + 3)
#define KEYS16(w) KEYS4(w), KEYS4(w + 4), KEYS4(w + 8), KEYS4(w + 12)
static const int16_t word_order[32] __attribute__((aligned(64))) = {KEYS16(0), KEYS16(16)};

INLINE __m512h constant(uint16_t pattern) {
  return _mm512_castsi512_ph(_mm512_set1_epi16((int16_t)pattern));
}

/* g of 32 indices. */
INLINE __m512h weight_g(__m512i n) {
  /* (~n & 1023) | 0x3c00 */
  __m512h w = _mm512_castsi512_ph(
      _mm512_ternarylogic_epi32(n, _mm512_set1_epi16(1023), _mm512_set1_epi16(0x3c00), 0xae));
  __m512h g = _mm512_fmadd_ph(w, constant(IFA_WEIGHT_C3), constant(IFA_WEIGHT_C2));
  g = _mm512_fmadd_ph(g, w, constant(IFA_WEIGHT_C1));
  return _mm512_fmadd_ph(g, w, constant(IFA_WEIGHT_C0));
}

/* rne(a * b), 0..255, as the low byte of the pattern of 1024 + that. */
INLINE __m512i rounded_product(__m512h a, __m512h b) {
  return _mm512_castph_si512(_mm512_fmadd_ph(a, b, constant(0x6400)));
}

/* n of 16 keys; 0, whose weight is 0, where not live. */
INLINE __m512i weight_index(const float *u, __m512 slope, __m512 shift, __m512 least,
                            __mmask16 live) {
  __m512i z =
      _mm512_castps_si512(_mm512_max_ps(_mm512_fmadd_ps(_mm512_loadu_ps(u), slope, shift), least));
  return _mm512_maskz_sub_epi32(live, z, _mm512_set1_epi32(IFA_INDEX_ZERO_BITS));
}

INLINE void store_weights(uint8_t *p, __m512i low, __m512i high, int vectors) {
  /* a | (b & c) */
  __m512i bytes =
      _mm512_ternarylogic_epi32(_mm512_slli_epi16(high, 8), low, _mm512_set1_epi16(255), 0xf8);
  bytes = _mm512_permutexvar_epi8(_mm512_load_si512(byte_order), bytes);
  if (vectors == 4) _mm512_storeu_si512(p, bytes);
  else _mm256_storeu_si256((__m256i *)p, _mm512_castsi512_si256(bytes));
}

/* Four vectors of n from `base` on (of a tile of 32 keys: two, and zeros) as two of words. */
INLINE void packed_indices(const ifa_cpu_block *b, int32_t row, int32_t base, const float *u,
                           __m512 slope, __m512 shift, __m512 least, int vectors, int whole,
                           __m512i *low, __m512i *high) {
  __m512i n[4];
  UNROLL for (int v = 0; v < 4; v++) n[v] =
      v < vectors
          ? weight_index(u + 16 * v, slope, shift, least,
                         whole ? 0xffff : live_mask(b->from[row], b->to[row], base + 16 * v))
          : _mm512_setzero_si512();
  *low = _mm512_packus_epi32(n[0], n[1]);
  *high = _mm512_packus_epi32(n[2], n[3]);
}

/* Sections 4 to 6, V per tensor or channel: p = 0 below n = 21512, so n need not go below 20480,
 * where h and g are normal. */
INLINE void weigh_channel(ifa_cpu_block *b, const uint8_t *tile, int vectors, int whole) {
  const ifa_cpu_layout *y = b->layout;
  const __m512 least = _mm512_set1_ps(IFA_INDEX_ZERO + 20);
  float slope[SIXTEEN], shift[SIXTEEN];
  for (int32_t base = b->first / SIXTEEN * SIXTEEN; base < b->last; base += SIXTEEN) {
    follow_units(b, tile, base, score_units(b, tile, base, vectors, whole), slope, shift);
    for (int32_t i = 0; i < SIXTEEN; i++) {
      int32_t row = base + i;
      if (row < b->first || row >= b->last) continue;
      const float *u = (const float *)b->s + (size_t)row * (size_t)y->keys;
      uint8_t *p = b->p + (size_t)row * (size_t)y->keys;
      __m512 a = _mm512_set1_ps(slope[i]), c = _mm512_set1_ps(shift[i]);
      __m512i sum = _mm512_load_si512(b->l[row]), low, high;
      for (int32_t j = 0; j < y->keys; j += 16 * vectors) {
        packed_indices(b, row, j, u + j, a, c, least, vectors, whole, &low, &high);
        low = rounded_product(_mm512_castsi512_ph(low), weight_g(low));
        high = rounded_product(_mm512_castsi512_ph(high), weight_g(high));
        __m512i bytes = _mm512_ternarylogic_epi32(_mm512_slli_epi16(high, 8), low,
                                                  _mm512_set1_epi16(255), 0xf8);
        sum = _mm512_dpbusd_epi32(sum, bytes, _mm512_set1_epi8(1));
        store_weights(p + j, low, high, vectors);
      }
      _mm512_store_si512(b->l[row], sum);
    }
  }
}

/* 32 s_j of a row or of the tile, in the order of packed words. */
INLINE __m512h packed_scales(const uint16_t *scale16) {
  return _mm512_castsi512_ph(
      _mm512_permutexvar_epi16(_mm512_load_si512(word_order), _mm512_loadu_si512(scale16)));
}

/* Sections 4 to 8, V per token. y takes the place of u: 2 bytes a key in the order of packed words.
 */
INLINE void weigh_token(ifa_cpu_block *b, const uint8_t *tile, int vectors, int whole) {
  const ifa_cpu_layout *y = b->layout;
  const int chunk = 16 * vectors;
  float slope[SIXTEEN], shift[SIXTEEN];
  int32_t exponent[SIXTEEN], value_shift[SIXTEEN];
  __m512i largest[SIXTEEN];
  for (int32_t i = 0; i < SIXTEEN; i++) exponent[i] = ifa_cpu_head(y, tile)->value_exponent;
  for (int32_t base = b->first / SIXTEEN * SIXTEEN; base < b->last; base += SIXTEEN) {
    __mmask16 live =
        follow_units(b, tile, base, score_units(b, tile, base, vectors, whole), slope, shift);
    for (int32_t i = 0; i < SIXTEEN; i++) {
      int32_t row = base + i;
      largest[i] = _mm512_setzero_si512();
      if (row < b->first || row >= b->last) continue;
      const float *u = (const float *)b->s + (size_t)row * (size_t)y->keys;
      uint16_t *to = (uint16_t *)(b->s + (size_t)row * (size_t)y->keys), partial[IFA_CPU_MAX_TILE];
      const uint16_t *scale16 = ifa_cpu_v_scale16(y, tile);
      if (!whole) {
        if (b->from[row] > 0 || b->to[row] < y->keys) {
          exponent[i] = partial_values(y, tile, b->from[row], b->to[row], 1, partial);
          scale16 = partial;
        } else exponent[i] = ifa_cpu_head(y, tile)->value_exponent;
      }
      __m512 a = _mm512_set1_ps(slope[i]), c = _mm512_set1_ps(shift[i]);
      __m512i sum = _mm512_load_si512(b->l[row]), low, high;
      for (int32_t j = 0; j < y->keys; j += chunk) {
        packed_indices(b, row, j, u + j, a, c, _mm512_set1_ps(IFA_INDEX_ZERO), vectors, whole, &low,
                       &high);
        __m512h h = _mm512_castsi512_ph(low), g = weight_g(low);
        /* Two words of 1024 + p to a lane. */
        sum = _mm512_dpwssd_epi32(sum, rounded_product(h, g), _mm512_set1_epi16(1));
        __m512i value =
            _mm512_castph_si512(_mm512_mul_ph(_mm512_mul_ph(h, g), packed_scales(scale16 + j)));
        largest[i] = _mm512_max_epu16(largest[i], value);
        _mm512_storeu_si512(to + j, value);
        sum = _mm512_sub_epi32(sum, _mm512_set1_epi32(vectors == 4 ? 4 * 0x6400 : 2 * 0x6400));
        if (vectors == 4) {
          h = _mm512_castsi512_ph(high);
          g = weight_g(high);
          sum = _mm512_dpwssd_epi32(sum, rounded_product(h, g), _mm512_set1_epi16(1));
          value = _mm512_castph_si512(
              _mm512_mul_ph(_mm512_mul_ph(h, g), packed_scales(scale16 + j + 32)));
          largest[i] = _mm512_max_epu16(largest[i], value);
          _mm512_storeu_si512(to + j + 32, value);
        }
      }
      _mm512_store_si512(b->l[row], sum);
    }
    __m512i most = fold_max16(largest);
    most = _mm512_and_si512(_mm512_max_epu16(most, _mm512_srli_epi32(most, 16)),
                            _mm512_set1_epi32(0xffff));
    follow_value_units(b, base, live, most, exponent, value_shift);
    for (int32_t i = 0; i < SIXTEEN; i++) {
      int32_t row = base + i;
      if (row < b->first || row >= b->last) continue;
      const uint16_t *from = (const uint16_t *)(b->s + (size_t)row * (size_t)y->keys);
      uint8_t *p = b->p + (size_t)row * (size_t)y->keys;
      __m512h up = constant((uint16_t)(value_shift[i] >= -14 ? (value_shift[i] + 15) << 10
                                                             : 1 << (value_shift[i] + 24)));
      for (int32_t j = 0; j < y->keys; j += chunk) {
        __m512i low = rounded_product(_mm512_loadu_ph(from + j), up),
                high = vectors == 4 ? rounded_product(_mm512_loadu_ph(from + j + 32), up) : low;
        store_weights(p + j, low, high, vectors);
      }
    }
  }
}

static void weigh(ifa_cpu_block *b, const uint8_t *tile) {
  weigh_by(b, tile, weigh_channel, weigh_token);
}

const ifa_cpu_kernels ifa_cpu_avx512_fp16 = IFA_CPU_AVX512_KERNELS(weigh);
