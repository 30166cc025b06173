/* npy.c - NumPy's .npy files, format versions 1.0, 2.0 and 3.0 (numpy.org, reference,
 * numpy.lib.format)
 *
 *     "\x93NUMPY"  major  minor  header length: 2 (version 1) or 4 bytes, little-endian  header
 *       data
 *
 * The header is a Python dict literal, padded with spaces and ended by '\n'. Of that language this
 * accepts, with spaces anywhere between the words,
 *
 *     header = '{' pair {',' pair} [','] '}' '\n'      each of the three keys once, in any order
 *     pair   = string ':' value                        'descr': string, 'fortran_order': True |
 *                                                      False, 'shape': tuple
 *     string = quote {printable ASCII but \ and the quote} quote
 *     tuple  = '(' ')' | '(' number ',' [number {',' number} [',']] ')' */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/message.h"
#include "files/tensor_file.h"

static const char magic[] = "\x93NUMPY";
#define MAGIC_BYTES 6

static const struct {
  const char *descr;
  ifa_tensor_type type;
  bool big_endian;
} known_descr[] = {
    /* the first of a type is the one to write */
    {"<f4", IFA_TENSOR_F32, false}, {"<f2", IFA_TENSOR_F16, false}, {"|i1", IFA_TENSOR_I8, false},
    {"|u1", IFA_TENSOR_U8, false},  {">f4", IFA_TENSOR_F32, true},  {">f2", IFA_TENSOR_F16, true},
};
#define KNOWN_DESCR (sizeof known_descr / sizeof known_descr[0])

/* ---- the header's words ---- */

/* What is left of the header: bytes at .. length-1. The take_ functions skip spaces first. */
typedef struct reader {
  const uint8_t *bytes;
  size_t at, length;
  ifa_message *message;
} reader;

static ifa_status fail_expected(const reader *r, const char *what) {
  if (r->at >= r->length)
    return ifa_fail(r->message, IFA_BAD_FILE, "npy header ends where %s should be", what);
  return ifa_fail(r->message, IFA_BAD_FILE, "npy header: expected %s at byte %zu, found 0x%02x",
                  what, r->at, r->bytes[r->at]);
}

static void skip_spaces(reader *r) {
  while (r->at < r->length && r->bytes[r->at] == ' ') r->at++;
}

/* Takes the character if it is next. */
static bool take(reader *r, char wanted) {
  skip_spaces(r);
  if (r->at >= r->length || r->bytes[r->at] != (uint8_t)wanted) return false;
  r->at++;
  return true;
}

static bool take_word(reader *r, const char *word) {
  size_t length = strlen(word);
  skip_spaces(r);
  if (r->length - r->at < length || memcmp(r->bytes + r->at, word, length) != 0) return false;
  r->at += length;
  return true;
}

/* A string of at most room - 1 characters. */
static ifa_status take_string(reader *r, const char *what, char *text, size_t room) {
  skip_spaces(r);
  uint8_t quote = r->at < r->length ? r->bytes[r->at] : 0;
  if (quote != '\'' && quote != '"') return fail_expected(r, what);
  r->at++;
  for (size_t n = 0; r->at < r->length; n++) {
    uint8_t c = r->bytes[r->at];
    if (c == quote) {
      text[n] = '\0';
      r->at++;
      return IFA_OK;
    }
    if (c < ' ' || c > '~' || c == '\\') return fail_expected(r, "a printable ASCII character");
    if (n + 1 >= room)
      return ifa_fail(r->message, IFA_BAD_FILE, "npy header: %s is longer than %zu characters",
                      what, room - 1);
    text[n] = (char)c;
    r->at++;
  }
  return fail_expected(r, "a closing quote");
}

/* A decimal integer 0 .. INT64_MAX without sign or leading zeros. */
static ifa_status take_dimension(reader *r, int64_t *value) {
  skip_spaces(r);
  size_t first = r->at;
  if (first < r->length && r->bytes[first] == '-')
    return ifa_fail(r->message, IFA_BAD_FILE, "npy header: negative dimension at byte %zu", first);
  for (*value = 0; r->at < r->length && r->bytes[r->at] >= '0' && r->bytes[r->at] <= '9'; r->at++) {
    int digit = r->bytes[r->at] - '0';
    if (*value > (INT64_MAX - digit) / 10)
      return ifa_fail(r->message, IFA_BAD_FILE,
                      "npy header: the dimension at byte %zu is above 2^63 - 1", first);
    *value = *value * 10 + digit;
  }
  if (r->at == first) return fail_expected(r, "a dimension");
  if (r->bytes[first] == '0' && r->at - first > 1)
    return ifa_fail(r->message, IFA_BAD_FILE,
                    "npy header: the dimension at byte %zu has a leading zero", first);
  return IFA_OK;
}

/* ---- the header's pairs ---- */

typedef struct header {
  char descr[32];
  bool fortran_order;
  int rank;
  int64_t shape[IFA_TENSOR_MAX_RANK];
  bool has_descr, has_order, has_shape;
} header;

static ifa_status take_descr(reader *r, header *h) {
  skip_spaces(r);
  if (r->at < r->length && r->bytes[r->at] == '[')
    return ifa_fail(r->message, IFA_UNSUPPORTED,
                    "npy: descr is a record type; supported are <f4, <f2, |i1 and |u1");
  return take_string(r, "the string of descr", h->descr, sizeof h->descr);
}

static ifa_status take_order(reader *r, header *h) {
  h->fortran_order = take_word(r, "True");
  if (h->fortran_order || take_word(r, "False")) return IFA_OK;
  return fail_expected(r, "True or False for fortran_order");
}

static ifa_status take_shape(reader *r, header *h) {
  if (!take(r, '(')) return fail_expected(r, "the '(' of shape");
  for (h->rank = 0; !take(r, ')'); h->rank++) {
    if (h->rank == IFA_TENSOR_MAX_RANK)
      return ifa_fail(r->message, IFA_BAD_FILE, "npy header: rank is above %d",
                      IFA_TENSOR_MAX_RANK);
    ifa_status status = take_dimension(r, &h->shape[h->rank]);
    if (status != IFA_OK) return status;
    if (take(r, ',')) continue;
    /* (3) is a number, (3,) a tuple */
    if (h->rank == 0) return fail_expected(r, "',' after the only dimension");
    if (!take(r, ')')) return fail_expected(r, "',' or ')' in shape");
    h->rank++;
    return IFA_OK;
  }
  return IFA_OK;
}

static ifa_status take_value(reader *r, header *h, const char *key) {
  bool *seen = strcmp(key, "descr") == 0           ? &h->has_descr
               : strcmp(key, "fortran_order") == 0 ? &h->has_order
               : strcmp(key, "shape") == 0         ? &h->has_shape
                                                   : NULL;
  if (!seen)
    return ifa_fail(r->message, IFA_BAD_FILE, "npy header: unknown key %s", ifa_quote(key).text);
  if (*seen) return ifa_fail(r->message, IFA_BAD_FILE, "npy header: key '%s' is there twice", key);
  *seen = true;
  if (!take(r, ':')) return fail_expected(r, "':'");
  if (seen == &h->has_descr) return take_descr(r, h);
  return seen == &h->has_order ? take_order(r, h) : take_shape(r, h);
}

static ifa_status take_pairs(reader *r, header *h) {
  if (!take(r, '{')) return fail_expected(r, "'{'");
  while (!take(r, '}')) {
    char key[32];
    ifa_status status = take_string(r, "a key", key, sizeof key);
    if (status == IFA_OK) status = take_value(r, h, key);
    if (status != IFA_OK) return status;
    if (take(r, ',')) continue;
    if (take(r, '}')) break;
    return fail_expected(r, "',' or '}'");
  }
  return IFA_OK;
}

static ifa_status take_header(reader *r, header *h) {
  ifa_status status = take_pairs(r, h);
  if (status != IFA_OK) return status;
  const char *missing = !h->has_descr   ? "descr"
                        : !h->has_order ? "fortran_order"
                        : !h->has_shape ? "shape"
                                        : NULL;
  if (missing)
    return ifa_fail(r->message, IFA_BAD_FILE, "npy header: key '%s' is missing", missing);
  if (!take(r, '\n')) return fail_expected(r, "spaces and a newline");
  if (r->at != r->length) return fail_expected(r, "the end of the header");
  if (!h->fortran_order) return IFA_OK;
  return ifa_fail(r->message, IFA_UNSUPPORTED,
                  "npy: fortran_order is True; only row-major data is supported");
}

/* ---- reading ---- */

/* Finds the header: *start .. *data_at - 1, both within the file. */
static ifa_status find_header(const uint8_t *bytes, size_t length, size_t *start, size_t *data_at,
                              ifa_message *message) {
  if (length < MAGIC_BYTES || memcmp(bytes, magic, MAGIC_BYTES) != 0)
    return ifa_fail(message, IFA_BAD_FILE, "npy: the file does not begin with \\x93NUMPY");
  if (length < MAGIC_BYTES + 2)
    return ifa_fail(message, IFA_BAD_FILE, "npy: the file ends within its version");
  uint8_t major = bytes[6], minor = bytes[7];
  if (major < 1 || major > 3 || minor != 0)
    return ifa_fail(message, IFA_BAD_FILE, "npy: version %d.%d is unknown; 1.0, 2.0 and 3.0 are",
                    major, minor);
  *start = major == 1 ? 10 : 12;
  if (length < *start)
    return ifa_fail(message, IFA_BAD_FILE, "npy: the file ends within its header length");
  uint32_t header_bytes = (uint32_t)bytes[8] | (uint32_t)bytes[9] << 8;
  if (major > 1) header_bytes |= (uint32_t)bytes[10] << 16 | (uint32_t)bytes[11] << 24;
  if (header_bytes > length - *start)
    return ifa_fail(message, IFA_BAD_FILE,
                    "npy: header length %" PRIu32 " passes the end of the file, %zu bytes on",
                    header_bytes, length - *start);
  *data_at = *start + header_bytes;
  return IFA_OK;
}

/* Fills the tensor from the header; big_endian says how its elements lie in the file. */
static ifa_status describe(const header *h, size_t data_bytes, ifa_tensor_entry *entry,
                           bool *big_endian, ifa_message *message) {
  size_t i = 0;
  while (i < KNOWN_DESCR && strcmp(known_descr[i].descr, h->descr) != 0) i++;
  if (i == KNOWN_DESCR)
    return ifa_fail(message, IFA_UNSUPPORTED,
                    "npy: descr %s; supported are <f4, >f4, <f2, >f2, |i1 and |u1",
                    ifa_quote(h->descr).text);
  ifa_tensor *tensor = &entry->tensor;
  entry->dtype = known_descr[i].descr;
  *big_endian = known_descr[i].big_endian;
  tensor->type = known_descr[i].type;
  tensor->rank = h->rank;
  memcpy(tensor->shape, h->shape, sizeof tensor->shape);
  if (!ifa_tensor_size(h->shape, h->rank, (int)ifa_tensor_type_bytes(tensor->type) * 8,
                       &tensor->bytes))
    return ifa_fail(message, IFA_BAD_FILE, "npy: the product of shape overflows");
  if (tensor->bytes != data_bytes)
    return ifa_fail(message, IFA_BAD_FILE,
                    "npy: shape and descr need %zu bytes of data, the file has %zu", tensor->bytes,
                    data_bytes);
  return IFA_OK;
}

ifa_status ifa_npy_parse(const uint8_t *bytes, size_t length, ifa_tensor_file *file,
                         ifa_message *message) {
  size_t start = 0, data_at = 0;
  header h = {.rank = 0};
  bool big_endian = false;
  ifa_status status = find_header(bytes, length, &start, &data_at, message);
  if (status != IFA_OK) return status;
  reader r = {bytes, start, data_at, message};
  status = take_header(&r, &h);
  if (status != IFA_OK) return status;
  file->entries = calloc(1, sizeof *file->entries);
  if (!file->entries) return ifa_fail(message, IFA_OUT_OF_MEMORY, "no memory for a tensor");
  file->count = 1;
  ifa_tensor_entry *entry = &file->entries[0];
  status = describe(&h, length - data_at, entry, &big_endian, message);
  if (status != IFA_OK) return status;
  entry->tensor.name = entry->name = ifa_copy_string("");
  if (!entry->name) return ifa_fail(message, IFA_OUT_OF_MEMORY, "no memory for a tensor's name");
  return ifa_tensor_load(entry, bytes + data_at, big_endian, message);
}

/* ---- writing ---- */

/* Longest: 10 bytes, 60 characters of words, 8 dimensions of at most 19 digits and two more = 238;
 * padded, 256. */
#define HEADER_ROOM 320

/* Magic, version, length and header at `text`; returns how many bytes: a multiple of 64, so that
 * the data is aligned. */
static size_t print_header(const ifa_tensor *tensor, const char *descr, char *text) {
  memcpy(text, "\x93NUMPY\x01\x00", 8);
  size_t at = 10;
  at += (size_t)snprintf(text + at, HEADER_ROOM - at,
                         "{'descr': '%s', 'fortran_order': False, 'shape': (", descr);
  for (int i = 0; i < tensor->rank; i++) {
    const char *separator = tensor->rank == 1 ? "," : i + 1 < tensor->rank ? ", " : "";
    at +=
        (size_t)snprintf(text + at, HEADER_ROOM - at, "%" PRId64 "%s", tensor->shape[i], separator);
  }
  at += (size_t)snprintf(text + at, HEADER_ROOM - at, "), }");
  while (at % 64 != 63) text[at++] = ' ';
  text[at++] = '\n';
  text[8] = (char)((at - 10) & 255);
  text[9] = (char)((at - 10) >> 8);
  return at;
}

ifa_status ifa_npy_write(const char *path, const ifa_tensor *tensor, ifa_message *message) {
  char text[HEADER_ROOM];
  ifa_output_file output;
  if (!tensor) return ifa_fail(message, IFA_BAD_ARGUMENT, "tensor is NULL");
  ifa_status status = ifa_tensor_check(tensor, message);
  if (status != IFA_OK) return status;
  size_t i = 0;
  while (i < KNOWN_DESCR && known_descr[i].type != tensor->type) i++;
  if (i == KNOWN_DESCR)
    return ifa_fail(message, IFA_UNSUPPORTED, "npy has no %s; write safetensors instead",
                    ifa_tensor_type_name(tensor->type));
  status = ifa_output_open(&output, path, message);
  if (status != IFA_OK) return status;
  status =
      ifa_output_bytes(&output, text, print_header(tensor, known_descr[i].descr, text), message);
  if (status == IFA_OK) status = ifa_output_tensor(&output, tensor, message);
  return ifa_output_close(&output, status, message);
}
