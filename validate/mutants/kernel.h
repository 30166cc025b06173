/* kernel.h - an attention kernel that can be told to make one of the mistakes of catalogue.h. */
#ifndef IFA_VALIDATE_MUTANTS_KERNEL_H
#define IFA_VALIDATE_MUTANTS_KERNEL_H

#include "common/message.h"
#include "ifa.h"
#include "validate/mutants/catalogue.h"

#define IFA_MUTANT_ENUM_X(name, part, what) IFA_MUTANT_##name,
#define IFA_MUTANT_ENUM_E(name, part, what, proof) IFA_MUTANT_##name,
typedef enum ifa_mutant_number {
  IFA_MUTANT_none = 0, /* no fault: the oracle's bits */
  IFA_MUTANTS(IFA_MUTANT_ENUM_X, IFA_MUTANT_ENUM_E) IFA_MUTANT_COUNT
} ifa_mutant_number;

/* What the catalogue says of a mutant. */
typedef struct ifa_mutant_entry {
  const char *name, *part, *what;
  const char *proof; /* NULL, or why the fault cannot be seen */
} ifa_mutant_entry;
extern const ifa_mutant_entry ifa_mutant_entries[IFA_MUTANT_COUNT]; /* [0]: none */

/* A kernel with one fault. It may be run by several threads at once. NULL: no memory. */
typedef struct ifa_mutant ifa_mutant;
ifa_mutant *ifa_mutant_new(ifa_mutant_number fault);
void ifa_mutant_free(ifa_mutant *mutant);

/* As a backend's `run` (common/backend.h): everything was checked, the problem is resolved, the floating-point environment is the default one. No
 * stages: IFA_UNSUPPORTED. */
ifa_status ifa_mutant_run(const ifa_mutant *mutant, const ifa_problem *problem, const ifa_inputs *inputs, const ifa_outputs *outputs,
                          ifa_message *message);

#endif
