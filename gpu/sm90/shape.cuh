/* shape.cuh - what the kernel sm90 is compiled for, its threads, and its shared memory.
 *
 * A CTA is a warpgroup that moves data and up to GROUPS that compute, 64 query rows each; no group
 * waits for another.
 *
 *     threads 0 .. 127    few registers. Warp 0: one thread asks for the blocks of K and V, one
 *                         bulk copy each; warp 1 + g: loads Q for group g
 *     then 128 a group    many registers: the attention of 64 rows of an item
 *
 * The host may start fewer groups than GROUPS (fewer rows an item), where there are too few items
 * for all multiprocessors. */
#ifndef IFA_GPU_SM90_SHAPE_CUH
#define IFA_GPU_SM90_SHAPE_CUH

#include "gpu/params.h"
#include "gpu/parts/instructions.cuh"
#include "gpu/sm90/instructions.cuh"

namespace sm90 {

using namespace parts; /* what the kernels share */

enum { GROUP_ROWS = 64, GROUP_THREADS = 128, MOST_PLACES = 12 };

/* DIM: head_dim, padded to 64 or 128. TILE: kv_tile, 64 or 128, which is a block. PER_TOKEN: V has
 * a scale per token (section 8). SEVERAL: there may be several splits. */
template <int DIM, int TILE, bool PER_TOKEN, bool SEVERAL> struct Shape {
  static constexpr int D = DIM, KEYS = TILE;
  static constexpr bool TOKEN = PER_TOKEN, SPLITS = SEVERAL;
  static constexpr int GROUPS = TILE == 64 || (DIM == 64 && !PER_TOKEN) ? 3 : 2;
  static constexpr int REGISTERS = GROUPS == 2 ? 232 : 160,
                       FEW_REGISTERS = GROUPS == 2 ? 40 : 32; /* a thread; 65536 in all */
  static constexpr int WARPS = 4 * GROUPS, ROWS = GROUP_ROWS * GROUPS,
                       THREADS = GROUP_THREADS * (GROUPS + 1);
  static constexpr int NT = KEYS / 8, KC = KEYS / 32; /* n8 tiles of S; k32 chunks of P */
  static constexpr int SUMS = D / 2;                  /* accumulators a thread */
  static constexpr int OUTPUT_CHANNELS =
      32; /* a warp writes so many of its rows' channels at a time, */
  static constexpr bool OUTPUT_OVER_Q =
      D == 128; /* through the memory of its Q, if that is large enough */
  static constexpr uint32_t BLOCK_BYTES = IFA_GPU_SM90_BLOCK_BYTES(D, KEYS),
                            COPIED = TOKEN ? IFA_GPU_SM90_COPIED_BYTES(D, KEYS)
                                           : IFA_GPU_SM90_AT_V_SCALE16(D, KEYS);
  static constexpr uint32_t AT_V = IFA_GPU_AT_V(D, KEYS), AT_SCALES = IFA_GPU_AT_SCALES(D, KEYS),
                            AT_TILE = AT_SCALES + KEYS * 4,
                            AT_V_SCALE16 = IFA_GPU_SM90_AT_V_SCALE16(D, KEYS);
};

/* What a group is told of an item, beside Q. Steps count tiles from the item's first. */
struct GroupItem {
  uint32_t matrix, batch, head, kv_matrix; /* as in ifa_gpu_item */
  int row0;                                /* of the group */
  int tile_first, steps;                   /* of the item */
  int from, to;                            /* steps in which some row of the group sees a key */
  int split_end;                           /* the step at which the split of step `from` ends */
  int whole_from[4], whole_to[4]; /* steps that all rows of a warp see whole (both ends of what a
                                     row sees move with the row) */
};

/* A CTA's shared memory, at a multiple of 1024; the ring's blocks follow, at the next. Two of what
 * is loaded for an item: the next item's comes while this one is computed. */
template <class S> struct Shared {
  int8_t q[S::GROUPS][2][GROUP_ROWS * S::D]; /* swizzled as K */
  uint8_t output[S::OUTPUT_OVER_Q ? 1 : S::WARPS]
                [S::OUTPUT_OVER_Q ? 16 : 16 * S::OUTPUT_CHANNELS * 4];
  float factor[S::GROUPS][2][S::D]; /* what a channel's quotient is multiplied by */
  float q_scale[S::GROUPS][2][GROUP_ROWS];
  GroupItem item[S::GROUPS][2];
  float4 loss[S::TOKEN ? S::ROWS : 1];            /* of a row: gpu/sm90/rows.cuh */
  uint64_t full[MOST_PLACES], empty[MOST_PLACES]; /* a block has come; all warps are done with it */
  uint64_t q_full[S::GROUPS][2], q_empty[S::GROUPS][2]; /* likewise what is loaded for an item */
};
template <class S> constexpr uint32_t SHARED_BYTES = (sizeof(Shared<S>) + 1023) / 1024 * 1024;

} // namespace sm90

#endif
