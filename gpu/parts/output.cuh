/* output.cuh - sections 10 and 11 of docs/numerics.md: a warp's outputs and log-sum-exp. */
#ifndef IFA_GPU_OUTPUT_CUH
#define IFA_GPU_OUTPUT_CUH

#include <cuda_fp16.h>

#include "common/operand.h"
#include "gpu/parts/splits.cuh"

namespace parts {

/* fl(o / l) for integers in binary32: two corrections of o times the reciprocal, the last from a
 * quotient that is at most one unit off, so it rounds correctly (Markstein); no step leaves the
 * normal range. */
__device__ __forceinline__ float divide(float o, float l, float reciprocal) {
  float q = __fmul_rn(o, reciprocal);
  q = __fmaf_rn(__fmaf_rn(-q, l, o), reciprocal, q);
  return __fmaf_rn(__fmaf_rn(-q, l, o), reciprocal, q);
}

/* Four adjacent elements, as one store where that is aligned; `count` of them exist. */
__device__ __forceinline__ void store_four(ifa_type type, void *o, int64_t at, const float (&x)[4],
                                           int count) {
  const bool whole = count >= 4;
  if (whole && type == IFA_F16 && ((uintptr_t)((uint16_t *)o + at) & 7) == 0) {
    __half2 pair[2] = {__floats2half2_rn(x[0], x[1]), __floats2half2_rn(x[2], x[3])};
    *(uint2 *)((uint16_t *)o + at) = *(const uint2 *)pair;
  } else if (whole && type == IFA_F32 && ((uintptr_t)((float *)o + at) & 15) == 0) {
    *(float4 *)((float *)o + at) = make_float4(x[0], x[1], x[2], x[3]);
  } else {
#pragma unroll
    for (int i = 0; i < 4; i++)
      if (i < count) ifa_float_set(type, o, at + i, x[i]);
  }
}

/* What a channel's quotient is multiplied by, channel after channel `step` apart: V's scale of the
 * channel or the tensor; NULL: 1. */
struct ChannelFactors {
  const float *first;
  int step;
};
__device__ __forceinline__ ChannelFactors channel_factors(const ifa_gpu_params &a,
                                                          uint32_t kv_matrix) {
  const ifa_problem &p = a.p;
  if (p.nk == 0 || p.v_scale == IFA_SCALE_TOKEN) return {nullptr, 0};
  if (p.v_scale == IFA_SCALE_TENSOR) return {a.in.v_scale + kv_matrix, 0};
  return {(p.v_scale == IFA_SCALE_CHANNEL ? a.in.v_scale : a.in.v_channel_scale) +
              (int64_t)kv_matrix * p.head_dim,
          1};
}

/* The warp's 16 rows. They go through `stage` (shared memory of the warp's own), some channels at a
 * time: then lanes side by side have channels side by side, and what is stored is contiguous. */
template <class S>
__device__ __forceinline__ void write_rows(const ifa_gpu_params &a, const Warp<S> &w,
                                           const float *sums, uint8_t *stage,
                                           const ifa_gpu_item &item, int warp) {
  constexpr int D = S::D;
  const ifa_problem &p = a.p;
  const int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
  const int64_t batch = item.batch, head = item.head, warp_row0 = item.row0 + warp * 16;

  /* Lane r gets L, E and E' of row r. */
  float row_l[2];
  int row_unit[2], row_value_unit[2];
  bool kept_sums[2]; /* of this thread's own rows */
#pragma unroll
  for (int h = 0; h < 2; h++) {
    row_l[h] = (float)quad_sum(w.l[h]), row_unit[h] = w.unit[h],
    row_value_unit[h] = S::TOKEN ? w.value_unit[h] : w.unit[h];
    if (sums) {
      const float *kept = sums_at<S>(sums, S::SUMS + 3 * h);
      row_l[h] = kept[0], row_unit[h] = __float_as_int(kept[S::THREADS]),
      row_value_unit[h] = __float_as_int(kept[2 * S::THREADS]);
    }
    kept_sums[h] = row_value_unit[h] != IFA_NO_UNIT;
    const int from = (lane & 7) * 4;
    row_l[h] = __shfl_sync(~0u, row_l[h], from), row_unit[h] = __shfl_sync(~0u, row_unit[h], from),
    row_value_unit[h] = __shfl_sync(~0u, row_value_unit[h], from);
  }
  const bool second = lane & 8;
  const float l = second ? row_l[1] : row_l[0];
  const int unit = second ? row_unit[1] : row_unit[0],
            value_unit = second ? row_value_unit[1] : row_value_unit[0];
  if (a.lse && lane < 16 && warp_row0 + lane < p.nq)
    a.lse[(batch * p.q_heads + head) * p.nq + warp_row0 + lane] =
        unit == IFA_NO_UNIT ? -INFINITY : ifa_lse(l, unit);
  /* an empty row's outputs are +0, whatever the sign of a factor: its divisor is below 0 */
  const bool empty = unit == IFA_NO_UNIT || value_unit == IFA_NO_UNIT;
  const float divisor = empty ? -1.0f : l, reciprocal = empty ? -1.0f : __frcp_rn(l);
  const int up = empty ? 0 : value_unit - unit;
  /* 2^up as two factors. The first never rounds: a quotient of integers, if not 0, lies in 2^-23 ..
   * 2^31. Beyond 186 octaves the result is 0 or infinite. */
  const float power1 = up < -126 ? 0x1p-60f : up > 127 ? 0x1p60f : 1.0f;
  const float power2 = __int_as_float((min(max(up < -126  ? up + 60
                                               : up > 127 ? up - 60
                                                          : up,
                                               -126),
                                           127) +
                                       127)
                                      << 23);

  /* chunks of 16 bytes of a row; that of row r lie in another order, i at i ^ (r & 7) */
  constexpr int C = S::OUTPUT_CHANNELS, CHUNKS = C / 4, PITCH = C * 4;
  /* this lane's part: one of each row first, first + 32 / CHUNKS, ... */
  const int first = lane / CHUNKS, chunk = lane % CHUNKS;
  const ChannelFactors factors = channel_factors(a, item.kv_matrix);
#pragma unroll
  for (int c = 0; c < D / C; c++) {
    const int d = c * C + chunk * 4;
    float factor[4] = {1.0f, 1.0f, 1.0f, 1.0f};
    if (factors.first) {
#pragma unroll
      for (int j = 0; j < 4; j++)
        if (d + j < p.head_dim) factor[j] = factors.first[factors.step * (d + j)];
    }
#pragma unroll
    for (int n = 0; n < C / 8; n++)
#pragma unroll
      for (int h = 0; h < 2; h++) {
        const int r = g + 8 * h, at = c * (C / 8) + n;
        int2 x = make_int2(w.acc[at][2 * h], w.acc[at][2 * h + 1]);
        if (sums) {
          const float *kept = sums_at<S>(sums, (h * (D / 8) + at) * 2);
          x = kept_sums[h] ? make_int2(__float_as_int(kept[0]), __float_as_int(kept[S::THREADS]))
                           : make_int2(0, 0);
        }
        *(int2 *)(stage + r * PITCH + ((n * 2 + (t >> 1)) ^ (r & 7)) * 16 + (t & 1) * 8) = x;
      }
    __syncwarp();
#pragma unroll 1
    for (int r = first; r < 16; r += 32 / CHUNKS) {
      const int4 raw = *(const int4 *)(stage + r * PITCH + (chunk ^ (r & 7)) * 16);
      const int o[4] = {raw.x, raw.y, raw.z, raw.w};
      const float row_divisor = __shfl_sync(~0u, divisor, r),
                  row_reciprocal = __shfl_sync(~0u, reciprocal, r);
      const float row_power1 = S::TOKEN ? __shfl_sync(~0u, power1, r) : 1.0f,
                  row_power2 = S::TOKEN ? __shfl_sync(~0u, power2, r) : 1.0f;
      float x[4];
      if (sums) {
        const int row_up = __shfl_sync(~0u, up, r);
#pragma unroll
        for (int j = 0; j < 4; j++)
          x[j] = scalbnf(__fdiv_rn(__int_as_float(o[j]), row_divisor), row_up);
      } else {
#pragma unroll
        for (int j = 0; j < 4; j++) {
          x[j] = divide((float)o[j], row_divisor, row_reciprocal);
          if (S::TOKEN) x[j] = __fmul_rn(__fmul_rn(x[j], row_power1), row_power2);
        }
      }
#pragma unroll
      for (int j = 0; j < 4; j++) x[j] = row_divisor < 0.0f ? 0.0f : __fmul_rn(x[j], factor[j]);
      if (warp_row0 + r < p.nq)
        store_four(p.out_type, a.o, ifa_offset(p.o_stride, batch, head, warp_row0 + r) + d, x,
                   p.head_dim - d);
    }
    __syncwarp(); /* the next channels take the place of these */
  }
}

} // namespace parts

#endif
