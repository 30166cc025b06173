/* shared.h - what failing cases have in common that passing ones lack. */
#ifndef IFA_VALIDATE_SHARED_H
#define IFA_VALIDATE_SHARED_H

#include "validate/cases/case.h"

typedef struct ifa_seen {
  ifa_case c;
  int failed; /* else it passed */
} ifa_seen;

/* One sentence: "all 58 have causal=1 and nq > nk; none of the 155 that pass". Words of a case are
 * joined: up to three, or two with an "or" and a third; if none separate the two, it says how many
 * of those that pass have them too. floats: without what a kernel of floats does not see (scale
 * choices, tau, splits). */
void ifa_shared_sentence(const ifa_seen *seen, size_t count, int floats, char *text, size_t length);

#endif
