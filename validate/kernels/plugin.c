#define _GNU_SOURCE /* asprintf */
#include "validate/kernels/plugin.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "validate/text/visible.h"

void ifa_kernel_set_name(ifa_kernel *k, const char *name) {
  int length = snprintf(k->name, sizeof k->name, "%s", *name ? name : "plugin");
  if (length >= (int)sizeof k->name) strcpy(k->name + sizeof k->name - 4, "...");
  for (char *c = k->name; *c; c++)
    if (*c <= ' ' || *c > '~' || *c == '"' || *c == ',' || *c == '<' || *c == '&') *c = '_';
}

ifa_verdict ifa_verdict_of_status(ifa_status status) {
  return status == IFA_OK              ? IFA_PASSED
         : status == IFA_UNSUPPORTED   ? IFA_NOT_SUPPORTED
         : status == IFA_NOT_AVAILABLE ? IFA_ABSENT
                                       : IFA_FAILED;
}

static const char *last_part(const char *path) {
  const char *slash = strrchr(path, '/');
  return slash ? slash + 1 : path;
}

static ifa_verdict start(ifa_kernel *k, char claim[IFA_CLAIM_TEXT], ifa_status *trouble,
                         ifa_message *message) {
  return k->kind == IFA_KERNEL_LIBRARY ? ifa_library_start(k, claim, trouble, message)
                                       : ifa_program_start(k, claim, trouble, message);
}

ifa_status ifa_kernel_open(ifa_kernel *k, ifa_kernel_kind kind, const char *text, const char *claim,
                           double timeout, ifa_message *message) {
  char said[IFA_CLAIM_TEXT] = "exact";
  ifa_status trouble = IFA_OK;
  *k = (ifa_kernel){.kind = kind, .text = text, .timeout = timeout, .memory = -1};
  ifa_kernel_set_name(k, last_part(text));
  k->start = start(k, said, &trouble, &k->why);
  if (trouble != IFA_OK) {
    ifa_kernel_close(k);
    return ifa_fail(message, trouble, "%s: %s", ifa_shorten(text).text, k->why.text);
  }
  if (k->start != IFA_PASSED) {
    ifa_message why = k->why;
    ifa_fail(&k->why, IFA_BAD_DATA, "at its start: %s", why.text);
  }
  ifa_status status = ifa_claim_parse(claim ? claim : said, &k->claim, message);
  if (status != IFA_OK) ifa_kernel_close(k);
  return status;
}

char *ifa_kernel_selector(ifa_kernel_kind kind, const char *text, const char *claim, int once,
                          double timeout) {
  static const char *const names[] = {"plugin", "exec", "exec-once"};
  char *word = ifa_shell_word(text), *said = ifa_shell_word(claim ? claim : ""), limit[64] = "",
       *made = NULL;
  if (timeout != IFA_KERNEL_TIMEOUT) snprintf(limit, sizeof limit, " --timeout %.15g", timeout);
  if (!word || !said ||
      asprintf(&made, "--%s %s%s%s%s%s", names[kind], word, claim ? " --claim " : "",
               claim ? said : "", once ? " --once" : "", limit) < 0)
    made = NULL;
  free(word);
  free(said);
  return made;
}

void ifa_kernel_close(ifa_kernel *k) {
  ifa_process_end(&k->process);
  if (k->memory >= 0) close(k->memory);
  k->memory = -1;
  ifa_program_clean(k);
}

ifa_status ifa_kernel_run(ifa_kernel *k, const ifa_data *d, ifa_run_buffers *buffers,
                          ifa_verdict *verdict, double *seconds, ifa_message *message) {
  char said[IFA_CLAIM_TEXT];
  ifa_status trouble = IFA_OK;
  *seconds = 0;
  ifa_succeed(message);
  *verdict = k->start;
  if (k->start != IFA_PASSED) {
    *message = k->why;
    return IFA_OK;
  }
  if (k->kind == IFA_KERNEL_CALL) {
    *verdict = ifa_call_run(k, d, buffers, seconds, message);
    return IFA_OK;
  }
  if (k->process.pid == 0 && k->kind != IFA_KERNEL_ONE_SHOT) { /* it ended with an earlier case */
    *verdict = start(k, said, &trouble, message);
    if (*verdict != IFA_PASSED || trouble != IFA_OK) return trouble;
  }
  *verdict = k->kind == IFA_KERNEL_LIBRARY
                 ? ifa_library_run(k, d, buffers, seconds, &trouble, message)
                 : ifa_program_run(k, d, buffers, seconds, &trouble, message);
  return trouble;
}
