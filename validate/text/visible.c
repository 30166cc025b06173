#define _GNU_SOURCE /* vasprintf */
#include "validate/text/visible.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* ---- characters ---- */

/* How many bytes a first byte announces; 0: it is none. */
static size_t announced(unsigned char first) {
  return first < 0x80   ? 1
         : first < 0xc2 ? 0
         : first < 0xe0 ? 2
         : first < 0xf0 ? 3
         : first < 0xf5 ? 4
                        : 0;
}

/* Bytes of `text` that may begin such a character: all of it, or less where it is cut or wrong. */
static size_t matching(const char *text, size_t length) {
  const unsigned char *b = (const unsigned char *)text;
  for (size_t i = 1; i < length; i++) {
    /* no overlong forms (e0, f0), surrogates (ed), numbers above 10ffff (f4) */
    unsigned char low = i > 1          ? 0x80
                        : b[0] == 0xe0 ? 0xa0
                        : b[0] == 0xf0 ? 0x90
                                       : 0x80,
                  high = i > 1          ? 0xbf
                         : b[0] == 0xed ? 0x9f
                         : b[0] == 0xf4 ? 0x8f
                                        : 0xbf;
    if (b[i] < low || b[i] > high) return i;
  }
  return length;
}

size_t ifa_utf8_length(const char *text) {
  size_t length = announced((unsigned char)*text);
  return length > 0 && matching(text, length) == length ? length : 0;
}

int ifa_is_utf8(const char *text) {
  for (size_t length; *text; text += length)
    if ((length = ifa_utf8_length(text)) == 0) return 0;
  return 1;
}

size_t ifa_utf8_cut(const char *text, size_t most) {
  size_t used = 0, length;
  while (text[used] && used < most) {
    length = ifa_utf8_length(text + used);
    if (used + (length ? length : 1) > most) break;
    used += length ? length : 1;
  }
  return used;
}

static uint32_t code_point(const char *text, size_t length) {
  const unsigned char *b = (const unsigned char *)text;
  uint32_t code = length == 1 ? b[0] : b[0] & (0x7fu >> length);
  for (size_t i = 1; i < length; i++) code = code << 6 | (b[i] & 0x3f);
  return code;
}

static int is_hidden(uint32_t c) {
  return c < 0x20 || (c >= 0x7f && c <= 0x9f) || (c >= 0x200b && c <= 0x200f) ||
         (c >= 0x2028 && c <= 0x202e) || (c >= 0x2060 && c <= 0x2069) || c == 0xfeff ||
         (c & 0xfffe) == 0xfffe;
}

static void print_hidden(FILE *to, uint32_t c) {
  if (c == '\n') fputs("\\n", to);
  else if (c == '\r') fputs("\\r", to);
  else if (c == '\t') fputs("\\t", to);
  else fprintf(to, c < 0x80 ? "\\x%02x" : "\\u%04x", (unsigned)c);
}

void ifa_print_visible(FILE *to, const char *text) {
  while (*text) {
    size_t length = ifa_utf8_length(text), begun = announced((unsigned char)*text);
    if (length > 0) {
      uint32_t code = code_point(text, length);
      if (is_hidden(code)) print_hidden(to, code);
      else fwrite(text, 1, length, to);
      text += length;
      continue;
    }
    if (begun > 0 && text[matching(text, begun)] == '\0') {
      fputs("...", to); /* the end came within a character */
      return;
    }
    fprintf(to, "\\x%02x", (unsigned char)*text++);
  }
}

char *ifa_visible(const char *text) {
  char *made = NULL;
  size_t length;
  FILE *to = open_memstream(&made, &length);
  if (!to) return NULL;
  ifa_print_visible(to, text);
  int failed = ferror(to);
  if (fclose(to) == 0 && !failed) return made;
  free(made);
  return NULL;
}

ifa_short ifa_shorten(const char *text) {
  enum { HEAD = 40, TAIL = 80 };
  ifa_short made;
  size_t length = strlen(text), head = length, tail = length;
  if (length > HEAD + TAIL) {
    head = ifa_utf8_cut(text, HEAD);
    for (tail = length - TAIL; ((unsigned char)text[tail] & 0xc0) == 0x80 && text[tail]; tail++) {}
  }
  snprintf(made.text, sizeof made.text, "%.*s%s%s", (int)head, text, tail < length ? "..." : "",
           text + tail);
  return made;
}

void ifa_print_visible_line(FILE *to, const char *format, ...) {
  char *text = NULL;
  va_list args;
  va_start(args, format);
  int length = vasprintf(&text, format, args);
  va_end(args);
  if (length >= 0) ifa_print_visible(to, text);
  fputc('\n', to);
  if (length >= 0) free(text);
}

/* ---- words of a shell ---- */

static int is_plain_word(const char *text) {
  static const char plain[] =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./:=,+@%";
  return *text != '\0' && text[strspn(text, plain)] == '\0';
}

/* Can all of it be seen as it is? */
static int is_visible(const char *text) {
  for (size_t length; *text; text += length)
    if ((length = ifa_utf8_length(text)) == 0 || is_hidden(code_point(text, length))) return 0;
  return 1;
}

/* $(...) takes the last newlines away: a text that ends with one is a command or a path that nobody
 * has. */
static void print_word(FILE *to, const char *text) {
  if (is_plain_word(text)) {
    fputs(text, to);
  } else if (is_visible(text)) {
    fputc('\'', to);
    for (; *text; text++) fputs(*text == '\'' ? "'\\''" : (char[]){*text, '\0'}, to);
    fputc('\'', to);
  } else {
    fputs("\"$(printf '", to);
    for (; *text; text++) {
      unsigned char c = (unsigned char)*text;
      if (c == '%') fputs("%%", to);
      else if (c < ' ' || c > '~' || c == '\'' || c == '\\') fprintf(to, "\\%03o", c);
      else fputc(c, to);
    }
    fputs("')\"", to);
  }
}

char *ifa_shell_word(const char *text) {
  char *made = NULL;
  size_t length;
  FILE *to = open_memstream(&made, &length);
  if (!to) return NULL;
  print_word(to, text);
  int failed = ferror(to);
  if (fclose(to) == 0 && !failed) return made;
  free(made);
  return NULL;
}
