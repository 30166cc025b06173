/* gpu_absent.c - stands in for gpu/mutants/mutants.cu in a build without CUDA. */
#include "gpu/mutants/mutants.h"

ifa_status ifa_gpu_mutants_support(ifa_gpu_mutant_kernel kernel, const ifa_problem *problem,
                                   ifa_message *message) {
  (void)problem;
  return ifa_fail(message, IFA_NOT_AVAILABLE, "%s: built without CUDA",
                  kernel == IFA_GPU_MUTANT_SM90 ? "cuda-sm90" : "cuda-sm80");
}

ifa_status ifa_gpu_case_make(ifa_gpu_mutant_kernel kernel, const ifa_problem *problem,
                             const ifa_inputs *inputs, ifa_gpu_case **made, ifa_message *message) {
  (void)inputs;
  *made = NULL;
  return ifa_gpu_mutants_support(kernel, problem, message);
}

void ifa_gpu_case_free(ifa_gpu_case *c) { (void)c; }

ifa_status ifa_gpu_mutant_run(ifa_gpu_case *c, ifa_gpu_fault fault, uint8_t poison,
                              const ifa_outputs *outputs, ifa_message *message) {
  (void)c, (void)fault, (void)poison, (void)outputs;
  return ifa_gpu_mutants_support(IFA_GPU_MUTANT_SM80, NULL, message);
}
