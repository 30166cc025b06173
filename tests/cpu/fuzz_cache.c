/* fuzz_cache.c - libFuzzer target: any bytes as a small cache and a history of calls on it, held
 * against the plain model of cache_model.h: each call answers what the model foresees, nothing is
 * lost, and every token and every attention is the oracle's. Calls that must be refused are among
 * them. Build: clang -fsanitize=fuzzer,address,undefined; seeds: tests/corpus/cache. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/cpu/cache_model.h"
#include "common/operand.h"
#include "cpu/cache/block.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

enum { PLACES = 6, MOST_STEPS = 60 };

void model_require(bool holds, const char *what, const char *why) {
  (void)what;
  (void)why;
  if (!holds) abort();
}

typedef struct input {
  const uint8_t *bytes;
  size_t left;
} input;

/* The next byte, less than `count`; 0 when there are no more. */
static int next(input *in, int count) {
  if (in->left == 0) return 0;
  in->left--;
  return *in->bytes++ % count;
}

static void attend(const model *m, input *in, int place) {
  ifa_problem p = ifa_cache_problem(m->cache, m->config.kv_heads * (1 + next(in, 3)));
  int places[2] = {place, next(in, PLACES)}, flags = next(in, 256);
  int64_t nq[2] = {1 + next(in, 20), 1};
  p.causal = flags & 1;
  p.lse = flags >> 1 & 1;
  p.tau = flags & 4 ? IFA_TAU_INF : flags & 8 ? 0 : 2;
  p.kv_split = flags & 16 ? 0 : 32;
  p.window = flags & 32 ? 1 + next(in, 100) : 0;
  p.q_type = flags & 64 ? IFA_I4 : IFA_I8;
  model_attend(m, &p, places, nq, m->sequences[places[1]].live ? 2 : 1,
               flags & 128 ? p.q_type : IFA_F16, (uint64_t)flags, 1);
}

/* Each is refused, and the caller compares the cache with the model afterwards. */
static void misuse(const model *m, input *in, int place) {
  float x[2 * 40] = {0};
  int64_t length;
  ifa_sequence child, handle = m->sequences[place].handle;
  ifa_cache_tokens tokens = {.k = x, .v = x, .type = IFA_F32, .count = 1};
  switch (next(in, 5)) {
    case 0:
      x[next(in, (int)(m->config.kv_heads * m->config.head_dim))] = next(in, 2) ? NAN : INFINITY;
      model_require(ifa_cache_append(m->cache, handle, &tokens, NULL) == IFA_BAD_DATA, "", "");
      break;
    case 1:
      handle += (uint64_t)(1 + next(in, 200)) << 32;
      model_require(ifa_cache_append(m->cache, handle, &tokens, NULL) == IFA_BAD_ARGUMENT &&
                        ifa_cache_remove(m->cache, handle, NULL) == IFA_BAD_ARGUMENT,
                    "", "");
      break;
    case 2:
      model_require(ifa_cache_truncate(m->cache, handle,
                                       m->sequences[place].length + 1 + next(in, 100),
                                       NULL) == IFA_BAD_ARGUMENT,
                    "", "");
      break;
    case 3:
      model_require(ifa_cache_fork(m->cache, handle + (uint64_t)m->config.sequences, &child,
                                   NULL) == IFA_BAD_ARGUMENT &&
                        child == 0,
                    "", "");
      break;
    default: { /* a table with a bad entry, mended afterwards */
      int64_t slot = (int64_t)(handle & 0xffffffffu),
              blocks = ifa_cache_blocks_of(m->cache, m->sequences[place].length);
      if (blocks == 0) break;
      uint32_t *entry = ifa_cache_table(m->cache, slot) + next(in, (int)blocks), kept = *entry;
      *entry = (uint32_t)m->config.blocks + (uint32_t)next(in, 256) * 0x01000000u;
      model_require(ifa_cache_append(m->cache, handle, &tokens, NULL) == IFA_BAD_DATA &&
                        ifa_cache_remove(m->cache, handle, NULL) == IFA_BAD_DATA &&
                        ifa_cache_length(m->cache, handle, &length, NULL) == IFA_BAD_DATA &&
                        ifa_cache_check(m->cache, NULL) == IFA_BAD_DATA,
                    "", "");
      *entry = kept;
    }
  }
}

static void step(model *m, input *in) {
  int place = next(in, PLACES), what = next(in, 16);
  if (!m->sequences[place].live) {
    int parent = next(in, PLACES);
    if (what % 2 && m->sequences[parent].live) model_fork(m, parent, place);
    else model_add(m, place);
  } else if (what < 8) {
    int how = next(in, 6);
    model_append(m, place, what == 0 ? next(in, 100) : next(in, 10), (ifa_type)(how % 3), how >= 3);
  } else if (what < 10) {
    model_truncate(m, place, next(in, (int)m->sequences[place].length + 1));
  } else if (what == 10) {
    model_remove(m, place);
  } else if (what < 14) {
    attend(m, in, place);
  } else {
    misuse(m, in, place);
    model_compare(m);
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length) {
  static model m;
  input in = {bytes, length};
  ifa_cache_config config = ifa_cache_config_default();
  config.kv_heads = 1 + next(&in, 2);
  config.head_dim = 1 + next(&in, 40);
  config.k_type = next(&in, 2) ? IFA_I4 : IFA_I8;
  config.v_type = next(&in, 2) ? IFA_I4 : IFA_I8;
  config.kv_tile = 32;
  config.block_tokens = 32 * (1 + next(&in, 2));
  config.blocks = 1 + next(&in, 8);
  config.sequences = 1 + next(&in, PLACES);
  model_create(&m, &config, NULL, 0);
  for (int i = 0; i < MOST_STEPS && in.left > 0; i++) step(&m, &in);
  model_compare(&m);
  model_destroy(&m);
  return 0;
}
