/* right.c - plug-ins that are right, for the tests: the library's backends by their names (exact),
 * and the float baselines (close). IFA_TEST_KERNEL chooses: a backend, or a baseline; default
 * scalar. IFA_TEST_SPOIL: the number of one row that gets the next row's output. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/operand.h"
#include "common/problem.h"
#include "ifa_plugin.h"
#include "ref/baselines/baselines.h"

static const struct {
  const char *name, *claim;
} kernels[] = {
    {"scalar", "exact"},
    {"openmp", "exact"},
    {"f64", "close q=f32 k=f32 v=f32"},
    {"f32-blas", "close q=f32 k=f32 v=f32"},
    {"flash-fp16", "close q=f16 k=f16 v=f16 p=f16 o=f16"},
    {"int-flash-full", "close q=int8/token k=int8/token v=int8/head p=int8 o=f16"},
    {"int-flash-half", "close q=int8/token k=int8/token v=f16 p=f16 o=f16"},
    {"fp8-e4m3", "close q=e4m3/head k=e4m3/head v=e4m3/head p=e4m3"},
    {"fp8-e5m2", "close q=e5m2 k=e5m2 v=e5m2 p=e5m2 o=e5m2"},
    {"int8-e4m3", "close q=int8/token k=int8/token kmean=1 v=e4m3/channel p=e4m3"},
};

static ifa_plugin plugin = {.abi = IFA_PLUGIN_ABI, .contract = IFA_CONTRACT_VERSION};

static ifa_status run_baseline(const ifa_problem *p, const ifa_plugin_inputs *in,
                               const ifa_outputs *out, ifa_message *why) {
  int64_t rows = in->operands.rows ? in->operands.row_count : p->batch * p->q_heads * p->nq;
  double *o = malloc(((size_t)(rows * p->head_dim) + 1) * sizeof *o),
         *lse = malloc(((size_t)rows + 1) * sizeof *lse);
  ifa_float_problem problem = {.batch = p->batch,
                               .q_heads = p->q_heads,
                               .kv_heads = p->kv_heads,
                               .nq = p->nq,
                               .nk = p->nk,
                               .head_dim = p->head_dim,
                               .sm_scale = p->sm_scale,
                               .causal = p->causal,
                               .window = p->window,
                               .kv_tile = p->kv_tile};
  ifa_float_inputs floats = {.q = in->q,
                             .k = in->k,
                             .v = in->v,
                             .rows = in->operands.rows,
                             .row_count = in->operands.row_count};
  ifa_float_outputs outputs = {.o = o, .lse = p->lse ? lse : NULL};
  ifa_status status = ifa_baseline_run(plugin.name, &problem, &floats, &outputs, why);
  for (int64_t r = 0; status == IFA_OK && r < rows; r++) {
    int64_t row = in->operands.rows ? in->operands.rows[r] : r, matrix = row / p->nq;
    for (int32_t d = 0; d < p->head_dim; d++)
      ifa_float_set(p->out_type, out->o,
                    ifa_offset(p->o_stride, matrix / p->q_heads, matrix % p->q_heads, row % p->nq) +
                        d,
                    (float)o[r * p->head_dim + d]);
    if (p->lse) out->lse[row] = (float)lse[r];
  }
  free(o);
  free(lse);
  return status;
}

/* Needs a dense output. */
static void spoil(const ifa_problem *p, const ifa_outputs *out, int64_t row) {
  size_t bytes = (size_t)p->head_dim * ifa_type_bytes(p->out_type);
  memcpy((char *)out->o + (size_t)row * bytes, (const char *)out->o + (size_t)(row + 1) * bytes,
         bytes);
}

static ifa_status run(const ifa_problem *p, const ifa_plugin_inputs *in, const ifa_outputs *out,
                      ifa_message *why) {
  ifa_status status = strcmp(plugin.claim, "exact") == 0
                          ? ifa_run(plugin.name, p, &in->operands, out, why)
                          : run_baseline(p, in, out, why);
  if (status == IFA_OK && getenv("IFA_TEST_SPOIL")) spoil(p, out, atoll(getenv("IFA_TEST_SPOIL")));
  return status;
}

const ifa_plugin *ifa_plugin_get(void) {
  const char *chosen = getenv("IFA_TEST_KERNEL");
  plugin.run = run;
  for (size_t i = 0; i < sizeof kernels / sizeof kernels[0]; i++)
    if (strcmp(chosen ? chosen : "scalar", kernels[i].name) == 0) {
      plugin.name = kernels[i].name;
      plugin.claim = kernels[i].claim;
      return &plugin;
    }
  return NULL;
}
