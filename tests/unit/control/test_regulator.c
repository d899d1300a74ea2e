#include "control/regulator.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

/* One tick, applied whole. Returns the value in force. */
static double tick(struct regulator *r, const struct regulator_settings *s, double current, double setpoint,
                   double measured, bool binding, struct decision *d) {
  struct regulator_sample sample = {
      .setpoint = setpoint, .measured = measured, .current = current, .dt_s = 1, .binding = binding};
  regulator_update(r, s, &sample, d);
  regulator_applied(r, s, d->value);
  return d->value;
}

static void an_hour_without_data_moves_nothing(void **state) {
  (void)state;
  static const struct regulator_settings *const all[] = {&regulator_shed, &regulator_promotion,
                                                         &regulator_admission};
  static const double starts[] = {0.9, 5000, 100};
  for (int i = 0; i < 3; i++) {
    struct regulator r;
    struct decision d;
    regulator_init(&r, all[i], starts[i]);
    for (int t = 0; t < 3600; t++) {
      tick(&r, all[i], starts[i], 500, NAN, false, &d);
      assert_true(d.blind);
      assert_false(d.change);
      assert_true(d.value == starts[i]);
    }
  }
}

static void long_waits_tighten_and_short_ones_return_home_only(void **state) {
  (void)state;
  struct regulator r;
  struct decision d;
  double value = 0.9;
  regulator_init(&r, &regulator_shed, value);
  for (int t = 0; t < 120; t++)
    value = tick(&r, &regulator_shed, value, 500, 2000, true, &d);
  assert_true(value == 0.5);
  for (int t = 0; t < 600; t++)
    value = tick(&r, &regulator_shed, value, 500, 10, false, &d);
  assert_true(fabs(value - 0.9) < 0.01);
}

static void loosening_beyond_home_needs_that_something_is_restrained(void **state) {
  (void)state;
  struct regulator r;
  struct decision d;
  double value = 100;
  regulator_init(&r, &regulator_admission, value);
  for (int t = 0; t < 3600; t++)
    value = tick(&r, &regulator_admission, value, 500, 5, false, &d);
  assert_true(value == 100);
  for (int t = 0; t < 120; t++)
    value = tick(&r, &regulator_admission, value, 500, 5, true, &d);
  assert_true(value > 200);
}

static void recovery_after_long_calm_is_not_delayed_by_windup(void **state) {
  (void)state;
  struct regulator r;
  struct decision d;
  double value = 100;
  regulator_init(&r, &regulator_admission, value);
  for (int t = 0; t < 3600; t++)
    value = tick(&r, &regulator_admission, value, 500, 5, false, &d);
  int t = 0;
  while (value >= 99 && t < 60) {
    value = tick(&r, &regulator_admission, value, 500, 700, false, &d);
    t++;
  }
  assert_true(t <= 5);
}

static void measurements_in_the_dead_band_move_nothing(void **state) {
  (void)state;
  struct regulator r;
  struct decision d;
  regulator_init(&r, &regulator_promotion, 5000);
  for (int t = 0; t < 600; t++) {
    tick(&r, &regulator_promotion, 5000, 1000, t % 2 ? 920 : 1080, true, &d);
    assert_false(d.change);
  }
}

/* wait = 400 ms x (rate / 50)^2 seen through a lag of five seconds. */
static void closed_loop_holds_the_wait_at_its_setpoint(void **state) {
  (void)state;
  struct regulator r;
  struct decision d;
  double rate = 100, wait = 0;
  regulator_init(&r, &regulator_admission, rate);
  for (int t = 0; t < 600; t++) {
    wait += (400 * pow(rate / 50, 2) - wait) / 5;
    rate = tick(&r, &regulator_admission, rate, 400, wait, true, &d);
  }
  assert_true(fabs(wait - 400) < 60);
}

/* The loop applies at most a twentieth every fifteenth tick. */
static void slow_actuator_causes_no_windup(void **state) {
  (void)state;
  struct regulator r;
  struct decision d;
  double value = 0.9;
  regulator_init(&r, &regulator_shed, value);
  int back = 0;
  for (int t = 0; t < 900; t++) {
    struct regulator_sample sample = {
        .setpoint = 500, .measured = t < 300 ? 5000 : 100, .current = value, .dt_s = 1, .binding = true};
    regulator_update(&r, &regulator_shed, &sample, &d);
    if (t % 15 == 0 && d.change) value += fmin(fmax(d.value - value, -0.05 * value), 0.05 * value);
    regulator_applied(&r, &regulator_shed, value);
    if (t == 299) assert_true(value < 0.55);
    if (t >= 300 && back == 0 && value > 0.6) back = t - 300;
  }
  assert_true(back > 0 && back <= 90);
}

static void reason_names_measurement_and_setpoint(void **state) {
  (void)state;
  struct regulator r;
  struct decision d;
  double value = 0.9;
  regulator_init(&r, &regulator_shed, value);
  value = tick(&r, &regulator_shed, value, 500, 500, true, &d);
  tick(&r, &regulator_shed, value, 500, 812, true, &d);
  assert_string_equal(d.reason, "p95 wait for a provider 812 ms against 500: tighten");
}

static void setpoint_of_zero_is_blind(void **state) {
  (void)state;
  struct regulator r;
  struct decision d;
  regulator_init(&r, &regulator_shed, 0.9);
  tick(&r, &regulator_shed, 0.9, 0, 100, true, &d);
  assert_true(d.blind);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(an_hour_without_data_moves_nothing),
      cmocka_unit_test(long_waits_tighten_and_short_ones_return_home_only),
      cmocka_unit_test(loosening_beyond_home_needs_that_something_is_restrained),
      cmocka_unit_test(recovery_after_long_calm_is_not_delayed_by_windup),
      cmocka_unit_test(measurements_in_the_dead_band_move_nothing),
      cmocka_unit_test(closed_loop_holds_the_wait_at_its_setpoint),
      cmocka_unit_test(slow_actuator_causes_no_windup),
      cmocka_unit_test(reason_names_measurement_and_setpoint),
      cmocka_unit_test(setpoint_of_zero_is_blind),
  };
  return cmocka_run_group_tests_name("regulator", tests, NULL, NULL);
}
