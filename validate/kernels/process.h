/* process.h - a child process that is talked to over its standard input and output, within time
 * limits, and whose end is described. */
#ifndef IFA_VALIDATE_PROCESS_H
#define IFA_VALIDATE_PROCESS_H

#include <stddef.h>
#include <sys/types.h>

#include "validate/judge/compare.h"

typedef struct ifa_process {
  pid_t pid;   /* 0: none */
  int in, out; /* our ends of its standard input and output; -1 if it has none */
} ifa_process;

/* Starts argv[0] in a process group of its own; it is killed if this process dies. talk 0: its
 * input is empty and its output goes to our standard error. `inherited` (or -1) becomes its
 * descriptor 3; nothing else is inherited but the standard error. A signal that ends this process
 * ends the group too (cleanup.h). */
ifa_status ifa_process_start(ifa_process *process, char *const argv[], int talk, int inherited,
                             ifa_message *message);

/* write() without the SIGPIPE that a closed pipe brings: EPIPE. */
ssize_t ifa_write_quietly(int descriptor, const void *bytes, size_t length);

/* Both answer IFA_PASSED, or what happened: IFA_CRASHED (it has ended, or closed its end; the
 * message says how), IFA_TIMED_OUT. After anything but IFA_PASSED the process has been ended.
 * `deadline` is a time of ifa_now. */
ifa_verdict ifa_process_send(ifa_process *process, const void *bytes, size_t length,
                             double deadline, ifa_message *message);
ifa_verdict ifa_process_receive(ifa_process *process, void *bytes, size_t length, double deadline,
                                ifa_message *message);

/* Waits for the process to end by itself: IFA_PASSED and *code; IFA_CRASHED for a signal;
 * IFA_TIMED_OUT. */
ifa_verdict ifa_process_wait(ifa_process *process, double deadline, int *code,
                             ifa_message *message);

/* Closes its input, waits a moment for it to end, ends it and all of its group. Nothing if there is
 * none. */
void ifa_process_end(ifa_process *process);

#endif
