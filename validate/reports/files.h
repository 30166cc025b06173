/* files.h - report files: JSON in and out, and text made safe for CSV, XML, HTML and annotations,
 * in all of which it is visible first (text/visible.h). Files are written whole or not at all. */
#ifndef IFA_VALIDATE_FILES_H
#define IFA_VALIDATE_FILES_H

#include <jansson.h>
#include <stdio.h>

#include "common/message.h"

/* What every JSON report begins with: {"kind", "version", "contract", "machine": {"processor",
 * "compiler", "threads"}}. NULL: no memory. */
json_t *ifa_json_head(const char *kind);

/* Text from anywhere: made visible (text/visible.h), for a report must be valid UTF-8. NULL: no
 * memory. */
json_t *ifa_json_string(const char *text);

/* A number, or null for NaN and infinity, which JSON lacks. */
json_t *ifa_json_number(double x);

/* Reads one JSON object. IFA_IO, IFA_BAD_FILE (not a regular file, over 256 MiB, malformed with
 * line and column, a key twice, not an object). */
ifa_status ifa_json_read(const char *path, json_t **json, ifa_message *message);
ifa_status ifa_json_write(const json_t *json, const char *path, ifa_message *message);

/* Before the work whose reports they will hold (NULL: not wanted): can the files be written? "-",
 * /dev/stdout and the like are the standard output, which only one report may have; the console's
 * text then goes to the standard error. */
ifa_status ifa_reports_prepare(const char *const *paths, size_t count, ifa_message *message);

/* The same of one file that is no report: a name that can be written and renamed. */
ifa_status ifa_output_prepare(const char *path, ifa_message *message);

/* What a report file holds. */
typedef enum ifa_report_kind {
  IFA_REPORT_RUN = 0,
  IFA_REPORT_ACCURACY,
  IFA_REPORT_MUTANTS,
  IFA_REPORT_BENCH,
  IFA_REPORT_KINDS
} ifa_report_kind;

const char *ifa_report_kind_name(ifa_report_kind kind); /* "run", "accuracy", "mutants", "bench" */

/* The kind of a report, after looking at it: its list is a list of objects that have their names.
 * IFA_BAD_FILE otherwise; `path` is for the message. */
ifa_status ifa_report_kind_of(const json_t *json, const char *path, ifa_report_kind *kind,
                              ifa_message *message);

/* The list of a report of that kind: "results", or "mutants". */
const json_t *ifa_report_list(const json_t *json, ifa_report_kind kind);

/* Members of an object, whatever it really is: "" and NaN where there is none of that type. */
const char *ifa_json_text(const json_t *object, const char *key);
double ifa_json_value(const json_t *object, const char *key);

/* Writes what `print` prints: a regular file whole or not at all, a pipe or a device as it comes.
 */
ifa_status ifa_print_file(const char *path, void (*print)(FILE *to, const void *context),
                          const void *context, ifa_message *message);

/* RFC 4180: in quotes, quotes doubled. */
void ifa_print_csv(FILE *to, const char *text);

/* For XML and HTML, text or attribute: the five special characters as entities. */
void ifa_print_xml(FILE *to, const char *text);

/* One line of GitHub's workflow commands, "::error title=TITLE::TEXT", both escaped as those want
 * it. */
void ifa_print_annotation(FILE *to, const char *title, const char *text);

#endif
