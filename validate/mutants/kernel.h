/* kernel.h - attention kernels that can be told to make one of the mistakes of a catalogue: on the
 * CPU those of catalogue.h, on the GPU those of gpu/mutants/faults.h (gpu/mutants/mutants.h), in
 * floats those of flash_faults.h (flash.h). */
#ifndef IFA_VALIDATE_MUTANTS_KERNEL_H
#define IFA_VALIDATE_MUTANTS_KERNEL_H

#include "common/message.h"
#include "gpu/mutants/faults.h"
#include "ifa.h"
#include "validate/mutants/catalogue.h"
#include "validate/mutants/flash_faults.h"

/* Which kernel a fault lies in. */
typedef enum ifa_mutant_kernel {
  IFA_MUTANT_CPU = 0,
  IFA_MUTANT_CUDA_SM80,
  IFA_MUTANT_CUDA_SM90,
  IFA_MUTANT_FLASH_F16, /* attention in floats, under two claims */
  IFA_MUTANT_FLASH_FP8,
  IFA_MUTANT_KERNELS
} ifa_mutant_kernel;

/* One after the other, so that no name is given twice. */
#define IFA_MUTANT_ENUM(name, ...) IFA_MUTANT_##name,
#define IFA_MUTANT_F16_ENUM(name, ...) IFA_MUTANT_f16_##name,
#define IFA_MUTANT_FP8_ENUM(name, ...) IFA_MUTANT_fp8_##name,
typedef enum ifa_mutant_number {
  IFA_MUTANT_none = 0, /* no fault: the oracle's bits */
  IFA_MUTANTS(IFA_MUTANT_ENUM, IFA_MUTANT_ENUM) IFA_MUTANT_gpu_none,
  IFA_GPU_FAULTS(IFA_MUTANT_ENUM, IFA_MUTANT_ENUM, IFA_MUTANT_ENUM) IFA_MUTANT_sm90_none,
  IFA_GPU_FAULTS_SM90(IFA_MUTANT_ENUM, IFA_MUTANT_ENUM, IFA_MUTANT_ENUM) IFA_MUTANT_f16_none,
  IFA_FLASH_FAULTS(IFA_MUTANT_F16_ENUM) IFA_MUTANT_fp8_none,
  IFA_FLASH_FAULTS(IFA_MUTANT_FP8_ENUM) IFA_MUTANT_COUNT
} ifa_mutant_number;

/* What a catalogue says of a mutant. */
typedef struct ifa_mutant_entry {
  ifa_mutant_kernel kernel;
  const char *name, *part, *what;
  const char *proof; /* NULL, or why the fault cannot be seen: it changes nothing, or too little */
  int race;          /* it need not show in every run */
} ifa_mutant_entry;
/* part "": none, or a fault that has no place in this kernel */
extern const ifa_mutant_entry ifa_mutant_entries[IFA_MUTANT_COUNT];

/* The faults of sm90 follow those of sm80, which have no `none` of their own between them. */
static inline ifa_gpu_fault ifa_gpu_fault_of(int number) {
  if (number < (int)IFA_MUTANT_sm90_none) return (ifa_gpu_fault)(number - (int)IFA_MUTANT_gpu_none);
  if (number == (int)IFA_MUTANT_sm90_none) return IFA_GPU_FAULT_none;
  return (ifa_gpu_fault)(number - (int)IFA_MUTANT_gpu_none - 1);
}

/* A kernel of the CPU with one fault. It may be run by several threads at once. NULL: no memory. */
typedef struct ifa_mutant ifa_mutant;
ifa_mutant *ifa_mutant_new(ifa_mutant_number fault);
void ifa_mutant_free(ifa_mutant *mutant);

/* As a backend's `run` (common/backend.h): everything was checked, the problem is resolved, the
 * floating-point environment is the default one. No stages: IFA_UNSUPPORTED. */
ifa_status ifa_mutant_run(const ifa_mutant *mutant, const ifa_problem *problem,
                          const ifa_inputs *inputs, const ifa_outputs *outputs,
                          ifa_message *message);

#endif
