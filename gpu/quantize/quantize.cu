/* quantize.cu - the quantizers on a GPU: docs/numerics.md, section 12; the same bits as
 * ref/quantize.c.
 *
 * A group's absmax is order-free and the mean an integer sum, so every order of threads gives the
 * same bits. Passes over src:
 *
 *   token                    quantize_rows: a row's absmax by shuffles, then its elements from
 *                            registers
 *   tensor, block            row_absmax (atomicMax of absmax bits), quantize_rows
 *   channel, token_channel   channel_absmax (likewise), quantize_rows
 *   subtract_mean            before these: row_absmax of whole matrices, channel_sums (64-bit
 *                            atomicAdd), channel_means (no pass)
 *
 * Threads to data. A lane holds UNIT = 8 consecutive elements of a row; a team of `lanes` adjacent
 * lanes (a power of two up to 32) the row; a warp 32 / lanes rows. A lane loads ROWS rows before it
 * uses one. A block of 8 warps takes one item at a time: a chunk of consecutive rows of one (batch,
 * head) matrix. A lane meets the same 8 channels in all rows. Loads are of 16 bytes and stores of 8
 * (INT8) or 4 (INT4) where head_dim is a multiple of 8 and pointers and strides are aligned; else
 * by element.
 *
 * The integers go to rows by the caller's strides, or (gpu/packed.h) to the attention kernel's
 * blocks: K's rows swizzled, V transposed, where a lane takes such rows that its 4 bytes of a
 * channel lie together: 0, 1, 8 and 9 from one on (packed_key in gpu/parts/pack.cuh).
 *
 * Bytes moved: tokens * head_dim * (source bytes * passes + 1 or 1/2) a matrix, and the scales. The
 * last of several passes takes the items in reverse, so that it starts with what the second-level
 * cache still has.
 * */
#include "ifa_cuda.h"

#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <inttypes.h>
#include <type_traits>

#include "common/exact.h"
#include "common/operand.h"
extern "C" {
#include "common/inputs.h"
#include "common/problem.h"
}
#include "gpu/device_pointer.h"
#include "gpu/packed.h"
#include "gpu/params.h"
#include "gpu/parts/transpose.cuh"

#define TINY 0x1p-93f /* as in ref/quantize.c: a group with a smaller absmax is a zero group */
#define WARPS 8
#define THREADS 256 /* at least IFA_MAX_HEAD_DIM: thread d finishes channel d */
#define UNIT 8      /* elements of a row in a lane */
#define MAX_PASSES                                                                               \
  8 /* of a block over a chunk: with ROWS <= 4, a lane sums at most 32 integers below or at 2^24 \
       in an int32 */
#define ENOUGH 2048 /* items that fill a GPU a few times over; chunks grow only beyond that */
#define ALL_LANES 0xffffffffu

static_assert(THREADS == WARPS * 32 && THREADS >= IFA_MAX_HEAD_DIM && 32 * UNIT >= IFA_MAX_HEAD_DIM,
              "thread map");

/* What every kernel is told. */
typedef struct work {
  const void *src;
  uint8_t *dst;
  ifa_strides src_stride, dst_stride;
  int64_t heads, matrices, chunks, items; /* chunks of a matrix; items = matrices * chunks */
  int32_t tokens, head_dim, chunk_rows, pass_rows, lanes;
  int32_t group_rows, groups; /* rows that share a scale, such groups a matrix; not for channels */
  int32_t src_vector, dst_vector;
  int32_t rows;          /* tokens, or those of whole blocks */
  ifa_gpu_blocks blocks; /* for K_BLOCKS and V_BLOCKS */
  int32_t block_shift;   /* of a row's number to its block's: log2 of a block's keys */
  ifa_type dst_type;
  ifa_granularity granularity;
  float *scale, *channel_scale, *mean; /* outputs */
  /* workspace: [matrices] float bits, of the source before its mean is subtracted */
  uint32_t *matrix_absmax;
  unsigned long long *sums; /* [matrices][head_dim] int64 */
  /* [matrices][groups], or [matrices][head_dim] of channels: float bits */
  uint32_t *absmax;
  float *means; /* [matrices][head_dim]; NULL: nothing to subtract */
} work;

/* ---- device: elements ---- */

/* Where a thread is: its item's matrix and rows first .. end - 1, its team's place in a pass, its
 * elements of a row. */
typedef struct place {
  int64_t matrix, src, dst; /* src, dst: element offsets of (matrix, token 0, the lane's unit) */
  /* rows from end to last - 1 are padding; row: of the first pass; step: rows between a lane's
   * loads */
  int32_t first, end, last, row, step, lane, warp, unit, count;
} place;

static __device__ __forceinline__ place place_of(const work &w, int64_t item) {
  place at;
  at.matrix = item / w.chunks;
  at.first = (int32_t)(item % w.chunks) * w.chunk_rows;
  at.end = min(at.first + w.chunk_rows, w.tokens);
  at.last = min(at.first + w.chunk_rows, w.rows);
  at.lane = (int32_t)(threadIdx.x & 31);
  at.warp = (int32_t)(threadIdx.x >> 5);
  int32_t teams = 32 / w.lanes;
  at.unit = at.lane & (w.lanes - 1);
  at.row = at.warp * teams + at.lane / w.lanes;
  at.step = WARPS * teams;
  at.count = max(0, min(UNIT, w.head_dim - at.unit * UNIT));
  at.src = ifa_offset(w.src_stride, at.matrix / w.heads, at.matrix % w.heads, 0) + at.unit * UNIT;
  at.dst = ifa_offset(w.dst_stride, at.matrix / w.heads, at.matrix % w.heads, 0) + at.unit * UNIT;
  return at;
}

/* A unit as it lies in memory. ROWS: units that a lane loads at a time, 64 bytes for every type. */
template <ifa_type TYPE> struct unit { uint32_t word[TYPE == IFA_F32 ? 8 : 4]; };
template <ifa_type TYPE> struct flight { static constexpr int ROWS = TYPE == IFA_F32 ? 2 : 4; };

/* The lane's unit of a row; what lies beyond the row or the chunk is 0. */
template <ifa_type TYPE>
static __device__ __forceinline__ unit<TYPE> load_unit(const work &w, const place &at,
                                                       int32_t row) {
  unit<TYPE> u = {};
  if (row >= at.end || at.count == 0) return u;
  int64_t element = at.src + (int64_t)row * w.src_stride.token;
  if (w.src_vector) {
    const uint4 *from =
        (const uint4 *)((const uint8_t *)w.src + element * (TYPE == IFA_F32 ? 4 : 2));
#pragma unroll
    for (int i = 0; i < (TYPE == IFA_F32 ? 2 : 1); i++) {
      uint4 four = from[i];
      u.word[4 * i] = four.x;
      u.word[4 * i + 1] = four.y;
      u.word[4 * i + 2] = four.z;
      u.word[4 * i + 3] = four.w;
    }
    return u;
  }
#pragma unroll
  for (int j = 0; j < UNIT; j++) {
    if (j >= at.count) continue;
    if constexpr (TYPE == IFA_F32) u.word[j] = ((const uint32_t *)w.src)[element + j];
    else u.word[j / 2] |= (uint32_t)((const uint16_t *)w.src)[element + j] << (j % 2 * 16);
  }
  return u;
}

template <ifa_type TYPE>
static __device__ __forceinline__ float widened(const unit<TYPE> &u, int j) {
  if constexpr (TYPE == IFA_F32) return ifa_f32_of_bits(u.word[j]);
  else {
    uint16_t half = (uint16_t)(u.word[j / 2] >> (j % 2 * 16));
    return TYPE == IFA_F16 ? __half2float(__ushort_as_half(half)) : ifa_bf16_to_f32(half);
  }
}

/* The lane's units of its ROWS rows from `row` on: all loads before any use. */
template <ifa_type TYPE>
static __device__ __forceinline__ void load_rows(const work &w, const place &at, int32_t row,
                                                 unit<TYPE> *u) {
#pragma unroll
  for (int k = 0; k < flight<TYPE>::ROWS; k++) u[k] = load_unit<TYPE>(w, at, row + k * at.step);
}

/* x = the elements of a unit, less the mean if there is one. */
template <ifa_type TYPE>
static __device__ __forceinline__ void open_unit(const unit<TYPE> &u, bool has_mean,
                                                 const float *mean, float *x) {
#pragma unroll
  for (int j = 0; j < UNIT; j++) x[j] = widened<TYPE>(u, j);
  if (!has_mean) return;
#pragma unroll
  for (int j = 0; j < UNIT; j++) x[j] = ifa_add(x[j], -mean[j]);
}

/* The lane's channels of an array of one float a channel; 0 beyond head_dim. */
static __device__ __forceinline__ void load_channels(const float *channels, const place &at,
                                                     float *value) {
#pragma unroll
  for (int j = 0; j < UNIT; j++) value[j] = j < at.count ? channels[at.unit * UNIT + j] : 0.0f;
}

static __device__ __forceinline__ void load_means(const work &w, const place &at, bool has_mean,
                                                  float *mean) {
#pragma unroll
  for (int j = 0; j < UNIT; j++) mean[j] = 0.0f;
  if (has_mean) load_channels(w.means + at.matrix * w.head_dim, at, mean);
}

static __device__ __forceinline__ float unit_absmax(const float *x) {
  float largest = 0.0f;
#pragma unroll
  for (int j = 0; j < UNIT; j++) largest = fmaxf(largest, fabsf(x[j]));
  return largest;
}

/* The largest over lanes that differ in the bits from .. to - 1 of their number (powers of two). */
static __device__ __forceinline__ float lanes_absmax(float largest, int from, int to) {
  for (int bit = from; bit < to; bit *= 2)
    largest = fmaxf(largest, __shfl_xor_sync(ALL_LANES, largest, bit));
  return largest;
}

/* ---- device: reductions ---- */

static __device__ __forceinline__ void raise(uint32_t *absmax, float largest) {
  /* non-negative floats order like their bits */
  if (largest > 0.0f) atomicMax(absmax, ifa_bits_of_f32(largest));
}

/* absmax[matrix][row / group_rows] for every group of rows; absmax is zero before. */
template <ifa_type TYPE>
static __global__ void __launch_bounds__(THREADS) row_absmax(const __grid_constant__ work w) {
  for (int64_t item = blockIdx.x; item < w.items; item += gridDim.x) {
    place at = place_of(w, item);
    uint32_t *absmax = w.absmax + at.matrix * w.groups;
    unit<TYPE> u[flight<TYPE>::ROWS];
    float mean[UNIT], x[UNIT], largest = 0.0f; /* of the rows of `group` so far */
    int32_t group = 0;
    load_means(w, at, w.means != NULL, mean);
    for (int32_t first = at.first; first < at.end; first += w.pass_rows) {
      load_rows<TYPE>(w, at, first + at.row, u);
#pragma unroll
      for (int k = 0; k < flight<TYPE>::ROWS; k++) {
        open_unit<TYPE>(u[k], w.means != NULL, mean, x);
        float row_largest = lanes_absmax(unit_absmax(x), 1, w.lanes);
        int32_t row = first + at.row + k * at.step, row_group = row / w.group_rows;
        if (row >= at.end) continue;
        if (row_group != group && at.unit == 0) raise(absmax + group, largest);
        largest = row_group == group ? fmaxf(largest, row_largest) : row_largest;
        group = row_group;
      }
    }
    if (w.groups == 1) largest = lanes_absmax(largest, w.lanes, 32); /* one atomic a warp */
    if (w.groups == 1 ? at.lane == 0 : at.unit == 0) raise(absmax + group, largest);
  }
}

/* Where channel d = 8 unit + j of a warp lies in shared memory: lanes of one team write without
 * bank conflicts. */
static __device__ __forceinline__ int slot(int unit, int j) { return j * 32 + unit; }

/* absmax[matrix][channel]; absmax is zero before. */
template <ifa_type TYPE>
static __global__ void __launch_bounds__(THREADS) channel_absmax(const __grid_constant__ work w) {
  __shared__ float part[WARPS][32 * UNIT];
  for (int64_t item = blockIdx.x; item < w.items; item += gridDim.x) {
    place at = place_of(w, item);
    unit<TYPE> u[flight<TYPE>::ROWS];
    float mean[UNIT], x[UNIT], largest[UNIT] = {};
    load_means(w, at, w.means != NULL, mean);
    for (int32_t first = at.first; first < at.end; first += w.pass_rows) {
      load_rows<TYPE>(w, at, first + at.row, u);
#pragma unroll
      for (int k = 0; k < flight<TYPE>::ROWS; k++) {
        /* not a row: 0 - mean must not count */
        if (first + at.row + k * at.step >= at.end) continue;
        open_unit<TYPE>(u[k], w.means != NULL, mean, x);
#pragma unroll
        for (int j = 0; j < UNIT; j++) largest[j] = fmaxf(largest[j], fabsf(x[j]));
      }
    }
#pragma unroll
    for (int j = 0; j < UNIT; j++) {
      largest[j] = lanes_absmax(largest[j], w.lanes, 32);
      if (at.lane < w.lanes) part[at.warp][slot(at.unit, j)] = largest[j];
    }
    __syncthreads();
    int d = (int)threadIdx.x;
    if (d < w.head_dim) {
      float all = 0.0f;
      for (int warp = 0; warp < WARPS; warp++)
        all = fmaxf(all, part[warp][slot(d / UNIT, d % UNIT)]);
      raise(w.absmax + at.matrix * w.head_dim + d, all);
    }
    __syncthreads(); /* before the next item writes part */
  }
}

/* e with 2^(e-1) <= absmax < 2^e, for absmax >= 2^-93. */
static __device__ __forceinline__ int exponent_above(uint32_t absmax_bits) {
  return (int)(absmax_bits >> 23) - 126;
}

/* sums[matrix][channel] = sum of rne(x * 2^(24-e)); sums are zero before. The factor is a normal
 * binary32 (2^-76 .. 2^116, e is -92 .. 100), the product exact or below 2^-126, where it rounds to
 * 0 all the same. */
template <ifa_type TYPE>
static __global__ void __launch_bounds__(THREADS) channel_sums(const __grid_constant__ work w) {
  static_assert(MAX_PASSES * flight<TYPE>::ROWS <= 64, "int32 sums of a lane");
  __shared__ long long part[WARPS][32 * UNIT];
  for (int64_t item = blockIdx.x; item < w.items; item += gridDim.x) {
    place at = place_of(w, item);
    uint32_t bits = w.matrix_absmax[at.matrix];
    float factor = ifa_f32_of_bits(bits) < TINY
                       ? 0.0f
                       : ifa_f32_of_bits((uint32_t)(127 + 24 - exponent_above(bits)) << 23);
    unit<TYPE> u[flight<TYPE>::ROWS];
    int32_t sum[UNIT] = {};
    for (int32_t first = at.first; first < at.end; first += w.pass_rows) {
      load_rows<TYPE>(w, at, first + at.row, u); /* what is not a row is 0 */
#pragma unroll
      for (int k = 0; k < flight<TYPE>::ROWS; k++)
#pragma unroll
        for (int j = 0; j < UNIT; j++)
          sum[j] += __float2int_rn(ifa_mul(widened<TYPE>(u[k], j), factor));
    }
#pragma unroll
    for (int j = 0; j < UNIT; j++) {
      long long all = sum[j];
      for (int bit = w.lanes; bit < 32; bit *= 2) all += __shfl_xor_sync(ALL_LANES, all, bit);
      if (at.lane < w.lanes) part[at.warp][slot(at.unit, j)] = all;
    }
    __syncthreads();
    int d = (int)threadIdx.x;
    if (d < w.head_dim) {
      long long all = 0;
      for (int warp = 0; warp < WARPS; warp++) all += part[warp][slot(d / UNIT, d % UNIT)];
      atomicAdd(w.sums + at.matrix * w.head_dim + d, (unsigned long long)all);
    }
    __syncthreads();
  }
}

/* A thread a channel: means, and the caller's if wanted. */
static __global__ void __launch_bounds__(THREADS) channel_means(const __grid_constant__ work w) {
  int64_t channels = w.matrices * w.head_dim;
  for (int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x; i < channels;
       i += (int64_t)gridDim.x * THREADS) {
    uint32_t bits = w.matrix_absmax[i / w.head_dim];
    float mean = 0.0f;
    if (!(ifa_f32_of_bits(bits) < TINY)) {
      double quotient = __ddiv_rn((double)(long long)w.sums[i], (double)w.tokens);
      double power = __longlong_as_double((long long)(1023 + exponent_above(bits) - 24) << 52);
      mean = __double2float_rn(__dmul_rn(quotient, power)); /* the product is exact: one rounding */
    }
    w.means[i] = mean;
    if (w.mean) w.mean[i] = mean;
  }
}

/* ---- device: the grid ---- */

/* As ref/quantize.c's group_scale: the scale, and the factor that takes an element to the grid. */
static __device__ __forceinline__ float group_scale(float absmax, float q_max, float *inverse) {
  bool zero = absmax < TINY;
  *inverse = zero ? 0.0f : ifa_div(q_max, absmax);
  return zero ? 0.0f : ifa_div(absmax, q_max);
}

/* factor = the inverses of the lane's channels; a thread a channel divides. A matrix's first chunk
 * writes the scales. */
static __device__ __forceinline__ void channel_factors(const work &w, const place &at, float q_max,
                                                       float *shared, float *factor) {
  int d = (int)threadIdx.x;
  float *scales = w.granularity == IFA_SCALE_CHANNEL ? w.scale : w.channel_scale;
  __syncthreads(); /* the item before has been read */
  if (d < w.head_dim) {
    int64_t channel = at.matrix * w.head_dim + d;
    float scale = group_scale(ifa_f32_of_bits(w.absmax[channel]),
                              w.granularity == IFA_SCALE_CHANNEL ? q_max : 1.0f, shared + d);
    if (at.first == 0) scales[channel] = scale;
  }
  __syncthreads();
  load_channels(shared, at, factor);
}

/* x *= the row's inverse; the row's absmax is its own (token) or its group's, and the group's first
 * row writes the scale. */
static __device__ __forceinline__ void to_row_grid(const work &w, const place &at, int32_t row,
                                                   float q_max, float *x) {
  float absmax = 0.0f, inverse;
  int32_t group = row / w.group_rows;
  if (w.group_rows == 1) absmax = lanes_absmax(unit_absmax(x), 1, w.lanes);
  else if (row < at.end) absmax = ifa_f32_of_bits(w.absmax[at.matrix * w.groups + group]);
  float scale = group_scale(absmax, q_max, &inverse);
  if (row < at.end && at.unit == 0 && row == group * w.group_rows)
    w.scale[at.matrix * w.groups + group] = scale;
#pragma unroll
  for (int j = 0; j < UNIT; j++) x[j] = ifa_mul(x[j], inverse);
}

static __device__ __forceinline__ uint32_t four_bytes(const int32_t *q) {
  uint32_t low = __byte_perm((uint32_t)q[0], (uint32_t)q[1], 0x0040),
           high = __byte_perm((uint32_t)q[2], (uint32_t)q[3], 0x0040);
  return __byte_perm(low, high, 0x5410);
}

static __device__ __forceinline__ void store_int8(const work &w, const place &at, int64_t element,
                                                  const int32_t *q) {
  if (w.dst_vector) {
    *(uint2 *)(w.dst + element) = make_uint2(four_bytes(q), four_bytes(q + 4));
    return;
  }
#pragma unroll
  for (int j = 0; j < UNIT; j++)
    if (j < at.count) w.dst[element + j] = (uint8_t)q[j];
}

/* Elements beyond an odd row are 0, so its last high nibble is. Rows begin at whole bytes: no byte
 * has two writers. */
static __device__ __forceinline__ void store_int4(const work &w, const place &at, int64_t element,
                                                  const int32_t *q) {
  uint32_t word = 0;
#pragma unroll
  for (int j = 0; j < UNIT; j++) word |= (uint32_t)(q[j] & 15) << (4 * j);
  if (w.dst_vector) {
    *(uint32_t *)(w.dst + element / 2) = word;
    return;
  }
#pragma unroll
  for (int i = 0; i < UNIT / 2; i++)
    if (2 * i < at.count) w.dst[element / 2 + i] = (uint8_t)(word >> (8 * i));
}

/* q = clamp(rne(x)): x is already times the inverse. __float2int_rn is rintf and the conversion in
 * one. */
static __device__ __forceinline__ void to_integers(int32_t *q, const float *x, int32_t q_max) {
#pragma unroll
  for (int j = 0; j < UNIT; j++) q[j] = max(-q_max, min(q_max, __float2int_rn(x[j])));
}

static __device__ __forceinline__ void store_row(const work &w, const place &at, int32_t row,
                                                 const float *x) {
  if (row >= at.end || at.count == 0) return;
  int64_t element = at.dst + (int64_t)row * w.dst_stride.token;
  int32_t q[UNIT];
  to_integers(q, x, w.dst_type == IFA_I4 ? 7 : 127);
  if (w.dst_type == IFA_I4) store_int4(w, at, element, q);
  else store_int8(w, at, element, q);
}

/* One byte each; 0 in rows that are padding. */
static __device__ __forceinline__ uint2 row_bytes(const work &w, const place &at, int32_t row,
                                                  const float *x) {
  int32_t q[UNIT];
  to_integers(q, x, row >= at.end ? 0 : w.dst_type == IFA_I4 ? 7 : 127);
  return make_uint2(four_bytes(q), four_bytes(q + 4));
}

static __device__ __forceinline__ uint8_t *block_of(const work &w, const place &at, int32_t row) {
  return w.blocks.at + (at.matrix * w.blocks.count + (row >> w.block_shift)) * w.blocks.bytes;
}

static __device__ __forceinline__ void store_k(const work &w, const place &at, int32_t row,
                                               const float *x) {
  if (row >= at.last || at.unit * UNIT >= w.blocks.dim) return;
  const int32_t token = row & (w.blocks.keys - 1),
                chunk = (at.unit / 2) ^ IFA_GPU_SWIZZLE(w.blocks.dim, token);
  *(uint2 *)(block_of(w, at, row) + token * w.blocks.dim + chunk * 16 + at.unit % 2 * UNIT) =
      row_bytes(w, at, row, x);
}

/* A pass over V, transposed in shared memory: 4 bytes of a channel (a lane's 4 rows) beside each
 * other as in a block, channels 8 unit + j in the order (j, unit), so that neither way has many
 * bank conflicts. */
typedef struct transposed {
  uint32_t word[UNIT * (WARPS * 32 + 32)];
} transposed;

static __device__ __forceinline__ uint32_t *transposed_at(const work &w, transposed *t,
                                                          int32_t unit, int32_t j) {
  return t->word + (j * w.lanes + unit) * (WARPS * 32 / w.lanes + 1);
}

/* bytes[k]: the lane's row k. All threads call; the pass begins at row `first`. */
static __device__ __forceinline__ void store_v(const work &w, const place &at, int32_t first,
                                               const uint2 *bytes, transposed *t) {
#pragma unroll
  for (int half = 0; half < 2; half++) {
    uint32_t row[4], word[4];
#pragma unroll
    for (int k = 0; k < 4; k++) row[k] = half ? bytes[k].y : bytes[k].x;
    transpose_bytes(row, word);
#pragma unroll
    for (int j = 0; j < 4; j++) transposed_at(w, t, at.unit, half * 4 + j)[at.row] = word[j];
  }
  __syncthreads();
  /* of 16 rows, of a channel in this pass */
  const int32_t keys = w.blocks.keys, chunks = WARPS * 8 / w.lanes;
  for (int32_t i = (int32_t)threadIdx.x; i < w.blocks.dim * chunks; i += THREADS) {
    const int32_t d = i / chunks, row = first + i % chunks * 16;
    const uint32_t *from = transposed_at(w, t, d / UNIT, d % UNIT) + i % chunks * 4;
    if (row < at.last)
      *(uint4 *)(block_of(w, at, row) + IFA_GPU_AT_V(w.blocks.dim, keys) + d * keys +
                 ((row & (keys - 1)) / 16 ^ IFA_GPU_SWIZZLE(keys, d)) * 16) =
          make_uint4(from[0], from[1], from[2], from[3]);
  }
  __syncthreads();
}

/* The last pass. MEAN: is there one to subtract? Without it three blocks fit a multiprocessor. */
template <ifa_type TYPE, bool MEAN, ifa_gpu_destination TO>
static __global__ void __launch_bounds__(THREADS, MEAN ? 2 : 3)
    quantize_rows(const __grid_constant__ work w) {
  constexpr bool V = TO == IFA_GPU_V_BLOCKS;
  static_assert(!V || flight<TYPE>::ROWS == 4, "V: 4 rows at a time");
  __shared__ float shared[THREADS];
  __shared__ std::conditional_t<V, transposed, uint32_t> t;
  float q_max = w.dst_type == IFA_I4 ? 7.0f : 127.0f;
  bool channels = w.granularity == IFA_SCALE_CHANNEL || w.granularity == IFA_SCALE_TOKEN_CHANNEL;
  for (int64_t item = blockIdx.x; item < w.items; item += gridDim.x) {
    place at = place_of(w, w.items - 1 - item);
    unit<TYPE> u[flight<TYPE>::ROWS];
    float mean[UNIT], factor[UNIT], x[UNIT];
    load_means(w, at, MEAN, mean);
    if (channels) channel_factors(w, at, q_max, shared, factor);
    for (int32_t first = at.first; first < at.last; first += w.pass_rows) {
      const int32_t lane_row = V ? first + at.row / 4 * 16 + at.row % 4 * 2 : first + at.row;
      auto row_of = [&](int k) { return lane_row + (V ? k % 2 + k / 2 * 8 : k * at.step); };
      uint2 bytes[flight<TYPE>::ROWS];
#pragma unroll
      /* all loads before any use */
      for (int k = 0; k < flight<TYPE>::ROWS; k++) u[k] = load_unit<TYPE>(w, at, row_of(k));
#pragma unroll
      for (int k = 0; k < flight<TYPE>::ROWS; k++) {
        int32_t row = row_of(k);
        open_unit<TYPE>(u[k], MEAN, mean, x);
        if (channels) {
#pragma unroll
          for (int j = 0; j < UNIT; j++) x[j] = ifa_mul(x[j], factor[j]);
        }
        if (w.granularity != IFA_SCALE_CHANNEL) to_row_grid(w, at, row, q_max, x);
        if (TO == IFA_GPU_ROWS) store_row(w, at, row, x);
        if (TO == IFA_GPU_K_BLOCKS) store_k(w, at, row, x);
        if (V) bytes[k] = row_bytes(w, at, row, x);
      }
      if constexpr (V) store_v(w, at, first, bytes, &t);
    }
  }
}

/* ---- host: checks ---- */

static ifa_status cuda_failed(cudaError_t error, const char *doing, ifa_message *message) {
  (void)cudaGetLastError(); /* reported here: not left for the caller's next check */
  ifa_status status = error == cudaErrorMemoryAllocation ? IFA_OUT_OF_MEMORY
                      : error == cudaErrorInvalidResourceHandle || error == cudaErrorInvalidValue
                          ? IFA_BAD_ARGUMENT
                          : IFA_NOT_AVAILABLE;
  return ifa_fail(message, status, "CUDA error while %s: %s (%s)", doing, cudaGetErrorString(error),
                  cudaGetErrorName(error));
}

static ifa_status check_range(const char *name, int64_t value, int64_t low, int64_t high,
                              ifa_message *message) {
  if (value >= low && value <= high) return IFA_OK;
  return ifa_fail(message, IFA_BAD_ARGUMENT,
                  "%s is %" PRId64 "; it must be %" PRId64 " .. %" PRId64, name, value, low, high);
}

static ifa_status check_tensors(const ifa_quantize_args *a, ifa_message *message) {
  int64_t b = a->batch, h = a->heads, t = a->tokens, d = a->head_dim;
  if (ifa_check_strides("src_stride", a->src_type, a->src_stride, b, h, t, d, 0, message) ==
          IFA_OK &&
      ifa_check_strides("dst_stride", a->dst_type, a->dst_stride, b, h, t, d, 1, message) == IFA_OK)
    return IFA_OK;
  return IFA_BAD_ARGUMENT; /* here the strides are not a problem's */
}

/* Everything but the pointers: ranges and messages of ref/quantize.c. */
static ifa_status check_shape(const ifa_quantize_args *a, ifa_message *message) {
  if (!a) return ifa_fail(message, IFA_BAD_ARGUMENT, "args is NULL");
  const struct {
    const char *name;
    int64_t value, low, high;
  } fields[] = {{"batch", a->batch, 0, 65535},
                {"heads", a->heads, 0, 65535},
                {"tokens", a->tokens, 0, IFA_MAX_TOKENS},
                {"head_dim", a->head_dim, 1, IFA_MAX_HEAD_DIM},
                {"subtract_mean", a->subtract_mean, 0, 1},
                {"block", a->granularity == IFA_SCALE_BLOCK ? a->block : 1, 1, IFA_MAX_TOKENS}};
  for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
    ifa_status status =
        check_range(fields[i].name, fields[i].value, fields[i].low, fields[i].high, message);
    if (status != IFA_OK) return status;
  }
  ifa_status status = ifa_check_type("src_type", a->src_type, IFA_F32, IFA_BF16, message);
  if (status == IFA_OK) status = ifa_check_type("dst_type", a->dst_type, IFA_I8, IFA_I4, message);
  if (status == IFA_OK) status = ifa_check_granularity("granularity", a->granularity, message);
  if (status != IFA_OK) return status;
  return check_tensors(a, message);
}

/* For at least one matrix. */
static ifa_status check_pointers(const ifa_quantize_args *a, bool needs_dst, ifa_message *message) {
  ifa_status status;
  if (a->tokens && (status = ifa_gpu_check_pointer("src", a->src, ifa_type_bytes(a->src_type),
                                                   message)) != IFA_OK)
    return status;
  if (needs_dst && a->tokens &&
      (status = ifa_gpu_check_pointer("dst", a->dst, 1, message)) != IFA_OK)
    return status;
  if (ifa_scale_count(a->granularity, 1, 1, a->tokens, a->head_dim, a->block) &&
      (status = ifa_gpu_check_pointer("scale", a->scale, sizeof *a->scale, message)) != IFA_OK)
    return status;
  if (a->granularity == IFA_SCALE_TOKEN_CHANNEL &&
      (status = ifa_gpu_check_pointer("channel_scale", a->channel_scale, sizeof *a->channel_scale,
                                      message)) != IFA_OK)
    return status;
  if (a->subtract_mean && a->mean)
    return ifa_gpu_check_pointer("mean", a->mean, sizeof *a->mean, message);
  return IFA_OK;
}

static ifa_status check_workspace(const void *workspace, size_t bytes, size_t needed,
                                  ifa_message *message) {
  if (needed == 0) return IFA_OK;
  if (bytes < needed)
    return ifa_fail(message, IFA_BAD_ARGUMENT, "workspace_bytes is %zu; %zu are needed", bytes,
                    needed);
  return ifa_gpu_check_pointer("workspace", workspace, 256, message);
}

/* ---- host: the plan ---- */

/* Workspace, in bytes from its start: matrix_absmax, sums and absmax (these begin as 0), then
 * means. */
typedef struct layout {
  size_t sums, absmax, means, end;
} layout;

static size_t aligned(int64_t bytes) { return ((size_t)bytes + 255) / 256 * 256; }

/* Entries of absmax a matrix; tokens have none, their absmax stays in a warp. */
static int64_t absmax_count(const ifa_quantize_args *a) {
  if (a->granularity == IFA_SCALE_TOKEN) return 0;
  if (a->granularity == IFA_SCALE_TOKEN_CHANNEL) return a->head_dim;
  return ifa_scale_count(a->granularity, 1, 1, a->tokens, a->head_dim, a->block);
}

static layout layout_of(const ifa_quantize_args *a) {
  int64_t matrices = a->tokens ? a->batch * a->heads : 0,
          channels = a->subtract_mean ? matrices * a->head_dim : 0;
  layout l;
  l.sums = aligned(a->subtract_mean ? matrices * 4 : 0);
  l.absmax = l.sums + aligned(channels * 8);
  l.means = l.absmax + aligned(matrices * absmax_count(a) * 4);
  l.end = l.means + aligned(channels * 4);
  return l;
}

static int strides_are_zero(ifa_strides s) { return s.batch == 0 && s.head == 0 && s.token == 0; }

/* Do all rows begin at a multiple of `bytes`, that is, of `elements`? */
static int32_t rows_aligned(const void *data, ifa_strides s, int64_t bytes, int64_t elements) {
  return (uintptr_t)data % (uintptr_t)bytes == 0 && s.batch % elements == 0 &&
         s.head % elements == 0 && s.token % elements == 0;
}

/* Rows of a pass and of a chunk: chunks grow while enough items are left. */
static void cut(work *w, int32_t rows_in_flight) {
  w->lanes = 1;
  while (w->lanes * UNIT < (w->blocks.at ? w->blocks.dim : w->head_dim)) w->lanes *= 2;
  w->pass_rows = 32 / w->lanes * WARPS * rows_in_flight;
  w->chunk_rows = w->pass_rows;
  while (w->chunk_rows < w->pass_rows * MAX_PASSES &&
         w->matrices * ifa_ceil_div(w->rows, 2 * w->chunk_rows) >= ENOUGH)
    w->chunk_rows *= 2;
  w->chunks = ifa_ceil_div(w->rows, w->chunk_rows);
  w->items = w->matrices * w->chunks;
}

static work plan(const ifa_quantize_args *a, ifa_gpu_blocks blocks, uint8_t *workspace) {
  layout l = layout_of(a);
  /* then a unit is loaded and stored whole */
  bool int4 = a->dst_type == IFA_I4, whole_units = a->head_dim % UNIT == 0;
  work w = {};
  w.src = a->src;
  w.dst = (uint8_t *)a->dst;
  w.src_stride = a->src_stride;
  w.dst_stride = a->dst_stride;
  if (strides_are_zero(w.src_stride))
    w.src_stride = ifa_strides_bhnd(a->src_type, a->heads, a->tokens, a->head_dim);
  if (strides_are_zero(w.dst_stride))
    w.dst_stride = ifa_strides_bhnd(a->dst_type, a->heads, a->tokens, a->head_dim);
  w.heads = a->heads, w.matrices = a->batch * a->heads;
  w.tokens = (int32_t)a->tokens, w.head_dim = (int32_t)a->head_dim;
  w.blocks = blocks;
  for (w.block_shift = 0; (1 << w.block_shift) < blocks.keys; w.block_shift++) {}
  w.rows = blocks.at ? blocks.count * blocks.keys : w.tokens;
  w.dst_type = a->dst_type, w.granularity = a->granularity;
  w.scale = a->scale;
  w.channel_scale = a->channel_scale;
  w.mean = a->mean;
  w.src_vector = whole_units &&
                 rows_aligned(a->src, w.src_stride, 16, 16 / (int64_t)ifa_type_bytes(a->src_type));
  w.dst_vector = whole_units && rows_aligned(a->dst, w.dst_stride, int4 ? UNIT / 2 : UNIT, UNIT);
  w.group_rows = a->granularity == IFA_SCALE_TENSOR  ? w.tokens
                 : a->granularity == IFA_SCALE_BLOCK ? a->block
                                                     : 1;
  w.groups = (int32_t)ifa_ceil_div(w.tokens, w.group_rows);
  w.matrix_absmax = (uint32_t *)workspace, w.sums = (unsigned long long *)(workspace + l.sums);
  w.absmax = (uint32_t *)(workspace + l.absmax),
  w.means = a->subtract_mean ? (float *)(workspace + l.means) : NULL;
  cut(&w, a->src_type == IFA_F32 ? flight<IFA_F32>::ROWS : flight<IFA_F16>::ROWS);
  return w;
}

/* ---- host: launching ---- */

typedef void (*kernel)(work);
static const kernel row_absmax_of[] = {row_absmax<IFA_F32>, row_absmax<IFA_F16>,
                                       row_absmax<IFA_BF16>};
static const kernel channel_absmax_of[] = {channel_absmax<IFA_F32>, channel_absmax<IFA_F16>,
                                           channel_absmax<IFA_BF16>};
static const kernel channel_sums_of[] = {channel_sums<IFA_F32>, channel_sums<IFA_F16>,
                                         channel_sums<IFA_BF16>};
template <ifa_gpu_destination TO> static kernel quantize_rows_of(ifa_type type, bool mean) {
  if constexpr (TO != IFA_GPU_V_BLOCKS)
    if (type == IFA_F32)
      return mean ? quantize_rows<IFA_F32, true, TO> : quantize_rows<IFA_F32, false, TO>;
  if (type == IFA_F16)
    return mean ? quantize_rows<IFA_F16, true, TO> : quantize_rows<IFA_F16, false, TO>;
  return mean ? quantize_rows<IFA_BF16, true, TO> : quantize_rows<IFA_BF16, false, TO>;
}
static kernel last_pass(ifa_gpu_destination to, ifa_type type, bool mean) {
  return to == IFA_GPU_ROWS       ? quantize_rows_of<IFA_GPU_ROWS>(type, mean)
         : to == IFA_GPU_K_BLOCKS ? quantize_rows_of<IFA_GPU_K_BLOCKS>(type, mean)
                                  : quantize_rows_of<IFA_GPU_V_BLOCKS>(type, mean);
}

/* Blocks step over items by the size of the grid, so a smaller grid is right too. */
static cudaError_t launch(kernel function, work w, int64_t blocks, cudaStream_t stream) {
  void *arguments[] = {&w};
  dim3 grid((unsigned)ifa_min64(blocks, 1 << 30));
  return cudaLaunchKernel((const void *)function, grid, dim3(THREADS), arguments, 0, stream);
}

static cudaError_t launch_means(ifa_type type, work w, cudaStream_t stream) {
  work before = w;
  before.means = NULL;
  before.absmax = w.matrix_absmax;
  before.group_rows = w.tokens;
  before.groups = 1;
  cudaError_t error = launch(row_absmax_of[type], before, w.items, stream);
  if (error == cudaSuccess) error = launch(channel_sums_of[type], before, w.items, stream);
  if (error == cudaSuccess)
    error = launch(channel_means, w, ifa_ceil_div(w.matrices * w.head_dim, THREADS), stream);
  return error;
}

static cudaError_t launch_all(const ifa_quantize_args *a, ifa_gpu_destination to,
                              ifa_gpu_blocks blocks, uint8_t *workspace, cudaStream_t stream) {
  work w = plan(a, blocks, workspace);
  size_t zeroed = layout_of(a).means;
  cudaError_t error = zeroed ? cudaMemsetAsync(workspace, 0, zeroed, stream) : cudaSuccess;
  if (error == cudaSuccess && w.means) error = launch_means(a->src_type, w, stream);
  if (error != cudaSuccess) return error;
  if (w.granularity == IFA_SCALE_CHANNEL || w.granularity == IFA_SCALE_TOKEN_CHANNEL)
    error = launch(channel_absmax_of[a->src_type], w, w.items, stream);
  else if (w.granularity != IFA_SCALE_TOKEN)
    error = launch(row_absmax_of[a->src_type], w, w.items, stream);
  return error == cudaSuccess
             ? launch(last_pass(to, a->src_type, w.means != NULL), w, w.items, stream)
             : error;
}

/* Without tokens every scale and mean is 0. */
static cudaError_t clear_scales(const ifa_quantize_args *a, cudaStream_t stream) {
  int64_t matrices = a->batch * a->heads,
          scales = ifa_scale_count(a->granularity, a->batch, a->heads, 0, a->head_dim, a->block);
  size_t channel_bytes = (size_t)(matrices * a->head_dim) * sizeof(float);
  cudaError_t error =
      scales ? cudaMemsetAsync(a->scale, 0, (size_t)scales * sizeof(float), stream) : cudaSuccess;
  if (error == cudaSuccess && a->granularity == IFA_SCALE_TOKEN_CHANNEL)
    error = cudaMemsetAsync(a->channel_scale, 0, channel_bytes, stream);
  if (error == cudaSuccess && a->subtract_mean && a->mean)
    error = cudaMemsetAsync(a->mean, 0, channel_bytes, stream);
  return error;
}

extern "C" ifa_status ifa_cuda_quantize_workspace_bytes(const ifa_quantize_args *args,
                                                        size_t *bytes, ifa_message *message) {
  ifa_status status = check_shape(args, message);
  if (status != IFA_OK) return status;
  if (!bytes) return ifa_fail(message, IFA_BAD_ARGUMENT, "bytes is NULL");
  *bytes = layout_of(args).end;
  return ifa_succeed(message);
}

ifa_status ifa_gpu_quantize_to_blocks(const ifa_quantize_args *args, ifa_gpu_destination to,
                                      ifa_gpu_blocks blocks, void *workspace,
                                      size_t workspace_bytes, void *stream, ifa_message *message) {
  ifa_status status = check_shape(args, message);
  if (status != IFA_OK) return status;
  if (to == IFA_GPU_V_BLOCKS && args->src_type == IFA_F32)
    return ifa_fail(message, IFA_UNSUPPORTED, "V from f32 does not go to blocks at once");
  if (args->batch * args->heads == 0) return ifa_succeed(message);
  if ((status = check_pointers(args, to == IFA_GPU_ROWS, message)) != IFA_OK) return status;
  if ((status = check_workspace(workspace, workspace_bytes, layout_of(args).end, message)) !=
      IFA_OK)
    return status;
  cudaStream_t on = (cudaStream_t)stream;
  cudaError_t error = args->tokens ? launch_all(args, to, blocks, (uint8_t *)workspace, on)
                                   : clear_scales(args, on);
  return error == cudaSuccess ? ifa_succeed(message)
                              : cuda_failed(error, "launching the quantizer", message);
}

extern "C" ifa_status ifa_cuda_quantize(const ifa_quantize_args *args, void *workspace,
                                        size_t workspace_bytes, void *stream,
                                        ifa_message *message) {
  return ifa_gpu_quantize_to_blocks(args, IFA_GPU_ROWS, ifa_gpu_blocks{}, workspace,
                                    workspace_bytes, stream, message);
}
