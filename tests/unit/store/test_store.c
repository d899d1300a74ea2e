#include "fixture.h"

#include <errno.h>
#include <pthread.h>
#include <sys/stat.h>

static void what_was_put_comes_back_after_a_restart(void **state) {
  struct fixture *f = *state;
  fixture_fill(f);
  fixture_close(f);
  fixture_open(f);
  struct store_state s;
  assert_int_equal(store_load(f->store, &s), 0);
  assert_int_equal(s.value_count, 1);
  assert_string_equal(s.values[0].name, "retry_attempts");
  assert_true(s.values[0].value == 3);
  assert_true(isnan(s.values[0].file_value));
  assert_true(s.values[0].hold_until_ms == INT64_MAX);
  assert_string_equal(s.values[0].author, "rollback");
  assert_int_equal(s.experiment_count, 1);
  assert_string_equal(s.experiments[0].tunable, "shed_threshold");
  assert_true(s.experiments[0].treatment == 0.7);
  assert_int_equal(s.experiments[0].treatment_units, 41);
  assert_true(isnan(s.experiments[0].low) && isnan(s.experiments[0].high));
  assert_string_equal(s.experiments[0].state, "{\"sums\":[1,2]}");
  assert_null(s.experiments[0].verdict);
  assert_string_equal(s.head_snapshot, "aaaaaa02");
  assert_string_equal(s.learned_router, "{\"arms\":[1,2]}");
  assert_int_equal(s.last_ledger_id, 3);
  assert_int_equal(s.last_experiment_id, 1);
  assert_int_equal(s.last_anomaly_id, 1);
  store_state_free(&s);
}

static void an_incident_that_was_open_is_over_after_a_restart(void **state) {
  struct fixture *f = *state;
  fixture_fill(f);
  struct anomaly_row open = {
      .id = 2, .opened_ms = 1000, .metric = "breaker", .severity = "warning", .message = "breaker opened"};
  assert_int_equal(f->sink.anomaly(f->sink.ctx, &open), 0);
  fixture_close(f);
  fixture_open(f);
  assert_int_equal(fixture_number(f->path, "SELECT count(*) FROM anomalies WHERE coalesce(closed_ms, 0) = 0"),
                   0);
  assert_int_equal(fixture_number(f->path, "SELECT closed_ms > opened_ms FROM anomalies WHERE id = 2"), 1);
  assert_int_equal(
      fixture_number(
          f->path, "SELECT count(*) FROM anomalies WHERE message LIKE '%still open when the daemon stopped'"),
      1);
}

static void an_empty_store_loads_as_nothing(void **state) {
  struct fixture *f = *state;
  struct store_state s;
  assert_int_equal(store_load(f->store, &s), 0);
  assert_int_equal(s.value_count + s.experiment_count + s.open_trial_count, 0);
  assert_null(s.head_snapshot);
  assert_null(s.learned_router);
  assert_int_equal(s.last_ledger_id, 0);
  store_state_free(&s);
}

static void open_trials_are_the_changes_that_nobody_judged(void **state) {
  struct fixture *f = *state;
  struct ledger_row rows[7];
  for (int i = 0; i < 7; i++) {
    rows[i] = fixture_change(i + 1, "retry_attempts", i, i + 1);
    rows[i].trial = i < 2 ? 1 : i < 5 ? i + 1 : i == 6 ? 3 : 0; /* 2 belongs to the trial of 1; 6 to none */
    if (i == 6) rows[i].actor = "rollback";                     /* 7 undoes 3, but that is not judged yet */
    assert_int_equal(f->sink.ledger(f->sink.ctx, &rows[i]), 0);
  }
  struct judgement_row judged = {.ledger_id = 1, .wall_ms = 1, .outcome = "kept"};
  assert_int_equal(f->sink.judgement(f->sink.ctx, &judged), 0);
  judged.ledger_id = 4;
  assert_int_equal(f->sink.judgement(f->sink.ctx, &judged), 0);
  assert_int_equal(f->sink.commit(f->sink.ctx), 0);
  struct store_state s;
  assert_int_equal(store_load(f->store, &s), 0);
  assert_int_equal(s.open_trial_count, 2);
  assert_int_equal(s.open_trials[0].id, 5);
  assert_int_equal(s.open_trials[1].id, 3);
  assert_true(s.open_trials[1].from == 2 && s.open_trials[1].to == 3);
  assert_true(isnan(s.open_trials[1].least));
  assert_string_equal(s.open_trials[1].snapshot_before, "aaaaaa01");
  store_state_free(&s);
}

static void the_head_is_the_last_snapshot_in_force_even_when_it_was_known(void **state) {
  struct fixture *f = *state;
  fixture_fill(f);
  struct snapshot_row again = {
      .id = "aaaaaa01", .parent = "aaaaaa02", .wall_ms = 1, .config = "retry_attempts=3\n"};
  assert_int_equal(f->sink.snapshot(f->sink.ctx, &again), 0);
  assert_int_equal(f->sink.commit(f->sink.ctx), 0);
  struct store_state s;
  assert_int_equal(store_load(f->store, &s), 0);
  assert_string_equal(s.head_snapshot, "aaaaaa01");
  store_state_free(&s);
  assert_true(fixture_number(f->path,
                             "SELECT count(*) FROM snapshots WHERE id = 'aaaaaa01' AND parent IS NULL") == 1);
}

static void a_second_row_of_an_id_replaces_the_first(void **state) {
  struct fixture *f = *state;
  struct reward_row reward = {.request = 9, .wall_ms = clock_wall_ms(), .value = 0.2, .source = "a"};
  assert_int_equal(f->sink.reward(f->sink.ctx, &reward), 0);
  reward.value = 0.9;
  assert_int_equal(f->sink.reward(f->sink.ctx, &reward), 0);
  struct ledger_row episode = fixture_change(1, "limit.fast", 20, 30);
  assert_int_equal(f->sink.ledger(f->sink.ctx, &episode), 0);
  episode.to = 35;
  assert_int_equal(f->sink.ledger(f->sink.ctx, &episode), 0);
  assert_int_equal(f->sink.commit(f->sink.ctx), 0);
  assert_true(fixture_number(f->path, "SELECT value FROM rewards WHERE request = 9") == 0.9);
  assert_true(fixture_number(f->path, "SELECT sum(to_value) FROM ledger") == 35);
}

static void outcomes_are_kept_with_names_and_the_time_they_ended(void **state) {
  struct fixture *f = *state;
  struct outcome o = fixture_outcome(0xffffffffffffff00);
  assert_int_equal(f->sink.outcomes(f->sink.ctx, &o, 1, 7 * NS_PER_S, INT64_C(4000000000000)), 0);
  assert_int_equal(f->sink.commit(f->sink.ctx), 0);
  assert_true(fixture_number(f->path,
                             "SELECT count(*) FROM requests WHERE id = -256 AND route = 'auto' AND "
                             "provider = 'big' AND kind = 'answered' AND priority = 'high' AND "
                             "wall_ms = 4000000000000 - 2000 AND ttft_ms = 200.5 AND tpot_ms IS NULL AND "
                             "propensity = 0.75 AND tried IS NULL AND in_target = 1 AND stream = 0") == 1);
  assert_true(fixture_number(f->path, "SELECT request = 'chatcmpl-ffffffffffffff00' FROM requests_view") ==
              1);
}

static void several_calls_are_listed_in_order(void **state) {
  struct fixture *f = *state;
  fixture_fill(f);
  assert_true(fixture_number(f->path,
                             "SELECT tried = '[[\"big\",\"timed_out\"],[\"fast\",\"ok\"]]' FROM requests "
                             "WHERE id = 2") == 1);
}

static void frames_keep_what_spoke_and_everything_once_a_minute(void **state) {
  struct fixture *f = *state;
  struct frame *frame = calloc(1, sizeof *frame);
  frame->providers = 2;
  for (int i = 1; i <= 61; i++) {
    frame->number = (uint64_t)i;
    frame->wall_ms = clock_wall_ms();
    frame->provider[1].attempts = i == 5;
    assert_int_equal(f->sink.frame(f->sink.ctx, frame), 0);
  }
  free(frame);
  assert_int_equal(f->sink.commit(f->sink.ctx), 0);
  assert_true(fixture_number(f->path, "SELECT count(*) FROM frames") == 61);
  assert_true(fixture_number(f->path, "SELECT count(*) FROM frame_providers") == 2 + 1 + 2);
  assert_true(fixture_number(f->path, "SELECT count(*) FROM frame_stages") == 2 * STAGES);
}

static void dead_letters_make_room_oldest_first_and_are_counted(void **state) {
  struct fixture *f = *state;
  fixture_close(f);
  f->options.dead_letter_rows = 3;
  f->options.dead_letter_bytes = 100;
  fixture_open(f);
  char body[101] = "";
  memset(body, 'x', 40);
  for (uint64_t i = 1; i <= 3; i++) {
    struct dead_letter_row row = fixture_letter(i, "id", body);
    assert_int_equal(f->sink.dead_letter(f->sink.ctx, &row), 0);
  }
  assert_int_equal(f->sink.commit(f->sink.ctx), 0);
  assert_true(fixture_number(f->path, "SELECT min(request) FROM dead_letters") == 2); /* by bytes */
  assert_int_equal(store_dead_letters_evicted(f->store), 1);
  for (uint64_t i = 4; i <= 6; i++) {
    struct dead_letter_row row = fixture_letter(i, "id", "");
    assert_int_equal(f->sink.dead_letter(f->sink.ctx, &row), 0);
  }
  assert_int_equal(f->sink.commit(f->sink.ctx), 0);
  assert_true(fixture_number(f->path, "SELECT min(request) FROM dead_letters") == 4); /* by rows */
  assert_int_equal(store_dead_letters_evicted(f->store), 3);
  memset(body, 'x', 101 - 1);
  struct dead_letter_row row = fixture_letter(7, "id", body);
  row.body_size = 101;
  assert_int_equal(f->sink.dead_letter(f->sink.ctx, &row), -EMSGSIZE);
}

static void dead_letters_can_be_off(void **state) {
  struct fixture *f = *state;
  fixture_close(f);
  f->options.dead_letter_rows = 0;
  fixture_open(f);
  struct dead_letter_row row = fixture_letter(1, "id", "{}");
  assert_int_equal(f->sink.dead_letter(f->sink.ctx, &row), -EOPNOTSUPP);
}

static void telemetry_beyond_its_bound_is_dropped_and_counted_but_decisions_are_kept(void **state) {
  struct fixture *f = *state;
  sqlite3 *db = fixture_lock(f->path); /* the writer waits now */
  enum { COUNT = 4096 };
  struct outcome *outcomes = calloc(COUNT, sizeof *outcomes);
  uint64_t put = 0, id = 1;
  int status = 0;
  while (status == 0 && put < 100 * COUNT) {
    for (int i = 0; i < COUNT; i++)
      outcomes[i] = fixture_outcome(id++);
    status = f->sink.outcomes(f->sink.ctx, outcomes, COUNT, 5 * NS_PER_S, clock_wall_ms());
    put += COUNT;
  }
  free(outcomes);
  assert_int_equal(status, -ENOSPC);
  uint64_t dropped = store_dropped(f->store);
  assert_true(dropped > 0 && dropped <= COUNT);
  struct ledger_row row = fixture_change(1, "retry_attempts", 3, 4);
  assert_int_equal(f->sink.ledger(f->sink.ctx, &row), 0);
  fixture_unlock(db);
  for (int tries = 0; tries < 6 && (status = f->sink.commit(f->sink.ctx)) == -ETIMEDOUT; tries++)
    continue; /* a slow machine needs longer for so many rows */
  assert_int_equal(status, 0);
  assert_true(fixture_number(f->path, "SELECT count(*) FROM requests") == (double)(put - dropped));
  assert_true(fixture_number(f->path, "SELECT count(*) FROM ledger") == 1);
}

static void durable_rows_are_refused_only_past_their_bound(void **state) {
  struct fixture *f = *state;
  sqlite3 *db = fixture_lock(f->path);
  char *text = malloc((1 << 20) + 1);
  memset(text, 'x', 1 << 20);
  text[1 << 20] = '\0';
  int accepted = 0;
  while (accepted < 100 && f->sink.learned(f->sink.ctx, "router", text, 1) == 0)
    accepted++;
  assert_int_equal(f->sink.learned(f->sink.ctx, "router", text, 1), -ENOSPC);
  assert_int_equal(accepted, 63); /* of 64 MiB, with a little for each row itself */
  free(text);
  fixture_unlock(db);
  assert_int_equal(f->sink.commit(f->sink.ctx), -ENOSPC); /* or it would promise what was refused */
  assert_int_equal(f->sink.commit(f->sink.ctx), 0);
  assert_int_equal(store_dropped(f->store), 0);
}

static void run_sql(const char *path, const char *sql) {
  sqlite3 *db = NULL;
  assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
  sqlite3_busy_timeout(db, 5000);
  assert_int_equal(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
  sqlite3_close(db);
}

static void a_row_that_is_refused_for_what_it_is_blocks_no_other(void **state) {
  struct fixture *f = *state;
  run_sql(f->path, "CREATE TRIGGER t BEFORE INSERT ON learned WHEN new.name = 'bad' "
                   "BEGIN SELECT RAISE(ABORT, 'no'); END");
  log_setup((enum log_level) - 1, false);
  assert_int_equal(f->sink.learned(f->sink.ctx, "bad", "{}", 1), 0);
  assert_int_equal(f->sink.learned(f->sink.ctx, "router", "{}", 1), 0);
  assert_int_equal(f->sink.commit(f->sink.ctx), 0);
  log_setup(LOG_ERROR, false);
  assert_true(fixture_number(f->path, "SELECT count(*) FROM learned WHERE name = 'router'") == 1);
  assert_true(fixture_number(f->path, "SELECT count(*) FROM learned") == 1);
}

/* Or letters that were not written yet would be counted twice, and push others out. */
static void a_transaction_that_fails_counts_no_dead_letters(void **state) {
  struct fixture *f = *state;
  run_sql(f->path, "CREATE TRIGGER t BEFORE INSERT ON learned BEGIN SELECT RAISE(ROLLBACK, 'no'); END");
  for (uint64_t i = 1; i <= 60; i++) {
    struct dead_letter_row letter = {
        .request = i, .wall_ms = 1, .reason = "failed", .body = "{}", .body_size = 2};
    assert_int_equal(f->sink.dead_letter(f->sink.ctx, &letter), 0);
  }
  assert_int_equal(f->sink.learned(f->sink.ctx, "router", "{}", 1), 0);
  assert_int_not_equal(f->sink.commit(f->sink.ctx), 0);
  assert_int_not_equal(f->sink.commit(f->sink.ctx), 0);
  run_sql(f->path, "DROP TRIGGER t");
  assert_int_equal(f->sink.commit(f->sink.ctx), 0);
  assert_true(fixture_number(f->path, "SELECT count(*) FROM dead_letters") == 60);
  assert_int_equal(store_dead_letters_evicted(f->store), 0);
}

static void closing_writes_what_is_queued(void **state) {
  struct fixture *f = *state;
  for (int i = 1; i <= 5000; i++) {
    struct ledger_row row = fixture_change(i, "retry_attempts", i, i + 1);
    assert_int_equal(f->sink.ledger(f->sink.ctx, &row), 0);
  }
  fixture_close(f);
  assert_true(fixture_number(f->path, "SELECT count(*) FROM ledger") == 5000);
}

static void rows_reach_the_file_without_a_commit_within_a_moment(void **state) {
  struct fixture *f = *state;
  struct ledger_row row = fixture_change(1, "retry_attempts", 3, 4);
  assert_int_equal(f->sink.ledger(f->sink.ctx, &row), 0);
  double count = 0;
  for (int i = 0; i < 50 && count == 0; i++) {
    usleep(40000);
    count = fixture_number(f->path, "SELECT count(*) FROM ledger");
  }
  assert_true(count == 1);
}

static void commit_syncs_rows_that_were_written_without_it(void **state) {
  struct fixture *f = *state;
  struct outcome o = fixture_outcome(1);
  assert_int_equal(f->sink.outcomes(f->sink.ctx, &o, 1, 0, 1), 0);
  for (int i = 0; i < 50 && fixture_number(f->path, "SELECT count(*) FROM requests") == 0; i++)
    usleep(40000);
  assert_int_equal(f->sink.commit(f->sink.ctx), 0);
  assert_true(fixture_number(f->path, "SELECT count(*) FROM meta WHERE name = 'touched'") == 1);
  assert_int_equal(f->sink.commit(f->sink.ctx), 0); /* nothing new: at once */
}

struct poster {
  struct fixture *f;
  int64_t first;
};

static void *post(void *arg) {
  struct poster *p = arg;
  for (int64_t i = 0; i < 500; i++) {
    struct ledger_row row = fixture_change(p->first + i, "retry_attempts", 1, 2);
    if (p->f->sink.ledger(p->f->sink.ctx, &row) != 0) return "refused";
    struct outcome o = fixture_outcome((uint64_t)(p->first + i));
    p->f->sink.outcomes(p->f->sink.ctx, &o, 1, 5 * NS_PER_S, clock_wall_ms());
    if (i % 100 == 99 && p->f->sink.commit(p->f->sink.ctx) != 0) return "not committed";
  }
  return NULL;
}

static void many_threads_may_put_and_commit_at_once(void **state) {
  struct fixture *f = *state;
  pthread_t threads[4];
  struct poster posters[4];
  for (int i = 0; i < 4; i++) {
    posters[i] = (struct poster){.f = f, .first = 1 + i * 1000};
    assert_int_equal(pthread_create(&threads[i], NULL, post, &posters[i]), 0);
  }
  for (int i = 0; i < 4; i++) {
    void *problem = NULL;
    pthread_join(threads[i], &problem);
    assert_null(problem);
  }
  assert_true(fixture_number(f->path, "SELECT count(*) FROM ledger") == 2000);
  assert_true(fixture_number(f->path, "SELECT count(*) FROM requests") == 2000);
}

static void a_healthy_store_says_so(void **state) {
  struct fixture *f = *state;
  const char *why = NULL;
  assert_true(store_health(f->store, &why));
  assert_string_equal(why, "");
  assert_true(store_health(f->store, NULL));
}

int main(void) {
#define T(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)
  const struct CMUnitTest tests[] = {
      T(what_was_put_comes_back_after_a_restart),
      T(an_incident_that_was_open_is_over_after_a_restart),
      T(an_empty_store_loads_as_nothing),
      T(open_trials_are_the_changes_that_nobody_judged),
      T(the_head_is_the_last_snapshot_in_force_even_when_it_was_known),
      T(a_second_row_of_an_id_replaces_the_first),
      T(outcomes_are_kept_with_names_and_the_time_they_ended),
      T(several_calls_are_listed_in_order),
      T(frames_keep_what_spoke_and_everything_once_a_minute),
      T(dead_letters_make_room_oldest_first_and_are_counted),
      T(dead_letters_can_be_off),
      T(telemetry_beyond_its_bound_is_dropped_and_counted_but_decisions_are_kept),
      T(durable_rows_are_refused_only_past_their_bound),
      T(a_row_that_is_refused_for_what_it_is_blocks_no_other),
      T(a_transaction_that_fails_counts_no_dead_letters),
      T(closing_writes_what_is_queued),
      T(rows_reach_the_file_without_a_commit_within_a_moment),
      T(commit_syncs_rows_that_were_written_without_it),
      T(many_threads_may_put_and_commit_at_once),
      T(a_healthy_store_says_so),
  };
  return cmocka_run_group_tests_name("store", tests, NULL, NULL);
}
