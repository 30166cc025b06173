/* cmd_run.c - `validate run`: backends against the oracle over suites of cases. */
#include <argp.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "validate/commands.h"
#include "validate/report.h"
#include "validate/suite.h"

enum { MAX_SOURCES = 64, MAX_BACKENDS = 16, OPTION_JUNIT = 256, OPTION_CSV, OPTION_HTML, OPTION_ANNOTATIONS, OPTION_SEED };

typedef struct options {
  struct { char kind; const char *text; } sources[MAX_SOURCES]; /* kind 's': a suite, 'c': a case */
  int source_count;
  const char *input, *json, *html, *junit, *csv;
  char *backends;
  uint64_t seed;
  int verbose, annotate;
} options;

static const struct argp_option option_list[] = {
    {"suite", 's', "NAME|FILE", 0, "a built-in suite or a file of cases; may be repeated (default: smoke)", 0},
    {"case", 'c', "\"K=V ...\"", 0, "cases on the command line; lists multiply: d=64,128 causal=0,1; may be repeated", 0},
    {"input", 'i', "FILE", 0, "take q, k, v from a safetensors file (float, [B,H,N,D]) instead of a fill", 0},
    {"backend", 'b', "A,B", 0, "backends (default: all; those that this machine lacks are counted as not available)", 0},
    {"seed", OPTION_SEED, "N", 0, "seed of the cases that name none (default 1)", 0},
    {"json", 'j', "FILE", 0, "write a JSON report", 0},
    {"html", OPTION_HTML, "FILE", 0, "write a report as one page, readable anywhere", 0},
    {"junit", OPTION_JUNIT, "FILE", 0, "write a JUnit XML report", 0},
    {"csv", OPTION_CSV, "FILE", 0, "write a CSV report", 0},
    {"annotations", OPTION_ANNOTATIONS, "github", 0, "a line of GitHub's workflow commands for every failure", 0},
    {"verbose", 'v', NULL, 0, "a line for every case, not only for those that do not pass", 0},
    {0}};

static error_t parse(int key, char *value, struct argp_state *state) {
  options *o = state->input;
  char *end;
  switch (key) {
    case 's':
    case 'c':
      if (o->source_count == MAX_SOURCES) argp_error(state, "more than %d suites and cases", MAX_SOURCES);
      o->sources[o->source_count].kind = (char)key;
      o->sources[o->source_count++].text = value;
      return 0;
    case 'i': o->input = value; return 0;
    case 'b': o->backends = value; return 0;
    case 'j': o->json = value; return 0;
    case 'v': o->verbose = 1; return 0;
    case OPTION_HTML: o->html = value; return 0;
    case OPTION_ANNOTATIONS:
      if (strcmp(value, "github") != 0) argp_error(state, "--annotations %s is not github", value);
      o->annotate = 1;
      return 0;
    case OPTION_JUNIT: o->junit = value; return 0;
    case OPTION_CSV: o->csv = value; return 0;
    case OPTION_SEED:
      errno = 0;
      o->seed = strtoull(value, &end, 10);
      if (*value < '0' || *value > '9' || *end != '\0' || errno != 0) argp_error(state, "--seed %s is not a number", value);
      return 0;
    case ARGP_KEY_ARG: argp_error(state, "unexpected argument '%s'", value); return 0;
    default: return ARGP_ERR_UNKNOWN;
  }
}

static const struct argp parser = {
    option_list, parse, "",
    "Runs cases with the oracle and with other backends and compares outputs bit by bit; the intermediate stages too where the backend can "
    "show them, so that the first stage to differ is named. The backend `scalar` is the oracle itself: it is compared with binary64 "
    "attention on the same operands, within the bound of docs/validate.md.\v"
    "Exit codes: 0 all executed cases agree, 1 a mismatch, 2 bad usage or input, 3 nothing was executed.", NULL, NULL, NULL};

/* ---- backends ---- */

typedef struct backend_list { const char *names[MAX_BACKENDS]; int count; } backend_list;

static ifa_status choose_backends(char *text, backend_list *list, ifa_message *message) {
  list->count = 0;
  if (!text)
    for (int i = 0; i < ifa_backend_count() && i < MAX_BACKENDS; i++) list->names[list->count++] = ifa_backend_name(i);
  for (char *save = NULL, *name = text ? strtok_r(text, ",", &save) : NULL; name; name = strtok_r(NULL, ",", &save)) {
    ifa_status status = ifa_backend_supports(name, NULL, message);
    if (status == IFA_BAD_ARGUMENT) return status;
    if (list->count == MAX_BACKENDS) return ifa_fail(message, IFA_BAD_ARGUMENT, "more than %d backends", MAX_BACKENDS);
    list->names[list->count++] = name;
  }
  return list->count ? IFA_OK : ifa_fail(message, IFA_BAD_ARGUMENT, "no backend is named");
}

/* ---- cases ---- */

static ifa_status gather(const options *o, ifa_case_list *list, ifa_message *message) {
  ifa_case base = ifa_case_default();
  base.seed = o->seed;
  if (o->input) {
    ifa_status status = ifa_case_set_input(&base, o->input, message);
    if (status != IFA_OK) return status;
    if (!strpbrk(base.input, "/.")) return ifa_fail(message, IFA_BAD_ARGUMENT, "--input %s is not a file's path", o->input);
  }
  ifa_status status = IFA_OK;
  for (int i = 0; i < o->source_count && status == IFA_OK; i++)
    status = o->sources[i].kind == 's' ? ifa_case_list_add_suite(list, o->sources[i].text, &base, message)
                                       : ifa_case_list_add_line(list, o->sources[i].text, &base, message);
  if (o->source_count == 0)
    status = o->input ? ifa_case_list_add_line(list, "qk=int8,int4 v=int8,int4 vscale=tensor,channel,token,token_channel", &base, message)
                      : ifa_case_list_add_suite(list, "smoke", &base, message);
  return status;
}

/* ---- running ---- */

/* On a terminal, one line that is overwritten; in a pipe, nothing. */
static void show_progress(size_t done, size_t total, const ifa_report *report) {
  static int terminal = -1;
  if (terminal < 0) terminal = isatty(STDERR_FILENO);
  if (!terminal) return;
  if (done == total) fprintf(stderr, "\r\033[K");
  else fprintf(stderr, "\r\033[K%zu of %zu cases, %lld failed ", done, total, (long long)ifa_report_failures(report));
  fflush(stderr);
}

static void print_result(const options *o, const ifa_result *r) {
  int failed = ifa_verdict_is_failure(r->outcome.verdict);
  if (failed) ifa_report_print_failure(stdout, r);
  if (failed && o->annotate) ifa_report_print_annotation(stdout, r);
  if (!failed && o->verbose)
    printf("%s  %s  %.3f s  %s%s%s\n", ifa_verdict_name(r->outcome.verdict), r->backend, r->outcome.seconds, r->text,
           r->outcome.verdict == IFA_PASSED ? "" : "  ", r->outcome.verdict == IFA_PASSED ? "" : r->outcome.message.text);
}

static ifa_status run_backends(const ifa_data *data, const ifa_case *c, const backend_list *backends, const options *o, ifa_report *report,
                               ifa_message *message) {
  ifa_expected *expected;
  ifa_status status = ifa_expected_make(data, &expected, message);
  for (int i = 0; i < backends->count && status == IFA_OK; i++) {
    ifa_result *r = calloc(1, sizeof *r);
    if (!r) {
      status = ifa_fail(message, IFA_OUT_OF_MEMORY, "no memory for a result");
      break;
    }
    r->backend = backends->names[i];
    ifa_case_print(c, r->text);
    ifa_expected_digest(data, expected, r->digest);
    ifa_compare(data, expected, r->backend, &r->outcome);
    print_result(o, r);
    status = ifa_report_add(report, r, message);
    free(r);
  }
  ifa_expected_free(expected);
  return status;
}

/* A case that cannot be made is reported and counted; the run goes on. */
static void run_case(const ifa_case *c, const backend_list *backends, const options *o, ifa_report *report) {
  ifa_data data;
  ifa_message why = {""};
  ifa_status status = ifa_data_make(c, &data, &why);
  if (status == IFA_OK) status = run_backends(&data, c, backends, o, report, &why);
  ifa_data_free(&data);
  if (status == IFA_OK) return;
  char text[IFA_CASE_TEXT];
  ifa_case_print(c, text);
  report->invalid++;
  printf("INVALID  %s\n  %s: %s\n", text, ifa_status_name(status), why.text);
}

static ifa_status write_reports(const options *o, const ifa_report *report, ifa_message *message) {
  ifa_message *why = message, later; /* all are tried; the first failure is told */
  ifa_status first = IFA_OK, status;
  if (o->json && (status = ifa_report_write_json(report, o->json, why)) != IFA_OK) first = status, why = &later;
  if (o->html && (status = ifa_report_write_html(report, o->html, why)) != IFA_OK) first = first ? first : status, why = &later;
  if (o->junit && (status = ifa_report_write_junit(report, o->junit, why)) != IFA_OK) first = first ? first : status, why = &later;
  if (o->csv && (status = ifa_report_write_csv(report, o->csv, why)) != IFA_OK) first = first ? first : status;
  return first;
}

static int exit_code(const ifa_report *report) {
  if (ifa_report_failures(report)) return EXIT_MISMATCH;
  if (report->invalid) return EXIT_BAD_USAGE;
  return report->counts[IFA_PASSED] ? EXIT_AGREE : EXIT_NOTHING_RUN;
}

int cmd_run(int argc, char **argv) {
  options o = {.seed = 1};
  backend_list backends;
  ifa_case_list list = {0};
  ifa_report report = {0};
  ifa_message why;
  if (argp_parse(&parser, argc, argv, 0, NULL, &o) != 0) return EXIT_BAD_USAGE;
  if (choose_backends(o.backends, &backends, &why) != IFA_OK || gather(&o, &list, &why) != IFA_OK) {
    ifa_case_list_free(&list);
    return complain("run", "%s", why.text);
  }
  for (size_t i = 0; i < list.count; i++) {
    show_progress(i, list.count, &report);
    run_case(&list.cases[i], &backends, &o, &report);
  }
  show_progress(list.count, list.count, &report);
  int code = exit_code(&report);
  if (write_reports(&o, &report, &why) != IFA_OK) {
    complain("run", "%s", why.text);
    if (code != EXIT_MISMATCH) code = EXIT_BAD_USAGE; /* a mismatch is the worse news */
  }
  ifa_report_print_counts(stdout, &report);
  ifa_report_free(&report);
  ifa_case_list_free(&list);
  return code;
}
