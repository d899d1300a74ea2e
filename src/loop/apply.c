/* The only place that writes tunables. Every change passes the same way: clamp → (controllers: hold, lease,
 * cooldown, slew) → write → value row → ledger row → snapshot. What a controller does tick by tick is one
 * episode in the ledger, written when it begins and again, complete, when it ends. */

#include "loop/internal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define QUIET_NS (60 * NS_PER_S)
#define LONGEST_EPISODE_NS (600 * NS_PER_S)
#define EPISODE_NS (5 * NS_PER_S) /* an open episode is written so often, should the daemon be killed */

void name_of(const struct loop *loop, struct tunable_key key, char *out, size_t size) {
  tunable_name(key, loop->plane->provider_names, out, size);
}

struct tunable_key key_after(const struct loop *loop, struct tunable_key key) {
  bool each = tunable_infos[key.id].scope == TUNABLE_PROVIDER;
  if (each && key.provider + 1u < loop->plane->provider_count)
    return (struct tunable_key){key.id, key.provider + 1};
  return (struct tunable_key){key.id + 1, 0};
}

void frame_evidence(const struct loop *loop, int provider, char *out, size_t size) {
  const struct frame *f = &loop->frame;
  int n = snprintf(
      out, size, "{\"frame\":%llu,\"admitted\":%llu,\"answered\":%llu,\"in_target\":%llu,\"waiting\":%u",
      (unsigned long long)f->number, (unsigned long long)f->admitted, (unsigned long long)f->answered,
      (unsigned long long)f->in_target, f->stages[STAGE_INFERENCE].depth);
  if (provider >= 0) {
    const struct frame_provider *p = &f->provider[provider];
    n += snprintf(out + n, size - (size_t)n,
                  ",\"provider\":\"%s\",\"in_flight\":%u,\"limit\":%u,\"instances\":%u,\"attempts\":%llu,"
                  "\"failures\":%llu",
                  loop->plane->provider_names[provider], p->in_flight, p->limit, p->instances_ready,
                  (unsigned long long)p->attempts, (unsigned long long)(p->failures + p->timeouts));
    if (p->ttft_count > 0) n += snprintf(out + n, size - (size_t)n, ",\"ttft_p50_ms\":%.1f", p->ttft_p50_ms);
    if (p->tpot_count > 0) n += snprintf(out + n, size - (size_t)n, ",\"tpot_p50_ms\":%.2f", p->tpot_p50_ms);
  }
  snprintf(out + n, size - (size_t)n, "}");
}

double within_provider(const struct loop *loop, struct tunable_key key, double value) {
  const struct provider_spec *spec = &loop->plane->providers[key.provider].spec;
  if (key.id != TUNABLE_instances || !spec->local || isnan(value)) return value;
  return fmin(fmax(value, spec->min_instances), spec->max_instances);
}

void put_value(struct loop *loop, struct tunable_key key) {
  struct actuator *a = actuator_of(loop, key);
  char name[2 * NAME_SIZE];
  name_of(loop, key, name, sizeof name);
  struct value_row row = {.name = name,
                          .value = value_settled(loop, key),
                          .file_value = a->file_value,
                          .hold_until_ms = a->hold_until_ms,
                          .author = a->author};
  loop->sink->value(loop->sink->ctx, &row);
}

void take_snapshot(struct loop *loop, const char *author, const char *message) {
  char id[SNAPSHOT_ID_SIZE];
  double values[TUNABLES][MAX_PROVIDERS];
  for (struct tunable_key key = {0, 0}; key.id < TUNABLES; key = key_after(loop, key))
    values[key.id][key.provider] = value_settled(loop, key);
  char *text = snapshot_text(values, loop->plane->provider_names, loop->plane->provider_count);
  if (!text || snapshot_id(text, id) < 0 || strcmp(id, loop->head) == 0) {
    free(text);
    return;
  }
  struct snapshot_row row = {.id = id,
                             .parent = loop->head[0] ? loop->head : NULL,
                             .wall_ms = loop->wall_ms,
                             .author = author,
                             .message = message,
                             .config = text};
  loop->sink->snapshot(loop->sink->ctx, &row);
  memcpy(loop->head, id, sizeof id);
  loop->head_since_ns = loop->now_ns;
  free(text);
}

void put_in_force(struct loop *loop, struct tunable_key key, double to) {
  tunable_set(&loop->plane->tunables, key, to);
  if (key.id == TUNABLE_instances && loop->config.scaler)
    loop->config.scaler->set_instances(loop->config.scaler->ctx, key.provider, (unsigned)to, loop->now_ns);
}

static void write_value(struct loop *loop, struct tunable_key key, double to, const char *author) {
  struct actuator *a = actuator_of(loop, key);
  snprintf(a->author, sizeof a->author, "%s", author);
  put_in_force(loop, key, to);
  put_value(loop, key);
}

int64_t apply_change(struct loop *loop, struct tunable_key key, double to, const char *actor,
                     const char *reason, const char *evidence, int64_t trial) {
  char name[2 * NAME_SIZE], before[SNAPSHOT_ID_SIZE], standard[EVIDENCE_SIZE];
  double from = value_now(loop, key);
  if (!loop->config.observe)
    end_episode(loop, key); /* what the controller does from here on is another one */
  int64_t id = loop->next_ledger_id++;
  name_of(loop, key, name, sizeof name);
  memcpy(before, loop->head, sizeof before);
  if (!evidence) {
    frame_evidence(loop, tunable_infos[key.id].scope == TUNABLE_PROVIDER ? key.provider : -1, standard,
                   sizeof standard);
    evidence = standard;
  }
  if (!loop->config.observe) write_value(loop, key, tunable_clamp(key.id, to, from), actor);
  take_snapshot(loop, actor, reason);
  struct ledger_row row = {.id = id,
                           .wall_ms = loop->wall_ms,
                           .kind = loop->config.observe ? "note" : "change",
                           .name = name,
                           .from = from,
                           .to = to,
                           .least = NAN,
                           .most = NAN,
                           .actor = actor,
                           .reason = reason,
                           .evidence = evidence,
                           .snapshot_before = before[0] ? before : NULL,
                           .snapshot_after = loop->head,
                           .trial = trial < 0 ? id : trial};
  loop->sink->ledger(loop->sink->ctx, &row);
  return id;
}

void note(struct loop *loop, const char *name, const char *actor, const char *reason, double from, double to,
          const char *evidence) {
  struct ledger_row row = {.id = loop->next_ledger_id++,
                           .wall_ms = loop->wall_ms,
                           .kind = "note",
                           .name = name,
                           .from = from,
                           .to = to,
                           .least = NAN,
                           .most = NAN,
                           .actor = actor,
                           .reason = reason,
                           .evidence = evidence};
  loop->sink->ledger(loop->sink->ctx, &row);
}

/* ---- controllers ---- */

static void put_episode(struct loop *loop, struct tunable_key key, const char *snapshot_after) {
  struct episode *e = &actuator_of(loop, key)->episode;
  e->put_ns = loop->now_ns;
  char name[2 * NAME_SIZE], actor[NAME_SIZE];
  name_of(loop, key, name, sizeof name);
  snprintf(actor, sizeof actor, "controller:%s", tunable_owner_name(tunable_infos[key.id].owner));
  struct ledger_row row = {.id = e->id,
                           .wall_ms = e->opened_ms,
                           .kind = loop->config.observe ? "note" : "episode", /* nothing was moved */
                           .name = name,
                           .from = e->first,
                           .to = e->last,
                           .least = e->least,
                           .most = e->most,
                           .count = e->count,
                           .last_ms = e->last_ms,
                           .actor = actor,
                           .reason = e->reason,
                           .evidence = e->evidence,
                           .snapshot_before = e->snapshot_before[0] ? e->snapshot_before : NULL,
                           .snapshot_after = snapshot_after};
  loop->sink->ledger(loop->sink->ctx, &row);
}

static void open_episode(struct loop *loop, struct tunable_key key, double from, double to,
                         const char *reason, int provider) {
  struct episode *e = &actuator_of(loop, key)->episode;
  *e = (struct episode){.open = true,
                        .id = loop->next_ledger_id++,
                        .count = 1,
                        .opened_ns = loop->now_ns,
                        .last_ns = loop->now_ns,
                        .opened_ms = loop->wall_ms,
                        .last_ms = loop->wall_ms,
                        .first = from,
                        .last = to,
                        .least = fmin(from, to),
                        .most = fmax(from, to)};
  snprintf(e->reason, sizeof e->reason, "%s", reason);
  frame_evidence(loop, provider, e->evidence, sizeof e->evidence);
  memcpy(e->snapshot_before, loop->head, sizeof e->snapshot_before);
  put_episode(loop, key, NULL);
}

static void close_episode(struct loop *loop, struct tunable_key key) {
  struct episode *e = &actuator_of(loop, key)->episode;
  char author[NAME_SIZE];
  snprintf(author, sizeof author, "controller:%s", tunable_owner_name(tunable_infos[key.id].owner));
  take_snapshot(loop, author, e->reason);
  put_episode(loop, key, loop->head);
  e->open = false;
}

void end_episode(struct loop *loop, struct tunable_key key) {
  if (actuator_of(loop, key)->episode.open) close_episode(loop, key);
}

void close_quiet_episodes(struct loop *loop, bool all) {
  for (struct tunable_key key = {0, 0}; key.id < TUNABLES; key = key_after(loop, key)) {
    struct episode *e = &actuator_of(loop, key)->episode;
    if (!e->open) continue;
    bool quiet = loop->now_ns - e->last_ns >= QUIET_NS,
         long_enough = loop->now_ns - e->opened_ns >= LONGEST_EPISODE_NS;
    if (all || quiet || long_enough) close_episode(loop, key);
  }
}

/* The largest step that the table allows, at least one unit of an integer. */
static double slew(const struct tunable_info *info, double from, double wanted) {
  double step = info->step * fabs(from);
  if (info->kind == TUNABLE_INTEGER) step = fmax(1.0, floor(step));
  return fmin(fmax(wanted, from - step), from + step);
}

bool may_regulate(struct loop *loop, struct tunable_key key) {
  const struct actuator *a = actuator_of(loop, key);
  return !is_held(a, loop->wall_ms) && !a->experiment;
}

double regulate(struct loop *loop, struct tunable_key key, double wanted, const char *reason, int provider) {
  const struct tunable_info *info = &tunable_infos[key.id];
  struct actuator *a = actuator_of(loop, key);
  double from = value_now(loop, key);
  double to = tunable_clamp(key.id, slew(info, from, tunable_clamp(key.id, wanted, from)), from);
  bool cooling = a->acted_ns && loop->now_ns - a->acted_ns < info->cooldown_s * NS_PER_S;
  if (to == from || cooling || !may_regulate(loop, key)) return from;
  a->acted_ns = loop->now_ns;
  if (!loop->config.observe) {
    char author[NAME_SIZE];
    snprintf(author, sizeof author, "controller:%s", tunable_owner_name(info->owner));
    write_value(loop, key, to, author);
  }
  struct episode *e = &a->episode;
  if (!e->open) {
    open_episode(loop, key, from, to, reason, provider);
  } else {
    e->last = to;
    e->least = fmin(e->least, to);
    e->most = fmax(e->most, to);
    e->count++;
    e->last_ns = loop->now_ns;
    e->last_ms = loop->wall_ms;
    snprintf(e->reason, sizeof e->reason, "%s", reason);
    if (loop->now_ns - e->put_ns >= EPISODE_NS) put_episode(loop, key, NULL);
  }
  return loop->config.observe ? from : to;
}
