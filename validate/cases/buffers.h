/* buffers.h - output buffers that show what a backend wrote: poisoned before, guard bytes around.
 */
#ifndef IFA_VALIDATE_BUFFERS_H
#define IFA_VALIDATE_BUFFERS_H

#include "validate/cases/data.h"

enum { IFA_GUARD_BYTES = 256 };

/* One allocation: guard, `bytes` bytes for the callee, guard; all of it `poison` at first. */
typedef struct ifa_buffer {
  uint8_t *block, *data;
  size_t bytes;
  uint8_t poison;
} ifa_buffer;

ifa_status ifa_buffer_make(ifa_buffer *buffer, size_t bytes, uint8_t poison, const char *what,
                           ifa_message *message);
void ifa_buffer_free(ifa_buffer *buffer);

/* Are both guards as they were? */
int ifa_buffer_guards_hold(const ifa_buffer *buffer);

/* How much of the computation is recorded. */
typedef enum ifa_stage_level {
  IFA_STAGES_NONE = 0,
  IFA_STAGES_UNITS,
  IFA_STAGES_ALL
} ifa_stage_level;

/* Everything that one run writes. */
typedef struct ifa_run_buffers {
  /* lse.block NULL unless the problem asks for it */
  ifa_buffer o, lse;
  ifa_buffer s, unit, p, value_unit, value_p, l, acc; /* of the stages, or all NULL */
  ifa_stages stages;
  int level;                /* ifa_stage_level */
  int stages_are_voluntary; /* a plug-in's: what is still poison was not shown, and is no mistake */
} ifa_run_buffers;

ifa_status ifa_run_buffers_make(const ifa_data *data, ifa_stage_level level, uint8_t poison,
                                ifa_run_buffers *buffers, ifa_message *message);
void ifa_run_buffers_free(ifa_run_buffers *buffers);
ifa_outputs ifa_run_buffers_outputs(const ifa_run_buffers *buffers);

/* Number of the computed row's element (row number r, d) in o. */
int64_t ifa_output_index(const ifa_data *data, int64_t r, int32_t d);

/* Did the run stay inside what it was to write: guards, rows that were not chosen, gaps between
 * strided rows? IFA_OK, or IFA_BAD_DATA and where. */
ifa_status ifa_run_buffers_check(const ifa_data *data, const ifa_run_buffers *buffers,
                                 ifa_message *message);

#endif
