/* golden - digests of what the oracle gives for the cases of the suites.
 *
 *   golden write FOLDER SUITE...     runs each suite with the oracle and writes FOLDER/SUITE.txt
 *   golden check BACKEND FILE...     recomputes the digests of the files' cases with a backend and compares
 *
 * A line of the file: 16 hexadecimal digits of the quantized inputs, 32 of output and log-sum-exp, the case. It needs nothing but the
 * library itself, so it is also what cross-compiled builds run. Exit codes: 0 all agree, 1 a difference, 2 bad usage or file, 3
 * nothing was executed. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "validate/compare.h"
#include "validate/suite.h"

#define HEADER "# ifa golden digests, contract %d: inputs, outputs, case. Made by `golden write`.\n"

typedef struct counts { int agree, differ, not_available; } counts;

/* Digests of one case; IFA_NOT_AVAILABLE if its input file cannot be read in this build. */
static ifa_status digest_case(const ifa_case *c, const char *backend, char inputs[17], char outputs[33], ifa_message *why) {
  ifa_data data;
  ifa_status status = ifa_data_make(c, &data, why);
  if (status == IFA_OK) {
    ifa_data_digest(&data, inputs);
    status = ifa_backend_digest(&data, backend, outputs, why);
  }
  ifa_data_free(&data);
  return status;
}

static int write_cases(FILE *file, const ifa_case_list *list) {
  ifa_message why;
  fprintf(file, HEADER, IFA_CONTRACT_VERSION);
  for (size_t i = 0; i < list->count; i++) {
    char inputs[17], outputs[33], text[IFA_CASE_TEXT];
    ifa_case_print(&list->cases[i], text);
    if (digest_case(&list->cases[i], "scalar", inputs, outputs, &why) != IFA_OK) return fprintf(stderr, "golden: %s: %s\n", text, why.text), 2;
    fprintf(file, "%s %s %s\n", inputs, outputs, text);
  }
  return 0;
}

static int write_golden(const char *folder, const char *suite) {
  char path[1024], temporary[1040];
  ifa_case_list list = {0};
  ifa_case base = ifa_case_default();
  ifa_message why;
  snprintf(path, sizeof path, "%s/%s.txt", folder, suite);
  snprintf(temporary, sizeof temporary, "%s.tmp", path);
  if (ifa_case_list_add_suite(&list, suite, &base, &why) != IFA_OK) return fprintf(stderr, "golden: %s\n", why.text), 2;
  FILE *file = fopen(temporary, "w");
  if (!file) return fprintf(stderr, "golden: cannot write %s\n", temporary), 2;
  int bad = write_cases(file, &list);
  ifa_case_list_free(&list);
  if (fclose(file) != 0) bad = 2;
  if (!bad && rename(temporary, path) != 0) bad = 2;
  if (bad) remove(temporary);
  return bad;
}

static int check_line(const char *line, int number, const char *backend, counts *n) {
  char inputs[17], outputs[33], expected_inputs[17], expected_outputs[33];
  int at = 0;
  ifa_case c;
  ifa_message why;
  if (sscanf(line, "%16s %32s %n", expected_inputs, expected_outputs, &at) != 2 || at != 50 || ifa_case_parse(line + at, &c, &why) != IFA_OK)
    return fprintf(stderr, "golden: line %d is malformed\n", number), 2;
  ifa_status status = digest_case(&c, backend, inputs, outputs, &why);
  if (status == IFA_NOT_AVAILABLE || status == IFA_UNSUPPORTED) {
    n->not_available++;
  } else if (status != IFA_OK || strcmp(inputs, expected_inputs) != 0 || strcmp(outputs, expected_outputs) != 0) {
    n->differ++;
    printf("DIFFERS %s: %s\n  %s\n", backend, line + at, status != IFA_OK ? why.text : strcmp(inputs, expected_inputs) != 0 ? "quantized inputs" : "output");
  } else {
    n->agree++;
  }
  return 0;
}

static int check_file(const char *path, const char *backend, counts *n) {
  char line[IFA_CASE_TEXT + 64];
  int version = 0, bad = 0;
  FILE *file = fopen(path, "r");
  if (!file) return fprintf(stderr, "golden: cannot read %s\n", path), 2;
  if (!fgets(line, sizeof line, file) || sscanf(line, "# ifa golden digests, contract %d:", &version) != 1 || version != IFA_CONTRACT_VERSION)
    bad = 2, fprintf(stderr, "golden: %s is not of contract %d\n", path, IFA_CONTRACT_VERSION);
  for (int number = 2; !bad && fgets(line, sizeof line, file); number++) {
    line[strcspn(line, "\n")] = '\0';
    bad = check_line(line, number, backend, n);
  }
  fclose(file);
  return bad;
}

int main(int argc, char **argv) {
  int writing = argc >= 4 && strcmp(argv[1], "write") == 0, checking = argc >= 4 && strcmp(argv[1], "check") == 0, bad = 0;
  counts n = {0, 0, 0};
  if (!writing && !checking) {
    fprintf(stderr, "usage: golden write FOLDER SUITE...\n       golden check BACKEND FILE...\n");
    return 2;
  }
  for (int i = 3; i < argc && !bad; i++) bad = writing ? write_golden(argv[2], argv[i]) : check_file(argv[i], argv[2], &n);
  if (writing || bad) return bad;
  printf("golden %s: %d agree, %d differ, %d not available\n", argv[2], n.agree, n.differ, n.not_available);
  return n.differ ? 1 : n.agree ? 0 : 3;
}
