/* validate - checks attention kernels against the oracle, bit by bit. docs/validate.md. */
#include <argp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "validate/commands/commands.h"
#include "validate/kernels/plugin.h"

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
  va_list args;
  va_start(args, format);
  fprintf(stderr, "validate %s: ", command);
  vfprintf(stderr, format, args);
  fputc('\n', stderr);
  va_end(args);
  return EXIT_BAD_USAGE;
}

static void usage(FILE *to) {
  fprintf(to, "usage: validate COMMAND [OPTION...]\n\n");
  for (int i = 0; i < COMMAND_COUNT; i++)
    fprintf(to, "  %-10s %s\n", commands[i].name, commands[i].summary);
  fprintf(to, "\n`validate COMMAND --help` lists a command's options.\n"
              "Exit codes: 0 all executed cases agree, 1 a mismatch, 2 bad usage or input, 3 "
              "nothing was executed.\n");
}

int main(int argc, char **argv) {
  argp_err_exit_status = EXIT_BAD_USAGE;
  if (argc > 1 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 ||
                   strcmp(argv[1], "help") == 0)) {
    usage(stdout);
    return EXIT_AGREE;
  }
  /* plugin_library.c */
  if (argc == 3 && strcmp(argv[1], "plugin-host") == 0) return ifa_plugin_host(argv[2]);
  for (int i = 0; argc > 1 && i < COMMAND_COUNT; i++)
    if (strcmp(argv[1], commands[i].name) == 0) {
      static char name[32];
      snprintf(name, sizeof name, "validate %s", argv[1]);
      argv[1] = name; /* what argp prints in its usage */
      return commands[i].run(argc - 1, argv + 1);
    }
  if (argc > 1) fprintf(stderr, "validate: there is no command '%s'\n", argv[1]);
  usage(stderr);
  return EXIT_BAD_USAGE;
}
