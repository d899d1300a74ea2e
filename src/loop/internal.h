#ifndef LOOP_INTERNAL_H
#define LOOP_INTERNAL_H

/* What the files of the loop share with each other and with nobody else. */

#include "bus/telemetry.h"
#include "control/decision.h"
#include "evolve/experiment.h"
#include "evolve/judge.h"
#include "evolve/snapshot.h"
#include "learn/router.h"
#include "loop.h"
#include "pipeline/plane.h"
#include "store/sink.h"
#include "store/store.h"
#include "sys/clock.h"
#include "sys/rng.h"

enum {
  EVIDENCE_SIZE = 512,
  TRIALS_MAX = JUDGE_TRIALS,
  EXPERIMENTS_MAX = 8,
  RECENT_ANSWERS = 65536,
};

/* A controller's work on one value, told as one ledger row: opened by its first act, closed after a quiet
 * minute. */
struct episode {
  bool open;
  int64_t id, count, opened_ns, last_ns, put_ns, opened_ms, last_ms;
  double first, last, least, most;
  char reason[REASON_SIZE], evidence[EVIDENCE_SIZE];
  char snapshot_before[SNAPSHOT_ID_SIZE];
};

/* Who may turn a value now, and when it was last turned. */
struct actuator {
  int64_t acted_ns;       /* last act of its controller; 0: never */
  int64_t hold_until_ms;  /* wall; 0: free, INT64_MAX: until released */
  int64_t experiment;     /* that leases it; 0: none */
  double file_value;      /* NAN: the configuration does not say */
  bool set_at_start;      /* by the file, which says something new, or the environment */
  char author[NAME_SIZE]; /* of the present value */
  struct episode episode;
};

/* A change that is being judged. Several values may change in one act. */
struct trial {
  int64_t id; /* of its first ledger row */
  int64_t start_ns, window_ns;
  uint32_t groups; /* bit: effect group taken until it is judged */
  bool guarded;
  unsigned change_count;
  struct {
    struct tunable_key key;
    double from, to;
    int64_t ledger_id;
  } changes[COMMAND_CHANGES];
  char actor[NAME_SIZE];
};

struct recent_answer {
  uint64_t id; /* 0: empty */
  uint8_t provider;
  bool rewarded;
};

struct regulators; /* the controllers' own state: regulate.c */
struct probation;  /* a controller that is suspected of harm: probation.c */
struct watchers;   /* anomaly detectors and open incidents: watch.c */

struct loop {
  struct loop_config config;
  struct plane *plane;
  const struct store_sink *sink;
  struct rng rng;
  bool frozen;
  int64_t now_ns, wall_ms;

  struct frame frame;
  struct counter_totals totals, totals_before;
  struct telemetry_window window;
  struct outcome *outcomes; /* the buffer that is swapped with a shard's */
  size_t outcome_capacity;
  uint64_t limited_before;

  struct actuator actuators[TUNABLES][MAX_PROVIDERS];
  int64_t next_ledger_id;
  char head[SNAPSHOT_ID_SIZE]; /* snapshot in force; "" before the first */
  int64_t head_since_ns, scored_ns;

  struct regulators *regulators;
  struct watchers *watchers;
  struct probation *probation;
  struct router *router;
  struct judge *judge;
  bool critical; /* an incident became critical in this tick */

  struct trial trials[TRIALS_MAX];
  unsigned trial_count;
  int64_t judged_ns;
  struct trial undone; /* the last one */
  int64_t undone_ns;   /* when; 0: none yet */

  struct {
    struct experiment *experiment;
    struct experiment_status status;
    int64_t started_ms, saved_ns;
    int64_t started_ns,
        judged_ns; /* started_ns 0: before the daemon did, so not to be compared with before */
    bool treating; /* SWITCHBACK: the treatment is applied now */
  } experiments[EXPERIMENTS_MAX];
  unsigned experiment_count;
  int64_t next_experiment_id;

  struct recent_answer recent[RECENT_ANSWERS];
  int64_t learned_saved_ns;
  bool learned_changed;
  uint8_t leader[MAX_ROUTES]; /* candidate that led each route when last told; NO_PROVIDER: none */
  int64_t leader_told_ns[MAX_ROUTES];
};

/* ---- sense.c ---- */
void sense_frame(struct loop *loop, double dt_s);
void sense_outcomes(struct loop *loop); /* hands every new outcome to router, judge, experiments, store */

/* ---- apply.c: the only place that writes tunables ---- */
static inline double value_now(const struct loop *loop, struct tunable_key key) {
  return tunable_of(&loop->plane->tunables, key.id, key.provider);
}
/* The same without the treatment of an experiment that switches back and forth: what is kept and restored. */
double value_settled(const struct loop *loop, struct tunable_key key);
static inline struct actuator *actuator_of(struct loop *loop, struct tunable_key key) {
  return &loop->actuators[key.id][key.provider];
}
static inline bool is_held(const struct actuator *a, int64_t wall_ms) {
  return a->hold_until_ms > wall_ms;
}

void name_of(const struct loop *loop, struct tunable_key key, char *out, size_t size);
void put_in_force(struct loop *loop, struct tunable_key key, double to); /* no more: nothing is recorded */
struct tunable_key key_after(const struct loop *loop,
                             struct tunable_key key); /* walks all keys in use; ends at id TUNABLES */

/* The nearest number of instances that the provider may have; anything else as it is. */
double within_provider(const struct loop *loop, struct tunable_key key, double value);

/* One ledgered change by anyone but a controller. trial: ledger id that it belongs to, 0: none, -1: it opens
 * one. Returns the id of its row. */
int64_t apply_change(struct loop *loop, struct tunable_key key, double to, const char *actor,
                     const char *reason, const char *evidence, int64_t trial);

/* A controller asks for a value. Clamps, slews, respects cooldown, hold, lease and observe mode; writes the
 * episode. Returns the value in force afterwards: what anti-windup must hear of. */
double regulate(struct loop *loop, struct tunable_key key, double wanted, const char *reason, int provider);

bool may_regulate(struct loop *loop, struct tunable_key key); /* neither held nor leased */

void note(struct loop *loop, const char *name, const char *actor, const char *reason, double from, double to,
          const char *evidence);
void close_quiet_episodes(struct loop *loop, bool all);
void end_episode(struct loop *loop, struct tunable_key key); /* now, if it is open */
void take_snapshot(struct loop *loop, const char *author, const char *message);
void put_value(struct loop *loop, struct tunable_key key);
void frame_evidence(const struct loop *loop, int provider, char *out, size_t size); /* JSON object */

/* ---- regulate.c ---- */
struct regulators *regulators_create(struct loop *loop); /* NULL: no memory */
void regulators_destroy(struct regulators *r);
void regulators_run(struct loop *loop);
void regulators_moved(struct loop *loop, struct tunable_key key); /* somebody else wrote the value */

/* ---- commands.c ---- */
struct wanted {
  struct tunable_key key;
  double from, to;
  int64_t hold_until_ms; /* before */
};

/* Whether the numbers of instances among the wanted values fit their providers and max_local_instances.
 * -1: no, and the command is answered. */
int check_instances(struct loop *loop, struct command *command, const struct wanted *wanted, unsigned count);

/* ---- watch.c ---- */
struct watchers *watchers_create(const struct loop *loop);
void watchers_destroy(struct watchers *w);
void watchers_number_from(struct watchers *w, int64_t id);
void watchers_run(struct loop *loop);
unsigned watchers_open(const struct watchers *w); /* incidents that are open */
/* Whether an incident at the provider has opened since then and is still open. */
bool watchers_at(const struct loop *loop, unsigned provider, int64_t since_ms);

/* ---- trials.c ---- */
uint32_t groups_taken(const struct loop *loop); /* by open trials and experiments */
bool trials_full(const struct loop *loop);
struct trial *trial_open(struct loop *loop, const char *actor, bool guarded);
void trial_add(struct loop *loop, struct trial *trial, struct tunable_key key, double from, double to,
               int64_t ledger_id);
void trials_run(struct loop *loop);
void trials_end_on(struct loop *loop, struct tunable_key key, const char *outcome, const char *words);
void judge_qualities(const struct loop *loop, double *qualities);
unsigned channels_of(uint32_t groups); /* enum judge_channel that effect groups act through */
void leave_out_harm(struct loop *loop,
                    int64_t onset_ns); /* of every later judgement, with the time to settle after it */

/* ---- probation.c ---- */
struct probation *probation_create(void); /* NULL: no memory */
void probation_destroy(struct probation *p);
void probation_run(struct loop *loop);
uint32_t probation_groups(const struct probation *p); /* effect groups in which values are tried now */

/* ---- experiments.c ---- */
void experiments_run(struct loop *loop);
void experiments_observe(struct loop *loop, const struct outcome *outcome);
int experiments_create(struct loop *loop, struct command *command, int64_t now_ns);
int experiments_stop(struct loop *loop, struct command *command);
void experiments_save(struct loop *loop, unsigned i);
void experiments_restore(struct loop *loop, const struct experiment_row *row);

/* ---- rewards.c ---- */
void rewards_remember(struct loop *loop, const struct outcome *outcome);
void rewards_take(struct loop *loop, struct command *command);
struct router_settings router_settings_now(const struct loop *loop);

/* ---- views.c: JSON for people; each malloc'ed or NULL ---- */
char *view_status(struct loop *loop);
char *view_tunables(struct loop *loop);
char *view_tunable(struct loop *loop, struct tunable_key key);
char *view_experiments(struct loop *loop);

/* Fills status and body of a command with an error of the API's form. */
void command_error(struct command *command, int status, const char *code, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
/* Takes over json (NULL becomes 500). */
void command_json(struct command *command, int status, char *json);

#endif
