/* Ties the parts together: lock, file, the names of the running configuration, writer. The sink is a row of
 * thin functions that copy a row into a record and put it; see writer.c for what happens then. */

#include "store/store.h"

#include "store/file.h"
#include "store/load.h"
#include "store/writer.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OUTCOMES_A_RECORD = 512, LOAD_BUSY_MS = 5000 };

struct store {
  struct store_options options; /* path is ours */
  char *path;
  int lock;
  struct writer *writer;
  _Atomic uint64_t unrecorded; /* telemetry rows that found no memory */
  _Atomic int refused;         /* -errno of a decision that was refused since the last commit */
};

/* The names of now, by position, so that a reader can tell which provider of this run a stored name means. */
static int write_names(sqlite3 *db, const char *table, const char *const *names, unsigned count) {
  char sql[96];
  sqlite3_stmt *s = NULL;
  snprintf(sql, sizeof sql, "DELETE FROM %s", table);
  int rc = sqlite3_exec(db, sql, NULL, NULL, NULL);
  snprintf(sql, sizeof sql, "INSERT INTO %s(position, name) VALUES(?, ?)", table);
  if (rc == SQLITE_OK) rc = sqlite3_prepare_v2(db, sql, -1, &s, NULL);
  for (unsigned i = 0; i < count && rc == SQLITE_OK; i++) {
    sqlite3_bind_int64(s, 1, i);
    sqlite3_bind_text(s, 2, names[i], -1, SQLITE_STATIC);
    sqlite3_step(s);
    rc = sqlite3_reset(s);
  }
  sqlite3_finalize(s);
  return rc;
}

/* What was under way when the daemon stopped is over, as far as anybody can know. */
static int close_incidents(sqlite3 *db) {
  return sqlite3_exec(db,
                      "UPDATE anomalies SET message = message || '; still open when the daemon stopped', "
                      "closed_ms = max(opened_ms, coalesce((SELECT max(wall_ms) FROM frames), 0)) "
                      "WHERE coalesce(closed_ms, 0) = 0",
                      NULL, NULL, NULL);
}

static int begin_run(sqlite3 *db, const struct store_options *o) {
  int rc = sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL);
  if (rc == SQLITE_OK) rc = write_names(db, "providers", o->provider_names, o->provider_count);
  if (rc == SQLITE_OK) rc = write_names(db, "routes", o->route_names, o->route_count);
  if (rc == SQLITE_OK) rc = close_incidents(db);
  if (rc == SQLITE_OK) rc = sqlite3_exec(db, "COMMIT", NULL, NULL, NULL);
  return rc;
}

static struct writer *open_writer(struct store *s, char *error, size_t error_size) {
  sqlite3 *db = file_open(s->path, error, error_size);
  if (!db) return NULL;
  struct writer *w = NULL;
  if (begin_run(db, &s->options) == SQLITE_OK) w = writer_create(db, &s->options);
  if (w) return w;
  snprintf(error, error_size, "%s cannot be written: %s%s", s->path, sqlite3_errmsg(db),
           file_advice(sqlite3_errcode(db)));
  sqlite3_close(db);
  return NULL;
}

struct store *store_open(const struct store_options *options, char *error, size_t error_size) {
  struct store *s = calloc(1, sizeof *s);
  char *path = strdup(options->path);
  if (!s || !path) {
    snprintf(error, error_size, "out of memory");
    free(s);
    free(path);
    return NULL;
  }
  s->options = *options;
  s->options.path = s->path = path;
  s->lock = file_lock(path, error, error_size);
  if (s->lock >= 0) s->writer = open_writer(s, error, error_size);
  if (s->writer) return s;
  store_close(s);
  return NULL;
}

void store_close(struct store *s) {
  if (!s) return;
  writer_destroy(s->writer);
  if (s->lock >= 0) close(s->lock);
  free(s->path);
  free(s);
}

bool store_health(const struct store *s, const char **why) {
  return writer_health(s->writer, why);
}

uint64_t store_dropped(const struct store *s) {
  return writer_dropped(s->writer) + s->unrecorded;
}

uint64_t store_dead_letters_evicted(const struct store *s) {
  return writer_evicted(s->writer);
}

int store_load(struct store *s, struct store_state *state) {
  sqlite3 *db = NULL;
  int rc = sqlite3_open_v2(s->path, &db, SQLITE_OPEN_READONLY | SQLITE_OPEN_NOMUTEX, NULL);
  sqlite3_busy_timeout(db, LOAD_BUSY_MS);
  int status = rc == SQLITE_OK ? load_state(db, state) : -EIO;
  sqlite3_close(db);
  return status;
}

/* The sink. */

static int put(void *ctx, enum record_kind kind, const void *row) {
  struct store *s = ctx;
  struct record *record = record_make(kind, row);
  int status = record ? writer_put(s->writer, record) : -ENOMEM;
  if (status != 0 && record_is_decision(kind)) s->refused = status;
  return status;
}

static int put_ledger(void *ctx, const struct ledger_row *row) {
  return put(ctx, RECORD_LEDGER, row);
}

static int put_judgement(void *ctx, const struct judgement_row *row) {
  return put(ctx, RECORD_JUDGEMENT, row);
}

static int put_snapshot(void *ctx, const struct snapshot_row *row) {
  return put(ctx, RECORD_SNAPSHOT, row);
}

static int put_score(void *ctx, const struct score_row *row) {
  return put(ctx, RECORD_SCORE, row);
}

static int put_experiment(void *ctx, const struct experiment_row *row) {
  return put(ctx, RECORD_EXPERIMENT, row);
}

static int put_anomaly(void *ctx, const struct anomaly_row *row) {
  return put(ctx, RECORD_ANOMALY, row);
}

static int put_value(void *ctx, const struct value_row *row) {
  return put(ctx, RECORD_VALUE, row);
}

static int put_reward(void *ctx, const struct reward_row *row) {
  return put(ctx, RECORD_REWARD, row);
}

static int put_learned(void *ctx, const char *name, const char *json, int64_t wall_ms) {
  return put(ctx, RECORD_LEARNED, &(struct learned_row){.name = name, .json = json, .wall_ms = wall_ms});
}

static int put_dead_letter(void *ctx, const struct dead_letter_row *row) {
  const struct store *s = ctx;
  if (s->options.dead_letter_rows <= 0) return -EOPNOTSUPP;
  if (row->body && (int64_t)row->body_size > s->options.dead_letter_bytes) return -EMSGSIZE;
  return put(ctx, RECORD_DEAD_LETTER, row);
}

static int put_telemetry(struct store *s, struct record *record, size_t rows) {
  if (record) return writer_put(s->writer, record);
  s->unrecorded += rows;
  return -ENOMEM;
}

static int put_frame(void *ctx, const struct frame *frame) {
  return put_telemetry(ctx, record_make(RECORD_FRAME, frame), 1);
}

static int put_outcomes(void *ctx, const struct outcome *outcomes, size_t count, int64_t now_ns,
                        int64_t wall_ms) {
  int status = 0;
  for (size_t n; count > 0; outcomes += n, count -= n) {
    n = count < OUTCOMES_A_RECORD ? count : OUTCOMES_A_RECORD;
    int rc = put_telemetry(ctx, record_outcomes(outcomes, n, now_ns, wall_ms), n);
    if (status == 0) status = rc;
  }
  return status;
}

static int commit(void *ctx) {
  struct store *s = ctx;
  int refused = atomic_exchange(&s->refused, 0), status = writer_commit(s->writer);
  return status != 0 ? status : refused;
}

struct store_sink store_sink(struct store *store) {
  return (struct store_sink){
      .ctx = store,
      .ledger = put_ledger,
      .judgement = put_judgement,
      .snapshot = put_snapshot,
      .score = put_score,
      .experiment = put_experiment,
      .anomaly = put_anomaly,
      .value = put_value,
      .learned = put_learned,
      .reward = put_reward,
      .frame = put_frame,
      .outcomes = put_outcomes,
      .dead_letter = put_dead_letter,
      .commit = commit,
  };
}
