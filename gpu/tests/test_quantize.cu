/* test_quantize.cu - the GPU quantizers against ifa_quantize, bit for bit: results, untouched
 * bytes, guards behind every buffer.
 *
 *   test_quantize [random cases, 400] [quick]      quick: no large cases, no timing
 *
 * Exit status: 0 all passed, 1 a failure (the argument set and the first difference are printed), 3
 * no device.
 * */
#include "ifa_cuda.h"

#include <algorithm>
#include <cuda_runtime.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/operand.h"
extern "C" {
#include "common/problem.h"
}

#define POISON 0xA5
#define GUARD 256 /* bytes behind each buffer that must stay as they are */

static int passed, failed;
static cudaStream_t stream;

static void must(cudaError_t error, const char *what) {
  if (error == cudaSuccess) return;
  printf("quantize: %s: %s\n", what, cudaGetErrorString(error));
  exit(1);
}

static uint64_t state = 20240916;
static uint64_t draw(void) { /* splitmix64 */
  uint64_t z = state += 0x9e3779b97f4a7c15u;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}
static int64_t below(int64_t n) { return (int64_t)(draw() % (uint64_t)n); }
static float unit(void) { return (float)(int32_t)(draw() >> 32) * 0x1p-31f; } /* -1 .. 1 */

/* ---- buffers ---- */

/* The same bytes on both sides; `start` bytes in, the tensor begins. */
typedef struct buffer {
  uint8_t *host, *device;
  size_t start, bytes;
} buffer;

static buffer buffer_of(size_t start, int64_t bytes, int fill) {
  buffer b = {NULL, NULL, start, start + (size_t)bytes + GUARD};
  b.host = (uint8_t *)malloc(b.bytes);
  if (!b.host) exit(1);
  memset(b.host, fill, b.bytes);
  must(cudaMalloc((void **)&b.device, b.bytes), "cudaMalloc");
  return b;
}

static void send(const buffer *b) {
  must(cudaMemcpyAsync(b->device, b->host, b->bytes, cudaMemcpyHostToDevice, stream),
       "copy to device");
}

static void release(buffer *b) {
  free(b->host);
  must(cudaFree(b->device), "cudaFree");
}

/* -1, or where the device's bytes differ from the host's. */
static int64_t difference(const buffer *b, int *expected, int *got) {
  uint8_t *copy = (uint8_t *)malloc(b->bytes);
  if (!copy) exit(1);
  must(cudaMemcpyAsync(copy, b->device, b->bytes, cudaMemcpyDeviceToHost, stream),
       "copy from device");
  must(cudaStreamSynchronize(stream), "kernels");
  int64_t at = -1;
  if (memcmp(copy, b->host, b->bytes) != 0)
    for (at = 0; copy[at] == b->host[at]; at++) continue;
  if (at >= 0) *expected = b->host[at], *got = copy[at];
  free(copy);
  return at;
}

/* ---- argument sets ---- */

enum { PLAIN, ZERO_ROWS, TINY_VALUES, LARGE, OFFSETS, TIES, OCTAVES, HUGEST, CONSTANT, FILLS };

typedef struct test_case {
  ifa_quantize_args a;            /* pointers NULL */
  int fill, src_shift, dst_shift; /* shifts in elements and bytes: alignment */
  int graph, has_mean;
} test_case;

static float value_of(const test_case *c, int64_t token, int64_t d) {
  bool half = c->a.src_type == IFA_F16;
  switch (c->fill) {
    case ZERO_ROWS: return token % 3 == 1 || d % 5 == 2 ? (draw() & 1 ? -0.0f : 0.0f) : unit();
    case TINY_VALUES:
      return half ? unit() * 0x1p-20f : ldexpf(unit(), -91 - (int)((token + d) % 5));
    case LARGE: return half ? unit() * 60000.0f : unit() * 0x1p90f;
    case OFFSETS: return unit() + 3.0f * (float)(d % 7) - 5.0f;
    case TIES: return d == token % c->a.head_dim ? 127.0f : (float)below(254) * 0.5f - 63.0f;
    case OCTAVES: return ldexpf(unit(), half ? (int)below(34) - 20 : (int)below(100) - 60);
    case HUGEST: {
      float most = half ? 60000.0f : 0x1p99f;
      return draw() % 3 ? unit() * most : draw() & 1 ? most : -most;
    }
    case CONSTANT: return -3.14159f;
    default: return unit() * 4.0f;
  }
}

static void fill_source(const test_case *c, ifa_strides s, void *src) {
  for (int64_t row = 0; row < c->a.batch * c->a.heads * c->a.tokens; row++) {
    int64_t t = row % c->a.tokens, matrix = row / c->a.tokens,
            start = ifa_offset(s, matrix / c->a.heads, matrix % c->a.heads, t);
    for (int64_t d = 0; d < c->a.head_dim; d++)
      ifa_float_set(c->a.src_type, src, start + d, value_of(c, t, d));
  }
}

static ifa_strides resolved(ifa_strides s, ifa_type type, const ifa_quantize_args *a) {
  return s.batch || s.head || s.token ? s
                                      : ifa_strides_bhnd(type, a->heads, a->tokens, a->head_dim);
}

/* Zero, dense in both orders, with odd gaps, with gaps that keep 16-byte alignment. */
static ifa_strides random_strides(ifa_type type, const ifa_quantize_args *a) {
  ifa_strides s = {0, 0, 0};
  int64_t kind = below(5), step = type == IFA_I4 ? 2 : 1;
  if (kind == 0) return s;
  if (kind == 1) return ifa_strides_bhnd(type, a->heads, a->tokens, a->head_dim);
  if (kind == 2) return ifa_strides_bnhd(type, a->heads, a->tokens, a->head_dim);
  if (kind == 4) step = 16;
  s.token = (a->head_dim + step - 1) / step * step + below(4) * step;
  s.head = a->tokens * s.token + below(4) * step;
  s.batch = a->heads * s.head + below(4) * step;
  return s;
}

static test_case random_case(int number) {
  static const int dims[] = {1,  2,  3,  7,   8,   15,  16,  17,  31,  32,  40,  64,
                             64, 72, 96, 100, 127, 128, 128, 136, 200, 248, 255, 256};
  static const int token_counts[] = {0, 1, 2, 3, 63, 64, 65, 100, 257, 1000};
  test_case c = {};
  c.a.granularity = (ifa_granularity)(number % 5), c.a.src_type = (ifa_type)(number / 5 % 3);
  c.a.dst_type = number / 15 % 2 ? IFA_I4 : IFA_I8, c.a.subtract_mean = number / 30 % 2;
  c.a.batch = below(16) ? 1 + below(3) : 0, c.a.heads = below(16) ? 1 + below(4) : below(2) * 40;
  c.a.tokens = token_counts[below(10)], c.a.head_dim = below(3) ? dims[below(24)] : 1 + below(256);
  c.a.block = 1 + (int32_t)below(below(2) ? 300 : 20);
  c.a.src_stride = random_strides(c.a.src_type, &c.a),
  c.a.dst_stride = random_strides(c.a.dst_type, &c.a);
  /* all heads share one matrix */
  if (below(10) == 0) c.a.src_stride = ifa_strides{0, 0, c.a.head_dim + below(2)};
  c.fill = (int)below(FILLS);
  c.has_mean = below(4) != 0;
  c.graph = below(6) == 0 && c.a.batch * c.a.heads * c.a.tokens != 0;
  c.src_shift = below(3) ? 0 : (int)below(9), c.dst_shift = below(3) ? 0 : (int)below(9);
  return c;
}

static void print_case(const test_case *c) {
  static const char *const types[] = {"f32", "f16", "bf16", "int8", "int4"};
  static const char *const grains[] = {"tensor", "block", "token", "channel", "token_channel"};
  const ifa_quantize_args *a = &c->a;
  ifa_strides s = a->src_stride, d = a->dst_stride;
  printf("  %s -> %s %s block=%d mean=%d(%d)", types[a->src_type], types[a->dst_type],
         grains[a->granularity], a->block, a->subtract_mean, c->has_mean);
  printf(" [%" PRId64 ",%" PRId64 ",%" PRId64 ",%" PRId64 "]", a->batch, a->heads, a->tokens,
         a->head_dim);
  printf(" src_stride=%" PRId64 ":%" PRId64 ":%" PRId64 "+%d", s.batch, s.head, s.token,
         c->src_shift);
  printf(" dst_stride=%" PRId64 ":%" PRId64 ":%" PRId64 "+%d", d.batch, d.head, d.token,
         c->dst_shift);
  printf(" fill=%d graph=%d\n", c->fill, c->graph);
}

/* ---- comparison ---- */

typedef struct buffers {
  buffer src, dst, scale, channel_scale, mean, workspace;
} buffers;

static ifa_quantize_args with_pointers(const test_case *c, const buffers *b, bool device) {
  ifa_quantize_args a = c->a;
  a.src = (device ? b->src.device : b->src.host) + b->src.start;
  a.dst = (device ? b->dst.device : b->dst.host) + b->dst.start;
  a.scale = (float *)(device ? b->scale.device : b->scale.host);
  a.channel_scale = (float *)(device ? b->channel_scale.device : b->channel_scale.host);
  a.mean = c->has_mean ? (float *)(device ? b->mean.device : b->mean.host) : NULL;
  return a;
}

static int64_t extent(ifa_type type, ifa_strides s, const ifa_quantize_args *a) {
  return ifa_extent_bytes(type, resolved(s, type, a), a->batch, a->heads, a->tokens, a->head_dim);
}

static int64_t scale_count(const ifa_quantize_args *a) {
  return ifa_scale_count(a->granularity, a->batch, a->heads, a->tokens, a->head_dim, a->block);
}

static buffers make_buffers(const test_case *c, size_t workspace_bytes) {
  const ifa_quantize_args *a = &c->a;
  int64_t channels = a->batch * a->heads * a->head_dim;
  buffers b;
  b.src = buffer_of((size_t)c->src_shift * ifa_type_bytes(a->src_type),
                    extent(a->src_type, a->src_stride, a), 0xff);
  b.dst = buffer_of((size_t)c->dst_shift, extent(a->dst_type, a->dst_stride, a), POISON);
  b.scale = buffer_of(0, scale_count(a) * 4, POISON);
  b.channel_scale = buffer_of(0, channels * 4, POISON);
  b.mean = buffer_of(0, channels * 4, POISON);
  b.workspace = buffer_of(0, (int64_t)workspace_bytes, POISON);
  fill_source(c, resolved(a->src_stride, a->src_type, a), b.src.host + b.src.start);
  send(&b.src);
  send(&b.dst);
  send(&b.scale);
  send(&b.channel_scale);
  send(&b.mean);
  send(&b.workspace);
  return b;
}

/* Straight, or captured into a graph that then runs twice. */
static ifa_status run_on_gpu(const test_case *c, const ifa_quantize_args *a, uint8_t *workspace,
                             size_t bytes, ifa_message *why) {
  if (!c->graph) return ifa_cuda_quantize(a, workspace, bytes, stream, why);
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  must(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), "begin capture");
  ifa_status status = ifa_cuda_quantize(a, workspace, bytes, stream, why);
  cudaError_t error = cudaStreamEndCapture(stream, &graph);
  if (error != cudaSuccess) {
    printf("  end capture: %s\n", cudaGetErrorString(error));
    (void)cudaGetLastError();
    return status == IFA_OK ? IFA_NOT_AVAILABLE : status;
  }
  must(cudaGraphInstantiate(&exec, graph, 0), "instantiate");
  for (int i = 0; i < 2; i++) must(cudaGraphLaunch(exec, stream), "launch graph");
  must(cudaStreamSynchronize(stream), "graph");
  must(cudaGraphExecDestroy(exec), "destroy");
  must(cudaGraphDestroy(graph), "destroy");
  return status;
}

static bool same(const buffers *b) {
  const struct {
    const char *name;
    const buffer *data;
  } outputs[] = {{"dst", &b->dst},
                 {"scale", &b->scale},
                 {"channel_scale", &b->channel_scale},
                 {"mean", &b->mean},
                 {"src", &b->src}};
  bool all = true;
  for (int i = 0; i < 5; i++) {
    int expected = 0, got = 0;
    int64_t at = difference(outputs[i].data, &expected, &got);
    if (at < 0) continue;
    printf("  %s byte %" PRId64 " of %zu: %02x, not %02x\n", outputs[i].name,
           at - (int64_t)outputs[i].data->start,
           outputs[i].data->bytes - outputs[i].data->start - GUARD, (unsigned)got,
           (unsigned)expected);
    all = false;
  }
  return all;
}

/* Nothing past the workspace's promised size was touched. */
static bool guard_whole(const buffers *b) {
  uint8_t guard[GUARD];
  const uint8_t *from = b->workspace.device + b->workspace.bytes - GUARD;
  must(cudaMemcpyAsync(guard, from, GUARD, cudaMemcpyDeviceToHost, stream), "copy guard");
  must(cudaStreamSynchronize(stream), "kernels");
  for (int i = 0; i < GUARD; i++)
    if (guard[i] != POISON) {
      printf("  the workspace's guard was written\n");
      return false;
    }
  return true;
}

static void run_case(const test_case *c) {
  size_t bytes = 0;
  ifa_message why = {};
  ifa_status status = ifa_cuda_quantize_workspace_bytes(&c->a, &bytes, &why);
  buffers b = make_buffers(c, bytes);
  ifa_quantize_args host = with_pointers(c, &b, false), device = with_pointers(c, &b, true);
  if (status == IFA_OK) status = ifa_quantize(&host, &why);
  if (status == IFA_OK) status = run_on_gpu(c, &device, b.workspace.device, bytes, &why);
  if (status != IFA_OK) printf("  %s: %s\n", ifa_status_name(status), why.text);
  bool good = status == IFA_OK && same(&b) && guard_whole(&b);
  must(cudaStreamSynchronize(stream), "kernels");
  must(cudaGetLastError(), "error left behind");
  if (!good) print_case(c);
  good ? passed++ : failed++;
  release(&b.src);
  release(&b.dst);
  release(&b.scale);
  release(&b.channel_scale);
  release(&b.mean);
  release(&b.workspace);
}

/* Enough items that chunks span several passes, and more tokens than a chunk. */
static void run_large(void) {
  static const struct {
    ifa_type src, dst;
    ifa_granularity grain;
    int mean;
    int64_t heads, tokens, head_dim;
  } list[] = {{IFA_F16, IFA_I8, IFA_SCALE_TOKEN, 0, 64, 4096, 128},
              {IFA_F16, IFA_I8, IFA_SCALE_CHANNEL, 0, 64, 4096, 128},
              {IFA_F16, IFA_I8, IFA_SCALE_TOKEN, 1, 64, 4099, 64},
              {IFA_BF16, IFA_I4, IFA_SCALE_TOKEN_CHANNEL, 1, 64, 4096, 128},
              {IFA_F32, IFA_I8, IFA_SCALE_BLOCK, 1, 37, 4097, 256},
              {IFA_F32, IFA_I8, IFA_SCALE_TENSOR, 1, 3, 70001, 129},
              {IFA_F32, IFA_I8, IFA_SCALE_CHANNEL, 1, 16, 17000, 128},
              {IFA_BF16, IFA_I8, IFA_SCALE_TENSOR, 0, 5000, 3, 64},
              {IFA_F16, IFA_I4, IFA_SCALE_BLOCK, 0, 1, 1000003, 8},
              {IFA_F16, IFA_I8, IFA_SCALE_CHANNEL, 1, 1, 3000001, 3}};
  for (size_t i = 0; i < sizeof list / sizeof list[0]; i++) {
    test_case c = {};
    c.a.src_type = list[i].src;
    c.a.dst_type = list[i].dst;
    c.a.granularity = list[i].grain;
    c.a.subtract_mean = list[i].mean;
    c.a.batch = 1;
    c.a.heads = list[i].heads;
    c.a.tokens = list[i].tokens;
    c.a.head_dim = list[i].head_dim;
    c.a.block = 64;
    c.has_mean = 1, c.fill = i % 2 ? OFFSETS : PLAIN;
    run_case(&c);
  }
}

/* ---- bad arguments ---- */

static void refuse(const char *what, const ifa_quantize_args *a, void *workspace, size_t bytes) {
  ifa_message why = {};
  ifa_status status = ifa_cuda_quantize(a, workspace, bytes, stream, &why);
  cudaError_t error = cudaGetLastError();
  bool good = status == IFA_BAD_ARGUMENT && why.text[0] && error == cudaSuccess;
  if (!good)
    printf("  %s: %s \"%s\", CUDA: %s\n", what, ifa_status_name(status), why.text,
           cudaGetErrorString(error));
  good ? passed++ : failed++;
}

static void run_refusals(void) {
  test_case c = {};
  c.a.src_type = IFA_F16;
  c.a.dst_type = IFA_I8;
  c.a.granularity = IFA_SCALE_TOKEN_CHANNEL;
  c.a.subtract_mean = 1;
  c.a.batch = 1;
  c.a.heads = 2;
  c.a.tokens = 65;
  c.a.head_dim = 64;
  c.has_mean = 1;
  size_t bytes = 0;
  ifa_message why;
  if (ifa_cuda_quantize_workspace_bytes(&c.a, &bytes, &why) != IFA_OK || bytes == 0) failed++;
  if (ifa_cuda_quantize_workspace_bytes(NULL, &bytes, &why) != IFA_BAD_ARGUMENT) failed++;
  if (ifa_cuda_quantize_workspace_bytes(&c.a, NULL, &why) != IFA_BAD_ARGUMENT) failed++;
  buffers b = make_buffers(&c, bytes);
  typedef ifa_quantize_args Args;
  const Args good = with_pointers(&c, &b, true), host = with_pointers(&c, &b, false);
  uint8_t *workspace = b.workspace.device;
  auto bad = [&](const char *what, auto spoil) {
    Args a = good;
    spoil(a);
    refuse(what, &a, workspace, bytes);
  };
  refuse("NULL args", NULL, workspace, bytes);
  bad("NULL src", [&](Args &a) { a.src = NULL; });
  bad("NULL dst", [&](Args &a) { a.dst = NULL; });
  bad("NULL scale", [&](Args &a) { a.scale = NULL; });
  bad("NULL channel_scale", [&](Args &a) { a.channel_scale = NULL; });
  bad("host src", [&](Args &a) { a.src = host.src; });
  bad("host dst", [&](Args &a) { a.dst = host.dst; });
  bad("host scale", [&](Args &a) { a.scale = host.scale; });
  bad("host channel_scale", [&](Args &a) { a.channel_scale = host.channel_scale; });
  bad("host mean", [&](Args &a) { a.mean = host.mean; });
  bad("misaligned src", [&](Args &a) { a.src = (const uint8_t *)good.src + 1; });
  refuse("NULL workspace", &good, NULL, bytes);
  refuse("short workspace", &good, workspace, bytes - 1);
  refuse("misaligned workspace", &good, workspace + 16, bytes);
  refuse("host workspace", &good, (void *)(((uintptr_t)b.workspace.host + 255) / 256 * 256), bytes);
  bad("head_dim 257", [&](Args &a) { a.head_dim = 257; });
  bad("tokens -1", [&](Args &a) { a.tokens = -1; });
  bad("dst f16", [&](Args &a) { a.dst_type = IFA_F16; });
  bad("block 0", [&](Args &a) { a.granularity = IFA_SCALE_BLOCK; });
  bad("overlapping rows", [&](Args &a) { a.dst_stride.token = 63; });
  must(cudaStreamSynchronize(stream), "after refusals");
  int expected, got; /* nothing was launched: the poison is whole */
  difference(&b.dst, &expected, &got) < 0 && difference(&b.scale, &expected, &got) < 0 ? passed++
                                                                                       : failed++;
  release(&b.src);
  release(&b.dst);
  release(&b.scale);
  release(&b.channel_scale);
  release(&b.mean);
  release(&b.workspace);
}

/* ---- timing ---- */

enum { RUNS = 20, WARM = 3 };

/* Median over RUNS calls, all in the stream's queue before the first is waited for. */
static float median_us(const ifa_quantize_args *a, uint8_t *workspace, size_t bytes) {
  cudaEvent_t events[RUNS + WARM][2];
  float us[RUNS + WARM];
  for (int i = 0; i < RUNS + WARM; i++)
    for (int k = 0; k < 2; k++) must(cudaEventCreate(&events[i][k]), "event");
  for (int i = 0; i < RUNS + WARM; i++) {
    must(cudaEventRecord(events[i][0], stream), "record");
    if (ifa_cuda_quantize(a, workspace, bytes, stream, NULL) != IFA_OK) exit(1);
    must(cudaEventRecord(events[i][1], stream), "record");
  }
  must(cudaStreamSynchronize(stream), "timing");
  for (int i = 0; i < RUNS + WARM; i++) {
    must(cudaEventElapsedTime(&us[i], events[i][0], events[i][1]), "elapsed");
    us[i] *= 1000.0f;
    for (int k = 0; k < 2; k++) must(cudaEventDestroy(events[i][k]), "event");
  }
  std::sort(us + WARM, us + WARM + RUNS);
  return (us[WARM + RUNS / 2 - 1] + us[WARM + RUNS / 2]) / 2;
}

/* Bytes: what each granularity has to move; by channel the source is read twice. */
static void time_one(const char *name, ifa_granularity granularity, int64_t reads) {
  test_case c = {};
  c.a.src_type = IFA_F16;
  c.a.dst_type = IFA_I8;
  c.a.granularity = granularity;
  c.a.batch = 4;
  c.a.heads = 16;
  c.a.tokens = 4096;
  c.a.head_dim = 128;
  size_t bytes = 0;
  if (ifa_cuda_quantize_workspace_bytes(&c.a, &bytes, NULL) != IFA_OK) exit(1);
  buffers b = make_buffers(&c, bytes);
  ifa_quantize_args a = with_pointers(&c, &b, true);
  float us = median_us(&a, b.workspace.device, bytes);
  int64_t elements = c.a.batch * c.a.heads * c.a.tokens * c.a.head_dim;
  int64_t moved = elements * (2 * reads + 1) + 4 * scale_count(&c.a);
  printf(" %s %.1f us %.0f GB/s", name, (double)us, (double)moved / (double)us * 1e-3);
  release(&b.src);
  release(&b.dst);
  release(&b.scale);
  release(&b.channel_scale);
  release(&b.mean);
  release(&b.workspace);
}

int main(int count, char **arguments) {
  int devices = 0, cases = count > 1 ? atoi(arguments[1]) : 400;
  bool quick = count > 2 && strcmp(arguments[2], "quick") == 0;
  cudaError_t error = cudaGetDeviceCount(&devices);
  if (error != cudaSuccess || devices == 0) {
    printf("quantize: not available: %s\n",
           error == cudaSuccess ? "no device" : cudaGetErrorString(error));
    return 3;
  }
  must(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream");
  run_refusals();
  for (int number = 0; number < cases; number++) {
    test_case c = random_case(number);
    run_case(&c);
  }
  if (!quick) run_large();
  printf("quantize: %d passed, %d failed\n", passed, failed);
  if (!quick) {
    printf("quantize: f16 [4,16,4096,128] to INT8, bytes read + written:");
    time_one("token", IFA_SCALE_TOKEN, 1);
    time_one("channel (source counted twice)", IFA_SCALE_CHANNEL, 2);
    printf("\n");
  }
  return failed ? 1 : 0;
}
