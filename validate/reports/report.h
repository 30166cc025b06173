/* report.h - what a run found: on the console, and as JSON, HTML, JUnit, CSV and annotations. */
#ifndef IFA_VALIDATE_REPORT_H
#define IFA_VALIDATE_REPORT_H

#include <jansson.h>
#include <stdio.h>

#include "validate/judge/compare.h"

/* One executed (case, backend). */
typedef struct ifa_result {
  char *text;          /* of the case; ifa_report_add copies it */
  const char *backend; /* or a plug-in's name */
  const char *claim;   /* of a plug-in: "exact" or "close ..."; NULL for a backend */
  /* of a plug-in: what chooses it on a shell's command line, "--plugin ./libmine.so"; NULL for a
   * backend */
  const char *selector;
  /* of a kernel in the caller's process: the line that repeats a case, before and behind its text;
   * NULL otherwise */
  const char *repeat_before, *repeat_after;
  char digest[33]; /* of the oracle's output */
  ifa_outcome outcome;
} ifa_result;

/* A case that could not be made: bad problem, unreadable input. */
typedef struct ifa_invalid {
  char *text, *why;
} ifa_invalid;

/* What all failures of one kernel have to say together (commands/diagnose.h). */
typedef struct ifa_diagnosis {
  char *backend, *repeat; /* repeat: the command that runs the smallest failing case */
  int64_t failed, passed;
  int64_t problems;    /* of a kernel of floats: how many different problems fail; 0: not counted */
  char shared[400];    /* what the failing cases share, or "" */
  ifa_message message; /* of the smallest case */
  int looked_at;       /* cases that what follows was tried on */
  int suspects;
  char looks_like[3][256];
} ifa_diagnosis;

typedef struct ifa_report {
  ifa_result *results;
  size_t count, capacity;
  int64_t counts[IFA_VERDICTS];
  ifa_invalid *invalids;
  int64_t invalid;
  ifa_diagnosis *diagnoses;
  size_t diagnosed;
  int64_t not_run;   /* cases after --max-failures */
  int lost;          /* something did not get into it, for want of memory */
  int shard, shards; /* which part of a run this is, from 1 on; 0: all of it */
} ifa_report;

void ifa_report_free(ifa_report *report);

/* Adds a result (copied). */
ifa_status ifa_report_add(ifa_report *report, const ifa_result *result, ifa_message *message);

/* Adds a case that could not be made (copied). */
ifa_status ifa_report_add_invalid(ifa_report *report, const char *text, const char *why,
                                  ifa_message *message);

/* Adds a diagnosis (copied), with the command that runs the case. selector: as in ifa_result. */
ifa_status ifa_report_add_diagnosis(ifa_report *report, const ifa_diagnosis *diagnosis,
                                    const char *backend, const char *selector, const char *text,
                                    ifa_message *message);
void ifa_report_print_diagnosis(FILE *to, const ifa_diagnosis *diagnosis);

/* Results that are the kernel's fault: ifa_verdict_is_failure. */
int64_t ifa_report_failures(const ifa_report *report);

/* A failure: the message, the first differing places with both values in hex, and the command that
 * repeats this one case. */
void ifa_report_print_failure(FILE *to, const ifa_result *result);

/* How far a plug-in's output is from the right one; nothing if that was not measured. */
void ifa_report_print_distance(FILE *to, const ifa_result *result);

/* One line of a result that is no failure, and its distance. */
void ifa_report_print_quiet(FILE *to, const ifa_result *result);

/* How `validate run` ends: 0 all executed cases agree, 1 a mismatch, 2 an invalid case, 3 nothing
 * was executed. */
int ifa_report_exit_code(const ifa_report *report);

/* "12 passed, 0 failed, 3 unsupported, 0 not available". */
void ifa_report_print_counts(FILE *to, const ifa_report *report);

/* A failure as one line of GitHub's workflow commands, which becomes an annotation of the check. */
void ifa_report_print_annotation(FILE *to, const ifa_result *result);

/* One result as it stands in the JSON report: text, to be freed; NULL without memory. */
char *ifa_report_result_text(const ifa_result *result);

/* The report as JSON, to be released; NULL without memory. */
json_t *ifa_report_json(const ifa_report *report);

/* Files: written whole or not at all. */
ifa_status ifa_report_write_html(const ifa_report *report, const char *path, ifa_message *message);
ifa_status ifa_report_write_json(const ifa_report *report, const char *path, ifa_message *message);
ifa_status ifa_report_write_junit(const ifa_report *report, const char *path, ifa_message *message);
ifa_status ifa_report_write_csv(const ifa_report *report, const char *path, ifa_message *message);

#endif
