#define _GNU_SOURCE /* on_exit */
#include "validate/text/console.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { CODE_MISMATCH = 1, CODE_BAD_USAGE = 2 };

static const char *program_name;
static int given_away = -1, reason; /* errno of a write that failed */

static void finish(int code, void *unused) {
  (void)unused;
  int failed = ferror(stdout);
  int closed = fclose(stdout);
  if (closed == 0 && !failed) return;
  if (closed != 0 && !reason) reason = errno;
  fprintf(stderr, "%s: the standard output cannot be written%s%s\n", program_name,
          reason ? ": " : "", reason ? strerror(reason) : "");
  if (code != CODE_MISMATCH) _exit(CODE_BAD_USAGE);
}

void ifa_console_begin(const char *program) {
  program_name = program;
  /* what was closed is opened the wrong way, so that using it is an error */
  for (int d = 0; d <= 2; d++)
    if (fcntl(d, F_GETFD) < 0) (void)!open("/dev/null", d == 0 ? O_WRONLY : O_RDONLY);
  on_exit(finish, NULL);
}

int ifa_console_end(int code) {
  if (fflush(stdout) != 0) reason = errno;
  return code;
}

int ifa_console_give_away(void) {
  if (given_away >= 0) return given_away;
  fflush(stdout);
  int kept = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 10);
  if (kept < 0 || dup2(STDERR_FILENO, STDOUT_FILENO) < 0) return -1;
  return given_away = kept;
}
