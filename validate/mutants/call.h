/* call.h - what the parts of the kernel with faults (kernel.c) share. A fault lies where FAULT
 * asks. */
#ifndef IFA_VALIDATE_MUTANTS_CALL_H
#define IFA_VALIDATE_MUTANTS_CALL_H

#include "ref/rows.h"
#include "validate/mutants/kernel.h"

#define FAULT(fault_name) (k->fault == IFA_MUTANT_##fault_name)

enum { MAX_TILE = 256, DIM_STEP = 16, ROW_BLOCK = 16, COPY_STAGES = 3, STALE_KEYS = 8 };

struct ifa_mutant {
  ifa_mutant_number fault;
  uint8_t weight[IFA_WEIGHT_TOP + 1];    /* p(n) */
  uint16_t weight16[IFA_WEIGHT_TOP + 1]; /* W(n) */
};

/* One call. */
typedef struct kernel {
  ifa_mutant_number fault;
  const ifa_mutant *mutant;
  const ifa_problem *p;
  const ifa_inputs *in;
  const ifa_outputs *out;
  int32_t tile, dim;  /* keys a tile; head_dim rounded up to DIM_STEP */
  int64_t split;      /* keys a split */
  int operand_fault;  /* the fault is one of how operands are read */
  int sees_dead_keys; /* the fault looks at keys that are not live: their scores are wanted too */
  int16_t *k16, *v16; /* [batch * kv_heads][nk][dim] */
} kernel;

/* One tile of one row. Arrays are indexed by the key's place in the tile. */
typedef struct tile {
  int64_t start;
  int32_t count, from, to; /* keys; the live ones */
  int32_t s[MAX_TILE], n[MAX_TILE];
  float u[MAX_TILE], r;
} tile;

/* One row. `weight` is not cleared between tiles and rows: only live keys' weights are read, unless
 * a fault reads others. */
typedef struct row {
  ifa_row at;
  int64_t number; /* among the computed rows */
  int64_t live_first, live_end;
  float factor;
  ifa_split_sums split;
  ifa_row_sums sums;
  int32_t weight[MAX_TILE];
} row;

static inline int32_t wrapped_sum(int32_t a, int32_t b) {
  return (int32_t)((uint32_t)a + (uint32_t)b);
}

/* operands.c: a token's (row's) elements, 'q', 'k' or 'v'; a scale; the keys that row i sees. */
void mutant_unpack(const kernel *k, char name, int64_t batch, int64_t head, int64_t token,
                   int16_t *to);
float mutant_scale_at(const float *scales, int64_t count, int64_t index);
void mutant_live_keys(const kernel *k, int64_t i, int64_t *first, int64_t *end);

/* output.c: a row's o, and its log-sum-exp. */
void mutant_write_row(const kernel *k, const row *r);
void mutant_write_lse(const kernel *k, const row *r);

#endif
