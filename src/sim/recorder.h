#ifndef SIM_RECORDER_H
#define SIM_RECORDER_H

/* A store in memory: keeps what a simulated daemon writes down about itself, so that a proof can ask what was
 * changed, why, and what became of it. One thread. */

#include "store/sink.h"

#include <stdint.h>
#include <stdio.h>

struct recorder;

struct recorded_change {
  struct ledger_row row; /* strings belong to the recorder */
  char *outcome, *words; /* of its judgement; NULL: not judged */
  double effect, low, high;
  int64_t judged_ms;
};

struct recorder_counts {
  uint64_t changes, episode_steps, notes; /* steps: of all episodes, each as last written */
  uint64_t judged, kept, undone;
  uint64_t snapshots, scores, experiments, anomalies, values, learned, rewards, frames, outcomes,
      dead_letters;
  uint64_t lost; /* rows that did not fit into memory */
};

struct recorder *recorder_create(void); /* NULL: out of memory */
void recorder_destroy(struct recorder *r);

struct store_sink recorder_sink(struct recorder *r);

const struct recorder_counts *recorder_counts(const struct recorder *r);

/* Ledger rows in their order; one a row id: a row that is written again replaces itself. */
size_t recorder_change_count(const struct recorder *r);
const struct recorded_change *recorder_change(const struct recorder *r, size_t i);
const struct recorded_change *recorder_find(const struct recorder *r, int64_t ledger_id); /* NULL: none */

/* The latest state of each. */
size_t recorder_experiment_count(const struct recorder *r);
const struct experiment_row *recorder_experiment(const struct recorder *r, size_t i);
size_t recorder_anomaly_count(const struct recorder *r);
const struct anomaly_row *recorder_anomaly(const struct recorder *r, size_t i);

/* What `why NAME` would say: the last `most` rows about it, newest first, a paragraph each. NULL name: all.
 */
void recorder_why(const struct recorder *r, const char *name, size_t most, FILE *out);

#endif
