/* attention.c - softmax attention on the floats in plain C: the smallest plug-in.
 *
 *     cc -O2 -shared -fPIC -I include examples/plugin_c/attention.c -o libattention.so -lm
 *     validate run --plugin ./libattention.so
 *
 * It claims to be `close`, with every number in binary32. A kernel that claims "exact" gives the
 * contract's bits: it reads in->operands (the quantized tensors and their scales) instead of the
 * floats, and everything else is the same. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "ifa_plugin.h"

static ifa_status supports(const ifa_problem *p, ifa_message *why) {
  if (p->out_type == IFA_F32) return IFA_OK;
  snprintf(why->text, sizeof why->text, "out"); /* which field */
  return IFA_UNSUPPORTED;                       /* counted as unsupported, never as passed */
}

/* Keys that row i sees: *first <= j < *end. Causal masks are aligned at the bottom right. */
static void live_keys(const ifa_problem *p, int64_t i, int64_t *first, int64_t *end) {
  int64_t position = i + p->nk - p->nq;
  *first = p->window && position - p->window + 1 > 0 ? position - p->window + 1 : 0;
  *end = p->causal ? position + 1 : p->window ? position + p->window : p->nk;
  if (*end > p->nk) *end = p->nk;
}

/* One row; weights: room for nk floats. */
static void attend(const ifa_problem *p, const float *q, const float *k, const float *v,
                   int64_t first, int64_t end, float *weights, float *o, float *lse) {
  float top = -INFINITY, sum = 0;
  for (int64_t j = first; j < end; j++) {
    float score = 0;
    for (int32_t d = 0; d < p->head_dim; d++) score += q[d] * k[j * p->head_dim + d];
    weights[j] = score * p->sm_scale;
    top = fmaxf(top, weights[j]);
  }
  for (int64_t j = first; j < end; j++) sum += weights[j] = expf(weights[j] - top);
  for (int32_t d = 0; d < p->head_dim; d++) {
    o[d] = 0;
    for (int64_t j = first; j < end; j++) o[d] += weights[j] * v[j * p->head_dim + d];
    if (sum > 0) o[d] /= sum; /* a row that sees no key gives 0 */
  }
  if (lse) *lse = top + logf(sum); /* and -infinity */
}

static ifa_status run(const ifa_problem *p, const ifa_plugin_inputs *in, const ifa_outputs *out,
                      ifa_message *why) {
  (void)why;
  /* asked of "exact" kernels that are wrong: the steps in between. This one has none to show */
  if (out->stages) return IFA_UNSUPPORTED;
  const int64_t *rows = in->operands.rows; /* NULL: all */
  int64_t count = rows ? in->operands.row_count : p->batch * p->q_heads * p->nq;
  float *weights = malloc(((size_t)p->nk + 1) * sizeof *weights);
  if (!weights) return IFA_OUT_OF_MEMORY;
  for (int64_t r = 0; r < count; r++) {
    int64_t row = rows ? rows[r] : r, i = row % p->nq, head = row / p->nq % p->q_heads,
            batch = row / p->nq / p->q_heads, first, end;
    int64_t kv = (batch * p->kv_heads + head / (p->q_heads / p->kv_heads)) * p->nk * p->head_dim;
    float *o = (float *)out->o + batch * p->o_stride.batch + head * p->o_stride.head +
               i * p->o_stride.token;
    live_keys(p, i, &first, &end);
    attend(p, in->q + row * p->head_dim, in->k + kv, in->v + kv, first, end, weights, o,
           out->lse ? &out->lse[row] : NULL);
  }
  free(weights);
  return IFA_OK;
}

static const ifa_plugin plugin = {.abi = IFA_PLUGIN_ABI,
                                  .contract = IFA_CONTRACT_VERSION,
                                  .name = "plain-c",
                                  .claim = "close q=f32 k=f32 v=f32",
                                  .supports = supports,
                                  .run = run};

const ifa_plugin *ifa_plugin_get(void) { return &plugin; }
