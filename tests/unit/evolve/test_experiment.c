#include "bus/outcome.h"
#include "evolve/assign.h"
#include "evolve/experiment.h"
#include "evolve/internal.h"
#include "sys/clock.h"
#include "sys/rng.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct experiment_spec spec_of(enum tunable_trial design) {
  return (struct experiment_spec){.id = 3,
                                  .name = "try",
                                  .tunable = "retry_attempts",
                                  .design = design,
                                  .control = 3,
                                  .treatment = 1,
                                  .share = 0.5,
                                  .duration_s = 7200,
                                  .seed = 11};
}

struct effect_of_treatment {
  double utility, failing;
};

/* One request of a session that has its own level. */
static void session_request(struct experiment *e, struct rng *rng, uint64_t session, bool treated,
                            int64_t now, struct effect_of_treatment effect) {
  double level = 0.1 * ((double)(mix64(session) >> 11) * 0x1p-53 - 0.5);
  bool failed = rng_uniform(rng) < 0.02 + (treated ? effect.failing : 0);
  struct outcome o = {.id = rng_u64(rng),
                      .arrived_ns = now,
                      .session = session,
                      .treated = treated,
                      .kind = failed ? OUTCOME_FAILED : OUTCOME_ANSWERED,
                      .in_target = !failed};
  experiment_observe(e, &o,
                     failed ? 0 : 0.7 + level + 0.15 * rng_normal(rng) + (treated ? effect.utility : 0));
}

/* Two hours at most, one request a second, looked at every twenty seconds. */
static struct experiment_status run_sessions(uint64_t seed, struct effect_of_treatment effect) {
  struct experiment_spec spec = spec_of(TRIAL_SESSION);
  spec.seed = seed;
  struct experiment *e = experiment_create(&spec, 0);
  struct experiment_status s;
  struct rng rng;
  rng_seed(&rng, seed, 5);
  for (int64_t t = 1;; t++) {
    uint64_t session = mix64(seed) + (uint64_t)(t / 20) + rng_below(&rng, 6);
    session_request(e, &rng, session, assign_treats(session, experiment_salt(e), 0.5), t * NS_PER_S, effect);
    if (t % 20 != 0) continue;
    experiment_tick(e, t * NS_PER_S, &s);
    if (s.verdict != EXPERIMENT_RUNNING) break;
  }
  experiment_destroy(e);
  return s;
}

static void no_effect_is_promoted_or_refused_in_at_most_five_percent(void **state) {
  (void)state;
  enum { RUNS = 300 };
  int verdicts[6] = {0};
  for (uint64_t seed = 1; seed <= RUNS; seed++)
    verdicts[run_sessions(seed, (struct effect_of_treatment){0}).verdict]++;
  print_message("A/A by session, %d runs: promote %d, control %d, guardrail %d, skewed %d\n", RUNS,
                verdicts[EXPERIMENT_PROMOTE], verdicts[EXPERIMENT_CONTROL], verdicts[EXPERIMENT_GUARDRAIL],
                verdicts[EXPERIMENT_SKEWED]);
  assert_true(verdicts[EXPERIMENT_PROMOTE] + verdicts[EXPERIMENT_CONTROL] <= RUNS * 0.05);
  assert_true(verdicts[EXPERIMENT_GUARDRAIL] <= RUNS * 0.01);
  assert_int_equal(verdicts[EXPERIMENT_SKEWED], 0);
}

static void a_better_treatment_is_promoted_with_numbers(void **state) {
  (void)state;
  int promoted = 0;
  for (uint64_t seed = 1; seed <= 40; seed++) {
    struct experiment_status s = run_sessions(seed, (struct effect_of_treatment){.utility = 0.06});
    promoted += s.verdict == EXPERIMENT_PROMOTE;
    if (s.verdict != EXPERIMENT_PROMOTE) continue;
    assert_true(s.low > 0 && s.low < s.effect && s.effect < s.high && s.p < 0.05);
    assert_true(s.control_units >= 100 && s.treatment_units >= 100);
    assert_non_null(strstr(s.words, "The treatment is better: retry_attempts 1 against 3, utility +0.0"));
  }
  assert_in_range(promoted, 38, 40);
}

static void a_worse_treatment_loses(void **state) {
  (void)state;
  struct experiment_status s = run_sessions(1, (struct effect_of_treatment){.utility = -0.08});
  assert_int_equal(s.verdict, EXPERIMENT_CONTROL);
  assert_true(s.high < 0);
}

static void errors_trip_the_guardrail_before_utility_decides(void **state) {
  (void)state;
  struct experiment_status s = run_sessions(2, (struct effect_of_treatment){.utility = 0.3, .failing = 0.25});
  assert_int_equal(s.verdict, EXPERIMENT_GUARDRAIL);
  assert_non_null(strstr(s.words, "guardrail"));
  assert_true(s.treatment_units < 100);
}

static void arms_that_do_not_fit_the_assignment_stop_it(void **state) {
  (void)state;
  struct experiment_spec spec = spec_of(TRIAL_SESSION);
  struct experiment *e = experiment_create(&spec, 0);
  struct experiment_status s;
  struct rng rng;
  rng_seed(&rng, 1, 1);
  for (uint64_t session = 1; session <= 2000; session++)
    session_request(e, &rng, session, rng_uniform(&rng) < 0.35, 1, (struct effect_of_treatment){0});
  experiment_tick(e, NS_PER_S, &s);
  assert_int_equal(s.verdict, EXPERIMENT_SKEWED);
  assert_string_equal(experiment_verdict_name(s.verdict), "stopped");
  experiment_tick(e, 99 * NS_PER_S, &s);
  assert_int_equal(s.verdict, EXPERIMENT_SKEWED);
  experiment_destroy(e);
}

/* One failure in fifty requests of each treated session, none elsewhere: means that do not vary at all. */
static void a_rare_failure_that_hits_all_alike_is_no_proof_yet(void **state) {
  (void)state;
  struct experiment_spec spec = spec_of(TRIAL_SESSION);
  struct experiment *e = experiment_create(&spec, 0);
  struct experiment_status s;
  for (uint64_t session = 1; session <= 64; session++)
    for (int n = 0; n < 50; n++) {
      bool treated = session % 2, failed = treated && n == 0;
      struct outcome o = {.arrived_ns = NS_PER_S,
                          .session = session,
                          .treated = treated,
                          .kind = failed ? OUTCOME_FAILED : OUTCOME_ANSWERED,
                          .in_target = !failed};
      experiment_observe(e, &o, 0.5);
    }
  experiment_tick(e, 2 * NS_PER_S, &s);
  assert_int_equal(s.verdict, EXPERIMENT_RUNNING);
  experiment_destroy(e);
}

static void few_units_widen_the_interval_as_students_t_does(void **state) {
  (void)state;
  for (int design = 0; design < 2; design++) {
    struct experiment_spec spec = spec_of(design ? TRIAL_SWITCHBACK : TRIAL_SESSION);
    struct experiment *e = experiment_create(&spec, 0);
    struct experiment_status s;
    struct effect f;
    if (design) {
      e->difference[MEASURE_UTILITY] = (struct moments){10, 0.02, 0.009};
      f = (struct effect){0.02, sqrt(0.001 / 10), 10};
    } else {
      for (int arm = 0; arm < ARMS; arm++)
        e->arm[arm][MEASURE_UTILITY] = (struct moments){10, 0.5 + 0.02 * arm, 0.009};
      f = (struct effect){0.02, sqrt(2 * 0.001 / 10), 20};
    }
    f.se *= 2.262157 / 1.959964; /* of nine degrees of freedom */
    experiment_tick(e, NS_PER_S, &s);
    struct interval ci = confseq_interval(f, 0.05, design ? 40 : 1000);
    assert_float_equal(s.low, ci.low, 1e-6);
    assert_float_equal(s.high, ci.high, 1e-6);
    experiment_destroy(e);
  }
}

static void time_up_without_proof_is_inconclusive(void **state) {
  (void)state;
  struct experiment_spec spec = spec_of(TRIAL_SESSION);
  struct experiment *e = experiment_create(&spec, 0);
  struct experiment_status s;
  experiment_tick(e, 7199 * NS_PER_S, &s);
  assert_int_equal(s.verdict, EXPERIMENT_RUNNING);
  assert_true(isnan(s.effect) && isnan(s.low) && isnan(s.p));
  experiment_tick(e, 7200 * NS_PER_S, &s);
  assert_int_equal(s.verdict, EXPERIMENT_INCONCLUSIVE);
  assert_non_null(strstr(s.words, "too few sessions"));
  experiment_destroy(e);
}

static void a_minimum_effect_must_be_proved_too(void **state) {
  (void)state;
  struct experiment_spec spec = spec_of(TRIAL_SESSION);
  spec.min_effect = 0.1;
  struct experiment *e = experiment_create(&spec, 0);
  struct experiment_status s;
  struct rng rng;
  rng_seed(&rng, 4, 4);
  for (uint64_t session = 1; session <= 4000; session++)
    session_request(e, &rng, session, assign_treats(session, experiment_salt(e), 0.5), 1,
                    (struct effect_of_treatment){.utility = 0.06});
  experiment_tick(e, NS_PER_S, &s);
  assert_true(s.low > 0.03);
  assert_int_equal(s.verdict, EXPERIMENT_RUNNING);
  experiment_destroy(e);
}

static void sessions_are_the_units_and_earlier_requests_do_not_count(void **state) {
  (void)state;
  struct experiment_spec spec = spec_of(TRIAL_SESSION);
  struct experiment *e = experiment_create(&spec, 100 * NS_PER_S);
  struct experiment_status s;
  struct outcome o = {.id = 1, .session = 5, .arrived_ns = 101 * NS_PER_S, .in_target = true};
  for (int i = 0; i < 10; i++)
    experiment_observe(e, &o, 0.2 + 0.1 * i);
  o.session = 6;
  experiment_observe(e, &o, 0.5);
  o.treated = true;
  o.session = 0;
  for (o.id = 10; o.id < 13; o.id++)
    experiment_observe(e, &o, 0.8);
  o.arrived_ns = 99 * NS_PER_S;
  experiment_observe(e, &o, -5);
  o.arrived_ns = 101 * NS_PER_S;
  experiment_observe(e, &o, NAN);
  experiment_tick(e, 102 * NS_PER_S, &s);
  assert_int_equal(s.control_units, 2);
  assert_int_equal(s.control_requests, 11);
  assert_int_equal(s.treatment_units, 3);
  assert_float_equal(s.effect, 0.8 - (0.65 + 0.5) / 2, 1e-12);
  experiment_destroy(e);
}

static void a_full_table_counts_what_it_leaves_out(void **state) {
  (void)state;
  struct experiment_spec spec = spec_of(TRIAL_SESSION);
  struct experiment *e = experiment_create(&spec, 0);
  struct experiment_status s;
  struct outcome o = {.arrived_ns = 1, .in_target = true};
  for (o.session = 1; o.session <= EXPERIMENT_SESSIONS + 10; o.session++) {
    o.treated = o.session % 2;
    experiment_observe(e, &o, 0.5);
  }
  o.session = 1;
  experiment_observe(e, &o, 0.5);
  experiment_tick(e, 2, &s);
  assert_int_equal(s.left_out, 10);
  assert_int_equal(s.control_units + s.treatment_units, EXPERIMENT_SESSIONS);
  assert_int_equal(s.control_requests + s.treatment_requests, EXPERIMENT_SESSIONS + 1);
  experiment_destroy(e);
}

/* ---- switchback ---- */

struct swing {
  double effect, drift; /* drift: slow sine in the utility */
};

static struct experiment_status run_blocks(uint64_t seed, struct swing w, double share, int64_t seconds) {
  struct experiment_spec spec = spec_of(TRIAL_SWITCHBACK);
  spec.seed = seed;
  spec.share = share;
  spec.duration_s = (double)seconds;
  struct experiment *e = experiment_create(&spec, 0);
  struct experiment_status s;
  struct rng rng;
  rng_seed(&rng, seed, 6);
  for (int64_t t = 0;; t++) {
    experiment_tick(e, t * NS_PER_S, &s);
    if (s.verdict != EXPERIMENT_RUNNING) break;
    for (int k = 0; k < 2; k++) {
      struct outcome o = {.arrived_ns = t * NS_PER_S, .in_target = true};
      experiment_observe(
          e, &o, 0.7 + w.drift * sin((double)t / 1200) + (s.treat ? w.effect : 0) + 0.2 * rng_normal(&rng));
    }
  }
  experiment_destroy(e);
  return s;
}

static void blocks_in_pairs_see_an_effect_through_slow_drift(void **state) {
  (void)state;
  int promoted = 0;
  for (uint64_t seed = 1; seed <= 40; seed++) {
    struct experiment_status s =
        run_blocks(seed, (struct swing){.effect = 0.05, .drift = 0.2}, 0.5, 8 * 3600);
    promoted += s.verdict == EXPERIMENT_PROMOTE;
    if (s.verdict == EXPERIMENT_PROMOTE) assert_true(s.treatment_units >= EXPERIMENT_MIN_GROUPS);
  }
  assert_in_range(promoted, 38, 40);
}

static void drift_alone_is_no_effect(void **state) {
  (void)state;
  enum { RUNS = 100 };
  int wrong = 0;
  for (uint64_t seed = 1; seed <= RUNS; seed++)
    wrong += run_blocks(seed, (struct swing){.drift = 0.2}, 0.5, 4 * 3600).verdict != EXPERIMENT_INCONCLUSIVE;
  print_message("A/A by time block, %d runs: %d decided\n", RUNS, wrong);
  assert_true(wrong <= RUNS * 0.05);
}

static void the_share_of_blocks_is_kept_and_their_place_is_random(void **state) {
  (void)state;
  struct experiment_status s = run_blocks(5, (struct swing){0}, 0.25, 6 * 3600);
  assert_int_equal(s.control_units, 3 * s.treatment_units);
  assert_in_range(s.treatment_units, 45, 95);
  struct experiment_spec spec = spec_of(TRIAL_SWITCHBACK);
  struct experiment *e = experiment_create(&spec, 0);
  int treated = 0, switches = 0, shortest = 1000, length = 0;
  bool last = false;
  for (int64_t t = 0; t < 7000; t++) {
    experiment_tick(e, t * NS_PER_S, &s);
    treated += s.treat;
    length++;
    if (t > 0 && s.treat != last) {
      switches++;
      if (length < shortest) shortest = length;
      length = 0;
    }
    last = s.treat;
  }
  assert_in_range(treated, 3000, 4000);
  assert_in_range(switches, 35, 90);
  assert_in_range(shortest, 60, 121);
  experiment_destroy(e);
}

static void a_pause_drops_the_group_and_a_decided_one_no_longer_treats(void **state) {
  (void)state;
  struct experiment_spec spec = spec_of(TRIAL_SWITCHBACK);
  struct experiment *e = experiment_create(&spec, 0);
  struct experiment_status s;
  struct outcome o = {.arrived_ns = 40 * NS_PER_S, .in_target = true};
  experiment_tick(e, 0, &s);
  for (int i = 0; i < 10; i++)
    experiment_observe(e, &o, 0.5);
  experiment_tick(e, 3600 * NS_PER_S, &s);
  experiment_tick(e, 3900 * NS_PER_S, &s);
  assert_int_equal(s.treatment_units, 0);
  experiment_tick(e, 7200 * NS_PER_S, &s);
  assert_int_equal(s.verdict, EXPERIMENT_INCONCLUSIVE);
  assert_false(s.treat);
  experiment_destroy(e);
}

/* ---- state ---- */

static void state_goes_on_after_a_restart(void **state) {
  (void)state;
  struct experiment_spec spec = spec_of(TRIAL_SESSION), read;
  struct experiment *e = experiment_create(&spec, 0);
  struct experiment_status before, after;
  struct rng rng;
  rng_seed(&rng, 4, 4);
  for (uint64_t session = 1; session <= 150; session++)
    session_request(e, &rng, session, assign_treats(session, experiment_salt(e), 0.5), 1,
                    (struct effect_of_treatment){0});
  experiment_tick(e, 1000 * NS_PER_S, &before);
  char *json = experiment_spec_json(e), *saved = experiment_save(e, 1000 * NS_PER_S);
  assert_int_equal(experiment_spec_parse(json, &read), 0);
  assert_string_equal(read.name, "try");
  assert_int_equal(read.seed, 11);
  assert_float_equal(read.guard_target, 0.02, 0);
  struct experiment *again = experiment_restore(&read, saved, 5 * NS_PER_S);
  assert_non_null(again);
  assert_true(experiment_salt(again) == experiment_salt(e));
  experiment_tick(again, 6 * NS_PER_S, &after);
  assert_int_equal(after.control_units, before.control_units);
  assert_float_equal(after.effect, before.effect, 1e-12);
  assert_float_equal(after.low, before.low, 1e-12);
  experiment_tick(again, (5 + 6199) * NS_PER_S, &after);
  assert_int_equal(after.verdict, EXPERIMENT_RUNNING);
  experiment_tick(again, (5 + 6201) * NS_PER_S, &after);
  assert_int_equal(after.verdict, EXPERIMENT_INCONCLUSIVE);
  free(json);
  free(saved);
  experiment_destroy(e);
  experiment_destroy(again);
}

static void broken_state_is_refused(void **state) {
  (void)state;
  struct experiment_spec spec = spec_of(TRIAL_SWITCHBACK), read = spec;
  assert_null(experiment_restore(&spec, "", 0));
  assert_null(experiment_restore(&spec, "[1]", 0));
  assert_null(experiment_restore(&spec, "{\"age_s\":-1}", 0));
  assert_null(
      experiment_restore(&spec, "{\"age_s\":1,\"groups\":0,\"left_out\":0,\"differences\":[[1,2],3,4]}", 0));
  assert_int_equal(experiment_spec_parse("{\"name\":\"x\"}", &read), -22);
  assert_int_equal(experiment_spec_parse("nonsense", &read), -22);
  assert_string_equal(read.name, "try");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(no_effect_is_promoted_or_refused_in_at_most_five_percent),
      cmocka_unit_test(a_better_treatment_is_promoted_with_numbers),
      cmocka_unit_test(a_worse_treatment_loses),
      cmocka_unit_test(errors_trip_the_guardrail_before_utility_decides),
      cmocka_unit_test(arms_that_do_not_fit_the_assignment_stop_it),
      cmocka_unit_test(a_rare_failure_that_hits_all_alike_is_no_proof_yet),
      cmocka_unit_test(few_units_widen_the_interval_as_students_t_does),
      cmocka_unit_test(time_up_without_proof_is_inconclusive),
      cmocka_unit_test(a_minimum_effect_must_be_proved_too),
      cmocka_unit_test(sessions_are_the_units_and_earlier_requests_do_not_count),
      cmocka_unit_test(a_full_table_counts_what_it_leaves_out),
      cmocka_unit_test(blocks_in_pairs_see_an_effect_through_slow_drift),
      cmocka_unit_test(drift_alone_is_no_effect),
      cmocka_unit_test(the_share_of_blocks_is_kept_and_their_place_is_random),
      cmocka_unit_test(a_pause_drops_the_group_and_a_decided_one_no_longer_treats),
      cmocka_unit_test(state_goes_on_after_a_restart),
      cmocka_unit_test(broken_state_is_refused),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
