/* attention_flash_fp16.c - FlashAttention-2's arithmetic: fp16 in, binary32 inside, fp16 out.
 *
 *   Q', K', V' = fp16(Q), fp16(K), fp16(V)
 *   per tile:  S = Q' K'^T * sm_scale,  p = exp(S - m),  P = fp16(p)
 *              l = alpha * l + rowsum(p),  O = alpha * O + P V'          all sums binary32; l sums
 *                p, not P
 *   O = fp16(O / l)
 *
 * Source: arXiv 2307.08691, Algorithm 1 (the loop, in tiles.c). The paper leaves the formats open;
 * they are those of the published kernel (csrc/flash_attn/src/flash_fwd_kernel.h: the row sum is
 * taken before P is converted). */
#include "ref/baselines/tiles.h"

static float weight(float p) { return ifa_round_f16(p); }

static const ifa_tile_recipe recipe = {
    .q = {.group = IFA_UNSCALED, .round = ifa_round_f16},
    .k = {.group = IFA_UNSCALED, .round = ifa_round_f16},
    .v = {.group = IFA_UNSCALED, .round = ifa_round_f16},
    .weight = weight,
    .weight_of_one = 1.0f,
    .output = ifa_round_f16,
};

ifa_status ifa_attention_flash_fp16(const ifa_float_problem *p, const ifa_float_inputs *in,
                                    const ifa_float_outputs *out, ifa_message *message) {
  return ifa_tiles_run(&recipe, p, in, out, message);
}
