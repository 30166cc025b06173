/* attend.c - walks blocks of rows over tiles of keys: sections 3 to 11 of docs/numerics.md around
 * the kernels.
 *
 * Rows that share a key/value head are cut into blocks of up to IFA_CPU_ROWS, by position first and
 * query head second (so that the heads of a group and neighbouring positions read the same tiles).
 * Where there are many blocks a thread takes a block with all its splits; where there are few
 * (decoding) threads take splits of blocks, whose integer sums are then merged in ascending order.
 * Either way every row's arithmetic is the same. */
#include "cpu/attend.h"

#include <string.h>

#include "common/backend.h"
#include "common/fpenv.h"
#include "common/team.h"
#include "cpu/output.h"

enum {
  ALIGN = 64,
  SPLIT_ITEMS = 8 /* (block, split) pairs in flight per thread when splits are shared out */
};

/* A row's float sums over the splits so far, without O. */
typedef struct row_sums {
  int32_t unit, value_unit;
  float l;
} row_sums;

/* One thread's memory. */
typedef struct scratch {
  ifa_cpu_block block;
  const ifa_cpu_kernels *kernels; /* the block's */
  ifa_cpu_query at;               /* where Q and the output lie; of batch `first_batch` */
  int64_t first_batch;            /* 0 if `at` is a query's own, else batch */
  /* of the row in the output: (first_batch * q_heads + head) * nq + row */
  int64_t index[IFA_CPU_ROWS];
  int64_t o_at[IFA_CPU_ROWS];   /* its first element in the output */
  int64_t number[IFA_CPU_ROWS]; /* among the computed rows: first index of the stages */
  int64_t batch, kv_head;
  int32_t live_first, live_end; /* keys that any row sees */
  int32_t all_first, all_end;   /* keys that every row sees */
  row_sums sums[IFA_CPU_ROWS];
  float *o;            /* [row][dim] */
  const uint8_t *next; /* the tile after this one, or NULL */
  int unfolds;         /* the block's kernels want tiles of 4 bits as bytes: */
  ifa_cpu_layout wide; /* how those lie, */
  uint8_t *unfolded;   /* and where */
  const ifa_output_kernels *output;
} scratch;

/* ---- the workspace ---- */

/* What a split of a block leaves when splits are shared out. Then acc [rows][dim]. */
typedef struct split_sums {
  int32_t unit[IFA_CPU_ROWS], value_unit[IFA_CPU_ROWS], l[IFA_CPU_ROWS];
} split_sums;

typedef struct plan {
  int64_t blocks_per_matrix, blocks; /* upper bounds when rows are chosen */
  int32_t rows;                      /* of a block, at most */
  int64_t splits, wave;              /* wave > 0: splits are shared out, so many at a time */
  size_t scratch_bytes, split_bytes, sums_bytes;
  size_t at_starts, at_splits, at_sums, bytes;
} plan;

static size_t aligned(size_t bytes) { return (bytes + ALIGN - 1) / ALIGN * ALIGN; }

/* For a tile of 4 bits unfolded. */
static size_t unfolded_bytes(const ifa_problem *p) {
  if (p->k_type != IFA_I4 && p->v_type != IFA_I4) return 0;
  return (size_t)ifa_cpu_layout_of(p->kv_tile, p->head_dim, 8, 8).bytes;
}

/* Bytes and offsets, from threads, rows, blocks, wave; `starts` entries of find_blocks. */
static void lay_out(plan *w, const ifa_problem *p, int64_t starts, int threads) {
  size_t dim = (size_t)(p->head_dim + 15) / 16 * 16, keys = (size_t)p->kv_tile;
  size_t rows = IFA_CPU_ROWS; /* kernels may touch whole groups of rows */
  w->scratch_bytes = aligned(sizeof(scratch)) + aligned(rows * dim * 2) + aligned(rows * keys * 4) +
                     aligned(rows * keys * 2) + 2 * aligned(rows * dim * 4) + unfolded_bytes(p);
  w->split_bytes = aligned(sizeof(split_sums)) + aligned((size_t)w->rows * dim * 4);
  w->sums_bytes = aligned((size_t)w->rows * sizeof(row_sums)) + aligned((size_t)w->rows * dim * 4);
  w->at_starts = (size_t)threads * w->scratch_bytes;
  w->at_splits = w->at_starts + aligned((size_t)starts * sizeof(int64_t));
  w->at_sums = w->at_splits + (size_t)(w->wave * w->blocks) * w->split_bytes;
  w->bytes = w->at_sums + (w->wave ? (size_t)w->blocks * w->sums_bytes : 0);
}

/* How many splits are shared out at a time, if they are. */
static int64_t wave_for(int64_t splits, int64_t blocks, int threads) {
  if (splits <= 1 || blocks == 0 || blocks >= 2 * threads) return 0;
  return ifa_min64(splits, ifa_ceil_div((int64_t)SPLIT_ITEMS * threads, blocks));
}

static plan plan_for(const ifa_problem *p, const ifa_cpu_query *queries, int threads) {
  plan w = {0};
  int64_t group = p->q_heads / p->kv_heads, together = queries ? 0 : group * p->nq,
          nk = queries ? 0 : p->nk;
  w.blocks_per_matrix = ifa_ceil_div(together, IFA_CPU_ROWS);
  w.blocks = w.blocks_per_matrix * p->batch * p->kv_heads;
  for (int64_t i = 0; queries && i < p->batch; i++) {
    together = ifa_max64(together, group * queries[i].nq);
    nk = ifa_max64(nk, queries[i].nk);
    w.blocks += ifa_ceil_div(group * queries[i].nq, IFA_CPU_ROWS) * p->kv_heads;
  }
  w.rows = (int32_t)ifa_min64(IFA_CPU_ROWS, together);
  w.splits = ifa_ceil_div(nk, p->kv_split);
  w.wave = wave_for(w.splits, w.blocks, threads);
  lay_out(&w, p, queries ? p->batch + 1 : w.blocks + 1, threads);
  return w;
}

size_t ifa_cpu_attend_bytes(const ifa_problem *p, int threads) {
  return plan_for(p, NULL, threads).bytes;
}

size_t ifa_cpu_attend_queries_bytes(const ifa_problem *p, int64_t rows, int threads) {
  plan w = {.rows = (int32_t)ifa_min64(IFA_CPU_ROWS, p->q_heads / p->kv_heads * rows)};
  if (p->nk > p->kv_split) {
    /* splits may be shared out: fewer than 2 * threads blocks, SPLIT_ITEMS items a thread and one
     * more a block */
    w.blocks = 2 * threads;
    w.wave = SPLIT_ITEMS / 2 + 1;
  }
  lay_out(&w, p, rows + 1, threads);
  return w.bytes;
}

static scratch *scratch_at(const ifa_cpu_job *job, const plan *w, uint8_t *workspace, int thread) {
  uint8_t *at = workspace + (size_t)thread * w->scratch_bytes;
  size_t rows = IFA_CPU_ROWS, dim = (size_t)job->layout.dim, keys = (size_t)job->layout.keys;
  scratch *m = (scratch *)at;
  memset(m, 0, sizeof *m);
  at += aligned(sizeof *m);
  m->block.q = at;
  at += aligned(rows * dim * 2);
  m->block.s = (int32_t *)at;
  at += aligned(rows * keys * 4);
  m->block.p = at;
  at += aligned(rows * keys * 2);
  m->block.acc = (int32_t *)at;
  at += aligned(rows * dim * 4);
  m->o = (float *)at;
  at += aligned(rows * dim * 4);
  m->unfolded = at;
  m->wide = ifa_cpu_layout_of(job->layout.keys, job->layout.dim, 8, 8);
  m->output = ifa_output_kernels_best();
  m->block.values_per_token = ifa_values_per_token(job->p);
  m->block.tau = job->p->tau;
  return m;
}

/* ---- blocks of rows ---- */

/* All computed rows of a block: when all rows are computed block n is rows of matrix n /
 * blocks_per_matrix; when rows are chosen it is the computed rows starts[n] .. starts[n + 1] - 1;
 * when there are queries, starts[i] is query i's first block. */
static int64_t find_blocks(const ifa_cpu_job *job, const plan *w, int64_t *starts) {
  const ifa_problem *p = job->p;
  if (job->queries) {
    starts[0] = 0;
    for (int64_t i = 0; i < p->batch; i++)
      starts[i + 1] =
          starts[i] +
          ifa_ceil_div(p->q_heads / p->kv_heads * job->queries[i].nq, IFA_CPU_ROWS) * p->kv_heads;
    return w->blocks;
  }
  if (!job->in->rows) return w->blocks;
  int64_t blocks = 0, per_matrix = p->q_heads / p->kv_heads * p->nq;
  for (int64_t r = 0; r < job->in->row_count; r++)
    if (r == 0 || r - starts[blocks - 1] == IFA_CPU_ROWS ||
        job->in->rows[r] / per_matrix != job->in->rows[r - 1] / per_matrix)
      starts[blocks++] = r;
  starts[blocks] = job->in->row_count;
  return blocks;
}

/* A row of bytes in the kernels' form. */
static void store_q(const ifa_cpu_job *job, scratch *m, int32_t row, const int8_t *q) {
  const int32_t dim = job->layout.dim, count = job->p->head_dim;
  uint8_t *q8 = m->block.q + (size_t)row * (size_t)dim;
  if (m->kernels->q_form == IFA_CPU_INT16) {
    int16_t *q16 = (int16_t *)m->block.q + (size_t)row * (size_t)dim;
    for (int32_t d = 0; d < count; d++) q16[d] = q[d];
    for (int32_t d = count; d < dim; d++) q16[d] = 0;
  } else {
    const uint8_t flip = m->kernels->q_form == IFA_CPU_OFFSET8 ? 0x80 : 0; /* + 128, modulo 256 */
    for (int32_t d = 0; d < count; d++) q8[d] = (uint8_t)q[d] ^ flip;
    for (int32_t d = count; d < dim; d++) q8[d] = flip;
  }
}

/* Where a row's scale is in q_scale. */
static int64_t q_scale_place(const ifa_problem *p, const ifa_cpu_query *at, int64_t matrix,
                             int64_t row) {
  if (p->q_scale == IFA_SCALE_TOKEN) return matrix * at->nq + row;
  if (p->q_scale == IFA_SCALE_BLOCK)
    return matrix * ifa_ceil_div(at->nq, p->q_block) + row / p->q_block;
  return matrix;
}

/* Q and r_i of the block's rows: row i begins at element at[i], its scale is q_scale[place[i]]. */
static void load_integers(const ifa_cpu_job *job, scratch *m, const int64_t *at,
                          const int64_t *place) {
  int8_t buffer[IFA_MAX_HEAD_DIM];
  for (int32_t row = 0; row < m->block.rows; row++) {
    store_q(job, m, row,
            ifa_cpu_row_bytes(m->at.q_type, m->at.q, at[row], job->p->head_dim, buffer));
    m->block.factor[row] = ifa_row_factor(m->at.q_scale[place[row]], job->p->sm_scale);
  }
}

/* 16 rows of floats: q and their scales; 0 if something is not acceptable. */
static int quantize_rows(const ifa_cpu_job *job, const scratch *m, const int64_t *at,
                         const int64_t *place, int32_t count, float *scale, int8_t *const *q) {
  const ifa_cpu_float_rows *f = &job->floats;
  const int32_t dim = job->p->head_dim, most = job->p->q_type == IFA_I4 ? 7 : 127;
  ifa_largest_scale largest = {"q_scale", 0, 0.0f};
  float x[IFA_MAX_HEAD_DIM];
  if (!f->inverse &&
      !f->kernels->token_rows(f->type, m->at.q, at, count, dim, most, NULL, scale, q))
    return 0;
  for (int32_t i = 0; f->inverse && i < count; i++) {
    if (f->kernels->widen(f->type, m->at.q, at[i], dim, x) > IFA_ROW_LARGEST) return 0;
    f->kernels->grid(x, f->inverse[place[i]], dim, q[i]);
    scale[i] = m->at.q_scale[place[i]];
  }
  for (int32_t i = 0; i < count; i++)
    largest.value = scale[i] > largest.value ? scale[i] : largest.value;
  ifa_atomic_raise(f->largest, ifa_bits_of_f32(largest.value));
  return ifa_check_octaves(job->p, &largest, &f->k, NULL) == IFA_OK;
}

/* The same from floats. */
static void load_floats(const ifa_cpu_job *job, scratch *m, const int64_t *at,
                        const int64_t *place) {
  enum { TOGETHER = 16 };
  int8_t q[TOGETHER][IFA_MAX_HEAD_DIM], *rows[TOGETHER];
  float scale[TOGETHER];
  for (int32_t i = 0; i < TOGETHER; i++) rows[i] = q[i];
  for (int32_t row = 0, count; row < m->block.rows; row += count) {
    count = m->block.rows - row < TOGETHER ? m->block.rows - row : TOGETHER;
    if (!quantize_rows(job, m, at + row, place + row, count, scale, rows)) {
      atomic_store_explicit(job->floats.bad, 1, memory_order_relaxed);
      memset(q, 0, sizeof q);
      memset(scale, 0, sizeof scale);
    }
    for (int32_t i = 0; i < count; i++) {
      store_q(job, m, row + i, q[i]);
      m->block.factor[row + i] = ifa_row_factor(scale[i], job->p->sm_scale);
    }
  }
}

/* Where block n lies: matrix (batch * kv_heads + kv_head) and first row of it; and whose Q and
 * output these are. */
static int64_t find_block(const ifa_cpu_job *job, const plan *w, const int64_t *starts, int64_t n,
                          scratch *m) {
  const ifa_problem *p = job->p;
  int64_t matrix, first_row = 0;
  if (job->queries) {
    int64_t low = 0, high = p->batch; /* starts[low] <= n < starts[high] */
    while (high - low > 1) {
      int64_t middle = (low + high) / 2;
      if (starts[middle] <= n) low = middle;
      else high = middle;
    }
    int64_t each = (starts[low + 1] - starts[low]) / p->kv_heads;
    m->batch = low;
    m->kv_head = (n - starts[low]) / each;
    m->at = job->queries[low];
    m->first_batch = 0;
    return (n - starts[low]) % each * IFA_CPU_ROWS;
  }
  if (job->in->rows) {
    matrix = job->in->rows[starts[n]] / (p->q_heads / p->kv_heads * p->nq);
  } else {
    matrix = n / w->blocks_per_matrix;
    first_row = n % w->blocks_per_matrix * IFA_CPU_ROWS;
  }
  m->batch = m->first_batch = matrix / p->kv_heads;
  m->kv_head = matrix % p->kv_heads;
  m->at = (ifa_cpu_query){.q = job->in->q,
                          .q_scale = job->in->q_scale,
                          .q_type = p->q_type,
                          .q_stride = p->q_stride,
                          .o = job->out->o,
                          .o_stride = p->o_stride,
                          .lse = job->out->lse,
                          .nq = p->nq,
                          .nk = p->nk};
  return first_row;
}

/* Section 3: the keys that a row sees, and those that any of the block's rows and all of them see.
 */
static void add_live_keys(scratch *m, int32_t row, int32_t first, int32_t end) {
  m->block.live_first[row] = first;
  m->block.live_end[row] = end;
  if (end > first) {
    m->live_first = first < m->live_first ? first : m->live_first;
    m->live_end = end > m->live_end ? end : m->live_end;
  }
  m->all_first = first > m->all_first ? first : m->all_first;
  m->all_end = end < m->all_end ? end : m->all_end;
}

static void load_block(const ifa_cpu_job *job, const plan *w, const int64_t *starts, int64_t n,
                       scratch *m) {
  const ifa_problem *p = job->p;
  int64_t group = p->q_heads / p->kv_heads, first_row = find_block(job, w, starts, n, m),
          nq = m->at.nq;
  ifa_cpu_block *b = &m->block;
  b->rows = (int32_t)(job->in->rows ? starts[n + 1] - starts[n]
                                    : ifa_min64(IFA_CPU_ROWS, group * nq - first_row));
  m->kernels = b->rows < IFA_CPU_MANY_ROWS ? job->few : job->many;
  m->unfolds =
      (job->layout.k_bits == 4 || job->layout.v_bits == 4) && b->rows > m->kernels->nibble_rows;
  b->layout = m->unfolds ? &m->wide : &job->layout;
  m->live_first = m->all_end = INT32_MAX;
  m->live_end = m->all_first = 0;
  int64_t at[IFA_CPU_ROWS], place[IFA_CPU_ROWS];
  int64_t token = first_row / group, head = m->kv_head * group + first_row % group;
  for (int32_t row = 0; row < b->rows; row++) {
    int64_t index, first, end;
    if (job->in->rows) {
      m->number[row] = starts[n] + row;
      index = job->in->rows[starts[n] + row];
      head = index / nq % p->q_heads;
      token = index % nq;
    } else {
      m->number[row] = index = (m->first_batch * p->q_heads + head) * nq + token;
    }
    m->index[row] = index;
    m->o_at[row] = ifa_offset(m->at.o_stride, m->first_batch, head, token);
    at[row] = ifa_offset(m->at.q_stride, m->first_batch, head, token);
    place[row] = q_scale_place(p, &m->at, m->first_batch * p->q_heads + head, token);
    ifa_live_keys_at(p, token + m->at.nk - nq, m->at.nk, &first, &end);
    if (end < first) end = first = 0;
    add_live_keys(m, row, (int32_t)first, (int32_t)end);
    if (++head < (m->kv_head + 1) * group) continue; /* positions first, then heads */
    head -= group;
    token++;
  }
  if (job->floats.kernels) load_floats(job, m, at, place);
  else load_integers(job, m, at, place);
  for (int32_t row = 0; row < b->rows; row++)
    m->sums[row] = (row_sums){IFA_NO_UNIT, IFA_NO_UNIT, 0.0f};
}

/* ---- stages ---- */

static void record_scores(const ifa_cpu_job *job, const scratch *m, int64_t t) {
  const ifa_cpu_block *b = &m->block;
  for (int32_t row = b->first; row < b->last; row++)
    for (int32_t j = b->from[row]; j < b->to[row]; j++)
      if (job->out->stages->s)
        job->out->stages->s[m->number[row] * m->at.nk + t * b->layout->keys + j] =
            b->s[(size_t)row * (size_t)b->layout->keys + (size_t)j];
}

/* p: what the kernel gave if V is not per token; else it never leaves the kernel but in l, and is
 * computed again from the scores. */
static void record_weights(const ifa_cpu_job *job, const scratch *m, int64_t t,
                           const uint8_t *tile) {
  const ifa_stages *stages = job->out->stages;
  const ifa_cpu_block *b = &m->block;
  int64_t tiles = ifa_ceil_div(m->at.nk, b->layout->keys);
  for (int32_t row = b->first; row < b->last; row++) {
    if (b->to[row] <= b->from[row]) continue;
    float r = ifa_mul(b->factor[row], ifa_cpu_head(b->layout, tile)->k_factor);
    if (stages->unit) stages->unit[m->number[row] * tiles + t] = b->unit[row];
    if (stages->value_unit && b->values_per_token)
      stages->value_unit[m->number[row] * tiles + t] = b->value_unit[row];
    for (int32_t j = b->from[row]; j < b->to[row]; j++) {
      size_t at = (size_t)row * (size_t)b->layout->keys + (size_t)j;
      int64_t key = m->number[row] * m->at.nk + t * b->layout->keys + j;
      uint8_t p = m->kernels->p_bytes == 1 ? b->p[at] : (uint8_t)((const int16_t *)b->p)[at];
      if (stages->value_p) stages->value_p[key] = p;
      if (stages->p && stages->s && b->values_per_token)
        p = ifa_cpu_weight[ifa_weight_index(
            ifa_score(stages->s[key], ifa_cpu_k_scale(b->layout, tile)[j]), r, b->unit[row])];
      if (stages->p) stages->p[key] = p;
    }
  }
}

static void clear_stages(const ifa_cpu_job *job, const scratch *m) {
  const ifa_stages *stages = job->out->stages;
  int64_t nk = m->at.nk, tiles = ifa_ceil_div(nk, job->layout.keys);
  for (int32_t row = 0; row < m->block.rows; row++) {
    int64_t number = m->number[row];
    if (stages->s) memset(stages->s + number * nk, 0, (size_t)nk * 4);
    if (stages->p) memset(stages->p + number * nk, 0, (size_t)nk);
    if (stages->value_p) memset(stages->value_p + number * nk, 0, (size_t)nk);
    for (int64_t t = 0; t < tiles; t++) {
      if (stages->unit) stages->unit[number * tiles + t] = IFA_NO_UNIT;
      if (stages->value_unit) stages->value_unit[number * tiles + t] = IFA_NO_UNIT;
    }
  }
}

/* ---- one split of a block ---- */

/* Which rows see which keys of tile t. */
static void look_at_tile(scratch *m, int64_t t) {
  ifa_cpu_block *b = &m->block;
  int32_t keys = b->layout->keys, start = (int32_t)(t * keys);
  b->first = 0;
  b->last = b->rows;
  b->whole = m->all_first <= start && m->all_end >= start + keys;
  if (b->whole) {
    for (int32_t row = 0; row < b->rows; row++) {
      b->from[row] = 0;
      b->to[row] = keys;
    }
    return;
  }
  for (int32_t row = 0; row < b->rows; row++) {
    int32_t from = b->live_first[row] - start, to = b->live_end[row] - start;
    b->from[row] = from < 0 ? 0 : from;
    b->to[row] = to > keys ? keys : to;
  }
  while (b->first < b->last && b->to[b->first] <= b->from[b->first]) b->first++;
  while (b->first < b->last && b->to[b->last - 1] <= b->from[b->last - 1]) b->last--;
  b->whole = b->first < b->last;
  for (int32_t row = b->first; row < b->last; row++)
    b->whole &= b->from[row] == 0 && b->to[row] == keys;
}

static const uint8_t *find_tile(const ifa_cpu_job *job, const scratch *m, int64_t t) {
  if (job->tile) return job->tile(job->context, m->batch, m->kv_head, t);
  return job->tiles + (size_t)(m->batch * job->p->kv_heads + m->kv_head) * job->matrix_bytes +
         (size_t)t * (size_t)job->layout.bytes;
}

/* A third of the next tile into the cache, before a stage of this one, where the kernels do not
 * prefetch it themselves. */
static void fetch_next(const ifa_cpu_job *job, const scratch *m, int32_t part) {
  const int32_t third = (job->layout.bytes / 64 + 2) / 3 * 64;
  if (m->block.next || !m->next) return;
  for (int32_t i = part * third; i < (part + 1) * third; i += 64) __builtin_prefetch(m->next + i);
}

static void attend_split(const ifa_cpu_job *job, scratch *m, int64_t split) {
  const ifa_problem *p = job->p;
  ifa_cpu_block *b = &m->block;
  int64_t start = split * p->kv_split, end = ifa_min64(start + p->kv_split, m->at.nk);
  int64_t first = ifa_max64(start, m->live_first) / p->kv_tile,
          last = ifa_ceil_div(ifa_min64(end, m->live_end), p->kv_tile);
  for (int32_t row = 0; row < IFA_CPU_ROWS; row++) b->unit[row] = b->value_unit[row] = IFA_NO_UNIT;
  memset(b->l, 0, sizeof b->l);
  memset(b->acc, 0, (size_t)b->rows * (size_t)b->layout->dim * sizeof *b->acc);
  m->next = NULL;
  for (int64_t t = first; t < last; t++) {
    look_at_tile(m, t);
    const uint8_t *tile = m->next ? m->next : find_tile(job, m, t);
    m->next = t + 1 < last ? find_tile(job, m, t + 1) : NULL;
    b->next = m->kernels->fetches && !m->unfolds ? m->next : NULL;
    if (b->first == b->last) continue;
    if (m->unfolds) m->kernels->unfold(&job->layout, tile, &m->wide, m->unfolded);
    if (m->unfolds) tile = m->unfolded;
    b->growth_keys = (int32_t)(start + p->kv_split - t * p->kv_tile);
    fetch_next(job, m, 0);
    m->kernels->scores(b, tile);
    fetch_next(job, m, 1);
    if (job->out->stages) record_scores(job, m, t);
    m->kernels->weigh(b, tile);
    if (job->out->stages) record_weights(job, m, t, tile);
    fetch_next(job, m, 2);
    m->kernels->values(b, tile);
  }
}

/* The sums of the block's split, as stages or for a later merge. */
static int32_t total_l(const ifa_cpu_block *b, int32_t row) {
  int32_t l = 0;
  for (int32_t i = 0; i < 16; i++) l += b->l[row][i];
  return l;
}

static void record_split(const ifa_cpu_job *job, const scratch *m, int64_t split) {
  const ifa_stages *stages = job->out->stages;
  const ifa_cpu_block *b = &m->block;
  size_t dim = (size_t)job->p->head_dim;
  for (int32_t row = 0; row < b->rows; row++) {
    size_t at = (size_t)(m->number[row] * ifa_ceil_div(m->at.nk, job->p->kv_split) + split);
    if (stages->l) stages->l[at] = total_l(b, row);
    if (stages->acc)
      memcpy(stages->acc + at * dim, b->acc + (size_t)row * (size_t)b->layout->dim,
             dim * sizeof(int32_t));
  }
}

/* ---- sections 9 to 11: merging and output ---- */

/* A split's sums of one row into the row's. */
static void merge(const ifa_output_kernels *k, row_sums *row, float *o, int32_t unit,
                  int32_t value_unit, int32_t l, const int32_t *acc, int32_t dim) {
  if (unit == IFA_NO_UNIT) return; /* no live key */
  if (row->unit == IFA_NO_UNIT) {
    row->l = (float)l;
    row->unit = unit;
  } else {
    int32_t e = unit > row->unit ? unit : row->unit;
    row->l = ifa_merge(row->l, row->unit, l, unit, e);
    row->unit = e;
  }
  if (value_unit == IFA_NO_UNIT) return; /* every y was 0 */
  if (row->value_unit == IFA_NO_UNIT) {
    k->first(acc, dim, o);
    row->value_unit = value_unit;
  } else {
    int32_t e = value_unit > row->value_unit ? value_unit : row->value_unit;
    k->merge(acc, ifa_pow2(value_unit - e), ifa_pow2(row->value_unit - e), dim, o);
    row->value_unit = e;
  }
}

/* sums: of all splits. o: float sums; or NULL, and acc are the integer sums of the only one. */
static void write_row(const ifa_cpu_job *job, const scratch *m, int32_t row, const row_sums *sums,
                      const float *o, const int32_t *acc) {
  const ifa_problem *p = job->p;
  const int32_t dim = p->head_dim;
  const int64_t matrix = m->batch * p->kv_heads + m->kv_head;
  float buffer[IFA_MAX_HEAD_DIM];
  float *out = p->out_type == IFA_F32 ? (float *)m->at.o + m->o_at[row] : buffer;
  if (sums->unit == IFA_NO_UNIT || sums->value_unit == IFA_NO_UNIT) {
    memset(out, 0, (size_t)dim * sizeof *out); /* no live key, or all values 0 */
  } else if (!m->block.values_per_token) {
    const int per_channel = p->v_scale == IFA_SCALE_CHANNEL;
    m->output->finish(o, acc, sums->l, job->in->v_scale + (per_channel ? matrix * dim : matrix),
                      per_channel, NULL, dim, out);
  } else {
    const float *channel =
        p->v_scale == IFA_SCALE_TOKEN_CHANNEL ? job->in->v_channel_scale + matrix * dim : NULL;
    const int32_t up = sums->value_unit - sums->unit;
    /* a product with 2^up rounds as scalbnf does */
    const int power = up >= -126 && up <= 127;
    const float factor = power ? ifa_pow2(up) : 1.0f;
    m->output->finish(o, acc, sums->l, &factor, 0, power ? channel : NULL, dim, out);
    for (int32_t d = 0; !power && d < dim; d++) {
      out[d] = scalbnf(out[d], up);
      if (channel) out[d] = ifa_mul(out[d], channel[d]);
    }
  }
  if (p->out_type != IFA_F32) m->output->store(p->out_type, out, dim, m->at.o, m->o_at[row]);
  if (p->lse)
    m->at.lse[m->index[row]] = sums->unit == IFA_NO_UNIT ? -INFINITY : ifa_lse(sums->l, sums->unit);
}

/* ---- all of it ---- */

/* A block with all its splits. */
static void attend_block(const ifa_cpu_job *job, scratch *m) {
  const ifa_cpu_block *b = &m->block;
  int32_t dim = job->p->head_dim;
  size_t pitch = (size_t)job->layout.dim;
  const int one = m->at.nk <= job->p->kv_split; /* then its sums are the row's */
  if (job->out->stages) clear_stages(job, m);
  for (int64_t split = 0; split * job->p->kv_split < m->at.nk; split++) {
    attend_split(job, m, split);
    if (job->out->stages) record_split(job, m, split);
    for (int32_t row = 0; row < b->rows; row++) {
      int32_t l = total_l(b, row);
      if (one) m->sums[row] = (row_sums){b->unit[row], b->value_unit[row], (float)l};
      else
        merge(m->output, &m->sums[row], m->o + (size_t)row * pitch, b->unit[row],
              b->value_unit[row], l, b->acc + (size_t)row * pitch, dim);
    }
  }
  for (int32_t row = 0; row < b->rows; row++)
    write_row(job, m, row, &m->sums[row], one ? NULL : m->o + (size_t)row * pitch,
              b->acc + (size_t)row * pitch);
}

/* What the members of a team share. */
typedef struct attention {
  const ifa_cpu_job *job;
  const plan *w;
  const int64_t *starts;
  int64_t blocks;
  uint8_t *workspace;
  int64_t wave, count; /* splits wave .. wave + count - 1, where splits are shared out */
  ifa_team_items items;
} attention;

/* Each thread has an environment of its own. */
static scratch *enter(const attention *a, int member, ifa_fpenv *env) {
  ifa_fpenv_enter(env);
  return scratch_at(a->job, a->w, a->workspace, member);
}

static void leave(const attention *a, const ifa_fpenv *env) {
  if (a->job->many->leave) a->job->many->leave();
  if (a->job->few->leave) a->job->few->leave();
  ifa_fpenv_leave(env);
}

static void take_blocks(void *context, int member) {
  attention *a = context;
  ifa_fpenv env;
  scratch *m = enter(a, member, &env);
  for (int64_t i; (i = ifa_team_take(&a->items)) < a->items.count;) {
    load_block(a->job, a->w, a->starts, a->blocks - 1 - i, m); /* causal: the longest first */
    attend_block(a->job, m);
  }
  leave(a, &env);
}

/* All blocks of a matrix, whose tiles this member makes first. */
static void take_matrices(void *context, int member) {
  attention *a = context;
  const ifa_problem *p = a->job->p;
  const int64_t each = a->w->blocks_per_matrix;
  ifa_fpenv env;
  scratch *m = enter(a, member, &env);
  for (int64_t i; (i = ifa_team_take(&a->items)) < a->items.count;) {
    ifa_cpu_job own = *a->job;
    own.once = each == 1;
    own.make_matrix(own.make_context, member, i / p->kv_heads, i % p->kv_heads, &own);
    for (int64_t n = 0; n < each; n++) {
      load_block(&own, a->w, a->starts, i * each + n, m);
      attend_block(&own, m);
    }
  }
  leave(a, &env);
}

static split_sums *split_at(const plan *w, uint8_t *workspace, int64_t blocks, int64_t slot,
                            int64_t block) {
  return (split_sums *)(workspace + w->at_splits +
                        (size_t)(slot * blocks + block) * w->split_bytes);
}

/* Each split of each block, for a later merge. */
static void take_splits(void *context, int member) {
  attention *a = context;
  size_t pitch = (size_t)a->job->layout.dim;
  ifa_fpenv env;
  scratch *m = enter(a, member, &env);
  const ifa_cpu_block *b = &m->block;
  for (int64_t i; (i = ifa_team_take(&a->items)) < a->items.count;) {
    int64_t slot = i / a->blocks, block = i % a->blocks;
    split_sums *to = split_at(a->w, a->workspace, a->blocks, slot, block);
    load_block(a->job, a->w, a->starts, block, m);
    attend_split(a->job, m, a->wave + slot);
    memcpy(to->unit, b->unit, sizeof to->unit);
    memcpy(to->value_unit, b->value_unit, sizeof to->value_unit);
    for (int32_t row = 0; row < b->rows; row++) to->l[row] = total_l(b, row);
    memcpy((uint8_t *)to + aligned(sizeof *to), b->acc, (size_t)b->rows * pitch * sizeof(int32_t));
  }
  leave(a, &env);
}

static void merge_block(const attention *a, int64_t block, scratch *m) {
  const ifa_cpu_job *job = a->job;
  const ifa_cpu_block *b = &m->block;
  const size_t pitch = (size_t)job->layout.dim;
  row_sums *sums = (row_sums *)(a->workspace + a->w->at_sums + (size_t)block * a->w->sums_bytes);
  float *o = (float *)((uint8_t *)sums + aligned((size_t)a->w->rows * sizeof *sums));
  load_block(job, a->w, a->starts, block, m);
  if (a->wave == 0) memcpy(sums, m->sums, (size_t)b->rows * sizeof *sums);
  for (int64_t slot = 0; slot < a->count; slot++) {
    const split_sums *from = split_at(a->w, a->workspace, a->blocks, slot, block);
    const int32_t *acc = (const int32_t *)((const uint8_t *)from + aligned(sizeof *from));
    for (int32_t row = 0; row < b->rows; row++)
      merge(m->output, &sums[row], o + (size_t)row * pitch, from->unit[row], from->value_unit[row],
            from->l[row], acc + (size_t)row * pitch, job->p->head_dim);
  }
  if (a->wave + a->count == a->w->splits)
    for (int32_t row = 0; row < b->rows; row++)
      write_row(job, m, row, &sums[row], o + (size_t)row * pitch, NULL);
}

static void take_merges(void *context, int member) {
  attention *a = context;
  ifa_fpenv env;
  scratch *m = enter(a, member, &env);
  for (int64_t i; (i = ifa_team_take(&a->items)) < a->items.count;) merge_block(a, i, m);
  leave(a, &env);
}

/* Splits shared out: a wave of them at a time, then a merge in order. */
static void attend_splits(attention *a) {
  for (a->wave = 0; a->wave < a->w->splits; a->wave += a->w->wave) {
    a->count = ifa_min64(a->w->wave, a->w->splits - a->wave);
    a->items = (ifa_team_items){.count = a->count * a->blocks};
    ifa_team_run(a->job->threads, take_splits, a);
    a->items = (ifa_team_items){.count = a->blocks};
    ifa_team_run((int)ifa_min64(a->job->threads, a->blocks), take_merges, a);
  }
}

/* ---- how many threads ---- */

/* Keys that a row of nq sees among nk, about: half of the last nq if the mask is causal. */
static double keys_seen(const ifa_problem *p, int64_t nq, int64_t nk) {
  double keys = (double)nk - (p->causal ? 0.5 * (double)ifa_min64(nq, nk) : 0.0);
  double within = (p->causal ? 1.0 : 2.0) * (double)p->window;
  return p->window && within < keys ? within : keys;
}

/* The time of all of it on one thread, roughly: AVX-512 VNNI does 400 thousand million operations a
 * second, four to a channel of a key and a row; a tile that is read costs as much as 8 rows. */
static double nanoseconds(const ifa_cpu_job *job, int64_t blocks) {
  const ifa_problem *p = job->p;
  const double per_key = 0.01 * p->head_dim * job->few->slowness;
  double steps = 0;
  if (!job->queries) {
    double rows = (double)ifa_computed_rows(p, job->in);
    return per_key * keys_seen(p, p->nq, p->nk) * (rows + 8.0 * (double)blocks);
  }
  for (int64_t i = 0; i < p->batch; i++) {
    const ifa_cpu_query *q = &job->queries[i];
    double rows = (double)(p->q_heads / p->kv_heads * q->nq);
    steps +=
        keys_seen(p, q->nq, q->nk) * (double)p->kv_heads * (rows + 8.0 * ceil(rows / IFA_CPU_ROWS));
  }
  return per_key * steps;
}

/* Where there are enough matrices for all members, each has its tiles made by who computes its
 * rows: they are then near, and nobody waits for all of them. */
static int by_matrix(const ifa_cpu_job *job) {
  const int64_t matrices = job->p->batch * job->p->kv_heads;
  return !job->in->rows &&
         (job->threads == 1 || matrices % job->threads == 0 || matrices >= 4 * job->threads);
}

void ifa_cpu_attend_tiles(const ifa_cpu_job *given, void *workspace) {
  ifa_cpu_job job = *given;
  plan w = plan_for(job.p, job.queries, job.threads);
  int shares = w.wave && !job.out->stages; /* splits may be shared out */
  ifa_cpu_fill_tables();
  job.threads = ifa_team_size(job.threads, shares ? w.blocks * w.splits : w.blocks,
                              nanoseconds(&job, w.blocks) + job.make_nanoseconds);
  w = plan_for(job.p, job.queries, job.threads); /* with fewer threads it needs no more memory */
  int64_t *starts = (int64_t *)((uint8_t *)workspace + w.at_starts);
  attention a = {.job = &job,
                 .w = &w,
                 .starts = starts,
                 .blocks = find_blocks(&job, &w, starts),
                 .workspace = workspace};
  if (a.blocks == 0) return;
  if (job.make_matrix && by_matrix(&job)) {
    a.items = (ifa_team_items){.count = job.p->batch * job.p->kv_heads};
    ifa_team_run(job.threads, take_matrices, &a);
    return;
  }
  if (job.make_all) job.make_all(job.make_context, &job);
  if (w.wave && !job.out->stages) {
    attend_splits(&a);
    return;
  }
  a.items = (ifa_team_items){.count = a.blocks};
  ifa_team_run(job.threads, take_blocks, &a);
}
