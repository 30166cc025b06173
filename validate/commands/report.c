/* report.c - `validate report`: JSON reports of run, accuracy, mutants and bench as one page. */
#include <argp.h>
#include <stdlib.h>

#include "validate/commands/commands.h"
#include "validate/reports/files.h"
#include "validate/reports/html.h"

enum { MAX_FILES = 64 };

typedef struct options {
  const char *html, *files[MAX_FILES];
  size_t count;
} options;

static const struct argp_option option_list[] = {{"html", 'o', "FILE", 0, "the page to write", 0},
                                                 {0}};

static error_t parse(int key, char *value, struct argp_state *state) {
  options *o = state->input;
  switch (key) {
    case 'o': o->html = value; return 0;
    case ARGP_KEY_ARG:
      if (o->count == MAX_FILES) refuse(state, "more than %d files", MAX_FILES);
      o->files[o->count++] = value;
      return 0;
    case ARGP_KEY_END:
      if (!o->html) refuse(state, "--html FILE is missing");
      if (o->count == 0) refuse(state, "no report is named");
      return 0;
    default: return ARGP_ERR_UNKNOWN;
  }
}

static const struct argp parser = {
    option_list,
    parse,
    "REPORT.json...",
    "Writes one self-contained page from JSON reports of `run`, `accuracy`, `mutants` and `bench`: "
    "the verdict, failures with the commands that repeat "
    "them, cases with filters, error plots, the kill matrix, speed against ceilings.\v"
    "  validate run --suite all --json run.json; validate bench --json bench.json\n"
    "  validate report --html page.html run.json bench.json\n\n"
    "Exit codes: 0 written, 2 bad usage, or a file that cannot be read or written.",
    NULL,
    NULL,
    NULL};

int cmd_report(int argc, char **argv) {
  options o = {0};
  json_t *documents[MAX_FILES];
  size_t count = 0;
  ifa_report_kind kind;
  ifa_message why;
  if (argp_parse(&parser, argc, argv, 0, NULL, &o) != 0) return EXIT_BAD_USAGE;
  ifa_status status = ifa_reports_prepare(&o.html, 1, &why);
  while (count < o.count && status == IFA_OK) {
    status = ifa_json_read(o.files[count], &documents[count], &why);
    if (status != IFA_OK) break;
    status = ifa_report_kind_of(documents[count], o.files[count], &kind, &why);
    count++;
  }
  if (status == IFA_OK) status = ifa_html_write(o.html, documents, count, &why);
  while (count > 0) json_decref(documents[--count]);
  return status == IFA_OK ? EXIT_AGREE : complain("report", "%s", why.text);
}
