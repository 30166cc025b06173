/* attention_refusals.cu - every bad input: a status, a message, no CUDA error, no byte written. */
#include "gpu/tests/attention.h"

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
  c.p = d.p;
  c.in = d.inputs();
  c.out = d.out.outputs();
  c.workspace = d.workspace.data, c.bytes = d.workspace_bytes;
  spoil(c);
  refuse(what, want, [&](ifa_message *why) {
    return ifa_cuda_attend(c.problem, c.inputs, c.outputs, c.workspace, c.bytes, stream, why);
  });
}

/* Refuses the call once `spoil` has changed it. */
typedef std::function<void(const char *what, ifa_status want,
                           const std::function<void(AttendCall &)> &spoil)>
    Refuse;

alignas(256) static uint8_t host[4096]; /* no memory of the device's */

static void refuse_pointers(const Refuse &bad) {
  [[maybe_unused]] ifa_stages stages = {};
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
}

static void refuse_problems(const Refuse &bad) {
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
}

static void refuse_rows(const Device &d, cudaStream_t stream, const Refuse &bad) {
  int64_t row = 0;
  /* host memory where rows are supported, and unsupported where they are not */
  ifa_inputs chosen = d.inputs();
  ifa_outputs outputs = d.out.outputs();
  chosen.rows = &row, chosen.row_count = 1;
  ifa_status rows_status =
      ifa_cuda_attend(&d.p, &chosen, &outputs, d.workspace.data, d.workspace_bytes, stream, NULL);
  check(rows_status == IFA_BAD_ARGUMENT || rows_status == IFA_UNSUPPORTED, "host rows: %s",
        ifa_status_name(rows_status));
  bad("row_count without rows", rows_status, [](AttendCall &c) { c.in.row_count = 1; });
}

/* The two halves of a call. */
static void refuse_packed(const Device &d, cudaStream_t stream) {
  auto pack = [&](const char *what, const std::function<void(AttendCall &)> &spoil) {
    AttendCall c;
    c.p = d.p;
    c.in = d.inputs();
    c.workspace = d.workspace.data;
    c.bytes = d.workspace_bytes;
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
    c.p = d.p;
    c.in = d.inputs();
    c.out = d.out.outputs();
    c.workspace = d.workspace.data;
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
}

static void attend_refusals(cudaStream_t stream) {
  ifa_problem p = problem_of("b=1 hq=2 hkv=1 nq=70 nk=130 d=64 vscale=token_channel lse=1");
  Tensors t = draw_tensors(p, 1);
  Device d(t, stream);
  const Refuse bad = [&](const char *what, ifa_status want,
                         const std::function<void(AttendCall &)> &spoil) {
    refuse_attend(d, stream, what, want, spoil);
  };
  refuse_pointers(bad);
  refuse_rows(d, stream, bad);
  refuse_problems(bad);
  refuse_packed(d, stream);
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
  size_t bytes = 0;
  ifa_message message = {};
  require(ifa_cuda_attention_workspace_bytes(&good, &bytes, &message), message, "workspace");
  Block workspace(bytes);
  for (const Block *b : {&q, &k, &v, &workspace})
    must(cudaMemsetAsync(b->data, 0, b->bytes, stream), "memset");
  out.poison(stream);
  good.q = q.data;
  good.k = k.data;
  good.v = v.data;
  good.o = out.o.data;
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
void absent_refusals() {
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
  size_refusals();
}

void run_refusals() {
  cudaStream_t stream = new_stream();
  size_refusals();
  attend_refusals(stream);
  floats_refusals(stream);
  must(cudaStreamSynchronize(stream), "after refusals");
  must(cudaStreamDestroy(stream), "destroy");
}
