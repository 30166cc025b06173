/* tile.h - how K and V lie in memory for the CPU kernels: one layout for every instruction set.
 *
 * A tile is kv_tile keys of one key/value head, one piece of memory, 64-byte aligned, zero padded
 * to whole tiles and to `dim` channels (head_dim rounded up to 16). Its rows of 64 bytes hold 16
 * lanes of 4 products each, what vpdpbusd, TDPBUSD and sdot take:
 *
 *     K         [keys/16][dim/4][16 keys][4 d]        a row: 4 channels of 16 keys; 16 keys' scores
 *                                                     are one vector
 *     V         [keys/4][dim][4 keys]                 a row: 4 keys of 16 channels
 *     k_scale   keys binary32    the keys' scales, or 1 unless K is per token
 *     k_bias    keys int32       -128 * sum_d K_jd: what u8 * s8 products with Q + 128 have too
 *                                much, with its sign turned
 *     v_scale   keys binary32    V per token: the tokens' scales (else unused)
 *     v_scale16 keys binary16    V per token: s_j of docs/numerics.md, section 8, when every key of
 *                                the tile is live
 *     head      ifa_cpu_tile_head
 *
 * INT4 tiles (bits = 4) hold two rows of 64 bytes in one, the even row in the low nibbles: K rows
 * 2i and 2i+1 are neighbours in d,
 * V rows those of the key groups 2g and 2g+1:   K [keys/16][dim/8][16 keys][4 d],   V
 *   [keys/8][dim][4 keys].
 *
 * Keys that are not there (beyond nk) hold 0 everywhere. */
#ifndef IFA_CPU_TILE_H
#define IFA_CPU_TILE_H

#include "common/operand.h"
#include "common/problem.h"

typedef struct ifa_cpu_layout {
  int32_t keys;           /* of a tile */
  int32_t dim;            /* head_dim rounded up to 16 */
  int32_t k_bits, v_bits; /* 8 or 4 */
  int32_t at_v, at_k_scale, at_k_bias, at_v_scale, at_v_scale16, at_head; /* byte offsets */
  int32_t bytes; /* of a tile, a multiple of 64 */
} ifa_cpu_layout;

typedef struct ifa_cpu_tile_head {
  float k_factor;         /* scale of the tile's K block or tensor; 1 if K is per token */
  int32_t value_exponent; /* V per token: b of section 8 when every key of the tile is live */
} ifa_cpu_tile_head;

ifa_cpu_layout ifa_cpu_layout_of(int32_t kv_tile, int32_t head_dim, int32_t k_bits, int32_t v_bits);

/* Where key `key` of the tile has its channel d; for 4 bits the byte, and *shift (0 or 4) says
 * which nibble. */
static inline size_t ifa_cpu_k_at(const ifa_cpu_layout *y, int32_t key, int32_t d, int32_t *shift) {
  int32_t row = d / 4, rows = y->dim / 4, lane = (key % 16) * 4 + d % 4;
  *shift = 0;
  if (y->k_bits == 4) {
    *shift = (row & 1) * 4;
    row /= 2;
    rows /= 2;
  }
  return ((size_t)(key / 16) * (size_t)rows + (size_t)row) * 64 + (size_t)lane;
}

static inline size_t ifa_cpu_v_at(const ifa_cpu_layout *y, int32_t key, int32_t d, int32_t *shift) {
  int32_t group = key / 4;
  *shift = 0;
  if (y->v_bits == 4) {
    *shift = (group & 1) * 4;
    group /= 2;
  }
  return (size_t)y->at_v + ((size_t)group * (size_t)y->dim + (size_t)d) * 4 + (size_t)(key % 4);
}

static inline float *ifa_cpu_k_scale(const ifa_cpu_layout *y, const void *tile) {
  return (float *)((uintptr_t)tile + (uintptr_t)y->at_k_scale);
}
static inline int32_t *ifa_cpu_k_bias(const ifa_cpu_layout *y, const void *tile) {
  return (int32_t *)((uintptr_t)tile + (uintptr_t)y->at_k_bias);
}
static inline float *ifa_cpu_v_scale(const ifa_cpu_layout *y, const void *tile) {
  return (float *)((uintptr_t)tile + (uintptr_t)y->at_v_scale);
}
static inline uint16_t *ifa_cpu_v_scale16(const ifa_cpu_layout *y, const void *tile) {
  return (uint16_t *)((uintptr_t)tile + (uintptr_t)y->at_v_scale16);
}
static inline ifa_cpu_tile_head *ifa_cpu_head(const ifa_cpu_layout *y, const void *tile) {
  return (ifa_cpu_tile_head *)((uintptr_t)tile + (uintptr_t)y->at_head);
}

/* A row of `count` elements from element `at` on as bytes: where it lies, or (INT4) unpacked into
 * `buffer`. */
static inline const int8_t *ifa_cpu_row_bytes(ifa_type type, const void *data, int64_t at,
                                              int32_t count, int8_t *buffer) {
  if (type == IFA_I8) return (const int8_t *)data + at;
  const uint8_t *packed = (const uint8_t *)data + at / 2; /* INT4 rows begin at a whole byte */
  for (int32_t d = 0; d < count; d += 2) {
    buffer[d] = (int8_t)((int8_t)(uint8_t)(packed[d / 2] << 4) >> 4);
    if (d + 1 < count) buffer[d + 1] = (int8_t)((int8_t)packed[d / 2] >> 4);
  }
  return buffer;
}

/* For INT8 layouts: 16 keys' rows of K (and the sum of each) or of V, from key `key` on, a multiple
 * of 16; each row y->dim bytes. */
void ifa_cpu_put_keys(const ifa_cpu_layout *y, void *tile, int32_t key,
                      const int8_t *const row[16]);
void ifa_cpu_put_values(const ifa_cpu_layout *y, void *tile, int32_t key,
                        const int8_t *const row[16]);

/* K and V of the keys from `from` on, a multiple of 16, and everything behind K and V become 0.
 * INT8. */
void ifa_cpu_clear_keys(const ifa_cpu_layout *y, void *tile, int32_t from);

/* Section 8: s_j of keys with these scales; returns b. */
int32_t ifa_cpu_value_scales(const float *scale, int32_t count, uint16_t *scale16);

/* Section 8: b and s_j of keys 0..count-1 of the tile from their v_scale, into v_scale16 and the
 * head; to be called when the tile is complete. */
void ifa_cpu_complete_values(const ifa_cpu_layout *y, void *tile);

/* Fills one tile of (batch, kv_head) from the caller's operands. p is resolved. An INT4 layout only
 * for INT4 operands; an INT8 layout takes both. */
void ifa_cpu_pack_tile(const ifa_problem *p, const ifa_inputs *in, const ifa_cpu_layout *y,
                       int64_t batch, int64_t kv_head, int64_t t, void *tile);

#endif
