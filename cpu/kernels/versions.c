/* versions.c - which versions of the loops the machine has; asked once: in a virtual machine cpuid
 * is slow. */
#include "cpu/kernels/versions.h"

#include <stdatomic.h>

#if defined(__x86_64__)
#include <cpuid.h>

static int find(void) {
  const unsigned f16c = 1u << 29; /* a name for it is not known to every compiler */
  unsigned a, b, c, d;
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") ||
      !__get_cpuid(1, &a, &b, &c, &d) || !(c & f16c))
    return IFA_VERSION_GENERIC;
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                 __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")
             ? IFA_VERSION_AVX512
             : IFA_VERSION_AVX2;
}
#else
static int find(void) { return IFA_VERSION_GENERIC; }
#endif

int ifa_cpu_version(void) {
  static atomic_int known; /* whoever comes at once finds the same */
  int version = atomic_load_explicit(&known, memory_order_relaxed);
  if (version) return version;
  version = find();
  atomic_store_explicit(&known, version, memory_order_relaxed);
  return version;
}
