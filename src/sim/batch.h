#ifndef SIM_BATCH_H
#define SIM_BATCH_H

/* Many simulated runs, shared out among processes. A run that crashes or cannot start costs only its own
 * result. */

#include "sim/measure.h"
#include "sim/world.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct batch_task {
  const char *scenario, *data; /* file and directory */
  uint64_t seed;
  enum world_arm arm;
  unsigned first; /* WORLD_FIXED */
  bool freeze;    /* one second before the first event */
};

struct batch_window {
  uint64_t intents, complete, in_target, shed, timed_out, calls;
  double utility, goodput, share, quality, usd, instance_usd;
  double ttft_p50_ms, ttft_p95_ms, ttft_p99_ms, tpot_p50_ms, tpot_p95_ms, tpot_p99_ms;
};

struct batch_result {
  char error[256]; /* "" when the run came to its end */
  struct batch_window run, event;
  int64_t event_ns; /* of the first event; the length of the run when there is none */
  double setting_changes, undone;
  uint64_t digest, retries;
  bool conserved; /* every request is accounted for, once */
  size_t minute_count;
  struct measure_minute *minutes;
};

struct batch;

/* Runs all tasks and waits. processes: how many at once; minutes: the longest series to keep. NULL: no
 * memory. */
struct batch *batch_run(const struct batch_task *tasks, size_t count, unsigned processes, size_t minutes);
const struct batch_result *batch_result(const struct batch *batch, size_t i);
void batch_destroy(struct batch *batch);

#endif
