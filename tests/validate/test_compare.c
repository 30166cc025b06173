/* The comparator: every injected fault is caught and named, a correct backend passes, the oracle's
 * own check can fail. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "tests/validate/broken.h"
#include "validate/judge/bound.h"
#include "validate/judge/compare.h"
#include "validate/judge/distance.h"

#define CASE "b=1 hq=2 hkv=1 nq=9 nk=140 d=24 vscale=token lse=1 fill=normal seed=5"

static ifa_outcome outcome_of(const char *text, const char *backend, const char *fault) {
  ifa_case c;
  ifa_data data;
  ifa_expected *expected;
  ifa_outcome outcome;
  ifa_message why;
  broken_choose(fault);
  assert_int_equal(ifa_case_parse(text, &c, &why), IFA_OK);
  assert_int_equal(ifa_data_make(&c, &data, &why), IFA_OK);
  assert_int_equal(ifa_expected_make(&data, &expected, &why), IFA_OK);
  ifa_compare(&data, expected, backend, &outcome);
  ifa_expected_free(expected);
  ifa_data_free(&data);
  broken_choose(NULL);
  return outcome;
}

static int openmp_is_there(void) { return ifa_backend_supports("openmp", NULL, NULL) == IFA_OK; }

static void absent_backend_is_not_available(void **state) {
  (void)state;
  ifa_outcome o = outcome_of(CASE, "openmp", NULL);
  assert_int_equal(o.verdict, openmp_is_there() ? IFA_PASSED : IFA_ABSENT);
}

static void correct_backend_passes_all_stages(void **state) {
  (void)state;
  if (!openmp_is_there()) return absent_backend_is_not_available(state);
  ifa_outcome o = outcome_of(CASE, "openmp", NULL);
  assert_int_equal(o.verdict, IFA_PASSED);
  assert_int_equal(o.stages_compared, 1);
  assert_int_equal(o.mismatches, 0);
  /* 18 rows: output and lse, then S, p, P of 140 keys, 2 units of 3 tiles, l, acc of 24 and output
   * and lse again */
  assert_int_equal(o.compared, 18 * (25 + 3 * 140 + 2 * 3 + 1 + 24 + 25));
}

/* Fault -> the stage that must be named; NULL: caught without a stage (guards, status). */
static const char *stage_of(const char *fault) {
  if (strcmp(fault, "bit") == 0 || strcmp(fault, "nan") == 0 || strcmp(fault, "unwritten") == 0)
    return "o";
  if (strcmp(fault, "overrun") == 0 || strcmp(fault, "other-row") == 0 ||
      strcmp(fault, "status") == 0 || strcmp(fault, "oracle") == 0)
    return NULL;
  return fault;
}

static void every_fault_is_caught_and_named(void **state) {
  (void)state;
  if (!openmp_is_there()) return absent_backend_is_not_available(state);
  for (int i = 0; broken_faults[i]; i++) {
    const char *text = strcmp(broken_faults[i], "other-row") == 0 ? CASE " rows=2" : CASE;
    ifa_outcome o = outcome_of(text, "openmp", broken_faults[i]);
    const char *stage = stage_of(broken_faults[i]);
    if (o.verdict != IFA_FAILED) fail_msg("fault '%s' was not caught", broken_faults[i]);
    if (stage) {
      assert_non_null(o.stage);
      assert_string_equal(o.stage, stage);
      assert_true(o.mismatches >= 1);
      assert_true(o.place_count >= 1);
      assert_non_null(strstr(o.places[0].where, stage));
    } else {
      assert_null(o.stage);
      assert_true(o.message.text[0] != '\0');
    }
  }
}

static void ten_places_and_the_total(void **state) {
  (void)state;
  if (!openmp_is_there()) return absent_backend_is_not_available(state);
  ifa_outcome o = outcome_of(CASE, "openmp", "unwritten");
  assert_int_equal(o.place_count, IFA_MAX_PLACES);
  assert_int_equal(o.mismatches, 24);
  assert_string_equal(o.places[0].where, "o[b 0][h 1][i 8][d 0]");
  assert_int_equal(o.places[0].got, 0x7f7f7f7f);
  assert_int_equal(o.places[0].digits, 8);
}

/* The oracle against binary64: it passes, and an output or unit that is off does not. */
static void oracle_bound_can_fail(void **state) {
  (void)state;
  ifa_case c;
  ifa_data data;
  ifa_expected *expected;
  ifa_message why;
  int32_t unit[18 * 3], value_unit[18 * 3];
  float lse[18];
  assert_int_equal(ifa_case_parse(CASE, &c, &why), IFA_OK);
  assert_int_equal(ifa_data_make(&c, &data, &why), IFA_OK);
  assert_int_equal(ifa_expected_make(&data, &expected, &why), IFA_OK);
  ifa_inputs in = ifa_data_inputs(&data);
  float *o = malloc(18 * 24 * sizeof *o);
  ifa_stages stages = {.unit = unit, .value_unit = value_unit};
  ifa_outputs out = {.o = o, .lse = lse, .stages = &stages};
  assert_int_equal(ifa_run("scalar", &data.p, &in, &out, &why), IFA_OK);

  ifa_outcome outcome = {0};
  ifa_bound_check(&data, o, lse, unit, value_unit, &outcome);
  assert_int_equal(outcome.verdict, IFA_PASSED);
  assert_int_equal(outcome.compared, 18 * 25);

  float kept = o[100];
  const float wrong[] = {kept + 0.25f, kept - 0.25f, NAN, INFINITY, -INFINITY};
  for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
    outcome = (ifa_outcome){0};
    o[100] = wrong[i];
    ifa_bound_check(&data, o, lse, unit, value_unit, &outcome);
    assert_int_equal(outcome.verdict, IFA_FAILED);
    assert_int_equal(outcome.mismatches, 1);
  }
  o[100] = kept;
  lse[3] += 0.25f;
  outcome = (ifa_outcome){0};
  ifa_bound_check(&data, o, lse, unit, value_unit, &outcome);
  assert_int_equal(outcome.verdict, IFA_FAILED);
  assert_string_equal(outcome.stage, "lse");
  free(o);
  ifa_expected_free(expected);
  ifa_data_free(&data);
}

/* No query rows: nothing was compared, so nothing passed. */
static void nothing_to_compare_is_not_a_pass(void **state) {
  (void)state;
  ifa_outcome o = outcome_of("b=1 hq=2 hkv=1 nq=0 nk=9 d=16 lse=1", "scalar", NULL);
  assert_int_equal(o.verdict, IFA_EMPTY);
  assert_int_equal(o.compared, 0);
  if (openmp_is_there())
    assert_int_equal(outcome_of("b=1 hq=2 hkv=1 nq=0 nk=9 d=16", "openmp", NULL).verdict,
                     IFA_EMPTY);
  assert_int_equal(outcome_of("b=1 hq=2 hkv=1 nq=2 nk=0 d=16", "scalar", NULL).verdict, IFA_PASSED);
}

static void oracle_that_overruns_has_failed(void **state) {
  (void)state;
  ifa_outcome o = outcome_of(CASE, "scalar", "oracle");
  assert_int_equal(o.verdict, IFA_FAILED);
  assert_non_null(strstr(o.message.text, "the oracle's own run: "));
}

static void digests_see_data_not_layout(void **state) {
  (void)state;
  char inputs[3][17], outputs[3][33];
  const char *const texts[] = {
      CASE, CASE " layout=bnhd",
      "b=1 hq=2 hkv=1 nq=9 nk=140 d=24 vscale=token lse=1 fill=normal seed=6"};
  for (int i = 0; i < 3; i++) {
    ifa_case c;
    ifa_data data;
    ifa_expected *expected;
    char again[33];
    assert_int_equal(ifa_case_parse(texts[i], &c, NULL), IFA_OK);
    assert_int_equal(ifa_data_make(&c, &data, NULL), IFA_OK);
    assert_int_equal(ifa_expected_make(&data, &expected, NULL), IFA_OK);
    ifa_data_digest(&data, inputs[i]);
    ifa_expected_digest(&data, expected, outputs[i]);
    assert_int_equal(ifa_backend_digest(&data, "scalar", again, NULL), IFA_OK);
    assert_string_equal(again, outputs[i]);
    assert_int_equal(strlen(outputs[i]), 32);
    ifa_expected_free(expected);
    ifa_data_free(&data);
  }
  assert_string_equal(inputs[0], inputs[1]);
  assert_string_equal(outputs[0], outputs[1]);
  assert_string_not_equal(inputs[0], inputs[2]);
  assert_string_not_equal(outputs[0], outputs[2]);
}

/* The distance of one row of four, and of two. */
static ifa_distance distance_of(ifa_type type, int rows, const double *reference,
                                const double *got) {
  ifa_problem p = ifa_problem_default();
  ifa_distance_sums sums = {0};
  p.out_type = type;
  p.nq = 2, p.head_dim = 4;
  for (int r = 0; r < rows; r++) ifa_distance_add(&sums, &p, r, reference + 4 * r, got + 4 * r);
  return ifa_distance_finish(&sums);
}

static void ulps_are_those_of_the_row(void **state) {
  (void)state;
  const struct {
    ifa_type type;
    double step;
  } types[] = {{IFA_F32, 0x1p-23}, {IFA_F16, 0x1p-10}, {IFA_BF16, 0x1p-7}};
  for (int i = 0; i < 3; i++) {
    ifa_type type = types[i].type;
    double u = types[i].step; /* between neighbours in [1, 2) */
    const double row[] = {1, -1.5, 1.25, 1e-3};
    assert_true(distance_of(type, 1, row, row).max_ulp == 0);
    ifa_distance d = distance_of(type, 1, row, (double[]){1, -1.5 + 3 * u, 1.25, 1e-3});
    assert_true(d.max_ulp == 3);
    assert_string_equal(d.max_ulp_at, "[b 0][h 0][i 0][d 1]");
    /* a sign that flips near 0: 2e-3 at the row's size, 1.09 */
    d = distance_of(type, 1, row, (double[]){1, -1.5, 1.25, -1e-3});
    assert_true(fabs(d.max_ulp - 2e-3 / u) < 1e-6 * d.max_ulp);
    assert_string_equal(d.max_ulp_at, "[b 0][h 0][i 0][d 3]");
    /* but a wrong value is far, also where 0 was due */
    d = distance_of(type, 1, row, (double[]){1, -1.5, 1.25, 0.5});
    assert_true(d.max_ulp > 0.49 / u && d.max_ulp < 0.5 / u);
    /* an element above the row's size has its own */
    d = distance_of(type, 1, (double[]){1e-3, 4, 1e-3, 1e-3},
                    (double[]){1e-3, 4 + 8 * u, 1e-3, 1e-3});
    assert_true(d.max_ulp == 2);
  }
  const double least[] = {0x1p-149, 0x1p-149, 0x1p-149, 0x1p-149}, zero[8] = {0};
  assert_true(
      distance_of(IFA_F32, 1, least, (double[]){0x1p-149, -0x1p-149, 0x1p-149, 0x1p-149}).max_ulp ==
      2);
  assert_true(distance_of(IFA_F32, 1, zero, (double[]){0, -0.0, 0, 0}).max_ulp == 0);
  assert_true(distance_of(IFA_F32, 1, zero, (double[]){0, 0, 1e-30, 0}).max_ulp == INFINITY);
  const double overflown[] = {INFINITY, 1, 1, 1};
  assert_true(distance_of(IFA_F16, 1, overflown, overflown).max_ulp == 0);
  assert_true(distance_of(IFA_F16, 1, overflown, (double[]){INFINITY, 1 + 0x1p-10, 1, 1}).max_ulp ==
              1);
  assert_true(distance_of(IFA_F16, 1, overflown, (double[]){65504, 1, 1, 1}).max_ulp == INFINITY);
}

static void a_nan_is_the_worst_and_stays(void **state) {
  (void)state;
  const double reference[] = {1, 1, 1, 1, 1, 1, 1, 1}, got[] = {1, NAN, 1, 1, 1, 1, INFINITY, 9};
  ifa_distance d = distance_of(IFA_F32, 2, reference, got);
  assert_true(isnan(d.max_ulp) && isnan(d.worst_row));
  assert_string_equal(d.max_ulp_at, "[b 0][h 0][i 0][d 1]");
  assert_string_equal(d.worst_row_at, "[b 0][h 0][i 0]");
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(absent_backend_is_not_available),
                                     cmocka_unit_test(correct_backend_passes_all_stages),
                                     cmocka_unit_test(every_fault_is_caught_and_named),
                                     cmocka_unit_test(ten_places_and_the_total),
                                     cmocka_unit_test(oracle_bound_can_fail),
                                     cmocka_unit_test(nothing_to_compare_is_not_a_pass),
                                     cmocka_unit_test(oracle_that_overruns_has_failed),
                                     cmocka_unit_test(ulps_are_those_of_the_row),
                                     cmocka_unit_test(a_nan_is_the_worst_and_stays),
                                     cmocka_unit_test(digests_see_data_not_layout)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
