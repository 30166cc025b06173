/* machine.h - what a figure was measured on: printed above every benchmark and kept in every
 * report. */
#ifndef IFA_VALIDATE_MACHINE_H
#define IFA_VALIDATE_MACHINE_H

#include <stddef.h>

/* Processor's name, or "unknown processor". */
void machine_processor(char *text, size_t length);

/* Compiler, its version, and optimization as far as it shows in the predefined macros. */
const char *machine_compiler(void);

/* Threads that OpenMP would use; 1 without it. */
int machine_threads(void);

#endif
