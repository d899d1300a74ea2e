/* One prepared statement a table, one function a kind of record. Rows with an id of their own replace what
 * was there: a growing episode, an experiment that moved on, a reward corrected. Only snapshots, whose id is
 * their content, stay as first written; which one is in force ("head" in meta) is the last that was put or
 * that a ledger row ended with. */

#include "store/insert.h"

#include "store/bind.h"
#include "store/dead_letters.h"
#include "store/insert_telemetry.h"

#include <stdlib.h>

enum statement {
  LEDGER,
  JUDGEMENT,
  SNAPSHOT,
  SCORE,
  EXPERIMENT,
  ANOMALY,
  VALUE,
  LEARNED,
  REWARD,
  META,
  STATEMENTS
};

static const struct {
  const char *verb, *table, *columns;
} texts[STATEMENTS] = {
    [LEDGER] = {"INSERT OR REPLACE", "ledger",
                "id, wall_ms, kind, name, from_value, to_value, least, most, steps, last_ms, actor, reason, "
                "evidence, "
                "snapshot_before, snapshot_after, trial"},
    [JUDGEMENT] = {"INSERT OR REPLACE", "judgements",
                   "ledger_id, wall_ms, outcome, effect, low, high, words"},
    [SNAPSHOT] = {"INSERT OR IGNORE", "snapshots", "id, parent, wall_ms, author, message, config"},
    [EXPERIMENT] = {"INSERT OR REPLACE", "experiments",
                    "id, name, tunable, status, control, treatment, started_ms, ended_ms, control_units, "
                    "treatment_units, effect, low, high, p_value, verdict, spec, state"},
    [ANOMALY] = {"INSERT OR REPLACE", "anomalies",
                 "id, opened_ms, closed_ms, metric, provider, severity, value, expected, score, message"},
    [VALUE] = {"INSERT OR REPLACE", "tunable_values", "name, value, file_value, hold_until_ms, author"},
    [LEARNED] = {"INSERT OR REPLACE", "learned", "name, wall_ms, json"},
    [REWARD] = {"INSERT OR REPLACE", "rewards", "request, wall_ms, value, source"},
    [META] = {"INSERT OR REPLACE", "meta", "name, value"},
};

/* A first minute after a restart or a way back says less than what was measured before. */
static const char score_sql[] =
    "INSERT INTO scores(snapshot, wall_ms, requests, utility, in_target, quality, usd_per_request) "
    "VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT(snapshot) DO UPDATE SET wall_ms = ?2, requests = ?3, "
    "utility = ?4, in_target = ?5, quality = ?6, usd_per_request = ?7 WHERE ?3 >= min(requests, ?8)";

struct inserts {
  sqlite3_stmt *statements[STATEMENTS];
  struct insert_telemetry *telemetry;
  struct dead_letters *dead_letters;
};

struct inserts *inserts_create(sqlite3 *db, const struct store_options *options) {
  struct inserts *i = calloc(1, sizeof *i);
  if (!i) return NULL;
  for (int s = 0; s < STATEMENTS; s++)
    if (s != SCORE &&
        bind_prepare(db, texts[s].verb, texts[s].table, texts[s].columns, &i->statements[s]) != SQLITE_OK)
      goto fail;
  if (sqlite3_prepare_v3(db, score_sql, -1, SQLITE_PREPARE_PERSISTENT, &i->statements[SCORE], NULL) !=
      SQLITE_OK)
    goto fail;
  i->telemetry = insert_telemetry_create(db, options);
  i->dead_letters = dead_letters_create(db, options->dead_letter_rows, options->dead_letter_bytes);
  if (i->telemetry && i->dead_letters) return i;
fail:
  inserts_destroy(i);
  return NULL;
}

void inserts_destroy(struct inserts *i) {
  if (!i) return;
  for (int s = 0; s < STATEMENTS; s++)
    sqlite3_finalize(i->statements[s]);
  insert_telemetry_destroy(i->telemetry);
  dead_letters_destroy(i->dead_letters);
  free(i);
}

static int set_head(struct inserts *i, const char *snapshot) {
  struct bind b = bind_begin(i->statements[META]);
  bind_text(&b, "head");
  bind_text(&b, snapshot);
  return bind_run(&b);
}

static int write_ledger(struct inserts *i, const struct ledger_row *row) {
  struct bind b = bind_begin(i->statements[LEDGER]);
  bind_integer(&b, row->id);
  bind_integer(&b, row->wall_ms);
  bind_text(&b, row->kind);
  bind_text(&b, row->name);
  bind_real(&b, row->from);
  bind_real(&b, row->to);
  bind_real(&b, row->least);
  bind_real(&b, row->most);
  bind_integer(&b, row->count);
  bind_integer(&b, row->last_ms);
  bind_text(&b, row->actor);
  bind_text(&b, row->reason);
  bind_text(&b, row->evidence);
  bind_text(&b, row->snapshot_before);
  bind_text(&b, row->snapshot_after);
  bind_integer(&b, row->trial);
  int rc = bind_run(&b);
  return rc == SQLITE_OK && row->snapshot_after && row->snapshot_after[0] ? set_head(i, row->snapshot_after)
                                                                          : rc;
}

static int write_judgement(struct inserts *i, const struct judgement_row *row) {
  struct bind b = bind_begin(i->statements[JUDGEMENT]);
  bind_integer(&b, row->ledger_id);
  bind_integer(&b, row->wall_ms);
  bind_text(&b, row->outcome);
  bind_real(&b, row->effect);
  bind_real(&b, row->low);
  bind_real(&b, row->high);
  bind_text(&b, row->words);
  return bind_run(&b);
}

static int write_snapshot(struct inserts *i, const struct snapshot_row *row) {
  struct bind b = bind_begin(i->statements[SNAPSHOT]);
  bind_text(&b, row->id);
  bind_text(&b, row->parent);
  bind_integer(&b, row->wall_ms);
  bind_text(&b, row->author);
  bind_text(&b, row->message);
  bind_text(&b, row->config);
  int rc = bind_run(&b);
  return rc == SQLITE_OK ? set_head(i, row->id) : rc;
}

static int write_score(struct inserts *i, const struct score_row *row) {
  struct bind b = bind_begin(i->statements[SCORE]);
  bind_text(&b, row->snapshot);
  bind_integer(&b, row->wall_ms);
  bind_integer(&b, row->requests);
  bind_real(&b, row->utility);
  bind_real(&b, row->in_target);
  bind_real(&b, row->quality);
  bind_real(&b, row->usd_per_request);
  bind_integer(&b, STORE_BEST_REQUESTS);
  return bind_run(&b);
}

static int write_experiment(struct inserts *i, const struct experiment_row *row) {
  struct bind b = bind_begin(i->statements[EXPERIMENT]);
  bind_integer(&b, row->id);
  bind_text(&b, row->name);
  bind_text(&b, row->tunable);
  bind_text(&b, row->status);
  bind_real(&b, row->control);
  bind_real(&b, row->treatment);
  bind_integer(&b, row->started_ms);
  bind_integer(&b, row->ended_ms);
  bind_integer(&b, row->control_units);
  bind_integer(&b, row->treatment_units);
  bind_real(&b, row->effect);
  bind_real(&b, row->low);
  bind_real(&b, row->high);
  bind_real(&b, row->p_value);
  bind_text(&b, row->verdict);
  bind_text(&b, row->spec);
  bind_text(&b, row->state);
  return bind_run(&b);
}

static int write_anomaly(struct inserts *i, const struct anomaly_row *row) {
  struct bind b = bind_begin(i->statements[ANOMALY]);
  bind_integer(&b, row->id);
  bind_integer(&b, row->opened_ms);
  bind_integer(&b, row->closed_ms);
  bind_text(&b, row->metric);
  bind_text(&b, row->provider);
  bind_text(&b, row->severity);
  bind_real(&b, row->value);
  bind_real(&b, row->expected);
  bind_real(&b, row->score);
  bind_text(&b, row->message);
  return bind_run(&b);
}

static int write_value(struct inserts *i, const struct value_row *row) {
  struct bind b = bind_begin(i->statements[VALUE]);
  bind_text(&b, row->name);
  bind_real(&b, row->value);
  bind_real(&b, row->file_value);
  bind_integer(&b, row->hold_until_ms);
  bind_text(&b, row->author);
  return bind_run(&b);
}

static int write_learned(struct inserts *i, const struct learned_row *row) {
  struct bind b = bind_begin(i->statements[LEARNED]);
  bind_text(&b, row->name);
  bind_integer(&b, row->wall_ms);
  bind_text(&b, row->json);
  return bind_run(&b);
}

static int write_reward(struct inserts *i, const struct reward_row *row) {
  struct bind b = bind_begin(i->statements[REWARD]);
  bind_integer(&b, (int64_t)row->request);
  bind_integer(&b, row->wall_ms);
  bind_real(&b, row->value);
  bind_text(&b, row->source);
  return bind_run(&b);
}

int inserts_write(struct inserts *i, const struct record *r) {
  const void *row = r->body;
  switch (r->kind) {
  case RECORD_LEDGER:
    return write_ledger(i, row);
  case RECORD_JUDGEMENT:
    return write_judgement(i, row);
  case RECORD_SNAPSHOT:
    return write_snapshot(i, row);
  case RECORD_SCORE:
    return write_score(i, row);
  case RECORD_EXPERIMENT:
    return write_experiment(i, row);
  case RECORD_ANOMALY:
    return write_anomaly(i, row);
  case RECORD_VALUE:
    return write_value(i, row);
  case RECORD_LEARNED:
    return write_learned(i, row);
  case RECORD_REWARD:
    return write_reward(i, row);
  case RECORD_DEAD_LETTER:
    return dead_letters_write(i->dead_letters, row);
  case RECORD_FRAME:
    return insert_telemetry_frame(i->telemetry, row);
  case RECORD_OUTCOMES:
    return insert_telemetry_outcomes(i->telemetry, row);
  case RECORD_KINDS:
    break;
  }
  return SQLITE_MISUSE;
}

int inserts_touch(struct inserts *i) {
  struct bind b = bind_begin(i->statements[META]);
  bind_text(&b, "touched");
  bind_integer(&b, 1);
  return bind_run(&b);
}

void inserts_committed(struct inserts *i) {
  dead_letters_committed(i->dead_letters);
}

void inserts_rolled_back(struct inserts *i) {
  dead_letters_rolled_back(i->dead_letters);
}

uint64_t inserts_evicted(const struct inserts *i) {
  return dead_letters_evicted(i->dead_letters);
}

int inserts_expired(struct inserts *i, int dead_letters) {
  return dead_letters_expired(i->dead_letters, dead_letters);
}
