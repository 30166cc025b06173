/* pack.c - K, V and their scales from the caller's layout into tiles (cpu/kernels/tile.h). */
#include <string.h>

#include "common/contract.h"
#include "cpu/kernels/tile.h"

ifa_cpu_layout ifa_cpu_layout_of(int32_t kv_tile, int32_t head_dim, int32_t k_bits,
                                 int32_t v_bits) {
  int32_t dim = (head_dim + 15) / 16 * 16;
  ifa_cpu_layout y = {.keys = kv_tile, .dim = dim, .k_bits = k_bits, .v_bits = v_bits};
  y.at_v = kv_tile * dim * k_bits / 8; /* a multiple of 256: at least 32 keys of 16 channels */
  y.at_k_scale = y.at_v + kv_tile * dim * v_bits / 8;
  y.at_k_bias = y.at_k_scale + 4 * kv_tile;
  y.at_v_scale = y.at_k_bias + 4 * kv_tile;
  y.at_v_scale16 = y.at_v_scale + 4 * kv_tile;
  y.at_head = y.at_v_scale16 + 2 * kv_tile;
  y.bytes = y.at_head + 64;
  return y;
}

void ifa_cpu_complete_values(const ifa_cpu_layout *y, void *tile) {
  const float *scale = ifa_cpu_v_scale(y, tile);
  uint16_t *scale16 = ifa_cpu_v_scale16(y, tile);
  float largest = 0.0f;
  for (int32_t j = 0; j < y->keys; j++) largest = scale[j] > largest ? scale[j] : largest;
  int32_t b = ifa_value_exponent(largest);
  for (int32_t j = 0; j < y->keys; j++) scale16[j] = ifa_value_scale16(scale[j], b);
  ifa_cpu_head(y, tile)->value_exponent = b;
}

/* Into a nibble that is 0. */
static void put_nibble(int8_t *tile, size_t at, int32_t shift, int32_t value) {
  tile[at] = (int8_t)(uint8_t)((uint8_t)tile[at] | (value & 15) << shift);
}

static void pack_keys(const ifa_cpu_layout *y, const ifa_problem *p, const ifa_inputs *in,
                      int64_t batch, int64_t kv_head, int64_t start, int32_t count, int8_t *tile) {
  int8_t buffer[IFA_MAX_HEAD_DIM];
  int32_t *bias = ifa_cpu_k_bias(y, tile);
  for (int32_t j = 0; j < count; j++) {
    const int8_t *row = ifa_cpu_row_bytes(
        p->k_type, in->k, ifa_offset(p->k_stride, batch, kv_head, start + j), p->head_dim, buffer);
    int8_t *to = tile + (size_t)(j / 16) * (size_t)y->dim * 16 + (size_t)(j % 16) * 4;
    int32_t sum = 0, d = 0, shift;
    for (int32_t i = 0; i < p->head_dim; i++) sum += row[i];
    bias[j] = -128 * sum;
    for (; y->k_bits == 8 && d + 4 <= p->head_dim; d += 4) memcpy(to + d * 16, row + d, 4);
    for (; y->k_bits == 8 && d < p->head_dim; d++) to[d / 4 * 64 + d % 4] = row[d];
    for (; d < p->head_dim; d++) {
      size_t at = ifa_cpu_k_at(y, j, d, &shift);
      put_nibble(tile, at, shift, row[d]);
    }
  }
}

static void pack_values(const ifa_cpu_layout *y, const ifa_problem *p, const ifa_inputs *in,
                        int64_t batch, int64_t kv_head, int64_t start, int32_t count,
                        int8_t *tile) {
  static const int8_t zeros[IFA_MAX_HEAD_DIM];
  int8_t buffer[4][IFA_MAX_HEAD_DIM];
  for (int32_t group = 0; group < (count + 3) / 4; group++) {
    const int8_t *row[4];
    for (int32_t i = 0; i < 4; i++) {
      int32_t j = group * 4 + i;
      row[i] = j < count ? ifa_cpu_row_bytes(p->v_type, in->v,
                                             ifa_offset(p->v_stride, batch, kv_head, start + j),
                                             p->head_dim, buffer[i])
                         : zeros;
    }
    if (y->v_bits == 4) {
      for (int32_t i = 0; i < 4; i++)
        for (int32_t d = 0, shift; d < p->head_dim; d++) {
          size_t at = ifa_cpu_v_at(y, group * 4 + i, d, &shift);
          put_nibble(tile, at, shift, row[i][d]);
        }
      continue;
    }
    int8_t *to = tile + y->at_v + (size_t)group * (size_t)y->dim * 4;
    for (int32_t d = 0; d < p->head_dim; d++)
      for (int32_t i = 0; i < 4; i++) to[d * 4 + i] = row[i][d];
  }
}

void ifa_cpu_pack_tile(const ifa_problem *p, const ifa_inputs *in, const ifa_cpu_layout *y,
                       int64_t batch, int64_t kv_head, int64_t t, void *tile) {
  int64_t start = t * y->keys, matrix = batch * p->kv_heads + kv_head;
  int32_t count = (int32_t)ifa_min64(y->keys, p->nk - start);
  int per_token = p->k_scale == IFA_SCALE_TOKEN;
  float *k_scale = ifa_cpu_k_scale(y, tile), *v_scale = ifa_cpu_v_scale(y, tile), factor = 1.0f;
  if (count < y->keys || y->dim != p->head_dim || y->k_bits == 4 || y->v_bits == 4)
    memset(tile, 0, (size_t)y->at_k_scale);
  memset((uint8_t *)tile + y->at_k_scale, 0, (size_t)(y->bytes - y->at_k_scale));
  pack_keys(y, p, in, batch, kv_head, start, count, tile);
  pack_values(y, p, in, batch, kv_head, start, count, tile);
  for (int32_t j = 0; j < count; j++)
    k_scale[j] = per_token ? in->k_scale[matrix * p->nk + start + j] : 1.0f;
  if (p->k_scale == IFA_SCALE_BLOCK)
    factor = in->k_scale[matrix * ifa_ceil_div(p->nk, p->k_block) + start / p->k_block];
  if (p->k_scale == IFA_SCALE_TENSOR) factor = in->k_scale[matrix];
  ifa_cpu_head(y, tile)->k_factor = factor;
  if (!ifa_values_per_token(p)) return;
  memcpy(v_scale, in->v_scale + matrix * p->nk + start, (size_t)count * sizeof(float));
  if (count == y->keys) ifa_cpu_complete_values(y, tile);
}
