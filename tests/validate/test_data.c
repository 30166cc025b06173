/* A case's input file: any name, read once for many cases and no more of it than is needed, read
 * again when it has changed, and named by every refusal. */
#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "validate/cases/data.h"

enum { TOKENS = 50, DIM = 8, ELEMENTS = TOKENS * DIM };

static char folder[512], path[1024];
static float values[ELEMENTS];

/* q, k, v of one head, v scaled by `factor`, and `more` bytes that no attention reads. */
static void write_file(float factor, size_t more) {
  static float v[ELEMENTS];
  void *rest = calloc(more + 1, 1);
  for (int i = 0; i < ELEMENTS; i++) v[i] = factor * values[i];
  ifa_tensor list[4] = {{.name = "q", .data = values},
                        {.name = "k", .data = values},
                        {.name = "v", .data = v},
                        {.name = "w",
                         .type = IFA_TENSOR_U8,
                         .rank = 1,
                         .shape = {(int64_t)more},
                         .data = rest,
                         .bytes = more}};
  for (int i = 0; i < 3; i++) {
    list[i].rank = 4;
    list[i].shape[0] = list[i].shape[1] = 1;
    list[i].shape[2] = TOKENS;
    list[i].shape[3] = DIM;
    list[i].bytes = sizeof values;
  }
  assert_int_equal(ifa_safetensors_write(path, list, 4, NULL, 0, NULL), IFA_OK);
  free(rest);
}

/* Bytes that this process has read so far; -1 where the kernel does not say. */
static int64_t bytes_read(void) {
  FILE *file = fopen("/proc/self/io", "r");
  int64_t count = -1;
  if (file && fscanf(file, "rchar: %" SCNd64, &count) != 1) count = -1;
  if (file) fclose(file);
  return count;
}

static ifa_data made(const char *keys) {
  ifa_case c;
  ifa_data data;
  ifa_message why = {""};
  assert_int_equal(ifa_case_parse(keys, &c, &why), IFA_OK);
  assert_int_equal(ifa_case_set_input(&c, path, &why), IFA_OK);
  if (ifa_data_make(&c, &data, &why) != IFA_OK) fail_msg("%s", why.text);
  return data;
}

static void test_read_once(void **state) {
  (void)state;
  const size_t more = (size_t)8 << 20;
  static const char *const keys[] = {"qk=int8",       "qk=int4",  "v=int4",   "vscale=token",
                                     "vscale=tensor", "causal=1", "smooth=1", "rows=3"};
  write_file(1, more);
  int64_t before = bytes_read();
  if (before < 0) skip();
  for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
    ifa_data data = made(keys[i]);
    assert_memory_equal(data.q, values, sizeof values);
    ifa_data_free(&data);
  }
  int64_t read = bytes_read() - before;
  if (read < (int64_t)(3 * sizeof values) || read > (int64_t)(3 * sizeof values) + 8192)
    fail_msg("%" PRId64 " bytes were read of three tensors of %zu", read, sizeof values);
}

static void test_changed_file(void **state) {
  (void)state;
  write_file(1, 0);
  ifa_data data = made("");
  assert_true(data.v[1] == values[1]);
  ifa_data_free(&data);
  write_file(2, 0);
  data = made("");
  assert_true(data.v[1] == 2 * values[1]);
  ifa_data_free(&data);
}

static void expect_refusal(const char *said) {
  ifa_case c;
  ifa_data data;
  ifa_message why = {""};
  assert_int_equal(ifa_case_parse("", &c, NULL), IFA_OK);
  assert_int_equal(ifa_case_set_input(&c, path, NULL), IFA_OK);
  assert_int_not_equal(ifa_data_make(&c, &data, &why), IFA_OK);
  ifa_data_free(&data);
  if (!strstr(why.text, said) || !strstr(why.text, strrchr(path, '/') + 1))
    fail_msg("'%s' does not name %s and say '%s'", why.text, path, said);
}

static void test_refusals_name_the_file(void **state) {
  (void)state;
  float kept = values[3];
  values[3] = -INFINITY;
  write_file(1, 0);
  values[3] = kept;
  expect_refusal("q[0][0][0][3] is -inf");
  write_file(INFINITY, 0);
  expect_refusal("v[0][0][0][");
  assert_int_equal(truncate(path, 300), 0);
  expect_refusal("past");
  ifa_tensor one = {
      .name = "q", .rank = 4, .shape = {1, 1, TOKENS, DIM}, .data = values, .bytes = sizeof values};
  assert_int_equal(ifa_safetensors_write(path, &one, 1, NULL, 0, NULL), IFA_OK);
  expect_refusal("'k'");
  one.rank = 1, one.shape[0] = ELEMENTS;
  assert_int_equal(ifa_safetensors_write(path, &one, 1, NULL, 0, NULL), IFA_OK);
  expect_refusal("1 dimensions");
  one.type = IFA_TENSOR_I8, one.bytes = ELEMENTS;
  assert_int_equal(ifa_safetensors_write(path, &one, 1, NULL, 0, NULL), IFA_OK);
  expect_refusal("q is i8");
  assert_int_equal(unlink(path), 0);
  expect_refusal("No such file");
}

/* Several threads, two files in turn: each has its own file's values. */

static ifa_case both[2];

static void *make_many(void *number) {
  for (int i = 0; i < 100; i++) {
    int other = (int)((uintptr_t)number + (uintptr_t)i) % 2;
    ifa_data data;
    ifa_status status = ifa_data_make(&both[other], &data, NULL);
    int right = status == IFA_OK && data.v[1] == (other ? 3.0f : 2.0f) * values[1];
    ifa_data_free(&data);
    if (!right) return number;
  }
  return NULL;
}

static void test_threads(void **state) {
  (void)state;
  enum { THREADS = 4 };
  char first[sizeof path];
  pthread_t threads[THREADS];
  memcpy(first, path, sizeof path);
  for (int other = 0; other < 2; other++) {
    if (other) snprintf(path, sizeof path, "%s/other.safetensors", folder);
    write_file(2.0f + (float)other, 1000);
    assert_int_equal(ifa_case_parse("vscale=token", &both[other], NULL), IFA_OK);
    assert_int_equal(ifa_case_set_input(&both[other], path, NULL), IFA_OK);
  }
  for (uintptr_t i = 0; i < THREADS; i++)
    assert_int_equal(pthread_create(&threads[i], NULL, make_many, (void *)(i + 1)), 0);
  for (int i = 0; i < THREADS; i++) {
    void *failed;
    assert_int_equal(pthread_join(threads[i], &failed), 0);
    assert_null(failed);
  }
  assert_int_equal(unlink(path), 0);
  memcpy(path, first, sizeof path);
}

static int begin(void **state) {
  (void)state;
  const char *parent = getenv("TMPDIR");
  snprintf(folder, sizeof folder, "%s/ifa_test_data_XXXXXX", parent ? parent : "/tmp");
  if (!mkdtemp(folder)) return -1;
  snprintf(path, sizeof path, "%s/a b, c.safetensors", folder);
  for (int i = 0; i < ELEMENTS; i++) values[i] = (float)(i * i * 37 % 101) / 50 - 1;
  return 0;
}

static int end(void **state) {
  (void)state;
  ifa_data_forget_file();
  ifa_case_forget_inputs();
  unlink(path);
  return rmdir(folder);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_read_once), cmocka_unit_test(test_changed_file),
      cmocka_unit_test(test_threads), cmocka_unit_test(test_refusals_name_the_file)};
  return cmocka_run_group_tests(tests, begin, end);
}
