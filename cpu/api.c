/* api.c - ifa_cpu_attend: checks, K and V packed into the workspace, attention over the packed
 * tiles; and the backends that ifa_run knows. */
#include <inttypes.h>
#include <stdlib.h>

#include "common/backend.h"
#include "common/fpenv.h"
#include "common/inputs.h"
#include "common/team.h"
#include "cpu/attend.h"
#include "ifa_cpu.h"

/* The workspace: packed tiles [batch][kv_head][tile], then what attention itself needs. p is
 * resolved. */
static size_t tiles_bytes(const ifa_problem *p, const ifa_cpu_layout *y) {
  return (size_t)(p->batch * p->kv_heads * ifa_ceil_div(p->nk, y->keys)) * (size_t)y->bytes;
}

static size_t workspace_bytes_for(const ifa_problem *p, int threads) {
  ifa_cpu_layout y = ifa_cpu_layout_of(p->kv_tile, p->head_dim, 8, 8);
  if (p->nq == 0) return IFA_CPU_ALIGNMENT;
  return tiles_bytes(p, &y) + ifa_cpu_attend_bytes(p, threads);
}

static ifa_status check_threads(int threads, ifa_message *message) {
  if (threads < 1 || threads > IFA_CPU_MAX_THREADS)
    return ifa_fail(message, IFA_BAD_ARGUMENT, "threads is %d; 1 .. %d", threads,
                    IFA_CPU_MAX_THREADS);
  return IFA_OK;
}

ifa_status ifa_cpu_workspace_bytes(const ifa_problem *problem, int threads, size_t *bytes,
                                   ifa_message *message) {
  ifa_status status = ifa_problem_check(problem, message);
  if (status == IFA_OK) status = check_threads(threads, message);
  if (status != IFA_OK) return status;
  if (!bytes) return ifa_fail(message, IFA_BAD_ARGUMENT, "bytes is NULL");
  ifa_problem p = ifa_cpu_small_tile(ifa_problem_resolved(problem));
  *bytes = workspace_bytes_for(&p, threads);
  return ifa_succeed(message);
}

/* K and V of a call on their way into tiles. */
typedef struct packing {
  const ifa_problem *p;
  const ifa_inputs *in;
  const ifa_cpu_layout *y;
  uint8_t *tiles;
  int64_t of_matrix, count, together; /* tiles of a matrix, all, of a piece */
  ifa_team_items pieces;
} packing;

static void take_tiles(void *context, int member) {
  (void)member;
  packing *c = context;
  ifa_fpenv env;
  ifa_fpenv_enter(&env);
  for (int64_t piece; (piece = ifa_team_take(&c->pieces)) < c->pieces.count;)
    for (int64_t i = piece * c->together; i < ifa_min64(c->count, (piece + 1) * c->together); i++) {
      int64_t matrix = i / c->of_matrix;
      ifa_cpu_pack_tile(c->p, c->in, c->y, matrix / c->p->kv_heads, matrix % c->p->kv_heads,
                        i % c->of_matrix, c->tiles + i * c->y->bytes);
    }
  ifa_fpenv_leave(&env);
}

/* Eight pieces a thread. */
static void pack_all(void *context, ifa_cpu_job *job) {
  packing *c = context;
  c->together = ifa_max64(1, c->count / (8 * job->threads));
  c->pieces = (ifa_team_items){.count = ifa_ceil_div(c->count, c->together)};
  ifa_team_run(ifa_team_size(job->threads, c->pieces.count, job->make_nanoseconds), take_tiles, c);
  job->tiles = c->tiles;
  job->matrix_bytes = (size_t)c->of_matrix * (size_t)c->y->bytes;
}

/* A member has one matrix at a time, so its part of the memory is as large as a matrix. */
static void pack_matrix(void *context, int member, int64_t batch, int64_t kv_head,
                        ifa_cpu_job *own) {
  const packing *c = context;
  uint8_t *tiles = c->tiles + member * c->of_matrix * c->y->bytes;
  for (int64_t t = 0; t < c->of_matrix; t++)
    ifa_cpu_pack_tile(c->p, c->in, c->y, batch, kv_head, t, tiles + t * c->y->bytes);
  own->tiles = tiles;
  own->matrix_bytes = 0;
}

/* Everything was checked. */
static void attend(const ifa_cpu_choice *isa, const ifa_problem *p, const ifa_inputs *in,
                   const ifa_outputs *out, void *workspace, int threads) {
  ifa_cpu_job job = {.p = p,
                     .in = in,
                     .out = out,
                     .layout = ifa_cpu_layout_of(p->kv_tile, p->head_dim, 8, 8),
                     .make_matrix = pack_matrix,
                     .make_all = pack_all,
                     .many = isa->many->kernels,
                     .few = isa->few->kernels,
                     .threads = threads};
  packing c = {.p = p, .in = in, .y = &job.layout, .tiles = workspace};
  c.of_matrix = ifa_ceil_div(p->nk, p->kv_tile);
  c.count = p->batch * p->kv_heads * c.of_matrix;
  job.make_context = &c;
  job.make_nanoseconds = 0.17 * (double)c.count * job.layout.bytes; /* a sixth of one a byte */
  if (ifa_computed_rows(p, in) == 0) return;
  ifa_cpu_attend_tiles(&job, (uint8_t *)workspace + tiles_bytes(p, &job.layout));
}

ifa_status ifa_cpu_check_workspace(const void *workspace, size_t bytes, size_t needed,
                                   ifa_message *message) {
  if (!workspace) return ifa_fail(message, IFA_BAD_ARGUMENT, "workspace is NULL");
  if ((uintptr_t)workspace % IFA_CPU_ALIGNMENT)
    return ifa_fail(message, IFA_BAD_ARGUMENT, "workspace is not aligned to %d bytes",
                    IFA_CPU_ALIGNMENT);
  if (bytes < needed)
    return ifa_fail(message, IFA_BAD_ARGUMENT, "workspace_bytes is %zu; %zu are needed", bytes,
                    needed);
  return IFA_OK;
}

ifa_status ifa_cpu_attend(const char *isa, const ifa_problem *problem, const ifa_inputs *inputs,
                          const ifa_outputs *outputs, void *workspace, size_t workspace_bytes,
                          int threads, ifa_message *message) {
  ifa_cpu_choice found;
  ifa_status status = ifa_problem_check(problem, message);
  if (status == IFA_OK) status = check_threads(threads, message);
  if (status == IFA_OK) status = ifa_cpu_choose(isa, &found, message);
  if (status != IFA_OK) return status;
  ifa_problem p = ifa_cpu_small_tile(ifa_problem_resolved(problem));
  size_t needed = workspace_bytes_for(&p, threads);
  if ((status = ifa_cpu_check_workspace(workspace, workspace_bytes, needed, message)) != IFA_OK)
    return status;
  ifa_fpenv env;
  /* before the scales are looked at: denormals-are-zero would hide a bad one */
  ifa_fpenv_enter(&env);
  status = ifa_inputs_check(&p, inputs, outputs, message);
  if (status == IFA_OK) attend(&found, &p, inputs, outputs, workspace, threads);
  ifa_fpenv_leave(&env);
  return status == IFA_OK ? ifa_succeed(message) : status;
}

/* ---- backends of ifa_run ---- */

static ifa_status run_isa(const char *name, const ifa_problem *problem, const ifa_inputs *in,
                          const ifa_outputs *out, ifa_message *message) {
  ifa_cpu_choice isa;
  int threads = ifa_team_default();
  ifa_problem p = ifa_cpu_small_tile(*problem);
  ifa_status status = ifa_cpu_choose(name, &isa, message);
  if (status != IFA_OK) return status;
  size_t bytes = workspace_bytes_for(&p, threads);
  void *workspace = aligned_alloc(IFA_CPU_ALIGNMENT, bytes);
  if (!workspace)
    return ifa_fail(message, IFA_OUT_OF_MEMORY, "no memory for a workspace of %zu bytes", bytes);
  attend(&isa, &p, in, out, workspace, threads);
  free(workspace);
  return ifa_succeed(message);
}

/* One for the best instruction set (isa NULL), one for each. */
#define BACKEND(id, backend_name, text, isa)                                                     \
  static ifa_status id##_supports(const ifa_problem *problem, ifa_message *message) {            \
    (void)problem; /* every valid one */                                                         \
    return ifa_cpu_isa_available(isa, NULL, message);                                            \
  }                                                                                              \
  static ifa_status id##_run(const ifa_problem *p, const ifa_inputs *in, const ifa_outputs *out, \
                             ifa_message *message) {                                             \
    return run_isa(isa, p, in, out, message);                                                    \
  }                                                                                              \
  const ifa_backend ifa_backend_##id = {backend_name, text, id##_supports, id##_run, NULL};

BACKEND(cpu, "cpu", "the CPU's best instruction set, or the one that IFA_CPU_ISA names", NULL)
BACKEND(cpu_portable, "cpu-portable", "the CPU kernels in plain C", "portable")
BACKEND(cpu_avx2, "cpu-avx2", "AVX2: pmaddwd", "avx2")
BACKEND(cpu_avxvnni, "cpu-avxvnni", "AVX-VNNI: vpdpbusd on 256 bits", "avx_vnni")
BACKEND(cpu_avx512vnni, "cpu-avx512vnni", "AVX-512 VNNI: vpdpbusd, weights in binary32",
        "avx512_vnni")
BACKEND(cpu_avx512fp16, "cpu-avx512fp16", "AVX-512 VNNI: vpdpbusd, weights in binary16",
        "avx512_fp16")
BACKEND(cpu_amx, "cpu-amx", "AMX-INT8: tdpbusd and tdpbssd", "amx")
BACKEND(cpu_neon_dotprod, "cpu-neon-dotprod", "NEON with dotprod: sdot and udot", "neon_dotprod")
BACKEND(cpu_neon_i8mm, "cpu-neon-i8mm", "NEON with i8mm: smmla and usmmla", "neon_i8mm")
