#include "control/buffers.h"

#include "sys/rng.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static double tick(struct buffers *b, const struct buffers_settings *s, double requests, double depth,
                   double current, struct decision *d) {
  struct buffers_sample sample = {.requests = requests, .dt_s = 1, .depth = depth, .current = current};
  buffers_update(b, s, &sample, d);
  return d->value;
}

static void no_traffic_holds_for_an_hour(void **state) {
  (void)state;
  struct buffers b;
  struct decision d;
  buffers_init(&b);
  for (int i = 0; i < 100; i++)
    tick(&b, &buffers_stage, 20, 0, 128, &d);
  for (int i = 0; i < 3600; i++) {
    assert_true(tick(&b, &buffers_stage, i % 2 ? 0 : NAN, 0, 128, &d) == 128);
    assert_true(d.blind);
  }
  assert_true(tick(&b, &buffers_stage, 20, 0, 128, &d) == 128);
  assert_true(b.peak_rate > 19);
}

static void capacity_is_rate_times_seconds_times_safety_rounded_up(void **state) {
  (void)state;
  static const double rows[][2] = {{10, 64},   {12, 96}, {15, 96},    {30, 192},
                                   {100, 768}, {1, 64},  {1000, 4096}};
  for (int k = 0; k < 7; k++) {
    struct buffers b;
    struct decision d;
    buffers_init(&b);
    double capacity = 8;
    for (int i = 0; i < 60; i++)
      capacity = tick(&b, &buffers_stage, rows[k][0], 0, capacity, &d);
    assert_true(capacity == rows[k][1]);
  }
}

static void capacity_never_falls_below_what_is_in_use(void **state) {
  (void)state;
  struct buffers b;
  struct decision d;
  buffers_init(&b);
  for (int i = 0; i < 60; i++)
    assert_true(tick(&b, &buffers_stage, 1, 400, 512, &d) >= 400);
}

static void stationary_bursty_traffic_settles(void **state) {
  (void)state;
  struct rng rng;
  rng_seed(&rng, 3, 1);
  struct buffers b;
  struct decision d;
  buffers_init(&b);
  double capacity = 1024;
  int changes = 0;
  for (int i = 0; i < 86400; i++) {
    double before = capacity, arrivals = floor(rng_exponential(&rng, 5));
    capacity = tick(&b, &buffers_stage, arrivals, 0, capacity, &d);
    if (i > 3600) changes += capacity != before;
  }
  assert_true(changes <= 24);
  assert_true(capacity >= 64 && capacity <= 192);
}

static void where_requests_wait_as_many_fit_as_are_served_in_time(void **state) {
  (void)state;
  static const double rows[][3] = {{2, 5, 64}, {2, 40, 96}, {2, 100, 256}, {10, 100, 1024}, {0.5, 100, 64}};
  for (int k = 0; k < 5; k++) {
    struct buffers_settings settings = buffers_waiting(rows[k][0]);
    struct buffers b;
    struct decision d;
    buffers_init(&b);
    double capacity = 1024;
    for (int i = 0; i < 60; i++)
      capacity = tick(&b, &settings, rows[k][1], 0, capacity, &d);
    assert_true(capacity == rows[k][2]);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(no_traffic_holds_for_an_hour),
      cmocka_unit_test(capacity_is_rate_times_seconds_times_safety_rounded_up),
      cmocka_unit_test(capacity_never_falls_below_what_is_in_use),
      cmocka_unit_test(stationary_bursty_traffic_settles),
      cmocka_unit_test(where_requests_wait_as_many_fit_as_are_served_in_time),
  };
  return cmocka_run_group_tests_name("buffers", tests, NULL, NULL);
}
