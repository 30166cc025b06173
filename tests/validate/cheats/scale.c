/* scale.c - ignores part of the input: the scale of K's first token serves for all. Caught: every
 * suite has scales that differ. */
#include <stdlib.h>

#include "tests/validate/cheats/cheat.h"

static ifa_status run(const ifa_problem *p, const ifa_plugin_inputs *in, const ifa_outputs *out,
                      ifa_message *why) {
  int64_t count =
      ifa_scale_count(p->k_scale, p->batch, p->kv_heads, p->nk, p->head_dim, p->k_block);
  float *scales = malloc(((size_t)count + 1) * sizeof *scales);
  ifa_plugin_inputs other = *in;
  for (int64_t i = 0; i < count; i++) scales[i] = in->operands.k_scale[0];
  other.operands.k_scale = scales;
  ifa_status status = right(p, &other, out, why);
  free(scales);
  return status;
}

CHEAT("scale")
