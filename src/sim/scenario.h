#ifndef SIM_SCENARIO_H
#define SIM_SCENARIO_H

/* A world written down: providers, load, targets and events, read from a TOML file. `base` names a file
 * beside it from which everything comes that the file does not say, except events. A list of providers
 * replaces the base's list; an entry with a name that the base knows starts from the base's entry. Unknown
 * keys are errors. The times of events are drawn from the seed inside their windows, so a scenario belongs to
 * one seed. */

#include "bus/limits.h"
#include "pipeline/price.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
  SCENARIO_MODELS = MAX_PROVIDERS,
  SCENARIO_EVENTS = 256,
  SCENARIO_CLASSES = 16,
  SCENARIO_SOURCES = 16, /* of one class */
  ANY_INDEX = -1,        /* every class, provider or model */
};

enum provider_kind { PROVIDER_SERVER, PROVIDER_HOSTED };

/* States of a hosted provider's Markov chain, besides good. */
enum bad_state { BAD_SLOW, BAD_ERRORING, BAD_CUTTING, BAD_SILENT, BAD_DOWN, BAD_STATES };

struct scenario_provider {
  char name[NAME_SIZE], model[NAME_SIZE];
  unsigned model_index; /* into scenario.models */
  enum provider_kind kind;
  struct price price; /* cached is the input price unless the file says usd_per_m_cached */
  bool newcomer;      /* answers only once its event has come */
  /* server */
  double slots, kv_tokens, prefill_tok_per_s, d0_ms, d1_ms, max_queue, start_s;
  double usd_per_instance_hour;
  unsigned min_instances, start_instances, max_instances;
  /* hosted */
  double ttft_median_ms, ttft_sigma, tail_share, tail_alpha, tpot_ms, tpot_cv;
  double requests_per_min, tokens_per_min; /* 0: no limit */
  bool ratelimit_headers;
  double retry_after_share;
  /* The chain of states: leaves good every bad_every_h (exponential mean; 0: never) for bad_for_min. */
  double bad_every_h, bad_for_min, slow_factor, error_share, cut_share;
  bool bad_states[BAD_STATES];
};

enum event_kind {
  EVENT_CAPACITY,        /* provider, factor */
  EVENT_PRICE,           /* provider, factor: on what it is then */
  EVENT_QUALITY_RAMP,    /* model, class, delta, over_h */
  EVENT_LATENCY_RAMP,    /* provider, factor, over_h: time to first token and per token */
  EVENT_OUTAGE,          /* provider: connections refused, what runs is cut */
  EVENT_BROWNOUT,        /* provider: ttft_factor, tpot_factor, error_share, cut_share */
  EVENT_RATE_LIMIT,      /* provider, factor */
  EVENT_NEWCOMER,        /* name */
  EVENT_FLASH_CROWD,     /* factor: workload */
  EVENT_BAD_CONFIG,      /* world */
  EVENT_FEEDBACK_OUTAGE, /* world */
  EVENT_CLOCK_JUMP,      /* jump_s of wall time: world */
  EVENT_TELEMETRY_GAP,   /* no ticks: world */
  EVENT_KINDS
};

struct scenario_event {
  enum event_kind kind;
  int64_t at_ns, until_ns;          /* since the start of the run; NS_NEVER: for good */
  int64_t over_ns;                  /* ramps: time to full effect */
  int provider, model, class_index; /* ANY_INDEX: all */
  double factor, delta, jump_s;
  double ttft_factor, tpot_factor, error_share, cut_share;
  int line;
};

struct scenario {
  char name[NAME_SIZE]; /* file name without directory and ending */
  uint64_t seed;
  int64_t length_ns, tick_ns;
  double mean_rps;
  char daily_shape[128], gaps[128], lengths[128],
      quality[128]; /* names in the data directory; see dataset.h */
  unsigned class_count;
  struct {
    unsigned source_count; /* "*": source_count 0 */
    char sources[SCENARIO_SOURCES][NAME_SIZE];
  } classes[SCENARIO_CLASSES];
  double stream_share, bucket_s;
  bool scale_slots, scale_prefill, scale_kv, scale_queue; /* by a capacity event */
  unsigned turns_min, turns_max, tenants;
  double priorities[PRIORITIES]; /* shares, sum 1 */
  double repeat_share;
  int64_t client_timeout_ns;
  double client_retry_share;
  double ttft_ms, tpot_ms, lambda_per_usd;
  double explicit_share, delay_mean_s, noise_sigma, wrong_share; /* feedback */
  unsigned provider_count;
  struct scenario_provider providers[MAX_PROVIDERS]; /* newcomers last */
  unsigned model_count;
  struct {
    char name[NAME_SIZE];
    char like[NAME_SIZE]; /* whose recorded quality it has: its own name, or a model's */
  } models[SCENARIO_MODELS];
  unsigned event_count;
  struct scenario_event events[SCENARIO_EVENTS]; /* by time */
};

/* NULL: error says "FILE:LINE: what is wrong and what is allowed". Free with scenario_destroy. */
struct scenario *scenario_load(const char *path, uint64_t seed, char *error, size_t error_size);
void scenario_destroy(struct scenario *scenario);

int scenario_find_provider(const struct scenario *s, const char *name); /* index, or -ENOENT */
int scenario_find_model(const struct scenario *s, const char *name);    /* index, or -ENOENT */

const char *event_kind_name(enum event_kind kind); /* "brownout", ... */

/* An event of that name with the defaults of its kind and no target (ANY_INDEX). Returns 0 or -ENOENT. */
int scenario_event_init(struct scenario_event *event, const char *what);

#endif
