#include "validate/bench/roof.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "ifa_cpu.h"
#include "common/clock.h"

double ifa_roof_instruction(const ifa_ceiling *ceiling, int threads) {
  double start = ifa_now_on(threads), operations = ifa_ceiling_run_on(ceiling, 1000000, threads);
  return operations / (ifa_now_on(threads) - start);
}

ifa_status ifa_roof_memory_make(size_t bytes, ifa_roof_memory *memory, ifa_message *message) {
  memory->count = (bytes / 256 + 1) * 256;
  memory->bytes = aligned_alloc(256, memory->count);
  if (!memory->bytes)
    return ifa_fail(message, IFA_OUT_OF_MEMORY, "no memory to read: %zu bytes", memory->count);
  memset(memory->bytes, 1, memory->count);
  return IFA_OK;
}

void ifa_roof_memory_free(ifa_roof_memory *memory) {
  free(memory->bytes);
  *memory = (ifa_roof_memory){0};
}

/* Often enough that the clock sees some milliseconds. */
double ifa_roof_read(const ifa_roof_memory *memory, int threads) {
  const int64_t passes = 1 + (int64_t)(((size_t)64 << 20) / memory->count);
  double start = ifa_now_on(threads);
  ifa_ceiling_read_on(memory->bytes, memory->count, passes, threads);
  return (double)memory->count * (double)passes / (ifa_now_on(threads) - start);
}

/* Later names are better: ifa_cpu.h. */
static const ifa_ceiling *best(const ifa_ceiling *(*of)(const char *isa)) {
  const ifa_ceiling *found = NULL;
  for (int i = 0; i < ifa_cpu_isa_count(); i++) {
    const ifa_ceiling *c = of(ifa_cpu_isa_name(i));
    if (c) found = c;
  }
  return found;
}

const ifa_ceiling *ifa_roof_best_integer(void) { return best(ifa_ceiling_integer); }
const ifa_ceiling *ifa_roof_best_fma(void) { return best(ifa_ceiling_fma); }
