/* attend.h - attention over tiles, wherever they lie: the one code path of prefill (cpu/api.c packs
 * into a workspace) and of a paged cache. */
#ifndef IFA_CPU_ATTEND_H
#define IFA_CPU_ATTEND_H

#include <stdatomic.h>

#include "common/inputs.h"
#include "cpu/kernels/kernels.h"
#include "cpu/quantize/rows.h"

/* One of several sequences of different lengths: rows of its own, each mask aligned at its own end,
 * Q and the output where they lie. */
typedef struct ifa_cpu_query {
  const void *q;        /* [q_heads, nq, head_dim] by q_stride */
  const float *q_scale; /* as p->q_scale says, for one batch */
  ifa_type q_type;
  ifa_strides q_stride;
  void *o; /* [q_heads, nq, head_dim] by o_stride */
  ifa_strides o_stride;
  float *lse;     /* [q_heads][nq], if p->lse */
  int64_t nq, nk; /* nq >= 1 */
} ifa_cpu_query;

/* Q of floats, made into integers as blocks of rows are loaded (in->q, by p->q_stride; no queries).
 */
typedef struct ifa_cpu_float_rows {
  ifa_type type;
  const ifa_row_kernels *kernels;
  /* NULL: a scale per token, found here. Else the factors to the grid, one for each of q_scale */
  const float *inverse;
  ifa_largest_scale k;       /* scores of a row with it must be below 2^22 octaves */
  _Atomic uint32_t *largest; /* raised to the bits of the largest scale */
  _Atomic int *bad; /* set if an element or a scale is not acceptable; the row is then all 0 */
} ifa_cpu_float_rows;

typedef struct ifa_cpu_job {
  const ifa_problem *p; /* resolved; q_heads, kv_heads, masks, tau, kv_tile, kv_split, output */
  /* q, q_scale, rows; v_scale if it is per tensor or channel; v_channel_scale. K, V and token
   * scales are in the tiles */
  const ifa_inputs *in;
  const ifa_outputs *out;       /* o, lse; stages */
  const ifa_cpu_query *queries; /* NULL, or [p->batch]: read instead of p->nq, p->nk, p->q_type,
                                   strides, in->q, in->q_scale, out->o and out->lse; no rows are
                                   chosen, no stages recorded, V is per token */
  ifa_cpu_float_rows floats;    /* floats.kernels NULL: Q is of integers */
  ifa_cpu_layout layout;
  /* Tile t (keys t * kv_tile ...) of (batch, kv_head): where `tile` says, which is called from all
   * threads; or (tile NULL) in memory, tiles + (batch * kv_heads + kv_head) * matrix_bytes + t *
   * layout.bytes. */
  const uint8_t *(*tile)(const void *context, int64_t batch, int64_t kv_head, int64_t t);
  const void *context;
  const uint8_t *tiles;
  size_t matrix_bytes;
  /* Tiles in memory that the call makes, or both NULL: by a member of the team, before it computes
   * all rows of (batch, kv_head); or all of them, before any row is computed. They say in *own
   * where the tiles are. make_nanoseconds: all of it on one thread, roughly. */
  void (*make_matrix)(void *context, int member, int64_t batch, int64_t kv_head,
                      struct ifa_cpu_job *own);
  void (*make_all)(void *context, struct ifa_cpu_job *own);
  void *make_context;
  double make_nanoseconds;
  /* set for make_matrix: there is one block of rows, so each tile is looked at once, in order, and
   * `tile` may make it then. The tile before it is still in use. */
  int32_t once;
  /* of blocks with at least IFA_CPU_MANY_ROWS rows; of those with fewer */
  const ifa_cpu_kernels *many, *few;
  int threads; /* >= 1: at most; as many are used as the work is worth (common/team.h) */
} ifa_cpu_job;

/* Bytes of workspace for ifa_cpu_attend_tiles, without queries. */
size_t ifa_cpu_attend_bytes(const ifa_problem *p, int threads);

/* The same for any queries with at most `rows` rows together (the sum of nq) and p->nk keys each.
 */
size_t ifa_cpu_attend_queries_bytes(const ifa_problem *p, int64_t rows, int threads);

/* Everything was checked (common/inputs.h); workspace is 64-byte aligned and large enough. Cannot
 * fail; allocates nothing. The result does not depend on `threads`. */
void ifa_cpu_attend_tiles(const ifa_cpu_job *job, void *workspace);

/* A tile that holds all nk keys gives the same bits whatever its size (there is one tile, one
 * split, and no key behind nk is live): the smallest such kv_tile. p is resolved. */
static inline ifa_problem ifa_cpu_small_tile(ifa_problem p) {
  while (p.kv_tile > 32 && p.kv_tile / 2 >= p.nk) p.kv_tile /= 2;
  return p;
}

/* IFA_BAD_ARGUMENT unless a workspace is there, aligned and as large as needed. */
ifa_status ifa_cpu_check_workspace(const void *workspace, size_t bytes, size_t needed,
                                   ifa_message *message);

#endif
