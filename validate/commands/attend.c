/* attend.c - `validate attend` and `validate quantize`: attention on somebody's own tensors.
 *
 * The input file holds q, k, v [B,H,N,D]: floats of any type, which are quantized as the case keys
 * say, or INT8 (as `quantize` writes them: q_int, k_int, v_int, or q, k, v of type I8) with their
 * scales q_scale, k_scale, v_scale and, for token_channel, v_channel_scale. */
#define _GNU_SOURCE /* asprintf */
#include <argp.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/operand.h"
#include "common/problem.h"
#include "ref/rows.h"
#include "validate/commands/commands.h"
#include "validate/judge/error.h"
#include "validate/cases/tensors.h"
#include "validate/reports/files.h"
#include "validate/text/visible.h"

typedef struct options {
  const char *input, *output, *backend;
  int unchecked; /* --no-check */
  char keys[IFA_CASE_TEXT];
} options;

enum { OPTION_NO_CHECK = 256 };

static const struct argp_option attend_options[] = {
    {"input", 'i', "FILE", 0, "safetensors file with q, k, v", 0},
    {"output", 'o', "FILE", 0, "safetensors file to write: o, and lse with lse=1", 0},
    {"backend", 'b', "NAME", 0, "backend (default: openmp, or scalar where it is not available)",
     0},
    {"no-check", OPTION_NO_CHECK, NULL, 0,
     "do not compute attention in binary64, which takes longer than the rest, nor print the error",
     0},
    {0}};

static const struct argp_option quantize_options[] = {
    {"input", 'i', "FILE", 0, "safetensors file with q, k, v", 0},
    {"output", 'o', "FILE", 0,
     "safetensors file to write: q_int, k_int, v_int (I8; INT4 one to a byte), q_scale, k_scale, "
     "v_scale",
     0},
    {0}};

static error_t parse(int key, char *value, struct argp_state *state) {
  options *o = state->input;
  switch (key) {
    case 'i': o->input = value; return 0;
    case 'o': o->output = value; return 0;
    case 'b': o->backend = value; return 0;
    case OPTION_NO_CHECK: o->unchecked = 1; return 0;
    case ARGP_KEY_ARG:
      if (strlen(o->keys) + strlen(value) + 2 > sizeof o->keys)
        refuse(state, "the case keys are too long");
      strcat(strcat(o->keys, value), " ");
      return 0;
    default: return ARGP_ERR_UNKNOWN;
  }
}

static const struct argp attend_parser = {
    attend_options,
    parse,
    "[K=V ...]",
    "Quantizes q, k, v from a file as the case keys say (or takes INT8 tensors with their scales), "
    "runs one "
    "backend, writes its output and prints its error against binary64.",
    NULL,
    NULL,
    NULL};
static const struct argp quantize_parser = {
    quantize_options,
    parse,
    "[K=V ...]",
    "Quantizes q, k, v from a file as the case keys say and writes the integers and scales.",
    NULL,
    NULL,
    NULL};

/* ---- quantized input ---- */

typedef struct slot {
  const char *name, *integer_name, *scale_name;
  ifa_type type;
  ifa_granularity scale;
  int64_t heads, tokens;
  int32_t block;
} slot;

/* The INT8 tensor of a slot: "q" if it is of type I8, or "q_int" in a file without "q". NULL: the
 * file has floats. */
static const ifa_tensor *find_integers(const ifa_tensor_file *file, const slot *s) {
  const ifa_tensor *t;
  int named = ifa_tensor_file_find(file, s->name, &t, NULL) == IFA_OK;
  if (!named && ifa_tensor_file_find(file, s->integer_name, &t, NULL) != IFA_OK) return NULL;
  return t->type == IFA_TENSOR_I8 ? t : NULL;
}

static ifa_status load_integers(const slot *s, const ifa_tensor *t, void **integers,
                                ifa_message *message) {
  int64_t dim = t->shape[3], rows = t->shape[0] * t->shape[1] * t->shape[2],
          row = s->type == IFA_I4 ? (dim + 1) / 2 * 2 : dim;
  if (!(*integers = calloc((size_t)(rows * row) + 1, 1)))
    return ifa_fail(message, IFA_OUT_OF_MEMORY, "no memory for %s", s->name);
  for (int64_t i = 0; i < rows * dim; i++) {
    int8_t value = ((const int8_t *)t->data)[i];
    if (s->type == IFA_I4 && (value < -8 || value > 7))
      return ifa_fail(message, IFA_BAD_DATA, "%s: element %" PRId64 " is %d; INT4 holds -8 .. 7",
                      s->name, i, value);
    ifa_operand_set(s->type, *integers, i / dim * row + i % dim, value);
  }
  return IFA_OK;
}

static ifa_status load_scales(const ifa_tensor_file *file, const char *name, int64_t count,
                              float **scales, ifa_message *message) {
  const ifa_tensor *t;
  ifa_status status = ifa_tensor_file_find(file, name, &t, message);
  if (status != IFA_OK) return status;
  if (t->type != IFA_TENSOR_F32)
    return ifa_fail(message, IFA_BAD_FILE, "%s is %s; f32 is wanted", name,
                    ifa_tensor_type_name(t->type));
  if (t->bytes != (size_t)count * sizeof(float))
    return ifa_fail(message, IFA_BAD_FILE,
                    "%s has %zu elements; the case's scale choice needs %" PRId64, name,
                    t->bytes / sizeof(float), count);
  if (!(*scales = malloc(t->bytes + 1)))
    return ifa_fail(message, IFA_OUT_OF_MEMORY, "no memory for %s", name);
  memcpy(*scales, t->data, t->bytes);
  return IFA_OK;
}

/* Floats that the integers stand for: [B,H,N,D]. With a scale per token and channel, without the
 * channel's: with it they might pass binary32 (128 * 2^100 * 2^100), or vanish (scale_channels). */
static ifa_status dequantize(const slot *s, int64_t batch, int64_t dim, const void *integers,
                             const float *scale, float **values, ifa_message *message) {
  int64_t row = s->type == IFA_I4 ? (dim + 1) / 2 * 2 : dim, matrices = batch * s->heads;
  if (!(*values = malloc(((size_t)(matrices * s->tokens * dim) + 1) * sizeof **values)))
    return ifa_fail(message, IFA_OUT_OF_MEMORY, "no memory for %s", s->name);
  for (int64_t m = 0; m < matrices; m++)
    for (int64_t t = 0; t < s->tokens; t++)
      for (int64_t d = 0; d < dim; d++) {
        float x = (float)ifa_operand_get(s->type, integers, (m * s->tokens + t) * row + d);
        if (s->scale == IFA_SCALE_CHANNEL) x *= scale[m * dim + d];
        else if (s->scale == IFA_SCALE_TOKEN_CHANNEL) x *= scale[m * s->tokens + t];
        else x *= ifa_token_scale(s->scale, scale, m, s->tokens, s->block, t);
        (*values)[(m * s->tokens + t) * dim + d] = x;
      }
  return IFA_OK;
}

static ifa_status load_quantized(const ifa_tensor_file *file, ifa_case *c, ifa_data *d,
                                 ifa_message *message) {
  ifa_problem *p = &c->problem;
  if (c->smooth)
    return ifa_fail(message, IFA_BAD_ARGUMENT, "smooth: the file is quantized already");
  slot slots[3] = {{"q", "q_int", "q_scale", p->q_type, p->q_scale, 0, 0, p->q_block},
                   {"k", "k_int", "k_scale", p->k_type, p->k_scale, 0, 0, p->k_block},
                   {"v", "v_int", "v_scale", p->v_type, p->v_scale, 0, 0, 1}};
  const ifa_tensor *tensors[3];
  for (int i = 0; i < 3; i++) {
    tensors[i] = find_integers(file, &slots[i]);
    if (!tensors[i])
      return ifa_fail(message, IFA_BAD_FILE, "%s is not INT8, but another of q, k, v is",
                      slots[i].name);
    if (tensors[i]->rank != 4)
      return ifa_fail(message, IFA_BAD_FILE, "%s has %d dimensions; [B,H,N,D] is wanted",
                      slots[i].name, tensors[i]->rank);
    slots[i].heads = tensors[i]->shape[1];
    slots[i].tokens = tensors[i]->shape[2];
  }
  if (memcmp(tensors[1]->shape, tensors[2]->shape, 4 * sizeof(int64_t)) != 0 ||
      tensors[0]->shape[0] != tensors[1]->shape[0] ||
      tensors[0]->shape[3] != tensors[1]->shape[3] || tensors[0]->shape[3] > IFA_MAX_HEAD_DIM)
    return ifa_fail(message, IFA_BAD_FILE, "the shapes of q, k and v do not fit together");
  char text[IFA_CASE_TEXT];
  p->batch = tensors[0]->shape[0];
  p->q_heads = slots[0].heads;
  p->kv_heads = slots[1].heads;
  p->nq = slots[0].tokens;
  p->nk = slots[1].tokens;
  p->head_dim = (int32_t)tensors[0]->shape[3];
  ifa_case_print(c, text);
  ifa_status status = ifa_case_parse(text, c, message); /* settles an automatic sm_scale */
  if (status == IFA_OK) status = ifa_problem_check(&c->problem, message);
  if (status != IFA_OK) return status;
  d->c = *c;
  d->p = ifa_problem_resolved(&c->problem);
  d->row_count = p->batch * p->q_heads * p->nq;
  void **integers[3] = {&d->q_int, &d->k_int, &d->v_int};
  float **scales[3] = {&d->q_scale, &d->k_scale, &d->v_scale}, **values[3] = {&d->q, &d->k, &d->v};
  if (p->v_scale == IFA_SCALE_TOKEN_CHANNEL)
    status = load_scales(file, "v_channel_scale", p->batch * p->kv_heads * p->head_dim,
                         &d->v_channel_scale, message);
  for (int i = 0; i < 3 && status == IFA_OK; i++) {
    int64_t count = ifa_scale_count(slots[i].scale, p->batch, slots[i].heads, slots[i].tokens,
                                    p->head_dim, slots[i].block);
    status = load_integers(&slots[i], tensors[i], integers[i], message);
    if (status == IFA_OK)
      status = load_scales(file, slots[i].scale_name, count, scales[i], message);
    if (status == IFA_OK)
      status = dequantize(&slots[i], p->batch, p->head_dim, *integers[i], *scales[i], values[i],
                          message);
  }
  return status;
}

/* Keys that a file decides, or that make no sense for one, are refused rather than ignored. */
static ifa_status check_keys(const char *keys, ifa_message *message) {
  static const char *const refused[] = {"b",       "hq",      "hkv",     "nq",        "nk",
                                        "d",       "fill",    "seed",    "qexp",      "kexp",
                                        "vexp",    "rows",    "layout",  "input",     "qstride",
                                        "kstride", "vstride", "ostride", "minus_zero"};
  char copy[IFA_CASE_TEXT];
  snprintf(copy, sizeof copy, "%s", keys);
  for (char *save = NULL, *word = strtok_r(copy, " ", &save); word;
       word = strtok_r(NULL, " ", &save)) {
    word[strcspn(word, "=")] = '\0';
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++)
      if (strcmp(word, refused[i]) == 0)
        return ifa_fail(
            message, IFA_BAD_ARGUMENT,
            "%s: the file decides sizes and data; all rows of dense [B,H,N,D] tensors are computed",
            word);
  }
  return IFA_OK;
}

static ifa_status load_file(const char *path, ifa_case *c, ifa_data *d, int *quantized,
                            int floats_only, ifa_message *message) {
  const ifa_tensor_file *file;
  ifa_status status = ifa_data_open(path, &file, message);
  if (status != IFA_OK) return status;
  const slot slots[3] = {{.name = "q", .integer_name = "q_int"},
                         {.name = "k", .integer_name = "k_int"},
                         {.name = "v", .integer_name = "v_int"}};
  *quantized = 0; /* one INT8 tensor makes it a quantized file: then all three must be */
  for (int i = 0; i < 3; i++) *quantized |= find_integers(file, &slots[i]) != NULL;
  if (*quantized && floats_only) return ifa_fail(message, IFA_BAD_DATA, "q is INT8 already");
  if (*quantized) return load_quantized(file, c, d, message);
  status = ifa_case_set_input(c, path, message);
  return status == IFA_OK ? ifa_data_make(c, d, message) : status;
}

/* Floats are quantized; INT8 tensors are taken as they are. */
static ifa_status load(const options *o, ifa_data *d, int *quantized, int floats_only,
                       ifa_message *message) {
  ifa_case c;
  char *path = NULL;
  *d = (ifa_data){0};
  ifa_status status = check_keys(o->keys, message);
  if (status == IFA_OK) status = ifa_case_parse(o->keys, &c, message);
  if (status != IFA_OK) return status;
  /* what has neither would be the name of one of the project's own tensors */
  if (asprintf(&path, "%s%s", strpbrk(o->input, "/.") ? "" : "./", o->input) < 0)
    return ifa_fail(message, IFA_OUT_OF_MEMORY, "no memory for a path");
  status = load_file(path, &c, d, quantized, floats_only, message);
  ifa_data_name_file(status, path, message);
  free(path);
  return status;
}

/* ---- attend ---- */

static void print_error(const ifa_data *d, int quantized, const double *o,
                        const double *reference) {
  ifa_error e = ifa_error_of(o, reference, d->row_count, d->p.head_dim);
  printf("against binary64 on %s:\n  relative L2 %.3e  mean relative %.3e  cosine %.7f  largest "
         "%.3e\n  worst row: relative L2 %.3e, row %" PRId64 "\n",
         quantized ? "the same integers and scales" : "the tensors before quantization",
         e.relative_l2, e.mean_relative, e.cosine, e.largest, e.worst_row, e.worst_row_number);
}

/* What `dequantize` left out of V: an output's element is linear in its channel of V. */
static void scale_channels(const ifa_data *d, double *o) {
  const ifa_problem *p = &d->p;
  for (int64_t row = 0; row < d->row_count; row++) {
    ifa_row at = ifa_row_at(p, row);
    const float *scale = d->v_channel_scale + (at.batch * p->kv_heads + at.kv_head) * p->head_dim;
    for (int32_t i = 0; i < p->head_dim; i++) o[row * p->head_dim + i] *= (double)scale[i];
  }
}

static ifa_status attend(const options *o, int *absent, ifa_message *message) {
  ifa_data d;
  tensor_set set = {0};
  double *values = NULL, *reference = NULL;
  void *output = NULL;
  float *lse = NULL;
  int quantized = 0;
  char text[IFA_CASE_TEXT], contract[16];
  const char *backend = o->backend                                             ? o->backend
                        : ifa_backend_supports("openmp", NULL, NULL) == IFA_OK ? "openmp"
                                                                               : "scalar";
  ifa_status status = load(o, &d, &quantized, 0, message);
  if (status == IFA_OK) {
    size_t elements = (size_t)(d.row_count * d.p.head_dim) + 1;
    output = calloc(elements, 4);
    lse = calloc((size_t)d.row_count + 1, sizeof *lse);
    values = calloc(elements, sizeof *values);
    if (!output || !lse || !values)
      status = ifa_fail(message, IFA_OUT_OF_MEMORY, "no memory for the output");
  }
  if (status == IFA_OK) {
    d.p.o_stride = (ifa_strides){0};
    ifa_inputs in = ifa_data_inputs(&d);
    ifa_outputs out = {.o = output, .lse = d.p.lse ? lse : NULL};
    status = ifa_run(backend, &d.p, &in, &out, message);
    if (status == IFA_BAD_DATA) ifa_data_name_file(status, o->input, message);
    *absent = status == IFA_NOT_AVAILABLE || status == IFA_UNSUPPORTED;
  }
  if (status == IFA_OK && !o->unchecked)
    status = ifa_error_baseline(&d, "f64", &reference, message);
  if (status == IFA_OK && reference && quantized && d.v_channel_scale)
    scale_channels(&d, reference);
  if (status == IFA_OK) {
    ifa_case_print(&d.c, text);
    snprintf(contract, sizeof contract, "%d", IFA_CONTRACT_VERSION);
    const ifa_metadata metadata[] = {{"backend", backend}, {"case", text}, {"contract", contract}};
    tensor_set_add_output(&set, &d.p, output, d.p.lse ? lse : NULL);
    status = ifa_safetensors_write(o->output, set.list, set.count, metadata, 3, message);
  }
  if (status == IFA_OK) {
    ifa_print_visible(stdout, o->output);
    printf(": o [%" PRId64 ",%" PRId64 ",%" PRId64 ",%d] %s by %s\n", d.p.batch, d.p.q_heads,
           d.p.nq, (int)d.p.head_dim, ifa_type_name(d.p.out_type), backend);
    for (int64_t i = 0; i < d.row_count * d.p.head_dim && reference; i++)
      values[i] = (double)ifa_float_get(d.p.out_type, output, i);
    if (reference) print_error(&d, quantized, values, reference);
  }
  tensor_set_free(&set);
  free(values);
  free(reference);
  free(output);
  free(lse);
  ifa_data_free(&d);
  return status;
}

int cmd_attend(int argc, char **argv) {
  options o = {0};
  ifa_message why = {""};
  if (argp_parse(&attend_parser, argc, argv, 0, NULL, &o) != 0 || !o.input || !o.output)
    return complain("attend", "--input and --output are needed");
  if (ifa_output_prepare(o.output, &why) != IFA_OK) return complain("attend", "%s", why.text);
  int absent = 0; /* the backend, not something about the input */
  if (attend(&o, &absent, &why) == IFA_OK) return EXIT_AGREE;
  complain("attend", "%s", why.text);
  return absent ? EXIT_NOTHING_RUN : EXIT_BAD_USAGE;
}

/* ---- quantize ---- */

static ifa_status quantize(const options *o, ifa_message *message) {
  ifa_data d;
  tensor_set set = {0};
  int quantized = 0;
  char problem[IFA_CASE_TEXT], contract[16];
  ifa_status status = load(o, &d, &quantized, 1, message);
  if (status == IFA_OK) status = ifa_problem_print(&d.c.problem, problem, sizeof problem, message);
  if (status == IFA_OK) status = tensor_set_add_quantized(&set, &d, message);
  snprintf(contract, sizeof contract, "%d", IFA_CONTRACT_VERSION);
  const ifa_metadata metadata[] = {
      {"problem", problem}, {"smooth", d.c.smooth ? "1" : "0"}, {"contract", contract}};
  if (status == IFA_OK)
    status = ifa_safetensors_write(o->output, set.list, set.count, metadata, 3, message);
  if (status == IFA_OK) {
    ifa_print_visible(stdout, o->output);
    printf(": %zu tensors\n  %s\n", set.count, problem);
  }
  tensor_set_free(&set);
  ifa_data_free(&d);
  return status;
}

int cmd_quantize(int argc, char **argv) {
  options o = {0};
  ifa_message why = {""};
  if (argp_parse(&quantize_parser, argc, argv, 0, NULL, &o) != 0 || !o.input || !o.output)
    return complain("quantize", "--input and --output are needed");
  if (ifa_output_prepare(o.output, &why) != IFA_OK) return complain("quantize", "%s", why.text);
  return quantize(&o, &why) == IFA_OK ? EXIT_AGREE : complain("quantize", "%s", why.text);
}
