#include "tests/cpu/cache_model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/half.h"
#include "common/operand.h"
#include "common/problem.h"
#include "common/random.h"

enum { SEED = 314159 };

static void *memory_for(size_t bytes) {
  void *memory = malloc(bytes + 1);
  model_require(memory != NULL, "memory for the test", "");
  memset(memory, 0xcd, bytes + 1);
  return memory;
}

/* Tokens differ in size by octaves, and one in 16 is all 0. */
float model_element(uint64_t token, int which, int64_t head, int64_t d) {
  uint64_t stream = token * 2 + (uint64_t)which,
           kind = ifa_random_bits(SEED, stream, 1 << 20) >> 32;
  if (kind % 16 == 0) return 0.0f;
  float x = ifa_random_uniform(SEED, stream, (uint64_t)(head * 256 + d)) - 0.5f;
  return ldexpf(x, (int)(kind >> 8 & 7) - 3);
}

static float rounded(ifa_type type, float x) {
  if (type == IFA_F16) return ifa_f16_to_f32(ifa_f32_to_f16(x));
  return type == IFA_BF16 ? ifa_bf16_to_f32(ifa_f32_to_bf16(x)) : x;
}

/* What type a token arrived in is part of its number. */
static uint64_t token_number(uint64_t count, ifa_type type) { return count * 3 + (uint64_t)type; }
static ifa_type token_type(uint64_t token) { return (ifa_type)(token % 3); }

void model_create(model *m, const ifa_cache_config *config, void *memory, size_t bytes) {
  ifa_message why;
  memset(m, 0, sizeof *m);
  m->config = *config;
  if (!m->config.sequence_tokens) m->config.sequence_tokens = config->blocks * config->block_tokens;
  model_require(config->sequences <= MODEL_SEQUENCES && m->config.sequence_tokens <= MODEL_TOKENS &&
                    config->blocks <= MODEL_BLOCKS,
                "a cache that the model holds", "");
  ifa_status status = ifa_cache_create(config, memory, bytes, &m->cache, &why);
  model_require(status == IFA_OK, "create", why.text);
}

void model_destroy(model *m) {
  ifa_cache_destroy(m->cache);
  m->cache = NULL;
}

static int64_t blocks_of(const model *m, int64_t length) {
  return (length + m->config.block_tokens - 1) / m->config.block_tokens;
}

static int holders(const model *m, int label) {
  int count = 0;
  for (int s = 0; s < MODEL_SEQUENCES; s++)
    for (int64_t i = 0; m->sequences[s].live && i < blocks_of(m, m->sequences[s].length); i++)
      count += m->sequences[s].label[i] == label;
  return count;
}

static int64_t free_blocks(const model *m) {
  int64_t used = 0;
  for (int label = 1; label <= m->labels; label++) used += holders(m, label) > 0;
  return m->config.blocks - used;
}

static int64_t live_sequences(const model *m) {
  int64_t live = 0;
  for (int s = 0; s < MODEL_SEQUENCES; s++) live += m->sequences[s].live;
  return live;
}

/* Labels are few: those that nobody holds are used again. */
static int new_label(model *m) {
  for (int label = 1; label <= m->labels; label++)
    if (holders(m, label) == 0) return label;
  return ++m->labels;
}

void model_add(model *m, int at) {
  ifa_message why;
  model_sequence *s = &m->sequences[at];
  model_require(!s->live, "a place that is free", "");
  bool room = live_sequences(m) < m->config.sequences;
  ifa_status status = ifa_cache_add(m->cache, &s->handle, &why);
  model_require(status == (room ? IFA_OK : IFA_FULL) && (status == IFA_OK) == (s->handle != 0),
                "add", why.text);
  s->live = room;
  s->length = 0;
}

void model_fork(model *m, int from, int at) {
  ifa_message why;
  model_sequence *s = &m->sequences[at];
  model_require(!s->live && m->sequences[from].live, "places to fork", "");
  bool room = live_sequences(m) < m->config.sequences;
  ifa_sequence handle;
  ifa_status status = ifa_cache_fork(m->cache, m->sequences[from].handle, &handle, &why);
  model_require(status == (room ? IFA_OK : IFA_FULL) && (status == IFA_OK) == (handle != 0), "fork",
                why.text);
  if (!room) return;
  *s = m->sequences[from];
  s->handle = handle;
}

void model_truncate(model *m, int at, int64_t length) {
  ifa_message why;
  model_sequence *s = &m->sequences[at];
  bool fits = length >= 0 && length <= s->length;
  ifa_status status = ifa_cache_truncate(m->cache, s->handle, length, &why);
  model_require(status == (fits ? IFA_OK : IFA_BAD_ARGUMENT), "truncate", why.text);
  if (fits) s->length = length;
}

void model_remove(model *m, int at) {
  ifa_message why;
  model_sequence *s = &m->sequences[at];
  int64_t length;
  model_require(ifa_cache_remove(m->cache, s->handle, &why) == IFA_OK, "remove", why.text);
  s->live = false;
  model_require(ifa_cache_remove(m->cache, s->handle, &why) == IFA_BAD_ARGUMENT &&
                    ifa_cache_length(m->cache, s->handle, &length, &why) == IFA_BAD_ARGUMENT,
                "a removed handle is refused", why.text);
}

/* A label for each block that the tokens need, and a new one for a shared last block. Nothing is
 * changed if they do not suffice. */
static bool model_room(model *m, model_sequence *s, int64_t count) {
  int64_t have = blocks_of(m, s->length), want = blocks_of(m, s->length + count);
  bool copy =
      count > 0 && s->length % m->config.block_tokens != 0 && holders(m, s->label[have - 1]) > 1;
  if (s->length + count > m->config.sequence_tokens || want - have + copy > free_blocks(m))
    return false;
  if (copy) s->label[have - 1] = new_label(m);
  for (int64_t i = have; i < want; i++) {
    s->length = i * m->config.block_tokens; /* so that the blocks so far count as held */
    s->label[i] = new_label(m);
    s->length++;
  }
  return true;
}

ifa_status model_append(model *m, int at, int64_t count, ifa_type type, bool token_major) {
  ifa_message why;
  model_sequence *s = &m->sequences[at];
  int64_t heads = m->config.kv_heads, dim = m->config.head_dim, before = s->length;
  size_t each = ifa_type_bytes(type), bytes = (size_t)(heads * count * dim) * each;
  uint64_t first = m->tokens;
  uint8_t *data[2];
  for (int which = 0; which < 2; which++) {
    data[which] = memory_for(bytes);
    for (int64_t h = 0; h < heads; h++)
      for (int64_t t = 0; t < count; t++)
        for (int64_t d = 0; d < dim; d++) {
          int64_t index = token_major ? (t * heads + h) * dim + d : (h * count + t) * dim + d;
          ifa_float_set(type, data[which], index,
                        model_element(token_number(first + (uint64_t)t, type), which, h, d));
        }
  }
  ifa_cache_tokens tokens = {.k = data[0], .v = data[1], .type = type, .count = count};
  if (token_major) {
    tokens.k_head_stride = tokens.v_head_stride = dim;
    tokens.k_token_stride = tokens.v_token_stride = heads * dim;
  }
  bool room = model_room(m, s, count);
  s->length = before;
  ifa_status status = ifa_cache_append(m->cache, s->handle, &tokens, &why);
  model_require(status == (room ? IFA_OK : IFA_FULL), "append", why.text);
  free(data[0]);
  free(data[1]);
  if (!room) return status;
  for (int64_t t = 0; t < count; t++)
    s->token[before + t] = token_number(first + (uint64_t)t, type);
  s->length = before + count;
  m->tokens += (uint64_t)count;
  return status;
}

/* [kv_heads][length][head_dim] as binary32. */
static float *model_floats(const model *m, int at, int which) {
  const model_sequence *s = &m->sequences[at];
  int64_t dim = m->config.head_dim;
  float *x = memory_for((size_t)(m->config.kv_heads * s->length * dim) * sizeof *x);
  for (int64_t h = 0; h < m->config.kv_heads; h++)
    for (int64_t t = 0; t < s->length; t++)
      for (int64_t d = 0; d < dim; d++)
        x[(h * s->length + t) * dim + d] =
            rounded(token_type(s->token[t]), model_element(s->token[t], which, h, d));
  return x;
}

static size_t operand_bytes(ifa_type type, int64_t heads, int64_t tokens, int64_t dim) {
  return (size_t)ifa_extent_bytes(type, ifa_strides_bhnd(type, heads, tokens, dim), 1, heads,
                                  tokens, dim);
}

static void quantize(const void *x, ifa_type from, void *q, ifa_type to, float *scale,
                     int64_t heads, int64_t tokens, int64_t dim) {
  ifa_message why;
  ifa_quantize_args a = {.src = x,
                         .src_type = from,
                         .batch = 1,
                         .heads = heads,
                         .tokens = tokens,
                         .head_dim = dim,
                         .dst = q,
                         .dst_type = to,
                         .granularity = IFA_SCALE_TOKEN,
                         .scale = scale};
  model_require(ifa_quantize(&a, &why) == IFA_OK, "quantize", why.text);
}

model_operands model_quantized(const model *m, int at) {
  int64_t heads = m->config.kv_heads, length = m->sequences[at].length, dim = m->config.head_dim;
  model_operands o = {memory_for(operand_bytes(m->config.k_type, heads, length, dim)),
                      memory_for(operand_bytes(m->config.v_type, heads, length, dim)),
                      memory_for((size_t)(heads * length) * sizeof(float)),
                      memory_for((size_t)(heads * length) * sizeof(float))};
  float *k = model_floats(m, at, 0), *v = model_floats(m, at, 1);
  quantize(k, IFA_F32, o.k, m->config.k_type, o.k_scale, heads, length, dim);
  quantize(v, IFA_F32, o.v, m->config.v_type, o.v_scale, heads, length, dim);
  free(k);
  free(v);
  return o;
}

void model_free_operands(model_operands *o) {
  free(o->k);
  free(o->v);
  free(o->k_scale);
  free(o->v_scale);
}

static void compare_tokens(const model *m, int at) {
  ifa_message why;
  int64_t heads = m->config.kv_heads, length = m->sequences[at].length, dim = m->config.head_dim;
  size_t k_bytes = operand_bytes(m->config.k_type, heads, length, dim),
         v_bytes = operand_bytes(m->config.v_type, heads, length, dim);
  size_t scale_bytes = (size_t)(heads * length) * sizeof(float);
  model_operands want = model_quantized(m, at),
                 got = {memory_for(k_bytes), memory_for(v_bytes), memory_for(scale_bytes),
                        memory_for(scale_bytes)};
  ifa_status status = ifa_cache_read(m->cache, m->sequences[at].handle, 0, length, got.k, got.v,
                                     got.k_scale, got.v_scale, &why);
  model_require(status == IFA_OK, "read", why.text);
  model_require(memcmp(got.k, want.k, k_bytes) == 0, "K as ifa_quantize writes it", "");
  model_require(memcmp(got.v, want.v, v_bytes) == 0, "V as ifa_quantize writes it", "");
  model_require(memcmp(got.k_scale, want.k_scale, scale_bytes) == 0 &&
                    memcmp(got.v_scale, want.v_scale, scale_bytes) == 0,
                "scales as ifa_quantize writes them", "");
  model_free_operands(&want);
  model_free_operands(&got);
}

void model_compare(const model *m) {
  ifa_message why = {""};
  ifa_cache_usage usage = ifa_cache_usage_of(m->cache);
  int64_t shared = 0;
  for (int label = 1; label <= m->labels; label++) shared += holders(m, label) > 1;
  model_require(ifa_cache_check(m->cache, &why) == IFA_OK, "the cache's own check", why.text);
  model_require(usage.free_blocks == free_blocks(m), "free blocks", "");
  model_require(usage.free_sequences == m->config.sequences - live_sequences(m), "free sequences",
                "");
  model_require(usage.shared_blocks == shared, "shared blocks", "");
  for (int s = 0; s < MODEL_SEQUENCES; s++) {
    int64_t length = -1;
    if (!m->sequences[s].live) continue;
    ifa_status status = ifa_cache_length(m->cache, m->sequences[s].handle, &length, &why);
    model_require(status == IFA_OK && length == m->sequences[s].length, "length", why.text);
    compare_tokens(m, s);
  }
}

/* ---- attention ---- */

typedef struct attention {
  void *q, *q8, *o, *want;
  float *q_scale, *lse, *want_lse;
  size_t o_bytes, lse_bytes;
} attention;

/* The query's Q, in both forms, and what the oracle gives. The problem's strides are dense. */
static attention attention_new(const model *m, const ifa_problem *problem, int at, int64_t nq,
                               ifa_type q_type, uint64_t seed) {
  ifa_message why;
  int64_t heads = problem->q_heads, dim = problem->head_dim, count = heads * nq * dim;
  bool floats = q_type != problem->q_type;
  attention a = {.o_bytes = (size_t)count * ifa_type_bytes(problem->out_type),
                 .lse_bytes = problem->lse ? (size_t)(heads * nq) * sizeof(float) : 0};
  ifa_type from = floats ? q_type : IFA_F32;
  a.q = memory_for((size_t)count * 4);
  a.q8 = memory_for(operand_bytes(problem->q_type, heads, nq, dim));
  a.q_scale = memory_for((size_t)(heads * nq) * sizeof(float));
  a.o = memory_for(a.o_bytes);
  a.want = memory_for(a.o_bytes);
  a.lse = memory_for(a.lse_bytes);
  a.want_lse = memory_for(a.lse_bytes);
  for (int64_t i = 0; i < count; i++)
    ifa_float_set(from, a.q, i, 4.0f * (ifa_random_uniform(seed, 9, (uint64_t)i) - 0.5f));
  quantize(a.q, from, a.q8, problem->q_type, a.q_scale, heads, nq, dim);

  ifa_problem p = *problem;
  p.nq = nq;
  p.nk = m->sequences[at].length;
  model_operands kv = model_quantized(m, at);
  ifa_inputs in = {.q = a.q8,
                   .k = kv.k,
                   .v = kv.v,
                   .q_scale = a.q_scale,
                   .k_scale = kv.k_scale,
                   .v_scale = kv.v_scale};
  ifa_outputs out = {.o = a.want, .lse = problem->lse ? a.want_lse : NULL};
  ifa_status status = ifa_run("scalar", &p, &in, &out, &why);
  model_require(status == IFA_OK, "the oracle", why.text);
  model_free_operands(&kv);
  return a;
}

static void attention_free(attention *a) {
  free(a->q);
  free(a->q8);
  free(a->q_scale);
  free(a->o);
  free(a->want);
  free(a->lse);
  free(a->want_lse);
}

void model_attend(const model *m, const ifa_problem *problem, const int *places, const int64_t *nq,
                  int count, ifa_type q_type, uint64_t seed, int32_t threads) {
  ifa_message why = {""};
  ifa_cache_workspace *workspace;
  attention a[MODEL_SEQUENCES];
  ifa_cache_query queries[MODEL_SEQUENCES];
  int64_t rows = 0;
  model_require(count <= MODEL_SEQUENCES, "few queries", "");
  for (int i = 0; i < count; i++) {
    bool floats = q_type != problem->q_type;
    a[i] = attention_new(m, problem, places[i], nq[i], q_type, seed + (uint64_t)i);
    queries[i] = (ifa_cache_query){.sequence = m->sequences[places[i]].handle,
                                   .nq = nq[i],
                                   .q = floats ? a[i].q : a[i].q8,
                                   .q_type = q_type,
                                   .q_scale = floats ? NULL : a[i].q_scale,
                                   .o = a[i].o,
                                   .lse = problem->lse ? a[i].lse : NULL};
    rows += nq[i];
  }
  ifa_status status =
      ifa_cache_workspace_create(m->cache, problem, rows, threads, NULL, 0, &workspace, &why);
  model_require(status == IFA_OK, "workspace", why.text);
  status = ifa_cache_attend(m->cache, problem, queries, count, workspace, &why);
  model_require(status == IFA_OK, "attend", why.text);
  for (int i = 0; i < count; i++) {
    model_require(memcmp(a[i].o, a[i].want, a[i].o_bytes) == 0, "attention as the oracle gives it",
                  "");
    model_require(memcmp(a[i].lse, a[i].want_lse, a[i].lse_bytes) == 0,
                  "log-sum-exp as the oracle gives it", "");
    attention_free(&a[i]);
  }
  ifa_cache_workspace_destroy(workspace);
}
