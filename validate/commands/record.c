/* record.c - `validate record`: what a device gives, as a file of digests that a machine without
 * the device can check. */
#define _GNU_SOURCE /* asprintf */
#include <argp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "validate/bench/bench_table.h"
#include "validate/commands/commands.h"
#include "validate/judge/digest_file.h"
#include "validate/bench/machine.h"
#include "validate/reports/files.h"
#include "validate/text/visible.h"

typedef struct options {
  const char *backend, *suite, *output, *commit, *device, *bench;
} options;

static const struct argp_option option_list[] = {
    {"backend", 'b', "NAME", 0, "backend to record (default cuda-sm80)", 0},
    {"suite", 's', "NAME|FILE", 0, "cases (default all)", 0},
    {"output", 'o', "FILE", 0, "file to write", 0},
    {"commit", 'c', "ID", 0, "commit that the program was built from, for the head of the file", 0},
    {"device", 'd', "TEXT", 0,
     "card, driver and toolkit, for the head of the file (default: what the benchmark's file says)",
     0},
    {"bench", 'B', "FILE", 0,
     "what `bench_gpu --json FILE` wrote: its table goes into the head of the file", 0},
    {0}};

static error_t parse(int key, char *value, struct argp_state *state) {
  options *o = state->input;
  switch (key) {
    case 'b': o->backend = value; return 0;
    case 's': o->suite = value; return 0;
    case 'o': o->output = value; return 0;
    case 'c': o->commit = value; return 0;
    case 'd': o->device = value; return 0;
    case 'B': o->bench = value; return 0;
    case ARGP_KEY_ARG: refuse(state, "unexpected argument '%s'", value); return 0;
    default: return ARGP_ERR_UNKNOWN;
  }
}

static const struct argp parser = {
    option_list,
    parse,
    "",
    "Runs the cases with one backend and writes the digests of its outputs. `golden check scalar "
    "FILE` compares them with the "
    "oracle, on any machine, and says when the kernels' source has changed since.",
    NULL,
    NULL,
    NULL};

enum { MAX_HEAD = 200 };

/* Can it stand in a line of the head, whole? */
static int is_head_line(const char *text) {
  char *visible = ifa_visible(text);
  int same = visible && strcmp(visible, text) == 0 && strlen(text) <= MAX_HEAD;
  free(visible);
  return same;
}

/* The head of the file. */
static ifa_status make_notes(const options *o, char **notes, ifa_message *message) {
  char processor[128], *table = NULL, *card = NULL;
  if (!is_head_line(o->commit) || (o->device && !is_head_line(o->device)))
    return ifa_fail(message, IFA_BAD_ARGUMENT,
                    "commit and device are one line of UTF-8 each, of at most %d bytes", MAX_HEAD);
  ifa_status status = o->bench ? ifa_bench_table_read(o->bench, &table, &card, message) : IFA_OK;
  if (status != IFA_OK) return status;
  machine_processor(processor, sizeof processor);
  int length = asprintf(
      notes, "# backend: %s\n# commit: %s\n# gpu source: %s\n# device: %s\n# host: %s, %s\n%s",
      o->backend, o->commit, ifa_gpu_source_digest(),
      o->device ? o->device
      : card    ? card
                : "not given",
      processor, machine_compiler(), table ? table : "");
  free(table);
  free(card);
  if (length >= 0) return IFA_OK;
  *notes = NULL;
  return ifa_fail(message, IFA_OUT_OF_MEMORY, "no memory for the head of the file");
}

int cmd_record(int argc, char **argv) {
  options o = {.backend = "cuda-sm80", .suite = "all", .commit = "not given"};
  ifa_case_list list = {0};
  ifa_case base = ifa_case_default();
  ifa_digest_counts counts = {0};
  ifa_message why = {""};
  char *notes = NULL;
  if (argp_parse(&parser, argc, argv, 0, NULL, &o) != 0 || !o.output)
    return complain("record", "--output is needed");
  ifa_status status = ifa_backend_supports(o.backend, NULL, &why);
  if (status != IFA_OK) {
    complain("record", "%s", why.text);
    return status == IFA_NOT_AVAILABLE ? EXIT_NOTHING_RUN : EXIT_BAD_USAGE;
  }
  status = ifa_output_prepare(o.output, &why);
  if (status == IFA_OK) status = make_notes(&o, &notes, &why);
  if (status == IFA_OK) status = ifa_case_list_add_suite(&list, o.suite, &base, &why);
  if (status == IFA_OK)
    status = ifa_digest_file_write(o.output, &list, o.backend, notes, &counts, &why);
  ifa_case_list_free(&list);
  free(notes);
  if (status != IFA_OK) return complain("record", "%s", why.text);
  ifa_print_visible_line(stdout, "%s: %d written, %d unsupported, %d not available", o.output,
                         counts.written, counts.unsupported, counts.not_available);
  return counts.written ? EXIT_AGREE : EXIT_NOTHING_RUN;
}
