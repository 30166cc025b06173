/* cache_model.h - a plain model of the cache of ifa_cache.h, to hold it against: a sequence is an
 * array of token numbers, and a token's K and V are a function of its number. Blocks are labels,
 * counted by looking at all tables. Used by test_cache.c and fuzz_cache.c. */
#ifndef IFA_TESTS_CACHE_MODEL_H
#define IFA_TESTS_CACHE_MODEL_H

#include <stdbool.h>

#include "ifa_cache.h"

enum { MODEL_SEQUENCES = 12, MODEL_TOKENS = 1200, MODEL_BLOCKS = 64 };

typedef struct model_sequence {
  bool live;
  ifa_sequence handle;
  int64_t length;
  uint64_t token[MODEL_TOKENS];
  int label[MODEL_BLOCKS]; /* of the blocks that hold them */
} model_sequence;

typedef struct model {
  /* at most MODEL_SEQUENCES sequences of MODEL_TOKENS tokens and MODEL_BLOCKS blocks */
  ifa_cache_config config;
  ifa_cache *cache;
  model_sequence sequences[MODEL_SEQUENCES];
  int labels;      /* given out so far */
  uint64_t tokens; /* given out so far */
} model;

/* Defined by who uses the model: stops the test if `holds` is false. */
void model_require(bool holds, const char *what, const char *why);

/* The element of a token's K (which 0) or V (1) before it is rounded to the type that it arrives
 * in. */
float model_element(uint64_t token, int which, int64_t head, int64_t d);

void model_create(model *m, const ifa_cache_config *config, void *memory, size_t bytes);
void model_destroy(model *m);

/* Each does one thing to the cache and to the model, and requires of the cache the status that the
 * model foresees. */
void model_add(model *m, int at); /* place `at` of the model is not live */
void model_fork(model *m, int from, int at);
void model_truncate(model *m, int at, int64_t length);
void model_remove(model *m, int at); /* also: the handle is refused afterwards */
ifa_status model_append(model *m, int at, int64_t count, ifa_type type, bool token_major);

/* Requires that the cache holds what the model holds: lengths, counts of free blocks and sequences,
 * its own check, and every token of every sequence as ifa_quantize writes it. */
void model_compare(const model *m);

/* The sequence's tokens as ifa_quantize writes them, dense [kv_heads][length][head_dim]; to be
 * freed with model_free_operands. */
typedef struct model_operands {
  void *k, *v;
  float *k_scale, *v_scale;
} model_operands;

model_operands model_quantized(const model *m, int at);
void model_free_operands(model_operands *o);

/* One call of ifa_cache_attend over `count` queries: query i is for the model's sequence places[i]
 * with nq[i] rows, Q drawn from `seed` and given as q_type (or, q_type being the problem's,
 * quantized). Requires each to be what ifa_run("scalar") gives. */
void model_attend(const model *m, const ifa_problem *problem, const int *places, const int64_t *nq,
                  int count, ifa_type q_type, uint64_t seed, int32_t threads);

#endif
