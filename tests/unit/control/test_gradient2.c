#include "control/gradient2.h"

#include "sys/rng.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#define S INT64_C(1000000000)

/* One tick that fills a window. */
static double window(struct gradient2 *g, const struct gradient2_settings *s, int64_t second, double ms,
                     uint32_t in_flight) {
  struct decision d;
  struct gradient2_sample sample = {
      .now_ns = second * S, .mean_ms = ms, .samples = 20, .in_flight = in_flight};
  gradient2_update(g, s, &sample, &d);
  gradient2_applied(g, s, d.value);
  return d.value;
}

static void warm_mean_matches_the_published_vector(void **state) {
  (void)state;
  struct warm_mean m = {0};
  for (int i = 0; i < 10; i++)
    assert_true(fabs(warm_mean_add(&m, 100, 10, 10 + i) - (10 + i / 2.0)) < 1e-12);
  assert_true(fabs(warm_mean_add(&m, 100, 10, 100) - 16.2) < 0.01);
}

static void steady_latency_raises_the_limit_by_the_published_formula(void **state) {
  (void)state;
  struct gradient2 g;
  gradient2_init(&g, &gradient2_defaults, 20);
  window(&g, &gradient2_defaults, 0, 100, 20);
  double expected = 20;
  for (int i = 1; i <= 20; i++) {
    expected = 0.8 * expected + 0.2 * (expected * 1.0 + 4);
    assert_true(window(&g, &gradient2_defaults, i, 100, 100) == floor(expected + 1e-9));
  }
}

static void tripled_latency_lowers_the_limit_by_the_gradient(void **state) {
  (void)state;
  struct gradient2 g;
  gradient2_init(&g, &gradient2_defaults, 100);
  for (int i = 0; i < 11; i++)
    window(&g, &gradient2_defaults, i, 100, 0);
  double usual = (g.long_ms.value * 599 + 300 * 2) / 601; /* g.long_ms has ten windows by now */
  double expected = 0.8 * 100 + 0.2 * (100 * fmax(0.5, 1.5 * usual / 300) + 4);
  assert_true(window(&g, &gradient2_defaults, 11, 300, 100) == floor(expected));
}

static void gradient_is_never_below_one_half(void **state) {
  (void)state;
  struct gradient2 g;
  gradient2_init(&g, &gradient2_defaults, 100);
  for (int i = 0; i < 11; i++)
    window(&g, &gradient2_defaults, i, 100, 0);
  assert_true(window(&g, &gradient2_defaults, 11, 1e6, 100) == floor(0.8 * 100 + 0.2 * (50 + 4)));
}

static void long_term_latency_learned_under_load_is_pulled_down(void **state) {
  (void)state;
  struct gradient2 g;
  gradient2_init(&g, &gradient2_defaults, 100);
  for (int i = 0; i < 11; i++)
    window(&g, &gradient2_defaults, i, 1000, 0);
  double before = g.long_ms.value;
  window(&g, &gradient2_defaults, 11, 100, 0);
  double mean = before * (1 - 2.0 / 601) + 100 * 2.0 / 601;
  assert_true(fabs(g.long_ms.value - 0.95 * mean) < 1e-9);
}

static void limit_that_does_not_bind_stays(void **state) {
  (void)state;
  struct gradient2 g;
  gradient2_init(&g, &gradient2_defaults, 100);
  for (int i = 0; i < 600; i++)
    assert_true(window(&g, &gradient2_defaults, i, i < 300 ? 100 : 900, 49) == 100);
}

static void window_needs_ten_answers_and_one_second(void **state) {
  (void)state;
  struct gradient2 g;
  struct decision d;
  gradient2_init(&g, &gradient2_defaults, 100);
  struct gradient2_sample few = {.mean_ms = 100, .samples = 3, .in_flight = 100};
  for (int i = 0; i < 3; i++) {
    few.now_ns = i * S;
    gradient2_update(&g, &gradient2_defaults, &few, &d);
    assert_false(d.blind);
    assert_true(g.limit == 100);
  }
  few.now_ns = 3 * S;
  gradient2_update(&g, &gradient2_defaults, &few, &d);
  assert_true(fabs(g.limit - 100.8) < 1e-9);
  few = (struct gradient2_sample){.now_ns = 3 * S + S / 2, .mean_ms = 100, .samples = 50, .in_flight = 100};
  gradient2_update(&g, &gradient2_defaults, &few, &d);
  assert_true(fabs(g.limit - 100.8) < 1e-9);
}

static void answers_of_a_window_that_did_not_fill_in_time_are_forgotten(void **state) {
  (void)state;
  struct gradient2 g;
  struct decision d;
  gradient2_init(&g, &gradient2_defaults, 20);
  struct gradient2_sample few = {.now_ns = S, .mean_ms = 1000, .samples = 5, .in_flight = 20};
  gradient2_update(&g, &gradient2_defaults, &few, &d);
  window(&g, &gradient2_defaults, 62, 100, 20);
  window(&g, &gradient2_defaults, 63, 100, 20);
  assert_true(g.long_ms.value == 100);
}

static void the_least_latency_is_forgotten_in_time(void **state) {
  (void)state;
  struct gradient2 g;
  gradient2_init(&g, &gradient2_defaults, 20);
  for (int i = 0; i < 1000; i++)
    window(&g, &gradient2_defaults, i, i < 10 ? 100 : 200, 0);
  assert_true(g.least_ms == 200);
}

static void no_answers_hold_and_say_so(void **state) {
  (void)state;
  struct gradient2 g;
  struct decision d;
  gradient2_init(&g, &gradient2_defaults, 64);
  for (int i = 0; i < 3600; i++) {
    struct gradient2_sample none = {.now_ns = i * S, .mean_ms = NAN};
    gradient2_update(&g, &gradient2_defaults, &none, &d);
    assert_true(d.blind);
    assert_false(d.change);
    assert_true(d.value == 64);
  }
}

static void restart_goes_on_from_the_applied_limit(void **state) {
  (void)state;
  struct gradient2 g;
  gradient2_init(&g, &gradient2_defaults, 100);
  window(&g, &gradient2_defaults, 0, 100, 100);
  window(&g, &gradient2_defaults, 1, 100, 100);
  gradient2_applied(&g, &gradient2_defaults, 30);
  assert_true(window(&g, &gradient2_defaults, 2, 100, 30) == 30); /* 30.8 */
  assert_true(window(&g, &gradient2_defaults, 3, 100, 30) == 31); /* 31.6: fractions add up */
}

static void target_cuts_a_limit_that_the_gradient_would_leave_too_high(void **state) {
  (void)state;
  struct gradient2_settings s = gradient2_defaults;
  s.target_ms = 500;
  struct gradient2 g;
  gradient2_init(&g, &s, 100);
  for (int i = 0; i < 20; i++)
    window(&g, &s, i, 200, 0);
  double limit = 100;
  for (int i = 20; i < 60; i++)
    limit = window(&g, &s, i, 1000, (uint32_t)limit);
  assert_true(limit <= 5);
}

static void target_leaves_a_provider_alone_that_is_slow_when_idle(void **state) {
  (void)state;
  struct gradient2_settings s = gradient2_defaults;
  s.target_ms = 500;
  struct gradient2 g;
  gradient2_init(&g, &s, 100);
  for (int i = 0; i < 100; i++)
    assert_true(window(&g, &s, i, 900, 100) >= 100);
}

/* A hosted provider just above the target, whatever its load: means of 20 lognormal answers, now and then
 * with a long one among them. The least of them all is a lucky window. */
static void noise_of_a_provider_is_not_taken_for_load(void **state) {
  (void)state;
  struct rng rng;
  rng_seed(&rng, 3, 1);
  struct gradient2_settings s = gradient2_defaults;
  s.target_ms = 400;
  s.queue = 1;
  s.least_over = 10;
  struct gradient2 g;
  gradient2_init(&g, &s, 64);
  double limit = 64, least = 64;
  for (int i = 0; i < 3600; i++) {
    double sum = 0;
    for (int k = 0; k < 20; k++)
      sum += 384 * exp(0.5 * rng_normal(&rng));
    if (i == 0) sum /= 2; /* those that come first are the quick ones */
    limit = window(&g, &s, i, sum / 20, (uint32_t)limit);
    least = fmin(least, limit);
  }
  assert_true(least > 32);
}

/* A server with 8 slots and a queue of 16 that refuses more: no more than 24 are ever in flight. */
static void overload_far_below_the_limit_brings_it_down(void **state) {
  (void)state;
  struct gradient2_settings s = gradient2_defaults;
  s.target_ms = 1000;
  struct gradient2 g;
  gradient2_init(&g, &s, 64);
  double limit = 64, sum = 0;
  for (int i = 0; i < 300; i++) {
    double in_flight = fmin(limit, 24), queue = fmax(0, in_flight - 8);
    limit = window(&g, &s, i, i < 5 ? 100 : 100 + 5000 * queue / 16, (uint32_t)in_flight);
    if (i >= 100) sum += limit;
  }
  assert_true(sum / 200 > 7 && sum / 200 < 14);
}

static void slow_windows_now_and_then_leave_a_limit_that_does_not_bind(void **state) {
  (void)state;
  struct gradient2_settings s = gradient2_defaults;
  s.target_ms = 1000;
  struct gradient2 g;
  gradient2_init(&g, &s, 64);
  for (int i = 0; i < 300; i++)
    assert_true(window(&g, &s, i, i % 5 < 2 ? 3000 : 100, 5) == 64);
}

/* A server with 32 slots: TTFT 100 ms, and a queue beyond. Offered load is twice what it can carry. */
static void overload_settles_near_the_knee(void **state) {
  (void)state;
  struct rng rng;
  rng_seed(&rng, 1, 1);
  struct gradient2_settings s = gradient2_defaults;
  s.target_ms = 1000;
  struct gradient2 g;
  gradient2_init(&g, &s, 64);
  double limit = 64, sum = 0;
  for (int i = 0; i < 1200; i++) {
    double queue = fmax(0, limit - 32), ttft = 100 + 5000 * queue / 32;
    limit = window(&g, &s, i, ttft * exp(0.1 * rng_normal(&rng)), (uint32_t)limit);
    if (i >= 200) sum += limit;
  }
  assert_true(sum / 1000 > 28 && sum / 1000 < 42);
}

static void limit_stays_in_its_range_for_any_latency(void **state) {
  (void)state;
  struct rng rng;
  rng_seed(&rng, 2, 1);
  struct gradient2 g;
  gradient2_init(&g, &gradient2_defaults, NAN);
  assert_true(g.limit == 1);
  for (int i = 0; i < 100000; i++) {
    double ms = exp(20 * rng_uniform(&rng) - 5);
    double limit = window(&g, &gradient2_defaults, i, rng_below(&rng, 10) ? ms : INFINITY, 1000);
    assert_true(limit >= 1 && limit <= 1000 && limit == floor(limit));
  }
}

static void reason_names_the_figures(void **state) {
  (void)state;
  struct gradient2 g;
  struct decision d;
  gradient2_init(&g, &gradient2_defaults, 20);
  window(&g, &gradient2_defaults, 0, 100, 20);
  struct gradient2_sample sample = {.now_ns = S, .mean_ms = 100, .samples = 20, .in_flight = 20};
  gradient2_update(&g, &gradient2_defaults, &sample, &d);
  assert_string_equal(d.reason, "latency 100.0 ms against usual 100.0 ms: gradient 1.00, 20 in flight");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(warm_mean_matches_the_published_vector),
      cmocka_unit_test(steady_latency_raises_the_limit_by_the_published_formula),
      cmocka_unit_test(tripled_latency_lowers_the_limit_by_the_gradient),
      cmocka_unit_test(gradient_is_never_below_one_half),
      cmocka_unit_test(long_term_latency_learned_under_load_is_pulled_down),
      cmocka_unit_test(limit_that_does_not_bind_stays),
      cmocka_unit_test(window_needs_ten_answers_and_one_second),
      cmocka_unit_test(answers_of_a_window_that_did_not_fill_in_time_are_forgotten),
      cmocka_unit_test(the_least_latency_is_forgotten_in_time),
      cmocka_unit_test(no_answers_hold_and_say_so),
      cmocka_unit_test(restart_goes_on_from_the_applied_limit),
      cmocka_unit_test(target_cuts_a_limit_that_the_gradient_would_leave_too_high),
      cmocka_unit_test(target_leaves_a_provider_alone_that_is_slow_when_idle),
      cmocka_unit_test(noise_of_a_provider_is_not_taken_for_load),
      cmocka_unit_test(overload_far_below_the_limit_brings_it_down),
      cmocka_unit_test(slow_windows_now_and_then_leave_a_limit_that_does_not_bind),
      cmocka_unit_test(overload_settles_near_the_knee),
      cmocka_unit_test(limit_stays_in_its_range_for_any_latency),
      cmocka_unit_test(reason_names_the_figures),
  };
  return cmocka_run_group_tests_name("gradient2", tests, NULL, NULL);
}
