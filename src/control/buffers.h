#ifndef CONTROL_BUFFERS_H
#define CONTROL_BUFFERS_H

/* Capacity of a stage's ring by Little's law: requests a second times the seconds that one may wait there. */

#include "control/decision.h"

#include <stdint.h>

struct buffers_settings {
  double seconds;   /* of requests that the ring should hold */
  double safety;    /* factor over that */
  double dead_band; /* relative change below which nothing moves */
  double memory_s;  /* the peak rate is forgotten with this time constant */
  double low, high; /* range of the capacity */
};

extern const struct buffers_settings buffers_stage; /* for a stage that is as fast as its input: 2 s */

/* For a ring whose requests wait for something slower and may do so for that many seconds. */
struct buffers_settings buffers_waiting(double seconds);

struct buffers {
  double mean_rate, peak_rate; /* per second; the mean over ten seconds */
};

void buffers_init(struct buffers *b);

struct buffers_sample {
  double requests, dt_s; /* that came, or, where they wait, were served; since the last tick */
  double depth;          /* the capacity never falls below; 0 where requests wait */
  double current;        /* in force */
};

/* No traffic holds. Capacities are 2^n and 3 x 2^n, so that they do not dither. */
void buffers_update(struct buffers *b, const struct buffers_settings *s, const struct buffers_sample *sample,
                    struct decision *decision);

#endif
