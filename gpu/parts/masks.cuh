/* masks.cuh - section 3 of docs/numerics.md: which keys a row sees. They are an interval, and both
 * its ends move with the row. */
#ifndef IFA_GPU_MASKS_CUH
#define IFA_GPU_MASKS_CUH

#include "ifa.h"

/* Keys that row i sees, clipped to 0 .. nk. Rows beyond nq see none. */
__device__ __forceinline__ int live_first(const ifa_problem &p, int64_t i) {
  int64_t first = i + p.nk - p.nq - p.window + 1;
  return (int)(p.window && first > 0 ? (first < p.nk ? first : p.nk) : 0);
}
__device__ __forceinline__ int live_end(const ifa_problem &p, int64_t i) {
  int64_t position = i + p.nk - p.nq, end = p.causal   ? position + 1
                                            : p.window ? position + p.window
                                                       : p.nk;
  return (int)(i >= p.nq || end < 0 ? 0 : end < p.nk ? end : p.nk);
}

#endif
