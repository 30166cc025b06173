#include "validate/commands/fuzz_kernel.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "common/clock.h"
#include "validate/commands/commands.h"
#include "validate/commands/diagnose.h"
#include "validate/fuzz/fuzz_case.h"
#include "validate/kernels/trial.h"
#include "validate/reports/report.h"

typedef struct running {
  const ifa_fuzz_kernel *f;
  ifa_kernel kernel;
  char *selector;
  ifa_report report;
  uint64_t cases, refused; /* refused: its scores may leave the contract's range */
} running;

static ifa_status run_one(running *run, uint64_t index, ifa_message *message) {
  ifa_case c = ifa_fuzz_case(run->f->seed, index);
  ifa_data data;
  char text[IFA_CASE_TEXT];
  ifa_result *r = calloc(1, sizeof *r);
  ifa_status status = r ? ifa_data_make(&c, &data, message)
                        : ifa_fail(message, IFA_OUT_OF_MEMORY, "no memory for a result");
  if (!r) return status;
  if (status == IFA_OK) status = ifa_trial_once(&run->kernel, &data, &r->outcome, message);
  run->cases++;
  run->refused += status == IFA_BAD_DATA;
  if (status == IFA_OK) {
    ifa_case_print(&c, text);
    r->text = text;
    r->backend = run->kernel.name;
    r->claim = run->kernel.claim.text;
    r->selector = run->selector;
    if (ifa_verdict_is_failure(r->outcome.verdict)) {
      ifa_report_print_failure(stdout, r);
      printf("  found as case %" PRIu64 "\n", index);
    }
    status = ifa_report_add(&run->report, r, message);
  }
  ifa_data_free(&data);
  free(r);
  return status == IFA_BAD_DATA ? IFA_OK : status;
}

static ifa_status run_all(running *run, ifa_message *message) {
  const ifa_fuzz_kernel *f = run->f;
  double start = ifa_now();
  ifa_status status = IFA_OK;
  for (uint64_t i = 0; status == IFA_OK && ifa_report_failures(&run->report) < f->failures; i++) {
    if ((f->count && i == f->count) || (f->seconds > 0 && ifa_now() - start > f->seconds)) break;
    status = run_one(run, f->first + i, message);
    if (isatty(STDERR_FILENO)) fprintf(stderr, "\r\033[K%" PRIu64 " cases ", run->cases);
  }
  if (isatty(STDERR_FILENO)) fprintf(stderr, "\r\033[K");
  return status;
}

int ifa_fuzz_kernel_run(const ifa_fuzz_kernel *f) {
  running run = {.f = f};
  ifa_message why;
  ifa_status status = ifa_kernel_open(&run.kernel, f->kind, f->text, f->claim, f->timeout, &why);
  if (status != IFA_OK) return complain("fuzz", "%s", why.text);
  run.selector = ifa_kernel_selector(f->kind, f->text, f->claim, 1, f->timeout);
  if (!run.selector) status = ifa_fail(&why, IFA_OUT_OF_MEMORY, "no memory for a command");
  if (status == IFA_OK) status = run_all(&run, &why);
  if (status == IFA_OK && ifa_report_failures(&run.report))
    status = ifa_diagnose(&run.report, run.kernel.name, &run.kernel, run.selector, &why);
  for (size_t i = 0; i < run.report.diagnosed; i++)
    ifa_report_print_diagnosis(stdout, &run.report.diagnoses[i]);
  int code = ifa_report_exit_code(&run.report);
  if (status == IFA_OK && f->json) status = ifa_report_write_json(&run.report, f->json, &why);
  if (status != IFA_OK) {
    complain("fuzz", "%s", why.text);
    if (code != EXIT_MISMATCH) code = EXIT_BAD_USAGE;
  }
  printf("seed %" PRIu64 ": %" PRIu64 " cases, %" PRIu64 " of them refused by the contract: ",
         f->seed, run.cases, run.refused);
  ifa_report_print_counts(stdout, &run.report);
  ifa_report_free(&run.report);
  ifa_kernel_close(&run.kernel);
  free(run.selector);
  return code;
}
