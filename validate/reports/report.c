#define _GNU_SOURCE /* asprintf */
#include "validate/reports/report.h"

#include <ctype.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "files/tensor_file.h"
#include "validate/reports/files.h"
#include "validate/reports/html.h"
#include "validate/text/visible.h"

void ifa_report_free(ifa_report *report) {
  for (size_t i = 0; i < report->count; i++) free(report->results[i].text);
  for (int64_t i = 0; i < report->invalid; i++) {
    free(report->invalids[i].text);
    free(report->invalids[i].why);
  }
  for (size_t i = 0; i < report->diagnosed; i++) {
    free(report->diagnoses[i].backend);
    free(report->diagnoses[i].repeat);
  }
  free(report->diagnoses);
  free(report->results);
  free(report->invalids);
  *report = (ifa_report){0};
}

ifa_status ifa_report_add(ifa_report *report, const ifa_result *result, ifa_message *message) {
  if (report->count == report->capacity) {
    size_t capacity = report->capacity ? 2 * report->capacity : 64;
    ifa_result *grown = realloc(report->results, capacity * sizeof *grown);
    if (!grown) return ifa_fail(message, IFA_OUT_OF_MEMORY, "no memory for %zu results", capacity);
    report->results = grown;
    report->capacity = capacity;
  }
  char *text = ifa_copy_string(result->text);
  if (!text) return ifa_fail(message, IFA_OUT_OF_MEMORY, "no memory for a case's text");
  report->results[report->count] = *result;
  report->results[report->count++].text = text;
  report->counts[result->outcome.verdict]++;
  return IFA_OK;
}

ifa_status ifa_report_add_invalid(ifa_report *report, const char *text, const char *why,
                                  ifa_message *message) {
  ifa_invalid *grown =
      realloc(report->invalids, ((size_t)report->invalid + 1) * sizeof *report->invalids);
  if (grown) report->invalids = grown;
  ifa_invalid added = {ifa_copy_string(text), ifa_copy_string(why)};
  if (!grown || !added.text || !added.why) {
    free(added.text);
    free(added.why);
    return ifa_fail(message, IFA_OUT_OF_MEMORY, "no memory for an invalid case");
  }
  report->invalids[report->invalid++] = added;
  return IFA_OK;
}

int64_t ifa_report_failures(const ifa_report *report) {
  int64_t failures = 0;
  for (int v = 0; v < IFA_VERDICTS; v++)
    if (ifa_verdict_is_failure((ifa_verdict)v)) failures += report->counts[v];
  return failures;
}

/* ---- console ---- */

/* The command that repeats one case, for a shell (a case's text has nothing that a shell would see
 * within double quotes); to be freed, NULL without memory. */
static char *repeat_command(const ifa_result *r) {
  char *text = NULL;
  int length =
      r->repeat_before ? asprintf(&text, "%s%s%s", r->repeat_before, r->text, r->repeat_after)
      : r->selector
          ? asprintf(&text, "validate run %s --case \"%s\"", r->selector, r->text)
          : asprintf(&text, "validate run --backend %s --case \"%s\"", r->backend, r->text);
  return length < 0 ? NULL : text;
}

/* How many times its bound an error is; infinity where there is none (a NaN, say). */
static double ratio_of(const ifa_place *p) {
  double error = fabs(p->value - p->right);
  return isfinite(error) && p->bound > 0 ? error / p->bound : INFINITY;
}

/* A place of a `close` kernel: numbers, their distance, and what it may be. */
static void print_numbers(FILE *to, const ifa_place *p) {
  fprintf(to, "  %-28s expected %-13.7g got %-13.7g", p->where, p->right, p->value);
  if (isfinite(ratio_of(p)))
    fprintf(to, " error %-9.3g bound %-9.3g %.3gx", fabs(p->value - p->right), p->bound,
            ratio_of(p));
  fprintf(to, "\n");
}

void ifa_report_print_failure(FILE *to, const ifa_result *r) {
  const ifa_outcome *o = &r->outcome;
  char name[32];
  snprintf(name, sizeof name, "%s", ifa_verdict_name(o->verdict));
  for (char *c = name; *c; c++) *c = (char)toupper((unsigned char)*c);
  fprintf(to, "%s  %s  %s\n  ", name, r->backend, r->text);
  ifa_print_visible_line(to, "%s", o->message.text);
  for (int i = 0; i < o->place_count; i++)
    if (o->places[i].bounded) print_numbers(to, &o->places[i]);
    else
      fprintf(to, "  %-44s expected %0*" PRIx32 "  got %0*" PRIx32 "\n", o->places[i].where,
              o->places[i].digits, o->places[i].expected, o->places[i].digits, o->places[i].got);
  if (o->mismatches > o->place_count)
    fprintf(to, "  ... %" PRId64 " places in all\n", o->mismatches);
  ifa_report_print_distance(to, r);
  char *repeat = repeat_command(r);
  fprintf(to, "  repeat: %s\n", repeat ? repeat : "no memory for the command");
  free(repeat);
}

ifa_status ifa_report_add_diagnosis(ifa_report *report, const ifa_diagnosis *diagnosis,
                                    const char *backend, const char *selector, const char *text,
                                    ifa_message *message) {
  ifa_diagnosis *grown =
      realloc(report->diagnoses, (report->diagnosed + 1) * sizeof *report->diagnoses);
  if (grown) report->diagnoses = grown;
  ifa_result smallest = {.text = (char *)text, .backend = backend, .selector = selector};
  ifa_diagnosis added = *diagnosis;
  added.backend = ifa_copy_string(backend);
  added.repeat = repeat_command(&smallest);
  if (!grown || !added.backend || !added.repeat) {
    free(added.backend);
    free(added.repeat);
    return ifa_fail(message, IFA_OUT_OF_MEMORY, "no memory for a diagnosis");
  }
  report->diagnoses[report->diagnosed++] = added;
  return IFA_OK;
}

void ifa_report_print_diagnosis(FILE *to, const ifa_diagnosis *d) {
  fprintf(to, "diagnosis of %s: %" PRId64 " of %" PRId64 " case%s fail%s", d->backend, d->failed,
          d->failed + d->passed, d->failed + d->passed == 1 ? "" : "s", d->failed == 1 ? "s" : "");
  if (d->problems && d->problems < d->failed)
    fprintf(to, "; without what it does not see (scale choices, tau, splits) they are %" PRId64,
            d->problems);
  fprintf(to, "\n");
  if (d->shared[0]) fprintf(to, "  %s\n", d->shared);
  fprintf(to, "  smallest: %s\n", d->repeat);
  if (d->message.text[0]) ifa_print_visible_line(to, "    %s", d->message.text);
  for (int i = 0; i < d->suspects; i++)
    fprintf(to, "  %s: %s\n", i ? "      or" : "as if", d->looks_like[i]);
  if (d->suspects)
    fprintf(to, "    (computed, and compared with its output on %d failing case%s)\n", d->looked_at,
            d->looked_at == 1 ? "" : "s");
}

void ifa_report_print_distance(FILE *to, const ifa_result *r) {
  const ifa_distance *d = &r->outcome.distance;
  if (!d->known) return;
  fprintf(to, "  relative L2 %.3e  cosine %.7f  worst row %.3e at %s  ", d->relative_l2, d->cosine,
          d->worst_row, d->worst_row_at);
  fprintf(to, "largest %.4g ulp at %s\n", d->max_ulp, d->max_ulp_at);
  if (r->claim && strcmp(r->claim, "exact") != 0) {
    fprintf(to, "  error / bound at most %.3g at %s", d->worst_bound, d->worst_bound_at);
    if (d->unbounded_rows) fprintf(to, "; %" PRId64 " rows have no bound", d->unbounded_rows);
    fprintf(to, "\n");
  }
}

void ifa_report_print_quiet(FILE *to, const ifa_result *r) {
  int passed = r->outcome.verdict == IFA_PASSED;
  ifa_print_visible_line(to, "%s  %s  %.3f s  %s%s%s", ifa_verdict_name(r->outcome.verdict),
                         r->backend, r->outcome.seconds, r->text, passed ? "" : "  ",
                         passed ? "" : r->outcome.message.text);
  if (passed) ifa_report_print_distance(to, r);
}

int ifa_report_exit_code(const ifa_report *report) {
  enum { AGREE, MISMATCH, BAD_USAGE, NOTHING_RUN };
  if (ifa_report_failures(report)) return MISMATCH;
  if (report->invalid || report->lost) return BAD_USAGE;
  return report->counts[IFA_PASSED] ? AGREE : NOTHING_RUN;
}

void ifa_report_print_counts(FILE *to, const ifa_report *report) {
  for (int v = 0; v < IFA_VERDICTS; v++) /* the first four always, the rest where there are any */
    if (v <= IFA_ABSENT || report->counts[v])
      fprintf(to, "%s%" PRId64 " %s", v ? ", " : "", report->counts[v],
              ifa_verdict_name((ifa_verdict)v));
  if (report->invalid) fprintf(to, ", %" PRId64 " invalid", report->invalid);
  if (report->not_run) fprintf(to, "; %" PRId64 " cases not run", report->not_run);
  fprintf(to, "\n");
}

void ifa_report_print_annotation(FILE *to, const ifa_result *r) {
  char title[128], *repeat = repeat_command(r), *message = ifa_visible(r->outcome.message.text),
                   *text = NULL;
  snprintf(title, sizeof title, "%.60s: %s", r->backend, ifa_verdict_name(r->outcome.verdict));
  int made = message && repeat && asprintf(&text, "%s\nrepeat: %s", message, repeat) >= 0;
  ifa_print_annotation(to, title, made ? text : "no memory for the message");
  if (made) free(text);
  free(message);
  free(repeat);
}

/* ---- files: through ifa_output_file, which writes them whole or not at all ---- */

static json_t *place_json(const ifa_place *p) {
  char expected[16], got[16];
  snprintf(expected, sizeof expected, "%0*" PRIx32, p->digits, p->expected);
  snprintf(got, sizeof got, "%0*" PRIx32, p->digits, p->got);
  json_t *json = json_pack("{s:s, s:s, s:s}", "where", p->where, "expected", expected, "got", got);
  if (!p->bounded) return json;
  json_object_set_new(json, "right", ifa_json_number(p->right));
  json_object_set_new(json, "value", ifa_json_number(p->value));
  json_object_set_new(json, "error", ifa_json_number(fabs(p->value - p->right)));
  json_object_set_new(json, "bound", ifa_json_number(p->bound));
  json_object_set_new(json, "error_by_bound", ifa_json_number(ratio_of(p)));
  return json;
}

static json_t *distance_json(const ifa_distance *d, int close) {
  json_t *json = json_object();
  json_object_set_new(json, "relative_l2", ifa_json_number(d->relative_l2));
  json_object_set_new(json, "cosine", ifa_json_number(d->cosine));
  json_object_set_new(json, "worst_row", ifa_json_number(d->worst_row));
  json_object_set_new(json, "worst_row_at", json_string(d->worst_row_at));
  json_object_set_new(json, "max_ulp", ifa_json_number(d->max_ulp));
  json_object_set_new(json, "max_ulp_at", json_string(d->max_ulp_at));
  if (!close) return json;
  json_object_set_new(json, "worst_bound", ifa_json_number(d->worst_bound));
  json_object_set_new(json, "worst_bound_at", json_string(d->worst_bound_at));
  json_object_set_new(json, "unbounded_rows", json_integer((json_int_t)d->unbounded_rows));
  return json;
}

static json_t *result_json(const ifa_result *r) {
  const ifa_outcome *o = &r->outcome;
  json_t *json =
      json_pack("{s:s, s:s, s:s, s:s, s:f, s:I, s:b}", "case", r->text, "backend", r->backend,
                "verdict", ifa_verdict_name(o->verdict), "digest", r->digest, "seconds", o->seconds,
                "compared", (json_int_t)o->compared, "stages", o->stages_compared);
  if (r->claim) json_object_set_new(json, "claim", json_string(r->claim));
  if (r->claim) json_object_set_new(json, "runs", json_integer(o->runs));
  if (o->distance.known)
    json_object_set_new(json, "distance",
                        distance_json(&o->distance, r->claim && strcmp(r->claim, "exact") != 0));
  if (o->verdict == IFA_PASSED || o->verdict == IFA_EMPTY) return json;
  json_object_set_new(json, "message", ifa_json_string(o->message.text));
  if (!ifa_verdict_is_failure(o->verdict)) return json;
  char *repeat = repeat_command(r);
  json_object_set_new(json, "repeat", ifa_json_string(repeat ? repeat : ""));
  free(repeat);
  if (o->stage) json_object_set_new(json, "stage", json_string(o->stage));
  json_object_set_new(json, "mismatches", json_integer((json_int_t)o->mismatches));
  json_t *places = json_array();
  for (int i = 0; i < o->place_count; i++) json_array_append_new(places, place_json(&o->places[i]));
  json_object_set_new(json, "places", places);
  return json;
}

char *ifa_report_result_text(const ifa_result *r) {
  json_t *json = result_json(r);
  char *text = json ? json_dumps(json, JSON_PRESERVE_ORDER) : NULL;
  json_decref(json);
  return text;
}

static json_t *diagnosis_json(const ifa_diagnosis *d) {
  json_t *looks_like = json_array();
  for (int i = 0; i < d->suspects; i++)
    json_array_append_new(looks_like, json_string(d->looks_like[i]));
  json_t *json =
      json_pack("{s:s, s:I, s:I, s:s, s:o, s:o, s:i, s:o}", "backend", d->backend, "failed",
                (json_int_t)d->failed, "passed", (json_int_t)d->passed, "shared", d->shared,
                "smallest", ifa_json_string(d->repeat), "message", ifa_json_string(d->message.text),
                "looked_at", d->looked_at, "looks_like", looks_like);
  if (json && d->problems)
    json_object_set_new(json, "problems", json_integer((json_int_t)d->problems));
  return json;
}

json_t *ifa_report_json(const ifa_report *report) {
  json_t *json = ifa_json_head("run"), *results = json_array(), *counts = json_object(),
         *invalid = json_array(), *diagnoses = json_array();
  int failed = 0;
  if (report->shards)
    failed |= json_object_set_new(
        json, "shard", json_pack("{s:i, s:i}", "index", report->shard, "of", report->shards));
  for (int v = 0; v < IFA_VERDICTS; v++)
    failed |= json_object_set_new(counts, ifa_verdict_name((ifa_verdict)v),
                                  json_integer((json_int_t)report->counts[v]));
  failed |= json_object_set_new(counts, "invalid", json_integer((json_int_t)report->invalid));
  for (int64_t i = 0; i < report->invalid; i++)
    failed |= json_array_append_new(
        invalid, json_pack("{s:o, s:o}", "case", ifa_json_string(report->invalids[i].text),
                           "message", ifa_json_string(report->invalids[i].why)));
  failed |= json_object_set_new(counts, "not run", json_integer((json_int_t)report->not_run));
  for (size_t i = 0; i < report->diagnosed; i++)
    failed |= json_array_append_new(diagnoses, diagnosis_json(&report->diagnoses[i]));
  for (size_t i = 0; i < report->count; i++)
    failed |= json_array_append_new(results, result_json(&report->results[i]));
  failed |= json_object_set_new(json, "counts", counts) |
            json_object_set_new(json, "results", results) |
            json_object_set_new(json, "invalid", invalid) |
            json_object_set_new(json, "diagnoses", diagnoses);
  if (!failed) return json;
  json_decref(json); /* no memory: no report rather than part of one */
  return NULL;
}

ifa_status ifa_report_write_json(const ifa_report *report, const char *path, ifa_message *message) {
  json_t *json = ifa_report_json(report);
  ifa_status status = ifa_json_write(json, path, message);
  json_decref(json);
  return status;
}

ifa_status ifa_report_write_html(const ifa_report *report, const char *path, ifa_message *message) {
  json_t *json = ifa_report_json(report);
  ifa_status status = json ? ifa_html_write(path, &json, 1, message)
                           : ifa_fail(message, IFA_OUT_OF_MEMORY, "no memory for the report");
  json_decref(json);
  return status;
}

static void print_junit_result(FILE *to, const ifa_result *r) {
  const ifa_outcome *o = &r->outcome;
  fprintf(to, "  <testcase classname=\"validate.%s\" name=\"", r->backend);
  ifa_print_xml(to, r->text);
  fprintf(to, "\" time=\"%.6f\"", o->seconds);
  if (o->verdict == IFA_PASSED) {
    fprintf(to, "/>\n");
    return;
  }
  fprintf(to, ">\n    <%s message=\"", ifa_verdict_is_failure(o->verdict) ? "failure" : "skipped");
  if (o->verdict != IFA_FAILED) fprintf(to, "%s: ", ifa_verdict_name(o->verdict));
  ifa_print_xml(to, o->message.text);
  fprintf(to, "\"/>\n  </testcase>\n");
}

static void print_junit(FILE *to, const void *context) {
  const ifa_report *report = context;
  fprintf(to,
          "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"validate\" tests=\"%zu\" "
          "failures=\"%" PRId64 "\" errors=\"%" PRId64 "\" skipped=\"%" PRId64 "\">\n",
          report->count + (size_t)report->invalid, ifa_report_failures(report), report->invalid,
          report->counts[IFA_NOT_SUPPORTED] + report->counts[IFA_ABSENT] +
              report->counts[IFA_EMPTY]);
  for (size_t i = 0; i < report->count; i++) print_junit_result(to, &report->results[i]);
  for (int64_t i = 0; i < report->invalid; i++) {
    fprintf(to, "  <testcase classname=\"validate\" name=\"");
    ifa_print_xml(to, report->invalids[i].text);
    fprintf(to, "\">\n    <error message=\"invalid: ");
    ifa_print_xml(to, report->invalids[i].why);
    fprintf(to, "\"/>\n  </testcase>\n");
  }
  fprintf(to, "</testsuite>\n");
}

static void print_csv(FILE *to, const void *context) {
  const ifa_report *report = context;
  fprintf(to, "case,backend,verdict,stage,mismatches,seconds,digest,message\r\n");
  for (size_t i = 0; i < report->count; i++) {
    const ifa_result *r = &report->results[i];
    ifa_print_csv(to, r->text);
    fprintf(to, ",%s,%s,%s,%" PRId64 ",%.6f,%s,", r->backend, ifa_verdict_name(r->outcome.verdict),
            r->outcome.stage ? r->outcome.stage : "", r->outcome.mismatches, r->outcome.seconds,
            r->digest);
    ifa_print_csv(to, r->outcome.message.text);
    fprintf(to, "\r\n");
  }
  for (int64_t i = 0; i < report->invalid; i++) {
    ifa_print_csv(to, report->invalids[i].text);
    fprintf(to, ",,invalid,,,,,");
    ifa_print_csv(to, report->invalids[i].why);
    fprintf(to, "\r\n");
  }
}

ifa_status ifa_report_write_junit(const ifa_report *report, const char *path,
                                  ifa_message *message) {
  return ifa_print_file(path, print_junit, report, message);
}
ifa_status ifa_report_write_csv(const ifa_report *report, const char *path, ifa_message *message) {
  return ifa_print_file(path, print_csv, report, message);
}
