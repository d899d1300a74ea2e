/* y = measured / setpoint, cut to `most` and drawn towards 1 by the dead band; u = place of the tunable in
 * its range. A PI controller holds y at 1 through u. The settings carry a rough model of dy/du and SIMC turns
 * it into gains: the models are deliberately steep (their gain is the largest to be expected), for the loop
 * is then slow where it is wrong. The loop's own step and cooldown bound every act; pid_applied hears of
 * them. */

#include "control/regulator.h"

#include "control/simc.h"

#include <math.h>

const struct regulator_settings regulator_shed = {
    .measured_name = "p95 wait for a provider",
    .unit = "ms",
    .low = 0.5,
    .high = 0.99,
    .dead_band = 0.1,
    .most = 4,
    .process_gain = 4,
    .lag_s = 10,
    .delay_s = 3,
};

const struct regulator_settings regulator_promotion = {
    .measured_name = "longest wait of a low request",
    .unit = "ms",
    .low = 100,
    .high = 60000,
    .logarithmic = true,
    .grain = 1,
    .dead_band = 0.1,
    .most = 4,
    .process_gain = 6,
    .lag_s = 20,
    .delay_s = 5,
};

const struct regulator_settings regulator_admission = {
    .measured_name = "p95 wait for a provider",
    .unit = "ms",
    .low = 1,
    .high = 10000,
    .logarithmic = true,
    .dead_band = 0.1,
    .most = 4,
    .process_gain = 20,
    .lag_s = 10,
    .delay_s = 3,
};

enum { TICK_S = 1 };
static const double least_move = 0.002; /* of the range */

static double to_place(const struct regulator_settings *s, double value) {
  if (s->logarithmic) return log(value / s->low) / log(s->high / s->low);
  return (value - s->low) / (s->high - s->low);
}

static double to_value(const struct regulator_settings *s, double place) {
  if (s->logarithmic) return s->low * pow(s->high / s->low, place);
  return s->low + place * (s->high - s->low);
}

static double inside(const struct regulator_settings *s, double value) {
  if (isnan(value)) return s->low;
  return value < s->low ? s->low : value > s->high ? s->high : value;
}

void regulator_init(struct regulator *r, const struct regulator_settings *s, double current) {
  struct simc_model model;
  simc_reduce(&model, 1, s->process_gain, s->delay_s, &s->lag_s, 1, NULL, 0, TICK_S);
  r->gains = (struct pid_settings){.filter = 10, .setpoint_weight = 1, .low = 0, .high = 1, .tick_s = TICK_S};
  simc_tune(&model, model.delay, &r->gains);
  r->home = inside(s, current);
  pid_start(&r->pid, &r->gains, 1, NAN, to_place(s, r->home));
}

void regulator_set_home(struct regulator *r, double home) {
  r->home = home;
}

/* measured / setpoint, with the dead band taken out continuously. */
static double relative(const struct regulator_settings *s, const struct regulator_sample *sample) {
  if (!(sample->setpoint > 0)) return NAN;
  double y = sample->measured / sample->setpoint;
  if (y > s->most) y = s->most;
  if (y > 1 + s->dead_band) return y - s->dead_band;
  if (y < 1 - s->dead_band) return y + s->dead_band;
  return isnan(y) ? NAN : 1;
}

void regulator_update(struct regulator *r, const struct regulator_settings *s,
                      const struct regulator_sample *sample, struct decision *decision) {
  double y = relative(s, sample), current = sample->current;
  double wish = pid_update(&r->pid, &r->gains, 1, y, sample->dt_s);
  if (isnan(y) || r->pid.dt_s == 0) {
    decision_blind(decision, current, "%s unknown: held", s->measured_name);
    return;
  }
  double place = to_place(s, inside(s, current)), most = fmax(to_place(s, inside(s, r->home)), place);
  bool capped = !sample->binding && wish > most;
  if (capped) wish = most;
  if (fabs(wish - place) < least_move) {
    decision_keep(decision, current, "%s %.0f %s against %.0f%s", s->measured_name, sample->measured, s->unit,
                  sample->setpoint, capped ? "; nothing is restrained, so no more is allowed" : "");
    return;
  }
  decision_wish(decision, current, to_value(s, wish), "%s %.0f %s against %.0f: %s", s->measured_name,
                sample->measured, s->unit, sample->setpoint, wish < place ? "tighten" : "loosen");
}

void regulator_applied(struct regulator *r, const struct regulator_settings *s, double applied) {
  double wish = to_value(s, r->pid.output);
  bool rounded = s->grain > 0 && fabs(applied - wish) <= s->grain / 2;
  pid_applied(&r->pid, &r->gains, rounded ? r->pid.output : to_place(s, inside(s, applied)));
}
