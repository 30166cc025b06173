/* judge.h - libifa_judge.so: `validate run` for a kernel that is a function in the calling process.
 * The Python package is built on it (python/src/ifa/_judge.py); nothing else should be: it may
 * change with every version, and what is loaded must be of the version that it was written for
 * (ifa_judge_version).
 *
 * A judge holds a list of cases, one kernel's name and claim, and the report. Calls on one judge,
 * and ifa_judge_run on any, must not overlap. */
#ifndef IFA_VALIDATE_JUDGE_H
#define IFA_VALIDATE_JUDGE_H

#include "validate/kernels/plugin.h"

#pragma GCC visibility push(default)

typedef struct ifa_judge ifa_judge;

enum { IFA_JUDGE_VERSION = 2 };
int ifa_judge_version(void);

typedef struct ifa_judge_options {
  /* kinds[i] 's': sources[i] is a suite's name or file; 'c': a line of cases */
  const char *const *sources;
  const char *kinds;
  int32_t source_count;
  int32_t once;   /* 1: small cases are not repeated */
  int32_t no_lse; /* 1: cases without their log-sum-exp */
  uint64_t seed;  /* of the cases that name none */
  const char *name, *claim;
  /* what stands around a case's text in the line that repeats it */
  const char *repeat_before, *repeat_after;
  const char *real_folder; /* of the real tensors, or NULL; stays where it is */
} ifa_judge_options;

/* IFA_BAD_ARGUMENT for a claim, suite or case that cannot be read. Strings are copied, but for
 * real_folder. */
ifa_status ifa_judge_open(const ifa_judge_options *options, ifa_judge **judge,
                          ifa_message *message);
void ifa_judge_close(ifa_judge *judge); /* NULL is fine */

/* The claim's formats of Q, K and V (judge/claim.h: ifa_format), and whether it is `close`. */
void ifa_judge_claim(const ifa_judge *judge, int32_t formats[3], int32_t *close);

int64_t ifa_judge_case_count(const ifa_judge *judge);
/* To be freed by ifa_judge_free; NULL: no memory. */
char *ifa_judge_case_text(const ifa_judge *judge, int64_t index);

/* Runs case `index` with the kernel, judges it, and adds it to the report. *json: the result as an
 * object of the JSON report, to be freed by ifa_judge_free. Any status but IFA_OK: the case is
 * invalid (and counted so). */
ifa_status ifa_judge_run(ifa_judge *judge, int64_t index, ifa_call *call, void *context,
                         char **json, ifa_message *message);

/* As `validate run` prints it: the last result (a failure in full), the counts. To be freed. */
char *ifa_judge_last_text(const ifa_judge *judge);
char *ifa_judge_counts_text(const ifa_judge *judge);

/* 0, 1, 2 or 3, as `validate run` would end. */
int32_t ifa_judge_exit_code(const ifa_judge *judge);

/* format: "json", "html", "junit" or "csv". */
ifa_status ifa_judge_write(const ifa_judge *judge, const char *format, const char *path,
                           ifa_message *message);

void ifa_judge_free(void *text);

#pragma GCC visibility pop
#endif
