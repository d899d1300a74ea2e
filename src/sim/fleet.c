/* One plant, one front. A path is looked up by its first part: a provider's name, "faults" or "_plant"; what
 * follows is the provider's own API. */

#include "sim/fleet.h"

#include "server/front.h"
#include "sim/dataset.h"
#include "sim/faults.h"
#include "sim/plant.h"
#include "sim/scenario.h"
#include "sim/service.h"
#include "sys/clock.h"
#include "sys/timer.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BODY_LIMIT = 16 << 20, CONNECTIONS = 8192, TEXT = 512 };

struct fleet {
  struct evloop *loop;
  struct scenario *scenario;
  struct dataset *data;
  struct plant *plant;
  struct service *service;
  struct faults *faults;
  struct front *front;
  bool served[MAX_PROVIDERS];
  int only; /* the one provider that is served, or -1 */
  int64_t ready_ns;
  double speed;
};

static void say(struct exchange *exchange, int status, const char *text) {
  exchange_reply(exchange, status, "application/json", text, strlen(text), NULL, 0);
}

static void say_error(struct exchange *exchange, int status, const char *message) {
  char text[TEXT];
  snprintf(text, sizeof text, "{\"error\":{\"message\":\"%s\",\"type\":\"invalid_request_error\"}}", message);
  say(exchange, status, text);
}

static void say_json(struct exchange *exchange, cJSON *root) {
  char *text = cJSON_PrintUnformatted(root);
  cJSON_Delete(root);
  if (text)
    exchange_reply_owned(exchange, 200, "application/json", text, strlen(text), NULL, 0);
  else
    exchange_abort(exchange);
}

static void add_model(cJSON *list, const char *name) {
  cJSON *model = cJSON_CreateObject();
  cJSON_AddStringToObject(model, "id", name);
  cJSON_AddStringToObject(model, "object", "model");
  cJSON_AddStringToObject(model, "owned_by", "simulation");
  cJSON_AddItemToArray(list, model);
}

/* provider -1: the faults. */
static void list_models(const struct fleet *fleet, struct exchange *exchange, int provider) {
  cJSON *root = cJSON_CreateObject();
  cJSON_AddStringToObject(root, "object", "list");
  cJSON *list = cJSON_AddArrayToObject(root, "data");
  const char *name;
  if (provider >= 0)
    add_model(list, fleet->scenario->providers[provider].model);
  else
    for (unsigned i = 0; faults_count(fleet->faults, i, &name), name; i++)
      add_model(list, name);
  say_json(exchange, root);
}

static void list_calls(const struct fleet *fleet, struct exchange *exchange) {
  cJSON *root = cJSON_CreateObject();
  for (unsigned i = 0; i < fleet->scenario->provider_count; i++)
    if (fleet->served[i])
      cJSON_AddNumberToObject(root, fleet->scenario->providers[i].name,
                              (double)service_count(fleet->service, i));
  const char *name;
  for (unsigned i = 0;; i++) {
    uint64_t count = faults_count(fleet->faults, i, &name);
    if (!name) break;
    cJSON_AddNumberToObject(root, name, (double)count);
  }
  say_json(exchange, root);
}

static void read_double(const cJSON *root, const char *key, double *out) {
  const cJSON *item = cJSON_GetObjectItemCaseSensitive(root, key);
  if (cJSON_IsNumber(item)) *out = item->valuedouble;
}

/* An index by name, or ANY_INDEX when the key is absent. False: there is no such name. */
static bool read_index(const struct fleet *fleet, const cJSON *root, const char *key,
                       int (*find)(const struct scenario *, const char *), int *out) {
  const cJSON *item = cJSON_GetObjectItemCaseSensitive(root, key);
  if (!item) return true;
  int index = cJSON_IsString(item) ? find(fleet->scenario, item->valuestring) : -ENOENT;
  if (index >= 0) *out = index;
  return index >= 0;
}

static const char *read_event(const struct fleet *fleet, const cJSON *root, struct scenario_event *event) {
  const cJSON *what = cJSON_GetObjectItemCaseSensitive(root, "what");
  double for_min = NAN, over_min = 0, class_index = ANY_INDEX;
  if (!cJSON_IsString(what) || scenario_event_init(event, what->valuestring) < 0)
    return "what must name an event: brownout, outage, capacity, price, rate_limit, latency_ramp, "
           "quality_ramp";
  if (!read_index(fleet, root, "provider", scenario_find_provider, &event->provider))
    return "no such provider";
  if (!read_index(fleet, root, "model", scenario_find_model, &event->model)) return "no such model";
  read_double(root, "class", &class_index);
  read_double(root, "factor", &event->factor);
  read_double(root, "delta", &event->delta);
  read_double(root, "ttft_factor", &event->ttft_factor);
  read_double(root, "tpot_factor", &event->tpot_factor);
  read_double(root, "error_share", &event->error_share);
  read_double(root, "cut_share", &event->cut_share);
  read_double(root, "for_min", &for_min);
  read_double(root, "over_min", &over_min);
  if (for_min <= 0 || over_min < 0 || for_min > 1e6 || over_min > 1e6)
    return "for_min must be above 0 and over_min at least 0, at most 1000000";
  event->class_index = (int)class_index;
  event->at_ns = 0;
  event->until_ns = isnan(for_min) ? NS_NEVER : (int64_t)(for_min * 60e9);
  event->over_ns = (int64_t)(over_min * 60e9);
  return NULL;
}

static void start_event(struct fleet *fleet, struct exchange *exchange, int64_t now_ns) {
  size_t size;
  const char *body = exchange_body(exchange, &size);
  cJSON *root = body ? cJSON_ParseWithLength(body, size) : NULL;
  struct scenario_event event;
  const char *wrong = read_event(fleet, root, &event);
  cJSON_Delete(root);
  if (wrong) {
    say_error(exchange, 400, wrong);
    return;
  }
  plant_event(fleet->plant, &event, now_ns);
  say(exchange, 200, "{\"started\":true}");
}

static void admin(struct fleet *fleet, struct exchange *exchange, const char *path, int64_t now_ns) {
  bool post = strcmp(exchange_method(exchange), "POST") == 0;
  if (post && strcmp(path, "/event") == 0) {
    start_event(fleet, exchange, now_ns);
  } else if (post && strcmp(path, "/reset") == 0) {
    faults_reset(fleet->faults);
    say(exchange, 200, "{\"reset\":true}");
  } else if (!post && strcmp(path, "/calls") == 0) {
    list_calls(fleet, exchange);
  } else {
    say_error(exchange, 404, "there are POST /_plant/event, POST /_plant/reset and GET /_plant/calls");
  }
}

/* path: what follows the provider's name. provider -1: the faults. */
static void serve(struct fleet *fleet, struct exchange *exchange, int provider, const char *path,
                  int64_t now_ns) {
  bool post = strcmp(exchange_method(exchange), "POST") == 0;
  if (now_ns < fleet->ready_ns) {
    static const struct front_header later = {"Retry-After", "1"};
    static const char body[] =
        "{\"error\":{\"message\":\"the model is being loaded\",\"type\":\"server_error\"}}";
    exchange_reply(exchange, 503, "application/json", body, sizeof body - 1, &later, 1);
  } else if (strcmp(path, "/health") == 0) {
    say(exchange, 200, "{\"status\":\"ok\"}");
  } else if (strcmp(path, "/v1/models") == 0 && !post) {
    list_models(fleet, exchange, provider);
  } else if (strcmp(path, "/v1/chat/completions") == 0 && post) {
    if (provider >= 0)
      service_chat(fleet->service, exchange, (unsigned)provider, now_ns);
    else
      faults_chat(fleet->faults, exchange, now_ns);
  } else {
    say_error(exchange, 404,
              "there are POST /NAME/v1/chat/completions, GET /NAME/v1/models and GET /NAME/health");
  }
}

static void handle(void *ctx, struct exchange *exchange, int64_t now_ns) {
  struct fleet *fleet = ctx;
  const char *path = exchange_path(exchange), *rest = *path ? strchr(path + 1, '/') : NULL;
  char name[NAME_SIZE];
  if (rest) {
    snprintf(name, sizeof name, "%.*s", (int)(rest - path - 1), path + 1);
    int provider = scenario_find_provider(fleet->scenario, name);
    if (strcmp(name, "_plant") == 0) {
      admin(fleet, exchange, rest, now_ns);
      return;
    }
    if (strcmp(name, "faults") == 0 || (provider >= 0 && fleet->served[provider])) {
      serve(fleet, exchange, provider, rest, now_ns);
      return;
    }
  }
  if (fleet->only >= 0 || strcmp(path, "/health") == 0)
    serve(fleet, exchange, fleet->only, path, now_ns);
  else
    say_error(exchange, 404, "no such provider here");
}

/* Which providers are served. Returns 0, or -ENOENT with an error that lists the names. */
static int choose(struct fleet *fleet, const struct fleet_settings *settings, char *error,
                  size_t error_size) {
  const struct scenario *s = fleet->scenario;
  unsigned count = settings->provider_count ? settings->provider_count : s->provider_count;
  for (unsigned i = 0; i < count; i++) {
    int index = settings->provider_count ? scenario_find_provider(s, settings->providers[i]) : (int)i;
    if (index < 0) {
      int used =
          snprintf(error, error_size, "the scenario has no provider \"%s\"; it has", settings->providers[i]);
      for (unsigned j = 0; j < s->provider_count && used > 0 && (size_t)used < error_size; j++)
        used += snprintf(error + used, error_size - (size_t)used, " %s", s->providers[j].name);
      return -ENOENT;
    }
    fleet->served[index] = true;
    fleet->only = count == 1 ? index : -1;
  }
  return 0;
}

static void start_instances(struct fleet *fleet, const struct fleet_settings *settings, int64_t now_ns) {
  double start_s = 0;
  for (unsigned i = 0; i < fleet->scenario->provider_count; i++) {
    const struct scenario_provider *provider = &fleet->scenario->providers[i];
    if (!fleet->served[i] || provider->kind != PROVIDER_SERVER) continue;
    if (settings->instances) plant_set_instances(fleet->plant, i, settings->instances, now_ns);
    start_s = fmax(start_s, provider->start_s);
  }
  if (settings->cold_start) fleet->ready_ns = now_ns + (int64_t)(start_s * 1e9);
}

static int create_plant(struct fleet *fleet, const struct fleet_settings *settings, char *error,
                        size_t error_size) {
  int64_t now_ns = clock_now_ns(), age_ms = settings->epoch_ms ? clock_wall_ms() - settings->epoch_ms : 0;
  const struct plant_options options = {
      .scenario = fleet->scenario,
      .data = fleet->data,
      .timers = evloop_timers(fleet->loop),
      .seed = settings->seed,
      .start_ns = now_ns - age_ms * NS_PER_MS,
      .speed = settings->speed > 0 ? settings->speed : 1,
  };
  fleet->plant = plant_create(&options);
  fleet->faults = faults_create(fleet->loop);
  if (fleet->plant) fleet->service = service_create(fleet->loop, fleet->plant, fleet->scenario, fleet->data);
  if (!fleet->service || !fleet->faults) {
    snprintf(error, error_size, "out of memory");
    return -ENOMEM;
  }
  start_instances(fleet, settings, now_ns);
  return 0;
}

static int open_front(struct fleet *fleet, const struct fleet_settings *settings, char *error,
                      size_t error_size) {
  const struct front_settings front = {
      .host = settings->host ? settings->host : "127.0.0.1",
      .port = settings->port,
      .body_limit = BODY_LIMIT,
      .max_connections = front_raise_descriptors(CONNECTIONS),
      .header_timeout_ns = 10 * NS_PER_S,
      .body_timeout_ns = 60 * NS_PER_S,
      .idle_timeout_ns = 300 * NS_PER_S,
      .write_timeout_ns = 60 * NS_PER_S,
  };
  fleet->front = front_create(fleet->loop, &front, handle, fleet, error, error_size);
  return fleet->front ? 0 : -EADDRINUSE;
}

struct fleet *fleet_create(struct evloop *loop, const struct fleet_settings *settings, char *error,
                           size_t error_size) {
  struct fleet *fleet = calloc(1, sizeof *fleet);
  if (!fleet) {
    snprintf(error, error_size, "out of memory");
    return NULL;
  }
  fleet->loop = loop;
  fleet->only = -1;
  fleet->scenario = scenario_load(settings->scenario, settings->seed, error, error_size);
  if (fleet->scenario)
    fleet->data =
        dataset_load(fleet->scenario, settings->data ? settings->data : "data", 0, error, error_size);
  if (!fleet->data || choose(fleet, settings, error, error_size) < 0 ||
      create_plant(fleet, settings, error, error_size) < 0 ||
      open_front(fleet, settings, error, error_size) < 0) {
    fleet_destroy(fleet);
    return NULL;
  }
  return fleet;
}

void fleet_destroy(struct fleet *fleet) {
  if (!fleet) return;
  service_destroy(fleet->service);
  faults_destroy(fleet->faults);
  if (fleet->front) front_destroy(fleet->front);
  plant_destroy(fleet->plant);
  dataset_destroy(fleet->data);
  scenario_destroy(fleet->scenario);
  free(fleet);
}

uint16_t fleet_port(const struct fleet *fleet) {
  return front_port(fleet->front);
}
