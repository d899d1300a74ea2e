#ifndef STORE_RETENTION_H
#define STORE_RETENTION_H

/* Deletes what is older than its days, a small step at a time. Writer's thread, outside its transactions. */

#include <sqlite3.h>
#include <stdbool.h>
#include <stdint.h>

struct retention;

/* Days of frames, and of requests with their rewards and dead letters; 0 keeps them for ever. NULL:
 * sqlite3_errmsg. */
struct retention *retention_create(sqlite3 *db, int64_t frame_days, int64_t request_days);
void retention_destroy(struct retention *r);

/* One step of at most RETENTION_ROWS of each table. Returns SQLite's code; *more says whether old rows may be
 * left, *letters how many dead letters went. */
int retention_step(struct retention *r, int64_t wall_ms, bool *more, int *letters);

enum { RETENTION_ROWS = 1000 };

#endif
