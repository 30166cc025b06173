/* attention_sm80.cuh - the contract (docs/numerics.md, sections 3 to 11) on mma.sync: INT8 tensor cores from sm_80 on. Two kernels from the same parts:
 *
 *   attend           kv_tile 64: the fast one
 *   attend_any_tile  kv_tile 32, 128, 256: blocks of 32 keys; a tile of several is walked twice (V per token: three times), for its unit must be known
 *                    before its weights
 *
 * A CTA has 64 query rows, 16 a warp; its warps share the blocks of keys that come through the ring.
 *
 * On these tensor cores a product occupies the warp scheduler while it runs, so nothing is gained by running other instructions beside it: what counts is how many
 * instructions there are, and that no latency lies bare (docs/kernels.md). Hence the order within a step: exchanges and votes are asked early and
 * used late, weights begin before it is known whether the unit moves, fragments of V come while the weights are made. */
#ifndef IFA_GPU_ATTENTION_SM80_CUH
#define IFA_GPU_ATTENTION_SM80_CUH

#include "gpu/attention_output.cuh"
#include "gpu/attention_parts.cuh"
#include "gpu/stages.cuh"

namespace sm80 {

/* ---- what a warp is to do ---- */

struct Work {
  int64_t batch, head, kv_matrix;
  int64_t matrix, row0, warp_row0; /* of Q; first row of the CTA, of the warp */
  int warp;
};

template <class S> __device__ __forceinline__ Work find_work(const ifa_problem &p) {
  /* Rows that see most keys first (causal); heads that share K and V together. Fewer than 2^31 CTAs, so 32 bits do. */
  const uint32_t heads = (uint32_t)(p.batch * p.q_heads), blocks = (uint32_t)((p.nq + S::ROWS - 1) / S::ROWS), m = blockIdx.x % heads;
  Work work;
  work.warp = (int)__reduce_max_sync(~0u, threadIdx.x >> 5); /* so that the compiler knows it to be the same in all lanes */
  work.row0 = (int64_t)(blocks - 1 - blockIdx.x / heads) * S::ROWS, work.warp_row0 = work.row0 + work.warp * 16;
  work.matrix = m, work.batch = m / (uint32_t)p.q_heads, work.head = m % (uint32_t)p.q_heads;
  work.kv_matrix = work.batch * p.kv_heads + (uint32_t)work.head / (uint32_t)(p.q_heads / p.kv_heads);
  return work;
}

__device__ __forceinline__ float q_scale_of(const ifa_gpu_params &a, int64_t matrix, int64_t i) {
  const ifa_problem &p = a.p;
  if (i >= p.nq) return 0.0f;
  if (p.q_scale == IFA_SCALE_TOKEN) return a.in.q_scale[matrix * p.nq + i];
  if (p.q_scale == IFA_SCALE_BLOCK) return a.in.q_scale[matrix * ((p.nq + p.q_block - 1) / p.q_block) + (uint32_t)i / (uint32_t)p.q_block];
  return a.in.q_scale[matrix];
}

/* Q rows row0 .. of the CTA into shared memory, zeros beyond nq and head_dim. Partly in the background: wait_for_copies. */
template <class S> __device__ __forceinline__ void load_q(const ifa_gpu_params &a, Shared<S> &shared, const Work &work) {
  constexpr int D = S::D;
  const ifa_problem &p = a.p;
  const bool vector = p.q_type == IFA_I8 && p.head_dim == D && ((p.q_stride.token | p.q_stride.head | p.q_stride.batch) & 15) == 0 && ((uintptr_t)a.in.q & 15) == 0;
  auto place = [&](int r, int chunk) { return shared.q + r * D + (chunk ^ IFA_GPU_SWIZZLE(D, r)) * 16; };
  if (vector) {
#pragma unroll
    for (int n = 0; n < S::ROWS * D / 16 / S::THREADS; n++) {
      const int i = n * S::THREADS + threadIdx.x, r = i / (D / 16), chunk = i % (D / 16);
      const bool real = work.row0 + r < p.nq;
      copy16(shared_address(place(r, chunk)), (const int8_t *)a.in.q + (real ? ifa_offset(p.q_stride, work.batch, work.head, work.row0 + r) + chunk * 16 : 0), real);
    }
  } else { /* any stride and INT4: once a CTA, so it may be slow */
    for (int i = threadIdx.x; i < S::ROWS * D; i += S::THREADS) {
      const int r = i / D, d = i % D;
      const int64_t row = work.row0 + r;
      place(r, d / 16)[d % 16] = row < p.nq && d < p.head_dim ? (int8_t)ifa_operand_get(p.q_type, a.in.q, ifa_offset(p.q_stride, work.batch, work.head, row) + d) : 0;
    }
  }
}

/* ---- kv_tile 64 ---- */

template <class S> __global__ void __launch_bounds__(S::THREADS, S::CTAS) attend(__grid_constant__ const ifa_gpu_params a) {
  static_assert(S::KEYS == 64, "a block is a tile");
  extern __shared__ __align__(128) uint8_t shared_bytes[];
  constexpr int D = S::D, TILE = S::KEYS, KEPT = D <= 128 ? D / 32 : 1; /* fragments of Q in registers, if they are few */
  Shared<S> &shared = *(Shared<S> *)shared_bytes;
  const ifa_problem &p = a.p;
  const int lane = threadIdx.x & 31;
  const Work work = find_work<S>(p);
  const int64_t row0 = work.row0, warp_row0 = work.warp_row0, row = warp_row0 + (lane >> 2);
  const int64_t warp_last = warp_row0 + 15 < p.nq ? warp_row0 + 15 : p.nq - 1, cta_last = row0 + S::ROWS - 1 < p.nq ? row0 + S::ROWS - 1 : p.nq - 1;

  /* Tiles of the CTA; of them those that some row of the warp sees (steps `from` to `to`), and those that all see whole (both ends of what a row sees move
   * with the row). */
  const int tile_first = live_first(p, row0) / TILE, steps = max((live_end(p, cta_last) + TILE - 1) / TILE - tile_first, 0);
  const int any_end = warp_row0 < p.nq ? live_end(p, warp_last) : 0, all_end = warp_row0 + 16 <= p.nq ? live_end(p, warp_row0) : 0;
  const int from = min(live_first(p, warp_row0) / TILE - tile_first, steps), to = max((any_end + TILE - 1) / TILE - tile_first, from);
  const int whole_from = (live_first(p, warp_row0 + 15) + TILE - 1) / TILE - tile_first, whole_to = all_end / TILE - tile_first;
  const int split_tiles = (int)p.kv_split / TILE;
  auto key_of = [&](int step) { return (tile_first + step) * TILE; };
  auto is_whole = [&](int step) { return (step >= whole_from) & (step < whole_to); };

  const uint32_t place0 = shared_address(shared_bytes + sizeof(Shared<S>));
  typename S::TileRing ring(place0, shared.barriers, a.packed.blocks + (work.kv_matrix * a.block_count + tile_first) * (int64_t)S::BLOCK_BYTES, steps, a.stages, min(a.stages - 1, 2));
  if (work.warp == 0) ring.prepare();
  load_q(a, shared, work);
  load_factors<S>(a, shared.factor, work.kv_matrix);
  Warp<S> w;
  start(w);
#pragma unroll
  for (int h = 0; h < 2; h++) w.row_factor[h] = ifa_row_factor(q_scale_of(a, work.matrix, row + 8 * h), p.sm_scale);
  if (split_sums<S>(a)) start_sums<S>(split_sums<S>(a));
  wait_for_copies();
  __syncthreads(); /* Q, and the ring's barriers, are there */
  const Lane<S> at(shared_address(shared.q) + work.warp * 16 * D, place0);

  int step = 0;
  for (; __any_sync(~0u, step < from); step++) ring.pass(step, work.warp);
  if (__any_sync(~0u, from < to)) {
    const float tau1 = p.tau == IFA_TAU_INF ? INFINITY : (float)(p.tau + 1);
    const uint32_t one = hidden_one(p);
    int odd = lane & 1; /* this thread tests the unit of its row h = odd */
    asm volatile("" : "+r"(odd));
    float r[2], tile_scale = -1.0f, test_r = 0.0f, test_unit = -INFINITY, test_low = -INFINITY;
    Index index = {};
    uint32_t factor[2] = {0, 0}; /* V per token: as tile_exponent, the units and the test's figures are */
    int tile_exponent = INT32_MIN, test_sum = 0, test_value_unit = 0;
    const uint32_t value_tau = p.tau == IFA_TAU_INF ? 1u << 28 : (uint32_t)p.tau;
    int split_end = step + split_tiles - (tile_first + step) % split_tiles, quiet_end = 0; /* before step quiet_end no mask cuts a tile and no split ends */
    uint32_t q[KEPT][4];
    if (KEPT > 1) {
#pragma unroll
      for (int c = 0; c < KEPT; c++) load_q_fragments<S>(q[c], at, c);
    }

    bool come = false;
    for (bool more = true; more; step++) {
      const uint32_t place = ring.place();
      if (!come) ring.wait();
      float u[S::NT][4];
      uint32_t n[S::NT][2];
      int high[2];
      {
        int s[S::NT][4];
        multiply_scores<S, KEPT>(s, q, at, place);
        stage_scores(a, work.matrix, row, key_of(step), s, SCORE_ZERO);
        score<S>(u, s, high, at.scales + place);
      }
      int most = max(odd ? high[1] : high[0], __shfl_xor_sync(~0u, odd ? high[0] : high[1], 1)); /* of row h = odd: half the exchanges of doing both */
      most = max(most, __shfl_xor_sync(~0u, most, 2));
      weigh_index<S>(n, u, index); /* as if no unit moved */
      const float scale = at.tile_scale(place), x = __fmul_rn(__int_as_float(most), test_r);
      const bool stays = (step < quiet_end) & (most >= 0) & (scale == tile_scale) & (x < test_unit) & (x >= test_low);
      bool whole = true;
      if (__builtin_expect(!__all_sync(~0u, stays), 0)) {
        if (step == split_end) {
          stage_sums(a, work.matrix, row, key_of(step) - 1, w.l[0], w.l[1], w.acc);
          end_split(w, split_sums<S>(a));
          split_end += split_tiles;
        }
        whole = is_whole(step), tile_scale = scale;
        float largest[2], score_in_octaves[2];
        bool moves[2];
#pragma unroll
        for (int h = 0; h < 2; h++) largest[h] = __int_as_float(__shfl_sync(~0u, most, (lane & 28) | h));
        if (__any_sync(~0u, !whole | (most < 0))) {
          largest_live<S>(largest, u, p, key_of(step), row);
#pragma unroll
          for (int h = 0; h < 2; h++) largest[h] = quad_max(largest[h]);
        }
#pragma unroll
        for (int h = 0; h < 2; h++) {
          r[h] = __fmul_rn(w.row_factor[h], tile_scale), score_in_octaves[h] = __fmul_rn(largest[h], r[h]);
          moves[h] = unit_moves(largest[h], score_in_octaves[h], w.unit[h], tau1);
        }
        move_units(w, score_in_octaves, moves, (split_end - step) * TILE);
        index.follow(w, r);
        test_r = odd ? r[1] : r[0];
        test_unit = (odd ? w.unit[1] : w.unit[0]) == IFA_NO_UNIT ? -INFINITY : (float)(odd ? w.unit[1] : w.unit[0]);
        test_low = __fadd_rn(test_unit, -tau1);
        quiet_end = is_whole(step + 1) ? min(whole_to, split_end) : 0;
        tile_exponent = INT32_MIN;
        weigh_index<S>(n, u, index);
        if (!whole) mask_index<S>(n, p, key_of(step), row);
      }
      come = __all_sync(~0u, ring.poll_next()); /* votes where all lanes agree anyway: so the compiler knows */
      more = __any_sync(~0u, step + 1 < to);

      constexpr int EARLY = D <= 64 ? 1 : 2; /* groups of V's fragments that are loaded ahead */
      uint32_t v[S::PV_GROUPS][2 * S::KC][4], pa[S::KC][4], y[S::KC][4][2], highest[2] = {0, 0};
#pragma unroll
      for (int g = 0; g < EARLY; g++) load_v_fragments<S>(v[g], at, place, g);
      if (!S::TOKEN || whole) weigh<S, true>(w, pa, y, highest, n, one, at.v_scales(place));
      else weigh<S, false>(w, pa, y, highest, n, one, at.v_scales(place));
      stage_weights(a, work.matrix, row, key_of(step), pa);
      if (S::TOKEN) {
        const int b = at.exponent(place);
        const uint32_t most = quad_largest(highest);
        weigh_values<S>(pa, y, factor); /* as if U' did not move */
        const uint32_t mine = odd ? most >> 16 : most & 0xffffu;
        const bool stays = (b == tile_exponent) & whole & ((mine == 0) | ((uint32_t)(test_value_unit - (test_sum - ifa_value_shift((uint16_t)mine))) <= value_tau));
        if (__builtin_expect(!__all_sync(~0u, stays), 0)) {
          int exponent[2] = {b, b};
          tile_exponent = b;
          if (!whole) {
            const float *v_scale = a.in.v_scale + work.kv_matrix * p.nk;
#pragma unroll
            for (int h = 0; h < 2; h++) exponent[h] = live_value_exponent(v_scale, max(live_first(p, row + 8 * h), key_of(step)), min(live_end(p, row + 8 * h), key_of(step + 1)));
            scale_live_values<S>(y, exponent, highest, p, v_scale, key_of(step), row);
            tile_exponent = INT32_MIN; /* the next tile looks again */
          }
          follow_values(w, factor, exponent, whole ? most : quad_largest(highest), p, (split_end - step) * TILE);
          weigh_values<S>(pa, y, factor);
          test_sum = (odd ? w.unit[1] : w.unit[0]) + b;
          test_value_unit = odd ? w.value_unit[1] : w.value_unit[0];
          if (test_value_unit == IFA_NO_UNIT) test_value_unit = 1 << 30; /* far from any */
        }
      }
      stage_value_weights(a, work.matrix, row, key_of(step), pa);
      stage_units(a, work.matrix, row, key_of(step), w.unit[0], w.unit[1], w.value_unit[0], w.value_unit[1]);
#pragma unroll
      for (int g = 0; g < S::PV_GROUPS; g++) {
        if (g + EARLY < S::PV_GROUPS) load_v_fragments<S>(v[g + EARLY], at, place, g + EARLY);
        multiply_pv<S>(w, pa, v[g], g);
      }
      ring.release(step, work.warp, zero_after<S>(v[S::PV_GROUPS - 1], p));
    }
  }
  for (; __any_sync(~0u, step < steps); step++) ring.pass(step, work.warp);
  stage_sums(a, work.matrix, row, key_of(to) - 1, w.l[0], w.l[1], w.acc);
  float *const sums = split_sums<S>(a);
  if (sums) end_split(w, sums);
  __syncthreads(); /* nobody reads blocks any more */
  write_rows(a, w, sums, shared_bytes + sizeof(Shared<S>) + work.warp * 64 * D, shared.factor, work.batch, work.head, warp_row0);
}

/* ---- any other tile ---- */

template <class S> __global__ void __launch_bounds__(S::THREADS, 1) attend_any_tile(__grid_constant__ const ifa_gpu_params a) {
  extern __shared__ __align__(128) uint8_t shared_bytes[];
  constexpr int D = S::D, KEYS = S::KEYS;
  Shared<S> &shared = *(Shared<S> *)shared_bytes;
  const ifa_problem &p = a.p;
  const Work work = find_work<S>(p);
  const int64_t row = work.warp_row0 + (threadIdx.x >> 2 & 7), cta_last = work.row0 + S::ROWS - 1 < p.nq ? work.row0 + S::ROWS - 1 : p.nq - 1;
  const int first_key = live_first(p, work.row0) / p.kv_tile * p.kv_tile, steps = max((live_end(p, cta_last) - first_key + KEYS - 1) / KEYS, 0);

  const uint32_t place0 = shared_address(shared_bytes + sizeof(Shared<S>));
  typename S::TileRing ring(place0, shared.barriers, a.packed.blocks + (work.kv_matrix * a.block_count + first_key / KEYS) * (int64_t)S::BLOCK_BYTES, steps, a.stages, 0);
  if (work.warp == 0) ring.prepare();
  load_q(a, shared, work);
  load_factors<S>(a, shared.factor, work.kv_matrix);
  Warp<S> w;
  start(w);
  float r[2];
#pragma unroll
  for (int h = 0; h < 2; h++) w.row_factor[h] = ifa_row_factor(q_scale_of(a, work.matrix, row + 8 * h), p.sm_scale);
  float *const sums = split_sums<S>(a);
  if (sums) start_sums<S>(sums);
  wait_for_copies();
  __syncthreads();
  const Lane<S> at(shared_address(shared.q) + work.warp * 16 * D, place0);
  const float tau1 = p.tau == IFA_TAU_INF ? INFINITY : (float)(p.tau + 1), *const v_scale = a.in.v_scale + work.kv_matrix * p.nk;
  const uint32_t one = hidden_one(p);

  for (int step = 0; __any_sync(~0u, step < steps);) {
    const int tile_key = first_key + step * KEYS, blocks = min(p.kv_tile / KEYS, steps - step), growth_keys = (int)p.kv_split - tile_key % (int)p.kv_split;
    if (tile_key % p.kv_split == 0 && tile_key > first_key) {
      stage_sums(a, work.matrix, row, tile_key - 1, w.l[0], w.l[1], w.acc);
      end_split(w, sums);
    }
    /* u of the tile's block b, which all wait for the first time; largest: of each row, among this thread's keys. */
    typename S::TileRing block = ring;
    auto scores = [&](int b, float(&u)[S::NT][4], float(&largest)[2]) {
      int s[S::NT][4], high[2];
      uint32_t q[1][4];
      multiply_scores<S, 1>(s, q, at, block.place());
      stage_scores(a, work.matrix, row, tile_key + b * KEYS, s, SCORE_ZERO);
      score<S>(u, s, high, at.scales + block.place());
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
    const float tile_scale = at.tile_scale(ring.place());
#pragma unroll
    for (int h = 0; h < 2; h++) {
      largest[h] = quad_max(largest[h]);
      r[h] = __fmul_rn(w.row_factor[h], tile_scale), x[h] = __fmul_rn(largest[h], r[h]);
      moves[h] = unit_moves(largest[h], x[h], w.unit[h], tau1);
    }
    move_units(w, x, moves, growth_keys);
    Index index;
    index.follow(w, r);

    uint32_t n[S::NT][2], pa[S::KC][4], y[S::KC][4][2], highest[2] = {0, 0}, factor[2] = {0, 0};
    int exponent[2] = {0, 0};
    if (S::TOKEN) {
#pragma unroll
      for (int h = 0; h < 2; h++) exponent[h] = live_value_exponent(v_scale, max(live_first(p, row + 8 * h), tile_key), min(live_end(p, row + 8 * h), tile_key + p.kv_tile));
      block = ring;
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
    stage_units(a, work.matrix, row, tile_key, w.unit[0], w.unit[1], w.value_unit[0], w.value_unit[1]);

    block = ring;
    for (int b = 0; __any_sync(~0u, b < blocks); b++, block.advance(), step++) {
      float of_block[2];
      scores(b, u, of_block);
      weigh_index<S>(n, u, index);
      mask_index<S>(n, p, tile_key + b * KEYS, row);
      weigh<S, false>(w, pa, y, highest, n, one, 0);
      stage_weights(a, work.matrix, row, tile_key + b * KEYS, pa);
      if (S::TOKEN) {
        scale_live_values<S>(y, exponent, highest, p, v_scale, tile_key + b * KEYS, row);
        weigh_values<S>(pa, y, factor);
      }
      stage_value_weights(a, work.matrix, row, tile_key + b * KEYS, pa);
      uint32_t v[2 * S::KC][4];
#pragma unroll
      for (int g = 0; g < S::PV_GROUPS; g++) {
        load_v_fragments<S>(v, at, block.place(), g);
        multiply_pv<S>(w, pa, v, g);
      }
      ring.release(step, work.warp, zero_after<S>(v, p));
    }
  }
  stage_sums(a, work.matrix, row, first_key + steps * KEYS - 1, w.l[0], w.l[1], w.acc);
  if (sums) end_split(w, sums);
  __syncthreads();
  write_rows(a, w, sums, shared_bytes + sizeof(Shared<S>) + work.warp * 64 * D, shared.factor, work.batch, work.head, work.warp_row0);
}

}  // namespace sm80

#endif
