/* One table says which scalar settings exist, their bounds and where they go; bus/tunables.def says the same
 * of the tunables. Unknown keys are found by walking the whole file against both, so that nobody tunes a key
 * that nothing reads. */

#include "config.h"

#include "config_internal.h"
#include "dialect/json_scan.h"
#include "sys/toml.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum setting_kind {
  KIND_PORT,
  KIND_UNSIGNED,
  KIND_INT,
  KIND_INT64,
  KIND_MIB,
  KIND_REAL,
  KIND_BOOL,
  KIND_TEXT
};

struct setting {
  const char *path;
  enum setting_kind kind;
  double min, max; /* KIND_TEXT: max is the size of the field */
  size_t offset;
};

#define AT(field) offsetof(struct config, field)

static const struct setting settings[] = {
    {"server.host", KIND_TEXT, 0, 64, AT(server.host)},
    {"server.port", KIND_PORT, 0, 65535, AT(server.port)},
    {"server.shards", KIND_UNSIGNED, 1, MAX_SHARDS, AT(server.shards)},
    {"server.body_limit_mib", KIND_MIB, 1, 1024, AT(server.body_limit)},
    {"server.max_connections", KIND_UNSIGNED, 1, 1000000, AT(server.max_connections)},
    {"server.max_depth", KIND_UNSIGNED, 64, JSON_DEPTH_CEILING, AT(server.max_depth)},
    {"server.header_timeout_s", KIND_INT, 1, 3600, AT(server.header_timeout_s)},
    {"server.body_timeout_s", KIND_INT, 1, 3600, AT(server.body_timeout_s)},
    {"server.idle_timeout_s", KIND_INT, 1, 3600, AT(server.idle_timeout_s)},
    {"server.write_timeout_s", KIND_INT, 1, 3600, AT(server.write_timeout_s)},
    {"server.drain_s", KIND_INT, 0, 3600, AT(server.drain_s)},
    {"server.auth", KIND_BOOL, 0, 1, AT(auth)},
    {"store.path", KIND_TEXT, 0, CONFIG_PATH, AT(store_path)},
    {"store.frame_days", KIND_INT64, 1, 3650, AT(frame_days)},
    {"store.request_days", KIND_INT64, 1, 3650, AT(request_days)},
    {"store.dead_letter_rows", KIND_INT64, 0, 10000000, AT(dead_letter_rows)},
    {"store.dead_letter_mib", KIND_INT64, 1, 1048576, AT(dead_letter_mib)},
    {"objective.ttft_ms", KIND_REAL, 1, 3600000, AT(objective.ttft_ms)},
    {"objective.tpot_ms", KIND_REAL, 0.1, 60000, AT(objective.tpot_ms)},
    {"objective.usd_weight", KIND_REAL, 0, 1e6, AT(objective.usd_weight)},
    {"objective.quality_weight", KIND_REAL, 0, 1e6, AT(objective.quality_weight)},
    {"rate_limits.enabled", KIND_BOOL, 0, 1, AT(rate_limited)},
    {"rate_limits.burst_capacity", KIND_REAL, 1, 1e6, AT(rate_burst)},
    {"loop.observe", KIND_BOOL, 0, 1, AT(observe)},
    {"loop.control", KIND_BOOL, 0, 1, AT(control)},
    {"loop.learn", KIND_BOOL, 0, 1, AT(learn)},
    {"loop.evolve", KIND_BOOL, 0, 1, AT(evolve)},
    {"demo.enabled", KIND_BOOL, 0, 1, AT(demo.enabled)},
    {"demo.scenario", KIND_TEXT, 0, CONFIG_PATH, AT(demo.scenario)},
    {"demo.data", KIND_TEXT, 0, CONFIG_PATH, AT(demo.data)},
    {"demo.speed", KIND_REAL, 0.01, 1000, AT(demo.speed)},
};

enum { SETTINGS = sizeof settings / sizeof *settings, PATHS_MAX = SETTINGS + TUNABLES + 8 };

/* Keys that are read by code of their own. */
static const char *const special_paths[] = {"server.keys", "log.level", "log.format", "providers", "routes"};

enum { SPECIALS = sizeof special_paths / sizeof *special_paths };

static const struct toml_node *walk(const struct toml_node *root, const char *path) {
  char part[READER_KEY];
  const struct toml_node *node = root;
  while (node && *path) {
    size_t length = strcspn(path, ".");
    snprintf(part, sizeof part, "%.*s", (int)length, path);
    node = toml_get(node, part);
    path += length + (path[length] == '.');
  }
  return node;
}

static void read_setting(struct config *c, struct reader *r, const struct setting *s,
                         const struct toml_node *node) {
  void *field = (char *)c + s->offset;
  int64_t whole;
  switch (s->kind) {
  case KIND_REAL:
    reader_number(r, node, s->path, s->min, s->max, field);
    return;
  case KIND_BOOL:
    reader_bool(r, node, s->path, field);
    return;
  case KIND_TEXT:
    reader_text(r, node, s->path, field, (size_t)s->max);
    return;
  default:
    break;
  }
  if (!reader_integer(r, node, s->path, (int64_t)s->min, (int64_t)s->max, &whole)) return;
  switch (s->kind) {
  case KIND_PORT:
    *(uint16_t *)field = (uint16_t)whole;
    break;
  case KIND_UNSIGNED:
    *(unsigned *)field = (unsigned)whole;
    break;
  case KIND_INT:
    *(int *)field = (int)whole;
    break;
  case KIND_MIB:
    *(size_t *)field = (size_t)whole << 20;
    break;
  default:
    *(int64_t *)field = whole;
    break;
  }
}

static void read_tunables(struct config *c, struct reader *r, const struct toml_node *root) {
  for (int id = 0; id < TUNABLES; id++) {
    const struct tunable_info *info = &tunable_infos[id];
    if (info->scope == TUNABLE_PROVIDER) continue; /* with the providers */
    const struct toml_node *node = walk(root, info->toml);
    int64_t whole;
    if (info->kind == TUNABLE_REAL)
      reader_number(r, node, info->toml, info->min, info->max, &c->file_values[id][0]);
    else if (reader_integer(r, node, info->toml, (int64_t)info->min, (int64_t)info->max, &whole))
      c->file_values[id][0] = (double)whole;
  }
}

void config_add_key(struct config *c, struct reader *r, const struct toml_node *at, const char *where,
                    const char *key) {
  struct server_settings *server = &c->server;
  if (server->key_count == MAX_CLIENT_KEYS) {
    reader_problem(r, at, where, "holds too many keys; allowed: up to %d", MAX_CLIENT_KEYS);
    return;
  }
  client_key_hash(key, strlen(key), &server->keys[server->key_count++]);
  if (!c->auth_given) c->auth = true;
}

static void read_keys(struct config *c, struct reader *r, const struct toml_node *root) {
  const struct toml_node *list = walk(root, "server.keys");
  if (walk(root, "server.auth")) c->auth_given = true;
  if (!reader_list(r, list, "server.keys")) return;
  if (!c->auth_given) c->auth = true; /* whoever lists keys, even none, means to ask for them */
  for (size_t i = 0; i < toml_count(list); i++) {
    char key[1024];
    if (reader_text(r, toml_at(list, i), "server.keys", key, sizeof key))
      config_add_key(c, r, toml_at(list, i), "server.keys", key);
  }
  if (c->auth && toml_count(list) == 0)
    reader_problem(r, list, "server.keys",
                   "is empty; list at least one key, or say auth = false to serve without");
}

static void read_log(struct config *c, struct reader *r, const struct toml_node *root) {
  char text[16];
  const struct toml_node *node = walk(root, "log.level");
  if (reader_text(r, node, "log.level", text, sizeof text) && log_parse_level(text, &c->log_level) != 0)
    reader_problem(r, node, "log.level", "\"%s\" is no level; allowed: error, warn, info, debug", text);
  node = walk(root, "log.format");
  if (!reader_text(r, node, "log.format", text, sizeof text)) return;
  if (strcmp(text, "json") != 0 && strcmp(text, "text") != 0)
    reader_problem(r, node, "log.format", "\"%s\" is no format; allowed: text, json", text);
  c->log_json = strcmp(text, "json") == 0;
}

static size_t known_paths(const char *paths[PATHS_MAX]) {
  size_t n = 0;
  for (size_t i = 0; i < SETTINGS; i++)
    paths[n++] = settings[i].path;
  for (size_t i = 0; i < SPECIALS; i++)
    paths[n++] = special_paths[i];
  for (int id = 0; id < TUNABLES; id++)
    if (tunable_infos[id].scope == TUNABLE_GLOBAL) paths[n++] = tunable_infos[id].toml;
  return n;
}

static void unknown(struct reader *r, const struct toml_node *node, const char *path,
                    const char *const *known, size_t count) {
  const char *near = reader_nearest(path, known, count);
  if (near)
    reader_problem(r, node, path, "is no key; did you mean %s?", near);
  else
    reader_problem(r, node, path, "is no key; docs/configuration.md lists them");
}

/* How many known paths equal the path (returned as -1) or begin with it and a dot. */
static int known_below(const char *path, const char *const *known, size_t count) {
  size_t length = strlen(path);
  int below = 0;
  for (size_t i = 0; i < count; i++) {
    if (strcmp(known[i], path) == 0) return -1;
    if (strncmp(known[i], path, length) == 0 && known[i][length] == '.') below++;
  }
  return below;
}

static void check_keys(struct reader *r, const struct toml_node *table, const char *prefix,
                       const char *const *known, size_t count) {
  for (size_t i = 0; i < toml_count(table); i++) {
    const struct toml_node *node = toml_at(table, i);
    char path[READER_KEY];
    int n = snprintf(path, sizeof path, "%s%s%s", prefix, *prefix ? "." : "", toml_key(table, i));
    int below = n < (int)sizeof path ? known_below(path, known, count) : 0;
    if (below < 0) continue;
    if (below == 0)
      unknown(r, node, path, known, count);
    else if (toml_type(node) != TOML_TABLE)
      reader_problem(r, node, path, "is not a table; write [%s] and its keys below", path);
    else
      check_keys(r, node, path, known, count);
  }
}

static void check_list_keys(struct reader *r, const struct toml_node *list, const char *name,
                            const char *const *known, size_t count) {
  for (size_t i = 0; list && i < toml_count(list); i++) {
    const struct toml_node *table = toml_at(list, i);
    if (toml_type(table) == TOML_TABLE) check_keys(r, table, name, known, count);
  }
}

static void check_all_keys(struct reader *r, const struct toml_node *root) {
  const char *known[PATHS_MAX];
  size_t count = known_paths(known);
  check_keys(r, root, "", known, count);
  check_list_keys(r, toml_get(root, "providers"), "providers", config_provider_keys,
                  config_provider_key_count);
  check_list_keys(r, toml_get(root, "routes"), "routes", config_route_keys, config_route_key_count);
}

static void read_layer(struct config *c, struct reader *r, struct config_routes *routes,
                       const struct toml_node *root) {
  check_all_keys(r, root);
  for (size_t i = 0; i < SETTINGS; i++)
    read_setting(c, r, &settings[i], walk(root, settings[i].path));
  read_tunables(c, r, root);
  read_keys(c, r, root);
  read_log(c, r, root);
  config_read_providers(c, r, root);
  config_read_routes(routes, r, root);
}

static void defaults(struct config *c) {
  server_settings_init(&c->server);
  snprintf(c->store_path, sizeof c->store_path, "var/self-improve.db");
  c->frame_days = 7;
  c->request_days = 30;
  c->dead_letter_rows = 10000;
  c->dead_letter_mib = 256;
  c->objective = (struct objective){.ttft_ms = 2000, .tpot_ms = 50, .usd_weight = 5, .quality_weight = 1};
  c->rate_burst = 20;
  c->control = c->learn = c->evolve = true;
  c->log_level = LOG_INFO;
  c->demo.enabled = true;
  c->demo.speed = 1;
  snprintf(c->demo.scenario, sizeof c->demo.scenario, "data/scenarios/demo.toml");
  snprintf(c->demo.data, sizeof c->demo.data, "data");
  for (int id = 0; id < TUNABLES; id++)
    for (int p = 0; p < MAX_PROVIDERS; p++)
      c->file_values[id][p] = c->environment[id][p] = NAN;
}

/* What only makes sense, or not, once all layers are in. */
static void check_whole(struct config *c, struct reader *r, const struct toml_node *root) {
  char error[512];
  if (c->auth && c->server.key_count == 0 && !walk(root, "server.keys"))
    reader_problem(r, walk(root, "server.auth"), "server.auth",
                   "asks for client keys, but there is none; add keys = [\"...\"] or say auth = false");
  if (!c->auth) c->server.key_count = 0;
  bool keys_told = r->count > 0 && walk(root, "server.keys"); /* they may be what is missing */
  if (!keys_told && server_settings_check(&c->server, error, sizeof error) != 0)
    reader_problem(r, walk(root, "server.host"), "server", "%s", error);
}

void config_notice(struct config *c, const char *format, ...) {
  if (c->notice_count == CONFIG_NOTICES) return;
  va_list args;
  va_start(args, format);
  vsnprintf(c->notices[c->notice_count++], sizeof c->notices[0], format, args);
  va_end(args);
}

struct layer {
  struct toml_doc *doc;
  const char *name;
};

static int parse_layers(const struct config_source *source, struct layer layers[2], char *error,
                        size_t size) {
  int n = 0;
  if (source->path) {
    layers[n] = (struct layer){toml_parse_file(source->path, error, size), source->path};
    if (!layers[n++].doc) return -EINVAL;
  }
  if (source->text) {
    const char *name = source->text_name ? source->text_name : "text";
    layers[n] = (struct layer){toml_parse_text(source->text, name, error, size), name};
    if (!layers[n++].doc) return -EINVAL;
  }
  return n;
}

/* Who asks a daemon need not have its secrets in the environment. */
static void read_places(struct config *c, struct reader *r, const struct toml_node *root) {
  for (size_t i = 0; i < SETTINGS; i++)
    if (settings[i].offset == AT(server.host) || settings[i].offset == AT(server.port) ||
        settings[i].offset == AT(store_path))
      read_setting(c, r, &settings[i], walk(root, settings[i].path));
}

static void read_all(struct config *c, struct reader *r, const struct config_source *source,
                     const struct layer *layers, int count) {
  struct config_routes *routes = calloc(1, sizeof *routes);
  if (!routes) {
    reader_problem_of(r, "memory", "there is not enough");
    return;
  }
  for (int i = 0; i < count; i++) {
    r->file = layers[i].name;
    if (source->places)
      read_places(c, r, toml_root(layers[i].doc));
    else
      read_layer(c, r, routes, toml_root(layers[i].doc));
  }
  if (source->places) {
    free(routes);
    return;
  }
  if (source->environment) config_read_environment(c, r, source->environment);
  config_resolve_routes(c, routes, r);
  if (count > 0) r->file = layers[0].name;
  check_whole(c, r, count > 0 ? toml_root(layers[0].doc) : NULL);
  free(routes);
}

int config_load(const struct config_source *source, struct config **out, char **problems) {
  struct layer layers[2] = {0};
  char error[1024] = "";
  struct config *c = calloc(1, sizeof *c);
  if (!c) return -ENOMEM;
  defaults(c);
  if (source->path) snprintf(c->file, sizeof c->file, "%s", source->path);
  struct reader r;
  reader_init(&r, source->path ? source->path : "configuration");
  int count = parse_layers(source, layers, error, sizeof error);
  if (count < 0)
    reader_problem_of(&r, error,
                      source->path && strstr(error, "cannot be read") ? "name another file with --config"
                                                                      : "correct the line and start again");
  else
    read_all(c, &r, source, layers, count);
  toml_free(layers[0].doc);
  toml_free(layers[1].doc);
  if (r.count == 0) {
    reader_free(&r);
    *out = c;
    return 0;
  }
  *problems = r.text;
  config_free(c);
  return -EINVAL;
}

void config_free(struct config *config) {
  free(config);
}
