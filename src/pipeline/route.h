#ifndef PIPELINE_ROUTE_H
#define PIPELINE_ROUTE_H

/* The seam between learning and serving: an immutable table of scores that the loop publishes and shards
 * copy. A pick is epsilon-uniform mixed with a Boltzmann choice, so that the propensity of every choice is
 * known exactly on any subset of candidates: p(i | A) = e/|A| + (1 - e) exp((u_i - max)/T) / sum over A. */

#include "bus/limits.h"

#include <stdbool.h>
#include <stdint.h>

struct rng;

struct route_scores {
  float utility[MAX_CANDIDATES]; /* estimated utility of a request at that candidate, uncertainty bonus
                                    included */
};

struct route_table {
  uint64_t version; /* 0: nothing learned; picks go round robin */
  float explore_share, temperature;
  struct route_scores routes[MAX_ROUTES];
};

struct route_choice {
  uint8_t candidate; /* index into the route's candidates */
  bool explored;
  float propensity;
};

/* available: bit i set when candidate i may be used. draw: uniform in [0, 1), from the shard's generator or,
 * for sticky routes, from the session. turn: counter for round robin. False when nothing is available. */
bool route_pick(const struct route_table *table, unsigned route, uint32_t available, double draw,
                uint32_t turn, struct route_choice *choice);

#endif
