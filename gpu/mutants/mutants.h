/* mutants.h - the attention kernels with the mistakes of faults.h, for `validate mutants`. They are
 * no part of the library. */
#ifndef IFA_GPU_MUTANTS_H
#define IFA_GPU_MUTANTS_H

#include "common/message.h"
#include "gpu/mutants/faults.h"
#include "ifa.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum ifa_gpu_mutant_kernel {
  IFA_GPU_MUTANT_SM80,
  IFA_GPU_MUTANT_SM90
} ifa_gpu_mutant_kernel;

/* IFA_OK, or IFA_NOT_AVAILABLE (no device), or IFA_UNSUPPORTED: they are built for fewer problems
 * than the backend (head_dim up to 128). problem NULL: is there a device? */
ifa_status ifa_gpu_mutants_support(ifa_gpu_mutant_kernel kernel, const ifa_problem *problem,
                                   ifa_message *message);

/* A problem with its operands on the device, for any number of runs; by one thread at a time.
 * Resolved and supported. */
typedef struct ifa_gpu_case ifa_gpu_case;
ifa_status ifa_gpu_case_make(ifa_gpu_mutant_kernel kernel, const ifa_problem *problem,
                             const ifa_inputs *inputs, ifa_gpu_case **made, ifa_message *message);
void ifa_gpu_case_free(ifa_gpu_case *c);

/* Runs with a fault and copies the outputs to host memory, which the caller has filled with bytes
 * `poison`: so are, before each run, outputs, workspace and all shared memory of the device, so
 * that no earlier run helps. IFA_BAD_DATA: it wrote behind the end of an output. Any other failure:
 * the device is lost. */
ifa_status ifa_gpu_mutant_run(ifa_gpu_case *c, ifa_gpu_fault fault, uint8_t poison,
                              const ifa_outputs *outputs, ifa_message *message);

#ifdef __cplusplus
}
#endif
#endif
