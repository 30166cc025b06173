/* fuzz_case.c - libFuzzer target: any text as a problem ('p' first), as a case with lists ('c') or
 * as a suite ('s'; any other byte chooses too). What is accepted must print, and parse back to the
 * same. Build: clang -fsanitize=fuzzer,address,undefined; seeds: tests/corpus/case. */
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "ifa.h"
#include "validate/cases/suite.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

enum { MOST_CASES = 1000, MOST_COMMAS = 9 /* 2^9 cases a line of a suite, or 1000 */ };

static void require(bool holds) {
  if (!holds) abort();
}

static bool same_strides(ifa_strides a, ifa_strides b) {
  return a.batch == b.batch && a.head == b.head && a.token == b.token;
}
/* a NaN's payload is no matter */
static bool same_float(float a, float b) { return a != a ? b != b : memcmp(&a, &b, sizeof a) == 0; }

static bool same_problem(const ifa_problem *a, const ifa_problem *b) {
  return a->batch == b->batch && a->q_heads == b->q_heads && a->kv_heads == b->kv_heads &&
         a->nq == b->nq && a->nk == b->nk && a->head_dim == b->head_dim && a->q_type == b->q_type &&
         a->k_type == b->k_type && a->v_type == b->v_type && a->q_scale == b->q_scale &&
         a->k_scale == b->k_scale && a->v_scale == b->v_scale && a->q_block == b->q_block &&
         a->k_block == b->k_block && same_strides(a->q_stride, b->q_stride) &&
         same_strides(a->k_stride, b->k_stride) && same_strides(a->v_stride, b->v_stride) &&
         same_strides(a->o_stride, b->o_stride) && same_float(a->sm_scale, b->sm_scale) &&
         a->causal == b->causal && a->window == b->window && a->tau == b->tau &&
         a->kv_tile == b->kv_tile && a->kv_split == b->kv_split && a->out_type == b->out_type &&
         a->lse == b->lse;
}

static void fuzz_problem(const char *text) {
  ifa_problem p = ifa_problem_default(), before = p, back = p;
  ifa_message why = {"left over"};
  char printed[1024];
  ifa_status status = ifa_problem_parse(text, &p, &why);
  require((status == IFA_OK) == (why.text[0] == '\0'));
  if (status != IFA_OK) {
    require(status == IFA_BAD_PROBLEM && same_problem(&p, &before));
    return;
  }
  require(ifa_problem_print(&p, printed, sizeof printed, &why) == IFA_OK);
  /* "512 always do", for a valid problem */
  require(ifa_problem_check(&p, NULL) != IFA_OK || strlen(printed) < 512);
  require(ifa_problem_parse(printed, &back, &why) == IFA_OK);
  require(same_problem(&p, &back));
}

/* What a printed case keeps: blocks only where scales have them; with a file, no sizes, no scale
 * that follows from them, and no fill and seed that nothing is drawn from. */
static ifa_case kept(const ifa_case *c) {
  ifa_case k = *c;
  const ifa_case standard = ifa_case_default();
  if (k.problem.q_scale != IFA_SCALE_BLOCK) k.problem.q_block = standard.problem.q_block;
  if (k.problem.k_scale != IFA_SCALE_BLOCK) k.problem.k_block = standard.problem.k_block;
  if (!k.input[0]) return k;
  k.problem.batch = k.problem.q_heads = k.problem.kv_heads = k.problem.nq = k.problem.nk = 1;
  k.problem.head_dim = standard.problem.head_dim;
  if (k.auto_scale) k.problem.sm_scale = 0.125f;
  if (k.layout_bnhd)
    k.problem.q_stride = k.problem.k_stride = k.problem.v_stride = k.problem.o_stride =
        standard.problem.q_stride;
  k.fill = standard.fill;
  if (!k.rows) k.seed = standard.seed;
  return k;
}

static void check_case(const ifa_case *c) {
  char text[IFA_CASE_TEXT];
  ifa_case back;
  /* the text of an invalid problem may be cut */
  if (ifa_problem_check(&c->problem, NULL) != IFA_OK) return;
  ifa_case_print(c, text);
  require(ifa_case_parse(text, &back, NULL) == IFA_OK);
  ifa_case a = kept(c), b = kept(&back);
  require(same_problem(&a.problem, &b.problem));
  require(a.auto_scale == b.auto_scale && a.layout_bnhd == b.layout_bnhd && a.fill == b.fill &&
          a.seed == b.seed && a.rows == b.rows && a.smooth == b.smooth &&
          a.minus_zero == b.minus_zero && strcmp(a.input, b.input) == 0);
}

static ifa_status each(const ifa_case *c, void *context, ifa_message *message) {
  (void)message;
  if (++*(int *)context > MOST_CASES) return IFA_UNSUPPORTED;
  check_case(c);
  return IFA_OK;
}

static void fuzz_case(const char *text) {
  ifa_case base = ifa_case_default();
  ifa_message why = {""};
  int count = 0;
  ifa_status status = ifa_case_expand(text, &base, each, &count, &why);
  require(status == IFA_OK            ? count > 0 && count <= MOST_CASES
          : status == IFA_UNSUPPORTED ? count > MOST_CASES
                                      : status == IFA_BAD_ARGUMENT && why.text[0]);
}

static void fuzz_suite(const char *text) {
  ifa_case base = ifa_case_default();
  ifa_message why = {""};
  ifa_case_list list = {0};
  int commas = 0;
  for (const char *at = text; *at; at++) commas += *at == ',';
  if (commas > MOST_COMMAS) return; /* a million cases are allowed, but not in a fuzzer's time */
  ifa_status status = ifa_case_list_add_text(&list, "fuzz", text, &base, &why);
  require(status == IFA_OK || (status == IFA_BAD_ARGUMENT && why.text[0] && strchr(why.text, ':')));
  for (size_t i = 0; i < list.count && i < MOST_CASES; i++) check_case(&list.cases[i]);
  ifa_case_list_free(&list);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length) {
  if (length == 0) return 0;
  char *text = malloc(length); /* the input less its first byte, then NUL: a read past it is seen */
  require(text != NULL);
  memcpy(text, bytes + 1, length - 1);
  text[length - 1] = '\0';
  int kind = bytes[0] == 'p' ? 0 : bytes[0] == 'c' ? 1 : bytes[0] == 's' ? 2 : bytes[0] % 3;
  if (kind == 0) fuzz_problem(text);
  else if (kind == 1) fuzz_case(text);
  else fuzz_suite(text);
  free(text);
  return 0;
}
