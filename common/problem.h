/* problem.h - what the rest of the tree asks of a problem descriptor once ifa_problem_check has
 * accepted it. */
#ifndef IFA_COMMON_PROBLEM_H
#define IFA_COMMON_PROBLEM_H

#include "common/message.h"
#include "ifa.h"

/* The problem with what "0 means the default" stands for written out: strides and kv_split. */
ifa_problem ifa_problem_resolved(const ifa_problem *problem);

/* The keys that a query at a position among nk keys sees: *first <= j < *end, an interval clipped
 * to 0
 * .. nk; empty when *first >= *end. The position of row i is i + nk - nq. */
static inline void ifa_live_keys_at(const ifa_problem *p, int64_t position, int64_t nk,
                                    int64_t *first, int64_t *end) {
  *first = p->window && position - p->window + 1 > 0 ? position - p->window + 1 : 0;
  *end = p->causal ? position + 1 : p->window ? position + p->window : nk;
  if (*end > nk) *end = nk;
}

/* The same for query row i of the problem. */
static inline void ifa_live_keys(const ifa_problem *p, int64_t i, int64_t *first, int64_t *end) {
  ifa_live_keys_at(p, i + p->nk - p->nq, p->nk, first, end);
}

/* How many keys query row i sees. */
static inline int64_t ifa_live_count(const ifa_problem *p, int64_t i) {
  int64_t first, end;
  ifa_live_keys(p, i, &first, &end);
  return end > first ? end - first : 0;
}

static inline int64_t ifa_ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
static inline int64_t ifa_min64(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t ifa_max64(int64_t a, int64_t b) { return a > b ? a : b; }

/* Bytes of one element's type; INT4 counts as 0 (two elements share a byte). */
static inline size_t ifa_type_bytes(ifa_type type) {
  return type == IFA_F32 ? 4 : type == IFA_I8 ? 1 : type == IFA_I4 ? 0 : 2;
}

/* Bytes from the first element to the end of the last row of a [batch, heads, tokens, head_dim]
 * tensor; 0 if it is empty. */
int64_t ifa_extent_bytes(ifa_type type, ifa_strides strides, int64_t batch, int64_t heads,
                         int64_t tokens, int64_t head_dim);

/* Overflow-checked size and stride rules shared by problems and quantizers. `what` names the tensor
 * in the message. */
ifa_status ifa_check_strides(const char *what, ifa_type type, ifa_strides strides, int64_t batch,
                             int64_t heads, int64_t tokens, int64_t head_dim, int written,
                             ifa_message *message);

const char *ifa_type_name(ifa_type type); /* "f32", "f16", "bf16", "int8", "int4" */
/* "tensor", "block", "token", "channel", "token_channel" */
const char *ifa_granularity_name(ifa_granularity scale);

#endif
