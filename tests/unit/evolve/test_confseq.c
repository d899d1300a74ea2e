#include "evolve/confseq.h"
#include "sys/rng.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>

#include <cmocka.h>

/* Moments from n, sum and sum of squares: the published vectors come so. */
static struct moments moments_of(double n, double sum, double squares) {
  return (struct moments){n, sum / n, squares - sum * sum / n};
}

static struct moments proportion(double n, double hits) {
  return moments_of(n, hits, hits);
}

/* (b - a) / a by the delta method, as GrowthBook's relative effects. */
static struct effect relative(const struct moments *a, const struct moments *b) {
  double va = moments_variance(a) / a->n, vb = moments_variance(b) / b->n, m = a->mean;
  return (struct effect){(b->mean - m) / m, sqrt(vb / (m * m) + va * b->mean * b->mean / pow(m, 4)),
                         a->n + b->n};
}

static void welch_reproduces_the_published_difference(void **state) {
  (void)state;
  struct moments a = moments_of(3407, 1396.87, 52377.9767), b = moments_of(3461, 2422.7, 134698.29);
  struct effect e = welch_difference(&a, &b);
  assert_float_equal(e.size, 0.29, 1e-5);
  assert_float_equal(e.se, 0.12478, 1e-5);
}

static void two_sided_sequence_reproduces_the_vectors(void **state) {
  (void)state;
  struct moments a = moments_of(3000, 1396.87, 52377.9767), b = moments_of(3461, 2422.7, 134698.29);
  struct effect e = relative(&a, &b);
  struct interval ci = confseq_interval(e, 0.05, 1000);
  assert_float_equal(e.size, 0.50336, 1e-5);
  assert_float_equal(ci.low, -0.55844, 1e-5);
  assert_float_equal(ci.high, 1.56516, 1e-5);
  assert_float_equal(confseq_p(e, 0.05, 1000), 1, 0);
  struct moments c = proportion(3000, 1396), d = proportion(3461, 2422);
  e = relative(&c, &d);
  ci = confseq_interval(e, 0.05, 5000);
  assert_float_equal(e.size, 0.50386, 1e-5);
  assert_float_equal(ci.low, 0.40098, 2e-5);
  assert_float_equal(ci.high, 0.60675, 2e-5);
  assert_float_equal(confseq_p(e, 0.05, 5000), 0, 1e-5);
}

static void one_sided_sequence_reproduces_the_vectors(void **state) {
  (void)state;
  struct moments a = moments_of(3000, 1396.87, 52377.9767), b = moments_of(3461, 2422.7, 134698.29);
  struct effect e = welch_difference(&a, &b);
  assert_float_equal(confseq_lower(e, 0.05, 5000), -0.126568, 1e-6);
}

static void half_widths_equal_the_measured_ones(void **state) {
  (void)state;
  assert_float_equal(confseq_rho(0.05, 5000), 0.03984, 1e-5);
  assert_float_equal(confseq_half_width(0.25, 100, 0.05, 5000), 0.334719, 1e-6);
  assert_float_equal(confseq_half_width(0.25, 5000, 0.05, 5000), 0.021462, 1e-6);
  assert_float_equal(confseq_half_width(0.25, 50000, 0.05, 5000), 0.007249, 1e-6);
  assert_true(isinf(confseq_half_width(0.25, 0, 0.05, 5000)));
}

static void p_falls_below_alpha_exactly_when_the_interval_leaves_zero(void **state) {
  (void)state;
  for (double size = 0.01; size < 0.2; size += 0.001) {
    struct effect e = {size, 0.02, 800};
    struct interval ci = confseq_interval(e, 0.05, 1000);
    assert_int_equal(confseq_p(e, 0.05, 1000) < 0.05, ci.low > 0);
  }
  struct effect none = {NAN, NAN, 0};
  assert_float_equal(confseq_p(none, 0.05, 1000), 1, 0);
}

static void moments_take_back_what_they_were_given(void **state) {
  (void)state;
  struct moments m = {0};
  double values[] = {0.3, 0.9, 0.2, 0.7, 0.5};
  for (int i = 0; i < 5; i++)
    moments_add(&m, values[i]);
  assert_float_equal(m.mean, 0.52, 1e-12);
  assert_float_equal(moments_variance(&m), 0.082, 1e-12);
  moments_remove(&m, 0.9);
  moments_remove(&m, 0.2);
  assert_float_equal(m.mean, 0.5, 1e-12);
  assert_float_equal(moments_variance(&m), 0.04, 1e-12);
  moments_remove(&m, 0.3);
  moments_remove(&m, 0.7);
  assert_true(isnan(moments_variance(&m)));
  moments_remove(&m, 0.5);
  assert_float_equal(m.n, 0, 0);
}

/* One A/A run, looked at after every pair from the 100th on. */
static void peek(struct rng *rng, int *naive, int *sequential) {
  struct moments a = {0}, b = {0};
  bool naive_hit = false, sequential_hit = false;
  for (int i = 0; i < 2000; i++) {
    moments_add(&a, rng_exponential(rng, 1));
    moments_add(&b, rng_exponential(rng, 1));
    if (i < 100) continue;
    struct effect e = welch_difference(&a, &b);
    struct interval ci = confseq_interval(e, 0.05, 1000);
    naive_hit |= fabs(e.size) > 1.96 * e.se;
    sequential_hit |= ci.low > 0 || ci.high < 0;
  }
  *naive += naive_hit;
  *sequential += sequential_hit;
}

static void peeking_at_an_a_a_test_errs_in_at_most_five_percent(void **state) {
  (void)state;
  enum { RUNS = 2000 };
  struct rng rng;
  rng_seed(&rng, 20, 1);
  int naive = 0, sequential = 0;
  for (int i = 0; i < RUNS; i++)
    peek(&rng, &naive, &sequential);
  print_message("A/A under peeking, %d runs: sequence %.3f, naive z %.3f\n", RUNS, (double)sequential / RUNS,
                (double)naive / RUNS);
  assert_true(sequential <= RUNS * 0.05);
  assert_true(naive > RUNS * 0.2);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(welch_reproduces_the_published_difference),
      cmocka_unit_test(two_sided_sequence_reproduces_the_vectors),
      cmocka_unit_test(one_sided_sequence_reproduces_the_vectors),
      cmocka_unit_test(half_widths_equal_the_measured_ones),
      cmocka_unit_test(p_falls_below_alpha_exactly_when_the_interval_leaves_zero),
      cmocka_unit_test(moments_take_back_what_they_were_given),
      cmocka_unit_test(peeking_at_an_a_a_test_errs_in_at_most_five_percent),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
