/* test_process.c - the library in a process: after fork(), with threads that cannot be made, with
 * absurd numbers of threads, with less work than threads, and on pools of the caller's. Every
 * answer is the oracle's, and nothing hangs, exits or crashes. Linked with
 * -Wl,--wrap=pthread_create. */
#include <errno.h>
#include <fenv.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/random.h"
#include "ifa_cache.h"
#include "ifa_cpu.h"

/* ---- threads, counted and refused ---- */

static atomic_int made, allowed = INT32_MAX;
int __real_pthread_create(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
int __wrap_pthread_create(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
                          void *(*start)(void *), void *argument) {
  if (atomic_fetch_sub(&allowed, 1) <= 0) return EAGAIN;
  int error = __real_pthread_create(thread, attributes, start, argument);
  if (error == 0) atomic_fetch_add(&made, 1);
  return error;
}

/* ---- the calls ---- */

enum { DIM = 64, HEADS = 4, NQ = 300, NK = 800 };

static int8_t q[HEADS * NQ * DIM], k[HEADS * NK * DIM], v[HEADS * NK * DIM];
static float scale[HEADS * NK], floats[HEADS * NK * DIM];
static float expected[HEADS * NQ * DIM], tiny_expected[HEADS * DIM],
    cache_expected[HEADS * NQ * DIM], floats_scale[HEADS * NK];
static int8_t floats_quantized[HEADS * NK * DIM];

static ifa_problem problem(int64_t nq, int64_t nk) {
  ifa_problem p = ifa_problem_default();
  p.q_heads = p.kv_heads = HEADS;
  p.nq = nq;
  p.nk = nk;
  p.head_dim = DIM;
  p.v_scale = IFA_SCALE_TOKEN;
  return p;
}

static const ifa_inputs inputs = {
    .q = q, .k = k, .v = v, .q_scale = scale, .k_scale = scale, .v_scale = scale};

static float *output(void) {
  float *o = malloc(sizeof expected);
  if (!o) abort();
  memset(o, 0xff, sizeof expected);
  return o;
}

/* 1: status is IFA_OK, and the output, which ends here, is right. */
static int right(ifa_status status, float *o, const float *expectation, int64_t nq) {
  int same = memcmp(o, expectation, (size_t)(HEADS * nq * DIM) * sizeof *o) == 0;
  free(o);
  return status == IFA_OK && same;
}

/* 1: the backend's answer is the oracle's. */
static int run_agrees(const char *backend) {
  float *o = output();
  ifa_problem p = problem(NQ, NK);
  return right(ifa_run(backend, &p, &inputs, &(ifa_outputs){.o = o}, NULL), o, expected, NQ);
}

static int attend_agrees(int threads, int64_t nq, int64_t nk, const float *expectation) {
  ifa_problem p = problem(nq, nk);
  size_t bytes;
  if (ifa_cpu_workspace_bytes(&p, threads, &bytes, NULL) != IFA_OK) return 0;
  void *workspace = aligned_alloc(IFA_CPU_ALIGNMENT, bytes);
  if (!workspace) return 0;
  float *o = output();
  ifa_status status =
      ifa_cpu_attend(NULL, &p, &inputs, &(ifa_outputs){.o = o}, workspace, bytes, threads, NULL);
  free(workspace);
  return right(status, o, expectation, nq);
}

static struct {
  ifa_cache *cache;
  ifa_sequence sequence;
} held;

/* The same cache and sequence each time; a workspace of its own. */
static ifa_status cache_attend(int32_t threads, float *o) {
  ifa_cache_workspace *w;
  ifa_problem p = ifa_cache_problem(held.cache, HEADS);
  ifa_status created = ifa_cache_workspace_create(held.cache, &p, NQ, threads, NULL, 0, &w, NULL);
  if (created != IFA_OK) return created;
  ifa_cache_query query = {
      .sequence = held.sequence, .nq = NQ, .q = floats, .q_type = IFA_F32, .o = o};
  ifa_status status = ifa_cache_attend(held.cache, &p, &query, 1, w, NULL);
  ifa_cache_workspace_destroy(w);
  return status;
}

static int cache_agrees(int32_t threads) {
  float *o = output();
  return right(cache_attend(threads, o), o, cache_expected, NQ);
}

/* All of the floats, per token. */
static int quantize(int8_t *to, float *to_scale) {
  ifa_quantize_args a = {.src = floats,
                         .src_type = IFA_F32,
                         .batch = 1,
                         .heads = HEADS,
                         .tokens = NK,
                         .head_dim = DIM,
                         .dst = to,
                         .dst_type = IFA_I8,
                         .granularity = IFA_SCALE_TOKEN,
                         .scale = to_scale};
  return ifa_quantize(&a, NULL) == IFA_OK;
}

static int quantize_agrees(void) {
  static int8_t to[sizeof floats_quantized];
  static float to_scale[HEADS * NK];
  return quantize(to, to_scale) && memcmp(to, floats_quantized, sizeof to) == 0 &&
         memcmp(to_scale, floats_scale, sizeof to_scale) == 0;
}

static int openmp_is_there(void) { return ifa_backend_supports("openmp", NULL, NULL) == IFA_OK; }

/* Bits of the calls that do not agree. */
static int disagreements(void) {
  return (openmp_is_there() && !run_agrees("openmp")) | !run_agrees("cpu") << 1 |
         !attend_agrees(4, NQ, NK, expected) << 2 | !cache_agrees(0) << 3 | !cache_agrees(4) << 4 |
         !quantize_agrees() << 5;
}

static int setup(void **state) {
  (void)state;
  for (int i = 0; i < HEADS * NK * DIM; i++) {
    floats[i] = ifa_random_normal(1, 1, (uint64_t)i);
    k[i] = (int8_t)(ifa_random_below(1, 2, (uint64_t)i, 255) - 127);
    v[i] = (int8_t)(ifa_random_below(1, 3, (uint64_t)i, 255) - 127);
  }
  for (int i = 0; i < HEADS * NQ * DIM; i++)
    q[i] = (int8_t)(ifa_random_below(1, 4, (uint64_t)i, 255) - 127);
  for (int i = 0; i < HEADS * NK; i++)
    scale[i] = 0.01f + 0.02f * ifa_random_uniform(1, 5, (uint64_t)i);
  ifa_problem p = problem(NQ, NK), tiny = problem(1, 64);
  if (ifa_run("scalar", &p, &inputs, &(ifa_outputs){.o = expected}, NULL) != IFA_OK) return -1;
  if (ifa_run("scalar", &tiny, &inputs, &(ifa_outputs){.o = tiny_expected}, NULL) != IFA_OK)
    return -1;
  ifa_cache_config config = ifa_cache_config_default();
  config.kv_heads = HEADS;
  config.head_dim = DIM;
  config.blocks = NK / 64 + 1;
  ifa_cache_tokens tokens = {.k = floats, .v = floats, .type = IFA_F32, .count = NK};
  if (ifa_cache_create(&config, NULL, 0, &held.cache, NULL) != IFA_OK ||
      ifa_cache_add(held.cache, &held.sequence, NULL) != IFA_OK ||
      ifa_cache_append(held.cache, held.sequence, &tokens, NULL) != IFA_OK)
    return -1;
  const ifa_pool alone = {.threads = 1};
  if (ifa_set_thread_pool(&alone, NULL) != IFA_OK || !quantize(floats_quantized, floats_scale) ||
      ifa_set_thread_pool(NULL, NULL) != IFA_OK)
    return -1;
  return cache_attend(1, cache_expected) == IFA_OK ? 0 : -1;
}

static int teardown(void **state) {
  (void)state;
  ifa_cache_destroy(held.cache);
  return 0;
}

/* ---- tests; the first must come before any thread is made ---- */

/* nq 1, nk 64: a few microseconds, on however many threads are offered. */
static void test_a_little_work_wakes_nobody(void **state) {
  (void)state;
  assert_int_equal(made, 0);
  assert_true(attend_agrees(1, 1, 64, tiny_expected));
  assert_true(attend_agrees(64, 1, 64, tiny_expected));
  assert_true(attend_agrees(IFA_CPU_MAX_THREADS, 1, 64, tiny_expected));
  assert_int_equal(made, 0);
  assert_true(attend_agrees(4, NQ, NK, expected)); /* more work: more threads */
  assert_true(made >= 1 && made <= 3);
}

/* With OMP_NUM_THREADS as ctest sets it: 4, and 1000000. */
static void test_every_call(void **state) {
  (void)state;
  assert_int_equal(disagreements(), 0);
  assert_true(made < 1024);
}

static int child(int permitted) {
  fflush(NULL);
  pid_t pid = fork();
  if (pid == 0) {
    alarm(100);
    atomic_store(&allowed, permitted);
    _exit(disagreements());
  }
  int status;
  assert_int_equal(waitpid(pid, &status, 0), pid);
  if (WIFSIGNALED(status)) fail_msg("the child ended by signal %d", WTERMSIG(status));
  return WEXITSTATUS(status);
}

/* A child, and a child of it. */
static void test_fork(void **state) {
  (void)state;
  assert_int_equal(disagreements(), 0);
  assert_int_equal(child(INT32_MAX), 0);
  fflush(NULL);
  pid_t pid = fork();
  if (pid == 0) {
    alarm(100);
    int bad = disagreements();
    pid_t grandchild = fork();
    if (grandchild == 0) _exit(disagreements());
    int status;
    waitpid(grandchild, &status, 0);
    _exit(bad || status);
  }
  int status;
  assert_int_equal(waitpid(pid, &status, 0), pid);
  assert_int_equal(status, 0);
  assert_int_equal(disagreements(), 0);
}

static void test_refused_threads(void **state) {
  (void)state;
  assert_int_equal(child(0), 0);
  assert_int_equal(child(1), 0);
}

/* ---- pools of the caller's ---- */

typedef void pool_function(void (*body)(void *argument, int index), void *argument, int count);

/* On the calling thread, the last first. */
static void backwards(void (*body)(void *, int), void *argument, int count) {
  while (count-- > 0) body(argument, count);
}

static void nothing(void (*body)(void *, int), void *argument, int count) {
  (void)body, (void)argument, (void)count;
}

/* All that comes after the first finds no work left. */
static void twice(void (*body)(void *, int), void *argument, int count) {
  for (int i = 0; i < 2 * count; i++) body(argument, i / 2);
}

typedef struct one_body {
  void (*body)(void *, int);
  void *argument;
  int index;
  pthread_t thread;
} one_body;

/* With a floating-point environment that must not matter. */
static void *call_body(void *one) {
  one_body *o = one;
  fesetround(FE_UPWARD);
  o->body(o->argument, o->index);
  return fegetround() == FE_UPWARD ? o : NULL; /* it is left as it was */
}

/* On a thread for each, all at once. */
static void a_thread_each(void (*body)(void *, int), void *argument, int count) {
  one_body one[8];
  void *result;
  for (int i = 0; i < count; i++) {
    one[i] = (one_body){.body = body, .argument = argument, .index = i};
    if (pthread_create(&one[i].thread, NULL, call_body, &one[i]) != 0) abort();
  }
  for (int i = 0; i < count; i++)
    if (pthread_join(one[i].thread, &result) != 0 || !result) abort();
}

/* On this thread, each after a call of the library on the same pool: a region within a region. */
static void within(void (*body)(void *, int), void *argument, int count) {
  static _Thread_local int depth;
  if (depth++ == 0)
    for (int i = 0; i < 2; i++)
      if (!attend_agrees(4, NQ, NK, expected)) abort();
  for (int i = 0; i < count; i++) body(argument, i);
  depth--;
}

typedef struct counted_pool {
  pool_function *call;
  atomic_int calls, most; /* the largest count */
} counted_pool;

static void parallel_for(void *context, int count, void (*body)(void *, int), void *argument) {
  counted_pool *c = context;
  atomic_fetch_add(&c->calls, 1);
  if (count < 2) abort(); /* what one body does, the library does without a pool */
  if (count > c->most) atomic_store(&c->most, count);
  c->call(body, argument, count);
}

static void test_pools(void **state) {
  (void)state;
  static pool_function *const all[] = {backwards, nothing, twice, a_thread_each, within};
  for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
    counted_pool c = {.call = all[i]};
    const ifa_pool pool = {parallel_for, &c, 4};
    assert_int_equal(ifa_set_pool(&pool, NULL), IFA_OK);
    int before = made;
    assert_int_equal(disagreements(), 0);
    assert_true(c.calls >= 5 + openmp_is_there() && c.most == 4); /* a region a call, or more */
    if (all[i] != a_thread_each) assert_int_equal(made, before);
    int calls = c.calls;
    assert_true(attend_agrees(64, 1, 64, tiny_expected));
    assert_int_equal(c.calls, calls); /* a little work wakes nobody */
    /* a child has the pool; the library asks for no threads of its own */
    assert_int_equal(child(all[i] == a_thread_each ? INT32_MAX : 0), 0);
  }
  assert_int_equal(ifa_set_pool(NULL, NULL), IFA_OK);
  assert_int_equal(disagreements(), 0);
}

static void *agrees_on_another_thread(void *result) {
  *(int *)result = 1;
  for (int i = 0; i < 5; i++) *(int *)result &= attend_agrees(4, NQ, NK, expected);
  return NULL;
}

/* A thread's pool goes before the process's; other threads have the process's. */
static void test_pool_of_a_thread(void **state) {
  (void)state;
  counted_pool of_process = {.call = backwards}, of_thread = {.call = backwards};
  const ifa_pool process = {parallel_for, &of_process, 4}, own = {parallel_for, &of_thread, 3},
                 alone = {.threads = 1};
  pthread_t thread;
  int agrees = 0;
  assert_int_equal(ifa_set_pool(&process, NULL), IFA_OK);
  assert_int_equal(ifa_set_thread_pool(&own, NULL), IFA_OK);
  assert_int_equal(disagreements(), 0);
  assert_true(of_thread.calls > 0 && of_thread.most == 3);
  assert_int_equal(of_process.calls, 0);
  int calls = of_thread.calls;
  assert_int_equal(pthread_create(&thread, NULL, agrees_on_another_thread, &agrees), 0);
  pthread_join(thread, NULL);
  assert_true(agrees);
  assert_int_equal(of_thread.calls, calls);
  assert_true(of_process.calls > 0 && of_process.most == 4);
  calls = of_process.calls;
  assert_int_equal(ifa_set_thread_pool(&alone, NULL), IFA_OK);
  assert_int_equal(disagreements(), 0);
  assert_int_equal(ifa_set_thread_pool(NULL, NULL), IFA_OK);
  assert_int_equal(of_process.calls, calls);
  assert_true(attend_agrees(4, NQ, NK, expected));
  assert_true(of_process.calls > calls);
  assert_int_equal(ifa_set_pool(NULL, NULL), IFA_OK);
}

/* Several callers on one pool. */
static void test_callers_of_a_pool(void **state) {
  (void)state;
  enum { CALLERS = 4 };
  counted_pool c = {.call = a_thread_each};
  const ifa_pool pool = {parallel_for, &c, 4};
  pthread_t threads[CALLERS];
  int agrees[CALLERS];
  assert_int_equal(ifa_set_pool(&pool, NULL), IFA_OK);
  for (int i = 0; i < CALLERS; i++)
    assert_int_equal(pthread_create(&threads[i], NULL, agrees_on_another_thread, &agrees[i]), 0);
  for (int i = 0; i < CALLERS; i++) pthread_join(threads[i], NULL);
  for (int i = 0; i < CALLERS; i++) assert_true(agrees[i]);
  assert_true(c.calls >= 5 * CALLERS); /* a region a call, or more */
  assert_int_equal(ifa_set_pool(NULL, NULL), IFA_OK);
}

static void test_bad_pools(void **state) {
  (void)state;
  counted_pool c = {.call = backwards};
  const ifa_pool none = {parallel_for, &c, 0}, many = {parallel_for, &c, 1025},
                 null = {NULL, &c, 2};
  const ifa_pool *const bad[] = {&none, &many, &null};
  static const char *const text[] = {"pool: threads is 0; 1 .. 1024",
                                     "pool: threads is 1025; 1 .. 1024",
                                     "pool: parallel_for is NULL"};
  ifa_message why;
  for (int i = 0; i < 3; i++) {
    assert_int_equal(ifa_set_pool(bad[i], &why), IFA_BAD_ARGUMENT);
    assert_string_equal(why.text, text[i]);
    assert_int_equal(ifa_set_thread_pool(bad[i], &why), IFA_BAD_ARGUMENT);
    assert_string_equal(why.text, text[i]);
  }
  assert_int_equal(disagreements(), 0);
  assert_int_equal(c.calls, 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_a_little_work_wakes_nobody),
                                     cmocka_unit_test(test_every_call),
                                     cmocka_unit_test(test_fork),
                                     cmocka_unit_test(test_refused_threads),
                                     cmocka_unit_test(test_pools),
                                     cmocka_unit_test(test_pool_of_a_thread),
                                     cmocka_unit_test(test_callers_of_a_pool),
                                     cmocka_unit_test(test_bad_pools)};
  unsetenv("IFA_CPU_ISA");
  return cmocka_run_group_tests_name("process", tests, setup, teardown);
}
