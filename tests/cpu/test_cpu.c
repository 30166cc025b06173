/* test_cpu.c - ifa_cpu.h: every instruction set of this machine against the oracle on random cases,
 * on 1 to 16 threads; what a result must not depend on; every refusal. (The kernels step by step
 * and the weight function on all of its inputs: cpu_kernels.c. The backends on the suites: the
 * golden checks.) IFA_TEST_WRAP_ALLOC: the program is linked with
 * -Wl,--wrap=malloc,--wrap=calloc,--wrap=aligned_alloc, so that allocations can be counted. */
#include <inttypes.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/random.h"
#include "cpu/attend.h"
#include "ifa_cpu.h"
#include "validate/cases/buffers.h"

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED
#endif
#endif
#ifdef SANITIZED
enum { CASES = 40 }; /* the kernels are not optimized then */
#else
enum { CASES = 160 };
#endif
enum { SEED = 57721, POISON = 0x7f };

static uint32_t below(uint64_t stream, uint64_t index, uint32_t count) {
  return ifa_random_below(SEED, stream, index, count);
}

static int available(const char *isa) { return ifa_cpu_isa_available(isa, NULL, NULL) == IFA_OK; }

/* ---- one run ---- */

typedef struct workspace {
  uint8_t *memory;
  size_t bytes;
} workspace;

/* Exactly what is asked for, and a guard behind. */
static workspace workspace_for(const ifa_problem *p, int threads) {
  workspace w;
  ifa_message why = {""};
  if (ifa_cpu_workspace_bytes(p, threads, &w.bytes, &why) != IFA_OK) fail_msg("%s", why.text);
  assert_true(w.bytes > 0 && w.bytes % IFA_CPU_ALIGNMENT == 0);
  w.memory = aligned_alloc(IFA_CPU_ALIGNMENT, w.bytes + IFA_CPU_ALIGNMENT);
  assert_non_null(w.memory);
  memset(w.memory, 0xa5, w.bytes + IFA_CPU_ALIGNMENT);
  return w;
}

static void workspace_free(workspace *w) {
  for (int i = 0; i < IFA_CPU_ALIGNMENT; i++)
    assert_int_equal(w->memory[w->bytes + (size_t)i], 0xa5);
  free(w->memory);
}

static void attend(const char *isa, const ifa_data *d, const ifa_run_buffers *to, int threads) {
  ifa_message why = {"left over"};
  ifa_inputs in = ifa_data_inputs(d);
  ifa_outputs out = ifa_run_buffers_outputs(to);
  workspace w = workspace_for(&d->p, threads);
  if (ifa_cpu_attend(isa, &d->p, &in, &out, w.memory, w.bytes, threads, &why) != IFA_OK)
    fail_msg("%s: %s", isa ? isa : "the default", why.text);
  assert_string_equal(why.text, "");
  workspace_free(&w);
  if (ifa_run_buffers_check(d, to, &why) != IFA_OK)
    fail_msg("%s: %s", isa ? isa : "the default", why.text);
}

static ifa_data data_of(const char *text) {
  ifa_case c = ifa_case_default();
  ifa_data d;
  ifa_message why = {""};
  memset(&d, 0, sizeof d);
  if (ifa_case_parse(text, &c, &why) != IFA_OK || ifa_data_make(&c, &d, &why) != IFA_OK)
    fail_msg("%s: %s", text, why.text);
  return d;
}

static ifa_run_buffers buffers_of(const ifa_data *d, ifa_stage_level level) {
  ifa_run_buffers b;
  ifa_message why = {""};
  if (ifa_run_buffers_make(d, level, POISON, &b, &why) != IFA_OK) fail_msg("%s", why.text);
  return b;
}

static ifa_run_buffers oracle(const ifa_data *d, ifa_stage_level level) {
  ifa_run_buffers b = buffers_of(d, level);
  ifa_inputs in = ifa_data_inputs(d);
  ifa_outputs out = ifa_run_buffers_outputs(&b);
  ifa_message why = {""};
  if (ifa_run("scalar", &d->p, &in, &out, &why) != IFA_OK) fail_msg("%s", why.text);
  return b;
}

static void expect_same(const ifa_run_buffers *a, const ifa_run_buffers *b, const char *text,
                        const char *isa, int threads) {
  const struct {
    const char *name;
    const ifa_buffer *a, *b;
  } list[] = {{"s", &a->s, &b->s},
              {"unit", &a->unit, &b->unit},
              {"p", &a->p, &b->p},
              {"value_unit", &a->value_unit, &b->value_unit},
              {"value_p", &a->value_p, &b->value_p},
              {"l", &a->l, &b->l},
              {"acc", &a->acc, &b->acc},
              {"o", &a->o, &b->o},
              {"lse", &a->lse, &b->lse}};
  for (size_t i = 0; i < sizeof list / sizeof list[0]; i++) {
    if (!list[i].a->data || !list[i].b->data) continue;
    assert_int_equal(list[i].a->bytes, list[i].b->bytes);
    if (memcmp(list[i].a->data, list[i].b->data, list[i].a->bytes) != 0)
      fail_msg("%s on %s, %d threads: %s differs", text, isa, threads, list[i].name);
  }
}

/* ---- random cases ---- */

/* Any shape, mask, format, scale choice, tau, tile, split, layout and choice of rows; -128 among
 * the operands (extremes). */
static void random_case(uint64_t i, char *text, size_t length) {
  static const char *const v_scales[] = {"tensor", "channel", "token", "token_channel"},
                           *const types[] = {"int8", "int4"},
                           *const outs[] = {"f32", "f16", "bf16"};
  static const char *const fills[] = {"normal", "extremes", "extremes", "falling",
                                      "rising", "sink",     "zeros",    "outlier"};
  static const char *const taus[] = {"0", "1", "2", "2", "9", "inf"};
  static const int tiles[] = {32, 64, 64, 128, 256};
  int tile = tiles[below(0, i, 5)], heads = 1 + (int)below(1, i, 3),
      group = 1 + (int)below(2, i, 4);
  int dim = (int)(below(3, i, 4) ? 1 + below(4, i, 140) : 1 + below(4, i, 256)),
      nq = (int)(below(5, i, 3) ? 1 + below(6, i, 20) : 1 + below(6, i, 130));
  int nk = (int)(below(7, i, 3) ? 1 + below(8, i, 400) : 1 + below(8, i, 1500)),
      split = below(9, i, 2) ? 0 : tile * (1 + (int)below(10, i, 5));
  int window = below(11, i, 3) ? 0 : 1 + (int)below(12, i, 200),
      rows = below(13, i, 3) ? 0 : 1 + (int)below(14, i, (uint32_t)(nq * heads * group));
  static const char *const k_scales[] = {"token", "token", "tensor", "block"};
  snprintf(text, length,
           "b=%d hq=%d hkv=%d nq=%d nk=%d d=%d q=%s k=%s v=%s qscale=%s kscale=%s qblock=%d "
           "kblock=%d vscale=%s causal=%d window=%d tau=%s tile=%d split=%d layout=%s out=%s "
           "lse=%d rows=%d minus_zero=%d fill=%s seed=%" PRIu64,
           1 + (int)below(15, i, 2), heads * group, heads, nq, nk, dim, types[below(16, i, 4) == 0],
           types[below(17, i, 4) == 0], types[below(18, i, 4) == 0], k_scales[below(19, i, 4)],
           k_scales[below(20, i, 4)], 1 + (int)below(21, i, 40), tile * (1 + (int)below(22, i, 3)),
           v_scales[below(23, i, 4)], (int)below(24, i, 2), window, taus[below(25, i, 6)], tile,
           split, below(26, i, 2) ? "bhnd" : "bnhd", outs[below(27, i, 3)], (int)below(28, i, 2),
           rows, (int)below(32, i, 2), fills[below(29, i, 8)], i + 1);
}

static void test_random_cases(void **state) {
  (void)state;
  int runs = 0;
  for (uint64_t i = 0; i < CASES; i++) {
    char text[512];
    random_case(i, text, sizeof text);
    ifa_data d = data_of(text);
    ifa_stage_level level = i % 4 == 0 ? IFA_STAGES_ALL : IFA_STAGES_NONE;
    ifa_run_buffers expected = oracle(&d, level);
    for (int n = 0; n < ifa_cpu_isa_count(); n++) {
      const char *isa = ifa_cpu_isa_name(n);
      if (!available(isa)) continue;
      int threads = 1 + (int)below(30, i * 16 + (uint64_t)n, 5);
      ifa_run_buffers got = buffers_of(&d, level);
      attend(isa, &d, &got, threads);
      expect_same(&expected, &got, text, isa, threads);
      ifa_run_buffers_free(&got);
      runs++;
    }
    ifa_run_buffers_free(&expected);
    ifa_data_free(&d);
  }
  assert_true(runs >= CASES);
}

/* 1 to 16 threads: blocks shared out (the first), splits of one block shared out (the others; the
 * last has more splits than fit in flight). */
static void test_threads(void **state) {
  (void)state;
  static const char *const cases[] = {
      "b=2 hq=4 hkv=2 nq=150 nk=300 d=40 causal=1 split=128 vscale=token lse=1",
      "b=1 hq=4 hkv=1 nq=3 nk=2000 d=64 split=64 vscale=channel lse=1",
      "b=1 hq=2 hkv=1 nq=2 nk=9000 d=24 tile=32 split=32 vscale=token_channel fill=falling lse=1"};
  for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
    ifa_data d = data_of(cases[c]);
    ifa_run_buffers expected = oracle(&d, IFA_STAGES_NONE);
    for (int threads = 1; threads <= 16; threads++) {
      ifa_run_buffers got = buffers_of(&d, IFA_STAGES_NONE);
      attend(NULL, &d, &got, threads);
      expect_same(&expected, &got, cases[c], "the default", threads);
      ifa_run_buffers_free(&got);
    }
    ifa_run_buffers_free(&expected);
    ifa_data_free(&d);
  }
}

/* ---- several callers at once ---- */

typedef struct caller {
  ifa_data d;
  ifa_run_buffers expected;
  int same;
} caller;

static void *call(void *context) {
  caller *c = context;
  c->same = 1;
  for (int i = 0; i < 10; i++) {
    ifa_run_buffers got;
    size_t bytes;
    if (ifa_run_buffers_make(&c->d, IFA_STAGES_NONE, POISON, &got, NULL) != IFA_OK ||
        ifa_cpu_workspace_bytes(&c->d.p, 2, &bytes, NULL) != IFA_OK)
      return NULL;
    void *memory = aligned_alloc(IFA_CPU_ALIGNMENT, bytes);
    ifa_inputs in = ifa_data_inputs(&c->d);
    ifa_outputs out = ifa_run_buffers_outputs(&got);
    c->same &= memory &&
               ifa_cpu_attend(NULL, &c->d.p, &in, &out, memory, bytes, 2, NULL) == IFA_OK &&
               memcmp(got.o.data, c->expected.o.data, got.o.bytes) == 0;
    free(memory);
    ifa_run_buffers_free(&got);
  }
  return NULL;
}

static void test_callers_at_once(void **state) {
  (void)state;
  enum { CALLERS = 4 };
  static caller callers[CALLERS];
  pthread_t threads[CALLERS];
  for (int i = 0; i < CALLERS; i++) {
    char text[128];
    snprintf(text, sizeof text, "b=1 hq=2 hkv=2 nq=%d nk=%d d=%d vscale=%s", 20 + 40 * i,
             100 + 30 * i, 16 + 20 * i, i & 1 ? "token" : "channel");
    callers[i].d = data_of(text);
    callers[i].expected = oracle(&callers[i].d, IFA_STAGES_NONE);
  }
  for (int i = 0; i < CALLERS; i++)
    assert_int_equal(pthread_create(&threads[i], NULL, call, &callers[i]), 0);
  for (int i = 0; i < CALLERS; i++) {
    pthread_join(threads[i], NULL);
    assert_true(callers[i].same);
    ifa_run_buffers_free(&callers[i].expected);
    ifa_data_free(&callers[i].d);
  }
}

/* ---- nothing is allocated ---- */

#ifdef IFA_TEST_WRAP_ALLOC
#include "tests/cpu/allocations.h"

static void test_no_allocation(void **state) {
  (void)state;
  ifa_data d = data_of("b=1 hq=4 hkv=2 nq=60 nk=500 d=48 split=64 vscale=token rows=30");
  ifa_run_buffers got = buffers_of(&d, IFA_STAGES_NONE);
  ifa_inputs in = ifa_data_inputs(&d);
  ifa_outputs out = ifa_run_buffers_outputs(&got);
  workspace w = workspace_for(&d.p, 3);
  int before = allocations;
  assert_true(before > 0);
  for (int n = 0; n < ifa_cpu_isa_count(); n++)
    if (available(ifa_cpu_isa_name(n)))
      assert_int_equal(
          ifa_cpu_attend(ifa_cpu_isa_name(n), &d.p, &in, &out, w.memory, w.bytes, 3, NULL), IFA_OK);
  assert_int_equal(allocations, before);
  workspace_free(&w);
  ifa_run_buffers_free(&got);
  ifa_data_free(&d);
}
#endif

/* ---- refusals ---- */

static void test_refusals(void **state) {
  (void)state;
  ifa_data d = data_of("b=1 hq=2 hkv=1 nq=9 nk=130 d=20 vscale=token lse=1");
  ifa_run_buffers got = buffers_of(&d, IFA_STAGES_NONE);
  ifa_inputs in = ifa_data_inputs(&d);
  ifa_outputs out = ifa_run_buffers_outputs(&got), no_lse = out;
  no_lse.lse = NULL;
  workspace w = workspace_for(&d.p, 2);
  size_t bytes = 12345;
  ifa_problem bad = d.p;
  bad.head_dim = 257;
  ifa_message why;
  const struct {
    const char *isa;
    const ifa_problem *p;
    const ifa_inputs *in;
    const ifa_outputs *out;
    void *memory;
    size_t bytes;
    int threads;
    ifa_status status;
    const char *says;
  } list[] = {{NULL, &bad, &in, &out, w.memory, w.bytes, 2, IFA_BAD_PROBLEM, "head_dim"},
              {NULL, &d.p, &in, &out, NULL, w.bytes, 2, IFA_BAD_ARGUMENT, "workspace is NULL"},
              {NULL, &d.p, &in, &out, w.memory + 32, w.bytes, 2, IFA_BAD_ARGUMENT, "aligned"},
              {NULL, &d.p, &in, &out, w.memory, w.bytes - 1, 2, IFA_BAD_ARGUMENT, "are needed"},
              {NULL, &d.p, &in, &out, w.memory, w.bytes, 3, IFA_BAD_ARGUMENT, "are needed"},
              {NULL, &d.p, &in, &out, w.memory, w.bytes, 0, IFA_BAD_ARGUMENT, "threads is 0"},
              {NULL, &d.p, &in, &out, w.memory, w.bytes, -1, IFA_BAD_ARGUMENT, "threads is -1"},
              {NULL, &d.p, &in, &out, w.memory, w.bytes, IFA_CPU_MAX_THREADS + 1, IFA_BAD_ARGUMENT,
               "threads is 4097"},
              {NULL, &d.p, NULL, &out, w.memory, w.bytes, 2, IFA_BAD_ARGUMENT, "inputs is NULL"},
              {NULL, &d.p, &in, NULL, w.memory, w.bytes, 2, IFA_BAD_ARGUMENT, "outputs is NULL"},
              {NULL, &d.p, &in, &no_lse, w.memory, w.bytes, 2, IFA_BAD_ARGUMENT, "lse is NULL"},
              {"avx9", &d.p, &in, &out, w.memory, w.bytes, 2, IFA_BAD_ARGUMENT, "avx9"},
              {"", &d.p, &in, &out, w.memory, w.bytes, 2, IFA_BAD_ARGUMENT, "instruction set"},
              {NULL, NULL, &in, &out, w.memory, w.bytes, 2, IFA_BAD_ARGUMENT, "NULL"}};
  for (size_t i = 0; i < sizeof list / sizeof list[0]; i++) {
    why.text[0] = '\0';
    assert_int_equal(ifa_cpu_attend(list[i].isa, list[i].p, list[i].in, list[i].out, list[i].memory,
                                    list[i].bytes, list[i].threads, &why),
                     list[i].status);
    if (!strstr(why.text, list[i].says)) fail_msg("'%s' does not say '%s'", why.text, list[i].says);
  }
  d.v_scale[7] = -1.0f;
  assert_int_equal(ifa_cpu_attend(NULL, &d.p, &in, &out, w.memory, w.bytes, 2, &why), IFA_BAD_DATA);
  assert_non_null(strstr(why.text, "v_scale[7]"));
  /* none of them wrote */
  for (size_t i = 0; i < got.o.bytes; i++) assert_int_equal(got.o.data[i], POISON);

  assert_int_equal(ifa_cpu_workspace_bytes(&d.p, 0, &bytes, &why), IFA_BAD_ARGUMENT);
  assert_int_equal(ifa_cpu_workspace_bytes(&bad, 1, &bytes, &why), IFA_BAD_PROBLEM);
  assert_int_equal(bytes, 12345);
  assert_int_equal(ifa_cpu_workspace_bytes(&d.p, 1, NULL, &why), IFA_BAD_ARGUMENT);
  workspace_free(&w);
  ifa_run_buffers_free(&got);
  ifa_data_free(&d);
}

/* ---- which instruction set ---- */

static void test_isa(void **state) {
  (void)state;
  static const char *const names[] = {"portable",    "avx2", "avx_vnni",     "avx512_vnni",
                                      "avx512_fp16", "amx",  "neon_dotprod", "neon_i8mm"};
  const char *best = NULL, *chosen;
  ifa_message why;
  assert_int_equal(ifa_cpu_isa_count(), sizeof names / sizeof names[0]);
  assert_true(ifa_cpu_isa_name(-1) == NULL && ifa_cpu_isa_name(ifa_cpu_isa_count()) == NULL);
  assert_true(available("portable"));
  for (int i = 0; i < ifa_cpu_isa_count(); i++) {
    assert_string_equal(ifa_cpu_isa_name(i), names[i]);
    ifa_status status = ifa_cpu_isa_available(names[i], &chosen, &why);
    setenv("IFA_CPU_ISA", names[i], 1);
    assert_int_equal(ifa_cpu_isa_available(NULL, NULL, NULL), status);
    /* the backend obeys, and does not fall back */
    assert_int_equal(ifa_backend_supports("cpu", NULL, NULL), status);
    if (status == IFA_OK) {
      assert_string_equal(chosen, names[i]);
      assert_int_equal(ifa_cpu_isa_available(NULL, &chosen, &why), IFA_OK);
      assert_string_equal(chosen, names[i]);
      best = names[i];
    } else {
      assert_int_equal(status, IFA_NOT_AVAILABLE);
      assert_null(chosen);
      assert_non_null(strstr(why.text, names[i]));
    }
  }
  setenv("IFA_CPU_ISA", "sse9", 1);
  assert_int_equal(ifa_cpu_isa_available(NULL, &chosen, &why), IFA_BAD_ARGUMENT);
  assert_null(chosen);
  assert_true(strstr(why.text, "IFA_CPU_ISA") && strstr(why.text, "sse9"));
  /* a name given counts, not the variable */
  assert_int_equal(ifa_cpu_isa_available("portable", &chosen, &why), IFA_OK);
  setenv("IFA_CPU_ISA", "", 1);
  assert_int_equal(ifa_cpu_isa_available(NULL, &chosen, &why), IFA_OK);
  assert_string_equal(chosen, best);
  unsetenv("IFA_CPU_ISA");
  assert_int_equal(ifa_cpu_isa_available(NULL, &chosen, &why), IFA_OK);
  assert_string_equal(chosen, best);
}

static const char *name_at(uint32_t available, int rows) {
  ifa_cpu_choice c = ifa_cpu_choice_of(available);
  return (rows < IFA_CPU_MANY_ROWS ? c.few : c.many)->name;
}

/* Whatever a machine has: AMX for blocks that fill its tiles, the best of the others else. */
static void test_choice(void **state) {
  (void)state;
  enum {
    PORTABLE = 1,
    AVX2 = 2,
    AVX_VNNI = 4,
    VNNI = 8,
    FP16 = 16,
    AMX = 32,
    DOTPROD = 64,
    I8MM = 128
  };
  assert_string_equal(name_at(PORTABLE, 1), "portable");
  assert_string_equal(name_at(PORTABLE, 48), "portable");
  assert_string_equal(name_at(PORTABLE | AVX2 | AVX_VNNI, 1), "avx_vnni");
  assert_string_equal(name_at(PORTABLE | AVX2 | AVX_VNNI | VNNI, 1), "avx512_vnni");
  assert_string_equal(name_at(PORTABLE | AVX2 | VNNI, 1), "avx512_vnni");
  assert_string_equal(name_at(PORTABLE | AVX2 | VNNI, 48), "avx512_vnni");
  assert_string_equal(name_at(PORTABLE | AVX2 | VNNI | FP16, 4), "avx512_fp16");
  assert_string_equal(name_at(PORTABLE | AVX2 | VNNI | FP16, 16), "avx512_fp16");
  for (int rows = 1; rows <= IFA_CPU_ROWS; rows++)
    assert_string_equal(name_at(PORTABLE | AVX2 | VNNI | FP16 | AMX, rows),
                        rows < 16 ? "avx512_fp16" : "amx");
  assert_string_equal(name_at(PORTABLE | AMX, 4), "portable"); /* emulated */
  assert_string_equal(name_at(PORTABLE | DOTPROD | I8MM, 1), "neon_i8mm");
  assert_string_equal(name_at(PORTABLE | DOTPROD, 48), "neon_dotprod");
}

/* Portable kernels that count the rows of the blocks they get. */
static int many_calls[IFA_CPU_ROWS + 1], few_calls[IFA_CPU_ROWS + 1];
static void many_scores(ifa_cpu_block *b, const uint8_t *tile) {
  many_calls[b->rows]++;
  ifa_cpu_portable.scores(b, tile);
}
static void few_scores(ifa_cpu_block *b, const uint8_t *tile) {
  few_calls[b->rows]++;
  ifa_cpu_portable.scores(b, tile);
}

static const uint8_t *only_tile(const void *context, int64_t batch, int64_t kv_head, int64_t t) {
  (void)batch, (void)kv_head, (void)t;
  return context;
}

/* Each block of a call runs on the kernels for its rows. */
static void test_kernels_by_rows(void **state) {
  (void)state;
  ifa_cpu_kernels many = ifa_cpu_portable, few = ifa_cpu_portable;
  many.scores = many_scores, few.scores = few_scores;
  static const struct {
    int nq, few, many; /* rows of the blocks, 4 * nq in all */
  } shapes[] = {{1, 4, 0}, {3, 12, 0}, {4, 0, 16}, {12, 0, 48}, {13, 4, 48}, {16, 0, 16}};
  for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
    char text[128];
    snprintf(text, sizeof text, "b=1 hq=4 hkv=1 nq=%d nk=60 d=64 vscale=token", shapes[i].nq);
    ifa_data d = data_of(text);
    ifa_run_buffers expected = oracle(&d, IFA_STAGES_NONE), got = buffers_of(&d, IFA_STAGES_NONE);
    ifa_problem p = ifa_problem_resolved(&d.p);
    ifa_inputs in = ifa_data_inputs(&d);
    ifa_outputs out = ifa_run_buffers_outputs(&got);
    ifa_cpu_job job = {.p = &p,
                       .in = &in,
                       .out = &out,
                       .layout = ifa_cpu_layout_of(p.kv_tile, p.head_dim, 8, 8),
                       .tile = only_tile,
                       .many = &many,
                       .few = &few,
                       .threads = 1};
    workspace w = workspace_for(&d.p, 1);
    uint8_t *tile = aligned_alloc(64, (size_t)job.layout.bytes);
    ifa_cpu_pack_tile(&p, &in, &job.layout, 0, 0, 0, tile);
    job.context = tile;
    memset(many_calls, 0, sizeof many_calls);
    memset(few_calls, 0, sizeof few_calls);
    ifa_cpu_attend_tiles(&job, w.memory);
    expect_same(&expected, &got, text, "portable", 1);
    for (int rows = 1; rows <= IFA_CPU_ROWS; rows++) {
      assert_int_equal(few_calls[rows], rows == shapes[i].few);
      assert_true((many_calls[rows] > 0) ==
                  (rows == shapes[i].many || (shapes[i].nq == 16 && rows == 48)));
    }
    free(tile);
    workspace_free(&w);
    ifa_run_buffers_free(&expected);
    ifa_run_buffers_free(&got);
    ifa_data_free(&d);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_random_cases),    cmocka_unit_test(test_threads),
      cmocka_unit_test(test_callers_at_once),
#ifdef IFA_TEST_WRAP_ALLOC
      cmocka_unit_test(test_no_allocation),
#endif
      cmocka_unit_test(test_refusals),        cmocka_unit_test(test_isa),
      cmocka_unit_test(test_choice),          cmocka_unit_test(test_kernels_by_rows)};
  unsetenv("IFA_CPU_ISA");
  return cmocka_run_group_tests_name("cpu", tests, NULL, NULL);
}
