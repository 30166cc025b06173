/* test_products.cc - the emulated products of warpgroups: right ones give the sums that a plain
 * loop gives, for every operand that the kernels use; a kernel that misuses them gets wrong ones,
 * in some run at least. Named barriers. */
#include "tests/gpu/emulation/instructions.h"
#include "tests/gpu/emulation/instructions_sm90.h"

enum Misuse {
  NONE,
  READ_EARLY,
  WRITTEN_EARLY,
  A_CHANGED,
  OTHER_AWAITED,
  NOT_AWAITED,
  REFILLED,
  NOT_FENCED,
  MISUSES
};
static const char *const names[] = {"none",
                                    "sums are read before the wait",
                                    "sums are written before the wait",
                                    "A's registers are written before the wait",
                                    "the wait is for another group",
                                    "a copy is not awaited",
                                    "shared memory is filled again before the wait",
                                    "no fence"};

enum { ROWS = 64, STEP = 32 };

/* s = A B, t = W B, with PITCH bytes along k; A and B as they lie in shared memory. */
template <int PITCH, int N> struct Case {
  int8_t a[ROWS * PITCH], b[N * PITCH];
  uint8_t w[ROWS][PITCH];
  int s[ROWS][N], t[ROWS][N];
  Misuse misuse;
};

static int swizzled(int pitch, int row, int byte) {
  return row * pitch + (byte ^ 16 * (pitch == 128 ? row & 7 : row >> 1 & 3));
}

template <int PITCH, int N> static void store(int (&to)[ROWS][N], const int (&sums)[N / 8][4]) {
  const int lane = (int)threadIdx.x & 31, row = (int)threadIdx.x / 32 * 16 + (lane >> 2);
  for (int j = 0; j < N / 8; j++)
    for (int i = 0; i < 4; i++)
      to[row + 8 * (i >> 1)][8 * j + 2 * (lane & 3) + (i & 1)] = sums[j][i];
}

template <int PITCH, int N>
static void consume(Case<PITCH, N> &c, uint32_t a_at, uint32_t b_at, uint32_t full) {
  constexpr int STEPS = PITCH / STEP;
  const int lane = (int)threadIdx.x & 31, row = (int)threadIdx.x / 32 * 16 + (lane >> 2);
  int s[N / 8][4], t[N / 8][4] = {};
  uint32_t w[STEPS][4];
  for (int k = 0; k < STEPS; k++)
    for (int x = 0; x < 4; x++)
      memcpy(&w[k][x], &c.w[row + 8 * (x & 1)][k * STEP + 16 * (x >> 1) + 4 * (lane & 3)], 4);
  if (c.misuse != NOT_AWAITED) parts::barrier_wait(full, 0);
  if (c.misuse != NOT_FENCED) sm90::wgmma_fence();
  const uint32_t a = sm90::operand_low(a_at), b = sm90::operand_low(b_at);
  sm90::wgmma_s8_first(s, sm90::operand<PITCH>(a), sm90::operand<PITCH>(b));
  for (int k = 1; k < STEPS; k++)
    sm90::wgmma_s8(s, sm90::operand<PITCH>(a + 2 * k), sm90::operand<PITCH>(b + 2 * k));
  sm90::wgmma_commit();
  for (int k = 0; k < STEPS; k++) sm90::wgmma_u8(t, w[k], sm90::operand<PITCH>(b + 2 * k));
  sm90::wgmma_commit();
  if (c.misuse == A_CHANGED) w[0][0] ^= 0x01010101;
  if (c.misuse == WRITTEN_EARLY) t[0][0]++;
  if (c.misuse == READ_EARLY) store<PITCH>(c.s, s);
  if (c.misuse == REFILLED) memset(parts::shared_bytes + b_at, 1, N * PITCH);
  sm90::wgmma_wait<1>();
  if (c.misuse == OTHER_AWAITED) store<PITCH>(c.t, t);
  if (c.misuse != READ_EARLY) store<PITCH>(c.s, s);
  sm90::wgmma_wait<0>();
  if (c.misuse == WRITTEN_EARLY) t[0][0]--;
  if (c.misuse != OTHER_AWAITED) store<PITCH>(c.t, t);
  parts::barrier_wait(full, 0); /* (no CTA ends before its copies) */
}

template <int PITCH, int N> static void kernel(void *argument) {
  Case<PITCH, N> &c = *(Case<PITCH, N> *)argument;
  const uint32_t a_at = 1024, b_at = a_at + ROWS * PITCH, full = b_at + N * PITCH;
  if (threadIdx.x == 0) parts::barrier_init(full, 2);
  __syncthreads();
  if (threadIdx.x < 128) {
    sm90::more_registers<240>();
    consume(c, a_at, b_at, full);
  } else if (threadIdx.x == 128) {
    parts::copy_bulk(a_at, c.a, sizeof c.a, full);
    parts::copy_bulk(b_at, c.b, sizeof c.b, full);
  }
}

template <int PITCH, int N> static bool right(const Case<PITCH, N> &c) {
  for (int i = 0; i < ROWS; i++)
    for (int j = 0; j < N; j++) {
      int s = 0, t = 0;
      for (int k = 0; k < PITCH; k++) {
        const int b = c.b[swizzled(PITCH, j, k)];
        s += c.a[swizzled(PITCH, i, k)] * b;
        t += c.w[i][k] * b;
      }
      if (c.s[i][j] != s || c.t[i][j] != t) return false;
    }
  return true;
}

/* In how many of some runs the sums are right. */
template <int PITCH, int N> static int runs_right(Misuse misuse, int runs) {
  alignas(16) static Case<PITCH, N> c;
  int good = 0;
  for (int run = 0; run < runs; run++) {
    memset(&c, 0, sizeof c);
    for (int8_t &x : c.a) x = (int8_t)emulation::draw();
    for (int8_t &x : c.b) x = (int8_t)emulation::draw();
    for (auto &row : c.w)
      for (uint8_t &x : row) x = (uint8_t)emulation::draw();
    c.misuse = misuse;
    emulation::run(kernel<PITCH, N>, &c, dim3(1), dim3(256), 64 << 10);
    good += right(c);
  }
  return good;
}

template <int PITCH, int N> static int failures() {
  enum { RUNS = 16 };
  int failed = 0;
  for (int misuse = 0; misuse < MISUSES; misuse++) {
    const int good = runs_right<PITCH, N>((Misuse)misuse, RUNS);
    if (misuse == NONE ? good == RUNS : good < RUNS) continue;
    printf("FAILED  %d rows of %d bytes, misuse: %s: %d of %d runs are right\n", N, PITCH,
           names[misuse], good, (int)RUNS);
    failed++;
  }
  return failed;
}

/* Named barriers: a group of 128 threads waits for itself alone. */
struct Groups {
  bool waits;
  int early; /* threads that saw one of their group that had not come */
};

static void meet_in_groups(void *argument) {
  Groups &groups = *(Groups *)argument;
  uint8_t *const come = parts::shared_bytes + (threadIdx.x & ~127u);
  if (threadIdx.x < 128) __syncwarp(); /* the second group is there first */
  come[threadIdx.x & 127] = 1;
  if (groups.waits) emulation::wait_for_some(1 + (int)threadIdx.x / 128, 128);
  for (int i = 0; i < 128; i++)
    if (come[i] != 1) {
      groups.early++;
      break;
    }
}

static int named_barrier_failures() {
  int failed = 0;
  for (bool waits : {true, false}) {
    Groups groups = {waits, 0};
    emulation::run(meet_in_groups, &groups, dim3(1), dim3(256), 0);
    if ((groups.early == 0) == waits) continue;
    printf("FAILED  named barriers, %s: %d threads are early\n", waits ? "waiting" : "not waiting",
           groups.early);
    failed++;
  }
  return failed;
}

int main() {
  const int failed = failures<128, 64>() + failures<128, 128>() + failures<64, 64>() +
                     failures<64, 128>() + named_barrier_failures();
  if (failed == 0)
    printf("products of warpgroups: 4 shapes right, %d misuses of each seen; named barriers\n",
           MISUSES - 1);
  return failed != 0;
}
