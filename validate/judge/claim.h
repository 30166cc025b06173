/* claim.h - what a plug-in promises: the contract's bits, or attention with such and such
 * roundings. docs/validate.md, section 11. */
#ifndef IFA_VALIDATE_CLAIM_H
#define IFA_VALIDATE_CLAIM_H

#include "common/message.h"
#include "ifa.h"

/* Number formats that a claim can name. */
typedef enum ifa_format {
  IFA_FORMAT_GIVEN = 0, /* Q, K, V: the quantized operands of the case, times their scales */
  IFA_FORMAT_F32,
  IFA_FORMAT_F16,
  IFA_FORMAT_BF16,
  IFA_FORMAT_E4M3,
  IFA_FORMAT_E5M2,
  IFA_FORMAT_INT8, /* Q, K, V: -127..127; weights: multiples of 1/127 of the largest */
  IFA_FORMAT_UINT8 /* weights: multiples of 1/255 of the largest */
} ifa_format;

/* What shares a scale = absmax / (127 or 448). */
typedef enum ifa_share {
  IFA_SHARE_NONE = 0,
  IFA_SHARE_HEAD,
  IFA_SHARE_TOKEN,
  IFA_SHARE_CHANNEL
} ifa_share;

typedef struct ifa_operand_format {
  ifa_format format;
  ifa_share share;
} ifa_operand_format;

/* Longest text of a claim, with its NUL. */
#define IFA_CLAIM_TEXT 192

typedef struct ifa_claim {
  char text[IFA_CLAIM_TEXT]; /* as it was given */
  int close;                 /* 0: exact */
  int at_least; /* close, and the operands' formats are the worst that there may be: a kernel that
                   rounds less keeps it too */
  ifa_operand_format q, k, v;
  int k_mean;     /* kmean=1: K less its mean over the tokens, before it is rounded */
  ifa_format p;   /* of the weights that multiply V */
  ifa_format acc; /* F32, F16 or BF16: of the sums over keys */
  /* of the output before it is stored as the problem's type: a float or FP8 format */
  ifa_format o;
} ifa_claim;

/* "exact", or "close" or "at-least" and words; IFA_BAD_ARGUMENT names the word that is wrong. */
ifa_status ifa_claim_parse(const char *text, ifa_claim *claim, ifa_message *message);

#endif
