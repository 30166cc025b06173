/* broken.h - an ifa_run that spoils the openmp backend's results: what the comparator must catch.
 */
#ifndef IFA_TESTS_BROKEN_H
#define IFA_TESTS_BROKEN_H

/* Names of the faults that every comparison notices; NULL ends the list. For `validate fuzz` there
 * are also causal-100, crash, hang, scribbles, accepts. */
extern const char *const broken_faults[];

/* Chooses a fault by name, or none with NULL. Until the first call the environment variable
 * IFA_BROKEN names it. */
void broken_choose(const char *fault);

#endif
