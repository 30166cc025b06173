/* accuracy.c - `validate accuracy`: the error against binary64 of every format, scale choice and
 * baseline, on every fill, on real tensors and in the setting of INT-FlashAttention's tables.
 * Columns are data, rows are algorithms; the reference sees the floats before quantization.
 * docs/accuracy.md. */
#include <argp.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "validate/commands/commands.h"
#include "validate/judge/error.h"
#include "validate/reports/files.h"
#include "validate/text/number.h"

/* ---- rows: algorithms ---- */

/* A baseline (keys NULL) or this library with the keys. `kind`: 't' V per token (with or without
 * channel), 'f' an FP8 baseline. */
typedef struct row {
  const char *label, *keys;
  char kind;
} row;

static const row rows[] = {
    {"INT8, V tensor", "smooth=1 vscale=tensor", 0},
    {"INT8, V channel", "smooth=1 vscale=channel", 0},
    {"INT8, V token (accurate)", "smooth=1 vscale=token", 't'},
    {"INT8, V token+channel", "smooth=1 vscale=token_channel", 't'},
    {"INT8, V channel, tau 0", "smooth=1 vscale=channel tau=0", 0},
    {"INT8, V token, tau 0", "smooth=1 vscale=token tau=0", 't'},
    {"INT8, V channel, tau 4 (fast)", "smooth=1 vscale=channel tau=4", 0},
    {"INT8, V token, tau 4", "smooth=1 vscale=token tau=4", 't'},
    {"INT8, V token, tau inf", "smooth=1 vscale=token tau=inf", 0},
    {"INT8, V token, K with mean", "smooth=0 vscale=token", 0},
    {"INT8, QK block, V token",
     "smooth=1 vscale=token qscale=block kscale=block qblock=64 kblock=64", 0},
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

/* ---- columns: data ---- */

enum { MAX_COLUMNS = 64, LENGTHS = 5, DISTRIBUTIONS = 3 };

/* `table`: 0 fills and real tensors, 1 the paper's setting. */
typedef struct column {
  char name[24];
  char keys[160];
  int table;
} column;

static const int lengths[LENGTHS] = {1024, 2048, 4096, 8192, 16384};
static const char *const distributions[DISTRIBUTIONS] = {"normal", "centred", "uniform"};

/* What the paper prints (arXiv 2409.16997, its two tables of mean relative error, in percent):
 * FlashAttention in FP8, half INT8, full INT8. Its second distribution is uniform on [-0.5, 0.5).
 * The figures were written down from memory and agree with what abstract and summaries quote of
 * them; they have not been compared with the paper's page (docs/accuracy.md). */
static const struct published {
  const char *algorithm, *distribution;
  double percent[LENGTHS];
} published[] = {
    {"fp8-e5m2", "normal", {7.46, 7.50, 7.66, 7.51, 7.57}},
    {"int-flash-half", "normal", {0.890, 0.802, 0.843, 0.932, 0.775}},
    {"int-flash-full", "normal", {4.05, 4.18, 4.21, 4.38, 4.52}},
    {"fp8-e5m2", "centred", {8.94, 9.15, 8.89, 9.02, 8.97}},
    {"int-flash-half", "centred", {0.317, 0.300, 0.280, 0.299, 0.296}},
    {"int-flash-full", "centred", {1.69, 1.62, 1.65, 1.85, 1.82}},
};
enum { PUBLISHED_COUNT = sizeof published / sizeof published[0] };

/* ---- options ---- */

typedef struct options {
  int tokens, dim, sampled, paper_sampled, paper_tokens;
  int tables; /* bit 1: fills and real tensors; bit 2: the paper's setting */
  const char *metric, *scale, *json, *csv;
} options;

enum { OPTION_CSV = 256, OPTION_PAPER_ROWS, OPTION_PAPER_TOKENS, OPTION_PAPER_SCALE };

static const struct argp_option option_list[] = {
    {"tokens", 'n', "N", 0, "query and key tokens of the fills (default 4096)", 0},
    {"dim", 'd', "D", 0, "head dimension of the fills (default 128)", 0},
    {"rows", 'r', "N", 0, "query rows that are computed, spread over each problem (default 128)",
     0},
    {"table", 't', "NAME", 0, "fills (with the real tensors), paper, or all (default)", 0},
    {"metric", 'm', "NAME", 0, "of the fills' table: l2 (default), mean, mre, cosine, worst", 0},
    {"paper-rows", OPTION_PAPER_ROWS, "N", 0,
     "query rows that are computed in the paper's setting (default 512)", 0},
    {"paper-tokens", OPTION_PAPER_TOKENS, "N", 0,
     "longest of its lengths, 1024 to 16384 (default 16384)", 0},
    {"paper-scale", OPTION_PAPER_SCALE, "X", 0,
     "softmax scale in the paper's setting (default 1; auto: 1/8)", 0},
    {"json", 'j', "FILE", 0, "write every metric of every cell as JSON", 0},
    {"csv", OPTION_CSV, "FILE", 0, "the same as CSV", 0},
    {0}};

static const struct metric {
  const char *name, *title;
  size_t offset;
} metrics[] = {
    {"l2", "relative L2 error", offsetof(ifa_error, relative_l2)},
    {"mean", "mean |error| / mean |o|", offsetof(ifa_error, mean_relative)},
    {"mre", "mean of |error| / |o|", offsetof(ifa_error, mre)},
    {"cosine", "1 - cosine", offsetof(ifa_error, cosine)},
    {"worst", "worst row, relative L2", offsetof(ifa_error, worst_row)},
};
enum { METRIC_COUNT = sizeof metrics / sizeof metrics[0] };

static double metric_of(const struct metric *m, const ifa_error *e) {
  double x;
  memcpy(&x, (const char *)e + m->offset, sizeof x);
  return strcmp(m->name, "cosine") == 0 ? 1 - x : x;
}

static const struct metric *find_metric(const char *name) {
  for (int i = 0; i < METRIC_COUNT; i++)
    if (strcmp(metrics[i].name, name) == 0) return &metrics[i];
  return NULL;
}

/* A value of the case key sm that has room in a column's keys. */
static void check_scale(const char *value, struct argp_state *state) {
  char keys[64];
  ifa_case c;
  ifa_message why;
  if (strlen(value) > 40 || value[strcspn(value, " ,")] != '\0')
    refuse(state, "--paper-scale %s is not a number", value);
  snprintf(keys, sizeof keys, "sm=%s", value);
  if (ifa_case_parse(keys, &c, &why) != IFA_OK || ifa_problem_check(&c.problem, &why) != IFA_OK)
    refuse(state, "--paper-scale: %s", why.text);
}

static error_t parse(int key, char *value, struct argp_state *state) {
  options *o = state->input;
  int *at = key == 'n'                   ? &o->tokens
            : key == 'd'                 ? &o->dim
            : key == 'r'                 ? &o->sampled
            : key == OPTION_PAPER_ROWS   ? &o->paper_sampled
            : key == OPTION_PAPER_TOKENS ? &o->paper_tokens
                                         : NULL;
  switch (key) {
    case 'n':
    case 'd':
    case 'r':
    case OPTION_PAPER_ROWS:
    case OPTION_PAPER_TOKENS:
      if (!ifa_read_int(value, 1, 1000000, at)) refuse(state, "'%s' is not a size", value);
      return 0;
    case 't':
      o->tables = strcmp(value, "fills") == 0   ? 1
                  : strcmp(value, "paper") == 0 ? 2
                  : strcmp(value, "all") == 0   ? 3
                                                : 0;
      if (!o->tables) refuse(state, "--table %s is not fills, paper or all", value);
      return 0;
    case 'm':
      if (!find_metric(value))
        refuse(state, "--metric %s is not l2, mean, mre, cosine or worst", value);
      o->metric = value;
      return 0;
    case OPTION_PAPER_SCALE: check_scale(value, state), o->scale = value; return 0;
    case 'j': o->json = value; return 0;
    case OPTION_CSV: o->csv = value; return 0;
    case ARGP_KEY_ARG: refuse(state, "unexpected argument '%s'", value); return 0;
    default: return ARGP_ERR_UNKNOWN;
  }
}

static const struct argp parser = {
    option_list,
    parse,
    "",
    "Prints the error against binary64 attention on the tensors before quantization: relative L2 "
    "of every format, scale choice and baseline on the "
    "fills and on real tensors, then INT-FlashAttention's tables of mean relative error, published "
    "figures beside measured ones.\v"
    "The figures are explained in docs/accuracy.md. Exit codes: 0, or 2 for bad usage or a figure "
    "that could not be computed.",
    NULL,
    NULL,
    NULL};

/* How many of the lengths are measured. */
static int length_count(const options *o) {
  int count = 0;
  while (count < LENGTHS && lengths[count] <= o->paper_tokens) count++;
  return count;
}

static void add_column(column *columns, int *count, int table, const char *name, const char *keys) {
  snprintf(columns[*count].name, sizeof columns->name, "%s", name);
  snprintf(columns[*count].keys, sizeof columns->keys, "%s", keys);
  columns[(*count)++].table = table;
}

static int make_columns(const options *o, column *columns) {
  static const char *const real[] = {"minilm_layer0", "minilm_layer2", "minilm_layer5"},
                           *const real_names[] = {"real L0", "real L2", "real L5"};
  char name[24], keys[160];
  int count = 0;
  for (int f = 0; o->tables & 1 && f < IFA_FILL_COUNT; f++) {
    if (f == IFA_FILL_WIDE) continue; /* made for its operands, not for its floats */
    snprintf(keys, sizeof keys, "b=1 hq=1 hkv=1 nq=%d nk=%d d=%d fill=%s rows=%d seed=1",
             (int)o->tokens, (int)o->tokens, (int)o->dim, ifa_fill_name((ifa_fill)f),
             (int)o->sampled);
    add_column(columns, &count, 0, ifa_fill_name((ifa_fill)f), keys);
  }
  for (int i = 0; o->tables & 1 && i < 3; i++) {
    snprintf(keys, sizeof keys, "input=%s rows=%d seed=1", real[i], (int)o->sampled);
    add_column(columns, &count, 0, real_names[i], keys);
  }
  for (int d = 0; o->tables & 2 && d < DISTRIBUTIONS; d++)
    for (int i = 0; i < length_count(o); i++) {
      snprintf(name, sizeof name, "%s %dk", distributions[d], lengths[i] / 1024);
      snprintf(keys, sizeof keys, "b=1 hq=1 hkv=1 nq=%d nk=%d d=64 sm=%s fill=%s rows=%d seed=1",
               lengths[i], lengths[i], o->scale, distributions[d], (int)o->paper_sampled);
      add_column(columns, &count, 1, name, keys);
    }
  return count;
}

/* ---- one cell ---- */

typedef struct cell {
  ifa_error e;
  /* paper's setting: the 5%, 50% and 95% quantiles of the MRE of four neighbouring elements; 0
   * elsewhere */
  double four[3];
} cell;

static int by_value(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

/* The published script takes its MRE from the last four elements of the output. What it could have
 * printed: that figure of every four. */
static ifa_status quantiles_of_four(const double *o, const double *reference, int64_t elements,
                                    double four[3], ifa_message *why) {
  int64_t groups = elements / 4;
  double *mre = malloc(((size_t)groups + 1) * sizeof *mre);
  if (!mre)
    return ifa_fail(why, IFA_OUT_OF_MEMORY, "no memory for %lld figures", (long long)groups);
  for (int64_t g = 0; g < groups; g++)
    mre[g] = ifa_error_of(o + 4 * g, reference + 4 * g, 1, 4).mre;
  qsort(mre, (size_t)groups, sizeof *mre, by_value);
  for (int i = 0; i < 3 && groups > 0; i++)
    four[i] = mre[(groups - 1) * (i == 0 ? 5 : i == 1 ? 50 : 95) / 100];
  free(mre);
  return IFA_OK;
}

static ifa_status make_data(const char *keys, ifa_data *d, ifa_message *why) {
  ifa_case parsed;
  ifa_status status = ifa_case_parse(keys, &parsed, why);
  parsed.plain = 1;
  return status == IFA_OK ? ifa_data_make(&parsed, d, why) : status;
}

/* This library on the column's data with the row's keys; freed by the caller. */
static ifa_status run_backend(const column *c, const row *r, double **o, ifa_message *why) {
  char keys[320];
  ifa_data d = {0};
  snprintf(keys, sizeof keys, "%s %s", c->keys, r->keys);
  ifa_status status = make_data(keys, &d, why);
  if (status == IFA_OK)
    status = ifa_error_backend(
        &d, ifa_backend_supports("openmp", NULL, NULL) == IFA_OK ? "openmp" : "scalar", o, why);
  ifa_data_free(&d);
  return status;
}

/* `d`: the column's data. All NaN, with a message, if it cannot be computed. */
static cell error_at(const column *c, const row *r, const ifa_data *d, const double *reference,
                     ifa_message *why) {
  cell result = {.e = {NAN, NAN, NAN, NAN, NAN, 0, NAN}};
  double *o = NULL;
  ifa_status status =
      r->keys ? run_backend(c, r, &o, why) : ifa_error_baseline(d, r->label, &o, why);
  if (status == IFA_OK && c->table == 1)
    status = quantiles_of_four(o, reference, d->row_count * d->p.head_dim, result.four, why);
  if (status == IFA_OK) result.e = ifa_error_of(o, reference, d->row_count, d->p.head_dim);
  free(o);
  return result;
}

/* ---- tables ---- */

typedef struct results {
  const options *o;
  column columns[MAX_COLUMNS];
  int count;
  cell cells[ROW_COUNT][MAX_COLUMNS];
} results;

static void print_table(const results *t, const struct metric *m) {
  printf("%-30s", m->title);
  for (int c = 0; c < t->count; c++)
    if (t->columns[c].table == 0) printf("%10s", t->columns[c].name);
  printf("\n");
  for (int r = 0; r < ROW_COUNT; r++) {
    printf("%-30s", rows[r].label);
    for (int c = 0; c < t->count; c++)
      if (t->columns[c].table == 0) printf("%10.2g", metric_of(m, &t->cells[r][c].e));
    printf("\n");
  }
}

/* Is a V-per-token row below every FP8 baseline? Said from the table, whatever it shows. */
static void print_verdict(const results *t) {
  printf("\nrelative L2 below every FP8 baseline (int8-e4m3, fp8-e4m3, fp8-e5m2):\n");
  for (int r = 0; r < ROW_COUNT; r++) {
    if (rows[r].kind != 't') continue;
    int below = 0, count = 0;
    char exceptions[512] = "";
    for (int c = 0; c < t->count && t->columns[c].table == 0; c++, count++) {
      double best = INFINITY, own = t->cells[r][c].e.relative_l2;
      for (int f = 0; f < ROW_COUNT; f++) {
        /* a missing figure is below nothing and nothing is below it */
        double other = t->cells[f][c].e.relative_l2;
        if (rows[f].kind == 'f') best = isnan(other) ? -INFINITY : other < best ? other : best;
      }
      below += own < best;
      size_t used = strlen(exceptions);
      if (!(own < best))
        snprintf(exceptions + used, sizeof exceptions - used, "%s %s (%.3g, FP8 %.3g)",
                 used ? "," : "; not on", t->columns[c].name, own, best);
    }
    printf("  %-26s on %d of %d%s\n", rows[r].label, below, count, exceptions);
  }
}

static const struct published *find_published(const char *algorithm, const char *distribution) {
  for (int i = 0; i < PUBLISHED_COUNT; i++)
    if (strcmp(published[i].algorithm, algorithm) == 0 &&
        strcmp(published[i].distribution, distribution) == 0)
      return &published[i];
  return NULL;
}

/* The rows that the paper's tables are set beside. */
static int in_paper_table(const row *r) {
  return !r->keys || strstr(r->label, "(fast)") || strstr(r->label, "(accurate)") ||
         strcmp(r->label, "INT4, V token") == 0;
}

static void print_percent(const char *label, const cell *cells, int count, size_t offset) {
  printf("%-42s", label);
  for (int i = 0; i < count; i++) {
    double x;
    memcpy(&x, (const char *)&cells[i] + offset, sizeof x);
    printf("%9.3g", 100 * x);
  }
  printf("\n");
}

/* One distribution, in percent. Where the paper has a line: its figures, and what the published
 * script's four elements could have given. */
static void print_paper_table(const results *t, int first, const char *distribution) {
  int count = length_count(t->o);
  printf("\n%-42s", distribution);
  for (int i = 0; i < count; i++) printf("%8dk", lengths[i] / 1024);
  printf("\n");
  for (int r = 0; r < ROW_COUNT; r++) {
    const cell *cells = &t->cells[r][first];
    const struct published *p = rows[r].keys ? NULL : find_published(rows[r].label, distribution);
    if (!in_paper_table(&rows[r])) continue;
    print_percent(rows[r].label, cells, count, offsetof(cell, e.mean_relative));
    if (!p) continue;
    printf("%-42s", "  published");
    for (int i = 0; i < count; i++) printf("%9.3g", p->percent[i]);
    printf("\n");
    print_percent("  mean of |error| / |o|, all elements", cells, count, offsetof(cell, e.mre));
    print_percent("  the same of four elements: 5% are below", cells, count,
                  offsetof(cell, four[0]));
    print_percent("                             median", cells, count, offsetof(cell, four[1]));
    print_percent("                             95% are below", cells, count,
                  offsetof(cell, four[2]));
  }
}

static void print_paper(const results *t) {
  int first = 0;
  while (first < t->count && t->columns[first].table != 1) first++;
  printf("INT-FlashAttention's setting: head_dim 64, softmax scale %s, 1 head, %d query rows of "
         "each length.\n"
         "mean |error| / mean |o| in percent; published: the MRE of arXiv 2409.16997 as quoted "
         "from memory (docs/accuracy.md)\n",
         t->o->scale, (int)t->o->paper_sampled);
  for (int d = 0; d < DISTRIBUTIONS; d++)
    print_paper_table(t, first + d * length_count(t->o), distributions[d]);
}

/* ---- files ---- */

static json_t *results_json(const results *t) {
  json_t *json = ifa_json_head("accuracy"), *list = json_array(), *quoted = json_array();
  for (int c = 0; c < t->count; c++)
    for (int r = 0; r < ROW_COUNT; r++) {
      const ifa_error *e = &t->cells[r][c].e;
      json_array_append_new(
          list,
          json_pack("{s:s, s:s, s:s, s:s, s:s, s:o, s:o, s:o, s:o, s:o, s:I, s:o}", "table",
                    t->columns[c].table ? "paper" : "fills", "algorithm", rows[r].label, "data",
                    t->columns[c].name, "keys", rows[r].keys ? rows[r].keys : "", "case",
                    t->columns[c].keys, "relative_l2", ifa_json_number(e->relative_l2),
                    "mean_relative", ifa_json_number(e->mean_relative), "mre",
                    ifa_json_number(e->mre), "cosine", ifa_json_number(e->cosine), "worst_row",
                    ifa_json_number(e->worst_row), "worst_row_number",
                    (json_int_t)e->worst_row_number, "largest", ifa_json_number(e->largest)));
    }
  for (int p = 0; t->o->tables & 2 && p < PUBLISHED_COUNT; p++)
    for (int i = 0; i < LENGTHS; i++)
      json_array_append_new(quoted,
                            json_pack("{s:s, s:s, s:i, s:f}", "algorithm", published[p].algorithm,
                                      "fill", published[p].distribution, "tokens", lengths[i],
                                      "mre", published[p].percent[i] / 100));
  if (!json || json_object_set_new(json, "results", list) != 0 ||
      json_object_set_new(json, "published", quoted) != 0)
    return NULL;
  return json;
}

static void print_csv(FILE *to, const void *context) {
  const results *t = context;
  fprintf(to, "table,algorithm,data,keys,case,relative_l2,mean_relative,mre,cosine,worst_row,worst_"
              "row_number,largest\r\n");
  for (int c = 0; c < t->count; c++)
    for (int r = 0; r < ROW_COUNT; r++) {
      const ifa_error *e = &t->cells[r][c].e;
      fprintf(to, "%s,", t->columns[c].table ? "paper" : "fills");
      ifa_print_csv(to, rows[r].label);
      fprintf(to, ",%s,%s,%s,%.9g,%.9g,%.9g,%.12g,%.9g,%lld,%.9g\r\n", t->columns[c].name,
              rows[r].keys ? rows[r].keys : "", t->columns[c].keys, e->relative_l2,
              e->mean_relative, e->mre, e->cosine, e->worst_row, (long long)e->worst_row_number,
              e->largest);
    }
}

static ifa_status write_files(const results *t, ifa_message *why) {
  ifa_status status = IFA_OK;
  if (t->o->json) {
    json_t *json = results_json(t);
    status = ifa_json_write(json, t->o->json, why);
    json_decref(json);
  }
  if (status == IFA_OK && t->o->csv) status = ifa_print_file(t->o->csv, print_csv, t, why);
  return status;
}

/* ---- the command ---- */

static ifa_status compute_column(results *t, int c, int *missing, ifa_message *why) {
  ifa_data d = {0};
  double *reference = NULL;
  ifa_status status = make_data(t->columns[c].keys, &d, why);
  if (status == IFA_OK) status = ifa_error_baseline(&d, "f64", &reference, why);
  for (int r = 0; r < ROW_COUNT && status == IFA_OK; r++) {
    t->cells[r][c] = error_at(&t->columns[c], &rows[r], &d, reference, why);
    if (!isnan(t->cells[r][c].e.relative_l2)) continue;
    ++*missing;
    if (why->text[0])
      fprintf(stderr, "%s on %s: %s\n", rows[r].label, t->columns[c].name, why->text);
  }
  free(reference);
  ifa_data_free(&d);
  return status;
}

static ifa_status compute(results *t, int *missing, ifa_message *why) {
  int terminal = isatty(STDERR_FILENO);
  ifa_status status = IFA_OK;
  for (int c = 0; c < t->count && status == IFA_OK; c++) {
    if (terminal)
      fprintf(stderr, "\r\033[Kcolumn %d of %d: %s ", c + 1, t->count, t->columns[c].name);
    status = compute_column(t, c, missing, why);
  }
  if (terminal) fprintf(stderr, "\r\033[K");
  return status;
}

int cmd_accuracy(int argc, char **argv) {
  options o = {.tokens = 4096,
               .dim = 128,
               .sampled = 128,
               .paper_sampled = 512,
               .paper_tokens = lengths[LENGTHS - 1],
               .tables = 3,
               .metric = "l2",
               .scale = "1"};
  static results t;
  ifa_message why = {""};
  int missing = 0;
  if (argp_parse(&parser, argc, argv, 0, NULL, &o) != 0) return EXIT_BAD_USAGE;
  if (ifa_reports_prepare((const char *[]){o.json, o.csv}, 2, &why) != IFA_OK)
    return complain("accuracy", "%s", why.text);
  t.o = &o;
  t.count = make_columns(&o, t.columns);
  if (compute(&t, &missing, &why) != IFA_OK) return complain("accuracy", "%s", why.text);
  if (o.tables & 1) {
    printf("fills: %d tokens, head_dim %d, 1 head; real: 12 heads of 32, 512 tokens; %d query rows "
           "each;\ntau 2 where not said; K less its mean\n\n",
           (int)o.tokens, (int)o.dim, (int)o.sampled);
    print_table(&t, find_metric(o.metric));
    print_verdict(&t);
  }
  if (o.tables == 3) printf("\n");
  if (o.tables & 2) print_paper(&t);
  if (write_files(&t, &why) != IFA_OK) return complain("accuracy", "%s", why.text);
  return missing ? complain("accuracy", "%d figures are missing", missing) : EXIT_AGREE;
}
