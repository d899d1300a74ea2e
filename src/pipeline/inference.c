/* Inference: route → breaker → concurrency limit → attempt → retry or fall back.
 *
 * A waiting request takes the candidate that the route table prefers among those that are free now: not given
 * up by this request, breaker willing, not cooling down after a 429, below its concurrency limit. Fallbacks
 * are looked at only when no primary candidate is free.
 *
 * After a failed call:
 * - 429: the provider is closed until Retry-After; another candidate at once, else wait for it
 * - 5xx, connection: once more at the same provider (within the retry budget), then another candidate; where
 *   there is no other, up to retry_attempts
 * - time-out: never the same provider again; another candidate
 * - 400, 413, 422: the request's own fault: its answer (but context_length_exceeded may try a larger model)
 * - other 4xx: another candidate
 * - after first content: nothing can be taken back: the stream ends with an error frame */

#include "pipeline/internal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define UNBLOCK_NS (20 * NS_PER_MS)
#define COOLING_DEFAULT_NS (1 * NS_PER_S)
#define READER_LOOK_NS (10 * NS_PER_MS) /* between two looks at a reader who is behind */
#define READER_STUCK_NS (5 * NS_PER_S)  /* without reading anything */
enum { HELD_MAX = 65536, RACES = 4, FAIR_SHARE = 8 };

static struct provider_state *provider_of(const struct pipeline *p, unsigned provider) {
  return &p->env.plane->providers[provider];
}

static const struct route_spec *route_of(const struct request *r) {
  return &r->pipeline->env.plane->routes[r->spec.route];
}

static struct breaker_settings breaker_settings(const struct pipeline *p) {
  const struct tunables *t = tunables_of(p);
  return (struct breaker_settings){
      .failure_threshold = (uint32_t)tunable_get(t, TUNABLE_breaker_failure_threshold),
      .success_rate = tunable_get(t, TUNABLE_breaker_success_rate),
      .pause_ns = (int64_t)tunable_get(t, TUNABLE_breaker_timeout_ms) * NS_PER_MS};
}

/* ---- which candidates are free ---- */

enum standing { FREE, BUSY, COOLING, BROKEN };

static enum standing standing(struct pipeline *p, unsigned provider, int64_t now_ns) {
  struct provider_state *s = provider_of(p, provider);
  pthread_mutex_lock(&s->lock);
  bool willing = breaker_would_admit(&s->breaker, now_ns);
  pthread_mutex_unlock(&s->lock);
  if (!willing) return BROKEN;
  if (atomic_load_explicit(&s->closed_until_ns, memory_order_relaxed) > now_ns) return COOLING;
  if (atomic_load_explicit(&s->in_flight, memory_order_relaxed) >= plane_limit(p->env.plane, provider))
    return BUSY;
  return FREE;
}

struct survey {
  uint32_t free, hopeful; /* candidates that can be used now; that can be waited for */
  uint32_t busy, cooling; /* of the hopeful ones: at their limit; closed after a 429 */
  int64_t opens_ns;       /* when the first cooling one opens */
};

static struct survey survey(struct request *r, int64_t now_ns) {
  const struct route_spec *route = route_of(r);
  struct survey s = {.opens_ns = NS_NEVER};
  for (unsigned i = 0; i < route->candidate_count; i++) {
    if (r->spent >> i & 1) continue;
    unsigned provider = route->candidates[i];
    enum standing st = standing(r->pipeline, provider, now_ns);
    if (st == FREE) s.free |= 1u << i;
    if (st == BUSY) s.busy |= 1u << i;
    if (st == COOLING) {
      int64_t opens =
          atomic_load_explicit(&provider_of(r->pipeline, provider)->closed_until_ns, memory_order_relaxed);
      s.hopeful |= 1u << i;
      s.cooling |= 1u << i;
      if (opens < s.opens_ns) s.opens_ns = opens;
    }
  }
  s.hopeful |= s.busy;
  uint32_t primary = (1u << route->primary_count) - 1;
  if (s.free & primary) s.free &= primary;
  return s;
}

/* ---- one attempt ---- */

static void attempt_timed_out(struct timer *timer, int64_t now_ns);

static void refresh_table(struct pipeline *p) {
  uint64_t version = atomic_load_explicit(&p->env.plane->table_version, memory_order_acquire);
  if (version != p->table.version) plane_copy_table(p->env.plane, &p->table);
}

static bool choose(struct request *r, uint32_t available, struct route_choice *choice) {
  struct pipeline *p = r->pipeline;
  refresh_table(p);
  bool sticky = route_of(r)->sticky && r->spec.session;
  double draw =
      sticky ? (double)(mix64(r->spec.session + r->spec.route) >> 11) * 0x1p-53 : rng_uniform(&p->rng);
  uint32_t turn =
      p->table.version == 0 ? atomic_fetch_add_explicit(&p->env.plane->turn, 1, memory_order_relaxed) : 0;
  return route_pick(&p->table, r->spec.route, available, draw, turn, choice);
}

/* Takes a place at the provider: limit, breaker, retry budget's count. False: lost a race. */
static bool take_place(struct request *r, unsigned provider, int64_t now_ns) {
  struct pipeline *p = r->pipeline;
  struct provider_state *s = provider_of(p, provider);
  uint32_t before = atomic_fetch_add_explicit(&s->in_flight, 1, memory_order_relaxed);
  bool admitted = before < plane_limit(p->env.plane, provider);
  if (admitted) {
    pthread_mutex_lock(&s->lock);
    admitted = breaker_admit(&s->breaker, now_ns, &r->breaker_generation);
    if (admitted && r->tries_here == 0) retry_budget_attempt(&s->budget, now_ns);
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

static bool start_attempt(struct request *r, const struct route_choice *choice, int64_t now_ns) {
  struct pipeline *p = r->pipeline;
  unsigned provider = route_of(r)->candidates[choice->candidate];
  if (choice->candidate != r->candidate || r->outcome.attempts == 0) r->tries_here = 0;
  if (!take_place(r, provider, now_ns)) return false;
  stage_leave(p, r, now_ns);
  struct provider_state *s = provider_of(p, provider);
  atomic_fetch_add_explicit(&s->tokens_in_flight, r->spec.tokens_in, memory_order_relaxed);
  if (!r->dispatched_ns) {
    r->dispatched_ns = now_ns;
    r->outcome.queued_ms = (float)ms_between(r->arrived_ns, now_ns);
    telemetry_wait(p->env.telemetry, r->spec.priority, r->outcome.queued_ms);
  }
  r->candidate = choice->candidate;
  r->tries_here++;
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
static void close_attempt(struct request *r, enum attempt_result result, int64_t now_ns) {
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
  bool opened = false;
  if (result == ATTEMPT_OK || result == ATTEMPT_FAILED || result == ATTEMPT_TIMED_OUT)
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
  p->blocked_routes = 0;
  r->phase = PHASE_WAITING;
}

/* ---- what comes after a failure ---- */

static void back_in_line(struct request *r, int64_t now_ns) {
  struct pipeline *p = r->pipeline;
  r->phase = PHASE_QUEUED;
  r->stage = STAGE_INFERENCE;
  r->staged_ns = now_ns;
  lanes_push_front(&p->rings[STAGE_INFERENCE], r);
  count(p, COUNTER_stage_arrivals, STAGE_INFERENCE);
}

static void backed_off(struct timer *timer, int64_t now_ns) {
  struct request *r = (struct request *)((char *)timer - offsetof(struct request, backoff_timer));
  back_in_line(r, now_ns);
}

static void line_up_after(struct request *r, int64_t wait_ns, int64_t now_ns) {
  if (wait_ns <= 0) {
    back_in_line(r, now_ns);
    return;
  }
  r->backoff_timer.fire = backed_off;
  timer_arm(r->pipeline->env.timers, &r->backoff_timer, now_ns + wait_ns);
}

static void fall_back(struct request *r, int64_t now_ns) {
  r->spent |= 1u << r->candidate;
  count(r->pipeline, COUNTER_fallbacks, r->attempt.provider);
  back_in_line(r, now_ns);
}

static bool others_free(struct request *r, int64_t now_ns) {
  struct survey s = survey(r, now_ns);
  return (s.free & ~(1u << r->candidate)) != 0;
}

static bool may_retry_here(struct request *r, int64_t now_ns) {
  struct pipeline *p = r->pipeline;
  struct provider_state *s = provider_of(p, r->attempt.provider);
  unsigned allowed = (unsigned)tunable_for(tunables_of(p), TUNABLE_retry_attempts, r->treated);
  if (r->tries_here > allowed || (r->tries_here > 1 && others_free(r, now_ns))) return false;
  double percent = tunable_get(tunables_of(p), TUNABLE_retry_budget_percent);
  pthread_mutex_lock(&s->lock);
  bool may = breaker_would_admit(&s->breaker, now_ns);
  bool budget = may && retry_budget_take(&s->budget, percent, now_ns);
  pthread_mutex_unlock(&s->lock);
  if (may) count(p, budget ? COUNTER_retries : COUNTER_retries_denied, r->attempt.provider);
  return budget;
}

static void after_failure(struct request *r, int64_t now_ns) {
  struct pipeline *p = r->pipeline;
  if (!may_retry_here(r, now_ns)) {
    fall_back(r, now_ns);
    return;
  }
  int64_t base = (int64_t)tunable_for(tunables_of(p), TUNABLE_retry_base_ms, r->treated) * NS_PER_MS;
  int64_t max = (int64_t)tunable_for(tunables_of(p), TUNABLE_retry_max_ms, r->treated) * NS_PER_MS;
  r->pinned = true;
  line_up_after(r, retry_backoff_ns(r->tries_here, base, max, &p->rng), now_ns);
}

/* Closed for everyone until Retry-After; this request turns to another candidate, or waits with a jitter so
 * that all who wait do not come back in the same instant. */
static void after_throttle(struct request *r, const struct upstream_result *result, int64_t now_ns) {
  struct pipeline *p = r->pipeline;
  struct provider_state *s = provider_of(p, r->attempt.provider);
  int64_t wait = result->retry_after_ns;
  if (wait < 0) wait = COOLING_DEFAULT_NS / 2 + (int64_t)(rng_uniform(&p->rng) * (double)COOLING_DEFAULT_NS);
  int64_t until = now_ns + wait, held = atomic_load_explicit(&s->closed_until_ns, memory_order_relaxed);
  while (until > held && !atomic_compare_exchange_weak(&s->closed_until_ns, &held, until))
    continue;
  if (others_free(r, now_ns)) {
    count(p, COUNTER_fallbacks, r->attempt.provider);
    back_in_line(r, now_ns);
    return;
  }
  unsigned allowed = (unsigned)tunable_for(tunables_of(p), TUNABLE_retry_attempts, r->treated);
  double spread = fmax(0.5e9, 0.1 * (double)wait);
  if (r->tries_here > allowed || until >= r->deadline_ns)
    fall_back(r, now_ns);
  else
    line_up_after(r, wait + (int64_t)(rng_uniform(&p->rng) * spread), now_ns);
}

static bool contains(const struct upstream_result *result, const char *word) {
  return result->body && memmem(result->body, result->body_size, word, strlen(word)) != NULL;
}

/* 400, 413 and 422 are the request's own fault wherever it is sent; a context that is too long may fit
 * elsewhere. */
static bool definitive(const struct upstream_result *result) {
  bool own_fault = result->status == 400 || result->status == 413 || result->status == 422;
  return own_fault && !contains(result, "context_length_exceeded");
}

static bool last_candidate(const struct request *r) {
  uint32_t all = (1u << route_of(r)->candidate_count) - 1;
  return (all & ~r->spent & ~(1u << r->candidate)) == 0;
}

/* A provider's refusal as its client gets it: the provider's words, but our credentials stay our affair. */
static void end_rejected(struct request *r, struct upstream_result *result, int64_t now_ns) {
  bool ours = result->status == 401 || result->status == 403;
  struct answer a = {.status = ours ? 502 : result->status,
                     .body = ours ? NULL : result->body,
                     .body_size = ours ? 0 : result->body_size,
                     .error_type = ours ? "api_error" : "invalid_request_error",
                     .error_code = ours ? "provider_refused_credentials" : "provider_rejected",
                     .error_message =
                         ours ? "The provider refused the daemon's own key. Check the key of this provider."
                              : "The provider rejected the request.",
                     .retry_after_s = -1};
  end_failed(r, OUTCOME_FAILED, &a, result->detail, now_ns);
}

static enum attempt_result classify(const struct upstream_result *result) {
  if (result->error != UPSTREAM_STATUS) return ATTEMPT_FAILED;
  if (result->status == 429) return ATTEMPT_THROTTLED;
  return result->status >= 400 && result->status < 500 && result->status != 408 ? ATTEMPT_REJECTED
                                                                                : ATTEMPT_FAILED;
}

static void remember(struct request *r, int status, const char *detail) {
  r->last_status = status;
  snprintf(r->last_detail, sizeof r->last_detail, "%s", detail);
}

static void after_attempt(struct request *r, struct upstream_result *result, int64_t now_ns) {
  enum attempt_result kind = classify(result);
  close_attempt(r, kind, now_ns);
  remember(r, result->status, result->detail ? result->detail : upstream_error_name(result->error));
  if (r->begun) {
    end_failed(r, OUTCOME_FAILED, &answer_cut, result->detail, now_ns);
  } else if (kind == ATTEMPT_REJECTED) {
    if (definitive(result) || last_candidate(r))
      end_rejected(r, result, now_ns);
    else
      fall_back(r, now_ns);
  } else if (kind == ATTEMPT_THROTTLED && contains(result, "insufficient_quota")) {
    fall_back(r, now_ns);
  } else if (kind == ATTEMPT_THROTTLED) {
    after_throttle(r, result, now_ns);
  } else {
    after_failure(r, now_ns);
  }
}

/* ---- from the transport ---- */

static void book_usage(struct request *r, const struct upstream_result *result) {
  struct pipeline *p = r->pipeline;
  unsigned provider = r->attempt.provider;
  struct outcome *o = &r->outcome;
  o->tokens_in = result->usage_known ? result->tokens_in : r->spec.tokens_in;
  o->tokens_out = result->usage_known ? result->tokens_out : r->attempt.tokens;
  uint32_t cached = result->usage_known && result->tokens_cached < o->tokens_in ? result->tokens_cached : 0;
  double cost = isnan(result->cost_usd)
                    ? price_of(&provider_of(p, provider)->spec.price, o->tokens_in, cached, o->tokens_out)
                    : result->cost_usd;
  o->cost_usd += cost;
  counter_add(&p->env.telemetry->counters, COUNTER_tokens_in, provider, o->tokens_in);
  counter_add(&p->env.telemetry->counters, COUNTER_tokens_out, provider, o->tokens_out);
  counter_add(&p->env.telemetry->counters, COUNTER_cost_nano_usd, provider, (uint64_t)llround(cost * 1e9));
}

static void measure(struct request *r, int64_t now_ns) {
  struct telemetry *t = r->pipeline->env.telemetry;
  const struct attempt *a = &r->attempt;
  uint32_t tokens = r->outcome.tokens_out;
  if (r->spec.stream && a->first_ns && tokens > 1)
    telemetry_tpot(t, a->provider, ms_between(a->first_ns, a->last_ns) / (tokens - 1));
  if (!r->spec.stream && tokens > 0)
    telemetry_tpot(t, a->provider, ms_between(a->started_ns, now_ns) / tokens);
}

/* A provider that says that nothing is left is not asked again before its window turns. */
static void heed_limits(struct request *r, const struct upstream_result *result, int64_t now_ns) {
  if (!(result->requests_left <= 0) || result->requests_reset_ns <= 0) return;
  struct provider_state *s = provider_of(r->pipeline, r->attempt.provider);
  atomic_store_explicit(&s->closed_until_ns, now_ns + result->requests_reset_ns, memory_order_relaxed);
}

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

static void drop_held(struct request *r) {
  free(r->held);
  r->held = NULL;
  r->held_size = 0;
}

static void begin_stream(struct request *r, int64_t now_ns) {
  struct pipeline *p = r->pipeline;
  const struct provider_spec *spec = &provider_of(p, r->attempt.provider)->spec;
  struct answer a = {.status = 200,
                     .retry_after_s = -1,
                     .provider = spec->name,
                     .model = spec->model,
                     .attempts = r->outcome.attempts};
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
    after_attempt(r, result, now_ns);
    free(result->body);
    result->body = NULL;
    return;
  }
  if (r->held && !commit(r, now_ns)) return;
  heed_limits(r, result, now_ns);
  book_usage(r, result);
  measure(r, now_ns);
  close_attempt(r, ATTEMPT_OK, now_ns);
  r->result = *result;
  atomic_fetch_add_explicit(&r->pipeline->env.plane->bytes_in_flight, (int64_t)result->body_size,
                            memory_order_relaxed);
  result->body = NULL;
  stage_push(r->pipeline, r, STAGE_POST, now_ns);
}

static void end_call(struct request *r, enum attempt_result result, int64_t now_ns) {
  if (r->attempt.transport) {
    struct upstream *upstream = r->pipeline->env.upstreams[r->attempt.provider];
    upstream->ops->cancel(upstream, &r->attempt);
    r->attempt.transport = NULL;
  }
  close_attempt(r, result, now_ns);
}

/* A whole answer that did not come in time speaks against its provider only when the provider was given a
 * fair share of the usual deadline: clients in a hurry open no breaker. */
static enum attempt_result overdue(const struct request *r, int64_t now_ns) {
  int64_t usual = (int64_t)tunable_get(tunables_of(r->pipeline), TUNABLE_deadline_ms) * NS_PER_MS;
  return now_ns - r->attempt.started_ns >= usual / FAIR_SHARE ? ATTEMPT_TIMED_OUT : ATTEMPT_CANCELLED;
}

void inference_expire(struct request *r, int64_t now_ns) {
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
    if (r->attempt.last_ns + idle > now_ns) {
      timer_arm(p->env.timers, &r->attempt_timer, r->attempt.last_ns + idle);
      return;
    }
  }
  end_call(r, r->spec.stream ? ATTEMPT_TIMED_OUT : overdue(r, now_ns), now_ns);
  remember(r, 0, r->begun ? "the stream fell silent" : "no token within the time limit");
  drop_held(r);
  if (r->begun)
    end_failed(r, OUTCOME_FAILED, &answer_cut, r->last_detail, now_ns);
  else
    fall_back(r, now_ns);
}

void inference_drop(struct request *r, int64_t now_ns) {
  struct pipeline *p = r->pipeline;
  timer_disarm(p->env.timers, &r->backoff_timer);
  if (r->phase == PHASE_QUEUED) stage_leave(p, r, now_ns);
  if (r->phase == PHASE_CALLING) end_call(r, ATTEMPT_CANCELLED, now_ns);
}

/* ---- dispatch ---- */

static void give_up(struct request *r, int64_t opens_ns, int64_t now_ns) {
  struct answer a = r->last_status == 429 || opens_ns != NS_NEVER ? answer_throttled : answer_unavailable;
  if (opens_ns != NS_NEVER) a.retry_after_s = (int)((opens_ns - now_ns) / NS_PER_S) + 1;
  end_failed(r, OUTCOME_FAILED, &a, r->outcome.attempts ? r->last_detail : "no candidate may be called",
             now_ns);
}

/* Once a request: which candidates would have been better than the one it got (-1: it got none), had their
 * limit not been reached. This is the demand that more instances could serve. */
static void count_refusals(struct request *r, uint32_t busy, int got) {
  if (r->surveyed) return;
  r->surveyed = true;
  const struct route_table *t = &r->pipeline->table;
  const float *utility = t->routes[r->spec.route].utility;
  for (unsigned i = 0; busy >> i; i++)
    if ((busy >> i & 1) && (got < 0 || t->version == 0 || utility[i] > utility[got]))
      count(r->pipeline, COUNTER_limit_refusals, route_of(r)->candidates[i]);
}

/* Starts the request, ends it, or finds that it must wait: then its route is blocked until something is
 * freed. */
static bool dispatch(struct pipeline *p, struct request *r, int64_t now_ns) {
  struct survey s = survey(r, now_ns);
  if (r->pinned && (s.free >> r->candidate & 1)) s.free = 1u << r->candidate;
  r->pinned = false;
  for (int race = 0; s.free && race < RACES; race++) {
    struct route_choice choice;
    if (!choose(r, s.free, &choice)) break;
    if (start_attempt(r, &choice, now_ns)) {
      count_refusals(r, s.busy, choice.candidate);
      return true;
    }
    s.free &= ~(1u << choice.candidate);
    s.hopeful |= 1u << choice.candidate;
  }
  bool too_late = s.opens_ns != NS_NEVER && s.opens_ns >= r->deadline_ns && (s.hopeful & ~s.cooling) == 0;
  if (!s.hopeful || too_late) {
    give_up(r, s.opens_ns, now_ns);
    return true;
  }
  count_refusals(r, s.busy, -1);
  if (r->spent == 0) {
    p->blocked_routes |= UINT64_C(1) << r->spec.route;
    return false;
  }
  lanes_remove(&p->rings[STAGE_INFERENCE],
               r); /* its choice is narrower than its route's: it waits by itself */
  r->phase = PHASE_WAITING;
  line_up_after(r, UNBLOCK_NS, now_ns);
  return true;
}

bool inference_run(struct pipeline *p, int64_t now_ns) {
  int64_t promotion = (int64_t)tunable_get(tunables_of(p), TUNABLE_promotion_interval_ms) * NS_PER_MS;
  bool moved = false;
  struct request *r;
  while (lanes_depth(&p->rings[STAGE_INFERENCE]) > 0 &&
         (r = lanes_first(&p->rings[STAGE_INFERENCE], now_ns, promotion, p->blocked_routes)))
    moved |= dispatch(p, r, now_ns);
  if (p->blocked_routes && p->unblock.slot == 0) timer_arm(p->env.timers, &p->unblock, now_ns + UNBLOCK_NS);
  return moved;
}
