/* inputs.h - the checks of arguments, operands and outputs that come before any computation, done
 * once a call. */
#ifndef IFA_COMMON_INPUTS_H
#define IFA_COMMON_INPUTS_H

#include "common/message.h"

/* Are the pointers there that the resolved problem needs, every scale 0 or in [2^-100, 2^100],
 * scores below 2^22 octaves, and the row numbers ascending and in range? The floating-point
 * environment must be the default one (denormals-are-zero would hide a bad scale). */
ifa_status ifa_inputs_check(const ifa_problem *problem, const ifa_inputs *inputs,
                            const ifa_outputs *outputs, ifa_message *message);

/* The largest of an array of scales: what the array is called, where in it. */
typedef struct ifa_largest_scale {
  const char *name;
  int64_t index; /* -1: the array is empty */
  float value;
} ifa_largest_scale;

/* Two of these checks: every scale of an array, whose largest is left at *largest; scores below
 * 2^22 octaves, given the largest scales. */
ifa_status ifa_check_scales(const char *name, const float *scales, int64_t count,
                            ifa_largest_scale *largest, ifa_message *message);
ifa_status ifa_check_octaves(const ifa_problem *problem, const ifa_largest_scale *q,
                             const ifa_largest_scale *k, ifa_message *message);

/* IFA_BAD_ARGUMENT and "NAME is VALUE; it must be LOW .. HIGH" unless low <= value <= high. */
ifa_status ifa_check_range(const char *name, int64_t value, int64_t low, int64_t high,
                           ifa_message *message);

/* The same for an enumeration, in words: "NAME is int8; it must be f32, f16 or bf16"; a value that
 * has no name is shown as a number. */
ifa_status ifa_check_type(const char *name, ifa_type value, ifa_type low, ifa_type high,
                          ifa_message *message);
ifa_status ifa_check_granularity(const char *name, ifa_granularity value, ifa_message *message);

#endif
