#include "validate/cases/suite.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "validate/text/visible.h"

/* Made by CMake from validate/suites/: {name, text} pairs. */
typedef struct built_in {
  const char *name, *text;
} built_in;
extern const built_in ifa_built_in_suites[];
extern const int ifa_built_in_suite_count;

/* In UTF-8; some editors put it at the beginning of a file. */
#define BYTE_ORDER_MARK "\xef\xbb\xbf"

enum { MAX_DEPTH = 8, MAX_CASES = 1000000, MAX_FILE = 1 << 24 };

int ifa_suite_count(void) { return ifa_built_in_suite_count; }
const char *ifa_suite_name(int i) {
  return i >= 0 && i < ifa_built_in_suite_count ? ifa_built_in_suites[i].name : NULL;
}

const char *ifa_suite_description(int i) {
  static _Thread_local char line[160];
  if (i < 0 || i >= ifa_built_in_suite_count) return NULL;
  const char *text = ifa_built_in_suites[i].text;
  text += strspn(text, "# ");
  snprintf(line, sizeof line, "%.*s", (int)strcspn(text, "\n"), text);
  return line;
}

void ifa_case_list_free(ifa_case_list *list) {
  free(list->cases);
  *list = (ifa_case_list){0};
}

static ifa_status append(const ifa_case *c, void *context, ifa_message *message) {
  ifa_case_list *list = context;
  if (list->count == MAX_CASES)
    return ifa_fail(message, IFA_BAD_ARGUMENT, "more than %d cases", MAX_CASES);
  if (list->count == list->capacity) {
    size_t capacity = list->capacity ? 2 * list->capacity : 64;
    ifa_case *grown = realloc(list->cases, capacity * sizeof *grown);
    if (!grown) return ifa_fail(message, IFA_OUT_OF_MEMORY, "no memory for %zu cases", capacity);
    list->cases = grown;
    list->capacity = capacity;
  }
  list->cases[list->count++] = *c;
  return IFA_OK;
}

ifa_status ifa_case_list_add_line(ifa_case_list *list, const char *line, const ifa_case *base,
                                  ifa_message *message) {
  return ifa_case_expand(line, base, append, list, message);
}

static ifa_status add_text(ifa_case_list *list, const char *name, const char *text,
                           const ifa_case *base, int depth, ifa_message *message);

static const built_in *find_built_in(const char *name) {
  for (int i = 0; i < ifa_built_in_suite_count; i++)
    if (strcmp(name, ifa_built_in_suites[i].name) == 0) return &ifa_built_in_suites[i];
  return NULL;
}

/* One line without its comment. */
static ifa_status add_line(ifa_case_list *list, char *line, const ifa_case *base, int depth,
                           ifa_message *message) {
  line[strcspn(line, "#")] = '\0';
  line += strspn(line, " \t\r");
  if (*line == '\0') return IFA_OK;
  if (strncmp(line, "include ", 8) != 0) return ifa_case_list_add_line(list, line, base, message);
  char *name = line + 8 + strspn(line + 8, " \t");
  char *end = name + strcspn(name, " \t\r"), *more = end + strspn(end, " \t\r");
  if (*more)
    return ifa_fail(message, IFA_BAD_ARGUMENT, "'%.60s' stands behind the suite's name", more);
  *end = '\0';
  const built_in *suite = find_built_in(name);
  if (!suite)
    return ifa_fail(message, IFA_BAD_ARGUMENT, "there is no built-in suite '%.60s'", name);
  if (depth == MAX_DEPTH)
    return ifa_fail(message, IFA_BAD_ARGUMENT, "suites include each other more than %d deep",
                    MAX_DEPTH);
  return add_text(list, suite->name, suite->text, base, depth + 1, message);
}

static ifa_status add_text(ifa_case_list *list, const char *name, const char *text,
                           const ifa_case *base, int depth, ifa_message *message) {
  char line[IFA_CASE_LINE];
  for (int number = 1; *text != '\0'; number++) {
    size_t length = strcspn(text, "\n");
    ifa_message why = {""};
    ifa_status status;
    if (length >= sizeof line) {
      status = ifa_fail(&why, IFA_BAD_ARGUMENT, "a line of %zu characters is too long", length);
    } else {
      memcpy(line, text, length);
      line[length] = '\0';
      status = add_line(list, line, base, depth, &why);
    }
    if (status != IFA_OK)
      return ifa_fail(message, status, "%s:%d: %s", ifa_shorten(name).text, number, why.text);
    text += length + (text[length] == '\n');
  }
  return IFA_OK;
}

ifa_status ifa_case_list_add_text(ifa_case_list *list, const char *name, const char *text,
                                  const ifa_case *base, ifa_message *message) {
  if (strncmp(text, BYTE_ORDER_MARK, strlen(BYTE_ORDER_MARK)) == 0) text += strlen(BYTE_ORDER_MARK);
  return add_text(list, name, text, base, 0, message);
}

static ifa_status read_text(const char *path, char **text, ifa_message *message) {
  struct stat info;
  FILE *file = NULL;
  if (stat(path, &info) != 0)
    return ifa_fail(message, IFA_BAD_ARGUMENT, "%s: no suite and no file of that name (%s)",
                    ifa_shorten(path).text, strerror(errno));
  if (!S_ISREG(info.st_mode) || info.st_size > MAX_FILE)
    return ifa_fail(message, IFA_BAD_FILE, "%s: not a regular file below 16 MiB",
                    ifa_shorten(path).text);
  if (!(*text = calloc(1, (size_t)info.st_size + 1)))
    return ifa_fail(message, IFA_OUT_OF_MEMORY, "%s: no memory", ifa_shorten(path).text);
  if (!(file = fopen(path, "rb")) ||
      fread(*text, 1, (size_t)info.st_size, file) != (size_t)info.st_size) {
    if (file) fclose(file);
    return ifa_fail(message, IFA_IO, "%s: cannot be read", ifa_shorten(path).text);
  }
  fclose(file);
  if (strlen(*text) != (size_t)info.st_size)
    return ifa_fail(message, IFA_BAD_FILE, "%s: holds a NUL byte", ifa_shorten(path).text);
  return IFA_OK;
}

ifa_status ifa_case_list_add_suite(ifa_case_list *list, const char *name, const ifa_case *base,
                                   ifa_message *message) {
  const built_in *suite = find_built_in(name);
  if (suite) return add_text(list, suite->name, suite->text, base, 0, message);
  char *text = NULL;
  ifa_status status = read_text(name, &text, message);
  if (status == IFA_OK) status = ifa_case_list_add_text(list, name, text, base, message);
  free(text);
  return status;
}
