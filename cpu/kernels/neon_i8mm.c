/* neon_i8mm.c - AArch64 with the INT8 matrix instructions (Armv8.6-A: Neoverse V1 and N2,
 * Graviton3, Grace; Apple M2).
 *
 * smmla and usmmla multiply 2 rows of 8 bytes by 2 rows of 8 bytes: twice the products of a dot
 * product instruction, for signed by signed (Q K) and unsigned by signed (P V). The tile's rows
 * hold 4 channels (or keys) of 4 keys (or channels); two rows that follow each other, interleaved
 * by 4 bytes, are the 8 of two:
 *
 *     row 2i     k0: d0-3   k1: d0-3   k2: d0-3   k3: d0-3           zip1:  k0: d0-3 d4-7   k1:
 *       d0-3 d4-7
 *     row 2i+1   k0: d4-7   k1: d4-7   k2: d4-7   k3: d4-7           zip2:  k2: d0-3 d4-7   k3:
 *       d0-3 d4-7
 *
 * A step is 8 keys (or channels) of up to 8 rows, 16 accumulators of 2 by 2. A last row without a
 * partner, and the weights, are neon_dotprod.c's. */
#include <arm_neon.h>

#include "cpu/kernels/neon.h"
#include "cpu/kernels/unfold.h"

/* 8 keys' (or channels') rows 2i and 2i+1 as four operands of 2 by 8. */
static inline __attribute__((always_inline)) void load_pairs(const int8_t *rows, int32_t row_bytes,
                                                             int32_t i, int32_t at,
                                                             int8x16_t to[4]) {
  for (int half = 0; half < 2; half++) {
    int32x4_t even = vreinterpretq_s32_s8(vld1q_s8(rows + 2 * i * row_bytes + at + 16 * half));
    int32x4_t odd = vreinterpretq_s32_s8(vld1q_s8(rows + (2 * i + 1) * row_bytes + at + 16 * half));
    to[2 * half] = vreinterpretq_s8_s32(vzip1q_s32(even, odd));
    to[2 * half + 1] = vreinterpretq_s8_s32(vzip2q_s32(even, odd));
  }
}

/* Rows r and r+1 of 16 bytes as two operands of 2 by 8. */
static inline __attribute__((always_inline)) void load_row_pair(const uint8_t *x, int32_t stride,
                                                                int8x16_t to[2]) {
  int64x2_t even = vreinterpretq_s64_u8(vld1q_u8(x)),
            odd = vreinterpretq_s64_u8(vld1q_u8(x + stride));
  to[0] = vreinterpretq_s8_s64(vtrn1q_s64(even, odd));
  to[1] = vreinterpretq_s8_s64(vtrn2q_s64(even, odd));
}

/* sums (2 * pairs rows by 8) += or = rows of x (`depth` bytes) times the 8 columns at `at` of the
 * tile's rows; x is unsigned or signed. */
static inline __attribute__((always_inline)) void multiply(const uint8_t *x, int32_t depth,
                                                           const int8_t *rows, int32_t row_bytes,
                                                           int32_t at, int32_t *sums,
                                                           int32_t stride, int pairs, int values) {
  int32x4_t sum[4][4]; /* [row pair][column pair]: row 0 column 0, 0 1, 1 0, 1 1 */
  for (int r = 0; r < pairs; r++)
    for (int i = 0; i < 4; i++)
      sum[r][i] = values ? vcombine_s32(vld1_s32(sums + 2 * r * stride + 2 * i),
                                        vld1_s32(sums + (2 * r + 1) * stride + 2 * i))
                         : vdupq_n_s32(0);
  for (int32_t d = 0; d < depth; d += 16) {
    int8x16_t a[4][2], c[4];
    for (int r = 0; r < pairs; r++) load_row_pair(x + 2 * r * depth + d, depth, a[r]);
    for (int half = 0; half < 2; half++) {
      load_pairs(rows, row_bytes, d / 8 + half, at, c);
      for (int r = 0; r < pairs; r++)
        for (int i = 0; i < 4; i++)
          sum[r][i] = values ? vusmmlaq_s32(sum[r][i], vreinterpretq_u8_s8(a[r][half]), c[i])
                             : vmmlaq_s32(sum[r][i], a[r][half], c[i]);
    }
  }
  for (int r = 0; r < pairs; r++)
    for (int i = 0; i < 4; i++) {
      vst1_s32(sums + 2 * r * stride + 2 * i, vget_low_s32(sum[r][i]));
      vst1_s32(sums + (2 * r + 1) * stride + 2 * i, vget_high_s32(sum[r][i]));
    }
}

static inline __attribute__((always_inline)) void score_rows(const ifa_cpu_block *b,
                                                             const uint8_t *tile, int32_t row,
                                                             int pairs) {
  const ifa_cpu_layout *y = b->layout;
  for (int32_t j = 0; j < y->keys; j += 8)
    multiply(b->q + row * y->dim, y->dim, (const int8_t *)tile + j / 16 * 16 * y->dim, 64,
             j % 16 * 4, b->s + row * y->keys + j, y->keys, pairs, 0);
}

static inline __attribute__((always_inline)) void add_rows(const ifa_cpu_block *b,
                                                           const uint8_t *tile, int32_t row,
                                                           int pairs) {
  const ifa_cpu_layout *y = b->layout;
  for (int32_t d = 0; d < y->dim; d += 8)
    multiply(b->p + row * y->keys, y->keys, (const int8_t *)tile + y->at_v, 4 * y->dim, 4 * d,
             b->acc + row * y->dim + d, y->dim, pairs, 1);
}

static void scores(ifa_cpu_block *b, const uint8_t *tile) {
  int32_t row = b->first;
  for (; row + 8 <= b->last; row += 8) score_rows(b, tile, row, 4);
  for (; row + 2 <= b->last; row += 2) score_rows(b, tile, row, 1);
  ifa_cpu_neon_scores(b, tile, row, b->last);
}

static void values(ifa_cpu_block *b, const uint8_t *tile) {
  int32_t row = b->first;
  for (; row + 8 <= b->last; row += 8) add_rows(b, tile, row, 4);
  for (; row + 2 <= b->last; row += 2) add_rows(b, tile, row, 1);
  ifa_cpu_neon_values(b, tile, row, b->last);
}

const ifa_cpu_kernels ifa_cpu_neon_i8mm = {.q_form = IFA_CPU_SIGNED8,
                                           .p_bytes = 1,
                                           .slowness = 2,
                                           .scores = scores,
                                           .weigh = ifa_cpu_neon_weigh,
                                           .values = values,
                                           .nibble_rows = 0,
                                           .unfold = ifa_cpu_unfold_tile};
