/* faults_sm90.h - mistakes that can be put into the kernel sm90, one at a time: as
 * gpu/mutants/faults.h has them of sm80. What both kernels are made of (gpu/parts) is tried there.
 */
#ifndef IFA_GPU_FAULTS_SM90_H
#define IFA_GPU_FAULTS_SM90_H

#define IFA_GPU_FAULTS_SM90(X, R, E)                                                               \
  /* ---- data on its way ---- */                                                                  \
  R(first_step_not_awaited, "pipeline",                                                            \
    "the item's first scores are begun without waiting for its block")                             \
  R(next_step_not_awaited, "pipeline",                                                             \
    "the next step's scores are begun without waiting for its block")                              \
  R(next_item_not_awaited, "pipeline",                                                             \
    "the next item's first scores are begun without waiting for its block")                        \
  R(wrap_with_old_parity, "pipeline",                                                              \
    "where the ring wraps, a block is awaited with the parity of the round before")                \
  R(block_given_back_early, "pipeline",                                                            \
    "a block is given back when its indices are made, before P V")                                 \
  R(refill_after_all_but_one, "pipeline",                                                          \
    "a place is filled again when all warps but one have given it back")                           \
  R(q_copies_not_awaited, "pipeline", "Q is said to be there while its copies are under way")      \
  R(q_in_one_place, "pipeline", "the next item's Q is loaded where this one's is")                 \
  X(q_of_this_item, "pipeline", "the next item's first scores are made with this item's Q")        \
  X(q_scales_in_one_place, "pipeline", "the scales of Q are those of the first of two places")     \
  X(blocks_of_first_item, "pipeline",                                                              \
    "the blocks of an item are fetched from where the CTA's first item has its own, if that is "   \
    "lower")                                                                                       \
  E(block_copies_late, "pipeline", "each block's copy is late", "Who needs a block waits for it.") \
  E(warp_late, "pipeline", "one of a group's warps is late",                                       \
    "Each warp's rows are its own, and what the warps of a CTA share is awaited.")                 \
  /* ---- shared memory, operands, fragments ---- */                                               \
  X(q_swizzle_left_out, "fragments", "Q is stored without its swizzle")                            \
  X(q_swizzle_of_bytes, "fragments", "Q of any layout is stored without its swizzle")              \
  E(q_padding_not_zero, "fragments", "channels of Q beyond head_dim are 1, not 0",                 \
    "K is packed with zeros there, so the products are 0.")                                        \
  X(q_chunk_before, "fragments",                                                                   \
    "Q K^T multiplies 32 channels of K with the 32 channels of Q before them")                     \
  X(k_chunk_before, "fragments",                                                                   \
    "Q K^T multiplies 32 channels of Q with the 32 channels of K before them")                     \
  X(last_channels_left_out, "fragments", "Q K^T leaves out the last 32 channels")                  \
  X(scores_added_to_those_before, "fragments",                                                     \
    "the sums of Q K^T begin with the scores of the step before")                                  \
  X(values_exchanged, "fragments",                                                                 \
    "P V multiplies the weights of 32 keys with the values of the 32 keys beside them")            \
  X(v_of_next_block, "fragments", "P V reads the V of the block whose scores are under way")       \
  X(sm90_key_scales_in_order, "fragments", "packed: K's scales in the order of the keys")          \
  X(sm90_value_scales_in_order, "fragments", "packed: V's scales in the order of the keys")        \
  X(k_scales_of_row_lane, "fragments",                                                             \
    "a thread takes the K scales of the columns that belong to lane g")                            \
  X(k_scales_of_tiles_exchanged, "fragments",                                                      \
    "the K scales of the second key of one tile of scores and the first of the next are "          \
    "exchanged")                                                                                   \
  X(k_scales_of_first_keys, "fragments", "all keys of a block get the scales of the first 16")     \
  X(weights_in_wrong_bytes, "fragments",                                                           \
    "the bytes of P are packed in another order than V's keys")                                    \
  /* ---- units ---- */                                                                            \
  X(vote_of_first_rows, "units", "whether rows fall is asked of the first of two rows")            \
  X(falls_unnoticed, "units", "no row's fall is noticed in a step where nothing else happens")     \
  X(rises_unnoticed, "units", "no row's rise is noticed in a step where nothing else happens")     \
  X(rises_of_even_keys, "units", "whether a row rises is asked of every other key")                \
  X(saturated_index_unnoticed, "units",                                                            \
    "an index that has its largest value is no sign of a rise")                                    \
  X(largest_of_even_tiles, "units",                                                                \
    "the largest index of a row misses every other tile of scores")                                \
  X(largest_of_two_lanes, "units",                                                                 \
    "the largest index of a row is taken over two of its four threads")                            \
  X(lowest_index_one_less, "units",                                                                \
    "a row stays if its largest index is the last that asks for a fall")                           \
  X(lowest_index_0, "units", "tau of 29 or more: an index of 0 is no reason to look closer")       \
  X(other_tile_scale_unnoticed, "units", "another scale of the tile is no reason to look closer")  \
  X(octave_border_by_index, "units",                                                               \
    "a row whose largest index is at the border of an octave moves by its index")                  \
  X(border_of_tau_0_by_index, "units",                                                             \
    "tau 0: a row at the border below its unit's octave stays by its index")                       \
  X(saturated_moved_by_index, "units",                                                             \
    "a row whose largest index has its largest value moves by it")                                 \
  X(value_fall_by_index, "units",                                                                  \
    "V per token: a row that falls moves by its indices, also where they were clamped")            \
  X(fall_without_headroom, "units", "a row that falls by its indices asks for no headroom")        \
  X(headroom_of_l_alone, "units",                                                                  \
    "where rows fall by their indices, headroom is asked for as if acc were not larger than l")    \
  X(rise_wraps, "units",                                                                           \
    "where some rows rise and some fall, indices that are too low wrap around")                    \
  X(fall_leaves_indices, "units", "where rows fall by their indices, the indices are kept")        \
  X(rise_leaves_unit, "units", "where rows move by their indices, the unit is kept")               \
  X(rise_leaves_index, "units",                                                                    \
    "where rows move by their indices, the indices from then on are made with the units before")   \
  X(rise_leaves_weights, "units", "where rows rise by their indices, the indices are kept")        \
  X(move_of_other_row, "units",                                                                    \
    "where rows rise by their indices, the indices move with the other of two rows")               \
  X(fall_for_rise, "units", "where rows rise and some fall, they take the way of rises")           \
  X(rise_of_l_in_its_parts, "units",                                                               \
    "where rows rise by their indices, each thread shifts its own part of l")                      \
  X(rise_of_acc_of_first_rows, "units",                                                            \
    "where rows rise by their indices, acc of rows g + 8 is kept")                                 \
  X(index_growth_after_tile, "units",                                                              \
    "the headroom leaves no room for the tile itself, where units move by indices")                \
  X(close_growth_after_tile, "units",                                                              \
    "the headroom leaves no room for the tile itself, looked at closely")                          \
  X(closer_largest_of_dead_keys, "units",                                                          \
    "in a tile that a mask cuts the unit follows keys that are not live")                          \
  X(close_scale_before, "units", "looked at closely, a tile has the scale of the tile before")     \
  X(row_factors_of_first_rows, "units", "rows g + 8 get the scale of rows g")                      \
  X(row_factors_of_first_warp, "units", "all warps get the scales of the first warp's rows")       \
  /* ---- weights ---- */                                                                          \
  X(early_weights_kept, "weights",                                                                 \
    "looked at closely: what was made early of the weights is kept")                               \
  X(early_weights_exchanged, "weights",                                                            \
    "what was made early of two tiles of weights is exchanged")                                    \
  X(weights_before_closer_look, "weights", "looked at closely: the indices from before are kept")  \
  X(weights_unmasked, "weights", "keys that a mask excludes have weights")                         \
  X(row_sum_of_other_row, "weights", "l of a row counts the weights of the other of two")          \
  X(v_scales_of_next_block, "weights",                                                             \
    "V per token: the scales of V of the block whose scores are under way")                        \
  X(exponent_of_next_block, "weights", "V per token: b of the block whose scores are under way")   \
  X(v_scales_of_first_keys, "weights",                                                             \
    "V per token: all keys of a block get the scales of the first 32")                             \
  X(largest_value_of_half, "weights", "V per token: the largest of a row misses half of the keys") \
  X(seen_exponent_of_first_row, "weights",                                                         \
    "V per token: a tile that a mask cuts: rows g + 8 get the exponent of rows g")                 \
  X(seen_values_of_first_row, "weights",                                                           \
    "V per token: a tile that a mask cuts: rows g + 8 get the scales that rows g see")             \
  X(exponent_of_cut_tile, "weights",                                                               \
    "V per token: b is the whole tile's also where a mask cuts it")                                \
  X(other_exponent_unnoticed, "weights", "V per token: another b is no reason to look closer")     \
  X(value_test_of_first_row, "weights",                                                            \
    "V per token: whether U' rises is tested with the limit of the first of two rows")             \
  X(value_test_kept_by_move, "weights",                                                            \
    "V per token: where U moves, whether U' stays is tested with the U before")                    \
  X(value_test_kept_by_rise, "weights",                                                            \
    "V per token: where U' rises, whether it stays is tested with the U' before")                  \
  E(value_test_kept_by_cut, "weights",                                                             \
    "V per token: behind a tile that a mask cuts, whether U' stays is tested as before it",        \
    "Tiles that a mask cuts come before all that are seen whole, where there is no test yet, or "  \
    "behind them.")                                                                                \
  X(value_rise_limit_low, "weights",                                                               \
    "V per token: U' is taken to rise 7 patterns of binary16 too late")                            \
  X(value_fall_limit_low, "weights",                                                               \
    "V per token: U' is taken to fall 7 patterns of binary16 too late")                            \
  X(value_fall_for_rise, "weights",                                                                \
    "V per token: where U' falls, or some rise and some fall, it takes the way of a rise")         \
  X(value_falls_unnoticed, "weights",                                                              \
    "V per token: no fall of U' is noticed in a step where nothing else happens")                  \
  X(value_fall_without_headroom, "weights", "V per token: a U' that falls asks for no headroom")   \
  X(value_factor_of_other_row, "weights",                                                          \
    "V per token: y is taken to P with the factor of the other of two rows")                       \
  /* ---- masks, tiles, splits ---- */                                                             \
  X(diagonal_step_whole, "mask",                                                                   \
    "a tile that the warp's last row sees to its end is taken to be seen by all rows")             \
  X(window_step_whole, "mask",                                                                     \
    "a tile that the warp's first row sees from its start on is taken to be seen by all rows")     \
  X(group_leaves_last_tile, "mask",                                                                \
    "a group leaves out its last tile if its last row does not see it to its end")                 \
  X(group_ends_with_first_row, "mask", "causal: a group ends with the last tile of its first row") \
  X(group_begins_with_last_row, "mask",                                                            \
    "window: a group begins with the first tile of its last row")                                  \
  X(splits_from_first_step, "mask",                                                                \
    "splits are counted from the group's first step, not from key 0")                              \
  X(split_not_asked, "mask", "a split's end is noticed only where a mask cuts a tile")             \
  X(quiet_step_longer, "mask",                                                                     \
    "whether a mask or the end of a split comes is not asked for one step too long")               \
  X(split_not_merged, "mask", "a split that ends before the item does is left out of the output")  \
  X(last_split_left_out, "mask", "the last split has no part in the output")                       \
  X(split_sums_as_found, "mask", "the sums between splits begin with what lies there")             \
  /* ---- items, output ---- */                                                                    \
  X(rows_of_first_warp, "output", "all warps of a group write the rows of the first")              \
  X(sum_of_one_lane, "output", "a row is divided by its first thread's own part of l")             \
  X(quotient_in_one_product, "output", "a quotient is the sum times the rounded reciprocal")       \
  X(power_in_one_factor, "output",                                                                 \
    "V per token: a power of two is one factor, clamped to the normal ones")                       \
  X(empty_rows_divided, "output", "rows without a key are divided by their sum too")               \
  X(empty_rows_signed, "output", "rows without a key get the sign of V's scale")                   \
  X(factors_in_one_place, "output",                                                                \
    "the factors of the channels are those of the first of two places")                            \
  X(factors_exchanged, "output", "the factors of two adjacent channels are exchanged")             \
  X(chunk_swizzle_left_out, "output",                                                              \
    "outputs are stored in shared memory without the swizzle that they are read with")             \
  R(chunks_read_early, "output",                                                                   \
    "a warp's outputs in shared memory are read before all lanes have stored theirs")              \
  R(chunks_stored_early, "output",                                                                 \
    "a warp's outputs in shared memory are stored before all lanes have read those before")        \
  X(bf16_pair_exchanged, "output", "two adjacent bf16 outputs are exchanged")                      \
  X(lse_of_first_rows, "output", "log-sum-exp of rows g + 8 goes to the places of rows g")

#endif
