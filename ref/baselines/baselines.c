/* baselines.c - the list of baselines, and every check of a call before one of them begins. */
#include "ref/baselines/baselines.h"

#include <limits.h>
#include <math.h>
#include <string.h>

#include "ref/baselines/tiles.h"

typedef struct baseline {
  const char *name, *description;
  ifa_baseline_function *run; /* NULL: this build lacks it */
  const char *missing;        /* why */
} baseline;

static const baseline baselines[] = {
    {"f64", "textbook attention in binary64, the truth of the error tables", ifa_attention_f64,
     NULL},
#ifdef IFA_HAVE_OPENBLAS
    {"f32-blas", "textbook attention in binary32 through OpenBLAS", ifa_attention_f32_blas, NULL},
#else
    {"f32-blas", "textbook attention in binary32 through OpenBLAS", NULL, "built without OpenBLAS"},
#endif
    {"flash-fp16", "FlashAttention-2: fp16 operands and weights, binary32 sums",
     ifa_attention_flash_fp16, NULL},
    {"int-flash-full", "INT-FlashAttention, Algorithm 1: everything INT8, V per head",
     ifa_attention_int_flash_full, NULL},
    {"int-flash-half", "INT-FlashAttention, half: Q, K INT8 per token, P, V fp16",
     ifa_attention_int_flash_half, NULL},
    {"fp8-e4m3", "FlashAttention-3 FP8: everything e4m3, a scale per head", ifa_attention_fp8_e4m3,
     NULL},
    {"fp8-e5m2", "INT-FlashAttention's FP8 baseline: everything cast to e5m2, no scale",
     ifa_attention_fp8_e5m2, NULL},
    {"int8-e4m3", "SageAttention2: Q, K INT8 per token, K less its mean, P, V e4m3",
     ifa_attention_int8_e4m3, NULL},
};

int ifa_baseline_count(void) { return (int)(sizeof baselines / sizeof baselines[0]); }

const char *ifa_baseline_name(int index) {
  return index >= 0 && index < ifa_baseline_count() ? baselines[index].name : NULL;
}

const char *ifa_baseline_description(int index) {
  return index >= 0 && index < ifa_baseline_count() ? baselines[index].description : NULL;
}

static const baseline *find(const char *name) {
  for (int i = 0; name && i < ifa_baseline_count(); i++) {
    if (strcmp(baselines[i].name, name) == 0) return &baselines[i];
  }
  return NULL;
}

/* ---- problem ---- */

static ifa_status check_range(const char *field, int64_t value, int64_t low, int64_t high,
                              ifa_message *message) {
  if (value >= low && value <= high) return IFA_OK;
  return ifa_fail(message, IFA_BAD_PROBLEM, "%s is %lld, must be %lld to %lld", field,
                  (long long)value, (long long)low, (long long)high);
}

/* Bytes of the widest dense array, batch * heads * tokens * head_dim doubles, must stay below 2^63;
 * the other factors are below 2^16 * 2^16 * 2^25, so only the last product can overflow. */
static ifa_status check_size(const ifa_float_problem *p, ifa_message *message) {
  int64_t tokens = p->nq > p->nk ? p->nq : p->nk;
  int64_t rows = p->batch * p->q_heads * (tokens ? tokens : 1);
  if (rows <= INT64_MAX / ((int64_t)sizeof(double) * p->head_dim)) return IFA_OK;
  return ifa_fail(message, IFA_BAD_PROBLEM,
                  "batch * q_heads * tokens * head_dim overflows: %lld rows of %d", (long long)rows,
                  (int)p->head_dim);
}

static ifa_status check_problem(const ifa_float_problem *p, ifa_message *message) {
  ifa_status status;
  if ((status = check_range("batch", p->batch, 1, 65535, message))) return status;
  if ((status = check_range("q_heads", p->q_heads, 1, 65535, message))) return status;
  if ((status = check_range("kv_heads", p->kv_heads, 1, p->q_heads, message))) return status;
  if ((status = check_range("nq", p->nq, 0, IFA_MAX_TOKENS, message))) return status;
  if ((status = check_range("nk", p->nk, 0, IFA_MAX_TOKENS, message))) return status;
  if ((status = check_range("head_dim", p->head_dim, 1, IFA_MAX_HEAD_DIM, message))) return status;
  if ((status = check_range("causal", p->causal, 0, 1, message))) return status;
  if ((status = check_range("window", p->window, 0, INT64_MAX, message))) return status;
  if ((status = check_range("kv_tile", p->kv_tile, 1, IFA_MAX_BASELINE_TILE, message)))
    return status;
  if (p->q_heads % p->kv_heads != 0) {
    return ifa_fail(message, IFA_BAD_PROBLEM,
                    "q_heads is %lld, must be a multiple of kv_heads, %lld", (long long)p->q_heads,
                    (long long)p->kv_heads);
  }
  if (!(p->sm_scale == 0.0f || (p->sm_scale >= 0x1p-20f && p->sm_scale <= 0x1p20f))) {
    return ifa_fail(message, IFA_BAD_PROBLEM, "sm_scale is %g, must be 0 or 2^-20 to 2^20",
                    (double)p->sm_scale);
  }
  return check_size(p, message);
}

ifa_status ifa_baseline_supports(const char *name, const ifa_float_problem *problem,
                                 ifa_message *message) {
  const baseline *b = find(name);
  if (!b)
    return ifa_fail(message, IFA_BAD_ARGUMENT, "no baseline is named '%s'", name ? name : "(null)");
  if (!b->run) return ifa_fail(message, IFA_NOT_AVAILABLE, "%s: %s", name, b->missing);
  ifa_status status = problem ? check_problem(problem, message) : IFA_OK;
  return status ? status : ifa_succeed(message);
}

/* ---- call ---- */

static ifa_status check_rows(const ifa_float_problem *p, const ifa_float_inputs *in,
                             ifa_message *message) {
  int64_t rows = p->batch * p->q_heads * p->nq;
  if (!in->rows && in->row_count != 0) {
    return ifa_fail(message, IFA_BAD_ARGUMENT, "row_count is %lld without rows",
                    (long long)in->row_count);
  }
  if (in->row_count < 0)
    return ifa_fail(message, IFA_BAD_ARGUMENT, "row_count is %lld", (long long)in->row_count);
  for (int64_t r = 0; r < in->row_count; r++) {
    int64_t row = in->rows[r], lowest = r > 0 ? in->rows[r - 1] + 1 : 0;
    if (row >= lowest && row < rows) continue;
    return ifa_fail(message, IFA_BAD_ARGUMENT, "rows[%lld] is %lld, must be %lld to %lld",
                    (long long)r, (long long)row, (long long)lowest, (long long)(rows - 1));
  }
  return IFA_OK;
}

static ifa_status check_pointers(const ifa_float_problem *p, const ifa_float_inputs *in,
                                 const ifa_float_outputs *out, ifa_message *message) {
  const char *missing = NULL;
  if (p->nq > 0 && !in->q) missing = "q";
  if (p->nk > 0 && !in->k) missing = "k";
  if (p->nk > 0 && !in->v) missing = "v";
  if (ifa_float_row_count(p, in) > 0 && !out->o) missing = "o";
  return missing ? ifa_fail(message, IFA_BAD_ARGUMENT, "%s is NULL", missing) : IFA_OK;
}

/* x: dense [batch][heads][tokens][head_dim]. */
static ifa_status check_finite(const char *tensor, const float *x, const ifa_float_problem *p,
                               int64_t heads, int64_t tokens, ifa_message *message) {
  int64_t count = p->batch * heads * tokens * p->head_dim;
  for (int64_t at = 0; at < count; at++) {
    if (isfinite(x[at])) continue;
    int64_t row = at / p->head_dim, head = row / tokens;
    return ifa_fail(message, IFA_BAD_DATA, "%s[batch %lld][head %lld][token %lld][%lld] is %s",
                    tensor, (long long)(head / heads), (long long)(head % heads),
                    (long long)(row % tokens), (long long)(at % p->head_dim),
                    isnan(x[at]) ? "NaN" : "infinite");
  }
  return IFA_OK;
}

ifa_status ifa_baseline_run(const char *name, const ifa_float_problem *problem,
                            const ifa_float_inputs *inputs, const ifa_float_outputs *outputs,
                            ifa_message *message) {
  if (!problem || !inputs || !outputs)
    return ifa_fail(message, IFA_BAD_ARGUMENT, "problem, inputs or outputs is NULL");
  ifa_status status = ifa_baseline_supports(name, problem, message);
  if (status) return status;
  if ((status = check_rows(problem, inputs, message))) return status;
  if ((status = check_pointers(problem, inputs, outputs, message))) return status;
  if ((status = check_finite("q", inputs->q, problem, problem->q_heads, problem->nq, message)))
    return status;
  if ((status = check_finite("k", inputs->k, problem, problem->kv_heads, problem->nk, message)))
    return status;
  if ((status = check_finite("v", inputs->v, problem, problem->kv_heads, problem->nk, message)))
    return status;
  return find(name)->run(problem, inputs, outputs, message);
}
