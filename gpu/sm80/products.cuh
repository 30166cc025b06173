/* products.cuh - fragments of Q, K and V from shared memory (gpu/params.h has the layout of a
 * block), and the products of them by mma.sync. The map of threads to data: gpu/parts/warp.cuh. */
#ifndef IFA_GPU_SM80_PRODUCTS_CUH
#define IFA_GPU_SM80_PRODUCTS_CUH

#include "gpu/parts/warp.cuh"
#include "gpu/sm80/shape.cuh"

namespace sm80 {

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

} // namespace sm80

#endif
