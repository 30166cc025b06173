/* suite.h - lists of cases: the built-in suites (validate/suites/, compiled in) and files of the
 * same form.
 *
 * A suite is text: one line of a case per line (lists multiply), '#' begins a comment, `include
 * NAME` takes in a built-in suite. */
#ifndef IFA_VALIDATE_SUITE_H
#define IFA_VALIDATE_SUITE_H

#include "validate/cases/case.h"

typedef struct ifa_case_list {
  ifa_case *cases;
  size_t count, capacity;
} ifa_case_list;

void ifa_case_list_free(ifa_case_list *list);

/* Adds the cases of one line. */
ifa_status ifa_case_list_add_line(ifa_case_list *list, const char *line, const ifa_case *base,
                                  ifa_message *message);

/* Adds a built-in suite, or a file if no suite has that name. Messages carry file and line. */
ifa_status ifa_case_list_add_suite(ifa_case_list *list, const char *name_or_path,
                                   const ifa_case *base, ifa_message *message);

/* Adds suite text (for tests and fuzzing). `name` appears in messages. */
ifa_status ifa_case_list_add_text(ifa_case_list *list, const char *name, const char *text,
                                  const ifa_case *base, ifa_message *message);

/* Built-in suites: name and the comment on its first line; NULL outside 0 .. count-1. */
int ifa_suite_count(void);
const char *ifa_suite_name(int index);
const char *ifa_suite_description(int index);

#endif
