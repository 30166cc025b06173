#include "validate/diagnosis/shared.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>

/* ---- what can be said of a case ---- */

typedef struct property {
  const char *yes, *no; /* `no` NULL: not worth saying */
  int not_of_floats;    /* a kernel of floats does not see it */
} property;

/* In the order of preference, where several would do. */
static const property properties[] = {
    {"causal=1", "causal=0", 0},
    {"a window", "no window", 0},
    {"hq > hkv", "hq = hkv", 0},
    {"hkv > 1", "hkv=1", 0},
    {"b > 1", "b=1", 0},
    {"hq > 1", "hq=1", 0},
    {"nq > nk", NULL, 0},
    {"nq < nk", NULL, 0},
    {"nq = nk", "nq != nk", 0},
    {"rows that see no key", NULL, 0},
    {"nk=0", NULL, 0},
    {"d not a multiple of 8", "d a multiple of 8", 0},
    {"d not a multiple of 16", "d a multiple of 16", 0},
    {"d > 128", "d <= 128", 0},
    {"d > 64", "d <= 64", 0},
    {"lse=1", "lse=0", 0},
    {"out=f32", NULL, 0},
    {"out=f16", NULL, 0},
    {"out=bf16", NULL, 0},
    {"sm given", "sm=auto", 0},
    {"strides that are not dense", "dense strides", 0},
    {"chosen rows", "all rows", 0},
    {"nk not a multiple of 64", "nk a multiple of 64", 0},
    {"nk > 64", "nk <= 64", 0},
    {"nk > 128", "nk <= 128", 0},
    {"nk > 256", "nk <= 256", 0},
    {"nk > 1024", "nk <= 1024", 0},
    {"nk > 32768", "nk <= 32768", 0},
    {"nq > 1", "nq=1", 0},
    {"nq > 64", "nq <= 64", 0},
    {"several splits", "one split", 1},
    {"q=int4", "q=int8", 1},
    {"k=int4", "k=int8", 1},
    {"v=int4", "v=int8", 1},
    {"V per token", "V not per token", 1},
    {"vscale=tensor", NULL, 1},
    {"vscale=channel", NULL, 1},
    {"vscale=token", NULL, 1},
    {"vscale=token_channel", NULL, 1},
    {"qscale=token", "qscale not token", 1},
    {"kscale=token", "kscale not token", 1},
    {"qscale=block", NULL, 1},
    {"kscale=block", NULL, 1},
    {"tau=0", NULL, 1},
    {"tau=inf", NULL, 1},
    {"tile=64", "tile not 64", 1},
    {"smooth=1", NULL, 1},
    {"qexp, kexp or vexp", "no qexp, kexp, vexp", 0},
    {"minus_zero=1", NULL, 0},
};
enum {
  PROPERTIES = sizeof properties / sizeof properties[0],
  WORDS = 2 * PROPERTIES + IFA_FILL_COUNT
};

static int empty_rows(const ifa_problem *p) {
  return p->nk == 0 || (p->causal && p->nq > p->nk) || (p->window && p->nq >= p->nk + p->window);
}

/* In the order of the list. */
static void find_properties(const ifa_case *c, unsigned char is[PROPERTIES]) {
  const ifa_problem *p = &c->problem;
  int64_t split = p->kv_split ? p->kv_split : 32768;
  int dense = p->q_stride.token == 0 && p->k_stride.token == 0 && p->v_stride.token == 0 &&
              p->o_stride.token == 0 && !c->layout_bnhd;
  const int per_token = p->v_scale == IFA_SCALE_TOKEN || p->v_scale == IFA_SCALE_TOKEN_CHANNEL;
  const int values[PROPERTIES] = {
      p->causal,
      p->window > 0,
      p->q_heads > p->kv_heads,
      p->kv_heads > 1,
      p->batch > 1,
      p->q_heads > 1,
      p->nq > p->nk,
      p->nq<p->nk, p->nq == p->nk, empty_rows(p), p->nk == 0, p->head_dim % 8 != 0,
            p->head_dim % 16 != 0, p->head_dim> 128,
      p->head_dim > 64,
      p->lse,
      p->out_type == IFA_F32,
      p->out_type == IFA_F16,
      p->out_type == IFA_BF16,
      !c->auto_scale,
      !dense,
      c->rows > 0,
      p->nk % 64 != 0,
      p->nk > 64,
      p->nk > 128,
      p->nk > 256,
      p->nk > 1024,
      p->nk > 32768,
      p->nq > 1,
      p->nq > 64,
      p->nk > split,
      p->q_type == IFA_I4,
      p->k_type == IFA_I4,
      p->v_type == IFA_I4,
      per_token,
      p->v_scale == IFA_SCALE_TENSOR,
      p->v_scale == IFA_SCALE_CHANNEL,
      p->v_scale == IFA_SCALE_TOKEN,
      p->v_scale == IFA_SCALE_TOKEN_CHANNEL,
      p->q_scale == IFA_SCALE_TOKEN,
      p->k_scale == IFA_SCALE_TOKEN,
      p->q_scale == IFA_SCALE_BLOCK,
      p->k_scale == IFA_SCALE_BLOCK,
      p->tau == 0,
      p->tau == IFA_TAU_INF,
      p->kv_tile == 64,
      c->smooth,
      c->exponent[0] || c->exponent[1] || c->exponent[2],
      c->minus_zero};
  for (int i = 0; i < PROPERTIES; i++) is[i] = values[i] != 0;
}

/* ---- words: a property, its opposite, or a fill ---- */

static int holds(const ifa_seen *s, const unsigned char is[PROPERTIES], int word) {
  if (word < PROPERTIES) return is[word];
  if (word < 2 * PROPERTIES) return !is[word - PROPERTIES];
  return s->c.input[0] == '\0' && (int)s->c.fill == word - 2 * PROPERTIES;
}

static const char *text_of(int word) {
  return word < PROPERTIES       ? properties[word].yes
         : word < 2 * PROPERTIES ? properties[word - PROPERTIES].no
                                 : ifa_fill_name((ifa_fill)(word - 2 * PROPERTIES));
}

/* Which words hold, for each of a sample of the cases. */
enum { SAMPLE = 4096 };
typedef struct sample {
  unsigned char words[SAMPLE][WORDS];
  size_t count;
} sample;
static sample passing, failing;

/* Words joined by "and"; the first two by "or" if `either`. */
typedef struct phrase {
  int words[3], count, either;
} phrase;

static size_t count_with(const sample *s, const phrase *p) {
  size_t with = 0;
  for (size_t i = 0; i < s->count; i++) {
    const unsigned char *w = s->words[i];
    int all = p->either ? w[p->words[0]] | w[p->words[1]] : w[p->words[0]];
    for (int n = 1 + p->either; n < p->count; n++) all &= w[p->words[n]];
    with += (size_t)(all != 0);
  }
  return with;
}

/* The phrase of `count` words that all which fail have and fewest that pass; *least is what there
 * was before. A longer one must tell clearly more: half as many. `common`: words of all that fail;
 * any: all words. */
static void try_phrases(const int *common, int commons, const int *any, int anys, int count,
                        int either, phrase *best, size_t *least) {
  const int *pool = either ? any : common;
  int size = either ? anys : commons;
  size_t limit = *least;
  for (int a = 0; a < size; a++)
    for (int b = count > 1 ? a + 1 : a; b < (count > 1 ? size : a + 1); b++) {
      phrase pair = {{pool[a], pool[b]}, 2, either};
      if (either && count_with(&failing, &pair) < failing.count) continue;
      for (int c = count > 2 ? 0 : commons - 1; c < commons; c++) {
        phrase p = {{pool[a], pool[b], common[c]}, count, either};
        size_t with = count_with(&passing, &p);
        if (with >= *least || (best->count > 0 && 2 * with > limit)) continue;
        if (either && 50 * with > passing.count) continue; /* nearly any two would do */
        *least = with;
        *best = p;
        if (with == 0) return;
      }
    }
}

static void write_phrase(const phrase *p, char *text, size_t length) {
  size_t used = 0;
  for (int n = 0; n < p->count; n++)
    used += (size_t)snprintf(text + used, used < length ? length - used : 0, "%s%s%s%s",
                             n == 0                ? p->either ? "(" : ""
                             : p->either && n == 1 ? " or "
                                                   : " and ",
                             p->words[n] < 2 * PROPERTIES ? "" : "fill=", text_of(p->words[n]),
                             p->either && n == 1 ? ")" : "");
}

/* A word that may be said. */
static int is_usable(int word, int floats) {
  return text_of(word) &&
         !(floats && word < 2 * PROPERTIES && properties[word % PROPERTIES].not_of_floats);
}

static void take_sample(const ifa_seen *seen, size_t count, unsigned char in_all[WORDS]) {
  unsigned char is[PROPERTIES];
  memset(in_all, 1, WORDS);
  passing.count = failing.count = 0;
  for (size_t i = 0; i < count; i++) {
    sample *s = seen[i].failed ? &failing : &passing;
    find_properties(&seen[i].c, is);
    for (int w = 0; w < WORDS; w++) {
      unsigned char yes = (unsigned char)(holds(&seen[i], is, w) != 0);
      if (s->count < SAMPLE) s->words[s->count][w] = yes;
      if (seen[i].failed) in_all[w] &= yes;
    }
    if (s->count < SAMPLE) s->count++;
  }
}

void ifa_shared_sentence(const ifa_seen *seen, size_t count, int floats, char *text,
                         size_t length) {
  unsigned char in_all[WORDS];
  int common[WORDS], any[WORDS], commons = 0, anys = 0;
  size_t failed = 0;
  phrase best = {{0}, 0, 0};
  char said[256];
  for (size_t i = 0; i < count; i++) failed += (size_t)(seen[i].failed != 0);
  size_t passed = count - failed, least = passed;
  text[0] = '\0';
  if (failed == 0) return;
  take_sample(seen, count, in_all);
  for (int w = 0; w < WORDS; w++) {
    if (!is_usable(w, floats)) continue;
    if (in_all[w]) common[commons++] = w;
    else if (w < PROPERTIES) any[anys++] = w;
  }
  for (int n = 1; n <= 3 && least > 0 && commons > 0; n++) {
    try_phrases(common, commons, any, anys, n, 0, &best, &least);
    if (n > 1 && least > 0) try_phrases(common, commons, any, anys, n, 1, &best, &least);
  }
  write_phrase(&best, said, sizeof said);
  const char *who = failed == 1 ? "the one that fails has" : "all that fail have";
  if (passed == 0) snprintf(text, length, "no case passes");
  else if (best.count == 0)
    snprintf(text, length, "nothing that a case says separates them from the %zu that pass",
             passed);
  else if (least == 0)
    snprintf(text, length, "%s %s; none of the %zu that pass", who, said, passed);
  else
    snprintf(text, length, "%s %s; so do%s %zu of the %zu that pass", who, said,
             least == 1 ? "es" : "", least, passed);
}
