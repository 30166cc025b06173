/* attend.cu - ifa_cuda_attend and its parts: checks, workspace, and which kernel runs. Nothing here
 * allocates or synchronizes. */
#include <cuda_runtime.h>
#include <inttypes.h>

extern "C" {
#include "common/message.h"
#include "common/problem.h"
}
#include "gpu/sm80/attention.cuh"
#include "gpu/packed.h"
#include "gpu/parts/pack.cuh"
#include "ifa_cuda.h"

/* ---- availability ---- */

extern "C" ifa_status ifa_cuda_available(ifa_message *message) {
  int device, major = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess)
    error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  if (error != cudaSuccess) {
    cudaGetLastError(); /* leave no error behind */
    return ifa_fail(message, IFA_NOT_AVAILABLE, "cuda-sm80: %s", cudaGetErrorString(error));
  }
  if (major < 8)
    return ifa_fail(message, IFA_NOT_AVAILABLE,
                    "cuda-sm80: the device has compute capability %d.x; 8.0 is needed", major);
  return ifa_succeed(message);
}

/* ---- kernels by head dimension ---- */

typedef struct kernel_entry {
  int dim, keys, rows, threads; /* padded head_dim; keys a block; query rows and threads a CTA */
  /* shared memory without and for each block; per CTA, float sums between splits */
  size_t fixed_bytes, block_bytes, scratch_floats;
  const void *kernel[2][2]; /* V per token; several splits */
} kernel_entry;

template <typename S> static kernel_entry entry() {
  return {S::D,
          S::KEYS,
          S::ROWS,
          S::THREADS,
          sizeof(sm80::Shared<S>),
          S::BLOCK_BYTES,
          (size_t)sm80::SUMS_KEPT<S> * S::THREADS,
          {}};
}
/* The usual head dimensions have kernels of their own for one split; each is as long to compile
 * again. */
template <int D> static kernel_entry fast_entry() {
  constexpr bool ALWAYS = D != 64 && D != 128;
  kernel_entry k = entry<sm80::Shape<D, 64, false, true>>();
  k.kernel[0][0] = (const void *)sm80::attend<sm80::Shape<D, 64, false, ALWAYS>>,
  k.kernel[0][1] = (const void *)sm80::attend<sm80::Shape<D, 64, false, true>>;
  k.kernel[1][0] = (const void *)sm80::attend<sm80::Shape<D, 64, true, ALWAYS>>,
  k.kernel[1][1] = (const void *)sm80::attend<sm80::Shape<D, 64, true, true>>;
  return k;
}
template <int D> static kernel_entry any_tile_entry() {
  kernel_entry k = entry<sm80::Shape<D, 32, false, true>>();
  k.kernel[0][0] = k.kernel[0][1] =
      (const void *)sm80::attend_any_tile<sm80::Shape<D, 32, false, true>>;
  k.kernel[1][0] = k.kernel[1][1] =
      (const void *)sm80::attend_any_tile<sm80::Shape<D, 32, true, true>>;
  return k;
}

static kernel_entry kernel_for(const ifa_problem *p) {
  const bool fast = p->kv_tile == 64;
  const int d = p->head_dim;
#ifdef IFA_GPU_MUTANT /* gpu/mutants/mutants.cu: fewer, to compile quickly */
  return d <= 64 ? fast ? fast_entry<64>() : any_tile_entry<64>()
         : fast ? fast_entry<128>()
                 : any_tile_entry<128>();
#else
  if (d <= 32) return fast ? fast_entry<32>() : any_tile_entry<32>();
  if (d <= 64) return fast ? fast_entry<64>() : any_tile_entry<64>();
  if (d <= 96) return fast ? fast_entry<96>() : any_tile_entry<96>();
  if (d <= 128) return fast ? fast_entry<128>() : any_tile_entry<128>();
  if (d <= 192) return fast ? fast_entry<192>() : any_tile_entry<192>();
  return fast ? fast_entry<256>() : any_tile_entry<256>();
#endif
}

/* How many blocks the ring of a CTA may hold on this device: at least 2, and all of a tile; and how
 * many CTAs it holds at once: one a multiprocessor. */
static ifa_status choose_stages(const ifa_problem *p, const kernel_entry *k, int32_t *stages,
                                int *ctas, ifa_message *message) {
  int device, room = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess)
    error = cudaDeviceGetAttribute(&room, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  if (error == cudaSuccess)
    error = cudaDeviceGetAttribute(ctas, cudaDevAttrMultiProcessorCount, device);
  if (error != cudaSuccess)
    return ifa_fail(message, IFA_NOT_AVAILABLE, "cuda-sm80: %s", cudaGetErrorString(error));
  const int64_t for_tile = p->kv_tile / k->keys, needed = for_tile > 2 ? for_tile : 2,
                fit = (room - (int64_t)k->fixed_bytes) / (int64_t)k->block_bytes;
  *stages = (int32_t)(fit < sm80::MAX_STAGES ? fit : sm80::MAX_STAGES);
  if (fit >= needed) return IFA_OK;
  return ifa_fail(message, IFA_UNSUPPORTED,
                  "head_dim %d with kv_tile %d needs %zu bytes of shared memory; the device has %d",
                  (int)p->head_dim, (int)p->kv_tile,
                  k->fixed_bytes + (size_t)needed * k->block_bytes, room);
}

/* more than there are multiprocessors: what the workspace has room for, whatever the device */
enum { MOST_CTAS = 512 };

/* A CTA computes one after another. */
static int64_t item_count(const ifa_problem *p, const kernel_entry *k) {
  return p->batch * p->q_heads * ifa_ceil_div(p->nq, k->rows);
}

/* Blocks of K and V, or matrices where there are none: a CTA of the packing kernel each. */
static int64_t packed_count(const ifa_problem *p, const kernel_entry *k) {
  return p->batch * p->kv_heads * ifa_max64(1, ifa_ceil_div(p->nk, k->keys));
}

extern "C" ifa_status ifa_cuda_supports(const ifa_problem *problem, ifa_message *message) {
  ifa_status status = ifa_problem_check(problem, message);
  if (status != IFA_OK) return status;
  const kernel_entry k = kernel_for(problem);
  const int64_t items = item_count(problem, &k), blocks = packed_count(problem, &k);
  if (items > INT32_MAX || blocks > INT32_MAX)
    return ifa_fail(message, IFA_UNSUPPORTED,
                    "batch * q_heads * ceil(nq / %d) is %" PRId64
                    " and batch * kv_heads * ceil(nk / %d) is %" PRId64 "; each at most 2^31 - 1",
                    k.rows, items, k.keys, blocks);
  return ifa_succeed(message);
}

ifa_status ifa_gpu_fits(const ifa_problem *problem, ifa_message *message) {
  const kernel_entry k = kernel_for(problem);
  int32_t stages;
  int ctas;
  ifa_status status = choose_stages(problem, &k, &stages, &ctas, message);
  return status == IFA_OK ? ifa_succeed(message) : status;
}

/* ---- workspace ---- */

/* Lays the workspace out from `base` (NULL: only to learn its size). Returns its bytes. */
static size_t lay_out(ifa_gpu_params *a, const kernel_entry *k, uint8_t *base) {
  const ifa_problem *p = &a->p;
  size_t used = 0, blocks = (size_t)(p->batch * p->kv_heads) * (size_t)a->block_count;
  auto take = [&](size_t bytes) {
    uint8_t *at = base ? base + used : nullptr;
    used += (bytes + 255) / 256 * 256;
    return (void *)at;
  };
  a->packed.items = (ifa_gpu_item *)take((size_t)item_count(p, k) * sizeof(ifa_gpu_item));
  a->packed.blocks = (uint8_t *)take(blocks * k->block_bytes);
  bool several_splits = p->nk > p->kv_split;
  a->packed.split_sums = several_splits
                             ? (float *)take((size_t)ifa_min64(item_count(p, k), MOST_CTAS) *
                                             k->scratch_floats * sizeof(float))
                             : nullptr;
  return used;
}

static ifa_gpu_params params_for(const ifa_problem *problem, const kernel_entry *k) {
  ifa_gpu_params a = {};
  a.p = ifa_problem_resolved(problem);
  a.keys = k->keys;
  a.block_count = (int32_t)ifa_ceil_div(a.p.nk, k->keys);
  a.dim_padded = k->dim;
  a.rows = k->rows;
  a.item_count = (int32_t)item_count(problem, k);
  return a;
}

extern "C" ifa_status ifa_cuda_workspace_bytes(const ifa_problem *problem, size_t *bytes,
                                               ifa_message *message) {
  ifa_status status = ifa_cuda_supports(problem, message);
  if (status != IFA_OK) return status;
  if (!bytes) return ifa_fail(message, IFA_BAD_ARGUMENT, "bytes is NULL");
  const kernel_entry k = kernel_for(problem);
  ifa_gpu_params a = params_for(problem, &k);
  *bytes = lay_out(&a, &k, nullptr);
  return ifa_succeed(message);
}

/* ---- checks ---- */

/* A device pointer, aligned to `alignment`. Asking the driver does not synchronize. */
static ifa_status check_pointer(const char *name, const void *pointer, bool needed,
                                size_t alignment, ifa_message *message) {
  if (!needed) return IFA_OK;
  if (!pointer) return ifa_fail(message, IFA_BAD_ARGUMENT, "%s is NULL", name);
  if ((uintptr_t)pointer % alignment)
    return ifa_fail(message, IFA_BAD_ARGUMENT, "%s is not aligned to %zu bytes", name, alignment);
  cudaPointerAttributes attributes;
  cudaError_t error = cudaPointerGetAttributes(&attributes, pointer);
  if (error != cudaSuccess) cudaGetLastError();
  if (error != cudaSuccess ||
      (attributes.type != cudaMemoryTypeDevice && attributes.type != cudaMemoryTypeManaged))
    return ifa_fail(message, IFA_BAD_ARGUMENT, "%s is not a device pointer", name);
  return IFA_OK;
}

static ifa_status check_inputs(int parts, const ifa_problem *p, const ifa_inputs *in,
                               ifa_message *message) {
  const bool keys = p->nk > 0, attend = parts & IFA_GPU_ATTEND,
             scales = parts & IFA_GPU_PACK_SCALES;
  const bool v_by_token = p->v_scale == IFA_SCALE_TOKEN || p->v_scale == IFA_SCALE_TOKEN_CHANNEL;
  const struct {
    const char *name;
    const void *pointer;
    bool needed;
    size_t alignment;
  } list[] = {{"q", in->q, attend, 1},
              {"k", in->k, keys && parts & IFA_GPU_PACK_K, 1},
              {"v", in->v, keys && parts & IFA_GPU_PACK_V, 1},
              {"q_scale", in->q_scale, attend, 4},
              {"k_scale", in->k_scale, keys && scales, 4},
              {"v_scale", in->v_scale, keys && (attend || v_by_token), 4},
              {"v_channel_scale", in->v_channel_scale,
               keys && attend && p->v_scale == IFA_SCALE_TOKEN_CHANNEL, 4}};
  for (const auto &entry : list) {
    ifa_status status =
        check_pointer(entry.name, entry.pointer, entry.needed, entry.alignment, message);
    if (status != IFA_OK) return status;
  }
  return IFA_OK;
}

static ifa_status check_outputs(const ifa_problem *p, const ifa_outputs *out,
                                ifa_message *message) {
  if (out->lse && !p->lse)
    return ifa_fail(message, IFA_BAD_ARGUMENT, "lse is given but problem.lse is 0");
  ifa_status status = check_pointer("o", out->o, true, ifa_type_bytes(p->out_type), message);
  return status == IFA_OK ? check_pointer("lse", out->lse, p->lse != 0, 4, message) : status;
}

static ifa_status check_arguments(int parts, const ifa_problem *p, const ifa_inputs *in,
                                  const ifa_outputs *out, ifa_message *message) {
  if (!in) return ifa_fail(message, IFA_BAD_ARGUMENT, "inputs is NULL");
  if (!(parts & IFA_GPU_ATTEND)) return check_inputs(parts, p, in, message);
  if (!out) return ifa_fail(message, IFA_BAD_ARGUMENT, "outputs is NULL");
#ifdef IFA_GPU_STAGES
  bool records = out->stages != nullptr; /* then rows are those whose stages are recorded */
#else
  bool records = false;
  if (out->stages)
    return ifa_fail(message, IFA_UNSUPPORTED,
                    "stages: cuda-sm80 records them in a build with IFA_GPU_STAGES");
#endif
  if ((in->rows || in->row_count) && !records)
    return ifa_fail(message, IFA_UNSUPPORTED, "rows: ifa_cuda_attend computes all rows");
  ifa_status status = check_inputs(parts, p, in, message);
  return status == IFA_OK ? check_outputs(p, out, message) : status;
}

static ifa_status check_launch(const char *what, ifa_message *message) {
  cudaError_t error = cudaGetLastError();
  if (error == cudaSuccess) return IFA_OK;
  return ifa_fail(message,
                  error == cudaErrorMemoryAllocation ? IFA_OUT_OF_MEMORY : IFA_NOT_AVAILABLE,
                  "%s: %s", what, cudaGetErrorString(error));
}

/* ---- attention ---- */

ifa_gpu_blocks ifa_gpu_blocks_of(const ifa_problem *problem, void *workspace) {
  const kernel_entry k = kernel_for(problem);
  ifa_gpu_params a = params_for(problem, &k);
  lay_out(&a, &k, (uint8_t *)workspace);
  return ifa_gpu_blocks{a.packed.blocks, a.keys, a.dim_padded, a.block_count};
}

ifa_status ifa_gpu_attend(int parts, const ifa_problem *problem, const ifa_inputs *inputs,
                          const ifa_outputs *outputs, void *workspace, size_t workspace_bytes,
                          void *stream, ifa_message *message) {
  ifa_status status = ifa_cuda_supports(problem, message);
  if (status == IFA_OK) status = ifa_cuda_available(message);
  if (status != IFA_OK) return status;
  const kernel_entry k = kernel_for(problem);
  ifa_gpu_params a = params_for(problem, &k);
  if (a.p.nq == 0) return ifa_succeed(message);
  if ((status = check_arguments(parts, &a.p, inputs, outputs, message)) != IFA_OK) return status;
  size_t needed = lay_out(&a, &k, (uint8_t *)workspace);
  if (needed > 0 && (status = check_pointer("workspace", workspace, true, 256, message)) != IFA_OK)
    return status;
  if (workspace_bytes < needed)
    return ifa_fail(message, IFA_BAD_ARGUMENT, "workspace_bytes is %zu; %zu are needed",
                    workspace_bytes, needed);
  int ctas = 0;
  if ((status = choose_stages(&a.p, &k, &a.stages, &ctas, message)) != IFA_OK) return status;
  const int64_t items = a.item_count;
  ctas = (int)ifa_min64(ctas, ifa_min64(items, MOST_CTAS));
  a.in = *inputs;
  a.parts = parts;

  void *arguments[] = {&a};
  if (parts & IFA_GPU_PACK_SCALES && !(parts & (IFA_GPU_PACK_K | IFA_GPU_PACK_V))) {
    const int64_t blocks = a.p.batch * a.p.kv_heads * a.block_count, teams = PACK_THREADS / 64;
    cudaLaunchKernel((const void *)pack_scales,
                     dim3((unsigned)(blocks > 0 ? ifa_ceil_div(blocks, teams) : 1)),
                     dim3(PACK_THREADS), arguments, 0, (cudaStream_t)stream);
    if ((status = check_launch("pack scales", message)) != IFA_OK) return status;
  } else if (parts & IFA_GPU_PACK_SCALES) {
    cudaLaunchKernel((const void *)pack, dim3((unsigned)packed_count(&a.p, &k)), dim3(PACK_THREADS),
                     arguments, 0, (cudaStream_t)stream);
    if ((status = check_launch("pack", message)) != IFA_OK) return status;
  }
  if (!(parts & IFA_GPU_ATTEND)) return ifa_succeed(message);
  a.o = outputs->o;
  a.lse = outputs->lse;
#ifdef IFA_GPU_STAGES
  if (outputs->stages) a.stage_outputs = *outputs->stages;
#endif
  const bool per_token = a.p.v_scale == IFA_SCALE_TOKEN || a.p.v_scale == IFA_SCALE_TOKEN_CHANNEL;
  const void *kernel = k.kernel[per_token][a.packed.split_sums != nullptr];
  const size_t shared_bytes = k.fixed_bytes + (size_t)a.stages * k.block_bytes;
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared_bytes);
  cudaLaunchKernel(kernel, dim3((unsigned)ctas), dim3((unsigned)k.threads), arguments, shared_bytes,
                   (cudaStream_t)stream);
  status = check_launch("attention", message);
  return status == IFA_OK ? ifa_succeed(message) : status;
}

extern "C" ifa_status ifa_cuda_attend(const ifa_problem *problem, const ifa_inputs *inputs,
                                      const ifa_outputs *outputs, void *workspace,
                                      size_t workspace_bytes, void *stream, ifa_message *message) {
  return ifa_gpu_attend(IFA_GPU_ALL, problem, inputs, outputs, workspace, workspace_bytes, stream,
                        message);
}
extern "C" ifa_status ifa_cuda_pack(const ifa_problem *problem, const ifa_inputs *inputs,
                                    void *workspace, size_t workspace_bytes, void *stream,
                                    ifa_message *message) {
  return ifa_gpu_attend(IFA_GPU_ALL - IFA_GPU_ATTEND, problem, inputs, NULL, workspace,
                        workspace_bytes, stream, message);
}
extern "C" ifa_status ifa_cuda_attend_packed(const ifa_problem *problem, const ifa_inputs *inputs,
                                             const ifa_outputs *outputs, void *workspace,
                                             size_t workspace_bytes, void *stream,
                                             ifa_message *message) {
  return ifa_gpu_attend(IFA_GPU_ATTEND, problem, inputs, outputs, workspace, workspace_bytes,
                        stream, message);
}
