/* test_attention.c - ifa_run: cases worked out by hand, one backend against the other bit by bit,
 * and what a result must not depend on (threads, rows chosen, place in the batch, floating-point
 * environment). */
#include <fenv.h>
#include <math.h>
#include <stdio.h>

#include "tests/ref/attention.h"

#ifdef _OPENMP
#include <omp.h>
#endif
#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

/* ---- by hand ---- */

/* One key: p * v / p is v, exactly; then times the scale, rounded once. */
static void check_one_key(const char *backend) {
  for (int scale = IFA_SCALE_TENSOR; scale <= IFA_SCALE_TOKEN_CHANNEL; scale++) {
    if (scale == IFA_SCALE_BLOCK) continue;
    ifa_problem p = small(1, 1, 5);
    p.v_scale = (ifa_granularity)scale;
    data d = data_new(p);
    const int8_t v[5] = {-128, 127, 0, 1, -7};
    memcpy(d.v, v, 5);
    memset(d.q, 3, 5);
    memset(d.k, -5, 5);
    for (int i = 0; i < 5; i++)
      d.v_scale[i] = scale == IFA_SCALE_CHANNEL ? 0.1f * (float)(i + 1) : 0.3f,
      d.v_channel_scale[i] = 0.7f;
    result r = run(backend, &d, 0);
    for (int i = 0; i < 5; i++) {
      float expected = (float)v[i] * d.v_scale[scale == IFA_SCALE_CHANNEL ? i : 0];
      if (scale == IFA_SCALE_TOKEN || scale == IFA_SCALE_TOKEN_CHANNEL) {
        /* 0.3 becomes an 8-bit weight: off by up to 1/255 or so */
        expected *= scale == IFA_SCALE_TOKEN_CHANNEL ? 0.7f : 1.0f;
        assert_true(fabsf(((float *)r.o)[i] - expected) <= 0.008f * fabsf(expected));
      } else {
        assert_memory_equal((float *)r.o + i, &expected, 4);
      }
    }
    /* the weight, 128 or more, is off by 0.66 at most */
    assert_true(fabsf(r.lse[0] - 5 * 3 * -5 * 0.125f) < 0.006f);
    result_free(&r);
    data_free(&d);
  }
}

/* Equal scores: the mean of v, whatever the weight. 0.25 is exact and so are the sums. */
static void check_equal_scores(const char *backend) {
  ifa_problem p = small(2, 7, 3);
  data d = data_new(p);
  const int8_t v[21] = {1,   -128, 127,  2,    -128, 127,  3,   -128, -127, 4,   -128,
                        127, 5,    -128, -127, 6,    -128, 127, 8,    -128, -126};
  memcpy(d.v, v, 21);
  memset(d.q, 9, 6);
  memset(d.k, 11, 21);
  for (int i = 0; i < 3; i++) d.v_scale[i] = 0.25f;
  result r = run(backend, &d, 0);
  const float expected[3] = {29.0f / 7.0f * 0.25f, -32.0f, 128.0f / 7.0f * 0.25f};
  assert_memory_equal(r.o, expected, 12);
  assert_memory_equal((float *)r.o + 3, expected, 12);
  assert_true(fabs((double)r.lse[0] - (3 * 9 * 11 * 0.125 + log(7))) < 0.006);
  result_free(&r);
  data_free(&d);
}

/* sm_scale 0, or a scale of 0: every score is 0. Where u is not negative the unit is 1 and n =
 * 29696, whose weight stands for 1/2; where it is, the unit is 0 and the weight 255. */
static void check_zero_scores_of(const char *backend, int8_t k) {
  ifa_problem p = small(1, 40, 4);
  p.kv_tile = 32;
  p.sm_scale = 0.0f;
  p.out_type = IFA_F16;
  data d = data_new(p);
  memset(d.q, 100, 4);
  memset(d.k, k, 160);
  for (int j = 0; j < 160; j++) ((int8_t *)d.v)[j] = (int8_t)(j % 4 == 0 ? j / 4 : j % 4);
  result r = run(backend, &d, 1);
  uint8_t weight = r.stages.p[0];
  int32_t unit = k < 0 ? 0 : 1;
  assert_true(k < 0 ? weight == 255 : weight == 127 || weight == 128);
  for (int j = 0; j < 40; j++) assert_int_equal(r.stages.p[j], weight);
  for (int j = 0; j < 40; j++) assert_int_equal(r.stages.s[j], 400 * k);
  assert_true(r.stages.unit[0] == unit && r.stages.unit[1] == unit &&
              r.stages.value_unit[0] == IFA_NO_UNIT);
  assert_int_equal(r.stages.l[0], 40 * weight);
  assert_int_equal(r.stages.acc[0], 780 * weight);
  assert_int_equal(r.stages.acc[3], 120 * weight);
  assert_memory_equal(r.o, ((uint16_t[]){0x4ce0, 0x3c00, 0x4000, 0x4200}), 8); /* 19.5, 1, 2, 3 */
  assert_true(fabs((double)r.lse[0] - log(40.0 * weight / (k < 0 ? 255 : 127.5))) < 2e-6);
  result_free(&r);
  data_free(&d);
}

static void check_zero_scores(const char *backend) {
  static const int8_t keys[] = {-100, 0, 100};
  for (size_t i = 0; i < sizeof keys; i++) check_zero_scores_of(backend, keys[i]);
}

/* Two keys, one of them 30 octaves and more below: it has weight 0. */
static void check_far_key(const char *backend) {
  ifa_problem p = small(1, 2, 1);
  p.sm_scale = 1.0f;
  data d = data_new(p);
  ((int8_t *)d.q)[0] = 100;
  ((int8_t *)d.k)[0] = 10, ((int8_t *)d.k)[1] = -10; /* 1000 and -1000 nats */
  ((int8_t *)d.v)[0] = 77, ((int8_t *)d.v)[1] = -128;
  result r = run(backend, &d, 1);
  assert_true(*(float *)r.o == 77.0f);
  assert_int_equal(r.stages.p[1], 0);
  assert_int_equal(r.stages.unit[0], 1443); /* 1000 * log2(e) = 1442.695 */
  assert_true(fabs((double)r.lse[0] - 1000.0) < 0.006);
  result_free(&r);
  data_free(&d);
}

/* No keys at all: +0 and -inf, in every output type. */
static void check_no_keys(const char *backend) {
  for (int type = IFA_F32; type <= IFA_BF16; type++) {
    ifa_problem p = small(3, 0, 4);
    p.out_type = (ifa_type)type;
    data d = data_new(p);
    d.in.k = d.in.v = NULL;
    result r = run(backend, &d, 1);
    for (size_t i = 0; i < r.o_bytes; i++) assert_int_equal(((uint8_t *)r.o)[i], 0);
    for (int i = 0; i < 3; i++) assert_true(isinf(r.lse[i]) && r.lse[i] < 0);
    result_free(&r);
    data_free(&d);
  }
  ifa_problem p = small(0, 5, 4); /* no rows: nothing to write, and nothing needed */
  ifa_outputs out = {0};
  float scale[20] = {1, 1, 1, 1, 1};
  int8_t kv[20] = {0};
  ifa_inputs in = {.k = kv, .v = kv, .k_scale = scale, .v_scale = scale};
  ifa_message why = {"left over"};
  expect_ok(ifa_run(backend, &p, &in, &out, &why), &why);
}

/* Rows that see nothing among rows that do: causal with nq > nk. Row i sees keys 0 .. i - 3. */
static void check_masked_rows(const char *backend) {
  ifa_problem p = small(5, 2, 2);
  p.causal = 1;
  data d = data_new(p);
  memcpy(d.v, ((int8_t[]){10, -20, 30, 41}), 4);
  result r = run(backend, &d, 1);
  const float *o = r.o;
  for (int i = 0; i < 6; i++) assert_true(o[i] == 0.0f && !signbit(o[i]));
  for (int i = 0; i < 3; i++) {
    assert_true(isinf(r.lse[i]) && r.lse[i] < 0);
    assert_true(r.stages.unit[i] == IFA_NO_UNIT && r.stages.l[i] == 0 && r.stages.p[2 * i] == 0 &&
                r.stages.p[2 * i + 1] == 0);
  }
  assert_true(o[6] == 10.0f && o[7] == -20.0f && o[8] == 20.0f && o[9] == 10.5f);
  assert_true(r.stages.p[6] >= 127 && r.stages.p[7] == 0 && r.stages.p[9] >= 127);
  result_free(&r);
  data_free(&d);
}

/* A window of 2 sees j = i - 1, i, i + 1; with causal i - 1, i. */
static void check_windows(const char *backend) {
  for (int causal = 0; causal < 2; causal++) {
    ifa_problem p = small(4, 4, 1);
    p.window = 2, p.causal = causal;
    data d = data_new(p);
    memcpy(d.v, ((int8_t[]){4, 8, 16, 32}), 4);
    result r = run(backend, &d, 0);
    const float both[4] = {6.0f, 28.0f / 3.0f, 56.0f / 3.0f, 24.0f},
                left[4] = {4.0f, 6.0f, 12.0f, 24.0f};
    assert_memory_equal(r.o, causal ? left : both, 16);
    result_free(&r);
    data_free(&d);
  }
}

/* Query heads 0, 1 read key/value head 0, heads 2, 3 read 1; K and V shared by a head stride of 0
 * gives all heads the same. */
static void check_head_groups(const char *backend) {
  ifa_problem p = small(1, 1, 2);
  p.q_heads = 4, p.kv_heads = 2;
  data d = data_new(p);
  memcpy(d.v, ((int8_t[]){1, 2, 3, 4}), 4);
  result r = run(backend, &d, 0);
  assert_memory_equal(r.o, ((float[]){1, 2, 1, 2, 3, 4, 3, 4}), 32);
  result_free(&r);
  d.p.v_stride = (ifa_strides){2, 0, 2};
  r = run(backend, &d, 0);
  assert_memory_equal(r.o, ((float[]){1, 2, 1, 2, 1, 2, 1, 2}), 32);
  result_free(&r);
  data_free(&d);
}

static void test_one_key(void **state) {
  (void)state;
  assert_true(for_backends(check_one_key) >= 3 + have_openmp());
}
static void test_equal_scores(void **state) {
  (void)state;
  assert_true(for_backends(check_equal_scores) >= 3 + have_openmp());
}
static void test_zero_scores(void **state) {
  (void)state;
  assert_true(for_backends(check_zero_scores) >= 3 + have_openmp());
}
static void test_far_key(void **state) {
  (void)state;
  assert_true(for_backends(check_far_key) >= 3 + have_openmp());
}
static void test_no_keys(void **state) {
  (void)state;
  assert_true(for_backends(check_no_keys) >= 3 + have_openmp());
}
static void test_masked_rows(void **state) {
  (void)state;
  assert_true(for_backends(check_masked_rows) >= 3 + have_openmp());
}
static void test_windows(void **state) {
  (void)state;
  assert_true(for_backends(check_windows) >= 3 + have_openmp());
}
static void test_head_groups(void **state) {
  (void)state;
  assert_true(for_backends(check_head_groups) >= 3 + have_openmp());
}

/* ---- random problems ---- */

static ifa_strides random_strides(uint64_t stream, uint64_t i, ifa_type type, int64_t heads,
                                  int64_t tokens, int64_t dim, int written) {
  uint32_t choice = below(stream, i, written ? 3 : 4);
  int64_t row = (dim + 3) / 2 * 2 + 2 * below(stream + 1, i, 5);
  if (choice == 1) return ifa_strides_bnhd(type, heads, tokens, dim);
  if (choice == 2) return (ifa_strides){row * tokens * heads + 6, row * tokens, row};
  if (choice == 3) return (ifa_strides){row * tokens, 0, row}; /* all heads share one matrix */
  return (ifa_strides){0, 0, 0};
}

static ifa_problem random_problem(uint64_t i) {
  static const int32_t taus[] = {0, 1, 2, 8, 64, IFA_TAU_INF};
  static const ifa_granularity v_scales[] = {IFA_SCALE_TENSOR, IFA_SCALE_CHANNEL, IFA_SCALE_TOKEN,
                                             IFA_SCALE_TOKEN_CHANNEL};
  ifa_problem p = ifa_problem_default();
  p.batch = 1 + below(0, i, 2);
  p.kv_heads = 1 + below(1, i, 3);
  p.q_heads = p.kv_heads * (1 + below(2, i, 3));
  p.nq = below(3, i, 8) ? 1 + below(4, i, 12) : below(4, i, 80);
  p.nk = below(5, i, 4) ? 1 + below(6, i, 300) : below(6, i, 1200);
  p.head_dim = (int32_t)(1 + below(7, i, below(8, i, 5) ? 40 : 256));
  p.q_type = below(9, i, 3) ? IFA_I8 : IFA_I4;
  p.k_type = below(10, i, 3) ? IFA_I8 : IFA_I4;
  p.v_type = below(11, i, 3) ? IFA_I8 : IFA_I4;
  p.q_scale = (ifa_granularity)below(12, i, 3);
  p.k_scale = (ifa_granularity)below(13, i, 3);
  p.v_scale = v_scales[below(14, i, 4)];
  p.kv_tile = 32 << below(15, i, 4);
  p.q_block = (int32_t)(1 + below(16, i, 20));
  p.k_block = p.kv_tile * (int32_t)(1 + below(17, i, 3));
  p.kv_split = p.kv_tile * below(18, i, 4);
  p.sm_scale = below(19, i, 12) ? 0.01f + ifa_random_uniform(SEED, 20, i) : 0.0f;
  p.causal = (int32_t)below(21, i, 2);
  p.window = below(22, i, 2) ? 0 : 1 + below(23, i, 200);
  p.tau = taus[below(24, i, 6)];
  p.out_type = (ifa_type)below(25, i, 3);
  p.lse = (int32_t)below(26, i, 2);
  p.q_stride = random_strides(27, i, p.q_type, p.q_heads, p.nq, p.head_dim, 0);
  p.k_stride = random_strides(29, i, p.k_type, p.kv_heads, p.nk, p.head_dim, 0);
  p.v_stride = random_strides(31, i, p.v_type, p.kv_heads, p.nk, p.head_dim, 0);
  p.o_stride = random_strides(33, i, p.out_type, p.q_heads, p.nq, p.head_dim, 1);
  return p;
}

/* About a third of the rows; NULL if there are none. */
static int64_t *random_rows(const ifa_problem *p, uint64_t i, int64_t *count) {
  int64_t total = p->batch * p->q_heads * p->nq,
          *rows = filled((size_t)(total + 1) * sizeof *rows, 0);
  *count = 0;
  for (int64_t r = 0; r < total; r++)
    if (ifa_random_below(SEED + i, 50, (uint64_t)r, 3) == 0) rows[(*count)++] = r;
  return rows;
}

/* The bytes of the output that belong to row `number` begin here. */
static size_t row_begin(const ifa_problem *p, int64_t number) {
  int64_t matrix = number / p->nq;
  return (size_t)ifa_offset(p->o_stride, matrix / p->q_heads, matrix % p->q_heads, number % p->nq) *
         ifa_type_bytes(p->out_type);
}

/* The chosen rows are those of the whole run, and nothing else is written. */
static void check_subset(const data *d, const result *whole, const result *part) {
  ifa_problem p = ifa_problem_resolved(&d->p);
  uint8_t *expected = filled(whole->o_bytes, UNWRITTEN);
  float *lse = filled(whole->lse_count * sizeof(float), UNWRITTEN);
  for (int64_t i = 0; i < d->in.row_count; i++) {
    size_t begin = row_begin(&p, d->in.rows[i]),
           bytes = (size_t)p.head_dim * ifa_type_bytes(p.out_type);
    memcpy(expected + begin, (const uint8_t *)whole->o + begin, bytes);
    if (p.lse) lse[d->in.rows[i]] = whole->lse[d->in.rows[i]];
    for (int s = 0; s < 7; s++) {
      ifa_stages x = whole->stages, y = part->stages;
      size_t each = whole->stage_bytes[s] / (size_t)(p.batch * p.q_heads * p.nq);
      assert_memory_equal((uint8_t *)*stage_at(&y, s) + (size_t)i * each,
                          (uint8_t *)*stage_at(&x, s) + (size_t)d->in.rows[i] * each, each);
    }
  }
  assert_memory_equal(part->o, expected, whole->o_bytes);
  if (p.lse) assert_memory_equal(part->lse, lse, whole->lse_count * sizeof(float));
  free(expected);
  free(lse);
}

static void test_random_problems(void **state) {
  (void)state;
  const char *other = have_openmp() ? "openmp" : "scalar";
  for (uint64_t i = 0; i < 400; i++) {
    data d = data_new(random_problem(i));
    data_fill(&d, i);
    result scalar = run("scalar", &d, 1), openmp = run(other, &d, 1), plain = run(other, &d, 0);
    expect_same(&scalar, &openmp, 1, &d);
    expect_same(&scalar, &plain, 0, &d);
    int64_t count, *rows = random_rows(&d.p, i, &count);
    d.in.rows = rows, d.in.row_count = count;
    result part = run("scalar", &d, 1), other_part = run(other, &d, 1);
    check_subset(&d, &scalar, &part);
    check_subset(&d, &scalar, &other_part);
    result_free(&scalar);
    result_free(&openmp);
    result_free(&plain);
    result_free(&part);
    result_free(&other_part);
    free(rows);
    data_free(&d);
  }
}

/* ---- a scale of -0 is a scale of 0 ---- */

/* Turns every 0 among the scales, and sm_scale if it is one, into -0. Says how many there were. */
static int turn_zeros(data *d) {
  const ifa_problem *p = &d->p;
  struct {
    float *scales;
    int64_t count;
  } all[] = {
      {d->q_scale,
       ifa_scale_count(p->q_scale, p->batch, p->q_heads, p->nq, p->head_dim, p->q_block)},
      {d->k_scale,
       ifa_scale_count(p->k_scale, p->batch, p->kv_heads, p->nk, p->head_dim, p->k_block)},
      {d->v_scale, ifa_scale_count(p->v_scale, p->batch, p->kv_heads, p->nk, p->head_dim, 0)},
      {d->v_channel_scale, p->batch * p->kv_heads * p->head_dim},
      {&d->p.sm_scale, 1}};
  int turned = 0;
  for (int i = 0; i < 5; i++)
    for (int64_t j = 0; j < all[i].count; j++)
      if (all[i].scales[j] == 0.0f) all[i].scales[j] = -0.0f, turned++;
  return turned;
}

/* Outputs are equal, and if V has no factor per tensor or channel, their bits too: such a factor
 * decides the sign of a zero, as in every product. */
static void expect_equal_outputs(const data *d, const result *a, const result *b) {
  ifa_problem p = ifa_problem_resolved(&d->p);
  if (p.v_scale == IFA_SCALE_TOKEN) assert_memory_equal(a->o, b->o, a->o_bytes);
  for (int64_t i = 0; i < rows_of(d); i++) {
    size_t begin = row_begin(&p, i) / ifa_type_bytes(p.out_type);
    for (int32_t j = 0; j < p.head_dim; j++)
      assert_true(ifa_float_get(p.out_type, a->o, (int64_t)begin + j) ==
                  ifa_float_get(p.out_type, b->o, (int64_t)begin + j));
  }
  if (p.lse) assert_memory_equal(a->lse, b->lse, a->lse_count * sizeof(float));
  for (int s = 0; s < 7; s++) {
    ifa_stages x = a->stages, y = b->stages;
    assert_memory_equal(*stage_at(&x, s), *stage_at(&y, s), a->stage_bytes[s]);
  }
}

static void test_minus_zero(void **state) {
  (void)state;
  static const char *const others[] = {"openmp",      "cpu-portable",     "cpu-avx2",
                                       "cpu-avxvnni", "cpu-avx512vnni",   "cpu-avx512fp16",
                                       "cpu-amx",     "cpu-neon-dotprod", "cpu-neon-i8mm"};
  int turned = 0;
  for (uint64_t i = 0; i < 60; i++) {
    data d = data_new(random_problem(i));
    data_fill(&d, i);
    result plus = run("scalar", &d, 1);
    turned += turn_zeros(&d) > 0;
    result minus = run("scalar", &d, 1);
    expect_equal_outputs(&d, &plus, &minus);
    for (size_t b = 0; b < sizeof others / sizeof others[0]; b++) {
      if (ifa_backend_supports(others[b], &d.p, NULL) != IFA_OK) continue;
      result other = run(others[b], &d, 0);
      expect_same(&minus, &other, 0, &d);
      result_free(&other);
    }
    result_free(&plus), result_free(&minus);
    data_free(&d);
  }
  assert_true(turned > 40);
}

/* Three keys, the first token's scale 0: the second's y decides U'. */
static void test_minus_zero_by_hand(void **state) {
  (void)state;
  ifa_problem p = ifa_problem_default();
  p.nk = 3;
  p.head_dim = 1;
  p.v_scale = IFA_SCALE_TOKEN;
  p.kv_tile = 32;
  p.sm_scale = 1.0f;
  static const int8_t k[] = {1, 1, 0}, v[] = {50, 100, -77};
  for (int minus = 0; minus < 2; minus++) {
    data d = data_new(p);
    memcpy(d.k, k, sizeof k), memcpy(d.v, v, sizeof v);
    *(int8_t *)d.q = 1;
    d.v_scale[0] = minus ? -0.0f : 0.0f, d.v_scale[2] = 0.3f;
    result r = run("scalar", &d, 1);
    uint32_t bits;
    memcpy(&bits, r.o, sizeof bits);
    assert_int_equal(bits, 0x421a81e0);
    result_free(&r);
    data_free(&d);
  }
}

static void test_not_available(void **state) {
  (void)state;
  ifa_message why = {""};
#ifdef _OPENMP
  assert_int_equal(ifa_backend_supports("openmp", NULL, &why), IFA_OK);
#else
  ifa_problem p = ifa_problem_default();
  assert_int_equal(ifa_backend_supports("openmp", NULL, &why), IFA_NOT_AVAILABLE);
  assert_non_null(strstr(why.text, "OpenMP"));
  assert_int_equal(ifa_backend_supports("openmp", &p, &why), IFA_NOT_AVAILABLE);
  data d = data_new(p);
  float o[64] = {5};
  assert_int_equal(ifa_run("openmp", &p, &d.in, &(ifa_outputs){.o = o}, &why), IFA_NOT_AVAILABLE);
  assert_true(o[0] == 5);
  data_free(&d);
#endif
  assert_int_equal(ifa_backend_supports("scalar", NULL, &why), IFA_OK);
}

/* ---- independence ---- */

static void test_threads_and_schedules(void **state) {
  (void)state;
#ifdef _OPENMP
  static const int threads[] = {1, 2, 3, 5, 16};
  static const struct {
    omp_sched_t kind;
    int chunk;
  } schedules[] = {{omp_sched_static, 1}, {omp_sched_dynamic, 3}, {omp_sched_guided, 1}};
  int before = omp_get_max_threads();
  for (uint64_t i = 1000; i < 1006; i++) {
    ifa_problem p = random_problem(i);
    p.batch = 2, p.nq = 70; /* several tasks a matrix */
    p.q_stride = p.o_stride = (ifa_strides){0, 0, 0};
    data d = data_new(p);
    data_fill(&d, i);
    result scalar = run("scalar", &d, 1);
    for (int t = 0; t < 5; t++)
      for (int s = 0; s < 3; s++) {
        omp_set_num_threads(threads[t]);
        omp_set_schedule(schedules[s].kind, schedules[s].chunk);
        result r = run("openmp", &d, 1);
        expect_same(&scalar, &r, 1, &d);
        result_free(&r);
      }
    omp_set_num_threads(before);
    result_free(&scalar);
    data_free(&d);
  }
#else
  skip();
#endif
}

/* The matrix (q, k, v) of one head with its scales, as head `h` of batch `b` of a larger problem.
 */
static void place(data *to, int64_t b, int64_t h, const data *one) {
  const ifa_problem *p = &to->p;
  int64_t q_bytes = p->nq * p->head_dim, kv_bytes = p->nk * p->head_dim, head = b * p->q_heads + h;
  memcpy((int8_t *)to->q + head * q_bytes, one->q, (size_t)q_bytes);
  memcpy((int8_t *)to->k + head * kv_bytes, one->k, (size_t)kv_bytes);
  memcpy((int8_t *)to->v + head * kv_bytes, one->v, (size_t)kv_bytes);
  memcpy(to->q_scale + head * p->nq, one->q_scale, (size_t)p->nq * 4);
  memcpy(to->k_scale + head * p->nk, one->k_scale, (size_t)p->nk * 4);
  int64_t v_scales = ifa_scale_count(p->v_scale, 1, 1, p->nk, p->head_dim, 0);
  memcpy(to->v_scale + head * v_scales, one->v_scale, (size_t)v_scales * 4);
}

static void check_place(const char *backend) {
  for (uint64_t i = 0; i < 6; i++) {
    ifa_problem p = small(37, 150, 24);
    p.v_scale = i % 2 ? IFA_SCALE_TOKEN : IFA_SCALE_CHANNEL;
    p.causal = i / 2 % 2, p.kv_split = i == 5 ? 64 : 0;
    data one = data_new(p);
    data_fill(&one, 2000 + i);
    result alone = run(backend, &one, 0);
    p.batch = 1 + (int64_t)i % 3, p.q_heads = p.kv_heads = 1 + (int64_t)i;
    data many = data_new(p);
    data_fill(&many, 3000 + i);
    for (int64_t head = 0; head < p.batch * p.q_heads; head += 2)
      place(&many, head / p.q_heads, head % p.q_heads, &one);
    result r = run(backend, &many, 0);
    for (int64_t head = 0; head < p.batch * p.q_heads; head += 2) {
      assert_memory_equal((uint8_t *)r.o + (size_t)head * alone.o_bytes, alone.o, alone.o_bytes);
      assert_memory_equal(r.lse + head * 37, alone.lse, 37 * sizeof(float));
    }
    if (p.batch * p.q_heads > 1)
      assert_memory_not_equal((uint8_t *)r.o + alone.o_bytes, alone.o, alone.o_bytes);
    result_free(&alone), result_free(&r);
    data_free(&one), data_free(&many);
  }
}

static void test_place_in_the_batch(void **state) {
  (void)state;
  assert_true(for_backends(check_place) >= 3 + have_openmp());
}

/* A problem whose sums and output pass through subnormals: scales of 2^-70 by token and by channel.
 */
static data subnormal_data(void) {
  ifa_problem p = small(9, 200, 16);
  p.v_scale = IFA_SCALE_TOKEN_CHANNEL;
  p.kv_split = 64;
  data d = data_new(p);
  data_fill(&d, 4000);
  for (int j = 0; j < 200; j++) d.v_scale[j] = 0x1p-70f * (1.0f + (float)j / 200);
  for (int c = 0; c < 16; c++) d.v_channel_scale[c] = 0x1.4p-70f;
  return d;
}

static int count_subnormals(const float *x, int count) {
  int found = 0;
  for (int i = 0; i < count; i++) found += fpclassify(x[i]) == FP_SUBNORMAL;
  return found;
}

static void check_environment(const char *backend) {
  static const int modes[] = {FE_TONEAREST, FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO};
  for (int kind = 0; kind < 3; kind++) {
    data d = kind == 0 ? subnormal_data() : data_new(random_problem(5000 + (uint64_t)kind));
    if (kind) data_fill(&d, 5000 + (uint64_t)kind);
    result expected = run(backend, &d, 1);
    if (kind == 0) assert_true(count_subnormals(expected.o, 9 * 16) > 50);
    for (int m = 0; m < 4; m++) {
      result r = result_new(&d.p, rows_of(&d));
      ifa_outputs out = {.o = r.o, .lse = r.lse, .stages = &r.stages};
      ifa_message why;
      fesetround(modes[m]);
#if defined(__SSE2__)
      unsigned before = _mm_getcsr() | 0x8040u; /* flush to zero, denormals are zero */
      _mm_setcsr(before);
#endif
      ifa_status status = ifa_run(backend, &d.p, &d.in, &out, &why);
      int mode = fegetround();
#if defined(__SSE2__)
      unsigned after = _mm_getcsr();
      _mm_setcsr(before & ~0x8040u);
#endif
      fesetround(FE_TONEAREST);
      expect_ok(status, &why);
      assert_int_equal(mode, modes[m]);
#if defined(__SSE2__)
      assert_int_equal(after & 0xffc0u, before & 0xffc0u);
#endif
      expect_same(&expected, &r, 1, &d);
      result_free(&r);
    }
    result_free(&expected);
    data_free(&d);
  }
}

static void test_environment(void **state) {
  (void)state;
  assert_true(for_backends(check_environment) >= 3 + have_openmp());
}

/* A library elsewhere has set flush-to-zero in the threads that OpenMP will use. */
static void test_environment_of_threads(void **state) {
  (void)state;
#if defined(_OPENMP) && defined(__SSE2__)
  data d = subnormal_data();
  result expected = run("scalar", &d, 0);
  int kept = 0, threads = 0;
  omp_set_num_threads(4);
  /* some runtimes give each region the environment of the thread that enters it, */
  _mm_setcsr(_mm_getcsr() | 0x8040u);
#pragma omp parallel
  _mm_setcsr(_mm_getcsr() | 0x8040u); /* others leave each thread its own */
  result r = result_new(&d.p, rows_of(&d));
  ifa_outputs out = {.o = r.o, .lse = r.lse};
  ifa_message why;
  ifa_status status = ifa_run("openmp", &d.p, &d.in, &out, &why);
#pragma omp parallel reduction(+ : kept, threads)
  {
    threads++;
    kept += (_mm_getcsr() & 0x8040u) == 0x8040u;
    _mm_setcsr(_mm_getcsr() & ~0x8040u);
  }
  _mm_setcsr(_mm_getcsr() & ~0x8040u);
  expect_ok(status, &why);
  assert_int_equal(kept, threads);
  expect_same(&expected, &r, 0, &d);
  result_free(&expected), result_free(&r);
  data_free(&d);
#else
  skip();
#endif
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_one_key),
      cmocka_unit_test(test_equal_scores),
      cmocka_unit_test(test_zero_scores),
      cmocka_unit_test(test_far_key),
      cmocka_unit_test(test_no_keys),
      cmocka_unit_test(test_masked_rows),
      cmocka_unit_test(test_windows),
      cmocka_unit_test(test_head_groups),
      cmocka_unit_test(test_not_available),
      cmocka_unit_test(test_random_problems),
      cmocka_unit_test(test_minus_zero),
      cmocka_unit_test(test_minus_zero_by_hand),
      cmocka_unit_test(test_threads_and_schedules),
      cmocka_unit_test(test_place_in_the_batch),
      cmocka_unit_test(test_environment),
      cmocka_unit_test(test_environment_of_threads),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
