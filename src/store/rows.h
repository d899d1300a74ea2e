#ifndef STORE_ROWS_H
#define STORE_ROWS_H

/* What the daemon keeps, as plain values. Strings are borrowed for the call that takes the row; NULL becomes
 * SQL NULL. Times are Unix milliseconds. What is not finite becomes NULL, and comes back as NAN. */

#include "bus/frame.h"
#include "bus/outcome.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SNAPSHOT_ID_SIZE = 65 }; /* SHA-256 in hex, with its NUL */

/* One change of one tunable, or (kind "episode") the coalesced regulation of a controller. */
struct ledger_row {
  int64_t id; /* counts up for ever; assigned by the loop */
  int64_t wall_ms;
  const char *kind; /* "change", "episode", "note" */
  const char *name; /* of the tunable, or of what a note is about ("route:auto", "experiment:x") */
  double from, to;
  double least, most;     /* of an episode */
  int64_t count, last_ms; /* of an episode: steps, time of the last */
  const char
      *actor; /* "file", "environment", "http", "controller:gradient2", "experiment:NAME", "rollback", ... */
  const char *reason;                           /* a sentence */
  const char *evidence;                         /* JSON object: the frame values used */
  const char *snapshot_before, *snapshot_after; /* ids */
  int64_t trial; /* id of the ledger row that opened the trial this belongs to; 0: none */
};

/* The judged outcome of a ledger row. */
struct judgement_row {
  int64_t ledger_id, wall_ms;
  const char *outcome;      /* "kept", "undone", "superseded", "interrupted" */
  double effect, low, high; /* change in utility with its confidence sequence */
  const char *words;
};

struct snapshot_row {
  const char *id, *parent; /* SHA-256 of the canonical text; NULL parent for the first */
  int64_t wall_ms;
  const char *author, *message;
  const char *config; /* the canonical text: sorted "name=value" lines */
};

/* Measured while a snapshot was in force. Replaces the score before, unless that rests on more requests and
 * this one on fewer than STORE_BEST_REQUESTS. */
struct score_row {
  const char *snapshot;
  int64_t wall_ms, requests;
  double utility, in_target, quality, usd_per_request;
};

struct experiment_row {
  int64_t id; /* assigned by the loop */
  const char *name, *tunable,
      *status; /* "running", "promoted", "control", "inconclusive", "stopped", "guardrail" */
  double control, treatment;
  int64_t started_ms, ended_ms; /* 0: running */
  int64_t control_units, treatment_units;
  double effect, low, high, p_value;
  const char *verdict;      /* words; NULL while running */
  const char *spec, *state; /* JSON: as created; what is needed to go on after a restart */
};

struct anomaly_row {
  int64_t id, opened_ms, closed_ms; /* closed 0: open */
  const char *metric, *provider;    /* provider NULL: the whole daemon */
  const char *severity;             /* "warning", "critical" */
  double value, expected, score;
  const char *message;
};

struct reward_row {
  uint64_t request;
  int64_t wall_ms;
  double value; /* [0, 1]; a second one for the request replaces the first */
  const char *source;
};

/* What must survive a restart: one row a tunable. */
struct value_row {
  const char *name;
  double value;
  double file_value;     /* what the file said at the last start; NAN: it did not say */
  int64_t hold_until_ms; /* 0: not held; INT64_MAX: until released */
  const char *author;
};

struct dead_letter_row {
  uint64_t request;
  int64_t wall_ms;
  const char *id_text, *route, *provider, *reason, *detail, *path;
  int status, attempts, priority;
  bool stream;
  uint64_t session, tenant;
  const char *body;
  size_t body_size;
};

#endif
