/* cleanup.h - what must not outlive this program when a signal ends it: processes that it started,
 * the folders of their cases, and output files that are half written. */
#ifndef IFA_VALIDATE_CLEANUP_H
#define IFA_VALIDATE_CLEANUP_H

#include <signal.h>
#include <sys/types.h>

/* Once, before anything is started. SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGPIPE, SIGALRM and those of
 * limits (SIGXCPU, SIGXFSZ), where they are not ignored, then end the groups and remove the folders
 * and files named below before they end this program, as they would have. SIGCHLD, which the
 * program's parent may have left ignored, is the default again: with it ignored no child's end
 * could be told. */
void ifa_cleanup_begin(void);

/* Keeps those signals from coming between making something and naming it here; put back with
 * ifa_cleanup_release. */
void ifa_cleanup_hold(sigset_t *before);
void ifa_cleanup_release(const sigset_t *before);

/* A process group that is running, until it is forgotten. */
void ifa_cleanup_add_group(pid_t group);
void ifa_cleanup_forget_group(pid_t group);

/* A folder that exists, until it is forgotten. The string stays the caller's and must stay as it is
 * until then. */
void ifa_cleanup_add_folder(const char *folder);
void ifa_cleanup_forget_folder(const char *folder);

/* The same of a file: ifa_output_watch of files/tensor_file.h. */
void ifa_cleanup_watch_file(const char *file, int exists);

/* In a child between fork and exec: all as a program expects to find it. */
void ifa_cleanup_in_child(void);

#endif
