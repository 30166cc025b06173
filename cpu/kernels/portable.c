/* portable.c - the kernels in plain C, for any machine: the shapes of the loops are the vector
 * kernels', and compilers do what they can. */
#include <string.h>

#include "cpu/kernels/units.h"

/* The byte of a nibble, sign extended. */
static int32_t nibble(int8_t byte, int32_t shift) {
  return (int8_t)(uint8_t)((uint8_t)byte << (4 - shift)) >> 4;
}

static void scores(ifa_cpu_block *b, const uint8_t *tile) {
  const ifa_cpu_layout *y = b->layout;
  const int32_t packed = y->k_bits == 4;
  for (int32_t row = b->first; row < b->last; row++) {
    const int8_t *q = (const int8_t *)b->q + (size_t)row * (size_t)y->dim,
                 *k = (const int8_t *)tile;
    int32_t *s = b->s + (size_t)row * (size_t)y->keys;
    for (int32_t base = 0; base < y->keys; base += 16) {
      int32_t sum[16] = {0};
      for (int32_t d = 0; d < y->dim; d += 4) {
        for (int32_t j = 0; j < 16; j++)
          for (int32_t i = 0; i < 4; i++)
            sum[j] += q[d + i] * (packed ? nibble(k[4 * j + i], d & 4) : k[4 * j + i]);
        if (!packed || (d & 4)) k += 64;
      }
      memcpy(s + base, sum, sizeof sum);
    }
  }
}

/* Section 8. n in, P out. */
static void weigh_values(ifa_cpu_block *b, const uint8_t *tile, int32_t row, const int32_t *n,
                         uint8_t *p) {
  const ifa_cpu_layout *y = b->layout;
  int32_t from = b->from[row], to = b->to[row], exponent = ifa_cpu_head(y, tile)->value_exponent;
  const uint16_t *scale16 = ifa_cpu_v_scale16(y, tile);
  uint16_t partial[IFA_CPU_MAX_TILE], value[IFA_CPU_MAX_TILE], largest = 0;
  if (from > 0 || to < y->keys) {
    exponent = ifa_cpu_partial_values(y, tile, from, to, partial);
    scale16 = partial;
  }
  for (int32_t j = from; j < to; j++) {
    value[j] = ifa_value_weight16(ifa_cpu_weight16[n[j]], scale16[j]);
    largest = value[j] > largest ? value[j] : largest;
  }
  if (largest == 0) return;
  ifa_cpu_follow_value_unit(b, row, b->unit[row] + exponent - ifa_value_shift(largest));
  int32_t m = b->unit[row] + exponent - b->value_unit[row];
  for (int32_t j = from; j < to; j++) p[j] = (uint8_t)ifa_value_weight(value[j], m);
}

static void weigh(ifa_cpu_block *b, const uint8_t *tile) {
  const ifa_cpu_layout *y = b->layout;
  const float *k_scale = ifa_cpu_k_scale(y, tile);
  for (int32_t row = b->first; row < b->last; row++) {
    int32_t from = b->from[row], to = b->to[row], n[IFA_CPU_MAX_TILE], sum = 0;
    const int32_t *s = b->s + (size_t)row * (size_t)y->keys;
    uint8_t *p = b->p + (size_t)row * (size_t)y->keys;
    float u[IFA_CPU_MAX_TILE], r = ifa_mul(b->factor[row], ifa_cpu_head(y, tile)->k_factor),
                               largest = -INFINITY;
    memset(p, 0, (size_t)y->keys);
    if (to <= from) continue;
    for (int32_t j = from; j < to; j++) u[j] = ifa_score(s[j], k_scale[j]);
    for (int32_t j = from; j < to; j++) largest = u[j] > largest ? u[j] : largest;
    ifa_cpu_follow_unit(b, row, ifa_tile_unit(largest, r));
    for (int32_t j = from; j < to; j++) n[j] = ifa_weight_index(u[j], r, b->unit[row]);
    for (int32_t j = from; j < to; j++) sum += ifa_cpu_weight[n[j]];
    b->l[row][0] += sum;
    if (b->values_per_token) weigh_values(b, tile, row, n, p);
    else
      for (int32_t j = from; j < to; j++) p[j] = ifa_cpu_weight[n[j]];
  }
}

static void values(ifa_cpu_block *b, const uint8_t *tile) {
  const ifa_cpu_layout *y = b->layout;
  const int32_t packed = y->v_bits == 4;
  for (int32_t row = b->first; row < b->last; row++) {
    const uint8_t *p = b->p + (size_t)row * (size_t)y->keys;
    const int8_t *v = (const int8_t *)tile + y->at_v;
    int32_t *acc = b->acc + (size_t)row * (size_t)y->dim;
    for (int32_t j = 0; j < y->keys; j += 4) {
      for (int32_t d = 0; d < y->dim; d++)
        for (int32_t i = 0; i < 4; i++)
          acc[d] += p[j + i] * (packed ? nibble(v[4 * d + i], j & 4) : v[4 * d + i]);
      if (!packed || (j & 4)) v += 4 * y->dim;
    }
  }
}

const ifa_cpu_kernels ifa_cpu_portable = {.q_form = IFA_CPU_SIGNED8,
                                          .p_bytes = 1,
                                          .slowness = 40,
                                          .scores = scores,
                                          .weigh = weigh,
                                          .values = values,
                                          .nibble_rows = IFA_CPU_ROWS};
