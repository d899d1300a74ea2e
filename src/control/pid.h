#ifndef CONTROL_PID_H
#define CONTROL_PID_H

/* A discrete PID controller in position form: weighted setpoint, filtered derivative on the measurement,
 * integral corrected from what was really applied (Åström and Hägglund, Advanced PID Control, 2006, chapters
 * 3 and 13).
 *
 * Each tick: wish = pid_update(...), apply it as far as bounds, slew, cooldown and holds allow, then
 * pid_applied(... what is in force now). A controller that must lower its output when the measurement rises
 * has a positive gain; one that must raise it has a negative one. */

#include <stdbool.h>

struct pid_settings {
  double gain;            /* K, output per unit of error; its sign is the direction */
  double integral_s;      /* Ti > 0; INFINITY: no integral action */
  double derivative_s;    /* Td >= 0 */
  double filter;          /* N of the derivative filter, 2 to 20 */
  double setpoint_weight; /* 0 to 1: share of a setpoint step that the proportional part sees */
  double tracking_s;      /* Tt, time constant of anti-windup; 0: sqrt(Ti Td), or Ti without derivative */
  double low, high;       /* range of the output */
  double tick_s; /* usual time between updates; a dt more than three times as long counts as one tick */
};

struct pid {
  double integral, derivative;
  double setpoint, measured;    /* of the last good update */
  double gain, setpoint_weight; /* in force then: a change is absorbed by the integral */
  double wish, output;          /* last, before and after the range */
  double dt_s;                  /* of the update that pid_applied belongs to; 0: it held */
  bool fresh;                   /* measured is from the update before, so that a derivative may be taken */
  bool restart;                 /* something else moved the output while the controller was blind */
};

/* From manual to automatic: the first update with the same setpoint and measurement wishes exactly `applied`,
 * cut to the range (NaN counts as low). A measurement of NaN delays the alignment to the first good one. Also
 * the way to restore: learned state needs no more than the value in force. */
void pid_start(struct pid *p, const struct pid_settings *s, double setpoint, double measured, double applied);

/* The wished output, always finite and inside [low, high]. A measurement, setpoint or dt that is not finite,
 * and a dt of 0 or less, hold the last output. */
double pid_update(struct pid *p, const struct pid_settings *s, double setpoint, double measured, double dt_s);

/* Once after every pid_update: the value really in force. Integrates the error and tracks the difference.
 * Rounding is no difference: hand back the output itself, or small errors never add up to a whole unit. */
void pid_applied(struct pid *p, const struct pid_settings *s, double applied);

#endif
