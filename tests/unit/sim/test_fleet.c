/* A fleet and a client of it on one event loop, over loopback. */

#include "sim/caller.h"
#include "sim/fleet.h"
#include "sim/loadgen.h"
#include "sim/measure.h"
#include "sim/reply_reader.h"
#include "sys/clock.h"
#include "sys/evloop.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { LIMIT_S = 20 };

struct world {
  struct evloop *loop;
  struct fleet *fleet;
  struct caller *caller;
};

/* One call and what came of it. */
struct exchange_seen {
  struct reply_reader reader;
  enum call_error error;
  int status;
  bool over;
  int64_t first_ns, over_ns;
};

static int set_up(void **state) {
  struct world *w = calloc(1, sizeof *w);
  char error[512] = "";
  const struct fleet_settings settings = {.scenario = "data/scenarios/demo.toml", .data = "data", .seed = 3};
  w->loop = evloop_create();
  w->fleet = fleet_create(w->loop, &settings, error, sizeof error);
  if (!w->fleet) fprintf(stderr, "%s\n", error);
  w->caller = caller_create(w->loop, NULL);
  *state = w;
  return w->fleet && w->caller ? 0 : -1;
}

static int tear_down(void **state) {
  struct world *w = *state;
  caller_destroy(w->caller);
  fleet_destroy(w->fleet);
  evloop_destroy(w->loop);
  free(w);
  return 0;
}

static void on_bytes(void *ctx, int status, const char *bytes, size_t size, int64_t now_ns) {
  struct exchange_seen *seen = ctx;
  if (reply_reader_feed(&seen->reader, status, bytes, size) > 0 && !seen->first_ns) seen->first_ns = now_ns;
}

static void on_done(void *ctx, enum call_error error, int status, int64_t now_ns) {
  struct exchange_seen *seen = ctx;
  seen->error = error;
  seen->status = status;
  seen->over = true;
  seen->over_ns = now_ns;
  reply_reader_end(&seen->reader, status);
}

static const struct call_ops ops = {.bytes = on_bytes, .done = on_done};

static void start(struct world *w, struct exchange_seen *seen, const char *path, const char *body,
                  double timeout_s) {
  char url[256];
  memset(seen, 0, sizeof *seen);
  reply_reader_init(&seen->reader, strstr(body, "\"stream\":true") != NULL);
  snprintf(url, sizeof url, "http://127.0.0.1:%u%s", fleet_port(w->fleet), path);
  assert_int_equal(caller_send(w->caller, "POST", url, NULL, NULL, body, strlen(body),
                               (int64_t)(timeout_s * 1e9), &ops, seen),
                   0);
}

static void wait_for(struct world *w, struct exchange_seen *seen) {
  int64_t end_ns = clock_now_ns() + LIMIT_S * NS_PER_S;
  while (!seen->over && clock_now_ns() < end_ns)
    evloop_turn(w->loop, NS_PER_S / 10);
  assert_true(seen->over);
}

static void call(struct world *w, struct exchange_seen *seen, const char *path, const char *body) {
  start(w, seen, path, body, LIMIT_S);
  wait_for(w, seen);
}

static void say(char *out, size_t size, const char *model, bool stream, unsigned tokens_out) {
  snprintf(out, size,
           "{\"model\":\"%s\",%s\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}],"
           "\"metadata\":{\"tokens_in\":\"100\",\"tokens_out\":\"%u\"}}",
           model, stream ? "\"stream\":true,\"stream_options\":{\"include_usage\":true}," : "", tokens_out);
}

static void whole_answer_has_the_lengths_asked_for_and_their_price(void **state) {
  struct exchange_seen seen;
  char body[512];
  say(body, sizeof body, "middle", false, 9);
  call(*state, &seen, "/own-middle/v1/chat/completions", body);
  assert_int_equal(seen.status, 200);
  assert_true(seen.reader.reply.complete);
  assert_int_equal(seen.reader.reply.tokens_in, 100);
  assert_int_equal(seen.reader.reply.tokens_out, 9);
  assert_true(fabs(seen.reader.reply.usd - (100 * 0.10 + 9 * 0.30) / 1e6) < 1e-9);
  reply_reader_free(&seen.reader);
}

static void stream_sends_an_event_a_token_at_the_pace_of_the_plant(void **state) {
  struct exchange_seen seen;
  char body[512];
  say(body, sizeof body, "middle", true, 20);
  call(*state, &seen, "/own-middle/v1/chat/completions", body);
  assert_true(seen.reader.reply.complete);
  assert_int_equal(seen.reader.reply.events, 20);
  double decode_ms = (double)(seen.over_ns - seen.first_ns) / 1e6;
  assert_true(decode_ms > 19 * 22.9 - 30); /* d0 + d1 a step, alone in its batch */
  assert_true(decode_ms < 19 * 22.9 + 400);
  reply_reader_free(&seen.reader);
}

static void max_tokens_ends_an_answer_early(void **state) {
  struct exchange_seen seen;
  call(*state, &seen, "/own-small/v1/chat/completions",
       "{\"model\":\"small\",\"max_tokens\":3,\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}],"
       "\"metadata\":{\"tokens_in\":10,\"tokens_out\":50}}");
  assert_int_equal(seen.reader.reply.tokens_out, 3);
  reply_reader_free(&seen.reader);
}

static void bad_requests_are_told_what_is_wrong(void **state) {
  static const struct {
    const char *path, *body;
    int status;
  } cases[] = {
      {"/own-small/v1/chat/completions", "nonsense", 400},
      {"/own-small/v1/chat/completions", "{\"model\":\"small\",\"messages\":[]}", 400},
      {"/own-small/v1/chat/completions", "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}", 400},
      {"/own-small/v1/chat/completions",
       "{\"model\":\"dear\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}", 404},
      {"/nobody/v1/chat/completions", "{}", 404},
      {"/own-small/v1/embeddings", "{}", 404},
      {"/_plant/event", "{\"what\":\"earthquake\"}", 400},
      {"/_plant/event", "{\"what\":\"outage\",\"provider\":\"nobody\"}", 400},
      {"/_plant/event", "{\"what\":\"outage\",\"provider\":\"own-small\",\"for_min\":-1}", 400},
      {"/_plant/nothing", "{}", 404},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct exchange_seen seen;
    call(*state, &seen, cases[i].path, cases[i].body);
    assert_int_equal(seen.error, CALL_OK);
    assert_int_equal(seen.status, cases[i].status);
    assert_true(seen.reader.reply.error_type[0] != '\0');
    reply_reader_free(&seen.reader);
  }
}

static void outage_cuts_what_runs_and_refuses_what_comes(void **state) {
  struct world *w = *state;
  struct exchange_seen running, event, later;
  char body[512];
  say(body, sizeof body, "middle", true, 400);
  start(w, &running, "/own-middle/v1/chat/completions", body, LIMIT_S);
  while (!running.first_ns)
    evloop_turn(w->loop, NS_PER_S / 10);
  call(w, &event, "/_plant/event", "{\"what\":\"outage\",\"provider\":\"own-middle\",\"for_min\":0.02}");
  assert_int_equal(event.status, 200);
  wait_for(w, &running);
  assert_int_equal(running.error, CALL_CUT);
  assert_false(running.reader.reply.complete);
  call(w, &later, "/own-middle/v1/chat/completions", body);
  assert_int_equal(later.error, CALL_CUT);
  assert_int_equal(later.status, 0);
  reply_reader_free(&running.reader);
  reply_reader_free(&event.reader);
  reply_reader_free(&later.reader);
}

static void expect(struct world *w, const char *model, bool stream, enum call_error error, int status,
                   unsigned events) {
  struct exchange_seen seen;
  char body[512];
  say(body, sizeof body, model, stream, 60);
  call(w, &seen, "/faults/v1/chat/completions", body);
  assert_int_equal(seen.error, error);
  assert_int_equal(seen.status, status);
  assert_int_equal(seen.reader.reply.events, events);
  assert_true(seen.reader.reply.complete == (error == CALL_OK && status == 200));
  reply_reader_free(&seen.reader);
}

static void faults_fail_as_the_catalogue_says(void **state) {
  struct world *w = *state;
  expect(w, "fault-S01", true, CALL_OK, 429, 0);
  expect(w, "fault-S01", true, CALL_OK, 200, 60);
  expect(w, "fault-S03", true, CALL_OK, 500, 0);
  expect(w, "fault-S03", false, CALL_OK, 200, 0);
  for (int i = 0; i < 3; i++)
    expect(w, "fault-S04", true, CALL_OK, 503, 0);
  expect(w, "fault-S08", true, CALL_CUT, 200, 40);
  expect(w, "fault-S08", false, CALL_CUT, 200, 0);
  expect(w, "healthy", true, CALL_OK, 200, 60);
  expect(w, "fault-S99", true, CALL_OK, 404, 0);
}

static void reset_makes_once_begin_anew(void **state) {
  struct world *w = *state;
  struct exchange_seen seen;
  expect(w, "fault-S03", true, CALL_OK, 500, 0);
  call(w, &seen, "/_plant/reset", "{}");
  assert_int_equal(seen.status, 200);
  reply_reader_free(&seen.reader);
  expect(w, "fault-S03", true, CALL_OK, 500, 0);
}

static void silent_faults_say_nothing_and_stalled_ones_stop(void **state) {
  struct world *w = *state;
  struct exchange_seen silent, stalled;
  char body[512];
  say(body, sizeof body, "fault-S06", true, 60);
  start(w, &silent, "/faults/v1/chat/completions", body, 1);
  say(body, sizeof body, "fault-S09", true, 60);
  start(w, &stalled, "/faults/v1/chat/completions", body, 1);
  wait_for(w, &silent);
  wait_for(w, &stalled);
  assert_int_equal(silent.error, CALL_TIMED_OUT);
  assert_int_equal(silent.status, 0);
  assert_int_equal(stalled.error, CALL_TIMED_OUT);
  assert_int_equal(stalled.reader.reply.events, 20);
  reply_reader_free(&silent.reader);
  reply_reader_free(&stalled.reader);
}

static void cold_start_is_unready_until_it_has_passed(void **state) {
  struct world *w = *state;
  char error[256] = "";
  const struct fleet_settings settings = {.scenario = "data/scenarios/demo.toml",
                                          .providers = {"own-small"},
                                          .provider_count = 1,
                                          .instances = 1,
                                          .cold_start = true};
  struct fleet *all = w->fleet, *cold = fleet_create(w->loop, &settings, error, sizeof error);
  struct exchange_seen seen;
  char body[512];
  assert_non_null(cold);
  w->fleet = cold;
  say(body, sizeof body, "small", false, 3);
  call(w, &seen, "/v1/chat/completions", body); /* the only provider needs no name */
  assert_int_equal(seen.status, 503);
  reply_reader_free(&seen.reader);
  w->fleet = all;
  fleet_destroy(cold);
}

static void unknown_provider_is_refused_with_the_list(void **state) {
  struct world *w = *state;
  char error[256] = "";
  const struct fleet_settings settings = {
      .scenario = "data/scenarios/demo.toml", .providers = {"nobody"}, .provider_count = 1};
  assert_null(fleet_create(w->loop, &settings, error, sizeof error));
  assert_non_null(strstr(error, "own-small"));
}

static void load_adds_up_and_keeps_to_its_schedule(void **state) {
  struct world *w = *state;
  char url[64], error[256] = "";
  snprintf(url, sizeof url, "http://127.0.0.1:%u/own-small", fleet_port(w->fleet));
  const struct loadgen_settings settings = {.url = url,
                                            .route = "small",
                                            .scenario = "data/scenarios/demo.toml",
                                            .rate = 20,
                                            .requests = 40,
                                            .stream_share = 0.5,
                                            .feedback_share = 0,
                                            .feedback_delay_s = -1,
                                            .timeout_s = 10,
                                            .seed = 5};
  struct loadgen *gen = loadgen_create(w->loop, &settings, error, sizeof error);
  assert_non_null(gen);
  int64_t end_ns = clock_now_ns() + LIMIT_S * NS_PER_S;
  while (!loadgen_finished(gen) && clock_now_ns() < end_ns)
    evloop_turn(w->loop, NS_PER_S / 10);
  assert_true(loadgen_finished(gen));
  const struct loadgen_report *r = loadgen_report(gen);
  assert_int_equal(r->due, 40);
  assert_int_equal(r->unsent, 0);
  assert_int_equal(r->intents, 40);
  assert_int_equal(r->in_flight, 0);
  assert_int_equal(r->sent, 40 + r->retries);
  assert_int_equal(r->sent, r->ends[LOADGEN_ANSWERED] + r->ends[LOADGEN_REFUSED] + r->ends[LOADGEN_FAILED] +
                                r->ends[LOADGEN_TIMED_OUT]);
  assert_true(r->ends[LOADGEN_ANSWERED] > 10);
  assert_int_equal(r->quality_known, r->ends[LOADGEN_ANSWERED]);
  assert_int_equal(r->models[0].count, r->ends[LOADGEN_ANSWERED]);
  assert_string_equal(r->models[0].model, "small");
  const struct measure_sums *sums = measure_run(loadgen_measure(gen));
  assert_int_equal(sums->intents, 40);
  assert_int_equal(sums->complete, r->ends[LOADGEN_ANSWERED]);
  assert_true(sums->in_target <= sums->complete && sums->quality >= sums->useful && sums->usd > 0);
  loadgen_destroy(gen);
}

static void load_counts_what_it_may_not_send(void **state) {
  struct world *w = *state;
  char url[64], error[256] = "";
  snprintf(url, sizeof url, "http://127.0.0.1:%u/faults", fleet_port(w->fleet));
  const struct loadgen_settings settings = {.url = url,
                                            .route = "fault-S06",
                                            .scenario = "data/scenarios/demo.toml",
                                            .rate = 200,
                                            .requests = 50,
                                            .stream_share = -1,
                                            .feedback_share = -1,
                                            .feedback_delay_s = -1,
                                            .timeout_s = 1,
                                            .max_in_flight = 10,
                                            .seed = 5};
  struct loadgen *gen = loadgen_create(w->loop, &settings, error, sizeof error);
  assert_non_null(gen);
  int64_t end_ns = clock_now_ns() + LIMIT_S * NS_PER_S;
  while (!loadgen_finished(gen) && clock_now_ns() < end_ns)
    evloop_turn(w->loop, NS_PER_S / 10);
  const struct loadgen_report *r = loadgen_report(gen);
  assert_int_equal(r->due, 50);
  assert_true(r->unsent >= 20);
  assert_int_equal(r->ends[LOADGEN_TIMED_OUT], r->sent);
  const struct measure_sums *sums = measure_run(loadgen_measure(gen));
  assert_int_equal(sums->intents, r->sent);
  assert_int_equal(sums->timed_out, r->sent);
  assert_int_equal(sums->in_target, 0);
  assert_true(sums->quality == 0);
  assert_string_equal(r->errors[0].name, "timed out");
  loadgen_destroy(gen);
}

#define OVER_HTTP(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(void) {
  const struct CMUnitTest tests[] = {
      OVER_HTTP(whole_answer_has_the_lengths_asked_for_and_their_price),
      OVER_HTTP(stream_sends_an_event_a_token_at_the_pace_of_the_plant),
      OVER_HTTP(max_tokens_ends_an_answer_early),
      OVER_HTTP(bad_requests_are_told_what_is_wrong),
      OVER_HTTP(outage_cuts_what_runs_and_refuses_what_comes),
      OVER_HTTP(faults_fail_as_the_catalogue_says),
      OVER_HTTP(reset_makes_once_begin_anew),
      OVER_HTTP(silent_faults_say_nothing_and_stalled_ones_stop),
      OVER_HTTP(cold_start_is_unready_until_it_has_passed),
      OVER_HTTP(unknown_provider_is_refused_with_the_list),
      OVER_HTTP(load_adds_up_and_keeps_to_its_schedule),
      OVER_HTTP(load_counts_what_it_may_not_send),
  };
  return cmocka_run_group_tests_name("fleet", tests, NULL, NULL);
}
