/* The controllers, one after another, each on what the frame says: sense → decide → act. None sees another's
 * output but through the plant. */

#include "loop/internal.h"

#include "control/autoscaler.h"
#include "control/breaker_tuner.h"
#include "control/buffers.h"
#include "control/gradient2.h"
#include "control/regulator.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define TTFT_GUARD                                                                                           \
  0.5 /* mean TTFT at a provider stays below this share of the target, so that the tail is inside it */
#define MAY_WAIT 1.0 /* calls that a limit creeps up by: four let it run past a server's slots */
#define HOSTED_LEAST                                                                                         \
  10 /* windows: a hosted provider's latency is its own and noisy, a local one's our load */
#define MIX_MEMORY_S 60.0
#define REFUSALS_SEEN 0.02 /* a second; below, nothing is known about what more instances would gain */

struct regulators {
  struct {
    struct gradient2 ttft, tpot;
    struct autoscaler scaler;
    struct breaker_tuner background;
    double attempts; /* a second, forgotten in a minute: the mix that refused requests fall back on */
  } provider[MAX_PROVIDERS];
  struct buffers buffers[STAGES];
  struct regulator shed, promotion, admission;
};

static struct gradient2_settings limiter_settings(const struct loop *loop, unsigned i, double target_ms) {
  struct gradient2_settings s = gradient2_defaults;
  s.min = tunable_infos[TUNABLE_concurrency_limit].min;
  s.max = tunable_infos[TUNABLE_concurrency_limit].max;
  s.target_ms = target_ms;
  s.queue = MAY_WAIT;
  if (!loop->plane->providers[i].spec.local) s.least_over = HOSTED_LEAST;
  return s;
}

static struct gradient2_settings ttft_settings(const struct loop *loop, unsigned i) {
  return limiter_settings(loop, i, TTFT_GUARD * loop->plane->objective.ttft_ms);
}

static struct gradient2_settings tpot_settings(const struct loop *loop, unsigned i) {
  return limiter_settings(loop, i, loop->plane->objective.tpot_ms);
}

struct regulators *regulators_create(struct loop *loop) {
  struct regulators *r = calloc(1, sizeof *r);
  if (!r) return NULL;
  const struct tunables *t = &loop->plane->tunables;
  for (unsigned i = 0; i < loop->plane->provider_count; i++) {
    struct gradient2_settings ttft = ttft_settings(loop, i), tpot = tpot_settings(loop, i);
    double limit = tunable_of(t, TUNABLE_concurrency_limit, i);
    gradient2_init(&r->provider[i].ttft, &ttft, limit);
    gradient2_init(&r->provider[i].tpot, &tpot, limit);
    autoscaler_init(&r->provider[i].scaler, &autoscaler_defaults);
    breaker_tuner_init(&r->provider[i].background);
  }
  for (int s = 0; s < STAGES; s++)
    buffers_init(&r->buffers[s]);
  regulator_init(&r->shed, &regulator_shed, tunable_get(t, TUNABLE_shed_threshold));
  regulator_init(&r->promotion, &regulator_promotion, tunable_get(t, TUNABLE_promotion_interval_ms));
  regulator_init(&r->admission, &regulator_admission, tunable_get(t, TUNABLE_rate_limit_rps));
  return r;
}

void regulators_destroy(struct regulators *r) {
  free(r);
}

/* ---- concurrency limits ---- */

static void tell_limiters(struct loop *loop, unsigned i, double applied) {
  struct gradient2_settings ttft = ttft_settings(loop, i), tpot = tpot_settings(loop, i);
  gradient2_applied(&loop->regulators->provider[i].ttft, &ttft, applied);
  gradient2_applied(&loop->regulators->provider[i].tpot, &tpot, applied);
}

/* Whole answers tell nothing of the first token, answers of one token nothing of the next: a signal that is
 * silent must not keep the limit where it was. */
static double limit_wished(const struct loop *loop, unsigned i) {
  const struct gradient2 *by_ttft = &loop->regulators->provider[i].ttft,
                         *by_tpot = &loop->regulators->provider[i].tpot;
  struct gradient2_settings ttft = ttft_settings(loop, i), tpot = tpot_settings(loop, i);
  double low = INFINITY;
  if (!gradient2_is_deaf(by_ttft, &ttft, loop->now_ns)) low = by_ttft->limit;
  if (!gradient2_is_deaf(by_tpot, &tpot, loop->now_ns)) low = fmin(low, by_tpot->limit);
  return floor(low);
}

static void run_limiter(struct loop *loop, unsigned i) {
  const struct frame_provider *f = &loop->frame.provider[i];
  struct tunable_key key = {TUNABLE_concurrency_limit, (uint16_t)i};
  struct gradient2 *g_ttft = &loop->regulators->provider[i].ttft,
                   *g_tpot = &loop->regulators->provider[i].tpot;
  if (f->instances_ready == 0) return;
  uint32_t each = (f->in_flight + f->instances_ready - 1) / f->instances_ready;
  struct gradient2_settings ttft = ttft_settings(loop, i), tpot = tpot_settings(loop, i);
  struct gradient2_sample first = {loop->now_ns, f->ttft_mean_ms, f->ttft_count, each};
  struct gradient2_sample token = {loop->now_ns, f->tpot_mean_ms, f->tpot_count, each};
  struct decision by_ttft, by_tpot;
  gradient2_update(g_ttft, &ttft, &first, &by_ttft);
  gradient2_update(g_tpot, &tpot, &token, &by_tpot);
  double in_force = value_now(loop, key);
  if (!by_ttft.change && !by_tpot.change) return;
  bool ttft_leads = by_ttft.change && (!by_tpot.change || g_ttft->limit <= g_tpot->limit);
  double wanted = limit_wished(loop, i);
  double applied = regulate(loop, key, wanted, ttft_leads ? by_ttft.reason : by_tpot.reason, (int)i);
  if (applied != in_force || applied < wanted || !may_regulate(loop, key)) tell_limiters(loop, i, applied);
}

/* ---- instances ---- */

/* The route on which a provider has the most others beside it. */
static unsigned widest_route(const struct plane *plane, unsigned provider) {
  unsigned widest = 0, most = 0;
  for (unsigned r = 0; r < plane->route_count; r++)
    for (unsigned c = 0; c < plane->routes[r].candidate_count; c++) {
      if (plane->routes[r].candidates[c] != provider || plane->routes[r].candidate_count <= most) continue;
      widest = r;
      most = plane->routes[r].candidate_count;
    }
  return widest;
}

/* Utility an hour that one more instance would add: what its refused requests got elsewhere against what they
 * would have got here. NAN while the router knows too little. */
static double gain_per_hour(struct loop *loop, unsigned provider) {
  if (!loop->config.learn) return NAN;
  struct router_settings settings = router_settings_now(loop);
  double here = NAN, elsewhere = 0, weight = 0;
  unsigned number = widest_route(loop->plane, provider);
  const struct route_spec *route = &loop->plane->routes[number];
  for (unsigned c = 0; c < route->candidate_count; c++) {
    struct router_estimate e;
    unsigned other = route->candidates[c];
    router_estimate(loop->router, number, c, &settings, &e);
    double share = loop->regulators->provider[other].attempts;
    if (other == provider) {
      here = e.utility;
    } else if (e.in_target_n > 0) {
      elsewhere += share * e.utility;
      weight += share;
    }
  }
  double refused = loop->regulators->provider[provider].scaler.refused;
  bool known = !isnan(here) && weight > 0 && refused > REFUSALS_SEEN;
  return known ? fmax(0, here - elsewhere / weight) * refused * 3600 : NAN;
}

static unsigned instances_elsewhere(const struct loop *loop, unsigned provider) {
  unsigned sum = 0;
  for (unsigned i = 0; i < loop->plane->provider_count; i++)
    if (i != provider && loop->plane->providers[i].spec.local)
      sum += (unsigned)tunable_of(&loop->plane->tunables, TUNABLE_instances, i);
  return sum;
}

static void run_autoscaler(struct loop *loop, unsigned i) {
  const struct provider_spec *spec = &loop->plane->providers[i].spec;
  const struct frame_provider *f = &loop->frame.provider[i];
  if (!spec->local) return;
  struct tunable_key key = {TUNABLE_instances, (uint16_t)i};
  struct autoscaler *scaler = &loop->regulators->provider[i].scaler;
  unsigned ceiling = (unsigned)tunable_get(&loop->plane->tunables, TUNABLE_max_local_instances);
  unsigned others = instances_elsewhere(loop, i);
  unsigned room = ceiling > others ? ceiling - others : 0;
  unsigned max = spec->max_instances < room ? spec->max_instances : room;
  struct autoscaler_sample sample = {
      .now_ns = loop->now_ns,
      .in_flight = f->in_flight,
      .arrivals = (double)f->attempts,
      .refused = (double)f->limit_refusals,
      .limit_per_instance = tunable_of(&loop->plane->tunables, TUNABLE_concurrency_limit, i),
      .wanted = (uint32_t)value_now(loop, key),
      .ready = f->instances_ready,
      .starting = f->instances_starting,
      .min = spec->min_instances,
      .max = max > spec->min_instances ? max : spec->min_instances,
      .data_ok = true,
      .gain_per_hour = gain_per_hour(loop, i),
      .cost_per_hour = spec->usd_per_instance_hour * loop->plane->objective.usd_weight};
  struct decision d;
  autoscaler_update(scaler, &autoscaler_defaults, &sample, &d);
  if (!d.change) return;
  double before = value_now(loop, key);
  if (regulate(loop, key, d.value, d.reason, (int)i) != before) autoscaler_changed(scaler, loop->now_ns);
}

/* ---- rings ---- */

/* Requests wait for providers in the inference ring, and one that waits for longer than its first token may
 * take is late. */
static struct buffers_settings buffers_settings(const struct loop *loop, enum stage stage) {
  return stage == STAGE_INFERENCE ? buffers_waiting(loop->plane->objective.ttft_ms / 1000) : buffers_stage;
}

static struct buffers_sample buffers_sample(const struct loop *loop, enum stage stage, double current) {
  const struct frame_stage *f = &loop->frame.stages[stage];
  bool waits = stage == STAGE_INFERENCE;
  return (struct buffers_sample){.requests = waits ? (double)loop->frame.answered / loop->config.shards
                                                   : (double)(f->arrivals + f->sheds),
                                 .dt_s = loop->frame.dt_s,
                                 .depth = waits ? 0 : f->depth,
                                 .current = current};
}

static void run_buffers(struct loop *loop) {
  static const enum tunable_id ids[STAGES] = {TUNABLE_buffer_rag, TUNABLE_buffer_assemble,
                                              TUNABLE_buffer_inference, TUNABLE_buffer_post,
                                              TUNABLE_buffer_stream};
  for (int s = 0; s < STAGES; s++) {
    struct tunable_key key = {ids[s], 0};
    struct buffers_settings settings = buffers_settings(loop, (enum stage)s);
    struct buffers_sample sample = buffers_sample(loop, (enum stage)s, value_now(loop, key));
    struct decision d;
    buffers_update(&loop->regulators->buffers[s], &settings, &sample, &d);
    if (d.change) regulate(loop, key, d.value, d.reason, -1);
  }
}

/* ---- waits held at a setpoint ---- */

static void run_regulator(struct loop *loop, struct regulator *r, const struct regulator_settings *s,
                          enum tunable_id id, double setpoint, double measured, bool binding) {
  struct tunable_key key = {(uint16_t)id, 0};
  double current = value_now(loop, key);
  struct regulator_sample sample = {setpoint, measured, current, loop->frame.dt_s, binding};
  struct decision d;
  regulator_update(r, s, &sample, &d);
  regulator_applied(r, s, d.change ? regulate(loop, key, d.value, d.reason, -1) : current);
}

static void run_waits(struct loop *loop) {
  struct regulators *r = loop->regulators;
  const struct frame *f = &loop->frame;
  const struct objective *o = &loop->plane->objective;
  double wait = f->stages[STAGE_INFERENCE].sojourn_p95_ms;
  double low_wait = f->longest_wait_ms[PRIORITY_LOW] > 0 ? f->longest_wait_ms[PRIORITY_LOW] : NAN;
  double deadline = tunable_get(&loop->plane->tunables, TUNABLE_deadline_ms);
  bool shed = f->stages[STAGE_INFERENCE].sheds > 0;
  run_regulator(loop, &r->shed, &regulator_shed, TUNABLE_shed_threshold, 0.5 * o->ttft_ms, wait, shed);
  run_regulator(loop, &r->promotion, &regulator_promotion, TUNABLE_promotion_interval_ms, 0.5 * deadline,
                low_wait, low_wait > tunable_get(&loop->plane->tunables, TUNABLE_promotion_interval_ms));
  if (loop->plane->rate_limited)
    run_regulator(loop, &r->admission, &regulator_admission, TUNABLE_rate_limit_rps, o->ttft_ms, wait,
                  f->limited > 0);
}

/* ---- breaker ---- */

static void run_breaker_tuner(struct loop *loop) {
  struct regulators *r = loop->regulators;
  struct breaker_tuner background[MAX_PROVIDERS];
  for (unsigned i = 0; i < loop->plane->provider_count; i++) {
    const struct frame_provider *f = &loop->frame.provider[i];
    uint64_t failed = f->failures + f->timeouts, ended = f->successes + f->rejected + failed;
    if (f->breaker == 0 && !watchers_at(loop, i, INT64_MIN))
      breaker_tuner_observe(&r->provider[i].background, (double)ended, (double)failed, loop->frame.dt_s);
    background[i] = r->provider[i].background;
  }
  struct tunable_key key = {TUNABLE_breaker_failure_threshold, 0};
  struct decision d;
  breaker_tuner_decide(background, loop->plane->provider_count, value_now(loop, key), &d);
  if (d.change) regulate(loop, key, d.value, d.reason, -1);
}

void regulators_run(struct loop *loop) {
  for (unsigned i = 0; i < loop->plane->provider_count; i++) {
    double *mix = &loop->regulators->provider[i].attempts;
    *mix += ((double)loop->frame.provider[i].attempts - *mix) * fmin(1.0, loop->frame.dt_s / MIX_MEMORY_S);
    run_limiter(loop, i);
    run_autoscaler(loop, i);
  }
  run_buffers(loop);
  run_waits(loop);
  run_breaker_tuner(loop);
}

/* Somebody else moved the value: its controller goes on from there. */
void regulators_moved(struct loop *loop, struct tunable_key key) {
  struct regulators *r = loop->regulators;
  double value = value_now(loop, key);
  switch (key.id) {
  case TUNABLE_concurrency_limit:
    tell_limiters(loop, key.provider, value);
    break;
  case TUNABLE_instances:
    autoscaler_changed(&r->provider[key.provider].scaler, loop->now_ns);
    break;
  case TUNABLE_shed_threshold:
    regulator_set_home(&r->shed, value);
    break;
  case TUNABLE_promotion_interval_ms:
    regulator_set_home(&r->promotion, value);
    break;
  case TUNABLE_rate_limit_rps:
    regulator_set_home(&r->admission, value);
    break;
  default:
    break;
  }
}
