#include "validate/judge/claim.h"

#include <stdio.h>
#include <string.h>

static const char *const format_names[] = {"given", "f32",  "f16",  "bf16",
                                           "e4m3",  "e5m2", "int8", "uint8"};
static const char *const share_names[] = {"", "head", "token", "channel"};

enum {
  FLOATS = 1 << IFA_FORMAT_F32 | 1 << IFA_FORMAT_F16 | 1 << IFA_FORMAT_BF16,
  FP8 = 1 << IFA_FORMAT_E4M3 | 1 << IFA_FORMAT_E5M2,
  SMALL = 1 << IFA_FORMAT_E4M3 | 1 << IFA_FORMAT_E5M2 | 1 << IFA_FORMAT_INT8
};

static ifa_status bad(const char *key, const char *value, const char *choices,
                      ifa_message *message) {
  return ifa_fail(message, IFA_BAD_ARGUMENT, "claim: %s=%.40s is not one of %s", key, value,
                  choices);
}

/* A format whose bit is in `allowed`; the part behind '/' is the scale's share. */
static int parse_format(const char *value, int allowed, ifa_operand_format *f) {
  size_t length = strcspn(value, "/");
  const char *share = value[length] ? value + length + 1 : "";
  for (int i = 0; i < (int)(sizeof format_names / sizeof format_names[0]); i++)
    if ((allowed >> i & 1) && strlen(format_names[i]) == length &&
        strncmp(value, format_names[i], length) == 0)
      for (int s = 0; s < 4; s++)
        if (strcmp(share, share_names[s]) == 0 &&
            (value[length] == '\0') == (s == IFA_SHARE_NONE)) {
          *f = (ifa_operand_format){(ifa_format)i, (ifa_share)s};
          return 1;
        }
  return 0;
}

static ifa_status parse_operand(const char *key, const char *value, ifa_operand_format *f,
                                ifa_message *message) {
  static const char choices[] =
      "given f32 f16 bf16 e5m2 e4m3 e4m3/head|token|channel int8/head|token|channel";
  if (!parse_format(value, 1 << IFA_FORMAT_GIVEN | FLOATS | SMALL, f))
    return bad(key, value, choices, message);
  int scaled = f->share != IFA_SHARE_NONE;
  if (scaled ? f->format != IFA_FORMAT_INT8 && f->format != IFA_FORMAT_E4M3
             : f->format == IFA_FORMAT_INT8)
    return bad(key, value, choices, message);
  return IFA_OK;
}

static ifa_status parse_plain(const char *key, const char *value, int allowed, const char *choices,
                              ifa_format *format, ifa_message *message) {
  ifa_operand_format f;
  if (!parse_format(value, allowed, &f) || f.share != IFA_SHARE_NONE)
    return bad(key, value, choices, message);
  *format = f.format;
  return IFA_OK;
}

static ifa_status parse_word(const char *key, const char *value, ifa_claim *c,
                             ifa_message *message) {
  if (strcmp(key, "q") == 0) return parse_operand(key, value, &c->q, message);
  if (strcmp(key, "k") == 0) return parse_operand(key, value, &c->k, message);
  if (strcmp(key, "v") == 0) return parse_operand(key, value, &c->v, message);
  if (strcmp(key, "p") == 0)
    return parse_plain(key, value, FLOATS | SMALL | 1 << IFA_FORMAT_UINT8,
                       "f32 f16 bf16 e4m3 e5m2 int8 uint8", &c->p, message);
  if (strcmp(key, "acc") == 0)
    return parse_plain(key, value, FLOATS, "f32 f16 bf16", &c->acc, message);
  if (strcmp(key, "o") == 0)
    return parse_plain(key, value, FLOATS | FP8, "f32 f16 bf16 e4m3 e5m2", &c->o, message);
  if (strcmp(key, "kmean") == 0) {
    c->k_mean = strcmp(value, "1") == 0;
    return c->k_mean || strcmp(value, "0") == 0 ? IFA_OK : bad(key, value, "0 1", message);
  }
  return ifa_fail(message, IFA_BAD_ARGUMENT,
                  "claim: there is no word '%.40s' (q k v p acc o kmean)", key);
}

ifa_status ifa_claim_parse(const char *text, ifa_claim *c, ifa_message *message) {
  char words[sizeof c->text];
  *c = (ifa_claim){.q = {IFA_FORMAT_GIVEN, IFA_SHARE_NONE},
                   .p = IFA_FORMAT_F32,
                   .acc = IFA_FORMAT_F32,
                   .o = IFA_FORMAT_F32};
  if (strlen(text) >= sizeof c->text)
    return ifa_fail(message, IFA_BAD_ARGUMENT, "claim: %zu characters are too long", strlen(text));
  memcpy(c->text, text, strlen(text) + 1);
  memcpy(words, text, strlen(text) + 1);
  char *save = NULL, *word = strtok_r(words, " ", &save);
  if (word && strcmp(word, "exact") == 0 && !strtok_r(NULL, " ", &save))
    return ifa_succeed(message);
  c->at_least = word && strcmp(word, "at-least") == 0;
  if (!word || (strcmp(word, "close") != 0 && !c->at_least))
    return ifa_fail(message, IFA_BAD_ARGUMENT,
                    "claim: '%.60s' is not \"exact\", or \"close\" or \"at-least\" and words",
                    text);
  c->close = 1;
  while ((word = strtok_r(NULL, " ", &save)) != NULL) {
    char *equals = strchr(word, '=');
    if (!equals)
      return ifa_fail(message, IFA_BAD_ARGUMENT, "claim: '%.40s' is not of the form key=value",
                      word);
    *equals = '\0';
    ifa_status status = parse_word(word, equals + 1, c, message);
    if (status != IFA_OK) return status;
  }
  if (c->k_mean && c->k.format == IFA_FORMAT_GIVEN)
    return ifa_fail(
        message, IFA_BAD_ARGUMENT,
        "claim: kmean=1 needs a format of K (the operands given have their own smooth=)");
  if (c->at_least && (c->q.format == IFA_FORMAT_GIVEN || c->k.format == IFA_FORMAT_GIVEN ||
                      c->v.format == IFA_FORMAT_GIVEN))
    return ifa_fail(message, IFA_BAD_ARGUMENT, "claim: at-least needs the formats q=, k= and v=");
  return ifa_succeed(message);
}
