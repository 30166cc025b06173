/* rows.cuh - what a warp does to a block of keys between the two products, in the order of
 * docs/numerics.md: scores, units, weights. What does not depend on the layout of fragments and
 * scales is in gpu/parts. */
#ifndef IFA_GPU_SM80_ROWS_CUH
#define IFA_GPU_SM80_ROWS_CUH

#include "gpu/parts/scores.cuh"
#include "gpu/parts/units.cuh"
#include "gpu/parts/values.cuh"
#include "gpu/parts/weights.cuh"
#include "gpu/sm80/shape.cuh"

namespace sm80 {

/* ---- section 4: scores ---- */

/* u (as gpu/params.h has it), and the largest of each row among this thread's as an integer, or 0
 * if it is negative: the patterns of other binary32 numbers sort like the numbers. scales: of this
 * thread's keys, those of two S tiles in 32 bytes. */
template <class S>
__device__ __forceinline__ void score(float (&u)[S::NT][4], const int (&s)[S::NT][4],
                                      int (&high)[2], uint32_t scales) {
  high[0] = high[1] = 0;
#pragma unroll
  for (int jj = 0; jj < S::NT / 2; jj++) {
    const float4 scale = load_shared4(scales + jj * 128),
                 zero = load_shared4(scales + jj * 128 + 16);
    const float k_scale[2][2] = {{scale.x, scale.y}, {scale.z, scale.w}},
                k_zero[2][2] = {{zero.x, zero.y}, {zero.z, zero.w}};
#pragma unroll
    for (int n = 0; n < 2; n++) {
      float(&x)[4] = u[2 * jj + n];
#pragma unroll
      for (int i = 0; i < 4; i++)
        x[i] = __fmaf_rn(__int_as_float(s[2 * jj + n][i]), k_scale[n][i & 1], k_zero[n][i & 1]);
#pragma unroll
      for (int h = 0; h < 2; h++)
        high[h] = max3(high[h], __float_as_int(x[2 * h]), __float_as_int(x[2 * h + 1]));
    }
  }
}

/* ---- sections 5 and 7: units ---- */

/* Is there in every quad a thread that says yes, for either row? Votes take less time than
 * exchanges. */
__device__ __forceinline__ bool in_every_quad(bool yes0, bool yes1) {
  uint32_t row0 = __ballot_sync(~0u, yes0), row1 = __ballot_sync(~0u, yes1);
  row0 |= row0 >> 1, row1 |= row1 >> 1;
  row0 |= row0 >> 2, row1 |= row1 >> 2;
  return (~(row0 & row1) & 0x11111111u) == 0;
}

/* From which score on a unit does not fall; above 0, so that a thread's negative scores, which
 * `score` gives as 0, do not count. */
__device__ __forceinline__ float lowest_score(float unit, float tau1) {
  return fmaxf(__fadd_rn(unit, -tau1), 0x1p-149f);
}

/* The same where no row falls. most: the pattern of each row's largest u, which is not negative. */
template <class S>
__device__ __forceinline__ void raise_units(Warp<S> &w, const int (&most)[2], const float (&r)[2]) {
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const float x = __fmul_rn(__int_as_float(most[h]), r[h]);
    const int sum = quad_sum(w.l[h]), up = max(__float2int_rd(x) + 1 - w.unit[h], 0);
    w.unit[h] += up;
    w.l[h] = (threadIdx.x & 3) == 0 ? sum >> min(up, 31) : 0;
    if (!S::TOKEN) raise_acc(w, h, up);
  }
}

/* ---- section 6: weights ---- */

/* P's A fragments: pa[kk][x] has S tiles 4kk + 2(x >> 1) and the next, row x & 1; and l, if it is
 * to COUNT. V per token: also y[kk][x], that is W, or, where all keys are live (WHOLE), y of
 * section 8 and its largest in this thread. */
template <class S, bool WHOLE, bool COUNT = true>
__device__ __forceinline__ void weigh(Warp<S> &w, uint32_t (&pa)[S::KC][4],
                                      uint32_t (&y)[S::KC][4][2], uint32_t (&highest)[2],
                                      const uint32_t (&n)[S::NT][2], uint32_t one,
                                      uint32_t v_scales) {
#pragma unroll
  for (int kk = 0; kk < S::KC; kk++)
#pragma unroll
    for (int x = 0; x < 4; x++) {
      const int h = x & 1, j = kk * 4 + (x >> 1) * 2;
      float2 v_scale = {0.0f, 0.0f};
      if (S::TOKEN && WHOLE) v_scale = load_shared2(v_scales + (kk * 2 + (x >> 1)) * 8);
      uint32_t p2[2];
#pragma unroll
      for (int i = 0; i < 2; i++) {
        const uint32_t g = weight_g(n[j + i][h], one);
        p2[i] = product_byte(n[j + i][h], g);
        if (S::TOKEN) y[kk][x][i] = mul_half2(n[j + i][h], g);
        if (S::TOKEN && WHOLE) {
          y[kk][x][i] = mul_half2(y[kk][x][i], __float_as_uint(i ? v_scale.y : v_scale.x));
          highest[h] = max_half2(highest[h], y[kk][x][i]);
        }
      }
      pa[kk][x] = __byte_perm(p2[0], p2[1], 0x6420);
      if (COUNT) w.l[h] = (int)__dp4a(pa[kk][x], 0x01010101u, (uint32_t)w.l[h]);
    }
}

/* ---- section 8: V per token ---- */

/* In a block that a mask cuts, or whose tile it cuts: from W in y to y, with the row's own b.
 * v_scale: of key 0; first_key: of the block. */
template <class S>
__device__ __forceinline__ void scale_live_values(uint32_t (&y)[S::KC][4][2],
                                                  const int (&exponent)[2], uint32_t (&highest)[2],
                                                  const ifa_problem &p, const float *v_scale,
                                                  int first_key, int64_t row) {
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const int first = live_first(p, row + 8 * h) - first_key,
              end = live_end(p, row + 8 * h) - first_key;
    const float factor = __int_as_float((127 - exponent[h]) << 23);
#pragma unroll
    for (int j = 0; j < S::NT; j++) {
      uint32_t &at = y[j >> 2][(j >> 1 & 1) * 2 + h][j & 1];
      at = mul_half2(at, live_value_scales(v_scale + first_key, first, min(end, S::KEYS),
                                           j * 8 + (threadIdx.x & 3) * 2, factor));
      highest[h] = max_half2(highest[h], at);
    }
  }
}

/* The quad's largest y of both rows: of row 0 in the low half, of row 1 in the high. */
__device__ __forceinline__ uint32_t quad_largest(const uint32_t (&highest)[2]) {
  uint32_t most = max_half2(__byte_perm(highest[0], highest[1], 0x5410),
                            __byte_perm(highest[0], highest[1], 0x7632));
  most = max_half2(most, __shfl_xor_sync(~0u, most, 1));
  return max_half2(most, __shfl_xor_sync(~0u, most, 2));
}

/* P. */
template <class S>
__device__ __forceinline__ void weigh_values(uint32_t (&pa)[S::KC][4],
                                             const uint32_t (&y)[S::KC][4][2],
                                             const uint32_t (&factor)[2]) {
#pragma unroll
  for (int kk = 0; kk < S::KC; kk++)
#pragma unroll
    for (int x = 0; x < 4; x++)
      pa[kk][x] = __byte_perm(product_byte(y[kk][x][0], factor[x & 1]),
                              product_byte(y[kk][x][1], factor[x & 1]), 0x6420);
}

} // namespace sm80

#endif
