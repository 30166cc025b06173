/* broken.c - stands in for ifa_run (linker option --wrap=ifa_run) and spoils what the openmp
 * backend gave. The oracle is left alone, but for the fault `oracle`. */
#include "tests/validate/broken.h"

#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/backend.h"
#include "common/operand.h"
#include "common/problem.h"

const char *const broken_faults[] = {"bit", "nan",    "unwritten", "overrun",    "other-row", "lse",
                                     "S",   "unit",   "p",         "value_unit", "P",         "l",
                                     "acc", "status", "oracle",    NULL};

static const char *chosen;
static int chosen_set;

void broken_choose(const char *fault) {
  chosen = fault;
  chosen_set = 1;
}

ifa_status __real_ifa_run(const char *, const ifa_problem *, const ifa_inputs *,
                          const ifa_outputs *, ifa_message *);
ifa_status __wrap_ifa_run(const char *, const ifa_problem *, const ifa_inputs *,
                          const ifa_outputs *, ifa_message *);

static int is(const char *fault) { return chosen && strcmp(chosen, fault) == 0; }

/* Element d of the last computed row, as bytes. */
static uint8_t *last_element(const ifa_problem *p, const ifa_inputs *in, const ifa_outputs *out,
                             int32_t d) {
  int64_t row = ifa_computed_row(in, ifa_computed_rows(p, in) - 1), matrix = row / p->nq;
  return (uint8_t *)out->o +
         (ifa_offset(p->o_stride, matrix / p->q_heads, matrix % p->q_heads, row % p->nq) + d) *
             (int64_t)ifa_type_bytes(p->out_type);
}

static void spoil_output(const ifa_problem *p, const ifa_inputs *in, const ifa_outputs *out) {
  size_t width = ifa_type_bytes(p->out_type);
  if (ifa_computed_rows(p, in) == 0) return;
  /* for `validate fuzz` to shrink */
  if (is("causal-100") && p->causal && p->nk >= 100)
    last_element(p, in, out, p->head_dim - 1)[0] ^= 1;
  if (is("bit")) last_element(p, in, out, p->head_dim - 1)[0] ^= 1;
  if (is("nan")) ifa_float_set(p->out_type, last_element(p, in, out, 0), 0, (float)NAN);
  if (is("unwritten")) memset(last_element(p, in, out, 0), 0x7f, width * (size_t)p->head_dim);
  if (is("overrun")) last_element(p, in, out, p->head_dim)[0] ^= 0x10;
  if (is("other-row") && in->rows) /* row 1 is not among the chosen ones of the test */
    memset((uint8_t *)out->o + ifa_offset(p->o_stride, 0, 0, 1) * (int64_t)width, 0, width);
  if (is("lse") && out->lse)
    ((uint8_t *)&out->lse[ifa_computed_row(in, ifa_computed_rows(p, in) - 1)])[0] ^= 1;
}

static void spoil_stages(const ifa_stages *s) {
  if (is("S")) s->s[0] += 1;
  if (is("unit")) s->unit[0] += 1;
  if (is("p")) s->p[0] ^= 1;
  if (is("value_unit")) s->value_unit[0] += 1;
  if (is("P")) s->value_p[0] ^= 1;
  if (is("l")) s->l[0] += 1;
  if (is("acc")) s->acc[0] -= 1;
}

ifa_status __wrap_ifa_run(const char *backend, const ifa_problem *problem, const ifa_inputs *in,
                          const ifa_outputs *out, ifa_message *message) {
  if (!chosen_set) broken_choose(getenv("IFA_BROKEN"));
  ifa_status status = __real_ifa_run(backend, problem, in, out, message);
  if (status == IFA_OK && is("oracle") && strcmp(backend, "scalar") == 0) {
    ifa_problem p = ifa_problem_resolved(problem);
    last_element(&p, in, out, p.head_dim)[0] ^= 0x10; /* past the end of o */
  }
  if (strcmp(backend, "openmp") != 0) return status;
  if (status == IFA_BAD_DATA && is("scribbles") && out && out->o) *(uint8_t *)out->o ^= 1;
  if (status == IFA_BAD_DATA && is("accepts")) return ifa_succeed(message);
  if (status != IFA_OK) return status;
  if (is("crash") && problem->nk >= 40) {
    signal(SIGSEGV, SIG_DFL); /* a sanitizer's handler would print a report for each */
    raise(SIGSEGV);
  }
  if (is("hang") && problem->nk >= 40)
    for (;;) pause();
  if (is("status")) return ifa_fail(message, IFA_OUT_OF_MEMORY, "an injected failure");
  ifa_problem p = ifa_problem_resolved(problem);
  spoil_output(&p, in, out);
  if (out->stages && p.nk > 0) spoil_stages(out->stages);
  return status;
}
