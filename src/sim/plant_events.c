/* Events act while they are active: a provider's condition at any moment is the product of the active ones
 * and of its chain's state. */

#include "sim/plant_internal.h"

#include <math.h>
#include <stdlib.h>

static bool concerns(const struct live_event *e, unsigned provider) {
  return e->active && (e->event.provider == (int)provider || e->event.provider == ANY_INDEX);
}

/* How far a ramp has come, in [0, 1]. */
static double progress(const struct scenario_event *e, int64_t now_ns) {
  if (e->over_ns <= 0) return 1;
  return fmin(1, fmax(0, (double)(now_ns - e->at_ns) / (double)e->over_ns));
}

static void apply(const struct scenario_event *e, struct condition *c, int64_t now_ns) {
  double ramp;
  switch (e->kind) {
  case EVENT_CAPACITY:
    c->capacity *= e->factor;
    break;
  case EVENT_RATE_LIMIT:
    c->rate *= e->factor;
    break;
  case EVENT_OUTAGE:
    c->out = true;
    break;
  case EVENT_LATENCY_RAMP:
    ramp = 1 + (e->factor - 1) * progress(e, now_ns);
    c->ttft *= ramp;
    c->tpot *= ramp;
    break;
  case EVENT_BROWNOUT:
    c->browned = true;
    c->ttft *= e->ttft_factor;
    c->tpot *= e->tpot_factor;
    c->error_share += e->error_share;
    c->cut_share += e->cut_share;
    break;
  default:
    break;
  }
}

static void apply_state(const struct plant_provider *p, struct condition *c) {
  switch (p->bad) {
  case BAD_SLOW:
    c->ttft *= p->spec->slow_factor;
    c->tpot *= p->spec->slow_factor;
    break;
  case BAD_ERRORING:
    c->error_share += p->spec->error_share;
    break;
  case BAD_CUTTING:
    c->cut_share += p->spec->cut_share;
    break;
  case BAD_SILENT:
    c->silent = true;
    break;
  case BAD_DOWN:
    c->out = true;
    break;
  default:
    break;
  }
}

struct condition plant_condition(const struct plant *plant, unsigned provider, int64_t now_ns) {
  struct condition c = {.capacity = 1, .rate = 1, .ttft = 1, .tpot = 1};
  for (const struct live_event *e = plant->events; e; e = e->next)
    if (concerns(e, provider)) apply(&e->event, &c, now_ns);
  apply_state(&plant->providers[provider], &c);
  return c;
}

double plant_drift(const struct plant *plant, unsigned model, unsigned class_index, int64_t now_ns) {
  double drift = 0;
  for (const struct live_event *e = plant->events; e; e = e->next) {
    const struct scenario_event *v = &e->event;
    if (!e->active || v->kind != EVENT_QUALITY_RAMP) continue;
    if (v->model != ANY_INDEX && v->model != (int)model) continue;
    if (v->class_index != ANY_INDEX && v->class_index != (int)class_index) continue;
    drift += v->delta * progress(v, now_ns);
  }
  return drift;
}

/* ---- what happens at once when something begins or ends ---- */

/* Whatever is under way at a provider that goes down ends with it. */
static void cut_calls(struct plant *plant, unsigned provider, int64_t now_ns) {
  for (struct plant_call *call = plant->providers[provider].calls; call; call = call->next) {
    if (call->phase == CALL_FAILING) continue;
    enum plant_end end = call->first_ns ? PLANT_CUT : PLANT_REFUSED;
    uint32_t sent = plant_tokens(plant, call, now_ns);
    if (call->instance) server_leave(call, now_ns);
    call->stop_after = sent ? sent : 1;
    plant_fail_call(call, end, 0, now_ns);
  }
}

static void touch(struct plant *plant, int provider, int64_t now_ns) {
  for (unsigned i = 0; i < plant->scenario->provider_count; i++) {
    if (provider != ANY_INDEX && provider != (int)i) continue;
    if (plant_condition(plant, i, now_ns).out) cut_calls(plant, i, now_ns);
    if (plant->providers[i].instances) server_touch(plant, i, now_ns);
  }
}

static void forget(struct live_event *event) {
  struct live_event **at = &event->plant->events;
  while (*at != event)
    at = &(*at)->next;
  *at = event->next;
  free(event);
}

static void event_fired(struct timer *timer, int64_t now_ns) {
  struct live_event *e = (struct live_event *)((char *)timer - offsetof(struct live_event, timer));
  struct plant *plant = e->plant;
  int provider = e->event.provider;
  bool ends = e->active;
  e->active = true;
  if (e->event.kind == EVENT_NEWCOMER && provider >= 0) plant->providers[provider].arrived = true;
  if (ends)
    forget(e);
  else if (e->event.until_ns != NS_NEVER)
    timer_arm(plant->timers, &e->timer, e->event.until_ns);
  touch(plant, provider, now_ns);
}

static bool of_the_plant(enum event_kind kind) {
  return kind != EVENT_FLASH_CROWD && kind != EVENT_BAD_CONFIG && kind != EVENT_FEEDBACK_OUTAGE &&
         kind != EVENT_CLOCK_JUMP && kind != EVENT_TELEMETRY_GAP;
}

/* at_ns, until_ns already on the timers' clock. */
static struct live_event *add(struct plant *plant, const struct scenario_event *event) {
  struct live_event *e = calloc(1, sizeof *e);
  if (!e) return NULL;
  e->event = *event;
  e->plant = plant;
  e->timer.fire = event_fired;
  e->next = plant->events;
  plant->events = e;
  return e;
}

void plant_event(struct plant *plant, const struct scenario_event *event, int64_t now_ns) {
  if (!of_the_plant(event->kind)) return;
  struct scenario_event e = *event;
  if (e.until_ns != NS_NEVER) e.until_ns = now_ns + (event->until_ns - event->at_ns);
  e.at_ns = now_ns;
  struct live_event *live = add(plant, &e);
  if (live) event_fired(&live->timer, now_ns);
}

/* ---- the chain of a hosted provider ---- */

static void arm_chain(struct plant_provider *p, int64_t now_ns) {
  double mean_ns = p->bad < 0 ? p->spec->bad_every_h * 3600e9 : p->spec->bad_for_min * 60e9;
  timer_arm(p->plant->timers, &p->chain_timer, now_ns + (int64_t)rng_exponential(&p->chain, mean_ns));
}

static int draw_bad(struct plant_provider *p) {
  unsigned allowed = 0;
  for (unsigned i = 0; i < BAD_STATES; i++)
    allowed += p->spec->bad_states[i];
  if (allowed == 0) return -1;
  uint64_t pick = rng_below(&p->chain, allowed);
  for (int i = 0; i < BAD_STATES; i++)
    if (p->spec->bad_states[i] && pick-- == 0) return i;
  return -1;
}

static void chain_fired(struct timer *timer, int64_t now_ns) {
  struct plant_provider *p =
      (struct plant_provider *)((char *)timer - offsetof(struct plant_provider, chain_timer));
  p->bad = p->bad < 0 ? draw_bad(p) : -1;
  arm_chain(p, now_ns);
  touch(p->plant, (int)(p - p->plant->providers), now_ns);
}

/* ---- start and end ---- */

static int64_t on_clock(const struct plant *plant, int64_t scenario_ns) {
  if (scenario_ns == NS_NEVER) return NS_NEVER;
  return plant->start_ns + (int64_t)((double)scenario_ns / plant->speed);
}

void plant_arm_events(struct plant *plant) {
  const struct scenario *s = plant->scenario;
  for (unsigned i = 0; i < s->event_count; i++) {
    struct scenario_event e = s->events[i];
    if (!of_the_plant(e.kind)) continue;
    e.at_ns = on_clock(plant, e.at_ns);
    e.until_ns = on_clock(plant, e.until_ns);
    e.over_ns = (int64_t)((double)e.over_ns / plant->speed);
    struct live_event *live = add(plant, &e);
    if (live) timer_arm(plant->timers, &live->timer, e.at_ns);
  }
  for (unsigned i = 0; i < s->provider_count; i++) {
    struct plant_provider *p = &plant->providers[i];
    rng_seed(&p->chain, plant->seed, 0xc4a1 + i);
    p->chain_timer.fire = chain_fired;
    if (p->spec->bad_every_h > 0) arm_chain(p, plant->start_ns);
  }
}

void plant_free_events(struct plant *plant) {
  while (plant->events) {
    timer_disarm(plant->timers, &plant->events->timer);
    forget(plant->events);
  }
}
