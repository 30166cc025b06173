/* mma.cuh - step 3: the two products by tensor cores. A warp has 16 rows and multiplies by
 * mma.sync.m16n8k32: S = Q K^T on s8 x s8, acc += P V on u8 x s8, both into 32-bit integers.
 *
 * Thread-to-data map of an accumulator tile, 16 rows by 8 columns: lane 4 g + t holds rows g and
 * g + 8 (h = 0, 1), columns 2 t and 2 t + 1. So four lanes, a quad, share two rows: what concerns a
 * whole row (its largest score, its sum) goes around the quad. Operands are 4 bytes of k a lane:
 *   A, 16 rows x 32:     a[0], a[1]: rows g, g + 8, bytes 4 t ..;   a[2], a[3]: bytes 16 + 4 t ..
 *   B, 32 x 8 columns:   b0: column g, bytes 4 t ..;   b1: bytes 16 + 4 t ..
 * For S a column is a key and k is the channel: K as it lies. For acc a column is a channel and k
 * is the key: V transposed, and with its keys in the order in which the weights lie in the lanes,
 * so that packing four weights of a lane into a word makes the A operand without any exchange.
 * Shared memory: K [64][D + 16] and V^T [D][64 + 16]; the 16 bytes keep rows in different banks. */
#ifndef IFA_GPU_STEPS_MMA_CUH
#define IFA_GPU_STEPS_MMA_CUH

#include "gpu/parts/transpose.cuh"
#include "gpu/steps/tiled.cuh"

namespace steps {

constexpr int MMA_THREADS = ROWS / 16 * 32;

template <int D> struct Tile {
  int8_t k[TILE][D + 16];
  int8_t v[D][TILE + 16]; /* transposed; slot s of 32 has the key that key_of_slot says */
  float scale[TILE];
};

__device__ __forceinline__ int key_of_slot(int s) {
  return (s & ~15) + 8 * ((s & 3) >> 1) + 2 * ((s & 15) >> 2) + (s & 1);
}

/* All threads of the CTA. Rows of K and V begin at multiples of 16 bytes. */
template <int D>
__device__ __forceinline__ void load_tile(Tile<D> &tile, const ifa_gpu_params &a, const Row &row,
                                          int start) {
  const int thread = (int)threadIdx.x, keys = min(TILE, (int)a.p.nk - start);
  const int64_t k_stride = a.p.k_stride.token, v_stride = a.p.v_stride.token;
  const int8_t *k = row.k + start * k_stride, *v = row.v + start * v_stride;
  for (int i = thread; i < TILE * D / 16; i += MMA_THREADS) {
    const int key = i / (D / 16), d = i % (D / 16) * 16;
    *(uint4 *)&tile.k[key][d] =
        key < keys ? *(const uint4 *)(k + key * k_stride + d) : make_uint4(0, 0, 0, 0);
  }
  for (int i = thread; i < TILE / 4 * (D / 4); i += MMA_THREADS) { /* 4 keys by 4 channels */
    const int slot = i % (TILE / 4) * 4, d = i / (TILE / 4) * 4;
    uint32_t rows[4], columns[4];
    for (int j = 0; j < 4; j++) {
      const int key = key_of_slot(slot + j);
      rows[j] = key < keys ? *(const uint32_t *)(v + key * v_stride + d) : 0u;
    }
    transpose_bytes(rows, columns);
    for (int j = 0; j < 4; j++) *(uint32_t *)&tile.v[d + j][slot] = columns[j];
  }
  if (thread < TILE) tile.scale[thread] = thread < keys ? key_scale(a, row, start + thread) : 0.0f;
}

__device__ __forceinline__ uint32_t word(const int8_t *at) { return *(const uint32_t *)at; }

/* f of what the four lanes of a quad have. */
template <class T, class F> __device__ __forceinline__ T over_quad(T x, F f) {
  x = f(x, __shfl_xor_sync(~0u, x, 1));
  return f(x, __shfl_xor_sync(~0u, x, 2));
}

/* Sections 5 and 7 for the lane's two rows: units, and sums moved to them. All lanes of the warp.
 */
template <int D>
__device__ __forceinline__ void follow(int (&unit)[2], int (&l)[2], int (&acc)[D / 8][4],
                                       const float (&largest)[2], const float (&r)[2],
                                       const ifa_problem &p, int start) {
  int want[2], magnitude[2] = {0, 0};
  bool falls = false;
  for (int h = 0; h < 2; h++) {
    want[h] = largest[h] > -INFINITY ? ifa_tile_unit(largest[h], r[h]) : unit[h]; /* none is live */
    falls |= unit[h] != IFA_NO_UNIT && p.tau != IFA_TAU_INF && want[h] < unit[h] - p.tau;
  }
  if (__any_sync(~0u, falls)) /* only a fall asks how large the sums are */
    for (int h = 0; h < 2; h++) {
      magnitude[h] = l[h];
#pragma unroll
      for (int j = 0; j < D / 8; j++)
        magnitude[h] = max(magnitude[h], max(abs(acc[j][2 * h]), abs(acc[j][2 * h + 1])));
      magnitude[h] = over_quad(magnitude[h], [](int x, int y) { return max(x, y); });
    }
  for (int h = 0; h < 2; h++) {
    const int growth = IFA_MAX_PRODUCT * (int)(p.kv_split - start),
              next = ifa_next_unit(unit[h], want[h], p.tau, magnitude[h], growth),
              up = unit[h] == IFA_NO_UNIT ? 0 : next - unit[h];
    unit[h] = next;
    l[h] = shift(l[h], up);
#pragma unroll
    for (int j = 0; j < D / 8; j++)
      for (int i = 0; i < 2; i++) acc[j][2 * h + i] = shift(acc[j][2 * h + i], up);
  }
}

/* Section 6: four weights of a row make a word of P. Of each 32 keys words 0 and 1 have keys 2 t ..
 * of the first two groups of 8, rows g and g + 8; words 2 and 3 those of the other two. */
__device__ __forceinline__ void weigh(uint32_t (&weight)[TILE / 32][4], int (&sum)[2],
                                      const float (&u)[TILE / 8][4], const float (&r)[2],
                                      const int (&unit)[2]) {
#pragma unroll
  for (int x = 0; x < TILE / 8; x++) {
    const int h = x & 1, j = x >> 1 << 1;
    uint32_t n[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const float score = u[j + (i >> 1)][2 * h + (i & 1)];
      n[i] = score > -INFINITY ? (uint32_t)ifa_weight_index(score, r[h], unit[h]) : 0u;
    }
    uint32_t &p4 = weight[x >> 2][x & 3];
    p4 = __byte_perm(weights(n[0] | n[1] << 16), weights(n[2] | n[3] << 16), 0x6420);
    sum[h] = (int)__dp4a(p4, 0x01010101u, (uint32_t)sum[h]);
  }
}

template <int D>
__global__ void __launch_bounds__(MMA_THREADS)
    attend_mma(__grid_constant__ const ifa_gpu_params a) {
  __shared__ __align__(16) Tile<D> tile;
  const ifa_problem &p = a.p;
  const int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3, row0 = (int)(blockIdx.x * ROWS),
            warp_row = row0 + (int)(threadIdx.x >> 5) * 16;
  const Row row[2] = {row_at(a, warp_row + g), row_at(a, warp_row + g + 8)};

  int unit[2] = {IFA_NO_UNIT, IFA_NO_UNIT}, l[2] = {0, 0}, acc[D / 8][4] = {};
  uint32_t q[D / 32][4]; /* A operands: rows g, g + 8, bytes 4 t .. and 16 + 4 t .. of each 32 */
#pragma unroll
  for (int c = 0; c < D / 32; c++)
    for (int x = 0; x < 4; x++)
      q[c][x] = row[x & 1].i < p.nq ? word(row[x & 1].q + 32 * c + 16 * (x >> 1) + 4 * t) : 0u;

  const int last = min(row0 + ROWS, (int)p.nq) - 1, cta_end = live_end(p, last);
  for (int start = live_first(p, row0) / TILE * TILE; start < cta_end; start += TILE) {
    __syncthreads();
    load_tile(tile, a, row[0], start);
    __syncthreads();

    /* Section 4: S of 8 keys at a time, then u, -infinity for keys that are not live. */
    float u[TILE / 8][4], largest[2] = {-INFINITY, -INFINITY}, r[2];
#pragma unroll
    for (int j = 0; j < TILE / 8; j++) {
      int s[4] = {0, 0, 0, 0};
#pragma unroll
      for (int c = 0; c < D / 32; c++) {
        const int8_t *k = &tile.k[8 * j + g][32 * c + 4 * t];
        parts::mma_s8(s, q[c], word(k), word(k + 16));
      }
#pragma unroll
      for (int x = 0; x < 4; x++) {
        const int h = x >> 1, key = 8 * j + 2 * t + (x & 1);
        const bool live = start + key >= row[h].first && start + key < row[h].end;
        u[j][x] = live ? ifa_score(s[x], tile.scale[key]) : -INFINITY;
        largest[h] = fmaxf(largest[h], u[j][x]);
      }
    }
    for (int h = 0; h < 2; h++) {
      largest[h] = over_quad(largest[h], [](float x, float y) { return fmaxf(x, y); });
      r[h] = tile_factor(a, row[h], start);
    }
    follow<D>(unit, l, acc, largest, r, p, start);

    uint32_t weight[TILE / 32][4];
    int sum[2] = {0, 0};
    weigh(weight, sum, u, r, unit);

    /* Section 7. */
    for (int h = 0; h < 2; h++) l[h] += over_quad(sum[h], [](int x, int y) { return x + y; });
#pragma unroll
    for (int j = 0; j < D / 8; j++)
#pragma unroll
      for (int c = 0; c < TILE / 32; c++) {
        const int8_t *v = &tile.v[8 * j + g][32 * c + 4 * t];
        parts::mma_u8(acc[j], weight[c], word(v), word(v + 16));
      }
  }

#pragma unroll
  for (int j = 0; j < D / 8; j++)
    for (int x = 0; x < 4; x++)
      store_output(a, row[x >> 1], 8 * j + 2 * t + (x & 1), unit[x >> 1], l[x >> 1], acc[j][x]);
  if (t == 0)
    for (int h = 0; h < 2; h++) store_lse(a, row[h], unit[h], l[h]);
}

} // namespace steps

#endif
