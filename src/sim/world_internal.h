#ifndef SIM_WORLD_INTERNAL_H
#define SIM_WORLD_INTERNAL_H

/* What the files of the world share. */

#include "bus/telemetry.h"
#include "pipeline/pipeline.h"
#include "pipeline/plane.h"
#include "sim/dataset.h"
#include "sim/workload.h"
#include "sim/world.h"
#include "sys/clock.h"
#include "sys/rng.h"
#include "sys/timer.h"

enum { WORLD_CLIENTS = 1 << 16 }; /* at once; an intent's place is its number modulo this */

/* The virtual clock of scenario time 0: not 0, which many a struct takes for "never". */
#define WORLD_START_NS (1000 * NS_PER_S)

/* One intent, from its first submission to its end. */
struct sim_client {
  struct intent intent;
  struct world *world;
  struct request *request; /* NULL: none under way */
  struct timer timer;      /* the client's patience, or its coming back */
  bool busy;
  unsigned submissions, calls;
  int64_t first_ns; /* first content of the present submission */
  bool shed;
};

struct sim_upstream {
  struct upstream base;
  struct world *world;
  unsigned provider;
};

struct sim_call;   /* world_upstream.c */
struct sim_reward; /* world_client.c */

struct world {
  struct world_options options;
  const struct scenario *scenario;
  const struct dataset *data;
  struct timers *timers;
  struct plant *plant;
  struct plane *plane;
  struct telemetry *telemetry;
  struct pipeline *pipeline;
  struct loop *loop;
  struct workload *workload;
  struct measure *measure;
  struct recorder *recorder;
  struct store_sink sink;
  struct scaler scaler;
  struct sim_upstream upstreams[MAX_PROVIDERS];
  struct sim_client *clients; /* WORLD_CLIENTS */
  unsigned busy;              /* clients that are not done */
  struct intent next_intent;
  struct timer arrival, tick;
  struct world_errand *errands;
  struct sim_call *spare_calls;
  struct sim_reward *rewards, *spare_rewards;
  int64_t now_ns;
  int64_t jumped_ms; /* of the wall clock */
  bool feedback_out, telemetry_out;
  struct world_shares shares;
  uint64_t digest;
};

/* world_upstream.c */
void upstreams_init(struct world *world);
void upstreams_free(struct world *world);

/* world_client.c */
void clients_arrival(struct timer *timer, int64_t now_ns); /* of world->arrival */
void clients_free(struct world *world);

#endif
