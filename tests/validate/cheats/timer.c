/* timer.c - stops the clocks of its process, then takes 0.3 s. Caught: the time that is reported is
 * the run's own clock, in another process. */
#include <dlfcn.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "tests/validate/cheats/cheat.h"

/* Overwrites the code of a function with one that returns 0 at once. */
static void stop(const char *name) {
#if defined(__x86_64__)
  static const uint8_t return_0[] = {0x31, 0xc0, 0xc3};
  uint8_t *code = dlsym(RTLD_DEFAULT, name);
  long page = sysconf(_SC_PAGESIZE);
  if (code && mprotect((void *)((uintptr_t)code & ~(uintptr_t)(page - 1)), (size_t)page * 2,
                       PROT_READ | PROT_WRITE | PROT_EXEC) == 0)
    memcpy(code, return_0, sizeof return_0);
#else
  (void)name;
#endif
}

static ifa_status run(const ifa_problem *p, const ifa_plugin_inputs *in, const ifa_outputs *out,
                      ifa_message *why) {
  ifa_status status = right(p, in, out, why);
  stop("clock_gettime");
  stop("gettimeofday");
  stop("time");
  syscall(SYS_nanosleep, &(struct timespec){.tv_nsec = 300000000}, NULL);
  return status;
}

CHEAT("timer")
