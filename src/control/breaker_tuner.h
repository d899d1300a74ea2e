#ifndef CONTROL_BREAKER_TUNER_H
#define CONTROL_BREAKER_TUNER_H

/* How many consecutive failures should open a breaker: so many that a healthy provider's background failures
 * open it less than once a day. */

#include "control/decision.h"

#include <stdint.h>

/* Background of one provider. Counts fade with a time constant of one day. */
struct breaker_tuner {
  double attempts, failures;
  double seconds; /* observed, faded alike */
};

void breaker_tuner_init(struct breaker_tuner *t);

/* One tick while the breaker is closed and no incident is open: attempts that ended in it, and how many of
 * them failed. Leave the tick out otherwise: failures of an outage are not background. */
void breaker_tuner_observe(struct breaker_tuner *t, double attempts, double failures, double dt_s);

/* The threshold for all providers: the highest that one of them needs, 3 to 20. Providers with fewer than 300
 * attempts are left out; blind when none remains. */
void breaker_tuner_decide(const struct breaker_tuner *tuners, unsigned count, double current,
                          struct decision *decision);

/* Upper end of Wilson's 95 % interval of a share; 1 without trials. */
double breaker_tuner_upper(double failures, double attempts);

#endif
