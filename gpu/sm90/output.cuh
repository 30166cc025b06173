/* output.cuh - a warp's 16 rows, straight from the registers, where there is one split and the
 * layout allows (gpu/parts/output.cuh has the rest). */
#ifndef IFA_GPU_SM90_OUTPUT_CUH
#define IFA_GPU_SM90_OUTPUT_CUH

#include "gpu/parts/output.cuh"
#include "gpu/sm90/shape.cuh"

namespace sm90 {

/* Two elements of the output side by side, and how many bytes one is. */
template <ifa_type TYPE> struct Pair;
template <> struct Pair<IFA_F32> {
  static constexpr int BYTES = 4;
  static __device__ __forceinline__ void store(uint8_t *to, float x0, float x1) {
    *(float2 *)to = make_float2(x0, x1);
  }
};
template <> struct Pair<IFA_F16> {
  static constexpr int BYTES = 2;
  static __device__ __forceinline__ void store(uint8_t *to, float x0, float x1) {
    *(__half2 *)to = __floats2half2_rn(x0, x1);
  }
};
template <> struct Pair<IFA_BF16> {
  static constexpr int BYTES = 2;
  static __device__ __forceinline__ void store(uint8_t *to, float x0, float x1) {
    *(uint32_t *)to = (uint32_t)ifa_f32_to_bf16(x1) << 16 | ifa_f32_to_bf16(x0);
  }
};

/* fl(o / l) as `divide` has it, an operation less: o times the reciprocal in two parts is at most
 * one unit off at once. */
struct Divisor {
  float l, reciprocal, rest; /* 1 / l is reciprocal + rest */
  __device__ __forceinline__ Divisor(float divisor, float r, float e)
      : l(divisor), reciprocal(r), rest(e) {}
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

/* Can a row be stored 16 bytes at a time? */
template <class S> __device__ __forceinline__ bool chunks_fit(const ifa_gpu_params &a) {
  const ifa_problem &p = a.p;
  const int64_t strides = p.o_stride.batch | p.o_stride.head | p.o_stride.token;
  return p.head_dim == S::D && (strides & (p.out_type == IFA_F32 ? 3 : 7)) == 0 &&
         ((uintptr_t)a.o & 15) == 0;
}

/* factor: of the channels; stage: 2048 bytes of the warp's own; both in shared memory. row0: the
 * warp's first. 128 bytes of each row at a time go through `stage`, chunk i of 16 bytes of row r at
 * place i ^ (r & 7), so that neither way has bank conflicts, and what a warp stores at once are
 * whole lines. */
template <class S, ifa_type TYPE>
__device__ __forceinline__ void write_chunks(const ifa_gpu_params &a, const Warp<S> &w,
                                             const GroupItem &item, const float *factor,
                                             uint8_t *stage, int row0) {
  constexpr int BYTES = Pair<TYPE>::BYTES, CHANNELS = 128 / BYTES;
  const int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3, rows = (int)a.p.nq - row0;
  float divisor[2], reciprocal[2], rest[2], power1[2], power2[2];
  float zero[2]; /* x * f + -0 is x * f; + 0 makes +0 of an empty row's zeros, whatever the sign of
                    f */
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const int sum = quad_sum(w.l[h]), unit = w.unit[h],
              value_unit = S::TOKEN ? w.value_unit[h] : unit;
    const bool empty =
        unit == IFA_NO_UNIT || value_unit == IFA_NO_UNIT; /* such a row's sums are 0 */
    if (a.lse && t == 0 && g + 8 * h < rows)
      a.lse[(int64_t)item.matrix * a.p.nq + row0 + g + 8 * h] =
          unit == IFA_NO_UNIT ? -INFINITY : ifa_lse((float)sum, unit);
    zero[h] = empty ? 0.0f : -0.0f;
    const Divisor l(empty ? 1.0f : (float)sum);
    const PowerOfTwo power(empty || !S::TOKEN ? 0 : value_unit - unit);
    divisor[h] = l.l, reciprocal[h] = l.reciprocal, rest[h] = l.rest, power1[h] = power.first,
    power2[h] = power.second;
  }
  const int64_t step = 4 * a.p.o_stride.token * BYTES;
  uint8_t *to =
      (uint8_t *)a.o +
      (ifa_offset(a.p.o_stride, item.batch, item.head, row0) + (lane >> 3) * a.p.o_stride.token) *
          BYTES +
      (lane & 7) * 16;
#pragma unroll
  for (int c = 0; c < S::D / CHANNELS; c++, to += 128) {
#pragma unroll
    for (int j = 0; j < CHANNELS / 8; j++) {
      const float2 f = *(const float2 *)(factor + c * CHANNELS + 8 * j + 2 * t);
#pragma unroll
      for (int h = 0; h < 2; h++) {
        const Divisor l(divisor[h], reciprocal[h], rest[h]);
        const int *const sum = w.acc[c * (CHANNELS / 8) + j] + 2 * h;
        float x0 = l.divide((float)sum[0]), x1 = l.divide((float)sum[1]);
        if (S::TOKEN)
          x0 = __fmul_rn(__fmul_rn(x0, power1[h]), power2[h]),
          x1 = __fmul_rn(__fmul_rn(x1, power1[h]), power2[h]);
        const int at = (8 * j + 2 * t) * BYTES;
        Pair<TYPE>::store(stage + (g + 8 * h) * 128 + (((at >> 4) ^ g) << 4 | (at & 15)),
                          __fmaf_rn(x0, f.x, zero[h]), __fmaf_rn(x1, f.y, zero[h]));
      }
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int r = 4 * i + (lane >> 3);
      const uint4 chunk = *(const uint4 *)(stage + r * 128 + ((lane & 7) ^ (r & 7)) * 16);
      if (r < rows) *(uint4 *)(to + i * step) = chunk;
    }
    __syncwarp(); /* the next channels take the place of these */
  }
}

} // namespace sm90

#endif
