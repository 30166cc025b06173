/* Plug-ins from within: claims are read or refused, the bound of `close` has no room for NaN or
 * infinity, and the cheat that looks for the expected output would find it if it were there.
 * tests/validate/plugins.sh has what is seen from the command line. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "ref/baselines/baselines.h"
#include "validate/judge/close.h"
#include "validate/kernels/plugin.h"

static const char *cheats; /* folder of the shared libraries */

static void claims_are_read(void **state) {
  (void)state;
  ifa_claim c;
  assert_int_equal(ifa_claim_parse("exact", &c, NULL), IFA_OK);
  assert_int_equal(c.close, 0);
  assert_int_equal(ifa_claim_parse("close", &c, NULL), IFA_OK);
  assert_int_equal(c.close, 1);
  assert_int_equal(c.q.format, IFA_FORMAT_GIVEN);
  assert_int_equal(c.p, IFA_FORMAT_F32);
  assert_int_equal(
      ifa_claim_parse("close q=int8/token k=e4m3/head kmean=1 v=f16 p=uint8 acc=f16 o=bf16", &c,
                      NULL),
      IFA_OK);
  assert_int_equal(c.q.format, IFA_FORMAT_INT8);
  assert_int_equal(c.q.share, IFA_SHARE_TOKEN);
  assert_int_equal(c.k.share, IFA_SHARE_HEAD);
  assert_int_equal(c.k_mean, 1);
  assert_int_equal(c.v.share, IFA_SHARE_NONE);
  assert_int_equal(c.p, IFA_FORMAT_UINT8);
  assert_int_equal(c.acc, IFA_FORMAT_F16);
  assert_int_equal(c.o, IFA_FORMAT_BF16);
  assert_int_equal(c.at_least, 0);
  assert_int_equal(ifa_claim_parse("at-least q=f16 k=f16 v=e4m3/head acc=bf16", &c, NULL), IFA_OK);
  assert_int_equal(c.close, 1);
  assert_int_equal(c.at_least, 1);
  assert_int_equal(c.acc, IFA_FORMAT_BF16);
}

static void other_claims_are_refused(void **state) {
  (void)state;
  static const char *const wrong[] = {"",
                                      "perfect",
                                      "exact q=f16",
                                      "close q",
                                      "close q=",
                                      "close q=int8",
                                      "close q=int8/",
                                      "close q=int8/row",
                                      "close q=f16/token",
                                      "close q=e5m2/head",
                                      "close p=given",
                                      "close p=int8/token",
                                      "close acc=e4m3",
                                      "at-least",
                                      "at-least q=f16 k=f16",
                                      "at-best q=f16 k=f16 v=f16",
                                      "close o=int8",
                                      "close kmean=2 k=f16",
                                      "close kmean=1",
                                      "close x=1",
                                      "close q=uint8"};
  ifa_claim c;
  ifa_message why;
  for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
    if (ifa_claim_parse(wrong[i], &c, &why) != IFA_BAD_ARGUMENT)
      fail_msg("'%s' was accepted", wrong[i]);
    assert_true(why.text[0] != '\0');
  }
  char longer[300];
  memset(longer, 'x', sizeof longer);
  longer[299] = '\0';
  assert_int_equal(ifa_claim_parse(longer, &c, NULL), IFA_BAD_ARGUMENT);
}

/* Rows that see no key are 0 and -infinity; what is wrong there is said in a sentence. */
static void an_empty_row_has_its_sentence(void) {
  ifa_case c;
  ifa_data d;
  ifa_claim claim;
  ifa_run_buffers buffers;
  ifa_outcome outcome = {0};
  assert_int_equal(ifa_case_parse("b=1 hq=1 hkv=1 nq=2 nk=0 d=3 lse=1", &c, NULL), IFA_OK);
  assert_int_equal(ifa_data_make(&c, &d, NULL), IFA_OK);
  assert_int_equal(ifa_claim_parse("close q=f16 k=f16 v=f16", &claim, NULL), IFA_OK);
  assert_int_equal(ifa_run_buffers_make(&d, IFA_STAGES_NONE, 0, &buffers, NULL), IFA_OK);
  float *lse = (float *)buffers.lse.data, *o = (float *)buffers.o.data;
  lse[0] = lse[1] = -INFINITY;
  ifa_close_check(&d, &claim, &buffers, &outcome);
  assert_int_equal(outcome.verdict, IFA_PASSED);
  lse[1] = 0;
  outcome = (ifa_outcome){0};
  ifa_close_check(&d, &claim, &buffers, &outcome);
  assert_string_equal(outcome.message.text,
                      "lse[b 0][h 0][i 1] is 0; it should be -infinity: the row sees no key");
  o[1] = 2;
  outcome = (ifa_outcome){0};
  ifa_close_check(&d, &claim, &buffers, &outcome);
  assert_string_equal(outcome.message.text,
                      "o[b 0][h 0][i 0][d 1] is 2; it should be 0: the row sees no key");
  ifa_run_buffers_free(&buffers);
  ifa_data_free(&d);
}

/* The bound passes the right answer, and no NaN, infinity or value that is off, at any element of
 * any row. */
static void nothing_but_the_answer_is_close(void **state) {
  (void)state;
  ifa_case c;
  ifa_data d;
  ifa_claim claim;
  ifa_run_buffers buffers;
  assert_int_equal(ifa_case_parse("b=1 hq=2 hkv=1 nq=5 nk=90 d=12 causal=1 lse=1", &c, NULL),
                   IFA_OK);
  assert_int_equal(ifa_data_make(&c, &d, NULL), IFA_OK);
  assert_int_equal(ifa_claim_parse("close q=f32 k=f32 v=f32", &claim, NULL), IFA_OK);
  assert_int_equal(ifa_run_buffers_make(&d, IFA_STAGES_NONE, 0x7f, &buffers, NULL), IFA_OK);
  double o[10 * 12], lse[10];
  ifa_float_problem p = {.batch = 1,
                         .q_heads = 2,
                         .kv_heads = 1,
                         .nq = 5,
                         .nk = 90,
                         .head_dim = 12,
                         .sm_scale = d.p.sm_scale,
                         .causal = 1,
                         .kv_tile = 64};
  ifa_float_inputs in = {.q = d.q, .k = d.k, .v = d.v};
  ifa_float_outputs out = {o, lse};
  assert_int_equal(ifa_baseline_run("f64", &p, &in, &out, NULL), IFA_OK);
  float *values = (float *)buffers.o.data, *sums = (float *)buffers.lse.data;
  for (int i = 0; i < 120; i++) values[i] = (float)o[i];
  for (int i = 0; i < 10; i++) sums[i] = (float)lse[i];
  ifa_outcome outcome = {0};
  ifa_close_check(&d, &claim, &buffers, &outcome);
  assert_int_equal(outcome.verdict, IFA_PASSED);
  assert_int_equal(outcome.compared, 130);
  assert_int_equal(outcome.distance.unbounded_rows, 0);
  assert_true(outcome.distance.worst_bound <= 1 && outcome.distance.relative_l2 < 1e-7 &&
              outcome.distance.cosine > 0.9999999);
  for (int i = 0; i < 130; i++) {
    float *at = i < 120 ? &values[i] : &sums[i - 120], kept = *at;
    const float wrong[] = {NAN, INFINITY, -INFINITY, kept + 0.001f, kept - 0.001f};
    for (size_t w = 0; w < sizeof wrong / sizeof wrong[0]; w++) {
      *at = wrong[w];
      outcome = (ifa_outcome){0};
      ifa_close_check(&d, &claim, &buffers, &outcome);
      assert_int_equal(outcome.verdict, IFA_FAILED);
      assert_int_equal(outcome.mismatches, 1);
    }
    *at = kept;
  }
  ifa_run_buffers_free(&buffers);
  ifa_data_free(&d);
  an_empty_row_has_its_sentence();
}

/* May a child read this process's memory? */
static int memory_is_open(void) {
  FILE *file = fopen("/proc/sys/kernel/yama/ptrace_scope", "r");
  int scope = 0;
  if (file && fscanf(file, "%d", &scope) != 1) scope = 0;
  if (file) fclose(file);
  return scope == 0 || (scope == 1 && geteuid() == 0);
}

static void the_cheat_finds_an_answer_that_is_there(void **state) {
  (void)state;
  if (!memory_is_open()) skip(); /* then there is nothing to cheat with */
  ifa_case c;
  ifa_data d;
  ifa_kernel kernel;
  ifa_run_buffers buffers;
  ifa_message why;
  char path[1024];
  double seconds;
  snprintf(path, sizeof path, "%s/plugin_expected.so", cheats);
  assert_int_equal(ifa_case_parse("b=1 hq=1 hkv=1 nq=3 nk=70 d=16", &c, NULL), IFA_OK);
  assert_int_equal(ifa_data_make(&c, &d, NULL), IFA_OK);
  assert_int_equal(ifa_run_buffers_make(&d, IFA_STAGES_NONE, 0x7f, &buffers, NULL), IFA_OK);
  ifa_buffer answer;
  assert_int_equal(ifa_buffer_make(&answer, buffers.o.bytes, IFA_ORACLE_POISON, "an answer", NULL),
                   IFA_OK);
  for (size_t i = 0; i < answer.bytes; i++) answer.data[i] = (uint8_t)(i * 7 & 0x7f);
  assert_int_equal(ifa_kernel_open(&kernel, IFA_KERNEL_LIBRARY, path, NULL, 60, &why), IFA_OK);
  assert_string_equal(kernel.name, "expected");
  ifa_verdict verdict;
  assert_int_equal(ifa_kernel_run(&kernel, &d, &buffers, &verdict, &seconds, &why), IFA_OK);
  assert_int_equal(verdict, IFA_PASSED);
  assert_memory_equal(buffers.o.data, answer.data, answer.bytes);
  ifa_kernel_close(&kernel);
  ifa_buffer_free(&answer);
  ifa_run_buffers_free(&buffers);
  ifa_data_free(&d);
}

int main(int argc, char **argv) {
  if (argc == 3 && strcmp(argv[1], "plugin-host") == 0) return ifa_plugin_host(argv[2]);
  cheats = argc == 2 ? argv[1] : "."; /* test_plugin FOLDER */
  const struct CMUnitTest tests[] = {cmocka_unit_test(claims_are_read),
                                     cmocka_unit_test(other_claims_are_refused),
                                     cmocka_unit_test(nothing_but_the_answer_is_close),
                                     cmocka_unit_test(the_cheat_finds_an_answer_that_is_there)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
