/* units.cuh - sections 5 and 7 of docs/numerics.md: units that follow their tile's largest score,
 * and sums that follow their units. */
#ifndef IFA_GPU_UNITS_CUH
#define IFA_GPU_UNITS_CUH

#include "gpu/parts/warp.cuh"

namespace parts {

/* With x = largest u * r the unit stays if U - tau - 1 <= x < U, for then floor(x) + 1 is in U -
 * tau .. U. A row without a live key (x = -infinity or NaN) stays. */
__device__ __forceinline__ bool unit_moves(float largest, float x, int unit, float tau1) {
  const float u = (float)unit; /* none yet: far below any */
  return (largest > -INFINITY) & (!(x < u) | !(x >= __fadd_rn(u, -tau1)) | (unit == IFA_NO_UNIT));
}

/* max_d |acc_d| of both rows. */
template <class S>
__device__ __forceinline__ void largest_acc(int (&magnitude)[2], const Warp<S> &w) {
  int high[2] = {0, 0}, low[2] = {0, 0};
#pragma unroll
  for (int i = 0; i < S::D / 8; i++)
#pragma unroll
    for (int h = 0; h < 2; h++) {
      high[h] = max3(high[h], w.acc[i][2 * h], w.acc[i][2 * h + 1]);
      low[h] = min3(low[h], w.acc[i][2 * h], w.acc[i][2 * h + 1]);
    }
#pragma unroll
  for (int h = 0; h < 2; h++) magnitude[h] = quad_max(max(high[h], -low[h]));
}

__device__ __forceinline__ int octaves_right(int up) { return min(max(up, 0), 31); }
/* 31 octaves down or more: only nothing falls so far */
__device__ __forceinline__ int octaves_left(int up) { return min(max(-up, 0), 31); }

/* Which way rows move, of all the warp's rows: whether any of its rows h rises (bit h), or falls
 * (bit h + 2). */
__device__ __forceinline__ uint32_t directions(const int (&up)[2]) {
  return __reduce_or_sync(~0u, (uint32_t)(up[0] > 0) | (uint32_t)(up[1] > 0) << 1 |
                                   (uint32_t)(up[0] < 0) << 2 | (uint32_t)(up[1] < 0) << 3);
}

/* acc of the rows moved up[h] octaves (0: not). */
template <class S>
__device__ __forceinline__ void shift_acc(Warp<S> &w, const int (&up)[2], uint32_t directions) {
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const int right = octaves_right(up[h]), left = octaves_left(up[h]);
    if (directions >> h & 1) {
#pragma unroll
      for (int i = 0; i < S::D / 8; i++)
#pragma unroll
        for (int j = 2 * h; j < 2 * h + 2; j++) w.acc[i][j] >>= right;
    }
    if (directions >> h & 4) {
#pragma unroll
      for (int i = 0; i < S::D / 8; i++)
#pragma unroll
        for (int j = 2 * h; j < 2 * h + 2; j++) w.acc[i][j] = (int)((uint32_t)w.acc[i][j] << left);
    }
  }
}

/* ifa_headroom without a loop: the largest k in 0 .. wanted with magnitude * 2^k <= limit. */
__device__ __forceinline__ int headroom(int magnitude, int growth, int wanted) {
  /* magnitude * 2^k has as many bits as the limit */
  const int limit = INT32_MAX - growth, k = __clz(magnitude) - __clz(limit);
  const int room = k < 0 ? 0 : (magnitude << (k & 31)) <= limit ? k : max(k - 1, 0);
  return magnitude == 0 ? wanted : min(wanted, room);
}

/* Rows follow their tile (all lanes take part); x: a row's largest score; `moves`: it must. The
 * threads of a row agree. growth_keys: R of section 7. */
template <class S>
__device__ __forceinline__ void move_units(Warp<S> &w, const float (&x)[2], const bool (&moves)[2],
                                           int growth_keys) {
  int want[2], sum[2], up[2];
#pragma unroll
  for (int h = 0; h < 2; h++) {
    sum[h] = quad_sum(w.l[h]);
    want[h] = moves[h] ? __float2int_rd(x[h]) + 1 : w.unit[h];
    up[h] = w.unit[h] == IFA_NO_UNIT ? 0 : want[h] - w.unit[h];
  }
  const uint32_t ways = directions(up);
  if (ways & 12) { /* only a fall asks for headroom */
    int magnitude[2] = {0, 0};
    if (!S::TOKEN) largest_acc(magnitude, w);
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const int room =
          headroom(max(magnitude[h], sum[h]),
                   (S::TOKEN ? IFA_WEIGHT_MAX : IFA_MAX_PRODUCT) * growth_keys, max(-up[h], 0));
      want[h] = up[h] < 0 ? w.unit[h] - room : want[h];
      up[h] = up[h] < 0 ? -room : up[h];
    }
  }
#pragma unroll
  for (int h = 0; h < 2; h++) {
    w.unit[h] = want[h];
    /* gathered, for floor(a + b) is not floor(a) + floor(b) */
    if (ways)
      w.l[h] = (threadIdx.x & 3) == 0 ? (sum[h] << octaves_left(up[h])) >> octaves_right(up[h]) : 0;
  }
  if (!S::TOKEN) shift_acc(w, up, ways);
}

/* acc of rows h, `up` octaves up. */
template <class S> __device__ __forceinline__ void raise_acc(Warp<S> &w, int h, int up) {
  const int right = min(up, 31);
#pragma unroll
  for (int i = 0; i < S::D / 8; i++)
#pragma unroll
    for (int j = 2 * h; j < 2 * h + 2; j++) w.acc[i][j] >>= right;
}

} // namespace parts

#endif
