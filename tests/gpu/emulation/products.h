/* products.h - the products of warpgroups (wgmma) that run in the background, emulated:
 * instructions_sm90.h.
 *
 * A product belongs to the warps that ask for it: each of the four has 16 of the 64 rows. It is
 * done at some time between its commit and the wait that covers it; what it reads then, it takes:
 *
 *     early   shared memory that a copy is still to fill is read as it is
 *     late    A registers that were written again, shared memory that was filled again, give other
 * products
 *
 * From the call to the wait its sums hold nonsense, and what is written to them is lost. Where a
 * fence is missing, the sums are nonsense for good. The four warps of a warpgroup must ask for the
 * same products. */
#ifndef IFA_TESTS_GPU_EMULATION_PRODUCTS_H
#define IFA_TESTS_GPU_EMULATION_PRODUCTS_H

#include <stdint.h>

namespace emulation {

/* What all lanes of a warp ask for alike. */
struct Product {
  int columns;      /* of B: a multiple of 8, up to 256 */
  bool first;       /* of its sums: they begin at 0 */
  bool a_registers; /* A from registers; else described by `a` */
  bool a_unsigned;
  uint64_t a, b;
};

/* sums: columns / 2 of this lane; a: 4 registers or NULL. */
void product(const Product &asked, int *sums, const uint32_t *a);
void fence_products();
void commit_products();
void wait_for_products(int most_under_way);

void begin_products(int warps); /* a CTA */
void end_products();

} // namespace emulation

#endif
