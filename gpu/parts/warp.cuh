/* warp.cuh - a warp's state, and what the four threads of a quad say together.
 *
 * A warp has 16 query rows. Thread-to-data map of an accumulator tile (16 rows x 8 columns): lane =
 * 4 g + t holds rows g and g + 8, columns 2t and 2t + 1. So a thread has two rows, numbered h = 0,
 * 1, each shared by the four threads of a quad. An A operand wants 4 consecutive bytes of k per
 * thread, so V's keys are permuted when they are packed: slot p of a group of 32 holds key
 *     16 (p >> 4) + 8 ((p & 3) >> 1) + 2 ((p & 15) >> 2) + (p & 1),
 * which makes the packed weights of S tiles 4i .. 4i+3 the A fragment of that group without any
 * exchange. Integer sums allow it.
 *
 * In all of gpu/parts, S is a kernel's shape: S::D channels (head_dim, padded), S::KEYS keys of a
 * block, S::NT = KEYS / 8 tiles of S, S::KC = KEYS / 32 fragments of P, S::SUMS = D / 2
 * accumulators a thread, S::TOKEN whether V has a scale per token, S::SPLITS whether there may be
 * several splits; S::THREADS of a CTA; S::OUTPUT_CHANNELS that a warp writes at a time. */
#ifndef IFA_GPU_WARP_CUH
#define IFA_GPU_WARP_CUH

#include "common/contract.h"
#include "gpu/parts/instructions.cuh"

namespace parts {

template <class S> struct Warp {
  int acc[S::D / 8][4];
  int l[2];          /* this thread's part of the row's sum; the quad's four parts add up to l */
  int unit[2];       /* U */
  int value_unit[2]; /* V per token: U' */
  float row_factor[2];
};

template <class S> __device__ __forceinline__ void start(Warp<S> &w) {
#pragma unroll
  for (int h = 0; h < 2; h++) w.l[h] = 0, w.unit[h] = w.value_unit[h] = IFA_NO_UNIT;
#pragma unroll
  for (int i = 0; i < S::D / 8; i++)
#pragma unroll
    for (int j = 0; j < 4; j++) w.acc[i][j] = 0;
}

__device__ __forceinline__ int quad_sum(int x) {
  x += __shfl_xor_sync(~0u, x, 1);
  return x + __shfl_xor_sync(~0u, x, 2);
}
__device__ __forceinline__ int quad_max(int x) {
  x = max(x, __shfl_xor_sync(~0u, x, 1));
  return max(x, __shfl_xor_sync(~0u, x, 2));
}
__device__ __forceinline__ float quad_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
  return fmaxf(x, __shfl_xor_sync(~0u, x, 2));
}

} // namespace parts

#endif
