#ifndef CONTROL_REGULATOR_H
#define CONTROL_REGULATOR_H

/* One tunable held by a PI controller so that one measured wait stays at its setpoint: shedding, admission
 * and priority promotion. The error is relative to the setpoint and the output is a place in the tunable's
 * range (linear or logarithmic), so that gains have no unit. */

#include "control/decision.h"
#include "control/pid.h"

#include <stdbool.h>

struct regulator_settings {
  const char *measured_name; /* for reasons: "p95 wait for a provider" */
  const char *unit;          /* of the measurement */
  double low, high;          /* range of the tunable; low > 0 when logarithmic */
  bool logarithmic;
  double grain;     /* applied values are multiples of this; 0: any. Rounding is not taken for a limit */
  double dead_band; /* relative error within which nothing moves */
  double most;      /* measured / setpoint is cut to this */
  /* How measured / setpoint answers a step over the whole range: gain, lag and delay of a rough first-order
   * model. Gains follow by SIMC. A positive gain: raising the tunable raises the wait. */
  double process_gain, lag_s, delay_s;
};

/* Ranges and measurements of tunables.def; tick_s 1. */
extern const struct regulator_settings regulator_shed; /* shed_threshold from the p95 wait */
extern const struct regulator_settings
    regulator_promotion; /* promotion_interval_ms from the longest low wait */
extern const struct regulator_settings regulator_admission; /* rate_limit_rps from the p95 wait */

struct regulator {
  struct pid pid;
  struct pid_settings gains;
  double home;
};

struct regulator_sample {
  double setpoint, measured; /* same unit; a setpoint of 0 or less, or NaN in either, holds */
  double current;            /* the tunable's value in force */
  double dt_s;
  bool binding; /* the value restrained something since the last tick: refused, shed, promoted */
};

/* current: where the tunable stands; it is also home, see below. After a restart from a stored value the
 * caller sets home to what was configured. */
void regulator_init(struct regulator *r, const struct regulator_settings *s, double current);

/* A person, an experiment or a rollback gave the tunable a new value: home moves there. */
void regulator_set_home(struct regulator *r, double home);

/* Tightening follows the error. Loosening beyond home needs proof that the value restrains something: without
 * it a quiet daemon would drift to a rail. */
void regulator_update(struct regulator *r, const struct regulator_settings *s,
                      const struct regulator_sample *sample, struct decision *decision);

/* Once after every regulator_update: the value in force now. */
void regulator_applied(struct regulator *r, const struct regulator_settings *s, double applied);

#endif
