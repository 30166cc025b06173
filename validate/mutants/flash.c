/* flash.c - attention in floats with a running maximum, arranged as a GPU's kernel is (operands
 * rounded first, whole tiles, blocks of rows that share a range of tiles, splits), with a place for
 * every mistake of flash_faults.h: FAULT(name) is 0 in all kernels but one.
 *
 * Read it from ifa_flash_run at the end upwards. Scores are in octaves: times log2(e). */
#include "validate/mutants/flash.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "ref/baselines/fp8.h"
#include "ref/rows.h"

#define FAULT(fault_name) (k->f->fault == IFA_FLASH_##fault_name)

enum { TILE = 64, SPLIT = 256, ROW_BLOCK = 16, STALE_KEYS = 8, LEAF = 8 };

static const float LOG2E = 0x1.715476p+0f, LN2 = 0x1.62e430p-1f;

const ifa_flash ifa_flash_f16 = {.claim = "close q=f16 k=f16 v=f16 p=f16 o=f16",
                                 .order = IFA_FLASH_SPLIT},
                ifa_flash_fp8 = {.claim = "close q=e4m3/head k=e4m3/head v=e4m3/head p=e4m3 o=f16",
                                 .order = IFA_FLASH_SPLIT};

const char *ifa_flash_fault_what(ifa_flash_fault fault) {
#define WHAT(name, part, what, ...) [IFA_FLASH_##name] = what,
  static const char *const texts[IFA_FLASH_FAULT_COUNT] = {IFA_FLASH_FAULTS(WHAT)};
#undef WHAT
  return texts[fault];
}

/* One operand: numbers of its format, dense [matrix][token][dim], and a scale for each matrix. */
typedef struct operand {
  float *x, *scale;
} operand;

/* One call. */
typedef struct kernel {
  const ifa_flash *f;
  ifa_claim claim;
  const ifa_data *d;
  const ifa_problem *p;
  operand q, k, v;
  int64_t tile, split;
  float *z, *w;                 /* [tile]: scores, then weights */
  char *dead;                   /* [tile]: is the key masked? */
  float kept[IFA_MAX_HEAD_DIM]; /* what the last row left in the output's registers */
} kernel;

/* One row: the live keys, the block's range of keys, and what multiplies q.k. */
typedef struct row {
  ifa_row at;
  int64_t position, first, end, block_first, block_end;
  const float *q, *k, *v; /* k, v: of the head */
  float factor;           /* sm and the scales of Q and K */
} row;

/* A running softmax: the weights are 2^(z - m). */
typedef struct state {
  float m, l, o[IFA_MAX_HEAD_DIM];
} state;

/* ---- numbers ---- */

static float to_format(ifa_format format, float x) {
  switch (format) {
    case IFA_FORMAT_F16: return ifa_f16_to_f32(ifa_f32_to_f16(x));
    case IFA_FORMAT_BF16: return ifa_bf16_to_f32(ifa_f32_to_bf16(x));
    case IFA_FORMAT_E4M3: return ifa_e4m3_to_f32(ifa_f64_to_e4m3((double)x));
    case IFA_FORMAT_E5M2: return ifa_e5m2_to_f32(ifa_f64_to_e5m2((double)x));
    case IFA_FORMAT_INT8: return rintf(x * 127) / 127; /* weights only */
    case IFA_FORMAT_UINT8: return rintf(x * 255) / 255;
    default: return x;
  }
}

/* The number of the format next to x towards 0. */
static float truncated(ifa_format format, float x) {
  float rounded = to_format(format, x), smaller = x;
  while (fabsf(rounded) > fabsf(x)) {
    smaller *= 1 - 0x1p-12f;
    rounded = to_format(format, smaller);
  }
  return rounded;
}

static float least_normal(ifa_format format) {
  return format == IFA_FORMAT_F16 ? 0x1p-14f : format == IFA_FORMAT_E4M3 ? 0x1p-6f : 0;
}

static float parabola(float x) {
  float whole = floorf(x), part = x - whole;
  return ldexpf(1 + part * (0.6565f + 0.3435f * part), (int)fmaxf(whole, -200));
}

static float power(const kernel *k, float x) {
  if (x == -INFINITY) return 0;
  if (FAULT(exp_parabola)) return parabola(x);
  float y = exp2f(x);
  int up = k->f->exp == IFA_FLASH_EXP_HIGH ||
           (k->f->exp == IFA_FLASH_EXP_EITHER && (ifa_bits_of_f32(x) * 2654435761u >> 31));
  if (k->f->exp == IFA_FLASH_EXP_RIGHT || y == 0 || isinf(y)) return y;
  for (int i = 0; i < 2; i++) y = nextafterf(y, up ? INFINITY : 0);
  return y;
}

/* A sum's rounding to the accumulators' format. */
static float summed(const kernel *k, float x) {
  if (FAULT(acc_f16)) return to_format(IFA_FORMAT_F16, x);
  if (FAULT(acc_bf16)) return to_format(IFA_FORMAT_BF16, x);
  if (FAULT(acc_14_bits)) return ifa_f32_of_bits(ifa_bits_of_f32(x) & 0xfffffc00u);
  return to_format(k->claim.acc, x);
}

/* ---- operands ---- */

static float stored(const kernel *k, char which, ifa_format format, float x) {
  if (FAULT(q_operand_bf16) && which == 'q') return to_format(IFA_FORMAT_BF16, x);
  if ((FAULT(q_e5m2) && which == 'q') || (FAULT(v_e5m2) && which == 'v'))
    return to_format(IFA_FORMAT_E5M2, x);
  if (FAULT(operands_truncated) || (FAULT(v_truncated) && which == 'v'))
    return truncated(format, x);
  float rounded = to_format(format, x);
  if (FAULT(operand_subnormals_flushed) && fabsf(rounded) < least_normal(format)) return 0;
  return FAULT(v_bias_of_8) && which == 'v' ? rounded / 2 : rounded;
}

static float scale_of(const kernel *k, ifa_operand_format f, float largest) {
  if (f.share == IFA_SHARE_NONE || largest == 0) return 1;
  float scale = largest / 448.0f;
  if (FAULT(scale_power_of_two)) scale = exp2f(ceilf(log2f(scale)));
  return scale;
}

/* Floats to the claim's format, whole matrices. */
static int round_operand(const kernel *k, char which, const float *from, int64_t matrices,
                         int64_t tokens, operand *to) {
  ifa_operand_format f = which == 'q' ? k->claim.q : which == 'k' ? k->claim.k : k->claim.v;
  int64_t size = tokens * k->p->head_dim;
  to->x = malloc(((size_t)(matrices * size) + 1) * sizeof *to->x);
  to->scale = malloc((size_t)matrices * sizeof *to->scale);
  if (!to->x || !to->scale) return 0;
  for (int64_t m = 0; m < matrices; m++) {
    float largest = 0;
    for (int64_t i = 0; i < size; i++) largest = fmaxf(largest, fabsf(from[m * size + i]));
    float scale = to->scale[m] = scale_of(k, f, largest),
          narrowed = FAULT(scale_of_240) ? scale * 448 / 240 : scale;
    for (int64_t i = 0; i < size; i++)
      to->x[m * size + i] = stored(k, which, f.format, from[m * size + i] / narrowed);
  }
  return 1;
}

/* ---- a row's place ---- */

static int is_live(const kernel *k, const row *r, int64_t j) {
  const ifa_problem *p = k->p;
  int64_t at = r->position, w = p->window;
  int causal = p->causal && !FAULT(causal_ignored);
  if (FAULT(causal_top_left)) at = r->at.row;
  if (FAULT(first_key_dropped) && j == 0) return 0;
  if (FAULT(last_key_dropped) && j == p->nk - 1) return 0;
  if (causal) {
    int64_t last = at;
    if (FAULT(causal_strict)) last--;
    if (FAULT(causal_one_more)) last++;
    if (FAULT(causal_of_row_block))
      last += ifa_min64(r->at.row | (ROW_BLOCK - 1), p->nq - 1) - r->at.row;
    if (FAULT(causal_whole_tile)) last = at < 0 ? at : at / k->tile * k->tile + k->tile - 1;
    if (FAULT(causal_tile_count)) last = at / k->tile * k->tile - 1;
    if (j > last) return 0;
  }
  if (w == 0 || (FAULT(window_ignored_if_causal) && causal)) return 1;
  int64_t left = at - w + 1, right = at + w - 1;
  if (FAULT(window_left_one_more)) left--;
  if (FAULT(window_left_one_less)) left++;
  if (FAULT(window_right_one_more)) right++;
  if (FAULT(window_first_tile_whole) && left > 0) left = left / k->tile * k->tile;
  return j >= left && (j <= right || FAULT(window_right_ignored));
}

/* The keys that the rows of a block see, all together. */
static void find_block(const kernel *k, row *r) {
  int64_t from = r->at.row / ROW_BLOCK * ROW_BLOCK,
          to = ifa_min64(from + ROW_BLOCK - 1, k->p->nq - 1), ignored, last;
  ifa_live_keys(k->p, from, &r->block_first, &ignored);
  ifa_live_keys(k->p, to, &ignored, &last);
  r->block_end = last;
  if (FAULT(causal_ignored) || FAULT(causal_one_more) || FAULT(causal_top_left) ||
      FAULT(causal_of_row_block) || FAULT(causal_whole_tile) || FAULT(window_ignored_if_causal) ||
      FAULT(window_left_one_more) || FAULT(window_right_one_more) || FAULT(window_right_ignored) ||
      FAULT(window_first_tile_whole)) {
    r->block_first = 0;
    r->block_end = k->p->nk;
  }
}

static row find_row(const kernel *k, int64_t number) {
  const ifa_problem *p = k->p;
  row r = {.at = ifa_row_at(p, number)};
  if (FAULT(rows_swapped) && (r.at.row ^ 8) < p->nq) r.at.row ^= 8;
  r.position = r.at.row + p->nk - p->nq;
  ifa_live_keys(p, r.at.row, &r.first, &r.end);
  find_block(k, &r);
  int64_t batch = r.at.batch, kv = r.at.kv_head, heads = p->kv_heads, q_row = r.at.row;
  if (FAULT(gqa_modulo)) kv = r.at.head % heads;
  if (FAULT(gqa_first_head)) kv = 0;
  if (FAULT(gqa_divides_by_kv_heads)) kv = r.at.head / heads % heads;
  if (FAULT(q_last_row_clamped) && p->nq > 1) q_row = ifa_min64(q_row, p->nq - 2);
  int64_t k_matrix = (FAULT(k_batch_ignored) ? 0 : batch) * heads + kv,
          v_matrix = (FAULT(v_batch_ignored) ? 0 : batch) * heads +
                     (FAULT(v_head_of_next) ? (kv + 1) % heads : kv),
          q_matrix = batch * p->q_heads + r.at.head, size = p->nk * p->head_dim;
  r.q = k->q.x + (q_matrix * p->nq + q_row) * p->head_dim;
  r.k = k->k.x + k_matrix * size;
  r.v = k->v.x + v_matrix * size;
  float k_scale = k->k.scale[FAULT(k_scale_of_head_0) ? batch * heads : k_matrix],
        q_scale = FAULT(q_scale_of_k) ? k_scale : k->q.scale[q_matrix];
  if (FAULT(q_scale_missing)) q_scale = 1;
  if (FAULT(k_scale_missing)) k_scale = 1;
  r.factor = p->sm_scale * q_scale * k_scale;
  if (FAULT(sm_scale_missing)) r.factor = q_scale * k_scale;
  if (FAULT(sm_scale_ignored)) r.factor = q_scale * k_scale / sqrtf((float)p->head_dim);
  if (FAULT(sm_scale_twice)) r.factor *= p->sm_scale;
  if (FAULT(sm_scale_of_padded_dim))
    r.factor *= sqrtf((float)p->head_dim / (float)((p->head_dim + 15) / 16 * 16));
  return r;
}

static float v_scale_of(const kernel *k, const row *r) {
  int64_t heads = k->p->kv_heads,
          matrix = (r->v - k->v.x) / ifa_max64(k->p->nk * k->p->head_dim, 1);
  if (FAULT(v_scale_missing)) return 1;
  if (FAULT(v_scale_of_k)) return k->k.scale[matrix];
  if (FAULT(v_scale_of_query_head)) return k->v.scale[r->at.batch * heads + r->at.head % heads];
  return k->v.scale[matrix] * (FAULT(p_scale_not_divided) ? 448.0f : 1.0f);
}

/* ---- a tile's scores ---- */

/* The token that lies where the tile's key j should. */
static int64_t arrived(const kernel *k, int64_t start, int64_t j, int stale) {
  return stale && start >= k->tile && j >= k->tile - STALE_KEYS ? start + j - k->tile : start + j;
}

static float product(const kernel *k, const row *r, const float *key) {
  int32_t dim = k->p->head_dim;
  float sum = 0;
  if (FAULT(dim_tail_dropped)) dim = dim / 16 * 16;
  if (FAULT(dim_last_dropped)) dim--;
  if (FAULT(scores_sum_f16)) {
    for (int32_t i = 0; i < dim; i++)
      sum = to_format(IFA_FORMAT_F16, sum + r->factor * r->q[i] * key[i]);
    return sum;
  }
  for (int32_t i = 0; i < dim; i++) sum += r->q[i] * key[i];
  sum *= r->factor;
  if (FAULT(scores_f16)) return to_format(IFA_FORMAT_F16, sum);
  return FAULT(scores_bf16) ? to_format(IFA_FORMAT_BF16, sum) : sum;
}

static float octaves(const kernel *k) {
  if (FAULT(log2e_missing)) return 1;
  if (FAULT(log2e_three_digits)) return 1.44f;
  return FAULT(log2e_twice) ? LOG2E * LOG2E : LOG2E;
}

/* The largest score of the tile, as the kernel takes it. */
static float tile_maximum(const kernel *k, const row *r, int64_t start, int64_t count) {
  float top = -INFINITY;
  int64_t seen = FAULT(max_of_half_tile) && count > k->tile / 2 ? k->tile / 2 : count;
  for (int64_t j = 0; j < seen; j++) top = fmaxf(top, k->z[j]);
  if (!FAULT(max_of_row_block)) return top;
  row other = *r;
  int64_t from = r->at.row / ROW_BLOCK * ROW_BLOCK, to = ifa_min64(from + ROW_BLOCK, k->p->nq);
  for (int64_t i = from; i < to; i++) {
    other.q = r->q + (i - r->at.row) * k->p->head_dim;
    for (int64_t j = 0; j < count; j++)
      top = fmaxf(top, product(k, &other, r->k + (start + j) * k->p->head_dim) * LOG2E);
  }
  return top;
}

static void find_scores(kernel *k, const row *r, int64_t start, int64_t count) {
  float scale = octaves(k);
  for (int64_t j = 0; j < count; j++) {
    int64_t token = arrived(k, start, j, FAULT(k_tile_stale));
    k->dead[j] = !is_live(k, r, start + j);
    k->z[j] = product(k, r, r->k + token * k->p->head_dim) * scale;
    if (!k->dead[j]) continue;
    k->w[j] = k->z[j]; /* for those who do not mask it */
    k->z[j] = FAULT(masked_score_zero) ? 0 : FAULT(masked_score_finite) ? -10000.0f : -INFINITY;
  }
}

/* ---- a tile's weights and sums ---- */

static float rounded_weight(const kernel *k, float w) {
  if (FAULT(p_truncated)) return truncated(k->claim.p, w);
  if (FAULT(p_bf16)) return to_format(IFA_FORMAT_BF16, w);
  if (FAULT(p_e4m3)) return to_format(IFA_FORMAT_E4M3, w);
  if (FAULT(p_e5m2)) return to_format(IFA_FORMAT_E5M2, w);
  if (FAULT(p_saturates)) return to_format(IFA_FORMAT_E4M3, w * 512) / 512;
  if (FAULT(p_subnormals_flushed) && w < 0x1p-6f) return 0;
  return to_format(k->claim.p, w);
}

static float tree_sum(const kernel *k, const float *w, int64_t count) {
  if (count == 1) return w[0];
  int64_t half = count / 2;
  return summed(k, tree_sum(k, w, half) + tree_sum(k, w + half, count - half));
}

/* Weights in place of scores, rounded; l gets them. */
static void find_weights(kernel *k, int64_t count, state *s) {
  float *w = k->w;
  for (int64_t j = 0; j < count; j++) {
    float masked = k->dead[j] && FAULT(l_of_masked_keys) ? power(k, w[j] - s->m) : 0;
    w[j] = power(k, k->z[j] - s->m);
    if (FAULT(small_weights_zero) && w[j] < 0x1p-10f) w[j] = 0;
    float in_l = k->f->l_of_rounded ? rounded_weight(k, w[j]) : w[j];
    if (FAULT(l_of_half_tile) && j >= k->tile / 2) in_l = 0;
    k->z[j] = in_l + masked;
  }
  if (k->f->order == IFA_FLASH_PAIRWISE) s->l = tree_sum(k, k->z, count);
  for (int64_t j = 0; j < count && k->f->order != IFA_FLASH_PAIRWISE; j++) {
    s->l += k->z[j];
    s->l = to_format(FAULT(l_f16) ? IFA_FORMAT_F16 : k->claim.acc, s->l);
  }
  for (int64_t j = 0; j < count; j++) w[j] = rounded_weight(k, w[j]);
}

/* Element (token j of the tile, d) of V as the kernel finds it. */
static float value(const kernel *k, const row *r, int64_t start, int64_t count, int64_t j,
                   int32_t d) {
  int32_t dim = k->p->head_dim;
  if (FAULT(v_transposed_tile) && count == TILE && dim == TILE) return r->v[(start + d) * dim + j];
  if (FAULT(v_keys_permuted)) {
    int64_t other = j % 32 / 8 == 1 ? j + 8 : j % 32 / 8 == 2 ? j - 8 : j;
    if (other < count) j = other;
  }
  if (FAULT(v_columns_swapped) && (d ^ 1) < dim) d ^= 1;
  if (FAULT(dim_above_128_repeats)) d %= 128;
  return r->v[arrived(k, start, j, FAULT(v_tile_stale)) * dim + d];
}

static int reads_v_wrongly(const kernel *k) {
  return FAULT(v_transposed_tile) || FAULT(v_keys_permuted) || FAULT(v_columns_swapped) ||
         FAULT(dim_above_128_repeats) || FAULT(v_tile_stale);
}

static void add_in_order(const kernel *k, const row *r, int64_t start, int64_t count, float *o) {
  int32_t dim = k->p->head_dim;
  int wrongly = reads_v_wrongly(k), plain = k->claim.acc == IFA_FORMAT_F32 && !FAULT(acc_f16) &&
                                            !FAULT(acc_bf16) && !FAULT(acc_14_bits);
  for (int64_t j = 0; j < count; j++) {
    const float *v = r->v + (start + j) * dim;
    if (wrongly)
      for (int32_t d = 0; d < dim; d++) o[d] += k->w[j] * value(k, r, start, count, j, d);
    else if (plain)
      for (int32_t d = 0; d < dim; d++) o[d] += k->w[j] * v[d];
    else
      for (int32_t d = 0; d < dim; d++) o[d] = summed(k, o[d] + k->w[j] * v[d]);
  }
}

static void add_as_tree(const kernel *k, const row *r, int64_t start, int64_t count, float *o) {
  int32_t dim = k->p->head_dim;
  float right[IFA_MAX_HEAD_DIM];
  if (count == 1) {
    for (int32_t d = 0; d < dim; d++) o[d] = summed(k, k->w[start] * r->v[start * dim + d]);
    return;
  }
  add_as_tree(k, r, start, count / 2, o);
  add_as_tree(k, r, start + count / 2, count - count / 2, right);
  for (int32_t d = 0; d < dim; d++) o[d] = summed(k, o[d] + right[d]);
}

/* ---- a row ---- */

/* What the sums so far are multiplied by when the maximum rises from s->m to `top`. */
static float rescaling(const kernel *k, float from, float top) {
  if (from == -INFINITY) return FAULT(row_state_kept) || FAULT(l_begins_at_one) ? 1 : 0;
  if (FAULT(rescale_inverse)) return power(k, top - from);
  if (FAULT(rescale_without_log2e)) return power(k, (from - top) * LN2);
  return power(k, from - top);
}

static void rescale(const kernel *k, state *s, float factor, int32_t dim) {
  if (FAULT(rescale_skipped) && factor > 0x1p-8f) return;
  if (!FAULT(rescale_l_missing)) s->l *= factor;
  if (FAULT(rescale_l_twice)) s->l *= factor;
  if (FAULT(l_of_last_tile)) s->l = 0;
  for (int32_t d = 0; d < dim && !FAULT(rescale_o_missing) && !FAULT(rescale_late); d++)
    s->o[d] = summed(k, s->o[d] * factor);
}

static void add_tile(kernel *k, const row *r, int64_t start, int64_t count, state *s) {
  int32_t dim = k->p->head_dim;
  int64_t padding = FAULT(padding_keys_live) && count < k->tile ? k->tile - count : 0;
  find_scores(k, r, start, count);
  if (FAULT(causal_two_passes) && k->p->causal && start > 0 &&
      r->position / k->tile == start / k->tile)
    s->m = -INFINITY;
  float top = fmaxf(s->m, tile_maximum(k, r, start, count));
  if (padding) top = fmaxf(top, 0);
  if (FAULT(max_not_subtracted)) top = 0;
  if (FAULT(max_of_first_tile) && s->m > -INFINITY) top = s->m;
  if (top == -INFINITY) return; /* no live key so far */
  float factor = rescaling(k, s->m, top);
  rescale(k, s, factor, dim);
  s->m = top;
  find_weights(k, count, s);
  if (padding) s->l += (float)padding * power(k, 0 - top);
  if (k->f->order == IFA_FLASH_PAIRWISE) add_as_tree(k, r, 0, count, s->o);
  else add_in_order(k, r, start, count, s->o);
  for (int32_t d = 0; d < dim && FAULT(rescale_late); d++) s->o[d] *= factor;
  for (int32_t d = 0; d < dim && FAULT(divided_early); d++) s->o[d] /= s->l;
}

/* Keys from .. to-1. */
static state add_tiles(kernel *k, const row *r, int64_t from, int64_t to) {
  state s = {.m = FAULT(max_at_least_zero) ? 0 : -INFINITY, .l = FAULT(l_begins_at_one) ? 1 : 0};
  int64_t tiles = ifa_ceil_div(to - from, k->tile);
  if (FAULT(row_state_kept)) memcpy(s.o, k->kept, sizeof s.o);
  for (int64_t n = 0; n < tiles; n++) {
    int64_t start = from + (k->f->order == IFA_FLASH_BACKWARD ? tiles - 1 - n : n) * k->tile,
            end = ifa_min64(start + k->tile, to);
    if (FAULT(last_tile_dropped) && end - start < k->tile) continue;
    if (end <= r->block_first || start >= r->block_end) continue;
    add_tile(k, r, start, end - start, &s);
  }
  memcpy(k->kept, s.o, sizeof s.o);
  return s;
}

static void merge(const kernel *k, const state *s, state *sum, int32_t dim) {
  if (s->m == -INFINITY) return;
  float top = fmaxf(sum->m, s->m), old = sum->m == -INFINITY ? 0 : power(k, sum->m - top),
        new = power(k, s->m - top);
  if (FAULT(merge_without_max)) old = new = 1;
  if (FAULT(merge_mean)) {
    old = 1;
    new = 1 / s->l;
  }
  for (int32_t d = 0; d < dim; d++) sum->o[d] = old * sum->o[d] + new * s->o[d];
  sum->l = old * sum->l + new * s->l;
  sum->m = top;
}

static void write_row(kernel *k, const row *r, const state *s, int64_t number,
                      const ifa_outputs *out) {
  const ifa_problem *p = k->p;
  ifa_row to = ifa_row_at(p, number);
  float l = FAULT(l_epsilon) ? s->l + 1e-6f : s->l, share = l == 0 ? 0 : 1 / l;
  int32_t dim = FAULT(output_tail_not_written) ? p->head_dim / 8 * 8 : p->head_dim;
  if (FAULT(reciprocal_8_bits)) share = to_format(IFA_FORMAT_BF16, share);
  if (FAULT(not_divided) || FAULT(divided_early)) share = 1;
  if (FAULT(empty_row_nan) && l == 0) share = NAN;
  for (int32_t d = 0; d < dim; d++) {
    float o = s->o[d] * share * v_scale_of(k, r);
    if (FAULT(output_bf16)) o = to_format(IFA_FORMAT_BF16, o);
    if (FAULT(output_e4m3)) o = to_format(IFA_FORMAT_E4M3, o);
    ifa_float_set(p->out_type, out->o, ifa_offset(p->o_stride, to.batch, to.head, to.row) + d,
                  to_format(k->claim.o, o));
  }
  if (!p->lse) return;
  float top = s->m * LN2, lse = l == 0 ? -INFINITY : top + logf(l);
  if (FAULT(lse_base_two)) lse /= LN2;
  if (FAULT(lse_without_max)) lse = logf(l);
  if (FAULT(lse_max_twice)) lse += top;
  if (FAULT(lse_sum_base_two)) lse = top + log2f(l);
  if (FAULT(lse_without_log)) lse = top;
  if (FAULT(lse_max_not_scaled)) lse = top / p->sm_scale + logf(l);
  if (FAULT(lse_of_empty_row) && l == 0) lse = 0;
  out->lse[number] = lse;
}

static void compute_row(kernel *k, int64_t number, const ifa_outputs *out) {
  row r = find_row(k, number);
  int64_t nk = k->p->nk, split = k->split;
  state sum = {.m = -INFINITY};
  if (split >= nk) sum = add_tiles(k, &r, 0, nk);
  for (int64_t from = 0; split < nk && from < nk; from += split) {
    if (FAULT(last_split_dropped) && nk - from < split) continue;
    state s = add_tiles(k, &r, from, ifa_min64(from + split, nk));
    merge(k, &s, &sum, k->p->head_dim);
  }
  write_row(k, &r, &sum, number, out);
}

ifa_status ifa_flash_run(const ifa_flash *flash, const ifa_data *d, const ifa_outputs *out,
                         ifa_message *message) {
  const ifa_problem *p = &d->p;
  int whole = flash->order == IFA_FLASH_NAIVE || flash->order == IFA_FLASH_PAIRWISE;
  kernel k = {.f = flash,
              .d = d,
              .p = p,
              .tile = whole         ? ifa_max64(p->nk, 1)
                      : flash->tile ? flash->tile
                                    : TILE};
  k.split = flash->order == IFA_FLASH_SPLIT ? SPLIT : ifa_max64(p->nk, 1);
  ifa_status status = ifa_claim_parse(flash->claim, &k.claim, message);
  if (status != IFA_OK) return status;
  k.z = malloc((size_t)k.tile * sizeof *k.z);
  k.w = malloc((size_t)k.tile * sizeof *k.w);
  k.dead = malloc((size_t)k.tile);
  int ok = k.z && k.w && k.dead;
  ok = ok && round_operand(&k, 'q', d->q, p->batch * p->q_heads, p->nq, &k.q);
  ok = ok && round_operand(&k, 'k', d->k, p->batch * p->kv_heads, p->nk, &k.k);
  ok = ok && round_operand(&k, 'v', d->v, p->batch * p->kv_heads, p->nk, &k.v);
  for (int64_t r = 0; ok && r < d->row_count; r++) compute_row(&k, d->rows ? d->rows[r] : r, out);
  float *owned[] = {k.z, k.w, k.q.x, k.q.scale, k.k.x, k.k.scale, k.v.x, k.v.scale};
  for (size_t i = 0; i < sizeof owned / sizeof owned[0]; i++) free(owned[i]);
  free(k.dead);
  return ok ? ifa_succeed(message) : ifa_fail(message, IFA_OUT_OF_MEMORY, "no memory for a kernel");
}
