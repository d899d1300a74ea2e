/* A server of its own: continuous batching. Requests wait in a queue in their order until a slot and room for
 * input and output tokens are free; then they share the prefill rate with whatever else is in prefill; the
 * end of prefill is the first token; the rest come one a step, all of the batch together, and a step takes d0
 * + d1 * b. One timer an instance, at the next end of a prefill or an answer. */

#include "sim/plant_internal.h"

#include <math.h>
#include <stdlib.h>

#define OVERLOADED_AFTER_NS (5 * NS_PER_MS)

static const struct scenario_provider *spec_of(const struct instance *in) {
  return in->plant->providers[in->provider].spec;
}

static double kv_need(const struct plant_call *call) {
  return (double)call->tokens_in + (double)call->tokens_out;
}

static unsigned load(const struct instance *in) {
  return (unsigned)(in->prefill.count + in->decode.count) + in->queued;
}

/* ---- the queue ---- */

static void enqueue(struct instance *in, struct plant_call *call) {
  call->phase = CALL_QUEUED;
  call->instance = in;
  call->previous_queued = in->last_queued;
  *(in->last_queued ? &in->last_queued->next_queued : &in->first_queued) = call;
  in->last_queued = call;
  in->queued++;
}

static void dequeue(struct instance *in, struct plant_call *call) {
  *(call->previous_queued ? &call->previous_queued->next_queued : &in->first_queued) = call->next_queued;
  *(call->next_queued ? &call->next_queued->previous_queued : &in->last_queued) = call->previous_queued;
  call->next_queued = call->previous_queued = NULL;
  in->queued--;
}

/* ---- the batch ---- */

static bool fits(const struct instance *in, const struct plant_call *call, const struct condition *c) {
  const struct scenario *s = in->plant->scenario;
  const struct scenario_provider *spec = spec_of(in);
  double slots = fmax(1, floor(spec->slots * (s->scale_slots ? c->capacity : 1)));
  double kv = spec->kv_tokens * (s->scale_kv ? c->capacity : 1);
  double running = (double)(in->prefill.count + in->decode.count);
  return running == 0 || (running < slots && in->kv_used + kv_need(call) <= kv);
}

static void admit(struct instance *in, const struct condition *c, int64_t now_ns) {
  while (in->first_queued && fits(in, in->first_queued, c)) {
    struct plant_call *call = in->first_queued;
    if (fluid_add(&in->prefill, &call->member, call->tokens_in, now_ns) < 0) return;
    dequeue(in, call);
    call->phase = CALL_PREFILL;
    in->kv_used += kv_need(call);
  }
}

static void set_rates(struct instance *in, const struct condition *c, int64_t now_ns) {
  const struct scenario_provider *spec = spec_of(in);
  double prefill = spec->prefill_tok_per_s * (in->plant->scenario->scale_prefill ? c->capacity : 1) / c->ttft;
  double step_ns = (spec->d0_ms + spec->d1_ms * (double)in->decode.count) * c->tpot * 1e6;
  fluid_set_rate(&in->prefill, in->prefill.count ? prefill / 1e9 / (double)in->prefill.count : 0, now_ns);
  fluid_set_rate(&in->decode, in->decode.count ? 1 / step_ns : 0, now_ns);
}

static void close_instance(struct instance *in, int64_t now_ns) {
  struct plant_provider *p = &in->plant->providers[in->provider];
  p->gone_usd += (double)(now_ns - in->begun_ns) / 3600e9 * p->spec->usd_per_instance_hour;
  timer_disarm(in->plant->timers, &in->timer);
  timer_disarm(in->plant->timers, &in->start_timer);
  in->state = INSTANCE_NONE;
}

/* After any change: fill the batch, set its pace, wait for what is done next. */
static void settle(struct instance *in, int64_t now_ns) {
  struct condition c = plant_condition(in->plant, in->provider, now_ns);
  admit(in, &c, now_ns);
  set_rates(in, &c, now_ns);
  int64_t prefill = fluid_next_ns(&in->prefill), decode = fluid_next_ns(&in->decode);
  int64_t next = prefill < decode ? prefill : decode;
  if (next == NS_NEVER)
    timer_disarm(in->plant->timers, &in->timer);
  else
    timer_arm(in->plant->timers, &in->timer, next);
  if (in->state == INSTANCE_DRAINING && load(in) == 0) close_instance(in, now_ns);
}

static struct plant_call *call_of(struct fluid_member *m) {
  return m ? (struct plant_call *)((char *)m - offsetof(struct plant_call, member)) : NULL;
}

static void finish(struct instance *in, struct plant_call *call, int64_t now_ns) {
  in->kv_used = load(in) ? in->kv_used - kv_need(call) : 0;
  call->instance = NULL;
  call->phase = CALL_STREAMING; /* all that it will send has been sent */
  call->token_ns = 1;
  plant_end_call(call, now_ns);
}

static void prefilled(struct instance *in, struct plant_call *call, int64_t now_ns) {
  bool more =
      call->stop_after > 1 && fluid_add(&in->decode, &call->member, call->stop_after - 1, now_ns) == 0;
  call->phase = CALL_DECODE;
  if (more) {
    plant_first_token(call, now_ns); /* may cancel the call */
    return;
  }
  call->instance = NULL;
  in->kv_used = load(in) ? in->kv_used - kv_need(call) : 0;
  call->phase = CALL_FAILING;
  call->stop_after = 1;
  timer_arm(call->plant->timers, &call->timer, now_ns);
  plant_first_token(call, now_ns);
}

static void batch_fired(struct timer *timer, int64_t now_ns) {
  struct instance *in = (struct instance *)((char *)timer - offsetof(struct instance, timer));
  struct plant_call *call;
  while ((call = call_of(fluid_take_done(&in->decode, now_ns))))
    finish(in, call, now_ns);
  while ((call = call_of(fluid_take_done(&in->prefill, now_ns))))
    prefilled(in, call, now_ns);
  settle(in, now_ns);
}

/* ---- calls ---- */

static struct instance *least_loaded(struct plant_provider *p) {
  struct instance *best = NULL;
  for (unsigned i = 0; i < PLANT_INSTANCES; i++) {
    struct instance *in = &p->instances[i];
    if (in->state == INSTANCE_READY && (!best || load(in) < load(best))) best = in;
  }
  return best;
}

void server_begin(struct plant_call *call, int64_t now_ns) {
  struct plant *plant = call->plant;
  struct plant_provider *p = &plant->providers[call->provider];
  struct instance *in = least_loaded(p);
  struct condition c = plant_condition(plant, call->provider, now_ns);
  double queue = p->spec->max_queue * (plant->scenario->scale_queue ? c.capacity : 1);
  if (kv_need(call) > p->spec->kv_tokens) {
    plant_fail_call(call, PLANT_TOO_LONG, OVERLOADED_AFTER_NS, now_ns);
  } else if (!in || (in->queued >= queue && (in->queued > 0 || !fits(in, call, &c)))) {
    plant_fail_call(call, PLANT_OVERLOADED, OVERLOADED_AFTER_NS, now_ns);
  } else {
    enqueue(in, call);
    settle(in, now_ns);
  }
}

void server_leave(struct plant_call *call, int64_t now_ns) {
  struct instance *in = call->instance;
  if (call->phase == CALL_QUEUED) {
    dequeue(in, call);
  } else {
    fluid_remove(call->phase == CALL_PREFILL ? &in->prefill : &in->decode, &call->member, now_ns);
    in->kv_used -= kv_need(call);
  }
  call->instance = NULL;
  settle(in, now_ns);
}

/* ---- instances ---- */

static void tell(struct plant *plant, unsigned provider) {
  if (plant->changed) plant->changed(plant->changed_ctx, provider);
}

static void started(struct timer *timer, int64_t now_ns) {
  struct instance *in = (struct instance *)((char *)timer - offsetof(struct instance, start_timer));
  (void)now_ns;
  in->state = INSTANCE_READY;
  tell(in->plant, in->provider);
}

static bool start_one(struct plant *plant, unsigned provider, int64_t after_ns, int64_t now_ns) {
  struct plant_provider *p = &plant->providers[provider];
  for (unsigned i = 0; i < PLANT_INSTANCES; i++) {
    struct instance *in = &p->instances[i];
    if (in->state != INSTANCE_NONE) continue;
    in->plant = plant;
    in->provider = provider;
    in->timer.fire = batch_fired;
    in->start_timer.fire = started;
    in->begun_ns = now_ns;
    in->state = after_ns ? INSTANCE_STARTING : INSTANCE_READY;
    if (after_ns) timer_arm(plant->timers, &in->start_timer, now_ns + after_ns);
    return true;
  }
  return false;
}

/* Those that are still starting go first, then the one with the least to do. */
static void stop_one(struct plant *plant, unsigned provider, int64_t now_ns) {
  struct plant_provider *p = &plant->providers[provider];
  struct instance *victim = NULL;
  for (unsigned i = 0; i < PLANT_INSTANCES && !victim; i++)
    if (p->instances[i].state == INSTANCE_STARTING) victim = &p->instances[i];
  if (!victim) victim = least_loaded(p);
  if (!victim) return;
  victim->state = INSTANCE_DRAINING;
  if (load(victim) == 0) close_instance(victim, now_ns);
}

static unsigned in_state(const struct plant *plant, unsigned provider, enum instance_state state) {
  const struct plant_provider *p = &plant->providers[provider];
  unsigned n = 0;
  for (unsigned i = 0; i < PLANT_INSTANCES; i++)
    n += p->instances[i].state == state;
  return n;
}

unsigned plant_ready(const struct plant *plant, unsigned provider) {
  return plant->providers[provider].instances ? in_state(plant, provider, INSTANCE_READY) : 1;
}

unsigned plant_starting(const struct plant *plant, unsigned provider) {
  return plant->providers[provider].instances ? in_state(plant, provider, INSTANCE_STARTING) : 0;
}

void plant_set_instances(struct plant *plant, unsigned provider, unsigned wanted, int64_t now_ns) {
  const struct plant_provider *p = &plant->providers[provider];
  if (!p->instances) return;
  if (wanted > p->spec->max_instances) wanted = p->spec->max_instances;
  unsigned alive = plant_ready(plant, provider) + plant_starting(plant, provider), before = alive;
  int64_t after_ns = (int64_t)(p->spec->start_s * 1e9);
  for (; alive < wanted && start_one(plant, provider, after_ns, now_ns); alive++)
    continue;
  for (; alive > wanted; alive--)
    stop_one(plant, provider, now_ns);
  if (alive != before) tell(plant, provider);
}

void plant_watch_instances(struct plant *plant, void (*changed)(void *ctx, unsigned provider), void *ctx) {
  plant->changed = changed;
  plant->changed_ctx = ctx;
}

double plant_instance_usd(struct plant *plant, unsigned provider, int64_t now_ns) {
  const struct plant_provider *p = &plant->providers[provider];
  double usd = p->gone_usd;
  for (unsigned i = 0; p->instances && i < PLANT_INSTANCES; i++)
    if (p->instances[i].state != INSTANCE_NONE)
      usd += (double)(now_ns - p->instances[i].begun_ns) / 3600e9 * p->spec->usd_per_instance_hour;
  return usd;
}

void server_start(struct plant *plant, unsigned provider, int64_t now_ns) {
  for (unsigned i = 0; i < plant->providers[provider].spec->start_instances; i++)
    start_one(plant, provider, 0, now_ns);
}

void server_touch(struct plant *plant, unsigned provider, int64_t now_ns) {
  struct plant_provider *p = &plant->providers[provider];
  for (unsigned i = 0; i < PLANT_INSTANCES; i++)
    if (p->instances[i].state != INSTANCE_NONE) settle(&p->instances[i], now_ns);
}

void server_free(struct plant_provider *p, struct timers *timers) {
  for (unsigned i = 0; p->instances && i < PLANT_INSTANCES; i++) {
    timer_disarm(timers, &p->instances[i].timer);
    timer_disarm(timers, &p->instances[i].start_timer);
    fluid_free(&p->instances[i].prefill);
    fluid_free(&p->instances[i].decode);
  }
  free(p->instances);
}
