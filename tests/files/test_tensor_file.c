/* test_tensor_file.c - files/tensor_file.h: round trips, the exact bytes written, every way in
 * which a file can lie, and what is left in the folder when writing fails. Hostile bytes are built
 * here. Files go to a fresh folder in $TMPDIR or /tmp.
 *
 * IFA_SOURCE_DIR: the repository's root, "." if undefined. IFA_TEST_WRAP_ALLOC: the program is
 * linked with -Wl,--wrap=malloc,--wrap=calloc, so that the library's allocations can be made to
 * fail one by one; jansson's always can. */
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

static int count_files(void) {
  DIR *open_folder = opendir(folder);
  assert_non_null(open_folder);
  int count = 0;
  for (struct dirent *e; (e = readdir(open_folder));)
    count += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
  closedir(open_folder);
  return count;
}

/* Each test begins in an empty folder. */
static int empty_folder(void **state) {
  (void)state;
  DIR *open_folder = opendir(folder);
  if (!open_folder) return -1;
  for (struct dirent *e; (e = readdir(open_folder));)
    if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0) remove(in_folder(e->d_name));
  return closedir(open_folder);
}

static int make_folder(void **state) {
  (void)state;
  const char *parent = getenv("TMPDIR");
  snprintf(folder, sizeof folder, "%s/ifa_tensor_file_XXXXXX", parent ? parent : "/tmp");
  return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state) { return empty_folder(state) == 0 ? rmdir(folder) : -1; }

static void write_bytes(const char *path, const void *bytes, size_t length) {
  FILE *stream = fopen(path, "wb");
  assert_non_null(stream);
  assert_int_equal(fwrite(bytes, 1, length, stream), length);
  assert_int_equal(fclose(stream), 0);
}

static size_t read_bytes(const char *path, uint8_t *bytes, size_t room) {
  FILE *stream = fopen(path, "rb");
  assert_non_null(stream);
  size_t length = fread(bytes, 1, room, stream);
  assert_true(length < room);
  fclose(stream);
  return length;
}

/* ---- helpers: refusals ---- */

static void assert_mentions(const ifa_message *why, const char *fragment) {
  if (!strstr(why->text, fragment)) fail_msg("\"%s\" does not mention \"%s\"", why->text, fragment);
  for (const char *c = why->text; *c; c++) assert_true(*c >= ' ' && *c <= '~');
}

/* Parses a copy of exactly `length` bytes, so that a sanitizer sees a read past them. */
static ifa_status parse(ifa_tensor_format format, const void *bytes, size_t length,
                        ifa_tensor_file **file, ifa_message *why) {
  if (length > PTRDIFF_MAX) fail_msg("a test asks for %zu bytes", length);
  uint8_t *copy = malloc(length ? length : 1);
  assert_non_null(copy);
  if (length > 0) memcpy(copy, bytes, length);
  ifa_status status = ifa_tensor_file_parse(copy, length, format, file, why);
  free(copy);
  return status;
}

static void refuse(ifa_tensor_format format, const void *bytes, size_t length, ifa_status expected,
                   const char *fragment) {
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

static void refuse_header(const char *header, size_t data_bytes, const char *fragment) {
  size_t length;
  uint8_t *bytes = build_safetensors(header, strlen(header), data_bytes, &length);
  refuse(IFA_SAFETENSORS, bytes, length, IFA_BAD_FILE, fragment);
  free(bytes);
}

static ifa_tensor_file *accept_header(const char *header, size_t data_bytes) {
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

static void refuse_npy(const char *header, size_t data_bytes, ifa_status status,
                       const char *fragment) {
  size_t length;
  uint8_t *bytes = build_npy(1, 0, header, data_bytes, &length);
  refuse(IFA_NPY, bytes, length, status, fragment);
  free(bytes);
}

static void accept_npy(int major, const char *header, size_t data_bytes) {
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

static void fill_pattern(void) {
  uint32_t state = 1;
  for (size_t i = 0; i < sizeof pattern; i++) {
    state = state * 1664525u + 1013904223u;
    pattern[i] = (uint8_t)(state >> 24);
  }
}

/* A tensor of the first `rank` dimensions of 2, 3, 1, 4, 1, 2, 3, 2; `empty` makes the last one 0.
 */
static ifa_tensor make_tensor(const char *name, ifa_tensor_type type, int rank, int empty) {
  static const int64_t dims[IFA_TENSOR_MAX_RANK] = {2, 3, 1, 4, 1, 2, 3, 2};
  ifa_tensor tensor = {.name = name, .type = type, .rank = rank, .data = pattern};
  tensor.bytes = ifa_tensor_type_bytes(type);
  for (int i = 0; i < rank; i++) tensor.shape[i] = empty && i == rank - 1 ? 0 : dims[i];
  for (int i = 0; i < rank; i++) tensor.bytes *= (size_t)tensor.shape[i];
  assert_true(tensor.bytes <= sizeof pattern);
  return tensor;
}

static void assert_same(const ifa_tensor_file *file, const ifa_tensor *expected, const char *name) {
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

static ifa_tensor_file *must_read(const char *path) {
  ifa_tensor_file *file;
  ifa_message why;
  if (ifa_tensor_file_read(path, &file, &why) != IFA_OK) fail_msg("%s", why.text);
  assert_string_equal(why.text, "");
  return file;
}

/* ---- round trips ---- */

static void test_round_trip_safetensors(void **state) {
  (void)state;
  enum { TYPES = 5, RANKS = IFA_TENSOR_MAX_RANK + 1 };
  static char names[TYPES * RANKS * 2][16];
  ifa_tensor tensors[TYPES * RANKS * 2];
  size_t count = 0;
  for (int type = 0; type < TYPES; type++)
    for (int rank = 0; rank < RANKS; rank++)
      for (int empty = 0; empty < (rank ? 2 : 1); empty++) {
        snprintf(names[count], sizeof names[count], "t%d r%d e%d", type, rank, empty);
        tensors[count] = make_tensor(names[count], (ifa_tensor_type)type, rank, empty);
        count++;
      }
  const ifa_metadata metadata[] = {
      {"b", "2"},
      {"a", "\"quoted\" \\ \n \x7f \xc2\x80"
            " \xdf\xbf \xe0\xa0\x80 \xed\x9f\xbf \xef\xbf\xbf \xf0\x90\x80\x80 \xf4\x8f\xbf\xbf"},
      {"", ""}};
  ifa_message why;
  const char *path = in_folder("all.safetensors");
  assert_int_equal(ifa_safetensors_write(path, tensors, count, metadata, COUNT(metadata), &why),
                   IFA_OK);
  assert_string_equal(why.text, "");
  ifa_tensor_file *file = must_read(path);
  assert_int_equal(ifa_tensor_file_count(file), count);
  for (size_t i = 0; i < count; i++) assert_same(file, &tensors[i], names[i]);
  for (size_t i = 0; i < COUNT(metadata); i++)
    assert_string_equal(ifa_tensor_file_metadata(file, metadata[i].key), metadata[i].value);
  assert_non_null(ifa_tensor_file_metadata_at(file, 2));
  assert_null(ifa_tensor_file_metadata_at(file, 3));
  assert_null(ifa_tensor_file_metadata(file, "c"));
  ifa_tensor_file_free(file);
  assert_int_equal(count_files(), 1);
}

static void test_round_trip_npy(void **state) {
  (void)state;
  static const ifa_tensor_type types[] = {IFA_TENSOR_F32, IFA_TENSOR_F16, IFA_TENSOR_I8,
                                          IFA_TENSOR_U8};
  const char *path = in_folder("one.npy");
  for (size_t t = 0; t < COUNT(types); t++)
    for (int rank = 0; rank <= IFA_TENSOR_MAX_RANK; rank++)
      for (int empty = 0; empty < (rank ? 2 : 1); empty++) {
        ifa_tensor tensor = make_tensor(NULL, types[t], rank, empty);
        assert_int_equal(ifa_npy_write(path, &tensor, NULL), IFA_OK);
        ifa_tensor_file *file = must_read(path);
        assert_int_equal(ifa_tensor_file_count(file), 1);
        assert_same(file, &tensor, "");
        assert_null(ifa_tensor_file_metadata(file, "a"));
        ifa_tensor_file_free(file);
      }
  assert_int_equal(count_files(), 1);
}

static void test_large_round_trip(void **state) { /* longer than the writer's buffer */
  (void)state;
  enum { ELEMENTS = 20011 };
  float *data = malloc(ELEMENTS * sizeof *data);
  assert_non_null(data);
  for (int i = 0; i < ELEMENTS; i++) data[i] = (float)i * 0.37f - 1000.0f;
  ifa_tensor tensor = {
      .name = "x", .type = IFA_TENSOR_F32, .rank = 1, .shape = {ELEMENTS}, .data = data};
  tensor.bytes = ELEMENTS * sizeof *data;
  const char *names[] = {"x.npy", "x.safetensors"};
  for (size_t i = 0; i < 2; i++) {
    ifa_status status = i == 0
                            ? ifa_npy_write(in_folder(names[i]), &tensor, NULL)
                            : ifa_safetensors_write(in_folder(names[i]), &tensor, 1, NULL, 0, NULL);
    assert_int_equal(status, IFA_OK);
    ifa_tensor_file *file = must_read(in_folder(names[i]));
    assert_same(file, &tensor, i == 0 ? "" : "x");
    ifa_tensor_file_free(file);
  }
  free(data);
}

/* The longest header that can be written, and values at the ends of the types. */
static void test_npy_longest_header(void **state) {
  (void)state;
  ifa_tensor tensor = {
      .type = IFA_TENSOR_I8, .rank = 8, .shape = {0, 0, 0, 0, 0, 0, 0, INT64_MAX / 8}};
  assert_int_equal(ifa_npy_write(in_folder("long.npy"), &tensor, NULL), IFA_OK);
  ifa_tensor_file *file = must_read(in_folder("long.npy"));
  const ifa_tensor *read;
  assert_int_equal(ifa_tensor_file_find(file, "", &read, NULL), IFA_OK);
  assert_true(read->shape[7] == INT64_MAX / 8 && read->bytes == 0 && read->data);
  ifa_tensor_file_free(file);
}

/* ---- the exact bytes ---- */

static void test_bytes_of_npy(void **state) {
  (void)state;
  const float data[] = {1.0f, -2.5f};
  const ifa_tensor tensor = {
      .type = IFA_TENSOR_F32, .rank = 2, .shape = {2, 1}, .data = data, .bytes = 8};
  uint8_t bytes[512];
  assert_int_equal(ifa_npy_write(in_folder("x.npy"), &tensor, NULL), IFA_OK);
  assert_int_equal(read_bytes(in_folder("x.npy"), bytes, sizeof bytes), 128 + 8);
  assert_memory_equal(
      bytes,
      "\x93NUMPY\x01\x00\x76\x00{'descr': '<f4', 'fortran_order': False, 'shape': (2, 1), }   ",
      72);
  assert_memory_equal(bytes + 127, "\n\x00\x00\x80\x3f\x00\x00\x20\xc0", 9);
}

static void test_bytes_of_safetensors(void **state) {
  (void)state;
  static const char header[] = "{\"__metadata__\":{\"k\":\"v\",\"l\":\"\"},"
                               "\"b\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]},"
                               "\"h\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[4,8]},"
                               "\"a\":{\"dtype\":\"I8\",\"shape\":[1,1],\"data_offsets\":[8,9]}}";
  const float b = -2.5f;
  const uint16_t h[] = {0x3c00, 0xfbff};
  const int8_t a = -128;
  ifa_tensor t[] = {
      {.name = "a", .type = IFA_TENSOR_I8, .rank = 2, .shape = {1, 1}, .data = &a, .bytes = 1},
      {.name = "b", .type = IFA_TENSOR_F32, .rank = 0, .data = &b, .bytes = 4},
      {.name = "h", .type = IFA_TENSOR_F16, .rank = 1, .shape = {2}, .data = h, .bytes = 4}};
  ifa_metadata m[] = {{"l", ""}, {"k", "v"}};
  size_t padded = (sizeof header - 1 + 7) / 8 * 8;
  uint8_t bytes[512], again[512];
  assert_int_equal(ifa_safetensors_write(in_folder("x.safetensors"), t, 3, m, 2, NULL), IFA_OK);
  size_t length = read_bytes(in_folder("x.safetensors"), bytes, sizeof bytes);
  assert_int_equal(length, 8 + padded + 9);
  assert_int_equal(bytes[0], padded);
  assert_memory_equal(bytes + 8, header, sizeof header - 1);
  for (size_t i = sizeof header - 1; i < padded; i++) assert_int_equal(bytes[8 + i], ' ');
  assert_memory_equal(bytes + 8 + padded, "\x00\x00\x20\xc0\x00\x3c\xff\xfb\x80", 9);

  ifa_tensor swapped[] = {t[2], t[1], t[0]}; /* the caller's order does not matter */
  ifa_metadata swapped_m[] = {m[1], m[0]};
  assert_int_equal(
      ifa_safetensors_write(in_folder("x.safetensors"), swapped, 3, swapped_m, 2, NULL), IFA_OK);
  assert_int_equal(read_bytes(in_folder("x.safetensors"), again, sizeof again), length);
  assert_memory_equal(bytes, again, length);
}

static void test_no_tensors(void **state) {
  (void)state;
  assert_int_equal(ifa_safetensors_write(in_folder("x.safetensors"), NULL, 0, NULL, 0, NULL),
                   IFA_OK);
  ifa_tensor_file *file = must_read(in_folder("x.safetensors"));
  assert_int_equal(ifa_tensor_file_count(file), 0);
  assert_null(ifa_tensor_file_name(file, 0));
  ifa_tensor_file_free(file);
}

/* ---- files of the formats ---- */

static void test_real_files(void **state) {
  (void)state;
  static const int layers[] = {0, 2, 5};
  for (size_t i = 0; i < COUNT(layers); i++) {
    char path[512], layer[16];
    snprintf(path, sizeof path, "%s/data/real/minilm_layer%d.safetensors", IFA_SOURCE_DIR,
             layers[i]);
    snprintf(layer, sizeof layer, "%d", layers[i]);
    ifa_tensor_file *file = must_read(path);
    assert_int_equal(ifa_tensor_file_count(file), 3);
    assert_string_equal(ifa_tensor_file_metadata(file, "layer"), layer);
    assert_string_equal(ifa_tensor_file_metadata(file, "sm_scale"), "0.17677669529663687");
    for (const char *name = "q\0k\0v\0"; *name; name += 2) {
      const ifa_tensor *t;
      assert_int_equal(ifa_tensor_file_find(file, name, &t, NULL), IFA_OK);
      assert_true(t->type == IFA_TENSOR_F16 && t->rank == 4 && t->bytes == 393216);
      assert_true(t->shape[0] == 1 && t->shape[1] == 12 && t->shape[2] == 512 && t->shape[3] == 32);
      for (size_t e = 0; e < t->bytes / 2; e++) { /* finite activations of a trained model */
        float x = ifa_f16_to_f32(((const uint16_t *)t->data)[e]);
        assert_true(x > -32.0f && x < 32.0f);
      }
    }
    ifa_tensor_file_free(file);
  }
}

static void test_npy_accepted_headers(void **state) {
  (void)state;
  accept_npy(1, "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }\n", 8);
  accept_npy(2, "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }        \n", 24);
  accept_npy(3, "{\"shape\":(2,3,),\"fortran_order\":False,\"descr\":\"|u1\"}\n", 6);
  accept_npy(1, "  { 'shape' : ( ) , 'descr' : '|i1' , 'fortran_order' : False }\n", 1);
  accept_npy(1, "{'descr': '<f2', 'fortran_order': False, 'shape': (0, 576460752303423487), }\n",
             0);
}

static void test_npy_big_endian(void **state) {
  (void)state;
  static const struct {
    const char *header;
    const char *data;
    size_t bytes;
  } cases[] = {
      {"{'descr': '>f4', 'fortran_order': False, 'shape': (2,), }\n",
       "\x3f\x80\x00\x00\xc0\x20\x00\x00", 8},
      {"{'descr': '>f2', 'fortran_order': False, 'shape': (2,), }\n", "\x3c\x00\xfb\xff", 4}};
  const float f4[] = {1.0f, -2.5f};
  const uint16_t f2[] = {0x3c00, 0xfbff};
  for (size_t i = 0; i < COUNT(cases); i++) {
    size_t length;
    ifa_tensor_file *file;
    const ifa_tensor *t;
    uint8_t *bytes = build_npy(1, 0, cases[i].header, cases[i].bytes, &length);
    memcpy(bytes + length - cases[i].bytes, cases[i].data, cases[i].bytes);
    assert_int_equal(parse(IFA_NPY, bytes, length, &file, NULL), IFA_OK);
    assert_int_equal(ifa_tensor_file_find(file, "", &t, NULL), IFA_OK);
    assert_memory_equal(t->data, i == 0 ? (const void *)f4 : f2, t->bytes);
    ifa_tensor_file_free(file);
    free(bytes);
  }
}

static void test_format_by_content(void **state) {
  (void)state;
  ifa_tensor tensor = make_tensor("x", IFA_TENSOR_F16, 2, 0);
  assert_int_equal(ifa_npy_write(in_folder("one"), &tensor, NULL), IFA_OK);
  assert_int_equal(ifa_safetensors_write(in_folder("two.bin"), &tensor, 1, NULL, 0, NULL), IFA_OK);
  ifa_tensor_file *file = must_read(in_folder("one"));
  assert_same(file, &tensor, "");
  ifa_tensor_file_free(file);
  file = must_read(in_folder("two.bin"));
  assert_same(file, &tensor, "x");
  ifa_tensor_file_free(file);

  ifa_message why; /* an ending that is not the content's */
  assert_int_equal(rename(in_folder("two.bin"), in_folder("two.npy")), 0);
  assert_int_equal(ifa_tensor_file_read(in_folder("two.npy"), &file, &why), IFA_BAD_FILE);
  assert_mentions(&why, "two.npy': npy: the file does not begin with");
  assert_int_equal(rename(in_folder("one"), in_folder("one.safetensors")), 0);
  assert_int_equal(ifa_tensor_file_read(in_folder("one.safetensors"), &file, &why), IFA_BAD_FILE);
  assert_mentions(&why, "header length");
}

static void test_unsupported_type_matters_when_asked_for(void **state) {
  (void)state;
  static const struct {
    const char *name;
    int bytes_of_8;
  } types[] = {{"BOOL", 8},        {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6},
               {"F8_E5M2", 8},     {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8},
               {"F8_E5M2FNUZ", 8}, {"I16", 16},    {"U16", 16},    {"I32", 32},
               {"U32", 32},        {"I64", 64},    {"U64", 64},    {"F64", 64},
               {"C64", 64}};
  for (size_t i = 0; i < COUNT(types); i++) {
    char header[256];
    const ifa_tensor *tensor;
    ifa_message why;
    snprintf(header, sizeof header,
             "{\"x\":{\"dtype\":\"%s\",\"shape\":[2,4],\"data_offsets\":[0,%d]},"
             "\"y\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[%d,%d]}}",
             types[i].name, types[i].bytes_of_8, types[i].bytes_of_8, types[i].bytes_of_8 + 1);
    ifa_tensor_file *file = accept_header(header, (size_t)types[i].bytes_of_8 + 1);
    assert_string_equal(ifa_tensor_file_name(file, 0), "x");
    assert_int_equal(ifa_tensor_file_find(file, "x", &tensor, &why), IFA_UNSUPPORTED);
    assert_null(tensor);
    assert_mentions(&why, types[i].name);
    assert_int_equal(ifa_tensor_file_find(file, "y", &tensor, &why), IFA_OK);
    assert_int_equal(*(const uint8_t *)tensor->data, (uint8_t)(types[i].bytes_of_8 * 37 + 11));
    ifa_tensor_file_free(file);
  }
  refuse_header("{\"x\":{\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[0,1]}}", 1,
                "'x': the product of shape");
}

static void test_absent_tensor(void **state) {
  (void)state;
  const ifa_tensor *tensor;
  ifa_message why;
  ifa_tensor_file *file =
      accept_header("{\"k\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1]}}", 1);
  assert_int_equal(ifa_tensor_file_find(file, "q", &tensor, &why), IFA_BAD_ARGUMENT);
  assert_mentions(&why, "no tensor 'q' among its 1, the first being 'k'");
  assert_int_equal(ifa_tensor_file_find(file, NULL, &tensor, &why), IFA_BAD_ARGUMENT);
  assert_int_equal(ifa_tensor_file_find(NULL, "q", &tensor, &why), IFA_BAD_ARGUMENT);
  assert_int_equal(ifa_tensor_file_find(file, "q", NULL, &why), IFA_BAD_ARGUMENT);
  ifa_tensor_file_free(file);
}

/* Valid, if unusual: any order of names, empty tensors between others, spaces, escapes. */
static void test_safetensors_accepted_headers(void **state) {
  (void)state;
  const ifa_tensor *tensor;
  ifa_tensor_file *file =
      accept_header("{ \"b\":{\"shape\":[2],\"dtype\":\"U8\",\"data_offsets\":[1,3]},"
                    "\"e\":{\"dtype\":\"F32\",\"shape\":[0,7],\"data_offsets\":[1,1]},"
                    "\"\\u0061\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
                    "\"__metadata__\":{}}    ",
                    3);
  static const char *const order[] = {"a", "e", "b"};
  for (size_t i = 0; i < 3; i++) assert_string_equal(ifa_tensor_file_name(file, i), order[i]);
  assert_int_equal(ifa_tensor_file_find(file, "b", &tensor, NULL), IFA_OK);
  assert_memory_equal(tensor->data, "\x30\x55", 2);
  ifa_tensor_file_free(file);
}

/* ---- safetensors that lie ---- */

#define U8(name, shape, offsets) \
  "\"" name "\":{\"dtype\":\"U8\",\"shape\":" shape ",\"data_offsets\":" offsets "}"

static void test_lie_header_length(void **state) {
  (void)state;
  refuse(IFA_SAFETENSORS, "", 0, IFA_BAD_FILE, "empty");
  refuse(IFA_SAFETENSORS, "\x02\0\0\0\0\0\0", 7, IFA_BAD_FILE, "7 bytes do not hold the 8");
  refuse(IFA_SAFETENSORS, "\x03\0\0\0\0\0\0\0{}", 10, IFA_BAD_FILE,
         "header length 3 passes the end of the file, 2 bytes on");
  refuse(IFA_SAFETENSORS, "\x00\xe1\xf5\x05\0\0\0\0{}", 10, IFA_BAD_FILE,
         "header length 100000000 passes");
  refuse(IFA_SAFETENSORS, "\x01\xe1\xf5\x05\0\0\0\0{}", 10, IFA_BAD_FILE,
         "header length 100000001 is above 100000000");
  refuse(IFA_SAFETENSORS, "\xff\xff\xff\xff\xff\xff\xff\xff{}", 10, IFA_BAD_FILE,
         "18446744073709551615 is above");
  refuse(IFA_SAFETENSORS, "\xf8\xff\xff\xff\xff\xff\xff\xff{}", 10, IFA_BAD_FILE,
         "18446744073709551608 is above");
  refuse(IFA_SAFETENSORS, "\0\0\0\0\0\0\0\0{}", 10, IFA_BAD_FILE, "'{'");
}

static void test_lie_json(void **state) {
  (void)state;
  refuse_header("[]", 0, "'{'");
  refuse_header(" {}", 0, "'{'");
  refuse_header("{", 0, "header byte");
  refuse_header("{}x", 0, "header byte");
  refuse_header("{} {}", 0, "header byte");
  refuse_header("{\"a\":}", 0, "header byte");
  refuse_header("{\"a\\u0000b\":1}", 0, "header byte");
  refuse_header("{" U8("a", "[99999999999999999999]", "[0,1]") "}", 1, "too big integer");
  size_t length;
  uint8_t *bytes = build_safetensors("{}\0\0", 4, 0, &length);
  refuse(IFA_SAFETENSORS, bytes, length, IFA_BAD_FILE, "header byte");
  free(bytes);
}

static void test_lie_encoding(void **state) {
  (void)state;
  refuse_header("{\"\xff\":1}", 0, "unable to decode byte");
  refuse_header("{\"\xc0\x80\":1}", 0, "unable to decode byte");
  refuse_header("{\"\xed\xa0\x80\":1}", 0, "unable to decode byte");
  refuse_header("{\"__metadata__\":{\"a\":\"\xc3\"}}", 0, "unable to decode byte");
}

static void test_lie_deep_json(void **state) {
  (void)state;
  enum { DEPTH = 200000 };
  char *header = malloc(DEPTH * 5 + 1);
  assert_non_null(header);
  for (size_t i = 0; i < DEPTH; i++) memcpy(header + i * 5, "{\"a\":", 5);
  header[DEPTH * 5] = '\0';
  refuse_header(header, 0, "depth");
  memset(header, '[', DEPTH);
  memcpy(header, "{\"a\":", 5);
  header[DEPTH] = '\0';
  refuse_header(header, 0, "depth");
  free(header);
}

static void test_lie_duplicates(void **state) {
  (void)state;
  refuse_header("{" U8("a", "[1]", "[0,1]") "," U8("a", "[1]", "[1,2]") "}", 2, "duplicate");
  refuse_header("{" U8("a", "[1]", "[0,1]") "," U8("\\u0061", "[1]", "[1,2]") "}", 2, "duplicate");
  refuse_header("{\"__metadata__\":{\"k\":\"1\",\"k\":\"2\"}}", 0, "duplicate");
  refuse_header("{\"a\":{\"dtype\":\"U8\",\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1]}}",
                1, "duplicate");
}

static void test_lie_metadata(void **state) {
  (void)state;
  refuse_header("{\"__metadata__\":[]}", 0, "__metadata__ is not an object");
  refuse_header("{\"__metadata__\":null}", 0, "__metadata__ is not an object");
  refuse_header("{\"__metadata__\":{\"k\":\"1\",\"size\":2}}", 0, "'size' is not a string");
  refuse_header("{\"__metadata__\":{\"k\":{}}}", 0, "'k' is not a string");
}

static void test_lie_tensor_object(void **state) {
  (void)state;
  refuse_header("{\"a\":1}", 0, "'a' is not an object");
  refuse_header("{\"a\":{}}", 0, "'dtype' is missing");
  refuse_header("{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,1]}}", 1, "'shape' is missing");
  refuse_header("{\"a\":{\"dtype\":\"U8\",\"shape\":[1]}}", 1, "'data_offsets' is missing");
  refuse_header("{\"a\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1],\"more\":1}}", 1,
                "unknown key 'more'");
  refuse_header("{\"a\":{\"dtype\":8,\"shape\":[],\"data_offsets\":[0,1]}}", 1,
                "dtype is not a string");
  refuse_header("{\"a\":{\"dtype\":\"u8\",\"shape\":[],\"data_offsets\":[0,1]}}", 1,
                "unknown dtype 'u8'");
  refuse_header("{\"a\":{\"dtype\":\"\",\"shape\":[],\"data_offsets\":[0,1]}}", 1,
                "unknown dtype ''");
}

static void test_lie_shape(void **state) {
  (void)state;
  refuse_header("{" U8("a", "1", "[0,1]") "}", 1, "'a': shape is not an array");
  refuse_header("{" U8("a", "{}", "[0,1]") "}", 1, "'a': shape is not an array");
  refuse_header("{" U8("a", "[1,-1]", "[0,1]") "}", 1, "shape[1] is negative: -1");
  refuse_header("{" U8("a", "[-9223372036854775808]", "[0,1]") "}", 1, "shape[0] is negative");
  refuse_header("{" U8("a", "[1.0]", "[0,1]") "}", 1, "shape[0] is not an integer");
  refuse_header("{" U8("a", "[1e0]", "[0,1]") "}", 1, "shape[0] is not an integer");
  refuse_header("{" U8("a", "[\"1\"]", "[0,1]") "}", 1, "shape[0] is not an integer");
  refuse_header("{" U8("a", "[true]", "[0,1]") "}", 1, "shape[0] is not an integer");
  refuse_header("{" U8("a", "[1,null]", "[0,1]") "}", 1, "shape[1] is not an integer");
  refuse_header("{" U8("a", "[1,1,1,1,1,1,1,1,1]", "[0,1]") "}", 1, "rank 9 is above 8");
}

static void test_lie_shape_overflow(void **state) {
  (void)state;
  refuse_header("{" U8("a", "[4294967296,4294967296]", "[0,0]") "}", 0,
                "'a': the product of shape overflows");
  refuse_header("{" U8("a", "[4294967296,4294967296,0]", "[0,0]") "}", 0, "overflows");
  refuse_header("{" U8("a", "[0,4294967296,4294967296]", "[0,0]") "}", 0, "overflows");
  refuse_header("{" U8("a", "[9223372036854775807,2]", "[0,1]") "}", 1, "overflows");
  refuse_header(
      "{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387904],\"data_offsets\":[0,0]}}", 0,
      "overflows");
}

static void test_lie_offsets(void **state) {
  (void)state;
  refuse_header("{" U8("a", "[1]", "1") "}", 1, "data_offsets is not an array of two");
  refuse_header("{" U8("a", "[1]", "[1]") "}", 1, "data_offsets is not an array of two");
  refuse_header("{" U8("a", "[1]", "[0,1,1]") "}", 1, "data_offsets is not an array of two");
  refuse_header("{" U8("a", "[1]", "[-1,0]") "}", 1, "data_offsets[0] is negative: -1");
  refuse_header("{" U8("a", "[1]", "[0,-1]") "}", 1, "data_offsets[1] is negative: -1");
  refuse_header("{" U8("a", "[1]", "[0,1.0]") "}", 1, "data_offsets[1] is not an integer");
  refuse_header("{" U8("a", "[1]", "[\"0\",1]") "}", 1, "data_offsets[0] is not an integer");
  refuse_header("{" U8("a", "[1]", "[1,0]") "}", 1, "end at 0, before their begin 1");
  refuse_header("{" U8("a", "[1]", "[0,18446744073709551616]") "}", 1, "too big integer");
}

static void test_lie_offsets_and_shape(void **state) {
  (void)state;
  refuse_header("{" U8("a", "[2]", "[0,1]") "}", 1,
                "data_offsets hold 1 bytes, shape and dtype U8 need 2");
  refuse_header("{" U8("a", "[1]", "[0,2]") "}", 2, "data_offsets hold 2 bytes");
  refuse_header("{" U8("a", "[0]", "[0,1]") "}", 1, "data_offsets hold 1 bytes");
  refuse_header("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,2]}}", 2,
                "dtype F32 need 4");
  refuse_header("{" U8("a", "[1]", "[0,9223372036854775807]") "}", 1,
                "data_offsets hold 9223372036854775807");
}

static void test_lie_cover(void **state) {
  (void)state;
  refuse_header("{" U8("a", "[1]", "[1,2]") "}", 2, "'a' begins at 1 and leaves a hole");
  refuse_header("{" U8("a", "[1]", "[0,1]") "," U8("b", "[1]", "[2,3]") "}", 3,
                "'b' begins at 2 and leaves a hole");
  refuse_header("{" U8("a", "[2]", "[0,2]") "," U8("b", "[2]", "[1,3]") "}", 3,
                "'b' begins at 1 and leaves an overlap");
  refuse_header("{" U8("a", "[2]", "[0,2]") "," U8("b", "[2]", "[0,2]") "}", 2,
                "'b' begins at 0 and leaves an overlap");
  refuse_header("{" U8("a", "[3]", "[0,3]") "," U8("b", "[0]", "[1,1]") "}", 3,
                "'b' begins at 1 and leaves an overlap");
  refuse_header("{" U8("a", "[3]", "[0,3]") "}", 2, "'a' ends at 3, past the 2 bytes of data");
  refuse_header("{" U8("a", "[1000000000000000]", "[0,1000000000000000]") "}", 2,
                "past the 2 bytes of data");
  refuse_header("{" U8("a", "[3]", "[0,3]") "}", 4, "no tensor covers the last 1 bytes");
  refuse_header("{}", 1, "no tensor covers the last 1 bytes");
}

/* A hostile name comes out as one printable line, and the reason is still there. */
static void test_lie_in_a_long_name(void **state) {
  (void)state;
  char header[2048];
  int at = snprintf(header, sizeof header, "{\"\\n\\u001b\xc3\xa9");
  memset(header + at, 'n', 1000);
  snprintf(header + at + 1000, 512, "\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,7]}}");
  refuse_header(header, 1, "tensor '????nnnnnnnnnnnnnnnnnnnn...nnnn");
  refuse_header(header, 1, "data_offsets hold 7 bytes, shape and dtype U8 need 1");
}

/* ---- .npy that lies ---- */

#define NPY(descr, order, shape) \
  "{'descr': " descr ", 'fortran_order': " order ", 'shape': " shape ", }\n"

static void test_lie_npy_start(void **state) {
  (void)state;
  static const int versions[][2] = {{0, 0}, {4, 0}, {1, 1}, {2, 3}, {255, 255}};
  size_t length;
  refuse(IFA_NPY, "", 0, IFA_BAD_FILE, "empty");
  refuse(IFA_NPY, "\x93NUMPX\x01\x00\x00\x00", 10, IFA_BAD_FILE, "does not begin with");
  for (size_t i = 0; i < COUNT(versions); i++) {
    uint8_t *bytes =
        build_npy(versions[i][0], versions[i][1], NPY("'|u1'", "False", "()"), 1, &length);
    char fragment[32];
    snprintf(fragment, sizeof fragment, "version %d.%d is unknown", versions[i][0], versions[i][1]);
    refuse(IFA_NPY, bytes, length, IFA_BAD_FILE, fragment);
    free(bytes);
  }
}

static void test_lie_npy_header_length(void **state) {
  (void)state;
  refuse(IFA_NPY, "\x93NUMPY\x01\x00\x03\x00{}", 12, IFA_BAD_FILE,
         "header length 3 passes the end of the file, 2 bytes on");
  refuse(IFA_NPY, "\x93NUMPY\x02\x00\xff\xff\xff\xff{}", 14, IFA_BAD_FILE,
         "header length 4294967295 passes");
  refuse(IFA_NPY, "\x93NUMPY\x01\x00\x00\x00", 10, IFA_BAD_FILE, "header ends where '{' should be");
}

static void test_lie_npy_order(void **state) {
  (void)state;
  refuse_npy(NPY("'<f4'", "True", "(1,)"), 4, IFA_UNSUPPORTED, "fortran_order is True");
  refuse_npy(NPY("'<f4'", "1", "(1,)"), 4, IFA_BAD_FILE, "True or False for fortran_order");
  refuse_npy(NPY("'<f4'", "false", "(1,)"), 4, IFA_BAD_FILE, "True or False for fortran_order");
}

static void test_lie_npy_descr(void **state) {
  (void)state;
  static const char *const unsupported[] = {"<f8", "<i4", "<i8", "|b1", "<c8",  "<V2",
                                            "=f4", "f4",  "|f4", "<i1", "<f4 ", ""};
  for (size_t i = 0; i < COUNT(unsupported); i++) {
    char header[128], fragment[32];
    snprintf(header, sizeof header, "{'descr': '%s', 'fortran_order': False, 'shape': (1,), }\n",
             unsupported[i]);
    snprintf(fragment, sizeof fragment, "descr '%s'; supported", unsupported[i]);
    refuse_npy(header, 4, IFA_UNSUPPORTED, fragment);
  }
  refuse_npy(NPY("[('a', '<f4')]", "False", "(1,)"), 4, IFA_UNSUPPORTED, "descr is a record type");
  refuse_npy(NPY("4", "False", "(1,)"), 4, IFA_BAD_FILE, "the string of descr");
  refuse_npy(NPY("'<f4\"", "False", "(1,)"), 4, IFA_BAD_FILE, "npy header");
  refuse_npy(NPY("'<f4\\x00'", "False", "(1,)"), 4, IFA_BAD_FILE, "a printable ASCII character");
  refuse_npy(NPY("'\xc3\xa9'", "False", "(1,)"), 4, IFA_BAD_FILE, "a printable ASCII character");
  refuse_npy(NPY("'0123456789012345678901234567890123456789'", "False", "(1,)"), 4, IFA_BAD_FILE,
             "descr is longer than 31");
  refuse_npy("{'descr': '<f4", 4, IFA_BAD_FILE, "ends where a closing quote should be");
}

static void test_lie_npy_shape(void **state) {
  (void)state;
  static const struct {
    const char *shape, *fragment;
  } cases[] = {{"(-1,)", "negative dimension"},
               {"(2, -3)", "negative dimension"},
               {"(1)", "',' after the only dimension"},
               {"(1.0,)", "',' after the only dimension"},
               {"(2, 1e0)", "',' or ')' in shape"},
               {"(2 3)", "found 0x33"},
               {"(2L,)", "found 0x4c"},
               {"(,)", "a dimension"},
               {"(1,,)", "a dimension"},
               {"(+1,)", "a dimension"},
               {"(01,)", "leading zero"},
               {"[1]", "the '(' of shape"},
               {"1", "the '(' of shape"},
               {"(((1,),),)", "a dimension"},
               {"(1, 1, 1, 1, 1, 1, 1, 1, 1)", "rank is above 8"},
               {"('1',)", "a dimension"},
               {"(True,)", "a dimension"},
               {"(9223372036854775808,)", "above 2^63 - 1"},
               {"(99999999999999999999999,)", "above 2^63 - 1"}};
  for (size_t i = 0; i < COUNT(cases); i++) {
    char header[128];
    snprintf(header, sizeof header, "{'descr': '<f4', 'fortran_order': False, 'shape': %s, }\n",
             cases[i].shape);
    refuse_npy(header, 4, IFA_BAD_FILE, cases[i].fragment);
  }
  refuse_npy(NPY("'|u1'", "False", "(4294967296, 4294967296)"), 0, IFA_BAD_FILE,
             "product of shape overflows");
  refuse_npy(NPY("'|u1'", "False", "(0, 4294967296, 4294967296)"), 0, IFA_BAD_FILE,
             "product of shape overflows");
}

static void test_lie_npy_data(void **state) {
  (void)state;
  refuse_npy(NPY("'<f4'", "False", "(2,)"), 7, IFA_BAD_FILE,
             "need 8 bytes of data, the file has 7");
  refuse_npy(NPY("'<f4'", "False", "(2,)"), 9, IFA_BAD_FILE,
             "need 8 bytes of data, the file has 9");
  refuse_npy(NPY("'<f4'", "False", "(0,)"), 1, IFA_BAD_FILE,
             "need 0 bytes of data, the file has 1");
  refuse_npy(NPY("'|u1'", "False", "(1000000000000000,)"), 1, IFA_BAD_FILE,
             "need 1000000000000000 bytes");
}

static void test_lie_npy_dict(void **state) {
  (void)state;
  static const struct {
    const char *header, *fragment;
  } cases[] = {
      {"{}\n", "key 'descr' is missing"},
      {"{'descr': '|u1', 'shape': ()}\n", "key 'fortran_order' is missing"},
      {"{'descr': '|u1', 'fortran_order': False}\n", "key 'shape' is missing"},
      {"{'descr': '|u1', 'descr': '|u1', 'fortran_order': False, 'shape': ()}\n",
       "key 'descr' is there twice"},
      {"{'descr': '|u1', 'fortran_order': False, 'shape': (), 'more': 1}\n", "unknown key 'more'"},
      {"{'descr': '|u1', 'fortran_order': False, 'shape': (), , }\n", "a key"},
      {"{'descr': '|u1' 'fortran_order': False, 'shape': ()}\n", "',' or '}'"},
      {"{'descr' '|u1', 'fortran_order': False, 'shape': ()}\n", "':'"},
      {"{'descr': '|u1', 'fortran_order': False, 'shape': ()}",
       "ends where spaces and a newline should be"},
      {"{'descr': '|u1', 'fortran_order': False, 'shape': ()}\n\n", "the end of the header"},
      {"{'descr': '|u1', 'fortran_order': False, 'shape': ()}\n ", "the end of the header"},
      {"{'descr': '|u1', 'fortran_order': False, 'shape': ()}x\n", "spaces and a newline"},
      {"{'descr':\t'|u1', 'fortran_order': False, 'shape': ()}\n", "the string of descr"},
      {"dict(descr='|u1')\n", "'{'"},
      {"{,}\n", "a key"},
  };
  for (size_t i = 0; i < COUNT(cases); i++)
    refuse_npy(cases[i].header, 1, IFA_BAD_FILE, cases[i].fragment);
}

/* ---- every length ---- */

static void refuse_each_length(ifa_tensor_format format, const uint8_t *bytes, size_t length) {
  ifa_tensor_file *file;
  ifa_message why;
  uint8_t longer[1024];
  assert_true(length < sizeof longer);
  for (size_t cut = 0; cut < length; cut++) {
    assert_int_equal(parse(format, bytes, cut, &file, &why), IFA_BAD_FILE);
    assert_null(file);
    assert_true(why.text[0] != '\0');
  }
  memcpy(longer, bytes, length);
  longer[length] = 0;
  assert_int_equal(parse(format, longer, length + 1, &file, &why), IFA_BAD_FILE);
  assert_int_equal(parse(format, bytes, length, &file, &why), IFA_OK);
  ifa_tensor_file_free(file);
}

static void test_every_truncation(void **state) {
  (void)state;
  uint8_t bytes[1024];
  const ifa_tensor tensors[] = {make_tensor("q", IFA_TENSOR_F32, 2, 0),
                                make_tensor("k", IFA_TENSOR_I8, 1, 0)};
  const ifa_metadata metadata[] = {{"key", "value"}};
  assert_int_equal(ifa_safetensors_write(in_folder("x"), tensors, 2, metadata, 1, NULL), IFA_OK);
  refuse_each_length(IFA_SAFETENSORS, bytes, read_bytes(in_folder("x"), bytes, sizeof bytes));
  assert_int_equal(ifa_npy_write(in_folder("x"), &tensors[0], NULL), IFA_OK);
  refuse_each_length(IFA_NPY, bytes, read_bytes(in_folder("x"), bytes, sizeof bytes));
}

/* Each byte of a small file changed to each value: accepted or refused, with a message then. A
 * sanitizer watches. */
static void test_every_byte_changed(void **state) {
  (void)state;
  uint8_t bytes[1024];
  const ifa_tensor tensor = make_tensor("q", IFA_TENSOR_F16, 1, 0);
  for (ifa_tensor_format format = IFA_SAFETENSORS; format <= IFA_NPY; format++) {
    ifa_status status = format == IFA_NPY
                            ? ifa_npy_write(in_folder("x"), &tensor, NULL)
                            : ifa_safetensors_write(in_folder("x"), &tensor, 1, NULL, 0, NULL);
    assert_int_equal(status, IFA_OK);
    size_t length = read_bytes(in_folder("x"), bytes, sizeof bytes);
    for (size_t i = 0; i < length * 256; i++) {
      uint8_t kept = bytes[i / 256];
      ifa_tensor_file *file;
      ifa_message why;
      bytes[i / 256] = (uint8_t)i;
      status = parse(format, bytes, length, &file, &why);
      assert_true(status == IFA_OK ||
                  ((status == IFA_BAD_FILE || status == IFA_UNSUPPORTED) && why.text[0] && !file));
      ifa_tensor_file_free(file);
      bytes[i / 256] = kept;
    }
  }
}

/* ---- paths that are no files ---- */

static void refuse_path(const char *path, ifa_status status, const char *fragment) {
  ifa_message why;
  ifa_tensor_file *file;
  assert_int_equal(ifa_tensor_file_read(path, &file, &why), status);
  assert_null(file);
  assert_mentions(&why, fragment);
}

static void test_unreadable_paths(void **state) {
  (void)state;
  refuse_path(in_folder("absent.npy"), IFA_IO, "absent.npy': No such file");
  refuse_path(folder, IFA_BAD_FILE, "is not a regular file");
  refuse_path("/dev/null", IFA_BAD_FILE, "'/dev/null' is not a regular file");
  assert_int_equal(mkfifo(in_folder("pipe.npy"), 0600), 0);
  refuse_path(in_folder("pipe.npy"), IFA_BAD_FILE, "pipe.npy' is not a regular file");
  write_bytes(in_folder("empty.npy"), "", 0);
  refuse_path(in_folder("empty.npy"), IFA_BAD_FILE, "empty.npy': the file is empty");
  write_bytes(in_folder("empty.safetensors"), "", 0);
  refuse_path(in_folder("empty.safetensors"), IFA_BAD_FILE,
              "empty.safetensors': the file is empty");
  refuse_path("", IFA_IO, "No such file");
  refuse_path(NULL, IFA_BAD_ARGUMENT, "path is NULL");
  assert_int_equal(ifa_tensor_file_read("x", NULL, NULL), IFA_BAD_ARGUMENT);
}

/* sysfs files claim a page and hold a line; procfs files claim nothing and hold lines. */
static void test_file_that_changes_its_size(void **state) {
  (void)state;
  static const char *const paths[] = {"/sys/kernel/mm/transparent_hugepage/enabled",
                                      "/proc/self/status"};
  static const char *const changes[] = {"shrank while being read: 4096 bytes, then",
                                        "grew while being read: 0 bytes, then"};
  int tried = 0;
  for (size_t i = 0; i < COUNT(paths); i++) {
    struct stat about;
    if (stat(paths[i], &about) != 0 || !S_ISREG(about.st_mode) ||
        about.st_size != (i == 0 ? 4096 : 0))
      continue;
    refuse_path(paths[i], IFA_BAD_FILE, changes[i]);
    tried++;
  }
  if (tried == 0) skip();
}

/* A file with holes that is larger than memory: refused before anything is read. */
static void test_file_larger_than_memory(void **state) {
  (void)state;
  const uint64_t bytes = (uint64_t)1 << 43; /* half of what an ext4 file can have */
  if (bytes > SIZE_MAX) skip();
  void *volatile probe = malloc((size_t)bytes);
  free(probe);
  if (probe) skip(); /* this system promises memory that it does not have */
  write_bytes(in_folder("huge.npy"), "", 0);
  /* the file system's files end earlier */
  if (truncate(in_folder("huge.npy"), (off_t)bytes) != 0) skip();
  refuse_path(in_folder("huge.npy"), IFA_OUT_OF_MEMORY, "huge.npy'");
}

/* ---- failed writes ---- */

static void refuse_writes(const char *path, ifa_status expected, const char *fragment) {
  const ifa_tensor tensor = {.name = "x",
                             .type = IFA_TENSOR_U8,
                             .rank = 1,
                             .shape = {sizeof pattern},
                             .data = pattern,
                             /* more than stdio keeps back until the end */
                             .bytes = sizeof pattern};
  ifa_message why;
  assert_int_equal(ifa_npy_write(path, &tensor, &why), expected);
  assert_mentions(&why, fragment);
  assert_int_equal(ifa_safetensors_write(path, &tensor, 1, NULL, 0, &why), expected);
  assert_mentions(&why, fragment);
}

static void test_unwritable_paths(void **state) {
  (void)state;
  refuse_writes(NULL, IFA_BAD_ARGUMENT, "path is NULL");
  refuse_writes(in_folder("absent/x.npy"), IFA_IO, "cannot create");
  refuse_writes("/proc/x.npy", IFA_IO, "cannot create '/proc/x.npy': ");
  refuse_writes("/dev/null", IFA_IO, "'/dev/null': it exists and is not a regular file");
  refuse_writes("", IFA_IO, "cannot"); /* rename, once .tmp0 is there */
  assert_int_not_equal(access(".tmp0", F_OK), 0);
  assert_int_equal(count_files(), 0);
  assert_int_equal(mkdir(in_folder("sub"), 0700), 0);
  refuse_writes(in_folder("sub"), IFA_IO, "is not a regular file");
  assert_int_equal(count_files(), 1);
  if (geteuid() == 0) return; /* who may write everywhere */
  assert_int_equal(chmod(in_folder("sub"), 0500), 0);
  refuse_writes(in_folder("sub/x.npy"), IFA_IO, "Permission denied");
}

/* A limit on file sizes stands for a full disk. The old contents stay and the temporary goes. */
static void test_disk_full(void **state) {
  (void)state;
  struct rlimit before, small;
  uint8_t bytes[16];
  write_bytes(in_folder("x.npy"), "old", 3);
  assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
  void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
  small = before;
  for (rlim_t limit = 0; limit < sizeof pattern; limit += 500) {
    small.rlim_cur = limit;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    refuse_writes(in_folder("x.npy"), IFA_IO, "cannot write");
  }
  assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
  signal(SIGXFSZ, handler);
  assert_int_equal(count_files(), 1);
  assert_int_equal(read_bytes(in_folder("x.npy"), bytes, sizeof bytes), 3);
  assert_memory_equal(bytes, "old", 3);
}

/* A temporary that somebody else is writing is not touched. */
static void test_foreign_temporaries(void **state) {
  (void)state;
  const ifa_tensor tensor = make_tensor("x", IFA_TENSOR_U8, 1, 0);
  uint8_t bytes[16];
  char name[32];
  write_bytes(in_folder("x.npy.tmp0"), "theirs", 6);
  assert_int_equal(ifa_npy_write(in_folder("x.npy"), &tensor, NULL), IFA_OK);
  assert_int_equal(count_files(), 2);
  assert_int_equal(read_bytes(in_folder("x.npy.tmp0"), bytes, sizeof bytes), 6);
  for (int k = 1; k < 100; k++) {
    snprintf(name, sizeof name, "x.npy.tmp%d", k);
    write_bytes(in_folder(name), "", 0);
  }
  refuse_writes(in_folder("x.npy"), IFA_IO, "x.npy.tmp99': File exists");
  assert_int_equal(count_files(), 101);
}

static void refuse_tensor(ifa_tensor tensor, const char *fragment) {
  ifa_message why;
  assert_int_equal(ifa_npy_write(in_folder("x"), &tensor, &why), IFA_BAD_ARGUMENT);
  assert_mentions(&why, fragment);
  assert_int_equal(ifa_safetensors_write(in_folder("x"), &tensor, 1, NULL, 0, &why),
                   IFA_BAD_ARGUMENT);
  assert_mentions(&why, fragment);
}

static void test_tensors_that_cannot_be_written(void **state) {
  (void)state;
  const ifa_tensor good = make_tensor("x", IFA_TENSOR_F32, 2, 0);
  ifa_tensor bad = good;
  refuse_tensor((bad.type = (ifa_tensor_type)9, bad), "'x': type 9 is unknown");
  bad = good;
  refuse_tensor((bad.rank = 9, bad), "'x': rank 9");
  refuse_tensor((bad.rank = -1, bad), "'x': rank -1");
  bad = good;
  refuse_tensor((bad.shape[1] = -1, bad), "'x': shape is negative or too large");
  refuse_tensor((bad.shape[1] = INT64_MAX, bad), "'x': shape is negative or too large");
  bad = good;
  refuse_tensor((bad.bytes--, bad), "'x': bytes is 23, its shape has 24");
  bad = good;
  refuse_tensor((bad.data = NULL, bad), "'x': data is NULL");

  ifa_message why;
  bad = make_tensor("x", IFA_TENSOR_BF16, 1, 0);
  assert_int_equal(ifa_npy_write(in_folder("x"), &bad, &why), IFA_UNSUPPORTED);
  assert_mentions(&why, "npy has no bf16");
  assert_int_equal(ifa_npy_write(in_folder("x"), NULL, &why), IFA_BAD_ARGUMENT);
  assert_int_equal(count_files(), 0);
}

static void refuse_names(const ifa_tensor *tensors, size_t count, const ifa_metadata *metadata,
                         size_t metadata_count, const char *fragment) {
  ifa_message why;
  assert_int_equal(
      ifa_safetensors_write(in_folder("x"), tensors, count, metadata, metadata_count, &why),
      IFA_BAD_ARGUMENT);
  assert_mentions(&why, fragment);
  assert_int_equal(count_files(), 0);
}

static void test_names_that_cannot_be_written(void **state) {
  (void)state;
  const ifa_tensor one = make_tensor("one", IFA_TENSOR_U8, 1, 0);
  ifa_tensor tensors[] = {one, make_tensor("one", IFA_TENSOR_F32, 1, 0)};
  refuse_names(tensors, 2, NULL, 0, "'one' is there twice");
  tensors[1].name = "__metadata__";
  refuse_names(tensors, 2, NULL, 0, "__metadata__");
  static const char *const not_utf8[] = {"\xff",
                                         "a\x80",
                                         "\xc3",
                                         "\xc0\x80",
                                         "\xc1\xbf",
                                         "\xe0\x9f\xbf",
                                         "\xed\xa0\x80",
                                         "\xf0\x8f\xbf\xbf",
                                         "\xf4\x90\x80\x80",
                                         "\xf5\x80\x80\x80",
                                         "\xe2\x82",
                                         "\xe2\x82z"};
  for (size_t i = 0; i < COUNT(not_utf8); i++) {
    tensors[1].name = not_utf8[i];
    refuse_names(tensors, 2, NULL, 0, "the name of tensor 1 is not UTF-8: '");
  }
  tensors[1].name = NULL;
  refuse_names(tensors, 2, NULL, 0, "the name of tensor 1 is NULL");
  refuse_names(NULL, 1, NULL, 0, "tensors is NULL");
  refuse_names(&one, 1, NULL, 1, "metadata is NULL");
  refuse_names(&one, 1, (ifa_metadata[]){{"k", "1"}, {"k", "2"}}, 2, "'k' is there twice");
  refuse_names(&one, 1, (ifa_metadata[]){{"k", NULL}}, 1, "the value of metadata 0 is NULL");
  refuse_names(&one, 1, (ifa_metadata[]){{NULL, "v"}}, 1, "the key of metadata 0 is NULL");
  refuse_names(&one, 1, (ifa_metadata[]){{"k", "\xc3"}}, 1,
               "the value of metadata 0 is not UTF-8: '?'");
  refuse_names(&one, 1, (ifa_metadata[]){{"\xc3", "v"}}, 1,
               "the key of metadata 0 is not UTF-8: '?'");
}

/* ---- lack of memory ---- */

static long allocations_left = -1; /* allocations that succeed; -1: all */
static int fails_once;             /* after one failure all succeed again */
static int failures;

static int may_allocate(void) {
  if (allocations_left < 0) return 1;
  if (allocations_left > 0) return (int)(allocations_left--, 1);
  if (fails_once) allocations_left = -1;
  failures++;
  return 0;
}

#ifdef IFA_TEST_WRAP_ALLOC
void *__real_malloc(size_t bytes);
void *__real_calloc(size_t count, size_t bytes);
void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes);
void *__wrap_malloc(size_t bytes) { return may_allocate() ? __real_malloc(bytes) : NULL; }
void *__wrap_calloc(size_t count, size_t bytes) {
  return may_allocate() ? __real_calloc(count, bytes) : NULL;
}
#define PLAIN_MALLOC __real_malloc
#else
#define PLAIN_MALLOC malloc
#endif

static void *json_allocate(size_t bytes) { return may_allocate() ? PLAIN_MALLOC(bytes) : NULL; }

static const ifa_tensor *memory_tensors;
static const ifa_metadata memory_metadata[] = {
    {"k", "a rather long value that does not fit a small buffer"}, {"l", "m"}};

static ifa_status do_read(const char *path, ifa_message *why) {
  ifa_tensor_file *file;
  ifa_status status = ifa_tensor_file_read(path, &file, why);
  assert_true((status == IFA_OK) == (file != NULL));
  ifa_tensor_file_free(file);
  return status;
}
static ifa_status read_safetensors(ifa_message *why) {
  return do_read(in_folder("x.safetensors"), why);
}
static ifa_status read_npy(ifa_message *why) { return do_read(in_folder("x.npy"), why); }
static ifa_status write_npy(ifa_message *why) {
  return ifa_npy_write(in_folder("y.npy"), &memory_tensors[0], why);
}
static ifa_status write_safetensors(ifa_message *why) {
  return ifa_safetensors_write(in_folder("y.safetensors"), memory_tensors, 2, memory_metadata, 2,
                               why);
}

/* Makes the first, second, ... allocation fail until the action needs no more. jansson's reader can
 * take a lack of memory for a malformed file, and overlook a single one: see parse_json in
 * safetensors.c. */
static void starve(ifa_status (*action)(ifa_message *), bool reads_json) {
  ifa_status status;
  long n = 0;
  do {
    ifa_message why = {""};
    int files = count_files();
    failures = 0;
    allocations_left = n++;
    status = action(&why);
    allocations_left = -1;
    if (failures == 0) {
      assert_int_equal(status, IFA_OK);
      break;
    }
    if (reads_json && fails_once && status == IFA_OK) continue;
    if (!(status == IFA_OUT_OF_MEMORY || (reads_json && status == IFA_BAD_FILE)))
      fail_msg("allocation %ld failed, status %d, %s", n, (int)status, why.text);
    assert_true(why.text[0] != '\0');
    assert_int_equal(count_files(), files);
  } while (n < 1000);
  assert_true(n < 1000);
}

static void test_lack_of_memory(void **state) {
  (void)state;
  const ifa_tensor tensors[] = {make_tensor("q", IFA_TENSOR_F32, 2, 0),
                                make_tensor("a longer name", IFA_TENSOR_I8, 8, 0)};
  memory_tensors = tensors;
  assert_int_equal(ifa_npy_write(in_folder("x.npy"), &tensors[0], NULL), IFA_OK);
  assert_int_equal(
      ifa_safetensors_write(in_folder("x.safetensors"), tensors, 2, memory_metadata, 2, NULL),
      IFA_OK);
  json_set_alloc_funcs(json_allocate, free);
  for (fails_once = 0; fails_once < 2; fails_once++) {
    starve(read_npy, false);
    starve(read_safetensors, true);
    starve(write_npy, false);
    starve(write_safetensors, false);
  }
  json_set_alloc_funcs(malloc, free);
}

/* ---- small things ---- */

static void test_names_and_sizes(void **state) {
  (void)state;
  assert_string_equal(ifa_tensor_type_name(IFA_TENSOR_BF16), "bf16");
  assert_string_equal(ifa_tensor_type_name((ifa_tensor_type)77), "unknown type");
  assert_int_equal(ifa_tensor_type_bytes(IFA_TENSOR_F32), 4);
  assert_int_equal(ifa_tensor_type_bytes((ifa_tensor_type)77), 0);
  ifa_tensor_file_free(NULL);
  assert_int_equal(ifa_tensor_file_count(NULL), 0);
  assert_null(ifa_tensor_file_name(NULL, 0));
  assert_null(ifa_tensor_file_metadata(NULL, "k"));
  assert_null(ifa_tensor_file_metadata_at(NULL, 0));
  ifa_tensor_file *file;
  assert_int_equal(ifa_tensor_file_parse(NULL, 1, IFA_NPY, &file, NULL), IFA_BAD_ARGUMENT);
  assert_int_equal(ifa_tensor_file_parse("x", 1, (ifa_tensor_format)5, &file, NULL),
                   IFA_BAD_ARGUMENT);
  assert_int_equal(ifa_tensor_file_parse("x", 1, IFA_NPY, NULL, NULL), IFA_BAD_ARGUMENT);
}

static void test_quote(void **state) {
  (void)state;
  char name[256];
  for (size_t length = 0; length < sizeof name; length++) {
    memset(name, 'a', length);
    name[length] = '\0';
    if (length > 0) name[length - 1] = 'z';
    ifa_quoted quoted = ifa_quote(name);
    size_t got = strlen(quoted.text);
    assert_true(got < sizeof quoted.text);
    assert_int_equal(got, length <= 96 ? length + 2 : 24 + 3 + 72 + 2);
    assert_true(quoted.text[0] == '\'' && quoted.text[got - 1] == '\'' &&
                (length == 0 || quoted.text[got - 2] == 'z'));
  }
  assert_string_equal(ifa_quote("a\n\x7f\x1b\xc3\xa9").text, "'a?????"
                                                             "'");
}

#define TEST(name) cmocka_unit_test_setup(name, empty_folder)

/* What the reference reader takes and this one does not, as files/safetensors.c and
 * docs/validate.md have it; each but for that is a good file. */
static void test_stricter_than_the_reference(void **state) {
  (void)state;
  static const char *const headers[] = {
      "{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},\"a\":{\"dtype\":\"U8\","
      "\"shape\":[4],\"data_offsets\":[0,4]}}",
      "{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4],\"more\":1}}",
      "{\"a\":{\"dtype\":\"U8\",\"shape\":[4,1,1,1,1,1,1,1,1],\"data_offsets\":[0,4]}}",
      "{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},\"b\":{\"dtype\":\"U8\","
      "\"shape\":[0,4611686018427387904,4],\"data_offsets\":[4,4]}}",
      "{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},\"b\":{\"dtype\":\"U8\","
      "\"shape\":[0,9223372036854775808],\"data_offsets\":[4,4]}}",
      "{\"a\\u0000\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}",
      "{\"__metadata__\":null,\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}"};
  for (size_t i = 0; i < sizeof headers / sizeof *headers; i++) {
    size_t length;
    uint8_t *bytes = build_safetensors(headers[i], strlen(headers[i]), 4, &length);
    refuse(IFA_SAFETENSORS, bytes, length, IFA_BAD_FILE, "");
    free(bytes);
  }
}

/* ---- a part of a file ---- */

static const char *const wanted_names[] = {"a", "c", "nowhere"};

/* Four tensors: a (f32), b (i8), c (f16), d (u8). */
static void write_four(const char *path) {
  static const float a[3] = {1, -2, 3.5f};
  static const uint16_t c[2] = {0x3c00, 0x1234};
  static const uint8_t bytes[5] = {1, 2, 3, 4, 255};
  const ifa_tensor list[] = {
      {.name = "a", .type = IFA_TENSOR_F32, .rank = 1, .shape = {3}, .data = a, .bytes = 12},
      {.name = "b", .type = IFA_TENSOR_I8, .rank = 1, .shape = {5}, .data = bytes, .bytes = 5},
      {.name = "c", .type = IFA_TENSOR_F16, .rank = 1, .shape = {2}, .data = c, .bytes = 4},
      {.name = "d", .type = IFA_TENSOR_U8, .rank = 1, .shape = {5}, .data = bytes, .bytes = 5}};
  const ifa_metadata metadata[] = {{"key", "value"}};
  assert_int_equal(ifa_safetensors_write(path, list, 4, metadata, 1, NULL), IFA_OK);
}

static void test_read_named(void **state) {
  (void)state;
  ifa_tensor_file *file, *whole;
  const ifa_tensor *t, *other;
  ifa_message why = {""};
  write_four(in_folder("four.safetensors"));
  assert_int_equal(ifa_tensor_file_read(in_folder("four.safetensors"), &whole, NULL), IFA_OK);
  assert_int_equal(
      ifa_tensor_file_read_named(in_folder("four.safetensors"), wanted_names, 3, &file, &why),
      IFA_OK);
  assert_string_equal(why.text, "");
  assert_int_equal(ifa_tensor_file_count(file), 4);
  assert_string_equal(ifa_tensor_file_metadata(file, "key"), "value");
  for (int i = 0; i < 2; i++) {
    assert_int_equal(ifa_tensor_file_find(file, wanted_names[i], &t, NULL), IFA_OK);
    assert_int_equal(ifa_tensor_file_find(whole, wanted_names[i], &other, NULL), IFA_OK);
    assert_int_equal(t->bytes, other->bytes);
    assert_memory_equal(t->data, other->data, t->bytes);
  }
  assert_int_equal(ifa_tensor_file_find(file, "b", &t, &why), IFA_BAD_ARGUMENT);
  assert_mentions(&why, "'b' was not read");
  assert_int_equal(ifa_tensor_file_find(file, "nowhere", &t, &why), IFA_BAD_ARGUMENT);
  ifa_tensor_file_free(file);
  ifa_tensor_file_free(whole);
  /* an .npy file has one tensor, without a name */
  const float x = 5;
  const ifa_tensor one = {.type = IFA_TENSOR_F32, .data = &x, .bytes = 4};
  assert_int_equal(ifa_npy_write(in_folder("one.npy"), &one, NULL), IFA_OK);
  assert_int_equal(ifa_tensor_file_read_named(in_folder("one.npy"), wanted_names, 3, &file, &why),
                   IFA_OK);
  assert_int_equal(ifa_tensor_file_find(file, "", &t, NULL), IFA_OK);
  assert_true(*(const float *)t->data == 5);
  ifa_tensor_file_free(file);
}

/* Of every damaged file both readers say the same status. */
static void test_read_named_refuses_what_read_does(void **state) {
  (void)state;
  uint8_t bytes[1024];
  write_four(in_folder("four.safetensors"));
  size_t length = read_bytes(in_folder("four.safetensors"), bytes, sizeof bytes);
  for (size_t i = 0; i < 2 * length; i++) {
    uint8_t kept = bytes[i % length];
    if (i < length) bytes[i] ^= 0x15;
    write_bytes(in_folder("bad.safetensors"), bytes, i < length ? length : i - length);
    bytes[i % length] = kept;
    ifa_tensor_file *file, *part;
    ifa_message why = {""};
    ifa_status status = ifa_tensor_file_read(in_folder("bad.safetensors"), &file, NULL);
    ifa_status named =
        ifa_tensor_file_read_named(in_folder("bad.safetensors"), wanted_names, 3, &part, &why);
    assert_int_equal(named, status);
    assert_true((named == IFA_OK) == (part != NULL));
    if (named != IFA_OK) assert_mentions(&why, "bad.safetensors");
    ifa_tensor_file_free(file);
    ifa_tensor_file_free(part);
  }
}

/* Tensors that nobody wants cost nothing: here one of 2^40 bytes, which is a hole. */
static void test_read_named_of_a_large_file(void **state) {
  (void)state;
  static const char format[] =
      "{\"big\":{\"dtype\":\"U8\",\"shape\":[%" PRId64 "],\"data_offsets\":[0,%" PRId64 "]},"
      "\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[%" PRId64 ",%" PRId64 "]}}";
  const int64_t big = (int64_t)1 << 40;
  const float x = 0.75f;
  char header[300];
  uint8_t size[8] = {0};
  int header_bytes = snprintf(header, sizeof header, format, big, big, big, big + 4);
  size[0] = (uint8_t)header_bytes;
  assert_true(header_bytes < 256);
  int descriptor = open(in_folder("big.safetensors"), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  assert_int_equal(write(descriptor, size, 8), 8);
  assert_int_equal(write(descriptor, header, (size_t)header_bytes), header_bytes);
  int fits = pwrite(descriptor, &x, 4, 8 + header_bytes + big) == 4;
  close(descriptor);
  if (!fits) skip(); /* this file system has no files of that size */
  ifa_tensor_file *file;
  const ifa_tensor *t;
  ifa_message why = {""};
  ifa_status status =
      ifa_tensor_file_read_named(in_folder("big.safetensors"), wanted_names, 3, &file, &why);
  if (status != IFA_OK) fail_msg("%s", why.text);
  assert_int_equal(ifa_tensor_file_find(file, "a", &t, NULL), IFA_OK);
  assert_true(*(const float *)t->data == 0.75f);
  ifa_tensor_file_free(file);
}

int main(void) {
  fill_pattern();
  const struct CMUnitTest tests[] = {
      TEST(test_round_trip_safetensors),
      TEST(test_round_trip_npy),
      TEST(test_large_round_trip),
      TEST(test_npy_longest_header),
      TEST(test_bytes_of_npy),
      TEST(test_bytes_of_safetensors),
      TEST(test_no_tensors),
      TEST(test_real_files),
      TEST(test_npy_accepted_headers),
      TEST(test_npy_big_endian),
      TEST(test_format_by_content),
      TEST(test_unsupported_type_matters_when_asked_for),
      TEST(test_absent_tensor),
      TEST(test_stricter_than_the_reference),
      TEST(test_read_named),
      TEST(test_read_named_refuses_what_read_does),
      TEST(test_read_named_of_a_large_file),
      TEST(test_safetensors_accepted_headers),
      TEST(test_lie_header_length),
      TEST(test_lie_json),
      TEST(test_lie_encoding),
      TEST(test_lie_deep_json),
      TEST(test_lie_duplicates),
      TEST(test_lie_metadata),
      TEST(test_lie_tensor_object),
      TEST(test_lie_shape),
      TEST(test_lie_shape_overflow),
      TEST(test_lie_offsets),
      TEST(test_lie_offsets_and_shape),
      TEST(test_lie_cover),
      TEST(test_lie_in_a_long_name),
      TEST(test_lie_npy_start),
      TEST(test_lie_npy_header_length),
      TEST(test_lie_npy_order),
      TEST(test_lie_npy_descr),
      TEST(test_lie_npy_shape),
      TEST(test_lie_npy_data),
      TEST(test_lie_npy_dict),
      TEST(test_every_truncation),
      TEST(test_every_byte_changed),
      TEST(test_unreadable_paths),
      TEST(test_file_that_changes_its_size),
      TEST(test_file_larger_than_memory),
      TEST(test_unwritable_paths),
      TEST(test_disk_full),
      TEST(test_foreign_temporaries),
      TEST(test_tensors_that_cannot_be_written),
      TEST(test_names_that_cannot_be_written),
      TEST(test_lack_of_memory),
      TEST(test_names_and_sizes),
      TEST(test_quote),
  };
  return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
