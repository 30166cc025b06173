/* bench_cache.c - bench_cache: how fast tokens enter a cache and attention reads them back, beside
 * the bandwidth of reading memory.
 *
 * A sequence of NK tokens in 64-token blocks whose order in memory is shuffled (other sequences
 * came and went), 32 query and 8 key/value heads, head_dim
 * 128. INT8 and INT4 are measured in turns, each right after the read of its own cache's memory, so
 *   that a slow moment of the machine meets all of them; printed are medians of times and of
 *   ratios. The attention's output is compared with the oracle first. With one thread the clock is
 *   the thread's own CPU time. */
#include <argp.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/random.h"
#include "cpu/cache/block.h"
#include "cpu/bench/ceiling.h"
#include "ifa_cpu.h"
#include "common/clock.h"
#include "validate/bench/machine.h"
#include "validate/text/number.h"

enum { Q_HEADS = 32, KV_HEADS = 8, DIM = 128, MOST_REPEAT = 101, CHUNK = 256 };

static int threads = 0, repeat = 11;
static int64_t tokens = 32768;

static const struct argp_option option_list[] = {
    {"threads", 't', "N", 0, "threads (default: what OpenMP has)", 0},
    {"repeat", 'r', "N", 0, "measurements, 1 .. 101 (default 11)", 0},
    {"tokens", 'n', "N", 0, "tokens in the cache, 64 .. 131072 (default 32768)", 0},
    {0}};

static error_t parse(int key, char *value, struct argp_state *state) {
  int number = 0;
  switch (key) {
    case 't':
      if (!ifa_read_int(value, 1, IFA_CPU_MAX_THREADS, &threads))
        argp_error(state, "--threads %s", value);
      return 0;
    case 'r':
      if (!ifa_read_int(value, 1, MOST_REPEAT, &repeat)) argp_error(state, "--repeat %s", value);
      return 0;
    case 'n':
      if (!ifa_read_int(value, 64, 131072, &number)) argp_error(state, "--tokens %s", value);
      tokens = number;
      return 0;
    case ARGP_KEY_ARG: argp_error(state, "unexpected argument '%s'", value); return 0;
    default: return ARGP_ERR_UNKNOWN;
  }
}

static ifa_message why;

static void need(ifa_status status, const char *what) {
  if (status == IFA_OK) return;
  fprintf(stderr, "bench_cache: %s: %s\n", what, why.text);
  exit(2);
}

static void *take(size_t bytes) {
  void *memory = aligned_alloc(64, (bytes + 63) / 64 * 64);
  if (memory) return memory;
  fprintf(stderr, "bench_cache: no memory for %zu bytes\n", bytes);
  exit(2);
}

static double now(void) { return ifa_now_on(threads); }

static int ascending(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static double median(const double *values) {
  double sorted[MOST_REPEAT];
  memcpy(sorted, values, (size_t)repeat * sizeof *values);
  qsort(sorted, (size_t)repeat, sizeof *sorted, ascending);
  return repeat % 2 ? sorted[repeat / 2] : 0.5 * (sorted[repeat / 2 - 1] + sorted[repeat / 2]);
}

static double read_seconds(const uint8_t *memory, size_t bytes) {
  double start = now();
  ifa_ceiling_read_on(memory, bytes, 1, threads);
  return now() - start;
}

/* ---- a cache of one sequence, its blocks shuffled ---- */

typedef struct subject {
  const char *name;
  ifa_cache *cache;
  ifa_cache_workspace *workspace;
  ifa_sequence sequence;
  ifa_problem problem;
  double bytes;          /* that attention must read */
  double append_seconds; /* of all tokens, CHUNK at a time */
  double step[MOST_REPEAT], share[MOST_REPEAT], read[MOST_REPEAT];
} subject;

static float *x; /* [KV_HEADS][tokens][DIM]: K; V is the same shifted by one element */

/* Sequences of one block each, removed in a random order: the free list is then shuffled. */
static void shuffle_blocks(ifa_cache *cache, int64_t blocks) {
  ifa_sequence *each = take((size_t)blocks * sizeof *each);
  for (int64_t i = 0; i < blocks; i++) {
    need(ifa_cache_add(cache, &each[i], &why), "add");
    need(ifa_cache_append(cache, each[i],
                          &(ifa_cache_tokens){.k = x, .v = x, .type = IFA_F32, .count = 1}, &why),
         "append");
  }
  for (int64_t left = blocks; left > 0; left--) {
    int64_t i = ifa_random_below(3, 1, (uint64_t)left, (uint32_t)left);
    need(ifa_cache_remove(cache, each[i], &why), "remove");
    each[i] = each[left - 1];
  }
  free(each);
}

static subject make(const char *name, ifa_type type) {
  subject s = {.name = name};
  ifa_cache_config config = ifa_cache_config_default();
  config.kv_heads = KV_HEADS;
  config.head_dim = DIM;
  config.k_type = config.v_type = type;
  config.blocks = config.sequences = (tokens + config.block_tokens - 1) / config.block_tokens;
  need(ifa_cache_create(&config, NULL, 0, &s.cache, &why), "cache");
  shuffle_blocks(s.cache, config.blocks);
  s.problem = ifa_cache_problem(s.cache, Q_HEADS);
  s.problem.causal = 1;
  s.problem.sm_scale = 1.0f / sqrtf((float)DIM);
  need(ifa_cache_workspace_create(s.cache, &s.problem, 1, threads, NULL, 0, &s.workspace, &why),
       "workspace");
  need(ifa_cache_add(s.cache, &s.sequence, &why), "add");
  double start = now();
  for (int64_t first = 0; first < tokens; first += CHUNK) {
    ifa_cache_tokens t = {.k = x + first * DIM,
                          .v = x + first * DIM + 1,
                          .type = IFA_F32,
                          .count = tokens - first < CHUNK ? tokens - first : CHUNK,
                          .k_head_stride = tokens * DIM,
                          .k_token_stride = DIM,
                          .v_head_stride = tokens * DIM,
                          .v_token_stride = DIM};
    need(ifa_cache_append(s.cache, s.sequence, &t, &why), "append");
  }
  s.append_seconds = now() - start;
  s.bytes = (double)ifa_cache_bytes_per_token(&config) * (double)tokens;
  return s;
}

static void attend(const subject *s, const float *q, float *o) {
  ifa_cache_query query = {.sequence = s->sequence, .nq = 1, .q = q, .q_type = IFA_F32, .o = o};
  need(ifa_cache_attend(s->cache, &s->problem, &query, 1, s->workspace, &why), "attend");
}

/* Is it the oracle's answer, from the tokens as the cache gives them back? */
static int right(const subject *s, const float *q) {
  float o[Q_HEADS * DIM], want[Q_HEADS * DIM], q_scale[Q_HEADS];
  int8_t q8[Q_HEADS * DIM];
  size_t count = (size_t)(KV_HEADS * tokens);
  int8_t *k = take(count * DIM), *v = take(count * DIM);
  float *k_scale = take(count * sizeof(float)), *v_scale = take(count * sizeof(float));
  ifa_problem p = s->problem;
  p.nk = tokens;
  need(ifa_cache_read(s->cache, s->sequence, 0, tokens, k, v, k_scale, v_scale, &why), "read");
  ifa_quantize_args a = {.src = q,
                         .src_type = IFA_F32,
                         .batch = 1,
                         .heads = Q_HEADS,
                         .tokens = 1,
                         .head_dim = DIM,
                         .dst = q8,
                         .dst_type = IFA_I8,
                         .granularity = IFA_SCALE_TOKEN,
                         .scale = q_scale};
  need(ifa_quantize(&a, &why), "quantize");
  ifa_inputs in = {
      .q = q8, .k = k, .v = v, .q_scale = q_scale, .k_scale = k_scale, .v_scale = v_scale};
  ifa_outputs out = {.o = want};
  need(ifa_run("scalar", &p, &in, &out, &why), "the oracle");
  attend(s, q, o);
  free(k);
  free(v);
  free(k_scale);
  free(v_scale);
  return memcmp(o, want, sizeof o) == 0;
}

int main(int count, char **arguments) {
  static char summary[] =
      "The key/value cache: tokens in, attention out, beside the read bandwidth.";
  struct argp argp = {option_list, parse, NULL, summary, NULL, NULL, NULL};
  argp_parse(&argp, count, arguments, 0, NULL, NULL);
  if (threads == 0) threads = machine_threads();
  x = take((size_t)(KV_HEADS * tokens * DIM + 1) * sizeof *x);
  for (int64_t i = 0; i <= KV_HEADS * tokens * DIM; i++)
    x[i] = ifa_random_uniform(5, 1, (uint64_t)i) - 0.5f;
  float q[Q_HEADS * DIM], o[Q_HEADS * DIM];
  for (int i = 0; i < Q_HEADS * DIM; i++)
    q[i] = 8.0f * (ifa_random_uniform(5, 2, (uint64_t)i) - 0.5f);
  char processor[256];
  const char *isa = "?";
  machine_processor(processor, sizeof processor);
  need(ifa_cpu_isa_available(NULL, &isa, &why), "instruction set");
  subject subjects[2] = {make("INT8", IFA_I8), make("INT4", IFA_I4)};
  printf("%s; %s; %s; %d thread%s, %s; medians of %d; hq %d, hkv %d, head_dim %d, %lld tokens in "
         "shuffled blocks of 64\n",
         processor, machine_compiler(), isa, threads, threads == 1 ? "" : "s",
         threads == 1 ? "the thread's CPU time" : "wall time", repeat, Q_HEADS, KV_HEADS, DIM,
         (long long)tokens);
  for (int i = 0; i < 2; i++)
    if (!right(&subjects[i], q)) {
      printf("  %s: NOT THE ORACLE'S BITS\n", subjects[i].name);
      return 1;
    }
  double ratio[MOST_REPEAT];
  for (int r = 0; r < repeat; r++) {
    for (int i = 0; i < 2; i++) {
      subject *s = &subjects[i];
      s->read[r] = read_seconds(s->cache->data, (size_t)s->bytes);
      double start = now();
      attend(s, q, o);
      s->step[r] = now() - start;
      s->share[r] = s->read[r] / s->step[r];
    }
    ratio[r] = subjects[0].step[r] / subjects[1].step[r];
  }
  for (int i = 0; i < 2; i++) {
    const subject *s = &subjects[i];
    printf("  %s, %4.0f bytes a token: decode nq=1 %8.3f ms, %5.1f GB/s, %5.1f%% of reading the "
           "same memory (%.1f); append in chunks of %d, f32: %.2f us a token\n",
           s->name, s->bytes / (double)tokens, median(s->step) * 1e3,
           s->bytes / median(s->step) * 1e-9, median(s->share) * 100,
           s->bytes / median(s->read) * 1e-9, CHUNK, s->append_seconds / (double)tokens * 1e6);
  }
  printf("  INT4 is %.2f times as fast as INT8\n", median(ratio));
  for (int i = 0; i < 2; i++) {
    ifa_cache_workspace_destroy(subjects[i].workspace);
    ifa_cache_destroy(subjects[i].cache);
  }
  free(x);
  return 0;
}
