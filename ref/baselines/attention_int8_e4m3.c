/* attention_int8_e4m3.c - SageAttention2's recipe with INT8 scores: smoothed K, INT8 Q and K, e4m3
 * weights and values.
 *
 *   K~ = K - mean over the keys, per channel       adds a constant to all scores of a row: the
 *                                                  softmax does not notice
 *   S_Q = max_c |Q| / 127 per token, S_K of K~ likewise;   Q', K' = round(Q / S_Q), round(K~ / S_K)
 *   s_V = max_j |V| / 448 per channel;                     V' = e4m3(V / s_V)
 *   per tile:  S = diag(S_Q) (Q' K'^T) diag(S_K) * sm_scale                         an INT8
 *     product, exact sums
 *              p = exp(S - m),  P = e4m3(448 p)
 *              l = alpha * l + rowsum(p),  O = alpha * O + P V'                     FP8 product,
 *                binary32 sums
 *   O = O * s_V / (448 l)
 *
 * Source: arXiv 2411.10958, section 3 and Algorithm 1; its two-level accumulation is the loop of
 * tiles.c, where a tile has sums of its own. Departures, all in favour of SageAttention2: a scale
 * per token where the kernel shares one among the tokens that a thread holds; sums of 24 bits where
 * the tensor core's FP8 sums keep fewer; a result that is not rounded to fp16. Q's mean is removed
 * only in the INT4 variant. lse is that of the original K. */
#include "ref/baselines/tiles.h"

static float weight(float p) { return ifa_round_e4m3(448.0f * p); }

static const ifa_tile_recipe recipe = {
    .q = {.group = IFA_PER_TOKEN, .largest = 127.0f, .round = ifa_round_int8},
    .k = {.group = IFA_PER_TOKEN, .largest = 127.0f, .round = ifa_round_int8},
    .v = {.group = IFA_PER_CHANNEL, .largest = 448.0f, .round = ifa_round_e4m3},
    .k_minus_mean = 1,
    .weight = weight,
    .weight_of_one = 448.0f,
};

ifa_status ifa_attention_int8_e4m3(const ifa_float_problem *p, const ifa_float_inputs *in,
                                   const ifa_float_outputs *out, ifa_message *message) {
  return ifa_tiles_run(&recipe, p, in, out, message);
}
