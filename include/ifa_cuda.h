/* ifa_cuda.h - the contract's attention and quantizers on an NVIDIA GPU: the same bits as ifa_run and ifa_quantize.
 *
 * Pointers inside ifa_inputs, ifa_outputs and ifa_quantize_args are device pointers here; problem and argument structures are in host
 * memory and are read before the call returns. `stream` is a cudaStream_t. A call only launches work on that stream: it allocates
 * nothing, synchronizes nothing, uses no other stream, and may be captured into a CUDA graph. The current device must be the
 * stream's. Functions are thread-safe; several devices may be used at once. What the host cannot see without synchronizing is not
 * checked: contents of scales and of floats (docs/numerics.md, section 2, says what is valid; outside it results are unspecified but
 * memory stays safe).
 */
#ifndef IFA_CUDA_H
#define IFA_CUDA_H

#include "ifa.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Is there a device that can run the kernels (compute capability 8.0 or above)? IFA_OK, or IFA_NOT_AVAILABLE and why. */
ifa_status ifa_cuda_available(ifa_message *message);

/* IFA_OK, IFA_UNSUPPORTED (with the field) or IFA_BAD_PROBLEM. Needs no device. */
ifa_status ifa_cuda_supports(const ifa_problem *problem, ifa_message *message);

/* Bytes of device memory that ifa_cuda_attend needs beside its operands, for this problem. */
ifa_status ifa_cuda_workspace_bytes(const ifa_problem *problem, size_t *bytes, ifa_message *message);

/* Attention. inputs->rows must be NULL (all rows are computed) and outputs->stages must be NULL. `workspace`: device memory, 256-byte
 * aligned, at least ifa_cuda_workspace_bytes; two calls in flight need two. IFA_BAD_ARGUMENT for a missing, host or misaligned pointer or
 * too small a workspace; nothing is launched then. */
ifa_status ifa_cuda_attend(const ifa_problem *problem, const ifa_inputs *inputs, const ifa_outputs *outputs, void *workspace,
                           size_t workspace_bytes, void *stream, ifa_message *message);

/* Bytes of device memory that ifa_cuda_quantize needs beside its operands; may be 0. */
ifa_status ifa_cuda_quantize_workspace_bytes(const ifa_quantize_args *args, size_t *bytes, ifa_message *message);

/* Quantization; the same bits as ifa_quantize for valid floats (finite, at most 2^99). */
ifa_status ifa_cuda_quantize(const ifa_quantize_args *args, void *workspace, size_t workspace_bytes, void *stream, ifa_message *message);

#ifdef __cplusplus
}
#endif
#endif
