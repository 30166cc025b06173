#include "validate/judge/digest_file.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "files/tensor_file.h"
#include "validate/bench/bench_table.h"
#include "validate/judge/compare.h"
#include "validate/text/visible.h"

#define FIRST_LINE "# ifa golden digests, contract %d: inputs, outputs, case"
#define LAST_LINE "# cases: %d"
#define SOURCE_LINE "# gpu source: "

const char *ifa_gpu_source_digest(void) { return IFA_GPU_SOURCE; }

static ifa_status digest_case(const ifa_case *c, const char *backend, char inputs[17],
                              char outputs[33], ifa_message *why) {
  ifa_data data;
  ifa_status status = ifa_data_make(c, &data, why);
  if (status == IFA_OK) {
    ifa_data_digest(&data, inputs);
    status = ifa_backend_digest(&data, backend, outputs, why);
  }
  ifa_data_free(&data);
  return status;
}

static void count_left_out(ifa_status status, ifa_digest_counts *counts) {
  if (status == IFA_UNSUPPORTED) counts->unsupported++;
  else counts->not_available++;
}

static ifa_status write_cases(FILE *file, const ifa_case_list *list, const char *backend,
                              ifa_digest_counts *counts, ifa_message *message) {
  for (size_t i = 0; i < list->count; i++) {
    char inputs[17], outputs[33], text[IFA_CASE_TEXT];
    ifa_message why = {""};
    ifa_case_print(&list->cases[i], text);
    ifa_status status = digest_case(&list->cases[i], backend, inputs, outputs, &why);
    if (status == IFA_UNSUPPORTED || status == IFA_NOT_AVAILABLE) {
      count_left_out(status, counts);
      continue;
    }
    if (status != IFA_OK)
      return ifa_fail(message, status, "%s: %s", ifa_shorten(text).text, why.text);
    fprintf(file, "%s %s %s\n", inputs, outputs, text);
    counts->written++;
  }
  return IFA_OK;
}

ifa_status ifa_digest_file_write(const char *path, const ifa_case_list *list, const char *backend,
                                 const char *notes, ifa_digest_counts *counts,
                                 ifa_message *message) {
  ifa_output_file out;
  ifa_status status = ifa_output_open(&out, path, message);
  if (status != IFA_OK) return status;
  fprintf(out.stream, FIRST_LINE "\n%s", IFA_CONTRACT_VERSION, notes ? notes : "");
  status = write_cases(out.stream, list, backend, counts, message);
  fprintf(out.stream, LAST_LINE "\n", counts->written);
  if (status == IFA_OK && ferror(out.stream))
    status = ifa_fail(message, IFA_IO, "%s: cannot be written", ifa_shorten(path).text);
  return ifa_output_close(&out, status, message);
}

/* ---- checking ---- */

/* Does the file's case number `index` stand at that place of the suite? */
static ifa_status check_place(const char *path, const char *text, size_t index,
                              const ifa_case_list *suite, ifa_message *message) {
  char expected[IFA_CASE_TEXT];
  if (!suite->cases) return IFA_OK; /* not named after a suite */
  if (index < suite->count) ifa_case_print(&suite->cases[index], expected);
  if (index >= suite->count || strcmp(text, expected) != 0)
    return ifa_fail(message, IFA_BAD_FILE, "%s: case %zu is not the suite's: %s",
                    ifa_shorten(path).text, index + 1, ifa_shorten(text).text);
  return IFA_OK;
}

/* The built-in suite that the file is named after, or an empty list. */
static ifa_status suite_of(const char *path, ifa_case_list *suite, ifa_message *message) {
  const char *name = strrchr(path, '/') ? strrchr(path, '/') + 1 : path;
  ifa_case base = ifa_case_default();
  for (int i = 0; ifa_suite_name(i); i++) {
    size_t length = strlen(ifa_suite_name(i));
    if (strncmp(name, ifa_suite_name(i), length) == 0 && strcmp(name + length, ".txt") == 0)
      return ifa_case_list_add_suite(suite, ifa_suite_name(i), &base, message);
  }
  return IFA_OK;
}

static ifa_status check_line(const char *path, const char *line, int number, const char *backend,
                             ifa_digest_counts *counts, ifa_message *message) {
  char inputs[17], outputs[33], expected_inputs[17], expected_outputs[33];
  int at = 0;
  ifa_case c;
  ifa_message why = {""};
  if (sscanf(line, "%16s %32s %n", expected_inputs, expected_outputs, &at) != 2 || at != 50 ||
      ifa_case_parse(line + at, &c, &why) != IFA_OK)
    return ifa_fail(message, IFA_BAD_FILE, "%s:%d: malformed %s", ifa_shorten(path).text, number,
                    why.text);
  ifa_status status = digest_case(&c, backend, inputs, outputs, &why);
  if (status == IFA_UNSUPPORTED || status == IFA_NOT_AVAILABLE) {
    count_left_out(status, counts);
    return IFA_OK;
  }
  if (status == IFA_OUT_OF_MEMORY || status == IFA_IO || status == IFA_BAD_FILE)
    return ifa_fail(message, status, "%s: %s", ifa_shorten(line + at).text, why.text);
  int inputs_agree = status == IFA_OK && strcmp(inputs, expected_inputs) == 0;
  if (inputs_agree && strcmp(outputs, expected_outputs) == 0) {
    counts->agree++;
    return IFA_OK;
  }
  counts->differ++;
  printf("DIFFERS %s: %s\n  ", backend, line + at);
  ifa_print_visible_line(stdout, "%s",
                         status != IFA_OK ? why.text
                         : inputs_agree   ? "output"
                                          : "quantized inputs");
  return IFA_OK;
}

/* Says it where a record was made from other kernels than these. Is it the line that tells? */
static bool check_source(const char *path, const char *line) {
  if (strncmp(line, SOURCE_LINE, strlen(SOURCE_LINE)) != 0) return false;
  if (strcmp(line + strlen(SOURCE_LINE), IFA_GPU_SOURCE) != 0)
    ifa_print_visible_line(stdout, "%s is older than gpu/: recorded from source %s, now %s", path,
                           line + strlen(SOURCE_LINE), IFA_GPU_SOURCE);
  return true;
}

static ifa_status check_lines(FILE *file, const char *path, const char *backend,
                              const ifa_case_list *suite, ifa_digest_counts *counts,
                              ifa_message *message) {
  char line[IFA_CASE_TEXT + 64];
  int version = 0, cases = 0, announced = -1;
  bool record = false;
  ifa_bench_table table = {0};
  ifa_message why = {""};
  ifa_status status = IFA_OK;
  if (!fgets(line, sizeof line, file) || sscanf(line, FIRST_LINE, &version) != 1 ||
      version != IFA_CONTRACT_VERSION)
    return ifa_fail(message, IFA_BAD_FILE, "%s is not of contract %d", ifa_shorten(path).text,
                    IFA_CONTRACT_VERSION);
  for (int number = 2; status == IFA_OK && fgets(line, sizeof line, file); number++) {
    line[strcspn(line, "\n")] = '\0';
    if (line[0] == '#') {
      record |= check_source(path, line);
      sscanf(line, LAST_LINE, &announced);
      if (ifa_bench_table_line(&table, line, &why) != IFA_OK)
        return ifa_fail(message, IFA_BAD_FILE, "%s:%d: %s", ifa_shorten(path).text, number,
                        why.text);
      continue;
    }
    status = check_line(path, line, number, backend, counts, message);
    if (status == IFA_OK) status = check_place(path, line + 50, (size_t)cases++, suite, message);
  }
  if (status == IFA_OK &&
      (ferror(file) || cases != announced || (suite->cases && (size_t)cases != suite->count)))
    return ifa_fail(message, IFA_BAD_FILE,
                    "%s has %d cases; its last line says %d, the suite has %zu",
                    ifa_shorten(path).text, cases, announced, suite->count);
  if (status == IFA_OK && ifa_bench_table_end(&table, &why) != IFA_OK)
    return ifa_fail(message, IFA_BAD_FILE, "%s: %s", ifa_shorten(path).text, why.text);
  if (status == IFA_OK && record && table.lines == 0)
    ifa_print_visible_line(stdout, "%s has no benchmark table", path);
  return status;
}

ifa_status ifa_digest_file_check(const char *path, const char *backend, ifa_digest_counts *counts,
                                 ifa_message *message) {
  ifa_case_list suite = {0};
  ifa_status status = ifa_backend_supports(backend, NULL, message);
  if (status == IFA_BAD_ARGUMENT) return status;
  if ((status = suite_of(path, &suite, message)) != IFA_OK) return status;
  FILE *file = fopen(path, "r");
  status = file ? check_lines(file, path, backend, &suite, counts, message)
                : ifa_fail(message, IFA_IO, "%s: cannot be read", ifa_shorten(path).text);
  if (file) fclose(file);
  ifa_case_list_free(&suite);
  return status;
}
