/* The boundary of a Gaussian mixture martingale. With S = n * estimate, variance sigma^2 a unit and mixing
 * parameter rho,
 *
 *   two-sided   |estimate - truth| < sigma sqrt(2 (n rho^2 + 1) / (n rho)^2 * ln(sqrt(n rho^2 + 1) / alpha))
 *   one-sided   ... ln(1 + sqrt(n rho^2 + 1) / (2 alpha))
 *
 * holds for all n at once with probability 1 - alpha. rho is chosen so that the width is least near a chosen
 * n. p-values are those alpha at which the bound touches zero, rho held fixed: closed forms. */

#include "evolve/confseq.h"

#include <gsl/gsl_cdf.h>
#include <math.h>

void moments_add(struct moments *m, double x) {
  double before = x - m->mean;
  m->n += 1.0;
  m->mean += before / m->n;
  m->m2 += before * (x - m->mean);
}

void moments_remove(struct moments *m, double x) {
  if (m->n <= 1.0) {
    *m = (struct moments){0};
    return;
  }
  double after = x - m->mean;
  m->n -= 1.0;
  m->mean -= after / m->n;
  m->m2 = fmax(0.0, m->m2 - after * (x - m->mean));
}

double moments_variance(const struct moments *m) {
  return m->n < 2.0 ? NAN : m->m2 / (m->n - 1.0);
}

struct effect welch_difference(const struct moments *control, const struct moments *treatment) {
  double variance = moments_variance(control) / control->n + moments_variance(treatment) / treatment->n;
  return (struct effect){treatment->mean - control->mean, sqrt(variance), control->n + treatment->n};
}

double confseq_rho(double alpha, double tuned_n) {
  double l = -2.0 * log(alpha);
  return sqrt((l + log(l + 1.0)) / tuned_n);
}

static double half_width(double sigma2, double n, double rho, double log_term) {
  if (!(n > 0.0)) return INFINITY;
  return sqrt(sigma2 * 2.0 * (n * rho * rho + 1.0) / (n * rho * n * rho) * log_term);
}

double confseq_half_width(double sigma2, double n, double alpha, double tuned_n) {
  double rho = confseq_rho(alpha, tuned_n);
  return half_width(sigma2, n, rho, log(sqrt(n * rho * rho + 1.0) / alpha));
}

double confseq_half_width_one_sided(double sigma2, double n, double alpha, double tuned_n) {
  double rho = confseq_rho(2.0 * alpha, tuned_n);
  return half_width(sigma2, n, rho, log1p(sqrt(n * rho * rho + 1.0) / (2.0 * alpha)));
}

/* ln of the evidence before its normalisation: (rho S / sigma)^2 / (2 (n rho^2 + 1)). */
static double exponent(struct effect e, double rho) {
  double z = e.size / e.se;
  return rho * rho * e.n * z * z / (2.0 * (e.n * rho * rho + 1.0));
}

double confseq_p(struct effect e, double alpha, double tuned_n) {
  double rho = confseq_rho(alpha, tuned_n);
  double p = sqrt(e.n * rho * rho + 1.0) * exp(-exponent(e, rho));
  return isnan(p) ? 1.0 : fmin(1.0, p);
}

struct interval confseq_interval(struct effect e, double alpha, double tuned_n) {
  double half = confseq_half_width(e.se * e.se * e.n, e.n, alpha, tuned_n);
  return (struct interval){e.size - half, e.size + half};
}

double confseq_lower(struct effect e, double alpha, double tuned_n) {
  return e.size - confseq_half_width_one_sided(e.se * e.se * e.n, e.n, alpha, tuned_n);
}
