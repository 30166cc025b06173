/* problems.h - what tests of problems and of cases share. */
#ifndef IFA_TESTS_COMMON_PROBLEMS_H
#define IFA_TESTS_COMMON_PROBLEMS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "common/problem.h"

/* The call answers `status`, and its message names every part of `words` ("" ends the list). */
static inline void expect(ifa_status got, const ifa_message *why, ifa_status status,
                          const char *first, const char *second) {
  if (got != status)
    fail_msg("%s (%s), not %s, where '%s' '%s' were expected", ifa_status_name(got), why->text,
             ifa_status_name(status), first, second);
  if (!strstr(why->text, first) || !strstr(why->text, second))
    fail_msg("'%s' does not say '%s' and '%s'", why->text, first, second);
  assert_null(strchr(why->text, '\n'));
}

static inline void expect_good(const ifa_problem *p) {
  ifa_message why = {"left over"};
  ifa_status status = ifa_problem_check(p, &why);
  if (status != IFA_OK) fail_msg("%s", why.text);
  assert_string_equal(why.text, "");
}

static inline int same_strides(ifa_strides a, ifa_strides b) {
  return a.batch == b.batch && a.head == b.head && a.token == b.token;
}

/* Field by field: padding is nobody's. */
static inline int same_problem(const ifa_problem *a, const ifa_problem *b) {
  return a->batch == b->batch && a->q_heads == b->q_heads && a->kv_heads == b->kv_heads &&
         a->nq == b->nq && a->nk == b->nk && a->head_dim == b->head_dim && a->q_type == b->q_type &&
         a->k_type == b->k_type && a->v_type == b->v_type && a->q_scale == b->q_scale &&
         a->k_scale == b->k_scale && a->v_scale == b->v_scale && a->q_block == b->q_block &&
         a->k_block == b->k_block && same_strides(a->q_stride, b->q_stride) &&
         same_strides(a->k_stride, b->k_stride) && same_strides(a->v_stride, b->v_stride) &&
         same_strides(a->o_stride, b->o_stride) &&
         memcmp(&a->sm_scale, &b->sm_scale, sizeof a->sm_scale) == 0 && a->causal == b->causal &&
         a->window == b->window && a->tau == b->tau && a->kv_tile == b->kv_tile &&
         a->kv_split == b->kv_split && a->out_type == b->out_type && a->lse == b->lse;
}

#endif
