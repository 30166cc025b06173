/* attend.h - attention over tiles, wherever they lie: the one code path of prefill (cpu/api.c packs into a workspace) and of a paged cache. */
#ifndef IFA_CPU_ATTEND_H
#define IFA_CPU_ATTEND_H

#include "cpu/kernels.h"

typedef struct ifa_cpu_job {
  const ifa_problem *p;     /* resolved; q_heads, kv_heads, masks, tau, kv_tile, kv_split, output. nq and nk: the largest of the batch */
  const ifa_inputs *in;     /* q, q_scale, rows; v_scale if it is per tensor or channel; v_channel_scale. K, V and token scales are in the tiles */
  const ifa_outputs *out;   /* o, lse; stages (then nq and nk below must be NULL) */
  ifa_cpu_layout layout;
  /* Tile t (keys t * kv_tile ...) of (batch, kv_head); called from all threads. */
  const uint8_t *(*tile)(const void *context, int64_t batch, int64_t kv_head, int64_t t);
  const void *context;
  /* Sequences of different lengths: [batch] query tokens (<= p->nq; rows i >= nq[b] are not computed or written) and keys (<= p->nk), each
   * mask aligned at its own end. NULL: p->nq and p->nk for all. */
  const int64_t *nq, *nk;
  const ifa_cpu_kernels *kernels;
  int threads;              /* >= 1; without OpenMP 1 is used */
} ifa_cpu_job;

/* Bytes of workspace for ifa_cpu_attend_tiles. */
size_t ifa_cpu_attend_bytes(const ifa_problem *p, int threads);

/* Everything was checked (common/inputs.h); workspace is 64-byte aligned and large enough. Cannot fail; allocates nothing. The result does
 * not depend on `threads`. */
void ifa_cpu_attend_tiles(const ifa_cpu_job *job, void *workspace);

#endif
