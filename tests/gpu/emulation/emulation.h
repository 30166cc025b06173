/* emulation.h - gpu/ compiled as C++ for the CPU: what its kernels use of CUDA, and a runtime that
 * runs them, so that every bit that they give, and their stages, can be compared with the oracle's
 * where there is no GPU. Slow: some 30 small cases a second.
 *
 * The threads of a CTA are coroutines that switch where a warp or a CTA meets: shuffles, votes,
 * products, barriers. Now and then a warp sleeps for a while, so that they drift apart as on a
 * card. Copies come late. What is not emulated: speed, memory order, warps that diverge. */
#ifndef IFA_TESTS_GPU_EMULATION_H
#define IFA_TESTS_GPU_EMULATION_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <type_traits>

#include "common/half.h"

/* ---- the language ---- */

#define __global__
#define __device__
#define __host__
#define __constant__
#define __shared__ thread_local /* one copy, at whatever scope it is declared */
#define __grid_constant__
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct int4 {
  int x, y, z, w;
} __attribute__((aligned(16)));
struct float2 {
  float x, y;
} __attribute__((aligned(8)));
struct float4 {
  float x, y, z, w;
} __attribute__((aligned(16)));
struct int2 {
  int x, y;
} __attribute__((aligned(8)));
struct uint2 {
  unsigned x, y;
} __attribute__((aligned(8)));
struct uint4 {
  unsigned x, y, z, w;
} __attribute__((aligned(16)));
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) {
  return {x, y, z, w};
}
static inline int2 make_int2(int x, int y) { return {x, y}; }
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
static inline float2 make_float2(float x, float y) { return {x, y}; }

/* ---- threads ---- */

namespace emulation {

extern thread_local dim3 thread, block, grid;
extern long long rounds; /* of the threads of a CTA */

enum { SHARED_BYTES = 232448 }; /* of a CTA, at most */

[[noreturn]] void fail(const char *what);

void yield();    /* lets other threads of the CTA run */
uint64_t draw(); /* a random number */

/* What a warp does as one: each lane brings `in`; the last to come computes all 32 `out`. All must
 * be at the same operation. */
struct Meeting {
  alignas(16) uint8_t in[32][64], out[32][64];
  const char *operation;
  int arrived;
  uint64_t generation;
};
Meeting &warp_meeting();
void met(); /* the meeting is over */

template <class In, class Out, class Compute>
static inline Out meet(const char *operation, const In &in, Compute compute) {
  static_assert(sizeof(In) <= 64 && sizeof(Out) <= 64, "");
  Meeting &m = warp_meeting();
  const int lane = (int)thread.x & 31;
  if (m.arrived == 0) m.operation = operation;
  if (strcmp(m.operation, operation) != 0) fail("lanes of a warp are at different operations");
  memcpy(m.in[lane], &in, sizeof in);
  const uint64_t generation = m.generation;
  if (++m.arrived == 32) {
    In all[32];
    Out result[32];
    for (int i = 0; i < 32; i++) memcpy(&all[i], m.in[i], sizeof(In));
    compute(all, result);
    for (int i = 0; i < 32; i++) memcpy(m.out[i], &result[i], sizeof(Out));
    m.arrived = 0;
    m.generation++;
    met();
  }
  while (m.generation == generation) yield();
  Out out;
  memcpy(&out, m.out[lane], sizeof out);
  return out;
}

void wait_for_cta();
void wait_for_some(int barrier, int threads); /* bar.sync */
void run(void (*kernel)(void *), void *argument, dim3 grid, dim3 cta, size_t shared_bytes);

} // namespace emulation

#define threadIdx (emulation::thread)
#define blockIdx (emulation::block)
#define gridDim (emulation::grid)

/* Ten a round: a thread that asks lets the others run. */
static inline long long clock64() { return emulation::yield(), 10 * emulation::rounds; }
static inline void __syncthreads() { emulation::wait_for_cta(); }
static inline void __syncwarp() {
  emulation::meet<int, int>("syncwarp", 0,
                            [](const int *, int *out) { std::fill(out, out + 32, 0); });
}
template <class T> static inline T __shfl_xor_sync(unsigned, T x, int mask) {
  struct In {
    T x;
    int mask;
  };
  return emulation::meet<In, T>("shfl_xor", In{x, mask}, [](const In *in, T *out) {
    for (int i = 0; i < 32; i++) out[i] = in[i ^ in[i].mask].x;
  });
}
template <class T> static inline T __shfl_sync(unsigned, T x, int from) {
  struct In {
    T x;
    int from;
  };
  return emulation::meet<In, T>("shfl", In{x, from}, [](const In *in, T *out) {
    for (int i = 0; i < 32; i++) out[i] = in[in[i].from & 31].x;
  });
}
static inline unsigned __ballot_sync(unsigned, int predicate) {
  return emulation::meet<int, unsigned>("ballot", predicate != 0, [](const int *in, unsigned *out) {
    unsigned all = 0;
    for (int i = 0; i < 32; i++) all |= (unsigned)in[i] << i;
    std::fill(out, out + 32, all);
  });
}
static inline int __reduce_max_sync(unsigned, int x) {
  return emulation::meet<int, int>("reduce max", x, [](const int *in, int *out) {
    std::fill(out, out + 32, *std::max_element(in, in + 32));
  });
}
static inline unsigned __reduce_or_sync(unsigned, unsigned x) {
  return emulation::meet<unsigned, unsigned>("reduce or", x, [](const unsigned *in, unsigned *out) {
    unsigned all = 0;
    for (int i = 0; i < 32; i++) all |= in[i];
    std::fill(out, out + 32, all);
  });
}
static inline int __any_sync(unsigned mask, int predicate) {
  return __ballot_sync(mask, predicate) != 0;
}
static inline int __all_sync(unsigned mask, int predicate) {
  return __ballot_sync(mask, predicate) == ~0u;
}

/* ---- arithmetic: one operation each (this is compiled without contraction) ---- */

static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline float __frcp_rn(float a) { return 1.0f / a; }
static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
static inline float __int2float_rn(int x) { return (float)x; }
static inline int __float_as_int(float x) { return (int)ifa_bits_of_f32(x); }
static inline unsigned __float_as_uint(float x) { return ifa_bits_of_f32(x); }
static inline float __int_as_float(int x) { return ifa_f32_of_bits((uint32_t)x); }
static inline float __uint_as_float(unsigned x) { return ifa_f32_of_bits(x); }
static inline int __float2int_rz(float x) {
  return x != x ? 0 : x >= 0x1p31f ? INT32_MAX : x < -0x1p31f ? INT32_MIN : (int)x;
}
static inline int __float2int_rd(float x) { return __float2int_rz(floorf(x)); }
static inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz((unsigned)x); }
static inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
  const uint64_t bytes = (uint64_t)b << 32 | a;
  unsigned r = 0;
  for (int i = 0; i < 4; i++) r |= (unsigned)(bytes >> (selector >> 4 * i & 7) * 8 & 255) << 8 * i;
  return r;
}
static inline unsigned __dp4a(unsigned a, unsigned b, unsigned c) {
  for (int i = 0; i < 4; i++) c += (a >> 8 * i & 255) * (b >> 8 * i & 255);
  return c;
}
static inline int __dp4a(int a, int b, int c) {
  for (int i = 0; i < 4; i++) c += (int8_t)(a >> 8 * i) * (int8_t)(b >> 8 * i);
  return c;
}
template <class A, class B> static inline typename std::common_type<A, B>::type min(A a, B b) {
  typename std::common_type<A, B>::type x = a, y = b;
  return x < y ? x : y;
}
template <class A, class B> static inline typename std::common_type<A, B>::type max(A a, B b) {
  typename std::common_type<A, B>::type x = a, y = b;
  return x > y ? x : y;
}
static inline unsigned atomicMax(unsigned *at, unsigned x) {
  const unsigned before = *at;
  *at = max(before, x);
  return before;
}

#endif
