#include "learn/quality.h"
#include "sys/rng.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static double reward(struct rng *rng, double mean, double sigma) {
  return fmin(fmax(mean + sigma * rng_normal(rng), 0), 1);
}

static void begins_at_the_prior(void **state) {
  (void)state;
  struct quality q;
  quality_init(&q);
  assert_float_equal(quality_mean(&q), 0.7, 1e-6);
  assert_float_equal(quality_error(&q), sqrt(0.05 / 3), 1e-6);
  assert_true(q.since_change >= QUALITY_FAST);
}

static void three_rewards_weigh_like_the_prior(void **state) {
  (void)state;
  struct quality q;
  quality_init(&q);
  for (int i = 0; i < 3; i++)
    quality_add(&q, 0.1, 1e6);
  assert_float_equal(quality_mean(&q), 0.4, 1e-4);
}

static void converges_to_the_mean_reward(void **state) {
  (void)state;
  struct quality q;
  struct rng rng;
  quality_init(&q);
  rng_seed(&rng, 1, 1);
  for (int i = 0; i < 2000; i++)
    quality_add(&q, reward(&rng, 0.5, 0.15), 100);
  assert_float_equal(quality_mean(&q), 0.5, 0.05);
  assert_float_equal(sqrt(q.variance), 0.15, 0.04);
}

/* Rewards until the estimate has come within 0.1 of the new level. */
static int rewards_to_learn(uint64_t seed, double sigma) {
  struct quality q;
  struct rng rng;
  quality_init(&q);
  rng_seed(&rng, seed, 2);
  for (int i = 0; i < 500; i++)
    quality_add(&q, reward(&rng, 0.75, sigma), 100);
  int n = 0;
  while (n < 1000 && quality_mean(&q) > 0.55) {
    quality_add(&q, reward(&rng, 0.45, sigma), 100);
    n++;
  }
  return n;
}

static void a_step_of_a_third_is_learned_in_tens_of_rewards(void **state) {
  (void)state;
  double sum = 0;
  for (uint64_t seed = 1; seed <= 200; seed++) {
    int n = rewards_to_learn(seed, 0.2);
    assert_in_range(n, 1, 80);
    sum += n;
  }
  print_message("a quality step of -0.3 (sigma 0.2): learned in %.0f rewards on average\n", sum / 200);
  assert_true(sum / 200 < 40);
}

static void noise_does_not_restart_it(void **state) {
  (void)state;
  struct quality q;
  struct rng rng;
  quality_init(&q);
  rng_seed(&rng, 3, 3);
  for (int i = 0; i < 50000; i++)
    quality_add(&q, rng_uniform(&rng) < 0.8 ? 1 : 0, 100);
  assert_in_range(q.changes, 0, 2);
}

/* As the rewards of a good model are: nearly all close to one, a few near nothing. */
static void a_long_tail_of_bad_rewards_does_not_restart_it(void **state) {
  (void)state;
  struct quality q;
  struct rng rng;
  quality_init(&q);
  rng_seed(&rng, 5, 5);
  for (int i = 0; i < 200000; i++)
    quality_add(&q, rng_uniform(&rng) < 0.03 ? reward(&rng, 0.1, 0.1) : reward(&rng, 0.91, 0.09), 1000);
  print_message("restarts in 200,000 skewed rewards: %u\n", q.changes);
  assert_in_range(q.changes, 0, 5);
}

/* One thumb down among thousands up, and equal rewards whose means differ by rounding alone. */
static void a_model_that_hardly_ever_fails_does_not_restart_at_a_failure(void **state) {
  (void)state;
  struct quality q;
  struct rng rng;
  quality_init(&q);
  rng_seed(&rng, 6, 6);
  for (int i = 0; i < 200000; i++)
    quality_add(&q, rng_uniform(&rng) < 0.999 ? 1 : 0, 1000);
  assert_in_range(q.changes, 0, 3);

  quality_init(&q);
  quality_add(&q, 0, 1000);
  for (int i = 0; i < 100000; i++)
    quality_add(&q, 1, 1000);
  assert_int_equal(q.changes, 0);
  quality_add(&q, 0.5, 1000);
  assert_int_equal(q.changes, 0);
  assert_float_equal(quality_mean(&q), 0.9986, 0.0005);
}

static void a_change_is_told_once_and_settles(void **state) {
  (void)state;
  struct quality q;
  struct rng rng;
  quality_init(&q);
  rng_seed(&rng, 4, 4);
  int told = 0;
  for (int i = 0; i < 400; i++)
    told += quality_add(&q, reward(&rng, 0.9, 0.1), 100);
  assert_int_equal(told, 0);
  for (int i = 0; i < 300; i++)
    told += quality_add(&q, reward(&rng, 0.3, 0.1), 100);
  assert_in_range(told, 1, 3);
  assert_int_equal(q.changes, told);
  assert_float_equal(quality_mean(&q), 0.3, 0.05);
  assert_true(q.since_change >= QUALITY_FAST);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(begins_at_the_prior),
      cmocka_unit_test(three_rewards_weigh_like_the_prior),
      cmocka_unit_test(converges_to_the_mean_reward),
      cmocka_unit_test(a_step_of_a_third_is_learned_in_tens_of_rewards),
      cmocka_unit_test(noise_does_not_restart_it),
      cmocka_unit_test(a_long_tail_of_bad_rewards_does_not_restart_it),
      cmocka_unit_test(a_model_that_hardly_ever_fails_does_not_restart_at_a_failure),
      cmocka_unit_test(a_change_is_told_once_and_settles),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
