/* ifa_plugin.h - how a kernel in a shared library is plugged into `validate run --plugin
 * ./libmine.so`.
 *
 *     #include "ifa_plugin.h"
 *
 *     static ifa_status run(const ifa_problem *p, const ifa_plugin_inputs *in, const ifa_outputs
 *       *out, ifa_message *why) { ... }
 *
 *     static const ifa_plugin mine = {.abi = IFA_PLUGIN_ABI, .contract = IFA_CONTRACT_VERSION,
 *       .name = "mine", .claim = "exact", .run = run};
 *
 *     const ifa_plugin *ifa_plugin_get(void) { return &mine; }
 *
 *     cc -shared -fPIC -I include mine.c -o libmine.so && validate run --plugin ./libmine.so
 *
 * The library is loaded into a process of its own, which `validate` starts, watches and starts anew
 * if it dies. Nothing of this project needs to be linked; this header and ifa.h (for its types) are
 * all. What `validate` checks, and how: docs/validate.md. */
#ifndef IFA_PLUGIN_H
#define IFA_PLUGIN_H

#include "ifa.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Grows when something below changes its meaning or its place. A library made for another version
 * is refused. */
#define IFA_PLUGIN_ABI 1

/* One problem's data, in two forms: the quantized operands, and the floats that they were made
 * from. Read only: a kernel that changes them has failed. Pointers are to host memory and valid
 * during the call. */
typedef struct ifa_plugin_inputs {
  ifa_inputs operands; /* by the problem's strides, scales and rows: as ifa_run gets them */
  const float *q;      /* dense [batch][q_heads][nq][head_dim], finite */
  const float *k, *v;  /* dense [batch][kv_heads][nk][head_dim] */
} ifa_plugin_inputs;

typedef struct ifa_plugin {
  uint32_t abi;      /* IFA_PLUGIN_ABI */
  uint32_t contract; /* IFA_CONTRACT_VERSION: whose bits an exact kernel gives */
  const char *name;  /* in reports; printable ASCII without blanks, at most 47 bytes */

  /* What the kernel promises. "exact": the contract's bits, compared with memcmp. "close" and what
   * it rounds, e.g.
   *   "close q=f16 k=f16 v=f16 p=f16 o=f16"            FlashAttention in fp16
   *   "close q=int8/token k=int8/token v=int8/head p=int8"   INT-FlashAttention
   * compared with binary64 attention on the operands so rounded, within a bound for each row. The
   * words: docs/validate.md, section 11. */
  const char *claim;

  /* Can it do this problem? IFA_OK; IFA_UNSUPPORTED, and the message says which field;
   * IFA_NOT_AVAILABLE (no such device). Such cases are counted as what they are. Strides and
   * kv_split are written out. NULL: every problem. */
  ifa_status (*supports)(const ifa_problem *problem, ifa_message *why);

  /* Computes the problem, which is valid. Writes the rows that operands.rows chooses (NULL: all) of
   * outputs->o, by o_stride, and of outputs->lse if problem.lse is 1, and nothing else; returns
   * when all of it has been written (a GPU's stream has been waited for). outputs->stages is not
   * NULL when `validate` looks for the first stage that differs: record them, or some, or return
   * IFA_UNSUPPORTED; what is not written counts as not shown. Anything but IFA_OK, with one line in
   * *why, is a failed case, except the two answers of `supports`. */
  ifa_status (*run)(const ifa_problem *problem, const ifa_plugin_inputs *inputs,
                    const ifa_outputs *outputs, ifa_message *why);
} ifa_plugin;

/* The one symbol that the library exports. The result lives as long as the library is loaded; NULL
 * is refused. */
const ifa_plugin *ifa_plugin_get(void);

#ifdef __cplusplus
}
#endif
#endif
