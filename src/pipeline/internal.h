#ifndef PIPELINE_INTERNAL_H
#define PIPELINE_INTERNAL_H

/* What the files of the pipeline share with each other and with nobody else. */

#include "bus/telemetry.h"
#include "pipeline/coalesce.h"
#include "pipeline/lanes.h"
#include "pipeline/pipeline.h"
#include "pipeline/plane.h"
#include "sys/clock.h"
#include "sys/rng.h"

struct pipeline {
  struct pipeline_env env;
  struct rng rng;
  uint64_t next_id;
  struct route_table table; /* this shard's copy */
  struct lanes rings[STAGES];
  struct lanes_skip blocked; /* inference: without a free candidate when last tried */
  struct timer unblock;      /* other shards and cool-downs free capacity without telling us */
  struct request *live;      /* all that have not ended */
  struct request *ended;     /* to be freed at the end of the turn */
  struct request *spare;     /* freed ones kept for reuse */
  unsigned spare_count;
  uint32_t load;
};

static inline struct tunables *tunables_of(const struct pipeline *p) {
  return &p->env.plane->tunables;
}

static inline struct provider_state *provider_of(const struct pipeline *p, unsigned provider) {
  return &p->env.plane->providers[provider];
}

static inline const struct route_spec *route_of(const struct request *r) {
  return &r->pipeline->env.plane->routes[r->spec.route];
}

static inline void count(const struct pipeline *p, enum counter_id id, unsigned label) {
  counter_add(&p->env.telemetry->counters, id, label, 1);
}

static inline double ms_between(int64_t from_ns, int64_t to_ns) {
  return (double)(to_ns - from_ns) / 1e6;
}

/* stages: into the ring of `stage`. */
void stage_push(struct pipeline *p, struct request *r, enum stage stage, int64_t now_ns);
void stage_leave(struct pipeline *p, struct request *r,
                 int64_t now_ns); /* out of its ring; measures the sojourn */

/* inference.c */
bool inference_run(struct pipeline *p, int64_t now_ns); /* true: something moved */
/* Whether a candidate other than the present one is free; with or_busy: or only at its limit. */
bool inference_others(struct request *r, bool or_busy, int64_t now_ns);
void inference_back_in_line(struct request *r, int64_t now_ns);
void inference_line_up(struct request *r, int64_t wait_ns, int64_t now_ns); /* the same after a while */

/* attempt.c */
bool attempt_start(struct request *r, const struct route_choice *choice,
                   int64_t now_ns);                                                /* false: lost a race */
void attempt_close(struct request *r, enum attempt_result result, int64_t now_ns); /* gives its place back */
void attempt_expire(struct request *r,
                    int64_t now_ns); /* the deadline passed: ends the call, if there is one */
void attempt_drop(struct request *r,
                  int64_t now_ns); /* ends whatever the request waits for: call, timer, ring */

/* recovery.c */
void recovery_after_call(struct request *r, struct upstream_result *result, int64_t now_ns);
void recovery_fall_back(struct request *r, int64_t now_ns); /* never this candidate again */
int64_t recovery_deadline(const struct request *r);         /* of the last one who waits for its call */
void recovery_remember(struct request *r, int status, const char *detail);

/* ending.c: the three ways out of a request, each notifying its client, counting, recording and freeing. */
void end_answered(struct request *r, int64_t now_ns); /* from r->result */
void end_failed(struct request *r, enum outcome_kind kind, const struct answer *error, const char *detail,
                int64_t now_ns);
void end_client_gone(struct request *r, int64_t now_ns);
void end_from_landing(struct request *r, const struct landing *landing, int64_t now_ns);

extern const struct answer answer_deadline, answer_unavailable, answer_throttled, answer_draining, answer_cut,
    answer_slow_reader;

#endif
