#ifndef CONTROL_AUTOSCALER_H
#define CONTROL_AUTOSCALER_H

/* How many instances of one local provider should run. The rule is that of the Kubernetes horizontal
 * autoscaler (load over target, rounded up, 10 % tolerance, highest wish of five minutes on the way down),
 * with instances that still start counted as capacity, a quick way up under saturation, and a price. */

#include "control/decision.h"

#include <stdbool.h>
#include <stdint.h>

struct autoscaler_settings {
  double utilisation;      /* target share of the limit in use */
  double tolerance;        /* relative; no action inside */
  int64_t smooth_ns;       /* time constant of the load */
  int64_t up_ns;           /* a higher wish, or saturation, must last so long */
  int64_t down_window_ns;  /* down only to the highest wish of this */
  int64_t cheap_window_ns; /* instead, when an instance is known not to be worth its price */
  int64_t cooldown_ns;     /* between two changes; saturation does not wait for it */
};

extern const struct autoscaler_settings autoscaler_defaults; /* 0.75, 0.1, 15 s, 15 s, 300 s, 120 s, 60 s */

enum { AUTOSCALER_SLOTS = 64 };

struct autoscaler {
  int64_t last_ns, changed_ns;                 /* -1: never */
  int64_t higher_since_ns, saturated_since_ns; /* -1: not now */
  double in_flight, arrivals, refused;         /* smoothed; the last two per second */
  int64_t slot_ns;                             /* length of a slot */
  int64_t slot_index[AUTOSCALER_SLOTS];        /* which stretch of time the slot holds */
  double slot_wish[AUTOSCALER_SLOTS];          /* its highest wish */
};

void autoscaler_init(struct autoscaler *a, const struct autoscaler_settings *s);

struct autoscaler_sample {
  int64_t now_ns;
  double in_flight;          /* calls now; NaN, infinite or negative: unknown */
  double arrivals, refused;  /* calls started, and turned away by the limit, since the last tick */
  double limit_per_instance; /* calls that one instance may carry */
  uint32_t wanted;           /* the value in force */
  uint32_t ready, starting;
  uint32_t min, max;    /* max < min is refused: the decision is blind and says so */
  bool data_ok;         /* false: the telemetry is missing or stale */
  double gain_per_hour; /* utility that one more instance would add; NAN: unknown */
  double cost_per_hour; /* its price in the same unit */
};

/* The wish is a whole number in [min, max]. */
void autoscaler_update(struct autoscaler *a, const struct autoscaler_settings *s,
                       const struct autoscaler_sample *sample, struct decision *decision);

/* The loop really changed the number of instances (whoever asked): starts the cooldown. */
void autoscaler_changed(struct autoscaler *a, int64_t now_ns);

#endif
