/* absent.c - stands in for the GPU backends in a build without CUDA: listed, and not available. */
#include "common/backend.h"

#define BACKEND(symbol, name, description)                                                      \
  static ifa_status symbol##_supports(const ifa_problem *problem, ifa_message *message) {       \
    (void)problem;                                                                              \
    return ifa_fail(message, IFA_NOT_AVAILABLE, name ": built without CUDA");                   \
  }                                                                                             \
  static ifa_status symbol##_run(const ifa_problem *problem, const ifa_inputs *inputs,          \
                                 const ifa_outputs *outputs, ifa_message *message) {            \
    (void)inputs, (void)outputs;                                                                \
    return symbol##_supports(problem, message);                                                 \
  }                                                                                             \
  const ifa_backend ifa_backend_##symbol = {name, description, symbol##_supports, symbol##_run, \
                                            NULL}

BACKEND(cuda_sm80, "cuda-sm80",
        "INT8 tensor cores through mma.sync (compute capability 8.0 and above)");
BACKEND(cuda_sm90, "cuda-sm90",
        "INT8 tensor cores through wgmma (compute capability 9.0); cuda-sm80 for what it does not "
        "take");
BACKEND(cuda, "cuda", "the GPU's fastest kernel, or the one that IFA_CUDA_KERNEL names");
