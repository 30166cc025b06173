/* random.h - random numbers that are a pure function of (seed, stream, index): the same for any
 * number of threads and on any machine, because every step is integer arithmetic or one correctly
 * rounded binary64 operation. */
#ifndef IFA_COMMON_RANDOM_H
#define IFA_COMMON_RANDOM_H

#include <math.h>
#include <stdint.h>

/* The finalizer of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014): a bijection whose output bits each
 * depend on all input bits. */
static inline uint64_t ifa_mix64(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

/* 64 random bits for element `index` of sequence `stream` under `seed`. */
static inline uint64_t ifa_random_bits(uint64_t seed, uint64_t stream, uint64_t index) {
  uint64_t key =
      ifa_mix64(ifa_mix64(seed + 0x9e3779b97f4a7c15u) ^ (stream * 0xd1342543de82ef95u + 1));
  return ifa_mix64(key + index * 0x9e3779b97f4a7c15u);
}

/* Uniform in [0, 1), a multiple of 2^-24. */
static inline float ifa_random_uniform(uint64_t seed, uint64_t stream, uint64_t index) {
  return (float)(ifa_random_bits(seed, stream, index) >> 40) * 0x1p-24f;
}

/* Uniform integer in 0 .. count-1. */
static inline uint32_t ifa_random_below(uint64_t seed, uint64_t stream, uint64_t index,
                                        uint32_t count) {
  return (uint32_t)((ifa_random_bits(seed, stream, index) >> 32) * count >> 32);
}

/* ln(x) for x in (0, 1), by the series of atanh: libm's logarithm differs between machines in its
 * last bits, this does not. */
static inline double ifa_random_ln(double x) {
  int exponent;
  double m = frexp(x, &exponent) * 1.4142135623730951; /* in [0.707, 1.415) */
  double t = (m - 1.0) / (m + 1.0), square = t * t, power = t, sum = 0.0;
  for (int k = 1; k < 26; k += 2) {
    sum += power / k;
    power *= square;
  }
  return 2.0 * sum + (exponent - 0.5) * 0.69314718055994531;
}

/* Quantile of the standard normal distribution to about 7 digits, u in (0, 1): Wichura, algorithm
 * AS 241 (PPND7), Applied Statistics 37 (1988). */
static inline double ifa_normal_quantile(double u) {
  double q = u - 0.5;
  if (fabs(q) <= 0.425) {
    double r = 0.180625 - q * q;
    return q * (((59.109374720 * r + 159.29113202) * r + 50.434271938) * r + 3.3871327179) /
           (((67.187563600 * r + 78.757757664) * r + 17.895169469) * r + 1.0);
  }
  double r = sqrt(-ifa_random_ln(q < 0 ? u : 1.0 - u)), x;
  if (r <= 5.0) {
    r -= 1.6;
    x = (((0.17023821103 * r + 1.3067284816) * r + 2.7568153900) * r + 1.4234372777) /
        ((0.12021132975 * r + 0.73700164250) * r + 1.0);
  } else {
    r -= 5.0;
    x = (((0.017337203997 * r + 0.42868294337) * r + 3.0812263860) * r + 6.6579051150) /
        ((0.012258202635 * r + 0.24197894225) * r + 1.0);
  }
  return q < 0 ? -x : x;
}

/* Standard normal, |x| < 7. */
static inline float ifa_random_normal(uint64_t seed, uint64_t stream, uint64_t index) {
  double u = ((double)(ifa_random_bits(seed, stream, index) >> 24) + 0.5) * 0x1p-40;
  return (float)ifa_normal_quantile(u);
}

#endif
