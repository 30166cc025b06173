/* backend_cuda.cu - the GPU behind ifa_run: host tensors go to the device and back. For checking,
 * and for timing ifa_cuda_attend between the copies; a program that lives on the GPU calls
 * ifa_cuda_attend. */
#include <cuda_runtime.h>
#include <stdlib.h>
#include <string.h>

extern "C" {
#include "common/backend.h"
#include "common/problem.h"
}
#include "gpu/device_copies.h"
#include "gpu/packed.h"
#include "ifa_cuda.h"

/* between two events, so that the host's part of a call overlaps the one before */
enum { CALLS = 4 };

/* One attention: every pointer is the device's. */
typedef struct device_call {
  ifa_gpu_kernel kernel;
  const ifa_problem *p;
  ifa_inputs in;
  ifa_outputs out;
  void *workspace;
  size_t workspace_bytes;
} device_call;

static ifa_status prepare(ifa_gpu_kernel kernel, const ifa_problem *p, const ifa_inputs *in,
                          int64_t o_bytes, int64_t lse_bytes, device_blocks *blocks,
                          device_call *call, ifa_message *message) {
  const void *o, *lse = nullptr, *workspace;
  *call = {};
  call->kernel = kernel;
  call->p = p;
  ifa_status status = copy_inputs(p, in, blocks, &call->in, message);
  if (status == IFA_OK) status = to_device(blocks, "o", nullptr, o_bytes, &o, message);
  if (status == IFA_OK && p->lse)
    status = to_device(blocks, "lse", nullptr, lse_bytes, &lse, message);
  if (status == IFA_OK) status = ifa_cuda_workspace_bytes(p, &call->workspace_bytes, message);
  if (status == IFA_OK)
    status = to_device(blocks, "workspace", nullptr, (int64_t)call->workspace_bytes, &workspace,
                       message);
  if (status != IFA_OK) return status;
  call->out.o = (void *)o;
  call->out.lse = (float *)lse;
  call->workspace = (void *)workspace;
  return IFA_OK;
}

/* One array of the stages. */
typedef struct stage_array {
  const char *name;
  void *host;
  const void **device;
  int64_t bytes;
  bool units;
} stage_array;

typedef struct stage_list {
  stage_array arrays[7];
} stage_list;

/* Gives the call stages, and the rows that they are of. On the device they begin as those of rows
 * that see nothing: the kernel writes where there is something. */
static ifa_status prepare_stages(const ifa_inputs *in, const ifa_stages *host,
                                 device_blocks *blocks, device_call *call, ifa_stages *device,
                                 stage_list *list, ifa_message *message) {
  const ifa_problem *p = call->p;
  int64_t rows = ifa_computed_rows(p, in), keys = rows * p->nk,
          units = 4 * rows * ifa_ceil_div(p->nk, p->kv_tile),
          sums = 4 * rows * ifa_ceil_div(p->nk, p->kv_split);
  *device = {};
  *list = {{{"S", host->s, (const void **)&device->s, 4 * keys, false},
            {"unit", host->unit, (const void **)&device->unit, units, true},
            {"p", host->p, (const void **)&device->p, keys, false},
            {"value_unit", host->value_unit, (const void **)&device->value_unit, units, true},
            {"P", host->value_p, (const void **)&device->value_p, keys, false},
            {"l", host->l, (const void **)&device->l, sums, false},
            {"acc", host->acc, (const void **)&device->acc, sums * p->head_dim, false}}};
  call->out.stages = device;
  call->in.row_count = in->rows ? in->row_count : 0;
  ifa_status status = in->rows ? to_device(blocks, "rows", in->rows, 8 * in->row_count,
                                           (const void **)&call->in.rows, message)
                               : IFA_OK;
  for (const stage_array &s : list->arrays) {
    if (!s.host || status != IFA_OK) continue;
    memset(s.host, 0, (size_t)s.bytes);
    for (int64_t i = 0; s.units && i < s.bytes / 4; i++) ((int32_t *)s.host)[i] = IFA_NO_UNIT;
    status = to_device(blocks, s.name, s.host, s.bytes, s.device, message);
  }
  return status;
}

static cudaError_t fetch_stages(const stage_list *list) {
  cudaError_t error = cudaSuccess;
  for (const stage_array &s : list->arrays)
    if (s.host && error == cudaSuccess)
      error = cudaMemcpy(s.host, *s.device, (size_t)s.bytes, cudaMemcpyDeviceToHost);
  return error;
}

static ifa_status attend(const device_call *c, ifa_message *message) {
  return ifa_gpu_attend(IFA_GPU_ALL, c->kernel, c->p, &c->in, &c->out, c->workspace,
                        c->workspace_bytes, nullptr, message);
}

/* seconds[i]: the time between two events around CALLS calls, a call's share of it. One such group
 * before the first is not kept. */
static ifa_status time_calls(const device_call *c, double *seconds, int count,
                             ifa_message *message) {
  cudaEvent_t from = nullptr, to = nullptr;
  ifa_status status = IFA_OK;
  cudaError_t error = cudaEventCreate(&from);
  if (error == cudaSuccess) error = cudaEventCreate(&to);
  for (int i = -1; i < count && error == cudaSuccess && status == IFA_OK; i++) {
    float ms = 0;
    error = cudaEventRecord(from, nullptr);
    for (int call = 0; call < CALLS && status == IFA_OK; call++) status = attend(c, message);
    if (error == cudaSuccess) error = cudaEventRecord(to, nullptr);
    if (error == cudaSuccess) error = cudaEventSynchronize(to);
    if (error == cudaSuccess) error = cudaEventElapsedTime(&ms, from, to);
    if (i >= 0) seconds[i] = 1e-3 * ms / CALLS;
  }
  if (from) cudaEventDestroy(from);
  if (to) cudaEventDestroy(to);
  if (status != IFA_OK) return status;
  return error == cudaSuccess ? IFA_OK : cuda_failure("timing", error, message);
}

/* o and lse: the host's memory for whole outputs. seconds NULL: one call, not timed. */
static ifa_status run_on_device(ifa_gpu_kernel kernel, const ifa_problem *p, const ifa_inputs *in,
                                const ifa_outputs *out, device_blocks *blocks, uint8_t *o,
                                int64_t o_bytes, float *lse, double *seconds, int count,
                                ifa_message *message) {
  device_call call;
  int64_t lse_bytes = p->lse ? 4 * p->batch * p->q_heads * p->nq : 0;
  ifa_stages stages;
  stage_list list;
  ifa_status status = prepare(kernel, p, in, o_bytes, lse_bytes, blocks, &call, message);
  if (status == IFA_OK && out->stages)
    status = prepare_stages(in, out->stages, blocks, &call, &stages, &list, message);
  if (status == IFA_OK)
    status = seconds ? time_calls(&call, seconds, count, message) : attend(&call, message);
  if (status != IFA_OK) return status;
  cudaError_t error = cudaMemcpy(o, call.out.o, (size_t)o_bytes, cudaMemcpyDeviceToHost);
  if (error == cudaSuccess && p->lse)
    error = cudaMemcpy(lse, call.out.lse, (size_t)lse_bytes, cudaMemcpyDeviceToHost);
  if (error == cudaSuccess && out->stages) error = fetch_stages(&list);
  if (error != cudaSuccess) return cuda_failure("attention", error, message);
  store_rows(p, in, out, o, lse);
  return IFA_OK;
}

static ifa_status supports_by(ifa_gpu_kernel kernel, const ifa_problem *problem,
                              ifa_message *message) {
  ifa_status status = ifa_gpu_available(kernel, message);
  if (status == IFA_OK && problem) status = ifa_cuda_supports(problem, message);
  return status == IFA_OK && problem ? ifa_gpu_fits(kernel, problem, message) : status;
}

static ifa_status run_by(ifa_gpu_kernel kernel, const ifa_problem *p, const ifa_inputs *in,
                         const ifa_outputs *out, double *seconds, int count, ifa_message *message) {
#ifndef IFA_GPU_STAGES
  if (out->stages)
    return ifa_fail(message, IFA_UNSUPPORTED,
                    "stages: the GPU records them in a build with IFA_GPU_STAGES");
#endif
  if (ifa_computed_rows(p, in) == 0)
    return seconds ? ifa_fail(message, IFA_UNSUPPORTED, "there are no rows to time")
                   : ifa_succeed(message);
  device_blocks blocks = {};
  int64_t o_bytes =
      ifa_extent_bytes(p->out_type, p->o_stride, p->batch, p->q_heads, p->nq, p->head_dim);
  uint8_t *o = (uint8_t *)malloc((size_t)o_bytes);
  float *lse = (float *)malloc((size_t)(p->batch * p->q_heads * p->nq) * sizeof(float));
  ifa_status status = o && lse ? run_on_device(kernel, p, in, out, &blocks, o, o_bytes, lse,
                                               seconds, count, message)
                               : ifa_fail(message, IFA_OUT_OF_MEMORY, "no memory for the output");
  free_device_blocks(&blocks);
  free(o);
  free(lse);
  return status == IFA_OK ? ifa_succeed(message) : status;
}

/* A backend for each kernel, and one for the kernel that would be chosen. */
#define BACKEND(symbol, name, description, kernel)                                              \
  static ifa_status symbol##_supports(const ifa_problem *problem, ifa_message *message) {       \
    return supports_by(kernel, problem, message);                                               \
  }                                                                                             \
  static ifa_status symbol##_run(const ifa_problem *p, const ifa_inputs *in,                    \
                                 const ifa_outputs *out, ifa_message *message) {                \
    return run_by(kernel, p, in, out, nullptr, 0, message);                                     \
  }                                                                                             \
  static ifa_status symbol##_time(const ifa_problem *p, const ifa_inputs *in,                   \
                                  const ifa_outputs *out, double *seconds, int count,           \
                                  ifa_message *message) {                                       \
    return run_by(kernel, p, in, out, seconds, count, message);                                 \
  }                                                                                             \
  const ifa_backend ifa_backend_##symbol = {name, description, symbol##_supports, symbol##_run, \
                                            symbol##_time}

BACKEND(cuda_sm80, "cuda-sm80",
        "INT8 tensor cores through mma.sync (compute capability 8.0 and above)", IFA_GPU_SM80);
BACKEND(
    cuda_sm90, "cuda-sm90",
    "INT8 tensor cores through wgmma (compute capability 9.0); cuda-sm80 for what it does not take",
    IFA_GPU_SM90);
BACKEND(cuda, "cuda", "the GPU's fastest kernel, or the one that IFA_CUDA_KERNEL names",
        IFA_GPU_CHOOSE);
