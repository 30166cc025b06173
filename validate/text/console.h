/* console.h - the standard output of a program: nothing of it is lost without an error. */
#ifndef IFA_VALIDATE_CONSOLE_H
#define IFA_VALIDATE_CONSOLE_H

/* Once, at the beginning. Descriptors 0, 1 and 2 are open afterwards, so that no file gets their
 * number. At the end (of main, or by exit) a standard output that could not be written is said and
 * makes the exit code 2, unless it is 1: a mismatch is the worse news. */
void ifa_console_begin(const char *program);

/* At the end of main, with its exit code, which it returns: why a write failed is known only before
 * others' exit handlers (an OpenMP runtime's, say) have flushed in vain. */
int ifa_console_end(int code);

/* Gives the standard output to a report: a descriptor of it, to be closed; what is printed from now
 * on goes to the standard error. The same descriptor again if it is asked for again. -1: errno. */
int ifa_console_give_away(void);

#endif
