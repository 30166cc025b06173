/* bench_json.c - what bench_gpu wrote, as the lines of a record's benchmark table. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/message.h"
#include "validate/bench/bench_table.h"
#include "validate/judge/digest_file.h"
#include "validate/reports/files.h"
#include "validate/text/visible.h"

/* Text that may stand in a line of the table. */
static int plain(const char *text, size_t longest) {
  if (strlen(text) > longest || strchr(text, '|')) return 0;
  for (; *text; text++)
    if ((unsigned char)*text < ' ' || (unsigned char)*text > '~') return 0;
  return 1;
}

static ifa_status add_result(json_t *result, FILE *to, ifa_message *message) {
  const char *what, *problem;
  double ms, tops, of_ceiling, gb_per_s, of_kernel = 0;
  json_error_t error;
  if (json_unpack_ex(result, &error, 0, "{s:s, s:s, s:F, s:F, s:F, s:F, s?F}", "what", &what,
                     "problem", &problem, "ms", &ms, "tops", &tops, "of_ceiling", &of_ceiling,
                     "gb_per_s", &gb_per_s, "of_kernel", &of_kernel) != 0)
    return ifa_fail(message, IFA_BAD_FILE, "results: %s", error.text);
  if (!plain(what, 60) || !plain(problem, 400))
    return ifa_fail(message, IFA_BAD_FILE, "results: '%.60s' of '%.100s' cannot be a line", what,
                    problem);
  fprintf(to, "# bench: %s | %s | %.4f ms | %.1f TOPS | %.2f%% of the ceiling | %.1f GB/s", what,
          problem, ms, tops, 100 * of_ceiling, gb_per_s);
  if (of_kernel > 0) fprintf(to, " | %.2f%% of the kernel", 100 * of_kernel);
  fprintf(to, "\n");
  return IFA_OK;
}

static ifa_status add_lines(json_t *json, FILE *to, FILE *device, ifa_message *message) {
  const char *program, *source, *name, *driver, *toolkit, *settings, *torch;
  int contract;
  double ceiling, copies;
  json_t *results, *torch_json, *result;
  json_error_t error;
  size_t index;
  if (json_unpack_ex(json, &error, 0, "{s:s, s:i, s:s, s:s, s:s, s:s, s:s, s:F, s:F, s:o, s:o}",
                     "program", &program, "contract", &contract, "gpu_source", &source, "device",
                     &name, "driver", &driver, "toolkit", &toolkit, "settings", &settings,
                     "ceiling_tops", &ceiling, "copy_gb_per_s", &copies, "pytorch", &torch_json,
                     "results", &results) != 0 ||
      strcmp(program, "bench_gpu") != 0 || !json_is_array(results))
    return ifa_fail(message, IFA_BAD_FILE, "not written by bench_gpu: %.160s",
                    error.text[0] ? error.text : "program or results");
  torch = json_is_string(torch_json) ? json_string_value(torch_json) : "not available";
  if (!plain(name, 80) || !plain(driver, 40) || !plain(toolkit, 40) || !plain(settings, 300) ||
      !plain(torch, 60))
    return ifa_fail(message, IFA_BAD_FILE,
                    "device, driver, toolkit, settings or pytorch cannot be a line");
  if (contract != IFA_CONTRACT_VERSION)
    return ifa_fail(message, IFA_BAD_FILE, "measured with contract %d; this is contract %d",
                    contract, IFA_CONTRACT_VERSION);
  if (strcmp(source, ifa_gpu_source_digest()) != 0)
    return ifa_fail(message, IFA_BAD_FILE,
                    "measured with gpu source %.32s; this program was built from %s", source,
                    ifa_gpu_source_digest());
  fprintf(device, "%s, driver %s, %s", name, driver, toolkit);
  fprintf(to, "# bench ceiling: %.1f TOPS of mma.sync u8*s8, %.1f GB/s of copies within memory\n",
          ceiling, copies);
  fprintf(to, "# bench settings: %s; PyTorch %s\n", settings, torch);
  json_array_foreach(results, index, result) {
    ifa_status status = add_result(result, to, message);
    if (status != IFA_OK) return status;
  }
  fprintf(to, "# bench lines: %zu\n", json_array_size(results));
  return IFA_OK;
}

/* The lines, by the rules that a record's reader has. */
static ifa_status check_lines(const char *lines, ifa_message *message) {
  ifa_bench_table table = {0};
  for (const char *at = lines; *at;) {
    size_t length = strcspn(at, "\n");
    char *line = strndup(at, length);
    ifa_status status = line ? ifa_bench_table_line(&table, line, message)
                             : ifa_fail(message, IFA_OUT_OF_MEMORY, "no memory for a line");
    free(line);
    if (status != IFA_OK) return status;
    at += length + (at[length] == '\n');
  }
  return ifa_bench_table_end(&table, message);
}

ifa_status ifa_bench_table_read(const char *path, char **lines, char **device,
                                ifa_message *message) {
  json_t *json = NULL;
  size_t lines_length, device_length;
  ifa_message why = {""};
  *lines = *device = NULL;
  ifa_status status = ifa_json_read(path, &json, message);
  if (status != IFA_OK) return status;
  FILE *to = open_memstream(lines, &lines_length), *card = open_memstream(device, &device_length);
  status = to && card ? add_lines(json, to, card, &why)
                      : ifa_fail(&why, IFA_OUT_OF_MEMORY, "no memory for the benchmark table");
  int unwritten = to && fclose(to) != 0;
  unwritten |= card && fclose(card) != 0;
  if (status == IFA_OK && unwritten)
    status = ifa_fail(&why, IFA_OUT_OF_MEMORY, "no memory for the benchmark table");
  if (status == IFA_OK) status = check_lines(*lines, &why);
  json_decref(json);
  if (status == IFA_OK) return ifa_succeed(message);
  free(*lines);
  free(*device);
  *lines = *device = NULL;
  return ifa_fail(message, status, "%s: %s", ifa_shorten(path).text, why.text);
}
