#include "validate/fuzz/fuzz_worker.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "validate/judge/compare.h"
#include "validate/kernels/process.h"
#include "validate/fuzz/fuzz_case.h"

typedef struct request {
  char text[IFA_CASE_TEXT];
  int violation, count;
  char backends[IFA_FUZZ_BACKENDS][32];
} request;

/* One for the oracle, then, if it has a result (finding PASSED) or refuses the scores (REFUSED),
 * one for each backend. */
typedef struct reply {
  ifa_status status;
  ifa_fuzz_result result;
} reply;

const char *ifa_finding_name(ifa_finding finding) {
  static const char *const names[IFA_FINDINGS] = {"passed",        "refused",        "unsupported",
                                                  "not available", "not applicable", "mismatch",
                                                  "wrong status",  "crash",          "hang"};
  return (unsigned)finding < IFA_FINDINGS ? names[finding] : "?";
}

/* ---- in the child ---- */

static void fail_with(ifa_fuzz_result *r, ifa_finding finding, const char *text) {
  r->finding = finding;
  snprintf(r->text, sizeof r->text, "%.319s", text);
}

static int is_absent(const char *backend, const ifa_problem *p, ifa_fuzz_result *r) {
  ifa_message why;
  ifa_status status = ifa_backend_supports(backend, p, &why);
  if (status == IFA_NOT_AVAILABLE) r->finding = IFA_FUZZ_NOT_AVAILABLE;
  if (status == IFA_UNSUPPORTED) r->finding = IFA_FUZZ_UNSUPPORTED;
  return status == IFA_NOT_AVAILABLE || status == IFA_UNSUPPORTED;
}

static int is_untouched(const ifa_buffer *b) {
  for (size_t i = 0; b->block && i < b->bytes; i++)
    if (b->data[i] != b->poison) return 0;
  return ifa_buffer_guards_hold(b);
}

/* A call that must be refused: the status, a message, and nothing written. */
static void check_refusal(const ifa_data *d, int violation, ifa_status wanted, const char *backend,
                          ifa_fuzz_result *r) {
  ifa_run_buffers buffers;
  ifa_message why = {""};
  if (ifa_run_buffers_make(d, IFA_STAGES_NONE, IFA_BACKEND_POISON, &buffers, &why) != IFA_OK) {
    ifa_run_buffers_free(&buffers);
    fail_with(r, IFA_FUZZ_WRONG_STATUS, why.text);
    return;
  }
  ifa_fuzz_call call = {
      .problem = d->p, .inputs = ifa_data_inputs(d), .outputs = ifa_run_buffers_outputs(&buffers)};
  if (violation >= 0 && !ifa_violate(violation, d, &call)) {
    r->finding = IFA_FUZZ_NOT_APPLICABLE;
  } else {
    ifa_status status = ifa_run(backend, &call.problem, &call.inputs, &call.outputs, &why);
    char text[320];
    r->finding = IFA_FUZZ_REFUSED;
    snprintf(text, sizeof text, "answered '%s' (%.160s), not '%s'", ifa_status_name(status),
             why.text, ifa_status_name(wanted));
    if (status != wanted) fail_with(r, IFA_FUZZ_WRONG_STATUS, text);
    else if (why.text[0] == '\0' || strchr(why.text, '\n'))
      fail_with(r, IFA_FUZZ_WRONG_STATUS, "refused without a message of one line");
    else if (!is_untouched(&buffers.o) || !is_untouched(&buffers.lse))
      fail_with(r, IFA_FUZZ_WRONG_STATUS, "refused, but something was written");
  }
  ifa_fuzz_call_free(&call);
  ifa_run_buffers_free(&buffers);
}

static void check_result(const ifa_data *d, const ifa_expected *expected, const char *backend,
                         ifa_fuzz_result *r) {
  ifa_outcome *o = calloc(1, sizeof *o);
  if (!o) {
    fail_with(r, IFA_FUZZ_WRONG_STATUS, "no memory");
    return;
  }
  ifa_compare(d, expected, backend, o);
  r->finding = o->verdict == IFA_NOT_SUPPORTED ? IFA_FUZZ_UNSUPPORTED
               : o->verdict == IFA_ABSENT      ? IFA_FUZZ_NOT_AVAILABLE
                                               : IFA_FUZZ_PASSED;
  if (o->verdict == IFA_FAILED) {
    char text[640];
    snprintf(text, sizeof text, "%s%s%s", o->message.text, o->place_count ? "; first " : "",
             o->place_count ? o->places[0].where : "");
    fail_with(r, IFA_FUZZ_MISMATCH, text);
  }
  free(o);
}

static int send_all(int to, const void *bytes, size_t count) {
  for (const char *at = bytes; count > 0;) {
    ssize_t sent = ifa_write_quietly(to, at, count); /* a worker that is gone is no end of this */
    if (sent < 0 && errno == EINTR) continue;
    if (sent <= 0) return 0;
    at += sent;
    count -= (size_t)sent;
  }
  return 1;
}

static int receive_all(int from, void *bytes, size_t count) {
  for (char *at = bytes; count > 0;) {
    ssize_t got = read(from, at, count);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return 0;
    at += got;
    count -= (size_t)got;
  }
  return 1;
}

static void serve(const request *q, int to) {
  ifa_case c;
  ifa_data data = {0};
  ifa_expected *expected = NULL;
  ifa_message why = {""};
  reply head = {0};
  head.status = ifa_case_parse(q->text, &c, &why);
  if (head.status == IFA_OK) head.status = ifa_data_make(&c, &data, &why);
  int made = head.status == IFA_OK;
  if (made) head.status = ifa_expected_make(&data, &expected, &why);
  snprintf(head.result.text, sizeof head.result.text, "%s", why.text);
  int runs = head.status == IFA_OK, refused = made && head.status == IFA_BAD_DATA;
  head.result.finding = runs ? IFA_FUZZ_PASSED : refused ? IFA_FUZZ_REFUSED : IFA_FUZZ_WRONG_STATUS;
  send_all(to, &head, sizeof head);
  for (int i = 0; i < q->count && (runs || refused); i++) {
    reply answer = {0};
    if (is_absent(q->backends[i], &data.p, &answer.result))
      ;
    else if (refused) check_refusal(&data, -1, IFA_BAD_DATA, q->backends[i], &answer.result);
    else if (q->violation >= 0)
      check_refusal(&data, q->violation, ifa_violation_at(q->violation)->status, q->backends[i],
                    &answer.result);
    else check_result(&data, expected, q->backends[i], &answer.result);
    send_all(to, &answer, sizeof answer);
  }
  ifa_expected_free(expected);
  ifa_data_free(&data);
}

static void be_worker(int from, int to) {
  prctl(PR_SET_PDEATHSIG, SIGKILL); /* also where a backend hangs */
  request *q = malloc(sizeof *q);
  while (q && receive_all(from, q, sizeof *q)) serve(q, to);
  _exit(0);
}

/* ---- in the parent ---- */

static ifa_status start(ifa_worker *w, ifa_message *message) {
  int down[2], up[2];
  if (w->pid) return IFA_OK;
  if (pipe(down) != 0) return ifa_fail(message, IFA_IO, "no pipe: %s", strerror(errno));
  if (pipe(up) != 0) {
    close(down[0]);
    close(down[1]);
    return ifa_fail(message, IFA_IO, "no pipe: %s", strerror(errno));
  }
  fflush(NULL);
  pid_t pid = fork();
  if (pid == 0) {
    close(down[1]);
    close(up[0]);
    be_worker(down[0], up[1]);
  }
  close(down[0]);
  close(up[1]);
  if (pid < 0) {
    close(down[1]);
    close(up[0]);
    return ifa_fail(message, IFA_IO, "no process: %s", strerror(errno));
  }
  w->pid = pid;
  w->to = down[1];
  w->from = up[0];
  return IFA_OK;
}

/* Ends the worker; its exit status. */
static int reap(ifa_worker *w, int kill_it) {
  int status = 0;
  if (!w->pid) return 0;
  close(w->to);
  if (kill_it) kill(w->pid, SIGKILL);
  while (waitpid(w->pid, &status, 0) < 0 && errno == EINTR) {}
  close(w->from);
  w->pid = 0;
  return status;
}

void ifa_worker_stop(ifa_worker *w) { reap(w, 0); }

/* One reply, or how the worker ended instead. */
static int await(ifa_worker *w, reply *answer, ifa_fuzz_result *ended) {
  struct pollfd waiting = {.fd = w->from, .events = POLLIN};
  int ready;
  do ready = poll(&waiting, 1, (int)(w->time_limit * 1000));
  while (ready < 0 && errno == EINTR);
  if (ready > 0 && receive_all(w->from, answer, sizeof *answer)) return 1;
  int hangs = ready == 0, status = reap(w, hangs);
  ended->finding = hangs ? IFA_FUZZ_HANG : IFA_FUZZ_CRASH;
  if (hangs) snprintf(ended->text, sizeof ended->text, "no answer within %g s", w->time_limit);
  else if (WIFSIGNALED(status))
    snprintf(ended->text, sizeof ended->text, "ended by signal %d (%s)", WTERMSIG(status),
             strsignal(WTERMSIG(status)));
  else
    snprintf(ended->text, sizeof ended->text, "ended the process with code %d",
             WEXITSTATUS(status));
  return 0;
}

/* Backends from `first` on; *done is how many were dealt with, the last of them perhaps by the
 * worker's end. */
static ifa_status run_from(ifa_worker *w, request *q, int first, const char *const *backends,
                           int count, ifa_fuzz_result *results, int *done, ifa_message *message) {
  reply answer;
  ifa_fuzz_result ended;
  ifa_status status = start(w, message);
  if (status != IFA_OK) return status;
  q->count = count - first;
  for (int i = first; i < count; i++)
    snprintf(q->backends[i - first], sizeof q->backends[0], "%s", backends[i]);
  if (!send_all(w->to, q, sizeof *q) || !await(w, &answer, &ended)) {
    if (w->pid) reap(w, 1);
    return ifa_fail(message, IFA_IO, "the oracle %s", ended.text);
  }
  if (ifa_is_failure(answer.result.finding))
    return ifa_fail(message, answer.status, "%s", answer.result.text);
  for (*done = 0; first + *done < count;) {
    int i = first + (*done)++;
    if (!await(w, &answer, &results[i])) return IFA_OK;
    results[i] = answer.result;
  }
  return IFA_OK;
}

ifa_status ifa_worker_run(ifa_worker *w, const ifa_case *c, int violation,
                          const char *const *backends, int count, ifa_fuzz_result *results,
                          ifa_message *message) {
  request *q = calloc(1, sizeof *q);
  ifa_status status = q ? IFA_OK : ifa_fail(message, IFA_OUT_OF_MEMORY, "no memory");
  if (q) ifa_case_print(c, q->text);
  if (q) q->violation = violation;
  for (int first = 0, done; status == IFA_OK && first < count; first += done) {
    /* again after a crash, with the backends that are left */
    done = 0;
    status = run_from(w, q, first, backends, count, results, &done, message);
  }
  free(q);
  return status;
}
