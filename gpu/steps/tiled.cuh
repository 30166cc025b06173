/* tiled.cuh - step 2: still one thread a row, but the rows of a CTA share the tile. Its keys and
 * values are brought to shared memory once for 64 rows; scores are sums of four products at a time
 * (dp4a); weights are formed two at a time in binary16.
 *
 * Thread-to-data map: as step 1. All threads read the same key at the same time, so a read of
 * shared memory is one broadcast. A row's Q and sums are in its thread's registers: D / 4 + D.
 * Shared memory: K and V 2 * 64 * D bytes, scores 16 KB, scales 256 bytes: 32.3 KB at D = 128. */
#ifndef IFA_GPU_STEPS_TILED_CUH
#define IFA_GPU_STEPS_TILED_CUH

#include "gpu/steps/row.cuh"

namespace steps {

constexpr int TILE = 64;

/* A tile's rows of K or V, byte by byte (a caller's rows may begin anywhere), zeros beyond the
 * last key and beyond head_dim. */
template <int D>
__device__ __forceinline__ void load_bytes(int8_t (*to)[D], const int8_t *from, int64_t stride,
                                           int keys, int head_dim) {
  for (int at = (int)threadIdx.x; at < TILE * D; at += ROWS) {
    const int key = at / D, d = at % D;
    to[key][d] = key < keys && d < head_dim ? from[key * stride + d] : (int8_t)0;
  }
}

template <int D>
__global__ void __launch_bounds__(ROWS) attend_tiled(__grid_constant__ const ifa_gpu_params a) {
  __shared__ __align__(16) int8_t k[TILE][D], v[TILE][D];
  __shared__ float scale[TILE], u[TILE][ROWS];
  const ifa_problem &p = a.p;
  const int thread = (int)threadIdx.x, row0 = (int)(blockIdx.x * ROWS);
  const Row row = row_at(a, row0 + thread);

  int unit = IFA_NO_UNIT, l = 0, q[D / 4], acc[D];
#pragma unroll
  for (int d = 0; d < D; d++) acc[d] = 0;
#pragma unroll
  for (int d = 0; d < D; d += 4) { /* four of Q's bytes a register */
    q[d / 4] = 0;
    for (int i = 0; i < 4; i++)
      if (row.i < p.nq && d + i < p.head_dim) q[d / 4] |= (row.q[d + i] & 255) << (8 * i);
  }

  /* The tiles that any row of the CTA sees: the ends of the interval grow with the row. */
  const int last = min(row0 + ROWS, (int)p.nq) - 1, cta_end = live_end(p, last);
  for (int start = live_first(p, row0) / TILE * TILE; start < cta_end; start += TILE) {
    __syncthreads(); /* all are done with the tile before */
    const int keys = min(TILE, (int)p.nk - start);
    load_bytes<D>(k, row.k + start * p.k_stride.token, p.k_stride.token, keys, p.head_dim);
    load_bytes<D>(v, row.v + start * p.v_stride.token, p.v_stride.token, keys, p.head_dim);
    scale[thread] = thread < keys ? key_scale(a, row, start + thread) : 0.0f;
    __syncthreads();
    const int first = max(row.first - start, 0), end = min(row.end - start, TILE);
    if (first >= end) continue; /* a tile without a live key changes nothing */

    const float r = tile_factor(a, row, start);
    float largest = -INFINITY;
    for (int key = first; key < end; key++) {
      int s = 0;
#pragma unroll
      for (int d = 0; d < D; d += 4) s = __dp4a(q[d / 4], *(const int *)&k[key][d], s);
      u[key][thread] = ifa_score(s, scale[key]);
      largest = fmaxf(largest, u[key][thread]);
    }

    int magnitude = l;
#pragma unroll
    for (int d = 0; d < D; d++) magnitude = max(magnitude, abs(acc[d]));
    const int growth = IFA_MAX_PRODUCT * (int)(p.kv_split - start);
    const int next = ifa_next_unit(unit, ifa_tile_unit(largest, r), p.tau, magnitude, growth);
    if (unit != IFA_NO_UNIT && next != unit) {
      l = shift(l, next - unit);
#pragma unroll
      for (int d = 0; d < D; d++) acc[d] = shift(acc[d], next - unit);
    }
    unit = next;

    for (int key = first & ~1; key < end; key += 2) { /* two keys; one that is not live: n = 0 */
      uint32_t n[2];
      for (int i = 0; i < 2; i++)
        n[i] = key + i >= first && key + i < end
                   ? (uint32_t)ifa_weight_index(u[key + i][thread], r, unit)
                   : 0u;
      const uint32_t p2 = weights(n[0] | n[1] << 16);
      const int p0 = (int)(p2 & 0xffffu), p1 = (int)(p2 >> 16);
      l += p0 + p1;
#pragma unroll
      for (int d = 0; d < D; d += 4) {
        const int v0 = *(const int *)&v[key][d], v1 = *(const int *)&v[key + 1][d];
        for (int i = 0; i < 4; i++)
          acc[d + i] += p0 * (int8_t)(v0 >> (8 * i)) + p1 * (int8_t)(v1 >> (8 * i));
      }
    }
  }

#pragma unroll
  for (int d = 0; d < D; d++) store_output(a, row, d, unit, l, acc[d]);
  store_lse(a, row, unit, l);
}

} // namespace steps

#endif
