/* What people ask for. A change is checked whole before anything is touched, applied, committed, and only
 * then answered with 200. */

#include "loop/internal.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { VALUES_MOST = TUNABLES * MAX_PROVIDERS };

static int find(struct loop *loop, struct command *c, const char *name, struct tunable_key *key) {
  if (name && tunable_find(name, loop->plane->provider_names, loop->plane->provider_count, key) == 0)
    return 0;
  command_error(c, 404, "not_found", "There is no tunable '%s'. GET /api/v1/tunables lists them.",
                name ? name : "");
  return -1;
}

static int check_lease(struct loop *loop, struct command *c, struct tunable_key key, const char *name) {
  int64_t experiment = actuator_of(loop, key)->experiment;
  if (!experiment) return 0;
  command_error(c, 409, "conflict",
                "%s is leased by an experiment. Stop it first: POST /api/v1/experiments/%lld/stop.", name,
                (long long)experiment);
  return -1;
}

static int check_change(struct loop *loop, struct command *c, unsigned i, struct wanted *w) {
  double value = c->changes[i].value;
  if (find(loop, c, c->changes[i].name, &w->key) < 0) return -1;
  const struct tunable_info *info = &tunable_infos[w->key.id];
  w->from = value_now(loop, w->key);
  w->to = value;
  if (!(tunable_clamp(w->key.id, value, NAN) == value)) {
    command_error(c, 400, "invalid_value", "%s must be %s from %g to %g (%s).", c->changes[i].name,
                  info->kind == TUNABLE_INTEGER ? "a whole number" : "a number", info->min, info->max,
                  info->unit);
    return -1;
  }
  if (check_lease(loop, c, w->key, c->changes[i].name) < 0) return -1;
  if (!c->unguarded && w->to != w->from && (groups_taken(loop) >> info->group & 1)) {
    command_error(c, 409, "conflict",
                  "Effect group '%s' has a trial already, and two would blur each other. Wait for its end, "
                  "or send guard false.",
                  effect_group_name(info->group));
    return -1;
  }
  return 0;
}

static double value_after(const struct loop *loop, const struct wanted *wanted, unsigned count,
                          struct tunable_key key) {
  for (unsigned i = 0; i < count; i++)
    if (wanted[i].key.id == key.id && wanted[i].key.provider == key.provider) return wanted[i].to;
  return value_now(loop, key);
}

static int check_instances_of(struct loop *loop, struct command *c, const struct wanted *w) {
  const struct provider_spec *spec = &loop->plane->providers[w->key.provider].spec;
  char name[2 * NAME_SIZE];
  name_of(loop, w->key, name, sizeof name);
  if (!spec->local)
    command_error(c, 400, "invalid_value", "%s cannot be set: the provider is no local server.", name);
  else if (w->to < spec->min_instances || w->to > spec->max_instances)
    command_error(c, 400, "invalid_value", "%s must be from %u to %u, as its provider is configured.", name,
                  spec->min_instances, spec->max_instances);
  else
    return 0;
  return -1;
}

int check_instances(struct loop *loop, struct command *c, const struct wanted *wanted, unsigned count) {
  double together = 0,
         ceiling = value_after(loop, wanted, count, (struct tunable_key){TUNABLE_max_local_instances, 0});
  bool more = false;
  for (unsigned i = 0; i < count; i++) {
    if (wanted[i].key.id != TUNABLE_instances) continue;
    if (check_instances_of(loop, c, &wanted[i]) < 0) return -1;
    more = more || wanted[i].to > value_now(loop, wanted[i].key);
  }
  for (unsigned i = 0; i < loop->plane->provider_count; i++)
    if (loop->plane->providers[i].spec.local)
      together += value_after(loop, wanted, count, (struct tunable_key){TUNABLE_instances, (uint16_t)i});
  if (!more || together <= ceiling) return 0;
  command_error(
      c, 400, "invalid_value",
      "That makes %g instances, and max_local_instances allows %g together. Raise it first, or in the "
      "same request.",
      together, ceiling);
  return -1;
}

static int check_set(struct loop *loop, struct command *c, struct wanted *wanted) {
  if (loop->config.observe) {
    command_error(c, 409, "conflict", "The daemon only observes (--observe): nothing can be changed.");
    return -1;
  }
  if (c->change_count == 0 || c->change_count > COMMAND_CHANGES) {
    command_error(c, 400, "invalid_value", "Between 1 and %d changes can be made at once.", COMMAND_CHANGES);
    return -1;
  }
  if (!c->unguarded && trials_full(loop)) {
    command_error(c, 409, "conflict", "%d trials are open already. Wait for one to be judged.", TRIALS_MAX);
    return -1;
  }
  for (unsigned i = 0; i < c->change_count; i++)
    if (check_change(loop, c, i, &wanted[i]) < 0) return -1;
  return check_instances(loop, c, wanted, c->change_count);
}

static void hold(struct loop *loop, struct command *c, struct tunable_key key) {
  struct actuator *a = actuator_of(loop, key);
  a->hold_until_ms = c->hold_until_ms == 0 ? INT64_MAX : c->hold_until_ms < 0 ? 0 : c->hold_until_ms;
  put_value(loop, key);
}

static char *changes_json(struct loop *loop, const struct wanted *wanted, unsigned count, const int64_t *ids,
                          const struct trial *trial) {
  cJSON *json = cJSON_CreateObject(), *list = cJSON_AddArrayToObject(json, "changes");
  for (unsigned i = 0; i < count; i++) {
    char name[2 * NAME_SIZE];
    name_of(loop, wanted[i].key, name, sizeof name);
    cJSON *change = cJSON_CreateObject();
    cJSON_AddStringToObject(change, "name", name);
    cJSON_AddNumberToObject(change, "from", wanted[i].from);
    cJSON_AddNumberToObject(change, "to", value_now(loop, wanted[i].key));
    cJSON_AddNumberToObject(change, "ledger_id", (double)ids[i]);
    cJSON_AddItemToArray(list, change);
  }
  if (trial) {
    cJSON_AddNumberToObject(json, "trial", (double)trial->id);
    cJSON_AddNumberToObject(json, "judged_for_s", (double)(trial->window_ns / NS_PER_S));
  }
  cJSON_AddStringToObject(json, "snapshot", loop->head);
  char *text = cJSON_PrintUnformatted(json);
  cJSON_Delete(json);
  return text;
}

static bool moves_any(const struct wanted *wanted, unsigned count) {
  for (unsigned i = 0; i < count; i++)
    if (wanted[i].to != wanted[i].from) return true;
  return false;
}

/* Applies what was checked; undoes it again when it cannot be made durable. What stays as it is may be held
 * by this, but is no trial: there is nothing to judge. */
static void make_changes(struct loop *loop, struct command *c, struct wanted *wanted, unsigned count) {
  int64_t ids[VALUES_MOST];
  const char *actor = c->actor ? c->actor : "http", *reason = c->reason ? c->reason : "asked for";
  for (unsigned i = 0; i < count && c->unguarded; i++)
    trials_end_on(loop, wanted[i].key, "superseded", "set anew, without a guard");
  struct trial *trial = c->unguarded || !moves_any(wanted, count) ? NULL : trial_open(loop, actor, true);
  for (unsigned i = 0; i < count; i++) {
    bool tried = trial && wanted[i].to != wanted[i].from;
    ids[i] = apply_change(loop, wanted[i].key, wanted[i].to, actor, reason, NULL,
                          !tried                ? 0
                          : trial->change_count ? trial->id
                                                : -1);
    wanted[i].hold_until_ms = actuator_of(loop, wanted[i].key)->hold_until_ms;
    hold(loop, c, wanted[i].key);
    regulators_moved(loop, wanted[i].key);
    if (tried) trial_add(loop, trial, wanted[i].key, wanted[i].from, wanted[i].to, ids[i]);
  }
  if (loop->sink->commit(loop->sink->ctx) == 0) {
    command_json(c, 200, changes_json(loop, wanted, count, ids, trial));
    return;
  }
  for (unsigned i = 0; i < count; i++) {
    actuator_of(loop, wanted[i].key)->hold_until_ms = wanted[i].hold_until_ms;
    apply_change(loop, wanted[i].key, wanted[i].from, "rollback", "could not be made durable", NULL, 0);
    regulators_moved(loop, wanted[i].key);
  }
  if (trial) trials_end_on(loop, trial->changes[0].key, "superseded", "could not be made durable");
  command_error(c, 503, "storage",
                "The database cannot be written, so the change was taken back. See /health.");
}

static void set(struct loop *loop, struct command *c) {
  struct wanted wanted[COMMAND_CHANGES];
  if (check_set(loop, c, wanted) == 0) make_changes(loop, c, wanted, c->change_count);
}

static void release(struct loop *loop, struct command *c) {
  struct tunable_key key;
  if (find(loop, c, c->name, &key) < 0 || check_lease(loop, c, key, c->name) < 0) return;
  actuator_of(loop, key)->hold_until_ms = 0;
  put_value(loop, key);
  regulators_moved(loop, key);
  if (loop->sink->commit(loop->sink->ctx) < 0)
    command_error(c, 503, "storage",
                  "The database cannot be written: the release may be lost at a restart. See /health.");
  else
    command_json(c, 200, view_tunable(loop, key));
}

/* Back to a snapshot: every value that differs, at once, without a hold; open trials on them end. */
static void roll_back(struct loop *loop, struct command *c) {
  double(*values)[MAX_PROVIDERS] = malloc(sizeof(double[TUNABLES][MAX_PROVIDERS]));
  struct wanted *wanted = malloc(VALUES_MOST * sizeof *wanted);
  unsigned count = 0;
  if (!values || !wanted || loop->config.observe) {
    command_error(c, loop->config.observe ? 409 : 503, "conflict", "The daemon cannot change anything now.");
  } else {
    snapshot_parse(c->text, loop->plane->provider_names, loop->plane->provider_count, values, NULL, 0);
    for (struct tunable_key key = {0, 0}; key.id < TUNABLES; key = key_after(loop, key)) {
      double to = within_provider(loop, key, values[key.id][key.provider]);
      if (isnan(to) || to == value_now(loop, key) || actuator_of(loop, key)->experiment) continue;
      trials_end_on(loop, key, "superseded", "rolled back by hand");
      wanted[count++] = (struct wanted){.key = key, .from = value_now(loop, key), .to = to};
    }
    c->unguarded = true;
    c->hold_until_ms = -1;
    if (!c->actor) c->actor = "rollback";
    make_changes(loop, c, wanted, count);
  }
  free(values);
  free(wanted);
}

static void create(struct loop *loop, struct command *c, int64_t now_ns) {
  if (experiments_create(loop, c, now_ns) < 0) return;
  if (loop->sink->commit(loop->sink->ctx) < 0)
    command_error(c, 503, "storage",
                  "The database cannot be written: the experiment may be lost at a restart. See /health.");
  else
    command_json(c, 201, view_experiments(loop));
}

static void stop(struct loop *loop, struct command *c) {
  if (experiments_stop(loop, c) < 0) return;
  if (loop->sink->commit(loop->sink->ctx) < 0)
    command_error(c, 503, "storage",
                  "It is stopped, but the database cannot be written: after a restart it may run again. See "
                  "/health.");
  else
    command_json(c, 200, NULL);
}

void loop_command(struct loop *loop, struct command *c, int64_t now_ns, int64_t wall_ms) {
  if (now_ns > loop->now_ns && c->kind != COMMAND_STATUS) loop->wall_ms = wall_ms;
  struct router_settings settings = router_settings_now(loop);
  struct tunable_key key;
  switch (c->kind) {
  case COMMAND_STATUS:
    command_json(c, 200, view_status(loop));
    break;
  case COMMAND_TUNABLES:
    command_json(c, 200, view_tunables(loop));
    break;
  case COMMAND_TUNABLE:
    if (find(loop, c, c->name, &key) == 0) command_json(c, 200, view_tunable(loop, key));
    break;
  case COMMAND_SET:
    set(loop, c);
    break;
  case COMMAND_RELEASE:
    release(loop, c);
    break;
  case COMMAND_ROLLBACK:
    roll_back(loop, c);
    break;
  case COMMAND_ROUTES:
    command_json(c, 200, router_describe(loop->router, &settings));
    break;
  case COMMAND_EXPERIMENT_CREATE:
    create(loop, c, now_ns);
    break;
  case COMMAND_EXPERIMENT_STOP:
    stop(loop, c);
    break;
  case COMMAND_EXPERIMENTS:
    command_json(c, 200, view_experiments(loop));
    break;
  case COMMAND_REWARD:
    rewards_take(loop, c);
    break;
  }
}
