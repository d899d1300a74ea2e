/*   P = K (b r - y)          D <- a D - K N a (y - y_old),  a = Td / (Td + N h)
 *   wish = P + I + D         I <- I + K h e / Ti + (h / Tt) (applied - wish)
 *
 * The last term is back-calculation: when the applied value stays away from the wish, for whatever reason,
 * the integral follows it with time constant Tt. Two bounds are added. The difference counts for no more than
 * the range, so that one wild sample cannot throw the integral; and while the wish lies outside the range,
 * the integral does not move further out. Hence recovery is never slower than with conditional integration.
 */

#include "control/pid.h"

#include <math.h>

static double clamp(double x, double low, double high) {
  return x < low ? low : x > high ? high : x;
}

static double proportional(const struct pid *p) {
  return p->gain * (p->setpoint_weight * p->setpoint - p->measured);
}

static void take_gains(struct pid *p, const struct pid_settings *s) {
  p->gain = s->gain;
  p->setpoint_weight = s->setpoint_weight;
}

static void align(struct pid *p, double output) {
  p->integral = output - proportional(p) - p->derivative;
}

void pid_start(struct pid *p, const struct pid_settings *s, double setpoint, double measured,
               double applied) {
  bool seen = isfinite(setpoint) && isfinite(measured);
  double output = isnan(applied) ? s->low : clamp(applied, s->low, s->high);
  *p = (struct pid){.output = output, .wish = output, .fresh = seen, .restart = !seen};
  take_gains(p, s);
  if (!seen) return;
  p->setpoint = setpoint;
  p->measured = measured;
  align(p, output);
}

/* The last setpoint and measurement are weighed with the old gains and the new ones; the integral takes the
 * difference. */
static void absorb_gains(struct pid *p, const struct pid_settings *s) {
  if (s->gain == p->gain && s->setpoint_weight == p->setpoint_weight) return;
  double before = proportional(p);
  take_gains(p, s);
  p->integral += before - proportional(p);
}

static void differentiate(struct pid *p, const struct pid_settings *s, double measured, double dt_s) {
  double a = s->derivative_s > 0 ? s->derivative_s / (s->derivative_s + s->filter * dt_s) : 0;
  p->derivative *= a;
  if (p->fresh) p->derivative -= s->gain * s->filter * a * (measured - p->measured);
  if (!isfinite(p->derivative)) p->derivative = 0;
}

static double hold(struct pid *p, const struct pid_settings *s) {
  p->dt_s = 0;
  p->output = clamp(p->output, s->low, s->high);
  return p->output;
}

double pid_update(struct pid *p, const struct pid_settings *s, double setpoint, double measured,
                  double dt_s) {
  if (!isfinite(setpoint) || !isfinite(measured)) {
    p->fresh = false;
    return hold(p, s);
  }
  if (!isfinite(dt_s) || dt_s <= 0) return hold(p, s);
  if (dt_s > 3 * s->tick_s) dt_s = s->tick_s;

  absorb_gains(p, s);
  differentiate(p, s, measured, dt_s);
  p->setpoint = setpoint;
  p->measured = measured;
  p->fresh = true;
  p->dt_s = dt_s;
  if (p->restart) align(p, p->output);
  p->restart = false;

  double wish = proportional(p) + p->integral + p->derivative;
  if (!isfinite(wish)) return hold(p, s);
  p->wish = wish;
  p->output = clamp(wish, s->low, s->high);
  return p->output;
}

static double tracking_time(const struct pid_settings *s) {
  if (s->tracking_s > 0) return s->tracking_s;
  return s->derivative_s > 0 ? sqrt(s->integral_s * s->derivative_s) : s->integral_s;
}

void pid_applied(struct pid *p, const struct pid_settings *s, double applied) {
  if (!isfinite(applied)) return;
  applied = clamp(applied, s->low, s->high);
  if (p->dt_s == 0) {
    if (applied != p->output) p->restart = true;
    p->output = applied;
    return;
  }
  double span = s->high - s->low, share = p->dt_s / tracking_time(s);
  double move = s->gain * p->dt_s / s->integral_s * (p->setpoint - p->measured);
  move += (share < 1 ? share : 1) * clamp(applied - p->wish, -span, span);
  bool outward = (p->wish > s->high && move > 0) || (p->wish < s->low && move < 0);
  if (!outward) p->integral += move;
  p->output = applied;
  p->dt_s = 0;
}
