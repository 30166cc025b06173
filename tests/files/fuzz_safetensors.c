/* fuzz_safetensors.c - libFuzzer target: any bytes as a safetensors file. Whatever is accepted must
 * be consistent and readable in full; a sanitizer watches the rest. Build: clang
 * -fsanitize=fuzzer,address,undefined; seeds: tests/corpus/safetensors. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "files/tensor_file.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
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

/* One seed for jansson's hash tables, so that an input always takes the same path. */
int LLVMFuzzerInitialize(int *argc, char ***argv) {
  (void)argc, (void)argv;
  json_object_seed(1);
  return 0;
}

/* Returns the bytes that the tensor has in the file: 0 if its type is not supported. */
static size_t touch_tensor(const ifa_tensor_file *file, const char *name) {
  const ifa_tensor *tensor;
  ifa_message why;
  ifa_status status = ifa_tensor_file_find(file, name, &tensor, &why);
  require(status == IFA_OK || (status == IFA_UNSUPPORTED && !tensor && why.text[0]));
  if (status != IFA_OK) return 0;
  size_t bytes = ifa_tensor_type_bytes(tensor->type);
  for (int i = 0; i < tensor->rank; i++) bytes *= (size_t)tensor->shape[i];
  require(strcmp(tensor->name, name) == 0 && tensor->rank <= IFA_TENSOR_MAX_RANK &&
          tensor->bytes == bytes && tensor->data);
  touch(tensor->data, tensor->bytes);
  return bytes;
}

/* The header alone, as it is read before any data: the same answer, and no read behind it. */
static void parse_header(const uint8_t *bytes, size_t length, bool accepted) {
  size_t end = ifa_safetensors_header_end(bytes, length), data_at = 0;
  ifa_message why;
  require(end <= length && (end > 0 || !accepted));
  if (end == 0) return;
  uint8_t *header = malloc(end); /* a sanitizer sees a read past it */
  ifa_tensor_file *file = calloc(1, sizeof *file);
  require(header && file);
  memcpy(header, bytes, end);
  ifa_status status = ifa_safetensors_parse_header(header, length, file, &data_at, &why);
  require((status == IFA_OK) == accepted && (status != IFA_OK || data_at == end));
  free(header);
  ifa_tensor_file_free(file);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length) {
  ifa_tensor_file *file;
  ifa_message why;
  ifa_status status = ifa_tensor_file_parse(bytes, length, IFA_SAFETENSORS, &file, &why);
  require((status == IFA_OK) == (file != NULL) && (status == IFA_OK) == (why.text[0] == '\0'));
  require(status == IFA_OK || status == IFA_BAD_FILE);
  parse_header(bytes, length, status == IFA_OK);
  size_t total = 0;
  for (size_t i = 0; i < ifa_tensor_file_count(file); i++)
    total += touch_tensor(file, ifa_tensor_file_name(file, i));
  require(total <= length);
  const ifa_metadata *entry;
  for (size_t i = 0; (entry = ifa_tensor_file_metadata_at(file, i)); i++) {
    require(ifa_tensor_file_metadata(file, entry->key) == entry->value);
    touch(entry->value, strlen(entry->value));
  }
  ifa_tensor_file_free(file);
  return 0;
}
