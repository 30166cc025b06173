/* test_tensors.h - what the GPU test programs of the attention share: quantized and float tensors
 * drawn from a seed, the oracle's answer, the same on the device, and counting. Every output buffer
 * begins as POISON and ends in GUARD bytes; comparisons are of whole buffers, so a byte that no row
 * owns is seen too. */
#ifndef IFA_GPU_TEST_TENSORS_H
#define IFA_GPU_TEST_TENSORS_H

#include <cuda_runtime.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <atomic>
#include <string>
#include <vector>

#include "common/operand.h"
extern "C" {
#include "common/problem.h"
#include "common/random.h"
}
#include "ifa_cuda.h"

enum { POISON = 0xfb, GUARD = 256 };

/* ---- counting: from any thread ---- */

inline std::atomic<int> passed, failed;

static inline void must(cudaError_t error, const char *what) {
  if (error == cudaSuccess) return;
  printf("attention: %s: %s\n", what, cudaGetErrorString(error));
  exit(1);
}

__attribute__((format(printf, 2, 3))) static inline bool check(bool good, const char *format, ...) {
  good ? passed++ : failed++;
  if (good) return true;
  char text[1600];
  va_list args;
  va_start(args, format);
  vsnprintf(text, sizeof text, format, args);
  va_end(args);
  printf("FAILED %s\n", text);
  return false;
}

/* A defect of the test itself. */
static inline void require(ifa_status status, const ifa_message &why, const char *what) {
  if (status == IFA_OK) return;
  printf("attention: %s: %s: %s\n", what, ifa_status_name(status), why.text);
  exit(1);
}

/* ---- problems and what they hold ---- */

static inline ifa_problem problem_of(const char *text) {
  ifa_problem p = ifa_problem_default();
  ifa_message why = {};
  require(ifa_problem_parse(text, &p, &why), why, text);
  require(ifa_problem_check(&p, &why), why, text);
  return ifa_problem_resolved(&p);
}

static inline std::string text_of(const ifa_problem &p) {
  char text[1024] = "";
  ifa_problem_print(&p, text, sizeof text, NULL);
  return text;
}

/* Quantized operands on the host. */
struct Tensors {
  ifa_problem p; /* resolved */
  std::vector<uint8_t> q, k, v;
  std::vector<float> q_scale, k_scale, v_scale, v_channel_scale;

  ifa_inputs inputs() const {
    ifa_inputs in = {};
    in.q = q.data();
    in.k = k.data();
    in.v = v.data();
    in.q_scale = q_scale.data();
    in.k_scale = k_scale.data();
    in.v_scale = v_scale.data();
    in.v_channel_scale = p.v_scale == IFA_SCALE_TOKEN_CHANNEL ? v_channel_scale.data() : NULL;
    return in;
  }
};

struct Output {
  std::vector<uint8_t> o;
  std::vector<float> lse; /* without problem.lse: only the guard */
  bool operator==(const Output &other) const {
    /* bits: -infinity and NaN too */
    return o == other.o && memcmp(lse.data(), other.lse.data(), lse.size() * sizeof(float)) == 0;
  }
};

static inline Output poisoned_output(const ifa_problem &p) {
  Output out;
  out.o.assign(
      (size_t)ifa_extent_bytes(p.out_type, p.o_stride, p.batch, p.q_heads, p.nq, p.head_dim) +
          GUARD,
      POISON);
  out.lse.resize((size_t)(p.lse ? p.batch * p.q_heads * p.nq : 0) + GUARD / sizeof(float));
  memset(out.lse.data(), POISON, out.lse.size() * sizeof(float));
  return out;
}

/* Sequences of random numbers, one a purpose. */
enum { RANDOM_VALUES = 0, RANDOM_SCALES = 8, RANDOM_OCTAVES = 16 };

/* Integers near a normal distribution; the type's least value occurs. */
static inline std::vector<uint8_t> draw_integers(const ifa_problem &p, ifa_type type, ifa_strides s,
                                                 int64_t heads, int64_t tokens, uint64_t seed,
                                                 int stream) {
  std::vector<uint8_t> data(
      (size_t)ifa_extent_bytes(type, s, p.batch, heads, tokens, p.head_dim) + GUARD, POISON);
  float deviation = type == IFA_I4 ? 3.0f : 36.0f, most = type == IFA_I4 ? 7.0f : 127.0f;
  for (int64_t row = 0; row < p.batch * heads * tokens; row++)
    for (int64_t d = 0; d < p.head_dim; d++) {
      float x = rintf(deviation * ifa_random_normal(seed, (uint64_t)(RANDOM_VALUES + stream),
                                                    (uint64_t)(row * p.head_dim + d)));
      int64_t matrix = row / tokens,
              at = ifa_offset(s, matrix / heads, matrix % heads, row % tokens) + d;
      ifa_operand_set(type, data.data(), at,
                      (int32_t)(x > most        ? most
                                : x < -most - 1 ? -most - 1
                                                : x));
    }
  return data;
}

/* One over the integers' deviation, times `largest`, spread over three octaves: units then move
 * often. */
static inline std::vector<float> draw_scales(int64_t count, ifa_type type, float largest,
                                             uint64_t seed, int stream) {
  std::vector<float> scales((size_t)count);
  for (size_t i = 0; i < scales.size(); i++) {
    float fraction = 0.5f + 0.5f * ifa_random_uniform(seed, (uint64_t)(RANDOM_SCALES + stream), i);
    scales[i] =
        largest / (type == IFA_I4 ? 3.0f : 36.0f) *
        ldexpf(fraction, -(int)ifa_random_below(seed, (uint64_t)(RANDOM_OCTAVES + stream), i, 3));
  }
  return scales;
}

static inline Tensors draw_tensors(const ifa_problem &p, uint64_t seed) {
  Tensors t;
  int64_t d = p.head_dim;
  t.p = p;
  t.q = draw_integers(p, p.q_type, p.q_stride, p.q_heads, p.nq, seed, 0);
  t.k = draw_integers(p, p.k_type, p.k_stride, p.kv_heads, p.nk, seed, 1);
  t.v = draw_integers(p, p.v_type, p.v_stride, p.kv_heads, p.nk, seed, 2);
  t.q_scale = draw_scales(ifa_scale_count(p.q_scale, p.batch, p.q_heads, p.nq, d, p.q_block),
                          p.q_type, 3.0f, seed, 0);
  t.k_scale = draw_scales(ifa_scale_count(p.k_scale, p.batch, p.kv_heads, p.nk, d, p.k_block),
                          p.k_type, 3.0f, seed, 1);
  t.v_scale = draw_scales(ifa_scale_count(p.v_scale, p.batch, p.kv_heads, p.nk, d, 1), p.v_type,
                          1.0f, seed, 2);
  t.v_channel_scale =
      draw_scales(p.v_scale == IFA_SCALE_TOKEN_CHANNEL ? p.batch * p.kv_heads * d : 0, p.v_type,
                  36.0f, seed, 3);
  return t;
}

/* What the CPU gives: by openmp, or by scalar where that is not built in. */
static inline Output expected_of(const ifa_problem &p, const ifa_inputs &in) {
  Output out = poisoned_output(p);
  ifa_outputs outputs = {};
  outputs.o = out.o.data();
  outputs.lse = p.lse ? out.lse.data() : NULL;
  ifa_message why = {};
  const char *oracle = ifa_backend_supports("openmp", NULL, NULL) == IFA_OK ? "openmp" : "scalar";
  require(ifa_run(oracle, &p, &in, &outputs, &why), why, oracle);
  return out;
}

/* ---- on the device ---- */

/* Device memory that is freed with its owner; never copied. */
struct Block {
  uint8_t *data = NULL;
  size_t bytes = 0;
  Block() = default;
  explicit Block(size_t size) : bytes(size) {
    must(cudaMalloc((void **)&data, size ? size : 1), "cudaMalloc");
  }
  Block(Block &&other) : data(other.data), bytes(other.bytes) { other.data = NULL; }
  Block &operator=(Block &&other) {
    std::swap(data, other.data), std::swap(bytes, other.bytes);
    return *this;
  }
  ~Block() {
    if (data) cudaFree(data);
  }
};

template <typename T>
static inline void send(const Block &to, const std::vector<T> &from, cudaStream_t stream) {
  must(cudaMemcpyAsync(to.data, from.data(), from.size() * sizeof(T), cudaMemcpyHostToDevice,
                       stream),
       "copy to device");
}

/* Output buffers of a problem. */
struct DeviceOutput {
  ifa_problem p;
  Block o, lse;
  explicit DeviceOutput(const ifa_problem &problem) : p(problem) {
    Output like = poisoned_output(p);
    o = Block(like.o.size()), lse = Block(like.lse.size() * sizeof(float));
  }
  void poison(cudaStream_t stream) const {
    must(cudaMemsetAsync(o.data, POISON, o.bytes, stream), "memset");
    must(cudaMemsetAsync(lse.data, POISON, lse.bytes, stream), "memset");
  }
  Output fetch(cudaStream_t stream) const {
    Output out = poisoned_output(p);
    must(cudaMemcpyAsync(out.o.data(), o.data, o.bytes, cudaMemcpyDeviceToHost, stream),
         "copy from device");
    must(cudaMemcpyAsync(out.lse.data(), lse.data, lse.bytes, cudaMemcpyDeviceToHost, stream),
         "copy from device");
    must(cudaStreamSynchronize(stream), "kernels");
    return out;
  }
  ifa_outputs outputs() const {
    ifa_outputs out = {};
    out.o = o.data;
    out.lse = p.lse ? (float *)lse.data : NULL;
    return out;
  }
};

/* A problem's operands, output and workspace on the current device. */
struct Device {
  ifa_problem p;
  Block q, k, v, q_scale, k_scale, v_scale, v_channel_scale, workspace;
  DeviceOutput out;
  size_t workspace_bytes = 0;

  Device(const Tensors &t, cudaStream_t stream)
      : p(t.p), q(t.q.size()), k(t.k.size()), v(t.v.size()), q_scale(t.q_scale.size() * 4),
        k_scale(t.k_scale.size() * 4), v_scale(t.v_scale.size() * 4),
        v_channel_scale(t.v_channel_scale.size() * 4), out(t.p) {
    ifa_message why = {};
    require(ifa_cuda_workspace_bytes(&p, &workspace_bytes, &why), why, "workspace");
    workspace = Block(workspace_bytes + GUARD);
    must(cudaMemsetAsync(workspace.data, POISON, workspace.bytes, stream), "memset");
    out.poison(stream);
    load(t, stream);
  }
  void load(const Tensors &t, cudaStream_t stream) const {
    send(q, t.q, stream);
    send(k, t.k, stream);
    send(v, t.v, stream);
    send(q_scale, t.q_scale, stream);
    send(k_scale, t.k_scale, stream);
    send(v_scale, t.v_scale, stream);
    send(v_channel_scale, t.v_channel_scale, stream);
  }
  ifa_inputs inputs() const {
    ifa_inputs in = {};
    in.q = q.data;
    in.k = k.data;
    in.v = v.data;
    in.q_scale = (float *)q_scale.data;
    in.k_scale = (float *)k_scale.data;
    in.v_scale = (float *)v_scale.data;
    in.v_channel_scale =
        p.v_scale == IFA_SCALE_TOKEN_CHANNEL ? (float *)v_channel_scale.data : NULL;
    return in;
  }
  ifa_status attend(cudaStream_t stream, ifa_message *why) const {
    ifa_inputs in = inputs();
    ifa_outputs outputs = out.outputs();
    return ifa_cuda_attend(&p, &in, &outputs, workspace.data, workspace_bytes, stream, why);
  }
  /* Nothing past the workspace's promised size was written. */
  bool guard_whole(cudaStream_t stream) const {
    uint8_t guard[GUARD], poison[GUARD];
    memset(poison, POISON, GUARD);
    must(cudaMemcpyAsync(guard, workspace.data + workspace_bytes, GUARD, cudaMemcpyDeviceToHost,
                         stream),
         "copy guard");
    must(cudaStreamSynchronize(stream), "kernels");
    return memcmp(guard, poison, GUARD) == 0;
  }
};

static inline cudaStream_t new_stream() {
  cudaStream_t stream;
  /* work on the default stream would not be ordered with it */
  must(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream");
  return stream;
}

/* The problem run on new memory, against the expected output. */
static inline bool agrees(const Tensors &t, const Output &expected, cudaStream_t stream,
                          const char *where) {
  Device d(t, stream);
  ifa_message why = {};
  ifa_status status = d.attend(stream, &why);
  Output got = d.out.fetch(stream);
  return check(status == IFA_OK && got == expected && d.guard_whole(stream), "%s: %s %s: %s", where,
               status == IFA_OK ? "differs" : ifa_status_name(status), why.text,
               text_of(t.p).c_str());
}

#endif
