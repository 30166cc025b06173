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

/* The group's rows of the round's item: what holds for all its steps, and the sums. */
template <class S> struct Rows {
  Group<S> &group;
  const uint32_t round;
  const ifa_gpu_params &a;
  const GroupItem &item;
  const int warp, row, to;
  const bool is_last; /* item of the CTA */
  float *const sums;  /* of the splits before, or NULL */
  Warp<S> w;

  __device__ __forceinline__ Rows(Group<S> &g, uint32_t number)
      : group(g), round(number), a(g.cta.a), item(g.item(number)), warp(g.warp & 3),
        row(item.row0 + warp * 16 + (g.lane >> 2)), to(item.to), is_last(!g.cta.has(number + 1)),
        sums(split_sums<S>(a)) {
    start(w);
#pragma unroll
    for (int h = 0; h < 2; h++)
      w.row_factor[h] = ifa_row_factor(
          group.cta.shared.q_scale[group.number][round & 1][warp * 16 + (group.lane >> 2) + 8 * h],
          a.p.sm_scale);
    if (sums) start_sums<S>(sums);
  }

  /* The first scores, where the item before has not asked for them. */
  __device__ __forceinline__ void first_scores(int (&s)[S::NT][4]) const {
    barrier_wait(group.cta.full(group.place), group.phase);
    wgmma_fence();
    multiply_qk<S>(s, group.q_at(round), group.k + (group.bytes() >> 4));
    wgmma_commit();
    wgmma_wait<0>();
    pin(s);
  }

  __device__ __forceinline__ void write() {
    const Cta<S> &cta = group.cta;
    uint8_t *const stage = S::OUTPUT_OVER_Q
                               ? (uint8_t *)cta.shared.q[group.number][round & 1] + warp * 16 * S::D
                               : cta.shared.output[group.warp];
    if (!sums && chunks_fit<S>(a)) {
      const float *const factor = cta.shared.factor[group.number][round & 1];
      const int row0 = item.row0 + warp * 16;
      if (a.p.out_type == IFA_F16) write_chunks<S, IFA_F16>(a, w, item, factor, stage, row0);
      else if (a.p.out_type == IFA_BF16) write_chunks<S, IFA_BF16>(a, w, item, factor, stage, row0);
      else write_chunks<S, IFA_F32>(a, w, item, factor, stage, row0);
    } else {
      if (sums) end_split(w, sums);
      const ifa_gpu_item rows = {item.matrix, item.batch, item.head, item.kv_matrix,
                                 item.row0,   0,          0,         0};
      write_rows(a, w, sums, stage, rows, warp);
    }
  }
};

/* The steps in which some row of the group sees a key, one tile each: what changes from one to the
 * next. The registers are the limit here: what lives where is the compiler's choice. */
template <class S> struct Steps {
  static constexpr int TILE = S::KEYS;
  Group<S> &group;
  const Cta<S> &cta;
  const ifa_gpu_params &a;
  const ifa_problem &p;
  const GroupItem &item;
  Warp<S> &w;
  int (&s)[S::NT][4]; /* the scores; from ask_scores on, the next step's */
  float *const sums;
  const uint32_t round;
  const int row, to, whole_from, whole_to, split_tiles;
  const bool is_last; /* item of the CTA */
  int step, split_end;
  int quiet_end = 0; /* before step quiet_end no mask cuts a tile and no split ends */
  const uint32_t low_index, low;
  float tile_scale = 0.0f;
  Index index = {};
  ValueTest test = {};
  uint32_t n[S::NT][2], g[2][2], p_fragments[S::KC][4];
  int key; /* of this step: its first key; its block's offset in the ring, and barrier */
  Loss loss;
  float4 *const kept_loss;
  uint32_t here, here_empty;
  bool whole = true; /* every row of the warp sees all keys of the tile */

  __device__ __forceinline__ Steps(Rows<S> &rows, int (&scores)[S::NT][4], int first)
      : group(rows.group), cta(group.cta), a(cta.a), p(a.p), item(rows.item), w(rows.w), s(scores),
        sums(rows.sums), round(rows.round), row(rows.row), to(rows.to),
        whole_from(item.whole_from[rows.warp]), whole_to(item.whole_to[rows.warp]),
        split_tiles((int)p.kv_split / TILE), is_last(rows.is_last), step(first),
        split_end(item.split_end), low_index(lowest_index(p.tau)),
        low(opaque((0x8000u - low_index) * 0x10001u)), key((item.tile_first + first) * TILE),
        loss(key),
        kept_loss(cta.shared.loss + (S::TOKEN ? group.warp * 16 + (group.lane >> 2) : 0)),
        here(group.bytes()), here_empty(cta.empty(group.place)) {
    if (S::TOKEN) test.forget();
  }

  /* From the scores themselves: where there are masks, a new scale, rows without a unit, or units
   * that do not move in a simple way. */
  __device__ __forceinline__ void closer() {
    tile_scale = load_shared(cta.ring + S::AT_TILE + here),
    whole = (step >= whole_from) & (step < whole_to);
    look_closer(w, index, loss, n, s, group.scales + here, tile_scale, p, whole, key, row,
                (split_end - step) * TILE);
    quiet_end = (step + 1 >= whole_from) & (step + 1 < whole_to) ? min(whole_to, split_end) : 0;
  }
  __device__ __forceinline__ void begin_weights() { /* of two S tiles */
#pragma unroll
    for (int j = 0; j < 2; j++)
#pragma unroll
      for (int h = 0; h < 2; h++) g[j][h] = weight_g(n[j][h], group.one);
  }

  __device__ __forceinline__ void first_weights() {
    stage_scores(a, item.matrix, row, key, s, 0);
    closer();
    begin_weights();
    if (S::TOKEN) loss.store(kept_loss);
  }

  /* The next step's scores: of this item, or the next if this group has its first block next; else
   * a product for nothing, so that none lies behind a branch. */
  __device__ __forceinline__ void ask_scores() {
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
  }

  /* P and l. V per token: W, y, units of values, P; the scores asked for have come then. */
  __device__ __forceinline__ void weigh() {
    if (!S::TOKEN) {
      weigh_all(w, p_fragments, n, g, group.one);
      stage_weights(a, item.matrix, row, key, p_fragments);
    } else {
      uint32_t highest[2];
      weigh_halves(w, p_fragments, n, g, group.one);
      stage_weights(a, item.matrix, row, key, p_fragments);
      weigh_values(highest);
    }
  }
  __device__ __forceinline__ void weigh_values(uint32_t (&highest)[2]) {
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
        move_value_units(w, kept_loss, exponent, b, largest, p.tau, key, (split_end - step) * TILE);
      test.template follow<S>(w, exponent, p.tau);
    }
    weigh_y<S>(p_fragments, n, test.factor);
    if (!whole) test.forget();
  }

  /* acc += P V; the next step's scores have come. */
  __device__ __forceinline__ void ask_sums() {
    stage_value_weights(a, item.matrix, row, key, p_fragments);
    stage_units(a, item.matrix, row, key, w.unit[0], w.unit[1], w.value_unit[0], w.value_unit[1]);
    pin(w.acc), pin(p_fragments);
    wgmma_fence();
    multiply_pv<S>(w, p_fragments, group.k + ((S::AT_V + here) >> 4));
    wgmma_commit();
    if (!S::TOKEN) wgmma_wait<1>();
    pin(s);
  }

  /* Indices as if no unit moved, the vote, and what it asks for. */
  __device__ __forceinline__ void begin_step() {
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
    if (__builtin_expect(seen != ALL_STAY, 0)) move(seen, most);
  }
  __device__ __forceinline__ void move(uint32_t seen, const uint32_t (&most)[2]) {
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

  __device__ __forceinline__ void run() {
    first_weights();
#pragma unroll 1
    while (true) {
      ask_scores();
      weigh();
      ask_sums();
      if (++step == to) break;
      begin_step();
    }
    wgmma_wait<0>();
    pin(w.acc), pin(p_fragments);
    __syncwarp(); /* all lanes have read the block's scales, also where the item has one step */
    group.release(here_empty);
    if (!group.asked) group.advance();
  }
};

/* s: the scores of the item's first step, if they are `asked` for; left with those of the next
 * item's, likewise. */
template <class S>
__device__ __forceinline__ void attend_rows(Group<S> &group, uint32_t round, int (&s)[S::NT][4]) {
  const bool crosses = group.asked;
  if (!crosses) group.await_q(round);
  group.asked = false;
  Rows<S> rows(group, round);
  const GroupItem &item = rows.item;
  int step = 0;
  for (; !crosses && step < item.from; step++) group.pass();
  if (step < rows.to) {
    if (!crosses) rows.first_scores(s);
    Steps<S> steps(rows, s, step);
    steps.run();
    step = steps.step;
  }
  if (!group.asked)
    for (; step < item.steps; step++) group.pass();
  stage_sums(rows.a, item.matrix, rows.row, (item.tile_first + rows.to) * S::KEYS - 1, rows.w.l[0],
             rows.w.l[1], rows.w.acc);
  rows.write();
  __syncwarp();
  if (group.first_lane) barrier_arrive(group.cta.q_empty(group.number, round));
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
