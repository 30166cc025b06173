#include "validate/commands/diagnose.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "validate/diagnosis/shared.h"
#include "validate/diagnosis/suspects.h"
#include "validate/fuzz/shrink.h"
#include "validate/kernels/trial.h"

/* How long it may take: of shrinking, and of the cases that are looked at for hypotheses, their
 * number and size (scores times head_dim). */
enum { SHRINK_TRIALS = 300, SHRINK_SECONDS = 8, EVIDENCE = 5 };
static const double EVIDENCE_WORK = 1 << 22;

void ifa_float_problem(const ifa_case *c, char text[IFA_CASE_TEXT]) {
  ifa_case plain = ifa_case_default(), same = *c;
  ifa_problem *p = &same.problem;
  if (!ifa_fill_draws_operands(c->fill)) {
    p->q_type = p->k_type = p->v_type = plain.problem.q_type;
    p->q_scale = plain.problem.q_scale;
    p->k_scale = plain.problem.k_scale;
    p->v_scale = plain.problem.v_scale;
    p->q_block = plain.problem.q_block;
    p->k_block = plain.problem.k_block;
    p->tau = plain.problem.tau;
    p->kv_split = plain.problem.kv_split;
    p->kv_tile = plain.problem.kv_tile;
    same.smooth = plain.smooth;
  }
  ifa_case_print(&same, text);
}

/* ---- one kernel on one case ---- */

typedef struct subject {
  ifa_kernel *kernel; /* or NULL and a backend's name */
  const char *backend;
  ifa_verdict looked_for;
  ifa_outcome outcome; /* of the last case that failed so */
} subject;

static ifa_status run_subject(const subject *s, const ifa_data *d, ifa_run_buffers *b,
                              ifa_verdict *verdict, ifa_message *why) {
  double seconds;
  if (s->kernel) return ifa_kernel_run(s->kernel, d, b, verdict, &seconds, why);
  ifa_inputs in = ifa_data_inputs(d);
  ifa_outputs out = ifa_run_buffers_outputs(b);
  *verdict = ifa_run(s->backend, &d->p, &in, &out, why) == IFA_OK ? IFA_PASSED : IFA_FAILED;
  return IFA_OK;
}

static ifa_status judge_subject(const subject *s, const ifa_data *d, ifa_outcome *o) {
  ifa_expected *expected = NULL;
  ifa_message why;
  if (s->kernel) return ifa_trial_once(s->kernel, d, o, &why);
  ifa_status status = ifa_expected_make(d, &expected, &why);
  if (status == IFA_OK) ifa_compare(d, expected, s->backend, o);
  ifa_expected_free(expected);
  return status;
}

static int still_fails(const ifa_case *c, void *context) {
  subject *s = context;
  ifa_data d;
  ifa_outcome o = {0};
  ifa_message why;
  int fails = ifa_data_make(c, &d, &why) == IFA_OK && judge_subject(s, &d, &o) == IFA_OK &&
              o.verdict == s->looked_for;
  ifa_data_free(&d);
  if (fails) s->outcome = o;
  return fails;
}

/* ---- choosing cases ---- */

typedef struct failing {
  ifa_case c;
  ifa_verdict verdict;
  double work;
} failing;

typedef struct history {
  ifa_seen *seen;
  failing *failed;
  size_t count, failures;
} history;

static double work_of(const ifa_case *c) {
  const ifa_problem *p = &c->problem;
  double rows = (double)p->batch * (double)p->q_heads * (double)p->nq,
         keys = (double)p->batch * (double)p->kv_heads * (double)p->nk;
  if (c->input[0]) return 1e18; /* its sizes are the file's: after what is made up */
  if (c->rows && (double)c->rows < rows) rows = (double)c->rows;
  return (rows * (double)p->nk + rows + keys) * p->head_dim;
}

static int by_work(const void *a, const void *b) {
  double x = ((const failing *)a)->work, y = ((const failing *)b)->work;
  return (x > y) - (x < y);
}

/* The kernel's cases that were executed, those that failed also by size. */
static ifa_status look_back(const ifa_report *report, const char *name, history *h,
                            ifa_message *message) {
  h->seen = calloc(report->count + 1, sizeof *h->seen);
  h->failed = calloc(report->count + 1, sizeof *h->failed);
  if (!h->seen || !h->failed)
    return ifa_fail(message, IFA_OUT_OF_MEMORY, "no memory for a diagnosis");
  for (size_t i = 0; i < report->count; i++) {
    const ifa_result *r = &report->results[i];
    int failed = ifa_verdict_is_failure(r->outcome.verdict);
    ifa_case c;
    if (strcmp(r->backend, name) != 0 || (!failed && r->outcome.verdict != IFA_PASSED) ||
        ifa_case_parse(r->text, &c, NULL) != IFA_OK)
      continue;
    h->seen[h->count++] = (ifa_seen){c, failed};
    if (failed) h->failed[h->failures++] = (failing){c, r->outcome.verdict, work_of(&c)};
  }
  qsort(h->failed, h->failures, sizeof *h->failed, by_work);
  return IFA_OK;
}

/* To a kernel of floats: how many different problems fail. */
static int64_t count_problems(const history *h) {
  char *texts = malloc(h->failures * IFA_CASE_TEXT);
  int64_t count = 0;
  for (size_t i = 0; texts && i < h->failures; i++) {
    char *text = texts + count * IFA_CASE_TEXT;
    int known = 0;
    ifa_float_problem(&h->failed[i].c, text);
    for (int64_t k = 0; k < count && !known; k++)
      known = strcmp(texts + k * IFA_CASE_TEXT, text) == 0;
    count += !known;
  }
  free(texts);
  return count;
}

/* ---- what the values look like ---- */

/* The smallest case, and others that fail, small enough: from all over the list. */
static int choose_evidence(const history *h, const ifa_case *smallest, ifa_case cases[EVIDENCE]) {
  size_t affordable = 0;
  int count = 0;
  cases[count++] = *smallest;
  while (affordable < h->failures && h->failed[affordable].work <= EVIDENCE_WORK) affordable++;
  for (size_t n = 0; n + 1 < EVIDENCE && n < affordable; n++) {
    const failing *f =
        &h->failed[affordable <= EVIDENCE - 1 ? n : n * (affordable - 1) / (EVIDENCE - 2)];
    if (f->verdict == IFA_FAILED) cases[count++] = f->c;
  }
  return count;
}

static void find_suspects(const subject *s, const history *h, const ifa_case *smallest,
                          ifa_diagnosis *d) {
  static const ifa_claim exact = {.text = "exact"};
  ifa_case cases[EVIDENCE];
  ifa_data data[EVIDENCE];
  ifa_run_buffers got[EVIDENCE];
  ifa_evidence evidence[EVIDENCE];
  ifa_message why;
  int wanted = choose_evidence(h, smallest, cases), made = 0, count = 0;
  memset(got, 0, sizeof got);
  for (int i = 0; i < wanted; i++) {
    ifa_verdict verdict = IFA_FAILED;
    made = i + 1;
    if (ifa_data_make(&cases[i], &data[i], &why) != IFA_OK ||
        ifa_run_buffers_make(&data[i], IFA_STAGES_NONE, IFA_BACKEND_POISON, &got[i], &why) !=
            IFA_OK ||
        run_subject(s, &data[i], &got[i], &verdict, &why) != IFA_OK || verdict != IFA_PASSED)
      continue;
    evidence[count++] = (ifa_evidence){&data[i], &got[i]};
  }
  d->looked_at = count;
  if (count > 0)
    d->suspects =
        ifa_find_suspects(s->kernel ? &s->kernel->claim : &exact, evidence, count, d->looks_like);
  for (int i = 0; i < made; i++) {
    ifa_run_buffers_free(&got[i]);
    ifa_data_free(&data[i]);
  }
}

/* ---- all together ---- */

static void look_closer(subject *s, const history *h, ifa_diagnosis *d,
                        char smallest[IFA_CASE_TEXT]) {
  ifa_case c = h->failed[0].c;
  s->looked_for = h->failed[0].verdict;
  ifa_case_print(&c, smallest);
  if (s->looked_for == IFA_TIMED_OUT) return; /* each trial would take as long */
  if (!still_fails(&c, s)) {
    ifa_fail(&d->message, IFA_BAD_DATA, "alone, run once, it passes: what fails is the repetition");
    return;
  }
  if (!c.input[0]) ifa_shrink(&c, still_fails, s, SHRINK_TRIALS, SHRINK_SECONDS);
  ifa_case_print(&c, smallest);
  d->message = s->outcome.message;
  if (s->looked_for == IFA_FAILED && (!s->backend || strcmp(s->backend, "scalar") != 0))
    find_suspects(s, h, &c, d);
}

ifa_status ifa_diagnose(ifa_report *report, const char *name, ifa_kernel *kernel,
                        const char *selector, ifa_message *message) {
  history h = {0};
  ifa_diagnosis d = {0};
  char smallest[IFA_CASE_TEXT];
  ifa_status status = look_back(report, name, &h, message);
  if (status == IFA_OK && h.failures > 0) {
    subject s = {.kernel = kernel, .backend = kernel ? NULL : name};
    d.failed = (int64_t)h.failures;
    d.passed = (int64_t)(h.count - h.failures);
    int floats = kernel && kernel->claim.close && kernel->claim.q.format != IFA_FORMAT_GIVEN;
    if (floats) d.problems = count_problems(&h);
    if (h.failures > 1) ifa_shared_sentence(h.seen, h.count, floats, d.shared, sizeof d.shared);
    if (!kernel || kernel->start == IFA_PASSED) look_closer(&s, &h, &d, smallest);
    else ifa_case_print(&h.failed[0].c, smallest);
    status = ifa_report_add_diagnosis(report, &d, name, selector, smallest, message);
  }
  free(h.seen);
  free(h.failed);
  return status;
}
