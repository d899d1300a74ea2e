#ifndef CONTROL_BUFFERS_H
#define CONTROL_BUFFERS_H

/* Capacity of a stage's ring by Little's law: arrivals a second times the seconds that a request may wait
 * there. */

#include "control/decision.h"

#include <stdint.h>

struct buffers_settings {
  double seconds;   /* of arrivals that the ring should hold */
  double safety;    /* factor over that */
  double dead_band; /* relative change below which nothing moves */
  double memory_s;  /* the peak rate is forgotten with this time constant */
  double low, high; /* range of the capacity */
};

extern const struct buffers_settings buffers_stage;     /* 2 s of arrivals */
extern const struct buffers_settings buffers_inference; /* 10 s of arrivals */

struct buffers {
  double mean_rate, peak_rate; /* per second; the mean over ten seconds */
};

void buffers_init(struct buffers *b);

struct buffers_sample {
  double arrivals, dt_s; /* since the last tick */
  double depth;          /* requests in the ring now: the capacity never falls below */
  double sheds;          /* turned away since the last tick */
  double current;        /* capacity in force */
};

/* No traffic holds. Capacities are 2^n and 3 x 2^n, so that they do not dither. */
void buffers_update(struct buffers *b, const struct buffers_settings *s, const struct buffers_sample *sample,
                    struct decision *decision);

#endif
