/* operands.c - of the kernel with faults: operands unpacked to 16 bits, scales, and which keys a
 * row sees (docs/numerics.md, sections 2 and 3). */
#include "validate/mutants/call.h"

#include <string.h>

static int64_t inside(int64_t index, int64_t count) {
  return index < count ? index : index % count;
}

static int32_t operand(const kernel *k, ifa_type type, const void *data, int64_t index, int is_v,
                       int is_q) {
  int32_t value;
  if (type == IFA_I4) {
    value = ifa_int4_get(data, FAULT(int4_nibbles_swapped) ? index ^ 1 : index);
    if (FAULT(int4_unsigned) || (FAULT(int4_low_nibble_unsigned) && index % 2 == 0)) value &= 15;
  } else {
    value = ((const int8_t *)data)[index];
    if ((FAULT(q_unsigned) && is_q) || (FAULT(v_unsigned) && is_v)) value &= 255;
    if (FAULT(minus_128_clipped) && value == -128) value = -127;
  }
  return value;
}

/* Row (batch, head, token) of an operand to 16 bits, padded with zeros. */
static void unpack_plainly(const kernel *k, char name, int64_t batch, int64_t head, int64_t token,
                           int16_t *to) {
  const ifa_problem *p = k->p;
  const void *data = name == 'q' ? k->in->q : name == 'k' ? k->in->k : k->in->v;
  ifa_type type = name == 'q' ? p->q_type : name == 'k' ? p->k_type : p->v_type;
  int64_t base = ifa_offset(name == 'q'   ? p->q_stride
                            : name == 'k' ? p->k_stride
                                          : p->v_stride,
                            batch, head, token);
  if (type == IFA_I8)
    for (int32_t d = 0; d < p->head_dim; d++) to[d] = ((const int8_t *)data)[base + d];
  else
    for (int32_t d = 0; d < p->head_dim; d++) to[d] = (int16_t)ifa_int4_get(data, base + d);
  for (int32_t d = p->head_dim; d < k->dim; d++) to[d] = 0;
}

/* The same with the faults that lie here. */
void mutant_unpack(const kernel *k, char name, int64_t batch, int64_t head, int64_t token,
                   int16_t *to) {
  const ifa_problem *p = k->p;
  if (!k->operand_fault) {
    unpack_plainly(k, name, batch, head, token, to);
    return;
  }
  const void *data = name == 'q' ? k->in->q : name == 'k' ? k->in->k : k->in->v;
  ifa_type type = name == 'q' ? p->q_type : name == 'k' ? p->k_type : p->v_type;
  int64_t heads = name == 'q' ? p->q_heads : p->kv_heads, tokens = name == 'q' ? p->nq : p->nk;
  ifa_strides actual = name == 'q'   ? p->q_stride
                       : name == 'k' ? p->k_stride
                                     : p->v_stride,
              s = actual;
  int64_t extent = ifa_extent_bytes(type, actual, p->batch, heads, tokens, p->head_dim) *
                   (type == IFA_I4 ? 2 : 1);
  if (FAULT(k_batch_ignored) && name == 'k') batch = 0;
  if (FAULT(v_batch_ignored) && name == 'v') batch = 0;
  if (FAULT(k_batch_stride_of_q_heads) && name == 'k') s.batch = s.batch / p->kv_heads * p->q_heads;
  if (FAULT(k_stride_ignored) && name == 'k')
    s = ifa_strides_bhnd(type, heads, tokens, p->head_dim);
  if (FAULT(v_stride_of_k) && name == 'v') s = p->k_stride;
  if (FAULT(int4_odd_row_unpadded) && type == IFA_I4 && p->head_dim % 2)
    s.token = s.token / (p->head_dim + 1) * p->head_dim;
  if (FAULT(key_index_16_bits) && name != 'q') token = (uint16_t)token;
  if (FAULT(q_last_row_clamped) && name == 'q' && tokens > 1) token = ifa_min64(token, tokens - 2);
  int64_t base = ifa_offset(s, batch, head, token);
  for (int32_t d = 0; d < k->dim; d++) {
    int32_t source = d;
    if (FAULT(dim_above_128_repeats) && name == 'v') source = d % 128;
    if (FAULT(v_columns_swapped) && name == 'v' && (d ^ 1) < p->head_dim) source = d ^ 1;
    if (d < p->head_dim || (FAULT(dim_padding_not_zero) && name != 'v'))
      to[d] =
          (int16_t)operand(k, type, data, inside(base + source, extent), name == 'v', name == 'q');
    else to[d] = 0;
  }
}

float mutant_scale_at(const float *scales, int64_t count, int64_t index) {
  return scales[inside(index, count)];
}

void mutant_live_keys(const kernel *k, int64_t i, int64_t *first, int64_t *end) {
  const ifa_problem *p = k->p;
  int64_t position = i + p->nk - p->nq, w = p->window, left = position - w + 1,
          right = position + w;
  if (FAULT(causal_top_left)) position = i;
  if (FAULT(position_clamped) && position < 0) position = 0;
  if (FAULT(causal_top_left) || FAULT(position_clamped)) {
    left = position - w + 1;
    right = position + w;
  }
  if (FAULT(window_left_one_more)) left--;
  if (FAULT(window_left_one_less)) left++;
  if (FAULT(window_right_one_more)) right++;
  if (FAULT(window_right_one_less)) right--;
  if (FAULT(window_right_ignored)) right = p->nk;
  if (FAULT(window_halved)) left = position - w / 2, right = position + w / 2 + 1;
  if (FAULT(window_ignored_if_causal) && p->causal) w = 0;
  *first = w && left > 0 ? left : 0;
  if (FAULT(window_first_tile_whole)) *first = *first / k->tile * k->tile;
  *end = p->causal ? position + 1 : w ? right : p->nk;
  if (p->causal) {
    if (FAULT(causal_strict)) *end -= 1;
    if (FAULT(causal_one_more)) *end += 1;
    if (FAULT(causal_whole_tile) && *end > 0) *end = ifa_ceil_div(*end, k->tile) * k->tile;
    if (FAULT(causal_tile_count) && position % k->tile == 0) *end = position;
    if (FAULT(causal_of_row_block))
      *end = ifa_min64((i / ROW_BLOCK + 1) * ROW_BLOCK, p->nq) - 1 + p->nk - p->nq + 1;
  }
  if (*end > p->nk) *end = p->nk;
  if (FAULT(last_key_dropped) && *end == p->nk) *end -= 1;
  if (FAULT(last_tile_dropped)) *end = ifa_min64(*end, p->nk / k->tile * k->tile);
  if (FAULT(last_split_dropped) && p->nk > k->split)
    *end = ifa_min64(*end, p->nk / k->split * k->split);
  if (FAULT(dead_row_mean) && *end <= *first) *first = 0, *end = p->nk;
}
