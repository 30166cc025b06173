/* emulation.cc - coroutines for the threads of a CTA, copies that come late, and memory that counts
 * as the device's. */
#undef _FORTIFY_SOURCE /* longjmp between stacks is what this does */
#include <setjmp.h>
#include <ucontext.h>

#include <map>
#include <vector>

#include "gpu/params.h"
#include "tests/gpu/emulation/cuda_runtime.h"
#include "tests/gpu/emulation/memory.h"
#include "tests/gpu/emulation/products.h"

using emulation::SHARED_BYTES;

enum { THREADS = 1024, STACK_BYTES = 1 << 17 };

thread_local __align__(128) uint8_t shared_bytes[SHARED_BYTES];

namespace emulation {

thread_local dim3 thread, block, grid;
long long rounds;

[[noreturn]] void fail(const char *what) {
  fprintf(stderr, "emulated GPU: block %u, thread %u: %s\n", block.x, thread.x, what);
  abort();
}

/* ---- threads ---- */

struct Copy {
  uint32_t to, bytes;
  const void *from;
}; /* from NULL: zeros */

static void finish(const Copy &c) {
  if (c.from) memcpy(shared_bytes + c.to, c.from, c.bytes);
  else memset(shared_bytes + c.to, 0, c.bytes);
}

/* Copies that come at some time, and then arrive at a barrier. */
struct Arrival {
  std::vector<Copy> copies;
  uint32_t barrier;
  int thread; /* that waits for them; -1: none does */
};

struct Thread {
  jmp_buf here;
  bool started, ended;
  uint8_t *stack;
  std::vector<Copy> copies; /* asked for, and to arrive at no barrier so far */
};

static Thread threads[THREADS];
static Meeting meetings[THREADS / 32];
static int asleep[THREADS / 32]; /* rounds that the warp sits out */
static int count, running, left, idle_rounds, cta_arrived;
static uint64_t cta_generation;
static std::vector<Arrival> arrivals;
static jmp_buf scheduler;
static ucontext_t unused;
static void (*body)(void *);
static void *body_argument;
static uint64_t random_state = 88172645463325252u;

uint64_t draw() {
  random_state ^= random_state << 13, random_state ^= random_state >> 7;
  return random_state ^= random_state << 17;
}

static void progress() { idle_rounds = 0; }

static void start_thread() {
  body(body_argument);
  threads[running].ended = true;
  left--;
  progress();
  if (left == 0) _longjmp(scheduler, 1);
  yield();
  abort();
}

static void finish_copies(size_t n) {
  for (const Copy &c : arrivals[n].copies) finish(c);
  parts::barrier_arrive(arrivals[n].barrier);
  arrivals.erase(arrivals.begin() + (long)n);
  progress();
}

/* The next thread, in order; a warp that sleeps is passed over. */
static __noinline__ int next_thread() {
  int next = running;
  for (int tries = 0;; tries++) {
    next = next + 1 == count ? 0 : next + 1;
    if (next == 0) {
      rounds++;
      if (++idle_rounds > 100000) fail("the threads of the CTA wait for each other");
      for (size_t n = arrivals.size(); n-- > 0;)
        if (draw() % 64 == 0) finish_copies(n);
    }
    if (next % 32 == 0 && asleep[next / 32] > 0) {
      asleep[next / 32]--;
      next += 31;
      if (next >= count) next = count - 1;
      continue;
    }
    if (!threads[next].ended) return next;
  }
}

static void resume(int next) {
  running = next;
  thread.x = (unsigned)next;
  Thread &t = threads[next];
  if (t.started) _longjmp(t.here, 1);
  t.started = true;
  ucontext_t context;
  getcontext(&context);
  context.uc_stack.ss_sp = t.stack;
  context.uc_stack.ss_size = STACK_BYTES;
  context.uc_link = &unused;
  makecontext(&context, start_thread, 0);
  setcontext(&context);
  abort();
}

void yield() {
  const int next = next_thread();
  if (next == running) return;
  if (_setjmp(threads[running].here) == 0) resume(next);
}

Meeting &warp_meeting() { return meetings[running / 32]; }

void met() {
  progress();
  if (draw() % 256 == 0) asleep[running / 32] = (int)(draw() % 200);
}

void wait_for_cta() {
  const uint64_t generation = cta_generation;
  cta_arrived++;
  while (cta_generation == generation) {
    if (cta_arrived >= left) { /* the last, or all others have ended */
      cta_arrived = 0;
      cta_generation++;
      progress();
    } else {
      yield();
    }
  }
}

/* Named barriers: 0 is the CTA's. */
struct Some {
  int arrived;
  uint64_t generation;
};
static Some some[16];

void wait_for_some(int barrier, int threads) {
  if (barrier < 1 || barrier > 15 || threads % 32 || threads > count)
    fail("bar.sync: no such barrier");
  Some &s = some[barrier];
  const uint64_t generation = s.generation;
  if (++s.arrived == threads) {
    s.arrived = 0;
    s.generation++;
    progress();
  }
  while (s.generation == generation) yield();
}

static void run_cta() {
  memset(shared_bytes, 0xee, SHARED_BYTES);
  for (int i = 0; i < count; i++) {
    Thread &t = threads[i];
    if (!t.stack) t.stack = (uint8_t *)malloc(STACK_BYTES);
    t.started = t.ended = false;
    t.copies.clear();
  }
  memset(meetings, 0, sizeof meetings);
  memset(asleep, 0, sizeof asleep);
  memset(some, 0, sizeof some);
  left = count;
  cta_arrived = 0;
  idle_rounds = 0;
  begin_products(count / 32);
  if (_setjmp(scheduler) == 0) resume(0);
  end_products();
  if (!arrivals.empty()) fail("the CTA ended before its copies");
}

void run(void (*kernel)(void *), void *argument, dim3 size, dim3 cta, size_t shared) {
  if (cta.x % 32 || cta.x > THREADS || cta.y * cta.z != 1 || shared > SHARED_BYTES)
    fail("a launch that cannot be");
  body = kernel;
  body_argument = argument;
  count = (int)cta.x;
  thread = dim3(0, 0, 0), grid = size;
  for (unsigned z = 0; z < grid.z; z++)
    for (unsigned y = 0; y < grid.y; y++)
      for (unsigned x = 0; x < grid.x; x++) {
        block = dim3(x, y, z);
        run_cta();
      }
}

} // namespace emulation

/* ---- copies ---- */

extern "C" {

using emulation::threads, emulation::running;

void copy16(uint32_t to, const void *from, bool real) {
  if (to % 16 || (real && (uintptr_t)from % 16)) emulation::fail("cp.async: not aligned");
  threads[running].copies.push_back({to, 16, real ? from : nullptr});
}
void copy4(uint32_t to, const void *from, bool real) {
  if (to % 4 || (real && (uintptr_t)from % 4)) emulation::fail("cp.async: not aligned");
  threads[running].copies.push_back({to, 4, real ? from : nullptr});
}
void wait_for_copies() {
  for (size_t n = emulation::arrivals.size(); n-- > 0;)
    if (emulation::arrivals[n].thread == running) emulation::finish_copies(n);
  for (const emulation::Copy &c : threads[running].copies) emulation::finish(c);
  threads[running].copies.clear();
}
void arrive_after_copies(uint32_t barrier) {
  emulation::arrivals.push_back({threads[running].copies, barrier, running});
  threads[running].copies.clear();
}
void copy_bulk(uint32_t to, const void *from, uint32_t bytes, uint32_t barrier) {
  if (to % 16 || (uintptr_t)from % 16 || bytes % 16) emulation::fail("cp.async.bulk: not aligned");
  emulation::arrivals.push_back({{{to, bytes, from}}, barrier, -1});
}
}

/* ---- runtime ---- */

static std::map<const uint8_t *, size_t> device_memory; /* block -> bytes */

cudaError_t cudaMalloc(void **block, size_t bytes) {
  *block = aligned_alloc(256, (bytes + 511) / 256 * 256);
  if (!*block) return cudaErrorMemoryAllocation;
  device_memory[(const uint8_t *)*block] = bytes;
  return cudaSuccess;
}

cudaError_t cudaFree(void *block) {
  device_memory.erase((const uint8_t *)block);
  free(block);
  return cudaSuccess;
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes *attributes, const void *pointer) {
  auto after = device_memory.upper_bound((const uint8_t *)pointer);
  attributes->type = cudaMemoryTypeUnregistered;
  if (after == device_memory.begin()) return cudaSuccess;
  --after;
  if ((const uint8_t *)pointer < after->first + after->second)
    attributes->type = cudaMemoryTypeDevice;
  return cudaSuccess;
}

struct call {
  const void *kernel;
  ifa_gpu_params *a;
};

/* Every kernel that is launched takes one ifa_gpu_params. */
cudaError_t cudaLaunchKernel(const void *kernel, dim3 grid, dim3 cta, void **arguments,
                             size_t shared_bytes, cudaStream_t) {
  call c = {kernel, (ifa_gpu_params *)arguments[0]};
  emulation::run([](void *p) { ((void (*)(ifa_gpu_params))((call *)p)->kernel)(*((call *)p)->a); },
                 &c, grid, cta, shared_bytes);
  return cudaSuccess;
}
