/* bench.cu - speed of the GPU attention against the ceiling of its instruction, both measured in the same run.
 *
 *   bench_gpu [--rows N]
 *
 * Operands stand for standard normal tensors (INT8 per token, 3.5 standard deviations to 127). Before a figure is printed, N rows (default
 * 8) of each case are computed by the oracle from the same operands and compared bit by bit. Times are event times of the attention call alone
 * (packing included, since the caller's layout is plain); each the median of 9 groups of 4 calls. TOPS count 4 B H N^2 D
 * operations, half of it when causal. Exit codes: 0, 1 a difference, 3 no device. */
#include <cuda_runtime.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <vector>

extern "C" {
#include "common/operand.h"
#include "common/problem.h"
#include "common/random.h"
}
#include "ifa_cuda.h"

static void must(cudaError_t error, const char *what) {
  if (error == cudaSuccess) return;
  fprintf(stderr, "bench_gpu: %s: %s\n", what, cudaGetErrorString(error));
  exit(1);
}

/* ---- ceiling: mma.sync u8 x s8 on random registers ---- */

static __global__ void mma_rate(uint32_t seed, int iterations, uint32_t *out) {
  uint32_t x = seed * (threadIdx.x + 1) + blockIdx.x, a[4], b[8][2];
  int c[16][4] = {};
  for (auto &v : a) v = x = x * 1664525u + 1013904223u;
  for (auto &v : b) v[0] = x = x * 1664525u + 1013904223u, v[1] = x = x * 1664525u + 1013904223u;
  for (int n = 0; n < iterations; n++)
#pragma unroll
    for (int i = 0; i < 16; i++)
      asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                   : "+r"(c[i][0]), "+r"(c[i][1]), "+r"(c[i][2]), "+r"(c[i][3])
                   : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[i & 7][0]), "r"(b[i & 7][1]));
  for (auto &tile : c) x ^= tile[0] ^ tile[1] ^ tile[2] ^ tile[3];
  out[blockIdx.x * blockDim.x + threadIdx.x] = x;
}

template <typename F> static float median_ms(int warm, int count, F work) {
  cudaEvent_t from, to;
  std::vector<float> times;
  must(cudaEventCreate(&from), "event");
  must(cudaEventCreate(&to), "event");
  for (int i = -warm; i < count; i++) {
    float ms;
    cudaEventRecord(from);
    work();
    cudaEventRecord(to);
    must(cudaEventSynchronize(to), "run");
    cudaEventElapsedTime(&ms, from, to);
    if (i >= 0) times.push_back(ms);
  }
  cudaEventDestroy(from);
  cudaEventDestroy(to);
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

static double measure_ceiling(int multiprocessors) {
  uint32_t *out;
  must(cudaMalloc(&out, (size_t)multiprocessors * 512 * 4), "ceiling");
  float ms = median_ms(2, 5, [&] { mma_rate<<<multiprocessors, 512>>>(12345, 20000, out); });
  must(cudaGetLastError(), "ceiling");
  cudaFree(out);
  return multiprocessors * 16.0 * 20000 * 16 * 2 * 16 * 8 * 32 / ms * 1e-9;
}

/* ---- operands ---- */

static __global__ void draw(int8_t *to, float *scale, int64_t rows, int dim, uint32_t seed, float factor) {
  int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= rows * dim) return;
  uint64_t x = (uint64_t)i * 0x9e3779b97f4a7c15u + seed;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  x ^= x >> 31;
  float sum = 0; /* eight uniforms: nearly normal, standard deviation 36.3 */
  for (int b = 0; b < 8; b++) sum += (float)(x >> (8 * b) & 255) - 127.5f;
  int value = (int)rintf(sum * 0.1736f);
  to[i] = (int8_t)min(max(value, -127), 127);
  if (i % dim == 0) scale[i / dim] = factor / 36.3f * (0.9f + 0.2f * (float)(x & 1023) / 1024.0f);
}

struct Operands {
  int8_t *q, *k, *v;
  float *q_scale, *k_scale, *v_scale;
  void *o, *workspace;
  size_t workspace_bytes;
};

static Operands make(const ifa_problem &p, float spread) {
  Operands x = {};
  int64_t rows = p.batch * p.q_heads * p.nq, elements = rows * p.head_dim;
  int8_t **tensors[3] = {&x.q, &x.k, &x.v};
  float **scales[3] = {&x.q_scale, &x.k_scale, &x.v_scale};
  for (int i = 0; i < 3; i++) {
    must(cudaMalloc(tensors[i], elements), "operands");
    must(cudaMalloc(scales[i], rows * 4), "scales");
    draw<<<(unsigned)((elements + 255) / 256), 256>>>(*tensors[i], *scales[i], rows, p.head_dim, 77 + i, i == 0 ? spread : 1.0f);
  }
  must(cudaMalloc(&x.o, elements * 2), "output");
  must(cudaMemset(x.o, 0xff, elements * 2), "output");
  ifa_message why;
  if (ifa_cuda_workspace_bytes(&p, &x.workspace_bytes, &why) != IFA_OK) fprintf(stderr, "%s\n", why.text), exit(1);
  must(cudaMalloc(&x.workspace, x.workspace_bytes), "workspace");
  return x;
}

static void release(Operands &x) {
  void *list[] = {x.q, x.k, x.v, x.q_scale, x.k_scale, x.v_scale, x.o, x.workspace};
  for (void *block : list) cudaFree(block);
}

/* Some rows by the oracle. */
static int64_t differing(const ifa_problem &p, const Operands &x, int rows_wanted) {
  int64_t rows = p.batch * p.q_heads * p.nq, elements = rows * p.head_dim;
  std::vector<int8_t> q(elements), k(elements), v(elements);
  std::vector<float> q_scale(rows), k_scale(rows), v_scale(rows);
  std::vector<uint16_t> got(elements), expected(elements);
  cudaMemcpy(q.data(), x.q, elements, cudaMemcpyDeviceToHost);
  cudaMemcpy(k.data(), x.k, elements, cudaMemcpyDeviceToHost);
  cudaMemcpy(v.data(), x.v, elements, cudaMemcpyDeviceToHost);
  cudaMemcpy(q_scale.data(), x.q_scale, rows * 4, cudaMemcpyDeviceToHost);
  cudaMemcpy(k_scale.data(), x.k_scale, rows * 4, cudaMemcpyDeviceToHost);
  cudaMemcpy(v_scale.data(), x.v_scale, rows * 4, cudaMemcpyDeviceToHost);
  must(cudaMemcpy(got.data(), x.o, elements * 2, cudaMemcpyDeviceToHost), "copy back");
  std::vector<int64_t> chosen;
  for (int i = 0; i < rows_wanted; i++) chosen.push_back((int64_t)(ifa_random_bits(5, 1, (uint64_t)i) % (uint64_t)rows));
  std::sort(chosen.begin(), chosen.end());
  chosen.erase(std::unique(chosen.begin(), chosen.end()), chosen.end());
  ifa_inputs in = {};
  in.q = q.data(), in.k = k.data(), in.v = v.data();
  in.q_scale = q_scale.data(), in.k_scale = k_scale.data(), in.v_scale = v_scale.data();
  in.rows = chosen.data(), in.row_count = (int64_t)chosen.size();
  ifa_outputs out = {};
  out.o = expected.data();
  ifa_message why;
  if (ifa_run("scalar", &p, &in, &out, &why) != IFA_OK) fprintf(stderr, "%s\n", why.text), exit(1);
  int64_t wrong = 0;
  for (int64_t row : chosen)
    for (int d = 0; d < p.head_dim; d++) wrong += got[row * p.head_dim + d] != expected[row * p.head_dim + d];
  return wrong;
}

int main(int argc, char **argv) {
  int rows = argc == 3 && !strcmp(argv[1], "--rows") ? atoi(argv[2]) : 8, bad = 0;
  ifa_message why;
  if (ifa_cuda_available(&why) != IFA_OK) return printf("not available: %s\n", why.text), 3;
  cudaDeviceProp device;
  int driver, runtime;
  must(cudaGetDeviceProperties(&device, 0), "device");
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&runtime);
  double ceiling = measure_ceiling(device.multiProcessorCount);
  printf("%s, driver API %d, runtime %d; mma.sync u8*s8 ceiling %.0f TOPS; median of 9 groups of 4 calls, f16 output, %d rows checked\n", device.name, driver, runtime, ceiling, rows);
  printf("%-34s %10s %8s %8s\n", "case", "ms", "TOPS", "ceiling");
  const struct { int d, b, h, n, causal; } shapes[] = {{128, 1, 16, 16384, 0}, {128, 1, 16, 16384, 1}, {64, 1, 32, 16384, 0}, {128, 16, 16, 1024, 0}, {128, 4, 16, 4096, 0}};
  for (const auto &s : shapes)
    for (int token = 0; token < 2; token++)
      for (float spread : {1.0f, 3.0f}) {
        if (spread != 1.0f && (s.causal || s.d != 128 || s.n < 16384)) continue;
        ifa_problem p = ifa_problem_default();
        p.batch = s.b, p.q_heads = p.kv_heads = s.h, p.nq = p.nk = s.n, p.head_dim = s.d, p.causal = s.causal;
        p.sm_scale = 1.0f / sqrtf((float)s.d), p.tau = 4, p.out_type = IFA_F16, p.v_scale = token ? IFA_SCALE_TOKEN : IFA_SCALE_CHANNEL;
        Operands x = make(p, spread);
        ifa_inputs in = {};
        in.q = x.q, in.k = x.k, in.v = x.v, in.q_scale = x.q_scale, in.k_scale = x.k_scale, in.v_scale = x.v_scale;
        ifa_outputs out = {};
        out.o = x.o;
        auto run = [&] {
          if (ifa_cuda_attend(&p, &in, &out, x.workspace, x.workspace_bytes, nullptr, &why) != IFA_OK) fprintf(stderr, "%s\n", why.text), exit(1);
        };
        run();
        must(cudaDeviceSynchronize(), "attention");
        int64_t wrong = differing(p, x, rows);
        char name[64];
        snprintf(name, sizeof name, "D%d b%d h%d n%d%s %s%s", s.d, s.b, s.h, s.n, s.causal ? " causal" : "", token ? "token" : "channel", spread == 1.0f ? "" : " x3");
        if (wrong) {
          printf("%-34s WRONG: %lld values differ\n", name, (long long)wrong);
          bad = 1;
        } else {
          float ms = median_ms(1, 9, [&] { for (int i = 0; i < 4; i++) run(); }) / 4; /* several launches: the host's part overlaps */
          double operations = 4.0 * s.b * s.h * (double)s.n * s.n * s.d / (s.causal ? 2 : 1), tops = operations / ms * 1e-9;
          printf("%-34s %10.3f %8.0f %7.1f%%\n", name, ms, tops, 100 * tops / ceiling);
        }
        release(x);
      }
  return bad;
}
