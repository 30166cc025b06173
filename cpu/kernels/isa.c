/* isa.c - the instruction sets: which this build has, which the machine has, which is used. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#ifdef __linux__
#include <sys/auxv.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "cpu/kernels/kernels.h"
#include "ifa_cpu.h"

/* What the machine lacks for an instruction set: words for a message, or NULL. Unused where the
 * build has no kernels for it. */

static const char *nothing(void) { return NULL; }

#if defined(__x86_64__)
#include <cpuid.h>

/* Register file states that the operating system saves: bits 1-2 AVX, 5-7 AVX-512, 17-18 AMX. */
static uint32_t saved_states(void) {
  uint32_t a, b, c, d, low, high;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & 1u << 27)) return 0; /* OSXSAVE */
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return low;
}

enum { STATES_AVX = 0x6, STATES_AVX512 = 0xe6, STATES_AMX = 0x60000 };

static int saves(uint32_t states) { return (saved_states() & states) == states; }

/* Leaf 7: are all of these bits of ebx, ecx and edx set? */
static int leaf7(uint32_t ebx, uint32_t ecx, uint32_t edx) {
  uint32_t a, b, c, d;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & ebx) == ebx && (c & ecx) == ecx &&
         (d & edx) == edx;
}

static __attribute__((unused)) const char *lacks_avx2(void) {
  const uint32_t fma_f16c = 1u << 12 | 1u << 29;
  uint32_t a, b, c, d;
  int has = saves(STATES_AVX) && __get_cpuid(1, &a, &b, &c, &d) && (c & fma_f16c) == fma_f16c &&
            leaf7(1u << 5, 0, 0);
  return has ? NULL : "AVX2 with FMA and F16C";
}

static __attribute__((unused)) const char *lacks_avx_vnni(void) {
#ifdef IFA_AVX_VNNI_EMULATION
  return lacks_avx2();
#else
  uint32_t a, b, c, d; /* leaf 7, subleaf 1 */
  int has = !lacks_avx2() && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & 1u << 4);
  return has ? NULL : "AVX2, FMA and F16C with AVX-VNNI";
#endif
}

static __attribute__((unused)) const char *lacks_avx512_vnni(void) { /* F, DQ, BW, VL; VNNI */
  int has = !lacks_avx2() && saves(STATES_AVX512) &&
            leaf7(1u << 16 | 1u << 17 | 1u << 30 | 1u << 31, 1u << 11, 0);
  return has ? NULL : "AVX-512 (F, DQ, BW, VL) with VNNI";
}

static __attribute__((unused)) const char *lacks_avx512_fp16(void) { /* VBMI; FP16 */
  return !lacks_avx512_vnni() && leaf7(0, 1u << 1, 1u << 23) ? NULL
                                                             : "AVX-512 with VNNI, VBMI and FP16";
}

/* Tiles are a large state, so Linux gives them to a process that asks; all its threads then have
 * them. */
static __attribute__((unused)) const char *lacks_amx(void) {
#ifdef IFA_AMX_EMULATION
  const int emulated = 1;
#else
  const int emulated = 0;
#endif
#ifdef __linux__
  enum { REQUEST_PERMISSION = 0x1023 /* ARCH_REQ_XCOMP_PERM */, TILE_DATA = 18 };
  if (emulated) return NULL;
  if (lacks_avx512_fp16() || !leaf7(0, 0, 1u << 24 | 1u << 25) || !saves(STATES_AMX))
    return "AMX-INT8 (with AVX512-FP16)";
  return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0
             ? NULL
             : "the operating system's permission to use AMX tiles";
#else
  return "a known way to ask the operating system for AMX tiles";
#endif
}
#endif

#if defined(__aarch64__)
/* Bits of Linux's hardware capabilities: ASIMDHP, ASIMDDP; I8MM. */
enum { HWCAP_HALF = 1 << 10, HWCAP_DOTPROD = 1 << 20, HWCAP2_INT8_MATRIX = 1 << 13 };

static __attribute__((unused)) const char *lacks_neon_dotprod(void) {
#ifdef __linux__
  unsigned long has = getauxval(AT_HWCAP);
  if ((has & HWCAP_HALF) && (has & HWCAP_DOTPROD)) return NULL;
#endif
  return "NEON with dotprod and fp16";
}

static __attribute__((unused)) const char *lacks_neon_i8mm(void) {
#ifdef __linux__
  if (!lacks_neon_dotprod() && (getauxval(AT_HWCAP2) & HWCAP2_INT8_MATRIX)) return NULL;
#endif
  return "NEON with dotprod, fp16 and i8mm";
}
#endif

/* What this build has: cpu/CMakeLists.txt. */
#define ABSENT NULL, NULL
#ifdef IFA_CPU_HAVE_AVX2
#define AVX2 &ifa_cpu_avx2, lacks_avx2
#else
#define AVX2 ABSENT
#endif
#ifdef IFA_CPU_HAVE_AVX_VNNI
#define AVX_VNNI &ifa_cpu_avx_vnni, lacks_avx_vnni
#else
#define AVX_VNNI ABSENT
#endif
#ifdef IFA_CPU_HAVE_AVX512_VNNI
#define AVX512_VNNI &ifa_cpu_avx512_vnni, lacks_avx512_vnni
#else
#define AVX512_VNNI ABSENT
#endif
#ifdef IFA_CPU_HAVE_AVX512_FP16
#define AVX512_FP16 &ifa_cpu_avx512_fp16, lacks_avx512_fp16
#else
#define AVX512_FP16 ABSENT
#endif
#ifdef IFA_CPU_HAVE_AMX
#define AMX &ifa_cpu_amx, lacks_amx
#else
#define AMX ABSENT
#endif
#ifdef IFA_CPU_HAVE_NEON_DOTPROD
#define NEON_DOTPROD &ifa_cpu_neon_dotprod, lacks_neon_dotprod
#else
#define NEON_DOTPROD ABSENT
#endif
#ifdef IFA_CPU_HAVE_NEON_I8MM
#define NEON_I8MM &ifa_cpu_neon_i8mm, lacks_neon_i8mm
#else
#define NEON_I8MM ABSENT
#endif

/* Ascending: the last one that the machine has is the best for blocks of many rows. */
static const ifa_cpu_isa isas[] = {
    {"portable", "plain C", &ifa_cpu_portable, nothing},
    {"avx2", "AVX2, FMA and F16C: pmaddwd", AVX2},
    {"avx_vnni", "AVX2 with AVX-VNNI", AVX_VNNI},
    {"avx512_vnni", "AVX-512 VNNI", AVX512_VNNI},
    {"avx512_fp16", "AVX-512 VNNI, weights in binary16", AVX512_FP16},
    {"amx", "AMX-INT8 tiles", AMX},
    {"neon_dotprod", "NEON with dotprod and fp16", NEON_DOTPROD},
    {"neon_i8mm", "NEON with dotprod, fp16 and i8mm", NEON_I8MM},
};
enum { ISA_COUNT = sizeof isas / sizeof isas[0] };

int ifa_cpu_isas(void) { return ISA_COUNT; }
const ifa_cpu_isa *ifa_cpu_isa_at(int index) {
  return index >= 0 && index < ISA_COUNT ? &isas[index] : NULL;
}
int ifa_cpu_isa_count(void) { return ISA_COUNT; }
const char *ifa_cpu_isa_name(int index) {
  return index >= 0 && index < ISA_COUNT ? isas[index].name : NULL;
}

/* Asked once: in a virtual machine cpuid is slow. */
static const char *lacking[ISA_COUNT];

static void look(void) {
  for (int i = 0; i < ISA_COUNT; i++) lacking[i] = isas[i].kernels ? isas[i].lacks() : "kernels";
}

static uint32_t find_available(void) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  uint32_t available = 0;
  pthread_once(&once, look);
  for (int i = 0; i < ISA_COUNT; i++) available |= lacking[i] ? 0 : 1u << i;
  return available;
}

/* The list ascends, but for AMX and blocks of few rows. */
ifa_cpu_choice ifa_cpu_choice_of(uint32_t available) {
  ifa_cpu_choice choice = {&isas[0], &isas[0]};
  for (int i = 1; i < ISA_COUNT; i++) {
    if (!(available & 1u << i)) continue;
    choice.many = &isas[i];
    if (strcmp(isas[i].name, "amx") != 0) choice.few = &isas[i];
  }
  return choice;
}

ifa_status ifa_cpu_choose(const char *name, ifa_cpu_choice *choice, ifa_message *message) {
  const char *from = "isa";
  const uint32_t available = find_available();
  if (!name) {
    name = getenv("IFA_CPU_ISA");
    from = "IFA_CPU_ISA";
  }
  if (!name || (!*name && from[0] == 'I')) {
    *choice = ifa_cpu_choice_of(available);
    return ifa_succeed(message);
  }
  for (int i = 0; i < ISA_COUNT; i++) {
    if (strcmp(name, isas[i].name) != 0) continue;
    if (!isas[i].kernels)
      return ifa_fail(message, IFA_NOT_AVAILABLE, "%s: not in this build", name);
    if (lacking[i])
      return ifa_fail(message, IFA_NOT_AVAILABLE, "%s: this machine lacks %s", name, lacking[i]);
    choice->many = choice->few = &isas[i];
    return ifa_succeed(message);
  }
  return ifa_fail(message, IFA_BAD_ARGUMENT,
                  "%s: there is no instruction set '%.60s' (portable, avx2, avx_vnni, "
                  "avx512_vnni, avx512_fp16, amx, neon_dotprod, neon_i8mm)",
                  from, name);
}

ifa_status ifa_cpu_find_isa(const char *name, const ifa_cpu_isa **isa, ifa_message *message) {
  ifa_cpu_choice choice;
  ifa_status status = ifa_cpu_choose(name, &choice, message);
  if (status == IFA_OK) *isa = choice.many;
  return status;
}

ifa_status ifa_cpu_isa_available(const char *isa, const char **chosen, ifa_message *message) {
  const ifa_cpu_isa *found = NULL;
  ifa_status status = ifa_cpu_find_isa(isa, &found, message);
  if (chosen) *chosen = found ? found->name : NULL;
  return status;
}
