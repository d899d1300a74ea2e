#ifndef PIPELINE_COALESCE_H
#define PIPELINE_COALESCE_H

/* Identical requests in flight share one upstream call, across shards. A flight is led by the first request;
 * others join it. The key is SHA-256 over tenant, route, form and the whole body, so that a collision cannot
 * serve another prompt's answer. The map is process-wide behind one lock; a flight's waiters belong to their
 * own shards, and each shard takes its own out when the flight lands. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct coalesce;
struct flight;
struct pipeline;
struct request;

/* A landed answer, shared by all that waited. Immutable; freed with its flight. */
struct landing {
  bool ok;
  int status;
  char *body; /* malloc'ed; may be NULL */
  size_t body_size;
  const char *error_type, *error_code, *error_message; /* static strings; NULL when ok */
  int retry_after_s;
  uint8_t provider; /* NO_PROVIDER when none answered */
  uint32_t tokens_in, tokens_out;
  double
      unbilled_usd; /* of a leader that was recorded before its call was over: the first who takes it pays */
};

struct coalesce_key {
  unsigned char digest[32];
};

struct coalesce *coalesce_create(void); /* NULL: out of memory */
void coalesce_destroy(struct coalesce *c);

void coalesce_key(const struct request *request, struct coalesce_key *key);

enum coalesce_role { COALESCE_LEADS, COALESCE_JOINED, COALESCE_ALONE };

/* Leads a new flight, joins the one in the air, or (no memory, too many waiters) goes alone. Sets
 * request->flight and
 * ->leads. */
enum coalesce_role coalesce_enter(struct coalesce *c, const struct coalesce_key *key, struct request *request,
                                  size_t max_waiters);

/* When the last of those who share the flight, the leader included, has no use for it any more. */
int64_t coalesce_deadline(struct coalesce *c, const struct flight *flight);

size_t coalesce_waiters(struct coalesce *c, const struct flight *flight);

/* A waiter leaves (client gone, deadline). When it was the last one and the leader is detached, the leader's
 * call serves nobody: returns the leader's pipeline, which must then call coalesce_orphan and
 * coalesce_release on its own thread (a reference is handed over). Else NULL. */
struct pipeline *coalesce_leave(struct coalesce *c, struct request *waiter);

/* The leader, when nobody waits for its flight any more; NULL when somebody joined meanwhile or it landed. */
struct request *coalesce_orphan(struct coalesce *c, struct flight *flight);

/* The leader's own client is gone or answered; the flight goes on for its waiters. False: there are none, the
 * flight is closed and freed, and the leader should cancel. */
bool coalesce_detach(struct coalesce *c, struct request *leader);

/* The leader has a result (taken over). The flight leaves the map: later requests start anew. Then calls
 * wake(ctx, pipeline) once for each distinct pipeline that has waiters; each must take its own with
 * coalesce_take. */
void coalesce_land(struct coalesce *c, struct request *leader, struct landing *landing,
                   void (*wake)(void *ctx, struct pipeline *pipeline, struct flight *flight), void *ctx);

/* The next waiter of that pipeline, removed, with the landing to answer it from; NULL when none is left. Free
 * the reference with coalesce_release after the last one. */
struct request *coalesce_take(struct coalesce *c, struct flight *flight, const struct pipeline *pipeline,
                              const struct landing **landing);
void coalesce_release(struct coalesce *c, struct flight *flight);

#endif
