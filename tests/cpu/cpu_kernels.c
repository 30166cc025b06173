/* cpu_kernels - every instruction set's kernels against the portable ones on random blocks, step by
 * step: what ifa_run's cases do not reach (tiles of 4 bits, blocks whose first rows see nothing,
 * sums that must shift) and what goes wrong before it shows in an output. And the loop that
 * benchmarks are read against: it runs, and counts its operations.
 *
 *   cpu_kernels [ISA...]      default: all that this machine has
 *
 * It needs nothing but the library, so it is also what cross-compiled builds run. Exit codes: 0 all
 * agree, 1 a difference, 2 no such instruction set, 3 none there. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/random.h"
#include "cpu/bench/ceiling.h"
#include "cpu/kernels/kernels.h"

enum {
  BLOCKS = 300,
  TILES = 5,
  ROWS = IFA_CPU_ROWS,
  KEYS = IFA_CPU_MAX_TILE,
  DIM = IFA_MAX_HEAD_DIM
};

static uint64_t draws, seed;
/* 0 .. count-1 */
static int64_t draw(int64_t count) {
  return (int64_t)(ifa_random_bits(seed, 0, draws++) % (uint64_t)count);
}

/* A block with memory of its own. */
typedef struct owned_block {
  ifa_cpu_block b;
  _Alignas(64) uint8_t q[2 * ROWS * DIM];
  _Alignas(64) int32_t s[ROWS * KEYS];
  _Alignas(64) uint8_t p[2 * ROWS * KEYS];
  _Alignas(64) int32_t acc[ROWS * DIM];
} owned_block;

static owned_block expected, given;
static _Alignas(64) uint8_t tile[2 * KEYS * DIM + 14 * KEYS + 64], unfolded[sizeof tile];

static void attach(owned_block *o) {
  o->b.q = o->q;
  o->b.s = o->s;
  o->b.p = o->p;
  o->b.acc = o->acc;
}

/* Values at both ends are frequent. */
static int32_t draw_element(int bits) {
  int32_t half = bits == 4 ? 8 : 128;
  int64_t which = draw(8);
  return which == 0 ? -half : which == 1 ? half - 1 : (int32_t)draw(2 * half) - half;
}

static float draw_scale(int octaves) {
  return draw(12) == 0 ? (draw(2) ? 0.0f : -0.0f)
                       : ldexpf(1.0f + ifa_random_uniform(seed, 1, draws++), -(int)draw(octaves));
}

static void set_bits(uint8_t *at, int32_t value, int bits, int32_t shift) {
  if (bits == 8) *at = (uint8_t)value;
  else *at = (uint8_t)((*at & ~(15 << shift)) | (value & 15) << shift);
}

/* `keys` keys are there, the others 0. */
static void fill_tile(const ifa_cpu_layout *y, int32_t head_dim, int32_t keys, int k_per_token,
                      int value_octaves) {
  memset(tile, 0, sizeof tile);
  for (int32_t j = 0; j < keys; j++) {
    int32_t sum = 0, shift;
    for (int32_t d = 0; d < head_dim; d++) {
      int32_t k = draw_element(y->k_bits);
      size_t at = ifa_cpu_k_at(y, j, d, &shift);
      set_bits(tile + at, k, y->k_bits, shift);
      at = ifa_cpu_v_at(y, j, d, &shift);
      set_bits(tile + at, draw_element(y->v_bits), y->v_bits, shift);
      sum += k;
    }
    ifa_cpu_k_bias(y, tile)[j] = -128 * sum;
    ifa_cpu_k_scale(y, tile)[j] = k_per_token ? draw_scale(6) : 1.0f;
    ifa_cpu_v_scale(y, tile)[j] = draw_scale(value_octaves);
  }
  ifa_cpu_head(y, tile)->k_factor = k_per_token ? 1.0f : draw_scale(4);
  ifa_cpu_complete_values(y, tile);
}

static void store_q(ifa_cpu_form form, uint8_t *q, size_t at, int32_t value) {
  if (form == IFA_CPU_INT16) ((int16_t *)q)[at] = (int16_t)value;
  else q[at] = (uint8_t)(form == IFA_CPU_OFFSET8 ? value + 128 : value);
}

/* Both blocks, alike but for the form of Q. */
static void fill_rows(const ifa_cpu_kernels *kernels, int32_t dim, int32_t head_dim) {
  ifa_cpu_block *b = &expected.b;
  int flat = (int)draw(3);
  for (int32_t row = 0; row < ROWS; row++) {
    b->factor[row] = row < b->rows ? ldexpf(draw_scale(3), -4 - 5 * flat) : 0.0f;
    b->unit[row] = b->value_unit[row] = IFA_NO_UNIT;
  }
  memset(b->l, 0, sizeof b->l);
  memset(expected.acc, 0, sizeof expected.acc);
  memset(expected.p, 0x5a, sizeof expected.p); /* what a kernel does not write must not matter */
  memset(expected.s, 0x5a, sizeof expected.s);
  given = expected;
  attach(&given);
  for (int32_t row = 0; row < b->rows; row++)
    for (int32_t d = 0; d < dim; d++) {
      int32_t value = d < head_dim ? draw_element(8) : 0;
      store_q(IFA_CPU_SIGNED8, expected.q, (size_t)(row * dim + d), value);
      store_q(kernels->q_form, given.q, (size_t)(row * dim + d), value);
    }
}

/* Which rows see which of the tile's keys. */
static void fill_live(int32_t rows, int32_t keys, int32_t there) {
  ifa_cpu_block *b = &expected.b;
  b->first = draw(3) ? 0 : (int32_t)draw(rows);
  b->last = draw(3) ? rows : b->first + 1 + (int32_t)draw(rows - b->first);
  b->whole = there == keys && draw(2);
  for (int32_t row = b->first; row < b->last; row++) {
    b->from[row] = b->whole || draw(2) ? 0 : (int32_t)draw(keys);
    b->to[row] = b->whole ? keys : draw(2) ? there : (int32_t)draw(there + 1);
  }
  given.b.first = b->first;
  given.b.last = b->last;
  given.b.whole = b->whole;
  memcpy(given.b.from, b->from, sizeof b->from);
  memcpy(given.b.to, b->to, sizeof b->to);
}

static int32_t total_l(const ifa_cpu_block *b, int32_t row) {
  int32_t l = 0;
  for (int i = 0; i < 16; i++) l += b->l[row][i];
  return l;
}

/* The first difference, or NULL. */
static const char *compare(const ifa_cpu_kernels *kernels, int32_t keys, int32_t dim, int stage) {
  const ifa_cpu_block *e = &expected.b, *g = &given.b;
  for (int32_t row = e->first; row < e->last; row++) {
    size_t s = (size_t)(row * keys), acc = (size_t)(row * dim);
    if (stage == 0) {
      for (int32_t j = e->from[row]; j < e->to[row]; j++)
        if (e->s[s + (size_t)j] != g->s[s + (size_t)j]) return "s";
      continue;
    }
    if (e->unit[row] != g->unit[row]) return "unit";
    if (e->values_per_token && e->value_unit[row] != g->value_unit[row]) return "value unit";
    if (total_l(e, row) != total_l(g, row)) return "l";
    if (memcmp(e->acc + acc, g->acc + acc, (size_t)dim * 4) != 0) return "acc";
    for (int32_t j = 0; j < keys && stage == 1; j++)
      if (e->p[s + (size_t)j] !=
          (kernels->p_bytes == 1 ? g->p[s + (size_t)j] : ((const int16_t *)g->p)[s + (size_t)j]))
        return "p";
  }
  return NULL;
}

/* The tile as the driver would give it to a block's kernels, and its layout in *wide. */
static const uint8_t *tile_for(const ifa_cpu_kernels *kernels, const ifa_cpu_layout *y,
                               ifa_cpu_layout *wide) {
  *wide = *y;
  if (given.b.rows <= kernels->nibble_rows || (y->k_bits == 8 && y->v_bits == 8)) return tile;
  *wide = ifa_cpu_layout_of(y->keys, y->dim, 8, 8);
  memset(unfolded, 0x5a, sizeof unfolded);
  kernels->unfold(y, tile, wide, unfolded);
  return unfolded;
}

/* One block over some tiles; NULL if all agree. */
static const char *try_block(const ifa_cpu_kernels *kernels, char *what, size_t length) {
  static const char *const stages[] = {"scores", "weigh", "values"};
  ifa_cpu_block *b = &expected.b;
  int32_t keys = 32 << draw(4), head_dim = 1 + (int32_t)draw(draw(2) ? 256 : 64),
          k_bits = draw(3) ? 8 : 4, v_bits = draw(3) ? 8 : 4;
  int k_per_token = (int)draw(2), value_octaves = draw(2) ? 4 : 60;
  static ifa_cpu_layout y, given_layout; /* the blocks keep their addresses */
  y = ifa_cpu_layout_of(keys, head_dim, k_bits, v_bits);
  memset(&expected, 0, sizeof expected);
  attach(&expected);
  b->layout = &y;
  b->rows = draw(2) ? 1 + (int32_t)draw(ROWS) : 1 + (int32_t)draw(5);
  b->values_per_token = (int32_t)draw(2);
  b->tau = draw(3) == 0 ? IFA_TAU_INF : (int32_t)draw(5);
  fill_rows(kernels, y.dim, head_dim);
  for (int t = 0; t < TILES; t++) {
    int32_t there = draw(3) ? keys : 1 + (int32_t)draw(keys);
    expected.b.growth_keys = given.b.growth_keys = keys * (TILES - t) + (int32_t)draw(2) * 30000;
    fill_tile(&y, head_dim, there, k_per_token, value_octaves);
    fill_live(b->rows, keys, there);
    const uint8_t *given_tile = tile_for(kernels, &y, &given_layout);
    given.b.layout = &given_layout;
    for (int stage = 0; stage < 3; stage++) {
      (stage == 0   ? ifa_cpu_portable.scores
       : stage == 1 ? ifa_cpu_portable.weigh
                    : ifa_cpu_portable.values)(&expected.b, tile);
      (stage == 0   ? kernels->scores
       : stage == 1 ? kernels->weigh
                    : kernels->values)(&given.b, given_tile);
      const char *difference = compare(kernels, keys, y.dim, stage);
      if (!difference) continue;
      snprintf(what, length,
               "%s of %s: kv_tile %d, head_dim %d, K %d bits, V %d bits, %d rows (%d .. %d%s), V "
               "per token %d, tile %d",
               difference, stages[stage], keys, head_dim, k_bits, v_bits, b->rows, b->first,
               b->last - 1, b->whole ? ", whole" : "", b->values_per_token, t);
      return what;
    }
  }
  return NULL;
}

/* Section 6 in every one of its cases: scores that lead to the weight indices 0 .. 30720, 255 of
 * them to a tile; the last key sets the unit to 0. With r = 2^-10, n = 30720 + s; n = 30720 itself
 * comes from s = -1 and r = 2^-12. NULL if all agree. */
static const char *try_weights(const ifa_cpu_kernels *kernels, int values_per_token, float v_scale,
                               char *what, size_t length) {
  ifa_cpu_layout y = ifa_cpu_layout_of(256, 16, 8, 8);
  owned_block *const both[] = {&expected, &given};
  memset(tile, 0, sizeof tile);
  for (int32_t j = 0; j < 256; j++) {
    ifa_cpu_k_scale(&y, tile)[j] = 1.0f;
    ifa_cpu_v_scale(&y, tile)[j] = j % 2 ? 1.0f : v_scale;
  }
  ifa_cpu_head(&y, tile)->k_factor = 1.0f;
  ifa_cpu_complete_values(&y, tile);
  for (int32_t n = 0; n <= IFA_WEIGHT_TOP; n += 255) {
    for (int i = 0; i < 2; i++) {
      ifa_cpu_block *b = &both[i]->b;
      memset(both[i], 0, sizeof *both[i]);
      attach(both[i]);
      b->layout = &y;
      b->rows = b->last = b->whole = 1;
      b->values_per_token = values_per_token;
      b->growth_keys = b->to[0] = 256;
      b->factor[0] = n < IFA_WEIGHT_TOP ? 0x1p-10f : 0x1p-12f;
      b->unit[0] = b->value_unit[0] = IFA_NO_UNIT;
      for (int32_t j = 0; j < 256; j++)
        b->s[j] = n + j < IFA_WEIGHT_TOP && j < 255 ? n + j - IFA_WEIGHT_TOP : -1;
      (i == 0 ? ifa_cpu_portable.weigh : kernels->weigh)(b, tile);
    }
    const char *difference = compare(kernels, 256, 16, 1);
    if (difference)
      return snprintf(what, length, "%s of weigh: n = %d .. %d, V per token %d, v_scale %g",
                      difference, n, n + 254, values_per_token, (double)v_scale),
             what;
  }
  return NULL;
}

/* Operations of a round: as many sums as fit into 12 vectors (AMX: 6 tiles of 16 x 16), each of so
 * many products. */
static int try_ceiling(const char *isa) {
  static const struct {
    const char *isa;
    double integer, fma;
  } list[] = {{"avx2", 12 * 8 * 2 * 2, 12 * 8 * 2},
              {"avx_vnni", 12 * 8 * 4 * 2, 12 * 8 * 2},
              {"avx512_vnni", 12 * 16 * 4 * 2, 12 * 16 * 2},
              {"avx512_fp16", 12 * 16 * 4 * 2, 12 * 16 * 2},
              {"amx", 6 * 256 * 64 * 2, 0}};
  const ifa_ceiling *found[2] = {ifa_ceiling_integer(isa), ifa_ceiling_fma(isa)};
  double want[2] = {0, 0};
  for (size_t i = 0; i < sizeof list / sizeof list[0]; i++)
    if (strcmp(list[i].isa, isa) == 0) want[0] = list[i].integer, want[1] = list[i].fma;
  for (int i = 0; i < 2; i++) {
    double got = found[i] ? found[i]->run(7) : 0;
    if (got != 7 * want[i])
      return printf("%s: its ceiling counts %g operations in 7 rounds, not %g\n", isa, got,
                    7 * want[i]),
             1;
  }
  return 0;
}

/* 0 agree, 1 a difference. */
static int try_isa(const ifa_cpu_isa *isa) {
  char what[256];
  for (seed = 1; seed <= BLOCKS; seed++) {
    draws = 0;
    if (!try_block(isa->kernels, what, sizeof what)) continue;
    printf("%s: block %d: %s\n", isa->name, (int)seed, what);
    return 1;
  }
  for (int i = 0; i < 4; i++) {
    if (!try_weights(isa->kernels, i > 0,
                     i < 2    ? 1.0f
                     : i == 2 ? 0.7f
                              : 0x1.8p-9f,
                     what, sizeof what))
      continue;
    printf("%s: %s\n", isa->name, what);
    return 1;
  }
  printf("%s: all weights, and %d blocks of %d tiles agree with the portable kernels\n", isa->name,
         BLOCKS, TILES);
  return 0;
}

/* What the library chooses by itself: the best that is here, and for blocks of few rows the best
 * but for AMX; a name, once given, counts for all rows. */
static int try_choice(void) {
  ifa_cpu_choice own, named;
  const ifa_cpu_isa *best = NULL, *other = NULL;
  if (getenv("IFA_CPU_ISA")) return 0;
  if (ifa_cpu_choose(NULL, &own, NULL) != IFA_OK) return 1;
  for (int i = 0; i < ifa_cpu_isas(); i++) {
    const ifa_cpu_isa *isa = ifa_cpu_isa_at(i);
    if (ifa_cpu_choose(isa->name, &named, NULL) != IFA_OK) continue;
    if (named.many != isa || named.few != isa) return 1;
    best = isa;
    if (strcmp(isa->name, "amx") != 0) other = isa;
  }
  printf("chosen: %s; for blocks of fewer than %d rows: %s\n", own.many->name, IFA_CPU_MANY_ROWS,
         own.few->name);
  return own.many != best || own.few != other;
}

int main(int argc, char **argv) {
  int bad = 0, tried = 0;
  ifa_message why;
  ifa_cpu_fill_tables();
  for (int i = 0; i < (argc > 1 ? argc - 1 : ifa_cpu_isas()); i++) {
    const ifa_cpu_isa *isa;
    ifa_status status =
        ifa_cpu_find_isa(argc > 1 ? argv[i + 1] : ifa_cpu_isa_at(i)->name, &isa, &why);
    if (status == IFA_BAD_ARGUMENT) return fprintf(stderr, "cpu_kernels: %s\n", why.text), 2;
    if (status != IFA_OK) {
      printf("%s\n", why.text);
      continue;
    }
    bad |= try_isa(isa) | try_ceiling(isa->name);
    if (isa->kernels->leave) isa->kernels->leave();
    tried++;
  }
  bad |= try_choice();
  return bad ? 1 : tried ? 0 : 3;
}
