/* plugin_library.c - a shared library in a process of its own: `validate plugin-host FILE`, which
 * is this program started again, so that its memory holds nothing of the run. A case goes over in a
 * piece of anonymous memory: a head, the inputs, the outputs (poisoned, with guard bytes). This
 * side reads and writes it like a file and never maps it, so nothing that happens to it can stop
 * the run. */
#define _GNU_SOURCE /* memfd_create */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/problem.h"
#include "ifa_plugin.h"
#include "common/clock.h"
#include "validate/kernels/plugin.h"

enum {
  Q_FLOATS = 0,
  K_FLOATS,
  V_FLOATS,
  Q_INT,
  K_INT,
  V_INT,
  Q_SCALE,
  K_SCALE,
  V_SCALE,
  V_CHANNEL_SCALE,
  ROWS,
  INPUTS,
  O = INPUTS,
  LSE,
  S,
  UNIT,
  P,
  VALUE_UNIT,
  VALUE_P,
  L,
  ACC,
  REGIONS
};

/* Where an array lies in the memory; bytes -1: there is none. An output has IFA_GUARD_BYTES before
 * and after, not counted here. */
typedef struct region {
  int64_t at, bytes;
} region;

typedef struct case_head {
  ifa_problem problem;
  int64_t row_count;
  int32_t stages;
  region regions[REGIONS];
} case_head;

typedef struct hello {
  int32_t status;
  ifa_message message;
  char name[48], claim[IFA_CLAIM_TEXT];
} hello;
typedef struct answer {
  int32_t status;
  ifa_message message;
} answer;

/* ---- this side ---- */

ifa_verdict ifa_library_start(ifa_kernel *k, char claim[IFA_CLAIM_TEXT], ifa_status *refused,
                              ifa_message *message) {
  char self[] = "/proc/self/exe", command[] = "plugin-host", *path = realpath(k->text, NULL);
  if (!path) {
    *refused = IFA_IO;
    ifa_fail(message, IFA_IO, "%s", strerror(errno));
    return IFA_ABSENT;
  }
  if (k->memory >= 0) close(k->memory); /* the one before belonged to a process that has ended */
  k->memory = memfd_create("ifa-case", MFD_CLOEXEC);
  hello h = {0};
  if (k->memory < 0) *refused = ifa_fail(message, IFA_IO, "no shared memory: %s", strerror(errno));
  else
    *refused = ifa_process_start(&k->process, (char *[]){self, command, path, NULL}, 1, k->memory,
                                 message);
  free(path);
  if (*refused != IFA_OK) return IFA_ABSENT;
  ifa_verdict verdict =
      ifa_process_receive(&k->process, &h, sizeof h, ifa_now() + k->timeout, message);
  if (verdict != IFA_PASSED) return verdict;
  h.message.text[sizeof h.message.text - 1] = h.name[sizeof h.name - 1] =
      h.claim[sizeof h.claim - 1] = '\0';
  if (h.status != IFA_OK) {
    *message = h.message;
    *refused = (ifa_status)h.status;
    return IFA_ABSENT;
  }
  ifa_kernel_set_name(k, h.name);
  snprintf(claim, IFA_CLAIM_TEXT, "%s", h.claim);
  return IFA_PASSED;
}

/* The case's arrays in the order of the enum; sizes of what is absent are -1. */
static void list_inputs(const ifa_data *d, const void *data[INPUTS], int64_t bytes[INPUTS]) {
  const ifa_problem *p = &d->p;
  int64_t q = p->batch * p->q_heads * p->nq * p->head_dim,
          kv = p->batch * p->kv_heads * p->nk * p->head_dim;
  const struct {
    const void *data;
    int64_t bytes;
  } list[INPUTS] = {
      [Q_FLOATS] = {d->q, q * 4},
      [K_FLOATS] = {d->k, kv * 4},
      [V_FLOATS] = {d->v, kv * 4},
      [Q_INT] = {d->q_int, ifa_extent_bytes(p->q_type, p->q_stride, p->batch, p->q_heads, p->nq,
                                            p->head_dim)},
      [K_INT] = {d->k_int, ifa_extent_bytes(p->k_type, p->k_stride, p->batch, p->kv_heads, p->nk,
                                            p->head_dim)},
      [V_INT] = {d->v_int, ifa_extent_bytes(p->v_type, p->v_stride, p->batch, p->kv_heads, p->nk,
                                            p->head_dim)},
      [Q_SCALE] = {d->q_scale, 4 * ifa_scale_count(p->q_scale, p->batch, p->q_heads, p->nq,
                                                   p->head_dim, p->q_block)},
      [K_SCALE] = {d->k_scale, 4 * ifa_scale_count(p->k_scale, p->batch, p->kv_heads, p->nk,
                                                   p->head_dim, p->k_block)},
      [V_SCALE] = {d->v_scale,
                   4 * ifa_scale_count(p->v_scale, p->batch, p->kv_heads, p->nk, p->head_dim, 1)},
      [V_CHANNEL_SCALE] = {d->v_channel_scale, 4 * p->batch * p->kv_heads * p->head_dim},
      [ROWS] = {d->rows, 8 * d->row_count}};
  for (int i = 0; i < INPUTS; i++) {
    data[i] = list[i].data;
    bytes[i] = list[i].data ? list[i].bytes : -1;
  }
}

static void list_outputs(ifa_run_buffers *b, ifa_buffer *outputs[REGIONS - INPUTS]) {
  ifa_buffer *list[] = {&b->o,          &b->lse,     &b->s, &b->unit, &b->p,
                        &b->value_unit, &b->value_p, &b->l, &b->acc};
  memcpy(outputs, list, sizeof list);
}

static int write_at(int memory, const void *bytes, int64_t length, int64_t at) {
  for (const char *from = bytes; length > 0;) {
    ssize_t n = pwrite(memory, from, (size_t)length, at);
    if (n <= 0 && errno != EINTR) return 0;
    if (n > 0) {
      from += n;
      at += n;
      length -= n;
    }
  }
  return 1;
}

static int read_at(int memory, void *bytes, int64_t length, int64_t at) {
  for (char *to = bytes; length > 0;) {
    ssize_t n = pread(memory, to, (size_t)length, at);
    if (n == 0 || (n < 0 && errno != EINTR)) return 0;
    if (n > 0) {
      to += n;
      at += n;
      length -= n;
    }
  }
  return 1;
}

static int64_t next_place(int64_t at, int64_t bytes) { return (at + bytes + 63) / 64 * 64; }

/* Between inputs stand guard bytes of 0xff (NaN, -1): what is read there by mistake shows in the
 * result. */
static int put_case(int memory, const ifa_data *d, ifa_run_buffers *buffers, case_head *head) {
  static const uint8_t gap_pattern = 0xff;
  uint8_t gap[IFA_GUARD_BYTES];
  const void *inputs[INPUTS];
  int64_t bytes[INPUTS], at = next_place(0, sizeof *head);
  ifa_buffer *outputs[REGIONS - INPUTS];
  memset(gap, gap_pattern, sizeof gap);
  *head = (case_head){
      .problem = d->p, .row_count = d->row_count, .stages = buffers->level == IFA_STAGES_ALL};
  list_inputs(d, inputs, bytes);
  list_outputs(buffers, outputs);
  int ok = ftruncate(memory, 0) == 0;
  for (int i = 0; i < INPUTS && ok; i++) {
    head->regions[i] = (region){at, bytes[i]};
    if (bytes[i] < 0) continue;
    ok = write_at(memory, inputs[i], bytes[i], at) &&
         write_at(memory, gap, sizeof gap, at + bytes[i]);
    at = next_place(at, bytes[i] + (int64_t)sizeof gap);
  }
  for (int i = INPUTS; i < REGIONS && ok; i++) {
    const ifa_buffer *b = outputs[i - INPUTS];
    head->regions[i] = (region){at + IFA_GUARD_BYTES, b->block ? (int64_t)b->bytes : -1};
    if (!b->block) continue;
    ok = write_at(memory, b->block, (int64_t)b->bytes + 2 * IFA_GUARD_BYTES, at);
    at = next_place(at, (int64_t)b->bytes + 2 * IFA_GUARD_BYTES);
  }
  return ok && write_at(memory, head, sizeof *head, 0);
}

/* The outputs with their guards; and are the inputs as they were? */
static ifa_verdict take_results(ifa_kernel *k, const case_head *head, const ifa_data *d,
                                ifa_run_buffers *buffers, ifa_message *message) {
  static const char *const names[INPUTS] = {
      "q (float)", "k (float)", "v (float)",       "q",   "k", "v", "q_scale",
      "k_scale",   "v_scale",   "v_channel_scale", "rows"};
  const void *inputs[INPUTS];
  int64_t bytes[INPUTS];
  ifa_buffer *outputs[REGIONS - INPUTS];
  uint8_t chunk[65536];
  list_inputs(d, inputs, bytes);
  list_outputs(buffers, outputs);
  for (int i = INPUTS; i < REGIONS; i++) {
    ifa_buffer *b = outputs[i - INPUTS];
    if (b->block && !read_at(k->memory, b->block, (int64_t)b->bytes + 2 * IFA_GUARD_BYTES,
                             head->regions[i].at - IFA_GUARD_BYTES)) {
      ifa_fail(message, IFA_IO, "the memory that holds the outputs was cut");
      return IFA_BAD_OUTPUT;
    }
  }
  for (int i = 0; i < INPUTS; i++)
    for (int64_t done = 0; done < bytes[i];) {
      int64_t n = ifa_min64((int64_t)sizeof chunk, bytes[i] - done);
      if (!read_at(k->memory, chunk, n, head->regions[i].at + done) ||
          memcmp(chunk, (const char *)inputs[i] + done, (size_t)n) != 0) {
        ifa_fail(message, IFA_BAD_DATA, "it changed its input %s", names[i]);
        return IFA_FAILED;
      }
      done += n;
    }
  return IFA_PASSED;
}

ifa_verdict ifa_library_run(ifa_kernel *k, const ifa_data *d, ifa_run_buffers *buffers,
                            double *seconds, ifa_status *trouble, ifa_message *message) {
  case_head head;
  answer a;
  if (!put_case(k->memory, d, buffers, &head)) {
    *trouble = ifa_fail(message, IFA_OUT_OF_MEMORY,
                        "no memory to share the case with the plug-in: %s", strerror(errno));
    return IFA_FAILED;
  }
  double start = ifa_now();
  ifa_verdict verdict = ifa_process_send(&k->process, "r", 1, start + k->timeout, message);
  if (verdict == IFA_PASSED)
    verdict = ifa_process_receive(&k->process, &a, sizeof a, start + k->timeout, message);
  *seconds = ifa_now() - start;
  if (verdict != IFA_PASSED) return verdict;
  a.message.text[sizeof a.message.text - 1] = '\0';
  if (a.status != IFA_OK) {
    ifa_fail(message, IFA_BAD_DATA, "%s: %s", ifa_status_name((ifa_status)a.status),
             a.message.text);
    return ifa_verdict_of_status((ifa_status)a.status);
  }
  return take_results(k, &head, d, buffers, message);
}

/* ---- the other side: the process that loads the library ---- */

static ifa_status load(const char *path, const ifa_plugin **plugin, ifa_message *message) {
  void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!library) return ifa_fail(message, IFA_BAD_FILE, "%s", dlerror());
  const ifa_plugin *(*get)(void);
  *(void **)&get = dlsym(library, "ifa_plugin_get");
  if (!get)
    return ifa_fail(message, IFA_BAD_FILE,
                    "it has no function ifa_plugin_get (include/ifa_plugin.h)");
  const ifa_plugin *p = *plugin = get();
  if (!p) return ifa_fail(message, IFA_BAD_FILE, "ifa_plugin_get returned NULL");
  if (p->abi != IFA_PLUGIN_ABI)
    return ifa_fail(message, IFA_BAD_FILE, "it is made for plug-in ABI %u; this is %d", p->abi,
                    IFA_PLUGIN_ABI);
  if (!p->name || !p->claim || !p->run)
    return ifa_fail(message, IFA_BAD_FILE, "name, claim or run is NULL");
  if (p->contract != IFA_CONTRACT_VERSION && strcmp(p->claim, "exact") == 0)
    return ifa_fail(message, IFA_BAD_FILE, "its bits are of contract %u; this is contract %d",
                    p->contract, IFA_CONTRACT_VERSION);
  if (strlen(p->name) >= sizeof((hello *)0)->name || strlen(p->claim) >= sizeof((hello *)0)->claim)
    return ifa_fail(message, IFA_BAD_FILE, "its name or claim is too long");
  return IFA_OK;
}

static void *region_data(uint8_t *memory, const case_head *head, int i) {
  return head->regions[i].bytes < 0 ? NULL : memory + head->regions[i].at;
}

static ifa_status run_case(const ifa_plugin *plugin, ifa_message *why) {
  struct stat size;
  if (fstat(3, &size) != 0) return ifa_fail(why, IFA_IO, "no case: %s", strerror(errno));
  uint8_t *m = mmap(NULL, (size_t)size.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, 3, 0);
  if (m == MAP_FAILED)
    return ifa_fail(why, IFA_OUT_OF_MEMORY, "the case cannot be mapped: %s", strerror(errno));
  case_head head = *(const case_head *)m;
  ifa_stages stages = {region_data(m, &head, S),       region_data(m, &head, UNIT),
                       region_data(m, &head, P),       region_data(m, &head, VALUE_UNIT),
                       region_data(m, &head, VALUE_P), region_data(m, &head, L),
                       region_data(m, &head, ACC)};
  ifa_plugin_inputs in = {.operands = {.q = region_data(m, &head, Q_INT),
                                       .k = region_data(m, &head, K_INT),
                                       .v = region_data(m, &head, V_INT),
                                       .q_scale = region_data(m, &head, Q_SCALE),
                                       .k_scale = region_data(m, &head, K_SCALE),
                                       .v_scale = region_data(m, &head, V_SCALE),
                                       .v_channel_scale = region_data(m, &head, V_CHANNEL_SCALE),
                                       .rows = region_data(m, &head, ROWS)},
                          .q = region_data(m, &head, Q_FLOATS),
                          .k = region_data(m, &head, K_FLOATS),
                          .v = region_data(m, &head, V_FLOATS)};
  in.operands.row_count = in.operands.rows ? head.row_count : 0;
  ifa_outputs out = {.o = region_data(m, &head, O),
                     .lse = region_data(m, &head, LSE),
                     .stages = head.stages ? &stages : NULL};
  ifa_status status = plugin->supports ? plugin->supports(&head.problem, why) : IFA_OK;
  if (status == IFA_OK) status = plugin->run(&head.problem, &in, &out, why);
  munmap(m, (size_t)size.st_size);
  return status;
}

static int write_all(int descriptor, const void *bytes, size_t length) {
  for (const char *at = bytes; length > 0;) {
    ssize_t n = write(descriptor, at, length);
    if (n <= 0) return 0;
    at += n;
    length -= (size_t)n;
  }
  return 1;
}

int ifa_plugin_host(const char *path) {
  int in = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 10),
      out = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 10), null = open("/dev/null", O_RDONLY);
  dup2(null, STDIN_FILENO);
  /* what the library prints is not taken for an answer, nor for the run's report */
  dup2(STDERR_FILENO, STDOUT_FILENO);
  const ifa_plugin *plugin = NULL;
  hello h = {0};
  h.status = (int32_t)load(path, &plugin, &h.message);
  if (h.status == IFA_OK) {
    memcpy(h.name, plugin->name, strlen(plugin->name) + 1);
    memcpy(h.claim, plugin->claim, strlen(plugin->claim) + 1);
  }
  if (!write_all(out, &h, sizeof h) || h.status != IFA_OK) return 2;
  for (char request; read(in, &request, 1) == 1;) {
    answer a = {0};
    a.status = (int32_t)run_case(plugin, &a.message);
    if (!write_all(out, &a, sizeof a)) return 2;
  }
  return 0;
}
