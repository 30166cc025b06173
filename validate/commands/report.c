/* report.c - `validate report`: JSON reports of run, accuracy, mutants and bench as one page, or
 * the shards of a run as one report. */
#include <argp.h>
#include <stdlib.h>

#include "validate/commands/commands.h"
#include "validate/reports/files.h"
#include "validate/reports/html.h"
#include "validate/reports/merge.h"

enum { MAX_FILES = 1024 };

typedef struct options {
  const char *html, *json, *files[MAX_FILES];
  size_t count;
} options;

static const struct argp_option option_list[] = {
    {"html", 'o', "FILE", 0, "the page to write", 0},
    {"json", 'j', "FILE", 0,
     "merge reports of `run` (all shards of --shard) into one; the exit code is then that of the "
     "whole run",
     0},
    {0}};

static error_t parse(int key, char *value, struct argp_state *state) {
  options *o = state->input;
  switch (key) {
    case 'o': o->html = value; return 0;
    case 'j': o->json = value; return 0;
    case ARGP_KEY_ARG:
      if (o->count == MAX_FILES) refuse(state, "more than %d files", MAX_FILES);
      o->files[o->count++] = value;
      return 0;
    case ARGP_KEY_END:
      if (!o->html && !o->json) refuse(state, "--html FILE or --json FILE is missing");
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
    "  validate report --json run.json --html page.html shard-*.json\n\n"
    "Exit codes: 0 written, 2 bad usage, or a file that cannot be read or written; with --json "
    "that of the merged run: 1 a mismatch, 3 nothing was executed.",
    NULL,
    NULL,
    NULL};

/* One document in place of all. */
static ifa_status merge(json_t **documents, const options *o, size_t *count, int *code,
                        ifa_message *why) {
  json_t *merged;
  ifa_status status = ifa_reports_merge(documents, o->files, *count, &merged, why);
  if (status != IFA_OK) return status;
  while (*count > 0) json_decref(documents[--*count]);
  documents[(*count)++] = merged;
  *code = ifa_report_json_exit_code(merged);
  ifa_report_json_print_counts(stdout, merged);
  return ifa_json_write(merged, o->json, why);
}

int cmd_report(int argc, char **argv) {
  static options o;
  static json_t *documents[MAX_FILES];
  size_t count = 0;
  ifa_report_kind kind;
  ifa_message why;
  int code = EXIT_AGREE;
  if (argp_parse(&parser, argc, argv, 0, NULL, &o) != 0) return EXIT_BAD_USAGE;
  const char *const reports[] = {o.html, o.json};
  ifa_status status = ifa_reports_prepare(reports, 2, &why);
  while (count < o.count && status == IFA_OK) {
    status = ifa_json_read(o.files[count], &documents[count], &why);
    if (status != IFA_OK) break;
    status = ifa_report_kind_of(documents[count], o.files[count], &kind, &why);
    count++;
  }
  if (status == IFA_OK && o.json) status = merge(documents, &o, &count, &code, &why);
  if (status == IFA_OK && o.html) status = ifa_html_write(o.html, documents, count, &why);
  while (count > 0) json_decref(documents[--count]);
  return status == IFA_OK ? code : complain("report", "%s", why.text);
}
