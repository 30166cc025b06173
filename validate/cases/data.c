#define _GNU_SOURCE /* asprintf */
#include "validate/cases/data.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/operand.h"
#include "common/problem.h"
#include "common/random.h"
#include "files/tensor_file.h"
#include "validate/cases/fill.h"
#include "validate/text/visible.h"

#ifndef IFA_REAL_DIR
#define IFA_REAL_DIR "data/real"
#endif

static ifa_status allocate(void *pointer, int64_t count, size_t bytes, const char *what,
                           ifa_message *message) {
  void *block = calloc((size_t)count + 64, bytes); /* never 0 bytes */
  memcpy(pointer, &block, sizeof block);
  return block ? IFA_OK
               : ifa_fail(message, IFA_OUT_OF_MEMORY, "no memory for %s: %" PRId64 " elements",
                          what, count);
}

/* ---- input files ---- */

/* The real tensors of an installed program: PREFIX/share/ifa/real for PREFIX/bin/validate; to be
 * freed. NULL if there are none. */
static char *installed_real_dir(void) {
  char *program = realpath("/proc/self/exe", NULL), *folder = NULL;
  for (int up = 0; program && up < 2; up++) {
    char *slash = strrchr(program, '/');
    if (slash) *slash = '\0';
  }
  if (!program || asprintf(&folder, "%s/share/ifa/real", program) < 0) folder = NULL;
  free(program);
  if (folder && access(folder, R_OK) == 0) return folder;
  free(folder);
  return NULL;
}

const char *ifa_data_real_folder;

char *ifa_data_path(const char *input) {
  const char *folder = getenv("IFA_REAL_DIR");
  if (!folder) folder = ifa_data_real_folder;
  char *path = NULL;
  if (strpbrk(input, "/.")) return ifa_copy_string(input);
  char *installed = folder ? NULL : installed_real_dir();
  if (asprintf(&path, "%s/%s.safetensors",
               folder      ? folder
               : installed ? installed
                           : IFA_REAL_DIR,
               input) < 0)
    path = NULL;
  free(installed);
  return path;
}

/* The file that was read last: cases come in rows with the same one. */
static struct {
  char *path;
  struct stat about;
  ifa_tensor_file *file;
} last;

static int is_last(const char *path, const struct stat *about) {
  const struct stat *b = &last.about;
  return last.file && strcmp(last.path, path) == 0 && about->st_dev == b->st_dev &&
         about->st_ino == b->st_ino && about->st_size == b->st_size &&
         memcmp(&about->st_mtim, &b->st_mtim, sizeof b->st_mtim) == 0 &&
         memcmp(&about->st_ctim, &b->st_ctim, sizeof b->st_ctim) == 0;
}

void ifa_data_forget_file(void) {
  ifa_tensor_file_free(last.file);
  free(last.path);
  last.file = NULL;
  last.path = NULL;
}

ifa_status ifa_data_open(const char *path, const ifa_tensor_file **file, ifa_message *message) {
  static const char *const names[] = {"q",     "k",       "v",       "q_int",   "k_int",
                                      "v_int", "q_scale", "k_scale", "v_scale", "v_channel_scale"};
  struct stat about;
  int known = stat(path, &about) == 0;
  if (known && is_last(path, &about)) {
    *file = last.file;
    return IFA_OK;
  }
  ifa_data_forget_file();
  ifa_status status =
      ifa_tensor_file_read_named(path, names, sizeof names / sizeof names[0], &last.file, message);
  if (status != IFA_OK) return status;
  last.path = ifa_copy_string(path);
  if (!known || !last.path) { /* it has come since, or no memory */
    ifa_data_forget_file();
    return ifa_fail(message, IFA_IO, "%s: cannot be read", ifa_shorten(path).text);
  }
  last.about = about;
  *file = last.file;
  return IFA_OK;
}

ifa_status ifa_data_name_file(ifa_status status, const char *path, ifa_message *message) {
  ifa_quoted quoted = ifa_quote(path);
  ifa_message inner;
  if (status == IFA_OK || !message || strstr(message->text, ifa_shorten(path).text)) return status;
  inner = *message;
  const char *at = strstr(inner.text, quoted.text);
  if (at)
    return ifa_fail(message, status, "%.*s'%s'%s", (int)(at - inner.text), inner.text,
                    ifa_shorten(path).text, at + strlen(quoted.text));
  return ifa_fail(message, status, "%s: %s", ifa_shorten(path).text, inner.text);
}

static float tensor_value(const ifa_tensor *t, int64_t i) {
  switch (t->type) {
    case IFA_TENSOR_F32: return ((const float *)t->data)[i];
    case IFA_TENSOR_F16: return ifa_f16_to_f32(((const uint16_t *)t->data)[i]);
    default: return ifa_bf16_to_f32(((const uint16_t *)t->data)[i]);
  }
}

/* A float tensor [B,H,N,D] of the file: a copy. */
static ifa_status copy_floats(const ifa_tensor_file *file, const char *name, float **values,
                              int64_t shape[4], ifa_message *message) {
  const ifa_tensor *t;
  ifa_status status = ifa_tensor_file_find(file, name, &t, message);
  if (status != IFA_OK) return status;
  if (t->type != IFA_TENSOR_F32 && t->type != IFA_TENSOR_F16 && t->type != IFA_TENSOR_BF16)
    return ifa_fail(message, IFA_BAD_FILE, "%s is %s; f32, f16 or bf16 is wanted", name,
                    ifa_tensor_type_name(t->type));
  if (t->rank != 4)
    return ifa_fail(message, IFA_BAD_FILE, "%s has %d dimensions; [B,H,N,D] is wanted", name,
                    t->rank);
  int64_t count = 1;
  for (int i = 0; i < 4; i++) count *= shape[i] = t->shape[i];
  if ((status = allocate(values, count, sizeof(float), name, message)) != IFA_OK) return status;
  for (int64_t i = 0; i < count; i++) (*values)[i] = tensor_value(t, i);
  return IFA_OK;
}

static ifa_status check_shapes(const int64_t q[4], const int64_t k[4], const int64_t v[4],
                               ifa_message *message) {
  for (int i = 0; i < 4; i++)
    if (k[i] != v[i])
      return ifa_fail(message, IFA_BAD_FILE, "dimension %d of k is %" PRId64 " but of v %" PRId64,
                      i, k[i], v[i]);
  if (q[0] != k[0] || q[3] != k[3])
    return ifa_fail(message, IFA_BAD_FILE,
                    "batch or head_dim of q and k differ: [%" PRId64 ",..,%" PRId64
                    "] and [%" PRId64 ",..,%" PRId64 "]",
                    q[0], q[3], k[0], k[3]);
  if (q[3] > INT32_MAX) return ifa_fail(message, IFA_BAD_FILE, "head_dim is %" PRId64, q[3]);
  return IFA_OK;
}

static ifa_status read_input(ifa_data *data, const char *path, ifa_message *message) {
  /* `mutants` makes several cases at once; the file stays until the copies are made */
  static pthread_mutex_t reading = PTHREAD_MUTEX_INITIALIZER;
  int64_t q[4], k[4], v[4];
  const ifa_tensor_file *file;
  pthread_mutex_lock(&reading);
  ifa_status status = ifa_data_open(path, &file, message);
  if (status == IFA_OK) status = copy_floats(file, "q", &data->q, q, message);
  if (status == IFA_OK) status = copy_floats(file, "k", &data->k, k, message);
  if (status == IFA_OK) status = copy_floats(file, "v", &data->v, v, message);
  pthread_mutex_unlock(&reading);
  if (status == IFA_OK) status = check_shapes(q, k, v, message);
  if (status != IFA_OK) return status;
  ifa_problem *p = &data->c.problem;
  p->batch = q[0];
  p->q_heads = q[1];
  p->kv_heads = k[1];
  p->nq = q[2];
  p->nk = k[2];
  p->head_dim = (int32_t)q[3];
  ifa_case_settle(&data->c); /* strides and an automatic sm_scale follow from the sizes */
  return IFA_OK;
}

static ifa_status make_floats(ifa_data *data, ifa_message *message) {
  const ifa_problem *p = &data->c.problem;
  int64_t q_count = p->batch * p->q_heads * p->nq * p->head_dim,
          k_count = p->batch * p->kv_heads * p->nk * p->head_dim;
  ifa_status status = allocate(&data->q, q_count, sizeof(float), "q", message);
  if (status == IFA_OK) status = allocate(&data->k, k_count, sizeof(float), "k", message);
  if (status == IFA_OK) status = allocate(&data->v, k_count, sizeof(float), "v", message);
  if (status != IFA_OK) return status;
  ifa_fill_floats(&data->c, IFA_OPERAND_Q, data->q);
  ifa_fill_floats(&data->c, IFA_OPERAND_K, data->k);
  ifa_fill_floats(&data->c, IFA_OPERAND_V, data->v);
  return IFA_OK;
}

/* ---- operands ---- */

/* One operand's fields, gathered so that Q, K and V are handled by the same code. */
typedef struct operand_slot {
  ifa_operand operand;
  const float *values;
  void **integers;
  float **scale, **channel_scale; /* channel_scale NULL unless TOKEN_CHANNEL */
  ifa_type type;
  ifa_strides strides;
  ifa_granularity granularity;
  int64_t heads, tokens;
  int32_t block;
  int smooth;
} operand_slot;

/* The quantizer calls its input src; here it has a name. */
static ifa_status name_operand(ifa_status status, ifa_operand operand, ifa_message *message) {
  static const char *const names[] = {
      [IFA_OPERAND_Q] = "q", [IFA_OPERAND_K] = "k", [IFA_OPERAND_V] = "v"};
  if (status == IFA_OK || !message) return status;
  ifa_message inner = *message;
  int is_element = strncmp(inner.text, "src[", 4) == 0;
  return ifa_fail(message, status, "%s%s%s", names[operand], is_element ? "" : ": ",
                  inner.text + (is_element ? 3 : 0));
}

/* The dense integers to where the problem's strides put them; heads that share storage leave the
 * last one's. */
static void scatter(const operand_slot *s, const ifa_problem *p, const void *dense,
                    ifa_strides dense_strides) {
  for (int64_t row = 0; row < p->batch * s->heads * s->tokens; row++) {
    int64_t b = row / s->tokens / s->heads, h = row / s->tokens % s->heads, t = row % s->tokens;
    for (int32_t d = 0; d < p->head_dim; d++)
      ifa_operand_set(s->type, *s->integers, ifa_offset(s->strides, b, h, t) + d,
                      ifa_operand_get(s->type, dense, ifa_offset(dense_strides, b, h, t) + d));
  }
}

static void turn_zeros(float *scale, int64_t count) {
  for (int64_t i = 0; i < count; i++)
    if (scale[i] == 0.0f) scale[i] = -0.0f;
}

static ifa_status quantize_operand(ifa_data *data, operand_slot s, ifa_message *message) {
  const ifa_problem *p = &data->p;
  int64_t bytes = ifa_extent_bytes(s.type, s.strides, p->batch, s.heads, s.tokens, p->head_dim);
  int64_t scales =
      ifa_scale_count(s.granularity, p->batch, s.heads, s.tokens, p->head_dim, s.block);
  ifa_status status = allocate(s.integers, bytes, 1, "an operand", message);
  if (status == IFA_OK) status = allocate(s.scale, scales, sizeof(float), "scales", message);
  if (status == IFA_OK && s.channel_scale)
    status = allocate(s.channel_scale, p->batch * s.heads * p->head_dim, sizeof(float),
                      "channel scales", message);
  if (status != IFA_OK) return status;
  ifa_strides dense_strides = ifa_strides_bhnd(s.type, s.heads, s.tokens, p->head_dim);
  void *dense;
  status = allocate(
      &dense, ifa_extent_bytes(s.type, dense_strides, p->batch, s.heads, s.tokens, p->head_dim), 1,
      "an operand", message);
  if (status != IFA_OK) return status;
  ifa_quantize_args args = {.src = s.values,
                            .src_type = IFA_F32,
                            .batch = p->batch,
                            .heads = s.heads,
                            .tokens = s.tokens,
                            .head_dim = p->head_dim,
                            .dst = dense,
                            .dst_type = s.type,
                            .dst_stride = dense_strides,
                            .granularity = s.granularity,
                            .block = s.block,
                            .subtract_mean = s.smooth,
                            .scale = *s.scale,
                            .channel_scale = s.channel_scale ? *s.channel_scale : NULL};
  status = ifa_quantize(&args, message);
  status = name_operand(status, s.operand, message);
  if (status == IFA_OK) scatter(&s, p, dense, dense_strides);
  free(dense);
  if (status == IFA_OK && ifa_fill_draws_operands(data->c.fill) && !data->c.input[0] &&
      !data->c.plain) {
    ifa_case resolved = data->c;
    resolved.problem = data->p;
    ifa_fill_operands(&resolved, s.operand, *s.integers, *s.scale, scales,
                      s.channel_scale ? *s.channel_scale : NULL);
  }
  if (status == IFA_OK && data->c.minus_zero) {
    turn_zeros(*s.scale, scales);
    if (s.channel_scale) turn_zeros(*s.channel_scale, p->batch * s.heads * p->head_dim);
  }
  return status;
}

ifa_status ifa_data_quantize(ifa_data *data, ifa_message *message) {
  const ifa_problem *p = &data->p;
  operand_slot q = {IFA_OPERAND_Q, data->q,    &data->q_int, &data->q_scale, NULL,       p->q_type,
                    p->q_stride,   p->q_scale, p->q_heads,   p->nq,          p->q_block, 0};
  operand_slot k = {IFA_OPERAND_K, data->k,   &data->k_int, &data->k_scale,
                    NULL,          p->k_type, p->k_stride,  p->k_scale,
                    p->kv_heads,   p->nk,     p->k_block,   data->c.smooth};
  operand_slot v = {IFA_OPERAND_V,
                    data->v,
                    &data->v_int,
                    &data->v_scale,
                    p->v_scale == IFA_SCALE_TOKEN_CHANNEL ? &data->v_channel_scale : NULL,
                    p->v_type,
                    p->v_stride,
                    p->v_scale,
                    p->kv_heads,
                    p->nk,
                    1,
                    0};
  ifa_status status = quantize_operand(data, q, message);
  if (status == IFA_OK) status = quantize_operand(data, k, message);
  if (status == IFA_OK) status = quantize_operand(data, v, message);
  return status;
}

/* ---- rows ---- */

static int compare_rows(const void *a, const void *b) {
  int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
  return (x > y) - (x < y);
}

/* The first row, the last, and random ones between. */
static ifa_status choose_rows(ifa_data *data, ifa_message *message) {
  int64_t total = data->p.batch * data->p.q_heads * data->p.nq, wanted = data->c.rows, count = 0;
  data->row_count = total;
  if (wanted == 0 || wanted >= total) return IFA_OK;
  ifa_status status = allocate(&data->rows, wanted, sizeof(int64_t), "rows", message);
  if (status != IFA_OK) return status;
  for (int64_t i = 0; i < wanted; i++)
    data->rows[i] =
        i == 0   ? 0
        : i == 1 ? total - 1
                 : (int64_t)(ifa_random_bits(data->c.seed, 99, (uint64_t)i) % (uint64_t)total);
  qsort(data->rows, (size_t)wanted, sizeof(int64_t), compare_rows);
  for (int64_t i = 0; i < wanted; i++)
    if (count == 0 || data->rows[i] != data->rows[count - 1]) data->rows[count++] = data->rows[i];
  data->row_count = count;
  return IFA_OK;
}

/* Sizes that no test machine can hold are refused before anything is allocated. */
static ifa_status check_memory(const ifa_problem *p, ifa_message *message) {
  double elements =
      (double)p->batch * p->head_dim *
      ((double)p->q_heads * (double)p->nq + 2.0 * (double)p->kv_heads * (double)p->nk);
  if (elements > 4e9)
    return ifa_fail(message, IFA_OUT_OF_MEMORY,
                    "q, k and v have %.3g elements; a case may have 4e9", elements);
  return IFA_OK;
}

/* data->c is the case; `path`: its input file, or NULL. */
static ifa_status make_data(const char *path, ifa_data *data, ifa_message *message) {
  ifa_status status = path ? read_input(data, path, message) : IFA_OK;
  if (status == IFA_OK) status = ifa_problem_check(&data->c.problem, message);
  if (status == IFA_OK) status = check_memory(&data->c.problem, message);
  if (status == IFA_OK && !path) status = make_floats(data, message);
  if (status != IFA_OK) return status;
  data->p = ifa_problem_resolved(&data->c.problem);
  if ((status = ifa_data_quantize(data, message)) != IFA_OK) return status;
  return choose_rows(data, message);
}

ifa_status ifa_data_make(const ifa_case *c, ifa_data *data, ifa_message *message) {
  *data = (ifa_data){.c = *c};
  if (!c->input[0]) return make_data(NULL, data, message);
  char *path = ifa_data_path(c->input);
  if (!path) return ifa_fail(message, IFA_OUT_OF_MEMORY, "no memory for a path");
  ifa_status status = ifa_data_name_file(make_data(path, data, message), path, message);
  free(path);
  return status;
}

void ifa_data_free(ifa_data *d) {
  void *blocks[] = {d->q,       d->k,       d->v,       d->q_int,           d->k_int, d->v_int,
                    d->q_scale, d->k_scale, d->v_scale, d->v_channel_scale, d->rows};
  for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++) free(blocks[i]);
  *d = (ifa_data){0};
}

ifa_inputs ifa_data_inputs(const ifa_data *d) {
  return (ifa_inputs){.q = d->q_int,
                      .k = d->k_int,
                      .v = d->v_int,
                      .q_scale = d->q_scale,
                      .k_scale = d->k_scale,
                      .v_scale = d->v_scale,
                      .v_channel_scale = d->v_channel_scale,
                      .rows = d->rows,
                      .row_count = d->rows ? d->row_count : 0};
}
