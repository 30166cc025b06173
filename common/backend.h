/* backend.h - what a backend is. A new one adds a file with one `const ifa_backend`, and a line in
 * api/backends.c. */
#ifndef IFA_COMMON_BACKEND_H
#define IFA_COMMON_BACKEND_H

#include "common/message.h"
#include "ifa.h"

typedef struct ifa_backend {
  const char *name, *description;

  /* IFA_OK, IFA_NOT_AVAILABLE or IFA_UNSUPPORTED. problem is valid, or NULL to ask only whether the
   * backend is there. */
  ifa_status (*supports)(const ifa_problem *problem, ifa_message *message);

  /* Everything was checked: the problem is valid, supported and resolved (common/problem.h),
   * pointers are there where they must be, scales are in range, row numbers are ascending and in
   * range, and the floating-point environment is the default one. */
  ifa_status (*run)(const ifa_problem *problem, const ifa_inputs *inputs,
                    const ifa_outputs *outputs, ifa_message *message);

  /* NULL where `run` computes in the caller's memory. Else the backend has a device: `run` copies
   * the operands there and the output back, which a program whose tensors live on the device does
   * not. This does what `run` does and, between the copies, leaves the time of a call on the device
   * in seconds[0 .. count-1]; copies and allocation are not in it. */
  ifa_status (*time)(const ifa_problem *problem, const ifa_inputs *inputs,
                     const ifa_outputs *outputs, double *seconds, int count, ifa_message *message);
} ifa_backend;

extern const ifa_backend ifa_backend_scalar; /* ref/scalar.c */
extern const ifa_backend ifa_backend_openmp; /* ref/openmp.c */
/* cpu/api.c: the best instruction set, and each */
extern const ifa_backend ifa_backend_cpu, ifa_backend_cpu_portable, ifa_backend_cpu_avx2,
    ifa_backend_cpu_avxvnni, ifa_backend_cpu_avx512vnni, ifa_backend_cpu_avx512fp16,
    ifa_backend_cpu_amx, ifa_backend_cpu_neon_dotprod, ifa_backend_cpu_neon_i8mm;
extern const ifa_backend ifa_backend_cuda_sm80, ifa_backend_cuda_sm90,
    ifa_backend_cuda; /* gpu/backend_cuda.cu, or gpu/absent.c in a build without CUDA */

/* Backends that a program brings along (validate: gpu/steps): every call here and in ifa.h finds
 * them by name, and none counts or lists them. Once, before any other call; `list` is kept. */
void ifa_backends_add(const ifa_backend *const *list, int count);

/* A backend's `time`, with all the checks of ifa_run (api/backends.c); IFA_UNSUPPORTED where it has
 * none. */
ifa_status ifa_time_on_device(const char *backend, const ifa_problem *problem,
                              const ifa_inputs *inputs, const ifa_outputs *outputs, double *seconds,
                              int count, ifa_message *message);

/* The computed rows: the chosen ones, or all. */
static inline int64_t ifa_computed_rows(const ifa_problem *p, const ifa_inputs *in) {
  return in->rows ? in->row_count : p->batch * p->q_heads * p->nq;
}

static inline int64_t ifa_computed_row(const ifa_inputs *in, int64_t r) {
  return in->rows ? in->rows[r] : r;
}

#endif
