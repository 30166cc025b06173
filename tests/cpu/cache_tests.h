/* cache_tests.h - what the tests of the cache share. */
#ifndef IFA_TESTS_CPU_CACHE_TESTS_H
#define IFA_TESTS_CPU_CACHE_TESTS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "tests/cpu/cache_model.h"
#include "common/random.h"

enum { SEED = 161803 };

void model_require(bool holds, const char *what, const char *why) {
  if (!holds) fail_msg("%s%s%s", what, why[0] ? ": " : "", why);
}

static inline uint32_t below(uint64_t stream, uint64_t index, uint32_t count) {
  return ifa_random_below(SEED, stream, index, count);
}

static inline ifa_cache_config config_of(int64_t heads, int32_t dim, ifa_type k, ifa_type v,
                                         int32_t tile, int32_t block, int64_t blocks,
                                         int64_t sequences) {
  return (ifa_cache_config){.kv_heads = heads,
                            .head_dim = dim,
                            .k_type = k,
                            .v_type = v,
                            .kv_tile = tile,
                            .block_tokens = block,
                            .blocks = blocks,
                            .sequences = sequences};
}

static inline ifa_problem causal_problem(const model *m, int64_t q_heads) {
  ifa_problem p = ifa_cache_problem(m->cache, q_heads);
  p.causal = 1;
  p.lse = 1;
  return p;
}

#endif
