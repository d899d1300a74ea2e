#ifndef STORE_BIND_H
#define STORE_BIND_H

/* Prepared inserts and a cursor that binds their parameters in order. Writer's thread. */

#include <sqlite3.h>
#include <stddef.h>
#include <stdint.h>

struct bind {
  sqlite3_stmt *statement;
  int at;
};

/* verb: "INSERT OR REPLACE" or "INSERT OR IGNORE"; columns: "a, b, c", one parameter each. Returns SQLite's
 * code. */
int bind_prepare(sqlite3 *db, const char *verb, const char *table, const char *columns,
                 sqlite3_stmt **statement);

struct bind bind_begin(sqlite3_stmt *statement);
void bind_integer(struct bind *b, int64_t value);
void bind_real(struct bind *b, double value);     /* not finite: NULL */
void bind_ms(struct bind *b, double ms);          /* rounded to the microsecond; not finite: NULL */
void bind_text(struct bind *b, const char *text); /* lives until bind_run; NULL: NULL */
void bind_blob(struct bind *b, const void *bytes, size_t size); /* likewise */

int bind_run(struct bind *b); /* executes and resets. SQLITE_OK or SQLite's code */

#endif
