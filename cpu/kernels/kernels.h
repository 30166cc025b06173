/* kernels.h - what an instruction set provides: three functions on a block of rows and one tile of
 * keys.
 *
 * A block is up to IFA_CPU_ROWS query rows that share a key/value head; it lives in its thread's
 * part of the workspace. The driver (cpu/attend.c) walks the tiles and calls, for rows first ..
 * last-1 (those that see a key of the tile),
 *
 *     scores   s    = Q K^T                                      section 4 of docs/numerics.md
 *     weigh    p, l   from s: units, weights, V per token        sections 4 to 8
 *     values   acc += P V                                        section 7
 *
 * All is integers or one IEEE operation on one element, so an instruction set may mix its own
 * functions with another's, given the same forms of q and p. Everything else (packing, which rows
 * and tiles, moving units, merging splits, output) is shared C. */
#ifndef IFA_CPU_KERNELS_H
#define IFA_CPU_KERNELS_H

#include "common/contract.h"
#include "cpu/kernels/tile.h"

/* Functions that are compiled for each constant that they are called with. Not under a sanitizer:
 * dozens of instrumented copies take minutes to compile. */
#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define IFA_CPU_INLINE static inline
#define IFA_CPU_UNROLL
#endif
#endif
#ifndef IFA_CPU_INLINE
#define IFA_CPU_INLINE static inline __attribute__((always_inline))
#if defined(__clang__)
#define IFA_CPU_UNROLL _Pragma("unroll")
#else
#define IFA_CPU_UNROLL _Pragma("GCC unroll 8")
#endif
#endif

enum { IFA_CPU_ROWS = 48, IFA_CPU_MAX_TILE = 256 }; /* rows: a multiple of 16 */

/* How rows of Q (from their INT8 values, zero padded to dim before the offset) and of P are stored.
 */
typedef enum ifa_cpu_form {
  IFA_CPU_SIGNED8,
  IFA_CPU_OFFSET8 /* value + 128, unsigned */,
  IFA_CPU_INT16
} ifa_cpu_form;

typedef struct ifa_cpu_block {
  const ifa_cpu_layout *layout;
  int32_t rows;             /* of the block */
  int32_t first, last;      /* rows that the kernels are to compute for this tile */
  int32_t whole;            /* 1: each of them sees every key of the tile */
  int32_t values_per_token; /* section 8 applies */
  int32_t growth_keys;      /* R of section 7 */
  int32_t tau;
  const uint8_t *next; /* the tile that comes next, for kernels that prefetch it, or NULL */

  /* Rows of the block, in the workspace, 64-byte aligned. */
  uint8_t *q;   /* [row][dim] in the kernels' form, 1 or 2 bytes each */
  int32_t *s;   /* [row][keys] scores; weigh may write over them */
  uint8_t *p;   /* [row][keys] weights that multiply V: unsigned bytes, or int16 */
  int32_t *acc; /* [row][dim] */

  /* Per row. Entries of rows beyond `rows` exist and may be read and written. */
  _Alignas(64) float factor[IFA_CPU_ROWS];       /* r_i */
  _Alignas(64) int32_t unit[IFA_CPU_ROWS];       /* U, or IFA_NO_UNIT */
  _Alignas(64) int32_t value_unit[IFA_CPU_ROWS]; /* U'; equal to U unless V is per token */
  /* live keys of this tile: from .. to-1; to <= from: none */
  _Alignas(64) int32_t from[IFA_CPU_ROWS];
  _Alignas(64) int32_t to[IFA_CPU_ROWS];
  _Alignas(64) int32_t l[IFA_CPU_ROWS][16]; /* l is the sum of the 16 */

  /* Sections 3 and 4: the row's place. */
  int32_t live_first[IFA_CPU_ROWS], live_end[IFA_CPU_ROWS];
} ifa_cpu_block;

typedef struct ifa_cpu_kernels {
  ifa_cpu_form q_form;
  int32_t p_bytes;  /* 1, or 2 for int16 */
  int32_t slowness; /* time of a step in AVX-512 VNNI's, roughly: is a thread worth waking? */
  void (*scores)(ifa_cpu_block *b, const uint8_t *tile);
  void (*weigh)(ifa_cpu_block *b, const uint8_t *tile);
  void (*values)(ifa_cpu_block *b, const uint8_t *tile);
  int32_t fetches; /* 1: they prefetch the next tile; 0: the driver does, in three parts */
  /* Blocks of up to nibble_rows rows read tiles of 4 bits as they lie; larger ones, which would
   * take the nibbles apart once for each group of rows, are given tiles that `unfold` made of 8
   * bits (cpu/kernels/unfold.h). `wide` is the layout of `to`. */
  int32_t nibble_rows;
  void (*unfold)(const ifa_cpu_layout *y, const uint8_t *tile, const ifa_cpu_layout *wide,
                 uint8_t *to);
  /* NULL, or called by each thread after its last block: gives back what the thread holds (AMX
   * tiles) */
  void (*leave)(void);
} ifa_cpu_kernels;

/* An instruction set: its name for IFA_CPU_ISA, and the kernels if this build has them (NULL:
 * another architecture, or too old a compiler). */
typedef struct ifa_cpu_isa {
  const char *name, *description;
  const ifa_cpu_kernels *kernels;
  /* what this machine lacks, NULL if nothing; the pointer is NULL if kernels is */
  const char *(*lacks)(void);
} ifa_cpu_isa;

extern const ifa_cpu_kernels ifa_cpu_portable;
#if defined(__x86_64__)
extern const ifa_cpu_kernels ifa_cpu_avx2, ifa_cpu_avx_vnni, ifa_cpu_avx512_vnni,
    ifa_cpu_avx512_fp16, ifa_cpu_amx;
#elif defined(__aarch64__)
extern const ifa_cpu_kernels ifa_cpu_neon_dotprod, ifa_cpu_neon_i8mm;
#endif

/* The instruction sets by name, best last; cpu/kernels/isa.c. */
int ifa_cpu_isas(void);
const ifa_cpu_isa *ifa_cpu_isa_at(int index);

/* name NULL: what IFA_CPU_ISA names, or the best that the machine has. IFA_BAD_ARGUMENT for an
 * unknown name, IFA_NOT_AVAILABLE with what lacks. */
ifa_status ifa_cpu_find_isa(const char *name, const ifa_cpu_isa **isa, ifa_message *message);

/* The instruction sets of a call: of blocks with at least IFA_CPU_MANY_ROWS rows, and of blocks
 * with fewer (decoding). Tiles look the same to all, so each block may have its own. */
typedef struct ifa_cpu_choice {
  const ifa_cpu_isa *many, *few;
} ifa_cpu_choice;

/* AMX multiplies tiles of 16 rows, full or not. Measured against AVX512-FP16 (docs/cpu.md): with 4
 * rows 1.16 times its time (INT4 1.37), with 8 as long, with 16 0.85, with 48 0.74. */
enum { IFA_CPU_MANY_ROWS = 16 };

/* As ifa_cpu_find_isa; `few` is another only where none is named. */
ifa_status ifa_cpu_choose(const char *name, ifa_cpu_choice *choice, ifa_message *message);

/* The choice among instruction sets: bit i is ifa_cpu_isa_at(i); bit 0, portable, is always set. */
ifa_cpu_choice ifa_cpu_choice_of(uint32_t available);

/* ---- for weigh (see also cpu/kernels/units.h) ---- */

/* Section 8 for a row that sees only keys from .. to-1 of the tile: its own b, and s_j (all of the
 * tile's keys; 0 where not live). */
int32_t ifa_cpu_partial_values(const ifa_cpu_layout *y, const uint8_t *tile, int32_t from,
                               int32_t to, uint16_t *scale16);

/* p and W of all weight indices; filled by ifa_cpu_fill_tables. */
extern uint8_t ifa_cpu_weight[IFA_WEIGHT_TOP + 1];
extern uint16_t ifa_cpu_weight16[IFA_WEIGHT_TOP + 1];
void ifa_cpu_fill_tables(void); /* once; thread-safe */

#endif
