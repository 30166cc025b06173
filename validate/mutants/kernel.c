/* kernel.c - docs/numerics.md once more, arranged as a production kernel is (operands unpacked
 * first, whole tiles, tables of the weight function), with a place for every mistake of
 * catalogue.h: FAULT(name) is 0 in all kernels but one. Without a fault it gives the oracle's bits,
 * which `validate mutants` checks in every run.
 *
 * Read it from ifa_mutant_run at the end upwards. What a fault reads, it reads inside the arrays;
 * sums wrap around in 32 bits. */
#include "validate/mutants/call.h"

#include <stdlib.h>
#include <string.h>

#include "common/backend.h"

static const int16_t *key_row(const kernel *k, const int16_t *matrices, const row *r, int64_t key) {
  return matrices + ((r->at.batch * k->p->kv_heads + r->at.kv_head) * k->p->nk + key) * k->dim;
}

/* ---- sections 4 and 5: scores, and the unit that the tile asks for ---- */

static int32_t dot(const kernel *k, const int16_t *restrict a, const int16_t *restrict b) {
  int32_t sum = 0, count = FAULT(dim_tail_dropped) && k->p->head_dim >= DIM_STEP
                               ? k->p->head_dim / DIM_STEP * DIM_STEP
                               : k->dim;
  for (int32_t d = 0; d < count; d++) sum += (int32_t)a[d] * b[d];
  return sum;
}

static float row_factor(const kernel *k, const ifa_row *at) {
  const ifa_problem *p = k->p;
  int64_t matrix = at->batch * p->q_heads + at->head, token = at->row, groups;
  float sm = p->sm_scale, log2e = IFA_LOG2E, q;
  if (FAULT(q_scale_of_kv_head)) matrix = at->batch * p->q_heads + at->kv_head;
  if (FAULT(q_scale_of_row_block) && p->q_scale == IFA_SCALE_TOKEN)
    token = token / ROW_BLOCK * ROW_BLOCK;
  if (FAULT(q_blocks_rounded_down) && p->q_scale == IFA_SCALE_BLOCK) {
    groups = ifa_max64(1, p->nq / p->q_block);
    q = k->in->q_scale[matrix * groups + token / p->q_block];
  } else {
    q = ifa_token_scale(p->q_scale, k->in->q_scale, matrix, p->nq, p->q_block, token);
  }
  if (FAULT(sm_scale_ignored)) sm = 1.0f / sqrtf((float)p->head_dim);
  if (FAULT(log2e_next)) log2e = nextafterf(log2e, 2.0f);
  if (FAULT(log2e_missing)) log2e = 1.0f;
  if (FAULT(row_factor_order)) return ifa_mul(q, ifa_mul(sm, log2e));
  if (FAULT(row_factor_one_rounding)) return (float)((double)q * (double)sm * (double)log2e);
  return ifa_mul(ifa_mul(q, sm), log2e);
}

/* K's scale for a key (per token), or for the tile that begins with it. */
static float key_scale(const kernel *k, const row *r, int64_t key) {
  const ifa_problem *p = k->p;
  int64_t matrix = r->at.batch * p->kv_heads + r->at.kv_head, groups = 1, group = 0;
  if (FAULT(k_scale_of_q_head)) matrix = r->at.batch * p->kv_heads + r->at.head;
  if (FAULT(scale_batch_ignored)) matrix = r->at.kv_head;
  if (p->k_scale == IFA_SCALE_TOKEN) {
    groups = p->nk;
    group = key;
    if (FAULT(k_scale_next_token)) group = key + 1;
    if (FAULT(k_scale_first_tile)) group = key % k->tile;
    if (FAULT(k_scale_stale) && key >= k->tile) group = key - k->tile;
  } else if (p->k_scale == IFA_SCALE_BLOCK) {
    groups = FAULT(k_blocks_rounded_down) ? ifa_max64(1, p->nk / p->k_block)
                                          : ifa_ceil_div(p->nk, p->k_block);
    group = FAULT(k_block_first) ? 0 : FAULT(k_block_of_tile) ? key / k->tile : key / p->k_block;
  }
  return mutant_scale_at(
      k->in->k_scale,
      ifa_scale_count(p->k_scale, p->batch, p->kv_heads, p->nk, p->head_dim, p->k_block),
      matrix * groups + group);
}

static int32_t integer_score(const kernel *k, const row *r, const int16_t *q16, const tile *t,
                             int32_t j) {
  int64_t key = t->start + j;
  if (key >= k->p->nk) return 0;
  if (FAULT(k_tile_stale) && j >= k->tile - STALE_KEYS && t->start >= COPY_STAGES * k->tile)
    key -= COPY_STAGES * k->tile;
  int32_t s = dot(k, q16, key_row(k, k->k16, r, key));
  return FAULT(score_16_bits) ? (int16_t)s : s;
}

static float scaled_score(const kernel *k, const row *r, const tile *t, int32_t j) {
  int64_t key = t->start + j;
  float s = (float)t->s[j];
  if (FAULT(score_binary16)) s = ifa_f16_to_f32(ifa_f32_to_f16(s));
  if (key >= k->p->nk) return 0.0f;
  if (k->p->k_scale == IFA_SCALE_TOKEN)
    return FAULT(key_scale_in_factor) ? s : ifa_mul(s, key_scale(k, r, key));
  return FAULT(block_scale_in_score) ? ifa_mul(s, key_scale(k, r, t->start)) : s;
}

static float largest_score(const kernel *k, const tile *t) {
  int32_t from = t->from, to = t->to;
  float largest = FAULT(unit_max_from_zero) ? 0.0f : -INFINITY;
  if (FAULT(unit_of_dead_keys)) from = 0, to = t->count;
  if (FAULT(unit_of_first_keys) && to - from > 1) to--;
  for (int32_t j = from; j < to; j++) largest = t->u[j] > largest ? t->u[j] : largest;
  if (FAULT(unit_of_largest_integer)) {
    int32_t best = from;
    for (int32_t j = from; j < to; j++) best = t->s[j] > t->s[best] ? j : best;
    largest = t->u[best];
  }
  return largest;
}

static int32_t tile_unit(const kernel *k, float largest, float r) {
  float x = ifa_mul(largest, r);
  /* beyond only with a wrong factor: what follows must fit 32 bits */
  x = x > 0x1p24f ? 0x1p24f : x < -0x1p24f ? -0x1p24f : x;
  if (FAULT(unit_ceil)) return (int32_t)ceilf(x);
  if (FAULT(unit_floor)) return (int32_t)floorf(x);
  if (FAULT(unit_truncated)) return (int32_t)truncf(x) + 1;
  if (x == 0.0f && largest < 0.0f && !FAULT(unit_of_vanished_product)) return 0;
  return (int32_t)floorf(x) + 1;
}

static int32_t score_tile(const kernel *k, const row *r, const int16_t *q16, tile *t) {
  int32_t from = k->sees_dead_keys ? 0 : t->from, to = k->sees_dead_keys ? t->count : t->to;
  t->r = r->factor;
  if (k->p->k_scale != IFA_SCALE_TOKEN && !FAULT(block_scale_in_score))
    t->r = ifa_mul(t->r, key_scale(k, r, t->start));
  for (int32_t j = from; j < to; j++) t->s[j] = integer_score(k, r, q16, t, j);
  for (int32_t j = from; j < to; j++) t->u[j] = scaled_score(k, r, t, j);
  if (!FAULT(key_scale_in_factor) || k->p->k_scale != IFA_SCALE_TOKEN)
    return tile_unit(k, largest_score(k, t), t->r);
  int32_t want = INT32_MIN;
  for (int32_t j = t->from; j < t->to; j++) {
    int32_t e = tile_unit(k, t->u[j], ifa_mul(t->r, key_scale(k, r, t->start + j)));
    want = e > want ? e : want;
  }
  return want;
}

/* ---- sections 5 and 7: the unit follows ---- */

static int32_t largest_magnitude(const kernel *k, const int32_t *x, int32_t count) {
  uint32_t largest = 0;
  for (int32_t d = 0; d < count; d++) {
    uint32_t magnitude =
        x[d] < 0 ? (FAULT(headroom_without_sign) ? 0 : 0u - (uint32_t)x[d]) : (uint32_t)x[d];
    largest = magnitude > largest ? magnitude : largest;
  }
  return largest > INT32_MAX ? INT32_MAX : (int32_t)largest;
}

/* Keys from the tile to the nominal end of its split. */
static int32_t growth_keys(const kernel *k, int64_t start) {
  int64_t end = (start / k->split + 1) * k->split, keys = end - start;
  if (FAULT(headroom_clipped_at_nk)) keys = ifa_min64(end, k->p->nk) - start;
  if (FAULT(headroom_from_tile_end)) keys -= k->tile;
  if (FAULT(headroom_of_largest_split)) keys = IFA_MAX_KV_SPLIT - start % IFA_MAX_KV_SPLIT;
  return (int32_t)ifa_min64(keys, IFA_MAX_KV_SPLIT);
}

static int32_t next_unit(const kernel *k, int32_t unit, int32_t want, int32_t tau,
                         int32_t magnitude, int32_t growth, int headroom_is_ignored) {
  if (FAULT(tau_infinite_is_64) && tau == IFA_TAU_INF) tau = 64;
  if ((FAULT(tau_zero_is_never) && tau == 0) || FAULT(unit_never_falls)) tau = IFA_TAU_INF;
  if (FAULT(unit_raised_by_one_more) && unit != IFA_NO_UNIT && want > unit) return want + 1;
  if (unit == IFA_NO_UNIT || want > unit) return want;
  if (tau == IFA_TAU_INF) return unit;
  int32_t limit = FAULT(tau_one_more)      ? unit - tau - 1
                  : FAULT(tau_at_equality) ? unit - tau + 1
                                           : unit - tau;
  if (want >= limit) return unit;
  int32_t wanted = unit - (FAULT(unit_falls_to_tau) ? want + tau : want),
          room = ifa_headroom(magnitude, growth, wanted);
  if (headroom_is_ignored) room = wanted;
  if (FAULT(headroom_one_more) && room < wanted) room++;
  if (FAULT(headroom_one_less) && room < wanted && room > 0) room--;
  return unit - room;
}

static int32_t shifted(const kernel *k, int32_t x, int32_t up) {
  if (up > 0 && FAULT(shift_to_nearest) && up < 32)
    return (int32_t)(((int64_t)x + ((int64_t)1 << (up - 1))) >> up);
  if (up > 0 && FAULT(shift_toward_zero) && x < 0) return -ifa_shift(-x, up);
  if (up > 31 && FAULT(shift_count_masked)) up &= 31;
  if (up > 31 && FAULT(shift_of_32_is_zero)) return 0;
  return ifa_shift(x, up);
}

static void shift_acc(const kernel *k, ifa_split_sums *sums, int32_t up) {
  if ((FAULT(raise_forgets_acc) && up > 0) || (FAULT(fall_forgets_sums) && up < 0)) return;
  for (int32_t d = 0; d < k->p->head_dim; d++) sums->acc[d] = shifted(k, sums->acc[d], up);
}

static void follow_unit(const kernel *k, ifa_split_sums *sums, int64_t start, int32_t want) {
  int own_value_unit = ifa_values_per_token(k->p);
  int32_t keys = growth_keys(k, start), magnitude = sums->l < 0 ? INT32_MAX : sums->l;
  int32_t growth =
      (own_value_unit && !FAULT(headroom_of_products) ? IFA_WEIGHT_MAX : IFA_MAX_PRODUCT) * keys;
  if (FAULT(headroom_127) && !own_value_unit) growth = 255 * 127 * keys;
  if (!own_value_unit && !FAULT(headroom_without_acc)) {
    int32_t largest = largest_magnitude(k, sums->acc, k->p->head_dim);
    magnitude = largest > magnitude ? largest : magnitude;
  }
  int32_t unit =
      next_unit(k, sums->unit, want, k->p->tau, magnitude, growth, FAULT(headroom_ignored));
  if (FAULT(headroom_strict) && unit < sums->unit) /* M * 2^k < limit */
    while (unit < sums->unit &&
           ((int64_t)magnitude << (sums->unit - unit)) >= (int64_t)INT32_MAX - growth && magnitude)
      unit++;
  if (sums->unit != IFA_NO_UNIT && unit != sums->unit) {
    int32_t up = unit - sums->unit;
    if (!(FAULT(raise_forgets_l) && up > 0) && !(FAULT(fall_forgets_sums) && up < 0))
      sums->l = shifted(k, sums->l, up);
    if (!own_value_unit || FAULT(value_unit_shifts_with_u)) shift_acc(k, sums, up);
  }
  sums->unit = unit;
  if (!own_value_unit) sums->value_unit = unit;
}

/* ---- section 6: weights ---- */

static uint16_t rounded_down_to_f16(double x) {
  uint16_t h = ifa_f64_to_f16(x);
  return (double)ifa_f16_to_f32(h) > x ? (uint16_t)(h - 1) : h; /* x >= 0 */
}

/* A fault of the weight function itself, or the contract's: h * g. */
static float weight_product(ifa_mutant_number fault, int32_t n) {
  struct {
    ifa_mutant_number fault;
  } mutant = {fault}, *k = &mutant;
  float w = ifa_f16_to_f32((uint16_t)((~n & 1023) | 0x3c00)), g;
  if (FAULT(weight_g_binary32)) {
    g = fmaf(w, ifa_f16_to_f32(IFA_WEIGHT_C3), ifa_f16_to_f32(IFA_WEIGHT_C2));
    g = fmaf(g, w, ifa_f16_to_f32(IFA_WEIGHT_C1));
    return ifa_f16_to_f32((uint16_t)n) * fmaf(g, w, ifa_f16_to_f32(IFA_WEIGHT_C0));
  }
  if (FAULT(weight_g_not_fused)) {
    static const uint16_t constants[3] = {IFA_WEIGHT_C2, IFA_WEIGHT_C1, IFA_WEIGHT_C0};
    uint16_t sum = IFA_WEIGHT_C3;
    for (int i = 0; i < 3; i++)
      sum = ifa_f64_to_f16(
          (double)ifa_f16_to_f32(ifa_f64_to_f16((double)ifa_f16_to_f32(sum) * (double)w)) +
          (double)ifa_f16_to_f32(constants[i]));
    return ifa_f16_to_f32((uint16_t)n) * ifa_f16_to_f32(sum);
  }
  return ifa_weight_exact(n);
}

static void fill_tables(ifa_mutant *k) {
  for (int32_t n = 0; n <= IFA_WEIGHT_TOP; n++) {
    float exact = weight_product(k->fault, n);
    if (FAULT(weight_exp2)) exact = 255.0f * exp2f((float)(n - IFA_WEIGHT_TOP) / 1024.0f);
    if (FAULT(weight_16_octaves) && n < IFA_WEIGHT_TOP - 16 * 1024) exact = 0.0f;
    k->weight16[n] = ifa_f32_to_f16(exact);
    if (FAULT(value_weight_w_flushed) && k->weight16[n] < 0x400) k->weight16[n] = 0;
    k->weight[n] = (uint8_t)ifa_rne(exact);
    if (FAULT(weight_truncated)) k->weight[n] = (uint8_t)exact;
    if (FAULT(weight_through_binary16))
      k->weight[n] = (uint8_t)ifa_rne(ifa_f16_to_f32(k->weight16[n]));
    if (FAULT(weight_127)) k->weight[n] = (uint8_t)ifa_rne(exact * (127.0f / 255.0f));
  }
}

static int32_t weight_index(const kernel *k, float u, float r, int32_t unit) {
  const float low = 1024 * IFA_INDEX_ZERO, high = low + IFA_WEIGHT_TOP;
  float offset = (float)(IFA_INDEX_ZERO + IFA_OCTAVES - unit),
        z = 1024.0f *
            (FAULT(index_not_fused) ? ifa_add(ifa_mul(u, r), offset) : ifa_fma(u, r, offset));
  if (FAULT(index_truncated)) z = (float)floor((double)u * r * 1024 + 1024.0 * offset);
  if (FAULT(index_half_up)) z = (float)floor((double)u * r * 1024 + 1024.0 * offset + 0.5);
  if (FAULT(index_rounded_twice))
    z = ifa_rne(ifa_fma(u, ifa_mul(r, 1024.0f), 1024.0f * (float)(IFA_OCTAVES - unit))) + low;
  /* above `high` only where a fault lowered the unit */
  int32_t n = (int32_t)((z > low ? z < high ? z : high : low) - low);
  return FAULT(index_low_bit_lost) ? n & ~1 : n;
}

static void weigh_tile(const kernel *k, row *r, tile *t) {
  int32_t from = k->sees_dead_keys ? 0 : t->from, to = k->sees_dead_keys ? t->count : t->to,
          sum = 0;
  for (int32_t j = from; j < to; j++) {
    float factor = t->r;
    if (FAULT(key_scale_in_factor) && k->p->k_scale == IFA_SCALE_TOKEN)
      factor = ifa_mul(factor, key_scale(k, r, t->start + j));
    t->n[j] = weight_index(k, t->u[j], factor, r->split.unit);
    if (FAULT(masked_nan) && (j < t->from || j >= t->to))
      t->n[j] = t->r == 0.0f ? IFA_WEIGHT_TOP : 0;
  }
  for (int32_t j = t->from; j < t->to; j++) r->weight[j] = k->mutant->weight[t->n[j]];
  for (int32_t j = t->from; j < t->to; j++) sum += r->weight[j];
  if (FAULT(masked_nan) || FAULT(l_of_dead_keys))
    for (int32_t j = 0; j < t->count; j++)
      if (j < t->from || j >= t->to) sum += k->mutant->weight[t->n[j]];
  if (FAULT(masked_nan) && t->r == 0.0f) /* and they weigh on V */
    for (int32_t j = 0; j < t->count; j++) r->weight[j] = k->mutant->weight[t->n[j]];
  if (FAULT(l_binary16)) sum = (int32_t)ifa_f16_to_f32(ifa_f32_to_f16((float)sum));
  if (FAULT(value_l_of_p) && ifa_values_per_token(k->p)) return; /* weigh_values sums */
  r->split.l = wrapped_sum(r->split.l, sum);
  if (FAULT(l_16_bits)) r->split.l = (uint16_t)r->split.l;
}

/* ---- section 8: V per token ---- */

static float value_scale(const kernel *k, const row *r, int64_t key) {
  const ifa_problem *p = k->p;
  int64_t matrix = r->at.batch * p->kv_heads + r->at.kv_head;
  if (FAULT(value_scale_of_q_head)) matrix = r->at.batch * p->kv_heads + r->at.head;
  if (FAULT(value_scale_first_tile)) key %= k->tile;
  if (FAULT(scale_batch_ignored)) matrix = r->at.kv_head;
  return mutant_scale_at(k->in->v_scale, p->batch * p->kv_heads * p->nk, matrix * p->nk + key);
}

static int32_t value_exponent(const kernel *k, const row *r, const tile *t) {
  int32_t from = t->from, to = t->to;
  float largest = 0.0f;
  int exponent;
  if (FAULT(value_exponent_of_dead_keys)) from = 0, to = t->count;
  for (int32_t j = from; j < to && t->start + j < k->p->nk; j++) {
    float scale = value_scale(k, r, t->start + j);
    largest = scale > largest ? scale : largest;
  }
  int32_t b = ifa_value_exponent(largest);
  if (FAULT(value_exponent_of_power) && largest != 0.0f) {
    frexpf(largest, &exponent);
    b = exponent - 8;
  }
  return FAULT(value_exponent_one_more) ? b + 1 : b;
}

/* y_ij as a binary32 that is a binary16, unless a fault leaves out the rounding. */
static float value_weight(const kernel *k, uint16_t weight16, float scale, int32_t b) {
  double exact = scalbn(FAULT(value_scale_signed) ? (double)scale : fabs((double)scale), -b);
  float w = ifa_f16_to_f32(weight16);
  if (FAULT(value_weight_of_p)) w = rintf(w);
  if (FAULT(value_scale_binary32)) return ifa_f16_to_f32(ifa_f32_to_f16(w * (float)exact));
  uint16_t s = FAULT(value_scale_truncated) ? rounded_down_to_f16(exact) : ifa_f64_to_f16(exact);
  if (FAULT(value_scale_flushed) && s < 0x400) s = 0;
  float product = w * ifa_f16_to_f32(s);
  if (FAULT(value_weight_binary32)) return product;
  uint16_t y = ifa_f32_to_f16(product);
  return FAULT(value_weight_y_flushed) && y < 0x400 ? 0.0f : ifa_f16_to_f32(y);
}

static int32_t value_shift(const kernel *k, float largest) {
  uint16_t pattern = ifa_f32_to_f16(largest);
  int32_t m = 22 - ((pattern + (FAULT(value_shift_of_256) ? 0 : 7)) >> 10);
  if (FAULT(value_shift_not_capped)) return m;
  return m < 15 ? m : 15;
}

static void weigh_values(const kernel *k, row *r, const tile *t) {
  ifa_split_sums *sums = &r->split;
  int32_t b = value_exponent(k, r, t), from = t->from, to = t->to, sum = 0;
  float y[MAX_TILE], largest = 0.0f;
  if (FAULT(value_shift_of_dead_keys) || FAULT(masked_nan))
    from = 0, to = (int32_t)ifa_min64(t->count, k->p->nk - t->start);
  for (int32_t j = from; j < to; j++) {
    y[j] = t->start + j < k->p->nk
               ? value_weight(k, k->mutant->weight16[t->n[j]], value_scale(k, r, t->start + j), b)
               : 0.0f;
    int larger = FAULT(value_scale_signed) ? ifa_bits_of_f32(y[j]) > ifa_bits_of_f32(largest)
                                           : y[j] > largest;
    largest = larger ? y[j] : largest;
  }
  if (largest == 0.0f && !signbit(largest) && !FAULT(value_zero_tile_asks)) {
    for (int32_t j = from; j < to && !FAULT(value_zero_tile_weighs); j++) r->weight[j] = 0;
    return;
  }
  int32_t m = value_shift(k, largest),
          want = sums->unit + (FAULT(value_unit_without_b) ? 0 : b) - m,
          keys = growth_keys(k, t->start);
  int32_t magnitude =
      FAULT(value_headroom_of_l) ? sums->l : largest_magnitude(k, sums->acc, k->p->head_dim);
  int32_t unit = next_unit(
      k, sums->value_unit, want, FAULT(value_tau_infinite) ? IFA_TAU_INF : k->p->tau, magnitude,
      IFA_MAX_PRODUCT * keys, FAULT(headroom_ignored) || FAULT(value_headroom_ignored));
  if (sums->value_unit != IFA_NO_UNIT && unit != sums->value_unit && !FAULT(value_unit_forgets_acc))
    shift_acc(k, sums, unit - sums->value_unit);
  sums->value_unit = unit;
  for (int32_t j = from; j < to; j++) {
    float weight = scalbnf(y[j], sums->unit + b - unit);
    weight = weight < 255.0f ? weight : 255.0f; /* above only with a fault */
    r->weight[j] = FAULT(value_weight_truncated) ? (int32_t)weight : ifa_rne(weight);
    if (j >= t->from && j < t->to) sum += r->weight[j];
  }
  if (FAULT(value_l_of_p)) sums->l = wrapped_sum(sums->l, sum);
}

/* ---- section 7: acc += P * V ---- */

static int32_t saturated16(int32_t x) { return x > 32767 ? 32767 : x < -32768 ? -32768 : x; }

static void add_products(int32_t *restrict acc, int32_t weight, const int16_t *restrict v,
                         int32_t count) {
  for (int32_t d = 0; d < count; d++)
    acc[d] = (int32_t)((uint32_t)acc[d] + (uint32_t)(weight * v[d]));
}

static void add_values(const kernel *k, row *r, const tile *t) {
  static const int16_t zeros[IFA_MAX_HEAD_DIM];
  int32_t from = t->from, to = t->to, *acc = r->split.acc, dim = k->p->head_dim;
  if (FAULT(weights_stale) || (FAULT(masked_nan) && t->r == 0.0f)) from = 0, to = t->count;
  if (FAULT(acc_tail_dropped)) to = to / 32 * 32;
  for (int32_t j = from; j < to; j++) {
    int32_t place = j, weight = r->weight[j];
    if (FAULT(v_keys_permuted) && (j & 31) >= 8 && (j & 31) < 24) place = j ^ 24;
    int64_t key = t->start + place;
    if (FAULT(v_tile_stale) && j >= k->tile - STALE_KEYS && t->start >= COPY_STAGES * k->tile)
      key -= COPY_STAGES * k->tile;
    const int16_t *v = key < k->p->nk ? key_row(k, k->v16, r, key) : zeros;
    if (FAULT(weight_signed)) weight = (int8_t)weight;
    if (FAULT(acc_pairs_saturate)) {
      int paired = j % 2 == 0 && j + 1 < to;
      if (j % 2 && j > from) continue; /* with the key before */
      for (int32_t d = 0; d < dim; d++) {
        int32_t other = paired ? r->weight[j + 1] * key_row(k, k->v16, r, key + 1)[d] : 0;
        acc[d] = wrapped_sum(acc[d], saturated16(weight * v[d] + other));
      }
      continue;
    }
    add_products(acc, weight, v, dim);
  }
  for (int32_t d = 0; d < dim && FAULT(acc_16_bits); d++) acc[d] = (int16_t)acc[d];
  for (int32_t d = 0; d < dim && FAULT(acc_binary32); d++) acc[d] = (int32_t)(int64_t)(float)acc[d];
}

/* ---- splits ---- */

static void start_split(const kernel *k, row *r, int64_t start) {
  ifa_split_sums before = r->split;
  memset(&r->split, 0, sizeof r->split);
  r->split.unit = r->split.value_unit = IFA_NO_UNIT;
  if (start > 0 && before.unit != IFA_NO_UNIT) { /* of the split before */
    if (FAULT(acc_stale_split)) memcpy(r->split.acc, before.acc, sizeof before.acc);
    if (FAULT(l_stale_split)) r->split.l = before.l;
    if (FAULT(unit_stale_split))
      r->split.unit = before.unit, r->split.value_unit = before.value_unit;
  }
  if (start == 0 && r->number > 0 && before.unit != IFA_NO_UNIT) { /* of the row before */
    if (FAULT(unit_stale_row)) r->split.unit = before.unit, r->split.value_unit = before.value_unit;
    if (FAULT(l_stale_row)) r->split.l = before.l;
  }
}

static void sum_split(const kernel *k, row *r, const int16_t *q16, int64_t start, int64_t end) {
  tile t;
  start_split(k, r, start);
  for (t.start = start; t.start < end; t.start += k->tile) {
    t.count = (int32_t)ifa_min64(k->tile, end - t.start);
    t.from = (int32_t)ifa_min64(t.count, ifa_max64(0, r->live_first - t.start));
    t.to = (int32_t)ifa_max64(t.from, ifa_min64(t.count, r->live_end - t.start));
    if (FAULT(padding_keys_live) && t.start + t.count == k->p->nk && t.to == t.count &&
        t.to > t.from)
      t.count = t.to = k->tile;
    if (t.to == t.from) {
      if (FAULT(dead_tile_asks)) follow_unit(k, &r->split, t.start, 1);
      continue;
    }
    follow_unit(k, &r->split, t.start, score_tile(k, r, q16, &t));
    weigh_tile(k, r, &t);
    if (ifa_values_per_token(k->p)) weigh_values(k, r, &t);
    add_values(k, r, &t);
  }
}

static float merged(const kernel *k, float sum, int32_t e, int32_t split_sum, int32_t e_split,
                    int32_t e_new) {
  float other = (float)split_sum, f = ifa_pow2(e_split - e_new > 0 ? 0 : e_split - e_new),
        g = ifa_pow2(e - e_new > 0 ? 0 : e - e_new);
  if (FAULT(merge_truncated_sum) && fabs((double)other) > fabs((double)split_sum))
    other = nextafterf(other, 0.0f);
  if (FAULT(merge_without_exponents)) f = g = 1.0f;
  if (FAULT(merge_exponent_of_latest)) g = scalbnf(1.0f, e - e_new);
  if (FAULT(merge_subnormal_factor))
    f = scalbnf(1.0f, e_split - e_new), g = scalbnf(1.0f, e - e_new);
  if (FAULT(merge_not_fused)) return ifa_add(ifa_mul(other, f), ifa_mul(sum, g));
  return ifa_fma(other, f, ifa_mul(sum, g));
}

static int32_t larger_unit(const kernel *k, int32_t e, int32_t e_split) {
  return e == IFA_NO_UNIT || FAULT(merge_exponent_of_latest) || e_split > e ? e_split : e;
}

static void merge_split(const kernel *k, row *r) {
  ifa_split_sums *split = &r->split;
  ifa_row_sums *sums = &r->sums;
  if (FAULT(merge_dead_split) && split->unit == IFA_NO_UNIT && sums->unit != IFA_NO_UNIT)
    split->unit = split->value_unit = 0;
  if (split->unit == IFA_NO_UNIT) return;
  int32_t e = larger_unit(k, sums->unit, split->unit), e_before = sums->unit;
  sums->l = sums->unit == IFA_NO_UNIT ? (float)split->l
                                      : merged(k, sums->l, sums->unit, split->l, split->unit, e);
  sums->unit = e;
  if (split->value_unit == IFA_NO_UNIT) return;
  int32_t ev = larger_unit(k, sums->value_unit, split->value_unit);
  for (int32_t d = 0; d < k->p->head_dim; d++) {
    if (sums->value_unit == IFA_NO_UNIT) sums->o[d] = (float)split->acc[d];
    else if (FAULT(merge_values_by_e) && e_before != IFA_NO_UNIT)
      sums->o[d] = merged(k, sums->o[d], e_before, split->acc[d], split->unit, e);
    else sums->o[d] = merged(k, sums->o[d], sums->value_unit, split->acc[d], split->value_unit, ev);
  }
  sums->value_unit = ev;
}

/* ---- one row, all rows ---- */

static ifa_row place_of(const kernel *k, int64_t index) {
  ifa_row at = ifa_row_at(k->p, index);
  if (FAULT(gqa_modulo)) at.kv_head = at.head % k->p->kv_heads;
  if (FAULT(gqa_divides_by_kv_heads)) at.kv_head = at.head / k->p->kv_heads % k->p->kv_heads;
  if (FAULT(gqa_first_head)) at.kv_head = 0;
  return at;
}

static void attend_row(const kernel *k, row *r) {
  const ifa_problem *p = k->p;
  int16_t q16[IFA_MAX_HEAD_DIM];
  int64_t splits = ifa_ceil_div(p->nk, k->split);
  r->at = place_of(k, ifa_computed_row(k->in, r->number));
  r->sums = (ifa_row_sums){.unit = IFA_NO_UNIT, .value_unit = IFA_NO_UNIT};
  r->factor = row_factor(k, &r->at);
  mutant_unpack(k, 'q', r->at.batch, r->at.head, r->at.row, q16);
  mutant_live_keys(k, r->at.row, &r->live_first, &r->live_end);
  for (int64_t i = 0; i < splits; i++) {
    int64_t start = (FAULT(merge_descending) ? splits - 1 - i : i) * k->split;
    sum_split(k, r, q16, start, ifa_min64(start + k->split, p->nk));
    merge_split(k, r);
  }
  mutant_write_row(k, r);
  if (p->lse) mutant_write_lse(k, r);
}

ifa_status ifa_mutant_run(const ifa_mutant *mutant, const ifa_problem *p, const ifa_inputs *in,
                          const ifa_outputs *out, ifa_message *message) {
  kernel call = {.fault = mutant->fault,
                 .mutant = mutant,
                 .p = p,
                 .in = in,
                 .out = out,
                 .tile = p->kv_tile,
                 .split = p->kv_split},
         *k = &call;
  if (out->stages) return ifa_fail(message, IFA_UNSUPPORTED, "no stages are recorded");
  if (FAULT(tile_always_64)) k->tile = 64;
  if (FAULT(split_ignored)) k->split = IFA_MAX_KV_SPLIT;
  if (FAULT(split_zero_is_whole) && p->kv_split == IFA_MAX_KV_SPLIT) k->split = IFA_MAX_TOKENS;
  k->operand_fault = strcmp(ifa_mutant_entries[mutant->fault].part, "operands") == 0;
  k->sees_dead_keys = FAULT(unit_of_dead_keys) || FAULT(l_of_dead_keys) ||
                      FAULT(value_shift_of_dead_keys) || FAULT(masked_nan) || FAULT(weights_stale);
  k->dim = (p->head_dim + DIM_STEP - 1) / DIM_STEP * DIM_STEP;
  if (FAULT(no_keys_unwritten) && p->nk == 0) return ifa_succeed(message);

  int64_t rows = p->batch * p->kv_heads * p->nk;
  row *r = calloc(1, sizeof *r);
  k->k16 = malloc((size_t)(rows * k->dim + 1) * sizeof(int16_t));
  k->v16 = malloc((size_t)(rows * k->dim + 1) * sizeof(int16_t));
  int have_memory = r && k->k16 && k->v16;
  for (int64_t i = 0; have_memory && i < rows; i++) {
    int64_t matrix = i / p->nk;
    mutant_unpack(k, 'k', matrix / p->kv_heads, matrix % p->kv_heads, i % p->nk,
                  k->k16 + i * k->dim);
    mutant_unpack(k, 'v', matrix / p->kv_heads, matrix % p->kv_heads, i % p->nk,
                  k->v16 + i * k->dim);
  }
  for (int64_t i = 0; have_memory && i < ifa_computed_rows(p, in); i++) {
    r->number = i;
    attend_row(k, r);
  }
  free(k->v16);
  free(k->k16);
  free(r);
  return have_memory ? ifa_succeed(message)
                     : ifa_fail(message, IFA_OUT_OF_MEMORY, "no memory for the unpacked operands");
}

/* ---- mutants ---- */

ifa_mutant *ifa_mutant_new(ifa_mutant_number fault) {
  ifa_mutant *mutant = calloc(1, sizeof *mutant);
  if (!mutant) return NULL;
  mutant->fault = fault;
  fill_tables(mutant);
  return mutant;
}

void ifa_mutant_free(ifa_mutant *mutant) { free(mutant); }
