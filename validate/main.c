/* validate - checks attention kernels against the oracle, bit by bit. docs/validate.md. */
#define _GNU_SOURCE /* vasprintf */
#include <argp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "files/tensor_file.h"
#include "gpu/steps/steps.h"
#include "validate/commands/commands.h"
#include "validate/kernels/cleanup.h"
#include "validate/kernels/plugin.h"
#include "validate/text/console.h"
#include "validate/text/visible.h"

static const struct command {
  const char *name, *summary;
  int (*run)(int argc, char **argv);
} commands[] = {
    {"run", "compare backends with the oracle over suites of cases", cmd_run},
    {"attend", "quantize q, k, v from a file, run a backend, write o", cmd_attend},
    {"quantize", "write the quantized tensors and scales of q, k, v from a file", cmd_quantize},
    {"accuracy", "error of every format, scale choice and baseline against binary64", cmd_accuracy},
    {"bench", "speed of the backends", cmd_bench},
    {"report", "one page from the JSON reports of run, accuracy, mutants and bench", cmd_report},
    {"diff", "what changed between two JSON reports", cmd_diff},
    {"export", "write a case and the oracle's answer to a file", cmd_export},
    {"record", "write the digests that a device gives, to be checked elsewhere", cmd_record},
    {"fuzz", "random problems through every backend; failures made small", cmd_fuzz},
    {"mutants", "which suite notices which mistake in a kernel", cmd_mutants},
    {"explain", "sizes, tiles, memory and operation counts of a case", cmd_explain},
    {"list", "backends (available or why not), baselines, suites, fills", cmd_list},
};
enum { COMMAND_COUNT = sizeof commands / sizeof commands[0] };

int complain(const char *command, const char *format, ...) {
  char *text = NULL;
  va_list args;
  va_start(args, format);
  if (vasprintf(&text, format, args) < 0) text = NULL;
  va_end(args);
  ifa_print_visible_line(stderr, "validate %s: %s", command, text ? text : "no memory");
  free(text);
  return EXIT_BAD_USAGE;
}

void refuse(const struct argp_state *state, const char *format, ...) {
  char *text = NULL;
  va_list args;
  va_start(args, format);
  if (vasprintf(&text, format, args) < 0) text = NULL;
  va_end(args);
  char *visible = text ? ifa_visible(text) : NULL;
  argp_error(state, "%s", visible ? visible : "no memory"); /* does not come back */
  free(visible);
  free(text);
}

/* The C library's complaint about an option that there is not shows it as it is: what is no name of
 * an option does not get there. 0, or the number of the argument. */
static int find_odd_option(int argc, char **argv) {
  for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) {
    size_t name = strcspn(argv[i], "=");
    if (argv[i][0] != '-' || (argv[i][1] != '-' && name > 2)) name = argv[i][0] == '-' ? 2 : 0;
    for (size_t at = 0; at < name; at++)
      if (argv[i][at] < ' ' || argv[i][at] > '~') return i;
  }
  return 0;
}

static void usage(FILE *to) {
  fprintf(to, "usage: validate COMMAND [OPTION...]\n\n");
  for (int i = 0; i < COMMAND_COUNT; i++)
    fprintf(to, "  %-10s %s\n", commands[i].name, commands[i].summary);
  fprintf(to, "\n`validate COMMAND --help` lists a command's options.\n"
              "`validate --version` prints the version and the contract's.\n"
              "Exit codes: 0 all executed cases agree, 1 a mismatch, 2 bad usage or input, 3 "
              "nothing was executed.\n");
}

static void print_version(FILE *to, struct argp_state *state) {
  (void)state;
  fprintf(to, "validate %s, contract %d\n", IFA_VERSION, IFA_CONTRACT_VERSION);
}

int main(int argc, char **argv) {
  argp_err_exit_status = EXIT_BAD_USAGE;
  /* plugin_library.c */
  if (argc == 3 && strcmp(argv[1], "plugin-host") == 0) return ifa_plugin_host(argv[2]);
  ifa_console_begin("validate");
  ifa_cleanup_begin();
  ifa_output_watch = ifa_cleanup_watch_file;
  ifa_backends_add(ifa_gpu_steps, IFA_GPU_STEPS);
  argp_program_version_hook = print_version;
  if (argc > 1 && (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-V") == 0)) {
    print_version(stdout, NULL);
    return EXIT_AGREE;
  }
  if (argc > 1 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 ||
                   strcmp(argv[1], "help") == 0)) {
    usage(stdout);
    return EXIT_AGREE;
  }
  for (int i = 0; argc > 1 && i < COMMAND_COUNT; i++)
    if (strcmp(argv[1], commands[i].name) == 0) {
      static char name[32];
      snprintf(name, sizeof name, "validate %s", argv[1]);
      argv[1] = name; /* what argp prints in its usage */
      int odd = find_odd_option(argc - 1, argv + 1);
      if (odd) return complain(commands[i].name, "there is no option '%s'", argv[odd + 1]);
      return ifa_console_end(commands[i].run(argc - 1, argv + 1));
    }
  if (argc > 1) ifa_print_visible_line(stderr, "validate: there is no command '%s'", argv[1]);
  usage(stderr);
  return EXIT_BAD_USAGE;
}
