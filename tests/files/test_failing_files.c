/* test_failing_files.c - paths that are no files, writes and allocations that fail, and what is
 * left in the folder then.
 *
 * IFA_TEST_WRAP_ALLOC: the program is linked with -Wl,--wrap=malloc,--wrap=calloc, so that the
 * library's allocations can be made to fail one by one; jansson's always can. */
#include "tests/files/files.h"

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

int main(void) {
  fill_pattern();
  const struct CMUnitTest tests[] = {
      TEST(test_unreadable_paths),
      TEST(test_file_that_changes_its_size),
      TEST(test_file_larger_than_memory),
      TEST(test_unwritable_paths),
      TEST(test_disk_full),
      TEST(test_foreign_temporaries),
      TEST(test_tensors_that_cannot_be_written),
      TEST(test_names_that_cannot_be_written),
      TEST(test_lack_of_memory),
  };
  return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
