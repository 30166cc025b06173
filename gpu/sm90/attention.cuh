/* attention.cuh - the contract (docs/numerics.md, sections 3 to 11) on wgmma, the tensor cores' instructions of compute capability 9.0.
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
 * The next step may be the first of the next item. Products are the same in all four warps, whatever each of them does to its units in between. */
#ifndef IFA_GPU_SM90_ATTENTION_CUH
#define IFA_GPU_SM90_ATTENTION_CUH

#include "gpu/parts/attention_output.cuh"
#include "gpu/parts/items.cuh"
#include "gpu/parts/stages.cuh"
#include "gpu/sm90/rows.cuh"

namespace sm90 {

/* A CTA's threads all have one. */
template <class S> struct Cta {
  const ifa_gpu_params &a;
  Shared<S> &shared;
  const uint32_t ring; /* shared address of place 0 */
  const int groups;    /* that compute */

  __device__ __forceinline__ Cta(const ifa_gpu_params &params, uint8_t *at)
      : a(params), shared(*(Shared<S> *)at), ring(opaque(shared_address(at) + SHARED_BYTES<S>)), groups(params.rows / GROUP_ROWS) {}

  __device__ __forceinline__ uint32_t full(int place) const { return shared_address(shared.full + place); }
  __device__ __forceinline__ uint32_t empty(int place) const { return shared_address(shared.empty + place); }
  __device__ __forceinline__ bool has(uint32_t round) const { return item_of_round(round) < (uint32_t)a.item_count; }
  __device__ __forceinline__ const ifa_gpu_item &item(uint32_t round) const { return round < ITEMS_AT_HAND ? shared.items[round] : a.packed.items[item_of_round(round)]; }

  /* Barriers and the first items; all threads. */
  __device__ __forceinline__ void prepare() const {
    if (threadIdx.x == 0) {
      for (int i = 0; i < a.stages; i++) barrier_init(full(i), 1), barrier_init(empty(i), 4 * (uint32_t)groups);
      for (int i = 0; i < 2 * groups; i++) barrier_init(shared_address(&shared.q_full[0][0] + i), 32), barrier_init(shared_address(&shared.q_empty[0][0] + i), 4);
      barrier_init(shared_address(&shared.unused), 4 * (uint32_t)groups);
      barrier_fence();
    }
    for (uint32_t i = threadIdx.x; i < ITEMS_AT_HAND * 2; i += (uint32_t)(groups + 1) * GROUP_THREADS)
      if (has(i / 2)) copy16(shared_address(shared.items) + i * 16, (const uint8_t *)(a.packed.items + item_of_round(i / 2)) + i % 2 * 16);
    wait_for_copies();
    __syncthreads();
  }
};

/* ---- the warpgroup that moves data ---- */

/* One thread: the blocks of all items, one after the other. */
template <class S> __device__ __forceinline__ void fetch_blocks(const Cta<S> &cta) {
  int place = 0;
  uint32_t phase = 1; /* of `empty`: over at once in the first round of the ring */
#pragma unroll 1
  for (uint32_t round = 0; cta.has(round); round++) {
    const uint8_t *from = cta.a.packed.blocks + (int64_t)cta.item(round).first_block * S::BLOCK_BYTES;
#pragma unroll 1
    for (int left = cta.item(round).steps; left > 0; left--, from += S::BLOCK_BYTES) {
      barrier_wait_asleep(cta.empty(place), phase);
      copy_bulk(cta.ring + (uint32_t)place * S::BLOCK_BYTES, from, S::COPIED, cta.full(place));
      if (++place == cta.a.stages) place = 0, phase ^= 1;
    }
  }
}

/* One warp: Q of a group's rows of all items, and their scales; zeros beyond nq and head_dim. */
template <class S> __device__ __forceinline__ void load_rows(const Cta<S> &cta, const ifa_gpu_item &item, int group, int buffer) {
  constexpr int D = S::D;
  const ifa_gpu_params &a = cta.a;
  const ifa_problem &p = a.p;
  const int lane = threadIdx.x & 31;
  const int64_t row0 = item.row0 + group * GROUP_ROWS;
  int8_t *const to = cta.shared.q[group][buffer];
#pragma unroll 1
  for (int r = lane; r < GROUP_ROWS; r += 32)
    copy4(shared_address(cta.shared.q_scale[group][buffer] + r), row0 + r < p.nq ? q_scale_at(a, item.matrix, row0 + r) : a.in.q_scale, row0 + r < p.nq);
  const bool vector = p.q_type == IFA_I8 && p.head_dim == D && ((p.q_stride.token | p.q_stride.head | p.q_stride.batch) & 15) == 0 && ((uintptr_t)a.in.q & 15) == 0;
  if (vector) {
    const int chunk = lane % (D / 16);
    const int8_t *const from = (const int8_t *)a.in.q + ifa_offset(p.q_stride, item.batch, item.head, row0) + chunk * 16;
#pragma unroll 4
    for (int r = lane / (D / 16); r < GROUP_ROWS; r += 512 / D) {
      const bool real = row0 + r < p.nq;
      copy16(shared_address(to + r * D + (chunk ^ IFA_GPU_SWIZZLE(D, r)) * 16), real ? from + r * p.q_stride.token : (const int8_t *)a.in.q, real);
    }
  } else { /* any stride and INT4: once for all keys, so it may be slow */
#pragma unroll 1
    for (int i = lane; i < GROUP_ROWS * D; i += 32) {
      const int r = i / D, d = i % D;
      to[r * D + ((d / 16) ^ IFA_GPU_SWIZZLE(D, r)) * 16 + d % 16] =
          row0 + r < p.nq && d < p.head_dim ? (int8_t)ifa_operand_get(p.q_type, a.in.q, ifa_offset(p.q_stride, item.batch, item.head, row0 + r) + d) : 0;
    }
  }
}
template <class S> __device__ __forceinline__ void fetch_rows(const Cta<S> &cta, int group) {
#pragma unroll 1
  for (uint32_t round = 0; __any_sync(~0u, cta.has(round)); round++) {
    const int buffer = (int)(round & 1);
    const uint32_t parity = (round >> 1 & 1) ^ 1;
    while (!__all_sync(~0u, barrier_try(shared_address(&cta.shared.q_empty[group][buffer]), parity) != 0)) {}
    load_rows(cta, cta.item(round), group, buffer);
    wait_for_copies();
    fence_async();
    barrier_arrive(shared_address(&cta.shared.q_full[group][buffer]));
  }
}

/* ---- a group that computes ---- */

/* The steps of an item in which some row of the group sees a key. */
struct Span { int from, to; };
template <class S> __device__ __forceinline__ Span span_of(const ifa_problem &p, const ifa_gpu_item &item, int group) {
  const int row0 = item.row0 + group * GROUP_ROWS, tile_first = item.first_key / S::KEYS;
  if (row0 >= p.nq) return {0, 0};
  const int last = row0 + GROUP_ROWS <= p.nq ? row0 + GROUP_ROWS - 1 : (int)p.nq - 1;
  const int from = min(live_first(p, row0) / S::KEYS - tile_first, item.steps);
  return {from, max((live_end(p, last) + S::KEYS - 1) / S::KEYS - tile_first, from)};
}

template <class S> struct Group {
  const Cta<S> &cta;
  const int number, lane;          /* of the group; of the thread in its warp */
  const int warp;                  /* among all that compute */
  const uint32_t k, scales;        /* K in place 0, as `low` of an operand; this thread's scales there */
  const uint32_t row_bit, one, first_lane;
  int place = 0;                   /* the ring's, of the current step, */
  uint32_t phase = 0;              /* and the parity of its round */
  bool asked = false;              /* the item's first scores are there already */

  __device__ __forceinline__ Group(const Cta<S> &c, int group, int warp_of_group)
      : cta(c), number(group), lane(threadIdx.x & 31), warp(group * 4 + warp_of_group), k(operand_low(c.ring)), scales(opaque(c.ring + S::AT_SCALES + (threadIdx.x & 3) * 16)),
        row_bit(opaque(1u << (lane >> 2))), one(hidden_one(c.a.p)), first_lane(opaque((uint32_t)(lane == 0))) {}

  __device__ __forceinline__ uint32_t bytes() const { return (uint32_t)place * S::BLOCK_BYTES; }
  __device__ __forceinline__ void advance() {
    if (++place == cta.a.stages) place = 0, phase ^= 1;
  }
  __device__ __forceinline__ void release(uint32_t barrier) const {
    if (first_lane) barrier_arrive(barrier);
  }
  /* A block that this group does not use. It must have come: who ran ahead would be counted for the block before. */
  __device__ __forceinline__ void pass() {
    barrier_wait(cta.full(place), phase);
    release(cta.empty(place));
    advance();
  }
  __device__ __forceinline__ uint32_t q_at(uint32_t round) const { return operand_low(shared_address(cta.shared.q[number][round & 1])); }
  __device__ __forceinline__ void await_q(uint32_t round) const { barrier_wait(shared_address(&cta.shared.q_full[number][round & 1]), round >> 1 & 1); }
};

/* The group's rows of the round's item. s: the scores of its first step, if they are `asked` for; left with those of the next item's, likewise. */
template <class S> __device__ __forceinline__ void attend_rows(Group<S> &group, uint32_t round, int (&s)[S::NT][4]) {
  constexpr int TILE = S::KEYS;
  const Cta<S> &cta = group.cta;
  const ifa_gpu_params &a = cta.a;
  const ifa_problem &p = a.p;
  const ifa_gpu_item item = cta.item(round);
  const int warp_row0 = item.row0 + group.warp * 16, row = warp_row0 + (group.lane >> 2), tile_first = item.first_key / TILE;
  const Span span = span_of<S>(p, item, group.number);

  if (!group.asked) group.await_q(round);
  Warp<S> w;
  start(w);
#pragma unroll
  for (int h = 0; h < 2; h++) w.row_factor[h] = ifa_row_factor(cta.shared.q_scale[group.number][round & 1][(group.warp & 3) * 16 + (group.lane >> 2) + 8 * h], p.sm_scale);
  float *const sums = split_sums<S>(a);
  if (sums) start_sums<S>(sums);

  int step = 0;
  const bool crosses = group.asked;
  for (; !crosses && step < span.from; step++) group.pass();
  group.asked = false;
  if (span.from < span.to) {
    if (!crosses) {
      barrier_wait(cta.full(group.place), group.phase);
      wgmma_fence();
      multiply_qk<S>(s, group.q_at(round), group.k + (group.bytes() >> 4));
      wgmma_commit();
      wgmma_wait<0>();
      pin(s);
    }
    /* Steps that all rows of the warp see whole (both ends of what a row sees move with the row). */
    const int whole_from = (live_first(p, warp_row0 + 15) + TILE - 1) / TILE - tile_first, whole_to = (warp_row0 + 16 <= p.nq ? live_end(p, warp_row0) : 0) / TILE - tile_first;
    const int split_tiles = (int)p.kv_split / TILE;
    const uint32_t low_index = lowest_index(p.tau), low = (0x8000u - low_index) * 0x10001u;
    int split_end = step + split_tiles - (tile_first + step) % split_tiles, quiet_end = 0; /* before step quiet_end no mask cuts a tile and no split ends */
    float tile_scale = -1.0f;
    Index index = {{0.0f, 0.0f}, {1.0f, 1.0f}}; /* rows without a unit: every index is the largest */
    ValueTest test = {};
    if (S::TOKEN) test.forget();
    uint32_t p_fragments[S::KC][4];
    uint32_t done = shared_address(&cta.shared.unused); /* the barrier of the block that products under way use */
#pragma unroll
    for (int i = 0; i < S::KC; i++)
#pragma unroll
      for (int j = 0; j < 4; j++) p_fragments[i][j] = 0;

#pragma unroll 1
    for (; step < span.to; step++) {
      const int key = (tile_first + step) * TILE;
      const uint32_t here = group.bytes(), scales = group.scales + here, here_empty = cta.empty(group.place);
      uint32_t n[S::NT][2], most[2], g[2][2];
      stage_scores(a, item.matrix, row, key, s, 0);
      make_indices<S>(n, most, s, index, scales);
      const float scale = load_shared(cta.ring + S::AT_TILE + here);
      const uint32_t seen = __reduce_or_sync(~0u, unit_vote(most, low, group.row_bit, (step >= quiet_end) | (scale != tile_scale)));
#pragma unroll
      for (int j = 0; j < 2; j++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
          g[j][h] = weight_g(n[j][h], group.one);
          pin(g[j][h]);
        }
      wgmma_wait<0>(); /* P V of the step before */
      pin(w.acc), pin(p_fragments);
      group.release(done);
      bool whole = true;
      if (__builtin_expect(seen != ALL_STAY, 0)) {
        if ((seen & OTHER) != 0 || !move_by_index(w, index, n, most, low_index, (split_end - step) * TILE)) {
          if (S::SPLITS && step == split_end) {
            stage_sums(a, item.matrix, row, key - 1, w.l[0], w.l[1], w.acc);
            end_split(w, sums);
            split_end += split_tiles;
          }
          whole = (step >= whole_from) & (step < whole_to), tile_scale = scale;
          look_closer(w, index, n, s, scales, scale, p, whole, key, row, (split_end - step) * TILE);
          quiet_end = (step + 1 >= whole_from) & (step + 1 < whole_to) ? min(whole_to, split_end) : 0;
#pragma unroll
          for (int j = 0; j < 2; j++)
#pragma unroll
            for (int h = 0; h < 2; h++) g[j][h] = weight_g(n[j][h], group.one);
        }
        if (S::TOKEN) {
          if (test.exponent != INT32_MIN) test.template follow<S>(w, test.exponent, p.tau);
        }
      }

      /* The next step's scores: of this item, or the next if this group has its first block next; else a product for nothing, so that none lies behind a branch. */
      uint32_t next_q = group.q_at(round), next_k = here;
      if (step + 1 < span.to) {
        group.advance();
        barrier_wait(cta.full(group.place), group.phase);
        next_k = group.bytes();
      } else if (step + 1 == item.steps && cta.has(round + 1)) {
        const Span next = span_of<S>(p, cta.item(round + 1), group.number);
        if (next.from == 0 && next.to > 0) {
          group.advance();
          group.asked = true;
          group.await_q(round + 1);
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
          for (int h = 0; h < 2; h++) exponent[h] = live_value_exponent(v_scale, max(live_first(p, row + 8 * h), key), min(live_end(p, row + 8 * h), key + TILE));
          scale_seen_values<S>(n, exponent, highest, p, v_scale, key, row);
        }
        const uint32_t values = __reduce_or_sync(~0u, value_vote(highest, test, group.row_bit, !whole | (b != test.exponent)));
        wgmma_wait<0>(); /* the next step's scores: beside products no branch may touch acc */
        pin(s);
        if (__builtin_expect(values != ALL_STAY, 0)) {
          const uint32_t largest = quad_most(highest);
          if ((values & OTHER) == 0 && values == (ALL_STAY | RISES)) {
            raise_values(w, b, largest);
            test.template follow<S>(w, b, p.tau);
          } else {
            follow_values(w, test.factor, exponent, largest, p, (split_end - step) * TILE);
            if (whole) test.template follow<S>(w, b, p.tau);
          }
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
      done = here_empty;
    }
    wgmma_wait<0>();
    pin(w.acc), pin(p_fragments);
    group.release(done);
    if (!group.asked) group.advance();
  }
  if (!group.asked)
    for (; step < item.steps; step++) group.pass();
  stage_sums(a, item.matrix, row, (tile_first + span.to) * TILE - 1, w.l[0], w.l[1], w.acc);
  if (sums) end_split(w, sums);
  write_rows(a, w, sums, S::OUTPUT_OVER_Q ? (uint8_t *)cta.shared.q[group.number][round & 1] + (group.warp & 3) * 16 * S::D : cta.shared.output[group.warp], cta.item(round), group.warp);
  if (group.first_lane) barrier_arrive(shared_address(&cta.shared.q_empty[group.number][round & 1]));
}

template <class S> __global__ void __launch_bounds__(S::THREADS, 1) attend(__grid_constant__ const ifa_gpu_params a) {
  extern __shared__ __align__(128) uint8_t shared_bytes[];
  const Cta<S> cta(a, shared_bytes + (0u - shared_address(shared_bytes)) % 1024u);
  const int warpgroup = (int)__reduce_max_sync(~0u, threadIdx.x >> 7), warp = (int)__reduce_max_sync(~0u, threadIdx.x >> 5 & 3); /* the same in all lanes, and the compiler knows */
  cta.prepare();
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
