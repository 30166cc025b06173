#include "validate/kernels/trial.h"

#include <inttypes.h>
#include <string.h>

#include "common/problem.h"
#include "validate/judge/close.h"

/* What a case may have, at most, to be run three times instead of once. */
static const double REPEATED_SCORES = 1 << 24, REPEATED_ELEMENTS = 1 << 24;

static const uint8_t poisons[IFA_ATTEMPTS] = {0x7f, 0x5a, 0x7e};

int ifa_trial_other_case(const ifa_case *c, const ifa_data *d, ifa_case *other) {
  const ifa_problem *p = &d->p;
  double elements =
      (double)p->batch * p->head_dim *
      ((double)p->q_heads * (double)p->nq + 2.0 * (double)p->kv_heads * (double)p->nk);
  if (c->input[0] || elements > REPEATED_ELEMENTS ||
      (double)d->row_count * (double)p->nk > REPEATED_SCORES)
    return 0;
  *other = *c;
  other->seed = c->seed == 0 ? 1 : c->seed - 1;
  return 1;
}

static ifa_status attempt(ifa_kernel *k, const ifa_data *d, ifa_stage_level level, uint8_t poison,
                          ifa_attempt *a) {
  *a = (ifa_attempt){0};
  ifa_status status = ifa_run_buffers_make(d, level, poison, &a->buffers, &a->message);
  if (status != IFA_OK) return status;
  return ifa_kernel_run(k, d, &a->buffers, &a->verdict, &a->seconds, &a->message);
}

ifa_status ifa_trial_run(ifa_kernel *k, const ifa_data *d, const ifa_data *other, ifa_trial *t,
                         ifa_message *message) {
  ifa_status status = IFA_OK;
  *t = (ifa_trial){0};
  for (int i = 0; i < IFA_ATTEMPTS && status == IFA_OK; i++) {
    if (i == 1 && (!other || t->attempts[0].verdict != IFA_PASSED)) break;
    t->made = i + 1;
    status = attempt(k, i == 1 ? other : d, IFA_STAGES_NONE, poisons[i], &t->attempts[i]);
    if (status != IFA_OK) *message = t->attempts[i].message;
  }
  return status;
}

void ifa_trial_free(ifa_trial *t) {
  for (int i = 0; i < t->made; i++) ifa_run_buffers_free(&t->attempts[i].buffers);
  *t = (ifa_trial){0};
}

/* Is every byte of the computed rows as it was before the run? */
static int wrote_nothing(const ifa_data *d, const ifa_buffer *o) {
  size_t width = ifa_type_bytes(d->p.out_type), row_bytes = width * (size_t)d->p.head_dim;
  for (int64_t r = 0; r < d->row_count; r++)
    for (size_t i = 0; i < row_bytes; i++)
      if (o->data[(size_t)ifa_output_index(d, r, 0) * width + i] != o->poison) return 0;
  return d->row_count > 0;
}

/* A kernel that rounds less than it says is off by what it does not round: not wrong, and told so.
 */
static void say_if_better(const ifa_claim *claim, const ifa_attempt *a, const ifa_data *d,
                          ifa_outcome *o) {
  static const char better[] = "close q=f32 k=f32 v=f32";
  ifa_claim floats;
  ifa_outcome as_floats = {0};
  ifa_message why = o->message;
  if (claim->at_least || ifa_claim_parse(better, &floats, NULL) != IFA_OK) return;
  ifa_close_check(d, &floats, &a->buffers, &as_floats);
  if (as_floats.verdict != IFA_PASSED) return;
  ifa_fail(&o->message, IFA_BAD_DATA,
           "%.150s; it keeps \"%s\": better than its claim. Claim that%s%.80s%s", why.text, better,
           claim->q.format == IFA_FORMAT_GIVEN ? "" : ", or \"at-least",
           claim->q.format == IFA_FORMAT_GIVEN ? "" : claim->text + strlen("close"),
           claim->q.format == IFA_FORMAT_GIVEN ? "" : "\"");
}

static void judge_attempt(const ifa_claim *claim, const ifa_attempt *a, const ifa_data *d,
                          const ifa_expected *expected, ifa_outcome *o) {
  *o = (ifa_outcome){.verdict = a->verdict, .message = a->message, .seconds = a->seconds};
  if (a->verdict != IFA_PASSED) return;
  if (ifa_run_buffers_check(d, &a->buffers, &o->message) != IFA_OK) o->verdict = IFA_FAILED;
  else if (wrote_nothing(d, &a->buffers.o)) {
    o->verdict = IFA_FAILED;
    ifa_fail(&o->message, IFA_BAD_DATA, "it wrote nothing to o");
  } else if (claim->close) {
    ifa_close_check(d, claim, &a->buffers, o);
    if (o->verdict == IFA_FAILED) say_if_better(claim, a, d, o);
  } else ifa_compare_outputs(d, expected, &a->buffers, o);
}

/* An exact kernel whose output is wrong may show its stages; the first that differs replaces what
 * is known. */
static void look_at_stages(ifa_kernel *k, const ifa_data *d, const ifa_expected *expected,
                           ifa_outcome *o) {
  ifa_attempt a;
  ifa_outcome staged = {0};
  if (!ifa_stages_affordable(d)) return;
  ifa_status status = attempt(k, d, IFA_STAGES_ALL, poisons[0], &a);
  a.buffers.stages_are_voluntary = 1;
  if (status == IFA_OK && a.verdict == IFA_PASSED)
    ifa_compare_stages(d, expected, &a.buffers, &staged);
  ifa_run_buffers_free(&a.buffers);
  if (staged.verdict != IFA_FAILED || !staged.stage) return;
  staged.seconds = o->seconds;
  staged.compared += o->compared;
  staged.distance = o->distance;
  *o = staged;
}

void ifa_trial_judge(ifa_kernel *k, const ifa_trial *t, const ifa_data *d,
                     const ifa_expected *expected, const ifa_data *other,
                     const ifa_expected *expected_other, ifa_outcome *o) {
  judge_attempt(&k->claim, &t->attempts[0], d, expected, o);
  if (o->verdict == IFA_FAILED && o->stage && !k->claim.close) look_at_stages(k, d, expected, o);
  o->runs = 1;
  for (int i = 1; i < t->made && (o->verdict == IFA_PASSED || o->verdict == IFA_EMPTY); i++) {
    ifa_outcome again;
    o->runs = i + 1;
    judge_attempt(&k->claim, &t->attempts[i], i == 1 ? other : d,
                  i == 1 ? expected_other : expected, &again);
    if (!ifa_verdict_is_failure(again.verdict) && again.verdict != IFA_NOT_SUPPORTED &&
        again.verdict != IFA_ABSENT)
      continue;
    ifa_message why = again.message;
    again.runs = o->runs;
    /* what it could do a moment ago */
    if (!ifa_verdict_is_failure(again.verdict)) again.verdict = IFA_FAILED;
    if (i == 1)
      ifa_fail(&again.message, IFA_BAD_DATA,
               "right with this seed, wrong with seed=%" PRIu64 ": %s", other->c.seed, why.text);
    else
      ifa_fail(&again.message, IFA_BAD_DATA, "right the first time, wrong after another case: %s",
               why.text);
    *o = again;
  }
}

ifa_status ifa_trial_once(ifa_kernel *k, const ifa_data *d, ifa_outcome *o, ifa_message *message) {
  ifa_expected *expected = NULL;
  ifa_trial trial;
  ifa_status status = ifa_trial_run(k, d, NULL, &trial, message);
  if (status == IFA_OK) status = ifa_expected_make(d, &expected, message);
  if (status == IFA_OK) ifa_trial_judge(k, &trial, d, expected, NULL, NULL, o);
  ifa_expected_free(expected);
  ifa_trial_free(&trial);
  return status;
}
