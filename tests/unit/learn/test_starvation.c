/* Case C55: starved arms, arms that fail fast, empty statistics. */

#include "arms.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

static void one_request(struct arms *w) {
  arms_request(w);
  if (w->requests % w->rate == 0) arms_tick(w);
}

/* (a) */
static void a_fresh_start_has_sane_numbers_and_serves_the_first_request(void **state) {
  (void)state;
  struct router *r = arms_router(3);
  struct router_settings s = arms_settings();
  struct route_table table = {0};
  struct route_choice choice;
  assert_false(router_tick(r, NS_PER_S, &s, &table));
  for (unsigned i = 0; i < 3; i++) {
    struct router_estimate e;
    router_estimate(r, 0, i, &s, &e);
    assert_float_equal(e.in_target, 0.9, 1e-6);
    assert_float_equal(e.quality, 0.7, 1e-6);
    assert_float_equal(e.usd, 0.001, 1e-6);
    assert_float_equal(e.share, 1.0 / 3, 1e-6);
    assert_true(isfinite(e.score));
  }
  assert_true(route_pick(&table, 0, 7, 0.3, 1, &choice));
  assert_int_equal(choice.candidate, 1);
  router_destroy(r);
}

static void fail_once(struct arms *w, unsigned arm) {
  struct outcome o = {.provider = (uint8_t)arm, .kind = OUTCOME_FAILED, .tried_count = 1};
  o.tried[0].provider = (uint8_t)arm;
  o.tried[0].result = ATTEMPT_FAILED;
  router_outcome(w->router, &o);
}

/* (b) */
static void an_unlucky_start_starves_no_arm(void **state) {
  (void)state;
  for (uint64_t seed = 1; seed <= 20; seed++) {
    struct arm equal[] = {{0.8, 0.97, 0, 0.001}, {0.8, 0.97, 0, 0.001}};
    struct arms w;
    arms_begin(&w, equal, 2, seed);
    for (int i = 0; i < 3; i++)
      fail_once(&w, 1);
    while (w.requests < 1500)
      one_request(&w);
    assert_true(arms_share(&w, 1) >= 0.01);
    w.arm[0].in_target = 0;
    while (w.requests < 2000)
      one_request(&w);
    arms_forget(&w);
    while (w.requests < 1000)
      one_request(&w);
    assert_true(arms_share(&w, 1) >= 0.6);
    router_destroy(w.router);
  }
}

/* (c): B answers 500 in 5 ms; the request falls back to A and succeeds there. */
static void failing_fast_does_not_look_fast(void **state) {
  (void)state;
  struct arm arm[] = {{0.7, 0.95, 0, 0.001}, {0.7, 1, 1, 0}};
  struct arms w;
  arms_begin(&w, arm, 2, 7);
  long late = 0;
  while (w.requests < 1000) {
    one_request(&w);
    if (w.last.candidate == 0) continue;
    late += w.requests > 200;
    struct outcome fallback = {
        .kind = OUTCOME_ANSWERED, .in_target = true, .tried_count = 2, .cost_usd = 0.001};
    fallback.tried[0].provider = 1;
    fallback.tried[0].result = ATTEMPT_FAILED;
    router_outcome(w.router, &fallback);
  }
  assert_true(late < 80);
  router_destroy(w.router);
}

/* (d) */
static void all_arms_worthless_still_share_the_traffic(void **state) {
  (void)state;
  struct arm arm[] = {{0, 0, 1, 0}, {0, 0, 1, 0}};
  struct arms w;
  arms_begin(&w, arm, 2, 8);
  arms_run(&w, 300);
  assert_true(arms_share(&w, 0) > 0.05 && arms_share(&w, 1) > 0.05);
  assert_true(isfinite(w.table.routes[0].utility[0]) && isfinite(w.table.routes[0].utility[1]));
  router_destroy(w.router);
}

/* (e) */
static void bad_values_in_a_saved_state_are_dropped(void **state) {
  (void)state;
  struct router *r = arms_router(3);
  struct router_settings s = arms_settings();
  struct router_estimate e;
  assert_int_equal(
      router_load(r, "{\"models\":{\"model-a\":{\"n\":0,\"mean\":0.1,\"variance\":0.1},"
                     "\"model-b\":{\"n\":10,\"mean\":null,\"variance\":0.1},"
                     "\"model-c\":{\"n\":-4,\"mean\":0.1,\"variance\":0.1},\"gone\":7},"
                     "\"providers\":{\"a\":{\"hits\":1e999,\"misses\":1},\"b\":{\"hits\":-1,\"misses\":0},"
                     "\"c\":[]},\"routes\":{\"auto\":{\"n\":\"x\",\"usd\":{\"a\":{\"n\":3,\"mean\":-1}}}}}"),
      0);
  for (unsigned i = 0; i < 3; i++) {
    router_estimate(r, 0, i, &s, &e);
    assert_float_equal(e.quality, 0.7, 1e-6);
    assert_float_equal(e.in_target, 0.9, 1e-6);
    assert_float_equal(e.usd, 0.001, 1e-6);
  }
  struct route_table table;
  assert_false(router_tick(r, NS_PER_S, &s, &table));
  assert_int_equal(router_load(r, "NaN"), -22);
  assert_int_equal(router_load(r, "[]"), -22);
  assert_int_equal(router_load(r, "{\"models\":3}"), 0);
  router_destroy(r);
}

/* (f) */
static void an_arm_unused_for_an_hour_is_tried_again(void **state) {
  (void)state;
  struct arm arm[] = {{0.75, 0.95, 0, 0.001}, {0.85, 0.95, 1, 0.001}};
  struct arms w;
  arms_begin(&w, arm, 2, 9);
  arms_run(&w, 600);
  for (int i = 0; i < 3600 * 5; i++) { /* an hour in which only A is available */
    struct outcome o = {.kind = OUTCOME_ANSWERED, .in_target = true, .cost_usd = 0.001};
    router_outcome(w.router, &o);
    if (i % 5 == 4) arms_tick(&w);
  }
  w.arm[1].failing = 0;
  arms_forget(&w);
  arms_run(&w, 900);
  assert_true(w.picked[1] >= 5);
  arms_run(&w, 900);
  arms_forget(&w);
  arms_run(&w, 900);
  assert_true(arms_share(&w, 1) > 0.5);
  router_destroy(w.router);
}

/* ---- who a miss belongs to ---- */

static double misses_of(const struct router *r, unsigned arm) {
  struct router_settings s = arms_settings();
  struct router_estimate e;
  router_estimate(r, 0, arm, &s, &e);
  return (e.in_target_n + 2) * (1 - e.in_target) - 0.2;
}

static double seen_of(const struct router *r, unsigned arm) {
  struct router_settings s = arms_settings();
  struct router_estimate e;
  router_estimate(r, 0, arm, &s, &e);
  return e.in_target_n;
}

static void time_makes_no_evidence(void **state) {
  (void)state;
  struct router *r = arms_router(2);
  struct router_settings settings = arms_settings();
  struct route_table table;
  struct router_estimate e;
  struct outcome hit = {.provider = 0, .kind = OUTCOME_ANSWERED, .in_target = true};
  for (int64_t second = 1; second <= 600; second++) {
    if (second == 2) router_outcome(r, &(struct outcome){.provider = 1, .kind = OUTCOME_ANSWERED});
    router_outcome(r, &hit);
    router_tick(r, second * NS_PER_S, &settings, &table);
    router_estimate(r, 0, 1, &settings, &e);
    assert_true(e.in_target_n == (second < 2 ? 0 : 1));
  }
  router_destroy(r);
}

static void a_late_fallback_is_the_failing_providers_miss(void **state) {
  (void)state;
  struct router *r = arms_router(2);
  struct outcome o = {.kind = OUTCOME_ANSWERED, .provider = 1, .in_target = false, .tried_count = 2};
  o.tried[0].provider = 0;
  o.tried[0].result = ATTEMPT_TIMED_OUT;
  o.tried[1].provider = 1;
  router_outcome(r, &o);
  assert_float_equal(misses_of(r, 0), 1, 1e-5);
  assert_float_equal(seen_of(r, 1), 0, 0);
  o.in_target = true;
  router_outcome(r, &o);
  assert_float_equal(seen_of(r, 1), 1, 0);
  assert_float_equal(misses_of(r, 1), 0, 1e-5);
  router_destroy(r);
}

static void refusing_what_another_answers_is_a_miss(void **state) {
  (void)state;
  struct router *r = arms_router(2);
  struct outcome o = {.kind = OUTCOME_ANSWERED, .provider = 1, .in_target = true, .tried_count = 2};
  o.tried[0].result = ATTEMPT_REJECTED;
  o.tried[1].provider = 1;
  router_outcome(r, &o);
  assert_float_equal(misses_of(r, 0), 1, 1e-5);
  assert_float_equal(misses_of(r, 1), 0, 1e-5);
  router_destroy(r);
}

static void throttled_rejected_shed_and_coalesced_count_for_nobody(void **state) {
  (void)state;
  struct router *r = arms_router(2);
  struct outcome o = {.kind = OUTCOME_FAILED, .tried_count = 3};
  o.tried[0].result = ATTEMPT_THROTTLED;
  o.tried[1].result = ATTEMPT_REJECTED;
  o.tried[2].result = ATTEMPT_CANCELLED;
  router_outcome(r, &o);
  struct outcome shed = {.kind = OUTCOME_SHED, .provider = NO_PROVIDER};
  router_outcome(r, &shed);
  struct outcome joined = {.kind = OUTCOME_ANSWERED, .provider = 0, .coalesced = true, .in_target = false};
  router_outcome(r, &joined);
  assert_float_equal(seen_of(r, 0), 0, 0);
  router_destroy(r);
}

static void a_client_that_leaves_a_stream_counts_only_past_the_target(void **state) {
  (void)state;
  struct router *r = arms_router(2);
  struct outcome o = {.kind = OUTCOME_CLIENT_GONE,
                      .stream = true,
                      .tried_count = 1,
                      .total_ms = 900,
                      .ttft_ms = NAN,
                      .tpot_ms = NAN};
  o.tried[0].result = ATTEMPT_CANCELLED;
  router_outcome(r, &o);
  assert_float_equal(seen_of(r, 0), 0, 0);
  o.total_ms = 1100;
  router_outcome(r, &o);
  assert_float_equal(misses_of(r, 0), 1, 1e-5);
  o.ttft_ms = 300;
  router_outcome(r, &o);
  assert_float_equal(seen_of(r, 0), 1, 0);
  o.stream = false;
  o.ttft_ms = NAN;
  router_outcome(r, &o);
  assert_float_equal(seen_of(r, 0), 1, 0);
  router_destroy(r);
}

static void a_thin_arm_never_leads_a_known_one(void **state) {
  (void)state;
  struct router *r = arms_router(2);
  struct router_settings s = arms_settings();
  struct router_estimate e;
  for (int i = 0; i < 50; i++) {
    struct outcome o = {.kind = OUTCOME_ANSWERED, .provider = 0, .in_target = i % 2};
    router_outcome(r, &o);
  }
  router_estimate(r, 0, 1, &s, &e);
  assert_true(e.utility > 0.6);
  assert_float_equal(e.share, 0.05 + 0.9 * 0.1, 1e-4); /* no reward yet: a tenth explores */
  router_destroy(r);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_fresh_start_has_sane_numbers_and_serves_the_first_request),
      cmocka_unit_test(an_unlucky_start_starves_no_arm),
      cmocka_unit_test(failing_fast_does_not_look_fast),
      cmocka_unit_test(all_arms_worthless_still_share_the_traffic),
      cmocka_unit_test(bad_values_in_a_saved_state_are_dropped),
      cmocka_unit_test(an_arm_unused_for_an_hour_is_tried_again),
      cmocka_unit_test(time_makes_no_evidence),
      cmocka_unit_test(a_late_fallback_is_the_failing_providers_miss),
      cmocka_unit_test(refusing_what_another_answers_is_a_miss),
      cmocka_unit_test(throttled_rejected_shed_and_coalesced_count_for_nobody),
      cmocka_unit_test(a_client_that_leaves_a_stream_counts_only_past_the_target),
      cmocka_unit_test(a_thin_arm_never_leads_a_known_one),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
