/* Controllers under suspicion, in the simulated world: a sensor that lies to the limiters, and falls of
 * utility that no controller caused. */

#include "steady.h"

/* Just before each tick, so that the true limiter finds its cooldown not over: every limit walks down to 1.
 */
static void walk_limits_down(void *ctx, struct world *w, int64_t at_ns) {
  int64_t until_ns = *(const int64_t *)ctx;
  struct loop *loop = world_loop(w);
  for (unsigned i = 0; i < world_plane(w)->provider_count; i++)
    regulate(loop, (struct tunable_key){TUNABLE_concurrency_limit, (uint16_t)i}, 1,
             "a sensor that lies says that it is slow", (int)i);
  if (at_ns + NS_PER_S < until_ns) world_at(w, at_ns + NS_PER_S, walk_limits_down, ctx);
}

static double limit(struct world *w, unsigned provider) {
  return tunable_of(&world_plane(w)->tunables, TUNABLE_concurrency_limit, provider);
}

struct told {
  unsigned by_judge, harmful, released, held, given_back;
};

static struct told told_by(struct world *w) {
  struct told told = {0};
  struct recorder *r = world_recorder(w);
  for (size_t i = 0; i < recorder_change_count(r); i++) {
    const struct recorded_change *c = recorder_change(r, i);
    if (c->outcome && strcmp(c->outcome, "harmful") == 0) {
      told.harmful++;
      assert_string_equal(c->row.kind, "episode");
      assert_true(c->effect < -0.03);
      assert_non_null(strstr(c->words, "held for 10 min"));
    }
    if (strcmp(c->row.actor, "judge") != 0) continue;
    told.by_judge++;
    told.released += strstr(c->row.reason, "released") != NULL;
    told.held += strstr(c->row.reason, "and held for") != NULL;
    told.given_back += strstr(c->row.reason, "given back to its controller") != NULL;
  }
  return told;
}

static void a_controller_that_does_harm_is_put_back_held_and_released(void **state) {
  static const int64_t until_ns = 50 * MINUTE_NS;
  (void)state;
  struct world *w = make(false);
  world_at(w, 40 * MINUTE_NS - 10 * NS_PER_MS, walk_limits_down, (void *)&until_ns);
  world_run_until(w, 40 * MINUTE_NS - NS_PER_S);
  double good[MAX_PROVIDERS];
  for (unsigned i = 0; i < world_plane(w)->provider_count; i++)
    good[i] = limit(w, i);
  world_run_until(w, 48 * MINUTE_NS);
  if (getenv("SHOW")) recorder_why(world_recorder(w), "concurrency_limit.own-small", 20, stdout);
  struct told told = told_by(w);
  assert_true(told.harmful > 0 && told.harmful == told.held);
  assert_int_equal(told.given_back, 0);
  for (unsigned i = 0; i < world_plane(w)->provider_count; i++)
    assert_true(limit(w, i) > good[i] / 2);
  assert_int_equal(told.released, 0);
  world_run_until(w, 60 * MINUTE_NS);
  assert_int_equal(told_by(w).released, told.held);
  char *why = NULL;
  size_t size;
  FILE *out = open_memstream(&why, &size);
  recorder_why(world_recorder(w), "concurrency_limit.own-small", 20, out);
  fclose(out);
  assert_non_null(strstr(why, "harmful"));
  assert_non_null(strstr(why, "put back to its last good value and held"));
  free(why);
  world_destroy(w);
}

/* One call less every three seconds: the other controllers have time to answer the harm. */
static void creep_down(void *ctx, struct world *w, int64_t at_ns) {
  int64_t until_ns = *(const int64_t *)ctx;
  for (unsigned i = 0; i < world_plane(w)->provider_count; i++)
    regulate(world_loop(w), (struct tunable_key){TUNABLE_concurrency_limit, (uint16_t)i}, limit(w, i) - 1,
             "a sensor that lies says that it is slow", (int)i);
  if (at_ns + 3 * NS_PER_S < until_ns) world_at(w, at_ns + 3 * NS_PER_S, creep_down, ctx);
}

static void of_many_controllers_that_moved_the_one_that_moved_furthest_is_put_back(void **state) {
  static const int64_t until_ns = 55 * MINUTE_NS;
  (void)state;
  struct world *w = make(false);
  world_at(w, 40 * MINUTE_NS - 10 * NS_PER_MS, creep_down, (void *)&until_ns);
  world_run_until(w, 39 * MINUTE_NS);
  double good[MAX_PROVIDERS];
  for (unsigned i = 0; i < world_plane(w)->provider_count; i++)
    good[i] = limit(w, i);
  world_run_until(w, 50 * MINUTE_NS);
  struct recorder *r = world_recorder(w);
  unsigned harmful = 0;
  for (size_t i = 0; i < recorder_change_count(r); i++) {
    const struct recorded_change *c = recorder_change(r, i);
    if (!c->outcome || strcmp(c->outcome, "harmful") != 0) continue;
    assert_memory_equal(c->row.name, "concurrency_limit.", 18);
    harmful++;
  }
  assert_int_equal(harmful, world_plane(w)->provider_count);
  for (unsigned i = 0; i < world_plane(w)->provider_count; i++)
    assert_true(limit(w, i) > good[i] * 0.7);
  world_destroy(w);
}

static void sixty_calm_minutes_suspect_nobody(void **state) {
  (void)state;
  struct world *w = make(false);
  world_run_until(w, 60 * MINUTE_NS);
  assert_int_equal(told_by(w).by_judge, 0);
  world_destroy(w);
}

/* Another cause: half the answers of every provider get lost while the limiters happen to move. */
static void a_fall_with_another_cause_convicts_nobody(void **state) {
  (void)state;
  struct world *w = make(false);
  world_run_until(w, 40 * MINUTE_NS);
  struct command c = {.kind = COMMAND_SET,
                      .actor = "http",
                      .reason = "test",
                      .unguarded = true,
                      .change_count = 1,
                      .changes = {{"first_token_timeout_ms", 500}}};
  assert_int_equal(world_command(w, &c), 200);
  for (int i = 0; i < 8; i++) {
    struct tunable_key key = {TUNABLE_concurrency_limit, (uint16_t)(i % 4)};
    regulate(world_loop(w), key, 40, "by chance at the same time", key.provider);
    world_run_until(w, 40 * MINUTE_NS + (i + 1) * 2 * NS_PER_S);
  }
  world_run_until(w, 60 * MINUTE_NS);
  if (getenv("SHOW")) recorder_why(world_recorder(w), "concurrency_limit.own-small", 20, stdout);
  assert_int_equal(told_by(w).harmful, 0);
  world_destroy(w);
}

static int64_t first_trial_ms(struct world *w) {
  struct recorder *r = world_recorder(w);
  for (size_t i = 0; i < recorder_change_count(r); i++)
    if (strcmp(recorder_change(r, i)->row.actor, "judge") == 0) return recorder_change(r, i)->row.wall_ms;
  return 0;
}

/* Traffic ends while the values are put back: the controller is neither guilty nor innocent. */
static void silence_acquits_nobody(void **state) {
  static const int64_t until_ns = 45 * MINUTE_NS;
  (void)state;
  struct scenario_event *silence = &scenario->events[0];
  assert_int_equal(scenario_event_init(silence, "flash_crowd"), 0);
  silence->factor = 1e-6;
  silence->at_ns = 79 * MINUTE_NS;
  scenario->event_count = 1;
  for (int silent = 0; silent < 2; silent++) {
    struct world *w = make(false);
    int64_t begin_ms = world_wall_ms(w);
    world_at(w, 40 * MINUTE_NS - 10 * NS_PER_MS, walk_limits_down, (void *)&until_ns);
    world_run_until(w, 60 * MINUTE_NS);
    assert_true(first_trial_ms(w) > 0);
    silence->at_ns = (first_trial_ms(w) - begin_ms + 10000) * NS_PER_MS;
    silence->until_ns = silence->at_ns + 10 * MINUTE_NS;
    struct recorder *r = world_recorder(w);
    unsigned nothing = 0;
    for (size_t i = 0; i < recorder_change_count(r); i++) {
      assert_null(strstr(recorder_change(r, i)->row.reason, "was nan"));
      assert_null(strstr(recorder_change(r, i)->row.reason, "nan without"));
      nothing += strstr(recorder_change(r, i)->row.reason, "nothing to compare") != NULL;
    }
    assert_true(silent ? nothing > 0 : nothing == 0);
    world_destroy(w);
  }
  scenario->event_count = 0;
}

static void who_only_observes_tries_nothing(void **state) {
  static const int64_t until_ns = 50 * MINUTE_NS;
  (void)state;
  struct world *w = make(true);
  world_at(w, 40 * MINUTE_NS - 10 * NS_PER_MS, walk_limits_down, (void *)&until_ns);
  world_run_until(w, 60 * MINUTE_NS);
  assert_int_equal(told_by(w).by_judge, 0);
  world_destroy(w);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_controller_that_does_harm_is_put_back_held_and_released),
      cmocka_unit_test(of_many_controllers_that_moved_the_one_that_moved_furthest_is_put_back),
      cmocka_unit_test(sixty_calm_minutes_suspect_nobody),
      cmocka_unit_test(a_fall_with_another_cause_convicts_nobody),
      cmocka_unit_test(silence_acquits_nobody),
      cmocka_unit_test(who_only_observes_tries_nothing),
  };
  return cmocka_run_group_tests_name("probation", tests, open_data, close_data);
}
