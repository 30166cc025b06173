/* entries.cuh - the kernel sm90 compiled for a head_dim. */
#ifndef IFA_GPU_SM90_ENTRIES_CUH
#define IFA_GPU_SM90_ENTRIES_CUH

#include "gpu/sm90/attention.cuh"
#include "gpu/sm90/entries.h"

namespace sm90 {

template <int D, int TILE, bool TOKEN> static ifa_gpu_entry entry_of() {
  using S = Shape<D, TILE, TOKEN, true>;
  ifa_gpu_entry e = {};
  e.kernel = IFA_GPU_SM90;
  e.dim = D, e.keys = TILE;
  e.rows = S::ROWS, e.fewest_rows = GROUP_ROWS;
  e.threads = e.row_threads = GROUP_THREADS;
  e.fixed_bytes = SHARED_BYTES<S> + 1024; /* to begin at a multiple of 1024 */
  e.block_bytes = S::BLOCK_BYTES;
  e.scratch_floats = (size_t)SUMS_KEPT<S> * S::THREADS;
  e.function[TOKEN][0] = (const void *)attend<Shape<D, TILE, TOKEN, false>>;
  e.function[TOKEN][1] = (const void *)attend<S>;
  return e;
}
template <int D> static ifa_gpu_entry entry_for(int kv_tile, bool v_per_token) {
  if (kv_tile == 64) return v_per_token ? entry_of<D, 64, true>() : entry_of<D, 64, false>();
  return v_per_token ? entry_of<D, 128, true>() : entry_of<D, 128, false>();
}

} // namespace sm90

#endif
