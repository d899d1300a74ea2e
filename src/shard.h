#ifndef SHARD_H
#define SHARD_H

/* One event-loop thread with all that serves requests: front, upstreams, pipeline, mailbox. A request lives
 * on its shard from accept to last byte. Two things cross between shards: an answer that coalesced requests
 * of another shard wait for, and what comes back from the ticker and the clerk; both travel through the
 * mailbox. */

#include "bus/limits.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct clerk;
struct evloop;
struct mailbox;
struct pipeline;
struct plane;
struct server_settings;
struct shard;
struct store;
struct store_sink;
struct telemetry;
struct upstream;

/* Makes the transports of one shard, one a provider, on its loop; undoes it. attach returns 0 or -errno (and
 * says why in error). Both are called while the shard's thread does not run. */
struct shard_transport {
  void *ctx;
  int (*attach)(void *ctx, unsigned shard, struct evloop *loop, struct upstream *upstreams[MAX_PROVIDERS],
                char *error, size_t error_size);
  void (*detach)(void *ctx, unsigned shard);
};

/* All shards of one daemon. What the pointers lead to outlives the shards. */
struct shard_settings {
  const struct server_settings *server;
  struct plane *plane;
  struct shard_transport transport;
  const struct store_sink *sink; /* takes the dead letters; NULL: they are off */
  const struct store *store;     /* for health; NULL: none */
  struct clerk *clerk;           /* NULL: no database */
  struct mailbox *commands;      /* of the ticker */
  uint64_t seed;
  int64_t wall_ms; /* now: request ids start from it */
};

struct shards;

/* Claims the port, then builds server->shards shards. Nothing is served before shards_start. NULL: error says
 * what failed and what to do; busy (may be NULL) tells that the port was taken. */
struct shards *shards_create(const struct shard_settings *settings, bool *busy, char *error,
                             size_t error_size);
int shards_start(struct shards *shards); /* 0 or -errno */

/* Stops accepting, waits for requests in flight (server->drain_s at most), dead-letters the rest, flushes the
 * answers, ends the threads. The ticker and the clerk must still run. */
void shards_stop(struct shards *shards);
void shards_destroy(struct shards *shards); /* after shards_stop, or when never started; NULL is fine */

uint16_t shards_port(const struct shards *shards);
unsigned shards_count(const struct shards *shards);

/* For loop_config: one entry a shard. */
struct telemetry *const *shards_telemetries(const struct shards *shards);
struct pipeline *const *shards_pipelines(const struct shards *shards);

#endif
