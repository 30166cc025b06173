/* neon.h - what the two AArch64 paths share. */
#ifndef IFA_CPU_NEON_H
#define IFA_CPU_NEON_H

#include <arm_neon.h>

#include "cpu/kernels/kernels.h"

/* 16 bytes, from byte `at`, of row `row` of K or V (cpu/kernels/tile.h), `row_bytes` apart; of 4
 * bits, two rows share their bytes. */
static inline __attribute__((always_inline)) int8x16_t ifa_cpu_neon_row(const int8_t *rows,
                                                                        int32_t row_bytes,
                                                                        int32_t row, int32_t at,
                                                                        int bits) {
  if (bits == 8) return vld1q_s8(rows + row * row_bytes + at);
  int8x16_t pair = vld1q_s8(rows + row / 2 * row_bytes + at);
  return vshrq_n_s8(row & 1 ? pair : vshlq_n_s8(pair, 4), 4);
}

/* Of neon_dotprod.c, for rows first .. last-1. */
void ifa_cpu_neon_scores(const ifa_cpu_block *b, const uint8_t *tile, int32_t first, int32_t last);
void ifa_cpu_neon_weigh(ifa_cpu_block *b, const uint8_t *tile);
void ifa_cpu_neon_values(const ifa_cpu_block *b, const uint8_t *tile, int32_t first, int32_t last);

#endif
