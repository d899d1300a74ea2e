#ifndef LOOP_H
#define LOOP_H

/* The control loop: frame → control, learn, evolve → arbitrate → clamp → apply → record why → judge later.
 * One thread: the ticker, or the simulator. It is the only writer of tunables. Nothing here asks a clock or
 * does I/O itself: rows go to the sink, instances are started through the scaler. */

#include "bus/frame.h"
#include "bus/tunables.h"
#include "store/rows.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct loop;
struct plane;
struct telemetry;
struct pipeline;
struct store_sink;
struct store_state;

/* Starts and stops the processes of a local provider. Both return 0 or -errno at once. */
struct scaler {
  void *ctx;
  int (*set_instances)(void *ctx, unsigned provider, unsigned wanted, int64_t now_ns);
};

struct loop_config {
  struct plane *plane;
  struct telemetry *const *telemetries; /* one a shard */
  struct pipeline *const *pipelines;    /* for ring depths */
  unsigned shards;
  const struct store_sink *sink;
  const struct scaler *scaler; /* NULL: no local providers */
  uint64_t seed;
  bool observe;                /* decide and record, apply nothing */
  bool control, learn, evolve; /* which parts run: all by default; off for baselines */
};

struct loop *loop_create(const struct loop_config *config, int64_t now_ns,
                         int64_t wall_ms); /* NULL: no memory */
void loop_destroy(struct loop *loop);

/* Before the first tick: values, learned state, experiments as stored; unjudged trials are undone.
 * file_values[id][p] is what the configuration says now, NAN where it says nothing; environment likewise and
 * stronger. */
int loop_restore(struct loop *loop, const struct store_state *state,
                 const double (*file_values)[MAX_PROVIDERS], const double (*environment)[MAX_PROVIDERS],
                 int64_t now_ns, int64_t wall_ms);

void loop_tick(struct loop *loop, int64_t now_ns, int64_t wall_ms);

/* Stops control, learn and evolve from now on; frames go on. For frozen twins in simulation. */
void loop_freeze(struct loop *loop);

/* Writes the last frame and learned state, closes episodes: before a clean stop. */
void loop_flush(struct loop *loop, int64_t now_ns, int64_t wall_ms);

const struct frame *loop_frame(const struct loop *loop); /* the last one; the loop's thread */

/* Commands: what people ask for over HTTP. loop_command runs one on the loop's thread and fills status (HTTP)
 * and body (JSON, malloc'ed by the loop, freed by whoever owns the command). A change answers 200 only after
 * its commit. */
enum command_kind {
  COMMAND_STATUS,   /* the whole picture for /api/v1/status */
  COMMAND_TUNABLES, /* all of them */
  COMMAND_TUNABLE,  /* name */
  COMMAND_SET,      /* changes[], hold_until_ms, guard, actor, reason */
  COMMAND_RELEASE,  /* name: end a hold */
  COMMAND_ROLLBACK, /* text: the canonical configuration of a snapshot; name: its id; actor, reason */
  COMMAND_ROUTES,
  COMMAND_EXPERIMENT_CREATE, /* name; text: the tunable; treatment, share, duration_s, alpha, min_effect (0:
                                defaults) */
  COMMAND_EXPERIMENT_STOP,   /* name */
  COMMAND_EXPERIMENTS,       /* running, with live statistics */
  COMMAND_REWARD, /* request, value; text: source; provider when the caller looked it up in the store */
};

enum { COMMAND_CHANGES = 16 };

struct command {
  enum command_kind kind;
  const char *name, *actor, *reason, *text; /* borrowed until the command is done */
  struct {
    const char *name;
    double value;
  } changes[COMMAND_CHANGES];
  unsigned change_count;
  int64_t hold_until_ms; /* 0: as the kind's default (a person's change holds until released); -1: no hold */
  bool unguarded;
  double treatment, share; /* experiment: value tried; share of sessions or blocks that get it, (0, 0.5] */
  double duration_s, alpha, min_effect;
  uint64_t request; /* reward */
  double value;
  int provider;  /* reward: -1 unknown */
  bool rewarded; /* reward: the store has one already */
  int status;
  char *body;
  void (*done)(struct command *command); /* called by whoever runs the queue, after loop_command */
  void *ctx;
};

void loop_command(struct loop *loop, struct command *command, int64_t now_ns, int64_t wall_ms);

#endif
