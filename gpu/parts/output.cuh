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

/* 2^up as two factors. The first never rounds: a quotient of integers, if not 0, lies in 2^-23 ..
 * 2^31. Beyond 186 octaves the result is 0 or infinite. */
struct PowerOfTwo {
  float first, second;
  __device__ __forceinline__ explicit PowerOfTwo(int up) {
    const int rest = up < -126 ? up + 60 : up > 127 ? up - 60 : up;
    first = up < -126 ? 0x1p-60f : up > 127 ? 0x1p60f : 1.0f;
    second = __int_as_float((min(max(rest, -126), 127) + 127) << 23);
  }
};

/* L, E and E' of a row. */
struct RowSums {
  float l;
  int unit, value_unit;
};

/* Lanes r and r + 16 get those of the warp's row r; `sums`: those between splits, if there are
 * several. */
template <class S>
__device__ __forceinline__ RowSums row_sums(const Warp<S> &w, const float *sums) {
  const int lane = threadIdx.x & 31;
  RowSums row[2];
#pragma unroll
  for (int h = 0; h < 2; h++) {
    row[h].l = (float)quad_sum(w.l[h]);
    row[h].unit = w.unit[h];
    row[h].value_unit = S::TOKEN ? w.value_unit[h] : w.unit[h];
    if (sums) {
      const float *const at = sums_at<S>(sums, S::SUMS + 3 * h);
      row[h].l = at[0];
      row[h].unit = __float_as_int(at[S::THREADS]);
      row[h].value_unit = __float_as_int(at[2 * S::THREADS]);
    }
    const int from = (lane & 7) * 4;
    row[h].l = __shfl_sync(~0u, row[h].l, from);
    row[h].unit = __shfl_sync(~0u, row[h].unit, from);
    row[h].value_unit = __shfl_sync(~0u, row[h].value_unit, from);
  }
  const bool second = lane & 8;
  return {second ? row[1].l : row[0].l, second ? row[1].unit : row[0].unit,
          second ? row[1].value_unit : row[0].value_unit};
}

/* What takes a row's O to its outputs, but for V's scales. An empty row's outputs are +0, whatever
 * the sign of a factor: its divisor is below 0. */
struct RowEnd {
  float divisor, reciprocal;
  int up; /* E' - E */
  PowerOfTwo power;
};
__device__ __forceinline__ RowEnd row_end(const RowSums &row) {
  const bool empty = row.unit == IFA_NO_UNIT || row.value_unit == IFA_NO_UNIT;
  const int up = empty ? 0 : row.value_unit - row.unit;
  return {empty ? -1.0f : row.l, empty ? -1.0f : __frcp_rn(row.l), up, PowerOfTwo(up)};
}

/* The warp's rows go through shared memory of its own (`stage`), OUTPUT_CHANNELS channels at a
 * time: then lanes side by side have channels side by side, and what is stored is contiguous. A row
 * is chunks of 16 bytes; those of row r lie in another order, i at i ^ (r & 7). */
template <class S> struct Stage {
  static constexpr int CHANNELS = S::OUTPUT_CHANNELS, CHUNKS = CHANNELS / 4, PITCH = CHANNELS * 4;
  uint8_t *const at;

  __device__ __forceinline__ uint8_t *chunk(int r, int i) const {
    return at + r * PITCH + (i ^ (r & 7)) * 16;
  }
  /* This thread's O of channels c * CHANNELS ..: integers, or of several splits binary32. */
  __device__ __forceinline__ void put(const Warp<S> &w, const float *sums, int c) const {
    const int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
#pragma unroll
    for (int n = 0; n < CHANNELS / 8; n++)
#pragma unroll
      for (int h = 0; h < 2; h++) {
        const int tile = c * (CHANNELS / 8) + n;
        int2 x = make_int2(w.acc[tile][2 * h], w.acc[tile][2 * h + 1]);
        if (sums) {
          const float *const o = sums_at<S>(sums, (h * (S::D / 8) + tile) * 2);
          x = make_int2(__float_as_int(o[0]), __float_as_int(o[S::THREADS]));
        }
        *(int2 *)(chunk(g + 8 * h, n * 2 + (t >> 1)) + (t & 1) * 8) = x;
      }
  }
};

/* Four outputs of the warp's row r from what was put; all lanes. factor: of the channels; several:
 * splits. */
template <class S>
__device__ __forceinline__ void finish_four(float (&x)[4], const int4 &put, const RowEnd &end,
                                            int r, const float (&factor)[4], bool several) {
  const int o[4] = {put.x, put.y, put.z, put.w};
  const float divisor = __shfl_sync(~0u, end.divisor, r),
              reciprocal = __shfl_sync(~0u, end.reciprocal, r);
  const float power1 = S::TOKEN ? __shfl_sync(~0u, end.power.first, r) : 1.0f,
              power2 = S::TOKEN ? __shfl_sync(~0u, end.power.second, r) : 1.0f;
  if (several) {
    const int up = __shfl_sync(~0u, end.up, r);
#pragma unroll
    for (int j = 0; j < 4; j++) x[j] = scalbnf(__fdiv_rn(__int_as_float(o[j]), divisor), up);
  } else {
#pragma unroll
    for (int j = 0; j < 4; j++) {
      x[j] = divide((float)o[j], divisor, reciprocal);
      if (S::TOKEN) x[j] = __fmul_rn(__fmul_rn(x[j], power1), power2);
    }
  }
#pragma unroll
  for (int j = 0; j < 4; j++) x[j] = divisor < 0.0f ? 0.0f : __fmul_rn(x[j], factor[j]);
}

/* The warp's 16 rows of an item. stage_bytes: 16 rows of OUTPUT_CHANNELS 32-bit numbers. */
template <class S>
__device__ __forceinline__ void write_rows(const ifa_gpu_params &a, const Warp<S> &w,
                                           const float *sums, uint8_t *stage_bytes,
                                           const ifa_gpu_item &item, int warp) {
  const ifa_problem &p = a.p;
  const int lane = threadIdx.x & 31;
  const int64_t batch = item.batch, head = item.head, row0 = item.row0 + warp * 16;
  const RowSums row = row_sums(w, sums); /* of lane & 15 */
  if (a.lse && lane < 16 && row0 + lane < p.nq)
    a.lse[(batch * p.q_heads + head) * p.nq + row0 + lane] =
        row.unit == IFA_NO_UNIT ? -INFINITY : ifa_lse(row.l, row.unit);
  const RowEnd end = row_end(row);
  const ChannelFactors factors = channel_factors(a, item.kv_matrix);

  const Stage<S> stage{stage_bytes};
  constexpr int CHUNKS = Stage<S>::CHUNKS, CHANNELS = Stage<S>::CHANNELS;
  /* this lane's part: a chunk of each row first, first + 32 / CHUNKS, ... */
  const int first = lane / CHUNKS, chunk = lane % CHUNKS;
#pragma unroll
  for (int c = 0; c < S::D / CHANNELS; c++) {
    const int d = c * CHANNELS + chunk * 4;
    float factor[4] = {1.0f, 1.0f, 1.0f, 1.0f};
    if (factors.first) {
#pragma unroll
      for (int j = 0; j < 4; j++)
        if (d + j < p.head_dim) factor[j] = factors.first[factors.step * (d + j)];
    }
    stage.put(w, sums, c);
    __syncwarp();
#pragma unroll 1
    for (int r = first; r < 16; r += 32 / CHUNKS) {
      float x[4];
      finish_four<S>(x, *(const int4 *)stage.chunk(r, chunk), end, r, factor, sums != nullptr);
      if (row0 + r < p.nq)
        store_four(p.out_type, a.o, ifa_offset(p.o_stride, batch, head, row0 + r) + d, x,
                   p.head_dim - d);
    }
    __syncwarp(); /* the next channels take the place of these */
  }
}

} // namespace parts

#endif
