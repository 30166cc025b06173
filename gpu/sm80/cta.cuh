/* cta.cuh - a CTA of the kernels on mma.sync: its items, its ring, and Q of its warps' rows. */
#ifndef IFA_GPU_SM80_CTA_CUH
#define IFA_GPU_SM80_CTA_CUH

#include "common/contract.h"
#include "common/operand.h"
#include "gpu/parts/items.cuh"
#include "gpu/parts/splits.cuh"
#include "gpu/sm80/products.cuh"

namespace sm80 {

template <class S> struct Cta {
  const ifa_gpu_params &a;
  Shared<S> &shared;
  const int lane, warp;
  typename S::TileRing ring;
  const Lane<S> at;
  uint32_t fed = 0; /* rounds whose blocks the ring has been given, or is given now */

  /* All threads. The first blocks are on their way then. */
  __device__ __forceinline__ Cta(const ifa_gpu_params &params, uint8_t *shared_bytes, int lag)
      : a(params), shared(*(Shared<S> *)shared_bytes), lane(threadIdx.x & 31),
        /* so that the compiler knows it to be the same in all lanes */
        warp((int)__reduce_max_sync(~0u, threadIdx.x >> 5)),
        ring(shared_address(shared_bytes + sizeof(Shared<S>)), shared.barriers,
             params.packed.blocks, params.stages, lag),
        at(shared_address(shared.q[warp]), shared_address(shared_bytes + sizeof(Shared<S>))) {
    if (threadIdx.x == 0) ring.prepare();
    for (uint32_t i = threadIdx.x; i < ITEMS_KEPT * 2; i += S::THREADS)
      if (has(i / 2))
        copy16(shared_address(shared.items) + i * 16,
               (const uint8_t *)(a.packed.items + item_of_round(i / 2)) + i % 2 * 16);
    wait_for_copies();
    __syncthreads();
    ring.start(warp, feed());
  }

  __device__ __forceinline__ bool has(uint32_t round) const {
    return item_of_round(round) < (uint32_t)a.item_count;
  }
  __device__ __forceinline__ const ifa_gpu_item &item(uint32_t round) const {
    return round < ITEMS_KEPT ? shared.items[round] : a.packed.items[item_of_round(round)];
  }

  /* What the ring asks for the next blocks. */
  __device__ __forceinline__ auto feed() {
    return [this](int &block, int &count) {
      for (; __any_sync(~0u, count == 0 && has(fed)); fed++)
        block = item(fed).first_block, count = item(fed).steps;
    };
  }
  __device__ __forceinline__ void pass() { ring.pass(feed()); }
  __device__ __forceinline__ void release(uint32_t zero) { ring.release(zero, feed()); }

  /* The warp's 16 rows of Q into its part of shared memory, and their scales; zeros beyond nq and
   * head_dim. In the background, if the caller's layout allows: await_q. `zero`: 0, but not before
   * what was there has been read (zero_after). */
  __device__ __forceinline__ void load_q(uint32_t round, uint32_t zero) const {
    constexpr int D = S::D;
    const ifa_problem &p = a.p;
    const ifa_gpu_item &to = item(round);
    const int64_t row0 = to.row0 + warp * 16;
    const bool vector = p.q_type == IFA_I8 && p.head_dim == D &&
                        ((p.q_stride.token | p.q_stride.head | p.q_stride.batch) & 15) == 0 &&
                        ((uintptr_t)a.in.q & 15) == 0;
    if (lane < 16)
      copy4(shared_address(shared.q_scale[warp] + lane),
            row0 + lane < p.nq ? q_scale_at(a, to.matrix, row0 + lane) : a.in.q_scale,
            row0 + lane < p.nq);
    auto place = [&](int r, int chunk) {
      return shared.q[warp] + r * D + (chunk ^ IFA_GPU_SWIZZLE(D, r)) * 16 + zero;
    };
    if (vector) {
#pragma unroll
      for (int n = 0; n < D / 32; n++) {
        const int i = n * 32 + lane, r = i / (D / 16), chunk = i % (D / 16);
        const bool real = row0 + r < p.nq;
        copy16(shared_address(place(r, chunk)),
               (const int8_t *)a.in.q +
                   (real ? ifa_offset(p.q_stride, to.batch, to.head, row0 + r) + chunk * 16 : 0),
               real);
      }
    } else { /* any stride and INT4: once for all keys, so it may be slow */
      for (int i = lane; i < 16 * D; i += 32) {
        const int r = i / D, d = i % D;
        const int64_t row = row0 + r;
        place(r, d / 16)[d % 16] =
            row < p.nq && d < p.head_dim
                ? (int8_t)ifa_operand_get(p.q_type, a.in.q,
                                          ifa_offset(p.q_stride, to.batch, to.head, row) + d)
                : 0;
      }
    }
  }
  /* Q and its scales are there; r_i of the warp's rows. */
  __device__ __forceinline__ void await_q(Warp<S> &w) const {
    wait_for_copies();
    __syncwarp();
#pragma unroll
    for (int h = 0; h < 2; h++)
      w.row_factor[h] = ifa_row_factor(shared.q_scale[warp][(lane >> 2) + 8 * h], a.p.sm_scale);
  }
  __device__ __forceinline__ void begin(Warp<S> &w, uint32_t round) const {
    if (!S::Q_KEPT) load_q(round, 0);
    await_q(w);
    start(w);
  }
  __device__ __forceinline__ uint8_t *output() const {
    return S::OUTPUT_OVER_Q ? (uint8_t *)shared.q[warp] : shared.output[warp];
  }
};

} // namespace sm80

#endif
