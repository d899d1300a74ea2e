#ifndef SIM_PLANT_H
#define SIM_PLANT_H

/* The simulated providers: when they answer, how fast, what it costs, how good it is and how they fail. Runs
 * on a set of timers and on now_ns alone, so the same plant lives on the virtual clock and, behind HTTP, on
 * the real one. One thread. Nothing here is visible to the code under test but what a client of a real
 * provider sees.
 *
 * Servers batch continuously: `slots` sequences and `kv_tokens` at once for each instance, a queue of
 * `max_queue`, prefill shared among what is in prefill, a decode step of d0 + d1 * b with b sequences
 * decoding. Hosted providers: lognormal time to first token with a Pareto tail, steady time per token, hidden
 * token buckets, bad states. Random numbers of a call depend on seed, provider and the caller's draw alone,
 * not on what else runs. */

#include "pipeline/price.h"
#include "sim/scenario.h"

struct dataset;
struct plant;
struct plant_call;
struct timers;

enum plant_end {
  PLANT_OK,
  PLANT_THROTTLED,  /* 429 */
  PLANT_OVERLOADED, /* 503: the queue is full, or no instance runs */
  PLANT_ERROR,      /* 500 */
  PLANT_TOO_LONG,   /* 400: does not fit the context */
  PLANT_CUT,        /* the answer stopped before its end */
  PLANT_REFUSED,    /* no connection */
};

struct plant_result {
  enum plant_end end;
  uint32_t tokens_in, tokens_out; /* consumed and produced: what is paid for */
  double usd;
  int64_t retry_after_ns;    /* from now; -1 when not said */
  double requests_left;      /* x-ratelimit-remaining-requests; NAN when not said */
  double tokens_left;        /* x-ratelimit-remaining-tokens; NAN when not said */
  int64_t requests_reset_ns; /* from now; -1 when not said */
};

/* The caller's side. Called from timers, never from inside plant_begin. A silent provider calls nothing,
 * ever. */
struct plant_client {
  void (*first_token)(void *ctx, int64_t now_ns); /* may be NULL; before done, when a token came at all */
  void (*done)(void *ctx, const struct plant_result *result,
               int64_t now_ns); /* once; the call is gone then */
};

struct plant_options {
  const struct scenario *scenario; /* outlives the plant, as does data */
  const struct dataset *data;
  struct timers *timers;
  uint64_t seed;
  int64_t start_ns; /* when the scenario's time is 0 */
  double speed;     /* the scenario's events come so many times faster; service does not */
};

struct plant *plant_create(const struct plant_options *options); /* NULL: out of memory */
void plant_destroy(struct plant *plant);                         /* calls under way end without a word */

/* Starts a call. draw: names the random numbers of this call (the client's intent and the try). NULL: no
 * memory. */
struct plant_call *plant_begin(struct plant *plant, unsigned provider, uint32_t tokens_in,
                               uint32_t tokens_out, uint64_t draw, const struct plant_client *client,
                               void *ctx, int64_t now_ns);

/* The client hangs up: nothing more is called. What was consumed and produced until now is in *result when
 * given. */
void plant_cancel(struct plant *plant, struct plant_call *call, struct plant_result *result, int64_t now_ns);

/* Output tokens that the call has sent until now, and when token number n (from 1) would come if the batch
 * stayed as it is (NS_NEVER: not foreseeable, not started or stalled). For paced streams. */
uint32_t plant_tokens(struct plant *plant, const struct plant_call *call, int64_t now_ns);
int64_t plant_token_ns(struct plant *plant, const struct plant_call *call, uint32_t n, int64_t now_ns);

/* Quality of a model's answer to a prompt of the data, now: in [0, 1]. */
double plant_quality(struct plant *plant, unsigned model, size_t prompt, int64_t now_ns);

struct price plant_price(struct plant *plant, unsigned provider); /* in force now */

/* Instances of a server that should run. New ones are ready after start_s; those stopped finish what they
 * have. */
void plant_set_instances(struct plant *plant, unsigned provider, unsigned wanted, int64_t now_ns);
unsigned plant_ready(const struct plant *plant, unsigned provider);    /* hosted: 1 */
unsigned plant_starting(const struct plant *plant, unsigned provider); /* hosted: 0 */
double plant_instance_usd(struct plant *plant, unsigned provider,
                          int64_t now_ns); /* until now, since the start */
/* Called when a server's ready or starting instances change. */
void plant_watch_instances(struct plant *plant, void (*changed)(void *ctx, unsigned provider), void *ctx);

/* Starts an event now, for until_ns - at_ns of it. Kinds that belong to the world do nothing. */
void plant_event(struct plant *plant, const struct scenario_event *event, int64_t now_ns);

/* What a client of the provider could not know: for tests and oracles. */
struct plant_view {
  unsigned decoding, prefilling, queued;
  double kv_used, requests_bucket, tokens_bucket, step_ms;
  bool out, browned;
};
struct plant_view plant_look(struct plant *plant, unsigned provider, int64_t now_ns);

#endif
