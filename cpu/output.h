/* output.h - sections 9 and 10 of docs/numerics.md, a row at a time: integer sums to floats, floats
 * to the output's type. */
#ifndef IFA_CPU_OUTPUT_H
#define IFA_CPU_OUTPUT_H

#include "common/contract.h"

typedef struct ifa_output_kernels {
  /* o = (float)acc: a row's first split. */
  void (*first)(const int32_t *acc, int32_t dim, float *o);

  /* o = fma(acc, grow, o * keep): the splits behind it, ifa_merge with its powers of two. */
  void (*merge)(const int32_t *acc, float grow, float keep, int32_t dim, float *o);

  /* out = (o / l) * scale[d * step], then * channel[d] unless that is NULL. step 0 or 1. o NULL:
   * (float)acc is o. */
  void (*finish)(const float *o, const int32_t *acc, float l, const float *scale, int32_t step,
                 const float *channel, int32_t dim, float *out);

  /* Rounds once to type, elements at .. at + dim - 1 of `to`. No element is a NaN. */
  void (*store)(ifa_type type, const float *from, int32_t dim, void *to, int64_t at);
} ifa_output_kernels;

/* The best that this machine has. */
const ifa_output_kernels *ifa_output_kernels_best(void);

/* All that it has, for tests: NULL from the first index on that there is not. */
const ifa_output_kernels *ifa_output_kernels_at(int index);

#endif
