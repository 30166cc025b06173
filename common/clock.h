/* clock.h - seconds on clocks that only go forward. */
#ifndef IFA_VALIDATE_CLOCK_H
#define IFA_VALIDATE_CLOCK_H

#include <time.h>

static inline double ifa_clock_seconds(clockid_t clock) {
  struct timespec t;
  clock_gettime(clock, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static inline double ifa_now(void) { return ifa_clock_seconds(CLOCK_MONOTONIC); }

/* For work of the calling thread alone its own processor time, which other programs do not stretch;
 * else the wall's. */
static inline double ifa_now_on(int threads) {
  return ifa_clock_seconds(threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC);
}

#endif
