#ifndef STORE_INSERT_H
#define STORE_INSERT_H

/* Writes records through prepared statements, inside a transaction that the caller opens and ends. Writer's
 * thread. */

#include "store/record.h"
#include "store/store.h"

#include <sqlite3.h>

struct inserts;

/* NULL: no memory, or the schema is not what it should be (sqlite3_errmsg). options outlive it. */
struct inserts *inserts_create(sqlite3 *db, const struct store_options *options);
void inserts_destroy(struct inserts *inserts);

/* SQLITE_OK or SQLite's code. */
int inserts_write(struct inserts *inserts, const struct record *record);

/* A write that changes nothing users see: gives an empty transaction something to sync. */
int inserts_touch(struct inserts *inserts);

/* Tells how the transaction ended, for what is counted along the way. */
void inserts_committed(struct inserts *inserts);
void inserts_rolled_back(struct inserts *inserts);

/* Dead letters that made room or whose days were over, in all. */
uint64_t inserts_evicted(const struct inserts *inserts);

/* Retention has deleted so many dead letters. */
int inserts_expired(struct inserts *inserts, int dead_letters);

#endif
