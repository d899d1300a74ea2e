#ifndef TESTS_LEARN_ARMS_H
#define TESTS_LEARN_ARMS_H

/* A synthetic gateway for tests of the router: one route, up to five arms with known quality, in-target share
 * and cost, at a steady rate of requests, one table a second. */

#include "bus/outcome.h"
#include "learn/router.h"
#include "pipeline/route.h"
#include "sys/clock.h"
#include "sys/rng.h"

#include <math.h>
#include <string.h>

enum { ARMS_MAX = 5 };

struct arm {
  double quality, in_target, failing, usd;
};

struct arms {
  struct router *router;
  struct router_settings settings;
  struct route_table table;
  struct rng rng;
  struct arm arm[ARMS_MAX];
  unsigned count;
  int64_t second;
  int rate; /* requests a second */
  double reward_share;
  uint32_t turn;
  long picked[ARMS_MAX];
  double utility; /* sum over requests of the true mean utility of the arm that was picked */
  long requests;
  struct route_choice last;
  double last_utility; /* realised */
};

static const struct objective arms_objective = {
    .ttft_ms = 1000, .tpot_ms = 50, .usd_weight = 5, .quality_weight = 1};

static inline struct router *arms_router(unsigned count) {
  static const char *const providers[ARMS_MAX] = {"a", "b", "c", "d", "e"};
  struct router_provider p[ARMS_MAX] = {0};
  struct router_route route = {.name = "auto", .candidate_count = (uint8_t)count};
  for (unsigned i = 0; i < count; i++) {
    strcpy(p[i].name, providers[i]);
    strcpy(p[i].model, "model-");
    strcat(p[i].model, providers[i]);
    p[i].usd_in = 1;
    p[i].usd_out = 2;
    route.candidates[i] = (uint8_t)i;
  }
  return router_create(&(struct router_config){.provider_count = count,
                                               .route_count = 1,
                                               .providers = p,
                                               .routes = &route,
                                               .objective = arms_objective});
}

static inline struct router_settings arms_settings(void) {
  return (struct router_settings){.quality_memory = 100,
                                  .latency_memory_s = 60,
                                  .explore_share = 0.005,
                                  .temperature = 0.01,
                                  .quality_sensitivity = 1,
                                  .cost_sensitivity = 1};
}

static inline void arms_begin(struct arms *w, const struct arm *arm, unsigned count, uint64_t seed) {
  memset(w, 0, sizeof *w);
  memcpy(w->arm, arm, count * sizeof *arm);
  w->count = count;
  w->router = arms_router(count);
  w->settings = arms_settings();
  w->rate = 5;
  w->reward_share = 0.2;
  rng_seed(&w->rng, seed, 17);
}

static inline double arm_utility(const struct arm *a) {
  return a->quality * a->in_target * (1 - a->failing) - arms_objective.usd_weight * a->usd;
}

/* A failed call is answered with an error: no fallback. */
static inline void arms_request(struct arms *w) {
  uint32_t all = (1u << w->count) - 1;
  route_pick(&w->table, 0, all, rng_uniform(&w->rng), w->turn++, &w->last);
  const struct arm *a = &w->arm[w->last.candidate];
  struct outcome o = {
      .provider = w->last.candidate, .tokens_in = 500, .tokens_out = 200, .attempts = 1, .tried_count = 1};
  bool failed = rng_uniform(&w->rng) < a->failing;
  o.kind = failed ? OUTCOME_FAILED : OUTCOME_ANSWERED;
  o.in_target = !failed && rng_uniform(&w->rng) < a->in_target;
  o.cost_usd = failed ? 0 : a->usd;
  o.propensity = w->last.propensity;
  o.tried[0].provider = w->last.candidate;
  o.tried[0].result = failed ? ATTEMPT_FAILED : ATTEMPT_OK;
  router_outcome(w->router, &o);
  double quality = fmin(fmax(a->quality + 0.1 * rng_normal(&w->rng), 0), 1);
  if (!failed && rng_uniform(&w->rng) < w->reward_share)
    router_reward(w->router, o.provider, quality, &w->settings);
  w->last_utility = objective_utility(&arms_objective, a->quality, o.in_target, o.cost_usd);
  w->picked[w->last.candidate]++;
  w->utility += arm_utility(a);
  w->requests++;
}

static inline void arms_tick(struct arms *w) {
  w->second++;
  router_tick(w->router, w->second * NS_PER_S, &w->settings, &w->table);
}

static inline void arms_run(struct arms *w, int seconds) {
  for (int s = 0; s < seconds; s++) {
    for (int i = 0; i < w->rate; i++)
      arms_request(w);
    arms_tick(w);
  }
}

static inline void arms_forget(struct arms *w) { /* the counts, not what was learned */
  memset(w->picked, 0, sizeof w->picked);
  w->utility = 0;
  w->requests = 0;
}

static inline double arms_share(const struct arms *w, unsigned arm) {
  return (double)w->picked[arm] / (double)w->requests;
}

#endif
