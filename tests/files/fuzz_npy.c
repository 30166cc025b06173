/* fuzz_npy.c - libFuzzer target: any bytes as an .npy file. Whatever is accepted must be consistent
 * and readable in full; a sanitizer watches the rest. Build: clang
 * -fsanitize=fuzzer,address,undefined; seeds: tests/corpus/npy. */
#include <stdlib.h>
#include <string.h>

#include "files/tensor_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

static void require(bool holds) {
  if (!holds) abort();
}

static volatile unsigned sink;

static void touch(const void *data, size_t bytes) {
  unsigned sum = 0;
  for (size_t i = 0; i < bytes; i++) sum += ((const uint8_t *)data)[i];
  sink = sum;
}

static void touch_tensor(const ifa_tensor_file *file, size_t most_bytes) {
  const ifa_tensor *tensor;
  require(ifa_tensor_file_count(file) == 1);
  require(ifa_tensor_file_find(file, "", &tensor, NULL) == IFA_OK);
  size_t bytes = ifa_tensor_type_bytes(tensor->type);
  for (int i = 0; i < tensor->rank; i++) bytes *= (size_t)tensor->shape[i];
  require(tensor->rank <= IFA_TENSOR_MAX_RANK && tensor->bytes == bytes && bytes < most_bytes &&
          tensor->data);
  touch(tensor->data, tensor->bytes);
  require(!ifa_tensor_file_metadata_at(file, 0));
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length) {
  ifa_tensor_file *file;
  ifa_message why;
  ifa_status status = ifa_tensor_file_parse(bytes, length, IFA_NPY, &file, &why);
  require((status == IFA_OK) == (file != NULL) && (status == IFA_OK) == (why.text[0] == '\0'));
  require(status == IFA_OK || status == IFA_BAD_FILE || status == IFA_UNSUPPORTED);
  if (file) touch_tensor(file, length);
  ifa_tensor_file_free(file);
  return 0;
}
