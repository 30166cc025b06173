/* attend.cu - ifa_cuda_attend and its parts: checks, workspace, and which kernel runs. Nothing here
 * allocates or synchronizes. */
#include <cuda_runtime.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

extern "C" {
#include "common/message.h"
#include "common/problem.h"
}
#include "gpu/sm80/any_tile.cuh"
#include "gpu/sm80/attention.cuh"
#include "gpu/kernel.h"
#include "gpu/parts/pack.cuh"
#include "ifa_cuda.h"

/* ---- availability ---- */

static const char *name_of(ifa_gpu_kernel kernel) {
  return kernel == IFA_GPU_CHOOSE ? "cuda" : kernel == IFA_GPU_SM90 ? "cuda-sm90" : "cuda-sm80";
}

/* The current device's compute capability, ten times: 80, 86, 90. */
static ifa_status device_capability(const char *name, int *capability, ifa_message *message) {
  int device, major = 0, minor = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess)
    error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  if (error == cudaSuccess)
    error = cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
  *capability = 10 * major + minor;
  if (error == cudaSuccess) return IFA_OK;
  cudaGetLastError(); /* leave no error behind */
  return ifa_fail(message, IFA_NOT_AVAILABLE, "%s: %s", name, cudaGetErrorString(error));
}

/* `wanted` is one of the kernels. */
static ifa_status kernel_available(ifa_gpu_kernel wanted, ifa_message *message) {
#ifndef IFA_GPU_HAS_SM90
  if (wanted == IFA_GPU_SM90)
    return ifa_fail(message, IFA_NOT_AVAILABLE,
                    "cuda-sm90: not built (IFA_CUDA_ARCHITECTURES lacks 90a)");
#endif
  int capability;
  const char *const name = name_of(wanted);
  ifa_status status = device_capability(name, &capability, message);
  if (status != IFA_OK) return status;
  if (wanted == IFA_GPU_SM90 && capability != 90) /* sm_90a's code runs on no other */
    return ifa_fail(message, IFA_NOT_AVAILABLE,
                    "%s: the device has compute capability %d.%d; it must be 9.0", name,
                    capability / 10, capability % 10);
  if (capability < 80)
    return ifa_fail(message, IFA_NOT_AVAILABLE,
                    "%s: the device has compute capability %d.x; 8.0 is needed", name,
                    capability / 10);
  return ifa_succeed(message);
}

/* What IFA_CUDA_KERNEL asks for; not set or empty: IFA_GPU_CHOOSE. */
static ifa_status kernel_of_environment(ifa_gpu_kernel *wanted, ifa_message *message) {
  const char *name = getenv("IFA_CUDA_KERNEL");
  *wanted = !name || !*name             ? IFA_GPU_CHOOSE
            : strcmp(name, "sm80") == 0 ? IFA_GPU_SM80
                                        : IFA_GPU_SM90;
  if (*wanted == IFA_GPU_SM90 && strcmp(name, "sm90") != 0)
    return ifa_fail(message, IFA_BAD_ARGUMENT,
                    "IFA_CUDA_KERNEL is '%.60s'; it must be sm80 or sm90", name);
  return IFA_OK;
}

/* One of the kernels, whatever the problem. */
static ifa_status choose_kernel(ifa_gpu_kernel wanted, ifa_gpu_kernel *chosen,
                                ifa_message *message) {
  ifa_status status = wanted == IFA_GPU_CHOOSE ? kernel_of_environment(&wanted, message) : IFA_OK;
  if (status != IFA_OK) return status;
  *chosen = wanted == IFA_GPU_CHOOSE
                ? kernel_available(IFA_GPU_SM90, NULL) == IFA_OK ? IFA_GPU_SM90 : IFA_GPU_SM80
                : wanted;
  return kernel_available(*chosen, message);
}

ifa_status ifa_gpu_available(ifa_gpu_kernel wanted, ifa_message *message) {
  ifa_gpu_kernel chosen;
  return choose_kernel(wanted, &chosen, message);
}

extern "C" ifa_status ifa_cuda_available(ifa_message *message) {
  return ifa_gpu_available(IFA_GPU_CHOOSE, message);
}

/* ---- kernels by head dimension ---- */

template <typename S> static ifa_gpu_entry entry() {
  return {IFA_GPU_SM80,
          S::D,
          S::KEYS,
          S::ROWS,
          S::ROWS,
          0,
          S::THREADS,
          sizeof(sm80::Shared<S>),
          S::BLOCK_BYTES,
          (size_t)parts::SUMS_KEPT<S> * S::THREADS,
          {}};
}
/* The usual head dimensions have kernels of their own for one split; each is as long to compile
 * again. */
template <int D> static ifa_gpu_entry fast_entry() {
  constexpr bool ALWAYS = D != 64 && D != 128;
  ifa_gpu_entry k = entry<sm80::Shape<D, 64, false, true>>();
  k.function[0][0] = (const void *)sm80::attend<sm80::Shape<D, 64, false, ALWAYS>>,
  k.function[0][1] = (const void *)sm80::attend<sm80::Shape<D, 64, false, true>>;
  k.function[1][0] = (const void *)sm80::attend<sm80::Shape<D, 64, true, ALWAYS>>,
  k.function[1][1] = (const void *)sm80::attend<sm80::Shape<D, 64, true, true>>;
  return k;
}
template <int D> static ifa_gpu_entry any_tile_entry() {
  ifa_gpu_entry k = entry<sm80::Shape<D, 32, false, true>>();
  k.function[0][0] = k.function[0][1] =
      (const void *)sm80::attend_any_tile<sm80::Shape<D, 32, false, true>>;
  k.function[1][0] = k.function[1][1] =
      (const void *)sm80::attend_any_tile<sm80::Shape<D, 32, true, true>>;
  return k;
}

static ifa_gpu_entry sm80_entry(const ifa_problem *p) {
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

/* false: this kernel does not take the problem, or is not built. */
static bool find_entry(ifa_gpu_kernel kernel, const ifa_problem *p, ifa_gpu_entry *entry) {
#ifdef IFA_GPU_HAS_SM90
  if (kernel == IFA_GPU_SM90) return ifa_gpu_sm90_entry(p, entry);
#endif
  if (kernel == IFA_GPU_SM80) *entry = sm80_entry(p);
  return kernel == IFA_GPU_SM80;
}
static ifa_gpu_entry entry_of(ifa_gpu_kernel chosen, const ifa_problem *p) {
  ifa_gpu_entry entry = {};
  (void)find_entry(chosen, p, &entry); /* as chosen, it is found */
  return entry;
}

ifa_status ifa_gpu_choose(ifa_gpu_kernel wanted, const ifa_problem *problem, ifa_gpu_kernel *chosen,
                          ifa_message *message) {
  ifa_gpu_entry entry;
  ifa_status status = choose_kernel(wanted, chosen, message);
  if (status == IFA_OK && !find_entry(*chosen, problem, &entry)) *chosen = IFA_GPU_SM80;
  return status;
}

typedef struct device_room {
  int shared_bytes, multiprocessors;
} device_room;

static ifa_status find_room(device_room *room, ifa_message *message) {
  int device;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess)
    error = cudaDeviceGetAttribute(&room->shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin,
                                   device);
  if (error == cudaSuccess)
    error = cudaDeviceGetAttribute(&room->multiprocessors, cudaDevAttrMultiProcessorCount, device);
  return error == cudaSuccess
             ? IFA_OK
             : ifa_fail(message, IFA_NOT_AVAILABLE, "cuda: %s", cudaGetErrorString(error));
}

/* How many blocks the ring of a CTA may hold on this device: at least 2, and all of a tile. */
static ifa_status choose_stages(const ifa_problem *p, const ifa_gpu_entry *k,
                                const device_room *room, int32_t *stages, ifa_message *message) {
  const int64_t for_tile = p->kv_tile / k->keys, needed = for_tile > 2 ? for_tile : 2,
                fit = (room->shared_bytes - (int64_t)k->fixed_bytes) / (int64_t)k->block_bytes;
  *stages = (int32_t)(fit < sm80::MAX_STAGES ? fit : sm80::MAX_STAGES);
  if (fit >= needed) return IFA_OK;
  return ifa_fail(message, IFA_UNSUPPORTED,
                  "head_dim %d with kv_tile %d needs %zu bytes of shared memory; the device has %d",
                  (int)p->head_dim, (int)p->kv_tile,
                  k->fixed_bytes + (size_t)needed * k->block_bytes, room->shared_bytes);
}

/* more than there are multiprocessors: what the workspace has room for, whatever the device */
enum { MOST_CTAS = 512 };

/* A CTA computes one after another. */
static int64_t item_count(const ifa_problem *p, int rows) {
  return p->batch * p->q_heads * ifa_ceil_div(p->nq, rows);
}

/* Rows of an item: those for which the multiprocessors, an item each at a time, are done soonest.
 * With more rows a multiprocessor does more at a time: of what all its groups can do, one does
 * about 60% where there are two, and 45% (two: 80%) where there are three. */
static int choose_rows(const ifa_problem *p, const ifa_gpu_entry *k, int multiprocessors) {
  static const int share[4][4] = {{0}, {0, 100}, {0, 60, 100}, {0, 45, 80, 100}};
  const int most = k->rows / k->fewest_rows;
  int64_t least = INT64_MAX;
  int best = most;
  for (int groups = most; groups > 0 && most < 4; groups--) {
    const int64_t time = ifa_ceil_div(item_count(p, groups * k->fewest_rows), multiprocessors) *
                         groups * 10000 / share[most][groups];
    if (time < least) least = time, best = groups;
  }
  return best * k->fewest_rows;
}

/* Blocks of K and V, or matrices where there are none: a CTA of the packing kernel each. */
static int64_t packed_count(const ifa_problem *p, const ifa_gpu_entry *k) {
  return p->batch * p->kv_heads * ifa_max64(1, ifa_ceil_div(p->nk, k->keys));
}

/* By any kernel of this build, so that it does not depend on the device. */
extern "C" ifa_status ifa_cuda_supports(const ifa_problem *problem, ifa_message *message) {
  ifa_status status = ifa_problem_check(problem, message);
  if (status != IFA_OK) return status;
  for (ifa_gpu_kernel kernel : {IFA_GPU_SM80, IFA_GPU_SM90}) {
    ifa_gpu_entry k;
    if (!find_entry(kernel, problem, &k)) continue;
    const int64_t items = item_count(problem, k.fewest_rows), blocks = packed_count(problem, &k);
    if (items > INT32_MAX || blocks > INT32_MAX)
      return ifa_fail(message, IFA_UNSUPPORTED,
                      "batch * q_heads * ceil(nq / %d) is %" PRId64
                      " and batch * kv_heads * ceil(nk / %d) is %" PRId64 "; each at most 2^31 - 1",
                      k.fewest_rows, items, k.keys, blocks);
  }
  return ifa_succeed(message);
}

ifa_status ifa_gpu_fits(ifa_gpu_kernel wanted, const ifa_problem *problem, ifa_message *message) {
  ifa_gpu_kernel kernel;
  device_room room = {};
  int32_t stages;
  ifa_status status = ifa_gpu_choose(wanted, problem, &kernel, message);
  if (status == IFA_OK) status = find_room(&room, message);
  if (status != IFA_OK) return status;
  const ifa_gpu_entry k = entry_of(kernel, problem);
  status = choose_stages(problem, &k, &room, &stages, message);
  return status == IFA_OK ? ifa_succeed(message) : status;
}

/* ---- workspace ---- */

/* Lays the workspace out from `base` (NULL: only to learn its size). Returns its bytes; with the
 * fewest rows an item they are the most. */
static size_t lay_out(ifa_gpu_params *a, const ifa_gpu_entry *k, uint8_t *base) {
  const ifa_problem *p = &a->p;
  size_t used = 0, blocks = (size_t)(p->batch * p->kv_heads) * (size_t)a->block_count;
  auto take = [&](size_t bytes) {
    uint8_t *at = base ? base + used : nullptr;
    used += (bytes + 255) / 256 * 256;
    return (void *)at;
  };
  const int64_t items = item_count(p, k->fewest_rows);
  a->packed.items = (ifa_gpu_item *)take((size_t)items * sizeof(ifa_gpu_item));
  a->packed.blocks = (uint8_t *)take(blocks * k->block_bytes);
  bool several_splits = p->nk > p->kv_split;
  a->packed.split_sums =
      several_splits
          ? (float *)take((size_t)ifa_min64(items, MOST_CTAS) * k->scratch_floats * sizeof(float))
          : nullptr;
  return used;
}

static ifa_gpu_params params_for(const ifa_problem *problem, const ifa_gpu_entry *k, int rows) {
  ifa_gpu_params a = {};
  a.p = ifa_problem_resolved(problem);
  a.kernel = k->kernel;
  a.keys = k->keys;
  a.block_bytes = (int32_t)k->block_bytes;
  a.block_count = (int32_t)ifa_ceil_div(a.p.nk, k->keys);
  a.dim_padded = k->dim;
  a.rows = rows;
  a.item_count = (int32_t)item_count(problem, rows);
  return a;
}

/* The most that any kernel of this build needs, so that it does not depend on the device. */
static size_t workspace_bytes_of(const ifa_problem *problem) {
  size_t most = 0;
  for (ifa_gpu_kernel kernel : {IFA_GPU_SM80, IFA_GPU_SM90}) {
    ifa_gpu_entry k;
    if (!find_entry(kernel, problem, &k)) continue;
    ifa_gpu_params a = params_for(problem, &k, k.fewest_rows);
    const size_t bytes = lay_out(&a, &k, nullptr);
    if (bytes > most) most = bytes;
  }
  return most;
}

extern "C" ifa_status ifa_cuda_workspace_bytes(const ifa_problem *problem, size_t *bytes,
                                               ifa_message *message) {
  ifa_status status = ifa_cuda_supports(problem, message);
  if (status != IFA_OK) return status;
  if (!bytes) return ifa_fail(message, IFA_BAD_ARGUMENT, "bytes is NULL");
  *bytes = workspace_bytes_of(problem);
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
  const bool v_by_token = ifa_values_per_token(p);
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

ifa_gpu_blocks ifa_gpu_blocks_of(ifa_gpu_kernel kernel, const ifa_problem *problem,
                                 void *workspace) {
  const ifa_gpu_entry k = entry_of(kernel, problem);
  ifa_gpu_params a = params_for(problem, &k, k.rows);
  lay_out(&a, &k, (uint8_t *)workspace);
  return ifa_gpu_blocks{a.packed.blocks, a.keys, a.dim_padded, a.block_count, a.block_bytes};
}

ifa_status ifa_gpu_attend(int parts, ifa_gpu_kernel kernel, const ifa_problem *problem,
                          const ifa_inputs *inputs, const ifa_outputs *outputs, void *workspace,
                          size_t workspace_bytes, void *stream, ifa_message *message) {
  ifa_status status = ifa_cuda_supports(problem, message);
  if (status == IFA_OK) status = ifa_gpu_choose(kernel, problem, &kernel, message);
  if (status != IFA_OK) return status;
  const ifa_gpu_entry k = entry_of(kernel, problem);
  device_room room = {};
  if ((status = find_room(&room, message)) != IFA_OK) return status;
  ifa_gpu_params a = params_for(problem, &k, choose_rows(problem, &k, room.multiprocessors));
  if (a.p.nq == 0) return ifa_succeed(message);
  if ((status = check_arguments(parts, &a.p, inputs, outputs, message)) != IFA_OK) return status;
  lay_out(&a, &k, (uint8_t *)workspace);
  const size_t needed = workspace_bytes_of(problem);
  if (needed > 0 && (status = check_pointer("workspace", workspace, true, 256, message)) != IFA_OK)
    return status;
  if (workspace_bytes < needed)
    return ifa_fail(message, IFA_BAD_ARGUMENT, "workspace_bytes is %zu; %zu are needed",
                    workspace_bytes, needed);
  if ((status = choose_stages(&a.p, &k, &room, &a.stages, message)) != IFA_OK) return status;
  const int ctas = (int)ifa_min64(room.multiprocessors, ifa_min64(a.item_count, MOST_CTAS));
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
  const bool per_token = ifa_values_per_token(&a.p);
  const void *function = k.function[per_token][a.packed.split_sums != nullptr];
  const size_t shared_bytes = k.fixed_bytes + (size_t)a.stages * k.block_bytes;
  cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared_bytes);
  cudaLaunchKernel(function, dim3((unsigned)ctas),
                   dim3((unsigned)(k.threads + k.row_threads * (a.rows / k.fewest_rows))),
                   arguments, shared_bytes, (cudaStream_t)stream);
  status = check_launch("attention", message);
  return status == IFA_OK ? ifa_succeed(message) : status;
}

extern "C" ifa_status ifa_cuda_attend(const ifa_problem *problem, const ifa_inputs *inputs,
                                      const ifa_outputs *outputs, void *workspace,
                                      size_t workspace_bytes, void *stream, ifa_message *message) {
  return ifa_gpu_attend(IFA_GPU_ALL, IFA_GPU_CHOOSE, problem, inputs, outputs, workspace,
                        workspace_bytes, stream, message);
}
extern "C" ifa_status ifa_cuda_pack(const ifa_problem *problem, const ifa_inputs *inputs,
                                    void *workspace, size_t workspace_bytes, void *stream,
                                    ifa_message *message) {
  return ifa_gpu_attend(IFA_GPU_ALL - IFA_GPU_ATTEND, IFA_GPU_CHOOSE, problem, inputs, NULL,
                        workspace, workspace_bytes, stream, message);
}
extern "C" ifa_status ifa_cuda_attend_packed(const ifa_problem *problem, const ifa_inputs *inputs,
                                             const ifa_outputs *outputs, void *workspace,
                                             size_t workspace_bytes, void *stream,
                                             ifa_message *message) {
  return ifa_gpu_attend(IFA_GPU_ATTEND, IFA_GPU_CHOOSE, problem, inputs, outputs, workspace,
                        workspace_bytes, stream, message);
}
