#include "arms.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

static const struct arm five[] = {{0.60, 0.98, 0, 0.0005},
                                  {0.75, 0.95, 0, 0.002},
                                  {0.80, 0.97, 0, 0.004},
                                  {0.90, 0.97, 0, 0.04},
                                  {0.80, 0.70, 0, 0.002}};

static double best_of(const struct arm *arm, unsigned count) {
  double best = -1;
  for (unsigned i = 0; i < count; i++)
    best = fmax(best, arm_utility(&arm[i]));
  return best;
}

/* Shared exploration costs about 0.12 times its share, which falls as rewards come in; the rest is the price
 * of learning. */
static void regret_on_five_steady_arms_is_small_and_falls(void **state) {
  (void)state;
  double early = 0, late = 0, last = 0;
  for (uint64_t seed = 1; seed <= 20; seed++) {
    struct arms w;
    arms_begin(&w, five, 5, seed);
    arms_run(&w, 600);
    early += best_of(five, 5) - w.utility / (double)w.requests;
    arms_forget(&w);
    arms_run(&w, 3600);
    late += best_of(five, 5) - w.utility / (double)w.requests;
    assert_true(arms_share(&w, 2) > 0.7);
    arms_forget(&w);
    arms_run(&w, 5 * 3600);
    last += best_of(five, 5) - w.utility / (double)w.requests;
    router_destroy(w.router);
  }
  print_message(
      "regret a request: first 10 min %.4f, next hour %.4f, next 5 hours %.4f (uniform choice %.4f)\n",
      early / 20, late / 20, last / 20, best_of(five, 5) - (0.585 + 0.7025 + 0.756 + 0.673 + 0.55) / 5);
  assert_true(early / 20 < 0.02);
  assert_true(late / 20 < 0.015);
  assert_true(last / 20 < 0.01);
}

static void exploring_fades_with_rewards_down_to_its_share(void **state) {
  (void)state;
  struct router *r = arms_router(2);
  struct router_settings s = arms_settings();
  struct route_table table = {0};
  int64_t now_ns = NS_PER_S;
  double expected[] = {0.1, 0.1, 0.005 * 3, 0.005 * 1.2};
  int rewards[] = {1, 999, 9000, 90000};
  for (int step = 0; step < 4; step++) {
    for (int i = 0; i < rewards[step]; i++)
      router_reward(r, 0, 0.8, &s);
    assert_true(router_tick(r, now_ns += NS_PER_S, &s, &table));
    assert_float_equal(table.explore_share, expected[step], 1e-6);
  }
  char *saved = router_save(r);
  struct router *again = arms_router(2);
  assert_int_equal(router_load(again, saved), 0);
  assert_true(router_tick(again, now_ns, &s, &table));
  assert_float_equal(table.explore_share, 0.005 * 1.2, 1e-6);
  s.explore_share = 0; /* off is off */
  assert_true(router_tick(r, now_ns += NS_PER_S, &s, &table));
  assert_float_equal(table.explore_share, 0, 0);
  s.explore_share = 0.3; /* the ceiling is no ceiling for a person */
  assert_true(router_tick(r, now_ns += NS_PER_S, &s, &table));
  assert_float_equal(table.explore_share, 0.3, 1e-6);
  free(saved);
  router_destroy(again);
  router_destroy(r);
}

static void a_best_arm_that_switches_is_followed(void **state) {
  (void)state;
  struct arm arm[] = {{0.8, 0.97, 0, 0.001}, {0.8, 0.80, 0, 0.001}};
  struct arms w;
  arms_begin(&w, arm, 2, 3);
  arms_run(&w, 600);
  arms_forget(&w);
  arms_run(&w, 600);
  assert_true(arms_share(&w, 0) > 0.85);
  w.arm[0].in_target = 0.3;
  arms_run(&w, 60);
  arms_forget(&w);
  arms_run(&w, 300);
  assert_true(arms_share(&w, 1) > 0.9);
  w.arm[0].in_target = 0.97;
  arms_run(&w, 600);
  arms_forget(&w);
  arms_run(&w, 600);
  assert_true(arms_share(&w, 0) > 0.8);
  router_destroy(w.router);
}

static void a_quality_step_moves_the_traffic_within_minutes(void **state) {
  (void)state;
  double sum = 0;
  for (uint64_t seed = 1; seed <= 20; seed++) {
    struct arm arm[] = {{0.85, 0.97, 0, 0.002}, {0.72, 0.97, 0, 0.001}};
    struct arms w;
    arms_begin(&w, arm, 2, seed);
    arms_run(&w, 1200);
    w.arm[0].quality -= 0.3;
    int seconds = 0;
    struct router_estimate e;
    do {
      arms_run(&w, 1);
      router_estimate(w.router, 0, 1, &w.settings, &e);
    } while (e.share < 0.5 && ++seconds < 600);
    assert_in_range(seconds, 1, 120);
    sum += seconds;
    router_destroy(w.router);
  }
  print_message("a quality step of -0.3 at one reward a second: traffic moved after %.0f s\n", sum / 20);
  assert_true(sum / 20 < 60);
}

static void deployments_of_one_model_share_its_quality(void **state) {
  (void)state;
  struct router_provider p[2] = {{"own", "m", 1, 1}, {"hosted", "m", 1, 1}};
  struct router_route route = {"auto", {0, 1}, 2};
  struct router *r = router_create(&(struct router_config){2, 1, p, &route, arms_objective});
  struct router_settings s = arms_settings();
  for (int i = 0; i < 200; i++)
    router_reward(r, 0, 0.4, &s);
  assert_float_equal(router_quality(r, 1), 0.4, 0.02);
  assert_float_equal(router_quality(r, 0), router_quality(r, 1), 0);
  router_destroy(r);
}

static void rewards_out_of_range_are_ignored(void **state) {
  (void)state;
  struct router *r = arms_router(2);
  struct router_settings s = arms_settings();
  router_reward(r, 0, NAN, &s);
  router_reward(r, 0, 1.5, &s);
  router_reward(r, 0, -0.1, &s);
  router_reward(r, 77, 0.5, &s);
  assert_float_equal(router_quality(r, 0), 0.7, 1e-6);
  router_destroy(r);
}

static void without_traffic_nothing_fades(void **state) {
  (void)state;
  struct arms w;
  struct router_estimate before, after;
  struct route_table table = {.version = 999};
  arms_begin(&w, five, 5, 4);
  arms_run(&w, 300);
  router_estimate(w.router, 0, 2, &w.settings, &before);
  for (int i = 0; i < 3600; i++) {
    w.second++;
    assert_false(router_tick(w.router, w.second * NS_PER_S, &w.settings, &table));
  }
  router_estimate(w.router, 0, 2, &w.settings, &after);
  assert_float_equal(after.in_target_n, before.in_target_n, 0);
  assert_float_equal(after.score, before.score, 0);
  assert_int_equal(table.version, 999);
  arms_request(&w);
  arms_tick(&w);
  router_estimate(w.router, 0, 2, &w.settings, &after);
  assert_float_equal(after.in_target_n, before.in_target_n, 6);
  router_destroy(w.router);
}

static void settings_act(void **state) {
  (void)state;
  struct arms w;
  struct router_estimate e;
  arms_begin(&w, five, 5, 5);
  w.settings.temperature = 0.005;
  w.settings.explore_share = 0.5;
  arms_run(&w, 1800);
  w.settings.explore_share = 0.005;
  struct router_settings s = w.settings;
  s.cost_sensitivity = 0;
  router_estimate(w.router, 0, 3, &s, &e);
  assert_true(e.share > 0.8);
  s.cost_sensitivity = 1;
  s.quality_sensitivity = 0;
  router_estimate(w.router, 0, 0, &s, &e);
  assert_true(e.share > 0.5);
  s.quality_sensitivity = 1;
  s.explore_share = 1;
  router_estimate(w.router, 0, 4, &s, &e);
  assert_float_equal(e.share, 0.2, 1e-6);
  s.explore_share = 0;
  s.temperature = 10;
  router_estimate(w.router, 0, 4, &s, &e);
  assert_float_equal(e.share, 0.2, 0.01);
  assert_true(router_tick(w.router, (w.second + 1) * NS_PER_S, &s, &w.table));
  assert_float_equal(w.table.temperature, 10, 0);
  router_destroy(w.router);
}

/* Self-normalised inverse propensity: what would arm 1 alone have earned? */
static void snips_of_a_fixed_arm_covers_its_true_utility(void **state) {
  (void)state;
  int covered = 0;
  enum { RUNS = 40 };
  for (uint64_t seed = 1; seed <= RUNS; seed++) {
    struct arms w;
    double weights = 0, weighted = 0, squares = 0;
    static struct { double w, u; } kept[20000];
    int n = 0;
    arms_begin(&w, five, 5, seed);
    w.settings.explore_share = 0.1;
    for (int s = 0; s < 3000; s++) {
      for (int i = 0; i < w.rate; i++) {
        arms_request(&w);
        if (w.last.candidate != 1) continue;
        kept[n].w = 1 / (double)w.last.propensity;
        kept[n].u = w.last_utility;
        weights += kept[n].w;
        weighted += kept[n].w * kept[n].u;
        n++;
      }
      arms_tick(&w);
    }
    double estimate = weighted / weights;
    for (int i = 0; i < n; i++)
      squares += pow(kept[i].w * (kept[i].u - estimate), 2);
    covered += fabs(estimate - arm_utility(&five[1])) < 1.96 * sqrt(squares) / weights;
    router_destroy(w.router);
  }
  assert_in_range(covered, 34, RUNS);
}

/* ---- state ---- */

static void saved_state_comes_back_by_name(void **state) {
  (void)state;
  struct arms w;
  struct router_estimate a, b;
  struct route_table table;
  arms_begin(&w, five, 5, 6);
  arms_run(&w, 900);
  char *json = router_save(w.router);
  struct router *again = arms_router(5);
  assert_int_equal(router_load(again, json), 0);
  for (unsigned i = 0; i < 5; i++) {
    router_estimate(w.router, 0, i, &w.settings, &a);
    router_estimate(again, 0, i, &w.settings, &b);
    assert_float_equal(a.utility, b.utility, 1e-6);
    assert_float_equal(a.score, b.score, 0.02);
    assert_float_equal(a.in_target_n, b.in_target_n, 1e-3);
  }
  assert_true(router_tick(again, NS_PER_S, &w.settings, &table));
  assert_int_equal(table.version, 1);
  char *twice = router_save(again);
  assert_string_equal(json, twice);
  struct router_provider p[1] = {{"c", "model-c", 1, 1}};
  struct router_route route = {"auto", {0}, 1};
  struct router *renamed = router_create(&(struct router_config){1, 1, p, &route, arms_objective});
  assert_int_equal(router_load(renamed, json), 0);
  assert_float_equal(router_quality(renamed, 0), router_quality(w.router, 2), 1e-6);
  free(json);
  free(twice);
  router_destroy(w.router);
  router_destroy(again);
  router_destroy(renamed);
}

static void description_names_every_candidate(void **state) {
  (void)state;
  struct router *r = arms_router(2);
  struct router_settings s = arms_settings();
  char *json = router_describe(r, &s);
  assert_non_null(strstr(
      json, "[{\"name\":\"auto\",\"candidates\":[{\"provider\":\"a\",\"model\":\"model-a\",\"share\":0.5,"));
  assert_non_null(strstr(json, "\"provider\":\"b\""));
  free(json);
  router_destroy(r);
  router_destroy(NULL);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(regret_on_five_steady_arms_is_small_and_falls),
      cmocka_unit_test(exploring_fades_with_rewards_down_to_its_share),
      cmocka_unit_test(a_best_arm_that_switches_is_followed),
      cmocka_unit_test(a_quality_step_moves_the_traffic_within_minutes),
      cmocka_unit_test(deployments_of_one_model_share_its_quality),
      cmocka_unit_test(rewards_out_of_range_are_ignored),
      cmocka_unit_test(without_traffic_nothing_fades),
      cmocka_unit_test(settings_act),
      cmocka_unit_test(snips_of_a_fixed_arm_covers_its_true_utility),
      cmocka_unit_test(saved_state_comes_back_by_name),
      cmocka_unit_test(description_names_every_candidate),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
