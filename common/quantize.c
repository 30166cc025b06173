/* quantize.c - what is asked of the arguments of ifa_quantize. */
#include "common/quantize.h"

#include <inttypes.h>
#include <math.h>

#include "common/contract.h"
#include "common/inputs.h"
#include "common/operand.h"
#include "common/problem.h"

static ifa_status check_args(const ifa_quantize_args *a, ifa_message *message) {
  ifa_status status;
  if (!a) return ifa_fail(message, IFA_BAD_ARGUMENT, "args is NULL");
  if ((status = ifa_check_range("batch", a->batch, 0, 65535, message)) != IFA_OK) return status;
  if ((status = ifa_check_range("heads", a->heads, 0, 65535, message)) != IFA_OK) return status;
  if ((status = ifa_check_range("tokens", a->tokens, 0, IFA_MAX_TOKENS, message)) != IFA_OK)
    return status;
  if ((status = ifa_check_range("head_dim", a->head_dim, 1, IFA_MAX_HEAD_DIM, message)) != IFA_OK)
    return status;
  if ((status = ifa_check_type("src_type", a->src_type, IFA_F32, IFA_BF16, message)) != IFA_OK)
    return status;
  if ((status = ifa_check_type("dst_type", a->dst_type, IFA_I8, IFA_I4, message)) != IFA_OK)
    return status;
  if ((status = ifa_check_granularity("granularity", a->granularity, message)) != IFA_OK)
    return status;
  if ((status = ifa_check_range("subtract_mean", a->subtract_mean, 0, 1, message)) != IFA_OK)
    return status;
  if (a->granularity == IFA_SCALE_BLOCK &&
      (status = ifa_check_range("block", a->block, 1, IFA_MAX_TOKENS, message)) != IFA_OK)
    return status;
  if (ifa_check_strides("src_stride", a->src_type, a->src_stride, a->batch, a->heads, a->tokens,
                        a->head_dim, 0, message) != IFA_OK ||
      ifa_check_strides("dst_stride", a->dst_type, a->dst_stride, a->batch, a->heads, a->tokens,
                        a->head_dim, 1, message) != IFA_OK)
    return IFA_BAD_ARGUMENT; /* here the strides are not a problem's */
  if (a->batch * a->heads == 0) return IFA_OK;
  if (!a->src && a->tokens) return ifa_fail(message, IFA_BAD_ARGUMENT, "src is NULL");
  if (!a->dst && a->tokens) return ifa_fail(message, IFA_BAD_ARGUMENT, "dst is NULL");
  if (!a->scale && ifa_scale_count(a->granularity, 1, 1, a->tokens, a->head_dim, a->block))
    return ifa_fail(message, IFA_BAD_ARGUMENT, "scale is NULL");
  if (!a->channel_scale && a->granularity == IFA_SCALE_TOKEN_CHANNEL)
    return ifa_fail(message, IFA_BAD_ARGUMENT, "channel_scale is NULL");
  return IFA_OK;
}

ifa_status ifa_quantize_check(const ifa_quantize_args *args, ifa_quantize_args *resolved,
                              ifa_message *message) {
  ifa_status status = check_args(args, message);
  if (status != IFA_OK) return status;
  ifa_quantize_args *a = resolved;
  *a = *args;
  if (a->src_stride.batch == 0 && a->src_stride.head == 0 && a->src_stride.token == 0)
    a->src_stride = ifa_strides_bhnd(a->src_type, a->heads, a->tokens, a->head_dim);
  if (a->dst_stride.batch == 0 && a->dst_stride.head == 0 && a->dst_stride.token == 0)
    a->dst_stride = ifa_strides_bhnd(a->dst_type, a->heads, a->tokens, a->head_dim);
  return IFA_OK;
}

ifa_status ifa_quantize_check_elements(const char *name, const ifa_quantize_args *a, int64_t batch,
                                       int64_t head, ifa_message *message) {
  for (int64_t t = 0; t < a->tokens; t++)
    for (int64_t d = 0; d < a->head_dim; d++) {
      float x = ifa_float_get(a->src_type, a->src, ifa_offset(a->src_stride, batch, head, t) + d);
      if (!(fabsf(x) <= IFA_HUGE_ELEMENT))
        return ifa_fail(message, IFA_BAD_DATA,
                        "%s[%" PRId64 "][%" PRId64 "][%" PRId64 "][%" PRId64
                        "] is %g; elements must be finite and at most 2^99",
                        name, batch, head, t, d, (double)x);
    }
  return IFA_OK;
}
