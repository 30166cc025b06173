/* faults.h - mistakes that can be put into the attention kernel, one at a time, to see whether the
 * suites notice: docs/validate.md, section 10.
 *
 *     X(name, part, what is wrong)              a fault that the suites must kill
 *     R(name, part, what is wrong)              the same, and a race: it may show in some runs
 *                                               only, so it is run several times
 *     E(name, part, what is wrong, proof)       a change that cannot be seen: the proof says why
 *
 * The kernels' source knows nothing of them: gpu/mutants/faults.txt has them as edits of it, which
 * are made in a copy in the build folder, and gpu/mutants/mutants.cu compiles the copy, with
 * IFA_GPU_MUTANT, where FAULT(name) asks one integer in constant memory. A fault never reads or
 * writes outside the arrays and never makes a warp wait for ever: what the suites must notice is
 * wrong bits, not a crash. Where a race needs somebody to be late, fault_late() makes him late. */
#ifndef IFA_GPU_FAULTS_H
#define IFA_GPU_FAULTS_H

#define IFA_GPU_FAULTS(X, R, E)                                                                    \
  /* ---- tiles on their way ---- */                                                               \
  R(first_tile_not_awaited, "pipeline", "the first tile is read without waiting for its copy")     \
  R(next_tile_not_awaited, "pipeline",                                                             \
    "the next tile's scores are begun without waiting for its copy")                               \
  R(tile_released_early, "pipeline",                                                               \
    "a tile is given back before its V is read: it is filled again under a warp that is late")     \
  R(block_released_early, "pipeline",                                                              \
    "tiles of other sizes: a block is given back before its weights are made")                     \
  R(refill_not_awaited, "pipeline",                                                                \
    "a place is filled again without waiting until every warp has given it back")                  \
  R(next_tile_polled_in_its_place, "pipeline",                                                     \
    "whether the next tile has come is asked of the place of this one")                            \
  R(wrap_polled_with_old_parity, "pipeline",                                                       \
    "where the ring wraps, whether the next tile has come is asked with the parity of the round "  \
    "before")                                                                                      \
  R(q_barrier_missing, "pipeline",                                                                 \
    "Q is read without waiting for its copies, nor for the lanes that asked for them")             \
  X(next_q_over_this, "pipeline",                                                                  \
    "the next rows' Q takes the place of Q before that has been read")                             \
  R(pack_barrier_missing, "pipeline", "packing: no barrier between V's rows and their transpose")  \
  X(refill_of_tile_before, "pipeline",                                                             \
    "a place is filled again with the tile before the one that it is waited for")                  \
  X(first_tile_of_item_for_all, "pipeline",                                                        \
    "where the next rows' tiles begin, each warp fills a place with the first of them")            \
  X(blocks_of_item_before, "pipeline",                                                             \
    "the tiles for the next rows begin with the first of those before")                            \
  X(ring_from_key_0, "pipeline",                                                                   \
    "window: the blocks come from key 0 on, not from the first that the CTA looks at")             \
  X(v_scales_not_copied, "pipeline",                                                               \
    "V per token: a tile's copy ends 64 bytes early, in V's scales")                               \
  E(one_warp_late, "pipeline", "in every step one warp of the CTA is late, each in turn",          \
    "A place is filled again only when every warp has released it, and a tile is read only after " \
    "it has come: no result depends on when.")                                                     \
  E(copies_late, "pipeline", "places are filled again late, and as late as can be",                \
    "The same: what waits for a tile waits for its copy, not for a time.")                         \
  /* ---- shared memory, fragments, lanes ---- */                                                  \
  X(q_swizzle_missing, "fragments",                                                                \
    "Q's chunks are read in the order in which they were before the swizzle")                      \
  X(k_swizzle_of_128, "fragments",                                                                 \
    "K's chunks are read with the swizzle of rows of 128 bytes, whatever head_dim")                \
  X(v_swizzle_missing, "fragments",                                                                \
    "V's chunks are read in the order in which they were before the swizzle")                      \
  X(q_registers_exchanged, "fragments",                                                            \
    "registers 1 and 2 of Q's fragment (rows g + 8; channels 16 on) are exchanged")                \
  X(k_tiles_exchanged, "fragments",                                                                \
    "the K fragments of two neighbouring groups of 16 keys are exchanged")                         \
  X(v_registers_exchanged, "fragments",                                                            \
    "both registers of V's fragment are exchanged: keys 0..15 and 16..31 of a group")              \
  X(weight_rows_exchanged, "fragments", "rows g and g + 8 of the weights' fragment are exchanged") \
  X(weights_out_of_order, "fragments",                                                             \
    "the four weights of a register are packed in the order 0, 2, 1, 3")                           \
  X(v_keys_in_order, "fragments",                                                                  \
    "V is transposed without the permutation of the keys that the fragments want")                 \
  X(key_scales_in_order, "fragments",                                                              \
    "K's scales are packed in the order of the keys, not side by side for each thread")            \
  X(value_scales_in_order, "fragments", "V per token: the same of V's scales")                     \
  X(k_scales_exchanged, "fragments",                                                               \
    "K per token: the scales of columns 2t and 2t + 1 are exchanged")                              \
  X(k_scale_of_row_lane, "fragments",                                                              \
    "K per token: the scales of columns 2g and 2g + 1, not 2t and 2t + 1")                         \
  X(v_scale_of_row_lane, "fragments", "V per token: the same of V's scales")                       \
  X(k_fragments_of_other_group, "fragments",                                                       \
    "scores are made of the other of two sets of K fragments: those of the next group")            \
  X(v_fragments_of_group_before, "fragments", "32 channels of V are multiplied as those before")   \
  X(output_columns_exchanged, "fragments", "columns 2t and 2t + 1 of the output are exchanged")    \
  X(padding_not_zero, "fragments", "channels beyond head_dim are 1, not 0")                        \
  /* ---- scores and units ---- */                                                                 \
  X(score_zero_2_15, "units",                                                                      \
    "sums of QK begin at 2^15: right for sums that are not below its negative")                    \
  X(score_octaves_of_block, "units",                                                               \
    "a tile of several blocks: each block's scores are scaled as its own largest K scale asks")    \
  X(vanished_score_is_0, "units",                                                                  \
    "the unit of a negative score that is too small for a binary32 is that of 0")                  \
  X(key_scales_before, "units", "K per token: the scales of the tile before")                      \
  X(tile_scale_unnoticed, "units",                                                                 \
    "K per block: another scale of the tile is no reason to look closely")                         \
  X(row_factor_of_first_half, "units", "rows g + 8 get the factor of rows g")                      \
  X(quad_max_of_two_lanes, "units", "the largest of a row is taken over two of its four threads")  \
  X(quad_vote_of_first_row, "units",                                                               \
    "whether a row falls is asked of the first of two rows for both")                              \
  X(quad_vote_of_first_quad, "units",                                                              \
    "whether any row falls is asked of the warp's first quad only")                                \
  X(test_of_other_row, "units",                                                                    \
    "whether its unit stays is tested with the unit and the factor of the other of two rows")      \
  X(quad_sum_of_two_lanes, "units", "l is summed over two of its four threads")                    \
  X(stay_vote_of_one_lane, "units",                                                                \
    "whether any unit moves is the answer of the warp's first thread")                             \
  X(move_vote_of_one_lane, "units",                                                                \
    "whether any unit moves, looked at closely, is the answer of the warp's first thread")         \
  X(unit_of_first_block, "units",                                                                  \
    "tiles of several blocks: the unit follows the largest of the first")                          \
  X(largest_of_dead_keys, "units",                                                                 \
    "in a tile that a mask cuts the unit follows keys that are not live")                          \
  X(largest_of_negative_scores, "units",                                                           \
    "the largest of scores that are all negative is taken for 0")                                  \
  X(fall_taken_for_rise, "units",                                                                  \
    "rows that fall in a tile that is as those before take the way of rows that rise")             \
  X(rise_vote_of_one_lane, "units",                                                                \
    "whether rows rise and none falls is the answer of the warp's first thread")                   \
  X(rise_of_other_row, "units", "where rows rise, each gets the largest of the other of two rows") \
  X(rise_of_first_row_half, "units", "where rows rise, acc of rows g + 8 is not shifted")          \
  X(rise_of_l_in_parts, "units", "where rows rise, each thread shifts its own part of l")          \
  X(rise_in_index_missing, "units",                                                                \
    "where rows rise, the weights from then on are made with the units before")                    \
  X(rise_in_fall_test_missing, "units",                                                            \
    "where rows rise, whether they fall is tested with the units before")                          \
  X(unit_falls_at_tau, "units",                                                                    \
    "the unit falls if x < U - tau: where floor(x) + 1 is U - tau already")                        \
  X(l_shifted_in_parts, "units", "each thread shifts its own part of l: the parts' floors")        \
  X(gathered_l_kept_by_all, "units", "all four threads keep the l that was gathered")              \
  X(shift_of_first_row_half, "units", "acc of rows g + 8 is shifted as that of rows g")            \
  X(largest_acc_of_one_lane, "units", "the headroom is taken from the thread's own part of acc")   \
  X(headroom_without_compare, "units",                                                             \
    "the headroom in closed form, without its comparison: an octave too much where the leading "   \
    "bits do not fit")                                                                             \
  X(growth_after_tile, "units", "the headroom leaves no room for the tile itself")                 \
  /* ---- weights ---- */                                                                          \
  X(weight_not_saturated, "weights", "the weight's index is not clamped to 0 .. 65535")            \
  X(weights_before_move, "weights", "weights begun before the unit moved are kept")                \
  X(weights_before_rise, "weights", "where rows rise, weights begun before are kept")              \
  X(fraction_not_complemented, "weights", "the polynomial gets the fraction, not its complement")  \
  X(round_constant_in_one_half, "weights",                                                         \
    "the constant that rounds two weights is in one half of the pair only")                        \
  X(row_sum_signed, "weights", "l takes the weights for signed bytes")                             \
  X(weights_counted_twice, "weights",                                                              \
    "V per token, tiles of several blocks: l counts the weights of both walks")                    \
  X(weights_as_s8, "weights", "P V by the instruction of signed weights")                          \
  X(value_factor_flushed, "weights", "V per token: 2^m is 0 where it is a subnormal binary16")     \
  X(largest_value_of_even_keys, "weights",                                                         \
    "V per token: the largest of a row misses the upper halves of the pairs")                      \
  X(tile_exponent_unnoticed, "weights", "V per token: another b is no reason to look closely")     \
  X(value_rise_unnoticed, "weights", "V per token: whether U' stays is tested for a fall only")    \
  X(value_test_of_other_row, "weights",                                                            \
    "V per token: whether U' stays is tested with the units of the other of two rows")             \
  X(value_factor_of_old_unit, "weights",                                                           \
    "V per token: what takes y to P is kept where U has moved")                                    \
  X(rise_in_value_factor_missing, "weights",                                                       \
    "V per token: where U rises, what takes y to P is kept")                                       \
  X(rise_in_value_test_missing, "weights",                                                         \
    "V per token: where U rises, whether U' stays is tested with the U before")                    \
  X(value_fall_taken_for_rise, "weights",                                                          \
    "V per token: where U' falls in a tile that is as those before, it takes the way of a rise")   \
  X(value_rise_of_other_row, "weights",                                                            \
    "V per token: where U' rises, each row gets the largest of the other of two")                  \
  X(value_rise_in_factor_missing, "weights",                                                       \
    "V per token: where U' rises, what takes y to P is kept")                                      \
  X(value_rise_in_test_missing, "weights",                                                         \
    "V per token: where U' rises, whether it stays is tested with the U' before")                  \
  X(weights_before_value_rise, "weights",                                                          \
    "V per token: where U' rises, weights made before are kept")                                   \
  X(largest_v_scale_of_half, "weights", "V per token: b is taken from the tile's first 32 keys")   \
  X(live_exponent_of_whole_tile, "weights",                                                        \
    "V per token: b is the whole tile's also where a mask cuts it")                                \
  X(exponent_of_first_block, "weights",                                                            \
    "V per token, tiles of several blocks: b is the first block's")                                \
  /* ---- masks, tiles, splits ---- */                                                             \
  X(mask_of_key_pairs, "mask", "both keys of a pair are masked by the first")                      \
  X(mask_of_first_row_half, "mask", "rows g + 8 get the mask of rows g")                           \
  X(diagonal_tile_whole, "mask",                                                                   \
    "a tile that the warp's last row sees to its end is taken to be seen by all rows")             \
  X(window_tile_whole, "mask",                                                                     \
    "a tile that the warp's first row sees from its start on is taken to be seen by all rows")     \
  X(warp_leaves_last_tile, "mask", "a warp leaves out its last tile if it is not full")            \
  X(first_tile_of_last_row, "mask", "window: the CTA begins with the first tile of its last row")  \
  E(ragged_warp_whole, "mask",                                                                     \
    "rows beyond nq count as if they saw what the warp's first row sees",                          \
    "They are not written; no row's bits depend on another's, and whether a tile is taken whole "  \
    "decides only how a row's weights are made.")                                                  \
  X(split_from_first_tile, "mask",                                                                 \
    "splits are counted from the first tile that is looked at, not from key 0")                    \
  X(split_end_not_asked, "mask",                                                                   \
    "a split's end is noticed only in tiles that are looked at closely")                           \
  X(quiet_a_step_longer, "mask",                                                                   \
    "whether a mask or the end of a split comes is not asked for one step too long")               \
  X(split_end_missed, "mask", "tiles of other sizes: no split ends but the last")                  \
  X(split_sums_not_reset, "mask", "the sums between splits begin with what lies there")            \
  X(split_keeps_l, "mask", "l is not cleared after a split")                                       \
  X(last_split_not_merged, "mask", "the last split has no part in the output")                     \
  R(split_sums_shared, "mask", "all CTAs keep their sums between splits in one place")             \
  /* ---- heads, blocks, output ---- */                                                            \
  X(items_of_odd_rounds_off_by_one, "output",                                                      \
    "items from the back, counted from 1: the round's first is left out, the next's taken twice")  \
  X(items_kept_again, "output",                                                                    \
    "instead of items that are not in shared memory, those that are there are taken again")        \
  E(items_from_the_front, "output", "a CTA's items are counted from the front in all rounds",      \
    "Each item still is one CTA's in one round; which CTA's and when decides nothing in its "      \
    "rows' bits.")                                                                                 \
  X(q_of_item_before, "output", "the next rows get Q and its scales of the rows before")           \
  X(q_scales_of_item_before, "output", "the next rows get Q's scales of the rows before")          \
  X(blocks_and_heads_exchanged, "output",                                                          \
    "the head is the item's number / blocks, the block its number / heads")                        \
  X(batch_of_kv_heads, "output", "the batch is the matrix' number / Hkv")                          \
  X(kv_head_modulo, "output",                                                                      \
    "query head h reads key/value head h % Hkv, here of the packed tiles")                         \
  X(matrix_pitch_rounded_down, "output", "packed: nk / tile tiles a matrix, not rounded up")       \
  X(v_scale_of_query_matrix, "output",                                                             \
    "V's scale, or its channels', is that of the query matrix' number")                            \
  X(row_sum_of_one_lane, "output", "the output is divided by the thread's own part of l")          \
  X(row_sum_of_wrong_quad, "output",                                                               \
    "the output is divided by the l of the wrong row: of lane g, not of lane 4g")                  \
  R(stage_barrier_missing, "output",                                                               \
    "between storing and loading the output in shared memory half of the warp is not waited for")  \
  R(stage_reused_early, "output",                                                                  \
    "half of the warp stores the next channels of the output while these are read")                \
  X(stage_swizzle_missing, "output",                                                               \
    "the output is stored in shared memory with a swizzle and read without")                       \
  X(factors_of_first_32, "output", "all channels get the factors of the first 32")                 \
  X(division_not_corrected, "output", "O times the reciprocal of L, without the two corrections")  \
  X(output_power_in_one_factor, "output",                                                          \
    "V per token: 2^(E' - E) is one factor, clamped to binary32's normal numbers")                 \
  X(output_pair_past_row, "output", "odd head_dim: an element more than a row has is written")     \
  X(last_row_unwritten, "output", "the last row is not written if nq is no multiple of 8")         \
  R(rows_beyond_nq_clamped, "output", "rows beyond nq are written too, to the last row")           \
  X(lse_of_first_row_half, "output", "log-sum-exp of rows g + 8 goes to the places of rows g")

#include "gpu/mutants/faults_sm90.h"

#define IFA_GPU_FAULT_ENUM(name, ...) IFA_GPU_FAULT_##name,
typedef enum ifa_gpu_fault {
  IFA_GPU_FAULT_none = 0, /* the oracle's bits */
  IFA_GPU_FAULTS(IFA_GPU_FAULT_ENUM, IFA_GPU_FAULT_ENUM, IFA_GPU_FAULT_ENUM)
      IFA_GPU_FAULTS_SM90(IFA_GPU_FAULT_ENUM, IFA_GPU_FAULT_ENUM, IFA_GPU_FAULT_ENUM)
          IFA_GPU_FAULT_COUNT
} ifa_gpu_fault;

#ifdef IFA_GPU_MUTANT
static __constant__ int gpu_fault;
#define FAULT(name) (gpu_fault == IFA_GPU_FAULT_##name)
/* Some 15 microseconds: many tiles' time. */
static __device__ __noinline__ void fault_late() {
  const long long start = clock64();
  while (clock64() - start < 25000) continue;
}
#endif

#endif
