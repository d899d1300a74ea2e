#include "control/reference.h"

#include "sys/rng.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

/* First-order autoregression with unit variance. */
static double next(struct rng *rng, double last, double phi) {
  return phi * last + sqrt(1 - phi * phi) * rng_normal(rng);
}

static struct reference learned(uint64_t seed, double phi, int samples) {
  struct rng rng;
  struct reference r;
  double x = 0;
  rng_seed(&rng, seed, 1);
  reference_init(&r);
  for (int i = 0; i < samples; i++) {
    x = next(&rng, x, phi);
    reference_learn(&r, 200 + 20 * x, 1, 0);
  }
  return r;
}

static void centre_and_scale_are_learned_in_the_warm_up(void **state) {
  (void)state;
  double centre = 0, scale = 0;
  for (uint64_t seed = 1; seed <= 50; seed++) {
    struct reference r = learned(seed, 0, REFERENCE_WARMUP);
    assert_true(reference_ready(&r));
    assert_true(fabs(r.centre - 200) < 8);
    assert_true(r.scale > 14 && r.scale < 27);
    centre += r.centre / 50;
    scale += r.scale / 50;
  }
  assert_true(fabs(centre - 200) < 1);
  assert_true(fabs(scale - 20) < 1);
}

static void not_ready_before_the_warm_up_is_full(void **state) {
  (void)state;
  struct reference r = learned(1, 0, REFERENCE_WARMUP - 1);
  assert_false(reference_ready(&r));
}

static void outliers_in_the_warm_up_do_not_count(void **state) {
  (void)state;
  struct rng rng;
  struct reference r;
  rng_seed(&rng, 4, 1);
  reference_init(&r);
  for (int i = 0; i < REFERENCE_WARMUP; i++)
    reference_learn(&r, i % 20 == 0 ? 1e6 : 200 + 20 * rng_normal(&rng), 1, 0);
  assert_true(fabs(r.centre - 200) < 12);
  assert_true(r.scale < 40);
}

static void spread_of_independent_samples_is_near_one(void **state) {
  (void)state;
  struct reference r = learned(2, 0, 50000);
  assert_true(r.spread >= 1 && r.spread < 1.25);
}

static void spread_of_correlated_samples_is_their_long_run_deviation(void **state) {
  (void)state;
  static const double phis[] = {0.5, 0.9, 0.97};
  for (int i = 0; i < 3; i++) {
    struct reference r = learned(3, phis[i], 50000);
    double exact = sqrt((1 + phis[i]) / (1 - phis[i]));
    assert_true(r.spread > 0.7 * exact && r.spread < 1.3 * exact);
  }
}

static void slow_level_shift_is_followed(void **state) {
  (void)state;
  struct reference r = learned(5, 0, 10000);
  struct rng rng;
  rng_seed(&rng, 6, 1);
  for (int i = 0; i < 20000; i++)
    reference_learn(&r, 220 + 20 * rng_normal(&rng), 1, 0);
  assert_true(fabs(r.centre - 220) < 3);
}

static void scale_keeps_its_floor_on_a_flat_metric(void **state) {
  (void)state;
  struct reference r;
  reference_init(&r);
  for (int i = 0; i < 1000; i++)
    reference_learn(&r, 0, 1, 0.5);
  assert_true(r.scale == 0.5 && r.centre == 0);
  assert_true(reference_residual(&r, 5, 1) == 10);
}

static void noise_of_a_sample_weighs_its_residual(void **state) {
  (void)state;
  struct rng rng;
  struct reference r;
  rng_seed(&rng, 8, 1);
  reference_init(&r);
  for (int i = 0; i < 5000; i++) {
    double noise = i % 2 ? 1 : 0.1;
    reference_learn(&r, 10 + noise * rng_normal(&rng), noise, 0);
  }
  assert_true(r.scale > 0.9 && r.scale < 1.1);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(centre_and_scale_are_learned_in_the_warm_up),
      cmocka_unit_test(not_ready_before_the_warm_up_is_full),
      cmocka_unit_test(outliers_in_the_warm_up_do_not_count),
      cmocka_unit_test(spread_of_independent_samples_is_near_one),
      cmocka_unit_test(spread_of_correlated_samples_is_their_long_run_deviation),
      cmocka_unit_test(slow_level_shift_is_followed),
      cmocka_unit_test(scale_keeps_its_floor_on_a_flat_metric),
      cmocka_unit_test(noise_of_a_sample_weighs_its_residual),
  };
  return cmocka_run_group_tests_name("reference", tests, NULL, NULL);
}
