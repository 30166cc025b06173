/* diff.c - `validate diff`: what changed between two JSON reports of the same kind. Each entry is
 * found again by its name (a second entry of one name is "name #2"), and its change is one of the
 * classes below. */
#define _GNU_SOURCE /* asprintf */
#include <argp.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "validate/commands/commands.h"
#include "validate/reports/files.h"
#include "validate/text/number.h"
#include "validate/text/visible.h"

/* ---- classes of change ---- */

typedef enum change {
  SAME = 0,
  NEWLY_BAD,
  WORSE,
  LOST,
  CHANGED_BITS,
  FIXED,
  BETTER,
  ADDED,
  STILL_BAD,
  CHANGES
} change;

/* `worse`: the change makes the exit code 1. */
static const struct {
  const char *name;
  int worse;
} classes[CHANGES] = {
    [SAME] = {"unchanged", 0},
    [NEWLY_BAD] = {"newly failing", 1},
    [WORSE] = {"worse", 1}, /* slower, less accurate */
    /* it passed, and now was not executed or is not in the report */
    [LOST] = {"no longer checked", 1},
    /* the oracle's digest differs although the contract's version does not */
    [CHANGED_BITS] = {"changed bits", 1},
    [FIXED] = {"fixed", 0},
    [BETTER] = {"better", 0},
    [ADDED] = {"new", 0},
    [STILL_BAD] = {"still failing", 0},
};

typedef struct options {
  const char *files[2];
  int file_count;
  double noise;
  int verbose, allow_missing;
} options;

typedef struct comparison {
  const options *o;
  ifa_report_kind kind;
  const json_t *documents[2];
  json_t *entries[2]; /* name -> entry, borrowed from the documents */
  int same_contract;
  long counts[CHANGES];
} comparison;

/* ---- one entry in both reports ---- */

static int is_bad(const comparison *c, const json_t *entry) {
  const char *verdict = ifa_json_text(entry, "verdict");
  if (c->kind == IFA_REPORT_RUN)
    return strcmp(verdict, "passed") != 0 && strcmp(verdict, "unsupported") != 0 &&
           strcmp(verdict, "not available") != 0 && strcmp(verdict, "empty") != 0;
  return c->kind == IFA_REPORT_MUTANTS && !json_is_true(json_object_get(entry, "killed")) &&
         !json_is_true(json_object_get(entry, "equivalent"));
}

static int is_checked(const comparison *c, const json_t *entry) {
  return c->kind != IFA_REPORT_RUN || strcmp(ifa_json_text(entry, "verdict"), "passed") == 0;
}

/* Slower or faster: the runs' intervals (least .. most) do not meet, and the medians differ by more
 * than the noise. */
static change compare_times(const comparison *c, const json_t *old, const json_t *new) {
  double before = ifa_json_value(old, "median"), after = ifa_json_value(new, "median"),
         limit = 1 + c->o->noise / 100;
  if (ifa_json_value(new, "least") > ifa_json_value(old, "most") && after > before * limit)
    return WORSE;
  if (ifa_json_value(new, "most") < ifa_json_value(old, "least") && after * limit < before)
    return BETTER;
  return isnan(before) || isnan(after) ? (isnan(after) && !isnan(before) ? LOST : SAME) : SAME;
}

static change compare_errors(const comparison *c, const json_t *old, const json_t *new) {
  double before = ifa_json_value(old, "relative_l2"), after = ifa_json_value(new, "relative_l2"),
         limit = 1 + c->o->noise / 100;
  if (isnan(after)) return isnan(before) ? SAME : LOST;
  return after > before * limit ? WORSE : after * limit < before ? BETTER : SAME;
}

static change compare_entries(const comparison *c, const json_t *old, const json_t *new) {
  if (is_bad(c, new)) return is_bad(c, old) ? STILL_BAD : NEWLY_BAD;
  if (is_checked(c, old) && !is_bad(c, old) && !is_checked(c, new)) return LOST;
  if (c->kind == IFA_REPORT_RUN && c->same_contract && *ifa_json_text(old, "digest") &&
      *ifa_json_text(new, "digest") &&
      strcmp(ifa_json_text(old, "digest"), ifa_json_text(new, "digest")) != 0)
    return CHANGED_BITS;
  if (is_bad(c, old)) return is_checked(c, new) ? FIXED : LOST;
  if (c->kind == IFA_REPORT_BENCH) return compare_times(c, old, new);
  return c->kind == IFA_REPORT_ACCURACY ? compare_errors(c, old, new) : SAME;
}

/* ---- printing ---- */

static void print_entry(const comparison *c, const char *name, const json_t *old,
                        const json_t *new) {
  const char *key = c->kind == IFA_REPORT_BENCH      ? "median"
                    : c->kind == IFA_REPORT_ACCURACY ? "relative_l2"
                                                     : "";
  double scale = c->kind == IFA_REPORT_BENCH ? 1e3 : 1, before = scale * ifa_json_value(old, key),
         after = scale * ifa_json_value(new, key);
  printf("  ");
  ifa_print_visible(stdout, name);
  if (!isnan(before) && !isnan(after))
    printf("  %.4g -> %.4g%s (%+.1f%%)", before, after, c->kind == IFA_REPORT_BENCH ? " ms" : "",
           100 * (after / before - 1));
  if (c->kind == IFA_REPORT_RUN) {
    printf("  ");
    ifa_print_visible(stdout, old ? ifa_json_text(old, "verdict") : "absent");
    printf(" -> ");
    ifa_print_visible(stdout, new ? ifa_json_text(new, "verdict") : "absent");
    if (*ifa_json_text(new, "message"))
      printf(": "), ifa_print_visible(stdout, ifa_json_text(new, "message"));
  }
  printf("\n");
}

/* ---- all entries ---- */

enum { SHOWN = 20 };

/* "backend  case", "algorithm  data", ...: the strings that name an entry; to be freed. */
static char *name_of(const comparison *c, const json_t *entry) {
  static const char *const keys[IFA_REPORT_KINDS][2] = {
      [IFA_REPORT_RUN] = {"backend", "case"},
      [IFA_REPORT_ACCURACY] = {"algorithm", "case"},
      [IFA_REPORT_MUTANTS] = {"part", "name"},
      [IFA_REPORT_BENCH] = {"subject", "case"}};
  char *name = NULL;
  return asprintf(&name, "%s  %s", ifa_json_text(entry, keys[c->kind][0]),
                  ifa_json_text(entry, keys[c->kind][1])) < 0
             ? NULL
             : name;
}

/* Keeps the entry under its name; a name's second entry is "name #2". *copies counts them. */
static int index_entry(const comparison *c, json_t *entry, json_t *copies, json_t *entries) {
  char *name = name_of(c, entry), *numbered = NULL;
  if (!name) return 1;
  json_int_t copy = 1 + json_integer_value(json_object_get(copies, name));
  if (asprintf(&numbered, copy > 1 ? "%s #%lld" : "%s", name, (long long)copy) < 0) numbered = NULL;
  int failed = !numbered || json_object_set_new_nocheck(copies, name, json_integer(copy)) != 0 ||
               json_object_set_nocheck(entries, numbered, entry) != 0;
  free(name);
  free(numbered);
  return failed;
}

static ifa_status index_entries(comparison *c, int which, ifa_message *message) {
  const json_t *list = ifa_report_list(c->documents[which], c->kind);
  json_t *entry, *copies = json_object(); /* name -> how often it has been seen */
  size_t i;
  int failed = !(c->entries[which] = json_object());
  json_array_foreach(list, i, entry) failed |= index_entry(c, entry, copies, c->entries[which]);
  json_decref(copies);
  return failed ? ifa_fail(message, IFA_OUT_OF_MEMORY, "no memory for %zu entries",
                           json_array_size(list))
                : IFA_OK;
}

/* Prints and counts the entries of one class; the first of it comes with the class's name. */
static void show_class(comparison *c, change class) {
  const char *name;
  json_t *new, *old;
  int silent = class == SAME;
  /* what is in the old report, then what is only in the new one */
  for (int which = 0; which < 2; which++) json_object_foreach(c->entries[which], name, old) {
      const json_t *other = json_object_get(c->entries[1 - which], name);
      change found;
      if (which == 1 && other) continue;
      if (which == 0)
        found = other ? compare_entries(c, old, other)
                : is_checked(c, old) && !is_bad(c, old) && !c->o->allow_missing ? LOST
                                                                                : SAME;
      else found = is_bad(c, old) ? NEWLY_BAD : ADDED;
      if (found != class) continue;
      if (c->counts[class]++ == 0 && !silent) printf("%s:\n", classes[class].name);
      new = which == 1 ? old : (json_t *)other;
      if (!silent && (c->o->verbose || c->counts[class] <= SHOWN))
        print_entry(c, name, which == 0 ? old : NULL, new);
    }
  if (!silent && !c->o->verbose && c->counts[class] > SHOWN)
    printf("  ... and %ld more (--verbose)\n", c->counts[class] - SHOWN);
}

static int report(comparison *c) {
  int worse = 0;
  for (int class = 1; class < CHANGES; class ++) show_class(c, (change) class);
  show_class(c, SAME);
  for (int class = 1; class < CHANGES; class ++) {
    if (c->counts[class]) printf("%ld %s, ", c->counts[class], classes[class].name);
    worse |= c->counts[class] > 0 && classes[class].worse;
  }
  printf("%ld unchanged\n", c->counts[SAME]);
  return worse ? EXIT_MISMATCH : EXIT_AGREE;
}

/* Times of two machines, or bits of two contracts, are no regression of one another: said before
 * anything else. */
static void print_heads(comparison *c) {
  const json_t *a = json_object_get(c->documents[0], "machine"),
               *b = json_object_get(c->documents[1], "machine");
  double contracts[2] = {ifa_json_value(c->documents[0], "contract"),
                         ifa_json_value(c->documents[1], "contract")};
  c->same_contract = contracts[0] == contracts[1];
  if (!c->same_contract)
    printf("contract %g -> %g: digests are not compared\n", contracts[0], contracts[1]);
  if (a && b && !json_equal(a, b))
    printf("measured on different machines or by different compilers\n");
}

static ifa_status load(comparison *c, json_t *owned[2], ifa_message *message) {
  ifa_report_kind kinds[2];
  for (int i = 0; i < 2; i++) {
    ifa_status status = ifa_json_read(c->o->files[i], &owned[i], message);
    if (status == IFA_OK) status = ifa_report_kind_of(owned[i], c->o->files[i], &kinds[i], message);
    if (status != IFA_OK) return status;
    c->documents[i] = owned[i];
  }
  if (kinds[0] != kinds[1])
    return ifa_fail(message, IFA_BAD_FILE, "%s holds a report of %s, %s of %s",
                    ifa_shorten(c->o->files[0]).text, ifa_report_kind_name(kinds[0]),
                    ifa_shorten(c->o->files[1]).text, ifa_report_kind_name(kinds[1]));
  c->kind = kinds[0];
  ifa_status status = index_entries(c, 0, message);
  return status == IFA_OK ? index_entries(c, 1, message) : status;
}

/* ---- the command ---- */

static const struct argp_option option_list[] = {
    {"noise", 'n', "PERCENT", 0,
     "changes of a median or an error up to this much are none (default 5)", 0},
    {"allow-missing", 'm', NULL, 0,
     "entries that only the old report has are no loss: the new one is of a smaller run", 0},
    {"verbose", 'v', NULL, 0, "all entries of each class, not the first 20", 0},
    {0}};

static error_t parse(int key, char *value, struct argp_state *state) {
  options *o = state->input;
  switch (key) {
    case 'n':
      if (!ifa_read_decimal(value, 0, 1000, &o->noise))
        refuse(state, "--noise %s is not a percentage", value);
      return 0;
    case 'm': o->allow_missing = 1; return 0;
    case 'v': o->verbose = 1; return 0;
    case ARGP_KEY_ARG:
      if (o->file_count == 2) refuse(state, "two reports are compared");
      o->files[o->file_count++] = value;
      return 0;
    case ARGP_KEY_END:
      if (o->file_count < 2) refuse(state, "two reports are needed: old.json new.json");
      return 0;
    default: return ARGP_ERR_UNKNOWN;
  }
}

static const struct argp parser = {
    option_list,
    parse,
    "OLD.json NEW.json",
    "Compares two JSON reports of run, bench, accuracy or mutants: what is newly failing, fixed, "
    "new, no longer checked, slower or faster, less or more accurate.\v"
    "A time has changed if the intervals from the least to the most do not meet and the medians "
    "differ by more than the noise; an error, if it differs by more than "
    "the noise.\n"
    "Exit codes: 0 nothing is worse, 1 something is (newly failing, worse, no longer checked, "
    "changed bits), 2 a file that cannot be used.",
    NULL,
    NULL,
    NULL};

int cmd_diff(int argc, char **argv) {
  options o = {.noise = 5};
  if (argp_parse(&parser, argc, argv, 0, NULL, &o) != 0) return EXIT_BAD_USAGE;
  comparison c = {.o = &o};
  json_t *owned[2] = {NULL, NULL};
  ifa_message why;
  ifa_status status = load(&c, owned, &why);
  if (status == IFA_OK) print_heads(&c);
  int code = status == IFA_OK ? report(&c) : complain("diff", "%s", why.text);
  for (int i = 0; i < 2; i++) {
    json_decref(c.entries[i]);
    json_decref(owned[i]);
  }
  return code;
}
