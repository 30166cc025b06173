/* isa.c - the instruction sets: which this build has, which the machine has, which is used. */
#include <stdlib.h>
#include <string.h>

#include "cpu/kernels.h"
#include "ifa_cpu.h"

static int always(void) { return 1; }

#if defined(__x86_64__)
#include <cpuid.h>

/* Register file states that the operating system saves: bits 1-2 AVX, 5-7 AVX-512, 17-18 AMX. */
static uint32_t saved_states(void) {
  uint32_t a, b, c, d, low, high;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & 1u << 27)) return 0; /* OSXSAVE */
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return low;
}

enum { STATES_AVX = 0x6, STATES_AVX512 = 0xe6 };

/* Leaf 7: are all of these bits of ebx, ecx and edx set? */
static int leaf7(uint32_t ebx, uint32_t ecx, uint32_t edx) {
  uint32_t a, b, c, d;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & ebx) == ebx && (c & ecx) == ecx && (d & edx) == edx;
}

static inline int has_avx2(void) {
  const uint32_t fma_f16c = 1u << 12 | 1u << 29;
  uint32_t a, b, c, d;
  return (saved_states() & STATES_AVX) == STATES_AVX && __get_cpuid(1, &a, &b, &c, &d) && (c & fma_f16c) == fma_f16c && leaf7(1u << 5, 0, 0);
}

static inline int has_avx512_vnni(void) { /* F, DQ, BW, VL; VNNI */
  return has_avx2() && (saved_states() & STATES_AVX512) == STATES_AVX512 && leaf7(1u << 16 | 1u << 17 | 1u << 30 | 1u << 31, 1u << 11, 0);
}

static inline int has_avx512_fp16(void) { return has_avx512_vnni() && leaf7(0, 1u << 1, 1u << 23); } /* VBMI; FP16 */
#endif

#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>

enum { HWCAP_HALF = 1 << 10 /* ASIMDHP */, HWCAP_DOTPROD = 1 << 20 /* ASIMDDP */, HWCAP2_INT8_MATRIX = 1 << 13 /* I8MM */ };

static inline int has_neon_dotprod(void) {
  const unsigned long wanted = HWCAP_HALF | HWCAP_DOTPROD;
  return (getauxval(AT_HWCAP) & wanted) == wanted;
}

static inline int has_neon_i8mm(void) { return has_neon_dotprod() && (getauxval(AT_HWCAP2) & HWCAP2_INT8_MATRIX); }
#endif

/* What this build has: cpu/CMakeLists.txt. */
#define ABSENT NULL, NULL
#ifdef IFA_CPU_HAVE_AVX2
#define AVX2 &ifa_cpu_avx2, has_avx2
#else
#define AVX2 ABSENT
#endif
#ifdef IFA_CPU_HAVE_AVX512_VNNI
#define AVX512_VNNI &ifa_cpu_avx512_vnni, has_avx512_vnni
#else
#define AVX512_VNNI ABSENT
#endif
#ifdef IFA_CPU_HAVE_AVX512_FP16
#define AVX512_FP16 &ifa_cpu_avx512_fp16, has_avx512_fp16
#else
#define AVX512_FP16 ABSENT
#endif
#ifdef IFA_CPU_HAVE_AMX
#define AMX &ifa_cpu_amx, has_amx
#else
#define AMX ABSENT
#endif
#ifdef IFA_CPU_HAVE_NEON_DOTPROD
#define NEON_DOTPROD &ifa_cpu_neon_dotprod, has_neon_dotprod
#else
#define NEON_DOTPROD ABSENT
#endif
#ifdef IFA_CPU_HAVE_NEON_I8MM
#define NEON_I8MM &ifa_cpu_neon_i8mm, has_neon_i8mm
#else
#define NEON_I8MM ABSENT
#endif

/* Ascending: the last one that the machine has is the best. */
static const ifa_cpu_isa isas[] = {
    {"portable", "plain C", &ifa_cpu_portable, always},
    {"avx2", "AVX2, FMA and F16C: pmaddwd", AVX2},
    {"avx512_vnni", "AVX-512 VNNI", AVX512_VNNI},
    {"avx512_fp16", "AVX-512 VNNI, weights in binary16", AVX512_FP16},
    {"amx", "AMX-INT8 tiles", AMX},
    {"neon_dotprod", "NEON with dotprod and fp16", NEON_DOTPROD},
    {"neon_i8mm", "NEON with dotprod, fp16 and i8mm", NEON_I8MM},
};
enum { ISA_COUNT = sizeof isas / sizeof isas[0] };

int ifa_cpu_isas(void) { return ISA_COUNT; }
const ifa_cpu_isa *ifa_cpu_isa_at(int index) { return index >= 0 && index < ISA_COUNT ? &isas[index] : NULL; }
int ifa_cpu_isa_count(void) { return ISA_COUNT; }
const char *ifa_cpu_isa_name(int index) { return index >= 0 && index < ISA_COUNT ? isas[index].name : NULL; }

static int there(const ifa_cpu_isa *isa) { return isa->kernels && isa->machine_has(); }

ifa_status ifa_cpu_find_isa(const char *name, const ifa_cpu_isa **isa, ifa_message *message) {
  const char *from = "isa";
  if (!name) {
    name = getenv("IFA_CPU_ISA");
    from = "IFA_CPU_ISA";
  }
  if (!name || (!*name && from[0] == 'I')) {
    int best = ISA_COUNT - 1;
    while (!there(&isas[best])) best--; /* portable always is */
    *isa = &isas[best];
    return ifa_succeed(message);
  }
  for (int i = 0; i < ISA_COUNT; i++) {
    if (strcmp(name, isas[i].name) != 0) continue;
    if (!isas[i].kernels) return ifa_fail(message, IFA_NOT_AVAILABLE, "%s: not in this build", name);
    if (!isas[i].machine_has()) return ifa_fail(message, IFA_NOT_AVAILABLE, "%s: this machine does not have it", name);
    *isa = &isas[i];
    return ifa_succeed(message);
  }
  return ifa_fail(message, IFA_BAD_ARGUMENT, "%s: there is no instruction set '%.60s' (portable, avx2, avx512_vnni, avx512_fp16, amx, neon_dotprod, neon_i8mm)", from, name);
}

ifa_status ifa_cpu_isa_available(const char *isa, const char **chosen, ifa_message *message) {
  const ifa_cpu_isa *found = NULL;
  ifa_status status = ifa_cpu_find_isa(isa, &found, message);
  if (chosen) *chosen = found ? found->name : NULL;
  return status;
}
