/* instructions_sm90.h - the instructions of gpu/sm90/instructions.cuh in plain C++
 * (IFA_GPU_EMULATION). */
#ifndef IFA_TESTS_GPU_EMULATION_INSTRUCTIONS_SM90_H
#define IFA_TESTS_GPU_EMULATION_INSTRUCTIONS_SM90_H

#include "tests/gpu/emulation/memory.h"
#include "tests/gpu/emulation/products.h"

namespace sm90 {

extern "C" {
extern thread_local __align__(128) uint8_t shared_bytes[]; /* as in memory.h */
}
/* (so that what gcc calls to get at it is there for templates) */
static inline uint8_t *dynamic_shared_memory() { return shared_bytes; }

/* ---- products ---- */

static inline uint32_t operand_low(uint32_t address) { return address >> 4 | 1u << 16; }
template <int PITCH> static inline uint64_t operand(uint32_t low) {
  static_assert(PITCH == 128 || PITCH == 64, "a row is as long as the swizzle");
  constexpr uint32_t high = PITCH == 128 ? 1024 >> 4 | 1u << 30 : 512 >> 4 | 2u << 30;
  return (uint64_t)high << 32 | low;
}
template <int TILES> static inline void wgmma_s8_first(int (&c)[TILES][4], uint64_t a, uint64_t b) {
  emulation::product({8 * TILES, true, false, false, a, b}, &c[0][0], nullptr);
}
template <int TILES> static inline void wgmma_s8(int (&c)[TILES][4], uint64_t a, uint64_t b) {
  emulation::product({8 * TILES, false, false, false, a, b}, &c[0][0], nullptr);
}
template <int TILES>
static inline void wgmma_u8(int (&c)[TILES][4], const uint32_t (&a)[4], uint64_t b) {
  emulation::product({8 * TILES, false, true, true, 0, b}, &c[0][0], a);
}
static inline void wgmma_fence() { emulation::fence_products(); }
static inline void wgmma_commit() { emulation::commit_products(); }
template <int N> static inline void wgmma_wait() { emulation::wait_for_products(N); }
template <class T> static inline void pin(T &) {}
static inline uint32_t opaque(uint32_t x) { return x; }

template <int N> static inline void fewer_registers() {}
template <int N> static inline void more_registers() {}

/* ---- memory ---- */

static inline void fence_async() {}
static inline uint32_t barrier_try(uint32_t barrier, uint32_t parity) {
  return emulation::yield(), parts::barrier_poll(barrier, parity);
}
static inline void barrier_wait_unless(uint32_t come, uint32_t barrier, uint32_t parity) {
  if (!come) parts::barrier_wait(barrier, parity);
}
static inline void barrier_wait_asleep(uint32_t barrier, uint32_t parity) {
  parts::barrier_wait(barrier, parity);
}

/* ---- pairs of 16-bit integers ---- */

static inline uint32_t max_u16x2(uint32_t a, uint32_t b) {
  return max(a >> 16, b >> 16) << 16 | max(a & 0xffffu, b & 0xffffu);
}
static inline uint32_t min_u16x2(uint32_t a, uint32_t b) {
  return min(a >> 16, b >> 16) << 16 | min(a & 0xffffu, b & 0xffffu);
}
static inline uint32_t add_relu_s16x2(uint32_t a, uint32_t b) {
  const int low = (int16_t)((a & 0xffffu) + (b & 0xffffu)), high = (int16_t)((a >> 16) + (b >> 16));
  return (uint32_t)max(high, 0) << 16 | (uint32_t)max(low, 0);
}
static inline uint32_t max3_u16x2(uint32_t a, uint32_t b, uint32_t c) {
  return max_u16x2(max_u16x2(a, b), c);
}

} // namespace sm90

#endif
