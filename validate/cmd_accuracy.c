/* cmd_accuracy.c - `validate accuracy`: relative L2 error against binary64 of every format, scale choice and baseline, for every fill and
 * the real tensors. Columns are data, rows are algorithms; the binary64 reference sees the floats before quantization. */
#include <argp.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "validate/commands.h"
#include "validate/error.h"

enum { MAX_COLUMNS = 24 };

typedef struct column { const char *name; char keys[160]; } column;

/* A row is a baseline (keys NULL) or this library with the keys. `kind`: 't' V per token (with or without channel), 'f' an FP8 baseline. */
typedef struct row { const char *label, *keys; char kind; } row;

static const row rows[] = {
    {"INT8, V tensor", "smooth=1 vscale=tensor", 0},
    {"INT8, V channel", "smooth=1 vscale=channel", 0},
    {"INT8, V token", "smooth=1 vscale=token", 't'},
    {"INT8, V token+channel", "smooth=1 vscale=token_channel", 't'},
    {"INT8, V channel, tau 0", "smooth=1 vscale=channel tau=0", 0},
    {"INT8, V token, tau 0", "smooth=1 vscale=token tau=0", 't'},
    {"INT8, V channel, tau 4", "smooth=1 vscale=channel tau=4", 0},
    {"INT8, V token, tau 4", "smooth=1 vscale=token tau=4", 't'},
    {"INT8, V token, tau inf", "smooth=1 vscale=token tau=inf", 0},
    {"INT8, V token, K with mean", "smooth=0 vscale=token", 0},
    {"INT8, QK block, V token", "smooth=1 vscale=token qscale=block kscale=block qblock=64 kblock=64", 0},
    {"INT8, QK tensor, V token", "smooth=1 vscale=token qscale=tensor kscale=tensor", 0},
    {"INT8, V INT4 channel", "smooth=1 vscale=channel v=int4", 0},
    {"INT8, V INT4 token", "smooth=1 vscale=token v=int4", 0},
    {"INT8, K INT4, V token", "smooth=1 vscale=token k=int4", 0},
    {"INT4, V channel", "smooth=1 vscale=channel qk=int4 v=int4", 0},
    {"INT4, V token", "smooth=1 vscale=token qk=int4 v=int4", 0},
    {"flash-fp16", NULL, 0},
    {"int-flash-half", NULL, 0},
    {"int-flash-full", NULL, 0},
    {"int8-e4m3", NULL, 'f'},
    {"fp8-e4m3", NULL, 'f'},
    {"fp8-e5m2", NULL, 'f'},
};
enum { ROW_COUNT = sizeof rows / sizeof rows[0] };

typedef struct options { int64_t tokens, dim, sampled; } options;

static const struct argp_option option_list[] = {
    {"tokens", 'n', "N", 0, "query and key tokens of the fills (default 4096)", 0},
    {"dim", 'd', "D", 0, "head dimension of the fills (default 128)", 0},
    {"rows", 'r', "N", 0, "query rows that are computed, spread over each problem (default 128)", 0},
    {0}};

static error_t parse(int key, char *value, struct argp_state *state) {
  options *o = state->input;
  if (key == ARGP_KEY_ARG) argp_error(state, "unexpected argument '%s'", value);
  int64_t *at = key == 'n' ? &o->tokens : key == 'd' ? &o->dim : key == 'r' ? &o->sampled : NULL;
  if (!at) return ARGP_ERR_UNKNOWN;
  char *end;
  *at = strtoll(value, &end, 10);
  if (*end != '\0' || *at < 1 || *at > 1000000) argp_error(state, "'%s' is not a size", value);
  return 0;
}

static const struct argp parser = {option_list, parse, "", "Prints the relative L2 error against binary64 attention on the unquantized tensors.",
                                   NULL, NULL, NULL};

static int make_columns(const options *o, column *columns) {
  static const char *const real[] = {"minilm_layer0", "minilm_layer2", "minilm_layer5"}, *const real_names[] = {"real L0", "real L2", "real L5"};
  int count = 0;
  for (int f = 0; f < IFA_FILL_COUNT; f++) {
    columns[count].name = ifa_fill_name((ifa_fill)f);
    snprintf(columns[count++].keys, sizeof columns->keys, "b=1 hq=1 hkv=1 nq=%d nk=%d d=%d fill=%s rows=%d seed=1", (int)o->tokens, (int)o->tokens,
             (int)o->dim, ifa_fill_name((ifa_fill)f), (int)o->sampled);
  }
  for (int i = 0; i < 3; i++) {
    columns[count].name = real_names[i];
    snprintf(columns[count++].keys, sizeof columns->keys, "input=%s rows=%d seed=1", real[i], (int)o->sampled);
  }
  return count;
}

/* Error of one row in one column; NaN with a message if it cannot be computed. */
static double error_at(const column *c, const row *r, const double *reference, ifa_message *why) {
  char keys[320];
  ifa_case parsed;
  ifa_data d = {0};
  double *o = NULL, error = NAN;
  snprintf(keys, sizeof keys, "%s %s", c->keys, r->keys ? r->keys : "");
  ifa_status status = ifa_case_parse(keys, &parsed, why);
  parsed.plain = 1;
  if (status == IFA_OK) status = ifa_data_make(&parsed, &d, why);
  if (status == IFA_OK)
    status = r->keys ? ifa_error_backend(&d, ifa_backend_supports("openmp", NULL, NULL) == IFA_OK ? "openmp" : "scalar", &o, why)
                     : ifa_error_baseline(&d, r->label, &o, why);
  if (status == IFA_OK) error = ifa_error_of(o, reference, d.row_count, d.p.head_dim).relative_l2;
  free(o);
  ifa_data_free(&d);
  return error;
}

static ifa_status reference_of(const column *c, double **reference, ifa_message *why) {
  ifa_case parsed;
  ifa_data d = {0};
  ifa_status status = ifa_case_parse(c->keys, &parsed, why);
  if (status == IFA_OK) status = ifa_data_make(&parsed, &d, why);
  if (status == IFA_OK) status = ifa_error_baseline(&d, "f64", reference, why);
  ifa_data_free(&d);
  return status;
}

static void print_table(const column *columns, int count, double table[ROW_COUNT][MAX_COLUMNS]) {
  printf("%-28s", "relative L2 error");
  for (int c = 0; c < count; c++) printf("%10s", columns[c].name);
  printf("\n");
  for (int r = 0; r < ROW_COUNT; r++) {
    printf("%-28s", rows[r].label);
    for (int c = 0; c < count; c++) printf("%10.2g", table[r][c]);
    printf("\n");
  }
}

/* Is a V-per-token row below every FP8 baseline? Said from the table, whatever it shows. */
static void print_verdict(const column *columns, int count, double table[ROW_COUNT][MAX_COLUMNS]) {
  printf("\nbelow every FP8 baseline (int8-e4m3, fp8-e4m3, fp8-e5m2):\n");
  for (int r = 0; r < ROW_COUNT; r++) {
    if (rows[r].kind != 't') continue;
    int below = 0;
    char exceptions[512] = "";
    for (int c = 0; c < count; c++) {
      double best = INFINITY;
      for (int f = 0; f < ROW_COUNT; f++) /* a missing figure is below nothing and nothing is below it */
        if (rows[f].kind == 'f') best = isnan(table[f][c]) ? -INFINITY : table[f][c] < best ? table[f][c] : best;
      below += table[r][c] < best;
      size_t used = strlen(exceptions);
      if (!(table[r][c] < best))
        snprintf(exceptions + used, sizeof exceptions - used, "%s %s (%.3g, FP8 %.3g)", used ? "," : "; not on", columns[c].name, table[r][c], best);
    }
    printf("  %-26s on %d of %d%s\n", rows[r].label, below, count, exceptions);
  }
}

int cmd_accuracy(int argc, char **argv) {
  options o = {4096, 128, 128};
  column columns[MAX_COLUMNS];
  static double table[ROW_COUNT][MAX_COLUMNS];
  ifa_message why;
  if (argp_parse(&parser, argc, argv, 0, NULL, &o) != 0) return EXIT_BAD_USAGE;
  int count = make_columns(&o, columns), terminal = isatty(STDERR_FILENO), missing = 0;
  for (int c = 0; c < count; c++) {
    double *reference = NULL;
    if (terminal) fprintf(stderr, "\r\033[K%s ", columns[c].name);
    if (reference_of(&columns[c], &reference, &why) != IFA_OK) {
      free(reference);
      return complain("accuracy", "%s: %s", columns[c].name, why.text);
    }
    for (int r = 0; r < ROW_COUNT; r++) {
      table[r][c] = error_at(&columns[c], &rows[r], reference, &why);
      missing += isnan(table[r][c]);
      if (isnan(table[r][c]) && why.text[0]) fprintf(stderr, "%s on %s: %s\n", rows[r].label, columns[c].name, why.text);
    }
    free(reference);
  }
  if (terminal) fprintf(stderr, "\r\033[K");
  printf("fills: %d tokens, head_dim %d, 1 head; real: 12 heads of 32, 512 tokens; %d query rows each;\ntau 2 where not said; K less its mean\n\n", (int)o.tokens, (int)o.dim,
         (int)o.sampled);
  print_table(columns, count, table);
  print_verdict(columns, count, table);
  return missing ? complain("accuracy", "%d figures are missing", missing) : EXIT_AGREE;
}
