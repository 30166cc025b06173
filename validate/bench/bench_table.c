/* bench_table.c - is a record's benchmark table well formed, and do its figures follow from each
 * other? */
#include "validate/bench/bench_table.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "common/message.h"

#define CEILING_LINE "# bench ceiling: "
#define CASE_LINE "# bench: "
#define COUNT_LINE "# bench lines: "
#define BAR " | "

static int begins_with(const char *line, const char *with) {
  return strncmp(line, with, strlen(with)) == 0;
}

/* Cuts the part before the next bar off `*rest` into `part`; 0 if there is none left or it does not
 * fit. */
static int next_part(const char **rest, char *part, size_t length) {
  if (!*rest) return 0;
  const char *bar = strstr(*rest, BAR);
  size_t used = bar ? (size_t)(bar - *rest) : strlen(*rest);
  if (used == 0 || used >= length) return 0;
  memcpy(part, *rest, used);
  part[used] = '\0';
  *rest = bar ? bar + strlen(BAR) : NULL;
  return 1;
}

/* The next part is a positive number and then `unit`, nothing else. */
static int next_number(const char **rest, const char *unit, double *value) {
  char part[64];
  int used = 0;
  return next_part(rest, part, sizeof part) && sscanf(part, "%lf%n", value, &used) == 1 &&
         strcmp(part + used, unit) == 0 && isfinite(*value) && *value > 0;
}

/* 4 B H Nq Nk D, half of it when causal: what TOPS count. */
static double operations_of(const ifa_problem *p) {
  return 4.0 * (double)p->batch * (double)p->q_heads * (double)p->nq * (double)p->nk *
         (double)p->head_dim / (p->causal ? 2 : 1);
}

/* a = b but for the rounding of what was printed: half a unit in the last place of each figure. */
static int follows(double a, double b, double relative) {
  return fabs(a - b) <= b * (relative + 1e-6);
}

static ifa_status check_case(const ifa_bench_table *table, const char *line, ifa_message *message) {
  const char *rest = line + strlen(CASE_LINE);
  char what[64], problem[512];
  double ms, tops, percent, bandwidth, share;
  ifa_problem p = ifa_problem_default();
  ifa_message why = {""};
  if (!next_part(&rest, what, sizeof what) || !next_part(&rest, problem, sizeof problem) ||
      !next_number(&rest, " ms", &ms) || !next_number(&rest, " TOPS", &tops) ||
      !next_number(&rest, "% of the ceiling", &percent) ||
      !next_number(&rest, " GB/s", &bandwidth) ||
      (rest && !next_number(&rest, "% of the kernel", &share)) || rest)
    return ifa_fail(message, IFA_BAD_FILE, "malformed: %.200s", line);
  if (ifa_problem_parse(problem, &p, &why) != IFA_OK || ifa_problem_check(&p, &why) != IFA_OK)
    return ifa_fail(message, IFA_BAD_FILE, "%.120s: %.160s", problem, why.text);
  if (table->ceiling == 0)
    return ifa_fail(message, IFA_BAD_FILE, "no ceiling before: %.200s", line);
  double rounding = 0.05 / tops;
  if (!follows(tops, operations_of(&p) / ms * 1e-9, rounding + 0.00005 / ms))
    return ifa_fail(message, IFA_BAD_FILE, "%g ms do not make %g TOPS of %.200s", ms, tops,
                    problem);
  if (!follows(percent, 100 * tops / table->ceiling,
               rounding + 0.05 / table->ceiling + 0.005 / percent))
    return ifa_fail(message, IFA_BAD_FILE, "%g TOPS are not %g%% of %g: %.160s", tops, percent,
                    table->ceiling, problem);
  return IFA_OK;
}

ifa_status ifa_bench_table_line(ifa_bench_table *table, const char *line, ifa_message *message) {
  int end = 0;
  if (begins_with(line, CEILING_LINE)) {
    double copies;
    if (table->ceiling != 0 ||
        sscanf(line, CEILING_LINE "%lf TOPS of mma.sync u8*s8, %lf GB/s of copies within memory%n",
               &table->ceiling, &copies, &end) != 2 ||
        line[end] != '\0' || end == 0 || !isfinite(table->ceiling) || table->ceiling <= 0 ||
        !isfinite(copies) || copies <= 0)
      return ifa_fail(message, IFA_BAD_FILE, "malformed, or a second ceiling: %.200s", line);
  } else if (begins_with(line, COUNT_LINE)) {
    int lines;
    if (table->announced != 0 || sscanf(line, COUNT_LINE "%d%n", &lines, &end) != 1 ||
        line[end] != '\0' || lines < 0)
      return ifa_fail(message, IFA_BAD_FILE, "malformed, or a second count: %.200s", line);
    table->announced = lines ? lines : -1;
  } else if (begins_with(line, CASE_LINE)) {
    table->lines++;
    return check_case(table, line, message);
  }
  return IFA_OK;
}

ifa_status ifa_bench_table_end(const ifa_bench_table *table, ifa_message *message) {
  if (table->lines == 0 && table->announced == 0 && table->ceiling == 0) return IFA_OK;
  if (table->lines > 0 && table->lines == table->announced) return IFA_OK;
  return ifa_fail(message, IFA_BAD_FILE, "the benchmark table has %d lines; its last one says %d",
                  table->lines, table->announced > 0 ? table->announced : 0);
}
