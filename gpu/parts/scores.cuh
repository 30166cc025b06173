/* scores.cuh - section 4 of docs/numerics.md: what takes a row's scores to octaves, and the largest
 * of those that a mask leaves. */
#ifndef IFA_GPU_SCORES_CUH
#define IFA_GPU_SCORES_CUH

#include "gpu/parts/masks.cuh"
#include "gpu/parts/warp.cuh"
#include "gpu/params.h"

namespace parts {

/* r for u as gpu/params.h has it. */
__device__ __forceinline__ float score_factor(float row_factor, float tile_scale) {
  return __fmul_rn(__fmul_rn(row_factor, tile_scale), (float)(1LL << IFA_GPU_SCORE_OCTAVES));
}

/* A row's largest score; below 0 if u is, even where the product is too small for a binary32
 * (section 5). */
__device__ __forceinline__ float octaves(float largest, float r) {
  const float x = __fmul_rn(largest, r);
  return largest < 0.0f ? fminf(x, -0x1p-149f) : x;
}

/* The largest u of each row among this thread's live keys. `row`: of h = 0; `first_key`: of the
 * block. */
template <class S>
__device__ __forceinline__ void largest_live(float (&largest)[2], const float (&u)[S::NT][4],
                                             const ifa_problem &p, int first_key, int64_t row) {
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const int first = live_first(p, row + 8 * h) - first_key,
              end = live_end(p, row + 8 * h) - first_key;
    largest[h] = -INFINITY;
#pragma unroll
    for (int j = 0; j < S::NT; j++)
#pragma unroll
      for (int i = 0; i < 2; i++) {
        const int key = j * 8 + (threadIdx.x & 3) * 2 + i;
        if (key >= first && key < end) largest[h] = fmaxf(largest[h], u[j][2 * h + i]);
      }
  }
}

} // namespace parts

#endif
