/* absent.c - stands in for the steps in a build without CUDA: listed, and not available. */
#include "gpu/steps/steps.h"

static ifa_status supports(const ifa_problem *problem, ifa_message *message) {
  (void)problem;
  return ifa_fail(message, IFA_NOT_AVAILABLE, "the steps: built without CUDA");
}

static ifa_status run(const ifa_problem *problem, const ifa_inputs *inputs,
                      const ifa_outputs *outputs, ifa_message *message) {
  (void)inputs, (void)outputs;
  return supports(problem, message);
}

static const ifa_backend naive = {"cuda-step-naive", IFA_GPU_STEP_NAIVE, supports, run, NULL},
                         tiled = {"cuda-step-tiled", IFA_GPU_STEP_TILED, supports, run, NULL},
                         mma = {"cuda-step-mma", IFA_GPU_STEP_MMA, supports, run, NULL};

const ifa_backend *const ifa_gpu_steps[IFA_GPU_STEPS] = {&naive, &tiled, &mma};
