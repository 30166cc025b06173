/* test_process.c - the library in a process: after fork(), with threads that cannot be made, with
 * absurd numbers of threads, and with less work than threads. Every answer is the oracle's, and
 * nothing hangs, exits or crashes. Linked with -Wl,--wrap=pthread_create. */
#include <errno.h>
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
    cache_expected[HEADS * NQ * DIM];

static ifa_problem problem(int64_t nq, int64_t nk) {
  ifa_problem p = ifa_problem_default();
  p.q_heads = p.kv_heads = HEADS;
  p.nq = nq, p.nk = nk, p.head_dim = DIM;
  p.v_scale = IFA_SCALE_TOKEN;
  return p;
}

static const ifa_inputs inputs = {
    .q = q, .k = k, .v = v, .q_scale = scale, .k_scale = scale, .v_scale = scale};

/* 1: the backend's answer is the oracle's. */
static int run_agrees(const char *backend) {
  static float o[HEADS * NQ * DIM];
  memset(o, 0xff, sizeof o);
  ifa_problem p = problem(NQ, NK);
  return ifa_run(backend, &p, &inputs, &(ifa_outputs){.o = o}, NULL) == IFA_OK &&
         memcmp(o, expected, sizeof o) == 0;
}

static int attend_agrees(int threads, int64_t nq, int64_t nk, const float *right) {
  static float o[HEADS * NQ * DIM];
  ifa_problem p = problem(nq, nk);
  size_t bytes;
  if (ifa_cpu_workspace_bytes(&p, threads, &bytes, NULL) != IFA_OK) return 0;
  void *workspace = aligned_alloc(IFA_CPU_ALIGNMENT, bytes);
  if (!workspace) return 0;
  memset(o, 0xff, sizeof o);
  ifa_status status =
      ifa_cpu_attend(NULL, &p, &inputs, &(ifa_outputs){.o = o}, workspace, bytes, threads, NULL);
  free(workspace);
  return status == IFA_OK && memcmp(o, right, (size_t)(HEADS * nq * DIM) * sizeof *o) == 0;
}

static struct {
  ifa_cache *cache;
  ifa_sequence sequence;
} held;

/* The same cache and sequence each time; a workspace of its own. */
static int cache_attend(int32_t threads, float *o) {
  ifa_cache_workspace *w;
  ifa_problem p = ifa_cache_problem(held.cache, HEADS);
  if (ifa_cache_workspace_create(held.cache, &p, NQ, threads, NULL, 0, &w, NULL) != IFA_OK)
    return 0;
  ifa_cache_query query = {
      .sequence = held.sequence, .nq = NQ, .q = floats, .q_type = IFA_F32, .o = o};
  ifa_status status = ifa_cache_attend(held.cache, &p, &query, 1, w, NULL);
  ifa_cache_workspace_destroy(w);
  return status == IFA_OK;
}

static int cache_agrees(int32_t threads) {
  static float o[HEADS * NQ * DIM];
  memset(o, 0xff, sizeof o);
  return cache_attend(threads, o) && memcmp(o, cache_expected, sizeof o) == 0;
}

static int openmp_is_there(void) { return ifa_backend_supports("openmp", NULL, NULL) == IFA_OK; }

/* Bits of the calls that do not agree. */
static int disagreements(void) {
  return (openmp_is_there() && !run_agrees("openmp")) | !run_agrees("cpu") << 1 |
         !attend_agrees(4, NQ, NK, expected) << 2 | !cache_agrees(0) << 3 | !cache_agrees(4) << 4;
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
  config.kv_heads = HEADS, config.head_dim = DIM, config.blocks = NK / 64 + 1;
  ifa_cache_tokens tokens = {.k = floats, .v = floats, .type = IFA_F32, .count = NK};
  if (ifa_cache_create(&config, NULL, 0, &held.cache, NULL) != IFA_OK ||
      ifa_cache_add(held.cache, &held.sequence, NULL) != IFA_OK ||
      ifa_cache_append(held.cache, held.sequence, &tokens, NULL) != IFA_OK)
    return -1;
  return cache_attend(1, cache_expected) ? 0 : -1;
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

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_a_little_work_wakes_nobody),
                                     cmocka_unit_test(test_every_call), cmocka_unit_test(test_fork),
                                     cmocka_unit_test(test_refused_threads)};
  unsetenv("IFA_CPU_ISA");
  return cmocka_run_group_tests_name("process", tests, setup, teardown);
}
