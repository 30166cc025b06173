/* test_cache_refusals.c - what the cache refuses, with which words, and what is left after each. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "tests/cpu/cache_tests.h"
#include "cpu/cache/block.h"

static void refuse_config(ifa_cache_config config, const char *text) {
  ifa_message why;
  size_t bytes;
  ifa_cache *cache;
  assert_int_equal(ifa_cache_bytes(&config, &bytes, &why), IFA_BAD_ARGUMENT);
  assert_non_null(strstr(why.text, text));
  assert_int_equal(ifa_cache_create(&config, NULL, 0, &cache, &why), IFA_BAD_ARGUMENT);
  assert_non_null(strstr(why.text, text));
  assert_null(cache);
}

/* A good one, but for a field. */
#define CONFIG(field, value, text) \
  do {                             \
    ifa_cache_config bad = good;   \
    bad.field = value;             \
    refuse_config(bad, text);      \
  } while (0)

static void test_bad_configs(void **state) {
  (void)state;
  const ifa_cache_config good = ifa_cache_config_default();
  ifa_cache_config c;
  size_t bytes;
  assert_int_equal(ifa_cache_bytes(&good, &bytes, NULL), IFA_OK);
  CONFIG(kv_heads, 0, "kv_heads is 0");
  CONFIG(kv_heads, 65536, "kv_heads is 65536");
  CONFIG(head_dim, 0, "head_dim is 0");
  CONFIG(head_dim, 257, "head_dim is 257");
  CONFIG(k_type, IFA_F32, "k_type is f32; it must be int8 or int4");
  CONFIG(v_type, (ifa_type)9, "v_type is 9");
  CONFIG(kv_tile, 48, "kv_tile is 48");
  CONFIG(block_tokens, 96, "block_tokens is 96");
  CONFIG(block_tokens, 0, "block_tokens is 0");
  CONFIG(block_tokens, 65536, "block_tokens is 65536");
  CONFIG(blocks, 0, "blocks is 0");
  CONFIG(blocks, INT64_C(1) << 31, "blocks is 2147483648");
  CONFIG(sequences, 0, "sequences is 0");
  CONFIG(sequences, (1 << 20) + 1, "sequences is 1048577");
  CONFIG(sequence_tokens, -1, "sequence_tokens is -1");
  CONFIG(sequence_tokens, IFA_MAX_TOKENS + 1, "sequence_tokens is");
  c = good;
  c.blocks = INT32_MAX;
  c.block_tokens = 32768;
  c.kv_heads = 65535;
  c.head_dim = 256;
  refuse_config(c, "more than an address reaches");
  assert_int_equal(ifa_cache_bytes(NULL, &bytes, NULL), IFA_BAD_ARGUMENT);
  assert_int_equal(ifa_cache_bytes(&good, NULL, NULL), IFA_BAD_ARGUMENT);
  ifa_cache_destroy(NULL);
  ifa_cache_workspace_destroy(NULL);
}

/* ---- refusals of append, read, attend ---- */

static void test_bad_tokens(void **state) {
  (void)state;
  ifa_cache_config config = config_of(2, 16, IFA_I8, IFA_I4, 32, 32, 4, 2);
  ifa_message why;
  model m;
  model_create(&m, &config, NULL, 0);
  model_add(&m, 0);
  assert_int_equal(model_append(&m, 0, 30, IFA_F32, false), IFA_OK);
  ifa_sequence s = m.sequences[0].handle;
  enum { COUNT = 7, LENGTH = 2 * COUNT * 16 };
  float good[LENGTH] = {0}, bad[LENGTH];
  uint16_t half[LENGTH] = {0};
  const float values[] = {NAN, -NAN, INFINITY, -INFINITY, 0x1.000002p99f, -0x1p100f};
  for (size_t i = 0; i < sizeof values / sizeof values[0]; i++)
    for (int at = 0; at < LENGTH; at += 37) {
      memset(bad, 0, sizeof bad);
      bad[at] = values[i];
      ifa_cache_tokens k = {.k = bad, .v = good, .type = IFA_F32, .count = COUNT},
                       v = {.k = good, .v = bad, .type = IFA_F32, .count = COUNT};
      char where[64];
      snprintf(where, sizeof where, "k[%d][%d][%d] is", at / (COUNT * 16), at / 16 % COUNT,
               at % 16);
      assert_int_equal(ifa_cache_append(m.cache, s, &k, &why), IFA_BAD_DATA);
      assert_non_null(strstr(why.text, where));
      where[0] = 'v';
      assert_int_equal(ifa_cache_append(m.cache, s, &v, &why), IFA_BAD_DATA);
      assert_non_null(strstr(why.text, where));
    }
  for (int type = IFA_F16; type <= IFA_BF16; type++)
    for (int nan = 0; nan < 2; nan++) {
      half[5] = (uint16_t)((type == IFA_F16 ? 0x7c00 : 0x7f80) + nan);
      ifa_cache_tokens t = {.k = half, .v = half, .type = (ifa_type)type, .count = COUNT};
      assert_int_equal(ifa_cache_append(m.cache, s, &t, &why), IFA_BAD_DATA);
    }
  model_compare(&m); /* nothing was appended */
  ifa_cache_tokens t = {.k = good, .v = good, .type = IFA_F32, .count = COUNT};
  const ifa_cache_tokens ok = t;
  t = ok;
  t.type = IFA_I8;
  assert_int_equal(ifa_cache_append(m.cache, s, &t, &why), IFA_BAD_ARGUMENT);
  t = ok;
  t.count = -1;
  assert_int_equal(ifa_cache_append(m.cache, s, &t, &why), IFA_BAD_ARGUMENT);
  t = ok;
  t.count = INT64_MAX / 8;
  assert_int_equal(ifa_cache_append(m.cache, s, &t, &why), IFA_BAD_ARGUMENT);
  t = ok;
  t.k = NULL;
  assert_int_equal(ifa_cache_append(m.cache, s, &t, &why), IFA_BAD_ARGUMENT);
  t = ok;
  t.v = NULL;
  assert_int_equal(ifa_cache_append(m.cache, s, &t, &why), IFA_BAD_ARGUMENT);
  t = ok;
  t.k_head_stride = -16;
  t.k_token_stride = 16;
  assert_int_equal(ifa_cache_append(m.cache, s, &t, &why), IFA_BAD_ARGUMENT);
  t = ok;
  t.v_head_stride = INT64_MAX / 2;
  assert_int_equal(ifa_cache_append(m.cache, s, &t, &why), IFA_BAD_ARGUMENT);
  assert_int_equal(ifa_cache_append(m.cache, s, NULL, &why), IFA_BAD_ARGUMENT);
  assert_int_equal(ifa_cache_append(NULL, s, &ok, &why), IFA_BAD_ARGUMENT);
  assert_int_equal(ifa_cache_read(m.cache, s, 0, 31, NULL, NULL, NULL, NULL, &why),
                   IFA_BAD_ARGUMENT);
  assert_int_equal(ifa_cache_read(m.cache, s, 31, 0, NULL, NULL, NULL, NULL, &why),
                   IFA_BAD_ARGUMENT);
  assert_int_equal(ifa_cache_read(m.cache, s, -1, 1, NULL, NULL, NULL, NULL, &why),
                   IFA_BAD_ARGUMENT);
  assert_int_equal(ifa_cache_read(m.cache, s, 1, INT64_MAX, NULL, NULL, NULL, NULL, &why),
                   IFA_BAD_ARGUMENT);
  assert_int_equal(ifa_cache_read(m.cache, s, 30, 0, NULL, NULL, NULL, NULL, &why), IFA_OK);
  assert_int_equal(ifa_cache_truncate(m.cache, s, 31, &why), IFA_BAD_ARGUMENT);
  assert_int_equal(ifa_cache_truncate(m.cache, s, -1, &why), IFA_BAD_ARGUMENT);
  model_compare(&m);
  assert_int_equal(ifa_cache_append(m.cache, s, &ok, &why), IFA_OK);
  assert_string_equal(why.text, "");
  model_destroy(&m);
}

enum { SPOILED = 0x5a };

static void refuse_calls(const ifa_cache *cache, const ifa_problem *p, const ifa_cache_query *both,
                         ifa_cache_workspace *w) {
  ifa_message why;
  assert_int_equal(ifa_cache_attend(cache, p, NULL, 1, w, &why), IFA_BAD_ARGUMENT);
  assert_int_equal(ifa_cache_attend(cache, p, both, -1, w, &why), IFA_BAD_ARGUMENT);
  assert_int_equal(ifa_cache_attend(cache, p, both, 2, NULL, &why), IFA_BAD_ARGUMENT);
  assert_int_equal(ifa_cache_attend(cache, NULL, both, 2, w, &why), IFA_BAD_ARGUMENT);
  assert_int_equal(ifa_cache_attend(NULL, p, both, 2, w, &why), IFA_BAD_ARGUMENT);
  assert_int_equal(ifa_cache_attend(cache, p, NULL, 0, w, &why), IFA_OK);
}

static void refuse_workspaces(const ifa_cache *cache, ifa_problem p) {
  ifa_message why;
  size_t bytes;
  assert_int_equal(ifa_cache_workspace_bytes(cache, &p, -1, 1, &bytes, &why), IFA_BAD_ARGUMENT);
  assert_int_equal(ifa_cache_workspace_bytes(cache, &p, 1, -1, &bytes, &why), IFA_BAD_ARGUMENT);
  assert_int_equal(ifa_cache_workspace_bytes(cache, &p, 1, 1 << 20, &bytes, &why),
                   IFA_BAD_ARGUMENT);
  assert_int_equal(ifa_cache_workspace_bytes(cache, NULL, 1, 1, &bytes, &why), IFA_BAD_ARGUMENT);
  p.head_dim = 8;
  assert_int_equal(ifa_cache_workspace_bytes(cache, &p, 1, 1, &bytes, &why), IFA_BAD_PROBLEM);
}

static void make_two_sequences(model *m) {
  ifa_cache_config config = config_of(2, 16, IFA_I8, IFA_I8, 32, 32, 8, 2);
  model_create(m, &config, NULL, 0);
  model_add(m, 0);
  model_add(m, 1);
  assert_int_equal(model_append(m, 0, 70, IFA_F32, false), IFA_OK);
  assert_int_equal(model_append(m, 1, 5, IFA_F32, false), IFA_OK);
}

static void test_bad_queries(void **state) {
  (void)state;
  ifa_message why;
  model m;
  make_two_sequences(&m);
  const ifa_problem good = causal_problem(&m, 4);
  ifa_problem p = good;
  ifa_cache_workspace *w;
  assert_int_equal(ifa_cache_workspace_create(m.cache, &p, 4, 2, NULL, 0, &w, &why), IFA_OK);
  float q[2 * 4 * 16], q_scale[8], o[2][2 * 4 * 16], lse[2][8] = {{0}};
  int8_t q8[2 * 4 * 16] = {1, 2, 3};
  for (int i = 0; i < 128; i++) q[i] = (float)i;
  for (int i = 0; i < 8; i++) q_scale[i] = 0.01f;
  memset(o, SPOILED, sizeof o);
  const ifa_cache_query first = {.sequence = m.sequences[0].handle,
                                 .nq = 2,
                                 .q = q,
                                 .q_type = IFA_F32,
                                 .o = o[0],
                                 .lse = lse[0]};
  const ifa_cache_query second = {.sequence = m.sequences[1].handle,
                                  .nq = 2,
                                  .q = q8,
                                  .q_type = IFA_I8,
                                  .q_scale = q_scale,
                                  .o = o[1],
                                  .lse = lse[1]};
  ifa_cache_query both[2] = {first, second};
#define REFUSE(change, status, says)                                                 \
  do {                                                                               \
    change;                                                                          \
    assert_int_equal(ifa_cache_attend(m.cache, &p, both, 2, w, &why), status);       \
    if (!strstr(why.text, says)) fail_msg("'%s' does not say '%s'", why.text, says); \
    for (size_t byte = 0; byte < sizeof o; byte++)                                   \
      assert_int_equal(((uint8_t *)o)[byte], SPOILED);                               \
    both[0] = first, both[1] = second, p = good;                                     \
  } while (0)
  REFUSE(both[1].sequence = 77, IFA_BAD_ARGUMENT, "queries[1]: there is no sequence 0x4d");
  REFUSE(both[1].nq = -1, IFA_BAD_PROBLEM, "nq");
  REFUSE(both[1].nq = 3, IFA_BAD_ARGUMENT, "rows");
  REFUSE(both[1].nq = IFA_MAX_TOKENS, IFA_BAD_ARGUMENT, "rows");
  REFUSE(both[1].q = NULL, IFA_BAD_ARGUMENT, "queries[1]: q is NULL");
  REFUSE(both[1].o = NULL, IFA_BAD_ARGUMENT, "o is NULL");
  REFUSE(both[1].lse = NULL, IFA_BAD_ARGUMENT, "lse is NULL");
  REFUSE(p.lse = 0, IFA_BAD_ARGUMENT, "lse is given");
  REFUSE(both[1].q_scale = NULL, IFA_BAD_ARGUMENT, "q_scale is NULL");
  REFUSE(both[0].q_scale = q_scale, IFA_BAD_ARGUMENT, "q_scale is given");
  REFUSE(both[1].q_type = IFA_I4, IFA_BAD_ARGUMENT, "q_type is int4");
  REFUSE(both[1].q_type = (ifa_type)-3, IFA_BAD_ARGUMENT, "q_type");
  REFUSE(q_scale[7] = -1.0f, IFA_BAD_DATA, "queries[1]: q_scale[7] is -1");
  REFUSE(q_scale[7] = 0x1p90f, IFA_BAD_DATA,
         "queries[1]: q_scale[7] is 1.23794e+27 and the cache's k_scale[");
  q_scale[7] = 0.01f;
  REFUSE(q[100] = NAN, IFA_BAD_DATA, "queries[0]: q[3][0][4] is nan");
  REFUSE(q[100] = -INFINITY, IFA_BAD_DATA, "queries[0]: q[3][0][4] is -inf");
  REFUSE(q[100] = 0x1p99f, IFA_BAD_DATA, "queries[0]: q's own scale[6] is ");
  q[100] = 1.0f;
  REFUSE(p.kv_heads = 1, IFA_BAD_PROBLEM, "kv_heads is 1; for this cache it is 2");
  REFUSE(p.head_dim = 32, IFA_BAD_PROBLEM, "head_dim");
  REFUSE(p.k_type = IFA_I4, IFA_BAD_PROBLEM, "k_type is int4; for this cache it is int8");
  REFUSE(p.v_type = IFA_I4, IFA_BAD_PROBLEM, "v_type");
  REFUSE(p.kv_tile = 64, IFA_BAD_PROBLEM, "kv_tile");
  REFUSE(p.batch = 2, IFA_BAD_PROBLEM, "batch");
  REFUSE(p.k_scale = IFA_SCALE_TENSOR, IFA_BAD_PROBLEM, "k_scale");
  REFUSE(p.v_scale = IFA_SCALE_CHANNEL, IFA_BAD_PROBLEM,
         "v_scale is channel; for this cache it is token");
  REFUSE(p.q_scale = IFA_SCALE_TENSOR, IFA_BAD_ARGUMENT, "problem.q_scale is not token");
  REFUSE(p.sm_scale = -1.0f, IFA_BAD_PROBLEM, "sm_scale");
  REFUSE(p.q_heads = 3, IFA_BAD_PROBLEM, "q_heads");
  REFUSE(p.kv_split = 48, IFA_BAD_PROBLEM, "kv_split");
  REFUSE(p.tau = 65, IFA_BAD_PROBLEM, "tau");
#undef REFUSE
  refuse_calls(m.cache, &good, both, w);
  both[0] = (ifa_cache_query){.sequence = both[0].sequence,
                              .q_type = both[0].q_type}; /* no rows, no pointers */
  assert_int_equal(ifa_cache_attend(m.cache, &p, both, 2, w, &why), IFA_OK);
  ifa_cache_workspace_destroy(w);
  refuse_workspaces(m.cache, good);
  model_destroy(&m);
}

/* A table that something else wrote into: every call on the sequence says so, the others go on, and
 * the cache is as it was once it is mended. */
static void test_bad_table(void **state) {
  (void)state;
  ifa_cache_config config = config_of(1, 16, IFA_I8, IFA_I8, 32, 32, 8, 3);
  ifa_message why;
  model m;
  int64_t length;
  ifa_sequence child;
  float x[16] = {0}, o[16], lse[1];
  model_create(&m, &config, NULL, 0);
  for (int s = 0; s < 2; s++) {
    model_add(&m, s);
    assert_int_equal(model_append(&m, s, 70, IFA_F32, false), IFA_OK);
  }
  ifa_problem p = causal_problem(&m, 1);
  ifa_cache_workspace *w;
  assert_int_equal(ifa_cache_workspace_create(m.cache, &p, 1, 1, NULL, 0, &w, &why), IFA_OK);
  uint32_t *entry = ifa_cache_table(m.cache, 0) + 1;
  const uint32_t kept = *entry, bad[] = {8, UINT32_MAX, 6 /* free */};
  ifa_cache_tokens tokens = {.k = x, .v = x, .type = IFA_F32, .count = 1};
  for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
    ifa_cache_query query = {
        .sequence = m.sequences[0].handle, .nq = 1, .q = x, .q_type = IFA_F32, .o = o, .lse = lse};
    *entry = bad[i];
    assert_int_equal(ifa_cache_append(m.cache, query.sequence, &tokens, &why), IFA_BAD_DATA);
    assert_non_null(strstr(why.text, "block table entry 1"));
    assert_int_equal(ifa_cache_attend(m.cache, &p, &query, 1, w, &why), IFA_BAD_DATA);
    assert_int_equal(ifa_cache_fork(m.cache, query.sequence, &child, &why), IFA_BAD_DATA);
    assert_int_equal(ifa_cache_truncate(m.cache, query.sequence, 0, &why), IFA_BAD_DATA);
    assert_int_equal(ifa_cache_remove(m.cache, query.sequence, &why), IFA_BAD_DATA);
    assert_int_equal(ifa_cache_read(m.cache, query.sequence, 0, 1, NULL, NULL, NULL, NULL, &why),
                     IFA_BAD_DATA);
    assert_int_equal(ifa_cache_length(m.cache, query.sequence, &length, &why), IFA_BAD_DATA);
    assert_int_equal(ifa_cache_check(m.cache, &why), IFA_BAD_DATA);
    query.sequence = m.sequences[1].handle;
    assert_int_equal(ifa_cache_attend(m.cache, &p, &query, 1, w, &why), IFA_OK);
    *entry = kept;
    model_compare(&m);
  }
  *entry = ifa_cache_table(
      m.cache, 1)[0]; /* a block in use, but not this sequence's: only the check can tell */
  assert_int_equal(ifa_cache_check(m.cache, &why), IFA_BAD_DATA);
  assert_non_null(strstr(why.text, "references"));
  *entry = kept;
  m.cache->free_blocks[0] = kept;
  assert_int_equal(ifa_cache_check(m.cache, &why), IFA_BAD_DATA);
  m.cache->free_blocks[0] = 7; /* given out last */
  m.cache->free_slots[0] = 0;
  assert_int_equal(ifa_cache_check(m.cache, &why), IFA_BAD_DATA);
  m.cache->free_slots[0] = 2;
  m.cache->slots[0].length = 97;
  assert_int_equal(ifa_cache_check(m.cache, &why), IFA_BAD_DATA);
  m.cache->slots[0].length = 70;
  model_compare(&m);
  ifa_cache_workspace_destroy(w);
  model_destroy(&m);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_bad_configs),
      cmocka_unit_test(test_bad_tokens),
      cmocka_unit_test(test_bad_queries),
      cmocka_unit_test(test_bad_table),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
