/* quantize.h - what the two implementations of ifa_quantize share: the plain one of ref/, which is
 * for reading and for tests, and the one that the library offers (cpu/quantize/). */
#ifndef IFA_COMMON_QUANTIZE_H
#define IFA_COMMON_QUANTIZE_H

#include "common/message.h"
#include "ifa.h"

/* Checks all but the elements; *resolved is *args with the strides written out. */
ifa_status ifa_quantize_check(const ifa_quantize_args *args, ifa_quantize_args *resolved,
                              ifa_message *message);

/* The first element of a [tokens, head_dim] matrix that is not finite or above 2^99: IFA_BAD_DATA
 * with its place in `name`. IFA_OK if there is none. */
ifa_status ifa_quantize_check_elements(const char *name, const ifa_quantize_args *a, int64_t batch,
                                       int64_t head, ifa_message *message);

/* ref/quantize.c: what ifa_quantize gives, one element at a time. */
ifa_status ifa_quantize_scalar(const ifa_quantize_args *args, ifa_message *message);

#endif
