/* shape.cuh - what the kernels on mma.sync are compiled for, and their shared memory. */
#ifndef IFA_GPU_SM80_SHAPE_CUH
#define IFA_GPU_SM80_SHAPE_CUH

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

} // namespace sm80

#endif
