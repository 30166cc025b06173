/* test_attention_refusals.c - every refusal of ifa_run, time on a device, and the names. */
#include <fenv.h>
#include <math.h>
#include <stdio.h>

#include "tests/ref/attention.h"

#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

typedef struct call {
  ifa_problem p;
  ifa_inputs in;
  ifa_outputs out;
  float o[4 * 8], lse[4];
} call;

static const int8_t call_operand[64] = {1, 2, 3};
static const float call_scale[64] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
                                     1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};

/* Two heads, two rows, three keys, head_dim 8: a valid call. */
static void call_new(call *c) {
  *c = (call){.p = small(2, 3, 8)};
  c->p.q_heads = c->p.kv_heads = 2, c->p.v_scale = IFA_SCALE_TOKEN_CHANNEL;
  c->in = (ifa_inputs){.q = call_operand,
                       .k = call_operand,
                       .v = call_operand,
                       .q_scale = call_scale,
                       .k_scale = call_scale,
                       .v_scale = call_scale,
                       .v_channel_scale = call_scale};
  memset(c->o, UNWRITTEN, sizeof c->o);
  memset(c->lse, UNWRITTEN, sizeof c->lse);
  c->out = (ifa_outputs){.o = c->o, .lse = c->lse};
}

static void expect_refusal(call *c, ifa_status status, const char *first, const char *second) {
  for (int i = 0; i < ifa_backend_count(); i++) {
    const char *backend = ifa_backend_name(i);
    ifa_message why = {""};
    if (ifa_backend_supports(backend, NULL, NULL) != IFA_OK) continue;
    ifa_status got = ifa_run(backend, &c->p, &c->in, &c->out, &why);
    if (got != status)
      fail_msg("%s: %s (%s) where '%s' '%s' was expected", backend, ifa_status_name(got), why.text,
               first, second);
    if (!strstr(why.text, first) || !strstr(why.text, second))
      fail_msg("'%s' does not say '%s' and '%s'", why.text, first, second);
    assert_int_equal(ifa_run(backend, &c->p, &c->in, &c->out, NULL), status);
    for (size_t b = 0; b < sizeof c->o; b++) assert_int_equal(((uint8_t *)c->o)[b], UNWRITTEN);
    for (size_t b = 0; b < sizeof c->lse; b++) assert_int_equal(((uint8_t *)c->lse)[b], UNWRITTEN);
  }
}

static void test_null_pointers(void **state) {
  (void)state;
  call c;
  ifa_message why = {""};
  call_new(&c);
  expect_ok(ifa_run("scalar", &c.p, &c.in, &c.out, &why), &why); /* the call as it stands is good */
  static const struct {
    size_t offset;
    const char *name;
  } inputs[] = {{offsetof(ifa_inputs, q), "q is NULL"},
                {offsetof(ifa_inputs, k), "k is NULL"},
                {offsetof(ifa_inputs, v), "v is NULL"},
                {offsetof(ifa_inputs, q_scale), "q_scale is NULL"},
                {offsetof(ifa_inputs, k_scale), "k_scale is NULL"},
                {offsetof(ifa_inputs, v_scale), "v_scale is NULL"},
                {offsetof(ifa_inputs, v_channel_scale), "v_channel_scale is NULL"}};
  for (size_t i = 0; i < sizeof inputs / sizeof *inputs; i++) {
    call_new(&c);
    memset((char *)&c.in + inputs[i].offset, 0, sizeof(void *));
    expect_refusal(&c, IFA_BAD_ARGUMENT, inputs[i].name, "");
  }
  call_new(&c);
  c.out.o = NULL;
  expect_refusal(&c, IFA_BAD_ARGUMENT, "o is NULL", "");
  call_new(&c);
  c.out.lse = NULL;
  expect_refusal(&c, IFA_BAD_ARGUMENT, "lse is NULL", "");
  call_new(&c);
  c.p.lse = 0;
  expect_refusal(&c, IFA_BAD_ARGUMENT, "lse is given", "");
  call_new(&c);
  assert_int_equal(ifa_run("scalar", &c.p, NULL, &c.out, &why), IFA_BAD_ARGUMENT);
  assert_string_equal(why.text, "inputs is NULL");
  assert_int_equal(ifa_run("scalar", &c.p, &c.in, NULL, &why), IFA_BAD_ARGUMENT);
  assert_string_equal(why.text, "outputs is NULL");
  assert_int_equal(ifa_run("scalar", NULL, &c.in, &c.out, &why), IFA_BAD_ARGUMENT);
  assert_string_equal(why.text, "problem is NULL");
  assert_int_equal(ifa_run(NULL, &c.p, &c.in, &c.out, &why), IFA_BAD_ARGUMENT);
  assert_non_null(strstr(why.text, "backend is NULL"));
  assert_int_equal(ifa_run("cuda9", &c.p, &c.in, &c.out, &why), IFA_BAD_ARGUMENT);
  assert_non_null(strstr(why.text, "cuda9"));
  assert_int_equal(ifa_run("", &c.p, &c.in, &c.out, NULL), IFA_BAD_ARGUMENT);
  assert_int_equal(ifa_run("Scalar", &c.p, &c.in, &c.out, NULL), IFA_BAD_ARGUMENT);
}

static void test_bad_problem(void **state) {
  (void)state;
  call c;
  ifa_message why = {""};
  call_new(&c);
  c.p.head_dim = 0;
  expect_refusal(&c, IFA_BAD_PROBLEM, "head_dim", "0");
  assert_int_equal(ifa_backend_supports("scalar", &c.p, &why), IFA_BAD_PROBLEM);
  assert_non_null(strstr(why.text, "head_dim"));
  call_new(&c);
  c.p.kv_tile = 96;
  expect_refusal(&c, IFA_BAD_PROBLEM, "kv_tile", "96");
  call_new(&c);
  c.p.o_stride = (ifa_strides){32, 16, 7};
  expect_refusal(&c, IFA_BAD_PROBLEM, "o_stride", "overlap");
}

static void test_bad_rows(void **state) {
  (void)state;
  static const struct {
    int64_t rows[3], count;
    const char *first, *second;
  } bad[] = {{{0, 2, 1}, 3, "rows[2]", "1"},
             {{0, 0, 1}, 2, "rows[1]", "0"},
             {{0, 1, 4}, 3, "rows[2]", "4"},
             {{-1, 1, 2}, 3, "rows[0]", "-1"},
             {{0, INT64_MAX, 0}, 2, "rows[1]", "9223372036854775807"},
             {{0, 1, 2}, -1, "row_count", "-1"},
             {{0, 1, 2}, INT64_MIN, "row_count", "-9223372036854775808"}};
  call c;
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    call_new(&c);
    c.in.rows = bad[i].rows, c.in.row_count = bad[i].count;
    expect_refusal(&c, IFA_BAD_ARGUMENT, bad[i].first, bad[i].second);
  }
  call_new(&c);
  c.in.row_count = 1;
  expect_refusal(&c, IFA_BAD_ARGUMENT, "row_count is 1", "rows is NULL");
  c.in.row_count = -1;
  expect_refusal(&c, IFA_BAD_ARGUMENT, "row_count is -1", "");
  c.in.rows = (int64_t[]){0}, c.in.row_count = 0; /* no row at all is fine, and writes nothing */
  expect_refusal(&c, IFA_OK, "", "");
}

static void test_bad_scales(void **state) {
  (void)state;
  static const struct {
    float value;
    const char *text;
  } bad[] = {{-1.0f, "-1"},
             {NAN, "nan"},
             {INFINITY, "inf"},
             {-INFINITY, "-inf"},
             {0x1.fffffep-101f, "e-31"},
             {0x1p-140f, "e-43"},
             {0x1.000002p100f, "e+30"}};
  static const struct {
    size_t offset;
    const char *name;
    int count;
  } arrays[] = {{offsetof(ifa_inputs, q_scale), "q_scale", 4},
                {offsetof(ifa_inputs, k_scale), "k_scale", 6},
                {offsetof(ifa_inputs, v_scale), "v_scale", 6},
                {offsetof(ifa_inputs, v_channel_scale), "v_channel_scale", 16}};
  for (size_t a = 0; a < 4; a++)
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
      for (int at = 0; at <= arrays[a].count; at += arrays[a].count - 1) {
        call c;
        float scales[20];
        const float *pointer = scales;
        char name[40];
        call_new(&c);
        memcpy(scales, call_scale, sizeof scales);
        scales[at] = bad[i].value;
        memcpy((char *)&c.in + arrays[a].offset, &pointer, sizeof pointer);
        snprintf(name, sizeof name, "%s[%d] is ", arrays[a].name, at);
        expect_refusal(&c, IFA_BAD_DATA, name, bad[i].text);
        scales[at] = 0.0f; /* the end of its array was seen: what lies past it is not read */
        scales[arrays[a].count] = NAN;
        ifa_message why;
        expect_ok(ifa_run("scalar", &c.p, &c.in, &c.out, &why), &why);
      }
}

/* A subnormal scale is too small, also for a caller with denormals-are-zero. */
static void test_bad_scale_with_denormals_are_zero(void **state) {
  (void)state;
#if defined(__SSE2__)
  call c;
  float scales[4] = {0x1p-140f, 1, 1, 1};
  ifa_message why = {""};
  call_new(&c);
  c.in.q_scale = scales;
  unsigned before = _mm_getcsr();
  _mm_setcsr(before | 0x8040u);
  ifa_status status = ifa_run("scalar", &c.p, &c.in, &c.out, &why);
  unsigned after = _mm_getcsr();
  _mm_setcsr(before);
  assert_int_equal(status, IFA_BAD_DATA);
  /* restored after a failure too */
  assert_int_equal(after & 0xffc0u, (before | 0x8040u) & 0xffc0u);
#else
  skip();
#endif
}

/* The limit of 2^22 octaves, exactly: head_dim 8 * 128 * 128 = 2^17, times log2(e). */
static void test_score_range(void **state) {
  (void)state;
  call c;
  ifa_message why;
  float q[4] = {0, 0, 0, 0}, k[6] = {0, 0, 0, 0, 0, 0};
  call_new(&c);
  c.in.q_scale = q, c.in.k_scale = k;
  c.p.sm_scale = 1.0f;
  k[5] = 2.0f;
  float edge = 16.0f / 1.44269504f; /* edge * 2 * log2(e) * 2^17 = 2^22, up to rounding */
  for (int step = -3; step <= 3; step++) {
    q[3] = edge;
    for (int i = 0; i < (step < 0 ? -step : step); i++) q[3] = nextafterf(q[3], step < 0 ? 0 : 100);
    double octaves = (double)q[3] * 1.0 * (double)1.44269504f * 2.0 * 8 * 128 * 128;
    if (octaves <= 4194304.0) {
      expect_ok(ifa_run("scalar", &c.p, &c.in, &c.out, &why), &why);
      memset(c.o, UNWRITTEN, sizeof c.o);
      memset(c.lse, UNWRITTEN, sizeof c.lse);
    } else {
      expect_refusal(&c, IFA_BAD_DATA, "q_scale[3] is 11.09", "k_scale[5] is 2");
    }
    assert_true(step != -3 || octaves < 4194304.0);
    assert_true(step != 3 || octaves > 4194304.0);
  }
  c.p.q_type = IFA_I4; /* 8 * 8 * 128: a sixteenth */
  q[3] = 16 * edge * 0.999f;
  expect_ok(ifa_run("scalar", &c.p, &c.in, &c.out, &why), &why);
  memset(c.o, UNWRITTEN, sizeof c.o);
  memset(c.lse, UNWRITTEN, sizeof c.lse);
  q[3] = 16 * edge * 1.001f;
  expect_refusal(&c, IFA_BAD_DATA, "2^22", "");
  k[5] = 0x1p100f;
  q[3] = 0x1p100f;
  c.p.sm_scale = 0x1p20f;
  expect_refusal(&c, IFA_BAD_DATA, "2^22", "");
}

/* ---- time on a device ---- */

/* Of the backends that this machine has: measured where there is a device
 * (gpu/tests/test_attention.cu looks closer), else refused. */
static void test_time_on_device(void **state) {
  (void)state;
  int8_t q[4] = {1, 2, 3, 4}, k[8] = {1}, v[8] = {2};
  float scales[4] = {1, 1, 1, 1}, o[4];
  ifa_problem p = ifa_problem_default();
  p.nq = 1;
  p.nk = 2;
  p.head_dim = 4;
  ifa_inputs in = {.q = q, .k = k, .v = v, .q_scale = scales, .k_scale = scales, .v_scale = scales};
  ifa_outputs out = {.o = o};
  double seconds[2] = {-1, -1};
  ifa_message why;
  for (int i = 0; i < ifa_backend_count(); i++) {
    const char *name = ifa_backend_name(i);
    ifa_status supported = ifa_backend_supports(name, &p, NULL),
               status = ifa_time_on_device(name, &p, &in, &out, seconds, 2, &why);
    if (supported != IFA_OK) assert_int_equal(status, supported);
    else if (strncmp(name, "cuda", 4) == 0) assert_int_equal(status, IFA_OK);
    else {
      assert_int_equal(status, IFA_UNSUPPORTED);
      assert_non_null(strstr(why.text, name));
    }
  }
  assert_int_equal(ifa_time_on_device("scalar", &p, &in, &out, NULL, 2, &why), IFA_BAD_ARGUMENT);
  assert_int_equal(ifa_time_on_device("scalar", &p, &in, &out, seconds, 0, &why), IFA_BAD_ARGUMENT);
  assert_int_equal(ifa_time_on_device("nonesuch", &p, &in, &out, seconds, 2, &why),
                   IFA_BAD_ARGUMENT);
}

/* ---- names ---- */

static void test_names(void **state) {
  (void)state;
  int count = ifa_backend_count(), openmp = 0;
  assert_true(count >= 2);
  assert_string_equal(ifa_backend_name(0), "scalar");
  for (int i = 0; i < count; i++) {
    assert_true(strlen(ifa_backend_name(i)) > 0 && strlen(ifa_backend_description(i)) > 10);
    assert_null(strchr(ifa_backend_description(i), '\n'));
    openmp += strcmp(ifa_backend_name(i), "openmp") == 0;
    for (int j = 0; j < i; j++) assert_string_not_equal(ifa_backend_name(i), ifa_backend_name(j));
  }
  assert_int_equal(openmp, 1);
  assert_true(ifa_backend_name(-1) == NULL && ifa_backend_name(count) == NULL &&
              ifa_backend_description(-1) == NULL && ifa_backend_description(count) == NULL);
  ifa_message why = {""};
  assert_int_equal(ifa_backend_supports("nonesuch", NULL, &why), IFA_BAD_ARGUMENT);
  assert_non_null(strstr(why.text, "nonesuch"));
  assert_int_equal(ifa_backend_supports(NULL, NULL, NULL), IFA_BAD_ARGUMENT);
  ifa_problem p = ifa_problem_default();
  snprintf(why.text, sizeof why.text, "left over");
  expect_ok(ifa_backend_supports("scalar", &p, &why), &why);
  for (int i = IFA_OK; i <= IFA_IO; i++)
    for (int j = IFA_OK; j < i; j++)
      assert_string_not_equal(ifa_status_name((ifa_status)i), ifa_status_name((ifa_status)j));
  assert_string_equal(ifa_status_name(IFA_OK), "ok");
  assert_string_equal(ifa_status_name(IFA_BAD_PROBLEM), "bad problem");
  assert_non_null(ifa_status_name((ifa_status)99));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_null_pointers),
      cmocka_unit_test(test_bad_problem),
      cmocka_unit_test(test_bad_rows),
      cmocka_unit_test(test_bad_scales),
      cmocka_unit_test(test_bad_scale_with_denormals_are_zero),
      cmocka_unit_test(test_score_range),
      cmocka_unit_test(test_time_on_device),
      cmocka_unit_test(test_names),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
