/* values.cuh - section 8 of docs/numerics.md: V per token. The rows' value units U' follow their
 * tile's largest y. */
#ifndef IFA_GPU_VALUES_CUH
#define IFA_GPU_VALUES_CUH

#include <cuda_fp16.h>

#include "gpu/parts/units.cuh"

namespace parts {

/* 2^m as a binary16 pattern, m <= 15. */
__device__ __forceinline__ uint32_t half_pow2(int m) {
  return m >= -14 ? (uint32_t)(m + 15) << 10 : m >= -24 ? 1u << (m + 24) : 0u;
}

/* b of a row from keys first .. end of v_scale. All lanes of the quad. */
__device__ __forceinline__ int live_value_exponent(const float *v_scale, int first, int end) {
  float largest = 0.0f;
  for (int key = max(first, 0) + (threadIdx.x & 3); key < end; key += 4)
    largest = fmaxf(largest, v_scale[key]);
  return ifa_value_exponent(quad_max(largest));
}

/* s_j of two keys; 0 for a key that is not live. 2^-b is a normal number, and the product is exact
 * or far below binary16. A scale may be -0. */
__device__ __forceinline__ uint32_t live_value_scales(const float *v_scale, int first, int end,
                                                      int key, float factor) {
  float a = key >= first && key < end ? __fmul_rn(fabsf(v_scale[key]), factor) : 0.0f,
        b = key + 1 >= first && key + 1 < end ? __fmul_rn(fabsf(v_scale[key + 1]), factor) : 0.0f;
  return (uint32_t)__half_as_ushort(__float2half_rn(b)) << 16 |
         __half_as_ushort(__float2half_rn(a));
}

template <class S>
__device__ __forceinline__ void move_value_units(Warp<S> &w, const int (&want)[2],
                                                 const bool (&moves)[2], int growth_keys) {
  int up[2];
#pragma unroll
  for (int h = 0; h < 2; h++)
    up[h] = moves[h] & (w.value_unit[h] != IFA_NO_UNIT) ? want[h] - w.value_unit[h] : 0;
  const uint32_t ways = directions(up);
  if (ways & 12) {
    int magnitude[2];
    largest_acc(magnitude, w);
#pragma unroll
    for (int h = 0; h < 2; h++)
      up[h] = up[h] < 0 ? -headroom(magnitude[h], IFA_MAX_PRODUCT * growth_keys, -up[h]) : up[h];
  }
#pragma unroll
  for (int h = 0; h < 2; h++)
    w.value_unit[h] =
        moves[h] & (w.value_unit[h] == IFA_NO_UNIT) ? want[h] : w.value_unit[h] + up[h];
  shift_acc(w, up, ways);
}

/* factor[h]: what takes y to P, twice. Where all y are 0 any number will do. */
template <class S>
__device__ __forceinline__ void value_factors(const Warp<S> &w, uint32_t (&factor)[2],
                                              int exponent) {
#pragma unroll
  for (int h = 0; h < 2; h++)
    factor[h] = w.value_unit[h] == IFA_NO_UNIT
                    ? 0u
                    : twice(half_pow2(min(w.unit[h] + exponent - w.value_unit[h], 15)));
}

/* Where no U' falls. */
template <class S>
__device__ __forceinline__ void raise_values(Warp<S> &w, int exponent, uint32_t most) {
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const uint32_t largest = h ? most >> 16 : most & 0xffffu;
    const int up =
        largest != 0
            ? max(w.unit[h] + exponent - ifa_value_shift((uint16_t)largest) - w.value_unit[h], 0)
            : 0;
    w.value_unit[h] += up;
    raise_acc(w, h, up);
  }
}

/* U' follows the tile's largest y. factor[h]: what takes y to P, twice; it depends on the units and
 * b only: where all y are 0 any number will do. */
template <class S>
__device__ __forceinline__ void follow_values(Warp<S> &w, uint32_t (&factor)[2],
                                              const int (&exponent)[2], uint32_t most,
                                              const ifa_problem &p, int growth_keys) {
  int want[2];
  bool moves[2];
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const uint32_t largest = h ? most >> 16 : most & 0xffffu;
    want[h] = w.unit[h] + exponent[h] - ifa_value_shift((uint16_t)largest);
    /* none yet: the least integer */
    moves[h] = (largest != 0) & ((want[h] > w.value_unit[h]) |
                                 ((p.tau != IFA_TAU_INF) & (want[h] < w.value_unit[h] - p.tau)));
  }
  if (__any_sync(~0u, moves[0] | moves[1])) move_value_units(w, want, moves, growth_keys);
#pragma unroll
  for (int h = 0; h < 2; h++)
    factor[h] = w.value_unit[h] == IFA_NO_UNIT
                    ? 0u
                    : twice(half_pow2(min(w.unit[h] + exponent[h] - w.value_unit[h], 15)));
}

} // namespace parts

#endif
