/* rows.h - a row of floats on its way to integers (docs/numerics.md, section 12), without a branch
 * an element: the parts of ifa_quantize, of the cache's append, and of queries given as floats.
 *
 * Every operation is one IEEE operation on one element, a comparison, or a sum of integers, so all
 * versions give the same bits; the compiler arranges them for the instruction set. */
#ifndef IFA_CPU_QUANTIZE_ROWS_H
#define IFA_CPU_QUANTIZE_ROWS_H

#include "common/contract.h"

#define IFA_ROW_LARGEST 0x71000000u /* the bits of 2^99: no element may be above */

typedef struct ifa_row_kernels {
  /* x: dim elements from element `index` on, as binary32. Returned are the bits of the largest |x|,
   * above IFA_ROW_LARGEST if one is not acceptable (then x may be anything). */
  uint32_t (*widen)(ifa_type type, const void *from, int64_t index, int32_t dim, float *x);

  /* The bits of the largest |x|, `largest` among them. */
  uint32_t (*largest)(const float *x, int32_t dim, uint32_t largest);

  /* q = rne(fl(x * inverse)), one element a byte; inverse: ifa_group_scale's of a group with x, so
   * that q is within the grid. */
  void (*grid)(const float *x, float inverse, int32_t dim, int8_t *q);

  /* The same with an inverse for each channel; and what it needs: ifa_group_scale of `count`
   * groups, largest[d] = max(largest[d], bits of |x[d]|). */
  void (*grid_by_channel)(const float *x, const float *inverse, int32_t dim, int8_t *q);
  void (*group_scales)(const uint32_t *largest, float most, int32_t count, float *scale,
                       float *inverse);
  void (*largest_by_channel)(const float *x, int32_t dim, uint32_t *largest);

  void (*multiply)(float *x, const float *by, int32_t dim);   /* x = fl(x * by) */
  void (*subtract)(float *x, const float *what, int32_t dim); /* x = fl(x - what) */

  /* Up to 16 rows with a scale each: row i is the dim elements from at[i] on, less `mean` unless
   * that is NULL; its integers (at most `most` in magnitude) go to q[i]. 0, and nothing is written,
   * if an element is not acceptable. */
  int (*token_rows)(ifa_type type, const void *from, const int64_t *at, int32_t count, int32_t dim,
                    int32_t most, const float *mean, float *scale, int8_t *const *q);

  /* sum[d] += rne(x[d] * factor), integers of at most 2^24; factor is a power of two, and a product
   * that is not exact in binary32 is far below one half. */
  void (*add_up)(const float *x, float factor, int32_t dim, int32_t *sum);
} ifa_row_kernels;

/* The best that this machine has. */
const ifa_row_kernels *ifa_row_kernels_best(void);

/* All that it has, for tests: NULL from the first index on that there is not. */
const ifa_row_kernels *ifa_row_kernels_at(int index);

/* q from x, whose largest |x| has the bits `largest`; returns the scale. type: IFA_I8 or IFA_I4,
 * one element a byte either way. */
float ifa_row_quantize(const ifa_row_kernels *rows, const float *x, int32_t dim, uint32_t largest,
                       ifa_type type, int8_t *q);

/* A matrix's mean by channel, row by row: every x rounded to a multiple of 2^(e-24), where 2^e is
 * the least power of two above the matrix's largest magnitude, and summed in integers. */
typedef struct ifa_row_mean {
  int32_t part[IFA_MAX_HEAD_DIM]; /* of the last rows: at most 64 numbers of 2^24 */
  double sum[IFA_MAX_HEAD_DIM];   /* of the rows before: integers of at most 2^48 */
  int64_t rows;
  int32_t dim;
  float factor;
  int exponent, zero; /* zero: all are so small that the mean is 0 */
} ifa_row_mean;

void ifa_row_mean_begin(ifa_row_mean *m, uint32_t largest, int32_t dim);
void ifa_row_mean_add(const ifa_row_kernels *k, ifa_row_mean *m, const float *x);
void ifa_row_mean_end(ifa_row_mean *m, float *mean);

/* ifa_quantize (quantize.c) with these kernels. */
ifa_status ifa_quantize_with(const ifa_row_kernels *rows, const ifa_quantize_args *args,
                             ifa_message *message);

#endif
