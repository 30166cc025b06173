/* late.c - says that it is done and computes afterwards, as a kernel does that was started and not
 * waited for. Caught: the outputs are taken when the answer comes. */
#include <pthread.h>
#include <time.h>

#include "tests/validate/cheats/cheat.h"

static struct {
  ifa_problem p;
  ifa_plugin_inputs in;
  ifa_outputs out;
} job;

static void *work(void *unused) {
  ifa_message why;
  nanosleep(&(struct timespec){.tv_nsec = 300000000}, NULL);
  right(&job.p, &job.in, &job.out, &why);
  return unused;
}

static ifa_status run(const ifa_problem *p, const ifa_plugin_inputs *in, const ifa_outputs *out,
                      ifa_message *why) {
  pthread_t thread;
  (void)why;
  job.p = *p;
  job.in = *in;
  job.out = *out;
  return pthread_create(&thread, NULL, work, NULL) == 0 && pthread_detach(thread) == 0
             ? IFA_OK
             : IFA_OUT_OF_MEMORY;
}

CHEAT("late")
