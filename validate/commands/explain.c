/* explain.c - `validate explain`: what a case amounts to. */
#include <argp.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/problem.h"
#include "validate/commands/commands.h"
#include "validate/cases/data.h"
#include "validate/cases/suite.h"

enum { LINE_LENGTH = IFA_CASE_LINE };

/* Pairs (query, key) of one head that are computed. */
static double live_pairs(const ifa_problem *p) {
  double pairs = 0;
  for (int64_t i = 0; i < p->nq; i++) pairs += (double)ifa_live_count(p, i);
  return pairs;
}

static void print_bytes(const char *name, double bytes) {
  printf("  %-22s %14.0f bytes  (%.2f MiB)\n", name, bytes, bytes / 1048576.0);
}

/* The case with the sizes of its input file, if it has one. */
static ifa_status settle_sizes(ifa_case *c, ifa_message *message) {
  ifa_data data;
  if (!c->input[0]) return ifa_problem_check(&c->problem, message);
  ifa_status status = ifa_data_make(c, &data, message);
  *c = data.c;
  ifa_data_free(&data);
  return status;
}

static ifa_status explain(const ifa_case *given, void *context, ifa_message *message) {
  char text[IFA_CASE_TEXT];
  ifa_case settled = *given, *c = &settled;
  (void)context;
  ifa_status status = settle_sizes(c, message);
  if (status != IFA_OK) return status;
  ifa_problem p = ifa_problem_resolved(&c->problem);
  double bh = (double)p.batch * (double)p.q_heads, pairs = live_pairs(&p) * bh,
         all = bh * (double)p.nq * (double)p.nk;
  int64_t tiles = ifa_ceil_div(p.nk, p.kv_tile), splits = ifa_ceil_div(p.nk, p.kv_split);
  ifa_case_print(c, text);
  printf("%s\n", text);
  printf("  rows                   %14.0f  (batch %" PRId64 " x query heads %" PRId64 " x %" PRId64
         "; each key/value head serves %" PRId64 ")\n",
         bh * (double)p.nq, p.batch, p.q_heads, p.nq, p.q_heads / p.kv_heads);
  printf("  key tiles              %14" PRId64 "  of %d tokens, in %" PRId64
         " split%s of at most %" PRId64 "\n",
         tiles, (int)p.kv_tile, splits, splits == 1 ? "" : "s", p.kv_split);
  printf("  live (query, key)      %14.0f  of %.0f (%.1f%%)\n", pairs, all,
         all > 0 ? 100.0 * pairs / all : 100.0);
  print_bytes("Q",
              (double)ifa_extent_bytes(p.q_type, p.q_stride, p.batch, p.q_heads, p.nq, p.head_dim));
  print_bytes(
      "K", (double)ifa_extent_bytes(p.k_type, p.k_stride, p.batch, p.kv_heads, p.nk, p.head_dim));
  print_bytes(
      "V", (double)ifa_extent_bytes(p.v_type, p.v_stride, p.batch, p.kv_heads, p.nk, p.head_dim));
  print_bytes(
      "scales",
      4.0 *
          (double)(ifa_scale_count(p.q_scale, p.batch, p.q_heads, p.nq, p.head_dim, p.q_block) +
                   ifa_scale_count(p.k_scale, p.batch, p.kv_heads, p.nk, p.head_dim, p.k_block) +
                   ifa_scale_count(p.v_scale, p.batch, p.kv_heads, p.nk, p.head_dim, 1) +
                   (p.v_scale == IFA_SCALE_TOKEN_CHANNEL ? p.batch * p.kv_heads * p.head_dim : 0)));
  print_bytes("output", (double)ifa_extent_bytes(p.out_type, p.o_stride, p.batch, p.q_heads, p.nq,
                                                 p.head_dim));
  printf("  integer operations     %14.4g  (4 * head_dim a live pair: two products, each a "
         "multiply and an add)\n",
         4.0 * p.head_dim * pairs);
  printf("  weights                %14.4g  (one evaluation of the weight function a live pair)\n",
         pairs);
  for (int i = 0; i < ifa_backend_count(); i++) {
    ifa_message why;
    ifa_status answer = ifa_backend_supports(ifa_backend_name(i), &p, &why);
    printf("  %-22s %s%s%s\n", ifa_backend_name(i),
           answer == IFA_OK ? "supported" : ifa_status_name(answer), answer == IFA_OK ? "" : ": ",
           answer == IFA_OK ? "" : why.text);
  }
  return IFA_OK;
}

/* The words of the case, as one argument or as several. */
static error_t parse(int key, char *value, struct argp_state *state) {
  char *line = state->input;
  if (key != 'c' && key != ARGP_KEY_ARG) return ARGP_ERR_UNKNOWN;
  if (strlen(line) + strlen(value) + 2 > LINE_LENGTH) refuse(state, "the case is too long");
  strcat(strcat(line, value), " ");
  return 0;
}

static const struct argp_option option_list[] = {
    {"case", 'c', "\"K=V ...\"", 0, "the case; its words may also follow without the option", 0},
    {0}};

static const struct argp parser = {
    option_list,
    parse,
    "[K=V ...]",
    "Prints what a case amounts to, without running it: its rows, tiles, live pairs, memory and "
    "operation counts, and which backends support it. "
    "Lists multiply.",
    NULL,
    NULL,
    NULL};

int cmd_explain(int argc, char **argv) {
  char line[LINE_LENGTH] = "";
  ifa_case base = ifa_case_default();
  ifa_message why;
  if (argp_parse(&parser, argc, argv, 0, NULL, line) != 0) return EXIT_BAD_USAGE;
  if (line[0] == '\0')
    return complain("explain", "a case is needed: validate explain \"nq=128 nk=1000 d=128\"");
  if (ifa_case_expand(line, &base, explain, NULL, &why) != IFA_OK)
    return complain("explain", "%s", why.text);
  return EXIT_AGREE;
}
