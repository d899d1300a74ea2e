#ifndef BUS_COUNTERS_H
#define BUS_COUNTERS_H

/* The counters of one shard. Only the shard's thread adds; any thread may read. Adding is a relaxed load and
 * store. */

#include "bus/limits.h"

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

enum counter_scope { SCOPE_GLOBAL, SCOPE_STAGE, SCOPE_PROVIDER, SCOPE_PRIORITY };

enum counter_id {
#define COUNTER(id, scope, unit, help) COUNTER_##id,
#include "bus/counters.def"
  COUNTERS
};

enum gauge_id {
#define GAUGE(id, scope, unit, help) GAUGE_##id,
#include "bus/counters.def"
  GAUGES
};

struct counter_info {
  const char *name; /* without prefix and suffix */
  enum counter_scope scope;
  const char *unit, *help;
};

extern const struct counter_info counter_infos[COUNTERS];
extern const struct counter_info gauge_infos[GAUGES];

struct counters {
  _Atomic uint64_t
      value[COUNTERS][MAX_PROVIDERS]; /* the second index is the label: stage, provider, priority or 0 */
};

/* A summed copy, as a scrape or a tick takes it. */
struct counter_totals {
  uint64_t value[COUNTERS][MAX_PROVIDERS];
};

static inline void counter_add(struct counters *c, enum counter_id id, unsigned label, uint64_t n) {
  _Atomic uint64_t *v = &c->value[id][label];
  atomic_store_explicit(v, atomic_load_explicit(v, memory_order_relaxed) + n, memory_order_relaxed);
}

/* How many labels a scope has: 1, STAGES, providers or PRIORITIES. */
unsigned counter_labels(enum counter_scope scope, unsigned providers);

/* The label's name ("rag", "critical"); for providers the caller knows it: NULL. */
const char *counter_label_name(enum counter_scope scope, unsigned label);
const char *
counter_label_key(enum counter_scope scope); /* "stage", "provider", "priority"; NULL for global */

const char *stage_name(enum stage stage);
const char *priority_name(enum priority priority);

/* totals += c, for the labels in use. */
void counters_sum(const struct counters *c, unsigned providers, struct counter_totals *totals);

#endif
