/* digest.c - digests of inputs and outputs (XXH3, 128 bits), over values in logical order and
 * little-endian bytes, so that neither the layout in memory nor the machine's byte order matters.
 */
#define XXH_INLINE_ALL
#include <xxhash.h>

#include <stdio.h>

#include "common/operand.h"
#include "common/problem.h"
#include "validate/judge/digest.h"

struct ifa_digest {
  XXH3_state_t *state; /* wants an alignment of its own: made by the library */
  uint8_t buffer[1024];
  size_t used;
};

ifa_digest *ifa_digest_new(void) {
  ifa_digest *d = calloc(1, sizeof *d);
  if (d && !(d->state = XXH3_createState())) {
    free(d);
    return NULL;
  }
  if (d) XXH3_128bits_reset(d->state);
  return d;
}

static void flush(ifa_digest *d) {
  XXH3_128bits_update(d->state, d->buffer, d->used);
  d->used = 0;
}

void ifa_digest_add(ifa_digest *d, uint32_t pattern, int bytes) {
  if (d->used + 4 > sizeof d->buffer) flush(d);
  for (int i = 0; i < bytes; i++) d->buffer[d->used++] = (uint8_t)(pattern >> (8 * i));
}

void ifa_digest_finish(ifa_digest *d, char hex[33]) {
  flush(d);
  XXH128_hash_t hash = XXH3_128bits_digest(d->state);
  snprintf(hex, 33, "%016llx%016llx", (unsigned long long)hash.high64,
           (unsigned long long)hash.low64);
  XXH3_freeState(d->state);
  free(d);
}
