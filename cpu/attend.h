/* attend.h - attention over tiles, wherever they lie: the one code path of prefill (cpu/api.c packs
 * into a workspace) and of a paged cache. */
#ifndef IFA_CPU_ATTEND_H
#define IFA_CPU_ATTEND_H

#include "cpu/kernels/kernels.h"

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

typedef struct ifa_cpu_job {
  const ifa_problem *p; /* resolved; q_heads, kv_heads, masks, tau, kv_tile, kv_split, output */
  /* q, q_scale, rows; v_scale if it is per tensor or channel; v_channel_scale. K, V and token
   * scales are in the tiles */
  const ifa_inputs *in;
  const ifa_outputs *out;       /* o, lse; stages */
  const ifa_cpu_query *queries; /* NULL, or [p->batch]: read instead of p->nq, p->nk, p->q_type,
                                   strides, in->q, in->q_scale, out->o and out->lse; no rows are
                                   chosen, no stages recorded, V is per token */
  ifa_cpu_layout layout;
  /* Tile t (keys t * kv_tile ...) of (batch, kv_head); called from all threads. */
  const uint8_t *(*tile)(const void *context, int64_t batch, int64_t kv_head, int64_t t);
  const void *context;
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

#endif
