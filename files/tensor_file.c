/* tensor_file.c - what the two tensor formats share: reading a whole file, looking things up, byte
 * order, and writing through a temporary file. The formats are in safetensors.c and npy.c. */
#include "files/tensor_file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/message.h"

#define MOST_TEMPORARIES 100
#define BUFFER_BYTES 16384 /* a multiple of every element size */

/* ---- types and messages ---- */

const char *ifa_tensor_type_name(ifa_tensor_type type) {
  switch (type) {
    case IFA_TENSOR_F32: return "f32";
    case IFA_TENSOR_F16: return "f16";
    case IFA_TENSOR_BF16: return "bf16";
    case IFA_TENSOR_I8: return "i8";
    case IFA_TENSOR_U8: return "u8";
  }
  return "unknown type";
}

size_t ifa_tensor_type_bytes(ifa_tensor_type type) {
  switch (type) {
    case IFA_TENSOR_F32: return 4;
    case IFA_TENSOR_F16: return 2;
    case IFA_TENSOR_BF16: return 2;
    case IFA_TENSOR_I8: return 1;
    case IFA_TENSOR_U8: return 1;
  }
  return 0;
}

ifa_quoted ifa_quote(const char *string) {
  enum { HEAD = 24, TAIL = 72 }; /* 2 quotes + HEAD + 3 dots + TAIL + NUL <= sizeof text */
  ifa_quoted quoted;
  size_t length = strlen(string), at = 0;
  quoted.text[at++] = '\'';
  for (size_t i = 0; i < length; i++) {
    if (length > HEAD + TAIL && i == HEAD) {
      memcpy(quoted.text + at, "...", 3);
      at += 3;
      i = length - TAIL;
    }
    quoted.text[at++] = string[i] >= ' ' && string[i] <= '~' ? string[i] : '?';
  }
  quoted.text[at++] = '\'';
  quoted.text[at] = '\0';
  return quoted;
}

/* "cannot <what> '<path>': <why>" */
static ifa_status fail_errno(ifa_message *message, const char *what, const char *path, int error) {
  char why[128] = "";
  if (error == ENOMEM)
    return ifa_fail(message, IFA_OUT_OF_MEMORY, "cannot %s %s: out of memory", what,
                    ifa_quote(path).text);
  if (strerror_r(error, why, sizeof why) != 0) snprintf(why, sizeof why, "error %d", error);
  return ifa_fail(message, IFA_IO, "cannot %s %s: %s", what, ifa_quote(path).text, why);
}

char *ifa_copy_string(const char *string) {
  size_t bytes = strlen(string) + 1;
  char *copy = malloc(bytes);
  if (copy) memcpy(copy, string, bytes);
  return copy;
}

/* ---- sizes, bytes ---- */

bool ifa_tensor_size(const int64_t *shape, int rank, int element_bits, size_t *bytes) {
  /* elements, in bits */
  uint64_t most =
      ((uint64_t)(SIZE_MAX < INT64_MAX ? SIZE_MAX : INT64_MAX)) / (uint64_t)element_bits;
  /* of the dimensions that are not 0: <= most, so product * element_bits < 2^63 */
  uint64_t product = 1;
  bool empty = false;
  for (int i = 0; i < rank; i++) {
    if (shape[i] < 0) return false;
    if (shape[i] == 0) empty = true;
    else if ((uint64_t)shape[i] > most / product) return false;
    else product *= (uint64_t)shape[i];
  }
  uint64_t bits = empty ? 0 : product * (uint64_t)element_bits;
  *bytes = (size_t)(bits / 8);
  return bits % 8 == 0;
}

ifa_status ifa_tensor_check(const ifa_tensor *tensor, ifa_message *message) {
  ifa_quoted name = ifa_quote(tensor->name ? tensor->name : "");
  size_t element = ifa_tensor_type_bytes(tensor->type), bytes;
  if (element == 0)
    return ifa_fail(message, IFA_BAD_ARGUMENT, "tensor %s: type %d is unknown", name.text,
                    (int)tensor->type);
  if (tensor->rank < 0 || tensor->rank > IFA_TENSOR_MAX_RANK)
    return ifa_fail(message, IFA_BAD_ARGUMENT, "tensor %s: rank %d is not 0 .. %d", name.text,
                    tensor->rank, IFA_TENSOR_MAX_RANK);
  if (!ifa_tensor_size(tensor->shape, tensor->rank, (int)element * 8, &bytes))
    return ifa_fail(message, IFA_BAD_ARGUMENT, "tensor %s: shape is negative or too large",
                    name.text);
  if (tensor->bytes != bytes)
    return ifa_fail(message, IFA_BAD_ARGUMENT, "tensor %s: bytes is %zu, its shape has %zu",
                    name.text, tensor->bytes, bytes);
  if (bytes > 0 && !tensor->data)
    return ifa_fail(message, IFA_BAD_ARGUMENT, "tensor %s: data is NULL", name.text);
  return IFA_OK;
}

/* Elements of 1, 2 or 4 bytes as their values, so that the code is the same on every host. */
static void from_file_order(uint8_t *dst, const uint8_t *src, size_t bytes, size_t element,
                            bool big_endian) {
  if (element == 1) memcpy(dst, src, bytes);
  for (size_t i = 0; element == 2 && i < bytes; i += 2) {
    uint16_t value = (uint16_t)(big_endian ? src[i] << 8 | src[i + 1] : src[i + 1] << 8 | src[i]);
    memcpy(dst + i, &value, 2);
  }
  for (size_t i = 0; element == 4 && i < bytes; i += 4) {
    const uint8_t *s = src + i;
    uint32_t big = (uint32_t)s[0] << 24 | (uint32_t)s[1] << 16 | (uint32_t)s[2] << 8 | s[3];
    uint32_t little = (uint32_t)s[3] << 24 | (uint32_t)s[2] << 16 | (uint32_t)s[1] << 8 | s[0];
    memcpy(dst + i, big_endian ? &big : &little, 4);
  }
}

static void to_little_endian(uint8_t *dst, const uint8_t *src, size_t bytes, size_t element) {
  if (element == 1) memcpy(dst, src, bytes);
  for (size_t i = 0; element == 2 && i < bytes; i += 2) {
    uint16_t value;
    memcpy(&value, src + i, 2);
    for (size_t j = 0; j < 2; j++) dst[i + j] = (uint8_t)(value >> 8 * j);
  }
  for (size_t i = 0; element == 4 && i < bytes; i += 4) {
    uint32_t value;
    memcpy(&value, src + i, 4);
    for (size_t j = 0; j < 4; j++) dst[i + j] = (uint8_t)(value >> 8 * j);
  }
}

void ifa_tensor_to_host_order(ifa_tensor_entry *entry, bool big_endian) {
  uint8_t *data = entry->data;
  size_t element = ifa_tensor_type_bytes(entry->tensor.type);
  for (size_t at = 0; element > 1 && at < entry->tensor.bytes; at += element) {
    uint8_t bytes[4];
    memcpy(bytes, data + at, element);
    from_file_order(data + at, bytes, element, element, big_endian);
  }
}

ifa_status ifa_tensor_load(ifa_tensor_entry *entry, const uint8_t *src, bool big_endian,
                           ifa_message *message) {
  size_t bytes = entry->tensor.bytes;
  entry->data = malloc(bytes ? bytes : 1);
  if (!entry->data)
    return ifa_fail(message, IFA_OUT_OF_MEMORY, "tensor %s: no memory for %zu bytes",
                    ifa_quote(entry->name).text, bytes);
  from_file_order(entry->data, src, bytes, ifa_tensor_type_bytes(entry->tensor.type), big_endian);
  entry->tensor.data = entry->data;
  return IFA_OK;
}

/* ---- reading ---- */

static bool ends_with(const char *string, const char *ending) {
  size_t length = strlen(string), wanted = strlen(ending);
  return length >= wanted && memcmp(string + length - wanted, ending, wanted) == 0;
}

static ifa_tensor_format format_of(const char *path, const uint8_t *bytes, size_t length) {
  if (ends_with(path, ".npy")) return IFA_NPY;
  if (ends_with(path, ".safetensors")) return IFA_SAFETENSORS;
  return length >= 6 && memcmp(bytes, "\x93NUMPY", 6) == 0 ? IFA_NPY : IFA_SAFETENSORS;
}

/* Opens without waiting for the other end of a pipe, and answers the size of a regular file. */
static ifa_status open_regular(const char *path, int *descriptor, size_t *size,
                               ifa_message *message) {
  struct stat about;
  *descriptor = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
  if (*descriptor < 0) return fail_errno(message, "open", path, errno);
  if (fstat(*descriptor, &about) != 0) return fail_errno(message, "examine", path, errno);
  if (!S_ISREG(about.st_mode))
    return ifa_fail(message, IFA_BAD_FILE, "%s is not a regular file", ifa_quote(path).text);
  if ((uintmax_t)about.st_size > SIZE_MAX - 1)
    return ifa_fail(message, IFA_OUT_OF_MEMORY, "%s is larger than this machine's memory",
                    ifa_quote(path).text);
  *size = (size_t)about.st_size;
  return IFA_OK;
}

/* Reads until `room` bytes or the end of the file. */
static ifa_status read_up_to(int descriptor, const char *path, uint8_t *bytes, size_t room,
                             size_t *got, ifa_message *message) {
  for (*got = 0; *got < room;) {
    size_t step = room - *got < SSIZE_MAX ? room - *got : SSIZE_MAX;
    ssize_t n = read(descriptor, bytes + *got, step);
    if (n == 0) break;
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno(message, "read", path, errno);
    *got += (size_t)n;
  }
  return IFA_OK;
}

/* Reads one byte more than the file had, to notice that it grew. */
static ifa_status read_all(int descriptor, const char *path, size_t size, uint8_t **bytes,
                           ifa_message *message) {
  size_t got;
  *bytes = malloc(size + 1);
  if (!*bytes)
    return ifa_fail(message, IFA_OUT_OF_MEMORY, "no memory for the %zu bytes of %s", size,
                    ifa_quote(path).text);
  ifa_status status = read_up_to(descriptor, path, *bytes, size + 1, &got, message);
  if (status != IFA_OK || got == size) return status;
  const char *change = got < size ? "shrank" : "grew";
  return ifa_fail(message, IFA_BAD_FILE, "%s %s while being read: %zu bytes, then %s%zu",
                  ifa_quote(path).text, change, size, got > size ? "at least " : "", got);
}

static ifa_status load(const char *path, uint8_t **bytes, size_t *size, ifa_message *message) {
  int descriptor = -1;
  *bytes = NULL;
  ifa_status status = open_regular(path, &descriptor, size, message);
  if (status == IFA_OK) status = read_all(descriptor, path, *size, bytes, message);
  if (descriptor >= 0) close(descriptor); /* nothing was written: its answer does not matter */
  return status;
}

ifa_status ifa_tensor_file_parse(const void *bytes, size_t length, ifa_tensor_format format,
                                 ifa_tensor_file **file, ifa_message *message) {
  if (!file) return ifa_fail(message, IFA_BAD_ARGUMENT, "file is NULL");
  *file = NULL;
  if (!bytes && length > 0) return ifa_fail(message, IFA_BAD_ARGUMENT, "bytes is NULL");
  if (format != IFA_SAFETENSORS && format != IFA_NPY)
    return ifa_fail(message, IFA_BAD_ARGUMENT, "format %d is unknown", (int)format);
  if (length == 0) return ifa_fail(message, IFA_BAD_FILE, "the file is empty");
  ifa_tensor_file *made = calloc(1, sizeof *made);
  if (!made) return ifa_fail(message, IFA_OUT_OF_MEMORY, "no memory for a tensor file");
  ifa_status status = format == IFA_NPY ? ifa_npy_parse(bytes, length, made, message)
                                        : ifa_safetensors_parse(bytes, length, made, message);
  if (status != IFA_OK) {
    ifa_tensor_file_free(made);
    return status;
  }
  *file = made;
  return ifa_succeed(message);
}

/* Parses what load() read, and puts the path in front of a complaint. */
static ifa_status parse_loaded(const char *path, const uint8_t *bytes, size_t size,
                               ifa_tensor_file **file, ifa_message *message) {
  ifa_message inner;
  ifa_status status =
      ifa_tensor_file_parse(bytes, size, format_of(path, bytes, size), file, &inner);
  if (status != IFA_OK)
    return ifa_fail(message, status, "%s: %s", ifa_quote(path).text, inner.text);
  (*file)->path = ifa_copy_string(path);
  if ((*file)->path) return ifa_succeed(message);
  ifa_tensor_file_free(*file);
  *file = NULL;
  return ifa_fail(message, IFA_OUT_OF_MEMORY, "no memory for the path %s", ifa_quote(path).text);
}

ifa_status ifa_tensor_file_read(const char *path, ifa_tensor_file **file, ifa_message *message) {
  uint8_t *bytes;
  size_t size;
  if (!file) return ifa_fail(message, IFA_BAD_ARGUMENT, "file is NULL");
  *file = NULL;
  if (!path) return ifa_fail(message, IFA_BAD_ARGUMENT, "path is NULL");
  ifa_status status = load(path, &bytes, &size, message);
  if (status == IFA_OK) status = parse_loaded(path, bytes, size, file, message);
  free(bytes);
  return status;
}

/* ---- reading a part ---- */

/* count bytes from `at` on; the file has that many, or it has shrunk. */
static ifa_status read_part(int descriptor, const char *path, uint64_t at, uint8_t *bytes,
                            size_t count, ifa_message *message) {
  for (size_t got = 0; got < count;) {
    size_t step = count - got < SSIZE_MAX ? count - got : SSIZE_MAX;
    ssize_t n = pread(descriptor, bytes + got, step, (off_t)(at + got));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno(message, "read", path, errno);
    if (n == 0)
      return ifa_fail(message, IFA_BAD_FILE, "%s shrank while being read", ifa_quote(path).text);
    got += (size_t)n;
  }
  return IFA_OK;
}

static bool is_named(const char *name, const char *const *names, size_t count) {
  for (size_t i = 0; i < count; i++)
    if (strcmp(name, names[i]) == 0) return true;
  return false;
}

static ifa_status read_named_data(int descriptor, const char *path, size_t data_at,
                                  const char *const *names, size_t count, ifa_tensor_file *file,
                                  ifa_message *message) {
  ifa_status status = IFA_OK;
  for (size_t i = 0; i < file->count && status == IFA_OK; i++) {
    ifa_tensor_entry *entry = &file->entries[i];
    if (!ifa_safetensors_is_supported(entry)) continue;
    entry->left_out = !is_named(entry->name, names, count);
    if (entry->left_out) continue;
    size_t bytes = entry->tensor.bytes;
    entry->tensor.data = entry->data = malloc(bytes ? bytes : 1);
    if (!entry->data)
      return ifa_fail(message, IFA_OUT_OF_MEMORY, "tensor %s: no memory for %zu bytes",
                      ifa_quote(entry->name).text, bytes);
    status = read_part(descriptor, path, data_at + entry->begin, entry->data, bytes, message);
    if (status == IFA_OK) ifa_tensor_to_host_order(entry, false);
  }
  return status;
}

/* The path in front of what a parser said, which does not know it. */
static ifa_status say_path(ifa_status status, const char *path, ifa_message *message) {
  if (status == IFA_OK || !message || strstr(message->text, ifa_quote(path).text)) return status;
  ifa_message inner = *message;
  return ifa_fail(message, status, "%s: %s", ifa_quote(path).text, inner.text);
}

static ifa_status read_named(int descriptor, const char *path, size_t size, size_t header_end,
                             const char *const *names, size_t count, ifa_tensor_file *file,
                             ifa_message *message) {
  size_t data_at = 0;
  struct stat about;
  uint8_t *header = malloc(header_end);
  if (!header) return ifa_fail(message, IFA_OUT_OF_MEMORY, "no memory for the header");
  ifa_status status = read_part(descriptor, path, 0, header, header_end, message);
  if (status == IFA_OK)
    status = ifa_safetensors_parse_header(header, size, file, &data_at, message);
  free(header);
  if (status == IFA_OK)
    status = read_named_data(descriptor, path, data_at, names, count, file, message);
  if (status == IFA_OK && fstat(descriptor, &about) == 0 && (size_t)about.st_size != size)
    status = ifa_fail(message, IFA_BAD_FILE, "%s changed its size while being read",
                      ifa_quote(path).text);
  return status;
}

ifa_status ifa_tensor_file_read_named(const char *path, const char *const *names, size_t count,
                                      ifa_tensor_file **file, ifa_message *message) {
  int descriptor = -1;
  size_t size = 0, header_end = 0;
  uint8_t first[8] = {0};
  if (!file || !path)
    return ifa_fail(message, IFA_BAD_ARGUMENT, "%s is NULL", file ? "path" : "file");
  *file = NULL;
  ifa_status status = open_regular(path, &descriptor, &size, message);
  if (status == IFA_OK)
    status = read_part(descriptor, path, 0, first, size < 8 ? size : 8, message);
  if (status == IFA_OK && format_of(path, first, size < 8 ? size : 8) == IFA_SAFETENSORS)
    header_end = ifa_safetensors_header_end(first, size);
  if (status == IFA_OK && header_end > 0) {
    ifa_message why = {""};
    ifa_tensor_file *made = calloc(1, sizeof *made);
    status = made && (made->path = ifa_copy_string(path))
                 ? read_named(descriptor, path, size, header_end, names, count, made, &why)
                 : ifa_fail(&why, IFA_OUT_OF_MEMORY, "no memory for a tensor file");
    say_path(status, path, &why);
    if (status == IFA_OK) *file = made;
    else ifa_tensor_file_free(made);
    if (message) *message = why;
  }
  if (descriptor >= 0) close(descriptor);
  /* .npy, or no header to speak of: the reader of whole files says what is wrong */
  return status == IFA_OK && header_end == 0 ? ifa_tensor_file_read(path, file, message) : status;
}

void ifa_tensor_file_free(ifa_tensor_file *file) {
  if (!file) return;
  for (size_t i = 0; i < file->count; i++) {
    free(file->entries[i].name);
    free(file->entries[i].data);
  }
  for (size_t i = 0; i < file->metadata_count; i++) {
    free((void *)file->metadata[i].key);
    free((void *)file->metadata[i].value);
  }
  free(file->entries);
  free(file->metadata);
  free(file->path);
  free(file);
}

/* ---- look-up ---- */

size_t ifa_tensor_file_count(const ifa_tensor_file *file) { return file ? file->count : 0; }

const char *ifa_tensor_file_name(const ifa_tensor_file *file, size_t index) {
  return index < ifa_tensor_file_count(file) ? file->entries[index].name : NULL;
}

static ifa_status fail_absent(const ifa_tensor_file *file, const char *name, ifa_message *message) {
  const char *where = file->path ? file->path : "in memory",
             *first = file->count ? file->entries[0].name : "";
  return ifa_fail(message, IFA_BAD_ARGUMENT, "%s: no tensor %s among its %zu%s%s",
                  ifa_quote(where).text, ifa_quote(name).text, file->count,
                  file->count ? ", the first being " : "",
                  file->count ? ifa_quote(first).text : "");
}

ifa_status ifa_tensor_file_find(const ifa_tensor_file *file, const char *name,
                                const ifa_tensor **tensor, ifa_message *message) {
  if (!tensor) return ifa_fail(message, IFA_BAD_ARGUMENT, "tensor is NULL");
  *tensor = NULL;
  if (!file || !name)
    return ifa_fail(message, IFA_BAD_ARGUMENT, "%s is NULL", file ? "name" : "file");
  for (size_t i = 0; i < file->count; i++) {
    const ifa_tensor_entry *entry = &file->entries[i];
    if (strcmp(entry->name, name) != 0) continue;
    if (entry->left_out)
      return ifa_fail(message, IFA_BAD_ARGUMENT, "tensor %s was not read", ifa_quote(name).text);
    if (!entry->data)
      return ifa_fail(message, IFA_UNSUPPORTED,
                      "tensor %s has element type %s; supported are F32, F16, BF16, I8 and U8",
                      ifa_quote(name).text, entry->dtype);
    *tensor = &entry->tensor;
    return ifa_succeed(message);
  }
  return fail_absent(file, name, message);
}

const ifa_metadata *ifa_tensor_file_metadata_at(const ifa_tensor_file *file, size_t index) {
  return file && index < file->metadata_count ? &file->metadata[index] : NULL;
}

const char *ifa_tensor_file_metadata(const ifa_tensor_file *file, const char *key) {
  if (!file || !key) return NULL;
  for (size_t i = 0; i < file->metadata_count; i++)
    if (strcmp(file->metadata[i].key, key) == 0) return file->metadata[i].value;
  return NULL;
}

/* ---- writing ---- */

void (*ifa_output_watch)(const char *temporary, int exists) = NULL;

/* Creates <path>.tmp<k>; "x" (C11) refuses a name that exists, so two writers never share one. */
static ifa_status create_temporary(ifa_output_file *output, ifa_message *message) {
  size_t room = strlen(output->path) + sizeof ".tmp99";
  output->temporary = malloc(room);
  if (!output->temporary)
    return ifa_fail(message, IFA_OUT_OF_MEMORY, "no memory for the name of a temporary file");
  for (int k = 0; k < MOST_TEMPORARIES && !output->stream; k++) {
    snprintf(output->temporary, room, "%s.tmp%d", output->path, k);
    output->stream = fopen(output->temporary, "wbx");
    if (!output->stream && errno != EEXIST) break;
  }
  if (output->stream && ifa_output_watch) ifa_output_watch(output->temporary, 1);
  if (output->stream) return IFA_OK;
  /* the name that is asked for, unless it is the temporary ones that are in the way */
  return fail_errno(message, "create", errno == EEXIST ? output->temporary : output->path, errno);
}

ifa_status ifa_output_open(ifa_output_file *output, const char *path, ifa_message *message) {
  struct stat about;
  *output = (ifa_output_file){.path = path};
  if (!path) return ifa_fail(message, IFA_BAD_ARGUMENT, "path is NULL");
  /* rename() would put a plain file in the place of /dev/null. */
  if (stat(path, &about) == 0 && !S_ISREG(about.st_mode))
    return ifa_fail(message, IFA_IO, "cannot write %s: it exists and is not a regular file",
                    ifa_quote(path).text);
  ifa_status status = create_temporary(output, message);
  if (status != IFA_OK) free(output->temporary);
  return status;
}

ifa_status ifa_output_bytes(ifa_output_file *output, const void *bytes, size_t length,
                            ifa_message *message) {
  if (length == 0 || fwrite(bytes, 1, length, output->stream) == length) return IFA_OK;
  return fail_errno(message, "write", output->path, errno);
}

ifa_status ifa_output_tensor(ifa_output_file *output, const ifa_tensor *tensor,
                             ifa_message *message) {
  uint8_t buffer[BUFFER_BYTES];
  const uint8_t *data = tensor->data;
  ifa_status status = IFA_OK;
  for (size_t at = 0; at < tensor->bytes && status == IFA_OK; at += sizeof buffer) {
    size_t step = tensor->bytes - at < sizeof buffer ? tensor->bytes - at : sizeof buffer;
    to_little_endian(buffer, data + at, step, ifa_tensor_type_bytes(tensor->type));
    status = ifa_output_bytes(output, buffer, step, message);
  }
  return status;
}

ifa_status ifa_output_close(ifa_output_file *output, ifa_status status, ifa_message *message) {
  if (fclose(output->stream) != 0 && status == IFA_OK)
    status = fail_errno(message, "write", output->path, errno);
  if (status == IFA_OK && rename(output->temporary, output->path) != 0)
    status = fail_errno(message, "rename the temporary of", output->path, errno);
  if (status != IFA_OK) remove(output->temporary);
  if (ifa_output_watch) ifa_output_watch(output->temporary, 0);
  free(output->temporary);
  return status == IFA_OK ? ifa_succeed(message) : status;
}
