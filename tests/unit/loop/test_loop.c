#include "stage_set.h"

#include "evolve/internal.h"

static void an_hour_without_traffic_moves_nothing(void **state) {
  (void)state;
  static struct stage_set s;
  open_set(&s, false);
  assert_int_equal(loop_restore(s.loop, NULL, NULL, NULL, s.rig.now_ns, s.wall_ms), 0);
  unsigned before = s.kept.ledger;
  tick(&s, 3600);
  assert_int_equal(s.kept.ledger, before);
  for (int id = 0; id < TUNABLES; id++)
    for (unsigned p = 0; p < 2; p++)
      assert_true(tunable_of(&s.rig.plane->tunables, (enum tunable_id)id, p) == tunable_infos[id].initial);
  assert_int_equal(s.kept.frames, 3600);
  close_set(&s);
}

static void a_change_is_checked_whole_and_answered_after_its_commit(void **state) {
  (void)state;
  static struct stage_set s;
  open_set(&s, false);
  assert_int_equal(put(&s, "retry_attempts", 5), 200);
  assert_int_equal(s.kept.commits, 1);
  assert_true(value(&s, TUNABLE_retry_attempts) == 5);
  assert_string_equal(s.kept.name, "retry_attempts");
  assert_string_equal(s.kept.actor, "http");
  assert_true(s.kept.last.from == 3 && s.kept.last.to == 5);
  assert_int_equal(put(&s, "retry_attempts", 11), 400);
  assert_int_equal(put(&s, "retry_attempts", 2.5), 400);
  assert_int_equal(put(&s, "retry_attempts", NAN), 400);
  assert_int_equal(put(&s, "no_such", 1), 404);
  assert_int_equal(put(&s, "concurrency_limit", 1), 404);
  assert_int_equal(put(&s, "concurrency_limit.p1", 7), 200);
  assert_true(tunable_of(&s.rig.plane->tunables, TUNABLE_concurrency_limit, 1) == 7);
  close_set(&s);
}

static void a_change_that_cannot_be_committed_is_taken_back(void **state) {
  (void)state;
  static struct stage_set s;
  open_set(&s, false);
  s.kept.commit_result = -5;
  assert_int_equal(put(&s, "retry_attempts", 5), 503);
  assert_true(value(&s, TUNABLE_retry_attempts) == 3);
  s.kept.commit_result = 0;
  assert_int_equal(put(&s, "retry_attempts", 5), 200);
  close_set(&s);
}

static void two_trials_in_one_group_never_run_together(void **state) {
  (void)state;
  static struct stage_set s;
  open_set(&s, false);
  assert_int_equal(put(&s, "retry_attempts", 5), 200);
  assert_int_equal(put(&s, "retry_base_ms", 200), 409);
  assert_int_equal(put(&s, "idle_timeout_ms", 20000), 200);
  struct command c = {.kind = COMMAND_EXPERIMENT_CREATE,
                      .name = "x",
                      .text = "retry_max_ms",
                      .treatment = 1000,
                      .share = 0.5};
  assert_int_equal(command(&s, &c), 409);
  tick(&s, 320); /* without traffic the window passes unjudged */
  assert_string_equal(s.kept.outcome, "kept");
  assert_int_equal(put(&s, "retry_base_ms", 200), 200);
  close_set(&s);
}

static void a_value_that_stays_is_held_and_opens_no_trial(void **state) {
  (void)state;
  static struct stage_set s;
  open_set(&s, false);
  struct tunable_key key = {TUNABLE_retry_attempts, 0};
  assert_int_equal(put(&s, "retry_attempts", value_now(s.loop, key)), 200);
  assert_int_equal(s.loop->trial_count, 0);
  assert_true(actuator_of(s.loop, key)->hold_until_ms == INT64_MAX);
  assert_int_equal(put(&s, "retry_base_ms", 200), 200); /* its group is free */
  struct command c = {.kind = COMMAND_SET,
                      .change_count = 2,
                      .changes = {{"retry_base_ms", 200}, {"idle_timeout_ms", 12000}}};
  assert_int_equal(command(&s, &c), 200);
  assert_int_equal(s.loop->trial_count, 2);
  assert_int_equal(s.loop->trials[1].change_count, 1);
  close_set(&s);
}

static void an_experiment_whose_name_is_a_number_is_refused(void **state) {
  (void)state;
  static struct stage_set s;
  open_set(&s, false);
  struct command c = {
      .kind = COMMAND_EXPERIMENT_CREATE, .name = "2", .text = "retry_attempts", .treatment = 5};
  assert_int_equal(command(&s, &c), 400);
  close_set(&s);
}

static void an_experiment_leases_its_tunable_until_it_is_stopped(void **state) {
  (void)state;
  static struct stage_set s;
  open_set(&s, false);
  struct command create = {.kind = COMMAND_EXPERIMENT_CREATE,
                           .name = "x",
                           .text = "retry_base_ms",
                           .treatment = 200,
                           .share = 0.5};
  assert_int_equal(command(&s, &create), 201);
  assert_int_equal(command(&s, &create), 400);
  assert_int_equal(put(&s, "retry_base_ms", 300), 409);
  unsigned treated = 0;
  for (uint64_t session = 1; session <= 1000; session++)
    treated += tunables_treats(&s.rig.plane->tunables, session);
  assert_in_range(treated, 430, 570);
  assert_true(tunable_for(&s.rig.plane->tunables, TUNABLE_retry_base_ms, true) == 200);
  assert_true(tunable_for(&s.rig.plane->tunables, TUNABLE_retry_base_ms, false) == 100);
  struct command stop = {.kind = COMMAND_EXPERIMENT_STOP, .name = "x"};
  assert_int_equal(command(&s, &stop), 200);
  assert_int_equal(command(&s, &stop), 404);
  assert_false(tunables_treats(&s.rig.plane->tunables, 1) && tunables_treats(&s.rig.plane->tunables, 2));
  assert_int_equal(put(&s, "retry_base_ms", 300), 200);
  close_set(&s);
}

static void of_two_experiments_each_ends_with_its_own_words(void **state) {
  (void)state;
  static struct stage_set s;
  open_set(&s, false);
  struct command create = {.kind = COMMAND_EXPERIMENT_CREATE,
                           .name = "short",
                           .text = "retry_base_ms",
                           .treatment = 200,
                           .duration_s = 10};
  assert_int_equal(command(&s, &create), 201);
  create.name = "long";
  create.text = "coalesce_waiters";
  create.duration_s = 0;
  assert_int_equal(command(&s, &create), 201);
  tick(&s, 12);
  assert_string_equal(s.kept.note, "experiment:short: No difference was proved in the time given: "
                                   "retry_base_ms 200 against 100, too few sessions to say more (0 and 0).");
  close_set(&s);
}

/* Twenty answers a second at p0, whose calls fill its limit: whole ones, which tell no time to the first
 * token.
 */
static void answer_for(struct stage_set *s, int seconds, double tpot_ms) {
  struct provider_state *p0 = &s->rig.plane->providers[0];
  for (int i = 0; i < seconds; i++) {
    atomic_store(&p0->in_flight, plane_limit(s->rig.plane, 0));
    for (int n = 0; n < 20; n++)
      telemetry_tpot(s->rig.telemetry, 0, tpot_ms);
    tick(s, 1);
  }
  atomic_store(&p0->in_flight, 0);
}

static int limit_of_p0(const struct stage_set *s) {
  return (int)tunable_of(&s->rig.plane->tunables, TUNABLE_concurrency_limit, 0);
}

static void a_limit_recovers_though_one_of_its_signals_is_silent(void **state) {
  (void)state;
  static struct stage_set s;
  open_set(&s, false);
  answer_for(&s, 60, 10);
  int before = limit_of_p0(&s);
  assert_in_range(before, 65, 80);
  answer_for(&s, 30, 200);
  assert_in_range(limit_of_p0(&s), 1, 16);
  answer_for(&s, 600, 10);
  assert_in_range(limit_of_p0(&s), before, 200);
  close_set(&s);
}

/* What a limiter wished while it was not heard is not done when it is heard again. */
static void a_held_limit_goes_on_from_its_value_when_the_hold_ends(void **state) {
  (void)state;
  static struct stage_set s;
  open_set(&s, false);
  struct command c = {.kind = COMMAND_SET,
                      .unguarded = true,
                      .change_count = 1,
                      .changes = {{"concurrency_limit.p0", 64}},
                      .hold_until_ms = s.wall_ms + 300000};
  assert_int_equal(command(&s, &c), 200);
  answer_for(&s, 200, 10);
  answer_for(&s, 90, 200);
  answer_for(&s, 9, 10);
  assert_int_equal(limit_of_p0(&s), 64);
  answer_for(&s, 6, 10);
  assert_in_range(limit_of_p0(&s), 63, 68);
  close_set(&s);
}

/* Seldom called and failing late: its failures come in ticks in which nothing begins. */
static void late_failures_make_the_breaker_patient(void **state) {
  (void)state;
  static struct stage_set s;
  open_set(&s, false);
  struct counters *c = &s.rig.telemetry->counters;
  for (unsigned n = 0; n < 400; n++) {
    counter_add(c, COUNTER_attempts, 0, 1);
    tick(&s, 5);
    counter_add(c, n % 3 == 0 ? COUNTER_attempt_timeouts : COUNTER_attempt_successes, 0, 1);
    tick(&s, 5);
  }
  assert_in_range((int)value(&s, TUNABLE_breaker_failure_threshold), 8, 12);
  close_set(&s);
}

static void a_controller_is_bound_by_step_cooldown_hold_and_lease(void **state) {
  (void)state;
  static struct stage_set s;
  open_set(&s, false);
  struct tunable_key key = {TUNABLE_concurrency_limit, 0};
  struct actuator *a = actuator_of(s.loop, key);
  tick(&s, 1);
  assert_true(regulate(s.loop, key, NAN, "test", 0) == 64);
  assert_true(regulate(s.loop, key, 1000, "test", 0) == 96);
  assert_true(regulate(s.loop, key, 1000, "test", 0) == 96); /* in the same second */
  tick(&s, 1);
  assert_true(regulate(s.loop, key, 1000, "test", 0) == 144);
  tick(&s, 1);
  a->hold_until_ms = s.wall_ms + 1;
  assert_true(regulate(s.loop, key, 1000, "test", 0) == 144);
  a->hold_until_ms = s.wall_ms;
  a->experiment = 1;
  assert_true(regulate(s.loop, key, 1000, "test", 0) == 144);
  a->experiment = 0;
  assert_true(regulate(s.loop, key, 1000, "test", 0) == 216);
  close_set(&s);
}

static void an_episode_without_a_pause_is_told_every_ten_minutes(void **state) {
  (void)state;
  static struct stage_set s;
  open_set(&s, false);
  struct tunable_key key = {TUNABLE_concurrency_limit, 0};
  for (int i = 0; i < 1500; i++) {
    tick(&s, 1);
    regulate(s.loop, key, i % 2 ? 64 : 65, "test", 0);
  }
  assert_in_range(actuator_of(s.loop, key)->episode.count, 250, 350);
  close_set(&s);
}

static void a_clock_set_back_keeps_no_episode_open(void **state) {
  (void)state;
  static struct stage_set s;
  open_set(&s, false);
  struct tunable_key key = {TUNABLE_concurrency_limit, 0};
  tick(&s, 1);
  regulate(s.loop, key, 65, "test", 0);
  s.wall_ms -= 86400000;
  tick(&s, 58);
  assert_true(actuator_of(s.loop, key)->episode.open);
  tick(&s, 3);
  assert_false(actuator_of(s.loop, key)->episode.open);
  close_set(&s);
}

/* Else the row of the episode would go on growing behind that of the change, and the ledger's last word on
 * the value would not be the value. */
static void a_change_by_somebody_else_ends_the_episode(void **state) {
  (void)state;
  static struct stage_set s;
  open_set(&s, false);
  struct tunable_key key = {TUNABLE_concurrency_limit, 0};
  tick(&s, 1);
  regulate(s.loop, key, 50, "test", 0);
  int64_t first = actuator_of(s.loop, key)->episode.id;
  double reached = value_now(s.loop, key);
  struct command c = {.kind = COMMAND_SET,
                      .unguarded = true,
                      .hold_until_ms = -1,
                      .change_count = 1,
                      .changes = {{"concurrency_limit.p0", 200}}};
  assert_int_equal(command(&s, &c), 200);
  assert_true(s.kept.episode_to == reached && s.kept.last.from == reached);
  tick(&s, 5);
  regulate(s.loop, key, 150, "test", 0);
  assert_true(actuator_of(s.loop, key)->episode.id > first);
  assert_true(actuator_of(s.loop, key)->episode.first == 200);
  close_set(&s);
}

static void who_is_turned_away_counts_as_served_badly(void **state) {
  (void)state;
  static struct stage_set s;
  open_set(&s, false);
  double qualities[2] = {1, 1};
  struct judge_view view = {qualities, &s.rig.plane->objective};
  struct judge_score score;
  counter_add(&s.rig.telemetry->counters, COUNTER_requests_limited, 0, 7);
  tick(&s, 1);
  judge_score(s.loop->judge, 0, s.rig.now_ns, &view, &score);
  assert_true(score.requests == 7 && score.utility == 0);
  close_set(&s);
}

static void a_promotion_is_applied_held_and_judged(void **state) {
  (void)state;
  static struct stage_set s;
  open_set(&s, false);
  struct command create = {
      .kind = COMMAND_EXPERIMENT_CREATE, .name = "x", .text = "retry_base_ms", .treatment = 200};
  assert_int_equal(command(&s, &create), 201);
  struct experiment *e = s.loop->experiments[0].experiment;
  for (int arm = 0; arm < ARMS; arm++)
    e->arm[arm][MEASURE_UTILITY] = (struct moments){500, 0.5 + 0.3 * arm, 5};
  tick(&s, 1);
  assert_string_equal(s.kept.status, "promoted");
  assert_true(value(&s, TUNABLE_retry_base_ms) == 200);
  assert_string_equal(s.kept.actor, "experiment:x");
  const struct actuator *a = &s.loop->actuators[TUNABLE_retry_base_ms][0];
  assert_true(a->hold_until_ms == INT64_MAX && a->experiment == 0);
  assert_int_equal(s.loop->trial_count, 1);
  close_set(&s);
}

/* Trials are judged every ten seconds, and at once when an incident becomes critical. */
static void a_critical_incident_hastens_the_judgement(void **state) {
  (void)state;
  static struct stage_set s;
  open_set(&s, false);
  struct counters *c = &s.rig.telemetry->counters;
  bool hastened = false;
  for (int i = 0; i < 600; i++) {
    int64_t before_ns = s.loop->judged_ns;
    counter_add(c, COUNTER_attempts, 0, 20);
    counter_add(c, i < 560 ? COUNTER_attempt_successes : COUNTER_attempt_failures, 0, 20);
    tick(&s, 1);
    if (i < 20 || s.loop->judged_ns == before_ns || s.loop->judged_ns - before_ns == S(10)) continue;
    assert_in_range(i, 560, 600);
    hastened = true;
  }
  assert_true(hastened);
  close_set(&s);
}

static void observing_changes_nothing(void **state) {
  (void)state;
  static struct stage_set s;
  open_set(&s, true);
  assert_int_equal(put(&s, "retry_attempts", 5), 409);
  for (unsigned i = 0; i < 300; i++) {
    rig_ask(&s.rig, i, (struct ask){.no_coalesce = true});
    tick(&s, 1);
  }
  for (int id = 0; id < TUNABLES; id++)
    assert_true(value(&s, (enum tunable_id)id) == tunable_infos[id].initial);
  assert_true(s.kept.ledger > 0);
  assert_int_equal(s.kept.episodes, 0); /* what was decided is noted, not told as a change */
  assert_int_equal(atomic_load(&s.rig.plane->table_version), 0);
  close_set(&s);
}

static void at_start_new_file_values_win_over_stored_and_the_environment_over_both(void **state) {
  (void)state;
  static struct stage_set s;
  static double file[TUNABLES][MAX_PROVIDERS], environment[TUNABLES][MAX_PROVIDERS];
  open_set(&s, false);
  for (int id = 0; id < TUNABLES; id++)
    for (int p = 0; p < MAX_PROVIDERS; p++)
      file[id][p] = environment[id][p] = NAN;
  struct value_row values[] = {
      {"retry_attempts", 7, 3, INT64_MAX, "http"}, /* the file said 3 then and says 3 now: stored stands */
      {"retry_base_ms", 200, 100, 0, "http"},      /* the file said 100 and says 150 now: the file wins */
      {"retry_max_ms", 900, NAN, 0, "http"},       /* the environment says 800 */
  };
  struct store_state stored = {.values = values, .value_count = 3, .last_ledger_id = 41};
  file[TUNABLE_retry_attempts][0] = 3;
  file[TUNABLE_retry_base_ms][0] = 150;
  file[TUNABLE_idle_timeout_ms][0] = 9000; /* never stored: the file is how it starts */
  environment[TUNABLE_retry_max_ms][0] = 800;
  assert_int_equal(loop_restore(s.loop, &stored, file, environment, s.rig.now_ns, s.wall_ms), 0);
  assert_true(value(&s, TUNABLE_retry_attempts) == 7);
  assert_true(s.loop->actuators[TUNABLE_retry_attempts][0].hold_until_ms == INT64_MAX);
  assert_true(value(&s, TUNABLE_retry_base_ms) == 150);
  assert_true(value(&s, TUNABLE_retry_max_ms) == 800);
  assert_true(value(&s, TUNABLE_idle_timeout_ms) == 9000);
  assert_int_equal(s.kept.ledger, 2);
  assert_int_equal(s.kept.last.id, 43);
  assert_string_equal(s.kept.actor, "environment");
  close_set(&s);
}

static void an_unjudged_trial_is_undone_at_start(void **state) {
  (void)state;
  static struct stage_set s;
  open_set(&s, false);
  struct value_row values[] = {{"retry_attempts", 9, 3, INT64_MAX, "http"}};
  struct ledger_row open[] = {
      {.id = 12, .kind = "change", .name = "retry_attempts", .from = 4, .to = 9, .trial = 12}};
  struct store_state stored = {
      .values = values, .value_count = 1, .open_trials = open, .open_trial_count = 1, .last_ledger_id = 12};
  assert_int_equal(loop_restore(s.loop, &stored, NULL, NULL, s.rig.now_ns, s.wall_ms), 0);
  assert_true(value(&s, TUNABLE_retry_attempts) == 4);
  assert_true(s.loop->actuators[TUNABLE_retry_attempts][0].hold_until_ms == 0); /* its hold went with it */
  assert_string_equal(s.kept.actor, "rollback");
  assert_string_equal(s.kept.outcome, "interrupted");
  assert_int_equal(s.kept.judged_id, 12);
  close_set(&s);
}

static void rollback_restores_a_snapshot_and_frees_its_groups(void **state) {
  (void)state;
  static struct stage_set s;
  open_set(&s, false);
  assert_int_equal(put(&s, "retry_attempts", 9), 200);
  struct command back = {.kind = COMMAND_ROLLBACK,
                         .name = "abc",
                         .text = "retry_attempts=3\nretry_base_ms=100\n",
                         .reason = "test"};
  assert_int_equal(command(&s, &back), 200);
  assert_true(value(&s, TUNABLE_retry_attempts) == 3);
  assert_string_equal(s.kept.outcome, "superseded");
  assert_int_equal(put(&s, "retry_attempts", 4), 200);
  close_set(&s);
}

static void rewards_find_their_answer_and_nothing_else(void **state) {
  (void)state;
  static struct stage_set s;
  open_set(&s, false);
  struct request *r = rig_ask(&s.rig, 0, (struct ask){0});
  uint64_t id = r->id;
  tick(&s, 1);
  struct command reward = {.kind = COMMAND_REWARD, .request = id, .value = 0.8, .provider = -1};
  assert_int_equal(command(&s, &reward), 200);
  reward.value = 1.5;
  assert_int_equal(command(&s, &reward), 400);
  reward.value = 0.5;
  reward.request = id + 1;
  assert_int_equal(command(&s, &reward), 404);
  close_set(&s);
}

static void a_stop_writes_what_was_counted_since_the_last_tick(void **state) {
  (void)state;
  static struct stage_set s;
  open_set(&s, false);
  tick(&s, 1);
  counter_add(&s.rig.telemetry->counters, COUNTER_requests_received, 0, 3);
  rig_until(&s.rig, MS(300));
  loop_flush(s.loop, s.rig.now_ns, s.wall_ms + 300);
  assert_int_equal(s.kept.frames, 2);
  assert_int_equal(loop_frame(s.loop)->received, 3);
  assert_true(loop_frame(s.loop)->dt_s > 0.29 && loop_frame(s.loop)->dt_s < 0.31);
  loop_flush(s.loop, s.rig.now_ns, s.wall_ms + 300);
  assert_int_equal(s.kept.frames, 2);
  close_set(&s);
}

static void instances_stay_within_their_provider_and_the_ceiling(void **state) {
  (void)state;
  static struct stage_set s;
  open_local(&s);
  assert_int_equal(put_freely(&s, "instances.p0", 4), 400);
  assert_int_equal(put_freely(&s, "instances.p0", 0), 400);
  assert_int_equal(put_freely(&s, "instances.p0", 3), 200);
  assert_int_equal(put_freely(&s, "instances.p1", 3), 400); /* six together */
  struct command both = {.kind = COMMAND_SET,
                         .actor = "http",
                         .unguarded = true,
                         .change_count = 2,
                         .changes = {{"instances.p1", 3}, {"max_local_instances", 6}}};
  assert_int_equal(command(&s, &both), 200);
  close_set(&s);
}

static void a_provider_that_is_not_local_has_no_instances_to_set(void **state) {
  (void)state;
  static struct stage_set s;
  open_set(&s, false);
  assert_int_equal(put(&s, "instances.p0", 2), 400);
  close_set(&s);
}

/* Sized by what arrives the ring would hold hundreds, and all of them would wait for too long. */
static void an_overload_does_not_make_the_queue_longer(void **state) {
  (void)state;
  static struct stage_set s;
  open_set(&s, false);
  assert_int_equal(put_freely(&s, "concurrency_limit.p0", 1), 200);
  assert_int_equal(put_freely(&s, "concurrency_limit.p1", 1), 200);
  rig_set(&s.rig, TUNABLE_buffer_inference, 256);
  for (unsigned n = 0; n < 600 * 50; n++) { /* fifty a second, of which two providers answer twenty */
    rig_ask(&s.rig, n % 1024, (struct ask){.no_coalesce = true});
    if (n % 50 == 49) tick(&s, 1);
  }
  assert_in_range(value(&s, TUNABLE_buffer_inference), 8, 64);
  assert_in_range(pipeline_depth(s.rig.pipeline, STAGE_INFERENCE), 32, 64);
  tick(&s, 10);
  close_set(&s);
}

static void an_experiment_on_instances_starts_and_stops_them(void **state) {
  (void)state;
  static struct stage_set s;
  open_local(&s);
  struct command create = {.kind = COMMAND_EXPERIMENT_CREATE,
                           .name = "x",
                           .text = "instances.p0",
                           .treatment = 4,
                           .share = 0.5,
                           .duration_s = 86400};
  assert_int_equal(command(&s, &create), 400);
  create.treatment = 3;
  assert_int_equal(command(&s, &create), 201);
  for (int i = 0; i < 7200 && s.instances[0] != 3; i++)
    tick(&s, 1);
  assert_int_equal(s.instances[0], 3);
  struct command stop = {.kind = COMMAND_EXPERIMENT_STOP, .name = "x"};
  assert_int_equal(command(&s, &stop), 200);
  assert_int_equal(s.instances[0], 1);
  close_set(&s);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(an_hour_without_traffic_moves_nothing),
      cmocka_unit_test(a_change_is_checked_whole_and_answered_after_its_commit),
      cmocka_unit_test(a_change_that_cannot_be_committed_is_taken_back),
      cmocka_unit_test(two_trials_in_one_group_never_run_together),
      cmocka_unit_test(an_experiment_leases_its_tunable_until_it_is_stopped),
      cmocka_unit_test(a_value_that_stays_is_held_and_opens_no_trial),
      cmocka_unit_test(an_experiment_whose_name_is_a_number_is_refused),
      cmocka_unit_test(of_two_experiments_each_ends_with_its_own_words),
      cmocka_unit_test(a_limit_recovers_though_one_of_its_signals_is_silent),
      cmocka_unit_test(a_held_limit_goes_on_from_its_value_when_the_hold_ends),
      cmocka_unit_test(late_failures_make_the_breaker_patient),
      cmocka_unit_test(a_controller_is_bound_by_step_cooldown_hold_and_lease),
      cmocka_unit_test(an_episode_without_a_pause_is_told_every_ten_minutes),
      cmocka_unit_test(a_clock_set_back_keeps_no_episode_open),
      cmocka_unit_test(a_change_by_somebody_else_ends_the_episode),
      cmocka_unit_test(who_is_turned_away_counts_as_served_badly),
      cmocka_unit_test(a_promotion_is_applied_held_and_judged),
      cmocka_unit_test(a_critical_incident_hastens_the_judgement),
      cmocka_unit_test(observing_changes_nothing),
      cmocka_unit_test(at_start_new_file_values_win_over_stored_and_the_environment_over_both),
      cmocka_unit_test(an_unjudged_trial_is_undone_at_start),
      cmocka_unit_test(rollback_restores_a_snapshot_and_frees_its_groups),
      cmocka_unit_test(rewards_find_their_answer_and_nothing_else),
      cmocka_unit_test(instances_stay_within_their_provider_and_the_ceiling),
      cmocka_unit_test(a_provider_that_is_not_local_has_no_instances_to_set),
      cmocka_unit_test(an_overload_does_not_make_the_queue_longer),
      cmocka_unit_test(an_experiment_on_instances_starts_and_stops_them),
      cmocka_unit_test(a_stop_writes_what_was_counted_since_the_last_tick),
  };
  return cmocka_run_group_tests_name("loop", tests, NULL, NULL);
}
