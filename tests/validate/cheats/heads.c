/* heads.c - ignores part of the input: reads the first head of K and V for all heads. Caught: heads
 * differ. */
#include "tests/validate/cheats/cheat.h"

static ifa_status run(const ifa_problem *p, const ifa_plugin_inputs *in, const ifa_outputs *out,
                      ifa_message *why) {
  ifa_problem shared = *p;
  shared.k_stride.head = shared.v_stride.head = 0;
  return right(&shared, in, out, why);
}

CHEAT("heads")
