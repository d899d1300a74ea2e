/* Estimates, then scores.
 *
 *   P(p)    Beta posterior mean: (hits + 0.9 * 2) / (n + 2). Hits and misses fade with the time that carried
 * traffic, but never below two observations: an arm that failed last does not look new again by waiting. q(m)
 * quality.c.
 *   $(p,r)  mean cost of answers, forgotten over about 200 of them; list price times the route's mean tokens
 * weighs like five.
 *
 * Misses go to whoever caused them: a failed or timed-out call to its provider, a refusal of what
 * another provider then answered (an unknown model, too small a context), a late answer to the provider that
 * gave it only when no earlier call had failed. So failing fast earns misses, not speed.
 *
 * bonus = one standard error of q * P, by the delta method. A candidate with fewer than four observations
 * is thin: if the route has any that is not, its score is held ln(9) temperatures below the best of those,
 * which is a ninth of that one's traffic. */

#include "bus/outcome.h"
#include "learn/internal.h"
#include "pipeline/route.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define SERVING_PRIOR 0.9
#define SERVING_PRIOR_WEIGHT 2.0
#define SERVING_FLOOR 2.0
#define THIN 4.0
#define THIN_SHARE 9.0
#define BONUS 1.0
#define EXPLORE_REWARDS 20000.0
#define EXPLORE_MOST 0.1
#define SPENDING_MEMORY 200.0
#define SPENDING_PRIOR_WEIGHT 5.0
#define TOKENS_IN_PRIOR 500.0
#define TOKENS_OUT_PRIOR 250.0

static unsigned model_index(struct router *r, const char *model) {
  for (unsigned m = 0; m < r->model_count; m++)
    if (strcmp(r->models[m], model) == 0) return m;
  memcpy(r->models[r->model_count], model, NAME_SIZE);
  return r->model_count++;
}

struct router *router_create(const struct router_config *config) {
  struct router *r = calloc(1, sizeof *r);
  if (!r) return NULL;
  r->objective = config->objective;
  r->provider_count = config->provider_count;
  r->route_count = config->route_count;
  if (r->provider_count > 0)
    memcpy(r->providers, config->providers, r->provider_count * sizeof *r->providers);
  if (r->route_count > 0) memcpy(r->routes, config->routes, r->route_count * sizeof *r->routes);
  for (unsigned p = 0; p < r->provider_count; p++)
    r->model_of[p] = (uint8_t)model_index(r, r->providers[p].model);
  for (unsigned m = 0; m < MAX_PROVIDERS; m++)
    quality_init(&r->quality[m]);
  return r;
}

void router_destroy(struct router *r) {
  free(r);
}

/* ---- evidence ---- */

static void credit(struct router *r, unsigned provider, bool hit) {
  if (provider >= r->provider_count) return;
  if (hit)
    r->serving[provider].hits += 1.0;
  else
    r->serving[provider].misses += 1.0;
  r->changed = r->learned = true;
}

static void fade_in(double *mean, double *n, double value) {
  *n = fmin(*n + 1.0, SPENDING_MEMORY);
  *mean += (value - *mean) / *n;
}

static void spend(struct router *r, const struct outcome *o) {
  if (o->provider >= r->provider_count || o->route >= r->route_count || !(o->cost_usd >= 0.0) ||
      isinf(o->cost_usd))
    return;
  struct spending *s = &r->spending[o->provider][o->route];
  fade_in(&s->mean, &s->n, o->cost_usd);
  struct lengths *l = &r->lengths[o->route];
  double n = l->n;
  fade_in(&l->in, &n, o->tokens_in);
  fade_in(&l->out, &l->n, o->tokens_out);
}

/* The request ended without an answer while a provider was busy with it: had the target already been missed?
 * Unknown for whole answers, whose target depends on a length that never came. */
static bool gave_up_late(const struct router *r, const struct outcome *o) {
  if (!o->stream || o->tried_count == 0 || o->tried[o->tried_count - 1].result != ATTEMPT_CANCELLED)
    return false;
  double waited = isnan(o->ttft_ms) ? o->total_ms : o->ttft_ms;
  return waited > r->objective.ttft_ms || o->tpot_ms > r->objective.tpot_ms;
}

void router_outcome(struct router *r, const struct outcome *o) {
  if (o->coalesced) return;
  r->seen++;
  bool failed = false;
  for (unsigned i = 0; i < o->tried_count && i < OUTCOME_TRIED; i++) {
    bool refused = o->tried[i].result == ATTEMPT_REJECTED && o->kind == OUTCOME_ANSWERED;
    if (o->tried[i].result != ATTEMPT_FAILED && o->tried[i].result != ATTEMPT_TIMED_OUT && !refused) continue;
    credit(r, o->tried[i].provider, false);
    failed = true;
  }
  if (o->kind == OUTCOME_ANSWERED) {
    spend(r, o);
    if (o->in_target || !failed) credit(r, o->provider, o->in_target);
  } else if (!failed && (o->kind == OUTCOME_CLIENT_GONE || o->kind == OUTCOME_EXPIRED) &&
             gave_up_late(r, o)) {
    credit(r, o->provider, false);
  }
}

void router_reward(struct router *r, unsigned provider, double value,
                   const struct router_settings *settings) {
  if (provider >= r->provider_count || !(value >= 0.0 && value <= 1.0)) return;
  quality_add(&r->quality[r->model_of[provider]], value, settings->quality_memory);
  r->rewards += 1.0;
  r->changed = r->learned = true;
}

/* ---- estimates ---- */

static double expected_usd(const struct router *r, unsigned provider, unsigned route) {
  const struct spending *s = &r->spending[provider][route];
  const struct lengths *l = &r->lengths[route];
  double in = l->n > 0.0 ? l->in : TOKENS_IN_PRIOR, out = l->n > 0.0 ? l->out : TOKENS_OUT_PRIOR;
  double listed = (in * r->providers[provider].usd_in + out * r->providers[provider].usd_out) * 1e-6;
  return (listed * SPENDING_PRIOR_WEIGHT + s->mean * s->n) / (SPENDING_PRIOR_WEIGHT + s->n);
}

/* All but score and share. Returns the bonus. */
static double estimate(const struct router *r, unsigned route, unsigned provider,
                       const struct router_settings *settings, struct router_estimate *e) {
  const struct quality *q = &r->quality[r->model_of[provider]];
  const struct serving *s = &r->serving[provider];
  double n = s->hits + s->misses, weight = n + SERVING_PRIOR_WEIGHT;
  double p = (s->hits + SERVING_PRIOR * SERVING_PRIOR_WEIGHT) / weight;
  double gain = r->objective.quality_weight * settings->quality_sensitivity, mean = quality_mean(q);
  *e = (struct router_estimate){.quality = mean,
                                .quality_rewards = q->slow_n,
                                .in_target = p,
                                .in_target_n = n,
                                .usd = expected_usd(r, provider, route),
                                .usd_n = r->spending[provider][route].n};
  e->utility = gain * mean * p - r->objective.usd_weight * settings->cost_sensitivity * e->usd;
  return BONUS * gain * sqrt(mean * mean * p * (1.0 - p) / weight + p * p * pow(quality_error(q), 2));
}

/* Much while little is known, then less and less: the epsilon_n of Auer, Cesa-Bianchi and Fischer (2002),
 * c/n, on a floor. At 0.5 % it is 10 % up to about a thousand rewards, 2.5 % at five thousand. */
static double explore_now(const struct router *r, const struct router_settings *settings) {
  double share = settings->explore_share * (1.0 + EXPLORE_REWARDS / fmax(r->rewards, 1.0));
  return fmin(share, fmax(settings->explore_share, EXPLORE_MOST));
}

static void score_route(const struct router *r, unsigned route, const struct router_settings *settings,
                        struct router_estimate e[MAX_CANDIDATES]) {
  const struct router_route *spec = &r->routes[route];
  double lead = -INFINITY;
  for (unsigned i = 0; i < spec->candidate_count; i++) {
    double bonus = estimate(r, route, spec->candidates[i], settings, &e[i]);
    e[i].score = e[i].utility + bonus;
    if (e[i].in_target_n >= THIN) lead = fmax(lead, e[i].score);
  }
  double cap = lead - settings->temperature * log(THIN_SHARE);
  for (unsigned i = 0; i < spec->candidate_count; i++)
    if (e[i].in_target_n < THIN && isfinite(lead)) e[i].score = fmin(e[i].score, cap);
}

static void fade(struct router *r, double seconds, double memory_s) {
  double keep = exp(-seconds / memory_s);
  for (unsigned p = 0; p < r->provider_count; p++) {
    struct serving *s = &r->serving[p];
    double n = s->hits + s->misses;
    if (n <= SERVING_FLOOR) continue;
    double kept = fmax(n * keep, SERVING_FLOOR) / n;
    s->hits *= kept;
    s->misses *= kept;
  }
}

bool router_tick(struct router *r, int64_t now_ns, const struct router_settings *settings,
                 struct route_table *out) {
  if (r->ticked_ns != 0 && r->seen > 0)
    fade(r, (double)(now_ns - r->ticked_ns) * 1e-9, settings->latency_memory_s);
  r->ticked_ns = now_ns;
  r->seen = 0;
  if (memcmp(&r->settings, settings, sizeof *settings) != 0) r->changed = true;
  if (!r->changed || !r->learned) return false;
  r->settings = *settings;
  r->changed = false;
  memset(out, 0, sizeof *out);
  out->version = ++r->version;
  out->explore_share = (float)explore_now(r, settings);
  out->temperature = (float)settings->temperature;
  for (unsigned route = 0; route < r->route_count; route++) {
    struct router_estimate e[MAX_CANDIDATES];
    score_route(r, route, settings, e);
    for (unsigned i = 0; i < r->routes[route].candidate_count; i++)
      out->routes[route].utility[i] = (float)e[i].score;
  }
  return true;
}

double router_quality(const struct router *r, unsigned provider) {
  return quality_mean(&r->quality[r->model_of[provider]]);
}

bool router_quality_settled(const struct router *r, unsigned provider) {
  return r->quality[r->model_of[provider]].since_change >= QUALITY_FAST;
}

void router_estimate(const struct router *r, unsigned route, unsigned candidate,
                     const struct router_settings *settings, struct router_estimate *out) {
  struct router_estimate e[MAX_CANDIDATES];
  unsigned count = r->routes[route].candidate_count;
  double best = -INFINITY, sum = 0.0;
  score_route(r, route, settings, e);
  for (unsigned i = 0; i < count; i++)
    best = fmax(best, e[i].score);
  for (unsigned i = 0; i < count; i++)
    sum += exp((e[i].score - best) / settings->temperature);
  *out = e[candidate];
  double exploited = exp((e[candidate].score - best) / settings->temperature) / sum;
  double explore = explore_now(r, settings);
  out->share = r->learned ? explore / count + (1.0 - explore) * exploited : 1.0 / count;
}
