#include "validate/text/number.h"

#include <stdlib.h>
#include <string.h>

static const char digits[] = "0123456789";

int ifa_read_integer(const char *text, uint64_t least, uint64_t most, uint64_t *value) {
  uint64_t read = 0;
  if (*text == '\0' || text[strspn(text, digits)] != '\0') return 0;
  for (; *text; text++) {
    uint64_t digit = (uint64_t)(*text - '0');
    if (read > (UINT64_MAX - digit) / 10) return 0;
    read = read * 10 + digit;
  }
  if (read < least || read > most) return 0;
  *value = read;
  return 1;
}

int ifa_read_int(const char *text, int least, int most, int *value) {
  uint64_t read;
  if (!ifa_read_integer(text, (uint64_t)least, (uint64_t)most, &read)) return 0;
  *value = (int)read;
  return 1;
}

/* digits [. [digits]] [(e|E) [+|-] digits] */
static int is_decimal(const char *text) {
  size_t whole = strspn(text, digits);
  if (whole == 0) return 0;
  text += whole;
  if (*text == '.') text += 1 + strspn(text + 1, digits);
  if (*text == 'e' || *text == 'E') {
    text += text[1] == '+' || text[1] == '-' ? 2 : 1;
    if (strspn(text, digits) == 0) return 0;
    text += strspn(text, digits);
  }
  return *text == '\0';
}

int ifa_read_decimal(const char *text, double least, double most, double *value) {
  if (!is_decimal(text)) return 0;
  double read = strtod(text, NULL); /* too large: infinity, and out of the range */
  if (!(read >= least && read <= most)) return 0;
  *value = read;
  return 1;
}
