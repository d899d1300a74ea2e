/* A call is drawn whole when it begins: whether it will fail or be cut comes from its own random numbers.
 * What is left to time is the batch it shares (plant_server.c) or its own two delays (plant_hosted.c). */

#include "sim/plant_internal.h"

#include "sim/dataset.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define REFUSED_AFTER_NS (1 * NS_PER_MS)
#define ERROR_AFTER_NS (200 * NS_PER_MS)

struct plant *plant_create(const struct plant_options *o) {
  struct plant *plant = calloc(1, sizeof *plant);
  if (!plant) return NULL;
  plant->scenario = o->scenario;
  plant->data = o->data;
  plant->timers = o->timers;
  plant->seed = o->seed;
  plant->start_ns = o->start_ns;
  plant->speed = o->speed > 0 ? o->speed : 1;
  for (unsigned i = 0; i < o->scenario->provider_count; i++) {
    struct plant_provider *p = &plant->providers[i];
    p->spec = &o->scenario->providers[i];
    p->arrived = !p->spec->newcomer;
    p->plant = plant;
    p->bad = -1;
    if (p->spec->kind == PROVIDER_HOSTED) {
      hosted_start(plant, i);
      continue;
    }
    p->instances = calloc(PLANT_INSTANCES, sizeof *p->instances);
    if (!p->instances) {
      plant_destroy(plant);
      return NULL;
    }
    server_start(plant, i, o->start_ns);
  }
  plant_arm_events(plant);
  return plant;
}

void plant_destroy(struct plant *plant) {
  if (!plant) return;
  plant_free_events(plant);
  for (unsigned i = 0; i < plant->scenario->provider_count; i++) {
    struct plant_provider *p = &plant->providers[i];
    for (struct plant_call *call = p->calls, *next; call; call = next) {
      next = call->next;
      timer_disarm(plant->timers, &call->timer);
      free(call);
    }
    timer_disarm(plant->timers, &p->chain_timer);
    server_free(p, plant->timers);
  }
  for (struct plant_call *call = plant->spare, *next; call; call = next) {
    next = call->next;
    free(call);
  }
  free(plant);
}

/* ---- calls ---- */

static void release(struct plant_call *call) {
  struct plant *plant = call->plant;
  timer_disarm(plant->timers, &call->timer);
  *(call->previous ? &call->previous->next : &plant->providers[call->provider].calls) = call->next;
  if (call->next) call->next->previous = call->previous;
  call->next = plant->spare;
  plant->spare = call;
}

/* What has been consumed and produced. A call that never came to its turn costs nothing. */
static void settle_usage(struct plant *plant, const struct plant_call *call, struct plant_result *result,
                         int64_t now_ns) {
  bool served = call->phase == CALL_PREFILL || call->phase == CALL_DECODE || call->phase == CALL_WAITING ||
                call->phase == CALL_STREAMING;
  *result = (struct plant_result){.end = call->end,
                                  .retry_after_ns = call->retry_after_ns,
                                  .requests_left = NAN,
                                  .tokens_left = NAN,
                                  .requests_reset_ns = -1};
  if (!served && !call->first_ns) return;
  result->tokens_in = call->tokens_in;
  result->tokens_out = plant_tokens(plant, call, now_ns);
  result->usd = price_of(&call->price, result->tokens_in, 0, result->tokens_out);
}

void plant_end_call(struct plant_call *call, int64_t now_ns) {
  struct plant *plant = call->plant;
  const struct plant_client *client = call->client;
  void *ctx = call->ctx;
  struct plant_result result;
  settle_usage(plant, call, &result, now_ns);
  if (call->end == PLANT_OK || call->end == PLANT_CUT) {
    result.tokens_out = call->stop_after;
    result.usd = price_of(&call->price, result.tokens_in, 0, result.tokens_out);
  }
  if (plant->providers[call->provider].spec->ratelimit_headers && call->end != PLANT_REFUSED)
    hosted_headers(call, &result, now_ns);
  release(call);
  client->done(ctx, &result, now_ns);
}

void plant_first_token(struct plant_call *call, int64_t now_ns) {
  call->first_ns = now_ns;
  if (call->client->first_token) call->client->first_token(call->ctx, now_ns);
}

void plant_fail_call(struct plant_call *call, enum plant_end end, int64_t after_ns, int64_t now_ns) {
  call->phase = CALL_FAILING;
  call->end = end;
  timer_arm(call->plant->timers, &call->timer, now_ns + after_ns);
}

static void fired(struct timer *timer, int64_t now_ns) {
  struct plant_call *call = (struct plant_call *)((char *)timer - offsetof(struct plant_call, timer));
  if (call->phase == CALL_FAILING)
    plant_end_call(call, now_ns);
  else
    hosted_fired(call, now_ns);
}

static struct plant_call *make_call(struct plant *plant, unsigned provider) {
  struct plant_call *call = plant->spare;
  if (call)
    plant->spare = call->next;
  else if (!(call = malloc(sizeof *call)))
    return NULL;
  memset(call, 0, sizeof *call);
  call->plant = plant;
  call->provider = (uint8_t)provider;
  call->timer.fire = fired;
  call->retry_after_ns = -1;
  struct plant_provider *p = &plant->providers[provider];
  call->next = p->calls;
  if (p->calls) p->calls->previous = call;
  p->calls = call;
  return call;
}

struct plant_call *plant_begin(struct plant *plant, unsigned provider, uint32_t tokens_in,
                               uint32_t tokens_out, uint64_t draw, const struct plant_client *client,
                               void *ctx, int64_t now_ns) {
  struct plant_call *call = make_call(plant, provider);
  if (!call) return NULL;
  const struct plant_provider *p = &plant->providers[provider];
  struct condition c = plant_condition(plant, provider, now_ns);
  struct rng rng;
  rng_seed(&rng, plant->seed ^ mix64(draw), 0xca11 + provider);
  double fails = rng_uniform(&rng), cut_at = rng_uniform(&rng);
  call->client = client;
  call->ctx = ctx;
  call->tokens_in = tokens_in ? tokens_in : 1;
  call->tokens_out = call->stop_after = tokens_out ? tokens_out : 1;
  call->price = plant_price(plant, provider);
  if (!p->arrived || c.out) {
    plant_fail_call(call, PLANT_REFUSED, REFUSED_AFTER_NS, now_ns);
    return call;
  }
  if (c.silent) {
    call->phase = CALL_SILENT;
    return call;
  }
  if (fails < c.error_share) {
    plant_fail_call(call, PLANT_ERROR, ERROR_AFTER_NS, now_ns);
    return call;
  }
  if (fails < c.error_share + c.cut_share && call->tokens_out > 1) {
    call->end = PLANT_CUT;
    call->stop_after = 1 + (uint32_t)(cut_at * (call->tokens_out - 1));
  }
  if (p->spec->kind == PROVIDER_SERVER)
    server_begin(call, now_ns);
  else
    hosted_begin(call, &rng, now_ns);
  return call;
}

void plant_cancel(struct plant *plant, struct plant_call *call, struct plant_result *result, int64_t now_ns) {
  if (result) settle_usage(plant, call, result, now_ns);
  if (call->instance) server_leave(call, now_ns);
  release(call);
}

/* ---- tokens ---- */

uint32_t plant_tokens(struct plant *plant, const struct plant_call *call, int64_t now_ns) {
  (void)plant;
  double sent = 0;
  if (call->phase == CALL_DECODE)
    sent = call->stop_after - fluid_left(&call->instance->decode, &call->member, now_ns) + 1e-6;
  else if (call->phase == CALL_STREAMING)
    sent = 1 + (double)(now_ns - call->first_ns) / call->token_ns;
  else if (call->first_ns)
    sent = 1;
  return sent >= call->stop_after ? call->stop_after : (uint32_t)fmax(0, sent);
}

int64_t plant_token_ns(struct plant *plant, const struct plant_call *call, uint32_t n, int64_t now_ns) {
  (void)plant;
  if (n > call->stop_after) return NS_NEVER;
  int64_t at = NS_NEVER;
  if (call->phase == CALL_DECODE)
    at = fluid_reach_ns(&call->instance->decode, call->member.target - (call->stop_after - n));
  else if (call->phase == CALL_STREAMING)
    at = call->first_ns + (int64_t)ceil((n - 1) * call->token_ns);
  return at < now_ns ? now_ns : at;
}

/* ---- quality and price ---- */

double plant_quality(struct plant *plant, unsigned model, size_t prompt, int64_t now_ns) {
  const struct dataset_prompt *p = &plant->data->prompts[prompt];
  double recorded = p->quality[plant->data->model_column[model]];
  return fmin(1, fmax(0, recorded + plant_drift(plant, model, p->class_index, now_ns)));
}

struct price plant_price(struct plant *plant, unsigned provider) {
  const struct price *p = &plant->providers[provider].spec->price;
  double factor = 1;
  for (const struct live_event *e = plant->events; e; e = e->next)
    if (e->active && e->event.kind == EVENT_PRICE &&
        (e->event.provider == (int)provider || e->event.provider == ANY_INDEX))
      factor *= e->event.factor;
  return (struct price){p->in * factor, p->cached * factor, p->out * factor};
}

struct plant_view plant_look(struct plant *plant, unsigned provider, int64_t now_ns) {
  const struct plant_provider *p = &plant->providers[provider];
  struct condition c = plant_condition(plant, provider, now_ns);
  struct plant_view v = {.out = c.out, .browned = c.browned};
  if (p->spec->kind == PROVIDER_HOSTED) {
    hosted_levels(plant, provider, now_ns, &v.requests_bucket, &v.tokens_bucket);
    return v;
  }
  for (unsigned i = 0; i < PLANT_INSTANCES; i++) {
    const struct instance *in = &p->instances[i];
    if (in->state == INSTANCE_NONE) continue;
    v.decoding += (unsigned)in->decode.count;
    v.prefilling += (unsigned)in->prefill.count;
    v.queued += in->queued;
    v.kv_used += in->kv_used;
    double step_ms = (p->spec->d0_ms + p->spec->d1_ms * (double)in->decode.count) * c.tpot;
    if (step_ms > v.step_ms) v.step_ms = step_ms;
  }
  return v;
}
