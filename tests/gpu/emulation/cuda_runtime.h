/* cuda_runtime.h - what gpu/attend.cu and gpu/backend_cuda.cu use of CUDA's, for the emulation: the
 * device's memory is the host's, but known apart. */
#ifndef IFA_TESTS_GPU_EMULATION_RUNTIME_H
#define IFA_TESTS_GPU_EMULATION_RUNTIME_H

#include "tests/gpu/emulation/emulation.h"

enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorMemoryAllocation = 2 };
enum {
  cudaDevAttrComputeCapabilityMajor,
  cudaDevAttrComputeCapabilityMinor,
  cudaDevAttrMaxSharedMemoryPerBlockOptin,
  cudaDevAttrMultiProcessorCount
};
enum { cudaFuncAttributeMaxDynamicSharedMemorySize };
enum cudaMemoryType {
  cudaMemoryTypeUnregistered,
  cudaMemoryTypeHost,
  cudaMemoryTypeDevice,
  cudaMemoryTypeManaged
};
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost };
struct cudaPointerAttributes {
  cudaMemoryType type;
};
typedef struct emulated_stream *cudaStream_t;
typedef struct emulated_event *cudaEvent_t;

cudaError_t cudaMalloc(void **block, size_t bytes);
cudaError_t cudaFree(void *block);
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes *attributes, const void *pointer);
cudaError_t cudaLaunchKernel(const void *kernel, dim3 grid, dim3 cta, void **arguments,
                             size_t shared_bytes, cudaStream_t stream);

static inline cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, cudaMemcpyKind) {
  return memcpy(to, from, bytes), cudaSuccess;
}
static inline cudaError_t cudaMemset(void *to, int byte, size_t bytes) {
  return memset(to, byte, bytes), cudaSuccess;
}
template <class T>
static inline cudaError_t cudaMemcpyToSymbol(T &symbol, const void *from, size_t bytes) {
  return memcpy(&symbol, from, bytes), cudaSuccess;
}
static inline cudaError_t cudaGetDevice(int *device) { return *device = 0, cudaSuccess; }
static inline cudaError_t cudaDeviceGetAttribute(int *value, int attribute, int) {
#ifdef IFA_GPU_EMULATION_BULK
  const int major = 9, minor = 0, shared = 228 << 10;
#else
  const int major = 8, minor = 6, shared = 100 << 10; /* 8.6 and 8.9, which have least */
#endif
  switch (attribute) {
    case cudaDevAttrComputeCapabilityMajor: *value = major; break;
    case cudaDevAttrComputeCapabilityMinor: *value = minor; break;
    case cudaDevAttrMultiProcessorCount: *value = 3; break; /* few: a CTA has several items */
    default: *value = shared - 1024;
  }
  return cudaSuccess;
}
static inline cudaError_t cudaFuncSetAttribute(const void *, int, int) { return cudaSuccess; }
static inline cudaError_t cudaGetLastError() { return cudaSuccess; }
static inline const char *cudaGetErrorString(cudaError_t) { return "emulated"; }
static inline cudaError_t cudaEventCreate(cudaEvent_t *event) {
  return *event = nullptr, cudaSuccess;
}
static inline cudaError_t cudaEventDestroy(cudaEvent_t) { return cudaSuccess; }
static inline cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) { return cudaSuccess; }
static inline cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaSuccess; }
static inline cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t, cudaEvent_t) {
  return *ms = 1.0f, cudaSuccess;
}

#endif
