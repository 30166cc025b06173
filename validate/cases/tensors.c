#include "validate/cases/tensors.h"

#include <stdlib.h>

#include "common/operand.h"
#include "common/problem.h"

void tensor_set_free(tensor_set *set) {
  for (size_t i = 0; i < set->owned_count; i++) free(set->owned[i]);
  *set = (tensor_set){0};
}

static void add(tensor_set *set, const char *name, ifa_tensor_type type, const void *data, int rank,
                const int64_t *shape) {
  static const float nothing[1];
  ifa_tensor *t = &set->list[set->count++];
  *t = (ifa_tensor){.name = name,
                    .type = type,
                    .rank = rank,
                    .data = data ? data : nothing,
                    .bytes = ifa_tensor_type_bytes(type)};
  for (int i = 0; i < rank; i++) {
    t->shape[i] = shape[i];
    t->bytes *= (size_t)shape[i];
  }
}

void tensor_set_add_floats(tensor_set *set, const ifa_data *d) {
  const ifa_problem *p = &d->p;
  int64_t q[4] = {p->batch, p->q_heads, p->nq, p->head_dim},
          kv[4] = {p->batch, p->kv_heads, p->nk, p->head_dim};
  add(set, "q", IFA_TENSOR_F32, d->q, 4, q);
  add(set, "k", IFA_TENSOR_F32, d->k, 4, kv);
  add(set, "v", IFA_TENSOR_F32, d->v, 4, kv);
}

static ifa_status add_integers(tensor_set *set, const char *name, const ifa_problem *p,
                               ifa_type type, ifa_strides strides, const void *data, int64_t heads,
                               int64_t tokens, ifa_message *message) {
  int64_t shape[4] = {p->batch, heads, tokens, p->head_dim}, rows = p->batch * heads * tokens;
  int8_t *dense = malloc((size_t)(rows * p->head_dim) + 1);
  if (!dense) return ifa_fail(message, IFA_OUT_OF_MEMORY, "no memory for %s", name);
  set->owned[set->owned_count++] = dense;
  for (int64_t row = 0; row < rows; row++)
    for (int32_t d = 0; d < p->head_dim; d++)
      dense[row * p->head_dim + d] = (int8_t)ifa_operand_get(
          type, data,
          ifa_offset(strides, row / tokens / heads, row / tokens % heads, row % tokens) + d);
  add(set, name, IFA_TENSOR_I8, dense, 4, shape);
  return IFA_OK;
}

static void add_scales(tensor_set *set, const char *name, const ifa_problem *p,
                       ifa_granularity scale, const float *data, int64_t heads, int64_t tokens,
                       int32_t block) {
  int64_t shape[3] = {p->batch, heads, ifa_scale_count(scale, 1, 1, tokens, p->head_dim, block)};
  add(set, name, IFA_TENSOR_F32, data, 3, shape);
}

ifa_status tensor_set_add_quantized(tensor_set *set, const ifa_data *d, ifa_message *message) {
  const ifa_problem *p = &d->p;
  int64_t channels[3] = {p->batch, p->kv_heads, p->head_dim};
  ifa_status status =
      add_integers(set, "q_int", p, p->q_type, p->q_stride, d->q_int, p->q_heads, p->nq, message);
  if (status == IFA_OK)
    status = add_integers(set, "k_int", p, p->k_type, p->k_stride, d->k_int, p->kv_heads, p->nk,
                          message);
  if (status == IFA_OK)
    status = add_integers(set, "v_int", p, p->v_type, p->v_stride, d->v_int, p->kv_heads, p->nk,
                          message);
  add_scales(set, "q_scale", p, p->q_scale, d->q_scale, p->q_heads, p->nq, p->q_block);
  add_scales(set, "k_scale", p, p->k_scale, d->k_scale, p->kv_heads, p->nk, p->k_block);
  add_scales(set, "v_scale", p, p->v_scale, d->v_scale, p->kv_heads, p->nk, 1);
  if (d->v_channel_scale)
    add(set, "v_channel_scale", IFA_TENSOR_F32, d->v_channel_scale, 3, channels);
  return status;
}

void tensor_set_add_output(tensor_set *set, const ifa_problem *p, const void *o, const float *lse) {
  static const ifa_tensor_type types[] = {
      [IFA_F32] = IFA_TENSOR_F32, [IFA_F16] = IFA_TENSOR_F16, [IFA_BF16] = IFA_TENSOR_BF16};
  int64_t shape[4] = {p->batch, p->q_heads, p->nq, p->head_dim};
  add(set, "o", types[p->out_type], o, 4, shape);
  if (lse) add(set, "lse", IFA_TENSOR_F32, lse, 3, shape);
}
