/* The loop's state as JSON, for the API, the terminal and whoever asks why. */

#include "loop/internal.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void add_number(cJSON *object, const char *key, double value) {
  if (isfinite(value))
    cJSON_AddNumberToObject(object, key, value);
  else
    cJSON_AddNullToObject(object, key);
}

static char *print(cJSON *json) {
  char *text = cJSON_PrintUnformatted(json);
  cJSON_Delete(json);
  return text;
}

void command_json(struct command *c, int status, char *json) {
  c->status = status;
  c->body = json ? json : strdup("{\"ok\":true}");
}

void command_error(struct command *c, int status, const char *code, const char *format, ...) {
  char message[512];
  va_list args;
  va_start(args, format);
  vsnprintf(message, sizeof message, format, args);
  va_end(args);
  cJSON *json = cJSON_CreateObject(), *error = cJSON_AddObjectToObject(json, "error");
  cJSON_AddStringToObject(error, "message", message);
  cJSON_AddStringToObject(error, "type", status >= 500 ? "overloaded_error" : "invalid_request_error");
  cJSON_AddNullToObject(error, "param");
  cJSON_AddStringToObject(error, "code", code);
  command_json(c, status, print(json));
}

static void add_hold(const struct loop *loop, cJSON *json, const struct actuator *a) {
  if (!is_held(a, loop->wall_ms))
    cJSON_AddNullToObject(json, "held_until_ms");
  else if (a->hold_until_ms == INT64_MAX)
    cJSON_AddStringToObject(json, "held_until_ms", "released");
  else
    cJSON_AddNumberToObject(json, "held_until_ms", (double)a->hold_until_ms);
}

static cJSON *tunable_json(struct loop *loop, struct tunable_key key) {
  const struct tunable_info *info = &tunable_infos[key.id];
  const struct actuator *a = actuator_of(loop, key);
  char name[2 * NAME_SIZE];
  name_of(loop, key, name, sizeof name);
  cJSON *json = cJSON_CreateObject();
  cJSON_AddStringToObject(json, "name", name);
  cJSON_AddNumberToObject(json, "value", value_now(loop, key));
  cJSON_AddStringToObject(json, "unit", info->unit);
  cJSON_AddNumberToObject(json, "min", info->min);
  cJSON_AddNumberToObject(json, "max", info->max);
  cJSON_AddNumberToObject(json, "initial", info->initial);
  cJSON_AddStringToObject(json, "toml", info->toml);
  cJSON_AddStringToObject(json, "owner", tunable_owner_name(info->owner));
  cJSON_AddStringToObject(json, "measured", info->measured);
  cJSON_AddStringToObject(json, "setpoint", info->setpoint);
  cJSON_AddStringToObject(json, "group", effect_group_name(info->group));
  cJSON_AddNumberToObject(json, "window_s", info->window_s);
  cJSON_AddStringToObject(json, "trial", info->trial == TRIAL_SESSION ? "session" : "switchback");
  cJSON_AddStringToObject(json, "author", a->author);
  add_hold(loop, json, a);
  cJSON_AddNumberToObject(json, "experiment", (double)a->experiment);
  cJSON_AddStringToObject(json, "help", info->help);
  return json;
}

char *view_tunable(struct loop *loop, struct tunable_key key) {
  return print(tunable_json(loop, key));
}

char *view_tunables(struct loop *loop) {
  cJSON *json = cJSON_CreateObject(), *list = cJSON_AddArrayToObject(json, "tunables");
  for (struct tunable_key key = {0, 0}; key.id < TUNABLES; key = key_after(loop, key))
    if (tunable_infos[key.id].scope == TUNABLE_GLOBAL || loop->plane->provider_count > 0)
      cJSON_AddItemToArray(list, tunable_json(loop, key));
  return print(json);
}

static cJSON *experiment_json(const struct loop *loop, unsigned i) {
  const struct experiment_spec *spec = experiment_spec(loop->experiments[i].experiment);
  const struct experiment_status *s = &loop->experiments[i].status;
  cJSON *json = cJSON_CreateObject();
  cJSON_AddNumberToObject(json, "id", (double)spec->id);
  cJSON_AddStringToObject(json, "name", spec->name);
  cJSON_AddStringToObject(json, "tunable", spec->tunable);
  cJSON_AddStringToObject(json, "status", "running");
  cJSON_AddStringToObject(json, "design", spec->design == TRIAL_SESSION ? "session" : "switchback");
  cJSON_AddNumberToObject(json, "control", spec->control);
  cJSON_AddNumberToObject(json, "treatment", spec->treatment);
  cJSON_AddNumberToObject(json, "share", spec->share);
  cJSON_AddNumberToObject(json, "started_ms", (double)loop->experiments[i].started_ms);
  cJSON_AddNumberToObject(json, "control_units", (double)s->control_units);
  cJSON_AddNumberToObject(json, "treatment_units", (double)s->treatment_units);
  add_number(json, "effect", s->effect);
  add_number(json, "low", s->low);
  add_number(json, "high", s->high);
  add_number(json, "p_value", s->p);
  cJSON_AddStringToObject(json, "words", s->words);
  return json;
}

char *view_experiments(struct loop *loop) {
  cJSON *json = cJSON_CreateObject(), *list = cJSON_AddArrayToObject(json, "experiments");
  for (unsigned i = 0; i < loop->experiment_count; i++)
    cJSON_AddItemToArray(list, experiment_json(loop, i));
  return print(json);
}

static cJSON *provider_json(const struct loop *loop, unsigned i) {
  static const char *const breakers[] = {"closed", "half-open", "open"};
  const struct frame_provider *p = &loop->frame.provider[i];
  cJSON *json = cJSON_CreateObject();
  cJSON_AddStringToObject(json, "name", loop->plane->provider_names[i]);
  cJSON_AddStringToObject(json, "model", loop->plane->providers[i].spec.model);
  cJSON_AddNumberToObject(json, "in_flight", p->in_flight);
  cJSON_AddNumberToObject(json, "limit", p->limit);
  cJSON_AddNumberToObject(json, "instances", p->instances_ready);
  cJSON_AddNumberToObject(json, "starting", p->instances_starting);
  cJSON_AddStringToObject(json, "breaker", breakers[p->breaker]);
  cJSON_AddBoolToObject(json, "cooling", p->cooling);
  add_number(json, "ttft_p50_ms", p->ttft_p50_ms);
  add_number(json, "tpot_p50_ms", p->tpot_p50_ms);
  cJSON_AddNumberToObject(json, "quality", router_quality(loop->router, i));
  cJSON_AddNumberToObject(json, "attempts", (double)loop->totals.value[COUNTER_attempts][i]);
  cJSON_AddNumberToObject(json, "failures",
                          (double)(loop->totals.value[COUNTER_attempt_failures][i] +
                                   loop->totals.value[COUNTER_attempt_timeouts][i]));
  cJSON_AddNumberToObject(json, "usd", (double)loop->totals.value[COUNTER_cost_nano_usd][i] * 1e-9);
  return json;
}

static uint64_t admitted_in_all(const struct loop *loop) {
  uint64_t sum = 0;
  for (int p = 0; p < PRIORITIES; p++)
    sum += loop->totals.value[COUNTER_requests_admitted][p];
  return sum;
}

static void add_requests(const struct loop *loop, cJSON *json) {
  static const struct {
    const char *name;
    enum counter_id id;
  } rows[] = {{"received", COUNTER_requests_received},
              {"refused", COUNTER_requests_refused},
              {"limited", COUNTER_requests_limited},
              {"answered", COUNTER_requests_answered},
              {"dead_lettered", COUNTER_requests_dead_lettered},
              {"client_gone", COUNTER_requests_client_gone},
              {"coalesced", COUNTER_requests_coalesced},
              {"in_target", COUNTER_requests_in_target}};
  cJSON *r = cJSON_AddObjectToObject(json, "requests");
  cJSON_AddNumberToObject(r, "admitted", (double)admitted_in_all(loop));
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
    cJSON_AddNumberToObject(r, rows[i].name, (double)loop->totals.value[rows[i].id][0]);
  cJSON_AddNumberToObject(r, "in_flight", loop->frame.in_flight);
}

static void add_objective(const struct loop *loop, cJSON *json) {
  const struct objective *o = &loop->plane->objective;
  cJSON *part = cJSON_AddObjectToObject(json, "objective");
  cJSON_AddNumberToObject(part, "ttft_ms", o->ttft_ms);
  cJSON_AddNumberToObject(part, "tpot_ms", o->tpot_ms);
  cJSON_AddNumberToObject(part, "usd_weight", o->usd_weight);
  cJSON_AddNumberToObject(part, "quality_weight", o->quality_weight);
}

static void add_score(const struct loop *loop, cJSON *json) {
  double qualities[MAX_PROVIDERS];
  judge_qualities(loop, qualities);
  struct judge_view view = {qualities, &loop->plane->objective};
  struct judge_score s;
  judge_score(loop->judge, loop->now_ns - 300 * NS_PER_S, loop->now_ns, &view, &s);
  cJSON *part = cJSON_AddObjectToObject(json, "last_5_minutes");
  add_number(part, "requests", s.requests);
  add_number(part, "utility", s.utility);
  add_number(part, "in_target", s.in_target);
  add_number(part, "quality", s.quality);
  add_number(part, "usd_per_request", s.usd_per_request);
}

char *view_status(struct loop *loop) {
  cJSON *json = cJSON_CreateObject();
  cJSON_AddBoolToObject(json, "observe", loop->config.observe);
  cJSON_AddNumberToObject(json, "ticks", (double)loop->frame.number);
  cJSON_AddStringToObject(json, "snapshot", loop->head);
  cJSON_AddNumberToObject(json, "open_incidents", watchers_open(loop->watchers));
  cJSON_AddNumberToObject(json, "open_trials", loop->trial_count);
  cJSON_AddNumberToObject(json, "running_experiments", loop->experiment_count);
  add_objective(loop, json);
  add_requests(loop, json);
  add_score(loop, json);
  cJSON *providers = cJSON_AddArrayToObject(json, "providers");
  for (unsigned i = 0; i < loop->plane->provider_count; i++)
    cJSON_AddItemToArray(providers, provider_json(loop, i));
  return print(json);
}
