/* fuzz_case.h - random cases near the boundaries of the contract, ways to break a valid case, and
 * smaller cases to try in place of a failing one. */
#ifndef IFA_VALIDATE_FUZZ_CASE_H
#define IFA_VALIDATE_FUZZ_CASE_H

#include "validate/cases/data.h"

/* Case number `index` of `seed`: valid, but for scores that may be out of range (IFA_BAD_DATA). A
 * pure function of both. */
ifa_case ifa_fuzz_case(uint64_t seed, uint64_t index);

/* A violation: what is made invalid in a valid case, and what ifa_run must answer. */
typedef struct ifa_violation {
  const char *name;
  ifa_status status;
} ifa_violation;

int ifa_violation_count(void);
const ifa_violation *ifa_violation_at(int number); /* NULL outside 0 .. count-1 */
int ifa_violation_find(const char *name);          /* -1: none */

/* What is handed to ifa_run: copies that a violation may change. */
typedef struct ifa_fuzz_call {
  ifa_problem problem;
  ifa_inputs inputs;
  ifa_outputs outputs;
  void *owned[2]; /* freed by ifa_fuzz_call_free */
} ifa_fuzz_call;

/* Breaks a call on `data`. 0: this violation needs something that the case does not have (INT4, a
 * scale, two rows ...). */
int ifa_violate(int violation, const ifa_data *data, ifa_fuzz_call *call);
void ifa_fuzz_call_free(ifa_fuzz_call *call);

/* Number of ways to make a case smaller; ifa_shrunk_case gives the way-th, or answers 0 if it
 * changes nothing. */
int ifa_shrink_count(void);
int ifa_shrunk_case(const ifa_case *c, int way, ifa_case *smaller);

#endif
