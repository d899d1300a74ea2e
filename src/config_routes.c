/* Routes: read name by name, resolved to provider indexes once all providers are known. */

#include "config_internal.h"

#include "sys/toml.h"

#include <stdio.h>
#include <string.h>

static unsigned read_names(struct reader *r, const struct toml_node *list, const char *key,
                           char names[MAX_CANDIDATES][NAME_SIZE]) {
  unsigned n = 0;
  if (!reader_list(r, list, key)) return 0;
  for (size_t i = 0; i < toml_count(list); i++) {
    if (n == MAX_CANDIDATES) {
      reader_problem(r, list, key, "holds too many; allowed: up to %d", MAX_CANDIDATES);
      return n;
    }
    if (reader_name(r, toml_at(list, i), key, names[n], NAME_SIZE)) n++;
  }
  return n;
}

static void read_route(struct config_routes *routes, struct reader *r, const struct toml_node *table) {
  if (toml_type(table) != TOML_TABLE) {
    reader_problem(r, table, "routes", "is not a list of tables; write [[routes]] and its keys below");
    return;
  }
  if (routes->count == MAX_ROUTES) {
    reader_problem(r, table, "routes", "there are too many; allowed: up to %d", MAX_ROUTES);
    return;
  }
  struct config_route route = {.coalesce = true, .at = table, .file = r->file};
  const struct toml_node *name = toml_get(table, "name");
  if (!name) reader_problem(r, table, "routes.name", "is missing; it is what a request's model may say");
  bool named = reader_name(r, name, "routes.name", route.name, sizeof route.name);
  for (unsigned i = 0; named && i < routes->count; i++)
    if (strcmp(routes->route[i].name, route.name) == 0) {
      reader_problem(r, name, "routes.name", "%s is there already; give each route a name of its own",
                     route.name);
      return;
    }
  route.candidate_count = read_names(r, toml_get(table, "candidates"), "routes.candidates", route.candidates);
  route.fallback_count = read_names(r, toml_get(table, "fallbacks"), "routes.fallbacks", route.fallbacks);
  reader_bool(r, toml_get(table, "sticky"), "routes.sticky", &route.sticky);
  reader_bool(r, toml_get(table, "coalesce"), "routes.coalesce", &route.coalesce);
  if (named) routes->route[routes->count++] = route;
}

void config_read_routes(struct config_routes *routes, struct reader *r, const struct toml_node *root) {
  const struct toml_node *list = toml_get(root, "routes");
  if (!reader_list(r, list, "routes")) return;
  for (size_t i = 0; i < toml_count(list); i++)
    read_route(routes, r, toml_at(list, i));
}

static bool add_candidate(struct route_spec *spec, unsigned provider) {
  for (unsigned i = 0; i < spec->candidate_count; i++)
    if (spec->candidates[i] == provider) return true;
  if (spec->candidate_count == MAX_CANDIDATES) return false;
  spec->candidates[spec->candidate_count++] = (uint8_t)provider;
  return true;
}

/* All providers that the name means: one deployment, else those of a table, else those of a model. */
static unsigned add_named(const struct config *c, struct route_spec *spec, const char *name, bool *room) {
  unsigned found = 0;
  for (int by = 0; by < 3 && found == 0; by++)
    for (unsigned i = 0; i < c->provider_count; i++) {
      const char *field = by == 0 ? c->specs[i].name : by == 1 ? c->groups[i] : c->specs[i].model;
      if (strcmp(field, name) != 0) continue;
      found++;
      if (!add_candidate(spec, i)) *room = false;
    }
  return found;
}

static void tell_unknown(const struct config *c, struct reader *r, const struct config_route *route,
                         const char *key, const char *name) {
  const char *names[2 * MAX_PROVIDERS];
  size_t n = 0;
  for (unsigned i = 0; i < c->provider_count; i++) {
    names[n++] = c->specs[i].name;
    names[n++] = c->specs[i].model;
  }
  const char *near = reader_nearest(name, names, n);
  if (near)
    reader_problem(r, route->at, key, "no provider or model is called %s; did you mean %s?", name, near);
  else
    reader_problem(r, route->at, key, "no provider or model is called %s; name one of [[providers]]", name);
}

static void resolve_names(const struct config *c, struct reader *r, const struct config_route *route,
                          const char *key, const char names[MAX_CANDIDATES][NAME_SIZE], unsigned count,
                          struct route_spec *spec) {
  bool room = true;
  for (unsigned i = 0; i < count; i++)
    if (add_named(c, spec, names[i], &room) == 0) tell_unknown(c, r, route, key, names[i]);
  if (!room)
    reader_problem(r, route->at, key, "means too many providers; allowed: up to %d, fallbacks included",
                   MAX_CANDIDATES);
}

static void resolve(struct config *c, struct reader *r, const struct config_route *route) {
  struct route_spec *spec = &c->routes[c->route_count++];
  bool room = true;
  *spec = (struct route_spec){.sticky = route->sticky, .coalesce = route->coalesce};
  snprintf(spec->name, sizeof spec->name, "%s", route->name);
  r->file = route->file;
  if (route->candidate_count > 0)
    resolve_names(c, r, route, "routes.candidates", route->candidates, route->candidate_count, spec);
  else if (add_named(c, spec, route->name, &room) == 0)
    reader_problem(r, route->at, "routes.candidates",
                   "is missing, and %s is no model of a provider either; list the providers to choose from",
                   route->name);
  spec->primary_count = spec->candidate_count;
  resolve_names(c, r, route, "routes.fallbacks", route->fallbacks, route->fallback_count, spec);
}

static struct route_spec *find_route(struct config *c, const char *name) {
  for (unsigned i = 0; i < c->route_count; i++)
    if (strcmp(c->routes[i].name, name) == 0) return &c->routes[i];
  return NULL;
}

static struct route_spec *add_implicit(struct config *c, struct reader *r, const char *name) {
  if (c->route_count == MAX_ROUTES) {
    reader_problem(r, NULL, "routes", "there are too many, with one for each model; allowed: up to %d",
                   MAX_ROUTES);
    return NULL;
  }
  struct route_spec *spec = &c->routes[c->route_count++];
  *spec = (struct route_spec){.coalesce = true};
  snprintf(spec->name, sizeof spec->name, "%s", name);
  return spec;
}

/* PROVIDER is stronger than the file: the providers it means lead, all that the route had are fallbacks. */
static void prefer(const struct config *c, struct route_spec *spec, bool *room) {
  struct route_spec had = *spec;
  spec->candidate_count = 0;
  add_named(c, spec, c->prefer, room);
  spec->primary_count = spec->candidate_count;
  for (unsigned i = 0; i < had.candidate_count; i++)
    if (!add_candidate(spec, had.candidates[i])) *room = false;
}

static void add_auto(struct config *c, struct reader *r) {
  if (c->provider_count == 0) return;
  bool room = true;
  struct route_spec *spec = find_route(c, "auto");
  if (!spec && (spec = add_implicit(c, r, "auto"))) {
    for (unsigned i = 0; i < c->provider_count; i++)
      if (!add_candidate(spec, i)) room = false;
    spec->primary_count = spec->candidate_count;
  }
  if (spec && *c->prefer) prefer(c, spec, &room);
  if (!room)
    config_notice(
        c,
        "route auto chooses among the first %d providers; write a [[routes]] of that name to choose others",
        MAX_CANDIDATES);
}

void config_resolve_routes(struct config *c, const struct config_routes *routes, struct reader *r) {
  for (unsigned i = 0; i < routes->count; i++)
    resolve(c, r, &routes->route[i]);
  add_auto(c, r);
  for (unsigned i = 0; i < c->provider_count; i++) {
    const char *model = c->specs[i].model;
    if (find_route(c, model)) continue;
    struct route_spec *spec = add_implicit(c, r, model);
    bool room = true;
    if (!spec) return;
    for (unsigned k = 0; k < c->provider_count; k++)
      if (strcmp(c->specs[k].model, model) == 0 && !add_candidate(spec, k)) room = false;
    spec->primary_count = spec->candidate_count;
    if (!room)
      config_notice(c, "route %s chooses among the first %d providers of that model", model, MAX_CANDIDATES);
  }
}
