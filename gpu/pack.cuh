/* pack.cuh - K and V from the caller's layout (any strides, INT8 or INT4) into the workspace's (gpu/params.h): whole blocks, zero padded, V
 * transposed and its keys permuted as the tensor cores' fragments want them. One CTA a block; each byte is read and written once. */
#ifndef IFA_GPU_PACK_CUH
#define IFA_GPU_PACK_CUH

#include "common/contract.h"
#include "common/operand.h"
#include "gpu/masks.cuh"
#include "gpu/params.h"

enum { PACK_THREADS = 256 };

/* Key within its block that slot `slot` of a V row holds: gpu/attention_parts.cuh. */
__device__ __forceinline__ int packed_key(int slot) {
  return (slot & ~31) + ((slot & 16) ? 16 : 0) + 8 * ((slot & 3) >> 1) + 2 * ((slot & 15) >> 2) + (slot & 1);
}

/* Where a key's scales lie: those that one thread of the attention needs, of keys 2t and 2t + 1 of each 8, side by side; K's of 16 keys together, a factor and 4 places on an
 * addend. */
__device__ __forceinline__ int packed_scale(int key) { return (key & ~15) * 2 + (key >> 1 & 3) * 8 + (key >> 3 & 1) * 2 + (key & 1); }
__device__ __forceinline__ int packed_scale16(int key, int keys) { return (key >> 1 & 3) * (keys / 4) + (key >> 3) * 2 + (key & 1); }

/* gpu/params.h: of a tile whose largest K scale has this pattern; the same for scales from 2^-24 to 2^8, for a tile that has another than the one before takes longer. */
__device__ __forceinline__ int scale_octaves(uint32_t largest) {
  const int exponent = (int)(largest >> 23) - 127; /* -100 .. 100; if all are 0, -127 */
  return ((exponent + 24 + 256) / 32 - 8) * 32 + 7;
}

/* What a key's sum is multiplied by. Of scales 2^61 or more below the tile's largest only the sign of u counts: x is less than 2^-30. */
__device__ __forceinline__ float scale_of_sum(float k_scale, int octaves) {
  return k_scale == 0.0f ? 0.0f : fmaxf(scalbnf(k_scale, 149 - IFA_GPU_SCORE_OCTAVES - octaves), 0x1p9f);
}

/* 16 elements of a row from element `d` on; zeros beyond head_dim or if the token is beyond nk. */
__device__ __forceinline__ int4 row_chunk(const ifa_problem &p, ifa_type type, ifa_strides strides, const void *data, int64_t batch, int64_t head, int64_t token, int d) {
  union { int8_t byte[16]; int4 all; } chunk;
  int64_t at = ifa_offset(strides, batch, head, token) + d;
  if (token < p.nk && type == IFA_I8 && d + 16 <= p.head_dim && (((uintptr_t)data + (uintptr_t)at) & 15) == 0) return *(const int4 *)((const int8_t *)data + at);
  for (int j = 0; j < 16; j++) chunk.byte[j] = token < p.nk && d + j < p.head_dim ? (int8_t)ifa_operand_get(type, data, at + j) : 0;
  return chunk.all;
}

/* Rows that see most keys come first (causal); heads that share K and V lie together. */
__device__ __forceinline__ ifa_gpu_item make_item(const ifa_gpu_params &a, uint32_t number) {
  const ifa_problem &p = a.p;
  const uint32_t heads = (uint32_t)(p.batch * p.q_heads), row_blocks = (uint32_t)a.item_count / heads, group = (uint32_t)(p.q_heads / p.kv_heads);
  ifa_gpu_item item;
  item.matrix = number % heads, item.batch = item.matrix / (uint32_t)p.q_heads, item.head = item.matrix % (uint32_t)p.q_heads;
  item.kv_matrix = item.batch * (uint32_t)p.kv_heads + item.head / group;
  item.row0 = (int32_t)(row_blocks - 1 - number / heads) * a.rows;
  item.first_key = live_first(p, item.row0) / p.kv_tile * p.kv_tile;
  item.steps = max((live_end(p, min((int64_t)item.row0 + a.rows, p.nq) - 1) - item.first_key + a.keys - 1) / a.keys, 0);
  item.first_block = (int32_t)item.kv_matrix * a.block_count + item.first_key / a.keys;
  return item;
}

/* grid (blocks or, where there are none, 1; batch * kv_heads) */
static __global__ void __launch_bounds__(PACK_THREADS) pack(__grid_constant__ const ifa_gpu_params a) {
  __shared__ __align__(16) int8_t rows[64 * (IFA_MAX_HEAD_DIM + 16)];
  __shared__ uint32_t largest_k, largest_v; /* scales, of the tile and of the block */
  const ifa_problem &p = a.p;
  const int block = (int)blockIdx.x, keys = a.keys, dim = a.dim_padded, chunks = dim / 16, pitch = dim + 16;
  const int64_t matrix = blockIdx.y, batch = matrix / p.kv_heads, head = matrix % p.kv_heads, first = (int64_t)block * keys;
  uint8_t *const to = a.packed.blocks + (matrix * a.block_count + block) * IFA_GPU_BLOCK_BYTES(dim, keys);
  float *const scales = (float *)(to + IFA_GPU_AT_SCALES(dim, keys));
  const bool per_token = p.v_scale == IFA_SCALE_TOKEN || p.v_scale == IFA_SCALE_TOKEN_CHANNEL;

  for (int64_t i = (blockIdx.y * (int64_t)max(a.block_count, 1) + block) * PACK_THREADS + threadIdx.x; i < a.item_count; i += (int64_t)max(a.block_count, 1) * p.batch * p.kv_heads * PACK_THREADS)
    a.packed.items[i] = make_item(a, (uint32_t)i);
  if (a.block_count == 0) return;
  for (int i = (int)threadIdx.x; i < keys * chunks; i += PACK_THREADS) {
    int token = i / chunks, d = i % chunks * 16;
    *(int4 *)(to + token * dim + ((i % chunks) ^ IFA_GPU_SWIZZLE(dim, token)) * 16) = row_chunk(p, p.k_type, p.k_stride, a.in.k, batch, head, first + token, d);
    *(int4 *)(rows + token * pitch + d) = row_chunk(p, p.v_type, p.v_stride, a.in.v, batch, head, first + token, d);
  }
  if (threadIdx.x == 0) largest_k = largest_v = 0;
  __syncthreads();
  for (int i = (int)threadIdx.x; i < dim * keys / 16; i += PACK_THREADS) { /* 16 slots of channel d */
    union { int8_t byte[16]; int4 all; } chunk;
    int d = i / (keys / 16), c = i % (keys / 16), slot = c * 16;
    for (int j = 0; j < 16; j++) chunk.byte[j] = rows[packed_key(slot + j) * pitch + d];
    *(int4 *)(to + IFA_GPU_AT_V(dim, keys) + d * keys + (c ^ IFA_GPU_SWIZZLE(keys, d)) * 16) = chunk.all;
  }

  /* Scales: thread j has key j. */
  const int64_t token = first + threadIdx.x;
  const bool key = threadIdx.x < keys, real = key && token < p.nk, k_per_token = p.k_scale == IFA_SCALE_TOKEN;
  const int64_t in_tile = first / p.kv_tile * p.kv_tile + threadIdx.x; /* a key of the tile, which may be several blocks */
  if (k_per_token && threadIdx.x < p.kv_tile && in_tile < p.nk) atomicMax(&largest_k, __float_as_uint(a.in.k_scale[matrix * p.nk + in_tile]));
  if (per_token && real) atomicMax(&largest_v, __float_as_uint(a.in.v_scale[matrix * p.nk + token]));
  __syncthreads();
  if (key && per_token) {
    int32_t b = ifa_value_exponent(__uint_as_float(largest_v));
    ((uint16_t *)(to + IFA_GPU_AT_V_SCALE16(dim, keys)))[packed_scale16(threadIdx.x, keys)] = real ? ifa_value_scale16(a.in.v_scale[matrix * p.nk + token], b) : (uint16_t)0;
    if (threadIdx.x == 0) scales[2 * keys + 1] = __int_as_float(b);
  }
  const int octaves = k_per_token ? scale_octaves(largest_k) : 0;
  if (key) {
    float scale = scale_of_sum(k_per_token ? real ? a.in.k_scale[matrix * p.nk + token] : 0.0f : 1.0f, octaves), *to_score = scales + packed_scale(threadIdx.x);
    to_score[0] = scale, to_score[4] = __fmul_rn(scale, -IFA_GPU_SCORE_ZERO * 0x1p-149f);
  }
  if (threadIdx.x == 0)
    scales[2 * keys] = k_per_token ? scalbnf(1.0f, octaves)
                              : p.k_scale == IFA_SCALE_BLOCK ? a.in.k_scale[matrix * ((p.nk + p.k_block - 1) / p.k_block) + first / p.k_block]
                                                             : a.in.k_scale[matrix];
}

#endif
