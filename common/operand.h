/* operand.h - reading and writing INT8 and INT4 tensors by element index, and a problem's strides
 * resolved. C and CUDA. */
#ifndef IFA_COMMON_OPERAND_H
#define IFA_COMMON_OPERAND_H

#include "common/half.h"
#include "ifa.h"

/* INT4: element i is in byte i/2, the even one in the low nibble, two's complement. */
IFA_FN int32_t ifa_int4_get(const void *data, int64_t index) {
  uint32_t nibble = (uint32_t)(((const uint8_t *)data)[index >> 1] >> (index & 1 ? 4 : 0)) & 15u;
  return (int32_t)(nibble ^ 8u) - 8;
}

/* value in -8..7; the other nibble of the byte is kept. */
IFA_FN void ifa_int4_set(void *data, int64_t index, int32_t value) {
  uint8_t *byte = (uint8_t *)data + (index >> 1);
  int shift = index & 1 ? 4 : 0;
  *byte = (uint8_t)((*byte & ~(15 << shift)) | ((value & 15) << shift));
}

IFA_FN int32_t ifa_operand_get(ifa_type type, const void *data, int64_t index) {
  return type == IFA_I4 ? ifa_int4_get(data, index) : ((const int8_t *)data)[index];
}

IFA_FN void ifa_operand_set(ifa_type type, void *data, int64_t index, int32_t value) {
  if (type == IFA_I4) ifa_int4_set(data, index, value);
  else ((int8_t *)data)[index] = (int8_t)value;
}

/* Element offset of (batch, head, token, 0). */
IFA_FN int64_t ifa_offset(ifa_strides s, int64_t batch, int64_t head, int64_t token) {
  return batch * s.batch + head * s.head + token * s.token;
}

/* A float of any type by element index. */
IFA_FN float ifa_float_get(ifa_type type, const void *data, int64_t index) {
  if (type == IFA_F32) return ((const float *)data)[index];
  uint16_t half = ((const uint16_t *)data)[index];
  return type == IFA_F16 ? ifa_f16_to_f32(half) : ifa_bf16_to_f32(half);
}

/* Rounds once to the type. */
IFA_FN void ifa_float_set(ifa_type type, void *data, int64_t index, float value) {
  if (type == IFA_F32) ((float *)data)[index] = value;
  else ((uint16_t *)data)[index] = type == IFA_F16 ? ifa_f32_to_f16(value) : ifa_f32_to_bf16(value);
}

#endif
