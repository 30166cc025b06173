/* weight_search.c - search for the binary16 constants of the softmax weight.
 *
 *   gcc -std=c11 -O2 -ffp-contract=off -o weight_search weight_search.c -lm
 *   ./weight_search                 full search (some 20 s, one thread, deterministic); exit status
 *                                   1
 *                                   if its choice is not what --table has compiled in
 *   ./weight_search --quick         smaller search regions (a few seconds)
 *   ./weight_search --only NAME     one variant of the list below (also with --quick)
 *   ./weight_search --table         no search: "n p W exact error" for the chosen constants
 *
 * The formula.  The weight is a function of one integer n in [0, 30720], 1024 steps per octave:
 *   h = the binary16 whose bit pattern is n                    (a piecewise linear 2^x)
 *   w = the binary16 with pattern (n & 1023) | 0x3c00          (1 + f, f the fraction), or
 *       with the fraction reversed, (~n & 1023) | 0x3c00       (2 - 1/1024 - f)
 *   g = fma16(fma16(fma16(w, C3, C2), w, C1), w, C0)           (about 255 * 2^-15 * 2^f / (1 + f))
 *   p = h*g rounded to the nearest integer, ties to even       (the target is 255 *
 *                                                              2^((n-30720)/1024))
 *   W = h*g rounded to binary16
 * fma16 rounds once, to nearest even, subnormals kept.  For two scores at a time this is one LOP3,
 * three HFMA2 for g and one for p.
 *
 * Variants searched (all Horner but "cube"):
 *   fwd3  rev3   degree 3 in w, in the reversed w           LOP3 + 4 HFMA2
 *   cube3        u = fma16(w, A, B), g = fma16(fma16(u, u, C), u, D)   LOP3 + 4 HFMA2
 *   ctr3         degree 3 in w - 1.5                        LOP3 + 5 HFMA2
 *   fwd2  rev2   degree 2 in w, in the reversed w           LOP3 + 3 HFMA2
 *   ctr2         degree 2 in w - 1.5                        LOP3 + 4 HFMA2
 *
 * The error measure.  e(n) = p(n) - 255 * 2^((n-30720)/1024), for the top octave n in [29696,
 * 30720]: rms, largest |e| and mean ("bias").  A correctly rounded p has about 0.289, 0.500 and 0.
 *
 * The constraints (hard).  p(30720) = 255, and 0 <= p <= 255 and W <= 255 for all n.
 *
 * The criteria.  For each variant: least rms; least rms with p non-decreasing over all n; least rms
 * with p and W non-decreasing over all n; least largest error; the same with p and W
 * non-decreasing. Chosen: the best LOP3 + 4 HFMA2 variant by the third.
 *
 * The method.  The unrounded polynomial's rms misfit, weighted by h, is a quadratic form in the
 * constants.  Every binary16 lattice point where it is at most R (the variant's radius) is tried
 * with the exact arithmetic: the two leading constants run over the ellipsoid around the double
 * precision least squares fit, the other two over the ellipse that is left.  This is a
 * neighbourhood search of the whole region, so no starting points matter. h*g in one octave is that
 * of the top octave times a power of two (but for n < 1024, where h is subnormal and p is 0), so a
 * candidate costs 1024 evaluations.  What is printed is measured again over all n, straight from
 * the definition, with a second, slower rounding routine.
 *
 * Exactness.  a*b of two binary16 is exact in double; a*b + c too for the magnitudes here (below
 * 16, last bit at least 2^-48), so one rounding of the double to binary16 is the fused result.
 * */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STEPS = 1024, NTOP = 30720, SAMPLES = 64, OCTAVES = 9 };
enum { HORNER, CUBE };
enum { RMS, RMS_P, RMS_PW, MAX, MAX_PW, CRITERIA };

typedef struct {
  const char *name;
  int form, degree, reversed;
  double centre; /* subtracted from w */
  int hfma2;     /* instructions per two scores, besides one LOP3 */
  double radius, quick_radius;
} variant;

static const variant variants[] = {
    {"fwd3", HORNER, 3, 0, 0.0, 4, 0.120, 0.090}, {"rev3", HORNER, 3, 1, 0.0, 4, 0.090, 0.070},
    {"cube3", CUBE, 3, 0, 0.0, 4, 0.120, 0.080},  {"ctr3", HORNER, 3, 0, 1.5, 5, 0.078, 0.069},
    {"fwd2", HORNER, 2, 0, 0.0, 3, 0.700, 0.700}, {"rev2", HORNER, 2, 1, 0.0, 3, 0.700, 0.700},
    {"ctr2", HORNER, 2, 0, 1.5, 4, 0.650, 0.550},
};
enum { VARIANTS = sizeof variants / sizeof *variants };

static const char *const chosen_name = "rev3";
static const unsigned chosen[4] = {0x1275, 0x9757, 0x887d, 0x2090};

/* ---- binary16 ---- */

/* Round to binary16, nearest even, subnormals kept (|x| below 65520).  The magic number 1.5 * 2^42
 * times the power of two below |x| makes the double addition round at binary16's last bit. */
static inline double round16(double x) {
  uint64_t u;
  double e;
  memcpy(&u, &x, sizeof u);
  u &= 0x7ff0000000000000u;
  memcpy(&e, &u, sizeof e);
  e = e < 0x1p-14 ? 0x1p-14 : e;
  const double magic = e * 0x1.8p42;
  return (x + magic) - magic;
}

static inline double fma16(double a, double b, double c) { return round16(a * b + c); }

/* The same rounding done another way, for the final measurement. */
static double round16_reference(double x) {
  int e;
  if (x == 0) return x;
  frexp(x, &e); /* |x| in [2^(e-1), 2^e) */
  const int last = e - 11 < -24 ? -24 : e - 11;
  return ldexp(nearbyint(ldexp(x, -last)), last);
}

static double half_value(unsigned bits) {
  const int e = bits >> 10 & 31;
  const double v = e ? ldexp(1024 + (bits & 1023), e - 25) : ldexp(bits & 1023, -24);
  return bits & 0x8000 ? -v : v;
}

static unsigned half_bits(double x) /* x must be a binary16 value */
{
  const unsigned sign = signbit(x) ? 0x8000 : 0;
  const double a = fabs(x);
  int e;
  if (a < 0x1p-14) return sign | (unsigned)(a * 0x1p24);
  frexp(a, &e);
  return sign | (((unsigned)(e + 14) << 10) + (unsigned)ldexp(a, 11 - e) - 1024);
}

/* Binary16 values in order: the rank of the one nearest x, and back. */
static int rank16(double x) {
  const unsigned b = half_bits(round16(x));
  return b & 0x8000 ? -(int)(b & 0x7fff) : (int)b;
}
static double from_rank(int r) {
  return r < 0 ? -half_value((unsigned)-r) : half_value((unsigned)r);
}

/* ---- tables of the top octave ---- */

static double X[STEPS], H[STEPS], EXACT[STEPS + 1];
static double V[STEPS]; /* h*g of the candidate in hand */

static void set_tables(const variant *v) {
  for (int i = 0; i < STEPS; i++) {
    X[i] = 1 + (v->reversed ? STEPS - 1 - i : i) / 1024.0 - v->centre;
    H[i] = 0x1p14 * (1 + i / 1024.0);
    EXACT[i] = 127.5 * exp2(i / 1024.0);
  }
  EXACT[STEPS] = 255;
}

/* ---- candidates ---- */

typedef struct {
  int found;
  double rms, max, c[4];
} result;
static result best[CRITERIA];
static long candidates;

static int p_monotone(void) {
  for (int j = 0; j < OCTAVES; j++) { /* below these p is 0 */
    const double s = ldexp(1, -j);
    double last = 0;
    for (int i = 0; i < STEPS; i++) {
      const double p = nearbyint(V[i] * s);
      if (p < last) return 0;
      last = p;
    }
    if (nearbyint(2 * V[0] * s) < last) return 0;
  }
  return 1;
}

static int W_monotone_octave(double scale, double *last) {
  for (int i = 0; i < STEPS; i++) {
    const double W = round16(V[i] * scale);
    if (W < *last) return 0;
    *last = W;
  }
  return 1;
}

/* Where W is subnormal its rounding is coarser, with other thresholds: every octave is looked at.
 */
static int W_monotone(void) {
  double last = 0;
  if (!W_monotone_octave(1, &last)) /* most fail here */
    return 0;
  last = 0;
  for (int n = 0; n < STEPS; n++) { /* h subnormal */
    const double W = round16(n * 0x1p-24 * (V[n] / H[n]));
    if (W < last) return 0;
    last = W;
  }
  for (int j = NTOP / STEPS - 2; j >= 0; j--)
    if (!W_monotone_octave(ldexp(1, -j), &last)) return 0;
  return round16(2 * V[0]) >= last;
}

static int better(int k, double rms, double max) {
  const result *b = &best[k];
  if (!b->found) return 1;
  if (k == MAX || k == MAX_PW) return max < b->max || (max == b->max && rms < b->rms);
  return rms < b->rms || (rms == b->rms && max < b->max);
}

/* g = fma16(t, s, c[3]) for the tables t and s of the constants c[0..2]. */
static void consider(const double *t, const double *s, const double *c) {
  candidates++;
  const double top = 2 * H[0] * fma16(t[0], s[0], c[3]);
  if (!(top > 254.5 && top <= 255)) /* p(30720) = 255 and W(30720) <= 255 */
    return;
  double square = (nearbyint(top) - 255) * (nearbyint(top) - 255), max = 0, largest = 0;
  for (int i = 0; i < STEPS; i++) {
    const double v = H[i] * fma16(t[i], s[i], c[3]);
    const double e = (v + 0x1.8p52) - 0x1.8p52 - EXACT[i];
    V[i] = v;
    square += e * e;
    max = fabs(e) > max ? fabs(e) : max;
    largest = v > largest ? v : largest;
  }
  if (round16(largest) > 255) /* h*g > 0 as g > 0: W <= 255 gives 0 <= p <= 255 */
    return;
  const double rms = sqrt(square / (STEPS + 1));
  int mark[CRITERIA], some = 0;
  for (int k = 0; k < CRITERIA; k++) some |= mark[k] = better(k, rms, max);
  if (!some) return;
  if (mark[RMS_P] || mark[RMS_PW] || mark[MAX_PW]) {
    const int p_ok = p_monotone(), W_ok = p_ok && W_monotone();
    mark[RMS_P] &= p_ok;
    mark[RMS_PW] &= W_ok;
    mark[MAX_PW] &= W_ok;
  }
  for (int k = 0; k < CRITERIA; k++)
    if (mark[k]) {
      best[k] = (result){1, rms, max, {0}};
      memcpy(best[k].c, c, sizeof best[k].c);
    }
}

/* All (c[2], c[3]) for which the unrounded fit with the leading constants a, b has rms at most R.
 */
static void search_inner(const variant *v, double a, double b, double R) {
  static double s[STEPS], t2[STEPS], t1[STEPS];
  double ss = 0, s1 = 0, one = 0, rs = 0, r1 = 0, rr = 0;
  for (int k = 0; k < SAMPLES; k++) { /* target/h - base = c[2] * slope + c[3], weighted by h */
    const int i = (2 * k + 1) * STEPS / (2 * SAMPLES);
    const double x = X[i], q = H[i] * H[i] / SAMPLES, u = v->form == CUBE ? a * x + b : x;
    const double r = EXACT[i] / H[i] - (v->form == CUBE ? u * u * u : (a * x + b) * x * x);
    ss += q * u * u;
    s1 += q * u;
    one += q;
    rs += q * r * u;
    r1 += q * r;
    rr += q * r * r;
  }
  const double D = ss - s1 * s1 / one, N = rs - s1 * r1 / one, middle = N / D;
  const double room = R * R - (rr - r1 * r1 / one - N * N / D);
  if (room < 0) return;
  for (int i = 0; i < STEPS; i++) {
    s[i] = v->form == CUBE ? fma16(X[i], a, b) : X[i];
    t2[i] = v->form == CUBE ? s[i] : v->degree == 2 ? b : fma16(X[i], a, b);
  }
  const double width = sqrt(room / D);
  for (int k = rank16(middle - width), last = rank16(middle + width); k <= last; k++) {
    const double c2 = from_rank(k), left = room - (c2 - middle) * (c2 - middle) * D;
    if (left < 0) continue;
    for (int i = 0; i < STEPS; i++) t1[i] = fma16(t2[i], s[i], c2);
    const double m = (r1 - c2 * s1) / one, d = sqrt(left / one);
    for (int l = rank16(m - d), end = rank16(m + d); l <= end; l++)
      consider(t1, s, (double[4]){a, b, c2, from_rank(l)});
  }
}

/* Least squares in double: the coefficients and the inverse of the normal matrix. */
static void fit(int terms, double *coef, double inverse[4][4]) {
  double m[4][9] = {{0}}; /* normal matrix | identity | right hand side */
  for (int i = 0; i < terms; i++) {
    m[i][terms + i] = 1;
    for (int k = 0; k < SAMPLES; k++) {
      const int at = (2 * k + 1) * STEPS / (2 * SAMPLES);
      const double q = H[at] * H[at] / SAMPLES;
      m[i][2 * terms] += q * pow(X[at], i) * EXACT[at] / H[at];
      for (int j = 0; j < terms; j++) m[i][j] += q * pow(X[at], i + j);
    }
  }
  for (int i = 0; i < terms; i++) { /* positive definite: no pivoting */
    for (int j = 2 * terms; j >= i; j--) m[i][j] /= m[i][i];
    for (int r = 0; r < terms; r++)
      for (int j = 2 * terms; r != i && j >= i; j--) m[r][j] -= m[r][i] * m[i][j];
  }
  for (int i = 0; i < terms; i++) {
    coef[i] = m[i][2 * terms];
    for (int j = 0; j < terms; j++) inverse[i][j] = m[i][terms + j];
  }
}

static void search(const variant *v, double R) {
  double c[4], I[4][4];
  set_tables(v);
  memset(best, 0, sizeof best);
  candidates = 0;
  fit(v->degree + 1, c, I);
  if (v->degree == 2) {
    const double width = R * sqrt(I[2][2]);
    for (int k = rank16(c[2] - width), last = rank16(c[2] + width); k <= last; k++)
      search_inner(v, 0, from_rank(k), R);
    return;
  }
  /* Given the cubic coefficient, the quadratic one lies within d of a line. */
  const double width = R * sqrt(I[3][3]), slope = I[2][3] / I[3][3];
  const double d = 1.01 * R * sqrt(I[2][2] - I[2][3] * slope);
  const int cube = v->form == CUBE; /* u^3 + ... = A^3 w^3 + 3 A^2 B w^2 + ... */
  const double from = c[3] - width, to = c[3] + width;
  for (int j = rank16(cube ? cbrt(from) : from), end = rank16(cube ? cbrt(to) : to); j <= end;
       j++) {
    const double a = from_rank(j), c3 = cube ? a * a * a : a, m = c[2] + slope * (c3 - c[3]);
    const double scale = cube ? 3 * a * a : 1;
    for (int k = rank16((m - d) / scale), last = rank16((m + d) / scale); k <= last; k++)
      search_inner(v, a, from_rank(k), R);
  }
}

/* ---- the final measurement: all n, straight from the definition ---- */

typedef struct {
  int legal, p_mono, W_mono;
  double rms, max, bias, rel_p[OCTAVES], rel_W;
} measured;

static double evaluate(const variant *v, const double *c, int n) /* h*g, exact */
{
  const int f = (v->reversed ? ~n : n) & 1023;
  const double w = half_value((unsigned)f | 0x3c00) - v->centre;
  double g;
  if (v->form == CUBE) {
    const double u = round16_reference(w * c[0] + c[1]);
    g = round16_reference(round16_reference(u * u + c[2]) * u + c[3]);
  } else {
    g = v->degree == 2 ? c[1] : round16_reference(w * c[0] + c[1]);
    g = round16_reference(round16_reference(g * w + c[2]) * w + c[3]);
  }
  return half_value((unsigned)n) * g;
}

static double exact(int n) { return 255 * exp2((n - NTOP) / 1024.0); }

static measured measure(const variant *v, const double *c) {
  measured m = {1, 1, 1, 0, 0, 0, {0}, 0};
  double last_p = 0, last_W = 0, p = 0;
  for (int n = 0; n <= NTOP; n++) {
    const double hg = evaluate(v, c, n), W = round16_reference(hg), x = exact(n);
    p = nearbyint(hg);
    const double e = p - x;
    m.legal &= p >= 0 && p <= 255 && W <= 255;
    m.p_mono &= p >= last_p;
    m.W_mono &= W >= last_W;
    last_p = p;
    last_W = W;
    if (n >= NTOP - 1024) {
      m.rms += e * e / 1025;
      m.bias += e / 1025;
      m.max = fabs(e) > m.max ? fabs(e) : m.max;
      m.rel_W += (W / x - 1) * (W / x - 1) / 1025;
    }
    const int octave = (NTOP - 1 - n) / 1024; /* n = 30720 is counted with the top one */
    if (octave < OCTAVES) m.rel_p[octave] += (e / x) * (e / x) / (octave ? 1024 : 1025);
  }
  m.legal &= p == 255;
  m.rms = sqrt(m.rms);
  m.rel_W = sqrt(m.rel_W);
  for (int j = 0; j < OCTAVES; j++) m.rel_p[j] = sqrt(m.rel_p[j]);
  return m;
}

static void print_result(const char *label, const variant *v, const result *r) {
  const measured m = measure(v, r->c);
  const int k = (int)(r - best);
  const int lost =
      (k == RMS_P && !m.p_mono) || ((k == RMS_PW || k == MAX_PW) && !(m.p_mono && m.W_mono));
  if (!m.legal || lost || fabs(m.rms - r->rms) > 1e-9 || fabs(m.max - r->max) > 1e-9) {
    fprintf(stderr, "internal error: the two measurements of %s differ\n", v->name);
    exit(2);
  }
  printf("%-6s %-10s", v->name, label);
  for (int i = 0; i < 4; i++)
    if (v->degree == 3 || i) printf(" %04x", half_bits(r->c[i]));
    else printf("     ");
  printf("  %.5f %.4f %+.5f  %s %s  %d  ", m.rms, m.max, m.bias, m.p_mono ? "yes" : "no ",
         m.W_mono ? "yes" : "no ", v->hfma2);
  for (int i = v->degree == 3 ? 0 : 1; i < 4; i++) printf(" %.10g", r->c[i] * 0x1p14);
  printf("\n");
}

static void print_octaves(const char *label, const measured *m) {
  printf("%-12s", label);
  for (int j = 0; j < OCTAVES; j++) printf(" %8.5f", m->rel_p[j]);
  printf("   %.6f\n", m->rel_W);
}

static measured correctly_rounded(void) {
  measured m = {1, 1, 1, 0, 0, 0, {0}, 0};
  for (int n = NTOP - 1024 * OCTAVES; n <= NTOP; n++) {
    const double x = exact(n), e = nearbyint(x) - x, W = round16_reference(x);
    const int octave = (NTOP - 1 - n) / 1024;
    if (octave < OCTAVES) m.rel_p[octave] += (e / x) * (e / x) / (octave ? 1024 : 1025);
    if (n < NTOP - 1024) continue;
    m.rms += e * e / 1025;
    m.bias += e / 1025;
    m.max = fabs(e) > m.max ? fabs(e) : m.max;
    m.rel_W += (W / x - 1) * (W / x - 1) / 1025;
  }
  m.rms = sqrt(m.rms);
  m.rel_W = sqrt(m.rel_W);
  for (int j = 0; j < OCTAVES; j++) m.rel_p[j] = sqrt(m.rel_p[j]);
  return m;
}

static const variant *find(const char *name) {
  for (int i = 0; i < VARIANTS; i++)
    if (!strcmp(variants[i].name, name)) return &variants[i];
  return NULL;
}

static void print_table(void) {
  const variant *v = find(chosen_name);
  double c[4];
  for (int i = 0; i < 4; i++) c[i] = half_value(chosen[i]);
  printf("# n p W exact error\n");
  for (int n = 0; n <= NTOP; n++) {
    const double hg = evaluate(v, c, n), p = nearbyint(hg), x = exact(n);
    printf("%d %d %.9g %.9g %.6f\n", n, (int)p, round16_reference(hg), x, p - x);
  }
}

int main(int argc, char **argv) {
  static const char *const label[CRITERIA] = {"rms", "rms,p", "rms,p+W", "max", "max,p+W"};
  const variant *only = NULL;
  int quick = 0, table = 0;
  for (int i = 1; i < argc; i++) {
    if (!strcmp(argv[i], "--quick")) quick = 1;
    else if (!strcmp(argv[i], "--table")) table = 1;
    else if (!strcmp(argv[i], "--only") && i + 1 < argc && (only = find(argv[i + 1]))) i++;
    else {
      fprintf(stderr, "usage: weight_search [--quick] [--only VARIANT] | --table\n");
      return 2;
    }
  }
  if (table) {
    print_table();
    return 0;
  }

  const measured ideal = correctly_rounded();
  printf("# criterion: least rms or max; ,p or ,p+W: among those with p, with p and W, monotone\n");
  printf("# constants: leading one first (cube3: A B C D), bit patterns and value * 2^14\n");
  printf("# k: HFMA2 per two scores, besides one LOP3\n");
  printf("#var   criterion  constants             rms     max    bias      p   W    k   decimal * "
         "2^14\n");
  printf("ideal  rounded                        %.5f %.4f %+.5f  yes yes  -\n", ideal.rms,
         ideal.max, ideal.bias);
  result pick = {0};
  const variant *pick_of = NULL;
  measured octaves[VARIANTS];
  int have[VARIANTS] = {0};
  for (int i = 0; i < VARIANTS; i++) {
    const variant *v = &variants[i];
    if (only && v != only) continue;
    const double R = quick ? v->quick_radius : v->radius;
    search(v, R);
    for (int k = 0; k < CRITERIA; k++)
      if (best[k].found) print_result(label[k], v, &best[k]);
      else printf("%-6s %-10s none\n", v->name, label[k]);
    printf("# %s: %ld candidates, misfit at most %.3f\n", v->name, candidates, R);
    fflush(stdout);
    if (best[RMS].found) {
      have[i] = 1;
      octaves[i] = measure(v, best[best[RMS_PW].found  ? RMS_PW
                                   : best[RMS_P].found ? RMS_P
                                                       : RMS]
                                  .c);
    }
    if (v->hfma2 == 4 && best[RMS_PW].found && (!pick_of || best[RMS_PW].rms < pick.rms)) {
      pick = best[RMS_PW];
      pick_of = v;
    }
  }

  printf("\n# relative rms error of p, top octave first, and of W (any octave with W normal);\n");
  printf("# constants of rms,p+W, or of rms,p or rms where there are none\n");
  print_octaves("ideal", &ideal);
  for (int i = 0; i < VARIANTS; i++)
    if (have[i]) print_octaves(variants[i].name, &octaves[i]);

  if (!pick_of) return 0;
  printf("\nchosen: %s, p and W monotone, rms %.5f, max %.4f\n", pick_of->name, pick.rms, pick.max);
  int same = !strcmp(pick_of->name, chosen_name);
  for (int i = 0; i < 4; i++) {
    same &= half_bits(pick.c[i]) == chosen[i];
    printf("  C%d = 0x%04x  %.10g * 2^-14 = %.10g\n", 3 - i, half_bits(pick.c[i]),
           pick.c[i] * 0x1p14, pick.c[i]);
  }
  if (!same && !only && !quick) {
    fprintf(stderr, "these are not the constants compiled in for --table\n");
    return 1;
  }
  return 0;
}
