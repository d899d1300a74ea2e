#include "control/autoscaler.h"

#include "sys/rng.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#define S INT64_C(1000000000)
static const double one_load = 4.0 / 3; /* a limit of which the target share is one unit of load */

/* A provider whose instances take `start_s` to be ready; applies what is decided. */
struct fleet {
  struct autoscaler scaler;
  struct autoscaler_settings settings;
  struct autoscaler_sample sample;
  struct decision decision;
  int64_t second, started[64];
  int start_s, changes;
};

static void fleet_init(struct fleet *f, uint32_t instances, int start_s) {
  memset(f, 0, sizeof *f);
  f->settings = autoscaler_defaults;
  f->start_s = start_s;
  autoscaler_init(&f->scaler, &f->settings);
  f->sample = (struct autoscaler_sample){.limit_per_instance = one_load,
                                         .wanted = instances,
                                         .ready = instances,
                                         .min = 1,
                                         .max = 20,
                                         .data_ok = true,
                                         .gain_per_hour = NAN,
                                         .cost_per_hour = NAN};
  for (int i = 0; i < 64; i++)
    f->started[i] = -1000;
}

static void count_ready(struct fleet *f) {
  uint32_t ready = 0;
  for (uint32_t i = 0; i < f->sample.wanted; i++)
    ready += f->second - f->started[i] >= f->start_s;
  f->sample.ready = ready;
  f->sample.starting = f->sample.wanted - ready;
}

static uint32_t fleet_tick(struct fleet *f, double in_flight) {
  count_ready(f);
  f->sample.now_ns = f->second * S;
  f->sample.in_flight = in_flight;
  autoscaler_update(&f->scaler, &f->settings, &f->sample, &f->decision);
  double value = f->decision.value;
  assert_true(value == floor(value) && value >= 0 && value <= 64);
  if (f->sample.max >= f->sample.min) assert_true(value >= f->sample.min && value <= f->sample.max);
  if (f->decision.change) {
    for (uint32_t i = f->sample.wanted; i < value; i++)
      f->started[i] = f->second;
    f->sample.wanted = (uint32_t)value;
    f->changes++;
    autoscaler_changed(&f->scaler, f->sample.now_ns);
  }
  f->second++;
  return f->sample.wanted;
}

static void unknown_load_holds_and_says_so(void **state) {
  (void)state;
  static const double unknown[] = {NAN, INFINITY, -INFINITY, -8, NAN};
  for (int k = 0; k < 5; k++) {
    struct fleet f;
    fleet_init(&f, 8, 60);
    for (int i = 0; i < 600; i++)
      assert_int_equal(fleet_tick(&f, 8), 8);
    f.sample.data_ok = k != 4;
    for (int i = 0; i < 120; i++) {
      assert_int_equal(fleet_tick(&f, unknown[k]), 8);
      assert_true(f.decision.blind);
      assert_non_null(strstr(f.decision.reason, "unknown"));
    }
  }
}

static void capacity_survives_a_gap_longer_than_the_window(void **state) {
  (void)state;
  struct fleet f;
  fleet_init(&f, 8, 60);
  for (int i = 0; i < 600; i++)
    fleet_tick(&f, 8);
  for (int i = 0; i < 900; i++)
    fleet_tick(&f, NAN);
  for (int i = 0; i < 200; i++)
    assert_int_equal(fleet_tick(&f, 1), 8);
}

static void noise_around_the_target_changes_at_most_twice_an_hour(void **state) {
  (void)state;
  for (uint64_t seed = 1; seed <= 20; seed++) {
    struct rng rng;
    rng_seed(&rng, seed, 1);
    struct fleet f;
    fleet_init(&f, 8, 60);
    for (int i = 0; i < 3600; i++)
      fleet_tick(&f, 7.6 + 0.8 * rng_uniform(&rng));
    assert_true(f.changes <= 2);
  }
}

static void step_with_slow_start_does_not_overshoot(void **state) {
  (void)state;
  struct fleet f;
  fleet_init(&f, 1, 60);
  for (int i = 0; i < 60; i++)
    fleet_tick(&f, 1);
  uint32_t most = 0, ready_at_180 = 0;
  for (int i = 0; i < 900; i++) {
    uint32_t wanted = fleet_tick(&f, 10);
    if (wanted > most) most = wanted;
    if (i == 179) ready_at_180 = f.sample.ready;
  }
  assert_true(most <= 12);
  assert_true(ready_at_180 >= 9 && ready_at_180 <= 11);
  assert_true(f.sample.wanted >= 9 && f.sample.wanted <= 11);
}

/* In flight is cut by the limit, and what is refused knocks again. */
static void refusals_scale_up_without_running_away(void **state) {
  (void)state;
  struct fleet f;
  fleet_init(&f, 1, 30);
  f.sample.limit_per_instance = 8;
  uint32_t most = 0;
  for (int i = 0; i < 1200; i++) {
    count_ready(&f);
    double offered = i < 60 ? 4 : 48, capacity = 8.0 * f.sample.ready, served = fmin(offered, capacity);
    f.sample.arrivals = served / 2;
    f.sample.refused = (offered - served) * 5;
    uint32_t wanted = fleet_tick(&f, served);
    if (wanted > most) most = wanted;
  }
  assert_true(f.sample.ready >= 6);
  assert_true(most <= 16);
  assert_true(f.sample.wanted <= 9);
}

static void no_load_goes_to_the_floor_after_the_window_and_not_below(void **state) {
  (void)state;
  struct fleet f;
  fleet_init(&f, 10, 60);
  for (int i = 0; i < 600; i++)
    fleet_tick(&f, 10);
  int64_t at = -1, last = f.second - 1000;
  for (int i = 0; i < 600; i++) {
    uint32_t before = f.sample.wanted, now = fleet_tick(&f, 0);
    if (now != before) {
      assert_true(f.second - last >= 60);
      last = f.second;
    }
    if (i < 250) assert_int_equal(now, 10);
    if (now == 1 && at < 0) at = i;
  }
  assert_int_equal(f.sample.wanted, 1);
  assert_true(at >= 0);
}

static void instances_that_never_start_do_not_stop_it_for_ever(void **state) {
  (void)state;
  struct fleet f;
  fleet_init(&f, 1, 100000);
  for (f.second = 100000 - 1000; f.second < 100000; f.second++)
    fleet_tick(&f, 20);
  assert_true(f.changes >= 2);
}

static void ceiling_below_floor_is_refused(void **state) {
  (void)state;
  struct fleet f;
  fleet_init(&f, 8, 60);
  for (int i = 0; i < 60; i++)
    fleet_tick(&f, 8);
  f.sample.min = 5;
  f.sample.max = 2;
  assert_int_equal(fleet_tick(&f, 8), 8);
  assert_true(f.decision.blind);
  assert_non_null(strstr(f.decision.reason, "refused"));
}

static void new_bounds_apply_at_once(void **state) {
  (void)state;
  struct fleet f;
  fleet_init(&f, 8, 60);
  f.sample.max = 3;
  assert_int_equal(fleet_tick(&f, 8), 3);
  f.sample.min = f.sample.max = 5;
  assert_int_equal(fleet_tick(&f, 8), 5);
}

static void saturation_is_answered_within_twenty_seconds_of_a_change(void **state) {
  (void)state;
  struct fleet f;
  fleet_init(&f, 2, 0);
  autoscaler_changed(&f.scaler, 0);
  f.sample.limit_per_instance = 8;
  f.sample.arrivals = 8;
  f.sample.refused = 4;
  for (int i = 0; i < 20; i++)
    fleet_tick(&f, 16);
  assert_true(f.sample.wanted >= 3);
}

static void instance_that_gains_less_than_it_costs_is_not_started(void **state) {
  (void)state;
  struct fleet f;
  fleet_init(&f, 1, 0);
  f.sample.gain_per_hour = 0.5;
  f.sample.cost_per_hour = 2;
  for (int i = 0; i < 300; i++)
    assert_int_equal(fleet_tick(&f, 5), 1);
  assert_non_null(strstr(f.decision.reason, "gains"));
  f.sample.gain_per_hour = 3;
  for (int i = 0; i < 30; i++)
    fleet_tick(&f, 5);
  assert_true(f.sample.wanted >= 5);
}

static void instance_not_worth_its_price_leaves_sooner(void **state) {
  (void)state;
  int left[2] = {-1, -1};
  for (int k = 0; k < 2; k++) {
    struct fleet f;
    fleet_init(&f, 6, 0);
    if (k == 1) f.sample.gain_per_hour = 0.1, f.sample.cost_per_hour = 1;
    for (int i = 0; i < 600; i++)
      fleet_tick(&f, 6);
    for (int i = 0; i < 900 && left[k] < 0; i++)
      if (fleet_tick(&f, 1) < 6) left[k] = i;
  }
  assert_true(left[1] > 0 && left[1] <= 180);
  assert_true(left[0] >= 300 && left[0] <= 360);
}

static void provider_without_instances_starts_one_for_the_first_request(void **state) {
  (void)state;
  struct fleet f;
  fleet_init(&f, 0, 30);
  f.sample.min = 0;
  for (int i = 0; i < 600; i++)
    assert_int_equal(fleet_tick(&f, 0), 0);
  f.sample.refused = 1;
  assert_true(fleet_tick(&f, 0) >= 1);
}

/* Ten-minute rates that double and fall, as a day of ServeGen does, with Poisson-like noise in flight. */
static void daily_swing_is_followed_with_few_changes(void **state) {
  (void)state;
  struct rng rng;
  rng_seed(&rng, 7, 1);
  struct fleet f;
  fleet_init(&f, 4, 60);
  f.sample.limit_per_instance = 8;
  double calls = 24;
  int short_s = 0;
  for (int i = 0; i < 86400; i++) {
    double mean = 6 * 5 * (1 + 0.6 * sin(i * 2 * M_PI / 86400)) * (1 + 0.1 * sin(i / 600.0));
    calls += (mean - calls) / 10 + sqrt(mean / 5) * rng_normal(&rng);
    if (calls < 0) calls = 0;
    double capacity = 8.0 * f.sample.ready, served = fmin(calls, capacity);
    f.sample.arrivals = fmax(1, served / 10);
    f.sample.refused = fmax(0, calls - capacity) / 10;
    short_s += calls > capacity;
    fleet_tick(&f, served);
  }
  assert_true(f.changes <= 60);
  assert_true(short_s < 86400 / 100);
}

static void azure_like_bursts_do_not_make_it_flap(void **state) {
  (void)state;
  struct fleet f;
  fleet_init(&f, 2, 60);
  f.sample.limit_per_instance = 8;
  double calls = 4;
  for (int i = 0; i < 3600; i++) {
    double mean = i % 300 < 20 ? 40 : 4; /* twenty seconds in five minutes */
    calls += (mean - calls) / 5;
    double capacity = 8.0 * f.sample.ready, served = fmin(calls, capacity);
    f.sample.arrivals = served / 5;
    f.sample.refused = fmax(0, calls - capacity) / 5;
    fleet_tick(&f, served);
  }
  assert_true(f.changes <= 6);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(unknown_load_holds_and_says_so),
      cmocka_unit_test(capacity_survives_a_gap_longer_than_the_window),
      cmocka_unit_test(noise_around_the_target_changes_at_most_twice_an_hour),
      cmocka_unit_test(step_with_slow_start_does_not_overshoot),
      cmocka_unit_test(refusals_scale_up_without_running_away),
      cmocka_unit_test(no_load_goes_to_the_floor_after_the_window_and_not_below),
      cmocka_unit_test(instances_that_never_start_do_not_stop_it_for_ever),
      cmocka_unit_test(ceiling_below_floor_is_refused),
      cmocka_unit_test(new_bounds_apply_at_once),
      cmocka_unit_test(saturation_is_answered_within_twenty_seconds_of_a_change),
      cmocka_unit_test(instance_that_gains_less_than_it_costs_is_not_started),
      cmocka_unit_test(instance_not_worth_its_price_leaves_sooner),
      cmocka_unit_test(provider_without_instances_starts_one_for_the_first_request),
      cmocka_unit_test(daily_swing_is_followed_with_few_changes),
      cmocka_unit_test(azure_like_bursts_do_not_make_it_flap),
  };
  return cmocka_run_group_tests_name("autoscaler", tests, NULL, NULL);
}
