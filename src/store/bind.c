/* The parameter list is counted from the column list, so that a column is added in one place. Texts are bound
 * without a copy: every record outlives the statement's run. */

#include "store/bind.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { SQL_SIZE = 2048 };

int bind_prepare(sqlite3 *db, const char *verb, const char *table, const char *columns,
                 sqlite3_stmt **statement) {
  char sql[SQL_SIZE];
  int n = snprintf(sql, sizeof sql, "%s INTO %s(%s) VALUES(?", verb, table, columns);
  for (const char *comma = columns; (comma = strchr(comma, ',')); comma++)
    n += snprintf(sql + n, sizeof sql - (size_t)n, ",?");
  snprintf(sql + n, sizeof sql - (size_t)n, ")");
  return sqlite3_prepare_v3(db, sql, -1, SQLITE_PREPARE_PERSISTENT, statement, NULL);
}

struct bind bind_begin(sqlite3_stmt *statement) {
  return (struct bind){.statement = statement, .at = 1};
}

void bind_integer(struct bind *b, int64_t value) {
  sqlite3_bind_int64(b->statement, b->at++, value);
}

void bind_real(struct bind *b, double value) {
  if (isfinite(value))
    sqlite3_bind_double(b->statement, b->at++, value);
  else
    sqlite3_bind_null(b->statement, b->at++);
}

void bind_ms(struct bind *b, double ms) {
  bind_real(b, round(ms * 1000.0) / 1000.0);
}

void bind_text(struct bind *b, const char *text) {
  sqlite3_bind_text(b->statement, b->at++, text, -1, SQLITE_STATIC);
}

void bind_blob(struct bind *b, const void *bytes, size_t size) {
  sqlite3_bind_blob64(b->statement, b->at++, bytes, size, SQLITE_STATIC);
}

int bind_run(struct bind *b) {
  int rc = sqlite3_step(b->statement);
  int reset = sqlite3_reset(b->statement);
  return rc == SQLITE_DONE ? SQLITE_OK : reset != SQLITE_OK ? reset : rc;
}
