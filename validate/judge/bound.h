/* bound.h - the oracle against binary64 attention on the same quantized operands, within a bound
 * that the contract implies. */
#ifndef IFA_VALIDATE_BOUND_H
#define IFA_VALIDATE_BOUND_H

#include "validate/judge/compare.h"

/* Sets the outcome's verdict, message and places. values: [computed row][head_dim], the output
 * widened to float; lse: by row number, or NULL; unit and value_unit: the oracle's units, [computed
 * row][tile] (ifa_stages). */
void ifa_bound_check(const ifa_data *data, const float *values, const float *lse,
                     const int32_t *unit, const int32_t *value_unit, ifa_outcome *outcome);

#endif
