/* rows.cuh - what a warpgroup does to a block of keys, in the order of docs/numerics.md: products,
 * indices of weights, units, weights, products. What does not depend on the instructions is in
 * gpu/parts; the map of threads to data (gpu/parts/warp.cuh) is the same: lane 4 g + t has rows g
 * and g + 8 of its warp's 16, h = 0 and 1.
 *
 * The tensor cores run beside all this, so a step asks for products early and waits for them late.
 * Warps differ in what they do to their units, never in their products. */
#ifndef IFA_GPU_SM90_ROWS_CUH
#define IFA_GPU_SM90_ROWS_CUH

#include "gpu/parts/scores.cuh"
#include "gpu/parts/units.cuh"
#include "gpu/parts/values.cuh"
#include "gpu/parts/weights.cuh"
#include "gpu/sm90/shape.cuh"

namespace sm90 {

/* ---- products ---- */

/* S = Q K^T. q, k: `low` of the operands. */
template <class S>
__device__ __forceinline__ void multiply_qk(int (&s)[S::NT][4], uint32_t q, uint32_t k) {
  wgmma_s8_first(s, operand<S::D>(q), operand<S::D>(k));
#pragma unroll
  for (int c = 1; c < S::D / 32; c++)
    wgmma_s8(s, operand<S::D>(q + 2 * c), operand<S::D>(k + 2 * c));
}
/* acc += P V. v: `low` of V. */
template <class S>
__device__ __forceinline__ void multiply_pv(Warp<S> &w, const uint32_t (&p)[S::KC][4], uint32_t v) {
#pragma unroll
  for (int c = 0; c < S::KC; c++) wgmma_u8(w.acc, p[c], operand<S::KEYS>(v + 2 * c));
}

/* ---- sections 4 and 6: indices of weights, as if no unit moved ---- */

/* The scales of a thread's keys in S tiles 2 jj and 2 jj + 1: [tile][key]. */
__device__ __forceinline__ void load_scales(float (&k)[2][2], uint32_t scales, int jj) {
  const float4 four = load_shared4(scales + jj * 64);
  k[0][0] = four.x, k[0][1] = four.y, k[1][0] = four.z, k[1][1] = four.w;
}

/* n[j][h]: of row h, S tile j, two keys; most: the largest of each row among this thread's keys,
 * even ones and odd ones apart. scales: of this thread's keys. */
template <class S>
__device__ __forceinline__ void make_indices(uint32_t (&n)[S::NT][2], uint32_t (&most)[2],
                                             const int (&s)[S::NT][4], const Index &index,
                                             uint32_t scales) {
#pragma unroll
  for (int jj = 0; jj < S::NT / 2; jj++) {
    float k[2][2];
    load_scales(k, scales, jj);
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
      for (int h = 0; h < 2; h++) {
        const int *const x = s[2 * jj + i] + 2 * h;
        n[2 * jj + i][h] =
            weight_h(__fmul_rn(__int2float_rn(x[0]), k[i][0]),
                     __fmul_rn(__int2float_rn(x[1]), k[i][1]), index.factor[h], index.c[h]);
      }
#pragma unroll
    for (int h = 0; h < 2; h++)
      most[h] =
          jj ? max3_u16x2(most[h], n[2 * jj][h], n[2 * jj + 1][h]) : max_u16x2(n[0][h], n[1][h]);
  }
}

/* ---- votes: does every row stay, for sure? ----
 *
 * Of 16-bit values below 0x8000, two at a time: x + (0x8000 - limit) has its sign where x >= limit.
 * Each row sets a bit if one of its threads has a value from its lower limit on; RISES is set by
 * any value from an upper limit on, OTHER by whatever else asks for a closer look. */
constexpr uint32_t ALL_STAY = 0xffffu, RISES = 1u << 16, OTHER = 1u << 17, SIGNS = 0x80008000u;

__device__ __forceinline__ uint32_t row_bits(uint32_t value0, uint32_t value1, uint32_t low0,
                                             uint32_t low1, uint32_t row_bit) {
  return (((value0 + low0) & SIGNS) != 0 ? row_bit : 0) |
         (((value1 + low1) & SIGNS) != 0 ? row_bit << 8 : 0);
}

/* Units stay while no index reaches 30720 (the score may be at the unit, or above) and each row has
 * one from `low` on. A sum that carries into the other half has a value of 30720 or more. */
__device__ __forceinline__ uint32_t unit_vote(const uint32_t (&most)[2], uint32_t low,
                                              uint32_t row_bit, bool other) {
  const uint32_t top = (0x8000u - IFA_WEIGHT_TOP) * 0x10001u;
  const bool rises = (((most[0] + top) | most[0] | (most[1] + top) | most[1]) & SIGNS) != 0;
  return row_bits(most[0], most[1], low, low, row_bit) | (rises ? RISES : 0) | (other ? OTHER : 0);
}

/* From which index on, alone, no unit falls: 1024 (29 - tau) + 1. An index of 0 may lie any number
 * of octaves below. */
__device__ __forceinline__ uint32_t lowest_index(int tau) {
  return tau == IFA_TAU_INF ? 0u : tau >= 29 ? 1u : 1024u * (uint32_t)(29 - tau) + 1u;
}

/* ---- sections 5 and 7: units ---- */

/* The largest of both rows' quads: of row 0 in the low half, of row 1 in the high. */
__device__ __forceinline__ uint32_t quad_most(const uint32_t (&most)[2]) {
  uint32_t high =
      max_u16x2(__byte_perm(most[0], most[1], 0x5410), __byte_perm(most[0], most[1], 0x7632));
  high = max_u16x2(high, __shfl_xor_sync(~0u, high, 1));
  return max_u16x2(high, __shfl_xor_sync(~0u, high, 2));
}

/* 2^k, or the nearest that is a normal number. */
__device__ __forceinline__ float power(int k) {
  return __int_as_float((min(max(k, -126), 127) + 127) << 23);
}

/* Bounds of what acc may be, so that most falls need not look at it for their headroom.
 *
 * V per tensor or channel: each move has rounded l and acc by less than 1 of the present unit, so
 * with `of` (in that unit) for all of them |acc_d| <= 128 (l + of) + of.
 *
 * V per token: P <= 256 * 2^(U + b - U') (p + 1/2) (1 + 2^-10) + 1/2, for W <= (p + 1/2) (1 +
 * 2^-11) and s <= 256. `of` has the halves of p too (in units of 2^U), `of_p` those of P and what
 * acc was rounded by (in units of 2^U'), `exponent` the largest b of a tile; all of keys before
 * `key`. Both begin at 4, so what a rise makes of them, x 2^-k + 2, is not more than they were, and
 * rises need not tell. */
struct Loss {
  float of[2] = {4.0f, 4.0f}, of_p[2] = {4.0f, 4.0f};
  int key, exponent = INT32_MIN;
  __device__ __forceinline__ explicit Loss(int first_key) : key(first_key) {}
  /* V per token: kept in shared memory, for it is seldom needed and registers are short; rows 0 and
   * 8 from `rows` on. */
  __device__ __forceinline__ void load(const float4 *rows) {
    __syncwarp();
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const float4 row = rows[8 * h];
      of[h] = row.x, of_p[h] = row.y;
      key = __float_as_int(row.z), exponent = __float_as_int(row.w);
    }
  }
  __device__ __forceinline__ void store(float4 *rows) const {
    __syncwarp();
#pragma unroll
    for (int h = 0; h < 2; h++)
      if ((threadIdx.x & 3) == 0)
        rows[8 * h] = make_float4(of[h], of_p[h], __int_as_float(key), __int_as_float(exponent));
    __syncwarp();
  }
  /* All keys before this one are in the sums (V per token). */
  __device__ __forceinline__ void count(int before) {
    const float keys = (float)(before - key);
#pragma unroll
    for (int h = 0; h < 2; h++) of[h] += keys, of_p[h] += keys;
    key = before;
  }
  /* acc is at most this: nothing else counts. (V per token.) */
  __device__ __forceinline__ void know(int h, int magnitude) {
    of[h] = 4.0f, of_p[h] = __fmaf_rn((float)magnitude, 1.0f / 128.0f, 4.0f);
  }
  __device__ __forceinline__ void move(int h, int up) {
    of[h] = __fmaf_rn(of[h], power(-up), 4.0f);
  }
  __device__ __forceinline__ void move_p(int h, int up) {
    of_p[h] = __fmaf_rn(of_p[h], power(-up), 4.0f);
  }
  /* |acc_d| is less, whatever these operations have rounded. sum: l. */
  template <class S>
  __device__ __forceinline__ float acc_bound(int h, int sum, int unit, int value_unit) const {
    const float weights = (float)sum + of[h];
    return 130.0f * (S::TOKEN ? __fmaf_rn(weights, power(8 + exponent + unit - value_unit), of_p[h])
                              : weights);
  }
};
/* Is there room for a fall by `down` octaves and all that may come? */
__device__ __forceinline__ bool surely_room(float acc_bound, int growth_keys, int down) {
  return acc_bound * power(down) < 0.999f * (float)(INT32_MAX - IFA_MAX_PRODUCT * growth_keys);
}

/* Which way rows move, as `directions` of gpu/parts, and whether any thread is unsure or has little
 * room: one exchange. */
constexpr uint32_t UNSURE = 1u << 4, TIGHT = 1u << 5;
__device__ __forceinline__ uint32_t directions(const int (&up)[2], bool unsure = false,
                                               bool tight = false) {
  return __reduce_or_sync(~0u, (uint32_t)(up[0] > 0) | (uint32_t)(up[1] > 0) << 1 |
                                   (uint32_t)(up[0] < 0) << 2 | (uint32_t)(up[1] < 0) << 3 |
                                   (unsure ? UNSURE : 0) | (tight ? TIGHT : 0));
}

/* Units that move, from the indices alone: they move by whole octaves, so n moves by multiples of
 * 1024 and g, which depends on n mod 1024, stays. False, and nothing has moved, where that is not
 * sure: at the border of an octave, beyond what an index holds, no unit yet. No product that adds
 * to acc is under way. */

/* Some rows rise, none falls: most often so where anything moves. Up to two octaves: with indices
 * below 2^15 a row's are moved two at a time by one instruction. */
template <class S>
__device__ __forceinline__ bool raise_by_index(Warp<S> &w, Index &index, Loss &loss,
                                               uint32_t (&n)[S::NT][2], const uint32_t (&most)[2]) {
  const uint32_t high2 = quad_most(most);
  const int high[2] = {(int)(high2 & 0xffffu), (int)(high2 >> 16)},
            up[2] = {max((high[0] >> 10) - (IFA_OCTAVES - 1), 0),
                     max((high[1] >> 10) - (IFA_OCTAVES - 1), 0)};
  bool unsure = (high2 & SIGNS) != 0;
#pragma unroll
  for (int h = 0; h < 2; h++)
    unsure |= (up[h] != 0) & (((high[h] & 1023) == 0) | (abs(w.unit[h]) > 4096));
  if (__any_sync(~0u, unsure)) return false;
#pragma unroll
  for (int h = 0; h < 2; h++)
    if (__any_sync(~0u, up[h] != 0)) {
      const int sum = quad_sum(w.l[h]);
      w.l[h] = (threadIdx.x & 3) == 0 ? sum >> up[h] : 0;
      w.unit[h] += up[h];
      if (!S::TOKEN) loss.move(h, up[h]);
      index.c[h] = __fmaf_rn((float)up[h], -0x1p-139f, index.c[h]);
      if (!S::TOKEN) {
#pragma unroll
        for (int i = 0; i < S::D / 8; i++)
#pragma unroll
          for (int j = 2 * h; j < 2 * h + 2; j++) w.acc[i][j] >>= up[h];
      }
      const uint32_t down = (uint32_t)(up[h] * -1024) & 0xffffu, both = down << 16 | down;
#pragma unroll
      for (int j = 0; j < S::NT; j++) n[j][h] = add_relu_s16x2(n[j][h], both);
    }
  return true;
}

/* Is one of this thread's indices of row h 0: clamped, perhaps? */
template <class S> __device__ __forceinline__ bool has_zero(const uint32_t (&n)[S::NT][2], int h) {
  uint32_t least = n[0][h];
#pragma unroll
  for (int j = 1; j < S::NT; j++) least = min_u16x2(least, n[j][h]);
  return ((least & 0xffffu) == 0) | (least >> 16 == 0);
}

/* Any. What was clamped to 0 has no weight in the 20 octaves above either, if V is per tensor or
 * channel; per token W counts, so there nothing may be clamped in a row that falls. */
template <class S>
__device__ __forceinline__ bool move_by_index(Warp<S> &w, Index &index, Loss &loss,
                                              uint32_t (&n)[S::NT][2], const uint32_t (&most)[2],
                                              uint32_t low_index, int growth_keys) {
  const uint32_t high2 = quad_most(most);
  const int sum[2] = {quad_sum(w.l[0]), quad_sum(w.l[1])};
  int up[2];
  bool unsure = false, tight = false;
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const int high = (int)(h ? high2 >> 16 : high2 & 0xffffu);
    const bool moves = high >= IFA_WEIGHT_TOP || high < (int)low_index;
    up[h] = moves ? (high >> 10) - (IFA_OCTAVES - 1) : 0;
    unsure |=
        moves & (((high & 1023) == 0) | (high == 65535) | (up[h] < -20) | (abs(w.unit[h]) > 4096));
    if (S::TOKEN) {
      unsure |= (up[h] < 0) & has_zero<S>(n, h);
      const int room = headroom(sum[h], IFA_WEIGHT_MAX * growth_keys, max(-up[h], 0));
      up[h] = up[h] < 0 ? -room : up[h];
    } else {
      const float bound = loss.acc_bound<S>(h, sum[h], 0, 0);
      tight |= up[h] < 0 && !surely_room(bound, growth_keys, -up[h]);
    }
  }
  const uint32_t ways = directions(up, unsure, tight);
  if (ways & UNSURE) return false;
  if (ways & TIGHT) {
    int magnitude[2];
    largest_acc(magnitude, w);
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const int room =
          headroom(max(magnitude[h], sum[h]), IFA_MAX_PRODUCT * growth_keys, max(-up[h], 0));
      up[h] = up[h] < 0 ? -room : up[h];
    }
  }
  if (!S::TOKEN) shift_acc(w, up, ways);
#pragma unroll
  for (int h = 0; h < 2; h++) {
    if ((ways >> h & 5) == 0) continue; /* none of the warp's rows h moves */
    w.l[h] = (threadIdx.x & 3) == 0 ? sum[h] << octaves_left(up[h]) >> octaves_right(up[h]) : 0;
    w.unit[h] += up[h];
    loss.move(h, up[h]);
    index.c[h] = __fmaf_rn((float)up[h], -0x1p-139f, index.c[h]);
    const uint32_t right = (uint32_t)max(up[h], 0) * 1024u * 0x10001u,
                   left =
                       (uint32_t)max(-up[h], 0) * 1024u * 0x10001u; /* of both halves; one is 0 */
#pragma unroll
    for (int j = 0; j < S::NT; j++) n[j][h] = max_u16x2(n[j][h], right) + (left - right);
  }
  return true;
}

/* What a row is given where the indices alone do not say how it moves: from the scores themselves.
 * `whole`: every row of the warp sees all keys. */
template <class S>
__device__ __forceinline__ void look_closer(Warp<S> &w, Index &index, Loss &loss,
                                            uint32_t (&n)[S::NT][2], const int (&s)[S::NT][4],
                                            uint32_t scales, float tile_scale, const ifa_problem &p,
                                            bool whole, int key, int64_t row, int growth_keys) {
  float u[S::NT][4], largest[2] = {-INFINITY, -INFINITY}, r[2], x[2];
#pragma unroll
  for (int jj = 0; jj < S::NT / 2; jj++) {
    float k[2][2];
    load_scales(k, scales, jj);
#pragma unroll
    for (int i = 0; i < 8; i++) {
      float &at = u[2 * jj + (i >> 2)][i & 3];
      at = __fmul_rn(__int2float_rn(s[2 * jj + (i >> 2)][i & 3]), k[i >> 2][i & 1]);
      largest[i >> 1 & 1] = fmaxf(largest[i >> 1 & 1], at);
    }
  }
  if (!whole) largest_live<S>(largest, u, p, key, row);
  const float tau1 = p.tau == IFA_TAU_INF ? INFINITY : (float)(p.tau + 1);
  bool moves[2];
#pragma unroll
  for (int h = 0; h < 2; h++) {
    largest[h] = quad_max(largest[h]);
    r[h] = score_factor(w.row_factor[h], tile_scale), x[h] = octaves(largest[h], r[h]);
    moves[h] = unit_moves(largest[h], x[h], w.unit[h], tau1);
  }
  const int before[2] = {w.unit[0], w.unit[1]};
  move_units(w, x, moves, growth_keys);
#pragma unroll
  for (int h = 0; h < 2; h++)
    if (before[h] != IFA_NO_UNIT) loss.move(h, w.unit[h] - before[h]);
  index.follow(w, r);
  weigh_index<S>(n, u, index);
  if (!whole) mask_index<S>(n, p, key, row);
}

/* ---- section 6: weights ---- */

/* P's A fragments, and l. g: of S tiles 0 and 1, made already. */
template <class S>
__device__ __forceinline__ void weigh_all(Warp<S> &w, uint32_t (&p)[S::KC][4],
                                          const uint32_t (&n)[S::NT][2], const uint32_t (&g)[2][2],
                                          uint32_t one) {
#pragma unroll
  for (int kk = 0; kk < S::KC; kk++)
#pragma unroll
    for (int x = 0; x < 4; x++) {
      const int h = x & 1, j = kk * 4 + (x >> 1) * 2;
      uint32_t pair[2];
#pragma unroll
      for (int i = 0; i < 2; i++)
        pair[i] = product_byte(n[j + i][h], j + i < 2 ? g[j + i][h] : weight_g(n[j + i][h], one));
      p[kk][x] = __byte_perm(pair[0], pair[1], 0x6420);
      w.l[h] = (int)__dp4a(p[kk][x], 0x01010101u, (uint32_t)w.l[h]);
    }
}

/* ---- section 8: V per token ---- */

/* W takes the place of n; l; p as A fragments (for stages). */
template <class S>
__device__ __forceinline__ void weigh_halves(Warp<S> &w, uint32_t (&p)[S::KC][4],
                                             uint32_t (&n)[S::NT][2], const uint32_t (&g)[2][2],
                                             uint32_t one) {
#pragma unroll
  for (int kk = 0; kk < S::KC; kk++)
#pragma unroll
    for (int x = 0; x < 4; x++) {
      const int h = x & 1, j = kk * 4 + (x >> 1) * 2;
      uint32_t pair[2];
#pragma unroll
      for (int i = 0; i < 2; i++) {
        const uint32_t gi = j + i < 2 ? g[j + i][h] : weight_g(n[j + i][h], one);
        pair[i] = product_byte(n[j + i][h], gi), n[j + i][h] = mul_half2(n[j + i][h], gi);
      }
      p[kk][x] = __byte_perm(pair[0], pair[1], 0x6420);
      w.l[h] = (int)__dp4a(p[kk][x], 0x01010101u, (uint32_t)w.l[h]);
    }
}

/* From W to y, of a tile that all rows see whole; its largest in this thread. v_scales: of this
 * thread's keys. */
template <class S>
__device__ __forceinline__ void scale_values(uint32_t (&y)[S::NT][2], uint32_t (&highest)[2],
                                             uint32_t v_scales) {
#pragma unroll
  for (int kk = 0; kk < S::KC; kk++) {
    const float4 four = load_shared4(v_scales + kk * 64);
    const uint32_t scale[4] = {__float_as_uint(four.x), __float_as_uint(four.y),
                               __float_as_uint(four.z), __float_as_uint(four.w)};
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
      for (int h = 0; h < 2; h++) y[4 * kk + i][h] = mul_half2(y[4 * kk + i][h], scale[i]);
#pragma unroll
    for (int h = 0; h < 2; h++) {
      highest[h] =
          kk ? max3_u16x2(highest[h], y[4 * kk][h], y[4 * kk + 1][h]) : max_u16x2(y[0][h], y[1][h]);
      highest[h] = max3_u16x2(highest[h], y[4 * kk + 2][h], y[4 * kk + 3][h]);
    }
  }
}

/* Of a tile that a mask cuts: with each row's own b. */
template <class S>
__device__ __forceinline__ void scale_seen_values(uint32_t (&y)[S::NT][2], const int (&exponent)[2],
                                                  uint32_t (&highest)[2], const ifa_problem &p,
                                                  const float *v_scale, int first_key,
                                                  int64_t row) {
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const int first = live_first(p, row + 8 * h) - first_key,
              end = live_end(p, row + 8 * h) - first_key;
    const float factor = __int_as_float((127 - exponent[h]) << 23);
    highest[h] = 0;
#pragma unroll
    for (int j = 0; j < S::NT; j++) {
      y[j][h] = mul_half2(y[j][h], live_value_scales(v_scale + first_key, first, min(end, S::KEYS),
                                                     j * 8 + (threadIdx.x & 3) * 2, factor));
      highest[h] = max_u16x2(highest[h], y[j][h]);
    }
  }
}

/* When U' stays: limits of the largest y as patterns of binary16, as the vote wants them, and what
 * takes y to P. */
struct ValueTest {
  uint32_t top[2], low[2], factor[2];
  int exponent; /* b of the tiles that this holds for */

  /* For tiles with this b, of each row. With d = U + b - U': it rises if m < d, falls if m > d +
   * tau (m by section 8). */
  template <class S>
  __device__ __forceinline__ void follow(const Warp<S> &w, const int (&b)[2], int tau) {
    exponent = b[0];
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const bool none = (w.value_unit[h] == IFA_NO_UNIT) | (w.unit[h] == IFA_NO_UNIT);
      const int d = none ? 0 : min(max(w.unit[h] + b[h] - w.value_unit[h], -128), 64),
                most = tau == IFA_TAU_INF ? 15 : d + tau;
      const int rise = none || d > 15 ? 1 : (23 - d) * 1024 - 7,
                fall = none         ? 0x7fff
                       : most >= 15 ? 0
                                    : (22 - most) * 1024 - 7;
      top[h] = (0x8000u - (uint32_t)min(rise, 0x7fff)) * 0x10001u,
      low[h] = (0x8000u - (uint32_t)min(fall, 0x7fff)) * 0x10001u;
      factor[h] = none ? 0u : twice(half_pow2(min(d, 15))); /* where all y are 0: any */
    }
  }
  /* Nothing is known of the next tile; or of its U', for U moves. */
  __device__ __forceinline__ void forget() { exponent = INT32_MIN; }
  __device__ __forceinline__ void ask() { low[0] = low[1] = 0; }
};

__device__ __forceinline__ uint32_t value_vote(const uint32_t (&highest)[2], const ValueTest &test,
                                               uint32_t row_bit, bool other) {
  const bool rises = (((highest[0] + test.top[0]) | (highest[1] + test.top[1])) & SIGNS) != 0;
  return row_bits(highest[0], highest[1], test.low[0], test.low[1], row_bit) | (rises ? RISES : 0) |
         (other ? OTHER : 0);
}

/* U' follows the largest y of a tile that all rows see whole, with the b of the tile before. False,
 * and nothing has moved, if one falls or has none yet. */
template <class S>
__device__ __forceinline__ bool raise_value_units(Warp<S> &w, int b, uint32_t most, int tau) {
  int up[2];
  bool other = false;
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const uint32_t largest = h ? most >> 16 : most & 0xffffu;
    const int up_or_down = w.unit[h] + b - ifa_value_shift((uint16_t)largest) - w.value_unit[h];
    other |= (largest == 0) | (w.value_unit[h] == IFA_NO_UNIT) |
             ((tau != IFA_TAU_INF) & (up_or_down < -tau));
    up[h] = max(up_or_down, 0);
  }
  if (__any_sync(~0u, other)) return false;
#pragma unroll
  for (int h = 0; h < 2; h++) {
    w.value_unit[h] += up[h];
    raise_acc(w, h, up[h]);
  }
  return true;
}

/* Any; b is the tile's, `exponent` that of what a row sees of it. */
template <class S>
__device__ __forceinline__ void move_value_units(Warp<S> &w, float4 *kept_loss,
                                                 const int (&exponent)[2], int b, uint32_t most,
                                                 int tau, int key, int growth_keys) {
  int want[2], up[2];
  bool moves[2];
  Loss loss(key);
  loss.load(kept_loss), loss.count(key);
  loss.exponent = max(loss.exponent, b);
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const uint32_t largest = h ? most >> 16 : most & 0xffffu;
    want[h] = w.unit[h] + exponent[h] - ifa_value_shift((uint16_t)largest);
    const bool none = w.value_unit[h] == IFA_NO_UNIT;
    moves[h] = (largest != 0) & (none | (want[h] > w.value_unit[h]) |
                                 ((tau != IFA_TAU_INF) & (want[h] < w.value_unit[h] - tau)));
    up[h] = moves[h] & !none ? want[h] - w.value_unit[h] : 0;
  }
  const uint32_t ways = directions(up);
  if (ways & 12) {
    bool tight = false;
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const float bound = loss.acc_bound<S>(h, quad_sum(w.l[h]), w.unit[h], w.value_unit[h]);
      tight |= up[h] < 0 && !surely_room(bound, growth_keys, -up[h]);
    }
    if (__any_sync(~0u, tight)) {
      int magnitude[2];
      largest_acc(magnitude, w);
#pragma unroll
      for (int h = 0; h < 2; h++) {
        loss.know(h, magnitude[h]);
        up[h] = up[h] < 0 ? -headroom(magnitude[h], IFA_MAX_PRODUCT * growth_keys, -up[h]) : up[h];
      }
    }
  }
#pragma unroll
  for (int h = 0; h < 2; h++) {
    loss.move_p(h, up[h]);
    w.value_unit[h] =
        moves[h] & (w.value_unit[h] == IFA_NO_UNIT) ? want[h] : w.value_unit[h] + up[h];
  }
  loss.store(kept_loss);
  shift_acc(w, up, ways);
}

/* P. */
template <class S>
__device__ __forceinline__ void weigh_y(uint32_t (&p)[S::KC][4], const uint32_t (&y)[S::NT][2],
                                        const uint32_t (&factor)[2]) {
#pragma unroll
  for (int kk = 0; kk < S::KC; kk++)
#pragma unroll
    for (int x = 0; x < 4; x++) {
      const int h = x & 1, j = kk * 4 + (x >> 1) * 2;
      p[kk][x] = __byte_perm(product_byte(y[j][h], factor[h]), product_byte(y[j + 1][h], factor[h]),
                             0x6420);
    }
}

} // namespace sm90

#endif
