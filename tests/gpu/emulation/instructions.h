/* instructions.h - the instructions of gpu/parts/instructions.cuh in plain C++ (IFA_GPU_EMULATION).
 * Fragments are as the PTX manual has them: lane = 4 g + t. */
#ifndef IFA_TESTS_GPU_EMULATION_INSTRUCTIONS_H
#define IFA_TESTS_GPU_EMULATION_INSTRUCTIONS_H

#include "common/exact.h"
#include "tests/gpu/emulation/memory.h"

namespace parts {

static inline int max3(int a, int b, int c) { return max(max(a, b), c); }
static inline int min3(int a, int b, int c) { return min(min(a, b), c); }
static inline constexpr uint32_t twice(uint32_t half) { return half << 16 | half; }

/* Matrix n: 8 rows of 16 bytes at the addresses that lanes 8n .. 8n + 7 bring; lane 4 g + t gets
 * bytes 4t .. 4t + 3 of row g of each. */
static inline void load_matrices(uint32_t (&r)[4], uint32_t address) {
  struct Out {
    uint32_t r[4];
  };
  Out out = emulation::meet<uint32_t, Out>("ldmatrix", address, [](const uint32_t *in, Out *out) {
    for (int lane = 0; lane < 32; lane++)
      for (int n = 0; n < 4; n++) {
        const uint32_t row = in[8 * n + (lane >> 2)];
        if (row % 16 != 0) emulation::fail("ldmatrix: a row is not aligned");
        memcpy(&out[lane].r[n], shared_bytes + row + (lane & 3) * 4, 4);
      }
  });
  memcpy(r, out.r, sizeof out.r);
}

template <class A>
static inline void multiply(const char *name, int (&c)[4], const uint32_t *a, uint32_t b0,
                            uint32_t b1) {
  struct In {
    uint32_t a[4], b[2];
    int c[4];
  };
  struct Out {
    int c[4];
  };
  In mine;
  memcpy(mine.a, a, sizeof mine.a), memcpy(mine.c, c, sizeof mine.c);
  mine.b[0] = b0, mine.b[1] = b1;
  const Out result = emulation::meet<In, Out>(name, mine, [](const In *in, Out *out) {
    A rows[16][32];
    int8_t columns[8][32];
    for (int lane = 0; lane < 32; lane++) {
      const int g = lane >> 2, t = lane & 3;
      for (int n = 0; n < 4; n++)
        memcpy(&rows[g + 8 * (n & 1)][16 * (n >> 1) + 4 * t], &in[lane].a[n], 4);
      for (int n = 0; n < 2; n++) memcpy(&columns[g][16 * n + 4 * t], &in[lane].b[n], 4);
    }
    for (int lane = 0; lane < 32; lane++)
      for (int n = 0; n < 4; n++) {
        const A *row = rows[(lane >> 2) + 8 * (n >> 1)];
        const int8_t *column = columns[(lane & 3) * 2 + (n & 1)];
        int sum = 0;
        for (int k = 0; k < 32; k++) sum += row[k] * column[k];
        out[lane].c[n] = (int)((uint32_t)in[lane].c[n] + (uint32_t)sum);
      }
  });
  memcpy(c, result.c, sizeof result.c);
}
static inline void mma_s8(int (&c)[4], const uint32_t *a, uint32_t b0, uint32_t b1) {
  multiply<int8_t>("mma s8", c, a, b0, b1);
}
static inline void mma_s8_first(int (&c)[4], const uint32_t *a, uint32_t b0, uint32_t b1,
                                int zero) {
  for (int n = 0; n < 4; n++) c[n] = zero;
  multiply<int8_t>("mma s8", c, a, b0, b1);
}
static inline void mma_u8(int (&c)[4], const uint32_t *a, uint32_t b0, uint32_t b1) {
  multiply<uint8_t>("mma u8", c, a, b0, b1);
}

static inline uint32_t pair(uint16_t low, uint16_t high) { return (uint32_t)high << 16 | low; }
static inline uint32_t fma_half2(uint32_t a, uint32_t b, uint32_t c) {
  return pair(ifa_fma16((uint16_t)a, (uint16_t)b, (uint16_t)c),
              ifa_fma16((uint16_t)(a >> 16), (uint16_t)(b >> 16), (uint16_t)(c >> 16)));
}
static inline uint32_t mul_half2(uint32_t a, uint32_t b) {
  return pair(ifa_mul16((uint16_t)a, (uint16_t)b),
              ifa_mul16((uint16_t)(a >> 16), (uint16_t)(b >> 16)));
}
static inline uint16_t max_half(uint16_t a, uint16_t b) {
  return ifa_f16_to_f32(a) > ifa_f16_to_f32(b) ? a : b;
}
static inline uint32_t max_half2(uint32_t a, uint32_t b) {
  return pair(max_half((uint16_t)a, (uint16_t)b),
              max_half((uint16_t)(a >> 16), (uint16_t)(b >> 16)));
}
static inline uint32_t pack_unsigned(int a, int b) {
  auto clamp = [](int x) { return (uint32_t)(x < 0 ? 0 : x > 65535 ? 65535 : x); };
  return clamp(a) | clamp(b) << 16;
}

} // namespace parts

#endif
