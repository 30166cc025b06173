/* floats.h - float tensors for ifa_cuda_attention: drawn from a seed, the oracle's answer, and the
 * same on the device. */
#ifndef IFA_GPU_TESTS_FLOATS_H
#define IFA_GPU_TESTS_FLOATS_H

#include "gpu/tests/attention.h"

/* Float tensors of an ifa_cuda_attention call on the host; strides in args.problem. */
struct Floats {
  ifa_cuda_attention_args args; /* pointers NULL */
  std::vector<uint8_t> q, k, v;
  int shift = 0; /* elements in, each tensor begins: not a multiple of 16 bytes */
  size_t offset() const { return (size_t)shift * ifa_type_bytes(args.type); }
};

static inline std::vector<uint8_t> draw_floats(const Floats &f, ifa_strides s, int64_t heads,
                                               int64_t tokens, uint64_t seed, int number) {
  const ifa_problem &p = f.args.problem;
  /* gaps are NaN */
  std::vector<uint8_t> data(
      f.offset() + (size_t)ifa_extent_bytes(f.args.type, s, p.batch, heads, tokens, p.head_dim) +
          GUARD,
      0xff);
  for (int64_t row = 0; row < p.batch * heads * tokens; row++)
    for (int64_t d = 0; d < p.head_dim; d++) {
      float x = 2.0f * ifa_random_normal(seed, (uint64_t)(RANDOM_VALUES + number),
                                         (uint64_t)(row * p.head_dim + d));
      if (number == 1 && d % 7 == 3) x += 10.0f; /* what the mean of K is removed for */
      if (row % 23 == 5) x = 0.0f;
      ifa_float_set(f.args.type, data.data() + f.offset(),
                    ifa_offset(s, row / tokens / heads, row / tokens % heads, row % tokens) + d, x);
    }
  return data;
}

static inline void draw(Floats *f, uint64_t seed) {
  ifa_problem p = f->args.problem;
  /* zero strides become those of the float tensors: rows without padding */
  p.q_type = p.k_type = p.v_type = IFA_I8;
  p = ifa_problem_resolved(&p);
  f->q = draw_floats(*f, p.q_stride, p.q_heads, p.nq, seed, 0);
  f->k = draw_floats(*f, p.k_stride, p.kv_heads, p.nk, seed, 1);
  f->v = draw_floats(*f, p.v_stride, p.kv_heads, p.nk, seed, 2);
}

static inline void quantize_on_cpu(const Floats &f, const std::vector<uint8_t> &src,
                                   ifa_strides stride, int64_t heads, int64_t tokens, ifa_type type,
                                   ifa_granularity granularity, int32_t block, int mean,
                                   std::vector<uint8_t> *dst, std::vector<float> *scale,
                                   std::vector<float> *channel_scale) {
  ifa_quantize_args a = {};
  a.src = src.data() + f.offset();
  a.src_type = f.args.type;
  a.src_stride = stride;
  a.batch = f.args.problem.batch;
  a.heads = heads;
  a.tokens = tokens;
  a.head_dim = f.args.problem.head_dim;
  a.dst_type = type;
  a.granularity = granularity;
  a.block = block;
  a.subtract_mean = mean;
  dst->resize((size_t)(a.batch * heads * tokens * (a.head_dim + 1)) + 1);
  scale->resize((size_t)ifa_scale_count(granularity, a.batch, heads, tokens, a.head_dim, block) +
                1);
  channel_scale->resize((size_t)(a.batch * heads * a.head_dim));
  a.dst = dst->data();
  a.scale = scale->data();
  a.channel_scale = channel_scale->data();
  ifa_message why = {};
  require(ifa_quantize(&a, &why), why, "quantize");
}

/* The definition: three quantizers, one run. */
static inline Output expected_of(const Floats &f) {
  Tensors t;
  std::vector<float> unused;
  const ifa_problem &p = f.args.problem;
  t.p = p;
  t.p.q_stride = t.p.k_stride = t.p.v_stride = ifa_strides{0, 0, 0};
  t.p = ifa_problem_resolved(&t.p);
  quantize_on_cpu(f, f.q, p.q_stride, p.q_heads, p.nq, p.q_type, p.q_scale, p.q_block, 0, &t.q,
                  &t.q_scale, &unused);
  quantize_on_cpu(f, f.k, p.k_stride, p.kv_heads, p.nk, p.k_type, p.k_scale, p.k_block,
                  f.args.subtract_k_mean, &t.k, &t.k_scale, &unused);
  quantize_on_cpu(f, f.v, p.v_stride, p.kv_heads, p.nk, p.v_type, p.v_scale, 0, 0, &t.v, &t.v_scale,
                  &t.v_channel_scale);
  return expected_of(t.p, t.inputs());
}

/* On the device, ready to be called. */
struct FloatsDevice {
  Block q, k, v, workspace;
  size_t workspace_bytes = 0;
  DeviceOutput out;
  ifa_cuda_attention_args args;

  FloatsDevice(const Floats &f, cudaStream_t stream)
      : q(f.q.size()), k(f.k.size()), v(f.v.size()), out(ifa_problem_resolved(&f.args.problem)),
        args(f.args) {
    ifa_message why = {};
    require(ifa_cuda_attention_workspace_bytes(&args, &workspace_bytes, &why), why, "workspace");
    workspace = Block(workspace_bytes + GUARD);
    must(cudaMemsetAsync(workspace.data, POISON, workspace.bytes, stream), "memset");
    out.poison(stream);
    load(f, stream);
    args.q = q.data + f.offset();
    args.k = k.data + f.offset();
    args.v = v.data + f.offset();
    args.o = out.o.data;
    args.lse = args.problem.lse ? (float *)out.lse.data : NULL;
  }
  void load(const Floats &f, cudaStream_t stream) const {
    send(q, f.q, stream);
    send(k, f.k, stream);
    send(v, f.v, stream);
  }
  ifa_status call(cudaStream_t stream, ifa_message *why) const {
    return ifa_cuda_attention(&args, workspace.data, workspace_bytes, stream, why);
  }
  bool guard_whole(cudaStream_t stream) const {
    std::vector<uint8_t> guard(GUARD);
    must(cudaMemcpyAsync(guard.data(), workspace.data + workspace_bytes, GUARD,
                         cudaMemcpyDeviceToHost, stream),
         "copy guard");
    must(cudaStreamSynchronize(stream), "kernels");
    return std::all_of(guard.begin(), guard.end(), [](uint8_t byte) { return byte == POISON; });
  }
};

static inline ifa_strides floats_layout(int kind, int64_t heads, int64_t tokens, int64_t head_dim) {
  if (kind == 0) return ifa_strides{0, 0, 0};
  if (kind == 1) return ifa_strides_bnhd(IFA_F16, heads, tokens, head_dim);
  /* gaps: odd, and of whole 16 bytes */
  int64_t row = kind == 2 ? head_dim + 3 : (head_dim + 7) / 8 * 8 + 8;
  return ifa_strides{heads * tokens * row + row, tokens * row, row};
}

static inline std::string text_of(const Floats &f) {
  static const char *const types[] = {"f32", "f16", "bf16"};
  return std::string("from ") + types[f.args.type] +
         (f.args.subtract_k_mean ? ", K less its mean" : "") + (f.shift ? ", shifted: " : ": ") +
         text_of(f.args.problem);
}

/* Case `number` of every type, format and scale choice; the rest follows from the number. */
static inline Floats floats_case(int number, ifa_type type, ifa_type qk, ifa_type v,
                                 ifa_granularity q_scale, ifa_granularity k_scale,
                                 ifa_granularity v_scale) {
  static const int dims[] = {64, 128, 32, 96, 40, 192, 256, 17, 80, 1};
  static const ifa_type outs[] = {IFA_F16, IFA_BF16, IFA_F32};
  static const int32_t taus[] = {4, 2, 0, IFA_TAU_INF};
  int64_t batch = 1 + number % 2, q_heads = number % 3 == 0 ? 4 : 2,
          kv_heads = number % 3 == 1 ? 1 : 2;
  Floats f;
  f.args = number % 2 ? ifa_cuda_attention_accurate(batch, q_heads, kv_heads, 1 + number * 7 % 90,
                                                    1 + number * 13 % 200, dims[number % 10])
                      : ifa_cuda_attention_fast(batch, q_heads, kv_heads, 1 + number * 7 % 90,
                                                1 + number * 13 % 200, dims[number % 10]);
  ifa_problem *p = &f.args.problem;
  f.args.type = type, f.args.subtract_k_mean = number / 2 % 2;
  p->q_type = p->k_type = qk, p->v_type = v;
  p->q_scale = q_scale;
  p->k_scale = k_scale;
  p->v_scale = v_scale;
  p->q_block = 5 + number % 40, p->k_block = 64 + 64 * (number % 2);
  p->causal = number / 3 % 2;
  p->window = number % 7 == 0 ? 50 : 0;
  p->tau = taus[number % 4];
  p->lse = number / 5 % 2;
  p->out_type = outs[number % 3];
  p->q_stride = floats_layout(number % 4, q_heads, p->nq, p->head_dim);
  p->k_stride = floats_layout(number / 4 % 4, kv_heads, p->nk, p->head_dim);
  p->v_stride = floats_layout(number / 16 % 4, kv_heads, p->nk, p->head_dim);
  p->o_stride = floats_layout(number / 2 % 4, q_heads, p->nq, p->head_dim);
  f.shift = number % 6 == 0;
  draw(&f, (uint64_t)number);
  return f;
}

#endif
