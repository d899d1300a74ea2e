#include "control/pid.h"
#include "control/simc.h"

#include <complex.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static void assert_near(double value, double expected, double relative) {
  if (!(fabs(value - expected) <= relative * fabs(expected))) fail_msg("%g is not near %g", value, expected);
}

struct margins {
  double gain, phase, sensitivity, complementary;
};

/* Frequency sweep of PI x e^{-delay s} / (lag s + 1), or / s when the lag is 0 and integrating. */
static double complex open_loop(const struct pid_settings *s, double lag, int integrating, double w) {
  double complex i = I * w, plant = cexp(-i) / (integrating ? i : lag * i + 1);
  return s->gain * (1 + 1 / (s->integral_s * i)) * plant;
}

static struct margins sweep(const struct pid_settings *s, double lag, int integrating) {
  struct margins m = {.gain = INFINITY, .phase = INFINITY};
  double before_abs = INFINITY, before_angle = -M_PI / 2;
  for (double w = 1e-3; w < 10; w *= 1.0002) {
    double complex l = open_loop(s, lag, integrating, w);
    double angle = carg(l);
    while (angle > before_angle + M_PI)
      angle -= 2 * M_PI;
    if (before_angle > -M_PI && angle <= -M_PI) m.gain = fmin(m.gain, 1 / cabs(l));
    if (before_abs > 1 && cabs(l) <= 1) m.phase = fmin(m.phase, (angle + M_PI) * 180 / M_PI);
    m.sensitivity = fmax(m.sensitivity, 1 / cabs(1 + l));
    m.complementary = fmax(m.complementary, cabs(l / (1 + l)));
    before_abs = cabs(l);
    before_angle = angle;
  }
  return m;
}

static void margins_of_first_order_plants_are_those_of_the_table(void **state) {
  (void)state;
  static const struct {
    double lag, gain, integral_s;
    struct margins margins;
  } rows[] = {
      {1, 0.5, 1, {3.14, 61.4, 1.59, 1.00}},
      {4, 2, 4, {3.14, 61.4, 1.59, 1.00}},
      {8, 4, 8, {3.14, 61.4, 1.59, 1.00}},
      {20, 10, 8, {3.03, 52.5, 1.65, 1.16}},
  };
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    struct pid_settings s = {0};
    simc_tune(&(struct simc_model){.gain = 1, .lag1 = rows[i].lag, .delay = 1}, 1, &s);
    assert_near(s.gain, rows[i].gain, 1e-9);
    assert_near(s.integral_s, rows[i].integral_s, 1e-9);
    struct margins m = sweep(&s, rows[i].lag, 0);
    assert_near(m.gain, rows[i].margins.gain, 0.02);
    assert_near(m.phase, rows[i].margins.phase, 0.02);
    assert_near(m.sensitivity, rows[i].margins.sensitivity, 0.02);
    assert_near(m.complementary, rows[i].margins.complementary, 0.02);
  }
}

static void margins_of_an_integrating_plant_are_those_of_the_table(void **state) {
  (void)state;
  struct margins m = sweep(&(struct pid_settings){.gain = 0.5, .integral_s = 8}, 0, 1);
  assert_near(m.gain, 2.96, 0.02);
  assert_near(m.phase, 46.9, 0.02);
  assert_near(m.sensitivity, 1.70, 0.02);
  assert_near(m.complementary, 1.30, 0.02);
}

static void half_rule_gives_skogestads_pi_settings(void **state) {
  (void)state;
  static const struct {
    double gain, delay, lags[4];
    size_t lag_count;
    double zeros[1];
    size_t zero_count;
    double kc, integral_s;
  } rows[] = {
      {1, 0, {1, 0.2}, 2, {0}, 0, 5.5, 0.8},
      {1, 0, {1, 1, 1, 1}, 4, {0}, 0, 0.30, 1.5},
      {1, 0, {1, 0.2, 0.04, 0.008}, 4, {0}, 0, 3.72, 1.1},
      {1, 0, {1, 1, 1}, 3, {2}, 1, 0.214, 1.5},
      {1, 1, {1, 1}, 2, {0}, 0, 0.5, 1.5},
      {1, 1, {20, 2}, 2, {0}, 0, 5.25, 16},
      {1, 1, {6, 2, 2}, 3, {1}, 1, 0.7, 7},
  };
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    struct simc_model model;
    struct pid_settings s = {0};
    simc_reduce(&model, 1, rows[i].gain, rows[i].delay, rows[i].lags, rows[i].lag_count, rows[i].zeros,
                rows[i].zero_count, 0);
    simc_tune(&model, model.delay, &s);
    assert_near(s.gain, rows[i].kc, 0.01);
    assert_near(s.integral_s, rows[i].integral_s, 0.01);
    assert_true(s.derivative_s == 0);
  }
}

/* The table gives the series form; ideal = series x (1 + tauD / tauI). */
static void half_rule_gives_skogestads_pid_settings(void **state) {
  (void)state;
  static const struct {
    double delay, lags[4];
    size_t lag_count;
    double kc, integral_s, derivative_s;
  } rows[] = {
      {1, {20, 2}, 2, 10, 8, 2},
      {0, {1, 0.2, 0.04, 0.008}, 4, 17.9, 0.224, 0.22},
      {1, {1, 1}, 2, 0.5, 1, 1},
  };
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    struct simc_model model;
    struct pid_settings s = {0};
    simc_reduce(&model, 2, 1, rows[i].delay, rows[i].lags, rows[i].lag_count, NULL, 0, 0);
    simc_tune(&model, model.delay, &s);
    double ideal = 1 + rows[i].derivative_s / rows[i].integral_s;
    assert_near(s.gain, rows[i].kc * ideal, 0.02);
    assert_near(s.integral_s, rows[i].integral_s * ideal, 0.02);
    assert_near(s.derivative_s, rows[i].derivative_s / ideal, 0.02);
  }
}

static void half_of_the_sampling_period_counts_as_delay(void **state) {
  (void)state;
  struct simc_model model;
  simc_reduce(&model, 1, 2, 1, (double[]){5}, 1, NULL, 0, 1);
  assert_near(model.delay, 1.5, 1e-12);
  assert_near(model.gain, 2, 1e-12);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(margins_of_first_order_plants_are_those_of_the_table),
      cmocka_unit_test(margins_of_an_integrating_plant_are_those_of_the_table),
      cmocka_unit_test(half_rule_gives_skogestads_pi_settings),
      cmocka_unit_test(half_rule_gives_skogestads_pid_settings),
      cmocka_unit_test(half_of_the_sampling_period_counts_as_delay),
  };
  return cmocka_run_group_tests_name("simc", tests, NULL, NULL);
}
