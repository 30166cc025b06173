/* backends.c - the table of backends, and ifa_run: everything is checked here once, so that a
 * backend can rely on it. */
#include <string.h>

#include "common/backend.h"
#include "common/fpenv.h"
#include "common/inputs.h"
#include "common/problem.h"

static const ifa_backend *const backends[] = {&ifa_backend_scalar,
                                              &ifa_backend_openmp,
                                              &ifa_backend_cpu,
                                              &ifa_backend_cpu_portable,
                                              &ifa_backend_cpu_avx2,
                                              &ifa_backend_cpu_avxvnni,
                                              &ifa_backend_cpu_avx512vnni,
                                              &ifa_backend_cpu_avx512fp16,
                                              &ifa_backend_cpu_amx,
                                              &ifa_backend_cpu_neon_dotprod,
                                              &ifa_backend_cpu_neon_i8mm,
                                              &ifa_backend_cuda_sm80,
                                              &ifa_backend_cuda_sm90,
                                              &ifa_backend_cuda};
enum { BACKEND_COUNT = sizeof backends / sizeof backends[0] };

/* A program's own. */
static const ifa_backend *const *added;
static int added_count;

void ifa_backends_add(const ifa_backend *const *list, int count) {
  added = list;
  added_count = count;
}

int ifa_backend_count(void) { return BACKEND_COUNT; }
const char *ifa_backend_name(int index) {
  return index >= 0 && index < BACKEND_COUNT ? backends[index]->name : NULL;
}
const char *ifa_backend_description(int index) {
  return index >= 0 && index < BACKEND_COUNT ? backends[index]->description : NULL;
}

static ifa_status find_backend(const char *name, const ifa_backend **found, ifa_message *message) {
  if (!name) return ifa_fail(message, IFA_BAD_ARGUMENT, "backend is NULL");
  for (int i = 0; i < BACKEND_COUNT + added_count; i++) {
    *found = i < BACKEND_COUNT ? backends[i] : added[i - BACKEND_COUNT];
    if (strcmp(name, (*found)->name) == 0) return IFA_OK;
  }
  return ifa_fail(message, IFA_BAD_ARGUMENT, "there is no backend '%.60s'", name);
}

ifa_status ifa_backend_supports(const char *name, const ifa_problem *problem,
                                ifa_message *message) {
  const ifa_backend *backend = NULL;
  ifa_status status = find_backend(name, &backend, message);
  if (status == IFA_OK && problem) status = ifa_problem_check(problem, message);
  if (status != IFA_OK) return status;
  if (!problem) return backend->supports(NULL, message);
  ifa_problem resolved = ifa_problem_resolved(problem);
  return backend->supports(&resolved, message);
}

/* seconds NULL: `run`; else `time`. */
static ifa_status checked(const char *name, const ifa_problem *problem, const ifa_inputs *inputs,
                          const ifa_outputs *outputs, double *seconds, int count,
                          ifa_message *message) {
  const ifa_backend *backend = NULL;
  ifa_status status = find_backend(name, &backend, message);
  if (status == IFA_OK) status = ifa_problem_check(problem, message);
  if (status != IFA_OK) return status;
  ifa_problem p = ifa_problem_resolved(problem);
  if ((status = backend->supports(&p, message)) != IFA_OK) return status;
  if (seconds && !backend->time)
    return ifa_fail(message, IFA_UNSUPPORTED, "%s has no device", name);

  ifa_fpenv env;
  /* before the scales are looked at: denormals-are-zero would hide a bad one */
  ifa_fpenv_enter(&env);
  status = ifa_inputs_check(&p, inputs, outputs, message);
  if (status == IFA_OK)
    status = seconds ? backend->time(&p, inputs, outputs, seconds, count, message)
                     : backend->run(&p, inputs, outputs, message);
  ifa_fpenv_leave(&env);
  return status;
}

ifa_status ifa_run(const char *name, const ifa_problem *problem, const ifa_inputs *inputs,
                   const ifa_outputs *outputs, ifa_message *message) {
  return checked(name, problem, inputs, outputs, NULL, 0, message);
}

ifa_status ifa_time_on_device(const char *name, const ifa_problem *problem,
                              const ifa_inputs *inputs, const ifa_outputs *outputs, double *seconds,
                              int count, ifa_message *message) {
  if (!seconds || count < 1) return ifa_fail(message, IFA_BAD_ARGUMENT, "no seconds to measure");
  return checked(name, problem, inputs, outputs, seconds, count, message);
}
