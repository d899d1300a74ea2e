/* Rows are kept whole, their strings copied into one block each, in arrays that grow to a bound; what comes
 * after is counted as lost. */

#include "sim/recorder.h"

#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_ROWS = 1 << 20 };

struct recorder {
  struct recorder_counts counts;
  struct recorded_change *changes;
  size_t change_count;
  struct experiment_row *experiments;
  size_t experiment_count;
  struct anomaly_row *anomalies;
  size_t anomaly_count;
};

struct recorder *recorder_create(void) {
  return calloc(1, sizeof(struct recorder));
}

static void *roomy(void *array, size_t count, size_t element) {
  if (count >= MAX_ROWS) return NULL;
  if (count & (count - 1)) return array;
  return realloc(array, (count ? 2 * count : 1) * element);
}

/* ---- copies of strings: fields[] point into the row ---- */

static bool copy_strings(const char **fields[], size_t n) {
  for (size_t i = 0; i < n; i++) {
    if (!*fields[i]) continue;
    *fields[i] = strdup(*fields[i]);
    if (*fields[i]) continue;
    while (i--)
      free((char *)*fields[i]);
    return false;
  }
  return true;
}

static void free_strings(const char **fields[], size_t n) {
  for (size_t i = 0; i < n; i++)
    free((char *)*fields[i]);
}

#define LEDGER_FIELDS(row)                                                                                   \
  {                                                                                                          \
    &(row)->kind, &(row)->name, &(row)->actor, &(row)->reason, &(row)->evidence, &(row)->snapshot_before,    \
        &(row)->snapshot_after                                                                               \
  }
#define EXPERIMENT_FIELDS(row)                                                                               \
  { &(row)->name, &(row)->tunable, &(row)->status, &(row)->verdict, &(row)->spec, &(row)->state }
#define ANOMALY_FIELDS(row)                                                                                  \
  { &(row)->metric, &(row)->provider, &(row)->severity, &(row)->message }
#define FIELD_COUNT(fields) (sizeof(fields) / sizeof *(fields))

void recorder_destroy(struct recorder *r) {
  if (!r) return;
  for (size_t i = 0; i < r->change_count; i++) {
    const char **fields[] = LEDGER_FIELDS(&r->changes[i].row);
    free_strings(fields, FIELD_COUNT(fields));
    free(r->changes[i].outcome);
    free(r->changes[i].words);
  }
  for (size_t i = 0; i < r->experiment_count; i++) {
    const char **fields[] = EXPERIMENT_FIELDS(&r->experiments[i]);
    free_strings(fields, FIELD_COUNT(fields));
  }
  for (size_t i = 0; i < r->anomaly_count; i++) {
    const char **fields[] = ANOMALY_FIELDS(&r->anomalies[i]);
    free_strings(fields, FIELD_COUNT(fields));
  }
  free(r->changes);
  free(r->experiments);
  free(r->anomalies);
  free(r);
}

/* ---- the ledger ---- */

/* Rows lie by id: the loop counts up, and an episode that goes on is written again under its old one. */
static size_t position(const struct recorder *r, int64_t id) {
  size_t low = 0, high = r->change_count;
  while (low < high) {
    size_t middle = (low + high) / 2;
    if (r->changes[middle].row.id < id)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

static struct recorded_change *find_change(const struct recorder *r, int64_t id) {
  size_t i = position(r, id);
  return i < r->change_count && r->changes[i].row.id == id ? &r->changes[i] : NULL;
}

static void count_row(struct recorder_counts *c, const struct ledger_row *row, int64_t sign) {
  if (strcmp(row->kind, "episode") == 0)
    c->episode_steps += (uint64_t)(sign * (row->count > 0 ? row->count : 1));
  else if (strcmp(row->kind, "note") == 0)
    c->notes += (uint64_t)sign;
  else
    c->changes += (uint64_t)sign;
}

static void insert(struct recorder *r, const struct ledger_row *row) {
  size_t i = position(r, row->id);
  memmove(&r->changes[i + 1], &r->changes[i], (r->change_count - i) * sizeof *r->changes);
  r->changes[i] = (struct recorded_change){.row = *row, .effect = NAN, .low = NAN, .high = NAN};
  r->change_count++;
}

static int put_ledger(void *ctx, const struct ledger_row *row) {
  struct recorder *r = ctx;
  struct ledger_row copy = *row;
  const char **fields[] = LEDGER_FIELDS(&copy);
  struct recorded_change *old = find_change(r, row->id);
  struct recorded_change *grown = old ? r->changes : roomy(r->changes, r->change_count, sizeof *grown);
  if (grown) r->changes = grown;
  if (!grown || !copy_strings(fields, FIELD_COUNT(fields))) {
    r->counts.lost++;
    return 0;
  }
  count_row(&r->counts, row, 1);
  if (old) {
    count_row(&r->counts, &old->row, -1);
    const char **old_fields[] = LEDGER_FIELDS(&old->row);
    free_strings(old_fields, FIELD_COUNT(old_fields));
    old->row = copy;
  } else {
    insert(r, &copy);
  }
  return 0;
}

static int put_judgement(void *ctx, const struct judgement_row *row) {
  struct recorder *r = ctx;
  struct recorded_change *change = find_change(r, row->ledger_id);
  r->counts.judged++;
  r->counts.kept += strcmp(row->outcome, "kept") == 0;
  r->counts.undone += strcmp(row->outcome, "undone") == 0;
  if (!change) return 0;
  free(change->outcome);
  free(change->words);
  change->outcome = strdup(row->outcome);
  change->words = row->words ? strdup(row->words) : NULL;
  change->effect = row->effect;
  change->low = row->low;
  change->high = row->high;
  change->judged_ms = row->wall_ms;
  return 0;
}

/* ---- experiments and anomalies: by id ---- */

static int put_experiment(void *ctx, const struct experiment_row *row) {
  struct recorder *r = ctx;
  struct experiment_row copy = *row;
  const char **fields[] = EXPERIMENT_FIELDS(&copy);
  size_t i = 0;
  while (i < r->experiment_count && r->experiments[i].id != row->id)
    i++;
  struct experiment_row *grown =
      i < r->experiment_count ? r->experiments : roomy(r->experiments, i, sizeof *grown);
  if (grown) r->experiments = grown;
  if (!grown || !copy_strings(fields, FIELD_COUNT(fields))) {
    r->counts.lost++;
    return 0;
  }
  if (i == r->experiment_count) {
    r->counts.experiments++;
    r->experiment_count++;
  } else {
    const char **old[] = EXPERIMENT_FIELDS(&r->experiments[i]);
    free_strings(old, FIELD_COUNT(old));
  }
  r->experiments[i] = copy;
  return 0;
}

static int put_anomaly(void *ctx, const struct anomaly_row *row) {
  struct recorder *r = ctx;
  struct anomaly_row copy = *row;
  const char **fields[] = ANOMALY_FIELDS(&copy);
  size_t i = r->anomaly_count;
  while (i > 0 && r->anomalies[i - 1].id != row->id)
    i--;
  bool fresh = i == 0;
  i = fresh ? r->anomaly_count : i - 1;
  struct anomaly_row *grown = fresh ? roomy(r->anomalies, i, sizeof *grown) : r->anomalies;
  if (grown) r->anomalies = grown;
  if (!grown || !copy_strings(fields, FIELD_COUNT(fields))) {
    r->counts.lost++;
    return 0;
  }
  if (fresh) {
    r->counts.anomalies++;
    r->anomaly_count++;
  } else {
    const char **old[] = ANOMALY_FIELDS(&r->anomalies[i]);
    free_strings(old, FIELD_COUNT(old));
  }
  r->anomalies[i] = copy;
  return 0;
}

/* ---- what is only counted ---- */

#define COUNTED(name, type, field)                                                                           \
  static int put_##name(void *ctx, const type *row) {                                                        \
    (void)row;                                                                                               \
    ((struct recorder *)ctx)->counts.field++;                                                                \
    return 0;                                                                                                \
  }

COUNTED(snapshot, struct snapshot_row, snapshots)
COUNTED(score, struct score_row, scores)
COUNTED(value, struct value_row, values)
COUNTED(reward, struct reward_row, rewards)
COUNTED(frame, struct frame, frames)
COUNTED(dead_letter, struct dead_letter_row, dead_letters)

static int put_learned(void *ctx, const char *name, const char *json, int64_t wall_ms) {
  (void)name, (void)json, (void)wall_ms;
  ((struct recorder *)ctx)->counts.learned++;
  return 0;
}

static int put_outcomes(void *ctx, const struct outcome *outcomes, size_t count, int64_t now_ns,
                        int64_t wall_ms) {
  (void)outcomes, (void)now_ns, (void)wall_ms;
  ((struct recorder *)ctx)->counts.outcomes += count;
  return 0;
}

static int commit(void *ctx) {
  (void)ctx;
  return 0;
}

struct store_sink recorder_sink(struct recorder *r) {
  return (struct store_sink){.ctx = r,
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
                             .commit = commit};
}

/* ---- asking ---- */

const struct recorder_counts *recorder_counts(const struct recorder *r) {
  return &r->counts;
}

size_t recorder_change_count(const struct recorder *r) {
  return r->change_count;
}

const struct recorded_change *recorder_change(const struct recorder *r, size_t i) {
  return &r->changes[i];
}

const struct recorded_change *recorder_find(const struct recorder *r, int64_t ledger_id) {
  return find_change(r, ledger_id);
}

size_t recorder_experiment_count(const struct recorder *r) {
  return r->experiment_count;
}

const struct experiment_row *recorder_experiment(const struct recorder *r, size_t i) {
  return &r->experiments[i];
}

size_t recorder_anomaly_count(const struct recorder *r) {
  return r->anomaly_count;
}

const struct anomaly_row *recorder_anomaly(const struct recorder *r, size_t i) {
  return &r->anomalies[i];
}

static void print_change(const struct recorded_change *c, FILE *out) {
  const struct ledger_row *row = &c->row;
  fprintf(out, "#%lld %s %s: %.6g -> %.6g by %s: %s\n", (long long)row->id, row->kind,
          row->name ? row->name : "", row->from, row->to, row->actor ? row->actor : "?",
          row->reason ? row->reason : "");
  if (row->evidence) fprintf(out, "  evidence: %s\n", row->evidence);
  if (c->outcome)
    fprintf(out, "  %s: effect %.4g [%.4g, %.4g]. %s\n", c->outcome, c->effect, c->low, c->high,
            c->words ? c->words : "");
}

void recorder_why(const struct recorder *r, const char *name, size_t most, FILE *out) {
  size_t shown = 0;
  for (size_t i = r->change_count; i-- > 0 && shown < most;) {
    const char *of = r->changes[i].row.name;
    if (name && (!of || strcmp(of, name) != 0)) continue;
    print_change(&r->changes[i], out);
    shown++;
  }
}
