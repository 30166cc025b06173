/* params.h - what the packing and attention kernels are given. Device pointers, element strides. */
#ifndef IFA_GPU_PARAMS_H
#define IFA_GPU_PARAMS_H

#include <stdint.h>

#include "ifa.h"

enum { IFA_GPU_TILE = 64 }; /* keys per tile: the kernels are built for kv_tile = 64 */
enum { IFA_GPU_TILE_SCALES = IFA_GPU_TILE + 4 }; /* a tile's key scales, its own scale, its value exponent (as bits), 2 unused */

/* The workspace: operands as the attention kernel wants them, padded with zeros to whole tiles and to dim_padded channels. */
typedef struct ifa_gpu_packed {
  int8_t *k;        /* [matrix][tile][64 keys][dim_padded] */
  int8_t *v;        /* [matrix][tile][dim_padded][64 keys, permuted: gpu/attention_sm80.cuh] */
  float *k_scale;   /* [matrix][tile][68]: the token's or 1; then the block's or tensor's or 1; then b (V per token) */
  uint16_t *v_scale16;     /* [matrix][tile * 64]: s_j, V per token */
  float *split_sums;       /* per CTA and thread: float sums between splits; NULL if there is one split */
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
