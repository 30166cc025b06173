/* fuzz_kernel.h - `validate fuzz --plugin` and `--exec`: random cases for a kernel of one's own. */
#ifndef IFA_VALIDATE_FUZZ_KERNEL_H
#define IFA_VALIDATE_FUZZ_KERNEL_H

#include "validate/kernels/plugin.h"

typedef struct ifa_fuzz_kernel {
  ifa_kernel_kind kind;
  const char *text, *claim; /* claim NULL: what it says itself */
  double timeout;           /* seconds that it has for a case */
  double seconds;           /* how long in all; 0: until `count` */
  uint64_t seed, first, count;
  int failures;     /* stop after so many */
  const char *json; /* the report of `run`, or NULL */
} ifa_fuzz_kernel;

/* Prints failures, the diagnosis and the counts; returns the exit code. */
int ifa_fuzz_kernel_run(const ifa_fuzz_kernel *f);

#endif
