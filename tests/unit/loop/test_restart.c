/* What a restart, a failed commit or an experiment in between must not spoil. */

#include "stage_set.h"

#include "evolve/experiment.h"

#include <errno.h>

static int set(struct stage_set *s, const char *name, double value) {
  struct command c = {.kind = COMMAND_SET, .unguarded = true, .change_count = 1, .changes = {{name, value}}};
  return command(s, &c);
}

static void begin_switchback(struct stage_set *s) {
  struct command create = {.kind = COMMAND_EXPERIMENT_CREATE,
                           .name = "x",
                           .text = "breaker_timeout_ms",
                           .treatment = 9999,
                           .duration_s = 86400};
  assert_int_equal(command(s, &create), 201);
  for (int i = 0; i < 7200 && value(s, TUNABLE_breaker_timeout_ms) != 9999; i++)
    tick(s, 1);
  assert_true(value(s, TUNABLE_breaker_timeout_ms) == 9999);
}

static void a_treatment_reaches_neither_snapshot_nor_database(void **state) {
  (void)state;
  static struct stage_set s;
  open_set(&s, false);
  double control = value(&s, TUNABLE_breaker_timeout_ms);
  char line[64];
  begin_switchback(&s);
  assert_int_equal(set(&s, "retry_base_ms", 200), 200);
  snprintf(line, sizeof line, "breaker_timeout_ms=%g\n", control);
  assert_non_null(strstr(s.kept.config, line));
  struct command release = {.kind = COMMAND_RELEASE, .name = "breaker_timeout_ms"};
  assert_int_equal(command(&s, &release), 409);
  put_value(s.loop, (struct tunable_key){TUNABLE_breaker_timeout_ms, 0});
  assert_true(s.kept.stored_value == control);
  close_set(&s);
}

static void restore_with(struct stage_set *s, struct experiment_row *row, double control_now) {
  struct value_row values[] = {{"retry_base_ms", control_now, NAN, 0, "http"}};
  struct store_state stored = {
      .values = values, .value_count = 1, .experiments = row, .experiment_count = 1, .last_experiment_id = 4};
  assert_int_equal(loop_restore(s->loop, &stored, NULL, NULL, s->rig.now_ns, s->wall_ms), 0);
}

static struct experiment_row stored_experiment(const char *tunable, char **spec_json) {
  struct experiment_spec spec = {.id = 4,
                                 .design = TRIAL_SESSION,
                                 .control = 150,
                                 .treatment = 300,
                                 .share = 0.5,
                                 .duration_s = 3600,
                                 .seed = 1};
  snprintf(spec.name, sizeof spec.name, "x");
  snprintf(spec.tunable, sizeof spec.tunable, "%s", tunable);
  spec.key = (struct tunable_key){TUNABLE_retry_base_ms, 0};
  struct experiment *e = experiment_create(&spec, 0);
  *spec_json = experiment_spec_json(e);
  experiment_destroy(e);
  return (struct experiment_row){.id = 4,
                                 .name = "x",
                                 .tunable = tunable,
                                 .status = "running",
                                 .control = 150,
                                 .treatment = 300,
                                 .spec = *spec_json};
}

static void an_experiment_goes_on_only_where_its_control_value_still_holds(void **state) {
  static const struct {
    const char *tunable;
    double now;
    const char *status, *words;
  } cases[] = {{"retry_base_ms", 150, "running", NULL},
               {"retry_base_ms", 175, "stopped", "set anew"},
               {"concurrency_limit.gone", 150, "stopped", "gone from the configuration"}};
  (void)state;
  for (int i = 0; i < 3; i++) {
    static struct stage_set s;
    char *spec;
    open_set(&s, false);
    struct experiment_row row = stored_experiment(cases[i].tunable, &spec);
    snprintf(s.kept.status, sizeof s.kept.status, "running");
    restore_with(&s, &row, cases[i].now);
    assert_string_equal(s.kept.status, cases[i].status);
    if (cases[i].words) assert_non_null(strstr(s.kept.verdict, cases[i].words));
    assert_true(value(&s, TUNABLE_retry_base_ms) == cases[i].now);
    assert_int_equal(s.loop->experiment_count, cases[i].words ? 0 : 1);
    free(spec);
    close_set(&s);
  }
}

static void who_only_observes_leaves_experiments_and_trials_to_the_next_start(void **state) {
  (void)state;
  static struct stage_set s;
  char *spec;
  open_set(&s, true);
  struct experiment_row row = stored_experiment("retry_base_ms", &spec);
  struct value_row values[] = {{"retry_attempts", 9, 3, INT64_MAX, "http"},
                               {"retry_base_ms", 150, NAN, 0, "http"}};
  struct ledger_row open[] = {
      {.id = 12, .kind = "change", .name = "retry_attempts", .from = 4, .to = 9, .trial = 12}};
  struct store_state stored = {.values = values,
                               .value_count = 2,
                               .open_trials = open,
                               .open_trial_count = 1,
                               .experiments = &row,
                               .experiment_count = 1,
                               .last_ledger_id = 12};
  assert_int_equal(loop_restore(s.loop, &stored, NULL, NULL, s.rig.now_ns, s.wall_ms), 0);
  assert_int_equal(s.kept.judgements, 0);
  assert_int_equal(s.loop->experiment_count, 0);
  assert_string_equal(s.kept.status, "");
  struct command create = {
      .kind = COMMAND_EXPERIMENT_CREATE, .name = "y", .text = "retry_max_ms", .treatment = 900};
  assert_int_equal(command(&s, &create), 409);
  free(spec);
  close_set(&s);
}

static void what_undoes_a_trial_of_several_values_belongs_to_it(void **state) {
  (void)state;
  static struct stage_set s;
  open_set(&s, false);
  struct value_row values[] = {{"retry_attempts", 9, NAN, INT64_MAX, "http"}};
  struct ledger_row open[] = {
      {.id = 13, .kind = "change", .name = "retry_attempts", .from = 3, .to = 9, .trial = 12}};
  struct store_state stored = {
      .values = values, .value_count = 1, .open_trials = open, .open_trial_count = 1, .last_ledger_id = 13};
  assert_int_equal(loop_restore(s.loop, &stored, NULL, NULL, s.rig.now_ns, s.wall_ms), 0);
  assert_true(value(&s, TUNABLE_retry_attempts) == 3);
  assert_int_equal(s.kept.last.trial, 12);
  assert_int_equal(s.kept.judged_id, 13);
  close_set(&s);
}

static void a_change_that_could_not_be_committed_leaves_no_trial_to_undo_later(void **state) {
  (void)state;
  static struct stage_set s;
  open_set(&s, false);
  s.kept.commit_result = -EIO;
  assert_int_equal(put(&s, "retry_attempts", 5), 503);
  assert_string_equal(s.kept.outcome, "superseded");
  assert_int_equal(s.loop->trial_count, 0);
  close_set(&s);
}

static void a_stop_that_is_not_on_disk_is_not_answered_with_200(void **state) {
  (void)state;
  static struct stage_set s;
  open_set(&s, false);
  begin_switchback(&s);
  s.kept.commit_result = -EIO;
  struct command stop = {.kind = COMMAND_EXPERIMENT_STOP, .name = "x"};
  assert_int_equal(command(&s, &stop), 503);
  close_set(&s);
}

static void a_value_set_without_a_guard_ends_the_trial_on_it(void **state) {
  (void)state;
  static struct stage_set s;
  open_set(&s, false);
  assert_int_equal(put(&s, "retry_attempts", 5), 200);
  assert_int_equal(set(&s, "retry_attempts", 2), 200);
  assert_string_equal(s.kept.outcome, "superseded");
  assert_int_equal(s.loop->trial_count, 0);
  assert_true(value(&s, TUNABLE_retry_attempts) == 2);
  close_set(&s);
}

/* A person tried a value, found it good, and wrote it into the file. */
static void what_the_file_says_anew_is_no_unjudged_trial(void **state) {
  (void)state;
  static struct stage_set s;
  static double file[TUNABLES][MAX_PROVIDERS];
  open_set(&s, false);
  for (int id = 0; id < TUNABLES; id++)
    for (int p = 0; p < MAX_PROVIDERS; p++)
      file[id][p] = NAN;
  file[TUNABLE_retry_attempts][0] = 9;
  struct value_row values[] = {{"retry_attempts", 9, 3, INT64_MAX, "http"}};
  struct ledger_row open[] = {
      {.id = 12, .kind = "change", .name = "retry_attempts", .from = 3, .to = 9, .trial = 12}};
  struct store_state stored = {
      .values = values, .value_count = 1, .open_trials = open, .open_trial_count = 1, .last_ledger_id = 12};
  assert_int_equal(loop_restore(s.loop, &stored, file, NULL, s.rig.now_ns, s.wall_ms), 0);
  assert_true(value(&s, TUNABLE_retry_attempts) == 9);
  assert_string_equal(s.kept.outcome, "superseded");
  close_set(&s);
}

static void an_open_episode_is_written_while_it_goes_on(void **state) {
  (void)state;
  static struct stage_set s;
  open_set(&s, false);
  struct tunable_key key = {TUNABLE_concurrency_limit, 0};
  for (int i = 0; i < 30; i++) {
    tick(&s, 1);
    regulate(s.loop, key, 1, "test", 0);
  }
  assert_true(s.kept.episode_to < 64 && s.kept.episode_to <= value_now(s.loop, key) * 1.5);
  assert_true(s.loop->actuators[key.id][0].episode.count > 3);
  assert_true(s.kept.episodes > 1);
  close_set(&s);
}

static void refusals_count_once_however_many_rewards_come(void **state) {
  (void)state;
  static struct stage_set s;
  open_set(&s, false);
  counter_add(&s.rig.telemetry->counters, COUNTER_requests_limited, 0, 5);
  tick(&s, 1);
  struct command reward = {.kind = COMMAND_REWARD, .request = 12345, .value = 0.8, .provider = -1};
  for (int i = 0; i < 10; i++)
    assert_int_equal(command(&s, &reward), 404);
  double qualities[MAX_PROVIDERS];
  struct judge_view view = {qualities, &s.rig.plane->objective};
  struct judge_score score;
  judge_qualities(s.loop, qualities);
  judge_score(s.loop->judge, 0, s.rig.now_ns + S(10), &view, &score);
  assert_true(score.requests == 5);
  close_set(&s);
}

static double rewards_learned(struct stage_set *s) {
  struct router_estimate e;
  struct router_settings settings = router_settings_now(s->loop);
  router_estimate(s->loop->router, 0, 0, &settings, &e);
  return e.quality_rewards;
}

static void an_old_answer_is_learned_from_once(void **state) {
  (void)state;
  static struct stage_set s;
  open_set(&s, false);
  struct command reward = {
      .kind = COMMAND_REWARD, .request = 12345, .value = 0.8, .provider = 0, .rewarded = true};
  assert_int_equal(command(&s, &reward), 200);
  double before = rewards_learned(&s);
  reward.request = 54321;
  reward.rewarded = false;
  for (int i = 0; i < 10; i++)
    assert_int_equal(command(&s, &reward), 200);
  assert_true(before == 0 && rewards_learned(&s) == 1);
  close_set(&s);
}

/* Between two ticks: those requests were split by nobody. */
static void requests_from_before_an_experiment_do_not_count_in_it(void **state) {
  (void)state;
  static struct stage_set s;
  open_set(&s, false);
  tick(&s, 1);
  rig_until(&s.rig, MS(400));
  for (unsigned n = 0; n < 20; n++)
    rig_ask(&s.rig, n, (struct ask){.no_coalesce = true});
  struct command create = {
      .kind = COMMAND_EXPERIMENT_CREATE, .name = "x", .text = "retry_base_ms", .treatment = 300};
  assert_int_equal(command(&s, &create), 201);
  tick(&s, 3);
  const struct experiment_status *status = &s.loop->experiments[0].status;
  assert_int_equal(s.loop->experiment_count, 1);
  assert_int_equal(status->control_units + status->treatment_units, 0);
  for (unsigned n = 20; n < 40; n++)
    rig_ask(&s.rig, n, (struct ask){.no_coalesce = true});
  tick(&s, 3);
  assert_int_equal(status->control_units + status->treatment_units, 20);
  close_set(&s);
}

static void instances_start_within_what_the_configuration_allows_now(void **state) {
  (void)state;
  static struct stage_set s;
  open_local(&s);
  struct value_row values[] = {{"instances.p0", 9, NAN, INT64_MAX, "http"}};
  struct store_state stored = {.values = values, .value_count = 1};
  assert_int_equal(loop_restore(s.loop, &stored, NULL, NULL, s.rig.now_ns, s.wall_ms), 0);
  assert_true(value(&s, TUNABLE_instances) == 3);
  assert_string_equal(s.kept.name, "instances.p0");
  close_set(&s);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_treatment_reaches_neither_snapshot_nor_database),
      cmocka_unit_test(an_experiment_goes_on_only_where_its_control_value_still_holds),
      cmocka_unit_test(who_only_observes_leaves_experiments_and_trials_to_the_next_start),
      cmocka_unit_test(what_undoes_a_trial_of_several_values_belongs_to_it),
      cmocka_unit_test(a_change_that_could_not_be_committed_leaves_no_trial_to_undo_later),
      cmocka_unit_test(a_stop_that_is_not_on_disk_is_not_answered_with_200),
      cmocka_unit_test(a_value_set_without_a_guard_ends_the_trial_on_it),
      cmocka_unit_test(what_the_file_says_anew_is_no_unjudged_trial),
      cmocka_unit_test(an_open_episode_is_written_while_it_goes_on),
      cmocka_unit_test(refusals_count_once_however_many_rewards_come),
      cmocka_unit_test(an_old_answer_is_learned_from_once),
      cmocka_unit_test(requests_from_before_an_experiment_do_not_count_in_it),
      cmocka_unit_test(instances_start_within_what_the_configuration_allows_now),
  };
  return cmocka_run_group_tests_name("restart", tests, NULL, NULL);
}
