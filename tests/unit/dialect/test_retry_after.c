#include "dialect/retry_after.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#define S INT64_C(1000000000)
#define MS INT64_C(1000000)

/* Sun, 06 Nov 1994 08:49:34 GMT: three seconds before the date of RFC 9110's examples. */
static const int64_t then_ms = INT64_C(784111774000);

static int64_t after(const char *value) {
  return retry_after_ns(value, strlen(value), then_ms);
}
static int64_t after_ms(const char *value) {
  return retry_after_ms_ns(value, strlen(value));
}
static int64_t reset(const char *value) {
  return reset_duration_ns(value, strlen(value));
}

static void seconds_count_also_with_a_fraction(void **state) {
  (void)state;
  assert_int_equal(after("2"), 2 * S);
  assert_int_equal(after("0"), 0);
  assert_int_equal(after("1.5"), 1500 * MS);
}

static void dates_count_in_all_three_forms(void **state) {
  (void)state;
  assert_int_equal(after("Sun, 06 Nov 1994 08:49:37 GMT"), 3 * S);
  assert_int_equal(after("Sunday, 06-Nov-94 08:49:37 GMT"), 3 * S);
  assert_int_equal(after("Sun Nov  6 08:49:37 1994"), 3 * S);
}

static void a_date_that_is_past_means_now(void **state) {
  (void)state;
  assert_int_equal(after("Sun, 06 Nov 1994 08:49:30 GMT"), 0);
  assert_int_equal(retry_after_ns("Sunday, 06-Nov-94 08:49:37 GMT", 30, INT64_C(1790000000000)), 0);
}

static void nonsense_is_not_understood(void **state) {
  (void)state;
  static const char *const bad[] = {"",
                                    "-1",
                                    "abc",
                                    "1e3",
                                    "1.",
                                    ".5",
                                    "2 seconds",
                                    "+2",
                                    "inf",
                                    "nan",
                                    "0x10",
                                    "Sun, 06 Nov 1994 08:49:37",
                                    "Sun, 06 Nov 1994 08:49:37 CET",
                                    "Sun, 06 Now 1994 08:49:37 GMT",
                                    "Sun, 06 Nov 1994 25:49:37 GMT",
                                    "Sun, 06 Nov 1994 08:49:37 GMT x",
                                    "Sun Nov  6 08:49:37 1994 x",
                                    "1111111111111111111111111111111111111111111111111111111"};
  for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
    if (after(bad[i]) != -1) fail_msg("understood: %s", bad[i]);
}

static void no_wait_is_longer_than_a_week(void **state) {
  (void)state;
  assert_int_equal(after("999999999999"), 604800 * S);
}

static void milliseconds_have_their_own_header(void **state) {
  (void)state;
  assert_int_equal(after_ms("250"), 250 * MS);
  assert_int_equal(after_ms("0.5"), MS / 2);
  assert_int_equal(after_ms("-3"), -1);
  assert_int_equal(after_ms("x"), -1);
}

static void resets_are_durations(void **state) {
  (void)state;
  assert_int_equal(reset("1s"), S);
  assert_int_equal(reset("6m0s"), 360 * S);
  assert_int_equal(reset("20ms"), 20 * MS);
  assert_int_equal(reset("1h2m3.5s"), 3723500 * MS);
  assert_int_equal(reset("7"), 7 * S);
  assert_int_equal(reset("s"), -1);
  assert_int_equal(reset("1x"), -1);
  assert_int_equal(reset("1s2"), -1);
  assert_int_equal(reset(""), -1);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(seconds_count_also_with_a_fraction),
      cmocka_unit_test(dates_count_in_all_three_forms),
      cmocka_unit_test(a_date_that_is_past_means_now),
      cmocka_unit_test(nonsense_is_not_understood),
      cmocka_unit_test(no_wait_is_longer_than_a_week),
      cmocka_unit_test(milliseconds_have_their_own_header),
      cmocka_unit_test(resets_are_durations),
  };
  return cmocka_run_group_tests_name("dialect/retry_after", tests, NULL, NULL);
}
