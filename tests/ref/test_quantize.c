/* test_quantize.c - the quantizers against values worked out by hand, and against a plain second
 * writing of docs/numerics.md, section 12, for every granularity, type and stride. All of it is
 * done with the library's ifa_quantize, with each version of its row kernels that this machine has,
 * and with ref/'s. */
#include <fenv.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/quantize.h"
#include "common/random.h"
#include "cpu/quantize/rows.h"
#include "ifa.h"

#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

/* ---- which one is tested ---- */

enum { THE_LIBRARY, SCALAR, ROWS }; /* ROWS + i: row kernels i */
static int implementation;

static ifa_status quantize(const ifa_quantize_args *a, ifa_message *message) {
  if (implementation == THE_LIBRARY) return ifa_quantize(a, message);
  if (implementation == SCALAR) return ifa_quantize_scalar(a, message);
  return ifa_quantize_with(ifa_row_kernels_at(implementation - ROWS), a, message);
}

/* ---- a second writing ---- */

/* Nearest integer, ties to even. */
static int64_t round_even(double x) {
  double whole = floor(x), rest = x - whole;
  int64_t n = (int64_t)whole;
  return n + (rest > 0.5 || (rest == 0.5 && n % 2 != 0));
}

static double widen(ifa_type type, const void *data, int64_t index) {
  if (type == IFA_F32) return (double)((const float *)data)[index];
  uint16_t bits = ((const uint16_t *)data)[index];
  if (type == IFA_BF16) {
    uint32_t whole = (uint32_t)bits << 16;
    float x;
    memcpy(&x, &whole, sizeof x);
    return (double)x;
  }
  int exponent = bits >> 10 & 31, fraction = bits & 1023;
  double x = exponent == 0 ? ldexp(fraction, -24) : ldexp(1024 + fraction, exponent - 25);
  return bits & 0x8000 ? -x : x;
}

static void put(ifa_type type, void *data, int64_t index, float x) {
  if (type == IFA_F32) {
    ((float *)data)[index] = x;
    return;
  }
  uint32_t bits; /* cut short, not rounded: any value will do */
  memcpy(&bits, &x, sizeof bits);
  uint16_t half = (uint16_t)(bits >> 16);
  if (type == IFA_F16) {
    int exponent;
    double fraction = frexp(fabs((double)x), &exponent); /* in [0.5, 1) */
    int scaled = exponent < -13 ? (int)ldexp(fraction, exponent + 24)
                                : (int)(fraction * 2048) - 1024 + ((exponent + 14) << 10);
    half = (uint16_t)((bits >> 16 & 0x8000) | (uint32_t)(x == 0 ? 0 : scaled));
  }
  ((uint16_t *)data)[index] = half;
}

static int operand(ifa_type type, const void *data, int64_t index) {
  if (type == IFA_I8) return ((const int8_t *)data)[index];
  int nibble = ((const uint8_t *)data)[index / 2] >> (index % 2 ? 4 : 0) & 15;
  return nibble < 8 ? nibble : nibble - 16;
}

typedef struct expected {
  float *x; /* [tokens][head_dim] */
  int *q;   /* [tokens][head_dim] */
  float *scale, *channel_scale, *mean;
} expected;

/* The group that element (t, d) belongs to. */
static int64_t group_of(const ifa_quantize_args *a, int64_t t, int64_t d) {
  switch (a->granularity) {
    case IFA_SCALE_TENSOR: return 0;
    case IFA_SCALE_BLOCK: return t / a->block;
    case IFA_SCALE_CHANNEL: return d;
    default: return t;
  }
}

static float divide(float a, float b) {
  volatile float quotient = a / b;
  return quotient;
}

static float multiply(float a, float b) {
  volatile float product = a * b;
  return product;
}

static float largest_where(const ifa_quantize_args *a, const float *x, int64_t token,
                           int64_t channel) {
  float largest = 0;
  for (int64_t t = 0; t < a->tokens; t++)
    for (int64_t d = 0; d < a->head_dim; d++)
      if ((token < 0 || t == token) && (channel < 0 || d == channel))
        largest = fmaxf(largest, fabsf(x[t * a->head_dim + d]));
  return largest;
}

static void subtract_means(const ifa_quantize_args *a, expected *e) {
  float largest = largest_where(a, e->x, -1, -1);
  int exponent = 0;
  while (largest > 0 && ldexp(1, exponent) <= (double)largest) exponent++;
  while (largest > 0 && ldexp(1, exponent - 1) > (double)largest) exponent--;
  for (int64_t d = 0; d < a->head_dim; d++) {
    __int128 sum = 0;
    for (int64_t t = 0; t < a->tokens; t++)
      sum += round_even(ldexp((double)e->x[t * a->head_dim + d], 24 - exponent));
    volatile double quotient = (double)sum / (double)(a->tokens ? a->tokens : 1);
    e->mean[d] = largest < 0x1p-93f ? 0.0f : (float)ldexp(quotient, exponent - 24);
    for (int64_t t = 0; t < a->tokens; t++) {
      volatile float difference = e->x[t * a->head_dim + d] - e->mean[d];
      e->x[t * a->head_dim + d] = difference;
    }
  }
}

/* Matrix (batch, head) by the document. */
static void quantize_again(const ifa_quantize_args *a, int64_t batch, int64_t head, expected *e) {
  const float q_max = a->dst_type == IFA_I4 ? 7.0f : 127.0f;
  for (int64_t t = 0; t < a->tokens; t++)
    for (int64_t d = 0; d < a->head_dim; d++)
      e->x[t * a->head_dim + d] = (float)widen(
          a->src_type, a->src,
          batch * a->src_stride.batch + head * a->src_stride.head + t * a->src_stride.token + d);
  if (a->subtract_mean) subtract_means(a, e);
  for (int64_t d = 0; a->granularity == IFA_SCALE_TOKEN_CHANNEL && d < a->head_dim; d++) {
    float largest = largest_where(a, e->x, -1, d);
    e->channel_scale[d] = largest < 0x1p-93f ? 0.0f : largest;
    for (int64_t t = 0; t < a->tokens; t++)
      e->x[t * a->head_dim + d] =
          largest < 0x1p-93f ? 0.0f : multiply(e->x[t * a->head_dim + d], divide(1.0f, largest));
  }
  int64_t groups = a->granularity == IFA_SCALE_TENSOR    ? 1
                   : a->granularity == IFA_SCALE_CHANNEL ? a->head_dim
                   : a->granularity == IFA_SCALE_BLOCK   ? (a->tokens + a->block - 1) / a->block
                                                         : a->tokens;
  for (int64_t g = 0; g < groups; g++) {
    float largest = 0;
    for (int64_t t = 0; t < a->tokens; t++)
      for (int64_t d = 0; d < a->head_dim; d++)
        if (group_of(a, t, d) == g) largest = fmaxf(largest, fabsf(e->x[t * a->head_dim + d]));
    e->scale[g] = largest < 0x1p-93f ? 0.0f : divide(largest, q_max);
    for (int64_t t = 0; t < a->tokens; t++)
      for (int64_t d = 0; d < a->head_dim; d++) {
        if (group_of(a, t, d) != g) continue;
        int64_t q =
            largest < 0x1p-93f
                ? 0
                : round_even((double)multiply(e->x[t * a->head_dim + d], divide(q_max, largest)));
        e->q[t * a->head_dim + d] = (int)(q > (int64_t)q_max    ? (int64_t)q_max
                                          : q < -(int64_t)q_max ? -(int64_t)q_max
                                                                : q);
      }
  }
}

/* ---- a tensor to quantize ---- */

typedef struct tensor {
  ifa_quantize_args a;
  size_t src_bytes, dst_bytes;
} tensor;

static int64_t row_of(ifa_type type, int64_t head_dim) {
  return type == IFA_I4 ? (head_dim + 1) / 2 * 2 : head_dim;
}

static int64_t extent(ifa_strides s, const ifa_quantize_args *a, ifa_type type) {
  return s.batch * (a->batch - 1) + s.head * (a->heads - 1) + s.token * (a->tokens - 1) +
         row_of(type, a->head_dim);
}

enum { GAP = 0xa5 };

/* Strides in an order of the dimensions, with `gap` unused elements after each. */
static ifa_strides spaced(ifa_type type, const ifa_quantize_args *a, int bnhd, int64_t gap) {
  int64_t row = row_of(type, a->head_dim) + gap;
  if (bnhd) return (ifa_strides){row * a->heads * a->tokens + gap, row, row * a->heads};
  return (ifa_strides){(row * a->tokens + gap) * a->heads + gap, row * a->tokens + gap, row};
}

static tensor tensor_new(ifa_quantize_args a, int bnhd, int64_t gap) {
  tensor t = {.a = a};
  size_t bytes = a.src_type == IFA_F32 ? 4 : 2, matrices = (size_t)(a.batch * a.heads);
  t.a.src_stride = spaced(a.src_type, &a, bnhd, gap);
  t.a.dst_stride = spaced(a.dst_type, &a, bnhd, 2 * gap);
  t.src_bytes = (size_t)extent(t.a.src_stride, &a, a.src_type) * bytes;
  t.dst_bytes = (size_t)extent(t.a.dst_stride, &a, a.dst_type) / (a.dst_type == IFA_I4 ? 2 : 1);
  t.a.src = calloc(1, t.src_bytes);
  t.a.dst = malloc(t.dst_bytes);
  t.a.scale = malloc(matrices * (size_t)(a.tokens + a.head_dim) * sizeof(float));
  t.a.channel_scale = malloc(matrices * (size_t)a.head_dim * sizeof(float));
  t.a.mean = malloc(matrices * (size_t)a.head_dim * sizeof(float));
  assert_true(t.a.src && t.a.dst && t.a.scale && t.a.channel_scale && t.a.mean);
  memset(t.a.dst, GAP, t.dst_bytes);
  return t;
}

static void tensor_free(tensor *t) {
  free((void *)t->a.src);
  free(t->a.dst);
  free(t->a.scale);
  free(t->a.channel_scale);
  free(t->a.mean);
}

static void set(tensor *t, int64_t batch, int64_t head, int64_t token, int64_t d, float x) {
  ifa_strides s = t->a.src_stride;
  put(t->a.src_type, (void *)t->a.src, batch * s.batch + head * s.head + token * s.token + d, x);
}

/* Normal numbers over a few octaves of scale; now and then a zero, a zero token, a zero channel,
 * and ties. */
static void fill(tensor *t, uint64_t seed) {
  uint64_t i = 0;
  for (int64_t b = 0; b < t->a.batch; b++)
    for (int64_t h = 0; h < t->a.heads; h++)
      for (int64_t n = 0; n < t->a.tokens; n++)
        for (int64_t d = 0; d < t->a.head_dim; d++, i++) {
          float x = ldexpf(ifa_random_normal(seed, 0, i),
                           (int)ifa_random_below(seed, 1, (uint64_t)(b * 7 + n), 9) - 4);
          int zero = ifa_random_below(seed, 2, (uint64_t)n, 9) == 0 ||
                     ifa_random_below(seed, 3, (uint64_t)d, 9) == 0;
          if (ifa_random_below(seed, 4, i, 5) == 0)
            x = (float)((int)ifa_random_below(seed, 5, i, 15) - 7) * 0.5f;
          set(t, b, h, n, d, zero ? 0.0f : x);
        }
}

static void run(const tensor *t) {
  ifa_message why = {"left over"};
  if (quantize(&t->a, &why) != IFA_OK) fail_msg("%s", why.text);
  assert_string_equal(why.text, "");
}

/* Everything written is what the second writing gives; nothing else is touched. */
static void check_matrix(const tensor *t, int64_t b, int64_t h, uint8_t *untouched) {
  const ifa_quantize_args *a = &t->a;
  int64_t dim = a->head_dim, number = b * a->heads + h,
          scales = ifa_scale_count(a->granularity, 1, 1, a->tokens, dim, a->block);
  expected e = {calloc((size_t)(a->tokens * dim), 4), calloc((size_t)(a->tokens * dim), 4),
                calloc((size_t)(a->tokens + dim), 4), calloc((size_t)dim, 4),
                calloc((size_t)dim, 4)};
  quantize_again(a, b, h, &e);
  for (int64_t n = 0; n < a->tokens; n++) {
    int64_t row = b * a->dst_stride.batch + h * a->dst_stride.head + n * a->dst_stride.token;
    for (int64_t d = 0; d < dim; d++)
      assert_int_equal(operand(a->dst_type, a->dst, row + d), e.q[n * dim + d]);
    if (a->dst_type == IFA_I4 && dim % 2) assert_int_equal(operand(IFA_I4, a->dst, row + dim), 0);
    for (int64_t d = 0; d < row_of(a->dst_type, dim); d++)
      untouched[a->dst_type == IFA_I4 ? (row + d) / 2 : row + d] = 0;
  }
  assert_memory_equal(a->scale + number * scales, e.scale, (size_t)scales * 4);
  if (a->granularity == IFA_SCALE_TOKEN_CHANNEL)
    assert_memory_equal(a->channel_scale + number * dim, e.channel_scale, (size_t)dim * 4);
  if (a->subtract_mean) assert_memory_equal(a->mean + number * dim, e.mean, (size_t)dim * 4);
  free(e.x);
  free(e.q);
  free(e.scale);
  free(e.channel_scale);
  free(e.mean);
}

static void check(const tensor *t) {
  uint8_t *untouched = malloc(t->dst_bytes);
  memset(untouched, 1, t->dst_bytes);
  for (int64_t b = 0; b < t->a.batch; b++)
    for (int64_t h = 0; h < t->a.heads; h++) check_matrix(t, b, h, untouched);
  for (size_t i = 0; i < t->dst_bytes; i++)
    if (untouched[i]) assert_int_equal(((const uint8_t *)t->a.dst)[i], GAP);
  free(untouched);
}

/* ---- everything with everything ---- */

static void test_all_choices(void **state) {
  (void)state;
  uint64_t seed = 0;
  for (int granularity = 0; granularity < 5; granularity++)
    for (int src = IFA_F32; src <= IFA_BF16; src++)
      for (int dst = IFA_I8; dst <= IFA_I4; dst++)
        for (int mean = 0; mean < 2; mean++)
          for (int layout = 0; layout < 4; layout++)
            for (int size = 0; size < 4; size++, seed++) {
              ifa_quantize_args a = {.src_type = (ifa_type)src,
                                     .dst_type = (ifa_type)dst,
                                     .granularity = (ifa_granularity)granularity,
                                     .subtract_mean = mean,
                                     .batch = 1 + size % 2,
                                     .heads = 1 + size / 2 * 2,
                                     .tokens = (int64_t[]){13, 1, 30, 8}[size],
                                     .head_dim = (int64_t[]){9, 16, 1, 33}[size],
                                     .block = (int32_t[]){4, 3, 10, 8}[size]};
              tensor t = tensor_new(a, layout % 2, layout / 2 * 3);
              fill(&t, seed);
              run(&t);
              check(&t);
              tensor_free(&t);
            }
}

/* Strides of 0 are dense, mean may be NULL, and the message may be NULL. */
static void test_defaults(void **state) {
  (void)state;
  ifa_quantize_args a = {.src_type = IFA_F32,
                         .dst_type = IFA_I4,
                         .granularity = IFA_SCALE_TOKEN,
                         .batch = 2,
                         .heads = 2,
                         .tokens = 5,
                         .head_dim = 7,
                         .subtract_mean = 1};
  tensor t = tensor_new(a, 0, 0);
  float *mean = t.a.mean;
  ifa_strides src = t.a.src_stride, dst = t.a.dst_stride;
  fill(&t, 3);
  t.a.src_stride = t.a.dst_stride = (ifa_strides){0, 0, 0};
  t.a.mean = NULL;
  assert_int_equal(quantize(&t.a, NULL), IFA_OK);
  t.a.src_stride = src;
  t.a.dst_stride = dst;
  t.a.mean = mean;
  t.a.subtract_mean = 0;
  expected e = {calloc(35, 4), calloc(35, 4), calloc(12, 4), calloc(7, 4), calloc(7, 4)};
  t.a.subtract_mean = 1;
  quantize_again(&t.a, 1, 1, &e);
  for (int n = 0; n < 5; n++)
    for (int d = 0; d < 7; d++)
      assert_int_equal(operand(IFA_I4, t.a.dst, 3 * 40 + n * 8 + d), e.q[n * 7 + d]);
  assert_memory_equal(t.a.scale + 15, e.scale, 20);
  free(e.x);
  free(e.q);
  free(e.scale);
  free(e.channel_scale);
  free(e.mean);
  tensor_free(&t);
}

/* ---- by hand ---- */

static ifa_quantize_args plain(const float *src, int64_t tokens, int64_t head_dim,
                               ifa_granularity granularity, void *dst, float *scale) {
  return (ifa_quantize_args){.src = src,
                             .src_type = IFA_F32,
                             .batch = 1,
                             .heads = 1,
                             .tokens = tokens,
                             .head_dim = head_dim,
                             .dst = dst,
                             .dst_type = IFA_I8,
                             .granularity = granularity,
                             .block = 2,
                             .scale = scale};
}

static void test_by_hand(void **state) {
  (void)state;
  /* absmax 127: scale 1, so the values are their own codes, and halves are ties. */
  const float x[6] = {127.0f, 0.5f, 1.5f, -2.5f, -126.5f, -0.0f};
  const int8_t codes[6] = {127, 0, 2, -2, -126, 0};
  int8_t q[8];
  float scale[8], channel_scale[8];
  ifa_quantize_args a = plain(x, 1, 6, IFA_SCALE_TOKEN, q, scale);
  assert_int_equal(quantize(&a, NULL), IFA_OK);
  assert_memory_equal(q, codes, 6);
  assert_true(scale[0] == 1.0f);

  a = plain(x, 3, 2, IFA_SCALE_TOKEN, q, scale); /* rows (127, .5) (1.5, -2.5) (-126.5, -0) */
  assert_int_equal(quantize(&a, NULL), IFA_OK);
  assert_true(scale[0] == 1.0f && scale[1] == 2.5f / 127.0f && scale[2] == 126.5f / 127.0f);
  assert_memory_equal(q, ((int8_t[]){127, 0, 76, -127, -127, 0}), 6); /* 1.5 * 50.8 = 76.2 */
  a.granularity = IFA_SCALE_CHANNEL;
  assert_int_equal(quantize(&a, NULL), IFA_OK);
  assert_true(scale[0] == 1.0f && scale[1] == 2.5f / 127.0f);
  assert_memory_equal(q, ((int8_t[]){127, 25, 2, -127, -126, 0}), 6); /* 0.5 * 50.8 = 25.4 */
  a.granularity = IFA_SCALE_BLOCK;
  assert_int_equal(quantize(&a, NULL), IFA_OK);
  assert_true(scale[0] == 1.0f && scale[1] == 126.5f / 127.0f);
  assert_memory_equal(q, ((int8_t[]){127, 0, 2, -2, -127, 0}), 6);
  a.granularity = IFA_SCALE_TENSOR;
  assert_int_equal(quantize(&a, NULL), IFA_OK);
  assert_memory_equal(q, ((int8_t[]){127, 0, 2, -2, -126, 0}), 6);

  const float y[4] = {2.0f, -4.0f, 1.0f, 4.0f}; /* channels' absmax 2 and 4: (1, -1) (0.5, 1) */
  a = plain(y, 2, 2, IFA_SCALE_TOKEN_CHANNEL, q, scale);
  a.channel_scale = channel_scale;
  assert_int_equal(quantize(&a, NULL), IFA_OK);
  assert_true(channel_scale[0] == 2.0f && channel_scale[1] == 4.0f && scale[0] == 1.0f / 127.0f &&
              scale[1] == 1.0f / 127.0f);
  assert_memory_equal(q, ((int8_t[]){127, -127, 64, 127}), 4); /* 63.5 is a tie: 64 */
  a.dst_type = IFA_I4;
  assert_int_equal(quantize(&a, NULL), IFA_OK);
  assert_true(scale[0] == 1.0f / 7.0f);
  assert_memory_equal(q, ((uint8_t[]){0x97, 0x74}), 2); /* 7, -7; 4 (3.5 is a tie), 7 */

  float mean[2];
  const float z[6] = {1.0f, 10.0f, 2.0f, 10.0f, 6.0f, 10.0f}; /* means 3 and 10 */
  a = plain(z, 3, 2, IFA_SCALE_TENSOR, q, scale);
  a.subtract_mean = 1, a.mean = mean;
  assert_int_equal(quantize(&a, NULL), IFA_OK);
  assert_true(mean[0] == 3.0f && mean[1] == 10.0f && scale[0] == 3.0f / 127.0f);
  assert_memory_equal(q, ((int8_t[]){-85, 0, -42, 0, 127, 0}), 6); /* -2, -1 and 3 times 42.33 */
}

static void test_tiny_groups(void **state) {
  (void)state;
  const float x[8] = {0.0f,      -0.0f,   0x1p-93f, -0x1.fffffep-94f, 0x1.fffffep-94f,
                      0x1p-149f, 0x1p99f, -0x1p98f};
  int8_t q[8];
  float scale[4];
  ifa_quantize_args a = plain(x, 4, 2, IFA_SCALE_TOKEN, q, scale);
  assert_int_equal(quantize(&a, NULL), IFA_OK);
  assert_true(scale[0] == 0.0f && scale[1] == 0x1p-93f / 127.0f && scale[2] == 0.0f &&
              scale[3] == 0x1p99f / 127.0f);
  assert_memory_equal(q, ((int8_t[]){0, 0, 127, -127, 0, 0, 127, -64}), 8);
  assert_true(scale[1] >= 0x1p-100f); /* what ifa_run accepts */
  a.subtract_mean = 1;
  a.src = x + 4; /* both below 2^-93, though not 0 */
  a.tokens = 1;
  float mean[2] = {5.0f, 5.0f};
  a.mean = mean;
  assert_int_equal(quantize(&a, NULL), IFA_OK);
  assert_true(mean[0] == 0.0f && mean[1] == 0.0f && scale[0] == 0.0f);
}

/* Scales stay within what ifa_run accepts, at both ends of the range. */
static void test_scales_are_usable(void **state) {
  (void)state;
  static const float ends[] = {0x1p-93f, 0x1.8p-93f, 0x1p99f, 0x1.fffffep98f};
  for (int e = 0; e < 4; e++)
    for (int granularity = 0; granularity < 5; granularity++)
      for (int dst = IFA_I8; dst <= IFA_I4; dst++)
        for (int mean = 0; mean < 2; mean++) {
          const float x[6] = {ends[e], -ends[e], -ends[e], ends[e], -ends[e], -ends[e]};
          int8_t q[6];
          float scale[8] = {0}, channel_scale[8] = {0};
          ifa_quantize_args a = plain(x, 3, 2, (ifa_granularity)granularity, q, scale);
          a.dst_type = (ifa_type)dst;
          a.channel_scale = channel_scale;
          a.subtract_mean = mean;
          assert_int_equal(quantize(&a, NULL), IFA_OK);
          for (int i = 0; i < 8; i++) {
            assert_true(scale[i] == 0.0f || (scale[i] >= 0x1p-100f && scale[i] <= 0x1p100f));
            assert_true(channel_scale[i] == 0.0f ||
                        (channel_scale[i] >= 0x1p-100f && channel_scale[i] <= 0x1p100f));
          }
        }
}

/* ---- refusals ---- */

static void expect(const ifa_quantize_args *a, ifa_status status, const char *first,
                   const char *second) {
  ifa_message why = {""};
  ifa_status got = quantize(a, &why);
  if (got != status)
    fail_msg("%s (%s) where '%s' '%s' was expected", ifa_status_name(got), why.text, first, second);
  if (!strstr(why.text, first) || !strstr(why.text, second))
    fail_msg("'%s' does not say '%s' and '%s'", why.text, first, second);
  assert_int_equal(quantize(a, NULL), status);
}

static void test_bad_data(void **state) {
  (void)state;
  static const float bad[] = {NAN, INFINITY, -INFINITY, 0x1.000002p99f, -0x1p100f};
  static const int granularities[] = {IFA_SCALE_TENSOR, IFA_SCALE_BLOCK, IFA_SCALE_TOKEN,
                                      IFA_SCALE_CHANNEL, IFA_SCALE_TOKEN_CHANNEL};
  for (int i = 0; i < 5; i++)
    for (int g = 0; g < 5; g++) {
      ifa_quantize_args a = {.src_type = IFA_F32,
                             .dst_type = IFA_I8,
                             .granularity = (ifa_granularity)granularities[g],
                             .block = 2,
                             .batch = 2,
                             .heads = 3,
                             .tokens = 4,
                             .head_dim = 5};
      tensor t = tensor_new(a, 1, 2);
      fill(&t, 1);
      set(&t, 1, 2, 3, 4, bad[i]);
      expect(&t.a, IFA_BAD_DATA, "src[1][2][3][4]",
             i == 0   ? "nan"
             : i < 3  ? "inf"
             : i == 3 ? "6.33825e+29"
                      : "-1.26765e+30");
      tensor_free(&t);
    }
  uint16_t halves[2] = {0, 0x7c00};
  int8_t q[2];
  float scale[2];
  ifa_quantize_args a = {.src = halves,
                         .src_type = IFA_F16,
                         .batch = 1,
                         .heads = 1,
                         .tokens = 2,
                         .head_dim = 1,
                         .dst = q,
                         .dst_type = IFA_I8,
                         .granularity = IFA_SCALE_TOKEN,
                         .scale = scale};
  expect(&a, IFA_BAD_DATA, "src[0][0][1][0]", "inf");
  halves[1] = 0xfe00;
  expect(&a, IFA_BAD_DATA, "src[0][0][1][0]", "nan");
  halves[1] = 0x7bff; /* 65504 */
  assert_int_equal(quantize(&a, NULL), IFA_OK);
  a.src_type = IFA_BF16; /* 2^120 or so */
  expect(&a, IFA_BAD_DATA, "src[0][0][1][0]", "e+");
}

static void test_bad_arguments(void **state) {
  (void)state;
  float x[4] = {1, 2, 3, 4}, scale[4], channel_scale[4];
  int8_t q[4] = {55, 55, 55, 55};
  ifa_message why = {""};
  const ifa_quantize_args good = {.src = x,
                                  .src_type = IFA_F32,
                                  .batch = 1,
                                  .heads = 1,
                                  .tokens = 2,
                                  .head_dim = 2,
                                  .dst = q,
                                  .dst_type = IFA_I8,
                                  .granularity = IFA_SCALE_TOKEN_CHANNEL,
                                  .block = 1,
                                  .scale = scale,
                                  .channel_scale = channel_scale};
  ifa_quantize_args a;
  assert_int_equal(quantize(NULL, &why), IFA_BAD_ARGUMENT);
  assert_non_null(strstr(why.text, "NULL"));
  assert_int_equal(quantize(NULL, NULL), IFA_BAD_ARGUMENT);
#define BAD(field, value, text) \
  a = good, a.field = value, expect(&a, IFA_BAD_ARGUMENT, #field, text)
  BAD(src, NULL, "NULL");
  BAD(dst, NULL, "NULL");
  BAD(scale, NULL, "NULL");
  BAD(channel_scale, NULL, "NULL");
  BAD(batch, -1, "-1");
  BAD(batch, 65536, "65536");
  BAD(heads, -1, "-1");
  BAD(heads, INT64_MAX, "9223372036854775807");
  BAD(tokens, -1, "-1");
  BAD(tokens, IFA_MAX_TOKENS + 1, "16777217");
  BAD(head_dim, 0, "0");
  BAD(head_dim, 257, "257");
  BAD(head_dim, INT64_MIN, "-9223372036854775808");
  BAD(src_type, IFA_I8, "int8; it must be f32, f16 or bf16");
  BAD(src_type, IFA_I4, "int4");
  BAD(dst_type, IFA_F32, "f32; it must be int8 or int4");
  BAD(dst_type, IFA_BF16, "bf16");
  BAD(dst_type, (ifa_type)5, "5");
  BAD(granularity, (ifa_granularity)5,
      "5; it must be tensor, block, token, channel or token_channel");
  BAD(granularity, (ifa_granularity)1000, "1000");
  BAD(subtract_mean, 2, "2");
  BAD(subtract_mean, -1, "-1");
#undef BAD
  a = good, a.granularity = IFA_SCALE_BLOCK, a.block = 0;
  expect(&a, IFA_BAD_ARGUMENT, "block", "0");
  a.block = -5;
  expect(&a, IFA_BAD_ARGUMENT, "block", "-5");
  a.granularity = IFA_SCALE_TOKEN; /* not read */
  a.channel_scale = NULL;
  assert_int_equal(quantize(&a, NULL), IFA_OK);
}

static void test_bad_strides(void **state) {
  (void)state;
  float x[64] = {0}, scale[16];
  int8_t q[64];
  memset(q, GAP, sizeof q);
  const ifa_quantize_args good = {.src = x,
                                  .src_type = IFA_F32,
                                  .batch = 2,
                                  .heads = 2,
                                  .tokens = 2,
                                  .head_dim = 3,
                                  .dst = q,
                                  .dst_type = IFA_I8,
                                  .granularity = IFA_SCALE_TOKEN,
                                  .scale = scale};
  static const struct {
    ifa_strides src, dst;
    ifa_type dst_type;
    const char *first, *second;
  } bad[] = {{{12, 6, -3}, {0, 0, 0}, IFA_I8, "src_stride.token", "-3"},
             {{-12, 6, 3}, {0, 0, 0}, IFA_I8, "src_stride.batch", "-12"},
             {{0, 0, 0}, {12, -6, 3}, IFA_I8, "dst_stride.head", "-6"},
             {{0, 0, 0}, {12, 6, 2}, IFA_I8, "dst_stride", "overlap"},
             {{0, 0, 0}, {0, 6, 3}, IFA_I8, "dst_stride", "overlap"},
             {{0, 0, 0}, {16, 8, 5}, IFA_I4, "dst_stride.token", "even"},
             {{INT64_MAX, 6, 3}, {0, 0, 0}, IFA_I8, "src_stride.batch", "overflow"},
             {{0, 0, 0}, {12, INT64_MAX / 2, 3}, IFA_I8, "dst_stride.head", "overflow"}};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    ifa_quantize_args a = good;
    ifa_message why = {""};
    a.src_stride = bad[i].src;
    a.dst_stride = bad[i].dst;
    a.dst_type = bad[i].dst_type;
    assert_int_not_equal(quantize(&a, &why), IFA_OK);
    if (!strstr(why.text, bad[i].first) || !strstr(why.text, bad[i].second))
      fail_msg("'%s' does not say '%s' and '%s'", why.text, bad[i].first, bad[i].second);
  }
  for (size_t i = 0; i < sizeof q; i++) assert_int_equal((uint8_t)q[i], GAP);
  ifa_quantize_args a = good;
  a.src_stride = (ifa_strides){0, 0, 3}; /* all heads read the same matrix */
  assert_int_equal(quantize(&a, NULL), IFA_OK);
}

/* ifa.h lists a stride given to a call under IFA_BAD_ARGUMENT; IFA_BAD_PROBLEM is the descriptor's.
 */
static void test_bad_stride_status(void **state) {
  (void)state;
  float x[4] = {0}, scale[4];
  int8_t q[4];
  ifa_quantize_args a = plain(x, 2, 2, IFA_SCALE_TOKEN, q, scale);
  a.src_stride = (ifa_strides){4, 4, -2};
  expect(&a, IFA_BAD_ARGUMENT, "src_stride.token", "-2");
}

static void test_empty(void **state) {
  (void)state;
  float scale[4] = {9, 9, 9, 9}, channel_scale[4] = {9, 9, 9, 9}, mean[4] = {9, 9, 9, 9};
  int8_t q[1] = {55};
  ifa_quantize_args a = plain(NULL, 0, 2, IFA_SCALE_TENSOR, NULL, scale);
  assert_int_equal(quantize(&a, NULL), IFA_OK);
  assert_true(scale[0] == 0.0f && scale[1] == 9.0f);
  a.granularity = IFA_SCALE_CHANNEL;
  a.subtract_mean = 1;
  a.mean = mean;
  assert_int_equal(quantize(&a, NULL), IFA_OK);
  assert_true(scale[0] == 0.0f && scale[1] == 0.0f && scale[2] == 9.0f && mean[0] == 0.0f &&
              mean[1] == 0.0f && mean[2] == 9.0f);
  a = plain(NULL, 0, 2, IFA_SCALE_TOKEN_CHANNEL, NULL, NULL);
  a.channel_scale = channel_scale;
  assert_int_equal(quantize(&a, NULL), IFA_OK);
  assert_true(channel_scale[1] == 0.0f && channel_scale[2] == 9.0f);
  a = plain(NULL, 3, 2, IFA_SCALE_TOKEN, NULL, NULL);
  a.heads = 0;
  assert_int_equal(quantize(&a, NULL), IFA_OK);
  assert_int_equal(q[0], 55);
}

/* ---- independence ---- */

/* Tokens in another order: the same means, and the same rows in that order. */
static void test_token_order(void **state) {
  (void)state;
  enum { TOKENS = 97, DIM = 5 };
  static float x[TOKENS * DIM], shuffled[TOKENS * DIM];
  int8_t q[TOKENS * DIM], r[TOKENS * DIM];
  float scale[TOKENS], other_scale[TOKENS], mean[DIM], other_mean[DIM];
  for (int round = 0; round < 50; round++) {
    for (int i = 0; i < TOKENS * DIM; i++)
      x[i] = ldexpf(ifa_random_normal(9, (uint64_t)round, (uint64_t)i),
                    (int)ifa_random_below(9, 1000, (uint64_t)(i + round), 40) - 20);
    for (int n = 0; n < TOKENS; n++)
      memcpy(shuffled + n * DIM, x + n * 31 % TOKENS * DIM, DIM * sizeof *x);
    ifa_quantize_args a = plain(x, TOKENS, DIM, IFA_SCALE_TOKEN, q, scale),
                      b = plain(shuffled, TOKENS, DIM, IFA_SCALE_TOKEN, r, other_scale);
    a.subtract_mean = b.subtract_mean = 1;
    a.mean = mean;
    b.mean = other_mean;
    assert_int_equal(quantize(&a, NULL), IFA_OK);
    assert_int_equal(quantize(&b, NULL), IFA_OK);
    assert_memory_equal(mean, other_mean, sizeof mean);
    for (int n = 0; n < TOKENS; n++) {
      assert_memory_equal(r + n * DIM, q + n * 31 % TOKENS * DIM, DIM);
      assert_memory_equal(&other_scale[n], &scale[n * 31 % TOKENS], sizeof *scale);
    }
  }
}

/* The caller's rounding mode and flush-to-zero change nothing and are as they were. 2^-70 times
 * small numbers gives subnormals. */
static void test_environment(void **state) {
  (void)state;
  static const int modes[] = {FE_TONEAREST, FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO};
  ifa_quantize_args a = {.src_type = IFA_F32,
                         .dst_type = IFA_I8,
                         .granularity = IFA_SCALE_TOKEN_CHANNEL,
                         .batch = 1,
                         .heads = 2,
                         .tokens = 40,
                         .head_dim = 24,
                         .subtract_mean = 1};
  tensor t = tensor_new(a, 0, 0);
  fill(&t, 5);
  for (int i = 0; i < 4; i++) {
    memset(t.a.dst, GAP, t.dst_bytes);
    fesetround(modes[i]);
#if defined(__SSE2__)
    unsigned before = _mm_getcsr() | 0x8040u;
    _mm_setcsr(before);
#endif
    ifa_status status = quantize(&t.a, NULL);
    int mode = fegetround();
#if defined(__SSE2__)
    unsigned after = _mm_getcsr();
    _mm_setcsr(before & ~0x8040u);
    fesetround(FE_TONEAREST);
    assert_int_equal(after & 0xffc0u, before & 0xffc0u);
#endif
    fesetround(FE_TONEAREST);
    assert_int_equal(status, IFA_OK);
    assert_int_equal(mode, modes[i]);
    check(&t);
  }
#if defined(__SSE2__)
  _mm_setcsr(_mm_getcsr() | 0x8040u);
  float tiny = 0x1p-149f, scale = 5.0f, infinite = INFINITY;
  int8_t q = 5;
  ifa_quantize_args one = plain(&tiny, 1, 1, IFA_SCALE_TOKEN, &q, &scale),
                    bad = plain(&infinite, 1, 1, IFA_SCALE_TOKEN, &q, &scale);
  ifa_status status = quantize(&one, NULL), other = quantize(&bad, NULL);
  unsigned after = _mm_getcsr();
  _mm_setcsr(after & ~0x8040u);
  assert_int_equal(after & 0x8040u, 0x8040u); /* also after a failure */
  assert_int_equal(status, IFA_OK);
  assert_int_equal(other, IFA_BAD_DATA);
#endif
  tensor_free(&t);
}

static void test_scale_count(void **state) {
  (void)state;
  assert_int_equal(ifa_scale_count(IFA_SCALE_TENSOR, 2, 3, 100, 64, 7), 6);
  assert_int_equal(ifa_scale_count(IFA_SCALE_BLOCK, 2, 3, 100, 64, 7), 6 * 15);
  assert_int_equal(ifa_scale_count(IFA_SCALE_BLOCK, 2, 3, 98, 64, 7), 6 * 14);
  assert_int_equal(ifa_scale_count(IFA_SCALE_BLOCK, 2, 3, 0, 64, 7), 0);
  assert_int_equal(ifa_scale_count(IFA_SCALE_BLOCK, 1, 1, 5, 64, INT32_MAX), 1);
  assert_int_equal(ifa_scale_count(IFA_SCALE_TOKEN, 2, 3, 100, 64, 7), 600);
  assert_int_equal(ifa_scale_count(IFA_SCALE_CHANNEL, 2, 3, 100, 64, 7), 384);
  assert_int_equal(ifa_scale_count(IFA_SCALE_TOKEN_CHANNEL, 2, 3, 100, 64, 7), 600);
  assert_int_equal(ifa_scale_count(IFA_SCALE_TENSOR, 2, 0, 100, 64, 7), 0);
  assert_int_equal(ifa_scale_count(IFA_SCALE_TOKEN, 65535, 65535, 16777216, 64, 7),
                   65535LL * 65535 * 16777216);
}

/* ---- as large as a team of threads is worth ---- */

static void test_large(void **state) {
  (void)state;
  enum { HEADS = 3, TOKENS = 3001, DIM = 96, ALL = HEADS * TOKENS * DIM };
  static float x[ALL], scale[2][HEADS * TOKENS], channel[2][HEADS * DIM], mean[2][HEADS * DIM];
  static int8_t q[2][ALL];
  for (int i = 0; i < ALL; i++) x[i] = ifa_random_normal(7, 1, (uint64_t)i);
  for (int choice = 0; choice < 10; choice++) {
    for (int of = 0; of < 2; of++) {
      memset(q[of], 55, sizeof q[of]);
      memset(scale[of], 55, sizeof scale[of]);
      ifa_quantize_args a = {.src = x,
                             .batch = 1,
                             .heads = HEADS,
                             .tokens = TOKENS,
                             .head_dim = DIM,
                             .dst = q[of],
                             .dst_type = choice % 3 ? IFA_I8 : IFA_I4,
                             .granularity = (ifa_granularity)(choice / 2),
                             .block = 100,
                             .subtract_mean = choice % 2,
                             .scale = scale[of],
                             .channel_scale = channel[of],
                             .mean = mean[of]};
      assert_int_equal(of ? ifa_quantize_scalar(&a, NULL) : quantize(&a, NULL), IFA_OK);
    }
    assert_memory_equal(q[0], q[1], sizeof q[0]);
    assert_memory_equal(scale[0], scale[1], sizeof scale[0]);
    if (choice / 2 == IFA_SCALE_TOKEN_CHANNEL)
      assert_memory_equal(channel[0], channel[1], sizeof channel[0]);
    if (choice % 2) assert_memory_equal(mean[0], mean[1], sizeof mean[0]);
  }
  x[2 * TOKENS * DIM + 1234 * DIM + 5] = NAN; /* the first in order is named, whoever sees it */
  x[2 * TOKENS * DIM + 2345 * DIM + 6] = INFINITY;
  ifa_quantize_args a = {.src = x,
                         .batch = 1,
                         .heads = HEADS,
                         .tokens = TOKENS,
                         .head_dim = DIM,
                         .dst = q[0],
                         .dst_type = IFA_I8,
                         .granularity = IFA_SCALE_TOKEN,
                         .scale = scale[0]};
  expect(&a, IFA_BAD_DATA, "src[0][2][1234][5]", "nan");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_all_choices),       cmocka_unit_test(test_defaults),
      cmocka_unit_test(test_by_hand),           cmocka_unit_test(test_tiny_groups),
      cmocka_unit_test(test_scales_are_usable), cmocka_unit_test(test_bad_data),
      cmocka_unit_test(test_bad_arguments),     cmocka_unit_test(test_bad_strides),
      cmocka_unit_test(test_bad_stride_status), cmocka_unit_test(test_empty),
      cmocka_unit_test(test_token_order),       cmocka_unit_test(test_environment),
      cmocka_unit_test(test_scale_count),       cmocka_unit_test(test_large),
  };
  int failed = 0;
  for (implementation = THE_LIBRARY;
       implementation < ROWS || ifa_row_kernels_at(implementation - ROWS); implementation++)
    failed += cmocka_run_group_tests(tests, NULL, NULL);
  return failed;
}
