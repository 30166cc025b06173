/* memory.h - shared memory, barriers in it and copies to it, emulated. */
#ifndef IFA_TESTS_GPU_EMULATION_MEMORY_H
#define IFA_TESTS_GPU_EMULATION_MEMORY_H

#include "tests/gpu/emulation/emulation.h"

namespace parts {

extern "C" {
/* one of each, whatever this namespace is called: gpu/mutants/mutants.cu gives it another name */
/* the CTA's; shared addresses count from its start */
extern thread_local __align__(128) uint8_t shared_bytes[];
/* Copies of 16 and of 4 bytes come when they are waited for, not before; or, if the thread is to
 * arrive at a barrier after them, at some time. */
void copy16(uint32_t to, const void *from, bool real = true); /* not real: zeros */
void copy4(uint32_t to, const void *from, bool real);
void wait_for_copies();
void arrive_after_copies(uint32_t barrier);
/* comes at some time, and arrives */
void copy_bulk(uint32_t to, const void *from, uint32_t bytes, uint32_t barrier);
}

static inline uint32_t shared_address(const void *p) {
  return (uint32_t)((const uint8_t *)p - shared_bytes);
}

static inline float load_shared(uint32_t address) {
  float x;
  memcpy(&x, shared_bytes + address, sizeof x);
  return x;
}
static inline float2 load_shared2(uint32_t address) {
  if (address % 8 != 0) emulation::fail("ld.shared.v2: not aligned");
  float2 x;
  memcpy(&x, shared_bytes + address, sizeof x);
  return x;
}
static inline float4 load_shared4(uint32_t address) {
  if (address % 16 != 0) emulation::fail("ld.shared.v4: not aligned");
  float4 x;
  memcpy(&x, shared_bytes + address, sizeof x);
  return x;
}

/* mbarriers: a phase is over when so many have arrived. */
struct Barrier {
  uint32_t phases;
  uint16_t arrivals, missing;
};
static inline Barrier &barrier_at(uint32_t barrier) { return *(Barrier *)(shared_bytes + barrier); }
static inline void barrier_init(uint32_t barrier, uint32_t arrivals) {
  barrier_at(barrier) = {0, (uint16_t)arrivals, (uint16_t)arrivals};
}
static inline void barrier_fence() {}
static inline void barrier_arrive(uint32_t barrier) {
  Barrier &b = barrier_at(barrier);
  if (--b.missing == 0) b.phases++, b.missing = b.arrivals;
}
static inline bool barrier_poll(uint32_t barrier, uint32_t parity) {
  return (barrier_at(barrier).phases & 1) != parity;
}
static inline void barrier_wait(uint32_t barrier, uint32_t parity) {
  while (!barrier_poll(barrier, parity)) emulation::yield();
}

#ifdef IFA_GPU_EMULATION_BULK
#define IFA_GPU_BULK 1
#endif

} // namespace parts

namespace sm80 {
extern "C" {
extern thread_local __align__(128) uint8_t shared_bytes[]; /* the same: a kernel declares it */
}
/* (so that what gcc calls to get at it is there for templates) */
static inline uint8_t *dynamic_shared_memory() { return shared_bytes; }
} // namespace sm80

#endif
