/* One call at a provider, from the place that it takes there to the place that it gives back.
 *
 * Until the first content nothing is committed: role and other empty events are held, so that another
 * provider can still answer. From then on this provider's stream is the client's. While the client is behind
 * with reading, the provider is held back. */

#include "pipeline/internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define READER_LOOK_NS (10 * NS_PER_MS) /* between two looks at a reader who is behind */
#define READER_STUCK_NS (5 * NS_PER_S)  /* without reading anything */
enum { HELD_MAX = 65536, FAIR_SHARE = 8 };

/* ---- beginning and end ---- */

static struct breaker_settings breaker_settings(const struct pipeline *p) {
  const struct tunables *t = tunables_of(p);
  return (struct breaker_settings){
      .failure_threshold = (uint32_t)tunable_get(t, TUNABLE_breaker_failure_threshold),
      .success_rate = tunable_get(t, TUNABLE_breaker_success_rate),
      .pause_ns = (int64_t)tunable_get(t, TUNABLE_breaker_timeout_ms) * NS_PER_MS};
}

/* Takes a place at the provider: limit, breaker, retry budget's count. False: lost a race. */
static bool take_place(struct request *r, unsigned candidate, int64_t now_ns) {
  struct pipeline *p = r->pipeline;
  unsigned provider = route_of(r)->candidates[candidate];
  struct provider_state *s = provider_of(p, provider);
  uint32_t before = atomic_fetch_add_explicit(&s->in_flight, 1, memory_order_relaxed);
  bool admitted = before < plane_limit(p->env.plane, provider);
  if (admitted) {
    pthread_mutex_lock(&s->lock);
    admitted = breaker_admit(&s->breaker, now_ns, &r->breaker_generation);
    if (admitted && r->tries[candidate] == 0) retry_budget_attempt(&s->budget, now_ns);
    pthread_mutex_unlock(&s->lock);
  }
  if (!admitted) atomic_fetch_sub_explicit(&s->in_flight, 1, memory_order_relaxed);
  return admitted;
}

/* How long this attempt may stay without content: streams by the first-token limit; a whole answer shows
 * nothing before its end, so it gets half of the time that is left while there is another candidate to turn
 * to. */
static int64_t first_limit(const struct request *r, int64_t now_ns) {
  const struct tunables *t = tunables_of(r->pipeline);
  if (r->spec.stream)
    return now_ns + (int64_t)tunable_for(t, TUNABLE_first_token_timeout_ms, r->treated) * NS_PER_MS;
  uint32_t all = (1u << route_of(r)->candidate_count) - 1, others = all & ~r->spent & ~(1u << r->candidate);
  int64_t usual = now_ns + (int64_t)tunable_get(t, TUNABLE_deadline_ms) * NS_PER_MS, end = r->deadline_ns;
  if (others && end > now_ns) return now_ns + (end - now_ns) / 2;
  if (r->leads && usual > end) end = usual; /* its flight may have waiters with more time */
  return others ? now_ns + (end - now_ns) / 2 : end;
}

static void drop_held(struct request *r) {
  free(r->held);
  r->held = NULL;
  r->held_size = 0;
}

/* result NULL: a stream that was broken off, counted as far as it came. */
static void book_usage(struct request *r, const struct upstream_result *result) {
  struct pipeline *p = r->pipeline;
  unsigned provider = r->attempt.provider;
  struct outcome *o = &r->outcome;
  bool known = result && result->usage_known;
  o->tokens_in = known ? result->tokens_in : r->spec.tokens_in;
  o->tokens_out = known ? result->tokens_out : r->attempt.tokens;
  uint32_t cached = known && result->tokens_cached < o->tokens_in ? result->tokens_cached : 0;
  double cost = !result || isnan(result->cost_usd)
                    ? price_of(&provider_of(p, provider)->spec.price, o->tokens_in, cached, o->tokens_out)
                    : result->cost_usd;
  o->cost_usd += cost;
  counter_add(&p->env.telemetry->counters, COUNTER_tokens_in, provider, o->tokens_in);
  counter_add(&p->env.telemetry->counters, COUNTER_tokens_out, provider, o->tokens_out);
  counter_add(&p->env.telemetry->counters, COUNTER_cost_nano_usd, provider, (uint64_t)llround(cost * 1e9));
}

static void attempt_timed_out(struct timer *timer, int64_t now_ns);

bool attempt_start(struct request *r, const struct route_choice *choice, int64_t now_ns) {
  struct pipeline *p = r->pipeline;
  unsigned provider = route_of(r)->candidates[choice->candidate];
  if (!take_place(r, choice->candidate, now_ns)) return false;
  stage_leave(p, r, now_ns);
  drop_held(r); /* of an attempt before: its words are not this one's */
  if (r->outcome.attempts && choice->candidate != r->candidate)
    count(p, COUNTER_fallbacks, r->attempt.provider);
  struct provider_state *s = provider_of(p, provider);
  atomic_fetch_add_explicit(&s->tokens_in_flight, r->spec.tokens_in, memory_order_relaxed);
  if (!r->dispatched_ns) {
    r->dispatched_ns = now_ns;
    r->outcome.queued_ms = (float)ms_between(r->arrived_ns, now_ns);
    telemetry_wait(p->env.telemetry, r->spec.priority, r->outcome.queued_ms);
  }
  r->candidate = choice->candidate;
  if (r->tries[r->candidate] < UINT8_MAX) r->tries[r->candidate]++;
  r->outcome.provider = (uint8_t)provider;
  r->outcome.propensity = choice->propensity;
  r->outcome.explored = choice->explored;
  if (r->outcome.attempts < UINT8_MAX) r->outcome.attempts++;
  count(p, COUNTER_attempts, provider);
  r->phase = PHASE_CALLING;
  r->attempt = (struct attempt){.request = r, .provider = (uint8_t)provider, .started_ns = now_ns};
  r->attempt_timer.fire = attempt_timed_out;
  timer_arm(p->env.timers, &r->attempt_timer, first_limit(r, now_ns));
  struct upstream *upstream = p->env.upstreams[provider];
  if (upstream->ops->start(upstream, &r->attempt, now_ns) < 0) {
    struct upstream_result failed = {.error = UPSTREAM_CONNECT,
                                     .retry_after_ns = -1,
                                     .cost_usd = NAN,
                                     .detail = "the call could not be started"};
    attempt_done(&r->attempt, &failed, now_ns);
  }
  return true;
}

/* The call is over: gives the place back and books the result. */
void attempt_close(struct request *r, enum attempt_result result, int64_t now_ns) {
  static const enum counter_id counters[ATTEMPT_RESULTS] = {
      [ATTEMPT_OK] = COUNTER_attempt_successes,       [ATTEMPT_FAILED] = COUNTER_attempt_failures,
      [ATTEMPT_TIMED_OUT] = COUNTER_attempt_timeouts, [ATTEMPT_THROTTLED] = COUNTER_attempt_throttled,
      [ATTEMPT_REJECTED] = COUNTER_attempt_rejected,  [ATTEMPT_CANCELLED] = COUNTER_attempt_cancelled};
  struct pipeline *p = r->pipeline;
  unsigned provider = r->attempt.provider;
  struct provider_state *s = provider_of(p, provider);
  struct breaker_settings settings = breaker_settings(p);
  timer_disarm(p->env.timers, &r->attempt_timer);
  atomic_fetch_sub_explicit(&s->in_flight, 1, memory_order_relaxed);
  atomic_fetch_sub_explicit(&s->tokens_in_flight, r->spec.tokens_in, memory_order_relaxed);
  pthread_mutex_lock(&s->lock);
  bool opened = false, counts = result == ATTEMPT_OK || result == ATTEMPT_FAILED;
  if (result == ATTEMPT_OK) breaker_alive(&s->breaker, now_ns);
  if (result == ATTEMPT_TIMED_OUT) counts = r->begun || breaker_counts(&s->breaker, r->attempt.started_ns);
  if (counts)
    opened = breaker_report(&s->breaker, &settings, result == ATTEMPT_OK, r->breaker_generation, now_ns);
  else
    breaker_release(&s->breaker, r->breaker_generation);
  pthread_mutex_unlock(&s->lock);
  count(p, counters[result], provider);
  counter_add(&p->env.telemetry->counters, COUNTER_stream_events_malformed, provider, r->attempt.malformed);
  if (opened) count(p, COUNTER_breaker_opened, provider);
  struct outcome *o = &r->outcome;
  if (o->tried_count < OUTCOME_TRIED) {
    o->tried[o->tried_count].provider = (uint8_t)provider;
    o->tried[o->tried_count++].result = (uint8_t)result;
  }
  lanes_look_again(&p->blocked);
  if (r->begun && result != ATTEMPT_OK) book_usage(r, NULL);
  r->phase = PHASE_WAITING;
}

/* ---- what it brought ---- */

static void measure(struct request *r, int64_t now_ns) {
  struct telemetry *t = r->pipeline->env.telemetry;
  const struct attempt *a = &r->attempt;
  uint32_t tokens = r->outcome.tokens_out;
  if (r->spec.stream && a->first_ns && tokens > 1)
    telemetry_tpot(t, a->provider, ms_between(a->first_ns, a->last_ns) / (tokens - 1));
  if (!r->spec.stream && tokens > 0)
    telemetry_tpot(t, a->provider,
                   objective_ms_per_token(&r->pipeline->env.plane->objective,
                                          ms_between(a->started_ns, now_ns), tokens));
}

/* A provider that says that nothing is left is not asked again before it allows one more. */
static void heed_limits(struct request *r, const struct upstream_result *result, int64_t now_ns) {
  if (!(result->requests_left <= 0) || result->requests_reset_ns <= 0) return;
  plane_close_provider(r->pipeline->env.plane, r->attempt.provider, now_ns, result->requests_reset_ns);
}

/* ---- from the transport ---- */

/* Role and other empty events wait for the first content, so that until then another provider can still
 * answer. */
static bool hold(struct request *r, const struct upstream_event *event) {
  if (r->held_size + event->size > HELD_MAX) return false;
  char *grown = realloc(r->held, r->held_size + event->size);
  if (!grown) return false;
  memcpy(grown + r->held_size, event->bytes, event->size);
  r->held = grown;
  r->held_size += event->size;
  return true;
}

static void begin_stream(struct request *r, int64_t now_ns) {
  struct pipeline *p = r->pipeline;
  const struct provider_spec *spec = &provider_of(p, r->attempt.provider)->spec;
  struct answer a = {.status = 200,
                     .retry_after_s = -1,
                     .provider = spec->name,
                     .model = spec->model,
                     .attempts = r->outcome.attempts};
  struct provider_state *s = provider_of(p, r->attempt.provider);
  pthread_mutex_lock(&s->lock);
  breaker_alive(&s->breaker, now_ns);
  pthread_mutex_unlock(&s->lock);
  r->begun = true;
  r->attempt.streaming = true;
  r->attempt.first_ns = now_ns;
  r->outcome.ttft_ms = (float)ms_between(r->arrived_ns, now_ns);
  telemetry_ttft(p->env.telemetry, r->attempt.provider, ms_between(r->attempt.started_ns, now_ns));
  r->spec.ops->begin(r->spec.client, r, &a);
  int64_t idle = (int64_t)tunable_for(tunables_of(p), TUNABLE_idle_timeout_ms, r->treated) * NS_PER_MS;
  timer_arm(p->env.timers, &r->attempt_timer, now_ns + idle);
}

static void cut_slow_reader(struct request *r, int64_t now_ns) {
  struct pipeline *p = r->pipeline;
  count(p, COUNTER_slow_readers_cut, 0);
  r->spec.ops->finish(r->spec.client, r, &answer_slow_reader);
  end_client_gone(r, now_ns);
}

static size_t backlog_bound(const struct request *r) {
  return (size_t)tunable_for(tunables_of(r->pipeline), TUNABLE_stream_backlog_kib, r->treated) << 10;
}

static bool deliver(struct request *r, const char *bytes, size_t size, int64_t now_ns) {
  if (size == 0) return true;
  struct attempt *a = &r->attempt;
  a->unread = r->spec.ops->event(r->spec.client, bytes, size);
  if (a->unread <= backlog_bound(r) || a->paused_ns) return true;
  struct upstream *upstream = r->pipeline->env.upstreams[a->provider];
  if (!upstream->ops->pause) {
    cut_slow_reader(r, now_ns);
    return false;
  }
  upstream->ops->pause(upstream, a, true);
  a->paused_ns = now_ns;
  timer_arm(r->pipeline->env.timers, &r->attempt_timer, now_ns + READER_LOOK_NS);
  return true;
}

/* The stream goes on once its reader has caught up by a quarter. */
static void look_at_reader(struct request *r, int64_t now_ns) {
  struct attempt *a = &r->attempt;
  struct upstream *upstream = r->pipeline->env.upstreams[a->provider];
  size_t unread = r->spec.ops->event(r->spec.client, NULL, 0), bound = backlog_bound(r);
  if (unread < a->unread) a->paused_ns = now_ns;
  a->unread = unread;
  if (now_ns - a->paused_ns >= READER_STUCK_NS) {
    cut_slow_reader(r, now_ns);
    return;
  }
  if (unread <= bound - bound / 4) {
    a->paused_ns = 0;
    a->last_ns = now_ns; /* the provider was not silent, it was held back */
    upstream->ops->pause(upstream, a, false);
  }
  timer_arm(r->pipeline->env.timers, &r->attempt_timer, now_ns + READER_LOOK_NS);
}

/* The first content: from here on this provider's answer is the client's. False: the client is gone. */
static bool commit(struct request *r, int64_t now_ns) {
  begin_stream(r, now_ns);
  bool alive = deliver(r, r->held, r->held_size, now_ns);
  drop_held(r);
  return alive;
}

void attempt_event(struct attempt *attempt, const struct upstream_event *event, int64_t now_ns) {
  struct request *r = attempt->request;
  attempt->last_ns = now_ns;
  attempt->tokens += event->tokens;
  if (!r->begun && event->tokens == 0 && hold(r, event)) return;
  if (!r->begun && !commit(r, now_ns)) return;
  deliver(r, event->bytes, event->size, now_ns);
}

void attempt_done(struct attempt *attempt, struct upstream_result *result, int64_t now_ns) {
  struct request *r = attempt->request;
  attempt->transport = NULL;
  bool empty = r->spec.stream && result->error == UPSTREAM_OK && !r->begun && !r->held;
  if (empty) {
    result->error = UPSTREAM_INVALID;
    result->detail = "the stream was empty";
  }
  if (result->error != UPSTREAM_OK) {
    recovery_after_call(r, result, now_ns);
    free(result->body);
    result->body = NULL;
    return;
  }
  if (r->held && !commit(r, now_ns)) return;
  heed_limits(r, result, now_ns);
  book_usage(r, result);
  measure(r, now_ns);
  attempt_close(r, ATTEMPT_OK, now_ns);
  r->result = *result;
  atomic_fetch_add_explicit(&r->pipeline->env.plane->bytes_in_flight, (int64_t)result->body_size,
                            memory_order_relaxed);
  result->body = NULL;
  stage_push(r->pipeline, r, STAGE_POST, now_ns);
}

/* ---- time, and leaving ---- */

static void end_call(struct request *r, enum attempt_result result, int64_t now_ns) {
  if (r->attempt.transport) {
    struct upstream *upstream = r->pipeline->env.upstreams[r->attempt.provider];
    upstream->ops->cancel(upstream, &r->attempt);
    r->attempt.transport = NULL;
  }
  attempt_close(r, result, now_ns);
}

/* A whole answer that did not come in time speaks against its provider only when the provider was given a
 * fair share of the usual deadline: clients in a hurry open no breaker. */
static enum attempt_result overdue(const struct request *r, int64_t now_ns) {
  int64_t usual = (int64_t)tunable_get(tunables_of(r->pipeline), TUNABLE_deadline_ms) * NS_PER_MS;
  return now_ns - r->attempt.started_ns >= usual / FAIR_SHARE ? ATTEMPT_TIMED_OUT : ATTEMPT_CANCELLED;
}

void attempt_expire(struct request *r, int64_t now_ns) {
  if (r->phase == PHASE_CALLING) end_call(r, r->spec.stream ? ATTEMPT_CANCELLED : overdue(r, now_ns), now_ns);
}

static void attempt_timed_out(struct timer *timer, int64_t now_ns) {
  struct request *r = (struct request *)((char *)timer - offsetof(struct request, attempt_timer));
  struct pipeline *p = r->pipeline;
  if (r->attempt.paused_ns) {
    look_at_reader(r, now_ns);
    return;
  }
  if (r->begun) { /* the idle limit is measured from the last event, and only looked at when it could have
                     passed */
    int64_t idle = (int64_t)tunable_for(tunables_of(p), TUNABLE_idle_timeout_ms, r->treated) * NS_PER_MS;
    int64_t due_ns = r->attempt.complete ? now_ns + idle : r->attempt.last_ns + idle;
    if (due_ns > now_ns) {
      timer_arm(p->env.timers, &r->attempt_timer, due_ns);
      return;
    }
  }
  end_call(r, r->spec.stream ? ATTEMPT_TIMED_OUT : overdue(r, now_ns), now_ns);
  recovery_remember(r, 0, r->begun ? "the stream fell silent" : "no token within the time limit");
  drop_held(r);
  if (r->begun)
    end_failed(r, OUTCOME_FAILED, &answer_cut, r->last_detail, now_ns);
  else
    recovery_fall_back(r, now_ns);
}

void attempt_drop(struct request *r, int64_t now_ns) {
  struct pipeline *p = r->pipeline;
  timer_disarm(p->env.timers, &r->backoff_timer);
  if (r->phase == PHASE_QUEUED) stage_leave(p, r, now_ns);
  if (r->phase == PHASE_CALLING) end_call(r, ATTEMPT_CANCELLED, now_ns);
}
