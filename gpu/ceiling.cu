/* ceiling.cu - the two ceilings that the benchmark is read against, measured in the same run. */
#include "gpu/bench.h"

#include <stdint.h>

enum { THREADS = 512, TILES = 16, ITERATIONS = 20000 };

/* Operands are random (zeros would draw less power and run faster), all of them registers; 16 independent sums a warp. */
static __global__ void mma_rate(uint32_t seed, uint32_t *out) {
  uint32_t x = seed * (threadIdx.x + 1) + blockIdx.x, a[4], b[8][2];
  int c[TILES][4] = {};
  for (auto &v : a) v = x = x * 1664525u + 1013904223u;
  for (auto &v : b) v[0] = x = x * 1664525u + 1013904223u, v[1] = x = x * 1664525u + 1013904223u;
  for (int n = 0; n < ITERATIONS; n++)
#pragma unroll
    for (int i = 0; i < TILES; i++)
      asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                   : "+r"(c[i][0]), "+r"(c[i][1]), "+r"(c[i][2]), "+r"(c[i][3])
                   : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[i & 7][0]), "r"(b[i & 7][1]));
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

double measure_copy_gb_per_s() {
  const size_t bytes = (size_t)1 << 30;
  uint8_t *from = NULL, *to = NULL;
  must(cudaMalloc((void **)&from, bytes), "copy");
  must(cudaMalloc((void **)&to, bytes), "copy");
  must(cudaMemset(from, 1, bytes), "copy");
  float ms = median_ms(1, 5, [&] { must(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice), "copy"); });
  must(cudaFree(from), "copy");
  must(cudaFree(to), "copy");
  return 2.0 * (double)bytes / ms * 1e-6;
}
