/* html.h - JSON reports as one page: verdict, failures with their commands, cases, errors, kill
 * matrix, speed. No script is needed to read it and nothing is loaded from anywhere. */
#ifndef IFA_VALIDATE_HTML_H
#define IFA_VALIDATE_HTML_H

#include "validate/reports/files.h"

/* The documents have passed ifa_report_kind; the page shows them in the order run, accuracy,
 * mutants, bench. */
ifa_status ifa_html_write(const char *path, json_t *const *documents, size_t count,
                          ifa_message *message);

#endif
