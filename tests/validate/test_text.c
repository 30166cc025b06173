/* Text made visible, words of a shell, and numbers that are nothing else. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/message.h"
#include "validate/text/number.h"
#include "validate/text/visible.h"

static void expect_visible(const char *text, const char *seen) {
  char *made = ifa_visible(text);
  assert_string_equal(made, seen);
  char *again = ifa_visible(made);
  assert_string_equal(again, made);
  free(again);
  free(made);
}

static void test_visible(void **state) {
  (void)state;
  expect_visible("", "");
  expect_visible("plain \\n text ~", "plain \\n text ~");
  expect_visible("Ger\xc3\xa4t \xe3\x83\x87 \xf0\x9f\x98\x80",
                 "Ger\xc3\xa4t \xe3\x83\x87 \xf0\x9f\x98\x80");
  expect_visible("\n\r\t\x01\x1b[0m\x7f", "\\n\\r\\t\\x01\\x1b[0m\\x7f");
  expect_visible("\xc2\x80\xc2\x9f\xc2\xa0",
                 "\\u0080\\u009f\xc2\xa0"); /* C1; a hard blank is none */
  expect_visible("a\xe2\x80\xae"
                 "b\xe2\x81\xa6\xef\xbb\xbf\xe2\x80\xa8",
                 "a\\u202eb\\u2066\\ufeff\\u2028");
  expect_visible("\xef\xbf\xbe\xef\xbf\xbd", "\\ufffe\xef\xbf\xbd"); /* XML has no fffe */
  /* no characters: a stray byte, overlong forms, surrogates, beyond 10ffff, cut before another */
  expect_visible("Ger\xe4t", "Ger\\xe4t");
  expect_visible("\x80\xc0\xaf\xc1\xbf\xfe\xff.", "\\x80\\xc0\\xaf\\xc1\\xbf\\xfe\\xff.");
  expect_visible("\xe0\x80\x80\xed\xa0\x80.", "\\xe0\\x80\\x80\\xed\\xa0\\x80.");
  expect_visible("\xf4\x90\x80\x80\xf5.", "\\xf4\\x90\\x80\\x80\\xf5.");
  expect_visible("\xe3\x83x", "\\xe3\\x83x");
  /* cut by the end */
  expect_visible("\xe3\x83\x87\xe3\x83", "\xe3\x83\x87...");
  expect_visible("\xe3\x83\x87\xf0", "\xe3\x83\x87...");
}

/* Every text of three bytes: what comes out is UTF-8 with nothing hidden, and stays so. */
static void test_every_short_text(void **state) {
  (void)state;
  static const unsigned char bytes[] = {1,    '\n', ' ',  'a',  0x7f, 0x80, 0x8f, 0x90,
                                        0x9f, 0xa0, 0xae, 0xbb, 0xbf, 0xc0, 0xc2, 0xdf,
                                        0xe0, 0xe2, 0xed, 0xef, 0xf0, 0xf4, 0xf5, 0xff};
  enum { N = sizeof bytes };
  for (int i = 0; i < N * N * N; i++) {
    const char text[] = {(char)bytes[i % N], (char)bytes[i / N % N], (char)bytes[i / N / N], '\0'};
    char *made = ifa_visible(text), *again = ifa_visible(made), *word = ifa_shell_word(text),
         *same = ifa_visible(word);
    assert_string_equal(made, again);
    assert_string_equal(word, same);
    for (size_t at = 0, n; made[at]; at += n) {
      n = ifa_utf8_length(made + at);
      assert_true(n > 0);
      assert_true(n > 1 || (made[at] >= ' ' && made[at] <= '~'));
    }
    free(made);
    free(again);
    free(word);
    free(same);
  }
}

static void expect_word(const char *text, const char *wanted) {
  char *word = ifa_shell_word(text);
  assert_string_equal(word, wanted);
  free(word);
}

static void test_shell_word(void **state) {
  (void)state;
  expect_word("./lib.so", "./lib.so");
  expect_word("", "''");
  expect_word("a b", "'a b'");
  expect_word("it's", "'it'\\''s'");
  expect_word("$x `y` \"z\" \\", "'$x `y` \"z\" \\'");
  expect_word("\xe4%\n'", "\"$(printf '\\344%%\\012\\047')\"");
}

static void test_cuts(void **state) {
  (void)state;
  assert_int_equal(ifa_utf8_cut("abc", 8), 3);
  assert_int_equal(ifa_utf8_cut("a\xe3\x83\x87", 3), 1);
  assert_int_equal(ifa_utf8_cut("a\xe3\x83\x87", 4), 4);
  char path[400] = "";
  for (int i = 0; i < 100; i++) strcat(path, "\xe3\x83\x87");
  ifa_short shown = ifa_shorten(path);
  assert_non_null(strstr(shown.text, "..."));
  expect_visible(shown.text, shown.text);
  assert_string_equal(ifa_shorten("short").text, "short");
  /* a message that does not fit */
  ifa_message why;
  ifa_fail(&why, IFA_IO, "%s%s", path, path);
  assert_int_equal(strlen(why.text) / 3 * 3, strlen(why.text));
  assert_string_equal(why.text + strlen(why.text) - 3, "...");
  expect_visible(why.text, why.text);
}

static void test_integers(void **state) {
  (void)state;
  uint64_t value = 7;
  int small = 7;
  static const char *const wrong[] = {"",
                                      " 1",
                                      "1 ",
                                      "+1",
                                      "-1",
                                      "1x",
                                      "0x1",
                                      "1e2",
                                      "1.0",
                                      "18446744073709551616",
                                      "99999999999999999999"};
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
    assert_int_equal(ifa_read_integer(wrong[i], 0, UINT64_MAX, &value), 0);
  assert_int_equal(ifa_read_integer("4", 5, 6, &value), 0);
  assert_int_equal(ifa_read_integer("7", 5, 6, &value), 0);
  assert_int_equal(value, 7);
  assert_int_equal(ifa_read_integer("18446744073709551615", 0, UINT64_MAX, &value), 1);
  assert_true(value == UINT64_MAX);
  assert_int_equal(ifa_read_integer("007", 0, 9, &value), 1);
  assert_int_equal(value, 7);
  assert_int_equal(ifa_read_int("4294967297", 1, 101, &small), 0);
  assert_int_equal(ifa_read_int("101", 1, 101, &small), 1);
  assert_int_equal(small, 101);
}

static void test_decimals(void **state) {
  (void)state;
  double value = 7;
  static const char *const wrong[] = {"",      " 1",  "1 ",    "+1",  "-1",   "1x",
                                      "0x1p3", "1e",  "1e+",   ".5",  ".",    "1.2.3",
                                      "nan",   "inf", "1e999", "1,5", "1e1.5"};
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
    assert_int_equal(ifa_read_decimal(wrong[i], 0, 1e300, &value), 0);
  assert_true(value == 7);
  assert_int_equal(ifa_read_decimal("0.25", 0, 1, &value), 1);
  assert_true(value == 0.25);
  assert_int_equal(ifa_read_decimal("25.e-2", 0, 1, &value) && value == 0.25, 1);
  assert_int_equal(ifa_read_decimal("1E1", 0, 10, &value) && value == 10, 1);
  assert_int_equal(ifa_read_decimal("1E1", 0, 9, &value), 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_visible),    cmocka_unit_test(test_every_short_text),
      cmocka_unit_test(test_shell_word), cmocka_unit_test(test_cuts),
      cmocka_unit_test(test_integers),   cmocka_unit_test(test_decimals)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
