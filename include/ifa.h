/* ifa.h - quantized tiled attention whose result is the same bits everywhere.
 *
 * The library computes, for every batch b, query head h and query row i,
 *
 *     O[i] = sum_j softmax_j(sm_scale * Q[i].K[j]) V[j]
 *
 * on INT8 or INT4 operands (INT-FlashAttention, arXiv 2409.16997, Algorithm 1, and past it). All
 * sums are integer sums and every other operation is one IEEE 754 operation on one element, so a
 * result depends on no thread count, block order, batch size or device: backends are compared with
 * memcmp. docs/numerics.md defines every bit; its version is IFA_CONTRACT_VERSION.
 *
 * Ten lines of use (q, k, v: float [batch, heads, tokens, head_dim]; error handling left out):
 *
 *     ifa_problem p = ifa_problem_default();
 *     p.batch = 1; p.q_heads = 8; p.kv_heads = 2; p.nq = 128; p.nk = 1000; p.head_dim = 64;
 *       p.causal = 1;
 *     p.sm_scale = 0.125f;
 *     ifa_message why;
 *     ifa_quantize_args a = {.src = q, .src_type = IFA_F32, .batch = 1, .heads = 8, .tokens = 128,
 *       .head_dim = 64,
 *                            .dst = q8, .dst_type = IFA_I8, .granularity = IFA_SCALE_TOKEN, .scale
 *                              = q_scale};
 *     ifa_quantize(&a, &why);                                                  // likewise K, and V
 *       by channel
 *     ifa_inputs in = {.q = q8, .k = k8, .v = v8, .q_scale = q_scale, .k_scale = k_scale, .v_scale
 *       = v_scale};
 *     ifa_outputs out = {.o = o};
 *     if (ifa_run("openmp", &p, &in, &out, &why) != IFA_OK) puts(why.text);
 *
 * Conventions. Sizes and strides count elements, never bytes, unless the name says so. Pointers are
 * to host memory. All functions are reentrant; two calls may run at once unless they write the same
 * memory. Nothing here prints, exits or keeps a pointer. The caller's floating-point environment
 * (rounding mode, flush-to-zero) has no influence on any result and is as it was on return.
 *
 * In a process. A call computes on the thread that makes it and on threads of the library's own:
 * made when first wanted, asleep between calls, as many as the work is worth and at most as many as
 * OpenMP would use (OMP_NUM_THREADS, omp_set_num_threads, OMP_THREAD_LIMIT), but never more than 64
 * or twice the processors, whichever is more. Without OpenMP, and within a parallel region that
 * allows no other in it, that is one. Where the system refuses a thread, the call does with those
 * that there are. No result depends on any of this, nor on a pool of the caller's, which takes the
 * place of all of it (ifa_set_pool).
 *
 * - fork(): a child may use everything, whatever the parent did before, and makes threads of its
 *   own. Two exceptions: a cache (ifa_cache.h) on which another thread had a call under way, and
 *   CUDA, which a child cannot use if the parent has.
 * - The caller's threads: any of them may call. Calls at once do not share threads; a thread of the
 *   library keeps the processor mask and priority of the call that it was first made for. Calls
 *   from within OpenMP regions follow OpenMP's rule for regions within regions.
 * - Unloading (dlclose): when no call is under way. The library's threads end first, also where it
 *   is a part (libifa.a) of another library.
 * - pthread_cancel: takes effect after the call (with asynchronous cancelability: undefined).
 * - Signals: the library's threads take none but those of a fault of their own and SIGPROF, so
 *   handlers run on the caller's threads. A handler calls no function of this library and leaves
 *   none by longjmp; a child that it forks during a call may only exec or _exit.
 * */
#ifndef IFA_H
#define IFA_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
#ifdef __GNUC__
#pragma GCC visibility push(default) /* what is declared here is what the shared library exports \
                                      */
#endif

#define IFA_VERSION "0.1.0"    /* of this library */
#define IFA_CONTRACT_VERSION 3 /* of the bits: docs/numerics.md */

/* ---- status ---- */

/* What a call answers. Anything but IFA_OK leaves the outputs either untouched or unspecified,
 * never half trusted. */
typedef enum ifa_status {
  IFA_OK = 0,
  /* a field of the descriptor is out of its range, or fields contradict each other */
  IFA_BAD_PROBLEM,
  IFA_BAD_ARGUMENT,  /* a pointer, stride, row number or name given to the call */
  IFA_BAD_DATA,      /* contents: NaN or infinity, a scale that is negative or out of range */
  IFA_BAD_FILE,      /* a tensor file that is truncated, malformed or lies about itself */
  IFA_UNSUPPORTED,   /* a valid problem that this backend does not implement */
  IFA_NOT_AVAILABLE, /* a backend that this build or machine does not have */
  IFA_OUT_OF_MEMORY,
  IFA_IO,  /* the operating system refused a read or a write */
  IFA_FULL /* a cache (ifa_cache.h) has no block, sequence or position left */
} ifa_status;

/* "ok", "bad problem", ... ; never NULL. */
const char *ifa_status_name(ifa_status status);

/* One line, without a newline: which field, which value, which bound. Any `ifa_message *` may be
 * NULL. It is set on every failure and emptied on success. */
typedef struct ifa_message {
  char text[320];
} ifa_message;

/* ---- problem ---- */

typedef enum ifa_type {
  IFA_F32 = 0,
  IFA_F16,  /* IEEE binary16 */
  IFA_BF16, /* upper half of a binary32 */
  IFA_I8,   /* -128..127 */
  /* -8..7, two to a byte, the even element in the low nibble; a row of D elements fills ceil(D/2)
   * bytes */
  IFA_I4
} ifa_type;

/* How many elements share a scale. The matrix is [tokens, head_dim] of one (batch, head). */
typedef enum ifa_granularity {
  IFA_SCALE_TENSOR = 0, /* one per matrix:                         scale[batch][head] */
  /* one per block of tokens (Q, K):         scale[batch][head][ceil(tokens / block)] */
  IFA_SCALE_BLOCK,
  IFA_SCALE_TOKEN,        /* one per token:                          scale[batch][head][tokens] */
  IFA_SCALE_CHANNEL,      /* one per element of head_dim (V):        scale[batch][head][head_dim] */
  IFA_SCALE_TOKEN_CHANNEL /* a token's times a channel's (V):        both of the above */
} ifa_granularity;

/* Element strides of a [batch, head, token, head_dim] tensor; head_dim is contiguous. All three 0:
 * dense [batch, head, token, head_dim]. For dense [batch, token, head, head_dim] use
 * ifa_strides_bnhd(). For INT4 each stride counts nibbles and must be even. Strides are never
 * negative. Rows of an output must not overlap; rows of an input may (a head stride of 0 shares one
 * K among heads). */
typedef struct ifa_strides {
  int64_t batch, head, token;
} ifa_strides;

ifa_strides ifa_strides_bhnd(ifa_type type, int64_t heads, int64_t tokens, int64_t head_dim);
ifa_strides ifa_strides_bnhd(ifa_type type, int64_t heads, int64_t tokens, int64_t head_dim);

#define IFA_TAU_INF \
  INT32_MAX /* the unit follows the running maximum only (FlashAttention's rule) */
#define IFA_MAX_HEAD_DIM 256
#define IFA_MAX_KV_SPLIT \
  32768 /* keys that one integer accumulator may hold: docs/numerics.md, Accumulation */
#define IFA_MAX_TOKENS 16777216 /* nq and nk */

typedef struct ifa_problem {
  int64_t batch; /* 1 .. 65535 */
  /* 1 .. 65535, a multiple of kv_heads; query head h reads key/value head h / (q_heads / kv_heads)
   */
  int64_t q_heads;
  int64_t kv_heads; /* 1 .. q_heads: equal (MHA), fewer (GQA) or 1 (MQA) */
  int64_t nq;       /* query tokens, 0 .. IFA_MAX_TOKENS */
  int64_t nk;       /* key/value tokens, 0 .. IFA_MAX_TOKENS; with nk = 0 every output is 0 */
  int32_t head_dim; /* 1 .. IFA_MAX_HEAD_DIM */

  ifa_type q_type, k_type, v_type;  /* IFA_I8 or IFA_I4, each on its own */
  ifa_granularity q_scale, k_scale; /* TOKEN, BLOCK or TENSOR */
  ifa_granularity v_scale;          /* TENSOR, CHANNEL, TOKEN or TOKEN_CHANNEL */
  /* tokens per Q block, 1 .. IFA_MAX_TOKENS; read only when q_scale is BLOCK */
  int32_t q_block;
  /* tokens per K block, a multiple of kv_tile, at most IFA_MAX_TOKENS; read only when k_scale is
   * BLOCK */
  int32_t k_block;
  ifa_strides q_stride, k_stride, v_stride; /* of the quantized operands */
  ifa_strides o_stride;                     /* of the output */

  float sm_scale; /* 0 or 2^-20 .. 2^20; usually 1/sqrt(head_dim) */
  int32_t causal; /* 0 or 1: row i sees keys j <= i + nk - nq (aligned at the bottom right) */
  /* 0: none; w = 1 .. 2 * IFA_MAX_TOKENS: keys within w - 1 of position i + nk - nq, on either side
   * (left only if causal) */
  int64_t window;

  /* octaves that a tile's weights may lose before the row's unit follows it down: 0 .. 64 or
   * IFA_TAU_INF */
  int32_t tau;
  int32_t kv_tile; /* keys per tile: 32, 64, 128 or 256; part of the result */
  /* keys per split, a multiple of kv_tile, at most IFA_MAX_KV_SPLIT; 0: IFA_MAX_KV_SPLIT; part of
   * the result */
  int64_t kv_split;

  ifa_type out_type; /* IFA_F32, IFA_F16 or IFA_BF16 */
  int32_t lse;       /* 0 or 1: also write the natural log-sum-exp of each row's scores */
} ifa_problem;

/* batch, heads and sizes 1, head_dim 64, INT8, Q and K per token, V per channel, sm_scale 1/8, tau
 * 2, kv_tile 64, f32 output. V per channel is the fast choice, not the safe one: where V has a few
 * large tokens (attention sinks) it loses the others, with relative errors of 0.4 and more; V per
 * token does not (docs/accuracy.md). */
ifa_problem ifa_problem_default(void);

/* IFA_OK, or IFA_BAD_PROBLEM and a message that names the field, its value and its range. Every
 * other call that takes a problem begins with this check; a product of sizes and strides that
 * overflows is caught here. */
ifa_status ifa_problem_check(const ifa_problem *problem, ifa_message *message);

/* The problem as one line of `key=value` words, e.g.
 *   b=1 hq=8 hkv=2 nq=128 nk=1000 d=128 q=int8 k=int8 v=int8 qscale=token kscale=token
 *     vscale=channel sm=0.125 tau=2 ...
 * ifa_problem_parse reads it back exactly (keys in any order; what is not named keeps the value
 * that *problem has). `length` bytes at `text`; IFA_BAD_ARGUMENT if they do not suffice (1024
 * always do). */
ifa_status ifa_problem_print(const ifa_problem *problem, char *text, size_t length,
                             ifa_message *message);
ifa_status ifa_problem_parse(const char *text, ifa_problem *problem, ifa_message *message);

/* ---- attention ---- */

/* Quantized operands. Scales are dense arrays in the shapes given at ifa_granularity, each scale 0
 * (or -0, which is a 0) or in [2^-100, 2^100]. IFA_BAD_DATA if a scale breaks that, or if scores
 * could pass 2^22 octaves: max q_scale * sm_scale * log2(e) * max k_scale * head_dim * max|q| *
 * max|k| (128 for INT8, 8 for INT4) > 2^22. */
typedef struct ifa_inputs {
  const void *q; /* [batch, q_heads, nq, head_dim] by q_stride */
  const void *k; /* [batch, kv_heads, nk, head_dim] by k_stride */
  const void *v; /* [batch, kv_heads, nk, head_dim] by v_stride */
  /* v_scale: the token's factor when v_scale is TOKEN_CHANNEL */
  const float *q_scale, *k_scale, *v_scale;
  /* [batch][kv_heads][head_dim]; only for TOKEN_CHANNEL */
  const float *v_channel_scale;
  /* Which query rows to compute: numbers (b * q_heads + h) * nq + i, each below batch * q_heads *
   * nq, ascending, no repeats. NULL: all. Rows not chosen are not written. */
  const int64_t *rows;
  int64_t row_count; /* 0 with rows == NULL */
} ifa_inputs;

#define IFA_NO_UNIT INT32_MIN /* a unit that has not been set: no live key so far */

/* The stages of the computation, for finding where an implementation leaves the contract
 * (docs/numerics.md names them). Any pointer may be NULL. The first index r counts the computed
 * rows (chosen rows in their order, or all rows); T = ceil(nk / kv_tile), N = number of splits =
 * ceil(nk / kv_split). Keys that row r does not see hold 0. */
typedef struct ifa_stages {
  int32_t *s; /* [r][nk]      integer scores */
  /* [r][T]       U after the tile; IFA_NO_UNIT if no key of the tile is live */
  int32_t *unit;
  uint8_t *p;          /* [r][nk]      weights p */
  int32_t *value_unit; /* [r][T]       U' after the tile (V per token only, else IFA_NO_UNIT) */
  /* [r][nk]      weights P that multiply V (equal to p unless V is per token) */
  uint8_t *value_p;
  int32_t *l; /* [r][N]       sum of p at the end of the split, in its last unit */
  /* [r][N][head_dim] sum of P*V at the end of the split, in its last unit */
  int32_t *acc;
} ifa_stages;

typedef struct ifa_outputs {
  void *o; /* [batch, q_heads, nq, head_dim] of out_type by o_stride */
  /* dense [batch][q_heads][nq]; required exactly when problem.lse is 1; -inf for a row without keys
   */
  float *lse;
  ifa_stages *stages; /* NULL, or what to record; IFA_UNSUPPORTED if the backend cannot */
} ifa_outputs;

/* Backends, in a fixed order; "scalar", the oracle, is first. A backend that this build lacks is
 * listed too. */
int ifa_backend_count(void);
const char *ifa_backend_name(int index);        /* NULL outside 0 .. count-1 */
const char *ifa_backend_description(int index); /* one line */

/* Can `backend` run `problem`? IFA_OK, IFA_NOT_AVAILABLE (with the reason), IFA_UNSUPPORTED (with
 * the field), IFA_BAD_PROBLEM, or IFA_BAD_ARGUMENT for an unknown name. problem NULL: only whether
 * the backend is available. ifa_run gives the same answer. */
ifa_status ifa_backend_supports(const char *backend, const ifa_problem *problem,
                                ifa_message *message);

/* Runs one backend. Outputs must not overlap inputs or each other. */
ifa_status ifa_run(const char *backend, const ifa_problem *problem, const ifa_inputs *inputs,
                   const ifa_outputs *outputs, ifa_message *message);

/* ---- quantizers ---- */

/* Symmetric quantization of one [batch, heads, tokens, head_dim] tensor: docs/numerics.md,
 * Quantizers. Per group
 *     scale = absmax / Qmax,  q = clamp(round(x * (Qmax / absmax))),   Qmax = 127 (INT8) or 7
 *       (INT4)
 * A group whose absmax is below 2^-93 gives scale 0 and q 0. NaN, infinity or |x| > 2^99:
 * IFA_BAD_DATA, and the message says where. The result does not depend on the order of work. dst
 * must not overlap src. */
typedef struct ifa_quantize_args {
  const void *src;
  ifa_type src_type; /* IFA_F32, IFA_F16 or IFA_BF16 */
  ifa_strides src_stride;
  int64_t batch, heads, tokens, head_dim;
  void *dst;
  ifa_type dst_type; /* IFA_I8 or IFA_I4 */
  ifa_strides dst_stride;
  ifa_granularity granularity; /* any */
  int32_t block;               /* tokens per block, for IFA_SCALE_BLOCK */
  /* 1: subtract each channel's mean over the tokens first (for K: the softmax does not notice) */
  int32_t subtract_mean;
  /* written; shape at ifa_granularity (the token's factor for TOKEN_CHANNEL) */
  float *scale;
  float *channel_scale; /* written; only for TOKEN_CHANNEL: [batch][heads][head_dim] */
  /* NULL, or written when subtract_mean is 1: [batch][heads][head_dim] */
  float *mean;
} ifa_quantize_args;

ifa_status ifa_quantize(const ifa_quantize_args *args, ifa_message *message);

/* ---- threads ---- */

/* A pool of the caller's threads, for the calls of a process or of one thread, in place of the
 * library's own (and of OpenMP's number). All calls use it, ifa_run, ifa_quantize, ifa_cpu_attend
 * and the caches' among them.
 *
 * parallel_for calls body(argument, i) for i of 0 .. count-1, 2 <= count <= threads: in any order,
 * on any threads, at once or one after the other, and returns when all that it called have
 * returned. They share one heap of work, so a body that begins late finds nothing left and returns
 * at once: leave out, or take back, what has not begun when the others are done. (If it calls none,
 * the calling thread does the work.) It is called by each thread that calls the library, so perhaps
 * by several at once, and from within a body of the caller's own if that calls the library: then it
 * must not wait for threads that wait for it. For work of less than about 40 microseconds it is not
 * called. A body never waits for another, calls nothing of the caller's and must not be ended
 * (pthread_cancel, longjmp). */
typedef struct ifa_pool {
  void (*parallel_for)(void *context, int count, void (*body)(void *argument, int index),
                       void *argument);
  void *context;
  /* 1 .. 1024, the calling thread among them: at most so many bodies a call. 1: the calling thread
   * alone, and parallel_for is not called and may be NULL */
  int threads;
} ifa_pool;

/* The pool of the process: for calls that begin from now on, on threads that have none of their
 * own. NULL: the library's threads again. *pool is not copied: it must stay as it is until another
 * is set and the calls that began before have returned. A child of fork() has the same setting; a
 * pool whose threads the child lacks must be replaced there, or do without them. IFA_BAD_ARGUMENT
 * if a field is out of its range; nothing is set then. */
ifa_status ifa_set_pool(const ifa_pool *pool, ifa_message *message);

/* The same for the calling thread alone; it goes before the process's. NULL: the process's again.
 * For instance a pool for each NUMA node, or one of 1 thread on workers that are a pool's
 * themselves. */
ifa_status ifa_set_thread_pool(const ifa_pool *pool, ifa_message *message);

/* Number of scales that a granularity has for [batch, heads, tokens, head_dim]; TOKEN_CHANNEL
 * counts the token factors. */
int64_t ifa_scale_count(ifa_granularity granularity, int64_t batch, int64_t heads, int64_t tokens,
                        int64_t head_dim, int32_t block);

#ifdef __GNUC__
#pragma GCC visibility pop
#endif
#ifdef __cplusplus
}
#endif
#endif
