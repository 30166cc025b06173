/* unfold.h - a tile of 4 bits as a tile of bytes, by vectors of the width that the including file
 * is compiled for: for blocks whose rows would otherwise take nibbles apart again and again. */
#ifndef IFA_CPU_UNFOLD_H
#define IFA_CPU_UNFOLD_H

#include <string.h>

#include "cpu/kernels/tile.h"

#if defined(__AVX512BW__)
enum { IFA_UNFOLD_BYTES = 64 };
#elif defined(__AVX2__)
enum { IFA_UNFOLD_BYTES = 32 };
#else
enum { IFA_UNFOLD_BYTES = 16 };
#endif
typedef uint8_t ifa_unfold_bytes __attribute__((vector_size(IFA_UNFOLD_BYTES)));
typedef uint16_t ifa_unfold_words __attribute__((vector_size(IFA_UNFOLD_BYTES)));

/* 0..15 as -8..7: the sign is taken off and put back. */
static inline ifa_unfold_bytes ifa_cpu_signed_nibbles(ifa_unfold_bytes x) { return (x ^ 8) - 8; }

/* `pairs` rows of `bytes` bytes (a multiple of 64), two of the tile's rows in each, to 2 * pairs
 * rows. */
static inline void ifa_cpu_unfold_rows(const uint8_t *from, int32_t pairs, int32_t bytes,
                                       uint8_t *to) {
  for (int32_t i = 0; i < pairs; i++, from += bytes, to += 2 * bytes)
    for (int32_t j = 0; j < bytes; j += IFA_UNFOLD_BYTES) {
      ifa_unfold_bytes x, low, high;
      memcpy(&x, from + j, sizeof x);
      low = ifa_cpu_signed_nibbles(x & 15);
      high = ifa_cpu_signed_nibbles((ifa_unfold_bytes)((ifa_unfold_words)x >> 4) & 15);
      memcpy(to + j, &low, sizeof low);
      memcpy(to + bytes + j, &high, sizeof high);
    }
}

/* y: the tile's layout; wide: the same with 8 bits. What is not 4 bits is copied. */
static inline void ifa_cpu_unfold_tile(const ifa_cpu_layout *y, const uint8_t *tile,
                                       const ifa_cpu_layout *wide, uint8_t *to) {
  if (y->k_bits == 4) ifa_cpu_unfold_rows(tile, y->keys / 16 * (y->dim / 8), 64, to);
  else memcpy(to, tile, (size_t)y->at_v);
  if (y->v_bits == 4) ifa_cpu_unfold_rows(tile + y->at_v, y->keys / 8, 4 * y->dim, to + wide->at_v);
  else memcpy(to + wide->at_v, tile + y->at_v, (size_t)(y->at_k_scale - y->at_v));
  memcpy(to + wide->at_k_scale, tile + y->at_k_scale, (size_t)(y->bytes - y->at_k_scale));
}

#endif
