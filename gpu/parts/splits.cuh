/* splits.cuh - section 9 of docs/numerics.md: where a split ends, a thread's sums join those of the
 * splits before as binary32. */
#ifndef IFA_GPU_SPLITS_CUH
#define IFA_GPU_SPLITS_CUH

#include "gpu/params.h"
#include "gpu/parts/warp.cuh"

namespace parts {

/* A thread's float sums between splits lie in global memory, those of a CTA's threads side by side:
 * D / 2 sums, then for each of its two rows L, E and E'. One place for all rows that the thread has
 * one after another. */
template <class S> constexpr int SUMS_KEPT = S::SUMS + 6;
template <class S> __device__ __forceinline__ float *sums_at(float *sums, int index) {
  return sums + (int64_t)index * S::THREADS;
}
template <class S> __device__ __forceinline__ const float *sums_at(const float *sums, int index) {
  return sums + (int64_t)index * S::THREADS;
}

/* This thread's; NULL if there is one split, which the compiler knows unless SPLITS. */
template <class S> __device__ __forceinline__ float *split_sums(const ifa_gpu_params &a) {
  return S::SPLITS && a.packed.split_sums
             ? a.packed.split_sums + (int64_t)blockIdx.x * SUMS_KEPT<S> * S::THREADS + threadIdx.x
             : nullptr;
}

/* No unit, and sums of 0, to which the first split's are added as to any. */
template <class S> __device__ __noinline__ void start_sums(float *sums) {
#pragma unroll 1
  for (int i = 0; i < S::SUMS; i++) *sums_at<S>(sums, i) = 0.0f;
  for (int h = 0; h < 2; h++) {
    *sums_at<S>(sums, S::SUMS + 3 * h + 1) = __int_as_float(IFA_NO_UNIT);
    *sums_at<S>(sums, S::SUMS + 3 * h + 2) = __int_as_float(IFA_NO_UNIT);
  }
}

/* The thread begins with the sums of some rows: split_sums, empty. */
template <class S> __device__ __forceinline__ float *begin_sums(const ifa_gpu_params &a) {
  float *const sums = split_sums<S>(a);
  if (sums) start_sums<S>(sums);
  return sums;
}

/* The split's sums join those before; the warp starts anew. */
template <class S> __device__ __forceinline__ void end_split(Warp<S> &w, float *sums) {
#pragma unroll
  for (int h = 0; h < 2; h++) {
    float *const row = sums_at<S>(sums, S::SUMS + 3 * h);
    const int sum = quad_sum(w.l[h]), unit = w.unit[h],
              value_unit = S::TOKEN ? w.value_unit[h] : unit;
    const int before = __float_as_int(row[S::THREADS]),
              value_before = __float_as_int(row[2 * S::THREADS]);
    if (unit != IFA_NO_UNIT) {
      const int e = max(unit, before);
      row[0] = before == IFA_NO_UNIT ? (float)sum : ifa_merge(row[0], before, sum, unit, e);
      row[S::THREADS] = __int_as_float(e);
    }
    if (value_unit != IFA_NO_UNIT) {
      const int e = max(value_unit, value_before);
      const float power = ifa_pow2(value_unit - e),
                  power_before = value_before == IFA_NO_UNIT ? 0.0f : ifa_pow2(value_before - e);
#pragma unroll
      for (int i = 0; i < S::D / 8; i++)
#pragma unroll
        for (int j = 0; j < 2; j++) {
          float *const at = sums_at<S>(sums, (h * (S::D / 8) + i) * 2 + j);
          *at = ifa_merge_by(*at, power_before, w.acc[i][2 * h + j], power);
          w.acc[i][2 * h + j] = 0;
        }
      row[2 * S::THREADS] = __int_as_float(e);
    }
    w.l[h] = 0;
    w.unit[h] = w.value_unit[h] = IFA_NO_UNIT;
  }
}

} // namespace parts

#endif
