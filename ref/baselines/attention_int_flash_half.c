/* attention_int_flash_half.c - INT-FlashAttention's half-INT8 variant, arXiv 2409.16997, section 4:
 * INT8 scores, fp16 values.
 *
 *   S_Q = max_c |Q| / 127 per token,  S_K likewise;  Q', K' = round(Q / S_Q), round(K / S_K);  V' =
 *     fp16(V)
 *   per tile:  S = diag(S_Q) (Q' K'^T) diag(S_K) * sm_scale                         an INT8
 *     product, exact sums
 *              p = exp(S - m),  P = fp16(p)
 *              l = alpha * l + rowsum(p),  O = alpha * O + P V'                     fp16 product,
 *                binary32 sums
 *   O = fp16(O / l)
 *
 * The paper names the variant and measures it without an algorithm of its own; which sum l is and
 * the output format are the published code's. */
#include "ref/baselines/tiles.h"

static float weight(float p) { return ifa_round_f16(p); }

static const ifa_tile_recipe recipe = {
    .q = {.group = IFA_PER_TOKEN, .largest = 127.0f, .round = ifa_round_int8},
    .k = {.group = IFA_PER_TOKEN, .largest = 127.0f, .round = ifa_round_int8},
    .v = {.group = IFA_UNSCALED, .round = ifa_round_f16},
    .weight = weight,
    .weight_of_one = 1.0f,
    .output = ifa_round_f16,
};

ifa_status ifa_attention_int_flash_half(const ifa_float_problem *p, const ifa_float_inputs *in,
                                        const ifa_float_outputs *out, ifa_message *message) {
  return ifa_tiles_run(&recipe, p, in, out, message);
}
