/* test_problem.c - the problem descriptor: its ranges, one field at a time; its contradictions; its
 * text form, both ways. */
#include <fenv.h>
#include <float.h>
#include <locale.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/random.h"
#include "ifa.h"
#include "tests/common/problems.h"

#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

static void expect_bad(const ifa_problem *p, const char *field, const char *value) {
  ifa_message why = {""};
  expect(ifa_problem_check(p, &why), &why, IFA_BAD_PROBLEM, field, value);
  assert_int_equal(ifa_problem_check(p, NULL), IFA_BAD_PROBLEM);
}

/* ---- defaults and ranges ---- */

static void test_default(void **state) {
  (void)state;
  ifa_problem p = ifa_problem_default();
  expect_good(&p);
  assert_int_equal(ifa_problem_check(&p, NULL), IFA_OK);
  assert_true(p.batch == 1 && p.q_heads == 1 && p.kv_heads == 1 && p.nq == 1 && p.nk == 1 &&
              p.head_dim == 64);
  assert_true(p.q_type == IFA_I8 && p.k_type == IFA_I8 && p.v_type == IFA_I8 &&
              p.out_type == IFA_F32 && p.lse == 0);
  assert_true(p.q_scale == IFA_SCALE_TOKEN && p.k_scale == IFA_SCALE_TOKEN &&
              p.v_scale == IFA_SCALE_CHANNEL);
  assert_true(p.sm_scale == 0.125f && p.tau == 2 && p.kv_tile == 64 && p.kv_split == 0 &&
              p.causal == 0 && p.window == 0);
}

static void test_null(void **state) {
  (void)state;
  ifa_message why = {""};
  ifa_problem p = ifa_problem_default();
  char text[512];
  expect(ifa_problem_check(NULL, &why), &why, IFA_BAD_ARGUMENT, "problem", "NULL");
  expect(ifa_problem_print(NULL, text, sizeof text, &why), &why, IFA_BAD_ARGUMENT, "problem",
         "NULL");
  expect(ifa_problem_print(&p, NULL, 512, &why), &why, IFA_BAD_ARGUMENT, "text", "NULL");
  expect(ifa_problem_parse(NULL, &p, &why), &why, IFA_BAD_ARGUMENT, "text", "NULL");
  expect(ifa_problem_parse("b=1", NULL, &why), &why, IFA_BAD_ARGUMENT, "problem", "NULL");
  assert_int_equal(ifa_problem_check(NULL, NULL), IFA_BAD_ARGUMENT);
  assert_int_equal(ifa_problem_parse(NULL, NULL, NULL), IFA_BAD_ARGUMENT);
}

/* Every number with its range, from the comments of ifa.h. Fields that must agree with others are
 * set along. */
typedef struct number_field {
  const char *name;
  size_t offset;
  int bytes;
  int64_t low, high;
} number_field;

#define NUMBER(member) #member, offsetof(ifa_problem, member), (int)sizeof((ifa_problem *)0)->member
static const number_field numbers[] = {
    {NUMBER(batch), 1, 65535},       {NUMBER(q_heads), 1, 65535},     {NUMBER(kv_heads), 1, 65535},
    {NUMBER(nq), 0, IFA_MAX_TOKENS}, {NUMBER(nk), 0, IFA_MAX_TOKENS}, {NUMBER(head_dim), 1, 256},
    {NUMBER(causal), 0, 1},          {NUMBER(window), 0, INT64_MAX},  {NUMBER(tau), 0, 64},
    {NUMBER(kv_tile), 32, 256},      {NUMBER(kv_split), 0, 32768},    {NUMBER(lse), 0, 1},
    {NUMBER(q_block), 1, INT32_MAX}, {NUMBER(k_block), 1, INT32_MAX},
};

static void set_number(ifa_problem *p, const number_field *f, int64_t value) {
  if (f->bytes == 8) memcpy((char *)p + f->offset, &value, 8);
  else memcpy((char *)p + f->offset, &(int32_t){(int32_t)value}, 4);
}

static void expect_number_bad(ifa_problem p, const number_field *f, int64_t value) {
  char text[32];
  snprintf(text, sizeof text, "%lld", (long long)value);
  set_number(&p, f, value);
  expect_bad(&p, f->name, text);
}

static void test_numbers(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
    const number_field *f = &numbers[i];
    ifa_problem p = ifa_problem_default(), good;
    p.q_heads = 65535; /* divided by 65535 and by 1 */
    p.q_scale = p.k_scale = IFA_SCALE_BLOCK;
    expect_number_bad(p, f, f->low - 1);
    expect_number_bad(p, f, f->bytes == 8 ? INT64_MIN : INT32_MIN);
    expect_number_bad(p, f, f->low - 1000);
    if (f->high < (f->bytes == 8 ? INT64_MAX : INT32_MAX)) {
      expect_number_bad(p, f, f->high + 1);
      /* tau: infinity */
      if (strcmp(f->name, "tau") != 0)
        expect_number_bad(p, f, f->bytes == 8 ? INT64_MAX : INT32_MAX);
      else expect_number_bad(p, f, INT32_MAX - 1);
    }
    good = p;
    set_number(&good, f, f->low);
    if (strcmp(f->name, "k_block") != 0) expect_good(&good); /* 1 is no multiple of kv_tile */
    good = p;
    set_number(&good, f,
               strcmp(f->name, "k_block") == 0 || strcmp(f->name, "q_block") == 0 ? IFA_MAX_TOKENS
               : strcmp(f->name, "window") == 0 ? 2 * IFA_MAX_TOKENS
                                                : f->high);
    expect_good(&good);
  }
  ifa_problem p = ifa_problem_default();
  p.tau = IFA_TAU_INF;
  expect_good(&p);
}

/* Wide enough for any tokens; positions plus windows must not overflow. */
static void test_window(void **state) {
  (void)state;
  ifa_problem p = ifa_problem_default();
  p.window = 1;
  expect_good(&p);
  p.window = -1;
  expect_bad(&p, "window", "-1");
  p.window = IFA_MAX_TOKENS;
  expect_good(&p);
  p.window = INT64_MAX;
  expect_bad(&p, "window", "9223372036854775807");
}

/* What is not used is not looked at. */
static void test_blocks_unread(void **state) {
  (void)state;
  ifa_problem p = ifa_problem_default();
  p.q_block = 0;
  p.k_block = -3;
  expect_good(&p);
  p.q_scale = IFA_SCALE_TENSOR;
  p.k_scale = IFA_SCALE_TENSOR;
  expect_good(&p);
  p.q_scale = IFA_SCALE_BLOCK;
  expect_bad(&p, "q_block", "0");
}

static void test_sm_scale(void **state) {
  (void)state;
  static const struct {
    float value;
    const char *text;
  } bad[] = {{NAN, "nan"},
             {INFINITY, "inf"},
             {-INFINITY, "-inf"},
             {-0.125f, "-0.125"},
             {0x1.fffffep-21f, "9.53674e-07"},
             {0x1.000002p20f, "1.04858e+06"},
             {0x1p-130f, "7.34684e-40"},
             {-0x1p-149f, "e-45"}};
  ifa_problem p = ifa_problem_default();
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    p.sm_scale = bad[i].value;
    expect_bad(&p, "sm_scale", bad[i].text);
  }
  static const float good[] = {0.0f, 0x1p-20f, 0x1p20f, 1.0f, 0.1f};
  for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
    p.sm_scale = good[i];
    expect_good(&p);
  }
}

/* ifa.h: the caller's floating-point environment has no influence on any result. */
static void test_sm_scale_with_denormals_are_zero(void **state) {
  (void)state;
#if defined(__SSE2__)
  ifa_problem p = ifa_problem_default();
  /* subnormal, and nothing for the compiler to fold */
  p.sm_scale = ifa_random_bits(1, 2, 3) ? 0x1p-130f : 0.0f;
  unsigned before = _mm_getcsr();
  _mm_setcsr(before | 0x8040u);
  ifa_status status = ifa_problem_check(&p, NULL);
  unsigned after = _mm_getcsr();
  _mm_setcsr(before);
  assert_int_equal(after & 0xffc0u, (before | 0x8040u) & 0xffc0u);
  assert_int_equal(status, IFA_BAD_PROBLEM);
#else
  skip();
#endif
}

typedef struct enum_field {
  const char *name;
  size_t offset;
  unsigned allowed; /* bits */
} enum_field;

#define ENUM(member) #member, offsetof(ifa_problem, member)
static const enum_field enums[] = {
    {ENUM(q_type), 1 << IFA_I8 | 1 << IFA_I4},
    {ENUM(k_type), 1 << IFA_I8 | 1 << IFA_I4},
    {ENUM(v_type), 1 << IFA_I8 | 1 << IFA_I4},
    {ENUM(out_type), 1 << IFA_F32 | 1 << IFA_F16 | 1 << IFA_BF16},
    {ENUM(q_scale), 1 << IFA_SCALE_TENSOR | 1 << IFA_SCALE_BLOCK | 1 << IFA_SCALE_TOKEN},
    {ENUM(k_scale), 1 << IFA_SCALE_TENSOR | 1 << IFA_SCALE_BLOCK | 1 << IFA_SCALE_TOKEN},
    {ENUM(v_scale), 1 << IFA_SCALE_TENSOR | 1 << IFA_SCALE_CHANNEL | 1 << IFA_SCALE_TOKEN |
                        1 << IFA_SCALE_TOKEN_CHANNEL},
};

static void test_enums(void **state) {
  (void)state;
  static const int32_t values[] = {0, 1, 2, 3, 4, 5, 6, 31, 32, 33, 64, -1, INT32_MAX, INT32_MIN};
  for (size_t i = 0; i < sizeof enums / sizeof *enums; i++)
    for (size_t v = 0; v < sizeof values / sizeof *values; v++) {
      ifa_problem p = ifa_problem_default();
      char text[32];
      /* an int: gcc's and clang's enums are as wide */
      memcpy((char *)&p + enums[i].offset, &values[v], 4);
      snprintf(text, sizeof text, "%u", (unsigned)values[v]);
      if (values[v] >= 0 && values[v] < 5 && enums[i].allowed >> values[v] & 1) expect_good(&p);
      else if (values[v] >= 0) expect_bad(&p, enums[i].name, text);
      else
        expect_bad(&p, enums[i].name,
                   ""); /* as which number a negative one is shown depends on the enum's sign */
    }
}

/* ---- contradictions ---- */

static void test_contradictions(void **state) {
  (void)state;
  ifa_problem p = ifa_problem_default();
  p.q_heads = 8, p.kv_heads = 3;
  expect_bad(&p, "q_heads", "8");
  p.kv_heads = 16;
  expect_bad(&p, "q_heads", "16");
  p.kv_heads = 4;
  expect_good(&p);

  static const int32_t bad_tiles[] = {33, 48, 63, 65, 96, 100, 127, 192, 255};
  for (size_t i = 0; i < sizeof bad_tiles / sizeof *bad_tiles; i++) {
    char text[16];
    snprintf(text, sizeof text, "%d", (int)bad_tiles[i]);
    p = ifa_problem_default();
    p.kv_tile = bad_tiles[i];
    expect_bad(&p, "kv_tile", text);
  }
  p = ifa_problem_default();
  p.kv_tile = 128, p.kv_split = 192;
  expect_bad(&p, "kv_split", "192");
  p.kv_split = 64;
  expect_bad(&p, "kv_split", "64");
  p.kv_split = 384;
  expect_good(&p);
  p.k_scale = IFA_SCALE_BLOCK, p.k_block = 64;
  expect_bad(&p, "k_block", "64");
  p.k_block = 129;
  expect_bad(&p, "k_block", "129");
  p.k_block = 256;
  expect_good(&p);
}

/* A problem of [2, 3, 5, 7] with explicit dense strides. */
static ifa_problem strided(void) {
  ifa_problem p = ifa_problem_default();
  p.batch = 2;
  p.q_heads = 3;
  p.kv_heads = 3;
  p.nq = 5;
  p.nk = 5;
  p.head_dim = 7;
  p.q_stride = ifa_strides_bhnd(IFA_I8, 3, 5, 7);
  p.k_stride = p.v_stride = p.o_stride = p.q_stride;
  return p;
}

static ifa_strides *stride_at(ifa_problem *p, int tensor) {
  ifa_strides *all[] = {&p->q_stride, &p->k_stride, &p->v_stride, &p->o_stride};
  return all[tensor];
}

static const char *const stride_names[] = {"q_stride", "k_stride", "v_stride", "o_stride"};
static const char *const dimension_names[] = {"batch", "head", "token"};

static void test_bad_strides(void **state) {
  (void)state;
  ifa_problem good = strided();
  assert_true(good.q_stride.batch == 105 && good.q_stride.head == 35 && good.q_stride.token == 7);
  expect_good(&good);
  for (int tensor = 0; tensor < 4; tensor++)
    for (int dimension = 0; dimension < 3; dimension++) {
      char name[32];
      ifa_problem p = good;
      int64_t *stride = (int64_t *)stride_at(&p, tensor) + dimension;
      snprintf(name, sizeof name, "%s.%s", stride_names[tensor], dimension_names[dimension]);
      *stride = -1;
      expect_bad(&p, name, "-1");
      *stride = INT64_MIN;
      expect_bad(&p, name, "-9223372036854775808");
      *stride = INT64_MAX;
      expect_bad(&p, name, "9223372036854775807");
      *stride = INT64_MAX / 4;
      expect_bad(&p, name, "overflow");
      if (tensor == 3) continue;
      *(&p.q_type + tensor) = IFA_I4;
      *stride_at(&p, tensor) = ifa_strides_bhnd(IFA_I4, 3, 5, 7); /* rows of 8 */
      expect_good(&p);
      *stride += 1;
      expect_bad(&p, name, "even");
    }
}

static void test_output_rows_overlap(void **state) {
  (void)state;
  static const ifa_strides overlapping[] = {{105, 35, 6}, {105, 34, 7}, {104, 35, 7},
                                            {0, 35, 7},   {105, 0, 7},  {105, 35, 0},
                                            {105, 7, 7},  {7, 70, 14},  {20, 41, 7}};
  static const ifa_strides apart[] = {{105, 35, 7},    {105, 7, 21}, {7, 14, 42},
                                      {1000, 100, 10}, {35, 70, 7},  {7, 70, 14}};
  for (size_t i = 0; i < sizeof overlapping / sizeof *overlapping; i++) {
    ifa_problem p = strided();
    p.o_stride = overlapping[i];
    if (i == 7) p.o_stride.token = 13;
    expect_bad(&p, "o_stride", "overlap");
    p.q_stride = p.k_stride = p.v_stride = p.o_stride; /* what is only read may overlap */
    p.o_stride = (ifa_strides){0, 0, 0};
    expect_good(&p);
  }
  for (size_t i = 0; i < sizeof apart / sizeof *apart; i++) {
    ifa_problem p = strided();
    p.o_stride = apart[i];
    expect_good(&p);
  }
  ifa_problem p = strided(); /* dimensions of one element have no stride to speak of */
  p.batch = p.q_heads = p.kv_heads = 1;
  p.o_stride = (ifa_strides){3, 1, 7};
  expect_good(&p);
  p.nq = 0; /* no row, nothing to overlap */
  p.o_stride = (ifa_strides){1, 1, 1};
  expect_good(&p);
}

static void test_sizes_overflow(void **state) {
  (void)state;
  ifa_problem p = ifa_problem_default(); /* 65535^2 * 2^24 * 2^8 < 2^64, but past 2^63 / 8 */
  p.batch = p.q_heads = p.kv_heads = 65535;
  p.nq = p.nk = IFA_MAX_TOKENS;
  p.head_dim = 256;
  expect_bad(&p, "overflow", "65535");
  p.q_heads = p.kv_heads = 1;
  expect_good(&p);
}

/* ---- strides ---- */

static void test_stride_makers(void **state) {
  (void)state;
  ifa_strides s = ifa_strides_bnhd(IFA_F16, 4, 10, 6);
  assert_true(s.batch == 240 && s.head == 6 && s.token == 24);
  s = ifa_strides_bhnd(IFA_I4, 4, 10, 7);
  assert_true(s.batch == 320 && s.head == 80 && s.token == 8);
  s = ifa_strides_bnhd(IFA_I4, 4, 10, 7);
  assert_true(s.batch == 320 && s.head == 8 && s.token == 32);
  assert_int_equal(ifa_extent_bytes(IFA_I4, (ifa_strides){0, 0, 8}, 1, 1, 3, 7), 12);
  assert_int_equal(ifa_extent_bytes(IFA_F32, (ifa_strides){100, 50, 10}, 2, 2, 3, 4),
                   4 * (100 + 50 + 20 + 4));
  assert_int_equal(ifa_extent_bytes(IFA_F16, (ifa_strides){100, 50, 10}, 2, 0, 3, 4), 0);
  ifa_problem p = strided();
  p.q_stride = p.k_stride = p.v_stride = p.o_stride = (ifa_strides){0, 0, 0};
  p.v_type = IFA_I4;
  ifa_problem r = ifa_problem_resolved(&p);
  assert_true(same_strides(r.q_stride, (ifa_strides){105, 35, 7}) &&
              same_strides(r.v_stride, (ifa_strides){120, 40, 8}));
  assert_int_equal(r.kv_split, 32768);
}

/* ---- text ---- */

static int64_t below(uint64_t stream, uint64_t index, uint32_t count) {
  return ifa_random_below(7, stream, index, count);
}

static ifa_problem random_problem(uint64_t i) {
  static const int32_t taus[] = {0, 1, 2, 17, 64, IFA_TAU_INF};
  ifa_problem p = ifa_problem_default();
  p.batch = 1 + below(0, i, 1000);
  p.kv_heads = 1 + below(1, i, 40);
  p.q_heads = p.kv_heads * (1 + below(2, i, 9));
  p.nq = below(3, i, 70000), p.nk = below(4, i, 70000);
  p.head_dim = (int32_t)(1 + below(5, i, 256));
  p.q_type = below(6, i, 2) ? IFA_I4 : IFA_I8;
  p.k_type = below(7, i, 2) ? IFA_I4 : IFA_I8;
  p.v_type = below(8, i, 2) ? IFA_I4 : IFA_I8;
  p.q_scale = (ifa_granularity)below(9, i, 3), p.k_scale = (ifa_granularity)below(10, i, 3);
  p.v_scale = (ifa_granularity[]){IFA_SCALE_TENSOR, IFA_SCALE_TOKEN, IFA_SCALE_CHANNEL,
                                  IFA_SCALE_TOKEN_CHANNEL}[below(11, i, 4)];
  p.kv_tile = 32 << below(12, i, 4);
  p.q_block = (int32_t)(1 + below(13, i, IFA_MAX_TOKENS));
  p.k_block = p.kv_tile * (int32_t)(1 + below(14, i, 1000));
  p.kv_split = p.kv_tile * below(15, i, 32768 / (uint32_t)p.kv_tile + 1);
  p.sm_scale = below(16, i, 9)
                   ? ldexpf(1.0f + ifa_random_uniform(7, 17, i), (int)below(18, i, 40) - 20)
                   : 0.0f;
  p.causal = (int32_t)below(19, i, 2), p.lse = (int32_t)below(20, i, 2);
  p.window = below(21, i, 2) ? below(22, i, 100000) : 0;
  p.tau = taus[below(23, i, 6)];
  p.out_type = (ifa_type)below(24, i, 3);
  for (int tensor = 0; tensor < 4; tensor++) {
    /* rows apart, with gaps: [batch][token][head] or [batch][head][token] */
    if (!below(25 + (uint64_t)tensor, i, 2)) continue;
    int64_t heads = tensor == 0 || tensor == 3 ? p.q_heads : p.kv_heads,
            tokens = tensor == 0 || tensor == 3 ? p.nq : p.nk;
    int64_t row = 256 + 2 * below(30, i, 50), gap = 2 * below(31, i, 1000);
    *stride_at(&p, tensor) = below(32, i, 2)
                                 ? (ifa_strides){row * heads * tokens + gap, row, row * heads}
                                 : (ifa_strides){row * heads * tokens + gap, row * tokens, row};
  }
  return p;
}

static void test_round_trip(void **state) {
  (void)state;
  for (uint64_t i = 0; i < 20000; i++) {
    ifa_problem p = random_problem(i), back = ifa_problem_default();
    char text[512], again[512];
    ifa_message why = {"left over"};
    expect_good(&p);
    assert_int_equal(ifa_problem_print(&p, text, sizeof text, &why), IFA_OK);
    assert_string_equal(why.text, "");
    assert_int_equal(ifa_problem_parse(text, &back, &why), IFA_OK);
    if (!same_problem(&p, &back)) fail_msg("%s", text);
    assert_int_equal(ifa_problem_print(&back, again, sizeof again, &why), IFA_OK);
    assert_string_equal(text, again);
  }
}

static void test_print_text(void **state) {
  (void)state;
  ifa_problem p = ifa_problem_default();
  char text[512];
  p.q_heads = 8;
  p.kv_heads = 2;
  p.nq = 128;
  p.nk = 1000;
  p.head_dim = 128;
  assert_int_equal(ifa_problem_print(&p, text, sizeof text, NULL), IFA_OK);
  const char *start = "b=1 hq=8 hkv=2 nq=128 nk=1000 d=128 q=int8 k=int8 v=int8 qscale=token "
                      "kscale=token vscale=channel ";
  assert_memory_equal(text, start, strlen(start));
  assert_non_null(strstr(text, " sm=0.125 "));
  assert_non_null(strstr(text, " tau=2 "));
  assert_null(strstr(text, "stride"));
  assert_true(text[strlen(text) - 1] != ' ');
}

/* Any length that does not suffice is refused, and nothing is written past it. */
static void test_print_length(void **state) {
  (void)state;
  ifa_problem p = random_problem(3);
  char whole[512], text[600];
  assert_int_equal(ifa_problem_print(&p, whole, sizeof whole, NULL), IFA_OK);
  for (size_t length = 0; length < strlen(whole) + 5; length++) {
    ifa_message why = {""};
    memset(text, '#', sizeof text);
    ifa_status status = ifa_problem_print(&p, text, length, &why);
    if (length <= strlen(whole)) expect(status, &why, IFA_BAD_ARGUMENT, "length", "");
    else if (status == IFA_OK) assert_string_equal(text, whole);
    assert_true(status == IFA_OK || length < strlen(whole) + 2);
    for (size_t i = length; i < sizeof text; i++) assert_int_equal(text[i], '#');
  }
}

/* "512 always do": the widest valid problem there is. One batch and one head leave their strides
 * free. */
static void test_print_widest(void **state) {
  (void)state;
  ifa_problem p = ifa_problem_default(), back = p;
  char text[512];
  const int64_t wide = INT64_MAX;
  p.head_dim = 256;
  p.q_scale = p.k_scale = IFA_SCALE_TENSOR, p.v_scale = IFA_SCALE_TOKEN_CHANNEL;
  p.q_block = p.k_block = INT32_MIN;
  p.sm_scale = 9.99999975e-05f;
  p.window = 2 * IFA_MAX_TOKENS;
  p.kv_tile = 256;
  p.kv_split = 32768;
  p.tau = IFA_TAU_INF;
  p.out_type = IFA_BF16;
  p.q_stride = p.k_stride = p.v_stride = p.o_stride = (ifa_strides){wide, wide, wide};
  expect_good(&p);
  assert_int_equal(ifa_problem_print(&p, text, sizeof text, NULL), IFA_OK);
  assert_int_equal(ifa_problem_parse(text, &back, NULL), IFA_OK);
  assert_true(same_problem(&p, &back));
}

static void test_parse_keeps_the_rest(void **state) {
  (void)state;
  ifa_problem p = random_problem(11), expected = p;
  expected.nq = 77;
  expected.tau = IFA_TAU_INF;
  expected.o_stride = (ifa_strides){1, -2, 3};
  assert_int_equal(ifa_problem_parse(" \t tau=inf\n nq=77 \r\n ostride=1:-2:3 ", &p, NULL), IFA_OK);
  assert_true(same_problem(&p, &expected));
  assert_int_equal(ifa_problem_parse("", &p, NULL), IFA_OK);
  assert_int_equal(ifa_problem_parse(" \n", &p, NULL), IFA_OK);
  assert_true(same_problem(&p, &expected));
}

static void test_parse_errors(void **state) {
  (void)state;
  static const struct {
    const char *text, *said;
  } bad[] = {{"nonsense=1", "nonsense"},
             {"nq", "nq"},
             {"=1", "key"},
             {"=", "key"},
             {"nq=", "nq"},
             {"nq=5x", "5x"},
             {"nq=5.0", "5.0"},
             {"nq=+5", "+5"},
             {"nq=-", "nq"},
             {"nq==5", "=5"},
             {"nq=0x10", "0x10"},
             {"nq=99999999999999999999", "nq"},
             {"d=2147483648", "d"},
             {"d=-2147483649", "d"},
             {"nq=-9223372036854775809", "nq"},
             {"q=int9", "int9"},
             {"q=INT8", "INT8"},
             {"q=", "q"},
             {"out=3", "out"},
             {"qscale=row", "row"},
             {"sm=", "sm"},
             {"sm=0.1.2", "0.1.2"},
             {"sm=1e-99", "1e-99"},
             {"sm=abc", "abc"},
             {"sm=0,125", "0,125"},
             {"tau=infinity", "tau"},
             {"tau=1.5", "tau"},
             {"qstride=1:2", "1:2"},
             {"qstride=1:2:3:4", "1:2:3:4"},
             {"qstride=1:2:x", "1:2:x"},
             {"qstride=::", "::"},
             {"qstride=", "qstride"},
             {"NQ=5", "NQ"},
             {"nq =5", "nq"},
             {"causal=true", "true"},
             {"b=1,2", "1,2"}};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    ifa_problem p = random_problem(i), before = p;
    ifa_message why = {""};
    char text[128];
    /* what stands before and after does not count either */
    snprintf(text, sizeof text, "nk=3 hq=4 %s lse=1", bad[i].text);
    expect(ifa_problem_parse(text, &p, &why), &why, IFA_BAD_PROBLEM, bad[i].said, "");
    assert_true(same_problem(&p, &before));
    assert_int_equal(ifa_problem_parse(bad[i].text, &p, NULL), IFA_BAD_PROBLEM);
  }
}

static void test_parse_long_words(void **state) {
  (void)state;
  for (size_t length = 100; length < 400; length++) {
    ifa_problem p = ifa_problem_default(), before = p;
    ifa_message why = {""};
    char text[512] = "b=2 nq=";
    memset(text + 7, '1', length);
    text[7 + length] = '\0';
    expect(ifa_problem_parse(text, &p, &why), &why, IFA_BAD_PROBLEM, "nq=1111", "");
    memset(text + 4, 'q', length);
    expect(ifa_problem_parse(text, &p, &why), &why, IFA_BAD_PROBLEM, "qqqq", "");
    assert_true(same_problem(&p, &before));
  }
}

/* Numbers past the ranges parse if they fit their field: validity is ifa_problem_check's. */
static void test_parse_is_not_check(void **state) {
  (void)state;
  ifa_problem p = ifa_problem_default();
  assert_int_equal(ifa_problem_parse("nq=-5 d=100000 sm=nan causal=7", &p, NULL), IFA_OK);
  assert_true(p.nq == -5 && p.head_dim == 100000 && isnan(p.sm_scale) && p.causal == 7);
  assert_int_equal(ifa_problem_parse("sm=1e99", &p, NULL), IFA_OK);
  assert_true(p.sm_scale > FLT_MAX);
  assert_int_equal(
      ifa_problem_parse(
          "nq=9223372036854775807 nk=-9223372036854775808 d=2147483647 tau=-2147483648", &p, NULL),
      IFA_OK);
  assert_true(p.nq == INT64_MAX && p.nk == INT64_MIN && p.head_dim == INT32_MAX &&
              p.tau == INT32_MIN);
}

static void check_half_text(void) {
  ifa_problem p = ifa_problem_default();
  char text[512];
  assert_int_equal(ifa_problem_parse("sm=0.5", &p, NULL), IFA_OK);
  assert_true(p.sm_scale == 0.5f);
  assert_int_equal(ifa_problem_print(&p, text, sizeof text, NULL), IFA_OK);
  assert_non_null(strstr(text, " sm=0.5 "));
  assert_int_equal(ifa_problem_parse("sm=0,5", &p, NULL), IFA_BAD_PROBLEM);
}

static void test_locale(void **state) {
  (void)state;
  static const char *const names[] = {"de_DE.UTF-8", "de_DE.utf8", "de_DE", "fr_FR.UTF-8"};
  check_half_text();
  for (int i = 0; i < 4; i++) {
    if (!setlocale(LC_ALL, names[i])) continue;
    char half[8], after[8];
    snprintf(half, sizeof half, "%.1f", 0.5);
    check_half_text();
    snprintf(after, sizeof after, "%.1f", 0.5);
    setlocale(LC_ALL, "C");
    assert_string_equal(half, "0,5");
    assert_string_equal(after, half); /* the caller's locale is as it was */
  }
}

/* The text of a problem does not depend on the rounding mode either. */
static void test_rounding_modes(void **state) {
  (void)state;
  static const int modes[] = {FE_TONEAREST, FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO};
  for (int m = 0; m < 4; m++)
    for (uint64_t i = 0; i < 300; i++) {
      ifa_problem p = random_problem(i), back = ifa_problem_default();
      char text[512], other[512];
      assert_int_equal(ifa_problem_print(&p, text, sizeof text, NULL), IFA_OK);
      fesetround(modes[m]);
      ifa_status print = ifa_problem_print(&p, other, sizeof other, NULL),
                 parse = ifa_problem_parse(text, &back, NULL);
      int mode = fegetround();
      fesetround(FE_TONEAREST);
      assert_int_equal(mode, modes[m]);
      assert_int_equal(print, IFA_OK);
      assert_int_equal(parse, IFA_OK);
      assert_string_equal(text, other);
      if (!same_problem(&p, &back)) fail_msg("mode %d: %s", modes[m], text);
    }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_default),
      cmocka_unit_test(test_null),
      cmocka_unit_test(test_numbers),
      cmocka_unit_test(test_window),
      cmocka_unit_test(test_blocks_unread),
      cmocka_unit_test(test_sm_scale),
      cmocka_unit_test(test_sm_scale_with_denormals_are_zero),
      cmocka_unit_test(test_enums),
      cmocka_unit_test(test_contradictions),
      cmocka_unit_test(test_bad_strides),
      cmocka_unit_test(test_output_rows_overlap),
      cmocka_unit_test(test_sizes_overflow),
      cmocka_unit_test(test_stride_makers),
      cmocka_unit_test(test_round_trip),
      cmocka_unit_test(test_print_text),
      cmocka_unit_test(test_print_length),
      cmocka_unit_test(test_print_widest),
      cmocka_unit_test(test_parse_keeps_the_rest),
      cmocka_unit_test(test_parse_errors),
      cmocka_unit_test(test_parse_long_words),
      cmocka_unit_test(test_parse_is_not_check),
      cmocka_unit_test(test_locale),
      cmocka_unit_test(test_rounding_modes),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
