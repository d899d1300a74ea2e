#ifndef EVOLVE_CONFSEQ_H
#define EVOLVE_CONFSEQ_H

/* Statistics that stay valid however often one looks: asymptotic confidence sequences (Waudby-Smith, Arbour,
 * Sinha, Kennedy, Ramdas, Annals of Statistics 2024, in the form that GrowthBook uses), always-valid
 * p-values, and Welch's difference of two means. Pure functions of numbers. */

#include <stdint.h>

/* Running mean and sum of squared deviations (Welford). Zero it before use. */
struct moments {
  double n, mean, m2;
};

void moments_add(struct moments *m, double x);
void moments_remove(struct moments *m, double x); /* takes back one that was added */
double moments_variance(const struct moments *m); /* of the sample; NAN below two */

/* A difference or a single mean: its size, its standard error, and how many units it rests on. */
struct effect {
  double size, se, n;
};

struct effect welch_difference(const struct moments *control,
                               const struct moments *treatment); /* treatment - control */

/* The mixing parameter that makes the sequence narrowest near tuned_n units. One-sided use takes 2 * alpha.
 */
double confseq_rho(double alpha, double tuned_n);

/* Half the width at n units, each of variance sigma2; infinite when n is not positive. */
double confseq_half_width(double sigma2, double n, double alpha, double tuned_n);
double confseq_half_width_one_sided(double sigma2, double n, double alpha, double tuned_n);

/* Two-sided p against "no effect". */
double confseq_p(struct effect effect, double alpha, double tuned_n);

struct interval {
  double low, high;
};

struct interval confseq_interval(struct effect effect, double alpha, double tuned_n);
double confseq_lower(struct effect effect, double alpha, double tuned_n); /* one-sided bound */

#endif
