/* tiles.c - the tile loop with a running maximum: FlashAttention-2, arXiv 2307.08691, Algorithm 1.
 *
 * One query row at a time; keys in tiles of kv_tile, ascending. Q', K', V' are the operands on
 * their grids (recipe), all values binary32, P = weight(p):
 *
 *   m = -inf, l = 0, O = 0
 *   for each tile with a live key, over its live keys j:
 *     S_j   = (sum_c Q'_c K'_jc) * q_scale * k_scale_j * sm_scale      c ascending
 *     m_new = max(m, max_j S_j)
 *     alpha = exp(m - m_new)                                            0 at the first tile
 *     p_j   = exp(S_j - m_new)
 *     l     = alpha * l + sum_j (p_j or P_j)                            j ascending
 *     O     = alpha * O + sum_j P_j V'_j                                j ascending
 *     m     = m_new
 *   O = O * v_scale / l,  lse = m + log l                               l in units where p = 1
 *     counts 1 (or weight_of_one)
 *
 * Exactness: products of two fp16, e4m3, e5m2 or INT8 numbers are exact in binary32, and INT8 sums
 * stay integers below 2^24 (127 * 127 * 256 = 4129024), so for INT8 the sums over c and over a
 * tile's j are the integer sums of the published kernels. Published kernels use exp2 on scores
 * times log2(e), and FlashAttention's run the tiles last to first; the papers do not. A row is one
 * thread's, so results do not depend on the number of threads. */
#include <math.h>
#include <stdlib.h>

#include "common/team.h"
#include "ref/baselines/tiles.h"

ifa_key_range ifa_live_keys(const ifa_float_problem *p, int64_t i) {
  /* negative for rows that a causal mask leaves without keys */
  int64_t position = i + p->nk - p->nq;
  /* no window beyond this hides anything; keeps the sums below from overflow */
  int64_t longest = p->nq + p->nk;
  int64_t window = p->window < longest ? p->window : longest;
  ifa_key_range range = {0, p->nk};
  if (p->causal && position + 1 < range.end) range.end = position + 1;
  if (p->window > 0) {
    if (position - window + 1 > range.begin) range.begin = position - window + 1;
    if (position + window < range.end) range.end = position + window;
  }
  return range;
}

/* The operands of the head at work. K is kept as [tile][head_dim][kv_tile], so that a tile's scores
 * advance side by side. */
typedef struct tiles_head {
  const ifa_tile_recipe *recipe;
  const ifa_float_problem *p;
  int64_t head, kv_head; /* matrices that the operands hold; -1: none yet */
  ifa_operand q, k, v;
  float *k_tiles;
  double k_mean[IFA_MAX_HEAD_DIM]; /* 0 unless the recipe subtracts it */
} tiles_head;

typedef struct tiles_row {
  float m, l, o[IFA_MAX_HEAD_DIM];
} tiles_row;

/* ---- operands ---- */

static int operand_new(int64_t tokens, int32_t head_dim, ifa_operand *operand) {
  size_t groups = (size_t)(tokens > head_dim ? tokens : head_dim);
  operand->x = malloc(((size_t)tokens * (size_t)head_dim + 1) * sizeof(float));
  operand->scale = malloc(groups * sizeof(float));
  return operand->x && operand->scale;
}

static void operand_free(ifa_operand *operand) {
  free(operand->x);
  free(operand->scale);
}

static int head_new(tiles_head *head, const ifa_tile_recipe *recipe, const ifa_float_problem *p) {
  *head = (tiles_head){.recipe = recipe, .p = p, .head = -1, .kv_head = -1};
  size_t tiles = (size_t)((p->nk + p->kv_tile - 1) / p->kv_tile);
  head->k_tiles = calloc(tiles * (size_t)p->kv_tile * (size_t)p->head_dim + 1, sizeof(float));
  int ok = operand_new(p->nq, p->head_dim, &head->q);
  ok &= operand_new(p->nk, p->head_dim, &head->k);
  ok &= operand_new(p->nk, p->head_dim, &head->v);
  return ok && head->k_tiles;
}

static void head_free(tiles_head *head) {
  operand_free(&head->q);
  operand_free(&head->k);
  operand_free(&head->v);
  free(head->k_tiles);
}

/* mean_c = (sum_j K_jc) / nk in binary64; K_jc - mean_c rounded to binary32 into k. */
static void subtract_mean(tiles_head *head, const float *source, float *k) {
  int64_t nk = head->p->nk;
  int32_t head_dim = head->p->head_dim;
  for (int32_t c = 0; c < head_dim; c++) {
    double sum = 0;
    for (int64_t j = 0; j < nk; j++) sum += (double)source[j * head_dim + c];
    head->k_mean[c] = sum / (double)nk;
    for (int64_t j = 0; j < nk; j++)
      k[j * head_dim + c] = (float)((double)source[j * head_dim + c] - head->k_mean[c]);
  }
}

static void load_k(tiles_head *head, const float *source) {
  int64_t nk = head->p->nk;
  int32_t head_dim = head->p->head_dim, kv_tile = head->p->kv_tile;
  if (head->recipe->k_minus_mean && nk > 0) {
    subtract_mean(head, source, head->k.x);
    source = head->k.x;
  }
  ifa_put_on_grid(&head->recipe->k, source, nk, head_dim, &head->k);
  for (int64_t j = 0; j < nk; j++) {
    float *tile = head->k_tiles + j / kv_tile * kv_tile * head_dim;
    for (int32_t c = 0; c < head_dim; c++)
      tile[c * kv_tile + j % kv_tile] = head->k.x[j * head_dim + c];
  }
}

/* Puts matrix `number` of Q, and its K and V, on their grids; what is loaded already stays. */
static void head_load(tiles_head *head, const ifa_float_inputs *in, int64_t number) {
  const ifa_float_problem *p = head->p;
  int64_t kv_head = ifa_float_kv_head(p, number), kv_at = kv_head * p->nk * p->head_dim;
  head->head = number;
  ifa_put_on_grid(&head->recipe->q, in->q + number * p->nq * p->head_dim, p->nq, p->head_dim,
                  &head->q);
  if (kv_head == head->kv_head || p->nk == 0) return;
  head->kv_head = kv_head;
  load_k(head, in->k + kv_at);
  ifa_put_on_grid(&head->recipe->v, in->v + kv_at, p->nk, p->head_dim, &head->v);
}

/* ---- loop ---- */

/* S_j of row i for the keys begin .. end - 1, which lie in one tile; s[0] is key `begin`. */
static void tile_scores(const tiles_head *head, int64_t i, ifa_key_range keys, float *s) {
  int32_t head_dim = head->p->head_dim, kv_tile = head->p->kv_tile,
          count = (int32_t)(keys.end - keys.begin);
  const float *q = head->q.x + i * head_dim, *k_scale = head->k.scale + keys.begin;
  const float *tile =
      head->k_tiles + keys.begin / kv_tile * kv_tile * head_dim + keys.begin % kv_tile;
  for (int32_t j = 0; j < count; j++) s[j] = 0.0f;
  for (int32_t c = 0; c < head_dim; c++) {
    const float *column = tile + c * kv_tile;
    for (int32_t j = 0; j < count; j++) s[j] += q[c] * column[j];
  }
  for (int32_t j = 0; j < count; j++)
    s[j] = s[j] * (head->q.scale[i] * k_scale[j]) * head->p->sm_scale;
}

/* The body of the loop above; `weight` enters holding S and leaves holding P. */
static void tile_step(const tiles_head *head, ifa_key_range keys, float *weight, tiles_row *row) {
  const ifa_tile_recipe *recipe = head->recipe;
  int32_t head_dim = head->p->head_dim, count = (int32_t)(keys.end - keys.begin);
  float m_new = row->m, l = 0.0f, o[IFA_MAX_HEAD_DIM] = {0};
  for (int32_t j = 0; j < count; j++) m_new = fmaxf(m_new, weight[j]);
  float alpha = expf(row->m - m_new);
  for (int32_t j = 0; j < count; j++) {
    float p = expf(weight[j] - m_new);
    weight[j] = recipe->weight(p);
    l += recipe->l_sums_weights ? weight[j] : p;
  }
  for (int32_t j = 0; j < count; j++) {
    const float *v = head->v.x + (keys.begin + j) * head_dim;
    for (int32_t c = 0; c < head_dim; c++) o[c] += weight[j] * v[c];
  }
  row->m = m_new;
  row->l = alpha * row->l + l;
  for (int32_t c = 0; c < head_dim; c++) row->o[c] = alpha * row->o[c] + o[c];
}

/* lse of the scores with K's mean put back: removing it lowered every score of the row by sm_scale
 * * q.mean. */
static double row_lse(const tiles_head *head, const float *q, const tiles_row *row) {
  double l = (double)row->l /
             (head->recipe->l_sums_weights ? (double)head->recipe->weight_of_one : 1.0),
         shift = 0;
  for (int32_t c = 0; c < head->p->head_dim; c++) shift += (double)q[c] * head->k_mean[c];
  return (double)row->m + log(l) + shift * (double)head->p->sm_scale;
}

/* The key of the maximum has p = 1, so l >= 1 after any tile, or NaN after an overflow: 0 means
 * that no key was live. */
static void write_row(const tiles_head *head, const float *q, const tiles_row *row, double *o,
                      double *lse) {
  const ifa_tile_recipe *recipe = head->recipe;
  int empty = row->l == 0.0f;
  float l = recipe->l_sums_weights ? row->l : row->l * recipe->weight_of_one;
  for (int32_t c = 0; c < head->p->head_dim; c++) {
    float result = empty ? 0.0f : row->o[c] / l * head->v.scale[c];
    o[c] = (double)(recipe->output ? recipe->output(result) : result);
  }
  if (lse) *lse = empty ? -INFINITY : row_lse(head, q, row);
}

/* q: the row before rounding. */
static void run_row(const tiles_head *head, const float *q, int64_t i, double *o, double *lse) {
  tiles_row row = {.m = -INFINITY};
  float tile[IFA_MAX_BASELINE_TILE];
  ifa_key_range live = ifa_live_keys(head->p, i);
  for (int64_t begin = live.begin; begin < live.end;) {
    int64_t next = (begin / head->p->kv_tile + 1) * head->p->kv_tile;
    ifa_key_range keys = {begin, next < live.end ? next : live.end};
    tile_scores(head, i, keys, tile);
    tile_step(head, keys, tile, &row);
    begin = keys.end;
  }
  write_row(head, q, &row, o, lse);
}

typedef struct head_rows {
  const tiles_head *head;
  const ifa_float_inputs *in;
  const ifa_float_outputs *out;
  int64_t first;
  ifa_team_items rows;
} head_rows;

static void take_rows(void *context, int member) {
  (void)member;
  head_rows *c = context;
  const tiles_head *head = c->head;
  int32_t head_dim = head->p->head_dim;
  for (int64_t i; (i = ifa_team_take(&c->rows)) < c->rows.count;) {
    int64_t r = c->first + i, number = ifa_float_row(c->in, r);
    run_row(head, c->in->q + number * head_dim, number - head->head * head->p->nq,
            c->out->o + r * head_dim, c->out->lse ? c->out->lse + r : NULL);
  }
}

/* Computed rows first .. last - 1, all of the loaded head. */
static void run_head(const tiles_head *head, const ifa_float_inputs *in,
                     const ifa_float_outputs *out, int64_t first, int64_t last) {
  head_rows c = {.head = head, .in = in, .out = out, .first = first, .rows.count = last - first};
  /* a nanosecond for each of two products, about */
  double nanoseconds = 2.0 * (double)c.rows.count * (double)head->p->nk * head->p->head_dim;
  ifa_team_run(ifa_team_size(ifa_team_default(), c.rows.count, nanoseconds), take_rows, &c);
}

ifa_status ifa_tiles_run(const ifa_tile_recipe *recipe, const ifa_float_problem *p,
                         const ifa_float_inputs *in, const ifa_float_outputs *out,
                         ifa_message *message) {
  tiles_head head;
  if (!head_new(&head, recipe, p)) {
    head_free(&head);
    return ifa_fail(message, IFA_OUT_OF_MEMORY,
                    "baseline: no memory for a head of nq %lld and nk %lld tokens",
                    (long long)p->nq, (long long)p->nk);
  }
  int64_t count = ifa_float_row_count(p, in);
  for (int64_t first = 0, last; first < count; first = last) {
    int64_t number = ifa_float_row(in, first) / p->nq;
    for (last = first + 1; last < count && ifa_float_row(in, last) / p->nq == number;) last++;
    head_load(&head, in, number);
    run_head(&head, in, out, first, last);
  }
  head_free(&head);
  return ifa_succeed(message);
}
