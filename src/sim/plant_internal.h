#ifndef SIM_PLANT_INTERNAL_H
#define SIM_PLANT_INTERNAL_H

/* What the files of the plant share. */

#include "sim/fluid.h"
#include "sim/plant.h"
#include "sys/clock.h"
#include "sys/rng.h"
#include "sys/timer.h"

enum { PLANT_INSTANCES = 64 };

enum call_phase {
  CALL_FAILING, /* the timer brings the end */
  CALL_SILENT,  /* nothing will come */
  CALL_QUEUED,  /* at a server, outside the batch */
  CALL_PREFILL,
  CALL_DECODE,
  CALL_WAITING,   /* hosted: the timer brings the first token */
  CALL_STREAMING, /* hosted: the timer brings the end */
};

struct plant_call {
  struct timer timer;
  struct fluid_member member;
  struct plant *plant;
  struct instance *instance;
  uint8_t provider;
  enum call_phase phase;
  enum plant_end end; /* that it will have */
  uint32_t tokens_in, tokens_out;
  uint32_t stop_after; /* tokens_out, or fewer when it will be cut */
  struct price price;
  int64_t retry_after_ns, first_ns;
  double token_ns; /* hosted */
  const struct plant_client *client;
  void *ctx;
  struct plant_call *next, *previous;               /* of its provider; next also in the free list */
  struct plant_call *next_queued, *previous_queued; /* of its instance */
};

enum instance_state { INSTANCE_NONE, INSTANCE_STARTING, INSTANCE_READY, INSTANCE_DRAINING };

struct instance {
  struct timer timer, start_timer;
  struct plant *plant;
  unsigned provider;
  enum instance_state state;
  int64_t begun_ns;
  struct fluid prefill, decode;
  double kv_used;
  struct plant_call *first_queued, *last_queued;
  unsigned queued;
};

struct hidden_bucket {
  double level;
  int64_t at_ns;
};

/* What events and states make of a provider at this moment. */
struct condition {
  double capacity, rate, ttft, tpot;
  double error_share, cut_share;
  bool out, silent, browned;
};

struct live_event {
  struct scenario_event event; /* at_ns and until_ns on the timers' clock */
  struct timer timer;
  struct plant *plant;
  bool active;
  struct live_event *next;
};

struct plant_provider {
  const struct scenario_provider *spec;
  struct plant_call *calls;
  struct instance *instances; /* PLANT_INSTANCES, servers only */
  double gone_usd;
  struct hidden_bucket requests, tokens;
  bool arrived; /* newcomers */
  struct rng chain;
  struct timer chain_timer;
  struct plant *plant;
  int bad; /* enum bad_state, or -1 */
};

struct plant {
  const struct scenario *scenario;
  const struct dataset *data;
  struct timers *timers;
  uint64_t seed;
  int64_t start_ns;
  double speed;
  struct plant_provider providers[MAX_PROVIDERS];
  struct live_event *events; /* all that are not over, in no order */
  struct plant_call *spare;
  void (*changed)(void *ctx, unsigned provider);
  void *changed_ctx;
};

/* plant_events.c */
void plant_arm_events(struct plant *plant); /* the scenario's own, and the chains */
void plant_free_events(struct plant *plant);
struct condition plant_condition(const struct plant *plant, unsigned provider, int64_t now_ns);
double plant_drift(const struct plant *plant, unsigned model, unsigned class_index, int64_t now_ns);

/* plant.c */
void plant_fail_call(struct plant_call *call, enum plant_end end, int64_t after_ns, int64_t now_ns);
void plant_end_call(struct plant_call *call, int64_t now_ns); /* tells the client; the call is gone */
void plant_first_token(struct plant_call *call, int64_t now_ns);

/* plant_server.c */
void server_begin(struct plant_call *call, int64_t now_ns);
void server_leave(struct plant_call *call, int64_t now_ns); /* out of its instance, without a word */
void server_touch(struct plant *plant, unsigned provider, int64_t now_ns); /* conditions have changed */
void server_start(struct plant *plant, unsigned provider,
                  int64_t now_ns); /* start_instances, ready at once */
void server_free(struct plant_provider *p, struct timers *timers);

/* plant_hosted.c */
void hosted_begin(struct plant_call *call, struct rng *rng, int64_t now_ns);
void hosted_fired(struct plant_call *call, int64_t now_ns);
void hosted_start(struct plant *plant, unsigned provider);
void hosted_levels(struct plant *plant, unsigned provider, int64_t now_ns, double *requests, double *tokens);
void hosted_headers(struct plant_call *call, struct plant_result *result, int64_t now_ns);

#endif
