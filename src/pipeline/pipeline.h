#ifndef PIPELINE_PIPELINE_H
#define PIPELINE_PIPELINE_H

/* The five stages of one shard: rag → assemble → inference → post → stream, cooperative tasks with bounded
 * rings between them. One thread: the shard's, or the simulator's. Time comes in as an argument. */

#include "pipeline/request.h"

#include <stdbool.h>

struct pipeline;
struct plane;
struct telemetry;
struct timers;

/* A request past admission that ended in an error, with all that a replay needs. Borrowed for the call. */
struct dead_letter {
  uint64_t id;
  const char *id_text, *route, *reason; /* reason: "deadline_exceeded", "provider_unavailable", ... */
  const char *detail;                   /* what the last provider said */
  const char *provider;                 /* tried last, or NULL */
  int status;                           /* that the client got */
  unsigned attempts;
  enum priority priority;
  bool stream;
  uint64_t session, tenant;
  const char *path, *body; /* as the client sent them */
  size_t body_size;
};

struct pipeline_env {
  struct plane *plane;
  struct timers *timers;
  struct telemetry *telemetry;
  struct upstream *upstreams[MAX_PROVIDERS]; /* one a provider, for this shard */
  uint64_t seed;                             /* of this shard's generator and ids */
  unsigned shard;                            /* number: part of every request id; below 64 */
  uint64_t first_id; /* wall_ms << 22: ids grow with time and never repeat over restarts */
  void *ctx;
  int (*dead_letter)(void *ctx, const struct dead_letter *letter); /* 0, or -errno: counted as lost */
  /* Asks another shard's thread to call pipeline_deliver_flight(its pipeline, flight): cross-shard
   * coalescing. NULL with one shard. */
  void (*wake)(void *ctx, struct pipeline *other, struct flight *flight);
};

struct pipeline *pipeline_create(const struct pipeline_env *env, int64_t now_ns); /* NULL: out of memory */
void pipeline_destroy(struct pipeline *pipeline); /* nothing may be in flight */

enum refusal { ADMITTED, REFUSED_RATE, REFUSED_MEMORY, REFUSED_OVERLOAD, REFUSED_DRAINING };

/* Admission: draining, memory ceiling, token bucket, overload by priority. On success the request is in the
 * rag ring and spec->body is taken; finish() will be called once, never from inside submit. On refusal
 * returns NULL, *why and *retry_after_s say what to answer, the body stays the caller's and nothing will be
 * called. */
struct request *pipeline_submit(struct pipeline *pipeline, const struct request_spec *spec, int64_t now_ns,
                                enum refusal *why, int *retry_after_s);

/* The client has left: cancels the upstream call unless coalesced callers wait for it. */
void request_cancel(struct request *request, int64_t now_ns);

/* Runs every stage until nothing moves, later stages first. Call it after anything happened; cheap when idle.
 * Returns true when work is left for another turn. */
bool pipeline_run(struct pipeline *pipeline, int64_t now_ns);

size_t pipeline_depth(const struct pipeline *pipeline, enum stage stage); /* any thread */
uint32_t pipeline_load(const struct pipeline *pipeline); /* requests not finished; shard's thread */

/* Ends everything that is left with 503 and a dead letter: the end of a drain. */
void pipeline_abandon(struct pipeline *pipeline, int64_t now_ns);

void pipeline_deliver_flight(struct pipeline *pipeline, struct flight *flight, int64_t now_ns);

#endif
