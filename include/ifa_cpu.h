/* ifa_cpu.h - the contract's attention at the CPU's speed: the same bits as ifa_run, with the
 * instruction set and the memory in the caller's hands.
 *
 *     size_t bytes;
 *     ifa_cpu_workspace_bytes(&p, threads, &bytes, &why);
 *     void *workspace = aligned_alloc(IFA_CPU_ALIGNMENT, bytes);              // bytes is a
 *       multiple of the alignment
 *     ifa_cpu_attend(NULL, &p, &in, &out, workspace, bytes, threads, &why);   // as often as wanted
 *
 * A call allocates nothing. Calls may run at once if each has its own workspace. The result depends
 * neither on `threads` nor on the instruction set. ifa_run("cpu", ...) is the same with a workspace
 * of its own and as many threads as OpenMP would use. What holds for fork, the caller's threads,
 * pools of the caller's, cancellation and signals: ifa.h.
 *
 * Memory on several nodes (NUMA): nothing is bound to a node. Pages of the workspace are first
 * written by the threads of the first call that has it, whichever takes the piece; work is taken by
 * whoever comes. To keep both together, make a call for each node, from a thread with a pool of
 * that node's threads (ifa_set_thread_pool), with its share of heads, batch or rows and a workspace
 * of its own: no result depends on how the work is divided.
 *
 * Instruction sets, by name: portable; avx2 (with FMA and F16C), avx_vnni, avx512_vnni,
 * avx512_fp16, amx (x86-64); neon_dotprod, neon_i8mm (aarch64). Where a function takes `isa`, NULL
 * stands for the environment variable IFA_CPU_ISA if it is set and not empty, else for what is
 * fastest on this machine: the last of these that it has, but for amx where fewer than 16 query
 * rows share a key/ value head's tiles (decoding: query heads per key/value head times query
 * tokens), which is slower there than the one before it. A name that does not exist is
 * IFA_BAD_ARGUMENT, one that this build or machine lacks IFA_NOT_AVAILABLE. Neither falls back to
 * another. */
#ifndef IFA_CPU_H
#define IFA_CPU_H

#include "ifa.h"

#ifdef __cplusplus
extern "C" {
#endif
#ifdef __GNUC__
#pragma GCC visibility push(default) /* what is declared here is what the shared library exports \
                                      */
#endif

#define IFA_CPU_ALIGNMENT 64 /* of a workspace, in bytes */
#define IFA_CPU_MAX_THREADS 4096

/* The names above, available or not. NULL outside 0 .. count-1. */
int ifa_cpu_isa_count(void);
const char *ifa_cpu_isa_name(int index);

/* IFA_OK; IFA_BAD_ARGUMENT or IFA_NOT_AVAILABLE, with the reason. *chosen (may be NULL) is then the
 * name that `isa` stands for: with many query rows, where it depends on them. */
ifa_status ifa_cpu_isa_available(const char *isa, const char **chosen, ifa_message *message);

/* Bytes of workspace for a problem on up to `threads` threads (1 .. IFA_CPU_MAX_THREADS): K and V
 * as the kernels want them, about batch * kv_heads * nk * (2 * head_dim + 16) bytes, and less than
 * 1 MiB a thread. The same for every instruction set. A multiple of IFA_CPU_ALIGNMENT. */
ifa_status ifa_cpu_workspace_bytes(const ifa_problem *problem, int threads, size_t *bytes,
                                   ifa_message *message);

/* Attention; inputs and outputs as for ifa_run (all of it: chosen rows, lse, stages). workspace:
 * IFA_CPU_ALIGNMENT-aligned, at least ifa_cpu_workspace_bytes for the same problem and threads.
 * On up to `threads` threads, the caller's among them: no more than the work is worth, or than can
 * be had. */
ifa_status ifa_cpu_attend(const char *isa, const ifa_problem *problem, const ifa_inputs *inputs,
                          const ifa_outputs *outputs, void *workspace, size_t workspace_bytes,
                          int threads, ifa_message *message);

/* ---- from floats to floats in one call ---- */

/* Q, K and V are quantized on the way, K and V at once into the kernels' layout, then attention:
 * the bits of ifa_quantize and ifa_run on the same choices.
 *
 *     ifa_cpu_attention_args a = ifa_cpu_attention_accurate(batch, q_heads, kv_heads, nq, nk,
 *       head_dim);
 *     a.q = q, a.k = k, a.v = v, a.o = o;           // float [batch, heads, tokens, head_dim]
 *     a.problem.causal = 1;
 *     ifa_cpu_attention_workspace_bytes(&a, threads, &bytes, &why);
 *     void *workspace = aligned_alloc(IFA_CPU_ALIGNMENT, bytes);
 *     ifa_cpu_attention(NULL, &a, workspace, bytes, threads, &why);    // as often as wanted
 * */
typedef struct ifa_cpu_attention_args {
  /* Sizes, formats and scale choices of the quantized operands, sm_scale, masks, tau, out_type,
   * lse: all as in ifa.h, except that q_stride, k_stride and v_stride are those of the float
   * tensors (all three 0: dense [batch, heads, tokens, head_dim]; ifa_strides_bnhd for [batch,
   * tokens, heads, head_dim]). */
  ifa_problem problem;
  ifa_type type;           /* of q, k and v: IFA_F32, IFA_F16 or IFA_BF16 */
  int32_t subtract_k_mean; /* 1: quantize K less each channel's mean over the tokens: exact for the
                            * softmax (lse moves by the row's q . mean), finer scales where channels
                            * have offsets, at two more passes over K */
  /* q [batch, q_heads, nq, head_dim], k and v [batch, kv_heads, nk, head_dim] */
  const void *q, *k, *v;
  /* [batch, q_heads, nq, head_dim] of problem.out_type by problem.o_stride */
  void *o;
  float *lse; /* dense [batch][q_heads][nq]; required exactly when problem.lse is 1 */
} ifa_cpu_attention_args;

/* Settings to start from; pointers NULL, dense strides, no mask, sm_scale 1/sqrt(head_dim), f32 in
 * and out, INT8, Q and K per token, kv_tile 64, tau 2.
 *
 * Accurate: V per token, K less its mean. The one to begin with: small values stay beside large
 * ones (docs/accuracy.md).
 *
 * Fast: V per channel, K as it is: about 1.2 times as fast. Not for models with attention sinks, or
 * wherever V has a few large tokens: one of them makes its channels' steps coarse for all others,
 * and the relative error passes 0.4. */
ifa_cpu_attention_args ifa_cpu_attention_accurate(int64_t batch, int64_t q_heads, int64_t kv_heads,
                                                  int64_t nq, int64_t nk, int32_t head_dim);
ifa_cpu_attention_args ifa_cpu_attention_fast(int64_t batch, int64_t q_heads, int64_t kv_heads,
                                              int64_t nq, int64_t nk, int32_t head_dim);

/* Bytes of workspace on up to `threads` threads: ifa_cpu_workspace_bytes and what is known of
 * scales first. Reads no pointer of args; IFA_BAD_PROBLEM or IFA_BAD_ARGUMENT as ifa_cpu_attention
 * would answer. A multiple of IFA_CPU_ALIGNMENT. */
ifa_status ifa_cpu_attention_workspace_bytes(const ifa_cpu_attention_args *args, int threads,
                                             size_t *bytes, ifa_message *message);

/* isa, workspace and threads as for ifa_cpu_attend. Everything but the floats is checked first.
 * IFA_BAD_DATA for NaN, infinity or |x| > 2^99, with its place, and for scores that could pass 2^22
 * octaves (ifa_inputs); o and lse are then unspecified. Outputs must not overlap inputs. */
ifa_status ifa_cpu_attention(const char *isa, const ifa_cpu_attention_args *args, void *workspace,
                             size_t workspace_bytes, int threads, ifa_message *message);

#ifdef __GNUC__
#pragma GCC visibility pop
#endif
#ifdef __cplusplus
}
#endif
#endif
