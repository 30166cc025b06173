/* tiles.h - what the baselines share: rows, masks, rounding to a grid, and the tile loop with a
 * running maximum.
 *
 * The tiled baselines differ in where they round, not in the loop. A recipe says where:
 *
 *   grid     the operands become x (numbers of a small format) times a scale per token, channel or
 *     head     grid.c
 *   weight   what multiplies V in place of p = exp(S - m), as numbers of a small format
 *   l        whether the denominator sums p or the weight
 *
 * The loop itself is in tiles.c. Internal to ref/; arguments were checked by ifa_baseline_run. */
#ifndef IFA_REF_BASELINE_TILES_H
#define IFA_REF_BASELINE_TILES_H

#include "common/message.h"
#include "ref/baselines/baselines.h"

/* ---- rows ---- */

/* Rows to compute, and the number of the index-th of them. */
static inline int64_t ifa_float_row_count(const ifa_float_problem *p, const ifa_float_inputs *in) {
  return in->rows ? in->row_count : p->batch * p->q_heads * p->nq;
}
static inline int64_t ifa_float_row(const ifa_float_inputs *in, int64_t index) {
  return in->rows ? in->rows[index] : index;
}

/* Matrix of K and V that belongs to matrix `head` = b * q_heads + h of Q: b * kv_heads + h /
 * (q_heads / kv_heads). Batches keep the ratio, so one division does both. */
static inline int64_t ifa_float_kv_head(const ifa_float_problem *p, int64_t head) {
  return head / (p->q_heads / p->kv_heads);
}

/* Keys that query row i sees: begin <= j < end, empty if begin >= end. */
typedef struct ifa_key_range {
  int64_t begin, end;
} ifa_key_range;

ifa_key_range ifa_live_keys(const ifa_float_problem *p, int64_t i);

/* ---- grids ---- */

/* Nearest number of the format, as a float. int8 is the integers -127 .. 127. Ties go to even. */
float ifa_round_int8(float x);
float ifa_round_f16(float x);
float ifa_round_e4m3(float x);
float ifa_round_e5m2(float x);

typedef enum ifa_scale_group {
  IFA_UNSCALED = 0,
  IFA_PER_HEAD,
  IFA_PER_TOKEN,
  IFA_PER_CHANNEL
} ifa_scale_group;

/* x = round(source / scale), scale = max |source| over the group / largest; IFA_UNSCALED: scale 1.
 */
typedef struct ifa_grid {
  ifa_scale_group group;
  float largest; /* of the format: 127 or 448; not read if IFA_UNSCALED */
  float (*round)(float);
} ifa_grid;

/* One head's matrix on a grid: element [t][c] stands for x[t][c] * scale[t], or scale[c] if the
 * group is IFA_PER_CHANNEL (IFA_PER_HEAD and IFA_UNSCALED repeat their scale, so either index reads
 * it). */
typedef struct ifa_operand {
  float *x;     /* [tokens][head_dim] */
  float *scale; /* [max(tokens, head_dim)] */
} ifa_operand;

/* A group of zeros gives scale 0 and x 0. operand->x may be source itself. */
void ifa_put_on_grid(const ifa_grid *grid, const float *source, int64_t tokens, int32_t head_dim,
                     ifa_operand *operand);

/* ---- tiles ---- */

typedef struct ifa_tile_recipe {
  ifa_grid q, k; /* unscaled, per head or per token */
  ifa_grid v;    /* unscaled, per head or per channel */
  /* 1: subtract each channel's mean over the keys from K first; the softmax does not notice */
  int k_minus_mean;
  float (*weight)(float p); /* what multiplies V; 0 <= p <= 1 */
  float weight_of_one;      /* what stands for p = 1: 1, 127, 256 or 448 */
  int l_sums_weights;       /* 0: l sums p; 1: l sums weight(p) */
  float (*output)(float o); /* rounding of the result; NULL: none */
} ifa_tile_recipe;

ifa_status ifa_tiles_run(const ifa_tile_recipe *recipe, const ifa_float_problem *p,
                         const ifa_float_inputs *in, const ifa_float_outputs *out,
                         ifa_message *message);

/* ---- baselines ---- */

typedef ifa_status ifa_baseline_function(const ifa_float_problem *p, const ifa_float_inputs *in,
                                         const ifa_float_outputs *out, ifa_message *message);

ifa_baseline_function ifa_attention_f64, ifa_attention_f32_blas, ifa_attention_flash_fp16,
    ifa_attention_int_flash_full, ifa_attention_int_flash_half, ifa_attention_fp8_e4m3,
    ifa_attention_fp8_e5m2, ifa_attention_int8_e4m3;

#endif
