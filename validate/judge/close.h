/* close.h - a kernel that does not give the contract's bits, against binary64 attention, within a
 * bound for each element that follows from its number formats and the row's own weights.
 * docs/validate.md, section 11. */
#ifndef IFA_VALIDATE_CLOSE_H
#define IFA_VALIDATE_CLOSE_H

#include "validate/cases/buffers.h"
#include "validate/judge/claim.h"
#include "validate/judge/compare.h"

/* Sets verdict, message, places, compared and distance. */
void ifa_close_check(const ifa_data *data, const ifa_claim *claim, const ifa_run_buffers *got,
                     ifa_outcome *outcome);

#endif
