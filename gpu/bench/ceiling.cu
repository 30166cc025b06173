/* ceiling.cu - what the benchmark is read against, measured in the same run: the rates of products
 * and of copies, and what a product costs the warp scheduler. */
#include "gpu/bench/bench.h"

#include <stdint.h>

enum { THREADS = 512, TILES = 16, ITERATIONS = 20000 };
enum { ISSUE_THREADS = 256, ISSUE_ITERATIONS = 1000 }; /* two warps a scheduler */

static __device__ __forceinline__ void multiply(int (&c)[4], const uint32_t (&a)[4],
                                                const uint32_t (&b)[2]) {
  asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
               "{%8,%9}, {%0,%1,%2,%3};"
               : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* Operands are random (zeros would draw less power and run faster), all of them registers; 16
 * independent sums a warp. */
static __global__ void mma_rate(uint32_t seed, uint32_t *out) {
  uint32_t x = seed * (threadIdx.x + 1) + blockIdx.x, a[4], b[8][2];
  int c[TILES][4] = {};
  for (auto &v : a) v = x = x * 1664525u + 1013904223u;
  for (auto &v : b) v[0] = x = x * 1664525u + 1013904223u, v[1] = x = x * 1664525u + 1013904223u;
  for (int n = 0; n < ITERATIONS; n++)
#pragma unroll
    for (int i = 0; i < TILES; i++) multiply(c[i], a, b[i & 7]);
  for (auto &tile : c) x ^= tile[0] ^ tile[1] ^ tile[2] ^ tile[3];
  out[blockIdx.x * blockDim.x + threadIdx.x] = x;
}

double measure_mma_tops() {
  int device = 0, multiprocessors = 0;
  uint32_t *out = NULL;
  must(cudaGetDevice(&device), "ceiling");
  must(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device), "ceiling");
  must(cudaMalloc((void **)&out, (size_t)multiprocessors * THREADS * sizeof *out), "ceiling");
  float ms = median_ms(2, 5, [&] { mma_rate<<<multiprocessors, THREADS>>>(12345, out); });
  must(cudaGetLastError(), "ceiling");
  must(cudaFree(out), "ceiling");
  return multiprocessors * (THREADS / 32.0) * ITERATIONS * TILES * (2 * 16 * 8 * 32) / ms * 1e-9;
}

/* Products and, after each, OTHERS independent binary32 additions of a constant; the clocks of
 * block 0. */
template <int OTHERS>
static __global__ void issue_rate(uint32_t seed, uint32_t *out, long long *clocks) {
  uint32_t x = seed * (threadIdx.x + 1), a[4], b[2];
  int c[TILES][4] = {};
  float f[16];
  for (auto &v : a) v = x = x * 1664525u + 1013904223u;
  for (auto &v : b) v = x = x * 1664525u + 1013904223u;
  for (auto &v : f) v = (float)threadIdx.x;
  __syncthreads();
  const long long start = clock64();
  for (int n = 0; n < ISSUE_ITERATIONS; n++)
#pragma unroll
    for (int i = 0; i < TILES; i++) {
      multiply(c[i], a, b);
#pragma unroll
      for (int j = 0; j < OTHERS; j++)
        asm volatile("add.rn.f32 %0, %0, 0f3f800000;" : "+f"(f[(i * OTHERS + j) & 15]));
    }
  const long long end = clock64();
  for (auto &tile : c) x ^= tile[0] ^ tile[1] ^ tile[2] ^ tile[3];
  for (float v : f) x ^= __float_as_uint(v);
  out[blockIdx.x * blockDim.x + threadIdx.x] = x;
  if (blockIdx.x == 0 && threadIdx.x == 0) *clocks = end - start;
}

double measure_product_clocks(int others) {
  uint32_t *out = NULL;
  long long *clocks = NULL, measured = 0;
  must(cudaMalloc((void **)&out, ISSUE_THREADS * sizeof *out), "issue");
  must(cudaMalloc((void **)&clocks, sizeof *clocks), "issue");
  for (int run = 0; run < 2; run++) {
    if (others == 0) issue_rate<0><<<1, ISSUE_THREADS>>>(12345, out, clocks);
    else issue_rate<4><<<1, ISSUE_THREADS>>>(12345, out, clocks);
  }
  must(cudaMemcpy(&measured, clocks, sizeof measured, cudaMemcpyDeviceToHost), "issue");
  must(cudaFree(out), "issue");
  must(cudaFree(clocks), "issue");
  return (double)measured / (ISSUE_ITERATIONS * TILES * (ISSUE_THREADS / 128));
}

double measure_copy_gb_per_s() {
  const size_t bytes = (size_t)1 << 30;
  uint8_t *from = NULL, *to = NULL;
  must(cudaMalloc((void **)&from, bytes), "copy");
  must(cudaMalloc((void **)&to, bytes), "copy");
  must(cudaMemset(from, 1, bytes), "copy");
  float ms = median_ms(
      1, 5, [&] { must(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice), "copy"); });
  must(cudaFree(from), "copy");
  must(cudaFree(to), "copy");
  return 2.0 * (double)bytes / ms * 1e-6;
}
