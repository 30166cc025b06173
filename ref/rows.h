/* rows.h - what the oracle and the OpenMP backend share: where a row's data lie, and the float end
 * of the algorithm (merging splits, output), sections 9 to 11 of docs/numerics.md. What leads
 * there, the integers, each computes in its own way. */
#ifndef IFA_REF_ROWS_H
#define IFA_REF_ROWS_H

#include "common/contract.h"
#include "common/operand.h"
#include "common/problem.h"

/* Query row `row` of (batch, head), read through key/value head `kv_head`. */
typedef struct ifa_row {
  int64_t batch, head, kv_head, row;
  int64_t index; /* (batch * q_heads + head) * nq + row */
} ifa_row;

static inline ifa_row ifa_row_at(const ifa_problem *p, int64_t index) {
  int64_t matrix = index / p->nq, head = matrix % p->q_heads;
  return (ifa_row){matrix / p->q_heads, head, head / (p->q_heads / p->kv_heads), index % p->nq,
                   index};
}

/* The scale of token `token` in matrix `matrix` (batch * heads + head) of Q or K. */
static inline float ifa_token_scale(ifa_granularity scale, const float *scales, int64_t matrix,
                                    int64_t tokens, int32_t block, int64_t token) {
  if (scale == IFA_SCALE_TOKEN) return scales[matrix * tokens + token];
  if (scale == IFA_SCALE_BLOCK) return scales[matrix * ifa_ceil_div(tokens, block) + token / block];
  return scales[matrix];
}

/* A split's integer sums. */
typedef struct ifa_split_sums {
  int32_t unit, value_unit; /* of l, and of acc */
  int32_t l;
  int32_t acc[IFA_MAX_HEAD_DIM];
} ifa_split_sums;

/* A row's float sums over the splits so far. */
typedef struct ifa_row_sums {
  int32_t unit, value_unit;
  float l;
  float o[IFA_MAX_HEAD_DIM];
} ifa_row_sums;

/* Section 9: adds a split to the row. The splits come in ascending order; a split without a live
 * key is left out. */
void ifa_merge_split(ifa_row_sums *row, const ifa_split_sums *split, int32_t head_dim);

/* Sections 10 and 11: writes the row's output, and its log-sum-exp if asked for. */
void ifa_write_row(const ifa_problem *p, const ifa_inputs *in, const ifa_outputs *out, ifa_row at,
                   const ifa_row_sums *row);

#endif
