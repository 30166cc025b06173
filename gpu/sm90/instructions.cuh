/* instructions.cuh - the instructions of compute capability 9.0 ("sm_90a") that the kernel sm90 is
 * made of, one function each. What it shares with the kernel sm80 (mbarriers, bulk copies, loads
 * from shared memory, pairs of binary16) is in gpu/parts/instructions.cuh.
 *
 * A warpgroup is 4 warps, the first of them a multiple of 4 in its CTA. A `wgmma` is one operation
 * of a warpgroup: its four warps come to the same one, each when it likes, all 32 lanes of a warp
 * together; warp w has rows 16 w .. 16 w + 15 of the 64. Within its 16 rows, lane 4 g + t of a warp
 * has
 *
 *     a sum c (64 x N)                  c[j][i]: row g + 8 (i >> 1), column 8 j + 2 t + (i & 1)
 *     A from registers (64 x 32 bytes)  a[x], byte i: row g + 8 (x & 1), byte 16 (x >> 1) + 4 t + i
 *
 * It runs in the background: its registers (sums, and A) and its shared memory belong to it from
 * the call until a wgmma_wait that covers its group. */
#ifndef IFA_GPU_SM90_INSTRUCTIONS_CUH
#define IFA_GPU_SM90_INSTRUCTIONS_CUH

#include <stdint.h>

#ifdef IFA_GPU_EMULATION /* plain C++ in their place */
#include "tests/gpu/emulation/instructions_sm90.h"
#else

namespace sm90 {

/* ---- operands in shared memory ----
 *
 * What describes one: K-major ("row r of the operand is row r of A, or column r of B, with its
 * bytes along k"), rows of 128 or 64 bytes, eight rows after the other, the chunks of 16 bytes of a
 * row in the order of the swizzle. In 64 bits: address / 16 (14 bits), 1 at bit 16 (not used with a
 * swizzle), bytes between groups of 8 rows / 16 from bit 32 on, the swizzle from bit 62 on: 1 is of
 * 128 bytes, 2 of
 * 64. Byte b of row r, counted from an address of a multiple of 1024 (rows of 128 bytes) or 512,
 * lies at
 *
 *     rows of 128:  128 r + (b ^ 16 (r & 7))            rows of 64:  64 r + (b ^ 16 (r >> 1 & 3))
 *
 * (hardware exchanges bits of the address: bits 4 .. 6 ^= bits 7 .. 9, or bits 4 .. 5 ^= bits 7 ..
 * 8). An instruction takes 32 bytes of each row: the next 32 are 2 further in `low`. */

/* The part that depends on the address (of a multiple of 16): 2 more is 32 bytes further. */
static __device__ __forceinline__ uint32_t operand_low(uint32_t address) {
  return address >> 4 | 1u << 16;
}
/* All of it. PITCH: bytes of a row, 128 or 64. */
template <int PITCH> static __device__ __forceinline__ uint64_t operand(uint32_t low) {
  static_assert(PITCH == 128 || PITCH == 64, "a row is as long as the swizzle");
  constexpr uint32_t high = PITCH == 128 ? 1024 >> 4 | 1u << 30 : 512 >> 4 | 2u << 30;
  return (uint64_t)high << 32 | low;
}

/* ---- products ----
 *
 * N is the number of rows of B (columns of c): 64 or 128; k is 32 bytes. All three are
 * asynchronous.
 *
 *     wgmma_s8_first(c, a, b)   c  = A B    A: 64 rows of int8 in shared memory, described by a
 *     wgmma_s8(c, a, b)         c += A B    likewise
 *     wgmma_u8(c, a, b)         c += A B    A: uint8 in registers a[0 .. 3]
 *
 * B is N rows of int8 in shared memory, described by b. */
#define IFA_WRITTEN(x) "=r"(x)
#define IFA_CHANGED(x) "+r"(x)
#define IFA_REGISTERS_8(mode, c, j)                                              \
  mode(c[j][0]), mode(c[j][1]), mode(c[j][2]), mode(c[j][3]), mode(c[j + 1][0]), \
      mode(c[j + 1][1]), mode(c[j + 1][2]), mode(c[j + 1][3])
#define IFA_REGISTERS_64(mode, c)                                                        \
  IFA_REGISTERS_8(mode, c, 0), IFA_REGISTERS_8(mode, c, 2), IFA_REGISTERS_8(mode, c, 4), \
      IFA_REGISTERS_8(mode, c, 6)
#define IFA_REGISTERS_128(mode, c)                                                      \
  IFA_REGISTERS_64(mode, c), IFA_REGISTERS_8(mode, c, 8), IFA_REGISTERS_8(mode, c, 10), \
      IFA_REGISTERS_8(mode, c, 12), IFA_REGISTERS_8(mode, c, 14)

// clang-format off
static __device__ __forceinline__ void wgmma_s8_first(int (&c)[8][4], uint64_t a, uint64_t b) {
  asm volatile(
      "{\n.reg .pred more;\nsetp.ne.b32 more, 0, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k32.s32.s8.s8 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15,"
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
      "%32, %33, more;\n}"
      : IFA_REGISTERS_64(IFA_WRITTEN, c)
      : "l"(a), "l"(b));
}
static __device__ __forceinline__ void wgmma_s8(int (&c)[8][4], uint64_t a, uint64_t b) {
  asm volatile(
      "{\n.reg .pred more;\nsetp.ne.b32 more, 1, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k32.s32.s8.s8 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15,"
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
      "%32, %33, more;\n}"
      : IFA_REGISTERS_64(IFA_CHANGED, c)
      : "l"(a), "l"(b));
}
static __device__ __forceinline__ void wgmma_u8(int (&c)[8][4], const uint32_t (&a)[4], uint64_t b) {
  asm volatile(
      "{\n.reg .pred more;\nsetp.ne.b32 more, 1, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k32.s32.u8.s8 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15,"
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
      "{%32, %33, %34, %35}, %36, more;\n}"
      : IFA_REGISTERS_64(IFA_CHANGED, c)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
static __device__ __forceinline__ void wgmma_s8_first(int (&c)[16][4], uint64_t a, uint64_t b) {
  asm volatile(
      "{\n.reg .pred more;\nsetp.ne.b32 more, 0, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k32.s32.s8.s8 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15,"
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31,"
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47,"
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
      "%64, %65, more;\n}"
      : IFA_REGISTERS_128(IFA_WRITTEN, c)
      : "l"(a), "l"(b));
}
static __device__ __forceinline__ void wgmma_s8(int (&c)[16][4], uint64_t a, uint64_t b) {
  asm volatile(
      "{\n.reg .pred more;\nsetp.ne.b32 more, 1, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k32.s32.s8.s8 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15,"
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31,"
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47,"
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
      "%64, %65, more;\n}"
      : IFA_REGISTERS_128(IFA_CHANGED, c)
      : "l"(a), "l"(b));
}
static __device__ __forceinline__ void wgmma_u8(int (&c)[16][4], const uint32_t (&a)[4], uint64_t b) {
  asm volatile(
      "{\n.reg .pred more;\nsetp.ne.b32 more, 1, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k32.s32.u8.s8 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15,"
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31,"
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47,"
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
      "{%64, %65, %66, %67}, %68, more;\n}"
      : IFA_REGISTERS_128(IFA_CHANGED, c)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
// clang-format on

#undef IFA_WRITTEN
#undef IFA_CHANGED
#undef IFA_REGISTERS_8
#undef IFA_REGISTERS_64
#undef IFA_REGISTERS_128

/* Before the first product after registers of c or a were written by other instructions (all warps
 * of the warpgroup). */
static __device__ __forceinline__ void wgmma_fence() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
/* The products since the last one are a group, possibly an empty one. */
static __device__ __forceinline__ void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
/* Until at most N of this warp's groups, the latest, are under way. */
template <int N> static __device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}

/* No instruction: the compiler must not carry uses of these registers across. After each wgmma_wait
 * for what it gave or took. */
static __device__ __forceinline__ void pin(int &x) { asm volatile("" : "+r"(x)::"memory"); }
static __device__ __forceinline__ void pin(uint32_t &x) { asm volatile("" : "+r"(x)::"memory"); }
template <class T, int N> static __device__ __forceinline__ void pin(T (&x)[N]) {
#pragma unroll
  for (int i = 0; i < N; i++) pin(x[i]);
}
/* The same value, of which the compiler knows nothing more, so that it keeps it in a register. */
static __device__ __forceinline__ uint32_t opaque(uint32_t x) {
  asm volatile("" : "+r"(x));
  return x;
}

/* ---- a warpgroup's registers ---- */

/* N registers a thread from here on, fewer or more than before; more: waits until others have given
 * some back. All warps of the warpgroup. */
template <int N> static __device__ __forceinline__ void fewer_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
}
template <int N> static __device__ __forceinline__ void more_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
}

/* ---- memory ---- */

/* What this thread wrote to shared memory by ordinary stores or cp.async (after waiting for it) is
 * there for products and bulk copies that come after; also what it read there before is read. */
static __device__ __forceinline__ void fence_async() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/* Is the phase of this parity over? It may suspend the thread for a while before it says no. */
static __device__ __forceinline__ uint32_t barrier_try(uint32_t barrier, uint32_t parity) {
  uint32_t done;
  asm volatile("{\n.reg .pred done;\nmbarrier.try_wait.parity.shared::cta.b64 done, [%1], "
               "%2;\nselp.u32 %0, 1, 0, done;\n}"
               : "=r"(done)
               : "r"(barrier), "r"(parity)
               : "memory");
  return done;
}
/* Until it is, unless `come` (not 0) says that it was. */
static __device__ __forceinline__ void barrier_wait_unless(uint32_t come, uint32_t barrier,
                                                           uint32_t parity) {
  asm volatile("{\n.reg .pred done;\nsetp.ne.u32 done, %2, 0;\n@done bra "
               "COME;\nAGAIN:\nmbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n@!done "
               "bra AGAIN;\nCOME:\n}" ::"r"(barrier),
               "r"(parity), "r"(come)
               : "memory");
}
/* Seldom asked: a warp that spins takes issue slots from the others of its scheduler. */
static __device__ __forceinline__ void barrier_wait_asleep(uint32_t barrier, uint32_t parity) {
  while (!barrier_try(barrier, parity)) __nanosleep(150);
}

/* ---- pairs of 16-bit integers ---- */

static __device__ __forceinline__ uint32_t max_u16x2(uint32_t a, uint32_t b) {
  return __vmaxu2(a, b);
}
static __device__ __forceinline__ uint32_t min_u16x2(uint32_t a, uint32_t b) {
  return __vminu2(a, b);
}
/* a + b, or 0 where that is less: of signed ones, and a sum that needs more than 16 bits wraps. */
static __device__ __forceinline__ uint32_t add_relu_s16x2(uint32_t a, uint32_t b) {
  return __viaddmax_s16x2_relu(a, b, 0);
}
static __device__ __forceinline__ uint32_t max3_u16x2(uint32_t a, uint32_t b, uint32_t c) {
  return __vimax3_u16x2(a, b, c);
}

} // namespace sm90

#endif
#endif
