/* kernel.h - within gpu/: the attention kernels, and which of them runs a problem. */
#ifndef IFA_GPU_KERNEL_H
#define IFA_GPU_KERNEL_H

#include <stddef.h>

#include "ifa.h"

typedef enum ifa_gpu_kernel {
  IFA_GPU_CHOOSE =
      0,        /* what IFA_CUDA_KERNEL names, or the fastest that the device and this build have */
  IFA_GPU_SM80, /* mma.sync, from compute capability 8.0 on; every problem */
  IFA_GPU_SM90  /* wgmma, compute capability 9.0; what it does not take runs on IFA_GPU_SM80 */
} ifa_gpu_kernel;

/* A kernel compiled for some problems. */
typedef struct ifa_gpu_entry {
  ifa_gpu_kernel kernel;
  int dim, keys; /* padded head_dim; keys of a block */
  int rows,
      fewest_rows; /* query rows of an item: at most, and at least where there are few items */
  int threads, row_threads; /* of a CTA: so many, and so many more for each `fewest_rows` rows */
  size_t fixed_bytes, block_bytes; /* shared memory without and for each block */
  size_t scratch_floats;           /* per CTA, float sums between splits */
  const void *function[2][2];      /* V per token; several splits */
} ifa_gpu_entry;

/* gpu/attend.cu: IFA_GPU_SM80 or IFA_GPU_SM90, whichever `wanted` means for this problem on the
 * current device. IFA_NOT_AVAILABLE: not built, or another device. */
ifa_status ifa_gpu_choose(ifa_gpu_kernel wanted, const ifa_problem *problem, ifa_gpu_kernel *chosen,
                          ifa_message *message);
/* Is there a device for it? */
ifa_status ifa_gpu_available(ifa_gpu_kernel wanted, ifa_message *message);

/* gpu/sm90/entries.cu, in builds with sm_90a (IFA_GPU_HAS_SM90). false: IFA_GPU_SM90 does not take
 * the problem. */
bool ifa_gpu_sm90_entry(const ifa_problem *problem, ifa_gpu_entry *entry);

#endif
