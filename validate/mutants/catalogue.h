/* catalogue.h - the mutants: one mistake each, of a kind that real attention kernels have had.
 * docs/validate.md, section 10.
 *
 *     X(name, part, what is wrong)              a fault that the suites must kill
 *     E(name, part, what is wrong, proof)       a change that cannot be seen: the proof says why
 *
 * A name is used as FAULT(name) in the kernel that carries it (kernel.c, operands.c, output.c), and
 * printed with '-' for '_'. A fault never reads or writes outside the arrays (a crash is easy to
 * notice); where the real mistake would, it wraps around, or reads what lies beside. */
#ifndef IFA_VALIDATE_MUTANTS_CATALOGUE_H
#define IFA_VALIDATE_MUTANTS_CATALOGUE_H

#define IFA_MUTANTS(X, E)                                                                          \
  /* ---- operands, heads, addresses ---- */                                                       \
  X(int4_nibbles_swapped, "operands",                                                              \
    "the even element of an INT4 pair is read from the high nibble")                               \
  X(int4_unsigned, "operands", "INT4 is read as 0..15")                                            \
  X(int4_low_nibble_unsigned, "operands", "only the high nibble of INT4 is sign-extended")         \
  X(int4_odd_row_unpadded, "operands",                                                             \
    "INT4 rows of odd head_dim are taken to lie without the half byte of padding")                 \
  X(q_unsigned, "operands", "Q is read as unsigned bytes")                                         \
  X(v_unsigned, "operands", "V is read as unsigned bytes")                                         \
  X(minus_128_clipped, "operands",                                                                 \
    "-128 becomes -127, as in a product that goes through absolute values")                        \
  X(gqa_modulo, "operands", "query head h reads key/value head h % Hkv")                           \
  X(gqa_divides_by_kv_heads, "operands", "query head h reads key/value head h / Hkv")              \
  X(gqa_first_head, "operands", "all query heads read key/value head 0")                           \
  X(k_batch_ignored, "operands", "K of batch 0 for every batch")                                   \
  X(v_batch_ignored, "operands", "V of batch 0 for every batch")                                   \
  X(k_batch_stride_of_q_heads, "operands", "K's batch stride is computed with the query heads")    \
  X(k_stride_ignored, "operands", "K is taken to be dense")                                        \
  X(v_stride_of_k, "operands", "V is read with K's strides")                                       \
  X(q_last_row_clamped, "operands",                                                                \
    "rows are clamped at nq - 2: the last row reads the query before it")                          \
  X(dim_tail_dropped, "operands",                                                                  \
    "head_dim beyond its last multiple of 16 has no part in the scores")                           \
  X(dim_padding_not_zero, "operands", "rows are padded to 16 elements with what lies behind them") \
  X(dim_above_128_repeats, "operands", "elements 128.. of V are read from 0..")                    \
  X(key_index_16_bits, "operands", "a key's number is kept in 16 bits")                            \
  X(k_tile_stale, "operands",                                                                      \
    "the last 8 keys of a tile are read before their copy has arrived: those of the buffer's "     \
    "last tile")                                                                                   \
  X(v_tile_stale, "operands", "the same for V: a missing barrier")                                 \
  X(v_keys_permuted, "operands",                                                                   \
    "keys 8..15 and 16..23 of a group of 32 are exchanged between weights and V: a wrong "         \
    "fragment map")                                                                                \
  X(v_columns_swapped, "operands", "columns 2t and 2t+1 of V are exchanged: a wrong fragment map") \
  /* ---- masks, tiles, splits ---- */                                                             \
  X(causal_strict, "mask", "causal: j < pos")                                                      \
  X(causal_one_more, "mask", "causal: j <= pos + 1")                                               \
  X(causal_top_left, "mask", "positions are aligned at the top left: pos = i")                     \
  X(causal_whole_tile, "mask", "causal: the tile on the diagonal is not masked inside")            \
  X(causal_tile_count, "mask",                                                                     \
    "causal: pos / tile tiles: the one that pos has just entered is left out")                     \
  X(causal_of_row_block, "mask", "causal: 16 rows share the mask of their last one")               \
  X(position_clamped, "mask", "a position before the first key is taken for 0")                    \
  X(window_left_one_more, "mask", "window: j >= pos - w")                                          \
  X(window_left_one_less, "mask", "window: j > pos - w + 1")                                       \
  X(window_right_one_more, "mask", "window: j <= pos + w")                                         \
  X(window_right_one_less, "mask", "window: j < pos + w - 1")                                      \
  X(window_right_ignored, "mask", "window: keys to the right are not cut off when not causal")     \
  X(window_ignored_if_causal, "mask", "window and causal: only causal is applied")                 \
  X(window_first_tile_whole, "mask", "window: the first tile is not masked at its left")           \
  X(window_halved, "mask", "window: w keys in all, half on each side")                             \
  X(last_tile_dropped, "mask", "a last tile that is not full is left out")                         \
  X(last_key_dropped, "mask", "the last key is left out")                                          \
  X(padding_keys_live, "mask", "a last tile that is not full is filled up with keys of score 0")   \
  X(dead_tile_asks, "mask", "a tile without a live key asks for unit 1")                           \
  X(tile_always_64, "mask", "kv_tile is ignored: 64")                                              \
  X(last_split_dropped, "mask", "a last split that is not full is left out")                       \
  X(split_ignored, "mask", "kv_split is ignored: 32768")                                           \
  X(split_zero_is_whole, "mask", "kv_split 0 is taken for one split of all keys")                  \
  /* ---- scores ---- */                                                                           \
  X(score_16_bits, "scores", "S is summed in 16 bits")                                             \
  X(score_binary16, "scores", "S is converted to binary16")                                        \
  X(row_factor_order, "scores", "r = q_scale * (sm_scale * LOG2E)")                                \
  X(row_factor_one_rounding, "scores", "r is computed in binary64 and rounded once")               \
  X(log2e_next, "scores", "LOG2E is the next binary32")                                            \
  X(log2e_missing, "scores", "weights are powers of two: no factor LOG2E")                         \
  X(sm_scale_ignored, "scores", "sm_scale is taken to be 1/sqrt(head_dim)")                        \
  X(key_scale_in_factor, "scores", "K per token: u = S, and the key's scale multiplies r")         \
  X(block_scale_in_score, "scores", "K per block or tensor: u = S * k_scale, as if per token")     \
  X(k_block_of_tile, "scores", "K per block: the scale's number is the tile's number")             \
  X(k_block_first, "scores", "K per block: the first block's scale throughout")                    \
  X(k_blocks_rounded_down, "scores", "K per block: nk / k_block scales a matrix, not rounded up")  \
  X(q_blocks_rounded_down, "scores", "Q per block: nq / q_block scales a matrix, not rounded up")  \
  X(q_scale_of_kv_head, "scores", "Q's scale is that of the key/value head's number")              \
  X(k_scale_of_q_head, "scores", "K's scale is that of the query head's number")                   \
  X(k_scale_next_token, "scores", "K per token: the scale of the key after")                       \
  X(k_scale_first_tile, "scores", "K per token: the scales of the first tile throughout")          \
  X(k_scale_stale, "scores", "K per token: the scales of the tile before")                         \
  X(q_scale_of_row_block, "scores", "Q per token: 16 rows share the scale of their first one")     \
  X(scale_batch_ignored, "scores", "K's scales of batch 0 for every batch")                        \
  /* ---- units ---- */                                                                            \
  X(unit_ceil, "units", "e = ceil(u_max * r): not above a score that is an integer")               \
  X(unit_floor, "units", "e = floor(u_max * r), without + 1")                                      \
  X(unit_truncated, "units", "e = trunc(u_max * r) + 1: one too high for negative scores")         \
  X(unit_max_from_zero, "units", "the maximum starts at 0, not at -infinity")                      \
  X(unit_of_dead_keys, "units", "the maximum is taken over all keys of the tile, live or not")     \
  X(unit_of_largest_integer, "units", "the maximum is that of S, before the keys' scales")         \
  X(unit_of_first_keys, "units", "the maximum misses the last key of the tile")                    \
  X(unit_of_vanished_product, "units",                                                             \
    "e is 1 where a negative u_max times r is too small for a binary32")                           \
  X(tau_at_equality, "units", "the unit falls if e <= U - tau")                                    \
  X(tau_one_more, "units", "the unit falls if e < U - tau - 1")                                    \
  X(tau_zero_is_never, "units", "tau 0 is taken for: never fall")                                  \
  X(tau_infinite_is_64, "units", "tau infinity is taken for 64")                                   \
  X(unit_never_falls, "units", "the unit never falls")                                             \
  X(unit_raised_by_one_more, "units", "a raised unit goes to e + 1")                               \
  X(unit_falls_to_tau, "units", "a falling unit stops tau above e")                                \
  X(raise_forgets_l, "units", "l is not shifted when the unit rises")                              \
  X(raise_forgets_acc, "units", "acc is not shifted when the unit rises")                          \
  X(fall_forgets_sums, "units", "l and acc are not shifted when the unit falls")                   \
  X(shift_to_nearest, "units", "a shift to the right rounds to nearest")                           \
  X(shift_toward_zero, "units", "a shift to the right rounds toward zero")                         \
  X(shift_count_masked, "units", "a shift by 32 or more takes the count's low 5 bits")             \
  X(shift_of_32_is_zero, "units", "a negative sum shifted by 32 or more becomes 0, not -1")        \
  X(headroom_ignored, "units", "the unit falls as far as the tile asks")                           \
  X(headroom_one_more, "units", "one octave more than the headroom")                               \
  X(headroom_one_less, "units", "one octave less than the headroom")                               \
  X(headroom_clipped_at_nk, "units", "R ends at the last key: contract 1")                         \
  X(headroom_from_tile_end, "units", "R does not count the tile itself")                           \
  X(headroom_of_largest_split, "units", "R is that of a split of 32768")                           \
  X(headroom_without_acc, "units", "M = l where acc shares the unit")                              \
  X(headroom_without_sign, "units", "M = max acc, not max |acc|")                                  \
  X(headroom_127, "units", "G counts 127 for the largest |V|")                                     \
  X(headroom_of_products, "units", "V per token: l's headroom counts products with V")             \
  E(headroom_strict, "units", "M * 2^k < 2^31 - 1 - G",                                            \
    "k = 0 is always allowed. For k > 0 the left side is even; G = 32640 R, or 255 R with R a "    \
    "multiple of kv_tile, is even, so the right side is odd: "                                     \
    "they are never equal.")                                                                       \
  /* ---- weights ---- */                                                                          \
  X(index_not_fused, "weights", "z is a product and a sum, rounded twice")                         \
  X(index_truncated, "weights", "n is truncated")                                                  \
  X(index_half_up, "weights", "n is rounded half up")                                              \
  X(index_rounded_twice, "weights", "n is rounded to a binary32 first: contract 2")                \
  X(index_low_bit_lost, "weights", "512 steps an octave")                                          \
  X(weight_truncated, "weights", "p is truncated")                                                 \
  X(weight_through_binary16, "weights", "p is rounded from W: twice")                              \
  X(weight_g_not_fused, "weights", "g's products and sums are rounded apart")                      \
  X(weight_g_binary32, "weights", "g's cubic is kept in binary32")                                 \
  X(weight_exp2, "weights", "p = rne(255 * 2^(x - U)) of libm")                                    \
  X(weight_127, "weights", "weights of 7 bits: 127 for 255")                                       \
  X(weight_signed, "weights", "P is taken for a signed byte in P * V")                             \
  X(weight_16_octaves, "weights", "weights more than 16 octaves below the unit are 0")             \
  X(weights_stale, "weights", "keys that are not live keep the weight of the tile before")         \
  X(masked_nan, "weights",                                                                         \
    "a masked score is -infinity, times r = 0 a NaN, and its weight the largest")                  \
  X(l_of_dead_keys, "weights", "l counts keys of the tile that are not live")                      \
  X(l_16_bits, "weights", "l is kept in 16 bits")                                                  \
  X(l_binary16, "weights", "a tile's sum of weights is rounded to binary16")                       \
  X(acc_16_bits, "weights", "acc is kept in 16 bits")                                              \
  X(acc_pairs_saturate, "weights",                                                                 \
    "two products of bytes are added in 16 bits with saturation (pmaddubsw)")                      \
  X(acc_binary32, "weights", "acc is a binary32: exact only below 2^24")                           \
  X(acc_tail_dropped, "weights", "P * V stops at the last multiple of 32 keys of a tile")          \
  X(acc_stale_split, "weights", "acc is not cleared at the start of a split")                      \
  X(l_stale_split, "weights", "l is not cleared at the start of a split")                          \
  X(unit_stale_split, "weights", "a split starts with the unit of the one before")                 \
  X(unit_stale_row, "weights", "a row starts with the unit of the row before")                     \
  X(l_stale_row, "weights", "a row starts with the l of the row before")                           \
  /* ---- V per token ---- */                                                                      \
  X(value_exponent_of_dead_keys, "values",                                                         \
    "b is taken from all keys of the tile, live or not: contract 1")                               \
  X(value_exponent_of_power, "values", "b puts the largest scale into [128, 256), not (128, 256]") \
  X(value_exponent_one_more, "values", "b is one too large")                                       \
  X(value_scale_binary32, "values", "s is not rounded to binary16")                                \
  X(value_scale_truncated, "values", "s is truncated to binary16")                                 \
  X(value_scale_flushed, "values", "s is flushed to zero where it is subnormal")                   \
  X(value_scale_signed, "values",                                                                  \
    "a scale of -0 keeps its sign, and the pattern of its y is above every other")                 \
  X(value_scale_first_tile, "values", "the scales of V's first tile throughout")                   \
  X(value_scale_of_q_head, "values", "V's scale is that of the query head's number")               \
  X(value_weight_of_p, "values", "y is made of p, not of W")                                       \
  X(value_weight_w_flushed, "values", "W is flushed to zero where it is subnormal")                \
  X(value_weight_y_flushed, "values", "y is flushed to zero where it is subnormal")                \
  X(value_weight_binary32, "values", "y is not rounded to binary16")                               \
  X(value_shift_of_256, "values", "m lets y * 2^m come up to 256")                                 \
  X(value_shift_not_capped, "values", "m is not limited to 15")                                    \
  X(value_shift_of_dead_keys, "values", "the largest y is taken over keys that are not live too")  \
  X(value_weight_truncated, "values", "P is truncated")                                            \
  X(value_unit_without_b, "values", "e' = U - m")                                                  \
  X(value_unit_forgets_acc, "values", "acc is not shifted when U' moves")                          \
  X(value_unit_shifts_with_u, "values", "acc is shifted when U moves too")                         \
  X(value_tau_infinite, "values", "U' never falls")                                                \
  X(value_headroom_ignored, "values", "U' falls as far as the tile asks")                          \
  X(value_headroom_of_l, "values", "the headroom of U' counts l, not acc")                         \
  X(value_zero_tile_asks, "values", "a tile whose y are all 0 asks for a unit with m = 15")        \
  X(value_zero_tile_weighs, "values", "a tile whose y are all 0 has P = p")                        \
  X(value_l_of_p, "values", "l sums P, not p")                                                     \
  /* ---- splits merged ---- */                                                                    \
  X(merge_descending, "merge", "splits are merged in descending order")                            \
  X(merge_without_exponents, "merge", "sums are added whatever their units")                       \
  X(merge_exponent_of_latest, "merge",                                                             \
    "E becomes the unit of the latest split, not the larger one")                                  \
  X(merge_values_by_e, "merge", "V per token: O is merged with the exponents of L")                \
  X(merge_subnormal_factor, "merge", "pow2 below 2^-126 is subnormal, not 0")                      \
  X(merge_dead_split, "merge", "a split without a live key is merged with unit 0")                 \
  X(merge_truncated_sum, "merge", "a split's sum is truncated to binary32")                        \
  E(merge_not_fused, "merge", "the product and the sum are rounded apart",                         \
    "One factor is 1. If it is the split's, fl(l) * 1 is exact. If not, |fl(l)| >= 1 (or it is "   \
    "0) times 2^k, -126 <= k <= 0, is at least 2^-126: normal, "                                   \
    "so exact; below, pow2 is 0. A product that is exact may be rounded apart.")                   \
  /* ---- output ---- */                                                                           \
  X(output_reciprocal, "output", "O * fl(1 / L)")                                                  \
  X(output_scaled_first, "output", "fl(O * v_scale) / L")                                          \
  X(output_factor_flushed, "output",                                                               \
    "V per token: 2^(E' - E) is a binary32 factor: 0 below 2^-126, infinity above 2^127")          \
  X(output_channel_first, "output", "token_channel: the channel's scale comes before 2^(E' - E)")  \
  X(output_channel_of_head_0, "output", "channel scales of key/value head 0")                      \
  X(output_channel_of_q_head, "output", "channel scales of the query head's number")               \
  X(output_channel_next, "output", "the scale of channel d + 1")                                   \
  X(output_f16_truncated, "output", "binary16 by truncation")                                      \
  X(output_f16_half_away, "output", "binary16 with ties away from zero")                           \
  X(output_f16_saturates, "output", "binary16 overflows to 65504")                                 \
  X(output_f16_flushed, "output", "binary16 subnormals are flushed to zero")                       \
  X(output_bf16_truncated, "output", "bfloat16 by truncation")                                     \
  X(output_bf16_half_away, "output", "bfloat16 with ties away from zero")                          \
  X(output_bf16_through_f16, "output", "bfloat16 from binary16: rounded twice")                    \
  X(output_f32_flushed, "output", "binary32 subnormals are flushed to zero")                       \
  X(output_negative_zero, "output", "-0 becomes +0")                                               \
  X(output_stride_ignored, "output", "the output is taken to be dense")                            \
  X(output_tail_unwritten, "output",                                                               \
    "elements beyond the last multiple of 4 of head_dim are not written")                          \
  X(output_last_row_unwritten, "output",                                                           \
    "the last row of a head is not written when it is alone in its block of 16")                   \
  X(output_rows_ignored, "output", "chosen row number r is written to row r")                      \
  X(output_beside, "output", "the row after a chosen one is written too")                          \
  X(dead_row_unwritten, "output", "a row without a live key is not written")                       \
  X(dead_row_nan, "output", "a row without a live key is 0 / 0")                                   \
  X(dead_row_mean, "output",                                                                       \
    "a row without a live key is the mean of V: a mask by adding a large negative number")         \
  X(no_keys_unwritten, "output", "nothing is written when nk = 0")                                 \
  X(no_value_unit_nan, "output",                                                                   \
    "a row whose values are all 0 is 0 * 2^(E' - E) with an E' never set")                         \
  /* ---- log-sum-exp ---- */                                                                      \
  X(lse_without_255, "lse", "weights of 255 are taken for 1")                                      \
  X(lse_in_octaves, "lse", "the logarithm to base 2")                                              \
  X(lse_libm, "lse", "log2f of libm")                                                              \
  X(lse_range_1_2, "lse", "the significand is taken from [1, 2)")                                  \
  X(lse_not_fused, "lse", "the last product and sum are rounded apart")                            \
  X(lse_without_unit, "lse", "the unit is left out")                                               \
  X(lse_index_of_row_number, "lse", "lse of chosen row number r goes to place r")                  \
  X(lse_heads_inside, "lse", "lse is laid out [batch, nq, heads]")                                 \
  X(lse_dead_row_zero, "lse", "0 for a row without a live key")                                    \
  X(lse_dead_row_unwritten, "lse", "lse of a row without a live key is not written")

#endif
