/* bench.h - what the parts of the GPU benchmark share: failing and timing. */
#ifndef IFA_GPU_BENCH_H
#define IFA_GPU_BENCH_H

#include <cuda_runtime.h>
#include <stdio.h>
#include <stdlib.h>

#include <algorithm>
#include <vector>

#include "gpu/bench/ceiling.h"

static inline void must(cudaError_t error, const char *what) {
  if (error == cudaSuccess) return;
  fprintf(stderr, "bench_gpu: %s: %s\n", what, cudaGetErrorString(error));
  exit(1);
}

/* Median event time of `count` calls of work() on the default stream, after `warm` that do not
 * count. */
template <typename F> static inline float median_ms(int warm, int count, F work) {
  cudaEvent_t from, to;
  std::vector<float> times;
  must(cudaEventCreate(&from), "event");
  must(cudaEventCreate(&to), "event");
  for (int i = -warm; i < count; i++) {
    float ms = 0;
    must(cudaEventRecord(from), "event");
    work();
    must(cudaEventRecord(to), "event");
    must(cudaEventSynchronize(to), "run");
    must(cudaEventElapsedTime(&ms, from, to), "event");
    if (i >= 0) times.push_back(ms);
  }
  cudaEventDestroy(from);
  cudaEventDestroy(to);
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

#endif
