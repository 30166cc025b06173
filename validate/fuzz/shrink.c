#include "validate/fuzz/shrink.h"

#include "common/clock.h"
#include "validate/fuzz/fuzz_case.h"

void ifa_shrink(ifa_case *c, int (*fails)(const ifa_case *c, void *context), void *context,
                int trials, double seconds) {
  double end = ifa_now() + seconds;
  for (int improved = 1; improved;) {
    improved = 0;
    for (int way = 0; way < ifa_shrink_count(); way++) {
      ifa_case smaller;
      if (!ifa_shrunk_case(c, way, &smaller)) continue;
      if (trials-- == 0 || ifa_now() > end) return;
      if (!fails(&smaller, context)) continue;
      *c = smaller;
      improved = 1;
      way--; /* the same way may help again */
    }
  }
}
