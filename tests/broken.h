/* broken.h - an ifa_run that spoils the openmp backend's results: what the comparator must catch. */
#ifndef IFA_TESTS_BROKEN_H
#define IFA_TESTS_BROKEN_H

/* Names of the faults; NULL ends the list. */
extern const char *const broken_faults[];

/* Chooses a fault by name, or none with NULL. Until the first call the environment variable IFA_BROKEN names it. */
void broken_choose(const char *fault);

#endif
