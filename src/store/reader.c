/* Every query is one prepared statement whose column names are the keys of the answer; json.h says how a
 * column becomes a value. Single rows are found first (which snapshot, which experiment), then read by their
 * key. The connection is read-only: under a write-ahead log it sees the last commit and blocks nobody. */

#include "store/store.h"

#include "store/json.h"
#include "store/schema.h"

#include <cjson/cJSON.h>
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BUSY_MS = 2000, PREFIX_LEAST = 6, HEX_DIGITS = 16, LONGEST_TEXT = 256 };

#define LEDGER_COLUMNS                                                                                       \
  "SELECT l.id, l.wall_ms, l.kind, l.name, l.from_value AS \"from\", l.to_value AS \"to\", l.least, "        \
  "l.most, "                                                                                                 \
  "l.steps AS count, l.last_ms, l.actor, l.reason, l.evidence AS \"evidence:json\", l.snapshot_before, "     \
  "l.snapshot_after, l.trial, CASE WHEN j.ledger_id IS NOT NULL THEN json_object('outcome', j.outcome, "     \
  "'wall_ms', j.wall_ms, 'effect', j.effect, 'low', j.low, 'high', j.high, 'words', j.words) END "           \
  "AS \"judgement:json\" FROM ledger l LEFT JOIN judgements j ON j.ledger_id = l.id "

#define SNAPSHOT_COLUMNS                                                                                     \
  "s.id, s.parent, s.wall_ms, s.author, s.message, s.id = (SELECT value FROM meta WHERE name = 'head') "     \
  "AS \"head:bool\", CASE WHEN c.snapshot IS NOT NULL THEN json_object('wall_ms', c.wall_ms, 'requests', "   \
  "c.requests, 'utility', c.utility, 'in_target', c.in_target, 'quality', c.quality, 'usd_per_request', "    \
  "c.usd_per_request) END AS \"score:json\""

#define SNAPSHOT_TABLES " FROM snapshots s LEFT JOIN scores c ON c.snapshot = s.id "

#define EXPERIMENT_COLUMNS                                                                                   \
  "id, name, tunable, status, control, treatment, started_ms, nullif(ended_ms, 0) AS ended_ms, "             \
  "control_units, "                                                                                          \
  "treatment_units, effect, low, high, p_value, verdict, spec AS \"spec:json\""

#define LETTER_COLUMNS                                                                                       \
  "id_text AS request_id, wall_ms, route, provider, reason, detail, status, attempts, priority, "            \
  "stream AS \"stream:bool\", printf('%016x', session) AS session, printf('%016x', tenant) AS tenant, "      \
  "path, length(body) AS body_bytes"

#define STAGE_JSON                                                                                           \
  "(SELECT json_group_object(stage, json_object('arrivals', arrivals, 'completions', completions, 'sheds', " \
  "sheds, "                                                                                                  \
  "'depth', depth, 'capacity', capacity, 'sojourn_p50_ms', sojourn_p50_ms, 'sojourn_p95_ms', "               \
  "sojourn_p95_ms)) "                                                                                        \
  "FROM frame_stages WHERE frame = f.id) AS \"stages:json\""

#define PROVIDER_JSON                                                                                        \
  "(SELECT json_group_object(provider, json_object('attempts', attempts, 'successes', successes, "           \
  "'failures', "                                                                                             \
  "failures, 'timeouts', timeouts, 'throttled', throttled, 'rejected', rejected, 'cancelled', cancelled, "   \
  "'retries', retries, 'fallbacks', fallbacks, 'limit_refusals', limit_refusals, 'tokens_in', tokens_in, "   \
  "'tokens_out', tokens_out, 'usd', usd, 'in_flight', in_flight, 'tokens_in_flight', tokens_in_flight, "     \
  "'limit', "                                                                                                \
  "concurrency_limit, 'instances_ready', instances_ready, 'instances_starting', instances_starting, "        \
  "'breaker', "                                                                                              \
  "breaker, 'cooling', json(iif(cooling, 'true', 'false')), 'ttft_count', ttft_count, 'ttft_mean_ms', "      \
  "ttft_mean_ms, 'ttft_p50_ms', ttft_p50_ms, 'ttft_p95_ms', ttft_p95_ms, 'tpot_count', tpot_count, "         \
  "'tpot_mean_ms', tpot_mean_ms, 'tpot_p50_ms', tpot_p50_ms, 'tpot_p95_ms', tpot_p95_ms)) "                  \
  "FROM frame_providers WHERE frame = f.id) AS \"providers:json\""

/* ?1 is the text or the key, ?2 the limit. */
enum statement {
  ALL_LEDGER,
  NAMED_LEDGER,
  ALL_EPISODES,
  NAMED_EPISODES,
  ALL_SNAPSHOTS,
  ONE_SNAPSHOT,
  HEAD_SNAPSHOT,
  BEST_SNAPSHOT,
  SNAPSHOTS_LIKE,
  ALL_EXPERIMENTS,
  ONE_EXPERIMENT,
  ALL_ANOMALIES,
  ALL_LETTERS,
  ONE_LETTER,
  ALL_FRAMES,
  ANSWER,
  STATEMENTS
};

static const char *const texts[STATEMENTS] = {
    [ALL_LEDGER] = LEDGER_COLUMNS "ORDER BY l.id DESC LIMIT ?2",
    [NAMED_LEDGER] = LEDGER_COLUMNS "WHERE l.name = ?1 ORDER BY l.id DESC LIMIT ?2",
    [ALL_EPISODES] = LEDGER_COLUMNS "WHERE l.kind = 'episode' ORDER BY l.id DESC LIMIT ?2",
    [NAMED_EPISODES] = LEDGER_COLUMNS "WHERE l.name = ?1 AND l.kind = 'episode' ORDER BY l.id DESC LIMIT ?2",
    [ALL_SNAPSHOTS] =
        "SELECT " SNAPSHOT_COLUMNS SNAPSHOT_TABLES "ORDER BY s.wall_ms DESC, s.rowid DESC LIMIT ?2",
    [ONE_SNAPSHOT] = "SELECT " SNAPSHOT_COLUMNS ", s.config" SNAPSHOT_TABLES "WHERE s.id = ?1",
    [HEAD_SNAPSHOT] = "SELECT value FROM meta WHERE name = 'head'",
    [BEST_SNAPSHOT] =
        "SELECT snapshot FROM scores WHERE requests >= ?2 ORDER BY utility DESC, wall_ms DESC LIMIT 1",
    [SNAPSHOTS_LIKE] = "SELECT id FROM snapshots WHERE id >= ?1 AND id < ?1 || 'g' LIMIT 2",
    [ALL_EXPERIMENTS] = "SELECT " EXPERIMENT_COLUMNS " FROM experiments ORDER BY id DESC LIMIT ?2",
    [ONE_EXPERIMENT] = "SELECT " EXPERIMENT_COLUMNS ", state AS \"state:json\" FROM experiments "
                       "WHERE name = ?1 OR id = ?2 ORDER BY name = ?1 DESC, id DESC LIMIT 1",
    [ALL_ANOMALIES] =
        "SELECT id, opened_ms, nullif(closed_ms, 0) AS closed_ms, metric, provider, severity, value, "
        "expected, score, message FROM anomalies ORDER BY id DESC LIMIT ?2",
    [ALL_LETTERS] = "SELECT " LETTER_COLUMNS " FROM dead_letters ORDER BY number DESC LIMIT ?2",
    [ONE_LETTER] =
        "SELECT " LETTER_COLUMNS ", body FROM dead_letters WHERE id_text = ?1 OR request = ?2 LIMIT 1",
    [ALL_FRAMES] =
        "SELECT f.number, f.wall_ms, f.dt_s, f.received, f.refused, f.limited, f.admitted, f.answered, "
        "f.dead_lettered, f.client_gone, f.coalesced, f.in_target, f.in_flight, f.bytes_in_flight, f.usd, "
        "json_object('critical', f.wait_critical_ms, 'high', f.wait_high_ms, 'normal', f.wait_normal_ms, "
        "'low', f.wait_low_ms) AS \"longest_wait_ms:json\", " STAGE_JSON ", " PROVIDER_JSON
        " FROM frames f ORDER BY f.id DESC LIMIT ?2",
    [ANSWER] = "SELECT p.position, EXISTS(SELECT 1 FROM rewards w WHERE w.request = r.id) FROM requests r "
               "LEFT JOIN providers p ON p.name = r.provider WHERE r.id = ?2 AND r.kind = 'answered'",
};

struct store_reader {
  sqlite3 *db;
  sqlite3_stmt *statements[STATEMENTS];
};

static int check_version(struct store_reader *r, const char *path, char *error, size_t error_size) {
  sqlite3_stmt *s = NULL;
  int version = -1;
  if (sqlite3_prepare_v2(r->db, "PRAGMA user_version", -1, &s, NULL) == SQLITE_OK &&
      sqlite3_step(s) == SQLITE_ROW)
    version = sqlite3_column_int(s, 0);
  if (version < 0)
    snprintf(error, error_size, "cannot read %s: %s", path, sqlite3_errmsg(r->db));
  else if (version != schema_version())
    snprintf(error, error_size, "%s has schema %d and this self-improve reads %d: %s", path, version,
             schema_version(),
             version < schema_version() ? "start the daemon once to bring it up to date"
                                        : "use the newer version");
  sqlite3_finalize(s);
  return version == schema_version() ? 0 : -1;
}

struct store_reader *store_reader_open(const char *path, char *error, size_t error_size) {
  struct store_reader *r = calloc(1, sizeof *r);
  if (!r) {
    snprintf(error, error_size, "out of memory");
    return NULL;
  }
  if (sqlite3_open_v2(path, &r->db, SQLITE_OPEN_READONLY | SQLITE_OPEN_NOMUTEX, NULL) != SQLITE_OK) {
    snprintf(error, error_size, "cannot open %s (%s): has a daemon run there yet?", path,
             sqlite3_errmsg(r->db));
  } else {
    sqlite3_busy_timeout(r->db, BUSY_MS);
    if (check_version(r, path, error, error_size) == 0) return r;
  }
  store_reader_close(r);
  return NULL;
}

void store_reader_close(struct store_reader *r) {
  if (!r) return;
  for (int s = 0; s < STATEMENTS; s++)
    sqlite3_finalize(r->statements[s]);
  sqlite3_close(r->db);
  free(r);
}

/* Statements. */

static int to_errno(int rc) {
  switch (rc & 0xff) {
  case SQLITE_BUSY:
  case SQLITE_LOCKED:
    return -EBUSY;
  case SQLITE_NOMEM:
    return -ENOMEM;
  default:
    return -EIO;
  }
}

static sqlite3_stmt *begin(struct store_reader *r, enum statement which, const char *text, int64_t number) {
  sqlite3_stmt **s = &r->statements[which];
  if (!*s && sqlite3_prepare_v3(r->db, texts[which], -1, SQLITE_PREPARE_PERSISTENT, s, NULL) != SQLITE_OK)
    return NULL;
  int last = sqlite3_bind_parameter_count(*s);
  const char *first = last > 0 ? sqlite3_bind_parameter_name(*s, 1) : NULL;
  if (first && strcmp(first, "?1") == 0) sqlite3_bind_text(*s, 1, text, -1, SQLITE_TRANSIENT);
  if (last >= 2) sqlite3_bind_int64(*s, 2, number);
  return *s;
}

static void end(sqlite3_stmt *s) {
  sqlite3_reset(s);
  sqlite3_clear_bindings(s);
}

static char *print(cJSON *json, int *status) {
  char *text = json ? cJSON_PrintUnformatted(json) : NULL;
  if (!text) *status = -ENOMEM;
  cJSON_Delete(json);
  return text;
}

static char *all_rows(struct store_reader *r, enum statement which, const char *text, int64_t limit,
                      int *status) {
  sqlite3_stmt *s = begin(r, which, text, limit);
  cJSON *array = s ? cJSON_CreateArray() : NULL, *row = NULL;
  int rc = s ? SQLITE_OK : sqlite3_errcode(r->db);
  while (array && (rc = sqlite3_step(s)) == SQLITE_ROW && (row = json_row(s)) != NULL)
    cJSON_AddItemToArray(array, row);
  *status = rc == SQLITE_DONE ? 0 : rc == SQLITE_ROW || rc == SQLITE_OK ? -ENOMEM : to_errno(rc);
  if (s) end(s);
  if (*status == 0) return print(array, status);
  cJSON_Delete(array);
  return NULL;
}

static char *one_row(struct store_reader *r, enum statement which, const char *text, int64_t number,
                     int *status) {
  sqlite3_stmt *s = begin(r, which, text, number);
  int rc = s ? sqlite3_step(s) : sqlite3_errcode(r->db);
  *status = rc == SQLITE_ROW ? 0 : rc == SQLITE_DONE ? -ENOENT : to_errno(rc);
  char *answer = *status == 0 ? print(json_row(s), status) : NULL;
  if (s) end(s);
  return answer;
}

/* Reads the first column of the only row into id. -ENOENT: none; -EINVAL: several. */
static int only_id(struct store_reader *r, enum statement which, const char *text, int64_t number, char *id,
                   size_t size) {
  sqlite3_stmt *s = begin(r, which, text, number);
  int rc = s ? sqlite3_step(s) : sqlite3_errcode(r->db);
  int status = rc == SQLITE_ROW ? 0 : rc == SQLITE_DONE ? -ENOENT : to_errno(rc);
  const char *found = status == 0 ? (const char *)sqlite3_column_text(s, 0) : NULL;
  if (status == 0 && !found) status = -ENOENT;
  if (found) snprintf(id, size, "%s", found);
  if (status == 0 && sqlite3_step(s) == SQLITE_ROW) status = -EINVAL;
  if (s) end(s);
  return status;
}

/* Single rows. */

static char *find_snapshot(struct store_reader *r, const char *text, int *status) {
  char id[SNAPSHOT_ID_SIZE];
  if (strcmp(text, "head") == 0)
    *status = only_id(r, HEAD_SNAPSHOT, NULL, 0, id, sizeof id);
  else if (strcmp(text, "best") == 0)
    *status = only_id(r, BEST_SNAPSHOT, NULL, STORE_BEST_REQUESTS, id, sizeof id);
  else if (strlen(text) < PREFIX_LEAST)
    *status = -EINVAL;
  else if (strlen(text) >= SNAPSHOT_ID_SIZE || text[strspn(text, "0123456789abcdef")])
    *status = -ENOENT;
  else
    *status = only_id(r, SNAPSHOTS_LIKE, text, 0, id, sizeof id);
  return *status == 0 ? one_row(r, ONE_SNAPSHOT, id, 0, status) : NULL;
}

static char *find_experiment(struct store_reader *r, const char *text, int *status) {
  char *rest;
  errno = 0;
  long long number = strtoll(text, &rest, 10);
  bool is_number = isdigit((unsigned char)text[0]) && !*rest && errno == 0;
  return one_row(r, ONE_EXPERIMENT, text, is_number ? number : -1, status);
}

static char *find_letter(struct store_reader *r, const char *text, int *status) {
  bool hex = strlen(text) == HEX_DIGITS && !text[strspn(text, "0123456789abcdefABCDEF")];
  if (!hex) return one_row(r, ONE_LETTER, text, -1, status);
  return one_row(r, ONE_LETTER, text, (int64_t)strtoull(text, NULL, 16), status);
}

/* The door. */

static char *answer(struct store_reader *r, enum store_query query, const char *text, int64_t limit,
                    int *status) {
  switch (query) {
  case QUERY_LEDGER:
    return all_rows(r, text ? NAMED_LEDGER : ALL_LEDGER, text, limit, status);
  case QUERY_EPISODES:
    return all_rows(r, text ? NAMED_EPISODES : ALL_EPISODES, text, limit, status);
  case QUERY_SNAPSHOTS:
    return all_rows(r, ALL_SNAPSHOTS, NULL, limit, status);
  case QUERY_SNAPSHOT:
    return find_snapshot(r, text, status);
  case QUERY_EXPERIMENTS:
    return all_rows(r, ALL_EXPERIMENTS, NULL, limit, status);
  case QUERY_EXPERIMENT:
    return find_experiment(r, text, status);
  case QUERY_ANOMALIES:
    return all_rows(r, ALL_ANOMALIES, NULL, limit, status);
  case QUERY_DEAD_LETTERS:
    return all_rows(r, ALL_LETTERS, NULL, limit, status);
  case QUERY_DEAD_LETTER:
    return find_letter(r, text, status);
  case QUERY_TUNABLE_HISTORY:
    return all_rows(r, NAMED_LEDGER, text, limit, status);
  case QUERY_FRAMES:
    return all_rows(r, ALL_FRAMES, NULL, limit, status);
  case STORE_QUERIES:
    break;
  }
  *status = -EINVAL;
  return NULL;
}

static bool needs_text(enum store_query query) {
  return query == QUERY_SNAPSHOT || query == QUERY_EXPERIMENT || query == QUERY_DEAD_LETTER ||
         query == QUERY_TUNABLE_HISTORY;
}

char *store_query(struct store_reader *r, enum store_query query, const char *text, int64_t limit,
                  int *status) {
  *status = -EINVAL;
  if ((needs_text(query) && !text) || (text && strlen(text) > LONGEST_TEXT)) return NULL;
  if (limit <= 0) limit = STORE_LIMIT;
  if (limit > STORE_LIMIT_MAX) limit = STORE_LIMIT_MAX;
  return answer(r, query, text, limit, status);
}

static unsigned position(sqlite3_stmt *s, int column, unsigned none) {
  return sqlite3_column_type(s, column) == SQLITE_NULL ? none : (unsigned)sqlite3_column_int(s, column);
}

int store_find_answer(struct store_reader *r, uint64_t request, unsigned *provider_index, bool *rewarded) {
  sqlite3_stmt *s = begin(r, ANSWER, NULL, (int64_t)request);
  int rc = s ? sqlite3_step(s) : sqlite3_errcode(r->db);
  if (rc == SQLITE_ROW) {
    *provider_index = position(s, 0, NO_PROVIDER);
    *rewarded = sqlite3_column_int(s, 1) != 0;
  }
  if (s) end(s);
  return rc == SQLITE_ROW ? 0 : rc == SQLITE_DONE ? -ENOENT : to_errno(rc);
}
