/* params.h - what the packing and attention kernels are given. Device pointers, element strides. */
#ifndef IFA_GPU_PARAMS_H
#define IFA_GPU_PARAMS_H

#include <stdint.h>

#include "ifa.h"

/* Keys are packed in blocks of `keys`, 32 or 64. A block of one key/value head in the workspace,
 * byte for byte as the attention kernels have it in shared memory, so that it is copied as one
 * piece. Padded with zeros to whole blocks and to `dim` channels. The 16-byte chunks of a row of K
 * or V are stored in another order, chunk c of row r at place c ^ IFA_GPU_SWIZZLE(bytes of a row,
 * r), so that 8 rows at one chunk lie in 8 different groups of banks.
 *
 *     K            [keys][dim]
 *     V            [dim][keys, permuted (gpu/parts/warp.cuh)]
 *     scales       2 keys + 4 binary32: what takes the keys' sums to u (packed_scale); the tile's
 *                  scale; the value exponent b (as bits); 2 unused
 *     v_scale16    keys binary16: s_j, V per token (packed_scale16); b and s_j are those of the
 *                  tile if it is one block */
#define IFA_GPU_SWIZZLE(pitch, row) \
  ((pitch) % 128 == 0 ? (row)&7 : (pitch) % 64 == 0 ? ((row) >> 1) & 3 : ((row) >> 2) & 1)
#define IFA_GPU_AT_V(dim, keys) ((keys) * (dim))
#define IFA_GPU_AT_SCALES(dim, keys) (IFA_GPU_AT_V(dim, keys) + (dim) * (keys))
#define IFA_GPU_AT_V_SCALE16(dim, keys) (IFA_GPU_AT_SCALES(dim, keys) + (2 * (keys) + 4) * 4)
#define IFA_GPU_BLOCK_BYTES(dim, keys) (IFA_GPU_AT_V_SCALE16(dim, keys) + (keys)*2)

/* The kernel sm90 has blocks of a tile, 64 or 128 keys, at multiples of 1024 bytes. K and V are as
 * above; then
 *
 *     scales       keys + 4 binary32: what a key's sum is multiplied by (packed_scale_sm90); the
 *                  tile's scale; the value exponent b (as bits); 2 unused
 *     v_scale16    keys binary16: s_j, V per token (packed_scale16_sm90) */
#define IFA_GPU_SM90_AT_V_SCALE16(dim, keys) (IFA_GPU_AT_SCALES(dim, keys) + ((keys) + 4) * 4)
#define IFA_GPU_SM90_COPIED_BYTES(dim, keys) (IFA_GPU_SM90_AT_V_SCALE16(dim, keys) + (keys)*2)
#define IFA_GPU_SM90_BLOCK_BYTES(dim, keys) \
  ((IFA_GPU_SM90_COPIED_BYTES(dim, keys) + 1023) / 1024 * 1024)

/* Section 4 in one operation. A sum begins at IFA_GPU_SCORE_ZERO = 2^22, so it is never negative,
 * and its bits are those of a binary32, (2^22 + S) * 2^-149. Then
 *
 *     u * 2^-t = fma(sum, k_scale * 2^(149 - t), -2^22 * k_scale * 2^-t)
 *
 * is rounded once, as fl(S * k_scale) is. t keeps all of it away from where binary32 numbers end: t
 * = 48 + octaves, where the tile's largest scale is below 2^(octaves + 1) and not 2^32 times
 * smaller (K per block or tensor: k_scale is 1, octaves 0). What undoes it are the tile's scale,
 * 2^octaves (or the block's or tensor's scale), and 2^48 in r. */
#define IFA_GPU_SCORE_ZERO (1 << 22)
#define IFA_GPU_SCORE_OCTAVES 48

/* What a CTA computes at a time: some query rows of one head. */
typedef struct ifa_gpu_item {
  uint32_t matrix, batch, head, kv_matrix; /* of Q (batch * q_heads + head); of K and V */
  int32_t row0;                            /* the first row */
  int32_t first_key;   /* the first key that one of them sees, down to a whole tile; */
  int32_t steps;       /* so many blocks from there on */
  int32_t first_block; /* the first of them, among all blocks */
} ifa_gpu_item;

typedef struct ifa_gpu_packed {
  ifa_gpu_item *items; /* those with most keys first */
  uint8_t *blocks;     /* [matrix][block][block_bytes] */
  float *split_sums; /* per CTA and thread: float sums between splits; NULL if there is one split */
} ifa_gpu_packed;

typedef struct ifa_gpu_params {
  ifa_problem p; /* resolved */
  ifa_inputs in;
  void *o;
  float *lse;
  ifa_gpu_packed packed;
  int32_t kernel; /* ifa_gpu_kernel: gpu/kernel.h */
  int32_t keys;   /* of a block */
  int32_t block_bytes;
  int32_t rows; /* of an item */
  int32_t item_count;
  int32_t block_count; /* of all keys */
  int32_t stages;      /* blocks in shared memory */
  int32_t dim_padded;  /* 32, 64, 96, 128, 192 or 256 */
  int32_t parts;       /* what the packing kernel is to do: gpu/packed.h */
#ifdef IFA_GPU_STAGES
  ifa_stages stage_outputs; /* what to record: gpu/parts/stages.cuh */
#endif
} ifa_gpu_params;

#endif
