#include "validate/distance.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "common/operand.h"

void ifa_place_text(const ifa_problem *p, int64_t row, int32_t dim, char *text, size_t length) {
  int64_t matrix = row / p->nq;
  int used = snprintf(text, length, "[b %" PRId64 "][h %" PRId64 "][i %" PRId64 "]", matrix / p->q_heads, matrix % p->q_heads, row % p->nq);
  if (dim >= 0) snprintf(text + used, length - (size_t)used, "[d %d]", (int)dim);
}

/* Bit patterns as integers in the order of the numbers that they stand for; +0 and -0 are both 0. */
static int64_t ordered(ifa_type type, double x) {
  uint32_t bits = type == IFA_F32 ? ifa_bits_of_f32((float)x) : type == IFA_F16 ? ifa_f32_to_f16((float)x) : ifa_f32_to_bf16((float)x);
  uint32_t sign = type == IFA_F32 ? 0x80000000u : 0x8000u;
  return bits & sign ? -(int64_t)(bits & (sign - 1)) : (int64_t)bits;
}

static int64_t ulps(ifa_type type, double reference, double got) {
  if (isnan(got)) return INT64_MAX;
  int64_t difference = ordered(type, got) - ordered(type, reference);
  return difference < 0 ? -difference : difference;
}

void ifa_distance_add(ifa_distance_sums *s, const ifa_problem *p, int64_t row, const double *reference, const double *got) {
  ifa_distance *r = &s->result;
  double error = 0, norm = 0;
  for (int32_t d = 0; d < p->head_dim; d++) {
    double difference = got[d] - reference[d];
    error += difference * difference;
    norm += reference[d] * reference[d];
    s->own += got[d] * got[d];
    s->product += got[d] * reference[d];
    int64_t u = ulps(p->out_type, reference[d], got[d]);
    if (u > r->max_ulp || !r->max_ulp_at[0]) {
      r->max_ulp = u;
      ifa_place_text(p, row, d, r->max_ulp_at, sizeof r->max_ulp_at);
    }
  }
  s->error += error;
  s->reference += norm;
  double relative = error == 0 ? 0 : sqrt(error / norm);
  if (!(relative <= r->worst_row) || !r->worst_row_at[0]) { /* a NaN stays */
    r->worst_row = relative;
    ifa_place_text(p, row, -1, r->worst_row_at, sizeof r->worst_row_at);
  }
}

ifa_distance ifa_distance_finish(ifa_distance_sums *s) {
  ifa_distance *r = &s->result;
  r->known = 1;
  r->relative_l2 = s->error == 0 ? 0 : sqrt(s->error / s->reference);
  r->cosine = s->own > 0 && s->reference > 0 ? s->product / sqrt(s->own) / sqrt(s->reference) : s->error == 0 ? 1 : 0;
  return *r;
}
