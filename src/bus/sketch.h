#ifndef BUS_SKETCH_H
#define BUS_SKETCH_H

/* DDSketch (Masson, Rim, Lee, VLDB 2019) with 1 % relative error over a fixed range, so that merging is
 * adding and nothing ever allocates. Values are positive; what lies outside the range lands in the first or
 * last bin. */

#include <stdint.h>

enum { SKETCH_BINS = 1200 }; /* covers a factor of 2.6e10: 1 us to 7 h in milliseconds */

struct sketch {
  uint64_t count;
  double sum;
  uint16_t low, high; /* bins in use: [low, high); equal when empty */
  uint32_t bins[SKETCH_BINS];
};

void sketch_init(struct sketch *s);              /* all zero, for fresh memory */
void sketch_clear(struct sketch *s);             /* touches only the bins in use */
void sketch_add(struct sketch *s, double value); /* NAN is not counted */
void sketch_merge(struct sketch *into, const struct sketch *from);

/* The value at quantile q in [0, 1]; NAN when empty. */
double sketch_quantile(const struct sketch *s, double q);
double sketch_mean(const struct sketch *s); /* NAN when empty */
uint64_t sketch_at_most(const struct sketch *s,
                        double value); /* how many values are <= value, to 1 % of it */

#endif
