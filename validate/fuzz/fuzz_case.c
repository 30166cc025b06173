#include "validate/fuzz/fuzz_case.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/operand.h"
#include "common/problem.h"
#include "common/random.h"

/* ---- drawing ---- */

typedef struct dice {
  uint64_t seed, index, drawn;
} dice;

enum { STREAM_FUZZ = 77 };

static int64_t below(dice *d, int64_t count) {
  return (int64_t)(ifa_random_bits(d->seed, STREAM_FUZZ + (d->drawn++ << 8), d->index) %
                   (uint64_t)(count > 0 ? count : 1));
}

static int one_in(dice *d, int64_t n) { return below(d, n) == 0; }

static int64_t one_of(dice *d, const int64_t *values, size_t count) {
  return values[below(d, (int64_t)count)];
}
#define ONE_OF(d, ...)                      \
  one_of(d, (const int64_t[]){__VA_ARGS__}, \
         sizeof((const int64_t[]){__VA_ARGS__}) / sizeof(int64_t))

/* At a border, one before it, one after it; never negative. */
static int64_t around(dice *d, int64_t border) { return ifa_max64(0, border - 1 + below(d, 3)); }

/* ---- a case, as text ---- */

typedef struct draft {
  char text[IFA_CASE_TEXT];
  size_t used;
} draft;

static void word(draft *t, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void word(draft *t, const char *format, ...) {
  va_list args;
  va_start(args, format);
  t->used += (size_t)vsnprintf(t->text + t->used, sizeof t->text - t->used, format, args);
  va_end(args);
}

static int64_t draw_keys(dice *d, int64_t tile, int64_t split) {
  switch (below(d, 8)) {
    case 0: return below(d, 4);
    case 1: return below(d, 400);
    case 2: return split ? around(d, split * (1 + below(d, 3))) : around(d, tile);
    case 3: return split ? split * (1 + below(d, 2)) + around(d, tile) : around(d, 2 * tile);
    default: return around(d, tile * below(d, 7));
  }
}

static int64_t draw_queries(dice *d, int64_t nk) {
  switch (below(d, 6)) {
    case 0: return below(d, 4);
    case 1: return around(d, nk);
    case 2: return below(d, 200);
    default: return around(d, 16 * below(d, 6));
  }
}

static int64_t draw_dim(dice *d) {
  if (one_in(d, 3)) return 1 + below(d, 256);
  return ONE_OF(d, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 48, 63, 64, 65, 80, 96, 127, 128, 129,
                159, 160, 161, 191, 192, 193, 224, 255, 256);
}

/* Even strides with gaps; heads of an operand may share storage. */
static void draw_strides(dice *d, draft *t, const char *key, int64_t heads, int64_t tokens,
                         int64_t dim, int shared) {
  int64_t token = (dim + 1) / 2 * 2 + 2 * below(d, 4),
          head = token * ifa_max64(tokens, 1) + 2 * below(d, 9),
          batch = head * heads + 2 * below(d, 9);
  if (shared && one_in(d, 3)) head = 0;
  if (shared && one_in(d, 6)) batch = 0;
  word(t, "%s=%lld:%lld:%lld ", key, (long long)batch, (long long)head, (long long)token);
}

static void draw_masks(dice *d, draft *t, int64_t nk, int64_t tile) {
  word(t, "causal=%d ", (int)below(d, 2));
  if (one_in(d, 2)) return;
  int64_t window = one_in(d, 3)   ? below(d, nk + 10)
                   : one_in(d, 3) ? around(d, nk)
                   : one_in(d, 2) ? 1 + below(d, 3)
                                  : around(d, tile * (1 + below(d, 2)));
  word(t, "window=%lld ", (long long)window);
}

static void draw_scales(dice *d, draft *t, int64_t nq, int64_t tile) {
  static const char *const names[] = {"token", "token", "block", "tensor"}, *const v_names[] = {
                                                                                "tensor", "channel",
                                                                                "token", "token",
                                                                                "token_channel"};
  int q = (int)below(d, 4), k = (int)below(d, 4);
  word(t, "qscale=%s kscale=%s vscale=%s ", names[q], names[k], v_names[below(d, 5)]);
  if (q == 2)
    word(t, "qblock=%lld ",
         (long long)ifa_max64(1, one_in(d, 3) ? around(d, nq) : ONE_OF(d, 1, 2, 7, 16, 64, 100)));
  if (k == 2) word(t, "kblock=%lld ", (long long)(tile * ONE_OF(d, 1, 1, 2, 3, 8, 1000)));
}

/* Where scores and scales lie: mostly ordinary, some at the ends of what is allowed. */
static void draw_range(dice *d, draft *t) {
  static const char *const scales[] = {
      "0", "0.3", "1", "5", "30", "1000", "0.00000095367431640625", "0.001", "1048576"};
  static const char *const taus[] = {"0", "1", "2", "3", "8", "63", "64", "inf", "inf"};
  if (one_in(d, 2)) word(t, "sm=%s ", scales[below(d, 9)]);
  word(t, "tau=%s ", taus[below(d, 9)]);
  if (one_in(d, 4)) {
    int64_t apart = one_in(d, 3) ? 60 + below(d, 30) : below(d, 60),
            both = one_in(d, 4) ? -70 + below(d, 60) : 0;
    if (one_in(d, 2)) apart = -apart;
    word(t, "qexp=%lld kexp=%lld ", (long long)(both ? both : apart),
         (long long)(both ? both : -apart));
  }
  if (one_in(d, 3))
    word(t, "vexp=%lld ", (long long)ONE_OF(d, -98, -94, -93, -80, -60, -18, -8, 10, 17, 40, 90));
}

static void draw_types(dice *d, draft *t) {
  static const char *const types[] = {"int8", "int8", "int4"}, *const outs[] = {"f32", "f32", "f16",
                                                                                "bf16"};
  word(t, "q=%s k=%s v=%s ", types[below(d, 3)], types[below(d, 3)], types[below(d, 3)]);
  word(t, "out=%s lse=%d ", outs[below(d, 4)], !one_in(d, 4));
}

ifa_case ifa_fuzz_case(uint64_t seed, uint64_t index) {
  dice dice_now = {seed, index, 0}, *d = &dice_now;
  draft text = {"", 0}, *t = &text;
  int64_t tile = one_in(d, 2) ? 64 : ONE_OF(d, 32, 128, 256),
          split = one_in(d, 2) ? 0 : tile * ONE_OF(d, 1, 1, 2, 2, 3, 4);
  int64_t nk = draw_keys(d, tile, split), nq = draw_queries(d, nk), dim = draw_dim(d);
  int64_t b = one_in(d, 3) ? 2 + below(d, 2) : 1, hkv = one_in(d, 3) ? 2 + below(d, 2) : 1,
          hq = hkv * ONE_OF(d, 1, 1, 2, 3), rows = 0;
  int is_long = one_in(d, 200);
  if (is_long) {
    tile = 64 << below(d, 3);
    split = one_in(d, 2) ? 0 : tile * (1 + below(d, 32768 / tile));
    nk = around(d, one_in(d, 2) ? 32768 * (1 + below(d, 3)) : 65536 + below(d, 3000));
    nq = one_in(d, 2) ? nk : around(d, 5);
    b = hkv = hq = 1;
    dim = ifa_min64(dim, 40);
    rows = 1 + below(d, 4);
  }
  while (!is_long && b * hq * nq * nk * dim > 1500000) { /* about a ms by the oracle */
    if (b > 1) b = 1;
    else if (hq > hkv) hq = hkv;
    else if (hkv > 1) hkv = hq = 1;
    else if (nq > 8) nq = nq / 2;
    else break;
  }
  word(t, "b=%d hq=%d hkv=%d nq=%lld nk=%lld d=%d ", (int)b, (int)hq, (int)hkv, (long long)nq,
       (long long)nk, (int)dim);
  word(t, "tile=%d split=%lld ", (int)tile, (long long)split);
  draw_types(d, t);
  draw_masks(d, t, nk, tile);
  draw_scales(d, t, nq, tile);
  draw_range(d, t);
  if (one_in(d, 4)) word(t, "layout=bnhd ");
  else if (one_in(d, 4)) {
    draw_strides(d, t, "qstride", hq, nq, dim, 0);
    draw_strides(d, t, "kstride", hkv, nk, dim, 1);
    draw_strides(d, t, "vstride", hkv, nk, dim, 1);
    draw_strides(d, t, "ostride", hq, nq, dim, 0);
  }
  if (one_in(d, 5)) word(t, "smooth=1 ");
  if (rows || one_in(d, 4)) word(t, "rows=%lld ", (long long)(rows ? rows : 1 + below(d, 9)));
  word(t, "fill=%s ",
       one_in(d, 3)   ? "wide"
       : one_in(d, 4) ? "extremes"
                      : ifa_fill_name((ifa_fill)below(d, IFA_FILL_COUNT)));
  word(t, "seed=%lld ", (long long)below(d, 1000));
  if (one_in(d, 6)) word(t, "minus_zero=1 ");
  if (one_in(d, 8) && !strstr(text.text, "vexp=") &&
      (strstr(text.text, "fill=wide") || strstr(text.text, "fill=extremes")))
    word(t, "vexp=%lld", (long long)ONE_OF(d, -120, -105, 100, 110, 120)); /* scales stay valid */
  ifa_case c;
  ifa_message why;
  if (ifa_case_parse(text.text, &c, &why) != IFA_OK) { /* a defect of this file */
    fprintf(stderr, "fuzz: %s: %s\n", text.text, why.text);
    abort();
  }
  return c;
}

/* ---- violations ---- */

static const ifa_violation violations[] = {{"batch-0", IFA_BAD_PROBLEM},
                                           {"heads-not-a-multiple", IFA_BAD_PROBLEM},
                                           {"kv-heads-0", IFA_BAD_PROBLEM},
                                           {"nq-negative", IFA_BAD_PROBLEM},
                                           {"nk-too-large", IFA_BAD_PROBLEM},
                                           {"head-dim-0", IFA_BAD_PROBLEM},
                                           {"head-dim-257", IFA_BAD_PROBLEM},
                                           {"q-type-f16", IFA_BAD_PROBLEM},
                                           {"v-scale-block", IFA_BAD_PROBLEM},
                                           {"q-scale-channel", IFA_BAD_PROBLEM},
                                           {"sm-nan", IFA_BAD_PROBLEM},
                                           {"sm-negative", IFA_BAD_PROBLEM},
                                           {"sm-too-large", IFA_BAD_PROBLEM},
                                           {"causal-2", IFA_BAD_PROBLEM},
                                           {"window-negative", IFA_BAD_PROBLEM},
                                           {"tau-65", IFA_BAD_PROBLEM},
                                           {"tile-48", IFA_BAD_PROBLEM},
                                           {"tile-512", IFA_BAD_PROBLEM},
                                           {"split-not-a-multiple", IFA_BAD_PROBLEM},
                                           {"split-too-large", IFA_BAD_PROBLEM},
                                           {"out-int8", IFA_BAD_PROBLEM},
                                           {"k-stride-negative", IFA_BAD_PROBLEM},
                                           {"o-stride-overlaps", IFA_BAD_PROBLEM},
                                           {"o-stride-overflows", IFA_BAD_PROBLEM},
                                           {"q-scale-nan", IFA_BAD_DATA},
                                           {"k-scale-negative", IFA_BAD_DATA},
                                           {"v-scale-infinite", IFA_BAD_DATA},
                                           {"v-scale-below-range", IFA_BAD_DATA},
                                           {"k-scale-above-range", IFA_BAD_DATA},
                                           {"channel-scale-nan", IFA_BAD_DATA},
                                           {"scores-too-large", IFA_BAD_DATA},
                                           {"q-null", IFA_BAD_ARGUMENT},
                                           {"k-null", IFA_BAD_ARGUMENT},
                                           {"v-scale-null", IFA_BAD_ARGUMENT},
                                           {"o-null", IFA_BAD_ARGUMENT},
                                           {"lse-missing", IFA_BAD_ARGUMENT},
                                           {"row-beyond", IFA_BAD_ARGUMENT},
                                           {"row-negative", IFA_BAD_ARGUMENT},
                                           {"rows-repeat", IFA_BAD_ARGUMENT},
                                           {"row-count-without-rows", IFA_BAD_ARGUMENT}};

int ifa_violation_count(void) { return (int)(sizeof violations / sizeof violations[0]); }
const ifa_violation *ifa_violation_at(int n) {
  return n >= 0 && n < ifa_violation_count() ? &violations[n] : NULL;
}

int ifa_violation_find(const char *name) {
  for (int i = 0; i < ifa_violation_count(); i++)
    if (strcmp(name, violations[i].name) == 0) return i;
  return -1;
}

/* Its field of the problem. 0: it is none of those, or does not apply. */
static int violate_problem(const char *name, ifa_problem *p) {
  int64_t row = p->head_dim;
#define IS(text) (strcmp(name, text) == 0)
  if (IS("batch-0")) p->batch = 0;
  else if (IS("heads-not-a-multiple")) {
    p->kv_heads = 2;
    p->q_heads = 3;
  } else if (IS("kv-heads-0")) p->kv_heads = 0;
  else if (IS("nq-negative")) p->nq = -1;
  else if (IS("nk-too-large")) p->nk = IFA_MAX_TOKENS + 1;
  else if (IS("head-dim-0")) p->head_dim = 0;
  else if (IS("head-dim-257")) p->head_dim = 257;
  else if (IS("q-type-f16")) p->q_type = IFA_F16;
  else if (IS("v-scale-block")) p->v_scale = IFA_SCALE_BLOCK;
  else if (IS("q-scale-channel")) p->q_scale = IFA_SCALE_CHANNEL;
  else if (IS("sm-nan")) p->sm_scale = NAN;
  else if (IS("sm-negative")) p->sm_scale = -0.125f;
  else if (IS("sm-too-large")) p->sm_scale = 0x1.000002p20f;
  else if (IS("causal-2")) p->causal = 2;
  else if (IS("window-negative")) p->window = -1;
  else if (IS("tau-65")) p->tau = 65;
  else if (IS("tile-48")) p->kv_tile = 48;
  else if (IS("tile-512")) p->kv_tile = 512;
  else if (IS("split-not-a-multiple")) p->kv_split = p->kv_tile + 1;
  else if (IS("split-too-large")) p->kv_split = IFA_MAX_KV_SPLIT + p->kv_tile;
  else if (IS("out-int8")) p->out_type = IFA_I8;
  else if (IS("k-stride-negative") && p->nk > 0) p->k_stride.token = -p->k_stride.token;
  else if (IS("o-stride-overlaps") && p->nq > 1 && row > 1) {
    p->o_stride.token = row - 1;
    p->o_stride.head = p->o_stride.batch = row * p->nq;
  } else if (IS("o-stride-overflows") && p->nq > 1) p->o_stride.token = INT64_MAX / 2;
  else return 0;
  return 1;
}

/* A copy of scales with one of them replaced, the last or the first. */
static const float *with_scale(ifa_fuzz_call *call, const float *scales, int64_t count, int64_t at,
                               float value) {
  float *copy = malloc(((size_t)count + 1) * sizeof *copy);
  if (!copy || count == 0) {
    free(copy);
    return NULL;
  }
  memcpy(copy, scales, (size_t)count * sizeof *copy);
  copy[at % count] = value;
  call->owned[0] = copy;
  return copy;
}

static int violate_scales(const char *name, const ifa_data *d, ifa_fuzz_call *call) {
  const ifa_problem *p = &d->p;
  ifa_inputs *in = &call->inputs;
  int64_t q = ifa_scale_count(p->q_scale, p->batch, p->q_heads, p->nq, p->head_dim, p->q_block);
  int64_t k = ifa_scale_count(p->k_scale, p->batch, p->kv_heads, p->nk, p->head_dim, p->k_block);
  int64_t v = ifa_scale_count(p->v_scale, p->batch, p->kv_heads, p->nk, p->head_dim, 1),
          at = (int64_t)(d->c.seed % 1000003);
  const float *changed = NULL;
  if (IS("q-scale-nan")) changed = in->q_scale = with_scale(call, d->q_scale, q, at, NAN);
  if (IS("k-scale-negative"))
    changed = in->k_scale = with_scale(call, d->k_scale, k, at, -0x1p-10f);
  if (IS("k-scale-above-range"))
    changed = in->k_scale = with_scale(call, d->k_scale, k, at, 0x1.000002p100f);
  if (IS("v-scale-infinite")) changed = in->v_scale = with_scale(call, d->v_scale, v, at, INFINITY);
  if (IS("v-scale-below-range"))
    changed = in->v_scale = with_scale(call, d->v_scale, v, at, 0x1.fffffep-101f);
  if (IS("channel-scale-nan") && d->v_channel_scale)
    changed = in->v_channel_scale =
        with_scale(call, d->v_channel_scale, p->batch * p->kv_heads * p->head_dim, at, NAN);
  if (IS("scores-too-large") && k > 0) { /* one Q scale such that the product passes 2^22 octaves */
    float largest = 0.0f;
    for (int64_t i = 0; i < k; i++) largest = d->k_scale[i] > largest ? d->k_scale[i] : largest;
    double wanted = 0x1p24 / ((double)largest * (double)p->sm_scale * p->head_dim *
                              (p->q_type == IFA_I4 ? 8 : 128) * (p->k_type == IFA_I4 ? 8 : 128));
    if (wanted >= 0x1p-100 && wanted <= 0x1p100)
      changed = in->q_scale = with_scale(call, d->q_scale, q, at, (float)wanted);
  }
  return changed != NULL;
}

static int with_rows(ifa_fuzz_call *call, int64_t count, int64_t first, int64_t second) {
  int64_t *rows = malloc(2 * sizeof *rows);
  if (!rows) return 0;
  rows[0] = first;
  rows[1] = second;
  call->owned[1] = rows;
  call->inputs.rows = rows;
  call->inputs.row_count = count;
  return 1;
}

static int violate_arguments(const char *name, const ifa_data *d, ifa_fuzz_call *call) {
  const ifa_problem *p = &d->p;
  int64_t total = p->batch * p->q_heads * p->nq;
  if (IS("q-null") && p->nq > 0) call->inputs.q = NULL;
  else if (IS("k-null") && p->nk > 0) call->inputs.k = NULL;
  else if (IS("v-scale-null") &&
           ifa_scale_count(p->v_scale, p->batch, p->kv_heads, p->nk, p->head_dim, 1) > 0)
    call->inputs.v_scale = NULL;
  else if (IS("o-null") && p->nq > 0) call->outputs.o = NULL;
  else if (IS("lse-missing") && p->lse && p->nq > 0) call->outputs.lse = NULL;
  else if (IS("row-beyond")) return with_rows(call, 1, total, 0);
  else if (IS("row-negative")) return with_rows(call, 1, -1, 0);
  else if (IS("rows-repeat") && total > 0) return with_rows(call, 2, total - 1, total - 1);
  else if (IS("row-count-without-rows")) {
    call->inputs.rows = NULL;
    call->inputs.row_count = 1;
  } else return 0;
  return 1;
}

int ifa_violate(int violation, const ifa_data *data, ifa_fuzz_call *call) {
  const char *name = violations[violation].name;
  return violate_problem(name, &call->problem) || violate_scales(name, data, call) ||
         violate_arguments(name, data, call);
}

void ifa_fuzz_call_free(ifa_fuzz_call *call) {
  free(call->owned[0]);
  free(call->owned[1]);
}

/* ---- smaller cases ---- */

static int64_t fewer(int64_t value, int step, int64_t least) {
  int64_t next = step == 0   ? least
                 : step == 1 ? value / 2
                 : step == 2 ? value - value / 4
                 : step == 3 ? value - 16
                             : value - 1;
  return next >= least ? next : value;
}

enum { SIZE_STEPS = 5, SIZES = 6 };

static void shrink_size(ifa_problem *p, int which, int step) {
  int64_t group = p->q_heads / p->kv_heads;
  switch (which) {
    case 0: p->batch = fewer(p->batch, step, 1); return;
    case 1:
      p->kv_heads = fewer(p->kv_heads, step, 1);
      p->q_heads = p->kv_heads * group;
      return;
    case 2: p->q_heads = p->kv_heads * fewer(group, step, 1); return;
    case 3: p->nq = fewer(p->nq, step, 1); return;
    case 4: p->nk = fewer(p->nk, step, 1); return;
    default: p->head_dim = (int32_t)fewer(p->head_dim, step, 1); return;
  }
}

/* Back to what a case is when nothing is said. */
static void shrink_setting(ifa_case *c, int which) {
  ifa_case plain = ifa_case_default();
  ifa_problem *p = &c->problem;
  switch (which) {
    case 0:
      p->q_stride = p->k_stride = p->v_stride = p->o_stride = plain.problem.q_stride;
      c->layout_bnhd = 0;
      return;
    case 1: p->kv_split = 0; return;
    case 2: p->window = 0; return;
    case 3: p->causal = 0; return;
    case 4: p->tau = plain.problem.tau; return;
    case 5: p->q_type = IFA_I8; return;
    case 6: p->k_type = IFA_I8; return;
    case 7: p->v_type = IFA_I8; return;
    case 8: p->q_scale = IFA_SCALE_TOKEN; return;
    case 9: p->k_scale = IFA_SCALE_TOKEN; return;
    case 10: p->v_scale = IFA_SCALE_CHANNEL; return;
    case 11:
      p->v_scale = p->v_scale == IFA_SCALE_TOKEN_CHANNEL ? IFA_SCALE_TOKEN : p->v_scale;
      return;
    case 12: p->out_type = IFA_F32; return;
    case 13: p->lse = 0; return;
    case 14: c->smooth = c->minus_zero = 0; return;
    case 15: c->exponent[0] = c->exponent[1] = 0; return;
    case 16: c->exponent[2] = 0; return;
    case 17: c->auto_scale = 1; return;
    case 18: c->fill = IFA_FILL_NORMAL; return;
    case 19: c->rows = 0; return;
    case 20: c->rows = c->rows ? 1 : 0; return;
    case 21: c->seed = 1; return;
    case 22:
      p->kv_tile = 64;
      p->kv_split = p->kv_split / 64 * 64;
      p->k_block = (p->k_block + 63) / 64 * 64;
      return;
    case 23: p->window = p->window > 1 ? p->window / 2 : p->window; return;
    case 24: p->window = p->window > 1 ? p->window - 1 : p->window; return;
    default: return;
  }
}
enum { SETTINGS = 25 };

int ifa_shrink_count(void) { return SETTINGS + SIZE_STEPS * SIZES; }

int ifa_shrunk_case(const ifa_case *c, int way, ifa_case *smaller) {
  char before[IFA_CASE_TEXT], after[IFA_CASE_TEXT];
  ifa_case changed = *c;
  if (way < SETTINGS) shrink_setting(&changed, way);
  else shrink_size(&changed.problem, (way - SETTINGS) % SIZES, (way - SETTINGS) / SIZES);
  ifa_case_print(c, before);
  ifa_case_print(&changed, after);
  /* parsing settles strides and sm=auto */
  return strcmp(before, after) != 0 && ifa_case_parse(after, smaller, NULL) == IFA_OK;
}
