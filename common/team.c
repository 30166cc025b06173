/* team.c - see team.h.
 *
 * A worker has one place for a job. Whoever takes the job out of it by an exchange owns it: the
 * worker, which then does it, or the caller, which takes back what has not begun when its own part
 * is done. A worker is in the idle list, or belongs to one caller; a caller puts its workers back
 * when none is busy. So a worker touches a caller's memory only between taking a job and clearing
 * `busy`, and afterwards its own place alone, which is never freed.
 *
 * Who sleeps says so (`asleep`, `awaited`), looks once more, and waits; who posts or finishes looks
 * at that after. All four are sequentially consistent, so one of the two sees the other. */
#include "common/team.h"

#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <time.h>
#include <unistd.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#include "common/message.h"
#include "ifa.h"

/* ---- a pool of the caller's ---- */

static _Atomic(const ifa_pool *) process_pool;
static _Thread_local const ifa_pool *thread_pool;

static const ifa_pool *callers_pool(void) {
  return thread_pool ? thread_pool : atomic_load(&process_pool);
}

static ifa_status check_pool(const ifa_pool *p, ifa_message *message) {
  if (p && (p->threads < 1 || p->threads > IFA_TEAM_MOST))
    return ifa_fail(message, IFA_BAD_ARGUMENT, "pool: threads is %d; 1 .. %d", p->threads,
                    IFA_TEAM_MOST);
  if (p && p->threads > 1 && !p->parallel_for)
    return ifa_fail(message, IFA_BAD_ARGUMENT, "pool: parallel_for is NULL");
  return ifa_succeed(message);
}

ifa_status ifa_set_pool(const ifa_pool *p, ifa_message *message) {
  ifa_status status = check_pool(p, message);
  if (status == IFA_OK) atomic_store(&process_pool, p);
  return status;
}

ifa_status ifa_set_thread_pool(const ifa_pool *p, ifa_message *message) {
  ifa_status status = check_pool(p, message);
  if (status == IFA_OK) thread_pool = p;
  return status;
}

/* What the pool is given: member numbers are handed out here, so that no body has another's
 * whatever the pool calls. */
typedef struct pool_job {
  void (*body)(void *context, int member);
  void *context;
  atomic_int begun;
  int members;
} pool_job;

static void pool_body(void *argument, int index) {
  (void)index;
  pool_job *j = argument;
  int member = atomic_fetch_add(&j->begun, 1);
  if (member < j->members) j->body(j->context, member);
}

static void run_on_pool(const ifa_pool *p, int members, void (*body)(void *context, int member),
                        void *context) {
  pool_job j = {.body = body, .context = context, .members = members};
  int cancel;
  pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel);
  p->parallel_for(p->context, members, pool_body, &j);
  if (atomic_load(&j.begun) == 0) body(context, 0);
  pthread_setcancelstate(cancel, NULL);
}

/* ---- the library's own ---- */

typedef struct job {
  void (*body)(void *context, int member);
  void *context;
} job;

typedef struct worker {
  _Alignas(64) _Atomic(const job *) posted; /* not yet taken */
  _Atomic int busy;                         /* posted or at work */
  _Atomic int asleep;                       /* the worker waits at `wake` */
  _Atomic int awaited;                      /* the caller waits at `done` */
  _Atomic int ending;
  int member;
  struct worker *next;
  pthread_t thread;
  pthread_mutex_t lock;
  pthread_cond_t wake, done;
} worker;

static worker workers[IFA_TEAM_MOST];

static struct {
  pthread_mutex_t lock;
  worker *idle;
  int made;     /* workers[0 .. made-1] have threads */
  int patience; /* calls that do not ask for new threads, after one was refused */
  pid_t process;
} pool = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* ---- how many ---- */

enum {
  WORTH_WAKING = 20000, /* nanoseconds of work: to wake a thread takes 5 to 50 microseconds */
  SPIN = 20000,         /* nanoseconds of looking before sleeping: the next phase of a call comes */
  PATIENCE = 100
};

static int processors;
static pthread_once_t setup_once = PTHREAD_ONCE_INIT;

/* In the child there is this thread alone. Whoever held a lock is not there to release it. */
static void after_fork(void) {
  pthread_mutex_t fresh = PTHREAD_MUTEX_INITIALIZER;
  pool.lock = fresh;
  pool.idle = NULL;
  pool.made = pool.patience = 0;
}

static int forks_are_seen;

static void setup(void) {
  long count = sysconf(_SC_NPROCESSORS_ONLN);
  processors = count < 1 ? 1 : count > IFA_TEAM_MOST ? IFA_TEAM_MOST : (int)count;
  forks_are_seen = pthread_atfork(NULL, NULL, after_fork) == 0;
}

static int most_members(void) {
  pthread_once(&setup_once, setup);
  int most = 2 * processors < 64 ? 64 : 2 * processors;
  if (!forks_are_seen) return 1;
  return most < IFA_TEAM_MOST ? most : IFA_TEAM_MOST;
}

/* A parallel region within which OpenMP would make no other. */
static int region_allows_no_more(void) {
#ifdef _OPENMP
  return omp_in_parallel() && omp_get_active_level() >= omp_get_max_active_levels();
#else
  return 0;
#endif
}

int ifa_team_default(void) {
  const ifa_pool *given = callers_pool();
  if (given) return given->threads;
  int threads = 1, most = most_members();
#ifdef _OPENMP
  threads = omp_get_max_threads();
  if (threads > omp_get_thread_limit()) threads = omp_get_thread_limit();
#endif
  if (region_allows_no_more() || threads < 1) return 1;
  return threads < most ? threads : most;
}

int ifa_team_size(int threads, int64_t items, double nanoseconds) {
  double worth = nanoseconds / WORTH_WAKING;
  if (threads > items) threads = (int)items;
  if (threads > worth) threads = (int)worth;
  const ifa_pool *given = callers_pool();
  if (threads <= 1 || (!given && region_allows_no_more())) return 1;
  int most = given ? given->threads : most_members();
  return threads < most ? threads : most;
}

/* ---- a worker ---- */

static int64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static inline void pause_briefly(void) {
#if defined(__x86_64__) || defined(__i386__)
  for (int i = 0; i < 8; i++) __builtin_ia32_pause();
#elif defined(__aarch64__)
  for (int i = 0; i < 8; i++) __asm__ volatile("isb");
#endif
}

static const job *take(worker *w) {
  return atomic_load(&w->posted) ? atomic_exchange(&w->posted, NULL) : NULL;
}

/* The next job; NULL: the end. */
static const job *wait_for_job(worker *w) {
  const job *j = NULL;
  for (int64_t end = processors > 1 ? now() + SPIN : 0; !j && end && now() < end; pause_briefly())
    j = take(w);
  if (j) return j;
  pthread_mutex_lock(&w->lock);
  atomic_store(&w->asleep, 1);
  while (!(j = take(w)) && !atomic_load(&w->ending)) pthread_cond_wait(&w->wake, &w->lock);
  atomic_store(&w->asleep, 0);
  pthread_mutex_unlock(&w->lock);
  return j;
}

static void *work(void *argument) {
  worker *w = argument;
  for (const job *j; (j = wait_for_job(w)) != NULL;) {
    j->body(j->context, w->member);
    atomic_store(&w->busy, 0);
    if (!atomic_load(&w->awaited)) continue;
    pthread_mutex_lock(&w->lock);
    pthread_cond_signal(&w->done);
    pthread_mutex_unlock(&w->lock);
  }
  return NULL;
}

/* All but those of a fault of the thread's own, and a profiler's. */
static void block_signals(sigset_t *before) {
  static const int kept[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGSYS, SIGPROF};
  sigset_t all;
  sigfillset(&all);
  for (size_t i = 0; i < sizeof kept / sizeof kept[0]; i++) sigdelset(&all, kept[i]);
  pthread_sigmask(SIG_SETMASK, &all, before);
}

/* Under the pool's lock. NULL: the system gives no more. */
static worker *make(void) {
  if (pool.made == IFA_TEAM_MOST) return NULL;
  worker *w = &workers[pool.made];
  *w = (worker){.lock = PTHREAD_MUTEX_INITIALIZER,
                .wake = PTHREAD_COND_INITIALIZER,
                .done = PTHREAD_COND_INITIALIZER};
  sigset_t before;
  block_signals(&before);
  int refused = pthread_create(&w->thread, NULL, work, w);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  if (refused) pool.patience = PATIENCE;
  if (refused) return NULL;
  if (pool.made++ == 0) pool.process = getpid();
  return w;
}

/* ---- a call ---- */

/* Up to `count` workers, as a list. */
static worker *gather(int count) {
  worker *list = NULL;
  pthread_mutex_lock(&pool.lock);
  int ask = pool.patience == 0;
  if (!ask) pool.patience--;
  for (int i = 0; i < count; i++) {
    worker *w = pool.idle;
    if (w) pool.idle = w->next;
    else if (!ask || !(w = make())) break;
    w->next = list;
    list = w;
  }
  pthread_mutex_unlock(&pool.lock);
  return list;
}

static void post(worker *w, const job *j, int member) {
  w->member = member;
  atomic_store(&w->busy, 1);
  atomic_store(&w->posted, j);
  if (!atomic_load(&w->asleep)) return;
  pthread_mutex_lock(&w->lock);
  pthread_cond_signal(&w->wake);
  pthread_mutex_unlock(&w->lock);
}

/* Until the worker has no part in the job any more. */
static void settle(worker *w) {
  if (take(w)) { /* it has not begun */
    atomic_store(&w->busy, 0);
    return;
  }
  for (int64_t end = now() + SPIN; atomic_load(&w->busy) && now() < end;) pause_briefly();
  if (!atomic_load(&w->busy)) return;
  pthread_mutex_lock(&w->lock);
  atomic_store(&w->awaited, 1);
  while (atomic_load(&w->busy)) pthread_cond_wait(&w->done, &w->lock);
  atomic_store(&w->awaited, 0);
  pthread_mutex_unlock(&w->lock);
}

static void give_back(worker *list) {
  worker *last = list;
  while (last->next) last = last->next;
  pthread_mutex_lock(&pool.lock);
  last->next = pool.idle;
  pool.idle = list;
  pthread_mutex_unlock(&pool.lock);
}

void ifa_team_run(int members, void (*body)(void *context, int member), void *context) {
  const ifa_pool *given = members > 1 ? callers_pool() : NULL;
  if (given && given->threads > 1) {
    run_on_pool(given, members < given->threads ? members : given->threads, body, context);
    return;
  }
  if (given) members = 1;
  int most = members > 1 ? most_members() : 1, cancel, member = 1;
  worker *list = most > 1 ? gather((members < most ? members : most) - 1) : NULL;
  if (!list) {
    body(context, 0);
    return;
  }
  const job j = {body, context};
  pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel); /* others use what is on this stack */
  for (worker *w = list; w; w = w->next) post(w, &j, member++);
  body(context, 0);
  for (worker *w = list; w; w = w->next) settle(w);
  give_back(list);
  pthread_setcancelstate(cancel, NULL);
}

/* ---- the end ---- */

/* The library is unloaded, or the process exits: its code must not be run any more. Where a call is
 * still under way (only at exit), or this is a child that nobody told about (clone), threads are
 * left as they are. */
__attribute__((destructor)) static void end_workers(void) {
  int idle = 0;
  if (pool.made == 0 || pool.process != getpid() || pthread_mutex_trylock(&pool.lock)) return;
  for (worker *w = pool.idle; w; w = w->next) idle++;
  if (idle == pool.made) {
    for (int i = 0; i < pool.made; i++) {
      atomic_store(&workers[i].ending, 1);
      pthread_mutex_lock(&workers[i].lock);
      pthread_cond_signal(&workers[i].wake);
      pthread_mutex_unlock(&workers[i].lock);
    }
    for (int i = 0; i < pool.made; i++) pthread_join(workers[i].thread, NULL);
    pool.made = 0;
    pool.idle = NULL;
  }
  pthread_mutex_unlock(&pool.lock);
}
