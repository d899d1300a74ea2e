#include "pipeline/plane.h"

#include "pipeline/coalesce.h"
#include "sys/clock.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* A provider is asked again after an hour whatever it said: that costs one request, and a wrong unit or clock
 * would close it for days. */
#define LONGEST_CLOSED_NS (3600 * NS_PER_S)

static void init_provider(struct provider_state *p, const struct provider_spec *spec) {
  p->spec = *spec;
  pthread_mutex_init(&p->lock, NULL);
  breaker_init(&p->breaker);
  atomic_init(&p->ready_instances, spec->local ? 0 : 1);
}

struct plane *plane_create(const struct plane_config *config, int64_t now_ns) {
  struct plane *plane = calloc(1, sizeof *plane);
  if (!plane) return NULL;
  plane->coalesce = coalesce_create();
  if (!plane->coalesce) {
    free(plane);
    return NULL;
  }
  tunables_init(&plane->tunables);
  plane->objective = config->objective;
  plane->provider_count = config->provider_count;
  plane->route_count = config->route_count;
  for (unsigned i = 0; i < config->provider_count; i++) {
    init_provider(&plane->providers[i], &config->providers[i]);
    memcpy(plane->provider_names[i], config->providers[i].name, NAME_SIZE);
  }
  memcpy(plane->routes, config->routes, config->route_count * sizeof *config->routes);
  plane->rate_limited = config->rate_limited;
  plane->rate_burst = config->rate_burst;
  pthread_mutex_init(&plane->bucket_lock, NULL);
  pthread_mutex_init(&plane->table_lock, NULL);
  bucket_init(&plane->bucket, config->rate_burst, now_ns);
  return plane;
}

void plane_destroy(struct plane *plane) {
  if (!plane) return;
  for (unsigned i = 0; i < plane->provider_count; i++)
    pthread_mutex_destroy(&plane->providers[i].lock);
  pthread_mutex_destroy(&plane->bucket_lock);
  pthread_mutex_destroy(&plane->table_lock);
  coalesce_destroy(plane->coalesce);
  free(plane);
}

int plane_find_route(const struct plane *plane, const char *name, size_t size) {
  for (unsigned i = 0; i < plane->route_count; i++)
    if (strlen(plane->routes[i].name) == size && memcmp(plane->routes[i].name, name, size) == 0)
      return (int)i;
  return -ENOENT;
}

int plane_find_provider(const struct plane *plane, const char *name) {
  for (unsigned i = 0; i < plane->provider_count; i++)
    if (strcmp(plane->provider_names[i], name) == 0) return (int)i;
  return -ENOENT;
}

uint32_t plane_limit(const struct plane *plane, unsigned provider) {
  struct provider_state *p = (struct provider_state *)&plane->providers[provider];
  uint32_t each = (uint32_t)tunable_of(&plane->tunables, TUNABLE_concurrency_limit, provider);
  return each * atomic_load_explicit(&p->ready_instances, memory_order_relaxed);
}

void plane_publish(struct plane *plane, const struct route_table *table) {
  pthread_mutex_lock(&plane->table_lock);
  plane->table = *table;
  pthread_mutex_unlock(&plane->table_lock);
  atomic_store_explicit(&plane->table_version, table->version, memory_order_release);
}

void plane_copy_table(struct plane *plane, struct route_table *table) {
  pthread_mutex_lock(&plane->table_lock);
  *table = plane->table;
  pthread_mutex_unlock(&plane->table_lock);
}

int64_t plane_close_provider(struct plane *plane, unsigned provider, int64_t now_ns, int64_t for_ns) {
  _Atomic int64_t *closed = &plane->providers[provider].closed_until_ns;
  int64_t known = atomic_load_explicit(closed, memory_order_relaxed);
  int64_t until_ns = now_ns + (for_ns < LONGEST_CLOSED_NS ? for_ns : LONGEST_CLOSED_NS);
  while (until_ns > known && !atomic_compare_exchange_weak(closed, &known, until_ns))
    continue;
  return until_ns;
}
