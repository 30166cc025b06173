/* entries.cu - the kernel sm90 for the problems that it takes; compiled for sm_90a alone. */
#include "gpu/kernel.h"
#include "gpu/sm90/attention.cuh"

namespace sm90 {

template <typename S> static ifa_gpu_entry entry() {
  return {IFA_GPU_SM90,
          S::D,
          S::KEYS,
          S::ROWS,
          GROUP_ROWS,
          GROUP_THREADS,
          GROUP_THREADS,
          SHARED_BYTES<S> + 1024 /* to begin at a multiple of 1024 */,
          S::BLOCK_BYTES,
          (size_t)SUMS_KEPT<S> * S::THREADS,
          {}};
}

template <int D, int TILE, bool TOKEN> static ifa_gpu_entry entry_of() {
  ifa_gpu_entry e = entry<Shape<D, TILE, TOKEN, true>>();
  e.function[TOKEN][0] = (const void *)attend<Shape<D, TILE, TOKEN, false>>;
  e.function[TOKEN][1] = (const void *)attend<Shape<D, TILE, TOKEN, true>>;
  return e;
}
template <int D, int TILE> static ifa_gpu_entry entry_for(bool per_token) {
  return per_token ? entry_of<D, TILE, true>() : entry_of<D, TILE, false>();
}

} // namespace sm90

bool ifa_gpu_sm90_entry(const ifa_problem *p, ifa_gpu_entry *e) {
  if (p->head_dim > 128 || (p->kv_tile != 64 && p->kv_tile != 128)) return false;
  const bool per_token = p->v_scale == IFA_SCALE_TOKEN || p->v_scale == IFA_SCALE_TOKEN_CHANNEL;
  if (p->head_dim <= 64)
    *e =
        p->kv_tile == 64 ? sm90::entry_for<64, 64>(per_token) : sm90::entry_for<64, 128>(per_token);
  else
    *e = p->kv_tile == 64 ? sm90::entry_for<128, 64>(per_token)
                          : sm90::entry_for<128, 128>(per_token);
  return true;
}
