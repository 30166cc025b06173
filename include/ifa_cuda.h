/* ifa_cuda.h - the contract's attention and quantizers on an NVIDIA GPU: the same bits as ifa_run
 * and ifa_quantize.
 *
 * Pointers inside ifa_inputs, ifa_outputs and ifa_quantize_args are device pointers here; problem
 * and argument structures are in host memory and are read before the call returns. `stream` is a
 * cudaStream_t. A call only launches work on that stream: it allocates nothing, synchronizes
 * nothing, uses no other stream, and may be captured into a CUDA graph. The current device must be
 * the stream's. Functions are thread-safe; several devices may be used at once. What the host
 * cannot see without synchronizing is not checked: contents of scales and of floats
 * (docs/numerics.md, section 2, says what is valid; outside it results are unspecified but memory
 * stays safe).
 * */
#ifndef IFA_CUDA_H
#define IFA_CUDA_H

#include "ifa.h"

#ifdef __cplusplus
extern "C" {
#endif
#ifdef __GNUC__
#pragma GCC visibility push(default) /* what is declared here is what the shared library exports \
                                      */
#endif

/* Is there a device that can run the kernels (compute capability 8.0 or above)? IFA_OK, or
 * IFA_NOT_AVAILABLE and why. */
ifa_status ifa_cuda_available(ifa_message *message);

/* IFA_OK, IFA_BAD_PROBLEM, or IFA_UNSUPPORTED: more than 2^31 - 1 blocks of query rows or of keys
 * (the message has the figures). Needs no device; one with too little shared memory for head_dim
 * and kv_tile refuses the call itself: IFA_UNSUPPORTED (ifa_backend_supports asks it too). */
ifa_status ifa_cuda_supports(const ifa_problem *problem, ifa_message *message);

/* Bytes of device memory that ifa_cuda_attend needs beside its operands, for this problem. */
ifa_status ifa_cuda_workspace_bytes(const ifa_problem *problem, size_t *bytes,
                                    ifa_message *message);

/* Attention. inputs->rows must be NULL (all rows are computed) and outputs->stages must be NULL
 * (but for a build with IFA_GPU_STAGES: gpu/parts/stages.cuh). `workspace`: device memory, 256-byte
 * aligned, at least ifa_cuda_workspace_bytes; two calls in flight need two. IFA_BAD_ARGUMENT for a
 * missing, host or misaligned pointer or too small a workspace; nothing is launched then. */
ifa_status ifa_cuda_attend(const ifa_problem *problem, const ifa_inputs *inputs,
                           const ifa_outputs *outputs, void *workspace, size_t workspace_bytes,
                           void *stream, ifa_message *message);

/* The same in two steps, where several calls share K and V: ifa_cuda_pack brings K, V and their
 * scales into the workspace, laid out as the kernel wants them (inputs->q and q_scale are not
 * looked at); ifa_cuda_attend_packed is the rest, as often as wanted, with any q, on the same
 * workspace and for the same problem. It does not look at k, v and k_scale, but at v_scale (and
 * v_channel_scale) as it was. */
ifa_status ifa_cuda_pack(const ifa_problem *problem, const ifa_inputs *inputs, void *workspace,
                         size_t workspace_bytes, void *stream, ifa_message *message);
ifa_status ifa_cuda_attend_packed(const ifa_problem *problem, const ifa_inputs *inputs,
                                  const ifa_outputs *outputs, void *workspace,
                                  size_t workspace_bytes, void *stream, ifa_message *message);

/* Bytes of device memory that ifa_cuda_quantize needs beside its operands; may be 0. */
ifa_status ifa_cuda_quantize_workspace_bytes(const ifa_quantize_args *args, size_t *bytes,
                                             ifa_message *message);

/* Quantization; the same bits as ifa_quantize for valid floats (finite, at most 2^99). */
ifa_status ifa_cuda_quantize(const ifa_quantize_args *args, void *workspace, size_t workspace_bytes,
                             void *stream, ifa_message *message);

/* ---- from floats to floats in one call ---- */

/* Q, K and V are quantized into the workspace (K, and V of f16 and bf16, at once as the kernel
 * wants them), then attention: the bits of ifa_quantize and ifa_run on the same choices.
 *
 *     ifa_cuda_attention_args a = ifa_cuda_attention_fast(batch, q_heads, kv_heads, nq, nk,
 *       head_dim);
 *     a.q = q, a.k = k, a.v = v, a.o = o;                                      // f16 device
 *       tensors [batch, heads, tokens, head_dim]
 *     a.problem.causal = 1;
 *     ifa_cuda_attention_workspace_bytes(&a, &bytes, &why);
 *     cudaMalloc(&workspace, bytes);
 *     ifa_cuda_attention(&a, workspace, bytes, stream, &why);
 * */
typedef struct ifa_cuda_attention_args {
  /* Sizes, formats and scale choices of the quantized operands, sm_scale, masks, tau, out_type,
   * lse: all as in ifa.h, except that q_stride, k_stride and v_stride are those of the float
   * tensors (all three 0: dense [batch, heads, tokens, head_dim]; ifa_strides_bnhd for [batch,
   * tokens, heads, head_dim]). */
  ifa_problem problem;
  ifa_type type;           /* of q, k and v: IFA_F16, IFA_BF16 or IFA_F32 */
  int32_t subtract_k_mean; /* 1: quantize K less each channel's mean over the tokens: exact for the
                            * softmax (lse moves by the row's q . mean), finer scales where channels
                            * have offsets, at two or three more passes over K */
  /* q [batch, q_heads, nq, head_dim], k and v [batch, kv_heads, nk, head_dim] */
  const void *q, *k, *v;
  /* [batch, q_heads, nq, head_dim] of problem.out_type by problem.o_stride */
  void *o;
  float *lse; /* dense [batch][q_heads][nq]; required exactly when problem.lse is 1 */
} ifa_cuda_attention_args;

/* Settings to start from; pointers NULL, dense strides, no mask, sm_scale 1/sqrt(head_dim), f16 in
 * and out, INT8, Q and K per token, kv_tile 64, tau 4. Fast: V per channel, K as it is. Accurate: V
 * per token, K less its mean. docs/numerics.md, section 14, has the errors. */
ifa_cuda_attention_args ifa_cuda_attention_fast(int64_t batch, int64_t q_heads, int64_t kv_heads,
                                                int64_t nq, int64_t nk, int32_t head_dim);
ifa_cuda_attention_args ifa_cuda_attention_accurate(int64_t batch, int64_t q_heads,
                                                    int64_t kv_heads, int64_t nq, int64_t nk,
                                                    int32_t head_dim);

/* Bytes of device memory that ifa_cuda_attention needs: the quantized tensors and scales, and what
 * the calls it makes need. Reads no pointer of args; IFA_BAD_PROBLEM, IFA_UNSUPPORTED or
 * IFA_BAD_ARGUMENT as ifa_cuda_attention would answer. */
ifa_status ifa_cuda_attention_workspace_bytes(const ifa_cuda_attention_args *args, size_t *bytes,
                                              ifa_message *message);

/* The rules of ifa_cuda_attend hold: workspace 256-byte aligned, one for each call in flight;
 * launches on `stream` only, allocates nothing, synchronizes nothing, may be captured. Every
 * argument is checked before the first launch. Outputs must not overlap inputs. */
ifa_status ifa_cuda_attention(const ifa_cuda_attention_args *args, void *workspace,
                              size_t workspace_bytes, void *stream, ifa_message *message);

#ifdef __GNUC__
#pragma GCC visibility pop
#endif
#ifdef __cplusplus
}
#endif
#endif
