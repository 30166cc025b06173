/* pack.cuh - K and V from the caller's layout (any strides, INT8 or INT4) into the workspace's (gpu/params.h): whole tiles, zero padded, V
 * transposed and its keys permuted as the tensor cores' fragments want them. One CTA a tile; each byte is read and written once. */
#ifndef IFA_GPU_PACK_CUH
#define IFA_GPU_PACK_CUH

#include "common/contract.h"
#include "common/operand.h"
#include "gpu/faults.h"
#include "gpu/params.h"

enum { PACK_THREADS = 256 };

/* Key within its tile that slot `slot` of a V row holds: gpu/attention_sm80.cuh. */
__device__ __forceinline__ int packed_key(int slot) {
  if (FAULT(v_keys_in_order)) return slot;
  return (slot & ~31) + ((slot & 16) ? 16 : 0) + 8 * ((slot & 3) >> 1) + 2 * ((slot & 15) >> 2) + (slot & 1);
}

/* 16 elements of a row from element `d` on; zeros beyond head_dim or if the token is beyond nk. */
__device__ __forceinline__ int4 row_chunk(const ifa_problem &p, ifa_type type, ifa_strides strides, const void *data, int64_t batch, int64_t head, int64_t token, int d) {
  union { int8_t byte[16]; int4 all; } chunk;
  int64_t at = ifa_offset(strides, batch, head, token) + d;
  if (token < p.nk && type == IFA_I8 && d + 16 <= p.head_dim && (((uintptr_t)data + (uintptr_t)at) & 15) == 0) return *(const int4 *)((const int8_t *)data + at);
  for (int j = 0; j < 16; j++) chunk.byte[j] = token < p.nk && d + j < p.head_dim ? (int8_t)ifa_operand_get(type, data, at + j) : FAULT(padding_not_zero);
  return chunk.all;
}

/* grid (tiles, batch * kv_heads) */
static __global__ void __launch_bounds__(PACK_THREADS) pack(__grid_constant__ const ifa_gpu_params a) {
  __shared__ __align__(16) int8_t rows[IFA_GPU_TILE * (IFA_MAX_HEAD_DIM + 16)];
  __shared__ uint32_t largest;
  const ifa_problem &p = a.p;
  const int tile = (int)blockIdx.x, dim = a.dim_padded, chunks = dim / 16, pitch = dim + 16;
  const int64_t matrix = blockIdx.y, batch = matrix / p.kv_heads, head = matrix % p.kv_heads, first = (int64_t)tile * IFA_GPU_TILE;
  uint8_t *const to = a.packed.tiles + (matrix * a.tiles + tile) * IFA_GPU_TILE_BYTES(dim);
  float *const scales = (float *)(to + IFA_GPU_AT_SCALES(dim));
  const bool per_token = p.v_scale == IFA_SCALE_TOKEN || p.v_scale == IFA_SCALE_TOKEN_CHANNEL;

  if (FAULT(pack_barrier_missing) && threadIdx.x >= PACK_THREADS - 32) fault_late();
  for (int i = (int)threadIdx.x; i < IFA_GPU_TILE * chunks; i += PACK_THREADS) {
    int token = i / chunks, d = i % chunks * 16;
    *(int4 *)(to + token * dim + ((i % chunks) ^ IFA_GPU_SWIZZLE(dim, token)) * 16) = row_chunk(p, p.k_type, p.k_stride, a.in.k, batch, head, first + token, d);
    *(int4 *)(rows + token * pitch + d) = row_chunk(p, p.v_type, p.v_stride, a.in.v, batch, head, first + token, d);
  }
  if (threadIdx.x == 0) largest = 0;
  if (!FAULT(pack_barrier_missing)) __syncthreads();
  for (int i = (int)threadIdx.x; i < dim * 4; i += PACK_THREADS) { /* 16 slots of channel d */
    union { int8_t byte[16]; int4 all; } chunk;
    int d = i >> 2, slot = (i & 3) * 16;
    for (int j = 0; j < 16; j++) chunk.byte[j] = rows[packed_key(slot + j) * pitch + d];
    *(int4 *)(to + IFA_GPU_AT_V(dim) + d * IFA_GPU_TILE + ((i & 3) ^ IFA_GPU_SWIZZLE(IFA_GPU_TILE, d)) * 16) = chunk.all;
  }

  /* Scales: thread j has key j. */
  const int64_t token = first + threadIdx.x;
  const bool key = threadIdx.x < IFA_GPU_TILE, real = key && token < p.nk;
  if (key) {
    float scale = p.k_scale == IFA_SCALE_TOKEN ? (real ? a.in.k_scale[matrix * p.nk + token] : 0.0f) : 1.0f;
    scales[threadIdx.x] = scale;
    if (per_token && real && !(FAULT(largest_v_scale_of_half) && threadIdx.x >= 32)) atomicMax(&largest, __float_as_uint(a.in.v_scale[matrix * p.nk + token]));
  }
  __syncthreads();
  if (key && per_token) {
    int32_t b = ifa_value_exponent(__uint_as_float(largest));
    ((uint16_t *)(to + IFA_GPU_AT_V_SCALE16(dim)))[threadIdx.x] = real ? ifa_value_scale16(a.in.v_scale[matrix * p.nk + token], b) : (uint16_t)0;
    if (threadIdx.x == 0) scales[IFA_GPU_TILE + 1] = __int_as_float(b);
  }
  if (threadIdx.x == 0)
    scales[IFA_GPU_TILE] = p.k_scale == IFA_SCALE_TOKEN ? 1.0f
                              : p.k_scale == IFA_SCALE_BLOCK ? a.in.k_scale[matrix * ((p.nk + p.k_block - 1) / p.k_block) + first / p.k_block]
                                                             : a.in.k_scale[matrix];
}

#endif
