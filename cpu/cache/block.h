/* block.h - the inside of a cache: its parts, and where a token lies in a block (docs/cache.md has
 * the picture). For cpu/ and for tests; ifa_cache.h is the interface.
 *
 * A block is [kv_heads][block_tokens / kv_tile] tiles of cpu/kernels/tile.h: what the kernels read,
 * INT4 in its folded form. */
#ifndef IFA_CPU_CACHE_BLOCK_H
#define IFA_CPU_CACHE_BLOCK_H

#include <pthread.h>

#include "common/problem.h"
#include "cpu/kernels/tile.h"
#include "ifa_cache.h"

typedef struct ifa_cache_slot {
  uint32_t generation; /* of the sequence that lives or will live here; 1 at first */
  int32_t live;
  int64_t length; /* tokens */
} ifa_cache_slot;

struct ifa_cache {
  ifa_cache_config config;
  ifa_cpu_layout layout; /* of a tile */
  int64_t tiles;         /* per head and block */
  size_t block_bytes;
  int64_t table_length;  /* entries of a sequence's table */
  ifa_cache_slot *slots; /* [sequences] */
  uint32_t *free_slots;  /* [sequences], a stack */
  int64_t free_slot_count;
  /* [sequences][table_length] block numbers; ceil(length / block_tokens) of them in use */
  uint32_t *tables;
  uint32_t *references;  /* [blocks] how many tables hold the block; 0: it is free */
  uint32_t *free_blocks; /* [blocks], a stack */
  int64_t free_block_count;
  uint32_t *seen;         /* [blocks] ifa_cache_check counts here */
  float *largest_k_scale; /* [blocks] of a full block's keys, over all heads */
  uint8_t *data;          /* [blocks][kv_heads][tiles] */
  void *allocated;        /* what ifa_cache_destroy frees, or NULL */
  /* over slots' life, references and free lists: never held while data are written or read */
  pthread_mutex_t lock;
};

static inline uint8_t *ifa_cache_tile(const ifa_cache *cache, uint32_t block, int64_t head,
                                      int64_t tile) {
  return cache->data + (size_t)block * cache->block_bytes +
         (size_t)((head * cache->tiles + tile) * cache->layout.bytes);
}

static inline uint32_t *ifa_cache_table(const ifa_cache *cache, int64_t slot) {
  return cache->tables + slot * cache->table_length;
}

static inline int64_t ifa_cache_blocks_of(const ifa_cache *cache, int64_t length) {
  return ifa_ceil_div(length, cache->config.block_tokens);
}

static inline void ifa_cache_lock(const ifa_cache *cache) {
  pthread_mutex_lock(&((ifa_cache *)(uintptr_t)cache)->lock);
}
static inline void ifa_cache_unlock(const ifa_cache *cache) {
  pthread_mutex_unlock(&((ifa_cache *)(uintptr_t)cache)->lock);
}

/* IFA_OK with *slot; IFA_BAD_ARGUMENT for a handle that does not live; IFA_BAD_DATA for a table
 * with an entry that cannot be. Under the lock. */
ifa_status ifa_cache_look_up(const ifa_cache *cache, ifa_sequence sequence, int64_t *slot,
                             ifa_message *message);

/* The caller's memory if it is aligned and large enough, or (memory NULL) a new piece, which is
 * then also at *allocated. */
ifa_status ifa_cache_memory(void *memory, size_t given, size_t needed, void **start,
                            void **allocated, ifa_message *message);

/* The largest K scale of the block's first `tokens` tokens, over all heads. */
float ifa_cache_largest_k_scale(const ifa_cache *cache, uint32_t block, int32_t tokens);

#endif
