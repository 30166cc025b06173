/* attention_sm80.cuh - the contract (docs/numerics.md, sections 3 to 11) on mma.sync: INT8 tensor cores from sm_80 on.
 *
 * A warp owns 16 * MT query rows and walks the key tiles (64 keys); the warps of a CTA share the tiles. Per tile and warp:
 *
 *     S = Q K^T      mma m16n8k32 s8 x s8 -> s32       K and Q fragments by ldmatrix from shared memory
 *     u, max, U      registers; quad shuffles          the unit rarely moves: then l and acc are shifted in place
 *     p              half2: index, 3 HFMA2, 1 HFMA2    packed to bytes it already is the A operand of the next product
 *     acc += P V     mma m16n8k32 u8 x s8 -> s32       V^T fragments by ldmatrix
 *
 * One barrier a tile; K, V and scales come by cp.async two tiles ahead, into three buffers. The warps of a scheduler overlap: while one
 * waits for the tensor core the others weigh.
 *
 * Thread-to-data map of an accumulator tile (16 rows x 8 columns): lane = 4 g + t holds rows g and g + 8, columns 2t and 2t + 1.
 * An A operand wants 4 consecutive bytes of k per thread, so V's keys are permuted when they are packed: slot p of a group of 32 holds key
 *     16 (p >> 4) + 8 ((p & 3) >> 1) + 2 ((p & 15) >> 2) + (p & 1),
 * which makes the packed weights of S tiles 4i .. 4i+3 the A fragment of that group without any exchange. Integer sums allow it.
 *
 * Shared memory: a tile of K, V and scales (gpu/params.h), three times, Q [rows][D + 16]: the 16 bytes of padding put the 8 rows of an ldmatrix
 * into different banks. Registers: acc is MT * D / 2, S is MT * 32. */
#ifndef IFA_GPU_ATTENTION_SM80_CUH
#define IFA_GPU_ATTENTION_SM80_CUH

#include <cuda_fp16.h>

#include "common/contract.h"
#include "common/operand.h"
#include "gpu/params.h"

namespace sm80 {

constexpr int TILE = IFA_GPU_TILE, STAGES = 3;

template <int D> struct Shape {
  static constexpr int MT = 1, WARPS = 4;                  /* m16 tiles a warp; warps a CTA */
  static constexpr int CTAS = D <= 64 ? 4 : D <= 128 ? 3 : 2; /* CTAs a multiprocessor: bounds the registers to 128, 168, 255 */
  static constexpr int THREADS = 32 * WARPS, ROWS = 16 * MT * WARPS;
  static constexpr int K_PITCH = IFA_GPU_K_PITCH(D), V_PITCH = IFA_GPU_V_PITCH;
  static constexpr int SUMS = MT * D / 2;                  /* accumulators a thread */
};

template <int D> struct Shared {
  uint8_t tile[STAGES][IFA_GPU_TILE_BYTES(D)]; /* gpu/params.h */
  int8_t q[Shape<D>::ROWS * Shape<D>::K_PITCH];
};

/* ---- instructions ---- */

__device__ __forceinline__ uint32_t shared_address(const void *p) { return (uint32_t)__cvta_generic_to_shared(p); }

__device__ __forceinline__ void copy16(uint32_t to, const void *from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from));
}
__device__ __forceinline__ void copy_commit() { asm volatile("cp.async.commit_group;"); }
template <int N> __device__ __forceinline__ void copy_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(N)); }

__device__ __forceinline__ void load_matrices(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address));
}

__device__ __forceinline__ void mma_s8(int (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
/* The first of a sum: C is zero, no accumulator needs clearing. */
__device__ __forceinline__ void mma_s8_first(int (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%10,%10,%10};"
               : "=r"(c[0]), "=r"(c[1]), "=r"(c[2]), "=r"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "r"(0));
}
__device__ __forceinline__ void mma_u8(int (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ uint32_t fma_half2(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t d;
  asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
}
__device__ __forceinline__ uint32_t mul_half2(uint32_t a, uint32_t b) {
  uint32_t d;
  asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
  return d;
}
__device__ __forceinline__ uint32_t max_half2(uint32_t a, uint32_t b) {
  uint32_t d;
  asm("max.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
  return d;
}
/* Clamped to [0, 1]; NaN (a masked score times a zero factor) gives 0. */
__device__ __forceinline__ float fma_saturated(float a, float b, float c) {
  float d;
  asm("fma.rn.sat.f32 %0, %1, %2, %3;" : "=f"(d) : "f"(a), "f"(b), "f"(c));
  return d;
}

__device__ __forceinline__ constexpr uint32_t twice(uint32_t half) { return half << 16 | half; }

/* ---- section 6, two scores at a time ---- */

/* h of both: n is the low half of 32768 z + 1.5 * 2^23. */
__device__ __forceinline__ uint32_t weight_h(float u0, float u1, float r32, float c) {
  float n0 = __fmaf_rn(fma_saturated(u0, r32, c), 32768.0f, 12582912.0f), n1 = __fmaf_rn(fma_saturated(u1, r32, c), 32768.0f, 12582912.0f);
  return __byte_perm(__float_as_uint(n0), __float_as_uint(n1), 0x5410);
}
__device__ __forceinline__ uint32_t weight_g(uint32_t h) {
  uint32_t w = (~h & 0x03ff03ffu) | 0x3c003c00u;
  uint32_t g = fma_half2(w, twice(IFA_WEIGHT_C3), twice(IFA_WEIGHT_C2));
  return fma_half2(fma_half2(g, w, twice(IFA_WEIGHT_C1)), w, twice(IFA_WEIGHT_C0));
}
/* rne(a * b) in the low byte of each half: a * b + 1024 rounded to binary16 has an ulp of 1. */
__device__ __forceinline__ uint32_t product_byte(uint32_t a, uint32_t b) { return fma_half2(a, b, 0x64006400u); }

/* 2^m as a binary16 pattern, m <= 15. */
__device__ __forceinline__ uint32_t half_pow2(int m) { return m >= -14 ? (uint32_t)(m + 15) << 10 : m >= -24 ? 1u << (m + 24) : 0u; }

/* ---- a warp's state ---- */

template <int D, bool TOKEN> struct Warp {
  static constexpr int MT = Shape<D>::MT, NT = D / 8;
  int acc[MT][NT][4];
  int l[MT][2];       /* this thread's part of the row's sum; the quad's four parts add up to l */
  int unit[MT][2], value_unit[MT][2];
  float row_factor[MT][2];
};

__device__ __forceinline__ int quad_sum(int x) {
  x += __shfl_xor_sync(~0u, x, 1);
  return x + __shfl_xor_sync(~0u, x, 2);
}
__device__ __forceinline__ int quad_max(int x) {
  x = max(x, __shfl_xor_sync(~0u, x, 1));
  return max(x, __shfl_xor_sync(~0u, x, 2));
}

/* max_d |acc_d| of row half h of m-tile m. */
template <int D, bool TOKEN> __device__ __forceinline__ int largest_acc(const Warp<D, TOKEN> &w, int m, int h) {
  int high = 0;
#pragma unroll
  for (int i = 0; i < D / 8; i++) high = max(high, max(abs(w.acc[m][i][2 * h]), abs(w.acc[m][i][2 * h + 1])));
  return quad_max(high);
}

/* acc of the row moved `up` octaves: (x << left) >> right, one of the two 0. */
template <int D, bool TOKEN> __device__ __forceinline__ void shift_acc(Warp<D, TOKEN> &w, int m, int h, int up) {
  int left = min(max(-up, 0), 31), right = min(max(up, 0), 31);
#pragma unroll
  for (int i = 0; i < D / 8; i++)
#pragma unroll
    for (int j = 2 * h; j < 2 * h + 2; j++) w.acc[m][i][j] = (int)((uint32_t)w.acc[m][i][j] << left) >> right;
}

/* Sections 5 and 7, when some row of the warp must move (all lanes take part). `live`: the row has a key in this tile. */
template <int D, bool TOKEN>
__device__ __forceinline__ void move_unit(Warp<D, TOKEN> &w, int m, int h, int want, bool live, int tau, int growth_keys) {
  int sum = quad_sum(w.l[m][h]), magnitude = sum, old = w.unit[m][h];
  if (!TOKEN && __any_sync(~0u, live && want < old)) magnitude = max(magnitude, largest_acc(w, m, h)); /* only a fall asks for headroom */
  int next = live ? ifa_next_unit(old, want, tau, magnitude, (TOKEN ? IFA_WEIGHT_MAX : IFA_MAX_PRODUCT) * growth_keys) : old;
  if (next == old) return; /* the same for the four threads of the row */
  int up = old == IFA_NO_UNIT ? 0 : next - old;
  w.l[m][h] = (threadIdx.x & 3) == 0 ? ifa_shift(sum, up) : 0;
  w.unit[m][h] = next;
  if (!TOKEN && up != 0) shift_acc(w, m, h, up);
}

template <int D, bool TOKEN>
__device__ __forceinline__ void move_value_unit(Warp<D, TOKEN> &w, int m, int h, int want, bool live, int tau, int growth_keys) {
  int old = w.value_unit[m][h], magnitude = __any_sync(~0u, live && want < old) ? largest_acc(w, m, h) : 0;
  int next = live ? ifa_next_unit(old, want, tau, magnitude, IFA_MAX_PRODUCT * growth_keys) : old;
  if (next == old) return;
  w.value_unit[m][h] = next;
  if (old != IFA_NO_UNIT) shift_acc(w, m, h, next - old);
}

__device__ __forceinline__ bool unit_moves(int unit, int want, int tau) {
  return unit == IFA_NO_UNIT || want > unit || (tau != IFA_TAU_INF && want < unit - tau);
}

/* ---- the kernel ---- */

/* Copies a tile, one piece of memory, into a stage. `from` and `to` are this thread's first 16 bytes. */
template <int D, bool TOKEN> __device__ __forceinline__ void copy_tile(uint32_t to, const uint8_t *from) {
  constexpr int THREADS = Shape<D>::THREADS, CHUNKS = (TOKEN ? IFA_GPU_TILE_BYTES(D) : IFA_GPU_AT_V_SCALE16(D)) / 16;
#pragma unroll
  for (int n = 0; n < (CHUNKS + THREADS - 1) / THREADS; n++)
    if ((n + 1) * THREADS <= CHUNKS || (int)threadIdx.x < CHUNKS - n * THREADS) copy16(to + n * THREADS * 16, from + n * THREADS * 16);
}

/* Q rows row0 .. of the CTA into shared memory, zeros beyond nq and head_dim. Once a CTA, so any stride and INT4 may be slow. */
template <int D>
__device__ __forceinline__ void load_q(const ifa_gpu_params &a, Shared<D> &s, int64_t batch, int64_t head, int64_t row0) {
  const ifa_problem &p = a.p;
  bool vector = p.q_type == IFA_I8 && p.head_dim == D && p.q_stride.token % 16 == 0 && p.q_stride.head % 16 == 0 && p.q_stride.batch % 16 == 0 &&
                ((uintptr_t)a.in.q & 15) == 0;
  for (int i = threadIdx.x; i < Shape<D>::ROWS * D / 16; i += Shape<D>::THREADS) {
    int64_t row = row0 + i / (D / 16), at = ifa_offset(p.q_stride, batch, head, row) + i % (D / 16) * 16;
    int8_t *to = s.q + i / (D / 16) * Shape<D>::K_PITCH + i % (D / 16) * 16;
    if (vector && row < p.nq) {
      *(int4 *)to = *(const int4 *)((const int8_t *)a.in.q + at);
    } else {
      for (int j = 0; j < 16; j++) to[j] = row < p.nq && i % (D / 16) * 16 + j < p.head_dim ? (int8_t)ifa_operand_get(p.q_type, a.in.q, at + j) : 0;
    }
  }
}

/* Keys that row i sees, clipped to 0 .. nk: section 3. Rows beyond nq see none. */
__device__ __forceinline__ int live_first(const ifa_problem &p, int64_t i) {
  int64_t first = i + p.nk - p.nq - p.window + 1;
  return (int)(p.window && first > 0 ? (first < p.nk ? first : p.nk) : 0);
}
__device__ __forceinline__ int live_end(const ifa_problem &p, int64_t i) {
  int64_t position = i + p.nk - p.nq, end = p.causal ? position + 1 : p.window ? position + p.window : p.nk;
  return (int)(i >= p.nq || end < 0 ? 0 : end < p.nk ? end : p.nk);
}

__device__ __forceinline__ float q_scale_of(const ifa_gpu_params &a, int64_t matrix, int64_t i) {
  const ifa_problem &p = a.p;
  if (i >= p.nq) return 0.0f;
  if (p.q_scale == IFA_SCALE_TOKEN) return a.in.q_scale[matrix * p.nq + i];
  if (p.q_scale == IFA_SCALE_BLOCK) return a.in.q_scale[matrix * ((p.nq + p.q_block - 1) / p.q_block) + i / p.q_block];
  return a.in.q_scale[matrix];
}

/* S of the warp's rows and one K tile. Two products into one accumulator are kept apart by those into others: a scheduler has no other warp
 * to fill the latency with. */
template <int D> __device__ __forceinline__ void multiply_qk(int (&sc)[Shape<D>::MT][8][4], uint32_t q_base, uint32_t k_base) {
  constexpr int MT = Shape<D>::MT;
  const uint32_t k_back = threadIdx.x & 16 ? 32 : 0;
#pragma unroll
  for (int d = 0; d < D; d += 64) {
    uint32_t q[MT][2][4];
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
      for (int i = 0; i < 2 && d + 32 * i < D; i++) load_matrices(q[m][i], q_base + m * 16 * Shape<D>::K_PITCH + d + i * 32);
#pragma unroll
    for (int j = 0; j < 8; j += 4) {
      uint32_t b[4][4];
#pragma unroll
      for (int n = 0; n < 4; n++) /* where D = 32 or 96 ends there are no chunks 2 and 3: their lanes read 0 and 1 again */
        load_matrices(b[n], k_base - (d + 32 < D ? 0 : k_back) + (j + n) * 8 * Shape<D>::K_PITCH + d);
#pragma unroll
      for (int n = 0; n < 4; n++)
#pragma unroll
        for (int m = 0; m < MT; m++) {
          if (d == 0) mma_s8_first(sc[m][j + n], q[m][0], b[n][0], b[n][1]);
          else mma_s8(sc[m][j + n], q[m][0], b[n][0], b[n][1]);
        }
#pragma unroll
      for (int n = 0; n < 4 && d + 32 < D; n++)
#pragma unroll
        for (int m = 0; m < MT; m++) mma_s8(sc[m][j + n], q[m][1], b[n][2], b[n][3]);
    }
  }
}

/* acc += P V */
template <int D, bool TOKEN> __device__ __forceinline__ void multiply_pv(Warp<D, TOKEN> &w, const uint32_t (&pa)[Shape<D>::MT][2][4], uint32_t v_base) {
#pragma unroll
  for (int i = 0; i < D / 8; i += 4) {
    uint32_t b[4][4];
#pragma unroll
    for (int n = 0; n < 4; n++) load_matrices(b[n], v_base + (i + n) * 8 * Shape<D>::V_PITCH);
#pragma unroll
    for (int kk = 0; kk < 2; kk++)
#pragma unroll
      for (int n = 0; n < 4; n++)
#pragma unroll
        for (int m = 0; m < Shape<D>::MT; m++) mma_u8(w.acc[m][i + n], pa[m][kk], b[n][2 * kk], b[n][2 * kk + 1]);
  }
}

/* Where a tile lies for one warp. */
struct Tile {
  int start, growth_keys, exponent;
  float scale;                 /* of the tile: a K block's, or 1 */
  bool whole;                  /* every row of the warp sees every key */
  int64_t row;                 /* of this lane: m-tile 0, half 0 */
  const float *v_scale;        /* V per token: the keys' scales in the caller's array */
  const float *k_scale;        /* + 2t */
  const uint16_t *v_scale16;
};

/* Section 8 in a tile that a mask or the end of the keys cuts: b of the row from its own live keys. */
__device__ __forceinline__ int live_value_exponent(const Tile &tile, int first, int end) {
  float largest = 0.0f;
  for (int key = max(first, 0) + (threadIdx.x & 3); key < min(end, TILE); key += 4) largest = fmaxf(largest, tile.v_scale[key]);
  largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, 1));
  return ifa_value_exponent(fmaxf(largest, __shfl_xor_sync(~0u, largest, 2)));
}

/* and s_j of two keys; 0 for a key that is not live. 2^-b is a normal number, and the product is exact or far below binary16. */
__device__ __forceinline__ uint32_t live_value_scales(const Tile &tile, int first, int end, int key, float factor) {
  float a = key >= first && key < end ? __fmul_rn(tile.v_scale[key], factor) : 0.0f, b = key + 1 >= first && key + 1 < end ? __fmul_rn(tile.v_scale[key + 1], factor) : 0.0f;
  return (uint32_t)__half_as_ushort(__float2half_rn(b)) << 16 | __half_as_ushort(__float2half_rn(a));
}

/* Sections 4 to 6 and 8 for m-tile m: from S to the A fragments of P, l and the units. */
template <int D, bool TOKEN>
__device__ __forceinline__ void weigh(Warp<D, TOKEN> &w, const ifa_problem &p, const Tile &tile, int m, const int (&sc)[8][4], uint32_t (&pa)[2][4]) {
  const int t = threadIdx.x & 3;
  float u[8][4], largest[2] = {-INFINITY, -INFINITY};
#pragma unroll
  for (int j = 0; j < 8; j++) {
    float2 scale = *(const float2 *)(tile.k_scale + j * 8);
#pragma unroll
    for (int i = 0; i < 4; i++) u[j][i] = __fmul_rn((float)sc[j][i], i & 1 ? scale.y : scale.x);
  }
  if (!tile.whole) {
#pragma unroll
    for (int h = 0; h < 2; h++) {
      int first = live_first(p, tile.row + m * 16 + 8 * h) - tile.start, end = live_end(p, tile.row + m * 16 + 8 * h) - tile.start;
#pragma unroll
      for (int j = 0; j < 8; j++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
          int key = j * 8 + t * 2 + i;
          if (key < first || key >= end) u[j][2 * h + i] = -INFINITY;
        }
    }
  }
#pragma unroll
  for (int j = 0; j < 8; j++)
#pragma unroll
    for (int i = 0; i < 4; i++) largest[i >> 1] = fmaxf(largest[i >> 1], u[j][i]);

  int want[2];
  bool moves[2];
  float r[2];
#pragma unroll
  for (int h = 0; h < 2; h++) {
    largest[h] = fmaxf(largest[h], __shfl_xor_sync(~0u, largest[h], 1));
    largest[h] = fmaxf(largest[h], __shfl_xor_sync(~0u, largest[h], 2));
    r[h] = __fmul_rn(w.row_factor[m][h], tile.scale);
    want[h] = ifa_tile_unit(fmaxf(largest[h], -3.0e38f), r[h]); /* a row without a live key: any finite number */
    moves[h] = largest[h] > -INFINITY && unit_moves(w.unit[m][h], want[h], p.tau);
  }
  if (__any_sync(~0u, moves[0] || moves[1])) {
    move_unit(w, m, 0, want[0], moves[0], p.tau, tile.growth_keys);
    move_unit(w, m, 1, want[1], moves[1], p.tau, tile.growth_keys);
  }
  const float r32[2] = {__fmul_rn(r[0], 0.03125f), __fmul_rn(r[1], 0.03125f)};
  const float c[2] = {__fmul_rn((float)(IFA_OCTAVES - w.unit[m][0]), 0.03125f), __fmul_rn((float)(IFA_OCTAVES - w.unit[m][1]), 0.03125f)};

  /* Fragment register x of key group kk holds S tiles 4kk + 2(x >> 1) and the next, row half x & 1. */
  if (!TOKEN) {
#pragma unroll
    for (int kk = 0; kk < 2; kk++)
#pragma unroll
      for (int x = 0; x < 4; x++) {
        const int h = x & 1, j = kk * 4 + (x >> 1) * 2;
        uint32_t h0 = weight_h(u[j][2 * h], u[j][2 * h + 1], r32[h], c[h]), h1 = weight_h(u[j + 1][2 * h], u[j + 1][2 * h + 1], r32[h], c[h]);
        pa[kk][x] = __byte_perm(product_byte(h0, weight_g(h0)), product_byte(h1, weight_g(h1)), 0x6420);
        w.l[m][h] = (int)__dp4a(pa[kk][x], 0x01010101u, (uint32_t)w.l[m][h]);
      }
    return;
  }

  uint32_t y[2][4][2], top[2] = {0, 0};
  int exponent[2] = {tile.exponent, tile.exponent};
#pragma unroll
  for (int kk = 0; kk < 2; kk++)
#pragma unroll
    for (int x = 0; x < 4; x++) {
      const int h = x & 1, j = kk * 4 + (x >> 1) * 2;
      uint32_t p2[2];
#pragma unroll
      for (int n = 0; n < 2; n++) {
        uint32_t hh = weight_h(u[j + n][2 * h], u[j + n][2 * h + 1], r32[h], c[h]), gg = weight_g(hh);
        p2[n] = product_byte(hh, gg);
        y[kk][x][n] = mul_half2(hh, gg);
        if (tile.whole) y[kk][x][n] = mul_half2(y[kk][x][n], *(const uint32_t *)(tile.v_scale16 + (j + n) * 8));
      }
      w.l[m][h] = (int)__dp4a(__byte_perm(p2[0], p2[1], 0x6420), 0x01010101u, (uint32_t)w.l[m][h]);
    }
  if (!tile.whole) {
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const int first = live_first(p, tile.row + m * 16 + 8 * h) - tile.start, end = live_end(p, tile.row + m * 16 + 8 * h) - tile.start;
      exponent[h] = live_value_exponent(tile, first, end);
      const float factor = __int_as_float((127 - exponent[h]) << 23);
#pragma unroll
      for (int j = 0; j < 8; j++) y[j >> 2][(j >> 1 & 1) * 2 + h][j & 1] = mul_half2(y[j >> 2][(j >> 1 & 1) * 2 + h][j & 1], live_value_scales(tile, first, end, j * 8 + t * 2, factor));
    }
  }
#pragma unroll
  for (int h = 0; h < 2; h++) {
#pragma unroll
    for (int j = 0; j < 8; j++) top[h] = max_half2(top[h], y[j >> 2][(j >> 1 & 1) * 2 + h][j & 1]);
    top[h] = max_half2(top[h], top[h] >> 16);
    top[h] = max_half2(top[h], __shfl_xor_sync(~0u, top[h], 1));
    top[h] = max_half2(top[h], __shfl_xor_sync(~0u, top[h], 2)) & 0xffffu;
    want[h] = w.unit[m][h] + exponent[h] - ifa_value_shift((uint16_t)top[h]);
    moves[h] = top[h] != 0 && unit_moves(w.value_unit[m][h], want[h], p.tau);
  }
  if (__any_sync(~0u, moves[0] || moves[1])) {
    move_value_unit(w, m, 0, want[0], moves[0], p.tau, tile.growth_keys);
    move_value_unit(w, m, 1, want[1], moves[1], p.tau, tile.growth_keys);
  }
  uint32_t factor[2];
#pragma unroll
  for (int h = 0; h < 2; h++) factor[h] = top[h] ? twice(half_pow2(w.unit[m][h] + exponent[h] - w.value_unit[m][h])) : 0u;
#pragma unroll
  for (int kk = 0; kk < 2; kk++)
#pragma unroll
    for (int x = 0; x < 4; x++) pa[kk][x] = __byte_perm(product_byte(y[kk][x][0], factor[x & 1]), product_byte(y[kk][x][1], factor[x & 1]), 0x6420);
}

/* Section 9. A thread's float sums between splits lie in global memory: D / 8 * 4 MT sums, then per row half L, E and E'. */
template <int D> __device__ __forceinline__ float *sums_at(float *sums, int index) { return sums + (int64_t)index * Shape<D>::THREADS; }

template <int D, bool TOKEN> __device__ __noinline__ void start_sums(float *sums) {
  for (int i = 0; i < Shape<D>::MT * 2; i++) {
    *sums_at<D>(sums, Shape<D>::SUMS + 3 * i + 1) = __int_as_float(IFA_NO_UNIT);
    *sums_at<D>(sums, Shape<D>::SUMS + 3 * i + 2) = __int_as_float(IFA_NO_UNIT);
  }
}

template <int D, bool TOKEN> __device__ __forceinline__ void end_split(Warp<D, TOKEN> &w, float *sums) {
  constexpr int THREADS = Shape<D>::THREADS;
#pragma unroll
  for (int m = 0; m < Shape<D>::MT; m++)
#pragma unroll
    for (int h = 0; h < 2; h++) {
      float *row = sums_at<D>(sums, Shape<D>::SUMS + 3 * (2 * m + h));
      int sum = quad_sum(w.l[m][h]), unit = w.unit[m][h], value_unit = TOKEN ? w.value_unit[m][h] : unit;
      int before = __float_as_int(row[THREADS]), value_before = __float_as_int(row[2 * THREADS]);
      if (unit != IFA_NO_UNIT) {
        int e = max(unit, before);
        row[0] = before == IFA_NO_UNIT ? (float)sum : ifa_merge(row[0], before, sum, unit, e);
        row[THREADS] = __int_as_float(e);
      }
      if (value_unit != IFA_NO_UNIT) {
        int e = max(value_unit, value_before);
#pragma unroll
        for (int i = 0; i < D / 8; i++)
#pragma unroll
          for (int j = 2 * h; j < 2 * h + 2; j++) {
            float *at = sums_at<D>(sums, (m * (D / 8) + i) * 4 + j);
            *at = value_before == IFA_NO_UNIT ? (float)w.acc[m][i][j] : ifa_merge(*at, value_before, w.acc[m][i][j], value_unit, e);
            w.acc[m][i][j] = 0;
          }
        row[2 * THREADS] = __int_as_float(e);
      }
      w.l[m][h] = 0;
      w.unit[m][h] = w.value_unit[m][h] = IFA_NO_UNIT;
    }
}

/* Sections 10 and 11. */
template <int D, bool TOKEN>
__device__ __forceinline__ void write_rows(const ifa_gpu_params &a, Warp<D, TOKEN> &w, const float *sums, int64_t batch, int64_t head, int64_t kv_matrix, int64_t row) {
  constexpr int THREADS = Shape<D>::THREADS;
  const ifa_problem &p = a.p;
  const int t = threadIdx.x & 3;
#pragma unroll
  for (int m = 0; m < Shape<D>::MT; m++)
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const int64_t i = row + m * 16 + 8 * h, base = ifa_offset(p.o_stride, batch, head, i);
      float l = (float)quad_sum(w.l[m][h]);
      int unit = w.unit[m][h], value_unit = TOKEN ? w.value_unit[m][h] : unit;
      if (sums) {
        const float *kept = sums + (int64_t)(Shape<D>::SUMS + 3 * (2 * m + h)) * THREADS;
        l = kept[0];
        unit = __float_as_int(kept[THREADS]);
        value_unit = __float_as_int(kept[2 * THREADS]);
      }
      if (i >= p.nq) continue;
      const bool empty = unit == IFA_NO_UNIT || value_unit == IFA_NO_UNIT;
#pragma unroll
      for (int n = 0; n < D / 8; n++)
#pragma unroll
        for (int j = 0; j < 2; j++) {
          const int d = n * 8 + t * 2 + j;
          if (d >= p.head_dim) continue;
          float value = 0.0f;
          if (!empty) {
            float o = sums ? sums[(int64_t)((m * (D / 8) + n) * 4 + 2 * h + j) * THREADS] : (float)w.acc[m][n][2 * h + j];
            if (TOKEN) {
              value = ifa_output_token(o, l, value_unit - unit);
              if (p.v_scale == IFA_SCALE_TOKEN_CHANNEL) value = __fmul_rn(value, a.in.v_channel_scale[kv_matrix * p.head_dim + d]);
            } else {
              value = ifa_output(o, l, p.v_scale == IFA_SCALE_TENSOR ? a.in.v_scale[kv_matrix] : a.in.v_scale[kv_matrix * p.head_dim + d]);
            }
          }
          ifa_float_set(p.out_type, a.o, base + d, value);
        }
      if (a.lse && t == 0) a.lse[(batch * p.q_heads + head) * p.nq + i] = unit == IFA_NO_UNIT ? -INFINITY : ifa_lse(l, unit);
    }
}

template <int D, bool TOKEN> __global__ void __launch_bounds__(Shape<D>::THREADS, Shape<D>::CTAS) attend(__grid_constant__ const ifa_gpu_params a) {
  constexpr int MT = Shape<D>::MT;
  extern __shared__ __align__(128) uint8_t shared_bytes[];
  Shared<D> &s = *(Shared<D> *)shared_bytes;
  const ifa_problem &p = a.p;
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;

  /* Rows that see most keys first (causal); heads that share K and V together. */
  const int64_t heads = p.batch * p.q_heads, blocks = (p.nq + Shape<D>::ROWS - 1) / Shape<D>::ROWS;
  const int64_t row0 = (blocks - 1 - (int64_t)blockIdx.x / heads) * Shape<D>::ROWS, matrix = (int64_t)blockIdx.x % heads;
  const int64_t batch = matrix / p.q_heads, head = matrix % p.q_heads, kv_matrix = batch * p.kv_heads + head / (p.q_heads / p.kv_heads);
  const int64_t warp_row0 = row0 + warp * 16 * MT, warp_last = warp_row0 + 16 * MT - 1 < p.nq ? warp_row0 + 16 * MT - 1 : p.nq - 1;
  const int64_t cta_last = row0 + Shape<D>::ROWS - 1 < p.nq ? row0 + Shape<D>::ROWS - 1 : p.nq - 1;

  /* Tiles of the CTA; keys that some row, and that every row of the warp sees (both ends move with the row). */
  const int tile_first = live_first(p, row0) / TILE, tile_last = (live_end(p, cta_last) + TILE - 1) / TILE, steps = max(tile_last - tile_first, 0);
  const int any_first = live_first(p, warp_row0), any_end = warp_row0 < p.nq ? live_end(p, warp_last) : 0;
  const int all_first = live_first(p, warp_row0 + 16 * MT - 1), all_end = warp_row0 + 16 * MT <= p.nq ? live_end(p, warp_row0) : 0;
  const int split_tiles = (int)(p.kv_split / TILE);
  float *sums = a.packed.split_sums ? a.packed.split_sums + (int64_t)blockIdx.x * (Shape<D>::SUMS + 6 * MT) * Shape<D>::THREADS + threadIdx.x : nullptr;

  Warp<D, TOKEN> w;
#pragma unroll
  for (int m = 0; m < MT; m++)
#pragma unroll
    for (int h = 0; h < 2; h++) {
      w.row_factor[m][h] = ifa_row_factor(q_scale_of(a, matrix, warp_row0 + m * 16 + (lane >> 2) + 8 * h), p.sm_scale);
      w.l[m][h] = 0;
      w.unit[m][h] = w.value_unit[m][h] = IFA_NO_UNIT;
    }
#pragma unroll
  for (int m = 0; m < MT; m++)
#pragma unroll
    for (int i = 0; i < D / 8; i++)
#pragma unroll
      for (int j = 0; j < 4; j++) w.acc[m][i][j] = 0;
  if (sums) start_sums<D, TOKEN>(sums);

  constexpr int BYTES = IFA_GPU_TILE_BYTES(D);
  const uint32_t stages = shared_address(s.tile[0]);
  const uint8_t *from = a.packed.tiles + (kv_matrix * a.tiles + tile_first) * (int64_t)BYTES + threadIdx.x * 16; /* the next tile to copy */
  for (int n = 0; n < STAGES - 1; n++, from += BYTES) {
    if (n < steps) copy_tile<D, TOKEN>(stages + n * BYTES + threadIdx.x * 16, from);
    copy_commit();
  }
  load_q<D>(a, s, batch, head, row0);

  const uint32_t q_base = shared_address(s.q) + (warp * 16 * MT + (lane & 15)) * Shape<D>::K_PITCH + (lane >> 4) * 16;
  const uint32_t k_lane = stages + (lane & 7) * Shape<D>::K_PITCH + (lane >> 3) * 16;
  const uint32_t v_lane = stages + IFA_GPU_AT_V(D) + (lane & 7) * Shape<D>::V_PITCH + (lane >> 3) * 16;
  int stage = 0, split_end = (tile_first / split_tiles + 1) * split_tiles * TILE; /* keys; at most nk + 32768 */
  for (int step = 0; step < steps; step++, stage = stage + 1 == STAGES ? 0 : stage + 1) {
    const int start = (tile_first + step) * TILE;
    copy_wait<STAGES - 2>();
    __syncthreads(); /* this tile has come, and the one before is no longer in use */
    if (step + STAGES - 1 < steps) copy_tile<D, TOKEN>(stages + (stage == 0 ? STAGES - 1 : stage - 1) * BYTES + threadIdx.x * 16, from);
    copy_commit();
    from += BYTES;
    if (start == split_end) {
      end_split<D, TOKEN>(w, sums);
      split_end += split_tiles * TILE;
    }
    if (start >= any_end || start + TILE <= any_first) continue; /* no row of the warp sees this tile */

    int sc[MT][8][4];
    uint32_t pa[MT][2][4];
    multiply_qk<D>(sc, q_base, k_lane + stage * BYTES);
    Tile tile;
    tile.start = start;
    tile.growth_keys = split_end - start;
    const float *scales = (const float *)(s.tile[stage] + IFA_GPU_AT_SCALES(D));
    tile.k_scale = scales + (lane & 3) * 2;
    tile.v_scale16 = (const uint16_t *)(s.tile[stage] + IFA_GPU_AT_V_SCALE16(D)) + (lane & 3) * 2;
    tile.scale = scales[TILE];
    tile.exponent = TOKEN ? __float_as_int(scales[TILE + 1]) : 0;
    tile.v_scale = TOKEN ? a.in.v_scale + kv_matrix * p.nk + start : nullptr;
    tile.whole = start >= all_first && start + TILE <= all_end;
    tile.row = warp_row0 + (lane >> 2);
#pragma unroll
    for (int m = 0; m < MT; m++) weigh<D, TOKEN>(w, p, tile, m, sc[m], pa[m]);
    multiply_pv<D, TOKEN>(w, pa, v_lane + stage * BYTES);
  }
  copy_wait<0>();
  if (sums) end_split<D, TOKEN>(w, sums);
  write_rows<D, TOKEN>(a, w, sums, batch, head, kv_matrix, warp_row0 + (lane >> 2));
}

}  // namespace sm80

#endif
