/* attention_parts.cuh - what a warp does to a block of keys, in the order of docs/numerics.md:
 * products of Q and K, scores, masks, units, weights, products of P and V.
 *
 * A warp has 16 query rows; a block is 32 or 64 keys of one key/value head, in shared memory as
 * gpu/params.h lays it out.
 *
 * Thread-to-data map of an accumulator tile (16 rows x 8 columns): lane = 4 g + t holds rows g and
 * g + 8, columns 2t and 2t + 1. So a thread has two rows, numbered h = 0, 1, each shared by the
 * four threads of a quad. An A operand wants 4 consecutive bytes of k per thread, so V's keys are
 * permuted when they are packed: slot p of a group of 32 holds key
 *     16 (p >> 4) + 8 ((p & 3) >> 1) + 2 ((p & 15) >> 2) + (p & 1),
 * which makes the packed weights of S tiles 4i .. 4i+3 the A fragment of that group without any
 * exchange. Integer sums allow it. */
#ifndef IFA_GPU_ATTENTION_PARTS_CUH
#define IFA_GPU_ATTENTION_PARTS_CUH

#include <cuda_fp16.h>
#include <stddef.h>

#include "common/contract.h"
#include "common/operand.h"
#include "gpu/parts/masks.cuh"
#include "gpu/params.h"
#include "gpu/sm80/ring.cuh"

namespace sm80 {

/* What a kernel is compiled for. DIM: head_dim, padded; BLOCK: keys of a block, 32 or 64;
 * PER_TOKEN: V has a scale per token (section 8); SEVERAL: there may be several splits (without
 * their code the kernel is a quarter smaller, and 4% faster on short sequences). */
template <int DIM, int BLOCK, bool PER_TOKEN, bool SEVERAL> struct Shape {
  static constexpr int D = DIM, KEYS = BLOCK;
  static constexpr bool TOKEN = PER_TOKEN, SPLITS = SEVERAL;
  /* a CTA: multiples of 4, one for each scheduler */
  static constexpr int WARPS = KEYS == 32 ? 4 : D <= 64 ? 12 : 8;
  static constexpr int THREADS = 32 * WARPS, ROWS = 16 * WARPS;
  static constexpr int NT = KEYS / 8, KC = KEYS / 32; /* n8 tiles of S; k32 chunks of P */
  /* QK^T in groups of 32 channels by 32 keys */
  static constexpr int QK_GROUPS = D / 32 * KC;
  static constexpr int PV_GROUPS = D / 32;               /* PV in groups of 32 channels */
  static constexpr int SUMS = D / 2;                     /* accumulators a thread */
  static constexpr bool Q_KEPT = KEYS == 64 && D <= 128; /* Q's fragments stay in registers */
  /* of them a warp writes its rows at a time, */
  static constexpr int OUTPUT_CHANNELS = Q_KEPT && D % 64 == 0 ? 64 : 32;
  /* through the memory of its Q, if that is large enough and not needed any more */
  static constexpr bool OUTPUT_OVER_Q = !Q_KEPT && D >= 128;
  static constexpr uint32_t BLOCK_BYTES = IFA_GPU_BLOCK_BYTES(D, KEYS),
                            COPIED = TOKEN ? BLOCK_BYTES : IFA_GPU_AT_V_SCALE16(D, KEYS);
  using TileRing = Ring<BLOCK_BYTES, COPIED, WARPS>;
};

enum { ITEMS_KEPT = 32 }; /* the first of a CTA's items are in shared memory */

/* A CTA's shared memory; the ring's blocks follow. Each warp has its own part of all that is here
 * but the barriers. */
template <class S> struct Shared {
  int8_t q[S::WARPS][16 * S::D]; /* swizzled as K; if its fragments are kept: the next rows' Q */
  uint8_t output[S::OUTPUT_OVER_Q ? 1 : S::WARPS]
                [S::OUTPUT_OVER_Q ? 16 : 16 * S::OUTPUT_CHANNELS * 4];
  ifa_gpu_item items[ITEMS_KEPT];
  float q_scale[S::WARPS][16]; /* of the rows in q */
  RingBarriers barriers;
};

/* ---- a warp's state ---- */

template <class S> struct Warp {
  int acc[S::D / 8][4];
  int l[2];          /* this thread's part of the row's sum; the quad's four parts add up to l */
  int unit[2];       /* U */
  int value_unit[2]; /* V per token: U' */
  float row_factor[2];
};

template <class S> __device__ __forceinline__ void start(Warp<S> &w) {
#pragma unroll
  for (int h = 0; h < 2; h++) w.l[h] = 0, w.unit[h] = w.value_unit[h] = IFA_NO_UNIT;
#pragma unroll
  for (int i = 0; i < S::D / 8; i++)
#pragma unroll
    for (int j = 0; j < 4; j++) w.acc[i][j] = 0;
}

__device__ __forceinline__ int quad_sum(int x) {
  x += __shfl_xor_sync(~0u, x, 1);
  return x + __shfl_xor_sync(~0u, x, 2);
}
__device__ __forceinline__ int quad_max(int x) {
  x = max(x, __shfl_xor_sync(~0u, x, 1));
  return max(x, __shfl_xor_sync(~0u, x, 2));
}
__device__ __forceinline__ float quad_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
  return fmaxf(x, __shfl_xor_sync(~0u, x, 2));
}

/* Is there in every quad a thread that says yes, for either row? Votes take less time than
 * exchanges. */
__device__ __forceinline__ bool in_every_quad(bool yes0, bool yes1) {
  uint32_t row0 = __ballot_sync(~0u, yes0), row1 = __ballot_sync(~0u, yes1);
  row0 |= row0 >> 1, row1 |= row1 >> 1;
  row0 |= row0 >> 2, row1 |= row1 >> 2;
  return (~(row0 & row1) & 0x11111111u) == 0;
}

/* ---- fragments and products ---- */

/* Where this lane reads fragments: shared addresses; those of K and V in place 0. Chunk c of 32
 * channels of a row of Q or K lies at a XOR, four of them in 128 bytes. */
template <class S> struct Lane {
  static constexpr int CHUNKS = S::D < 128 ? S::D / 32 : 4;
  uint32_t warp_q;
  /* its row of the warp's Q; not there if fragments are kept: they are loaded but once, and
   * registers are few */
  uint32_t q[CHUNKS];
  uint32_t k[CHUNKS]; /* its row of 16 of K's */
  uint32_t v;         /* its row and chunk of V's: 8 rows by 4 chunks, or 16 by 2 */
  uint32_t scales;    /* of its keys */
  uint32_t tile;      /* the tile's scale; b */

  static __device__ __forceinline__ uint32_t q_address(uint32_t warp_q, int c) {
    const int lane = threadIdx.x & 31;
    return warp_q + (lane & 15) * S::D +
           ((((lane >> 4) ^ IFA_GPU_SWIZZLE(S::D, lane & 7)) * 16) ^ (c * 32));
  }
  __device__ __forceinline__ Lane(uint32_t q_of_warp, uint32_t place0) : warp_q(q_of_warp) {
    const int lane = threadIdx.x & 31, low = lane & 7;
#pragma unroll
    for (int c = 0; c < CHUNKS; c++) {
      k[c] = place0 + (low + (lane >> 4) * 8) * S::D +
             ((((lane >> 3 & 1) ^ IFA_GPU_SWIZZLE(S::D, low)) * 16) ^ (c * 32));
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900 /* (elsewhere a kernel would spill) */
      asm volatile("" : "+r"(k[c])); /* keep them: computing them again in every step costs more */
#endif
    }
    if (!S::Q_KEPT) {
#pragma unroll
      for (int c = 0; c < CHUNKS; c++) {
        q[c] = q_address(warp_q, c);
        asm volatile("" : "+r"(q[c]));
      }
    }
    const int row = S::KC == 2 ? low : low + (lane >> 4) * 8,
              chunk = S::KC == 2 ? lane >> 3 : lane >> 3 & 1;
    v = place0 + IFA_GPU_AT_V(S::D, S::KEYS) + row * S::KEYS +
        (chunk ^ IFA_GPU_SWIZZLE(S::KEYS, low)) * 16;
    scales = place0 + IFA_GPU_AT_SCALES(S::D, S::KEYS) + (lane & 3) * 32;
    tile = place0 + IFA_GPU_AT_SCALES(S::D, S::KEYS) + S::KEYS * 8;
    asm volatile("" : "+r"(v), "+r"(scales), "+r"(tile));
  }
  /* What a block has once, at this place: the tile's scale; V per token: b; this thread's s_j, four
   * in 8 bytes. */
  __device__ __forceinline__ float tile_scale(uint32_t place) const {
    return load_shared(tile + place);
  }
  __device__ __forceinline__ int exponent(uint32_t place) const {
    return __float_as_int(load_shared(tile + place + 4));
  }
  __device__ __forceinline__ uint32_t v_scales(uint32_t place) const {
    return scales + place + (2 * S::KEYS + 4) * 4 + (S::KEYS / 2 - 32) * (threadIdx.x & 3);
  }
};

/* Q's fragments of chunk c. */
template <class S>
__device__ __forceinline__ void load_q_fragments(uint32_t (&q)[4], const Lane<S> &lane, int c) {
  load_matrices(q, S::Q_KEPT ? lane.q_address(lane.warp_q, c) : lane.q[c & 3] + (c & ~3) * 32);
}

/* Group g's fragments of K: of 16 keys each. */
template <class S>
__device__ __forceinline__ void load_k_fragments(uint32_t (&b)[2][4], const Lane<S> &lane,
                                                 uint32_t place, int g) {
  const int c = g / S::KC, key = g % S::KC * 32;
#pragma unroll
  for (int n = 0; n < 2; n++)
    load_matrices(b[n], lane.k[c & 3] + place + (key + n * 16) * S::D + (c & ~3) * 32);
}

/* Group g of S = QK^T (plus IFA_GPU_SCORE_ZERO). */
template <class S>
__device__ __forceinline__ void multiply_qk(int (&s)[S::NT][4], const uint32_t (&q)[4],
                                            const uint32_t (&b)[2][4], int g) {
#pragma unroll
  for (int n = 0; n < 4; n++) {
    int(&c)[4] = s[g % S::KC * 4 + n];
    if (g / S::KC == 0)
      mma_s8_first(c, q, b[n >> 1][2 * (n & 1)], b[n >> 1][2 * (n & 1) + 1], IFA_GPU_SCORE_ZERO);
    else mma_s8(c, q, b[n >> 1][2 * (n & 1)], b[n >> 1][2 * (n & 1) + 1]);
  }
}

/* The block's S plus IFA_GPU_SCORE_ZERO. q: Q's fragments if they are kept in registers (KEPT
 * chunks), else a place for one chunk's. */
template <class S, int KEPT>
__device__ __forceinline__ void multiply_scores(int (&s)[S::NT][4], uint32_t (&q)[KEPT][4],
                                                const Lane<S> &lane, uint32_t place) {
  uint32_t b[2][2][4];
  load_k_fragments<S>(b[0], lane, place, 0);
#pragma unroll
  for (int g = 0; g < S::QK_GROUPS; g++) {
    const int c = g / S::KC;
    if (!S::Q_KEPT && g % S::KC == 0) load_q_fragments<S>(q[0], lane, c);
    if (g + 1 < S::QK_GROUPS) load_k_fragments<S>(b[(g + 1) & 1], lane, place, g + 1);
    multiply_qk<S>(s, q[KEPT == 1 ? 0 : c], b[g & 1], g);
  }
}

template <class S>
__device__ __forceinline__ void load_v_fragments(uint32_t (&b)[2 * S::KC][4], const Lane<S> &lane,
                                                 uint32_t place, int g) {
#pragma unroll
  for (int n = 0; n < 2 * S::KC; n++)
    load_matrices(b[n], lane.v + place + g * 32 * S::KEYS + n * 512);
}

/* Group g of acc += P V. */
template <class S>
__device__ __forceinline__ void multiply_pv(Warp<S> &w, const uint32_t (&pa)[S::KC][4],
                                            const uint32_t (&b)[2 * S::KC][4], int g) {
#pragma unroll
  for (int kk = 0; kk < S::KC; kk++)
#pragma unroll
    for (int n = 0; n < 4; n++) {
      const int at = n * S::KC + kk;
      mma_u8(w.acc[g * 4 + n], pa[kk], b[at >> 1][2 * (at & 1)], b[at >> 1][2 * (at & 1) + 1]);
    }
}

/* 0, but not before these fragments are in registers, and with them all that was asked for before:
 * loads return in order. */
template <int N>
__device__ __forceinline__ uint32_t zero_after(const uint32_t (&fragments)[N][4],
                                               const ifa_problem &p) {
  uint32_t any = 0;
#pragma unroll
  for (int n = 0; n < N; n++) any |= fragments[n][0];
  return any & (uint32_t)(p.head_dim >> 31); /* the compiler does not know that this is 0 */
}

/* ---- section 4: scores ---- */

/* r for u as gpu/params.h has it. */
__device__ __forceinline__ float score_factor(float row_factor, float tile_scale) {
  return __fmul_rn(__fmul_rn(row_factor, tile_scale), (float)(1LL << IFA_GPU_SCORE_OCTAVES));
}

/* A row's largest score; below 0 if u is, even where the product is too small for a binary32
 * (section 5). */
__device__ __forceinline__ float octaves(float largest, float r) {
  const float x = __fmul_rn(largest, r);
  return largest < 0.0f ? fminf(x, -0x1p-149f) : x;
}

/* u (as gpu/params.h has it), and the largest of each row among this thread's as an integer, or 0
 * if it is negative: the patterns of other binary32 numbers sort like the numbers. scales: of this
 * thread's keys, those of two S tiles in 32 bytes. */
template <class S>
__device__ __forceinline__ void score(float (&u)[S::NT][4], const int (&s)[S::NT][4],
                                      int (&high)[2], uint32_t scales) {
  high[0] = high[1] = 0;
#pragma unroll
  for (int jj = 0; jj < S::NT / 2; jj++) {
    const float4 scale = load_shared4(scales + jj * 128),
                 zero = load_shared4(scales + jj * 128 + 16);
    const float k_scale[2][2] = {{scale.x, scale.y}, {scale.z, scale.w}},
                k_zero[2][2] = {{zero.x, zero.y}, {zero.z, zero.w}};
#pragma unroll
    for (int n = 0; n < 2; n++) {
      float(&x)[4] = u[2 * jj + n];
#pragma unroll
      for (int i = 0; i < 4; i++)
        x[i] = __fmaf_rn(__int_as_float(s[2 * jj + n][i]), k_scale[n][i & 1], k_zero[n][i & 1]);
#pragma unroll
      for (int h = 0; h < 2; h++)
        high[h] = max3(high[h], __float_as_int(x[2 * h]), __float_as_int(x[2 * h + 1]));
    }
  }
}

/* The largest u of each row among this thread's live keys. `row`: of h = 0; `first_key`: of the
 * block. */
template <class S>
__device__ __forceinline__ void largest_live(float (&largest)[2], const float (&u)[S::NT][4],
                                             const ifa_problem &p, int first_key, int64_t row) {
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const int first = live_first(p, row + 8 * h) - first_key,
              end = live_end(p, row + 8 * h) - first_key;
    largest[h] = -INFINITY;
#pragma unroll
    for (int j = 0; j < S::NT; j++)
#pragma unroll
      for (int i = 0; i < 2; i++) {
        const int key = j * 8 + (threadIdx.x & 3) * 2 + i;
        if (key >= first && key < end) largest[h] = fmaxf(largest[h], u[j][2 * h + i]);
      }
  }
}

/* ---- sections 5 and 7: units ---- */

/* With x = largest u * r the unit stays if U - tau - 1 <= x < U, for then floor(x) + 1 is in U -
 * tau .. U. A row without a live key (x = -infinity or NaN) stays. */
__device__ __forceinline__ bool unit_moves(float largest, float x, int unit, float tau1) {
  const float u = (float)unit; /* none yet: far below any */
  return (largest > -INFINITY) & (!(x < u) | !(x >= __fadd_rn(u, -tau1)) | (unit == IFA_NO_UNIT));
}

/* From which score on a unit does not fall; above 0, so that a thread's negative scores, which
 * `score` gives as 0, do not count. */
__device__ __forceinline__ float lowest_score(float unit, float tau1) {
  return fmaxf(__fadd_rn(unit, -tau1), 0x1p-149f);
}

/* max_d |acc_d| of both rows. */
template <class S>
__device__ __forceinline__ void largest_acc(int (&magnitude)[2], const Warp<S> &w) {
  int high[2] = {0, 0}, low[2] = {0, 0};
#pragma unroll
  for (int i = 0; i < S::D / 8; i++)
#pragma unroll
    for (int h = 0; h < 2; h++) {
      high[h] = max3(high[h], w.acc[i][2 * h], w.acc[i][2 * h + 1]);
      low[h] = min3(low[h], w.acc[i][2 * h], w.acc[i][2 * h + 1]);
    }
#pragma unroll
  for (int h = 0; h < 2; h++) magnitude[h] = quad_max(max(high[h], -low[h]));
}

__device__ __forceinline__ int octaves_right(int up) { return min(max(up, 0), 31); }
/* 31 octaves down or more: only nothing falls so far */
__device__ __forceinline__ int octaves_left(int up) { return min(max(-up, 0), 31); }

/* Which way rows move, of all the warp's rows: whether any of its rows h rises (bit h), or falls
 * (bit h + 2). */
__device__ __forceinline__ uint32_t directions(const int (&up)[2]) {
  return __reduce_or_sync(~0u, (uint32_t)(up[0] > 0) | (uint32_t)(up[1] > 0) << 1 |
                                   (uint32_t)(up[0] < 0) << 2 | (uint32_t)(up[1] < 0) << 3);
}

/* acc of the rows moved up[h] octaves (0: not). */
template <class S>
__device__ __forceinline__ void shift_acc(Warp<S> &w, const int (&up)[2], uint32_t directions) {
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const int right = octaves_right(up[h]), left = octaves_left(up[h]);
    if (directions >> h & 1) {
#pragma unroll
      for (int i = 0; i < S::D / 8; i++)
#pragma unroll
        for (int j = 2 * h; j < 2 * h + 2; j++) w.acc[i][j] >>= right;
    }
    if (directions >> h & 4) {
#pragma unroll
      for (int i = 0; i < S::D / 8; i++)
#pragma unroll
        for (int j = 2 * h; j < 2 * h + 2; j++) w.acc[i][j] = (int)((uint32_t)w.acc[i][j] << left);
    }
  }
}

/* ifa_headroom without a loop: the largest k in 0 .. wanted with magnitude * 2^k <= limit. */
__device__ __forceinline__ int headroom(int magnitude, int growth, int wanted) {
  /* magnitude * 2^k has as many bits as the limit */
  const int limit = INT32_MAX - growth, k = __clz(magnitude) - __clz(limit);
  const int room = k < 0 ? 0 : (magnitude << (k & 31)) <= limit ? k : max(k - 1, 0);
  return magnitude == 0 ? wanted : min(wanted, room);
}

/* Rows follow their tile (all lanes take part); x: a row's largest score; `moves`: it must. The
 * threads of a row agree. growth_keys: R of section 7. */
template <class S>
__device__ __forceinline__ void move_units(Warp<S> &w, const float (&x)[2], const bool (&moves)[2],
                                           int growth_keys) {
  int want[2], sum[2], up[2];
#pragma unroll
  for (int h = 0; h < 2; h++) {
    sum[h] = quad_sum(w.l[h]);
    want[h] = moves[h] ? __float2int_rd(x[h]) + 1 : w.unit[h];
    up[h] = w.unit[h] == IFA_NO_UNIT ? 0 : want[h] - w.unit[h];
  }
  const uint32_t ways = directions(up);
  if (ways & 12) { /* only a fall asks for headroom */
    int magnitude[2] = {0, 0};
    if (!S::TOKEN) largest_acc(magnitude, w);
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const int room =
          headroom(max(magnitude[h], sum[h]),
                   (S::TOKEN ? IFA_WEIGHT_MAX : IFA_MAX_PRODUCT) * growth_keys, max(-up[h], 0));
      want[h] = up[h] < 0 ? w.unit[h] - room : want[h];
      up[h] = up[h] < 0 ? -room : up[h];
    }
  }
#pragma unroll
  for (int h = 0; h < 2; h++) {
    w.unit[h] = want[h];
    /* gathered, for floor(a + b) is not floor(a) + floor(b) */
    if (ways)
      w.l[h] = (threadIdx.x & 3) == 0 ? (sum[h] << octaves_left(up[h])) >> octaves_right(up[h]) : 0;
  }
  if (!S::TOKEN) shift_acc(w, up, ways);
}

/* acc of rows h, `up` octaves up. */
template <class S> __device__ __forceinline__ void raise_acc(Warp<S> &w, int h, int up) {
  const int right = min(up, 31);
#pragma unroll
  for (int i = 0; i < S::D / 8; i++)
#pragma unroll
    for (int j = 2 * h; j < 2 * h + 2; j++) w.acc[i][j] >>= right;
}

/* The same where no row falls. most: the pattern of each row's largest u, which is not negative. */
template <class S>
__device__ __forceinline__ void raise_units(Warp<S> &w, const int (&most)[2], const float (&r)[2]) {
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const float x = __fmul_rn(__int_as_float(most[h]), r[h]);
    const int sum = quad_sum(w.l[h]), up = max(__float2int_rd(x) + 1 - w.unit[h], 0);
    w.unit[h] += up;
    w.l[h] = (threadIdx.x & 3) == 0 ? sum >> min(up, 31) : 0;
    if (!S::TOKEN) raise_acc(w, h, up);
  }
}

template <class S>
__device__ __forceinline__ void move_value_units(Warp<S> &w, const int (&want)[2],
                                                 const bool (&moves)[2], int growth_keys) {
  int up[2];
#pragma unroll
  for (int h = 0; h < 2; h++)
    up[h] = moves[h] & (w.value_unit[h] != IFA_NO_UNIT) ? want[h] - w.value_unit[h] : 0;
  const uint32_t ways = directions(up);
  if (ways & 12) {
    int magnitude[2];
    largest_acc(magnitude, w);
#pragma unroll
    for (int h = 0; h < 2; h++)
      up[h] = up[h] < 0 ? -headroom(magnitude[h], IFA_MAX_PRODUCT * growth_keys, -up[h]) : up[h];
  }
#pragma unroll
  for (int h = 0; h < 2; h++)
    w.value_unit[h] =
        moves[h] & (w.value_unit[h] == IFA_NO_UNIT) ? want[h] : w.value_unit[h] + up[h];
  shift_acc(w, up, ways);
}

/* ---- section 6: weights, two scores at a time ---- */

/* What turns u into n: 1024 r and 1024 (30 - U) of each row, times 2^-149: so small, a binary32's
 * last place is 2^-149, and the bits of fma(u, r, 30 - U) are n, or, where that is negative, an
 * integer below 0. (Where r * 2^-139 itself is too small to be exact, no score is above 2^-12
 * octaves and n is 1024 (30 - U).) */
struct Index {
  float factor[2], c[2];
  template <class S> __device__ __forceinline__ void follow(const Warp<S> &w, const float (&r)[2]) {
#pragma unroll
    for (int h = 0; h < 2; h++)
      factor[h] = __fmul_rn(r[h], 0x1p-139f),
      c[h] = __fmaf_rn((float)w.unit[h], -0x1p-139f, 30 * 0x1p-139f);
  }
};

/* n of both, which is h of both. */
__device__ __forceinline__ uint32_t weight_h(float u0, float u1, float factor, float c) {
  return pack_unsigned(__float_as_int(__fmaf_rn(u0, factor, c)),
                       __float_as_int(__fmaf_rn(u1, factor, c)));
}
/* one: 1 in both halves, which the compiler must not see: it would use two instructions for w where
 * one does. */
__device__ __forceinline__ uint32_t weight_g(uint32_t h, uint32_t one) {
  uint32_t w = (~h & 0x03ff03ffu) | one;
  uint32_t g = fma_half2(w, twice(IFA_WEIGHT_C3), twice(IFA_WEIGHT_C2));
  return fma_half2(fma_half2(g, w, twice(IFA_WEIGHT_C1)), w, twice(IFA_WEIGHT_C0));
}
__device__ __forceinline__ uint32_t hidden_one(const ifa_problem &p) {
  return 0x3c003c00u + (uint32_t)(p.head_dim >> 31);
}
/* rne(a * b) in the low byte of each half: a * b + 1024 rounded to binary16 has an ulp of 1. */
__device__ __forceinline__ uint32_t product_byte(uint32_t a, uint32_t b) {
  return fma_half2(a, b, 0x64006400u);
}

/* h of all scores, n[j][h] of row h in S tile j. */
template <class S>
__device__ __forceinline__ void weigh_index(uint32_t (&n)[S::NT][2], const float (&u)[S::NT][4],
                                            const Index &index) {
#pragma unroll
  for (int j = 0; j < S::NT; j++)
#pragma unroll
    for (int h = 0; h < 2; h++)
      n[j][h] = weight_h(u[j][2 * h], u[j][2 * h + 1], index.factor[h], index.c[h]);
}

/* Keys that are not live get n = 0, and so no weight. */
template <class S>
__device__ __forceinline__ void mask_index(uint32_t (&n)[S::NT][2], const ifa_problem &p,
                                           int first_key, int64_t row) {
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const int first = live_first(p, row + 8 * h) - first_key,
              end = live_end(p, row + 8 * h) - first_key;
#pragma unroll
    for (int j = 0; j < S::NT; j++) {
      const int key = j * 8 + (threadIdx.x & 3) * 2;
      n[j][h] &= (key >= first && key < end ? 0xffffu : 0u) |
                 (key + 1 >= first && key + 1 < end ? 0xffff0000u : 0u);
    }
  }
}

/* P's A fragments: pa[kk][x] has S tiles 4kk + 2(x >> 1) and the next, row x & 1; and l, if it is
 * to COUNT. V per token: also y[kk][x], that is W, or, where all keys are live (WHOLE), y of
 * section 8 and its largest in this thread. */
template <class S, bool WHOLE, bool COUNT = true>
__device__ __forceinline__ void weigh(Warp<S> &w, uint32_t (&pa)[S::KC][4],
                                      uint32_t (&y)[S::KC][4][2], uint32_t (&highest)[2],
                                      const uint32_t (&n)[S::NT][2], uint32_t one,
                                      uint32_t v_scales) {
#pragma unroll
  for (int kk = 0; kk < S::KC; kk++)
#pragma unroll
    for (int x = 0; x < 4; x++) {
      const int h = x & 1, j = kk * 4 + (x >> 1) * 2;
      float2 v_scale = {0.0f, 0.0f};
      if (S::TOKEN && WHOLE) v_scale = load_shared2(v_scales + (kk * 2 + (x >> 1)) * 8);
      uint32_t p2[2];
#pragma unroll
      for (int i = 0; i < 2; i++) {
        const uint32_t g = weight_g(n[j + i][h], one);
        p2[i] = product_byte(n[j + i][h], g);
        if (S::TOKEN) y[kk][x][i] = mul_half2(n[j + i][h], g);
        if (S::TOKEN && WHOLE) {
          y[kk][x][i] = mul_half2(y[kk][x][i], __float_as_uint(i ? v_scale.y : v_scale.x));
          highest[h] = max_half2(highest[h], y[kk][x][i]);
        }
      }
      pa[kk][x] = __byte_perm(p2[0], p2[1], 0x6420);
      if (COUNT) w.l[h] = (int)__dp4a(pa[kk][x], 0x01010101u, (uint32_t)w.l[h]);
    }
}

/* ---- section 8: V per token ---- */

/* 2^m as a binary16 pattern, m <= 15. */
__device__ __forceinline__ uint32_t half_pow2(int m) {
  return m >= -14 ? (uint32_t)(m + 15) << 10 : m >= -24 ? 1u << (m + 24) : 0u;
}

/* b of a row from keys first .. end of v_scale. All lanes of the quad. */
__device__ __forceinline__ int live_value_exponent(const float *v_scale, int first, int end) {
  float largest = 0.0f;
  for (int key = max(first, 0) + (threadIdx.x & 3); key < end; key += 4)
    largest = fmaxf(largest, v_scale[key]);
  return ifa_value_exponent(quad_max(largest));
}

/* s_j of two keys; 0 for a key that is not live. 2^-b is a normal number, and the product is exact
 * or far below binary16. A scale may be -0. */
__device__ __forceinline__ uint32_t live_value_scales(const float *v_scale, int first, int end,
                                                      int key, float factor) {
  float a = key >= first && key < end ? __fmul_rn(fabsf(v_scale[key]), factor) : 0.0f,
        b = key + 1 >= first && key + 1 < end ? __fmul_rn(fabsf(v_scale[key + 1]), factor) : 0.0f;
  return (uint32_t)__half_as_ushort(__float2half_rn(b)) << 16 |
         __half_as_ushort(__float2half_rn(a));
}

/* In a block that a mask cuts, or whose tile it cuts: from W in y to y, with the row's own b.
 * v_scale: of key 0; first_key: of the block. */
template <class S>
__device__ __forceinline__ void scale_live_values(uint32_t (&y)[S::KC][4][2],
                                                  const int (&exponent)[2], uint32_t (&highest)[2],
                                                  const ifa_problem &p, const float *v_scale,
                                                  int first_key, int64_t row) {
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const int first = live_first(p, row + 8 * h) - first_key,
              end = live_end(p, row + 8 * h) - first_key;
    const float factor = __int_as_float((127 - exponent[h]) << 23);
#pragma unroll
    for (int j = 0; j < S::NT; j++) {
      uint32_t &at = y[j >> 2][(j >> 1 & 1) * 2 + h][j & 1];
      at = mul_half2(at, live_value_scales(v_scale + first_key, first, min(end, S::KEYS),
                                           j * 8 + (threadIdx.x & 3) * 2, factor));
      highest[h] = max_half2(highest[h], at);
    }
  }
}

/* The quad's largest y of both rows: of row 0 in the low half, of row 1 in the high. */
__device__ __forceinline__ uint32_t quad_largest(const uint32_t (&highest)[2]) {
  uint32_t most = max_half2(__byte_perm(highest[0], highest[1], 0x5410),
                            __byte_perm(highest[0], highest[1], 0x7632));
  most = max_half2(most, __shfl_xor_sync(~0u, most, 1));
  return max_half2(most, __shfl_xor_sync(~0u, most, 2));
}

/* factor[h]: what takes y to P, twice. Where all y are 0 any number will do. */
template <class S>
__device__ __forceinline__ void value_factors(const Warp<S> &w, uint32_t (&factor)[2],
                                              int exponent) {
#pragma unroll
  for (int h = 0; h < 2; h++)
    factor[h] = w.value_unit[h] == IFA_NO_UNIT
                    ? 0u
                    : twice(half_pow2(min(w.unit[h] + exponent - w.value_unit[h], 15)));
}

/* Where no U' falls. */
template <class S>
__device__ __forceinline__ void raise_values(Warp<S> &w, int exponent, uint32_t most) {
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const uint32_t largest = h ? most >> 16 : most & 0xffffu;
    const int up =
        largest != 0
            ? max(w.unit[h] + exponent - ifa_value_shift((uint16_t)largest) - w.value_unit[h], 0)
            : 0;
    w.value_unit[h] += up;
    raise_acc(w, h, up);
  }
}

/* U' follows the tile's largest y. factor[h]: what takes y to P, twice; it depends on the units and
 * b only: where all y are 0 any number will do. */
template <class S>
__device__ __forceinline__ void follow_values(Warp<S> &w, uint32_t (&factor)[2],
                                              const int (&exponent)[2], uint32_t most,
                                              const ifa_problem &p, int growth_keys) {
  int want[2];
  bool moves[2];
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const uint32_t largest = h ? most >> 16 : most & 0xffffu;
    want[h] = w.unit[h] + exponent[h] - ifa_value_shift((uint16_t)largest);
    /* none yet: the least integer */
    moves[h] = (largest != 0) & ((want[h] > w.value_unit[h]) |
                                 ((p.tau != IFA_TAU_INF) & (want[h] < w.value_unit[h] - p.tau)));
  }
  if (__any_sync(~0u, moves[0] | moves[1])) move_value_units(w, want, moves, growth_keys);
#pragma unroll
  for (int h = 0; h < 2; h++)
    factor[h] = w.value_unit[h] == IFA_NO_UNIT
                    ? 0u
                    : twice(half_pow2(min(w.unit[h] + exponent[h] - w.value_unit[h], 15)));
}

/* P. */
template <class S>
__device__ __forceinline__ void weigh_values(uint32_t (&pa)[S::KC][4],
                                             const uint32_t (&y)[S::KC][4][2],
                                             const uint32_t (&factor)[2]) {
#pragma unroll
  for (int kk = 0; kk < S::KC; kk++)
#pragma unroll
    for (int x = 0; x < 4; x++)
      pa[kk][x] = __byte_perm(product_byte(y[kk][x][0], factor[x & 1]),
                              product_byte(y[kk][x][1], factor[x & 1]), 0x6420);
}

} // namespace sm80

#endif
