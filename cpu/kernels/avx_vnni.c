/* avx_vnni.c - AVX2 with AVX-VNNI (Alder Lake and later clients, Zen 5; no AVX-512): products by
 * vpdpbusd on 256 bits, weights as in avx2.c.
 *
 *     scores: (Q + 128) unsigned, broadcast; K signed; the sums start at K's bias -128 * sum_d K_jd
 *     values: P unsigned, broadcast; V signed; the sums start at acc
 *
 * as avx512_vnni.c has it. A line of a tile is two vectors; 6 rows by 2 vectors keep 12 sums in
 * registers: 2 loads and 6 broadcasts serve 12 vpdpbusd. */
#include "cpu/kernels/avx2.h"
#include "cpu/kernels/dpbusd256.h"
#include "cpu/kernels/unfold.h"

enum { GROUP_ROWS = 6 };

INLINE __m256i broadcast4(const uint8_t *at) {
  int32_t x;
  memcpy(&x, at, sizeof x);
  return _mm256_set1_epi32(x);
}

/* 16 sums of each of `rows` rows, from `from` on (`from_pitch` 0: the same for all rows), to `to`:
 * `lines` lines of the tile, `step` bytes apart, times 4 bytes of each row for each. */
INLINE void product_group(const uint8_t *at, size_t step, const uint8_t *rows_at, size_t pitch,
                          size_t lines, int rows, const int32_t *from, size_t from_pitch,
                          int32_t *to, size_t to_pitch) {
  __m256i sum[GROUP_ROWS][2];
  UNROLL for (int r = 0; r < rows; r++) {
    sum[r][0] = load(from + (size_t)r * from_pitch);
    sum[r][1] = load(from + (size_t)r * from_pitch + 8);
  }
  for (size_t i = 0; i < lines; i++) {
    const __m256i a = load(at + i * step), b = load(at + i * step + 32);
    UNROLL for (int r = 0; r < rows; r++) {
      const __m256i four = broadcast4(rows_at + (size_t)r * pitch + 4 * i);
      sum[r][0] = dpbusd256(sum[r][0], four, a);
      sum[r][1] = dpbusd256(sum[r][1], four, b);
      /* row after row: reordered, they do not fit 16 registers */
      __asm__("" : "+x"(sum[r][0]), "+x"(sum[r][1]));
    }
  }
  UNROLL for (int r = 0; r < rows; r++) {
    store(to + (size_t)r * to_pitch, sum[r][0]);
    store(to + (size_t)r * to_pitch + 8, sum[r][1]);
  }
}

INLINE void product(const uint8_t *at, size_t step, const uint8_t *rows_at, size_t pitch,
                    size_t lines, int rows, const int32_t *from, size_t from_pitch, int32_t *to,
                    size_t to_pitch) {
#define ROWS(n) product_group(at, step, rows_at, pitch, lines, n, from, from_pitch, to, to_pitch)
  switch (rows) {
    case 1: ROWS(1); break;
    case 2: ROWS(2); break;
    case 3: ROWS(3); break;
    case 4: ROWS(4); break;
    case 5: ROWS(5); break;
    default: ROWS(6);
  }
#undef ROWS
}

static void scores(ifa_cpu_block *b, const uint8_t *tile) {
  const ifa_cpu_layout *y = b->layout;
  const int32_t *bias = ifa_cpu_k_bias(y, tile);
  const size_t dim = (size_t)y->dim, keys = (size_t)y->keys;
  for (int32_t row = b->first, rows; row < b->last; row += rows) {
    rows = b->last - row < GROUP_ROWS ? b->last - row : GROUP_ROWS;
    int32_t from, end;
    ifa_cpu_seen_by(b, row, rows, &from, &end);
    for (int32_t j = from; j < end; j += 16)
      product(tile + (size_t)j * dim, 64, b->q + (size_t)row * dim, dim, dim / 4, rows, bias + j, 0,
              b->s + (size_t)row * keys + j, keys);
  }
}

static void values(ifa_cpu_block *b, const uint8_t *tile) {
  const ifa_cpu_layout *y = b->layout;
  const size_t dim = (size_t)y->dim, keys = (size_t)y->keys;
  for (int32_t row = b->first, rows; row < b->last; row += rows) {
    rows = b->last - row < GROUP_ROWS ? b->last - row : GROUP_ROWS;
    int32_t from, end; /* P is 0 elsewhere */
    ifa_cpu_seen_by(b, row, rows, &from, &end);
    const uint8_t *p = b->p + (size_t)row * keys + from, *v = tile + y->at_v + (size_t)from * dim;
    for (size_t d = 0; d < dim && from < end; d += 16) {
      int32_t *acc = b->acc + (size_t)row * dim + d;
      product(v + 4 * d, dim * 4, p, keys, (size_t)(end - from) / 4, rows, acc, dim, acc, dim);
    }
  }
}

static void weigh(ifa_cpu_block *b, const uint8_t *tile) {
  if (b->whole) weigh_rows(b, tile, 1, 1);
  else weigh_rows(b, tile, 1, 0);
}

const ifa_cpu_kernels ifa_cpu_avx_vnni = {.q_form = IFA_CPU_OFFSET8,
                                          .p_bytes = 1,
                                          .slowness = 2,
                                          .scores = scores,
                                          .weigh = weigh,
                                          .values = values,
                                          .nibble_rows = 0,
                                          .unfold = ifa_cpu_unfold_tile};
