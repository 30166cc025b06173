/* fill.h - synthetic tensors: pure functions of (case, tensor, index). */
#ifndef IFA_VALIDATE_FILL_H
#define IFA_VALIDATE_FILL_H

#include "validate/case.h"

typedef enum ifa_operand { IFA_OPERAND_Q = 0, IFA_OPERAND_K, IFA_OPERAND_V } ifa_operand;

/* Writes the dense float tensor [B, heads, tokens, D]. */
void ifa_fill_floats(const ifa_case *c, ifa_operand operand, float *values);

/* For IFA_FILL_EXTREMES, operands and scales drawn directly, in place of what the quantizer made: it never emits the type's least
 * value. `scale` has `scale_count` entries; channel_scale may be NULL. */
void ifa_fill_extremes(const ifa_case *c, ifa_operand operand, void *integers, float *scale, int64_t scale_count, float *channel_scale);

#endif
