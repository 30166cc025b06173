/* attention_fp8_e4m3.c - FlashAttention-3's FP8 forward: e4m3 operands with one scale per head
 * matrix.
 *
 *   s_Q = max |Q| / 448 over the head's matrix, s_K, s_V likewise;   Q', K', V' = e4m3(Q / s_Q),
 *     e4m3(K / s_K), e4m3(V / s_V)
 *   per tile:  S = Q' K'^T * s_Q s_K * sm_scale                                     FP8 product,
 *     binary32 sums
 *              p = exp(S - m),  P = e4m3(256 p)
 *              l = alpha * l + rowsum(p),  O = alpha * O + P V'                     FP8 product,
 *                binary32 sums
 *   O = O * s_V / (256 l)
 *
 * Source: arXiv 2407.08608, section 3.3 (without its optional incoherent processing). The factor
 * 256 is the published kernel's (hopper/softmax.h, Max_offset 8): e4m3 rounds 2^-10 and less to 0,
 * so with it weights down to 2^-18 of the largest survive. The row sum is taken before P is
 * converted. Not modelled: the tensor core's FP8 products accumulate in fewer than 24 bits, and the
 * kernel stores bf16; the result here is binary32, so that the figure is the recipe's, not the
 * store's. */
#include "ref/baselines/tiles.h"

static float weight(float p) { return ifa_round_e4m3(256.0f * p); }

static const ifa_tile_recipe recipe = {
    .q = {.group = IFA_PER_HEAD, .largest = 448.0f, .round = ifa_round_e4m3},
    .k = {.group = IFA_PER_HEAD, .largest = 448.0f, .round = ifa_round_e4m3},
    .v = {.group = IFA_PER_HEAD, .largest = 448.0f, .round = ifa_round_e4m3},
    .weight = weight,
    .weight_of_one = 256.0f,
};

ifa_status ifa_attention_fp8_e4m3(const ifa_float_problem *p, const ifa_float_inputs *in,
                                  const ifa_float_outputs *out, ifa_message *message) {
  return ifa_tiles_run(&recipe, p, in, out, message);
}
