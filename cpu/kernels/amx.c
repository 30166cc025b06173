/* amx.c - Intel AMX: scores and values by tiles of 16 by 16 sums, 64 products deep. Weights are the
 * AVX-512 path's.
 *
 * The tile layout of K and V (cpu/kernels/tile.h) is what the second operand must look like: a row
 * holds 4 channels (or keys) of 16 columns.
 *
 *     scores   tdpbssd   S[16 rows][16 keys]       += Q[16 rows][step channels] K[step/4][16
 *       keys][4]            from zero
 *     values   tdpbusd   acc[16 rows][16 channels] += P[16 rows][step keys]     V[step/4][16
 *       channels][4]        from memory, and back
 *
 * Four sums at a time, 2 row groups by 2 column groups, so that each operand loaded is used twice:
 *
 *               tmm6    tmm7
 *      tmm4     tmm0    tmm1
 *      tmm5     tmm2    tmm3
 *
 * The step is the largest that divides the depth evenly (head_dim 80: two steps of 40), so that one
 * shape of tile serves all steps. Blocks of up to 16 rows (decoding) have tiles of just their rows.
 * Tiles are configured where a thread's last configuration was another; ifa_cpu_amx.leave releases
 * them. */
#include <string.h>

#include "cpu/kernels/amx_tile.h"
#include "cpu/kernels/kernels.h"
#include "cpu/kernels/unfold.h"
#include "cpu/kernels/units.h"

/* The tiles of this thread; palette 0: released. */
static _Thread_local ifa_tile_config current;

static int32_t step_of(int32_t depth) {
  int32_t steps = (depth + 63) / 64;
  /* depth is a multiple of 16: ends at 4 steps at the latest */
  while (depth % (4 * steps)) steps++;
  return depth / steps;
}

/* Sums of `rows` rows, first operands of `rows` rows of `step` bytes, second operands of step/4
 * rows. */
static void configure(int32_t rows, int32_t step) {
  ifa_tile_config config = {.palette = 1};
  for (int t = 0; t < 8; t++) {
    config.row_bytes[t] = t == 4 || t == 5 ? (uint16_t)step : 64;
    config.rows[t] = (uint8_t)(t < 6 ? rows : step / 4);
  }
  if (memcmp(&config, &current, sizeof config) == 0) return;
  TILE_CONFIG(&config);
  current = config;
}

static void leave(void) {
  TILE_RELEASE();
  current = (ifa_tile_config){0};
}

/* Rows of a group: of a block of at most 16 rows just those. The kernels' rows first .. last-1 are
 * in the groups from `first` on. */
typedef struct row_groups {
  int32_t first, end, rows;
} row_groups;

static row_groups groups_of(const ifa_cpu_block *b) {
  int32_t rows = b->rows < 16 ? b->rows : 16;
  return (row_groups){b->first / rows * rows, (b->last + rows - 1) / rows * rows, rows};
}

/* The second operand of two column groups: where the rows of 16 columns lie, and how far apart they
 * are. */
typedef struct columns {
  const int8_t *low, *high;
  int32_t row_bytes;
} columns;

/* Keys j .. j+31 of K. */
static columns key_columns(const ifa_cpu_layout *y, const uint8_t *tile, int32_t j) {
  const int8_t *k = (const int8_t *)tile + j * y->dim;
  return (columns){k, k + 16 * y->dim, 64};
}

/* Channels d .. d+31 of V, or d .. d+15 where there are no more. */
static columns channel_columns(const ifa_cpu_layout *y, const uint8_t *tile, int32_t d) {
  const int8_t *v = (const int8_t *)tile + y->at_v + 4 * d;
  return (columns){v, v + 64, 4 * y->dim};
}

static void scores(ifa_cpu_block *b, const uint8_t *tile) {
  const ifa_cpu_layout *y = b->layout;
  const int32_t dim = y->dim, step = step_of(dim), pitch = 4 * y->keys;
  const row_groups g = groups_of(b);
  configure(g.rows, step);
  int32_t from, end;
  ifa_cpu_seen_by(b, b->first, b->last - b->first, &from, &end);
  for (int32_t j = from / 32 * 32; j < end; j += 32) {
    const columns k = key_columns(y, tile, j);
    for (int32_t row = g.first; row < g.end; row += 2 * g.rows) {
      const int two = row + g.rows < g.end;
      const uint8_t *q = b->q + row * dim;
      int32_t *s = b->s + row * y->keys + j;
      TILE_ZERO(0);
      TILE_ZERO(1);
      if (two) {
        TILE_ZERO(2);
        TILE_ZERO(3);
      }
      for (int32_t d = 0; d < dim; d += step) {
        TILE_LOAD(4, q + d, dim);
        TILE_LOAD(6, k.low + 16 * d, 64);
        TILE_MULTIPLY_SS(0, 4, 6);
        TILE_LOAD(7, k.high + 16 * d, 64);
        TILE_MULTIPLY_SS(1, 4, 7);
        if (two) {
          TILE_LOAD(5, q + g.rows * dim + d, dim);
          TILE_MULTIPLY_SS(2, 5, 6);
          TILE_MULTIPLY_SS(3, 5, 7);
        }
      }
      TILE_STORE(0, s, pitch);
      TILE_STORE(1, s + 16, pitch);
      if (two) {
        TILE_STORE(2, s + g.rows * y->keys, pitch);
        TILE_STORE(3, s + g.rows * y->keys + 16, pitch);
      }
    }
  }
}

static void values(ifa_cpu_block *b, const uint8_t *tile) {
  const ifa_cpu_layout *y = b->layout;
  const int32_t keys = y->keys, step = step_of(keys), pitch = 4 * y->dim;
  const row_groups g = groups_of(b);
  configure(g.rows, step);
  /* Rows of the groups that see no key of this tile: nothing is added. */
  memset(b->p + g.first * keys, 0, (size_t)((b->first - g.first) * keys));
  memset(b->p + b->last * keys, 0, (size_t)((g.end - b->last) * keys));
  for (int32_t d = 0; d < y->dim; d += 32) {
    const int wide = d + 16 < y->dim;
    const columns v = channel_columns(y, tile, d);
    for (int32_t row = g.first; row < g.end; row += 2 * g.rows) {
      const int two = row + g.rows < g.end;
      const uint8_t *p = b->p + row * keys;
      int32_t *low = b->acc + row * y->dim + d, *high = low + g.rows * y->dim;
      TILE_LOAD(0, low, pitch);
      if (wide) TILE_LOAD(1, low + 16, pitch);
      if (two) TILE_LOAD(2, high, pitch);
      if (two && wide) TILE_LOAD(3, high + 16, pitch);
      for (int32_t j = 0; j < keys; j += step) {
        TILE_LOAD(4, p + j, keys);
        TILE_LOAD(6, v.low + j / 4 * v.row_bytes, v.row_bytes);
        TILE_MULTIPLY_US(0, 4, 6);
        if (wide) {
          TILE_LOAD(7, v.high + j / 4 * v.row_bytes, v.row_bytes);
          TILE_MULTIPLY_US(1, 4, 7);
        }
        if (two) {
          TILE_LOAD(5, p + g.rows * keys + j, keys);
          TILE_MULTIPLY_US(2, 5, 6);
          if (wide) TILE_MULTIPLY_US(3, 5, 7);
        }
      }
      TILE_STORE(0, low, pitch);
      if (wide) TILE_STORE(1, low + 16, pitch);
      if (two) TILE_STORE(2, high, pitch);
      if (two && wide) TILE_STORE(3, high + 16, pitch);
    }
  }
}

/* Every processor with AMX has AVX512-FP16. The emulation, which runs anywhere, has none. */
static void weigh(ifa_cpu_block *b, const uint8_t *tile) {
#ifdef IFA_AMX_EMULATION
  ifa_cpu_portable.weigh(b, tile);
#else
  ifa_cpu_avx512_fp16.weigh(b, tile);
#endif
}

const ifa_cpu_kernels ifa_cpu_amx = {.q_form = IFA_CPU_SIGNED8,
                                     .p_bytes = 1,
                                     .slowness = 1,
                                     .scores = scores,
                                     .weigh = weigh,
                                     .values = values,
                                     .nibble_rows = 0,
                                     .unfold = ifa_cpu_unfold_tile,
                                     .leave = leave};
