/* digest.h - a digest of a sequence of bit patterns, independent of the machine's byte order. */
#ifndef IFA_VALIDATE_DIGEST_H
#define IFA_VALIDATE_DIGEST_H

#include <stdint.h>
#include <stdlib.h>

typedef struct ifa_digest ifa_digest;

/* NULL if memory ran out. */
ifa_digest *ifa_digest_new(void);

/* Adds the low `bytes` bytes (1, 2 or 4) of pattern, lowest first. */
void ifa_digest_add(ifa_digest *digest, uint32_t pattern, int bytes);

/* 128 bits as 32 hexadecimal digits; frees the digest. */
void ifa_digest_finish(ifa_digest *digest, char hex[33]);

#endif
