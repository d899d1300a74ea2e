/* A turn of a shard: sockets and mail → timers → pipeline → transports → front. The pipeline's hook is added
 * last and so runs first: what came in this turn leaves in this turn.
 *
 * Two mailboxes a shard. The inbox takes what comes back from the ticker and the clerk; the server bounds how
 * much that can be, so it never is full. The other takes flights that landed on another shard; when that is
 * full, the sender keeps the errand and tries again each turn.
 *
 * Stopping: the plane says "draining", each shard closes its listening socket and goes on until it has
 * nothing left, or the limit has passed and it abandons the rest. Threads end only when all shards are idle,
 * since waiters of one shard's flight may live on another. */

#include "shard.h"

#include "bus/telemetry.h"
#include "pipeline/pipeline.h"
#include "pipeline/plane.h"
#include "server/errand.h"
#include "server/server.h"
#include "store/sink.h"
#include "sys/clock.h"
#include "sys/evloop.h"
#include "sys/log.h"
#include "sys/mailbox.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>

enum { FLIGHTS = 4096, BATCH = 64, POLL_MS = 5, FLUSH_S = 2 };

struct shard {
  struct shards *all;
  unsigned number;
  struct evloop *loop;
  struct telemetry *telemetry;
  struct pipeline *pipeline;
  struct server *server;
  struct mailbox *inbox, *flights;
  struct watch inbox_watch, flights_watch;
  struct turn_hook hook;
  struct errand *unsent; /* flights that found another shard's mailbox full */
  pthread_t thread;
  bool attached, running, abandoned;
  _Atomic bool draining, abandon, idle;
};

struct shards {
  struct shard_settings settings;
  unsigned count;
  uint16_t port;
  struct shard *list[MAX_SHARDS];
  struct telemetry *telemetries[MAX_SHARDS];
  struct pipeline *pipelines[MAX_SHARDS];
};

struct flight_errand {
  struct errand errand;
  struct shard *target;
  struct flight *flight;
};

static void run_mail(struct mailbox *box, int64_t now_ns) {
  void *items[BATCH];
  size_t n;
  while ((n = mailbox_take(box, items, BATCH)) > 0)
    for (size_t i = 0; i < n; i++) {
      struct errand *errand = items[i];
      errand->run(errand, now_ns);
    }
}

static void on_inbox(struct watch *watch, uint32_t events, int64_t now_ns) {
  (void)events;
  run_mail(((struct shard *)((char *)watch - offsetof(struct shard, inbox_watch)))->inbox, now_ns);
}

static void on_flights(struct watch *watch, uint32_t events, int64_t now_ns) {
  (void)events;
  run_mail(((struct shard *)((char *)watch - offsetof(struct shard, flights_watch)))->flights, now_ns);
}

static void deliver(struct errand *errand, int64_t now_ns) {
  struct flight_errand *e = (struct flight_errand *)errand;
  pipeline_deliver_flight(e->target->pipeline, e->flight, now_ns);
  free(e);
}

/* The pipeline's: another shard has requests that wait for this flight. */
static void wake_other(void *ctx, struct pipeline *other, struct flight *flight) {
  struct shard *own = ctx, *target = NULL;
  for (unsigned i = 0; i < own->all->count && !target; i++)
    if (own->all->pipelines[i] == other) target = own->all->list[i];
  struct flight_errand *e = target ? malloc(sizeof *e) : NULL;
  if (!e) {
    log_error("shard", "out of memory: requests that share an answer will run into their deadline");
    return;
  }
  *e = (struct flight_errand){.errand.run = deliver, .target = target, .flight = flight};
  if (mailbox_post(target->flights, e) == 0) return;
  e->errand.next = own->unsent;
  own->unsent = &e->errand;
}

static void send_again(struct shard *shard) {
  while (shard->unsent) {
    struct flight_errand *e = (struct flight_errand *)shard->unsent;
    struct errand *next = e->errand.next; /* read first: once posted it is the other's */
    if (mailbox_post(e->target->flights, e) < 0) return;
    shard->unsent = next;
  }
}

static int keep_dead_letter(void *ctx, const struct dead_letter *letter) {
  const struct store_sink *sink = ((struct shard *)ctx)->all->settings.sink;
  struct dead_letter_row row = {.request = letter->id,
                                .wall_ms = clock_wall_ms(),
                                .id_text = letter->id_text,
                                .route = letter->route,
                                .provider = letter->provider,
                                .reason = letter->reason,
                                .detail = letter->detail,
                                .status = letter->status,
                                .attempts = (int)letter->attempts,
                                .priority = (int)letter->priority,
                                .stream = letter->stream,
                                .session = letter->session,
                                .tenant = letter->tenant,
                                .path = letter->path,
                                .body = letter->body,
                                .body_size = letter->body_size};
  return sink->dead_letter(sink->ctx, &row);
}

static void drain(struct shard *shard, int64_t now_ns) {
  front_stop_accepting(server_front(shard->server));
  if (atomic_load(&shard->abandon) && !shard->abandoned) {
    shard->abandoned = true;
    pipeline_abandon(shard->pipeline, now_ns);
    pipeline_run(shard->pipeline, now_ns);
  }
  bool idle = pipeline_load(shard->pipeline) == 0 && server_busy(shard->server) == 0 && !shard->unsent;
  atomic_store(&shard->idle, idle);
}

static bool on_turn(struct turn_hook *hook, int64_t now_ns) {
  struct shard *shard = (struct shard *)((char *)hook - offsetof(struct shard, hook));
  bool more = pipeline_run(shard->pipeline, now_ns);
  if (shard->unsent) send_again(shard);
  if (atomic_load_explicit(&shard->draining, memory_order_relaxed)) drain(shard, now_ns);
  return more || shard->unsent;
}

static void *work(void *arg) {
  evloop_run(((struct shard *)arg)->loop);
  return NULL;
}

/* ---- building ---- */

static int make_pipeline(struct shard *shard, char *error, size_t error_size) {
  struct shards *all = shard->all;
  struct pipeline_env env = {.plane = all->settings.plane,
                             .timers = evloop_timers(shard->loop),
                             .telemetry = shard->telemetry,
                             .seed = all->settings.seed,
                             .shard = shard->number,
                             .first_id = (uint64_t)all->settings.wall_ms << 22,
                             .ctx = shard,
                             .dead_letter = all->settings.sink ? keep_dead_letter : NULL,
                             .wake = all->count > 1 ? wake_other : NULL};
  const struct shard_transport *transport = &all->settings.transport;
  int status =
      transport->attach(transport->ctx, shard->number, shard->loop, env.upstreams, error, error_size);
  shard->attached = status == 0;
  if (status == 0) shard->pipeline = pipeline_create(&env, clock_now_ns());
  all->pipelines[shard->number] = shard->pipeline;
  return shard->pipeline ? 0 : -1;
}

static int make_server(struct shard *shard, unsigned connections, char *error, size_t error_size) {
  struct shards *all = shard->all;
  const struct shard_settings *s = &all->settings;
  struct server_env env = {.settings = s->server,
                           .shard = shard->number,
                           .shards = all->count,
                           .loop = shard->loop,
                           .plane = s->plane,
                           .pipeline = shard->pipeline,
                           .pipelines = all->pipelines,
                           .telemetries = all->telemetries,
                           .inbox = shard->inbox,
                           .commands = s->commands,
                           .clerk = s->clerk,
                           .store = s->store,
                           .port = all->port,
                           .reuse_port = all->count > 1,
                           .max_connections = (connections + all->count - 1) / all->count,
                           .started_ns = clock_now_ns()};
  shard->server = server_create(&env, error, error_size);
  if (!shard->server) return -1;
  all->port = front_port(server_front(shard->server));
  return 0;
}

static int build(struct shard *shard, unsigned connections, char *error, size_t error_size) {
  shard->loop = evloop_create();
  shard->telemetry = telemetry_create();
  shard->inbox = mailbox_create(SERVER_ERRANDS);
  shard->flights = mailbox_create(FLIGHTS);
  if (!shard->loop || !shard->telemetry || !shard->inbox || !shard->flights) return -1;
  shard->all->telemetries[shard->number] = shard->telemetry;
  shard->inbox_watch = (struct watch){.fd = mailbox_fd(shard->inbox), .ready = on_inbox};
  shard->flights_watch = (struct watch){.fd = mailbox_fd(shard->flights), .ready = on_flights};
  if (evloop_watch(shard->loop, &shard->inbox_watch, EPOLLIN) < 0) return -1;
  if (evloop_watch(shard->loop, &shard->flights_watch, EPOLLIN) < 0) return -1;
  if (make_pipeline(shard, error, error_size) < 0) return -1;
  if (make_server(shard, connections, error, error_size) < 0) return -1;
  shard->hook.run = on_turn;
  evloop_add_hook(shard->loop, &shard->hook);
  return 0;
}

static int claim(struct shards *all, bool *busy, char *error, size_t error_size) {
  const struct server_settings *s = all->settings.server;
  int status = s->port ? front_claim(s->host, s->port) : 0;
  if (busy) *busy = status == -EADDRINUSE;
  if (status < 0)
    snprintf(error, error_size,
             "cannot listen on %s port %u: %s; stop what listens there or choose another port", s->host,
             s->port, strerror(-status));
  return status;
}

struct shards *shards_create(const struct shard_settings *settings, bool *busy, char *error,
                             size_t error_size) {
  snprintf(error, error_size, "out of memory or descriptors; raise ulimit -n");
  if (busy) *busy = false;
  struct shards *all = calloc(1, sizeof *all);
  if (!all) return NULL;
  all->settings = *settings;
  all->count = settings->server->shards;
  all->port = settings->server->port;
  unsigned wanted = settings->server->max_connections, connections = front_raise_descriptors(wanted);
  if (connections < wanted)
    log_warn("shard", "only %u connections instead of %u: raise ulimit -n", connections, wanted);
  bool fine = claim(all, busy, error, error_size) == 0;
  for (unsigned i = 0; fine && i < all->count; i++) {
    struct shard *shard = all->list[i] = calloc(1, sizeof *shard);
    if (shard) {
      shard->all = all;
      shard->number = i;
    }
    fine = shard && build(shard, connections, error, error_size) == 0;
  }
  if (fine) return all;
  shards_destroy(all);
  return NULL;
}

int shards_start(struct shards *all) {
  for (unsigned i = 0; i < all->count; i++) {
    struct shard *shard = all->list[i];
    int status = pthread_create(&shard->thread, NULL, work, shard);
    if (status != 0) {
      shards_stop(all);
      return -status;
    }
    shard->running = true;
  }
  return 0;
}

/* ---- stopping ---- */

static bool all_idle(const struct shards *all) {
  for (unsigned i = 0; i < all->count; i++)
    if (all->list[i]->running && !atomic_load(&all->list[i]->idle)) return false;
  return true;
}

static void wake_all(struct shards *all) {
  for (unsigned i = 0; i < all->count; i++)
    if (all->list[i]->running) evloop_wake(all->list[i]->loop);
}

static bool wait_idle(struct shards *all, int64_t limit_ns) {
  int64_t until_ns = clock_now_ns() + limit_ns;
  const struct timespec pause = {.tv_nsec = POLL_MS * NS_PER_MS};
  while (!all_idle(all)) {
    if (clock_now_ns() >= until_ns) return false;
    wake_all(all);
    nanosleep(&pause, NULL);
  }
  return true;
}

void shards_stop(struct shards *all) {
  atomic_store(&all->settings.plane->draining, true);
  for (unsigned i = 0; i < all->count; i++)
    atomic_store(&all->list[i]->draining, true);
  if (!wait_idle(all, all->settings.server->drain_s * NS_PER_S)) {
    log_warn("shard", "requests are left after %d s: they are answered with 503 and kept as dead letters",
             all->settings.server->drain_s);
    for (unsigned i = 0; i < all->count; i++)
      atomic_store(&all->list[i]->abandon, true);
    if (!wait_idle(all, FLUSH_S * NS_PER_S)) log_warn("shard", "some clients did not read their answer");
  }
  for (unsigned i = 0; i < all->count; i++) {
    struct shard *shard = all->list[i];
    if (!shard->running) continue;
    evloop_stop(shard->loop);
    pthread_join(shard->thread, NULL);
    shard->running = false;
  }
}

static void drop_flights(struct shard *shard) {
  if (shard->flights) run_mail(shard->flights, clock_now_ns());
  while (shard->unsent) {
    struct errand *errand = shard->unsent;
    shard->unsent = errand->next;
    errand->run(errand, clock_now_ns());
  }
}

static void dismantle(struct shard *shard) {
  const struct shard_transport *transport = &shard->all->settings.transport;
  server_destroy(shard->server);
  if (shard->attached) transport->detach(transport->ctx, shard->number);
  pipeline_destroy(shard->pipeline);
  mailbox_destroy(shard->flights);
  mailbox_destroy(shard->inbox);
  telemetry_destroy(shard->telemetry);
  evloop_destroy(shard->loop);
  free(shard);
}

void shards_destroy(struct shards *all) {
  if (!all) return;
  for (unsigned i = 0; i < all->count; i++)
    if (all->list[i] && all->list[i]->pipeline) drop_flights(all->list[i]);
  for (unsigned i = all->count; i-- > 0;)
    if (all->list[i]) dismantle(all->list[i]);
  free(all);
}

uint16_t shards_port(const struct shards *all) {
  return all->port;
}

unsigned shards_count(const struct shards *all) {
  return all->count;
}

struct telemetry *const *shards_telemetries(const struct shards *all) {
  return all->telemetries;
}

struct pipeline *const *shards_pipelines(const struct shards *all) {
  return all->pipelines;
}
