/* pack.c - K, V and their scales from the caller's layout into tiles (cpu/kernels/tile.h). */
#include <string.h>

#include "common/contract.h"
#include "cpu/kernels/tile.h"
#include "cpu/kernels/versions.h"

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
  ifa_cpu_head(y, tile)->value_exponent =
      ifa_cpu_value_scales(ifa_cpu_v_scale(y, tile), y->keys, ifa_cpu_v_scale16(y, tile));
}

/* Into a nibble that is 0. */
static void put_nibble(int8_t *tile, size_t at, int32_t shift, int32_t value) {
  tile[at] = (int8_t)(uint8_t)((uint8_t)tile[at] | (value & 15) << shift);
}

/* ---- INT8 tiles: by 16 bytes ---- */

typedef uint8_t bytes16 __attribute__((vector_size(16)));
typedef uint16_t halves8 __attribute__((vector_size(16)));
typedef uint32_t words4 __attribute__((vector_size(16)));
typedef uint64_t longs2 __attribute__((vector_size(16)));

/* The first or the second halves of two vectors, element by element in turns. */
#ifdef __clang__
#define SHUFFLE(type, a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(type, a, b, ...) __builtin_shuffle(a, b, (type){__VA_ARGS__})
#endif
#define LOW8(a, b) SHUFFLE(bytes16, a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)
#define HIGH8(a, b) \
  SHUFFLE(bytes16, a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)
#define LOW16(a, b) SHUFFLE(halves8, a, b, 0, 8, 1, 9, 2, 10, 3, 11)
#define HIGH16(a, b) SHUFFLE(halves8, a, b, 4, 12, 5, 13, 6, 14, 7, 15)
#define LOW32(a, b) SHUFFLE(words4, a, b, 0, 4, 1, 5)
#define HIGH32(a, b) SHUFFLE(words4, a, b, 2, 6, 3, 7)
#define LOW64(a, b) SHUFFLE(longs2, a, b, 0, 2)
#define HIGH64(a, b) SHUFFLE(longs2, a, b, 1, 3)

IFA_BODY int32_t sum_of(const int8_t *row, int32_t dim) {
  int32_t sum = 0;
  for (int32_t d = 0; d < dim; d++) sum += row[d];
  return sum;
}

IFA_BODY void put_keys(const ifa_cpu_layout *y, void *tile, int32_t key,
                       const int8_t *const row[16]) {
  const int32_t dim = y->dim;
  int32_t *bias = ifa_cpu_k_bias(y, tile) + key;
  uint8_t *to = (uint8_t *)tile + (size_t)key * (size_t)dim;
  for (int32_t i = 0; i < 16; i++) bias[i] = -128 * sum_of(row[i], dim);
  for (int32_t i = 0; i < 16; i += 4)
    for (int32_t d = 0; d < dim; d += 16) { /* 4 rows of 4 words each change places */
      words4 a[4], out[4];
      for (int32_t r = 0; r < 4; r++) memcpy(&a[r], row[i + r] + d, 16);
      longs2 x = (longs2)LOW32(a[0], a[1]), z = (longs2)LOW32(a[2], a[3]);
      longs2 u = (longs2)HIGH32(a[0], a[1]), w = (longs2)HIGH32(a[2], a[3]);
      out[0] = (words4)LOW64(x, z);
      out[1] = (words4)HIGH64(x, z);
      out[2] = (words4)LOW64(u, w);
      out[3] = (words4)HIGH64(u, w);
      for (int32_t r = 0; r < 4; r++) memcpy(to + (d + 4 * r) * 16 + 4 * i, &out[r], 16);
    }
}

IFA_BODY void put_values(const ifa_cpu_layout *y, void *tile, int32_t key,
                         const int8_t *const row[16]) {
  uint8_t *to = (uint8_t *)tile + y->at_v + (size_t)key * (size_t)y->dim;
  for (int32_t i = 0; i < 16; i += 4, to += 4 * y->dim)
    for (int32_t d = 0; d < y->dim; d += 16) {
      bytes16 a[4];
      for (int32_t r = 0; r < 4; r++) memcpy(&a[r], row[i + r] + d, 16);
      halves8 x = (halves8)LOW8(a[0], a[1]), z = (halves8)LOW8(a[2], a[3]);
      halves8 u = (halves8)HIGH8(a[0], a[1]), w = (halves8)HIGH8(a[2], a[3]);
      const halves8 out[4] = {LOW16(x, z), HIGH16(x, z), LOW16(u, w), HIGH16(u, w)};
      for (int32_t r = 0; r < 4; r++) memcpy(to + 4 * d + 16 * r, &out[r], 16);
    }
}

#if defined(__x86_64__)
IFA_TARGET_AVX512 static void put_keys_avx512(const ifa_cpu_layout *y, void *tile, int32_t key,
                                              const int8_t *const row[16]) {
  put_keys(y, tile, key, row);
}
IFA_TARGET_AVX512 static void put_values_avx512(const ifa_cpu_layout *y, void *tile, int32_t key,
                                                const int8_t *const row[16]) {
  put_values(y, tile, key, row);
}
#endif

void ifa_cpu_put_keys(const ifa_cpu_layout *y, void *tile, int32_t key,
                      const int8_t *const row[16]) {
#if defined(__x86_64__)
  if (ifa_cpu_version() >= IFA_VERSION_AVX512) {
    put_keys_avx512(y, tile, key, row);
    return;
  }
#endif
  put_keys(y, tile, key, row);
}

void ifa_cpu_put_values(const ifa_cpu_layout *y, void *tile, int32_t key,
                        const int8_t *const row[16]) {
#if defined(__x86_64__)
  if (ifa_cpu_version() >= IFA_VERSION_AVX512) {
    put_values_avx512(y, tile, key, row);
    return;
  }
#endif
  put_values(y, tile, key, row);
}

/* Rows first .. first + 15 of K or V as ifa_cpu_put_keys takes them: where they lie, or in
 * `buffer`; rows that are not there are 0. */
static void find_rows(const ifa_cpu_layout *y, ifa_type type, const void *data, ifa_strides stride,
                      int64_t batch, int64_t kv_head, int64_t first, int32_t count,
                      int32_t head_dim, int8_t (*buffer)[IFA_MAX_HEAD_DIM], const int8_t **row) {
  static const int8_t zeros[IFA_MAX_HEAD_DIM];
  const size_t bytes = (size_t)head_dim;
  for (int32_t i = 0; i < 16; i++) {
    row[i] = zeros;
    if (i >= count) continue;
    row[i] = ifa_cpu_row_bytes(type, data, ifa_offset(stride, batch, kv_head, first + i), head_dim,
                               buffer[i]);
    if (y->dim == head_dim) continue;
    if (row[i] != buffer[i]) memcpy(buffer[i], row[i], bytes);
    memset(buffer[i] + bytes, 0, (size_t)y->dim - bytes);
    row[i] = buffer[i];
  }
}

void ifa_cpu_clear_keys(const ifa_cpu_layout *y, void *tile, int32_t from) {
  const size_t bytes = (size_t)(y->keys - from) * (size_t)y->dim,
               at = (size_t)from * (size_t)y->dim;
  memset((uint8_t *)tile + at, 0, bytes);
  memset((uint8_t *)tile + y->at_v + at, 0, bytes);
  memset((uint8_t *)tile + y->at_k_scale, 0, (size_t)(y->bytes - y->at_k_scale));
}

/* ---- tiles of integers ---- */

/* K and V of the tile, INT8. */
static void pack_bytes(const ifa_problem *p, const ifa_inputs *in, const ifa_cpu_layout *y,
                       int64_t batch, int64_t kv_head, int64_t start, int32_t count, void *tile) {
  int8_t buffer[16][IFA_MAX_HEAD_DIM];
  const int8_t *row[16];
  ifa_cpu_clear_keys(y, tile, (count + 15) / 16 * 16);
  for (int32_t key = 0; key < count; key += 16) {
    find_rows(y, p->k_type, in->k, p->k_stride, batch, kv_head, start + key, count - key,
              p->head_dim, buffer, row);
    ifa_cpu_put_keys(y, tile, key, row);
    find_rows(y, p->v_type, in->v, p->v_stride, batch, kv_head, start + key, count - key,
              p->head_dim, buffer, row);
    ifa_cpu_put_values(y, tile, key, row);
  }
}

/* The same with 4 bits for one of them or both: element by element. */
static void pack_nibbles(const ifa_problem *p, const ifa_inputs *in, const ifa_cpu_layout *y,
                         int64_t batch, int64_t kv_head, int64_t start, int32_t count,
                         int8_t *tile) {
  int8_t buffer[2][IFA_MAX_HEAD_DIM];
  memset(tile, 0, (size_t)y->bytes);
  for (int32_t j = 0; j < count; j++) {
    const int8_t *k =
        ifa_cpu_row_bytes(p->k_type, in->k, ifa_offset(p->k_stride, batch, kv_head, start + j),
                          p->head_dim, buffer[0]);
    const int8_t *v =
        ifa_cpu_row_bytes(p->v_type, in->v, ifa_offset(p->v_stride, batch, kv_head, start + j),
                          p->head_dim, buffer[1]);
    ifa_cpu_k_bias(y, tile)[j] = -128 * sum_of(k, p->head_dim);
    for (int32_t d = 0, shift; d < p->head_dim; d++) {
      size_t at = ifa_cpu_k_at(y, j, d, &shift);
      if (y->k_bits == 4) put_nibble(tile, at, shift, k[d]);
      else tile[at] = k[d];
      at = ifa_cpu_v_at(y, j, d, &shift);
      if (y->v_bits == 4) put_nibble(tile, at, shift, v[d]);
      else tile[at] = v[d];
    }
  }
}

void ifa_cpu_pack_tile(const ifa_problem *p, const ifa_inputs *in, const ifa_cpu_layout *y,
                       int64_t batch, int64_t kv_head, int64_t t, void *tile) {
  int64_t start = t * y->keys, matrix = batch * p->kv_heads + kv_head;
  int32_t count = (int32_t)ifa_min64(y->keys, p->nk - start);
  int per_token = p->k_scale == IFA_SCALE_TOKEN;
  float *k_scale = ifa_cpu_k_scale(y, tile), *v_scale = ifa_cpu_v_scale(y, tile), factor = 1.0f;
  if (y->k_bits == 8 && y->v_bits == 8) pack_bytes(p, in, y, batch, kv_head, start, count, tile);
  else pack_nibbles(p, in, y, batch, kv_head, start, count, tile);
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
