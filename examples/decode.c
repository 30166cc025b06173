/* decode.c - generating tokens over a growing, paged, quantized cache: prefill of a prompt in
 * chunks, then two continuations that share the prompt's blocks, one attention call a step for
 * both. At each step the oracle computes the same attention from all tokens so far, and the two are
 * compared bit by bit: exit code 1 if any differs, 2 if a call fails.
 *
 *     decode [STEPS]      default 40
 *
 * There are no weights here: a token's K, V and Q are drawn from its number and position, and the
 * next token from the attention's output, so that one wrong bit would lead the text elsewhere. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ifa.h"
#include "ifa_cache.h"

enum {
  Q_HEADS = 8,
  KV_HEADS = 2,
  DIM = 64,
  PROMPT = 150,
  CHUNK = 64,
  MOST_STEPS = 1000,
  BRANCHES = 2,
  MOST = PROMPT + MOST_STEPS
};

static ifa_message why;

static void need(ifa_status status, const char *what) {
  if (status == IFA_OK) return;
  fprintf(stderr, "decode: %s: %s: %s\n", what, ifa_status_name(status), why.text);
  exit(2);
}

/* ---- a stand-in for a model ---- */

static uint32_t mix(uint32_t x) {
  x = (x ^ x >> 16) * 0x7feb352du;
  x = (x ^ x >> 15) * 0x846ca68bu;
  return x ^ x >> 16;
}

/* DIM numbers in -1..1 for one head: which = 0, 1, 2 for K, V, Q. */
static void project(uint32_t token, int64_t position, uint32_t which, uint32_t head, float *x) {
  uint32_t key = mix(token * 16 + which * 4096 + head) ^ mix((uint32_t)position + 77);
  for (uint32_t d = 0; d < DIM; d++)
    x[d] = (float)((int32_t)(mix(key + d) >> 8) - (1 << 23)) * 0x1p-23f;
}

/* The next token, from the outputs of all heads. */
static uint32_t choose(const float *o, int branch) {
  uint32_t sum = (uint32_t)branch, bits;
  for (int i = 0; i < Q_HEADS * DIM; i++) {
    memcpy(&bits, &o[i], sizeof bits);
    sum = mix(sum ^ bits);
  }
  return sum % 50000;
}

/* ---- the oracle's memory: every token's K and V as floats, quantized anew at each step ---- */

typedef struct history {
  int64_t length;
  uint32_t token[MOST];
} history;

static float k_all[KV_HEADS * MOST * DIM], v_all[KV_HEADS * MOST * DIM],
    q_all[Q_HEADS * PROMPT * DIM];
static int8_t k8[KV_HEADS * MOST * DIM], v8[KV_HEADS * MOST * DIM], q8[Q_HEADS * PROMPT * DIM];
static float k_scale[KV_HEADS * MOST], v_scale[KV_HEADS * MOST], q_scale[Q_HEADS * PROMPT];

static void quantize(const float *x, void *to, ifa_type type, float *scale, int64_t heads,
                     int64_t tokens) {
  ifa_quantize_args a = {.src = x,
                         .src_type = IFA_F32,
                         .batch = 1,
                         .heads = heads,
                         .tokens = tokens,
                         .head_dim = DIM,
                         .dst = to,
                         .dst_type = type,
                         .granularity = IFA_SCALE_TOKEN,
                         .scale = scale};
  need(ifa_quantize(&a, &why), "quantize");
}

/* [heads][count][DIM] of tokens first .. first + count - 1. */
static void fill(const history *h, int64_t first, int64_t count, uint32_t which, int64_t heads,
                 float *x) {
  for (int64_t head = 0; head < heads; head++)
    for (int64_t t = 0; t < count; t++)
      project(h->token[first + t], first + t, which, (uint32_t)head, x + (head * count + t) * DIM);
}

/* Attention of the last nq tokens over all of them, by the oracle. */
static void oracle(const ifa_problem *problem, const history *h, int64_t nq, float *o) {
  ifa_problem p = *problem;
  p.nq = nq;
  p.nk = h->length;
  fill(h, 0, h->length, 0, KV_HEADS, k_all);
  fill(h, 0, h->length, 1, KV_HEADS, v_all);
  fill(h, h->length - nq, nq, 2, Q_HEADS, q_all);
  quantize(k_all, k8, p.k_type, k_scale, KV_HEADS, h->length);
  quantize(v_all, v8, p.v_type, v_scale, KV_HEADS, h->length);
  quantize(q_all, q8, p.q_type, q_scale, Q_HEADS, nq);
  ifa_inputs in = {
      .q = q8, .k = k8, .v = v8, .q_scale = q_scale, .k_scale = k_scale, .v_scale = v_scale};
  ifa_outputs out = {.o = o};
  need(ifa_run("scalar", &p, &in, &out, &why), "the oracle");
}

static int64_t compared, differing;

static void compare(const float *got, const float *want, int64_t count) {
  for (int64_t i = 0; i < count; i++) differing += memcmp(&got[i], &want[i], sizeof *got) != 0;
  compared += count;
}

/* ---- the loop ---- */

static void append(ifa_cache *cache, ifa_sequence s, const history *h, int64_t first,
                   int64_t count) {
  static float k[KV_HEADS * CHUNK * DIM], v[KV_HEADS * CHUNK * DIM];
  fill(h, first, count, 0, KV_HEADS, k);
  fill(h, first, count, 1, KV_HEADS, v);
  need(ifa_cache_append(cache, s,
                        &(ifa_cache_tokens){.k = k, .v = v, .type = IFA_F32, .count = count}, &why),
       "append");
}

/* Prompt, then `steps` tokens of two continuations. Returns the last token of the first. */
static uint32_t generate(ifa_type type, int steps) {
  static history texts[BRANCHES];
  static float q[BRANCHES][Q_HEADS * CHUNK * DIM], o[BRANCHES][Q_HEADS * CHUNK * DIM],
      want[Q_HEADS * CHUNK * DIM];
  ifa_cache_config config = ifa_cache_config_default();
  config.kv_heads = KV_HEADS;
  config.head_dim = DIM;
  config.k_type = config.v_type = type;
  config.blocks = (PROMPT + BRANCHES * (steps + CHUNK)) / config.block_tokens + 2;
  config.sequences = BRANCHES;
  ifa_cache *cache;
  ifa_cache_workspace *workspace;
  ifa_sequence s[BRANCHES];
  need(ifa_cache_create(&config, NULL, 0, &cache, &why), "cache");
  ifa_problem p = ifa_cache_problem(cache, Q_HEADS);
  p.causal = 1;
  p.sm_scale = 1.0f; /* sharp, as numbers in -1..1 go */
  p.kv_split = 128;
  need(ifa_cache_workspace_create(cache, &p, CHUNK, 0, NULL, 0, &workspace, &why), "workspace");

  history *text = &texts[0];
  text->length = 0;
  need(ifa_cache_add(cache, &s[0], &why), "add");
  for (int64_t t = 0; t < PROMPT; t++) text->token[t] = mix((uint32_t)t) % 50000;
  for (int64_t first = 0; first < PROMPT; first += CHUNK) {
    int64_t count = PROMPT - first < CHUNK ? PROMPT - first : CHUNK;
    append(cache, s[0], text, first, count);
    text->length += count;
    fill(text, first, count, 2, Q_HEADS, q[0]);
    ifa_cache_query query = {
        .sequence = s[0], .nq = count, .q = q[0], .q_type = IFA_F32, .o = o[0]};
    need(ifa_cache_attend(cache, &p, &query, 1, workspace, &why), "attend");
    oracle(&p, text, count, want);
    compare(o[0], want, Q_HEADS * count * DIM);
  }

  need(ifa_cache_fork(cache, s[0], &s[1], &why), "fork");
  texts[1] = texts[0];
  for (int b = 0; b < BRANCHES; b++) memset(o[b], 0, sizeof o[b]);
  for (int step = 0; step < steps; step++) {
    ifa_cache_query queries[BRANCHES];
    for (int b = 0; b < BRANCHES; b++) {
      history *h = &texts[b];
      h->token[h->length++] = choose(o[b], b);
      append(cache, s[b], h, h->length - 1, 1);
      fill(h, h->length - 1, 1, 2, Q_HEADS, q[b]);
      queries[b] =
          (ifa_cache_query){.sequence = s[b], .nq = 1, .q = q[b], .q_type = IFA_F32, .o = o[b]};
    }
    need(ifa_cache_attend(cache, &p, queries, BRANCHES, workspace, &why), "attend");
    for (int b = 0; b < BRANCHES; b++) {
      oracle(&p, &texts[b], 1, want);
      compare(o[b], want, Q_HEADS * DIM);
    }
  }
  uint32_t last = choose(o[0], 0);
  for (int b = 0; b < BRANCHES; b++) need(ifa_cache_remove(cache, s[b], &why), "remove");
  need(ifa_cache_check(cache, &why), "check");
  if (ifa_cache_usage_of(cache).free_blocks != config.blocks) {
    fprintf(stderr, "decode: blocks were lost\n");
    exit(2);
  }
  ifa_cache_workspace_destroy(workspace);
  ifa_cache_destroy(cache);
  return last;
}

int main(int count, char **arguments) {
  char *end = NULL;
  long steps = count > 1 ? strtol(arguments[1], &end, 10) : 40;
  if (count > 2 || (end && (*end || end == arguments[1])) || steps < 1 || steps > MOST_STEPS) {
    fprintf(stderr, "usage: decode [STEPS]      1 .. %d\n", MOST_STEPS);
    return 2;
  }
  const ifa_type types[] = {IFA_I8, IFA_I4};
  for (int i = 0; i < 2; i++) {
    compared = differing = 0;
    uint32_t last = generate(types[i], (int)steps);
    printf("%s: %d tokens of prompt, %ld steps of %d continuations: %" PRId64
           " numbers compared, %" PRId64 " differ (the next token: %" PRIu32 ")\n",
           types[i] == IFA_I8 ? "INT8" : "INT4", PROMPT, steps, BRANCHES, compared, differing,
           last);
    if (differing || !compared) return 1;
  }
  return 0;
}
