#include "sim/fluid.h"
#include "sim/measure.h"
#include "sim/paired.h"
#include "sim/recorder.h"
#include "sys/clock.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#define MINUTE_NS (60 * NS_PER_S)
static const struct objective objective = {2000, 50, 5, 1};

static struct intent_result stream(int64_t at_ns, double ttft_ms, double tpot_ms, double quality) {
  return (struct intent_result){.at_ns = at_ns,
                                .stream = true,
                                .complete = true,
                                .quality = quality,
                                .ttft_ms = ttft_ms,
                                .tpot_ms = tpot_ms,
                                .total_ms = ttft_ms + 100 * tpot_ms,
                                .tokens_out = 101,
                                .submissions = 1};
}

static void utility_is_useful_quality_less_dollars(void **state) {
  (void)state;
  struct measure *m = measure_create(&objective, 10 * MINUTE_NS, NS_NEVER, NS_NEVER);
  struct intent_result good = stream(0, 500, 20, 0.9), late = stream(0, 2500, 20, 0.8),
                       lost = {.submissions = 2};
  measure_intent(m, &good);
  measure_intent(m, &late);
  measure_intent(m, &lost);
  measure_call(m, 0, 0.01);
  measure_instances(m, MINUTE_NS, 0.02);
  measure_instances(m, 2 * MINUTE_NS, 0.05);
  const struct measure_sums *s = measure_run(m);
  assert_int_equal(s->intents, 3);
  assert_int_equal(s->complete, 2);
  assert_int_equal(s->in_target, 1);
  assert_int_equal(s->came_back, 1);
  assert_float_equal(s->usd + s->instance_usd, 0.06, 1e-12);
  assert_float_equal(measure_utility(m, s), (0.9 - 5 * 0.06) / 3, 1e-12);
  assert_float_equal(measure_quality(s), 1.7 / 3, 1e-12); /* the lost one counts 0 */
  assert_float_equal(measure_share(s), 1.0 / 3, 1e-12);
  assert_float_equal(measure_goodput(s), 1 / 600.0, 1e-12);
  measure_destroy(m);
}

static void whole_answers_are_held_to_their_total_time(void **state) {
  (void)state;
  struct measure *m = measure_create(&objective, MINUTE_NS, NS_NEVER, NS_NEVER);
  struct intent_result r = {
      .complete = true, .ttft_ms = NAN, .tpot_ms = NAN, .tokens_out = 100, .submissions = 1};
  r.total_ms = 7000; /* 2000 + 50 * 100 */
  measure_intent(m, &r);
  assert_int_equal(measure_run(m)->in_target, 1);
  r.total_ms = 7001;
  measure_intent(m, &r);
  assert_int_equal(measure_run(m)->in_target, 1);
  measure_destroy(m);
}

static void the_events_window_counts_by_the_intents_start(void **state) {
  (void)state;
  struct measure *m = measure_create(&objective, 10 * MINUTE_NS, 3 * MINUTE_NS, 5 * MINUTE_NS);
  for (int i = 0; i < 10; i++) {
    struct intent_result r = stream(i * MINUTE_NS, 500, 20, 1);
    measure_intent(m, &r);
    measure_call(m, i * MINUTE_NS, 1);
  }
  assert_int_equal(measure_run(m)->intents, 10);
  assert_int_equal(measure_event(m)->intents, 2);
  assert_float_equal(measure_event(m)->usd, 2, 0);
  measure_destroy(m);
}

static void fill(struct measure_minute *minutes, size_t n, uint32_t in_target) {
  for (size_t i = 0; i < n; i++)
    minutes[i] = (struct measure_minute){.intents = 100, .in_target = in_target, .useful = in_target};
}

static void recovery_is_when_the_share_comes_back_to_stay(void **state) {
  (void)state;
  struct measure_minute m[60];
  bool censored;
  fill(m, 60, 100);
  assert_float_equal(minutes_recovery_s(m, 60, 20 * MINUTE_NS, 1.0, &censored), 0, 0);
  fill(m + 20, 10, 50);
  assert_float_equal(minutes_recovery_s(m, 60, 20 * MINUTE_NS, 1.0, &censored), 600, 0);
  assert_false(censored);
  fill(m + 38, 1, 50); /* a relapse within the quarter of an hour */
  assert_float_equal(minutes_recovery_s(m, 60, 20 * MINUTE_NS, 1.0, &censored), 19 * 60, 0);
  fill(m + 50, 1, 0);
  assert_float_equal(minutes_recovery_s(m, 60, 20 * MINUTE_NS, 1.0, &censored), 40 * 60, 0);
  assert_true(censored);
}

static void harm_is_the_weighted_share_of_worse_windows(void **state) {
  (void)state;
  struct measure_minute own[40], twin[40];
  fill(own, 40, 80);
  fill(twin, 40, 80);
  assert_float_equal(minutes_harm(own, twin, 40, &objective), 0, 0);
  fill(own, 10, 77); /* 4 % worse: not harm */
  assert_float_equal(minutes_harm(own, twin, 40, &objective), 0, 0);
  fill(own, 10, 70);
  assert_float_equal(minutes_harm(own, twin, 40, &objective), 0.25, 1e-12);
}

static void a_paired_difference_has_students_interval(void **state) {
  (void)state;
  const double a[] = {5, 6, 7, 8}, b[] = {4, 4, 6, 6};
  struct estimate e = estimate_difference(a, b, 4); /* 1 2 1 2: s = 0.57735, t(3) = 3.18245 */
  assert_float_equal(e.mean, 1.5, 1e-12);
  assert_float_equal(e.low, 1.5 - 3.18245 * 0.288675, 1e-4);
  assert_float_equal(e.high, 1.5 + 3.18245 * 0.288675, 1e-4);
  assert_true(isnan(estimate_mean(a, 1).low));
}

/* ---- the recorder ---- */

static struct ledger_row row(int64_t id, const char *kind, const char *name) {
  return (struct ledger_row){.id = id, .kind = kind, .name = name, .actor = "test", .reason = "to see"};
}

static void an_episode_that_goes_on_replaces_itself(void **state) {
  (void)state;
  struct recorder *r = recorder_create();
  struct store_sink sink = recorder_sink(r);
  struct ledger_row episode = row(1, "episode", "limit"), change = row(2, "change", "retry_attempts");
  episode.count = 1;
  sink.ledger(sink.ctx, &episode);
  sink.ledger(sink.ctx, &change);
  episode.count = 9;
  sink.ledger(sink.ctx, &episode);
  assert_int_equal(recorder_change_count(r), 2);
  assert_int_equal(recorder_counts(r)->episode_steps, 9);
  assert_int_equal(recorder_counts(r)->changes, 1);
  assert_int_equal(recorder_find(r, 1)->row.count, 9);
  assert_string_equal(recorder_change(r, 1)->row.name, "retry_attempts");
  recorder_destroy(r);
}

static void judgements_find_their_change_and_why_tells_them(void **state) {
  (void)state;
  char text[1024] = "";
  struct recorder *r = recorder_create();
  struct store_sink sink = recorder_sink(r);
  struct ledger_row change = row(4, "change", "retry_attempts"), other = row(5, "change", "deadline_ms");
  struct judgement_row judged = {.ledger_id = 4, .outcome = "undone", .effect = -0.1, .words = "it did harm"};
  sink.ledger(sink.ctx, &change);
  sink.ledger(sink.ctx, &other);
  sink.judgement(sink.ctx, &judged);
  assert_int_equal(recorder_counts(r)->undone, 1);
  assert_string_equal(recorder_find(r, 4)->outcome, "undone");
  assert_null(recorder_find(r, 5)->outcome);
  assert_null(recorder_find(r, 6));
  FILE *out = fmemopen(text, sizeof text, "w");
  recorder_why(r, "retry_attempts", 10, out);
  fclose(out);
  assert_non_null(strstr(text, "to see"));
  assert_non_null(strstr(text, "it did harm"));
  assert_null(strstr(text, "deadline_ms"));
  recorder_destroy(r);
}

static void experiments_and_anomalies_are_kept_by_id(void **state) {
  (void)state;
  struct recorder *r = recorder_create();
  struct store_sink sink = recorder_sink(r);
  struct experiment_row e = {.id = 1, .name = "x", .tunable = "t", .status = "running"};
  struct anomaly_row a = {.id = 3, .metric = "ttft", .severity = "warning", .message = "slow"};
  sink.experiment(sink.ctx, &e);
  e.status = "promoted";
  sink.experiment(sink.ctx, &e);
  sink.anomaly(sink.ctx, &a);
  a.closed_ms = 7;
  sink.anomaly(sink.ctx, &a);
  assert_int_equal(recorder_experiment_count(r), 1);
  assert_string_equal(recorder_experiment(r, 0)->status, "promoted");
  assert_int_equal(recorder_anomaly_count(r), 1);
  assert_int_equal(recorder_anomaly(r, 0)->closed_ms, 7);
  recorder_destroy(r);
}

/* ---- processor sharing ---- */

static void members_finish_by_their_work_whatever_joins(void **state) {
  (void)state;
  struct fluid f = {0};
  struct fluid_member a = {0}, b = {0};
  fluid_add(&f, &a, 100, 0);
  fluid_set_rate(&f, 1, 0); /* a alone */
  fluid_add(&f, &b, 100, 40);
  fluid_set_rate(&f, 0.5, 40);
  assert_int_equal(fluid_next_ns(&f), 160); /* 60 left at one half */
  assert_null(fluid_take_done(&f, 159));
  assert_ptr_equal(fluid_take_done(&f, 160), &a);
  fluid_set_rate(&f, 1, 160);
  assert_float_equal(fluid_left(&f, &b, 160), 40, 1e-9);
  assert_int_equal(fluid_next_ns(&f), 200);
  fluid_remove(&f, &b, 170);
  assert_true(fluid_next_ns(&f) == NS_NEVER);
  fluid_free(&f);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(utility_is_useful_quality_less_dollars),
      cmocka_unit_test(whole_answers_are_held_to_their_total_time),
      cmocka_unit_test(the_events_window_counts_by_the_intents_start),
      cmocka_unit_test(recovery_is_when_the_share_comes_back_to_stay),
      cmocka_unit_test(harm_is_the_weighted_share_of_worse_windows),
      cmocka_unit_test(a_paired_difference_has_students_interval),
      cmocka_unit_test(an_episode_that_goes_on_replaces_itself),
      cmocka_unit_test(judgements_find_their_change_and_why_tells_them),
      cmocka_unit_test(experiments_and_anomalies_are_kept_by_id),
      cmocka_unit_test(members_finish_by_their_work_whatever_joins),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
