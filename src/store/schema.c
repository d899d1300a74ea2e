/* The schema grows by steps: step n takes a file of version n to n + 1, and PRAGMA user_version remembers
 * where a file stands. A step that was released is never edited; a change is a new step. Columns are named as
 * users would ask for them, times are Unix milliseconds, booleans 0 or 1, and SQL's own words (from, to,
 * limit) are avoided. Nothing here has CHECKs or foreign keys: the loop is the only writer, and a row that
 * arrives must never be refused. */

#include "store/schema.h"

#include <errno.h>
#include <stdio.h>

static const char tables_of_decisions[] =
    "CREATE TABLE ledger("
    "id INTEGER PRIMARY KEY, wall_ms INTEGER NOT NULL, kind TEXT, name TEXT,"
    " from_value REAL, to_value REAL, least REAL, most REAL, steps INTEGER, last_ms INTEGER,"
    " actor TEXT, reason TEXT, evidence TEXT, snapshot_before TEXT, snapshot_after TEXT, trial INTEGER);"
    "CREATE INDEX ledger_by_name ON ledger(name, id);"
    "CREATE TABLE judgements("
    "ledger_id INTEGER PRIMARY KEY, wall_ms INTEGER NOT NULL, outcome TEXT,"
    " effect REAL, low REAL, high REAL, words TEXT);"
    "CREATE TABLE snapshots("
    "id TEXT PRIMARY KEY, parent TEXT, wall_ms INTEGER NOT NULL, author TEXT, message TEXT, config TEXT);"
    "CREATE INDEX snapshots_by_time ON snapshots(wall_ms);"
    "CREATE TABLE scores("
    "snapshot TEXT PRIMARY KEY, wall_ms INTEGER NOT NULL, requests INTEGER,"
    " utility REAL, in_target REAL, quality REAL, usd_per_request REAL);"
    "CREATE TABLE experiments("
    "id INTEGER PRIMARY KEY, name TEXT, tunable TEXT, status TEXT, control REAL, treatment REAL,"
    " started_ms INTEGER NOT NULL, ended_ms INTEGER, control_units INTEGER, treatment_units INTEGER,"
    " effect REAL, low REAL, high REAL, p_value REAL, verdict TEXT, spec TEXT, state TEXT);"
    "CREATE INDEX experiments_by_name ON experiments(name, id);"
    "CREATE TABLE anomalies("
    "id INTEGER PRIMARY KEY, opened_ms INTEGER NOT NULL, closed_ms INTEGER, metric TEXT, provider TEXT,"
    " severity TEXT, value REAL, expected REAL, score REAL, message TEXT);"
    "CREATE TABLE tunable_values("
    "name TEXT PRIMARY KEY, value REAL, file_value REAL, hold_until_ms INTEGER, author TEXT);"
    "CREATE TABLE learned(name TEXT PRIMARY KEY, wall_ms INTEGER NOT NULL, json TEXT);"
    "CREATE TABLE meta(name TEXT PRIMARY KEY, value);"
    "CREATE TABLE providers(position INTEGER PRIMARY KEY, name TEXT NOT NULL);"
    "CREATE TABLE routes(position INTEGER PRIMARY KEY, name TEXT NOT NULL);";

static const char tables_of_traffic[] =
    "CREATE TABLE requests(id INTEGER PRIMARY KEY, wall_ms INTEGER NOT NULL, route TEXT, provider "
    "TEXT, kind TEXT, propensity REAL, queued_ms REAL, ttft_ms REAL, tpot_ms REAL, total_ms REAL, "
    "tokens_in INTEGER, tokens_out INTEGER, cost_usd REAL, attempts INTEGER, tried TEXT, in_target "
    "INTEGER, explored INTEGER, coalesced INTEGER, treated INTEGER, stream INTEGER, priority TEXT, "
    "session INTEGER, tenant INTEGER);"
    "CREATE INDEX requests_by_time ON requests(wall_ms);"
    "CREATE TABLE rewards(request INTEGER PRIMARY KEY, wall_ms INTEGER NOT NULL, value REAL, source "
    "TEXT);"
    "CREATE INDEX rewards_by_time ON rewards(wall_ms);"
    "CREATE TABLE frames(id INTEGER PRIMARY KEY, number INTEGER, wall_ms INTEGER NOT NULL, dt_s REAL, "
    "received INTEGER, refused INTEGER, limited INTEGER, admitted INTEGER, answered INTEGER, "
    "dead_lettered INTEGER, client_gone INTEGER, coalesced INTEGER, in_target INTEGER, in_flight "
    "INTEGER, bytes_in_flight INTEGER, usd REAL, wait_critical_ms REAL, wait_high_ms REAL, "
    "wait_normal_ms REAL, wait_low_ms REAL);"
    "CREATE INDEX frames_by_time ON frames(wall_ms);"
    "CREATE TABLE frame_stages(frame INTEGER NOT NULL, stage TEXT NOT NULL, arrivals INTEGER, "
    "completions INTEGER, sheds INTEGER, depth INTEGER, capacity INTEGER, sojourn_p50_ms REAL, "
    "sojourn_p95_ms REAL, PRIMARY KEY(frame, stage)) WITHOUT ROWID;"
    "CREATE TABLE frame_providers(frame INTEGER NOT NULL, provider TEXT NOT NULL, attempts INTEGER, "
    "successes INTEGER, failures INTEGER, timeouts INTEGER, throttled INTEGER, rejected INTEGER, "
    "cancelled INTEGER, retries INTEGER, fallbacks INTEGER, limit_refusals INTEGER, tokens_in INTEGER, "
    "tokens_out INTEGER, usd REAL, in_flight INTEGER, tokens_in_flight INTEGER, concurrency_limit "
    "INTEGER, instances_ready INTEGER, instances_starting INTEGER, breaker TEXT, cooling INTEGER, "
    "ttft_count INTEGER, ttft_mean_ms REAL, ttft_p50_ms REAL, ttft_p95_ms REAL, tpot_count INTEGER, "
    "tpot_mean_ms REAL, tpot_p50_ms REAL, tpot_p95_ms REAL, PRIMARY KEY(frame, provider)) WITHOUT "
    "ROWID;"
    "CREATE TABLE dead_letters(number INTEGER PRIMARY KEY, request INTEGER UNIQUE, wall_ms INTEGER NOT "
    "NULL, id_text TEXT, route TEXT, provider TEXT, reason TEXT, detail TEXT, status INTEGER, attempts "
    "INTEGER, priority TEXT, stream INTEGER, session INTEGER, tenant INTEGER, body BLOB);"
    "CREATE INDEX dead_letters_by_id ON dead_letters(id_text);"
    "CREATE INDEX dead_letters_by_time ON dead_letters(wall_ms);";

static const char views[] =
    "CREATE VIEW changes AS SELECT l.id, datetime(l.wall_ms / 1000, 'unixepoch') AS time, l.kind, "
    "l.name, l.from_value, l.to_value, l.least, l.most, l.steps, l.actor, l.reason, l.evidence, "
    "l.snapshot_before, l.snapshot_after, l.trial, j.outcome, j.effect, j.low, j.high, j.words AS "
    "judgement, datetime(j.wall_ms / 1000, 'unixepoch') AS judged, l.wall_ms FROM ledger l LEFT JOIN "
    "judgements j ON j.ledger_id = l.id;"
    "CREATE VIEW current AS SELECT v.name, v.value, v.file_value, v.hold_until_ms > 1000 * "
    "CAST(strftime('%s', 'now') AS INTEGER) AS held, CASE WHEN v.hold_until_ms = 9223372036854775807 "
    "THEN 'until released' WHEN v.hold_until_ms > 0 THEN datetime(v.hold_until_ms / 1000, 'unixepoch') "
    "END AS held_until, v.author, datetime(l.wall_ms / 1000, 'unixepoch') AS changed, l.actor, "
    "l.reason, l.id AS ledger_id FROM tunable_values v LEFT JOIN ledger l ON l.id = (SELECT max(id) "
    "FROM ledger WHERE name = v.name AND kind <> 'note');"
    "CREATE VIEW snapshot_scores AS SELECT s.id, datetime(s.wall_ms / 1000, 'unixepoch') AS time, "
    "s.parent, s.author, s.message, s.id = (SELECT value FROM meta WHERE meta.name = 'head') AS head, "
    "c.requests, c.utility, c.in_target, c.quality, c.usd_per_request, s.wall_ms FROM snapshots s LEFT "
    "JOIN scores c ON c.snapshot = s.id;"
    "CREATE VIEW requests_view AS SELECT printf('chatcmpl-%016x', r.id) AS request, "
    "datetime(r.wall_ms / 1000, 'unixepoch') AS time, r.route, r.provider, r.kind, r.total_ms, r.ttft_ms, "
    "r.tpot_ms, r.queued_ms, r.tokens_in, "
    "r.tokens_out, r.cost_usd, r.attempts, r.tried, r.in_target, r.explored, r.propensity, r.coalesced, "
    "r.treated, r.stream, r.priority, printf('%016x', r.session) AS session, printf('%016x', r.tenant) "
    "AS tenant, w.value AS reward, w.source AS reward_source, r.wall_ms FROM requests r LEFT JOIN "
    "rewards w ON w.request = r.id;"
    "CREATE VIEW hourly AS SELECT strftime('%Y-%m-%d %H:00', r.wall_ms / 1000, 'unixepoch') AS hour, "
    "r.provider, count(*) AS requests, avg(r.kind = 'answered') AS answered_share, avg(r.in_target) AS "
    "in_target_share, avg(r.ttft_ms) AS mean_ttft_ms, avg(r.total_ms) AS mean_total_ms, "
    "sum(r.tokens_in) AS tokens_in, sum(r.tokens_out) AS tokens_out, sum(r.cost_usd) AS usd, "
    "count(w.value) AS rewards, avg(w.value) AS mean_reward FROM requests r LEFT JOIN rewards w ON "
    "w.request = r.id GROUP BY 1, 2;"
    "CREATE VIEW experiments_view AS SELECT id, name, tunable, status, control, treatment, "
    "datetime(started_ms / 1000, 'unixepoch') AS started, CASE WHEN ended_ms > 0 THEN datetime(ended_ms "
    "/ 1000, 'unixepoch') END AS ended, control_units, treatment_units, effect, low, high, p_value, "
    "verdict FROM experiments;"
    "CREATE VIEW incidents AS SELECT id, datetime(opened_ms / 1000, 'unixepoch') AS opened, CASE WHEN "
    "closed_ms > 0 THEN datetime(closed_ms / 1000, 'unixepoch') END AS closed, CASE WHEN closed_ms > 0 "
    "THEN (closed_ms - opened_ms) / 1000.0 END AS seconds, severity, metric, provider, value, expected, "
    "score, message FROM anomalies;"
    "CREATE VIEW dead_letters_view AS SELECT id_text AS request, datetime(wall_ms / 1000, 'unixepoch') "
    "AS time, route, provider, reason, detail, status, attempts, priority, stream, length(body) AS "
    "body_bytes, wall_ms FROM dead_letters;";

static const char *const first_step[] = {tables_of_decisions, tables_of_traffic, views, NULL};

static const char *const second_step[] = {
    "ALTER TABLE dead_letters ADD COLUMN path TEXT;", "DROP VIEW dead_letters_view;",
    "CREATE VIEW dead_letters_view AS SELECT id_text AS request, datetime(wall_ms / 1000, 'unixepoch') "
    "AS time, route, provider, reason, detail, status, attempts, priority, stream, path, length(body) AS "
    "body_bytes, wall_ms FROM dead_letters;",
    NULL};

/* Of an episode, changes tells the last step, too, and current goes by it: that is since when the value
 * holds. */
static const char *const third_step[] = {
    "DROP VIEW changes;",
    "CREATE VIEW changes AS SELECT l.id, datetime(l.wall_ms / 1000, 'unixepoch') AS time, l.kind, "
    "l.name, l.from_value, l.to_value, l.least, l.most, l.steps, l.actor, l.reason, l.evidence, "
    "l.snapshot_before, l.snapshot_after, l.trial, j.outcome, j.effect, j.low, j.high, j.words AS "
    "judgement, datetime(j.wall_ms / 1000, 'unixepoch') AS judged, l.wall_ms, max(l.wall_ms, "
    "coalesce(l.last_ms, 0)) AS last_ms FROM ledger l LEFT JOIN judgements j ON j.ledger_id = l.id;",
    "DROP VIEW current;",
    "CREATE VIEW current AS SELECT v.name, v.value, v.file_value, v.hold_until_ms > 1000 * "
    "CAST(strftime('%s', 'now') AS INTEGER) AS held, CASE WHEN v.hold_until_ms = 9223372036854775807 "
    "THEN 'until released' WHEN v.hold_until_ms > 0 THEN datetime(v.hold_until_ms / 1000, 'unixepoch') "
    "END AS held_until, v.author, datetime(max(l.wall_ms, coalesce(l.last_ms, 0)) / 1000, 'unixepoch') AS "
    "changed, l.actor, l.reason, l.id AS ledger_id FROM tunable_values v LEFT JOIN ledger l ON l.id = "
    "(SELECT max(id) FROM ledger WHERE name = v.name AND kind <> 'note');",
    NULL};

static const char *const *const steps[] = {first_step, second_step, third_step};

enum { VERSION = sizeof steps / sizeof steps[0] };

int schema_version(void) {
  return VERSION;
}

static int read_number(sqlite3 *db, const char *sql, int *number) {
  sqlite3_stmt *s = NULL;
  int rc = sqlite3_prepare_v2(db, sql, -1, &s, NULL);
  if (rc == SQLITE_OK && (rc = sqlite3_step(s)) == SQLITE_ROW) {
    *number = sqlite3_column_int(s, 0);
    rc = SQLITE_OK;
  }
  sqlite3_finalize(s);
  return rc;
}

static int run_step(sqlite3 *db, int version) {
  char stamp[96];
  snprintf(stamp, sizeof stamp, "PRAGMA user_version=%d; PRAGMA application_id=%d; COMMIT", version + 1,
           SCHEMA_APPLICATION_ID);
  int rc = sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL);
  for (const char *const *sql = steps[version]; *sql && rc == SQLITE_OK; sql++)
    rc = sqlite3_exec(db, *sql, NULL, NULL, NULL);
  if (rc == SQLITE_OK) rc = sqlite3_exec(db, stamp, NULL, NULL, NULL);
  return rc;
}

static int migrate(sqlite3 *db, const char *path, char *error, size_t error_size) {
  int version = 0, application = 0, objects = 0;
  if (read_number(db, "PRAGMA user_version", &version) ||
      read_number(db, "PRAGMA application_id", &application) ||
      read_number(db, "SELECT count(*) FROM sqlite_master", &objects))
    return -EIO;
  if (objects > 0 && application != SCHEMA_APPLICATION_ID) {
    snprintf(error, error_size, "%s is a database of another program: choose another path in [store]", path);
    return -EINVAL;
  }
  if (version > VERSION) {
    snprintf(error, error_size,
             "%s was written by a newer self-improve (schema %d, this one knows %d): install that version "
             "again, or "
             "move the file away to begin a new one",
             path, version, VERSION);
    return -EINVAL;
  }
  for (; version < VERSION; version++)
    if (run_step(db, version) != SQLITE_OK) return -EIO;
  return 0;
}

int schema_migrate(sqlite3 *db, const char *path, char *error, size_t error_size) {
  int status = migrate(db, path, error, error_size);
  if (status == -EIO) snprintf(error, error_size, "%s: %s", path, sqlite3_errmsg(db));
  if (!sqlite3_get_autocommit(db)) sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL);
  return status;
}
