/* visible.h - text from outside (a plug-in's message, a path, a command) made fit for reports and
 * terminals. */
#ifndef IFA_VALIDATE_VISIBLE_H
#define IFA_VALIDATE_VISIBLE_H

#include <stddef.h>
#include <stdio.h>

/* Bytes of the UTF-8 character that `text` begins with: 1 .. 4; 0 if there is none (a byte that is
 * no beginning, a character that is cut, an overlong form, a surrogate, a number above 10ffff). */
size_t ifa_utf8_length(const char *text);

/* Is all of it UTF-8? */
int ifa_is_utf8(const char *text);

/* Bytes of the longest beginning of the text, at most `most`, that cuts no character. */
size_t ifa_utf8_cut(const char *text, size_t most);

/* The text as valid UTF-8 in which everything can be seen, to be freed; NULL: no memory.
 *
 *     a control character        \n \r \t, else \x1b; of more than one byte \u0085
 *     what reorders or hides     \u202e (also U+200b .. 200f, 2028, 2029, 2060 .. 2069, feff)
 *     what is no character       \xe4 for each byte
 *     a character cut short by the text's end    ...
 *
 * The rest stays as it is, a backslash too. What comes out is not changed by a second time. */
char *ifa_visible(const char *text);
void ifa_print_visible(FILE *to, const char *text);

/* Prints to the standard error, or to a file, what printf would, made visible. */
void ifa_print_visible_line(FILE *to, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* A path or the like within a message: if it is long, with "..." in its middle. */
typedef struct ifa_short {
  char text[128];
} ifa_short;
ifa_short ifa_shorten(const char *text);

/* One word for a POSIX shell that means these bytes: as it is, in single quotes, or, where it has
 * bytes that cannot be shown, "$(printf '...')". Visible, to be freed; NULL: no memory. */
char *ifa_shell_word(const char *text);

#endif
