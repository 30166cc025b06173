/* test_team.c - common/team.h: every piece of work is done once, whoever comes; how many members a
 * call has; fork, refused threads, cancellation, signals. The program is linked with
 * -Wl,--wrap=pthread_create, so that threads can be counted and refused. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#include "common/team.h"

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define ADDRESS_SANITIZED
#endif
#endif

/* ---- threads, counted and refused ---- */

static atomic_int made, allowed = INT32_MAX; /* threads that may still be made */
static atomic_long lateness;                 /* microseconds before a new thread begins */
int __real_pthread_create(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
int __wrap_pthread_create(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);

typedef struct late_thread {
  void *(*start)(void *);
  void *argument;
} late_thread;

__attribute__((no_sanitize_address)) static void sleep_for(long microseconds);

static void *begin_late(void *late) {
  late_thread l = *(late_thread *)late;
  free(late);
  for (long slept = 0; slept < lateness; slept += 1000) sleep_for(1000);
  return l.start(l.argument);
}

int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
                          void *(*start)(void *), void *argument) {
  if (atomic_fetch_sub(&allowed, 1) <= 0) return EAGAIN;
  if (lateness > 0) {
    late_thread *late = malloc(sizeof *late);
    if (!late) return EAGAIN;
    *late = (late_thread){start, argument};
    start = begin_late;
    argument = late;
  }
  int error = __real_pthread_create(thread, attributes, start, argument);
  if (error == 0) atomic_fetch_add(&made, 1);
  return error;
}

/* Where a cancelled thread ends: AddressSanitizer does not see that, and would keep what it marks
   on the stack of the function. */
__attribute__((no_sanitize_address)) static void sleep_for(long microseconds) {
  nanosleep(&(struct timespec){0, microseconds * 1000}, NULL);
}

/* ---- work whose pieces are counted ---- */

enum { PIECES = 1000, MEMBERS = 8 };

typedef struct counted {
  ifa_team_items items;
  atomic_int done[PIECES];
  atomic_int member[MEMBERS]; /* times that a body began with this number */
  atomic_int wait_for;        /* members that must have begun before member 0 goes on */
  long piece_microseconds;
} counted;

static void count(void *context, int member) {
  counted *c = context;
  atomic_fetch_add(&c->member[member], 1);
  for (int tries = 0; member == 0 && tries < 20000; tries++) {
    int begun = 0;
    for (int i = 0; i < MEMBERS; i++) begun += c->member[i];
    if (begun >= c->wait_for) break;
    sleep_for(100);
  }
  for (int64_t i; (i = ifa_team_take(&c->items)) < c->items.count;) {
    atomic_fetch_add(&c->done[i], 1);
    if (c->piece_microseconds) sleep_for(c->piece_microseconds);
  }
}

static int all_done_once(const counted *c) {
  int members = 0;
  for (int i = 0; i < c->items.count; i++)
    if (c->done[i] != 1) return 0;
  for (int i = 0; i < MEMBERS; i++) {
    if (c->member[i] > 1) return 0;
    members += c->member[i];
  }
  return c->member[0] == 1 && members >= c->wait_for;
}

/* 1: all was done, by at least `least` members. */
static int run(int members, int least, long piece_microseconds) {
  counted c;
  memset(&c, 0, sizeof c);
  c.items.count = PIECES;
  c.wait_for = least;
  c.piece_microseconds = piece_microseconds;
  ifa_team_run(members, count, &c);
  return all_done_once(&c);
}

static void test_all_is_done_once(void **state) {
  (void)state;
  for (int members = 1; members <= MEMBERS; members++)
    for (int i = 0; i < 50; i++) assert_true(run(members, i % 5 == 0 ? members : 1, 0));
  assert_true(run(MEMBERS, 1, 20));
}

/* Two calls on as many workers need as many threads as one. */
static void test_threads_stay(void **state) {
  (void)state;
  assert_true(run(MEMBERS, MEMBERS, 0));
  int before = made;
  for (int i = 0; i < 100; i++) assert_true(run(MEMBERS, 1, 0));
  assert_int_equal(made, before);
}

/* Threads that the system does not let begin: the call does the work without them, and returns. */
static void test_nobody_waits_for_a_late_thread(void **state) {
  (void)state;
  fflush(NULL);
  pid_t child = fork(); /* it has no threads yet */
  if (child == 0) {
    alarm(60);
    atomic_store(&made, 0);
    atomic_store(&lateness, 3600L * 1000000);
    int right = run(MEMBERS, 1, 0) && run(MEMBERS, 1, 20) && made == MEMBERS - 1;
    _exit(right ? 0 : 1);
  }
  int status;
  assert_int_equal(waitpid(child, &status, 0), child);
  assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* ---- callers at once, and a call within a call ---- */

static void *caller(void *result) {
  *(int *)result = 1;
  for (int i = 0; i < 30; i++) *(int *)result &= run(4, 4, 0);
  return NULL;
}

static void test_callers_at_once(void **state) {
  (void)state;
  enum { CALLERS = 4 };
  pthread_t threads[CALLERS];
  int result[CALLERS];
  for (int i = 0; i < CALLERS; i++)
    assert_int_equal(pthread_create(&threads[i], NULL, caller, &result[i]), 0);
  for (int i = 0; i < CALLERS; i++) pthread_join(threads[i], NULL);
  for (int i = 0; i < CALLERS; i++) assert_true(result[i]);
}

static void call_again(void *context, int member) {
  (void)member;
  atomic_fetch_and((atomic_int *)context, run(3, 2, 0));
}

static void test_within_a_call(void **state) {
  (void)state;
  atomic_int right = 1;
  ifa_team_run(3, call_again, &right);
  assert_true(right);
}

/* ---- how many ---- */

static void test_sizes(void **state) {
  (void)state;
  assert_int_equal(ifa_team_size(64, 1, 1e9), 1);    /* one piece */
  assert_int_equal(ifa_team_size(64, 1000, 5e3), 1); /* 5 us: not worth another thread */
  assert_int_equal(ifa_team_size(64, 1000, 0), 1);
  assert_int_equal(ifa_team_size(1, 1000, 1e9), 1);
  assert_int_equal(ifa_team_size(8, 3, 1e9), 3);
  assert_int_equal(ifa_team_size(8, INT64_MAX, 1e18), 8);
  int some = ifa_team_size(64, 1000, 1e5); /* 100 us */
  assert_true(some > 1 && some < 10);
  int most = ifa_team_size(INT32_MAX, INT64_MAX, 1e18);
  assert_true(most >= 64 && most <= IFA_TEAM_MOST);
  assert_true(ifa_team_default() >= 1 && ifa_team_default() <= most);
}

static void test_sizes_by_openmp(void **state) {
  (void)state;
#ifdef _OPENMP
  int before = omp_get_max_threads(), within = 0, size = 0;
  omp_set_num_threads(3);
  assert_int_equal(ifa_team_default(), 3);
  omp_set_num_threads(1000000);
  assert_true(ifa_team_default() >= 64 && ifa_team_default() <= IFA_TEAM_MOST);
  omp_set_num_threads(2);
  /* a region within a region has one thread */
#pragma omp parallel reduction(+ : within, size)
  {
    within += ifa_team_default();
    size += ifa_team_size(8, 100, 1e9);
  }
  omp_set_num_threads(before);
  assert_int_equal(within, 2);
  assert_int_equal(size, 2);
#else
  assert_int_equal(ifa_team_default(), 1);
#endif
}

/* ---- threads that cannot be made ---- */

/* A child that may make `permitted` threads: 10 and how many it made; 1 if work was not done. */
static int fork_with(int permitted, int members, int least, long microseconds) {
  fflush(NULL);
  pid_t child = fork();
  if (child == 0) {
    alarm(60);
    atomic_store(&made, 0);
    atomic_store(&allowed, permitted);
    int right = run(members, least, microseconds) && run(members, 1, 0);
    _exit(right ? 10 + made : 1);
  }
  int status;
  if (waitpid(child, &status, 0) != child) return -1;
  if (!WIFEXITED(status)) return -WTERMSIG(status);
  return WEXITSTATUS(status);
}

/* A process that may make none, two, all: in each the work is done, by those that there are. */
static void test_refused_threads(void **state) {
  (void)state;
  assert_int_equal(fork_with(0, MEMBERS, 1, 0), 10);
  assert_int_equal(fork_with(2, MEMBERS, 3, 0), 12);
  assert_int_equal(fork_with(INT32_MAX, MEMBERS, MEMBERS, 0), 10 + MEMBERS - 1);
}

/* ---- fork ---- */

static void *forking(void *ended) {
  for (int i = 0; i < 20; i++)
    if (fork_with(INT32_MAX, 4, 4, 0) != 13) return NULL;
  atomic_store((atomic_int *)ended, 1);
  return ended;
}

/* From the thread that calls, and from another while calls are under way. */
static void test_fork(void **state) {
  (void)state;
  assert_true(run(4, 4, 0));
  assert_int_equal(fork_with(INT32_MAX, 4, 4, 0), 13);
  atomic_int ended = 0;
  pthread_t thread;
  void *result;
  assert_int_equal(pthread_create(&thread, NULL, forking, &ended), 0);
  for (int i = 0; !ended && i < 200000; i++) assert_true(run(4, 1, 0));
  pthread_join(thread, &result);
  assert_non_null(result);
}

/* A child that exits the ordinary way has no threads to wait for. */
static void test_exit_of_a_child(void **state) {
  (void)state;
  assert_true(run(4, 4, 0));
  fflush(NULL);
  pid_t child = fork();
  if (child == 0) {
    alarm(60);
    /* cmocka's own report is not written twice */
    exit(0);
  }
  int status;
  assert_int_equal(waitpid(child, &status, 0), child);
  assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* ---- cancellation and signals ---- */

static atomic_int began, returned;

static void slow(void *context, int member) {
  (void)member;
  counted *c = context;
  atomic_store(&began, 1);
  sleep_for(2000);
  pthread_testcancel();
  count(c, member);
}

static void *cancelled(void *context) {
  ifa_team_run(4, slow, context);
  atomic_store(&returned, 1);
  while (returned) sleep_for(1000); /* here the cancellation takes effect */
  return NULL;
}

static void test_cancellation(void **state) {
  (void)state;
#ifdef ADDRESS_SANITIZED
  skip(); /* its runtime takes what a cancelled thread leaves of its stack for an overrun */
#endif
  counted c;
  memset(&c, 0, sizeof c);
  c.items.count = PIECES;
  pthread_t thread;
  void *result;
  assert_int_equal(pthread_create(&thread, NULL, cancelled, &c), 0);
  while (!began) sleep_for(100);
  pthread_cancel(thread);
  pthread_join(thread, &result);
  assert_true(result == PTHREAD_CANCELED && returned);
  assert_true(all_done_once(&c));
  assert_true(run(4, 4, 0));
}

/* Members whose thread takes signals meant for the process; members that hide their own faults. */
static atomic_int takers, hiders;

static void look_at_mask(void *context, int member) {
  sigset_t mask;
  pthread_sigmask(SIG_BLOCK, NULL, &mask);
  if (member > 0) {
    static const int sent[] = {SIGUSR1, SIGINT, SIGTERM, SIGHUP, SIGCHLD, SIGALRM, SIGPIPE};
    for (size_t i = 0; i < sizeof sent / sizeof sent[0]; i++)
      if (!sigismember(&mask, sent[i])) atomic_fetch_add(&takers, 1);
    if (sigismember(&mask, SIGSEGV) || sigismember(&mask, SIGFPE)) atomic_fetch_add(&hiders, 1);
  }
  count(context, member);
}

/* The caller's handlers run on the caller's threads; its own mask is left as it was. */
static void test_signals(void **state) {
  (void)state;
  sigset_t before, after;
  counted c;
  memset(&c, 0, sizeof c);
  c.items.count = PIECES, c.wait_for = MEMBERS;
  pthread_sigmask(SIG_BLOCK, NULL, &before);
  ifa_team_run(MEMBERS, look_at_mask, &c);
  pthread_sigmask(SIG_BLOCK, NULL, &after);
  assert_true(all_done_once(&c)); /* by all of them */
  assert_int_equal(takers, 0);
  assert_int_equal(hiders, 0);
  for (int i = 1; i < 32; i++) assert_int_equal(sigismember(&before, i), sigismember(&after, i));
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_all_is_done_once),
                                     cmocka_unit_test(test_threads_stay),
                                     cmocka_unit_test(test_nobody_waits_for_a_late_thread),
                                     cmocka_unit_test(test_callers_at_once),
                                     cmocka_unit_test(test_within_a_call),
                                     cmocka_unit_test(test_sizes),
                                     cmocka_unit_test(test_sizes_by_openmp),
                                     cmocka_unit_test(test_refused_threads),
                                     cmocka_unit_test(test_fork),
                                     cmocka_unit_test(test_exit_of_a_child),
                                     cmocka_unit_test(test_cancellation),
                                     cmocka_unit_test(test_signals)};
  return cmocka_run_group_tests_name("team", tests, NULL, NULL);
}
