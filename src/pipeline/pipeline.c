/* One shard's pipeline. A request is in exactly one place: a ring, a call, a back-off, a flight it waits for,
 * or the ended list, from which it is freed at the end of the turn, when no transport can still be inside a
 * callback.
 *
 * Work is turned away at admission, where its client can be told at once; behind it a full ring only makes
 * the stage before it wait: each stage hands on as much as the next has room for, later stages first. So
 * nothing that was admitted is dropped on the way. */

#include "pipeline/internal.h"

#include "dialect/openai.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SPARE_REQUESTS = 256, PASSES_A_TURN = 64, SHARD_NUMBERS = 64 };

static const enum tunable_id capacities[STAGES] = {TUNABLE_buffer_rag, TUNABLE_buffer_assemble,
                                                   TUNABLE_buffer_inference, TUNABLE_buffer_post,
                                                   TUNABLE_buffer_stream};

static size_t capacity(const struct pipeline *p, enum stage stage) {
  return (size_t)tunable_get(tunables_of(p), capacities[stage]);
}

static bool has_room(const struct pipeline *p, enum stage stage) {
  return lanes_depth(&p->rings[stage]) < capacity(p, stage);
}

static void unblock(struct timer *timer, int64_t now_ns) {
  struct pipeline *p = (struct pipeline *)((char *)timer - offsetof(struct pipeline, unblock));
  (void)now_ns;
  lanes_look_again(&p->blocked);
}

struct pipeline *pipeline_create(const struct pipeline_env *env, int64_t now_ns) {
  struct pipeline *p = calloc(1, sizeof *p);
  if (!p) return NULL;
  (void)now_ns;
  p->env = *env;
  rng_seed(&p->rng, env->seed, env->shard);
  p->next_id = env->first_id + env->shard;
  p->unblock.fire = unblock;
  lanes_look_again(&p->blocked);
  return p;
}

void pipeline_destroy(struct pipeline *p) {
  if (!p) return;
  timer_disarm(p->env.timers, &p->unblock);
  for (struct request *r = p->spare, *next; r; r = next) {
    next = r->next;
    free(r);
  }
  free(p);
}

size_t pipeline_depth(const struct pipeline *p, enum stage stage) {
  return lanes_depth(&p->rings[stage]);
}

uint32_t pipeline_load(const struct pipeline *p) {
  return p->load;
}

/* ---- admission ---- */

static int seconds_up(int64_t ns) {
  return ns >= 3600 * NS_PER_S ? 3600 : (int)((ns + NS_PER_S - 1) / NS_PER_S);
}

static bool overloaded(const struct pipeline *p, enum priority priority) {
  if (!has_room(p, STAGE_RAG)) return true;
  double fill = (double)lanes_depth(&p->rings[STAGE_INFERENCE]) / (double)capacity(p, STAGE_INFERENCE);
  double bar = priority >= PRIORITY_NORMAL ? tunable_get(tunables_of(p), TUNABLE_shed_threshold) : 1.0;
  return fill >= bar;
}

static bool take_token(struct plane *plane, int64_t now_ns, int64_t *wait_ns) {
  if (!plane->rate_limited) return true;
  double rate = tunable_get(&plane->tunables, TUNABLE_rate_limit_rps);
  pthread_mutex_lock(&plane->bucket_lock);
  bool taken = bucket_take(&plane->bucket, 1, rate, plane->rate_burst, now_ns, wait_ns);
  pthread_mutex_unlock(&plane->bucket_lock);
  return taken;
}

static enum refusal admit(struct pipeline *p, const struct request_spec *spec, int64_t now_ns,
                          int *retry_after_s) {
  struct plane *plane = p->env.plane;
  double ceiling = tunable_get(&plane->tunables, TUNABLE_memory_mib) * 1048576.0;
  int64_t held = atomic_load_explicit(&plane->bytes_in_flight, memory_order_relaxed), wait_ns = 0;
  *retry_after_s = 1;
  if (atomic_load_explicit(&plane->draining, memory_order_relaxed)) return REFUSED_DRAINING;
  if ((double)held + (double)spec->body_size > ceiling) return REFUSED_MEMORY;
  if (overloaded(p, spec->priority)) {
    count(p, COUNTER_stage_sheds, STAGE_INFERENCE);
    return REFUSED_OVERLOAD;
  }
  if (!take_token(plane, now_ns, &wait_ns)) {
    *retry_after_s = seconds_up(wait_ns);
    return REFUSED_RATE;
  }
  return ADMITTED;
}

/* ---- the request's own clockwork ---- */

static void deadline_passed(struct timer *timer, int64_t now_ns) {
  struct request *r = (struct request *)((char *)timer - offsetof(struct request, deadline_timer));
  count(r->pipeline, COUNTER_deadline_expired, 0);
  end_failed(r, OUTCOME_EXPIRED, &answer_deadline, NULL, now_ns);
}

static void write_id(char *out, uint64_t id) {
  static const char digits[] = "0123456789abcdef";
  memcpy(out, "chatcmpl-", 9);
  for (int i = 0; i < 16; i++)
    out[9 + i] = digits[id >> (60 - 4 * i) & 15];
  out[25] = '\0';
}

static struct request *take_spare(struct pipeline *p) {
  struct request *r = p->spare;
  if (!r) return malloc(sizeof *r);
  p->spare = r->next;
  p->spare_count--;
  return r;
}

static struct request *make_request(struct pipeline *p, const struct request_spec *spec, int64_t now_ns) {
  struct request *r = take_spare(p);
  if (!r) return NULL;
  memset(r, 0, sizeof *r);
  r->spec = *spec;
  r->pipeline = p;
  r->id = p->next_id;
  p->next_id += SHARD_NUMBERS;
  write_id(r->id_text, r->id);
  r->arrived_ns = now_ns;
  uint64_t session = spec->session ? spec->session : mix64(r->id);
  r->treated = tunables_treats(tunables_of(p), session);
  int64_t allowed = (int64_t)tunable_for(tunables_of(p), TUNABLE_deadline_ms, r->treated) * NS_PER_MS;
  r->deadline_ns = spec->deadline_ns ? spec->deadline_ns : now_ns + allowed;
  r->deadline_timer.fire = deadline_passed;
  r->attempt.request = r;
  r->outcome = (struct outcome){.id = r->id,
                                .arrived_ns = now_ns,
                                .session = session,
                                .tenant = spec->tenant,
                                .queued_ms = NAN,
                                .ttft_ms = NAN,
                                .tpot_ms = NAN,
                                .route = spec->route,
                                .provider = NO_PROVIDER,
                                .priority = (uint8_t)spec->priority,
                                .stream = spec->stream,
                                .treated = r->treated};
  return r;
}

static void link_live(struct pipeline *p, struct request *r) {
  r->next_live = p->live;
  if (p->live) p->live->previous_live = r;
  p->live = r;
  p->load++;
  struct plane *plane = p->env.plane;
  atomic_fetch_add_explicit(&plane->requests_in_flight, 1, memory_order_relaxed);
  atomic_fetch_add_explicit(&plane->bytes_in_flight, (int64_t)r->spec.body_size, memory_order_relaxed);
}

static bool joins_flight(struct pipeline *p, struct request *r) {
  size_t waiters = (size_t)tunable_get(tunables_of(p), TUNABLE_coalesce_waiters);
  if (r->spec.stream || r->spec.no_coalesce || waiters == 0 || !p->env.plane->routes[r->spec.route].coalesce)
    return false;
  struct coalesce_key key;
  coalesce_key(r, &key);
  return coalesce_enter(p->env.plane->coalesce, &key, r, waiters) == COALESCE_JOINED;
}

struct request *pipeline_submit(struct pipeline *p, const struct request_spec *spec, int64_t now_ns,
                                enum refusal *why, int *retry_after_s) {
  *why = admit(p, spec, now_ns, retry_after_s);
  struct request *r = *why == ADMITTED ? make_request(p, spec, now_ns) : NULL;
  if (r && timer_arm(p->env.timers, &r->deadline_timer, r->deadline_ns) < 0) {
    free(r);
    r = NULL;
  }
  if (!r) {
    if (*why == ADMITTED) *why = REFUSED_MEMORY;
    count(p, COUNTER_requests_limited, 0);
    return NULL;
  }
  count(p, COUNTER_requests_admitted, spec->priority);
  link_live(p, r);
  if (joins_flight(p, r))
    r->phase = PHASE_WAITING;
  else
    stage_push(p, r, STAGE_RAG, now_ns);
  return r;
}

void request_cancel(struct request *r, int64_t now_ns) {
  end_client_gone(r, now_ns);
}

/* ---- stages ---- */

void stage_push(struct pipeline *p, struct request *r, enum stage stage, int64_t now_ns) {
  r->phase = PHASE_QUEUED;
  r->stage = stage;
  r->staged_ns = now_ns;
  lanes_push(&p->rings[stage], r);
  count(p, COUNTER_stage_arrivals, stage);
}

void stage_leave(struct pipeline *p, struct request *r, int64_t now_ns) {
  lanes_remove(&p->rings[r->stage], r);
  r->phase = PHASE_WAITING;
  count(p, COUNTER_stage_completions, r->stage);
  telemetry_sojourn(p->env.telemetry, r->stage, ms_between(r->staged_ns, now_ns));
}

static struct request *first_of(struct pipeline *p, enum stage stage, int64_t now_ns) {
  int64_t promotion = (int64_t)tunable_get(tunables_of(p), TUNABLE_promotion_interval_ms) * NS_PER_MS;
  return lanes_first(&p->rings[stage], now_ns, promotion, NULL);
}

/* Retrieval passes everything through: there is no document store yet. */
static bool run_rag(struct pipeline *p, int64_t now_ns) {
  bool moved = false;
  for (; lanes_depth(&p->rings[STAGE_RAG]) > 0 && has_room(p, STAGE_ASSEMBLE); moved = true) {
    struct request *r = first_of(p, STAGE_RAG, now_ns);
    stage_leave(p, r, now_ns);
    stage_push(p, r, STAGE_ASSEMBLE, now_ns);
  }
  return moved;
}

/* A prompt becomes a chat request; a chat request goes on as its client wrote it. */
static int assemble(struct pipeline *p, struct request *r) {
  if (r->spec.form != FORM_PROMPT) return 0;
  char *body;
  size_t size, model_at, model_size;
  int error = openai_chat_from_prompt(r->spec.body, r->spec.body_size, &body, &size, &model_at, &model_size);
  if (error) return error;
  atomic_fetch_add_explicit(&p->env.plane->bytes_in_flight, (int64_t)size, memory_order_relaxed);
  r->original = r->spec.body; /* a dead letter keeps what its client sent */
  r->original_size = r->spec.body_size;
  r->spec.body = body;
  r->spec.body_size = size;
  r->spec.model_at = model_at;
  r->spec.model_size = model_size;
  return 0;
}

static bool run_assemble(struct pipeline *p, int64_t now_ns) {
  bool moved = false;
  for (; lanes_depth(&p->rings[STAGE_ASSEMBLE]) > 0 && has_room(p, STAGE_INFERENCE); moved = true) {
    struct request *r = first_of(p, STAGE_ASSEMBLE, now_ns);
    stage_leave(p, r, now_ns);
    if (assemble(p, r) < 0)
      end_failed(r, OUTCOME_FAILED, &answer_unavailable, "the prompt could not be assembled", now_ns);
    else
      stage_push(p, r, STAGE_INFERENCE, now_ns);
  }
  return moved;
}

/* What a whole answer cost and how fast it was; the provider's word counts before ours. */
static void finish_post(struct pipeline *p, int64_t now_ns) {
  struct request *r = first_of(p, STAGE_POST, now_ns);
  stage_leave(p, r, now_ns);
  struct outcome *o = &r->outcome;
  o->provider = r->attempt.provider;
  if (r->spec.stream && r->attempt.first_ns && o->tokens_out > 1)
    o->tpot_ms = (float)(ms_between(r->attempt.first_ns, r->attempt.last_ns) / (o->tokens_out - 1));
  stage_push(p, r, STAGE_STREAM, now_ns);
}

/* As many as delivery has room for. */
static bool run_post(struct pipeline *p, int64_t now_ns) {
  bool moved = false;
  for (; lanes_depth(&p->rings[STAGE_POST]) > 0 && has_room(p, STAGE_STREAM); moved = true)
    finish_post(p, now_ns);
  return moved;
}

static bool run_stream(struct pipeline *p, int64_t now_ns) {
  bool moved = false;
  for (; lanes_depth(&p->rings[STAGE_STREAM]) > 0; moved = true) {
    struct request *r = first_of(p, STAGE_STREAM, now_ns);
    stage_leave(p, r, now_ns);
    end_answered(r, now_ns);
  }
  return moved;
}

static void free_ended(struct pipeline *p) {
  while (p->ended) {
    struct request *r = p->ended;
    p->ended = r->next;
    free(r->spec.body);
    free(r->original);
    free(r->result.body);
    free(r->held);
    if (p->spare_count < SPARE_REQUESTS) {
      r->next = p->spare;
      p->spare = r;
      p->spare_count++;
    } else {
      free(r);
    }
  }
}

bool pipeline_run(struct pipeline *p, int64_t now_ns) {
  bool moved = true;
  for (int pass = 0; moved && pass < PASSES_A_TURN; pass++) {
    moved = run_stream(p, now_ns);
    moved |= run_post(p, now_ns);
    if (has_room(p, STAGE_POST))
      moved |= inference_run(p, now_ns); /* answers that wait go before new calls */
    moved |= run_assemble(p, now_ns);
    moved |= run_rag(p, now_ns);
  }
  free_ended(p);
  return moved;
}

void pipeline_abandon(struct pipeline *p, int64_t now_ns) {
  while (p->live)
    end_failed(p->live, OUTCOME_SHED, &answer_draining, "the daemon is stopping", now_ns);
  free_ended(p);
}

void pipeline_deliver_flight(struct pipeline *p, struct flight *flight, int64_t now_ns) {
  struct coalesce *c = p->env.plane->coalesce;
  const struct landing *landing;
  struct request *r;
  while ((r = coalesce_take(c, flight, p, &landing)))
    end_from_landing(r, landing, now_ns);
  struct request *orphan = coalesce_orphan(c, flight);
  if (orphan && orphan->pipeline == p) end_client_gone(orphan, now_ns);
  coalesce_release(c, flight);
}
