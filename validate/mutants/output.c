/* output.c - of the kernel with faults: a row's outputs and its log-sum-exp (docs/numerics.md,
 * sections 10 and 11). */
#include "validate/mutants/call.h"

static float channel_scale(const kernel *k, const row *r, const float *scales, int32_t d) {
  const ifa_problem *p = k->p;
  int64_t matrix = r->at.batch * p->kv_heads + r->at.kv_head;
  if (FAULT(output_channel_of_head_0)) matrix = r->at.batch * p->kv_heads;
  if (FAULT(output_channel_of_q_head)) matrix = r->at.batch * p->kv_heads + r->at.head;
  if (FAULT(scale_batch_ignored)) matrix = r->at.kv_head;
  return mutant_scale_at(scales, p->batch * p->kv_heads * p->head_dim,
                         matrix * p->head_dim + d + (FAULT(output_channel_next) ? 1 : 0));
}

static float output_at(const kernel *k, const row *r, int32_t d) {
  const ifa_problem *p = k->p;
  const ifa_row_sums *s = &r->sums;
  if (s->unit == IFA_NO_UNIT) return FAULT(dead_row_nan) ? NAN : 0.0f;
  if (s->value_unit == IFA_NO_UNIT) return FAULT(no_value_unit_nan) ? NAN : 0.0f;
  float quotient =
      FAULT(output_reciprocal) ? ifa_mul(s->o[d], ifa_div(1.0f, s->l)) : ifa_div(s->o[d], s->l);
  if (!ifa_values_per_token(p)) {
    float scale =
        p->v_scale == IFA_SCALE_TENSOR
            ? k->in->v_scale[FAULT(scale_batch_ignored) ? r->at.kv_head
                                                        : r->at.batch * p->kv_heads + r->at.kv_head]
            : channel_scale(k, r, k->in->v_scale, d);
    return FAULT(output_scaled_first) ? ifa_div(ifa_mul(s->o[d], scale), s->l)
                                      : ifa_mul(quotient, scale);
  }
  int32_t up = s->value_unit - s->unit;
  float scale =
      p->v_scale == IFA_SCALE_TOKEN ? 1.0f : channel_scale(k, r, k->in->v_channel_scale, d);
  if (FAULT(output_channel_first)) return scalbnf(ifa_mul(quotient, scale), up);
  if (FAULT(output_factor_flushed))
    return ifa_mul(ifa_mul(quotient, up > 127 ? INFINITY
                                     : up > 0 ? scalbnf(1.0f, up)
                                              : ifa_pow2(up)),
                   scale);
  return ifa_mul(scalbnf(quotient, up), scale);
}

static uint16_t as_f16(const kernel *k, float x) {
  uint16_t h = ifa_f32_to_f16(x);
  float back = ifa_f16_to_f32(h);
  if (FAULT(output_f16_truncated) && fabsf(back) > fabsf(x)) h--;
  if (FAULT(output_f16_half_away) && fabsf(back) < fabsf(x) && fabsf(x) < 65504.0f) {
    double above = (double)ifa_f16_to_f32((uint16_t)(h + 1));
    if (fabs(above - (double)x) == fabs((double)x - (double)back)) h++;
  }
  if (FAULT(output_f16_saturates) && (h & 0x7fff) == 0x7c00) h--;
  if (FAULT(output_f16_flushed) && (h & 0x7fff) < 0x400) h &= 0x8000;
  return h;
}

static uint16_t as_bf16(const kernel *k, float x) {
  if (FAULT(output_bf16_truncated)) return (uint16_t)(ifa_bits_of_f32(x) >> 16);
  if (FAULT(output_bf16_half_away)) return (uint16_t)((ifa_bits_of_f32(x) + 0x8000u) >> 16);
  if (FAULT(output_bf16_through_f16)) x = ifa_f16_to_f32(ifa_f32_to_f16(x));
  return ifa_f32_to_bf16(x);
}

static void write_element(const kernel *k, int64_t index, float x) {
  if (FAULT(output_negative_zero) && x == 0.0f) x = 0.0f;
  if (FAULT(output_f32_flushed) && fabsf(x) < FLT_MIN) x = copysignf(0.0f, x);
  if (k->p->out_type == IFA_F32) ((float *)k->out->o)[index] = x;
  else ((uint16_t *)k->out->o)[index] = k->p->out_type == IFA_F16 ? as_f16(k, x) : as_bf16(k, x);
}

/* Section 11. */
static float log_sum_exp(const kernel *k, const ifa_row_sums *s) {
  int32_t whole, e = FAULT(lse_without_unit) ? 0 : s->unit;
  float fraction = ifa_log2(s->l, &whole), offset = FAULT(lse_without_255) ? 0.0f : -7.99435344f,
        ln2 = FAULT(lse_in_octaves) ? 1.0f : 0.693147182f;
  if (FAULT(lse_libm)) fraction = log2f(s->l), whole = 0;
  if (FAULT(lse_range_1_2)) { /* the same series, from a significand of [1, 2) */
    int exponent;
    float x = 2.0f * frexpf(s->l, &exponent), t = ifa_div(ifa_add(x, -1.0f), ifa_add(x, 1.0f)),
          q = ifa_mul(t, t);
    whole = exponent - 1;
    fraction =
        ifa_mul(ifa_fma(ifa_fma(ifa_fma(ifa_fma(q, 0.320598898f, 0.412198583f), q, 0.577078016f), q,
                                0.961796694f),
                        q, 2.88539008f),
                t);
  }
  fraction = ifa_add(fraction, offset);
  if (FAULT(lse_not_fused))
    return ifa_add(ifa_mul((float)(e + whole), ln2), ifa_mul(fraction, ln2));
  return ifa_fma((float)(e + whole), ln2, ifa_mul(fraction, ln2));
}

void mutant_write_lse(const kernel *k, const row *r) {
  const ifa_problem *p = k->p;
  int64_t at = r->at.index;
  int dead = r->sums.unit == IFA_NO_UNIT;
  if (FAULT(lse_index_of_row_number)) at = r->number;
  if (FAULT(lse_heads_inside)) at = (r->at.batch * p->nq + r->at.row) * p->q_heads + r->at.head;
  if (dead && (FAULT(lse_dead_row_unwritten) || FAULT(dead_row_unwritten))) return;
  k->out->lse[at] = !dead ? log_sum_exp(k, &r->sums) : FAULT(lse_dead_row_zero) ? 0.0f : -INFINITY;
}

void mutant_write_row(const kernel *k, const row *r) {
  const ifa_problem *p = k->p;
  int64_t total = p->batch * p->q_heads * p->nq,
          index = FAULT(output_rows_ignored) ? r->number : r->at.index, written = p->head_dim;
  int beside = FAULT(output_beside) && k->in->rows && index + 1 < total;
  ifa_strides s = FAULT(output_stride_ignored)
                      ? ifa_strides_bhnd(p->out_type, p->q_heads, p->nq, p->head_dim)
                      : p->o_stride;
  if (FAULT(dead_row_unwritten) && r->sums.unit == IFA_NO_UNIT) return;
  if (FAULT(output_last_row_unwritten) && r->at.row == p->nq - 1 && p->nq % ROW_BLOCK == 1) return;
  if (FAULT(output_tail_unwritten)) written = p->head_dim / 4 * 4;
  for (int64_t i = index; i <= index + beside; i++) {
    int64_t matrix = i / p->nq,
            base = ifa_offset(s, matrix / p->q_heads, matrix % p->q_heads, i % p->nq);
    for (int32_t d = 0; d < written; d++) write_element(k, base + d, output_at(k, r, d));
  }
}
