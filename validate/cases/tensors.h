/* tensors.h - a case's arrays as named tensors of a file. */
#ifndef IFA_VALIDATE_TENSORS_H
#define IFA_VALIDATE_TENSORS_H

#include "files/tensor_file.h"
#include "validate/cases/data.h"

enum { MAX_TENSORS = 16 };

/* Tensors to be written, and the copies that some of them needed. */
typedef struct tensor_set {
  ifa_tensor list[MAX_TENSORS];
  size_t count;
  void *owned[MAX_TENSORS];
  size_t owned_count;
} tensor_set;

void tensor_set_free(tensor_set *set);

/* q, k, v as F32. */
void tensor_set_add_floats(tensor_set *set, const ifa_data *data);

/* q_int, k_int, v_int (I8, dense; INT4 unpacked, one to a byte), q_scale, k_scale, v_scale
 * [B,H,groups], v_channel_scale. */
ifa_status tensor_set_add_quantized(tensor_set *set, const ifa_data *data, ifa_message *message);

/* o [B,Hq,Nq,D] of the problem's output type and, if not NULL, lse [B,Hq,Nq]. `o` is dense. */
void tensor_set_add_output(tensor_set *set, const ifa_problem *p, const void *o, const float *lse);

#endif
