#ifndef STORE_SINK_H
#define STORE_SINK_H

/* Where rows go: the SQLite writer in the daemon, a counting memory in the simulator. Every put returns 0 or
 * -errno at once and never waits: telemetry (frame, outcomes) may be dropped when the queue is full (and is
 * counted); the rest is only refused when the store is closed, when 64 MiB of it wait for a database that
 * cannot be written (-ENOSPC), or, of dead letters, when they are off or larger than their table. Any thread.
 */

#include "store/rows.h"

struct store_sink {
  void *ctx;
  int (*ledger)(void *ctx, const struct ledger_row *row);
  int (*judgement)(void *ctx, const struct judgement_row *row);
  int (*snapshot)(void *ctx, const struct snapshot_row *row);
  int (*score)(void *ctx, const struct score_row *row);
  int (*experiment)(void *ctx, const struct experiment_row *row); /* inserts or replaces by id */
  int (*anomaly)(void *ctx, const struct anomaly_row *row);       /* inserts or replaces by id */
  int (*value)(void *ctx, const struct value_row *row);           /* inserts or replaces by name */
  int (*learned)(void *ctx, const char *name, const char *json, int64_t wall_ms); /* likewise */
  int (*reward)(void *ctx, const struct reward_row *row);
  int (*frame)(void *ctx, const struct frame *frame);
  int (*outcomes)(void *ctx, const struct outcome *outcomes, size_t count, int64_t now_ns, int64_t wall_ms);
  int (*dead_letter)(void *ctx, const struct dead_letter_row *row);
  /* Waits until every row put before it is on disk (synchronous=FULL). 0, or -errno when that failed, or when
   * a decision (record_is_decision) has been refused since the last one: then the caller must not promise
   * anything. */
  int (*commit)(void *ctx);
};

#endif
