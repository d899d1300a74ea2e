/* A step deletes the oldest rows by the index on time, so its cost does not depend on the size of the table;
 * it is its own transaction, so rows that wait to be written wait no longer than one step. The parts of a
 * frame go before the frame, because they are found through it. */

#include "store/retention.h"

#include <stdlib.h>

#define MS_PER_DAY INT64_C(86400000)

enum target { FRAME_STAGES, FRAME_PROVIDERS, FRAMES, REQUESTS, REWARDS, DEAD_LETTERS, TARGETS };

#define OLDEST(key, table) "(SELECT " key " FROM " table " WHERE wall_ms < ?1 ORDER BY wall_ms LIMIT ?2)"

static const char *const texts[TARGETS] = {
    [FRAME_STAGES] = "DELETE FROM frame_stages WHERE frame IN " OLDEST("id", "frames"),
    [FRAME_PROVIDERS] = "DELETE FROM frame_providers WHERE frame IN " OLDEST("id", "frames"),
    [FRAMES] = "DELETE FROM frames WHERE id IN " OLDEST("id", "frames"),
    [REQUESTS] = "DELETE FROM requests WHERE id IN " OLDEST("id", "requests"),
    [REWARDS] = "DELETE FROM rewards WHERE request IN " OLDEST("request", "rewards"),
    [DEAD_LETTERS] = "DELETE FROM dead_letters WHERE number IN " OLDEST("number", "dead_letters"),
};

struct retention {
  sqlite3 *db;
  sqlite3_stmt *statements[TARGETS];
  int64_t frame_days, request_days;
};

struct retention *retention_create(sqlite3 *db, int64_t frame_days, int64_t request_days) {
  struct retention *r = calloc(1, sizeof *r);
  if (!r) return NULL;
  *r = (struct retention){.db = db, .frame_days = frame_days, .request_days = request_days};
  for (int t = 0; t < TARGETS; t++)
    if (sqlite3_prepare_v3(db, texts[t], -1, SQLITE_PREPARE_PERSISTENT, &r->statements[t], NULL) !=
        SQLITE_OK) {
      retention_destroy(r);
      return NULL;
    }
  return r;
}

void retention_destroy(struct retention *r) {
  if (!r) return;
  for (int t = 0; t < TARGETS; t++)
    sqlite3_finalize(r->statements[t]);
  free(r);
}

static int delete_oldest(struct retention *r, enum target target, int64_t before_ms, int *deleted) {
  sqlite3_stmt *s = r->statements[target];
  sqlite3_bind_int64(s, 1, before_ms);
  sqlite3_bind_int64(s, 2, RETENTION_ROWS);
  int rc = sqlite3_step(s);
  int reset = sqlite3_reset(s);
  if (rc != SQLITE_DONE) return reset != SQLITE_OK ? reset : rc;
  *deleted = sqlite3_changes(r->db);
  return SQLITE_OK;
}

static int delete_all(struct retention *r, int64_t wall_ms, bool *more, int *letters) {
  int rc = SQLITE_OK;
  for (int t = 0; t < TARGETS && rc == SQLITE_OK; t++) {
    int64_t days = t <= FRAMES ? r->frame_days : r->request_days;
    int deleted = 0;
    if (days <= 0) continue;
    rc = delete_oldest(r, (enum target)t, wall_ms - days * MS_PER_DAY, &deleted);
    if (t >= FRAMES && deleted == RETENTION_ROWS) *more = true;
    if (t == DEAD_LETTERS) *letters = deleted;
  }
  return rc;
}

int retention_step(struct retention *r, int64_t wall_ms, bool *more, int *letters) {
  *more = false;
  *letters = 0;
  int rc = sqlite3_exec(r->db, "BEGIN IMMEDIATE", NULL, NULL, NULL);
  if (rc == SQLITE_OK) rc = delete_all(r, wall_ms, more, letters);
  if (rc == SQLITE_OK) rc = sqlite3_exec(r->db, "COMMIT", NULL, NULL, NULL);
  if (!sqlite3_get_autocommit(r->db)) sqlite3_exec(r->db, "ROLLBACK", NULL, NULL, NULL);
  return rc;
}
