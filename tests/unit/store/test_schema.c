#include "fixture.h"

#include "store/schema.h"

#include <errno.h>

static sqlite3 *memory(void) {
  sqlite3 *db;
  assert_int_equal(sqlite3_open(":memory:", &db), SQLITE_OK);
  return db;
}

static int run(sqlite3 *db, const char *sql) {
  return sqlite3_exec(db, sql, NULL, NULL, NULL);
}

static void a_new_file_gets_the_present_version_once(void **state) {
  (void)state;
  char error[256] = "";
  sqlite3 *db = memory();
  assert_int_equal(schema_migrate(db, "x.db", error, sizeof error), 0);
  assert_int_equal(schema_migrate(db, "x.db", error, sizeof error), 0);
  assert_string_equal(error, "");
  assert_int_equal(run(db, "SELECT id, wall_ms, route, provider FROM requests"), SQLITE_OK);
  sqlite3_close(db);
}

static void every_view_can_be_read(void **state) {
  (void)state;
  static const char *const views[] = {"changes", "current",          "snapshot_scores", "requests_view",
                                      "hourly",  "experiments_view", "incidents",       "dead_letters_view"};
  char error[256], sql[128];
  sqlite3 *db = memory();
  assert_int_equal(schema_migrate(db, "x.db", error, sizeof error), 0);
  for (size_t i = 0; i < sizeof views / sizeof views[0]; i++) {
    snprintf(sql, sizeof sql, "SELECT * FROM %s", views[i]);
    if (run(db, sql) != SQLITE_OK) fail_msg("%s: %s", views[i], sqlite3_errmsg(db));
  }
  sqlite3_close(db);
}

static void a_value_in_force_is_as_old_as_the_last_step_of_its_episode(void **state) {
  (void)state;
  char error[256];
  sqlite3 *db = memory();
  sqlite3_stmt *s;
  assert_int_equal(schema_migrate(db, "x.db", error, sizeof error), 0);
  assert_int_equal(
      run(db, "INSERT INTO tunable_values(name, value) VALUES('buffer_rag', 64), ('retry_max_ms', 9);"
              "INSERT INTO ledger(id, wall_ms, kind, name, last_ms) VALUES"
              "(1, 10000, 'episode', 'buffer_rag', 610000), (2, 20000, 'change', 'retry_max_ms', 0)"),
      SQLITE_OK);
  sqlite3_prepare_v2(db,
                     "SELECT changed, last_ms FROM current JOIN changes ON changes.id = ledger_id ORDER BY "
                     "current.name",
                     -1, &s, NULL);
  assert_int_equal(sqlite3_step(s), SQLITE_ROW);
  assert_string_equal((const char *)sqlite3_column_text(s, 0), "1970-01-01 00:10:10");
  assert_int_equal(sqlite3_column_int(s, 1), 610000);
  assert_int_equal(sqlite3_step(s), SQLITE_ROW);
  assert_string_equal((const char *)sqlite3_column_text(s, 0), "1970-01-01 00:00:20");
  assert_int_equal(sqlite3_column_int(s, 1), 20000);
  sqlite3_finalize(s);
  sqlite3_close(db);
}

/* As the first version left it, with a letter in it. */
static void an_older_file_keeps_its_rows_and_gets_what_is_new(void **state) {
  (void)state;
  char error[256] = "";
  sqlite3 *db = memory();
  assert_int_equal(schema_migrate(db, "x.db", error, sizeof error), 0);
  assert_int_equal(run(db, "DROP VIEW dead_letters_view; ALTER TABLE dead_letters DROP COLUMN path;"
                           "CREATE VIEW dead_letters_view AS SELECT id_text AS request FROM dead_letters;"
                           "INSERT INTO dead_letters(request, wall_ms, id_text) VALUES(7, 1, 'old');"
                           "PRAGMA user_version=1"),
                   SQLITE_OK);
  assert_int_equal(schema_migrate(db, "x.db", error, sizeof error), 0);
  assert_int_equal(run(db, "SELECT request, path, body_bytes FROM dead_letters_view"), SQLITE_OK);
  assert_int_equal(
      run(db, "INSERT INTO requests(id, wall_ms) SELECT 1, 1 FROM dead_letters WHERE request = 7"),
      SQLITE_OK);
  assert_int_equal(sqlite3_changes(db), 1);
  sqlite3_close(db);
}

static void a_newer_file_is_refused_untouched(void **state) {
  (void)state;
  char error[256] = "";
  sqlite3 *db = memory();
  assert_int_equal(schema_migrate(db, "x.db", error, sizeof error), 0);
  assert_int_equal(run(db, "PRAGMA user_version=99"), SQLITE_OK);
  assert_int_equal(schema_migrate(db, "x.db", error, sizeof error), -EINVAL);
  assert_non_null(strstr(error, "x.db was written by a newer self-improve (schema 99"));
  sqlite3_close(db);
}

static void a_database_of_another_program_is_refused_untouched(void **state) {
  (void)state;
  char error[256] = "";
  sqlite3 *db = memory();
  assert_int_equal(run(db, "CREATE TABLE songs(title)"), SQLITE_OK);
  assert_int_equal(schema_migrate(db, "x.db", error, sizeof error), -EINVAL);
  assert_non_null(strstr(error, "another program"));
  assert_int_equal(run(db, "SELECT * FROM ledger"), SQLITE_ERROR);
  sqlite3_close(db);
}

static void a_step_that_fails_leaves_nothing_behind(void **state) {
  (void)state;
  char error[256] = "";
  sqlite3 *db = memory();
  assert_int_equal(run(db, "PRAGMA max_page_count=12"), SQLITE_OK);
  assert_int_equal(schema_migrate(db, "x.db", error, sizeof error), -EIO);
  assert_non_null(strstr(error, "full"));
  assert_int_equal(run(db, "PRAGMA max_page_count=1000"), SQLITE_OK);
  assert_int_equal(schema_migrate(db, "x.db", error, sizeof error), 0);
  sqlite3_close(db);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_new_file_gets_the_present_version_once),
      cmocka_unit_test(every_view_can_be_read),
      cmocka_unit_test(a_value_in_force_is_as_old_as_the_last_step_of_its_episode),
      cmocka_unit_test(an_older_file_keeps_its_rows_and_gets_what_is_new),
      cmocka_unit_test(a_newer_file_is_refused_untouched),
      cmocka_unit_test(a_database_of_another_program_is_refused_untouched),
      cmocka_unit_test(a_step_that_fails_leaves_nothing_behind),
  };
  return cmocka_run_group_tests_name("schema", tests, NULL, NULL);
}
