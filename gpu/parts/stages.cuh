/* stages.cuh - where the attention kernel shows its stages (ifa_stages) in a build with
 * IFA_GPU_STAGES. In any other the functions are empty and nothing is left of them.
 *
 * The kernel hands over what it has in registers, as fragments of 16 query rows by keys or channels
 * (warp.cuh has the map): `row` is the query row of this thread's first half, row + 8
 * that of the second; `key` the first key of the fragments. All lanes of the warp call. Recorded
 * are the computed rows (a.in.rows, or all) wherever a.stage_outputs points to something; what the
 * kernel passes over keeps what the caller had put there. */
#ifndef IFA_GPU_STAGES_CUH
#define IFA_GPU_STAGES_CUH

#include "gpu/parts/masks.cuh"
#include "gpu/parts/warp.cuh"
#include "gpu/params.h"

namespace parts {

#ifdef IFA_GPU_STAGES

/* First index of the stages: the number of row i of the matrix among the computed rows; -1 if it is
 * not one. */
__device__ __forceinline__ int64_t stage_number(const ifa_gpu_params &a, int64_t matrix,
                                                int64_t i) {
  const int64_t index = matrix * a.p.nq + i;
  if (i >= a.p.nq) return -1;
  if (!a.in.rows) return index;
  int64_t low = 0, high = a.in.row_count;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (a.in.rows[middle] < index) low = middle + 1;
    else high = middle;
  }
  return low < a.in.row_count && a.in.rows[low] == index ? low : -1;
}

/* S of live keys, from sums that began at `zero`. */
template <int N>
__device__ __forceinline__ void stage_scores(const ifa_gpu_params &a, int64_t matrix, int64_t row,
                                             int key, const int (&sc)[N][4], int zero) {
  if (!a.stage_outputs.s) return;
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const int64_t number = stage_number(a, matrix, row + 8 * h);
    const int first = live_first(a.p, row + 8 * h), end = live_end(a.p, row + 8 * h);
    if (number < 0) continue;
#pragma unroll
    for (int j = 0; j < N; j++)
#pragma unroll
      for (int i = 0; i < 2; i++) {
        const int at = key + j * 8 + (threadIdx.x & 3) * 2 + i;
        if (at >= first && at < end)
          a.stage_outputs.s[number * a.p.nk + at] = sc[j][2 * h + i] - zero;
      }
  }
}

/* A fragments of 32 keys each, 0 where a key is not live. */
template <int N>
__device__ __forceinline__ void stage_bytes(const ifa_gpu_params &a, uint8_t *to, int64_t matrix,
                                            int64_t row, int key, const uint32_t (&pa)[N][4]) {
  if (!to) return;
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const int64_t number = stage_number(a, matrix, row + 8 * h);
    if (number < 0) continue;
#pragma unroll
    for (int kk = 0; kk < N; kk++)
#pragma unroll
      for (int i = 0; i < 8; i++) {
        const int at = key + kk * 32 + (i >> 1) * 8 + (threadIdx.x & 3) * 2 + (i & 1);
        if (at < a.p.nk)
          to[number * a.p.nk + at] = (uint8_t)(pa[kk][(i >> 2) * 2 + h] >> (i & 3) * 8);
      }
  }
}

/* p, and P (the same again unless V is per token). */
template <int N>
__device__ __forceinline__ void stage_weights(const ifa_gpu_params &a, int64_t matrix, int64_t row,
                                              int key, const uint32_t (&pa)[N][4]) {
  stage_bytes(a, a.stage_outputs.p, matrix, row, key, pa);
}
template <int N>
__device__ __forceinline__ void stage_value_weights(const ifa_gpu_params &a, int64_t matrix,
                                                    int64_t row, int key,
                                                    const uint32_t (&pa)[N][4]) {
  stage_bytes(a, a.stage_outputs.value_p, matrix, row, key, pa);
}

/* U and (V per token) U' of both halves after the tile that holds `key`, for rows that see some of
 * it. */
__device__ __forceinline__ void stage_units(const ifa_gpu_params &a, int64_t matrix, int64_t row,
                                            int key, int unit0, int unit1, int value_unit0,
                                            int value_unit1) {
  const int tile = key / a.p.kv_tile;
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const int64_t number = stage_number(a, matrix, row + 8 * h),
                  at = number * ((a.p.nk + a.p.kv_tile - 1) / a.p.kv_tile) + tile;
    const int first = max(live_first(a.p, row + 8 * h), tile * a.p.kv_tile),
              end = min(live_end(a.p, row + 8 * h), (tile + 1) * a.p.kv_tile);
    if (number < 0 || first >= end || (threadIdx.x & 3) != 0) continue;
    if (a.stage_outputs.unit) a.stage_outputs.unit[at] = h ? unit1 : unit0;
    if (a.stage_outputs.value_unit) a.stage_outputs.value_unit[at] = h ? value_unit1 : value_unit0;
  }
}

/* l (its part in this thread) and acc at the end of the split whose last key to be multiplied was
 * `last_key`; -1: there was none. */
template <int N>
__device__ __forceinline__ void stage_sums(const ifa_gpu_params &a, int64_t matrix, int64_t row,
                                           int last_key, int l0, int l1, const int (&acc)[N][4]) {
  const int l[2] = {quad_sum(l0), quad_sum(l1)};
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const int64_t number = stage_number(a, matrix, row + 8 * h),
                  at = number * ((a.p.nk + a.p.kv_split - 1) / a.p.kv_split) +
                       last_key / a.p.kv_split;
    if (number < 0 || last_key < 0) continue;
    if (a.stage_outputs.l && (threadIdx.x & 3) == 0) a.stage_outputs.l[at] = l[h];
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
      for (int i = 0; i < 2; i++) {
        const int d = n * 8 + (threadIdx.x & 3) * 2 + i;
        if (a.stage_outputs.acc && d < a.p.head_dim)
          a.stage_outputs.acc[at * a.p.head_dim + d] = acc[n][2 * h + i];
      }
  }
}

#else

template <int N>
__device__ __forceinline__ void stage_scores(const ifa_gpu_params &, int64_t, int64_t, int,
                                             const int (&)[N][4], int) {}
template <int N>
__device__ __forceinline__ void stage_weights(const ifa_gpu_params &, int64_t, int64_t, int,
                                              const uint32_t (&)[N][4]) {}
template <int N>
__device__ __forceinline__ void stage_value_weights(const ifa_gpu_params &, int64_t, int64_t, int,
                                                    const uint32_t (&)[N][4]) {}
__device__ __forceinline__ void stage_units(const ifa_gpu_params &, int64_t, int64_t, int, int, int,
                                            int, int) {}
template <int N>
__device__ __forceinline__ void stage_sums(const ifa_gpu_params &, int64_t, int64_t, int, int, int,
                                           const int (&)[N][4]) {}

#endif

} // namespace parts

#endif
