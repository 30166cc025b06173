/* mutants.cu - attend.cu once more, under other names and with faults in it, and how `validate
 * mutants` runs it. */
#define IFA_GPU_MUTANT
#define parts parts_mutant
#define sm80 sm80_mutant
#define ifa_gpu_sm90_entry mutant_sm90_entry
#define ifa_cuda_available mutant_available
#define ifa_cuda_supports mutant_supports
#define ifa_cuda_workspace_bytes mutant_workspace_bytes
#define ifa_cuda_attend mutant_attend
#define ifa_cuda_pack mutant_pack
#define ifa_cuda_attend_packed mutant_attend_packed
#define ifa_gpu_attend mutant_attend_parts
#define ifa_gpu_available mutant_gpu_available
#define ifa_gpu_choose mutant_choose
#define ifa_gpu_fits mutant_fits
#define ifa_gpu_blocks_of mutant_blocks_of

#include <cuda_runtime.h>

#include "gpu/mutants/faults.h"
/* a copy with the faults in it, of the build folder: gpu/mutants/ */
#include "gpu_mutants/attend.cu"

#include <stdlib.h>
#include <string.h>

extern "C" {
#include "common/backend.h"
}
#include "gpu/device_copies.h"
#include "gpu/mutants/mutants.h"
#ifdef IFA_GPU_HAS_SM90
int mutant_sm90_choose_fault(int fault); /* mutants_sm90.cu; a cudaError_t */
#endif

enum { GUARD_BYTES = 256 };

struct ifa_gpu_case {
  ifa_gpu_kernel kernel;
  ifa_problem p;
  ifa_inputs host, device;
  device_blocks blocks;
  uint8_t *o, *lse, *workspace; /* on the device; o and lse with guard bytes behind them */
  size_t o_bytes, lse_bytes, workspace_bytes;
  uint8_t *copy, *lse_copy, *o_copy; /* of both with their guards; lse comes first */
};

static ifa_gpu_kernel kernel_of(ifa_gpu_mutant_kernel kernel) {
  return kernel == IFA_GPU_MUTANT_SM90 ? IFA_GPU_SM90 : IFA_GPU_SM80;
}

extern "C" ifa_status ifa_gpu_mutants_support(ifa_gpu_mutant_kernel kernel,
                                              const ifa_problem *problem, ifa_message *message) {
#ifndef IFA_GPU_HAS_SM90
  if (kernel == IFA_GPU_MUTANT_SM90)
    return ifa_fail(message, IFA_NOT_AVAILABLE,
                    "cuda-sm90: with faults it is built for the emulated GPU alone");
#endif
  ifa_gpu_entry entry = {};
  ifa_status status = mutant_gpu_available(kernel_of(kernel), message);
  if (status != IFA_OK || !problem) return status;
  if (!find_entry(kernel_of(kernel), problem, &entry) || problem->head_dim > entry.dim)
    return ifa_fail(message, IFA_UNSUPPORTED,
                    "head_dim %d, kv_tile %d: %s with faults is not built for it",
                    (int)problem->head_dim, (int)problem->kv_tile, name_of(kernel_of(kernel)));
  return mutant_supports(problem, message);
}

static ifa_status make_outputs(ifa_gpu_case *c, ifa_message *message) {
  const ifa_problem *p = &c->p;
  const void *o, *lse = nullptr, *workspace;
  c->o_bytes =
      (size_t)ifa_extent_bytes(p->out_type, p->o_stride, p->batch, p->q_heads, p->nq, p->head_dim);
  c->lse_bytes = p->lse ? (size_t)(p->batch * p->q_heads * p->nq) * sizeof(float) : 0;
  ifa_status status = mutant_workspace_bytes(p, &c->workspace_bytes, message);
  if (status == IFA_OK)
    status = to_device(&c->blocks, "o", nullptr, (int64_t)c->o_bytes + GUARD_BYTES, &o, message);
  if (status == IFA_OK && p->lse)
    status =
        to_device(&c->blocks, "lse", nullptr, (int64_t)c->lse_bytes + GUARD_BYTES, &lse, message);
  if (status == IFA_OK)
    status = to_device(&c->blocks, "workspace", nullptr, (int64_t)c->workspace_bytes, &workspace,
                       message);
  if (status != IFA_OK) return status;
  c->o = (uint8_t *)o;
  c->lse = (uint8_t *)lse;
  c->workspace = (uint8_t *)workspace;
  c->copy = (uint8_t *)malloc(c->lse_bytes + c->o_bytes + 2 * GUARD_BYTES);
  if (!c->copy) return ifa_fail(message, IFA_OUT_OF_MEMORY, "no memory for the output");
  c->lse_copy = c->copy;
  c->o_copy = c->copy + c->lse_bytes + GUARD_BYTES;
  return IFA_OK;
}

extern "C" ifa_status ifa_gpu_case_make(ifa_gpu_mutant_kernel kernel, const ifa_problem *problem,
                                        const ifa_inputs *inputs, ifa_gpu_case **made,
                                        ifa_message *message) {
  ifa_gpu_case *c = *made = (ifa_gpu_case *)calloc(1, sizeof *c);
  if (!c) return ifa_fail(message, IFA_OUT_OF_MEMORY, "no memory for a case");
  c->kernel = kernel_of(kernel);
  c->p = *problem;
  c->host = *inputs;
  ifa_status status = copy_inputs(problem, inputs, &c->blocks, &c->device, message);
  return status == IFA_OK ? make_outputs(c, message) : status;
}

extern "C" void ifa_gpu_case_free(ifa_gpu_case *c) {
  if (!c) return;
  free_device_blocks(&c->blocks);
  free(c->copy);
  free(c);
}

/* What an earlier CTA left in shared memory may be the very tile that a fault does not wait for. */
#ifdef IFA_GPU_EMULATION
/* a CTA begins with bytes of its own */
static cudaError_t scrub_shared_memory(uint8_t) { return cudaSuccess; }
#else
static __global__ void scrub(uint32_t word, int words) {
  extern __shared__ uint32_t scrubbed[];
  for (int i = (int)threadIdx.x; i < words; i += (int)blockDim.x)
    ((volatile uint32_t *)scrubbed)[i] = word;
}

static cudaError_t scrub_shared_memory(uint8_t poison) {
  int device, processors, bytes;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess)
    error = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
  if (error == cudaSuccess)
    error = cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  if (error == cudaSuccess)
    error = cudaFuncSetAttribute(scrub, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (error == cudaSuccess)
    scrub<<<2 * processors, 1024, (size_t)bytes>>>(poison * 0x01010101u, bytes / 4);
  return error == cudaSuccess ? cudaGetLastError() : error;
}
#endif

static ifa_status prepare(const ifa_gpu_case *c, int fault, uint8_t poison, ifa_message *message) {
  cudaError_t error = cudaMemcpyToSymbol(gpu_fault, &fault, sizeof fault);
#ifdef IFA_GPU_HAS_SM90
  if (error == cudaSuccess) error = (cudaError_t)mutant_sm90_choose_fault(fault);
#endif
  if (error == cudaSuccess) error = cudaMemset(c->o, poison, c->o_bytes + GUARD_BYTES);
  if (error == cudaSuccess && c->lse)
    error = cudaMemset(c->lse, poison, c->lse_bytes + GUARD_BYTES);
  if (error == cudaSuccess) error = cudaMemset(c->workspace, poison, c->workspace_bytes);
  if (error == cudaSuccess) error = scrub_shared_memory(poison);
  return error == cudaSuccess ? IFA_OK : cuda_failure("before a run", error, message);
}

/* With the bytes behind, which must be as they were. */
static ifa_status fetch(const char *name, uint8_t *to, const uint8_t *from, size_t bytes,
                        uint8_t poison, ifa_message *message) {
  cudaError_t error = cudaMemcpy(to, from, bytes + GUARD_BYTES, cudaMemcpyDeviceToHost);
  if (error != cudaSuccess) return cuda_failure("attention", error, message);
  for (size_t i = bytes; i < bytes + GUARD_BYTES; i++)
    if (to[i] != poison)
      return ifa_fail(message, IFA_BAD_DATA, "%s was written behind its end", name);
  return IFA_OK;
}

/* All that was written; if rows were chosen, these: the kernels compute all. */
static void store_outputs(const ifa_gpu_case *c, const ifa_outputs *outputs) {
  if (c->host.rows) {
    store_rows(&c->p, &c->host, outputs, c->o_copy, (const float *)c->lse_copy);
    return;
  }
  memcpy(outputs->o, c->o_copy, c->o_bytes);
  if (c->lse) memcpy(outputs->lse, c->lse_copy, c->lse_bytes);
}

extern "C" ifa_status ifa_gpu_mutant_run(ifa_gpu_case *c, ifa_gpu_fault fault, uint8_t poison,
                                         const ifa_outputs *outputs, ifa_message *message) {
  ifa_outputs device = {};
  device.o = c->o, device.lse = (float *)c->lse;
  ifa_status status = prepare(c, (int)fault, poison, message);
  if (status == IFA_OK)
    status = mutant_attend_parts(IFA_GPU_ALL, c->kernel, &c->p, &c->device, &device, c->workspace,
                                 c->workspace_bytes, nullptr, message);
  if (status == IFA_OK) status = fetch("o", c->o_copy, c->o, c->o_bytes, poison, message);
  if (status == IFA_OK && c->lse)
    status = fetch("lse", c->lse_copy, c->lse, c->lse_bytes, poison, message);
  if (status == IFA_OK) store_outputs(c, outputs);
  return status;
}
