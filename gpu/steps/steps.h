/* steps.h - the ladder: three short kernels from naive to tensor cores, to be read before
 * gpu/sm80. `validate` runs them by name, bench_gpu --steps times them; the library has none of
 * them. */
#ifndef IFA_GPU_STEPS_H
#define IFA_GPU_STEPS_H

#ifdef __cplusplus
extern "C" {
#endif

#include "common/backend.h"

enum { IFA_GPU_STEPS = 3 };
#define IFA_GPU_STEP_NAIVE "a thread a row, everything from global memory"
#define IFA_GPU_STEP_TILED "a thread a row, tiles of K and V in shared memory, dp4a"
#define IFA_GPU_STEP_MMA "16 rows a warp, mma.sync, weights in pairs of binary16"

/* cuda-step-naive, -tiled, -mma. Their bits are the contract's; what a step leaves out (README.md)
 * it refuses by name. gpu/steps/absent.c stands in for them in a build without CUDA. */
extern const ifa_backend *const ifa_gpu_steps[IFA_GPU_STEPS];

/* Step `step` on device pointers, in the stream's order; computes all rows. The problem is one that
 * the step supports. */
ifa_status ifa_gpu_step_attend(int step, const ifa_problem *problem, const ifa_inputs *inputs,
                               const ifa_outputs *outputs, void *stream, ifa_message *message);

#ifdef __cplusplus
}
#endif
#endif
