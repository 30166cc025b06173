/* amx_tile.h - the tile instructions that cpu/kernels/amx.c uses, and nothing more.
 *
 * As inline assembly, not the compiler's intrinsics: those do not say that they read memory (gcc
 * 12), so a store before a load of the same bytes may move behind it. With IFA_AMX_EMULATION, plain
 * C in their place (tests/cpu/amx_emulation.h), to test the control flow on any machine. */
#ifndef IFA_CPU_AMX_TILE_H
#define IFA_CPU_AMX_TILE_H

#include <stdint.h>

/* Memory operand of ldtilecfg, palette 1: eight tiles of up to 16 rows of up to 64 bytes. */
typedef struct ifa_tile_config {
  uint8_t palette, start_row, reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
} ifa_tile_config;

#ifdef IFA_AMX_EMULATION
#include "tests/cpu/amx_emulation.h"
#else

/* t, c, a, b: tile numbers, literals. Rows of memory are `stride` bytes apart. */
#define TILE_CONFIG(config) __asm__ volatile("ldtilecfg %0" : : "m"(*(config)) : "memory")
#define TILE_RELEASE() __asm__ volatile("tilerelease" : : : "memory")
#define TILE_ZERO(t) __asm__ volatile("tilezero %%tmm" #t : : : "memory")
#define TILE_LOAD(t, base, stride)                     \
  __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #t     \
                   :                                   \
                   : "r"(base), "r"((int64_t)(stride)) \
                   : "memor"                           \
                     "y")
#define TILE_STORE(t, base, stride)                    \
  __asm__ volatile("tilestored %%tmm" #t ", (%0,%1,1)" \
                   :                                   \
                   : "r"(base), "r"((int64_t)(stride)) \
                   : "memory")

/* c (rows x 16 int32) += a (rows x 4k bytes) times b (k rows of 16 columns of 4 bytes): signed by
 * signed; unsigned by signed. */
#define TILE_MULTIPLY_SS(c, a, b) \
  __asm__ volatile("tdpbssd %%tmm" #b ", %%tmm" #a ", %%tmm" #c : : : "memory")
#define TILE_MULTIPLY_US(c, a, b) \
  __asm__ volatile("tdpbusd %%tmm" #b ", %%tmm" #a ", %%tmm" #c : : : "memory")

#endif
#endif
