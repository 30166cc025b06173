/* safetensors.c - the safetensors format, https://github.com/huggingface/safetensors (README.md,
 * Format)
 *
 *     header length n: 8 bytes, little-endian    header: n bytes of JSON, space-padded    data
 *     {"__metadata__": {key: string, ...}, name: {"dtype": "F16", "shape": [2, 3], "data_offsets":
 *       [begin, end]}, ...}
 *
 * Offsets count from the first byte of the data. Sorted by them, the tensors must cover the data
 * from its first byte to its last without holes or overlaps. Beyond the reference reader this
 * refuses names and keys that are there twice, unknown keys in a tensor's object, ranks above
 * IFA_TENSOR_MAX_RANK, dimensions whose product overflows even where another dimension is 0,
 * integers above 2^63 - 1, names with a NUL, and __metadata__ that is null. */
#include "common/message.h"
#include "files/tensor_file.h"

#ifdef IFA_NO_JANSSON

ifa_status ifa_safetensors_parse(const uint8_t *bytes, size_t length, ifa_tensor_file *file,
                                 ifa_message *message) {
  (void)bytes, (void)length, (void)file;
  return ifa_fail(message, IFA_NOT_AVAILABLE, "safetensors: this build has no jansson");
}

ifa_status ifa_safetensors_parse_header(const uint8_t *bytes, size_t length, ifa_tensor_file *file,
                                        size_t *data_at, ifa_message *message) {
  (void)data_at;
  return ifa_safetensors_parse(bytes, length, file, message);
}

size_t ifa_safetensors_header_end(const uint8_t *bytes, size_t length) {
  (void)bytes, (void)length;
  return 0;
}

bool ifa_safetensors_is_supported(const ifa_tensor_entry *entry) {
  (void)entry;
  return false;
}

ifa_status ifa_safetensors_write(const char *path, const ifa_tensor *tensors, size_t count,
                                 const ifa_metadata *metadata, size_t metadata_count,
                                 ifa_message *message) {
  (void)path, (void)tensors, (void)count, (void)metadata, (void)metadata_count;
  return ifa_fail(message, IFA_NOT_AVAILABLE, "safetensors: this build has no jansson");
}

#else

#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#define MOST_HEADER_BYTES 100000000 /* the reference reader's cap */
#define METADATA "__metadata__"

/* Every type of the reference's Dtype; `type` only for those with `supported`. */
typedef struct dtype {
  const char *name;
  int bits;
  bool supported;
  ifa_tensor_type type;
} dtype;

static const dtype known_dtypes[] = {
    {"F32", 32, true, IFA_TENSOR_F32},
    {"F16", 16, true, IFA_TENSOR_F16},
    {"BF16", 16, true, IFA_TENSOR_BF16},
    {"I8", 8, true, IFA_TENSOR_I8},
    {"U8", 8, true, IFA_TENSOR_U8},
    {"BOOL", 8, false, 0},
    {"F4", 4, false, 0},
    {"F6_E2M3", 6, false, 0},
    {"F6_E3M2", 6, false, 0},
    {"F8_E5M2", 8, false, 0},
    {"F8_E4M3", 8, false, 0},
    {"F8_E8M0", 8, false, 0},
    {"F8_E4M3FNUZ", 8, false, 0},
    {"F8_E5M2FNUZ", 8, false, 0},
    {"I16", 16, false, 0},
    {"U16", 16, false, 0},
    {"I32", 32, false, 0},
    {"U32", 32, false, 0},
    {"I64", 64, false, 0},
    {"U64", 64, false, 0},
    {"F64", 64, false, 0},
    {"C64", 64, false, 0},
};

static const dtype *find_dtype(const char *name) {
  for (size_t i = 0; i < sizeof known_dtypes / sizeof known_dtypes[0]; i++)
    if (strcmp(known_dtypes[i].name, name) == 0) return &known_dtypes[i];
  return NULL;
}

/* ---- reading ---- */

/* jansson refuses invalid UTF-8, names with a NUL, repeated names, integers beyond 64 bits and
 * depths above 2048. An error without text is a lack of memory; so can be one with a text. jansson
 * 2.14 also ignores it when its token buffer (16 bytes at first) fails to grow, which loses a byte
 * of the token if memory is back for the very next allocation; else that one fails. */
static ifa_status parse_json(const char *text, size_t length, json_t **root, ifa_message *message) {
  json_error_t error;
  *root = json_loadb(text, length, JSON_REJECT_DUPLICATES, &error);
  if (*root) return IFA_OK;
  if (error.text[0] == '\0' || json_error_code(&error) == json_error_out_of_memory)
    return ifa_fail(message, IFA_OUT_OF_MEMORY, "safetensors: no memory for a header of %zu bytes",
                    length);
  return ifa_fail(message, IFA_BAD_FILE, "safetensors: header byte %d: %s", error.position,
                  ifa_quote(error.text).text);
}

/* The header's length, which may be any number. */
static uint64_t header_length(const uint8_t *bytes) {
  uint64_t n = 0;
  for (int i = 7; i >= 0; i--) n = n << 8 | bytes[i];
  return n;
}

/* Reads the header and finds the data: bytes *data_at .. length-1. */
static ifa_status load_header(const uint8_t *bytes, size_t length, json_t **root, size_t *data_at,
                              ifa_message *message) {
  if (length < 8)
    return ifa_fail(message, IFA_BAD_FILE,
                    "safetensors: %zu bytes do not hold the 8 of the header length", length);
  uint64_t n = header_length(bytes);
  if (n > MOST_HEADER_BYTES)
    return ifa_fail(message, IFA_BAD_FILE, "safetensors: header length %" PRIu64 " is above %d", n,
                    MOST_HEADER_BYTES);
  if (n > length - 8)
    return ifa_fail(message, IFA_BAD_FILE,
                    "safetensors: header length %" PRIu64
                    " passes the end of the file, %zu bytes on",
                    n, length - 8);
  if (n == 0 || bytes[8] != '{')
    return ifa_fail(message, IFA_BAD_FILE, "safetensors: the header does not begin with '{'");
  *data_at = 8 + (size_t)n;
  return parse_json((const char *)bytes + 8, (size_t)n, root, message);
}

static ifa_status read_metadata(const json_t *map, ifa_tensor_file *file, ifa_message *message) {
  const char *key;
  json_t *value;
  if (!map) return IFA_OK;
  if (!json_is_object(map))
    return ifa_fail(message, IFA_BAD_FILE, "safetensors: " METADATA " is not an object");
  if (json_object_size(map) == 0) return IFA_OK;
  file->metadata = calloc(json_object_size(map), sizeof *file->metadata);
  if (!file->metadata) return ifa_fail(message, IFA_OUT_OF_MEMORY, "no memory for the metadata");
  json_object_foreach((json_t *)map, key, value) {
    if (!json_is_string(value))
      return ifa_fail(message, IFA_BAD_FILE, "safetensors: " METADATA " %s is not a string",
                      ifa_quote(key).text);
    ifa_metadata *entry = &file->metadata[file->metadata_count++];
    entry->key = ifa_copy_string(key);
    entry->value = ifa_copy_string(json_string_value(value));
    if (!entry->key || !entry->value)
      return ifa_fail(message, IFA_OUT_OF_MEMORY, "no memory for the metadata");
  }
  return IFA_OK;
}

/* What a tensor's object holds; each NULL until found. */
typedef struct fields {
  const json_t *dtype, *shape, *offsets;
} fields;

static ifa_status find_fields(const char *name, json_t *object, fields *found,
                              ifa_message *message) {
  const char *key;
  json_t *value;
  *found = (fields){.dtype = NULL};
  if (!json_is_object(object))
    return ifa_fail(message, IFA_BAD_FILE, "tensor %s is not an object", ifa_quote(name).text);
  json_object_foreach(object, key, value) {
    if (strcmp(key, "dtype") == 0) found->dtype = value;
    else if (strcmp(key, "shape") == 0) found->shape = value;
    else if (strcmp(key, "data_offsets") == 0) found->offsets = value;
    else
      return ifa_fail(message, IFA_BAD_FILE, "tensor %s: unknown key %s", ifa_quote(name).text,
                      ifa_quote(key).text);
  }
  const char *missing = !found->dtype     ? "dtype"
                        : !found->shape   ? "shape"
                        : !found->offsets ? "data_offsets"
                                          : NULL;
  if (missing)
    return ifa_fail(message, IFA_BAD_FILE, "tensor %s: key '%s' is missing", ifa_quote(name).text,
                    missing);
  return IFA_OK;
}

/* json_array_get and json_integer_value answer NULL and 0 for other kinds, so kinds are checked
 * first. */
static ifa_status read_integer(const char *name, const char *what, const json_t *array, size_t i,
                               int64_t *value, ifa_message *message) {
  const json_t *item = json_array_get(array, i);
  if (!json_is_integer(item))
    return ifa_fail(message, IFA_BAD_FILE, "tensor %s: %s[%zu] is not an integer",
                    ifa_quote(name).text, what, i);
  *value = (int64_t)json_integer_value(item);
  if (*value < 0)
    return ifa_fail(message, IFA_BAD_FILE, "tensor %s: %s[%zu] is negative: %" PRId64,
                    ifa_quote(name).text, what, i, *value);
  return IFA_OK;
}

static ifa_status read_shape(const char *name, const json_t *array, ifa_tensor *tensor,
                             ifa_message *message) {
  if (!json_is_array(array))
    return ifa_fail(message, IFA_BAD_FILE, "tensor %s: shape is not an array",
                    ifa_quote(name).text);
  size_t rank = json_array_size(array);
  if (rank > IFA_TENSOR_MAX_RANK)
    return ifa_fail(message, IFA_BAD_FILE, "tensor %s: rank %zu is above %d", ifa_quote(name).text,
                    rank, IFA_TENSOR_MAX_RANK);
  tensor->rank = (int)rank;
  ifa_status status = IFA_OK;
  for (size_t i = 0; i < rank && status == IFA_OK; i++)
    status = read_integer(name, "shape", array, i, &tensor->shape[i], message);
  return status;
}

static ifa_status read_offsets(const char *name, const json_t *array, ifa_tensor_entry *entry,
                               ifa_message *message) {
  int64_t offsets[2] = {0, 0};
  if (!json_is_array(array) || json_array_size(array) != 2)
    return ifa_fail(message, IFA_BAD_FILE, "tensor %s: data_offsets is not an array of two",
                    ifa_quote(name).text);
  for (size_t i = 0; i < 2; i++) {
    ifa_status status = read_integer(name, "data_offsets", array, i, &offsets[i], message);
    if (status != IFA_OK) return status;
  }
  if (offsets[1] < offsets[0])
    return ifa_fail(message, IFA_BAD_FILE,
                    "tensor %s: data_offsets end at %" PRId64 ", before their begin %" PRId64,
                    ifa_quote(name).text, offsets[1], offsets[0]);
  entry->begin = (uint64_t)offsets[0];
  entry->end = (uint64_t)offsets[1];
  return IFA_OK;
}

/* Whether dtype, shape and offsets agree. entry->dtype is set for every known type, tensor.data
 * later for supported ones. */
static ifa_status read_type(const char *name, const json_t *word, ifa_tensor_entry *entry,
                            ifa_message *message) {
  if (!json_is_string(word))
    return ifa_fail(message, IFA_BAD_FILE, "tensor %s: dtype is not a string",
                    ifa_quote(name).text);
  const dtype *type = find_dtype(json_string_value(word));
  if (!type)
    return ifa_fail(message, IFA_BAD_FILE, "tensor %s: unknown dtype %s", ifa_quote(name).text,
                    ifa_quote(json_string_value(word)).text);
  ifa_tensor *tensor = &entry->tensor;
  entry->dtype = type->name;
  tensor->type = type->type;
  if (!ifa_tensor_size(tensor->shape, tensor->rank, type->bits, &tensor->bytes))
    return ifa_fail(message, IFA_BAD_FILE,
                    "tensor %s: the product of shape overflows or does not end on a byte",
                    ifa_quote(name).text);
  if (tensor->bytes != entry->end - entry->begin)
    return ifa_fail(message, IFA_BAD_FILE,
                    "tensor %s: data_offsets hold %" PRIu64 " bytes, shape and dtype %s need %zu",
                    ifa_quote(name).text, entry->end - entry->begin, type->name, tensor->bytes);
  return IFA_OK;
}

static ifa_status read_entry(const char *name, json_t *object, ifa_tensor_entry *entry,
                             ifa_message *message) {
  fields found;
  ifa_status status = find_fields(name, object, &found, message);
  if (status == IFA_OK) status = read_shape(name, found.shape, &entry->tensor, message);
  if (status == IFA_OK) status = read_offsets(name, found.offsets, entry, message);
  if (status == IFA_OK) status = read_type(name, found.dtype, entry, message);
  if (status != IFA_OK) return status;
  entry->tensor.name = entry->name = ifa_copy_string(name);
  return entry->name ? IFA_OK
                     : ifa_fail(message, IFA_OUT_OF_MEMORY, "no memory for the name of tensor %s",
                                ifa_quote(name).text);
}

static ifa_status read_entries(json_t *root, ifa_tensor_file *file, ifa_message *message) {
  const char *name;
  json_t *object;
  file->entries = calloc(json_object_size(root) + 1, sizeof *file->entries);
  if (!file->entries)
    return ifa_fail(message, IFA_OUT_OF_MEMORY, "no memory for %zu tensors",
                    json_object_size(root));
  json_object_foreach(root, name, object) {
    if (strcmp(name, METADATA) == 0) continue;
    ifa_status status = read_entry(name, object, &file->entries[file->count++], message);
    if (status != IFA_OK) return status;
  }
  return IFA_OK;
}

/* By place in the data, so that an empty tensor precedes the one that begins where it lies; then by
 * name. */
static int compare_places(const void *left, const void *right) {
  const ifa_tensor_entry *a = left, *b = right;
  if (a->begin != b->begin) return a->begin < b->begin ? -1 : 1;
  if (a->end != b->end) return a->end < b->end ? -1 : 1;
  return strcmp(a->name, b->name);
}

/* Each tensor begins where the one before ended, and the last ends with the file. */
static ifa_status check_cover(const ifa_tensor_file *file, size_t data_bytes,
                              ifa_message *message) {
  uint64_t covered = 0;
  for (size_t i = 0; i < file->count; i++) {
    const ifa_tensor_entry *entry = &file->entries[i];
    if (entry->begin != covered)
      return ifa_fail(message, IFA_BAD_FILE,
                      "tensor %s begins at %" PRIu64
                      " and leaves %s: the data before it ends at %" PRIu64,
                      ifa_quote(entry->name).text, entry->begin,
                      entry->begin > covered ? "a hole" : "an overlap", covered);
    if (entry->end > data_bytes)
      return ifa_fail(message, IFA_BAD_FILE,
                      "tensor %s ends at %" PRIu64 ", past the %zu bytes of data in the file",
                      ifa_quote(entry->name).text, entry->end, data_bytes);
    covered = entry->end;
  }
  if (covered == data_bytes) return IFA_OK;
  return ifa_fail(message, IFA_BAD_FILE,
                  "safetensors: no tensor covers the last %" PRIu64 " bytes of the file",
                  data_bytes - covered);
}

bool ifa_safetensors_is_supported(const ifa_tensor_entry *entry) {
  const dtype *type = find_dtype(entry->dtype);
  return type && type->supported;
}

static ifa_status load_data(const uint8_t *data, ifa_tensor_file *file, ifa_message *message) {
  for (size_t i = 0; i < file->count; i++) {
    ifa_tensor_entry *entry = &file->entries[i];
    if (!ifa_safetensors_is_supported(entry)) continue;
    ifa_status status = ifa_tensor_load(entry, data + entry->begin, false, message);
    if (status != IFA_OK) return status;
  }
  return IFA_OK;
}

size_t ifa_safetensors_header_end(const uint8_t *bytes, size_t length) {
  if (length < 8) return 0;
  uint64_t n = header_length(bytes);
  return n > MOST_HEADER_BYTES || n > length - 8 ? 0 : 8 + (size_t)n;
}

ifa_status ifa_safetensors_parse_header(const uint8_t *bytes, size_t length, ifa_tensor_file *file,
                                        size_t *data_at, ifa_message *message) {
  json_t *root = NULL;
  ifa_status status = load_header(bytes, length, &root, data_at, message);
  if (status != IFA_OK) return status;
  status = read_metadata(json_object_get(root, METADATA), file, message);
  if (status == IFA_OK) status = read_entries(root, file, message);
  json_decref(root);
  if (status != IFA_OK) return status;
  if (file->count > 1) qsort(file->entries, file->count, sizeof *file->entries, compare_places);
  return check_cover(file, length - *data_at, message);
}

ifa_status ifa_safetensors_parse(const uint8_t *bytes, size_t length, ifa_tensor_file *file,
                                 ifa_message *message) {
  size_t data_at = 0;
  ifa_status status = ifa_safetensors_parse_header(bytes, length, file, &data_at, message);
  return status == IFA_OK ? load_data(bytes + data_at, file, message) : status;
}

/* ---- writing ---- */

/* Order of types in a file: the reference's, in which no tensor is less aligned than its element.
 */
static int type_order(ifa_tensor_type type) {
  switch (type) {
    case IFA_TENSOR_F32: return 0;
    case IFA_TENSOR_BF16: return 1;
    case IFA_TENSOR_F16: return 2;
    case IFA_TENSOR_I8: return 3;
    case IFA_TENSOR_U8: return 4;
  }
  return 5;
}

/* Of pointers to tensors or to metadata. */
static int compare_tensors(const void *left, const void *right) {
  const ifa_tensor *a = *(const ifa_tensor *const *)left, *b = *(const ifa_tensor *const *)right;
  int difference = type_order(a->type) - type_order(b->type);
  return difference != 0 ? difference : strcmp(a->name, b->name);
}

static int compare_keys(const void *left, const void *right) {
  const ifa_metadata *a = *(const ifa_metadata *const *)left,
                     *b = *(const ifa_metadata *const *)right;
  return strcmp(a->key, b->key);
}

/* Pointers to the count items of item_bytes at `items`, sorted; NULL without memory. To be freed.
 */
static const void **sorted(const void *items, size_t count, size_t item_bytes,
                           int (*compare)(const void *, const void *)) {
  const void **pointers = calloc(count + 1, sizeof *pointers);
  if (!pointers) return NULL;
  for (size_t i = 0; i < count; i++) pointers[i] = (const char *)items + i * item_bytes;
  if (count > 1) qsort(pointers, count, sizeof *pointers, compare);
  return pointers;
}

/* Adds key: value and gives up the caller's reference to value, which may be NULL for want of
 * memory. */
static ifa_status add(json_t *object, const char *key, json_t *value, ifa_message *message) {
  if (json_object_get(object, key)) {
    json_decref(value);
    return ifa_fail(message, IFA_BAD_ARGUMENT, "the name %s is there twice", ifa_quote(key).text);
  }
  if (json_object_set_new_nocheck(object, key, value) == 0) return IFA_OK;
  return ifa_fail(message, IFA_OUT_OF_MEMORY, "no memory for the header's entry %s",
                  ifa_quote(key).text);
}

static ifa_status add_metadata(json_t *root, const ifa_metadata *const *metadata, size_t count,
                               ifa_message *message) {
  if (count == 0) return IFA_OK;
  json_t *map = json_object();
  ifa_status status = add(root, METADATA, map, message); /* root owns the map now, or it is gone */
  for (size_t i = 0; i < count && status == IFA_OK; i++)
    status = add(map, metadata[i]->key, json_string_nocheck(metadata[i]->value), message);
  return status;
}

/* {"dtype":...,"shape":[...],"data_offsets":[begin,end]}; NULL without memory. */
static json_t *tensor_object(const ifa_tensor *tensor, uint64_t begin) {
  const char *word = "";
  for (size_t i = 0; i < sizeof known_dtypes / sizeof known_dtypes[0]; i++)
    if (known_dtypes[i].supported && known_dtypes[i].type == tensor->type)
      word = known_dtypes[i].name;
  json_t *shape = json_array();
  int failed = shape ? 0 : -1;
  for (int i = 0; i < tensor->rank && failed == 0; i++)
    failed = json_array_append_new(shape, json_integer((json_int_t)tensor->shape[i]));
  if (failed != 0) {
    json_decref(shape);
    return NULL;
  }
  return json_pack("{s:s, s:o, s:[I, I]}", "dtype", word, "shape", shape, "data_offsets",
                   (json_int_t)begin, (json_int_t)(begin + tensor->bytes));
}

static ifa_status add_tensors(json_t *root, const ifa_tensor *const *tensors, size_t count,
                              ifa_message *message) {
  uint64_t at = 0; /* each tensor has less than 2^60 bytes: ifa_tensor_size */
  for (size_t i = 0; i < count; i++) {
    if (tensors[i]->bytes > INT64_MAX - at)
      return ifa_fail(message, IFA_BAD_ARGUMENT, "the tensors' sizes overflow");
    ifa_status status = add(root, tensors[i]->name, tensor_object(tensors[i], at), message);
    if (status != IFA_OK) return status;
    at += tensors[i]->bytes;
  }
  return IFA_OK;
}

/* The header's text, to be freed with free(): JSON, then spaces up to a multiple of 8 bytes. */
static ifa_status pad_header(const json_t *root, char **text, size_t *length,
                             ifa_message *message) {
  size_t bytes = json_dumpb(root, NULL, 0, JSON_COMPACT), padded = (bytes + 7) / 8 * 8;
  if (bytes == 0) return ifa_fail(message, IFA_OUT_OF_MEMORY, "no memory for the header");
  if (padded > MOST_HEADER_BYTES)
    return ifa_fail(message, IFA_BAD_ARGUMENT, "a header of %zu bytes is above %d", padded,
                    MOST_HEADER_BYTES);
  *text = malloc(padded);
  if (!*text || json_dumpb(root, *text, bytes, JSON_COMPACT) != bytes)
    return ifa_fail(message, IFA_OUT_OF_MEMORY, "no memory for a header of %zu bytes", padded);
  memset(*text + bytes, ' ', padded - bytes);
  *length = padded;
  return IFA_OK;
}

static ifa_status make_header(const ifa_tensor *const *tensors, size_t count,
                              const ifa_metadata *const *metadata, size_t metadata_count,
                              char **text, size_t *length, ifa_message *message) {
  json_t *root = json_object();
  if (!root) return ifa_fail(message, IFA_OUT_OF_MEMORY, "no memory for the header");
  ifa_status status = add_metadata(root, metadata, metadata_count, message);
  if (status == IFA_OK) status = add_tensors(root, tensors, count, message);
  if (status == IFA_OK) status = pad_header(root, text, length, message);
  json_decref(root);
  return status;
}

static ifa_status write_file(const char *path, const char *header, size_t header_bytes,
                             const ifa_tensor *const *tensors, size_t count, ifa_message *message) {
  ifa_output_file output;
  uint8_t length[8];
  for (int i = 0; i < 8; i++) length[i] = (uint8_t)((uint64_t)header_bytes >> 8 * i);
  ifa_status status = ifa_output_open(&output, path, message);
  if (status != IFA_OK) return status;
  status = ifa_output_bytes(&output, length, sizeof length, message);
  if (status == IFA_OK) status = ifa_output_bytes(&output, header, header_bytes, message);
  for (size_t i = 0; i < count && status == IFA_OK; i++)
    status = ifa_output_tensor(&output, tensors[i], message);
  return ifa_output_close(&output, status, message);
}

/* RFC 3629, 4. jansson's own check is not to be had without an allocation, whose failure looks the
 * same. */
static bool is_utf8(const char *text) {
  const uint8_t *c = (const uint8_t *)text;
  while (*c) {
    int more = *c < 0x80                 ? 0
               : *c >= 0xc2 && *c < 0xe0 ? 1
               : *c >= 0xe0 && *c < 0xf0 ? 2
               : *c >= 0xf0 && *c < 0xf5 ? 3
                                         : -1;
    /* of the second byte: no longer form than needed */
    uint8_t least = *c == 0xe0 ? 0xa0 : *c == 0xf0 ? 0x90 : 0x80;
    /* no surrogates, nothing past U+10FFFF */
    uint8_t most = *c == 0xed ? 0x9f : *c == 0xf4 ? 0x8f : 0xbf;
    if (more < 0) return false;
    for (c++; more > 0; more--, c++, least = 0x80, most = 0xbf)
      if (*c < least || *c > most) return false; /* the ending NUL is below */
  }
  return true;
}

static ifa_status check_string(const char *text, const char *what, size_t i, ifa_message *message) {
  if (!text) return ifa_fail(message, IFA_BAD_ARGUMENT, "the %s %zu is NULL", what, i);
  if (is_utf8(text)) return IFA_OK;
  return ifa_fail(message, IFA_BAD_ARGUMENT, "the %s %zu is not UTF-8: %s", what, i,
                  ifa_quote(text).text);
}

static ifa_status check_arguments(const ifa_tensor *tensors, size_t count,
                                  const ifa_metadata *metadata, size_t metadata_count,
                                  ifa_message *message) {
  if ((!tensors && count > 0) || (!metadata && metadata_count > 0))
    return ifa_fail(message, IFA_BAD_ARGUMENT, "%s is NULL",
                    !tensors && count > 0 ? "tensors" : "metadata");
  ifa_status status = IFA_OK;
  for (size_t i = 0; i < count && status == IFA_OK; i++) {
    status = check_string(tensors[i].name, "name of tensor", i, message);
    if (status == IFA_OK) status = ifa_tensor_check(&tensors[i], message);
    if (status == IFA_OK && strcmp(tensors[i].name, METADATA) == 0)
      return ifa_fail(message, IFA_BAD_ARGUMENT, "no tensor can have the name " METADATA);
  }
  for (size_t i = 0; i < metadata_count && status == IFA_OK; i++) {
    status = check_string(metadata[i].key, "key of metadata", i, message);
    if (status == IFA_OK) status = check_string(metadata[i].value, "value of metadata", i, message);
  }
  return status;
}

ifa_status ifa_safetensors_write(const char *path, const ifa_tensor *tensors, size_t count,
                                 const ifa_metadata *metadata, size_t metadata_count,
                                 ifa_message *message) {
  char *header = NULL;
  size_t header_bytes = 0;
  ifa_status status = check_arguments(tensors, count, metadata, metadata_count, message);
  if (status != IFA_OK) return status;
  const void **by_type = sorted(tensors, count, sizeof *tensors, compare_tensors);
  const void **by_key = sorted(metadata, metadata_count, sizeof *metadata, compare_keys);
  const ifa_tensor *const *ordered = (const ifa_tensor *const *)by_type;
  const ifa_metadata *const *keys = (const ifa_metadata *const *)by_key;
  if (!by_type || !by_key)
    status = ifa_fail(message, IFA_OUT_OF_MEMORY, "no memory to sort %zu tensors", count);
  if (status == IFA_OK)
    status = make_header(ordered, count, keys, metadata_count, &header, &header_bytes, message);
  if (status == IFA_OK) status = write_file(path, header, header_bytes, ordered, count, message);
  free(header);
  free(by_key);
  free(by_type);
  return status;
}

#endif
