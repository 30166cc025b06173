/* params.h - what the packing and attention kernels are given. Device pointers, element strides. */
#ifndef IFA_GPU_PARAMS_H
#define IFA_GPU_PARAMS_H

#include <stdint.h>

#include "ifa.h"

enum { IFA_GPU_TILE = 64 }; /* keys per tile: the kernels are built for kv_tile = 64 */

/* A tile of one key/value head in the workspace, byte for byte as the attention kernel has it in shared memory, so that it is copied as one
 * piece. Padded with zeros to whole tiles and to `dim` channels. The 16-byte chunks of a row of K or V are stored in another order,
 * chunk c of row r at place c ^ IFA_GPU_SWIZZLE(bytes of a row, r), so that 8 rows at one chunk lie in 8 different groups of banks.
 *
 *     K            [64 keys][dim]
 *     V            [dim][64 keys, permuted (gpu/attention_sm80.cuh)]
 *     scales       68 binary32: the keys' or 1; the tile's (a K block's or tensor's) or 1; the value exponent b (as bits); 2 unused
 *     v_scale16    64 binary16: s_j, V per token */
enum { IFA_GPU_SCALES = IFA_GPU_TILE + 4 };
#define IFA_GPU_SWIZZLE(pitch, row) ((pitch) % 128 == 0 ? (row) & 7 : (pitch) % 64 == 0 ? ((row) >> 1) & 3 : ((row) >> 2) & 1)
#define IFA_GPU_AT_V(dim) (IFA_GPU_TILE * (dim))
#define IFA_GPU_AT_SCALES(dim) (IFA_GPU_AT_V(dim) + (dim) * IFA_GPU_TILE)
#define IFA_GPU_AT_V_SCALE16(dim) (IFA_GPU_AT_SCALES(dim) + IFA_GPU_SCALES * 4)
#define IFA_GPU_TILE_BYTES(dim) (IFA_GPU_AT_V_SCALE16(dim) + IFA_GPU_TILE * 2)

typedef struct ifa_gpu_packed {
  uint8_t *tiles;    /* [matrix][tile][IFA_GPU_TILE_BYTES] */
  float *split_sums; /* per CTA and thread: float sums between splits; NULL if there is one split */
} ifa_gpu_packed;

typedef struct ifa_gpu_params {
  ifa_problem p;    /* resolved */
  ifa_inputs in;
  void *o;
  float *lse;
  ifa_gpu_packed packed;
  int32_t tiles;       /* of all keys */
  int32_t dim_padded;  /* 32, 64, 96, 128, 192 or 256 */
#ifdef IFA_GPU_STAGES
  ifa_stages stages;   /* what to record: gpu/stages.cuh */
#endif
} ifa_gpu_params;

#endif
