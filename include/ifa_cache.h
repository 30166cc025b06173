/* ifa_cache.h - a paged, quantized key/value cache, and attention that reads it: the same bits as
 * ifa_run on the same tokens.
 *
 * One cache holds the keys and values of one attention layer (a model has a cache per layer; the
 * same calls give the same handles in each). Tokens arrive as floats, one by one or in chunks, and
 * are quantized on entry, each on its own, to INT8 or INT4: the bits of ifa_quantize with
 * IFA_SCALE_TOKEN. They lie in blocks of a fixed number of tokens; a sequence is a table of blocks,
 * so it grows, forks and ends without a token being copied but those of a last, partly filled block
 * that two forks both go on writing.
 *
 *     ifa_cache_config c = ifa_cache_config_default();
 *     c.kv_heads = 8; c.head_dim = 128; c.block_tokens = 64; c.blocks = 4096; c.sequences = 64;
 *     ifa_cache *cache;
 *     ifa_sequence s;
 *     ifa_cache_create(&c, NULL, 0, &cache, &why);
 *     ifa_cache_add(cache, &s, &why);
 *     ifa_cache_append(cache, s, &(ifa_cache_tokens){.k = k, .v = v, .type = IFA_BF16, .count = 1},
 *       &why);
 *     ifa_problem p = ifa_cache_problem(cache, 32);                         // 32 query heads
 *     p.sm_scale = 0.0883883f; p.causal = 1;
 *     ifa_cache_query query = {.sequence = s, .nq = 1, .q = q, .q_type = IFA_BF16, .o = o};
 *     ifa_cache_attend(cache, &p, &query, 1, workspace, &why);              // workspace:
 *       ifa_cache_workspace_create, once
 *
 * What it promises (docs/cache.md says how each is tested):
 * - Appending in any chunking gives the same bits, and so does any history of forks, truncations
 *   and freed neighbours.
 * - ifa_cache_attend writes what ifa_run("scalar") writes for the sequence's tokens, whatever else
 *   is in the call, whatever the
 *   number of threads. Decoding token t gives row t of a causal prefill with the same kv_split.
 * - A call that fails changes nothing: all of it happens or none of it.
 * - Everything is allocated by the create functions, or lies in memory that the caller gives them.
 *   Nothing else allocates.
 *
 * Threads. Calls on different sequences of one cache may run at once, whatever they are, also where
 * sequences share blocks. On one sequence, ifa_cache_append, _truncate and _remove must be alone;
 * all other calls (attend, read, fork, length) may overlap. A workspace serves one ifa_cache_attend
 * at a time; two workspaces, two at a time. ifa_cache_check and ifa_cache_destroy must be alone on
 * the cache. */
#ifndef IFA_CACHE_H
#define IFA_CACHE_H

#include "ifa.h"

#ifdef __cplusplus
extern "C" {
#endif
#ifdef __GNUC__
#pragma GCC visibility push(default) /* what is declared here is what the shared library exports \
                                      */
#endif

/* ---- a cache's life ---- */

typedef struct ifa_cache ifa_cache;

typedef struct ifa_cache_config {
  int64_t kv_heads;        /* 1 .. 65535 */
  int32_t head_dim;        /* 1 .. IFA_MAX_HEAD_DIM */
  ifa_type k_type, v_type; /* IFA_I8 or IFA_I4, each on its own */
  int32_t kv_tile;         /* keys per tile: 32, 64, 128 or 256; part of the result */
  int32_t block_tokens;    /* tokens per block: a multiple of kv_tile, at most IFA_MAX_KV_SPLIT */
  int64_t blocks;          /* capacity: 1 .. 2^31 - 1 */
  int64_t sequences;       /* sequences that may live at once: 1 .. 2^20 */
  /* longest sequence, at most IFA_MAX_TOKENS; 0: all blocks, or IFA_MAX_TOKENS if they hold more */
  int64_t sequence_tokens;
} ifa_cache_config;

/* 1 head, head_dim 64, INT8, kv_tile 64, block_tokens 64, 1 block, 1 sequence. */
ifa_cache_config ifa_cache_config_default(void);

/* The memory that a cache needs, all of it; IFA_BAD_ARGUMENT for a bad configuration, naming the
 * field. */
ifa_status ifa_cache_bytes(const ifa_cache_config *config, size_t *bytes, ifa_message *message);

/* Bytes in which one token's K and V lie, over all kv_heads, scales and padding included; a block
 * is block_tokens times that. 0 for a bad configuration. Per head: Dp of K and Dp of V (half that
 * for INT4; Dp is head_dim rounded up to a multiple of 16), 14 for scales and sums and 64 for each
 * tile. */
int64_t ifa_cache_bytes_per_token(const ifa_cache_config *config);

#define IFA_CACHE_ALIGNMENT 64

/* Makes an empty cache. memory NULL (bytes is ignored): allocated here. Otherwise in the caller's
 * `bytes` at `memory`, at least ifa_cache_bytes and aligned to IFA_CACHE_ALIGNMENT, the caller's
 * again after ifa_cache_destroy. IFA_OUT_OF_MEMORY, IFA_BAD_ARGUMENT. */
ifa_status ifa_cache_create(const ifa_cache_config *config, void *memory, size_t bytes,
                            ifa_cache **cache, ifa_message *message);
void ifa_cache_destroy(ifa_cache *cache); /* NULL is fine */

typedef struct ifa_cache_usage {
  int64_t free_blocks, free_sequences;
  int64_t shared_blocks; /* in more than one table */
} ifa_cache_usage;

ifa_cache_usage ifa_cache_usage_of(const ifa_cache *cache);

/* Everything that the cache believes about itself, looked over: tables, reference counts, free
 * lists. IFA_BAD_DATA and where. For tests and for the day when a service doubts its memory; must
 * be alone on the cache. */
ifa_status ifa_cache_check(const ifa_cache *cache, ifa_message *message);

/* ---- sequences ---- */

/* A handle. 0 is none; a handle that was removed is never given out again (in 2^32 uses of its
 * place), so a stale one is refused. All calls answer IFA_BAD_ARGUMENT for a handle that does not
 * live. */
typedef uint64_t ifa_sequence;

/* A new, empty sequence. IFA_FULL if config.sequences live. */
ifa_status ifa_cache_add(ifa_cache *cache, ifa_sequence *sequence, ifa_message *message);

/* A new sequence with the same tokens: the blocks are shared. Who first writes into a shared,
 * partly filled block copies it. IFA_FULL. */
ifa_status ifa_cache_fork(ifa_cache *cache, ifa_sequence parent, ifa_sequence *child,
                          ifa_message *message);

/* Keeps the first `length` tokens (0 .. the present length), for instance after rejected
 * speculative tokens; frees whole blocks behind them. */
ifa_status ifa_cache_truncate(ifa_cache *cache, ifa_sequence sequence, int64_t length,
                              ifa_message *message);

/* Ends the sequence and frees the blocks that nobody else has. */
ifa_status ifa_cache_remove(ifa_cache *cache, ifa_sequence sequence, ifa_message *message);

ifa_status ifa_cache_length(const ifa_cache *cache, ifa_sequence sequence, int64_t *length,
                            ifa_message *message);

/* Tokens to append: K and V [kv_heads, count, head_dim], head_dim contiguous, strides in elements
 * (both 0: dense). */
typedef struct ifa_cache_tokens {
  const void *k, *v;
  ifa_type type; /* of both: IFA_F32, IFA_F16 or IFA_BF16 */
  int64_t count;
  int64_t k_head_stride, k_token_stride, v_head_stride, v_token_stride;
} ifa_cache_tokens;

/* Quantizes the tokens and puts them behind the sequence's last. IFA_FULL if the blocks do not
 * suffice (counting one to copy a shared last block into) or the sequence would pass
 * sequence_tokens; IFA_BAD_DATA for NaN, infinity or |x| > 2^99. */
ifa_status ifa_cache_append(ifa_cache *cache, ifa_sequence sequence, const ifa_cache_tokens *tokens,
                            ifa_message *message);

/* Copies tokens first .. first + count - 1 out as ifa_quantize would have written them: dense
 * [kv_heads, count, head_dim] of k_type and v_type, scales dense [kv_heads][count]. Any pointer may
 * be NULL. */
ifa_status ifa_cache_read(const ifa_cache *cache, ifa_sequence sequence, int64_t first,
                          int64_t count, void *k, void *v, float *k_scale, float *v_scale,
                          ifa_message *message);

/* ---- attention ---- */

/* The problem that the cache poses: its kv_heads, head_dim, types and kv_tile, K and V scaled per
 * token, q_heads as given, and otherwise as in ifa_problem_default. The caller sets q_type,
 * sm_scale, causal, window, tau, kv_split, out_type, lse, q_stride, o_stride. batch stays 1; nq and
 * nk are each query's own. */
ifa_problem ifa_cache_problem(const ifa_cache *cache, int64_t q_heads);

/* One sequence of a call. Row i has position length - nq + i: the last nq tokens' queries, whose
 * keys are in the cache already. */
typedef struct ifa_cache_query {
  ifa_sequence sequence;
  int64_t nq;    /* rows, 0 .. IFA_MAX_TOKENS */
  const void *q; /* [q_heads, nq, head_dim] by problem.q_stride */
  /* of q: problem.q_type; or IFA_F32, IFA_F16 or IFA_BF16: quantized per token here
   * (problem.q_scale is TOKEN) */
  ifa_type q_type;
  const float *q_scale; /* [q_heads][nq]; NULL when q is of floats */
  void *o;              /* [q_heads, nq, head_dim] of problem.out_type by problem.o_stride */
  float *lse;           /* [q_heads][nq]; required exactly when problem.lse is 1 */
} ifa_cache_query;

typedef struct ifa_cache_workspace ifa_cache_workspace;

/* Memory for calls whose queries have at most `rows` rows together (the sum of nq), on at most
 * `threads` threads (0: as many as ifa_run would use at most now). memory and bytes as in
 * ifa_cache_create. A workspace fits every cache of the same configuration. */
ifa_status ifa_cache_workspace_bytes(const ifa_cache *cache, const ifa_problem *problem,
                                     int64_t rows, int32_t threads, size_t *bytes,
                                     ifa_message *message);
ifa_status ifa_cache_workspace_create(const ifa_cache *cache, const ifa_problem *problem,
                                      int64_t rows, int32_t threads, void *memory, size_t bytes,
                                      ifa_cache_workspace **workspace, ifa_message *message);
void ifa_cache_workspace_destroy(ifa_cache_workspace *workspace); /* NULL is fine */

/* For each query what ifa_run("scalar") gives for *problem with batch 1, its nq, nk the sequence's
 * length, and the sequence's tokens. Sequences may be of any lengths, and one may appear in several
 * queries. The refusals are ifa_run's; IFA_BAD_DATA also for a block table that cannot be (memory
 * that something else wrote). All is checked before anything is written. */
ifa_status ifa_cache_attend(const ifa_cache *cache, const ifa_problem *problem,
                            const ifa_cache_query *queries, int64_t count,
                            ifa_cache_workspace *workspace, ifa_message *message);

#ifdef __GNUC__
#pragma GCC visibility pop
#endif
#ifdef __cplusplus
}
#endif
#endif
