/* cache.c - the paged key/value cache of ifa_cache.h: its memory, its blocks and sequences, and
 * what is written into and read out of them. Attention over it is in attend.c; where a token lies,
 * in block.h.
 *
 * A sequence's table belongs to whoever may change the sequence; blocks' reference counts and the
 * free lists belong to all and are guarded by the lock. A block is written only while one table
 * holds it. So a block that two tables hold is never written, and to copy it needs no lock: each
 * that goes on writing copies first and gives its reference back after. */
#include "cpu/cache/block.h"
#include "cpu/quantize/rows.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#ifdef __linux__
#include <sys/mman.h>
#endif

#include "common/contract.h"
#include "common/fpenv.h"
#include "common/inputs.h"
#include "common/message.h"
#include "common/operand.h"

/* ---- configuration and memory ---- */

ifa_cache_config ifa_cache_config_default(void) {
  return (ifa_cache_config){.kv_heads = 1,
                            .head_dim = 64,
                            .k_type = IFA_I8,
                            .v_type = IFA_I8,
                            .kv_tile = 64,
                            .block_tokens = 64,
                            .blocks = 1,
                            .sequences = 1};
}

static ifa_status check_config(const ifa_cache_config *c, ifa_message *message) {
  ifa_status status;
  if (!c) return ifa_fail(message, IFA_BAD_ARGUMENT, "config is NULL");
  if ((status = ifa_check_range("kv_heads", c->kv_heads, 1, 65535, message)) != IFA_OK)
    return status;
  if ((status = ifa_check_range("head_dim", c->head_dim, 1, IFA_MAX_HEAD_DIM, message)) != IFA_OK)
    return status;
  if ((status = ifa_check_type("k_type", c->k_type, IFA_I8, IFA_I4, message)) != IFA_OK)
    return status;
  if ((status = ifa_check_type("v_type", c->v_type, IFA_I8, IFA_I4, message)) != IFA_OK)
    return status;
  if (c->kv_tile != 32 && c->kv_tile != 64 && c->kv_tile != 128 && c->kv_tile != 256)
    return ifa_fail(message, IFA_BAD_ARGUMENT, "kv_tile is %d; it must be 32, 64, 128 or 256",
                    (int)c->kv_tile);
  if (c->block_tokens < 1 || c->block_tokens > IFA_MAX_KV_SPLIT ||
      c->block_tokens % c->kv_tile != 0)
    return ifa_fail(message, IFA_BAD_ARGUMENT,
                    "block_tokens is %d; it must be a multiple of kv_tile (%d), at most %d",
                    (int)c->block_tokens, (int)c->kv_tile, IFA_MAX_KV_SPLIT);
  if ((status = ifa_check_range("blocks", c->blocks, 1, INT32_MAX, message)) != IFA_OK)
    return status;
  if ((status = ifa_check_range("sequences", c->sequences, 1, 1 << 20, message)) != IFA_OK)
    return status;
  return ifa_check_range("sequence_tokens", c->sequence_tokens, 0, IFA_MAX_TOKENS, message);
}

static ifa_cpu_layout layout_of(const ifa_cache_config *c) {
  return ifa_cpu_layout_of(c->kv_tile, c->head_dim, c->k_type == IFA_I4 ? 4 : 8,
                           c->v_type == IFA_I4 ? 4 : 8);
}

static size_t block_bytes_of(const ifa_cache_config *c) {
  /* at most 2^9 * 2^16 * 2^16: no overflow */
  ifa_cpu_layout l = layout_of(c);
  return (size_t)l.bytes * (size_t)(c->block_tokens / c->kv_tile) * (size_t)c->kv_heads;
}

static int64_t longest_sequence(const ifa_cache_config *c) {
  return c->sequence_tokens ? c->sequence_tokens
                            : ifa_min64(c->blocks * c->block_tokens, IFA_MAX_TOKENS);
}

/* The parts of the one piece of memory, in this order. */
enum {
  AT_CACHE,
  AT_SLOTS,
  AT_FREE_SLOTS,
  AT_TABLES,
  AT_REFERENCES,
  AT_FREE_BLOCKS,
  AT_SEEN,
  AT_LARGEST,
  AT_DATA,
  AT_END,
  PARTS
};

/* Offsets of the parts; 0 if the sum does not fit a size_t. */
static int place_parts(const ifa_cache_config *c, size_t at[PARTS]) {
  size_t table = (size_t)ifa_ceil_div(longest_sequence(c), c->block_tokens),
         sequences = (size_t)c->sequences, blocks = (size_t)c->blocks;
  const size_t counts[AT_END] = {1,      sequences, sequences, sequences, blocks,
                                 blocks, blocks,    blocks,    blocks};
  const size_t each[AT_END] = {sizeof(ifa_cache), sizeof(ifa_cache_slot), 4, 4 * table, 4, 4, 4,
                               sizeof(float),     block_bytes_of(c)};
  at[AT_CACHE] = 0;
  for (int i = 0; i < AT_END; i++) {
    if (each[i] && counts[i] > (SIZE_MAX / 2 - at[i]) / each[i]) return 0;
    at[i + 1] = (at[i] + counts[i] * each[i] + IFA_CACHE_ALIGNMENT - 1) / IFA_CACHE_ALIGNMENT *
                IFA_CACHE_ALIGNMENT;
  }
  return 1;
}

static ifa_status place(const ifa_cache_config *config, size_t at[PARTS], ifa_message *message) {
  ifa_status status = check_config(config, message);
  if (status != IFA_OK) return status;
  if (!place_parts(config, at))
    return ifa_fail(message, IFA_BAD_ARGUMENT,
                    "blocks is %" PRId64 ": %" PRId64
                    " bytes each are more than an address reaches",
                    config->blocks, (int64_t)block_bytes_of(config));
  return IFA_OK;
}

ifa_status ifa_cache_bytes(const ifa_cache_config *config, size_t *bytes, ifa_message *message) {
  size_t at[PARTS];
  if (!bytes) return ifa_fail(message, IFA_BAD_ARGUMENT, "bytes is NULL");
  ifa_status status = place(config, at, message);
  if (status != IFA_OK) return status;
  *bytes = at[AT_END];
  return ifa_succeed(message);
}

int64_t ifa_cache_bytes_per_token(const ifa_cache_config *config) {
  if (check_config(config, NULL) != IFA_OK) return 0;
  return (int64_t)block_bytes_of(config) / config->block_tokens;
}

ifa_status ifa_cache_memory(void *memory, size_t given, size_t needed, void **start,
                            void **allocated, ifa_message *message) {
  *allocated = NULL;
  *start = memory;
  if (memory) {
    if ((uintptr_t)memory % IFA_CACHE_ALIGNMENT != 0)
      return ifa_fail(message, IFA_BAD_ARGUMENT, "memory is not aligned to %d bytes",
                      IFA_CACHE_ALIGNMENT);
    if (given < needed)
      return ifa_fail(message, IFA_BAD_ARGUMENT, "memory has %zu bytes; %zu are needed", given,
                      needed);
    return IFA_OK;
  }
  /* A table leads all over the memory: with pages of 4 KiB each tile misses the TLB several times.
   */
  size_t huge = (size_t)2 << 20, alignment = needed >= 4 * huge ? huge : IFA_CACHE_ALIGNMENT;
  needed = (needed + alignment - 1) / alignment * alignment;
  *start = *allocated = aligned_alloc(alignment, needed);
  if (!*start) return ifa_fail(message, IFA_OUT_OF_MEMORY, "no memory for %zu bytes", needed);
#ifdef MADV_HUGEPAGE
  if (alignment == huge) madvise(*start, needed, MADV_HUGEPAGE); /* a hint: refused is no harm */
#endif
  return IFA_OK;
}

ifa_status ifa_cache_create(const ifa_cache_config *config, void *memory, size_t bytes,
                            ifa_cache **created, ifa_message *message) {
  size_t at[PARTS];
  void *start, *allocated;
  if (!created) return ifa_fail(message, IFA_BAD_ARGUMENT, "cache is NULL");
  *created = NULL;
  ifa_status status = place(config, at, message);
  if (status == IFA_OK)
    status = ifa_cache_memory(memory, bytes, at[AT_END], &start, &allocated, message);
  if (status != IFA_OK) return status;

  uint8_t *base = start;
  ifa_cache *cache = start;
  memset(base, 0, at[AT_DATA]); /* the blocks are cleared as they are filled */
  cache->config = *config;
  cache->config.sequence_tokens = longest_sequence(config);
  cache->layout = layout_of(config);
  cache->tiles = config->block_tokens / config->kv_tile;
  cache->block_bytes = block_bytes_of(config);
  cache->table_length = ifa_ceil_div(cache->config.sequence_tokens, config->block_tokens);
  cache->slots = (ifa_cache_slot *)(base + at[AT_SLOTS]);
  cache->free_slots = (uint32_t *)(base + at[AT_FREE_SLOTS]);
  cache->tables = (uint32_t *)(base + at[AT_TABLES]);
  cache->references = (uint32_t *)(base + at[AT_REFERENCES]);
  cache->free_blocks = (uint32_t *)(base + at[AT_FREE_BLOCKS]);
  cache->seen = (uint32_t *)(base + at[AT_SEEN]);
  cache->largest_k_scale = (float *)(base + at[AT_LARGEST]);
  cache->data = base + at[AT_DATA];
  cache->allocated = allocated;
  cache->free_slot_count = config->sequences;
  cache->free_block_count = config->blocks;
  for (int64_t i = 0; i < config->sequences; i++) {
    cache->slots[i].generation = 1;
    cache->free_slots[i] = (uint32_t)(config->sequences - 1 - i); /* number 0 is given out first */
  }
  for (int64_t i = 0; i < config->blocks; i++)
    cache->free_blocks[i] = (uint32_t)(config->blocks - 1 - i);
  if (pthread_mutex_init(&cache->lock, NULL) != 0) {
    free(allocated);
    return ifa_fail(message, IFA_OUT_OF_MEMORY, "no resources for a lock");
  }
  *created = cache;
  return ifa_succeed(message);
}

void ifa_cache_destroy(ifa_cache *cache) {
  if (!cache) return;
  pthread_mutex_destroy(&cache->lock);
  free(cache->allocated);
}

/* ---- blocks and sequences: all under the lock ---- */

static uint32_t take_block(ifa_cache *cache) {
  uint32_t block = cache->free_blocks[--cache->free_block_count];
  cache->references[block] = 1;
  return block;
}

static void give_block_back(ifa_cache *cache, uint32_t block) {
  if (--cache->references[block] == 0) cache->free_blocks[cache->free_block_count++] = block;
}

ifa_status ifa_cache_look_up(const ifa_cache *cache, ifa_sequence sequence, int64_t *found,
                             ifa_message *message) {
  int64_t slot = (int64_t)(sequence & 0xffffffffu); /* a handle: the generation above the place */
  if (slot >= cache->config.sequences || !cache->slots[slot].live ||
      cache->slots[slot].generation != sequence >> 32)
    return ifa_fail(message, IFA_BAD_ARGUMENT,
                    "there is no sequence %#" PRIx64 " (never given out, or removed)", sequence);
  int64_t length = cache->slots[slot].length;
  if (length < 0 || length > cache->config.sequence_tokens)
    return ifa_fail(message, IFA_BAD_DATA, "sequence %#" PRIx64 ": a length of %" PRId64, sequence,
                    length);
  const uint32_t *table = ifa_cache_table(cache, slot);
  for (int64_t i = 0; i < ifa_cache_blocks_of(cache, length); i++)
    if (table[i] >= cache->config.blocks || cache->references[table[i]] == 0)
      return ifa_fail(
          message, IFA_BAD_DATA,
          "sequence %#" PRIx64 ": block table entry %" PRId64 " is %" PRIu32 ", which is %s",
          sequence, i, table[i], table[i] >= cache->config.blocks ? "no block" : "a free block");
  *found = slot;
  return IFA_OK;
}

/* A place for a sequence of `length` tokens whose table is still to be written. */
static ifa_status take_slot(ifa_cache *cache, int64_t length, int64_t *slot, ifa_message *message) {
  if (cache->free_slot_count == 0)
    return ifa_fail(message, IFA_FULL, "all %" PRId64 " sequences are in use",
                    cache->config.sequences);
  *slot = cache->free_slots[--cache->free_slot_count];
  cache->slots[*slot].live = 1;
  cache->slots[*slot].length = length;
  return IFA_OK;
}

static ifa_sequence handle_of(const ifa_cache *cache, int64_t slot) {
  return (uint64_t)cache->slots[slot].generation << 32 | (uint64_t)slot;
}

/* Gives the blocks behind the first `length` tokens back. */
static void shorten(ifa_cache *cache, int64_t slot, int64_t length) {
  const uint32_t *table = ifa_cache_table(cache, slot);
  int64_t keep = ifa_cache_blocks_of(cache, length);
  for (int64_t i = ifa_cache_blocks_of(cache, cache->slots[slot].length) - 1; i >= keep; i--)
    give_block_back(cache, table[i]);
  cache->slots[slot].length = length;
}

ifa_status ifa_cache_add(ifa_cache *cache, ifa_sequence *sequence, ifa_message *message) {
  int64_t slot = 0;
  if (!cache || !sequence)
    return ifa_fail(message, IFA_BAD_ARGUMENT, "%s is NULL", cache ? "sequence" : "cache");
  *sequence = 0;
  ifa_cache_lock(cache);
  ifa_status status = take_slot(cache, 0, &slot, message);
  if (status == IFA_OK) *sequence = handle_of(cache, slot);
  ifa_cache_unlock(cache);
  return status == IFA_OK ? ifa_succeed(message) : status;
}

ifa_status ifa_cache_fork(ifa_cache *cache, ifa_sequence parent, ifa_sequence *child,
                          ifa_message *message) {
  int64_t from = 0, to = 0;
  if (!cache || !child)
    return ifa_fail(message, IFA_BAD_ARGUMENT, "%s is NULL", cache ? "child" : "cache");
  *child = 0;
  ifa_cache_lock(cache);
  ifa_status status = ifa_cache_look_up(cache, parent, &from, message);
  if (status == IFA_OK) status = take_slot(cache, cache->slots[from].length, &to, message);
  if (status == IFA_OK) {
    const uint32_t *source = ifa_cache_table(cache, from);
    uint32_t *table = ifa_cache_table(cache, to);
    for (int64_t i = 0; i < ifa_cache_blocks_of(cache, cache->slots[from].length); i++) {
      table[i] = source[i];
      cache->references[source[i]]++;
    }
    *child = handle_of(cache, to);
  }
  ifa_cache_unlock(cache);
  return status == IFA_OK ? ifa_succeed(message) : status;
}

ifa_status ifa_cache_truncate(ifa_cache *cache, ifa_sequence sequence, int64_t length,
                              ifa_message *message) {
  int64_t slot = 0;
  if (!cache) return ifa_fail(message, IFA_BAD_ARGUMENT, "cache is NULL");
  ifa_cache_lock(cache);
  ifa_status status = ifa_cache_look_up(cache, sequence, &slot, message);
  if (status == IFA_OK)
    status = ifa_check_range("length", length, 0, cache->slots[slot].length, message);
  if (status == IFA_OK) shorten(cache, slot, length);
  ifa_cache_unlock(cache);
  return status == IFA_OK ? ifa_succeed(message) : status;
}

ifa_status ifa_cache_remove(ifa_cache *cache, ifa_sequence sequence, ifa_message *message) {
  int64_t slot = 0;
  if (!cache) return ifa_fail(message, IFA_BAD_ARGUMENT, "cache is NULL");
  ifa_cache_lock(cache);
  ifa_status status = ifa_cache_look_up(cache, sequence, &slot, message);
  if (status == IFA_OK) {
    ifa_cache_slot *s = &cache->slots[slot];
    shorten(cache, slot, 0);
    s->live = 0;
    if (++s->generation == 0) s->generation = 1; /* a handle is never 0 */
    cache->free_slots[cache->free_slot_count++] = (uint32_t)slot;
  }
  ifa_cache_unlock(cache);
  return status == IFA_OK ? ifa_succeed(message) : status;
}

ifa_status ifa_cache_length(const ifa_cache *cache, ifa_sequence sequence, int64_t *length,
                            ifa_message *message) {
  int64_t slot = 0;
  if (!cache || !length)
    return ifa_fail(message, IFA_BAD_ARGUMENT, "%s is NULL", cache ? "length" : "cache");
  ifa_cache_lock(cache);
  ifa_status status = ifa_cache_look_up(cache, sequence, &slot, message);
  if (status == IFA_OK) *length = cache->slots[slot].length;
  ifa_cache_unlock(cache);
  return status == IFA_OK ? ifa_succeed(message) : status;
}

ifa_cache_usage ifa_cache_usage_of(const ifa_cache *cache) {
  ifa_cache_usage usage = {0, 0, 0};
  if (!cache) return usage;
  ifa_cache_lock(cache);
  usage.free_blocks = cache->free_block_count;
  usage.free_sequences = cache->free_slot_count;
  for (int64_t i = 0; i < cache->config.blocks; i++)
    usage.shared_blocks += cache->references[i] > 1;
  ifa_cache_unlock(cache);
  return usage;
}

static ifa_status check_free_lists(const ifa_cache *cache, ifa_message *message) {
  const ifa_cache_config *c = &cache->config;
  if (cache->free_block_count < 0 || cache->free_block_count > c->blocks ||
      cache->free_slot_count < 0 || cache->free_slot_count > c->sequences)
    return ifa_fail(message, IFA_BAD_DATA,
                    "%" PRId64 " free blocks of %" PRId64 ", %" PRId64
                    " free sequences of %" PRId64,
                    cache->free_block_count, c->blocks, cache->free_slot_count, c->sequences);
  for (int64_t i = 0; i < cache->free_block_count; i++) {
    uint32_t block = cache->free_blocks[i];
    if (block >= c->blocks || cache->references[block] != 0 || cache->seen[block]++ != 0)
      return ifa_fail(message, IFA_BAD_DATA,
                      "free block %" PRId64 " is %" PRIu32 ", in use or listed twice", i, block);
  }
  int64_t live = 0;
  for (int64_t i = 0; i < c->sequences; i++) live += cache->slots[i].live;
  if (live + cache->free_slot_count != c->sequences)
    return ifa_fail(message, IFA_BAD_DATA,
                    "%" PRId64 " sequences live and %" PRId64 " are free, of %" PRId64, live,
                    cache->free_slot_count, c->sequences);
  for (int64_t i = 0; i < cache->free_slot_count; i++)
    if (cache->free_slots[i] >= c->sequences || cache->slots[cache->free_slots[i]].live)
      return ifa_fail(message, IFA_BAD_DATA,
                      "free sequence %" PRId64 " is %" PRIu32 ", which lives", i,
                      cache->free_slots[i]);
  return IFA_OK;
}

static ifa_status check_tables(const ifa_cache *cache, ifa_message *message) {
  for (int64_t slot = 0; slot < cache->config.sequences; slot++) {
    int64_t found;
    if (!cache->slots[slot].live) continue;
    ifa_status status = ifa_cache_look_up(cache, handle_of(cache, slot), &found, message);
    if (status != IFA_OK) return IFA_BAD_DATA;
    for (int64_t i = 0; i < ifa_cache_blocks_of(cache, cache->slots[slot].length); i++)
      cache->seen[ifa_cache_table(cache, slot)[i]]++;
  }
  for (int64_t block = 0; block < cache->config.blocks; block++)
    if (cache->references[block] != 0 ? cache->seen[block] != cache->references[block]
                                      : cache->seen[block] != 1)
      return ifa_fail(message, IFA_BAD_DATA,
                      "block %" PRId64 " counts %" PRIu32 " references; %" PRIu32
                      " tables or free lists hold it",
                      block, cache->references[block], cache->seen[block]);
  return IFA_OK;
}

ifa_status ifa_cache_check(const ifa_cache *cache, ifa_message *message) {
  if (!cache) return ifa_fail(message, IFA_BAD_ARGUMENT, "cache is NULL");
  ifa_cache_lock(cache);
  memset(cache->seen, 0, (size_t)cache->config.blocks * sizeof *cache->seen);
  ifa_status status = check_free_lists(cache, message); /* each free block is now seen once */
  if (status == IFA_OK) status = check_tables(cache, message);
  ifa_cache_unlock(cache);
  return status == IFA_OK ? ifa_succeed(message) : status;
}

/* ---- writing tokens ---- */

/* A row of 64 bytes holds 4 channels of 16 keys: this key's are 4 neighbours. INT4: two such rows
 * are folded into one. */
static void put_k(const ifa_cpu_layout *l, uint8_t *tile, int32_t key, const int8_t *q,
                  float scale) {
  int32_t sum = 0, shift;
  for (int32_t d = 0; d < l->dim; d++) sum += q[d];
  uint8_t *to = tile + ifa_cpu_k_at(l, key, 0, &shift);
  if (l->k_bits == 8) {
    for (int32_t d = 0; d < l->dim; d += 4) memcpy(to + 16 * d, q + d, 4);
  } else {
    for (int32_t d = 0; d < l->dim; d += 8)
      for (int32_t i = 0; i < 4; i++)
        to[8 * d + i] = (uint8_t)((q[d + i] & 15) | (q[d + i + 4] & 15) << 4);
  }
  ifa_cpu_k_scale(l, tile)[key] = scale;
  ifa_cpu_k_bias(l, tile)[key] = -128 * sum;
}

/* A row of 64 bytes holds 4 keys of 16 channels. INT4: the key's nibble of each byte, the other
 * being another key's. */
static void put_v(const ifa_cpu_layout *l, uint8_t *tile, int32_t key, const int8_t *q,
                  float scale) {
  int32_t shift;
  uint8_t *to = tile + ifa_cpu_v_at(l, key, 0, &shift);
  if (l->v_bits == 8) {
    for (int32_t d = 0; d < l->dim; d++) to[4 * d] = (uint8_t)q[d];
  } else {
    for (int32_t d = 0; d < l->dim; d++)
      to[4 * d] = (uint8_t)((to[4 * d] & (0xf0 >> shift)) | (q[d] & 15) << shift);
  }
  ifa_cpu_v_scale(l, tile)[key] = scale;
}

/* Checks all but the elements, and writes out the strides that are 0. */
static ifa_status check_tokens(const ifa_cache *cache, ifa_cache_tokens *t, ifa_message *message) {
  int64_t heads = cache->config.kv_heads, dim = cache->config.head_dim;
  ifa_status status = ifa_check_type("type", t->type, IFA_F32, IFA_BF16, message);
  if (status == IFA_OK) status = ifa_check_range("count", t->count, 0, IFA_MAX_TOKENS, message);
  if (status != IFA_OK) return status;
  ifa_strides k = {0, t->k_head_stride, t->k_token_stride},
              v = {0, t->v_head_stride, t->v_token_stride};
  if (k.head == 0 && k.token == 0) k = ifa_strides_bhnd(t->type, heads, t->count, dim);
  if (v.head == 0 && v.token == 0) v = ifa_strides_bhnd(t->type, heads, t->count, dim);
  if (ifa_check_strides("k's stride", t->type, k, 1, heads, t->count, dim, 0, message) != IFA_OK ||
      ifa_check_strides("v's stride", t->type, v, 1, heads, t->count, dim, 0, message) != IFA_OK)
    return IFA_BAD_ARGUMENT;
  if (t->count && (!t->k || !t->v))
    return ifa_fail(message, IFA_BAD_ARGUMENT, "%s is NULL", t->k ? "v" : "k");
  t->k_head_stride = k.head;
  t->k_token_stride = k.token;
  t->v_head_stride = v.head;
  t->v_token_stride = v.token;
  return IFA_OK;
}

/* Every element is finite and at most 2^99. */
static ifa_status check_elements(const ifa_cache *cache, const char *name, ifa_type type,
                                 const void *from, int64_t count, int64_t head_stride,
                                 int64_t token_stride, ifa_message *message) {
  const ifa_row_kernels *rows = ifa_row_kernels_best();
  float x[IFA_MAX_HEAD_DIM];
  for (int64_t h = 0; h < cache->config.kv_heads; h++)
    for (int64_t t = 0; t < count; t++) {
      int64_t index = h * head_stride + t * token_stride;
      uint32_t largest = type == IFA_F32
                             ? rows->largest((const float *)from + index, cache->config.head_dim, 0)
                             : rows->widen(type, from, index, cache->config.head_dim, x);
      if (largest <= IFA_ROW_LARGEST) continue;
      int32_t d = 0;
      while (fabsf(ifa_float_get(type, from, index + d)) <= 0x1p99f) d++;
      return ifa_fail(message, IFA_BAD_DATA,
                      "%s[%" PRId64 "][%" PRId64 "][%" PRId32
                      "] is %g; elements must be finite and at most 2^99",
                      name, h, t, d, (double)ifa_float_get(type, from, index + d));
    }
  return IFA_OK;
}

enum { TOGETHER = 16 };

/* Rows of one of K and V, up to 16 neighbours of a tile, from token i of `t` on. */
typedef struct rows_of {
  int8_t q[TOGETHER][IFA_MAX_HEAD_DIM], *row[TOGETHER];
  float scale[TOGETHER];
} rows_of;

static void quantize_rows(const ifa_cache *cache, const ifa_cache_tokens *t, const void *from,
                          int64_t at, int64_t token_stride, int32_t count, ifa_type type,
                          rows_of *to) {
  int64_t each[TOGETHER];
  for (int32_t i = 0; i < count; i++) each[i] = at + i * token_stride;
  /* the elements were checked */
  ifa_row_kernels_best()->token_rows(t->type, from, each, count, cache->config.head_dim,
                                     type == IFA_I4 ? 7 : 127, NULL, to->scale, to->row);
}

/* Keys key .. key + count - 1 of a tile, 16 at once where they are whole groups of INT8. */
static void put_rows(const ifa_cpu_layout *l, uint8_t *tile, int32_t key, int32_t count,
                     const rows_of *k, const rows_of *v) {
  const int whole = count == TOGETHER;
  if (whole && l->k_bits == 8) {
    ifa_cpu_put_keys(l, tile, key, (const int8_t *const *)k->row);
    memcpy(ifa_cpu_k_scale(l, tile) + key, k->scale, sizeof k->scale);
  }
  if (whole && l->v_bits == 8) {
    ifa_cpu_put_values(l, tile, key, (const int8_t *const *)v->row);
    memcpy(ifa_cpu_v_scale(l, tile) + key, v->scale, sizeof v->scale);
  }
  for (int32_t i = 0; i < count; i++) {
    if (!whole || l->k_bits != 8) put_k(l, tile, key + i, k->q[i], k->scale[i]);
    if (!whole || l->v_bits != 8) put_v(l, tile, key + i, v->q[i], v->scale[i]);
  }
}

/* One head's tokens into the sequence's blocks, from token `first` on. */
static void write_head(const ifa_cache *cache, const uint32_t *table, int64_t first,
                       const ifa_cache_tokens *t, int64_t head) {
  const ifa_cache_config *c = &cache->config;
  const ifa_cpu_layout *l = &cache->layout;
  rows_of k, v;
  for (int32_t i = 0; i < TOGETHER; i++) {
    k.row[i] = k.q[i];
    v.row[i] = v.q[i];
    if (l->dim == c->head_dim) continue; /* elements behind head_dim stay 0 */
    memset(k.q[i], 0, sizeof k.q[i]);
    memset(v.q[i], 0, sizeof v.q[i]);
  }
  for (int64_t i = 0, count; i < t->count; i += count) {
    int64_t in_block = (first + i) % c->block_tokens;
    int32_t key = (int32_t)(in_block % c->kv_tile);
    uint8_t *tile =
        ifa_cache_tile(cache, table[(first + i) / c->block_tokens], head, in_block / c->kv_tile);
    count = ifa_min64(TOGETHER - key % TOGETHER, t->count - i);
    if (key == 0) { /* nothing in a tile is ever unset, live or not */
      memset(tile, 0, (size_t)l->bytes);
      ifa_cpu_head(l, tile)->k_factor = 1.0f;
    }
    quantize_rows(cache, t, t->k, head * t->k_head_stride + i * t->k_token_stride,
                  t->k_token_stride, (int32_t)count, c->k_type, &k);
    quantize_rows(cache, t, t->v, head * t->v_head_stride + i * t->v_token_stride,
                  t->v_token_stride, (int32_t)count, c->v_type, &v);
    put_rows(l, tile, key, (int32_t)count, &k, &v);
    if (key + count == c->kv_tile) ifa_cpu_complete_values(l, tile);
  }
}

float ifa_cache_largest_k_scale(const ifa_cache *cache, uint32_t block, int32_t tokens) {
  const ifa_row_kernels *rows = ifa_row_kernels_best();
  const int32_t keys = cache->config.kv_tile;
  uint32_t largest = 0; /* of patterns: no scale is negative */
  for (int64_t h = 0; h < cache->config.kv_heads; h++)
    for (int32_t i = 0; i < tokens; i += keys)
      largest =
          rows->largest(ifa_cpu_k_scale(&cache->layout, ifa_cache_tile(cache, block, h, i / keys)),
                        tokens - i < keys ? tokens - i : keys, largest);
  return ifa_f32_of_bits(largest);
}

/* The tiles that hold the block's first `tokens` tokens. */
static void copy_block(const ifa_cache *cache, uint32_t to, uint32_t from, int32_t tokens) {
  size_t bytes = (size_t)(ifa_ceil_div(tokens, cache->config.kv_tile) * cache->layout.bytes);
  for (int64_t h = 0; h < cache->config.kv_heads; h++)
    memcpy(ifa_cache_tile(cache, to, h, 0), ifa_cache_tile(cache, from, h, 0), bytes);
}

/* Room for tokens length .. end - 1 in the sequence's table: *copied is the shared block that the
 * last one must be copied from, or the last one itself. Under the lock. */
static ifa_status make_room(ifa_cache *cache, int64_t slot, int64_t end, uint32_t *copied,
                            ifa_message *message) {
  uint32_t *table = ifa_cache_table(cache, slot);
  int64_t length = cache->slots[slot].length, have = ifa_cache_blocks_of(cache, length),
          want = ifa_cache_blocks_of(cache, end);
  int partial = end > length && length % cache->config.block_tokens != 0,
      copy = partial && cache->references[table[have - 1]] > 1;
  if (end > cache->config.sequence_tokens)
    return ifa_fail(message, IFA_FULL,
                    "the sequence would have %" PRId64
                    " tokens; the cache's sequences hold at most %" PRId64,
                    end, cache->config.sequence_tokens);
  if (want - have + copy > cache->free_block_count)
    return ifa_fail(message, IFA_FULL,
                    "%" PRId64 " blocks are needed, %" PRId64 " of %" PRId64 " are free",
                    want - have + copy, cache->free_block_count, cache->config.blocks);
  if (partial) *copied = table[have - 1];
  if (copy) table[have - 1] = take_block(cache);
  for (int64_t i = have; i < want; i++) table[i] = take_block(cache);
  return IFA_OK;
}

ifa_status ifa_cache_append(ifa_cache *cache, ifa_sequence sequence, const ifa_cache_tokens *tokens,
                            ifa_message *message) {
  if (!cache || !tokens)
    return ifa_fail(message, IFA_BAD_ARGUMENT, "%s is NULL", cache ? "tokens" : "cache");
  const ifa_cache_config *c = &cache->config;
  ifa_cache_tokens t = *tokens;
  int64_t slot = 0, length = 0;
  uint32_t copied = 0;
  ifa_fpenv env;
  ifa_status status = check_tokens(cache, &t, message);
  if (status != IFA_OK) return status;
  ifa_fpenv_enter(&env);
  status =
      check_elements(cache, "k", t.type, t.k, t.count, t.k_head_stride, t.k_token_stride, message);
  if (status == IFA_OK)
    status = check_elements(cache, "v", t.type, t.v, t.count, t.v_head_stride, t.v_token_stride,
                            message);
  if (status == IFA_OK) {
    ifa_cache_lock(cache);
    status = ifa_cache_look_up(cache, sequence, &slot, message);
    if (status == IFA_OK)
      status =
          make_room(cache, slot, (length = cache->slots[slot].length) + t.count, &copied, message);
    ifa_cache_unlock(cache);
  }
  if (status != IFA_OK || t.count == 0) {
    ifa_fpenv_leave(&env);
    return status == IFA_OK ? ifa_succeed(message) : status;
  }

  const uint32_t *table = ifa_cache_table(cache, slot);
  int32_t partial = (int32_t)(length % c->block_tokens);
  int copy = partial && table[length / c->block_tokens] != copied;
  if (copy) copy_block(cache, table[length / c->block_tokens], copied, partial);
  for (int64_t h = 0; h < c->kv_heads; h++) write_head(cache, table, length, &t, h);
  for (int64_t i = length / c->block_tokens; (i + 1) * c->block_tokens <= length + t.count; i++)
    cache->largest_k_scale[table[i]] = ifa_cache_largest_k_scale(cache, table[i], c->block_tokens);
  ifa_fpenv_leave(&env);

  ifa_cache_lock(cache);
  if (copy) give_block_back(cache, copied);
  cache->slots[slot].length = length + t.count;
  ifa_cache_unlock(cache);
  return ifa_succeed(message);
}

/* ---- reading tokens ---- */

static int32_t element_at(const uint8_t *tile, int32_t bits, size_t at, int32_t shift) {
  return bits == 8 ? (int8_t)tile[at] : ((tile[at] >> shift & 15) ^ 8) - 8;
}

/* Key `key` of a tile as token `to` of the dense outputs. An INT4 row of odd length ends in a
 * nibble that is 0, here as there. */
static void read_token(const ifa_cache *cache, const uint8_t *tile, int32_t key, int64_t to,
                       void *k, void *v, float *k_scale, float *v_scale) {
  const ifa_cache_config *c = &cache->config;
  const ifa_cpu_layout *l = &cache->layout;
  int64_t k_row = l->k_bits == 4 ? (c->head_dim + 1) / 2 * 2 : c->head_dim,
          v_row = l->v_bits == 4 ? (c->head_dim + 1) / 2 * 2 : c->head_dim;
  int32_t shift;
  for (int32_t d = 0; k && d < k_row; d++) {
    size_t at = ifa_cpu_k_at(l, key, d, &shift);
    ifa_operand_set(c->k_type, k, to * k_row + d, element_at(tile, l->k_bits, at, shift));
  }
  for (int32_t d = 0; v && d < v_row; d++) {
    size_t at = ifa_cpu_v_at(l, key, d, &shift);
    ifa_operand_set(c->v_type, v, to * v_row + d, element_at(tile, l->v_bits, at, shift));
  }
  if (k_scale) k_scale[to] = ifa_cpu_k_scale(l, tile)[key];
  if (v_scale) v_scale[to] = ifa_cpu_v_scale(l, tile)[key];
}

ifa_status ifa_cache_read(const ifa_cache *cache, ifa_sequence sequence, int64_t first,
                          int64_t count, void *k, void *v, float *k_scale, float *v_scale,
                          ifa_message *message) {
  int64_t slot = 0;
  if (!cache) return ifa_fail(message, IFA_BAD_ARGUMENT, "cache is NULL");
  const ifa_cache_config *c = &cache->config;
  ifa_cache_lock(cache);
  ifa_status status = ifa_cache_look_up(cache, sequence, &slot, message);
  if (status == IFA_OK)
    status = ifa_check_range("first", first, 0, cache->slots[slot].length, message);
  if (status == IFA_OK)
    status = ifa_check_range("count", count, 0, cache->slots[slot].length - first, message);
  ifa_cache_unlock(cache);
  if (status != IFA_OK) return status;
  for (int64_t h = 0; h < c->kv_heads; h++)
    for (int64_t i = 0; i < count; i++) {
      int64_t in_block = (first + i) % c->block_tokens;
      const uint8_t *tile =
          ifa_cache_tile(cache, ifa_cache_table(cache, slot)[(first + i) / c->block_tokens], h,
                         in_block / c->kv_tile);
      read_token(cache, tile, (int32_t)(in_block % c->kv_tile), h * count + i, k, v, k_scale,
                 v_scale);
    }
  return ifa_succeed(message);
}

ifa_problem ifa_cache_problem(const ifa_cache *cache, int64_t q_heads) {
  ifa_problem p = ifa_problem_default();
  p.q_heads = q_heads;
  p.kv_heads = cache->config.kv_heads;
  p.head_dim = cache->config.head_dim;
  p.k_type = cache->config.k_type;
  p.v_type = cache->config.v_type;
  p.kv_tile = cache->config.kv_tile;
  p.q_scale = p.k_scale = p.v_scale = IFA_SCALE_TOKEN;
  return p;
}
