/* entries.h - the compilations of the kernel sm90, a file for each head_dim. */
#ifndef IFA_GPU_SM90_ENTRIES_H
#define IFA_GPU_SM90_ENTRIES_H

#include "gpu/kernel.h"

/* head_dim padded to 64 or 128; kv_tile: 64 or 128. */
ifa_gpu_entry ifa_gpu_sm90_entry_64(int kv_tile, bool v_per_token);
ifa_gpu_entry ifa_gpu_sm90_entry_128(int kv_tile, bool v_per_token);

#endif
