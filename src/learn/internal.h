#ifndef LEARN_INTERNAL_H
#define LEARN_INTERNAL_H

/* What router.c and router_state.c share. */

#include "learn/quality.h"
#include "learn/router.h"

/* Answers and misses of one provider, forgotten in time. */
struct serving {
  double hits, misses;
};

/* Dollars of an answer of one provider on one route. */
struct spending {
  double n, mean;
};

/* Mean tokens of the answers of one route. */
struct lengths {
  double n, in, out;
};

struct router {
  struct objective objective;
  unsigned provider_count, route_count, model_count;
  struct router_provider providers[MAX_PROVIDERS];
  struct router_route routes[MAX_ROUTES];
  uint8_t model_of[MAX_PROVIDERS];
  char models[MAX_PROVIDERS][NAME_SIZE];
  struct quality quality[MAX_PROVIDERS]; /* by model */
  struct serving serving[MAX_PROVIDERS];
  struct spending spending[MAX_PROVIDERS][MAX_ROUTES];
  struct lengths lengths[MAX_ROUTES];
  double rewards; /* ever */
  uint64_t version;
  int64_t ticked_ns;               /* 0: never */
  uint64_t seen;                   /* outcomes since the last tick */
  bool changed, learned;           /* since the last table; ever */
  struct router_settings settings; /* of the last table */
};

#endif
