/* weights.cuh - section 6 of docs/numerics.md: from u to weights, two scores at a time. */
#ifndef IFA_GPU_WEIGHTS_CUH
#define IFA_GPU_WEIGHTS_CUH

#include "gpu/parts/masks.cuh"
#include "gpu/parts/warp.cuh"

namespace parts {

/* What turns u into n: 1024 r and 1024 (30 - U) of each row, times 2^-149: so small, a binary32's
 * last place is 2^-149, and the bits of fma(u, r, 30 - U) are n, or, where that is negative, an
 * integer below 0. (Where r * 2^-139 itself is too small to be exact, no score is above 2^-12
 * octaves and n is 1024 (30 - U).) */
struct Index {
  float factor[2], c[2];
  template <class S> __device__ __forceinline__ void follow(const Warp<S> &w, const float (&r)[2]) {
#pragma unroll
    for (int h = 0; h < 2; h++)
      factor[h] = __fmul_rn(r[h], 0x1p-139f),
      c[h] = __fmaf_rn((float)w.unit[h], -0x1p-139f, 30 * 0x1p-139f);
  }
};

/* n of both, which is h of both. */
__device__ __forceinline__ uint32_t weight_h(float u0, float u1, float factor, float c) {
  return pack_unsigned(__float_as_int(__fmaf_rn(u0, factor, c)),
                       __float_as_int(__fmaf_rn(u1, factor, c)));
}
/* one: 1 in both halves, which the compiler must not see: it would use two instructions for w where
 * one does. */
__device__ __forceinline__ uint32_t weight_g(uint32_t h, uint32_t one) {
  uint32_t w = (~h & 0x03ff03ffu) | one;
  uint32_t g = fma_half2(w, twice(IFA_WEIGHT_C3), twice(IFA_WEIGHT_C2));
  return fma_half2(fma_half2(g, w, twice(IFA_WEIGHT_C1)), w, twice(IFA_WEIGHT_C0));
}
__device__ __forceinline__ uint32_t hidden_one(const ifa_problem &p) {
  return 0x3c003c00u + (uint32_t)(p.head_dim >> 31);
}
/* rne(a * b) in the low byte of each half: a * b + 1024 rounded to binary16 has an ulp of 1. */
__device__ __forceinline__ uint32_t product_byte(uint32_t a, uint32_t b) {
  return fma_half2(a, b, 0x64006400u);
}

/* h of all scores, n[j][h] of row h in S tile j. */
template <class S>
__device__ __forceinline__ void weigh_index(uint32_t (&n)[S::NT][2], const float (&u)[S::NT][4],
                                            const Index &index) {
#pragma unroll
  for (int j = 0; j < S::NT; j++)
#pragma unroll
    for (int h = 0; h < 2; h++)
      n[j][h] = weight_h(u[j][2 * h], u[j][2 * h + 1], index.factor[h], index.c[h]);
}

/* Keys that are not live get n = 0, and so no weight. */
template <class S>
__device__ __forceinline__ void mask_index(uint32_t (&n)[S::NT][2], const ifa_problem &p,
                                           int first_key, int64_t row) {
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const int first = live_first(p, row + 8 * h) - first_key,
              end = live_end(p, row + 8 * h) - first_key;
#pragma unroll
    for (int j = 0; j < S::NT; j++) {
      const int key = j * 8 + (threadIdx.x & 3) * 2;
      n[j][h] &= (key >= first && key < end ? 0xffffu : 0u) |
                 (key + 1 >= first && key + 1 < end ? 0xffff0000u : 0u);
    }
  }
}

} // namespace parts

#endif
