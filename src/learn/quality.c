/* Two exponentially forgotten means of the same rewards, x_t = sum w_i r_i / sum w_i with w_i = exp(-age /
 * memory). Under no change their difference has variance
 *
 *   sigma^2 (sum f_i^2 / F^2 + sum s_i^2 / S^2 - 2 sum f_i s_i / (F S)),
 *
 * whose five sums follow by recursion. A difference beyond four of its standard errors is a change: the slow
 * mean takes the fast one's place, with little weight, since the fast mean still carries some of the old
 * level. Good models' rewards lean against one with a long tail below, and so does the fast mean: on the side
 * of the tail the four errors are widened by the first term of Cornish and Fisher (1938), (z^2 - 1) / 6 times
 * the skewness. Without it such a mean restarts once in five thousand rewards, with it once in seventy
 * thousand. A model that hardly ever fails seems to have no variance at all after a while, and its next
 * failure, or a rounding error, would be a change: no deviation below a tenth is believed. */

#include "learn/quality.h"

#include <math.h>

enum { FIRST_TEST = 15 };
#define CHANGE_ERRORS 4.0
#define MOST_SKEWED 4.0
#define SKEW_OF_MEAN (4.0 / 3.0) /* of exponential weights, against as many equal ones */
#define VARIANCE_PRIOR 0.05
#define VARIANCE_PRIOR_WEIGHT 5.0
#define VARIANCE_LEAST 0.01 /* in the test for a change */

void quality_init(struct quality *q) {
  *q = (struct quality){
      .variance = VARIANCE_PRIOR, .variance_n = VARIANCE_PRIOR_WEIGHT, .since_change = INFINITY};
}

static void restart(struct quality *q) {
  double scale = fmin(1.0, QUALITY_RESTART / q->fast_n);
  q->slow = q->fast;
  q->slow_n = q->fast_n * scale;
  q->slow2 = q->fast2 * scale * scale;
  q->cross = q->fast2 * scale;
  q->since_change = 0.0;
  q->changes++;
}

static double believed_variance(const struct quality *q) {
  return fmax(q->variance, VARIANCE_LEAST);
}

/* Standard errors by which the fast mean must be off the slow one. */
static double errors_needed(const struct quality *q) {
  double skewness = q->third / pow(believed_variance(q), 1.5);
  skewness = fmin(fmax(skewness, -MOST_SKEWED), MOST_SKEWED);
  double of_mean = SKEW_OF_MEAN * skewness * sqrt(q->fast2) / q->fast_n;
  double side = q->fast < q->slow ? -1.0 : 1.0;
  return CHANGE_ERRORS + fmax(0.0, side * (CHANGE_ERRORS * CHANGE_ERRORS - 1.0) / 6.0 * of_mean);
}

static bool has_changed(const struct quality *q) {
  if (q->fast_n < FIRST_TEST * 0.5 || q->slow_n < 1.25 * q->fast_n) return false;
  double f = q->fast_n, s = q->slow_n;
  double share = q->fast2 / (f * f) + q->slow2 / (s * s) - 2.0 * q->cross / (f * s);
  return share > 0.0 && fabs(q->fast - q->slow) > errors_needed(q) * sqrt(believed_variance(q) * share);
}

bool quality_add(struct quality *q, double value, double memory) {
  double keep_slow = exp(-1.0 / memory), keep_fast = exp(-1.0 / fmin(QUALITY_FAST, memory * 0.5));
  if (q->slow_n > 0.0) {
    double off = value - q->slow;
    q->variance_n = q->variance_n * keep_slow + 1.0;
    q->variance += (off * off - q->variance) / q->variance_n;
    q->third += (off * off * off - q->third) / q->variance_n;
  }
  q->slow_n = q->slow_n * keep_slow + 1.0;
  q->slow += (value - q->slow) / q->slow_n;
  q->fast_n = q->fast_n * keep_fast + 1.0;
  q->fast += (value - q->fast) / q->fast_n;
  q->slow2 = q->slow2 * keep_slow * keep_slow + 1.0;
  q->fast2 = q->fast2 * keep_fast * keep_fast + 1.0;
  q->cross = q->cross * keep_slow * keep_fast + 1.0;
  q->since_change += 1.0;
  if (!has_changed(q)) return false;
  restart(q);
  return true;
}

double quality_mean(const struct quality *q) {
  return (QUALITY_PRIOR * QUALITY_PRIOR_WEIGHT + q->slow * q->slow_n) / (QUALITY_PRIOR_WEIGHT + q->slow_n);
}

double quality_error(const struct quality *q) {
  return sqrt(q->variance / (QUALITY_PRIOR_WEIGHT + q->slow_n));
}
