#include "bus/counters.h"
#include "bus/objective.h"
#include "bus/sketch.h"
#include "bus/telemetry.h"
#include "bus/tunables.h"
#include "sys/rng.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { SHAPES = 12, MOST = 1000 };

static double shape(int which, int i, int n, struct rng *r) {
  switch (which) {
  case 0:
    return i + 1;
  case 1:
    return n - i;
  case 2:
    return i % 2 ? n / 2 + i / 2 + 1 : n / 2 - i / 2 + 1;
  case 3:
    return i % 2 ? n - i / 2 + 1 : i / 2 + 1;
  case 4:
    return sqrt(i + 1);
  case 5:
    return 42;
  case 6:
    return rng_exponential(r, 100) + 0.01;
  case 7:
    return exp(rng_normal(r));
  case 8:
    return fabs(37.4 + rng_normal(r)) + 0.01;
  case 9:
    return rng_below(r, 2) ? 17.3 + fabs(rng_normal(r)) : 1000 + fabs(rng_normal(r));
  case 10:
    return pow(10, rng_uniform(r) * 6 - 2);
  default:
    return (double)rng_below(r, 10) + 1;
  }
}

static int ascending(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static void quantiles_are_within_one_percent_on_all_shapes_and_after_merging(void **state) {
  (void)state;
  static const double quantiles[] = {0, .1, .25, .5, .75, .9, .95, .99, .999, 1};
  static const int sizes[] = {3, 5, 10, 100, 1000};
  static struct sketch whole, half[2];
  struct rng r;
  rng_seed(&r, 5, 0);
  for (int which = 0; which < SHAPES; which++)
    for (size_t s = 0; s < 5; s++) {
      double values[MOST];
      sketch_clear(&whole);
      sketch_clear(&half[0]);
      sketch_clear(&half[1]);
      for (int i = 0; i < sizes[s]; i++) {
        values[i] = shape(which, i, sizes[s], &r);
        sketch_add(&whole, values[i]);
        sketch_add(&half[i % 2], values[i]);
      }
      sketch_merge(&half[0], &half[1]);
      assert_memory_equal(whole.bins, half[0].bins, sizeof whole.bins);
      assert_int_equal(whole.count, half[0].count);
      qsort(values, (size_t)sizes[s], sizeof *values, ascending);
      for (size_t q = 0; q < 10; q++) {
        double exact = values[(int)(quantiles[q] * (sizes[s] - 1))];
        assert_true(fabs(sketch_quantile(&whole, quantiles[q]) - exact) <= 0.01 * exact + 1e-9);
      }
    }
}

static void an_empty_sketch_says_no_data(void **state) {
  (void)state;
  static struct sketch s;
  assert_true(isnan(sketch_quantile(&s, 0.5)) && isnan(sketch_mean(&s)));
  sketch_add(&s, 1e-9);
  sketch_add(&s, 1e30);
  sketch_add(&s, NAN);
  assert_int_equal(s.count, 2);
  sketch_clear(&s);
  for (int i = 0; i < SKETCH_BINS; i++)
    assert_int_equal(s.bins[i], 0);
  assert_int_equal(sketch_at_most(&s, 5), 0);
}

static void every_row_of_the_table_is_sane(void **state) {
  (void)state;
  for (int id = 0; id < TUNABLES; id++) {
    const struct tunable_info *t = &tunable_infos[id];
    assert_true(t->min <= t->initial && t->initial <= t->max && t->step > 0 && t->cooldown_s > 0 &&
                t->window_s > 0);
    assert_true(t->kind == TUNABLE_REAL || t->initial == round(t->initial));
    assert_true((t->owner == OWNER_PERSON) == (t->measured[0] == '\0'));
    assert_true((t->owner == OWNER_PERSON) == (t->sign == 0));
    assert_true(strlen(t->help) > 10 && strlen(t->toml) > 0);
    for (int other = 0; other < id; other++)
      assert_string_not_equal(t->name, tunable_infos[other].name);
  }
}

static void names_find_their_key_and_back(void **state) {
  (void)state;
  static const char providers[2][NAME_SIZE] = {"a", "b.c"};
  struct tunable_key key;
  char name[2 * NAME_SIZE];
  assert_int_equal(tunable_find("retry_attempts", providers, 2, &key), 0);
  assert_int_equal(key.id, TUNABLE_retry_attempts);
  assert_int_equal(tunable_find("concurrency_limit.b.c", providers, 2, &key), 0);
  assert_int_equal(key.provider, 1);
  tunable_name(key, providers, name, sizeof name);
  assert_string_equal(name, "concurrency_limit.b.c");
  static const char *const unknown[] = {
      "", "retry", "retry_attempts.a", "concurrency_limit", "concurrency_limit.z", "."};
  for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++)
    assert_true(tunable_find(unknown[i], providers, 2, &key) < 0);
}

static void clamping_rounds_and_holds_on_nan(void **state) {
  (void)state;
  assert_true(tunable_clamp(TUNABLE_retry_attempts, 4.4, 1) == 4);
  assert_true(tunable_clamp(TUNABLE_retry_attempts, 99, 1) == 10);
  assert_true(tunable_clamp(TUNABLE_retry_attempts, NAN, 1) == 1);
  assert_true(tunable_clamp(TUNABLE_explore_share, -1, 0.5) == 0);
}

static void treatment_is_sticky_and_well_mixed_over_sequential_sessions(void **state) {
  (void)state;
  static struct tunables t;
  tunables_init(&t);
  assert_false(tunables_treats(&t, 1));
  for (uint64_t salt = 1; salt <= 20; salt++) {
    tunables_treat(&t, TUNABLE_retry_attempts, 7, salt, 0.5);
    for (int block = 0; block < 10; block++) {
      unsigned treated = 0;
      for (uint64_t id = 1000 + 100 * (uint64_t)block; id < 1100 + 100 * (uint64_t)block; id++)
        treated += tunables_treats(&t, id);
      assert_in_range(treated, 25, 75);
    }
  }
  assert_true(tunable_for(&t, TUNABLE_retry_attempts, true) == 7);
  assert_true(tunable_for(&t, TUNABLE_retry_base_ms, true) == tunable_infos[TUNABLE_retry_base_ms].initial);
  tunables_treat(&t, -1, 0, 0, 0);
  assert_true(tunable_for(&t, TUNABLE_retry_attempts, true) == 3);
}

static void the_window_and_the_outcomes_are_taken_once(void **state) {
  (void)state;
  static struct telemetry_window into;
  struct telemetry *t = telemetry_create();
  struct outcome *buffer = NULL;
  size_t capacity = 0;
  for (int i = 0; i < 100; i++) {
    telemetry_ttft(t, 1, 10);
    telemetry_outcome(t, &(struct outcome){.id = (uint64_t)i});
  }
  telemetry_wait(t, PRIORITY_LOW, 7);
  telemetry_take_window(t, 2, &into);
  assert_int_equal(into.ttft_ms[1].count, 100);
  assert_true(into.longest_wait_ms[PRIORITY_LOW] == 7);
  assert_int_equal(telemetry_take_outcomes(t, &buffer, &capacity), 100);
  assert_int_equal(buffer[99].id, 99);
  telemetry_window_clear(&into, 2);
  telemetry_take_window(t, 2, &into);
  assert_int_equal(into.ttft_ms[1].count, 0);
  assert_int_equal(telemetry_take_outcomes(t, &buffer, &capacity), 0);
  for (int i = 0; i < OUTCOMES_A_TICK + 5; i++)
    telemetry_outcome(t, &(struct outcome){0});
  assert_int_equal(telemetry_take_outcomes(t, &buffer, &capacity), OUTCOMES_A_TICK);
  assert_int_equal(atomic_load(&t->counters.value[COUNTER_outcomes_dropped][0]), 5);
  free(buffer);
  telemetry_destroy(t);
}

static void the_longest_wait_is_that_of_any_shard(void **state) {
  (void)state;
  static struct telemetry_window window;
  struct telemetry *one = telemetry_create(), *other = telemetry_create();
  telemetry_wait(one, PRIORITY_LOW, 5);
  telemetry_wait(other, PRIORITY_LOW, 3);
  telemetry_take_window(one, 1, &window);
  telemetry_take_window(other, 1, &window);
  assert_true(window.longest_wait_ms[PRIORITY_LOW] == 5);
  telemetry_destroy(one);
  telemetry_destroy(other);
}

static void targets_differ_for_streams_and_whole_answers(void **state) {
  (void)state;
  const struct objective o = {2000, 50, 5, 1};
  assert_true(objective_in_target(&o, true, 1999, 50, 1e9, 10));
  assert_false(objective_in_target(&o, true, 2001, 10, 0, 10));
  assert_false(objective_in_target(&o, true, 10, 51, 0, 10));
  assert_true(objective_in_target(&o, true, 10, NAN, 0, 1));
  assert_true(objective_in_target(&o, false, NAN, NAN, 2500, 10));
  assert_false(objective_in_target(&o, false, NAN, NAN, 2501, 10));
  assert_true(fabs(objective_utility(&o, 0.9, true, 0.01) - 0.85) < 1e-12);
  assert_true(fabs(objective_utility(&o, 0.9, false, 0.01) + 0.05) < 1e-12);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(quantiles_are_within_one_percent_on_all_shapes_and_after_merging),
      cmocka_unit_test(an_empty_sketch_says_no_data),
      cmocka_unit_test(every_row_of_the_table_is_sane),
      cmocka_unit_test(names_find_their_key_and_back),
      cmocka_unit_test(clamping_rounds_and_holds_on_nan),
      cmocka_unit_test(treatment_is_sticky_and_well_mixed_over_sequential_sessions),
      cmocka_unit_test(the_window_and_the_outcomes_are_taken_once),
      cmocka_unit_test(the_longest_wait_is_that_of_any_shard),
      cmocka_unit_test(targets_differ_for_streams_and_whole_answers),
  };
  return cmocka_run_group_tests_name("bus", tests, NULL, NULL);
}
