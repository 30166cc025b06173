/* fetch.cuh - the warpgroup that moves data: blocks of keys for all groups, and for each group what
 * it needs for an item. It has few registers, and sleeps while it waits: a warp that spins takes
 * issue slots from the others of its scheduler. */
#ifndef IFA_GPU_SM90_FETCH_CUH
#define IFA_GPU_SM90_FETCH_CUH

#include "gpu/parts/items.cuh"
#include "gpu/parts/output.cuh"
#include "gpu/sm90/shape.cuh"

namespace sm90 {

/* All threads of a CTA have one. */
template <class S> struct Cta {
  const ifa_gpu_params &a;
  Shared<S> &shared;
  const uint32_t ring; /* shared address of place 0 */
  const int groups;    /* that compute */

  __device__ __forceinline__ Cta(const ifa_gpu_params &params, uint8_t *at)
      : a(params), shared(*(Shared<S> *)at), ring(opaque(shared_address(at) + SHARED_BYTES<S>)),
        groups(params.rows / GROUP_ROWS) {}

  __device__ __forceinline__ uint32_t full(int place) const {
    return shared_address(shared.full + place);
  }
  __device__ __forceinline__ uint32_t empty(int place) const {
    return shared_address(shared.empty + place);
  }
  __device__ __forceinline__ uint32_t q_full(int group, uint32_t round) const {
    return shared_address(&shared.q_full[group][round & 1]);
  }
  __device__ __forceinline__ uint32_t q_empty(int group, uint32_t round) const {
    return shared_address(&shared.q_empty[group][round & 1]);
  }
  __device__ __forceinline__ bool has(uint32_t round) const {
    return item_of_round(round) < (uint32_t)a.item_count;
  }

  /* One thread, before a barrier of the CTA. */
  __device__ __forceinline__ void prepare() const {
    for (int i = 0; i < a.stages; i++) {
      barrier_init(full(i), 1);
      barrier_init(empty(i), 4 * (uint32_t)groups);
    }
    for (int i = 0; i < 2 * groups; i++) {
      barrier_init(q_full(i / 2, (uint32_t)i), 32);
      barrier_init(q_empty(i / 2, (uint32_t)i), 4);
    }
    barrier_fence();
  }
};

/* One thread: the blocks of all items, one after the other. */
template <class S> __device__ __forceinline__ void fetch_blocks(const Cta<S> &cta) {
  int place = 0;
  uint32_t phase = 1; /* of `empty`: over at once in the first round of the ring */
#pragma unroll 1
  for (uint32_t round = 0; cta.has(round); round++) {
    const ifa_gpu_item &item = cta.a.packed.items[item_of_round(round)];
    const uint8_t *from = cta.a.packed.blocks + (int64_t)item.first_block * S::BLOCK_BYTES;
#pragma unroll 1
    for (int left = item.steps; left > 0; left--, from += S::BLOCK_BYTES) {
      barrier_wait_asleep(cta.empty(place), phase);
      copy_bulk(cta.ring + (uint32_t)place * S::BLOCK_BYTES, from, S::COPIED, cta.full(place));
      if (++place == cta.a.stages) place = 0, phase ^= 1;
    }
  }
}

/* Q of 64 rows, zeros beyond nq and head_dim. */
template <class S>
__device__ __forceinline__ void fetch_q(const Cta<S> &cta, const ifa_gpu_item &item, int row0,
                                        int8_t *to) {
  constexpr int D = S::D, CHUNKS = D / 16;
  const ifa_problem &p = cta.a.p;
  const int lane = threadIdx.x & 31, rows = min((int)p.nq - row0, (int)GROUP_ROWS);
  const bool vector = p.q_type == IFA_I8 && p.head_dim == D &&
                      ((p.q_stride.token | p.q_stride.head | p.q_stride.batch) & 15) == 0 &&
                      ((uintptr_t)cta.a.in.q & 15) == 0;
  const int64_t at = ifa_offset(p.q_stride, item.batch, item.head, row0);
  if (vector) {
    const int chunk = lane % CHUNKS;
    const int8_t *from =
        (const int8_t *)cta.a.in.q + at + chunk * 16 + lane / CHUNKS * p.q_stride.token;
#pragma unroll 2
    for (int r = lane / CHUNKS; r < GROUP_ROWS;
         r += 32 / CHUNKS, from += 32 / CHUNKS * p.q_stride.token)
      copy16(shared_address(to + r * D + (chunk ^ IFA_GPU_SWIZZLE(D, r)) * 16),
             r < rows ? from : (const int8_t *)cta.a.in.q, r < rows);
  } else { /* any stride and INT4: once for all keys, so it may be slow */
#pragma unroll 1
    for (int i = lane; i < GROUP_ROWS * D; i += 32) {
      const int r = i / D, d = i % D;
      to[r * D + ((d / 16) ^ IFA_GPU_SWIZZLE(D, r)) * 16 + d % 16] =
          r < rows && d < p.head_dim
              ? (int8_t)ifa_operand_get(p.q_type, cta.a.in.q, at + r * p.q_stride.token + d)
              : 0;
    }
  }
}

/* Q's scales of 64 rows, and the factors of the channels. */
template <class S>
__device__ __forceinline__ void fetch_scales(const Cta<S> &cta, const ifa_gpu_item &item, int row0,
                                             float *q_scale, float *factor) {
  const ifa_gpu_params &a = cta.a;
#pragma unroll 1
  for (int r = threadIdx.x & 31; r < GROUP_ROWS; r += 32) {
    const bool real = row0 + r < a.p.nq;
    copy4(shared_address(q_scale + r), real ? q_scale_at(a, item.matrix, row0 + r) : a.in.q_scale,
          real);
  }
  const ChannelFactors factors = channel_factors(a, item.kv_matrix);
#pragma unroll 1
  for (int d = threadIdx.x & 31; d < S::D; d += 32) {
    if (factors.first)
      copy4(shared_address(factor + d), factors.first + factors.step * min(d, a.p.head_dim - 1),
            true);
    else factor[d] = 1.0f;
  }
}

/* One lane. */
template <class S>
__device__ __forceinline__ void describe(const ifa_problem &p, const ifa_gpu_item &item, int row0,
                                         GroupItem &to) {
  constexpr int TILE = S::KEYS;
  const int tile_first = item.first_key / TILE, rows = min((int)p.nq - row0, (int)GROUP_ROWS),
            split_tiles = (int)p.kv_split / TILE;
  to.matrix = item.matrix, to.batch = item.batch, to.head = item.head,
  to.kv_matrix = item.kv_matrix;
  to.row0 = row0, to.tile_first = tile_first, to.steps = item.steps;
  to.from = rows > 0 ? min(live_first(p, row0) / TILE - tile_first, item.steps) : 0;
  to.to =
      rows > 0 ? max((live_end(p, row0 + rows - 1) + TILE - 1) / TILE - tile_first, to.from) : 0;
  to.split_end = to.from + split_tiles - (tile_first + to.from) % split_tiles;
#pragma unroll 1
  for (int i = 0; i < 4; i++) {
    const int row = row0 + 16 * i;
    to.whole_from[i] = (live_first(p, row + 15) + TILE - 1) / TILE - tile_first;
    to.whole_to[i] = (16 * i + 16 <= rows ? live_end(p, row) : 0) / TILE - tile_first;
  }
}

/* One warp: what a group needs, for all items. */
template <class S> __device__ __forceinline__ void fetch_rows(const Cta<S> &cta, int group) {
#pragma unroll 1
  for (uint32_t round = 0; __any_sync(~0u, cta.has(round)); round++) {
    const int buffer = (int)(round & 1);
    const ifa_gpu_item &item = cta.a.packed.items[item_of_round(round)];
    const int row0 = item.row0 + group * GROUP_ROWS;
    barrier_wait_asleep(cta.q_empty(group, round), (round >> 1 & 1) ^ 1);
    __syncwarp();
    fetch_q(cta, item, row0, cta.shared.q[group][buffer]);
    fetch_scales(cta, item, row0, cta.shared.q_scale[group][buffer],
                 cta.shared.factor[group][buffer]);
    if ((threadIdx.x & 31) == 0) describe<S>(cta.a.p, item, row0, cta.shared.item[group][buffer]);
    wait_for_copies();
    fence_async();
    barrier_arrive(cta.q_full(group, round));
  }
}

} // namespace sm90

#endif
