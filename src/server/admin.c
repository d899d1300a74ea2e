/* /api/v1: a table of methods and paths. What is live, and every change, goes to the ticker; history is read
 * by the clerk; some requests need both, one after the other. */

#include "server/call.h"
#include "server/fields.h"

#include "evolve/snapshot.h"
#include "sys/clock.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct admin_route {
  const char *method, *path; /* a star stands for one segment */
  void (*start)(struct call *call);
  bool body; /* the request's body is a JSON object, empty for {} */
  enum store_query query;
  const char *list;
};

/* ---- answers made of two parts ---- */

static char *wrap(const char *name, const char *json) {
  char *text;
  return asprintf(&text, "{\"%s\":%s}", name, json) < 0 ? NULL : text;
}

static void answer_list(struct call *call) {
  if (call_has_rows(call)) call_answer(call, 200, wrap(call->list, call->rows));
}

static void answer_row(struct call *call) {
  if (!call_has_rows(call)) return;
  char *json = call->rows;
  call->rows = NULL;
  call_answer(call, 200, json);
}

static void answer_tunable(struct call *call) {
  if (!call_has_rows(call)) return;
  char *text;
  if (asprintf(&text, "{\"tunable\":%s,\"history\":%s}", call->command.body, call->rows) < 0) text = NULL;
  call_answer(call, 200, text);
}

/* The stored rows; those that run get the statistics of this moment. */
static void answer_experiments(struct call *call) {
  if (!call_has_rows(call)) return;
  cJSON *rows = cJSON_Parse(call->rows), *live = cJSON_Parse(call->command.body ? call->command.body : "{}");
  cJSON *running = cJSON_GetObjectItem(live, "experiments"), *now, *row, *field;
  cJSON_ArrayForEach(now, running) {
    double id = cJSON_GetNumberValue(cJSON_GetObjectItem(now, "id"));
    cJSON *single = cJSON_IsObject(rows) ? rows : NULL;
    for (row = single ? single : rows ? rows->child : NULL; row; row = single ? NULL : row->next) {
      if (cJSON_GetNumberValue(cJSON_GetObjectItem(row, "id")) != id) continue;
      cJSON_ArrayForEach(field, now) {
        cJSON_DeleteItemFromObjectCaseSensitive(row, field->string);
        cJSON_AddItemToObject(row, field->string, cJSON_Duplicate(field, true));
      }
    }
  }
  char *text = cJSON_PrintUnformatted(rows);
  cJSON_Delete(rows);
  cJSON_Delete(live);
  char *json = text && call->list ? wrap(call->list, text) : text;
  if (json != text) free(text);
  call_answer(call, 200, json);
}

/* ---- reading ---- */

static void start_status(struct call *call) {
  call_ticker(call, COMMAND_STATUS, call_answer_command);
}

static void start_routes(struct call *call) {
  call_ticker(call, COMMAND_ROUTES, call_answer_command);
}

static void start_tunables(struct call *call) {
  call_ticker(call, COMMAND_TUNABLES, call_answer_command);
}

static void start_list(struct call *call) {
  call_clerk(call, call_read, answer_list);
}

static void start_row(struct call *call) {
  call->text = call->arguments[0];
  call_clerk(call, call_read, answer_row);
}

static void tunable_known(struct call *call) {
  call->text = call->arguments[0];
  if (call->command.status != 200)
    call_answer_command(call);
  else
    call_clerk(call, call_read, answer_tunable);
}

static void start_tunable(struct call *call) {
  call->command.name = call->arguments[0];
  call_ticker(call, COMMAND_TUNABLE, tunable_known);
}

static void experiments_known(struct call *call) {
  if (!call->list) call->text = call->arguments[0];
  call_clerk(call, call_read, answer_experiments);
}

static void start_experiments(struct call *call) {
  call_ticker(call, COMMAND_EXPERIMENTS, experiments_known);
}

static void read_two_snapshots(struct clerk_job *job, struct store_reader *reader) {
  struct call *call = (struct call *)((char *)job - offsetof(struct call, job));
  call->more_rows = store_query(reader, QUERY_SNAPSHOT, call->arguments[1], 1, &call->status);
  if (call->more_rows) call->rows = store_query(reader, QUERY_SNAPSHOT, call->arguments[0], 1, &call->status);
}

static void answer_diff(struct call *call) {
  if (!call_has_rows(call)) return;
  cJSON *a = cJSON_Parse(call->rows), *b = cJSON_Parse(call->more_rows);
  const char *from = cJSON_GetStringValue(cJSON_GetObjectItem(a, "config"));
  const char *to = cJSON_GetStringValue(cJSON_GetObjectItem(b, "config"));
  char *changes = from && to ? snapshot_diff(from, to) : NULL, *json = NULL;
  if (changes) json = wrap("changes", changes);
  free(changes);
  cJSON_Delete(a);
  cJSON_Delete(b);
  call_answer(call, 200, json);
}

static void start_diff(struct call *call) {
  call_clerk(call, read_two_snapshots, answer_diff);
}

/* ---- changing ---- */

static void change(struct call *call, enum command_kind kind, const char *wrong) {
  if (wrong)
    call_refuse(call, 400, "invalid_value", wrong);
  else
    call_ticker(call, kind, call_answer_command);
}

static void start_set_one(struct call *call) {
  change(call, COMMAND_SET, fields_change(call->body, call->arguments[0], clock_wall_ms(), &call->command));
}

static void start_set(struct call *call) {
  change(call, COMMAND_SET, fields_changes(call->body, clock_wall_ms(), &call->command));
}

static void start_release(struct call *call) {
  call->command.name = call->arguments[0];
  change(call, COMMAND_RELEASE, NULL);
}

static void start_create(struct call *call) {
  change(call, COMMAND_EXPERIMENT_CREATE, fields_experiment(call->body, &call->command));
}

static void start_stop(struct call *call) {
  call->command.name = call->arguments[0];
  change(call, COMMAND_EXPERIMENT_STOP, fields_reason(call->body, &call->command));
}

/* The snapshot's configuration comes from the database, its application is the loop's. */
static void snapshot_known(struct call *call) {
  if (!call_has_rows(call)) return;
  cJSON *row = cJSON_Parse(call->rows);
  if (row) cJSON_AddItemToObject(call->body, " snapshot", row); /* lives as long as the command */
  call->command.name = cJSON_GetStringValue(cJSON_GetObjectItem(row, "id"));
  call->command.text = cJSON_GetStringValue(cJSON_GetObjectItem(row, "config"));
  if (call->command.text)
    call_ticker(call, COMMAND_ROLLBACK, call_answer_command);
  else
    call_refuse(call, 503, "out_of_memory", "The daemon is short of memory. Try again later.");
}

static void start_rollback(struct call *call) {
  const char *wrong = fields_reason(call->body, &call->command);
  call->query = QUERY_SNAPSHOT;
  call->text = call->arguments[0];
  if (wrong)
    call_refuse(call, 400, "invalid_value", wrong);
  else
    call_clerk(call, call_read, snapshot_known);
}

static void find_request(struct clerk_job *job, struct store_reader *reader) {
  struct call *call = (struct call *)((char *)job - offsetof(struct call, job));
  unsigned provider;
  call->status = store_find_answer(reader, call->command.request, &provider, &call->command.rewarded);
  if (call->status == 0 && provider != NO_PROVIDER) call->command.provider = (int)provider;
}

static void request_found(struct call *call) {
  if (call->command.provider < 0)
    call_answer_command(call); /* the loop's own words: unknown */
  else
    call_ticker(call, COMMAND_REWARD, call_answer_command);
}

/* The loop remembers the last answers; older ones are in the database. */
static void reward_tried(struct call *call) {
  if (call->command.status == 404 && call->server->env.clerk)
    call_clerk(call, find_request, request_found);
  else
    call_answer_command(call);
}

static void start_feedback(struct call *call) {
  const char *wrong = fields_feedback(call->body, &call->command);
  if (wrong)
    call_refuse(call, 400, "invalid_value", wrong);
  else if (call->command.request == 0)
    call_refuse(call, 404, "not_found",
                "No answered request has this id. Send the X-Request-Id of an answer.");
  else
    call_ticker(call, COMMAND_REWARD, reward_tried);
}

/* ---- which is which ---- */

static const struct admin_route routes[] = {
    {"GET", "status", start_status, false, 0, NULL},
    {"GET", "tunables", start_tunables, false, 0, NULL},
    {"PUT", "tunables", start_set, true, 0, NULL},
    {"GET", "tunables/+", start_tunable, false, QUERY_TUNABLE_HISTORY, NULL},
    {"PUT", "tunables/+", start_set_one, true, 0, NULL},
    {"DELETE", "tunables/+/hold", start_release, false, 0, NULL},
    {"GET", "snapshots", start_list, false, QUERY_SNAPSHOTS, "snapshots"},
    {"GET", "snapshots/*", start_row, false, QUERY_SNAPSHOT, NULL},
    {"GET", "snapshots/*/diff/*", start_diff, false, 0, NULL},
    {"POST", "snapshots/*/rollback", start_rollback, true, 0, NULL},
    {"GET", "experiments", start_experiments, false, QUERY_EXPERIMENTS, "experiments"},
    {"POST", "experiments", start_create, true, 0, NULL},
    {"GET", "experiments/+", start_experiments, false, QUERY_EXPERIMENT, NULL},
    {"POST", "experiments/+/stop", start_stop, true, 0, NULL},
    {"GET", "routes", start_routes, false, 0, NULL},
    {"GET", "anomalies", start_list, false, QUERY_ANOMALIES, "anomalies"},
    {"GET", "ledger", start_list, false, QUERY_LEDGER, "ledger"},
    {"POST", "feedback", start_feedback, true, 0, NULL},
    {"GET", "dlq", start_list, false, QUERY_DEAD_LETTERS, "dead_letters"},
    {"GET", "dlq/*", start_row, false, QUERY_DEAD_LETTER, NULL},
};

enum { ROUTES = sizeof routes / sizeof *routes };

/* '*' stands for one part of a path, '+' for a name. */
static bool match_parts(const char *pattern, const char *path, char arguments[2][CALL_ARGUMENT]) {
  unsigned n = 0;
  while (*pattern || *path) {
    size_t want = strcspn(pattern, "/"), have = strcspn(path, "/");
    if (want == 1 && strchr("*+", *pattern)) {
      if (have == 0 || have >= CALL_ARGUMENT) return false;
      memcpy(arguments[n], path, have);
      arguments[n++][have] = '\0';
    } else if (want != have || memcmp(pattern, path, want) != 0) {
      return false;
    }
    pattern += want;
    path += have;
    if ((*pattern == '/') != (*path == '/')) return false;
    pattern += *pattern == '/';
    path += *path == '/';
  }
  return true;
}

/* Names hold slashes where a provider has several models: concurrency_limit.openai/gpt-4o. */
static bool match_name(const char *pattern, const char *path, char arguments[2][CALL_ARGUMENT]) {
  const char *name = strchr(pattern, '+');
  if (!name) return false;
  size_t before = (size_t)(name - pattern), after = strlen(name + 1), all = strlen(path);
  if (all <= before + after || all - before - after >= CALL_ARGUMENT) return false;
  if (memcmp(path, pattern, before) != 0 || strcmp(path + all - after, name + 1) != 0) return false;
  snprintf(arguments[0], CALL_ARGUMENT, "%.*s", (int)(all - before - after), path + before);
  return true;
}

/* The methods that the path takes, or the route of this one. A path that fits part by part is never taken for
 * a name. */
static const struct admin_route *find(const char *method, const char *path, char arguments[2][CALL_ARGUMENT],
                                      char *allowed, size_t size) {
  bool (*const matches[])(const char *, const char *, char[2][CALL_ARGUMENT]) = {match_parts, match_name};
  for (size_t m = 0; m < sizeof matches / sizeof *matches && !*allowed; m++)
    for (int i = 0; i < ROUTES; i++) {
      if (!matches[m](routes[i].path, path, arguments)) continue;
      if (!strcmp(routes[i].method, method)) return &routes[i];
      size_t at = strlen(allowed);
      snprintf(allowed + at, size - at, "%s%s", at ? ", " : "", routes[i].method);
    }
  return NULL;
}

static void refuse_path(struct server *server, struct exchange *exchange, const char *allowed) {
  if (*allowed)
    reply_method(server, exchange, allowed);
  else
    reply_simple(
        server, exchange, 404, "invalid_request_error", "not_found",
        "There is nothing at this path. Under /api/v1/ are status, tunables, snapshots, experiments, routes, "
        "anomalies, ledger, feedback and dlq.");
}

static bool read_limit(struct exchange *exchange, int64_t *limit) {
  const char *text = exchange_query(exchange, "limit");
  *limit = 0;
  if (!text) return true;
  for (; *text >= '0' && *text <= '9' && *limit <= STORE_LIMIT_MAX; text++)
    *limit = *limit * 10 + (*text - '0');
  return !*text && *limit >= 1 && *limit <= STORE_LIMIT_MAX;
}

/* A web page that somebody looks at must not change the daemon behind his back. */
static bool foreign(struct exchange *exchange) {
  const char *origin = exchange_header(exchange, "Origin"), *host = exchange_header(exchange, "Host");
  if (!origin) return false;
  const char *at = strstr(origin, "://");
  return !at || !host || strcmp(at + 3, host) != 0;
}

static cJSON *read_body(struct exchange *exchange) {
  size_t size;
  const char *body = exchange_body(exchange, &size);
  if (size == 0) return cJSON_CreateObject();
  const char *end = NULL;
  cJSON *json = cJSON_ParseWithLengthOpts(body, size, &end, false);
  while (json && end < body + size && strchr(" \t\r\n", *end))
    end++;
  if (cJSON_IsObject(json) && end == body + size) return json;
  cJSON_Delete(json);
  return NULL;
}

static const char *prepare(struct call *call, const struct admin_route *route) {
  const char *name = exchange_query(call->exchange, "name");
  call->query = route->query;
  call->list = route->list;
  if (!read_limit(call->exchange, &call->limit)) return "\"limit\" must be a whole number from 1 to 10000.";
  if (name && strlen(name) >= CALL_ARGUMENT) return "\"name\" is longer than any name here.";
  if (name && *name) {
    snprintf(call->filter, sizeof call->filter, "%s", name);
    call->text = call->filter;
  }
  if (route->body && !(call->body = read_body(call->exchange)))
    return "The body must be one JSON object, such as {\"reason\":\"...\"}.";
  return NULL;
}

void admin_handle(struct server *server, struct exchange *exchange, int64_t now_ns) {
  (void)now_ns;
  char arguments[2][CALL_ARGUMENT] = {"", ""}, allowed[64] = "";
  const char *path = exchange_path(exchange) + strlen("/api/v1/");
  uint64_t tenant;
  if (!server_authorise(server, exchange, &tenant)) return;
  const char *method = exchange_method(exchange);
  if (!strcmp(method, "HEAD")) method = "GET";
  const struct admin_route *route = find(method, path, arguments, allowed, sizeof allowed);
  if (!route) {
    refuse_path(server, exchange, allowed);
    return;
  }
  if (!reply_is_read(exchange) && foreign(exchange)) {
    reply_simple(
        server, exchange, 403, "permission_error", "foreign_origin",
        "A page of another site may not change the daemon. Send the request without an Origin header.");
    return;
  }
  struct call *call = call_create(server, exchange);
  if (!call) return;
  memcpy(call->arguments, arguments, sizeof arguments);
  const char *wrong = prepare(call, route);
  if (wrong)
    call_refuse(call, 400, "invalid_value", wrong);
  else
    route->start(call);
}
