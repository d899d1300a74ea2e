/* The admin API over HTTP: what reaches the ticker, what is read from the database, and every refusal. The
 * ticker is a fake that says back what it was asked. */

#include "rig.h"

#include "server/fields.h"

#include <cjson/cJSON.h>

static void assert_has(const char *answer, const char *wanted) {
  if (!strstr(answer, wanted)) fail_msg("no \"%s\" in: %.1500s", wanted, answer);
}

static int ask(void **state, const char *method, const char *path, const char *body,
               char answer[RIG_ANSWER]) {
  return rig_ask(*state, method, path, NULL, body, answer);
}

static void live_views_come_from_the_ticker(void **state) {
  static char answer[RIG_ANSWER];
  assert_int_equal(ask(state, "GET", "/api/v1/status", NULL, answer), 200);
  assert_has(answer, "\"kind\":0");
  assert_int_equal(ask(state, "GET", "/api/v1/tunables", NULL, answer), 200);
  assert_has(answer, "\"kind\":1");
  assert_int_equal(ask(state, "GET", "/api/v1/routes", NULL, answer), 200);
  assert_has(answer, "\"kind\":6");
}

static void one_tunable_comes_with_its_history(void **state) {
  struct rig *rig = *state;
  static char answer[RIG_ANSWER];
  struct ledger_row row = {.id = 9,
                           .wall_ms = 1,
                           .kind = "change",
                           .name = "rate_limit_rps",
                           .from = 1,
                           .to = 2,
                           .actor = "file",
                           .reason = "a test"};
  rig->sink.ledger(rig->sink.ctx, &row);
  rig->sink.commit(rig->sink.ctx);
  assert_int_equal(ask(state, "GET", "/api/v1/tunables/rate_limit_rps", NULL, answer), 200);
  assert_has(answer, "{\"tunable\":{\"kind\":2,\"name\":\"rate_limit_rps\"");
  assert_has(answer, "\"history\":[{\"id\":9");
  assert_int_equal(ask(state, "GET", "/api/v1/tunables/nonsense", NULL, answer), 404);
  assert_int_equal(ask(state, "GET", "/api/v1/ledger?name=rate_limit_rps&limit=5", NULL, answer), 200);
  assert_has(answer, "{\"ledger\":[{\"id\":9");
  assert_int_equal(ask(state, "GET", "/api/v1/ledger?name=other", NULL, answer), 200);
  assert_has(answer, "{\"ledger\":[]}");
}

static void a_change_carries_value_hold_guard_and_reason(void **state) {
  static char answer[RIG_ANSWER];
  assert_int_equal(
      ask(state, "PUT", "/api/v1/tunables/retry_attempts", "{\"value\":2,\"reason\":\"why not\"}", answer),
      200);
  assert_has(
      answer,
      "\"kind\":3,\"name\":\"retry_attempts\",\"reason\":\"why not\",\"changes\":1,\"value\":2,\"hold\":0,"
      "\"unguarded\":0");
  assert_int_equal(
      ask(state, "PUT", "/api/v1/tunables/a", "{\"value\":2,\"hold\":false,\"guard\":false}", answer), 200);
  assert_has(answer, "\"hold\":-1,\"unguarded\":1");
  assert_int_equal(ask(state, "PUT", "/api/v1/tunables",
                       "{\"changes\":{\"a\":1,\"b\":2},\"hold\":\"until_released\"}", answer),
                   200);
  assert_has(answer, "\"name\":\"a\",\"reason\":\"\",\"changes\":2,\"value\":1,\"hold\":0");
  assert_int_equal(ask(state, "DELETE", "/api/v1/tunables/a/hold", NULL, answer), 200);
  assert_has(answer, "\"kind\":4,\"name\":\"a\"");
}

static void a_hold_in_seconds_becomes_a_time(void **state) {
  struct command command = {0};
  cJSON *body = cJSON_Parse("{\"value\":1,\"hold\":2.5}");
  (void)state;
  assert_null(fields_change(body, "a", 1000, &command));
  assert_int_equal(command.hold_until_ms, 3500);
  cJSON_Delete(body);
}

static void bad_bodies_are_refused_with_what_is_allowed(void **state) {
  static const struct {
    const char *method, *path, *body, *wanted;
  } cases[] = {
      {"PUT", "/api/v1/tunables/a", "{\"value\":\"2\"}", "must be there and be a number"},
      {"PUT", "/api/v1/tunables/a", "{}", "must be there and be a number"},
      {"PUT", "/api/v1/tunables/a", "{\"value\":2,\"hold\":-1}", "above 0"},
      {"PUT", "/api/v1/tunables/a", "{\"value\":2,\"hold\":\"forever\"}", "until_released"},
      {"PUT", "/api/v1/tunables/a", "{\"value\":2,\"gaurd\":true}", "are understood here"},
      {"PUT", "/api/v1/tunables/a", "{\"value\":2,\"guard\":1}", "true (the default) or false"},
      {"PUT", "/api/v1/tunables/a", "{\"value\":2} x", "one JSON object"},
      {"PUT", "/api/v1/tunables/a", "[2]", "one JSON object"},
      {"PUT", "/api/v1/tunables/a", "{\"value\":", "one JSON object"},
      {"PUT", "/api/v1/tunables", "{\"changes\":{}}", "an object of names and numbers"},
      {"PUT", "/api/v1/tunables", "{\"changes\":{\"a\":1,\"a\":2}}", "twice"},
      {"POST", "/api/v1/experiments", "{\"name\":\"x\",\"treatment\":1}", "\\\"tunable\\\" must be there"},
      {"POST", "/api/v1/experiments", "{\"name\":\"x\",\"tunable\":\"a\"}", "treatment"},
      {"POST", "/api/v1/experiments", "{\"name\":\"x\",\"tunable\":\"a\",\"treatment\":1,\"share\":0}",
       "above 0"},
      {"POST", "/api/v1/feedback", "{\"request_id\":\"chatcmpl-0000000000000001\",\"reward\":1.5}",
       "from 0 to 1"},
      {"POST", "/api/v1/feedback", "{\"reward\":1}", "request_id"},
      {"POST", "/api/v1/snapshots/head/rollback", "{\"reason\":7}", "reason"},
      {"GET", "/api/v1/ledger?limit=0", NULL, "from 1 to 10000"},
      {"GET", "/api/v1/ledger?limit=10001", NULL, "from 1 to 10000"},
      {"GET", "/api/v1/ledger?limit=ten", NULL, "from 1 to 10000"},
  };
  static char answer[RIG_ANSWER];
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    int status = ask(state, cases[i].method, cases[i].path, cases[i].body, answer);
    if (status != 400)
      fail_msg("%s %s %s: %d: %s", cases[i].method, cases[i].path, cases[i].body, status, answer);
    assert_has(answer, "\"type\":\"invalid_request_error\"");
    assert_has(answer, cases[i].wanted);
  }
}

static void names_may_hold_slashes(void **state) {
  static char answer[RIG_ANSWER];
  const char *path = "/api/v1/tunables/concurrency_limit.openai/gpt-4o";
  assert_int_equal(ask(state, "PUT", path, "{\"value\":2}", answer), 200);
  assert_has(answer, "\"kind\":3,\"name\":\"concurrency_limit.openai/gpt-4o\"");
  assert_int_equal(ask(state, "DELETE", "/api/v1/tunables/concurrency_limit.hub/org/m/hold", NULL, answer),
                   200);
  assert_has(answer, "\"kind\":4,\"name\":\"concurrency_limit.hub/org/m\"");
  assert_int_equal(ask(state, "POST", "/api/v1/experiments/a%2Fb/stop", NULL, answer), 200);
  assert_has(answer, "\"kind\":8,\"name\":\"a/b\"");
  assert_int_equal(ask(state, "GET", "/api/v1/tunables/a/hold", NULL, answer), 405);
  assert_has(answer, "Allow: DELETE\r\n");
  assert_int_equal(ask(state, "POST", path, "{}", answer), 405);
  assert_has(answer, "Allow: GET, PUT\r\n");
  assert_int_equal(ask(state, "GET", "/api/v1/dlq/a/b", NULL, answer), 404);
}

static void wrong_methods_and_paths_are_told(void **state) {
  static char answer[RIG_ANSWER];
  assert_int_equal(ask(state, "POST", "/api/v1/status", NULL, answer), 405);
  assert_has(answer, "Allow: GET\r\n");
  assert_int_equal(ask(state, "DELETE", "/api/v1/tunables/a", NULL, answer), 405);
  assert_has(answer, "Allow: GET, PUT\r\n");
  assert_int_equal(ask(state, "GET", "/api/v1/nothing", NULL, answer), 404);
  assert_int_equal(ask(state, "GET", "/api/v1/tunables/a/b", NULL, answer), 404);
  assert_int_equal(ask(state, "GET", "/api/v1/tunables/", NULL, answer), 404);
  assert_int_equal(ask(state, "GET", "/api/v1/", NULL, answer), 404);
}

static void a_page_of_another_site_changes_nothing(void **state) {
  static char answer[RIG_ANSWER];
  const char *body = "{\"value\":2}", *path = "/api/v1/tunables/a";
  assert_int_equal(rig_ask(*state, "PUT", path, "Origin: http://evil.example\r\n", body, answer), 403);
  assert_int_equal(rig_ask(*state, "PUT", path, "Origin: null\r\n", body, answer), 403);
  assert_int_equal(rig_ask(*state, "PUT", path, "Origin: http://127.0.0.1\r\n", body, answer), 200);
}

static void put_snapshot(struct rig *rig, const char *id, const char *config) {
  struct snapshot_row row = {.id = id, .wall_ms = 1, .author = "test", .message = "m", .config = config};
  assert_int_equal(rig->sink.snapshot(rig->sink.ctx, &row), 0);
  assert_int_equal(rig->sink.commit(rig->sink.ctx), 0);
}

static void snapshots_are_listed_compared_and_gone_back_to(void **state) {
  struct rig *rig = *state;
  static char answer[RIG_ANSWER];
  put_snapshot(rig, "aaaaaa1111", "a=1\nb=2\n");
  put_snapshot(rig, "bbbbbb2222", "a=1\nb=3\n");
  assert_int_equal(ask(state, "GET", "/api/v1/snapshots?limit=1", NULL, answer), 200);
  assert_has(answer, "{\"snapshots\":[{\"id\":\"bbbbbb2222\"");
  assert_int_equal(ask(state, "GET", "/api/v1/snapshots/aaaaaa1111", NULL, answer), 200);
  assert_has(answer, "\"config\":\"a=1\\nb=2\\n\"");
  assert_int_equal(ask(state, "GET", "/api/v1/snapshots/aaaaaa1111/diff/bbbbbb2222", NULL, answer), 200);
  assert_has(answer, "{\"changes\":[{\"name\":\"b\",\"from\":2,\"to\":3}]}");
  assert_int_equal(ask(state, "GET", "/api/v1/snapshots/cccccc3333", NULL, answer), 404);
  assert_int_equal(ask(state, "GET", "/api/v1/snapshots/aaaaaa1111/diff/cccccc3333", NULL, answer), 404);
  assert_int_equal(
      ask(state, "POST", "/api/v1/snapshots/aaaaaa1111/rollback", "{\"reason\":\"back\"}", answer), 200);
  assert_has(answer, "\"kind\":5,\"name\":\"aaaaaa1111\",\"reason\":\"back\"");
  assert_has(answer, "\"text_bytes\":8");
  assert_int_equal(ask(state, "POST", "/api/v1/snapshots/cccccc3333/rollback", NULL, answer), 404);
}

static void experiments_are_created_stopped_and_shown_with_live_figures(void **state) {
  struct rig *rig = *state;
  static char answer[RIG_ANSWER];
  struct experiment_row row = {.id = 1,
                               .name = "x",
                               .tunable = "retry_attempts",
                               .status = "running",
                               .control = 3,
                               .treatment = 2,
                               .started_ms = 1,
                               .effect = NAN,
                               .low = NAN,
                               .high = NAN,
                               .p_value = NAN,
                               .spec = "{}",
                               .state = "{}"};
  assert_int_equal(rig->sink.experiment(rig->sink.ctx, &row), 0);
  assert_int_equal(rig->sink.commit(rig->sink.ctx), 0);
  assert_int_equal(ask(state, "GET", "/api/v1/experiments", NULL, answer), 200);
  assert_has(answer, "{\"experiments\":[{");
  assert_has(answer, "\"effect\":0.25");
  assert_has(answer, "\"words\":\"so far\"");
  assert_int_equal(ask(state, "GET", "/api/v1/experiments/x", NULL, answer), 200);
  assert_has(answer, "\"effect\":0.25");
  assert_int_equal(ask(state, "GET", "/api/v1/experiments/none", NULL, answer), 404);
  assert_int_equal(ask(state, "POST", "/api/v1/experiments",
                       "{\"name\":\"y\",\"tunable\":\"a\",\"treatment\":4.5}", answer),
                   200);
  assert_has(answer, "\"name\":\"y\"");
  assert_has(answer, "\"treatment\":4.5");
  assert_int_equal(ask(state, "POST", "/api/v1/experiments/x/stop", NULL, answer), 200);
  assert_has(answer, "\"kind\":8,\"name\":\"x\"");
}

static void feedback_for_unknown_requests_is_a_404(void **state) {
  static char answer[RIG_ANSWER];
  assert_int_equal(ask(state, "POST", "/api/v1/feedback",
                       "{\"request_id\":\"chatcmpl-00000000000000ff\",\"reward\":1}", answer),
                   404);
  assert_int_equal(
      ask(state, "POST", "/api/v1/feedback", "{\"request_id\":\"whatever\",\"reward\":1}", answer), 404);
}

static void a_late_reward_finds_its_provider_in_the_database(void **state) {
  struct rig *rig = *state;
  static char answer[RIG_ANSWER];
  struct outcome outcome = {.id = 0x123, .kind = OUTCOME_ANSWERED, .provider = 1, .tried_count = 0};
  assert_int_equal(rig->sink.outcomes(rig->sink.ctx, &outcome, 1, clock_now_ns(), clock_wall_ms()), 0);
  assert_int_equal(rig->sink.commit(rig->sink.ctx), 0);
  assert_int_equal(ask(state, "POST", "/api/v1/feedback",
                       "{\"request_id\":\"chatcmpl-0000000000000123\",\"reward\":0.5}", answer),
                   200);
  assert_has(answer, "\"value\":0.5");
}

static void a_dead_letter_can_be_read_back_whole(void **state) {
  struct rig *rig = *state;
  static char answer[RIG_ANSWER];
  char path[128], id[40];
  assert_int_equal(
      rig_ask(rig, "POST", "/v1/chat/completions", "X-Deadline-Ms: 100\r\n", CHAT("lone", "slow"), answer),
      504);
  const char *at = strstr(answer, "chatcmpl-");
  assert_non_null(at);
  snprintf(id, sizeof id, "%.25s", at);
  rig->sink.commit(rig->sink.ctx);
  assert_int_equal(ask(state, "GET", "/api/v1/dlq", NULL, answer), 200);
  assert_has(answer, "{\"dead_letters\":[{\"request_id\":\"chatcmpl-");
  assert_has(answer, "\"reason\":\"deadline_exceeded\"");
  snprintf(path, sizeof path, "/api/v1/dlq/%s", id);
  assert_int_equal(ask(state, "GET", path, NULL, answer), 200);
  assert_has(answer, "\\\"content\\\":\\\"slow\\\"");
  assert_int_equal(ask(state, "GET", "/api/v1/dlq/chatcmpl-00000000000000ff", NULL, answer), 404);
}

static void a_client_that_leaves_its_admin_call_does_no_harm(void **state) {
  static char answer[RIG_ANSWER];
  for (int i = 0; i < 300; i++)
    close(rig_send(*state, "GET", i % 2 ? "/api/v1/status" : "/api/v1/ledger", NULL, NULL));
  for (int i = 0; i < 20 && ask(state, "GET", "/api/v1/status", NULL, answer) != 200; i++)
    usleep(50000);
  assert_has(answer, "\"kind\":0");
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, rig_setup, rig_teardown)

int main(void) {
  const struct CMUnitTest tests[] = {
      CASE(live_views_come_from_the_ticker),
      CASE(one_tunable_comes_with_its_history),
      CASE(a_change_carries_value_hold_guard_and_reason),
      cmocka_unit_test(a_hold_in_seconds_becomes_a_time),
      CASE(bad_bodies_are_refused_with_what_is_allowed),
      CASE(names_may_hold_slashes),
      CASE(wrong_methods_and_paths_are_told),
      CASE(a_page_of_another_site_changes_nothing),
      CASE(snapshots_are_listed_compared_and_gone_back_to),
      CASE(experiments_are_created_stopped_and_shown_with_live_figures),
      CASE(feedback_for_unknown_requests_is_a_404),
      CASE(a_late_reward_finds_its_provider_in_the_database),
      CASE(a_dead_letter_can_be_read_back_whole),
      CASE(a_client_that_leaves_its_admin_call_does_no_harm),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
