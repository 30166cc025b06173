/* trial.h - a plug-in on a case: tried on fresh data, before any right answer exists, and judged
 * afterwards. */
#ifndef IFA_VALIDATE_TRIAL_H
#define IFA_VALIDATE_TRIAL_H

#include "validate/kernels/plugin.h"

/* One run of a plug-in that is still to be judged. */
typedef struct ifa_attempt {
  ifa_verdict verdict; /* IFA_PASSED: it answered; what it wrote is in `buffers` */
  ifa_message message;
  double seconds;
  ifa_run_buffers buffers;
} ifa_attempt;

enum { IFA_ATTEMPTS = 3 };

/* A plug-in's runs of one case: the case, the same problem with other data, and the case again. The
 * last two are left out (made 0) for large cases, for data from a file, and if the first gave no
 * answer. */
typedef struct ifa_trial {
  ifa_attempt attempts[IFA_ATTEMPTS];
  int made;
} ifa_trial;

/* Is the case small enough to be repeated, and *other the same problem with other data? */
int ifa_trial_other_case(const ifa_case *c, const ifa_data *data, ifa_case *other);

/* Runs the plug-in. `other`: the data of the second run, or NULL. Call it before the oracle has
 * run. Any status but IFA_OK: the case could not be given to it (ifa_kernel_run); *trial is to be
 * freed all the same. */
ifa_status ifa_trial_run(ifa_kernel *kernel, const ifa_data *data, const ifa_data *other,
                         ifa_trial *trial, ifa_message *message);
void ifa_trial_free(ifa_trial *trial);

/* Compares. The expected results are read by exact kernels only; expected_other may be NULL if
 * other is. */
void ifa_trial_judge(ifa_kernel *kernel, const ifa_trial *trial, const ifa_data *data,
                     const ifa_expected *expected, const ifa_data *other,
                     const ifa_expected *expected_other, ifa_outcome *outcome);

/* Both at once, run once. IFA_BAD_DATA: the oracle refuses the case. */
ifa_status ifa_trial_once(ifa_kernel *kernel, const ifa_data *data, ifa_outcome *outcome,
                          ifa_message *message);

#endif
