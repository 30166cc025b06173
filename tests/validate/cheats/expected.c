/* expected.c - looks for the right answer in the memory of the process that runs the test: an array
 * of the output's size between two runs of the guard bytes that stand around the oracle's output.
 * If there is none it writes zeros. Caught: the oracle runs when the plug-in has answered.
 * (test_plugin shows that it does find an answer that is there.) */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "tests/validate/cheats/cheat.h"

enum { GUARD = 256 };

static int all(const uint8_t *bytes, uint8_t value) {
  for (int i = 0; i < GUARD; i++)
    if (bytes[i] != value) return 0;
  return 1;
}

/* An answer in `length` bytes of memory, or NULL. */
static const uint8_t *look(const uint8_t *memory, size_t length, size_t bytes) {
  for (size_t at = 0; at + bytes + 2 * GUARD <= length; at++) {
    const uint8_t *next = memchr(memory + at, 0xff, length - at);
    if (!next || (size_t)(next - memory) + bytes + 2 * GUARD > length) return NULL;
    at = (size_t)(next - memory);
    if (all(next, 0xff) && next[GUARD] != 0xff && all(next + GUARD + bytes, 0xff))
      return next + GUARD;
  }
  return NULL;
}

static ifa_status run(const ifa_problem *p, const ifa_plugin_inputs *in, const ifa_outputs *out,
                      ifa_message *why) {
  char path[64], line[512];
  size_t bytes = output_bytes(p), from, to;
  (void)in, (void)why;
  memset(out->o, 0, bytes);
  snprintf(path, sizeof path, "/proc/%d/maps", (int)getppid());
  FILE *maps = fopen(path, "r");
  snprintf(path, sizeof path, "/proc/%d/mem", (int)getppid());
  FILE *memory = fopen(path, "rb");
  while (maps && memory && fgets(line, sizeof line, maps)) {
    if (sscanf(line, "%zx-%zx rw", &from, &to) != 2 || !strstr(line, " rw") ||
        to - from > (size_t)256 << 20)
      continue;
    uint8_t *copy = malloc(to - from);
    const uint8_t *answer = copy && fseek(memory, (long)from, SEEK_SET) == 0 &&
                                    fread(copy, 1, to - from, memory) == to - from
                                ? look(copy, to - from, bytes)
                                : NULL;
    if (answer) memcpy(out->o, answer, bytes);
    free(copy);
    if (answer) break;
  }
  if (maps) fclose(maps);
  if (memory) fclose(memory);
  return IFA_OK;
}

CHEAT("expected")
