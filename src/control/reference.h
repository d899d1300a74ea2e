#ifndef CONTROL_REFERENCE_H
#define CONTROL_REFERENCE_H

/* What is normal for one metric: centre, scale and long-run spread, learned from a warm-up and then slowly
 * followed. Samples come with the noise that is known of them (1 for plain metrics); the scale multiplies it.
 */

#include <stdbool.h>
#include <stdint.h>

enum { REFERENCE_WARMUP = 120, REFERENCE_LEVELS = 9 };

/* Haar pyramid: level j compares neighbouring means of 2^j residuals. */
struct reference_level {
  double pending, variance;
  uint32_t pairs;
  uint8_t held;
};

struct reference {
  double centre, scale; /* of the transformed metric */
  double spread;        /* long-run deviation in units of scale, at least 1; > 1 when samples hang together */
  double lag1, previous; /* covariance of neighbouring residuals; the last residual */
  uint32_t count;        /* samples learned from, capped */
  uint32_t filled;       /* of the warm-up */
  double sample[REFERENCE_WARMUP], noise[REFERENCE_WARMUP];
  struct reference_level level[REFERENCE_LEVELS];
};

void reference_init(struct reference *r);
bool reference_ready(const struct reference *r); /* false during the warm-up */

/* Deviation of a sample in units of noise x scale. Only when ready. */
double reference_residual(const struct reference *r, double sample, double noise);

/* Learns a sample. floor: the smallest scale that is believed. */
void reference_learn(struct reference *r, double sample, double noise, double floor);

/* Clip of residuals before they are summed or learned from. */
double reference_clip(double residual);

#endif
