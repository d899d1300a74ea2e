/* A flight is referenced by the map (until it lands or closes) and by each wake-up under way. Waiters are
 * linked, not counted as references: they leave the list before they end. */

#include "pipeline/coalesce.h"

#include "pipeline/request.h"

#include <openssl/evp.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { BUCKETS = 4096 };

struct flight {
  struct coalesce_key key;
  struct flight *next;
  struct request *leader; /* NULL once landed or closed */
  struct request *waiters;
  size_t waiter_count;
  unsigned references;
  bool landed, detached;
  struct landing landing;
};

struct coalesce {
  pthread_mutex_t lock;
  struct flight *buckets[BUCKETS];
};

struct coalesce *coalesce_create(void) {
  struct coalesce *c = calloc(1, sizeof *c);
  if (c) pthread_mutex_init(&c->lock, NULL);
  return c;
}

void coalesce_destroy(struct coalesce *c) {
  if (!c) return;
  pthread_mutex_destroy(&c->lock);
  free(c);
}

void coalesce_key(const struct request *request, struct coalesce_key *key) {
  struct {
    uint64_t tenant, route, form;
  } head = {request->spec.tenant, request->spec.route, request->spec.form};
  unsigned char body[32], both[sizeof head + sizeof body];
  EVP_Digest(request->spec.body, request->spec.body_size, body, NULL, EVP_sha256(), NULL);
  memcpy(both, &head, sizeof head);
  memcpy(both + sizeof head, body, sizeof body);
  EVP_Digest(both, sizeof both, key->digest, NULL, EVP_sha256(), NULL);
}

static struct flight **bucket_of(struct coalesce *c, const struct coalesce_key *key) {
  uint32_t hash;
  memcpy(&hash, key->digest, sizeof hash);
  return &c->buckets[hash % BUCKETS];
}

static struct flight *find(struct coalesce *c, const struct coalesce_key *key) {
  struct flight *f = *bucket_of(c, key);
  while (f && memcmp(f->key.digest, key->digest, sizeof key->digest) != 0)
    f = f->next;
  return f;
}

static void release(struct flight *f) {
  if (--f->references > 0) return;
  free(f->landing.body);
  free(f);
}

static void leave_map(struct coalesce *c, struct flight *flight) {
  struct flight **at = bucket_of(c, &flight->key);
  while (*at != flight)
    at = &(*at)->next;
  *at = flight->next;
}

static struct flight *take_off(struct coalesce *c, const struct coalesce_key *key, struct request *leader) {
  struct flight *f = calloc(1, sizeof *f);
  if (!f) return NULL;
  f->key = *key;
  f->leader = leader;
  f->references = 1;
  f->next = *bucket_of(c, key);
  *bucket_of(c, key) = f;
  return f;
}

enum coalesce_role coalesce_enter(struct coalesce *c, const struct coalesce_key *key, struct request *request,
                                  size_t max_waiters) {
  enum coalesce_role role = COALESCE_ALONE;
  pthread_mutex_lock(&c->lock);
  struct flight *f = find(c, key);
  if (!f) {
    request->flight = take_off(c, key, request);
    request->leads = request->flight != NULL;
    if (request->leads) role = COALESCE_LEADS;
  } else if (f->waiter_count < max_waiters) {
    request->flight = f;
    request->next_waiter = f->waiters;
    f->waiters = request;
    f->waiter_count++;
    role = COALESCE_JOINED;
  }
  pthread_mutex_unlock(&c->lock);
  return role;
}

int64_t coalesce_deadline(struct coalesce *c, const struct flight *flight) {
  pthread_mutex_lock(&c->lock);
  int64_t deadline_ns = flight->leader && !flight->detached ? flight->leader->deadline_ns : 0;
  for (const struct request *w = flight->waiters; w; w = w->next_waiter)
    if (w->deadline_ns > deadline_ns) deadline_ns = w->deadline_ns;
  pthread_mutex_unlock(&c->lock);
  return deadline_ns;
}

size_t coalesce_waiters(struct coalesce *c, const struct flight *flight) {
  pthread_mutex_lock(&c->lock);
  size_t n = flight->waiter_count;
  pthread_mutex_unlock(&c->lock);
  return n;
}

static bool unlink_waiter(struct flight *f, struct request *waiter) {
  for (struct request **at = &f->waiters; *at; at = &(*at)->next_waiter)
    if (*at == waiter) {
      *at = waiter->next_waiter;
      f->waiter_count--;
      return true;
    }
  return false;
}

struct pipeline *coalesce_leave(struct coalesce *c, struct request *waiter) {
  struct pipeline *orphaned = NULL;
  pthread_mutex_lock(&c->lock);
  struct flight *f = waiter->flight;
  if (unlink_waiter(f, waiter) && f->waiter_count == 0 && !f->landed && f->detached) {
    orphaned = f->leader->pipeline;
    f->references++;
  }
  pthread_mutex_unlock(&c->lock);
  return orphaned;
}

bool coalesce_detach(struct coalesce *c, struct request *leader) {
  pthread_mutex_lock(&c->lock);
  struct flight *f = leader->flight;
  bool goes_on = f->waiter_count > 0;
  if (goes_on) {
    f->detached = true;
  } else {
    f->leader = NULL; /* it ends: a wake-up that is still under way must not find it */
    leave_map(c, f);
    release(f);
    leader->flight = NULL;
    leader->leads = false;
  }
  pthread_mutex_unlock(&c->lock);
  return goes_on;
}

struct request *coalesce_orphan(struct coalesce *c, struct flight *flight) {
  pthread_mutex_lock(&c->lock);
  struct request *leader =
      !flight->landed && flight->detached && flight->waiter_count == 0 ? flight->leader : NULL;
  pthread_mutex_unlock(&c->lock);
  return leader;
}

/* One wake-up for each distinct pipeline among the waiters; at most 64 shards. */
static unsigned pipelines_of(const struct flight *f, struct pipeline **out, unsigned size) {
  unsigned n = 0;
  for (const struct request *w = f->waiters; w; w = w->next_waiter) {
    unsigned i = 0;
    while (i < n && out[i] != w->pipeline)
      i++;
    if (i == n && n < size) out[n++] = w->pipeline;
  }
  return n;
}

void coalesce_land(struct coalesce *c, struct request *leader, struct landing *landing,
                   void (*wake)(void *ctx, struct pipeline *pipeline, struct flight *flight), void *ctx) {
  struct pipeline *pipelines[64];
  struct flight *f = leader->flight;
  pthread_mutex_lock(&c->lock);
  leave_map(c, f);
  f->landed = true;
  f->leader = NULL;
  f->landing = *landing;
  unsigned n = pipelines_of(f, pipelines, 64);
  f->references += n;
  release(f);
  pthread_mutex_unlock(&c->lock);
  leader->flight = NULL;
  leader->leads = false;
  for (unsigned i = 0; i < n; i++)
    wake(ctx, pipelines[i], f);
}

struct request *coalesce_take(struct coalesce *c, struct flight *flight, const struct pipeline *pipeline,
                              const struct landing **landing) {
  pthread_mutex_lock(&c->lock);
  struct request *taken = NULL;
  if (flight->landed) {
    taken = flight->waiters;
    while (taken && taken->pipeline != pipeline)
      taken = taken->next_waiter;
    if (taken) {
      unlink_waiter(flight, taken);
      taken->outcome.cost_usd += flight->landing.unbilled_usd;
      flight->landing.unbilled_usd = 0;
    }
    *landing = &flight->landing;
  }
  pthread_mutex_unlock(&c->lock);
  return taken;
}

void coalesce_release(struct coalesce *c, struct flight *flight) {
  pthread_mutex_lock(&c->lock);
  release(flight);
  pthread_mutex_unlock(&c->lock);
}
