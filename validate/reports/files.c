#include "validate/reports/files.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "files/tensor_file.h"
#include "ifa.h"
#include "validate/bench/machine.h"
#include "validate/cases/data.h"
#include "validate/text/console.h"
#include "validate/text/visible.h"

enum { MAX_JSON_BYTES = 256 << 20 };

/* ---- JSON ---- */

json_t *ifa_json_head(const char *kind) {
  char processor[128];
  machine_processor(processor, sizeof processor);
  return json_pack("{s:s, s:s, s:i, s:{s:s, s:s, s:i}}", "kind", kind, "version", IFA_VERSION,
                   "contract", IFA_CONTRACT_VERSION, "machine", "processor", processor, "compiler",
                   machine_compiler(), "threads", machine_threads());
}

json_t *ifa_json_string(const char *text) {
  char *visible = ifa_visible(text);
  json_t *json = visible ? json_string(visible) : NULL;
  free(visible);
  return json;
}

json_t *ifa_json_number(double x) { return isfinite(x) ? json_real(x) : json_null(); }

/* A pipe would block and a device has no end, so only a regular file is opened for reading. */
ifa_status ifa_json_read(const char *path, json_t **json, ifa_message *message) {
  struct stat about;
  json_error_t error;
  *json = NULL;
  if (stat(path, &about) != 0)
    return ifa_fail(message, IFA_IO, "%s: %s", ifa_shorten(path).text, strerror(errno));
  if (!S_ISREG(about.st_mode))
    return ifa_fail(message, IFA_BAD_FILE, "%s: not a regular file", ifa_shorten(path).text);
  if (about.st_size > MAX_JSON_BYTES)
    return ifa_fail(message, IFA_BAD_FILE, "%s: more than %d MiB", ifa_shorten(path).text,
                    MAX_JSON_BYTES >> 20);
  FILE *file = fopen(path, "rb");
  if (!file) return ifa_fail(message, IFA_IO, "%s: %s", ifa_shorten(path).text, strerror(errno));
  char mark[3]; /* a byte order mark, which editors put there */
  if (fread(mark, 1, sizeof mark, file) != sizeof mark || memcmp(mark, "\xef\xbb\xbf", 3) != 0)
    rewind(file);
  *json = json_loadf(file, JSON_REJECT_DUPLICATES, &error);
  fclose(file);
  if (!*json) { /* jansson's message may quote the file: make it fit for one line */
    ifa_quoted text = ifa_quote(error.text);
    return ifa_fail(message, IFA_BAD_FILE, "%s:%d:%d: not JSON: %s", ifa_shorten(path).text,
                    error.line, error.column, text.text);
  }
  if (json_is_object(*json)) return IFA_OK;
  json_decref(*json);
  *json = NULL;
  return ifa_fail(message, IFA_BAD_FILE, "%s: not a JSON object", ifa_shorten(path).text);
}

static void print_text(FILE *to, const void *text) {
  fputs(text, to);
  fputc('\n', to);
}

ifa_status ifa_json_write(const json_t *json, const char *path, ifa_message *message) {
  char *text = json ? json_dumps(json, JSON_INDENT(1) | JSON_PRESERVE_ORDER) : NULL;
  ifa_status status = text ? ifa_print_file(path, print_text, text, message)
                           : ifa_fail(message, IFA_OUT_OF_MEMORY, "%s: no memory for the report",
                                      ifa_shorten(path).text);
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
    return ifa_fail(message, IFA_BAD_FILE,
                    "%s: no report of validate: \"kind\" is not run, accuracy, mutants or bench",
                    ifa_shorten(path).text);
  const json_t *list = ifa_report_list(json, (ifa_report_kind)k), *entry;
  size_t i;
  if (!json_is_array(list))
    return ifa_fail(message, IFA_BAD_FILE, "%s: \"%s\" is not a list", ifa_shorten(path).text,
                    kinds[k].list);
  json_array_foreach(list, i, entry) for (int n = 0; n < 3; n++) if (
      !json_is_string(json_object_get(
          entry, kinds[k].names[n]))) return ifa_fail(message, IFA_BAD_FILE,
                                                      "%s: %s[%zu] has no \"%s\"",
                                                      ifa_shorten(path).text, kinds[k].list, i,
                                                      kinds[k].names[n]);
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

/* ---- where reports go ---- */

static int is_standard_output(const char *path) {
  static const char *const names[] = {"-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"};
  for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
    if (strcmp(path, names[i]) == 0) return 1;
  return 0;
}

/* What is neither a plain file nor a folder is written as it is: there is nothing to rename. */
static int is_device(const char *path) {
  struct stat about;
  return is_standard_output(path) ||
         (stat(path, &about) == 0 && !S_ISREG(about.st_mode) && !S_ISDIR(about.st_mode));
}

ifa_status ifa_output_prepare(const char *path, ifa_message *message) {
  ifa_output_file out;
  ifa_status status = ifa_output_open(&out, path, message);
  if (status != IFA_OK) return ifa_data_name_file(status, path, message);
  ifa_output_close(&out, IFA_IO, NULL); /* takes it away again */
  return IFA_OK;
}

ifa_status ifa_reports_prepare(const char *const *paths, size_t count, ifa_message *message) {
  size_t to_output = 0;
  for (size_t i = 0; i < count; i++) {
    ifa_status status = IFA_OK;
    if (!paths[i]) continue;
    if (!is_device(paths[i])) status = ifa_output_prepare(paths[i], message);
    else if (is_standard_output(paths[i])) to_output++;
    else if (access(paths[i], W_OK) != 0)
      status = ifa_fail(message, IFA_IO, "cannot write '%s': %s", ifa_shorten(paths[i]).text,
                        strerror(errno));
    if (status != IFA_OK) return status;
  }
  if (to_output > 1)
    return ifa_fail(message, IFA_BAD_ARGUMENT, "only one report can go to the standard output");
  if (to_output == 1 && ifa_console_give_away() < 0)
    return ifa_fail(message, IFA_IO, "the standard output: %s", strerror(errno));
  return IFA_OK;
}

static ifa_status print_device(const char *path, void (*print)(FILE *to, const void *context),
                               const void *context, ifa_message *message) {
  int descriptor = is_standard_output(path) ? dup(ifa_console_give_away())
                                            : open(path, O_WRONLY | O_NOCTTY | O_CLOEXEC);
  FILE *to = descriptor < 0 ? NULL : fdopen(descriptor, "w");
  if (!to) {
    int error = errno;
    if (descriptor >= 0) close(descriptor);
    return ifa_fail(message, IFA_IO, "cannot write '%s': %s", ifa_shorten(path).text,
                    strerror(error));
  }
  print(to, context);
  errno = 0;
  int failed = fflush(to) != 0 || ferror(to), error = errno;
  failed |= fclose(to) != 0;
  if (!failed) return ifa_succeed(message);
  return ifa_fail(message, IFA_IO, "cannot write '%s'%s%s", ifa_shorten(path).text,
                  error ? ": " : "", error ? strerror(error) : "");
}

ifa_status ifa_print_file(const char *path, void (*print)(FILE *to, const void *context),
                          const void *context, ifa_message *message) {
  ifa_output_file out;
  if (is_device(path)) return print_device(path, print, context, message);
  ifa_status status = ifa_output_open(&out, path, message);
  if (status != IFA_OK) return status;
  print(out.stream, context);
  if (ferror(out.stream))
    status = ifa_fail(message, IFA_IO, "%s: cannot be written", ifa_shorten(path).text);
  return ifa_output_close(&out, status, message);
}

/* ---- escapes ---- */

/* `put` for each byte of the text made visible. */
static void for_visible(FILE *to, const char *text, void (*put)(FILE *to, unsigned char c)) {
  char *visible = ifa_visible(text);
  for (const char *at = visible; at && *at; at++) put(to, (unsigned char)*at);
  if (!visible) fputs("no memory", to);
  free(visible);
}

static void put_csv(FILE *to, unsigned char c) {
  if (c == '"') fputc('"', to);
  fputc(c, to);
}

void ifa_print_csv(FILE *to, const char *text) {
  fputc('"', to);
  for_visible(to, text, put_csv);
  fputc('"', to);
}

static void put_xml(FILE *to, unsigned char c) {
  const char *name = c == '&'    ? "amp"
                     : c == '<'  ? "lt"
                     : c == '>'  ? "gt"
                     : c == '"'  ? "quot"
                     : c == '\'' ? "#39"
                                 : NULL;
  if (name) fprintf(to, "&%s;", name);
  else fputc(c, to);
}

void ifa_print_xml(FILE *to, const char *text) { for_visible(to, text, put_xml); }

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
