/* run.c - `validate run`: backends against the oracle over suites of cases. */
#include <argp.h>
#include <float.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "files/tensor_file.h"
#include "validate/commands/commands.h"
#include "validate/commands/diagnose.h"
#include "validate/kernels/trial.h"
#include "validate/reports/files.h"
#include "validate/reports/report.h"
#include "validate/cases/suite.h"
#include "validate/text/number.h"
#include "validate/text/visible.h"

enum { MAX_SOURCES = 64, MAX_BACKENDS = 16, MAX_KERNELS = 16 };
enum {
  OPTION_JUNIT = 256,
  OPTION_CSV,
  OPTION_HTML,
  OPTION_ANNOTATIONS,
  OPTION_SEED,
  OPTION_PLUGIN,
  OPTION_EXEC,
  OPTION_EXEC_ONCE,
  OPTION_CLAIM,
  OPTION_TIMEOUT,
  OPTION_ONCE,
  OPTION_SHARD,
  OPTION_MAX_FAILURES,
  OPTION_FAIL_FAST,
  OPTION_NO_DIAGNOSIS
};

/* Failures that are printed; the reports have all. */
enum { PRINTED_FAILURES = 5 };

typedef struct options {
  struct {
    char kind;
    const char *text;
  } sources[MAX_SOURCES]; /* kind 's': a suite, 'c': a case */
  int source_count;
  const char *input, *json, *html, *junit, *csv;
  char *backends;
  uint64_t seed;
  int verbose, annotate;
  int shard, shards; /* 0: all cases */
  struct {
    ifa_kernel_kind kind;
    const char *text, *claim;
  } kernels[MAX_KERNELS];
  int kernel_count;
  double timeout;
  int once, max_failures, no_diagnosis;
} options;

static const struct argp_option option_list[] = {
    {"suite", 's', "NAME|FILE", 0,
     "a built-in suite or a file of cases; may be repeated (default: smoke)", 0},
    {"case", 'c', "\"K=V ...\"", 0,
     "cases on the command line; lists multiply: d=64,128 causal=0,1; may be repeated", 0},
    {"input", 'i', "FILE", 0,
     "take q, k, v from a safetensors file (float, [B,H,N,D]) instead of a fill", 0},
    {"backend", 'b', "A,B", 0,
     "backends (default: all; those that this machine lacks are counted as not available)", 0},
    {"seed", OPTION_SEED, "N", 0, "seed of the cases that name none (default 1)", 0},
    {"shard", OPTION_SHARD, "I/N", 0,
     "only every N-th case, beginning with the I-th: one of N machines; `report` merges their JSON "
     "reports",
     0},
    {"json", 'j', "FILE", 0, "write a JSON report", 0},
    {"html", OPTION_HTML, "FILE", 0, "write a report as one page, readable anywhere", 0},
    {"junit", OPTION_JUNIT, "FILE", 0, "write a JUnit XML report", 0},
    {"csv", OPTION_CSV, "FILE", 0, "write a CSV report", 0},
    {"annotations", OPTION_ANNOTATIONS, "github", 0,
     "a line of GitHub's workflow commands for every failure", 0},
    {"max-failures", OPTION_MAX_FAILURES, "N", 0, "stop after so many failing cases", 0},
    {"fail-fast", OPTION_FAIL_FAST, NULL, 0, "stop after the first", 0},
    {"no-diagnosis", OPTION_NO_DIAGNOSIS, NULL, 0,
     "do not look for what failing cases share, the smallest one, and what its values look like",
     0},
    {NULL, 0, NULL, 0,
     "Kernels that are not part of this build (docs/validate.md, section 11):", 1},
    {"plugin", OPTION_PLUGIN, "FILE", 0,
     "a shared library (include/ifa_plugin.h); without --backend only plug-ins are run; may be "
     "repeated",
     1},
    {"exec", OPTION_EXEC, "COMMAND", 0, "a program that answers a line of JSON for each case", 1},
    {"exec-once", OPTION_EXEC_ONCE, "COMMAND", 0,
     "a program that is started for each case, with the case's folder as its last argument", 1},
    {"claim", OPTION_CLAIM, "TEXT", 0,
     "what the plug-in named before promises, instead of what it says: exact, or \"close q=f16 "
     "k=f16 v=f16 p=f16\"",
     1},
    {"timeout", OPTION_TIMEOUT, "SECONDS", 0,
     "that a plug-in has for a case, and to start (default 60)", 1},
    {"once", OPTION_ONCE, NULL, 0,
     "run plug-ins once a case; otherwise small cases are followed by the same with other data, "
     "and again",
     1},
    {"verbose", 'v', NULL, 0, "a line for every case, and every failure (otherwise the first five)",
     0},
    {0}};

/* "2/8" */
static int read_shard(const char *text, options *o) {
  char index[32];
  const char *slash = strchr(text, '/');
  size_t length = slash ? (size_t)(slash - text) : sizeof index;
  if (length >= sizeof index) return 0;
  memcpy(index, text, length);
  index[length] = '\0';
  return ifa_read_int(slash + 1, 1, 1000000, &o->shards) &&
         ifa_read_int(index, 1, o->shards, &o->shard);
}

static error_t parse(int key, char *value, struct argp_state *state) {
  options *o = state->input;
  switch (key) {
    case 's':
    case 'c':
      if (o->source_count == MAX_SOURCES)
        refuse(state, "more than %d suites and cases", MAX_SOURCES);
      o->sources[o->source_count].kind = (char)key;
      o->sources[o->source_count++].text = value;
      return 0;
    case 'i': o->input = value; return 0;
    case 'b': o->backends = value; return 0;
    case 'j': o->json = value; return 0;
    case 'v': o->verbose = 1; return 0;
    case OPTION_HTML: o->html = value; return 0;
    case OPTION_ANNOTATIONS:
      if (strcmp(value, "github") != 0) refuse(state, "--annotations %s is not github", value);
      o->annotate = 1;
      return 0;
    case OPTION_PLUGIN:
    case OPTION_EXEC:
    case OPTION_EXEC_ONCE:
      if (o->kernel_count == MAX_KERNELS) refuse(state, "more than %d plug-ins", MAX_KERNELS);
      o->kernels[o->kernel_count].kind = key == OPTION_PLUGIN ? IFA_KERNEL_LIBRARY
                                         : key == OPTION_EXEC ? IFA_KERNEL_PROGRAM
                                                              : IFA_KERNEL_ONE_SHOT;
      o->kernels[o->kernel_count++].text = value;
      return 0;
    case OPTION_CLAIM:
      if (o->kernel_count == 0)
        refuse(state, "--claim stands behind the --plugin or --exec that it is about");
      o->kernels[o->kernel_count - 1].claim = value;
      return 0;
    case OPTION_TIMEOUT:
      if (!ifa_read_decimal(value, DBL_MIN, 86400, &o->timeout))
        refuse(state, "--timeout %s is not a number of seconds", value);
      return 0;
    case OPTION_ONCE: o->once = 1; return 0;
    case OPTION_SHARD:
      if (!read_shard(value, o)) refuse(state, "--shard %s is not I/N with I from 1 to N", value);
      return 0;
    case OPTION_MAX_FAILURES:
      if (!ifa_read_int(value, 1, INT32_MAX, &o->max_failures))
        refuse(state, "--max-failures %s is not a number", value);
      return 0;
    case OPTION_FAIL_FAST: o->max_failures = 1; return 0;
    case OPTION_NO_DIAGNOSIS: o->no_diagnosis = 1; return 0;
    case OPTION_JUNIT: o->junit = value; return 0;
    case OPTION_CSV: o->csv = value; return 0;
    case OPTION_SEED:
      if (!ifa_read_integer(value, 0, UINT64_MAX, &o->seed))
        refuse(state, "--seed %s is not a number", value);
      return 0;
    case ARGP_KEY_ARG: refuse(state, "unexpected argument '%s'", value); return 0;
    default: return ARGP_ERR_UNKNOWN;
  }
}

static const struct argp parser = {
    option_list,
    parse,
    "",
    "Runs cases with the oracle and with other backends and compares outputs bit by bit; the "
    "intermediate stages too where the backend can "
    "show them, so that the first stage to differ is named. The backend `scalar` is the oracle "
    "itself: it is compared with binary64 "
    "attention on the same operands, within the bound of docs/validate.md. Your own kernel comes "
    "in with --plugin or --exec.\v"
    "Exit codes: 0 all executed cases agree, 1 a mismatch, 2 bad usage or input, 3 nothing was "
    "executed.",
    NULL,
    NULL,
    NULL};

/* ---- backends ---- */

typedef struct backend_list {
  const char *names[MAX_BACKENDS];
  int count;
} backend_list;

static ifa_status choose_backends(char *text, int plugins, backend_list *list,
                                  ifa_message *message) {
  list->count = 0;
  if (!text && plugins) return IFA_OK;
  if (!text)
    for (int i = 0; i < ifa_backend_count() && i < MAX_BACKENDS; i++)
      list->names[list->count++] = ifa_backend_name(i);
  for (char *save = NULL, *name = text ? strtok_r(text, ",", &save) : NULL; name;
       name = strtok_r(NULL, ",", &save)) {
    ifa_status status = ifa_backend_supports(name, NULL, message);
    if (status == IFA_BAD_ARGUMENT) return status;
    if (list->count == MAX_BACKENDS)
      return ifa_fail(message, IFA_BAD_ARGUMENT, "more than %d backends", MAX_BACKENDS);
    list->names[list->count++] = name;
  }
  return list->count ? IFA_OK : ifa_fail(message, IFA_BAD_ARGUMENT, "no backend is named");
}

/* ---- plug-ins ---- */

typedef struct kernel_list {
  ifa_kernel kernels[MAX_KERNELS];
  /* the options that choose each, for the command that repeats a case */
  char *selectors[MAX_KERNELS];
  int count;
} kernel_list;

static void close_kernels(kernel_list *list) {
  while (list->count > 0) {
    ifa_kernel_close(&list->kernels[--list->count]);
    free(list->selectors[list->count]);
  }
}

static ifa_status open_kernels(const options *o, kernel_list *list, ifa_message *message) {
  for (int i = 0; i < o->kernel_count; i++) {
    ifa_status status = ifa_kernel_open(&list->kernels[i], o->kernels[i].kind, o->kernels[i].text,
                                        o->kernels[i].claim, o->timeout, message);
    if (status != IFA_OK) return status;
    list->count++;
    list->selectors[i] = ifa_kernel_selector(o->kernels[i].kind, o->kernels[i].text,
                                             o->kernels[i].claim, o->once, o->timeout);
    if (!list->selectors[i]) return ifa_fail(message, IFA_OUT_OF_MEMORY, "no memory for a command");
  }
  return IFA_OK;
}

/* ---- cases ---- */

static ifa_status gather(const options *o, ifa_case_list *list, ifa_message *message) {
  ifa_case base = ifa_case_default();
  base.seed = o->seed;
  if (o->input) {
    ifa_status status = ifa_case_set_input(&base, o->input, message);
    if (status != IFA_OK) return status;
    if (!strpbrk(base.input, "/."))
      return ifa_fail(message, IFA_BAD_ARGUMENT, "--input %s is not a file's path", o->input);
  }
  ifa_status status = IFA_OK;
  for (int i = 0; i < o->source_count && status == IFA_OK; i++)
    status = o->sources[i].kind == 's'
                 ? ifa_case_list_add_suite(list, o->sources[i].text, &base, message)
                 : ifa_case_list_add_line(list, o->sources[i].text, &base, message);
  if (o->source_count == 0)
    status = o->input
                 ? ifa_case_list_add_line(
                       list, "qk=int8,int4 v=int8,int4 vscale=tensor,channel,token,token_channel",
                       &base, message)
                 : ifa_case_list_add_suite(list, "smoke", &base, message);
  return status;
}

/* Neighbours in a suite take about as long: they go to different shards. */
static void keep_shard(ifa_case_list *list, const options *o) {
  size_t kept = 0;
  for (size_t i = (size_t)o->shard - 1; i < list->count; i += (size_t)o->shards)
    list->cases[kept++] = list->cases[i];
  list->count = kept;
}

/* ---- running ---- */

/* On a terminal, one line that is overwritten; in a pipe, nothing. */
static void show_progress(size_t done, size_t total, const ifa_report *report) {
  static int terminal = -1;
  if (terminal < 0) terminal = isatty(STDERR_FILENO);
  if (!terminal) return;
  if (done == total) fprintf(stderr, "\r\033[K");
  else
    fprintf(stderr, "\r\033[K%zu of %zu cases, %lld failed ", done, total,
            (long long)ifa_report_failures(report));
  fflush(stderr);
}

/* What has been printed of failures: one bug is not to fill the screen. */
typedef struct printed {
  int count;
  int64_t kept_back;
  char *problems[PRINTED_FAILURES]; /* of kernels of floats: see ifa_float_problem */
} printed;

/* Is it the first of its kind: of the problems that a kernel of floats can tell apart, or of a
 * program that does not start? */
static int is_news(const printed *p, const ifa_kernel *kernel, const ifa_case *c,
                   char problem[IFA_CASE_TEXT]) {
  int floats = kernel && kernel->claim.close && kernel->claim.q.format != IFA_FORMAT_GIVEN;
  if (p->count == PRINTED_FAILURES || (kernel && kernel->start != IFA_PASSED && p->count > 0))
    return 0;
  problem[0] = '\0';
  if (floats) ifa_float_problem(c, problem);
  for (int i = 0; i < p->count && floats; i++)
    if (p->problems[i] && strcmp(p->problems[i], problem) == 0) return 0;
  return 1;
}

static void print_failure(const options *o, const ifa_result *r, const ifa_kernel *kernel,
                          const ifa_case *c, printed *p) {
  char problem[IFA_CASE_TEXT];
  if (o->annotate) ifa_report_print_annotation(stdout, r);
  if (o->verbose || is_news(p, kernel, c, problem)) {
    ifa_report_print_failure(stdout, r);
    if (p->count < PRINTED_FAILURES)
      p->problems[p->count++] = o->verbose ? NULL : ifa_copy_string(problem);
  } else {
    p->kept_back++;
  }
}

static void print_result(const options *o, const ifa_result *r, const ifa_kernel *kernel,
                         const ifa_case *c, printed *p) {
  if (ifa_verdict_is_failure(r->outcome.verdict)) print_failure(o, r, kernel, c, p);
  else if (o->verbose) ifa_report_print_quiet(stdout, r);
}

/* One run. */
typedef struct running {
  const options *o;
  const backend_list *backends;
  kernel_list *kernels;
  ifa_report *report;
  printed printed;
} running;

static ifa_status add_result(running *run, const ifa_data *data, const ifa_case *c,
                             const ifa_expected *expected, const ifa_kernel *kernel, ifa_result *r,
                             ifa_message *message) {
  char text[IFA_CASE_TEXT];
  ifa_case_print(c, text);
  r->text = text;
  ifa_expected_digest(data, expected, r->digest);
  print_result(run->o, r, kernel, c, &run->printed);
  return ifa_report_add(run->report, r, message);
}

static ifa_status run_backends(running *run, const ifa_data *data, const ifa_case *c,
                               const ifa_expected *expected, ifa_message *message) {
  ifa_status status = IFA_OK;
  for (int i = 0; i < run->backends->count && status == IFA_OK; i++) {
    ifa_result *r = calloc(1, sizeof *r);
    if (!r) return ifa_fail(message, IFA_OUT_OF_MEMORY, "no memory for a result");
    r->backend = run->backends->names[i];
    ifa_compare(data, expected, r->backend, &r->outcome);
    status = add_result(run, data, c, expected, NULL, r, message);
    free(r);
  }
  return status;
}

/* One case with what is needed to judge plug-ins on it: the same problem with other data
 * (`repeated`), and both right answers. */
typedef struct plugin_case {
  ifa_data data, other;
  int repeated;
  ifa_trial trials[MAX_KERNELS];
  ifa_expected *expected, *expected_other;
} plugin_case;

/* Every plug-in runs before the oracle does: what is not there cannot be found. */
static ifa_status try_kernels(const ifa_case *c, kernel_list *kernels, const options *o,
                              plugin_case *pc, ifa_message *message) {
  ifa_case other;
  ifa_status status = IFA_OK;
  if (!o->once && ifa_trial_other_case(c, &pc->data, &other)) {
    pc->repeated = 1;
    status = ifa_data_make(&other, &pc->other, message);
  }
  for (int i = 0; i < kernels->count && status == IFA_OK; i++)
    status = ifa_trial_run(&kernels->kernels[i], &pc->data, pc->repeated ? &pc->other : NULL,
                           &pc->trials[i], message);
  return status;
}

static ifa_status judge_kernels(running *run, const ifa_case *c, plugin_case *pc,
                                ifa_message *message) {
  kernel_list *kernels = run->kernels;
  ifa_status status = IFA_OK;
  int exact = 0;
  for (int i = 0; i < kernels->count; i++)
    exact |= pc->trials[i].made > 1 && !kernels->kernels[i].claim.close;
  if (exact) status = ifa_expected_make(&pc->other, &pc->expected_other, message);
  for (int i = 0; i < kernels->count && status == IFA_OK; i++) {
    ifa_result *r = calloc(1, sizeof *r);
    if (!r) return ifa_fail(message, IFA_OUT_OF_MEMORY, "no memory for a result");
    r->backend = kernels->kernels[i].name;
    r->claim = kernels->kernels[i].claim.text;
    r->selector = kernels->selectors[i];
    ifa_trial_judge(&kernels->kernels[i], &pc->trials[i], &pc->data, pc->expected,
                    pc->repeated ? &pc->other : NULL, pc->expected_other, &r->outcome);
    status = add_result(run, &pc->data, c, pc->expected, &kernels->kernels[i], r, message);
    free(r);
  }
  return status;
}

/* A case that cannot be made is reported and counted; the run goes on. */
static void run_case(running *run, const ifa_case *c) {
  kernel_list *kernels = run->kernels;
  plugin_case pc = {0};
  ifa_message why = {""};
  ifa_status status = ifa_data_make(c, &pc.data, &why);
  if (status == IFA_OK && kernels->count) status = try_kernels(c, kernels, run->o, &pc, &why);
  if (status == IFA_OK) status = ifa_expected_make(&pc.data, &pc.expected, &why);
  if (status == IFA_OK) status = run_backends(run, &pc.data, c, pc.expected, &why);
  if (status == IFA_OK && kernels->count) status = judge_kernels(run, c, &pc, &why);
  for (int i = 0; i < kernels->count; i++) ifa_trial_free(&pc.trials[i]);
  ifa_expected_free(pc.expected);
  ifa_expected_free(pc.expected_other);
  ifa_data_free(&pc.data);
  ifa_data_free(&pc.other);
  if (status == IFA_OK) return;
  char text[IFA_CASE_TEXT], reason[sizeof why.text + 64];
  ifa_case_print(c, text);
  snprintf(reason, sizeof reason, "%s: %s", ifa_status_name(status), why.text);
  printf("INVALID  %s\n  ", text);
  ifa_print_visible_line(stdout, "%s", reason);
  if (ifa_report_add_invalid(run->report, text, reason, &why) != IFA_OK) run->report->lost = 1;
}

static void run_cases(running *run, const ifa_case_list *list) {
  ifa_report *report = run->report;
  int most = run->o->max_failures;
  for (size_t i = 0; i < list->count; i++) {
    if (most > 0 && ifa_report_failures(report) >= most) {
      report->not_run = (int64_t)(list->count - i);
      break;
    }
    show_progress(i, list->count, report);
    run_case(run, &list->cases[i]);
  }
  show_progress(list->count, list->count, report);
  if (run->printed.kept_back)
    printf("... %" PRId64 " more failures; --verbose prints them\n", run->printed.kept_back);
  for (int i = 0; i < run->printed.count; i++) free(run->printed.problems[i]);
}

/* What the failures of each kernel say together. */
static void diagnose(running *run) {
  ifa_report *report = run->report;
  ifa_message why;
  ifa_status status = IFA_OK;
  for (int i = 0; i < run->backends->count && status == IFA_OK; i++)
    status = ifa_diagnose(report, run->backends->names[i], NULL, NULL, &why);
  for (int i = 0; i < run->kernels->count && status == IFA_OK; i++)
    status = ifa_diagnose(report, run->kernels->kernels[i].name, &run->kernels->kernels[i],
                          run->kernels->selectors[i], &why);
  if (status != IFA_OK) report->lost = 1;
  for (size_t i = 0; i < report->diagnosed; i++)
    ifa_report_print_diagnosis(stdout, &report->diagnoses[i]);
}

static ifa_status write_reports(const options *o, const ifa_report *report, ifa_message *message) {
  ifa_message *why = message, later; /* all are tried; the first failure is told */
  ifa_status first = IFA_OK, status;
  if (o->json && (status = ifa_report_write_json(report, o->json, why)) != IFA_OK)
    first = status, why = &later;
  if (o->html && (status = ifa_report_write_html(report, o->html, why)) != IFA_OK)
    first = first ? first : status, why = &later;
  if (o->junit && (status = ifa_report_write_junit(report, o->junit, why)) != IFA_OK)
    first = first ? first : status, why = &later;
  if (o->csv && (status = ifa_report_write_csv(report, o->csv, why)) != IFA_OK)
    first = first ? first : status;
  return first;
}

int cmd_run(int argc, char **argv) {
  static kernel_list kernels;
  options o = {.seed = 1, .timeout = IFA_KERNEL_TIMEOUT};
  backend_list backends;
  ifa_case_list list = {0};
  ifa_report report = {0};
  ifa_message why;
  if (argp_parse(&parser, argc, argv, 0, NULL, &o) != 0) return EXIT_BAD_USAGE;
  const char *const reports[] = {o.json, o.html, o.junit, o.csv};
  if (ifa_reports_prepare(reports, 4, &why) != IFA_OK) return complain("run", "%s", why.text);
  if (choose_backends(o.backends, o.kernel_count > 0, &backends, &why) != IFA_OK ||
      gather(&o, &list, &why) != IFA_OK) {
    ifa_case_list_free(&list);
    return complain("run", "%s", why.text);
  }
  if (open_kernels(&o, &kernels, &why) != IFA_OK) {
    close_kernels(&kernels);
    ifa_case_list_free(&list);
    return complain("run", "%s", why.text);
  }
  report.shard = o.shard;
  report.shards = o.shards;
  if (o.shards) keep_shard(&list, &o);
  running run = {.o = &o, .backends = &backends, .kernels = &kernels, .report = &report};
  run_cases(&run, &list);
  if (!o.no_diagnosis && ifa_report_failures(&report)) diagnose(&run);
  int code = ifa_report_exit_code(&report);
  if (write_reports(&o, &report, &why) != IFA_OK) {
    complain("run", "%s", why.text);
    if (code != EXIT_MISMATCH) code = EXIT_BAD_USAGE; /* a mismatch is the worse news */
  }
  ifa_report_print_counts(stdout, &report);
  ifa_report_free(&report);
  ifa_case_list_free(&list);
  close_kernels(&kernels);
  return code;
}
