#include "validate/diagnosis/suspects.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/operand.h"
#include "ref/rows.h"
#include "validate/judge/close.h"
#include "validate/judge/compare.h"
#include "validate/mutants/flash.h"
#include "validate/mutants/kernel.h"

/* One failing case in numbers: [computed row][head_dim], and lse behind them, a number a row. */
typedef struct exhibit {
  const ifa_data *d;
  const ifa_run_buffers *got_buffers;
  double *right, *bound, *got, *tried;
  char *unknown;       /* [rows + rows]: of a row and of its lse: the hypothesis says nothing */
  int64_t rows, count; /* rows * head_dim + rows, or without lse the former */
  ifa_data rounded;    /* close: *d with its floats as the claim rounds them */
} exhibit;

/* ---- numbers ---- */

static void take_numbers(const ifa_data *d, const ifa_run_buffers *b, double *to) {
  for (int64_t r = 0; r < d->row_count; r++)
    for (int32_t i = 0; i < d->p.head_dim; i++)
      to[r * d->p.head_dim + i] =
          (double)ifa_float_get(d->p.out_type, b->o.data, ifa_output_index(d, r, i));
  for (int64_t r = 0; r < d->row_count && d->p.lse; r++)
    to[d->row_count * d->p.head_dim + r] =
        (double)((const float *)b->lse.data)[d->rows ? d->rows[r] : r];
}

static double apart(double a, double b) {
  if (a == b || (isnan(a) && isnan(b))) return 0;
  double difference = fabs(a - b);
  return isfinite(difference) ? fmin(difference, 1e30) : 1e30;
}

/* Elements from .. to-1: does `tried` explain what is wrong with `got`, and nothing that is right?
 * 1: it does; 0: nothing there is wrong; -1: it does not. */
static int explains(const exhibit *x, int64_t from, int64_t to, int exact) {
  double error = 0, left = 0;
  int64_t wrong = 0, strays = 0;
  for (int64_t i = from; i < to; i++) {
    double bound = x->bound[i], off = apart(x->got[i], x->right[i]),
           rest = apart(x->got[i], x->tried[i]);
    if (bound == DBL_MAX || x->unknown[from ? x->rows + i - from : i / x->d->p.head_dim]) continue;
    if (exact && rest != 0) return -1;
    if (off > bound) {
      wrong++;
      error += off * off;
      left += rest * rest;
    } else {
      strays += rest > 4 * bound + 1e-6 * fabs(x->right[i]);
    }
  }
  if (strays > wrong / 50 + (to - from) / 1000) return -1;
  if (wrong == 0) return 0;
  return left <= 0.01 * error ? 1 : -1;
}

static int matches(const exhibit *x, int exact) {
  int64_t outputs = x->rows * x->d->p.head_dim;
  int o = explains(x, 0, outputs, exact), lse = explains(x, outputs, x->count, exact);
  return o >= 0 && lse >= 0 && o + lse > 0;
}

/* ---- making the exhibits ---- */

static void free_exhibit(exhibit *x) {
  free(x->right);
  free(x->bound);
  free(x->got);
  free(x->tried);
  free(x->unknown);
  free(x->rounded.q);
  free(x->rounded.k);
  free(x->rounded.v);
}

static int round_operands(const ifa_claim *claim, exhibit *x) {
  const ifa_problem *p = &x->d->p;
  size_t q = (size_t)(p->batch * p->q_heads * p->nq * p->head_dim) + 1,
         kv = (size_t)(p->batch * p->kv_heads * p->nk * p->head_dim) + 1;
  x->rounded = *x->d;
  x->rounded.q = malloc(q * sizeof(float));
  x->rounded.k = malloc(kv * sizeof(float));
  x->rounded.v = malloc(kv * sizeof(float));
  return x->rounded.q && x->rounded.k && x->rounded.v &&
         ifa_close_operands(x->d, claim, x->rounded.q, x->rounded.k, x->rounded.v, NULL) == IFA_OK;
}

/* What is right: by the oracle, or in binary64 with bounds. */
static int find_right(const ifa_claim *claim, exhibit *x) {
  int64_t outputs = x->rows * x->d->p.head_dim;
  ifa_run_buffers b = {0};
  ifa_status status = ifa_run_buffers_make(x->d, IFA_STAGES_NONE, IFA_ORACLE_POISON, &b, NULL);
  ifa_inputs in = ifa_data_inputs(x->d);
  ifa_outputs out = ifa_run_buffers_outputs(&b);
  if (status == IFA_OK) status = ifa_run("scalar", &x->d->p, &in, &out, NULL);
  if (status == IFA_OK) take_numbers(x->d, &b, x->right);
  ifa_run_buffers_free(&b);
  if (status != IFA_OK || !claim->close) return status == IFA_OK;
  ifa_close *close = NULL;
  status = ifa_close_make(x->d, claim, &close, NULL);
  const double *right = status == IFA_OK ? ifa_close_right(close) : NULL;
  if (right) {
    memcpy(x->right, right, (size_t)outputs * sizeof *right);
    memcpy(x->bound, ifa_close_bound(close), (size_t)outputs * sizeof *right);
    ifa_close_lse(close, x->right + outputs, x->bound + outputs);
  }
  ifa_close_free(close);
  return right && round_operands(claim, x);
}

static int make_exhibit(const ifa_claim *claim, const ifa_evidence *e, exhibit *x) {
  int64_t rows = e->data->row_count, outputs = rows * e->data->p.head_dim;
  size_t size = (size_t)(outputs + rows) + 1;
  *x = (exhibit){.d = e->data,
                 .got_buffers = e->got,
                 .right = calloc(size, sizeof(double)),
                 .bound = calloc(size, sizeof(double)),
                 .got = calloc(size, sizeof(double)),
                 .tried = calloc(size, sizeof(double)),
                 .unknown = calloc(2 * (size_t)rows + 1, 1),
                 .rows = rows,
                 .count = outputs + (e->data->p.lse ? rows : 0)};
  if (!x->right || !x->bound || !x->got || !x->tried || !x->unknown) return 0;
  take_numbers(e->data, e->got, x->got);
  return find_right(claim, x);
}

/* ---- hypotheses ---- */

typedef struct search {
  const ifa_claim *claim;
  exhibit *x;
  int count;
  char (*suspects)[IFA_SUSPECT_TEXT];
  int found;
} search;

static void name_it(search *s, const char *text) {
  for (int i = 0; i < s->found; i++)
    if (strcmp(s->suspects[i], text) == 0) return;
  if (s->found < IFA_SUSPECTS) snprintf(s->suspects[s->found++], IFA_SUSPECT_TEXT, "%s", text);
}

/* Runs `fill` for every exhibit; does it explain them all? */
static int explains_all(search *s, int (*fill)(exhibit *x, const void *how), const void *how) {
  for (int i = 0; i < s->count; i++) {
    memset(s->x[i].unknown, 0, 2 * (size_t)s->x[i].rows);
    if (!fill(&s->x[i], how) || !matches(&s->x[i], !s->claim->close)) return 0;
  }
  return 1;
}

/* A kernel of the CPU with one fault. */
static int run_mutant(exhibit *x, const void *mutant) {
  ifa_run_buffers b = {0};
  ifa_inputs in = ifa_data_inputs(x->d);
  ifa_status status = ifa_run_buffers_make(x->d, IFA_STAGES_NONE, IFA_BACKEND_POISON, &b, NULL);
  ifa_outputs out = ifa_run_buffers_outputs(&b);
  if (status == IFA_OK) status = ifa_mutant_run(mutant, &x->d->p, &in, &out, NULL);
  if (status == IFA_OK) take_numbers(x->d, &b, x->tried);
  ifa_run_buffers_free(&b);
  return status == IFA_OK;
}

static void try_mutants(search *s) {
  for (int i = 1; i < IFA_MUTANT_gpu_none && s->found < IFA_SUSPECTS; i++) {
    if (ifa_mutant_entries[i].proof) continue;
    ifa_mutant *mutant = ifa_mutant_new((ifa_mutant_number)i);
    if (mutant && explains_all(s, run_mutant, mutant)) name_it(s, ifa_mutant_entries[i].what);
    ifa_mutant_free(mutant);
  }
}

/* Attention in floats with one fault; the claim's own formats where this kernel has them. */
typedef struct flash_try {
  ifa_flash flash;
  int native;
} flash_try;

static int run_flash(exhibit *x, const void *how) {
  const flash_try *t = how;
  const ifa_data *d = t->native ? x->d : &x->rounded;
  ifa_run_buffers b = {0};
  ifa_status status = ifa_run_buffers_make(d, IFA_STAGES_NONE, IFA_BACKEND_POISON, &b, NULL);
  ifa_outputs out = ifa_run_buffers_outputs(&b);
  if (status == IFA_OK) status = ifa_flash_run(&t->flash, d, &out, NULL);
  if (status == IFA_OK) take_numbers(d, &b, x->tried);
  ifa_run_buffers_free(&b);
  return status == IFA_OK;
}

static int is_native(ifa_operand_format f) {
  return f.share == IFA_SHARE_NONE ? f.format != IFA_FORMAT_GIVEN
                                   : f.format == IFA_FORMAT_E4M3 && f.share == IFA_SHARE_HEAD;
}

static void try_flash(search *s) {
  static const struct {
    ifa_flash_order order;
    int tile;
  } ways[] = {
      {IFA_FLASH_TILED, 64}, {IFA_FLASH_TILED, 32}, {IFA_FLASH_TILED, 128}, {IFA_FLASH_SPLIT, 64}};
  const ifa_claim *c = s->claim;
  char text[IFA_CLAIM_TEXT + 32], what[IFA_SUSPECT_TEXT];
  flash_try t = {.native = !c->at_least && !c->k_mean && is_native(c->q) && is_native(c->k) &&
                           is_native(c->v)};
  /* words of the rounded operands; the last of a kind counts */
  snprintf(text, sizeof text, "close%s%s", strchr(c->text, ' ') ? strchr(c->text, ' ') : "",
           t.native ? "" : " kmean=0 q=f32 k=f32 v=f32");
  t.flash.claim = text;
  if (explains_all(s, run_flash, &t)) { /* without a fault */
    name_it(
        s,
        "a right kernel of floats, which gives the same: the bound is too strict here, a defect of "
        "`validate`");
    return;
  }
  for (int fault = 1; fault < IFA_FLASH_FAULT_COUNT && s->found < IFA_SUSPECTS; fault++)
    for (size_t w = 0; w < sizeof ways / sizeof ways[0]; w++) {
      t.flash.fault = (ifa_flash_fault)fault;
      t.flash.order = ways[w].order;
      t.flash.tile = ways[w].tile;
      if (!explains_all(s, run_flash, &t)) continue;
      const char *base = ifa_flash_fault_what((ifa_flash_fault)fault);
      snprintf(what, sizeof what, "%s%s", base,
               ways[w].tile == 32    ? " (tiles of 32)"
               : ways[w].tile == 128 ? " (tiles of 128)"
                                     : "");
      name_it(s, what);
      break;
    }
}

/* ---- the right values in other places ---- */

typedef struct exchange {
  const char *what;
  /* where row (b, h, i) of the output was taken from; 0: nowhere */
  int (*from)(const ifa_problem *p, int64_t *b, int64_t *h, int64_t *i);
} exchange;

static int next_row(const ifa_problem *p, int64_t *b, int64_t *h, int64_t *i) {
  return (void)b, (void)h, ++*i < p->nq;
}
static int row_before(const ifa_problem *p, int64_t *b, int64_t *h, int64_t *i) {
  return (void)p, (void)b, (void)h, --*i >= 0;
}
static int reversed(const ifa_problem *p, int64_t *b, int64_t *h, int64_t *i) {
  (void)b, (void)h;
  *i = p->nq - 1 - *i;
  return 1;
}
static int next_head(const ifa_problem *p, int64_t *b, int64_t *h, int64_t *i) {
  (void)b, (void)i;
  *h = (*h + 1) % p->q_heads;
  return 1;
}
static int first_batch(const ifa_problem *p, int64_t *b, int64_t *h, int64_t *i) {
  return (void)p, (void)h, (void)i, *b = 0, 1;
}
static int heads_and_rows(const ifa_problem *p, int64_t *b, int64_t *h, int64_t *i) {
  int64_t place = *h * p->nq + *i;
  (void)b;
  *i = place / p->q_heads;
  *h = place % p->q_heads;
  return 1;
}

static const exchange exchanges[] = {
    {"row i of the output is row i + 1", next_row},
    {"row i of the output is row i - 1", row_before},
    {"the rows are in reverse order", reversed},
    {"head h of the output is head h + 1", next_head},
    {"every batch has the output of batch 0", first_batch},
    {"the output is written as [b][i][h][d] in place of [b][h][i][d]", heads_and_rows}};

static int exchange_rows(exhibit *x, const void *how) {
  const exchange *e = how;
  const ifa_problem *p = &x->d->p;
  if (x->d->rows) return 0; /* the other rows are not known */
  memcpy(x->tried, x->right, (size_t)x->count * sizeof *x->tried);
  for (int64_t r = 0; r < x->rows; r++) {
    int64_t b = r / p->nq / p->q_heads, h = r / p->nq % p->q_heads, i = r % p->nq;
    x->unknown[r] = !e->from(p, &b, &h, &i);
    if (x->unknown[r]) continue;
    memcpy(x->tried + r * p->head_dim, x->right + ((b * p->q_heads + h) * p->nq + i) * p->head_dim,
           (size_t)p->head_dim * sizeof *x->tried);
  }
  memset(x->unknown + x->rows, 1, (size_t)x->rows); /* lse may be in its place */
  return 1;
}

static int times_factor(exhibit *x, const void *factor) {
  int64_t outputs = x->rows * x->d->p.head_dim;
  memcpy(x->tried, x->right, (size_t)x->count * sizeof *x->tried);
  for (int64_t i = 0; i < outputs; i++) x->tried[i] *= *(const double *)factor;
  return 1;
}

/* The same factor everywhere: 0 is "all zero". */
static void try_factor(search *s) {
  const exhibit *x = &s->x[0];
  double product = 0, norm = 0;
  char text[IFA_SUSPECT_TEXT];
  for (int64_t i = 0; i < x->rows * x->d->p.head_dim; i++) {
    product += x->got[i] * x->right[i];
    norm += x->right[i] * x->right[i];
  }
  double factor = norm > 0 ? product / norm : NAN;
  if (!isfinite(factor) || !explains_all(s, times_factor, &factor)) return;
  if (factor == 0) snprintf(text, sizeof text, "the output is 0 everywhere");
  else snprintf(text, sizeof text, "the output is %.6g times the right one", factor);
  name_it(s, text);
}

/* Elements that still are poison. */
static void try_unwritten(search *s) {
  int64_t unwritten = 0, all = 0;
  char text[IFA_SUSPECT_TEXT];
  for (int n = 0; n < s->count; n++) {
    const ifa_data *d = s->x[n].d;
    size_t width = ifa_type_bytes(d->p.out_type);
    uint8_t poison[4];
    memset(poison, s->x[n].got_buffers->o.poison, sizeof poison);
    for (int64_t r = 0; r < d->row_count; r++)
      for (int32_t i = 0; i < d->p.head_dim; i++)
        unwritten += memcmp(s->x[n].got_buffers->o.data + (size_t)ifa_output_index(d, r, i) * width,
                            poison, width) == 0;
    all += d->row_count * d->p.head_dim;
  }
  if (unwritten == 0) return;
  snprintf(text, sizeof text, "%lld of %lld elements of the output are not written",
           (long long)unwritten, (long long)all);
  name_it(s, text);
}

int ifa_find_suspects(const ifa_claim *claim, const ifa_evidence *evidence, int count,
                      char suspects[IFA_SUSPECTS][IFA_SUSPECT_TEXT]) {
  search s = {.claim = claim, .x = calloc((size_t)count + 1, sizeof *s.x), .suspects = suspects};
  int ok = s.x != NULL;
  for (int i = 0; i < count && ok; i++) {
    ok = make_exhibit(claim, &evidence[i], &s.x[i]);
    s.count = i + 1;
  }
  if (ok && count > 0) {
    try_unwritten(&s);
    if (s.found == 0) {
      try_factor(&s);
      if (claim->close) try_flash(&s);
      else try_mutants(&s);
      for (size_t i = 0; i < sizeof exchanges / sizeof exchanges[0]; i++)
        if (explains_all(&s, exchange_rows, &exchanges[i])) name_it(&s, exchanges[i].what);
    }
  }
  for (int i = 0; i < s.count; i++) free_exhibit(&s.x[i]);
  free(s.x);
  return s.found;
}
