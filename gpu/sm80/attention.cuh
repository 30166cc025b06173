/* attention.cuh - the contract (docs/numerics.md, sections 3 to 11) on mma.sync, the INT8 tensor
 * cores' instruction from sm_80 on: the kernel for kv_tile 64, which is a block. (Other tiles:
 * any_tile.cuh.)
 *
 * There are as many CTAs as the device holds at once. Each takes one item (gpu/params.h: some rows
 * of a head, 16 a warp) after another; its warps share the blocks of keys that come through the
 * ring, and otherwise do not wait for each other: one may write its rows' outputs while another
 * begins with the next item.
 *
 * On these tensor cores a product occupies the warp scheduler while it runs, so nothing is gained
 * by running other instructions beside it: what counts is how many instructions there are, and that
 * no latency lies bare (docs/kernels.md). Hence the order within a step: exchanges and votes are
 * asked early and used late, weights begin before it is known whether the unit moves, fragments of
 * V come while the weights are made. */
#ifndef IFA_GPU_ATTENTION_SM80_CUH
#define IFA_GPU_ATTENTION_SM80_CUH

#include "gpu/parts/output.cuh"
#include "gpu/parts/stages.cuh"
#include "gpu/sm80/cta.cuh"
#include "gpu/sm80/rows.cuh"

namespace sm80 {

/* The warp's rows of an item, and which of the item's tiles (its steps) they see. */
template <class S> struct Rows {
  static constexpr int TILE = S::KEYS;
  const uint32_t matrix, kv_matrix;
  const int warp_row0, row, tile_first, steps; /* row: this lane's, of h = 0 */
  int from, to;                                /* some row of the warp sees steps from .. to-1 */
  int whole_from, whole_to;                    /* all see these whole */

  __device__ __forceinline__ Rows(const ifa_problem &p, const ifa_gpu_item &item, int warp,
                                  int lane)
      : matrix(item.matrix), kv_matrix(item.kv_matrix), warp_row0(item.row0 + warp * 16),
        row(warp_row0 + (lane >> 2)), tile_first(item.first_key / TILE), steps(item.steps) {
    /* (both ends of what a row sees move with the row) */
    const int64_t warp_last = warp_row0 + 15 < p.nq ? warp_row0 + 15 : p.nq - 1;
    const int any_end = warp_row0 < p.nq ? live_end(p, warp_last) : 0,
              all_end = warp_row0 + 16 <= p.nq ? live_end(p, warp_row0) : 0;
    from = min(live_first(p, warp_row0) / TILE - tile_first, steps);
    to = max((any_end + TILE - 1) / TILE - tile_first, from);
    whole_from = (live_first(p, warp_row0 + 15) + TILE - 1) / TILE - tile_first;
    whole_to = all_end / TILE - tile_first;
  }
  __device__ __forceinline__ int key_of(int step) const { return (tile_first + step) * TILE; }
  __device__ __forceinline__ bool is_whole(int step) const {
    return (step >= whole_from) & (step < whole_to);
  }
};

/* V per token: the rows' value units from step to step, and the figures of the test whether they
 * stay. */
template <class S> struct ValueUnits {
  uint32_t factor[2] = {0, 0};
  /* b of the tiles that factor and test are made for; INT32_MIN: of none, look again */
  int tile_exponent = INT32_MIN, test_sum = 0, test_value_unit = 0;
  uint32_t value_tau;
  int odd; /* this thread tests the value unit of its row h = odd */

  /* U rose, and b is the same. (No exponent so far: the tile looks again.) */
  __device__ __forceinline__ void raised(const Warp<S> &w) {
    test_sum = (odd ? w.unit[1] : w.unit[0]) + tile_exponent;
    value_factors(w, factor, tile_exponent);
  }

  /* P from the tile's y; U' follows. growth_keys: R of section 7. */
  __device__ __forceinline__ void weigh(Warp<S> &w, uint32_t (&pa)[S::KC][4],
                                        uint32_t (&y)[S::KC][4][2], uint32_t (&highest)[2], int b,
                                        bool whole, const ifa_gpu_params &a, const Rows<S> &rows,
                                        int step, int growth_keys) {
    const uint32_t most = quad_largest(highest);
    weigh_values<S>(pa, y, factor); /* as if U' did not move */
    const uint32_t mine = odd ? most >> 16 : most & 0xffffu;
    /* octaves that the tile asks less than U' */
    const int below = test_value_unit - (test_sum - ifa_value_shift((uint16_t)mine));
    const bool known = (b == tile_exponent) & whole,
               stays = known & ((mine == 0) | ((uint32_t)below <= value_tau));
    if (__builtin_expect(!__all_sync(~0u, stays), 0)) {
      if (__all_sync(~0u, known & ((mine == 0) | (below <= (int)value_tau)))) {
        raise_values(w, b, most);
        value_factors(w, factor, b);
        weigh_values<S>(pa, y, factor);
      } else {
        look_closely(w, pa, y, highest, most, b, whole, a, rows, step, growth_keys);
      }
      test_value_unit = odd ? w.value_unit[1] : w.value_unit[0];
      if (test_value_unit == IFA_NO_UNIT) test_value_unit = 1 << 30; /* far from any */
    }
  }

  __device__ __forceinline__ void look_closely(Warp<S> &w, uint32_t (&pa)[S::KC][4],
                                               uint32_t (&y)[S::KC][4][2], uint32_t (&highest)[2],
                                               uint32_t most, int b, bool whole,
                                               const ifa_gpu_params &a, const Rows<S> &rows,
                                               int step, int growth_keys) {
    const ifa_problem &p = a.p;
    const int row = rows.row;
    int exponent[2] = {b, b};
    tile_exponent = b;
    if (!whole) {
      const float *v_scale = a.in.v_scale + (int64_t)rows.kv_matrix * p.nk;
#pragma unroll
      for (int h = 0; h < 2; h++)
        exponent[h] =
            live_value_exponent(v_scale, max(live_first(p, row + 8 * h), rows.key_of(step)),
                                min(live_end(p, row + 8 * h), rows.key_of(step + 1)));
      scale_live_values<S>(y, exponent, highest, p, v_scale, rows.key_of(step), row);
      tile_exponent = INT32_MIN; /* the next tile looks again */
    }
    follow_values(w, factor, exponent, whole ? most : quad_largest(highest), p, growth_keys);
    weigh_values<S>(pa, y, factor);
    test_sum = (odd ? w.unit[1] : w.unit[0]) + b;
  }
};

/* The rows' units from step to step, and the figures of the test whether they stay: for scores from
 * low to below unit; of rows without one `low` is infinite. */
template <class S> struct Units {
  const float tau1;
  float tile_scale = -1.0f, r[2] = {0.0f, 0.0f}, unit[2] = {-INFINITY, -INFINITY},
        low[2] = {INFINITY, INFINITY};
  Index index = {};
  /* before step quiet_end no mask cuts a tile and no split ends */
  int split_end, quiet_end = 0;

  /* n of the step's u (which were weighed as if no unit moved). Some rows rise, and that is all:
   * most often so, hence code of its own, without a branch. */
  __device__ __forceinline__ void rise(Warp<S> &w, const int (&most)[2], ValueUnits<S> &values,
                                       uint32_t (&n)[S::NT][2], const float (&u)[S::NT][4]) {
    /* is r; the usual way is 3% slower if r must last until here */
    const float again[2] = {score_factor(w.row_factor[0], tile_scale),
                            score_factor(w.row_factor[1], tile_scale)};
    raise_units(w, most, again);
    index.follow(w, again);
#pragma unroll
    for (int h = 0; h < 2; h++) {
      unit[h] = (float)w.unit[h];
      low[h] = lowest_score(unit[h], tau1);
    }
    if (S::TOKEN) values.raised(w);
    weigh_index<S>(n, u, index);
  }

  /* The same for any tile: the first, one that a mask cuts, of another scale, with rows that fall.
   * Is it whole? */
  __device__ __forceinline__ bool look_closely(Warp<S> &w, const int (&most)[2], float scale,
                                               ValueUnits<S> &values, uint32_t (&n)[S::NT][2],
                                               const float (&u)[S::NT][4], const ifa_problem &p,
                                               const Rows<S> &rows, int step) {
    const bool whole = rows.is_whole(step);
    tile_scale = scale;
    float largest[2], score_in_octaves[2];
    bool moves[2];
#pragma unroll
    for (int h = 0; h < 2; h++) largest[h] = __int_as_float(most[h]);
    if (__any_sync(~0u, !whole | (most[0] == 0) | (most[1] == 0))) {
      largest_live<S>(largest, u, p, rows.key_of(step), rows.row);
#pragma unroll
      for (int h = 0; h < 2; h++) largest[h] = quad_max(largest[h]);
    }
#pragma unroll
    for (int h = 0; h < 2; h++) {
      r[h] = score_factor(w.row_factor[h], tile_scale);
      score_in_octaves[h] = octaves(largest[h], r[h]);
      moves[h] = unit_moves(largest[h], score_in_octaves[h], w.unit[h], tau1);
    }
    move_units(w, score_in_octaves, moves, (split_end - step) * Rows<S>::TILE);
    index.follow(w, r);
#pragma unroll
    for (int h = 0; h < 2; h++) {
      unit[h] = w.unit[h] == IFA_NO_UNIT ? -INFINITY : (float)w.unit[h];
      low[h] = w.unit[h] == IFA_NO_UNIT ? INFINITY : lowest_score(unit[h], tau1);
    }
    quiet_end = rows.is_whole(step + 1) ? min(rows.whole_to, split_end) : 0;
    values.tile_exponent = INT32_MIN;
    weigh_index<S>(n, u, index);
    if (!whole) mask_index<S>(n, p, rows.key_of(step), rows.row);
    return whole;
  }
};

/* Groups of V's fragments that are loaded ahead. */
template <class S> __device__ constexpr int v_groups_ahead() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900 /* where the other code takes more registers */
  return S::D > 64 ? 2 : S::TOKEN ? 0 : 1;
#else
  return S::D > 64 ? 2 : 1;
#endif
}

/* The warp's steps from `from` to `to` of the item; q: Q's fragments. */
template <class S, int KEPT>
__device__ __forceinline__ void attend_tiles(Cta<S> &cta, Warp<S> &w, uint32_t (&q)[KEPT][4],
                                             const Rows<S> &rows, int &step) {
  constexpr int EARLY = v_groups_ahead<S>();
  const ifa_gpu_params &a = cta.a;
  const ifa_problem &p = a.p;
  const int split_tiles = (int)p.kv_split / S::KEYS;
  const uint32_t matrix = rows.matrix;
  const int row = rows.row, from = rows.from, to = rows.to;
  const uint32_t one = hidden_one(p);
  ValueUnits<S> values;
  values.odd = cta.lane & 1;
  asm volatile("" : "+r"(values.odd));
  Units<S> units{p.tau == IFA_TAU_INF ? INFINITY : (float)(p.tau + 1)};
  values.value_tau = p.tau == IFA_TAU_INF ? 1u << 28 : (uint32_t)p.tau;
  units.split_end = step + split_tiles - (rows.tile_first + step) % split_tiles;

  bool come = false;
  for (bool more = true; more; step++) {
    const uint32_t place = cta.ring.place();
    if (!come) cta.ring.wait();
    float u[S::NT][4];
    uint32_t n[S::NT][2];
    int high[2];
    {
      int s[S::NT][4];
      multiply_scores<S, KEPT>(s, q, cta.at, place);
      stage_scores(a, matrix, row, rows.key_of(step), s, IFA_GPU_SCORE_ZERO);
      score<S>(u, s, high, cta.at.scales + place);
    }
    weigh_index<S>(n, u, units.index); /* as if no unit moved */
    const float scale = cta.at.tile_scale(place),
                x[2] = {__fmul_rn(__int_as_float(high[0]), units.r[0]),
                        __fmul_rn(__int_as_float(high[1]), units.r[1])};
    const bool usual = (step < units.quiet_end) & (scale == units.tile_scale) &
                       in_every_quad(x[0] >= units.low[0], x[1] >= units.low[1]),
               stays = usual & (x[0] < units.unit[0]) & (x[1] < units.unit[1]);
    bool whole = true;
    if (__builtin_expect(!__all_sync(~0u, stays), 0)) {
      const int most[2] = {quad_max(high[0]), quad_max(high[1])};
      if (__all_sync(~0u, usual)) {
        units.rise(w, most, values, n, u);
      } else {
        if (S::SPLITS && step == units.split_end) {
          stage_sums(a, matrix, row, rows.key_of(step) - 1, w.l[0], w.l[1], w.acc);
          end_split(w, split_sums<S>(a));
          units.split_end += split_tiles;
        }
        whole = units.look_closely(w, most, scale, values, n, u, p, rows, step);
      }
    }
    /* votes where all lanes agree anyway: so the compiler knows */
    come = __all_sync(~0u, cta.ring.poll_next());
    more = __any_sync(~0u, step + 1 < to);

    uint32_t v[S::PV_GROUPS][2 * S::KC][4], pa[S::KC][4], y[S::KC][4][2], highest[2] = {0, 0};
#pragma unroll
    for (int g = 0; g < EARLY; g++) load_v_fragments<S>(v[g], cta.at, place, g);
    if (!S::TOKEN || whole) weigh<S, true>(w, pa, y, highest, n, one, cta.at.v_scales(place));
    else weigh<S, false>(w, pa, y, highest, n, one, cta.at.v_scales(place));
    stage_weights(a, matrix, row, rows.key_of(step), pa);
    if (S::TOKEN)
      values.weigh(w, pa, y, highest, cta.at.exponent(place), whole, a, rows, step,
                   (units.split_end - step) * S::KEYS);
    stage_value_weights(a, matrix, row, rows.key_of(step), pa);
    stage_units(a, matrix, row, rows.key_of(step), w.unit[0], w.unit[1], w.value_unit[0],
                w.value_unit[1]);
#pragma unroll
    for (int g = 0; g < S::PV_GROUPS; g++) {
      if (g + EARLY < S::PV_GROUPS) load_v_fragments<S>(v[g + EARLY], cta.at, place, g + EARLY);
      multiply_pv<S>(w, pa, v[g], g);
    }
    cta.release(zero_after(v[S::PV_GROUPS - 1], p));
  }
}

/* The warp's rows of the round's item. */
template <class S> __device__ __forceinline__ void attend_rows(Cta<S> &cta, uint32_t round) {
  constexpr int KEPT = S::Q_KEPT ? S::D / 32 : 1; /* fragments of Q in registers */
  const ifa_gpu_params &a = cta.a;
  const ifa_problem &p = a.p;
  if (!S::Q_KEPT) cta.load_q(round, 0);
  Warp<S> w;
  cta.await_q(w);
  start(w);
  float *const sums = begin_sums<S>(a);
  uint32_t q[KEPT][4];
  if (S::Q_KEPT) {
#pragma unroll
    for (int c = 0; c < KEPT; c++) load_q_fragments<S>(q[c], cta.at, c);
    __syncwarp();
    if (__any_sync(~0u, cta.has(round + 1))) cta.load_q(round + 1, zero_after(q, p));
  }

  const Rows<S> rows(p, cta.item(round), cta.warp, cta.lane);
  int step = 0;
  for (; __any_sync(~0u, step < rows.from); step++) cta.pass();
  if (__any_sync(~0u, rows.from < rows.to)) attend_tiles<S, KEPT>(cta, w, q, rows, step);
  for (; __any_sync(~0u, step < rows.steps); step++) cta.pass();
  stage_sums(a, rows.matrix, rows.row, rows.key_of(rows.to) - 1, w.l[0], w.l[1], w.acc);
  if (sums) end_split(w, sums);
  asm volatile("" : "+r"(round)); /* the item is loaded again: it is not worth registers */
  write_rows(a, w, sums, cta.output(), cta.item(round), cta.warp);
}

template <class S>
__global__ void __launch_bounds__(S::THREADS, 1) attend(__grid_constant__ const ifa_gpu_params a) {
  static_assert(S::KEYS == 64, "a block is a tile");
  extern __shared__ __align__(128) uint8_t shared_bytes[];
  Cta<S> cta(a, shared_bytes, a.stages / 2);
  if (S::Q_KEPT) cta.load_q(0, 0);
  for (uint32_t round = 0; __any_sync(~0u, cta.has(round)); round++) attend_rows(cta, round);
}

} // namespace sm80

#endif
