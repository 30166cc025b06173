/* ring.cuh - the ring of tiles in shared memory, through which the warps of a CTA walk the keys.
 *
 * A step is one tile. Every warp uses each tile, or waits for it and releases it unused (a warp that ran ahead would be counted for a tile that is not there yet).
 * The warps take turns at filling a place again, `lag` steps after its use, when the others mostly are done with it too; so nobody else waits for
 * anybody. From compute capability 9.0 on a tile is one bulk copy; before, the 32 lanes of a warp copy it in pieces. */
#ifndef IFA_GPU_RING_CUH
#define IFA_GPU_RING_CUH

#include "gpu/instructions.cuh"

namespace sm80 {

constexpr int MAX_STAGES = 12; /* tiles in shared memory; as many as the device has room for */

struct RingBarriers {
  uint64_t full[MAX_STAGES];  /* the tile has come */
  uint64_t empty[MAX_STAGES]; /* all warps are done with it */
};

/* BYTES of a tile, COPIED: so many of them; WARPS of the CTA. */
template <uint32_t BYTES, uint32_t COPIED, int WARPS> struct Ring {
  uint32_t first, barriers; /* shared addresses: of place 0, of its barrier `full` */
  const uint8_t *tiles;     /* of step 0 */
  int steps, stages, lag;
  int number = 0;           /* the current step's place */
  uint32_t phase = 0;       /* and the parity of its round */

  __device__ __forceinline__ Ring(uint32_t first_place, const RingBarriers &b, const uint8_t *from, int step_count, int stage_count, int lag_steps)
      : first(first_place), barriers(shared_address(b.full)), tiles(from), steps(step_count), stages(stage_count), lag(lag_steps) {}

  __device__ __forceinline__ uint32_t full(int n) const { return barriers + 8 * (uint32_t)n; }
  __device__ __forceinline__ uint32_t empty(int n) const { return barriers + 8 * (uint32_t)(MAX_STAGES + n); }
  /* Offset of the current step's tile from place 0's. */
  __device__ __forceinline__ uint32_t place() const { return (uint32_t)number * BYTES; }
  __device__ __forceinline__ void advance() {
    number = number + 1 == stages ? 0 : number + 1;
    phase ^= number == 0;
  }
  __device__ __forceinline__ void wait() const { barrier_wait(full(number), phase); }
  /* Is the next step's tile there? */
  __device__ __forceinline__ bool poll_next() const {
    const bool wraps = number + 1 == stages;
    return barrier_poll(full(wraps ? 0 : number + 1), wraps ? phase ^ 1 : phase);
  }

  /* One warp, before anybody else uses the ring. */
  __device__ __forceinline__ void prepare() const {
    if ((threadIdx.x & 31) == 0) {
      for (int n = 0; n < stages; n++) {
#ifdef IFA_GPU_BULK
        barrier_init(full(n), 1);
#else
        barrier_init(full(n), 32);
#endif
        barrier_init(empty(n), 32 * WARPS); /* each thread answers for what it read itself */
      }
      barrier_fence();
    }
    __syncwarp();
    for (int n = 0; n < stages && n < steps; n++) fill(n, n);
  }
  __device__ __forceinline__ void fill(int to, int step) const {
    const uint32_t at = first + (uint32_t)to * BYTES;
    const uint8_t *tile = tiles + (int64_t)step * BYTES;
#ifdef IFA_GPU_BULK
    if ((threadIdx.x & 31) == 0) copy_bulk(at, tile, COPIED, full(to));
#else
    for (uint32_t i = (threadIdx.x & 31) * 16; i < COPIED; i += 512) copy16(at + i, tile + i);
    arrive_after_copies(full(to));
#endif
  }

  /* After the last use of the current step's tile; on to the next. What was read of it must be in registers, not only asked for: a load that still waits in a queue of the
   * memory pipeline can be overtaken by the release and the copy that follows (seen on a card, with another kernel keeping that pipeline busy). So the
   * release depends on what was loaded last: zero_after. */
  __device__ __forceinline__ void release(int step, int warp, uint32_t zero) {
    barrier_arrive(empty(number) + zero);
    if (__any_sync(~0u, (step + warp) % WARPS == 0 && step >= lag && step - lag + stages < steps)) { /* a vote, so that the compiler knows that all lanes agree */
      const bool wraps = number < lag;
      const int to = wraps ? number - lag + stages : number - lag;
      barrier_wait(empty(to), wraps ? phase ^ 1 : phase);
      fill(to, step - lag + stages);
    }
    advance();
  }
  __device__ __forceinline__ void pass(int step, int warp) {
    wait();
    release(step, warp, 0);
  }
};

}  // namespace sm80

#endif
