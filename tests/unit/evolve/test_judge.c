#include "bus/outcome.h"
#include "evolve/judge.h"
#include "sys/clock.h"
#include "sys/rng.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* A synthetic gateway: two providers, bursts of 2.5 requests in the mean, answers with lognormal cost. */
struct world {
  double rate, in_target, failing, usd;
  double load_sigma;         /* lognormal modulation of the rate, 50 s memory */
  double wave_sigma, wave_r; /* AR(1) of the in-target share over blocks of 10 s */
};

struct run {
  struct judge *judge;
  struct rng rng;
  int64_t second;
  double load, wave;
};

static const double qualities[2] = {0.75, 0.8};
static const struct objective objective = {
    .ttft_ms = 2000, .tpot_ms = 50, .usd_weight = 5, .quality_weight = 1};
static const struct judge_view view = {qualities, &objective};
static const struct world calm = {.rate = 5, .in_target = 0.95, .usd = 0.004};

static void begin(struct run *run, uint64_t seed) {
  memset(run, 0, sizeof *run);
  rng_seed(&run->rng, seed, 3);
  run->judge = judge_create(2, 0);
}

static int64_t now(const struct run *run) {
  return run->second * NS_PER_S;
}

static void request(struct run *run, const struct world *w) {
  struct outcome o = {.provider = rng_uniform(&run->rng) < 0.7 ? 0 : 1};
  o.kind = rng_uniform(&run->rng) < w->failing ? OUTCOME_FAILED : OUTCOME_ANSWERED;
  o.in_target = o.kind == OUTCOME_ANSWERED && rng_uniform(&run->rng) < w->in_target + run->wave;
  o.cost_usd = w->usd * exp(0.8 * rng_normal(&run->rng) - 0.32);
  judge_observe(run->judge, &o, now(run));
}

static void second(struct run *run, const struct world *w) {
  const double keep = 0.98;
  run->load = keep * run->load + sqrt(1 - keep * keep) * rng_normal(&run->rng);
  if (run->second % 10 == 0)
    run->wave =
        w->wave_r * run->wave + w->wave_sigma * sqrt(1 - w->wave_r * w->wave_r) * rng_normal(&run->rng);
  double s = w->load_sigma, bursts = w->rate * exp(s * run->load - s * s / 2) / 2.5;
  for (double t = rng_exponential(&run->rng, 1 / bursts); t < 1;
       t += rng_exponential(&run->rng, 1 / bursts)) {
    do
      request(run, w);
    while (rng_uniform(&run->rng) < 0.6);
  }
  run->second++;
}

static void pass(struct run *run, const struct world *w, int seconds) {
  for (int i = 0; i < seconds; i++)
    second(run, w);
}

/* Seconds until harm is found, looking every ten; 0 when none is within half an hour. */
static int time_to_harm(const struct world *before, const struct world *after, uint64_t seed) {
  struct run run;
  struct judge_verdict v;
  begin(&run, seed);
  pass(&run, before, 700 + (int)rng_below(&run.rng, 600));
  int64_t start = now(&run);
  int found = 0;
  for (int i = 10; i <= 1800 && found == 0; i += 10) {
    pass(&run, after, 10);
    judge_trial(run.judge, start, now(&run), 1800 * NS_PER_S, &view, &v);
    if (v.finding == JUDGE_HARM) found = i;
  }
  judge_destroy(run.judge);
  return found;
}

static void expect_harm_in_time(const char *name, struct world after) {
  enum { RUNS = 300 };
  int in_time = 0;
  for (uint64_t seed = 1; seed <= RUNS; seed++) {
    int t = time_to_harm(&calm, &after, seed);
    in_time += t > 0 && t <= 300;
  }
  print_message("10 %% through %s: found within 300 s in %d of %d\n", name, in_time, RUNS);
  assert_true(in_time >= RUNS * 0.95);
}

static void a_tenth_lost_is_found_within_five_minutes(void **state) {
  (void)state;
  struct world latency = calm, errors = calm, dollars = calm;
  latency.in_target *= 0.9;
  errors.failing = 0.1;
  dollars.usd *= 4.6;
  expect_harm_in_time("latency", latency);
  expect_harm_in_time("errors", errors);
  expect_harm_in_time("dollars", dollars);
}

static void expect_no_false_harm(const char *name, struct world w, int runs) {
  int harms = 0;
  for (uint64_t seed = 1; seed <= (uint64_t)runs; seed++)
    harms += time_to_harm(&w, &w, seed) > 0;
  print_message("no change, %s: %d false of %d\n", name, harms, runs);
  assert_true(harms * 96 <= runs); /* the bar of the project: one in 96 changes */
}

static void no_change_is_called_harm_more_than_once_in_96_changes(void **state) {
  (void)state;
  struct world waves = calm, load = calm, both = calm, thin = calm;
  waves.wave_sigma = both.wave_sigma = 0.04;
  waves.wave_r = both.wave_r = 0.3;
  load.load_sigma = both.load_sigma = 0.5;
  thin.rate = 0.5;
  expect_no_false_harm("independent blocks", calm, 1000);
  expect_no_false_harm("AR(1) of 0.3", waves, 1000);
  expect_no_false_harm("modulated load", load, 1000);
  expect_no_false_harm("both", both, 1000);
  expect_no_false_harm("0.5 requests a second", thin, 1000);
}

/* Nothing for a quarter of an hour, then a quarter of the answers too late: the mean since the change is
 * still good. */
static void harm_that_comes_late_is_found_within_two_minutes(void **state) {
  (void)state;
  int in_time = 0;
  for (uint64_t seed = 1; seed <= 100; seed++) {
    struct run run;
    struct judge_verdict v = {0};
    struct world worse = calm;
    worse.in_target *= 0.75;
    begin(&run, seed);
    pass(&run, &calm, 1200);
    int64_t start = now(&run);
    pass(&run, &calm, 900);
    for (int i = 0; i < 12 && v.finding != JUDGE_HARM; i++) {
      pass(&run, &worse, 10);
      judge_trial(run.judge, start, now(&run), 1800 * NS_PER_S, &view, &v);
    }
    in_time += v.finding == JUDGE_HARM;
    if (v.finding == JUDGE_HARM && v.late) assert_non_null(strstr(v.words, "over the last "));
    judge_destroy(run.judge);
  }
  assert_in_range(in_time, 95, 100);
}

static void without_traffic_nothing_is_decided(void **state) {
  (void)state;
  struct run run;
  struct judge_verdict v;
  begin(&run, 1);
  pass(&run, &calm, 600);
  int64_t start = now(&run);
  run.second += 2000;
  judge_refused(run.judge, 0, now(&run));
  judge_trial(run.judge, start, now(&run), 1800 * NS_PER_S, &view, &v);
  assert_int_equal(v.finding, JUDGE_UNDECIDED);
  assert_int_equal(v.blocks_after, 0);
  assert_true(isnan(v.after) && isnan(v.effect) && isnan(v.low) && isnan(v.high));
  assert_non_null(strstr(v.words, "too little traffic"));
  judge_destroy(run.judge);
  judge_destroy(NULL);
}

static void a_quiet_horizon_ends_with_no_harm_and_numbers(void **state) {
  (void)state;
  struct run run;
  struct judge_verdict v;
  begin(&run, 2);
  pass(&run, &calm, 600);
  int64_t start = now(&run);
  pass(&run, &calm, 290);
  judge_trial(run.judge, start, now(&run), 300 * NS_PER_S, &view, &v);
  assert_int_equal(v.finding, JUDGE_UNDECIDED);
  pass(&run, &calm, 30);
  judge_trial(run.judge, start, now(&run), 300 * NS_PER_S, &view, &v);
  assert_int_equal(v.finding, JUDGE_NO_HARM);
  assert_int_equal(v.blocks_before, 60);
  assert_int_equal(v.blocks_after, 30);
  assert_float_equal(v.before, 0.95 * 0.765 - 0.02, 0.015);
  assert_true(v.low < v.effect && v.effect < v.high && v.low < 0 && v.high > 0);
  judge_destroy(run.judge);
}

static void too_little_before_or_after_decides_nothing(void **state) {
  (void)state;
  struct run run;
  struct judge_verdict v;
  struct world dead = calm;
  dead.failing = 1;
  begin(&run, 3);
  pass(&run, &calm, 50);
  int64_t early = now(&run);
  pass(&run, &dead, 200);
  judge_trial(run.judge, early, now(&run), 1800 * NS_PER_S, &view, &v);
  assert_int_equal(v.finding, JUDGE_UNDECIDED);
  judge_destroy(run.judge);
  begin(&run, 3);
  pass(&run, &calm, 300);
  int64_t start = now(&run);
  pass(&run, &dead, 40);
  judge_trial(run.judge, start, now(&run), 1800 * NS_PER_S, &view, &v);
  assert_int_equal(v.finding, JUDGE_UNDECIDED);
  pass(&run, &dead, 20);
  judge_trial(run.judge, start, now(&run), 1800 * NS_PER_S, &view, &v);
  assert_int_equal(v.finding, JUDGE_HARM);
  assert_float_equal(v.after, -0.02, 0.005);
  judge_destroy(run.judge);
}

static void requests_turned_away_at_admission_are_harm(void **state) {
  (void)state;
  struct run run;
  struct judge_verdict v;
  begin(&run, 4);
  pass(&run, &calm, 600);
  int64_t start = now(&run);
  for (int i = 0; i < 120; i++) {
    second(&run, &calm);
    judge_refused(run.judge, 2, now(&run) - 1);
  }
  judge_trial(run.judge, start, now(&run), 1800 * NS_PER_S, &view, &v);
  assert_int_equal(v.finding, JUDGE_HARM);
  judge_destroy(run.judge);
}

static void a_loss_below_two_percent_is_left_alone(void **state) {
  (void)state;
  struct run run;
  struct judge_verdict v;
  struct world fast = {.rate = 400, .in_target = 0.95, .usd = 0.004}, worse = fast;
  worse.in_target = 0.938;
  begin(&run, 5);
  pass(&run, &fast, 700);
  int64_t start = now(&run);
  pass(&run, &worse, 700);
  judge_trial(run.judge, start, now(&run), 1800 * NS_PER_S, &view, &v);
  assert_true(v.high < 0);
  assert_int_equal(v.finding, JUDGE_UNDECIDED);
  judge_destroy(run.judge);
}

static void learning_about_quality_is_no_effect(void **state) {
  (void)state;
  struct run run;
  struct judge_verdict v;
  const double lower[2] = {0.3, 0.32};
  const struct judge_view pessimist = {lower, &objective};
  begin(&run, 6);
  pass(&run, &calm, 600);
  int64_t start = now(&run);
  pass(&run, &calm, 600);
  judge_trial(run.judge, start, now(&run), 1800 * NS_PER_S, &pessimist, &v);
  assert_int_equal(v.finding, JUDGE_UNDECIDED);
  assert_float_equal(v.before, 0.95 * 0.306 - 0.02, 0.01);
  assert_float_equal(v.effect, 0, 0.01);
  judge_destroy(run.judge);
}

/* Three trials open; the second one does harm. */
static void harm_goes_to_the_trial_begun_before_the_break(void **state) {
  (void)state;
  int right = 0;
  for (uint64_t seed = 1; seed <= 200; seed++) {
    struct run run;
    struct world worse = calm;
    struct judge_suspect suspects[3] = {0};
    int64_t onset = 0;
    worse.in_target *= 0.85;
    begin(&run, seed);
    pass(&run, &calm, 700);
    suspects[0].start_ns = now(&run);
    pass(&run, &calm, 180);
    suspects[1].start_ns = now(&run);
    pass(&run, &worse, 120);
    suspects[2].start_ns = now(&run);
    pass(&run, &worse, 60);
    int blamed = judge_attribute(run.judge, suspects, 3, now(&run), &view, &onset);
    right += blamed == 1 && llabs(onset - suspects[1].start_ns) <= 40 * NS_PER_S;
    judge_destroy(run.judge);
  }
  assert_in_range(right, 190, 200);
}

/* Two changes ten seconds apart, the harmful one first or last: how often the right one is blamed. */
static int blamed_rightly(struct world worse, bool harmful_first, unsigned harmful, unsigned other) {
  int right = 0;
  for (uint64_t seed = 1; seed <= 200; seed++) {
    struct run run;
    int64_t onset = 0;
    begin(&run, seed);
    pass(&run, &calm, 700 + (int)(seed % 10));
    struct judge_suspect first = {now(&run), harmful_first ? harmful : other};
    pass(&run, harmful_first ? &worse : &calm, 10);
    struct judge_suspect suspects[2] = {first, {now(&run), harmful_first ? other : harmful}};
    pass(&run, &worse, 80);
    right += judge_attribute(run.judge, suspects, 2, now(&run), &view, &onset) == (harmful_first ? 0 : 1);
    judge_destroy(run.judge);
  }
  return right;
}

/* The demo: an experiment is promoted ten seconds before a person pushes what does harm, or just after. */
static void of_two_close_changes_the_one_that_acts_through_the_hurt_channel_is_blamed(void **state) {
  (void)state;
  struct world late = calm, failing = calm, dear = calm;
  late.in_target *= 0.7;
  failing.failing = 0.3;
  dear.usd *= 12;
  assert_in_range(blamed_rightly(late, false, JUDGE_LATE, JUDGE_LOST), 195, 200);
  assert_in_range(blamed_rightly(late, true, JUDGE_LATE, JUDGE_LOST), 195, 200);
  assert_in_range(blamed_rightly(failing, true, JUDGE_LOST, JUDGE_DOLLARS), 195, 200);
  assert_in_range(blamed_rightly(dear, true, JUDGE_DOLLARS, JUDGE_LOST | JUDGE_LATE), 195, 200);
  assert_in_range(blamed_rightly(late, false, JUDGE_LATE, JUDGE_LATE), 195,
                  200); /* undecided: the later one */
}

/* Bad luck in the twenty seconds before a harmful change moves the likeliest break ahead of it. */
static void a_bad_block_before_a_change_does_not_clear_it(void **state) {
  (void)state;
  int blamed = 0;
  for (uint64_t seed = 1; seed <= 200; seed++) {
    struct run run;
    int64_t onset = 0;
    struct world unlucky = calm, worse = calm;
    unlucky.in_target *= 0.85;
    worse.in_target *= 0.88;
    begin(&run, seed);
    pass(&run, &calm, 680);
    pass(&run, &unlucky, 20);
    struct judge_suspect suspect = {now(&run), JUDGE_LATE};
    pass(&run, &worse, 200);
    blamed += judge_attribute(run.judge, &suspect, 1, now(&run), &view, &onset) == 0;
    judge_destroy(run.judge);
  }
  assert_in_range(blamed, 180, 200);
}

static void a_break_before_every_trial_blames_none(void **state) {
  (void)state;
  struct run run;
  struct world worse = calm;
  worse.in_target = 0.5;
  begin(&run, 9);
  pass(&run, &calm, 700);
  pass(&run, &worse, 200);
  struct judge_suspect suspect = {now(&run), JUDGE_LATE};
  int64_t onset = 0;
  pass(&run, &worse, 100);
  assert_int_equal(judge_attribute(run.judge, &suspect, 1, now(&run), &view, &onset), -1);
  assert_in_range(onset, 690 * NS_PER_S, 720 * NS_PER_S);
  assert_int_equal(judge_attribute(run.judge, &suspect, 0, now(&run), &view, &onset), -1);
  judge_destroy(run.judge);
}

static void excluded_blocks_are_not_held_against_others(void **state) {
  (void)state;
  struct run run;
  struct judge_verdict v;
  struct world worse = calm;
  worse.in_target = 0.5;
  begin(&run, 10);
  pass(&run, &calm, 700);
  int64_t start = now(&run);
  pass(&run, &calm, 100);
  int64_t onset = now(&run);
  pass(&run, &worse, 100);
  judge_trial(run.judge, start, now(&run), 1800 * NS_PER_S, &view, &v);
  assert_int_equal(v.finding, JUDGE_HARM);
  judge_exclude(run.judge, onset, now(&run) + 10 * NS_PER_S);
  pass(&run, &worse, 15);
  pass(&run, &calm, 205);
  judge_trial(run.judge, start, now(&run), 1800 * NS_PER_S, &view, &v);
  assert_int_equal(v.finding, JUDGE_UNDECIDED);
  assert_int_equal(v.blocks_after, 29);
  assert_float_equal(v.effect, 0, 0.02);
  judge_destroy(run.judge);
}

static void score_sums_what_was_measured(void **state) {
  (void)state;
  struct judge *j = judge_create(2, 0);
  struct judge_score s;
  judge_score(j, 0, 100 * NS_PER_S, &view, &s);
  assert_float_equal(s.requests, 0, 0);
  assert_true(isnan(s.utility) && isnan(s.in_target) && isnan(s.quality) && isnan(s.usd_per_request));
  struct outcome answered = {.kind = OUTCOME_ANSWERED, .provider = 1, .in_target = true, .cost_usd = 0.01};
  struct outcome late = {.kind = OUTCOME_ANSWERED, .provider = 0, .cost_usd = 0.02};
  struct outcome failed = {.kind = OUTCOME_FAILED, .provider = NO_PROVIDER, .cost_usd = NAN};
  judge_observe(j, &answered, 5 * NS_PER_S);
  judge_observe(j, &late, 15 * NS_PER_S);
  judge_observe(j, &failed, 25 * NS_PER_S);
  judge_refused(j, 1, 26 * NS_PER_S);
  judge_score(j, 0, 30 * NS_PER_S, &view, &s);
  assert_float_equal(s.requests, 4, 0);
  assert_float_equal(s.utility, (0.8 - 5 * 0.03) / 4, 1e-12);
  assert_float_equal(s.in_target, 0.25, 1e-12);
  assert_float_equal(s.quality, 0.775, 1e-12);
  assert_float_equal(s.usd_per_request, 0.0075, 1e-12);
  judge_destroy(j);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_tenth_lost_is_found_within_five_minutes),
      cmocka_unit_test(no_change_is_called_harm_more_than_once_in_96_changes),
      cmocka_unit_test(harm_that_comes_late_is_found_within_two_minutes),
      cmocka_unit_test(without_traffic_nothing_is_decided),
      cmocka_unit_test(a_quiet_horizon_ends_with_no_harm_and_numbers),
      cmocka_unit_test(too_little_before_or_after_decides_nothing),
      cmocka_unit_test(requests_turned_away_at_admission_are_harm),
      cmocka_unit_test(a_loss_below_two_percent_is_left_alone),
      cmocka_unit_test(learning_about_quality_is_no_effect),
      cmocka_unit_test(harm_goes_to_the_trial_begun_before_the_break),
      cmocka_unit_test(of_two_close_changes_the_one_that_acts_through_the_hurt_channel_is_blamed),
      cmocka_unit_test(a_bad_block_before_a_change_does_not_clear_it),
      cmocka_unit_test(a_break_before_every_trial_blames_none),
      cmocka_unit_test(excluded_blocks_are_not_held_against_others),
      cmocka_unit_test(score_sums_what_was_measured),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
