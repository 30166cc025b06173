/* device_pointer.h - the check of a pointer that kernels will use. */
#ifndef IFA_GPU_DEVICE_POINTER_H
#define IFA_GPU_DEVICE_POINTER_H

#include <cuda_runtime.h>

extern "C" {
#include "common/message.h"
}

/* IFA_OK, or IFA_BAD_ARGUMENT: present, a multiple of `alignment` bytes, and to device (or managed)
 * memory. It asks the driver, which neither synchronizes nor disturbs a capture, and leaves no CUDA
 * error behind. */
static inline ifa_status ifa_gpu_check_pointer(const char *name, const void *pointer,
                                               size_t alignment, ifa_message *message) {
  if (!pointer) return ifa_fail(message, IFA_BAD_ARGUMENT, "%s is NULL", name);
  if ((uintptr_t)pointer % alignment != 0)
    return ifa_fail(message, IFA_BAD_ARGUMENT, "%s is %p; it must be a multiple of %zu bytes", name,
                    pointer, alignment);
  cudaPointerAttributes attributes;
  cudaError_t error = cudaPointerGetAttributes(&attributes, pointer);
  if (error == cudaSuccess &&
      (attributes.type == cudaMemoryTypeDevice || attributes.type == cudaMemoryTypeManaged))
    return IFA_OK;
  /* reported here: not left for the caller's next check */
  if (error != cudaSuccess) (void)cudaGetLastError();
  if (error != cudaSuccess && error != cudaErrorInvalidValue)
    return ifa_fail(message, IFA_NOT_AVAILABLE, "CUDA error while asking where %s leads: %s", name,
                    cudaGetErrorString(error));
  return ifa_fail(message, IFA_BAD_ARGUMENT, "%s is %p, which is not device memory", name, pointer);
}

#endif
