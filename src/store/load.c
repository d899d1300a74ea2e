/* What was in force when the daemon last ran, read through a connection of its own before anything else is
 * put. A trial counts as open when neither its row nor the row that opened it has a judgement. */

#include "store/store.h"

#include "store/load.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char values_sql[] =
    "SELECT name, value, file_value, hold_until_ms, author FROM tunable_values ORDER BY name";

static const char experiments_sql[] =
    "SELECT id, name, tunable, status, control, treatment, started_ms, ended_ms, control_units, "
    "treatment_units, "
    "effect, low, high, p_value, verdict, spec, state FROM experiments WHERE status = 'running' ORDER BY id";

/* An undoing belongs to its trial, but is none itself, even if its judgement did not make it to the disk. */
static const char trials_sql[] =
    "SELECT id, wall_ms, kind, name, from_value, to_value, least, most, steps, last_ms, actor, reason, "
    "evidence, "
    "snapshot_before, snapshot_after, trial FROM ledger l WHERE kind = 'change' AND trial <> 0 AND "
    "coalesce(actor, '') <> 'rollback' AND NOT EXISTS "
    "(SELECT 1 FROM judgements WHERE ledger_id IN (l.id, l.trial)) ORDER BY id DESC";

static const char rest_sql[] =
    "SELECT (SELECT value FROM meta WHERE name = 'head'), (SELECT json FROM learned WHERE name = 'router'), "
    "(SELECT max(id) FROM ledger), (SELECT max(id) FROM experiments), (SELECT max(id) FROM anomalies)";

/* Reads the columns of a row one after the other. */
struct columns {
  sqlite3_stmt *statement;
  int at;
  bool no_memory;
};

static int64_t next_integer(struct columns *c) {
  return sqlite3_column_int64(c->statement, c->at++);
}

static double next_real(struct columns *c) {
  int at = c->at++;
  return sqlite3_column_type(c->statement, at) == SQLITE_NULL ? NAN : sqlite3_column_double(c->statement, at);
}

static char *next_text(struct columns *c) {
  const char *text = (const char *)sqlite3_column_text(c->statement, c->at++);
  char *copy = text ? strdup(text) : NULL;
  if (text && !copy) c->no_memory = true;
  return copy;
}

static void read_value(struct columns *c, void *row) {
  struct value_row *v = row;
  v->name = next_text(c);
  v->value = next_real(c);
  v->file_value = next_real(c);
  v->hold_until_ms = next_integer(c);
  v->author = next_text(c);
}

static void read_experiment(struct columns *c, void *row) {
  struct experiment_row *e = row;
  e->id = next_integer(c);
  e->name = next_text(c);
  e->tunable = next_text(c);
  e->status = next_text(c);
  e->control = next_real(c);
  e->treatment = next_real(c);
  e->started_ms = next_integer(c);
  e->ended_ms = next_integer(c);
  e->control_units = next_integer(c);
  e->treatment_units = next_integer(c);
  e->effect = next_real(c);
  e->low = next_real(c);
  e->high = next_real(c);
  e->p_value = next_real(c);
  e->verdict = next_text(c);
  e->spec = next_text(c);
  e->state = next_text(c);
}

static void read_ledger(struct columns *c, void *row) {
  struct ledger_row *l = row;
  l->id = next_integer(c);
  l->wall_ms = next_integer(c);
  l->kind = next_text(c);
  l->name = next_text(c);
  l->from = next_real(c);
  l->to = next_real(c);
  l->least = next_real(c);
  l->most = next_real(c);
  l->count = next_integer(c);
  l->last_ms = next_integer(c);
  l->actor = next_text(c);
  l->reason = next_text(c);
  l->evidence = next_text(c);
  l->snapshot_before = next_text(c);
  l->snapshot_after = next_text(c);
  l->trial = next_integer(c);
}

/* Appends one zeroed row to an array and returns it. */
static void *grow(void **rows, size_t *count, size_t size) {
  char *grown = realloc(*rows, (*count + 1) * size);
  if (!grown) return NULL;
  *rows = grown;
  return memset(grown + (*count)++ * size, 0, size);
}

static int read_all(sqlite3 *db, const char *sql, void (*read)(struct columns *, void *), size_t size,
                    void **rows, size_t *count) {
  struct columns c = {0};
  int rc = sqlite3_prepare_v2(db, sql, -1, &c.statement, NULL);
  if (rc != SQLITE_OK) return -EIO;
  while ((rc = sqlite3_step(c.statement)) == SQLITE_ROW && !c.no_memory) {
    void *row = grow(rows, count, size);
    if (!row) c.no_memory = true;
    c.at = 0;
    if (row) read(&c, row);
  }
  sqlite3_finalize(c.statement);
  return c.no_memory ? -ENOMEM : rc == SQLITE_DONE ? 0 : -EIO;
}

static int read_rest(sqlite3 *db, struct store_state *state) {
  struct columns c = {0};
  int rc = sqlite3_prepare_v2(db, rest_sql, -1, &c.statement, NULL);
  if (rc == SQLITE_OK && (rc = sqlite3_step(c.statement)) == SQLITE_ROW) {
    state->head_snapshot = next_text(&c);
    state->learned_router = next_text(&c);
    state->last_ledger_id = next_integer(&c);
    state->last_experiment_id = next_integer(&c);
    state->last_anomaly_id = next_integer(&c);
  }
  sqlite3_finalize(c.statement);
  return c.no_memory ? -ENOMEM : rc == SQLITE_ROW ? 0 : -EIO;
}

int load_state(sqlite3 *db, struct store_state *state) {
  struct store_state s = {0};
  void *values = NULL, *experiments = NULL, *trials = NULL;
  int status = read_all(db, values_sql, read_value, sizeof *s.values, &values, &s.value_count);
  if (status == 0)
    status = read_all(db, experiments_sql, read_experiment, sizeof *s.experiments, &experiments,
                      &s.experiment_count);
  if (status == 0)
    status = read_all(db, trials_sql, read_ledger, sizeof *s.open_trials, &trials, &s.open_trial_count);
  if (status == 0) status = read_rest(db, &s);
  s.values = values;
  s.experiments = experiments;
  s.open_trials = trials;
  if (status == 0)
    *state = s;
  else
    store_state_free(&s);
  return status;
}

static void free_text(const char *text) {
  free((void *)text);
}

static void free_experiment(struct experiment_row *e) {
  free_text(e->name);
  free_text(e->tunable);
  free_text(e->status);
  free_text(e->verdict);
  free_text(e->spec);
  free_text(e->state);
}

static void free_ledger(struct ledger_row *l) {
  free_text(l->kind);
  free_text(l->name);
  free_text(l->actor);
  free_text(l->reason);
  free_text(l->evidence);
  free_text(l->snapshot_before);
  free_text(l->snapshot_after);
}

void store_state_free(struct store_state *state) {
  if (!state) return;
  for (size_t i = 0; i < state->value_count; i++) {
    free_text(state->values[i].name);
    free_text(state->values[i].author);
  }
  for (size_t i = 0; i < state->experiment_count; i++)
    free_experiment(&state->experiments[i]);
  for (size_t i = 0; i < state->open_trial_count; i++)
    free_ledger(&state->open_trials[i]);
  free(state->values);
  free(state->experiments);
  free(state->open_trials);
  free(state->head_snapshot);
  free(state->learned_router);
  *state = (struct store_state){0};
}
