/* bench_cpu.c - bench_cpu: the speed of the CPU kernels beside what the machine can do, both
 * measured in the same run, in turns.
 *
 * Every case's output is compared with the oracle first (chosen rows). Then, `repeat` times: the
 * ceiling, the case. Printed are medians, and the median of the case's share of the ceiling
 * measured just before it. Clock: the thread's own CPU time with one thread (others on the machine
 * then do not count as much), else the wall's. Operations: 4 * head_dim for each live (query row,
 * key) pair. */
#include <argp.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef IFA_HAVE_JANSSON
#include <jansson.h>
#endif

#include "common/fpenv.h"
#include "common/random.h"
#include "cpu/attend.h"
#include "cpu/bench/ceiling.h"
#include "ifa_cache.h"
#include "ifa_cpu.h"
#include "ref/baselines/baselines.h"
#include "common/clock.h"
#include "validate/bench/machine.h"
#include "validate/text/number.h"

enum { MAX_REPEAT = 101, CHECKED_ROWS = 24, MAX_ISAS = 16 };

typedef struct options {
  const char *isas, *json, *only;
  int threads, repeat, blas, floats;
  double scale; /* of the sequence lengths */
} options;

static options opt = {.threads = 0, .repeat = 7, .blas = 1, .scale = 1.0};

static const struct argp_option option_list[] = {
    {"isa", 'i', "A,B", 0,
     "instruction sets; auto: the library's choice (default: all that the machine has, and auto)",
     0},
    {"threads", 't', "N", 0, "threads (default: what OpenMP has)", 0},
    {"repeat", 'r', "N", 0, "measurements of each case, 1 .. 101 (default 7)", 0},
    {"scale", 's', "X", 0, "sequence lengths times X, 0.01 .. 8 (default 1)", 0},
    {"case", 'c', "TEXT", 0, "only cases whose name contains TEXT", 0},
    {"no-blas", 'n', NULL, 0, "without the OpenBLAS baseline", 0},
    {"from-floats", 'f', NULL, 0,
     "calls from floats to floats instead, quantization included: ifa_cpu_attention, and a cache's "
     "append and attend",
     0},
    {"json", 'j', "FILE", 0, "write the figures as JSON", 0},
    {0}};

static error_t parse(int key, char *value, struct argp_state *state) {
  switch (key) {
    case 'i': opt.isas = value; return 0;
    case 't':
      if (!ifa_read_int(value, 1, IFA_CPU_MAX_THREADS, &opt.threads))
        argp_error(state, "--threads %s", value);
      return 0;
    case 'r':
      if (!ifa_read_int(value, 1, MAX_REPEAT, &opt.repeat)) argp_error(state, "--repeat %s", value);
      return 0;
    case 's':
      if (!ifa_read_decimal(value, 0.01, 8, &opt.scale)) argp_error(state, "--scale %s", value);
      return 0;
    case 'c': opt.only = value; return 0;
    case 'n': opt.blas = 0; return 0;
    case 'f': opt.floats = 1; return 0;
    case 'j': opt.json = value; return 0;
    case ARGP_KEY_ARG: argp_error(state, "unexpected argument '%s'", value); return 0;
    default: return ARGP_ERR_UNKNOWN;
  }
}

/* ---- instruction sets: those by name, and "auto", what the library chooses by itself ---- */

static const char *name_of(const char *isa) { return strcmp(isa, "auto") == 0 ? NULL : isa; }

/* What blocks of so many rows run on; the names were looked up before. */
static const ifa_cpu_isa *isa_for(const char *isa, int64_t rows) {
  ifa_cpu_choice choice;
  ifa_message why;
  if (ifa_cpu_choose(name_of(isa), &choice, &why) != IFA_OK) {
    fprintf(stderr, "bench_cpu: %s\n", why.text);
    exit(2);
  }
  return rows < IFA_CPU_MANY_ROWS ? choice.few : choice.many;
}

/* After a case: auto's time beside the fastest of the others; seconds 0: not measured. */
static void compare_auto(const char *name, const char *const *isas, const double *seconds,
                         int count, int64_t rows) {
  double own = 0, least = 0;
  for (int i = 0; i < count; i++) {
    if (!name_of(isas[i])) own = seconds[i];
    else if (seconds[i] > 0 && (least == 0 || seconds[i] < least)) least = seconds[i];
  }
  if (own > 0 && least > 0)
    printf("  %-34s %-12s %10.2f times the time of the fastest; it is %s\n", name, "auto",
           own / least, isa_for("auto", rows)->name);
}

/* ---- clock and medians ---- */

static double now(void) { return ifa_now_on(opt.threads); }

static int ascending(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static double median(const double *values, int count) {
  double sorted[MAX_REPEAT];
  memcpy(sorted, values, (size_t)count * sizeof *values);
  qsort(sorted, (size_t)count, sizeof *sorted, ascending);
  return count % 2 ? sorted[count / 2] : 0.5 * (sorted[count / 2 - 1] + sorted[count / 2]);
}

/* ---- ceilings on all threads ---- */

static double instruction_rate(const ifa_ceiling *c) {
  double start = now(), operations = ifa_ceiling_run_on(c, 4000000, opt.threads);
  return operations / (now() - start);
}

static double read_rate(const uint8_t *memory, size_t bytes) {
  double start = now();
  ifa_ceiling_read_on(memory, bytes, 1, opt.threads);
  return (double)bytes / (now() - start);
}

/* ---- data ---- */

typedef struct data {
  ifa_problem p;
  ifa_inputs in;
  ifa_outputs out;
  float *fq, *fk, *fv; /* the floats, for the baseline; NULL when there are too many */
  void *memory[16];
  int memory_count;
} data;

static void *take(data *d, size_t bytes) {
  void *memory = aligned_alloc(64, (bytes + 63) / 64 * 64 + 64);
  if (!memory) {
    fprintf(stderr, "bench_cpu: no memory for %zu bytes\n", bytes);
    exit(2);
  }
  d->memory[d->memory_count++] = memory;
  return memory;
}

static float *normals(data *d, int64_t count, uint64_t stream) {
  float *x = take(d, (size_t)count * sizeof(float));
  for (int64_t i = 0; i < count; i++) x[i] = ifa_random_normal(7, stream, (uint64_t)i);
  return x;
}

static void quantize(data *d, const float *x, int64_t heads, int64_t tokens, ifa_type type,
                     ifa_granularity granularity, int mean, const void **to, const float **scale) {
  const ifa_problem *p = &d->p;
  int64_t rows = p->batch * heads * tokens;
  void *q = take(d, (size_t)(rows * p->head_dim));
  float *s = take(d, (size_t)ifa_scale_count(granularity, p->batch, heads, tokens, p->head_dim, 0) *
                         sizeof(float));
  ifa_quantize_args a = {.src = x,
                         .src_type = IFA_F32,
                         .batch = p->batch,
                         .heads = heads,
                         .tokens = tokens,
                         .head_dim = p->head_dim,
                         .dst = q,
                         .dst_type = type,
                         .granularity = granularity,
                         .subtract_mean = mean,
                         .scale = s};
  ifa_message why;
  if (ifa_quantize(&a, &why) != IFA_OK) {
    fprintf(stderr, "bench_cpu: %s\n", why.text);
    exit(2);
  }
  *to = q;
  *scale = s;
}

static data make_with_mean(ifa_problem p, int k_mean) {
  data d = {.p = p};
  d.fq = normals(&d, p.batch * p.q_heads * p.nq * p.head_dim, 1);
  d.fk = normals(&d, p.batch * p.kv_heads * p.nk * p.head_dim, 2);
  d.fv = normals(&d, p.batch * p.kv_heads * p.nk * p.head_dim, 3);
  quantize(&d, d.fq, p.q_heads, p.nq, p.q_type, p.q_scale, 0, &d.in.q, &d.in.q_scale);
  quantize(&d, d.fk, p.kv_heads, p.nk, p.k_type, p.k_scale, k_mean, &d.in.k, &d.in.k_scale);
  quantize(&d, d.fv, p.kv_heads, p.nk, p.v_type, p.v_scale, 0, &d.in.v, &d.in.v_scale);
  d.out.o = take(&d, (size_t)(p.batch * p.q_heads * p.nq * p.head_dim) * sizeof(float));
  return d;
}

static data make(ifa_problem p) { return make_with_mean(p, 0); }

static void release(data *d) {
  for (int i = 0; i < d->memory_count; i++) free(d->memory[i]);
}

/* The oracle's answer to rows spread over the problem; o of the case must have them. */
typedef struct expectation {
  int64_t rows[CHECKED_ROWS];
  int count;
  float *o; /* [count][head_dim] */
} expectation;

static void expect(data *d, expectation *e) {
  int64_t total = d->p.batch * d->p.q_heads * d->p.nq, dim = d->p.head_dim;
  e->count = (int)(total < CHECKED_ROWS ? total : CHECKED_ROWS);
  for (int i = 0; i < e->count; i++)
    e->rows[i] = e->count == 1 ? 0 : (total - 1) * i / (e->count - 1);
  ifa_inputs in = d->in;
  in.rows = e->rows;
  in.row_count = e->count;
  ifa_message why;
  if (ifa_run("scalar", &d->p, &in, &d->out, &why) != IFA_OK) {
    fprintf(stderr, "bench_cpu: %s\n", why.text);
    exit(2);
  }
  e->o = take(d, (size_t)(e->count * dim) * sizeof(float));
  for (int i = 0; i < e->count; i++)
    memcpy(e->o + i * dim, (float *)d->out.o + e->rows[i] * dim, (size_t)dim * sizeof(float));
}

static int agrees(const data *d, const expectation *e) {
  int64_t dim = d->p.head_dim;
  for (int i = 0; i < e->count; i++)
    if (memcmp(e->o + i * dim, (const float *)d->out.o + e->rows[i] * dim,
               (size_t)dim * sizeof(float)) != 0)
      return 0;
  return 1;
}

/* ---- results ---- */

#ifdef IFA_HAVE_JANSSON
static json_t *json_results;
#endif

/* ceiling NULL: none is known, and nothing is said of it. */
static void record(const char *name, const char *isa, double seconds, double rate, const char *unit,
                   const char *ceiling, double ceiling_rate, double share) {
  printf("  %-34s %-12s %10.3f ms %9.1f %-6s ", name, isa, seconds * 1e3, rate * 1e-9, unit);
  if (ceiling) printf("%5.1f%% of %s (%.1f)\n", share * 100, ceiling, ceiling_rate * 1e-9);
  else printf("no ceiling\n");
  fflush(stdout);
#ifdef IFA_HAVE_JANSSON
  json_t *line = json_pack("{s:s, s:s, s:f, s:f, s:s}", "case", name, "isa", isa, "seconds",
                           seconds, "rate", rate, "unit", unit);
  if (ceiling)
    json_object_update_new(line, json_pack("{s:s, s:f, s:f}", "ceiling", ceiling, "ceiling_rate",
                                           ceiling_rate, "share", share));
  json_array_append_new(json_results, line);
#endif
}

/* ---- prefill: ifa_cpu_attend, packing included ---- */

typedef struct prefill_case {
  const char *name;
  ifa_granularity v_scale;
  int causal;
} prefill_case;

static double live_pairs(const ifa_problem *p) {
  double pairs = 0;
  for (int64_t i = 0; i < p->nq; i++) pairs += (double)ifa_live_count(p, i);
  return pairs * (double)(p->batch * p->q_heads);
}

static int prefill(const prefill_case *c, const char *const *isas, int isa_count,
                   double blas_seconds[2]) {
  ifa_problem p = ifa_problem_default();
  p.q_heads = p.kv_heads = 8;
  p.nq = p.nk = (int64_t)(4096 * opt.scale);
  p.head_dim = 128;
  p.sm_scale = 1.0f / sqrtf(128.0f);
  p.v_scale = c->v_scale;
  p.causal = c->causal;
  data d = make(p);
  expectation e;
  expect(&d, &e);
  double operations = 4.0 * p.head_dim * live_pairs(&p);
  int failed = 0;
  size_t bytes;
  ifa_message why;
  if (ifa_cpu_workspace_bytes(&p, opt.threads, &bytes, &why) != IFA_OK) exit(2);
  void *workspace = take(&d, bytes);
  double medians[MAX_ISAS] = {0};
  for (int i = 0; i < isa_count; i++) {
    const char *isa = name_of(isas[i]);
    const ifa_ceiling *ceiling = ifa_ceiling_integer(isa_for(isas[i], p.nq)->name);
    double seconds[MAX_REPEAT], share[MAX_REPEAT], peak[MAX_REPEAT];
    memset(d.out.o, 0xff, (size_t)(p.q_heads * p.nq * p.head_dim) * sizeof(float));
    if (ifa_cpu_attend(isa, &p, &d.in, &d.out, workspace, bytes, opt.threads, &why) != IFA_OK ||
        !agrees(&d, &e)) {
      printf("  %-34s %-12s NOT THE ORACLE'S BITS %s\n", c->name, isas[i], why.text);
      failed = 1;
      continue;
    }
    int repeat = strcmp(isas[i], "portable") == 0 ? 1 : opt.repeat;
    for (int r = 0; r < repeat; r++) {
      peak[r] = ceiling ? instruction_rate(ceiling) : 0;
      double start = now();
      ifa_cpu_attend(isa, &p, &d.in, &d.out, workspace, bytes, opt.threads, &why);
      seconds[r] = now() - start;
      share[r] = ceiling ? operations / seconds[r] / peak[r] : 0;
    }
    record(c->name, isas[i], median(seconds, repeat), operations / median(seconds, repeat), "Gop/s",
           ceiling ? ceiling->name : NULL, median(peak, repeat), median(share, repeat));
    if (blas_seconds[c->causal] > 0)
      printf("  %-34s %-12s %10.1f times the speed of OpenBLAS binary32\n", "", "",
             blas_seconds[c->causal] / median(seconds, repeat));
    medians[i] = median(seconds, repeat);
  }
  compare_auto(c->name, isas, medians, isa_count, p.nq);
  release(&d);
  return failed;
}

/* The same shape in binary32 through OpenBLAS: two matrix products and a softmax. */
static double blas_prefill(int causal) {
  ifa_message why;
  if (!opt.blas || ifa_baseline_supports("f32-blas", NULL, &why) != IFA_OK) return 0;
  ifa_problem p = ifa_problem_default();
  p.q_heads = p.kv_heads = 8;
  p.nq = p.nk = (int64_t)(4096 * opt.scale);
  p.head_dim = 128;
  data d = make(p);
  ifa_float_problem f = {.batch = 1,
                         .q_heads = 8,
                         .kv_heads = 8,
                         .nq = p.nq,
                         .nk = p.nk,
                         .head_dim = 128,
                         .sm_scale = 1.0f / sqrtf(128.0f),
                         .causal = causal,
                         .kv_tile = 64};
  ifa_float_inputs in = {.q = d.fq, .k = d.fk, .v = d.fv};
  ifa_float_outputs out = {.o = take(&d, (size_t)(8 * p.nq * 128) * sizeof(double))};
  double seconds[MAX_REPEAT];
  int repeat = opt.repeat < 3 ? opt.repeat : 3;
  for (int r = 0; r < repeat; r++) {
    double start = now();
    if (ifa_baseline_run("f32-blas", &f, &in, &out, &why) != IFA_OK) return 0;
    seconds[r] = now() - start;
  }
  release(&d);
  double rate = 4.0 * 128 * 8 * (double)p.nq * (double)p.nk / median(seconds, repeat);
  printf("  %-34s %-12s %10.3f ms %9.1f Gop/s (all pairs)\n",
         causal ? "prefill, causal" : "prefill", "OpenBLAS f32", median(seconds, repeat) * 1e3,
         rate * 1e-9);
  fflush(stdout);
  return median(seconds, repeat);
}

/* ---- decode: tiles as a cache holds them ---- */

typedef struct tiles {
  const uint8_t *memory;
  int64_t heads, count;
  int32_t bytes;
} tiles;

static const uint8_t *tile_at(const void *context, int64_t batch, int64_t kv_head, int64_t t) {
  const tiles *k = context;
  return k->memory + ((batch * k->heads + kv_head) * k->count + t) * k->bytes;
}

/* nq tokens of four query heads on one key/value head: blocks of 4 * nq rows. */
static int decode(int bits, int64_t nq, const char *const *isas, int isa_count,
                  double *int8_seconds) {
  ifa_problem problem = ifa_problem_default();
  problem.q_heads = 32;
  problem.kv_heads = 8;
  problem.nq = nq;
  problem.nk = (int64_t)(32768 * opt.scale);
  problem.head_dim = 128;
  problem.sm_scale = 1.0f / sqrtf(128.0f);
  problem.k_type = problem.v_type = bits == 4 ? IFA_I4 : IFA_I8;
  problem.v_scale = IFA_SCALE_TOKEN;
  char name[64];
  snprintf(name, sizeof name, "decode nq=%d hq=32 hkv=8 nk=%lld INT%d", (int)nq,
           (long long)problem.nk, bits);
  data d = make(problem);
  expectation e;
  expect(&d, &e);
  ifa_problem p = ifa_problem_resolved(&problem);
  ifa_cpu_job job = {.p = &p,
                     .in = &d.in,
                     .out = &d.out,
                     .layout = ifa_cpu_layout_of(p.kv_tile, p.head_dim, bits, bits),
                     .tile = tile_at,
                     .threads = opt.threads};
  tiles k = {
      .heads = p.kv_heads, .count = ifa_ceil_div(p.nk, p.kv_tile), .bytes = job.layout.bytes};
  size_t bytes = (size_t)(k.heads * k.count) * (size_t)k.bytes;
  uint8_t *memory = take(&d, bytes);
  for (int64_t i = 0; i < k.heads * k.count; i++)
    ifa_cpu_pack_tile(&p, &d.in, &job.layout, 0, i / k.count, i % k.count, memory + i * k.bytes);
  k.memory = memory;
  job.context = &k;
  void *workspace = take(&d, ifa_cpu_attend_bytes(&p, opt.threads));
  int failed = 0;
  double medians[MAX_ISAS] = {0};
  for (int i = 0; i < isa_count; i++) {
    double seconds[MAX_REPEAT], share[MAX_REPEAT], peak[MAX_REPEAT];
    job.many = isa_for(isas[i], IFA_CPU_MANY_ROWS)->kernels;
    job.few = isa_for(isas[i], 1)->kernels;
    memset(d.out.o, 0xff, (size_t)(p.q_heads * nq * p.head_dim) * sizeof(float));
    ifa_cpu_attend_tiles(&job, workspace);
    if (!agrees(&d, &e)) {
      printf("  %-34s %-12s NOT THE ORACLE'S BITS\n", name, isas[i]);
      failed = 1;
      continue;
    }
    int repeat = strcmp(isas[i], "portable") == 0 ? 1 : opt.repeat;
    for (int r = 0; r < repeat; r++) {
      peak[r] = read_rate(memory, bytes);
      double start = now();
      ifa_cpu_attend_tiles(&job, workspace);
      seconds[r] = now() - start;
      share[r] = (double)bytes / seconds[r] / peak[r];
    }
    record(name, isas[i], median(seconds, repeat), (double)bytes / median(seconds, repeat), "GB/s",
           "reading the same memory", median(peak, repeat), median(share, repeat));
    medians[i] = median(seconds, repeat);
    if (bits == 8) int8_seconds[i] = medians[i]; /* of as many tokens: INT4 comes right after */
    else if (int8_seconds[i] > 0)
      printf("  %-34s %-12s %10.2f times the speed of INT8\n", "", "",
             int8_seconds[i] / median(seconds, repeat));
  }
  compare_auto(name, isas, medians, isa_count, 4 * nq);
  release(&d);
  return failed;
}

/* ---- from floats to floats ---- */

/* Calls of a measurement: two milliseconds' worth. */
static int calls_worth(double seconds) {
  return seconds < 2e-3 ? (int)(2e-3 / (seconds + 1e-9)) + 1 : 1;
}

static int from_floats(int64_t n, int causal, int accurate, const char *isa) {
  char name[64];
  snprintf(name, sizeof name, "%s n%lld h8 d128, %s", causal ? "causal" : "prefill", (long long)n,
           accurate ? "accurate" : "fast");
  if (opt.only && !strstr(name, opt.only)) return 0;
  ifa_cpu_attention_args a = accurate ? ifa_cpu_attention_accurate(1, 8, 8, n, n, 128)
                                      : ifa_cpu_attention_fast(1, 8, 8, n, n, 128);
  a.problem.causal = causal;
  data d = make_with_mean(a.problem, a.subtract_k_mean);
  expectation e;
  expect(&d, &e);
  a.q = d.fq, a.k = d.fk, a.v = d.fv, a.o = d.out.o;
  size_t bytes;
  ifa_message why;
  if (ifa_cpu_attention_workspace_bytes(&a, opt.threads, &bytes, &why) != IFA_OK) exit(2);
  void *workspace = take(&d, bytes);
  memset(d.out.o, 0xff, (size_t)(8 * n * 128) * sizeof(float));
  double start = now();
  int wrong = ifa_cpu_attention(name_of(isa), &a, workspace, bytes, opt.threads, &why) != IFA_OK ||
              !agrees(&d, &e);
  const int calls = calls_worth(now() - start);
  const ifa_ceiling *ceiling = ifa_ceiling_integer(isa_for(isa, n)->name);
  double seconds[MAX_REPEAT], share[MAX_REPEAT], peak[MAX_REPEAT];
  const double operations = 4.0 * 128 * live_pairs(&a.problem);
  for (int r = 0; !wrong && r < opt.repeat; r++) {
    peak[r] = ceiling ? instruction_rate(ceiling) : 0;
    start = now();
    for (int i = 0; i < calls; i++)
      ifa_cpu_attention(name_of(isa), &a, workspace, bytes, opt.threads, &why);
    seconds[r] = (now() - start) / calls;
    share[r] = ceiling ? operations / seconds[r] / peak[r] : 0;
  }
  if (wrong) printf("  %-34s %-12s NOT THE ORACLE'S BITS %s\n", name, isa, why.text);
  else
    record(name, isa, median(seconds, opt.repeat), operations / median(seconds, opt.repeat),
           "Gop/s", ceiling ? ceiling->name : NULL, median(peak, opt.repeat),
           median(share, opt.repeat));
  release(&d);
  return wrong;
}

enum { DECODED = 16 }; /* tokens behind a prompt, one by one */

static void must(ifa_status status, const ifa_message *why) {
  if (status == IFA_OK) return;
  fprintf(stderr, "bench_cpu: %s\n", why->text);
  exit(2);
}

/* A prompt into a cache and attention over it, then a token at a time. */
static int through_a_cache(int64_t prompt) {
  char names[2][64];
  snprintf(names[0], sizeof names[0], "cache h8 d128, prompt of %d", (int)prompt);
  snprintf(names[1], sizeof names[1], "cache h8 d128, a token behind %d", (int)prompt);
  if (opt.only && !strstr(names[0], opt.only) && !strstr(names[1], opt.only)) return 0;
  const int64_t tokens = prompt + DECODED;
  ifa_cache_config c = ifa_cache_config_default();
  c.kv_heads = 8;
  c.head_dim = 128;
  c.blocks = tokens / c.block_tokens + 1;
  ifa_cache *cache;
  ifa_cache_workspace *workspace;
  ifa_sequence s;
  ifa_message why;
  must(ifa_cache_create(&c, NULL, 0, &cache, &why), &why);
  must(ifa_cache_add(cache, &s, &why), &why);
  ifa_problem p = ifa_cache_problem(cache, 8);
  p.causal = 1;
  p.sm_scale = 1.0f / sqrtf(128.0f);
  p.q_stride = p.o_stride = (ifa_strides){8 * tokens * 128, tokens * 128, 128};
  must(ifa_cache_workspace_create(cache, &p, prompt, opt.threads, NULL, 0, &workspace, &why), &why);
  ifa_problem whole = p;
  whole.nq = whole.nk = tokens;
  whole.q_stride = (ifa_strides){0, 0, 0};
  data d = make(whole);
  expectation e;
  expect(&d, &e);
  const ifa_ceiling *ceiling = ifa_ceiling_integer(isa_for("auto", prompt)->name);
  double seconds[2][MAX_REPEAT], share[2][MAX_REPEAT], peak[MAX_REPEAT];
  const double per_pair = 4.0 * 128 * 8, prompts = (double)prompt,
               operations[2] = {per_pair * prompts * (prompts + 1) / 2,
                                per_pair * (prompts + 0.5 * (DECODED + 1))};
  const int turns = 16;
  for (int r = 0; r < opt.repeat; r++) {
    peak[r] = ceiling ? instruction_rate(ceiling) : 0;
    seconds[0][r] = seconds[1][r] = 0;
    for (int turn = 0; turn < turns; turn++) {
      must(ifa_cache_truncate(cache, s, 0, &why), &why);
      for (int64_t at = 0, count = prompt; at < tokens; at += count, count = 1) {
        const ifa_cache_tokens piece = {
            d.fk + at * 128, d.fv + at * 128, IFA_F32, count, tokens * 128, 128, tokens * 128, 128};
        const ifa_cache_query q = {.sequence = s,
                                   .nq = count,
                                   .q = d.fq + at * 128,
                                   .q_type = IFA_F32,
                                   .o = (float *)d.out.o + at * 128};
        const double start = now();
        must(ifa_cache_append(cache, s, &piece, &why), &why);
        must(ifa_cache_attend(cache, &p, &q, 1, workspace, &why), &why);
        seconds[at > 0][r] += (now() - start) / (turns * (at > 0 ? DECODED : 1));
      }
    }
  }
  const int wrong = !agrees(&d, &e);
  if (wrong) printf("  %-34s %-12s NOT THE ORACLE'S BITS\n", names[0], "auto");
  for (int i = 0; !wrong && i < 2; i++) {
    for (int r = 0; r < opt.repeat; r++)
      share[i][r] = ceiling ? operations[i] / seconds[i][r] / peak[r] : 0;
    record(names[i], "auto", median(seconds[i], opt.repeat),
           operations[i] / median(seconds[i], opt.repeat), "Gop/s", ceiling ? ceiling->name : NULL,
           median(peak, opt.repeat), median(share[i], opt.repeat));
  }
  ifa_cache_workspace_destroy(workspace);
  ifa_cache_destroy(cache);
  release(&d);
  return wrong;
}

static int all_from_floats(const char *const *isas, int isa_count) {
  static const int64_t lengths[] = {64, 256, 1024, 4096};
  int failed = 0;
  for (int i = 0; i < isa_count; i++)
    for (int k = 0; k < 16 && strcmp(isas[i], "portable") != 0; k++) {
      const int64_t n = (int64_t)((double)lengths[k / 4] * opt.scale);
      failed |= from_floats(n ? n : 1, k / 2 % 2, k % 2, isas[i]);
    }
  for (int64_t prompt = 16; prompt <= 128; prompt *= prompt == 16 ? 4 : 2)
    failed |= through_a_cache(prompt);
  return failed;
}

/* ---- all of it ---- */

static int all_from_integers(const char *const *isas, int isa_count) {
  static const prefill_case prefills[] = {
      {"prefill b1 h8 d128, V per channel", IFA_SCALE_CHANNEL, 0},
      {"prefill b1 h8 d128, V per token", IFA_SCALE_TOKEN, 0},
      {"causal b1 h8 d128, V per channel", IFA_SCALE_CHANNEL, 1},
      {"causal b1 h8 d128, V per token", IFA_SCALE_TOKEN, 1}};
  double blas_seconds[2] = {0, 0}, int8_seconds[MAX_ISAS] = {0};
  int failed = 0;
  for (int causal = 0; causal < 2; causal++)
    if (!opt.only || strstr("OpenBLAS", opt.only) || strstr(prefills[2 * causal].name, opt.only))
      blas_seconds[causal] = blas_prefill(causal);
  for (int i = 0; i < 4; i++)
    if (!opt.only || strstr(prefills[i].name, opt.only))
      failed |= prefill(&prefills[i], isas, isa_count, blas_seconds);
  if (!opt.only || strstr("decode INT8", opt.only))
    failed |= decode(8, 1, isas, isa_count, int8_seconds);
  if (!opt.only || strstr("decode INT4", opt.only))
    failed |= decode(4, 1, isas, isa_count, int8_seconds);
  if (!opt.only || strstr("decode several tokens", opt.only)) {
    for (int64_t nq = 2; nq <= 8; nq *= 2) /* blocks of 8, 16 and 32 rows: where auto changes */
      failed |= decode(8, nq, isas, isa_count, int8_seconds);
    for (int bits = 8; bits >= 4; bits -= 4) /* blocks of 48 and 32: a prompt's */
      failed |= decode(bits, 32, isas, isa_count, int8_seconds);
  }
  return failed;
}

static int wanted(const char *list, const char *name) {
  size_t length = strlen(name);
  for (const char *at = list; at; at = strchr(at, ','), at = at ? at + 1 : NULL)
    if (strncmp(at, name, length) == 0 && (at[length] == ',' || at[length] == '\0')) return 1;
  return list == NULL;
}

int main(int argc, char **argv) {
  static const struct argp parser = {
      option_list,
      parse,
      NULL,
      "Speed of the CPU kernels, beside the machine's ceilings measured in the same run.",
      NULL,
      NULL,
      NULL};
  argp_parse(&parser, argc, argv, 0, NULL, NULL);
  if (opt.threads == 0) opt.threads = machine_threads();
  char processor[256];
  const char *isas[MAX_ISAS];
  int isa_count = 0, failed = 0;
  for (int i = 0; i < ifa_cpu_isa_count(); i++)
    if (ifa_cpu_isa_available(ifa_cpu_isa_name(i), NULL, NULL) == IFA_OK &&
        wanted(opt.isas, ifa_cpu_isa_name(i)))
      isas[isa_count++] = ifa_cpu_isa_name(i);
  if (wanted(opt.isas, "auto")) isas[isa_count++] = "auto";
  if (isa_count == 0)
    return fprintf(stderr, "bench_cpu: none of these instruction sets is here: %s\n", opt.isas), 3;
  machine_processor(processor, sizeof processor);
  printf("%s; %s; %d thread%s; medians of %d; %s\n", processor, machine_compiler(), opt.threads,
         opt.threads == 1 ? "" : "s", opt.repeat,
         opt.threads == 1 ? "the thread's CPU time" : "wall time");
#ifdef IFA_HAVE_JANSSON
  json_results = json_array();
#endif
  for (int i = 0; i < isa_count && name_of(isas[i]); i++) {
    const ifa_ceiling *both[] = {ifa_ceiling_integer(isas[i]), ifa_ceiling_fma(isas[i])};
    for (int n = 0; n < 2; n++)
      if (both[n]) {
        double rates[MAX_REPEAT];
        for (int r = 0; r < opt.repeat; r++) rates[r] = instruction_rate(both[n]);
        printf("  %-34s %-12s %23.1f Gop/s\n", both[n]->name, isas[i],
               median(rates, opt.repeat) * 1e-9);
      }
  }
  failed = (opt.floats ? all_from_floats : all_from_integers)(isas, isa_count);
#ifdef IFA_HAVE_JANSSON
  if (opt.json) {
    json_t *all = json_pack("{s:s, s:s, s:i, s:i, s:f, s:o}", "processor", processor, "compiler",
                            machine_compiler(), "threads", opt.threads, "repeat", opt.repeat,
                            "scale", opt.scale, "results", json_results);
    if (!all || json_dump_file(all, opt.json, JSON_INDENT(2)) != 0)
      return fprintf(stderr, "bench_cpu: cannot write %s\n", opt.json), 2;
    json_decref(all);
  } else json_decref(json_results);
#else
  if (opt.json) return fprintf(stderr, "bench_cpu: --json: built without jansson\n"), 2;
#endif
  return failed;
}
