/* absent.c - stands in for the GPU backends in a build without CUDA: listed, and not available. */
#include "common/backend.h"

static ifa_status supports(const ifa_problem *problem, ifa_message *message) {
  (void)problem;
  return ifa_fail(message, IFA_NOT_AVAILABLE, "cuda-sm80: built without CUDA");
}

static ifa_status run(const ifa_problem *problem, const ifa_inputs *inputs,
                      const ifa_outputs *outputs, ifa_message *message) {
  (void)inputs, (void)outputs;
  return supports(problem, message);
}

const ifa_backend ifa_backend_cuda_sm80 = {
    "cuda-sm80", "INT8 tensor cores through mma.sync (compute capability 8.0 and above)", supports,
    run, NULL};
