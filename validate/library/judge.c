#define _GNU_SOURCE /* open_memstream */
#include "validate/library/judge.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "files/tensor_file.h"
#include "validate/cases/suite.h"
#include "validate/kernels/trial.h"
#include "validate/reports/report.h"

struct ifa_judge {
  ifa_case_list cases;
  ifa_kernel kernel;
  char *name, *before, *after;
  int once;
  ifa_report report;
};

int ifa_judge_version(void) { return IFA_JUDGE_VERSION; }
void ifa_judge_free(void *text) { free(text); }

static ifa_status gather(ifa_judge *j, const ifa_judge_options *o, ifa_message *message) {
  ifa_case base = ifa_case_default();
  base.seed = o->seed;
  ifa_status status = IFA_OK;
  for (int i = 0; i < o->source_count && status == IFA_OK; i++)
    status = o->kinds[i] == 's' ? ifa_case_list_add_suite(&j->cases, o->sources[i], &base, message)
                                : ifa_case_list_add_line(&j->cases, o->sources[i], &base, message);
  for (size_t i = 0; o->no_lse && i < j->cases.count; i++) j->cases.cases[i].problem.lse = 0;
  return status;
}

ifa_status ifa_judge_open(const ifa_judge_options *o, ifa_judge **judge, ifa_message *message) {
  *judge = NULL;
  ifa_judge *j = calloc(1, sizeof *j);
  if (!j) return ifa_fail(message, IFA_OUT_OF_MEMORY, "no memory for a judge");
  j->once = o->once;
  j->name = ifa_copy_string(o->name);
  j->before = ifa_copy_string(o->repeat_before);
  j->after = ifa_copy_string(o->repeat_after);
  ifa_data_real_folder = o->real_folder;
  ifa_status status = j->name && j->before && j->after
                          ? ifa_kernel_open_call(&j->kernel, j->name, o->claim, NULL, NULL, message)
                          : ifa_fail(message, IFA_OUT_OF_MEMORY, "no memory for a judge");
  if (status == IFA_OK) status = gather(j, o, message);
  if (status == IFA_OK) *judge = j;
  else ifa_judge_close(j);
  return status;
}

void ifa_judge_close(ifa_judge *j) {
  if (!j) return;
  ifa_case_list_free(&j->cases);
  ifa_report_free(&j->report);
  free(j->name);
  free(j->before);
  free(j->after);
  free(j);
}

void ifa_judge_claim(const ifa_judge *j, int32_t formats[3], int32_t *close) {
  const ifa_claim *c = &j->kernel.claim;
  const ifa_operand_format operands[] = {c->q, c->k, c->v};
  for (int i = 0; i < 3; i++) formats[i] = (int32_t)operands[i].format;
  *close = c->close;
}

int64_t ifa_judge_case_count(const ifa_judge *j) { return (int64_t)j->cases.count; }

char *ifa_judge_case_text(const ifa_judge *j, int64_t index) {
  char text[IFA_CASE_TEXT];
  if (index < 0 || index >= ifa_judge_case_count(j)) return NULL;
  ifa_case_print(&j->cases.cases[index], text);
  return ifa_copy_string(text);
}

/* One case with what is needed to judge the kernel on it. */
typedef struct judged {
  ifa_data data, other;
  ifa_trial trial;
  ifa_expected *expected, *expected_other;
} judged;

/* The kernel runs before the oracle does: what is not there cannot be found. */
static ifa_status try_and_judge(ifa_judge *j, const ifa_case *c, judged *d, ifa_result *r,
                                ifa_message *message) {
  ifa_case other;
  ifa_data *second = NULL;
  ifa_status status = ifa_data_make(c, &d->data, message);
  if (status == IFA_OK && !j->once && ifa_trial_other_case(c, &d->data, &other)) {
    second = &d->other;
    status = ifa_data_make(&other, second, message);
  }
  if (status == IFA_OK) status = ifa_trial_run(&j->kernel, &d->data, second, &d->trial, message);
  if (status == IFA_OK) status = ifa_expected_make(&d->data, &d->expected, message);
  if (status == IFA_OK && d->trial.made > 1 && !j->kernel.claim.close)
    status = ifa_expected_make(second, &d->expected_other, message);
  if (status != IFA_OK) return status;
  ifa_trial_judge(&j->kernel, &d->trial, &d->data, d->expected, second, d->expected_other,
                  &r->outcome);
  ifa_expected_digest(&d->data, d->expected, r->digest);
  return IFA_OK;
}

ifa_status ifa_judge_run(ifa_judge *j, int64_t index, ifa_call *call, void *context, char **json,
                         ifa_message *message) {
  char text[IFA_CASE_TEXT];
  judged d = {0};
  *json = NULL;
  if (index < 0 || index >= ifa_judge_case_count(j))
    return ifa_fail(message, IFA_BAD_ARGUMENT, "there is no case %lld", (long long)index);
  const ifa_case *c = &j->cases.cases[index];
  j->kernel.call = call;
  j->kernel.context = context;
  ifa_case_print(c, text);
  ifa_result *r = calloc(1, sizeof *r);
  ifa_status status = r ? try_and_judge(j, c, &d, r, message)
                        : ifa_fail(message, IFA_OUT_OF_MEMORY, "no memory for a result");
  if (status == IFA_OK) {
    r->text = text;
    r->backend = j->kernel.name;
    r->claim = j->kernel.claim.text;
    r->repeat_before = j->before;
    r->repeat_after = j->after;
    status = ifa_report_add(&j->report, r, message);
  }
  if (status == IFA_OK) *json = ifa_report_result_text(r);
  else if (ifa_report_add_invalid(&j->report, text, message ? message->text : "", NULL) != IFA_OK)
    j->report.lost = 1;
  free(r);
  ifa_trial_free(&d.trial);
  ifa_expected_free(d.expected);
  ifa_expected_free(d.expected_other);
  ifa_data_free(&d.data);
  ifa_data_free(&d.other);
  return status;
}

char *ifa_judge_last_text(const ifa_judge *j) {
  char *text = NULL;
  size_t length;
  FILE *to = j->report.count ? open_memstream(&text, &length) : NULL;
  if (!to) return NULL;
  const ifa_result *r = &j->report.results[j->report.count - 1];
  if (ifa_verdict_is_failure(r->outcome.verdict)) ifa_report_print_failure(to, r);
  else ifa_report_print_quiet(to, r);
  fclose(to);
  return text;
}

char *ifa_judge_counts_text(const ifa_judge *j) {
  char *text = NULL;
  size_t length;
  FILE *to = open_memstream(&text, &length);
  if (!to) return NULL;
  ifa_report_print_counts(to, &j->report);
  fclose(to);
  return text;
}

int32_t ifa_judge_exit_code(const ifa_judge *j) { return ifa_report_exit_code(&j->report); }

ifa_status ifa_judge_write(const ifa_judge *j, const char *format, const char *path,
                           ifa_message *message) {
  if (strcmp(format, "json") == 0) return ifa_report_write_json(&j->report, path, message);
  if (strcmp(format, "html") == 0) return ifa_report_write_html(&j->report, path, message);
  if (strcmp(format, "junit") == 0) return ifa_report_write_junit(&j->report, path, message);
  if (strcmp(format, "csv") == 0) return ifa_report_write_csv(&j->report, path, message);
  return ifa_fail(message, IFA_BAD_ARGUMENT, "format '%.20s' is not json, html, junit or csv",
                  format);
}
