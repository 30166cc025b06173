/* test_from_floats.c - ifa_cpu_attention against its definition, ifa_quantize of Q, K and V and
 * ifa_run: random problems of every type, format, scale choice and layout on every instruction set
 * of this machine; every refusal; and the loops behind it, version by version.
 *
 * test_from_floats [CASES [SEED]] IFA_TEST_WRAP_ALLOC: the program is linked with
 * -Wl,--wrap=malloc,--wrap=calloc,--wrap=aligned_alloc, so that allocations can be counted. */
#include <fenv.h>
#include <inttypes.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/operand.h"
#include "common/problem.h"
#include "common/random.h"
#include "cpu/output.h"
#include "ifa_cpu.h"

#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED
#endif
#endif
#ifdef SANITIZED
static uint64_t cases = 60; /* the kernels are not optimized then */
#else
static uint64_t cases = 400;
#endif
static uint64_t seed = 31415;

enum { POISON = 0x7f, GUARD = 64 };

static uint32_t below(uint64_t stream, uint64_t index, uint32_t count) {
  return ifa_random_below(seed, stream, index, count);
}

#define PICK(stream, index, list) \
  list[below(stream, index, (uint32_t)(sizeof(list) / sizeof((list)[0])))]

/* ---- tensors ---- */

typedef struct tensors {
  ifa_cpu_attention_args args; /* o and lse NULL */
  ifa_strides q, k, v;         /* written out */
  void *memory[3];
} tensors;

static ifa_strides layout(uint32_t kind, int64_t heads, int64_t tokens, int64_t head_dim) {
  const int64_t row = head_dim + (kind == 2 ? 3 : 16); /* gaps, odd and even */
  if (kind == 0) return (ifa_strides){0, 0, 0};
  if (kind == 1) return ifa_strides_bnhd(IFA_F32, heads, tokens, head_dim);
  return (ifa_strides){heads * tokens * row + row, tokens * row, row};
}

/* number: 0 q, 1 k, 2 v. Gaps are NaN; some rows are 0, K has channels with offsets. */
static void *draw(const ifa_cpu_attention_args *a, uint64_t i, int number, ifa_strides given,
                  int64_t heads, int64_t tokens, ifa_strides *s) {
  const ifa_problem *p = &a->problem;
  *s = given;
  if (!s->batch && !s->head && !s->token)
    *s = ifa_strides_bhnd(a->type, heads, tokens, p->head_dim);
  size_t bytes = (size_t)ifa_extent_bytes(a->type, *s, p->batch, heads, tokens, p->head_dim);
  uint8_t *data = malloc(bytes + 4);
  const float size = ldexpf(1.0f, (int)below(90, i, 7) - 3);
  assert_non_null(data);
  memset(data, 0xff, bytes);
  for (int64_t row = 0; row < p->batch * heads * tokens; row++)
    for (int64_t d = 0; d < p->head_dim; d++) {
      float x =
          size * ifa_random_normal(seed + i, (uint64_t)number, (uint64_t)(row * p->head_dim + d));
      if (number == 1 && d % 7 == 3) x += 8.0f * size;
      if (row % 23 == 5) x = 0.0f;
      ifa_float_set(a->type, data,
                    ifa_offset(*s, row / tokens / heads, row / tokens % heads, row % tokens) + d,
                    x);
    }
  return data;
}

/* Tensors for args whose sizes, choices and strides are set. */
static tensors draw_all(const ifa_cpu_attention_args *a, uint64_t i) {
  const ifa_problem *p = &a->problem;
  tensors t = {.args = *a};
  t.memory[0] = draw(a, i, 0, p->q_stride, p->q_heads, p->nq, &t.q);
  t.memory[1] = draw(a, i, 1, p->k_stride, p->kv_heads, p->nk, &t.k);
  t.memory[2] = draw(a, i, 2, p->v_stride, p->kv_heads, p->nk, &t.v);
  t.args.q = t.memory[0];
  t.args.k = t.memory[1];
  t.args.v = t.memory[2];
  return t;
}

static void free_all(tensors *t) {
  for (int i = 0; i < 3; i++) free(t->memory[i]);
}

/* ---- outputs ---- */

typedef struct result {
  size_t o_bytes, lse_bytes;
  uint8_t *o;
  float *lse;
} result;

static result result_of(const ifa_problem *problem) {
  ifa_problem p = *problem;
  p.q_stride = p.k_stride = p.v_stride = (ifa_strides){0, 0, 0};
  p = ifa_problem_resolved(&p);
  result r = {.o_bytes = (size_t)ifa_extent_bytes(p.out_type, p.o_stride, p.batch, p.q_heads, p.nq,
                                                  p.head_dim),
              .lse_bytes = p.lse ? (size_t)(p.batch * p.q_heads * p.nq) * sizeof(float) : 0};
  r.o = malloc(r.o_bytes + 1);
  r.lse = r.lse_bytes ? malloc(r.lse_bytes) : NULL;
  memset(r.o, POISON, r.o_bytes + 1);
  if (r.lse) memset(r.lse, POISON, r.lse_bytes);
  return r;
}

static void free_result(result *r) {
  free(r->o);
  free(r->lse);
}

static void expect_same(const result *a, const result *b, const char *text) {
  if (memcmp(a->o, b->o, a->o_bytes) != 0) fail_msg("o differs: %s", text);
  if (a->lse && memcmp(a->lse, b->lse, a->lse_bytes) != 0) fail_msg("lse differs: %s", text);
}

/* ---- the definition ---- */

typedef struct quantized {
  void *data;
  float *scale, *channel;
} quantized;

static ifa_status quantize(const tensors *t, const void *src, ifa_strides s, int64_t heads,
                           int64_t tokens, ifa_type type, ifa_granularity granularity,
                           int32_t block, int mean, quantized *to, ifa_message *why) {
  const ifa_problem *p = &t->args.problem;
  int64_t rows = p->batch * heads * tokens, dim = p->head_dim;
  int64_t scales = ifa_scale_count(granularity, p->batch, heads, tokens, dim, block);
  to->data = malloc((size_t)(rows * (dim + 1)) + 1);
  to->scale = malloc((size_t)(scales + 1) * sizeof(float));
  to->channel = malloc((size_t)(p->batch * heads * dim) * sizeof(float));
  const ifa_quantize_args a = {.src = src,
                               .src_type = t->args.type,
                               .src_stride = s,
                               .batch = p->batch,
                               .heads = heads,
                               .tokens = tokens,
                               .head_dim = dim,
                               .dst = to->data,
                               .dst_type = type,
                               .granularity = granularity,
                               .block = block,
                               .subtract_mean = mean,
                               .scale = to->scale,
                               .channel_scale = to->channel};
  return ifa_quantize(&a, why);
}

static void free_quantized(quantized *q) {
  free(q->data);
  free(q->scale);
  free(q->channel);
}

static ifa_status define(const tensors *t, result *r, ifa_message *why) {
  ifa_problem p = t->args.problem;
  quantized q = {0}, k = {0}, v = {0};
  ifa_status status =
      quantize(t, t->args.q, t->q, p.q_heads, p.nq, p.q_type, p.q_scale, p.q_block, 0, &q, why);
  if (status == IFA_OK)
    status = quantize(t, t->args.k, t->k, p.kv_heads, p.nk, p.k_type, p.k_scale, p.k_block,
                      t->args.subtract_k_mean, &k, why);
  if (status == IFA_OK)
    status = quantize(t, t->args.v, t->v, p.kv_heads, p.nk, p.v_type, p.v_scale, 0, 0, &v, why);
  p.q_stride = p.k_stride = p.v_stride = (ifa_strides){0, 0, 0};
  const ifa_inputs in = {.q = q.data,
                         .k = k.data,
                         .v = v.data,
                         .q_scale = q.scale,
                         .k_scale = k.scale,
                         .v_scale = v.scale,
                         .v_channel_scale = v.channel};
  const ifa_outputs out = {.o = r->o, .lse = r->lse};
  if (status == IFA_OK) status = ifa_run("scalar", &p, &in, &out, why);
  free_quantized(&q);
  free_quantized(&k);
  free_quantized(&v);
  return status;
}

/* ---- the call ---- */

/* Into exactly the workspace that is asked for; nothing behind it may be touched. */
static ifa_status attend(const char *isa, const tensors *t, result *r, int threads,
                         ifa_message *why) {
  ifa_cpu_attention_args a = t->args;
  size_t bytes = 0;
  a.o = r->o;
  a.lse = r->lse;
  if (ifa_cpu_attention_workspace_bytes(&a, threads, &bytes, why) != IFA_OK)
    fail_msg("workspace: %s", why->text);
  assert_true(bytes > 0 && bytes % IFA_CPU_ALIGNMENT == 0);
  uint8_t *workspace = aligned_alloc(IFA_CPU_ALIGNMENT, bytes + GUARD);
  assert_non_null(workspace);
  memset(workspace, 0xa5, bytes + GUARD);
  ifa_status status = ifa_cpu_attention(isa, &a, workspace, bytes, threads, why);
  for (int i = 0; i < GUARD; i++) assert_int_equal(workspace[bytes + (size_t)i], 0xa5);
  free(workspace);
  return status;
}

/* On every instruction set. */
static void check_case(const tensors *t, int threads, const char *text) {
  ifa_message why = {""};
  result expected = result_of(&t->args.problem);
  if (define(t, &expected, &why) != IFA_OK) fail_msg("%s: %s", text, why.text);
  for (int n = -1; n < ifa_cpu_isa_count(); n++) {
    const char *isa = n < 0 ? NULL : ifa_cpu_isa_name(n);
    if (ifa_cpu_isa_available(isa, NULL, NULL) != IFA_OK) continue;
    char what[1300];
    result got = result_of(&t->args.problem);
    snprintf(what, sizeof what, "%s, %d threads: %s", isa ? isa : "auto", threads, text);
    if (attend(isa, t, &got, threads, &why) != IFA_OK) fail_msg("%s: %s", what, why.text);
    expect_same(&expected, &got, what);
    free_result(&got);
  }
  free_result(&expected);
}

/* ---- random problems ---- */

static ifa_cpu_attention_args random_args(uint64_t i) {
  static const int32_t dims[] = {64, 128, 32, 96, 40, 192, 256, 17, 80, 1, 127};
  static const int64_t lengths[] = {1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 200, 257, 0};
  static const int64_t rows[] = {1, 2, 7, 16, 17, 47, 48, 49, 97};
  static const int64_t kv_heads[] = {1, 2, 3, 4}, groups[] = {1, 1, 2, 5};
  static const ifa_type types[] = {IFA_F32, IFA_F16, IFA_BF16}, grids[] = {IFA_I8, IFA_I8, IFA_I4};
  static const ifa_granularity scales[] = {IFA_SCALE_TOKEN, IFA_SCALE_TOKEN, IFA_SCALE_BLOCK,
                                           IFA_SCALE_TENSOR},
                               v_scales[] = {IFA_SCALE_TOKEN, IFA_SCALE_CHANNEL, IFA_SCALE_TENSOR,
                                             IFA_SCALE_TOKEN_CHANNEL};
  static const int32_t taus[] = {2, 4, 0, IFA_TAU_INF}, tiles[] = {64, 64, 32, 128, 256};
  const int64_t heads = PICK(1, i, kv_heads);
  ifa_cpu_attention_args a =
      ifa_cpu_attention_accurate(1 + below(2, i, 2), heads * PICK(3, i, groups), heads,
                                 PICK(4, i, rows), PICK(5, i, lengths), PICK(6, i, dims));
  ifa_problem *p = &a.problem;
  a.type = PICK(7, i, types);
  a.subtract_k_mean = (int32_t)below(8, i, 2);
  p->q_type = PICK(9, i, grids);
  p->k_type = PICK(10, i, grids);
  p->v_type = PICK(11, i, grids);
  p->q_scale = PICK(12, i, scales);
  p->k_scale = PICK(13, i, scales);
  p->v_scale = PICK(14, i, v_scales);
  p->kv_tile = PICK(15, i, tiles);
  p->q_block = 1 + (int32_t)below(16, i, 40);
  p->k_block = p->kv_tile * (1 + (int32_t)below(17, i, 3));
  if (below(18, i, 2)) p->kv_split = p->kv_tile * (1 + (int64_t)below(19, i, 3));
  p->causal = (int32_t)below(20, i, 2);
  if (below(21, i, 4) == 0) p->window = 1 + below(22, i, 60);
  p->tau = PICK(23, i, taus);
  p->out_type = PICK(24, i, types);
  p->lse = (int32_t)below(25, i, 2);
  p->q_stride = layout(below(26, i, 4), p->q_heads, p->nq, p->head_dim);
  p->k_stride = layout(below(27, i, 4), p->kv_heads, p->nk, p->head_dim);
  p->v_stride = layout(below(28, i, 4), p->kv_heads, p->nk, p->head_dim);
  if (below(29, i, 4) == 0)
    p->k_stride.head = 0; /* one K for all heads, if the layout is written */
  if (below(30, i, 2)) p->o_stride = layout(1, p->q_heads, p->nq, p->head_dim);
  return a;
}

/* What it is, in a line that can be read back but for the last words. */
static void describe(const ifa_cpu_attention_args *a, uint64_t i, char *text, size_t length) {
  static const char *const types[] = {"f32", "f16", "bf16"};
  ifa_problem p = a->problem;
  char problem[1024];
  p.q_stride = p.k_stride = p.v_stride = (ifa_strides){0, 0, 0};
  assert_int_equal(ifa_problem_print(&p, problem, sizeof problem, NULL), IFA_OK);
  snprintf(text, length, "%s; from %s%s, case %" PRIu64, problem, types[a->type],
           a->subtract_k_mean ? ", K less its mean" : "", i);
}

static void test_random_cases(void **state) {
  (void)state;
  for (uint64_t i = 0; i < cases; i++) {
    ifa_cpu_attention_args a = random_args(i);
    char text[1200];
    describe(&a, i, text, sizeof text);
    tensors t = draw_all(&a, i);
    check_case(&t, 1 + (int)below(40, i, 4), text);
    free_all(&t);
  }
}

/* Long enough for several threads and waves of splits, tiles made before and tiles made by heads.
 */
static void test_threads(void **state) {
  static const int64_t heads[] = {1, 2, 8};
  (void)state;
  for (uint64_t i = 0; i < 12; i++) {
    ifa_cpu_attention_args a =
        i % 2 ? ifa_cpu_attention_fast(1, heads[i % 3] * 4, heads[i % 3], i < 6 ? 300 : 3, 900, 64)
              : ifa_cpu_attention_accurate(1, heads[i % 3], heads[i % 3], i < 6 ? 300 : 3, 900, 64);
    char text[1200];
    a.problem.kv_split = i < 6 ? 0 : 128;
    a.problem.q_scale = a.problem.k_scale = i % 4 < 2 ? IFA_SCALE_TOKEN : IFA_SCALE_BLOCK;
    a.problem.q_block = 50;
    a.problem.k_block = 128;
    describe(&a, i, text, sizeof text);
    tensors t = draw_all(&a, 1000 + i);
    result expected = result_of(&a.problem);
    ifa_message why = {""};
    if (define(&t, &expected, &why) != IFA_OK) fail_msg("%s", why.text);
    for (int threads = 1; threads < 10; threads += 2) {
      result got = result_of(&a.problem);
      if (attend(NULL, &t, &got, threads, &why) != IFA_OK) fail_msg("%s", why.text);
      expect_same(&expected, &got, text);
      free_result(&got);
    }
    free_result(&expected);
    free_all(&t);
  }
}

/* The caller's rounding mode and flushing have no influence, and stay. */
static void test_environment(void **state) {
  (void)state;
  ifa_cpu_attention_args a = ifa_cpu_attention_accurate(1, 2, 2, 20, 150, 64);
  tensors t = draw_all(&a, 77);
  result expected = result_of(&a.problem), got = result_of(&a.problem);
  ifa_message why;
  assert_int_equal(attend(NULL, &t, &expected, 2, &why), IFA_OK);
  fesetround(FE_UPWARD);
#if defined(__SSE2__)
  _mm_setcsr(_mm_getcsr() | 0x8040);
#endif
  assert_int_equal(attend(NULL, &t, &got, 2, &why), IFA_OK);
  assert_int_equal(fegetround(), FE_UPWARD);
#if defined(__SSE2__)
  assert_int_equal(_mm_getcsr() & 0x8040, 0x8040);
  _mm_setcsr(_mm_getcsr() & ~0x8040u);
#endif
  fesetround(FE_TONEAREST);
  expect_same(&expected, &got, "another environment");
  free_result(&expected);
  free_result(&got);
  free_all(&t);
}

static void test_presets(void **state) {
  (void)state;
  ifa_cpu_attention_args fast = ifa_cpu_attention_fast(2, 6, 3, 5, 7, 16),
                         accurate = ifa_cpu_attention_accurate(2, 6, 3, 5, 7, 16);
  assert_int_equal(accurate.problem.v_scale, IFA_SCALE_TOKEN);
  assert_int_equal(accurate.subtract_k_mean, 1);
  assert_int_equal(fast.problem.v_scale, IFA_SCALE_CHANNEL);
  assert_int_equal(fast.subtract_k_mean, 0);
  fast.problem.v_scale = IFA_SCALE_TOKEN;
  char texts[2][1024]; /* and in all else they are the same */
  assert_int_equal(ifa_problem_print(&fast.problem, texts[0], sizeof texts[0], NULL), IFA_OK);
  assert_int_equal(ifa_problem_print(&accurate.problem, texts[1], sizeof texts[1], NULL), IFA_OK);
  assert_string_equal(texts[0], texts[1]);
  assert_int_equal(fast.type, accurate.type);
  ifa_problem p = accurate.problem;
  assert_true(p.batch == 2 && p.q_heads == 6 && p.kv_heads == 3 && p.nq == 5 && p.nk == 7);
  assert_true(p.head_dim == 16 && p.sm_scale == 0.25f && p.out_type == IFA_F32);
  assert_int_equal(accurate.type, IFA_F32);
  p = ifa_cpu_attention_fast(1, 1, 1, 1, 1, 0).problem; /* refused when it is used */
  assert_int_equal(ifa_problem_check(&p, NULL), IFA_BAD_PROBLEM);
}

/* ---- allocations ---- */

#ifdef IFA_TEST_WRAP_ALLOC
#include "tests/cpu/allocations.h"

static void test_no_allocation(void **state) {
  (void)state;
  ifa_cpu_attention_args a = ifa_cpu_attention_accurate(1, 4, 2, 60, 500, 48);
  tensors t = draw_all(&a, 5);
  result got = result_of(&a.problem);
  size_t bytes;
  a = t.args;
  a.o = got.o;
  assert_int_equal(ifa_cpu_attention_workspace_bytes(&a, 3, &bytes, NULL), IFA_OK);
  uint8_t *workspace = aligned_alloc(IFA_CPU_ALIGNMENT, bytes);
  int before = allocations;
  assert_true(before > 0);
  for (int n = 0; n < ifa_cpu_isa_count(); n++)
    if (ifa_cpu_isa_available(ifa_cpu_isa_name(n), NULL, NULL) == IFA_OK)
      assert_int_equal(ifa_cpu_attention(ifa_cpu_isa_name(n), &a, workspace, bytes, 3, NULL),
                       IFA_OK);
  assert_int_equal(allocations, before);
  free(workspace);
  free_result(&got);
  free_all(&t);
}
#endif

/* ---- refusals ---- */

static void expect_refusal(const char *isa, const ifa_cpu_attention_args *a, void *workspace,
                           size_t bytes, int threads, ifa_status status, const char *says) {
  ifa_message why = {""};
  ifa_status got = ifa_cpu_attention(isa, a, workspace, bytes, threads, &why);
  if (got != status || !strstr(why.text, says))
    fail_msg("%s '%s', not %s with '%s'", ifa_status_name(got), why.text, ifa_status_name(status),
             says);
}

static void test_refusals(void **state) {
  (void)state;
  ifa_cpu_attention_args a = ifa_cpu_attention_accurate(1, 2, 1, 9, 130, 20);
  a.problem.lse = 1;
  tensors t = draw_all(&a, 3);
  result got = result_of(&a.problem);
  size_t bytes = 0, other = 12345;
  a = t.args;
  a.o = got.o;
  a.lse = got.lse;
  assert_int_equal(ifa_cpu_attention_workspace_bytes(&a, 2, &bytes, NULL), IFA_OK);
  uint8_t *w = aligned_alloc(IFA_CPU_ALIGNMENT, bytes + 64);
#define REFUSE(status, says, change)                     \
  do {                                                   \
    ifa_cpu_attention_args b = a;                        \
    change;                                              \
    expect_refusal(NULL, &b, w, bytes, 2, status, says); \
  } while (0)
  REFUSE(IFA_BAD_ARGUMENT, "q is NULL", b.q = NULL);
  REFUSE(IFA_BAD_ARGUMENT, "k is NULL", b.k = NULL);
  REFUSE(IFA_BAD_ARGUMENT, "v is NULL", b.v = NULL);
  REFUSE(IFA_BAD_ARGUMENT, "o is NULL", b.o = NULL);
  REFUSE(IFA_BAD_ARGUMENT, "lse is NULL", b.lse = NULL);
  REFUSE(IFA_BAD_ARGUMENT, "lse is given", b.problem.lse = 0);
  REFUSE(IFA_BAD_ARGUMENT, "type is int8", b.type = IFA_I8);
  REFUSE(IFA_BAD_ARGUMENT, "subtract_k_mean is 2", b.subtract_k_mean = 2);
  REFUSE(IFA_BAD_ARGUMENT, "k_stride", b.problem.k_stride.token = -64);
  REFUSE(IFA_BAD_ARGUMENT, "v_stride", b.problem.v_stride = ((ifa_strides){1, 1, INT64_MAX / 2}));
  REFUSE(IFA_BAD_PROBLEM, "head_dim", b.problem.head_dim = 257);
  REFUSE(IFA_BAD_PROBLEM, "q_type", b.problem.q_type = IFA_F16);
  REFUSE(IFA_BAD_PROBLEM, "q_scale", b.problem.q_scale = IFA_SCALE_CHANNEL);
  REFUSE(IFA_BAD_PROBLEM, "o_stride", b.problem.o_stride = ((ifa_strides){400, 20, 10}));
  REFUSE(IFA_BAD_PROBLEM, "batch", b.problem.batch = 0);
#undef REFUSE
  expect_refusal(NULL, NULL, w, bytes, 2, IFA_BAD_ARGUMENT, "args is NULL");
  expect_refusal(NULL, &a, NULL, bytes, 2, IFA_BAD_ARGUMENT, "workspace is NULL");
  expect_refusal(NULL, &a, w + 32, bytes, 2, IFA_BAD_ARGUMENT, "aligned");
  expect_refusal(NULL, &a, w, bytes - 1, 2, IFA_BAD_ARGUMENT, "are needed");
  expect_refusal(NULL, &a, w, bytes, 3, IFA_BAD_ARGUMENT, "are needed");
  expect_refusal(NULL, &a, w, bytes, 0, IFA_BAD_ARGUMENT, "threads is 0");
  expect_refusal(NULL, &a, w, bytes, 4097, IFA_BAD_ARGUMENT, "threads is 4097");
  expect_refusal("avx9", &a, w, bytes, 2, IFA_BAD_ARGUMENT, "avx9");
  for (size_t i = 0; i < got.o_bytes; i++)
    assert_int_equal(got.o[i], POISON); /* none of them wrote */

  assert_int_equal(ifa_cpu_attention_workspace_bytes(NULL, 1, &other, NULL), IFA_BAD_ARGUMENT);
  assert_int_equal(ifa_cpu_attention_workspace_bytes(&a, 0, &other, NULL), IFA_BAD_ARGUMENT);
  assert_int_equal(other, 12345);
  assert_int_equal(ifa_cpu_attention_workspace_bytes(&a, 1, NULL, NULL), IFA_BAD_ARGUMENT);
  a.problem.nq = 0; /* nothing to do, and no pointer is looked at */
  a.q = a.k = a.v = a.o = NULL;
  assert_int_equal(ifa_cpu_attention(NULL, &a, NULL, 0, 2, NULL), IFA_OK);
  free(w);
  free_result(&got);
  free_all(&t);
}

/* An element that is not acceptable, anywhere, whatever the choices; the call says where it is. */
static void test_bad_elements(void **state) {
  static const float bad[] = {NAN, INFINITY, -INFINITY, 0x1.2p99f};
  (void)state;
  for (uint64_t i = 0; i < 120; i++) {
    ifa_cpu_attention_args a = random_args(2000 + i);
    ifa_problem *p = &a.problem;
    const int number = (int)below(50, i, 3);
    if (p->nk == 0) continue;
    if (a.type == IFA_F16 && i % 4 == 3) a.type = IFA_F32; /* binary16 has no 2^99 */
    p->k_stride.head = p->k_stride.token ? p->nk * p->k_stride.token : 0;
    if (p->k_stride.token) p->k_stride = layout(3, p->kv_heads, p->nk, p->head_dim);
    tensors t = draw_all(&a, i);
    const int64_t heads = number ? p->kv_heads : p->q_heads, tokens = number ? p->nk : p->nq,
                  row = below(51, i, (uint32_t)(p->batch * heads * tokens)),
                  d = below(52, i, (uint32_t)p->head_dim), b = row / tokens / heads,
                  h = row / tokens % heads, token = row % tokens;
    const ifa_strides s = number == 0 ? t.q : number == 1 ? t.k : t.v;
    ifa_float_set(a.type, t.memory[number], ifa_offset(s, b, h, token) + d, bad[i % 4]);
    char place[80];
    snprintf(place, sizeof place, "%c[%d][%d][%d][%d] is ", "qkv"[number], (int)b, (int)h,
             (int)token, (int)d);
    result expected = result_of(p), got = result_of(p);
    ifa_message why;
    assert_int_equal(define(&t, &expected, &why), IFA_BAD_DATA);
    assert_int_equal(attend(NULL, &t, &got, 1 + (int)(i % 3), &why), IFA_BAD_DATA);
    if (strncmp(why.text, place, strlen(place)) != 0)
      fail_msg("'%s' does not begin with '%s'", why.text, place);
    assert_int_equal(attend("portable", &t, &got, 1, &why), IFA_BAD_DATA);
    free_result(&expected);
    free_result(&got);
    free_all(&t);
  }
}

/* Scores beyond 2^22 octaves, by the largest scales of the whole call: refused as ifa_run does,
 * however the heads are shared out. */
static void test_octaves(void **state) {
  (void)state;
  int refused = 0;
  for (uint64_t i = 0; i < 60; i++) {
    ifa_cpu_attention_args a = random_args(3000 + i);
    if (a.problem.nk == 0 || a.type == IFA_F16) continue;
    tensors t = draw_all(&a, i);
    /* one row of Q, and in another head one of K */
    for (int number = 0; number < 2; number++) {
      const int64_t heads = number ? a.problem.kv_heads : a.problem.q_heads,
                    tokens = number ? a.problem.nk : a.problem.nq;
      const int64_t at = ifa_offset(number ? t.k : t.q, 0, number ? heads - 1 : 0, tokens - 1);
      ifa_float_set(a.type, t.memory[number], at, ldexpf(1.0f, 8 + (int)below(60, i, 6)));
    }
    result expected = result_of(&a.problem), got = result_of(&a.problem);
    ifa_message why;
    ifa_status status = define(&t, &expected, &why);
    if (attend(NULL, &t, &got, 1 + (int)(i % 2), &why) != status)
      fail_msg("case %" PRIu64 ": %s", i, why.text);
    if (status == IFA_BAD_DATA && !strstr(why.text, "2^22")) fail_msg("'%s'", why.text);
    if (status == IFA_OK) expect_same(&expected, &got, "near 2^22 octaves");
    refused += status == IFA_BAD_DATA;
    assert_int_equal(attend("portable", &t, &got, 1, &why), status);
    free_result(&expected);
    free_result(&got);
    free_all(&t);
  }
  assert_in_range(refused, 5, 50);
}

/* ---- sums to outputs: every version against the contract's own functions ---- */

static void test_output_kernels(void **state) {
  enum { DIM = 133 };
  (void)state;
  for (uint64_t i = 0; i < 200; i++) {
    int32_t acc[DIM];
    float o[DIM], scale[DIM], channel[DIM], expected[DIM], got[DIM];
    const int32_t dim = 1 + (int32_t)below(70, i, DIM);
    const float l = (float)(1 + below(71, i, 5000000)), grow = ldexpf(1.0f, -(int)below(72, i, 30)),
                keep = ldexpf(1.0f, -(int)below(73, i, 120));
    for (int32_t d = 0; d < DIM; d++) {
      acc[d] = (int32_t)ifa_random_bits(seed + i, 74, (uint64_t)d) >>
               below(75, i * DIM + (uint64_t)d, 31);
      o[d] = (float)acc[d] * ldexpf(1.0f, (int)below(76, i * DIM + (uint64_t)d, 200) - 120);
      scale[d] = ldexpf(1.5f, (int)below(77, i * DIM + (uint64_t)d, 60) - 30);
      channel[d] = ldexpf(1.25f, (int)below(78, i * DIM + (uint64_t)d, 20) - 10);
    }
    for (int n = 0; ifa_output_kernels_at(n); n++) {
      const ifa_output_kernels *k = ifa_output_kernels_at(n);
      const size_t bytes = (size_t)dim * sizeof(float);
      for (int32_t d = 0; d < dim; d++) expected[d] = (float)acc[d];
      k->first(acc, dim, got);
      assert_memory_equal(got, expected, bytes);
      for (int32_t d = 0; d < dim; d++) expected[d] = fmaf((float)acc[d], grow, o[d] * keep);
      memcpy(got, o, sizeof o);
      k->merge(acc, grow, keep, dim, got);
      assert_memory_equal(got, expected, bytes);
      for (int32_t step = 0; step < 2; step++)
        for (int with = 0; with < 2; with++) {
          for (int32_t d = 0; d < dim; d++) {
            expected[d] = ifa_output(o[d], l, scale[step * d]);
            if (with) expected[d] = ifa_mul(expected[d], channel[d]);
          }
          k->finish(o, NULL, l, scale, step, with ? channel : NULL, dim, got);
          assert_memory_equal(got, expected, bytes);
          for (int32_t d = 0; d < dim; d++) {
            expected[d] = ifa_output((float)acc[d], l, scale[step * d]);
            if (with) expected[d] = ifa_mul(expected[d], channel[d]);
          }
          k->finish(NULL, acc, l, scale, step, with ? channel : NULL, dim, got);
          assert_memory_equal(got, expected, bytes);
        }
      static const ifa_type types[] = {IFA_F32, IFA_F16, IFA_BF16};
      for (int type = 0; type < 3; type++) {
        uint8_t want[4 * DIM + 8] = {0}, have[4 * DIM + 8] = {0};
        for (int32_t d = 0; d < dim; d++) ifa_float_set(types[type], want, d + 1, o[d]);
        k->store(types[type], o, dim, have, 1);
        assert_memory_equal(have, want, sizeof want);
      }
    }
  }
}

int main(int argc, char **argv) {
  if (argc > 1) cases = strtoull(argv[1], NULL, 10);
  if (argc > 2) seed = strtoull(argv[2], NULL, 10);
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_random_cases),  cmocka_unit_test(test_threads),
      cmocka_unit_test(test_environment),   cmocka_unit_test(test_presets),
#ifdef IFA_TEST_WRAP_ALLOC
      cmocka_unit_test(test_no_allocation),
#endif
      cmocka_unit_test(test_refusals),      cmocka_unit_test(test_bad_elements),
      cmocka_unit_test(test_octaves),       cmocka_unit_test(test_output_kernels)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
