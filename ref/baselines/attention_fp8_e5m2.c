/* attention_fp8_e5m2.c - the FP8 baseline that INT-FlashAttention (arXiv 2409.16997, section 4)
 * compares itself with.
 *
 *   Q', K', V' = e5m2(Q), e5m2(K), e5m2(V)                                          a plain cast,
 *     no scale
 *   per tile:  S = Q' K'^T * sm_scale,  p = exp(S - m),  P = e5m2(p)
 *              l = alpha * l + rowsum(p),  O = alpha * O + P V'                     FP8 products,
 *                binary32 sums
 *   O = e5m2(O / l)
 *
 * The paper only says FP8; its repository casts to e5m2 without a scale. That kernel descends from
 * Triton's fused attention example, which casts P to V's type, sums l before that cast, and writes
 * the output in the inputs' type. Our measurement of it on an H200 agrees (head_dim 64, sm_scale 1,
 * mean |error| / mean |reference|; "here" is this file, the two columns beside it change only what
 * they say):
 *
 *                         measured   here    P not cast, fp16 output   P cast, fp16 output
 *   normal   N 1024         0.203    0.201          0.194                    0.197
 *   normal   N 4096         0.223    0.227          0.221                    0.229
 *   uniform  N 1024         0.031    0.030          0.006                    0.007
 *   uniform  N 4096         0.056    0.017          0.003                    0.004
 *   uniform  N 16384        0.211    0.008          0.002                       -
 *
 * The output's cast shows at N 1024; the table alone cannot tell whether P is cast. The error that
 * grows with N on uniform (all positive) data is not the format's. A likely cause is the card's FP8
 * accumulator: with sums that keep 2^-13 of their largest term, simulated, the uniform rows are
 * 0.032, 0.055 and 0.211 - but the normal ones fit worse (0.164, 0.271). Sums here are binary32. */
#include "ref/baselines/tiles.h"

static float weight(float p) { return ifa_round_e5m2(p); }

static const ifa_tile_recipe recipe = {
    .q = {.group = IFA_UNSCALED, .round = ifa_round_e5m2},
    .k = {.group = IFA_UNSCALED, .round = ifa_round_e5m2},
    .v = {.group = IFA_UNSCALED, .round = ifa_round_e5m2},
    .weight = weight,
    .weight_of_one = 1.0f,
    .output = ifa_round_e5m2,
};

ifa_status ifa_attention_fp8_e5m2(const ifa_float_problem *p, const ifa_float_inputs *in,
                                  const ifa_float_outputs *out, ifa_message *message) {
  return ifa_tiles_run(&recipe, p, in, out, message);
}
