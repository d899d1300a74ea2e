#ifndef PIPELINE_PLANE_H
#define PIPELINE_PLANE_H

/* What all shards of one daemon share: providers with breaker, limit and retry budget, routes, the admission
 * bucket, the coalescing map, tunables and the published route table. An instance, not a global: two fit in
 * one process. Any thread may call; each function says what it locks. */

#include "bus/limits.h"
#include "bus/objective.h"
#include "bus/tunables.h"
#include "pipeline/breaker.h"
#include "pipeline/bucket.h"
#include "pipeline/claim.h"
#include "pipeline/price.h"
#include "pipeline/retry.h"
#include "pipeline/route.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct coalesce;

/* One deployment: a model at a provider. Immutable after plane_create. */
struct provider_spec {
  char name[NAME_SIZE];
  char model[NAME_SIZE]; /* sent upstream; what the answer names */
  struct price price;
  bool local; /* processes that the autoscaler starts and stops */
  uint32_t min_instances, max_instances;
  double usd_per_instance_hour; /* of a local provider; 0: costs nothing more */
};

struct route_spec {
  char name[NAME_SIZE];               /* what `model` in a request may say */
  uint8_t candidates[MAX_CANDIDATES]; /* provider indexes */
  uint8_t candidate_count;
  uint8_t primary_count; /* the first ones are learned among; the rest are fallbacks, used when no primary is
                            available */
  bool sticky, coalesce;
};

struct provider_state {
  struct provider_spec spec;
  _Atomic uint32_t in_flight, tokens_in_flight;
  _Atomic uint32_t ready_instances, starting_instances; /* 1 and 0 for providers that are not local */
  _Atomic int64_t closed_until_ns;                      /* after a 429 */
  struct claim claim;                                   /* of the shard that is next */
  pthread_mutex_t lock;                                 /* guards breaker and budget */
  struct breaker breaker;
  struct retry_budget budget;
};

struct plane {
  struct tunables tunables;
  struct objective objective;
  unsigned provider_count, route_count;
  struct provider_state providers[MAX_PROVIDERS];
  struct route_spec routes[MAX_ROUTES];
  char provider_names[MAX_PROVIDERS][NAME_SIZE]; /* for tunable_find */
  bool rate_limited;                             /* rate_limits.enabled */
  double rate_burst;                             /* rate_limits.burst_capacity */
  pthread_mutex_t bucket_lock;
  struct bucket bucket;
  struct coalesce *coalesce;
  _Atomic int64_t bytes_in_flight;
  _Atomic uint32_t requests_in_flight;
  _Atomic bool draining;
  pthread_mutex_t table_lock;
  struct route_table table;
  _Atomic uint64_t table_version;
  _Atomic uint32_t turn; /* round robin */
};

/* Nobody calls the provider for so long, an hour at most. Returns until when; a moment that is earlier than
 * the one known changes nothing. */
int64_t plane_close_provider(struct plane *plane, unsigned provider, int64_t now_ns, int64_t for_ns);

struct plane_config {
  struct objective objective;
  unsigned provider_count, route_count;
  const struct provider_spec *providers;
  const struct route_spec *routes;
  bool rate_limited;
  double rate_burst;
};

struct plane *plane_create(const struct plane_config *config, int64_t now_ns); /* NULL: out of memory */
void plane_destroy(struct plane *plane);

int plane_find_route(const struct plane *plane, const char *name, size_t size); /* index, or -ENOENT */
int plane_find_provider(const struct plane *plane, const char *name);           /* index, or -ENOENT */

/* The concurrency limit in force: the tunable times the ready instances. */
uint32_t plane_limit(const struct plane *plane, unsigned provider);

void plane_publish(struct plane *plane, const struct route_table *table); /* the loop; locks table_lock */
void plane_copy_table(struct plane *plane, struct route_table *table);    /* shards, when the version moved */

#endif
