#include "validate/cases/buffers.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/backend.h"
#include "common/operand.h"
#include "common/problem.h"

ifa_status ifa_buffer_make(ifa_buffer *b, size_t bytes, uint8_t poison, const char *what,
                           ifa_message *message) {
  *b = (ifa_buffer){.bytes = bytes, .poison = poison, .block = malloc(bytes + 2 * IFA_GUARD_BYTES)};
  if (!b->block)
    return ifa_fail(message, IFA_OUT_OF_MEMORY, "no memory for %s: %zu bytes", what, bytes);
  b->data = b->block + IFA_GUARD_BYTES;
  memset(b->block, poison, bytes + 2 * IFA_GUARD_BYTES);
  return IFA_OK;
}

void ifa_buffer_free(ifa_buffer *b) {
  free(b->block);
  *b = (ifa_buffer){0};
}

static int all_poison(const uint8_t *bytes, size_t count, uint8_t poison) {
  for (size_t i = 0; i < count; i++)
    if (bytes[i] != poison) return 0;
  return 1;
}

int ifa_buffer_guards_hold(const ifa_buffer *b) {
  if (!b->block) return 1;
  return all_poison(b->block, IFA_GUARD_BYTES, b->poison) &&
         all_poison(b->data + b->bytes, IFA_GUARD_BYTES, b->poison);
}

static ifa_status make_stages(const ifa_data *d, ifa_stage_level level, uint8_t poison,
                              ifa_run_buffers *b, ifa_message *message) {
  const ifa_problem *p = &d->p;
  size_t rows = (size_t)d->row_count, keys = rows * (size_t)p->nk,
         tiles = rows * (size_t)ifa_ceil_div(p->nk, p->kv_tile);
  size_t splits = rows * (size_t)ifa_ceil_div(p->nk, p->kv_split);
  const struct {
    ifa_buffer *buffer;
    size_t bytes;
  } list[] = {{&b->unit, tiles * 4},
              {&b->value_unit, tiles * 4}, /* level UNITS ends here */
              {&b->s, keys * 4},
              {&b->p, keys},
              {&b->value_p, keys},
              {&b->l, splits * 4},
              {&b->acc, splits * 4 * (size_t)p->head_dim}};
  for (size_t i = 0; i < (level == IFA_STAGES_UNITS ? 2 : sizeof list / sizeof list[0]); i++) {
    ifa_status status = ifa_buffer_make(list[i].buffer, list[i].bytes, poison, "a stage", message);
    if (status != IFA_OK) return status;
  }
  b->stages =
      (ifa_stages){(int32_t *)b->s.data,          (int32_t *)b->unit.data, b->p.data,
                   (int32_t *)b->value_unit.data, b->value_p.data,         (int32_t *)b->l.data,
                   (int32_t *)b->acc.data};
  b->level = level;
  return IFA_OK;
}

ifa_status ifa_run_buffers_make(const ifa_data *d, ifa_stage_level level, uint8_t poison,
                                ifa_run_buffers *b, ifa_message *message) {
  const ifa_problem *p = &d->p;
  *b = (ifa_run_buffers){0};
  size_t o_bytes =
      (size_t)ifa_extent_bytes(p->out_type, p->o_stride, p->batch, p->q_heads, p->nq, p->head_dim);
  ifa_status status = ifa_buffer_make(&b->o, o_bytes, poison, "the output", message);
  if (status == IFA_OK && p->lse)
    status = ifa_buffer_make(&b->lse, (size_t)(p->batch * p->q_heads * p->nq) * sizeof(float),
                             poison, "lse", message);
  if (status == IFA_OK && level != IFA_STAGES_NONE)
    status = make_stages(d, level, poison, b, message);
  return status;
}

void ifa_run_buffers_free(ifa_run_buffers *b) {
  ifa_buffer *list[] = {&b->o,          &b->lse,     &b->s, &b->unit, &b->p,
                        &b->value_unit, &b->value_p, &b->l, &b->acc};
  for (size_t i = 0; i < sizeof list / sizeof list[0]; i++) ifa_buffer_free(list[i]);
  b->level = IFA_STAGES_NONE;
}

ifa_outputs ifa_run_buffers_outputs(const ifa_run_buffers *b) {
  return (ifa_outputs){.o = b->o.data,
                       .lse = b->lse.block ? (float *)b->lse.data : NULL,
                       .stages = b->level ? (ifa_stages *)&b->stages : NULL};
}

/* Batch, head and token of computed row r. */
static void place_of_row(const ifa_data *d, int64_t r, int64_t place[3]) {
  int64_t index = d->rows ? d->rows[r] : r, matrix = index / d->p.nq;
  place[0] = matrix / d->p.q_heads;
  place[1] = matrix % d->p.q_heads;
  place[2] = index % d->p.nq;
}

int64_t ifa_output_index(const ifa_data *d, int64_t r, int32_t dim) {
  int64_t place[3];
  place_of_row(d, r, place);
  return ifa_offset(d->p.o_stride, place[0], place[1], place[2]) + dim;
}

static ifa_status check_guards(const ifa_run_buffers *b, ifa_message *message) {
  const struct {
    const char *name;
    const ifa_buffer *buffer;
  } list[] = {{"o", &b->o},
              {"lse", &b->lse},
              {"s", &b->s},
              {"unit", &b->unit},
              {"p", &b->p},
              {"value_unit", &b->value_unit},
              {"value_p", &b->value_p},
              {"l", &b->l},
              {"acc", &b->acc}};
  for (size_t i = 0; i < sizeof list / sizeof list[0]; i++)
    if (!ifa_buffer_guards_hold(list[i].buffer))
      return ifa_fail(message, IFA_BAD_DATA, "guard bytes around %s were overwritten",
                      list[i].name);
  return IFA_OK;
}

/* Marks which bytes of o belong to computed rows and looks at the rest. */
static ifa_status check_untouched(const ifa_data *d, const ifa_run_buffers *b,
                                  ifa_message *message) {
  size_t width = ifa_type_bytes(d->p.out_type), row_bytes = width * (size_t)d->p.head_dim;
  uint8_t *mine = calloc(b->o.bytes + 1, 1);
  if (!mine) return ifa_fail(message, IFA_OUT_OF_MEMORY, "no memory for a map of the output");
  for (int64_t r = 0; r < d->row_count; r++)
    memset(mine + (size_t)ifa_output_index(d, r, 0) * width, 1, row_bytes);
  size_t at = 0;
  while (at < b->o.bytes && (mine[at] || b->o.data[at] == b->o.poison)) at++;
  free(mine);
  if (at < b->o.bytes)
    return ifa_fail(message, IFA_BAD_DATA,
                    "byte %zu of the output belongs to no computed row but was written", at);
  return IFA_OK;
}

ifa_status ifa_run_buffers_check(const ifa_data *d, const ifa_run_buffers *b,
                                 ifa_message *message) {
  ifa_status status = check_guards(b, message);
  return status == IFA_OK ? check_untouched(d, b, message) : status;
}
