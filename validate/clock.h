/* clock.h - seconds on a clock that only goes forward. */
#ifndef IFA_VALIDATE_CLOCK_H
#define IFA_VALIDATE_CLOCK_H

#include <time.h>

static inline double ifa_now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

#endif
