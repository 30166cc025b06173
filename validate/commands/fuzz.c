/* fuzz.c - `validate fuzz`: random problems near the boundaries, valid and invalid, through every
 * backend; a failure is made as small as it goes and printed as a command. Cases are made by
 * fuzz_case.c and run in a child process by fuzz_worker.c. docs/validate.md. */
#include <argp.h>
#include <float.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"
#include "gpu/steps/steps.h"
#include "validate/commands/commands.h"
#include "validate/commands/fuzz_kernel.h"
#include "validate/reports/files.h"
#include "validate/fuzz/fuzz_case.h"
#include "validate/fuzz/fuzz_worker.h"
#include "validate/fuzz/shrink.h"
#include "validate/text/number.h"
#include "validate/text/visible.h"

enum {
  OPTION_SEED = 256,
  OPTION_FIRST,
  OPTION_LIMIT,
  OPTION_VIOLATION,
  OPTION_FAILURES,
  OPTION_PLUGIN,
  OPTION_EXEC,
  OPTION_EXEC_ONCE,
  OPTION_CLAIM,
  MAX_FAILURES = 64,
  INVALID_ONE_IN = 6
};

/* Shrinking ends after this many trials, or seconds. */
enum { SHRINK_TRIALS = 2000, SHRINK_SECONDS = 60 };

typedef struct options {
  double seconds, time_limit;
  uint64_t seed, first, count;
  int count_given, seconds_given, failures, violation;
  const char *one_case, *json;
  char *backends;
  ifa_kernel_kind kind;
  const char *kernel, *claim; /* kernel NULL: backends */
} options;

static const struct argp_option option_list[] = {
    {"seconds", 's', "S", 0, "how long (default 10, or as --count needs)", 0},
    {"count", 'n', "N", 0, "how many cases (default: as many as the time allows)", 0},
    {"seed", OPTION_SEED, "N", 0,
     "of the cases (default 1); a seed's first N cases are always the same", 0},
    {"first", OPTION_FIRST, "I", 0, "number of the first case (default 0)", 0},
    {"backend", 'b', "A,B", 0, "backends (default: all)", 0},
    {"failures", OPTION_FAILURES, "N", 0, "stop after so many failures (default 1, at most 64)", 0},
    {"limit", OPTION_LIMIT, "S", 0,
     "seconds that a backend may take for a case before it counts as hanging (default 20)", 0},
    {"case", 'c', "\"K=V ...\"", 0, "only this case (and --violation): how a failure is repeated",
     0},
    {"violation", OPTION_VIOLATION, "NAME", 0, "with --case: what is made invalid in it", 0},
    {"json", 'j', "FILE", 0, "write a JSON report", 0},
    {NULL, 0, NULL, 0, "A kernel of your own in place of the backends; valid cases only:", 1},
    {"plugin", OPTION_PLUGIN, "FILE", 0, "a shared library (include/ifa_plugin.h)", 1},
    {"exec", OPTION_EXEC, "COMMAND", 0, "a program that answers a line of JSON for each case", 1},
    {"exec-once", OPTION_EXEC_ONCE, "COMMAND", 0, "a program that is started for each case", 1},
    {"claim", OPTION_CLAIM, "TEXT", 0, "what it promises, instead of what it says", 1},
    {0}};

static uint64_t number(const char *value, struct argp_state *state) {
  uint64_t n = 0;
  if (!ifa_read_integer(value, 0, UINT64_MAX, &n)) refuse(state, "'%s' is not a number", value);
  return n;
}

static double seconds(const char *value, struct argp_state *state) {
  double s = 0;
  if (!ifa_read_decimal(value, DBL_MIN, 1e6, &s))
    refuse(state, "'%s' is not a number of seconds", value);
  return s;
}

static error_t parse(int key, char *value, struct argp_state *state) {
  options *o = state->input;
  switch (key) {
    case 's': o->seconds = seconds(value, state), o->seconds_given = 1; return 0;
    case 'n': o->count = number(value, state), o->count_given = 1; return 0;
    case OPTION_SEED: o->seed = number(value, state); return 0;
    case OPTION_FIRST: o->first = number(value, state); return 0;
    case OPTION_LIMIT: o->time_limit = seconds(value, state); return 0;
    case OPTION_FAILURES:
      if (!ifa_read_int(value, 1, MAX_FAILURES, &o->failures))
        refuse(state, "--failures %s is not a number in 1 .. %d", value, MAX_FAILURES);
      return 0;
    case OPTION_VIOLATION:
      if ((o->violation = ifa_violation_find(value)) < 0)
        refuse(state, "there is no violation '%s'", value);
      return 0;
    case OPTION_PLUGIN:
    case OPTION_EXEC:
    case OPTION_EXEC_ONCE:
      if (o->kernel) refuse(state, "one kernel at a time");
      o->kind = key == OPTION_PLUGIN ? IFA_KERNEL_LIBRARY
                : key == OPTION_EXEC ? IFA_KERNEL_PROGRAM
                                     : IFA_KERNEL_ONE_SHOT;
      o->kernel = value;
      return 0;
    case OPTION_CLAIM: o->claim = value; return 0;
    case 'b': o->backends = value; return 0;
    case 'c': o->one_case = value; return 0;
    case 'j': o->json = value; return 0;
    case ARGP_KEY_ARG: refuse(state, "unexpected argument '%s'", value); return 0;
    case ARGP_KEY_END:
      if (o->violation >= 0 && !o->one_case) refuse(state, "--violation needs --case");
      if (o->kernel && (o->one_case || o->backends))
        refuse(state, "a kernel of your own goes without --backend and --case (`run` has both)");
      if (o->claim && !o->kernel) refuse(state, "--claim needs --plugin or --exec");
      return 0;
    default: return ARGP_ERR_UNKNOWN;
  }
}

static const struct argp parser = {
    option_list,
    parse,
    "",
    "Runs random problems, most of them near a boundary (tiles, splits, masks, tau, ends of the "
    "scales' range, strides, chosen rows), with every backend "
    "and compares with the oracle; one in six is made invalid and must be refused with the "
    "documented status, nothing written. A failure is shrunk to "
    "the smallest case that still fails, and printed as a command. A crash or a hang is a failure "
    "like any other.\v"
    "Exit codes: 0 no failure, 1 a failure, 2 bad usage, 3 nothing was executed.",
    NULL,
    NULL,
    NULL};

/* ---- the run ---- */

typedef struct failure {
  const char *backend;
  int violation;
  uint64_t index;
  ifa_case found, shrunk;
  ifa_fuzz_result result; /* of the shrunk case */
} failure;

typedef struct fuzz {
  const options *o;
  const char *names[IFA_FUZZ_BACKENDS];
  int name_count;
  ifa_worker worker;
  uint64_t valid, invalid;
  int64_t counts[IFA_FUZZ_BACKENDS][IFA_FINDINGS];
  failure failures[MAX_FAILURES];
  int failure_count;
  double seconds;
} fuzz;

static ifa_status choose_backends(fuzz *f, ifa_message *message) {
  char *text = f->o->backends;
  if (!text)
    for (int i = 0; i < ifa_backend_count() && i < IFA_FUZZ_BACKENDS; i++)
      f->names[f->name_count++] = ifa_backend_name(i);
  for (char *save = NULL, *name = text ? strtok_r(text, ",", &save) : NULL; name;
       name = strtok_r(NULL, ",", &save)) {
    /* asking the backend itself might start a device in this process, and a device does not survive
     * a fork */
    int known = 0;
    for (int i = 0; i < ifa_backend_count(); i++) known |= strcmp(name, ifa_backend_name(i)) == 0;
    for (int i = 0; i < IFA_GPU_STEPS; i++) known |= strcmp(name, ifa_gpu_steps[i]->name) == 0;
    if (!known) return ifa_fail(message, IFA_BAD_ARGUMENT, "there is no backend '%.60s'", name);
    if (f->name_count == IFA_FUZZ_BACKENDS)
      return ifa_fail(message, IFA_BAD_ARGUMENT, "more than %d backends", IFA_FUZZ_BACKENDS);
    f->names[f->name_count++] = name;
  }
  return f->name_count ? IFA_OK : ifa_fail(message, IFA_BAD_ARGUMENT, "no backend is named");
}

typedef struct shrinking {
  fuzz *f;
  failure *found;
} shrinking;

static int still_fails(const ifa_case *c, void *context) {
  shrinking *s = context;
  ifa_fuzz_result result = {0};
  ifa_message why;
  if (ifa_worker_run(&s->f->worker, c, s->found->violation, &s->found->backend, 1, &result, &why) !=
          IFA_OK ||
      !ifa_is_failure(result.finding))
    return 0;
  s->found->result = result;
  return 1;
}

static void shrink(fuzz *f, failure *found) {
  shrinking s = {f, found};
  ifa_shrink(&found->shrunk, still_fails, &s, SHRINK_TRIALS, SHRINK_SECONDS);
}

static void command_of(const failure *x, char text[IFA_CASE_TEXT + 128]) {
  char shrunk[IFA_CASE_TEXT];
  ifa_case_print(&x->shrunk, shrunk);
  int plain = x->violation < 0 && (x->result.finding == IFA_FUZZ_MISMATCH);
  if (plain)
    snprintf(text, IFA_CASE_TEXT + 128, "validate run --backend %s --case \"%s\"", x->backend,
             shrunk);
  else if (x->violation < 0)
    snprintf(text, IFA_CASE_TEXT + 128, "validate fuzz --backend %s --case \"%s\"", x->backend,
             shrunk);
  else
    snprintf(text, IFA_CASE_TEXT + 128, "validate fuzz --backend %s --violation %s --case \"%s\"",
             x->backend, ifa_violation_at(x->violation)->name, shrunk);
}

static void print_failure(const failure *x) {
  char found[IFA_CASE_TEXT], command[IFA_CASE_TEXT + 128];
  ifa_case_print(&x->found, found);
  command_of(x, command);
  printf("FAILED  %s  %s%s%s\n  ", x->backend, ifa_finding_name(x->result.finding),
         x->violation >= 0 ? ", " : "",
         x->violation >= 0 ? ifa_violation_at(x->violation)->name : "");
  ifa_print_visible_line(stdout, "%s", x->result.text);
  printf("  found as case %" PRIu64 ": %s\n  repeat: %s\n", x->index, found, command);
  fflush(stdout);
}

static void show_progress(const fuzz *f, double start) {
  static double shown;
  if (!isatty(STDERR_FILENO) || ifa_now() - shown < 0.1) return;
  shown = ifa_now();
  fprintf(stderr, "\r\033[K%" PRIu64 " cases, %.0f s, %d failures ", f->valid + f->invalid,
          shown - start, f->failure_count);
  fflush(stderr);
}

static ifa_status run_one(fuzz *f, const ifa_case *c, int violation, uint64_t index,
                          ifa_message *message) {
  ifa_fuzz_result results[IFA_FUZZ_BACKENDS] = {{0}};
  char text[IFA_CASE_TEXT];
  ifa_message why;
  ifa_status status =
      ifa_worker_run(&f->worker, c, violation, f->names, f->name_count, results, &why);
  if (status != IFA_OK) {
    /* a valid case that cannot be made or that the oracle cannot do is a defect here or there */
    ifa_case_print(c, text);
    return ifa_fail(message, status, "case %" PRIu64 ": %s: %s", index, why.text, text);
  }
  if (violation < 0) f->valid++;
  else f->invalid++;
  for (int i = 0; i < f->name_count; i++) {
    f->counts[i][results[i].finding]++;
    if (!ifa_is_failure(results[i].finding) || f->failure_count == f->o->failures) continue;
    failure *x = &f->failures[f->failure_count++];
    *x = (failure){.backend = f->names[i],
                   .violation = violation,
                   .index = index,
                   .found = *c,
                   .shrunk = *c,
                   .result = results[i]};
    if (isatty(STDERR_FILENO))
      fprintf(stderr, "\r\033[Kcase %" PRIu64 " fails; making it smaller ", index);
    shrink(f, x);
    if (isatty(STDERR_FILENO)) fprintf(stderr, "\r\033[K");
    print_failure(x);
  }
  return IFA_OK;
}

static ifa_status run_all(fuzz *f, ifa_message *message) {
  const options *o = f->o;
  double start = ifa_now();
  ifa_status status = IFA_OK;
  ifa_case c;
  if (o->one_case) {
    status = ifa_case_parse(o->one_case, &c, message);
    if (status == IFA_OK) status = run_one(f, &c, o->violation, 0, message);
  }
  for (uint64_t i = 0; !o->one_case && status == IFA_OK && f->failure_count < o->failures; i++) {
    if (o->count_given && i == o->count) break;
    if ((!o->count_given || o->seconds_given) && ifa_now() - start > o->seconds) break;
    uint64_t index = o->first + i;
    c = ifa_fuzz_case(o->seed, index);
    int violation = index % INVALID_ONE_IN == INVALID_ONE_IN - 1
                        ? (int)(index / INVALID_ONE_IN % (uint64_t)ifa_violation_count())
                        : -1;
    status = run_one(f, &c, violation, index, message);
    show_progress(f, start);
  }
  if (isatty(STDERR_FILENO)) fprintf(stderr, "\r\033[K");
  f->seconds = ifa_now() - start;
  return status;
}

/* ---- results ---- */

static int exit_code(const fuzz *f) {
  int64_t executed = 0;
  if (f->failure_count) return EXIT_MISMATCH;
  for (int i = 0; i < f->name_count; i++)
    executed += f->counts[i][IFA_FUZZ_PASSED] + f->counts[i][IFA_FUZZ_REFUSED];
  return executed ? EXIT_AGREE : EXIT_NOTHING_RUN;
}

static void print_summary(const fuzz *f) {
  printf("seed %" PRIu64 ": %" PRIu64 " cases, %" PRIu64 " of them made invalid, %.1f s\n",
         f->o->seed, f->valid + f->invalid, f->invalid, f->seconds);
  for (int i = 0; i < f->name_count; i++) {
    printf("  %-12s", f->names[i]);
    for (int k = 0, printed = 0; k < IFA_FINDINGS; k++)
      if (f->counts[i][k])
        printf("%s%" PRId64 " %s", printed++ ? ", " : " ", f->counts[i][k],
               ifa_finding_name((ifa_finding)k));
    printf("\n");
  }
}

static json_t *failure_json(const failure *x) {
  char found[IFA_CASE_TEXT], shrunk[IFA_CASE_TEXT], command[IFA_CASE_TEXT + 128];
  ifa_case_print(&x->found, found);
  ifa_case_print(&x->shrunk, shrunk);
  command_of(x, command);
  json_t *json =
      json_pack("{s:s, s:s, s:I, s:o, s:s, s:s, s:s}", "backend", x->backend, "kind",
                ifa_finding_name(x->result.finding), "index", (json_int_t)x->index, "message",
                ifa_json_string(x->result.text), "found", found, "case", shrunk, "repeat", command);
  if (json && x->violation >= 0)
    json_object_set_new(json, "violation", json_string(ifa_violation_at(x->violation)->name));
  return json;
}

static ifa_status write_json(const fuzz *f, ifa_message *message) {
  json_t *json = ifa_json_head("fuzz"), *failures = json_array(), *backends = json_object();
  for (int i = 0; i < f->failure_count; i++)
    json_array_append_new(failures, failure_json(&f->failures[i]));
  for (int i = 0; i < f->name_count; i++) {
    json_t *counts = json_object();
    for (int k = 0; k < IFA_FINDINGS; k++)
      json_object_set_new(counts, ifa_finding_name((ifa_finding)k),
                          json_integer((json_int_t)f->counts[i][k]));
    json_object_set_new(backends, f->names[i], counts);
  }
  json_t *body = json_pack("{s:I, s:I, s:I, s:I, s:f, s:o, s:o}", "seed", (json_int_t)f->o->seed,
                           "first", (json_int_t)f->o->first, "valid", (json_int_t)f->valid,
                           "invalid", (json_int_t)f->invalid, "seconds", f->seconds, "backends",
                           backends, "failures", failures);
  ifa_status status = json && body && json_object_update(json, body) == 0
                          ? ifa_json_write(json, f->o->json, message)
                          : ifa_fail(message, IFA_OUT_OF_MEMORY, "no memory for the report");
  json_decref(body);
  json_decref(json);
  return status;
}

int cmd_fuzz(int argc, char **argv) {
  options o = {.seconds = 10, .time_limit = 20, .seed = 1, .failures = 1, .violation = -1};
  ifa_message why;
  if (argp_parse(&parser, argc, argv, 0, NULL, &o) != 0) return EXIT_BAD_USAGE;
  if (o.kernel) {
    ifa_fuzz_kernel own = {.kind = o.kind,
                           .text = o.kernel,
                           .claim = o.claim,
                           .timeout = o.time_limit,
                           .seconds = o.count_given && !o.seconds_given ? 0 : o.seconds,
                           .seed = o.seed,
                           .first = o.first,
                           .count = o.count,
                           .failures = o.failures,
                           .json = o.json};
    if (ifa_reports_prepare(&o.json, 1, &why) != IFA_OK) return complain("fuzz", "%s", why.text);
    return ifa_fuzz_kernel_run(&own);
  }
  fuzz *f = calloc(1, sizeof *f);
  if (!f) return complain("fuzz", "no memory");
  f->o = &o;
  f->worker.time_limit = o.time_limit;
  ifa_status status = choose_backends(f, &why);
  if (status == IFA_OK) status = ifa_reports_prepare(&o.json, 1, &why);
  if (status == IFA_OK) status = run_all(f, &why);
  ifa_worker_stop(&f->worker);
  int code = exit_code(f);
  if (status != IFA_OK) code = complain("fuzz", "%s", why.text);
  else print_summary(f);
  if (status == IFA_OK && o.json && write_json(f, &why) != IFA_OK) {
    complain("fuzz", "%s", why.text);
    if (code != EXIT_MISMATCH) code = EXIT_BAD_USAGE;
  }
  free(f);
  return code;
}
