/* list.c - `validate list`: what there is to run. */
#include <argp.h>
#include <stdio.h>

#include "gpu/steps/steps.h"
#include "ref/baselines/baselines.h"
#include "validate/commands/commands.h"
#include "validate/cases/suite.h"

static void print_kernel(const char *name, const char *description, ifa_status status,
                         const ifa_message *why) {
  printf("  %-14s %s\n                ", name, description);
  if (status == IFA_OK) printf("  available\n");
  else printf("  %s: %s\n", ifa_status_name(status), why->text);
}

static void list_backends(void) {
  ifa_message why;
  printf("backends (the same bits):\n");
  for (int i = 0; i < ifa_backend_count(); i++) {
    const char *name = ifa_backend_name(i);
    print_kernel(name, ifa_backend_description(i), ifa_backend_supports(name, NULL, &why), &why);
  }
  printf(
      "\nsteps towards the GPU's kernels (the same bits; to be read: gpu/steps/README.md; run only "
      "if --backend names them):\n");
  for (int i = 0; i < IFA_GPU_STEPS; i++) {
    const ifa_backend *step = ifa_gpu_steps[i];
    print_kernel(step->name, step->description, step->supports(NULL, &why), &why);
  }
  printf("\nreferences and baselines (float; for accuracy):\n");
  for (int i = 0; i < ifa_baseline_count(); i++) {
    const char *name = ifa_baseline_name(i);
    print_kernel(name, ifa_baseline_description(i), ifa_baseline_supports(name, NULL, &why), &why);
  }
}

static void list_suites(void) {
  printf("\nsuites:\n");
  for (int i = 0; i < ifa_suite_count(); i++) {
    ifa_case_list list = {0};
    ifa_case base = ifa_case_default();
    ifa_message why;
    if (ifa_case_list_add_suite(&list, ifa_suite_name(i), &base, &why) != IFA_OK)
      printf("  %s: %s\n", ifa_suite_name(i), why.text);
    else
      printf("  %-14s %4zu cases: %s\n", ifa_suite_name(i), list.count, ifa_suite_description(i));
    ifa_case_list_free(&list);
  }
  printf("\nfills:\n ");
  for (int i = 0; i < IFA_FILL_COUNT; i++) printf(" %s", ifa_fill_name((ifa_fill)i));
  printf("\n");
}

static error_t parse(int key, char *value, struct argp_state *state) {
  if (key == ARGP_KEY_ARG) refuse(state, "unexpected argument '%s'", value);
  return ARGP_ERR_UNKNOWN;
}

static const struct argp parser = {
    NULL,
    parse,
    "",
    "Prints the backends (available, or why not), the float references and baselines, the suites "
    "with their number of cases, and the fills.",
    NULL,
    NULL,
    NULL};

int cmd_list(int argc, char **argv) {
  if (argp_parse(&parser, argc, argv, 0, NULL, NULL) != 0) return EXIT_BAD_USAGE;
  printf("ifa %s, contract %d\n\n", IFA_VERSION, IFA_CONTRACT_VERSION);
  list_backends();
  list_suites();
  return EXIT_AGREE;
}
