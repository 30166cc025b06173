/* block.c - what happens rarely to a block of rows, and the table of the weight function. */
#include <pthread.h>
#include <string.h>

#include "cpu/kernels.h"

static int32_t largest_magnitude(const int32_t *x, int32_t count) {
  int32_t low = 0, high = 0;
  for (int32_t i = 0; i < count; i++) {
    low = x[i] < low ? x[i] : low;
    high = x[i] > high ? x[i] : high;
  }
  return -low > high ? -low : high;
}

/* acc and its unit. */
static void move_value_unit(ifa_cpu_block *b, int32_t row, int32_t unit) {
  int32_t *acc = b->acc + (size_t)row * (size_t)b->layout->dim, up = unit - b->value_unit[row];
  if (b->value_unit[row] != IFA_NO_UNIT && up != 0)
    for (int32_t d = 0; d < b->layout->dim; d++) acc[d] = ifa_shift(acc[d], up);
  b->value_unit[row] = unit;
}

static int32_t total_l(const ifa_cpu_block *b, int32_t row) {
  int32_t l = 0;
  for (int32_t i = 0; i < 16; i++) l += b->l[row][i];
  return l;
}

void ifa_cpu_follow_unit(ifa_cpu_block *b, int32_t row, int32_t want) {
  int32_t before = b->unit[row];
  if (ifa_cpu_unit_stays(before, want, b->tau)) return;
  int32_t l = total_l(b, row), magnitude = l, growth = IFA_WEIGHT_MAX * b->growth_keys;
  if (!b->values_per_token) {
    int32_t largest = largest_magnitude(b->acc + (size_t)row * (size_t)b->layout->dim, b->layout->dim);
    magnitude = largest > magnitude ? largest : magnitude;
    growth = IFA_MAX_PRODUCT * b->growth_keys;
  }
  int32_t unit = ifa_next_unit(before, want, b->tau, magnitude, growth);
  if (before != IFA_NO_UNIT && unit != before) {
    memset(b->l[row], 0, sizeof b->l[row]);
    b->l[row][0] = ifa_shift(l, unit - before);
  }
  b->unit[row] = unit;
  if (!b->values_per_token) move_value_unit(b, row, unit);
}

void ifa_cpu_follow_value_unit(ifa_cpu_block *b, int32_t row, int32_t want) {
  if (ifa_cpu_unit_stays(b->value_unit[row], want, b->tau)) return;
  int32_t magnitude = largest_magnitude(b->acc + (size_t)row * (size_t)b->layout->dim, b->layout->dim);
  move_value_unit(b, row, ifa_next_unit(b->value_unit[row], want, b->tau, magnitude, IFA_MAX_PRODUCT * b->growth_keys));
}

int32_t ifa_cpu_partial_values(const ifa_cpu_layout *y, const uint8_t *tile, int32_t from, int32_t to, uint16_t *scale16) {
  const float *scale = ifa_cpu_v_scale(y, tile);
  float largest = 0.0f;
  for (int32_t j = from; j < to; j++) largest = scale[j] > largest ? scale[j] : largest;
  int32_t exponent = ifa_value_exponent(largest);
  memset(scale16, 0, (size_t)y->keys * sizeof *scale16);
  for (int32_t j = from; j < to; j++) scale16[j] = ifa_value_scale16(scale[j], exponent);
  return exponent;
}

uint8_t ifa_cpu_weight[IFA_WEIGHT_TOP + 1];
uint16_t ifa_cpu_weight16[IFA_WEIGHT_TOP + 1];

static void fill(void) {
  for (int32_t n = 0; n <= IFA_WEIGHT_TOP; n++) {
    ifa_cpu_weight[n] = (uint8_t)ifa_weight(n);
    ifa_cpu_weight16[n] = ifa_weight16(n);
  }
}

void ifa_cpu_fill_tables(void) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, fill);
}
