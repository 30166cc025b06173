/* unload.c - unload LIBRARY: loads a library that has ifa_run in it (libifa.so, or one made with
 * libifa.a), runs every backend that computes on threads, here and in a thread, and unloads it;
 * four times. Its threads must be gone with it: their code is.
 *
 * Exit codes: 0, 1 something is wrong. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "ifa.h"

enum { HEADS = 4, NQ = 200, NK = 800, DIM = 64 };

static int8_t data[HEADS * NK * DIM];
static float scale[HEADS * NK], o[HEADS * NQ * DIM];

typedef ifa_status run_function(const char *, const ifa_problem *, const ifa_inputs *,
                                const ifa_outputs *, ifa_message *);

static void stop(const char *what, const char *why) {
  printf("unload: %s: %s\n", what, why);
  exit(1);
}

static void *find(void *library, const char *name) {
  void *found = dlsym(library, name);
  if (!found) stop(name, dlerror());
  return found;
}

static int threads_now(void) {
  DIR *folder = opendir("/proc/self/task");
  int count = 0;
  if (!folder) stop("/proc/self/task", "cannot be read");
  for (const struct dirent *entry; (entry = readdir(folder)) != NULL;)
    count += entry->d_name[0] != '.';
  closedir(folder);
  return count;
}

static int most_threads;

static void *run_all(void *library) {
  static const char *const backends[] = {"openmp", "cpu", "cpu-portable"};
  run_function *run = (run_function *)find(library, "ifa_run");
  ifa_problem p = ((ifa_problem(*)(void))find(library, "ifa_problem_default"))();
  p.q_heads = p.kv_heads = HEADS;
  p.nq = NQ;
  p.nk = NK;
  p.head_dim = DIM;
  ifa_inputs in = {
      .q = data, .k = data, .v = data, .q_scale = scale, .k_scale = scale, .v_scale = scale};
  ifa_outputs out = {.o = o};
  ifa_message why;
  for (int i = 0; i < 3; i++) {
    ifa_status status = run(backends[i], &p, &in, &out, &why);
    if (status != IFA_OK && status != IFA_NOT_AVAILABLE) stop(backends[i], why.text);
  }
  int now = threads_now();
  most_threads = now > most_threads ? now : most_threads;
  return NULL;
}

int main(int count, char **arguments) {
  if (count != 2) stop("usage", "unload LIBRARY");
  for (int i = 0; i < HEADS * NK; i++) scale[i] = 0.01f;
  int before = threads_now();
  for (int round = 0; round < 4; round++) {
    void *library = dlopen(arguments[1], RTLD_NOW | RTLD_LOCAL);
    if (!library) stop(arguments[1], dlerror());
    run_all(library);
    pthread_t thread;
    if (pthread_create(&thread, NULL, run_all, library)) stop("pthread_create", "refused");
    pthread_join(thread, NULL);
    dlclose(library);
    nanosleep(&(struct timespec){0, 20000000}, NULL); /* what still ran would crash here */
    if (dlopen(arguments[1], RTLD_NOW | RTLD_NOLOAD)) stop(arguments[1], "is still loaded");
    if (threads_now() != before) stop(arguments[1], "left threads behind");
  }
  printf("unload: up to %d threads, none left\n", most_threads);
  return most_threads > before ? 0 : 1; /* none was made: nothing was shown */
}
