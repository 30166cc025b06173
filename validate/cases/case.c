#include "validate/cases/case.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/problem.h"
#include "validate/text/number.h"

static const char *const fill_names[IFA_FILL_COUNT] = {"normal",  "uniform", "constant", "extremes",
                                                       "outlier", "sink",    "rising",   "falling",
                                                       "equal",   "zeros",   "centred",  "wide"};

const char *ifa_fill_name(ifa_fill fill) {
  return (unsigned)fill < IFA_FILL_COUNT ? fill_names[fill] : NULL;
}

ifa_case ifa_case_default(void) {
  return (ifa_case){.problem = ifa_problem_default(), .auto_scale = 1, .seed = 1, .input = ""};
}

void ifa_case_settle(ifa_case *c) {
  ifa_problem *p = &c->problem;
  if (c->auto_scale) p->sm_scale = p->head_dim > 0 ? 1.0f / sqrtf((float)p->head_dim) : 1.0f;
  if (!c->layout_bnhd) return;
  p->q_stride = ifa_strides_bnhd(p->q_type, p->q_heads, p->nq, p->head_dim);
  p->k_stride = ifa_strides_bnhd(p->k_type, p->kv_heads, p->nk, p->head_dim);
  p->v_stride = ifa_strides_bnhd(p->v_type, p->kv_heads, p->nk, p->head_dim);
  p->o_stride = ifa_strides_bnhd(p->out_type, p->q_heads, p->nq, p->head_dim);
}

/* ---- one word ---- */

static ifa_status bad_value(const char *key, const char *value, const char *expected,
                            ifa_message *message) {
  return ifa_fail(message, IFA_BAD_ARGUMENT, "%s=%.60s is not %s", key, value, expected);
}

static int parse_unsigned(const char *text, uint64_t *value) {
  return ifa_read_integer(text, 0, UINT64_MAX, value);
}

static ifa_status parse_switch(const char *key, const char *value, int *at, ifa_message *message) {
  if (strcmp(value, "0") != 0 && strcmp(value, "1") != 0)
    return bad_value(key, value, "0 or 1", message);
  *at = value[0] == '1';
  return IFA_OK;
}

static const char *const exponent_keys[3] = {"qexp", "kexp", "vexp"};

static ifa_status parse_exponent(const char *key, const char *value, int *at,
                                 ifa_message *message) {
  uint64_t magnitude;
  int negative = value[0] == '-';
  if (!parse_unsigned(value + negative, &magnitude) || magnitude > IFA_MAX_EXPONENT)
    return bad_value(key, value, "in -120 .. 120", message);
  *at = negative ? -(int)magnitude : (int)magnitude;
  return IFA_OK;
}

/* ---- input files: each path is kept once, so that cases can be copied ---- */

static struct kept_path {
  struct kept_path *next;
  char text[];
} * kept_paths;

void ifa_case_forget_inputs(void) {
  while (kept_paths) {
    struct kept_path *next = kept_paths->next;
    free(kept_paths);
    kept_paths = next;
  }
}

ifa_status ifa_case_set_input(ifa_case *c, const char *path, ifa_message *message) {
  size_t length = strlen(path);
  if (length >= IFA_INPUT_PATH)
    return ifa_fail(message, IFA_BAD_ARGUMENT, "the input's path has %zu bytes; it may have %d",
                    length, IFA_INPUT_PATH - 1);
  struct kept_path *kept = kept_paths;
  while (kept && strcmp(kept->text, path) != 0) kept = kept->next;
  if (!kept) {
    if (!(kept = malloc(sizeof *kept + length + 1)))
      return ifa_fail(message, IFA_OUT_OF_MEMORY, "no memory for the input's path");
    memcpy(kept->text, path, length + 1);
    kept->next = kept_paths;
    kept_paths = kept;
  }
  c->input = kept->text;
  return IFA_OK;
}

static int hex_digit(char c) {
  static const char digits[] = "0123456789abcdef0123456789ABCDEF";
  const char *at = c ? strchr(digits, c) : NULL;
  return at ? (int)((at - digits) % 16) : -1;
}

/* The value of input=: a path with %XX. */
static ifa_status parse_input(ifa_case *c, const char *value, ifa_message *message) {
  char path[IFA_INPUT_PATH];
  size_t used = 0;
  for (; *value && used < sizeof path - 1; value++) {
    int high = *value == '%' ? hex_digit(value[1]) : -1, low = high >= 0 ? hex_digit(value[2]) : -1;
    if (high == 0 && low == 0)
      return ifa_fail(message, IFA_BAD_ARGUMENT, "input: %%00 is part of no path");
    path[used++] = low >= 0 ? (char)(high * 16 + low) : *value;
    if (low >= 0) value += 2;
  }
  path[used] = '\0';
  if (*value)
    return ifa_fail(message, IFA_BAD_ARGUMENT, "input: the path has more than %d bytes",
                    IFA_INPUT_PATH - 1);
  return ifa_case_set_input(c, path, message);
}

static void print_input(const char *path, char *text) {
  static const char plain[] =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./:+@=~";
  for (; *path; path++)
    text += sprintf(text, strchr(plain, *path) ? "%c" : "%%%02x", (unsigned char)*path);
}

static ifa_status parse_fill(ifa_case *c, const char *value, ifa_message *message) {
  for (int i = 0; i < IFA_FILL_COUNT; i++)
    if (strcmp(value, fill_names[i]) == 0) {
      c->fill = (ifa_fill)i;
      return IFA_OK;
    }
  return bad_value("fill", value, "a fill", message);
}

/* Keys of the case itself; everything else is a key of the problem. */
static ifa_status parse_word(ifa_case *c, const char *key, const char *value,
                             ifa_message *message) {
  uint64_t number;
  char word[192];
  if (strcmp(key, "fill") == 0) return parse_fill(c, value, message);
  if (strcmp(key, "input") == 0) return parse_input(c, value, message);
  if (strcmp(key, "smooth") == 0) return parse_switch(key, value, &c->smooth, message);
  if (strcmp(key, "minus_zero") == 0) return parse_switch(key, value, &c->minus_zero, message);
  for (int i = 0; i < 3; i++)
    if (strcmp(key, exponent_keys[i]) == 0)
      return parse_exponent(key, value, &c->exponent[i], message);
  if (strcmp(key, "seed") == 0)
    return parse_unsigned(value, &c->seed) ? IFA_OK : bad_value(key, value, "a number", message);
  if (strcmp(key, "rows") == 0) {
    if (!parse_unsigned(value, &number) || number > INT32_MAX)
      return bad_value(key, value, "a number of rows", message);
    c->rows = (int64_t)number;
    return IFA_OK;
  }
  if (strcmp(key, "layout") == 0) {
    if (strcmp(value, "bhnd") != 0 && strcmp(value, "bnhd") != 0)
      return bad_value(key, value, "bhnd or bnhd", message);
    c->layout_bnhd = value[1] == 'n';
    return IFA_OK;
  }
  if (strcmp(key, "sm") == 0) {
    c->auto_scale = strcmp(value, "auto") == 0;
    if (c->auto_scale) return IFA_OK;
  }
  if (strlen(value) > 80) return bad_value(key, value, "short enough", message);
  int both = strcmp(key, "qk") == 0;
  snprintf(word, sizeof word, both ? "q=%.80s k=%.80s" : "%.60s=%.80s", both ? value : key, value);
  ifa_status status = ifa_problem_parse(word, &c->problem, message);
  return status == IFA_BAD_PROBLEM ? IFA_BAD_ARGUMENT : status;
}

/* ---- a line ---- */

enum { MAX_WORDS = 48, MAX_VALUES = 64 };

typedef struct word_list {
  char text[IFA_CASE_LINE];
  int count;
  struct {
    const char *key;
    int value_count;
    const char *values[MAX_VALUES];
  } words[MAX_WORDS];
} word_list;

static ifa_status split_values(word_list *list, char *values, ifa_message *message) {
  int w = list->count;
  for (char *value = values; value;) {
    char *comma = strchr(value, ',');
    if (comma) *comma++ = '\0';
    if (list->words[w].value_count == MAX_VALUES)
      return ifa_fail(message, IFA_BAD_ARGUMENT, "%s has more than %d values", list->words[w].key,
                      MAX_VALUES);
    if (*value == '\0')
      return ifa_fail(message, IFA_BAD_ARGUMENT, "%s has an empty value", list->words[w].key);
    list->words[w].values[list->words[w].value_count++] = value;
    value = comma;
  }
  return IFA_OK;
}

static ifa_status split_line(const char *line, word_list *list, ifa_message *message) {
  if (strlen(line) >= sizeof list->text)
    return ifa_fail(message, IFA_BAD_ARGUMENT, "a case of %zu characters is too long",
                    strlen(line));
  memcpy(list->text, line, strlen(line) + 1);
  list->count = 0;
  for (char *word = list->text; *(word += strspn(word, " \t\r\n")) != '\0';) {
    char *end = word + strcspn(word, " \t\r\n"), *equals;
    int last = *end == '\0';
    *end = '\0';
    if (list->count == MAX_WORDS)
      return ifa_fail(message, IFA_BAD_ARGUMENT, "a case has more than %d words", MAX_WORDS);
    if (!(equals = strchr(word, '=')) || equals == word)
      return ifa_fail(message, IFA_BAD_ARGUMENT, "'%.60s' is not of the form key=value", word);
    *equals = '\0';
    list->words[list->count].key = word;
    list->words[list->count].value_count = 0;
    for (int i = 0; i < list->count; i++)
      if (strcmp(list->words[i].key, word) == 0)
        return ifa_fail(message, IFA_BAD_ARGUMENT, "%.60s is given twice", word);
    ifa_status status = split_values(list, equals + 1, message);
    if (status != IFA_OK) return status;
    list->count++;
    word = last ? end : end + 1;
  }
  return IFA_OK;
}

/* What an input file decides cannot be said beside it. */
static ifa_status check_input_words(const word_list *list, ifa_message *message) {
  static const char *const decided[] = {"b", "hq", "hkv", "nq", "nk", "d", "fill"};
  for (int w = 0; w < list->count; w++)
    for (size_t i = 0; i < sizeof decided / sizeof decided[0]; i++)
      if (strcmp(list->words[w].key, decided[i]) == 0)
        return ifa_fail(message, IFA_BAD_ARGUMENT, "%s: the input file decides it", decided[i]);
  return IFA_OK;
}

ifa_status ifa_case_expand(const char *line, const ifa_case *base,
                           ifa_status (*each)(const ifa_case *c, void *context,
                                              ifa_message *message),
                           void *context, ifa_message *message) {
  word_list *list = malloc(sizeof *list);
  if (!list) return ifa_fail(message, IFA_OUT_OF_MEMORY, "no memory for a case");
  int choice[MAX_WORDS] = {0};
  ifa_status status = split_line(line, list, message);
  for (int more = 1; more && status == IFA_OK;) {
    ifa_case c = *base;
    for (int w = 0; w < list->count && status == IFA_OK; w++)
      status = parse_word(&c, list->words[w].key, list->words[w].values[choice[w]], message);
    if (status == IFA_OK && c.input[0]) status = check_input_words(list, message);
    if (status == IFA_OK) {
      ifa_case_settle(&c);
      status = each(&c, context, message);
    }
    more = 0;
    for (int w = list->count - 1; w >= 0 && !more; w--) { /* the last key varies fastest */
      if (++choice[w] < list->words[w].value_count) more = 1;
      else choice[w] = 0;
    }
  }
  free(list);
  return status;
}

static ifa_status take_one(const ifa_case *c, void *context, ifa_message *message) {
  struct {
    ifa_case *c;
    int count;
  } *one = context;
  if (one->count++)
    return ifa_fail(message, IFA_BAD_ARGUMENT, "a list of values stands where one case is wanted");
  *one->c = *c;
  return IFA_OK;
}

ifa_status ifa_case_parse(const char *line, ifa_case *c, ifa_message *message) {
  ifa_case base = ifa_case_default();
  struct {
    ifa_case *c;
    int count;
  } one = {c, 0};
  ifa_status status = ifa_case_expand(line, &base, take_one, &one, message);
  return status == IFA_OK ? ifa_succeed(message) : status;
}

/* ---- printing ---- */

static int has_word(const char *text, const char *word, size_t length) {
  for (const char *at = text; (at = strstr(at, word)) != NULL; at++)
    if ((at == text || at[-1] == ' ') && (at[length] == ' ' || at[length] == '\0')) return 1;
  return 0;
}

/* Sizes are always printed, unless they come from a file. */
static int is_size(const char *word) {
  static const char *const sizes[] = {"b=", "hq=", "hkv=", "nq=", "nk=", "d="};
  for (int i = 0; i < 6; i++)
    if (strncmp(word, sizes[i], strlen(sizes[i])) == 0) return 1;
  return 0;
}

static void append(char *text, const char *word) {
  size_t used = strlen(text);
  snprintf(text + used, IFA_CASE_TEXT - used, "%s%s", used ? " " : "", word);
}

static void append_number(char *text, const char *key, uint64_t value) {
  char word[64];
  snprintf(word, sizeof word, "%s=%" PRIu64, key, value);
  append(text, word);
}

static void append_problem(const ifa_case *c, char *text) {
  ifa_problem standard = ifa_problem_default(), p = c->problem;
  char all[IFA_CASE_TEXT], defaults[IFA_CASE_TEXT];
  if (c->auto_scale) p.sm_scale = standard.sm_scale;
  if (c->layout_bnhd) p.q_stride = p.k_stride = p.v_stride = p.o_stride = standard.q_stride;
  if (p.q_scale != IFA_SCALE_BLOCK) p.q_block = standard.q_block;
  if (p.k_scale != IFA_SCALE_BLOCK) p.k_block = standard.k_block;
  if (ifa_problem_print(&p, all, sizeof all, NULL) != IFA_OK ||
      ifa_problem_print(&standard, defaults, sizeof defaults, NULL) != IFA_OK)
    return;
  for (char *save = NULL, *word = strtok_r(all, " ", &save); word;
       word = strtok_r(NULL, " ", &save)) {
    if (is_size(word) ? c->input[0] != '\0' : has_word(defaults, word, strlen(word))) continue;
    append(text, word);
  }
}

void ifa_case_print(const ifa_case *c, char text[IFA_CASE_TEXT]) {
  char word[64];
  text[0] = '\0';
  if (c->input[0]) {
    strcpy(text, "input=");
    print_input(c->input, text + strlen(text));
  }
  append_problem(c, text);
  if (c->auto_scale == 0 && c->problem.sm_scale == ifa_problem_default().sm_scale)
    append(text, "sm=0.125");
  if (c->layout_bnhd) append(text, "layout=bnhd");
  if (c->smooth) append(text, "smooth=1");
  for (int i = 0; i < 3; i++)
    if (c->exponent[i]) {
      snprintf(word, sizeof word, "%s=%d", exponent_keys[i], c->exponent[i]);
      append(text, word);
    }
  if (c->minus_zero) append(text, "minus_zero=1");
  if (c->rows) append_number(text, "rows", (uint64_t)c->rows);
  if (!c->input[0]) {
    snprintf(word, sizeof word, "fill=%s", fill_names[c->fill]);
    append(text, word);
    append_number(text, "seed", c->seed);
  } else if (c->rows) {
    append_number(text, "seed", c->seed); /* chooses the rows */
  }
}
