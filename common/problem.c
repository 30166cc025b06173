/* problem.c - the problem descriptor: defaults, the one place where it is validated, and its text
 * form. */
#define _POSIX_C_SOURCE 200809L
#include "common/problem.h"

#include <errno.h>
#include <fenv.h>
#include <inttypes.h>
#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/fpenv.h"

static const char *const type_names[] = {"f32", "f16", "bf16", "int8", "int4"};
static const char *const granularity_names[] = {"tensor", "block", "token", "channel",
                                                "token_channel"};

const char *ifa_type_name(ifa_type type) { return (unsigned)type < 5 ? type_names[type] : "?"; }
const char *ifa_granularity_name(ifa_granularity scale) {
  return (unsigned)scale < 5 ? granularity_names[scale] : "?";
}

/* ---- fields ---- */

/* Sets of allowed enum values, as bits. */
#define TYPES_INT (1 << IFA_I8 | 1 << IFA_I4)
#define TYPES_FLOAT (1 << IFA_F32 | 1 << IFA_F16 | 1 << IFA_BF16)
#define SCALES_QK (1 << IFA_SCALE_TENSOR | 1 << IFA_SCALE_BLOCK | 1 << IFA_SCALE_TOKEN)
#define SCALES_V                                                           \
  (1 << IFA_SCALE_TENSOR | 1 << IFA_SCALE_CHANNEL | 1 << IFA_SCALE_TOKEN | \
   1 << IFA_SCALE_TOKEN_CHANNEL)

typedef enum field_kind {
  FIELD_INT64,
  FIELD_INT32,
  FIELD_TAU,
  FIELD_FLOAT,
  FIELD_TYPE,
  FIELD_GRANULARITY,
  FIELD_STRIDES
} field_kind;

/* One row a field, in the order of printing: its key in text, its name in C, its range (a bit set
 * for enums). */
typedef struct field {
  const char *key, *name;
  size_t offset;
  field_kind kind;
  int64_t low, high;
} field;

#define AT(member) #member, offsetof(ifa_problem, member)
static const field fields[] = {
    {"b", AT(batch), FIELD_INT64, 1, 65535},
    {"hq", AT(q_heads), FIELD_INT64, 1, 65535},
    {"hkv", AT(kv_heads), FIELD_INT64, 1, 65535},
    {"nq", AT(nq), FIELD_INT64, 0, IFA_MAX_TOKENS},
    {"nk", AT(nk), FIELD_INT64, 0, IFA_MAX_TOKENS},
    {"d", AT(head_dim), FIELD_INT32, 1, IFA_MAX_HEAD_DIM},
    {"q", AT(q_type), FIELD_TYPE, 0, TYPES_INT},
    {"k", AT(k_type), FIELD_TYPE, 0, TYPES_INT},
    {"v", AT(v_type), FIELD_TYPE, 0, TYPES_INT},
    {"qscale", AT(q_scale), FIELD_GRANULARITY, 0, SCALES_QK},
    {"kscale", AT(k_scale), FIELD_GRANULARITY, 0, SCALES_QK},
    {"vscale", AT(v_scale), FIELD_GRANULARITY, 0, SCALES_V},
    {"qblock", AT(q_block), FIELD_INT32, 1, IFA_MAX_TOKENS},
    {"kblock", AT(k_block), FIELD_INT32, 1, IFA_MAX_TOKENS},
    {"sm", AT(sm_scale), FIELD_FLOAT, 0, 0},
    {"causal", AT(causal), FIELD_INT32, 0, 1},
    {"window", AT(window), FIELD_INT64, 0, 2 * (int64_t)IFA_MAX_TOKENS},
    {"tau", AT(tau), FIELD_TAU, 0, 64},
    {"tile", AT(kv_tile), FIELD_INT32, 32, 256},
    {"split", AT(kv_split), FIELD_INT64, 0, IFA_MAX_KV_SPLIT},
    {"out", AT(out_type), FIELD_TYPE, 0, TYPES_FLOAT},
    {"lse", AT(lse), FIELD_INT32, 0, 1},
    {"qstride", AT(q_stride), FIELD_STRIDES, 0, 0},
    {"kstride", AT(k_stride), FIELD_STRIDES, 0, 0},
    {"vstride", AT(v_stride), FIELD_STRIDES, 0, 0},
    {"ostride", AT(o_stride), FIELD_STRIDES, 0, 0},
};
enum { FIELD_COUNT = sizeof fields / sizeof fields[0] };

ifa_problem ifa_problem_default(void) {
  return (ifa_problem){.batch = 1,
                       .q_heads = 1,
                       .kv_heads = 1,
                       .nq = 1,
                       .nk = 1,
                       .head_dim = 64,
                       .q_type = IFA_I8,
                       .k_type = IFA_I8,
                       .v_type = IFA_I8,
                       .q_scale = IFA_SCALE_TOKEN,
                       .k_scale = IFA_SCALE_TOKEN,
                       .v_scale = IFA_SCALE_CHANNEL,
                       .q_block = 64,
                       .k_block = 256,
                       .sm_scale = 0.125f,
                       .tau = 2,
                       .kv_tile = 64,
                       .out_type = IFA_F32};
}

static int64_t integer_at(const ifa_problem *p, const field *f) {
  const char *at = (const char *)p + f->offset;
  if (f->kind == FIELD_INT64) return *(const int64_t *)at;
  if (f->kind == FIELD_TYPE) return *(const ifa_type *)at;
  if (f->kind == FIELD_GRANULARITY) return *(const ifa_granularity *)at;
  return *(const int32_t *)at;
}

/* ---- strides ---- */

static int64_t row_length(ifa_type type, int64_t head_dim) {
  return type == IFA_I4 ? (head_dim + 1) / 2 * 2 : head_dim;
}

ifa_strides ifa_strides_bhnd(ifa_type type, int64_t heads, int64_t tokens, int64_t head_dim) {
  int64_t row = row_length(type, head_dim);
  return (ifa_strides){heads * tokens * row, tokens * row, row};
}

ifa_strides ifa_strides_bnhd(ifa_type type, int64_t heads, int64_t tokens, int64_t head_dim) {
  int64_t row = row_length(type, head_dim);
  return (ifa_strides){tokens * heads * row, row, heads * row};
}

static int strides_are_zero(ifa_strides s) { return s.batch == 0 && s.head == 0 && s.token == 0; }

ifa_problem ifa_problem_resolved(const ifa_problem *problem) {
  ifa_problem p = *problem;
  if (strides_are_zero(p.q_stride))
    p.q_stride = ifa_strides_bhnd(p.q_type, p.q_heads, p.nq, p.head_dim);
  if (strides_are_zero(p.k_stride))
    p.k_stride = ifa_strides_bhnd(p.k_type, p.kv_heads, p.nk, p.head_dim);
  if (strides_are_zero(p.v_stride))
    p.v_stride = ifa_strides_bhnd(p.v_type, p.kv_heads, p.nk, p.head_dim);
  if (strides_are_zero(p.o_stride))
    p.o_stride = ifa_strides_bhnd(p.out_type, p.q_heads, p.nq, p.head_dim);
  if (p.kv_split == 0) p.kv_split = IFA_MAX_KV_SPLIT;
  return p;
}

int64_t ifa_extent_bytes(ifa_type type, ifa_strides s, int64_t batch, int64_t heads, int64_t tokens,
                         int64_t head_dim) {
  if (batch == 0 || heads == 0 || tokens == 0) return 0;
  int64_t elements = s.batch * (batch - 1) + s.head * (heads - 1) + s.token * (tokens - 1) +
                     row_length(type, head_dim);
  return type == IFA_I4 ? elements / 2 : elements * (int64_t)ifa_type_bytes(type);
}

/* Do two rows of a written tensor share an element? Dimensions in order of stride: each must step
 * over all of the smaller ones. */
static int rows_overlap(ifa_strides s, int64_t batch, int64_t heads, int64_t tokens, int64_t row) {
  int64_t stride[3] = {s.batch, s.head, s.token}, count[3] = {batch, heads, tokens}, span = row;
  for (int done = 0; done < 3; done++) {
    int least = -1;
    for (int i = 0; i < 3; i++)
      if (count[i] > 0 && (least < 0 || stride[i] < stride[least])) least = i;
    if (count[least] > 1) {
      if (stride[least] < span) return 1;
      span += stride[least] * (count[least] - 1);
    }
    count[least] = 0;
  }
  return 0;
}

ifa_status ifa_check_strides(const char *what, ifa_type type, ifa_strides s, int64_t batch,
                             int64_t heads, int64_t tokens, int64_t head_dim, int written,
                             ifa_message *message) {
  int64_t row = row_length(type, head_dim);
  if (batch < 1 || heads < 1 || tokens < 1) return IFA_OK; /* no element is ever touched */
  if (strides_are_zero(s)) s = ifa_strides_bhnd(type, heads, tokens, head_dim);
  const struct {
    const char *name;
    int64_t stride, count;
  } dims[3] = {{"batch", s.batch, batch}, {"head", s.head, heads}, {"token", s.token, tokens}};
  int64_t last = row;
  for (int i = 0; i < 3; i++) {
    int64_t step;
    if (dims[i].stride < 0)
      return ifa_fail(message, IFA_BAD_PROBLEM,
                      "%s.%s is %" PRId64 "; strides must not be negative", what, dims[i].name,
                      dims[i].stride);
    if (type == IFA_I4 && dims[i].stride % 2 != 0)
      return ifa_fail(message, IFA_BAD_PROBLEM, "%s.%s is %" PRId64 "; INT4 strides must be even",
                      what, dims[i].name, dims[i].stride);
    if (__builtin_mul_overflow(dims[i].stride, dims[i].count - 1, &step) ||
        __builtin_add_overflow(last, step, &last) || last > INT64_MAX / 8)
      return ifa_fail(message, IFA_BAD_PROBLEM, "%s.%s is %" PRId64 "; the tensor's size overflows",
                      what, dims[i].name, dims[i].stride);
  }
  if (written && rows_overlap(s, batch, heads, tokens, row))
    return ifa_fail(message, IFA_BAD_PROBLEM,
                    "%s is %" PRId64 ":%" PRId64 ":%" PRId64 "; rows of %" PRId64
                    " elements would overlap",
                    what, s.batch, s.head, s.token, row);
  return IFA_OK;
}

/* ---- check ---- */

static ifa_status check_field(const ifa_problem *p, const field *f, ifa_message *message) {
  if (f->kind == FIELD_STRIDES) return IFA_OK; /* after the sizes are known to be sane */
  if (f->kind == FIELD_FLOAT) {
    float x = p->sm_scale;
    ifa_fpenv env;
    ifa_fpenv_enter(&env); /* with denormals-are-zero a tiny scale would pass for 0 */
    int good = x == 0.0f || (x >= 0x1p-20f && x <= 0x1p20f); /* NaN fails both */
    ifa_fpenv_leave(&env);
    if (good) return IFA_OK;
    return ifa_fail(message, IFA_BAD_PROBLEM, "sm_scale is %g; it must be 0 or 2^-20 .. 2^20",
                    (double)x);
  }
  int64_t value = integer_at(p, f);
  if (f->kind == FIELD_TYPE || f->kind == FIELD_GRANULARITY) {
    if (value >= 0 && value < 5 && f->high >> value & 1) return IFA_OK;
    const char *const *names = f->kind == FIELD_TYPE ? type_names : granularity_names;
    char allowed[64] = "";
    for (int i = 0; i < 5; i++)
      if (f->high >> i & 1)
        snprintf(allowed + strlen(allowed), sizeof allowed - strlen(allowed), " %s", names[i]);
    return ifa_fail(message, IFA_BAD_PROBLEM, "%s is %s (%" PRId64 "); it must be one of:%s",
                    f->name, value >= 0 && value < 5 ? names[value] : "unknown", value, allowed);
  }
  if (f->kind == FIELD_TAU && value == IFA_TAU_INF) return IFA_OK;
  if (value >= f->low && value <= f->high) return IFA_OK;
  return ifa_fail(message, IFA_BAD_PROBLEM,
                  "%s is %" PRId64 "; it must be %" PRId64 " .. %" PRId64 "%s", f->name, value,
                  f->low, f->high, f->kind == FIELD_TAU ? " or IFA_TAU_INF" : "");
}

static ifa_status check_relations(const ifa_problem *p, ifa_message *message) {
  if (p->q_heads % p->kv_heads != 0)
    return ifa_fail(message, IFA_BAD_PROBLEM,
                    "q_heads is %" PRId64 "; it must be a multiple of kv_heads, %" PRId64,
                    p->q_heads, p->kv_heads);
  if (p->kv_tile & (p->kv_tile - 1))
    return ifa_fail(message, IFA_BAD_PROBLEM, "kv_tile is %d; it must be 32, 64, 128 or 256",
                    (int)p->kv_tile);
  if (p->kv_split % p->kv_tile != 0)
    return ifa_fail(message, IFA_BAD_PROBLEM,
                    "kv_split is %" PRId64 "; it must be a multiple of kv_tile, %d", p->kv_split,
                    (int)p->kv_tile);
  if (p->k_scale == IFA_SCALE_BLOCK && p->k_block % p->kv_tile != 0)
    return ifa_fail(message, IFA_BAD_PROBLEM, "k_block is %d; it must be a multiple of kv_tile, %d",
                    (int)p->k_block, (int)p->kv_tile);
  /* 65535^2 * 2^24 * 2^8 fits an int64 nowhere near; the elements of each tensor must. */
  int64_t rows;
  if (__builtin_mul_overflow(p->batch * p->q_heads, ifa_max64(p->nq, p->nk), &rows) ||
      rows > INT64_MAX / 4096)
    return ifa_fail(message, IFA_BAD_PROBLEM,
                    "batch %" PRId64 " x q_heads %" PRId64 " x tokens overflows", p->batch,
                    p->q_heads);
  return IFA_OK;
}

ifa_status ifa_problem_check(const ifa_problem *p, ifa_message *message) {
  if (!p) return ifa_fail(message, IFA_BAD_ARGUMENT, "problem is NULL");
  ifa_status status = IFA_OK;
  for (int i = 0; i < FIELD_COUNT && status == IFA_OK; i++) {
    if ((fields[i].offset == offsetof(ifa_problem, q_block) && p->q_scale != IFA_SCALE_BLOCK) ||
        (fields[i].offset == offsetof(ifa_problem, k_block) && p->k_scale != IFA_SCALE_BLOCK))
      continue; /* not read */
    status = check_field(p, &fields[i], message);
  }
  if (status == IFA_OK) status = check_relations(p, message);
  if (status == IFA_OK)
    status = ifa_check_strides("q_stride", p->q_type, p->q_stride, p->batch, p->q_heads, p->nq,
                               p->head_dim, 0, message);
  if (status == IFA_OK)
    status = ifa_check_strides("k_stride", p->k_type, p->k_stride, p->batch, p->kv_heads, p->nk,
                               p->head_dim, 0, message);
  if (status == IFA_OK)
    status = ifa_check_strides("v_stride", p->v_type, p->v_stride, p->batch, p->kv_heads, p->nk,
                               p->head_dim, 0, message);
  if (status == IFA_OK)
    status = ifa_check_strides("o_stride", p->out_type, p->o_stride, p->batch, p->q_heads, p->nq,
                               p->head_dim, 1, message);
  return status == IFA_OK ? ifa_succeed(message) : status;
}

/* ---- text ---- */

static int print_field(const ifa_problem *p, const field *f, char *out, size_t room) {
  int64_t value = f->kind == FIELD_STRIDES || f->kind == FIELD_FLOAT ? 0 : integer_at(p, f);
  switch (f->kind) {
    case FIELD_TYPE: return snprintf(out, room, "%s=%s ", f->key, ifa_type_name((ifa_type)value));
    case FIELD_GRANULARITY:
      return snprintf(out, room, "%s=%s ", f->key, ifa_granularity_name((ifa_granularity)value));
    case FIELD_FLOAT: return snprintf(out, room, "%s=%.9g ", f->key, (double)p->sm_scale);
    case FIELD_TAU:
      if (value == IFA_TAU_INF) return snprintf(out, room, "%s=inf ", f->key);
      break;
    case FIELD_STRIDES: {
      const ifa_strides *s = (const ifa_strides *)((const char *)p + f->offset);
      if (strides_are_zero(*s)) return 0;
      return snprintf(out, room, "%s=%" PRId64 ":%" PRId64 ":%" PRId64 " ", f->key, s->batch,
                      s->head, s->token);
    }
    default: break;
  }
  return snprintf(out, room, "%s=%" PRId64 " ", f->key, value);
}

/* Numbers in text have a decimal point in every locale, and are rounded to nearest in every
 * rounding mode: the C library may ask the x87 for it, which ifa_fpenv leaves alone. */
typedef struct text_settings {
  locale_t locale;
  fenv_t env;
  ifa_fpenv flushing;
} text_settings;

static void enter_text(text_settings *before) {
  locale_t c = newlocale(LC_ALL_MASK, "C", (locale_t)0);
  before->locale = c ? uselocale(c) : (locale_t)0;
  fegetenv(&before->env);
  fesetenv(FE_DFL_ENV);
  ifa_fpenv_enter(&before->flushing);
}

static void leave_text(const text_settings *before) {
  ifa_fpenv_leave(&before->flushing);
  fesetenv(&before->env);
  if (before->locale) freelocale(uselocale(before->locale));
}

ifa_status ifa_problem_print(const ifa_problem *p, char *text, size_t length,
                             ifa_message *message) {
  if (!p || !text) return ifa_fail(message, IFA_BAD_ARGUMENT, "%s is NULL", p ? "text" : "problem");
  text_settings before;
  enter_text(&before);
  size_t used = 0;
  for (int i = 0; i < FIELD_COUNT && used < length; i++)
    used += (size_t)print_field(p, &fields[i], text + used, length - used);
  leave_text(&before);
  if (used >= length)
    return ifa_fail(message, IFA_BAD_ARGUMENT, "length is %zu; the text needs more", length);
  if (used > 0) text[used - 1] = '\0'; /* the last blank */
  return ifa_succeed(message);
}

/* A whole decimal integer, nothing before or behind. */
static int parse_integer(const char *text, int64_t *value) {
  char *end;
  errno = 0;
  long long parsed = strtoll(text, &end, 10);
  if (errno != 0 || end == text || *end != '\0' ||
      !(*text == '-' || (*text >= '0' && *text <= '9')))
    return 0;
  *value = parsed;
  return 1;
}

static int parse_name(const char *text, const char *const *names, int *index) {
  for (*index = 0; *index < 5; ++*index)
    if (strcmp(text, names[*index]) == 0) return 1;
  return 0;
}

static int parse_strides(const char *text, ifa_strides *s) {
  char copy[80], *part[3] = {copy, NULL, NULL};
  if (strlen(text) >= sizeof copy) return 0;
  memcpy(copy, text, strlen(text) + 1);
  for (int i = 1; i < 3; i++) {
    part[i] = strchr(part[i - 1], ':');
    if (!part[i]) return 0;
    *part[i]++ = '\0';
  }
  return parse_integer(part[0], &s->batch) && parse_integer(part[1], &s->head) &&
         parse_integer(part[2], &s->token);
}

static int parse_field(ifa_problem *p, const field *f, const char *text) {
  char *at = (char *)p + f->offset, *end;
  int64_t value;
  int index;
  switch (f->kind) {
    case FIELD_TYPE:
      if (!parse_name(text, type_names, &index)) return 0;
      *(ifa_type *)at = (ifa_type)index;
      return 1;
    case FIELD_GRANULARITY:
      if (!parse_name(text, granularity_names, &index)) return 0;
      *(ifa_granularity *)at = (ifa_granularity)index;
      return 1;
    case FIELD_FLOAT: /* one too small to be a number is not 0, which is valid */
      errno = 0;
      *(float *)at = strtof(text, &end);
      return end != text && *end == '\0' && (errno == 0 || *(float *)at != 0);
    case FIELD_STRIDES: return parse_strides(text, (ifa_strides *)at);
    case FIELD_TAU:
      if (strcmp(text, "inf") == 0) {
        *(int32_t *)at = IFA_TAU_INF;
        return 1;
      } /* fall through */
    default:
      if (!parse_integer(text, &value)) return 0;
      if (f->kind == FIELD_INT64) *(int64_t *)at = value;
      else if (value < INT32_MIN || value > INT32_MAX) return 0;
      else *(int32_t *)at = (int32_t)value;
      return 1;
  }
}

static ifa_status parse_word(ifa_problem *p, char *word, ifa_message *message) {
  char *text = strchr(word, '=');
  if (!text)
    return ifa_fail(message, IFA_BAD_PROBLEM, "'%.60s' is not of the form key=value", word);
  *text++ = '\0';
  for (int i = 0; i < FIELD_COUNT; i++)
    if (strcmp(word, fields[i].key) == 0)
      return parse_field(p, &fields[i], text)
                 ? IFA_OK
                 : ifa_fail(message, IFA_BAD_PROBLEM, "%s=%.60s is not a value of %s", word, text,
                            fields[i].name);
  return ifa_fail(message, IFA_BAD_PROBLEM, "unknown key '%.60s'", word);
}

ifa_status ifa_problem_parse(const char *text, ifa_problem *problem, ifa_message *message) {
  if (!text || !problem)
    return ifa_fail(message, IFA_BAD_ARGUMENT, "%s is NULL", text ? "problem" : "text");
  ifa_problem parsed = *problem;
  ifa_status status = IFA_OK;
  text_settings before;
  enter_text(&before);
  while (status == IFA_OK && *(text += strspn(text, " \t\r\n")) != '\0') {
    size_t length = strcspn(text, " \t\r\n");
    char word[128];
    if (length >= sizeof word) {
      status = ifa_fail(message, IFA_BAD_PROBLEM, "'%.60s...' is too long for a word", text);
      break;
    }
    memcpy(word, text, length);
    word[length] = '\0';
    status = parse_word(&parsed, word, message);
    text += length;
  }
  leave_text(&before);
  if (status != IFA_OK) return status;
  *problem = parsed;
  return ifa_succeed(message);
}
