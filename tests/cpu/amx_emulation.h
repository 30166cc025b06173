/* amx_emulation.h - the tile instructions of cpu/kernels/amx_tile.h in plain C, one set of tiles a
 * thread. What the processor answers with an exception (an unconfigured tile, operands whose shapes
 * do not fit) ends the program here. */
#ifndef IFA_TESTS_AMX_EMULATION_H
#define IFA_TESTS_AMX_EMULATION_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static _Thread_local struct {
  ifa_tile_config config; /* palette 0: none */
  uint8_t data[8][16][64];
} tiles;

#define TILE_MUST(condition)                                                                    \
  do {                                                                                          \
    if (!(condition)) {                                                                         \
      fprintf(stderr, "%s:%d: invalid tile instruction: %s\n", __FILE__, __LINE__, #condition); \
      abort();                                                                                  \
    }                                                                                           \
  } while (0)

static inline void tile_config(const ifa_tile_config *config) {
  TILE_MUST(sizeof *config == 64 && config->palette == 1 && config->start_row == 0);
  for (int i = 0; i < 14; i++) TILE_MUST(config->reserved[i] == 0);
  for (int t = 0; t < 16; t++) {
    TILE_MUST(config->row_bytes[t] <= 64 && config->rows[t] <= 16);
    TILE_MUST((config->row_bytes[t] == 0) == (config->rows[t] == 0) &&
              (t < 8 || config->rows[t] == 0));
  }
  tiles.config = *config;
  memset(tiles.data, 0, sizeof tiles.data);
}

static inline void tile_release(void) { memset(&tiles, 0, sizeof tiles); }

static inline void tile_zero(int t) {
  TILE_MUST(tiles.config.palette == 1 && tiles.config.rows[t] > 0);
  memset(tiles.data[t], 0, sizeof tiles.data[t]);
}

static inline void tile_load(int t, const void *base, int64_t stride) {
  tile_zero(t); /* what is beyond the configured shape is 0 */
  for (int r = 0; r < tiles.config.rows[t]; r++)
    memcpy(tiles.data[t][r], (const uint8_t *)base + r * stride, tiles.config.row_bytes[t]);
}

static inline void tile_store(int t, void *base, int64_t stride) {
  TILE_MUST(tiles.config.palette == 1 && tiles.config.rows[t] > 0);
  for (int r = 0; r < tiles.config.rows[t]; r++)
    memcpy((uint8_t *)base + r * stride, tiles.data[t][r], tiles.config.row_bytes[t]);
}

static inline void tile_multiply(int c, int a, int b, int unsigned_a) {
  const ifa_tile_config *f = &tiles.config;
  TILE_MUST(f->palette == 1 && c != a && c != b && a != b && f->rows[c] > 0 && f->rows[a] > 0 &&
            f->rows[b] > 0);
  TILE_MUST(f->rows[c] == f->rows[a] && f->row_bytes[c] == f->row_bytes[b] &&
            f->row_bytes[a] == 4 * f->rows[b]);
  TILE_MUST(f->row_bytes[a] % 4 == 0 && f->row_bytes[b] % 4 == 0 && f->row_bytes[c] % 4 == 0);
  for (int m = 0; m < f->rows[c]; m++)
    for (int n = 0; n < f->row_bytes[c] / 4; n++) {
      uint32_t sum;
      memcpy(&sum, &tiles.data[c][m][4 * n], 4);
      for (int k = 0; k < f->row_bytes[a]; k++) {
        int32_t x = tiles.data[a][m][k], y = (int8_t)tiles.data[b][k / 4][4 * n + k % 4];
        sum += (uint32_t)((unsigned_a ? x : (int8_t)x) * y);
      }
      memcpy(&tiles.data[c][m][4 * n], &sum, 4);
    }
}

#define TILE_CONFIG(config) tile_config(config)
#define TILE_RELEASE() tile_release()
#define TILE_ZERO(t) tile_zero(t)
#define TILE_LOAD(t, base, stride) tile_load(t, base, stride)
#define TILE_STORE(t, base, stride) tile_store(t, base, stride)
#define TILE_MULTIPLY_SS(c, a, b) tile_multiply(c, a, b, 0)
#define TILE_MULTIPLY_US(c, a, b) tile_multiply(c, a, b, 1)

#endif
