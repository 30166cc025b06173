/* suspects.h - what wrong values look like: the mutants' catalogues, and some exchanges of rows and
 * heads, as hypotheses, each computed on failing cases and compared with what the kernel gave
 * before it is named. */
#ifndef IFA_VALIDATE_SUSPECTS_H
#define IFA_VALIDATE_SUSPECTS_H

#include "validate/cases/buffers.h"
#include "validate/judge/claim.h"

enum { IFA_SUSPECTS = 3, IFA_SUSPECT_TEXT = 256 };

/* A failing case and what the kernel gave for it. */
typedef struct ifa_evidence {
  const ifa_data *data;
  const ifa_run_buffers *got;
} ifa_evidence;

/* Up to three sentences, the likeliest first; answers how many. Only hypotheses that explain all of
 * the evidence are named. The claim "exact": bit by bit; "close": nine tenths of the error or more,
 * and nothing else. */
int ifa_find_suspects(const ifa_claim *claim, const ifa_evidence *evidence, int count,
                      char suspects[IFA_SUSPECTS][IFA_SUSPECT_TEXT]);

#endif
