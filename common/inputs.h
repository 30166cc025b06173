/* inputs.h - the checks of operands and outputs that come before any computation, done once a call. */
#ifndef IFA_COMMON_INPUTS_H
#define IFA_COMMON_INPUTS_H

#include "common/message.h"

/* Are the pointers there that the resolved problem needs, every scale 0 or in [2^-100, 2^100], scores below 2^22 octaves, and the row
 * numbers ascending and in range? The floating-point environment must be the default one (denormals-are-zero would hide a bad scale). */
ifa_status ifa_inputs_check(const ifa_problem *problem, const ifa_inputs *inputs, const ifa_outputs *outputs, ifa_message *message);

#endif
