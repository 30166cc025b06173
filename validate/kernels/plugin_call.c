/* plugin_call.c - a kernel in this process: a function that the harness's caller brings (for a
 * Python callable). Nothing stops one that crashes or hangs: docs/validate.md, section 11. */
#include "common/clock.h"
#include "validate/kernels/plugin.h"

ifa_status ifa_kernel_open_call(ifa_kernel *k, const char *name, const char *claim, ifa_call *call,
                                void *context, ifa_message *message) {
  *k = (ifa_kernel){
      .kind = IFA_KERNEL_CALL, .text = name, .memory = -1, .call = call, .context = context};
  ifa_kernel_set_name(k, name);
  return ifa_claim_parse(claim, &k->claim, message);
}

ifa_verdict ifa_call_run(ifa_kernel *k, const ifa_data *d, ifa_run_buffers *buffers,
                         double *seconds, ifa_message *message) {
  ifa_called_case c = {.problem = d->p,
                       .inputs = {.operands = ifa_data_inputs(d), .q = d->q, .k = d->k, .v = d->v},
                       .outputs = ifa_run_buffers_outputs(buffers),
                       .o_bytes = (int64_t)buffers->o.bytes,
                       .lse_bytes = buffers->lse.block ? (int64_t)buffers->lse.bytes : 0,
                       .guard_bytes = IFA_GUARD_BYTES};
  double start = ifa_now();
  ifa_verdict verdict = k->call(k->context, &c, message);
  *seconds = ifa_now() - start;
  return verdict;
}
