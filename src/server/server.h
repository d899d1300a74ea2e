#ifndef SERVER_SERVER_H
#define SERVER_SERVER_H

/* The HTTP face of one shard: the public API (api.h), the admin API (admin.h) and the metrics behind one
 * front. Its settings are filled by the configuration. */

#include "server/front.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct clerk;
struct evloop;
struct mailbox;
struct pipeline;
struct plane;
struct server;
struct store;
struct telemetry;

enum { MAX_CLIENT_KEYS = 64, MAX_SHARDS = 64, KEY_DIGEST_SIZE = 32, SERVER_ERRANDS = 256 };

struct client_key {
  unsigned char digest[KEY_DIGEST_SIZE]; /* SHA-256 of the key; the key itself is kept nowhere */
};

struct server_settings {
  char host[64];            /* numeric address; "localhost" is 127.0.0.1 */
  uint16_t port;            /* 0: any free one */
  unsigned shards;          /* event loops; 1 to MAX_SHARDS */
  size_t body_limit;        /* bytes */
  unsigned max_connections; /* over all shards */
  unsigned max_depth;       /* of nested JSON in a request */
  int header_timeout_s, body_timeout_s, idle_timeout_s, write_timeout_s;
  int drain_s;        /* how long a stop waits for requests in flight */
  unsigned key_count; /* 0: no authentication; only allowed on loopback */
  struct client_key keys[MAX_CLIENT_KEYS];
};

/* 127.0.0.1:8080, one shard, 10 MiB bodies, 4096 connections, depth 128, time-outs 5, 30, 75, 60 s, drain 10
 * s, no key. */
void server_settings_init(struct server_settings *settings);

/* 0, or -EINVAL: error then says which value is wrong, what is allowed and what to do. Off loopback without
 * keys is refused. */
int server_settings_check(const struct server_settings *settings, char *error, size_t error_size);

void client_key_hash(const char *key, size_t size, struct client_key *out);

struct server_env {
  const struct server_settings *settings; /* outlives the server */
  unsigned shard;                         /* this one's number */
  unsigned shards;
  struct evloop *loop;
  struct plane *plane;
  struct pipeline *pipeline;            /* of this shard */
  struct pipeline *const *pipelines;    /* of all shards, for the gauges */
  struct telemetry *const *telemetries; /* of all shards */
  struct mailbox *inbox;                /* of this shard: takes struct errand */
  struct mailbox *commands;             /* of the ticker: takes struct command, calls its done() */
  struct clerk *clerk;                  /* reads the database for all shards; NULL: no database */
  const struct store *store;            /* for health; NULL: none */
  uint16_t port; /* settings->port, or what it became: 0 is chosen once for all shards */
  bool reuse_port;
  unsigned max_connections; /* of this shard */
  int64_t started_ns;
};

/* Binds and serves from the next turn of the loop on. NULL: error says why and what to do. */
struct server *server_create(const struct server_env *env, char *error, size_t error_size);
void server_destroy(struct server *server); /* every exchange must have been answered or is cut */

struct front *server_front(struct server *server);

/* Model and admin requests that have no answer yet or whose answer is still being sent. */
unsigned server_busy(const struct server *server);

#endif
