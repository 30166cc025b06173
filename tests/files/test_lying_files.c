/* test_lying_files.c - every way in which a tensor file can lie: hostile bytes are built here, and
 * each is refused by name. */
#include "tests/files/files.h"

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

int main(void) {
  fill_pattern();
  const struct CMUnitTest tests[] = {
      TEST(test_lie_header_length),     TEST(test_lie_json),
      TEST(test_lie_encoding),          TEST(test_lie_deep_json),
      TEST(test_lie_duplicates),        TEST(test_lie_metadata),
      TEST(test_lie_tensor_object),     TEST(test_lie_shape),
      TEST(test_lie_shape_overflow),    TEST(test_lie_offsets),
      TEST(test_lie_offsets_and_shape), TEST(test_lie_cover),
      TEST(test_lie_in_a_long_name),    TEST(test_lie_npy_start),
      TEST(test_lie_npy_header_length), TEST(test_lie_npy_order),
      TEST(test_lie_npy_descr),         TEST(test_lie_npy_shape),
      TEST(test_lie_npy_data),          TEST(test_lie_npy_dict),
      TEST(test_every_truncation),      TEST(test_every_byte_changed),
  };
  return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
