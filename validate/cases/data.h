/* data.h - a case made real: float tensors from a fill or a file, and the quantized operands that
 * every backend is given. */
#ifndef IFA_VALIDATE_DATA_H
#define IFA_VALIDATE_DATA_H

#include "files/tensor_file.h"
#include "validate/cases/case.h"

typedef struct ifa_data {
  ifa_case c;                  /* with the sizes of its input file, if it has one */
  ifa_problem p;               /* resolved: strides and kv_split written out */
  float *q, *k, *v;            /* dense [B,Hq,Nq,D], [B,Hkv,Nk,D]; NULL once dropped */
  void *q_int, *k_int, *v_int; /* by the problem's strides */
  float *q_scale, *k_scale, *v_scale, *v_channel_scale;
  int64_t *rows;     /* NULL: all */
  int64_t row_count; /* computed rows, also when rows is NULL */
} ifa_data;

/* Floats and quantized operands. data is to be freed by ifa_data_free in every case. Fails with the
 * library's status for an invalid problem, IFA_BAD_FILE and the like for an input file,
 * IFA_OUT_OF_MEMORY. */
ifa_status ifa_data_make(const ifa_case *c, ifa_data *data, ifa_message *message);
void ifa_data_free(ifa_data *data);

ifa_inputs ifa_data_inputs(const ifa_data *data);

/* Quantizes data->q, k, v anew into the operands that the problem asks for (used by ifa_data_make).
 */
ifa_status ifa_data_quantize(ifa_data *data, ifa_message *message);

/* A library's own real tensors: the folder, or NULL. */
extern const char *ifa_data_real_folder;

/* Where `input=NAME` lies, to be freed: a path if it has a '/' or '.', else NAME.safetensors in
 * $IFA_REAL_DIR, or ifa_data_real_folder, or where an installed program has its tensors, or
 * data/real of this project. NULL: no memory. */
char *ifa_data_path(const char *input);

/* The tensors of a file that attention reads (q, k, v, their integers and scales; the others are
 * left out). The file that was read last is kept, so that it is read once for many cases, and is
 * read again when it has changed; *file stays until the next call or ifa_data_forget_file. Not for
 * several threads (ifa_data_make is). */
ifa_status ifa_data_open(const char *path, const ifa_tensor_file **file, ifa_message *message);
void ifa_data_forget_file(void);

/* A failure's message with the path: in place of what ifa_quote makes of it, which has '?' for what
 * is not ASCII, or in front of a message that does not have it. Returns the status. */
ifa_status ifa_data_name_file(ifa_status status, const char *path, ifa_message *message);

#endif
