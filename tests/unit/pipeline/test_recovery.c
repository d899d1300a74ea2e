/* What comes after a failed call, where things meet: refusals at both providers, waiting requests with few
 * candidates left, shared calls, events that a dead attempt left behind. */

#include "rig.h"

#include "pipeline/lanes.h"

static const struct act answer[] = {{.what = ANSWER, .after_ns = MS(100)}};
static const struct act slow_answer[] = {{.what = ANSWER, .after_ns = S(1)}};
static const struct act denied[] = {{.what = STATUS, .status = 401, .retry_after_ns = -1}};

static void two_providers_that_refuse_at_once_are_not_asked_in_turns_for_ever(void **state) {
  static const int64_t retry_after[] = {0, MS(1), -1};
  (void)state;
  for (int i = 0; i < 3; i++) {
    static struct rig rig;
    struct act refuses[] = {
        {.what = STATUS, .status = 429, .after_ns = MS(1), .retry_after_ns = retry_after[i]}};
    rig_open(&rig, false, refuses, 1, refuses, 1);
    rig_ask(&rig, 0, (struct ask){.deadline_ns = S(20)});
    rig_until(&rig, S(21));
    assert_int_equal(rig.clients[0].status, 429);
    assert_in_range(rig.fakes[0].started + rig.fakes[1].started, 2, 8);
    rig_assert_conserved(&rig);
    rig_close(&rig);
  }
}

static void waiting_for_a_provider_that_refused_spends_the_retry_budget(void **state) {
  static const struct act refuses[] = {
      {.what = STATUS, .status = 429, .after_ns = MS(1), .retry_after_ns = MS(200)}};
  (void)state;
  static struct rig rig;
  rig_open(&rig, false, refuses, 1, NULL, 0);
  for (unsigned i = 0; i < 40; i++)
    rig_ask(&rig, i, (struct ask){.no_coalesce = true, .deadline_ns = S(20)});
  rig_until(&rig, S(21));
  assert_in_range(rig.fakes[0].started, 40, 40 + 12);
  assert_int_equal(rig_count(&rig, COUNTER_retries, 0), rig.fakes[0].started - 40);
  assert_true(rig_count(&rig, COUNTER_retries_denied, 0) > 0);
  rig_assert_conserved(&rig);
  rig_close(&rig);
}

static void who_fell_back_keeps_its_turn_before_the_less_urgent(void **state) {
  (void)state;
  static struct rig rig;
  rig_open(&rig, true, denied, 1, slow_answer, 1);
  rig_set(&rig, TUNABLE_concurrency_limit, 1);
  rig_ask(&rig, 1, (struct ask){.priority = PRIORITY_LOW, .no_coalesce = true});
  rig_until(&rig, MS(10));
  rig_ask(&rig, 0, (struct ask){.priority = PRIORITY_CRITICAL, .no_coalesce = true});
  rig_until(&rig, MS(10));
  plane_close_provider(rig.plane, 0, rig.now_ns, S(100)); /* the others go to the fallback at once */
  for (unsigned i = 2; i < 8; i++)
    rig_ask(&rig, i, (struct ask){.priority = PRIORITY_LOW, .no_coalesce = true});
  rig_until(&rig, S(20));
  assert_int_equal(rig.clients[0].status, 200);
  for (unsigned i = 2; i < 8; i++)
    assert_true(rig.clients[0].finished_ns < rig.clients[i].finished_ns);
  rig_close(&rig);
}

static void requests_that_fell_back_wait_in_the_ring_and_fill_it(void **state) {
  (void)state;
  static struct rig rig;
  unsigned refused = 0;
  rig_open(&rig, true, denied, 1, slow_answer, 1);
  rig_set(&rig, TUNABLE_concurrency_limit, 1);
  rig_set(&rig, TUNABLE_buffer_inference, 8);
  for (unsigned i = 0; i < 150; i++) {
    refused += !rig_ask(&rig, i, (struct ask){.no_coalesce = true, .deadline_ns = S(6)});
    rig_until(&rig, MS(5));
  }
  assert_in_range(refused, 120, 150);
  assert_in_range(pipeline_depth(rig.pipeline, STAGE_INFERENCE), 1, 10);
  rig_until(&rig, S(7));
  assert_true(rig_count(&rig, COUNTER_stage_arrivals, STAGE_INFERENCE) < 100);
  rig_assert_conserved(&rig);
  rig_close(&rig);
}

static void a_busy_fallback_is_waited_for_and_not_the_refusal(void **state) {
  static const struct act refuses[] = {{.what = STATUS, .status = 429, .retry_after_ns = S(15)}};
  (void)state;
  static struct rig rig;
  rig_open(&rig, true, refuses, 1, slow_answer, 1);
  rig_set(&rig, TUNABLE_concurrency_limit, 1);
  rig_ask(&rig, 0, (struct ask){.no_coalesce = true});
  rig_ask(&rig, 1, (struct ask){.no_coalesce = true});
  rig_until(&rig, S(4));
  assert_int_equal(rig.clients[0].status, 200);
  assert_int_equal(rig.clients[1].status, 200);
  rig_close(&rig);
}

static void who_shares_a_call_is_not_bound_by_its_leaders_deadline(void **state) {
  static const struct act once[] = {
      {.what = STATUS, .status = 429, .after_ns = MS(100), .retry_after_ns = S(4)},
      {.what = ANSWER, .after_ns = MS(100)}};
  static const int64_t leaders[] = {S(2), MS(50)}; /* still there at the refusal; gone by then */
  (void)state;
  for (int i = 0; i < 2; i++) {
    static struct rig rig;
    rig_open(&rig, true, once, 2, NULL, 0);
    rig_ask(&rig, 0, (struct ask){.deadline_ns = leaders[i]});
    rig_ask(&rig, 1, (struct ask){.deadline_ns = S(60)});
    rig_until(&rig, S(10));
    assert_int_equal(rig.clients[0].status, 504);
    assert_int_equal(rig.clients[1].status, 200);
    rig_assert_conserved(&rig);
    rig_close(&rig);
  }
}

static void the_first_to_be_refused_is_told_when_to_come_back(void **state) {
  static const struct act refuses[] = {{.what = STATUS, .status = 429, .retry_after_ns = S(120)}};
  (void)state;
  static struct rig rig;
  rig_open(&rig, true, refuses, 1, NULL, 0);
  rig_ask(&rig, 0, (struct ask){.deadline_ns = S(60)});
  rig_until(&rig, S(2));
  assert_int_equal(rig.clients[0].status, 429);
  assert_in_range(rig.clients[0].retry_after_s, 119, 122);
  rig_close(&rig);
}

static void a_moment_that_is_earlier_opens_no_provider(void **state) {
  (void)state;
  static struct rig rig;
  rig_open(&rig, true, answer, 1, NULL, 0);
  plane_close_provider(rig.plane, 0, rig.now_ns, S(20));
  plane_close_provider(rig.plane, 0, rig.now_ns, MS(100));
  assert_int_equal(atomic_load(&rig.plane->providers[0].closed_until_ns), rig.now_ns + S(20));
  plane_close_provider(rig.plane, 0, rig.now_ns, S(604800)); /* nor is it closed for ever by a wrong unit */
  assert_int_equal(atomic_load(&rig.plane->providers[0].closed_until_ns), rig.now_ns + S(3600));
  rig_close(&rig);
}

static void what_a_dead_attempt_said_is_not_heard(void **state) {
  static const struct act cut[] = {{.what = CUT_AFTER, .role = true, .gap_ns = MS(1), .retry_after_ns = -1}};
  static const struct act whole[] = {{.what = STREAM, .role = true, .tokens = 2, .gap_ns = MS(1)}};
  (void)state;
  static struct rig rig;
  rig_open(&rig, true, cut, 1, whole, 1);
  rig_ask(&rig, 0, (struct ask){.stream = true});
  rig_until(&rig, S(5));
  assert_int_equal(rig.clients[0].status, 200);
  assert_string_equal(rig.clients[0].heard, "data: r\n\ndata: x\n\ndata: x\n\n");
  rig_close(&rig);
}

static void a_stream_that_breaks_is_booked_as_far_as_it_came(void **state) {
  static const struct act cut[] = {{.what = CUT_AFTER, .tokens = 7, .gap_ns = MS(1), .retry_after_ns = -1}};
  static const struct act slow[] = {{.what = STREAM, .tokens = 100, .gap_ns = MS(10)}};
  (void)state;
  for (int leaves = 0; leaves < 2; leaves++) {
    static struct rig rig;
    struct outcome *outcomes = NULL;
    size_t capacity = 0;
    rig_open(&rig, true, leaves ? slow : cut, 1, NULL, 0);
    struct request *r = rig_ask(&rig, 0, (struct ask){.stream = true});
    rig_until(&rig, MS(200));
    if (leaves) request_cancel(r, rig.now_ns);
    rig_until(&rig, S(1));
    uint64_t tokens = rig_count(&rig, COUNTER_tokens_out, 0);
    assert_in_range(tokens, leaves ? 15 : 7, leaves ? 25 : 7);
    assert_int_equal(telemetry_take_outcomes(rig.telemetry, &outcomes, &capacity), 1);
    assert_int_equal(outcomes[0].tokens_out, tokens);
    assert_true(outcomes[0].cost_usd > 0);
    free(outcomes);
    rig_close(&rig);
  }
}

static void with_one_provider_nobody_falls_back(void **state) {
  static const struct act broken[] = {{.what = STATUS, .status = 500, .retry_after_ns = -1}};
  (void)state;
  static struct rig rig;
  rig_open(&rig, true, broken, 1, NULL, 0);
  rig_ask(&rig, 0, (struct ask){0});
  rig_until(&rig, S(10));
  assert_int_equal(rig_count(&rig, COUNTER_fallbacks, 0), 0);
  rig_close(&rig);
  rig_open(&rig, true, denied, 1, answer, 1);
  rig_ask(&rig, 0, (struct ask){0});
  rig_until(&rig, S(10));
  assert_int_equal(rig_count(&rig, COUNTER_fallbacks, 0), 1);
  rig_close(&rig);
}

static void a_call_whose_leader_left_is_paid_for_once(void **state) {
  (void)state;
  static struct rig rig;
  struct outcome *outcomes = NULL;
  size_t capacity = 0;
  rig_open(&rig, true, slow_answer, 1, NULL, 0);
  struct request *leader = rig_ask(&rig, 0, (struct ask){0});
  rig_ask(&rig, 1, (struct ask){0});
  rig_ask(&rig, 2, (struct ask){0});
  rig_until(&rig, MS(100));
  request_cancel(leader, rig.now_ns);
  rig_until(&rig, S(3));
  size_t n = telemetry_take_outcomes(rig.telemetry, &outcomes, &capacity);
  double usd = 0;
  for (size_t i = 0; i < n; i++)
    usd += outcomes[i].cost_usd;
  assert_int_equal(n, 3);
  assert_float_equal(usd, (double)rig_count(&rig, COUNTER_cost_nano_usd, 0) / 1e9, 1e-9);
  assert_true(usd > 0);
  free(outcomes);
  rig_close(&rig);
}

/* More kinds of waiting requests than can be told apart in short: each is looked at once a round. */
static void every_kind_of_waiting_request_is_looked_at_once(void **state) {
  (void)state;
  static struct request requests[20];
  static struct lanes lanes;
  struct lanes_skip skip = {0};
  unsigned seen = 0, wide = 0;
  memset(requests, 0, sizeof requests);
  memset(&lanes, 0, sizeof lanes);
  for (unsigned i = 0; i < 20; i++) {
    requests[i].spent = i < 19 ? i + 1 : 0;
    lanes_push(&lanes, &requests[i]);
  }
  for (int round = 0; round < 2; round++) {
    lanes_look_again(&skip);
    for (struct request *r; (r = lanes_first(&lanes, 0, S(1), &skip)) && seen < 100; seen++) {
      wide += r->spent == 0;
      lanes_skip(&skip, r);
    }
  }
  assert_int_equal(seen, 40);
  assert_int_equal(wide, 2);
}

static void who_has_nobody_left_to_ask_is_told_at_once(void **state) {
  static const struct act fails[] = {{.what = RESET, .after_ns = MS(100), .retry_after_ns = -1},
                                     {.what = ANSWER, .after_ns = S(3)}};
  (void)state;
  static struct rig rig;
  rig_open(&rig, true, fails, 2, NULL, 0);
  rig_set(&rig, TUNABLE_concurrency_limit, 1);
  rig_set(&rig, TUNABLE_retry_attempts, 0);
  rig_ask(&rig, 0, (struct ask){.priority = PRIORITY_LOW, .no_coalesce = true});
  for (unsigned i = 1; i < 4; i++)
    rig_ask(&rig, i, (struct ask){.priority = PRIORITY_HIGH, .no_coalesce = true});
  int64_t begun_ns = rig.now_ns;
  rig_until(&rig, S(20));
  assert_int_equal(rig.clients[0].status, 503);
  assert_true(rig.clients[0].finished_ns - begun_ns < MS(200));
  rig_assert_conserved(&rig);
  rig_close(&rig);
}

static void a_leader_whose_waiters_left_is_alone_again(void **state) {
  static const struct act refuses[] = {
      {.what = STATUS, .status = 429, .after_ns = MS(100), .retry_after_ns = S(5)}};
  (void)state;
  static struct rig rig;
  rig_open(&rig, true, refuses, 1, NULL, 0);
  rig_ask(&rig, 0, (struct ask){.deadline_ns = S(2)});
  struct request *waiter = rig_ask(&rig, 1, (struct ask){.deadline_ns = S(60)});
  rig_until(&rig, MS(50));
  request_cancel(waiter, rig.now_ns);
  rig_until(&rig, S(1));
  assert_int_equal(rig.clients[0].status, 429);
  rig_close(&rig);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(two_providers_that_refuse_at_once_are_not_asked_in_turns_for_ever),
      cmocka_unit_test(waiting_for_a_provider_that_refused_spends_the_retry_budget),
      cmocka_unit_test(who_fell_back_keeps_its_turn_before_the_less_urgent),
      cmocka_unit_test(requests_that_fell_back_wait_in_the_ring_and_fill_it),
      cmocka_unit_test(a_busy_fallback_is_waited_for_and_not_the_refusal),
      cmocka_unit_test(who_shares_a_call_is_not_bound_by_its_leaders_deadline),
      cmocka_unit_test(the_first_to_be_refused_is_told_when_to_come_back),
      cmocka_unit_test(a_moment_that_is_earlier_opens_no_provider),
      cmocka_unit_test(what_a_dead_attempt_said_is_not_heard),
      cmocka_unit_test(a_stream_that_breaks_is_booked_as_far_as_it_came),
      cmocka_unit_test(with_one_provider_nobody_falls_back),
      cmocka_unit_test(a_call_whose_leader_left_is_paid_for_once),
      cmocka_unit_test(every_kind_of_waiting_request_is_looked_at_once),
      cmocka_unit_test(who_has_nobody_left_to_ask_is_told_at_once),
      cmocka_unit_test(a_leader_whose_waiters_left_is_alone_again),
  };
  return cmocka_run_group_tests_name("recovery", tests, NULL, NULL);
}
