/* entries_64.cu - the kernel sm90 for a head_dim padded to 64; compiled for sm_90a alone. */
#include "gpu/sm90/entries.cuh"

ifa_gpu_entry ifa_gpu_sm90_entry_64(int kv_tile, bool v_per_token) {
  return sm90::entry_for<64>(kv_tile, v_per_token);
}
