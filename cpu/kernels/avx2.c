/* avx2.c - AVX2 with FMA and F16C: products of sign-extended 16-bit operands by vpmaddwd, which
 * cannot saturate; weights in binary32 (avx2.h).
 *
 * 16 bytes of a tile's row are 4 keys (channels) of 4 d (keys); sign-extended they are one vector,
 * whose vpmaddwd with 4 broadcast elements of Q (P) leaves two halves of each of 4 sums, added at
 * the end. 6 rows by 2 vectors keep 12 sums in registers. |Q * K| + |Q * K| <= 2^15, 255 * 128 * 2
 * < 2^16. */
#include "cpu/kernels/avx2.h"
#include "cpu/kernels/unfold.h"

enum { GROUP_ROWS = 6, GROUP_VECTORS = 2 };

/* 16 bytes sign-extended. */
INLINE __m256i widened(const uint8_t *at) {
  return _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)at));
}

INLINE __m256i broadcast4(const int16_t *at) {
  int64_t x;
  memcpy(&x, at, sizeof x);
  return _mm256_set1_epi64x(x);
}

/* Two vectors of halves into the 8 sums. */
INLINE __m256i joined(__m256i a, __m256i b) {
  return _mm256_permute4x64_epi64(_mm256_hadd_epi32(a, b), 0xd8);
}

/* 8 sums of each of `rows` rows, stored at `to` or added to what is there: `steps` rows of 64 bytes
 * of the tile, `step` bytes apart, 32 bytes at `at` of each, times the rows' elements. */
INLINE void product_group(const uint8_t *at, size_t step, const int16_t *rows_at, size_t pitch,
                          size_t steps, int rows, int32_t *to, size_t to_pitch, int add) {
  __m256i sum[GROUP_ROWS][GROUP_VECTORS];
  UNROLL for (int r = 0; r < rows; r++) sum[r][0] = sum[r][1] = _mm256_setzero_si256();
  for (size_t i = 0; i < steps; i++) {
    const __m256i a = widened(at + i * step), b = widened(at + i * step + 16);
    UNROLL for (int r = 0; r < rows; r++) {
      const __m256i four = broadcast4(rows_at + (size_t)r * pitch + 4 * i);
      sum[r][0] = _mm256_add_epi32(sum[r][0], _mm256_madd_epi16(a, four));
      sum[r][1] = _mm256_add_epi32(sum[r][1], _mm256_madd_epi16(b, four));
      /* row after row: reordered, they do not fit 16 registers */
      __asm__("" : "+x"(sum[r][0]), "+x"(sum[r][1]));
    }
  }
  UNROLL for (int r = 0; r < rows; r++) {
    __m256i all = joined(sum[r][0], sum[r][1]);
    store(to + (size_t)r * to_pitch,
          add ? _mm256_add_epi32(load(to + (size_t)r * to_pitch), all) : all);
  }
}

INLINE void product(const uint8_t *at, size_t step, const int16_t *rows_at, size_t pitch,
                    size_t steps, int rows, int32_t *to, size_t to_pitch, int add) {
  switch (rows) {
    case 1: product_group(at, step, rows_at, pitch, steps, 1, to, to_pitch, add); break;
    case 2: product_group(at, step, rows_at, pitch, steps, 2, to, to_pitch, add); break;
    case 3: product_group(at, step, rows_at, pitch, steps, 3, to, to_pitch, add); break;
    case 4: product_group(at, step, rows_at, pitch, steps, 4, to, to_pitch, add); break;
    case 5: product_group(at, step, rows_at, pitch, steps, 5, to, to_pitch, add); break;
    default: product_group(at, step, rows_at, pitch, steps, 6, to, to_pitch, add);
  }
}

static void scores(ifa_cpu_block *b, const uint8_t *tile) {
  const ifa_cpu_layout *y = b->layout;
  const size_t dim = (size_t)y->dim, keys_bytes = dim * 16;
  for (int32_t row = b->first, rows; row < b->last; row += rows) {
    const int16_t *q = (const int16_t *)b->q + (size_t)row * dim;
    rows = b->last - row < GROUP_ROWS ? b->last - row : GROUP_ROWS;
    int32_t from, end;
    ifa_cpu_seen_by(b, row, rows, &from, &end);
    for (int32_t j = from; j < end; j += 8)
      product(tile + (size_t)(j / 16) * keys_bytes + (size_t)(j % 16) * 4, 64, q, dim, dim / 4,
              rows, b->s + (size_t)row * (size_t)y->keys + j, (size_t)y->keys, 0);
  }
}

static void values(ifa_cpu_block *b, const uint8_t *tile) {
  const ifa_cpu_layout *y = b->layout;
  const size_t dim = (size_t)y->dim, keys = (size_t)y->keys;
  for (int32_t row = b->first, rows; row < b->last; row += rows) {
    rows = b->last - row < GROUP_ROWS ? b->last - row : GROUP_ROWS;
    int32_t from, end; /* P is 0 elsewhere */
    ifa_cpu_seen_by(b, row, rows, &from, &end);
    const int16_t *p = (const int16_t *)b->p + (size_t)row * keys + from;
    const uint8_t *v = tile + y->at_v + (size_t)from * dim;
    for (int32_t d = 0; d < y->dim && from < end; d += 8)
      product(v + 4 * d, dim * 4, p, keys, (size_t)(end - from) / 4, rows,
              b->acc + (size_t)row * dim + d, dim, 1);
  }
}

static void weigh(ifa_cpu_block *b, const uint8_t *tile) {
  if (b->whole) weigh_rows(b, tile, 2, 1);
  else weigh_rows(b, tile, 2, 0);
}

const ifa_cpu_kernels ifa_cpu_avx2 = {.q_form = IFA_CPU_INT16,
                                      .p_bytes = 2,
                                      .slowness = 4,
                                      .scores = scores,
                                      .weigh = weigh,
                                      .values = values,
                                      .nibble_rows = 0,
                                      .unfold = ifa_cpu_unfold_tile};
