#include "bus/telemetry.h"
#include "pipeline/plane.h"
#include "sim/batch.h"
#include "sim/dataset.h"
#include "sim/scenario.h"
#include "sim/world.h"
#include "sys/clock.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define MINUTE_NS (60 * NS_PER_S)

static struct scenario *scenario;
static struct dataset *data;
static char error[512];

/* Twelve minutes of the load scenario: the crowd comes after five. */
static int open_data(void **state) {
  (void)state;
  scenario = scenario_load("data/scenarios/closed-load.toml", 3, error, sizeof error);
  if (!scenario) return -1;
  scenario->length_ns = 12 * MINUTE_NS;
  scenario->events[0].at_ns = 5 * MINUTE_NS;
  scenario->events[0].until_ns = 10 * MINUTE_NS;
  data = dataset_load(scenario, "data", 1, error, sizeof error);
  return data ? 0 : -1;
}

static int close_data(void **state) {
  (void)state;
  dataset_destroy(data);
  scenario_destroy(scenario);
  return 0;
}

static struct world *make(enum world_arm arm, unsigned first, uint64_t seed) {
  struct world_options o = {.scenario = scenario,
                            .data = data,
                            .seed = seed,
                            .arm = arm,
                            .first = first,
                            .freeze_at_ns = NS_NEVER,
                            .event_ns = NS_NEVER,
                            .event_until_ns = NS_NEVER};
  struct world *w = world_create(&o);
  assert_non_null(w);
  return w;
}

static uint64_t digest_of(enum world_arm arm, uint64_t seed) {
  struct world *w = make(arm, 0, seed);
  world_run(w);
  uint64_t digest = world_digest(w);
  world_destroy(w);
  return digest;
}

static void the_same_seed_is_the_same_run(void **state) {
  (void)state;
  assert_true(digest_of(WORLD_TUNED, 3) == digest_of(WORLD_TUNED, 3));
  assert_true(digest_of(WORLD_OFF, 3) == digest_of(WORLD_OFF, 3));
  assert_true(digest_of(WORLD_TUNED, 3) != digest_of(WORLD_TUNED, 4));
}

static uint64_t sum(const struct counter_totals *t, enum counter_id id) {
  uint64_t n = 0;
  for (unsigned i = 0; i < MAX_PROVIDERS; i++)
    n += t->value[id][i];
  return n;
}

static void every_request_is_accounted_for_once(void **state) {
  (void)state;
  struct counter_totals t;
  struct world *w = make(WORLD_TUNED, 0, 3);
  world_run(w);
  world_counters(w, &t);
  const struct world_shares *s = world_shares(w);
  assert_true(s->submitted > 5000);
  assert_int_equal(s->submitted, s->refused + s->finished + s->left);
  assert_int_equal(sum(&t, COUNTER_requests_admitted), s->finished + s->left);
  assert_int_equal(sum(&t, COUNTER_requests_admitted), sum(&t, COUNTER_requests_answered) +
                                                           sum(&t, COUNTER_requests_dead_lettered) +
                                                           sum(&t, COUNTER_requests_client_gone));
  assert_int_equal(sum(&t, COUNTER_attempts),
                   sum(&t, COUNTER_attempt_successes) + sum(&t, COUNTER_attempt_failures) +
                       sum(&t, COUNTER_attempt_timeouts) + sum(&t, COUNTER_attempt_throttled) +
                       sum(&t, COUNTER_attempt_rejected) + sum(&t, COUNTER_attempt_cancelled));
  world_destroy(w);
}

static void arms_are_asked_the_same(void **state) {
  (void)state;
  struct world *a = make(WORLD_TUNED, 0, 3), *b = make(WORLD_OFF, 0, 3);
  size_t n, m;
  world_run(a);
  world_run(b);
  const struct measure_minute *x = measure_minutes(world_measure(a), &n),
                              *y = measure_minutes(world_measure(b), &m);
  assert_int_equal(n, 12);
  for (size_t i = 0; i < n; i++)
    assert_int_equal(x[i].intents, y[i].intents);
  world_destroy(a);
  world_destroy(b);
}

static void off_goes_round_and_fixed_goes_first(void **state) {
  (void)state;
  struct world *w = make(WORLD_OFF, 0, 3);
  world_run_until(w, 4 * MINUTE_NS);
  for (unsigned i = 0; i < 5; i++)
    assert_in_range(world_shares(w)->answered[i], 200, 400);
  world_destroy(w);
  w = make(WORLD_FIXED, 2, 3);
  world_run_until(w, 4 * MINUTE_NS);
  uint64_t all = 0;
  for (unsigned i = 0; i < 5; i++)
    all += world_shares(w)->answered[i];
  assert_true(world_shares(w)->answered[2] > 0.98 * (double)all);
  assert_int_equal(recorder_counts(world_recorder(w))->changes, 0);
  world_destroy(w);
}

static void a_frozen_daemon_moves_nothing_more(void **state) {
  (void)state;
  struct world_options o = {.scenario = scenario,
                            .data = data,
                            .seed = 3,
                            .freeze_at_ns = 2 * MINUTE_NS,
                            .event_ns = NS_NEVER,
                            .event_until_ns = NS_NEVER};
  struct world *w = world_create(&o);
  double before[TUNABLES][MAX_PROVIDERS];
  world_run_until(w, 2 * MINUTE_NS);
  const struct tunables *t = &world_plane(w)->tunables;
  for (unsigned id = 0; id < TUNABLES; id++)
    for (unsigned p = 0; p < 5; p++)
      before[id][p] = tunable_of(t, (enum tunable_id)id, p);
  uint64_t version = atomic_load(&world_plane(w)->table_version);
  world_run(w);
  for (unsigned id = 0; id < TUNABLES; id++)
    for (unsigned p = 0; p < 5; p++)
      assert_true(tunable_of(t, (enum tunable_id)id, p) == before[id][p]);
  assert_true(atomic_load(&world_plane(w)->table_version) == version);
  assert_true(version > 0);
  world_destroy(w);
}

struct seen {
  int64_t at_ns;
  int status;
};

static void set_retries(void *ctx, struct world *w, int64_t at_ns) {
  struct seen *seen = ctx;
  struct command c = {.kind = COMMAND_SET,
                      .changes = {{"retry_attempts", 5}},
                      .change_count = 1,
                      .actor = "test",
                      .reason = "to see it"};
  seen->at_ns = at_ns;
  seen->status = world_command(w, &c);
}

static void commands_come_at_their_time_and_are_ledgered(void **state) {
  (void)state;
  struct seen seen = {0};
  struct world *w = make(WORLD_TUNED, 0, 3);
  assert_int_equal(world_at(w, MINUTE_NS, set_retries, &seen), 0);
  world_run_until(w, MINUTE_NS - 1);
  assert_int_equal(seen.status, 0);
  world_run_until(w, MINUTE_NS);
  assert_int_equal(seen.status, 200);
  assert_true(seen.at_ns == MINUTE_NS);
  assert_float_equal(tunable_get(&world_plane(w)->tunables, TUNABLE_retry_attempts), 5, 0);
  assert_int_equal(recorder_counts(world_recorder(w))->changes, 1);
  world_destroy(w);
}

static void feedback_reaches_the_loop_late_and_for_a_share(void **state) {
  (void)state;
  struct world *w = make(WORLD_TUNED, 0, 3);
  world_run(w);
  const struct world_shares *s = world_shares(w);
  assert_true(s->rewards_sent > 150 && s->rewards_sent < 450); /* 5 % of 7,900, most within the run */
  assert_int_equal(s->rewards_accepted, s->rewards_sent);
  assert_int_equal(recorder_counts(world_recorder(w))->rewards, s->rewards_sent);
  world_destroy(w);
}

static void a_feedback_outage_silences_it(void **state) {
  (void)state;
  struct scenario_event kept = scenario->events[0];
  scenario_event_init(&scenario->events[0], "feedback_outage");
  scenario->events[0].at_ns = 0;
  struct world *w = make(WORLD_TUNED, 0, 3);
  world_run(w);
  assert_int_equal(world_shares(w)->rewards_sent, 0);
  world_destroy(w);
  scenario->events[0] = kept;
}

static void a_bad_config_is_pushed_in_one_act(void **state) {
  (void)state;
  struct scenario_event kept = scenario->events[0];
  scenario_event_init(&scenario->events[0], "bad_config");
  scenario->events[0].at_ns = MINUTE_NS;
  struct world *w = make(WORLD_OFF, 0, 3);
  world_run_until(w, 2 * MINUTE_NS);
  const struct tunables *t = &world_plane(w)->tunables;
  assert_float_equal(tunable_get(t, TUNABLE_retry_attempts), 10, 0);
  assert_float_equal(tunable_get(t, TUNABLE_breaker_failure_threshold), 1000, 0);
  assert_float_equal(tunable_of(t, TUNABLE_concurrency_limit, 3), 512, 0);
  assert_int_equal(recorder_counts(world_recorder(w))->changes, 7);
  world_destroy(w);
  scenario->events[0] = kept;
}

static void a_clock_jump_moves_only_the_wall(void **state) {
  (void)state;
  struct scenario_event kept = scenario->events[0];
  scenario_event_init(&scenario->events[0], "clock_jump");
  scenario->events[0].at_ns = MINUTE_NS;
  scenario->events[0].jump_s = -3600;
  struct world *w = make(WORLD_TUNED, 0, 3);
  int64_t wall = world_wall_ms(w);
  world_run_until(w, 2 * MINUTE_NS);
  assert_true(world_wall_ms(w) == wall + 120000 - 3600000);
  assert_true(world_now_ns(w) == 2 * MINUTE_NS);
  world_run(w);
  assert_float_equal(measure_share(measure_run(world_measure(w))), 1, 0.05);
  world_destroy(w);
  scenario->events[0] = kept;
}

static void money_is_counted_alike_by_plant_and_daemon(void **state) {
  (void)state;
  struct counter_totals t;
  struct world *w = make(WORLD_FIXED, 2, 3);
  world_run_until(w, 4 * MINUTE_NS);
  world_counters(w, &t);
  const struct measure_sums *s = measure_run(world_measure(w));
  double counted = (double)sum(&t, COUNTER_cost_nano_usd) / 1e9;
  assert_true(counted > 0.01);
  assert_float_equal(counted / s->usd, 1, 0.01); /* cancelled calls are paid, but not reported */
  world_destroy(w);
}

static void a_world_can_be_left_in_the_middle(void **state) {
  (void)state;
  struct world *w = make(WORLD_TUNED, 0, 3);
  world_run_until(w, 6 * MINUTE_NS);
  world_destroy(w);
}

static void a_batch_gives_each_task_its_result(void **state) {
  (void)state;
  struct batch_task tasks[] = {
      {.scenario = "data/scenarios/closed-quality.toml", .data = "data", .seed = 2, .arm = WORLD_OFF},
      {.scenario = "no-such-file.toml", .data = "data", .seed = 2},
      {.scenario = "data/scenarios/closed-quality.toml", .data = "data", .seed = 2, .arm = WORLD_OFF}};
  struct batch *b = batch_run(tasks, 3, 2, 120);
  assert_non_null(b);
  assert_string_equal(batch_result(b, 0)->error, "");
  assert_true(batch_result(b, 0)->conserved);
  assert_int_equal(batch_result(b, 0)->minute_count, 120);
  assert_true(batch_result(b, 0)->digest == batch_result(b, 2)->digest);
  assert_non_null(strstr(batch_result(b, 1)->error, "no-such-file.toml"));
  batch_destroy(b);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(the_same_seed_is_the_same_run),
      cmocka_unit_test(every_request_is_accounted_for_once),
      cmocka_unit_test(arms_are_asked_the_same),
      cmocka_unit_test(off_goes_round_and_fixed_goes_first),
      cmocka_unit_test(a_frozen_daemon_moves_nothing_more),
      cmocka_unit_test(commands_come_at_their_time_and_are_ledgered),
      cmocka_unit_test(feedback_reaches_the_loop_late_and_for_a_share),
      cmocka_unit_test(a_feedback_outage_silences_it),
      cmocka_unit_test(a_bad_config_is_pushed_in_one_act),
      cmocka_unit_test(a_clock_jump_moves_only_the_wall),
      cmocka_unit_test(money_is_counted_alike_by_plant_and_daemon),
      cmocka_unit_test(a_world_can_be_left_in_the_middle),
      cmocka_unit_test(a_batch_gives_each_task_its_result),
  };
  return cmocka_run_group_tests(tests, open_data, close_data);
}
