/* How full the table is, is counted along and read once at the start. What a transaction changes counts only
 * once it is committed, so two copies: `now`, and `kept` to fall back to. */

#include "store/dead_letters.h"

#include "bus/counters.h"
#include "store/bind.h"

#include <stdlib.h>

struct fill {
  int64_t rows, bytes;
  uint64_t evicted;
};

struct dead_letters {
  sqlite3_stmt *insert, *evict, *count;
  int64_t rows, bytes;
  struct fill now, kept;
};

static const char columns[] =
    "request, wall_ms, id_text, route, provider, reason, detail, status, attempts, priority, "
    "stream, session, tenant, path, body";

static const char evict_sql[] =
    "DELETE FROM dead_letters WHERE number = (SELECT min(number) FROM dead_letters) "
    "RETURNING ifnull(length(body), 0)";

static const char count_sql[] = "SELECT count(*), ifnull(sum(length(body)), 0) FROM dead_letters";

struct dead_letters *dead_letters_create(sqlite3 *db, int64_t rows, int64_t bytes) {
  struct dead_letters *d = calloc(1, sizeof *d);
  if (!d) return NULL;
  d->rows = rows;
  d->bytes = bytes;
  if (bind_prepare(db, "INSERT OR IGNORE", "dead_letters", columns, &d->insert) == SQLITE_OK &&
      sqlite3_prepare_v3(db, evict_sql, -1, SQLITE_PREPARE_PERSISTENT, &d->evict, NULL) == SQLITE_OK &&
      sqlite3_prepare_v3(db, count_sql, -1, SQLITE_PREPARE_PERSISTENT, &d->count, NULL) == SQLITE_OK &&
      dead_letters_expired(d, 0) == SQLITE_OK)
    return d;
  dead_letters_destroy(d);
  return NULL;
}

void dead_letters_destroy(struct dead_letters *d) {
  if (!d) return;
  sqlite3_finalize(d->insert);
  sqlite3_finalize(d->evict);
  sqlite3_finalize(d->count);
  free(d);
}

int dead_letters_expired(struct dead_letters *d, int expired) {
  int rc = sqlite3_step(d->count);
  if (rc == SQLITE_ROW) {
    d->now.rows = sqlite3_column_int64(d->count, 0);
    d->now.bytes = sqlite3_column_int64(d->count, 1);
    d->now.evicted += (uint64_t)expired;
    d->kept = d->now;
    rc = SQLITE_OK;
  }
  sqlite3_reset(d->count);
  return rc;
}

static int evict_oldest(struct dead_letters *d) {
  int rc = sqlite3_step(d->evict);
  if (rc == SQLITE_ROW) {
    d->now.rows--;
    d->now.bytes -= sqlite3_column_int64(d->evict, 0);
    d->now.evicted++;
    rc = sqlite3_step(d->evict);
  }
  int reset = sqlite3_reset(d->evict);
  return rc == SQLITE_DONE ? SQLITE_OK : reset != SQLITE_OK ? reset : rc;
}

static int insert(struct dead_letters *d, const struct dead_letter_row *row) {
  struct bind b = bind_begin(d->insert);
  bind_integer(&b, (int64_t)row->request);
  bind_integer(&b, row->wall_ms);
  bind_text(&b, row->id_text);
  bind_text(&b, row->route);
  bind_text(&b, row->provider);
  bind_text(&b, row->reason);
  bind_text(&b, row->detail);
  bind_integer(&b, row->status);
  bind_integer(&b, row->attempts);
  bind_text(&b, row->priority >= 0 && row->priority < PRIORITIES ? priority_name((enum priority)row->priority)
                                                                 : NULL);
  bind_integer(&b, row->stream);
  bind_integer(&b, (int64_t)row->session);
  bind_integer(&b, (int64_t)row->tenant);
  bind_text(&b, row->path);
  bind_blob(&b, row->body, row->body_size);
  return bind_run(&b);
}

int dead_letters_write(struct dead_letters *d, const struct dead_letter_row *row) {
  int rc = insert(d, row);
  if (rc != SQLITE_OK || sqlite3_changes(sqlite3_db_handle(d->insert)) == 0) return rc;
  d->now.rows++;
  d->now.bytes += row->body ? (int64_t)row->body_size : 0;
  while (rc == SQLITE_OK && d->now.rows > 0 && (d->now.rows > d->rows || d->now.bytes > d->bytes))
    rc = evict_oldest(d);
  return rc;
}

void dead_letters_committed(struct dead_letters *d) {
  d->kept = d->now;
}

void dead_letters_rolled_back(struct dead_letters *d) {
  d->now = d->kept;
}

uint64_t dead_letters_evicted(const struct dead_letters *d) {
  return d->kept.evicted;
}
