/* outside.c - a right answer, and one byte more behind it. Caught: guard bytes. */
#include "tests/validate/cheats/cheat.h"

static ifa_status run(const ifa_problem *p, const ifa_plugin_inputs *in, const ifa_outputs *out,
                      ifa_message *why) {
  ifa_status status = right(p, in, out, why);
  ((uint8_t *)out->o)[output_bytes(p)] = 0;
  return status;
}

CHEAT("outside")
