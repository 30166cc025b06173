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

/* How far a row's sums may have been rounded, in its present units: at most this much each has been
 * lost of l and added to acc's magnitude, so |acc_d| <= 128 (l + loss) + loss, and most falls need
 * not look at acc for their headroom. Raising by k octaves loses less than 1 of each. */
struct Loss {
  int of[2];
  __device__ __forceinline__ void raise(int h, int up) { of[h] = (of[h] >> min(up, 31)) + 2; }
  __device__ __forceinline__ void lower(int h, int down) {
    of[h] = of[h] > INT32_MAX >> min(down, 31) ? INT32_MAX : of[h] << min(down, 31);
  }
  __device__ __forceinline__ void move(int h, int up) {
    if (up > 0) raise(h, up);
    else if (up < 0) lower(h, -up);
  }
};

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
      if (!S::TOKEN && up[h] > 0) loss.raise(h, up[h]);
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

/* Any; V per tensor or channel: what was clamped to 0 has no weight in the 20 octaves above either.
 */
template <class S>
__device__ __forceinline__ bool move_by_index(Warp<S> &w, Index &index, Loss &loss,
                                              uint32_t (&n)[S::NT][2], const uint32_t (&most)[2],
                                              uint32_t low_index, int growth_keys) {
  const uint32_t high2 = quad_most(most);
  int up[2], sum[2];
  bool unsure = S::TOKEN, tight = false;
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const int high = (int)(h ? high2 >> 16 : high2 & 0xffffu);
    const bool moves = high >= IFA_WEIGHT_TOP || high < (int)low_index;
    up[h] = moves ? (high >> 10) - (IFA_OCTAVES - 1) : 0;
    unsure |=
        moves & (((high & 1023) == 0) | (high == 65535) | (up[h] < -20) | (abs(w.unit[h]) > 4096));
    sum[h] = quad_sum(w.l[h]);
    const bool large =
        sum[h] > 1 << 23 || loss.of[h] > 1 << 23; /* else the product is below 2^32 */
    const uint32_t magnitude = 129u * (uint32_t)(sum[h] + loss.of[h]);
    tight |= up[h] < 0 &&
             (large ||
              magnitude > (uint32_t)(INT32_MAX - IFA_MAX_PRODUCT * growth_keys) >> min(-up[h], 31));
  }
  if (__any_sync(~0u, unsure)) return false;
  if (__any_sync(~0u, tight)) {
    int magnitude[2];
    largest_acc(magnitude, w);
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const int room =
          headroom(max(magnitude[h], sum[h]), IFA_MAX_PRODUCT * growth_keys, max(-up[h], 0));
      up[h] = up[h] < 0 ? -room : up[h];
    }
  }
  const uint32_t ways = directions(up);
  shift_acc(w, up, ways);
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
  if (!S::TOKEN) {
#pragma unroll
    for (int h = 0; h < 2; h++)
      if (before[h] != IFA_NO_UNIT) loss.move(h, w.unit[h] - before[h]);
  }
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

  /* For tiles with this b. With d = U + b - U': it rises if m < d, falls if m > d + tau (m by
   * section 8). */
  template <class S> __device__ __forceinline__ void follow(const Warp<S> &w, int b, int tau) {
    exponent = b;
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const bool none = (w.value_unit[h] == IFA_NO_UNIT) | (w.unit[h] == IFA_NO_UNIT);
      const int d = none ? 0 : min(max(w.unit[h] + b - w.value_unit[h], -128), 64),
                most = tau == IFA_TAU_INF ? 15 : d + tau;
      const int rise = none || d > 15 ? 1 : (23 - d) * 1024 - 7,
                fall = none         ? 0x7fff
                       : most >= 15 ? 0
                                    : (22 - most) * 1024 - 7;
      top[h] = (0x8000u - (uint32_t)min(rise, 0x7fff)) * 0x10001u,
      low[h] = (0x8000u - (uint32_t)min(fall, 0x7fff)) * 0x10001u;
    }
    value_factors(w, factor, b);
  }
  __device__ __forceinline__ void forget() { exponent = INT32_MIN; }
};

__device__ __forceinline__ uint32_t value_vote(const uint32_t (&highest)[2], const ValueTest &test,
                                               uint32_t row_bit, bool other) {
  const bool rises = (((highest[0] + test.top[0]) | (highest[1] + test.top[1])) & SIGNS) != 0;
  return row_bits(highest[0], highest[1], test.low[0], test.low[1], row_bit) | (rises ? RISES : 0) |
         (other ? OTHER : 0);
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
