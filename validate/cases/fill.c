#include "validate/cases/fill.h"

#include <math.h>

#include "common/operand.h"
#include "common/problem.h"
#include "common/random.h"
#include "common/team.h"

/* Sequences of random numbers, one a purpose: STREAM_VALUES + operand, and so on. */
enum {
  STREAM_VALUES = 0,
  STREAM_TOKENS = 8,
  STREAM_INTEGERS = 16,
  STREAM_SCALES = 24,
  STREAM_CHANNELS = 32
};

static int64_t tokens_of(const ifa_problem *p, ifa_operand operand) {
  return operand == IFA_OPERAND_Q ? p->nq : p->nk;
}
static int64_t heads_of(const ifa_problem *p, ifa_operand operand) {
  return operand == IFA_OPERAND_Q ? p->q_heads : p->kv_heads;
}

/* One element being filled: its place, and its number in the dense tensor. */
typedef struct element {
  ifa_operand operand;
  int64_t matrix, token, d, number;
} element;

static float normal(const ifa_case *c, const element *e) {
  return ifa_random_normal(c->seed, STREAM_VALUES + e->operand, (uint64_t)e->number);
}

/* Every token of a matrix is the same vector; in `equal_keys` only the keys are. */
static float same_tokens(const ifa_case *c, const element *e) {
  return ifa_random_normal(c->seed, STREAM_VALUES + e->operand,
                           (uint64_t)(e->matrix * c->problem.head_dim + e->d));
}

/* The least and the largest value, and 0, at a scale of each token's own. */
static float extremes(const ifa_case *c, const element *e) {
  static const float values[3] = {-1.0f, 0.0f, 1.0f};
  uint64_t token = (uint64_t)(e->matrix * tokens_of(&c->problem, e->operand) + e->token);
  float scale = ldexpf(1.0f, -(int)ifa_random_below(c->seed, STREAM_TOKENS + e->operand, token, 4));
  return scale *
         values[ifa_random_below(c->seed, STREAM_VALUES + e->operand, (uint64_t)e->number, 3)];
}

/* Channel 3 of K carries an offset of 30, as outlier channels of language models do; channel 5 of V
 * is 30 times larger. */
static float outlier(const ifa_case *c, const element *e) {
  float x = normal(c, e);
  if (e->operand == IFA_OPERAND_K && e->d == 3 % c->problem.head_dim) return 30.0f + x;
  return e->operand == IFA_OPERAND_V && e->d == 5 % c->problem.head_dim ? 30.0f * x : x;
}

/* Along u = (1,..,1)/sqrt(D): queries shifted by 6, key 0 is 22 u. With sm = 1/sqrt(D) token 0
 * scores 132/sqrt(D) nats. */
static float sink(const ifa_case *c, const element *e) {
  float u = 1.0f / sqrtf((float)c->problem.head_dim), x = normal(c, e);
  if (e->operand == IFA_OPERAND_Q) return x + 6.0f * u;
  if (e->token != 0) return x;
  return e->operand == IFA_OPERAND_K ? 22.0f * u : 0.02f * x;
}

/* Queries near (1,..,1), keys c (1,..,1)/sqrt(D): with sm = 1/sqrt(D), key j scores about c nats; c
 * steps by 1.5 each 64 keys. */
static float staircase(const ifa_case *c, const element *e, int64_t step) {
  if (e->operand == IFA_OPERAND_V) return normal(c, e);
  float noise = 0.25f * normal(c, e);
  if (e->operand == IFA_OPERAND_Q) return 1.0f + noise;
  return noise + 1.5f * (float)step / sqrtf((float)c->problem.head_dim);
}

static float equal_keys(const ifa_case *c, const element *e) {
  return e->operand == IFA_OPERAND_K ? same_tokens(c, e) : normal(c, e);
}

static float zero_tokens(const ifa_case *c, const element *e) {
  uint64_t token = (uint64_t)(e->matrix * tokens_of(&c->problem, e->operand) + e->token);
  int zero = ifa_random_below(c->seed, STREAM_TOKENS + e->operand, token, 4) == 0 ||
             (e->operand == IFA_OPERAND_V && e->token < 64);
  return zero ? 0.0f : normal(c, e);
}

/* Each token at a scale of its own, an eighth of them zero. (`wide` draws the operands; these
 * floats are for what needs some.) */
static float wide(const ifa_case *c, const element *e) {
  uint64_t token = (uint64_t)(e->matrix * tokens_of(&c->problem, e->operand) + e->token);
  uint32_t octave = ifa_random_below(c->seed, STREAM_TOKENS + e->operand, token, 32);
  return octave < 4 ? 0.0f : ldexpf(normal(c, e), -(int)octave);
}

static float value_at(const ifa_case *c, const element *e) {
  switch (c->fill) {
    case IFA_FILL_UNIFORM:
      return ifa_random_uniform(c->seed, STREAM_VALUES + e->operand, (uint64_t)e->number);
    case IFA_FILL_CENTRED:
      return ifa_random_uniform(c->seed, STREAM_VALUES + e->operand, (uint64_t)e->number) - 0.5f;
    case IFA_FILL_CONSTANT: return same_tokens(c, e);
    case IFA_FILL_EXTREMES: return extremes(c, e);
    case IFA_FILL_OUTLIER: return outlier(c, e);
    case IFA_FILL_SINK: return sink(c, e);
    case IFA_FILL_RISING: return staircase(c, e, e->token / 64);
    case IFA_FILL_FALLING: return staircase(c, e, (c->problem.nk - 1 - e->token) / 64);
    case IFA_FILL_EQUAL: return equal_keys(c, e);
    case IFA_FILL_ZEROS: return zero_tokens(c, e);
    case IFA_FILL_WIDE: return wide(c, e);
    default: return normal(c, e);
  }
}

/* Elements beyond are refused by the quantizers (docs/numerics.md, section 12). */
#define LARGEST_FLOAT 0x1p99f

/* Times 2^exponent. Of a fill that draws operands the floats belong to no operand: they stay
 * within what the quantizers take, so that the case is valid however far its scales are moved. */
static float moved_float(const ifa_case *c, ifa_operand operand, float x) {
  float moved = ldexpf(x, c->exponent[operand]);
  if (ifa_fill_draws_operands(c->fill)) moved = fminf(fmaxf(moved, -LARGEST_FLOAT), LARGEST_FLOAT);
  return c->minus_zero && moved == 0.0f ? -0.0f : moved;
}

typedef struct filling {
  const ifa_case *c;
  ifa_operand operand;
  int64_t tokens;
  float *values;
  ifa_team_items rows;
} filling;

static void fill_rows(void *context, int member) {
  (void)member;
  filling *f = context;
  const int64_t dim = f->c->problem.head_dim;
  for (int64_t row; (row = ifa_team_take(&f->rows)) < f->rows.count;)
    for (int64_t d = 0; d < dim; d++) {
      element e = {f->operand, row / f->tokens, row % f->tokens, d, row * dim + d};
      f->values[e.number] = moved_float(f->c, f->operand, value_at(f->c, &e));
    }
}

void ifa_fill_floats(const ifa_case *c, ifa_operand operand, float *values) {
  const ifa_problem *p = &c->problem;
  filling f = {.c = c, .operand = operand, .tokens = tokens_of(p, operand), .values = values};
  f.rows.count = p->batch * heads_of(p, operand) * f.tokens;
  /* tens of nanoseconds an element */
  ifa_team_run(
      ifa_team_size(ifa_team_default(), f.rows.count, 30.0 * (double)f.rows.count * p->head_dim),
      fill_rows, &f);
}

/* Log-uniform over four octaves below `largest`. */
static float random_scale(const ifa_case *c, uint64_t stream, int64_t index, float largest) {
  uint32_t octave = ifa_random_below(c->seed, stream, (uint64_t)index, 4);
  return largest * ldexpf(0.5f + 0.5f * ifa_random_uniform(c->seed, stream + 4, (uint64_t)index),
                          -(int)octave);
}

/* One in eight is 0, one in eight a power of two; the rest log-uniform over `octaves` below
 * `largest`. */
static float wide_scale(const ifa_case *c, uint64_t stream, int64_t index, float largest,
                        uint32_t octaves) {
  uint32_t kind = ifa_random_below(c->seed, stream, (uint64_t)index, 8),
           octave = ifa_random_below(c->seed, stream + 40, (uint64_t)index, octaves);
  if (kind == 0) return 0.0f;
  if (kind == 1) return ldexpf(1.0f, ilogbf(largest) - (int)octave);
  return largest * ldexpf(0.5f + 0.5f * ifa_random_uniform(c->seed, stream + 4, (uint64_t)index),
                          -(int)octave);
}

/* Times 2^exponent, and still a valid scale. */
static float moved_scale(float scale, int exponent) {
  if (scale == 0.0f) return 0.0f;
  return fminf(fmaxf(ldexpf(scale, exponent), 0x1p-100f), 0x1p100f);
}

static int32_t drawn_value(const ifa_case *c, ifa_operand operand, int64_t number, int32_t top) {
  uint32_t draw = ifa_random_below(c->seed, STREAM_INTEGERS + operand, (uint64_t)number,
                                   c->fill == IFA_FILL_WIDE ? (uint32_t)(2 * top + 2) : 8);
  if (c->fill == IFA_FILL_WIDE) return (int32_t)draw - top - 1;
  return draw == 0 ? 0 : draw < 5 ? -top - 1 : top;
}

static float drawn_scale(const ifa_case *c, ifa_operand operand, uint64_t stream, int64_t index,
                         float largest) {
  float scale = c->fill == IFA_FILL_WIDE
                    ? wide_scale(c, stream, index, largest, operand == IFA_OPERAND_V ? 28 : 6)
                    : random_scale(c, stream, index, largest);
  return moved_scale(scale, c->exponent[operand]);
}

void ifa_fill_operands(const ifa_case *c, ifa_operand operand, void *integers, float *scale,
                       int64_t scale_count, float *channel_scale) {
  const ifa_problem *p = &c->problem;
  const ifa_type types[3] = {p->q_type, p->k_type, p->v_type};
  const ifa_strides strides[3] = {p->q_stride, p->k_stride, p->v_stride};
  int64_t heads = heads_of(p, operand), tokens = tokens_of(p, operand), number = 0;
  int32_t top = types[operand] == IFA_I4 ? 7 : 127;
  for (int64_t b = 0; b < p->batch; b++)
    for (int64_t h = 0; h < heads; h++)
      for (int64_t t = 0; t < tokens; t++)
        for (int64_t d = 0; d < p->head_dim; d++, number++)
          ifa_operand_set(types[operand], integers, ifa_offset(strides[operand], b, h, t) + d,
                          drawn_value(c, operand, number, top));
  for (int64_t i = 0; i < scale_count; i++)
    scale[i] = drawn_scale(c, operand, STREAM_SCALES + (uint64_t)operand, i, 1.0f / (float)top);
  for (int64_t i = 0; channel_scale && i < p->batch * heads * p->head_dim; i++)
    channel_scale[i] = drawn_scale(c, operand, STREAM_CHANNELS, i, 1.0f);
}
