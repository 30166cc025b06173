/* test_contract.c - the arithmetic of docs/numerics.md against definitions of this file's own:
 * exact integers where there are any.
 *
 * Every binary16 is a multiple of 2^-24 below 2^16, so it is an integer here ("grains"), a product
 * of two is a multiple of 2^-48 that fits 128 bits, and rounding is a search among the 31744 finite
 * magnitudes. The weight function is tried on all of its 30721 inputs, in each form that the tree
 * has. */
#include <fenv.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/contract.h"
#include "common/random.h"

typedef __int128 wide;

enum { F16_INFINITY = 0x7c00, TOP = 30720 };

static uint64_t random_at(uint64_t stream, uint64_t index) {
  return ifa_random_bits(20240917, stream, index);
}

/* ---- binary16 as integers ---- */

/* The value of a finite pattern in units of 2^-24. The pattern of infinity counts as 65536, where
 * the next binary16 would be. */
static int64_t grains(uint16_t pattern) {
  int64_t exponent = pattern >> 10 & 31, fraction = pattern & 1023;
  int64_t magnitude = exponent == 0 ? fraction : (fraction + 1024) << (exponent - 1);
  return pattern & 0x8000 ? -magnitude : magnitude;
}

/* The binary16 nearest to value * 2^-48, ties to the even pattern. */
static uint16_t nearest16(wide value) {
  wide magnitude = value < 0 ? -value : value;
  int low = 0, high = F16_INFINITY;
  while (high - low > 1) {
    /* value(low) <= magnitude < value(high), unless magnitude is past the end */
    int middle = (low + high) / 2;
    if ((wide)grains((uint16_t)middle) << 24 <= magnitude) low = middle;
    else high = middle;
  }
  wide below = magnitude - ((wide)grains((uint16_t)low) << 24),
       above = ((wide)grains((uint16_t)high) << 24) - magnitude;
  int chosen = below < above ? low : below > above ? high : low % 2 == 0 ? low : high;
  return (uint16_t)((value < 0 ? 0x8000 : 0) | chosen);
}

static uint16_t exact_fma16(uint16_t a, uint16_t b, uint16_t c) {
  return nearest16((wide)grains(a) * grains(b) + (wide)grains(c) * ((wide)1 << 24));
}

/* value / 2^shift to the nearest integer, ties to even; value >= 0. */
static int64_t nearest_integer(wide value, int shift) {
  wide whole = value >> shift, twice = 2 * (value - (whole << shift)), one = (wide)1 << shift;
  return (int64_t)(whole + (twice > one || (twice == one && whole % 2 != 0)));
}

static void test_f16_widening(void **state) {
  (void)state;
  for (uint32_t h = 0; h < 65536; h++) {
    float x = ifa_f16_to_f32((uint16_t)h);
    if ((h & 0x7c00) == 0x7c00) {
      if (h & 1023) assert_true(isnan(x));
      else assert_true(isinf(x));
    } else {
      assert_true((double)x == ldexp((double)grains((uint16_t)h), -24));
    }
    assert_int_equal(ifa_bits_of_f32(x) >> 31, h >> 15);
  }
}

static void test_f16_round_trip(void **state) {
  (void)state;
  for (uint32_t h = 0; h < 65536; h++) {
    uint16_t back = ifa_f32_to_f16(ifa_f16_to_f32((uint16_t)h));
    if ((h & 0x7fff) > F16_INFINITY) assert_int_equal(back, (h & 0x8000) | 0x7e00);
    else assert_int_equal(back, h);
  }
}

/* Between each two neighbours: the midpoint goes to the even one, its neighbours in binary32 and
 * binary64 to the nearer. */
static void test_f16_halfway(void **state) {
  (void)state;
  for (uint32_t h = 0; h < F16_INFINITY; h++) {
    uint16_t above = (uint16_t)(h + 1), even = (uint16_t)(h % 2 ? above : h);
    float middle = (float)ldexp((double)(grains((uint16_t)h) + grains(above)), -25);
    assert_int_equal(ifa_f32_to_f16(middle), even);
    assert_int_equal(ifa_f32_to_f16(nextafterf(middle, 0)), h);
    assert_int_equal(ifa_f32_to_f16(nextafterf(middle, INFINITY)), above);
    assert_int_equal(ifa_f64_to_f16((double)middle), even);
    assert_int_equal(ifa_f64_to_f16(nextafter((double)middle, 0)), h);
    assert_int_equal(ifa_f64_to_f16(nextafter((double)middle, INFINITY)), above);
    assert_int_equal(ifa_f64_to_f16(-(double)middle), 0x8000 | even);
    assert_int_equal(ifa_f64_to_f16(-nextafter((double)middle, 0)), 0x8000 | h);
  }
}

static void test_f16_far_values(void **state) {
  (void)state;
  assert_int_equal(ifa_f64_to_f16(65519.999999), 0x7bff);
  assert_int_equal(ifa_f64_to_f16(65520.0), 0x7c00);
  assert_int_equal(ifa_f64_to_f16(-1e300), 0xfc00);
  assert_int_equal(ifa_f64_to_f16(INFINITY), 0x7c00);
  assert_int_equal(ifa_f64_to_f16(0x1p-25), 0);
  assert_int_equal(ifa_f64_to_f16(0x1.0000000000001p-25), 1);
  assert_int_equal(ifa_f64_to_f16(-0x1p-26), 0x8000);
  assert_int_equal(ifa_f64_to_f16(5e-324), 0);
  assert_int_equal(ifa_f64_to_f16(-0.0), 0x8000);
  assert_int_equal(ifa_f64_to_f16((double)NAN) & 0x7fff, 0x7e00);
  for (uint64_t i = 0; i < 200000; i++) { /* binary64 of 53 bits against the midpoints */
    uint16_t h = (uint16_t)(random_at(1, i) % F16_INFINITY);
    double low = ldexp((double)grains(h), -24),
           high = ldexp((double)grains((uint16_t)(h + 1)), -24);
    double x = low + (high - low) * ldexp((double)(random_at(2, i) >> 11), -53),
           middle = low + (high - low) / 2;
    uint16_t expected = (uint16_t)(x < middle || (x == middle && h % 2 == 0) ? h : h + 1);
    assert_int_equal(ifa_f64_to_f16(x), expected);
  }
}

static void test_bf16(void **state) {
  (void)state;
  for (uint32_t h = 0; h < 65536; h++) {
    float x = ifa_bf16_to_f32((uint16_t)h);
    assert_int_equal(ifa_bits_of_f32(x), h << 16);
    if ((h & 0x7fff) > 0x7f80) { /* NaN stays NaN */
      uint16_t back = ifa_f32_to_bf16(x);
      assert_true((back & 0x7fff) > 0x7f80);
      assert_int_equal(back >> 15, h >> 15);
      continue;
    }
    assert_int_equal(ifa_f32_to_bf16(x), h);
    if ((h & 0x7fff) == 0x7f80) continue;
    /* also past the largest finite one: infinity is the next pattern */
    uint32_t even = h % 2 ? h + 1 : h;
    assert_int_equal(ifa_f32_to_bf16(ifa_f32_of_bits(h << 16 | 0x8000)), even);
    assert_int_equal(ifa_f32_to_bf16(ifa_f32_of_bits(h << 16 | 0x7fff)), h);
    assert_int_equal(ifa_f32_to_bf16(ifa_f32_of_bits(h << 16 | 0x8001)), h + 1);
  }
  /* a NaN whose payload would be cut off */
  assert_int_equal(ifa_f32_to_bf16(ifa_f32_of_bits(0x7f800001)) & 0x7fc0, 0x7fc0);
}

/* Magnitudes below 2^4, as exact.h asks for. */
static void test_fma16(void **state) {
  (void)state;
  for (uint64_t i = 0; i < 300000; i++) {
    uint64_t bits = random_at(3, i);
    uint16_t a = (uint16_t)(bits % 0x4100 | (bits >> 60 & 1) << 15),
             b = (uint16_t)((bits >> 16) % 0x4100 | (bits >> 61 & 1) << 15);
    uint16_t c = (uint16_t)((bits >> 32) % 0x4700 | (bits >> 62 & 1) << 15);
    uint16_t expected = exact_fma16(a, b, c), got = ifa_fma16(a, b, c);
    /* the sign of a zero is no integer's matter */
    if ((expected & 0x7fff) == 0) assert_int_equal(got & 0x7fff, 0);
    else assert_int_equal(got, expected);
  }
}

static void test_mul16(void **state) {
  (void)state;
  for (uint64_t i = 0; i < 300000; i++) {
    uint64_t bits = random_at(4, i);
    uint16_t a = (uint16_t)(bits % F16_INFINITY), b = (uint16_t)((bits >> 20) % F16_INFINITY);
    assert_int_equal(ifa_mul16(a, b), nearest16((wide)grains(a) * grains(b)));
  }
}

/* ---- the weight function ---- */

/* From the document: g's cubic, one rounding a step. */
static uint16_t exact_g(int32_t n) {
  uint16_t w = (uint16_t)(1023 - n % 1024 + 15 * 1024);
  return exact_fma16(exact_fma16(exact_fma16(w, 0x1275, 0x9757), w, 0x887d), w, 0x2090);
}

/* of 2^-48 */
static wide exact_product(int32_t n) { return (wide)grains((uint16_t)n) * grains(exact_g(n)); }

static void test_weight_definition(void **state) {
  (void)state;
  for (int32_t n = 0; n <= TOP; n++) {
    wide product = exact_product(n);
    assert_int_equal(ifa_weight_g(n), exact_g(n));
    assert_true(product > 0 || n == 0);
    assert_true((double)ifa_weight_exact(n) == ldexp((double)product, -48));
    assert_int_equal(ifa_weight(n), nearest_integer(product, 48));
    assert_int_equal(ifa_weight16(n), nearest16(product));
  }
}

/* Binary32: g from a table of 1024, as a float. */
static void test_weight_binary32(void **state) {
  (void)state;
  float g[1024];
  for (int32_t f = 0; f < 1024; f++) g[f] = ifa_f16_to_f32(exact_g(f));
  for (int32_t n = 0; n <= TOP; n++) {
    volatile float product = ifa_f16_to_f32((uint16_t)n) * g[n % 1024];
    assert_int_equal(rintf(product), ifa_weight(n));
  }
}

/* Binary16: adding 1024 rounds at the integers. */
static void test_weight_binary16(void **state) {
  (void)state;
  const uint16_t thousand = 0x6400; /* 1024 */
  for (int32_t n = 0; n <= TOP; n++) {
    uint16_t sum = exact_fma16((uint16_t)n, exact_g(n), thousand);
    assert_int_equal((grains(sum) >> 24) - 1024, ifa_weight(n));
    assert_int_equal(grains(sum) & 0xffffff, 0);
    assert_int_equal(ifa_fma16((uint16_t)n, ifa_weight_g(n), thousand), sum);
  }
}

static void test_weight_shape(void **state) {
  (void)state;
  int32_t first = 0;
  for (int32_t n = 0; n <= TOP; n++) {
    assert_in_range(ifa_weight(n), 0, 255);
    assert_in_range(ifa_weight16(n), 0, 0x5bf8); /* 255 */
    if (n > 0)
      assert_true(ifa_weight(n) >= ifa_weight(n - 1) && ifa_weight16(n) >= ifa_weight16(n - 1));
    if (!first && ifa_weight(n)) first = n;
  }
  assert_int_equal(ifa_weight(TOP), 255);
  assert_int_equal(ifa_weight(0), 0);
  assert_in_range(first, 21495, 21515); /* 255 * 2^x passes one half at 21510 */
}

/* The figures of docs/numerics.md, section 6. */
static void test_weight_error(void **state) {
  (void)state;
  static const double documented[] = {0.0017, 0.0033, 0.0066, 0.0133, 0.0265, 0.0527, 0.104, 0.195};
  double squares = 0, largest = 0, sum = 0;
  for (int32_t n = TOP - 1024; n <= TOP; n++) {
    double error = ifa_weight(n) - 255 * exp2((n - TOP) / 1024.0);
    squares += error * error;
    sum += error;
    largest = fmax(largest, fabs(error));
  }
  assert_float_equal(sqrt(squares / 1025), 0.2963, 0.00005001);
  assert_float_equal(largest, 0.6550, 0.00005001);
  assert_float_equal(sum / 1025, 0.0005, 0.0005);
  for (int octave = 0; octave < 8; octave++) {
    squares = 0;
    for (int32_t n = TOP - 1024 * (octave + 1); n < TOP - 1024 * octave; n++) {
      double exact = 255 * exp2((n - TOP) / 1024.0), error = ifa_weight(n) / exact - 1;
      squares += error * error;
    }
    assert_float_equal(sqrt(squares / 1024), documented[octave],
                       0.01 * documented[octave] + 0.00005);
  }
}

/* ---- the weight function inside the backends, whose tables no test can reach but through the
 * stages ---- */

/* q_scale with fl(q_scale * L) = 2^-12, so that a score of S is S/4 steps of n. One exists: near
 * 2^-12 the products of neighbours lie 1.44 * 2^-36 apart, and an interval of 1.5 * 2^-36 rounds to
 * 2^-12. */
static float quarter_step_scale(void) {
  float scale = 0x1p-12f / IFA_LOG2E;
  for (int i = 0; i < 4; i++) scale = nextafterf(scale, 0);
  for (int i = 0; i < 9; i++, scale = nextafterf(scale, 1))
    if (ifa_row_factor(scale, 1.0f) == 0x1p-12f) return scale;
  fail_msg("no scale gives the row factor 2^-12");
  return 0;
}

enum { WEIGHT_DIM = 16 };

/* The query is 127 fifteen times, then 1; a key that scores s against it, |s| <= 241935. */
static void make_key(int8_t *key, int32_t s) {
  int32_t hundreds = (s + (s < 0 ? -63 : 63)) / 127, rest = s - 127 * hundreds;
  for (int32_t d = 0; d < WEIGHT_DIM - 1; d++) {
    int32_t part = hundreds > 127 ? 127 : hundreds < -127 ? -127 : hundreds;
    key[d] = (int8_t)part;
    hundreds -= part;
  }
  key[WEIGHT_DIM - 1] = (int8_t)rest;
  assert_int_equal(hundreds, 0);
}

/* A key that scores n, given unit 1: n = rne(S / 4) + 29696. 30720 itself is a rounding up of
 * 30719.75. */
static void make_key_of(int8_t *key, int32_t n) {
  make_key(key, n == TOP ? 4095 : 4 * (n - 29696));
}

/* Runs one row over nk keys, and gives p and P. IFA_NOT_AVAILABLE is for builds without OpenMP. */
static ifa_status run_weights(const char *backend, ifa_problem problem, const int8_t *k,
                              const float *v_scale, uint8_t *p, uint8_t *value_p) {
  int8_t q[WEIGHT_DIM], *v = calloc((size_t)problem.nk, WEIGHT_DIM);
  float q_scale = quarter_step_scale(), k_scale = 1.0f, o[WEIGHT_DIM];
  ifa_stages stages = {.p = p, .value_p = value_p};
  ifa_outputs out = {.o = o, .stages = &stages};
  ifa_message why;
  memset(q, 127, sizeof q);
  q[WEIGHT_DIM - 1] = 1;
  problem.head_dim = WEIGHT_DIM;
  problem.sm_scale = 1.0f;
  problem.k_scale = IFA_SCALE_TENSOR;
  ifa_inputs in = {
      .q = q, .k = k, .v = v, .q_scale = &q_scale, .k_scale = &k_scale, .v_scale = v_scale};
  ifa_status status = ifa_run(backend, &problem, &in, &out, &why);
  free(v);
  if (status != IFA_OK && status != IFA_NOT_AVAILABLE) fail_msg("%s: %s", backend, why.text);
  return status;
}

static int is_built(const char *backend) {
#ifdef _OPENMP
  (void)backend;
  return 1;
#else
  return strcmp(backend, "openmp") != 0;
#endif
}

static void check_backend_p(const char *backend) {
  int8_t *k = malloc((TOP + 1) * WEIGHT_DIM);
  uint8_t *p = malloc(TOP + 1);
  float v_scale = 1.0f;
  ifa_problem problem = ifa_problem_default();
  problem.nk = TOP + 1;
  problem.v_scale = IFA_SCALE_TENSOR;
  problem.tau = IFA_TAU_INF;
  for (int32_t j = 0; j <= TOP; j++) make_key_of(k + j * WEIGHT_DIM, TOP - j);
  assert_int_equal(run_weights(backend, problem, k, &v_scale, p, NULL),
                   is_built(backend) ? IFA_OK : IFA_NOT_AVAILABLE);
  for (int32_t j = 0; j <= TOP && is_built(backend); j++)
    assert_int_equal(p[j], nearest_integer(exact_product(TOP - j), 48));
  free(k);
  free(p);
}

/* W shows through P, 8 bits at a time. Each split is one tile of 32 keys: the top key, whose value
 * scale is 0, sets the unit to 1; 31 keys follow with n descending and scales between 1 and 2, so
 * that the products differ in their low bits too. */
static void check_backend_value_p(const char *backend) {
  enum { EACH = 31, TILES = (TOP + EACH) / EACH, KEYS = 32 * TILES };
  int8_t *k = malloc(KEYS * WEIGHT_DIM);
  uint8_t *value_p = malloc(KEYS);
  float *v_scale = calloc(KEYS, sizeof *v_scale);
  int32_t *n = calloc(KEYS, sizeof *n);
  ifa_problem problem = ifa_problem_default();
  problem.nk = KEYS;
  problem.kv_tile = 32;
  problem.kv_split = 32;
  problem.v_scale = IFA_SCALE_TOKEN;
  for (int32_t j = 0; j < KEYS; j++) {
    int32_t left = TOP - (j / 32 * EACH + j % 32 - 1);
    n[j] = j % 32 == 0 ? TOP : left < 0 ? 0 : left;
    make_key_of(k + j * WEIGHT_DIM, n[j]);
    if (j % 32) v_scale[j] = 1.0f + (float)(random_at(5, (uint64_t)j) >> 40) * 0x1p-24f;
  }
  assert_int_equal(run_weights(backend, problem, k, v_scale, NULL, value_p),
                   is_built(backend) ? IFA_OK : IFA_NOT_AVAILABLE);
  for (int32_t tile = 0; tile < TILES && is_built(backend); tile++) {
    int64_t y[32], largest = 0;
    for (int32_t i = 0; i < 32; i++) {
      int32_t j = 32 * tile + i;
      /* v_scale * 2^7, in (128, 256], in units of 2^-48 */
      wide scaled = (wide)((double)v_scale[j] * 0x1p24) << 31;
      y[i] = grains(
          nearest16((wide)grains(nearest16(exact_product(n[j]))) * grains(nearest16(scaled))));
      largest = y[i] > largest ? y[i] : largest;
    }
    assert_true(largest > 0 || n[32 * tile + 1] < 128); /* the last tiles' weights are 0 */
    int m = 15;
    while (largest && (wide)largest << (m + 32) > (wide)255 << (24 + 32)) m--;
    for (int32_t i = 0; i < 32; i++)
      assert_int_equal(value_p[32 * tile + i], nearest_integer((wide)y[i] << (m + 32), 56));
  }
  free(k);
  free(value_p);
  free(v_scale);
  free(n);
}

static void test_weight_in_backends(void **state) {
  (void)state;
  for (int i = 0; i < ifa_backend_count(); i++) {
    if (ifa_backend_supports(ifa_backend_name(i), NULL, NULL) == IFA_NOT_AVAILABLE &&
        strcmp(ifa_backend_name(i), "openmp") != 0)
      continue;
    check_backend_p(ifa_backend_name(i));
    check_backend_value_p(ifa_backend_name(i));
  }
}

/* n against the document's formula in exact integers: u, r and the unit chosen so that every
 * product is a multiple of 2^-62. */
static void test_weight_index(void **state) {
  (void)state;
  int ties = 0;
  for (uint64_t i = 0; i < 200000; i++) {
    int32_t a = (int32_t)(random_at(6, i) % 33554432) - 16777216,
            b = (int32_t)(random_at(7, i) % 16777216);
    int32_t unit = (int32_t)(random_at(8, i) % 64) - 20;
    if (i % 4 == 0) a = a / 256 * 256, b = 1 << (21 + i / 4 % 3); /* ties come up */
    float u = ldexpf((float)a, -14), r = ldexpf((float)b, -29); /* |u * r| up to 2^10 * 2^-5 = 32 */
    /* x + 30 - U in units of 2^-43; n in units of 2^-10 */
    wide z = (wide)a * b + (30 - unit) * ((wide)1 << 43);
    /* scores above the unit, which the backends never have, are clamped too */
    z = z < 0 ? 0 : z > (wide)30 << 43 ? (wide)30 << 43 : z;
    int32_t nearest = (int32_t)(z >> 33), n = ifa_weight_index(u, r, unit);
    wide rest = z - ((wide)nearest << 33), half = (wide)1 << 32;
    if (rest > half || (rest == half && nearest % 2)) nearest++;
    assert_int_equal(n, nearest);
    ties += rest == half;
  }
  assert_true(ties > 1000);
  assert_int_equal(ifa_weight_index(0.0f, 1.0f, 0), 30720);
  assert_int_equal(ifa_weight_index(-0x1p122f, 0x1p-100f, 0), 0);
  /* the lowest scores there are, and the highest */
  assert_int_equal(ifa_weight_index(-0x1p122f, 0x1p-100f, -4194304), 30720);
  assert_int_equal(ifa_weight_index(0x1p122f, 0x1p-100f, 4194305), 29696);
  assert_int_equal(ifa_weight_index(-0.5f, 0x1p-10f, 0), 30720); /* 30719.5: to even */
  assert_int_equal(ifa_weight_index(-1.5f, 0x1p-10f, 0), 30718); /* 30718.5: to even */
  assert_int_equal(ifa_weight_index(-0.75f, 0x1p-10f, 0), 30719);
}

/* ---- units ---- */

static void check_headroom(int64_t magnitude, int64_t growth, int32_t wanted) {
  int32_t k = 0; /* by the definition, in 64 bits */
  while (k < wanted && k < 40 && magnitude * ((int64_t)1 << (k + 1)) <= INT32_MAX - growth) k++;
  if (magnitude == 0) k = wanted;
  assert_int_equal(ifa_headroom((int32_t)magnitude, (int32_t)growth, wanted), k);
}

static void test_headroom(void **state) {
  (void)state;
  static const int64_t growths[] = {
      0, 1, 255, 32640, 255 * 32768, 32640 * 256, 32640LL * 32767, 32640LL * 32768};
  static const int32_t wanteds[] = {0, 1, 2, 7, 29, 30, 31, 32, 100, 8388608};
  for (size_t g = 0; g < sizeof growths / sizeof *growths; g++)
    for (size_t w = 0; w < sizeof wanteds / sizeof *wanteds; w++) {
      int64_t limit = INT32_MAX - growths[g];
      check_headroom(0, growths[g], wanteds[w]);
      for (int k = 0; k < 31; k++)
        for (int64_t off = -1; off <= 1; off++)
          if ((limit >> k) + off >= 0 && (limit >> k) + off <= limit)
            check_headroom((limit >> k) + off, growths[g], wanteds[w]);
      for (uint64_t i = 0; i < 200; i++) {
        int64_t magnitude = (int64_t)(random_at(9, i) >> 33) >> (random_at(10, i) % 31);
        if (magnitude <= limit) check_headroom(magnitude, growths[g], wanteds[w]);
      }
    }
}

static void test_next_unit(void **state) {
  (void)state;
  const int32_t large = INT32_MAX / 2 + 1; /* no headroom at all with growth 1 */
  assert_int_equal(ifa_next_unit(IFA_NO_UNIT, -7, 2, 0, 0), -7);
  assert_int_equal(ifa_next_unit(IFA_NO_UNIT, 4194305, IFA_TAU_INF, 0, 0), 4194305);
  assert_int_equal(ifa_next_unit(3, 4, 2, large, 1), 4); /* raising needs no headroom */
  assert_int_equal(ifa_next_unit(3, 4000, IFA_TAU_INF, large, 1), 4000);
  assert_int_equal(ifa_next_unit(3, 3, 0, 1, 0), 3);
  assert_int_equal(ifa_next_unit(3, 1, 2, 1, 0), 3); /* exactly tau below: stays */
  /* one more: follows all the way */
  assert_int_equal(ifa_next_unit(3, 0, 2, 1, 0), 0);
  assert_int_equal(ifa_next_unit(3, 2, 0, 1, 0), 2);
  assert_int_equal(ifa_next_unit(3, -1000, IFA_TAU_INF, 1, 0), 3); /* infinite tau never lowers */
  /* 1 * 2^30 <= 2^31 - 1 < 1 * 2^31 */
  assert_int_equal(ifa_next_unit(3, -1000, 64, 1, 0), 3 - 30);
  assert_int_equal(ifa_next_unit(3, -10, 2, large, 1), 3); /* k may be 0 */
  /* 2^28 * 2^2 fits, * 2^3 does not */
  assert_int_equal(ifa_next_unit(3, -10, 2, 1 << 28, 0), 1);
  assert_int_equal(ifa_next_unit(3, -1000, 2, 0, 1 << 30), -1000); /* empty sums have no limit */
  assert_int_equal(ifa_next_unit(-100, -163, 64, 1, 0), -100);
  assert_int_equal(ifa_next_unit(-100, -165, 64, 1, 0), -130);
}

static int64_t floor_shift(int64_t x, int32_t up) {
  int64_t divisor = (int64_t)1 << (up > 40 ? 40 : up), quotient = x / divisor;
  return quotient - (x % divisor < 0);
}

static void test_shift(void **state) {
  (void)state;
  static const int32_t values[] = {0,       1,          -1,       2,         -2,         3,
                                   -3,      255,        -255,     INT32_MAX, -INT32_MAX, INT32_MIN,
                                   1 << 30, -(1 << 30), 12345678, -12345678};
  for (size_t v = 0; v < sizeof values / sizeof *values; v++)
    for (int32_t up = 0; up < 100; up++)
      assert_int_equal(ifa_shift(values[v], up), floor_shift(values[v], up));
  for (uint64_t i = 0; i < 100000; i++) {
    int32_t x = (int32_t)(uint32_t)random_at(11, i), up = (int32_t)(random_at(12, i) % 40);
    assert_int_equal(ifa_shift(x, up), floor_shift(x, up));
    x /= 1 << (up % 31); /* -2^31 <= x * 2^(up mod 31) < 2^31 */
    assert_int_equal(ifa_shift(x, -(up % 31)), (int64_t)x * ((int64_t)1 << (up % 31)));
  }
  assert_int_equal(ifa_shift(-1, 8388608), -1);
  assert_int_equal(ifa_shift(INT32_MAX, 8388608), 0);
}

/* Empty sums have no limit to their headroom: V per token, only zeros so far, and a tile that asks
 * for a unit far below. */
static void test_shift_of_nothing(void **state) {
  (void)state;
  static const int32_t ups[] = {-1, -31, -32, -33, -64, -200, -8388608};
  for (size_t i = 0; i < sizeof ups / sizeof *ups; i++) assert_int_equal(ifa_shift(0, ups[i]), 0);
}

static void test_tile_unit(void **state) {
  (void)state;
  for (uint64_t i = 0; i < 300000; i++) {
    /* |x| < 2^22 */
    int scale = (int)(random_at(13, i) % 120) - 60, octaves = (int)(random_at(14, i) % 60) - 38;
    float u = ldexpf((float)((int32_t)(random_at(15, i) % 33554431) - 16777215), scale - 24);
    float r = ldexpf((float)(16777216 - random_at(16, i) % 8388608), octaves - scale - 24);
    double x = (double)u * (double)r; /* 48 bits: exact */
    int32_t e = ifa_tile_unit(u, r);
    assert_true((double)e > x);
    assert_true((double)e - 1 <= x + fabs(x) * 0x1p-24);
  }
  for (int32_t x = -5000; x <= 5000; x++) { /* integers, and their neighbours */
    assert_int_equal(ifa_tile_unit((float)x, 1.0f), x + 1);
    assert_int_equal(ifa_tile_unit((float)x * 1024, 0x1p-10f), x + 1);
    if (x > 0) assert_int_equal(ifa_tile_unit(nextafterf((float)x, 0), 1.0f), x);
    if (x < 0) assert_int_equal(ifa_tile_unit(nextafterf((float)x, 0), 1.0f), x + 1);
  }
  assert_int_equal(ifa_tile_unit(0x1p22f, 1.0f), 4194305);
  assert_int_equal(ifa_tile_unit(-0x1p22f, 1.0f), -4194303);
  assert_int_equal(ifa_tile_unit(0.0f, 0x1p120f), 1);
  assert_int_equal(ifa_tile_unit(-0x1p-149f, 1.0f), 0);
  /* too small for a binary32, and negative all the same */
  assert_int_equal(ifa_tile_unit(-0x1p-80f, 0x1p-100f), 0);
  assert_int_equal(ifa_tile_unit(0x1p-80f, 0x1p-100f), 1);
  assert_int_equal(ifa_tile_unit(-3.0f, 0.0f), 0);
  assert_int_equal(ifa_tile_unit(-0.0f, 1.0f), 1);
  assert_int_equal(ifa_tile_unit(3.0f, 0.0f), 1);
}

/* ---- V scaled per token ---- */

static void test_value_exponent(void **state) {
  (void)state;
  assert_int_equal(ifa_value_exponent(0.0f), 0);
  for (int e = -100; e <= 100; e++) {
    float power = ldexpf(1.0f, e);
    assert_int_equal(ifa_value_exponent(power), e - 8); /* the end of (128, 256] */
    assert_int_equal(ifa_value_exponent(nextafterf(power, INFINITY)), e - 7);
    assert_int_equal(ifa_value_exponent(nextafterf(power, 0)), e - 8);
    assert_int_equal(ifa_value_exponent(1.5f * power), e - 7);
    assert_int_equal(ifa_value_scale16(power, e - 8), 0x5c00); /* 256 */
    assert_int_equal(ifa_value_scale16(nextafterf(power, INFINITY), e - 7), 0x5800);
  }
}

static void test_value_shift(void **state) {
  (void)state;
  for (uint16_t y = 1; y <= 0x7bf8; y++) { /* 0x7bf8 is 65280 */
    int m = 15;
    while ((wide)grains(y) << (m + 32) > (wide)255 << 56) m--;
    assert_int_equal(ifa_value_shift(y), m);
    assert_in_range(ifa_value_weight(y, m), 0, 255);
    assert_int_equal(ifa_value_weight(y, m), nearest_integer((wide)grains(y) << (m + 32), 56));
    assert_int_equal(ifa_value_weight(y, m - 40), 0);
  }
  assert_int_equal(ifa_value_shift(0x5bf8), 0);  /* 255 */
  assert_int_equal(ifa_value_shift(0x5bf9), -1); /* 255.125 */
}

/* W <= 255 and s <= 256: y never passes 65280. */
static void test_value_weight_range(void **state) {
  (void)state;
  for (uint32_t s = 0; s <= 0x5c00; s += 7) {
    assert_true(ifa_value_weight16(ifa_weight16(TOP), (uint16_t)s) <= 0x7bf8);
    assert_int_equal(ifa_value_weight16(0x5bf8, (uint16_t)s),
                     nearest16((wide)grains(0x5bf8) * grains((uint16_t)s)));
  }
  assert_int_equal(ifa_value_weight16(0x5bf8, 0x5c00), 0x7bf8);
}

/* ---- splits, log-sum-exp ---- */

static void test_pow2_and_merge(void **state) {
  (void)state;
  for (int k = -126; k <= 0; k++) assert_true(ifa_pow2(k) == ldexpf(1.0f, k));
  assert_true(ifa_pow2(-127) == 0.0f && ifa_pow2(-8388608) == 0.0f);
  assert_true(ifa_merge(3.0f, 2, 5, 4, 4) == 5.75f); /* 3/4 + 5 */
  assert_true(ifa_merge(3.0f, 4, 5, 2, 4) == 4.25f); /* 3 + 5/4 */
  assert_true(ifa_merge(3.0f, 200, 5, 2, 200) == 3.0f);
  /* (float)16777217 is 16777216, and the tie goes to even */
  assert_true(ifa_merge(1.0f, 0, 16777217, 0, 0) == 16777216.0f);
}

/* Section 9 says that a product and a sum, each rounded, give the bits of the fma, for the product
 * is exact: any integers and units, sums however small. */
static void test_merge_without_fma(void **state) {
  (void)state;
  for (uint64_t i = 0; i < 200000; i++) {
    int32_t split = (int32_t)(ifa_random_bits(9, 1, i) >> ifa_random_below(9, 2, i, 32));
    int32_t e_split = (int32_t)ifa_random_below(9, 3, i, 300) - 150,
            e = (int32_t)ifa_random_below(9, 4, i, 300) - 150, top = e > e_split ? e : e_split;
    float sum =
        ldexpf((float)(int32_t)ifa_random_bits(9, 5, i), -(int)ifa_random_below(9, 6, i, 150));
    volatile float product = (float)split * ifa_pow2(e_split - top);
    volatile float moved = sum * ifa_pow2(e - top), both = product + moved;
    assert_true(ifa_merge(sum, e, split, e_split, top) == both);
  }
}

static void check_log2(float x) {
  int32_t whole;
  float fraction = ifa_log2(x, &whole);
  double exact = log2((double)x), got = (double)whole + (double)fraction;
  assert_true(fabs(got - exact) <= 3e-7 * fabs(exact));
  double m = (double)x * exp2(-whole);
  assert_true(m >= 0.75 && m < 1.5);
}

static void test_log2(void **state) {
  (void)state;
  for (uint64_t i = 0; i < 300000; i++) {
    uint32_t bits = 0x00800000u + (uint32_t)(random_at(17, i) % (0x7f800000u - 0x00800000u));
    check_log2(ifa_f32_of_bits(bits));
    check_log2(1.0f + (float)(random_at(18, i) % 4194304) * 0x1p-23f);
    check_log2(1.0f - (float)(random_at(19, i) % 4194304) * 0x1p-24f);
  }
  for (int e = -126; e < 128; e++) {
    static const float cut[] = {1.0f, 1.5f, 1.25f, 1.75f};
    for (int c = 0; c < 4; c++) {
      float x = ldexpf(cut[c], e);
      check_log2(x);
      check_log2(nextafterf(x, INFINITY) < INFINITY ? nextafterf(x, INFINITY) : x);
      if (nextafterf(x, 0) >= 0x1p-126f) check_log2(nextafterf(x, 0));
    }
  }
  int32_t whole;
  assert_true(ifa_log2(1.0f, &whole) == 0.0f && whole == 0);
  assert_true(ifa_log2(1024.0f, &whole) == 0.0f && whole == 10);
}

/* log2(m) - log2(255) is rounded at magnitude 8, so the bound is relative to the larger of the
 * result and that. */
static void check_lse(float l, int32_t e) {
  double exact = ((double)e + log2((double)l) - log2(255.0)) * log(2.0),
         got = (double)ifa_lse(l, e);
  assert_true(fabs(got - exact) <= 3e-7 * fmax(fabs(exact), 8 * log(2.0)));
}

static void test_lse(void **state) {
  (void)state;
  for (uint64_t i = 0; i < 300000; i++) {
    int32_t l = 1 + (int32_t)(random_at(20, i) >> 34 >> (random_at(21, i) % 30));
    int32_t e = (int32_t)(random_at(22, i) % 129) - 64,
            far = (int32_t)(random_at(23, i) % 8388609) - 4194304;
    check_lse((float)l, e);
    check_lse((float)l, far);
    check_lse(ldexpf((float)l, -(int)(random_at(24, i) % 90)), e);
  }
  for (int power = 0; power < 31; power++) {
    float l = ldexpf(1.0f, power);
    check_lse(l, -power);
    check_lse(nextafterf(l, 0), 8 - power);
    check_lse(1.5f * l, 7);
  }
  assert_true(fabs((double)ifa_lse(255.0f, 0)) < 1e-6);
  assert_float_equal((double)ifa_lse(255.0f, 10), 10 * log(2.0), 1e-6);
}

/* Section 11 once more, step by step, from the document's patterns. */
static float lse_again(float l, int32_t e) {
  static const uint32_t a[5] = {0x4038aa3b, 0x3f76384f, 0x3f13bb63, 0x3ed30bb1, 0x3ea4258a};
  const float b = ifa_f32_of_bits(0xc0ffd1be), ln2 = ifa_f32_of_bits(0x3f317218);
  int exponent;
  float m = frexpf(l, &exponent); /* [0.5, 1) */
  if (m < 0.75f) m *= 2, exponent--;
  volatile float below = m - 1, above = m + 1, t = below / above, q = t * t;
  float y = ifa_f32_of_bits(a[4]);
  for (int i = 3; i >= 0; i--) y = fmaf(y, q, ifa_f32_of_bits(a[i]));
  volatile float log2m = y * t, f = log2m + b, scaled = f * ln2;
  return fmaf((float)(e + exponent), ln2, scaled);
}

static void test_lse_bits(void **state) {
  (void)state;
  assert_int_equal(ifa_bits_of_f32(IFA_LOG2E), 0x3fb8aa3b);
  for (uint64_t i = 0; i < 300000; i++) {
    float l =
        ldexpf((float)(8388608 + random_at(25, i) % 8388608), (int)(random_at(26, i) % 60) - 40);
    int32_t e = (int32_t)(random_at(27, i) % 8388609) - 4194304;
    assert_int_equal(ifa_bits_of_f32(ifa_lse(l, e)), ifa_bits_of_f32(lse_again(l, e)));
    assert_int_equal(ifa_bits_of_f32(ifa_lse(l, e % 50)), ifa_bits_of_f32(lse_again(l, e % 50)));
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_f16_widening),
      cmocka_unit_test(test_f16_round_trip),
      cmocka_unit_test(test_f16_halfway),
      cmocka_unit_test(test_f16_far_values),
      cmocka_unit_test(test_bf16),
      cmocka_unit_test(test_fma16),
      cmocka_unit_test(test_mul16),
      cmocka_unit_test(test_weight_definition),
      cmocka_unit_test(test_weight_binary32),
      cmocka_unit_test(test_weight_binary16),
      cmocka_unit_test(test_weight_shape),
      cmocka_unit_test(test_weight_error),
      cmocka_unit_test(test_weight_in_backends),
      cmocka_unit_test(test_weight_index),
      cmocka_unit_test(test_headroom),
      cmocka_unit_test(test_next_unit),
      cmocka_unit_test(test_shift),
      cmocka_unit_test(test_shift_of_nothing),
      cmocka_unit_test(test_tile_unit),
      cmocka_unit_test(test_value_exponent),
      cmocka_unit_test(test_value_shift),
      cmocka_unit_test(test_value_weight_range),
      cmocka_unit_test(test_pow2_and_merge),
      cmocka_unit_test(test_merge_without_fma),
      cmocka_unit_test(test_log2),
      cmocka_unit_test(test_lse),
      cmocka_unit_test(test_lse_bits),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
