/* bundle.c - a shared library made with libifa.a, as a service's plug-in may be: tests/api/unload.c
 * loads and unloads it. It has ifa_run and ifa_problem_default because they are referred to. */
#include "ifa.h"

const void *const ifa_bundle_refers_to[] = {(const void *)ifa_run,
                                            (const void *)ifa_problem_default};
