/* test_attention_sums.c - ifa_run's integer sums, replayed in 64 bits. */
#include <math.h>

#include "tests/ref/attention.h"

static int64_t moved(int64_t x, int64_t up) {
  if (x == 0) return 0;
  assert_true(up > -32);
  if (up < 0) return x * ((int64_t)1 << -up);
  int64_t divisor = (int64_t)1 << (up > 40 ? 40 : up);
  return x / divisor - (x % divisor < 0);
}

/* From the stages' scores no further: units, p and P are taken as they are; l and acc must be their
 * sums, and no sum may pass 31 bits. */
static void replay_row(const data *d, const result *r, int64_t row, const int8_t *v) {
  ifa_problem p = ifa_problem_resolved(&d->p);
  int per_token = p.v_scale == IFA_SCALE_TOKEN || p.v_scale == IFA_SCALE_TOKEN_CHANNEL;
  int64_t tiles = ifa_ceil_div(p.nk, p.kv_tile), splits = ifa_ceil_div(p.nk, p.kv_split), l = 0,
          acc[256] = {0};
  int32_t unit = IFA_NO_UNIT, value_unit = IFA_NO_UNIT;
  for (int64_t t = 0; t < tiles; t++) {
    int64_t start = t * p.kv_tile, end = ifa_min64(start + p.kv_tile, p.nk);
    int32_t u = r->stages.unit[row * tiles + t],
            w = per_token ? r->stages.value_unit[row * tiles + t] : u;
    if (start % p.kv_split == 0) l = 0, memset(acc, 0, sizeof acc), unit = value_unit = IFA_NO_UNIT;
    if (unit != IFA_NO_UNIT) l = moved(l, (int64_t)u - unit);
    for (int c = 0; value_unit != IFA_NO_UNIT && c < p.head_dim; c++)
      acc[c] = moved(acc[c], (int64_t)w - value_unit);
    unit = u, value_unit = w;
    for (int64_t j = start; j < end; j++) {
      l += r->stages.p[row * p.nk + j];
      for (int c = 0; c < p.head_dim; c++)
        acc[c] += r->stages.value_p[row * p.nk + j] * (int64_t)v[j * p.head_dim + c];
      if (!per_token)
        assert_int_equal(r->stages.p[row * p.nk + j], r->stages.value_p[row * p.nk + j]);
    }
    assert_true(l <= INT32_MAX);
    for (int c = 0; c < p.head_dim; c++) assert_true(acc[c] <= INT32_MAX && acc[c] >= -INT32_MAX);
    if (end % p.kv_split != 0 && end != p.nk) continue;
    int64_t split = start / p.kv_split;
    assert_int_equal(r->stages.l[row * splits + split], l);
    for (int c = 0; c < p.head_dim; c++)
      assert_int_equal(r->stages.acc[(row * splits + split) * p.head_dim + c], acc[c]);
  }
}

/* 70001 keys with weight 255 and value -128, the largest products there are: -128 * 255 * 32768 in
 * a split. */
static void check_largest_sums(const char *backend) {
  float scale = 0x1p-12f / 1.44269504f;
  ifa_problem p = small(1, 70001, 4);
  p.sm_scale = 1.0f;
  p.k_scale = p.v_scale = IFA_SCALE_TENSOR;
  p.kv_tile = 256;
  data d = data_new(p);
  memcpy(d.q, ((int8_t[]){127, 127, 1, 0}), 4);
  /* 4095 quarter steps: just below the unit */
  for (int64_t j = 0; j < p.nk; j++) memcpy((int8_t *)d.k + 4 * j, ((int8_t[]){32, 0, 31, 0}), 4);
  memset(d.v, -128, 4 * 70001);
  d.q_scale[0] = scale;
  for (int tau = 0; tau < 3; tau++) {
    d.p.tau = (int32_t[]){0, 2, IFA_TAU_INF}[tau];
    result r = run(backend, &d, 1);
    const int64_t keys[3] = {32768, 32768, 70001 - 65536};
    for (int s = 0; s < 3; s++) {
      assert_int_equal(r.stages.l[s], 255 * keys[s]);
      for (int c = 0; c < 4; c++) assert_int_equal(r.stages.acc[4 * s + c], -128 * 255 * keys[s]);
    }
    replay_row(&d, &r, 0, d.v);
    for (int c = 0; c < 4; c++) assert_true(((float *)r.o)[c] == -128.0f);
    assert_true(fabs((double)r.lse[0] - log(70001.0) - 4095.0 / 4096 * log(2)) < 1e-3);
    result_free(&r);
  }
  data_free(&d);
}

/* Extreme operands, scores that rise and fall over many octaves, over 65,536 keys. */
static void check_extreme_sums(const char *backend) {
  static const int32_t taus[] = {0, 2, 64, IFA_TAU_INF};
  for (int i = 0; i < 8; i++) {
    ifa_problem p = small(1, 66000, 3);
    p.tau = taus[i % 4];
    p.kv_tile = 64;
    p.v_scale = i < 4 ? IFA_SCALE_CHANNEL : IFA_SCALE_TOKEN;
    data d = data_new(p);
    for (int64_t j = 0; j < p.nk; j++) {
      uint64_t bits = ifa_random_bits(SEED, 70 + (uint64_t)i, (uint64_t)j),
               tile = ifa_random_bits(SEED, 90 + (uint64_t)i, (uint64_t)(j / 64));
      for (int c = 0; c < 3; c++) {
        ((int8_t *)d.k)[3 * j + c] = (int8_t)(bits >> c & 1 ? -128 : 127);
        ((int8_t *)d.v)[3 * j + c] = (int8_t)(bits >> (8 + c) % 20 & 3 ? -128 : 127);
      }
      d.k_scale[j] = ldexpf(1.0f, -(int)(tile % 12)); /* tiles reach from 2 octaves to thousands */
      d.v_scale[j] = p.v_scale == IFA_SCALE_TOKEN ? ldexpf(1.0f, (int)(tile >> 20) % 30) : 1.0f;
    }
    memset(d.q, -128, 3);
    d.q_scale[0] = 0.01f;
    result r = run(backend, &d, 1);
    replay_row(&d, &r, 0, d.v);
    result_free(&r);
    data_free(&d);
  }
}

/* V per token, and nothing but zeros so far: the value unit may fall any number of octaves. */
static void check_fall_of_nothing(const char *backend) {
  ifa_problem p = small(1, 96, 4);
  p.kv_tile = 32;
  p.v_scale = IFA_SCALE_TOKEN;
  p.tau = 0;
  data d = data_new(p);
  for (int j = 0; j < 96; j++) {
    d.v_scale[j] = j < 32 ? 0x1p90f : j < 64 ? 1.0f : 0x1p-90f;
    memset((int8_t *)d.v + 4 * j, j < 64 ? 0 : 100, 4);
  }
  result r = run(backend, &d, 1);
  assert_true(r.stages.value_unit[0] - r.stages.value_unit[1] == 90 &&
              r.stages.value_unit[1] - r.stages.value_unit[2] == 90);
  replay_row(&d, &r, 0, d.v);
  /* 100/3 * 2^-90 */
  for (int c = 0; c < 4; c++)
    assert_true(((float *)r.o)[c] > 0x1p-85f && ((float *)r.o)[c] < 0x1p-84f);
  result_free(&r);
  data_free(&d);
}

/* Largest k with m * 2^k <= 2^31 - 1 - growth. */
static int32_t headroom(int64_t m, int64_t growth) {
  int32_t k = 0;
  while (m * ((int64_t)2 << k) <= INT32_MAX - growth) k++;
  return k;
}

/* The fall of the unit after a first tile of 32 keys, in a split with room for `rest` keys more, of
 * which 40 come, 25 octaves below: as far as the headroom allows. */
static void check_fall(const char *backend, ifa_granularity v_scale, int64_t rest, int64_t *m) {
  ifa_problem p = small(1, 32 + (rest < 40 ? rest : 40), 1);
  p.kv_tile = 32;
  p.kv_split = 32 + rest;
  p.tau = 1;
  p.v_scale = v_scale;
  p.sm_scale = 1.0f;
  data d = data_new(p);
  ((int8_t *)d.q)[0] = 100;
  d.q_scale[0] = 0.00175f;
  for (int64_t j = 0; j < p.nk; j++) {
    ((int8_t *)d.k)[j] = j < 32 ? 0 : -100; /* 17.5 nats */
    ((int8_t *)d.v)[j] = j < 32 ? 125 : -128;
    d.v_scale[j] = j < 32 ? 1.0f : 0.5f;
  }
  result r = run(backend, &d, 1);
  int per_token = v_scale == IFA_SCALE_TOKEN;
  int32_t *unit = r.stages.unit, *value_unit = r.stages.value_unit;
  int64_t l = 32 * (int64_t)r.stages.p[0];
  *m = 125 * 32 * (int64_t)r.stages.value_p[0];
  assert_int_equal(unit[0] - unit[1],
                   per_token ? headroom(l, 255 * rest) : headroom(*m, 32640 * rest));
  if (per_token) assert_int_equal(value_unit[0] - value_unit[1], headroom(*m, 32640 * rest));
  replay_row(&d, &r, 0, d.v);
  result_free(&r);
  data_free(&d);
}

/* Both sides of the headroom's edge: with `rest` keys to come the sums may take k octaves, with a
 * tile more they may not. */
static void check_headroom_edge(const char *backend) {
  for (int kind = 0; kind < 2; kind++)
    for (int k = 10, edges = 0; k < 15 || !edges; k++) {
      ifa_granularity v_scale = kind ? IFA_SCALE_TOKEN : IFA_SCALE_CHANNEL;
      int64_t m;
      check_fall(backend, v_scale, 32, &m);
      int64_t rest = (INT32_MAX - m * ((int64_t)1 << k)) / 32640 / 32 * 32;
      assert_true(k < 20);
      if (rest < 32 || rest > 32768 - 64) continue;
      assert_int_equal(headroom(m, 32640 * rest), k);
      assert_int_equal(headroom(m, 32640 * (rest + 32)), k - 1);
      check_fall(backend, v_scale, rest, &m);
      check_fall(backend, v_scale, rest + 32, &m);
      edges++;
    }
}

/* Row i of a causal prefill, and the same token decoded when it was the last: the same bits,
 * whatever follows. Value scales span what a binary16 cannot hold, scores rise and fall so that the
 * headroom binds. */
static void check_prefill_and_decode(const char *backend) {
  static const int64_t rows[] = {0, 31, 32, 33, 70, 127, 128, 149};
  for (int kind = 0; kind < 4; kind++) {
    ifa_problem p = small(150, 150, 5);
    p.kv_tile = 32;
    p.kv_split = kind & 1 ? 64 : 0;
    p.tau = kind & 1 ? 2 : 0;
    p.causal = 1;
    p.window = kind == 3 ? 40 : 0;
    p.v_scale = kind < 2 ? IFA_SCALE_TOKEN : IFA_SCALE_TOKEN_CHANNEL, p.lse = 1;
    data d = data_new(p);
    data_fill(&d, 900 + (uint64_t)kind);
    for (int64_t j = 0; j < p.nk; j++) {
      uint64_t bits = ifa_random_bits(SEED, 500 + (uint64_t)kind, (uint64_t)j);
      d.q_scale[j] = 0x1p-8f, d.k_scale[j] = ldexpf(0.25f, -(int)(bits % 8));
      d.v_scale[j] =
          ldexpf(1.0f + (float)(bits >> 8 & 1023) / 1024.0f, (int)(bits >> 20) % 40 - 20);
    }
    result all = run(backend, &d, 1);
    for (size_t n = 0; n < sizeof rows / sizeof rows[0]; n++) {
      data one = d;
      one.p.nq = 1, one.p.nk = rows[n] + 1;
      one.in.q = (int8_t *)d.q + rows[n] * p.head_dim;
      one.in.q_scale = d.q_scale + rows[n];
      result last = run(backend, &one, 1);
      assert_memory_equal(last.o, (float *)all.o + rows[n] * p.head_dim,
                          (size_t)p.head_dim * sizeof(float));
      assert_memory_equal(last.lse, all.lse + rows[n], sizeof(float));
      result_free(&last);
    }
    result_free(&all);
    data_free(&d);
  }
}

static void test_prefill_and_decode(void **state) {
  (void)state;
  assert_true(for_backends(check_prefill_and_decode) >= 3 + have_openmp());
}
static void test_headroom_edge(void **state) {
  (void)state;
  assert_true(for_backends(check_headroom_edge) >= 3 + have_openmp());
}
static void test_largest_sums(void **state) {
  (void)state;
  assert_true(for_backends(check_largest_sums) >= 3 + have_openmp());
}
static void test_extreme_sums(void **state) {
  (void)state;
  assert_true(for_backends(check_extreme_sums) >= 3 + have_openmp());
}
static void test_fall_of_nothing(void **state) {
  (void)state;
  assert_true(for_backends(check_fall_of_nothing) >= 3 + have_openmp());
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_largest_sums),    cmocka_unit_test(test_extreme_sums),
      cmocka_unit_test(test_fall_of_nothing), cmocka_unit_test(test_prefill_and_decode),
      cmocka_unit_test(test_headroom_edge),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
