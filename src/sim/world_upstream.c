/* The plant as an upstream. A stream sends its first token when it comes, then what has gathered every few
 * seconds, so that silence can be told from work, and the rest at the end: what the pipeline measures is the
 * same as with one event a token. */

#include "sim/world_internal.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define PULSE_NS (4 * NS_PER_S)

struct sim_call {
  struct world *world;
  struct attempt *attempt;
  struct plant_call *call;
  struct timer pulse;
  int64_t intent_ns;
  uint32_t sent;
  bool stream;
  struct sim_call *next;
};

static const char answer_body[] = "{\"object\":\"chat.completion\",\"choices\":[]}";
static const char too_long_body[] = "{\"error\":{\"code\":\"context_length_exceeded\"}}";

static void release(struct sim_call *call) {
  struct world *w = call->world;
  timer_disarm(w->timers, &call->pulse);
  call->attempt->transport = NULL;
  call->next = w->spare_calls;
  w->spare_calls = call;
}

static void send(struct sim_call *call, uint32_t tokens, int64_t now_ns) {
  static const char bytes[] = "data: {}\n\n";
  struct upstream_event event = {.bytes = bytes, .size = sizeof bytes - 1, .tokens = tokens};
  call->sent += tokens;
  attempt_event(call->attempt, &event, now_ns);
}

static void pulsed(struct timer *timer, int64_t now_ns) {
  struct sim_call *call = (struct sim_call *)((char *)timer - offsetof(struct sim_call, pulse));
  uint32_t tokens = plant_tokens(call->world->plant, call->call, now_ns);
  timer_arm(call->world->timers, &call->pulse, now_ns + PULSE_NS);
  if (tokens > call->sent) send(call, tokens - call->sent, now_ns);
}

static void first_token(void *ctx, int64_t now_ns) {
  struct sim_call *call = ctx;
  if (!call->stream) return;
  timer_arm(call->world->timers, &call->pulse, now_ns + PULSE_NS);
  send(call, 1, now_ns);
}

static void set_body(struct upstream_result *r, const char *body) {
  r->body = strdup(body);
  r->body_size = r->body ? strlen(body) : 0;
}

static void translate(const struct plant_result *from, bool stream, struct upstream_result *to) {
  static const struct {
    enum upstream_error error;
    int status;
    const char *detail;
  } ends[] = {[PLANT_OK] = {UPSTREAM_OK, 200, NULL},
              [PLANT_THROTTLED] = {UPSTREAM_STATUS, 429, "too many requests"},
              [PLANT_OVERLOADED] = {UPSTREAM_STATUS, 503, "the queue is full"},
              [PLANT_ERROR] = {UPSTREAM_STATUS, 500, "internal error"},
              [PLANT_TOO_LONG] = {UPSTREAM_STATUS, 400, "context length exceeded"},
              [PLANT_CUT] = {UPSTREAM_CUT, 200, "the answer stopped before its end"},
              [PLANT_REFUSED] = {UPSTREAM_CONNECT, 0, "connection refused"}};
  bool ok = from->end == PLANT_OK;
  *to = (struct upstream_result){.error = ends[from->end].error,
                                 .status = ends[from->end].status,
                                 .detail = ends[from->end].detail,
                                 .retry_after_ns = from->retry_after_ns,
                                 .usage_known = ok,
                                 .tokens_in = ok ? from->tokens_in : 0,
                                 .tokens_out = ok ? from->tokens_out : 0,
                                 .cost_usd = ok ? from->usd : NAN,
                                 .requests_left = from->requests_left,
                                 .requests_reset_ns = from->requests_reset_ns};
  if (ok && !stream) set_body(to, answer_body);
  if (from->end == PLANT_TOO_LONG) set_body(to, too_long_body);
}

static void done(void *ctx, const struct plant_result *result, int64_t now_ns) {
  struct sim_call *call = ctx;
  struct attempt *attempt = call->attempt;
  struct upstream_result r;
  translate(result, call->stream, &r);
  measure_call(call->world->measure, call->intent_ns, result->usd);
  if (call->stream && result->end == PLANT_OK && result->tokens_out > call->sent)
    send(call, result->tokens_out - call->sent, now_ns);
  if (attempt->transport != call) return; /* the last event ended it */
  release(call);
  attempt_done(attempt, &r, now_ns);
}

static const struct plant_client plant_client = {.first_token = first_token, .done = done};

static struct sim_call *make_call(struct world *w) {
  struct sim_call *call = w->spare_calls;
  if (call)
    w->spare_calls = call->next;
  else if (!(call = malloc(sizeof *call)))
    return NULL;
  memset(call, 0, sizeof *call);
  call->world = w;
  call->pulse.fire = pulsed;
  return call;
}

/* A call is drawn by its intent and by how many calls the intent has had: paired runs share the luck. */
static int start(struct upstream *upstream, struct attempt *attempt, int64_t now_ns) {
  struct sim_upstream *u = (struct sim_upstream *)upstream;
  struct world *w = u->world;
  struct sim_client *client = attempt->request->spec.client;
  const struct intent *in = &client->intent;
  struct sim_call *call = make_call(w);
  if (!call) return -ENOMEM;
  call->attempt = attempt;
  call->stream = attempt->request->spec.stream;
  call->intent_ns = in->at_ns;
  call->call = plant_begin(w->plant, u->provider, in->tokens_in, in->tokens_out,
                           in->number * 64 + client->calls++ % 64, &plant_client, call, now_ns);
  if (!call->call) {
    release(call);
    return -ENOMEM;
  }
  attempt->transport = call;
  return 0;
}

static void cancel(struct upstream *upstream, struct attempt *attempt) {
  struct sim_upstream *u = (struct sim_upstream *)upstream;
  struct sim_call *call = attempt->transport;
  struct plant_result result;
  if (!call) return;
  plant_cancel(u->world->plant, call->call, &result, u->world->now_ns);
  measure_call(u->world->measure, call->intent_ns, result.usd);
  release(call);
}

static const struct upstream_ops ops = {.start = start, .cancel = cancel};

void upstreams_init(struct world *w) {
  for (unsigned i = 0; i < w->scenario->provider_count; i++)
    w->upstreams[i] = (struct sim_upstream){.base = {.ops = &ops}, .world = w, .provider = i};
}

void upstreams_free(struct world *w) {
  for (struct sim_call *call = w->spare_calls, *next; call; call = next) {
    next = call->next;
    free(call);
  }
}
