#ifndef STORE_STORE_H
#define STORE_STORE_H

/* The SQLite file: one writer thread behind a bounded queue, readers with connections of their own. The
 * schema and its views are a public interface: docs/database.md. */

#include "store/sink.h"

#include <stdbool.h>

struct store;
struct store_reader;

struct store_options {
  const char *path; /* the file; its directory is made and locked */
  const char *const *provider_names,
      *const *route_names; /* of indexes in frames and outcomes; outlive the store */
  unsigned provider_count, route_count;
  int64_t frame_days, request_days;            /* retention */
  int64_t dead_letter_rows, dead_letter_bytes; /* bounds; 0 rows: dead letters are off */
};

/* Opens or makes the file, migrates, sets a corrupt file aside (never deletes), starts the writer. On failure
 * returns NULL and error says what to do: an unwritable directory, a lock held by another daemon, a newer
 * schema. */
struct store *store_open(const struct store_options *options, char *error, size_t error_size);
void store_close(struct store *store); /* writes what is queued, then stops; NULL is fine */

struct store_sink store_sink(struct store *store);

/* Healthy, or why not ("database is locked", "disk full"): static strings. Any thread. */
bool store_health(const struct store *store, const char **why);
uint64_t store_dropped(const struct store *store); /* telemetry rows dropped */
uint64_t store_dead_letters_evicted(const struct store *store);

/* What was in force when the daemon last ran. Strings belong to the struct. */
struct store_state {
  struct value_row *values; /* count value_count */
  size_t value_count;
  struct experiment_row *experiments; /* running ones */
  size_t experiment_count;
  struct ledger_row *open_trials; /* changes with a trial and no judgement, newest first */
  size_t open_trial_count;
  char *head_snapshot;  /* NULL: none yet */
  char *learned_router; /* JSON by the name "router"; NULL: none */
  int64_t last_ledger_id, last_experiment_id, last_anomaly_id;
};

int store_load(struct store *store, struct store_state *state); /* 0 or -errno */
void store_state_free(struct store_state *state);

/* Readers: one thread each; read-only connections that never block the writer. */
struct store_reader *store_reader_open(const char *path, char *error, size_t error_size);
void store_reader_close(struct store_reader *reader);

enum store_query {
  QUERY_LEDGER,   /* every kind of row, newest first; text: name or NULL; limit */
  QUERY_EPISODES, /* of these, the episodes; text: name or NULL */
  QUERY_SNAPSHOTS,
  QUERY_SNAPSHOT, /* text: id or a unique prefix of at least 6 characters, "head", or "best": highest utility
                     over at least STORE_BEST_REQUESTS requests */
  QUERY_EXPERIMENTS,
  QUERY_EXPERIMENT, /* text: name or number */
  QUERY_ANOMALIES,
  QUERY_DEAD_LETTERS,    /* without bodies */
  QUERY_DEAD_LETTER,     /* text: request id, whole or its 16 hex digits; with its body */
  QUERY_TUNABLE_HISTORY, /* text: name */
  QUERY_FRAMES,
  STORE_QUERIES
};

enum { STORE_BEST_REQUESTS = 100, STORE_LIMIT = 100, STORE_LIMIT_MAX = 10000 };

/* Answers as JSON: an array of objects, or one object for single-row queries. malloc'ed; NULL with *status
 * -ENOENT (no such row), -EINVAL or another -errno. limit 0 or less: STORE_LIMIT; never more than
 * STORE_LIMIT_MAX. */
char *store_query(struct store_reader *reader, enum store_query query, const char *text, int64_t limit,
                  int *status);

/* Who answered a request, for late rewards: its index as this configuration counts, NO_PROVIDER when it is
 * not configured any more; and whether there is a reward already. 0, or -ENOENT: nobody did. */
int store_find_answer(struct store_reader *reader, uint64_t request, unsigned *provider_index,
                      bool *rewarded);

#endif
