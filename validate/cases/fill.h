/* fill.h - synthetic tensors: pure functions of (case, tensor, index). */
#ifndef IFA_VALIDATE_FILL_H
#define IFA_VALIDATE_FILL_H

#include "validate/cases/case.h"

typedef enum ifa_operand { IFA_OPERAND_Q = 0, IFA_OPERAND_K, IFA_OPERAND_V } ifa_operand;

/* Writes the dense float tensor [B, heads, tokens, D]. */
void ifa_fill_floats(const ifa_case *c, ifa_operand operand, float *values);

/* For the fills that draw operands: integers and scales in place of what the quantizer made (it
 * never emits the type's least value, and its scales follow from floats). `scale` and
 * `channel_scale` (NULL unless TOKEN_CHANNEL) hold as many as the granularity has. */
void ifa_fill_operands(const ifa_case *c, ifa_operand operand, void *integers, float *scale,
                       int64_t scale_count, float *channel_scale);

#endif
