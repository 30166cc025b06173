/* versions.h - loops written once and compiled for several instruction sets: a function that is
 * always inlined takes on its caller's. Each operation stays one IEEE operation on one element, so
 * all versions give the same bits. */
#ifndef IFA_CPU_VERSIONS_H
#define IFA_CPU_VERSIONS_H

#define IFA_BODY static inline __attribute__((always_inline))

#if defined(__x86_64__)
#define IFA_AVX2 "avx2,fma,f16c"
#define IFA_AVX512 "avx512f,avx512bw,avx512dq,avx512vl,fma,f16c"
#define IFA_TARGET_AVX2 __attribute__((target(IFA_AVX2)))
#if defined(__clang__)
#define IFA_TARGET_AVX512 __attribute__((target(IFA_AVX512)))
#else
#define IFA_TARGET_AVX512 __attribute__((target(IFA_AVX512 ",prefer-vector-width=512")))
#endif
#endif

/* The versions that the machine has: those up to this one. */
enum { IFA_VERSION_GENERIC = 1, IFA_VERSION_AVX2, IFA_VERSION_AVX512 };
int ifa_cpu_version(void);

/* A file's tables of such functions, `generic`, `avx2` and `avx512`, to the outside: NAME_at(i) is
 * the i-th that the machine has, or NULL; NAME_best() the last. */
#if defined(__x86_64__)
#define IFA_VERSIONS , &avx2, &avx512
#else
#define IFA_VERSIONS
#endif
#define IFA_CHOOSE_VERSION(type, name)                                   \
  const type *name##_at(int index) {                                     \
    static const type *const have[] = {&generic IFA_VERSIONS};           \
    return index >= 0 && index < ifa_cpu_version() ? have[index] : NULL; \
  }                                                                      \
  const type *name##_best(void) { return name##_at(ifa_cpu_version() - 1); }

#endif
