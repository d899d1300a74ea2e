#ifndef SIM_WORLD_H
#define SIM_WORLD_H

/* One simulated run: the real pipeline and the real control loop, with the plant instead of providers, a
 * workload instead of clients and a clock that jumps from event to event. Two worlds of the same scenario,
 * data and seed meet the same questions and the same luck, whatever their arm. One thread; nothing here asks
 * the system for the time. */

#include "loop.h"
#include "sim/measure.h"
#include "sim/plant.h"
#include "sim/recorder.h"

#include <stdbool.h>
#include <stdint.h>

struct counter_totals;
struct dataset;
struct world;

enum world_arm {
  WORLD_TUNED, /* as shipped */
  WORLD_OFF,   /* control, learn and evolve off: round robin over healthy providers */
  WORLD_FIXED, /* off, and always the first provider that is free, in a fixed order */
};

struct world_options {
  const struct scenario *scenario; /* these two outlive the world */
  const struct dataset *data;
  uint64_t seed;
  enum world_arm arm;
  unsigned first;       /* WORLD_FIXED: the provider asked first; the others follow, cheapest first */
  int64_t freeze_at_ns; /* scenario time from which all tuning is stopped; NS_NEVER: never */
  bool observe;
  bool no_bad_config;               /* leave out the scenario's harmful change */
  int64_t event_ns, event_until_ns; /* second window of the measures; NS_NEVER: none */
};

struct world *world_create(const struct world_options *options); /* NULL: out of memory */
void world_destroy(struct world *world);

/* Calls run(ctx, world, scenario time) at that time, between two other events. 0 or -ENOMEM. */
int world_at(struct world *world, int64_t at_ns, void (*run)(void *ctx, struct world *world, int64_t at_ns),
             void *ctx);

void world_run_until(struct world *world, int64_t at_ns); /* scenario time */
void world_run(struct world *world); /* to the end, then until every request has ended, then a last flush */

/* A client's command, run at once on the loop's thread, which this is. The body is freed; returns the status.
 */
int world_command(struct world *world, struct command *command);

int64_t world_now_ns(const struct world *world); /* scenario time */
int64_t world_wall_ms(const struct world *world);

struct measure *world_measure(struct world *world);
struct recorder *world_recorder(struct world *world);
struct plant *world_plant(struct world *world);
struct plane *world_plane(struct world *world);
struct loop *world_loop(struct world *world);
void world_counters(struct world *world, struct counter_totals *totals);

/* Where the answers came from and what was asked. */
struct world_shares {
  uint64_t answered[MAX_PROVIDERS];            /* by provider, coalesced ones included */
  uint64_t submitted, refused, finished, left; /* submitted = refused + finished + left at the end */
  uint64_t rewards_sent, rewards_accepted;
};
const struct world_shares *world_shares(const struct world *world);

/* A hash over every intent's end in order: equal when two runs were the same, bit for bit. */
uint64_t world_digest(const struct world *world);

#endif
