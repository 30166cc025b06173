#include "validate/bench/machine.h"

#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>

#include "common/team.h"

#if defined(__clang__)
#define COMPILER "clang " __clang_version__
#elif defined(__GNUC__)
#define COMPILER "gcc " __VERSION__
#else
#define COMPILER "unknown compiler"
#endif
#ifdef __OPTIMIZE__
#define OPTIMIZED ", optimized"
#else
#define OPTIMIZED ", not optimized"
#endif

void machine_processor(char *text, size_t length) {
  struct utsname name;
  char line[256];
  FILE *file = fopen("/proc/cpuinfo", "r");
  snprintf(text, length, "unknown processor");
  if (uname(&name) == 0) snprintf(text, length, "%s", name.machine);
  while (file && fgets(line, sizeof line, file)) {
    char *colon = strchr(line, ':');
    if (!colon || strncmp(line, "model name", 10) != 0) continue;
    line[strcspn(line, "\n")] = '\0';
    snprintf(text, length, "%s", colon + 2);
    break;
  }
  if (file) fclose(file);
}

const char *machine_compiler(void) { return COMPILER OPTIMIZED; }

int machine_threads(void) { return ifa_team_default(); }
