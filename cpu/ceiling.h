/* ceiling.h - what the machine can do at most, measured: rates of single instructions and of reading memory. For cpu/bench.c. */
#ifndef IFA_CPU_CEILING_H
#define IFA_CPU_CEILING_H

#include <stddef.h>
#include <stdint.h>

/* A loop of one instruction on registers. `run` does `rounds` rounds and returns the operations done (a product and a sum count 2). */
typedef struct ifa_ceiling {
  const char *name; /* "vpdpbusd zmm", ... */
  double (*run)(int64_t rounds);
} ifa_ceiling;

/* The integer product instruction of an instruction set (its name: ifa_cpu.h), and the binary32 fma of its width; NULL where there is none, or not on this machine. */
const ifa_ceiling *ifa_ceiling_integer(const char *isa);
const ifa_ceiling *ifa_ceiling_fma(const char *isa);

/* Reads `bytes` bytes (a multiple of 256) from memory once; the result only keeps the compiler from leaving it out. */
uint64_t ifa_ceiling_read(const void *memory, size_t bytes);

#endif
