#include "validate/reports/files.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "files/tensor_file.h"
#include "ifa.h"
#include "validate/bench/machine.h"

enum { MAX_JSON_BYTES = 256 << 20 };

/* ---- JSON ---- */

json_t *ifa_json_head(const char *kind) {
  char processor[128];
  machine_processor(processor, sizeof processor);
  return json_pack("{s:s, s:s, s:i, s:{s:s, s:s, s:i}}", "kind", kind, "version", IFA_VERSION,
                   "contract", IFA_CONTRACT_VERSION, "machine", "processor", processor, "compiler",
                   machine_compiler(), "threads", machine_threads());
}

json_t *ifa_json_number(double x) { return isfinite(x) ? json_real(x) : json_null(); }

/* A pipe would block and a device has no end, so only a regular file is opened for reading. */
ifa_status ifa_json_read(const char *path, json_t **json, ifa_message *message) {
  struct stat about;
  json_error_t error;
  *json = NULL;
  if (stat(path, &about) != 0)
    return ifa_fail(message, IFA_IO, "%.200s: %s", path, strerror(errno));
  if (!S_ISREG(about.st_mode))
    return ifa_fail(message, IFA_BAD_FILE, "%.200s: not a regular file", path);
  if (about.st_size > MAX_JSON_BYTES)
    return ifa_fail(message, IFA_BAD_FILE, "%.200s: more than %d MiB", path, MAX_JSON_BYTES >> 20);
  FILE *file = fopen(path, "rb");
  if (!file) return ifa_fail(message, IFA_IO, "%.200s: %s", path, strerror(errno));
  *json = json_loadf(file, JSON_REJECT_DUPLICATES, &error);
  fclose(file);
  if (!*json) { /* jansson's message may quote the file: make it fit for one line */
    ifa_quoted text = ifa_quote(error.text);
    return ifa_fail(message, IFA_BAD_FILE, "%.200s:%d:%d: not JSON: %s", path, error.line,
                    error.column, text.text);
  }
  if (json_is_object(*json)) return IFA_OK;
  json_decref(*json);
  *json = NULL;
  return ifa_fail(message, IFA_BAD_FILE, "%.200s: not a JSON object", path);
}

ifa_status ifa_json_write(const json_t *json, const char *path, ifa_message *message) {
  char *text = json ? json_dumps(json, JSON_INDENT(1) | JSON_PRESERVE_ORDER) : NULL;
  ifa_output_file out;
  if (!text) return ifa_fail(message, IFA_OUT_OF_MEMORY, "%.200s: no memory for the report", path);
  ifa_status status = ifa_output_open(&out, path, message);
  if (status == IFA_OK) {
    status = ifa_output_bytes(&out, text, strlen(text), message);
    if (status == IFA_OK) status = ifa_output_bytes(&out, "\n", 1, message);
    status = ifa_output_close(&out, status, message);
  }
  free(text);
  return status;
}

/* A report's list, and what each of its objects must have: strings that name it. */
static const struct kind {
  const char *name, *list, *names[3];
} kinds[IFA_REPORT_KINDS] = {
    [IFA_REPORT_RUN] = {"run", "results", {"case", "backend", "verdict"}},
    [IFA_REPORT_ACCURACY] = {"accuracy", "results", {"table", "algorithm", "data"}},
    [IFA_REPORT_MUTANTS] = {"mutants", "mutants", {"name", "part", "what"}},
    [IFA_REPORT_BENCH] = {"bench", "results", {"case", "subject", "subject"}},
};

const char *ifa_report_kind_name(ifa_report_kind kind) { return kinds[kind].name; }
const json_t *ifa_report_list(const json_t *json, ifa_report_kind kind) {
  return json_object_get(json, kinds[kind].list);
}

ifa_status ifa_report_kind_of(const json_t *json, const char *path, ifa_report_kind *kind,
                              ifa_message *message) {
  const char *name = ifa_json_text(json, "kind");
  int k = 0;
  while (k < IFA_REPORT_KINDS && strcmp(name, kinds[k].name) != 0) k++;
  if (k == IFA_REPORT_KINDS)
    return ifa_fail(
        message, IFA_BAD_FILE,
        "%.200s: no report of validate: \"kind\" is not run, accuracy, mutants or bench", path);
  const json_t *list = ifa_report_list(json, (ifa_report_kind)k), *entry;
  size_t i;
  if (!json_is_array(list))
    return ifa_fail(message, IFA_BAD_FILE, "%.200s: \"%s\" is not a list", path, kinds[k].list);
  json_array_foreach(list, i, entry) for (int n = 0; n < 3; n++) if (
      !json_is_string(json_object_get(
          entry, kinds[k].names[n]))) return ifa_fail(message, IFA_BAD_FILE,
                                                      "%.200s: %s[%zu] has no \"%s\"", path,
                                                      kinds[k].list, i, kinds[k].names[n]);
  *kind = (ifa_report_kind)k;
  return IFA_OK;
}

const char *ifa_json_text(const json_t *object, const char *key) {
  const char *text = json_string_value(json_object_get(object, key));
  return text ? text : "";
}

double ifa_json_value(const json_t *object, const char *key) {
  const json_t *value = json_object_get(object, key);
  return json_is_number(value) ? json_number_value(value) : NAN;
}

ifa_status ifa_print_file(const char *path, void (*print)(FILE *to, const void *context),
                          const void *context, ifa_message *message) {
  ifa_output_file out;
  ifa_status status = ifa_output_open(&out, path, message);
  if (status != IFA_OK) return status;
  print(out.stream, context);
  if (ferror(out.stream)) status = ifa_fail(message, IFA_IO, "%.200s: cannot be written", path);
  return ifa_output_close(&out, status, message);
}

/* ---- escapes ---- */

void ifa_print_csv(FILE *to, const char *text) {
  fputc('"', to);
  for (; *text; text++) {
    if (*text == '"') fputc('"', to);
    fputc(*text, to);
  }
  fputc('"', to);
}

void ifa_print_xml(FILE *to, const char *text) {
  for (; *text; text++) {
    unsigned char c = (unsigned char)*text;
    const char *name = c == '&'    ? "amp"
                       : c == '<'  ? "lt"
                       : c == '>'  ? "gt"
                       : c == '"'  ? "quot"
                       : c == '\'' ? "#39"
                                   : NULL;
    if (name) fprintf(to, "&%s;", name);
    else fputc(c < 32 || c == 127 ? '?' : c, to);
  }
}

void ifa_print_plain(FILE *to, const char *text) {
  for (; *text; text++) fputc(*text >= ' ' && *text <= '~' ? *text : '?', to);
}

/* A property ends at ',' or ':', the command at the line's end. */
static void print_command_text(FILE *to, const char *text, int property) {
  for (; *text; text++) {
    unsigned char c = (unsigned char)*text;
    if (c == '%' || c == '\r' || c == '\n' || (property && (c == ':' || c == ',')))
      fprintf(to, "%%%02X", c);
    else fputc(c, to);
  }
}

void ifa_print_annotation(FILE *to, const char *title, const char *text) {
  fprintf(to, "::error title=");
  print_command_text(to, title, 1);
  fprintf(to, "::");
  print_command_text(to, text, 0);
  fputc('\n', to);
}
