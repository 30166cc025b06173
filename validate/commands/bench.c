/* bench.c - `validate bench`: how fast the backends are. A figure is printed only after the output
 * has been compared with the oracle's, bit by bit; it is the median of several runs, with its
 * spread, next to what the same run measured as its ceiling and its baselines. */
#include <argp.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#include "common/backend.h"
#include "common/problem.h"
#include "ifa_cpu.h"
#ifdef IFA_HAVE_CUDA
#include "gpu/bench/ceiling.h"
#include "ifa_cuda.h"
#endif
#include "gpu/steps/steps.h"
#include "validate/cases/buffers.h"
#include "common/clock.h"
#include "validate/commands/commands.h"
#include "validate/judge/compare.h"
#include "validate/judge/error.h"
#include "validate/reports/files.h"
#include "validate/bench/machine.h"
#include "validate/bench/roof.h"
#include "validate/cases/suite.h"
#include "validate/text/number.h"

enum { MAX_REPEAT = 101, SCALAR_REPEAT = 3 };

typedef struct options {
  int repeat;
  ifa_case_list list;
  const char *json, *backends;
} options;

static const struct argp_option option_list[] = {
    {"case", 'c', "\"K=V ...\"", 0, "what to measure; lists multiply; may be repeated", 0},
    {"backend", 'b', "A,B", 0,
     "backends and baselines, by name (default: all that this machine has, and f32-blas)", 0},
    {"repeat", 'r', "N", 0, "runs of which the median is taken (default 5)", 0},
    {"json", 'j', "FILE", 0, "write the figures as JSON, for `report` and `diff`", 0},
    {0}};

static error_t parse(int key, char *value, struct argp_state *state) {
  options *o = state->input;
  ifa_case base = ifa_case_default();
  ifa_message why;
  switch (key) {
    case 'c':
      if (ifa_case_list_add_line(&o->list, value, &base, &why) != IFA_OK)
        refuse(state, "%s", why.text);
      return 0;
    case 'b': o->backends = value; return 0;
    case 'r':
      if (!ifa_read_int(value, 1, MAX_REPEAT, &o->repeat))
        refuse(state, "--repeat %s is not a number in 1 .. %d", value, MAX_REPEAT);
      return 0;
    case 'j': o->json = value; return 0;
    case ARGP_KEY_ARG: refuse(state, "unexpected argument '%s'", value); return 0;
    default: return ARGP_ERR_UNKNOWN;
  }
}

static const struct argp parser = {
    option_list,
    parse,
    "",
    "Measures the backends that this machine has, after comparing their outputs with the oracle. "
    "Operations: 4 * head_dim for each live (query, key) pair. "
    "The ceiling of a line is measured before each of its runs, on as many threads: the "
    "instruction set's integer products (f32-blas: multiply-adds), or "
    "reading as many bytes as the operands have, whichever allows less; on a GPU, where the time "
    "is the device's without copies, the rate of mma.sync.\v"
    "Exit codes: 0 measured, 1 a backend's output is wrong, 2 bad usage, 3 nothing was measured.",
    NULL,
    NULL,
    NULL};

/* Is a name in a list "a,b,c"? */
static int named(const char *list, const char *name) {
  size_t length = strlen(name);
  for (const char *at = list; at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL)
    if (strncmp(at, name, length) == 0 && (at[length] == ',' || at[length] == '\0')) return 1;
  return 0;
}

/* ---- medians ---- */

static int by_value(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

typedef struct spread {
  double median, least, most;
} spread;

static spread summarize(double *values, int count) {
  qsort(values, (size_t)count, sizeof *values, by_value);
  return (spread){values[count / 2], values[0], values[count - 1]};
}

/* ---- a case ---- */

typedef struct bench {
  const options *o;
  const ifa_data *d;
  /* of the case; of all its rows, which is what a GPU computes if some are chosen */
  double operations, all_operations;
  double bytes; /* of its operands and scales */
  ifa_roof_memory memory;
  spread scalar, blas; /* median 0: not measured */
  json_t *results;
  const char *text;
  int measured, threads; /* lines; threads that there are */
} bench;

/* Of `count` rows; rows NULL: the first so many. */
static double live_pairs(const ifa_problem *p, const int64_t *rows, int64_t count) {
  double pairs = 0;
  for (int64_t r = 0; r < count; r++)
    pairs += (double)ifa_live_count(p, (rows ? rows[r] : r) % p->nq);
  return pairs;
}

static double operand_bytes(const ifa_problem *p) {
  double q = (double)p->batch * (double)p->q_heads * (double)p->nq,
         kv = (double)p->batch * (double)p->kv_heads * (double)p->nk, d = p->head_dim;
  return q * d / (p->q_type == IFA_I4 ? 2 : 1) + kv * d / (p->k_type == IFA_I4 ? 2 : 1) +
         kv * d / (p->v_type == IFA_I4 ? 2 : 1) + 4 * (q + kv);
}

/* What a line is measured with: one run, and the ceiling. `instruction` NULL: no ceiling is known.
 */
typedef struct subject {
  const char *name; /* of the backend or baseline */
  int baseline, threads, repeat;
  int gpu; /* timed on the device: ifa_time_on_device */
  const ifa_ceiling *instruction;
  double operand_bytes;
} subject;

static ifa_status run_once(const bench *b, const subject *s, ifa_run_buffers *buffers,
                           double *seconds, ifa_message *message) {
  double *o = NULL, start = ifa_now_on(s->threads);
  ifa_status status;
  if (s->baseline) {
    status = ifa_error_baseline(b->d, s->name, &o, message);
  } else {
    ifa_inputs in = ifa_data_inputs(b->d);
    ifa_outputs out = ifa_run_buffers_outputs(buffers);
    status = ifa_run(s->name, &b->d->p, &in, &out, message);
  }
  *seconds = ifa_now_on(s->threads) - start;
  free(o);
  return status;
}

/* Operations a second that the case could reach at most: computing, or reading its operands once.
 * *what: which of them. */
static double ceiling_of(const bench *b, const subject *s, const char **what) {
  *what = "";
  if (!s->instruction) return 0;
  double compute = ifa_roof_instruction(s->instruction, s->threads),
         read = ifa_roof_read(&b->memory, s->threads) * b->operations / s->operand_bytes;
  *what = read < compute ? "memory" : s->instruction->name;
  return fmin(read, compute);
}

static void set_threads(int threads) {
#ifdef _OPENMP
  omp_set_num_threads(threads);
#else
  (void)threads;
#endif
}

static double gpu_ceiling(void) {
#ifdef IFA_HAVE_CUDA
  ifa_message why;
  return ifa_cuda_available(&why) == IFA_OK ? 1e12 * measure_mma_tops() : 0;
#else
  return 0;
#endif
}

/* A subject in turns with its ceiling; one warm-up is not kept. */
static ifa_status take_turns(const bench *b, const subject *s, ifa_run_buffers *buffers,
                             double *seconds, double *ceilings, const char **what,
                             ifa_message *message) {
  ifa_status status = IFA_OK;
  set_threads(s->threads);
  for (int i = -1; i < s->repeat && status == IFA_OK; i++) {
    double ceiling = ceiling_of(b, s, what), once;
    status = run_once(b, s, buffers, &once, message);
    if (i < 0) continue;
    seconds[i] = once;
    ceilings[i] = ceiling;
  }
  set_threads(b->threads);
  return status;
}

/* The ceiling, which wakes the device too, then all runs on operands that are there. */
static ifa_status run_on_device(const bench *b, const subject *s, ifa_run_buffers *buffers,
                                double *seconds, double *ceilings, const char **what,
                                ifa_message *message) {
  ifa_inputs in = ifa_data_inputs(b->d);
  ifa_outputs out = ifa_run_buffers_outputs(buffers);
  double ceiling = gpu_ceiling();
  for (int i = 0; i < s->repeat; i++) ceilings[i] = ceiling;
  *what = "mma.sync u8 s8";
  return ifa_time_on_device(s->name, &b->d->p, &in, &out, seconds, s->repeat, message);
}

/* Measures a subject, prints and keeps the line. */
static ifa_status measure(bench *b, const subject *s, spread *kept, ifa_message *message) {
  double seconds[MAX_REPEAT], ceilings[MAX_REPEAT], shares[MAX_REPEAT];
  const char *what = "";
  char label[64];
  ifa_run_buffers buffers;
  ifa_status status = ifa_run_buffers_make(b->d, IFA_STAGES_NONE, 0xff, &buffers, message);
  snprintf(label, sizeof label,
           s->gpu            ? "%s, device time"
           : s->baseline     ? "%s"
           : s->threads == 1 ? "%s, 1 thread"
                             : "%s, %d threads",
           s->name, s->threads);
  if (isatty(STDERR_FILENO)) fprintf(stderr, "\r\033[K%s ", label);
  if (status == IFA_OK)
    status =
        (s->gpu ? run_on_device : take_turns)(b, s, &buffers, seconds, ceilings, &what, message);
  ifa_run_buffers_free(&buffers);
  if (isatty(STDERR_FILENO)) fprintf(stderr, "\r\033[K");
  if (status != IFA_OK) return status;
  const double operations = s->gpu ? b->all_operations : b->operations,
               more = operations / b->operations;
  for (int i = 0; i < s->repeat; i++)
    shares[i] = ceilings[i] > 0 ? operations / seconds[i] / ceilings[i] : 0;
  spread t = summarize(seconds, s->repeat), ceiling = summarize(ceilings, s->repeat),
         share = summarize(shares, s->repeat);
  double rate = 1e-9 * operations / t.median;
  printf("  %-26s %9.2f ms  (%.2f .. %.2f)  %8.2f Gop/s", label, 1e3 * t.median, 1e3 * t.least,
         1e3 * t.most, rate);
  if (ceiling.median > 0)
    printf("  %5.1f%% of %.0f (%s)", 100 * share.median, 1e-9 * ceiling.median, what);
  if (b->scalar.median > 0) printf("  %.1fx scalar", more * b->scalar.median / t.median);
  if (b->blas.median > 0) printf("  %.2fx f32-blas", more * b->blas.median / t.median);
  printf("\n");
  json_t *line = json_pack("{s:s, s:s, s:s, s:i, s:f, s:f, s:f, s:f}", "case", b->text, "subject",
                           label, "name", s->name, "threads", s->threads, "median", t.median,
                           "least", t.least, "most", t.most, "rate", rate);
  if (ceiling.median > 0)
    json_object_update_new(
        line, json_pack("{s:f, s:f, s:f, s:s, s:f, s:f, s:f}", "ceiling", 1e-9 * ceiling.median,
                        "ceiling_least", 1e-9 * ceiling.least, "ceiling_most", 1e-9 * ceiling.most,
                        "ceiling_of", what, "share", share.median, "share_least", share.least,
                        "share_most", share.most));
  if (b->scalar.median > 0)
    json_object_set_new(line, "times_scalar", json_real(more * b->scalar.median / t.median));
  if (b->blas.median > 0)
    json_object_set_new(line, "times_f32_blas", json_real(more * b->blas.median / t.median));
  b->measured++;
  if (kept) *kept = t;
  return json_array_append_new(b->results, line) == 0
             ? IFA_OK
             : ifa_fail(message, IFA_OUT_OF_MEMORY, "no memory for a result");
}

/* ---- which subjects ---- */

/* "cpu-avx512vnni" and the instruction set "avx512_vnni". */
static int is_isa(const char *backend, const char *isa) {
  if (strncmp(backend, "cpu-", 4) != 0) return 0;
  for (backend += 4; *backend || *isa; backend++, isa++) {
    while (*backend == '-' || *backend == '_') backend++;
    while (*isa == '-' || *isa == '_') isa++;
    if (*backend != *isa) return 0;
    if (!*backend) return 1;
  }
  return 1;
}

/* Backends in plain C are set against the machine's best instruction. */
static const ifa_ceiling *instruction_of(const char *backend) {
  for (int i = 0; i < ifa_cpu_isa_count(); i++)
    if (is_isa(backend, ifa_cpu_isa_name(i)) && ifa_ceiling_integer(ifa_cpu_isa_name(i)))
      return ifa_ceiling_integer(ifa_cpu_isa_name(i));
  return ifa_roof_best_integer();
}

/* `cpu` is one of the cpu-... backends under another name, so it is measured only if it is asked
 * for. */
static int is_chosen(const options *o, const char *name) {
  return o->backends ? named(o->backends, name) : strcmp(name, "cpu") != 0;
}

/* One backend; those that take threads with 1, 2, 4, ... up to what there are. */
static ifa_status measure_backend(bench *b, const char *name, ifa_message *message) {
  int scalar = strcmp(name, "scalar") == 0, gpu = strncmp(name, "cuda", 4) == 0,
      most = scalar || gpu ? 1 : b->threads;
  ifa_status status = IFA_OK;
  for (int threads = 1; threads > 0 && status == IFA_OK; threads = threads == most ? 0
                                                                   : 2 * threads < most
                                                                       ? 2 * threads
                                                                       : most) {
    subject s = {.name = name,
                 .threads = threads,
                 .repeat = scalar && b->o->repeat > SCALAR_REPEAT ? SCALAR_REPEAT : b->o->repeat,
                 .gpu = gpu,
                 .instruction = gpu ? NULL : instruction_of(name),
                 .operand_bytes = b->bytes};
    if (gpu) s.threads = 0;
    status = measure(b, &s, scalar ? &b->scalar : NULL, message);
  }
  return status;
}

/* No figure without an output that agrees. */
static ifa_status check(const bench *b, int *wrong, ifa_message *message) {
  ifa_expected *expected;
  ifa_outcome outcome = {0};
  ifa_status status = ifa_expected_make(b->d, &expected, message);
  for (int i = 0; i < ifa_backend_count() && status == IFA_OK; i++) {
    if (!is_chosen(b->o, ifa_backend_name(i))) continue;
    ifa_compare(b->d, expected, ifa_backend_name(i), &outcome);
    *wrong = ifa_verdict_is_failure(outcome.verdict);
    if (*wrong)
      status = ifa_fail(message, IFA_BAD_DATA, "%s is wrong, so it is not measured: %s",
                        ifa_backend_name(i), outcome.message.text);
  }
  ifa_expected_free(expected);
  return status;
}

/* The baselines first, because the other lines are read against them. */
static ifa_status measure_all(bench *b, ifa_message *message) {
  ifa_message why;
  ifa_status status = IFA_OK;
  if (is_chosen(b->o, "f32-blas")) {
    subject s = {.name = "f32-blas",
                 .baseline = 1,
                 .threads = b->threads,
                 .repeat = b->o->repeat,
                 .instruction = ifa_roof_best_fma(),
                 .operand_bytes = 4 * b->bytes};
    if (measure(b, &s, &b->blas, &why) != IFA_OK) printf("  f32-blas: %s\n", why.text);
  }
  for (int i = 0; i < ifa_backend_count() && status == IFA_OK; i++) {
    const char *name = ifa_backend_name(i);
    if (!is_chosen(b->o, name)) continue;
    ifa_status supported = ifa_backend_supports(name, &b->d->p, &why);
    if (supported == IFA_OK) status = measure_backend(b, name, message);
    else if (supported != IFA_NOT_AVAILABLE) printf("  %s: %s\n", name, why.text);
  }
  return status;
}

static ifa_status bench_case(bench *b, const ifa_case *c, int *wrong, ifa_message *message) {
  ifa_data d;
  char text[IFA_CASE_TEXT];
  const size_t most = (size_t)256 << 20;
  ifa_status status = ifa_data_make(c, &d, message);
  b->d = &d;
  b->text = text;
  b->scalar = b->blas = (spread){0, 0, 0};
  if (status == IFA_OK) status = check(b, wrong, message);
  if (status == IFA_OK) {
    b->operations = 4.0 * d.p.head_dim * live_pairs(&d.p, d.rows, d.row_count);
    b->all_operations =
        4.0 * d.p.head_dim * live_pairs(&d.p, NULL, d.p.batch * d.p.q_heads * d.p.nq);
    b->bytes = operand_bytes(&d.p);
    ifa_case_print(c, text);
    printf("\n%s\n", text);
    status = ifa_roof_memory_make(b->bytes < (double)most ? (size_t)b->bytes : most, &b->memory,
                                  message);
  }
  if (status == IFA_OK) status = measure_all(b, message);
  ifa_roof_memory_free(&b->memory);
  ifa_data_free(&d);
  return status;
}

/* ---- ceilings on their own, and the command ---- */

static void keep_ceiling(json_t *list, const char *name, const char *unit, int threads,
                         double *values, int count) {
  spread t = summarize(values, count);
  printf("  %-26s %10.4g %s (%.4g .. %.4g)\n", name, t.median, unit, t.least, t.most);
  json_array_append_new(list, json_pack("{s:s, s:s, s:i, s:f, s:f, s:f}", "name", name, "unit",
                                        unit, "threads", threads, "median", t.median, "least",
                                        t.least, "most", t.most));
}

/* Of the whole machine. Memory: 256 MiB, more than caches hold. */
static json_t *print_ceilings(int repeat) {
  const ifa_ceiling *instructions[2] = {ifa_roof_best_integer(), ifa_roof_best_fma()};
  double values[MAX_REPEAT];
  ifa_roof_memory memory;
  ifa_message why;
  json_t *list = json_array();
  int threads = machine_threads();
  printf("ceilings, %d thread%s:\n", threads, threads == 1 ? "" : "s");
  for (int k = 0; k < 2; k++) {
    if (!instructions[k]) continue;
    for (int i = 0; i < repeat; i++)
      values[i] = 1e-9 * ifa_roof_instruction(instructions[k], threads);
    keep_ceiling(list, instructions[k]->name, "Gop/s", threads, values, repeat);
  }
  if (ifa_roof_memory_make((size_t)256 << 20, &memory, &why) == IFA_OK) {
    for (int i = 0; i < repeat; i++) values[i] = 1e-9 * ifa_roof_read(&memory, threads);
    keep_ceiling(list, "reading memory", "GB/s", threads, values, repeat);
    ifa_roof_memory_free(&memory);
  }
  if (!instructions[0])
    printf("  no integer product of this processor has a loop here: lines are without a ceiling\n");
#ifdef IFA_HAVE_CUDA
  if (ifa_cuda_available(&why) == IFA_OK) {
    values[0] = 1e-9 * gpu_ceiling();
    keep_ceiling(list, "mma.sync u8 s8", "Gop/s", 0, values, 1);
    values[0] = measure_copy_gb_per_s();
    keep_ceiling(list, "copy in GPU memory", "GB/s", 0, values, 1);
  }
#endif
  return list;
}

static ifa_status write_json(bench *b, json_t *ceilings, ifa_message *message) {
  json_t *json = ifa_json_head("bench");
  if (json_object_set_new(json, "repeat", json_integer(b->o->repeat)) |
      json_object_set(json, "ceilings", ceilings) | json_object_set(json, "results", b->results)) {
    json_decref(json);
    json = NULL;
  }
  ifa_status status = ifa_json_write(json, b->o->json, message);
  json_decref(json);
  return status;
}

static ifa_status check_names(const char *list, ifa_message *message) {
  char name[64];
  for (const char *at = list; at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL) {
    snprintf(name, sizeof name, "%.*s", (int)strcspn(at, ","), at);
    if (strcmp(name, "f32-blas") != 0 &&
        ifa_backend_supports(name, NULL, message) == IFA_BAD_ARGUMENT)
      return IFA_BAD_ARGUMENT;
    for (int i = 0; i < IFA_GPU_STEPS; i++)
      if (strcmp(name, ifa_gpu_steps[i]->name) == 0)
        return ifa_fail(message, IFA_BAD_ARGUMENT, "%s is timed by bench_gpu --steps", name);
  }
  return IFA_OK;
}

int cmd_bench(int argc, char **argv) {
  static const char *const standard[] = {
      "b=1 hq=4 hkv=4 nq=1024 nk=1024 d=64,128 vscale=channel,token tau=4 fill=normal",
      "b=1 hq=8 hkv=2 nq=1 nk=32768 d=128 vscale=token fill=normal"};
  options o = {.repeat = 5};
  ifa_case base = ifa_case_default();
  ifa_message why;
  char processor[128];
  if (argp_parse(&parser, argc, argv, 0, NULL, &o) != 0) return EXIT_BAD_USAGE;
  ifa_status status = check_names(o.backends, &why);
  if (status == IFA_OK) status = ifa_reports_prepare(&o.json, 1, &why);
  for (size_t i = 0, given = o.list.count;
       i < sizeof standard / sizeof standard[0] && given == 0 && status == IFA_OK; i++)
    status = ifa_case_list_add_line(&o.list, standard[i], &base, &why);
  if (status != IFA_OK) {
    ifa_case_list_free(&o.list);
    return complain("bench", "%s", why.text);
  }
  machine_processor(processor, sizeof processor);
  printf("%s, %d thread%s, %s; median of %d runs after one warm-up (least .. most); outputs "
         "checked first\n",
         processor, machine_threads(), machine_threads() == 1 ? "" : "s", machine_compiler(),
         o.repeat);
  for (int i = 0; i < ifa_backend_count(); i++)
    if (is_chosen(&o, ifa_backend_name(i)) &&
        ifa_backend_supports(ifa_backend_name(i), NULL, &why) == IFA_NOT_AVAILABLE)
      printf("not available: %s\n", why.text);
  bench b = {.o = &o, .results = json_array(), .threads = machine_threads()};
  json_t *ceilings = print_ceilings(o.repeat);
  int wrong = 0;
  for (size_t i = 0; i < o.list.count && status == IFA_OK; i++)
    status = bench_case(&b, &o.list.cases[i], &wrong, &why);
  if (status == IFA_OK && o.json) status = write_json(&b, ceilings, &why);
  ifa_case_list_free(&o.list);
  json_decref(ceilings);
  json_decref(b.results);
  if (status == IFA_OK) return b.measured ? EXIT_AGREE : EXIT_NOTHING_RUN;
  complain("bench", "%s", why.text);
  return wrong ? EXIT_MISMATCH : EXIT_BAD_USAGE;
}
