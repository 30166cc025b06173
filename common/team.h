/* team.h - the threads that the library computes on: a pool of the caller's (ifa_set_pool), else
 * its own few, made when first wanted, asleep between calls.
 *
 * Its own are not OpenMP's, though OpenMP says how many: a process whose OpenMP runtime has run
 * cannot use it after fork(), the runtime ends the process where threads cannot be made, and its
 * threads outlive a library that is unloaded. Here
 *
 *   - a call takes what it finds idle, makes what is missing, and does with fewer where none can be
 *     made; callers at once have threads of their own each;
 *   - a member that comes late finds its work taken back: nobody waits for a thread that has not
 *     begun, so work must be shared out by a counter (ifa_team_take), not by member numbers;
 *   - a child of fork() begins without threads and makes its own;
 *   - when the library is unloaded or the process exits, idle threads end first;
 *   - they take no signals but those of their own faults. */
#ifndef IFA_COMMON_TEAM_H
#define IFA_COMMON_TEAM_H

#include <stdatomic.h>
#include <stdint.h>

/* Members of one call, and threads of the process, at most. */
enum { IFA_TEAM_MOST = 1024 };

/* The pool's threads; else what "as many as OpenMP would use" stands for: its number now
 * (OMP_NUM_THREADS, omp_set_num_threads, OMP_THREAD_LIMIT) and 1 within a parallel region that
 * allows no other in it. 1 without OpenMP. Never more than 64 or, where that is more, twice the
 * processors. */
int ifa_team_default(void);

/* Members worth having for `items` pieces of work that take `nanoseconds` together on one thread: 1
 * .. threads; no more than ifa_team_default allows. */
int ifa_team_size(int threads, int64_t items, double nanoseconds);

/* Calls body(context, member) on this thread and, at once, on others, with different members of 0
 * .. members-1, on as many as there are in time; returns when all that began have returned. (On a
 * caller's pool perhaps on other threads only.) Never fails, allocates nothing. */
void ifa_team_run(int members, void (*body)(void *context, int member), void *context);

/* Work in pieces 0 .. count-1, each taken once. In a cache line of its own: all members write it.
 */
typedef struct ifa_team_items {
  _Alignas(64) _Atomic int64_t next;
  int64_t count;
} ifa_team_items;

/* The next piece; count or above when there is none left. */
static inline int64_t ifa_team_take(ifa_team_items *items) {
  return atomic_fetch_add_explicit(&items->next, 1, memory_order_relaxed);
}

/* *value = max(*value, x). */
static inline void ifa_atomic_raise(_Atomic uint32_t *value, uint32_t x) {
  uint32_t old = atomic_load_explicit(value, memory_order_relaxed);
  while (old < x && !atomic_compare_exchange_weak_explicit(value, &old, x, memory_order_relaxed,
                                                           memory_order_relaxed)) {}
}

#endif
