/* A slot holds one instance through its life:
 *
 *   FREE → STARTING → READY → DRAINING → ENDING → GONE → FREE
 *              └─────────┴────────┴─────────┘ (the process ended by itself, was not ready in time, or hangs)
 *
 * Only the pool's thread changes a slot's state, under the lock; shards read it under the lock when they take
 * an instance, and count their calls with an atomic. A slot that is GONE becomes free when its last call has
 * been given back. The thread looks at everything ten times a second, so a new number of instances is acted
 * on within 100 ms; in between it reads what the children say.
 *
 * A process can live and serve nobody. So a ready instance is asked for its health every few seconds, one
 * instance a tick, since asking blocks; after SILENCES refusals in a row it is killed, which also ends the
 * calls that it kept, and the next tick starts another.
 *
 * Lock order: `lock` is a leaf; nothing is called under it that locks. */

#include "provider/local.h"

#include "bus/tunables.h"
#include "pipeline/plane.h"
#include "provider/process.h"
#include "provider/provider.h"
#include "provider/wire.h"
#include "sys/clock.h"
#include "sys/evloop.h"
#include "sys/log.h"
#include "sys/timer.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

enum { OUTPUT_SIZE = 1024, ADDRESS_SIZE = 128, BACKOFF_STEPS = 6 };

/* A server that works hard may be slow to say that it is well; a cold one is asked again soon anyway. */
enum { FIRST_CHECK_MS = 300, RECHECK_MS = 1000, SILENCES = 3 };

#define TICK_NS (100 * NS_PER_MS)
#define START_NS (120 * NS_PER_S)
#define DRAIN_NS (30 * NS_PER_S)
#define TERM_NS (5 * NS_PER_S)       /* from SIGTERM to SIGKILL */
#define LAST_TERM_NS NS_PER_S        /* the same when the daemon ends */
#define BACKOFF_NS (500 * NS_PER_MS) /* before the first restart; doubles */
#define HEALTH_NS (5 * NS_PER_S)
#define PROVEN_NS (10 * NS_PER_S) /* an instance that was ready for so long has proven its command */

enum slot_state { FREE, STARTING, READY, DRAINING, ENDING, GONE };

struct local_instance {
  struct local_pool *pool;
  enum slot_state state;
  unsigned provider;
  pid_t pid;
  struct watch output;
  char said[OUTPUT_SIZE]; /* its last line so far, until one held the address */
  size_t said_size;
  char address[ADDRESS_SIZE], url[ADDRESS_SIZE + 32];
  int64_t since_ns, due_ns; /* in this state; when the next step is due */
  int64_t look_ns;          /* READY: when it is asked again whether it is well */
  unsigned silences;        /* how often in a row it was not */
  _Atomic unsigned calls;
};

struct local_provider {
  unsigned wanted, failures; /* in a row */
  int64_t not_before_ns;     /* back-off */
};

struct local_pool {
  struct plane *plane;
  const struct provider_settings *settings;
  unsigned count;
  struct evloop *loop;
  struct timer tick;
  pthread_t thread;
  pthread_mutex_t lock; /* states of slots, wanted, stop_asked, stop_by_ns */
  bool stop_asked;
  int64_t stop_by_ns;
  bool stopping; /* the thread's own, as last read from the two above */
  int64_t drain_until_ns;
  struct local_provider providers[MAX_PROVIDERS];
  struct local_instance slots[LOCAL_MAX_INSTANCES];
};

static void enter(struct local_instance *i, enum slot_state state, int64_t now_ns, int64_t due_ns) {
  pthread_mutex_lock(&i->pool->lock);
  i->state = state;
  i->since_ns = now_ns;
  i->due_ns = due_ns;
  pthread_mutex_unlock(&i->pool->lock);
}

static const char *name_of(const struct local_instance *i) {
  return i->pool->settings[i->provider].name;
}

/* ---- output of children ---- */

static void close_output(struct local_instance *i) {
  if (i->output.fd < 0) return;
  evloop_watch(i->pool->loop, &i->output, 0);
  close(i->output.fd);
  i->output.fd = -1;
}

static void find_address(struct local_instance *i) {
  char why[8];
  if (i->address[0] || !process_find_address(i->said, i->said_size, i->address, sizeof i->address)) return;
  if (provider_chat_url(i->address, i->url, sizeof i->url, why, sizeof why) < 0) i->address[0] = '\0';
}

/* Keeps the line that has begun; one that fills the room is no address. */
static void drop_lines(struct local_instance *i) {
  const char *end = memrchr(i->said, '\n', i->said_size);
  size_t begun = end ? i->said_size - (size_t)(end + 1 - i->said) : i->said_size;
  memmove(i->said, i->said + i->said_size - begun, begun);
  i->said_size = begun < sizeof i->said ? begun : 0;
}

/* All of it is read, so that no child ever waits for us; what follows the address is not looked at. */
static void read_output(struct watch *watch, uint32_t events, int64_t now_ns) {
  struct local_instance *i =
      (struct local_instance *)((char *)watch - offsetof(struct local_instance, output));
  char rest[4096];
  (void)events;
  (void)now_ns;
  bool looking = !i->address[0];
  ssize_t n = looking ? read(watch->fd, i->said + i->said_size, sizeof i->said - i->said_size)
                      : read(watch->fd, rest, sizeof rest);
  if (n == 0) close_output(i);
  if (n <= 0 || !looking) return;
  i->said_size += (size_t)n;
  find_address(i);
  drop_lines(i);
}

/* ---- one instance ---- */

static void back_off(struct local_pool *pool, unsigned provider, int64_t now_ns) {
  struct local_provider *p = &pool->providers[provider];
  unsigned doubled = p->failures < BACKOFF_STEPS ? p->failures : BACKOFF_STEPS;
  p->failures++;
  p->not_before_ns = now_ns + (BACKOFF_NS << doubled);
}

static void start_instance(struct local_pool *pool, unsigned provider, struct local_instance *i,
                           int64_t now_ns) {
  const struct provider_settings *s = &pool->settings[provider];
  int out;
  pid_t pid = process_start(s->command, &out);
  if (pid < 0) {
    log_error("provider", "%s: an instance cannot be started: %s", s->name, strerror(-pid));
    back_off(pool, provider, now_ns);
    return;
  }
  i->provider = provider;
  i->pid = pid;
  i->said_size = 0;
  i->address[0] = '\0';
  i->output = (struct watch){.fd = out, .ready = read_output};
  if (evloop_watch(pool->loop, &i->output, EPOLLIN) < 0) close_output(i);
  enter(i, STARTING, now_ns, now_ns + (s->start_ns ? s->start_ns : START_NS));
  log_info("provider", "%s: instance %d starts", s->name, (int)pid);
}

static void reap(struct local_instance *i, int64_t now_ns) {
  char how[32];
  if (!process_ended(i->pid, how, sizeof how)) return;
  bool expected = i->state == ENDING || i->state == DRAINING;
  close_output(i);
  if (expected) {
    log_info("provider", "%s: instance %d has ended", name_of(i), (int)i->pid);
  } else {
    if (i->state == READY && now_ns - i->since_ns > PROVEN_NS) i->pool->providers[i->provider].failures = 0;
    back_off(i->pool, i->provider, now_ns);
    log_warn("provider", "%s: instance %d ended by itself: %s", name_of(i), (int)i->pid, how);
  }
  enter(i, GONE, now_ns, NS_NEVER);
}

static void check_start(struct local_instance *i, int64_t now_ns) {
  if (i->address[0] && process_healthy(i->address, FIRST_CHECK_MS)) {
    log_info("provider", "%s: instance %d is ready after %.1f s", name_of(i), (int)i->pid,
             (double)(now_ns - i->since_ns) / 1e9);
    enter(i, READY, now_ns, NS_NEVER);
  } else if (now_ns >= i->due_ns) {
    log_warn("provider", "%s: instance %d was not ready in time", name_of(i), (int)i->pid);
    back_off(i->pool, i->provider, now_ns);
    process_signal(i->pid, SIGKILL);
    enter(i, ENDING, now_ns, NS_NEVER);
  }
}

static void end_instance(struct local_instance *i, int64_t now_ns) {
  process_signal(i->pid, SIGTERM);
  enter(i, ENDING, now_ns, now_ns + (i->pool->stopping ? LAST_TERM_NS : TERM_NS));
}

/* True when it asked, and so may have blocked. */
static bool check_health(struct local_instance *i, int64_t now_ns) {
  int64_t pause = i->pool->settings[i->provider].health_ns;
  if (i->since_ns > i->look_ns) { /* newly ready */
    i->look_ns = now_ns;
    i->silences = 0;
  }
  if (now_ns < i->look_ns + (pause ? pause : HEALTH_NS)) return false;
  i->look_ns = now_ns;
  i->silences = process_healthy(i->address, RECHECK_MS) ? 0 : i->silences + 1;
  if (i->silences < SILENCES) return true;
  log_warn("provider", "%s: instance %d lives but GET /health is not answered with 200: it is replaced",
           name_of(i), (int)i->pid);
  process_signal(i->pid, SIGKILL);
  enter(i, ENDING, now_ns, NS_NEVER);
  return true;
}

static void step(struct local_instance *i, int64_t now_ns) {
  if (i->state != FREE && i->state != GONE) reap(i, now_ns);
  unsigned calls = atomic_load(&i->calls);
  if (i->state == STARTING) check_start(i, now_ns);
  bool drained =
      calls == 0 || now_ns >= i->due_ns || (i->pool->stopping && now_ns >= i->pool->drain_until_ns);
  if (i->state == DRAINING && drained) end_instance(i, now_ns);
  if (i->state == ENDING && now_ns >= i->due_ns) {
    process_signal(i->pid, SIGKILL);
    enter(i, ENDING, now_ns, NS_NEVER);
  }
  if (i->state == GONE && calls == 0) enter(i, FREE, now_ns, NS_NEVER);
}

/* ---- how many there are, and should be ---- */

static unsigned count_in(const struct local_pool *pool, unsigned provider, enum slot_state state) {
  unsigned n = 0;
  for (unsigned i = 0; i < LOCAL_MAX_INSTANCES; i++)
    n += pool->slots[i].state == state && pool->slots[i].provider == provider;
  return n;
}

/* Of those in that state the one with the fewest calls; of equals the youngest. */
static struct local_instance *least_busy(struct local_pool *pool, unsigned provider, enum slot_state state) {
  struct local_instance *best = NULL;
  for (unsigned n = 0; n < LOCAL_MAX_INSTANCES; n++) {
    struct local_instance *i = &pool->slots[n];
    if (i->state != state || i->provider != provider) continue;
    unsigned calls = atomic_load(&i->calls), least = best ? atomic_load(&best->calls) : 0;
    if (!best || calls < least || (calls == least && i->since_ns > best->since_ns)) best = i;
  }
  return best;
}

static void grow(struct local_pool *pool, unsigned provider, int64_t now_ns) {
  struct local_instance *i = least_busy(pool, provider, DRAINING);
  if (i) {
    enter(i, READY, now_ns, NS_NEVER);
    return;
  }
  if (now_ns < pool->providers[provider].not_before_ns) return;
  for (unsigned n = 0; n < LOCAL_MAX_INSTANCES && !i; n++)
    if (pool->slots[n].state == FREE) i = &pool->slots[n];
  if (i) start_instance(pool, provider, i, now_ns);
}

/* What is not ready yet serves nobody, and goes first. */
static void shrink(struct local_pool *pool, unsigned provider, int64_t now_ns) {
  struct local_instance *i = least_busy(pool, provider, STARTING);
  if (i) {
    end_instance(i, now_ns);
    return;
  }
  i = least_busy(pool, provider, READY);
  if (i) enter(i, DRAINING, now_ns, now_ns + DRAIN_NS);
}

static void reconcile(struct local_pool *pool, unsigned provider, int64_t now_ns) {
  struct provider_state *state = &pool->plane->providers[provider];
  pthread_mutex_lock(&pool->lock);
  unsigned wanted = pool->stop_asked ? 0 : pool->providers[provider].wanted;
  pthread_mutex_unlock(&pool->lock);
  unsigned live = count_in(pool, provider, STARTING) + count_in(pool, provider, READY);
  for (unsigned n = live; n < wanted; n++)
    grow(pool, provider, now_ns);
  for (unsigned n = live; n > wanted; n--)
    shrink(pool, provider, now_ns);
  atomic_store(&state->ready_instances, count_in(pool, provider, READY));
  atomic_store(&state->starting_instances, count_in(pool, provider, STARTING));
}

static bool any_process(const struct local_pool *pool) {
  for (unsigned n = 0; n < LOCAL_MAX_INSTANCES; n++)
    if (pool->slots[n].state != FREE && pool->slots[n].state != GONE) return true;
  return false;
}

static void tick(struct timer *timer, int64_t now_ns) {
  struct local_pool *pool = (struct local_pool *)((char *)timer - offsetof(struct local_pool, tick));
  pthread_mutex_lock(&pool->lock);
  pool->stopping = pool->stop_asked;
  pool->drain_until_ns = pool->stop_by_ns;
  pthread_mutex_unlock(&pool->lock);
  for (unsigned n = 0; n < LOCAL_MAX_INSTANCES; n++)
    if (pool->slots[n].state != FREE) step(&pool->slots[n], now_ns);
  bool asked = pool->stopping;
  for (unsigned n = 0; n < LOCAL_MAX_INSTANCES && !asked; n++)
    if (pool->slots[n].state == READY) asked = check_health(&pool->slots[n], now_ns);
  for (unsigned p = 0; p < pool->count; p++)
    if (pool->settings[p].local) reconcile(pool, p, now_ns);
  timer_arm(evloop_timers(pool->loop), &pool->tick, now_ns + TICK_NS);
}

static void *run(void *ctx) {
  struct local_pool *pool = ctx;
  tick(&pool->tick, clock_now_ns());
  while (!pool->stopping || any_process(pool))
    evloop_turn(pool->loop, TICK_NS);
  return NULL;
}

/* ---- the face ---- */

struct local_pool *local_pool_create(struct plane *plane, const struct provider_settings *settings,
                                     unsigned count) {
  struct local_pool *pool = calloc(1, sizeof *pool);
  if (!pool) return NULL;
  pool->plane = plane;
  pool->settings = settings;
  pool->count = count;
  pool->tick.fire = tick;
  for (unsigned n = 0; n < LOCAL_MAX_INSTANCES; n++) {
    pool->slots[n].pool = pool;
    pool->slots[n].output.fd = -1;
  }
  for (unsigned p = 0; p < count; p++)
    if (settings[p].local)
      pool->providers[p].wanted = (unsigned)tunable_of(&plane->tunables, TUNABLE_instances, p);
  pthread_mutex_init(&pool->lock, NULL);
  wire_initialise();
  pool->loop = evloop_create();
  if (pool->loop && pthread_create(&pool->thread, NULL, run, pool) == 0) return pool;
  evloop_destroy(pool->loop);
  pthread_mutex_destroy(&pool->lock);
  free(pool);
  return NULL;
}

void local_pool_destroy(struct local_pool *pool, int64_t drain_ns) {
  if (!pool) return;
  pthread_mutex_lock(&pool->lock);
  pool->stop_asked = true;
  pool->stop_by_ns = clock_now_ns() + drain_ns;
  pthread_mutex_unlock(&pool->lock);
  pthread_join(pool->thread, NULL);
  evloop_destroy(pool->loop);
  pthread_mutex_destroy(&pool->lock);
  free(pool);
}

int local_pool_set(struct local_pool *pool, unsigned provider, unsigned wanted) {
  if (provider >= pool->count || !pool->settings[provider].local) return -EINVAL;
  if (wanted > LOCAL_MAX_INSTANCES) return -ENOSPC;
  pthread_mutex_lock(&pool->lock);
  pool->providers[provider].wanted = wanted;
  pthread_mutex_unlock(&pool->lock);
  return 0;
}

static int scale(void *ctx, unsigned provider, unsigned wanted, int64_t now_ns) {
  (void)now_ns;
  return local_pool_set(ctx, provider, wanted);
}

struct scaler local_pool_scaler(struct local_pool *pool) {
  return (struct scaler){.ctx = pool, .set_instances = scale};
}

struct local_instance *local_acquire(struct local_pool *pool, unsigned provider) {
  pthread_mutex_lock(&pool->lock);
  struct local_instance *i = least_busy(pool, provider, READY);
  if (i) atomic_fetch_add(&i->calls, 1);
  pthread_mutex_unlock(&pool->lock);
  return i;
}

const char *local_url(const struct local_instance *instance) {
  return instance->url;
}

void local_release(struct local_pool *pool, struct local_instance *instance) {
  (void)pool;
  atomic_fetch_sub(&instance->calls, 1);
}
