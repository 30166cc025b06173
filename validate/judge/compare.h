/* compare.h - runs one backend on a case's data and compares what it gives with the oracle, bit by
 * bit and stage by stage. */
#ifndef IFA_VALIDATE_COMPARE_H
#define IFA_VALIDATE_COMPARE_H

#include "validate/cases/buffers.h"
#include "validate/cases/data.h"
#include "validate/judge/distance.h"

typedef enum ifa_verdict {
  IFA_PASSED = 0,
  IFA_FAILED,        /* a mismatch, or an error where the oracle has none */
  IFA_NOT_SUPPORTED, /* the backend says so */
  IFA_ABSENT,        /* the backend is not available here */
  IFA_EMPTY,         /* it ran, and there was nothing to compare: no query rows */
  IFA_CRASHED,       /* a plug-in's process ended before it answered */
  IFA_TIMED_OUT,     /* a plug-in did not answer within the limit and was ended */
  /* a plug-in's answer cannot be read, or an output is missing or of another shape or type */
  IFA_BAD_OUTPUT,
  IFA_VERDICTS
} ifa_verdict;

/* "passed", "failed", "unsupported", "not available", "empty", ... */
const char *ifa_verdict_name(ifa_verdict verdict);

/* Is it the kernel's fault: failed, crashed, timed out, bad output? */
static inline int ifa_verdict_is_failure(ifa_verdict v) {
  return v == IFA_FAILED || v == IFA_CRASHED || v == IFA_TIMED_OUT || v == IFA_BAD_OUTPUT;
}

enum { IFA_MAX_PLACES = 10 };

/* One differing element. */
typedef struct ifa_place {
  char where[96];         /* "o[b 0][h 1][i 7][d 3]", "unit[b 0][h 1][i 7][tile 2]" */
  uint32_t expected, got; /* bit patterns */
  int digits;             /* hexadecimal digits of a pattern: 2, 4 or 8 */
  /* of a `close` kernel: the numbers, and how far apart they may be (infinity: no bound) */
  int bounded;
  double right, value, bound;
} ifa_place;

typedef struct ifa_outcome {
  ifa_verdict verdict;
  ifa_message message; /* why not passed: one line */
  /* first stage that differs, in the order of the computation; NULL if none */
  const char *stage;
  int stages_compared; /* 1: S, units, weights and sums too; 0: output and lse only */
  int64_t compared;    /* elements compared */
  int64_t mismatches;  /* of the first differing stage */
  int place_count;
  ifa_place places[IFA_MAX_PLACES];
  double seconds; /* of the backend's run */
  int runs;       /* of a plug-in: how often it was run and compared */
  /* of a plug-in's output from the oracle's (exact) or from binary64 (close) */
  ifa_distance distance;
} ifa_outcome;

/* What the oracle gives for a case, kept to compare several backends with it. */
typedef struct ifa_expected ifa_expected;

/* Runs the oracle. *expected is to be freed by ifa_expected_free. IFA_NOT_AVAILABLE and the like
 * never arise: any status but IFA_OK means that the case itself is invalid or that memory ran out.
 */
ifa_status ifa_expected_make(const ifa_data *data, ifa_expected **expected, ifa_message *message);
void ifa_expected_free(ifa_expected *expected);

/* Digest of output and log-sum-exp of the computed rows (little-endian bytes in logical order): 128
 * bits as 32 hex digits. */
void ifa_expected_digest(const ifa_data *data, const ifa_expected *expected, char hex[33]);

/* The same of one run of any backend. */
ifa_status ifa_backend_digest(const ifa_data *data, const char *backend, char hex[33],
                              ifa_message *message);

/* The same of the quantized operands and scales, in logical order (layout does not matter): 64 bits
 * as 16 hex digits. */
void ifa_data_digest(const ifa_data *data, char hex[17]);

/* Output (as floats) and log-sum-exp of the computed rows: [row][head_dim], [row]. */
float *ifa_expected_floats(const ifa_data *data, const ifa_expected *expected);

/* Compares outputs that were made elsewhere (a plug-in's), bit by bit; sets the distance too. */
void ifa_compare_outputs(const ifa_data *data, const ifa_expected *expected,
                         const ifa_run_buffers *got, ifa_outcome *outcome);

/* The same with all stages, in the order of the computation. `got` has them (IFA_STAGES_ALL). Is
 * the case small enough for that? */
void ifa_compare_stages(const ifa_data *data, const ifa_expected *expected,
                        const ifa_run_buffers *got, ifa_outcome *outcome);
int ifa_stages_affordable(const ifa_data *data);

/* Runs `backend` and compares. The backend "scalar" is the oracle itself: it is compared with
 * binary64 within the bound of docs/validate.md instead. */
void ifa_compare(const ifa_data *data, const ifa_expected *expected, const char *backend,
                 ifa_outcome *outcome);

/* Poison differs between the oracle's run and the backend's: what neither wrote differs. The
 * oracle's is a NaN in every float type. */
enum { IFA_ORACLE_POISON = 0xff, IFA_BACKEND_POISON = 0x7f };

/* All arrays that both runs have, in the order of the computation; stops at the first that differs.
 * The outcome was {0}. */
void ifa_compare_buffers(const ifa_data *data, const ifa_run_buffers *expected,
                         const ifa_run_buffers *got, ifa_outcome *outcome);

#endif
