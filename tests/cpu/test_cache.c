/* test_cache.c - ifa_cache.h against a plain model of it (cache_model.h) and against the oracle:
 * what is stored and what attention over it gives. (Refusals: test_cache_refusals.c.)
 * IFA_TEST_WRAP_ALLOC: the program is linked with -Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc,
 * --wrap=aligned_alloc, so that allocations can be counted and made to fail. */
#include <fenv.h>
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/cpu/cache_tests.h"
#include "common/half.h"
#include "cpu/cache/block.h"
#include "cpu/quantize/rows.h"

#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

/* ---- allocations ---- */

#ifdef IFA_TEST_WRAP_ALLOC
static int64_t allocations, failing_allocation = -1; /* the failing one's number, counted from 0 */
static int refuse(void) {
  return __atomic_fetch_add(&allocations, 1, __ATOMIC_SEQ_CST) == failing_allocation;
}

void *__real_malloc(size_t bytes);
void *__real_calloc(size_t count, size_t bytes);
void *__real_realloc(void *memory, size_t bytes);
void *__real_aligned_alloc(size_t alignment, size_t bytes);
void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes);
void *__wrap_realloc(void *memory, size_t bytes);
void *__wrap_aligned_alloc(size_t alignment, size_t bytes);
void *__wrap_malloc(size_t bytes) { return refuse() ? NULL : __real_malloc(bytes); }
void *__wrap_calloc(size_t count, size_t bytes) {
  return refuse() ? NULL : __real_calloc(count, bytes);
}
void *__wrap_realloc(void *memory, size_t bytes) {
  return refuse() ? NULL : __real_realloc(memory, bytes);
}
void *__wrap_aligned_alloc(size_t alignment, size_t bytes) {
  return refuse() ? NULL : __real_aligned_alloc(alignment, bytes);
}

/* A short life of a cache. Every status is looked at by the caller. */
static ifa_status live_shortly(void) {
  ifa_cache_config config = config_of(1, 16, IFA_I8, IFA_I8, 32, 32, 2, 1);
  ifa_cache *cache;
  ifa_cache_workspace *workspace;
  ifa_sequence s;
  float x[16] = {1}, o[16];
  ifa_cache_tokens tokens = {.k = x, .v = x, .type = IFA_F32, .count = 1};
  ifa_cache_query query = {.nq = 1, .q = x, .q_type = IFA_F32, .o = o};
  ifa_status status = ifa_cache_create(&config, NULL, 0, &cache, NULL);
  if (status != IFA_OK) {
    assert_null(cache);
    return status;
  }
  ifa_problem p = ifa_cache_problem(cache, 1);
  status = ifa_cache_workspace_create(cache, &p, 1, 1, NULL, 0, &workspace, NULL);
  if (status != IFA_OK) assert_null(workspace);
  int64_t before = allocations;
  assert_int_equal(ifa_cache_add(cache, &s, NULL), IFA_OK);
  assert_int_equal(ifa_cache_append(cache, s, &tokens, NULL), IFA_OK);
  query.sequence = s;
  if (status == IFA_OK)
    assert_int_equal(ifa_cache_attend(cache, &p, &query, 1, workspace, NULL), IFA_OK);
  assert_int_equal(ifa_cache_remove(cache, s, NULL), IFA_OK);
  assert_int_equal(ifa_cache_check(cache, NULL), IFA_OK);
  assert_int_equal(allocations, before); /* nothing but the create functions allocates */
  ifa_cache_workspace_destroy(workspace);
  ifa_cache_destroy(cache);
  return status;
}

static void test_allocations(void **state) {
  (void)state;
  int64_t needed = 0;
  for (failing_allocation = 0;; failing_allocation++) {
    allocations = 0;
    ifa_status status = live_shortly();
    if (status == IFA_OK) break;
    assert_int_equal(status, IFA_OUT_OF_MEMORY);
    needed++;
  }
  failing_allocation = -1;
  assert_int_equal(needed, 2); /* the cache and the workspace: one piece each */
}
#endif

/* ---- memory ---- */

static void test_in_place(void **state) {
  (void)state;
  ifa_cache_config config = config_of(2, 20, IFA_I8, IFA_I4, 32, 64, 5, 3);
  ifa_message why;
  ifa_cache *cache;
  size_t bytes;
  assert_int_equal(ifa_cache_bytes(&config, &bytes, &why), IFA_OK);
  uint8_t *memory = aligned_alloc(64, bytes + 64);
  assert_non_null(memory);
  memset(memory, 0xaa, bytes + 64);
  assert_int_equal(ifa_cache_create(&config, memory + 4, bytes, &cache, &why), IFA_BAD_ARGUMENT);
  assert_string_equal(why.text, "memory is not aligned to 64 bytes");
  assert_null(cache);
  assert_int_equal(ifa_cache_create(&config, memory, bytes - 1, &cache, &why), IFA_BAD_ARGUMENT);
  assert_null(cache);
  model m;
  model_create(&m, &config, memory, bytes);
  model_add(&m, 0);
  assert_int_equal(model_append(&m, 0, 320, IFA_F32, false), IFA_OK); /* full */
  model_compare(&m);
  ifa_problem p = causal_problem(&m, 4);
  size_t room;
  assert_int_equal(ifa_cache_workspace_bytes(m.cache, &p, 2, 2, &room, &why), IFA_OK);
  uint8_t *work = aligned_alloc(64, (room + 127) / 64 * 64);
  ifa_cache_workspace *workspace;
  assert_int_equal(ifa_cache_workspace_create(m.cache, &p, 2, 2, work, room - 1, &workspace, &why),
                   IFA_BAD_ARGUMENT);
  assert_null(workspace);
  memset(work, 0xaa, (room + 127) / 64 * 64);
  assert_int_equal(ifa_cache_workspace_create(m.cache, &p, 2, 2, work, room, &workspace, &why),
                   IFA_OK);
  float q[2 * 4 * 20] = {1.0f}, o[2 * 4 * 20], lse[8];
  ifa_cache_query query = {
      .sequence = m.sequences[0].handle, .nq = 2, .q = q, .q_type = IFA_F32, .o = o, .lse = lse};
  assert_int_equal(ifa_cache_attend(m.cache, &p, &query, 1, workspace, &why), IFA_OK);
  query.nq = 3; /* more rows than the workspace is for */
  float q3[3 * 4 * 20] = {1.0f}, o3[3 * 4 * 20], lse3[12];
  query.q = q3;
  query.o = o3;
  query.lse = lse3;
  assert_int_equal(ifa_cache_attend(m.cache, &p, &query, 1, workspace, &why), IFA_BAD_ARGUMENT);
  ifa_cache_workspace_destroy(workspace);
  model_destroy(&m);
  /* nothing is written behind */
  for (int i = 0; i < 64; i++) assert_int_equal(memory[bytes + (size_t)i], 0xaa);
  for (size_t i = room; i < (room + 127) / 64 * 64; i++) assert_int_equal(work[i], 0xaa);
  free(work);
  free(memory);
}

static void test_bytes_per_token(void **state) {
  (void)state;
  ifa_cache_config c = config_of(8, 128, IFA_I8, IFA_I8, 64, 64, 1, 1);
  assert_int_equal(ifa_cache_bytes_per_token(&c), 8 * (128 + 128 + 15)); /* docs/cache.md says so */
  c.k_type = c.v_type = IFA_I4;
  assert_int_equal(ifa_cache_bytes_per_token(&c), 8 * (64 + 64 + 15));
  c.kv_tile = c.block_tokens = 128;
  c.head_dim = 100; /* 112 */
  c.v_type = IFA_I8;
  assert_int_equal(2 * ifa_cache_bytes_per_token(&c), 8 * (2 * (56 + 112 + 14) + 1) / 8 * 8);
  size_t one, two;
  c.blocks = 1000;
  assert_int_equal(ifa_cache_bytes(&c, &one, NULL), IFA_OK);
  c.blocks = 2000;
  c.sequence_tokens = 128000;
  assert_int_equal(ifa_cache_bytes(&c, &two, NULL), IFA_OK);
  int64_t extra = (int64_t)(two - one) - 1000 * 128 * ifa_cache_bytes_per_token(&c);
  /* and 16 bytes of bookkeeping a block */
  assert_in_range(extra, 1000 * 16 - 256, 1000 * 16 + 256);
  c.head_dim = 257;
  assert_int_equal(ifa_cache_bytes_per_token(&c), 0);
}

/* ---- what is stored ---- */

/* One token's quantization for every binary16 and bfloat16 there is, and for hard binary32 ones,
 * against ifa_quantize. */
static void test_quantization(void **state) {
  (void)state;
  static uint16_t half[65536];
  static float x[65536];
  static int8_t want[65536], got[65536];
  for (uint32_t i = 0; i < 65536; i++) half[i] = (uint16_t)i;
  for (int type = IFA_F16; type <= IFA_BF16; type++)
    for (int32_t i = 0; i < 65536; i += 64) {
      int bad = 0;
      for (int32_t j = 0; j < 64; j++) {
        float value = type == IFA_F16 ? ifa_f16_to_f32(half[i + j]) : ifa_bf16_to_f32(half[i + j]);
        x[j] = value;
        bad |= !(fabsf(value) <= 0x1p99f);
      }
      float own[64];
      uint32_t largest = ifa_row_kernels_best()->widen((ifa_type)type, half, i, 64, own);
      assert_int_equal(largest > IFA_ROW_LARGEST, bad);
      if (!bad) assert_memory_equal(own, x, sizeof own);
    }
  for (int to = IFA_I8; to <= IFA_I4; to++)
    for (int round = 0; round < 400; round++) {
      float scale;
      int8_t packed[64];
      for (int i = 0; i < 128; i++) {
        uint64_t bits = ifa_random_bits(SEED, 60, (uint64_t)(round * 128 + i));
        float value = ifa_f32_of_bits((uint32_t)bits);
        int near = round % 4; /* any bits; half steps of the grid; one octave; tiny ones */
        if (near == 1) value = (float)((int)(bits % 511) - 255) * 0.5f;
        if (near == 2) value = (float)(bits >> 40) * 0x1p-24f;
        if (near == 3) value = ldexpf((float)(bits >> 40), -24 - 90 - (int)(bits % 50));
        x[i] = fabsf(value) <= 0x1p99f ? value : 1.0f;
      }
      ifa_quantize_args a = {.src = x,
                             .src_type = IFA_F32,
                             .batch = 1,
                             .heads = 1,
                             .tokens = 1,
                             .head_dim = 128,
                             .dst = to == IFA_I8 ? want : packed,
                             .dst_type = (ifa_type)to,
                             .granularity = IFA_SCALE_TOKEN,
                             .scale = &scale};
      assert_int_equal(ifa_quantize(&a, NULL), IFA_OK);
      float own[128];
      uint32_t largest = ifa_row_kernels_best()->widen(IFA_F32, x, 0, 128, own);
      float own_scale =
          ifa_row_quantize(ifa_row_kernels_best(), own, 128, largest, (ifa_type)to, got);
      assert_memory_equal(&own_scale, &scale, 4);
      for (int i = 0; to == IFA_I4 && i < 128; i++)
        want[i] = (int8_t)(((packed[i / 2] >> (i % 2 ? 4 : 0) & 15) ^ 8) - 8);
      assert_memory_equal(got, want, 128);
    }
}

/* The same tokens in several chunkings, types and strides: compared bit by bit, also the bytes of
 * the blocks. */
static void test_chunking(void **state) {
  (void)state;
  for (int kind = 0; kind < 4; kind++) {
    ifa_cache_config config = config_of(2, kind == 3 ? 17 : 48, kind & 1 ? IFA_I4 : IFA_I8,
                                        kind & 2 ? IFA_I4 : IFA_I8, 32, 64, 12, 4);
    model m;
    model_create(&m, &config, NULL, 0);
    const int64_t chunks[4][5] = {
        {173, 0, 0, 0, 0}, {1, 31, 32, 64, 45}, {100, 28, 1, 43, 1}, {1, 1, 1, 1, 1}};
    for (int s = 0; s < 4; s++) {
      model_add(&m, s);
      m.tokens = 0; /* the same tokens again */
      for (int i = 0; i < 5; i++)
        assert_int_equal(model_append(&m, s, chunks[s][i], IFA_F16, i % 2), IFA_OK);
      while (m.sequences[s].length < 173)
        assert_int_equal(model_append(&m, s, 1, IFA_F16, false), IFA_OK);
    }
    model_compare(&m);
    for (int s = 1; s < 4; s++)
      for (int64_t b = 0; b < 3; b++) { /* blocks of new sequences, given out in order */
        const uint32_t *first = ifa_cache_table(m.cache, 0), *other = ifa_cache_table(m.cache, s);
        assert_memory_equal(ifa_cache_tile(m.cache, first[b], 0, 0),
                            ifa_cache_tile(m.cache, other[b], 0, 0),
                            /* of the third block one tile is in use */
                            b < 2 ? m.cache->block_bytes : (size_t)m.cache->layout.bytes);
      }
    model_destroy(&m);
  }
}

/* ---- growing, forking, ending ---- */

static void test_fork(void **state) {
  (void)state;
  ifa_cache_config config = config_of(1, 16, IFA_I8, IFA_I4, 32, 64, 6, 4);
  model m;
  model_create(&m, &config, NULL, 0);
  model_add(&m, 0);
  /* 3 blocks, the last one partly filled */
  assert_int_equal(model_append(&m, 0, 150, IFA_F32, false), IFA_OK);
  model_fork(&m, 0, 1);
  assert_int_equal(ifa_cache_usage_of(m.cache).free_blocks, 3);
  assert_int_equal(ifa_cache_usage_of(m.cache).shared_blocks, 3);
  model_compare(&m);
  /* the child copies the last block */
  assert_int_equal(model_append(&m, 1, 1, IFA_BF16, false), IFA_OK);
  assert_int_equal(ifa_cache_usage_of(m.cache).free_blocks, 2);
  assert_int_equal(ifa_cache_usage_of(m.cache).shared_blocks, 2);
  assert_int_equal(model_append(&m, 0, 1, IFA_F16, false), IFA_OK); /* now the parent has its own */
  assert_int_equal(ifa_cache_usage_of(m.cache).free_blocks, 2);
  model_compare(&m);
  model_fork(&m, 1, 2);
  model_fork(&m, 1, 3);
  model_remove(&m, 1); /* the parent ends first */
  model_compare(&m);
  /* into a block that 0 and 3 share: to be copied before it is written */
  model_truncate(&m, 2, 100);
  assert_int_equal(model_append(&m, 2, 3, IFA_F32, true), IFA_OK);
  model_compare(&m);
  model_add(&m, 1);
  assert_int_equal(m.sequences[1].live, true);
  assert_int_equal(model_append(&m, 1, 64, IFA_F32, true), IFA_OK); /* the last free block */
  /* its last block is its own by now: 152..191 */
  assert_int_equal(model_append(&m, 3, 40, IFA_F32, true), IFA_OK);
  assert_int_equal(model_append(&m, 3, 10, IFA_F32, true), IFA_FULL);
  model_compare(&m);
  ifa_problem p = causal_problem(&m, 2);
  model_attend(&m, &p, (int[]){0, 1, 2, 3}, (int64_t[]){3, 1, 20, 7}, 4, IFA_F32, 5, 2);
  for (int s = 0; s < 4; s++) model_remove(&m, s);
  assert_int_equal(ifa_cache_usage_of(m.cache).free_blocks, 6);
  model_compare(&m);
  model_destroy(&m);
}

/* A shared last block and no free one to copy it into: refused, and nothing changes. */
static void test_full(void **state) {
  (void)state;
  ifa_cache_config config = config_of(2, 16, IFA_I8, IFA_I8, 32, 32, 2, 2);
  ifa_message why;
  model m;
  model_create(&m, &config, NULL, 0);
  model_add(&m, 0);
  assert_int_equal(model_append(&m, 0, 40, IFA_F32, false), IFA_OK);
  model_fork(&m, 0, 1);
  assert_int_equal(model_append(&m, 1, 1, IFA_F32, false), IFA_FULL);
  assert_int_equal(model_append(&m, 0, 1, IFA_F32, false), IFA_FULL);
  assert_int_equal(model_append(&m, 0, 0, IFA_F32, false), IFA_OK); /* nothing needs no block */
  model_compare(&m);
  model_add(&m, 2); /* and no third sequence */
  assert_false(m.sequences[2].live);
  model_truncate(&m, 1, 32);
  assert_int_equal(model_append(&m, 0, 24, IFA_F32, false), IFA_OK); /* alone in the block again */
  assert_int_equal(model_append(&m, 0, 1, IFA_F32, false), IFA_FULL);
  float x[2 * 16] = {0};
  ifa_cache_tokens tokens = {.k = x, .v = x, .type = IFA_F32, .count = 1};
  assert_int_equal(ifa_cache_append(m.cache, m.sequences[0].handle, &tokens, &why), IFA_FULL);
  assert_string_equal(why.text,
                      "the sequence would have 65 tokens; the cache's sequences hold at most 64");
  assert_int_equal(ifa_cache_append(m.cache, m.sequences[1].handle, &tokens, &why), IFA_FULL);
  assert_string_equal(why.text, "1 blocks are needed, 0 of 2 are free");
  model_compare(&m);
  model_destroy(&m);
}

static void test_handles(void **state) {
  (void)state;
  ifa_cache_config config = config_of(1, 16, IFA_I8, IFA_I8, 32, 32, 2, 2);
  ifa_message why;
  model m;
  int64_t length;
  ifa_sequence child;
  model_create(&m, &config, NULL, 0);
  model_add(&m, 0);
  assert_int_equal(model_append(&m, 0, 3, IFA_F32, false), IFA_OK);
  ifa_sequence good = m.sequences[0].handle, old;
  float x[16] = {0}, o[16];
  ifa_cache_tokens tokens = {.k = x, .v = x, .type = IFA_F32, .count = 1};
  ifa_problem p = ifa_cache_problem(m.cache, 1);
  ifa_cache_workspace *workspace;
  assert_int_equal(ifa_cache_workspace_create(m.cache, &p, 1, 1, NULL, 0, &workspace, &why),
                   IFA_OK);
  const ifa_sequence bad[] = {0,
                              good + 1,
                              good + 2,
                              good + (UINT64_C(1) << 32),
                              good - (UINT64_C(1) << 32),
                              good | 0xffffffffu,
                              UINT64_MAX};
  for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
    ifa_cache_query query = {.sequence = bad[i], .nq = 1, .q = x, .q_type = IFA_F32, .o = o};
    assert_int_equal(ifa_cache_append(m.cache, bad[i], &tokens, &why), IFA_BAD_ARGUMENT);
    assert_non_null(strstr(why.text, "there is no sequence"));
    assert_int_equal(ifa_cache_fork(m.cache, bad[i], &child, &why), IFA_BAD_ARGUMENT);
    assert_int_equal(child, 0);
    assert_int_equal(ifa_cache_truncate(m.cache, bad[i], 0, &why), IFA_BAD_ARGUMENT);
    assert_int_equal(ifa_cache_remove(m.cache, bad[i], &why), IFA_BAD_ARGUMENT);
    assert_int_equal(ifa_cache_length(m.cache, bad[i], &length, &why), IFA_BAD_ARGUMENT);
    assert_int_equal(ifa_cache_read(m.cache, bad[i], 0, 0, NULL, NULL, NULL, NULL, &why),
                     IFA_BAD_ARGUMENT);
    assert_int_equal(ifa_cache_attend(m.cache, &p, &query, 1, workspace, &why), IFA_BAD_ARGUMENT);
  }
  model_compare(&m);
  for (int i = 0; i < 5; i++) { /* the place is used again; the old handles stay dead */
    old = m.sequences[0].handle;
    model_remove(&m, 0);
    model_add(&m, 0);
    assert_int_equal((uint32_t)m.sequences[0].handle, (uint32_t)old);
    assert_int_not_equal(m.sequences[0].handle, old);
    assert_int_equal(ifa_cache_append(m.cache, old, &tokens, &why), IFA_BAD_ARGUMENT);
  }
  m.cache->slots[0].generation = UINT32_MAX; /* the last one before it wraps: 0 is left out */
  m.sequences[0].handle = (uint64_t)UINT32_MAX << 32;
  model_remove(&m, 0);
  model_add(&m, 0);
  assert_int_equal(m.sequences[0].handle, UINT64_C(1) << 32);
  ifa_cache_workspace_destroy(workspace);
  model_destroy(&m);
}

/* ---- attention ---- */

static void test_attention(void **state) {
  (void)state;
  const int32_t dims[] = {16, 33, 64, 80, 128, 1, 256, 20}, tiles[] = {32, 64, 128, 256};
  for (int round = 0; round < 24; round++) {
    uint64_t r = (uint64_t)round;
    int32_t tile = tiles[below(1, r, 4)], dim = dims[below(2, r, 8)];
    int64_t heads = 1 + below(3, r, 3);
    ifa_cache_config config =
        config_of(heads, dim, below(4, r, 2) ? IFA_I4 : IFA_I8, below(5, r, 2) ? IFA_I4 : IFA_I8,
                  tile, tile * (1 + (int32_t)below(6, r, 2)), 0, 6);
    config.blocks = 1200 / config.block_tokens;
    config.sequence_tokens = 500;
    model m;
    model_create(&m, &config, NULL, 0);
    const int64_t lengths[] = {1 + below(7, r, 300), tile, 2 * tile - 1 < 400 ? 2 * tile - 1 : 399,
                               0};
    for (int s = 0; s < 4; s++) {
      model_add(&m, s);
      while (m.sequences[s].length < lengths[s]) {
        int64_t chunk = 1 + below(8, r * 100 + (uint64_t)m.sequences[s].length, 90),
                left = lengths[s] - m.sequences[s].length;
        if (model_append(&m, s, chunk < left ? chunk : left,
                         (ifa_type)below(9, r * 100 + (uint64_t)chunk, 3), chunk & 1) != IFA_OK)
          break;
      }
    }
    model_fork(&m, 0, 4);
    model_append(&m, 4, 2, IFA_F32, false);
    ifa_problem p = ifa_cache_problem(m.cache, heads * (1 + below(10, r, 5)));
    p.sm_scale = ldexpf(1.0f + 0.25f * (float)below(11, r, 4), -(int)below(12, r, 5));
    p.causal = (int32_t)below(13, r, 4) != 0;
    p.window = below(14, r, 3) == 0 ? 1 + (int64_t)below(15, r, 200) : 0;
    p.tau = below(16, r, 3) == 0 ? IFA_TAU_INF : (int32_t)below(17, r, 4);
    p.kv_split = below(18, r, 2) ? 0 : tile * (1 + (int64_t)below(19, r, 3));
    p.out_type = (ifa_type)below(20, r, 3);
    p.lse = (int32_t)below(21, r, 2);
    p.q_type = below(22, r, 3) == 0 ? IFA_I4 : IFA_I8;
    ifa_type from = below(23, r, 4) == 0 ? p.q_type : (ifa_type)below(24, r, 3);
    int64_t nq[5];
    for (int i = 0; i < 5; i++)
      nq[i] =
          below(25, r, 3) == 0 ? 1 : 1 + (int64_t)below(26, r * 8 + (uint64_t)i, i == 0 ? 70 : 16);
    for (int32_t threads = 1; threads <= 3; threads += 2)
      model_attend(&m, &p, (int[]){2, 0, 4, 1, 3}, nq, 5, from, r, threads);
    model_attend(&m, &p, (int[]){0, 0}, (int64_t[]){1, 4}, 2, from, r, 2); /* one sequence twice */
    model_destroy(&m);
  }
}

/* Decoding token t gives row t of a causal prefill, for the same kv_split, with whatever behind it.
 */
static void test_decode_is_prefill(void **state) {
  (void)state;
  for (int kind = 0; kind < 4; kind++) {
    ifa_cache_config config =
        config_of(2, 32, kind & 1 ? IFA_I4 : IFA_I8, kind & 2 ? IFA_I4 : IFA_I8, 32, 64, 10, 3);
    ifa_message why;
    enum { LENGTH = 200, HEADS = 4, DIM = 32 };
    static float q[HEADS * LENGTH * DIM], prefill[HEADS * LENGTH * DIM], lse[HEADS * LENGTH];
    model m;
    model_create(&m, &config, NULL, 0);
    ifa_problem p = causal_problem(&m, HEADS);
    p.sm_scale = 1.0f;
    p.kv_split = kind < 2 ? 0 : 96;
    /* row t of all heads is one piece */
    p.q_stride = p.o_stride = ifa_strides_bnhd(IFA_F32, HEADS, LENGTH, DIM);
    for (size_t i = 0; i < sizeof q / sizeof q[0]; i++)
      q[i] = 6.0f * (ifa_random_uniform(SEED, 70, i) - 0.5f);
    ifa_cache_workspace *w;
    assert_int_equal(ifa_cache_workspace_create(m.cache, &p, LENGTH, 2, NULL, 0, &w, &why), IFA_OK);
    model_add(&m, 0);
    assert_int_equal(model_append(&m, 0, LENGTH, IFA_F32, false), IFA_OK);
    ifa_cache_query query = {.sequence = m.sequences[0].handle,
                             .nq = LENGTH,
                             .q = q,
                             .q_type = IFA_F32,
                             .o = prefill,
                             .lse = lse};
    assert_int_equal(ifa_cache_attend(m.cache, &p, &query, 1, w, &why), IFA_OK);
    model_add(&m, 1);
    m.tokens = 0; /* the same tokens, as they come */
    for (int64_t t = 0; t < LENGTH;) {
      /* mostly one, also some together */
      int64_t step = 1 + (int64_t)below(71, (uint64_t)t, 3) * (t % 2);
      if (t + step > LENGTH) step = LENGTH - t;
      float o[HEADS * DIM * 3], l[HEADS * 3];
      assert_int_equal(model_append(&m, 1, step, IFA_F32, false), IFA_OK);
      ifa_problem one = p;
      one.q_stride = one.o_stride = ifa_strides_bnhd(IFA_F32, HEADS, step, DIM);
      query = (ifa_cache_query){.sequence = m.sequences[1].handle,
                                .nq = step,
                                .q = q + t * HEADS * DIM,
                                .q_type = IFA_F32,
                                .o = o,
                                .lse = l};
      assert_int_equal(ifa_cache_attend(m.cache, &one, &query, 1, w, &why), IFA_OK);
      assert_memory_equal(o, prefill + t * HEADS * DIM, (size_t)step * HEADS * DIM * sizeof *o);
      for (int64_t h = 0; h < HEADS; h++)
        assert_memory_equal(l + h * step, lse + h * LENGTH + t, (size_t)step * sizeof *l);
      t += step;
    }
    ifa_cache_workspace_destroy(w);
    model_destroy(&m);
  }
}

/* Tokens behind a row's last live key, stale ones in a truncated tile among them, have no
 * influence. */
static void test_truncated(void **state) {
  (void)state;
  ifa_cache_config config = config_of(1, 64, IFA_I8, IFA_I8, 64, 128, 8, 2);
  model m;
  model_create(&m, &config, NULL, 0);
  model_add(&m, 0);
  ifa_problem p = causal_problem(&m, 2);
  assert_int_equal(model_append(&m, 0, 256, IFA_F32, false), IFA_OK);
  const int64_t lengths[] = {255, 192, 190, 129, 128, 70, 64, 1, 0};
  for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
    model_truncate(&m, 0, lengths[i]);
    model_attend(&m, &p, (int[]){0}, (int64_t[]){5}, 1, IFA_F32, i, 1);
    assert_int_equal(model_append(&m, 0, 3, IFA_F32, false), IFA_OK);
    model_attend(&m, &p, (int[]){0}, (int64_t[]){1}, 1, IFA_F32, i, 1);
    model_compare(&m);
    model_truncate(&m, 0, lengths[i]);
  }
  model_destroy(&m);
}

/* Another rounding mode, flush-to-zero: neither what is stored nor what comes out changes, and both
 * are as before afterwards. */
static void test_environment(void **state) {
  (void)state;
  ifa_cache_config config = config_of(1, 32, IFA_I8, IFA_I4, 32, 32, 10, 2);
  model m;
  model_create(&m, &config, NULL, 0);
  model_add(&m, 0);
  ifa_problem p = causal_problem(&m, 2);
  const int modes[] = {FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO};
  for (int i = 0; i < 3; i++) {
    fesetround(modes[i]);
#if defined(__SSE2__)
    unsigned before = _mm_getcsr();
    _mm_setcsr(before | 0x8040); /* flush-to-zero, denormals-are-zero */
#endif
    uint64_t first = m.tokens;
    uint16_t half[2 * 32];
    for (int j = 0; j < 64; j++) half[j] = (uint16_t)(j * 3 + 1); /* subnormal binary16 */
    ifa_sequence s = m.sequences[0].handle;
    ifa_status status = ifa_cache_append(
        m.cache, s, &(ifa_cache_tokens){.k = half, .v = half, .type = IFA_F16, .count = 1}, NULL);
    int mode = fegetround();
#if defined(__SSE2__)
    unsigned after = _mm_getcsr();
    _mm_setcsr(before);
    assert_int_equal(after & 0x8040, 0x8040);
#endif
    fesetround(FE_TONEAREST);
    assert_int_equal(status, IFA_OK);
    assert_int_equal(mode, modes[i]);
    int8_t k[32], want[32];
    float scale, want_scale;
    assert_int_equal(ifa_cache_read(m.cache, s, 0, 1, k, NULL, &scale, NULL, NULL), IFA_OK);
    ifa_quantize_args a = {.src = half,
                           .src_type = IFA_F16,
                           .batch = 1,
                           .heads = 1,
                           .tokens = 1,
                           .head_dim = 32,
                           .dst = want,
                           .dst_type = IFA_I8,
                           .granularity = IFA_SCALE_TOKEN,
                           .scale = &want_scale};
    assert_int_equal(ifa_quantize(&a, NULL), IFA_OK);
    assert_memory_equal(k, want, 32);
    assert_memory_equal(&scale, &want_scale, 4);
    assert_int_equal(ifa_cache_truncate(m.cache, s, 0, NULL), IFA_OK);
    m.tokens = first;
  }
  assert_int_equal(model_append(&m, 0, 50, IFA_F32, false), IFA_OK);
  model_attend(&m, &p, (int[]){0}, (int64_t[]){4}, 1, IFA_F16, 1, 2);
  model_destroy(&m);
}

/* ---- threads ---- */

/* Each thread has a sequence of its own, forked from one that all share, and appends, attends,
 * truncates and forks on it. */
typedef struct worker {
  ifa_cache *cache;
  ifa_sequence shared;
  int number;
  float o[2 * 64];
  ifa_status status;
} worker;

static ifa_status work(worker *w) {
  ifa_sequence s;
  ifa_cache_workspace *space;
  float x[2 * 64], o[2 * 64]; /* x: a key, a value and two query heads */
  ifa_problem p = ifa_cache_problem(w->cache, 2);
  p.causal = 1;
  ifa_status status = ifa_cache_workspace_create(w->cache, &p, 1, 1, NULL, 0, &space, NULL);
  if (status != IFA_OK) return status;
  for (int i = 0; i < 128; i++) x[i] = (float)(i % 7 - 3) + (float)w->number;
  for (int round = 0; round < 20 && status == IFA_OK; round++) {
    status = ifa_cache_fork(w->cache, w->shared, &s, NULL);
    for (int t = 0; t < 40 && status == IFA_OK; t++) {
      status = ifa_cache_append(
          w->cache, s, &(ifa_cache_tokens){.k = x, .v = x, .type = IFA_F32, .count = 1}, NULL);
      if (status == IFA_OK && t % 8 == 0)
        status = ifa_cache_attend(
            w->cache, &p,
            &(ifa_cache_query){.sequence = w->shared, .nq = 1, .q = x, .q_type = IFA_F32, .o = o},
            1, space, NULL);
    }
    if (status == IFA_OK)
      status = ifa_cache_attend(
          w->cache, &p,
          &(ifa_cache_query){.sequence = s, .nq = 1, .q = x, .q_type = IFA_F32, .o = w->o}, 1,
          space, NULL);
    if (status == IFA_OK) status = ifa_cache_remove(w->cache, s, NULL);
  }
  ifa_cache_workspace_destroy(space);
  return status;
}

static void *work_entry(void *argument) {
  worker *w = argument;
  w->status = work(w);
  return NULL;
}

static void test_threads(void **state) {
  (void)state;
  enum { THREADS = 4 };
  ifa_cache_config config = config_of(1, 64, IFA_I8, IFA_I4, 32, 32, 3 + 3 * THREADS, 1 + THREADS);
  model m;
  worker workers[THREADS], alone;
  pthread_t threads[THREADS];
  model_create(&m, &config, NULL, 0);
  model_add(&m, 0);
  assert_int_equal(model_append(&m, 0, 77, IFA_F32, false), IFA_OK);
  for (int i = 0; i < THREADS; i++) {
    workers[i] = (worker){.cache = m.cache, .shared = m.sequences[0].handle, .number = i};
    assert_int_equal(pthread_create(&threads[i], NULL, work_entry, &workers[i]), 0);
  }
  for (int i = 0; i < THREADS; i++) assert_int_equal(pthread_join(threads[i], NULL), 0);
  for (int i = 0; i < THREADS; i++) {
    assert_int_equal(workers[i].status, IFA_OK);
    alone = (worker){.cache = m.cache, .shared = m.sequences[0].handle, .number = i};
    assert_int_equal(work(&alone), IFA_OK);
    assert_memory_equal(workers[i].o, alone.o, sizeof alone.o);
  }
  model_compare(&m);
  model_destroy(&m);
}

/* ---- random histories ---- */

static void test_histories(void **state) {
  (void)state;
  for (uint64_t history = 0; history < 12; history++) {
    ifa_cache_config config = config_of(
        1 + (int64_t)below(30, history, 2), 1 + (int32_t)below(31, history, 40),
        below(32, history, 2) ? IFA_I4 : IFA_I8, below(33, history, 2) ? IFA_I4 : IFA_I8, 32,
        32 * (1 + (int32_t)below(34, history, 2)), 3 + (int64_t)below(35, history, 4), 6);
    model m;
    model_create(&m, &config, NULL, 0);
    int refused = 0;
    for (uint64_t step = 0; step < 150; step++) {
      uint64_t at = history * 1000 + step;
      int s = (int)below(36, at, 8), other = (int)below(37, at, 8);
      uint32_t what = below(38, at, 10);
      if (!m.sequences[s].live) {
        if (m.sequences[other].live && what % 2) model_fork(&m, other, s);
        else model_add(&m, s);
      } else if (what < 6) {
        refused += model_append(&m, s, (int64_t)below(39, at, what == 0 ? 80 : 12),
                                (ifa_type)below(40, at, 3), step & 1) != IFA_OK;
      } else if (what < 8) {
        model_truncate(&m, s, (int64_t)below(41, at, (uint32_t)m.sequences[s].length + 1));
      } else if (what == 8) {
        model_remove(&m, s);
      } else {
        ifa_problem p = causal_problem(&m, config.kv_heads * 2);
        model_attend(&m, &p, (int[]){s}, (int64_t[]){1 + (int64_t)below(42, at, 3)}, 1, IFA_F32, at,
                     1);
      }
      if (step % 10 == 9) model_compare(&m);
    }
    assert_true(refused > 0); /* the cache was full now and then */
    model_compare(&m);
    model_destroy(&m);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
#ifdef IFA_TEST_WRAP_ALLOC
      cmocka_unit_test(test_allocations),
#endif
      cmocka_unit_test(test_in_place),
      cmocka_unit_test(test_bytes_per_token),
      cmocka_unit_test(test_quantization),
      cmocka_unit_test(test_chunking),
      cmocka_unit_test(test_fork),
      cmocka_unit_test(test_full),
      cmocka_unit_test(test_handles),
      cmocka_unit_test(test_attention),
      cmocka_unit_test(test_decode_is_prefill),
      cmocka_unit_test(test_truncated),
      cmocka_unit_test(test_environment),
      cmocka_unit_test(test_threads),
      cmocka_unit_test(test_histories),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
