/* fuzz_worker.h - runs cases in a child process, so that a backend that crashes or hangs is a
 * finding, not the end. The child is forked before anything has started threads or a device, and
 * again after each crash. */
#ifndef IFA_VALIDATE_FUZZ_WORKER_H
#define IFA_VALIDATE_FUZZ_WORKER_H

#include <sys/types.h>

#include "validate/cases/case.h"

enum { IFA_FUZZ_BACKENDS = 16 };

/* What became of a case with one backend. */
typedef enum ifa_finding {
  IFA_FUZZ_PASSED = 0,
  /* scores out of range, or an invalid call: refused as it must be, and nothing was written */
  IFA_FUZZ_REFUSED,
  IFA_FUZZ_UNSUPPORTED,
  IFA_FUZZ_NOT_AVAILABLE,
  IFA_FUZZ_NOT_APPLICABLE, /* the violation needs what the case does not have */
  IFA_FUZZ_MISMATCH,       /* from here on: failures */
  /* an invalid call was not refused as documented, or something was written; or a valid one was
   * refused */
  IFA_FUZZ_WRONG_STATUS,
  IFA_FUZZ_CRASH,
  IFA_FUZZ_HANG,
  IFA_FINDINGS
} ifa_finding;

/* "passed", ..., "mismatch", "wrong status", "crash", "hang" */
const char *ifa_finding_name(ifa_finding finding);
static inline int ifa_is_failure(ifa_finding finding) { return finding >= IFA_FUZZ_MISMATCH; }

typedef struct ifa_fuzz_result {
  ifa_finding finding;
  char text[320]; /* of a failure: what, in one line */
} ifa_fuzz_result;

typedef struct ifa_worker {
  pid_t pid;         /* 0: none */
  int to, from;      /* pipes */
  double time_limit; /* seconds for one backend on one case */
} ifa_worker;

/* Runs the case (violation: a number of fuzz_case.h, or -1) with backends[0 .. count-1]; results[i]
 * is filled for each. The worker is started when there is none. IFA_IO or IFA_OUT_OF_MEMORY: no
 * process or pipe could be had, or the case itself cannot be made. */
ifa_status ifa_worker_run(ifa_worker *worker, const ifa_case *c, int violation,
                          const char *const *backends, int count, ifa_fuzz_result *results,
                          ifa_message *message);
void ifa_worker_stop(ifa_worker *worker);

#endif
