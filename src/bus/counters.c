#include "bus/counters.h"

#define INFO(id, scope, unit, help) {#id, SCOPE_##scope, unit, help},

const struct counter_info counter_infos[COUNTERS] = {
#define COUNTER INFO
#include "bus/counters.def"
};

const struct counter_info gauge_infos[GAUGES] = {
#define GAUGE INFO
#include "bus/counters.def"
};

static const char *const stage_names[STAGES] = {"rag", "assemble", "inference", "post", "stream"};
static const char *const priority_names[PRIORITIES] = {"critical", "high", "normal", "low"};

const char *stage_name(enum stage stage) {
  return stage_names[stage];
}

const char *priority_name(enum priority priority) {
  return priority_names[priority];
}

unsigned counter_labels(enum counter_scope scope, unsigned providers) {
  switch (scope) {
  case SCOPE_STAGE:
    return STAGES;
  case SCOPE_PROVIDER:
    return providers;
  case SCOPE_PRIORITY:
    return PRIORITIES;
  case SCOPE_GLOBAL:
    break;
  }
  return 1;
}

const char *counter_label_key(enum counter_scope scope) {
  static const char *const keys[] = {NULL, "stage", "provider", "priority"};
  return keys[scope];
}

const char *counter_label_name(enum counter_scope scope, unsigned label) {
  if (scope == SCOPE_STAGE) return stage_names[label];
  if (scope == SCOPE_PRIORITY) return priority_names[label];
  return NULL;
}

void counters_sum(const struct counters *c, unsigned providers, struct counter_totals *totals) {
  for (int id = 0; id < COUNTERS; id++)
    for (unsigned label = 0, n = counter_labels(counter_infos[id].scope, providers); label < n; label++)
      totals->value[id][label] += atomic_load_explicit(&c->value[id][label], memory_order_relaxed);
}
