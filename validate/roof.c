#include "validate/roof.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#include "ifa_cpu.h"
#include "validate/clock.h"

double ifa_roof_instruction(const ifa_ceiling *ceiling, int threads) {
  const int64_t rounds = 1000000;
  double operations = 0, start = ifa_now_on(threads);
#pragma omp parallel num_threads(threads) reduction(+ : operations)
  operations += ceiling->run(rounds);
  return operations / (ifa_now_on(threads) - start);
}

ifa_status ifa_roof_memory_make(size_t bytes, ifa_roof_memory *memory, ifa_message *message) {
  memory->count = (bytes / 256 + 1) * 256;
  memory->bytes = aligned_alloc(256, memory->count);
  if (!memory->bytes) return ifa_fail(message, IFA_OUT_OF_MEMORY, "no memory to read: %zu bytes", memory->count);
  memset(memory->bytes, 1, memory->count);
  return IFA_OK;
}

void ifa_roof_memory_free(ifa_roof_memory *memory) {
  free(memory->bytes);
  *memory = (ifa_roof_memory){0};
}

/* Each thread reads its part, often enough that the clock sees some milliseconds. */
double ifa_roof_read(const ifa_roof_memory *memory, int threads) {
  static volatile uint64_t sink;
  const int64_t passes = 1 + (int64_t)(((size_t)64 << 20) / memory->count);
  uint64_t sum = 0;
  double start = ifa_now_on(threads);
#pragma omp parallel num_threads(threads) reduction(^ : sum)
  {
    size_t thread = 0, all = 1, blocks = memory->count / 256;
#ifdef _OPENMP
    thread = (size_t)omp_get_thread_num();
    all = (size_t)omp_get_num_threads();
#endif
    size_t first = blocks * thread / all * 256, last = blocks * (thread + 1) / all * 256;
    for (int64_t i = 0; i < passes; i++) sum ^= ifa_ceiling_read((const char *)memory->bytes + first, last - first) + (uint64_t)i;
  }
  double seconds = ifa_now_on(threads) - start;
  sink = sum;
  (void)sink;
  return (double)memory->count * (double)passes / seconds;
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
