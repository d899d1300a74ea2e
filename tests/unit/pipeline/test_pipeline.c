#include "rig.h"

static const struct act quick[] = {{.what = ANSWER, .after_ns = MS(100), .body = "{\"a\":1}"}};
static const struct act dead[] = {{.what = STATUS, .status = 503, .after_ns = MS(5), .retry_after_ns = -1}};

static void answer_reaches_the_client_whole(void **state) {
  (void)state;
  static struct rig rig;
  rig_open(&rig, true, quick, 1, NULL, 0);
  assert_non_null(rig_ask(&rig, 0, (struct ask){0}));
  rig_until(&rig, S(1));
  assert_int_equal(rig.clients[0].finished, 1);
  assert_int_equal(rig.clients[0].status, 200);
  assert_string_equal(rig.clients[0].body, "{\"a\":1}");
  assert_string_equal(rig.clients[0].model, "m0");
  assert_int_equal(rig_count(&rig, COUNTER_cost_nano_usd, 0), 20000);
  assert_int_equal(rig_count(&rig, COUNTER_requests_in_target, 0), 1);
  for (int s = 0; s < STAGES; s++) {
    assert_int_equal(rig_count(&rig, COUNTER_stage_arrivals, s), 1);
    assert_int_equal(rig_count(&rig, COUNTER_stage_completions, s), 1);
  }
  rig_assert_conserved(&rig);
  rig_close(&rig);
}

/* 5 tokens in 375 ms, most of it before the first: targets are 2000 ms and 50 ms. */
static void short_whole_answers_are_not_slow_ones(void **state) {
  (void)state;
  static struct rig rig;
  static const struct act brief[] = {{.what = ANSWER, .after_ns = 375 * NS_PER_MS}};
  static struct telemetry_window window;
  telemetry_window_clear(&window, 2);
  rig_open(&rig, true, brief, 1, NULL, 0);
  rig_ask(&rig, 0, (struct ask){0});
  rig_until(&rig, S(1));
  telemetry_take_window(rig.telemetry, 2, &window);
  assert_int_equal(window.tpot_ms[0].count, 1);
  assert_true(sketch_mean(&window.tpot_ms[0]) < 20);
  rig_close(&rig);
}

static void a_500_is_retried_at_the_same_provider(void **state) {
  (void)state;
  static struct rig rig;
  static const struct act once[] = {{.what = STATUS, .status = 500, .retry_after_ns = -1}, {.what = ANSWER}};
  rig_open(&rig, true, once, 2, quick, 1);
  rig_ask(&rig, 0, (struct ask){0});
  rig_until(&rig, S(2));
  assert_int_equal(rig.clients[0].status, 200);
  assert_int_equal(rig.fakes[0].started, 2);
  assert_int_equal(rig.fakes[1].started, 0);
  rig_close(&rig);
}

static void a_dead_provider_fails_over_within_six_attempts(void **state) {
  (void)state;
  static struct rig rig;
  rig_open(&rig, true, dead, 1, quick, 1);
  rig_ask(&rig, 0, (struct ask){0});
  rig_until(&rig, S(5));
  assert_int_equal(rig.clients[0].status, 200);
  assert_string_equal(rig.clients[0].model, "m1");
  assert_in_range(rig.fakes[0].started, 1, 6);
  rig_close(&rig);
}

static void a_429_waits_for_retry_after_and_no_less(void **state) {
  (void)state;
  static struct rig rig;
  static const struct act busy[] = {{.what = STATUS, .status = 429, .retry_after_ns = S(2)},
                                    {.what = ANSWER}};
  rig_open(&rig, true, busy, 2, NULL, 0);
  rig_ask(&rig, 0, (struct ask){0});
  rig_until(&rig, S(5));
  assert_int_equal(rig.clients[0].status, 200);
  assert_int_equal(rig.fakes[0].started, 2);
  assert_true(rig.fakes[0].started_at[1] - rig.fakes[0].started_at[0] >= S(2));
  assert_int_equal(rig.plane->providers[0].breaker.failures, 0);
  rig_close(&rig);
}

static void throttled_requests_come_back_spread_out(void **state) {
  (void)state;
  static struct rig rig;
  static struct act script[31];
  for (int i = 0; i < 30; i++)
    script[i] = (struct act){.what = STATUS, .status = 429, .after_ns = MS(10), .retry_after_ns = S(5)};
  script[30] = (struct act){.what = ANSWER};
  rig_open(&rig, true, script, 31, NULL, 0);
  rig_set(&rig, TUNABLE_retry_budget_percent, 100);
  for (unsigned i = 0; i < 30; i++)
    rig_ask(&rig, i, (struct ask){.no_coalesce = true});
  int64_t begun = rig.now_ns;
  rig_until(&rig, S(10));
  assert_int_equal(rig.fakes[0].started, 60);
  int64_t first = INT64_MAX, last = 0;
  for (int i = 30; i < 60; i++) {
    assert_true(rig.fakes[0].started_at[i] - begun >= S(5));
    if (rig.fakes[0].started_at[i] < first) first = rig.fakes[0].started_at[i];
    if (rig.fakes[0].started_at[i] > last) last = rig.fakes[0].started_at[i];
    int within = 0;
    for (int k = 30; k < 60; k++)
      within += llabs(rig.fakes[0].started_at[k] - rig.fakes[0].started_at[i] - MS(50)) <= MS(50);
    assert_true(within <= 12);
  }
  assert_true(last - first >= S(0.4));
  rig_assert_conserved(&rig);
  rig_close(&rig);
}

static void a_bad_request_is_tried_once_and_its_reason_reaches_the_client(void **state) {
  (void)state;
  static struct rig rig;
  static const struct act bad[] = {
      {.what = STATUS, .status = 400, .retry_after_ns = -1, .body = "{\"error\":\"policy\"}"}};
  rig_open(&rig, true, bad, 1, quick, 1);
  rig_ask(&rig, 0, (struct ask){0});
  rig_until(&rig, S(2));
  assert_int_equal(rig.clients[0].status, 400);
  assert_string_equal(rig.clients[0].body, "{\"error\":\"policy\"}");
  assert_int_equal(rig.fakes[0].started, 1);
  assert_int_equal(rig.fakes[1].started, 0);
  assert_int_equal(rig.plane->providers[0].breaker.failures, 0);
  rig_assert_conserved(&rig);
  rig_close(&rig);
}

static void a_context_too_long_tries_the_larger_model(void **state) {
  (void)state;
  static struct rig rig;
  static const struct act bad[] = {{.what = STATUS,
                                    .status = 400,
                                    .retry_after_ns = -1,
                                    .body = "{\"error\":{\"code\":\"context_length_exceeded\"}}"}};
  rig_open(&rig, true, bad, 1, quick, 1);
  rig_ask(&rig, 0, (struct ask){0});
  rig_until(&rig, S(2));
  assert_int_equal(rig.clients[0].status, 200);
  assert_int_equal(rig.fakes[0].started, 1);
  rig_close(&rig);
}

static void refused_credentials_become_502_without_the_providers_words(void **state) {
  (void)state;
  static struct rig rig;
  static const struct act bad[] = {
      {.what = STATUS, .status = 401, .retry_after_ns = -1, .body = "bad key sk-canary"}};
  rig_open(&rig, true, bad, 1, NULL, 0);
  rig_ask(&rig, 0, (struct ask){0});
  rig_until(&rig, S(2));
  assert_int_equal(rig.clients[0].status, 502);
  assert_null(strstr(rig.clients[0].body, "canary"));
  rig_close(&rig);
}

static void a_provider_that_refuses_our_key_is_closed_like_one_that_fails(void **state) {
  static const struct {
    int status;
    bool ours;
  } cases[] = {{401, true}, {402, true}, {403, false}, {404, false}};
  static const struct act good[] = {{.what = ANSWER, .after_ns = MS(10)}};
  (void)state;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    static struct rig rig;
    struct act bad[] = {{.what = STATUS, .status = cases[i].status, .retry_after_ns = -1}};
    rig_open(&rig, true, bad, 1, good, 1);
    for (unsigned k = 0; k < 8; k++) {
      rig_ask(&rig, k, (struct ask){.no_coalesce = true});
      rig_until(&rig, MS(100));
      assert_int_equal(rig.clients[k].status, 200);
    }
    assert_int_equal(rig.fakes[0].started, cases[i].ours ? 5 : 8); /* each once: no retry */
    assert_int_equal(rig_count(&rig, COUNTER_breaker_opened, 0), cases[i].ours);
    assert_int_equal(rig_count(&rig, COUNTER_attempt_failures, 0), cases[i].ours ? 5 : 0);
    rig_close(&rig);
  }
}

static void a_silent_stream_fails_over_and_is_not_tried_again(void **state) {
  (void)state;
  static struct rig rig;
  static const struct act silent[] = {{.what = SILENT}},
                          good[] = {{.what = STREAM, .tokens = 3, .gap_ns = MS(10)}};
  rig_open(&rig, true, silent, 1, good, 1);
  rig_ask(&rig, 0, (struct ask){.stream = true});
  rig_until(&rig, S(15));
  assert_int_equal(rig.clients[0].status, 200);
  assert_int_equal(rig.clients[0].events, 3);
  assert_int_equal(rig.fakes[0].started, 1);
  assert_int_equal(rig.fakes[0].cancelled, 1);
  assert_true(rig.clients[0].finished_ns - rig.fakes[0].started_at[0] < S(11));
  assert_int_equal(rig.plane->providers[0].breaker.failures, 1);
  rig_close(&rig);
}

static void a_cut_stream_ends_with_an_error_never_as_success(void **state) {
  (void)state;
  static struct rig rig;
  static const struct act cut[] = {{.what = CUT_AFTER, .tokens = 4, .gap_ns = MS(10)}};
  rig_open(&rig, true, cut, 1, quick, 1);
  rig_ask(&rig, 0, (struct ask){.stream = true});
  rig_until(&rig, S(2));
  assert_int_equal(rig.clients[0].events, 4);
  assert_int_equal(rig.clients[0].status, 502);
  assert_string_equal(rig.clients[0].code, "stream_cut");
  assert_int_equal(rig.fakes[1].started, 0);
  rig_assert_conserved(&rig);
  rig_close(&rig);
}

/* Whatever others may wait for its flight: a leader has its own time. */
static void a_silent_call_leaves_half_of_a_short_deadline_to_the_next(void **state) {
  (void)state;
  static struct rig rig;
  static const struct act silent[] = {{.what = SILENT}};
  rig_open(&rig, true, silent, 1, quick, 1);
  rig_ask(&rig, 0, (struct ask){.deadline_ns = S(4)});
  rig_until(&rig, S(5));
  assert_int_equal(rig.clients[0].status, 200);
  assert_string_equal(rig.clients[0].model, "m1");
  assert_true(rig.clients[0].finished_ns - rig.fakes[0].started_at[0] < S(2.5));
  rig_assert_conserved(&rig);
  rig_close(&rig);
}

/* A provider that never answers, as the only one of its route: its requests end at their deadline. */
static void deadlines_open_the_breaker_unless_the_client_was_in_a_hurry(void **state) {
  (void)state;
  static struct rig rig;
  static const struct act silent[] = {{.what = SILENT}};
  rig_open(&rig, true, silent, 1, NULL, 0);
  rig_set(&rig, TUNABLE_breaker_failure_threshold, 2);
  for (unsigned i = 0; i < 4; i++) {
    rig_ask(&rig, i, (struct ask){.deadline_ns = MS(100)});
    rig_until(&rig, S(1));
  }
  assert_int_equal(rig_count(&rig, COUNTER_attempt_cancelled, 0), 4);
  assert_int_equal(rig.plane->providers[0].breaker.state, BREAKER_CLOSED);
  for (unsigned i = 4; i < 6; i++) {
    rig_ask(&rig, i, (struct ask){0});
    rig_until(&rig, S(61));
    assert_int_equal(rig.clients[i].status, 504);
  }
  assert_int_equal(rig_count(&rig, COUNTER_attempt_timeouts, 0), 2);
  assert_int_equal(rig_count(&rig, COUNTER_breaker_opened, 0), 1);
  struct outcome *outcomes = NULL;
  size_t capacity = 0;
  assert_int_equal(telemetry_take_outcomes(rig.telemetry, &outcomes, &capacity), 6);
  assert_int_equal(outcomes[5].tried_count, 1); /* the router hears of it */
  assert_int_equal(outcomes[5].tried[0].result, ATTEMPT_TIMED_OUT);
  free(outcomes);
  rig_assert_conserved(&rig);
  rig_close(&rig);
}

static void a_stream_cut_before_content_falls_back(void **state) {
  (void)state;
  static struct rig rig;
  static const struct act cut[] = {{.what = CUT_AFTER, .tokens = 0}},
                          good[] = {{.what = STREAM, .tokens = 2, .gap_ns = 1}};
  rig_open(&rig, true, cut, 1, good, 1);
  rig_set(&rig, TUNABLE_retry_attempts, 0);
  rig_ask(&rig, 0, (struct ask){.stream = true});
  rig_until(&rig, S(2));
  assert_int_equal(rig.clients[0].status, 200);
  assert_int_equal(rig.clients[0].begun, 1);
  assert_int_equal(rig.clients[0].events, 2);
  rig_close(&rig);
}

static void a_stream_that_goes_on_is_not_cut_by_the_idle_limit(void **state) {
  (void)state;
  static struct rig rig;
  static const struct act slow[] = {{.what = STREAM, .tokens = 12, .gap_ns = S(1)}};
  rig_open(&rig, true, slow, 1, NULL, 0);
  rig_set(&rig, TUNABLE_idle_timeout_ms, 2000);
  rig_ask(&rig, 0, (struct ask){.stream = true});
  rig_until(&rig, S(20));
  assert_int_equal(rig.clients[0].status, 200);
  assert_int_equal(rig.clients[0].events, 12);
  rig_close(&rig);
}

static void a_whole_stream_whose_end_is_late_is_no_silent_one(void **state) {
  (void)state;
  static struct rig rig;
  static const struct act late[] = {{.what = STREAM, .tokens = 3, .gap_ns = MS(10), .tail_ns = MS(1500)}};
  rig_open(&rig, true, late, 1, NULL, 0);
  rig_set(&rig, TUNABLE_idle_timeout_ms, 200);
  rig_ask(&rig, 0, (struct ask){.stream = true});
  rig_until(&rig, S(3));
  assert_int_equal(rig.clients[0].status, 200);
  assert_int_equal(rig.clients[0].events, 3);
  assert_int_equal(rig_count(&rig, COUNTER_attempt_timeouts, 0), 0);
  rig_close(&rig);
}

static void a_slow_reader_is_cut_and_counted(void **state) {
  (void)state;
  static struct rig rig;
  static const struct act slow[] = {{.what = STREAM, .tokens = 12, .gap_ns = MS(10)}};
  rig_open(&rig, true, slow, 1, NULL, 0);
  rig.clients[0].backlog = 2 << 20;
  rig_ask(&rig, 0, (struct ask){.stream = true});
  rig_until(&rig, S(1));
  assert_int_equal(rig.clients[0].finished, 1);
  assert_int_equal(rig_count(&rig, COUNTER_slow_readers_cut, 0), 1);
  assert_int_equal(rig.fakes[0].cancelled, 1);
  rig_assert_conserved(&rig);
  rig_close(&rig);
}

static unsigned pauses, resumes;

static void fake_pause(struct upstream *upstream, struct attempt *attempt, bool paused) {
  (void)upstream;
  (void)attempt;
  pauses += paused;
  resumes += !paused;
}

static void a_provider_that_can_wait_waits_for_its_reader(void **state) {
  (void)state;
  static struct rig rig;
  static const struct upstream_ops patient = {
      .start = fake_start, .cancel = fake_cancel, .pause = fake_pause};
  static const struct act flow[] = {{.what = STREAM, .tokens = 12, .gap_ns = S(1)}};
  rig_open(&rig, true, flow, 1, NULL, 0);
  rig.fakes[0].upstream.ops = &patient;
  pauses = resumes = 0;
  rig.clients[0].backlog = 2 << 20;
  rig_ask(&rig, 0, (struct ask){.stream = true});
  rig_until(&rig, S(2));
  assert_int_equal(pauses, 1);
  for (int i = 0; i < 4; i++) { /* slowly, but it reads */
    rig.clients[0].backlog -= 1000;
    rig_until(&rig, S(2));
  }
  assert_int_equal(resumes, 0);
  rig.clients[0].backlog = 1000;
  rig_until(&rig, S(5));
  assert_int_equal(resumes, 1);
  assert_int_equal(rig.clients[0].status, 200);
  assert_int_equal(rig.clients[0].events, 12);
  rig_close(&rig);
}

static void a_reader_that_reads_nothing_for_five_seconds_is_cut(void **state) {
  (void)state;
  static struct rig rig;
  static const struct upstream_ops patient = {
      .start = fake_start, .cancel = fake_cancel, .pause = fake_pause};
  static const struct act flow[] = {{.what = STREAM, .tokens = 2, .gap_ns = S(30)}};
  rig_open(&rig, true, flow, 1, NULL, 0);
  rig.fakes[0].upstream.ops = &patient;
  rig.clients[0].backlog = 2 << 20;
  rig_ask(&rig, 0, (struct ask){.stream = true});
  rig_until(&rig, S(4.9));
  assert_int_equal(rig.clients[0].finished, 0);
  rig_until(&rig, S(0.3));
  assert_int_equal(rig.clients[0].finished, 1);
  assert_string_equal(rig.clients[0].code, "slow_reader");
  assert_int_equal(rig_count(&rig, COUNTER_slow_readers_cut, 0), 1);
  rig_assert_conserved(&rig);
  rig_close(&rig);
}

static void the_deadline_answers_504_with_a_dead_letter_that_has_the_request(void **state) {
  (void)state;
  static struct rig rig;
  static const struct act silent[] = {{.what = SILENT}};
  rig_open(&rig, true, silent, 1, NULL, 0);
  rig_ask(&rig, 0, (struct ask){.deadline_ns = S(3), .body = "{\"whole\":true}"});
  rig_until(&rig, S(5));
  assert_int_equal(rig.clients[0].status, 504);
  assert_true(rig.clients[0].finished_ns - rig.fakes[0].started_at[0] <= S(3) + MS(1));
  assert_int_equal(rig.letters, 1);
  assert_string_equal(rig.letter_reason, "deadline_exceeded");
  assert_string_equal(rig.letter_body, "{\"whole\":true}");
  assert_int_equal(rig.fakes[0].cancelled, 1);
  rig_assert_conserved(&rig);
  rig_close(&rig);
}

static void a_dead_letter_keeps_a_prompt_as_it_was_sent(void **state) {
  (void)state;
  static struct rig rig;
  static const struct act silent[] = {{.what = SILENT}};
  rig_open(&rig, true, silent, 1, NULL, 0);
  const char *sent = "{\"input\": \"as it came\" }";
  rig_ask(&rig, 0, (struct ask){.deadline_ns = S(1), .prompt = true, .body = sent});
  rig_ask(&rig, 1, (struct ask){.deadline_ns = S(3), .body = "{\"chat\":1}"});
  rig_until(&rig, S(2));
  assert_int_equal(rig.letters, 1);
  assert_string_equal(rig.letter_path, "/v1/prompt");
  assert_string_equal(rig.letter_body, sent);
  rig_until(&rig, S(2));
  assert_int_equal(rig.letters, 2);
  assert_string_equal(rig.letter_path, "/v1/chat/completions");
  assert_string_equal(rig.letter_body, "{\"chat\":1}");
  assert_int_equal(atomic_load(&rig.plane->bytes_in_flight), 0);
  rig_assert_conserved(&rig);
  rig_close(&rig);
}

static void skipped_events_are_counted_at_their_provider(void **state) {
  (void)state;
  static struct rig rig;
  static const struct act odd[] = {{.what = STREAM, .tokens = 3, .gap_ns = 1, .malformed = 2}};
  rig_open(&rig, true, odd, 1, NULL, 0);
  rig_ask(&rig, 0, (struct ask){.stream = true});
  rig_until(&rig, S(1));
  assert_int_equal(rig.clients[0].status, 200);
  assert_int_equal(rig_count(&rig, COUNTER_stream_events_malformed, 0), 6);
  rig_close(&rig);
}

static void a_client_that_leaves_cancels_its_call(void **state) {
  (void)state;
  static struct rig rig;
  static const struct act silent[] = {{.what = SILENT}};
  rig_open(&rig, true, silent, 1, NULL, 0);
  struct request *r = rig_ask(&rig, 0, (struct ask){0});
  rig_until(&rig, MS(300));
  request_cancel(r, rig.now_ns);
  rig_until(&rig, S(1));
  assert_int_equal(rig.fakes[0].cancelled, 1);
  assert_int_equal(rig.clients[0].finished, 0);
  assert_int_equal(rig.plane->providers[0].breaker.failures, 0);
  rig_assert_conserved(&rig);
  rig_close(&rig);
}

static void failures_open_the_breaker_and_half_open_admits_one_probe(void **state) {
  (void)state;
  static struct rig rig;
  static struct act script[7];
  for (int i = 0; i < 6; i++)
    script[i] = dead[0];
  script[6] = (struct act){.what = ANSWER, .after_ns = MS(500)};
  rig_open(&rig, true, script, 7, NULL, 0);
  rig_set(&rig, TUNABLE_retry_attempts, 0);
  rig_set(&rig, TUNABLE_breaker_timeout_ms, 1000);
  rig_set(&rig, TUNABLE_concurrency_limit, 1000);
  for (unsigned i = 0; i < 6; i++)
    rig_ask(&rig, i, (struct ask){.no_coalesce = true});
  rig_until(&rig, MS(1050));
  assert_int_equal(rig_count(&rig, COUNTER_breaker_opened, 0), 1);
  for (unsigned i = 0; i < 200; i++)
    rig_ask(&rig, 10 + i, (struct ask){.no_coalesce = true});
  rig_until(&rig, MS(400));
  assert_int_equal(rig.fakes[0].started, 7);
  unsigned refused = 0;
  for (unsigned i = 0; i < 200; i++)
    refused += rig.clients[10 + i].status == 503;
  assert_int_equal(refused, 199);
  rig_until(&rig, S(2));
  rig_assert_conserved(&rig);
  rig_close(&rig);
}

/* After a queue has been let go all at once: whoever times out does so in the same instant. */
static void many_time_outs_at_once_do_not_open_the_breaker_of_a_provider_that_serves_others(void **state) {
  (void)state;
  static struct rig rig;
  static struct act script[20];
  for (int i = 0; i < 20; i++)
    script[i] =
        (struct act){.what = STREAM, .after_ns = i % 2 ? MS(300) : S(5), .tokens = 40, .gap_ns = MS(50)};
  rig_open(&rig, true, script, 20, NULL, 0);
  rig_set(&rig, TUNABLE_first_token_timeout_ms, 1000);
  rig_set(&rig, TUNABLE_concurrency_limit, 1000);
  for (unsigned i = 0; i < 20; i++)
    rig_ask(&rig, i, (struct ask){.stream = true});
  rig_until(&rig, S(4));
  assert_int_equal(rig_count(&rig, COUNTER_attempt_timeouts, 0), 10);
  assert_int_equal(rig_count(&rig, COUNTER_breaker_opened, 0), 0);
  assert_int_equal(rig_count(&rig, COUNTER_requests_answered, 0), 10);
  rig_assert_conserved(&rig);
  rig_close(&rig);
}

static void a_provider_that_is_silent_to_all_opens_its_breaker(void **state) {
  (void)state;
  static struct rig rig;
  static const struct act silent[] = {{.what = SILENT}};
  rig_open(&rig, true, silent, 1, NULL, 0);
  rig_set(&rig, TUNABLE_first_token_timeout_ms, 1000);
  for (unsigned i = 0; i < 6; i++)
    rig_ask(&rig, i, (struct ask){.stream = true});
  rig_until(&rig, S(2));
  assert_int_equal(rig_count(&rig, COUNTER_breaker_opened, 0), 1);
  rig_assert_conserved(&rig);
  rig_close(&rig);
}

static void retries_stay_within_their_budget(void **state) {
  (void)state;
  static struct rig rig;
  static const struct act bad[] = {{.what = STATUS, .status = 503, .after_ns = MS(1), .retry_after_ns = -1}};
  rig_open(&rig, true, bad, 1, NULL, 0);
  rig_set(&rig, TUNABLE_breaker_failure_threshold, 1000);
  for (unsigned i = 0; i < 400; i++) {
    rig_ask(&rig, i, (struct ask){.no_coalesce = true});
    rig_until(&rig, MS(20));
  }
  rig_until(&rig, S(10));
  assert_true(rig.fakes[0].started <= 400 + 3 + 40);
  assert_true(rig_count(&rig, COUNTER_retries_denied, 0) > 0);
  rig_assert_conserved(&rig);
  rig_close(&rig);
}

static void the_limit_holds_and_the_rest_waits_its_turn(void **state) {
  (void)state;
  static struct rig rig;
  rig_open(&rig, true, quick, 1, NULL, 0);
  rig_set(&rig, TUNABLE_concurrency_limit, 2);
  for (unsigned i = 0; i < 10; i++)
    rig_ask(&rig, i, (struct ask){.no_coalesce = true});
  rig_until(&rig, S(2));
  assert_int_equal(rig.fakes[0].most_active, 2);
  for (unsigned i = 0; i < 10; i++)
    assert_int_equal(rig.clients[i].status, 200);
  assert_int_equal(rig.clients[9].finished_ns - rig.fakes[0].started_at[0], MS(500));
  rig_close(&rig);
}

static void urgent_requests_go_first_and_low_ones_do_not_starve(void **state) {
  (void)state;
  static struct rig rig;
  rig_open(&rig, true, quick, 1, NULL, 0);
  rig_set(&rig, TUNABLE_concurrency_limit, 1);
  rig_set(&rig, TUNABLE_promotion_interval_ms, 2000);
  unsigned next = 1;
  int64_t begun = rig.now_ns;
  for (int i = 0; i < 12; i++)
    rig_ask(&rig, next++, (struct ask){.priority = PRIORITY_HIGH, .no_coalesce = true});
  rig_ask(&rig, 0, (struct ask){.priority = PRIORITY_LOW, .no_coalesce = true});
  for (int i = 0; i < 240; i++) {
    rig_until(&rig, MS(1000 / 12));
    rig_ask(&rig, next++, (struct ask){.priority = PRIORITY_HIGH, .no_coalesce = true});
  }
  assert_int_equal(rig.clients[0].finished, 1);
  assert_true(rig.clients[0].finished_ns - begun <= S(6.5));
  assert_true(rig.clients[0].finished_ns > rig.clients[12].finished_ns);
  rig_until(&rig, S(60));
  rig_assert_conserved(&rig);
  rig_close(&rig);
}

static void overload_is_refused_at_admission_low_classes_first(void **state) {
  (void)state;
  static struct rig rig;
  static const struct act silent[] = {{.what = SILENT}};
  rig_open(&rig, true, silent, 1, NULL, 0);
  rig_set(&rig, TUNABLE_concurrency_limit, 1);
  rig_set(&rig, TUNABLE_buffer_inference, 20);
  rig_set(&rig, TUNABLE_shed_threshold, 0.5);
  for (unsigned i = 0; i < 11; i++)
    assert_non_null(rig_ask(&rig, i, (struct ask){.priority = PRIORITY_LOW, .no_coalesce = true}));
  assert_null(rig_ask(&rig, 20, (struct ask){.priority = PRIORITY_LOW, .no_coalesce = true}));
  assert_null(rig_ask(&rig, 21, (struct ask){.priority = PRIORITY_NORMAL, .no_coalesce = true}));
  assert_non_null(rig_ask(&rig, 22, (struct ask){.priority = PRIORITY_HIGH, .no_coalesce = true}));
  assert_int_equal(rig_count(&rig, COUNTER_requests_limited, 0), 2);
  pipeline_abandon(rig.pipeline, rig.now_ns);
  rig_assert_conserved(&rig);
  rig_close(&rig);
}

static void abandon_answers_everyone_with_503_and_a_dead_letter(void **state) {
  (void)state;
  static struct rig rig;
  static const struct act silent[] = {{.what = SILENT}};
  rig_open(&rig, true, silent, 1, NULL, 0);
  rig_set(&rig, TUNABLE_concurrency_limit, 3);
  for (unsigned i = 0; i < 10; i++)
    rig_ask(&rig, i, (struct ask){.body = i % 2 ? "{\"same\":1}" : NULL, .no_coalesce = i % 2 == 0});
  pipeline_abandon(rig.pipeline, rig.now_ns);
  for (unsigned i = 0; i < 10; i++) {
    assert_int_equal(rig.clients[i].finished, 1);
    assert_int_equal(rig.clients[i].status, 503);
  }
  assert_int_equal(rig.letters, 10);
  rig_assert_conserved(&rig);
  rig_close(&rig);
}

static void a_draining_plane_admits_nothing(void **state) {
  (void)state;
  static struct rig rig;
  rig_open(&rig, true, quick, 1, NULL, 0);
  atomic_store(&rig.plane->draining, true);
  assert_null(rig_ask(&rig, 0, (struct ask){0}));
  rig_close(&rig);
}

static void the_rate_limit_lets_burst_and_rate_pass(void **state) {
  (void)state;
  static struct rig rig;
  rig_open(&rig, true, quick, 1, NULL, 0);
  rig.plane->rate_limited = true;
  rig_set(&rig, TUNABLE_rate_limit_rps, 10);
  rig_set(&rig, TUNABLE_concurrency_limit, 1000);
  unsigned passed = 0;
  for (unsigned i = 0; i < 1000; i++) {
    passed += rig_ask(&rig, i, (struct ask){.no_coalesce = true}) != NULL;
    rig_until(&rig, MS(10));
  }
  assert_in_range(passed, 100, 111);
  rig_until(&rig, S(1));
  rig_close(&rig);
}

static void past_the_memory_ceiling_new_requests_are_refused(void **state) {
  (void)state;
  static struct rig rig;
  static const struct act silent[] = {{.what = SILENT}};
  rig_open(&rig, true, silent, 1, NULL, 0);
  rig_set(&rig, TUNABLE_memory_mib, 1);
  atomic_store(&rig.plane->bytes_in_flight, 1 << 20);
  assert_null(rig_ask(&rig, 0, (struct ask){0}));
  atomic_store(&rig.plane->bytes_in_flight, 0);
  rig_close(&rig);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(answer_reaches_the_client_whole),
      cmocka_unit_test(short_whole_answers_are_not_slow_ones),
      cmocka_unit_test(a_500_is_retried_at_the_same_provider),
      cmocka_unit_test(a_dead_provider_fails_over_within_six_attempts),
      cmocka_unit_test(a_429_waits_for_retry_after_and_no_less),
      cmocka_unit_test(throttled_requests_come_back_spread_out),
      cmocka_unit_test(a_bad_request_is_tried_once_and_its_reason_reaches_the_client),
      cmocka_unit_test(a_context_too_long_tries_the_larger_model),
      cmocka_unit_test(a_provider_that_refuses_our_key_is_closed_like_one_that_fails),
      cmocka_unit_test(refused_credentials_become_502_without_the_providers_words),
      cmocka_unit_test(a_silent_stream_fails_over_and_is_not_tried_again),
      cmocka_unit_test(a_cut_stream_ends_with_an_error_never_as_success),
      cmocka_unit_test(a_silent_call_leaves_half_of_a_short_deadline_to_the_next),
      cmocka_unit_test(deadlines_open_the_breaker_unless_the_client_was_in_a_hurry),
      cmocka_unit_test(a_stream_cut_before_content_falls_back),
      cmocka_unit_test(a_stream_that_goes_on_is_not_cut_by_the_idle_limit),
      cmocka_unit_test(a_whole_stream_whose_end_is_late_is_no_silent_one),
      cmocka_unit_test(a_slow_reader_is_cut_and_counted),
      cmocka_unit_test(a_provider_that_can_wait_waits_for_its_reader),
      cmocka_unit_test(a_reader_that_reads_nothing_for_five_seconds_is_cut),
      cmocka_unit_test(the_deadline_answers_504_with_a_dead_letter_that_has_the_request),
      cmocka_unit_test(a_dead_letter_keeps_a_prompt_as_it_was_sent),
      cmocka_unit_test(skipped_events_are_counted_at_their_provider),
      cmocka_unit_test(a_client_that_leaves_cancels_its_call),
      cmocka_unit_test(failures_open_the_breaker_and_half_open_admits_one_probe),
      cmocka_unit_test(many_time_outs_at_once_do_not_open_the_breaker_of_a_provider_that_serves_others),
      cmocka_unit_test(a_provider_that_is_silent_to_all_opens_its_breaker),
      cmocka_unit_test(retries_stay_within_their_budget),
      cmocka_unit_test(the_limit_holds_and_the_rest_waits_its_turn),
      cmocka_unit_test(urgent_requests_go_first_and_low_ones_do_not_starve),
      cmocka_unit_test(overload_is_refused_at_admission_low_classes_first),
      cmocka_unit_test(abandon_answers_everyone_with_503_and_a_dead_letter),
      cmocka_unit_test(a_draining_plane_admits_nothing),
      cmocka_unit_test(the_rate_limit_lets_burst_and_rate_pass),
      cmocka_unit_test(past_the_memory_ceiling_new_requests_are_refused),
  };
  return cmocka_run_group_tests_name("pipeline", tests, NULL, NULL);
}
