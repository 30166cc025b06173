/* entries.cu - which compilation of the kernel sm90 takes a problem. */
#include <cuda_runtime.h>

#include "common/contract.h"
#include "gpu/sm90/entries.h"

bool ifa_gpu_sm90_entry(const ifa_problem *p, ifa_gpu_entry *entry) {
  if (p->head_dim > 128 || (p->kv_tile != 64 && p->kv_tile != 128)) return false;
  const bool per_token = ifa_values_per_token(p);
  *entry = p->head_dim <= 64 ? ifa_gpu_sm90_entry_64(p->kv_tile, per_token)
                             : ifa_gpu_sm90_entry_128(p->kv_tile, per_token);
  return true;
}
