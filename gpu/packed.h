/* packed.h - within gpu/: K and V in the blocks of gpu/params.h, and attention in parts. The
 * quantizers can write blocks at once (ifa_cuda_attention has them do so), so that integers in a
 * caller's layout need not be written and read in between. */
#ifndef IFA_GPU_PACKED_H
#define IFA_GPU_PACKED_H

#include "gpu/kernel.h"
#include "ifa_cuda.h"

/* What ifa_cuda_attend does, one bit a part. */
enum {
  IFA_GPU_PACK_K = 1,
  IFA_GPU_PACK_V = 2,
  IFA_GPU_PACK_SCALES = 4 /* and the list of items */,
  IFA_GPU_ATTEND = 8,
  IFA_GPU_ALL = 15
};

/* The blocks of a problem's K and V in the workspace: `count` a matrix, of `keys` keys and `dim`
 * channels. at NULL: none. */
typedef struct ifa_gpu_blocks {
  uint8_t *at;
  int32_t keys, dim, count, bytes;
} ifa_gpu_blocks;

/* gpu/attend.cu: IFA_UNSUPPORTED if the current device has less shared memory than the problem
 * needs. The problem is supported. */
ifa_status ifa_gpu_fits(ifa_gpu_kernel wanted, const ifa_problem *problem, ifa_message *message);

/* gpu/attend.cu. The problem is supported, the workspace large enough; kernel: as ifa_gpu_choose
 * chose. */
ifa_gpu_blocks ifa_gpu_blocks_of(ifa_gpu_kernel kernel, const ifa_problem *problem,
                                 void *workspace);

/* gpu/attend.cu: some parts of ifa_cuda_attend, by the kernel chosen (or IFA_GPU_CHOOSE). Pointers
 * that these do not need are not looked at. */
ifa_status ifa_gpu_attend(int parts, ifa_gpu_kernel kernel, const ifa_problem *problem,
                          const ifa_inputs *inputs, const ifa_outputs *outputs, void *workspace,
                          size_t workspace_bytes, void *stream, ifa_message *message);

/* gpu/quantize/quantize.cu: ifa_cuda_quantize, but that the integers (INT4 too) go to K's or V's
 * part of the blocks, one byte each; args->dst and dst_stride are not looked at. The rest of a last
 * block is zeroed. V only from f16 and bf16. */
typedef enum ifa_gpu_destination {
  IFA_GPU_ROWS = 0,
  IFA_GPU_K_BLOCKS,
  IFA_GPU_V_BLOCKS
} ifa_gpu_destination;
ifa_status ifa_gpu_quantize_to_blocks(const ifa_quantize_args *args,
                                      ifa_gpu_destination destination, ifa_gpu_blocks blocks,
                                      void *workspace, size_t workspace_bytes, void *stream,
                                      ifa_message *message);

#endif
