/* cmd_bench.c - `validate bench`: how fast the backends are. A figure is printed only after the output has been compared with the oracle's,
 * bit by bit; it is the median of several runs, with its spread, next to what the same run measured as its baseline. */
#include <argp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#include "common/problem.h"
#include "validate/buffers.h"
#include "validate/clock.h"
#include "validate/commands.h"
#include "validate/compare.h"
#include "validate/error.h"
#include "validate/machine.h"
#include "validate/suite.h"

enum { MAX_REPEAT = 101 };

typedef struct options { int repeat; ifa_case_list list; } options;

static const struct argp_option option_list[] = {
    {"case", 'c', "\"K=V ...\"", 0, "what to measure; lists multiply; may be repeated", 0},
    {"repeat", 'r', "N", 0, "runs of which the median is taken (default 5)", 0},
    {0}};

static error_t parse(int key, char *value, struct argp_state *state) {
  options *o = state->input;
  ifa_case base = ifa_case_default();
  ifa_message why;
  if (key == 'c') {
    if (ifa_case_list_add_line(&o->list, value, &base, &why) != IFA_OK) argp_error(state, "%s", why.text);
    return 0;
  }
  if (key == 'r') {
    o->repeat = atoi(value);
    if (o->repeat < 1 || o->repeat > MAX_REPEAT) argp_error(state, "--repeat must be 1 .. %d", MAX_REPEAT);
    return 0;
  }
  return ARGP_ERR_UNKNOWN;
}

static const struct argp parser = {option_list, parse, "", "Measures the backends. Operations: 4 * head_dim for each live (query, key) pair.", NULL, NULL, NULL};

static int by_value(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

typedef struct timing { double median, least, most; } timing;

static timing summarize(double *seconds, int count) {
  qsort(seconds, (size_t)count, sizeof *seconds, by_value);
  return (timing){seconds[count / 2], seconds[0], seconds[count - 1]};
}

/* Seconds of each run of a backend; the first, a warm-up, is not kept. */
static ifa_status time_backend(const ifa_data *d, const char *backend, int repeat, timing *t, ifa_message *message) {
  double seconds[MAX_REPEAT];
  ifa_run_buffers buffers;
  ifa_status status = ifa_run_buffers_make(d, IFA_STAGES_NONE, 0xff, &buffers, message);
  for (int i = -1; i < repeat && status == IFA_OK; i++) {
    ifa_inputs in = ifa_data_inputs(d);
    ifa_outputs out = ifa_run_buffers_outputs(&buffers);
    double start = ifa_now();
    status = ifa_run(backend, &d->p, &in, &out, message);
    if (i >= 0) seconds[i] = ifa_now() - start;
  }
  ifa_run_buffers_free(&buffers);
  if (status == IFA_OK) *t = summarize(seconds, repeat);
  return status;
}

static ifa_status time_baseline(const ifa_data *d, const char *name, int repeat, timing *t, ifa_message *message) {
  double seconds[MAX_REPEAT];
  ifa_status status = IFA_OK;
  for (int i = -1; i < repeat && status == IFA_OK; i++) {
    double *o = NULL, start = ifa_now();
    status = ifa_error_baseline(d, name, &o, message);
    if (i >= 0) seconds[i] = ifa_now() - start;
    free(o);
  }
  if (status == IFA_OK) *t = summarize(seconds, repeat);
  return status;
}

static double live_pairs(const ifa_data *d) {
  double pairs = 0;
  for (int64_t r = 0; r < d->row_count; r++) pairs += (double)ifa_live_count(&d->p, (d->rows ? d->rows[r] : r) % d->p.nq);
  return pairs;
}

static void print_line(const char *name, double operations, timing t, const char *note) {
  printf("  %-22s %9.2f ms  (%.2f .. %.2f)  %8.2f Gop/s%s\n", name, 1e3 * t.median, 1e3 * t.least, 1e3 * t.most, 1e-9 * operations / t.median, note);
}

static void set_threads(int threads) {
#ifdef _OPENMP
  omp_set_num_threads(threads);
#else
  (void)threads;
#endif
}

/* openmp with 1, 2, 4, ... threads up to what there are. */
static ifa_status bench_openmp(const ifa_data *d, int repeat, double operations, timing scalar, ifa_message *message) {
  int most = machine_threads();
  double single = 0;
  for (int threads = 1; threads > 0; threads = threads == most ? 0 : 2 * threads < most ? 2 * threads : most) {
    timing t;
    char name[32], note[96];
    set_threads(threads);
    ifa_status status = time_backend(d, "openmp", repeat, &t, message);
    set_threads(most);
    if (status != IFA_OK) return status;
    if (threads == 1) single = t.median;
    snprintf(name, sizeof name, "openmp, %d thread%s", threads, threads == 1 ? "" : "s");
    snprintf(note, sizeof note, "  %.1fx scalar, %.2fx one thread", scalar.median / t.median, single / t.median);
    print_line(name, operations, t, note);
  }
  return IFA_OK;
}

/* No figure without an output that agrees. */
static ifa_status check(const ifa_data *d, int *wrong, ifa_message *message) {
  ifa_expected *expected;
  ifa_outcome outcome = {0};
  ifa_status status = ifa_expected_make(d, &expected, message);
  for (int i = 0; i < ifa_backend_count() && status == IFA_OK; i++) {
    ifa_compare(d, expected, ifa_backend_name(i), &outcome);
    *wrong = ifa_verdict_is_failure(outcome.verdict);
    if (*wrong)
      status = ifa_fail(message, IFA_BAD_DATA, "%s is wrong, so it is not measured: %.200s", ifa_backend_name(i), outcome.message.text);
  }
  ifa_expected_free(expected);
  return status;
}

static ifa_status bench_case(const ifa_case *c, int repeat, int *wrong, ifa_message *message) {
  ifa_data d;
  char text[IFA_CASE_TEXT];
  timing scalar, t;
  ifa_status status = ifa_data_make(c, &d, message);
  if (status == IFA_OK) status = check(&d, wrong, message);
  if (status == IFA_OK) {
    double operations = 4.0 * d.p.head_dim * live_pairs(&d);
    ifa_case_print(c, text);
    printf("\n%s\n", text);
    status = time_backend(&d, "scalar", repeat < 3 ? repeat : 3, &scalar, message);
    if (status == IFA_OK) print_line("scalar", operations, scalar, "");
    ifa_message why;
    if (status == IFA_OK && ifa_backend_supports("openmp", &d.p, &why) == IFA_OK) status = bench_openmp(&d, repeat, operations, scalar, message);
    else if (status == IFA_OK) printf("  openmp: %s\n", why.text);
    if (status == IFA_OK && time_baseline(&d, "f32-blas", repeat, &t, &why) == IFA_OK) print_line("f32-blas (OpenBLAS)", operations, t, "");
    else if (status == IFA_OK) printf("  f32-blas: %s\n", why.text);
  }
  ifa_data_free(&d);
  return status;
}

int cmd_bench(int argc, char **argv) {
  options o = {.repeat = 5};
  ifa_case base = ifa_case_default();
  ifa_message why;
  char processor[128];
  if (argp_parse(&parser, argc, argv, 0, NULL, &o) != 0) return EXIT_BAD_USAGE;
  if (o.list.count == 0 &&
      ifa_case_list_add_line(&o.list, "b=1 hq=4 hkv=4 nq=1024 nk=1024 d=64,128 vscale=channel,token fill=normal", &base, &why) != IFA_OK)
    return complain("bench", "%s", why.text);
  machine_processor(processor, sizeof processor);
  printf("%s, %d threads, %s; median of %d runs after one warm-up (least .. most); outputs checked first\n", processor, machine_threads(), machine_compiler(),
         o.repeat);
  ifa_status status = IFA_OK;
  int wrong = 0;
  for (size_t i = 0; i < o.list.count && status == IFA_OK; i++) status = bench_case(&o.list.cases[i], o.repeat, &wrong, &why);
  ifa_case_list_free(&o.list);
  if (status == IFA_OK) return EXIT_AGREE;
  complain("bench", "%s", why.text);
  return wrong ? EXIT_MISMATCH : EXIT_BAD_USAGE;
}
