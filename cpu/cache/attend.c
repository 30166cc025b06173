/* attend.c - attention over the sequences of a cache: checks, Q on its way in, and the one code
 * path of all CPU attention (attend.h), which asks for tiles by number and finds them here through
 * the block tables. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/contract.h"
#include "common/fpenv.h"
#include "common/inputs.h"
#include "common/message.h"
#include "common/team.h"
#include "cpu/attend.h"
#include "cpu/cache/block.h"
#include "cpu/quantize/rows.h"
#include "ifa_cpu.h"

struct ifa_cache_workspace {
  size_t bytes; /* all of it, this header included */
  int32_t threads;
  const ifa_cpu_kernels *many, *few;
  void *allocated;
};

/* The parts of the workspace, placed anew by each call for its rows. */
typedef struct parts {
  size_t queries, tables; /* one a query with rows */
  size_t q, q_scale;      /* Q that came as floats */
  size_t attend, end;
} parts;

static size_t aligned(size_t bytes) {
  return (bytes + IFA_CACHE_ALIGNMENT - 1) / IFA_CACHE_ALIGNMENT * IFA_CACHE_ALIGNMENT;
}

/* p is resolved. A query has at least a row, or it is left out: rows bounds their number too. */
static parts place(const ifa_problem *p, int64_t rows, int32_t threads) {
  parts at = {.queries = aligned(sizeof(ifa_cache_workspace))};
  size_t q_rows = (size_t)(rows * p->q_heads);
  at.tables = at.queries + aligned((size_t)rows * sizeof(ifa_cpu_query));
  at.q = at.tables + aligned((size_t)rows * sizeof(uint32_t *));
  at.q_scale = at.q + aligned(q_rows * (size_t)p->head_dim);
  at.attend = at.q_scale + aligned(q_rows * sizeof(float));
  at.end = at.attend + ifa_cpu_attend_queries_bytes(p, rows, threads);
  return at;
}

/* The problem as the cache poses it, for nq rows over nk keys; strides and kv_split resolved. query
 * NULL: the strides are left out. */
static ifa_status pose(const ifa_cache *cache, const ifa_problem *problem, int64_t nq, int64_t nk,
                       const ifa_cache_query *query, ifa_problem *posed, ifa_message *message) {
  const ifa_cache_config *c = &cache->config;
  ifa_problem p = *problem;
  const struct {
    const char *name;
    int64_t given, own;
    const char *given_name, *own_name; /* NULL: numbers */
  } fields[] = {{"batch", p.batch, 1, NULL, NULL},
                {"kv_heads", p.kv_heads, c->kv_heads, NULL, NULL},
                {"head_dim", p.head_dim, c->head_dim, NULL, NULL},
                {"k_type", p.k_type, c->k_type, ifa_type_name(p.k_type), ifa_type_name(c->k_type)},
                {"v_type", p.v_type, c->v_type, ifa_type_name(p.v_type), ifa_type_name(c->v_type)},
                {"k_scale", p.k_scale, IFA_SCALE_TOKEN, ifa_granularity_name(p.k_scale), "token"},
                {"v_scale", p.v_scale, IFA_SCALE_TOKEN, ifa_granularity_name(p.v_scale), "token"},
                {"kv_tile", p.kv_tile, c->kv_tile, NULL, NULL}};
  for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
    if (fields[i].given == fields[i].own) continue;
    if (fields[i].own_name && fields[i].given_name[0] != '?') /* it has a name */
      return ifa_fail(message, IFA_BAD_PROBLEM, "%s is %s; for this cache it is %s", fields[i].name,
                      fields[i].given_name, fields[i].own_name);
    return ifa_fail(message, IFA_BAD_PROBLEM, "%s is %" PRId64 "; for this cache it is %" PRId64,
                    fields[i].name, fields[i].given, fields[i].own);
  }
  p.nq = nq;
  p.nk = nk;
  p.k_stride = p.v_stride = (ifa_strides){0, 0, 0};
  /* floats have their own check */
  if (!query || query->q_type != p.q_type) p.q_stride = p.k_stride;
  if (!query) p.o_stride = p.k_stride;
  ifa_status status = ifa_problem_check(&p, message);
  if (status == IFA_OK) *posed = ifa_problem_resolved(&p);
  return status;
}

/* ---- the workspace ---- */

static int32_t threads_for(int32_t threads) { return threads ? threads : ifa_team_default(); }

ifa_status ifa_cache_workspace_bytes(const ifa_cache *cache, const ifa_problem *problem,
                                     int64_t rows, int32_t threads, size_t *bytes,
                                     ifa_message *message) {
  ifa_problem p;
  if (!cache || !problem || !bytes)
    return ifa_fail(message, IFA_BAD_ARGUMENT, "%s is NULL",
                    !cache     ? "cache"
                    : !problem ? "problem"
                               : "bytes");
  if (rows < 0 || rows > IFA_MAX_TOKENS)
    return ifa_fail(message, IFA_BAD_ARGUMENT, "rows is %" PRId64 "; it must be 0 .. %d", rows,
                    IFA_MAX_TOKENS);
  if (threads < 0 || threads > IFA_CPU_MAX_THREADS)
    return ifa_fail(message, IFA_BAD_ARGUMENT, "threads is %" PRId32 "; it must be 0 .. %d",
                    threads, IFA_CPU_MAX_THREADS);
  ifa_status status = pose(cache, problem, rows, cache->config.sequence_tokens, NULL, &p, message);
  if (status != IFA_OK) return status;
  *bytes = place(&p, rows, threads_for(threads)).end;
  return ifa_succeed(message);
}

ifa_status ifa_cache_workspace_create(const ifa_cache *cache, const ifa_problem *problem,
                                      int64_t rows, int32_t threads, void *memory, size_t bytes,
                                      ifa_cache_workspace **created, ifa_message *message) {
  ifa_cpu_choice isa;
  size_t needed;
  void *start, *allocated;
  if (!created) return ifa_fail(message, IFA_BAD_ARGUMENT, "workspace is NULL");
  *created = NULL;
  ifa_status status = ifa_cache_workspace_bytes(cache, problem, rows, threads, &needed, message);
  if (status == IFA_OK) status = ifa_cpu_choose(NULL, &isa, message);
  if (status == IFA_OK)
    status = ifa_cache_memory(memory, bytes, needed, &start, &allocated, message);
  if (status != IFA_OK) return status;
  ifa_cache_workspace *w = start;
  *w = (ifa_cache_workspace){.bytes = needed,
                             .threads = threads_for(threads),
                             .many = isa.many->kernels,
                             .few = isa.few->kernels,
                             .allocated = allocated};
  *created = w;
  return ifa_succeed(message);
}

void ifa_cache_workspace_destroy(ifa_cache_workspace *workspace) {
  if (workspace) free(workspace->allocated);
}

/* ---- one call ---- */

static float largest_k_scale(const ifa_cache *cache, const uint32_t *table, int64_t length) {
  float largest = 0.0f;
  int64_t whole = length / cache->config.block_tokens, rest = length % cache->config.block_tokens;
  for (int64_t i = 0; i < whole; i++) largest = fmaxf(largest, cache->largest_k_scale[table[i]]);
  return rest ? fmaxf(largest, ifa_cache_largest_k_scale(cache, table[whole], (int32_t)rest))
              : largest;
}

/* Where it is, in k_scale as ifa_cache_read gives it for the whole sequence. */
static int64_t find_k_scale(const ifa_cache *cache, const uint32_t *table, int64_t length,
                            float scale) {
  const ifa_cache_config *c = &cache->config;
  for (int64_t h = 0; h < c->kv_heads; h++)
    for (int64_t t = 0; t < length; t++) {
      const uint8_t *tile =
          ifa_cache_tile(cache, table[t / c->block_tokens], h, t % c->block_tokens / c->kv_tile);
      if (ifa_cpu_k_scale(&cache->layout, tile)[t % c->kv_tile] == scale) return h * length + t;
    }
  return -1;
}

/* The first element of Q from row `first` on (of [q_heads][nq]) that is not finite or too large:
 * there is one. */
static ifa_status refuse_element(const ifa_problem *p, const ifa_cache_query *query,
                                 ifa_strides strides, int64_t first, ifa_message *message) {
  float x = 0.0f;
  for (int64_t i = first * p->head_dim;; i++) {
    const int64_t row = i / p->head_dim, head = row / p->nq, d = i % p->head_dim;
    x = ifa_float_get(query->q_type, query->q, ifa_offset(strides, 0, head, row % p->nq) + d);
    if (!(fabsf(x) <= 0x1p99f))
      return ifa_fail(message, IFA_BAD_DATA,
                      "q[%" PRId64 "][%" PRId64 "][%" PRId64
                      "] is %g; elements must be finite and at most 2^99",
                      head, row % p->nq, d, (double)x);
  }
}

/* Q of floats: quantized per token, one byte an element, dense [q_heads][nq][head_dim]. */
static ifa_status quantize_q(const ifa_problem *p, const ifa_cache_query *query,
                             ifa_strides strides, int8_t *q, float *q_scale, ifa_message *message) {
  enum { TOGETHER = 16 };
  const ifa_row_kernels *kernels = ifa_row_kernels_best();
  if (strides.batch == 0 && strides.head == 0 && strides.token == 0)
    strides = ifa_strides_bhnd(query->q_type, p->q_heads, p->nq, p->head_dim);
  if (ifa_check_strides("q_stride", query->q_type, strides, 1, p->q_heads, p->nq, p->head_dim, 0,
                        message) != IFA_OK)
    return IFA_BAD_PROBLEM;
  const int64_t rows = p->q_heads * p->nq;
  for (int64_t r = 0, count; r < rows; r += count) {
    int64_t at[TOGETHER];
    int8_t *to[TOGETHER];
    count = ifa_min64(TOGETHER, rows - r);
    for (int64_t i = 0; i < count; i++) {
      at[i] = ifa_offset(strides, 0, (r + i) / p->nq, (r + i) % p->nq);
      to[i] = q + (r + i) * p->head_dim;
    }
    if (!kernels->token_rows(query->q_type, query->q, at, (int32_t)count, p->head_dim,
                             p->q_type == IFA_I4 ? 7 : 127, NULL, q_scale + r, to))
      return refuse_element(p, query, strides, r, message);
  }
  return IFA_OK;
}

static ifa_status check_query(const ifa_problem *p, const ifa_cache_query *query,
                              ifa_message *message) {
  int floats = query->q_type == IFA_F32 || query->q_type == IFA_F16 || query->q_type == IFA_BF16;
  if (!floats && query->q_type != p->q_type)
    return ifa_fail(message, IFA_BAD_ARGUMENT,
                    "q_type is %s; it must be the problem's, %s, or f32, f16 or bf16",
                    ifa_type_name(query->q_type), ifa_type_name(p->q_type));
  if (floats && p->q_scale != IFA_SCALE_TOKEN)
    return ifa_fail(message, IFA_BAD_ARGUMENT, "q_type is %s, but problem.q_scale is not token",
                    ifa_type_name(query->q_type));
  if (floats && query->q_scale)
    return ifa_fail(message, IFA_BAD_ARGUMENT, "q_type is %s and q_scale is given",
                    ifa_type_name(query->q_type));
  if (!query->q || !query->o)
    return ifa_fail(message, IFA_BAD_ARGUMENT, "%s is NULL", query->q ? "o" : "q");
  if (!floats && !query->q_scale) return ifa_fail(message, IFA_BAD_ARGUMENT, "q_scale is NULL");
  if (!query->lse != !p->lse)
    return ifa_fail(message, IFA_BAD_ARGUMENT, "lse is %s but problem.lse is %d",
                    query->lse ? "given" : "NULL", (int)p->lse);
  return IFA_OK;
}

/* One query that has been looked up: everything about it that can be refused, and Q as the kernels
 * take it. */
static ifa_status prepare(const ifa_cache *cache, const ifa_problem *problem,
                          const ifa_cache_query *query, const uint32_t *table, int64_t length,
                          int8_t *q, float *q_scale, ifa_cpu_query *to, ifa_message *message) {
  ifa_problem p;
  ifa_largest_scale q_max, k_max = {"the cache's k_scale", 0, 0.0f};
  ifa_status status = pose(cache, problem, query->nq, length, query, &p, message);
  if (status == IFA_OK) status = check_query(&p, query, message);
  if (status != IFA_OK) return status;
  *to = (ifa_cpu_query){.q = query->q,
                        .q_scale = query->q_scale,
                        .q_type = p.q_type,
                        .q_stride = p.q_stride,
                        .o = query->o,
                        .o_stride = p.o_stride,
                        .lse = query->lse,
                        .nq = query->nq,
                        .nk = length};
  if (query->q_type != p.q_type) { /* one byte an element, whatever the grid */
    status = quantize_q(&p, query, problem->q_stride, q, q_scale, message);
    to->q = q;
    to->q_scale = q_scale;
    to->q_type = IFA_I8;
    to->q_stride = ifa_strides_bhnd(IFA_I8, p.q_heads, p.nq, p.head_dim);
  }
  int64_t scales = ifa_scale_count(p.q_scale, 1, p.q_heads, p.nq, p.head_dim, p.q_block);
  if (status == IFA_OK)
    status = ifa_check_scales(query->q_scale ? "q_scale" : "q's own scale", to->q_scale, scales,
                              &q_max, message);
  if (status != IFA_OK) return status;
  k_max.value = largest_k_scale(cache, table, length);
  status = ifa_check_octaves(&p, &q_max, &k_max, NULL);
  if (status == IFA_OK) return IFA_OK;
  k_max.index = find_k_scale(cache, table, length, k_max.value);
  return ifa_check_octaves(&p, &q_max, &k_max, message);
}

/* Puts the query's number in front of what was said about it. */
static ifa_status about_query(int64_t i, const ifa_message *why, ifa_status status,
                              ifa_message *message) {
  return ifa_fail(message, status, "queries[%" PRId64 "]: %.280s", i, why->text);
}

typedef struct tiles {
  const ifa_cache *cache;
  const uint32_t *const *tables;
} tiles;

static const uint8_t *tile_at(const void *context, int64_t query, int64_t kv_head, int64_t t) {
  const tiles *c = context;
  return ifa_cache_tile(c->cache, c->tables[query][t / c->cache->tiles], kv_head,
                        t % c->cache->tiles);
}

/* The rows of all queries; IFA_BAD_PROBLEM or IFA_BAD_ARGUMENT if they are too many for anything.
 */
static ifa_status count_rows(const ifa_cache_query *queries, int64_t count, int64_t *rows,
                             ifa_message *message) {
  *rows = 0;
  for (int64_t i = 0; i < count; i++) {
    if (queries[i].nq < 0 || queries[i].nq > IFA_MAX_TOKENS)
      return ifa_fail(message, IFA_BAD_PROBLEM,
                      "queries[%" PRId64 "].nq is %" PRId64 "; it must be 0 .. %d", i,
                      queries[i].nq, IFA_MAX_TOKENS);
    *rows += queries[i].nq;
    if (*rows > IFA_MAX_TOKENS)
      return ifa_fail(message, IFA_BAD_ARGUMENT, "the queries have more than %d rows",
                      IFA_MAX_TOKENS);
  }
  return IFA_OK;
}

/* Tables and lengths of the queries that have rows; *found of them. */
static ifa_status look_up(const ifa_cache *cache, const ifa_cache_query *queries, int64_t count,
                          const uint32_t **tables, ifa_cpu_query *to, int64_t *found,
                          ifa_message *message) {
  ifa_status status = IFA_OK;
  *found = 0;
  ifa_cache_lock(cache);
  for (int64_t i = 0; i < count && status == IFA_OK; i++) {
    int64_t slot;
    ifa_message why;
    status = ifa_cache_look_up(cache, queries[i].sequence, &slot, &why);
    if (status != IFA_OK) about_query(i, &why, status, message);
    if (status != IFA_OK || queries[i].nq == 0) continue;
    tables[*found] = ifa_cache_table(cache, slot);
    to[(*found)++].nk = cache->slots[slot].length;
  }
  ifa_cache_unlock(cache);
  return status;
}

ifa_status ifa_cache_attend(const ifa_cache *cache, const ifa_problem *problem,
                            const ifa_cache_query *queries, int64_t count,
                            ifa_cache_workspace *workspace, ifa_message *message) {
  int64_t rows, found;
  ifa_problem p;
  if (!cache || !problem || !workspace)
    return ifa_fail(message, IFA_BAD_ARGUMENT, "%s is NULL",
                    !cache     ? "cache"
                    : !problem ? "problem"
                               : "workspace");
  if (count < 0 || (count > 0 && !queries))
    return ifa_fail(message, IFA_BAD_ARGUMENT, "count is %" PRId64 " and queries is %s", count,
                    queries ? "given" : "NULL");
  ifa_status status = count_rows(queries, count, &rows, message);
  if (status == IFA_OK)
    status = pose(cache, problem, rows, cache->config.sequence_tokens, NULL, &p, message);
  if (status != IFA_OK) return status;
  parts at = place(&p, rows, workspace->threads);
  if (at.end > workspace->bytes)
    return ifa_fail(message, IFA_BAD_ARGUMENT,
                    "the workspace has %zu bytes; %" PRId64 " rows of this problem need %zu",
                    workspace->bytes, rows, at.end);

  uint8_t *base = (uint8_t *)workspace;
  ifa_cpu_query *to = (ifa_cpu_query *)(base + at.queries);
  const uint32_t **tables = (const uint32_t **)(base + at.tables);
  int8_t *q = (int8_t *)(base + at.q);
  float *q_scale = (float *)(base + at.q_scale);
  status = look_up(cache, queries, count, tables, to, &found, message);
  ifa_fpenv env;
  ifa_fpenv_enter(&env);
  for (int64_t i = 0, next = 0; i < count && status == IFA_OK; i++) {
    ifa_message why;
    if (queries[i].nq == 0) continue;
    status = prepare(cache, problem, &queries[i], tables[next], to[next].nk, q, q_scale, &to[next],
                     &why);
    if (status != IFA_OK) about_query(i, &why, status, message);
    q += queries[i].nq * p.q_heads * p.head_dim;
    q_scale += queries[i].nq * p.q_heads;
    next++;
  }
  if (status == IFA_OK && found > 0) {
    const ifa_inputs in = {0};
    const ifa_outputs out = {0};
    const tiles context = {cache, tables};
    p.batch = found;
    ifa_cpu_job job = {.p = &p,
                       .in = &in,
                       .out = &out,
                       .queries = to,
                       .layout = cache->layout,
                       .tile = tile_at,
                       .context = &context,
                       .many = workspace->many,
                       .few = workspace->few,
                       .threads = workspace->threads};
    ifa_cpu_attend_tiles(&job, base + at.attend);
  }
  ifa_fpenv_leave(&env);
  return status == IFA_OK ? ifa_succeed(message) : status;
}
