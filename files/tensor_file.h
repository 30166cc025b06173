/* tensor_file.h - reads and writes tensors: safetensors (several named tensors and string metadata)
 * and NumPy .npy (one).
 *
 *     ifa_tensor_file *file;
 *     const ifa_tensor *q;
 *     if (ifa_tensor_file_read("layer0.safetensors", &file, &why) != IFA_OK) ...
 *     if (ifa_tensor_file_find(file, "q", &q, &why) != IFA_OK) ...      // q->shape, (const float
 *       *)q->data
 *     ifa_tensor_file_free(file);
 *
 * Elements are in the host's byte order in memory and little-endian in every file written. Files
 * are not trusted: a file is accepted only if its header describes every one of its bytes exactly
 * once. Reading needs at most a fixed multiple of the file's size in memory. All functions are
 * reentrant; a file that has been read may be used by several threads at once. */
#ifndef IFA_COMMON_TENSOR_FILE_H
#define IFA_COMMON_TENSOR_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "ifa.h"

#define IFA_TENSOR_MAX_RANK 8

typedef enum ifa_tensor_type {
  IFA_TENSOR_F32 = 0,
  IFA_TENSOR_F16,  /* uint16_t in memory */
  IFA_TENSOR_BF16, /* uint16_t in memory; safetensors only */
  IFA_TENSOR_I8,
  IFA_TENSOR_U8
} ifa_tensor_type;

/* "f32", "f16", ... ; "unknown type" outside the enum. Bytes per element: 4, 2, 2, 1, 1; 0 outside.
 * Never fail. */
const char *ifa_tensor_type_name(ifa_tensor_type type);
size_t ifa_tensor_type_bytes(ifa_tensor_type type);

/* A dense row-major tensor. The product of the dimensions that are not 0, times an element's bits,
 * fits int64_t and size_t. */
typedef struct ifa_tensor {
  const char *name; /* UTF-8, never NULL when read; "" in an .npy file. ifa_npy_write ignores it */
  ifa_tensor_type type;
  int rank;                           /* 0 .. IFA_TENSOR_MAX_RANK; 0 is a scalar: one element */
  int64_t shape[IFA_TENSOR_MAX_RANK]; /* shape[0 .. rank-1], each 0 or more */
  /* when read: aligned for any type, never NULL, lives as long as the file */
  const void *data;
  size_t bytes; /* elements * ifa_tensor_type_bytes(type) */
} ifa_tensor;

/* An entry of a safetensors file's __metadata__; both UTF-8, ended by a NUL and without another. */
typedef struct ifa_metadata {
  const char *key, *value;
} ifa_metadata;

typedef enum ifa_tensor_format { IFA_SAFETENSORS = 0, IFA_NPY } ifa_tensor_format;

typedef struct ifa_tensor_file ifa_tensor_file;

/* ---- reading ---- */

/* Reads a whole regular file; the path's ending (.safetensors or .npy) decides the format, any
 * other ending leaves it to the first bytes. On success *file is to be freed; on failure it is
 * NULL. IFA_IO: cannot be opened or read. IFA_BAD_FILE: not a regular file (never waits on a pipe),
 * changes its size meanwhile, malformed, or does not describe exactly its bytes. IFA_UNSUPPORTED:
 * an .npy file in Fortran order or of a type not listed above (in safetensors, such a type matters
 * only when the tensor is asked for). IFA_OUT_OF_MEMORY; memory that jansson lacks inside a header
 * can also show as IFA_BAD_FILE. IFA_NOT_AVAILABLE: safetensors in a build with IFA_NO_JANSSON. */
ifa_status ifa_tensor_file_read(const char *path, ifa_tensor_file **file, ifa_message *message);

/* The same, but of the tensors' data only that of `names` is read and kept (of an .npy file all);
 * ifa_tensor_file_find refuses the others with IFA_BAD_ARGUMENT. The header is checked whole. */
ifa_status ifa_tensor_file_read_named(const char *path, const char *const *names, size_t count,
                                      ifa_tensor_file **file, ifa_message *message);

/* The same for `length` bytes in memory, which are copied. */
ifa_status ifa_tensor_file_parse(const void *bytes, size_t length, ifa_tensor_format format,
                                 ifa_tensor_file **file, ifa_message *message);

/* NULL is allowed. */
void ifa_tensor_file_free(ifa_tensor_file *file);

/* Tensors in the order of their data, of supported and other types. Name of an index: NULL outside
 * 0 .. count-1. */
size_t ifa_tensor_file_count(const ifa_tensor_file *file);
const char *ifa_tensor_file_name(const ifa_tensor_file *file, size_t index);

/* The tensor of that name ("" in an .npy file). IFA_BAD_ARGUMENT: there is none. IFA_UNSUPPORTED:
 * its element type, which the message names, is not in ifa_tensor_type. *tensor is NULL on failure.
 */
ifa_status ifa_tensor_file_find(const ifa_tensor_file *file, const char *name,
                                const ifa_tensor **tensor, ifa_message *message);

/* The value of a key of __metadata__, or NULL. Entries by number: NULL from the first index past
 * the last. */
const char *ifa_tensor_file_metadata(const ifa_tensor_file *file, const char *key);
const ifa_metadata *ifa_tensor_file_metadata_at(const ifa_tensor_file *file, size_t index);

/* ---- writing ---- */

/* Both write <path>.tmp<k> (k: the first of 0 .. 99 that does not exist) and rename it to `path`
 * once every byte is written, so `path` holds its old contents or all of the new; on failure the
 * temporary is removed. An existing `path` must be a regular file (a link to one is replaced).
 * Nothing is forced to disk. IFA_BAD_ARGUMENT: a tensor or key that cannot be written, named in the
 * message. IFA_IO, IFA_OUT_OF_MEMORY. */

/* The bytes depend on the set of tensors and metadata, not on their order: tensors go by type (f32,
 * bf16, f16, i8, u8) and then by name, keys by name, both compared byte by byte; so each tensor is
 * aligned to its element. `metadata` may be NULL if metadata_count is 0. These are the bytes that
 * the safetensors package writes, if it is given sorted metadata. */
ifa_status ifa_safetensors_write(const char *path, const ifa_tensor *tensors, size_t count,
                                 const ifa_metadata *metadata, size_t metadata_count,
                                 ifa_message *message);

/* Version 1.0, header padded to a multiple of 64 bytes. IFA_UNSUPPORTED: bf16, which .npy lacks. */
ifa_status ifa_npy_write(const char *path, const ifa_tensor *tensor, ifa_message *message);

/* ---- shared by tensor_file.c, safetensors.c and npy.c; not for other files ---- */

typedef struct ifa_tensor_entry {
  /* data NULL: an element type that is known but not supported, or left out */
  ifa_tensor tensor;
  bool left_out;       /* supported, but not among the names that were to be read */
  char *name;          /* owned; tensor.name */
  void *data;          /* owned; tensor.data */
  const char *dtype;   /* the file's word for the type, a constant */
  uint64_t begin, end; /* place of the data in the file's data section */
} ifa_tensor_entry;

struct ifa_tensor_file {
  char *path; /* owned; NULL when parsed from memory */
  ifa_tensor_entry *entries;
  size_t count;
  ifa_metadata *metadata; /* owned, with both strings of each entry */
  size_t metadata_count;
};

/* Fill an empty *file; what they leave in it on failure is freed by the caller. */
ifa_status ifa_safetensors_parse(const uint8_t *bytes, size_t length, ifa_tensor_file *file,
                                 ifa_message *message);

/* What ifa_safetensors_parse does before it copies any data: `bytes` need only reach to the
 * header's end, `length` is the whole file's. The entries are in the order of their data, which
 * begins at *data_at and which they cover. */
ifa_status ifa_safetensors_parse_header(const uint8_t *bytes, size_t length, ifa_tensor_file *file,
                                        size_t *data_at, ifa_message *message);

/* How many bytes of a file of `length` bytes hold its header, from its first 8; 0: it has none that
 * can be read, as ifa_safetensors_parse_header will say. */
size_t ifa_safetensors_header_end(const uint8_t *bytes, size_t length);

/* Can tensors of the entry's type be read? */
bool ifa_safetensors_is_supported(const ifa_tensor_entry *entry);

ifa_status ifa_npy_parse(const uint8_t *bytes, size_t length, ifa_tensor_file *file,
                         ifa_message *message);

/* Bytes that the elements fill. False if a dimension is negative, if the product of the dimensions
 * that are not 0 times element_bits does not fit int64_t and size_t, or if the last byte would not
 * be full. element_bits: 4 .. 64. */
bool ifa_tensor_size(const int64_t *shape, int rank, int element_bits, size_t *bytes);

/* IFA_BAD_ARGUMENT unless the tensor can be written: type, rank, shape, bytes and data agree. */
ifa_status ifa_tensor_check(const ifa_tensor *tensor, ifa_message *message);

/* The elements in the host's byte order, where they lie. */
void ifa_tensor_to_host_order(ifa_tensor_entry *entry, bool big_endian);

/* Gives the entry its own copy of the elements that lie at `src` in the file's byte order, in the
 * host's. tensor.type and tensor.bytes are set. */
ifa_status ifa_tensor_load(ifa_tensor_entry *entry, const uint8_t *src, bool big_endian,
                           ifa_message *message);

/* A string made fit for a one-line message, in quotes: bytes outside ASCII's printable ones become
 * '?', a long middle "...". */
typedef struct ifa_quoted {
  char text[104];
} ifa_quoted;
ifa_quoted ifa_quote(const char *string);

/* A copy of a string, or NULL. */
char *ifa_copy_string(const char *string);

/* A file on its way to its name. After ifa_output_open succeeds, ifa_output_close must be called
 * once with the status so far: IFA_OK closes and renames, anything else removes the temporary,
 * keeps the message and returns that status. */
typedef struct ifa_output_file {
  const char *path;
  char *temporary;
  FILE *stream;
} ifa_output_file;

/* Called with a temporary's name while it exists: 1 when it has been made, 0 when it is gone, so
 * that a program can take it away when a signal ends it. NULL unless one is set. */
extern void (*ifa_output_watch)(const char *temporary, int exists);

ifa_status ifa_output_open(ifa_output_file *output, const char *path, ifa_message *message);
ifa_status ifa_output_bytes(ifa_output_file *output, const void *bytes, size_t length,
                            ifa_message *message);
ifa_status ifa_output_tensor(ifa_output_file *output, const ifa_tensor *tensor,
                             ifa_message *message);
ifa_status ifa_output_close(ifa_output_file *output, ifa_status status, ifa_message *message);

#endif
