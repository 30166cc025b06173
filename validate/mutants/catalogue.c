/* catalogue.c - all mutants: those of the CPU's kernel, of the GPU's two, and of attention in
 * floats under two claims. */
#include "validate/mutants/kernel.h"

#define CPU_X(name, part, what) {IFA_MUTANT_CPU, #name, part, what, NULL, 0},
#define CPU_E(name, part, what, proof) {IFA_MUTANT_CPU, #name, part, what, proof, 0},
#define GPU_X(name, part, what) {IFA_MUTANT_CUDA_SM80, #name, part, what, NULL, 0},
#define GPU_R(name, part, what) {IFA_MUTANT_CUDA_SM80, #name, part, what, NULL, 1},
#define GPU_E(name, part, what, proof) {IFA_MUTANT_CUDA_SM80, #name, part, what, proof, 1},
#define SM90_X(name, part, what) {IFA_MUTANT_CUDA_SM90, #name, part, what, NULL, 0},
#define SM90_R(name, part, what) {IFA_MUTANT_CUDA_SM90, #name, part, what, NULL, 1},
#define SM90_E(name, part, what, proof) {IFA_MUTANT_CUDA_SM90, #name, part, what, proof, 1},
#define SEEN NULL
#define ABSENT ""
#define F16(name, part, what, f16, fp8) {IFA_MUTANT_FLASH_F16, "f16_" #name, part, what, f16, 0},
#define FP8(name, part, what, f16, fp8) {IFA_MUTANT_FLASH_FP8, "fp8_" #name, part, what, fp8, 0},
const ifa_mutant_entry ifa_mutant_entries[IFA_MUTANT_COUNT] = {
    {IFA_MUTANT_CPU, "none", "", "no fault", NULL, 0},
    IFA_MUTANTS(CPU_X, CPU_E){IFA_MUTANT_CUDA_SM80, "none", "", "no fault", NULL, 1},
    IFA_GPU_FAULTS(GPU_X, GPU_R, GPU_E){IFA_MUTANT_CUDA_SM90, "none", "", "no fault", NULL, 1},
    IFA_GPU_FAULTS_SM90(SM90_X, SM90_R, SM90_E){IFA_MUTANT_FLASH_F16, "none", "", "no fault", NULL,
                                                0},
    IFA_FLASH_FAULTS(F16){IFA_MUTANT_FLASH_FP8, "none", "", "no fault", NULL, 0},
    IFA_FLASH_FAULTS(FP8)};
