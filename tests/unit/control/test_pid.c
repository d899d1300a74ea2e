/* Plants are simulated with a step of one millisecond; figures are those of SIMC settings with tau_c = theta
 * = 1. */

#include "control/pid.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

enum { DELAY_STEPS = 1000 };
static const double h = 0.001;

/* e^{-s} / (tau s + 1), or e^{-s} / s when integrating, or e^{-s} when tau is 0. */
struct plant {
  double y, tau, past[DELAY_STEPS];
  bool integrating;
  int at;
};

static double plant_step(struct plant *p, double u) {
  double late = p->past[p->at];
  p->past[p->at] = u;
  p->at = (p->at + 1) % DELAY_STEPS;
  if (p->integrating)
    p->y += h * late;
  else if (p->tau > 0)
    p->y += h / p->tau * (late - p->y);
  else
    p->y = late;
  return p->y;
}

static struct pid_settings pi(double gain, double integral_s) {
  return (struct pid_settings){.gain = gain,
                               .integral_s = integral_s,
                               .filter = 10,
                               .setpoint_weight = 1,
                               .low = -1e6,
                               .high = 1e6,
                               .tick_s = h};
}

struct run {
  double iae, integral, peak;
};

static struct run simulate(const struct pid_settings *s, struct plant plant, double setpoint, double load,
                           double seconds) {
  struct pid pid;
  struct run run = {0};
  pid_start(&pid, s, 0, 0, 0);
  for (int i = 0; i < (int)(seconds / h); i++) {
    double e = setpoint - plant.y;
    run.iae += fabs(e) * h;
    run.integral += e * h;
    run.peak = fmax(run.peak, plant.y);
    double u = pid_update(&pid, s, setpoint, plant.y, h);
    pid_applied(&pid, s, u);
    plant_step(&plant, u + load);
  }
  return run;
}

static void assert_near(double value, double expected, double relative) {
  if (fabs(value - expected) > relative * fabs(expected)) fail_msg("%g is not near %g", value, expected);
}

static void iae_and_overshoot_are_those_of_the_table(void **state) {
  (void)state;
  static const struct {
    double tau, gain, integral_s, step_iae, overshoot, load_iae;
    bool integrating;
  } rows[] = {
      {0, 5e-5, 1e-4, 2.17, 0.041, 2.17, false}, {1, 0.5, 1, 2.17, 0.040, 2.04, false},
      {4, 2, 4, 2.17, 0.041, 2.00, false},       {8, 4, 8, 2.17, 0.041, 2.00, false},
      {20, 10, 8, 3.20, 0.17, 0.80, false},      {0, 0.5, 8, 3.92, 0.28, 16.0, true},
  };
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    struct pid_settings s = pi(rows[i].gain, rows[i].integral_s);
    struct plant plant = {.tau = rows[i].tau, .integrating = rows[i].integrating};
    struct run step = simulate(&s, plant, 1, 0, 150), load = simulate(&s, plant, 0, 1, 150);
    assert_near(step.iae, rows[i].step_iae, 0.03);
    assert_near(load.iae, rows[i].load_iae, 0.03);
    if (fabs(step.peak - 1 - rows[i].overshoot) > 0.01) fail_msg("row %zu: overshoot %g", i, step.peak - 1);
  }
}

static void integral_of_the_error_after_a_load_step_is_ti_over_k(void **state) {
  (void)state;
  static const double rows[][3] = {{1, 0.5, 1}, {4, 2, 4}, {8, 4, 8}, {20, 10, 8}};
  for (int i = 0; i < 4; i++) {
    struct pid_settings s = pi(rows[i][1], rows[i][2]);
    s.derivative_s = i == 3 ? 0.3 : 0;
    struct run run = simulate(&s, (struct plant){.tau = rows[i][0]}, 0, 1, 200);
    assert_near(-run.integral, rows[i][2] / rows[i][1], 0.005);
  }
}

static void gain_change_at_rest_bumps_less_than_a_hundredth(void **state) {
  (void)state;
  struct pid_settings s = pi(2, 4), hot = pi(6, 2);
  s.setpoint_weight = 0.7;
  hot.setpoint_weight = 0.2;
  s.low = hot.low = 0;
  s.high = hot.high = 1;
  struct plant plant = {.tau = 4};
  struct pid pid;
  double u = 0.2;
  pid_start(&pid, &s, 0.5, 0, u);
  for (int i = 0; i < 60000; i++) {
    u = pid_update(&pid, &s, 0.5, plant.y, h);
    pid_applied(&pid, &s, u);
    plant_step(&plant, u);
  }
  assert_true(fabs(u - 0.5) < 0.01);
  assert_true(fabs(pid_update(&pid, &hot, 0.5, plant.y, h) - u) < 0.01);
}

/* Conditional integration, the yardstick of the next test. */
static double conditional(double *integral, double gain, double integral_s, double e) {
  double wish = gain * e + *integral, u = fmin(fmax(wish, 0), 1);
  bool outward = (wish > 1 && e > 0) || (wish < 0 && e < 0);
  if (!outward) *integral += gain * h / integral_s * e;
  return u;
}

/* At rest at 0.5, then ten seconds of a setpoint out of reach, then back: seconds until it rests again. */
static double settling(bool ours) {
  struct pid_settings s = pi(2, 4);
  s.low = 0;
  s.high = 1;
  struct plant plant = {.tau = 4};
  struct pid pid;
  double integral = 0, settled = 0;
  pid_start(&pid, &s, 0, 0, 0);
  for (int i = 0; i < 90000; i++) {
    double setpoint = i >= 30000 && i < 40000 ? 2 : 0.5, u;
    if (ours) {
      u = pid_update(&pid, &s, setpoint, plant.y, h);
      pid_applied(&pid, &s, u);
    } else
      u = conditional(&integral, 2, 4, setpoint - plant.y);
    plant_step(&plant, u);
    if (i >= 40000 && fabs(plant.y - 0.5) > 0.02) settled = i * h - 40;
  }
  return settled;
}

static void recovery_from_ten_seconds_of_saturation_is_no_slower_than_conditional_integration(void **state) {
  (void)state;
  assert_true(settling(true) <= settling(false) + 0.01);
  assert_true(settling(true) < 10);
}

static struct pid_settings c53(void) {
  return (struct pid_settings){.gain = 0.2,
                               .integral_s = 10,
                               .derivative_s = 1,
                               .filter = 10,
                               .setpoint_weight = 1,
                               .low = 0.1,
                               .high = 1,
                               .tick_s = 1};
}

static double tick(struct pid *p, const struct pid_settings *s, double setpoint, double measured,
                   double dt_s) {
  double u = pid_update(p, s, setpoint, measured, dt_s);
  pid_applied(p, s, u);
  return u;
}

static void output_leaves_its_limit_within_three_ticks_and_falls_at_each_one(void **state) {
  (void)state;
  struct pid_settings s = c53();
  s.derivative_s = 0;
  struct pid p;
  pid_start(&p, &s, 1, 0, 0.5);
  for (int i = 0; i < 600; i++)
    tick(&p, &s, 1, 0, 1);
  assert_true(p.output == 1);
  double before = tick(&p, &s, 1, 1.2, 1);
  for (int i = 0; i < 3 && before == 1; i++)
    before = tick(&p, &s, 1, 1.2, 1);
  assert_true(before < 1);
  for (int i = 0; i < 100 && before > 0.1; i++) {
    double now = tick(&p, &s, 1, 1.2, 1);
    assert_true(now < before);
    before = now;
  }
}

static void absurd_dt_is_bounded_by_one_usual_tick(void **state) {
  (void)state;
  static const double dts[] = {0, -1, -86400, 86400, INFINITY, NAN};
  for (size_t i = 0; i < sizeof dts / sizeof *dts; i++) {
    struct pid_settings s = c53();
    struct pid p, usual;
    pid_start(&p, &s, 1, 0.5, 0.4);
    tick(&p, &s, 1, 0.5, 1);
    usual = p;
    tick(&usual, &s, 1, 0.5, 1);
    double integral = p.integral, u = tick(&p, &s, 1, 0.5, dts[i]);
    assert_true(isfinite(u) && u >= 0.1 && u <= 1);
    assert_true(fabs(p.integral - integral) <= fabs(usual.integral - integral) + 1e-12);
  }
}

static void a_gap_in_the_measurement_does_not_kick_the_derivative(void **state) {
  (void)state;
  struct pid_settings s = {.gain = 1,
                           .integral_s = INFINITY,
                           .derivative_s = 1,
                           .filter = 10,
                           .low = -100,
                           .high = 100,
                           .tick_s = 1};
  struct pid pid;
  pid_start(&pid, &s, 0, 0, 0);
  pid_update(&pid, &s, 0, NAN, 1);
  pid_applied(&pid, &s, 0);
  assert_true(fabs(pid_update(&pid, &s, 0, 5, 1) + 5) < 1e-9);
}

static void tracking_time_is_the_mean_of_integral_and_derivative_times(void **state) {
  (void)state;
  struct pid_settings s = {.gain = 1,
                           .integral_s = 16,
                           .derivative_s = 1,
                           .filter = 10,
                           .setpoint_weight = 1,
                           .low = 0,
                           .high = 1,
                           .tick_s = 1};
  struct pid pid;
  pid_start(&pid, &s, 0, 0, 0.5);
  pid_update(&pid, &s, 2, 0, 1);
  double before = pid.integral;
  pid_applied(&pid, &s, 1);
  assert_true(fabs(pid.integral - (before + 2.0 / 16 - 1.0 / 4)) <
              1e-9); /* the excess is cut to the range: 1 */
}

static void setpoint_jump_kicks_by_no_more_than_the_proportional_part(void **state) {
  (void)state;
  struct pid_settings s = c53();
  struct pid p;
  pid_start(&p, &s, 0.5, 0.5, 0.4);
  double before = tick(&p, &s, 0.5, 0.5, 1), after = tick(&p, &s, 1.5, 0.5, 1);
  assert_true(fabs(after - before) <= s.gain * 1.0 + 1e-12);
  assert_true(after > before);
}

static void nan_holds_the_output_and_does_not_integrate(void **state) {
  (void)state;
  struct pid_settings s = c53();
  struct pid p;
  pid_start(&p, &s, 1, 0.5, 0.4);
  double before = tick(&p, &s, 1, 0.5, 1), integral = p.integral;
  for (int i = 0; i < 5; i++)
    assert_true(tick(&p, &s, 1, NAN, 1) == before);
  assert_true(tick(&p, &s, NAN, 0.5, 1) == before);
  assert_true(tick(&p, &s, 1, INFINITY, 1) == before);
  assert_true(p.integral == integral);
  double after = tick(&p, &s, 1, 0.5, 1);
  assert_true(fabs(after - before) < 0.05);
}

static void value_moved_by_others_while_blind_is_taken_over_without_a_bump(void **state) {
  (void)state;
  struct pid_settings s = c53();
  struct pid p;
  pid_start(&p, &s, 1, 0.5, 0.4);
  tick(&p, &s, 1, 0.5, 1);
  pid_update(&p, &s, 1, NAN, 1);
  pid_applied(&p, &s, 0.9);
  assert_true(fabs(pid_update(&p, &s, 1, 0.5, 1) - 0.9) < 1e-9);
}

static void start_takes_over_the_running_value(void **state) {
  (void)state;
  struct pid_settings s = c53();
  struct pid p;
  pid_start(&p, &s, 1, 0.3, 0.77);
  assert_true(fabs(pid_update(&p, &s, 1, 0.3, 1) - 0.77) < 1e-12);
  pid_start(&p, &s, 1, NAN, 0.77);
  assert_true(fabs(pid_update(&p, &s, 1, 0.3, 1) - 0.77) < 1e-12);
}

static void reload_of_gains_at_rest_jumps_by_less_than_a_twentieth_of_the_range(void **state) {
  (void)state;
  struct pid_settings s = c53(), other = c53();
  other.gain = 2;
  other.integral_s = 3;
  other.derivative_s = 5;
  struct pid p;
  pid_start(&p, &s, 1, 0.9, 0.4);
  double before = tick(&p, &s, 1, 0.9, 1);
  assert_true(fabs(tick(&p, &other, 1, 0.9, 1) - before) < 0.05 * 0.9);
}

static void integral_does_not_grow_while_the_derivative_alone_saturates(void **state) {
  (void)state;
  struct pid_settings s = c53();
  s.derivative_s = 20;
  struct pid p;
  pid_start(&p, &s, 1, 1, 0.5);
  double integral = p.integral;
  for (int i = 1; i <= 20; i++) {
    double u = tick(&p, &s, 1 - 0.5 * i, 1 - 0.5 * i, 1);
    assert_true(u == 1);
    assert_true(p.integral <= integral + 1e-12);
    integral = p.integral;
  }
}

static void restored_state_is_cut_to_the_range(void **state) {
  (void)state;
  struct pid_settings s = c53();
  struct pid p;
  static const double stored[][2] = {{7, 1}, {-3, 0.1}, {NAN, 0.1}, {INFINITY, 1}};
  for (int i = 0; i < 4; i++) {
    pid_start(&p, &s, 1, 1, stored[i][0]);
    assert_true(fabs(pid_update(&p, &s, 1, 1, 1) - stored[i][1]) < 1e-12);
  }
}

static void one_wild_sample_does_not_throw_the_integral(void **state) {
  (void)state;
  struct pid_settings s = c53();
  s.derivative_s = 0;
  s.tracking_s = 2;
  struct pid p;
  pid_start(&p, &s, 1, 1, 0.5);
  tick(&p, &s, 1, 1, 1);
  assert_true(tick(&p, &s, 1, 1e9, 1) == 0.1);
  assert_true(fabs(tick(&p, &s, 1, 1, 1) - 0.5) < 0.15);
}

static void negative_gain_answers_a_rise_with_a_rise(void **state) {
  (void)state;
  struct pid_settings s = c53();
  s.gain = -0.2;
  s.derivative_s = 0;
  struct pid p;
  pid_start(&p, &s, 1, 1, 0.5);
  assert_true(tick(&p, &s, 1, 1.5, 1) > 0.5);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(iae_and_overshoot_are_those_of_the_table),
      cmocka_unit_test(integral_of_the_error_after_a_load_step_is_ti_over_k),
      cmocka_unit_test(gain_change_at_rest_bumps_less_than_a_hundredth),
      cmocka_unit_test(recovery_from_ten_seconds_of_saturation_is_no_slower_than_conditional_integration),
      cmocka_unit_test(output_leaves_its_limit_within_three_ticks_and_falls_at_each_one),
      cmocka_unit_test(absurd_dt_is_bounded_by_one_usual_tick),
      cmocka_unit_test(a_gap_in_the_measurement_does_not_kick_the_derivative),
      cmocka_unit_test(tracking_time_is_the_mean_of_integral_and_derivative_times),
      cmocka_unit_test(setpoint_jump_kicks_by_no_more_than_the_proportional_part),
      cmocka_unit_test(nan_holds_the_output_and_does_not_integrate),
      cmocka_unit_test(value_moved_by_others_while_blind_is_taken_over_without_a_bump),
      cmocka_unit_test(start_takes_over_the_running_value),
      cmocka_unit_test(reload_of_gains_at_rest_jumps_by_less_than_a_twentieth_of_the_range),
      cmocka_unit_test(integral_does_not_grow_while_the_derivative_alone_saturates),
      cmocka_unit_test(restored_state_is_cut_to_the_range),
      cmocka_unit_test(one_wild_sample_does_not_throw_the_integral),
      cmocka_unit_test(negative_gain_answers_a_rise_with_a_rise),
  };
  return cmocka_run_group_tests_name("pid", tests, NULL, NULL);
}
