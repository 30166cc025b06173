/* inputs.c - computes the answer and changes its input, so that a later comparison on that input
 * would agree with anything. Caught: the inputs are compared with the run's own copy afterwards. */
#include "tests/validate/cheats/cheat.h"

static ifa_status run(const ifa_problem *p, const ifa_plugin_inputs *in, const ifa_outputs *out,
                      ifa_message *why) {
  ifa_status status = right(p, in, out, why);
  if (p->nk > 0) ((float *)(uintptr_t)in->operands.v_scale)[0] *= 2;
  return status;
}

CHEAT("inputs")
