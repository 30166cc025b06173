/* shrink.h - a failing case made small. */
#ifndef IFA_VALIDATE_SHRINK_H
#define IFA_VALIDATE_SHRINK_H

#include "validate/cases/case.h"

/* Tries every way of making the case smaller (fuzz_case.h), again and again, and keeps what still
 * fails, until nothing helps or so many trials or seconds are over. */
void ifa_shrink(ifa_case *c, int (*fails)(const ifa_case *c, void *context), void *context,
                int trials, double seconds);

#endif
