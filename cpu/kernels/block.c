/* block.c - for the kernels that have no better: V's scales of a tile that a mask cuts, and the
 * table of the weight function. */
#include <pthread.h>
#include <string.h>

#include "cpu/kernels/kernels.h"

int32_t ifa_cpu_partial_values(const ifa_cpu_layout *y, const uint8_t *tile, int32_t from,
                               int32_t to, uint16_t *scale16) {
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
