/* case.h - one test case: a problem, and where its data come from. A case is one line of
 * `key=value` words; docs/validate.md. */
#ifndef IFA_VALIDATE_CASE_H
#define IFA_VALIDATE_CASE_H

#include "common/message.h"
#include "ifa.h"

typedef enum ifa_fill {
  IFA_FILL_NORMAL = 0, /* standard normal: the paper's first */
  IFA_FILL_UNIFORM,    /* [0, 1): the paper's second, as its script has it */
  IFA_FILL_CONSTANT,   /* every token of Q, of K and of V the same vector */
  /* operands drawn from the type's least value, its largest and 0; scales over four octaves */
  IFA_FILL_EXTREMES,
  /* normal; one channel of K carries an offset of 30, one of V is 30 times larger */
  IFA_FILL_OUTLIER,
  IFA_FILL_SINK, /* normal, every query attends strongly to token 0, whose value is small */
  /* every tile of 64 keys scores 1.5 nats above the one before: each raises the unit */
  IFA_FILL_RISING,
  IFA_FILL_FALLING, /* the reverse: each asks for a lower unit */
  IFA_FILL_EQUAL,   /* all keys alike: all scores of a row equal */
  /* normal, about a quarter of the tokens of Q, K and V wholly zero, and the first tile of V */
  IFA_FILL_ZEROS,
  IFA_FILL_CENTRED, /* [-0.5, 0.5): the paper's second, as its text has it */
  /* operands drawn from all of the type's values; scales 0, powers of two, and others over many
   * octaves */
  IFA_FILL_WIDE,
  IFA_FILL_COUNT
} ifa_fill;

const char *ifa_fill_name(ifa_fill fill); /* NULL outside the enum */

/* Does the fill draw operands and scales, rather than floats that are then quantized? */
static inline int ifa_fill_draws_operands(ifa_fill fill) {
  return fill == IFA_FILL_EXTREMES || fill == IFA_FILL_WIDE;
}

/* Largest |qexp|, |kexp|, |vexp|. */
#define IFA_MAX_EXPONENT 120

/* Longest path of an input file, with its NUL: PATH_MAX. */
#define IFA_INPUT_PATH 4096

/* Longest line of cases, with its NUL: a path with each byte as %XX, and as much again. */
#define IFA_CASE_LINE 16384

typedef struct ifa_case {
  ifa_problem problem;
  int auto_scale;  /* sm=auto: sm_scale is 1/sqrt(head_dim) */
  int layout_bnhd; /* layout=bnhd: operands and output are [batch, token, head, head_dim] */
  ifa_fill fill;
  uint64_t seed;
  /* 0: all rows; else how many are computed, spread over the problem by the seed */
  int64_t rows;
  int smooth; /* 1: K less its per-channel mean */
  /* qexp, kexp, vexp: the floats of Q, K, V (or the drawn scales) are multiplied by 2^exponent */
  int exponent[3];
  int minus_zero; /* 1: every 0 among the filled floats and among all scales is a -0 */
  /* not in the text: 1 keeps what the quantizers make of the floats also where the fill draws
   * operands */
  int plain;
  /* "" or a safetensors file with q, k, v: sizes come from it, and fill is not used. Kept until
   * ifa_case_forget_inputs, whatever becomes of the case. */
  const char *input;
} ifa_case;

ifa_case ifa_case_default(void);

/* Sets the input file: any path. In a case's text its bytes that are not letters, digits or one of
 * "_-./:+@=~" are %XX, two hexadecimal digits; a % before anything else stands for itself. */
ifa_status ifa_case_set_input(ifa_case *c, const char *path, ifa_message *message);

/* Frees all inputs: no case that has one may be used any more. (A program that ends need not.) */
void ifa_case_forget_inputs(void);

/* Longest text of a case, with its NUL: of a valid problem below 1024 bytes, and three for each of
 * the path's. */
#define IFA_CASE_TEXT (1024 + 3 * IFA_INPUT_PATH)

/* The case as text: only what differs from the default, so that it is short; it parses back to the
 * same case. */
void ifa_case_print(const ifa_case *c, char text[IFA_CASE_TEXT]);

/* Parses a line whose values may be lists ("d=64,128 causal=0,1"): every combination, the last key
 * varying fastest, is handed to `each` in turn until it answers anything but IFA_OK. Keys not named
 * keep the value that `base` has. Invalid problems are parsed all the same (validity is the
 * library's answer to give). IFA_BAD_ARGUMENT for a line that is not of this form. */
ifa_status ifa_case_expand(const char *line, const ifa_case *base,
                           ifa_status (*each)(const ifa_case *c, void *context,
                                              ifa_message *message),
                           void *context, ifa_message *message);

/* What follows from other fields, once all are set: an automatic sm_scale, and the strides of
 * layout=bnhd. Parsing does it. */
void ifa_case_settle(ifa_case *c);

/* A line without lists. */
ifa_status ifa_case_parse(const char *line, ifa_case *c, ifa_message *message);

#endif
