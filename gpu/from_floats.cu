/* from_floats.cu - ifa_cuda_attention: float tensors in, float tensors out. Three calls of the
 * quantizers into the workspace, one of the attention on what they wrote; everything is checked
 * before the first of them. Nothing here allocates or synchronizes.
 *
 * K goes into the attention kernel's blocks at once (gpu/packed.h), and V too if it is f16 or bf16.
 * The workspace, each part at a multiple of 256 bytes:
 *
 *     q, and v if it is f32       INT8 or INT4, dense [batch, head, token] rows padded to whole 16
 *                                 bytes, so that every row can be read in words
 *     scales of q, k, v           as at ifa_granularity; V's channels too when it is scaled per
 *                                 token and channel
 *     of the attention            with the blocks
 *     of the quantizers           for one call after the other: stream order keeps them apart */
#include <cuda_runtime.h>
#include <math.h>

extern "C" {
#include "common/message.h"
#include "common/problem.h"
}
#include "gpu/device_pointer.h"
#include "gpu/packed.h"

/* ---- defaults ---- */

extern "C" ifa_cuda_attention_args ifa_cuda_attention_fast(int64_t batch, int64_t q_heads,
                                                           int64_t kv_heads, int64_t nq, int64_t nk,
                                                           int32_t head_dim) {
  ifa_cuda_attention_args a = {};
  a.problem = ifa_problem_default();
  a.problem.batch = batch;
  a.problem.q_heads = q_heads;
  a.problem.kv_heads = kv_heads;
  a.problem.nq = nq;
  a.problem.nk = nk;
  a.problem.head_dim = head_dim;
  /* a head_dim that is none is refused later */
  a.problem.sm_scale = head_dim > 0 ? 1.0f / sqrtf((float)head_dim) : 0.0f;
  a.problem.tau = 4;
  a.problem.out_type = a.type = IFA_F16;
  return a;
}

extern "C" ifa_cuda_attention_args ifa_cuda_attention_accurate(int64_t batch, int64_t q_heads,
                                                               int64_t kv_heads, int64_t nq,
                                                               int64_t nk, int32_t head_dim) {
  ifa_cuda_attention_args a = ifa_cuda_attention_fast(batch, q_heads, kv_heads, nq, nk, head_dim);
  a.problem.v_scale = IFA_SCALE_TOKEN;
  a.subtract_k_mean = 1;
  return a;
}

/* ---- the plan: what is called with what ---- */

typedef struct call_plan {
  ifa_problem problem; /* of ifa_cuda_attend: strides of the quantized tensors */
  ifa_quantize_args q, k, v;
  int parts; /* of the attention: what the quantizers leave to it */
  uint8_t *attention, *scratch;
  size_t attention_bytes, scratch_bytes, bytes; /* bytes: of the whole workspace */
} call_plan;

/* Parts of the workspace, one after the other; from NULL only their size is of use. */
typedef struct parts {
  uint8_t *base;
  size_t used;
} parts;

static void *take(parts *w, int64_t bytes) {
  uint8_t *at = w->base ? w->base + w->used : NULL;
  w->used += ((size_t)bytes + 255) / 256 * 256;
  return at;
}

/* Dense rows of whole 16 bytes. */
static ifa_strides padded_strides(ifa_type type, int64_t heads, int64_t tokens, int64_t head_dim) {
  int64_t unit = type == IFA_I4 ? 32 : 16, row = ifa_ceil_div(head_dim, unit) * unit;
  return ifa_strides{heads * tokens * row, tokens * row, row};
}

static ifa_quantize_args quantize_args(const ifa_cuda_attention_args *a, const void *src,
                                       ifa_strides src_stride, int64_t heads, int64_t tokens,
                                       ifa_type type, ifa_granularity granularity, int32_t block,
                                       bool to_rows, parts *w) {
  ifa_quantize_args c = {};
  c.src = src;
  c.src_type = a->type;
  c.src_stride = src_stride;
  c.batch = a->problem.batch;
  c.heads = heads;
  c.tokens = tokens;
  c.head_dim = a->problem.head_dim;
  c.dst_type = type, c.dst_stride = padded_strides(type, heads, tokens, c.head_dim);
  c.granularity = granularity, c.block = block;
  if (to_rows)
    c.dst =
        take(w, ifa_extent_bytes(type, c.dst_stride, c.batch, heads, tokens, c.dst_stride.token));
  c.scale =
      (float *)take(w, 4 * ifa_scale_count(granularity, c.batch, heads, tokens, c.head_dim, block));
  if (granularity == IFA_SCALE_TOKEN_CHANNEL)
    c.channel_scale = (float *)take(w, 4 * c.batch * heads * c.head_dim);
  return c;
}

/* Raises *most to what quantizing this tensor needs; its name goes before what is wrong with it. */
static ifa_status quantizer_scratch(const char *name, const ifa_quantize_args *args, size_t *most,
                                    ifa_message *message) {
  size_t bytes = 0;
  ifa_message why = {};
  ifa_status status = ifa_cuda_quantize_workspace_bytes(args, &bytes, &why);
  if (status != IFA_OK) return ifa_fail(message, status, "%s: %.300s", name, why.text);
  if (bytes > *most) *most = bytes;
  return IFA_OK;
}

/* Everything but the pointers is checked here. */
static ifa_status make_plan(const ifa_cuda_attention_args *a, void *workspace, call_plan *plan,
                            ifa_message *message) {
  if (!a) return ifa_fail(message, IFA_BAD_ARGUMENT, "args is NULL");
  if (a->type != IFA_F16 && a->type != IFA_BF16 && a->type != IFA_F32)
    return ifa_fail(message, IFA_BAD_ARGUMENT, "type is %d; it must be f16, bf16 or f32",
                    (int)a->type);
  if (a->subtract_k_mean != 0 && a->subtract_k_mean != 1)
    return ifa_fail(message, IFA_BAD_ARGUMENT, "subtract_k_mean is %d; it must be 0 or 1",
                    (int)a->subtract_k_mean);
  ifa_problem p = a->problem;
  p.q_stride = p.k_stride = p.v_stride = ifa_strides{0, 0, 0};
  ifa_status status = ifa_cuda_supports(&p, message);
  if (status != IFA_OK) return status;

  parts w = {(uint8_t *)workspace, 0};
  const bool v_to_rows = a->type == IFA_F32;
  plan->parts = IFA_GPU_PACK_SCALES | IFA_GPU_ATTEND | (v_to_rows ? IFA_GPU_PACK_V : 0);
  plan->q = quantize_args(a, a->q, a->problem.q_stride, p.q_heads, p.nq, p.q_type, p.q_scale,
                          p.q_block, true, &w);
  plan->k = quantize_args(a, a->k, a->problem.k_stride, p.kv_heads, p.nk, p.k_type, p.k_scale,
                          p.k_block, false, &w);
  plan->v = quantize_args(a, a->v, a->problem.v_stride, p.kv_heads, p.nk, p.v_type, p.v_scale, 0,
                          v_to_rows, &w);
  plan->k.subtract_mean = a->subtract_k_mean;
  p.q_stride = plan->q.dst_stride;
  p.k_stride = plan->k.dst_stride;
  p.v_stride = plan->v.dst_stride;
  plan->problem = p;

  size_t scratch = 0;
  if ((status = ifa_cuda_workspace_bytes(&p, &plan->attention_bytes, message)) != IFA_OK)
    return status;
  plan->attention = (uint8_t *)take(&w, (int64_t)plan->attention_bytes);
  if ((status = quantizer_scratch("q", &plan->q, &scratch, message)) != IFA_OK) return status;
  if ((status = quantizer_scratch("k", &plan->k, &scratch, message)) != IFA_OK) return status;
  if ((status = quantizer_scratch("v", &plan->v, &scratch, message)) != IFA_OK) return status;
  plan->scratch_bytes = scratch;
  plan->scratch = (uint8_t *)take(&w, (int64_t)scratch);
  plan->bytes = w.used;
  return IFA_OK;
}

/* ---- the call ---- */

static ifa_status check_pointers(const ifa_cuda_attention_args *a, void *workspace,
                                 ifa_message *message) {
  const ifa_problem *p = &a->problem;
  const struct {
    const char *name;
    const void *pointer;
    bool needed;
    size_t alignment;
  } list[] = {{"q", a->q, true, ifa_type_bytes(a->type)},
              {"k", a->k, p->nk > 0, ifa_type_bytes(a->type)},
              {"v", a->v, p->nk > 0, ifa_type_bytes(a->type)},
              {"o", a->o, true, ifa_type_bytes(p->out_type)},
              {"lse", a->lse, p->lse != 0, sizeof(float)},
              {"workspace", workspace, true, 256}};
  if (a->lse && !p->lse)
    return ifa_fail(message, IFA_BAD_ARGUMENT, "lse is given but problem.lse is 0");
  for (const auto &entry : list) {
    ifa_status status =
        entry.needed ? ifa_gpu_check_pointer(entry.name, entry.pointer, entry.alignment, message)
                     : IFA_OK;
    if (status != IFA_OK) return status;
  }
  return IFA_OK;
}

extern "C" ifa_status ifa_cuda_attention_workspace_bytes(const ifa_cuda_attention_args *args,
                                                         size_t *bytes, ifa_message *message) {
  call_plan plan;
  ifa_status status = make_plan(args, NULL, &plan, message);
  if (status != IFA_OK) return status;
  if (!bytes) return ifa_fail(message, IFA_BAD_ARGUMENT, "bytes is NULL");
  *bytes = plan.bytes;
  return ifa_succeed(message);
}

extern "C" ifa_status ifa_cuda_attention(const ifa_cuda_attention_args *args, void *workspace,
                                         size_t workspace_bytes, void *stream,
                                         ifa_message *message) {
  call_plan plan;
  ifa_status status = make_plan(args, workspace, &plan, message);
  ifa_gpu_kernel kernel;
  if (status == IFA_OK) status = ifa_gpu_choose(IFA_GPU_CHOOSE, &plan.problem, &kernel, message);
  if (status != IFA_OK) return status;
  if (plan.problem.nq == 0) return ifa_succeed(message);
  if ((status = check_pointers(args, workspace, message)) != IFA_OK) return status;
  if (workspace_bytes < plan.bytes)
    return ifa_fail(message, IFA_BAD_ARGUMENT, "workspace_bytes is %zu; %zu are needed",
                    workspace_bytes, plan.bytes);

  ifa_inputs in = {};
  in.q = plan.q.dst;
  in.k = plan.k.dst;
  in.v = plan.v.dst;
  in.q_scale = plan.q.scale;
  in.k_scale = plan.k.scale;
  in.v_scale = plan.v.scale;
  in.v_channel_scale = plan.v.channel_scale;
  ifa_outputs out = {};
  out.o = args->o;
  out.lse = args->lse;
  const ifa_gpu_blocks blocks = ifa_gpu_blocks_of(kernel, &plan.problem, plan.attention);
  const struct {
    const ifa_quantize_args *args;
    ifa_gpu_destination to;
  } tensors[] = {{&plan.q, IFA_GPU_ROWS},
                 {&plan.k, IFA_GPU_K_BLOCKS},
                 {&plan.v, plan.parts & IFA_GPU_PACK_V ? IFA_GPU_ROWS : IFA_GPU_V_BLOCKS}};
  for (const auto &t : tensors) {
    status =
        ifa_gpu_quantize_to_blocks(t.args, t.to, t.to == IFA_GPU_ROWS ? ifa_gpu_blocks{} : blocks,
                                   plan.scratch, plan.scratch_bytes, stream, message);
    if (status != IFA_OK) return status;
  }
  return ifa_gpu_attend(plan.parts, kernel, &plan.problem, &in, &out, plan.attention,
                        plan.attention_bytes, stream, message);
}
