#define _GNU_SOURCE /* vfork */
#include "validate/kernels/cleanup.h"

#include <errno.h>
#include <stddef.h>
#include <sys/wait.h>
#include <unistd.h>

/* More than there are kernels of a run (16): each has one process at a time, and one folder. */
enum { SLOTS = 32 };

static const int signals[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGPIPE, SIGXCPU, SIGXFSZ, SIGALRM};
enum { SIGNALS = sizeof signals / sizeof signals[0] };

/* Read by the handler; 0 and NULL: a free slot. */
static volatile sig_atomic_t groups[SLOTS];
static const char *volatile folders[SLOTS];
static const char *volatile files[SLOTS];

/* By another program, since nothing that walks a folder may be called in a handler. vfork: fork
 * would run handlers of threads, and take locks that the interrupted code may hold. */
static void remove_folders(void) {
  static char rm[] = "/bin/rm", force[] = "-rf", end[] = "--";
  char *argv[SLOTS + 4] = {rm, force, end};
  int count = 3;
  for (int i = 0; i < SLOTS; i++)
    if (folders[i]) argv[count++] = (char *)folders[i];
  if (count == 3) return;
  argv[count] = NULL;
  pid_t pid = vfork();
  if (pid == 0) {
    execv(rm, argv);
    _exit(127);
  }
  while (pid > 0 && waitpid(pid, NULL, 0) < 0 && errno == EINTR) continue;
}

/* Only what is allowed in a handler: kill, unlink, vfork, execv, waitpid, sigaction, raise. */
static void end_by(int number) {
  for (int i = 0; i < SLOTS; i++)
    if (groups[i] > 0) kill(-(pid_t)groups[i], SIGKILL);
  for (int i = 0; i < SLOTS; i++)
    if (files[i]) unlink(files[i]);
  remove_folders();
  signal(number, SIG_DFL);
  raise(number); /* comes when this handler has returned: until then it is blocked */
}

static void signal_set(sigset_t *set) {
  sigemptyset(set);
  for (int i = 0; i < SIGNALS; i++) sigaddset(set, signals[i]);
}

void ifa_cleanup_begin(void) {
  struct sigaction act = {.sa_handler = end_by}, before;
  signal_set(&act.sa_mask);
  for (int i = 0; i < SIGNALS; i++)
    if (sigaction(signals[i], NULL, &before) == 0 && before.sa_handler == SIG_DFL)
      sigaction(signals[i], &act, NULL);
  signal(SIGCHLD, SIG_DFL);
}

void ifa_cleanup_hold(sigset_t *before) {
  sigset_t set;
  signal_set(&set);
  sigprocmask(SIG_BLOCK, &set, before);
}

void ifa_cleanup_release(const sigset_t *before) { sigprocmask(SIG_SETMASK, before, NULL); }

void ifa_cleanup_add_group(pid_t group) {
  int i = 0;
  while (i < SLOTS && groups[i] != 0) i++;
  if (i < SLOTS) groups[i] = (sig_atomic_t)group;
}

void ifa_cleanup_forget_group(pid_t group) {
  for (int i = 0; i < SLOTS; i++)
    if (groups[i] == (sig_atomic_t)group) groups[i] = 0;
}

static void add_name(const char *volatile *names, const char *name) {
  int i = 0;
  while (i < SLOTS && names[i]) i++;
  if (i < SLOTS) names[i] = name;
}

static void forget_name(const char *volatile *names, const char *name) {
  for (int i = 0; i < SLOTS; i++)
    if (names[i] == name) names[i] = NULL;
}

void ifa_cleanup_add_folder(const char *folder) { add_name(folders, folder); }
void ifa_cleanup_forget_folder(const char *folder) { forget_name(folders, folder); }

void ifa_cleanup_watch_file(const char *file, int exists) {
  (exists ? add_name : forget_name)(files, file);
}

/* A handler is no handler in another program; what was ignored stays ignored there, but SIGPIPE. */
void ifa_cleanup_in_child(void) {
  struct sigaction before;
  sigset_t set;
  for (int i = 0; i < SIGNALS; i++)
    if (sigaction(signals[i], NULL, &before) == 0 && before.sa_handler == end_by)
      signal(signals[i], SIG_DFL);
  signal(SIGPIPE, SIG_DFL);
  signal_set(&set);
  sigprocmask(SIG_UNBLOCK, &set, NULL);
}
