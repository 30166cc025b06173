/* transpose.cuh - 4 by 4 bytes: V goes from rows of channels to rows of keys. */
#ifndef IFA_GPU_TRANSPOSE_CUH
#define IFA_GPU_TRANSPOSE_CUH

#include <stdint.h>

/* word[j] has byte j of each row. */
__device__ __forceinline__ void transpose_bytes(const uint32_t (&row)[4], uint32_t (&word)[4]) {
  const uint32_t low01 = __byte_perm(row[0], row[1], 0x5140),
                 low23 = __byte_perm(row[2], row[3], 0x5140),
                 high01 = __byte_perm(row[0], row[1], 0x7362),
                 high23 = __byte_perm(row[2], row[3], 0x7362);
  word[0] = __byte_perm(low01, low23, 0x5410), word[1] = __byte_perm(low01, low23, 0x7632);
  word[2] = __byte_perm(high01, high23, 0x5410), word[3] = __byte_perm(high01, high23, 0x7632);
}

#endif
