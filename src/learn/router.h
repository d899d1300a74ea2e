#ifndef LEARN_ROUTER_H
#define LEARN_ROUTER_H

/* Learns which candidate of a route serves a request best, and turns that into the scores of a route table.
 * For a candidate (provider p of model m, on route r):
 *
 *   u = quality_weight * quality_sensitivity * q(m) * P(whole and in target | p)
 *       - usd_weight * cost_sensitivity * E[dollars | p, r] + bonus
 *
 * q comes from rewards and is shared by all deployments of one model; P from answers and failed calls;
 * dollars from what answers cost. Old evidence fades: rewards by count, the rest by time that carried
 * traffic. The bonus is one standard error, and a candidate on thin evidence may not lead: it gets about a
 * tenth of the traffic until it has proved itself, so that neither newcomers nor the recovered are starved,
 * and nothing is flooded on a guess. Picks that explore are many at first and become fewer as rewards come
 * in, down to explore_share.
 *
 * Pure: no clock, no generator, no I/O. One thread. */

#include "bus/limits.h"
#include "bus/objective.h"

#include <stdbool.h>
#include <stdint.h>

struct outcome;
struct route_table;
struct router;

struct router_provider {
  char name[NAME_SIZE], model[NAME_SIZE];
  double usd_in, usd_out; /* list price of a million tokens: used until answers have shown the cost */
};

struct router_route {
  char name[NAME_SIZE];
  uint8_t candidates[MAX_CANDIDATES]; /* provider indexes */
  uint8_t candidate_count;
};

struct router_config { /* copied */
  unsigned provider_count, route_count;
  const struct router_provider *providers;
  const struct router_route *routes;
  struct objective objective;
};

/* The tunables of the same names. */
struct router_settings {
  double quality_memory, latency_memory_s, explore_share, temperature, quality_sensitivity, cost_sensitivity;
};

struct router_estimate {
  double utility;                  /* without bonus and cap */
  double score;                    /* as published */
  double quality, quality_rewards; /* mean, and how many rewards it rests on (after forgetting) */
  double in_target, in_target_n;
  double usd, usd_n;
  double share; /* of the route's picks while every candidate is available */
};

struct router *router_create(const struct router_config *config); /* NULL: no memory */
void router_destroy(struct router *r);

/* Every outcome, in any order. Coalesced ones, and those that no provider has to answer for, change nothing.
 */
void router_outcome(struct router *r, const struct outcome *outcome);

/* A reward in [0, 1] for an answer of that provider; anything else is ignored. settings: for quality_memory.
 */
void router_reward(struct router *r, unsigned provider, double value, const struct router_settings *settings);

/* Lets time pass and publishes: fills *out and raises its version from the router's own count (1, 2, ...).
 * Time during which no outcome came does not count. False, and *out untouched, while nothing has been learned
 * and the settings are those of the last call: the table would be the same. */
bool router_tick(struct router *r, int64_t now_ns, const struct router_settings *settings,
                 struct route_table *out);

double router_quality(const struct router *r, unsigned provider); /* mean quality of its model */

/* Is the quality of this provider's model steady? False while a change was seen less than 25 rewards ago. */
bool router_quality_settled(const struct router *r, unsigned provider);

void router_estimate(const struct router *r, unsigned route, unsigned candidate,
                     const struct router_settings *settings, struct router_estimate *estimate);

/* JSON array of routes with their candidates' estimates, for people. malloc'ed; NULL: no memory. */
char *router_describe(const struct router *r, const struct router_settings *settings);

/* Learned state as JSON, matched by names when loaded: what is unknown, negative, not finite or out of range
 * is dropped. router_save: malloc'ed, NULL: no memory. router_load: 0, or -EINVAL when it is no JSON object
 * (nothing changes). */
char *router_save(const struct router *r);
int router_load(struct router *r, const char *json);

#endif
