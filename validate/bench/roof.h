/* roof.h - what the machine can do at most, measured beside what runs on it: integer products,
 * binary32 multiply-adds, reading memory. */
#ifndef IFA_VALIDATE_ROOF_H
#define IFA_VALIDATE_ROOF_H

#include <stddef.h>

#include "common/message.h"
#include "cpu/bench/ceiling.h"

/* The CPU's: one instruction on registers, on `threads` threads: operations (a product and a sum
 * count 2) a second, about 10 ms long. */
double ifa_roof_instruction(const ifa_ceiling *ceiling, int threads);

/* Memory to read: as many bytes as a problem's operands, so that it is read from the same caches or
 * from none. */
typedef struct ifa_roof_memory {
  void *bytes;
  size_t count;
} ifa_roof_memory;

ifa_status ifa_roof_memory_make(size_t bytes, ifa_roof_memory *memory, ifa_message *message);
void ifa_roof_memory_free(ifa_roof_memory *memory);

/* Bytes a second, reading it with `threads` threads. */
double ifa_roof_read(const ifa_roof_memory *memory, int threads);

/* The fastest integer product and multiply-add that this machine has a loop for; NULL: none
 * (another architecture, an old processor). */
const ifa_ceiling *ifa_roof_best_integer(void);
const ifa_ceiling *ifa_roof_best_fma(void);

#endif
