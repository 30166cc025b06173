/* allocations.h - counts calls of the allocator, in a test that is linked with --wrap for them
 * (tests/CMakeLists.txt defines IFA_TEST_WRAP_ALLOC there). */
#ifndef IFA_TESTS_CPU_ALLOCATIONS_H
#define IFA_TESTS_CPU_ALLOCATIONS_H

#include <stddef.h>

static int allocations;
void *__real_malloc(size_t bytes);
void *__real_calloc(size_t count, size_t bytes);
void *__real_aligned_alloc(size_t alignment, size_t bytes);
void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes);
void *__wrap_aligned_alloc(size_t alignment, size_t bytes);
void *__wrap_malloc(size_t bytes) {
  return __atomic_add_fetch(&allocations, 1, __ATOMIC_RELAXED), __real_malloc(bytes);
}
void *__wrap_calloc(size_t count, size_t bytes) {
  return __atomic_add_fetch(&allocations, 1, __ATOMIC_RELAXED), __real_calloc(count, bytes);
}
void *__wrap_aligned_alloc(size_t alignment, size_t bytes) {
  return __atomic_add_fetch(&allocations, 1, __ATOMIC_RELAXED),
         __real_aligned_alloc(alignment, bytes);
}

#endif
