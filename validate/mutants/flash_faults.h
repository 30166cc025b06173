/* flash_faults.h - mistakes of attention in floats: one each, of a kind that real FlashAttention
 * kernels have had. docs/validate.md, section 10.
 *
 *     F(name, part, what is wrong, f16, fp8)
 *
 * f16 and fp8: of the kernel with that claim, SEEN (the suites must kill it), ABSENT (it has no
 * such place), or why no bound can see it: it is smaller than the rounding that the claim allows.
 * A name is used as FAULT(name) in validate/mutants/flash.c, and printed with '-' for '_' and the
 * claim before it. A fault never reads or writes outside the arrays. */
#ifndef IFA_VALIDATE_MUTANTS_FLASH_FAULTS_H
#define IFA_VALIDATE_MUTANTS_FLASH_FAULTS_H

#define IFA_FLASH_FAULTS(F)                                                                        \
  /* ---- operands, heads, addresses ---- */                                                       \
  F(gqa_modulo, "operands", "query head h reads key/value head h % Hkv", SEEN, SEEN)               \
  F(gqa_first_head, "operands", "all query heads read key/value head 0", SEEN, SEEN)               \
  F(gqa_divides_by_kv_heads, "operands", "query head h reads key/value head h / Hkv", SEEN, SEEN)  \
  F(k_batch_ignored, "operands", "K of batch 0 for every batch", SEEN, SEEN)                       \
  F(v_batch_ignored, "operands", "V of batch 0 for every batch", SEEN, SEEN)                       \
  F(v_head_of_next, "operands", "V of the next key/value head", SEEN, SEEN)                        \
  F(q_last_row_clamped, "operands",                                                                \
    "rows are clamped at nq - 2: the last row reads the query before it", SEEN, SEEN)              \
  F(dim_tail_dropped, "operands",                                                                  \
    "head_dim beyond its last multiple of 16 has no part in the scores", SEEN, SEEN)               \
  F(dim_last_dropped, "operands", "the scores' loop ends one element early", SEEN, SEEN)           \
  F(dim_above_128_repeats, "operands", "elements 128.. of V are read from 0..", SEEN, SEEN)        \
  F(k_tile_stale, "operands",                                                                      \
    "the last 8 keys of a tile are those of the tile before: read before their copy has arrived",  \
    SEEN, SEEN)                                                                                    \
  F(v_tile_stale, "operands", "the same for V: a missing barrier", SEEN, SEEN)                     \
  F(v_keys_permuted, "operands",                                                                   \
    "keys 8..15 and 16..23 of a group of 32 are exchanged between weights and V: a wrong "         \
    "fragment map",                                                                                \
    SEEN, SEEN)                                                                                    \
  F(v_columns_swapped, "operands", "columns 2t and 2t+1 of V are exchanged: a wrong fragment map", \
    SEEN, SEEN)                                                                                    \
  F(v_transposed_tile, "operands",                                                                 \
    "V of a whole tile of 64 keys is read transposed where head_dim is 64", SEEN, SEEN)            \
  F(q_operand_bf16, "operands", "Q is converted to bfloat16", SEEN, ABSENT)                        \
  F(operands_truncated, "operands", "operands are rounded towards 0", SEEN, SEEN)                  \
  F(v_truncated, "operands", "V is rounded towards 0", SEEN, SEEN)                                 \
  F(operand_subnormals_flushed, "operands",                                                        \
    "subnormal numbers of an operand's format are read as 0", SEEN, SEEN)                          \
  /* ---- masks, tiles, splits ---- */                                                             \
  F(causal_strict, "mask", "causal: j < pos", SEEN, SEEN)                                          \
  F(causal_one_more, "mask", "causal: j <= pos + 1", SEEN, SEEN)                                   \
  F(causal_top_left, "mask", "positions are aligned at the top left: pos = i", SEEN, SEEN)         \
  F(causal_ignored, "mask", "causal is not looked at", SEEN, SEEN)                                 \
  F(causal_whole_tile, "mask", "causal: the tile on the diagonal is not masked inside", SEEN,      \
    SEEN)                                                                                          \
  F(causal_tile_count, "mask",                                                                     \
    "causal: pos / tile tiles: the one that pos has just entered is left out", SEEN, SEEN)         \
  F(causal_of_row_block, "mask", "causal: 16 rows share the mask of their last one", SEEN, SEEN)   \
  F(causal_two_passes, "mask",                                                                     \
    "causal: the tile on the diagonal begins with a maximum of -infinity: what was gathered is "   \
    "erased",                                                                                      \
    SEEN, SEEN)                                                                                    \
  F(window_left_one_more, "mask", "window: j >= pos - w", SEEN, SEEN)                              \
  F(window_left_one_less, "mask", "window: j > pos - w + 1", SEEN, SEEN)                           \
  F(window_right_one_more, "mask", "window: j <= pos + w", SEEN, SEEN)                             \
  F(window_right_ignored, "mask", "window: keys to the right are not cut off when not causal",     \
    SEEN, SEEN)                                                                                    \
  F(window_ignored_if_causal, "mask", "window and causal: only causal is applied", SEEN, SEEN)     \
  F(window_first_tile_whole, "mask", "window: the first tile is not masked at its left", SEEN,     \
    SEEN)                                                                                          \
  F(last_tile_dropped, "mask", "a last tile that is not full is left out", SEEN, SEEN)             \
  F(last_key_dropped, "mask", "the last key is left out", SEEN, SEEN)                              \
  F(first_key_dropped, "mask", "key 0 is left out", SEEN, SEEN)                                    \
  F(padding_keys_live, "mask", "a last tile that is not full is filled up with keys of score 0",   \
    SEEN, SEEN)                                                                                    \
  F(masked_score_zero, "mask", "a masked score is 0", SEEN, SEEN)                                  \
  F(masked_score_finite, "mask",                                                                   \
    "a masked score is -10000: a row without keys is the mean of those it must not see", SEEN,     \
    SEEN)                                                                                          \
  F(empty_row_nan, "mask", "a row without keys is 0/0", SEEN, SEEN)                                \
  F(last_split_dropped, "mask", "a last split that is not full is left out", SEEN, SEEN)           \
  /* ---- scores ---- */                                                                           \
  F(sm_scale_missing, "scores", "scores are not scaled", SEEN, SEEN)                               \
  F(sm_scale_ignored, "scores", "sm_scale is taken to be 1/sqrt(head_dim)", SEEN, SEEN)            \
  F(sm_scale_of_padded_dim, "scores", "the scale is multiplied by sqrt(D / D rounded up to 16)",   \
    SEEN, SEEN)                                                                                    \
  F(sm_scale_twice, "scores", "Q is scaled, and the scores again", SEEN, SEEN)                     \
  F(log2e_missing, "scores", "weights are powers of two: no factor log2(e)", SEEN, SEEN)           \
  F(log2e_twice, "scores", "exp of scores that log2(e) is in already", SEEN, SEEN)                 \
  F(log2e_three_digits, "scores", "log2(e) is 1.44", SEEN, SEEN)                                   \
  F(scores_f16, "scores", "scores are kept in fp16", SEEN, SEEN)                                   \
  F(scores_bf16, "scores", "scores are kept in bfloat16", SEEN, SEEN)                              \
  F(scores_sum_f16, "scores", "products of Q and K are summed in fp16", SEEN, SEEN)                \
  /* ---- softmax ---- */                                                                          \
  F(max_not_subtracted, "softmax", "the maximum is not subtracted", SEEN, SEEN)                    \
  F(max_of_first_tile, "softmax", "the maximum stays that of the first tile", SEEN, SEEN)          \
  F(max_at_least_zero, "softmax", "the maximum begins at 0", SEEN, SEEN)                           \
  F(max_of_half_tile, "softmax", "the maximum is taken over half of a tile's keys", SEEN, SEEN)    \
  F(max_of_row_block, "softmax", "16 rows have one maximum, over masked keys too: weights vanish", \
    SEEN, SEEN)                                                                                    \
  F(rescale_l_missing, "softmax", "l is not rescaled when the maximum rises", SEEN, SEEN)          \
  F(rescale_o_missing, "softmax", "the output is not rescaled when the maximum rises", SEEN, SEEN) \
  F(rescale_inverse, "softmax", "rescaled by exp(m_new - m_old)", SEEN, SEEN)                      \
  F(rescale_l_twice, "softmax", "l is rescaled twice", SEEN, SEEN)                                 \
  F(rescale_late, "softmax", "the output is rescaled after the tile was added", SEEN, SEEN)        \
  F(rescale_skipped, "softmax",                                                                    \
    "not rescaled when the maximum rises by less than 8, but the new maximum is used", SEEN, SEEN) \
  F(rescale_without_log2e, "softmax", "the rescaling factor is 2^(m_old - m_new)", SEEN, SEEN)     \
  F(row_state_kept, "softmax", "the output begins with what the row before left", SEEN, SEEN)      \
  F(l_begins_at_one, "softmax", "l begins at 1", SEEN, SEEN)                                       \
  F(l_of_last_tile, "softmax", "l is that of the last tile", SEEN, SEEN)                           \
  F(l_of_masked_keys, "softmax", "masked keys are in l", SEEN, SEEN)                               \
  F(l_of_half_tile, "softmax", "the second half of a tile is not in l", SEEN, SEEN)                \
  F(l_f16, "softmax", "l is summed in fp16", SEEN, "2^-11 a step of l, weights of e4m3: 2^-4")     \
  F(exp_parabola, "softmax", "2^x by a parabola: 0.3% off", SEEN,                                  \
    "half a step of e4m3 is 6%, and part of the error cancels in the division by l")               \
  F(small_weights_zero, "softmax", "weights below 2^-10 are 0", SEEN, "in e4m3 they are")          \
  F(p_truncated, "softmax", "weights are rounded towards 0", SEEN, SEEN)                           \
  F(p_bf16, "softmax", "weights are rounded to bfloat16", SEEN, ABSENT)                            \
  F(p_e4m3, "softmax", "weights are rounded to e4m3", SEEN, ABSENT)                                \
  F(p_e5m2, "softmax", "weights are rounded to e5m2", SEEN, SEEN)                                  \
  F(acc_f16, "softmax", "the output is summed in fp16", SEEN, SEEN)                                \
  F(acc_bf16, "softmax", "the output is summed in bfloat16", SEEN, SEEN)                           \
  /* ---- output ---- */                                                                           \
  F(not_divided, "output", "the output is not divided by l", SEEN, SEEN)                           \
  F(divided_early, "output", "the output is divided by l after each tile", SEEN, SEEN)             \
  F(l_epsilon, "output", "l + 1e-6 divides the output",                                            \
    "l is at least 1: 10^-6, and the output's rounding is 5 * 10^-4",                              \
    "l is at least 1: 10^-6, and a weight's rounding is 6%")                                       \
  F(reciprocal_8_bits, "output", "1 / l has 8 bits", SEEN,                                         \
    "2^-8 of the output; weights and V of e4m3 are rounded by 2^-4")                               \
  F(output_bf16, "output", "the output is rounded to bfloat16 first", SEEN,                        \
    "2^-8 of the output; weights and V of e4m3 are rounded by 2^-4")                               \
  F(output_e4m3, "output", "the output is rounded to e4m3", SEEN, SEEN)                            \
  F(output_tail_not_written, "output", "elements beyond a multiple of 8 are not written", SEEN,    \
    SEEN)                                                                                          \
  F(rows_swapped, "output", "rows 8..15 of a block of 16 are exchanged with 0..7", SEEN, SEEN)     \
  F(merge_mean, "output", "splits are merged as if all had the same l", SEEN, SEEN)                \
  F(merge_without_max, "output", "splits are merged by their l, not by exp(m) l", SEEN, SEEN)      \
  F(lse_base_two, "output", "lse is a logarithm to base 2", SEEN, SEEN)                            \
  F(lse_sum_base_two, "output", "lse adds log2(l) to a natural maximum", SEEN, SEEN)               \
  F(lse_without_max, "output", "lse is log(l)", SEEN, SEEN)                                        \
  F(lse_max_twice, "output", "lse has the maximum twice: it was not subtracted", SEEN, SEEN)       \
  F(lse_without_log, "output", "lse is the maximum", SEEN, SEEN)                                   \
  F(lse_max_not_scaled, "output", "lse is q.k + log(l): the maximum is not scaled", SEEN, SEEN)    \
  F(lse_of_empty_row, "output", "lse of a row without keys is 0", SEEN, SEEN)                      \
  /* ---- FP8 ---- */                                                                              \
  F(q_scale_missing, "fp8", "the scale of Q is not applied", ABSENT, SEEN)                         \
  F(k_scale_missing, "fp8", "the scale of K is not applied", ABSENT, SEEN)                         \
  F(v_scale_missing, "fp8", "the scale of V is not applied", ABSENT, SEEN)                         \
  F(q_scale_of_k, "fp8", "Q has the scale of K", ABSENT, SEEN)                                     \
  F(v_scale_of_k, "fp8", "V has the scale of K", ABSENT, SEEN)                                     \
  F(k_scale_of_head_0, "fp8", "K has the scale of head 0", ABSENT, SEEN)                           \
  F(v_scale_of_query_head, "fp8", "V's scale is read by the number of the query head", ABSENT,     \
    SEEN)                                                                                          \
  F(scale_of_240, "fp8", "quantized for a largest number of 240, read for 448", ABSENT, SEEN)      \
  F(v_bias_of_8, "fp8", "V is read with an exponent's bias of 8: e4m3fnuz", ABSENT, SEEN)          \
  F(q_e5m2, "fp8", "Q is converted to e5m2", ABSENT, SEEN)                                         \
  F(v_e5m2, "fp8", "V is converted to e5m2", ABSENT, SEEN)                                         \
  F(scale_power_of_two, "fp8", "scales are the next power of two", ABSENT, SEEN)                   \
  F(p_scale_not_divided, "fp8", "weights are times 448, and nothing divides by it", ABSENT, SEEN)  \
  F(p_saturates, "fp8", "weights are times 512, and those above 448 are cut off", ABSENT, SEEN)    \
  F(p_subnormals_flushed, "fp8", "weights below 2^-6 are 0", ABSENT, SEEN)                         \
  F(acc_14_bits, "fp8", "products of weights and V are summed in 14 bits", ABSENT,                 \
    "2^-13 a step; the weights' half step is 2^-4")

#endif
