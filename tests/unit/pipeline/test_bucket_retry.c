#include "pipeline/bucket.h"
#include "pipeline/retry.h"
#include "sys/clock.h"
#include "sys/rng.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static void tokens_stay_between_zero_and_burst(void **state) {
  (void)state;
  struct bucket b;
  int64_t wait;
  bucket_init(&b, 10, 0);
  for (int i = 0; i < 10; i++)
    assert_true(bucket_take(&b, 1, 5, 10, 0, &wait));
  assert_false(bucket_take(&b, 1, 5, 10, 0, &wait));
  assert_int_equal(wait, NS_PER_S / 5);
  assert_false(bucket_take(&b, 11, 5, 10, 3600 * NS_PER_S, &wait));
  assert_true(b.tokens == 10);
  assert_false(
      bucket_take(&b, 11, 5, 10, 0, &wait)); /* time that steps back gives nothing and takes nothing */
  assert_true(b.tokens == 10);
}

static void three_retries_are_always_allowed_and_then_a_share(void **state) {
  (void)state;
  struct retry_budget b = {0};
  int64_t now = 100 * NS_PER_S;
  for (int i = 0; i < 3; i++)
    assert_true(retry_budget_take(&b, 10, now));
  assert_false(retry_budget_take(&b, 10, now));
  for (int i = 0; i < 100; i++)
    retry_budget_attempt(&b, now);
  int granted = 0;
  while (retry_budget_take(&b, 10, now))
    granted++;
  assert_int_equal(granted, 7);
  now += 10 * NS_PER_S;
  assert_true(retry_budget_take(&b, 10, now));
}

static void backoff_has_full_jitter_below_its_ceiling(void **state) {
  (void)state;
  struct rng rng;
  rng_seed(&rng, 1, 1);
  double sum = 0;
  for (int i = 0; i < 10000; i++) {
    int64_t ns = retry_backoff_ns(3, 100, 5000, &rng);
    assert_in_range(ns, 0, 399);
    sum += (double)ns;
  }
  assert_in_range((long)(sum / 10000), 190, 210);
  for (unsigned attempt = 1; attempt < 200; attempt++)
    assert_in_range(retry_backoff_ns(attempt, 100, 5000, &rng), 0, 4999);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(tokens_stay_between_zero_and_burst),
      cmocka_unit_test(three_retries_are_always_allowed_and_then_a_share),
      cmocka_unit_test(backoff_has_full_jitter_below_its_ceiling),
  };
  return cmocka_run_group_tests_name("bucket and retry", tests, NULL, NULL);
}
