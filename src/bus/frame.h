#ifndef BUS_FRAME_H
#define BUS_FRAME_H

/* What one tick sees. Counts are differences since the tick before; quantiles and means come from the merged
 * sketches and are NAN where the window was empty: no data is not zero. */

#include "bus/limits.h"

#include <stdbool.h>
#include <stdint.h>

struct frame_stage {
  uint64_t arrivals, completions, sheds;
  uint32_t depth, capacity;
  double sojourn_p50_ms, sojourn_p95_ms;
};

struct frame_provider {
  uint64_t attempts, successes, failures, timeouts, throttled, rejected, cancelled;
  uint64_t retries, fallbacks, limit_refusals;
  uint64_t tokens_in, tokens_out;
  double usd;
  uint32_t in_flight, tokens_in_flight;
  uint32_t limit; /* over all instances */
  uint32_t instances_ready, instances_starting;
  bool local;      /* has instances that the autoscaler may start and stop */
  uint8_t breaker; /* 0 closed, 1 half-open, 2 open */
  bool cooling;    /* closed until a Retry-After has passed */
  uint64_t ttft_count, tpot_count;
  double ttft_mean_ms, ttft_p50_ms, ttft_p95_ms;
  double tpot_mean_ms, tpot_p50_ms, tpot_p95_ms;
};

struct frame {
  int64_t now_ns, wall_ms;
  uint64_t number; /* counts up from 1 */
  double dt_s;     /* since the tick before */
  unsigned providers;
  struct frame_stage stages[STAGES];
  struct frame_provider provider[MAX_PROVIDERS];
  uint64_t received, refused, limited, admitted, answered, dead_lettered, client_gone, coalesced, in_target;
  uint32_t in_flight; /* requests past admission and not finished */
  uint64_t bytes_in_flight;
  double usd;
  double longest_wait_ms[PRIORITIES]; /* in the inference ring */
};

#endif
