/* diagnose.h - what a run's failures of one kernel have to say together. docs/validate.md, run. */
#ifndef IFA_VALIDATE_DIAGNOSE_H
#define IFA_VALIDATE_DIAGNOSE_H

#include "validate/kernels/plugin.h"
#include "validate/reports/report.h"

/* A case's text without what a kernel of floats never sees (scale choices, tau, splits): equal for
 * cases that are one problem to it. */
void ifa_float_problem(const ifa_case *c, char text[IFA_CASE_TEXT]);

/* Finds what the failing cases share, the smallest that still fails, and what its values look like,
 * and adds that to the report; nothing if no case failed. kernel NULL: a backend. Takes some
 * seconds. */
ifa_status ifa_diagnose(ifa_report *report, const char *name, ifa_kernel *kernel,
                        const char *selector, ifa_message *message);

#endif
