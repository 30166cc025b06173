/* plugin.h - kernels that are not part of this build: a shared library (include/ifa_plugin.h) or a
 * program, each in a process of its own, where what it does wrong is a verdict about the case at
 * hand, never an end of the run; or a function in this one. docs/validate.md, section 11. */
#ifndef IFA_VALIDATE_PLUGIN_H
#define IFA_VALIDATE_PLUGIN_H

#include "ifa_plugin.h"
#include "validate/cases/buffers.h"
#include "validate/judge/claim.h"
#include "validate/judge/compare.h"
#include "validate/kernels/process.h"

typedef enum ifa_kernel_kind {
  IFA_KERNEL_LIBRARY = 0, /* --plugin FILE */
  IFA_KERNEL_PROGRAM,     /* --exec COMMAND: started once, a line of JSON each way for a case */
  /* --exec-once COMMAND: started for each case, the folder as its last argument */
  IFA_KERNEL_ONE_SHOT,
  IFA_KERNEL_CALL /* a function in this process */
} ifa_kernel_kind;

/* What a function in this process gets for a case. The inputs are the run's own, which it must not
 * change: it is for the caller to hand copies on, and to look at them afterwards. The outputs are
 * poisoned, with guard_bytes before and behind each that are to stay as they are. */
typedef struct ifa_called_case {
  ifa_problem problem; /* strides and kv_split written out */
  ifa_plugin_inputs inputs;
  ifa_outputs outputs; /* stages NULL, or what may be recorded */
  int64_t o_bytes, lse_bytes, guard_bytes;
} ifa_called_case;

/* IFA_PASSED: it has written what it has written. Else why not, and one line in *message. */
typedef ifa_verdict ifa_call(void *context, const ifa_called_case *c, ifa_message *message);

typedef struct ifa_kernel {
  ifa_kernel_kind kind;
  const char *text; /* file or command */
  double timeout;   /* seconds that a case, or the start, may take */
  char name[48];    /* a longer one ends with "..." */
  ifa_claim claim;
  ifa_process process;
  int memory;     /* library: what is shared with it, -1 if there is none */
  char *folder;   /* program: where cases are put, NULL if there is none */
  int64_t number; /* of the case */
  /* not IFA_PASSED: it could not be started, and `why` goes with every case */
  ifa_verdict start;
  ifa_message why;
  ifa_call *call; /* of IFA_KERNEL_CALL */
  void *context;
} ifa_kernel;

/* Starts it and asks for its name and claim; `claim` (or NULL) is taken instead of what it says.
 * Fails (a library that cannot be loaded or is of another ABI, a claim that cannot be read) with a
 * message; a start that crashes or hangs is kept for the cases' results. */
ifa_status ifa_kernel_open(ifa_kernel *kernel, ifa_kernel_kind kind, const char *text,
                           const char *claim, double timeout, ifa_message *message);
void ifa_kernel_close(ifa_kernel *kernel);

/* What chooses it on a shell's command line, to be freed: "--exec 'python3 my.py' --claim close
 * --once --timeout 5". NULL: no memory. */
enum { IFA_KERNEL_TIMEOUT = 60 }; /* the default */
char *ifa_kernel_selector(ifa_kernel_kind kind, const char *text, const char *claim, int once,
                          double timeout);

/* A function in this process. IFA_BAD_ARGUMENT for a claim that cannot be read. */
ifa_status ifa_kernel_open_call(ifa_kernel *kernel, const char *name, const char *claim,
                                ifa_call *call, void *context, ifa_message *message);

/* One run into `buffers`, made and poisoned by the caller. *verdict IFA_PASSED means: it answered,
 * and wrote what it wrote (nothing has been compared; ifa_run_buffers_check is the caller's). Else
 * a verdict and a message. Any status but IFA_OK: the case did not get to the kernel, or its answer
 * not back, for want of memory, room in TMPDIR or processes, which is no fault of the kernel's;
 * *verdict then says nothing. */
ifa_status ifa_kernel_run(ifa_kernel *kernel, const ifa_data *data, ifa_run_buffers *buffers,
                          ifa_verdict *verdict, double *seconds, ifa_message *message);

/* ---- shared by plugin.c and plugin_*.c ---- */

/* *trouble, IFA_OK before, is what ifa_kernel_open fails with, or ifa_kernel_run. */
ifa_verdict ifa_library_start(ifa_kernel *kernel, char claim[IFA_CLAIM_TEXT], ifa_status *trouble,
                              ifa_message *message);
ifa_verdict ifa_library_run(ifa_kernel *kernel, const ifa_data *data, ifa_run_buffers *buffers,
                            double *seconds, ifa_status *trouble, ifa_message *message);
ifa_verdict ifa_program_start(ifa_kernel *kernel, char claim[IFA_CLAIM_TEXT], ifa_status *trouble,
                              ifa_message *message);
ifa_verdict ifa_program_run(ifa_kernel *kernel, const ifa_data *data, ifa_run_buffers *buffers,
                            double *seconds, ifa_status *trouble, ifa_message *message);
void ifa_program_clean(ifa_kernel *kernel);
ifa_verdict ifa_call_run(ifa_kernel *kernel, const ifa_data *data, ifa_run_buffers *buffers,
                         double *seconds, ifa_message *message);

/* Copies a name, printable ASCII only; others become '_'. */
void ifa_kernel_set_name(ifa_kernel *kernel, const char *name);

/* What a plug-in's status means for the case. */
ifa_verdict ifa_verdict_of_status(ifa_status status);

/* The process that loads a library: the program's main calls it for the arguments `plugin-host
 * FILE`. */
int ifa_plugin_host(const char *path);

#endif
