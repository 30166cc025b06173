/* any_tile.cuh - the kernel on mma.sync for kv_tile 32, 128 and 256: blocks of 32 keys. A tile of
 * several is walked twice (V per token: three times), for its unit must be known before its
 * weights. */
#ifndef IFA_GPU_SM80_ANY_TILE_CUH
#define IFA_GPU_SM80_ANY_TILE_CUH

#include "gpu/parts/output.cuh"
#include "gpu/parts/stages.cuh"
#include "gpu/sm80/cta.cuh"
#include "gpu/sm80/rows.cuh"

namespace sm80 {

template <class S>
__device__ __forceinline__ void attend_rows_any_tile(Cta<S> &cta, uint32_t round) {
  constexpr int KEYS = S::KEYS;
  const ifa_gpu_params &a = cta.a;
  const ifa_problem &p = a.p;
  const ifa_gpu_item &item = cta.item(round);
  const uint32_t matrix = item.matrix, one = hidden_one(p);
  const int row = item.row0 + cta.warp * 16 + (cta.lane >> 2), first_key = item.first_key,
            steps = item.steps;
  const float tau1 = p.tau == IFA_TAU_INF ? INFINITY : (float)(p.tau + 1),
              *const v_scale = a.in.v_scale + (int64_t)item.kv_matrix * p.nk;
  Warp<S> w;
  cta.load_q(round, 0);
  cta.await_q(w);
  start(w);
  float *const sums = split_sums<S>(a);
  if (sums) start_sums<S>(sums);

  float r[2];
  for (int step = 0; __any_sync(~0u, step < steps);) {
    const int tile_key = first_key + step * KEYS, blocks = min(p.kv_tile / KEYS, steps - step),
              growth_keys = (int)p.kv_split - tile_key % (int)p.kv_split;
    if (tile_key % p.kv_split == 0 && tile_key > first_key) {
      stage_sums(a, matrix, row, tile_key - 1, w.l[0], w.l[1], w.acc);
      end_split(w, sums);
    }
    /* u of the tile's block b, which all wait for the first time; largest: of each row, among this
     * thread's keys. */
    typename S::TileRing block = cta.ring;
    auto scores = [&](int b, float(&u)[S::NT][4], float(&largest)[2]) {
      int s[S::NT][4], high[2];
      uint32_t q[1][4];
      multiply_scores<S, 1>(s, q, cta.at, block.place());
      stage_scores(a, matrix, row, tile_key + b * KEYS, s, IFA_GPU_SCORE_ZERO);
      score<S>(u, s, high, cta.at.scales + block.place());
      largest_live<S>(largest, u, p, tile_key + b * KEYS, row);
    };
    float u[S::NT][4], largest[2] = {-INFINITY, -INFINITY}, x[2];
    bool moves[2];
    for (int b = 0; __any_sync(~0u, b < blocks); b++, block.advance()) {
      float of_block[2];
      block.wait();
      scores(b, u, of_block);
      largest[0] = fmaxf(largest[0], of_block[0]), largest[1] = fmaxf(largest[1], of_block[1]);
    }
    const float tile_scale = cta.at.tile_scale(cta.ring.place());
#pragma unroll
    for (int h = 0; h < 2; h++) {
      largest[h] = quad_max(largest[h]);
      r[h] = score_factor(w.row_factor[h], tile_scale), x[h] = octaves(largest[h], r[h]);
      moves[h] = unit_moves(largest[h], x[h], w.unit[h], tau1);
    }
    move_units(w, x, moves, growth_keys);
    Index index;
    index.follow(w, r);

    uint32_t n[S::NT][2], pa[S::KC][4], y[S::KC][4][2], highest[2] = {0, 0}, factor[2] = {0, 0};
    int exponent[2] = {0, 0};
    if (S::TOKEN) {
#pragma unroll
      for (int h = 0; h < 2; h++)
        exponent[h] = live_value_exponent(v_scale, max(live_first(p, row + 8 * h), tile_key),
                                          min(live_end(p, row + 8 * h), tile_key + p.kv_tile));
      block = cta.ring;
      for (int b = 0; __any_sync(~0u, b < blocks); b++, block.advance()) {
        float of_block[2];
        scores(b, u, of_block);
        weigh_index<S>(n, u, index);
        mask_index<S>(n, p, tile_key + b * KEYS, row);
        weigh<S, false, false>(w, pa, y, highest, n, one, 0);
        scale_live_values<S>(y, exponent, highest, p, v_scale, tile_key + b * KEYS, row);
      }
      follow_values(w, factor, exponent, quad_largest(highest), p, growth_keys);
    }
    stage_units(a, matrix, row, tile_key, w.unit[0], w.unit[1], w.value_unit[0], w.value_unit[1]);

    block = cta.ring;
    for (int b = 0; __any_sync(~0u, b < blocks); b++, block.advance(), step++) {
      float of_block[2];
      scores(b, u, of_block);
      weigh_index<S>(n, u, index);
      mask_index<S>(n, p, tile_key + b * KEYS, row);
      weigh<S, false>(w, pa, y, highest, n, one, 0);
      stage_weights(a, matrix, row, tile_key + b * KEYS, pa);
      if (S::TOKEN) {
        scale_live_values<S>(y, exponent, highest, p, v_scale, tile_key + b * KEYS, row);
        weigh_values<S>(pa, y, factor);
      }
      stage_value_weights(a, matrix, row, tile_key + b * KEYS, pa);
      uint32_t v[2 * S::KC][4];
#pragma unroll
      for (int g = 0; g < S::PV_GROUPS; g++) {
        load_v_fragments<S>(v, cta.at, block.place(), g);
        multiply_pv<S>(w, pa, v, g);
      }
      cta.release(zero_after(v, p));
    }
  }
  stage_sums(a, matrix, row, first_key + steps * KEYS - 1, w.l[0], w.l[1], w.acc);
  if (sums) end_split(w, sums);
  write_rows(a, w, sums, cta.output(), item, cta.warp);
}

template <class S>
__global__ void __launch_bounds__(S::THREADS, 1)
    attend_any_tile(__grid_constant__ const ifa_gpu_params a) {
  extern __shared__ __align__(128) uint8_t shared_bytes[];
  Cta<S> cta(a, shared_bytes, 0);
  for (uint32_t round = 0; __any_sync(~0u, cta.has(round)); round++)
    attend_rows_any_tile(cta, round);
}

} // namespace sm80

#endif
