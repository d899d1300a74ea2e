/* The router's state as JSON, by names, so that it survives a change of the configuration:
 *   {"version": 1, "rewards": N, "models": {NAME: {...}}, "providers": {NAME: {"hits", "misses"}},
 *    "routes": {NAME: {"n", "in", "out", "usd": {PROVIDER: {"n", "mean"}}}}}
 * Reading trusts nothing: a number that is missing, not finite, negative or too large leaves its whole entry
 * as it was. */

#include "learn/internal.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <math.h>
#include <string.h>

enum { STATE_VERSION = 1 };

/* ---- writing ---- */

static cJSON *save_quality(const struct quality *q) {
  cJSON *o = cJSON_CreateObject();
  cJSON_AddNumberToObject(o, "n", q->slow_n);
  cJSON_AddNumberToObject(o, "mean", q->slow);
  cJSON_AddNumberToObject(o, "variance", q->variance);
  cJSON_AddNumberToObject(o, "third", q->third);
  return o;
}

static cJSON *save_route(const struct router *r, unsigned route) {
  cJSON *o = cJSON_CreateObject();
  cJSON_AddNumberToObject(o, "n", r->lengths[route].n);
  cJSON_AddNumberToObject(o, "in", r->lengths[route].in);
  cJSON_AddNumberToObject(o, "out", r->lengths[route].out);
  cJSON *usd = cJSON_AddObjectToObject(o, "usd");
  for (unsigned p = 0; p < r->provider_count; p++) {
    const struct spending *s = &r->spending[p][route];
    if (s->n <= 0.0) continue;
    cJSON *item = cJSON_AddObjectToObject(usd, r->providers[p].name);
    cJSON_AddNumberToObject(item, "n", s->n);
    cJSON_AddNumberToObject(item, "mean", s->mean);
  }
  return o;
}

char *router_save(const struct router *r) {
  cJSON *root = cJSON_CreateObject();
  cJSON_AddNumberToObject(root, "version", STATE_VERSION);
  cJSON_AddNumberToObject(root, "rewards", r->rewards);
  cJSON *models = cJSON_AddObjectToObject(root, "models");
  for (unsigned m = 0; m < r->model_count; m++)
    if (r->quality[m].slow_n > 0.0) cJSON_AddItemToObject(models, r->models[m], save_quality(&r->quality[m]));
  cJSON *providers = cJSON_AddObjectToObject(root, "providers");
  for (unsigned p = 0; p < r->provider_count; p++) {
    cJSON *o = cJSON_AddObjectToObject(providers, r->providers[p].name);
    cJSON_AddNumberToObject(o, "hits", r->serving[p].hits);
    cJSON_AddNumberToObject(o, "misses", r->serving[p].misses);
  }
  cJSON *routes = cJSON_AddObjectToObject(root, "routes");
  for (unsigned i = 0; i < r->route_count; i++)
    cJSON_AddItemToObject(routes, r->routes[i].name, save_route(r, i));
  char *text = cJSON_PrintUnformatted(root);
  cJSON_Delete(root);
  return text;
}

/* ---- reading ---- */

static bool number(const cJSON *object, const char *key, double most, double *out) {
  const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, key);
  if (!cJSON_IsNumber(item) || !(item->valuedouble >= 0.0 && item->valuedouble <= most)) return false;
  *out = item->valuedouble;
  return true;
}

/* Both means begin at the stored one, with weights that the next rewards soon settle. */
static bool load_quality(struct quality *q, const cJSON *o) {
  double n, mean, variance;
  if (!number(o, "n", 1e6, &n) || !number(o, "mean", 1.0, &mean) || !number(o, "variance", 1.0, &variance) ||
      n == 0.0)
    return false;
  quality_init(q);
  q->slow_n = n;
  q->slow2 = n * 0.5;
  q->fast_n = fmin(n, QUALITY_FAST);
  q->fast2 = q->cross = q->fast_n * 0.5;
  q->slow = q->fast = mean;
  q->variance = variance;
  q->variance_n += n;
  const cJSON *third = cJSON_GetObjectItemCaseSensitive(o, "third");
  if (cJSON_IsNumber(third) && fabs(third->valuedouble) <= 1.0) q->third = third->valuedouble;
  return true;
}

static bool load_serving(struct serving *s, const cJSON *o) {
  struct serving read;
  if (!number(o, "hits", 1e9, &read.hits) || !number(o, "misses", 1e9, &read.misses)) return false;
  *s = read;
  return read.hits + read.misses > 0.0;
}

static bool load_spending(struct router *r, unsigned route, const cJSON *usd) {
  bool any = false;
  for (unsigned p = 0; p < r->provider_count; p++) {
    const cJSON *o = cJSON_GetObjectItemCaseSensitive(usd, r->providers[p].name);
    struct spending read;
    if (!number(o, "n", 1e6, &read.n) || !number(o, "mean", 1e6, &read.mean)) continue;
    r->spending[p][route] = read;
    any = true;
  }
  return any;
}

static bool load_route(struct router *r, unsigned route, const cJSON *o) {
  struct lengths read;
  if (number(o, "n", 1e6, &read.n) && number(o, "in", 1e9, &read.in) && number(o, "out", 1e9, &read.out))
    r->lengths[route] = read;
  return load_spending(r, route, cJSON_GetObjectItemCaseSensitive(o, "usd"));
}

int router_load(struct router *r, const char *json) {
  cJSON *root = cJSON_Parse(json);
  if (!cJSON_IsObject(root)) {
    cJSON_Delete(root);
    return -EINVAL;
  }
  bool any = number(root, "rewards", 1e15, &r->rewards) && r->rewards > 0.0;
  const cJSON *models = cJSON_GetObjectItemCaseSensitive(root, "models");
  for (unsigned m = 0; m < r->model_count; m++)
    any |= load_quality(&r->quality[m], cJSON_GetObjectItemCaseSensitive(models, r->models[m]));
  const cJSON *providers = cJSON_GetObjectItemCaseSensitive(root, "providers");
  for (unsigned p = 0; p < r->provider_count; p++)
    any |= load_serving(&r->serving[p], cJSON_GetObjectItemCaseSensitive(providers, r->providers[p].name));
  const cJSON *routes = cJSON_GetObjectItemCaseSensitive(root, "routes");
  for (unsigned i = 0; i < r->route_count; i++)
    any |= load_route(r, i, cJSON_GetObjectItemCaseSensitive(routes, r->routes[i].name));
  cJSON_Delete(root);
  r->changed |= any;
  r->learned |= any;
  return 0;
}

/* ---- for people ---- */

static cJSON *describe_candidate(const struct router *r, unsigned route, unsigned i,
                                 const struct router_settings *s) {
  struct router_estimate e;
  const struct router_provider *p = &r->providers[r->routes[route].candidates[i]];
  router_estimate(r, route, i, s, &e);
  cJSON *o = cJSON_CreateObject();
  cJSON_AddStringToObject(o, "provider", p->name);
  cJSON_AddStringToObject(o, "model", p->model);
  cJSON_AddNumberToObject(o, "share", e.share);
  cJSON_AddNumberToObject(o, "utility", e.utility);
  cJSON_AddNumberToObject(o, "score", e.score);
  cJSON_AddNumberToObject(o, "quality", e.quality);
  cJSON_AddNumberToObject(o, "quality_rewards", e.quality_rewards);
  cJSON_AddNumberToObject(o, "in_target", e.in_target);
  cJSON_AddNumberToObject(o, "in_target_answers", e.in_target_n);
  cJSON_AddNumberToObject(o, "usd_per_request", e.usd);
  cJSON_AddNumberToObject(o, "usd_answers", e.usd_n);
  return o;
}

char *router_describe(const struct router *r, const struct router_settings *settings) {
  cJSON *array = cJSON_CreateArray();
  for (unsigned route = 0; route < r->route_count; route++) {
    cJSON *o = cJSON_CreateObject();
    cJSON_AddStringToObject(o, "name", r->routes[route].name);
    cJSON *candidates = cJSON_AddArrayToObject(o, "candidates");
    for (unsigned i = 0; i < r->routes[route].candidate_count; i++)
      cJSON_AddItemToArray(candidates, describe_candidate(r, route, i, settings));
    cJSON_AddItemToArray(array, o);
  }
  char *text = cJSON_PrintUnformatted(array);
  cJSON_Delete(array);
  return text;
}
