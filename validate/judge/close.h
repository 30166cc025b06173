/* close.h - a kernel that does not give the contract's bits, against binary64 attention, within a
 * bound for each element that follows from its number formats and the row's own weights.
 * docs/close.md. */
#ifndef IFA_VALIDATE_CLOSE_H
#define IFA_VALIDATE_CLOSE_H

#include "validate/cases/buffers.h"
#include "validate/judge/claim.h"
#include "validate/judge/compare.h"

/* What binary64 gives for the case, and the bounds that the claim implies. `data` and `claim` must
 * outlive it. *close is to be freed by ifa_close_free in every case. Fails for want of memory. */
typedef struct ifa_close ifa_close;
ifa_status ifa_close_make(const ifa_data *data, const ifa_claim *claim, ifa_close **close,
                          ifa_message *message);
void ifa_close_free(ifa_close *close);

/* What is right, and how far off it may be: [computed row][head_dim]; DBL_MAX where there is no
 * bound. NULL if an operand does not fit its format. */
const double *ifa_close_right(const ifa_close *close);
const double *ifa_close_bound(const ifa_close *close);
/* The same of lse: [computed row]. */
void ifa_close_lse(const ifa_close *close, double *right, double *bound);

/* The operands as the claim rounds them, as floats: dense, sized as data's floats. */
ifa_status ifa_close_operands(const ifa_data *data, const ifa_claim *claim, float *q, float *k,
                              float *v, ifa_message *message);

/* Sets verdict, message, places, compared and distance; the outcome was {0} but for its seconds. */
void ifa_close_judge(const ifa_close *close, const ifa_run_buffers *got, ifa_outcome *outcome);

/* Both, for one output. */
void ifa_close_check(const ifa_data *data, const ifa_claim *claim, const ifa_run_buffers *got,
                     ifa_outcome *outcome);

#endif
