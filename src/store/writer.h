#ifndef STORE_WRITER_H
#define STORE_WRITER_H

/* The one thread that writes, behind two bounded lanes: telemetry, which is dropped and counted when its lane
 * is full, and everything else, which is kept and tried again until it is written. */

#include "store/record.h"
#include "store/store.h"

#include <sqlite3.h>

struct writer;

enum {
  WRITER_TELEMETRY_BYTES = 16 << 20, /* waiting at most */
  WRITER_DURABLE_BYTES = 64 << 20,
};

/* Takes db over on success; options outlive the writer. NULL: no memory or no thread, or the schema does not
 * fit (sqlite3_errmsg). */
struct writer *writer_create(sqlite3 *db, const struct store_options *options);

/* Writes what waits, for at most some ten seconds, closes the database. NULL is fine. */
void writer_destroy(struct writer *w);

/* Any thread, never waits. Takes the record over in every case. 0; -ENOSPC when its lane is full; -ESHUTDOWN.
 */
int writer_put(struct writer *w, struct record *record);

/* Any thread. Waits until all that was put before is on disk. 0; -EBUSY, -ENOSPC, -EROFS, -EIO or -ETIMEDOUT
 * after at most WRITER_COMMIT_NS. What waits then is still tried again. */
int writer_commit(struct writer *w);

#define WRITER_COMMIT_NS (10 * NS_PER_S)

bool writer_health(const struct writer *w, const char **why);
uint64_t writer_dropped(const struct writer *w);
uint64_t writer_evicted(const struct writer *w);

#endif
