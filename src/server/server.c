/* Settings, authentication, health, and which part answers which path. */

#include "server/internal.h"

#include "dialect/json_scan.h"
#include "pipeline/plane.h"
#include "store/store.h"
#include "sys/clock.h"
#include "sys/evloop.h"

#include <arpa/inet.h>
#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/sha.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define ARRIVING_SHARE 0.75 /* of the memory */

void server_settings_init(struct server_settings *settings) {
  *settings = (struct server_settings){.host = "127.0.0.1",
                                       .port = 8080,
                                       .shards = 1,
                                       .body_limit = 10 << 20,
                                       .max_connections = 4096,
                                       .max_depth = 128,
                                       .header_timeout_s = 5,
                                       .body_timeout_s = 30,
                                       .idle_timeout_s = 75,
                                       .write_timeout_s = 60,
                                       .drain_s = 10};
}

static bool loopback(const char *host) {
  struct in_addr v4;
  struct in6_addr v6;
  if (!strcmp(host, "localhost")) return true;
  if (inet_pton(AF_INET, host, &v4) == 1) return ntohl(v4.s_addr) >> 24 == 127;
  return inet_pton(AF_INET6, host, &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
}

static bool numeric(const char *host) {
  unsigned char address[16];
  return !strcmp(host, "localhost") || inet_pton(AF_INET, host, address) == 1 ||
         inet_pton(AF_INET6, host, address) == 1;
}

struct range {
  const char *name;
  int64_t value, low, high;
};

int server_settings_check(const struct server_settings *s, char *error, size_t error_size) {
  const struct range ranges[] = {
      {"server.shards", s->shards, 1, MAX_SHARDS},
      {"server.body_limit", (int64_t)s->body_limit, 1024, INT64_C(1) << 30},
      {"server.max_connections", s->max_connections, 1, 1000000},
      {"server.max_depth", s->max_depth, 64, JSON_DEPTH_CEILING},
      {"server.header_timeout_s", s->header_timeout_s, 1, 3600},
      {"server.body_timeout_s", s->body_timeout_s, 1, 3600},
      {"server.idle_timeout_s", s->idle_timeout_s, 1, 86400},
      {"server.write_timeout_s", s->write_timeout_s, 1, 3600},
      {"server.drain_s", s->drain_s, 0, 3600},
  };
  for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++)
    if (ranges[i].value < ranges[i].low || ranges[i].value > ranges[i].high) {
      snprintf(error, error_size, "%s is %lld; allowed: %lld to %lld", ranges[i].name,
               (long long)ranges[i].value, (long long)ranges[i].low, (long long)ranges[i].high);
      return -EINVAL;
    }
  if (!numeric(s->host)) {
    snprintf(error, error_size, "server.host is \"%s\"; give a numeric address such as 127.0.0.1 or ::1",
             s->host);
    return -EINVAL;
  }
  if (!loopback(s->host) && s->key_count == 0) {
    snprintf(error, error_size,
             "server.host is %s, which others can reach, and there are no client keys; set server.keys, or "
             "listen on "
             "127.0.0.1",
             s->host);
    return -EINVAL;
  }
  return 0;
}

void client_key_hash(const char *key, size_t size, struct client_key *out) {
  SHA256((const unsigned char *)key, size, out->digest);
}

static const char *presented_key(const struct exchange *exchange) {
  const char *header = exchange_header(exchange, "Authorization");
  if (header && !strncasecmp(header, "Bearer ", 7)) return header + 7 + strspn(header + 7, " ");
  return exchange_header(exchange, "X-Api-Key");
}

bool server_authorise(struct server *server, struct exchange *exchange, uint64_t *tenant) {
  const struct server_settings *s = server->env.settings;
  *tenant = 0;
  if (s->key_count == 0) return true;
  const char *key = presented_key(exchange);
  struct client_key digest;
  client_key_hash(key ? key : "", key ? strlen(key) : 0, &digest);
  bool known = false;
  for (unsigned i = 0; i < s->key_count; i++) /* all of them: the time tells nothing */
    known |= CRYPTO_memcmp(digest.digest, s->keys[i].digest, KEY_DIGEST_SIZE) == 0;
  if (key && known) {
    memcpy(tenant, digest.digest, sizeof *tenant);
    return true;
  }
  struct refusal_text refusal = {
      401,
      -1,
      "authentication_error",
      "invalid_api_key",
      NULL,
      "The key is missing or unknown. Send Authorization: Bearer KEY with one of the "
      "keys in server.keys."};
  struct front_header header = {"WWW-Authenticate", "Bearer"};
  reply_error(server, exchange, &refusal, &header, 1);
  return false;
}

static unsigned providers_at_hand(struct plane *plane) {
  unsigned n = 0;
  for (unsigned i = 0; i < plane->provider_count; i++) {
    struct provider_state *p = &plane->providers[i];
    pthread_mutex_lock(&p->lock);
    bool open = p->breaker.state == BREAKER_OPEN;
    pthread_mutex_unlock(&p->lock);
    if (!open && atomic_load_explicit(&p->ready_instances, memory_order_relaxed) > 0) n++;
  }
  return n;
}

static char *health_text(struct server *server, int64_t now_ns, bool *ready) {
  struct plane *plane = server->env.plane;
  const char *why = NULL;
  bool draining = atomic_load_explicit(&plane->draining, memory_order_relaxed);
  unsigned at_hand = providers_at_hand(plane);
  if (!server->env.store || store_health(server->env.store, &why)) why = NULL;
  if (at_hand == 0) why = "no provider can be called: all breakers are open or no instance is ready";
  if (draining) why = "the daemon is stopping";
  *ready = !draining && at_hand > 0;
  char *text;
  int n =
      asprintf(&text,
               "{\"status\":\"%s\",\"why\":%s%s%s,\"ready\":%s,\"providers\":%u,\"providers_available\":%u,"
               "\"requests_in_flight\":%u,\"uptime_s\":%lld}",
               why ? "degraded" : "ok", why ? "\"" : "", why ? why : "null", why ? "\"" : "",
               *ready ? "true" : "false", plane->provider_count, at_hand,
               atomic_load_explicit(&plane->requests_in_flight, memory_order_relaxed),
               (long long)((now_ns - server->env.started_ns) / NS_PER_S));
  return n < 0 ? NULL : text;
}

static void health(struct server *server, struct exchange *exchange, int64_t now_ns) {
  if (!reply_is_read(exchange)) {
    reply_method(server, exchange, "GET, HEAD");
    return;
  }
  bool ready;
  char *text = health_text(server, now_ns, &ready);
  bool asks_ready = !strcmp(exchange_path(exchange), "/ready");
  reply_json(server, exchange, asks_ready && !ready ? 503 : 200, text);
}

static void metrics(struct server *server, struct exchange *exchange) {
  uint64_t tenant;
  if (!reply_is_read(exchange)) {
    reply_method(server, exchange, "GET, HEAD");
    return;
  }
  if (!server_authorise(server, exchange, &tenant)) return;
  size_t size;
  char *text = metrics_text(&server->env, &size);
  if (text)
    exchange_reply_owned(exchange, 200, "text/plain; version=0.0.4; charset=utf-8", text, size, NULL, 0);
  else
    reply_json(server, exchange, 503, NULL);
}

/* For bodies that arrive, however many begin and never end: the rest is for requests that are here. */
static bool has_room(void *ctx, size_t more) {
  const struct plane *plane = ((struct server *)ctx)->env.plane;
  double ceiling = ARRIVING_SHARE * tunable_get(&plane->tunables, TUNABLE_memory_mib) * 1048576.0;
  int64_t held = atomic_load_explicit(&plane->bytes_in_flight, memory_order_relaxed);
  return (double)held + (double)more <= ceiling;
}

static void front_refuses(void *ctx, const char *path, int status, char id[FRONT_ID_SIZE]) {
  struct server *server = ctx;
  server_new_id(server, id);
  api_refused(server, path, status == 503);
}

static void handle(void *ctx, struct exchange *exchange, int64_t now_ns) {
  struct server *server = ctx;
  const char *path = exchange_path(exchange);
  if (!strncmp(path, "/v1/", 4))
    api_handle(server, exchange, now_ns);
  else if (!strncmp(path, "/api/v1/", 8))
    admin_handle(server, exchange, now_ns);
  else if (!strcmp(path, "/health") || !strcmp(path, "/live") || !strcmp(path, "/ready"))
    health(server, exchange, now_ns);
  else if (!strcmp(path, "/metrics"))
    metrics(server, exchange);
  else
    reply_simple(
        server, exchange, 404, "invalid_request_error", "not_found",
        "There is nothing at this path. Model requests go to /v1/chat/completions or /v1/prompt, everything "
        "about the daemon is under /api/v1/.");
}

struct server *server_create(const struct server_env *env, char *error, size_t error_size) {
  struct server *server = calloc(1, sizeof *server);
  if (!server) {
    snprintf(error, error_size, "out of memory");
    return NULL;
  }
  const struct server_settings *s = env->settings;
  server->env = *env;
  server->next_id = ((uint64_t)clock_wall_ms() << 20) + ((uint64_t)env->shard << 14);
  struct front_settings settings = {.host = s->host,
                                    .port = env->port,
                                    .reuse_port = env->reuse_port,
                                    .body_limit = s->body_limit,
                                    .max_connections = env->max_connections,
                                    .header_timeout_ns = s->header_timeout_s * NS_PER_S,
                                    .body_timeout_ns = s->body_timeout_s * NS_PER_S,
                                    .idle_timeout_ns = s->idle_timeout_s * NS_PER_S,
                                    .write_timeout_ns = s->write_timeout_s * NS_PER_S,
                                    .held = &env->plane->bytes_in_flight,
                                    .has_room = has_room,
                                    .refuses = front_refuses};
  server->front = front_create(env->loop, &settings, handle, server, error, error_size);
  if (server->front) return server;
  free(server);
  return NULL;
}

void server_destroy(struct server *server) {
  if (!server) return;
  front_destroy(server->front);
  free(server);
}

struct front *server_front(struct server *server) {
  return server->front;
}

unsigned server_busy(const struct server *server) {
  return front_open(server->front) + server->calls;
}
