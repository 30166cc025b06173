/* pack.cuh - K and V from the caller's layout (any strides, INT8 or INT4) into the workspace's
 * (gpu/params.h): whole blocks, zero padded, V transposed and its keys permuted as the tensor
 * cores' fragments want them. One CTA a block; each byte is read and written once. What the
 * quantizers have written there already (gpu/packed.h) is left alone. */
#ifndef IFA_GPU_PACK_CUH
#define IFA_GPU_PACK_CUH

#include "common/contract.h"
#include "common/operand.h"
#include "gpu/kernel.h"
#include "gpu/parts/masks.cuh"
#include "gpu/packed.h"
#include "gpu/params.h"
#include "gpu/parts/transpose.cuh"

enum { PACK_THREADS = 256 };

/* Key within its block that slot `slot` of a V row holds: gpu/parts/warp.cuh. */
__device__ __forceinline__ int packed_key(int slot) {
  return (slot & ~31) + ((slot & 16) ? 16 : 0) + 8 * ((slot & 3) >> 1) + 2 * ((slot & 15) >> 2) +
         (slot & 1);
}

/* Where a key's scales lie: those that one thread of the attention needs, of keys 2t and 2t + 1 of
 * each 8, side by side; K's of 16 keys together, a factor and 4 places on an addend. */
__device__ __forceinline__ int packed_scale(int key) {
  return (key & ~15) * 2 + (key >> 1 & 3) * 8 + (key >> 3 & 1) * 2 + (key & 1);
}
__device__ __forceinline__ int packed_scale16(int key, int keys) {
  return (key >> 1 & 3) * (keys / 4) + (key >> 3) * 2 + (key & 1);
}
/* And for sm90: K's of 16 keys together, 4 a thread; V's of 32 keys, 8 a thread. */
__device__ __forceinline__ int packed_scale_sm90(int key) {
  return (key & ~15) + (key >> 1 & 3) * 4 + (key >> 3 & 1) * 2 + (key & 1);
}
__device__ __forceinline__ int packed_scale16_sm90(int key) {
  return (key & ~31) + (key >> 1 & 3) * 8 + (key >> 3 & 3) * 2 + (key & 1);
}

/* gpu/params.h: of a tile whose largest K scale has this pattern; the same for scales from 2^-24 to
 * 2^8, for a tile that has another than the one before takes longer. */
__device__ __forceinline__ int scale_octaves(uint32_t largest) {
  const int exponent = (int)(largest >> 23) - 127; /* -100 .. 100; if all are 0, -127 */
  return ((exponent + 24 + 256) / 32 - 8) * 32 + 7;
}

/* What a key's sum is multiplied by. Of scales 2^61 or more below the tile's largest only the sign
 * of u counts: x is less than 2^-30. */
__device__ __forceinline__ float scale_of_sum(float k_scale, int octaves) {
  return k_scale == 0.0f ? 0.0f
                         : fmaxf(scalbnf(k_scale, 149 - IFA_GPU_SCORE_OCTAVES - octaves), 0x1p9f);
}

/* 16 elements of a row from element `d` on; zeros beyond head_dim or if the token is beyond nk. */
__device__ __forceinline__ int4 row_chunk(const ifa_problem &p, ifa_type type, ifa_strides strides,
                                          const void *data, int64_t batch, int64_t head,
                                          int64_t token, int d) {
  union {
    int8_t byte[16];
    int4 all;
  } chunk;
  int64_t at = ifa_offset(strides, batch, head, token) + d;
  if (token < p.nk && type == IFA_I8 && d + 16 <= p.head_dim &&
      (((uintptr_t)data + (uintptr_t)at) & 15) == 0)
    return *(const int4 *)((const int8_t *)data + at);
  for (int j = 0; j < 16; j++)
    chunk.byte[j] =
        token < p.nk && d + j < p.head_dim ? (int8_t)ifa_operand_get(type, data, at + j) : 0;
  return chunk.all;
}

/* Rows that see most keys come first (causal); heads that share K and V lie together. */
__device__ __forceinline__ ifa_gpu_item make_item(const ifa_gpu_params &a, uint32_t number) {
  const ifa_problem &p = a.p;
  const uint32_t heads = (uint32_t)(p.batch * p.q_heads),
                 row_blocks = (uint32_t)a.item_count / heads,
                 group = (uint32_t)(p.q_heads / p.kv_heads);
  ifa_gpu_item item;
  item.matrix = number % heads, item.batch = item.matrix / (uint32_t)p.q_heads,
  item.head = item.matrix % (uint32_t)p.q_heads;
  item.kv_matrix = item.batch * (uint32_t)p.kv_heads + item.head / group;
  item.row0 = (int32_t)(row_blocks - 1 - number / heads) * a.rows;
  item.first_key = live_first(p, item.row0) / p.kv_tile * p.kv_tile;
  item.steps =
      max((live_end(p, min((int64_t)item.row0 + a.rows, p.nq) - 1) - item.first_key + a.keys - 1) /
              a.keys,
          0);
  item.first_block = (int32_t)item.kv_matrix * a.block_count + item.first_key / a.keys;
  return item;
}

__device__ __forceinline__ void list_items(const ifa_gpu_params &a, int64_t thread,
                                           int64_t threads) {
  for (int64_t i = thread; i < a.item_count; i += threads)
    a.packed.items[i] = make_item(a, (uint32_t)i);
}

__device__ __forceinline__ uint8_t *block_at(const ifa_gpu_params &a, int64_t matrix, int block) {
  return a.packed.blocks + (matrix * a.block_count + block) * a.block_bytes;
}

/* The largest scales, as patterns: of K in a block's tile, of V in the block. */
struct Largest {
  uint32_t k, v;
};

/* A scale as a pattern that sorts like the scale: without a sign, for it may be -0. */
__device__ __forceinline__ uint32_t scale_pattern(float scale) {
  return __float_as_uint(fabsf(scale));
}

/* `threads` of them, of which this is one, look at all of the block's (its tile's) keys; *largest
 * is zero before. */
__device__ __forceinline__ void find_largest(const ifa_gpu_params &a, int64_t matrix, int block,
                                             int thread, int threads, Largest *largest) {
  const ifa_problem &p = a.p;
  /* a tile may be several blocks */
  const int64_t first = (int64_t)block * a.keys, tile = first / p.kv_tile * p.kv_tile;
  if (p.k_scale == IFA_SCALE_TOKEN)
    for (int64_t token = tile + thread; token < tile + p.kv_tile && token < p.nk; token += threads)
      atomicMax(&largest->k, scale_pattern(a.in.k_scale[matrix * p.nk + token]));
  if (ifa_values_per_token(&p))
    for (int64_t token = first + thread; token < first + a.keys && token < p.nk; token += threads)
      atomicMax(&largest->v, scale_pattern(a.in.v_scale[matrix * p.nk + token]));
}

/* The scales of key `key` of the block; those of the tile with the first. */
__device__ __forceinline__ void pack_scales_of(const ifa_gpu_params &a, int64_t matrix, int block,
                                               int key, Largest largest) {
  const ifa_problem &p = a.p;
  const int keys = a.keys, dim = a.dim_padded;
  const int64_t first = (int64_t)block * keys, token = first + key;
  const bool real = token < p.nk, k_per_token = p.k_scale == IFA_SCALE_TOKEN;
  uint8_t *const to = block_at(a, matrix, block);
  const bool sm90 = a.kernel == IFA_GPU_SM90;
  float *const scales = (float *)(to + IFA_GPU_AT_SCALES(dim, keys)), *const of_tile =
                                                                          scales +
                                                                          (sm90 ? keys : 2 * keys);
  const int octaves = k_per_token ? scale_octaves(largest.k) : 0;
  const float scale =
      scale_of_sum(k_per_token ? real ? a.in.k_scale[matrix * p.nk + token] : 0.0f : 1.0f, octaves);
  if (sm90)
    scales[packed_scale_sm90(key)] =
        __fmul_rn(scale, 0x1p-149f); /* rounded only where the sign of u is all that counts */
  else
    scales[packed_scale(key)] = scale,
    scales[packed_scale(key) + 4] = __fmul_rn(scale, -IFA_GPU_SCORE_ZERO * 0x1p-149f);
  if (key == 0)
    of_tile[0] =
        k_per_token ? scalbnf(1.0f, octaves)
        : p.k_scale == IFA_SCALE_BLOCK
            ? a.in.k_scale[matrix * ((p.nk + p.k_block - 1) / p.k_block) + first / p.k_block]
            : a.in.k_scale[matrix];
  if (ifa_values_per_token(&p)) {
    const int32_t b = ifa_value_exponent(__uint_as_float(largest.v));
    uint16_t *const scales16 = (uint16_t *)(to + (sm90 ? IFA_GPU_SM90_AT_V_SCALE16(dim, keys)
                                                       : IFA_GPU_AT_V_SCALE16(dim, keys)));
    scales16[sm90 ? packed_scale16_sm90(key) : packed_scale16(key, keys)] =
        real ? ifa_value_scale16(a.in.v_scale[matrix * p.nk + token], b) : (uint16_t)0;
    if (key == 0) of_tile[1] = __int_as_float(b);
  }
}

/* K, V or both, and scales. grid (blocks or, where there are none, 1; batch * kv_heads) */
static __global__ void __launch_bounds__(PACK_THREADS)
    pack(__grid_constant__ const ifa_gpu_params a) {
  __shared__ __align__(16)
      int8_t rows[128 * (128 + 16)]; /* and 64 * (IFA_MAX_HEAD_DIM + 16) is less */
  __shared__ Largest largest;
  const ifa_problem &p = a.p;
  const unsigned blocks = a.block_count > 0 ? (unsigned)a.block_count : 1;
  const int block = (int)(blockIdx.x % blocks), keys = a.keys, dim = a.dim_padded,
            chunks = dim / 16, pitch = dim + 16;
  const int64_t matrix = blockIdx.x / blocks, batch = matrix / p.kv_heads,
                head = matrix % p.kv_heads, first = (int64_t)block * keys;
  uint8_t *const to = block_at(a, matrix, block);
  const bool with_k = a.parts & IFA_GPU_PACK_K, with_v = a.parts & IFA_GPU_PACK_V;

  list_items(a, (int64_t)blockIdx.x * PACK_THREADS + threadIdx.x,
             (int64_t)gridDim.x * PACK_THREADS);
  if (a.block_count == 0) return;
  if (threadIdx.x == 0) largest.k = largest.v = 0;
  __syncthreads();
  int start = (int)threadIdx.x;
  do { /* two chunks of each at a time, all loads before any use */
    int4 k[2], v[2];
#pragma unroll
    for (int n = 0; n < 2; n++) {
      const int i = start + n * PACK_THREADS, d = i % chunks * 16;
      /* beyond the block: none */
      const int64_t token = i < keys * chunks ? first + i / chunks : p.nk;
      if (with_k) k[n] = row_chunk(p, p.k_type, p.k_stride, a.in.k, batch, head, token, d);
      if (with_v) v[n] = row_chunk(p, p.v_type, p.v_stride, a.in.v, batch, head, token, d);
    }
    if (start == (int)threadIdx.x) find_largest(a, matrix, block, start, PACK_THREADS, &largest);
#pragma unroll
    for (int n = 0; n < 2; n++) {
      const int i = start + n * PACK_THREADS, token = i / chunks;
      if (with_k && i < keys * chunks)
        *(int4 *)(to + token * dim + ((i % chunks) ^ IFA_GPU_SWIZZLE(dim, token)) * 16) = k[n];
      if (with_v && i < keys * chunks) *(int4 *)(rows + token * pitch + i % chunks * 16) = v[n];
    }
    start += 2 * PACK_THREADS;
  } while (start < keys * chunks);
  __syncthreads();
  for (int i = (int)threadIdx.x; with_v && i < dim / 4 * (keys / 16); i += PACK_THREADS) {
    /* 16 slots of 4 channels */
    const int d = i / (keys / 16) * 4, c = i % (keys / 16);
    uint32_t channel[4][4];
#pragma unroll
    for (int j = 0; j < 4; j++) {
      uint32_t row[4], word[4];
#pragma unroll
      for (int n = 0; n < 4; n++)
        row[n] = *(const uint32_t *)(rows + packed_key(c * 16 + j * 4 + n) * pitch + d);
      transpose_bytes(row, word);
#pragma unroll
      for (int n = 0; n < 4; n++) channel[n][j] = word[n];
    }
#pragma unroll
    for (int n = 0; n < 4; n++)
      *(uint4 *)(to + IFA_GPU_AT_V(dim, keys) + (d + n) * keys +
                 (c ^ IFA_GPU_SWIZZLE(keys, d + n)) * 16) =
          make_uint4(channel[n][0], channel[n][1], channel[n][2], channel[n][3]);
  }
  if (threadIdx.x < keys) pack_scales_of(a, matrix, block, (int)threadIdx.x, largest);
}

/* Scales only, 64 threads a block. grid (all blocks / 4, at least 1) */
static __global__ void __launch_bounds__(PACK_THREADS)
    pack_scales(__grid_constant__ const ifa_gpu_params a) {
  __shared__ Largest largest[PACK_THREADS / 64];
  const int thread = (int)threadIdx.x % 64, team = (int)threadIdx.x / 64;
  const int64_t all = a.p.batch * a.p.kv_heads * a.block_count,
                number = (int64_t)blockIdx.x * (PACK_THREADS / 64) + team;
  list_items(a, (int64_t)blockIdx.x * PACK_THREADS + threadIdx.x,
             (int64_t)gridDim.x * PACK_THREADS);
  if (thread == 0) largest[team].k = largest[team].v = 0;
  __syncthreads();
  if (number < all)
    find_largest(a, number / a.block_count, (int)(number % a.block_count), thread, 64,
                 &largest[team]);
  __syncthreads();
  for (int key = thread; number < all && key < a.keys; key += 64)
    pack_scales_of(a, number / a.block_count, (int)(number % a.block_count), key, largest[team]);
}

#endif
