/* device_copies.h - a host's tensors on the device, for what checks: the backend behind ifa_run,
 * and the kernels with faults. */
#ifndef IFA_GPU_DEVICE_COPIES_H
#define IFA_GPU_DEVICE_COPIES_H

#include <cuda_runtime.h>
#include <string.h>

extern "C" {
#include "common/backend.h"
#include "common/message.h"
#include "common/operand.h"
#include "common/problem.h"
}

/* Device copies of one run, all freed at its end. */
typedef struct device_blocks {
  void *list[24];
  int count;
} device_blocks;

static void free_device_blocks(device_blocks *blocks) {
  for (int i = 0; i < blocks->count; i++) cudaFree(blocks->list[i]);
  blocks->count = 0;
}

static ifa_status cuda_failure(const char *what, cudaError_t error, ifa_message *message) {
  cudaGetLastError();
  return ifa_fail(message,
                  error == cudaErrorMemoryAllocation ? IFA_OUT_OF_MEMORY : IFA_NOT_AVAILABLE,
                  "%s: %s", what, cudaGetErrorString(error));
}

/* `bytes` device bytes, a copy of `from` or (NULL) every byte 0xfb, so that what a kernel does not
 * write shows. */
static ifa_status to_device(device_blocks *blocks, const char *what, const void *from,
                            int64_t bytes, const void **to, ifa_message *message) {
  void *block = nullptr;
  *to = nullptr;
  cudaError_t error = cudaMalloc(&block, (size_t)bytes + 16);
  if (error == cudaSuccess) {
    blocks->list[blocks->count++] = block;
    error = from ? cudaMemcpy(block, from, (size_t)bytes, cudaMemcpyHostToDevice)
                 : cudaMemset(block, 0xfb, (size_t)bytes + 16);
  }
  if (error != cudaSuccess) return cuda_failure(what, error, message);
  *to = block;
  return IFA_OK;
}

static ifa_status copy_inputs(const ifa_problem *p, const ifa_inputs *in, device_blocks *blocks,
                              ifa_inputs *device, ifa_message *message) {
  int64_t b = p->batch, d = p->head_dim;
  const struct {
    const char *name;
    const void *from;
    int64_t bytes;
    const void **to;
  } list[] = {
      {"q", in->q, ifa_extent_bytes(p->q_type, p->q_stride, b, p->q_heads, p->nq, d), &device->q},
      {"k", in->k, ifa_extent_bytes(p->k_type, p->k_stride, b, p->kv_heads, p->nk, d), &device->k},
      {"v", in->v, ifa_extent_bytes(p->v_type, p->v_stride, b, p->kv_heads, p->nk, d), &device->v},
      {"q_scale", in->q_scale, 4 * ifa_scale_count(p->q_scale, b, p->q_heads, p->nq, d, p->q_block),
       (const void **)&device->q_scale},
      {"k_scale", in->k_scale,
       4 * ifa_scale_count(p->k_scale, b, p->kv_heads, p->nk, d, p->k_block),
       (const void **)&device->k_scale},
      {"v_scale", in->v_scale, 4 * ifa_scale_count(p->v_scale, b, p->kv_heads, p->nk, d, 1),
       (const void **)&device->v_scale},
      {"v_channel_scale", in->v_channel_scale,
       p->v_scale == IFA_SCALE_TOKEN_CHANNEL ? 4 * b * p->kv_heads * d : 0,
       (const void **)&device->v_channel_scale}};
  for (const auto &entry : list) {
    if (entry.bytes == 0) continue;
    ifa_status status = to_device(blocks, entry.name, entry.from, entry.bytes, entry.to, message);
    if (status != IFA_OK) return status;
  }
  return IFA_OK;
}

/* The computed rows of the device's output into the caller's; nothing else is touched. */
static inline void store_rows(const ifa_problem *p, const ifa_inputs *in, const ifa_outputs *out,
                              const uint8_t *o, const float *lse) {
  size_t width = ifa_type_bytes(p->out_type);
  for (int64_t r = 0; r < ifa_computed_rows(p, in); r++) {
    int64_t row = ifa_computed_row(in, r), matrix = row / p->nq;
    size_t at =
        (size_t)ifa_offset(p->o_stride, matrix / p->q_heads, matrix % p->q_heads, row % p->nq) *
        width;
    memcpy((uint8_t *)out->o + at, o + at, width * (size_t)p->head_dim);
    if (p->lse) out->lse[row] = lse[row];
  }
}

#endif
