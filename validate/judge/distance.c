#include "validate/judge/distance.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "common/operand.h"

void ifa_place_text(const ifa_problem *p, int64_t row, int32_t dim, char *text, size_t length) {
  int64_t matrix = row / p->nq;
  int used = snprintf(text, length, "[b %" PRId64 "][h %" PRId64 "][i %" PRId64 "]",
                      matrix / p->q_heads, matrix % p->q_heads, row % p->nq);
  if (dim >= 0) snprintf(text + used, length - (size_t)used, "[d %d]", (int)dim);
}

/* From a number of this size (finite) to the next of the type. */
static double spacing(ifa_type type, double size) {
  const int digits = type == IFA_F32   ? 24
                     : type == IFA_F16 ? 11
                                       : 8,
            least = type == IFA_F32   ? -149
                    : type == IFA_F16 ? -24
                                      : -133;
  int exponent;
  frexp(size, &exponent);
  return ldexp(1, exponent - digits > least ? exponent - digits : least);
}

/* Steps of the type at the element's size or `typical`, the row's: an element that is small because
 * its row's terms cancel carries their errors. */
static double ulps(ifa_type type, double typical, double reference, double got) {
  double size = fmax(fabs(reference), typical);
  if (isnan(got)) return NAN;
  if (got == reference) return 0;
  if (isinf(reference) || size == 0) return INFINITY;
  return fabs(got - reference) / spacing(type, size);
}

/* Root mean square of a row's finite elements. */
static double typical_size(const double *row, int32_t count) {
  double sum = 0;
  for (int32_t d = 0; d < count; d++)
    if (isfinite(row[d])) sum += row[d] * row[d];
  return sqrt(sum / count);
}

int ifa_distance_worse(double x, double than) { return x > than || (isnan(x) && !isnan(than)); }

void ifa_distance_add(ifa_distance_sums *s, const ifa_problem *p, int64_t row,
                      const double *reference, const double *got) {
  ifa_distance *r = &s->result;
  double error = 0, norm = 0, typical = typical_size(reference, p->head_dim);
  for (int32_t d = 0; d < p->head_dim; d++) {
    double difference = got[d] - reference[d];
    error += difference * difference;
    norm += reference[d] * reference[d];
    s->own += got[d] * got[d];
    s->product += got[d] * reference[d];
    double u = ulps(p->out_type, typical, reference[d], got[d]);
    if (ifa_distance_worse(u, r->max_ulp) || !r->max_ulp_at[0]) {
      r->max_ulp = u;
      ifa_place_text(p, row, d, r->max_ulp_at, sizeof r->max_ulp_at);
    }
  }
  s->error += error;
  s->reference += norm;
  double relative = error == 0 ? 0 : sqrt(error / norm);
  if (ifa_distance_worse(relative, r->worst_row) || !r->worst_row_at[0]) {
    r->worst_row = relative;
    ifa_place_text(p, row, -1, r->worst_row_at, sizeof r->worst_row_at);
  }
}

ifa_distance ifa_distance_finish(ifa_distance_sums *s) {
  ifa_distance *r = &s->result;
  r->known = 1;
  r->relative_l2 = s->error == 0 ? 0 : sqrt(s->error / s->reference);
  r->cosine = s->own > 0 && s->reference > 0 ? s->product / sqrt(s->own) / sqrt(s->reference)
              : s->error == 0                ? 1
                                             : 0;
  return *r;
}
