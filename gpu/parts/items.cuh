/* items.cuh - which items a CTA computes, and Q's scales. */
#ifndef IFA_GPU_ITEMS_CUH
#define IFA_GPU_ITEMS_CUH

#include "gpu/params.h"

namespace parts {

/* The CTA's items in turn: of each `gridDim.x` items one, from the front and from the back by
 * turns, so that all CTAs get as much to do. */
__device__ __forceinline__ uint32_t item_of_round(uint32_t round) {
  return round * gridDim.x + (round & 1 ? gridDim.x - 1 - blockIdx.x : blockIdx.x);
}

__device__ __forceinline__ const float *q_scale_at(const ifa_gpu_params &a, uint32_t matrix,
                                                   int64_t i) {
  const ifa_problem &p = a.p;
  if (p.q_scale == IFA_SCALE_TOKEN) return a.in.q_scale + matrix * p.nq + i;
  if (p.q_scale == IFA_SCALE_BLOCK)
    return a.in.q_scale + matrix * ((p.nq + p.q_block - 1) / p.q_block) +
           (uint32_t)i / (uint32_t)p.q_block;
  return a.in.q_scale + matrix;
}

} // namespace parts

#endif
