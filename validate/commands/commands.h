/* commands.h - the subcommands of `validate`. Each takes its own argv (argv[0] is the subcommand's
 * name) and returns the exit code. */
#ifndef IFA_VALIDATE_COMMANDS_H
#define IFA_VALIDATE_COMMANDS_H

#include "common/message.h"

/* Exit codes: docs/validate.md. */
enum { EXIT_AGREE = 0, EXIT_MISMATCH = 1, EXIT_BAD_USAGE = 2, EXIT_NOTHING_RUN = 3 };

int cmd_run(int argc, char **argv);
int cmd_attend(int argc, char **argv);
int cmd_quantize(int argc, char **argv);
int cmd_export(int argc, char **argv);
int cmd_list(int argc, char **argv);
int cmd_explain(int argc, char **argv);
int cmd_accuracy(int argc, char **argv);
int cmd_bench(int argc, char **argv);
int cmd_report(int argc, char **argv);
int cmd_diff(int argc, char **argv);
int cmd_record(int argc, char **argv);
int cmd_fuzz(int argc, char **argv);
int cmd_mutants(int argc, char **argv);

/* Prints "validate COMMAND: message" on stderr; returns EXIT_BAD_USAGE. */
int complain(const char *command, const char *format, ...) IFA_PRINTF(2, 3);

/* argp_error, made visible: says it with a hint at --help and ends the program with
 * EXIT_BAD_USAGE. */
struct argp_state;
void refuse(const struct argp_state *state, const char *format, ...) IFA_PRINTF(2, 3);

#endif
