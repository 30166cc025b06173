/* forged.c - prints what a green run prints, writes an answer of its own on every descriptor, and
 * leaves with code 0. Caught: its standard output is not the run's, and a process that has gone has
 * not answered. */
#include <stdio.h>
#include <unistd.h>

#include "tests/validate/cheats/cheat.h"

static ifa_status run(const ifa_problem *p, const ifa_plugin_inputs *in, const ifa_outputs *out,
                      ifa_message *why) {
  static const char zeros[512];
  (void)p, (void)in, (void)out, (void)why;
  puts("137 passed, 0 failed, 0 unsupported, 0 not available");
  fflush(stdout);
  for (int descriptor = 3; descriptor < 64; descriptor++)
    if (write(descriptor, zeros, sizeof zeros) < 0) continue;
  _exit(0);
}

CHEAT("forged")
