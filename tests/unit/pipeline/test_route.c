#include "pipeline/route.h"
#include "sys/rng.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static struct route_table table_of(float explore, float temperature, float a, float b, float c, float d) {
  return (struct route_table){
      .version = 1, .explore_share = explore, .temperature = temperature, .routes = {{{a, b, c, d}}}};
}

static double mixture(const struct route_table *t, unsigned candidate, uint32_t available) {
  double sum = 0, own = 0, n = 0;
  for (unsigned i = 0; i < 4; i++) {
    if (!(available >> i & 1)) continue;
    double w = exp(((double)t->routes[0].utility[i] - 0.7) / (double)t->temperature);
    sum += w;
    n++;
    if (i == candidate) own = w;
  }
  return t->explore_share / n + (1 - t->explore_share) * own / sum;
}

static void check_frequencies(const struct route_table *t, uint32_t available) {
  enum { DRAWS = 200000 };
  struct rng rng;
  rng_seed(&rng, 7, available);
  int picked[4] = {0};
  for (int i = 0; i < DRAWS; i++) {
    struct route_choice choice;
    assert_true(route_pick(t, 0, available, rng_uniform(&rng), 0, &choice));
    picked[choice.candidate]++;
    assert_float_equal(choice.propensity, mixture(t, choice.candidate, available), 1e-6);
  }
  for (unsigned i = 0; i < 4; i++) {
    double p = available >> i & 1 ? mixture(t, i, available) : 0;
    assert_float_equal((double)picked[i] / DRAWS, p, 4.5 * sqrt(p * (1 - p) / DRAWS));
  }
}

static void propensities_equal_the_frequencies_on_every_subset(void **state) {
  (void)state;
  struct route_table t = table_of(0.1f, 0.05f, 0.7f, 0.66f, 0.5f, 0.69f);
  for (uint32_t available = 1; available < 16; available++)
    check_frequencies(&t, available);
}

static void sticky_draws_are_unbiased_over_sessions_and_keep_their_candidate(void **state) {
  (void)state;
  struct route_table t = table_of(0.05f, 0.05f, 0.7f, 0.66f, 0.5f, 0.69f), later = t;
  later.routes[0].utility[1] += 0.001f;
  enum { SESSIONS = 50000 };
  int picked[4] = {0}, moved = 0;
  for (uint64_t s = 0; s < SESSIONS; s++) {
    double draw = (double)(mix64(s + 1000) >> 11) * 0x1p-53;
    struct route_choice choice, again, after;
    route_pick(&t, 0, 15, draw, 0, &choice);
    route_pick(&t, 0, 15, draw, 99, &again);
    route_pick(&later, 0, 15, draw, 0, &after);
    assert_int_equal(choice.candidate, again.candidate);
    picked[choice.candidate]++;
    moved += after.candidate != choice.candidate;
  }
  for (unsigned i = 0; i < 4; i++)
    assert_float_equal((double)picked[i] / SESSIONS, mixture(&t, i, 15), 0.01);
  assert_in_range(moved, 0, SESSIONS / 100);
}

static void explored_marks_the_uniform_share(void **state) {
  (void)state;
  struct route_table t = table_of(0.2f, 0.01f, 0.7f, 0.1f, 0.1f, 0.1f);
  struct route_choice choice;
  route_pick(&t, 0, 15, 0.199, 0, &choice);
  assert_true(choice.explored);
  assert_int_equal(choice.candidate, 3);
  route_pick(&t, 0, 15, 0.201, 0, &choice);
  assert_false(choice.explored);
  assert_int_equal(choice.candidate, 0);
  assert_float_equal(choice.propensity, 0.85, 1e-6);
}

static void an_unlearned_table_goes_round_robin(void **state) {
  (void)state;
  struct route_table t = {0};
  for (uint32_t turn = 0; turn < 9; turn++) {
    struct route_choice choice;
    assert_true(route_pick(&t, 0, 0x15, 0.5, turn, &choice));
    assert_int_equal(choice.candidate, 2 * (turn % 3));
    assert_float_equal(choice.propensity, 1.0 / 3, 1e-6);
  }
}

static void nothing_available_picks_nothing(void **state) {
  (void)state;
  struct route_table t = table_of(0.1f, 0.05f, 0.7f, 0.7f, 0.7f, 0.7f);
  struct route_choice choice = {.candidate = 42};
  assert_false(route_pick(&t, 0, 0, 0.5, 0, &choice));
  assert_int_equal(choice.candidate, 42);
  assert_false(route_pick(&t, 0, UINT32_C(0xffff0000), 0.5, 0, &choice));
}

static void strange_scores_still_pick_someone(void **state) {
  (void)state;
  struct route_choice choice;
  struct route_table nan_one = table_of(0, 0.05f, NAN, 0.1f, NAN, NAN);
  assert_true(route_pick(&nan_one, 0, 15, 0.999999, 0, &choice));
  assert_int_equal(choice.candidate, 1);
  assert_float_equal(choice.propensity, 1, 0);
  struct route_table equal = table_of(0, 0.05f, 0, 0, 0, 0);
  assert_true(route_pick(&equal, 0, 15, 0.6, 0, &choice));
  assert_int_equal(choice.candidate, 2);
  assert_float_equal(choice.propensity, 0.25, 0);
  struct route_table cold = table_of(0, 0, 0.3f, 0.5f, 0.5f, 0.1f);
  assert_true(route_pick(&cold, 0, 15, 0.6, 0, &choice));
  assert_int_equal(choice.candidate, 2);
  struct route_table all_nan = table_of(0.1f, 0.05f, NAN, NAN, NAN, NAN);
  assert_true(route_pick(&all_nan, 0, 15, 0.5, 0, &choice));
  assert_float_equal(choice.propensity, 0.25, 1e-6);
  struct route_table infinite = table_of(0, 0.05f, INFINITY, 0.5f, -INFINITY, 0.1f);
  assert_true(route_pick(&infinite, 0, 14, 0.5, 0, &choice));
  assert_int_equal(choice.candidate, 1);
  struct route_table all = table_of(1, 0.05f, 0.9f, 0, 0, 0);
  assert_true(route_pick(&all, 0, 15, 0.9999999, 0, &choice));
  assert_int_equal(choice.candidate, 3);
  assert_float_equal(choice.propensity, 0.25, 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(propensities_equal_the_frequencies_on_every_subset),
      cmocka_unit_test(sticky_draws_are_unbiased_over_sessions_and_keep_their_candidate),
      cmocka_unit_test(explored_marks_the_uniform_share),
      cmocka_unit_test(an_unlearned_table_goes_round_robin),
      cmocka_unit_test(nothing_available_picks_nothing),
      cmocka_unit_test(strange_scores_still_pick_someone),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
