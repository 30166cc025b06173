#include "validate/report.h"

#include <ctype.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "common/tensor_file.h"
#include "validate/machine.h"

void ifa_report_free(ifa_report *report) {
  free(report->results);
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
  report->results[report->count++] = *result;
  report->counts[result->outcome.verdict]++;
  return IFA_OK;
}

int64_t ifa_report_failures(const ifa_report *report) {
  int64_t failures = 0;
  for (int v = 0; v < IFA_VERDICTS; v++)
    if (ifa_verdict_is_failure((ifa_verdict)v)) failures += report->counts[v];
  return failures;
}

/* ---- console ---- */

void ifa_report_print_failure(FILE *to, const ifa_result *r) {
  const ifa_outcome *o = &r->outcome;
  char name[32];
  snprintf(name, sizeof name, "%s", ifa_verdict_name(o->verdict));
  for (char *c = name; *c; c++) *c = (char)toupper((unsigned char)*c);
  fprintf(to, "%s  %s  %s\n  %s\n", name, r->backend, r->text, o->message.text);
  for (int i = 0; i < o->place_count; i++)
    fprintf(to, "  %-44s expected %0*" PRIx32 "  got %0*" PRIx32 "\n", o->places[i].where, o->places[i].digits, o->places[i].expected,
            o->places[i].digits, o->places[i].got);
  if (o->mismatches > o->place_count) fprintf(to, "  ... %" PRId64 " places in all\n", o->mismatches);
  fprintf(to, "  repeat: validate run --backend %s --case \"%s\"\n", r->backend, r->text);
}

void ifa_report_print_counts(FILE *to, const ifa_report *report) {
  for (int v = 0; v < IFA_VERDICTS; v++) /* the first four always, the rest where there are any */
    if (v <= IFA_ABSENT || report->counts[v])
      fprintf(to, "%s%" PRId64 " %s", v ? ", " : "", report->counts[v], ifa_verdict_name((ifa_verdict)v));
  if (report->invalid) fprintf(to, ", %" PRId64 " invalid", report->invalid);
  fprintf(to, "\n");
}

/* ---- files: through ifa_output_file, which writes them whole or not at all ---- */

static json_t *place_json(const ifa_place *p) {
  char expected[16], got[16];
  snprintf(expected, sizeof expected, "%0*" PRIx32, p->digits, p->expected);
  snprintf(got, sizeof got, "%0*" PRIx32, p->digits, p->got);
  return json_pack("{s:s, s:s, s:s}", "where", p->where, "expected", expected, "got", got);
}

static json_t *result_json(const ifa_result *r) {
  const ifa_outcome *o = &r->outcome;
  json_t *json = json_pack("{s:s, s:s, s:s, s:s, s:f, s:I, s:b}", "case", r->text, "backend", r->backend, "verdict", ifa_verdict_name(o->verdict),
                           "digest", r->digest, "seconds", o->seconds, "compared", (json_int_t)o->compared, "stages", o->stages_compared);
  if (o->verdict == IFA_PASSED || o->verdict == IFA_EMPTY) return json;
  json_object_set_new(json, "message", json_string_nocheck(o->message.text));
  if (!ifa_verdict_is_failure(o->verdict)) return json;
  if (o->stage) json_object_set_new(json, "stage", json_string(o->stage));
  json_object_set_new(json, "mismatches", json_integer((json_int_t)o->mismatches));
  json_t *places = json_array();
  for (int i = 0; i < o->place_count; i++) json_array_append_new(places, place_json(&o->places[i]));
  json_object_set_new(json, "places", places);
  return json;
}

static json_t *report_json(const ifa_report *report) {
  char processor[128];
  machine_processor(processor, sizeof processor);
  json_t *results = json_array(), *counts = json_object();
  for (size_t i = 0; i < report->count; i++)
    if (json_array_append_new(results, result_json(&report->results[i])) != 0) { /* no memory: no report rather than part of one */
      json_decref(results);
      json_decref(counts);
      return NULL;
    }
  for (int v = 0; v < IFA_VERDICTS; v++) json_object_set_new(counts, ifa_verdict_name((ifa_verdict)v), json_integer((json_int_t)report->counts[v]));
  json_object_set_new(counts, "invalid", json_integer((json_int_t)report->invalid));
  return json_pack("{s:s, s:i, s:{s:s, s:s, s:i}, s:o, s:o}", "version", IFA_VERSION, "contract", IFA_CONTRACT_VERSION, "machine", "processor", processor,
                   "compiler", machine_compiler(), "threads", machine_threads(), "counts", counts, "results", results);
}

ifa_status ifa_report_write_json(const ifa_report *report, const char *path, ifa_message *message) {
  json_t *json = report_json(report);
  char *text = json ? json_dumps(json, JSON_INDENT(1) | JSON_PRESERVE_ORDER) : NULL;
  ifa_status status = IFA_OUT_OF_MEMORY;
  if (text) {
    ifa_output_file out;
    status = ifa_output_open(&out, path, message);
    if (status == IFA_OK) {
      status = ifa_output_bytes(&out, text, strlen(text), message);
      if (status == IFA_OK) status = ifa_output_bytes(&out, "\n", 1, message);
      status = ifa_output_close(&out, status, message);
    }
  } else {
    ifa_fail(message, IFA_OUT_OF_MEMORY, "%.100s: no memory for the report", path);
  }
  free(text);
  json_decref(json);
  return status;
}

/* Text inside XML: the five special characters, and '?' for what XML 1.0 cannot hold. */
static void print_xml(FILE *to, const char *text) {
  for (; *text; text++) {
    unsigned char c = (unsigned char)*text;
    const char *name = c == '&' ? "amp" : c == '<' ? "lt" : c == '>' ? "gt" : c == '"' ? "quot" : c == '\'' ? "apos" : NULL;
    if (name) fprintf(to, "&%s;", name);
    else fputc(c < 32 ? '?' : c, to);
  }
}

static void print_junit_result(FILE *to, const ifa_result *r) {
  const ifa_outcome *o = &r->outcome;
  fprintf(to, "  <testcase classname=\"validate.%s\" name=\"", r->backend);
  print_xml(to, r->text);
  fprintf(to, "\" time=\"%.6f\"", o->seconds);
  if (o->verdict == IFA_PASSED) {
    fprintf(to, "/>\n");
    return;
  }
  fprintf(to, ">\n    <%s message=\"", ifa_verdict_is_failure(o->verdict) ? "failure" : "skipped");
  if (o->verdict != IFA_FAILED) fprintf(to, "%s: ", ifa_verdict_name(o->verdict));
  print_xml(to, o->message.text);
  fprintf(to, "\"/>\n  </testcase>\n");
}

static void print_junit(FILE *to, const ifa_report *report) {
  fprintf(to, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"validate\" tests=\"%zu\" failures=\"%" PRId64 "\" skipped=\"%" PRId64 "\">\n",
          report->count, ifa_report_failures(report), report->counts[IFA_NOT_SUPPORTED] + report->counts[IFA_ABSENT] + report->counts[IFA_EMPTY]);
  for (size_t i = 0; i < report->count; i++) print_junit_result(to, &report->results[i]);
  fprintf(to, "</testsuite>\n");
}

/* RFC 4180: quotes doubled, every text field quoted. */
static void print_csv_text(FILE *to, const char *text) {
  fputc('"', to);
  for (; *text; text++) {
    if (*text == '"') fputc('"', to);
    fputc(*text, to);
  }
  fputc('"', to);
}

static void print_csv(FILE *to, const ifa_report *report) {
  fprintf(to, "case,backend,verdict,stage,mismatches,seconds,digest,message\r\n");
  for (size_t i = 0; i < report->count; i++) {
    const ifa_result *r = &report->results[i];
    print_csv_text(to, r->text);
    fprintf(to, ",%s,%s,%s,%" PRId64 ",%.6f,%s,", r->backend, ifa_verdict_name(r->outcome.verdict), r->outcome.stage ? r->outcome.stage : "",
            r->outcome.mismatches, r->outcome.seconds, r->digest);
    print_csv_text(to, r->outcome.message.text);
    fprintf(to, "\r\n");
  }
}

static ifa_status write_with(void (*print)(FILE *, const ifa_report *), const ifa_report *report, const char *path, ifa_message *message) {
  ifa_output_file out;
  ifa_status status = ifa_output_open(&out, path, message);
  if (status != IFA_OK) return status;
  print(out.stream, report);
  if (ferror(out.stream)) status = ifa_fail(message, IFA_IO, "%.100s: cannot be written", path);
  return ifa_output_close(&out, status, message);
}

ifa_status ifa_report_write_junit(const ifa_report *report, const char *path, ifa_message *message) { return write_with(print_junit, report, path, message); }
ifa_status ifa_report_write_csv(const ifa_report *report, const char *path, ifa_message *message) { return write_with(print_csv, report, path, message); }
