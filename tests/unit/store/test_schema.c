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
      cmocka_unit_test(a_newer_file_is_refused_untouched),
      cmocka_unit_test(a_database_of_another_program_is_refused_untouched),
      cmocka_unit_test(a_step_that_fails_leaves_nothing_behind),
  };
  return cmocka_run_group_tests_name("schema", tests, NULL, NULL);
}
