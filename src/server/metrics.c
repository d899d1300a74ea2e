/* The Prometheus text format 0.0.4, generated from counters.def. Label values come from the configuration
 * only: what clients send never becomes a series. */

#include "server/internal.h"

#include "bus/telemetry.h"
#include "dialect/buffer.h"
#include "pipeline/pipeline.h"
#include "pipeline/plane.h"
#include "store/store.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define PREFIX "self_improve_"

static void label_value(struct buffer *out, const char *text) {
  for (; *text; text++) {
    if (*text == '"' || *text == '\\') buffer_append(out, "\\", 1);
    if (*text == '\n')
      buffer_text(out, "\\n");
    else
      buffer_append(out, text, 1);
  }
}

static void labels(struct buffer *out, const struct plane *plane, enum counter_scope scope, unsigned label) {
  const char *key = counter_label_key(scope);
  if (!key) return;
  const char *value = counter_label_name(scope, label);
  buffer_format(out, "{%s=\"", key);
  label_value(out, value ? value : plane->provider_names[label]);
  buffer_text(out, "\"}");
}

static void head(struct buffer *out, const char *name, const char *suffix, const char *help, const char *unit,
                 const char *type) {
  buffer_format(out, "# HELP " PREFIX "%s%s %s (%s)\n# TYPE " PREFIX "%s%s %s\n", name, suffix, help, unit,
                name, suffix, type);
}

static void write_counters(struct buffer *out, const struct server_env *env) {
  struct counter_totals totals;
  memset(&totals, 0, sizeof totals);
  unsigned providers = env->plane->provider_count;
  for (unsigned i = 0; i < env->shards; i++)
    counters_sum(&env->telemetries[i]->counters, providers, &totals);
  for (int id = 0; id < COUNTERS; id++) {
    const struct counter_info *info = &counter_infos[id];
    head(out, info->name, "_total", info->help, info->unit, "counter");
    for (unsigned label = 0; label < counter_labels(info->scope, providers); label++) {
      buffer_format(out, PREFIX "%s_total", info->name);
      labels(out, env->plane, info->scope, label);
      buffer_format(out, " %" PRIu64 "\n", totals.value[id][label]);
    }
  }
}

static unsigned breaker_state(struct provider_state *p) {
  pthread_mutex_lock(&p->lock);
  enum breaker_state state = p->breaker.state;
  pthread_mutex_unlock(&p->lock);
  return (unsigned)state;
}

static double gauge_value(const struct server_env *env, enum gauge_id id, unsigned label) {
  struct plane *plane = env->plane;
  struct provider_state *p = &plane->providers[label < MAX_PROVIDERS ? label : 0];
  size_t depth = 0;
  switch (id) {
  case GAUGE_stage_depth:
    for (unsigned i = 0; i < env->shards; i++)
      depth += pipeline_depth(env->pipelines[i], (enum stage)label);
    return (double)depth;
  case GAUGE_provider_in_flight:
    return atomic_load(&p->in_flight);
  case GAUGE_provider_tokens_in_flight:
    return atomic_load(&p->tokens_in_flight);
  case GAUGE_provider_limit:
    return plane_limit(plane, label);
  case GAUGE_provider_instances:
    return atomic_load(&p->ready_instances);
  case GAUGE_provider_breaker:
    return breaker_state(p);
  case GAUGE_bytes_in_flight:
    return (double)atomic_load(&plane->bytes_in_flight);
  case GAUGE_requests_in_flight:
    return atomic_load(&plane->requests_in_flight);
  case GAUGE_dead_letters_evicted:
    return env->store ? (double)store_dead_letters_evicted(env->store) : 0;
  case GAUGE_store_rows_dropped:
    return env->store ? (double)store_dropped(env->store) : 0;
  case GAUGES:
    break;
  }
  return 0;
}

static void write_gauges(struct buffer *out, const struct server_env *env) {
  for (int id = 0; id < GAUGES; id++) {
    const struct counter_info *info = &gauge_infos[id];
    head(out, info->name, "", info->help, info->unit, "gauge");
    for (unsigned label = 0; label < counter_labels(info->scope, env->plane->provider_count); label++) {
      buffer_format(out, PREFIX "%s", info->name);
      labels(out, env->plane, info->scope, label);
      buffer_format(out, " %.17g\n", gauge_value(env, (enum gauge_id)id, label));
    }
  }
}

struct latency {
  const char *name, *help;
  size_t offset; /* of the histograms in struct telemetry */
};

static void write_latency(struct buffer *out, const struct server_env *env, const struct latency *latency,
                          unsigned provider) {
  uint64_t bucket[LATENCY_BOUNDS + 1] = {0}, sum_us = 0, count = 0;
  for (unsigned i = 0; i < env->shards; i++) {
    const char *base = (const char *)env->telemetries[i] + latency->offset;
    struct latency_histogram *h = (struct latency_histogram *)base + provider;
    for (int b = 0; b <= LATENCY_BOUNDS; b++)
      bucket[b] += atomic_load_explicit(&h->bucket[b], memory_order_relaxed);
    sum_us += atomic_load_explicit(&h->sum_us, memory_order_relaxed);
  }
  const char *name = env->plane->provider_names[provider];
  for (int b = 0; b <= LATENCY_BOUNDS; b++) {
    count += bucket[b];
    buffer_format(out, PREFIX "%s_bucket{provider=\"", latency->name);
    label_value(out, name);
    if (b < LATENCY_BOUNDS)
      buffer_format(out, "\",le=\"%g\"} %" PRIu64 "\n", latency_bounds_ms[b] / 1000, count);
    else
      buffer_format(out, "\",le=\"+Inf\"} %" PRIu64 "\n", count);
  }
  buffer_format(out, PREFIX "%s_sum{provider=\"", latency->name);
  label_value(out, name);
  buffer_format(out, "\"} %.6f\n" PREFIX "%s_count{provider=\"", (double)sum_us / 1e6, latency->name);
  label_value(out, name);
  buffer_format(out, "\"} %" PRIu64 "\n", count);
}

char *metrics_text(const struct server_env *env, size_t *size) {
  static const struct latency latencies[] = {
      {"ttft_seconds", "time to the first token of a call", offsetof(struct telemetry, ttft)},
      {"tpot_seconds", "time per output token after the first", offsetof(struct telemetry, tpot)},
  };
  struct buffer out = {0};
  write_counters(&out, env);
  write_gauges(&out, env);
  for (size_t i = 0; i < sizeof latencies / sizeof *latencies; i++) {
    head(&out, latencies[i].name, "", latencies[i].help, "seconds", "histogram");
    for (unsigned p = 0; p < env->plane->provider_count; p++)
      write_latency(&out, env, &latencies[i], p);
  }
  return buffer_take(&out, size);
}
