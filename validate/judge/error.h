/* error.h - how far an output is from binary64 attention. */
#ifndef IFA_VALIDATE_ERROR_H
#define IFA_VALIDATE_ERROR_H

#include "validate/cases/data.h"

typedef struct ifa_error {
  double relative_l2;   /* ||o - ref|| / ||ref|| over all elements; NaN if any element is */
  double mean_relative; /* mean |o - ref| / mean |ref| over all elements */
  /* mean of |o - ref| / (|ref| + 1e-5) over all elements: INT-FlashAttention's "MRE"
   * (ref/README.md); elements near 0 dominate it */
  double mre;
  double cosine;
  /* largest ||o_i - ref_i|| / ||ref_i|| of a row; rows with ref = 0 count 0 or infinity */
  double worst_row;
  int64_t worst_row_number;
  double largest; /* largest |o - ref| */
} ifa_error;

/* o, ref: [rows][dim]. */
ifa_error ifa_error_of(const double *o, const double *ref, int64_t rows, int64_t dim);

/* Runs a float reference or baseline (ref/baselines/baselines.h) on data's float tensors: [computed
 * row][head_dim], to be freed. */
ifa_status ifa_error_baseline(const ifa_data *data, const char *baseline, double **o,
                              ifa_message *message);

/* Runs a backend on data's operands and widens its output: [computed row][head_dim], to be freed.
 */
ifa_status ifa_error_backend(const ifa_data *data, const char *backend, double **o,
                             ifa_message *message);

#endif
