#include "control/breaker_tuner.h"

#include "sys/rng.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static void feed(struct breaker_tuner *t, double a_second, double rate, int seconds) {
  for (int i = 0; i < seconds; i++)
    breaker_tuner_observe(t, a_second, a_second * rate, 1);
}

static void wilson_bound_matches_known_values(void **state) {
  (void)state;
  assert_true(fabs(breaker_tuner_upper(0, 10) - 0.27753) < 1e-5);
  assert_true(fabs(breaker_tuner_upper(5, 10) - 0.76341) < 1e-5);
  assert_true(fabs(breaker_tuner_upper(1, 100) - 0.05449) < 1e-5);
  assert_true(breaker_tuner_upper(0, 0) == 1);
}

static void threshold_is_the_least_with_less_than_one_false_opening_a_day(void **state) {
  (void)state;
  static const double rates[] = {0.0001, 0.01, 0.05, 0.1, 0.3};
  double before = 3;
  for (int i = 0; i < 5; i++) {
    struct breaker_tuner t;
    struct decision d;
    breaker_tuner_init(&t);
    feed(&t, 5, rates[i], 86400);
    breaker_tuner_decide(&t, 1, 5, &d);
    double upper = breaker_tuner_upper(t.failures, t.attempts), daily = 5 * 86400;
    assert_true(daily * pow(upper, d.value) < 1.001);
    if (d.value > 3) assert_true(daily * pow(upper, d.value - 1) >= 0.999);
    assert_true(d.value >= before);
    before = d.value;
  }
  assert_true(before == 11);
}

static void few_attempts_hold(void **state) {
  (void)state;
  struct breaker_tuner t;
  struct decision d;
  breaker_tuner_init(&t);
  feed(&t, 1, 0, 299);
  breaker_tuner_decide(&t, 1, 7, &d);
  assert_true(d.blind);
  assert_true(d.value == 7);
}

static void the_worst_provider_decides(void **state) {
  (void)state;
  struct breaker_tuner t[3];
  struct decision d, alone;
  for (int i = 0; i < 3; i++)
    breaker_tuner_init(&t[i]);
  feed(&t[0], 5, 0.001, 3600);
  feed(&t[1], 5, 0.2, 3600);
  breaker_tuner_decide(t, 3, 5, &d);
  breaker_tuner_decide(&t[1], 1, 5, &alone);
  assert_true(d.value == alone.value);
  assert_true(d.value > 3);
}

static void threshold_stays_between_three_and_twenty(void **state) {
  (void)state;
  struct breaker_tuner t;
  struct decision d;
  breaker_tuner_init(&t);
  feed(&t, 100, 0.9, 3600);
  breaker_tuner_decide(&t, 1, 5, &d);
  assert_true(d.value == 20);
  breaker_tuner_init(&t);
  feed(&t, 1000, 0, 86400);
  breaker_tuner_decide(&t, 1, 5, &d);
  assert_true(d.value == 3);
}

static void impossible_counts_are_left_out(void **state) {
  (void)state;
  struct breaker_tuner t;
  breaker_tuner_init(&t);
  breaker_tuner_observe(&t, 5, 6, 1);
  breaker_tuner_observe(&t, NAN, 0, 1);
  breaker_tuner_observe(&t, INFINITY, 0, 1);
  breaker_tuner_observe(&t, 5, -1, 1);
  breaker_tuner_observe(&t, 5, 1, 0);
  assert_true(t.attempts == 0 && t.failures == 0 && t.seconds == 0);
}

static void healthy_provider_opens_less_than_once_a_day(void **state) {
  (void)state;
  struct rng rng;
  rng_seed(&rng, 5, 1);
  struct breaker_tuner t;
  struct decision d;
  breaker_tuner_init(&t);
  int opened = 0, in_a_row = 0;
  for (int i = 0; i < 10 * 86400; i++) {
    bool failed = rng_uniform(&rng) < 0.05;
    breaker_tuner_observe(&t, 1, failed, 1);
    breaker_tuner_decide(&t, 1, 5, &d);
    in_a_row = failed ? in_a_row + 1 : 0;
    if (i < 3600 || in_a_row < d.value) continue;
    opened++;
    in_a_row = 0;
  }
  assert_true(opened < 10);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(wilson_bound_matches_known_values),
      cmocka_unit_test(threshold_is_the_least_with_less_than_one_false_opening_a_day),
      cmocka_unit_test(few_attempts_hold),
      cmocka_unit_test(the_worst_provider_decides),
      cmocka_unit_test(threshold_stays_between_three_and_twenty),
      cmocka_unit_test(impossible_counts_are_left_out),
      cmocka_unit_test(healthy_provider_opens_less_than_once_a_day),
  };
  return cmocka_run_group_tests_name("breaker_tuner", tests, NULL, NULL);
}
