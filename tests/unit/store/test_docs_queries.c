/* docs/database.md is a promise: its queries run and find something, and it names every table, view and
 * column. */

#include "fixture.h"

enum { QUERIES = 10 };

struct documented {
  struct fixture *f;
  sqlite3 *db;
  char *text;
};

static char *read_whole(const char *path) {
  FILE *file = fopen(path, "r");
  if (!file) fail_msg("%s: run the test from the root of the project", path);
  fseek(file, 0, SEEK_END);
  long size = ftell(file);
  rewind(file);
  char *text = calloc(1, (size_t)size + 1);
  assert_int_equal(fread(text, 1, (size_t)size, file), size);
  fclose(file);
  return text;
}

static int setup(void **state) {
  struct documented *d = calloc(1, sizeof *d);
  d->f = fixture_make();
  fixture_open(d->f);
  fixture_fill(d->f);
  assert_int_equal(sqlite3_open_v2(d->f->path, &d->db, SQLITE_OPEN_READONLY, NULL), SQLITE_OK);
  d->text = read_whole("docs/database.md");
  *state = d;
  return 0;
}

static int teardown(void **state) {
  struct documented *d = *state;
  void *f = d->f;
  sqlite3_close(d->db);
  free(d->text);
  free(d);
  return fixture_teardown(&f);
}

/* Rows that the query finds; fails the test when it does not run. */
static int rows_of(sqlite3 *db, const char *sql) {
  sqlite3_stmt *s = NULL;
  int rows = 0, rc;
  if (sqlite3_prepare_v2(db, sql, -1, &s, NULL) != SQLITE_OK) fail_msg("%s\n%s", sqlite3_errmsg(db), sql);
  while ((rc = sqlite3_step(s)) == SQLITE_ROW)
    rows++;
  if (rc != SQLITE_DONE) fail_msg("%s\n%s", sqlite3_errmsg(db), sql);
  sqlite3_finalize(s);
  return rows;
}

static void every_documented_query_runs_and_finds_rows(void **state) {
  struct documented *d = *state;
  static const char begin[] = "```sql\n";
  int queries = 0;
  for (char *at = d->text; (at = strstr(at, begin)); queries++) {
    char *sql = at + strlen(begin), *end = strstr(sql, "```");
    assert_non_null(end);
    *end = '\0';
    if (rows_of(d->db, sql) == 0) fail_msg("finds nothing:\n%s", sql);
    *end = '`';
    at = end + 3;
  }
  assert_int_equal(queries, QUERIES);
}

/* The section under the heading of a table or view. */
static char *section(const char *text, const char *name) {
  char heading[128];
  snprintf(heading, sizeof heading, "\n### `%s`\n", name);
  const char *start = strstr(text, heading);
  if (!start) {
    fail_msg("docs/database.md does not describe %s", name);
    return NULL;
  }
  const char *end = strstr(start + 1, "\n#");
  return strndup(start, end ? (size_t)(end - start) : strlen(start));
}

static void check_columns(struct documented *d, const char *name) {
  char quoted[128], *words = section(d->text, name);
  sqlite3_stmt *s = NULL;
  assert_int_equal(sqlite3_prepare_v2(d->db, "SELECT name FROM pragma_table_info(?)", -1, &s, NULL),
                   SQLITE_OK);
  sqlite3_bind_text(s, 1, name, -1, SQLITE_STATIC);
  while (sqlite3_step(s) == SQLITE_ROW) {
    snprintf(quoted, sizeof quoted, "`%s`", (const char *)sqlite3_column_text(s, 0));
    if (!strstr(words, quoted)) fail_msg("docs/database.md does not describe %s of %s", quoted, name);
  }
  sqlite3_finalize(s);
  free(words);
}

static void every_table_view_and_column_is_documented(void **state) {
  struct documented *d = *state;
  sqlite3_stmt *s = NULL;
  int count = 0;
  assert_int_equal(sqlite3_prepare_v2(d->db, "SELECT name FROM sqlite_master WHERE type IN ('table', 'view')",
                                      -1, &s, NULL),
                   SQLITE_OK);
  for (; sqlite3_step(s) == SQLITE_ROW; count++)
    check_columns(d, (const char *)sqlite3_column_text(s, 0));
  sqlite3_finalize(s);
  assert_true(count >= 20);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(every_documented_query_runs_and_finds_rows, setup, teardown),
      cmocka_unit_test_setup_teardown(every_table_view_and_column_is_documented, setup, teardown),
  };
  return cmocka_run_group_tests_name("documented queries", tests, NULL, NULL);
}
