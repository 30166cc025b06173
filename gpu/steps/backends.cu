/* backends.cu - the steps behind ifa_run and on device pointers: what each of them takes, and its
 * launch. */
#include <cuda_runtime.h>
#include <stdlib.h>

#include "gpu/device_copies.h"
#include "gpu/steps/mma.cuh"
#include "gpu/steps/naive.cuh"
#include "gpu/steps/steps.h"
#include "gpu/steps/tiled.cuh"
#include "ifa_cuda.h"

enum { NAIVE, TILED, MMA };

/* ---- what a step takes ---- */

/* What every step leaves out. */
static ifa_status supports_any(const ifa_problem *p, ifa_message *message) {
  if (p->q_type != IFA_I8 || p->k_type != IFA_I8 || p->v_type != IFA_I8)
    return ifa_fail(message, IFA_UNSUPPORTED, "q, k or v is int4; the steps have int8");
  if (p->v_scale != IFA_SCALE_TENSOR && p->v_scale != IFA_SCALE_CHANNEL)
    return ifa_fail(message, IFA_UNSUPPORTED,
                    "v has a scale per token; the steps have one per tensor or channel");
  if (p->nk > p->kv_split)
    return ifa_fail(message, IFA_UNSUPPORTED,
                    "nk is %lld and kv_split %lld; the steps have one split", (long long)p->nk,
                    (long long)p->kv_split);
  if (p->batch * p->q_heads > 65535)
    return ifa_fail(message, IFA_UNSUPPORTED,
                    "batch * q_heads is %lld; the steps' grids hold 65535",
                    (long long)(p->batch * p->q_heads));
  return IFA_OK;
}

static ifa_status supports_tile(const ifa_problem *p, ifa_message *message) {
  if (p->kv_tile == steps::TILE) return IFA_OK;
  return ifa_fail(message, IFA_UNSUPPORTED, "kv_tile is %d; this step has %d", (int)p->kv_tile,
                  steps::TILE);
}

static bool whole_chunks(ifa_strides s) {
  return s.batch % 16 == 0 && s.head % 16 == 0 && s.token % 16 == 0;
}

static ifa_status supports_step(int step, const ifa_problem *p, ifa_message *message) {
  ifa_status status = supports_any(p, message);
  if (status == IFA_OK && step != NAIVE) status = supports_tile(p, message);
  if (status != IFA_OK) return status;
  if (step == TILED && p->head_dim > 128)
    return ifa_fail(message, IFA_UNSUPPORTED, "head_dim is %d; this step has up to 128",
                    (int)p->head_dim);
  if (step == MMA && p->head_dim != 64 && p->head_dim != 128)
    return ifa_fail(message, IFA_UNSUPPORTED, "head_dim is %d; this step has 64 and 128",
                    (int)p->head_dim);
  if (step == MMA &&
      !(whole_chunks(p->q_stride) && whole_chunks(p->k_stride) && whole_chunks(p->v_stride)))
    return ifa_fail(message, IFA_UNSUPPORTED,
                    "a stride of q, k or v is not a multiple of 16, as this step needs");
  return ifa_succeed(message);
}

/* ---- launch ---- */

static const void *kernel_of(int step, int head_dim) {
  if (step == NAIVE) return (const void *)steps::attend_naive;
  if (step == TILED)
    return head_dim <= 64 ? (const void *)steps::attend_tiled<64>
                          : (const void *)steps::attend_tiled<128>;
  return head_dim == 64 ? (const void *)steps::attend_mma<64>
                        : (const void *)steps::attend_mma<128>;
}

extern "C" ifa_status ifa_gpu_step_attend(int step, const ifa_problem *problem,
                                          const ifa_inputs *inputs, const ifa_outputs *outputs,
                                          void *stream, ifa_message *message) {
  ifa_gpu_params a = {};
  a.p = ifa_problem_resolved(problem);
  const ifa_status taken = supports_step(step, &a.p, message);
  if (taken != IFA_OK) return taken;
  a.in = *inputs;
  a.o = outputs->o;
  a.lse = outputs->lse;
  if (a.p.nq == 0) return ifa_succeed(message);
  void *arguments[] = {&a};
  const dim3 grid((unsigned)ifa_ceil_div(a.p.nq, steps::ROWS), (unsigned)(a.p.batch * a.p.q_heads));
  cudaLaunchKernel(kernel_of(step, a.p.head_dim), grid,
                   dim3(step == MMA ? steps::MMA_THREADS : steps::ROWS), arguments, 0,
                   (cudaStream_t)stream);
  cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? ifa_succeed(message) : cuda_failure("launch", error, message);
}

/* ---- host tensors ---- */

/* The whole output comes back to `o` and `lse`; of it the computed rows go to the caller. */
static ifa_status run_on_device(int step, const ifa_problem *p, const ifa_inputs *in,
                                const ifa_outputs *out, device_blocks *blocks, uint8_t *o,
                                size_t o_bytes, float *lse, ifa_message *message) {
  const size_t lse_bytes = p->lse ? sizeof(float) * (size_t)(p->batch * p->q_heads * p->nq) : 0;
  const void *device_o, *device_lse = nullptr;
  ifa_inputs device = {};
  ifa_outputs outputs = {};
  ifa_status status = copy_inputs(p, in, blocks, &device, message);
  if (status == IFA_OK)
    status = to_device(blocks, "o", nullptr, (int64_t)o_bytes, &device_o, message);
  if (status == IFA_OK && p->lse)
    status = to_device(blocks, "lse", nullptr, (int64_t)lse_bytes, &device_lse, message);
  if (status != IFA_OK) return status;
  outputs.o = (void *)device_o;
  outputs.lse = (float *)device_lse;
  status = ifa_gpu_step_attend(step, p, &device, &outputs, nullptr, message);
  if (status != IFA_OK) return status;
  cudaError_t error = cudaMemcpy(o, device_o, o_bytes, cudaMemcpyDeviceToHost);
  if (error == cudaSuccess && p->lse)
    error = cudaMemcpy(lse, device_lse, lse_bytes, cudaMemcpyDeviceToHost);
  if (error != cudaSuccess) return cuda_failure("attention", error, message);
  store_rows(p, in, out, o, lse);
  return ifa_succeed(message);
}

template <int STEP> static ifa_status supports(const ifa_problem *p, ifa_message *message) {
  ifa_status status = ifa_cuda_available(message);
  return status == IFA_OK && p ? supports_step(STEP, p, message) : status;
}

template <int STEP>
static ifa_status run(const ifa_problem *p, const ifa_inputs *in, const ifa_outputs *out,
                      ifa_message *message) {
  if (out->stages)
    return ifa_fail(message, IFA_UNSUPPORTED, "stages: the steps do not record them");
  if (ifa_computed_rows(p, in) == 0) return ifa_succeed(message);
  device_blocks blocks = {};
  const size_t bytes =
      (size_t)ifa_extent_bytes(p->out_type, p->o_stride, p->batch, p->q_heads, p->nq, p->head_dim);
  uint8_t *o = (uint8_t *)malloc(bytes);
  float *lse = (float *)malloc(sizeof(float) * (size_t)(p->batch * p->q_heads * p->nq));
  ifa_status status = o && lse ? run_on_device(STEP, p, in, out, &blocks, o, bytes, lse, message)
                               : ifa_fail(message, IFA_OUT_OF_MEMORY, "no memory for the output");
  free_device_blocks(&blocks);
  free(o);
  free(lse);
  return status;
}

static const ifa_backend naive = {"cuda-step-naive", IFA_GPU_STEP_NAIVE, supports<NAIVE>,
                                  run<NAIVE>, nullptr},
                         tiled = {"cuda-step-tiled", IFA_GPU_STEP_TILED, supports<TILED>,
                                  run<TILED>, nullptr},
                         mma = {"cuda-step-mma", IFA_GPU_STEP_MMA, supports<MMA>, run<MMA>,
                                nullptr};

const ifa_backend *const ifa_gpu_steps[IFA_GPU_STEPS] = {&naive, &tiled, &mma};
