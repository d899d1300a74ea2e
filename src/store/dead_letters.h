#ifndef STORE_DEAD_LETTERS_H
#define STORE_DEAD_LETTERS_H

/* The table of dead letters, bounded in rows and in bytes of bodies: the oldest make room for the newest.
 * Writer's thread, inside its transactions. */

#include "store/rows.h"

#include <sqlite3.h>

struct dead_letters;

struct dead_letters *dead_letters_create(sqlite3 *db, int64_t rows,
                                         int64_t bytes); /* NULL: see sqlite3_errmsg */
void dead_letters_destroy(struct dead_letters *d);

int dead_letters_write(struct dead_letters *d, const struct dead_letter_row *row); /* SQLite's code */
void dead_letters_committed(struct dead_letters *d);
void dead_letters_rolled_back(struct dead_letters *d);

/* Counts the table again after retention deleted so many, and those as evicted. SQLite's code. */
int dead_letters_expired(struct dead_letters *d, int expired);

uint64_t
dead_letters_evicted(const struct dead_letters *d); /* in committed transactions, since it was created */

#endif
