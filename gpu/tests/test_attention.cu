/* test_attention.cu - what the GPU attention promises beyond the suites of `validate`, against the
 * CPU bit for bit.
 *
 *   test_gpu_attention [PART...]
 *
 *   refusals    every bad input: a status, a message, no CUDA error, no byte written
 *   graph       captured into a CUDA graph, replayed with other contents of the operands; a capture
 *               runs nothing
 *   repeat      the same call again and again, on dirty workspaces: the same bits
 *   time        ifa_time_on_device, for `validate bench`: a time for each run, and the right output
 *               behind them
 *   position    the same rows in other batches, orders, head counts and lengths: the same bits
 *               (contract: a row depends on what it sees alone)
 *   floats      ifa_cuda_attention = ifa_quantize + ifa_run, for every type, format, scale choice
 *               and layout
 *   load        while other streams keep the device busy; in the order of its stream; from several
 *               host threads at once
 *   devices     on every device at once, if there are two
 *
 * Exit status: 0 all passed, 1 a failure, 3 no device (then only the refusals that need none are
 * checked). */
#include <algorithm>
#include <functional>
#include <thread>

extern "C" {
#include "common/backend.h"
}
#include "gpu/tests/test_tensors.h"

/* What the parts run on: every head dimension's kernel and padding, formats, scales, masks, splits,
 * outputs. */
static const char *const problems[] = {
    "b=1 hq=4 hkv=2 nq=130 nk=300 d=128 tau=4 out=f16",
    "b=1 hq=4 hkv=2 nq=130 nk=300 d=128 vscale=token tau=4 out=f16",
    "b=2 hq=2 hkv=2 nq=257 nk=257 d=64 tau=4 causal=1 out=f16 lse=1",
    "b=2 hq=2 hkv=1 nq=257 nk=257 d=64 vscale=token tau=4 causal=1 out=bf16 lse=1",
    "b=1 hq=6 hkv=2 nq=65 nk=1000 d=32 window=100 tau=0",
    "b=1 hq=3 hkv=3 nq=70 nk=500 d=96 vscale=token_channel causal=1 window=90 tau=inf lse=1",
    "b=1 hq=2 hkv=1 nq=33 nk=700 d=192 kscale=block kblock=128 split=256 lse=1",
    "b=1 hq=2 hkv=2 nq=100 nk=400 d=256 vscale=token split=128 out=f16",
    "b=2 hq=2 hkv=1 nq=50 nk=190 d=40 q=int4 k=int4 qscale=block qblock=16 kscale=tensor out=f16",
    "b=1 hq=4 hkv=1 nq=90 nk=333 d=128 v=int4 vscale=token causal=1 out=f16",
    "b=1 hq=4 hkv=4 nq=90 nk=333 d=64 q=int4 k=int4 v=int4 qscale=tensor vscale=tensor out=f16",
    "b=3 hq=1 hkv=1 nq=1 nk=1025 d=128 vscale=token out=f16 lse=1",
    "b=301 hq=300 hkv=300 nq=1 nk=2 d=1", /* more matrices than a grid's second dimension has */
};

/* ---- refusals ---- */

/* Asks with something spoiled: `want`, a message, no CUDA error left; that nothing was written is
 * checked once, at the end. */
static void refuse(const char *what, ifa_status want,
                   const std::function<ifa_status(ifa_message *)> &call) {
  ifa_message why = {};
  ifa_status status = call(&why);
  cudaError_t error = cudaGetLastError();
  /* without a driver or a device that question fails itself */
  if (error == cudaErrorInsufficientDriver || error == cudaErrorNoDevice) error = cudaSuccess;
  check(status == want && why.text[0] && error == cudaSuccess, "%s: %s, not %s; \"%s\"; CUDA: %s",
        what, ifa_status_name(status), ifa_status_name(want), why.text, cudaGetErrorString(error));
}

/* A change to a good call: which argument, and to what. */
struct AttendCall {
  ifa_problem p;
  ifa_inputs in;
  ifa_outputs out;
  const ifa_problem *problem = &p;
  const ifa_inputs *inputs = &in;
  const ifa_outputs *outputs = &out;
  void *workspace;
  size_t bytes;
};

static void refuse_attend(const Device &d, cudaStream_t stream, const char *what, ifa_status want,
                          const std::function<void(AttendCall &)> &spoil) {
  AttendCall c;
  c.p = d.p, c.in = d.inputs(), c.out = d.out.outputs();
  c.workspace = d.workspace.data, c.bytes = d.workspace_bytes;
  spoil(c);
  refuse(what, want, [&](ifa_message *why) {
    return ifa_cuda_attend(c.problem, c.inputs, c.outputs, c.workspace, c.bytes, stream, why);
  });
}

static void attend_refusals(cudaStream_t stream) {
  ifa_problem p = problem_of("b=1 hq=2 hkv=1 nq=70 nk=130 d=64 vscale=token_channel lse=1");
  Tensors t = draw_tensors(p, 1);
  Device d(t, stream);
  alignas(256) static uint8_t host[4096];
  int64_t row = 0;
  [[maybe_unused]] ifa_stages stages = {};
  auto bad = [&](const char *what, ifa_status want,
                 const std::function<void(AttendCall &)> &spoil) {
    refuse_attend(d, stream, what, want, spoil);
  };
  bad("NULL problem", IFA_BAD_ARGUMENT, [](AttendCall &c) { c.problem = NULL; });
  bad("NULL inputs", IFA_BAD_ARGUMENT, [](AttendCall &c) { c.inputs = NULL; });
  bad("NULL outputs", IFA_BAD_ARGUMENT, [](AttendCall &c) { c.outputs = NULL; });
  bad("NULL q", IFA_BAD_ARGUMENT, [](AttendCall &c) { c.in.q = NULL; });
  bad("NULL k", IFA_BAD_ARGUMENT, [](AttendCall &c) { c.in.k = NULL; });
  bad("NULL v", IFA_BAD_ARGUMENT, [](AttendCall &c) { c.in.v = NULL; });
  bad("NULL q_scale", IFA_BAD_ARGUMENT, [](AttendCall &c) { c.in.q_scale = NULL; });
  bad("NULL k_scale", IFA_BAD_ARGUMENT, [](AttendCall &c) { c.in.k_scale = NULL; });
  bad("NULL v_scale", IFA_BAD_ARGUMENT, [](AttendCall &c) { c.in.v_scale = NULL; });
  bad("NULL v_channel_scale", IFA_BAD_ARGUMENT, [](AttendCall &c) { c.in.v_channel_scale = NULL; });
  bad("NULL o", IFA_BAD_ARGUMENT, [](AttendCall &c) { c.out.o = NULL; });
  bad("NULL lse", IFA_BAD_ARGUMENT, [](AttendCall &c) { c.out.lse = NULL; });
  bad("lse that was not asked for", IFA_BAD_ARGUMENT, [](AttendCall &c) { c.p.lse = 0; });
  bad("host q", IFA_BAD_ARGUMENT, [&](AttendCall &c) { c.in.q = host; });
  bad("host k", IFA_BAD_ARGUMENT, [&](AttendCall &c) { c.in.k = host; });
  bad("host v", IFA_BAD_ARGUMENT, [&](AttendCall &c) { c.in.v = host; });
  bad("host q_scale", IFA_BAD_ARGUMENT, [&](AttendCall &c) { c.in.q_scale = (float *)host; });
  bad("host k_scale", IFA_BAD_ARGUMENT, [&](AttendCall &c) { c.in.k_scale = (float *)host; });
  bad("host v_scale", IFA_BAD_ARGUMENT, [&](AttendCall &c) { c.in.v_scale = (float *)host; });
  bad("host v_channel_scale", IFA_BAD_ARGUMENT,
      [&](AttendCall &c) { c.in.v_channel_scale = (float *)host; });
  bad("host o", IFA_BAD_ARGUMENT, [&](AttendCall &c) { c.out.o = host; });
  bad("host lse", IFA_BAD_ARGUMENT, [&](AttendCall &c) { c.out.lse = (float *)host; });
  bad("host workspace", IFA_BAD_ARGUMENT, [&](AttendCall &c) { c.workspace = host; });
  bad("misaligned q_scale", IFA_BAD_ARGUMENT,
      [](AttendCall &c) { c.in.q_scale = (float *)((uint8_t *)c.in.q_scale + 2); });
  bad("misaligned v_scale", IFA_BAD_ARGUMENT,
      [](AttendCall &c) { c.in.v_scale = (float *)((uint8_t *)c.in.v_scale + 1); });
  bad("misaligned o", IFA_BAD_ARGUMENT, [](AttendCall &c) { c.out.o = (uint8_t *)c.out.o + 2; });
  bad("misaligned lse", IFA_BAD_ARGUMENT,
      [](AttendCall &c) { c.out.lse = (float *)((uint8_t *)c.out.lse + 2); });
  bad("NULL workspace", IFA_BAD_ARGUMENT, [](AttendCall &c) { c.workspace = NULL; });
  bad("short workspace", IFA_BAD_ARGUMENT, [](AttendCall &c) { c.bytes--; });
  bad("misaligned workspace", IFA_BAD_ARGUMENT,
      [](AttendCall &c) { c.workspace = (uint8_t *)c.workspace + 16; });
#ifndef IFA_GPU_STAGES
  bad("stages", IFA_UNSUPPORTED, [&](AttendCall &c) { c.out.stages = &stages; });
#endif
  /* host memory where rows are supported, and unsupported where they are not */
  ifa_inputs chosen = d.inputs();
  ifa_outputs outputs = d.out.outputs();
  chosen.rows = &row, chosen.row_count = 1;
  ifa_status rows_status =
      ifa_cuda_attend(&p, &chosen, &outputs, d.workspace.data, d.workspace_bytes, stream, NULL);
  check(rows_status == IFA_BAD_ARGUMENT || rows_status == IFA_UNSUPPORTED, "host rows: %s",
        ifa_status_name(rows_status));
  bad("row_count without rows", rows_status, [](AttendCall &c) { c.in.row_count = 1; });
  bad("head_dim 257", IFA_BAD_PROBLEM, [](AttendCall &c) { c.p.head_dim = 257; });
  bad("head_dim 0", IFA_BAD_PROBLEM, [](AttendCall &c) { c.p.head_dim = 0; });
  bad("kv_tile 48", IFA_BAD_PROBLEM, [](AttendCall &c) { c.p.kv_tile = 48; });
  bad("nq -1", IFA_BAD_PROBLEM, [](AttendCall &c) { c.p.nq = -1; });
  bad("too many tokens", IFA_BAD_PROBLEM, [](AttendCall &c) { c.p.nk = IFA_MAX_TOKENS + 1; });
  bad("q_heads no multiple", IFA_BAD_PROBLEM,
      [](AttendCall &c) { c.p.q_heads = 3, c.p.kv_heads = 2; });
  bad("negative stride", IFA_BAD_PROBLEM, [](AttendCall &c) { c.p.k_stride.token = -64; });
  bad("odd INT4 stride", IFA_BAD_PROBLEM,
      [](AttendCall &c) { c.p.k_type = IFA_I4, c.p.k_stride.token = 65; });
  bad("overlapping output rows", IFA_BAD_PROBLEM, [](AttendCall &c) { c.p.o_stride.token = 63; });
  bad("sm_scale NaN", IFA_BAD_PROBLEM, [](AttendCall &c) { c.p.sm_scale = NAN; });
  auto pack = [&](const char *what, const std::function<void(AttendCall &)> &spoil) {
    AttendCall c;
    c.p = p, c.in = d.inputs(), c.workspace = d.workspace.data, c.bytes = d.workspace_bytes;
    spoil(c);
    refuse(what, IFA_BAD_ARGUMENT, [&](ifa_message *why) {
      return ifa_cuda_pack(c.problem, c.inputs, c.workspace, c.bytes, stream, why);
    });
  };
  pack("pack NULL inputs", [](AttendCall &c) { c.inputs = NULL; });
  pack("pack NULL k", [](AttendCall &c) { c.in.k = NULL; });
  pack("pack host v", [&](AttendCall &c) { c.in.v = host; });
  pack("pack NULL k_scale", [](AttendCall &c) { c.in.k_scale = NULL; });
  pack("pack NULL v_scale", [](AttendCall &c) { c.in.v_scale = NULL; });
  pack("pack short workspace", [](AttendCall &c) { c.bytes--; });
  auto packed = [&](const char *what, const std::function<void(AttendCall &)> &spoil) {
    AttendCall c;
    c.p = p, c.in = d.inputs(), c.out = d.out.outputs(), c.workspace = d.workspace.data,
    c.bytes = d.workspace_bytes;
    spoil(c);
    refuse(what, IFA_BAD_ARGUMENT, [&](ifa_message *why) {
      return ifa_cuda_attend_packed(c.problem, c.inputs, c.outputs, c.workspace, c.bytes, stream,
                                    why);
    });
  };
  packed("packed NULL q", [](AttendCall &c) { c.in.q = NULL; });
  packed("packed NULL outputs", [](AttendCall &c) { c.outputs = NULL; });
  packed("packed host v_scale", [&](AttendCall &c) { c.in.v_scale = (float *)host; });
  packed("packed NULL v_channel_scale", [](AttendCall &c) { c.in.v_channel_scale = NULL; });
  packed("packed misaligned workspace",
         [](AttendCall &c) { c.workspace = (uint8_t *)c.workspace + 16; });
  size_t bytes = 0;
  refuse("workspace of NULL", IFA_BAD_ARGUMENT,
         [&](ifa_message *why) { return ifa_cuda_workspace_bytes(NULL, &bytes, why); });
  refuse("workspace into NULL", IFA_BAD_ARGUMENT,
         [&](ifa_message *why) { return ifa_cuda_workspace_bytes(&p, NULL, why); });
  check(d.out.fetch(stream) == poisoned_output(p) && d.guard_whole(stream),
        "refused calls of ifa_cuda_attend wrote something");
  Output expected = expected_of(p, t.inputs()); /* and the same arguments, unspoiled, are good */
  ifa_message why = {};
  check(d.attend(stream, &why) == IFA_OK && d.out.fetch(stream) == expected,
        "the call that was spoiled above: %s", why.text);
}

static void floats_refusals(cudaStream_t stream) {
  ifa_cuda_attention_args good = ifa_cuda_attention_accurate(1, 2, 1, 70, 130, 64), host_args;
  good.problem.lse = 1;
  Block q(2 * 70 * 64 * 2), k(130 * 64 * 2), v(130 * 64 * 2);
  DeviceOutput out(ifa_problem_resolved(&good.problem));
  alignas(256) static uint8_t host[4096];
  size_t bytes = 0;
  ifa_message message = {};
  require(ifa_cuda_attention_workspace_bytes(&good, &bytes, &message), message, "workspace");
  Block workspace(bytes);
  for (const Block *b : {&q, &k, &v, &workspace})
    must(cudaMemsetAsync(b->data, 0, b->bytes, stream), "memset");
  out.poison(stream);
  good.q = q.data, good.k = k.data, good.v = v.data, good.o = out.o.data,
  good.lse = (float *)out.lse.data;
  auto bad = [&](const char *what, ifa_status want,
                 const std::function<void(ifa_cuda_attention_args &)> &spoil) {
    ifa_cuda_attention_args a = good;
    spoil(a);
    refuse(what, want, [&](ifa_message *why) {
      return ifa_cuda_attention(&a, workspace.data, bytes, stream, why);
    });
  };
  auto bad_workspace = [&](const char *what, void *at, size_t size) {
    refuse(what, IFA_BAD_ARGUMENT,
           [&](ifa_message *why) { return ifa_cuda_attention(&good, at, size, stream, why); });
  };
  typedef ifa_cuda_attention_args Args;
  refuse("floats: NULL args", IFA_BAD_ARGUMENT, [&](ifa_message *why) {
    return ifa_cuda_attention(NULL, workspace.data, bytes, stream, why);
  });
  bad("floats: NULL q", IFA_BAD_ARGUMENT, [](Args &a) { a.q = NULL; });
  bad("floats: NULL k", IFA_BAD_ARGUMENT, [](Args &a) { a.k = NULL; });
  bad("floats: NULL v", IFA_BAD_ARGUMENT, [](Args &a) { a.v = NULL; });
  bad("floats: NULL o", IFA_BAD_ARGUMENT, [](Args &a) { a.o = NULL; });
  bad("floats: NULL lse", IFA_BAD_ARGUMENT, [](Args &a) { a.lse = NULL; });
  bad("floats: lse that was not asked for", IFA_BAD_ARGUMENT, [](Args &a) { a.problem.lse = 0; });
  bad("floats: host q", IFA_BAD_ARGUMENT, [&](Args &a) { a.q = host; });
  bad("floats: host k", IFA_BAD_ARGUMENT, [&](Args &a) { a.k = host; });
  bad("floats: host v", IFA_BAD_ARGUMENT, [&](Args &a) { a.v = host; });
  bad("floats: host o", IFA_BAD_ARGUMENT, [&](Args &a) { a.o = host; });
  bad("floats: host lse", IFA_BAD_ARGUMENT, [&](Args &a) { a.lse = (float *)host; });
  bad("floats: misaligned q", IFA_BAD_ARGUMENT, [](Args &a) { a.q = (const uint8_t *)a.q + 1; });
  bad("floats: misaligned v for its type", IFA_BAD_ARGUMENT,
      [](Args &a) { a.type = IFA_F32, a.v = (const uint8_t *)a.v + 2; });
  bad("floats: misaligned o", IFA_BAD_ARGUMENT, [](Args &a) { a.o = (uint8_t *)a.o + 1; });
  bad("floats: type int8", IFA_BAD_ARGUMENT, [](Args &a) { a.type = IFA_I8; });
  bad("floats: subtract_k_mean 2", IFA_BAD_ARGUMENT, [](Args &a) { a.subtract_k_mean = 2; });
  bad("floats: negative stride", IFA_BAD_ARGUMENT, [](Args &a) { a.problem.k_stride.token = -64; });
  bad("floats: a tensor that overflows", IFA_BAD_ARGUMENT,
      [](Args &a) { a.problem.v_stride.token = INT64_MAX / 2; });
  bad("floats: head_dim 257", IFA_BAD_PROBLEM, [](Args &a) { a.problem.head_dim = 257; });
  bad("floats: q_type f16", IFA_BAD_PROBLEM, [](Args &a) { a.problem.q_type = IFA_F16; });
  bad("floats: q per channel", IFA_BAD_PROBLEM,
      [](Args &a) { a.problem.q_scale = IFA_SCALE_CHANNEL; });
  bad("floats: overlapping output rows", IFA_BAD_PROBLEM,
      [](Args &a) { a.problem.o_stride.token = 63; });
  bad("floats: batch 0", IFA_BAD_PROBLEM, [](Args &a) { a.problem.batch = 0; });
  bad_workspace("floats: NULL workspace", NULL, bytes);
  bad_workspace("floats: short workspace", workspace.data, bytes - 1);
  bad_workspace("floats: misaligned workspace", workspace.data + 16, bytes);
  bad_workspace("floats: host workspace", host, bytes);
  refuse("floats: workspace of NULL", IFA_BAD_ARGUMENT,
         [&](ifa_message *why) { return ifa_cuda_attention_workspace_bytes(NULL, &bytes, why); });
  refuse("floats: workspace into NULL", IFA_BAD_ARGUMENT,
         [&](ifa_message *why) { return ifa_cuda_attention_workspace_bytes(&good, NULL, why); });
  check(out.fetch(stream) == poisoned_output(out.p),
        "refused calls of ifa_cuda_attention wrote something");
  host_args = good;
  host_args.problem.nq = 0; /* nothing to do: no pointer is looked at */
  host_args.q = host_args.o = NULL;
  check(ifa_cuda_attention(&host_args, NULL, 0, stream, &message) == IFA_OK, "floats: nq 0: %s",
        message.text);
}

/* More blocks than are counted in 31 bits: refused by what is asked before, as by the call. Needs
 * no device. */
static void size_refusals() {
  static const char *const texts[] = {"b=65535 hq=60000 hkv=60000 nq=1 nk=1 d=1",
                                      "b=60000 hq=600 hkv=1 nq=16384 nk=1 d=1",
                                      "b=60000 hq=600 hkv=600 nq=1 nk=16384 d=1"};
  for (const char *text : texts) {
    ifa_problem p = problem_of(text);
    size_t bytes = 0;
    refuse(text, IFA_UNSUPPORTED, [&](ifa_message *why) { return ifa_cuda_supports(&p, why); });
    refuse(text, IFA_UNSUPPORTED,
           [&](ifa_message *why) { return ifa_cuda_workspace_bytes(&p, &bytes, why); });
    ifa_message why = {};
    ifa_status backend = ifa_backend_supports("cuda-sm80", &p, &why);
    check(backend == IFA_UNSUPPORTED || backend == IFA_NOT_AVAILABLE, "%s: %s", text, why.text);
  }
}

/* Without a device (or with too old a one) every call says so. */
static void absent_refusals() {
  ifa_problem p = problem_of("nq=3 nk=5");
  ifa_cuda_attention_args a = ifa_cuda_attention_fast(1, 1, 1, 3, 5, 64);
  alignas(256) static uint8_t memory[65536];
  ifa_inputs in = {};
  ifa_outputs out = {};
  in.q = in.k = in.v = memory, in.q_scale = in.k_scale = in.v_scale = (float *)memory;
  out.o = memory;
  a.q = a.k = a.v = a.o = memory;
  refuse("available", IFA_NOT_AVAILABLE, [&](ifa_message *why) { return ifa_cuda_available(why); });
  refuse("attend", IFA_NOT_AVAILABLE, [&](ifa_message *why) {
    return ifa_cuda_attend(&p, &in, &out, memory, sizeof memory, NULL, why);
  });
  refuse("attention", IFA_NOT_AVAILABLE, [&](ifa_message *why) {
    return ifa_cuda_attention(&a, memory, sizeof memory, NULL, why);
  });
  refuse("the backend", IFA_NOT_AVAILABLE,
         [&](ifa_message *why) { return ifa_backend_supports("cuda-sm80", &p, why); });
  double seconds[2];
  refuse("its time", IFA_NOT_AVAILABLE, [&](ifa_message *why) {
    return ifa_time_on_device("cuda-sm80", &p, &in, &out, seconds, 2, why);
  });
}

static void run_refusals() {
  cudaStream_t stream = new_stream();
  size_refusals();
  attend_refusals(stream);
  floats_refusals(stream);
  must(cudaStreamSynchronize(stream), "after refusals");
  must(cudaStreamDestroy(stream), "destroy");
}

/* ---- floats ---- */

/* Float tensors of an ifa_cuda_attention call on the host; strides in args.problem. */
struct Floats {
  ifa_cuda_attention_args args; /* pointers NULL */
  std::vector<uint8_t> q, k, v;
  int shift = 0; /* elements in, each tensor begins: not a multiple of 16 bytes */
  size_t offset() const { return (size_t)shift * ifa_type_bytes(args.type); }
};

static std::vector<uint8_t> draw_floats(const Floats &f, ifa_strides s, int64_t heads,
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

static void draw(Floats *f, uint64_t seed) {
  ifa_problem p = f->args.problem;
  /* zero strides become those of the float tensors: rows without padding */
  p.q_type = p.k_type = p.v_type = IFA_I8;
  p = ifa_problem_resolved(&p);
  f->q = draw_floats(*f, p.q_stride, p.q_heads, p.nq, seed, 0);
  f->k = draw_floats(*f, p.k_stride, p.kv_heads, p.nk, seed, 1);
  f->v = draw_floats(*f, p.v_stride, p.kv_heads, p.nk, seed, 2);
}

static void quantize_on_cpu(const Floats &f, const std::vector<uint8_t> &src, ifa_strides stride,
                            int64_t heads, int64_t tokens, ifa_type type,
                            ifa_granularity granularity, int32_t block, int mean,
                            std::vector<uint8_t> *dst, std::vector<float> *scale,
                            std::vector<float> *channel_scale) {
  ifa_quantize_args a = {};
  a.src = src.data() + f.offset(), a.src_type = f.args.type, a.src_stride = stride;
  a.batch = f.args.problem.batch, a.heads = heads, a.tokens = tokens,
  a.head_dim = f.args.problem.head_dim;
  a.dst_type = type, a.granularity = granularity, a.block = block, a.subtract_mean = mean;
  dst->resize((size_t)(a.batch * heads * tokens * (a.head_dim + 1)) + 1);
  scale->resize((size_t)ifa_scale_count(granularity, a.batch, heads, tokens, a.head_dim, block) +
                1);
  channel_scale->resize((size_t)(a.batch * heads * a.head_dim));
  a.dst = dst->data(), a.scale = scale->data(), a.channel_scale = channel_scale->data();
  ifa_message why = {};
  require(ifa_quantize(&a, &why), why, "quantize");
}

/* The definition: three quantizers, one run. */
static Output expected_of(const Floats &f) {
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
    args.q = q.data + f.offset(), args.k = k.data + f.offset(), args.v = v.data + f.offset();
    args.o = out.o.data;
    args.lse = args.problem.lse ? (float *)out.lse.data : NULL;
  }
  void load(const Floats &f, cudaStream_t stream) const {
    send(q, f.q, stream), send(k, f.k, stream), send(v, f.v, stream);
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

static ifa_strides floats_layout(int kind, int64_t heads, int64_t tokens, int64_t head_dim) {
  if (kind == 0) return ifa_strides{0, 0, 0};
  if (kind == 1) return ifa_strides_bnhd(IFA_F16, heads, tokens, head_dim);
  /* gaps: odd, and of whole 16 bytes */
  int64_t row = kind == 2 ? head_dim + 3 : (head_dim + 7) / 8 * 8 + 8;
  return ifa_strides{heads * tokens * row + row, tokens * row, row};
}

static std::string text_of(const Floats &f) {
  static const char *const types[] = {"f32", "f16", "bf16"};
  return std::string("from ") + types[f.args.type] +
         (f.args.subtract_k_mean ? ", K less its mean" : "") + (f.shift ? ", shifted: " : ": ") +
         text_of(f.args.problem);
}

/* Case `number` of every type, format and scale choice; the rest follows from the number. */
static Floats floats_case(int number, ifa_type type, ifa_type qk, ifa_type v,
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
  p->q_scale = q_scale, p->k_scale = k_scale, p->v_scale = v_scale;
  p->q_block = 5 + number % 40, p->k_block = 64 + 64 * (number % 2);
  p->causal = number / 3 % 2, p->window = number % 7 == 0 ? 50 : 0, p->tau = taus[number % 4],
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

static void run_floats() {
  cudaStream_t stream = new_stream();
  int number = 0;
  for (ifa_type type : {IFA_F16, IFA_BF16, IFA_F32})
    for (ifa_type qk : {IFA_I8, IFA_I4})
      for (ifa_type v : {IFA_I8, IFA_I4})
        for (ifa_granularity q_scale : {IFA_SCALE_TOKEN, IFA_SCALE_BLOCK, IFA_SCALE_TENSOR})
          for (ifa_granularity k_scale : {IFA_SCALE_TOKEN, IFA_SCALE_BLOCK, IFA_SCALE_TENSOR})
            for (ifa_granularity v_scale :
                 {IFA_SCALE_CHANNEL, IFA_SCALE_TOKEN, IFA_SCALE_TENSOR, IFA_SCALE_TOKEN_CHANNEL}) {
              Floats f = floats_case(number++, type, qk, v, q_scale, k_scale, v_scale);
              FloatsDevice d(f, stream);
              ifa_message why = {};
              ifa_status status = d.call(stream, &why);
              Output got = d.out.fetch(stream);
              check(status == IFA_OK && got == expected_of(f) && d.guard_whole(stream),
                    "floats: %s %s: %s", status == IFA_OK ? "differs" : ifa_status_name(status),
                    why.text, text_of(f).c_str());
            }
  Floats none; /* no keys: zeros, -infinity */
  none.args = ifa_cuda_attention_fast(1, 2, 1, 5, 0, 64);
  none.args.problem.lse = 1;
  draw(&none, 1);
  FloatsDevice d(none, stream);
  d.args.k = d.args.v = NULL;
  ifa_message why = {};
  check(d.call(stream, &why) == IFA_OK && d.out.fetch(stream) == expected_of(none),
        "floats: no keys: %s", why.text);
  must(cudaStreamDestroy(stream), "destroy");
}

/* ---- graph ---- */

/* Captures what `launch` does; NULL (and a counted failure) if it may not be captured. */
static cudaGraphExec_t captured(cudaStream_t stream, const char *what,
                                const std::function<ifa_status(ifa_message *)> &launch) {
  cudaGraph_t graph = NULL;
  cudaGraphExec_t exec = NULL;
  ifa_message why = {};
  /* forbids unsafe calls, the default stream among them */
  must(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), "begin capture");
  ifa_status status = launch(&why);
  cudaError_t error = cudaStreamEndCapture(stream, &graph);
  if (error != cudaSuccess) (void)cudaGetLastError();
  if (check(status == IFA_OK && error == cudaSuccess, "capture: %s %s; %s: %s",
            ifa_status_name(status), why.text, cudaGetErrorString(error), what))
    must(cudaGraphInstantiate(&exec, graph, 0), "instantiate");
  if (graph) must(cudaGraphDestroy(graph), "destroy");
  return exec;
}

static void graph_of_attend(const ifa_problem &p, cudaStream_t stream) {
  Tensors contents[2] = {draw_tensors(p, 11), draw_tensors(p, 12)};
  Output expected[2] = {expected_of(p, contents[0].inputs()), expected_of(p, contents[1].inputs())};
  check(!(expected[0] == expected[1]), "both contents give the same: %s", text_of(p).c_str());
  Device d(contents[0], stream);
  cudaGraphExec_t exec =
      captured(stream, text_of(p).c_str(), [&](ifa_message *why) { return d.attend(stream, why); });
  if (!exec) return;
  check(d.out.fetch(stream) == poisoned_output(p), "a capture wrote something: %s",
        text_of(p).c_str());
  for (int i : {0, 1, 1, 0}) {
    d.load(contents[i], stream);
    d.out.poison(stream);
    must(cudaGraphLaunch(exec, stream), "launch graph");
    check(d.out.fetch(stream) == expected[i], "a replay with contents %d differs: %s", i,
          text_of(p).c_str());
  }
  must(cudaGraphExecDestroy(exec), "destroy");
}

static void graph_of_floats(int number, ifa_granularity v_scale, cudaStream_t stream) {
  Floats contents[2] = {
      floats_case(number, IFA_F16, IFA_I8, IFA_I8, IFA_SCALE_TOKEN, IFA_SCALE_TOKEN, v_scale), {}};
  contents[1] = contents[0];
  draw(&contents[1], 9999);
  Output expected[2] = {expected_of(contents[0]), expected_of(contents[1])};
  FloatsDevice d(contents[0], stream);
  cudaGraphExec_t exec = captured(stream, text_of(contents[0]).c_str(),
                                  [&](ifa_message *why) { return d.call(stream, why); });
  if (!exec) return;
  check(d.out.fetch(stream) == poisoned_output(d.out.p), "a capture wrote something: %s",
        text_of(contents[0]).c_str());
  for (int i : {0, 1, 1, 0}) {
    d.load(contents[i], stream);
    d.out.poison(stream);
    must(cudaGraphLaunch(exec, stream), "launch graph");
    check(d.out.fetch(stream) == expected[i], "a replay with contents %d differs: %s", i,
          text_of(contents[0]).c_str());
  }
  must(cudaGraphExecDestroy(exec), "destroy");
}

static void run_graph() {
  cudaStream_t stream = new_stream();
  for (const char *text : problems) graph_of_attend(problem_of(text), stream);
  for (int number = 20; number < 32; number++)
    for (ifa_granularity v_scale : {IFA_SCALE_CHANNEL, IFA_SCALE_TOKEN, IFA_SCALE_TOKEN_CHANNEL})
      graph_of_floats(number, v_scale, stream);
  must(cudaStreamDestroy(stream), "destroy");
}

/* ---- repeat ---- */

static void run_repeat() {
  cudaStream_t stream = new_stream();
  for (const char *text : problems) {
    ifa_problem p = problem_of(text);
    Tensors t = draw_tensors(p, 21);
    Output expected = expected_of(p, t.inputs());
    Device d(t, stream);
    for (int i = 0; i < 20; i++) {
      ifa_message why = {};
      d.out.poison(stream);
      must(cudaMemsetAsync(d.workspace.data, i * 37 & 255, d.workspace_bytes, stream), "memset");
      ifa_status status = d.attend(stream, &why);
      check(status == IFA_OK && d.out.fetch(stream) == expected && d.guard_whole(stream),
            "run %d differs or fails (%s): %s", i, why.text, text);
    }
  }
  must(cudaStreamDestroy(stream), "destroy");
}

/* ---- packed ---- */

/* K and V packed once, then queries one after the other, while what was packed from is gone. */
static void run_packed() {
  cudaStream_t stream = new_stream();
  for (const char *text : problems) {
    ifa_problem p = problem_of(text);
    Tensors t = draw_tensors(p, 25);
    Device d(t, stream);
    ifa_message why = {};
    ifa_inputs in = d.inputs(), keys = in;
    keys.q = NULL, keys.q_scale = NULL;
    ifa_status status = ifa_cuda_pack(&p, &keys, d.workspace.data, d.workspace_bytes, stream, &why);
    check(status == IFA_OK, "pack: %s %s: %s", ifa_status_name(status), why.text, text);
    for (const Block *gone : {&d.k, &d.v, &d.k_scale})
      must(cudaMemsetAsync(gone->data, POISON, gone->bytes, stream), "memset");
    in.k = in.v = NULL, in.k_scale = NULL;
    for (uint64_t seed = 25; seed < 30; seed++) {
      Tensors other = draw_tensors(p, seed);
      t.q = other.q, t.q_scale = other.q_scale;
      send(d.q, t.q, stream), send(d.q_scale, t.q_scale, stream);
      d.out.poison(stream);
      ifa_outputs out = d.out.outputs();
      status =
          ifa_cuda_attend_packed(&p, &in, &out, d.workspace.data, d.workspace_bytes, stream, &why);
      check(status == IFA_OK && d.out.fetch(stream) == expected_of(p, t.inputs()) &&
                d.guard_whole(stream),
            "packed, q of seed %d: %s %s: %s", (int)seed,
            status == IFA_OK ? "differs" : ifa_status_name(status), why.text, text);
    }
  }
  must(cudaStreamDestroy(stream), "destroy");
}

/* ---- time ---- */

static void run_time() {
  for (const char *text : problems) {
    ifa_problem p = problem_of(text);
    Tensors t = draw_tensors(p, 23);
    ifa_inputs in = t.inputs();
    Output got = poisoned_output(p);
    ifa_outputs out = {};
    out.o = got.o.data(), out.lse = p.lse ? got.lse.data() : NULL;
    double seconds[4] = {-1, -1, -1, -1};
    ifa_message why = {};
    ifa_status status = ifa_time_on_device("cuda-sm80", &p, &in, &out, seconds, 3, &why);
    check(status == IFA_OK && got == expected_of(p, in), "timed: %s %s: %s",
          status == IFA_OK ? "differs" : ifa_status_name(status), why.text, text);
    check(seconds[3] == -1 &&
              std::all_of(seconds, seconds + 3, [](double s) { return s > 1e-6 && s < 1; }),
          "times %g %g %g %g: %s", seconds[0], seconds[1], seconds[2], seconds[3], text);
  }
}

/* ---- position ---- */

/* Where the rows of one sequence (a batch of 1, one key/value head) are put into another problem:
 * batch b, key/value head g; its rows row0 .. row0 + rows - 1 become rows `at` and on. Keys keep
 * their numbers; with masks a row must keep its position too. */
struct Place {
  const char *name;
  int64_t batch, q_heads, kv_heads, nq, nk; /* of the problem around it */
  int64_t b, g, row0, at, rows;
};

static void copy_rows(ifa_type type, int64_t head_dim, const std::vector<uint8_t> &from, int64_t at,
                      int64_t step, std::vector<uint8_t> *to, int64_t to_at, int64_t to_step,
                      int64_t rows) {
  for (int64_t i = 0; i < rows; i++)
    for (int64_t d = 0; d < head_dim; d++)
      ifa_operand_set(type, to->data(), to_at + i * to_step + d,
                      ifa_operand_get(type, from.data(), at + i * step + d));
}

/* The scales of rows row0 .. of matrix `from_matrix` become those of rows `at` .. of another
 * problem's matrix. By block only where both begin at row 0. */
static void copy_scales(ifa_granularity granularity, int32_t block, int64_t head_dim,
                        const std::vector<float> &from, int64_t from_matrix, int64_t from_tokens,
                        int64_t row0, std::vector<float> *to, int64_t to_matrix, int64_t to_tokens,
                        int64_t at, int64_t rows) {
  int64_t each = ifa_scale_count(granularity, 1, 1, from_tokens, head_dim, block),
          to_each = ifa_scale_count(granularity, 1, 1, to_tokens, head_dim, block);
  bool tokens = granularity == IFA_SCALE_TOKEN || granularity == IFA_SCALE_TOKEN_CHANNEL;
  int64_t count = tokens ? rows : ifa_min64(each, to_each);
  for (int64_t i = 0; i < count; i++)
    (*to)[(size_t)(to_matrix * to_each + (tokens ? at : 0) + i)] =
        from[(size_t)(from_matrix * each + (tokens ? row0 : 0) + i)];
}

static void run_place(const Tensors &ref, const Output &whole, const Place &place,
                      cudaStream_t stream) {
  const ifa_problem &r = ref.p;
  ifa_problem p = r;
  p.batch = place.batch, p.q_heads = place.q_heads, p.kv_heads = place.kv_heads, p.nq = place.nq,
  p.nk = place.nk;
  p.q_stride = p.k_stride = p.v_stride = p.o_stride = ifa_strides{0, 0, 0};
  p = ifa_problem_resolved(&p);
  int64_t d = p.head_dim, group = p.q_heads / p.kv_heads, heads = ifa_min64(group, r.q_heads),
          kv = place.b * p.kv_heads + place.g, keys = ifa_min64(p.nk, r.nk);
  if ((r.causal || r.window) && place.at + p.nk - p.nq != place.row0) {
    printf("attention: place '%s' moves its rows\n", place.name);
    exit(1);
  }
  Tensors t = draw_tensors(p, 31 + (uint64_t)place.nk);
  /* whatever looks at keys that the row does not see loses the row's own */
  for (float &scale : t.v_scale) scale *= 0x1p40f;
  for (int64_t j = 0; j < heads; j++) {
    int64_t head = place.g * group + j;
    copy_rows(p.q_type, d, ref.q, ifa_offset(r.q_stride, 0, j, place.row0), r.q_stride.token, &t.q,
              ifa_offset(p.q_stride, place.b, head, place.at), p.q_stride.token, place.rows);
    copy_scales(p.q_scale, p.q_block, d, ref.q_scale, j, r.nq, place.row0, &t.q_scale,
                place.b * p.q_heads + head, p.nq, place.at, place.rows);
  }
  copy_rows(p.k_type, d, ref.k, 0, r.k_stride.token, &t.k,
            ifa_offset(p.k_stride, place.b, place.g, 0), p.k_stride.token, keys);
  copy_rows(p.v_type, d, ref.v, 0, r.v_stride.token, &t.v,
            ifa_offset(p.v_stride, place.b, place.g, 0), p.v_stride.token, keys);
  copy_scales(p.k_scale, p.k_block, d, ref.k_scale, 0, r.nk, 0, &t.k_scale, kv, p.nk, 0, keys);
  copy_scales(p.v_scale, 1, d, ref.v_scale, 0, r.nk, 0, &t.v_scale, kv, p.nk, 0, keys);
  for (int64_t i = 0; p.v_scale == IFA_SCALE_TOKEN_CHANNEL && i < d; i++)
    t.v_channel_scale[(size_t)(kv * d + i)] = ref.v_channel_scale[(size_t)i];

  Device device(t, stream);
  ifa_message why = {};
  ifa_status status = device.attend(stream, &why);
  Output got = device.out.fetch(stream);
  size_t row_bytes = (size_t)d * ifa_type_bytes(p.out_type);
  int64_t differing = 0;
  for (int64_t j = 0; j < heads; j++)
    for (int64_t i = 0; i < place.rows; i++) {
      /* dense on both sides */
      int64_t from = j * r.nq + place.row0 + i,
              to = (place.b * p.q_heads + place.g * group + j) * p.nq + place.at + i;
      differing +=
          memcmp(&whole.o[(size_t)from * row_bytes], &got.o[(size_t)to * row_bytes], row_bytes) !=
              0 ||
          (p.lse && memcmp(&whole.lse[(size_t)from], &got.lse[(size_t)to], sizeof(float)) != 0);
    }
  check(status == IFA_OK && differing == 0,
        "%s: %" PRId64 " of %" PRId64 " rows differ (%s) from those of %s in %s", place.name,
        differing, heads * place.rows, why.text, text_of(r).c_str(), text_of(p).c_str());
  check(got == expected_of(p, t.inputs()), "%s: differs from the CPU: %s", place.name,
        text_of(p).c_str());
}

static void run_position() {
  /* Sequences of 2 query heads, 1 key/value head, 200 tokens. */
  static const char *const causal[] = {
      "hq=2 nq=200 nk=200 d=128 causal=1 tau=4 out=f16 lse=1",
      "hq=2 nq=200 nk=200 d=128 vscale=token causal=1 tau=4 out=f16 lse=1",
      "hq=2 nq=200 nk=200 d=128 vscale=token_channel causal=1 tau=0 lse=1",
      "hq=2 nq=200 nk=200 d=64 vscale=token causal=1 split=128 tau=2 out=f16",
      "hq=2 nq=200 nk=200 d=64 causal=1 split=64 tau=0 lse=1",
      "hq=2 nq=200 nk=200 d=64 causal=1 tau=0 lse=1",
      "hq=2 nq=200 nk=200 d=64 vscale=tensor causal=1 window=70 tau=inf out=bf16",
      "hq=2 nq=200 nk=200 d=96 vscale=token causal=1 window=65 tau=0 out=f16",
      "hq=2 nq=200 nk=200 d=40 q=int4 k=int4 v=int4 vscale=token causal=1 out=f16",
      "hq=2 nq=200 nk=200 d=256 kscale=block kblock=64 vscale=token causal=1 tau=4 out=f16",
      "hq=2 nq=200 nk=200 d=32 kscale=tensor qscale=tensor causal=1 tau=4 lse=1",
  };
  static const char *const open[] = {
      "hq=2 nq=200 nk=200 d=128 tau=4 out=f16 lse=1",
      "hq=2 nq=200 nk=200 d=128 vscale=token tau=4 out=f16 lse=1",
      "hq=2 nq=200 nk=200 d=192 vscale=token split=64 tau=0",
      "hq=2 nq=200 nk=200 d=64 v=int4 vscale=token_channel tau=inf",
  };
  static const Place around[] = {
      /* name                                  B  Hq Hkv  nq   nk  b  g row0 at rows */
      {"last of three batches", 3, 2, 1, 200, 200, 2, 0, 0, 0, 200},
      {"first of two batches", 2, 2, 1, 200, 200, 0, 0, 0, 0, 200},
      {"last of four key/value heads", 1, 8, 4, 200, 200, 0, 3, 0, 0, 200},
      {"a group of four, second batch", 2, 8, 2, 200, 200, 1, 1, 0, 0, 200},
      {"one query head", 1, 1, 1, 200, 200, 0, 0, 0, 0, 200},
  };
  static const Place lengths[] = {
      /* masked: the row's position is kept, what follows is others' */
      {"a longer prefill", 1, 2, 1, 333, 333, 0, 0, 0, 0, 200},
      {"a longer prefill, second batch", 2, 4, 2, 264, 264, 1, 0, 0, 0, 200},
      {"rows from 33 on, more keys", 1, 2, 1, 300, 333, 0, 0, 33, 0, 167},
      {"a chunk of a prefill", 1, 2, 1, 50, 150, 0, 0, 100, 0, 50},
      {"a chunk among batches", 3, 2, 1, 72, 200, 1, 0, 128, 0, 72},
      {"token 0 decoded", 1, 2, 1, 1, 1, 0, 0, 0, 0, 1},
      {"token 63 decoded", 1, 2, 1, 1, 64, 0, 0, 63, 0, 1},
      {"token 64 decoded", 2, 2, 1, 1, 65, 1, 0, 64, 0, 1},
      {"token 100 decoded", 1, 4, 2, 1, 101, 0, 1, 100, 0, 1},
      {"token 127 decoded", 1, 2, 1, 1, 128, 0, 0, 127, 0, 1},
      {"token 199 decoded", 4, 2, 1, 1, 200, 3, 0, 199, 0, 1},
      {"the last three", 1, 2, 1, 3, 200, 0, 0, 197, 0, 3},
  };
  static const Place subsets[] = {
      /* not masked: any rows, in any place */
      {"rows from 37 on, in the middle", 1, 2, 1, 90, 200, 0, 0, 37, 5, 80},
      {"one row", 2, 4, 2, 1, 200, 1, 1, 150, 0, 1},
      {"rows moved down", 1, 2, 1, 300, 200, 0, 0, 0, 100, 200},
  };
  cudaStream_t stream = new_stream();
  auto run = [&](const char *text, bool masked) {
    ifa_problem p = problem_of(text);
    Tensors ref = draw_tensors(p, 30);
    /* behind the first tile units fall as far as headroom lets them */
    for (size_t i = 0; p.k_scale == IFA_SCALE_TOKEN && i < 64; i++) ref.k_scale[i] *= 4.0f;
    Output whole = expected_of(p, ref.inputs());
    agrees(ref, whole, stream, "the sequence alone");
    for (const Place &place : around) run_place(ref, whole, place, stream);
    if (masked)
      for (const Place &place : lengths) run_place(ref, whole, place, stream);
    else
      for (const Place &place : subsets) run_place(ref, whole, place, stream);
  };
  for (const char *text : causal) run(text, true);
  for (const char *text : open) run(text, false);
  must(cudaStreamDestroy(stream), "destroy");
}

/* ---- load ---- */

/* Keeps multiprocessors and memory busy for a while. */
static __global__ void busy(uint32_t *memory, uint32_t words, int rounds) {
  uint32_t x = blockIdx.x * blockDim.x + threadIdx.x;
  for (int i = 0; i < rounds; i++) {
    x = x * 1664525u + 1013904223u;
    memory[x % words] ^= x; /* races with itself: nobody reads the result */
  }
}

enum { BUSY_WORDS = 1 << 24 };

static Block busy_memory() {
  Block memory((size_t)BUSY_WORDS * 4);
  must(cudaMemset(memory.data, 0, memory.bytes), "memset");
  must(cudaDeviceSynchronize(), "memset"); /* the streams here do not wait for the default one */
  return memory;
}

static void launch_busy(const Block &memory, int blocks, int rounds, cudaStream_t stream) {
  busy<<<blocks, 256, 0, stream>>>((uint32_t *)memory.data, BUSY_WORDS, rounds);
  must(cudaGetLastError(), "busy");
}

/* Attention while a second stream runs other work and a third another attention. */
static void beside_other_streams(cudaStream_t stream) {
  cudaStream_t second = new_stream(), third = new_stream();
  Block memory = busy_memory();
  ifa_problem other = problem_of("b=1 hq=8 hkv=2 nq=500 nk=1500 d=64 vscale=token tau=4 out=f16");
  Tensors other_tensors = draw_tensors(other, 41);
  Output other_expected = expected_of(other, other_tensors.inputs());
  Device beside(other_tensors, third);
  for (const char *text : problems) {
    ifa_problem p = problem_of(text);
    Tensors t = draw_tensors(p, 42);
    Output expected = expected_of(p, t.inputs());
    Device d(t, stream);
    must(cudaDeviceSynchronize(), "before the load");
    for (int i = 0; i < 10; i++) {
      ifa_message why = {}, other_why = {};
      d.out.poison(stream);
      beside.out.poison(third);
      /* other multiprocessors are taken each time */
      launch_busy(memory, 37 + 60 * i, 2000, second);
      ifa_status other_status = beside.attend(third, &other_why), status = d.attend(stream, &why);
      launch_busy(memory, 500, 500, second);
      check(status == IFA_OK && d.out.fetch(stream) == expected,
            "under load, run %d differs or fails (%s): %s", i, why.text, text);
      check(other_status == IFA_OK && beside.out.fetch(third) == other_expected,
            "the other attention, run %d differs or fails (%s)", i, other_why.text);
    }
    must(cudaStreamSynchronize(second), "busy");
  }
  must(cudaStreamDestroy(second), "destroy");
  must(cudaStreamDestroy(third), "destroy");
}

/* The operands come late, by work queued on the same stream: a call that ran anywhere else would
 * find other ones. */
static void in_stream_order(cudaStream_t stream) {
  Block memory = busy_memory();
  for (const char *text : problems) {
    ifa_problem p = problem_of(text);
    Tensors t = draw_tensors(p, 43), before = draw_tensors(p, 44);
    Output expected = expected_of(p, t.inputs());
    Device source(t, stream), d(before, stream);
    must(cudaStreamSynchronize(stream), "operands");
    launch_busy(memory, 2000, 20000, stream);
    const struct {
      const Block *to, *from;
    } copies[] = {{&d.q, &source.q},
                  {&d.k, &source.k},
                  {&d.v, &source.v},
                  {&d.q_scale, &source.q_scale},
                  {&d.k_scale, &source.k_scale},
                  {&d.v_scale, &source.v_scale},
                  {&d.v_channel_scale, &source.v_channel_scale}};
    for (const auto &copy : copies)
      must(cudaMemcpyAsync(copy.to->data, copy.from->data, copy.from->bytes,
                           cudaMemcpyDeviceToDevice, stream),
           "copy");
    ifa_message why = {};
    ifa_status status = d.attend(stream, &why);
    d.load(before, stream); /* and are gone again right behind it */
    check(status == IFA_OK && d.out.fetch(stream) == expected, "not in its stream's order (%s): %s",
          why.text, text);
  }
}

/* Each thread its own stream and problem, on the current device of this one. */
static void from_host_threads(int rounds) {
  enum { THREADS = 8 };
  int device = 0;
  must(cudaGetDevice(&device), "device");
  std::vector<Tensors> tensors;
  std::vector<Output> expected;
  for (int i = 0; i < THREADS; i++) {
    ifa_problem p = problem_of(problems[i]);
    tensors.push_back(draw_tensors(p, 50 + (uint64_t)i));
    expected.push_back(expected_of(p, tensors.back().inputs()));
  }
  std::vector<std::thread> threads;
  for (int i = 0; i < THREADS; i++)
    threads.emplace_back([&, i] {
      must(cudaSetDevice(device), "device");
      cudaStream_t stream = new_stream();
      Device d(tensors[(size_t)i], stream);
      for (int n = 0; n < rounds; n++) {
        ifa_message why = {};
        d.out.poison(stream);
        ifa_status status = d.attend(stream, &why);
        check(status == IFA_OK && d.out.fetch(stream) == expected[(size_t)i],
              "thread %d, run %d differs or fails (%s): %s", i, n, why.text, problems[i]);
      }
      must(cudaStreamDestroy(stream), "destroy");
    });
  for (std::thread &thread : threads) thread.join();
}

static void run_load() {
  cudaStream_t stream = new_stream();
  beside_other_streams(stream);
  in_stream_order(stream);
  must(cudaStreamDestroy(stream), "destroy");
  from_host_threads(50);
}

/* ---- devices ---- */

static int device_count() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) (void)cudaGetLastError(), count = 0;
  return count;
}

/* One thread a device, all at once; then one thread that goes from device to device with work in
 * flight on the others. */
static void run_devices() {
  int count = device_count();
  std::vector<std::thread> threads;
  for (int device = 0; device < count; device++)
    threads.emplace_back([device] {
      must(cudaSetDevice(device), "device");
      from_host_threads(10);
    });
  for (std::thread &thread : threads) thread.join();
  for (const char *text : problems) {
    ifa_problem p = problem_of(text);
    std::vector<Tensors> tensors;
    std::vector<cudaStream_t> streams;
    std::vector<Device> devices;
    devices.reserve((size_t)count);
    std::vector<ifa_message> why((size_t)count);
    std::vector<ifa_status> status((size_t)count);
    for (int device = 0; device < count; device++) {
      must(cudaSetDevice(device), "device");
      tensors.push_back(draw_tensors(p, 60 + (uint64_t)device));
      streams.push_back(new_stream());
      devices.emplace_back(tensors.back(), streams.back());
    }
    for (int device = 0; device < count; device++) {
      must(cudaSetDevice(device), "device");
      status[(size_t)device] =
          devices[(size_t)device].attend(streams[(size_t)device], &why[(size_t)device]);
    }
    for (int device = 0; device < count; device++) {
      size_t i = (size_t)device;
      must(cudaSetDevice(device), "device");
      check(status[i] == IFA_OK &&
                devices[i].out.fetch(streams[i]) == expected_of(p, tensors[i].inputs()),
            "device %d differs or fails (%s): %s", device, why[i].text, text);
      must(cudaStreamDestroy(streams[i]), "destroy");
    }
  }
  must(cudaSetDevice(0), "device");
}

/* ---- main ---- */

static const struct part {
  const char *name;
  void (*run)();
  int devices; /* needed */
} parts[] = {{"refusals", run_refusals, 1}, {"graph", run_graph, 1}, {"repeat", run_repeat, 1},
             {"packed", run_packed, 1},     {"time", run_time, 1},   {"position", run_position, 1},
             {"floats", run_floats, 1},     {"load", run_load, 1},   {"devices", run_devices, 2}};

/* No arguments: all parts. */
static bool chosen(const char *name, int count, char **arguments) {
  for (int i = 1; i < count; i++)
    if (strcmp(arguments[i], name) == 0) return true;
  return count == 1;
}

int main(int count, char **arguments) {
  setvbuf(stdout, NULL, _IOLBF, 0);
  for (int i = 1; i < count; i++)
    if (std::none_of(std::begin(parts), std::end(parts),
                     [&](const part &one) { return strcmp(one.name, arguments[i]) == 0; })) {
      fprintf(stderr,
              "attention: there is no part '%s' (refusals graph repeat packed time position floats "
              "load devices)\n",
              arguments[i]);
      return 2;
    }
  ifa_message why = {};
  if (ifa_cuda_available(&why) != IFA_OK) {
    absent_refusals();
    size_refusals();
    printf("attention: not available: %s\n", why.text);
    return failed ? 1 : 3;
  }
  int absent = 0, devices = device_count();
  for (const part &one : parts) {
    if (!chosen(one.name, count, arguments)) continue;
    if (devices < one.devices) {
      printf("attention: %-9s not available: %d devices, %d needed\n", one.name, devices,
             one.devices);
      absent++;
      continue;
    }
    int passed_before = passed, failed_before = failed;
    one.run();
    must(cudaDeviceSynchronize(), one.name);
    printf("attention: %-9s %d passed, %d failed\n", one.name, passed - passed_before,
           failed - failed_before);
  }
  printf("attention: %d passed, %d failed, %d parts not available\n", (int)passed, (int)failed,
         absent);
  return failed ? 1 : passed ? 0 : 3;
}
