#include "validate/judge/error.h"

#include <math.h>
#include <stdlib.h>

#include "common/operand.h"
#include "common/problem.h"
#include "ref/baselines/baselines.h"
#include "validate/cases/buffers.h"

ifa_error ifa_error_of(const double *o, const double *ref, int64_t rows, int64_t dim) {
  ifa_error e = {0};
  double error = 0, norm = 0, product = 0, own = 0, absolute = 0, magnitude = 0, relative_sum = 0;
  for (int64_t r = 0; r < rows; r++) {
    double row_error = 0, row_norm = 0;
    for (int64_t i = r * dim; i < (r + 1) * dim; i++) {
      double difference = o[i] - ref[i];
      row_error += difference * difference;
      row_norm += ref[i] * ref[i];
      product += o[i] * ref[i];
      own += o[i] * o[i];
      absolute += fabs(difference);
      magnitude += fabs(ref[i]);
      relative_sum += fabs(difference) / (fabs(ref[i]) + 1e-5);
      if (!(fabs(difference) <= e.largest)) e.largest = fabs(difference); /* a NaN stays */
    }
    error += row_error;
    norm += row_norm;
    double relative = row_error == 0 ? 0 : sqrt(row_error / row_norm);
    if (!(relative <= e.worst_row)) {
      e.worst_row = relative;
      e.worst_row_number = r;
    }
  }
  e.relative_l2 = error == 0 ? 0 : sqrt(error / norm);
  e.mean_relative = absolute == 0 ? 0 : absolute / magnitude;
  e.mre = rows * dim > 0 ? relative_sum / (double)(rows * dim) : 0;
  e.cosine = own > 0 && norm > 0 ? product / sqrt(own) / sqrt(norm) : error == 0 ? 1 : 0;
  return e;
}

ifa_status ifa_error_baseline(const ifa_data *d, const char *baseline, double **o,
                              ifa_message *message) {
  const ifa_problem *p = &d->p;
  *o = calloc((size_t)(d->row_count * p->head_dim) + 1, sizeof **o);
  if (!*o) return ifa_fail(message, IFA_OUT_OF_MEMORY, "no memory for %s", baseline);
  ifa_float_problem problem = {.batch = p->batch,
                               .q_heads = p->q_heads,
                               .kv_heads = p->kv_heads,
                               .nq = p->nq,
                               .nk = p->nk,
                               .head_dim = p->head_dim,
                               .sm_scale = p->sm_scale,
                               .causal = p->causal,
                               .window = p->window,
                               .kv_tile = p->kv_tile};
  ifa_float_inputs in = {
      .q = d->q, .k = d->k, .v = d->v, .rows = d->rows, .row_count = d->rows ? d->row_count : 0};
  ifa_float_outputs out = {.o = *o};
  return ifa_baseline_run(baseline, &problem, &in, &out, message);
}

ifa_status ifa_error_backend(const ifa_data *d, const char *backend, double **o,
                             ifa_message *message) {
  ifa_run_buffers buffers;
  *o = calloc((size_t)(d->row_count * d->p.head_dim) + 1, sizeof **o);
  if (!*o) return ifa_fail(message, IFA_OUT_OF_MEMORY, "no memory for the output");
  ifa_status status = ifa_run_buffers_make(d, IFA_STAGES_NONE, 0xff, &buffers, message);
  if (status == IFA_OK) {
    ifa_inputs in = ifa_data_inputs(d);
    ifa_outputs out = ifa_run_buffers_outputs(&buffers);
    status = ifa_run(backend, &d->p, &in, &out, message);
  }
  for (int64_t r = 0; status == IFA_OK && r < d->row_count; r++)
    for (int32_t i = 0; i < d->p.head_dim; i++)
      (*o)[r * d->p.head_dim + i] =
          (double)ifa_float_get(d->p.out_type, buffers.o.data, ifa_output_index(d, r, i));
  ifa_run_buffers_free(&buffers);
  return status;
}
