#include "sim/paired.h"

#include <gsl/gsl_cdf.h>
#include <math.h>

static struct estimate estimate(const double *a, const double *b, size_t n) {
  double mean = 0, square = 0;
  for (size_t i = 0; i < n; i++) {
    double x = b ? a[i] - b[i] : a[i], delta = x - mean;
    mean += delta / (double)(i + 1);
    square += delta * (x - mean);
  }
  if (n < 2) return (struct estimate){n ? mean : NAN, NAN, NAN};
  double half = gsl_cdf_tdist_Pinv(0.975, (double)n - 1) * sqrt(square / (double)(n - 1) / (double)n);
  return (struct estimate){mean, mean - half, mean + half};
}

struct estimate estimate_mean(const double *x, size_t n) {
  return estimate(x, NULL, n);
}

struct estimate estimate_difference(const double *a, const double *b, size_t n) {
  return estimate(a, b, n);
}
