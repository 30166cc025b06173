/* half.c - computes the first half of the rows only. Caught: the rest is poison. */
#include "tests/validate/cheats/cheat.h"

static ifa_status run(const ifa_problem *p, const ifa_plugin_inputs *in, const ifa_outputs *out,
                      ifa_message *why) {
  int64_t rows[4096], count = p->batch * p->q_heads * p->nq / 2;
  ifa_plugin_inputs some = *in;
  if (in->operands.rows || count < 1 || count > 4096) return right(p, in, out, why);
  for (int64_t i = 0; i < count; i++) rows[i] = i;
  some.operands.rows = rows;
  some.operands.row_count = count;
  return right(p, &some, out, why);
}

CHEAT("half")
