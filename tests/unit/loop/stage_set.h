#ifndef STAGE_SET_H
#define STAGE_SET_H

/* A loop over the pipeline's test rig, with a sink that keeps what the tests ask for. */

#include "../pipeline/rig.h"

#include "loop.h"
#include "loop/internal.h"
#include "store/store.h"

struct kept {
  unsigned ledger, judgements, snapshots, values, commits, frames, episodes;
  struct ledger_row last;
  char name[128], actor[64], reason[512], outcome[32], note[512]; /* note: its name and words */
  int64_t judged_id;
  int commit_result;
  double episode_to;
  char stored[128], status[32], verdict[128], *config; /* value_row, experiment, snapshot: the last ones */
  double stored_value;
};

static inline int keep_ledger(void *ctx, const struct ledger_row *row) {
  struct kept *k = ctx;
  k->ledger++;
  if (strcmp(row->kind, "episode") == 0) {
    k->episodes++;
    k->episode_to = row->to;
  }
  if (strcmp(row->kind, "note") == 0) snprintf(k->note, sizeof k->note, "%s: %s", row->name, row->reason);
  if (strcmp(row->kind, "change") != 0) return 0;
  k->last = *row;
  snprintf(k->name, sizeof k->name, "%s", row->name);
  snprintf(k->actor, sizeof k->actor, "%s", row->actor);
  snprintf(k->reason, sizeof k->reason, "%s", row->reason);
  return 0;
}
static inline int keep_judgement(void *ctx, const struct judgement_row *row) {
  struct kept *k = ctx;
  k->judgements++;
  k->judged_id = row->ledger_id;
  snprintf(k->outcome, sizeof k->outcome, "%s", row->outcome);
  return 0;
}
static inline int keep_snapshot(void *ctx, const struct snapshot_row *row) {
  struct kept *k = ctx;
  k->snapshots++;
  free(k->config);
  k->config = strdup(row->config);
  return 0;
}
static inline int keep_score(void *ctx, const struct score_row *row) {
  (void)ctx;
  (void)row;
  return 0;
}
static inline int keep_experiment(void *ctx, const struct experiment_row *row) {
  struct kept *k = ctx;
  snprintf(k->status, sizeof k->status, "%s", row->status);
  snprintf(k->verdict, sizeof k->verdict, "%s", row->verdict ? row->verdict : "");
  return 0;
}
static inline int keep_anomaly(void *ctx, const struct anomaly_row *row) {
  (void)ctx;
  (void)row;
  return 0;
}
static inline int keep_value(void *ctx, const struct value_row *row) {
  struct kept *k = ctx;
  k->values++;
  snprintf(k->stored, sizeof k->stored, "%s", row->name);
  k->stored_value = row->value;
  return 0;
}
static inline int keep_learned(void *ctx, const char *name, const char *json, int64_t wall_ms) {
  (void)ctx;
  (void)name;
  (void)json;
  (void)wall_ms;
  return 0;
}
static inline int keep_reward(void *ctx, const struct reward_row *row) {
  (void)ctx;
  (void)row;
  return 0;
}
static inline int keep_frame(void *ctx, const struct frame *frame) {
  (void)frame;
  ((struct kept *)ctx)->frames++;
  return 0;
}
static inline int keep_outcomes(void *ctx, const struct outcome *o, size_t n, int64_t now_ns,
                                int64_t wall_ms) {
  (void)ctx;
  (void)o;
  (void)n;
  (void)now_ns;
  (void)wall_ms;
  return 0;
}
static inline int keep_commit(void *ctx) {
  struct kept *k = ctx;
  k->commits++;
  return k->commit_result;
}

struct stage_set {
  struct rig rig;
  struct kept kept;
  struct store_sink sink;
  struct scaler scaler;
  unsigned instances[2]; /* last asked of the scaler */
  struct loop *loop;
  int64_t wall_ms;
};

static inline int keep_instances(void *ctx, unsigned provider, unsigned instances, int64_t now_ns) {
  struct stage_set *s = ctx;
  (void)now_ns;
  s->instances[provider] = instances;
  return 0;
}

static inline void open_set(struct stage_set *s, bool observe) {
  static const struct act quick[] = {{.what = ANSWER, .after_ns = MS(100), .body = "{}"}};
  rig_open(&s->rig, false, quick, 1, quick, 1);
  memset(&s->kept, 0, sizeof s->kept);
  s->sink = (struct store_sink){&s->kept,        keep_ledger,   keep_judgement, keep_snapshot, keep_score,
                                keep_experiment, keep_anomaly,  keep_value,     keep_learned,  keep_reward,
                                keep_frame,      keep_outcomes, NULL,           keep_commit};
  s->scaler = (struct scaler){.ctx = s, .set_instances = keep_instances};
  s->wall_ms = 1700000000000;
  struct loop_config config = {.plane = s->rig.plane,
                               .telemetries = &s->rig.telemetry,
                               .pipelines = &s->rig.pipeline,
                               .shards = 1,
                               .sink = &s->sink,
                               .scaler = &s->scaler,
                               .seed = 1,
                               .observe = observe,
                               .control = true,
                               .learn = true,
                               .evolve = true};
  s->loop = loop_create(&config, s->rig.now_ns, s->wall_ms);
  assert_non_null(s->loop);
}

static inline void close_set(struct stage_set *s) {
  loop_destroy(s->loop);
  free(s->kept.config);
  rig_close(&s->rig);
}

static inline void tick(struct stage_set *s, int seconds) {
  for (int i = 0; i < seconds; i++) {
    rig_until(&s->rig, S(1));
    loop_tick(s->loop, s->rig.now_ns, s->wall_ms += 1000);
  }
}

static inline int command(struct stage_set *s, struct command *c) {
  loop_command(s->loop, c, s->rig.now_ns, s->wall_ms);
  assert_non_null(c->body);
  free(c->body);
  return c->status;
}

static inline int put(struct stage_set *s, const char *name, double value) {
  struct command c = {
      .kind = COMMAND_SET, .actor = "http", .reason = "test", .change_count = 1, .changes = {{name, value}}};
  return command(s, &c);
}

static inline int put_freely(struct stage_set *s, const char *name, double value) {
  struct command c = {
      .kind = COMMAND_SET, .actor = "http", .unguarded = true, .change_count = 1, .changes = {{name, value}}};
  return command(s, &c);
}

static inline double value(const struct stage_set *s, enum tunable_id id) {
  return tunable_get(&s->rig.plane->tunables, id);
}

/* Two local servers, of 1 to 3 and 0 to 4 instances, with room for five together. */
static inline void open_local(struct stage_set *s) {
  open_set(s, false);
  for (unsigned p = 0; p < 2; p++) {
    struct provider_spec *spec = &s->rig.plane->providers[p].spec;
    spec->local = true;
    spec->min_instances = p == 0 ? 1 : 0;
    spec->max_instances = p == 0 ? 3 : 4;
  }
  tunable_set(&s->rig.plane->tunables, (struct tunable_key){TUNABLE_max_local_instances, 0}, 5);
}

#endif
