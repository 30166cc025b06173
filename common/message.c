#include "common/message.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* A line that was cut ends with "..." in place of its last characters, none of which is cut itself
 * (the bytes of a UTF-8 character but its first are 10xxxxxx). */
static void show_cut(ifa_message *message) {
  size_t end = sizeof message->text - sizeof "...";
  while (end > 0 && ((unsigned char)message->text[end] & 0xc0) == 0x80) end--;
  memcpy(message->text + end, "...", sizeof "...");
}

ifa_status ifa_fail(ifa_message *message, ifa_status status, const char *format, ...) {
  if (message) {
    va_list args;
    va_start(args, format);
    int length = vsnprintf(message->text, sizeof message->text, format, args);
    va_end(args);
    if (length >= (int)sizeof message->text) show_cut(message);
  }
  return status;
}

ifa_status ifa_succeed(ifa_message *message) {
  if (message) message->text[0] = '\0';
  return IFA_OK;
}

const char *ifa_status_name(ifa_status status) {
  switch (status) {
    case IFA_OK: return "ok";
    case IFA_BAD_PROBLEM: return "bad problem";
    case IFA_BAD_ARGUMENT: return "bad argument";
    case IFA_BAD_DATA: return "bad data";
    case IFA_BAD_FILE: return "bad file";
    case IFA_UNSUPPORTED: return "unsupported";
    case IFA_NOT_AVAILABLE: return "not available";
    case IFA_OUT_OF_MEMORY: return "out of memory";
    case IFA_IO: return "input/output error";
    case IFA_FULL: return "full";
  }
  return "unknown status";
}
