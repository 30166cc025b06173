/* grid.c - rounding a matrix to the numbers of a small format, with a scale per group of elements.
 *
 *   scale_g = max |x| over the group g / largest,   x' = round(x / scale_g)
 *
 * the symmetric quantizer that INT-FlashAttention (arXiv 2409.16997, section 3.1), FlashAttention-3
 * (arXiv 2407.08608, section 3.3) and SageAttention2 (arXiv 2411.10958, section 3.1) all use; they
 * differ in the group and in the format. */
#include <math.h>

#include "ref/baselines/tiles.h"
#include "ref/baselines/fp8.h"

/* The clamp matters only where the scale is subnormal and x / scale exceeds 127. */
float ifa_round_int8(float x) { return fminf(fmaxf(rintf(x), -127.0f), 127.0f); }
float ifa_round_f16(float x) { return ifa_f16_to_f32(ifa_f32_to_f16(x)); }
float ifa_round_e4m3(float x) { return ifa_e4m3_to_f32(ifa_f64_to_e4m3((double)x)); }
float ifa_round_e5m2(float x) { return ifa_e5m2_to_f32(ifa_f64_to_e5m2((double)x)); }

/* Which scale belongs to element [t][c]. */
static int64_t scale_index(ifa_scale_group group, int64_t t, int32_t c) {
  return group == IFA_PER_TOKEN ? t : group == IFA_PER_CHANNEL ? c : 0;
}

static void find_scales(const ifa_grid *grid, const float *source, int64_t tokens, int32_t head_dim,
                        float *scale) {
  int64_t length = tokens > head_dim ? tokens : head_dim;
  for (int64_t g = 0; g < length; g++) scale[g] = 0.0f;
  for (int64_t t = 0; t < tokens; t++) {
    for (int32_t c = 0; c < head_dim; c++) {
      float *largest = &scale[scale_index(grid->group, t, c)];
      *largest = fmaxf(*largest, fabsf(source[t * head_dim + c]));
    }
  }
  for (int64_t g = 0; g < length; g++) scale[g] = scale[g] / grid->largest;
  if (grid->group != IFA_PER_HEAD) return;
  for (int64_t g = 1; g < length; g++) scale[g] = scale[0];
}

void ifa_put_on_grid(const ifa_grid *grid, const float *source, int64_t tokens, int32_t head_dim,
                     ifa_operand *operand) {
  if (grid->group == IFA_UNSCALED) {
    int64_t length = tokens > head_dim ? tokens : head_dim;
    for (int64_t g = 0; g < length; g++) operand->scale[g] = 1.0f;
  } else {
    find_scales(grid, source, tokens, head_dim, operand->scale);
  }
  for (int64_t t = 0; t < tokens; t++) {
    for (int32_t c = 0; c < head_dim; c++) {
      float scale = operand->scale[scale_index(grid->group, t, c)];
      operand->x[t * head_dim + c] =
          scale > 0.0f ? grid->round(source[t * head_dim + c] / scale) : 0.0f;
    }
  }
}
