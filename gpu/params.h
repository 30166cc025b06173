/* params.h - what the packing and attention kernels are given. Device pointers, element strides. */
#ifndef IFA_GPU_PARAMS_H
#define IFA_GPU_PARAMS_H

#include <stdint.h>

#include "ifa.h"

enum { IFA_GPU_TILE = 64 }; /* keys per tile: the kernels are built for kv_tile = 64 */

/* A tile of one key/value head in the workspace, byte for byte as the attention kernel has it in shared memory, so that it is copied as one
 * piece. Padded with zeros to whole tiles and to `dim` channels; 16 bytes are left free behind each row of K and V, against bank conflicts.
 *
 *     K            [64 keys][dim + 16]
 *     V            [dim][64 keys, permuted (gpu/attention_sm80.cuh) + 16]
 *     scales       68 binary32: the keys' or 1; the tile's (a K block's or tensor's) or 1; the value exponent b (as bits); 2 unused
 *     v_scale16    64 binary16: s_j, V per token */
enum { IFA_GPU_SCALES = IFA_GPU_TILE + 4, IFA_GPU_V_PITCH = IFA_GPU_TILE + 16 };
#define IFA_GPU_K_PITCH(dim) ((dim) + 16)
#define IFA_GPU_AT_V(dim) (IFA_GPU_TILE * IFA_GPU_K_PITCH(dim))
#define IFA_GPU_AT_SCALES(dim) (IFA_GPU_AT_V(dim) + (dim) * IFA_GPU_V_PITCH)
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
} ifa_gpu_params;

#endif
