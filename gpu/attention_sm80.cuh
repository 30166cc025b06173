/* attention_sm80.cuh - the contract (docs/numerics.md, sections 3 to 11) on mma.sync: INT8 tensor cores from sm_80 on.
 *
 * A warp owns 16 query rows and walks the key tiles (64 keys); the warps of a CTA share the tiles. A step has two straight pieces of code, in
 * which the tensor cores and the other units work side by side:
 *
 *     weights of this tile:  u -> index -> h, g, p       |  S' = Q K'^T      mma m16n8k32 s8 x s8, K' the next tile
 *     scores of the next:    u' = S' * k_scale', max u'  |  acc += P V       mma m16n8k32 u8 x s8
 *
 * Between them the units: one vote of the warp says that no unit moves, no mask cuts the tile and no split ends, and only otherwise does it
 * look closer (then l and acc are shifted in place).
 *
 * Thread-to-data map of an accumulator tile (16 rows x 8 columns): lane = 4 g + t holds rows g and g + 8, columns 2t and 2t + 1.
 * An A operand wants 4 consecutive bytes of k per thread, so V's keys are permuted when they are packed: slot p of a group of 32 holds key
 *     16 (p >> 4) + 8 ((p & 3) >> 1) + 2 ((p & 15) >> 2) + (p & 1),
 * which makes the packed weights of S tiles 4i .. 4i+3 the A fragment of that group without any exchange. Integer sums allow it.
 *
 * Shared memory: a ring of tiles of K, V and scales (gpu/params.h), and Q [rows][D]; chunks of 16 bytes are swizzled so that the 8 rows of an
 * ldmatrix lie in different banks. Registers: acc D / 2, u and S' 32 each. */
#ifndef IFA_GPU_ATTENTION_SM80_CUH
#define IFA_GPU_ATTENTION_SM80_CUH

#include <cuda_fp16.h>

#include <stddef.h>

#include <type_traits>

#include "common/contract.h"
#include "common/operand.h"
#include "gpu/faults.h"
#include "gpu/params.h"
#include "gpu/stages.cuh"

namespace sm80 {

constexpr int TILE = IFA_GPU_TILE;
constexpr int SCORE_ZERO = 0x4b400000; /* 1.5 * 2^23 */

__device__ __forceinline__ int score_zero() { return FAULT(score_zero_2_23) ? 0x4b000000 : SCORE_ZERO; }

template <int D> struct Shape {
  static constexpr int WARPS = D <= 128 ? 4 : 8;                /* a CTA */
  static constexpr int CTAS = D <= 64 ? 3 : D <= 128 ? 2 : 1;   /* a multiprocessor: bounds the registers to 168 or 255 */
  static constexpr int STAGES = D <= 64 ? 8 : D <= 128 ? 6 : 4; /* tiles in shared memory */
  static constexpr int THREADS = 32 * WARPS, ROWS = 16 * WARPS;
  static constexpr int SUMS = D / 2;                            /* accumulators a thread */
};

template <int D> struct Shared {
  uint8_t tile[Shape<D>::STAGES][IFA_GPU_TILE_BYTES(D)]; /* gpu/params.h */
  int8_t q[Shape<D>::ROWS * D];                /* swizzled as K */
  uint64_t full[Shape<D>::STAGES];                       /* mbarriers: the tile has come */
  uint32_t released[Shape<D>::STAGES];                   /* warps that are done with it, counted on and on */
};

/* ---- instructions: with IFA_GPU_EMULATION plain C++ in their place (tests/gpu_emulation) ---- */

#ifdef IFA_GPU_EMULATION
}  // namespace sm80
#include "tests/gpu_emulation/instructions.h"
namespace sm80 {
#else
__device__ __forceinline__ uint32_t shared_address(const void *p) { return (uint32_t)__cvta_generic_to_shared(p); }

__device__ __forceinline__ void copy16(uint32_t to, const void *from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from));
}
__device__ __forceinline__ void copy_commit() { asm volatile("cp.async.commit_group;"); }
template <int N> __device__ __forceinline__ void copy_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(N)); }

/* Bulk copies and their barriers, from compute capability 9.0 on. IFA_GPU_NO_BULK builds the older way for any. */
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900 && !defined(IFA_GPU_NO_BULK)
#define IFA_GPU_BULK 1
__device__ __forceinline__ void barrier_init(uint32_t barrier) { asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(barrier) : "memory"); }
__device__ __forceinline__ void barrier_fence() { /* what was initialized is there for copies too */
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
/* Is the phase over? Says so later than it asks, so ask early. */
__device__ __forceinline__ bool barrier_poll(uint32_t barrier, uint32_t parity) {
  uint32_t done;
  asm volatile("{\n.reg .pred done;\nmbarrier.test_wait.parity.shared::cta.b64 done, [%1], %2;\nselp.u32 %0, 1, 0, done;\n}" : "=r"(done) : "r"(barrier), "r"(parity) : "memory");
  return done != 0;
}
__device__ __forceinline__ void barrier_wait(uint32_t barrier, uint32_t parity) {
#ifdef IFA_GPU_MUTANT /* not for ever */
  for (int tries = 0; tries < 1 << 16; tries++)
    if (barrier_poll(barrier, parity)) return;
#else
  asm volatile(
      "{\n.reg .pred done;\nAGAIN:\nmbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n@!done bra AGAIN;\n}" ::"r"(barrier), "r"(parity) : "memory");
#endif
}
/* One thread: `bytes` (a multiple of 16) from global memory; the barrier's phase ends when they are there. */
__device__ __forceinline__ void copy_bulk(uint32_t to, const void *from, uint32_t bytes, uint32_t barrier) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to), "l"(from), "r"(bytes), "r"(barrier) : "memory");
}
__device__ __forceinline__ uint32_t count_up(uint32_t counter) {
  uint32_t before;
  asm volatile("atom.shared::cta.add.u32 %0, [%1], 1;" : "=r"(before) : "r"(counter) : "memory");
  return before;
}
#endif

__device__ __forceinline__ void load_matrices(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address));
}

__device__ __forceinline__ void mma_s8(int (&c)[4], const uint32_t *a, uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
/* The first of a sum, begun at the bits of 1.5 * 2^23: as a binary32 the sum then is 1.5 * 2^23 + S, for |S| <= 2^22. */
__device__ __forceinline__ void mma_s8_first(int (&c)[4], const uint32_t *a, uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%10,%10,%10};"
               : "=r"(c[0]), "=r"(c[1]), "=r"(c[2]), "=r"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "r"(score_zero()));
}
__device__ __forceinline__ void mma_u8(int (&c)[4], const uint32_t *a, uint32_t b0, uint32_t b1) {
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
  if (FAULT(weight_not_saturated)) return __fmaf_rn(a, b, c);
  asm("fma.rn.sat.f32 %0, %1, %2, %3;" : "=f"(d) : "f"(a), "f"(b), "f"(c));
  return d;
}

#endif

/* (the larger of three, as one instruction from 9.0 on) */
__device__ __forceinline__ int max3(int a, int b, int c) { return max(max(a, b), c); }

__device__ __forceinline__ constexpr uint32_t twice(uint32_t half) { return half << 16 | half; }

/* ---- section 6, two scores at a time ---- */

/* h of both: n is the low half of 32768 z + 1.5 * 2^23. */
__device__ __forceinline__ uint32_t weight_h(float u0, float u1, float r32, float c) {
  float n0 = __fmaf_rn(fma_saturated(u0, r32, c), 32768.0f, 12582912.0f), n1 = __fmaf_rn(fma_saturated(u1, r32, c), 32768.0f, 12582912.0f);
  return __byte_perm(__float_as_uint(n0), __float_as_uint(n1), 0x5410);
}
__device__ __forceinline__ uint32_t weight_g(uint32_t h) {
  uint32_t w = ((FAULT(fraction_not_complemented) ? h : ~h) & 0x03ff03ffu) | 0x3c003c00u;
  uint32_t g = fma_half2(w, twice(IFA_WEIGHT_C3), twice(IFA_WEIGHT_C2));
  return fma_half2(fma_half2(g, w, twice(IFA_WEIGHT_C1)), w, twice(IFA_WEIGHT_C0));
}
/* rne(a * b) in the low byte of each half: a * b + 1024 rounded to binary16 has an ulp of 1. */
__device__ __forceinline__ uint32_t product_byte(uint32_t a, uint32_t b) { return fma_half2(a, b, FAULT(round_constant_in_one_half) ? 0x00006400u : 0x64006400u); }

/* 2^m as a binary16 pattern, m <= 15. */
__device__ __forceinline__ uint32_t half_pow2(int m) { return m >= -14 ? (uint32_t)(m + 15) << 10 : m >= -24 && !FAULT(value_factor_flushed) ? 1u << (m + 24) : 0u; }

/* ---- a warp's state ---- */

template <int D, bool TOKEN> struct Warp {
  int acc[D / 8][4];
  int l[2];          /* this thread's part of the row's sum; the quad's four parts add up to l */
  float unit[2];     /* U, exact in binary32; -infinity: none yet */
  int value_unit[2]; /* V per token: U' */
  float row_factor[2];
};

__device__ __forceinline__ int unit_of(float unit) { return __float2int_rz(unit); } /* -infinity gives the least integer, IFA_NO_UNIT */

__device__ __forceinline__ int quad_sum(int x) {
  x += __shfl_xor_sync(~0u, x, 1);
  if (FAULT(quad_sum_of_two_lanes)) return x;
  return x + __shfl_xor_sync(~0u, x, 2);
}
__device__ __forceinline__ int quad_max(int x) {
  x = max(x, __shfl_xor_sync(~0u, x, 1));
  if (FAULT(quad_max_of_two_lanes)) return x;
  return max(x, __shfl_xor_sync(~0u, x, 2));
}

/* Does any lane's unit move? */
__device__ __forceinline__ bool any_moves(bool moves) { return FAULT(move_vote_of_one_lane) ? __shfl_sync(~0u, (int)moves, 0) : __any_sync(~0u, moves); }

/* max_d |acc_d| of row half h. */
template <int D, bool TOKEN> __device__ __forceinline__ int largest_acc(const Warp<D, TOKEN> &w, int h) {
  int high = 0, low = 0;
#pragma unroll
  for (int i = 0; i < D / 8; i++) {
    high = max3(high, w.acc[i][2 * h], w.acc[i][2 * h + 1]);
    low = min(min(low, w.acc[i][2 * h]), w.acc[i][2 * h + 1]);
  }
  if (FAULT(largest_acc_of_one_lane)) return max(high, -low);
  return quad_max(max(high, -low));
}

/* acc of the two rows moved up[h] octaves (0: not). Most often all that move, move one way. */
template <int D, bool TOKEN> __device__ __forceinline__ void shift_acc(Warp<D, TOKEN> &w, const int (&up)[2]) {
  const int left[2] = {min(max(-up[0], 0), 31), min(max(-up[1], 0), 31)}, right[2] = {min(max(up[0], 0), 31), min(max(up[1], 0), 31)};
  if (__any_sync(~0u, right[0] | right[1])) {
#pragma unroll
    for (int i = 0; i < D / 8; i++)
#pragma unroll
      for (int j = 0; j < 4; j++) w.acc[i][j] >>= right[FAULT(shift_of_first_row_half) ? 0 : j >> 1];
  }
  if (__any_sync(~0u, left[0] | left[1])) {
#pragma unroll
    for (int i = 0; i < D / 8; i++)
#pragma unroll
      for (int j = 0; j < 4; j++) w.acc[i][j] = (int)((uint32_t)w.acc[i][j] << left[FAULT(shift_of_first_row_half) ? 0 : j >> 1]);
  }
}

/* ifa_headroom without a loop: the largest k in 0 .. wanted with magnitude * 2^k <= limit. */
__device__ __forceinline__ int headroom(int magnitude, int growth, int wanted) {
  const int limit = INT32_MAX - growth, k = __clz(magnitude) - __clz(limit); /* magnitude * 2^k has as many bits as the limit */
  const int room = k < 0 ? 0 : (magnitude << (k & 31)) <= limit || FAULT(headroom_without_compare) ? k : max(k - 1, 0);
  return magnitude == 0 ? wanted : min(wanted, room);
}

/* ifa_next_unit for a row that must move; IFA_NO_UNIT, the least integer, is below any. */
__device__ __forceinline__ int next_unit(int unit, int want, int magnitude, int growth) {
  return want > unit ? want : unit - headroom(magnitude, growth, unit - want);
}

/* Sections 5 and 7, when some row of the warp must move (all lanes take part); x: its largest score; `moves`: this one must. The threads of a row agree. */
template <int D, bool TOKEN>
__device__ __forceinline__ void move_units(Warp<D, TOKEN> &w, const float (&x)[2], const bool (&moves)[2], int growth_keys) {
  int old[2], want[2], sum[2], magnitude[2], up[2];
#pragma unroll
  for (int h = 0; h < 2; h++) {
    old[h] = unit_of(w.unit[h]);
    want[h] = moves[h] ? (int)floorf(x[h]) + 1 : old[h];
    magnitude[h] = sum[h] = quad_sum(w.l[h]);
  }
  if (!TOKEN && __any_sync(~0u, (want[0] < old[0]) | (want[1] < old[1]))) { /* only a fall asks for headroom */
#pragma unroll
    for (int h = 0; h < 2; h++) magnitude[h] = max(magnitude[h], largest_acc(w, h));
  }
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const int next = next_unit(old[h], want[h], magnitude[h], (TOKEN ? IFA_WEIGHT_MAX : IFA_MAX_PRODUCT) * growth_keys);
    up[h] = old[h] == IFA_NO_UNIT ? 0 : next - old[h];
    const int left = min(max(-up[h], 0), 31), right = min(max(up[h], 0), 31); /* 31 octaves down or more: only nothing falls so far */
    if (FAULT(l_shifted_in_parts)) w.l[h] = (w.l[h] << left) >> right;
    else w.l[h] = (threadIdx.x & 3) == 0 || FAULT(gathered_l_kept_by_all) ? (sum[h] << left) >> right : 0;
    w.unit[h] = next == IFA_NO_UNIT ? -INFINITY : (float)next;
  }
  if (!TOKEN) shift_acc(w, up);
}

template <int D, bool TOKEN>
__device__ __forceinline__ void move_value_units(Warp<D, TOKEN> &w, const int (&want)[2], const bool (&moves)[2], int growth_keys) {
  int up[2], magnitude[2] = {0, 0};
  if (__any_sync(~0u, (moves[0] & (want[0] < w.value_unit[0])) | (moves[1] & (want[1] < w.value_unit[1])))) {
#pragma unroll
    for (int h = 0; h < 2; h++) magnitude[h] = largest_acc(w, h);
  }
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const int old = w.value_unit[h], next = moves[h] ? next_unit(old, want[h], magnitude[h], IFA_MAX_PRODUCT * growth_keys) : old;
    up[h] = old == IFA_NO_UNIT ? 0 : next - old;
    w.value_unit[h] = next;
  }
  shift_acc(w, up);
}

/* ---- the kernel ---- */

/* The ring of tiles in shared memory. Every warp calls for every step, in order, wait_first or (before releasing the one before) wait_next, then release; or
 * pass instead.
 * From 9.0 on one thread copies a tile as one piece, and the last warp to release a place fills it again: nobody waits for anybody. Before, all
 * threads copy, and a barrier a step says that the tile has come and the one before is free. */
template <int D, bool TOKEN> struct Ring {
  static constexpr int STAGES = Shape<D>::STAGES;
  static constexpr uint32_t BYTES = IFA_GPU_TILE_BYTES(D), COPIED = TOKEN ? BYTES : IFA_GPU_AT_V_SCALE16(D);
  __device__ __forceinline__ static uint32_t copied() { return FAULT(v_scales_not_copied) ? IFA_GPU_AT_V_SCALE16(D) : COPIED; }
  uint32_t first;       /* shared address of place 0 */
  const uint8_t *tiles; /* of step 0; in the older way this thread's 16 bytes of it */
  int steps, place = 0; /* where the current step's tile lies */
  uint32_t phase = 0;   /* parity of that place's barrier */

  __device__ __forceinline__ int place_after() const { return place + 1 == STAGES ? 0 : place + 1; }
  __device__ __forceinline__ uint32_t phase_after() const { return place + 1 == STAGES ? phase ^ 1 : phase; }
  __device__ __forceinline__ void advance() { phase = phase_after(), place = place_after(); }
#ifdef IFA_GPU_BULK
  uint32_t before; /* the count that this warp's last release found, looked at one release later */

  __device__ __forceinline__ uint32_t full(int place) const { return first + (uint32_t)offsetof(Shared<D>, full) + 8 * place; }
  __device__ __forceinline__ uint32_t released(int place) const { return first + (uint32_t)offsetof(Shared<D>, released) + 4 * place; }
  __device__ __forceinline__ void fill(int to, int step) { copy_bulk(first + to * BYTES, tiles + (int64_t)step * BYTES, copied(), full(to)); }
  __device__ __forceinline__ void fill_all() {
    for (int n = 0; n < STAGES && n < steps; n++) fill(n, n);
  }
  __device__ __forceinline__ void start(Shared<D> &s, const uint8_t *from, int count) {
    first = shared_address(&s), tiles = from, steps = count, before = 0;
    if (threadIdx.x == 0) {
      for (int n = 0; n < STAGES; n++) barrier_init(full(n)), s.released[n] = 0;
      barrier_fence();
      if (FAULT(copies_late)) fault_late();
      if (!FAULT(first_tile_not_awaited)) fill_all();
    }
  }
  /* The first step's tile; the next one's: has it come, and wait until it has. */
  __device__ __forceinline__ void wait_first(int step) {
    if (FAULT(first_tile_not_awaited) && step == 0) {
      if (threadIdx.x == 0) fault_late(), fill_all();
      return;
    }
    barrier_wait(full(place), phase);
  }
  __device__ __forceinline__ bool poll_next() { return barrier_poll(full(place_after()), phase_after()); }
  __device__ __forceinline__ void wait_next(int, bool come) {
    if (!come && !FAULT(next_tile_not_awaited)) barrier_wait(full(place_after()), phase_after());
  }
  /* The place before is filled again if this warp was its last; so a place waits a step longer, but no warp for the counter. */
  __device__ __forceinline__ void release(int step) {
    if (FAULT(next_tile_not_awaited) || FAULT(first_tile_not_awaited)) barrier_wait(full(place), phase); /* too late, but nobody is left behind */
    __syncwarp();
    if ((threadIdx.x & 31) == 0) {
      if ((FAULT(next_tile_not_awaited) || FAULT(copies_late)) && before % Shape<D>::WARPS == Shape<D>::WARPS - 1) fault_late();
      if (__builtin_expect(before % Shape<D>::WARPS == Shape<D>::WARPS - 1 && step - 1 + STAGES < steps, 0)) fill(place == 0 ? STAGES - 1 : place - 1, step - 1 + STAGES - FAULT(refill_of_tile_before));
      before = count_up(released(place));
    }
    advance();
  }
  /* Waits too: a warp that ran ahead would be counted for a tile that is not there yet. */
  __device__ __forceinline__ void pass(int step) {
    wait_first(step);
    release(step);
  }
#else
  __device__ __forceinline__ void fill(int step) {
    constexpr int THREADS = Shape<D>::THREADS, CHUNKS = COPIED / 16;
    const uint32_t to = first + step % STAGES * BYTES + threadIdx.x * 16; /* step n lies in place n % STAGES */
    const uint8_t *from = tiles + (int64_t)(step - (FAULT(refill_of_tile_before) && step >= STAGES)) * BYTES;
    if (FAULT(copies_late)) fault_late();
    if (step < steps) {
#pragma unroll
      for (int n = 0; n < (CHUNKS + THREADS - 1) / THREADS; n++)
        if (((n + 1) * THREADS <= CHUNKS || (int)threadIdx.x < CHUNKS - n * THREADS) && !(FAULT(v_scales_not_copied) && (threadIdx.x + n * THREADS) * 16 >= copied())) copy16(to + n * THREADS * 16, from + n * THREADS * 16);
    }
    copy_commit();
  }
  __device__ __forceinline__ void start(Shared<D> &s, const uint8_t *from, int count) {
    first = shared_address(s.tile[0]), tiles = from + threadIdx.x * 16, steps = count;
    for (int n = 0; n < STAGES - 2; n++) fill(n);
  }
  /* After the barrier nobody uses the place of step - 2 any more. */
  __device__ __forceinline__ void wait_first(int step) {
    if (!(FAULT(first_tile_not_awaited) && step == 0) && !FAULT(next_tile_not_awaited)) copy_wait<STAGES - 3>();
    if (FAULT(tile_released_early)) fill(step + STAGES - 2);
    if (!FAULT(q_barrier_missing) || step > 0) __syncthreads();
    if (!FAULT(tile_released_early)) fill(step + STAGES - 2);
  }
  __device__ __forceinline__ bool poll_next() { return false; }
  __device__ __forceinline__ void wait_next(int step, bool) { wait_first(step + 1); }
  __device__ __forceinline__ void release(int) { advance(); }
  __device__ __forceinline__ void pass(int step) {
    wait_first(step);
    advance();
  }
#endif
};

/* Q rows row0 .. of the CTA into shared memory, zeros beyond nq and head_dim. Once a CTA, so any stride and INT4 may be slow. */
template <int D>
__device__ __forceinline__ void load_q(const ifa_gpu_params &a, Shared<D> &s, int64_t batch, int64_t head, int64_t row0) {
  const ifa_problem &p = a.p;
  bool vector = p.q_type == IFA_I8 && p.head_dim == D && p.q_stride.token % 16 == 0 && p.q_stride.head % 16 == 0 && p.q_stride.batch % 16 == 0 &&
                ((uintptr_t)a.in.q & 15) == 0;
  for (int i = threadIdx.x; i < Shape<D>::ROWS * D / 16; i += Shape<D>::THREADS) {
    int r = i / (D / 16);
    int64_t row = row0 + r, at = ifa_offset(p.q_stride, batch, head, row) + i % (D / 16) * 16;
    int8_t *to = s.q + r * D + ((i % (D / 16)) ^ IFA_GPU_SWIZZLE(D, r)) * 16;
    if (vector && row < p.nq) {
      *(int4 *)to = *(const int4 *)((const int8_t *)a.in.q + at);
    } else {
      for (int j = 0; j < 16; j++) to[j] = row < p.nq && i % (D / 16) * 16 + j < p.head_dim ? (int8_t)ifa_operand_get(p.q_type, a.in.q, at + j) : FAULT(padding_not_zero);
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

/* ---- products and weights, interleaved: while the tensor cores multiply, the other units weigh ---- */

template <int D> struct Products {
  static constexpr int QK = (D + 63) / 64 * 4; /* groups of QK^T: 64 channels (or the last 32) by two S tiles */
  static constexpr int PV = D / 32;            /* groups of PV: 32 channels by 64 keys */
};

/* Where this lane reads fragments. Further chunks of a row are a XOR away from the first. */
struct Lane {
  uint32_t q; /* its row of the warp's Q, and chunk 0 or 1 */
  uint32_t q_chunk;
  uint32_t k; /* row lane & 7 of K's place 0, and chunks 0 .. 3 by lane >> 3 */
  uint32_t k_chunk;
  uint32_t v; /* the same of V */
};

/* Group g's fragments of Q. */
template <int D> __device__ __forceinline__ void load_q_fragments(uint32_t (&q)[2][4], const Lane &lane, int g) {
#pragma unroll
  for (int i = 0; i < 2 && g / 4 * 64 + 32 * i < D; i++) {
    const int d = g / 4 * 64 + 32 * i;
    load_matrices(q[i], lane.q + (lane.q_chunk ^ (d & 127)) + (d & ~127));
    if (FAULT(q_registers_exchanged)) {
      const uint32_t other = q[i][1];
      q[i][1] = q[i][2], q[i][2] = other;
    }
  }
}

/* Group g's fragments of K; where D = 32 or 96 ends there are only 32 channels, and the lanes of chunks 2 and 3 read 0 and 1 again. */
template <int D> __device__ __forceinline__ void load_k_fragments(uint32_t (&b)[2][4], const Lane &lane, uint32_t place, int g) {
  const int d = g / 4 * 64, j = g % 4 * 2;
  const uint32_t at = lane.k + place + ((d + 32 < D ? lane.k_chunk : lane.k_chunk & ~32u) ^ (d & 127)) + (d & ~127);
#pragma unroll
  for (int n = 0; n < 2; n++) load_matrices(b[n], at + (FAULT(k_tiles_exchanged) ? (j + n) ^ 1 : j + n) * 8 * D);
}

/* Group g of S = QK^T (plus SCORE_ZERO). */
template <int D> __device__ __forceinline__ void multiply_qk(int (&sc)[8][4], const uint32_t (&q)[2][4], const uint32_t (&b)[2][4], int g) {
  const int d = g / 4 * 64, j = g % 4 * 2;
#pragma unroll
  for (int i = 0; i < (d + 32 < D ? 2 : 1); i++)
#pragma unroll
    for (int n = 0; n < 2; n++) {
      if (d == 0 && i == 0) mma_s8_first(sc[j + n], q[0], b[n][0], b[n][1]);
      else mma_s8(sc[j + n], q[i], b[n][2 * i], b[n][2 * i + 1]);
    }
}

template <int D> __device__ __forceinline__ void load_v_fragments(uint32_t (&b)[4][4], const Lane &lane, uint32_t place, int g) {
#pragma unroll
  for (int n = 0; n < 4; n++) load_matrices(b[n], lane.v + place + (g * 4 + n) * 8 * TILE);
}

/* Group g of acc += P V. */
template <int D, bool TOKEN> __device__ __forceinline__ void multiply_pv(Warp<D, TOKEN> &w, const uint32_t (&pa)[2][4], const uint32_t (&b)[4][4], int g) {
#pragma unroll
  for (int kk = 0; kk < 2; kk++) {
    const bool rows = FAULT(weight_rows_exchanged), keys = FAULT(v_registers_exchanged);
    const uint32_t a[4] = {rows ? pa[kk][1] : pa[kk][0], rows ? pa[kk][0] : pa[kk][1], rows ? pa[kk][3] : pa[kk][2], rows ? pa[kk][2] : pa[kk][3]};
#pragma unroll
    for (int n = 0; n < 4; n++) {
      const uint32_t b0 = keys ? b[n][2 * kk + 1] : b[n][2 * kk], b1 = keys ? b[n][2 * kk] : b[n][2 * kk + 1];
      if (FAULT(weights_as_s8)) mma_s8(w.acc[g * 4 + n], a, b0, b1);
      else mma_u8(w.acc[g * 4 + n], a, b0, b1);
    }
  }
}

/* Scales of a tile in shared memory. */
struct Tile {
  float scale;                 /* of the tile: a K block's, or 1 */
  int exponent;                /* V per token: b */
  const float *k_scale;        /* + 2t */
  const uint16_t *v_scale16;   /* + 2t */
};

/* Section 8 in a tile that a mask or the end of the keys cuts: b of the row from its own live keys. */
__device__ __forceinline__ int live_value_exponent(const float *v_scale, int first, int end) {
  float largest = 0.0f;
  for (int key = max(first, 0) + (threadIdx.x & 3); key < min(end, TILE); key += 4) largest = fmaxf(largest, v_scale[key]);
  largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, 1));
  return ifa_value_exponent(fmaxf(largest, __shfl_xor_sync(~0u, largest, 2)));
}

/* and s_j of two keys; 0 for a key that is not live. 2^-b is a normal number, and the product is exact or far below binary16. */
__device__ __forceinline__ uint32_t live_value_scales(const float *v_scale, int first, int end, int key, float factor) {
  float a = key >= first && key < end ? __fmul_rn(v_scale[key], factor) : 0.0f, b = key + 1 >= first && key + 1 < end ? __fmul_rn(v_scale[key + 1], factor) : 0.0f;
  return (uint32_t)__half_as_ushort(__float2half_rn(b)) << 16 | __half_as_ushort(__float2half_rn(a));
}

/* Section 4 for S tile j. */
__device__ __forceinline__ void score(float (&u)[4], const int (&sc)[4], const Tile &tile, int j) {
  const float2 scale = *(const float2 *)(tile.k_scale + j * 8);
#pragma unroll
  for (int i = 0; i < 4; i++) u[i] = __fmul_rn(__fadd_rn(__int_as_float(sc[i]), -__int_as_float(score_zero())), (i & 1) != FAULT(k_scales_exchanged) ? scale.y : scale.x);
}

/* The largest u of the two rows where a mask cuts the tile (the keys that are not live are set to -infinity) or none is positive. */
__device__ __forceinline__ void largest_live(float (&largest)[2], float (&u)[8][4], const ifa_problem &p, int start, int64_t row) {
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const int64_t masked = FAULT(mask_of_first_row_half) ? row : row + 8 * h;
    const int first = live_first(p, masked) - start, end = live_end(p, masked) - start;
    float most = -INFINITY;
#pragma unroll
    for (int j = 0; j < 8; j++)
#pragma unroll
      for (int i = 0; i < 2; i++) {
        const int key = j * 8 + (threadIdx.x & 3) * 2 + (FAULT(mask_of_key_pairs) ? 0 : i);
        if (key < first || key >= end) u[j][2 * h + i] = -INFINITY;
        most = fmaxf(most, u[j][2 * h + i]);
      }
    most = fmaxf(most, __shfl_xor_sync(~0u, most, 1));
    largest[h] = fmaxf(most, __shfl_xor_sync(~0u, most, 2));
  }
}

/* Section 5: with x = largest u * r the unit stays if U - tau - 1 <= x < U, for then floor(x) + 1 is in U - tau .. U. A row without a live key stays. */
__device__ __forceinline__ bool unit_moves(float x, float unit, float tau1) { return !(x < unit) | !(x >= __fadd_rn(unit, -tau1)); }

/* Section 6 for register x of key group kk of P's A fragment: S tiles 4kk + 2(x >> 1) and the next, row half x & 1. c = (30 - U) / 32. */
template <int D, bool TOKEN, bool WHOLE>
__device__ __forceinline__ void weigh(Warp<D, TOKEN> &w, uint32_t &pa, uint32_t (&y)[2], uint32_t (&highest)[2], const Tile &tile, const float (&u)[8][4], const float (&r32)[2], const float (&c)[2], int kk, int x) {
  const int h = x & 1, j = kk * 4 + (x >> 1) * 2;
  uint32_t p2[2];
#pragma unroll
  for (int n = 0; n < 2; n++) {
    const uint32_t hh = weight_h(u[j + n][2 * h], u[j + n][2 * h + 1], r32[h], c[h]), gg = weight_g(hh);
    p2[n] = product_byte(hh, gg);
    if (TOKEN) y[n] = mul_half2(hh, gg);
    if (TOKEN && WHOLE) {
      y[n] = mul_half2(y[n], *(const uint32_t *)(tile.v_scale16 + (j + n) * 8));
      highest[h] = max_half2(highest[h], y[n]);
    }
  }
  pa = __byte_perm(p2[0], p2[1], FAULT(weights_out_of_order) ? 0x6240 : 0x6420);
  w.l[h] = FAULT(row_sum_signed) ? __dp4a((int)pa, 0x01010101, w.l[h]) : (int)__dp4a(pa, 0x01010101u, (uint32_t)w.l[h]);
}

/* Section 8 in a tile that a mask cuts: from W in y to y. */
__device__ __forceinline__ void scale_live_values(uint32_t (&y)[2][4][2], int (&exponent)[2], uint32_t (&highest)[2], const ifa_problem &p, const float *v_scale, int start, int64_t row) {
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const int first = live_first(p, row + 8 * h) - start, end = live_end(p, row + 8 * h) - start;
    if (!FAULT(live_exponent_of_whole_tile)) exponent[h] = live_value_exponent(v_scale, first, end);
    const float factor = __int_as_float((127 - exponent[h]) << 23);
    highest[h] = 0;
#pragma unroll
    for (int j = 0; j < 8; j++) {
      uint32_t &at = y[j >> 2][(j >> 1 & 1) * 2 + h][j & 1];
      at = mul_half2(at, live_value_scales(v_scale, first, end, j * 8 + (threadIdx.x & 3) * 2, factor));
      highest[h] = max_half2(highest[h], at);
    }
  }
}

/* Section 8: from y, and the largest of each thread, to P, and U'. */
template <int D, bool TOKEN>
__device__ __forceinline__ void weigh_values(Warp<D, TOKEN> &w, uint32_t (&pa)[2][4], const uint32_t (&y)[2][4][2], const int (&exponent)[2], uint32_t (&highest)[2], const ifa_problem &p, int growth_keys) {
  int want[2];
  bool moves[2];
#pragma unroll
  for (int h = 0; h < 2; h++) {
    if (!FAULT(largest_value_of_even_keys)) highest[h] = max_half2(highest[h], highest[h] >> 16);
    highest[h] = max_half2(highest[h], __shfl_xor_sync(~0u, highest[h], 1));
    highest[h] = max_half2(highest[h], __shfl_xor_sync(~0u, highest[h], 2)) & 0xffffu;
    want[h] = unit_of(w.unit[h]) + exponent[h] - ifa_value_shift((uint16_t)highest[h]);
    moves[h] = (highest[h] != 0) & ((want[h] > w.value_unit[h]) | ((p.tau != IFA_TAU_INF) & (want[h] < w.value_unit[h] - p.tau))); /* none yet: the least integer */
  }
  if (any_moves(moves[0] | moves[1])) move_value_units(w, want, moves, growth_keys);
  uint32_t factor[2];
#pragma unroll
  for (int h = 0; h < 2; h++) factor[h] = highest[h] ? twice(half_pow2(unit_of(w.unit[h]) + exponent[h] - w.value_unit[h])) : 0u;
#pragma unroll
  for (int kk = 0; kk < 2; kk++)
#pragma unroll
    for (int x = 0; x < 4; x++) pa[kk][x] = __byte_perm(product_byte(y[kk][x][0], factor[x & 1]), product_byte(y[kk][x][1], factor[x & 1]), 0x6420);
}

/* Section 9. A thread's float sums between splits lie in global memory: D / 2 sums, then per row half L, E and E'. */
template <int D> __device__ __forceinline__ float *sums_at(float *sums, int index) { return sums + (int64_t)index * Shape<D>::THREADS; }

template <int D, bool TOKEN> __device__ __noinline__ void start_sums(float *sums) {
  for (int i = 0; i < 2; i++) {
    *sums_at<D>(sums, Shape<D>::SUMS + 3 * i + 1) = __int_as_float(IFA_NO_UNIT);
    *sums_at<D>(sums, Shape<D>::SUMS + 3 * i + 2) = __int_as_float(IFA_NO_UNIT);
  }
}

template <int D, bool TOKEN> __device__ __forceinline__ void end_split(Warp<D, TOKEN> &w, float *sums) {
  constexpr int THREADS = Shape<D>::THREADS;
#pragma unroll
    for (int h = 0; h < 2; h++) {
      float *row = sums_at<D>(sums, Shape<D>::SUMS + 3 * h);
      int sum = quad_sum(w.l[h]), unit = unit_of(w.unit[h]), value_unit = TOKEN ? w.value_unit[h] : unit;
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
            float *at = sums_at<D>(sums, i * 4 + j);
            *at = value_before == IFA_NO_UNIT ? (float)w.acc[i][j] : ifa_merge(*at, value_before, w.acc[i][j], value_unit, e);
            w.acc[i][j] = 0;
          }
        row[2 * THREADS] = __int_as_float(e);
      }
      if (!FAULT(split_keeps_l)) w.l[h] = 0;
      w.unit[h] = -INFINITY;
      w.value_unit[h] = IFA_NO_UNIT;
    }
}

/* fl(o / l) for integers in binary32: two corrections of o times the reciprocal, the last from a quotient that is at most one unit off, so it rounds correctly
 * (Markstein); no step leaves the normal range. */
__device__ __forceinline__ float divide(float o, float l, float reciprocal) {
  float q = __fmul_rn(o, reciprocal);
  if (FAULT(division_not_corrected)) return q;
  q = __fmaf_rn(__fmaf_rn(-q, l, o), reciprocal, q);
  return __fmaf_rn(__fmaf_rn(-q, l, o), reciprocal, q);
}

/* Two adjacent elements, as one store where that is aligned. */
__device__ __forceinline__ void store_pair(ifa_type type, void *o, int64_t at, float a, float b, bool aligned, bool second) {
  if (aligned && type == IFA_F16) {
    *(__half2 *)((uint16_t *)o + at) = __floats2half2_rn(a, b);
  } else if (aligned && type == IFA_F32) {
    *(float2 *)((float *)o + at) = make_float2(a, b);
  } else {
    ifa_float_set(type, o, at, a);
    if (second || FAULT(output_pair_past_row)) ifa_float_set(type, o, at + 1, b);
  }
}

/* Sections 10 and 11. */
template <int D, bool TOKEN>
__device__ __forceinline__ void write_rows(const ifa_gpu_params &a, Warp<D, TOKEN> &w, const float *sums, int64_t batch, int64_t head, int64_t kv_matrix, int64_t row) {
  constexpr int THREADS = Shape<D>::THREADS;
  const ifa_problem &p = a.p;
  const int t = threadIdx.x & 3;
  /* The channels' factors, all loaded before anything is stored: a load between two stores would wait for them. */
  const int64_t scaled = FAULT(v_scale_of_query_matrix) ? (batch * p.q_heads + head) % (p.batch * p.kv_heads) : kv_matrix;
  const float *factors = TOKEN ? (p.v_scale == IFA_SCALE_TOKEN_CHANNEL ? a.in.v_channel_scale + scaled * p.head_dim : nullptr)
                               : a.in.v_scale + scaled * (p.v_scale == IFA_SCALE_TENSOR ? 1 : p.head_dim);
  float factor[D / 8][2];
  if (factors) {
#pragma unroll
    for (int n = 0; n < D / 8; n++)
#pragma unroll
      for (int j = 0; j < 2; j++) {
        const int d = n * 8 + t * 2 + j;
        factor[n][j] = d < p.head_dim ? factors[p.v_scale == IFA_SCALE_TENSOR ? 0 : d] : 0.0f;
      }
  }
  const bool aligned = ((p.head_dim | p.o_stride.token | p.o_stride.head | p.o_stride.batch) & 1) == 0 && ((uintptr_t)a.o & (p.out_type == IFA_F32 ? 7 : 3)) == 0;
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const int64_t i = FAULT(rows_beyond_nq_clamped) && row + 8 * h >= p.nq ? p.nq - 1 : row + 8 * h, base = ifa_offset(p.o_stride, batch, head, i);
    float l = (float)(FAULT(row_sum_of_one_lane) ? w.l[h] : quad_sum(w.l[h]));
    int unit = unit_of(w.unit[h]), value_unit = TOKEN ? w.value_unit[h] : unit;
    if (sums) {
      const float *kept = sums + (int64_t)(Shape<D>::SUMS + 3 * h) * THREADS;
      l = kept[0];
      unit = __float_as_int(kept[THREADS]);
      value_unit = __float_as_int(kept[2 * THREADS]);
    }
    if (i >= p.nq || (FAULT(last_row_unwritten) && i == p.nq - 1 && p.nq % 8 != 0)) continue;
    const bool empty = unit == IFA_NO_UNIT || value_unit == IFA_NO_UNIT;
    const float reciprocal = empty || sums ? 0.0f : __frcp_rn(l);
#pragma unroll
    for (int n = 0; n < D / 8; n++) {
      const int d = n * 8 + t * 2;
      if (d >= p.head_dim) continue;
      float value[2] = {0.0f, 0.0f};
#pragma unroll
      for (int j = 0; j < 2; j++) {
        if (empty || d + j >= p.head_dim) continue;
        const float quotient = sums ? __fdiv_rn(sums[(int64_t)(n * 4 + 2 * h + j) * THREADS], l) : divide((float)w.acc[n][2 * h + j], l, reciprocal);
        if (TOKEN) {
          value[j] = scalbnf(quotient, value_unit - unit);
          if (factors) value[j] = __fmul_rn(value[j], factor[n][j]);
        } else {
          value[j] = __fmul_rn(quotient, factor[n][j]);
        }
      }
      store_pair(p.out_type, a.o, base + d, value[FAULT(output_columns_exchanged)], value[!FAULT(output_columns_exchanged)], aligned, d + 1 < p.head_dim);
    }
    if (a.lse && t == 0) a.lse[(batch * p.q_heads + head) * p.nq + i - (FAULT(lse_of_first_row_half) ? 8 * h : 0)] = unit == IFA_NO_UNIT ? -INFINITY : ifa_lse(l, unit);
  }
}

template <int D, bool TOKEN> __global__ void __launch_bounds__(Shape<D>::THREADS, Shape<D>::CTAS) attend(__grid_constant__ const ifa_gpu_params a) {
  extern __shared__ __align__(128) uint8_t shared_bytes[];
  Shared<D> &s = *(Shared<D> *)shared_bytes;
  const ifa_problem &p = a.p;
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;

  /* Rows that see most keys first (causal); heads that share K and V together. */
  const int64_t heads = p.batch * p.q_heads, blocks = (p.nq + Shape<D>::ROWS - 1) / Shape<D>::ROWS;
  const int64_t row0 = (blocks - 1 - (int64_t)blockIdx.x / heads) * Shape<D>::ROWS, matrix = FAULT(blocks_and_heads_exchanged) ? (int64_t)blockIdx.x / blocks : (int64_t)blockIdx.x % heads;
  const int64_t batch = FAULT(batch_of_kv_heads) ? matrix / p.kv_heads % p.batch : matrix / p.q_heads, head = matrix % p.q_heads;
  const int64_t kv_matrix = batch * p.kv_heads + (FAULT(kv_head_modulo) ? head % p.kv_heads : head / (p.q_heads / p.kv_heads));
  const int64_t warp_row0 = row0 + warp * 16, warp_last = warp_row0 + 15 < p.nq ? warp_row0 + 15 : p.nq - 1;
  const int64_t cta_last = row0 + Shape<D>::ROWS - 1 < p.nq ? row0 + Shape<D>::ROWS - 1 : p.nq - 1;

  /* Tiles of the CTA; of them those that some row of the warp sees (steps `from` to `to`), and those that all see whole (both ends of what a row sees move
   * with the row). */
  const int tile_first = live_first(p, FAULT(first_tile_of_last_row) ? cta_last : row0) / TILE, steps = max((live_end(p, cta_last) + TILE - 1) / TILE - tile_first, 0);
  const int any_end = warp_row0 < p.nq ? live_end(p, warp_last) : 0, all_end = warp_row0 + 16 <= p.nq || FAULT(ragged_warp_whole) ? live_end(p, warp_row0) : 0;
  const int from = FAULT(first_tile_of_last_row) ? 0 : min(live_first(p, warp_row0) / TILE - tile_first, steps), to = max((any_end + (FAULT(warp_leaves_last_tile) ? 0 : TILE - 1)) / TILE - tile_first, from);
  const int whole_from = (live_first(p, warp_row0 + (FAULT(window_tile_whole) ? 0 : 15)) + TILE - 1) / TILE - tile_first;
  const int whole_to = (FAULT(diagonal_tile_whole) ? any_end : all_end) / TILE - tile_first;
  const int split_tiles = (int)(p.kv_split / TILE);
  auto sums = [&] { return a.packed.split_sums ? a.packed.split_sums + (FAULT(split_sums_shared) ? 0 : (int64_t)blockIdx.x) * (Shape<D>::SUMS + 6) * Shape<D>::THREADS + threadIdx.x : nullptr; };

  Warp<D, TOKEN> w;
#pragma unroll
  for (int h = 0; h < 2; h++) {
    w.row_factor[h] = ifa_row_factor(q_scale_of(a, matrix, warp_row0 + (lane >> 2) + (FAULT(row_factor_of_first_half) ? 0 : 8 * h)), p.sm_scale);
    w.l[h] = 0;
    w.unit[h] = -INFINITY;
    w.value_unit[h] = IFA_NO_UNIT;
  }
#pragma unroll
  for (int i = 0; i < D / 8; i++)
#pragma unroll
    for (int j = 0; j < 4; j++) w.acc[i][j] = 0;
  if (sums() && !FAULT(split_sums_not_reset)) start_sums<D, TOKEN>(sums());

  Ring<D, TOKEN> ring;
  ring.start(s, a.packed.tiles + (kv_matrix * (FAULT(matrix_pitch_rounded_down) ? p.nk / TILE : a.tiles) + tile_first) * (int64_t)IFA_GPU_TILE_BYTES(D), steps);
  if (!FAULT(q_barrier_missing)) load_q<D>(a, s, batch, head, row0);
  __syncthreads(); /* Q, and the ring's barriers, are there */
  if (FAULT(q_barrier_missing)) {
    if (warp == Shape<D>::WARPS - 1) fault_late();
    load_q<D>(a, s, batch, head, row0);
  }

  Lane at;
  at.q = shared_address(s.q) + (warp * 16 + (lane & 15)) * D, at.q_chunk = ((lane >> 4) ^ (FAULT(q_swizzle_missing) ? 0 : IFA_GPU_SWIZZLE(D, lane & 7))) * 16;
  at.k = ring.first + (lane & 7) * D, at.k_chunk = ((lane >> 3) ^ (FAULT(k_swizzle_of_128) ? IFA_GPU_SWIZZLE(128, lane & 7) : IFA_GPU_SWIZZLE(D, lane & 7))) * 16;
  at.v = ring.first + IFA_GPU_AT_V(D) + (lane & 7) * TILE + ((lane >> 3) ^ (FAULT(v_swizzle_missing) ? 0 : IFA_GPU_SWIZZLE(TILE, lane & 7))) * 16;
  asm volatile("" : "+r"(at.q), "+r"(at.q_chunk), "+r"(at.k), "+r"(at.k_chunk), "+r"(at.v)); /* keep them: computing them again in every step costs more */

  auto tile_at = [&](int place) {
    const float *scales = (const float *)(s.tile[place] + IFA_GPU_AT_SCALES(D));
    Tile tile;
    tile.scale = scales[TILE];
    tile.exponent = TOKEN ? __float_as_int(scales[TILE + 1]) : 0;
    tile.k_scale = scales + ((FAULT(k_scale_of_row_lane) ? lane >> 2 : lane) & 3) * 2;
    tile.v_scale16 = (const uint16_t *)(s.tile[place] + IFA_GPU_AT_V_SCALE16(D)) + ((FAULT(v_scale_of_row_lane) ? lane >> 2 : lane) & 3) * 2;
    return tile;
  };

  int sc[8][4], high[2]; /* S of the tile to come; the largest u of the next, as an integer */
  float u[8][4];
  auto score_tile = [&](const Tile &tile, int from_j, int to_j) {
    if (from_j == 0) high[0] = high[1] = INT32_MIN;
#pragma unroll
    for (int j = from_j; j < to_j; j++) {
      if (FAULT(last_scores_stale) && j == 7) continue;
      score(u[j], sc[j], tile, j);
      high[0] = max3(high[0], __float_as_int(u[j][0]), __float_as_int(u[j][1])), high[1] = max3(high[1], __float_as_int(u[j][2]), __float_as_int(u[j][3]));
    }
    if (to_j == 8) high[0] = quad_max(high[0]), high[1] = quad_max(high[1]);
  };

  int step = 0;
  for (; step < from; step++) ring.pass(step);
  if (from < to) {
    uint32_t q[2][4], kb[2][2][4], pa[2][4], y[2][4][2], highest[2];
    float r[2], r32[2], c[2];
    int split_left = split_tiles - ((FAULT(split_from_first_tile) ? 0 : tile_first) + step) % split_tiles, growth_keys = 0; /* tiles to the end of the split; keys to there from this tile's first */
    const float tau1 = p.tau == IFA_TAU_INF ? INFINITY : (float)(p.tau + !FAULT(unit_falls_at_tau));
    const int row = (int)warp_row0 + (lane >> 2);
    ring.wait_first(step);
    Tile tile = tile_at(ring.place);
#pragma unroll
    for (int g = 0; g < Products<D>::QK; g++) {
      load_k_fragments<D>(kb[0], at, ring.place * Ring<D, TOKEN>::BYTES, g);
      load_q_fragments<D>(q, at, g);
      multiply_qk<D>(sc, q, kb[0], g);
    }
    score_tile(tile, 0, 8);

    /* P of this tile, and S of the next (of this one again where there is none). */
    auto weigh_and_multiply = [&](auto whole, uint32_t next_place) {
      constexpr int GROUPS = Products<D>::QK;
      if (TOKEN) highest[0] = highest[1] = 0;
      load_k_fragments<D>(kb[0], at, next_place, 0);
#pragma unroll
      for (int g = 0; g < GROUPS; g++) {
        if (g % 4 == 0) load_q_fragments<D>(q, at, g);
        if (g + 1 < GROUPS) load_k_fragments<D>(kb[(g + 1) & 1], at, next_place, g + 1);
        multiply_qk<D>(sc, q, kb[g & 1], g);
#pragma unroll
        for (int n = g * 8 / GROUPS; n < (g + 1) * 8 / GROUPS; n++)
          weigh<D, TOKEN, decltype(whole)::value>(w, pa[n >> 2][n & 3], y[n >> 2][n & 3], highest, tile, u, r32, c, n >> 2, n & 3);
      }
    };

    for (; step < to; step++) {
      const bool more = step + 1 < to, come = ring.poll_next(), whole = (step >= whole_from) & (step < whole_to);
      float largest[2] = {__int_as_float(high[0]), __int_as_float(high[1])};
      stage_scores(a, matrix, row, (tile_first + step) * TILE, sc, score_zero());
#pragma unroll
      for (int h = 0; h < 2; h++) r[h] = __fmul_rn(w.row_factor[h], tile.scale);
      /* As integers the patterns of binary32 numbers sort like the numbers if the largest is not negative. */
      const bool stays = whole & ((split_left != 0) | FAULT(split_end_not_asked)) & (((high[0] | high[1]) >= 0) | FAULT(largest_of_negative_patterns)) & !unit_moves(__fmul_rn(largest[0], r[0]), w.unit[0], tau1) &
                         !unit_moves(__fmul_rn(largest[1], r[1]), w.unit[1], tau1);
      if (__builtin_expect(!(FAULT(stay_vote_of_one_lane) ? __shfl_sync(~0u, (int)stays, 0) : __all_sync(~0u, stays)), 0)) {
        if (split_left == 0) {
          stage_sums(a, matrix, row, (tile_first + step) * TILE - 1, w.l[0], w.l[1], w.acc);
          end_split<D, TOKEN>(w, sums());
          split_left = split_tiles;
        }
        if (!whole || (__any_sync(~0u, (high[0] | high[1]) < 0) && !FAULT(largest_of_negative_patterns))) largest_live(largest, u, p, (tile_first + step) * TILE, row);
        const float x[2] = {__fmul_rn(largest[0], r[0]), __fmul_rn(largest[1], r[1])};
        const bool moves[2] = {unit_moves(x[0], w.unit[0], tau1) && largest[0] > -INFINITY, unit_moves(x[1], w.unit[1], tau1) && largest[1] > -INFINITY};
        if (any_moves(moves[0] | moves[1])) move_units(w, x, moves, (split_left - FAULT(growth_after_tile)) * TILE);
      }
      growth_keys = split_left * TILE;
      split_left--;
#pragma unroll
      for (int h = 0; h < 2; h++) r32[h] = __fmul_rn(r[h], 0.03125f), c[h] = __fmaf_rn(w.unit[h], -0.03125f, 0.9375f); /* (30 - U) / 32, exact */

      if (more) ring.wait_next(step, come);
      const int next = more ? ring.place_after() : ring.place;
      const uint32_t place = ring.place * Ring<D, TOKEN>::BYTES, next_place = next * Ring<D, TOKEN>::BYTES;
      if (!TOKEN || whole) weigh_and_multiply(std::true_type(), next_place);
      else weigh_and_multiply(std::false_type(), next_place);
      stage_weights(a, matrix, row, (tile_first + step) * TILE, pa);
      if (TOKEN) {
        int exponent[2] = {tile.exponent, tile.exponent};
        if (!whole) scale_live_values(y, exponent, highest, p, a.in.v_scale + kv_matrix * p.nk + (tile_first + step) * TILE, (tile_first + step) * TILE, row);
        weigh_values<D, TOKEN>(w, pa, y, exponent, highest, p, growth_keys);
      }
      stage_value_weights(a, matrix, row, (tile_first + step) * TILE, pa);
      stage_units(a, matrix, row, (tile_first + step) * TILE, unit_of(w.unit[0]), unit_of(w.unit[1]), w.value_unit[0], w.value_unit[1]);

      if (FAULT(tile_released_early)) ring.release(step);
      if ((FAULT(tile_released_early) || FAULT(one_warp_late)) && warp == step % Shape<D>::WARPS) fault_late();

      /* acc of this tile, and u of the next. */
      const Tile tile_before = tile;
      tile = tile_at(next);
      if (FAULT(tile_scale_before)) tile.scale = tile_before.scale;
      if (FAULT(key_scales_before)) tile.k_scale = tile_before.k_scale;
#pragma unroll
      for (int g = 0; g < Products<D>::PV; g++) {
        uint32_t vb[4][4];
        load_v_fragments<D>(vb, at, place, g);
        multiply_pv<D, TOKEN>(w, pa, vb, g);
        constexpr int SPREAD = Products<D>::PV > 1 ? Products<D>::PV - 1 : 1; /* the last group hides the shuffles */
        if (g < SPREAD) score_tile(tile, g * 8 / SPREAD, (g + 1) * 8 / SPREAD);
      }
      if (!FAULT(tile_released_early)) ring.release(step);
    }
  }
  for (; step < steps; step++) ring.pass(step);
  stage_sums(a, matrix, warp_row0 + (lane >> 2), (tile_first + to) * TILE - 1, w.l[0], w.l[1], w.acc);
  if (sums() && !FAULT(last_split_not_merged)) end_split<D, TOKEN>(w, sums());
  write_rows<D, TOKEN>(a, w, sums(), batch, head, kv_matrix, warp_row0 + (lane >> 2));
}

}  // namespace sm80

#endif
