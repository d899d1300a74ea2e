#include "pipeline/breaker.h"
#include "sys/clock.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static const struct breaker_settings settings = {
    .failure_threshold = 5, .success_rate = 0.8, .pause_ns = NS_PER_S};

static uint32_t admit(struct breaker *b, int64_t now) {
  uint32_t generation = 0;
  assert_true(breaker_admit(b, now, &generation));
  return generation;
}

static void fail_times(struct breaker *b, int n, int64_t now) {
  for (int i = 0; i < n; i++)
    breaker_report(b, &settings, false, admit(b, now), now);
}

static void five_failures_in_a_row_open_it(void **state) {
  (void)state;
  struct breaker b;
  breaker_init(&b);
  fail_times(&b, 4, 0);
  breaker_report(&b, &settings, true, admit(&b, 0), 0);
  fail_times(&b, 4, 0);
  assert_int_equal(b.state, BREAKER_CLOSED);
  assert_true(breaker_report(&b, &settings, false, admit(&b, 0), 0));
  assert_int_equal(b.state, BREAKER_OPEN);
  assert_false(breaker_would_admit(&b, NS_PER_S - 1));
}

static void what_says_nothing_about_the_provider_neither_counts_nor_resets(void **state) {
  (void)state;
  struct breaker b;
  breaker_init(&b);
  for (int i = 0; i < 5; i++) {
    assert_int_equal(b.state, BREAKER_CLOSED);
    breaker_release(&b, admit(&b, 0)); /* a 400 */
    breaker_report(&b, &settings, false, admit(&b, 0), 0);
  }
  assert_int_equal(b.state, BREAKER_OPEN);
}

static void one_probe_at_a_time_and_four_good_ones_close_it(void **state) {
  (void)state;
  struct breaker b;
  breaker_init(&b);
  fail_times(&b, 5, 0);
  for (int probe = 0; probe < 4; probe++) {
    uint32_t generation = admit(&b, NS_PER_S), other;
    assert_int_equal(b.state, BREAKER_HALF_OPEN);
    assert_false(breaker_admit(&b, NS_PER_S, &other));
    breaker_report(&b, &settings, true, generation, NS_PER_S);
  }
  assert_int_equal(b.state, BREAKER_CLOSED);
}

static void a_failed_probe_opens_it_again_for_longer_up_to_four_times(void **state) {
  (void)state;
  struct breaker b;
  breaker_init(&b);
  fail_times(&b, 5, 0);
  int64_t now = 0;
  static const int64_t pauses[] = {1, 2, 4, 4, 4};
  for (int i = 0; i < 5; i++) {
    assert_int_equal(b.retry_at_ns - now, pauses[i] * NS_PER_S);
    now = b.retry_at_ns;
    fail_times(&b, 1, now);
    assert_int_equal(b.state, BREAKER_OPEN);
  }
}

static void results_of_older_calls_are_ignored(void **state) {
  (void)state;
  struct breaker b;
  breaker_init(&b);
  uint32_t slow = admit(&b, 0);
  fail_times(&b, 5, NS_PER_S);
  breaker_report(&b, &settings, true, slow, 2 * NS_PER_S);
  assert_int_equal(b.state, BREAKER_OPEN);
  uint32_t probe = admit(&b, 2 * NS_PER_S);
  breaker_report(&b, &settings, false, slow, 2 * NS_PER_S);
  assert_int_equal(b.state, BREAKER_HALF_OPEN);
  assert_true(b.probing);
  breaker_report(&b, &settings, true, probe, 2 * NS_PER_S);
  assert_false(b.probing);
}

static void a_cancelled_probe_frees_its_place(void **state) {
  (void)state;
  struct breaker b;
  breaker_init(&b);
  fail_times(&b, 5, 0);
  breaker_release(&b, admit(&b, NS_PER_S));
  assert_true(breaker_would_admit(&b, NS_PER_S));
}

static void time_outs_of_calls_begun_together_are_one_failure_when_others_were_served(void **state) {
  (void)state;
  struct breaker b;
  breaker_init(&b);
  assert_true(breaker_counts(&b, 0));
  assert_true(breaker_counts(&b, 0)); /* nobody was served */
  breaker_alive(&b, NS_PER_S);
  assert_false(breaker_counts(&b, 0));
  assert_false(breaker_counts(&b, NS_PER_S / 20));
  assert_true(breaker_counts(&b, NS_PER_S / 2)); /* begun later */
  assert_false(breaker_counts(&b, NS_PER_S / 2));
  fail_times(&b, 5, NS_PER_S);
  assert_true(breaker_counts(&b, NS_PER_S / 2)); /* a probe's result is always wanted */
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(five_failures_in_a_row_open_it),
      cmocka_unit_test(what_says_nothing_about_the_provider_neither_counts_nor_resets),
      cmocka_unit_test(one_probe_at_a_time_and_four_good_ones_close_it),
      cmocka_unit_test(a_failed_probe_opens_it_again_for_longer_up_to_four_times),
      cmocka_unit_test(results_of_older_calls_are_ignored),
      cmocka_unit_test(a_cancelled_probe_frees_its_place),
      cmocka_unit_test(time_outs_of_calls_begun_together_are_one_failure_when_others_were_served),
  };
  return cmocka_run_group_tests_name("breaker", tests, NULL, NULL);
}
