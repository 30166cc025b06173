/* nothing.c - writes nothing and says that it has. Caught: outputs are poisoned before every run.
 */
#include "tests/validate/cheats/cheat.h"

static ifa_status run(const ifa_problem *p, const ifa_plugin_inputs *in, const ifa_outputs *out,
                      ifa_message *why) {
  (void)p, (void)in, (void)out, (void)why;
  return IFA_OK;
}

CHEAT("nothing")
