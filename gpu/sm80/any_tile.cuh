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

/* A tile of the round's item, whose first block is at the ring's current place, and the rows' units
 * and factors for it. Section numbers: docs/numerics.md. */
template <class S> struct Tile {
  Cta<S> &cta;
  const uint32_t matrix;
  const int row;              /* this lane's, of h = 0 */
  const float *const v_scale; /* of key 0 */
  const uint32_t one;
  int first_key = 0, blocks = 0;
  int growth_keys = 0; /* R of section 7 */
  Index index = {};
  int exponent[2] = {0, 0};    /* V per token: b of each row's live keys, */
  uint32_t factor[2] = {0, 0}; /* and what takes y to P */

  __device__ __forceinline__ Tile(Cta<S> &c, const ifa_gpu_item &item)
      : cta(c), matrix(item.matrix), row(item.row0 + c.warp * 16 + (c.lane >> 2)),
        v_scale(c.a.in.v_scale + (int64_t)item.kv_matrix * c.a.p.nk), one(hidden_one(c.a.p)) {}

  __device__ __forceinline__ int key_of(int b) const { return first_key + b * S::KEYS; }

  /* u of block b, which lies at `place`. */
  __device__ __forceinline__ void scores(float (&u)[S::NT][4], int b, uint32_t place) const {
    int s[S::NT][4], high[2];
    uint32_t q[1][4];
    multiply_scores<S, 1>(s, q, cta.at, place);
    stage_scores(cta.a, matrix, row, key_of(b), s, IFA_GPU_SCORE_ZERO);
    score<S>(u, s, high, cta.at.scales + place);
  }
  /* Of the same block, p as A fragments; V per token: W in y. They count in l, if they are to. */
  template <bool COUNT>
  __device__ __forceinline__ void weights(Warp<S> &w, uint32_t (&pa)[S::KC][4],
                                          uint32_t (&y)[S::KC][4][2], int b, uint32_t place) const {
    float u[S::NT][4];
    uint32_t n[S::NT][2], unused[2] = {0, 0};
    scores(u, b, place);
    weigh_index<S>(n, u, index);
    mask_index<S>(n, cta.a.p, key_of(b), row);
    weigh<S, false, COUNT>(w, pa, y, unused, n, one, 0);
  }

  /* The first walk, which waits for the blocks: units follow the tile's largest scores. */
  __device__ __forceinline__ void move(Warp<S> &w) {
    const ifa_problem &p = cta.a.p;
    const float tau1 = p.tau == IFA_TAU_INF ? INFINITY : (float)(p.tau + 1);
    float largest[2] = {-INFINITY, -INFINITY}, r[2], x[2];
    bool moves[2];
    typename S::TileRing block = cta.ring;
    for (int b = 0; __any_sync(~0u, b < blocks); b++, block.advance()) {
      float u[S::NT][4], of_block[2];
      block.wait();
      scores(u, b, block.place());
      largest_live<S>(of_block, u, p, key_of(b), row);
      largest[0] = fmaxf(largest[0], of_block[0]);
      largest[1] = fmaxf(largest[1], of_block[1]);
    }
    const float tile_scale = cta.at.tile_scale(cta.ring.place());
#pragma unroll
    for (int h = 0; h < 2; h++) {
      largest[h] = quad_max(largest[h]);
      r[h] = score_factor(w.row_factor[h], tile_scale);
      x[h] = octaves(largest[h], r[h]);
      moves[h] = unit_moves(largest[h], x[h], w.unit[h], tau1);
    }
    move_units(w, x, moves, growth_keys);
    index.follow(w, r);
  }

  /* V per token, the second walk: value units follow the tile's largest y. */
  __device__ __forceinline__ void move_values(Warp<S> &w) {
    const ifa_problem &p = cta.a.p;
#pragma unroll
    for (int h = 0; h < 2; h++)
      exponent[h] = live_value_exponent(v_scale, max(live_first(p, row + 8 * h), first_key),
                                        min(live_end(p, row + 8 * h), first_key + p.kv_tile));
    uint32_t highest[2] = {0, 0};
    typename S::TileRing block = cta.ring;
    for (int b = 0; __any_sync(~0u, b < blocks); b++, block.advance()) {
      uint32_t pa[S::KC][4], y[S::KC][4][2];
      weights<false>(w, pa, y, b, block.place());
      scale_live_values<S>(y, exponent, highest, p, v_scale, key_of(b), row);
    }
    follow_values(w, factor, exponent, quad_largest(highest), p, growth_keys);
  }

  /* The last walk: acc += P V; the blocks are released. */
  __device__ __forceinline__ void multiply(Warp<S> &w) {
    const ifa_gpu_params &a = cta.a;
    typename S::TileRing block = cta.ring;
    for (int b = 0; __any_sync(~0u, b < blocks); b++, block.advance()) {
      uint32_t pa[S::KC][4], y[S::KC][4][2], highest[2] = {0, 0}, v[2 * S::KC][4];
      weights<true>(w, pa, y, b, block.place());
      stage_weights(a, matrix, row, key_of(b), pa);
      if (S::TOKEN) {
        scale_live_values<S>(y, exponent, highest, a.p, v_scale, key_of(b), row);
        weigh_values<S>(pa, y, factor);
      }
      stage_value_weights(a, matrix, row, key_of(b), pa);
#pragma unroll
      for (int g = 0; g < S::PV_GROUPS; g++) {
        load_v_fragments<S>(v, cta.at, block.place(), g);
        multiply_pv<S>(w, pa, v, g);
      }
      cta.release(zero_after(v, a.p));
    }
  }
};

/* The warp's rows of the round's item. */
template <class S>
__device__ __forceinline__ void attend_rows_any_tile(Cta<S> &cta, uint32_t round) {
  const ifa_gpu_params &a = cta.a;
  const ifa_problem &p = a.p;
  const ifa_gpu_item &item = cta.item(round);
  const uint32_t matrix = item.matrix;
  const int first_key = item.first_key, steps = item.steps;
  Tile<S> tile(cta, item);
  cta.load_q(round, 0);
  Warp<S> w;
  cta.await_q(w);
  start(w);
  float *const sums = begin_sums<S>(a);

  for (int step = 0; __any_sync(~0u, step < steps); step += tile.blocks) {
    tile.first_key = first_key + step * S::KEYS;
    tile.blocks = min(p.kv_tile / S::KEYS, steps - step);
    tile.growth_keys = (int)p.kv_split - tile.first_key % (int)p.kv_split;
    if (tile.first_key % p.kv_split == 0 && tile.first_key > first_key) {
      stage_sums(a, matrix, tile.row, tile.first_key - 1, w.l[0], w.l[1], w.acc);
      end_split(w, sums);
    }
    tile.move(w);
    if (S::TOKEN) tile.move_values(w);
    stage_units(a, matrix, tile.row, tile.first_key, w.unit[0], w.unit[1], w.value_unit[0],
                w.value_unit[1]);
    tile.multiply(w);
  }
  stage_sums(a, matrix, tile.row, first_key + steps * S::KEYS - 1, w.l[0], w.l[1], w.acc);
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
