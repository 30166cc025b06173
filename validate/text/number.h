/* number.h - numbers on command lines and in cases, read strictly: the whole text is the number,
 * and one that does not fit is none. */
#ifndef IFA_VALIDATE_NUMBER_H
#define IFA_VALIDATE_NUMBER_H

#include <stdint.h>

/* Decimal digits and nothing else (no sign, blank, exponent), least <= *value <= most. 1 or 0;
 * *value is written only with 1. */
int ifa_read_integer(const char *text, uint64_t least, uint64_t most, uint64_t *value);

/* The same of an int. */
int ifa_read_int(const char *text, int least, int most, int *value);

/* Digits, perhaps with a point between or after them, perhaps with an exponent: 5, 0.25, 1e-3; no
 * sign, no blank, no hexadecimal, inf or nan. least <= *value <= most. */
int ifa_read_decimal(const char *text, double least, double most, double *value);

#endif
