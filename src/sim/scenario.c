/* A file is read over its base: first the base, as if it were alone, then every key of the file on top. */

#include "sim/scenario_internal.h"
#include "sys/clock.h"

#include <errno.h>
#include <libgen.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COUNT(array) (sizeof(array) / sizeof *(array))
#define RUN(name, type, min, max)                                                                            \
  { #name, type, offsetof(struct scenario, name), sizeof(((struct scenario *)0)->name), min, max }
#define RUN_AS(name, field, type, min, max)                                                                  \
  { #name, type, offsetof(struct scenario, field), sizeof(((struct scenario *)0)->field), min, max }
#define OTHER(name)                                                                                          \
  { #name, KEY_OTHER, 0, 0, 0, 0 }
#define OF(name, type, min, max)                                                                             \
  {                                                                                                          \
#name, type, offsetof(struct scenario_provider, name), sizeof(((struct scenario_provider *)0)->name),    \
        min, max                                                                                             \
  }
#define PRICE(name, field)                                                                                   \
  { #name, KEY_REAL, offsetof(struct scenario_provider, price.field), sizeof(double), 0, 1e6 }

static const struct key top_keys[] = {OTHER(base),     OTHER(run),      OTHER(targets),
                                      OTHER(feedback), OTHER(provider), OTHER(event)};

static const struct key run_keys[] = {
    RUN_AS(days, length_ns, KEY_DAYS, 0.001, 366),
    RUN_AS(hours, length_ns, KEY_HOURS, 0.01, 8784),
    RUN_AS(minutes, length_ns, KEY_MINUTES, 0.1, 527040),
    RUN_AS(tick_s, tick_ns, KEY_SECONDS, 0.05, 60),
    RUN(mean_rps, KEY_REAL, 0, 10000),
    RUN(daily_shape, KEY_STRING, 0, 0),
    RUN(gaps, KEY_STRING, 0, 0),
    RUN(lengths, KEY_STRING, 0, 0),
    RUN(quality, KEY_STRING, 0, 0),
    OTHER(classes),
    RUN(stream_share, KEY_REAL, 0, 1),
    RUN(bucket_s, KEY_REAL, 1, 3600),
    OTHER(capacity_scales),
    OTHER(sessions_turns),
    RUN(tenants, KEY_UNSIGNED, 1, 10000),
    OTHER(priorities),
    RUN(repeat_share, KEY_REAL, 0, 1),
    RUN_AS(client_timeout_s, client_timeout_ns, KEY_SECONDS, 0.1, 3600),
    RUN(client_retry_share, KEY_REAL, 0, 1),
};

static const struct key target_keys[] = {
    RUN(ttft_ms, KEY_REAL, 1, 1e6),
    RUN(tpot_ms, KEY_REAL, 0.1, 1e5),
    RUN_AS(utility_lambda_per_usd, lambda_per_usd, KEY_REAL, 0, 1e6),
};

static const struct key feedback_keys[] = {
    RUN(explicit_share, KEY_REAL, 0, 1),
    RUN(delay_mean_s, KEY_REAL, 0, 86400),
    RUN(noise_sigma, KEY_REAL, 0, 1),
    RUN(wrong_share, KEY_REAL, 0, 1),
};

static const struct key provider_keys[] = {
    OF(name, KEY_STRING, 0, 0),
    OTHER(kind),
    OF(model, KEY_STRING, 0, 0),
    PRICE(usd_per_m_in, in),
    PRICE(usd_per_m_cached, cached),
    PRICE(usd_per_m_out, out),
    OF(slots, KEY_REAL, 1, 10000),
    OF(kv_tokens, KEY_REAL, 1, 1e9),
    OF(prefill_tok_per_s, KEY_REAL, 1, 1e9),
    OF(d0_ms, KEY_REAL, 0, 1e4),
    OF(d1_ms, KEY_REAL, 0, 1e4),
    OF(max_queue, KEY_REAL, 0, 1e6),
    OF(start_s, KEY_REAL, 0, 86400),
    OF(usd_per_instance_hour, KEY_REAL, 0, 1e4),
    OF(min_instances, KEY_UNSIGNED, 0, 64),
    OF(start_instances, KEY_UNSIGNED, 0, 64),
    OF(max_instances, KEY_UNSIGNED, 1, 64),
    OF(ttft_median_ms, KEY_REAL, 0.1, 1e6),
    OF(ttft_sigma, KEY_REAL, 0, 5),
    OF(tail_share, KEY_REAL, 0, 1),
    OF(tail_alpha, KEY_REAL, 0.1, 100),
    OF(tpot_ms, KEY_REAL, 0.01, 1e5),
    OF(tpot_cv, KEY_REAL, 0, 3),
    OF(requests_per_min, KEY_REAL, 0, 1e9),
    OF(tokens_per_min, KEY_REAL, 0, 1e12),
    OF(ratelimit_headers, KEY_BOOL, 0, 0),
    OF(retry_after_share, KEY_REAL, 0, 1),
    OF(bad_every_h, KEY_REAL, 0, 1e6),
    OF(bad_for_min, KEY_REAL, 0.01, 1e6),
    OTHER(bad_states),
    OF(slow_factor, KEY_REAL, 1, 1000),
    OF(error_share, KEY_REAL, 0, 1),
    OF(cut_share, KEY_REAL, 0, 1),
};

/* ---- what the tables of keys do not cover ---- */

static int read_shares(const struct key_source *source, const struct toml_node *table, struct scenario *s) {
  static const struct key keys[] = {
      {"critical", KEY_REAL, PRIORITY_CRITICAL * sizeof(double), 0, 0, 1},
      {"high", KEY_REAL, PRIORITY_HIGH * sizeof(double), 0, 0, 1},
      {"normal", KEY_REAL, PRIORITY_NORMAL * sizeof(double), 0, 0, 1},
      {"low", KEY_REAL, PRIORITY_LOW * sizeof(double), 0, 0, 1},
  };
  memset(s->priorities, 0, sizeof s->priorities);
  int status = keys_read(source, table, "priorities", keys, COUNT(keys), s->priorities);
  double sum = 0;
  for (int i = 0; i < PRIORITIES; i++)
    sum += s->priorities[i];
  if (status == 0 && fabs(sum - 1) > 1e-6) return keys_fail(source, table, "the priorities must sum to 1");
  return status;
}

static int read_class(const struct key_source *source, const struct toml_node *list, struct scenario *s,
                      unsigned c) {
  if (toml_type(list) != TOML_ARRAY || toml_count(list) > SCENARIO_SOURCES)
    return keys_fail(source, list, "a class is a list of at most %d sources", SCENARIO_SOURCES);
  s->classes[c].source_count = 0;
  for (size_t i = 0; i < toml_count(list); i++) {
    const char *text;
    if (!toml_as_string(toml_at(list, i), &text) || strlen(text) >= NAME_SIZE)
      return keys_fail(source, list, "a source of a class is a short text");
    if (strcmp(text, "*") == 0) continue;
    strcpy(s->classes[c].sources[s->classes[c].source_count++], text);
  }
  return 0;
}

static int read_classes(const struct key_source *source, const struct toml_node *list, struct scenario *s) {
  if (toml_type(list) != TOML_ARRAY || toml_count(list) < 1 || toml_count(list) > SCENARIO_CLASSES)
    return keys_fail(source, list, "classes is a list of 1 to %d lists of sources", SCENARIO_CLASSES);
  s->class_count = (unsigned)toml_count(list);
  for (unsigned c = 0; c < s->class_count; c++) {
    int status = read_class(source, toml_at(list, c), s, c);
    if (status) return status;
  }
  return 0;
}

static int read_scales(const struct key_source *source, const struct toml_node *list, struct scenario *s) {
  const struct {
    const char *name;
    bool *on;
  } scales[] = {{"slots", &s->scale_slots},
                {"prefill_tok_per_s", &s->scale_prefill},
                {"kv_tokens", &s->scale_kv},
                {"max_queue", &s->scale_queue}};
  for (size_t k = 0; k < COUNT(scales); k++)
    *scales[k].on = false;
  for (size_t i = 0; i < toml_count(list); i++) {
    const char *text = "";
    size_t k = 0;
    toml_as_string(toml_at(list, i), &text);
    while (k < COUNT(scales) && strcmp(scales[k].name, text) != 0)
      k++;
    if (k == COUNT(scales))
      return keys_fail(source, list,
                       "capacity_scales may list slots, prefill_tok_per_s, kv_tokens, max_queue");
    *scales[k].on = true;
  }
  return 0;
}

static int read_turns(const struct key_source *source, const struct toml_node *list, struct scenario *s) {
  int64_t low = 0, high = 0;
  if (toml_type(list) != TOML_ARRAY || toml_count(list) != 2 || !toml_as_integer(toml_at(list, 0), &low) ||
      !toml_as_integer(toml_at(list, 1), &high) || low < 1 || high < low || high > 100000)
    return keys_fail(source, list, "sessions_turns is [least, most], whole numbers from 1");
  s->turns_min = (unsigned)low;
  s->turns_max = (unsigned)high;
  return 0;
}

static int read_run(const struct key_source *source, const struct toml_node *run, struct scenario *s) {
  static const struct {
    const char *name;
    int (*read)(const struct key_source *, const struct toml_node *, struct scenario *);
  } others[] = {{"classes", read_classes},
                {"capacity_scales", read_scales},
                {"sessions_turns", read_turns},
                {"priorities", read_shares}};
  int status = keys_read(source, run, "[run]", run_keys, COUNT(run_keys), s);
  for (size_t i = 0; i < COUNT(others) && status == 0; i++) {
    const struct toml_node *node = toml_get(run, others[i].name);
    if (node) status = others[i].read(source, node, s);
  }
  return status;
}

/* ---- providers ---- */

int scenario_add_model(struct scenario *s, const char *name, const char *like) {
  int found = scenario_find_model(s, name);
  if (found >= 0) return found;
  if (s->model_count == SCENARIO_MODELS) return -ENOSPC;
  snprintf(s->models[s->model_count].name, NAME_SIZE, "%s", name);
  snprintf(s->models[s->model_count].like, NAME_SIZE, "%s", like);
  return (int)s->model_count++;
}

static void init_provider(struct scenario_provider *p) {
  *p = (struct scenario_provider){.kind = (enum provider_kind) - 1,
                                  .price = {NAN, NAN, NAN},
                                  .slots = NAN,
                                  .kv_tokens = NAN,
                                  .prefill_tok_per_s = NAN,
                                  .d0_ms = NAN,
                                  .d1_ms = NAN,
                                  .max_queue = NAN,
                                  .min_instances = 1,
                                  .start_instances = 1,
                                  .max_instances = 1,
                                  .ttft_median_ms = NAN,
                                  .ttft_sigma = 0.4,
                                  .tail_alpha = 1.8,
                                  .tpot_ms = NAN,
                                  .bad_for_min = 10,
                                  .slow_factor = 3,
                                  .error_share = 0.3,
                                  .cut_share = 0.2,
                                  .bad_states = {true, true, true, true, true}};
}

static int check_provider(const struct key_source *source, const struct toml_node *table,
                          const struct scenario_provider *p) {
  const struct {
    const char *name;
    double value;
    int kind; /* -1: both */
  } needed[] = {{"usd_per_m_in", p->price.in, -1},
                {"usd_per_m_out", p->price.out, -1},
                {"slots", p->slots, PROVIDER_SERVER},
                {"kv_tokens", p->kv_tokens, PROVIDER_SERVER},
                {"prefill_tok_per_s", p->prefill_tok_per_s, PROVIDER_SERVER},
                {"d0_ms", p->d0_ms, PROVIDER_SERVER},
                {"d1_ms", p->d1_ms, PROVIDER_SERVER},
                {"max_queue", p->max_queue, PROVIDER_SERVER},
                {"ttft_median_ms", p->ttft_median_ms, PROVIDER_HOSTED},
                {"tpot_ms", p->tpot_ms, PROVIDER_HOSTED}};
  if (!p->name[0] || !p->model[0]) return keys_fail(source, table, "a provider needs a name and a model");
  if (p->kind != PROVIDER_SERVER && p->kind != PROVIDER_HOSTED)
    return keys_fail(source, table, "provider %s needs a kind: \"server\" or \"hosted\"", p->name);
  for (size_t i = 0; i < COUNT(needed); i++)
    if (isnan(needed[i].value) && (needed[i].kind == -1 || needed[i].kind == (int)p->kind))
      return keys_fail(source, table, "provider %s needs %s", p->name, needed[i].name);
  if (p->kind == PROVIDER_SERVER && p->d0_ms + p->d1_ms <= 0)
    return keys_fail(source, table, "provider %s: d0_ms and d1_ms may not both be 0", p->name);
  if (p->min_instances > p->max_instances || p->start_instances > p->max_instances)
    return keys_fail(source, table,
                     "provider %s: min_instances and start_instances are at most max_instances", p->name);
  return 0;
}

static int read_kind(const struct key_source *source, const struct toml_node *node,
                     struct scenario_provider *p) {
  const char *text = "";
  if (!node) return 0;
  toml_as_string(node, &text);
  if (strcmp(text, "server") == 0)
    p->kind = PROVIDER_SERVER;
  else if (strcmp(text, "hosted") == 0)
    p->kind = PROVIDER_HOSTED;
  else
    return keys_fail(source, node, "kind must be \"server\" or \"hosted\"");
  return 0;
}

static int read_states(const struct key_source *source, const struct toml_node *list,
                       struct scenario_provider *p) {
  static const char *const names[BAD_STATES] = {"slow", "erroring", "cutting", "silent", "down"};
  if (!list) return 0;
  memset(p->bad_states, 0, sizeof p->bad_states);
  for (size_t i = 0; i < toml_count(list); i++) {
    const char *text = "";
    unsigned k = 0;
    toml_as_string(toml_at(list, i), &text);
    while (k < BAD_STATES && strcmp(names[k], text) != 0)
      k++;
    if (k == BAD_STATES)
      return keys_fail(source, list, "bad_states may list slow, erroring, cutting, silent, down");
    p->bad_states[k] = true;
  }
  return 0;
}

static int read_provider(const struct key_source *source, const struct toml_node *table, struct scenario *s,
                         const struct scenario *base) {
  if (s->provider_count == MAX_PROVIDERS)
    return keys_fail(source, table, "at most %d providers", MAX_PROVIDERS);
  struct scenario_provider *p = &s->providers[s->provider_count];
  const char *name = "";
  init_provider(p);
  toml_as_string(toml_get(table, "name"), &name);
  int inherited = base ? scenario_find_provider(base, name) : -ENOENT;
  if (inherited >= 0) *p = base->providers[inherited];
  if (scenario_find_provider(s, name) >= 0)
    return keys_fail(source, table, "there are two providers called %s", name);
  int status = keys_read(source, table, "[[provider]]", provider_keys, COUNT(provider_keys), p);
  if (status == 0) status = read_kind(source, toml_get(table, "kind"), p);
  if (status == 0) status = read_states(source, toml_get(table, "bad_states"), p);
  if (status == 0) status = check_provider(source, table, p);
  if (status) return status;
  if (isnan(p->price.cached)) p->price.cached = p->price.in;
  p->model_index = (unsigned)scenario_add_model(s, p->model, p->model);
  s->provider_count++;
  return 0;
}

static int read_providers(const struct key_source *source, const struct toml_node *list, struct scenario *s) {
  struct scenario *base = malloc(sizeof *base);
  if (!base) return keys_fail(source, list, "out of memory");
  *base = *s;
  s->provider_count = s->model_count = 0;
  int status = 0;
  for (size_t i = 0; i < toml_count(list) && status == 0; i++)
    status = read_provider(source, toml_at(list, i), s, base);
  free(base);
  return status;
}

/* ---- the file ---- */

static void init(struct scenario *s) {
  *s = (struct scenario){.length_ns = 3600 * NS_PER_S,
                         .tick_ns = NS_PER_S,
                         .mean_rps = 1,
                         .daily_shape = "flat",
                         .gaps = "azure_conv",
                         .lengths = "azure_conv",
                         .quality = "paretobandit_test_k3.csv",
                         .class_count = 1,
                         .stream_share = 0.7,
                         .bucket_s = 60,
                         .scale_slots = true,
                         .scale_prefill = true,
                         .scale_kv = true,
                         .turns_min = 2,
                         .turns_max = 20,
                         .tenants = 50,
                         .priorities = {0.05, 0.15, 0.60, 0.20},
                         .repeat_share = 0.1,
                         .client_timeout_ns = 60 * NS_PER_S,
                         .client_retry_share = 0.3,
                         .ttft_ms = 2000,
                         .tpot_ms = 50,
                         .lambda_per_usd = 5,
                         .explicit_share = 0.05,
                         .delay_mean_s = 180,
                         .noise_sigma = 0.1,
                         .wrong_share = 0.02};
}

static int read_file(struct scenario *s, const char *path, int depth, const struct key_source *outer);

static int read_base(struct scenario *s, const struct key_source *source, const struct toml_node *node,
                     int depth) {
  const char *name;
  char path[PATH_MAX], copy[PATH_MAX];
  if (!toml_as_string(node, &name)) return keys_fail(source, node, "base is the name of a file");
  if (depth >= 4) return keys_fail(source, node, "bases may be four deep");
  snprintf(copy, sizeof copy, "%s", source->file);
  int n = name[0] == '/' ? snprintf(path, sizeof path, "%s", name)
                         : snprintf(path, sizeof path, "%s/%s", dirname(copy), name);
  if (n < 0 || (size_t)n >= sizeof path) return keys_fail(source, node, "the path of the base is too long");
  int status = read_file(s, path, depth + 1, source);
  s->event_count = 0; /* newcomers belong to events */
  while (s->provider_count > 0 && s->providers[s->provider_count - 1].newcomer)
    s->provider_count--;
  return status;
}

static int read_tables(struct scenario *s, const struct key_source *source, const struct toml_node *root) {
  const struct toml_node *run = toml_get(root, "run"), *targets = toml_get(root, "targets");
  const struct toml_node *feedback = toml_get(root, "feedback"), *providers = toml_get(root, "provider");
  const struct toml_node *events = toml_get(root, "event");
  int status = run ? read_run(source, run, s) : 0;
  if (!status && targets)
    status = keys_read(source, targets, "[targets]", target_keys, COUNT(target_keys), s);
  if (!status && feedback)
    status = keys_read(source, feedback, "[feedback]", feedback_keys, COUNT(feedback_keys), s);
  if (!status && providers) status = read_providers(source, providers, s);
  for (size_t i = 0; !status && events && i < toml_count(events); i++)
    status = scenario_read_event(s, source, toml_at(events, i), (unsigned)i);
  return status;
}

static int read_file(struct scenario *s, const char *path, int depth, const struct key_source *outer) {
  struct key_source source = {path, outer->error, outer->error_size};
  struct toml_doc *doc = toml_parse_file(path, source.error, source.error_size);
  if (!doc) return -EINVAL;
  const struct toml_node *root = toml_root(doc), *base = toml_get(root, "base");
  int status = keys_read(&source, root, "the file", top_keys, COUNT(top_keys), s);
  if (!status && base) status = read_base(s, &source, base, depth);
  if (!status) status = read_tables(s, &source, root);
  toml_free(doc);
  return status;
}

static int by_time(const void *a, const void *b) {
  const struct scenario_event *x = a, *y = b;
  if (x->at_ns != y->at_ns) return x->at_ns < y->at_ns ? -1 : 1;
  return x->line - y->line;
}

static void name_after(struct scenario *s, const char *path) {
  char copy[PATH_MAX];
  snprintf(copy, sizeof copy, "%s", path);
  snprintf(s->name, sizeof s->name, "%.*s", NAME_SIZE - 1, basename(copy));
  char *dot = strrchr(s->name, '.');
  if (dot) *dot = '\0';
}

struct scenario *scenario_load(const char *path, uint64_t seed, char *error, size_t error_size) {
  struct key_source source = {path, error, error_size};
  struct scenario *s = malloc(sizeof *s);
  if (!s) {
    snprintf(error, error_size, "out of memory");
    return NULL;
  }
  init(s);
  s->seed = seed;
  name_after(s, path);
  int status = read_file(s, path, 0, &source);
  if (status == 0 && s->provider_count == 0)
    status = keys_fail(&source, NULL, "a scenario needs at least one [[provider]]");
  if (status) {
    free(s);
    return NULL;
  }
  qsort(s->events, s->event_count, sizeof *s->events, by_time);
  return s;
}

void scenario_destroy(struct scenario *s) {
  free(s);
}

int scenario_find_provider(const struct scenario *s, const char *name) {
  for (unsigned i = 0; i < s->provider_count; i++)
    if (strcmp(s->providers[i].name, name) == 0) return (int)i;
  return -ENOENT;
}

int scenario_find_model(const struct scenario *s, const char *name) {
  for (unsigned i = 0; i < s->model_count; i++)
    if (strcmp(s->models[i].name, name) == 0) return (int)i;
  return -ENOENT;
}
