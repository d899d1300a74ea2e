/* Providers and routes. A [[providers]] table with several models makes one deployment of each, called
 * NAME/MODEL. Routes are resolved when all providers are known: a candidate may be the name of a provider, of
 * a table with several models, or of a model. What no table says follows: every model's name is a route to
 * whoever serves it, and "auto" is a route to all. */

#include "config_internal.h"

#include "sys/clock.h"
#include "sys/toml.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

const char *const config_provider_keys[] = {"providers.name",
                                            "providers.kind",
                                            "providers.base_url",
                                            "providers.key",
                                            "providers.key_env",
                                            "providers.model",
                                            "providers.models",
                                            "providers.usd_per_m_in",
                                            "providers.usd_per_m_cached",
                                            "providers.usd_per_m_out",
                                            "providers.usd_per_instance_hour",
                                            "providers.limit",
                                            "providers.instances",
                                            "providers.local.command",
                                            "providers.local.min",
                                            "providers.local.max",
                                            "providers.local.start_s",
                                            "providers.local.health_s",
                                            "providers.ca_file"};
const size_t config_provider_key_count = sizeof config_provider_keys / sizeof *config_provider_keys;

const char *const config_route_keys[] = {"routes.name", "routes.candidates", "routes.fallbacks",
                                         "routes.sticky", "routes.coalesce"};
const size_t config_route_key_count = sizeof config_route_keys / sizeof *config_route_keys;

enum { PRICE_MAX = 100000 };

static bool read_kind(struct reader *r, const struct toml_node *table, struct provider_settings *p) {
  char text[32];
  const struct toml_node *node = toml_get(table, "kind");
  if (!node) return true;
  if (!reader_text(r, node, "providers.kind", text, sizeof text)) return false;
  bool echo = strcmp(text, "echo") == 0, known = echo || strcmp(text, "openai") == 0;
  if (echo) p->kind = PROVIDER_ECHO;
  if (!known)
    reader_problem(r, node, "providers.kind",
                   "\"%s\" is no kind; allowed: openai (any server that speaks its API), echo", text);
  return known;
}

static void read_secret(struct reader *r, const struct toml_node *table, struct provider_settings *p) {
  char name[128];
  const struct toml_node *node = toml_get(table, "key_env");
  reader_text(r, toml_get(table, "key"), "providers.key", p->api_key, sizeof p->api_key);
  if (!reader_text(r, node, "providers.key_env", name, sizeof name)) return;
  if (toml_get(table, "key")) {
    reader_problem(r, node, "providers.key_env", "stands beside key; keep one of the two");
    return;
  }
  const char *value = getenv(name);
  if (!value || !*value)
    reader_problem(r, node, "providers.key_env",
                   "the environment variable %s is %s; set it to the provider's key", name,
                   value ? "empty" : "not set");
  else if (strlen(value) >= sizeof p->api_key)
    reader_problem(r, node, "providers.key_env", "the value of %s is too long; allowed: up to %zu bytes",
                   name, sizeof p->api_key - 1);
  else
    snprintf(p->api_key, sizeof p->api_key, "%s", value);
}

static void read_local(struct reader *r, const struct toml_node *table, struct provider_settings *p,
                       struct provider_spec *spec) {
  const struct toml_node *local = toml_get(table, "local");
  int64_t min = 1, max = 4, start_s = 120, health_s = 5;
  if (!local || toml_type(local) != TOML_TABLE) return; /* check_keys has told */
  p->local = spec->local = true;
  if (!toml_get(local, "command"))
    reader_problem(r, local, "providers.local.command", "is missing; say which command starts an instance");
  reader_text(r, toml_get(local, "command"), "providers.local.command", p->command, sizeof p->command);
  reader_integer(r, toml_get(local, "min"), "providers.local.min", 0, 64, &min);
  reader_integer(r, toml_get(local, "max"), "providers.local.max", 1, 64, &max);
  reader_integer(r, toml_get(local, "start_s"), "providers.local.start_s", 1, 3600, &start_s);
  reader_integer(r, toml_get(local, "health_s"), "providers.local.health_s", 1, 3600, &health_s);
  if (min > max) reader_problem(r, local, "providers.local.min", "is above max; allowed: up to %d", (int)max);
  spec->min_instances = (uint32_t)min;
  spec->max_instances = (uint32_t)max;
  p->start_ns = start_s * NS_PER_S;
  p->health_ns = health_s * NS_PER_S;
}

/* Certificates that cannot be read would refuse every call later, far from their cause. */
static void read_ca_file(struct reader *r, const struct toml_node *table, struct provider_settings *p) {
  const struct toml_node *node = toml_get(table, "ca_file");
  if (!reader_text(r, node, "providers.ca_file", p->ca_file, sizeof p->ca_file)) return;
  if (strncasecmp(p->base_url, "https://", 8) != 0)
    reader_problem(r, node, "providers.ca_file",
                   "has no meaning here; allowed: with a base_url that begins with https://");
  else if (provider_check_ca(p->ca_file) < 0)
    reader_problem(r, node, "providers.ca_file",
                   "%s cannot be read or holds no certificate; allowed: a PEM file", p->ca_file);
}

static void read_prices(struct reader *r, const struct toml_node *table, struct provider_spec *spec) {
  reader_number(r, toml_get(table, "usd_per_m_in"), "providers.usd_per_m_in", 0, PRICE_MAX, &spec->price.in);
  spec->price.cached = spec->price.in;
  reader_number(r, toml_get(table, "usd_per_m_cached"), "providers.usd_per_m_cached", 0, PRICE_MAX,
                &spec->price.cached);
  reader_number(r, toml_get(table, "usd_per_m_out"), "providers.usd_per_m_out", 0, PRICE_MAX,
                &spec->price.out);
  reader_number(r, toml_get(table, "usd_per_instance_hour"), "providers.usd_per_instance_hour", 0, PRICE_MAX,
                &spec->usd_per_instance_hour);
}

/* The tunables that every provider has: bounds from their own table. */
static void read_provider_tunables(struct reader *r, const struct toml_node *table,
                                   const struct provider_spec *spec, double values[TUNABLES]) {
  for (int id = 0; id < TUNABLES; id++) {
    const struct tunable_info *info = &tunable_infos[id];
    values[id] = NAN;
    if (info->scope != TUNABLE_PROVIDER) continue;
    const struct toml_node *node = toml_get(table, info->toml);
    char key[READER_KEY];
    int64_t whole;
    snprintf(key, sizeof key, "providers.%s", info->toml);
    double min = info->min, max = info->max;
    if (id == TUNABLE_instances && node) {
      if (!spec->local) {
        reader_problem(r, node, key,
                       "has no meaning without local; remove it, or add local = {command = \"...\"}");
        continue;
      }
      min = spec->min_instances;
      max = spec->max_instances;
    }
    if (info->kind == TUNABLE_REAL)
      reader_number(r, node, key, min, max, &values[id]);
    else if (reader_integer(r, node, key, (int64_t)min, (int64_t)max, &whole))
      values[id] = (double)whole;
  }
}

static bool name_taken(const struct config *c, const char *name) {
  for (unsigned i = 0; i < c->provider_count; i++)
    if (strcmp(c->specs[i].name, name) == 0 || strcmp(c->groups[i], name) == 0) return true;
  return false;
}

/* One deployment: settings and specification of the table, with this model. */
static void add_deployment(struct config *c, struct reader *r, const struct toml_node *at,
                           const struct provider_settings *settings, const struct provider_spec *spec,
                           const double values[TUNABLES], const char *model, bool several) {
  if (c->provider_count == MAX_PROVIDERS) {
    reader_problem(r, at, "providers", "there are too many; allowed: up to %d models at providers in all",
                   MAX_PROVIDERS);
    return;
  }
  char name[2 * NAME_SIZE];
  snprintf(name, sizeof name, several ? "%s/%s" : "%s", settings->name, model);
  if (strlen(name) >= NAME_SIZE) {
    reader_problem(r, at, "providers.models",
                   "%s is too long a name; allowed: up to %d bytes for provider/model", name, NAME_SIZE - 1);
    return;
  }
  unsigned i = c->provider_count++;
  c->providers[i] = *settings;
  c->specs[i] = *spec;
  snprintf(c->groups[i], NAME_SIZE, "%s", settings->name);
  memcpy(c->providers[i].name, name, strlen(name) + 1);
  memcpy(c->specs[i].name, name, strlen(name) + 1);
  snprintf(c->providers[i].model, NAME_SIZE, "%s", model);
  snprintf(c->specs[i].model, NAME_SIZE, "%s", model);
  for (int id = 0; id < TUNABLES; id++)
    if (tunable_infos[id].scope == TUNABLE_PROVIDER) c->file_values[id][i] = values[id];
}

static void add_models(struct config *c, struct reader *r, const struct toml_node *table,
                       const struct provider_settings *settings, const struct provider_spec *spec,
                       const double values[TUNABLES]) {
  const struct toml_node *one = toml_get(table, "model"), *list = toml_get(table, "models");
  char model[NAME_SIZE];
  if (one && list) {
    reader_problem(r, list, "providers.models", "stands beside model; keep one of the two");
  } else if (one) {
    if (reader_name(r, one, "providers.model", model, sizeof model))
      add_deployment(c, r, one, settings, spec, values, model, false);
  } else if (list) {
    if (!reader_list(r, list, "providers.models")) return;
    if (toml_count(list) == 0)
      reader_problem(r, list, "providers.models", "is empty; list at least one model");
    for (size_t i = 0; i < toml_count(list); i++)
      if (reader_name(r, toml_at(list, i), "providers.models", model, sizeof model))
        add_deployment(c, r, toml_at(list, i), settings, spec, values, model, toml_count(list) > 1);
  } else if (settings->kind == PROVIDER_ECHO) {
    add_deployment(c, r, table, settings, spec, values, "echo", false);
  } else {
    reader_problem(r, table, "providers.model", "is missing; say model = \"...\" or models = [\"...\"]");
  }
}

/* The address by itself, whatever else is wrong; the rest only when all was read. */
static void check_provider(struct reader *r, const struct toml_node *table,
                           const struct provider_settings *settings, bool whole) {
  char url[PROVIDER_URL_SIZE + 32], error[512];
  const struct toml_node *at = toml_get(table, "base_url");
  bool remote = settings->kind == PROVIDER_OPENAI && !settings->local;
  if (remote && !at)
    reader_problem(r, table, "providers.base_url",
                   "is missing; give an address such as https://api.example.com/v1");
  else if (remote && settings->base_url[0] &&
           provider_chat_url(settings->base_url, url, sizeof url, error, sizeof error) != 0)
    reader_problem(r, at, "providers.base_url", "%s; allowed: an address such as https://api.example.com/v1",
                   error);
  else if (whole && provider_check(settings, error, sizeof error) != 0)
    reader_problem(r, toml_get(table, "key"), "providers.key", "%s", error);
}

static void read_provider(struct config *c, struct reader *r, const struct toml_node *table) {
  struct provider_settings settings = {.kind = PROVIDER_OPENAI};
  struct provider_spec spec = {.min_instances = 1, .max_instances = 1};
  double values[TUNABLES];
  unsigned before = r->count;
  if (toml_type(table) != TOML_TABLE) {
    reader_problem(r, table, "providers", "is not a list of tables; write [[providers]] and its keys below");
    return;
  }
  const struct toml_node *name = toml_get(table, "name");
  if (!name) reader_problem(r, table, "providers.name", "is missing; give each provider a name");
  if (reader_name(r, name, "providers.name", settings.name, sizeof settings.name) &&
      name_taken(c, settings.name))
    reader_problem(r, name, "providers.name", "%s is there already; give each provider a name of its own",
                   settings.name);
  bool known = read_kind(r, table, &settings);
  reader_text(r, toml_get(table, "base_url"), "providers.base_url", settings.base_url,
              sizeof settings.base_url);
  read_secret(r, table, &settings);
  read_local(r, table, &settings, &spec);
  read_ca_file(r, table, &settings);
  read_prices(r, table, &spec);
  read_provider_tunables(r, table, &spec, values);
  snprintf(settings.model, sizeof settings.model, "model"); /* checked by add_models */
  if (known) check_provider(r, table, &settings, r->count == before);
  add_models(c, r, table, &settings, &spec, values);
}

void config_read_providers(struct config *c, struct reader *r, const struct toml_node *root) {
  const struct toml_node *list = toml_get(root, "providers");
  if (!reader_list(r, list, "providers")) return;
  for (size_t i = 0; i < toml_count(list); i++)
    read_provider(c, r, toml_at(list, i));
}

int config_add_provider(struct config *c, const char *name, enum provider_kind kind, const char *base_url,
                        const char *key, const char *model) {
  if (c->provider_count == MAX_PROVIDERS) return -ENOSPC;
  unsigned i = c->provider_count++;
  c->providers[i] = (struct provider_settings){.kind = kind};
  c->specs[i] = (struct provider_spec){.min_instances = 1, .max_instances = 1};
  snprintf(c->providers[i].name, NAME_SIZE, "%s", name);
  snprintf(c->specs[i].name, NAME_SIZE, "%s", name);
  snprintf(c->groups[i], NAME_SIZE, "%s", name);
  snprintf(c->providers[i].model, NAME_SIZE, "%s", model);
  snprintf(c->specs[i].model, NAME_SIZE, "%s", model);
  snprintf(c->providers[i].base_url, PROVIDER_URL_SIZE, "%s", base_url);
  snprintf(c->providers[i].api_key, PROVIDER_KEY_SIZE, "%s", key);
  return (int)i;
}
