#ifndef BUS_TELEMETRY_H
#define BUS_TELEMETRY_H

/* What one shard measures between two ticks. The shard's thread adds, the ticker takes; a mutex that is free
 * almost always guards the sketches and the outcomes, counters need none. */

#include "bus/counters.h"
#include "bus/outcome.h"
#include "bus/sketch.h"

#include <pthread.h>

enum { OUTCOMES_A_TICK = 65536 }; /* beyond: dropped and counted */

struct telemetry_window {
  struct sketch ttft_ms[MAX_PROVIDERS], tpot_ms[MAX_PROVIDERS]; /* of attempts, as the provider served them */
  struct sketch sojourn_ms[STAGES];                             /* from push to pop */
  double longest_wait_ms[PRIORITIES]; /* in the inference ring, of those that left it */
};

/* Latencies since the start in fixed buckets, for Prometheus: these add up over time and over shards. */
enum { LATENCY_BOUNDS = 14 };

extern const double latency_bounds_ms[LATENCY_BOUNDS];

struct latency_histogram {
  _Atomic uint64_t bucket[LATENCY_BOUNDS + 1]; /* bucket[i]: above bound i - 1, at most bound i */
  _Atomic uint64_t sum_us;
};

struct telemetry {
  struct counters counters;
  struct latency_histogram ttft[MAX_PROVIDERS], tpot[MAX_PROVIDERS]; /* the shard's thread adds, any reads */
  pthread_mutex_t lock;
  struct telemetry_window window; /* under lock */
  struct outcome *outcomes;       /* under lock; grows to OUTCOMES_A_TICK */
  size_t outcome_count, outcome_capacity;
};

struct telemetry *telemetry_create(void); /* NULL: out of memory */
void telemetry_destroy(struct telemetry *t);

void telemetry_ttft(struct telemetry *t, unsigned provider, double ms);
void telemetry_tpot(struct telemetry *t, unsigned provider, double ms);
void telemetry_sojourn(struct telemetry *t, enum stage stage, double ms);
void telemetry_wait(struct telemetry *t, enum priority priority, double ms);
void telemetry_outcome(struct telemetry *t, const struct outcome *outcome);

/* Merges the window into `into` and empties it. */
void telemetry_take_window(struct telemetry *t, unsigned providers, struct telemetry_window *into);

/* Hands over the outcomes: swaps the buffer with *buffer (which may be NULL with capacity 0) and returns how
 * many. */
size_t telemetry_take_outcomes(struct telemetry *t, struct outcome **buffer, size_t *capacity);

void telemetry_window_clear(struct telemetry_window *w, unsigned providers);

#endif
