/* fuzz_case.c - libFuzzer target: any text as a problem ('p' first), as a case with lists ('c'), as
 * a suite ('s'), as an input's path ('i'), as something to be shown ('v') or as a number ('n'; any
 * other byte chooses too). What is accepted must print, and parse back to the same; every message
 * must be whole characters if the text is. Build: clang -fsanitize=fuzzer,address,undefined; seeds:
 * tests/corpus/case. */
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ifa.h"
#include "common/message.h"
#include "validate/cases/suite.h"
#include "validate/text/number.h"
#include "validate/text/visible.h"

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

/* A path is any text; the case that has it is a line of plain ASCII and gives it back. */
static void fuzz_input(const char *text) {
  ifa_case c = ifa_case_default(), back;
  char printed[IFA_CASE_TEXT];
  if (strlen(text) >= IFA_INPUT_PATH || !*text) return;
  require(ifa_case_set_input(&c, text, NULL) == IFA_OK);
  ifa_case_print(&c, printed);
  for (const char *at = printed; *at; at++) require(*at >= ' ' && *at <= '~');
  require(strpbrk(printed, "\"$`\\!,#'") == NULL);
  require(ifa_case_parse(printed, &back, NULL) == IFA_OK && strcmp(back.input, text) == 0);
}

/* Valid UTF-8 without control characters, and not changed by a second time. */
static void require_visible(const char *text) {
  for (size_t n; *text; text += n) {
    require((n = ifa_utf8_length(text)) > 0);
    require(n > 1 || (*text >= ' ' && *text <= '~'));
  }
}

static void fuzz_visible(const char *text) {
  char *made = ifa_visible(text), *again = made ? ifa_visible(made) : NULL,
       *word = ifa_shell_word(text);
  require(made && again && word && strcmp(made, again) == 0);
  require_visible(made);
  require_visible(word);
  ifa_short shown = ifa_shorten(made);
  require_visible(shown.text);
  for (size_t most = 0; most < 8; most++) {
    size_t cut = ifa_utf8_cut(made, most);
    require(cut <= most && cut <= strlen(made));
  }
  ifa_message why;
  ifa_fail(&why, IFA_IO, "%s", made);
  require_visible(why.text);
  free(word);
  free(again);
  free(made);
}

static void fuzz_number(const char *text) {
  uint64_t integer;
  double decimal;
  char *end, printed[32];
  if (ifa_read_integer(text, 0, UINT64_MAX, &integer)) {
    snprintf(printed, sizeof printed, "%" PRIu64, integer);
    require(strcmp(text + strspn(text, "0") - (integer == 0), printed) == 0);
    require(ifa_read_decimal(text, 0, 1e300, &decimal) && decimal == (double)integer);
  }
  if (ifa_read_decimal(text, 0, 1e300, &decimal))
    require(decimal == strtod(text, &end) && *end == '\0');
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length) {
  static const char kinds[] = "pcsivn";
  if (length == 0) return 0;
  char *text = malloc(length); /* the input less its first byte, then NUL: a read past it is seen */
  require(text != NULL);
  memcpy(text, bytes + 1, length - 1);
  text[length - 1] = '\0';
  static void (*const fuzz[])(const char *) = {fuzz_problem, fuzz_case,    fuzz_suite,
                                               fuzz_input,   fuzz_visible, fuzz_number};
  const char *kind = memchr(kinds, bytes[0], sizeof kinds - 1);
  fuzz[kind ? kind - kinds : bytes[0] % 6](text);
  ifa_case_forget_inputs();
  free(text);
  return 0;
}
