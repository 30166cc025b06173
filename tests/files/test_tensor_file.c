/* test_tensor_file.c - files/tensor_file.h: round trips, the exact bytes written, what is accepted.
 */
#include "tests/files/files.h"

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
      TEST(test_names_and_sizes),
      TEST(test_quote),
  };
  return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
