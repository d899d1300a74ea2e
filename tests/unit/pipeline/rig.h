#ifndef TESTS_UNIT_PIPELINE_RIG_H
#define TESTS_UNIT_PIPELINE_RIG_H

/* A pipeline on virtual time with scripted providers: what the pipeline tests share. Header only; every test
 * binary includes it once. */

#include "bus/telemetry.h"
#include "pipeline/pipeline.h"
#include "pipeline/plane.h"
#include "sys/clock.h"
#include "sys/timer.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { RIG_CALLS = 512, RIG_CLIENTS = 1024 };

/* What a provider does with its next call. The last entry of a script repeats. */
struct act {
  enum { ANSWER, STATUS, RESET, SILENT, STREAM, CUT_AFTER } what;
  int status;
  int64_t after_ns, retry_after_ns;
  bool role;  /* STREAM, CUT_AFTER: an event without content before them */
  int tokens; /* of them: content events, one each `gap_ns` */
  int64_t gap_ns;
  int64_t tail_ns;    /* STREAM: from its last event to its end, all content being there */
  unsigned malformed; /* STREAM: events before each that the transport skips */
  const char *body;
};

struct fake_call {
  struct timer timer;
  struct fake *fake;
  struct attempt *attempt;
  struct act act;
  int sent;
  bool greeted, told;
};

struct fake {
  struct upstream upstream;
  struct rig *rig;
  const struct act *script;
  unsigned script_count, started, cancelled, active, most_active;
  int64_t started_at[RIG_CALLS];
};

struct client {
  struct rig *rig;
  int begun, events, finished, status, retry_after_s;
  char heard[256]; /* the first bytes of its stream */
  size_t backlog;  /* what event() reports */
  char body[256], code[64];
  int64_t finished_ns;
  bool coalesced;
  char model[NAME_SIZE];
};

struct rig {
  struct timers *timers;
  struct plane *plane;
  struct telemetry *telemetry;
  struct pipeline *pipeline;
  struct fake fakes[2];
  struct client clients[RIG_CLIENTS];
  unsigned letters;
  char letter_reason[64], letter_path[64], letter_body[256];
  int64_t now_ns;
};

static inline void fake_play(struct timer *timer, int64_t now_ns);

static inline int fake_start(struct upstream *upstream, struct attempt *attempt, int64_t now_ns) {
  struct fake *f = (struct fake *)upstream;
  struct fake_call *call = calloc(1, sizeof *call);
  unsigned n = f->started < f->script_count ? f->started : f->script_count - 1;
  call->fake = f;
  call->attempt = attempt;
  call->act = f->script[n];
  call->timer.fire = fake_play;
  attempt->transport = call;
  if (f->started < RIG_CALLS) f->started_at[f->started] = now_ns;
  f->started++;
  if (++f->active > f->most_active) f->most_active = f->active;
  if (call->act.what != SILENT) timer_arm(f->rig->timers, &call->timer, now_ns + call->act.after_ns);
  return 0;
}

static inline void fake_cancel(struct upstream *upstream, struct attempt *attempt) {
  struct fake *f = (struct fake *)upstream;
  struct fake_call *call = attempt->transport;
  timer_disarm(f->rig->timers, &call->timer);
  f->cancelled++;
  f->active--;
  free(call);
}

static const struct upstream_ops fake_ops = {.start = fake_start, .cancel = fake_cancel};

static inline void fake_finish(struct fake_call *call, enum upstream_error error, int status,
                               const char *body, int64_t now_ns) {
  struct upstream_result result = {.error = error,
                                   .status = status,
                                   .retry_after_ns = call->act.retry_after_ns,
                                   .body = body ? strdup(body) : NULL,
                                   .body_size = body ? strlen(body) : 0,
                                   .usage_known = error == UPSTREAM_OK,
                                   .tokens_in = 10,
                                   .tokens_out = 5,
                                   .cost_usd = NAN,
                                   .requests_left = NAN,
                                   .requests_reset_ns = -1};
  struct attempt *attempt = call->attempt;
  call->fake->active--;
  free(call);
  attempt_done(attempt, &result, now_ns);
}

static inline void fake_play(struct timer *timer, int64_t now_ns) {
  struct fake_call *call = (struct fake_call *)timer;
  const struct act *a = &call->act;
  if (a->what == ANSWER) {
    fake_finish(call, UPSTREAM_OK, 200, a->body ? a->body : "{}", now_ns);
  } else if (a->what == STATUS) {
    fake_finish(call, UPSTREAM_STATUS, a->status, a->body, now_ns);
  } else if (a->what == RESET) {
    fake_finish(call, UPSTREAM_RESET, 0, NULL, now_ns);
  } else if (a->role && !call->greeted) {
    call->greeted = true;
    timer_arm(call->fake->rig->timers, timer, now_ns + a->gap_ns);
    attempt_event(call->attempt, &(struct upstream_event){"data: r\n\n", 9, 0}, now_ns);
  } else if (call->sent < a->tokens) {
    call->sent++;
    call->attempt->malformed += a->malformed;
    timer_arm(call->fake->rig->timers, timer, now_ns + a->gap_ns);
    attempt_event(call->attempt, &(struct upstream_event){"data: x\n\n", 9, 1}, now_ns);
  } else if (a->tail_ns && !call->told) {
    call->told = call->attempt->complete = true;
    timer_arm(call->fake->rig->timers, timer, now_ns + a->tail_ns);
  } else {
    fake_finish(call, a->what == STREAM ? UPSTREAM_OK : UPSTREAM_CUT, 200, NULL, now_ns);
  }
}

static inline void client_begin(void *ctx, const struct request *request, const struct answer *answer) {
  struct client *c = ctx;
  (void)request;
  (void)answer;
  c->begun++;
}

static inline size_t client_event(void *ctx, const char *bytes, size_t size) {
  struct client *c = ctx;
  size_t length = strlen(c->heard);
  c->events += size > 0;
  if (bytes) snprintf(c->heard + length, sizeof c->heard - length, "%.*s", (int)size, bytes);
  return c->backlog;
}

static inline void client_finish(void *ctx, const struct request *request, const struct answer *answer) {
  struct client *c = ctx;
  (void)request;
  c->finished++;
  c->status = answer->status;
  c->retry_after_s = answer->retry_after_s;
  c->finished_ns = c->rig->now_ns;
  c->coalesced = answer->coalesced;
  snprintf(c->body, sizeof c->body, "%.*s", (int)answer->body_size, answer->body ? answer->body : "");
  snprintf(c->code, sizeof c->code, "%s", answer->error_code ? answer->error_code : "");
  snprintf(c->model, sizeof c->model, "%s", answer->model ? answer->model : "");
}

static const struct client_ops client_ops = {client_begin, client_event, client_finish};

static inline int keep_letter(void *ctx, const struct dead_letter *letter) {
  struct rig *rig = ctx;
  rig->letters++;
  snprintf(rig->letter_reason, sizeof rig->letter_reason, "%s", letter->reason);
  snprintf(rig->letter_path, sizeof rig->letter_path, "%s", letter->path);
  snprintf(rig->letter_body, sizeof rig->letter_body, "%.*s", (int)letter->body_size, letter->body);
  return 0;
}

/* Two providers p0 and p1 behind the route "auto" (p0 first, p1 a fallback when `fallback`, else a peer). */
static inline void rig_open(struct rig *rig, bool fallback, const struct act *first, unsigned n0,
                            const struct act *second, unsigned n1) {
  static const struct provider_spec providers[2] = {{.name = "p0", .model = "m0", .price = {1, 1, 2}},
                                                    {.name = "p1", .model = "m1", .price = {1, 1, 2}}};
  struct route_spec route = {.name = "auto",
                             .candidates = {0, 1},
                             .candidate_count = second ? 2 : 1,
                             .primary_count = second && !fallback ? 2 : 1,
                             .coalesce = true};
  struct plane_config config = {.objective = {2000, 50, 1, 1},
                                .provider_count = 2,
                                .route_count = 1,
                                .providers = providers,
                                .routes = &route,
                                .rate_burst = 10};
  memset(rig, 0, sizeof *rig);
  rig->now_ns = 1000 * NS_PER_S;
  rig->timers = timers_create();
  rig->plane = plane_create(&config, rig->now_ns);
  rig->telemetry = telemetry_create();
  rig->fakes[0] = (struct fake){.upstream = {&fake_ops}, .rig = rig, .script = first, .script_count = n0};
  rig->fakes[1] = (struct fake){.upstream = {&fake_ops}, .rig = rig, .script = second, .script_count = n1};
  struct pipeline_env env = {.plane = rig->plane,
                             .timers = rig->timers,
                             .telemetry = rig->telemetry,
                             .upstreams = {&rig->fakes[0].upstream, &rig->fakes[1].upstream},
                             .seed = 7,
                             .first_id = 1 << 20,
                             .ctx = rig,
                             .dead_letter = keep_letter};
  rig->pipeline = pipeline_create(&env, rig->now_ns);
}

/* One more pipeline on the same plane, with the first provider alone. The caller destroys it. */
static inline struct pipeline *rig_shard(struct rig *rig, unsigned shard,
                                         void (*wake)(void *ctx, struct pipeline *other,
                                                      struct flight *flight)) {
  struct pipeline_env env = {.plane = rig->plane,
                             .timers = rig->timers,
                             .telemetry = rig->telemetry,
                             .upstreams = {&rig->fakes[0].upstream},
                             .seed = shard,
                             .shard = shard,
                             .first_id = 1 << 20,
                             .ctx = rig,
                             .dead_letter = keep_letter,
                             .wake = wake};
  return pipeline_create(&env, rig->now_ns);
}

static inline void rig_close(struct rig *rig) {
  assert_int_equal(pipeline_load(rig->pipeline), 0);
  assert_int_equal(atomic_load(&rig->plane->bytes_in_flight), 0);
  assert_int_equal(atomic_load(&rig->plane->requests_in_flight), 0);
  for (int i = 0; i < 2; i++)
    assert_int_equal(atomic_load(&rig->plane->providers[i].in_flight), 0);
  pipeline_destroy(rig->pipeline);
  telemetry_destroy(rig->telemetry);
  plane_destroy(rig->plane);
  timers_destroy(rig->timers);
}

static inline void rig_until(struct rig *rig, int64_t ns) {
  int64_t end = rig->now_ns + ns;
  while (pipeline_run(rig->pipeline, rig->now_ns))
    continue;
  while (timers_next_ns(rig->timers) <= end) {
    rig->now_ns = timers_next_ns(rig->timers);
    timers_run(rig->timers, rig->now_ns);
    while (pipeline_run(rig->pipeline, rig->now_ns))
      continue;
  }
  rig->now_ns = end;
}

struct ask {
  enum priority priority;
  bool stream, no_coalesce, prompt;
  int64_t deadline_ns; /* from now; 0: default */
  const char *body;
};

static inline struct request *rig_ask(struct rig *rig, unsigned client, struct ask ask) {
  char *body = strdup(ask.body ? ask.body : "{}");
  rig->clients[client].rig = rig;
  struct request_spec spec = {.form = ask.prompt ? FORM_PROMPT : FORM_CHAT,
                              .priority = ask.priority,
                              .stream = ask.stream,
                              .no_coalesce = ask.no_coalesce,
                              .deadline_ns = ask.deadline_ns ? rig->now_ns + ask.deadline_ns : 0,
                              .body = body,
                              .body_size = strlen(body),
                              .tokens_in = 10,
                              .ops = &client_ops,
                              .client = &rig->clients[client]};
  enum refusal why;
  int retry_after_s;
  struct request *r = pipeline_submit(rig->pipeline, &spec, rig->now_ns, &why, &retry_after_s);
  if (!r) free(body);
  while (pipeline_run(rig->pipeline, rig->now_ns))
    continue;
  return r;
}

static inline uint64_t rig_count(const struct rig *rig, enum counter_id id, unsigned label) {
  return atomic_load(&rig->telemetry->counters.value[id][label]);
}

static inline void rig_set(struct rig *rig, enum tunable_id id, double value) {
  for (uint16_t p = 0; p < MAX_PROVIDERS; p++)
    tunable_set(&rig->plane->tunables, (struct tunable_key){(uint16_t)id, p}, value);
}

/* Every request past admission ended one way, and the three counters add up. */
static inline void rig_assert_conserved(const struct rig *rig) {
  uint64_t admitted = 0;
  for (int p = 0; p < PRIORITIES; p++)
    admitted += rig_count(rig, COUNTER_requests_admitted, p);
  assert_int_equal(admitted, rig_count(rig, COUNTER_requests_answered, 0) +
                                 rig_count(rig, COUNTER_requests_dead_lettered, 0) +
                                 rig_count(rig, COUNTER_requests_client_gone, 0));
  assert_int_equal(rig->letters, rig_count(rig, COUNTER_requests_dead_lettered, 0));
}

#define S(n) ((int64_t)((n)*1e9))
#define MS(n) ((int64_t)((n)*1e6))
#define COUNT(a) (sizeof(a) / sizeof *(a))

#endif
