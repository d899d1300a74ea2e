/* Which of two close changes is undone, in the simulated world. */

#include "steady.h"

static int put(struct world *w, const char *actor, const char *name, double value) {
  struct command c = {
      .kind = COMMAND_SET, .actor = actor, .reason = "test", .change_count = 1, .changes = {{name, value}}};
  return world_command(w, &c);
}

static int push_limits(struct world *w, double value) {
  static char names[MAX_PROVIDERS][2 * NAME_SIZE];
  struct command c = {.kind = COMMAND_SET, .actor = "http", .reason = "test"};
  for (unsigned i = 0; i < world_plane(w)->provider_count; i++) {
    snprintf(names[i], sizeof names[i], "concurrency_limit.%s", world_plane(w)->provider_names[i]);
    c.changes[i].name = names[i];
    c.changes[c.change_count++].value = value;
  }
  return world_command(w, &c);
}

static const struct recorded_change *change_of(struct world *w, const char *name, const char *actor) {
  struct recorder *r = world_recorder(w);
  for (size_t i = 0; i < recorder_change_count(r); i++) {
    const struct recorded_change *c = recorder_change(r, i);
    if (strcmp(c->row.name, name) == 0 && strcmp(c->row.actor, actor) == 0) return c;
  }
  return NULL;
}

static void expect(struct world *w, const char *name, const char *actor, const char *outcome) {
  const struct recorded_change *c = change_of(w, name, actor);
  assert_non_null(c);
  assert_non_null(c->outcome);
  assert_string_equal(c->outcome, outcome);
}

/* The demo: an experiment's value is promoted ten seconds before a person pushes what does harm. */
static void a_promotion_just_before_a_harmful_push_is_kept(void **state) {
  (void)state;
  struct world *w = make(false);
  world_run_until(w, 40 * MINUTE_NS);
  assert_int_equal(put(w, "experiment:x", "retry_base_ms", 50), 200);
  world_run_until(w, 40 * MINUTE_NS + 10 * NS_PER_S);
  assert_int_equal(push_limits(w, 2), 200);
  world_run_until(w, 50 * MINUTE_NS);
  expect(w, "concurrency_limit.own-small", "http", "undone");
  expect(w, "retry_base_ms", "experiment:x", "kept");
  assert_null(change_of(w, "retry_base_ms", "rollback"));
  world_destroy(w);
}

static void a_promotion_just_after_a_harmful_push_is_kept(void **state) {
  (void)state;
  struct world *w = make(false);
  world_run_until(w, 40 * MINUTE_NS);
  assert_int_equal(push_limits(w, 2), 200);
  world_run_until(w, 40 * MINUTE_NS + 10 * NS_PER_S);
  assert_int_equal(put(w, "experiment:x", "retry_base_ms", 50), 200);
  world_run_until(w, 50 * MINUTE_NS);
  expect(w, "concurrency_limit.own-small", "http", "undone");
  expect(w, "retry_base_ms", "experiment:x", "kept");
  assert_null(change_of(w, "retry_base_ms", "rollback"));
  world_destroy(w);
}

/* Nothing tells these two apart: the later one is tried first, and made again when harm goes on without it.
 */
static void a_change_that_was_undone_in_error_is_made_again(void **state) {
  (void)state;
  struct world *w = make(false);
  world_run_until(w, 40 * MINUTE_NS);
  assert_int_equal(push_limits(w, 2), 200);
  world_run_until(w, 40 * MINUTE_NS + 10 * NS_PER_S);
  assert_int_equal(put(w, "http", "idle_timeout_ms", 16000), 200);
  world_run_until(w, 60 * MINUTE_NS);
  expect(w, "concurrency_limit.own-small", "http", "undone");
  expect(w, "idle_timeout_ms", "http", "undone");
  expect(w, "idle_timeout_ms", "judge", "kept");
  assert_non_null(strstr(change_of(w, "idle_timeout_ms", "judge")->row.reason, "made again"));
  assert_true(tunable_get(&world_plane(w)->tunables, TUNABLE_idle_timeout_ms) == 16000);
  world_destroy(w);
}

/* One of the values was moved by its controller meanwhile: that one is left where it is. */
static void undoing_leaves_what_has_moved_on(void **state) {
  (void)state;
  struct world *w = make(false);
  struct tunable_key moved;
  assert_int_equal(tunable_find("concurrency_limit.own-small", world_plane(w)->provider_names,
                                world_plane(w)->provider_count, &moved),
                   0);
  world_run_until(w, 40 * MINUTE_NS);
  assert_int_equal(push_limits(w, 2), 200);
  tunable_set(&world_plane(w)->tunables, moved, 3);
  world_run_until(w, 50 * MINUTE_NS);
  expect(w, "concurrency_limit.own-small", "http", "undone");
  assert_null(change_of(w, "concurrency_limit.own-small", "rollback"));
  world_destroy(w);
}

static const struct experiment_row *run_experiment(struct world *w, bool hurts) {
  struct command c = {.kind = COMMAND_EXPERIMENT_CREATE,
                      .name = "e",
                      .text = "retry_base_ms",
                      .treatment = 120,
                      .share = 0.5,
                      .duration_s = 3600};
  world_run_until(w, 40 * MINUTE_NS);
  assert_int_equal(world_command(w, &c), 201);
  struct tunable_key shared = {TUNABLE_first_token_timeout_ms, 0}; /* what a breaker would do, or a limit */
  if (hurts) tunable_set(&world_plane(w)->tunables, shared, 400);
  world_run_until(w, 50 * MINUTE_NS);
  assert_int_equal(recorder_experiment_count(world_recorder(w)), 1);
  return recorder_experiment(world_recorder(w), 0);
}

/* No comparison of the two would show it. */
static void an_experiment_that_hurts_both_groups_alike_is_stopped(void **state) {
  (void)state;
  struct world *w = make(false);
  const struct experiment_row *e = run_experiment(w, true);
  assert_string_equal(e->status, "guardrail");
  assert_in_range(e->ended_ms - e->started_ms, 1, 300 * 1000);
  assert_non_null(strstr(e->verdict, "of both groups"));
  world_destroy(w);
  w = make(false);
  assert_string_equal(run_experiment(w, false)->status, "running");
  world_destroy(w);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_promotion_just_before_a_harmful_push_is_kept),
      cmocka_unit_test(a_promotion_just_after_a_harmful_push_is_kept),
      cmocka_unit_test(a_change_that_was_undone_in_error_is_made_again),
      cmocka_unit_test(an_experiment_that_hurts_both_groups_alike_is_stopped),
      cmocka_unit_test(undoing_leaves_what_has_moved_on),
  };
  return cmocka_run_group_tests_name("trials", tests, open_data, close_data);
}
