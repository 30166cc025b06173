/* baselines.h - attention on float inputs, by published algorithms, for comparison only.
 *
 * Every accuracy figure of this project is a distance from `f64`, side by side with the same
 * distance of these baselines:
 *
 *   f64             softmax(sm_scale Q K^T) V as it is written, binary64
 *     ref/baselines/attention_f64.c
 *   f32-blas        the same in binary32 through two matrix products
 *     ref/baselines/attention_f32_blas.c
 *   flash-fp16      FlashAttention-2: fp16 operands, weights and output, binary32 sums
 *     ref/baselines/attention_flash_fp16.c
 *   int-flash-full  INT-FlashAttention, Algorithm 1: Q, K, V and the weights in INT8
 *     ref/baselines/attention_int_flash_full.c
 *   int-flash-half  INT-FlashAttention, half INT8: Q, K in INT8, V and the weights in fp16
 *     ref/baselines/attention_int_flash_half.c
 *   fp8-e4m3        FlashAttention-3's FP8: Q, K, V, weights in e4m3, a scale per head
 *     ref/baselines/attention_fp8_e4m3.c
 *   fp8-e5m2        INT-FlashAttention's FP8 baseline: everything cast to e5m2, no scale
 *     ref/baselines/attention_fp8_e5m2.c
 *   int8-e4m3       SageAttention2: Q, K in INT8, K less its mean; V and weights in e4m3
 *     ref/baselines/attention_int8_e4m3.c
 *
 * They take float because a comparison begins before quantization: each baseline rounds the
 * operands in its own way. Nothing here belongs to the bit-exact contract; expf and the matrix
 * library may differ in the last place between machines. On one machine a row's result depends on
 * no other row and no thread count (f32-blas excepted: the library chooses its order). An input
 * past the range of a baseline's format overflows as it does in the published kernel: infinity,
 * then NaN.
 *
 * All functions are reentrant. Outputs must not overlap inputs or each other. The floating-point
 * environment must be the default one (round to nearest).
 * */
#ifndef IFA_REF_BASELINES_H
#define IFA_REF_BASELINES_H

#include "ifa.h"

#define IFA_MAX_BASELINE_TILE 256

/* Mask: query row i stands at position i + nk - nq and sees the keys j with
 *   j <= position (if causal)  and  |j - position| < window (if window > 0).
 * A row that sees no key gives output 0 and lse -inf. */
typedef struct ifa_float_problem {
  int64_t batch; /* 1 .. 65535 */
  /* 1 .. 65535, a multiple of kv_heads; query head h reads key/value head h / (q_heads / kv_heads)
   */
  int64_t q_heads;
  int64_t kv_heads; /* 1 .. q_heads */
  int64_t nq, nk;   /* tokens, 0 .. IFA_MAX_TOKENS */
  int32_t head_dim; /* 1 .. IFA_MAX_HEAD_DIM */
  float sm_scale;   /* 0 or 2^-20 .. 2^20 */
  int32_t causal;   /* 0 or 1 */
  int64_t window;   /* 0: none */
  /* keys per tile, 1 .. IFA_MAX_BASELINE_TILE; f64 and f32-blas have no tiles and do not look */
  int32_t kv_tile;
} ifa_float_problem;

typedef struct ifa_float_inputs {
  const float *q;     /* dense [batch][q_heads][nq][head_dim] */
  const float *k, *v; /* dense [batch][kv_heads][nk][head_dim]; may be NULL if nk is 0 */
  /* which rows to compute: numbers (b * q_heads + h) * nq + i, ascending, no repeats. NULL: all */
  const int64_t *rows;
  int64_t row_count; /* 0 with rows == NULL */
} ifa_float_inputs;

typedef struct ifa_float_outputs {
  double *o; /* dense [computed rows in their order][head_dim] */
  /* NULL, or [computed rows]: natural log-sum-exp of sm_scale * q.k, as the baseline sees the
   * scores */
  double *lse;
} ifa_float_outputs;

/* The list above, in that order. A baseline that this build lacks is listed too. */
int ifa_baseline_count(void);
const char *ifa_baseline_name(int index);        /* NULL outside 0 .. count-1 */
const char *ifa_baseline_description(int index); /* one line; NULL outside */

/* IFA_OK; IFA_BAD_ARGUMENT for an unknown name; IFA_NOT_AVAILABLE with the reason; IFA_BAD_PROBLEM
 * with the field. problem NULL: only whether the baseline is there. ifa_baseline_run gives the same
 * answer. */
ifa_status ifa_baseline_supports(const char *name, const ifa_float_problem *problem,
                                 ifa_message *message);

/* Also IFA_BAD_ARGUMENT (pointers, rows), IFA_BAD_DATA (NaN or infinity anywhere in q, k or v: the
 * message says where) and IFA_OUT_OF_MEMORY. */
ifa_status ifa_baseline_run(const char *name, const ifa_float_problem *problem,
                            const ifa_float_inputs *inputs, const ifa_float_outputs *outputs,
                            ifa_message *message);

#endif
