#include "ref/rows.h"

void ifa_merge_split(ifa_row_sums *row, const ifa_split_sums *split, int32_t head_dim) {
  if (split->unit == IFA_NO_UNIT) return; /* no live key */
  int32_t e = split->unit, ev = split->value_unit;
  if (row->unit != IFA_NO_UNIT && row->unit > e) e = row->unit;
  if (row->value_unit != IFA_NO_UNIT && row->value_unit > ev) ev = row->value_unit;
  if (row->unit == IFA_NO_UNIT) {
    row->l = (float)split->l;
  } else {
    row->l = ifa_merge(row->l, row->unit, split->l, split->unit, e);
  }
  row->unit = e;

  /* every value scale was 0: the split adds nothing to o */
  if (split->value_unit == IFA_NO_UNIT) return;
  for (int32_t d = 0; d < head_dim; d++)
    row->o[d] = row->value_unit == IFA_NO_UNIT
                    ? (float)split->acc[d]
                    : ifa_merge(row->o[d], row->value_unit, split->acc[d], split->value_unit, ev);
  row->value_unit = ev;
}

static float output_at(const ifa_problem *p, const ifa_inputs *in, int64_t kv_matrix,
                       const ifa_row_sums *row, int32_t d) {
  /* no live key, or all values 0 */
  if (row->unit == IFA_NO_UNIT || row->value_unit == IFA_NO_UNIT) return 0.0f;
  switch (p->v_scale) {
    case IFA_SCALE_TENSOR: return ifa_output(row->o[d], row->l, in->v_scale[kv_matrix]);
    case IFA_SCALE_CHANNEL:
      return ifa_output(row->o[d], row->l, in->v_scale[kv_matrix * p->head_dim + d]);
    default: break;
  }
  float out = ifa_output_token(row->o[d], row->l, row->value_unit - row->unit);
  return p->v_scale == IFA_SCALE_TOKEN
             ? out
             : ifa_mul(out, in->v_channel_scale[kv_matrix * p->head_dim + d]);
}

void ifa_write_row(const ifa_problem *p, const ifa_inputs *in, const ifa_outputs *out, ifa_row at,
                   const ifa_row_sums *row) {
  int64_t kv_matrix = at.batch * p->kv_heads + at.kv_head,
          base = ifa_offset(p->o_stride, at.batch, at.head, at.row);
  for (int32_t d = 0; d < p->head_dim; d++)
    ifa_float_set(p->out_type, out->o, base + d, output_at(p, in, kv_matrix, row, d));
  if (p->lse)
    out->lse[at.index] = row->unit == IFA_NO_UNIT ? -INFINITY : ifa_lse(row->l, row->unit);
}
