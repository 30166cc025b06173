/* from_floats.c - ifa_cpu_attention: float tensors in, float tensors out, with the bits of
 * ifa_quantize and ifa_run.
 *
 * K and V are made into the kernels' tiles at once, 16 tokens at a time, and Q as its blocks of
 * rows are loaded (cpu/attend.c), so the only integer tensors are those the kernels read. What must
 * be known of a whole matrix before it can be quantized (K's mean, the largest magnitude of a
 * channel, of a block or of the matrix) is looked for first: the passes that the scale choice asks
 * for.
 *
 * The workspace: tiles [batch][kv_head][tile], of which a member of the team uses a matrix at a
 * time where there are enough of them; what is known of matrices; what attention needs. */
#include <math.h>
#include <string.h>

#include "common/fpenv.h"
#include "common/message.h"
#include "common/quantize.h"
#include "common/team.h"
#include "cpu/attend.h"
#include "ifa_cpu.h"

enum { TOGETHER = 16 }; /* tokens */

/* ---- settings to start from ---- */

ifa_cpu_attention_args ifa_cpu_attention_accurate(int64_t batch, int64_t q_heads, int64_t kv_heads,
                                                  int64_t nq, int64_t nk, int32_t head_dim) {
  ifa_cpu_attention_args a = {.problem = ifa_problem_default(), .subtract_k_mean = 1};
  a.problem.batch = batch;
  a.problem.q_heads = q_heads;
  a.problem.kv_heads = kv_heads;
  a.problem.nq = nq;
  a.problem.nk = nk;
  a.problem.head_dim = head_dim;
  /* a head_dim that is none is refused later */
  a.problem.sm_scale = head_dim > 0 ? 1.0f / sqrtf((float)head_dim) : 0.0f;
  a.problem.v_scale = IFA_SCALE_TOKEN;
  return a;
}

ifa_cpu_attention_args ifa_cpu_attention_fast(int64_t batch, int64_t q_heads, int64_t kv_heads,
                                              int64_t nq, int64_t nk, int32_t head_dim) {
  ifa_cpu_attention_args a = ifa_cpu_attention_accurate(batch, q_heads, kv_heads, nq, nk, head_dim);
  a.problem.v_scale = IFA_SCALE_CHANNEL;
  a.subtract_k_mean = 0;
  return a;
}

/* ---- a call ---- */

/* One of q, k and v. */
typedef struct source {
  const char *name;
  const void *data;
  ifa_strides stride;
  int64_t heads, tokens;
  int32_t most;   /* of the integers: 127 or 7 */
  int64_t group;  /* tokens that share a scale found before; 0: each token has its own */
  int64_t groups; /* of a matrix */
  /* [matrix][groups], or [matrix][head_dim] if by channel; what is not needed is NULL */
  float *scale, *inverse;
  float *mean; /* [matrix][head_dim] */
} source;

typedef struct call {
  const ifa_cpu_attention_args *a;
  ifa_problem p; /* resolved; q_stride, k_stride, v_stride are those of the floats */
  ifa_cpu_layout y;
  const ifa_row_kernels *rows;
  source q, k, v;
  uint8_t *tiles, *attend;
  size_t bytes; /* of the whole workspace */
  int64_t of_matrix, matrices,
      together; /* tiles of a matrix; key/value matrices; a piece's tiles */
  _Atomic uint32_t q_largest, k_largest; /* bits of the largest scale */
  _Atomic int bad;                       /* something was not acceptable */
  ifa_team_items pieces;
} call;

static int by_channel(const call *c, const source *s) {
  return s == &c->v &&
         (c->p.v_scale == IFA_SCALE_CHANNEL || c->p.v_scale == IFA_SCALE_TOKEN_CHANNEL);
}

static int64_t offset(const source *s, int64_t matrix, int64_t token) {
  return ifa_offset(s->stride, matrix / s->heads, matrix % s->heads, token);
}

/* A token's row less its matrix's mean, where it lies or in x; *largest: the bits of its largest
 * magnitude. A row with an element that is not acceptable is noted, and all 0. */
static const float *load(call *c, const source *s, int64_t matrix, int64_t token, float *x,
                         uint32_t *largest) {
  const int32_t dim = c->p.head_dim;
  const int64_t at = offset(s, matrix, token);
  const float *row = x;
  if (c->a->type == IFA_F32) {
    row = (const float *)s->data + at;
    *largest = c->rows->largest(row, dim, 0);
  } else {
    *largest = c->rows->widen(c->a->type, s->data, at, dim, x);
  }
  if (*largest > IFA_ROW_LARGEST) {
    atomic_store_explicit(&c->bad, 1, memory_order_relaxed);
    memset(x, 0, (size_t)dim * sizeof *x);
    row = x;
    *largest = 0;
  }
  if (!s->mean) return row;
  if (row != x) memcpy(x, row, (size_t)dim * sizeof *x);
  c->rows->subtract(x, s->mean + matrix * dim, dim);
  *largest = c->rows->largest(x, dim, 0);
  return x;
}

/* The same where nothing is subtracted and nothing noted; a row with an element that
 * is not acceptable may be all of them. */
static const float *load_unchecked(const call *c, const source *s, int64_t matrix, int64_t token,
                                   float *x) {
  const int32_t dim = c->p.head_dim;
  const int64_t at = offset(s, matrix, token);
  if (c->a->type == IFA_F32) return (const float *)s->data + at;
  if (c->rows->widen(c->a->type, s->data, at, dim, x) > IFA_ROW_LARGEST)
    for (int32_t d = 0; d < dim; d++) x[d] = INFINITY;
  return x;
}

/* ---- what must be known of a matrix first ---- */

static void find_mean(call *c, const source *s, int64_t matrix) {
  const int32_t dim = c->p.head_dim;
  float x[IFA_MAX_HEAD_DIM];
  ifa_row_mean sums;
  source plain = *s;
  uint32_t largest = 0, of_row;
  plain.mean = NULL;
  for (int64_t t = 0; t < s->tokens; t++) {
    load(c, &plain, matrix, t, x, &of_row);
    largest = of_row > largest ? of_row : largest;
  }
  ifa_row_mean_begin(&sums, largest, dim);
  sums.zero |= atomic_load_explicit(&c->bad, memory_order_relaxed); /* nothing will be right */
  for (int64_t t = 0; t < s->tokens; t++)
    ifa_row_mean_add(c->rows, &sums, load_unchecked(c, s, matrix, t, x));
  ifa_row_mean_end(&sums, s->mean + matrix * dim);
}

static void find_groups(call *c, source *s, int64_t matrix) {
  float x[IFA_MAX_HEAD_DIM];
  for (int64_t g = 0; g < s->groups; g++) {
    uint32_t largest = 0, of_row;
    for (int64_t t = g * s->group; t < ifa_min64((g + 1) * s->group, s->tokens); t++) {
      load(c, s, matrix, t, x, &of_row);
      largest = of_row > largest ? of_row : largest;
    }
    const int64_t at = matrix * s->groups + g;
    s->scale[at] = ifa_group_scale(ifa_f32_of_bits(largest), (float)s->most, &s->inverse[at]);
  }
}

/* V per token and channel: x / c_d is quantized, c_d the channel's largest magnitude. */
static void find_channels(call *c, source *s, int64_t matrix) {
  const int32_t dim = c->p.head_dim;
  const float most = c->p.v_scale == IFA_SCALE_CHANNEL ? (float)s->most : 1.0f;
  float x[IFA_MAX_HEAD_DIM];
  uint32_t largest[IFA_MAX_HEAD_DIM] = {0};
  for (int64_t t = 0; t < s->tokens; t++)
    c->rows->largest_by_channel(load_unchecked(c, s, matrix, t, x), dim, largest);
  for (int32_t d = 0; d < dim; d++) {
    if (largest[d] <= IFA_ROW_LARGEST) continue;
    atomic_store_explicit(&c->bad, 1, memory_order_relaxed);
    largest[d] = 0;
  }
  c->rows->group_scales(largest, most, dim, s->scale + matrix * dim, s->inverse + matrix * dim);
}

static void prepare(call *c, source *s, int64_t matrix) {
  if (s->mean) find_mean(c, s, matrix);
  if (by_channel(c, s)) find_channels(c, s, matrix);
  else if (s->group) find_groups(c, s, matrix);
}

/* The query heads of a key/value head. */
static void prepare_queries(call *c, int64_t matrix) {
  const int64_t group = c->p.q_heads / c->p.kv_heads;
  for (int64_t i = 0; c->q.group && i < group; i++) prepare(c, &c->q, matrix * group + i);
}

/* ---- tiles ---- */

/* Up to 16 tokens with a scale each: at once. */
static void quantize_tokens(call *c, const source *s, int64_t matrix, int64_t first, int32_t count,
                            float *scale, int8_t *const *q) {
  int64_t at[TOGETHER];
  for (int32_t i = 0; i < count; i++) at[i] = offset(s, matrix, first + i);
  if (c->rows->token_rows(c->a->type, s->data, at, count, c->p.head_dim, s->most,
                          s->mean ? s->mean + matrix * c->p.head_dim : NULL, scale, q))
    return;
  atomic_store_explicit(&c->bad, 1, memory_order_relaxed);
  for (int32_t i = 0; i < count; i++) {
    memset(q[i], 0, (size_t)c->p.head_dim);
    scale[i] = 0.0f;
  }
}

/* Tokens first .. first + count - 1 (at most 16) of K or V. scale: where each has its own, else 1.
 */
static void quantize(call *c, const source *s, int64_t matrix, int64_t first, int32_t count,
                     float *scale, int8_t *const *q) {
  const int32_t dim = c->p.head_dim;
  const ifa_type type = s->most == 7 ? IFA_I4 : IFA_I8;
  const float *channel = by_channel(c, s) ? s->inverse + matrix * dim : NULL;
  const int own_scale = !s->group && (!channel || c->p.v_scale == IFA_SCALE_TOKEN_CHANNEL);
  float x[IFA_MAX_HEAD_DIM];
  uint32_t largest;
  if (own_scale && !channel) {
    quantize_tokens(c, s, matrix, first, count, scale, q);
    return;
  }
  for (int32_t i = 0; i < count; i++) {
    /* where scales were found before, all elements were looked at; what is not acceptable gives
     * some integers */
    const float *row = own_scale || s->mean ? load(c, s, matrix, first + i, x, &largest)
                                            : load_unchecked(c, s, matrix, first + i, x);
    scale[i] = 1.0f;
    if (s->group) {
      const int64_t group = matrix * s->groups + (first + i) / s->group;
      c->rows->grid(row, s->inverse[group], dim, q[i]);
    } else if (!own_scale) {
      c->rows->grid_by_channel(row, channel, dim, q[i]);
    } else { /* x / c_d */
      if (row != x) memcpy(x, row, (size_t)dim * sizeof *x);
      c->rows->multiply(x, channel, dim);
      scale[i] = ifa_row_quantize(c->rows, x, dim, c->rows->largest(x, dim, 0), type, q[i]);
    }
  }
}

/* Tile t of a matrix. Returned is the largest of its scales of K. */
static float make_tile(call *c, int64_t matrix, int64_t t, uint8_t *tile) {
  const ifa_problem *p = &c->p;
  const ifa_cpu_layout *y = &c->y;
  const int64_t start = t * y->keys;
  const int32_t count = (int32_t)ifa_min64(y->keys, p->nk - start);
  float *k_scale = ifa_cpu_k_scale(y, tile), *v_scale = ifa_cpu_v_scale(y, tile), largest = 0.0f;
  float unused[TOGETHER];
  int8_t q[TOGETHER][IFA_MAX_HEAD_DIM], *row[TOGETHER];
  ifa_cpu_clear_keys(y, tile, (count + 15) / 16 * 16);
  if (y->dim != p->head_dim) memset(q, 0, sizeof q); /* channels behind head_dim stay 0 */
  for (int32_t i = 0; i < TOGETHER; i++) row[i] = q[i];
  for (int32_t key = 0; key < count; key += TOGETHER) {
    const int32_t rows = count - key < TOGETHER ? count - key : TOGETHER;
    for (int32_t i = rows; i < TOGETHER; i++) memset(q[i], 0, (size_t)y->dim);
    quantize(c, &c->k, matrix, start + key, rows, k_scale + key, row);
    ifa_cpu_put_keys(y, tile, key, (const int8_t *const *)row);
    quantize(c, &c->v, matrix, start + key, rows, ifa_values_per_token(p) ? v_scale + key : unused,
             row);
    ifa_cpu_put_values(y, tile, key, (const int8_t *const *)row);
  }
  ifa_cpu_head(y, tile)->k_factor =
      c->k.group ? c->k.scale[matrix * c->k.groups + start / c->k.group] : 1.0f;
  if (ifa_values_per_token(p) && count == y->keys) ifa_cpu_complete_values(y, tile);
  if (c->k.group) return ifa_cpu_head(y, tile)->k_factor;
  for (int32_t j = 0; j < count; j++) largest = k_scale[j] > largest ? k_scale[j] : largest;
  return largest;
}

/* A matrix whose tiles are made when they are read; two of them lie behind. */
typedef struct read_once {
  _Alignas(IFA_CPU_ALIGNMENT) call *c;
} read_once;

/* Q came first here, so it is its largest scale so far that the tile's scores are held against. */
static const uint8_t *make_when_read(const void *context, int64_t batch, int64_t kv_head,
                                     int64_t t) {
  const read_once *m = context;
  call *c = m->c;
  uint8_t *tile = (uint8_t *)(uintptr_t)(m + 1) + (t & 1) * c->y.bytes;
  const ifa_largest_scale k = {"k", 0, make_tile(c, batch * c->p.kv_heads + kv_head, t, tile)},
                          q = {"q", 0, ifa_f32_of_bits(atomic_load(&c->q_largest))};
  ifa_atomic_raise(&c->k_largest, ifa_bits_of_f32(k.value));
  if (ifa_check_octaves(&c->p, &q, &k, NULL) == IFA_OK) return tile;
  memset(ifa_cpu_k_scale(&c->y, tile), 0, (size_t)c->y.keys * sizeof(float));
  ifa_cpu_head(&c->y, tile)->k_factor = 0.0f;
  return tile;
}

static void make_matrix(void *context, int member, int64_t batch, int64_t kv_head,
                        ifa_cpu_job *own) {
  call *c = context;
  const int64_t number = batch * c->p.kv_heads + kv_head;
  uint8_t *tiles = c->tiles + member * c->of_matrix * c->y.bytes;
  float largest = 0.0f;
  prepare_queries(c, number);
  prepare(c, &c->k, number);
  prepare(c, &c->v, number);
  if (own->once && c->of_matrix > 2) {
    read_once *m = (read_once *)tiles;
    *m = (read_once){c};
    own->tile = make_when_read;
    own->context = m;
    return;
  }
  for (int64_t t = 0; t < c->of_matrix; t++)
    largest = fmaxf(largest, make_tile(c, number, t, tiles + t * c->y.bytes));
  ifa_atomic_raise(&c->k_largest, ifa_bits_of_f32(largest));
  own->floats.k.value = largest;
  own->tiles = tiles;
  own->matrix_bytes = 0;
}

static void take_preparations(void *context, int member) {
  call *c = context;
  ifa_fpenv env;
  (void)member;
  ifa_fpenv_enter(&env);
  for (int64_t i; (i = ifa_team_take(&c->pieces)) < c->pieces.count;) {
    if (i % 3 == 0) prepare_queries(c, i / 3);
    else prepare(c, i % 3 == 1 ? &c->k : &c->v, i / 3);
  }
  ifa_fpenv_leave(&env);
}

static void take_tiles(void *context, int member) {
  call *c = context;
  const int64_t count = c->matrices * c->of_matrix;
  ifa_fpenv env;
  (void)member;
  ifa_fpenv_enter(&env);
  for (int64_t piece; (piece = ifa_team_take(&c->pieces)) < c->pieces.count;)
    for (int64_t i = piece * c->together; i < ifa_min64(count, (piece + 1) * c->together); i++) {
      float largest = make_tile(c, i / c->of_matrix, i % c->of_matrix, c->tiles + i * c->y.bytes);
      ifa_atomic_raise(&c->k_largest, ifa_bits_of_f32(largest));
    }
  ifa_fpenv_leave(&env);
}

static void make_all(void *context, ifa_cpu_job *job) {
  call *c = context;
  const int64_t count = c->matrices * c->of_matrix;
  c->pieces = (ifa_team_items){.count = 3 * c->matrices};
  ifa_team_run(ifa_team_size(job->threads, c->pieces.count, job->make_nanoseconds),
               take_preparations, c);
  c->together = ifa_max64(1, count / (8 * job->threads));
  c->pieces = (ifa_team_items){.count = ifa_ceil_div(count, c->together)};
  ifa_team_run(ifa_team_size(job->threads, c->pieces.count, job->make_nanoseconds), take_tiles, c);
  job->floats.k.value = ifa_f32_of_bits(atomic_load(&c->k_largest));
  job->tiles = c->tiles;
  job->matrix_bytes = (size_t)(c->of_matrix * c->y.bytes);
}

/* ---- checks, and the workspace ---- */

/* Parts of the workspace, one after the other; from NULL only their size is of use. */
static void *take(uint8_t *base, size_t *used, int64_t bytes) {
  uint8_t *at = base ? base + *used : NULL;
  *used += ((size_t)bytes + IFA_CPU_ALIGNMENT - 1) / IFA_CPU_ALIGNMENT * IFA_CPU_ALIGNMENT;
  return at;
}

static source source_of(const call *c, const char *name, const void *data, ifa_strides stride,
                        int64_t heads, int64_t tokens, ifa_type type) {
  source s = {.name = name,
              .data = data,
              .stride = stride,
              .heads = heads,
              .tokens = tokens,
              .most = type == IFA_I4 ? 7 : 127};
  if (stride.batch == 0 && stride.head == 0 && stride.token == 0)
    s.stride = ifa_strides_bhnd(c->a->type, heads, tokens, c->p.head_dim);
  return s;
}

/* Room for what is known of a matrix first. */
static void find_room(call *c, source *s, ifa_granularity granularity, int32_t block, int mean,
                      uint8_t *base) {
  const int64_t matrices = c->p.batch * s->heads, dim = c->p.head_dim;
  int64_t count = 0;
  if (granularity == IFA_SCALE_BLOCK) s->group = block;
  if (granularity == IFA_SCALE_TENSOR) s->group = ifa_max64(1, s->tokens);
  if (s->group) count = s->groups = ifa_max64(1, ifa_ceil_div(s->tokens, s->group));
  if (granularity == IFA_SCALE_CHANNEL || granularity == IFA_SCALE_TOKEN_CHANNEL) count = dim;
  if (count) s->scale = take(base, &c->bytes, matrices * count * 4);
  if (count) s->inverse = take(base, &c->bytes, matrices * count * 4);
  if (mean) s->mean = take(base, &c->bytes, matrices * dim * 4);
}

/* Everything but the pointers is checked here. */
static ifa_status make_call(const ifa_cpu_attention_args *a, void *workspace, int threads, call *c,
                            ifa_message *message) {
  if (!a) return ifa_fail(message, IFA_BAD_ARGUMENT, "args is NULL");
  memset(c, 0, sizeof *c);
  c->a = a;
  c->p = a->problem;
  c->p.q_stride = c->p.k_stride = c->p.v_stride = (ifa_strides){0, 0, 0};
  ifa_status status = ifa_check_type("type", a->type, IFA_F32, IFA_BF16, message);
  if (status == IFA_OK)
    status = ifa_check_range("subtract_k_mean", a->subtract_k_mean, 0, 1, message);
  if (status == IFA_OK) status = ifa_problem_check(&c->p, message);
  if (status == IFA_OK)
    status = ifa_check_range("threads", threads, 1, IFA_CPU_MAX_THREADS, message);
  if (status != IFA_OK) return status;
  c->p = ifa_cpu_small_tile(ifa_problem_resolved(&c->p));
  const ifa_problem *p = &c->p;
  c->q = source_of(c, "q", a->q, a->problem.q_stride, p->q_heads, p->nq, p->q_type);
  c->k = source_of(c, "k", a->k, a->problem.k_stride, p->kv_heads, p->nk, p->k_type);
  c->v = source_of(c, "v", a->v, a->problem.v_stride, p->kv_heads, p->nk, p->v_type);
  c->p.q_stride = c->q.stride;
  const source *const sources[] = {&c->q, &c->k, &c->v};
  static const char *const names[] = {"q_stride", "k_stride", "v_stride"};
  for (int i = 0; i < 3; i++)
    if (ifa_check_strides(names[i], a->type, sources[i]->stride, p->batch, sources[i]->heads,
                          sources[i]->tokens, p->head_dim, 0, message) != IFA_OK)
      return IFA_BAD_ARGUMENT; /* here the strides are not a problem's */
  c->y = ifa_cpu_layout_of(p->kv_tile, p->head_dim, 8, 8);
  c->rows = ifa_row_kernels_best();
  c->of_matrix = ifa_ceil_div(p->nk, p->kv_tile);
  c->matrices = p->batch * p->kv_heads;
  c->tiles = take(workspace, &c->bytes, c->matrices * c->of_matrix * c->y.bytes);
  find_room(c, &c->q, p->q_scale, p->q_block, 0, workspace);
  find_room(c, &c->k, p->k_scale, p->k_block, a->subtract_k_mean, workspace);
  find_room(c, &c->v, p->v_scale, 0, 0, workspace);
  c->attend = take(workspace, &c->bytes, (int64_t)ifa_cpu_attend_bytes(p, threads));
  return IFA_OK;
}

static ifa_status check_pointers(const ifa_cpu_attention_args *a, const call *c, void *workspace,
                                 size_t workspace_bytes, ifa_message *message) {
  const struct {
    const char *name;
    const void *pointer;
    int needed;
  } list[] = {{"q", a->q, 1}, {"k", a->k, c->p.nk > 0},  {"v", a->v, c->p.nk > 0},
              {"o", a->o, 1}, {"lse", a->lse, c->p.lse}, {"workspace", workspace, 1}};
  for (size_t i = 0; i < sizeof list / sizeof list[0]; i++)
    if (list[i].needed && !list[i].pointer)
      return ifa_fail(message, IFA_BAD_ARGUMENT, "%s is NULL", list[i].name);
  if (a->lse && !c->p.lse)
    return ifa_fail(message, IFA_BAD_ARGUMENT, "lse is given but problem.lse is 0");
  return ifa_cpu_check_workspace(workspace, workspace_bytes, c->bytes, message);
}

ifa_status ifa_cpu_attention_workspace_bytes(const ifa_cpu_attention_args *args, int threads,
                                             size_t *bytes, ifa_message *message) {
  call c;
  ifa_status status = make_call(args, NULL, threads, &c, message);
  if (status != IFA_OK) return status;
  if (!bytes) return ifa_fail(message, IFA_BAD_ARGUMENT, "bytes is NULL");
  *bytes = c.bytes;
  return ifa_succeed(message);
}

/* ---- the call ---- */

/* What was not acceptable: the first element, or scores that could be too large. */
static ifa_status look_at_data(const call *c, ifa_message *message) {
  ifa_status status = IFA_OK;
  const source *const sources[] = {&c->q, &c->k, &c->v};
  for (int i = 0; i < 3 && atomic_load(&c->bad); i++) {
    const source *s = sources[i];
    ifa_quantize_args q = {.src = s->data,
                           .src_type = c->a->type,
                           .src_stride = s->stride,
                           .tokens = s->tokens,
                           .head_dim = c->p.head_dim};
    for (int64_t n = 0; n < c->p.batch * s->heads && status == IFA_OK; n++)
      status = ifa_quantize_check_elements(s->name, &q, n / s->heads, n % s->heads, message);
    if (status != IFA_OK) return status;
  }
  const ifa_largest_scale q_max = {"q", 0, ifa_f32_of_bits(atomic_load(&c->q_largest))},
                          k_max = {"k", 0, ifa_f32_of_bits(atomic_load(&c->k_largest))};
  if (ifa_check_octaves(&c->p, &q_max, &k_max, NULL) == IFA_OK) return IFA_OK;
  return ifa_fail(message, IFA_BAD_DATA,
                  "the largest scales, %g of q and %g of k, times sm_scale %g allow scores of more "
                  "than 2^22 octaves",
                  (double)q_max.value, (double)k_max.value, (double)c->p.sm_scale);
}

/* Everything was checked but the floats. */
static ifa_status run(call *c, const ifa_cpu_choice *isa, int threads, ifa_message *message) {
  const ifa_problem *p = &c->p;
  const int channels = p->v_scale == IFA_SCALE_TOKEN_CHANNEL;
  const ifa_inputs in = {.q = c->q.data,
                         .q_scale = c->q.scale,
                         .v_scale = c->v.scale,
                         .v_channel_scale = channels ? c->v.scale : NULL};
  const ifa_outputs out = {.o = c->a->o, .lse = c->a->lse};
  ifa_cpu_job job = {.p = p,
                     .in = &in,
                     .out = &out,
                     .floats = {.kernels = c->rows,
                                .type = c->a->type,
                                .inverse = c->q.inverse,
                                .k = {"k", 0, 0.0f},
                                .largest = &c->q_largest,
                                .bad = &c->bad},
                     .layout = c->y,
                     .make_matrix = make_matrix,
                     .make_all = make_all,
                     .make_context = c,
                     .many = isa->many->kernels,
                     .few = isa->few->kernels,
                     .threads = threads};
  /* a fifth of one an element and pass over it */
  const int64_t passes = 2 + 3 * c->a->subtract_k_mean + (c->v.inverse != NULL);
  job.make_nanoseconds =
      0.2 * (double)passes * (double)c->matrices * (double)p->nk * (double)p->head_dim;
  ifa_cpu_attend_tiles(&job, c->attend);
  return look_at_data(c, message);
}

ifa_status ifa_cpu_attention(const char *isa, const ifa_cpu_attention_args *args, void *workspace,
                             size_t workspace_bytes, int threads, ifa_message *message) {
  call c;
  ifa_cpu_choice found;
  ifa_status status = make_call(args, workspace, threads, &c, message);
  if (status == IFA_OK) status = ifa_cpu_choose(isa, &found, message);
  if (status != IFA_OK) return status;
  if (c.p.nq == 0) return ifa_succeed(message);
  if ((status = check_pointers(args, &c, workspace, workspace_bytes, message)) != IFA_OK)
    return status;
  ifa_fpenv env;
  ifa_fpenv_enter(&env);
  status = run(&c, &found, threads, message);
  ifa_fpenv_leave(&env);
  return status == IFA_OK ? ifa_succeed(message) : status;
}
