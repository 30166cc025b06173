/* mutants.c - `validate mutants`: which suite notices which mistake. Every fault of
 * validate/mutants/catalogue.h (a kernel of the CPU) and of gpu/mutants/faults.h (the GPU's, where
 * there is one) is put into the kernel, and the kernel is run on a suite's cases, the cheapest
 * first, until its outputs differ from the oracle's. Outputs only, no stages: as for a kernel that
 * shows nothing else. docs/validate.md, section 10. */
#include <argp.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/fpenv.h"
#include "gpu/mutants/mutants.h"
#include "common/clock.h"
#include "common/team.h"
#include "validate/commands/commands.h"
#include "validate/judge/close.h"
#include "validate/mutants/flash.h"
#include "validate/reports/files.h"
#include "validate/mutants/kernel.h"
#include "validate/cases/suite.h"
#include "validate/text/number.h"
#include "validate/text/visible.h"

/* What must hold: a suite for every day kills most, all of them together kill all. */
enum { MAX_SUITES = 8, SMOKE_PERCENT = 90, MAX_REPEATS = 100 };

static const char *const standard_suites[] = {"smoke", "edge", "formats", "scales", "long", "real"};
static const char *const kernel_names[IFA_MUTANT_KERNELS] = {"cpu", "cuda-sm80", "cuda-sm90",
                                                             "flash-f16", "flash-fp8"};
/* the kernel without a fault; then its mutants */
static const int first_mutant[IFA_MUTANT_KERNELS + 1] = {IFA_MUTANT_none,      IFA_MUTANT_gpu_none,
                                                         IFA_MUTANT_sm90_none, IFA_MUTANT_f16_none,
                                                         IFA_MUTANT_fp8_none,  IFA_MUTANT_COUNT};

typedef struct options {
  const char *suites[MAX_SUITES], *json;
  char *shown[MAX_SUITES]; /* the suites' names, less a path's folders, made visible */
  char *only;
  int suite_count, list, verbose, quick, repeats;
  int wanted[IFA_MUTANT_KERNELS];
} options;

static const struct argp_option option_list[] = {
    {"suite", 's', "NAME|FILE", 0,
     "a suite to try; may be repeated (default: smoke, edge, formats, scales, long, real)", 0},
    {"only", 'o', "A,B", 0, "these mutants only", 0},
    {"kernel", 'k', "NAME", 0,
     "cpu, cuda-sm80, cuda-sm90, flash-f16, flash-fp8 or all (default): faults of this kernel", 0},
    {"repeat", 'r', "N", 0, "a case is run up to N times where a fault is a race (default 3)", 0},
    {"quick", 'q', NULL, 0,
     "a suite tries only the mutants that no suite before it has killed; those proved equivalent, "
     "the first",
     0},
    {"list", 'l', NULL, 0, "print the mutants and do nothing else", 0},
    {"verbose", 'v', NULL, 0,
     "for each mutant what is wrong in it, and the first case that kills it", 0},
    {"json", 'j', "FILE", 0, "write a JSON report", 0},
    {0}};

static int want_kernel(options *o, const char *name) {
  int found = 0;
  for (int k = 0; k < IFA_MUTANT_KERNELS; k++)
    found += o->wanted[k] = strcmp(name, "all") == 0 || strcmp(name, kernel_names[k]) == 0;
  return found;
}

static error_t parse(int key, char *value, struct argp_state *state) {
  options *o = state->input;
  switch (key) {
    case 's':
      if (o->suite_count == MAX_SUITES) refuse(state, "more than %d suites", MAX_SUITES);
      o->suites[o->suite_count++] = value;
      return 0;
    case 'o': o->only = value; return 0;
    case 'k':
      if (!want_kernel(o, value))
        refuse(state,
               "there is no kernel '%s': cpu, cuda-sm80, cuda-sm90, flash-f16, flash-fp8 or all",
               value);
      return 0;
    case 'r':
      if (!ifa_read_int(value, 1, MAX_REPEATS, &o->repeats))
        refuse(state, "--repeat %s is not a number in 1 .. %d", value, MAX_REPEATS);
      return 0;
    case 'l': o->list = 1; return 0;
    case 'v': o->verbose = 1; return 0;
    case 'q': o->quick = 1; return 0;
    case 'j': o->json = value; return 0;
    case ARGP_KEY_ARG: refuse(state, "unexpected argument '%s'", value); return 0;
    default: return ARGP_ERR_UNKNOWN;
  }
}

static const struct argp parser = {
    option_list,
    parse,
    "",
    "Puts faults into an attention kernel, one at a time, and prints which suite notices which: a "
    "measure of the suites. A kernel of the CPU, and the GPU's "
    "where there are any.\v"
    "Exit codes: 0 of each kernel's mutants smoke kills at least 90% and all suites together kill "
    "every one (of those that are chosen); 1 otherwise, or if a "
    "kernel without a fault differs from the oracle, or a mutant that was proved equivalent is "
    "killed; 2 bad usage or input; 3 no kernel that is chosen is "
    "available. A kernel that is not available is named and changes nothing else.",
    NULL,
    NULL,
    NULL};

/* ---- the mutants ---- */

enum { NOT_KILLED = INT32_MAX, NOT_TRIED = -1 };

typedef struct subject {
  int chosen;
  ifa_mutant *kernel; /* of the CPU */
  /* number of the case, in the order of trying, or NOT_KILLED, NOT_TRIED */
  int killer[MAX_SUITES];
} subject;

/* Attention in floats is judged by a bound: what cannot be seen there is not equivalent, but small.
 */
static int is_flash(int k) { return k == IFA_MUTANT_FLASH_F16 || k == IFA_MUTANT_FLASH_FP8; }
static const char *unseen_because(int k) {
  return is_flash(k) ? "smaller than rounding" : "proved equivalent";
}
static const char *unseen(int k) { return is_flash(k) ? "too small" : "equivalent"; }

static int is_killed_by(const subject *m, int suite) {
  return m->killer[suite] != NOT_KILLED && m->killer[suite] != NOT_TRIED;
}

/* Not a kernel without a fault, nor a fault that has no place in its kernel (its proof is ""). */
static int is_mutant(int number) {
  const ifa_mutant_entry *e = &ifa_mutant_entries[number];
  return *e->part && !(e->proof && !*e->proof);
}

/* A mutant's name as it is printed. */
static const char *name_of(int number, char text[64]) {
  snprintf(text, 64, "%s", ifa_mutant_entries[number].name);
  for (char *at = text; *at; at++)
    if (*at == '_') *at = '-';
  return text;
}

static int find_mutant(const char *name) {
  char text[64];
  for (int i = 1; i < IFA_MUTANT_COUNT; i++)
    if (is_mutant(i) && strcmp(name, name_of(i, text)) == 0) return i;
  return 0;
}

/* A kernel is chosen if one of its mutants is; then the one without a fault goes with them. */
static ifa_status choose(const options *o, subject *subjects, ifa_message *message) {
  for (int i = 0; i < IFA_MUTANT_COUNT; i++)
    subjects[i].chosen = !o->only && o->wanted[ifa_mutant_entries[i].kernel] &&
                         (is_mutant(i) || !*ifa_mutant_entries[i].part);
  for (char *save = NULL, *name = o->only ? strtok_r(o->only, ",", &save) : NULL; name;
       name = strtok_r(NULL, ",", &save)) {
    int i = find_mutant(name);
    if (i == 0)
      return ifa_fail(message, IFA_BAD_ARGUMENT, "there is no mutant '%.60s'; --list shows them",
                      name);
    ifa_mutant_kernel k = ifa_mutant_entries[i].kernel;
    if (!o->wanted[k])
      return ifa_fail(message, IFA_BAD_ARGUMENT, "'%.60s' is a mutant of %s", name,
                      kernel_names[k]);
    subjects[i].chosen = subjects[first_mutant[k]].chosen = 1;
  }
  for (int i = 0; i < IFA_MUTANT_gpu_none; i++)
    if (subjects[i].chosen && !(subjects[i].kernel = ifa_mutant_new((ifa_mutant_number)i)))
      return ifa_fail(message, IFA_OUT_OF_MEMORY, "no memory for a kernel");
  return IFA_OK;
}

static void list_mutants(const options *o) {
  char text[64];
  const char *part = "";
  for (int i = 1; i < IFA_MUTANT_COUNT; i++) {
    const ifa_mutant_entry *e = &ifa_mutant_entries[i];
    if (!is_mutant(i) || !o->wanted[e->kernel]) continue;
    if (strcmp(part, e->part) != 0)
      printf("%s%s: %s\n", *part ? "\n" : "", kernel_names[e->kernel], e->part);
    part = e->part;
    printf("  %-30s %s\n", name_of(i, text), e->what);
    if (e->proof) printf("  %-30s %s: %s\n", "", unseen(e->kernel), e->proof);
  }
}

/* ---- a suite's cases, the cheapest first ---- */

typedef struct trial {
  ifa_case c;
  double work;
  size_t number;
} trial;

typedef struct trial_list {
  trial *trials;
  size_t count, unsupported[IFA_MUTANT_KERNELS]; /* cases that a kernel was not built for */
} trial_list;

static double work_of(const ifa_case *c) {
  const ifa_problem *p = &c->problem;
  double rows = (double)p->batch * (double)p->q_heads * (double)p->nq,
         keys = (double)p->batch * (double)p->kv_heads * (double)p->nk;
  if (c->input[0]) rows = 1e4, keys = 1e4; /* after what is made up */
  double computed = c->rows && (double)c->rows < rows ? (double)c->rows : rows;
  return (computed * (double)p->nk + 8 * (rows + keys)) * p->head_dim;
}

static int compare_work(const void *a, const void *b) {
  const trial *x = a, *y = b;
  if (x->work != y->work) return x->work < y->work ? -1 : 1;
  return x->number < y->number ? -1 : 1;
}

static ifa_status make_trials(const char *suite, trial_list *list, ifa_message *message) {
  ifa_case_list cases = {0};
  ifa_case base = ifa_case_default();
  *list = (trial_list){0};
  ifa_status status = ifa_case_list_add_suite(&cases, suite, &base, message);
  if (status == IFA_OK && !(list->trials = calloc(cases.count + 1, sizeof *list->trials)))
    status = ifa_fail(message, IFA_OUT_OF_MEMORY, "no memory for %s", suite);
  for (size_t i = 0; status == IFA_OK && i < cases.count; i++)
    list->trials[i] = (trial){cases.cases[i], work_of(&cases.cases[i]), i};
  if (status == IFA_OK) {
    list->count = cases.count;
    qsort(list->trials, list->count, sizeof *list->trials, compare_work);
  }
  ifa_case_list_free(&cases);
  return status;
}

/* ---- one case ---- */

/* Does the kernel, or the case on the GPU with a fault, give anything but the oracle's bits? A
 * device that is lost: IFA_NOT_AVAILABLE. */
static ifa_status run_once(const ifa_data *d, const ifa_run_buffers *expected,
                           const ifa_mutant *kernel, ifa_gpu_case *gpu, ifa_gpu_fault fault,
                           int *differs, ifa_message *why) {
  ifa_run_buffers got;
  ifa_outcome outcome = {0};
  ifa_inputs in = ifa_data_inputs(d);
  ifa_status status = ifa_run_buffers_make(d, IFA_STAGES_NONE, IFA_BACKEND_POISON, &got, why);
  if (status == IFA_OK) {
    ifa_outputs out = ifa_run_buffers_outputs(&got);
    status = gpu ? ifa_gpu_mutant_run(gpu, fault, IFA_BACKEND_POISON, &out, why)
                 : ifa_mutant_run(kernel, &d->p, &in, &out, why);
  }
  if (status == IFA_OK) status = ifa_run_buffers_check(d, &got, why);
  if (status == IFA_OK) ifa_compare_buffers(d, expected, &got, &outcome);
  ifa_run_buffers_free(&got);
  *differs = status == IFA_BAD_DATA || outcome.verdict == IFA_FAILED;
  return *differs ? IFA_OK : status;
}

/* One suite's run. Cases run in several threads; a killer only ever becomes smaller, so that the
 * first case that kills does not depend on them. */
typedef struct search {
  const char *suite;
  int s, quick, repeats;
  subject *subjects;
  trial_list *list;
} search;

static int is_wanted(const search *at, int mutant, int number) {
  int killer;
  if (!at->subjects[mutant].chosen) return 0;
#pragma omp atomic read
  killer = at->subjects[mutant].killer[at->s];
  return killer >= number;
}

static void note_killer(const search *at, int mutant, int number) {
#pragma omp critical(ifa_mutants)
  if (number < at->subjects[mutant].killer[at->s]) {
#pragma omp atomic write
    at->subjects[mutant].killer[at->s] = number;
  }
}

static ifa_status try_mutants(const search *at, const ifa_data *d, const ifa_run_buffers *expected,
                              ifa_mutant_kernel k, ifa_gpu_case *gpu, int number,
                              ifa_message *message) {
  ifa_status status = IFA_OK;
  for (int i = first_mutant[k]; status == IFA_OK && i < first_mutant[k + 1]; i++) {
    int differs = 0, repeats = ifa_mutant_entries[i].race ? at->repeats : 1;
    if (!is_wanted(at, i, number)) continue;
    for (int n = 0; status == IFA_OK && n < repeats && !differs; n++) {
      ifa_message why = {""};
      char name[64];
      status = run_once(d, expected, at->subjects[i].kernel, gpu,
                        gpu ? ifa_gpu_fault_of(i) : IFA_GPU_FAULT_none, &differs, &why);
      if (status != IFA_OK)
        ifa_fail(message, status, "%s, %s: %.200s", kernel_names[k], name_of(i, name), why.text);
    }
    if (differs) note_killer(at, i, number);
  }
  return status;
}

/* One thread at a time has the device. */
static ifa_status try_gpu_mutants(const search *at, const ifa_data *d,
                                  const ifa_run_buffers *expected, ifa_mutant_kernel k, int number,
                                  ifa_message *message) {
  const ifa_gpu_mutant_kernel kernel =
      k == IFA_MUTANT_CUDA_SM90 ? IFA_GPU_MUTANT_SM90 : IFA_GPU_MUTANT_SM80;
  ifa_status status = IFA_OK;
#pragma omp critical(ifa_mutants_device)
  {
    ifa_gpu_case *gpu = NULL;
    ifa_inputs in = ifa_data_inputs(d);
    status = ifa_gpu_mutants_support(kernel, &d->p, message);
    if (status == IFA_OK) status = ifa_gpu_case_make(kernel, &d->p, &in, &gpu, message);
    if (status == IFA_OK) status = try_mutants(at, d, expected, k, gpu, number, message);
    ifa_gpu_case_free(gpu);
    if (status == IFA_UNSUPPORTED) at->list->unsupported[k]++;
  }
  return status == IFA_UNSUPPORTED ? IFA_OK : status;
}

/* Of attention in floats, whose right answer costs as much as a mutant: the kernel without a fault
 * is reason enough for a case, except in a quick run. */
static int is_any_wanted(const search *at, ifa_mutant_kernel k, int number) {
  for (int i = first_mutant[k] + at->quick; i < first_mutant[k + 1]; i++)
    if (is_wanted(at, i, number)) return 1;
  return 0;
}

/* Attention in floats is held against its claim's bound, as a stranger's kernel is. */
static ifa_status try_flash_mutants(const search *at, const ifa_data *d, ifa_mutant_kernel k,
                                    int number, ifa_message *message) {
  ifa_flash flash = k == IFA_MUTANT_FLASH_F16 ? ifa_flash_f16 : ifa_flash_fp8;
  ifa_claim claim;
  ifa_close *expected = NULL;
  if (!is_any_wanted(at, k, number)) return IFA_OK;
  ifa_status status = ifa_claim_parse(flash.claim, &claim, message);
  if (status == IFA_OK) status = ifa_close_make(d, &claim, &expected, message);
  for (int i = first_mutant[k]; status == IFA_OK && i < first_mutant[k + 1]; i++) {
    ifa_run_buffers got;
    ifa_outcome outcome = {0};
    if (!is_wanted(at, i, number)) continue;
    flash.fault = (ifa_flash_fault)(i - first_mutant[k]);
    status = ifa_run_buffers_make(d, IFA_STAGES_NONE, IFA_BACKEND_POISON, &got, message);
    if (status == IFA_OK) {
      ifa_outputs out = ifa_run_buffers_outputs(&got);
      status = ifa_flash_run(&flash, d, &out, message);
    }
    if (status == IFA_OK) ifa_close_judge(expected, &got, &outcome);
    ifa_run_buffers_free(&got);
    if (outcome.verdict == IFA_FAILED) note_killer(at, i, number);
    if (outcome.verdict != IFA_NOT_SUPPORTED) continue;
#pragma omp atomic
    at->list->unsupported[k]++; /* its floats are too large for the claim's formats */
    break;
  }
  ifa_close_free(expected);
  return status;
}

/* Runs case `number` with every mutant that no earlier case has killed. */
static ifa_status try_case(const search *at, int number, ifa_message *message) {
  ifa_data data;
  ifa_run_buffers expected = {0};
  ifa_fpenv env;
  ifa_fpenv_enter(&env);
  ifa_status status = ifa_data_make(&at->list->trials[number].c, &data, message);
  if (status == IFA_OK)
    status = ifa_run_buffers_make(&data, IFA_STAGES_NONE, IFA_ORACLE_POISON, &expected, message);
  if (status == IFA_OK) {
    ifa_inputs in = ifa_data_inputs(&data);
    ifa_outputs out = ifa_run_buffers_outputs(&expected);
    status = ifa_run("scalar", &data.p, &in, &out, message);
  }
  if (status == IFA_OK)
    status = try_mutants(at, &data, &expected, IFA_MUTANT_CPU, NULL, number, message);
  for (int k = IFA_MUTANT_CUDA_SM80; k <= IFA_MUTANT_CUDA_SM90 && status == IFA_OK; k++)
    if (at->subjects[first_mutant[k]].chosen)
      status = try_gpu_mutants(at, &data, &expected, (ifa_mutant_kernel)k, number, message);
  for (int k = IFA_MUTANT_FLASH_F16; k <= IFA_MUTANT_FLASH_FP8 && status == IFA_OK; k++)
    status = try_flash_mutants(at, &data, (ifa_mutant_kernel)k, number, message);
  ifa_run_buffers_free(&expected);
  ifa_data_free(&data);
  ifa_fpenv_leave(&env);
  return status;
}

static void show_progress(const char *suite, size_t done, size_t total) {
  if (!isatty(STDERR_FILENO)) return;
  if (done == total) fprintf(stderr, "\r\033[K");
  else fprintf(stderr, "\r\033[K%s: %zu of %zu cases ", suite, done, total);
  fflush(stderr);
}

static ifa_status try_suite(const search *at, ifa_message *message) {
  ifa_status first = IFA_OK;
  size_t done = 0;
  for (int i = 0; i < IFA_MUTANT_COUNT; i++) {
    at->subjects[i].killer[at->s] = NOT_KILLED;
    for (int before = 0; before < at->s && at->quick; before++)
      if (is_killed_by(&at->subjects[i], before) || ifa_mutant_entries[i].proof)
        at->subjects[i].killer[at->s] = NOT_TRIED;
  }
#pragma omp parallel for schedule(dynamic, 1) num_threads(ifa_team_default())
  for (size_t i = 0; i < at->list->count; i++) {
    ifa_message why = {""};
    int lost;
#pragma omp atomic read
    lost = first;
    if (lost != IFA_OK) continue;
    ifa_status status = try_case(at, (int)i, &why);
#pragma omp critical(ifa_mutants)
    {
      if (status != IFA_OK && first == IFA_OK) {
#pragma omp atomic write
        first = status;
        ifa_fail(message, status, "%.40s: %.240s", at->suite, why.text);
      }
      show_progress(at->suite, ++done, at->list->count);
    }
  }
  return first;
}

/* ---- results ---- */

typedef struct results {
  const options *o;
  subject *subjects;
  trial_list lists[MAX_SUITES];
  ifa_message absent[IFA_MUTANT_KERNELS]; /* why a chosen kernel was not run, or "" */
  double seconds;
} results;

/* The first suite, in the order of the command line, that kills the mutant; -1: none. */
static int first_suite(const results *r, int mutant) {
  for (int s = 0; s < r->o->suite_count; s++)
    if (is_killed_by(&r->subjects[mutant], s)) return s;
  return -1;
}

static const ifa_case *killing_case(const results *r, int mutant, int suite) {
  return &r->lists[suite].trials[r->subjects[mutant].killer[suite]].c;
}

/* Kernel k's mutants are the numbers after first_mutant[k]. */
static int has_run(const results *r, int k) { return r->subjects[first_mutant[k]].chosen; }

/* Of a kernel's chosen mutants that are not equivalent: how many were tried by the suite, and how
 * many it kills (suite -1: by any). */
static void count_kills(const results *r, int k, int suite, int *killed, int *all) {
  *killed = *all = 0;
  for (int i = first_mutant[k] + 1; i < first_mutant[k + 1]; i++) {
    if (!r->subjects[i].chosen || ifa_mutant_entries[i].proof) continue;
    *all += suite < 0 || r->subjects[i].killer[suite] != NOT_TRIED;
    *killed += suite < 0 ? first_suite(r, i) >= 0 : is_killed_by(&r->subjects[i], suite);
  }
}

static void print_mutant(const results *r, int i) {
  char text[IFA_CASE_TEXT], name[64];
  const ifa_mutant_entry *e = &ifa_mutant_entries[i];
  int first = first_suite(r, i);
  printf("%-31s", name_of(i, name));
  for (int s = 0; s < r->o->suite_count; s++)
    printf(" %8s", is_killed_by(&r->subjects[i], s)        ? "killed"
                   : r->subjects[i].killer[s] == NOT_TRIED ? "."
                                                           : "-");
  printf("%s%s%s\n", e->proof || first < 0 ? "  " : "",
         e->proof    ? unseen(e->kernel)
         : first < 0 ? "SURVIVES"
                     : "",
         e->proof && first >= 0 ? ", BUT KILLED" : "");
  if (!r->o->verbose) return;
  printf("    %s\n", e->what);
  if (e->proof) printf("    %s: %s\n", unseen(e->kernel), e->proof);
  if (first < 0) return;
  ifa_case_print(killing_case(r, i, first), text);
  printf("    %s: %s\n", r->o->shown[first], text);
}

/* Cases that were not run because the kernel with faults is not built for them. */
static size_t count_unsupported(const results *r, int k, size_t *cases) {
  size_t unsupported = *cases = 0;
  for (int s = 0; s < r->o->suite_count; s++)
    unsupported += r->lists[s].unsupported[k], *cases += r->lists[s].count;
  return unsupported;
}

static void print_table(const results *r, int k) {
  int killed, all, equivalent = 0;
  size_t cases, unsupported = count_unsupported(r, k, &cases);
  printf("%-31s", kernel_names[k]);
  for (int s = 0; s < r->o->suite_count; s++)
    printf(" %8.*s", (int)ifa_utf8_cut(r->o->shown[s], 8), r->o->shown[s]);
  printf("\n");
  for (int i = first_mutant[k] + 1; i < first_mutant[k + 1]; i++)
    if (r->subjects[i].chosen) {
      print_mutant(r, i);
      equivalent += ifa_mutant_entries[i].proof != NULL;
    }
  printf("\n%-31s", "killed");
  for (int s = 0; s < r->o->suite_count; s++) {
    count_kills(r, k, s, &killed, &all);
    printf(" %8d", killed);
  }
  count_kills(r, k, -1, &killed, &all);
  printf("\n\n%s: %d of %d mutants killed", kernel_names[k], killed, all);
  if (equivalent) printf(", %d more %s", equivalent, unseen_because(k));
  if (unsupported)
    printf("; %zu of %zu cases not run: %s", unsupported, cases,
           is_flash(k) ? "the claim's formats cannot hold them"
                       : "this kernel is not built for them");
  printf("\n\n");
}

/* The rates that are wanted, each said where it does not hold. Returns the exit code. */
static int judge(const results *r, int k) {
  int code = EXIT_AGREE, killed, all;
  char text[IFA_CASE_TEXT], name[64];
  int wrong = first_suite(r, first_mutant[k]);
  if (wrong >= 0) {
    ifa_case_print(killing_case(r, first_mutant[k], wrong), text);
    printf("FAILED  %s: the kernel without a fault %s: %s\n", kernel_names[k],
           is_flash(k) ? "is outside its bound" : "differs from the oracle", text);
    code = EXIT_MISMATCH;
  }
  for (int i = first_mutant[k] + 1; i < first_mutant[k + 1]; i++)
    if (r->subjects[i].chosen &&
        (ifa_mutant_entries[i].proof != NULL) == (first_suite(r, i) >= 0)) {
      if (ifa_mutant_entries[i].proof)
        printf("FAILED  %s was %s, but is killed\n", name_of(i, name), unseen_because(k));
      else printf("FAILED  %s survives: a defect of the suites\n", name_of(i, name));
      code = EXIT_MISMATCH;
    }
  for (int s = 0; s < r->o->suite_count && !r->o->only; s++) {
    count_kills(r, k, s, &killed, &all);
    if (strcmp(r->o->suites[s], "smoke") != 0 || 100 * killed >= SMOKE_PERCENT * all) continue;
    printf("FAILED  %s: smoke kills %d of %d mutants; %d%% are wanted\n", kernel_names[k], killed,
           all, SMOKE_PERCENT);
    code = EXIT_MISMATCH;
  }
  return code;
}

/* Prints everything; the exit code. */
static int report(const results *r) {
  int code = EXIT_AGREE, ran = 0;
  for (int k = 0; k < IFA_MUTANT_KERNELS; k++) {
    /* which begins with its name */
    if (r->absent[k].text[0]) printf("not available: %s\n", r->absent[k].text);
    if (!has_run(r, k)) continue;
    ran = 1;
    print_table(r, k);
    int one = judge(r, k);
    if (one != EXIT_AGREE) code = one;
  }
  if (!ran) return EXIT_NOTHING_RUN;
  printf("%.1f s\n", r->seconds);
  return code;
}

static json_t *mutant_json(const results *r, int i) {
  char text[IFA_CASE_TEXT], name[64];
  const ifa_mutant_entry *e = &ifa_mutant_entries[i];
  json_t *suites = json_object(), *not_tried = json_array();
  for (int s = 0; s < r->o->suite_count; s++) {
    if (!is_killed_by(&r->subjects[i], s)) {
      if (r->subjects[i].killer[s] == NOT_TRIED) {
        json_array_append_new(not_tried, json_string(r->o->shown[s]));
        continue;
      }
      json_object_set_new(suites, r->o->shown[s], json_null());
      continue;
    }
    ifa_case_print(killing_case(r, i, s), text);
    json_object_set_new(suites, r->o->shown[s], json_string(text));
  }
  json_t *json = json_pack("{s:s, s:s, s:s, s:s, s:b, s:b, s:o, s:o}", "kernel",
                           kernel_names[e->kernel], "name", name_of(i, name), "part", e->part,
                           "what", e->what, "killed", first_suite(r, i) >= 0, "equivalent",
                           e->proof != NULL, "killed_by", suites, "not_tried", not_tried);
  if (e->proof) json_object_set_new(json, "proof", json_string(e->proof));
  return json;
}

static json_t *kernel_json(const results *r, int k) {
  int killed, all;
  size_t cases, unsupported = count_unsupported(r, k, &cases);
  if (!has_run(r, k)) return json_pack("{s:b, s:s}", "available", 0, "message", r->absent[k].text);
  count_kills(r, k, -1, &killed, &all);
  return json_pack("{s:b, s:i, s:i, s:I, s:I}", "available", 1, "mutants_that_count", all, "killed",
                   killed, "cases", (json_int_t)cases, "cases_not_run", (json_int_t)unsupported);
}

static ifa_status write_json(const results *r, int code, ifa_message *message) {
  json_t *mutants = json_array(), *suites = json_object(), *kernels = json_object();
  int killed = 0, all = 0, one, of;
  for (int i = 1; i < IFA_MUTANT_COUNT; i++)
    if (r->subjects[i].chosen && is_mutant(i)) json_array_append_new(mutants, mutant_json(r, i));
  for (int s = 0; s < r->o->suite_count; s++) {
    int by_suite = 0, tried = 0;
    for (int k = 0; k < IFA_MUTANT_KERNELS; k++)
      count_kills(r, k, s, &one, &of), by_suite += one, tried += of;
    json_object_set_new(suites, r->o->shown[s],
                        json_pack("{s:I, s:i, s:i}", "cases", (json_int_t)r->lists[s].count,
                                  "tried", tried, "killed", by_suite));
  }
  for (int k = 0; k < IFA_MUTANT_KERNELS; k++) {
    count_kills(r, k, -1, &one, &of);
    killed += one, all += of;
    if (has_run(r, k) || r->absent[k].text[0])
      json_object_set_new(kernels, kernel_names[k], kernel_json(r, k));
  }
  json_t *json = ifa_json_head("mutants");
  if (json && json_object_update_new(json, json_pack("{s:b, s:o, s:i, s:i, s:o, s:o}", "passed",
                                                     code == EXIT_AGREE, "kernels", kernels,
                                                     "mutants_that_count", all, "killed", killed,
                                                     "suites", suites, "mutants", mutants)) != 0) {
    json_decref(json);
    json = NULL;
  }
  ifa_status status = ifa_json_write(json, r->o->json, message);
  json_decref(json);
  return status;
}

/* Without a device none of the GPU's mutants is chosen. */
static void leave_out_absent(results *r) {
  static const ifa_gpu_mutant_kernel kernels[] = {
      [IFA_MUTANT_CUDA_SM80] = IFA_GPU_MUTANT_SM80, [IFA_MUTANT_CUDA_SM90] = IFA_GPU_MUTANT_SM90};
  for (int k = IFA_MUTANT_CUDA_SM80; k <= IFA_MUTANT_CUDA_SM90; k++) {
    if (!has_run(r, k) || ifa_gpu_mutants_support(kernels[k], NULL, &r->absent[k]) == IFA_OK)
      continue;
    for (int i = first_mutant[k]; i < first_mutant[k + 1]; i++) r->subjects[i].chosen = 0;
  }
}

static ifa_status run_all(results *r, ifa_message *message) {
  double start = ifa_now();
  ifa_status status = choose(r->o, r->subjects, message);
  if (status == IFA_OK) leave_out_absent(r);
  int chosen = 0;
  for (int k = 0; k < IFA_MUTANT_KERNELS; k++) chosen += has_run(r, k);
  if (chosen == 0) return status;
  for (int s = 0; s < r->o->suite_count && status == IFA_OK; s++) {
    search at = {r->o->suites[s], s, r->o->quick, r->o->repeats, r->subjects, &r->lists[s]};
    status = make_trials(r->o->suites[s], &r->lists[s], message);
    if (status == IFA_OK) status = try_suite(&at, message);
  }
  r->seconds = ifa_now() - start;
  return status;
}

int cmd_mutants(int argc, char **argv) {
  options o = {.repeats = 3, .wanted = {1, 1, 1, 1, 1}};
  ifa_message why;
  if (argp_parse(&parser, argc, argv, 0, NULL, &o) != 0) return EXIT_BAD_USAGE;
  if (o.list) {
    list_mutants(&o);
    return EXIT_AGREE;
  }
  if (ifa_reports_prepare(&o.json, 1, &why) != IFA_OK) return complain("mutants", "%s", why.text);
  if (o.suite_count == 0)
    for (size_t i = 0; i < sizeof standard_suites / sizeof standard_suites[0]; i++)
      o.suites[o.suite_count++] = standard_suites[i];
  for (int s = 0; s < o.suite_count; s++) {
    const char *slash = strrchr(o.suites[s], '/');
    if (!(o.shown[s] = ifa_visible(slash ? slash + 1 : o.suites[s])))
      return complain("mutants", "no memory");
  }
  results r = {.o = &o, .subjects = calloc(IFA_MUTANT_COUNT, sizeof *r.subjects)};
  if (!r.subjects) return complain("mutants", "no memory");
  int code;
  if (run_all(&r, &why) == IFA_OK) {
    code = report(&r);
    if (o.json && write_json(&r, code, &why) != IFA_OK) {
      complain("mutants", "%s", why.text);
      if (code == EXIT_AGREE) code = EXIT_BAD_USAGE;
    }
  } else {
    code = complain("mutants", "%s", why.text);
  }
  for (int i = 0; i < IFA_MUTANT_COUNT; i++) ifa_mutant_free(r.subjects[i].kernel);
  for (int s = 0; s < o.suite_count; s++) free(r.lists[s].trials), free(o.shown[s]);
  free(r.subjects);
  return code;
}
