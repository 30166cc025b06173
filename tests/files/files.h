/* files.h - what the tests of tensor files share: a fresh folder in $TMPDIR or /tmp, bytes,
 * refusals. IFA_SOURCE_DIR: the repository's root, "." if undefined. */
#ifndef IFA_TESTS_FILES_FILES_H
#define IFA_TESTS_FILES_FILES_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/half.h"
#include "files/tensor_file.h"

#ifndef IFA_SOURCE_DIR
#define IFA_SOURCE_DIR "."
#endif

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

/* A sanitizer's allocator is to answer NULL as the C library's does. */
const char *__asan_default_options(void);
const char *__asan_default_options(void) { return "allocator_may_return_null=1"; }

/* ---- helpers: files ---- */

static char folder[256];

static const char *in_folder(const char *name) {
  static char path[2][512];
  static int turn;
  turn = !turn;
  snprintf(path[turn], sizeof path[turn], "%s/%s", folder, name);
  return path[turn];
}

static inline int count_files(void) {
  DIR *open_folder = opendir(folder);
  assert_non_null(open_folder);
  int count = 0;
  for (struct dirent *e; (e = readdir(open_folder));)
    count += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
  closedir(open_folder);
  return count;
}

/* Each test begins in an empty folder. */
static inline int empty_folder(void **state) {
  (void)state;
  DIR *open_folder = opendir(folder);
  if (!open_folder) return -1;
  for (struct dirent *e; (e = readdir(open_folder));)
    if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0) remove(in_folder(e->d_name));
  return closedir(open_folder);
}

static inline int make_folder(void **state) {
  (void)state;
  const char *parent = getenv("TMPDIR");
  snprintf(folder, sizeof folder, "%s/ifa_tensor_file_XXXXXX", parent ? parent : "/tmp");
  return mkdtemp(folder) ? 0 : -1;
}

static inline int remove_folder(void **state) {
  return empty_folder(state) == 0 ? rmdir(folder) : -1;
}

static inline void write_bytes(const char *path, const void *bytes, size_t length) {
  FILE *stream = fopen(path, "wb");
  assert_non_null(stream);
  assert_int_equal(fwrite(bytes, 1, length, stream), length);
  assert_int_equal(fclose(stream), 0);
}

static inline size_t read_bytes(const char *path, uint8_t *bytes, size_t room) {
  FILE *stream = fopen(path, "rb");
  assert_non_null(stream);
  size_t length = fread(bytes, 1, room, stream);
  assert_true(length < room);
  fclose(stream);
  return length;
}

/* ---- helpers: refusals ---- */

static inline void assert_mentions(const ifa_message *why, const char *fragment) {
  if (!strstr(why->text, fragment)) fail_msg("\"%s\" does not mention \"%s\"", why->text, fragment);
  for (const char *c = why->text; *c; c++) assert_true(*c >= ' ' && *c <= '~');
}

/* Parses a copy of exactly `length` bytes, so that a sanitizer sees a read past them. */
static inline ifa_status parse(ifa_tensor_format format, const void *bytes, size_t length,
                               ifa_tensor_file **file, ifa_message *why) {
  if (length > PTRDIFF_MAX) fail_msg("a test asks for %zu bytes", length);
  uint8_t *copy = malloc(length ? length : 1);
  assert_non_null(copy);
  if (length > 0) memcpy(copy, bytes, length);
  ifa_status status = ifa_tensor_file_parse(copy, length, format, file, why);
  free(copy);
  return status;
}

static inline void refuse(ifa_tensor_format format, const void *bytes, size_t length,
                          ifa_status expected, const char *fragment) {
  ifa_message why = {"unset"};
  ifa_tensor_file *file = (ifa_tensor_file *)&why;
  assert_int_equal(parse(format, bytes, length, &file, &why), expected);
  assert_null(file);
  assert_mentions(&why, fragment);
  assert_int_equal(parse(format, bytes, length, &file, NULL), expected);
}

/* 8 bytes of length, the header, and data_bytes bytes of data; to be freed. */
static uint8_t *build_safetensors(const void *header, size_t header_bytes, size_t data_bytes,
                                  size_t *length) {
  *length = 8 + header_bytes + data_bytes;
  uint8_t *bytes = malloc(*length);
  assert_non_null(bytes);
  for (int i = 0; i < 8; i++) bytes[i] = (uint8_t)((uint64_t)header_bytes >> 8 * i);
  memcpy(bytes + 8, header, header_bytes);
  for (size_t i = 0; i < data_bytes; i++) bytes[8 + header_bytes + i] = (uint8_t)(i * 37 + 11);
  return bytes;
}

static inline void refuse_header(const char *header, size_t data_bytes, const char *fragment) {
  size_t length;
  uint8_t *bytes = build_safetensors(header, strlen(header), data_bytes, &length);
  refuse(IFA_SAFETENSORS, bytes, length, IFA_BAD_FILE, fragment);
  free(bytes);
}

static inline ifa_tensor_file *accept_header(const char *header, size_t data_bytes) {
  size_t length;
  ifa_message why;
  ifa_tensor_file *file;
  uint8_t *bytes = build_safetensors(header, strlen(header), data_bytes, &length);
  ifa_status status = parse(IFA_SAFETENSORS, bytes, length, &file, &why);
  free(bytes);
  if (status != IFA_OK) fail_msg("refused: %s", why.text);
  assert_string_equal(why.text, "");
  return file;
}

/* Magic, version, length of the header, the header and data_bytes bytes of data; to be freed. */
static uint8_t *build_npy(int major, int minor, const char *header, size_t data_bytes,
                          size_t *length) {
  size_t header_bytes = strlen(header), start = major == 1 ? 10 : 12;
  *length = start + header_bytes + data_bytes;
  uint8_t *bytes = malloc(*length);
  assert_non_null(bytes);
  memcpy(bytes, "\x93NUMPY", 6);
  bytes[6] = (uint8_t)major;
  bytes[7] = (uint8_t)minor;
  for (size_t i = 8; i < start; i++) bytes[i] = (uint8_t)(header_bytes >> 8 * (i - 8));
  memcpy(bytes + start, header, header_bytes);
  for (size_t i = 0; i < data_bytes; i++) bytes[start + header_bytes + i] = (uint8_t)(i * 37 + 11);
  return bytes;
}

static inline void refuse_npy(const char *header, size_t data_bytes, ifa_status status,
                              const char *fragment) {
  size_t length;
  uint8_t *bytes = build_npy(1, 0, header, data_bytes, &length);
  refuse(IFA_NPY, bytes, length, status, fragment);
  free(bytes);
}

static inline void accept_npy(int major, const char *header, size_t data_bytes) {
  size_t length;
  ifa_message why;
  ifa_tensor_file *file;
  uint8_t *bytes = build_npy(major, 0, header, data_bytes, &length);
  if (parse(IFA_NPY, bytes, length, &file, &why) != IFA_OK) fail_msg("refused: %s", why.text);
  ifa_tensor_file_free(file);
  free(bytes);
}

/* ---- helpers: tensors ---- */

static uint8_t pattern[8192];

static inline void fill_pattern(void) {
  uint32_t state = 1;
  for (size_t i = 0; i < sizeof pattern; i++) {
    state = state * 1664525u + 1013904223u;
    pattern[i] = (uint8_t)(state >> 24);
  }
}

/* A tensor of the first `rank` dimensions of 2, 3, 1, 4, 1, 2, 3, 2; `empty` makes the last one 0.
 */
static inline ifa_tensor make_tensor(const char *name, ifa_tensor_type type, int rank, int empty) {
  static const int64_t dims[IFA_TENSOR_MAX_RANK] = {2, 3, 1, 4, 1, 2, 3, 2};
  ifa_tensor tensor = {.name = name, .type = type, .rank = rank, .data = pattern};
  tensor.bytes = ifa_tensor_type_bytes(type);
  for (int i = 0; i < rank; i++) tensor.shape[i] = empty && i == rank - 1 ? 0 : dims[i];
  for (int i = 0; i < rank; i++) tensor.bytes *= (size_t)tensor.shape[i];
  assert_true(tensor.bytes <= sizeof pattern);
  return tensor;
}

static inline void assert_same(const ifa_tensor_file *file, const ifa_tensor *expected,
                               const char *name) {
  const ifa_tensor *tensor;
  ifa_message why;
  assert_int_equal(ifa_tensor_file_find(file, name, &tensor, &why), IFA_OK);
  assert_string_equal(tensor->name, name);
  assert_int_equal(tensor->type, expected->type);
  assert_int_equal(tensor->rank, expected->rank);
  for (int i = 0; i < tensor->rank; i++) assert_int_equal(tensor->shape[i], expected->shape[i]);
  assert_int_equal(tensor->bytes, expected->bytes);
  assert_non_null(tensor->data);
  assert_memory_equal(tensor->data, expected->data, expected->bytes);
}

static inline ifa_tensor_file *must_read(const char *path) {
  ifa_tensor_file *file;
  ifa_message why;
  if (ifa_tensor_file_read(path, &file, &why) != IFA_OK) fail_msg("%s", why.text);
  assert_string_equal(why.text, "");
  return file;
}

#define TEST(name) cmocka_unit_test_setup(name, empty_folder)

#endif
