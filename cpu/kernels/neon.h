/* neon.h - what the two AArch64 paths share. */
#ifndef IFA_CPU_NEON_H
#define IFA_CPU_NEON_H

#include <arm_neon.h>

#include "cpu/kernels/kernels.h"

/* Of neon_dotprod.c, for rows first .. last-1. */
void ifa_cpu_neon_scores(const ifa_cpu_block *b, const uint8_t *tile, int32_t first, int32_t last);
void ifa_cpu_neon_weigh(ifa_cpu_block *b, const uint8_t *tile);
void ifa_cpu_neon_values(const ifa_cpu_block *b, const uint8_t *tile, int32_t first, int32_t last);

#endif
