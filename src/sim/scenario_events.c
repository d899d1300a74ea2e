/* Events: when they come is drawn from the seed, uniformly inside [from, to]. What is not said has the
 * default of its kind; without for_min an event is for good. A newcomer is a provider that is there from the
 * start but answers only once its event has come: quality and a third of the price of the dearest hosted
 * provider, latency and limits of the one next in price. */

#include "sim/scenario_internal.h"
#include "sys/clock.h"
#include "sys/rng.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

static const char *const kind_names[EVENT_KINDS] = {[EVENT_CAPACITY] = "capacity",
                                                    [EVENT_PRICE] = "price",
                                                    [EVENT_QUALITY_RAMP] = "quality_ramp",
                                                    [EVENT_LATENCY_RAMP] = "latency_ramp",
                                                    [EVENT_OUTAGE] = "outage",
                                                    [EVENT_BROWNOUT] = "brownout",
                                                    [EVENT_RATE_LIMIT] = "rate_limit",
                                                    [EVENT_NEWCOMER] = "newcomer",
                                                    [EVENT_FLASH_CROWD] = "flash_crowd",
                                                    [EVENT_BAD_CONFIG] = "bad_config",
                                                    [EVENT_FEEDBACK_OUTAGE] = "feedback_outage",
                                                    [EVENT_CLOCK_JUMP] = "clock_jump",
                                                    [EVENT_TELEMETRY_GAP] = "telemetry_gap"};

/* What a file says of an event; NAN, or a negative time, where it says nothing. */
struct raw {
  unsigned day;
  int64_t from_h, to_h, from_min, to_min, for_ns, over_ns, over_min;
  char what[NAME_SIZE], provider[NAME_SIZE], model[NAME_SIZE], name[NAME_SIZE];
  double factor, delta, jump_s, ttft_factor, tpot_factor, error_share, cut_share;
};

#define RAW(key, field, type, min, max)                                                                      \
  { key, type, offsetof(struct raw, field), sizeof(((struct raw *)0)->field), min, max }

static const struct key event_keys[] = {
    RAW("day", day, KEY_UNSIGNED, 1, 366),
    RAW("from_h", from_h, KEY_HOURS, 0, 8784),
    RAW("to_h", to_h, KEY_HOURS, 0, 8784),
    RAW("from_min", from_min, KEY_MINUTES, 0, 527040),
    RAW("to_min", to_min, KEY_MINUTES, 0, 527040),
    RAW("what", what, KEY_STRING, 0, 0),
    RAW("provider", provider, KEY_STRING, 0, 0),
    RAW("model", model, KEY_STRING, 0, 0),
    {"class", KEY_OTHER, 0, 0, 0, 0},
    RAW("name", name, KEY_STRING, 0, 0),
    RAW("factor", factor, KEY_REAL, 0, 1000),
    RAW("delta", delta, KEY_REAL, -1, 1),
    RAW("over_h", over_ns, KEY_HOURS, 0, 8784),
    RAW("over_min", over_ns, KEY_MINUTES, 0, 527040),
    RAW("for_min", for_ns, KEY_MINUTES, 0, 527040),
    RAW("jump_s", jump_s, KEY_REAL, -1e7, 1e7),
    RAW("ttft_factor", ttft_factor, KEY_REAL, 0.01, 1000),
    RAW("tpot_factor", tpot_factor, KEY_REAL, 0.01, 1000),
    RAW("error_share", error_share, KEY_REAL, 0, 1),
    RAW("cut_share", cut_share, KEY_REAL, 0, 1),
};

const char *event_kind_name(enum event_kind kind) {
  return kind_names[kind];
}

int scenario_event_init(struct scenario_event *event, const char *what) {
  for (unsigned k = 0; k < EVENT_KINDS; k++) {
    if (strcmp(kind_names[k], what) != 0) continue;
    *event = (struct scenario_event){.kind = (enum event_kind)k,
                                     .until_ns = NS_NEVER,
                                     .provider = ANY_INDEX,
                                     .model = ANY_INDEX,
                                     .class_index = ANY_INDEX,
                                     .factor = 1,
                                     .ttft_factor = 6,
                                     .tpot_factor = 2,
                                     .error_share = 0.05,
                                     .cut_share = 0.02};
    return 0;
  }
  return -ENOENT;
}

static int unknown_kind(const struct key_source *source, const struct toml_node *table) {
  char allowed[256] = "";
  size_t used = 0;
  for (unsigned k = 0; k < EVENT_KINDS; k++)
    used += (size_t)snprintf(allowed + used, sizeof allowed - used, "%s%s", k ? ", " : "", kind_names[k]);
  return keys_fail(source, table, "an event needs what, one of: %s", allowed);
}

static int place_in_time(const struct key_source *source, const struct toml_node *table,
                         const struct raw *raw, uint64_t seed, unsigned number, struct scenario_event *e) {
  bool minutes = raw->from_min >= 0, hours = raw->from_h >= 0;
  int64_t day_ns = raw->day ? (int64_t)(raw->day - 1) * 86400 * NS_PER_S : 0;
  int64_t from = minutes ? raw->from_min : raw->from_h, to = minutes ? raw->to_min : raw->to_h;
  if (minutes == hours)
    return keys_fail(source, table, "an event needs from_min and to_min, or from_h and to_h");
  if (to < 0) to = from;
  if (to < from) return keys_fail(source, table, "an event's window ends before it begins");
  struct rng rng;
  rng_seed(&rng, seed, 0xe7e27 + number);
  e->at_ns = day_ns + from + (int64_t)(rng_uniform(&rng) * (double)(to - from));
  e->until_ns = raw->for_ns >= 0 ? e->at_ns + raw->for_ns : NS_NEVER;
  return 0;
}

static int find_targets(const struct key_source *source, const struct toml_node *table, const struct raw *raw,
                        const struct scenario *s, struct scenario_event *e) {
  if (raw->provider[0] && (e->provider = scenario_find_provider(s, raw->provider)) < 0)
    return keys_fail(source, table, "there is no provider called %s", raw->provider);
  if (raw->model[0] && strcmp(raw->model, "*") != 0 && (e->model = scenario_find_model(s, raw->model)) < 0)
    return keys_fail(source, table, "there is no model called %s", raw->model);
  const struct toml_node *node = toml_get(table, "class");
  const char *text = "";
  int64_t number = ANY_INDEX;
  if (node && !(toml_as_string(node, &text) && strcmp(text, "*") == 0) &&
      !(toml_as_integer(node, &number) && number >= 0 && number < (int64_t)s->class_count))
    return keys_fail(source, node, "class is \"*\" or a number from 0 to %u", s->class_count - 1);
  e->class_index = (int)number;
  return 0;
}

static int dearest(const struct scenario *s, int but) {
  int best = -1;
  for (unsigned i = 0; i < s->provider_count; i++) {
    const struct scenario_provider *p = &s->providers[i];
    if (p->kind != PROVIDER_HOSTED || p->newcomer || (int)i == but) continue;
    if (best < 0 || p->price.out > s->providers[best].price.out) best = (int)i;
  }
  return best;
}

static int add_newcomer(const struct key_source *source, const struct toml_node *table, const struct raw *raw,
                        struct scenario *s, struct scenario_event *e) {
  int dear = dearest(s, -1), next = dearest(s, dear);
  if (!raw->name[0] || scenario_find_provider(s, raw->name) >= 0)
    return keys_fail(source, table, "a newcomer needs a name of its own");
  if (dear < 0 || s->provider_count == MAX_PROVIDERS)
    return keys_fail(source, table, "a newcomer needs a hosted provider to be like, and room for it");
  struct scenario_provider *p = &s->providers[s->provider_count];
  *p = s->providers[next < 0 ? dear : next];
  const struct scenario_provider *like = &s->providers[dear];
  p->price = (struct price){like->price.in / 3, like->price.cached / 3, like->price.out / 3};
  p->newcomer = true;
  strcpy(p->name, raw->name);
  strcpy(p->model, raw->name);
  int model = scenario_add_model(s, p->model, s->models[like->model_index].like);
  if (model < 0) return keys_fail(source, table, "too many models");
  p->model_index = (unsigned)model;
  e->provider = (int)s->provider_count++;
  return 0;
}

static void take(double *into, double value) {
  if (!isnan(value)) *into = value;
}

int scenario_read_event(struct scenario *s, const struct key_source *source, const struct toml_node *table,
                        unsigned number) {
  struct raw raw = {.from_h = -1,
                    .to_h = -1,
                    .from_min = -1,
                    .to_min = -1,
                    .for_ns = -1,
                    .factor = NAN,
                    .delta = NAN,
                    .jump_s = NAN,
                    .ttft_factor = NAN,
                    .tpot_factor = NAN,
                    .error_share = NAN,
                    .cut_share = NAN};
  struct scenario_event e;
  int status =
      keys_read(source, table, "[[event]]", event_keys, sizeof event_keys / sizeof *event_keys, &raw);
  if (status) return status;
  if (s->event_count == SCENARIO_EVENTS)
    return keys_fail(source, table, "at most %d events", SCENARIO_EVENTS);
  if (scenario_event_init(&e, raw.what) < 0) return unknown_kind(source, table);
  e.line = toml_line(table);
  e.over_ns = raw.over_ns;
  take(&e.factor, raw.factor);
  take(&e.delta, raw.delta);
  take(&e.jump_s, raw.jump_s);
  take(&e.ttft_factor, raw.ttft_factor);
  take(&e.tpot_factor, raw.tpot_factor);
  take(&e.error_share, raw.error_share);
  take(&e.cut_share, raw.cut_share);
  status = place_in_time(source, table, &raw, s->seed, number, &e);
  if (status == 0) status = find_targets(source, table, &raw, s, &e);
  if (status == 0 && e.kind == EVENT_NEWCOMER) status = add_newcomer(source, table, &raw, s, &e);
  if (status == 0) s->events[s->event_count++] = e;
  return status;
}
