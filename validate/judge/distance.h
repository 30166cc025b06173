/* distance.h - how far an output is from what it should be, row by row: relative L2, cosine, the
 * worst row, units in the last place. */
#ifndef IFA_VALIDATE_DISTANCE_H
#define IFA_VALIDATE_DISTANCE_H

#include "validate/cases/data.h"

typedef struct ifa_distance {
  int known;          /* 0: not measured */
  double relative_l2; /* ||o - ref|| / ||ref|| over all computed rows; NaN if any element is */
  double cosine;
  /* largest ||o_i - ref_i|| / ||ref_i|| of a row; a row with ref_i = 0 counts 0, or infinity; NaN
   * if any element is */
  double worst_row;
  char worst_row_at[64]; /* "[b 0][h 1][i 7]" */
  double max_ulp; /* largest |o - ref| of an element, in units in the last place of the output type
                   * at |ref| or at the root mean square of ref's row, whichever is larger; infinity
                   * and NaN as in worst_row */
  char max_ulp_at[80]; /* "[b 0][h 1][i 7][d 3]" */
  double worst_bound;  /* close: largest |error| / bound, at most 1 where all is well */
  char worst_bound_at[80];
  int64_t unbounded_rows; /* close: rows for which the formats imply no bound */
} ifa_distance;

/* Sums on their way. */
typedef struct ifa_distance_sums {
  double error, reference, own, product;
  ifa_distance result;
} ifa_distance_sums;

/* One computed row, by its number (b * q_heads + h) * nq + i. got: as stored, widened. */
void ifa_distance_add(ifa_distance_sums *sums, const ifa_problem *p, int64_t row,
                      const double *reference, const double *got);
ifa_distance ifa_distance_finish(ifa_distance_sums *sums);

/* Does x take the place of the worst so far? A NaN is worse than any number, and stays. */
int ifa_distance_worse(double x, double than);

/* "[b 0][h 1][i 7]", and "[d 3]" behind it if dim >= 0. */
void ifa_place_text(const ifa_problem *p, int64_t row, int32_t dim, char *text, size_t length);

#endif
