/* fpenv.h - results must not depend on the caller's rounding mode or flush-to-zero: work runs in
 * the default environment. */
#ifndef IFA_COMMON_FPENV_H
#define IFA_COMMON_FPENV_H

/* On x86-64 that is MXCSR alone: nothing here computes on the x87, whose environment takes a tenth
 * of a microsecond to save and set, as long as a short call's work. */
#if defined(__x86_64__)
#include <xmmintrin.h>
#else
#include <fenv.h>
#if defined(__SSE2__)
#include <xmmintrin.h>
#endif
#endif

typedef struct ifa_fpenv {
#if !defined(__x86_64__)
  fenv_t saved;
#endif
#if defined(__SSE2__)
  unsigned mxcsr;
#endif
} ifa_fpenv;

/* Round to nearest even, keep subnormals, no traps. Each thread has an environment of its own. */
static inline void ifa_fpenv_enter(ifa_fpenv *env) {
#if defined(__SSE2__)
  env->mxcsr = _mm_getcsr();
#endif
#if !defined(__x86_64__)
  fegetenv(&env->saved);
  fesetenv(FE_DFL_ENV);
#endif
#if defined(__SSE2__)
  /* C libraries differ on whether FE_DFL_ENV clears flush-to-zero and denormals-are-zero */
  _mm_setcsr(0x1f80);
#endif
}

static inline void ifa_fpenv_leave(const ifa_fpenv *env) {
#if !defined(__x86_64__)
  fesetenv(&env->saved);
#endif
#if defined(__SSE2__)
  _mm_setcsr(env->mxcsr);
#endif
}

#endif
