/* cheat.h - what the plug-ins of this folder share: a right kernel, which each of them spoils in
 * its own dishonest way. */
#ifndef IFA_TESTS_CHEAT_H
#define IFA_TESTS_CHEAT_H

#include <string.h>

#include "ifa_plugin.h"

static inline ifa_status right(const ifa_problem *p, const ifa_plugin_inputs *in,
                               const ifa_outputs *out, ifa_message *why) {
  return ifa_run("scalar", p, &in->operands, out, why);
}

/* Bytes of a dense output. */
static inline size_t output_bytes(const ifa_problem *p) {
  return (size_t)(p->batch * p->q_heads * p->nq * p->head_dim) * (p->out_type == IFA_F32 ? 4 : 2);
}

#define CHEAT(text)                                                   \
  static const ifa_plugin plugin = {.abi = IFA_PLUGIN_ABI,            \
                                    .contract = IFA_CONTRACT_VERSION, \
                                    .name = text,                     \
                                    .claim = "exact",                 \
                                    .run = run};                      \
  const ifa_plugin *ifa_plugin_get(void) { return &plugin; }

#endif
