/* inputs.c - what is asked of operands, scales, chosen rows and output pointers before anything is
 * computed. */
#include "common/inputs.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/contract.h"
#include "common/problem.h"

ifa_status ifa_check_range(const char *name, int64_t value, int64_t low, int64_t high,
                           ifa_message *message) {
  if (value >= low && value <= high) return IFA_OK;
  return ifa_fail(message, IFA_BAD_ARGUMENT,
                  "%s is %" PRId64 "; it must be %" PRId64 " .. %" PRId64, name, value, low, high);
}

static const char *type_word(int64_t value) { return ifa_type_name((ifa_type)value); }
static const char *granularity_word(int64_t value) {
  return ifa_granularity_name((ifa_granularity)value);
}

/* Values of an enumeration with `count` names, of which low .. high are allowed. */
static ifa_status check_word(const char *name, int64_t value, int64_t low, int64_t high,
                             int64_t count, const char *(*word)(int64_t), ifa_message *message) {
  char allowed[96] = "", number[24];
  if (value >= low && value <= high) return IFA_OK;
  for (int64_t i = low; i <= high; i++) {
    strcat(allowed, i == low ? "" : i == high ? " or " : ", ");
    strcat(allowed, word(i)); /* five words of at most 13 bytes, and what is between */
  }
  snprintf(number, sizeof number, "%" PRId64, value);
  return ifa_fail(message, IFA_BAD_ARGUMENT, "%s is %s; it must be %s", name,
                  value >= 0 && value < count ? word(value) : number, allowed);
}

ifa_status ifa_check_type(const char *name, ifa_type value, ifa_type low, ifa_type high,
                          ifa_message *message) {
  return check_word(name, (int64_t)value, low, high, IFA_I4 + 1, type_word, message);
}

ifa_status ifa_check_granularity(const char *name, ifa_granularity value, ifa_message *message) {
  return check_word(name, (int64_t)value, 0, IFA_SCALE_TOKEN_CHANNEL, IFA_SCALE_TOKEN_CHANNEL + 1,
                    granularity_word, message);
}

/* A scale is 0 or in [2^-100, 2^100]. */
ifa_status ifa_check_scales(const char *name, const float *scales, int64_t count,
                            ifa_largest_scale *largest, ifa_message *message) {
  *largest = (ifa_largest_scale){name, -1, 0.0f};
  if (count == 0) return IFA_OK;
  if (!scales) return ifa_fail(message, IFA_BAD_ARGUMENT, "%s is NULL", name);
  for (int64_t i = 0; i < count; i++) {
    float x = scales[i];
    if (!(x == 0.0f || (x >= 0x1p-100f && x <= 0x1p100f)))
      return ifa_fail(message, IFA_BAD_DATA,
                      "%s[%" PRId64 "] is %g; a scale must be 0 or 2^-100 .. 2^100", name, i,
                      (double)x);
    if (x > largest->value || i == 0) *largest = (ifa_largest_scale){name, i, x};
  }
  return IFA_OK;
}

ifa_status ifa_check_octaves(const ifa_problem *p, const ifa_largest_scale *q,
                             const ifa_largest_scale *k, ifa_message *message) {
  double largest_dot =
      (double)p->head_dim * (p->q_type == IFA_I4 ? 8 : 128) * (p->k_type == IFA_I4 ? 8 : 128);
  double octaves = (double)q->value * p->sm_scale * (double)IFA_LOG2E * k->value * largest_dot;
  if (!(octaves <= 0x1p22))
    return ifa_fail(message, IFA_BAD_DATA,
                    "%s[%" PRId64 "] is %g and %s[%" PRId64
                    "] is %g: their product times sm_scale %g allows scores of %g octaves; the "
                    "limit is 2^22",
                    q->name, q->index, (double)q->value, k->name, k->index, (double)k->value,
                    (double)p->sm_scale, octaves);
  return IFA_OK;
}

int64_t ifa_scale_count(ifa_granularity granularity, int64_t batch, int64_t heads, int64_t tokens,
                        int64_t head_dim, int32_t block) {
  int64_t each = 1;
  if (granularity == IFA_SCALE_BLOCK) each = ifa_ceil_div(tokens, block > 0 ? block : 1);
  if (granularity == IFA_SCALE_TOKEN || granularity == IFA_SCALE_TOKEN_CHANNEL) each = tokens;
  if (granularity == IFA_SCALE_CHANNEL) each = head_dim;
  return batch * heads * each;
}

static ifa_status check_data(const ifa_problem *p, const ifa_inputs *in, ifa_message *message) {
  ifa_largest_scale q_max, k_max, v_max, channel_max;
  int64_t q_count =
      ifa_scale_count(p->q_scale, p->batch, p->q_heads, p->nq, p->head_dim, p->q_block);
  int64_t k_count =
      ifa_scale_count(p->k_scale, p->batch, p->kv_heads, p->nk, p->head_dim, p->k_block);
  int64_t v_count = ifa_scale_count(p->v_scale, p->batch, p->kv_heads, p->nk, p->head_dim, 0);
  ifa_status status = ifa_check_scales("q_scale", in->q_scale, q_count, &q_max, message);
  if (status == IFA_OK) status = ifa_check_scales("k_scale", in->k_scale, k_count, &k_max, message);
  if (status == IFA_OK) status = ifa_check_scales("v_scale", in->v_scale, v_count, &v_max, message);
  if (status == IFA_OK && p->v_scale == IFA_SCALE_TOKEN_CHANNEL)
    status = ifa_check_scales("v_channel_scale", in->v_channel_scale,
                              p->batch * p->kv_heads * p->head_dim, &channel_max, message);
  if (status != IFA_OK) return status;

  return ifa_check_octaves(p, &q_max, &k_max, message);
}

static ifa_status check_rows(const ifa_problem *p, const ifa_inputs *in, ifa_message *message) {
  int64_t total = p->batch * p->q_heads * p->nq;
  if (!in->rows && in->row_count != 0)
    return ifa_fail(message, IFA_BAD_ARGUMENT, "row_count is %" PRId64 " but rows is NULL",
                    in->row_count);
  if (in->row_count < 0)
    return ifa_fail(message, IFA_BAD_ARGUMENT, "row_count is %" PRId64, in->row_count);
  for (int64_t i = 0; i < in->row_count; i++) {
    if (in->rows[i] < 0 || in->rows[i] >= total)
      return ifa_fail(message, IFA_BAD_ARGUMENT,
                      "rows[%" PRId64 "] is %" PRId64 "; there are %" PRId64 " rows", i,
                      in->rows[i], total);
    if (i > 0 && in->rows[i] <= in->rows[i - 1])
      return ifa_fail(message, IFA_BAD_ARGUMENT,
                      "rows[%" PRId64 "] is %" PRId64
                      ", not above the one before; rows must ascend",
                      i, in->rows[i]);
  }
  return IFA_OK;
}

static ifa_status check_pointers(const ifa_problem *p, const ifa_inputs *in, const ifa_outputs *out,
                                 ifa_message *message) {
  if (!in) return ifa_fail(message, IFA_BAD_ARGUMENT, "inputs is NULL");
  if (!out) return ifa_fail(message, IFA_BAD_ARGUMENT, "outputs is NULL");
  const struct {
    const char *name;
    const void *pointer;
    int needed;
  } list[] = {{"q", in->q, p->nq > 0},
              {"k", in->k, p->nk > 0},
              {"v", in->v, p->nk > 0},
              {"o", out->o, p->nq > 0},
              {"lse", out->lse, p->lse && p->nq > 0}};
  for (size_t i = 0; i < sizeof list / sizeof list[0]; i++)
    if (list[i].needed && !list[i].pointer)
      return ifa_fail(message, IFA_BAD_ARGUMENT, "%s is NULL", list[i].name);
  if (out->lse && !p->lse)
    return ifa_fail(message, IFA_BAD_ARGUMENT, "lse is given but problem.lse is 0");
  return IFA_OK;
}

ifa_status ifa_inputs_check(const ifa_problem *p, const ifa_inputs *in, const ifa_outputs *out,
                            ifa_message *message) {
  ifa_status status = check_pointers(p, in, out, message);
  if (status == IFA_OK) status = check_data(p, in, message);
  return status == IFA_OK ? check_rows(p, in, message) : status;
}
