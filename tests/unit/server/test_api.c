/* The model endpoints, health, metrics and the drain, over HTTP against two shards. */

#include "rig.h"

#define CHAT_PATH "/v1/chat/completions"

static void assert_has(const char *answer, const char *wanted) {
  if (!strcasestr(answer, wanted)) fail_msg("no \"%s\" in: %.1500s", wanted, answer);
}

static void assert_lacks(const char *answer, const char *unwanted) {
  if (strcasestr(answer, unwanted)) fail_msg("\"%s\" in: %.1500s", unwanted, answer);
}

static uint64_t total(struct rig *rig, enum counter_id id) {
  struct counter_totals totals = {0};
  uint64_t sum = 0;
  for (unsigned i = 0; i < RIG_SHARDS; i++)
    counters_sum(&shards_telemetries(rig->shards)[i]->counters, 2, &totals);
  for (int label = 0; label < MAX_PROVIDERS; label++)
    sum += totals.value[id][label];
  return sum;
}

static void a_chat_is_answered_and_says_who_served_it(void **state) {
  static char answer[RIG_ANSWER];
  assert_int_equal(rig_ask(*state, "POST", CHAT_PATH, NULL, CHAT("lone", "hi"), answer), 200);
  assert_has(answer, "\"content\":\"Hello \\u00e9\"");
  assert_has(answer, "X-Request-Id: chatcmpl-");
  assert_has(answer, "X-Self-Improve-Provider: first\r\n");
  assert_has(answer, "X-Self-Improve-Model: m-1\r\n");
  assert_has(answer, "X-Self-Improve-Attempts: 1\r\n");
  assert_has(answer, "X-Self-Improve-Coalesced: false\r\n");
  assert_has(answer, "Content-Type: application/json");
}

static void a_stream_brings_its_events_and_the_end_marker(void **state) {
  static char answer[RIG_ANSWER];
  assert_int_equal(rig_ask(*state, "POST", CHAT_PATH, NULL, STREAM("auto", "hi"), answer), 200);
  assert_has(answer, "Content-Type: text/event-stream");
  assert_has(answer, "\"Hel\"");
  assert_has(answer, "\"lo\"");
  assert_has(answer, "data: [DONE]\n\n");
}

static void a_cut_stream_ends_with_an_error_event_and_no_end_marker(void **state) {
  static char answer[RIG_ANSWER];
  assert_int_equal(rig_ask(*state, "POST", CHAT_PATH, NULL, STREAM("lone", "cut"), answer), 200);
  assert_has(answer, "\"Hel\"");
  assert_has(answer, "data: {\"error\":{\"message\":");
  assert_has(answer, "\"code\":\"stream_cut\"");
  assert_lacks(answer, "[DONE]");
}

static void a_prompt_gets_the_short_form(void **state) {
  static char answer[RIG_ANSWER];
  assert_int_equal(rig_ask(*state, "POST", "/v1/prompt", NULL, "{\"input\":\"hi\"}", answer), 200);
  assert_has(answer, "\"request_id\":\"chatcmpl-");
  assert_has(answer, "\"output\":\"Hello \\u00e9\"");
  assert_has(answer, "\"provider\":\"");
  assert_has(answer, "\"usage\":{\"input_tokens\":7,\"output_tokens\":3,");
}

static void bad_requests_are_refused_in_the_openai_shape(void **state) {
  static const struct {
    const char *method, *path, *headers, *body;
    int status;
    const char *wanted;
  } cases[] = {
      {"POST", CHAT_PATH, NULL, "{\"model\":", 400, "\"type\":\"invalid_request_error\""},
      {"POST", CHAT_PATH, NULL, "", 400, "\"error\""},
      {"POST", CHAT_PATH, NULL, CHAT("nobody", "hi"), 404, "\"code\":\"model_not_found\""},
      {"POST", CHAT_PATH, "X-Priority: urgent\r\n", CHAT("auto", "hi"), 400, "critical, high, normal or low"},
      {"POST", CHAT_PATH, "X-Deadline-Ms: soon\r\n", CHAT("auto", "hi"), 400, "X-Deadline-Ms"},
      {"POST", CHAT_PATH, "X-Deadline-Ms: 0\r\n", CHAT("auto", "hi"), 400, "X-Deadline-Ms"},
      {"GET", CHAT_PATH, NULL, NULL, 405, "Allow: POST"},
      {"POST", "/v1/embeddings", NULL, "{}", 404, "not_found"},
      {"GET", "/v1/models/nobody", NULL, NULL, 404, "model_not_found"},
      {"POST", "/v1/models", NULL, NULL, 405, "Allow: GET, HEAD"},
      {"GET", "/nowhere", NULL, NULL, 404, "not_found"},
  };
  static char answer[RIG_ANSWER];
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    int status = rig_ask(*state, cases[i].method, cases[i].path, cases[i].headers, cases[i].body, answer);
    if (status != cases[i].status) fail_msg("%s %s: %d: %s", cases[i].method, cases[i].path, status, answer);
    assert_has(answer, cases[i].wanted);
    assert_has(answer, "X-Request-Id:");
    assert_has(answer, "\"message\":");
  }
  assert_int_equal(((struct rig *)*state)->started, 0);
}

static void a_deep_body_is_refused_and_sixty_four_levels_pass(void **state) {
  static char body[220000], answer[RIG_ANSWER];
  char *at =
      body +
      sprintf(body, "{\"model\":\"auto\",\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}],\"x\":");
  memset(at, '[', 100000);
  memset(at + 100000, ']', 100000);
  strcpy(at + 200000, "}");
  assert_int_equal(rig_ask(*state, "POST", CHAT_PATH, NULL, body, answer), 400);
  memset(at, '[', 63);
  memset(at + 63, ']', 63);
  strcpy(at + 126, "}");
  assert_int_equal(rig_ask(*state, "POST", CHAT_PATH, NULL, body, answer), 200);
}

static void a_providers_refusal_is_final(void **state) {
  static char answer[RIG_ANSWER];
  assert_int_equal(rig_ask(*state, "POST", CHAT_PATH, NULL, CHAT("lone", "reject"), answer), 400);
  assert_has(answer, "\"message\":\"no\"");
  assert_has(answer, "X-Should-Retry: false");
}

static void a_deadline_that_passes_is_a_504(void **state) {
  static char answer[RIG_ANSWER];
  int64_t start_ns = clock_now_ns();
  assert_int_equal(rig_ask(*state, "POST", CHAT_PATH, "X-Deadline-Ms: 200\r\n", CHAT("lone", "slow"), answer),
                   504);
  assert_in_range((clock_now_ns() - start_ns) / NS_PER_MS, 190, 600);
  assert_has(answer, "\"code\":\"deadline_exceeded\"");
  assert_has(answer, "X-Should-Retry: false");
}

static void a_client_that_leaves_cancels_its_call(void **state) {
  struct rig *rig = *state;
  static char answer[RIG_ANSWER];
  for (int i = 1; i <= 30; i++) {
    int fd = rig_send(rig, "POST", CHAT_PATH, NULL, i % 2 ? CHAT("lone", "slow") : STREAM("lone", "slow"));
    assert_true(rig_wait(&rig->started, i, 1000));
    close(fd);
    assert_true(rig_wait(&rig->cancelled, i, 500));
  }
  assert_int_equal(rig_ask(rig, "POST", CHAT_PATH, NULL, CHAT("lone", "hi"), answer), 200);
  assert_int_equal(total(rig, COUNTER_requests_client_gone), 30);
  assert_int_equal(atomic_load(&rig->plane->requests_in_flight), 0);
  assert_int_equal(atomic_load(&rig->plane->providers[0].in_flight), 0);
}

static void identical_requests_share_one_call_over_all_shards(void **state) {
  struct rig *rig = *state;
  static char answer[RIG_ANSWER];
  enum { TWINS = 24 };
  int fds[TWINS];
  for (int i = 0; i < TWINS; i++)
    fds[i] = rig_send(rig, "POST", CHAT_PATH, NULL, CHAT("auto", "shared"));
  for (int i = 0; i < TWINS; i++)
    assert_int_equal(rig_hear(fds[i], answer), 200);
  assert_true(rig->started <= 2);
  assert_true(total(rig, COUNTER_requests_coalesced) >= TWINS - 2);
  assert_int_equal(total(rig, COUNTER_requests_answered), TWINS);
}

static void health_ready_and_live_tell_the_state(void **state) {
  struct rig *rig = *state;
  static char answer[RIG_ANSWER];
  assert_int_equal(rig_ask(rig, "GET", "/health", NULL, NULL, answer), 200);
  assert_has(answer, "\"status\":\"ok\"");
  assert_int_equal(rig_ask(rig, "GET", "/ready", NULL, NULL, answer), 200);
  for (int i = 0; i < 2; i++)
    atomic_store(&rig->plane->providers[i].ready_instances, 0);
  assert_int_equal(rig_ask(rig, "GET", "/ready", NULL, NULL, answer), 503);
  assert_int_equal(rig_ask(rig, "GET", "/live", NULL, NULL, answer), 200);
  assert_has(answer, "\"status\":\"degraded\"");
  assert_int_equal(rig_ask(rig, "DELETE", "/health", NULL, NULL, answer), 405);
}

static int series(struct rig *rig) {
  static char answer[RIG_ANSWER];
  assert_int_equal(rig_ask(rig, "GET", "/metrics", NULL, NULL, answer), 200);
  int n = 0;
  for (const char *at = answer; (at = strstr(at, "\nself_improve_")); at++)
    n++;
  return n;
}

static void metrics_are_complete_and_names_from_requests_add_no_series(void **state) {
  struct rig *rig = *state;
  static char answer[RIG_ANSWER];
  char body[256], path[64];
  int before = series(rig);
  for (int i = 0; i < 100; i++) {
    snprintf(body, sizeof body,
             "{\"model\":\"m%d\",\"user\":\"u%d\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}", i,
             i);
    assert_int_equal(rig_ask(rig, "POST", CHAT_PATH, NULL, body, answer), 404);
    snprintf(path, sizeof path, "/path%d", i);
    assert_int_equal(rig_ask(rig, "GET", path, NULL, NULL, answer), 404);
  }
  assert_int_equal(rig_ask(rig, "POST", CHAT_PATH, NULL, STREAM("lone", "hi"), answer), 200);
  assert_int_equal(series(rig), before);
  assert_int_equal(rig_ask(rig, "GET", "/metrics", NULL, NULL, answer), 200);
  assert_has(answer, "self_improve_requests_received_total 101\n");
  assert_has(answer, "self_improve_requests_refused_total 100\n");
  assert_has(answer, "self_improve_attempts_total{provider=\"first\"} 1\n");
  assert_has(answer, "self_improve_ttft_seconds_count{provider=\"first\"} 1\n");
  assert_has(answer, "self_improve_requests_in_flight 0\n");
  assert_has(answer, "# TYPE self_improve_ttft_seconds histogram\n");
}

static void a_key_is_asked_for_and_never_shown(void **state) {
  static char answer[RIG_ANSWER];
  struct rig *rig = rig_create("sk-canary-7");
  void *other = rig;
  (void)state;
  assert_int_equal(rig_ask(rig, "POST", CHAT_PATH, NULL, CHAT("auto", "hi"), answer), 401);
  assert_has(answer, "WWW-Authenticate: Bearer");
  assert_int_equal(
      rig_ask(rig, "POST", CHAT_PATH, "Authorization: Bearer sk-wrong-9\r\n", CHAT("auto", "hi"), answer),
      401);
  assert_lacks(answer, "sk-wrong-9");
  assert_lacks(answer, "canary");
  assert_int_equal(rig_ask(rig, "GET", "/api/v1/status", NULL, NULL, answer), 401);
  assert_int_equal(rig_ask(rig, "GET", "/metrics", NULL, NULL, answer), 401);
  assert_int_equal(rig_ask(rig, "GET", "/health", NULL, NULL, answer), 200);
  const char *good = "Authorization: Bearer sk-canary-7\r\n";
  assert_int_equal(rig_ask(rig, "POST", CHAT_PATH, good, CHAT("auto", "hi"), answer), 200);
  assert_int_equal(rig_ask(rig, "GET", "/api/v1/status", "X-Api-Key: sk-canary-7\r\n", NULL, answer), 200);
  rig_teardown(&other);
}

static void models_lists_the_routes(void **state) {
  static char answer[RIG_ANSWER];
  assert_int_equal(rig_ask(*state, "GET", "/v1/models", NULL, NULL, answer), 200);
  assert_has(answer, "\"object\":\"list\"");
  assert_has(answer, "\"id\":\"auto\"");
  assert_has(answer, "\"id\":\"lone\"");
  assert_int_equal(rig_ask(*state, "GET", "/v1/models/lone", NULL, NULL, answer), 200);
  assert_lacks(answer, "auto");
}

static void *stop_now(void *rig) {
  shards_stop(((struct rig *)rig)->shards);
  return NULL;
}

static void a_stop_waits_then_answers_and_keeps_what_is_left(void **state) {
  struct rig *rig = *state;
  static char answer[RIG_ANSWER];
  pthread_t stopper;
  int fd = rig_send(rig, "POST", CHAT_PATH, NULL, CHAT("lone", "slow"));
  int quick = rig_send(rig, "POST", CHAT_PATH, NULL, CHAT("auto", "shared"));
  assert_true(rig_wait(&rig->started, 2, 1000));
  int64_t start_ns = clock_now_ns();
  pthread_create(&stopper, NULL, stop_now, rig);
  assert_int_equal(rig_hear(quick, answer), 200);
  assert_int_equal(rig_hear(fd, answer), 503);
  assert_has(answer, "\"code\":\"shutting_down\"");
  assert_has(answer, "Retry-After:");
  pthread_join(stopper, NULL);
  rig->stopped = true;
  assert_in_range((clock_now_ns() - start_ns) / NS_PER_MS, 900, 2000);
  assert_int_equal(total(rig, COUNTER_requests_admitted),
                   total(rig, COUNTER_requests_answered) + total(rig, COUNTER_requests_dead_lettered));
  assert_int_equal(total(rig, COUNTER_requests_dead_lettered), 1);
  assert_int_equal(total(rig, COUNTER_dead_letters_lost), 0);
}

static void settings_off_loopback_need_keys(void **state) {
  struct server_settings s;
  char error[256];
  (void)state;
  server_settings_init(&s);
  assert_int_equal(server_settings_check(&s, error, sizeof error), 0);
  snprintf(s.host, sizeof s.host, "::1");
  assert_int_equal(server_settings_check(&s, error, sizeof error), 0);
  snprintf(s.host, sizeof s.host, "0.0.0.0");
  assert_int_equal(server_settings_check(&s, error, sizeof error), -EINVAL);
  assert_has(error, "server.keys");
  s.key_count = 1;
  assert_int_equal(server_settings_check(&s, error, sizeof error), 0);
  s.shards = 0;
  assert_int_equal(server_settings_check(&s, error, sizeof error), -EINVAL);
  assert_has(error, "server.shards is 0; allowed: 1 to 64");
  s.shards = 1;
  snprintf(s.host, sizeof s.host, "example.org");
  assert_int_equal(server_settings_check(&s, error, sizeof error), -EINVAL);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, rig_setup, rig_teardown)

int main(void) {
  const struct CMUnitTest tests[] = {
      CASE(a_chat_is_answered_and_says_who_served_it),
      CASE(a_stream_brings_its_events_and_the_end_marker),
      CASE(a_cut_stream_ends_with_an_error_event_and_no_end_marker),
      CASE(a_prompt_gets_the_short_form),
      CASE(bad_requests_are_refused_in_the_openai_shape),
      CASE(a_deep_body_is_refused_and_sixty_four_levels_pass),
      CASE(a_providers_refusal_is_final),
      CASE(a_deadline_that_passes_is_a_504),
      CASE(a_client_that_leaves_cancels_its_call),
      CASE(identical_requests_share_one_call_over_all_shards),
      CASE(health_ready_and_live_tell_the_state),
      CASE(metrics_are_complete_and_names_from_requests_add_no_series),
      cmocka_unit_test(a_key_is_asked_for_and_never_shown),
      CASE(models_lists_the_routes),
      CASE(a_stop_waits_then_answers_and_keeps_what_is_left),
      cmocka_unit_test(settings_off_loopback_need_keys),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
