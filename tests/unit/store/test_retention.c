#include "fixture.h"

#include "store/retention.h"
#include "store/schema.h"

#define DAY_MS INT64_C(86400000)

static const int64_t now_ms = 1760000000000;

static sqlite3 *filled(int rows, int64_t wall_ms) {
  sqlite3 *db;
  char error[256], sql[1200];
  assert_int_equal(sqlite3_open(":memory:", &db), SQLITE_OK);
  assert_int_equal(schema_migrate(db, "x", error, sizeof error), 0);
  snprintf(sql, sizeof sql,
           "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %d) "
           "INSERT INTO requests(id, wall_ms) SELECT i, %lld FROM n;"
           "INSERT INTO rewards(request, wall_ms) SELECT id, wall_ms FROM requests;"
           "INSERT INTO dead_letters(request, wall_ms, body) SELECT id, wall_ms, 'x' FROM requests LIMIT 10;"
           "INSERT INTO frames(wall_ms) SELECT wall_ms FROM requests;"
           "INSERT INTO frame_stages(frame, stage) SELECT id, 'rag' FROM frames;"
           "INSERT INTO frame_providers(frame, provider) SELECT id, 'fast' FROM frames;"
           "INSERT INTO ledger(id, wall_ms) VALUES(1, 1);",
           rows, (long long)wall_ms);
  if (sqlite3_exec(db, sql, NULL, NULL, NULL) != SQLITE_OK) fail_msg("%s", sqlite3_errmsg(db));
  return db;
}

static int count(sqlite3 *db, const char *table) {
  char sql[64];
  sqlite3_stmt *s;
  snprintf(sql, sizeof sql, "SELECT count(*) FROM %s", table);
  assert_int_equal(sqlite3_prepare_v2(db, sql, -1, &s, NULL), SQLITE_OK);
  assert_int_equal(sqlite3_step(s), SQLITE_ROW);
  int n = sqlite3_column_int(s, 0);
  sqlite3_finalize(s);
  return n;
}

static void old_rows_go_a_step_at_a_time(void **state) {
  (void)state;
  sqlite3 *db = filled(2 * RETENTION_ROWS + 1, now_ms - 8 * DAY_MS);
  struct retention *r = retention_create(db, 7, 7);
  bool more = false;
  int letters = 0;
  for (int left = RETENTION_ROWS + 1; left >= 1; left -= RETENTION_ROWS) {
    assert_int_equal(retention_step(r, now_ms, &more, &letters), SQLITE_OK);
    assert_true(more);
    assert_int_equal(letters, left > RETENTION_ROWS ? 10 : 0);
    assert_int_equal(count(db, "requests"), left);
    assert_int_equal(count(db, "frame_stages"), left);
  }
  assert_int_equal(retention_step(r, now_ms, &more, &letters), SQLITE_OK);
  assert_false(more);
  static const char *const tables[] = {"requests", "rewards",      "dead_letters",
                                       "frames",   "frame_stages", "frame_providers"};
  for (size_t i = 0; i < sizeof tables / sizeof tables[0]; i++)
    assert_int_equal(count(db, tables[i]), 0);
  assert_int_equal(count(db, "ledger"), 1); /* decisions stay */
  retention_destroy(r);
  sqlite3_close(db);
}

static void young_rows_and_unlimited_ones_stay(void **state) {
  (void)state;
  sqlite3 *db = filled(5, now_ms - 8 * DAY_MS);
  bool more = true;
  int letters = 1;
  struct retention *r = retention_create(db, 9, 0);
  assert_int_equal(retention_step(r, now_ms, &more, &letters), SQLITE_OK);
  assert_false(more || letters);
  assert_int_equal(count(db, "frames"), 5);
  assert_int_equal(count(db, "requests"), 5);
  assert_int_equal(count(db, "dead_letters"), 5);
  retention_destroy(r);
  r = retention_create(db, 7, 9);
  assert_int_equal(retention_step(r, now_ms, &more, &letters), SQLITE_OK);
  assert_int_equal(count(db, "frames"), 0);
  assert_int_equal(count(db, "requests"), 5);
  retention_destroy(r);
  sqlite3_close(db);
}

static void the_writer_prunes_by_itself(void **state) {
  struct fixture *f = *state;
  struct outcome o = fixture_outcome(1);
  o.ended_ns = 0;
  assert_int_equal(f->sink.outcomes(f->sink.ctx, &o, 1, 0, clock_wall_ms() - 31 * DAY_MS), 0);
  o.id = 2;
  assert_int_equal(f->sink.outcomes(f->sink.ctx, &o, 1, 0, clock_wall_ms() - 29 * DAY_MS), 0);
  fixture_close(f);
  fixture_open(f);
  for (int i = 0; i < 50 && fixture_number(f->path, "SELECT count(*) FROM requests") != 1; i++)
    usleep(40000);
  assert_true(fixture_number(f->path, "SELECT group_concat(id) = '2' FROM requests") == 1);
}

static void expired_dead_letters_are_counted_as_evicted(void **state) {
  struct fixture *f = *state;
  for (uint64_t i = 1; i <= 3; i++) {
    struct dead_letter_row row = fixture_letter(i, "id", "{}");
    assert_int_equal(f->sink.dead_letter(f->sink.ctx, &row), 0);
  }
  assert_int_equal(f->sink.commit(f->sink.ctx), 0);
  fixture_close(f);
  sqlite3 *db;
  assert_int_equal(sqlite3_open(f->path, &db), SQLITE_OK);
  assert_int_equal(sqlite3_exec(db,
                                "UPDATE dead_letters SET wall_ms = wall_ms - 31 * 86400000 WHERE request < 3",
                                NULL, NULL, NULL),
                   SQLITE_OK);
  sqlite3_close(db);
  fixture_open(f);
  for (int i = 0; i < 50 && store_dead_letters_evicted(f->store) != 2; i++)
    usleep(40000);
  assert_int_equal(store_dead_letters_evicted(f->store), 2);
  assert_true(fixture_number(f->path, "SELECT group_concat(request) = '3' FROM dead_letters") == 1);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(old_rows_go_a_step_at_a_time),
      cmocka_unit_test(young_rows_and_unlimited_ones_stay),
      cmocka_unit_test_setup_teardown(the_writer_prunes_by_itself, fixture_setup, fixture_teardown),
      cmocka_unit_test_setup_teardown(expired_dead_letters_are_counted_as_evicted, fixture_setup,
                                      fixture_teardown),
  };
  return cmocka_run_group_tests_name("retention", tests, NULL, NULL);
}
