#include "fixture.h"

#include <cjson/cJSON.h>
#include <errno.h>

struct reading {
  struct fixture *f;
  struct store_reader *reader;
};

static int setup(void **state) {
  struct reading *r = calloc(1, sizeof *r);
  char error[256] = "";
  r->f = fixture_make();
  fixture_open(r->f);
  fixture_fill(r->f);
  r->reader = store_reader_open(r->f->path, error, sizeof error);
  if (!r->reader) fail_msg("%s", error);
  *state = r;
  return 0;
}

static int teardown(void **state) {
  struct reading *r = *state;
  void *f = r->f;
  store_reader_close(r->reader);
  free(r);
  return fixture_teardown(&f);
}

/* The parsed answer of a query that must succeed. */
static cJSON *ask(struct reading *r, enum store_query query, const char *text, int64_t limit) {
  int status = 1;
  char *answer = store_query(r->reader, query, text, limit, &status);
  assert_int_equal(status, 0);
  assert_non_null(answer);
  cJSON *json = cJSON_Parse(answer);
  if (!json) fail_msg("not JSON: %s", answer);
  free(answer);
  return json;
}

static int refusal(struct reading *r, enum store_query query, const char *text) {
  int status = 1;
  char *answer = store_query(r->reader, query, text, 0, &status);
  assert_null(answer);
  return status;
}

static cJSON *at(const cJSON *json, const char *key) {
  cJSON *item = cJSON_GetObjectItemCaseSensitive(json, key);
  if (!item) fail_msg("no \"%s\"", key);
  return item;
}

static double number(const cJSON *json, const char *key) {
  assert_true(cJSON_IsNumber(at(json, key)));
  return at(json, key)->valuedouble;
}

static const char *text(const cJSON *json, const char *key) {
  assert_true(cJSON_IsString(at(json, key)));
  return at(json, key)->valuestring;
}

static void ledger_rows_come_newest_first_with_nested_evidence_and_judgement(void **state) {
  cJSON *rows = ask(*state, QUERY_LEDGER, NULL, 0);
  assert_int_equal(cJSON_GetArraySize(rows), 3);
  const cJSON *newest = cJSON_GetArrayItem(rows, 0), *first = cJSON_GetArrayItem(rows, 2);
  assert_true(number(newest, "id") == 3);
  assert_string_equal(text(newest, "kind"), "episode");
  assert_true(number(newest, "count") == 12 && number(newest, "most") == 44);
  assert_true(cJSON_IsNull(at(newest, "judgement")));
  assert_string_equal(text(first, "name"), "retry_attempts");
  assert_true(number(first, "from") == 3 && number(first, "to") == 4);
  assert_true(cJSON_IsNull(at(first, "least")));
  assert_true(number(at(first, "evidence"), "ttft_p50_ms") == 212.5);
  assert_string_equal(text(at(first, "judgement"), "outcome"), "undone");
  assert_true(number(at(first, "judgement"), "low") == -0.2);
  cJSON_Delete(rows);
}

static void ledger_is_cut_by_limit_and_name(void **state) {
  cJSON *rows = ask(*state, QUERY_LEDGER, NULL, 1);
  assert_int_equal(cJSON_GetArraySize(rows), 1);
  cJSON_Delete(rows);
  rows = ask(*state, QUERY_LEDGER, "shed_threshold", 0);
  assert_int_equal(cJSON_GetArraySize(rows), 1);
  assert_true(number(cJSON_GetArrayItem(rows, 0), "id") == 2);
  cJSON_Delete(rows);
  rows = ask(*state, QUERY_TUNABLE_HISTORY, "nothing", 0);
  assert_int_equal(cJSON_GetArraySize(rows), 0);
  cJSON_Delete(rows);
}

static void history_of_a_tunable_has_its_judgements(void **state) {
  cJSON *rows = ask(*state, QUERY_TUNABLE_HISTORY, "retry_attempts", 0);
  assert_int_equal(cJSON_GetArraySize(rows), 1);
  assert_string_equal(text(at(cJSON_GetArrayItem(rows, 0), "judgement"), "words"), "utility fell");
  cJSON_Delete(rows);
}

static void episodes_are_the_ledger_rows_of_that_kind(void **state) {
  cJSON *rows = ask(*state, QUERY_EPISODES, NULL, 0);
  assert_int_equal(cJSON_GetArraySize(rows), 1);
  assert_string_equal(text(cJSON_GetArrayItem(rows, 0), "actor"), "controller:gradient2");
  cJSON_Delete(rows);
  rows = ask(*state, QUERY_EPISODES, "retry_attempts", 0);
  assert_int_equal(cJSON_GetArraySize(rows), 0);
  cJSON_Delete(rows);
}

static void snapshots_are_found_by_prefix_head_and_best(void **state) {
  struct reading *r = *state;
  cJSON *list = ask(r, QUERY_SNAPSHOTS, NULL, 0);
  assert_int_equal(cJSON_GetArraySize(list), 2);
  assert_string_equal(text(cJSON_GetArrayItem(list, 0), "id"), "aaaaaa02");
  assert_true(cJSON_IsTrue(at(cJSON_GetArrayItem(list, 0), "head")));
  assert_true(cJSON_IsFalse(at(cJSON_GetArrayItem(list, 1), "head")));
  cJSON_Delete(list);
  const char *const names[] = {"aaaaaa02", "head", "best"};
  for (int i = 0; i < 3; i++) {
    cJSON *one = ask(r, QUERY_SNAPSHOT, names[i], 0);
    assert_string_equal(text(one, "id"), "aaaaaa02");
    assert_string_equal(text(one, "parent"), "aaaaaa01");
    assert_string_equal(text(one, "config"), "retry_attempts=3\n");
    assert_true(number(at(one, "score"), "utility") == 0.6);
    cJSON_Delete(one);
  }
  assert_int_equal(refusal(r, QUERY_SNAPSHOT, "aaaaaa"), -EINVAL); /* two of them */
  assert_int_equal(refusal(r, QUERY_SNAPSHOT, "aaaaa"), -EINVAL);  /* too short */
  assert_int_equal(refusal(r, QUERY_SNAPSHOT, "bbbbbb"), -ENOENT);
  assert_int_equal(refusal(r, QUERY_SNAPSHOT, "aaaaaa' OR 1"), -ENOENT);
  assert_int_equal(refusal(r, QUERY_SNAPSHOT, NULL), -EINVAL);
}

static void score(struct reading *r, const char *snapshot, int64_t requests, double utility) {
  struct score_row row = {.snapshot = snapshot, .wall_ms = 1, .requests = requests, .utility = utility};
  assert_int_equal(r->f->sink.score(r->f->sink.ctx, &row), 0);
  assert_int_equal(r->f->sink.commit(r->f->sink.ctx), 0);
}

static void assert_best(struct reading *r, const char *snapshot, double utility) {
  cJSON *best = ask(r, QUERY_SNAPSHOT, "best", 0);
  assert_string_equal(text(best, "id"), snapshot);
  assert_true(number(at(best, "score"), "utility") == utility);
  cJSON_Delete(best);
}

static void best_needs_enough_requests(void **state) {
  struct reading *r = *state;
  score(r, "aaaaaa01", 99, 1);
  assert_best(r, "aaaaaa02", 0.6);
  score(r, "aaaaaa01", 100, 1);
  assert_best(r, "aaaaaa01", 1);
}

/* As after a restart, or when a snapshot is in force again. */
static void a_few_requests_do_not_replace_the_score_of_many(void **state) {
  struct reading *r = *state;
  score(r, "aaaaaa01", 5000, 0.9);
  score(r, "aaaaaa01", 3, 0.1);
  assert_best(r, "aaaaaa01", 0.9);
  score(r, "aaaaaa01", 100, 0.7);
  assert_best(r, "aaaaaa01", 0.7);
}

static void experiments_are_found_by_name_and_number(void **state) {
  struct reading *r = *state;
  cJSON *list = ask(r, QUERY_EXPERIMENTS, NULL, 0);
  assert_int_equal(cJSON_GetArraySize(list), 1);
  assert_true(number(at(cJSON_GetArrayItem(list, 0), "spec"), "share") == 0.5);
  cJSON_Delete(list);
  const char *const names[] = {"shed", "1"};
  for (int i = 0; i < 2; i++) {
    cJSON *one = ask(r, QUERY_EXPERIMENT, names[i], 0);
    assert_string_equal(text(one, "status"), "running");
    assert_true(cJSON_IsNull(at(one, "low")) && cJSON_IsNull(at(one, "ended_ms")));
    assert_int_equal(cJSON_GetArraySize(at(at(one, "state"), "sums")), 2);
    cJSON_Delete(one);
  }
  assert_int_equal(refusal(r, QUERY_EXPERIMENT, "2"), -ENOENT);
  assert_int_equal(refusal(r, QUERY_EXPERIMENT, "none"), -ENOENT);
}

static void anomalies_tell_when_they_closed(void **state) {
  cJSON *list = ask(*state, QUERY_ANOMALIES, NULL, 0);
  const cJSON *one = cJSON_GetArrayItem(list, 0);
  assert_string_equal(text(one, "severity"), "critical");
  assert_true(number(one, "closed_ms") - number(one, "opened_ms") == 9000);
  cJSON_Delete(list);
}

static void dead_letters_show_their_body_only_one_at_a_time(void **state) {
  struct reading *r = *state;
  cJSON *list = ask(r, QUERY_DEAD_LETTERS, NULL, 0);
  assert_int_equal(cJSON_GetArraySize(list), 1);
  assert_null(cJSON_GetObjectItem(cJSON_GetArrayItem(list, 0), "body"));
  assert_true(number(cJSON_GetArrayItem(list, 0), "body_bytes") == 16);
  assert_true(cJSON_IsTrue(at(cJSON_GetArrayItem(list, 0), "stream")));
  cJSON_Delete(list);
  const char *const names[] = {"chatcmpl-000000000000004d", "000000000000004d"};
  for (int i = 0; i < 2; i++) {
    cJSON *one = ask(r, QUERY_DEAD_LETTER, names[i], 0);
    assert_string_equal(text(one, "body"), "{\"model\":\"auto\"}");
    assert_string_equal(text(one, "reason"), "deadline_exceeded");
    assert_string_equal(text(one, "priority"), "normal");
    assert_string_equal(text(one, "session"), "0000000000000abc");
    cJSON_Delete(one);
  }
  assert_int_equal(refusal(r, QUERY_DEAD_LETTER, "chatcmpl-0000000000000000"), -ENOENT);
}

static void bytes_that_are_no_text_do_not_break_the_answer(void **state) {
  struct reading *r = *state;
  struct dead_letter_row letter = fixture_letter(5, "chatcmpl-5", "\xff\x01{");
  letter.detail = "caf\xc3\xa9 \xe2\x28 \xed\xa0\x80 end";
  assert_int_equal(r->f->sink.dead_letter(r->f->sink.ctx, &letter), 0);
  struct ledger_row row = fixture_change(9, "retry_attempts", 1, 2);
  row.evidence = "{\"broken\":";
  assert_int_equal(r->f->sink.ledger(r->f->sink.ctx, &row), 0);
  assert_int_equal(r->f->sink.commit(r->f->sink.ctx), 0);
  cJSON *one = ask(r, QUERY_DEAD_LETTER, "chatcmpl-5", 0);
  assert_null(cJSON_GetObjectItem(one, "body"));
  assert_string_equal(text(one, "body_hex"), "ff017b");
  assert_string_equal(text(one, "detail"), "caf\xc3\xa9 ?( ??? end");
  cJSON_Delete(one);
  cJSON *rows = ask(r, QUERY_LEDGER, NULL, 1);
  assert_string_equal(text(cJSON_GetArrayItem(rows, 0), "evidence"), "{\"broken\":");
  cJSON_Delete(rows);
}

static void frames_nest_stages_and_providers_by_name(void **state) {
  cJSON *list = ask(*state, QUERY_FRAMES, NULL, 0);
  const cJSON *frame = cJSON_GetArrayItem(list, 0);
  assert_true(number(frame, "received") == 30);
  const cJSON *stage = at(at(frame, "stages"), "inference"), *fast = at(at(frame, "providers"), "fast");
  assert_true(number(stage, "capacity") == 1024);
  assert_true(cJSON_IsNull(at(stage, "sojourn_p50_ms")));
  assert_string_equal(text(fast, "breaker"), "open");
  assert_true(cJSON_IsFalse(at(fast, "cooling")));
  assert_true(number(fast, "ttft_p50_ms") == 212.5);
  assert_true(number(at(frame, "longest_wait_ms"), "critical") == 0);
  cJSON_Delete(list);
}

static void an_answer_is_found_with_its_provider_and_whether_it_was_rewarded(void **state) {
  struct reading *r = *state;
  unsigned provider = 99;
  bool rewarded = false;
  assert_int_equal(store_find_answer(r->reader, 1, &provider, &rewarded), 0);
  assert_int_equal(provider, 1);
  assert_int_equal(rewarded,
                   fixture_number(r->f->path, "SELECT count(*) FROM rewards WHERE request = 1") > 0);
  assert_int_equal(
      r->f->sink.reward(r->f->sink.ctx, &(struct reward_row){.request = 1, .wall_ms = 1, .value = 1}), 0);
  assert_int_equal(r->f->sink.commit(r->f->sink.ctx), 0);
  assert_int_equal(store_find_answer(r->reader, 1, &provider, &rewarded), 0);
  assert_true(rewarded);
  assert_int_equal(store_find_answer(r->reader, 2, &provider, &rewarded), 0);
  assert_int_equal(rewarded,
                   fixture_number(r->f->path, "SELECT count(*) FROM rewards WHERE request = 2") > 0);
  assert_int_equal(store_find_answer(r->reader, 0xfffffffffffffffe, &provider, &rewarded),
                   -ENOENT); /* shed */
  assert_int_equal(store_find_answer(r->reader, 12345, &provider, &rewarded), -ENOENT);
}

static void places_are_those_of_the_present_configuration(void **state) {
  struct reading *r = *state;
  static const char *const names[] = {"new", "fast", "other"};
  fixture_close(r->f);
  r->f->options.provider_names = names;
  r->f->options.provider_count = 3;
  fixture_open(r->f);
  unsigned provider = 99;
  bool rewarded;
  assert_int_equal(store_find_answer(r->reader, 2, &provider, &rewarded), 0); /* "fast" */
  assert_int_equal(provider, 1);
  assert_int_equal(store_find_answer(r->reader, 1, &provider, &rewarded), 0); /* "big" is gone */
  assert_int_equal(provider, NO_PROVIDER);
}

static void a_reader_cannot_write_and_needs_a_file(void **state) {
  (void)state;
  char error[256] = "";
  assert_null(store_reader_open("/tmp/no/such/file.db", error, sizeof error));
  assert_non_null(strstr(error, "has a daemon run there yet?"));
  assert_int_equal(access("/tmp/no/such/file.db", F_OK), -1);
}

static void a_reader_works_while_no_daemon_runs(void **state) {
  struct reading *r = *state;
  char error[256] = "";
  store_reader_close(r->reader);
  fixture_close(r->f);
  r->reader = store_reader_open(r->f->path, error, sizeof error);
  assert_non_null(r->reader);
  cJSON *rows = ask(r, QUERY_LEDGER, NULL, 0);
  assert_int_equal(cJSON_GetArraySize(rows), 3);
  cJSON_Delete(rows);
}

static void overlong_text_is_refused(void **state) {
  char name[400];
  memset(name, 'a', sizeof name - 1);
  name[sizeof name - 1] = '\0';
  assert_int_equal(refusal(*state, QUERY_EXPERIMENT, name), -EINVAL);
  assert_int_equal(refusal(*state, QUERY_TUNABLE_HISTORY, NULL), -EINVAL);
}

int main(void) {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
  const struct CMUnitTest tests[] = {
      T(ledger_rows_come_newest_first_with_nested_evidence_and_judgement),
      T(ledger_is_cut_by_limit_and_name),
      T(history_of_a_tunable_has_its_judgements),
      T(episodes_are_the_ledger_rows_of_that_kind),
      T(snapshots_are_found_by_prefix_head_and_best),
      T(best_needs_enough_requests),
      T(a_few_requests_do_not_replace_the_score_of_many),
      T(experiments_are_found_by_name_and_number),
      T(anomalies_tell_when_they_closed),
      T(dead_letters_show_their_body_only_one_at_a_time),
      T(bytes_that_are_no_text_do_not_break_the_answer),
      T(frames_nest_stages_and_providers_by_name),
      T(an_answer_is_found_with_its_provider_and_whether_it_was_rewarded),
      T(places_are_those_of_the_present_configuration),
      T(a_reader_cannot_write_and_needs_a_file),
      T(a_reader_works_while_no_daemon_runs),
      T(overlong_text_is_refused),
  };
  return cmocka_run_group_tests_name("reader", tests, NULL, NULL);
}
