/* ring.cuh - the ring of tiles in shared memory, through which the warps of a CTA walk the keys.
 *
 * A step is one tile. Every warp uses each tile, or waits for it and releases it unused (a warp
 * that ran ahead would be counted for a tile that is not there yet). The warps take turns at
 * filling a place again, `lag` steps after its use, when the others mostly are done with it too; so
 * nobody else waits for anybody. From compute capability 9.0 on a tile is one bulk copy; before,
 * the 32 lanes of a warp copy it in pieces.
 *
 * The ring knows no end of a CTA's rows: behind the tiles for some rows come those for the next
 * (Feed), and are on their way while outputs are written. */
#ifndef IFA_GPU_RING_CUH
#define IFA_GPU_RING_CUH

#include "gpu/parts/instructions.cuh"

namespace sm80 {

using namespace parts; /* what the kernels share */

constexpr int MAX_STAGES = 12; /* tiles in shared memory; as many as the device has room for */

struct RingBarriers {
  uint64_t full[MAX_STAGES];  /* the tile has come */
  uint64_t empty[MAX_STAGES]; /* all warps are done with it */
};

/* BYTES of a tile, COPIED: so many of them; WARPS of the CTA. */
template <uint32_t BYTES, uint32_t COPIED, int WARPS> struct Ring {
  uint32_t first, barriers; /* shared addresses: of place 0, of its barrier `full` */
  int stages, lag;
  int number = 0;       /* the current step's place */
  uint32_t phase = 0;   /* and the parity of its round */
  int turn;             /* steps until this warp fills a place */
  const uint8_t *tiles; /* all of them */
  int tile = 0;         /* the one it fills it with, */
  int left = 0;         /* one of so many of the same rows; 0: with nothing */

  __device__ __forceinline__ Ring(uint32_t first_place, const RingBarriers &b, const uint8_t *from,
                                  int stage_count, int lag_steps)
      : first(first_place), barriers(shared_address(b.full)), stages(stage_count), lag(lag_steps),
        tiles(from) {}

  __device__ __forceinline__ uint32_t full(int n) const { return barriers + 8 * (uint32_t)n; }
  __device__ __forceinline__ uint32_t empty(int n) const {
    return barriers + 8 * (uint32_t)(MAX_STAGES + n);
  }
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

  /* One thread, before a barrier of the CTA. */
  __device__ __forceinline__ void prepare() const {
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
  /* All warps, after it: the first tiles, but for `lag`. Tile f is for warp f % WARPS to fill.
   * feed(tile, left): the first of the next rows and how many there are, 0 if there are no rows
   * more. */
  template <class Feed> __device__ __forceinline__ void start(int warp, Feed feed) {
    left = -warp;
    skip(feed);
    for (int n = warp; n < stages - lag; n += WARPS)
      if (left > 0) {
        fill(n);
        next(feed);
      }
    turn = (warp + WARPS * MAX_STAGES - (stages - lag)) % WARPS;
  }
  template <class Feed> __device__ __forceinline__ void next(Feed feed) {
    tile += WARPS, left -= WARPS;
    skip(feed);
  }
  /* left <= 0: so many tiles further, among the next rows'. */
  template <class Feed> __device__ __forceinline__ void skip(Feed feed) {
    while (__any_sync(~0u, left <= 0)) {
      int count = 0;
      feed(tile, count);
      tile -= left;
      left = count > 0 ? left + count : 0;
      if (count == 0) break;
    }
  }
  __device__ __forceinline__ void fill(int to) const {
    const uint32_t at = first + (uint32_t)to * BYTES;
    const uint8_t *from = tiles + (int64_t)tile * BYTES;
#ifdef IFA_GPU_BULK
    if ((threadIdx.x & 31) == 0) copy_bulk(at, from, COPIED, full(to));
#else
    for (uint32_t i = (threadIdx.x & 31) * 16; i < COPIED; i += 512) copy16(at + i, from + i);
    arrive_after_copies(full(to));
#endif
  }

  /* After the last use of the current step's tile; on to the next. What was read of it must be in
   * registers, not only asked for: a load that still waits in a queue of the memory pipeline can be
   * overtaken by the release and the copy that follows (seen on a card, with another kernel keeping
   * that pipeline busy). So the release depends on what was loaded last: zero_after. */
  template <class Feed> __device__ __forceinline__ void release(uint32_t zero, Feed feed) {
    barrier_arrive(empty(number) + zero);
    if (__any_sync(~0u, (turn == 0) & (left > 0))) {
      /* a vote, so that the compiler knows that all lanes agree */
      const bool wraps = number < lag;
      const int to = wraps ? number - lag + stages : number - lag;
      /* (over at once where no tile has been before) */
      barrier_wait(empty(to), wraps ? phase ^ 1 : phase);
      fill(to);
      next(feed);
    }
    turn = turn == 0 ? WARPS - 1 : turn - 1;
    advance();
  }
  template <class Feed> __device__ __forceinline__ void pass(Feed feed) {
    wait();
    release(0, feed);
  }
};

} // namespace sm80

#endif
