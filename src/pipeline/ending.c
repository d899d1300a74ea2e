/* How requests end. Whatever happened, the order is the same: record → tell the client → land the flight →
 * let go of what was held → unlink. A leader whose flight still has waiters is only detached: its call goes
 * on for them. */

#include "pipeline/internal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const struct answer answer_deadline = {
    .status = 504,
    .error_type = "timeout_error",
    .error_code = "deadline_exceeded",
    .retry_after_s = -1,
    .error_message = "The deadline passed before an answer was complete. Raise X-Deadline-Ms or send less."};
const struct answer answer_unavailable = {
    .status = 503,
    .error_type = "overloaded_error",
    .error_code = "provider_unavailable",
    .retry_after_s = 5,
    .error_message = "No provider could answer. Try again after the time in Retry-After."};
const struct answer answer_throttled = {
    .status = 429,
    .error_type = "rate_limit_error",
    .error_code = "rate_limited_upstream",
    .retry_after_s = 5,
    .error_message =
        "Every provider of this model is at its rate limit. Try again after the time in Retry-After."};
const struct answer answer_draining = {
    .status = 503,
    .error_type = "overloaded_error",
    .error_code = "shutting_down",
    .retry_after_s = 5,
    .error_message = "The daemon is stopping. Try again after the time in Retry-After."};
const struct answer answer_cut = {.status = 502,
                                  .error_type = "api_error",
                                  .error_code = "stream_cut",
                                  .retry_after_s = -1,
                                  .error_message = "The provider's stream stopped before its end: the answer "
                                                   "so far is incomplete. Send the request again."};
const struct answer answer_slow_reader = {
    .status = 408,
    .error_type = "timeout_error",
    .error_code = "slow_reader",
    .retry_after_s = -1,
    .error_message = "The stream was not read fast enough. Read faster or ask for less."};

static void unlink_live(struct pipeline *p, struct request *r) {
  *(r->previous_live ? &r->previous_live->next_live : &p->live) = r->next_live;
  if (r->next_live) r->next_live->previous_live = r->previous_live;
  p->load--;
  struct plane *plane = p->env.plane;
  atomic_fetch_sub_explicit(&plane->requests_in_flight, 1, memory_order_relaxed);
  size_t held = r->spec.body_size + r->original_size + r->result.body_size;
  atomic_fetch_sub_explicit(&plane->bytes_in_flight, (int64_t)held, memory_order_relaxed);
}

static void bury(struct request *r, int64_t now_ns) {
  struct pipeline *p = r->pipeline;
  attempt_drop(r, now_ns);
  timer_disarm(p->env.timers, &r->deadline_timer);
  unlink_live(p, r);
  r->phase = PHASE_ENDED;
  r->next = p->ended;
  p->ended = r;
}

static void record(struct request *r, enum outcome_kind kind, int64_t now_ns) {
  struct pipeline *p = r->pipeline;
  struct outcome *o = &r->outcome;
  o->kind = (uint8_t)kind;
  o->ended_ns = now_ns;
  o->total_ms = (float)ms_between(r->arrived_ns, now_ns);
  o->in_target =
      kind == OUTCOME_ANSWERED && objective_in_target(&p->env.plane->objective, r->spec.stream, o->ttft_ms,
                                                      o->tpot_ms, o->total_ms, o->tokens_out);
  if (o->in_target) count(p, COUNTER_requests_in_target, 0);
  if (o->coalesced) count(p, COUNTER_requests_coalesced, 0);
  count(p,
        kind == OUTCOME_ANSWERED      ? COUNTER_requests_answered
        : kind == OUTCOME_CLIENT_GONE ? COUNTER_requests_client_gone
                                      : COUNTER_requests_dead_lettered,
        0);
  telemetry_outcome(p->env.telemetry, o);
}

static void describe(const struct request *r, struct answer *a) {
  const struct outcome *o = &r->outcome;
  if (o->provider != NO_PROVIDER) {
    const struct provider_spec *spec = &r->pipeline->env.plane->providers[o->provider].spec;
    a->provider = spec->name;
    a->model = spec->model;
  }
  a->tokens_in = o->tokens_in;
  a->tokens_out = o->tokens_out;
  a->cost_usd = o->cost_usd;
  a->attempts = o->attempts;
  a->coalesced = o->coalesced;
}

static void keep_dead_letter(const struct request *r, const struct answer *a, const char *detail) {
  struct pipeline *p = r->pipeline;
  struct dead_letter letter = {.id = r->id,
                               .id_text = r->id_text,
                               .route = p->env.plane->routes[r->spec.route].name,
                               .reason = a->error_code,
                               .detail = detail,
                               .provider = a->provider,
                               .status = a->status,
                               .attempts = a->attempts,
                               .priority = r->spec.priority,
                               .stream = r->spec.stream,
                               .session = r->outcome.session,
                               .tenant = r->spec.tenant,
                               .path = r->spec.form == FORM_PROMPT ? "/v1/prompt" : "/v1/chat/completions",
                               .body = r->original ? r->original : r->spec.body,
                               .body_size = r->original ? r->original_size : r->spec.body_size};
  if (!p->env.dead_letter || p->env.dead_letter(p->env.ctx, &letter) < 0)
    count(p, COUNTER_dead_letters_lost, 0);
}

static void wake(void *ctx, struct pipeline *other, struct flight *flight) {
  struct request *r = ctx;
  struct pipeline *own = r->pipeline;
  if (other == own)
    pipeline_deliver_flight(own, flight, r->outcome.ended_ns);
  else
    own->env.wake(own->env.ctx, other, flight);
}

static void land(struct request *r, const struct answer *a) {
  struct landing landing = {.ok = a->status == 200,
                            .status = a->status,
                            .error_type = a->error_type,
                            .error_code = a->error_code,
                            .error_message = a->error_message,
                            .retry_after_s = a->retry_after_s,
                            .provider = r->outcome.provider,
                            .tokens_in = r->outcome.tokens_in,
                            .tokens_out = r->outcome.tokens_out,
                            .unbilled_usd = r->detached ? r->outcome.cost_usd : 0};
  if (a->body && (landing.body = malloc(a->body_size + 1))) {
    memcpy(landing.body, a->body, a->body_size);
    landing.body_size = a->body_size;
  }
  coalesce_land(r->pipeline->env.plane->coalesce, r, &landing, wake, r);
}

/* The leader's client is done with. True when the call must go on for waiters. */
static bool goes_on(struct request *r) {
  if (!r->leads || !coalesce_detach(r->pipeline->env.plane->coalesce, r)) return false;
  r->detached = true;
  timer_disarm(r->pipeline->env.timers, &r->deadline_timer);
  return true;
}

static void leave_flight(struct request *r, int64_t now_ns) {
  if (!r->flight || r->leads) return;
  struct pipeline *p = r->pipeline;
  struct flight *flight = r->flight;
  struct pipeline *leaders = coalesce_leave(p->env.plane->coalesce, r);
  r->flight = NULL;
  if (leaders == p)
    pipeline_deliver_flight(p, flight, now_ns);
  else if (leaders)
    p->env.wake(p->env.ctx, leaders, flight);
}

void end_answered(struct request *r, int64_t now_ns) {
  struct answer a = {
      .status = 200, .retry_after_s = -1, .body = r->result.body, .body_size = r->result.body_size};
  if (!r->detached) record(r, OUTCOME_ANSWERED, now_ns);
  describe(r, &a);
  if (!r->detached) r->spec.ops->finish(r->spec.client, r, &a);
  r->outcome.ended_ns = now_ns;
  if (r->leads) land(r, &a);
  bury(r, now_ns);
}

void end_failed(struct request *r, enum outcome_kind kind, const struct answer *error, const char *detail,
                int64_t now_ns) {
  struct answer a = *error;
  bool own_client = !r->detached;
  leave_flight(r, now_ns);
  bool for_others =
      kind == OUTCOME_EXPIRED && goes_on(r); /* a deadline is the leader's own; the rest holds for all */
  if (kind == OUTCOME_EXPIRED && !for_others) attempt_expire(r, now_ns);
  if (own_client) {
    record(r, kind, now_ns);
    describe(r, &a);
    keep_dead_letter(r, &a, detail);
    r->spec.ops->finish(r->spec.client, r, &a);
  }
  if (for_others) return;
  r->outcome.ended_ns = now_ns;
  if (r->leads) land(r, &a);
  bury(r, now_ns);
}

void end_client_gone(struct request *r, int64_t now_ns) {
  if (!r->detached) {
    leave_flight(r, now_ns);
    if (r->begun) attempt_drop(r, now_ns); /* books what was streamed */
    record(r, OUTCOME_CLIENT_GONE, now_ns);
  }
  if (goes_on(r)) return;
  bury(r, now_ns);
}

void end_from_landing(struct request *r, const struct landing *l, int64_t now_ns) {
  struct answer a = {.status = l->status,
                     .body = l->body,
                     .body_size = l->body_size,
                     .error_type = l->error_type,
                     .error_code = l->error_code,
                     .error_message = l->error_message,
                     .retry_after_s = l->retry_after_s};
  r->flight = NULL;
  r->outcome.coalesced = true;
  r->outcome.provider = l->provider;
  r->outcome.tokens_in = l->tokens_in;
  r->outcome.tokens_out = l->tokens_out;
  record(r, l->ok ? OUTCOME_ANSWERED : OUTCOME_FAILED, now_ns);
  describe(r, &a);
  if (!l->ok) keep_dead_letter(r, &a, "the call that it shared failed");
  r->spec.ops->finish(r->spec.client, r, &a);
  bury(r, now_ns);
}
