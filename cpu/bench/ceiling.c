/* ceiling.c - loops of one instruction with enough independent sums to hide its latency. */
#include "cpu/bench/ceiling.h"

#include <string.h>

#include "common/team.h"
#include "cpu/kernels/kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

/* The empty asm keeps a sum in a register and unknown to the compiler. */
#define KEEP(x) __asm__ volatile("" : "+v"(x))
#define SUMS 12 /* two ports, latency 5, and some to spare */
#if defined(__clang__)
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

#define LOOP(name, isa, type, zero, step, operations)               \
  __attribute__((target(isa))) static double name(int64_t rounds) { \
    type sum[SUMS], x = zero;                                       \
    KEEP(x);                                                        \
    UNROLL for (int i = 0; i < SUMS; i++) {                         \
      sum[i] = zero;                                                \
      KEEP(sum[i]);                                                 \
    }                                                               \
    for (int64_t r = 0; r < rounds; r++) {                          \
      UNROLL for (int i = 0; i < SUMS; i++) {                       \
        sum[i] = step;                                              \
        KEEP(sum[i]);                                               \
      }                                                             \
    }                                                               \
    return (double)rounds * SUMS * (operations);                    \
  }

LOOP(fma256, "avx2,fma", __m256, _mm256_setzero_ps(), _mm256_fmadd_ps(x, x, sum[i]), 16)
LOOP(pmaddwd256, "avx2", __m256i, _mm256_setzero_si256(), _mm256_madd_epi16(x, sum[i]), 32)
#ifdef IFA_CPU_HAVE_AVX_VNNI
#include "cpu/kernels/dpbusd256.h"
LOOP(dpbusd_256, DPBUSD256_TARGET, __m256i, _mm256_setzero_si256(), dpbusd256(sum[i], x, x), 64)
#endif
#ifdef IFA_CPU_HAVE_AVX512_VNNI
LOOP(fma512, "avx512f", __m512, _mm512_setzero_ps(), _mm512_fmadd_ps(x, x, sum[i]), 32)
LOOP(dpbusd512, "avx512f,avx512vnni", __m512i, _mm512_setzero_si512(),
     _mm512_dpbusd_epi32(sum[i], x, x), 128)
#endif

#ifdef IFA_CPU_HAVE_AMX
#include "cpu/kernels/amx_tile.h"

/* Six sums (a product ends 52 clocks after it began, and one begins every 16), 16 rows of 16
 * columns, 64 deep. The operands are not 0, which would draw less power. */
static double tdpbusd(int64_t rounds) {
  _Alignas(64) uint8_t operand[16][64];
  ifa_tile_config config = {.palette = 1};
  for (int t = 0; t < 8; t++) {
    config.row_bytes[t] = 64;
    config.rows[t] = 16;
  }
  for (int i = 0; i < 16 * 64; i++) operand[i / 64][i % 64] = (uint8_t)(i * 2654435761u >> 24);
  TILE_CONFIG(&config);
  TILE_ZERO(0);
  TILE_ZERO(1);
  TILE_ZERO(2);
  TILE_ZERO(3);
  TILE_ZERO(4);
  TILE_ZERO(5);
  TILE_LOAD(6, operand, 64);
  TILE_LOAD(7, operand, 64);
  for (int64_t r = 0; r < rounds; r++) {
    TILE_MULTIPLY_US(0, 6, 7);
    TILE_MULTIPLY_US(1, 6, 7);
    TILE_MULTIPLY_US(2, 6, 7);
    TILE_MULTIPLY_US(3, 6, 7);
    TILE_MULTIPLY_US(4, 6, 7);
    TILE_MULTIPLY_US(5, 6, 7);
  }
  TILE_RELEASE();
  return (double)rounds * 6 * (2 * 16 * 16 * 64);
}
#endif
#endif

static int is(const char *isa, const char *name) {
  return strcmp(isa, name) == 0 &&
         ifa_cpu_find_isa(isa, &(const ifa_cpu_isa *){NULL}, NULL) == IFA_OK;
}

const ifa_ceiling *ifa_ceiling_integer(const char *isa) {
#if defined(__x86_64__)
  static const ifa_ceiling pmaddwd = {"vpmaddwd ymm", pmaddwd256};
  if (is(isa, "avx2")) return &pmaddwd;
#ifdef IFA_CPU_HAVE_AVX_VNNI
  static const ifa_ceiling half = {"vpdpbusd ymm", dpbusd_256};
  if (is(isa, "avx_vnni")) return &half;
#endif
#ifdef IFA_CPU_HAVE_AVX512_VNNI
  static const ifa_ceiling dpbusd = {"vpdpbusd zmm", dpbusd512};
  if (is(isa, "avx512_vnni") || is(isa, "avx512_fp16")) return &dpbusd;
#endif
#ifdef IFA_CPU_HAVE_AMX
  static const ifa_ceiling amx = {"tdpbusd", tdpbusd};
  if (is(isa, "amx")) return &amx; /* is() has asked for the permission to use tiles */
#endif
#endif
  (void)is;
  (void)isa;
  return NULL;
}

const ifa_ceiling *ifa_ceiling_fma(const char *isa) {
#if defined(__x86_64__)
  static const ifa_ceiling narrow = {"vfmadd ymm", fma256};
  if (is(isa, "avx2") || is(isa, "avx_vnni")) return &narrow;
#ifdef IFA_CPU_HAVE_AVX512_VNNI
  static const ifa_ceiling wide = {"vfmadd zmm", fma512};
  if (is(isa, "avx512_vnni") || is(isa, "avx512_fp16")) return &wide;
#endif
#endif
  (void)isa;
  return NULL;
}

typedef struct running {
  const ifa_ceiling *ceiling;
  int64_t rounds;
  _Atomic int64_t operations; /* whole numbers below 2^53 */
} running;

static void run_one(void *context, int member) {
  (void)member;
  running *r = context;
  atomic_fetch_add(&r->operations, (int64_t)r->ceiling->run(r->rounds));
}

double ifa_ceiling_run_on(const ifa_ceiling *ceiling, int64_t rounds, int threads) {
  running r = {.ceiling = ceiling, .rounds = rounds};
  ifa_team_run(threads, run_one, &r);
  return (double)r.operations;
}

/* Several streams of 64-byte lines would gain nothing: the machine's prefetchers follow one.
 * `bytes`: a multiple of 256. */
#if defined(__x86_64__) && \
    !defined(__clang__) /* clang 14 takes the attribute and emits no function of that name */
__attribute__((target_clones("avx512f", "avx2", "default")))
#endif
static uint64_t
read_once(const void *memory, size_t bytes) {
  const uint64_t *at = memory;
  uint64_t sum[32] = {0}, total = 0;
  for (size_t i = 0; i < bytes / 8; i += 32)
    for (int j = 0; j < 32; j++) sum[j] ^= at[i + (size_t)j];
  for (int j = 0; j < 32; j++) total ^= sum[j];
  return total;
}

typedef struct reading {
  const char *memory;
  size_t blocks;
  int64_t passes;
  ifa_team_items parts;
  _Atomic uint64_t sum;
} reading;

static void read_parts(void *context, int member) {
  (void)member;
  reading *r = context;
  uint64_t sum = 0;
  for (int64_t i; (i = ifa_team_take(&r->parts)) < r->parts.count;) {
    size_t part = (size_t)i, all = (size_t)r->parts.count;
    size_t first = r->blocks * part / all * 256, last = r->blocks * (part + 1) / all * 256;
    for (int64_t pass = 0; pass < r->passes; pass++)
      sum ^= read_once(r->memory + first, last - first) + (uint64_t)pass;
  }
  atomic_fetch_xor(&r->sum, sum);
}

void ifa_ceiling_read_on(const void *memory, size_t bytes, int64_t passes, int threads) {
  static volatile uint64_t sink; /* so that reading has a purpose */
  reading r = {.memory = memory, .blocks = bytes / 256, .passes = passes, .parts.count = threads};
  ifa_team_run(threads, read_parts, &r);
  sink = r.sum;
  (void)sink;
}
