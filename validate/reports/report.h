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

typedef struct ifa_report {
  ifa_result *results;
  size_t count, capacity;
  int64_t counts[IFA_VERDICTS];
  int64_t invalid;   /* cases that could not be made: bad problem, unreadable input */
  int shard, shards; /* which part of a run this is, from 1 on; 0: all of it */
} ifa_report;

void ifa_report_free(ifa_report *report);

/* Adds a result (copied). */
ifa_status ifa_report_add(ifa_report *report, const ifa_result *result, ifa_message *message);

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
