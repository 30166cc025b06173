/* naive.cuh - step 1: one thread computes one row of the output, one key after the other, all from
 * global memory, with the formulas of common/contract.h. It is ref/scalar.c's `sum_split` in one
 * piece: read the two side by side.
 *
 * Thread-to-data map: thread t of CTA (x, y) has row 64 x + t of matrix y = batch * q_heads + head.
 * Threads need nothing of each other: a row's unit depends on its own scores only. */
#ifndef IFA_GPU_STEPS_NAIVE_CUH
#define IFA_GPU_STEPS_NAIVE_CUH

#include "gpu/steps/row.cuh"

namespace steps {

constexpr int MOST_TILE = 256;

__global__ void __launch_bounds__(ROWS) attend_naive(__grid_constant__ const ifa_gpu_params a) {
  const ifa_problem &p = a.p;
  const Row row = row_at(a, (int)(blockIdx.x * ROWS + threadIdx.x));
  if (row.i >= p.nq) return;

  int unit = IFA_NO_UNIT, l = 0; /* U; the sum of weights, in units of 2^U / 255 */
  int acc[IFA_MAX_HEAD_DIM];     /* the sums of weights times values, in the same unit */
  float u[MOST_TILE];
  for (int d = 0; d < p.head_dim; d++) acc[d] = 0;

  for (int start = row.first / p.kv_tile * p.kv_tile; start < row.end; start += p.kv_tile) {
    const int first = max(start, row.first), end = min(start + p.kv_tile, row.end);

    /* Section 4: scores. |S| <= 256 * 128 * 128 = 2^22, exact as a binary32. */
    const float r = tile_factor(a, row, start);
    float largest = -INFINITY;
    for (int key = first; key < end; key++) {
      const int8_t *k = row.k + key * p.k_stride.token;
      int s = 0;
      for (int d = 0; d < p.head_dim; d++) s += row.q[d] * k[d];
      u[key - start] = ifa_score(s, key_scale(a, row, key));
      largest = fmaxf(largest, u[key - start]);
    }

    /* Section 5: the unit follows the tile's largest score, and the sums follow the unit. */
    int magnitude = l;
    for (int d = 0; d < p.head_dim; d++) magnitude = max(magnitude, abs(acc[d]));
    const int growth = IFA_MAX_PRODUCT * (int)(p.kv_split - start); /* what may still be added */
    const int next = ifa_next_unit(unit, ifa_tile_unit(largest, r), p.tau, magnitude, growth);
    if (unit != IFA_NO_UNIT && next != unit) {
      l = ifa_shift(l, next - unit);
      for (int d = 0; d < p.head_dim; d++) acc[d] = ifa_shift(acc[d], next - unit);
    }
    unit = next;

    /* Sections 6 and 7: weights 0 .. 255, and the sums. */
    for (int key = first; key < end; key++) {
      const int8_t *v = row.v + key * p.v_stride.token;
      const int weight = ifa_weight(ifa_weight_index(u[key - start], r, unit));
      l += weight;
      for (int d = 0; d < p.head_dim; d++) acc[d] += weight * v[d];
    }
  }

  for (int d = 0; d < p.head_dim; d++) store_output(a, row, d, unit, l, acc[d]);
  store_lse(a, row, unit, l);
}

} // namespace steps

#endif
