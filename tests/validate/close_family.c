/* close_family.c - close_family SEEDS SUITE...: a family of right kernels, each of which the bound
 * of its claim must let pass, on every case of the suites with SEEDS seeds each (the case's own,
 * and others). What differs between them is what a claim leaves open: the order of summation, the
 * exponential function's last places, rounded or unrounded weights in l. Exit codes: 0 all pass, 1
 * not, 2 bad usage. `long_run` of docs/testing.md: close_family 10 all. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/team.h"
#include "validate/cases/suite.h"
#include "validate/judge/close.h"
#include "validate/mutants/flash.h"

#define F16 "close q=f16 k=f16 v=f16 p=f16 o=f16"
#define FP8 "close q=e4m3/head k=e4m3/head v=e4m3/head p=e4m3"
static const ifa_flash family[] = {
    {"close q=f32 k=f32 v=f32", IFA_FLASH_NAIVE, IFA_FLASH_EXP_RIGHT, 0, 0, 0},
    {"close q=f32 k=f32 v=f32", IFA_FLASH_NAIVE, IFA_FLASH_EXP_HIGH, 0, 0, 0},
    {"close q=f32 k=f32 v=f32", IFA_FLASH_PAIRWISE, IFA_FLASH_EXP_EITHER, 0, 0, 0},
    {"close q=f32 k=f32 v=f32", IFA_FLASH_TILED, IFA_FLASH_EXP_LOW, 0, 0, 0},
    {"close q=f32 k=f32 v=f32", IFA_FLASH_BACKWARD, IFA_FLASH_EXP_EITHER, 0, 0, 0},
    {"close q=f32 k=f32 v=f32", IFA_FLASH_SPLIT, IFA_FLASH_EXP_EITHER, 0, 0, 0},
    {F16, IFA_FLASH_NAIVE, IFA_FLASH_EXP_EITHER, 1, 0, 0},
    {F16, IFA_FLASH_TILED, IFA_FLASH_EXP_RIGHT, 0, 0, 0},
    {F16, IFA_FLASH_BACKWARD, IFA_FLASH_EXP_LOW, 1, 0, 0},
    {F16, IFA_FLASH_SPLIT, IFA_FLASH_EXP_HIGH, 0, 0, 0},
    {F16 " acc=f16", IFA_FLASH_NAIVE, IFA_FLASH_EXP_RIGHT, 0, 0, 0},
    {F16 " acc=f16", IFA_FLASH_TILED, IFA_FLASH_EXP_EITHER, 1, 0, 0},
    {F16 " acc=f16", IFA_FLASH_PAIRWISE, IFA_FLASH_EXP_EITHER, 0, 0, 0},
    {"close q=bf16 k=bf16 v=bf16 p=bf16 o=bf16", IFA_FLASH_TILED, IFA_FLASH_EXP_EITHER, 0, 0, 0},
    {"close q=bf16 k=bf16 v=bf16 p=bf16 o=bf16", IFA_FLASH_NAIVE, IFA_FLASH_EXP_HIGH, 1, 0, 0},
    {"close q=bf16 k=bf16 v=bf16 p=bf16 o=bf16 acc=bf16", IFA_FLASH_SPLIT, IFA_FLASH_EXP_EITHER, 0,
     0, 0},
    {"close q=bf16 k=bf16 v=bf16 p=bf16 o=bf16 acc=bf16", IFA_FLASH_NAIVE, IFA_FLASH_EXP_LOW, 1, 0,
     0},
    {FP8, IFA_FLASH_NAIVE, IFA_FLASH_EXP_EITHER, 0, 0, 0},
    {FP8, IFA_FLASH_TILED, IFA_FLASH_EXP_HIGH, 1, 0, 0},
    {FP8, IFA_FLASH_SPLIT, IFA_FLASH_EXP_LOW, 0, 0, 0},
    {"close q=e5m2 k=e5m2 v=e5m2 p=e5m2 o=e5m2", IFA_FLASH_BACKWARD, IFA_FLASH_EXP_EITHER, 1, 0, 0},
};
enum { FAMILY = sizeof family / sizeof family[0] };

typedef struct tally {
  int64_t passed, failed, not_bounded; /* (kernel, case); not_bounded: its claim promises nothing */
  double worst[FAMILY];
} tally;

static void judge(const ifa_case *c, const ifa_data *d, int number, const ifa_close *expected,
                  tally *t) {
  ifa_run_buffers got;
  ifa_outcome outcome = {0};
  char text[IFA_CASE_TEXT];
  ifa_status status =
      ifa_run_buffers_make(d, IFA_STAGES_NONE, IFA_BACKEND_POISON, &got, &outcome.message);
  if (status == IFA_OK) {
    ifa_outputs out = ifa_run_buffers_outputs(&got);
    status = ifa_flash_run(&family[number], d, &out, &outcome.message);
  }
  if (status == IFA_OK) status = ifa_run_buffers_check(d, &got, &outcome.message);
  if (status == IFA_OK) ifa_close_judge(expected, &got, &outcome);
  else outcome.verdict = IFA_FAILED;
  ifa_run_buffers_free(&got);
#pragma omp critical(close_family)
  {
    t->passed += outcome.verdict == IFA_PASSED;
    t->failed += outcome.verdict == IFA_FAILED;
    t->not_bounded += outcome.verdict == IFA_EMPTY || outcome.verdict == IFA_NOT_SUPPORTED;
    if (outcome.distance.worst_bound > t->worst[number])
      t->worst[number] = outcome.distance.worst_bound;
    if (outcome.verdict == IFA_FAILED && t->failed < 20) {
      ifa_case_print(c, text);
      printf("FAILED  kernel %d, %s\n  %s\n  %s\n", number, family[number].claim, text,
             outcome.message.text);
    }
  }
}

/* Kernels of one claim stand together and share what is expected. */
static int try_case(const ifa_case *c, tally *t) {
  ifa_data d;
  ifa_message why;
  ifa_close *expected = NULL;
  ifa_claim claim = {0};
  ifa_status status = ifa_data_make(c, &d, &why);
  for (int i = 0; i < FAMILY && status == IFA_OK; i++) {
    if (i == 0 || family[i].claim != family[i - 1].claim) {
      ifa_close_free(expected);
      expected = NULL;
      status = ifa_claim_parse(family[i].claim, &claim, &why);
      if (status == IFA_OK) status = ifa_close_make(&d, &claim, &expected, &why);
    }
    if (status == IFA_OK) judge(c, &d, i, expected, t);
  }
  ifa_close_free(expected);
  ifa_data_free(&d);
  if (status != IFA_OK) fprintf(stderr, "close_family: %s\n", why.text);
  return status == IFA_OK;
}

int main(int argc, char **argv) {
  ifa_case_list list = {0};
  ifa_case base = ifa_case_default();
  ifa_message why;
  tally t = {0};
  int seeds = argc > 2 ? atoi(argv[1]) : 0, broken = 0;
  for (int i = 2; i < argc; i++)
    if (ifa_case_list_add_suite(&list, argv[i], &base, &why) != IFA_OK) seeds = 0;
  if (seeds < 1) {
    fprintf(stderr, "usage: close_family SEEDS SUITE...\n");
    return 2;
  }
#pragma omp parallel for schedule(dynamic, 1) num_threads(ifa_team_default()) reduction(+ : broken)
  for (size_t i = 0; i < list.count * (size_t)seeds; i++) {
    ifa_case c = list.cases[i / (size_t)seeds];
    if (i % (size_t)seeds && c.input[0]) continue; /* a file has no seed */
    c.seed += 1000 * (i % (size_t)seeds);
    broken += !try_case(&c, &t);
  }
  double worst = 0;
  for (int i = 0; i < FAMILY; i++) {
    printf("%-50s order %d exp %d l %d: error / bound at most %.3f\n", family[i].claim,
           family[i].order, family[i].exp, family[i].l_of_rounded, t.worst[i]);
    if (t.worst[i] > worst) worst = t.worst[i];
  }
  printf("%d right kernels: %" PRId64 " passed, %" PRId64 " failed, %" PRId64
         " without a bound; error / bound at most %.2f\n",
         FAMILY, t.passed, t.failed, t.not_bounded, worst);
  ifa_case_list_free(&list);
  return t.failed || broken || t.passed == 0;
}
