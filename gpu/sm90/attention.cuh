/* attention.cuh - the contract (docs/numerics.md, sections 3 to 11) on wgmma, the tensor cores'
 * instructions of compute capability 9.0.
 *
 * A step of a group, one tile of keys (docs/kernels.md has a picture):
 *
 *     indices of weights from S                               | P V of the step before is under way
 *     one vote: no unit moves, no mask, no split ends; else   |
 *         move by whole octaves, or look closer               |
 *     Q K^T of the next step is asked for, in the place of S  |
 *     weights (V per token: y, a second vote, P)              | it is under way
 *     P V is asked for; Q K^T is waited for
 *
 * The next step may be the first of the next item. Products are the same in all four warps,
 * whatever each of them does to its units in between. */
#ifndef IFA_GPU_SM90_ATTENTION_CUH
#define IFA_GPU_SM90_ATTENTION_CUH

#include "gpu/parts/stages.cuh"
#include "gpu/sm90/fetch.cuh"
#include "gpu/sm90/output.cuh"
#include "gpu/sm90/rows.cuh"

namespace sm90 {

/* ---- a group that computes ---- */

template <class S> struct Group {
  const Cta<S> &cta;
  const int number, lane;   /* of the group; of the thread in its warp */
  const int warp;           /* among all that compute */
  const uint32_t k, scales; /* K in place 0, as `low` of an operand; this thread's scales there */
  const uint32_t row_bit, one, first_lane;
  int place = 0;      /* the ring's, of the current step, */
  uint32_t phase = 0; /* and the parity of its round */
  bool asked = false; /* the item's first scores are there already */

  __device__ __forceinline__ Group(const Cta<S> &c, int group, int warp_of_group)
      : cta(c), number(group), lane(threadIdx.x & 31), warp(group * 4 + warp_of_group),
        k(operand_low(c.ring)), scales(opaque(c.ring + S::AT_SCALES + (threadIdx.x & 3) * 16)),
        row_bit(opaque(1u << (lane >> 2))), one(hidden_one(c.a.p)),
        first_lane(opaque((uint32_t)(lane == 0))) {}

  __device__ __forceinline__ uint32_t bytes() const { return (uint32_t)place * S::BLOCK_BYTES; }
  __device__ __forceinline__ void advance() {
    if (++place == cta.a.stages) place = 0, phase ^= 1;
  }
  __device__ __forceinline__ void release(uint32_t barrier) const {
    if (first_lane) barrier_arrive(barrier);
  }
  /* A block that this group does not use. It must have come: who ran ahead would be counted for the
   * block before. */
  __device__ __forceinline__ void pass() {
    barrier_wait(cta.full(place), phase);
    release(cta.empty(place));
    advance();
  }
  __device__ __forceinline__ uint32_t q_at(uint32_t round) const {
    return operand_low(shared_address(cta.shared.q[number][round & 1]));
  }
  __device__ __forceinline__ void await_q(uint32_t round) const {
    barrier_wait(cta.q_full(number, round), round >> 1 & 1);
  }
  __device__ __forceinline__ const GroupItem &item(uint32_t round) const {
    return cta.shared.item[number][round & 1];
  }
};

/* The group's rows of the round's item. s: the scores of its first step, if they are `asked` for;
 * left with those of the next item's, likewise. */
template <class S>
__device__ __forceinline__ void attend_rows(Group<S> &group, uint32_t round, int (&s)[S::NT][4]) {
  constexpr int TILE = S::KEYS;
  const Cta<S> &cta = group.cta;
  const ifa_gpu_params &a = cta.a;
  const ifa_problem &p = a.p;
  const bool crosses = group.asked;
  if (!crosses) group.await_q(round);
  group.asked = false;
  const GroupItem &item = group.item(round);
  const int warp = group.warp & 3, row = item.row0 + warp * 16 + (group.lane >> 2),
            tile_first = item.tile_first, to = item.to;
  const bool is_last = !cta.has(round + 1);

  Warp<S> w;
  start(w);
#pragma unroll
  for (int h = 0; h < 2; h++)
    w.row_factor[h] = ifa_row_factor(
        cta.shared.q_scale[group.number][round & 1][warp * 16 + (group.lane >> 2) + 8 * h],
        p.sm_scale);
  float *const sums = split_sums<S>(a);
  if (sums) start_sums<S>(sums);

  int step = 0;
  for (; !crosses && step < item.from; step++) group.pass();
  if (step < to) {
    if (!crosses) {
      barrier_wait(cta.full(group.place), group.phase);
      wgmma_fence();
      multiply_qk<S>(s, group.q_at(round), group.k + (group.bytes() >> 4));
      wgmma_commit();
      wgmma_wait<0>();
      pin(s);
    }
    const int whole_from = item.whole_from[warp], whole_to = item.whole_to[warp],
              split_tiles = (int)p.kv_split / TILE;
    int split_end = item.split_end,
        quiet_end = 0; /* before step quiet_end no mask cuts a tile and no split ends */
    const uint32_t low_index = lowest_index(p.tau), low = opaque((0x8000u - low_index) * 0x10001u);
    float tile_scale = 0.0f;
    Index index = {};
    ValueTest test = {};
    if (S::TOKEN) test.forget();
    uint32_t n[S::NT][2], g[2][2], p_fragments[S::KC][4];
    int key = (tile_first + step) *
              TILE; /* of this step: its first key; its block's offset in the ring, and barrier */
    Loss loss(key);
    float4 *const kept_loss =
        cta.shared.loss + (S::TOKEN ? group.warp * 16 + (group.lane >> 2) : 0);
    uint32_t here = group.bytes(), here_empty = cta.empty(group.place);
    bool whole = true;

    /* From the scores themselves: where there are masks, a new scale, rows without a unit, or units
     * that do not move in a simple way. */
    auto closer = [&]() {
      tile_scale = load_shared(cta.ring + S::AT_TILE + here),
      whole = (step >= whole_from) & (step < whole_to);
      look_closer(w, index, loss, n, s, group.scales + here, tile_scale, p, whole, key, row,
                  (split_end - step) * TILE);
      quiet_end = (step + 1 >= whole_from) & (step + 1 < whole_to) ? min(whole_to, split_end) : 0;
    };
    auto begin_weights = [&]() { /* of two S tiles */
#pragma unroll
                                 for (int j = 0; j < 2; j++)
#pragma unroll
                                   for (int h = 0; h < 2; h++)
                                     g[j][h] = weight_g(n[j][h], group.one);
    };
    stage_scores(a, item.matrix, row, key, s, 0);
    closer();
    begin_weights();
    if (S::TOKEN) loss.store(kept_loss);

#pragma unroll 1
    while (true) {
      /* The next step's scores: of this item, or the next if this group has its first block next;
       * else a product for nothing, so that none lies behind a branch. */
      uint32_t next_q = group.q_at(round), next_k = here;
      if (step + 1 < to) {
        group.advance();
        barrier_wait(cta.full(group.place), group.phase);
        next_k = group.bytes();
      } else if (step + 1 == item.steps && !is_last) {
        group.await_q(round + 1);
        const GroupItem &next = group.item(round + 1);
        if (next.from == 0 && next.to > 0) {
          group.advance();
          group.asked = true;
          barrier_wait(cta.full(group.place), group.phase);
          next_k = group.bytes(), next_q = group.q_at(round + 1);
        }
      }
      wgmma_fence();
      multiply_qk<S>(s, next_q, group.k + (next_k >> 4));
      wgmma_commit();

      if (!S::TOKEN) {
        weigh_all(w, p_fragments, n, g, group.one);
        stage_weights(a, item.matrix, row, key, p_fragments);
      } else {
        uint32_t highest[2];
        weigh_halves(w, p_fragments, n, g, group.one);
        stage_weights(a, item.matrix, row, key, p_fragments);
        if (whole) {
          scale_values<S>(n, highest, cta.ring + S::AT_V_SCALE16 + here + (threadIdx.x & 3) * 16);
        }
        const int b = __float_as_int(load_shared(cta.ring + S::AT_TILE + here + 4));
        int exponent[2] = {b, b};
        if (!whole) {
          const float *v_scale = a.in.v_scale + (int64_t)item.kv_matrix * p.nk;
#pragma unroll
          for (int h = 0; h < 2; h++)
            exponent[h] = live_value_exponent(v_scale, max(live_first(p, row + 8 * h), key),
                                              min(live_end(p, row + 8 * h), key + TILE));
          scale_seen_values<S>(n, exponent, highest, p, v_scale, key, row);
        }
        const uint32_t values = __reduce_or_sync(
            ~0u, value_vote(highest, test, group.row_bit, !whole | (b != test.exponent)));
        wgmma_wait<0>(); /* the next step's scores: beside products no branch may touch acc */
        pin(s);
        if (__builtin_expect(values != ALL_STAY, 0)) {
          const uint32_t largest = quad_most(highest);
          if ((values & OTHER) != 0 || !raise_value_units(w, b, largest, p.tau))
            move_value_units(w, kept_loss, exponent, b, largest, p.tau, key,
                             (split_end - step) * TILE);
          test.template follow<S>(w, exponent, p.tau);
        }
        weigh_y<S>(p_fragments, n, test.factor);
        if (!whole) test.forget();
      }
      stage_value_weights(a, item.matrix, row, key, p_fragments);
      stage_units(a, item.matrix, row, key, w.unit[0], w.unit[1], w.value_unit[0], w.value_unit[1]);
      pin(w.acc), pin(p_fragments);
      wgmma_fence();
      multiply_pv<S>(w, p_fragments, group.k + ((S::AT_V + here) >> 4));
      wgmma_commit();
      if (!S::TOKEN) wgmma_wait<1>();
      pin(s);
      if (++step == to) break;

      const uint32_t done = here_empty;
      key += TILE, here = group.bytes(), here_empty = cta.empty(group.place), whole = true;
      stage_scores(a, item.matrix, row, key, s, 0);
      uint32_t most[2];
      make_indices<S>(n, most, s, index, group.scales + here);
      const float scale = load_shared(cta.ring + S::AT_TILE + here);
      const uint32_t seen = __reduce_or_sync(
          ~0u, unit_vote(most, low, group.row_bit, (step >= quiet_end) | (scale != tile_scale)));
      begin_weights();
      pin(g[0]), pin(g[1]);
      wgmma_wait<0>(); /* P V of the step before */
      pin(w.acc), pin(p_fragments);
      group.release(done);
      if (__builtin_expect(seen != ALL_STAY, 0)) {
        if (!(seen == (ALL_STAY | RISES) && raise_by_index(w, index, loss, n, most))) {
          if (S::TOKEN) loss.load(kept_loss), loss.count(key);
          if ((seen & OTHER) != 0 ||
              !move_by_index(w, index, loss, n, most, low_index, (split_end - step) * TILE)) {
            if (S::SPLITS && step == split_end) {
              stage_sums(a, item.matrix, row, key - 1, w.l[0], w.l[1], w.acc);
              end_split(w, sums);
              loss = Loss(key);
              test.forget();
              split_end += split_tiles;
            }
            closer();
            begin_weights();
          }
          if (S::TOKEN) loss.store(kept_loss);
        }
        if (S::TOKEN) test.ask();
      }
    }
    wgmma_wait<0>();
    pin(w.acc), pin(p_fragments);
    group.release(here_empty);
    if (!group.asked) group.advance();
  }
  if (!group.asked)
    for (; step < item.steps; step++) group.pass();
  stage_sums(a, item.matrix, row, (tile_first + to) * TILE - 1, w.l[0], w.l[1], w.acc);
  uint8_t *const stage = S::OUTPUT_OVER_Q
                             ? (uint8_t *)cta.shared.q[group.number][round & 1] + warp * 16 * S::D
                             : cta.shared.output[group.warp];
  if (!sums && chunks_fit<S>(a)) {
    const float *const factor = cta.shared.factor[group.number][round & 1];
    const int row0 = item.row0 + warp * 16;
    if (p.out_type == IFA_F16) write_chunks<S, IFA_F16>(a, w, item, factor, stage, row0);
    else if (p.out_type == IFA_BF16) write_chunks<S, IFA_BF16>(a, w, item, factor, stage, row0);
    else write_chunks<S, IFA_F32>(a, w, item, factor, stage, row0);
  } else {
    if (sums) end_split(w, sums);
    const ifa_gpu_item rows = {item.matrix, item.batch, item.head, item.kv_matrix,
                               item.row0,   0,          0,         0};
    write_rows(a, w, sums, stage, rows, warp);
  }
  __syncwarp();
  if (group.first_lane) barrier_arrive(cta.q_empty(group.number, round));
}

template <class S>
__global__ void __launch_bounds__(S::THREADS, 1) attend(__grid_constant__ const ifa_gpu_params a) {
  extern __shared__ __align__(128) uint8_t shared_bytes[];
  const Cta<S> cta(a, shared_bytes + (0u - shared_address(shared_bytes)) % 1024u);
  const int warpgroup = (int)__reduce_max_sync(~0u, threadIdx.x >> 7),
            warp = (int)__reduce_max_sync(
                ~0u, threadIdx.x >> 5 & 3); /* the same in all lanes, and the compiler knows */
  if (threadIdx.x == 0) cta.prepare();
  __syncthreads();
  if (warpgroup == 0) {
    fewer_registers<S::FEW_REGISTERS>();
    if (threadIdx.x == 0) fetch_blocks(cta);
    else if (warp > 0 && warp <= cta.groups) fetch_rows(cta, warp - 1);
  } else {
    more_registers<S::REGISTERS>();
    Group<S> group(cta, warpgroup - 1, warp);
    int s[S::NT][4];
#pragma unroll 1
    for (uint32_t round = 0; __any_sync(~0u, cta.has(round)); round++) attend_rows(group, round, s);
  }
}

} // namespace sm90

#endif
