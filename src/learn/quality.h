#ifndef LEARN_QUALITY_H
#define LEARN_QUALITY_H

/* Mean reward of one model, forgotten exponentially by count, that starts anew when a faster mean shows that
 * the model has changed. A value type; one thread. */

#include <stdbool.h>

enum { QUALITY_FAST = 25, QUALITY_RESTART = 8 };

#define QUALITY_PRIOR 0.7
#define QUALITY_PRIOR_WEIGHT 3.0

struct quality {
  double slow_n, slow;        /* weight and mean at the long memory */
  double fast_n, fast;        /* at the short one */
  double slow2, fast2, cross; /* sums of squared and of crossed weights: the variance of their difference */
  double variance, third;     /* of one reward: its second and third central moments */
  double variance_n;          /* and their weight */
  double since_change;        /* rewards since the last restart */
  unsigned changes;
};

void quality_init(struct quality *q);

/* value in [0, 1]; memory: rewards after which one counts 1/e. True when this one revealed a change. */
bool quality_add(struct quality *q, double value, double memory);

double quality_mean(const struct quality *q);  /* with the prior */
double quality_error(const struct quality *q); /* standard error of that mean */

#endif
