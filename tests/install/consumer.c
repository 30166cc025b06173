/* consumer.c - a program that uses an installed ifa: quantizes, attends with every backend that is
 * there, and checks what can be known without the library: with one live key, the output is that
 * key's value; and all backends agree to the last bit. C and C++ (consumer.cpp). */
#include <ifa.h>
#include <ifa_cache.h>
#include <ifa_cpu.h>
#include <ifa_plugin.h>
#if __has_include(<ifa_cuda.h>)
#include <ifa_cuda.h>
#define CUDA_STATUS ifa_status_name(ifa_cuda_available(&why))
#else
#define CUDA_STATUS "not in this build"
#endif
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { HEADS = 2, TOKENS = 100, DIM = 24, COUNT = HEADS * TOKENS * DIM };

static float q[COUNT], k[COUNT], v[COUNT], first[COUNT], o[COUNT];
static int8_t q8[COUNT], k8[COUNT], v8[COUNT];
static float q_scale[HEADS * TOKENS], k_scale[HEADS * TOKENS], v_scale[HEADS * DIM];

static int quantize(const float *from, int8_t *to, float *scale, ifa_granularity granularity) {
  ifa_message why;
  ifa_quantize_args a;
  memset(&a, 0, sizeof a);
  a.src = from;
  a.src_type = IFA_F32;
  a.batch = 1;
  a.heads = HEADS;
  a.tokens = TOKENS;
  a.head_dim = DIM;
  a.dst = to;
  a.dst_type = IFA_I8;
  a.granularity = granularity;
  a.scale = scale;
  if (ifa_quantize(&a, &why) == IFA_OK) return 1;
  return printf("quantize: %s\n", why.text), 0;
}

int main(void) {
  ifa_message why;
  ifa_problem p = ifa_problem_default();
  ifa_inputs in;
  ifa_outputs out;
  const char *isa;
  int ran = 0;
  unsigned random = 1;
  for (int i = 0; i < 3 * COUNT; i++) {
    random = random * 1664525u + 1013904223u;
    (i < COUNT ? q : i < 2 * COUNT ? k : v)[i % COUNT] = (float)(random >> 8) / 8388608.0f - 1.0f;
  }
  if (!quantize(q, q8, q_scale, IFA_SCALE_TOKEN) || !quantize(k, k8, k_scale, IFA_SCALE_TOKEN) ||
      !quantize(v, v8, v_scale, IFA_SCALE_CHANNEL))
    return 1;

  p.q_heads = p.kv_heads = HEADS;
  p.nq = p.nk = TOKENS;
  p.head_dim = DIM;
  p.causal = 1;
  memset(&in, 0, sizeof in);
  memset(&out, 0, sizeof out);
  in.q = q8;
  in.k = k8;
  in.v = v8;
  in.q_scale = q_scale;
  in.k_scale = k_scale;
  in.v_scale = v_scale;
  out.o = o;
  for (int i = 0; i < ifa_backend_count(); i++) {
    ifa_status status = ifa_run(ifa_backend_name(i), &p, &in, &out, &why);
    if (status != IFA_OK) {
      printf("%s: %s: %s\n", ifa_backend_name(i), ifa_status_name(status), why.text);
      if (status != IFA_NOT_AVAILABLE && status != IFA_UNSUPPORTED) return 1;
      continue;
    }
    if (ran++ == 0) memcpy(first, o, sizeof o);
    if (memcmp(first, o, sizeof o) != 0)
      return printf("%s: other bits than %s\n", ifa_backend_name(i), ifa_backend_name(0)), 1;
  }
  /* The first row of each head sees one key: V back from 8 bits, to half a step. */
  for (int i = 0; i < HEADS * DIM; i++) {
    int at = i / DIM * TOKENS * DIM + i % DIM;
    if (!(fabsf(first[at] - v[at]) <= 0.51f * v_scale[i]))
      return printf("output %d is %g, not near %g\n", at, (double)first[at], (double)v[at]), 1;
  }
  if (ifa_cpu_isa_available(NULL, &isa, &why) != IFA_OK) return printf("cpu: %s\n", why.text), 1;
  printf("cpu: %s, cuda: %s\n", isa, CUDA_STATUS);
  printf("ifa " IFA_VERSION ": %d backends agree\n", ran);
  return ran > 0 ? 0 : 1;
}
