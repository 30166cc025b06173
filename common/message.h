/* message.h - how every function here reports a failure: a status and one line that says what and
 * where. */
#ifndef IFA_COMMON_MESSAGE_H
#define IFA_COMMON_MESSAGE_H

#include "ifa.h"

#if defined(__GNUC__)
#define IFA_PRINTF(format_at, args_at) __attribute__((format(printf, format_at, args_at)))
#else
#define IFA_PRINTF(format_at, args_at)
#endif

/* Writes the line (cut to fit, with "..." at its end) if message is not NULL, and returns status:
 * `return ifa_fail(message, IFA_BAD_FILE, "...", ...)`. */
ifa_status ifa_fail(ifa_message *message, ifa_status status, const char *format, ...)
    IFA_PRINTF(3, 4);

/* Empties the line and returns IFA_OK. */
ifa_status ifa_succeed(ifa_message *message);

#endif
