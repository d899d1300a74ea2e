/* Anomaly and episode rows replace earlier ones and are told once for each state; a judgement names the
 * change it judges, so the last ledger rows are remembered by number. Experiments are told by their notes in
 * the ledger. */

#include "cli/narrate.h"

#include "sys/clock.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { REMEMBERED = 256, NAME_BYTES = 160 };

struct told {
  int64_t id;
  char text[NAME_BYTES]; /* a change's name, an episode's end, an anomaly's state */
};

struct narrator {
  const struct store_sink *inner;
  struct told changes[REMEMBERED], episodes[REMEMBERED], anomalies[REMEMBERED];
};

void narrate(const char *who, const char *format, ...) {
  char line[1024], when[16];
  time_t now = (time_t)(clock_wall_ms() / 1000);
  struct tm local;
  localtime_r(&now, &local);
  strftime(when, sizeof when, "%H:%M:%S", &local);
  va_list args;
  va_start(args, format);
  vsnprintf(line, sizeof line, format, args);
  va_end(args);
  printf("%s  %-10s  %s\n", when, who, line);
  fflush(stdout);
}

/* Remembers the text; true when it is another one than before. */
static bool remember(struct told *told, int64_t id, const char *text) {
  struct told *slot = &told[(uint64_t)id % REMEMBERED];
  if (slot->id == id && strncmp(slot->text, text, NAME_BYTES - 1) == 0) return false;
  slot->id = id;
  snprintf(slot->text, sizeof slot->text, "%s", text);
  return true;
}

/* What kind of story a row belongs to. */
static const char *story(const struct ledger_row *row) {
  const char *name = row->name ? row->name : "", *actor = row->actor ? row->actor : "";
  if (strncmp(name, "route:", 6) == 0) return "route";
  if (strncmp(name, "experiment:", 11) == 0 || strncmp(actor, "experiment", 10) == 0) return "experiment";
  if (strncmp(actor, "rollback", 8) == 0) return "undone";
  if (strncmp(name, "concurrency_limit", 17) == 0) return "limit";
  if (strncmp(name, "instances", 9) == 0) return "scale";
  return strncmp(actor, "controller:", 11) == 0 ? "regulated" : "changed";
}

static void tell_ledger(const struct ledger_row *row) {
  const char *reason = row->reason ? row->reason : "", *actor = row->actor ? row->actor : "?";
  const char *name = row->name ? row->name : "";
  if (isnan(row->from) || isnan(row->to) || strcmp(row->kind, "note") == 0)
    narrate(story(row), "%s: %s", name, reason);
  else if (strcmp(row->kind, "episode") == 0)
    narrate(story(row), "%s %g -> %g (%lld steps, %g to %g) by %s: %s", name, row->from, row->to,
            (long long)row->count, row->least, row->most, actor, reason);
  else
    narrate(story(row), "%s %g -> %g by %s: %s", name, row->from, row->to, actor, reason);
}

static int put_ledger(void *ctx, const struct ledger_row *row) {
  struct narrator *n = ctx;
  char end[32] = "";
  bool episode = strcmp(row->kind, "episode") == 0;
  if (episode) snprintf(end, sizeof end, "%lld %g", (long long)row->count, row->to);
  remember(n->changes, row->id, row->name ? row->name : "");
  if (!episode || remember(n->episodes, row->id, end)) tell_ledger(row);
  return n->inner->ledger(n->inner->ctx, row);
}

static int put_judgement(void *ctx, const struct judgement_row *row) {
  struct narrator *n = ctx;
  const struct told *change = &n->changes[(uint64_t)row->ledger_id % REMEMBERED];
  const char *name = change->id == row->ledger_id ? change->text : "a change";
  narrate(strcmp(row->outcome, "undone") == 0 ? "undone" : "judged", "%s (change %lld): %s: %s", name,
          (long long)row->ledger_id, row->outcome, row->words ? row->words : "");
  return n->inner->judgement(n->inner->ctx, row);
}

static int put_experiment(void *ctx, const struct experiment_row *row) {
  const struct store_sink *inner = ((struct narrator *)ctx)->inner;
  return inner->experiment(inner->ctx, row);
}

static int put_anomaly(void *ctx, const struct anomaly_row *row) {
  struct narrator *n = ctx;
  const char *state = row->closed_ms ? "over" : row->severity;
  if (remember(n->anomalies, row->id, state))
    narrate("incident", "%s: %s%s%s: %s", state, row->metric, row->provider ? " at " : "",
            row->provider ? row->provider : "", row->message ? row->message : "");
  return n->inner->anomaly(n->inner->ctx, row);
}

static int put_snapshot(void *ctx, const struct snapshot_row *row) {
  const struct store_sink *inner = ((struct narrator *)ctx)->inner;
  return inner->snapshot(inner->ctx, row);
}

static int put_score(void *ctx, const struct score_row *row) {
  const struct store_sink *inner = ((struct narrator *)ctx)->inner;
  return inner->score(inner->ctx, row);
}

static int put_value(void *ctx, const struct value_row *row) {
  const struct store_sink *inner = ((struct narrator *)ctx)->inner;
  return inner->value(inner->ctx, row);
}

static int put_learned(void *ctx, const char *name, const char *json, int64_t wall_ms) {
  const struct store_sink *inner = ((struct narrator *)ctx)->inner;
  return inner->learned(inner->ctx, name, json, wall_ms);
}

static int put_reward(void *ctx, const struct reward_row *row) {
  const struct store_sink *inner = ((struct narrator *)ctx)->inner;
  return inner->reward(inner->ctx, row);
}

static int put_frame(void *ctx, const struct frame *frame) {
  const struct store_sink *inner = ((struct narrator *)ctx)->inner;
  return inner->frame(inner->ctx, frame);
}

static int put_outcomes(void *ctx, const struct outcome *outcomes, size_t count, int64_t now_ns,
                        int64_t wall_ms) {
  const struct store_sink *inner = ((struct narrator *)ctx)->inner;
  return inner->outcomes(inner->ctx, outcomes, count, now_ns, wall_ms);
}

static int put_dead_letter(void *ctx, const struct dead_letter_row *row) {
  const struct store_sink *inner = ((struct narrator *)ctx)->inner;
  return inner->dead_letter(inner->ctx, row);
}

static int commit(void *ctx) {
  const struct store_sink *inner = ((struct narrator *)ctx)->inner;
  return inner->commit(inner->ctx);
}

struct narrator *narrator_create(const struct store_sink *inner) {
  struct narrator *n = calloc(1, sizeof *n);
  if (!n) return NULL;
  n->inner = inner;
  for (int i = 0; i < REMEMBERED; i++)
    n->changes[i].id = n->episodes[i].id = n->anomalies[i].id = -1;
  return n;
}

void narrator_destroy(struct narrator *narrator) {
  free(narrator);
}

struct store_sink narrator_sink(struct narrator *narrator) {
  return (struct store_sink){.ctx = narrator,
                             .ledger = put_ledger,
                             .judgement = put_judgement,
                             .snapshot = put_snapshot,
                             .score = put_score,
                             .experiment = put_experiment,
                             .anomaly = put_anomaly,
                             .value = put_value,
                             .learned = put_learned,
                             .reward = put_reward,
                             .frame = put_frame,
                             .outcomes = put_outcomes,
                             .dead_letter = put_dead_letter,
                             .commit = commit};
}
