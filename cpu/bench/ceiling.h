/* ceiling.h - what the machine can do at most, to be timed: single instructions, and reading
 * memory. For benchmarks. */
#ifndef IFA_CPU_CEILING_H
#define IFA_CPU_CEILING_H

#include <stddef.h>
#include <stdint.h>

/* A loop of one instruction on registers. `run` does `rounds` rounds and returns the operations
 * done (a product and a sum count 2). */
typedef struct ifa_ceiling {
  const char *name; /* "vpdpbusd zmm", ... */
  double (*run)(int64_t rounds);
} ifa_ceiling;

/* The integer product instruction of an instruction set (its name: ifa_cpu.h), and the binary32 fma
 * of its width; NULL where there is none, or not on this machine. */
const ifa_ceiling *ifa_ceiling_integer(const char *isa);
const ifa_ceiling *ifa_ceiling_fma(const char *isa);

/* The loop on `threads` threads at once (those of common/team.h), `rounds` rounds each. Returns the
 * operations done by all. */
double ifa_ceiling_run_on(const ifa_ceiling *ceiling, int64_t rounds, int threads);

/* Reads `bytes` bytes of memory (the last bytes % 256 are left out) `passes` times, each thread a
 * part of its own. */
void ifa_ceiling_read_on(const void *memory, size_t bytes, int64_t passes, int threads);

#endif
