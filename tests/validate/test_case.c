/* test_case.c - the harness's own text: cases with lists, suites. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/common/problems.h"
#include "validate/cases/suite.h"

typedef struct taken {
  ifa_case cases[64];
  int count, limit;
} taken;

static ifa_status take(const ifa_case *c, void *context, ifa_message *message) {
  taken *t = context;
  if (t->count == t->limit) return ifa_fail(message, IFA_UNSUPPORTED, "enough of it");
  t->cases[t->count++] = *c;
  return IFA_OK;
}

static ifa_status expand(const char *line, taken *t, ifa_message *message) {
  ifa_case base = ifa_case_default();
  *t = (taken){.limit = 64};
  return ifa_case_expand(line, &base, take, t, message);
}

static void test_case_default(void **state) {
  (void)state;
  ifa_case c = ifa_case_default();
  assert_true(c.auto_scale == 1 && c.layout_bnhd == 0 && c.fill == IFA_FILL_NORMAL && c.seed == 1 &&
              c.rows == 0 && c.smooth == 0 && c.minus_zero == 0);
  assert_string_equal(c.input, "");
  expect_good(&c.problem);
  static const char *const names[] = {"normal",  "uniform", "constant", "extremes",
                                      "outlier", "sink",    "rising",   "falling",
                                      "equal",   "zeros",   "centred",  "wide"};
  for (int i = 0; i < IFA_FILL_COUNT; i++)
    assert_string_equal(ifa_fill_name((ifa_fill)i), names[i]);
  assert_null(ifa_fill_name(IFA_FILL_COUNT));
  assert_null(ifa_fill_name((ifa_fill)-1));
}

static void test_expand_order(void **state) {
  (void)state;
  taken *t = malloc(sizeof *t);
  assert_int_equal(expand("d=64,128 causal=0,1 seed=3,5,4", t, NULL), IFA_OK);
  assert_int_equal(t->count, 12);
  for (int i = 0; i < 12; i++) { /* the last key varies fastest */
    assert_int_equal(t->cases[i].problem.head_dim, i < 6 ? 64 : 128);
    assert_int_equal(t->cases[i].problem.causal, i / 3 % 2);
    assert_int_equal(t->cases[i].seed, i % 3 == 0 ? 3 : i % 3 == 1 ? 5 : 4);
    assert_true(t->cases[i].problem.sm_scale == 1.0f / sqrtf((float)t->cases[i].problem.head_dim));
  }
  assert_int_equal(expand("", t, NULL), IFA_OK);
  assert_int_equal(t->count, 1);
  assert_int_equal(expand("nq=1,1,1", t, NULL), IFA_OK);
  assert_int_equal(t->count, 3);
  free(t);
}

static void test_expand_keys(void **state) {
  (void)state;
  taken *t = malloc(sizeof *t);
  assert_int_equal(expand("nq=3 nk=5 hq=4 hkv=2 b=2 d=7 qk=int4 v=int4 layout=bnhd sm=0.5 "
                          "fill=sink seed=9999999999999999999 rows=12 smooth=1 minus_zero=1 lse=1",
                          t, NULL),
                   IFA_OK);
  const ifa_case *c = &t->cases[0];
  assert_true(c->problem.q_type == IFA_I4 && c->problem.k_type == IFA_I4 &&
              c->problem.v_type == IFA_I4 && c->problem.lse == 1);
  assert_true(c->auto_scale == 0 && c->problem.sm_scale == 0.5f && c->layout_bnhd == 1 &&
              c->fill == IFA_FILL_SINK && c->seed == 9999999999999999999u);
  assert_true(c->rows == 12 && c->smooth == 1 && c->minus_zero == 1);
  assert_true(same_strides(c->problem.q_stride, (ifa_strides){4 * 3 * 8, 8, 4 * 8}) &&
              same_strides(c->problem.v_stride, (ifa_strides){2 * 5 * 8, 8, 2 * 8}));
  assert_true(same_strides(c->problem.o_stride, (ifa_strides){4 * 3 * 7, 7, 4 * 7}));
  assert_int_equal(expand("input=some/file.safetensors sm=auto", t, NULL), IFA_OK);
  assert_string_equal(t->cases[0].input, "some/file.safetensors");
  assert_int_equal(t->cases[0].auto_scale, 1);
  free(t);
}

static void test_expand_errors(void **state) {
  (void)state;
  static const struct {
    const char *line, *said;
  } bad[] = {{"nq=1 nk=2 nq=3", "nq is given twice"},
             {"d=", "empty"},
             {"d=1,,2", "empty"},
             {"d=1,", "empty"},
             {"d=,1", "empty"},
             {"word", "word"},
             {"=5", "=5"},
             {"nq=1 what=5", "what"},
             {"fill=none", "none"},
             {"seed=-1", "-1"},
             {"seed=x", "x"},
             {"rows=-1", "-1"},
             {"rows=2147483648", "2147483648"},
             {"smooth=2", "2"},
             {"minus_zero=-1", "-1"},
             {"layout=nbhd", "nbhd"},
             {"d=1,x", "x"},
             {"qk=int9", "int9"},
             {"sm=automatic", "automatic"}};
  taken *t = malloc(sizeof *t);
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    ifa_message why = {""};
    expect(expand(bad[i].line, t, &why), &why, IFA_BAD_ARGUMENT, bad[i].said, "");
    assert_int_equal(expand(bad[i].line, t, NULL), IFA_BAD_ARGUMENT);
  }
  ifa_message why = {""};
  ifa_case base = ifa_case_default();
  *t = (taken){.limit = 2};
  /* the callback's word is the last */
  expect(ifa_case_expand("nq=1,2,3", &base, take, t, &why), &why, IFA_UNSUPPORTED, "enough", "");
  assert_int_equal(t->count, 2);
  free(t);
}

/* Values of more than 80 characters are handed on whole or refused, never cut. */
static void test_expand_long_values(void **state) {
  (void)state;
  taken *t = malloc(sizeof *t);
  static const char *const keys[] = {"nq", "qk", "sm"};
  for (int k = 0; k < 3; k++)
    for (int length = 70; length < 110; length++) {
      char line[256];
      snprintf(line, sizeof line, "%s=%s%0*d%s", keys[k], k == 2 ? "0." : "", length, 7,
               k == 0 ? "" : "junk");
      ifa_status status = expand(line, t, NULL);
      if (k == 0 && status == IFA_OK) assert_int_equal(t->cases[0].problem.nq, 7);
      else assert_int_equal(status, IFA_BAD_ARGUMENT);
    }
  char line[IFA_INPUT_PATH + 16];
  const int longest = IFA_INPUT_PATH - 1;
  memset(line, 'i', sizeof line);
  memcpy(line, "input=", 6);
  line[6 + longest] = '\0';
  assert_int_equal(expand(line, t, NULL), IFA_OK);
  assert_int_equal(strlen(t->cases[0].input), longest);
  line[6 + longest] = 'i', line[6 + longest + 1] = '\0';
  assert_int_equal(expand(line, t, NULL), IFA_BAD_ARGUMENT);
  free(t);
  ifa_case_forget_inputs();
}

static void test_expand_limits(void **state) {
  (void)state;
  taken *t = malloc(sizeof *t);
  char line[IFA_CASE_LINE + 1] = "nq=";
  ifa_message why = {""};
  for (int i = 0; i < 64; i++) strcat(line, i ? ",1" : "1");
  assert_int_equal(expand(line, t, &why), IFA_OK);
  assert_int_equal(t->count, 64);
  strcat(line, ",1");
  expect(expand(line, t, &why), &why, IFA_BAD_ARGUMENT, "nq", "64");
  line[0] = '\0';
  for (int i = 0; i < 49; i++) sprintf(line + strlen(line), "key%d=1 ", i);
  expect(expand(line, t, &why), &why, IFA_BAD_ARGUMENT, "48", "words");
  memset(line, ' ', sizeof line);
  line[IFA_CASE_LINE] = '\0';
  expect(expand(line, t, &why), &why, IFA_BAD_ARGUMENT, "16384", "long");
  line[IFA_CASE_LINE - 1] = '\0';
  assert_int_equal(expand(line, t, &why), IFA_OK);
  free(t);
}

static void test_case_parse(void **state) {
  (void)state;
  ifa_case c;
  ifa_message why = {"left over"};
  assert_int_equal(ifa_case_parse("nq=4 tau=inf", &c, &why), IFA_OK);
  assert_true(c.problem.nq == 4 && c.problem.tau == IFA_TAU_INF);
  assert_string_equal(why.text, "");
  expect(ifa_case_parse("nq=4,5", &c, &why), &why, IFA_BAD_ARGUMENT, "list", "");
  expect(ifa_case_parse("nq", &c, &why), &why, IFA_BAD_ARGUMENT, "nq", "");
}

/* A case with its unread fields as they are by default: blocks of scales that have none, and what a
 * file decides. */
static ifa_case read_part(const ifa_case *c) {
  ifa_case r = *c;
  ifa_problem standard = ifa_problem_default();
  if (r.problem.q_scale != IFA_SCALE_BLOCK) r.problem.q_block = standard.q_block;
  if (r.problem.k_scale != IFA_SCALE_BLOCK) r.problem.k_block = standard.k_block;
  if (r.input[0] && !r.rows) r.seed = 1;
  return r;
}

static int same_case(const ifa_case *one, const ifa_case *two) {
  ifa_case a = read_part(one), b = read_part(two);
  return same_problem(&a.problem, &b.problem) && a.auto_scale == b.auto_scale &&
         a.layout_bnhd == b.layout_bnhd && a.fill == b.fill && a.seed == b.seed &&
         a.rows == b.rows && a.smooth == b.smooth && a.minus_zero == b.minus_zero &&
         strcmp(a.input, b.input) == 0;
}

static void check_case_text(const ifa_case *c) {
  char text[IFA_CASE_TEXT], again[IFA_CASE_TEXT];
  ifa_case back;
  ifa_message why = {""};
  ifa_case_print(c, text);
  if (ifa_case_parse(text, &back, &why) != IFA_OK) fail_msg("%s: %s", text, why.text);
  if (!same_case(c, &back)) fail_msg("%s is not what was printed", text);
  ifa_case_print(&back, again);
  assert_string_equal(text, again);
}

/* Any path is the input of a case, and its text is one word of plain ASCII that gives it back. */
static void test_case_input(void **state) {
  (void)state;
  static const char *const paths[] = {"a b.safetensors",
                                      "a,b",
                                      "./\xe4\xf6",
                                      "\xe3\x83\x87/x",
                                      "/50%",
                                      "%41.x",
                                      "/a\nb\t\x1b[31m",
                                      "x\"$(y)`z'\\!",
                                      "#.x",
                                      "=/=",
                                      "/%00",
                                      "./~:+@-_"};
  for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
    ifa_case c = ifa_case_default(), back;
    char text[IFA_CASE_TEXT];
    assert_int_equal(ifa_case_set_input(&c, paths[i], NULL), IFA_OK);
    ifa_case_print(&c, text);
    for (const char *at = text; *at; at++)
      assert_true(*at >= ' ' && *at <= '~' && !strchr("\"$`\\!,#", *at));
    assert_int_equal(ifa_case_parse(text, &back, NULL), IFA_OK);
    assert_string_equal(back.input, paths[i]);
  }
  char longest[IFA_INPUT_PATH], text[IFA_CASE_TEXT];
  memset(longest, ' ', sizeof longest);
  longest[sizeof longest - 1] = '\0';
  ifa_case c = ifa_case_default(), back;
  assert_int_equal(ifa_case_set_input(&c, longest, NULL), IFA_OK);
  ifa_case_print(&c, text);
  assert_int_equal(ifa_case_parse(text, &back, NULL), IFA_OK);
  assert_string_equal(back.input, longest);
  ifa_message why = {""};
  expect(ifa_case_parse("input=a%00b", &c, &why), &why, IFA_BAD_ARGUMENT, "%00", "");
  assert_int_equal(ifa_case_parse("input=50%.x", &c, NULL), IFA_OK);
  assert_string_equal(c.input, "50%.x");
  ifa_case_forget_inputs();
}

static void test_case_text(void **state) {
  (void)state;
  static const char *const lines[] = {"sm=0.125",
                                      "sm=auto",
                                      "sm=0",
                                      "sm=0.1",
                                      "d=256 sm=auto",
                                      "layout=bnhd nq=3 hq=2 hkv=2",
                                      "qscale=block qblock=5",
                                      "kscale=block kblock=64",
                                      "rows=3 seed=9999999999999999999",
                                      "input=x rows=4 seed=2",
                                      "input=x smooth=1",
                                      "sm=-0 minus_zero=1 fill=wide",
                                      "fill=zeros tau=inf",
                                      "qstride=1:2:3 ostride=9223372036854775807:1:-4",
                                      "q=int4",
                                      "v=int4 out=bf16",
                                      "window=5 causal=1 lse=1 tile=256 split=512",
                                      "sm=nan",
                                      "nq=-7"};
  for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
    ifa_case c;
    assert_int_equal(ifa_case_parse(lines[i], &c, NULL), IFA_OK);
    check_case_text(&c);
  }
}

/* The extremes: a seed of 20 digits, and a text as long as a valid problem makes it. */
static void test_case_text_of_large_seed(void **state) {
  (void)state;
  ifa_case c = ifa_case_default();
  c.seed = UINT64_MAX;
  check_case_text(&c);
}

static void test_case_text_of_widest(void **state) {
  (void)state;
  ifa_case c = ifa_case_default();
  c.auto_scale = 0, c.problem.sm_scale = 9.99999975e-05f;
  c.problem.head_dim = 256, c.problem.q_type = c.problem.k_type = c.problem.v_type = IFA_I4;
  c.problem.q_scale = c.problem.k_scale = IFA_SCALE_BLOCK,
  c.problem.v_scale = IFA_SCALE_TOKEN_CHANNEL;
  c.problem.q_block = 1000003;
  c.problem.k_block = 1 << 20;
  c.problem.window = 33554432;
  c.problem.causal = c.problem.lse = 1;
  c.problem.tau = IFA_TAU_INF;
  c.problem.kv_tile = 256;
  c.problem.kv_split = 32768 - 256;
  c.problem.out_type = IFA_BF16;
  c.problem.q_stride = c.problem.k_stride = c.problem.v_stride = c.problem.o_stride =
      (ifa_strides){INT64_MAX - 1, INT64_MAX - 1, INT64_MAX - 1};
  expect_good(&c.problem);
  c.smooth = c.minus_zero = 1;
  c.rows = 2147483647;
  c.fill = IFA_FILL_EXTREMES;
  c.seed = 9999999999999999999u;
  c.exponent[0] = -120;
  c.exponent[1] = 120;
  c.exponent[2] = 7;
  check_case_text(&c);
}

static void test_case_base(void **state) {
  (void)state;
  ifa_case base = ifa_case_default();
  taken *t = malloc(sizeof *t);
  base.problem.nq = 9;
  base.seed = 5;
  base.smooth = 1;
  *t = (taken){.limit = 64};
  assert_int_equal(ifa_case_expand("nk=4", &base, take, t, NULL), IFA_OK);
  assert_true(t->cases[0].problem.nq == 9 && t->cases[0].problem.nk == 4 && t->cases[0].seed == 5 &&
              t->cases[0].smooth == 1);
  free(t);
}

/* ---- suites ---- */

static void test_built_in_suites(void **state) {
  (void)state;
  ifa_case base = ifa_case_default();
  size_t all = 0, parts = 0;
  assert_true(ifa_suite_count() >= 7);
  assert_null(ifa_suite_name(-1));
  assert_null(ifa_suite_name(ifa_suite_count()));
  assert_null(ifa_suite_description(-1));
  assert_null(ifa_suite_description(ifa_suite_count()));
  for (int i = 0; i < ifa_suite_count(); i++) {
    ifa_case_list list = {0};
    ifa_message why = {""};
    const char *name = ifa_suite_name(i);
    assert_non_null(name);
    assert_true(strlen(ifa_suite_description(i)) > 5);
    assert_null(strchr(ifa_suite_description(i), '#'));
    ifa_status status = ifa_case_list_add_suite(&list, name, &base, &why);
    if (status != IFA_OK) fail_msg("%s", why.text);
    assert_true(list.count > 10);
    for (size_t c = 0; c < list.count; c++) {
      if (!list.cases[c].input[0]) expect_good(&list.cases[c].problem);
      check_case_text(&list.cases[c]);
    }
    if (strcmp(name, "all") == 0) all = list.count;
    if (strcmp(name, "smoke") == 0 || strcmp(name, "edge") == 0 || strcmp(name, "formats") == 0 ||
        strcmp(name, "scales") == 0)
      parts += list.count;
    ifa_case_list_free(&list);
    assert_true(list.count == 0 && list.cases == NULL);
  }
  assert_true(all >= parts && parts > 0);
}

static void test_suite_text(void **state) {
  (void)state;
  ifa_case base = ifa_case_default();
  ifa_case_list list = {0};
  assert_int_equal(ifa_case_list_add_text(&list, "t",
                                          "# head\n\n  nq=1,2 # two\n\t# more\r\nnq=3\r\nnq=4",
                                          &base, NULL),
                   IFA_OK);
  assert_int_equal(list.count, 4);
  for (int i = 0; i < 4; i++) assert_int_equal(list.cases[i].problem.nq, i + 1);
  assert_int_equal(ifa_case_list_add_line(&list, "nq=5", &base, NULL), IFA_OK);
  assert_int_equal(list.cases[4].problem.nq, 5);
  assert_int_equal(ifa_case_list_add_text(&list, "t", "", &base, NULL), IFA_OK);
  assert_int_equal(list.count, 5);
  ifa_case_list_free(&list);

  ifa_case_list direct = {0};
  assert_int_equal(ifa_case_list_add_suite(&direct, "smoke", &base, NULL), IFA_OK);
  assert_int_equal(ifa_case_list_add_text(&list, "t", "include  smoke # comment\n", &base, NULL),
                   IFA_OK);
  assert_int_equal(list.count, direct.count);
  ifa_case_list_free(&list);
  ifa_case_list_free(&direct);
}

static void test_suite_errors(void **state) {
  (void)state;
  ifa_case base = ifa_case_default();
  static const struct {
    const char *text, *place, *said;
  } bad[] = {
      {"nq=1\n\nnq=x\n", "mine:3:", "nq=x"},  {"nonsense", "mine:1:", "nonsense"},
      {"# c\nnq=1 nq=2", "mine:2:", "twice"}, {"nq=1\ninclude nowhere\n", "mine:2:", "nowhere"},
      {"include", "mine:1:", "include"},      {"include \n", "mine:1:", "suite"}};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    ifa_case_list list = {0};
    ifa_message why = {""};
    expect(ifa_case_list_add_text(&list, "mine", bad[i].text, &base, &why), &why, IFA_BAD_ARGUMENT,
           bad[i].place, bad[i].said);
    ifa_case_list_free(&list);
  }
  char text[IFA_CASE_LINE + 4];
  ifa_case_list list = {0};
  ifa_message why = {""};
  memset(text, 'a', sizeof text);
  text[2] = '\n';
  text[0] = text[1] = ' ';
  text[sizeof text - 1] = '\0';
  expect(ifa_case_list_add_text(&list, "mine", text, &base, &why), &why, IFA_BAD_ARGUMENT,
         "mine:2:", "long");
  expect(ifa_case_list_add_suite(&list, "/nonexistent/suite", &base, &why), &why, IFA_BAD_ARGUMENT,
         "/nonexistent/suite", "no suite");
  expect(ifa_case_list_add_suite(&list, "/", &base, &why), &why, IFA_BAD_FILE, "/", "regular");
  ifa_case_list_free(&list);
}

static void test_suite_file(void **state) {
  (void)state;
  ifa_case base = ifa_case_default();
  ifa_case_list list = {0};
  ifa_message why = {""};
  char path[] = "/tmp/ifa_test_suite_XXXXXX", place[64];
  int descriptor = mkstemp(path);
  assert_true(descriptor >= 0);
  FILE *file = fdopen(descriptor, "w");
  assert_non_null(file);
  fputs("# a suite\nnq=6,7\nwrong\n", file);
  fclose(file);
  snprintf(place, sizeof place, "%s:3:", path);
  ifa_status status = ifa_case_list_add_suite(&list, path, &base, &why);
  remove(path);
  expect(status, &why, IFA_BAD_ARGUMENT, place, "wrong");
  assert_int_equal(list.count, 2); /* what came before the error */
  ifa_case_list_free(&list);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_case_default),        cmocka_unit_test(test_expand_order),
      cmocka_unit_test(test_expand_keys),         cmocka_unit_test(test_expand_errors),
      cmocka_unit_test(test_expand_long_values),  cmocka_unit_test(test_expand_limits),
      cmocka_unit_test(test_case_parse),          cmocka_unit_test(test_case_input),
      cmocka_unit_test(test_case_text),           cmocka_unit_test(test_case_text_of_large_seed),
      cmocka_unit_test(test_case_text_of_widest), cmocka_unit_test(test_case_base),
      cmocka_unit_test(test_built_in_suites),     cmocka_unit_test(test_suite_text),
      cmocka_unit_test(test_suite_errors),        cmocka_unit_test(test_suite_file),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
