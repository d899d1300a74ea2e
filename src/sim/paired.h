#ifndef SIM_PAIRED_H
#define SIM_PAIRED_H

/* Means with 95 % Student intervals, of values and of paired differences. */

#include <stddef.h>

struct estimate {
  double mean, low, high; /* low and high are NAN with fewer than two values */
};

struct estimate estimate_mean(const double *x, size_t n);
struct estimate estimate_difference(const double *a, const double *b, size_t n); /* of a - b, pair by pair */

#endif
