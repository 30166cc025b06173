/* products.cc - products.h. */
#include "tests/gpu/emulation/products.h"

#include <deque>
#include <vector>

#include "tests/gpu/emulation/emulation.h"
#include "tests/gpu/emulation/memory.h"

#if defined(__x86_64__)
#define IFA_FASTEST __attribute__((target_clones("avx2", "default"), optimize("O3")))
#else
#define IFA_FASTEST __attribute__((optimize("O3")))
#endif

namespace emulation {

enum { ROWS = 16, DEPTH = 32, COLUMNS = 256, WARPS = 32 };

/* Sums under way: of the first product that gave this place something, until the wait for the last.
 */
struct Sums {
  int *place[32];
  int columns;
  int products; /* that are to come */
  int values[ROWS][COLUMNS];
};

/* One product of a warp. */
struct Asked {
  Product what;
  Sums *sums;
  bool opens; /* the sums are under way since this one */
  bool fenced;
  const uint32_t *a[32];
};

struct Group {
  std::vector<Asked> products;
  bool done;
};

struct Warp {
  std::vector<Asked> open;  /* asked for, in no group so far */
  size_t lane_at[32];       /* of them, those that this lane has asked for */
  std::deque<Group> groups; /* under way, the oldest first */
  std::vector<Sums *> sums; /* under way */
  bool fenced;
  uint64_t count, trace; /* of all products */
};

static Warp warps[WARPS];
static int warp_count;

/* Wrong, but nothing that a kernel would look at more closely. */
static int nonsense(int x) { return ~x; }

/* ---- shared memory ---- */

/* A row's 32 bytes of an operand, as its description has them: hardware exchanges bits of
 * addresses. */
static void read_row(int8_t *to, uint64_t description, int row) {
  const uint32_t first = (uint32_t)(description & 0x3fff) << 4,
                 groups = (uint32_t)(description >> 32 & 0x3fff) << 4;
  const int swizzle = (int)(description >> 62);
  if (swizzle != 1 && swizzle != 2)
    fail("wgmma: an operand whose rows are of 128 or 64 bytes is all that is emulated");
  const uint32_t pitch = swizzle == 1 ? 128 : 64, mask = swizzle == 1 ? 7 : 3;
  for (uint32_t chunk = 0; chunk < 2; chunk++) {
    const uint32_t at = first + (uint32_t)row / 8 * groups + (uint32_t)row % 8 * pitch + chunk * 16;
    if (at + 16 > SHARED_BYTES) fail("wgmma: an operand lies beyond shared memory");
    memcpy(to + 16 * chunk, parts::shared_bytes + (at ^ (at >> 3 & mask << 4)), 16);
  }
}

/* ---- arithmetic ---- */

IFA_FASTEST static void multiply(int (*sums)[COLUMNS], const int16_t (*a)[DEPTH],
                                 const int16_t (*b)[DEPTH], int columns) {
  for (int i = 0; i < ROWS; i++)
    for (int j = 0; j < columns; j++) {
      int sum = 0;
      for (int k = 0; k < DEPTH; k++) sum += a[i][k] * b[j][k];
      sums[i][j] = (int)((uint32_t)sums[i][j] + (uint32_t)sum);
    }
}

static void carry_out(const Asked &p, int warp) {
  int16_t a[ROWS][DEPTH], b[COLUMNS][DEPTH];
  int8_t row[DEPTH];
  uint8_t fragments[ROWS][DEPTH];
  for (int j = 0; j < p.what.columns; j++) {
    read_row(row, p.what.b, j);
    std::copy(row, row + DEPTH, b[j]);
  }
  for (int lane = 0; lane < 32 && p.what.a_registers; lane++)
    for (int x = 0; x < 4; x++)
      memcpy(&fragments[(lane >> 2) + 8 * (x & 1)][16 * (x >> 1) + 4 * (lane & 3)], &p.a[lane][x],
             4);
  for (int i = 0; i < ROWS; i++) {
    if (p.what.a_registers) memcpy(row, fragments[i], DEPTH);
    else read_row(row, p.what.a, 16 * (warp & 3) + i);
    for (int k = 0; k < DEPTH; k++) a[i][k] = p.what.a_unsigned ? (uint8_t)row[k] : row[k];
  }
  if (p.what.first) memset(p.sums->values, 0, sizeof p.sums->values);
  multiply(p.sums->values, a, b, p.what.columns);
  if (!p.fenced)
    for (auto &row : p.sums->values)
      for (int &x : row) x = nonsense(x);
}

static void carry_out(Group &group, int warp) {
  if (!group.done)
    for (const Asked &p : group.products) carry_out(p, warp);
  group.done = true;
}

/* ---- a lane asks ---- */

static int *value_of(Sums *sums, int lane, int n) {
  const int row = (lane >> 2) + 8 * (n >> 1 & 1), column = 8 * (n >> 2) + 2 * (lane & 3) + (n & 1);
  return &sums->values[row][column];
}

static Sums *under_way(const Warp &w, int lane, const int *place) {
  for (Sums *s : w.sums)
    if (s->place[lane] == place) return s;
  return nullptr;
}

static bool alike(const Product &x, const Product &y) {
  return x.columns == y.columns && x.first == y.first && x.a_registers == y.a_registers &&
         x.a_unsigned == y.a_unsigned && x.b == y.b && (x.a_registers || x.a == y.a);
}

/* The first lane to come. */
static void open_product(Warp &w, const Product &asked, int lane, const int *place) {
  Asked p = {asked, under_way(w, lane, place), false, w.fenced, {}};
  if (!p.sums) {
    p.sums = new Sums();
    p.sums->columns = asked.columns;
    p.opens = true;
    w.sums.push_back(p.sums);
  }
  if (p.sums->columns != asked.columns) fail("wgmma: sums are under way in another shape");
  p.sums->products++;
  w.count++;
  w.trace = w.trace * 1099511628211u + asked.b * 31 + (uint64_t)asked.columns + asked.first;
  w.open.push_back(p);
}

void product(const Product &asked, int *place, const uint32_t *a) {
  const int lane = (int)thread.x & 31;
  Warp &w = warps[thread.x / 32];
  if (w.lane_at[lane] == w.open.size()) open_product(w, asked, lane, place);
  Asked &p = w.open[w.lane_at[lane]++];
  if (!alike(p.what, asked)) fail("wgmma: the lanes of a warp ask for different products");
  p.a[lane] = a;
  if (!p.opens) {
    if (p.sums->place[lane] != place) fail("wgmma: the lanes of a warp have different sums");
    return;
  }
  p.sums->place[lane] = place;
  for (int n = 0; n < asked.columns / 2; n++) {
    *value_of(p.sums, lane, n) = place[n];
    place[n] = nonsense(place[n]);
  }
}

/* ---- groups: all lanes of a warp ---- */

template <class Do> static void together(const char *operation, Do act) {
  meet<int, int>(operation, 0, [&](const int *, int *out) {
    act();
    std::fill(out, out + 32, 0);
  });
}

void fence_products() {
  const int warp = (int)thread.x / 32;
  together("wgmma.fence", [=] { warps[warp].fenced = true; });
}

void commit_products() {
  const int warp = (int)thread.x / 32;
  together("wgmma.commit_group", [=] {
    Warp &w = warps[warp];
    for (size_t &at : w.lane_at) {
      if (at != w.open.size())
        fail("wgmma: the lanes of a warp ask for different numbers of products");
      at = 0;
    }
    w.groups.push_back({w.open, false});
    w.open.clear();
    if (draw() % 2 == 0)
      for (Group &group : w.groups) carry_out(group, warp); /* in order */
  });
}

/* Nothing under way gives them anything more. */
static void give(Warp &w, Sums *sums) {
  for (int lane = 0; lane < 32; lane++)
    for (int n = 0; n < sums->columns / 2; n++) sums->place[lane][n] = *value_of(sums, lane, n);
  w.sums.erase(std::find(w.sums.begin(), w.sums.end(), sums));
  delete sums;
}

void wait_for_products(int most_under_way) {
  const int warp = (int)thread.x / 32;
  together("wgmma.wait_group", [=] {
    Warp &w = warps[warp];
    if (!w.open.empty()) fail("wgmma: products in no group are waited for");
    for (; w.groups.size() > (size_t)most_under_way; w.groups.pop_front()) {
      carry_out(w.groups.front(), warp);
      for (const Asked &p : w.groups.front().products)
        if (--p.sums->products == 0) give(w, p.sums);
    }
    w.fenced = false;
  });
}

/* ---- a CTA ---- */

void begin_products(int count) {
  warp_count = count;
  for (Warp &w : warps) w = Warp();
}

void end_products() {
  for (int warp = 0; warp < warp_count; warp++) {
    const Warp &w = warps[warp], &first = warps[warp & ~3];
    if (!w.open.empty() || !w.groups.empty()) fail("wgmma: a warp ended before its products");
    if (w.count != first.count || w.trace != first.trace)
      fail("wgmma: the warps of a warpgroup asked for different products");
  }
}

} // namespace emulation
