/* row.cuh - what the steps share: where a row's data lie, its scales, and how it ends
 * (docs/numerics.md, sections 3, 4, 10 and 11). */
#ifndef IFA_GPU_STEPS_ROW_CUH
#define IFA_GPU_STEPS_ROW_CUH

#include "common/contract.h"
#include "common/operand.h"
#include "gpu/params.h"
#include "gpu/parts/instructions.cuh"
#include "gpu/parts/masks.cuh"

namespace steps {

constexpr int ROWS = 64; /* of a CTA, in every step */

/* A query row: blockIdx.y counts (batch, head), i is the row within it, perhaps beyond the last. */
struct Row {
  int i, first, end;         /* live keys: first .. end - 1; none where i is beyond nq */
  int64_t matrix, kv_matrix; /* of Q and O: batch * q_heads + head; of K and V */
  const int8_t *q, *k, *v;   /* the row's Q (not to be read beyond nq); K and V of token 0 */
  float factor;              /* r_i */
};

/* The scale of a token of Q or K. */
__device__ __forceinline__ float token_scale(ifa_granularity scale, const float *scales,
                                             int64_t matrix, int64_t tokens, int32_t block,
                                             int64_t token) {
  if (scale == IFA_SCALE_TOKEN) return scales[matrix * tokens + token];
  if (scale == IFA_SCALE_BLOCK)
    return scales[matrix * ((tokens + block - 1) / block) + token / block];
  return scales[matrix];
}

__device__ __forceinline__ Row row_at(const ifa_gpu_params &a, int i) {
  const ifa_problem &p = a.p;
  const int64_t batch = blockIdx.y / p.q_heads, head = blockIdx.y % p.q_heads,
                kv_head = head / (p.q_heads / p.kv_heads);
  Row row;
  row.i = i;
  row.first = live_first(p, i);
  row.end = live_end(p, i);
  row.matrix = blockIdx.y;
  row.kv_matrix = batch * p.kv_heads + kv_head;
  row.q = (const int8_t *)a.in.q + ifa_offset(p.q_stride, batch, head, i);
  row.k = (const int8_t *)a.in.k + ifa_offset(p.k_stride, batch, kv_head, 0);
  row.v = (const int8_t *)a.in.v + ifa_offset(p.v_stride, batch, kv_head, 0);
  const float q_scale =
      i < p.nq ? token_scale(p.q_scale, a.in.q_scale, row.matrix, p.nq, p.q_block, i) : 0.0f;
  row.factor = ifa_row_factor(q_scale, p.sm_scale);
  return row;
}

/* Section 4: K per token scales each key's sum; else the tile's block or tensor scales r. */
__device__ __forceinline__ float key_scale(const ifa_gpu_params &a, const Row &row, int key) {
  return a.p.k_scale == IFA_SCALE_TOKEN ? a.in.k_scale[row.kv_matrix * a.p.nk + key] : 1.0f;
}
__device__ __forceinline__ float tile_factor(const ifa_gpu_params &a, const Row &row, int start) {
  if (a.p.k_scale == IFA_SCALE_TOKEN) return row.factor;
  return ifa_mul(row.factor,
                 token_scale(a.p.k_scale, a.in.k_scale, row.kv_matrix, a.p.nk, a.p.k_block, start));
}

/* Section 7: a sum moved to a unit `up` octaves higher (a GPU's >> is a floor), or lower. */
__device__ __forceinline__ int shift(int x, int up) {
  return (int)((uint32_t)(x >> min(max(up, 0), 31)) << min(max(-up, 0), 31));
}

/* Section 10, one channel; with one split L = l and O = acc. */
__device__ __forceinline__ void store_output(const ifa_gpu_params &a, const Row &row, int d,
                                             int unit, int l, int acc) {
  const ifa_problem &p = a.p;
  if (row.i >= p.nq || d >= p.head_dim) return;
  float out = 0.0f;
  if (unit != IFA_NO_UNIT) {
    const int64_t scale =
        p.v_scale == IFA_SCALE_CHANNEL ? row.kv_matrix * p.head_dim + d : row.kv_matrix;
    out = ifa_output((float)acc, (float)l, a.in.v_scale[scale]);
  }
  const int64_t at = ifa_offset(p.o_stride, row.matrix / p.q_heads, row.matrix % p.q_heads, row.i);
  ifa_float_set(p.out_type, a.o, at + d, out);
}

/* Section 11. */
__device__ __forceinline__ void store_lse(const ifa_gpu_params &a, const Row &row, int unit,
                                          int l) {
  if (!a.p.lse || row.i >= a.p.nq) return;
  a.lse[row.matrix * a.p.nq + row.i] = unit == IFA_NO_UNIT ? -INFINITY : ifa_lse((float)l, unit);
}

/* Section 6 for two indices, one in each half: p of both, likewise. The contract's ifa_weight in
 * the GPU's binary16 arithmetic: h is the index itself, read as a binary16; h * g + 1024, rounded
 * once, is 1024 + p, for from 1024 to 2048 a binary16's last place is 1; and so its low byte is p.
 */
__device__ __forceinline__ uint32_t weights(uint32_t h) {
  const uint32_t w = (~h & 0x03ff03ffu) | 0x3c003c00u;
  uint32_t g = parts::fma_half2(w, parts::twice(IFA_WEIGHT_C3), parts::twice(IFA_WEIGHT_C2));
  g = parts::fma_half2(g, w, parts::twice(IFA_WEIGHT_C1));
  g = parts::fma_half2(g, w, parts::twice(IFA_WEIGHT_C0));
  return parts::fma_half2(h, g, parts::twice(0x6400)) & 0x00ff00ffu;
}

} // namespace steps

#endif
