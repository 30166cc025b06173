/* ceiling.h - what the current device reaches at most, measured (gpu/bench/ceiling.cu): for
 * bench_gpu and `validate bench`. A CUDA error ends the process, so ask ifa_cuda_available first.
 */
#ifndef IFA_GPU_CEILING_H
#define IFA_GPU_CEILING_H

#ifdef __cplusplus
extern "C" {
#endif

/* mma.sync m16n8k32 u8 x s8 on random registers, in 10^12 operations a second; a copy within
 * memory, read and written, in 10^9 bytes a second. */
double measure_mma_tops(void);
double measure_copy_gb_per_s(void);

/* Clocks that one of those products takes of a warp scheduler, alone (others 0) or with four other
 * instructions after it (others 4), which are independent of it and of each other: the sum of both,
 * if nothing runs beside a product. */
double measure_product_clocks(int others);

#ifdef __cplusplus
}
#endif
#endif
