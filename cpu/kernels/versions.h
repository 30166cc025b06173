/* versions.h - loops written once and compiled for several instruction sets: a function that is
 * always inlined takes on its caller's. Each operation stays one IEEE operation on one element, so
 * all versions give the same bits. */
#ifndef IFA_CPU_VERSIONS_H
#define IFA_CPU_VERSIONS_H

#define IFA_BODY static inline __attribute__((always_inline))

#if defined(__x86_64__)
#define IFA_TARGET_AVX2 __attribute__((target("avx2,fma,f16c")))
#define IFA_TARGET_AVX512 \
  __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma,f16c,prefer-vector-width=512")))

/* Which versions the machine has. */
static inline int ifa_has_avx2(void) {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         __builtin_cpu_supports("f16c");
}
static inline int ifa_has_avx512(void) {
  return ifa_has_avx2() && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#endif

#endif
