/* mutants_sm90.cu - the kernel sm90 once more, under other names and with faults in it: as
 * mutants.cu has gpu/attend.cu, which runs it. For the emulated GPU: ptxas does not find registers
 * for what the faults add. */
#define IFA_GPU_MUTANT
#define parts sm90_mutant_parts
#define sm90 sm90_mutant
#define ifa_gpu_sm90_entry mutant_sm90_entry
#define ifa_gpu_sm90_entry_64 mutant_sm90_entry_64
#define ifa_gpu_sm90_entry_128 mutant_sm90_entry_128

#include <cuda_runtime.h>

#include "gpu/mutants/faults.h"
/* copies with the faults in them, of the build folder: gpu/mutants/ */
#include "gpu_mutants/sm90/entries.cu"
#include "gpu_mutants/sm90/entries_128.cu"
#include "gpu_mutants/sm90/entries_64.cu"

int mutant_sm90_choose_fault(int fault);
int mutant_sm90_choose_fault(int fault) {
  return (int)cudaMemcpyToSymbol(gpu_fault, &fault, sizeof fault);
}
