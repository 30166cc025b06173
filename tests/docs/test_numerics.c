/* test_numerics.c - the numbers that docs/numerics.md prints: its checkpoints of the weight
 * function and its worked example, computed again from common/contract.h, step by step, and
 * compared with the document line by line. Whatever the oracle shows as a stage must be what the
 * steps give.
 *
 * A block of the document is a fenced one after a line `<!-- computed: NAME -->`. A block that
 * differs is printed as it should be. */
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/contract.h"
#include "ifa.h"

#define DOCUMENT IFA_SOURCE_DIR "/docs/numerics.md"

/* ---- blocks of the document ---- */

static char *read_document(void) {
  FILE *file = fopen(DOCUMENT, "r");
  if (!file) fail_msg("%s cannot be read", DOCUMENT);
  char *text = calloc(1, 1 << 20);
  size_t length = fread(text, 1, (1 << 20) - 1, file);
  fclose(file);
  assert_true(length > 1000 && length < (1 << 20) - 1);
  return text;
}

static void expect_block(const char *name, const char *expected) {
  char *text = read_document(), mark[64];
  snprintf(mark, sizeof mark, "<!-- computed: %s -->\n```\n", name);
  char *begin = strstr(text, mark);
  if (!begin) fail_msg("docs/numerics.md: no block '%s'", name);
  begin += strlen(mark);
  char *end = strstr(begin, "```");
  assert_non_null(end);
  *end = '\0';
  if (strcmp(begin, expected) != 0) {
    printf("docs/numerics.md, block '%s' should be\n%s", name, expected);
    fail_msg("docs/numerics.md: block '%s' is not what the formulas give", name);
  }
  free(text);
}

/* ---- section 6: checkpoints ---- */

static void test_checkpoints(void **state) {
  (void)state;
  static const int32_t points[] = {0,     1,     21511, 21512, 22528, 23552, 24576, 25600,
                                   26624, 27648, 28672, 29696, 30208, 30719, 30720};
  char *block = NULL;
  size_t length = 0;
  FILE *out = open_memstream(&block, &length);
  fprintf(out, "    n  h             w       g                h * g    p  W       W as a number\n");
  for (size_t i = 0; i < sizeof points / sizeof points[0]; i++) {
    int32_t n = points[i];
    fprintf(out, "%5d  %-12.9g  0x%04x  0x%04x  %14.9g  %3d  0x%04x  %.9g\n", (int)n,
            (double)ifa_f16_to_f32((uint16_t)n), (unsigned)((~n & 1023) | 0x3c00),
            (unsigned)ifa_weight_g(n), (double)ifa_weight_exact(n), (int)ifa_weight(n),
            (unsigned)ifa_weight16(n), (double)ifa_f16_to_f32(ifa_weight16(n)));
  }
  fclose(out);
  expect_block("checkpoints", block);
  free(block);
}

/* ---- the worked example ---- */

/* One query of two channels; a window of 4 lets it see keys 30 and 31, the end of tile 0, and keys
 * 32 and 33, tile 1. */
enum { NK = 34, DIM = 2, TILE = 32, SPLIT = 64, FIRST = 30, LIVE = 4, TAU = 2 };

static const int8_t q[DIM] = {90, -40};
static const int8_t k[LIVE][DIM] = {{100, -60}, {80, -70}, {-75, 90}, {-100, 70}};
static const int8_t v[LIVE][DIM] = {{100, -7}, {-30, 120}, {-90, 45}, {64, 127}};
static const float q_scale = 0.0125f, k_scale[LIVE] = {0.05f, 0.051f, 0.052f, 0.05f};
static const float channel_scale[DIM] = {0.01f, 0.02f};
static const float token_scale[LIVE] = {0.00002f, 0.00001f, 0.75f, 0.5f};

/* What the oracle gives. */
typedef struct answer {
  int32_t s[NK], unit[2], value_unit[2], l, acc[DIM];
  uint8_t p[NK], value_p[NK];
  float o[DIM], lse;
} answer;

static answer ask_oracle(int per_token) {
  answer a;
  int8_t keys[NK][DIM] = {{0}}, values[NK][DIM] = {{0}};
  float k_scales[NK] = {0}, v_scales[NK] = {0};
  memcpy(keys[FIRST], k, sizeof k), memcpy(values[FIRST], v, sizeof v);
  memcpy(k_scales + FIRST, k_scale, sizeof k_scale);
  memcpy(v_scales + FIRST, token_scale, sizeof token_scale);
  ifa_problem p = ifa_problem_default();
  p.nk = NK;
  p.head_dim = DIM;
  p.sm_scale = 1.0f;
  p.window = LIVE;
  p.tau = TAU;
  p.kv_tile = TILE;
  p.kv_split = SPLIT;
  p.lse = 1;
  p.v_scale = per_token ? IFA_SCALE_TOKEN : IFA_SCALE_CHANNEL;
  ifa_inputs in = {.q = q,
                   .k = keys,
                   .v = values,
                   .q_scale = &q_scale,
                   .k_scale = k_scales,
                   .v_scale = per_token ? v_scales : channel_scale};
  ifa_stages stages = {.s = a.s,
                       .unit = a.unit,
                       .p = a.p,
                       .value_unit = a.value_unit,
                       .value_p = a.value_p,
                       .l = &a.l,
                       .acc = a.acc};
  ifa_outputs out = {.o = a.o, .lse = &a.lse, .stages = &stages};
  ifa_message why;
  if (ifa_run("scalar", &p, &in, &out, &why) != IFA_OK) fail_msg("%s", why.text);
  return a;
}

/* The row as the steps leave it. */
typedef struct row {
  FILE *out;
  answer oracle;
  float r, u[LIVE];
  int32_t n[LIVE], p[LIVE], l, acc[DIM], unit, value_unit;
} row;

static float f16(uint16_t pattern) { return ifa_f16_to_f32(pattern); }

/* Section 4, and e of each tile. */
static void show_scores(row *x, int32_t want[2]) {
  x->r = ifa_row_factor(q_scale, 1.0f);
  fprintf(x->out, "r = fl(fl(%.9g * 1) * LOG2E) = %.9g\n\n", (double)q_scale, (double)x->r);
  fprintf(x->out, "tile  key   S       u              x = u * r\n");
  for (int t = 0; t < 2; t++) {
    float largest = -INFINITY;
    for (int j = 2 * t; j < 2 * t + 2; j++) {
      int32_t s = 0;
      for (int d = 0; d < DIM; d++) s += q[d] * k[j][d];
      assert_int_equal(s, x->oracle.s[FIRST + j]);
      x->u[j] = ifa_score(s, k_scale[j]);
      largest = x->u[j] > largest ? x->u[j] : largest;
      fprintf(x->out, "%d     %d    %6d  %-13.9g  %.4f\n", t, FIRST + j, (int)s, (double)x->u[j],
              (double)x->u[j] * (double)x->r);
    }
    want[t] = ifa_tile_unit(largest, x->r);
  }
  fputc('\n', x->out);
}

/* Section 5: `name` is U or U', M and G what may be lost. Returns the new unit, and shows why. */
static int32_t show_unit(FILE *out, const char *name, int32_t unit, int32_t want, int32_t magnitude,
                         int32_t growth) {
  int32_t next = ifa_next_unit(unit, want, TAU, magnitude, growth);
  if (unit == IFA_NO_UNIT) {
    fprintf(out, "  %s = %d, the first\n", name, (int)next);
    return next;
  }
  fprintf(out, "  M = %d, G = %d, 2^31 - 1 - G = %d: headroom %d\n", (int)magnitude, (int)growth,
          INT32_MAX - (int)growth, (int)ifa_headroom(magnitude, growth, 31));
  fprintf(out, "  %d < %d - tau: %s = %d - min(%d, %d) = %d\n", (int)want, (int)unit, name,
          (int)unit, (int)(unit - want), (int)ifa_headroom(magnitude, growth, 31), (int)next);
  return next;
}

static int32_t largest_acc(const row *x) {
  int32_t a = abs(x->acc[0]), b = abs(x->acc[1]);
  return a > b ? a : b;
}

static void show_shifted(row *x, int32_t up, int with_l, int with_acc) {
  if (up == 0) return;
  fprintf(x->out, "  shifted by %d:", (int)up);
  if (with_l) {
    x->l = ifa_shift(x->l, up);
    fprintf(x->out, "  l = %d", (int)x->l);
  }
  for (int d = 0; with_acc && d < DIM; d++) {
    x->acc[d] = ifa_shift(x->acc[d], up);
    fprintf(x->out, "%sacc_%d = %d", with_l || d ? "  " : " ", d, (int)x->acc[d]);
  }
  fputc('\n', x->out);
}

/* Sections 5 to 7 for tile t, up to l. */
static void show_weights(row *x, int t, int32_t want, int per_token) {
  int32_t keys = SPLIT - t * TILE, magnitude = x->l, before = x->unit;
  if (!per_token && largest_acc(x) > magnitude) magnitude = largest_acc(x);
  fprintf(x->out, "tile %d: e = %d, R = %d\n", t, (int)want, (int)keys);
  x->unit = show_unit(x->out, "U", before, want, magnitude,
                      (per_token ? IFA_WEIGHT_MAX : IFA_MAX_PRODUCT) * keys);
  assert_int_equal(x->unit, x->oracle.unit[t]);
  show_shifted(x, before == IFA_NO_UNIT ? 0 : x->unit - before, 1, !per_token);
  for (int j = 2 * t; j < 2 * t + 2; j++) {
    x->n[j] = ifa_weight_index(x->u[j], x->r, x->unit);
    x->p[j] = ifa_weight(x->n[j]);
    x->l += x->p[j];
    assert_int_equal(x->p[j], x->oracle.p[FIRST + j]);
    fprintf(x->out, "  key %d: n = %d, g = 0x%04x, h * g = %.9g, p = %d\n", FIRST + j, (int)x->n[j],
            (unsigned)ifa_weight_g(x->n[j]), (double)ifa_weight_exact(x->n[j]), (int)x->p[j]);
  }
}

static void show_sums(row *x, int t, const int32_t *weight) {
  for (int d = 0; d < DIM; d++)
    for (int j = 2 * t; j < 2 * t + 2; j++) x->acc[d] += weight[j] * v[j][d];
  fprintf(x->out, "  l = %d  acc_0 = %d  acc_1 = %d\n", (int)x->l, (int)x->acc[0], (int)x->acc[1]);
}

/* Section 11, and L. */
static void show_lse(const row *x, float l) {
  int32_t whole;
  float log2 = ifa_log2(l, &whole), f = ifa_add(log2, -7.99435344f), lse = ifa_lse(l, x->unit);
  assert_true(lse == x->oracle.lse);
  fprintf(x->out, "L = fl(l) = %.0f = 2^%d * %.9g, y * t = %.9g, f = %.9g, lse = %.9g\n", (double)l,
          (int)whole, (double)ldexpf(l, -whole), (double)log2, (double)f, (double)lse);
}

static void test_example_per_channel(void **state) {
  (void)state;
  char *block = NULL;
  size_t length = 0;
  int32_t want[2];
  row x = {.out = open_memstream(&block, &length),
           .oracle = ask_oracle(0),
           .unit = IFA_NO_UNIT,
           .value_unit = IFA_NO_UNIT};
  show_scores(&x, want);
  for (int t = 0; t < 2; t++) {
    show_weights(&x, t, want[t], 0);
    show_sums(&x, t, x.p);
  }
  assert_int_equal(x.l, x.oracle.l);
  assert_memory_equal(x.acc, x.oracle.acc, sizeof x.acc);
  fprintf(x.out, "\nE = E' = U = %d\n", (int)x.unit);
  show_lse(&x, (float)x.l);
  for (int d = 0; d < DIM; d++) {
    float o = (float)x.acc[d], out = ifa_output(o, (float)x.l, channel_scale[d]);
    assert_true(out == x.oracle.o[d]);
    fprintf(
        x.out,
        "O_%d = fl(%d) = %.0f, out_%d = fl(fl(O_%d / L) * v_scale_%d) = fl(%.9g * %.9g) = %.9g\n",
        d, (int)x.acc[d], (double)o, d, d, d, (double)ifa_div(o, (float)x.l),
        (double)channel_scale[d], (double)out);
  }
  fclose(x.out);
  expect_block("V per channel", block);
  free(block);
}

/* Section 8 for tile t: P into weight. */
static void show_values(row *x, int t, int32_t *weight) {
  float largest = 0.0f;
  uint16_t y[LIVE], most = 0;
  for (int j = 2 * t; j < 2 * t + 2; j++)
    largest = token_scale[j] > largest ? token_scale[j] : largest;
  int32_t b = ifa_value_exponent(largest), before = x->value_unit;
  for (int j = 2 * t; j < 2 * t + 2; j++) {
    uint16_t w = ifa_weight16(x->n[j]), s = ifa_value_scale16(token_scale[j], b);
    y[j] = ifa_value_weight16(w, s);
    most = y[j] > most ? y[j] : most;
    fprintf(x->out, "  key %d: b = %d, W = %.9g, s = fl16(%.9g * 2^%d) = %.9g, y = %.9g\n",
            FIRST + j, (int)b, (double)f16(w), (double)token_scale[j], (int)-b, (double)f16(s),
            (double)f16(y[j]));
  }
  int32_t m = ifa_value_shift(most), want = x->unit + b - m;
  fprintf(x->out, "  largest y 0x%04x: m = %d, e' = %d + %d - %d = %d\n", (unsigned)most, (int)m,
          (int)x->unit, (int)b, (int)m, (int)want);
  x->value_unit =
      show_unit(x->out, "U'", before, want, largest_acc(x), IFA_MAX_PRODUCT * (SPLIT - t * TILE));
  assert_int_equal(x->value_unit, x->oracle.value_unit[t]);
  show_shifted(x, before == IFA_NO_UNIT ? 0 : x->value_unit - before, 0, 1);
  int32_t up = x->unit + b - x->value_unit;
  fprintf(x->out, "  P = rne(y * 2^%d) =", (int)up);
  for (int j = 2 * t; j < 2 * t + 2; j++) {
    weight[j] = ifa_value_weight(y[j], up);
    assert_int_equal(weight[j], x->oracle.value_p[FIRST + j]);
    fprintf(x->out, "%s %d", j % 2 ? "," : "", (int)weight[j]);
  }
  fputc('\n', x->out);
}

static void test_example_per_token(void **state) {
  (void)state;
  char *block = NULL;
  size_t length = 0;
  int32_t want[2], weight[LIVE];
  row x = {.out = fopen("/dev/null", "w"),
           .oracle = ask_oracle(1),
           .unit = IFA_NO_UNIT,
           .value_unit = IFA_NO_UNIT};
  show_scores(&x, want); /* the same as above */
  fclose(x.out);
  x.out = open_memstream(&block, &length);
  for (int t = 0; t < 2; t++) {
    show_weights(&x, t, want[t], 1);
    show_values(&x, t, weight);
    show_sums(&x, t, weight);
  }
  assert_int_equal(x.l, x.oracle.l);
  assert_memory_equal(x.acc, x.oracle.acc, sizeof x.acc);
  int32_t up = x.value_unit - x.unit;
  fprintf(x.out, "\nE = U = %d, E' = U' = %d\n", (int)x.unit, (int)x.value_unit);
  show_lse(&x, (float)x.l);
  for (int d = 0; d < DIM; d++) {
    float o = (float)x.acc[d], out = ifa_output_token(o, (float)x.l, up);
    assert_true(out == x.oracle.o[d]);
    fprintf(x.out, "O_%d = fl(%d) = %.0f, out_%d = fl(O_%d / L) * 2^%d = %.9g * 2^%d = %.9g\n", d,
            (int)x.acc[d], (double)o, d, d, (int)up, (double)ifa_div(o, (float)x.l), (int)up,
            (double)out);
  }
  fclose(x.out);
  expect_block("V per token", block);
  free(block);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_checkpoints),
      cmocka_unit_test(test_example_per_channel),
      cmocka_unit_test(test_example_per_token),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
