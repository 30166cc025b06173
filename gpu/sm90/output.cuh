/* output.cuh - a warp's 16 rows, straight from the registers, where there is one split and the
 * layout allows (gpu/parts/attention_output.cuh has the rest). */
#ifndef IFA_GPU_SM90_OUTPUT_CUH
#define IFA_GPU_SM90_OUTPUT_CUH

#include "gpu/parts/attention_output.cuh"
#include "gpu/sm90/shape.cuh"

namespace sm90 {

/* Two adjacent elements of the output, aligned. */
template <ifa_type TYPE>
__device__ __forceinline__ void store_pair(void *o, int64_t at, float x0, float x1) {
  if (TYPE == IFA_F32) *(float2 *)((float *)o + at) = make_float2(x0, x1);
  else if (TYPE == IFA_F16) *(__half2 *)((uint16_t *)o + at) = __floats2half2_rn(x0, x1);
  else
    *(uint32_t *)((uint16_t *)o + at) = (uint32_t)ifa_f32_to_bf16(x1) << 16 | ifa_f32_to_bf16(x0);
}

/* fl(o / l) as `divide` has it, an operation less: o times the reciprocal in two parts is at most
 * one unit off at once. */
struct Divisor {
  float l, reciprocal, rest; /* 1 / l is reciprocal + rest */
  __device__ __forceinline__ explicit Divisor(float divisor) {
    l = divisor;
    reciprocal = __frcp_rn(l);
    rest = __fmul_rn(__fmaf_rn(-l, reciprocal, 1.0f), reciprocal);
  }
  __device__ __forceinline__ float divide(float o) const {
    const float q = __fmaf_rn(o, reciprocal, __fmul_rn(o, rest));
    return __fmaf_rn(__fmaf_rn(-q, l, o), reciprocal, q);
  }
};

/* 2^up as two factors. The first never rounds: a quotient of integers, if not 0, lies in 2^-23 ..
 * 2^31. Beyond 186 octaves the result is 0 or infinite. */
struct PowerOfTwo {
  float first, second;
  __device__ __forceinline__ explicit PowerOfTwo(int up) {
    first = up < -126 ? 0x1p-60f : up > 127 ? 0x1p60f : 1.0f;
    second = __int_as_float((min(max(up < -126  ? up + 60
                                     : up > 127 ? up - 60
                                                : up,
                                     -126),
                                 127) +
                             127)
                            << 23);
  }
  __device__ __forceinline__ float times(float x) const {
    return __fmul_rn(__fmul_rn(x, first), second);
  }
};

/* Can pairs be stored whole? */
template <class S> __device__ __forceinline__ bool pairs_fit(const ifa_gpu_params &a) {
  const ifa_problem &p = a.p;
  return p.head_dim == S::D && ((p.o_stride.batch | p.o_stride.head | p.o_stride.token) & 1) == 0 &&
         ((uintptr_t)a.o & (p.out_type == IFA_F32 ? 7 : 3)) == 0;
}

/* factor: of the channels, in shared memory. row: of h = 0. */
template <class S, ifa_type TYPE>
__device__ __forceinline__ void write_pairs(const ifa_gpu_params &a, const Warp<S> &w,
                                            const GroupItem &item, const float *factor, int row) {
  const int t = threadIdx.x & 3;
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const int sum = quad_sum(w.l[h]), unit = w.unit[h],
              value_unit = S::TOKEN ? w.value_unit[h] : unit;
    const bool empty =
        unit == IFA_NO_UNIT || value_unit == IFA_NO_UNIT; /* such a row's sums are 0 */
    if (row + 8 * h >= a.p.nq) continue;
    if (a.lse && t == 0)
      a.lse[(int64_t)item.matrix * a.p.nq + row + 8 * h] =
          unit == IFA_NO_UNIT ? -INFINITY : ifa_lse((float)sum, unit);
    const Divisor divisor(empty ? 1.0f : (float)sum);
    const PowerOfTwo power(empty || !S::TOKEN ? 0 : value_unit - unit);
    const int64_t at = ifa_offset(a.p.o_stride, item.batch, item.head, row + 8 * h) + 2 * t;
#pragma unroll
    for (int j = 0; j < S::D / 8; j++) {
      const float2 f = *(const float2 *)(factor + 8 * j + 2 * t);
      float x0 = divisor.divide((float)w.acc[j][2 * h]),
            x1 = divisor.divide((float)w.acc[j][2 * h + 1]);
      if (S::TOKEN) x0 = power.times(x0), x1 = power.times(x1);
      store_pair<TYPE>(a.o, at + 8 * j, __fmul_rn(x0, f.x), __fmul_rn(x1, f.y));
    }
  }
}

} // namespace sm90

#endif
