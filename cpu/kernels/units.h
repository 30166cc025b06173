/* units.h - sections 5, 7 and 8 of docs/numerics.md for one row of a block: its units follow a
 * tile's wish, its sums move with them. Included by each instruction set's file, so that the loops
 * over acc are compiled for it: with normal inputs and tau = 2 about every tenth row of a tile
 * moves. */
#ifndef IFA_CPU_UNITS_H
#define IFA_CPU_UNITS_H

#include <string.h>

#include "cpu/kernels/kernels.h"

/* ifa_value_exponent by fields: largest is 0 or normal. */
static inline int32_t ifa_cpu_value_exponent(float largest) {
  const int32_t bits = (int32_t)(ifa_bits_of_f32(largest) & 0x7fffffffu);
  return bits == 0 ? 0 : ((bits + 0x7fffff) >> 23) - 135;
}

/* Keys of the tile that any of rows first .. first + rows - 1 sees, rounded outward to 16; to <=
 * from: none. */
static inline void ifa_cpu_seen_by(const ifa_cpu_block *b, int32_t first, int32_t rows,
                                   int32_t *from, int32_t *to) {
  *from = b->whole ? 0 : b->layout->keys;
  *to = b->whole ? b->layout->keys : 0;
  if (b->whole) return;
  for (int32_t row = first; row < first + rows; row++) {
    if (b->to[row] <= b->from[row]) continue;
    *from = b->from[row] < *from ? b->from[row] : *from;
    *to = b->to[row] > *to ? b->to[row] : *to;
  }
  *from = *from / 16 * 16;
  *to = (*to + 15) / 16 * 16;
}

/* Does a tile's wish leave the unit alone? */
static inline int ifa_cpu_unit_stays(int32_t unit, int32_t want, int32_t tau) {
  return unit != IFA_NO_UNIT && want <= unit && (tau == IFA_TAU_INF || want >= unit - tau);
}

static inline int32_t ifa_cpu_largest_magnitude(const int32_t *x, int32_t count) {
  int32_t low = 0, high = 0;
  for (int32_t i = 0; i < count; i++) {
    low = x[i] < low ? x[i] : low;
    high = x[i] > high ? x[i] : high;
  }
  return -low > high ? -low : high;
}

/* ifa_shift of each, without a branch inside the loops. */
static inline void ifa_cpu_shift_all(int32_t *x, int32_t count, int32_t up) {
  if (up < -31) {
    memset(x, 0, (size_t)count * sizeof *x);
  } else if (up < 0) {
    for (int32_t i = 0; i < count; i++) x[i] = (int32_t)((uint32_t)x[i] << -up);
  } else {
    const int32_t by = up < 31 ? up : 31;
    for (int32_t i = 0; i < count; i++) x[i] = x[i] >= 0 ? x[i] >> by : ~(~x[i] >> by);
  }
}

/* acc and its unit. */
static inline void ifa_cpu_move_value_unit(ifa_cpu_block *b, int32_t row, int32_t unit) {
  const int32_t before = b->value_unit[row];
  if (before != IFA_NO_UNIT && unit != before)
    ifa_cpu_shift_all(b->acc + (size_t)row * (size_t)b->layout->dim, b->layout->dim, unit - before);
  b->value_unit[row] = unit;
}

/* Sections 5 and 7: row's unit follows `want`, and l (and acc, unless V is per token) move with it.
 */
static inline void ifa_cpu_follow_unit(ifa_cpu_block *b, int32_t row, int32_t want) {
  const int32_t before = b->unit[row];
  if (ifa_cpu_unit_stays(before, want, b->tau)) return;
  int32_t unit = want, l = 0;
  for (int32_t i = 0; i < 16; i++) l += b->l[row][i];
  if (before != IFA_NO_UNIT && want < before) {
    int32_t magnitude = l, growth = IFA_WEIGHT_MAX * b->growth_keys;
    if (!b->values_per_token) {
      int32_t largest =
          ifa_cpu_largest_magnitude(b->acc + (size_t)row * (size_t)b->layout->dim, b->layout->dim);
      magnitude = largest > magnitude ? largest : magnitude;
      growth = IFA_MAX_PRODUCT * b->growth_keys;
    }
    unit = ifa_next_unit(before, want, b->tau, magnitude, growth);
  }
  if (before != IFA_NO_UNIT && unit != before) {
    memset(b->l[row], 0, sizeof b->l[row]);
    b->l[row][0] = ifa_shift(l, unit - before);
  }
  b->unit[row] = unit;
  if (!b->values_per_token) ifa_cpu_move_value_unit(b, row, unit);
}

/* Section 8: the same for U' and acc. */
static inline void ifa_cpu_follow_value_unit(ifa_cpu_block *b, int32_t row, int32_t want) {
  const int32_t before = b->value_unit[row];
  if (ifa_cpu_unit_stays(before, want, b->tau)) return;
  int32_t unit = want;
  if (before != IFA_NO_UNIT && want < before)
    unit = ifa_next_unit(
        before, want, b->tau,
        ifa_cpu_largest_magnitude(b->acc + (size_t)row * (size_t)b->layout->dim, b->layout->dim),
        IFA_MAX_PRODUCT * b->growth_keys);
  ifa_cpu_move_value_unit(b, row, unit);
}

#endif
