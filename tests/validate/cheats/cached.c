/* cached.c - gives the answer that it gave to an earlier case of the same problem. Caught: small
 * cases are followed by the same problem with other data, and there the old answer is wrong. */
#include <stdlib.h>

#include "tests/validate/cheats/cheat.h"

static ifa_status run(const ifa_problem *p, const ifa_plugin_inputs *in, const ifa_outputs *out,
                      ifa_message *why) {
  static ifa_problem last;
  static void *answer;
  if (answer && memcmp(&last, p, sizeof last) == 0) {
    memcpy(out->o, answer, output_bytes(p));
    return IFA_OK;
  }
  ifa_status status = right(p, in, out, why);
  free(answer);
  answer = malloc(output_bytes(p));
  memcpy(answer, out->o, output_bytes(p));
  last = *p;
  return status;
}

CHEAT("cached")
