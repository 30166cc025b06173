/* attention_int_flash_full.c - INT-FlashAttention, arXiv 2409.16997, Algorithm 1: every matrix
 * operand in INT8.
 *
 *   S_Q = max_c |Q| / 127 per token,  S_K likewise,  S_V = max |V| / 127 over the head's whole
 *     matrix
 *   Q', K', V' = round(Q / S_Q), round(K / S_K), round(V / S_V)                     integers -127
 *     .. 127
 *   per tile:  S = diag(S_Q) (Q' K'^T) diag(S_K)                                    an INT8
 *     product, exact sums
 *              m_new = max(m, rowmax S),  alpha = exp(m - m_new)
 *              P = round(127 * exp(S - m_new))                                      integers 0 ..
 *                127
 *              l = alpha * l + rowsum(P)                                            the quantized
 *                weights are summed
 *              O = alpha * O + P V'                                                 an INT8
 *                product, exact sums
 *   O = diag(l)^-1 O * S_V                          the factor 127 is in l and in O, so it needs no
 *                                                   division
 *
 * One addition: S is multiplied by sm_scale, which the paper takes as 1.
 *
 * Where the published code (github.com/INT-FlashAttention2024, flash_atten_full_int8.py) departs
 * from the paper:
 *   P = trunc(fp16(p) * 127 + 0.5), in fp16;   l sums p before it is quantized;   O gathers P V' *
 *     S_V / 127, so weights
 *   that round down are missing from O but not from l: a bias towards 0 that the paper's l does not
 *     have.
 *   exp2 with log2(e) folded into the scale;   a masked score gets -1e6 instead of no weight.
 * What that costs, mean |error| / mean |reference|, head_dim 64, sm_scale 1: uniform [0,1) inputs,
 * N 1024 and 4096: this file 0.0009 and 0.0008, this file with the code's P and l 0.0034 and
 * 0.0103, the code on an H200 0.0031 and 0.0095. Normal inputs: 0.026 and 0.028 here, 0.025 and
 * 0.027 for both of the others. The output is fp16, as the code stores it. */
#include <math.h>

#include "ref/baselines/tiles.h"

static float weight(float p) { return rintf(127.0f * p); }

static const ifa_tile_recipe recipe = {
    .q = {.group = IFA_PER_TOKEN, .largest = 127.0f, .round = ifa_round_int8},
    .k = {.group = IFA_PER_TOKEN, .largest = 127.0f, .round = ifa_round_int8},
    .v = {.group = IFA_PER_HEAD, .largest = 127.0f, .round = ifa_round_int8},
    .weight = weight,
    .weight_of_one = 127.0f,
    .l_sums_weights = 1,
    .output = ifa_round_f16,
};

ifa_status ifa_attention_int_flash_full(const ifa_float_problem *p, const ifa_float_inputs *in,
                                        const ifa_float_outputs *out, ifa_message *message) {
  return ifa_tiles_run(&recipe, p, in, out, message);
}
