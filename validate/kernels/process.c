#define _GNU_SOURCE /* pipe2 */
#include "validate/kernels/process.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "common/clock.h"
#include "validate/kernels/cleanup.h"

/* How long a process that closed its output, or whose input was closed, may take to end. */
static const double GRACE = 2.0;

/* ---- starting ---- */

/* Both ends away from the numbers that the child gives a meaning, and closed in it unless it takes
 * them over. */
static int make_pipe(int ends[2]) {
  if (pipe2(ends, O_CLOEXEC) != 0) return 0;
  for (int i = 0; i < 2; i++) {
    int moved = fcntl(ends[i], F_DUPFD_CLOEXEC, 10);
    if (moved < 0) return 0;
    close(ends[i]);
    ends[i] = moved;
  }
  return 1;
}

static void become(char *const argv[], int in, int out, int inherited) {
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
  ifa_cleanup_in_child();
  dup2(in, STDIN_FILENO);
  dup2(out, STDOUT_FILENO);
  if (inherited == 3) fcntl(3, F_SETFD, 0);
  else if (inherited >= 0) dup2(inherited, 3);
  execv(argv[0], argv);
  _exit(127);
}

ifa_status ifa_process_start(ifa_process *process, char *const argv[], int talk, int inherited,
                             ifa_message *message) {
  int to[2] = {-1, -1}, from[2] = {-1, -1};
  *process = (ifa_process){.in = -1, .out = -1};
  if (talk ? !make_pipe(to) || !make_pipe(from)
           : (to[0] = open("/dev/null", O_RDONLY | O_CLOEXEC)) < 0)
    return ifa_fail(message, IFA_IO, "no pipe for %.100s: %s", argv[0], strerror(errno));
  fflush(NULL);
  sigset_t before;
  ifa_cleanup_hold(&before);
  pid_t pid = fork();
  if (pid == 0) become(argv, to[0], talk ? from[1] : STDERR_FILENO, inherited);
  if (pid > 0) ifa_cleanup_add_group(pid);
  ifa_cleanup_release(&before);
  close(to[0]);
  if (talk) close(from[1]);
  if (pid < 0) {
    if (talk) close(to[1]), close(from[0]);
    return ifa_fail(message, IFA_IO, "%.100s cannot be started: %s", argv[0], strerror(errno));
  }
  setpgid(pid, pid); /* as the child does: whoever comes first */
  *process = (ifa_process){.pid = pid, .in = to[1], .out = from[0]};
  if (talk) fcntl(process->in, F_SETFL, O_NONBLOCK);
  return IFA_OK;
}

/* ---- ending ---- */

static void close_ends(ifa_process *process) {
  if (process->in >= 0) close(process->in);
  if (process->out >= 0) close(process->out);
  process->in = process->out = -1;
}

/* 1 if it ended by the deadline. */
static int wait_until(pid_t pid, double deadline, int *state) {
  for (;;) {
    pid_t done = waitpid(pid, state, WNOHANG);
    if (done == pid) return 1;
    if (done < 0 && errno != EINTR) return 0;
    if (ifa_now() >= deadline) return 0;
    nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
  }
}

/* Ends the whole group, also what the process left behind, and forgets it. */
static void kill_group(ifa_process *process, int ended) {
  close_ends(process);
  kill(-process->pid, SIGKILL);
  while (!ended && waitpid(process->pid, &(int){0}, 0) < 0 && errno == EINTR) continue;
  ifa_cleanup_forget_group(process->pid);
  process->pid = 0;
}

void ifa_process_end(ifa_process *process) {
  if (process->pid == 0) return;
  int state;
  close_ends(process);
  kill_group(process, wait_until(process->pid, ifa_now() + GRACE, &state));
}

/* A shell that did not let its command take its place says 128 + the signal. */
static const char *shell_signal(int code, char text[96]) {
  int number = code - 128;
  text[0] = '\0';
  if (number > 0 && number < SIGRTMIN)
    snprintf(text, 96, " (a shell says so of signal %d, %.32s)", number, strsignal(number));
  return text;
}

static ifa_verdict crashed(ifa_process *process, ifa_message *message) {
  int state, ended = wait_until(process->pid, ifa_now() + GRACE, &state);
  kill_group(process, ended);
  if (!ended) ifa_fail(message, IFA_BAD_DATA, "closed its output without an answer");
  else if (WIFSIGNALED(state))
    ifa_fail(message, IFA_BAD_DATA, "ended by signal %d (%s)", WTERMSIG(state),
             strsignal(WTERMSIG(state)));
  else
    ifa_fail(message, IFA_BAD_DATA, "exited with code %d before it answered%s", WEXITSTATUS(state),
             WEXITSTATUS(state) == 127 ? " (is there such a program?)"
                                       : shell_signal(WEXITSTATUS(state), (char[96]){0}));
  return IFA_CRASHED;
}

static ifa_verdict timed_out(ifa_process *process, ifa_message *message) {
  kill_group(process, 0);
  ifa_fail(message, IFA_BAD_DATA, "no answer within the time limit (--timeout)");
  return IFA_TIMED_OUT;
}

ifa_verdict ifa_process_wait(ifa_process *process, double deadline, int *code,
                             ifa_message *message) {
  int state;
  if (!wait_until(process->pid, deadline, &state)) return timed_out(process, message);
  kill_group(process, 1);
  if (WIFSIGNALED(state)) {
    ifa_fail(message, IFA_BAD_DATA, "ended by signal %d (%s)", WTERMSIG(state),
             strsignal(WTERMSIG(state)));
    return IFA_CRASHED;
  }
  *code = WEXITSTATUS(state);
  return IFA_PASSED;
}

/* ---- talking ---- */

/* 1: ready (or hung up); 0: the deadline has passed. */
static int ready(int descriptor, short events, double deadline) {
  for (;;) {
    double left = deadline - ifa_now();
    if (left <= 0) return 0;
    struct pollfd p = {.fd = descriptor, .events = events};
    int n = poll(&p, 1, left > 3600 ? 3600000 : (int)(left * 1000) + 1);
    if (n > 0 || (n < 0 && errno != EINTR)) return 1;
  }
}

ssize_t ifa_write_quietly(int descriptor, const void *bytes, size_t length) {
  sigset_t pipe_only, before, pending;
  sigemptyset(&pipe_only);
  sigaddset(&pipe_only, SIGPIPE);
  pthread_sigmask(SIG_BLOCK, &pipe_only, &before);
  sigpending(&pending);
  int was_pending = sigismember(&pending, SIGPIPE);
  ssize_t n = write(descriptor, bytes, length);
  int error = errno;
  if (n < 0 && error == EPIPE && !was_pending) /* it is this thread's, and there already */
    while (sigtimedwait(&pipe_only, NULL, &(struct timespec){0, 0}) < 0 && errno == EINTR) continue;
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  errno = error;
  return n;
}

ifa_verdict ifa_process_send(ifa_process *process, const void *bytes, size_t length,
                             double deadline, ifa_message *message) {
  for (const char *at = bytes; length > 0;) {
    if (!ready(process->in, POLLOUT, deadline)) return timed_out(process, message);
    ssize_t n = ifa_write_quietly(process->in, at, length);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) continue;
    if (n < 0) return crashed(process, message);
    at += n;
    length -= (size_t)n;
  }
  return IFA_PASSED;
}

ifa_verdict ifa_process_receive(ifa_process *process, void *bytes, size_t length, double deadline,
                                ifa_message *message) {
  for (char *at = bytes; length > 0;) {
    if (!ready(process->out, POLLIN, deadline)) return timed_out(process, message);
    ssize_t n = read(process->out, at, length);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return crashed(process, message);
    at += n;
    length -= (size_t)n;
  }
  return IFA_PASSED;
}
