/* status, why, history, diff, rollback, experiments: answers of the API, or of the database, as tables. */

#include "cli/cli.h"
#include "cli/client.h"
#include "cli/table.h"
#include "evolve/snapshot.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PATH_SIZE = 600 };

#define COUNT(columns) (sizeof(columns) / sizeof *(columns))

static const struct column provider_columns[] = {
    {"provider", "name", COLUMN_TEXT},         {"model", "model", COLUMN_TEXT},
    {"in flight", "in_flight", COLUMN_NUMBER}, {"limit", "limit", COLUMN_NUMBER},
    {"instances", "instances", COLUMN_NUMBER}, {"breaker", "breaker", COLUMN_TEXT},
    {"ttft ms", "ttft_p50_ms", COLUMN_NUMBER}, {"tpot ms", "tpot_p50_ms", COLUMN_NUMBER},
    {"quality", "quality", COLUMN_NUMBER},     {"calls", "attempts", COLUMN_NUMBER},
    {"failed", "failures", COLUMN_NUMBER},     {"dollars", "usd", COLUMN_NUMBER}};

static const struct column ledger_columns[] = {
    {"when", "wall_ms", COLUMN_TIME}, {"name", "name", COLUMN_TEXT},
    {"from", "from", COLUMN_NUMBER},  {"to", "to", COLUMN_NUMBER},
    {"by", "actor", COLUMN_TEXT},     {"outcome", "judgement.outcome", COLUMN_TEXT},
    {"why", "reason", COLUMN_TEXT}};

static const struct column snapshot_columns[] = {{"id", "id", COLUMN_ID},
                                                 {"when", "wall_ms", COLUMN_TIME},
                                                 {"in force", "head", COLUMN_TEXT},
                                                 {"utility", "score.utility", COLUMN_NUMBER},
                                                 {"requests", "score.requests", COLUMN_NUMBER},
                                                 {"author", "author", COLUMN_TEXT},
                                                 {"message", "message", COLUMN_TEXT}};

static const struct column experiment_columns[] = {{"id", "id", COLUMN_NUMBER},
                                                   {"name", "name", COLUMN_TEXT},
                                                   {"tunable", "tunable", COLUMN_TEXT},
                                                   {"control", "control", COLUMN_NUMBER},
                                                   {"treatment", "treatment", COLUMN_NUMBER},
                                                   {"status", "status", COLUMN_TEXT},
                                                   {"effect", "effect", COLUMN_NUMBER},
                                                   {"low", "low", COLUMN_NUMBER},
                                                   {"high", "high", COLUMN_NUMBER},
                                                   {"verdict", "verdict", COLUMN_TEXT}};

static const struct column difference_columns[] = {
    {"name", "name", COLUMN_TEXT}, {"from", "from", COLUMN_NUMBER}, {"to", "to", COLUMN_NUMBER}};

static int finish(cJSON *json) {
  cJSON_Delete(json);
  return CLI_OK;
}

/* --json: prints it and is done. */
static bool printed(const struct client *client, const cJSON *json) {
  if (!client->json) return false;
  char *text = cJSON_Print(json);
  puts(text ? text : "");
  free(text);
  return true;
}

static void note_offline(const struct client *client, bool offline) {
  if (offline && !client->json)
    printf("No daemon answers at %s: this is what its database %s says.\n\n", client->url, client->database);
}

static void print_status(const cJSON *json) {
  static const char *const parts[] = {"objective", "requests", "last_5_minutes"};
  table_members(json);
  for (size_t i = 0; i < COUNT(parts); i++) {
    const cJSON *part = cJSON_GetObjectItem(json, parts[i]);
    if (!part) continue;
    printf("\n%s\n", parts[i]);
    table_members(part);
  }
  putchar('\n');
  table_print(cJSON_GetObjectItem(json, "providers"), provider_columns, COUNT(provider_columns),
              "no providers");
}

int cli_status(int argc, char **argv) {
  struct client client;
  bool offline;
  if (!client_parse(&client, argc, argv, 0, 0)) return cli_misused("status");
  client.limit = 5;
  cJSON *json = client_ask(&client, "/api/v1/status", QUERY_LEDGER, NULL, &offline);
  if (!json) return CLI_FAILED;
  if (printed(&client, json)) return finish(json);
  note_offline(&client, offline);
  if (offline)
    table_print(json, ledger_columns, COUNT(ledger_columns), "nothing was ever changed");
  else
    print_status(json);
  return finish(json);
}

static void print_evidence(const cJSON *evidence) {
  const cJSON *item;
  const char *between = "    evidence  ";
  cJSON_ArrayForEach(item, evidence) {
    char number[TABLE_NUMBER];
    char *text = cJSON_IsNumber(item) || cJSON_IsString(item) ? NULL : cJSON_PrintUnformatted(item);
    printf("%s%s %s", between, item->string,
           cJSON_IsNumber(item)   ? table_number(item->valuedouble, number)
           : cJSON_IsString(item) ? item->valuestring
           : text                 ? text
                                  : "");
    free(text);
    between = ", ";
  }
  putchar('\n');
}

/* One entry in words: what, by whom, why, what came of it. */
static void print_entry(const cJSON *row) {
  char when[TABLE_TIME], before[TABLE_NUMBER], after[TABLE_NUMBER];
  const char *kind = cJSON_GetStringValue(cJSON_GetObjectItem(row, "kind"));
  const cJSON *from = cJSON_GetObjectItem(row, "from"), *to = cJSON_GetObjectItem(row, "to");
  const char *actor = cJSON_GetStringValue(cJSON_GetObjectItem(row, "actor"));
  const char *reason = cJSON_GetStringValue(cJSON_GetObjectItem(row, "reason"));
  const cJSON *judgement = cJSON_GetObjectItem(row, "judgement"),
              *evidence = cJSON_GetObjectItem(row, "evidence");
  table_time(cJSON_GetNumberValue(cJSON_GetObjectItem(row, "wall_ms")), when);
  if (cJSON_IsNumber(from) && cJSON_IsNumber(to) && !(kind && strcmp(kind, "note") == 0))
    printf("  %s  %s -> %s", when, table_number(from->valuedouble, before),
           table_number(to->valuedouble, after));
  else
    printf("  %s  noted", when);
  printf(" by %s: %s\n", actor ? actor : "?", reason ? reason : "");
  if (cJSON_IsObject(evidence) && evidence->child) print_evidence(evidence);
  if (!cJSON_IsObject(judgement)) return;
  const char *outcome = cJSON_GetStringValue(cJSON_GetObjectItem(judgement, "outcome"));
  const char *words = cJSON_GetStringValue(cJSON_GetObjectItem(judgement, "words"));
  printf("    outcome   %s: %s\n", outcome ? outcome : "?", words ? words : "");
}

static int print_why(const cJSON *json, const char *name) {
  const cJSON *inner = cJSON_GetObjectItem(json, "tunable"), *row, *list = table_list(json);
  puts(name);
  if (cJSON_IsObject(json)) table_members(inner ? inner : json);
  if (cJSON_GetNumberValue(cJSON_GetObjectItem(inner, "experiment")) > 0)
    puts("\nAn experiment tries another value of it now: self-improve experiments tells which.");
  if (cJSON_GetArraySize(list) == 0) {
    puts("\nNothing in the ledger: it is as it was set at the start.");
    return CLI_OK;
  }
  puts("\nhow it came to be, newest first");
  cJSON_ArrayForEach(row, list) print_entry(row);
  return CLI_OK;
}

/* A tunable with its history; anything else from the ledger alone. NULL: told. */
static cJSON *story(const struct client *client, const char *subject, bool *offline) {
  char name[PATH_SIZE / 2], path[PATH_SIZE], *answer = NULL;
  client_escape(subject, name, sizeof name);
  snprintf(path, sizeof path, "/api/v1/tunables/%s?limit=%lld", name, (long long)client->limit);
  int status = client_call(client, path, NULL, &answer);
  cJSON *json = status == 200 ? cJSON_Parse(answer) : NULL;
  free(answer);
  snprintf(path, sizeof path, "/api/v1/ledger?name=%s&limit=%lld", name, (long long)client->limit);
  return json ? json : client_ask(client, path, QUERY_TUNABLE_HISTORY, subject, offline);
}

static bool tells_nothing(const cJSON *json) {
  return !cJSON_GetObjectItem(json, "tunable") && cJSON_GetArraySize(table_list(json)) == 0;
}

static void tell_unknown(const struct client *client, bool offline) {
  if (offline)
    fprintf(stderr, "self-improve: no daemon answers at %s, and its database %s tells of no change of %s\n",
            client->url, client->database, client->names[0]);
  else
    fprintf(stderr,
            "self-improve: nothing is known of %s; GET %s/api/v1/tunables lists the tunables, "
            "history --changes what else has a story\n",
            client->names[0], client->url);
}

/* Of experiments and routes the ledger speaks as "experiment:NAME" and "route:NAME"; NAME will do. */
int cli_why(int argc, char **argv) {
  static const char *const kinds[] = {"", "experiment:", "route:"};
  struct client client;
  char subject[PATH_SIZE / 2];
  bool offline = false;
  cJSON *json = NULL;
  if (!client_parse(&client, argc, argv, 1, 1)) return cli_misused("why");
  for (size_t i = 0; i < COUNT(kinds) && (!json || tells_nothing(json)); i++) {
    cJSON_Delete(json);
    snprintf(subject, sizeof subject, "%s%s", kinds[i], client.names[0]);
    json = story(&client, subject, &offline);
    if (!json) return CLI_FAILED;
  }
  if (printed(&client, json)) return finish(json);
  if (tells_nothing(json)) {
    tell_unknown(&client, offline);
    cJSON_Delete(json);
    return CLI_FAILED;
  }
  note_offline(&client, offline);
  print_why(json, subject);
  return finish(json);
}

int cli_history(int argc, char **argv) {
  struct client client;
  char path[PATH_SIZE];
  bool offline;
  if (!client_parse(&client, argc, argv, 0, 0)) return cli_misused("history");
  snprintf(path, sizeof path, "/api/v1/%s?limit=%lld", client.changes ? "ledger" : "snapshots",
           (long long)client.limit);
  cJSON *json = client_ask(&client, path, client.changes ? QUERY_LEDGER : QUERY_SNAPSHOTS, NULL, &offline);
  if (!json) return CLI_FAILED;
  if (printed(&client, json)) return finish(json);
  note_offline(&client, offline);
  if (client.changes)
    table_print(json, ledger_columns, COUNT(ledger_columns), "nothing was ever changed");
  else
    table_print(json, snapshot_columns, COUNT(snapshot_columns), "there is no snapshot yet");
  return finish(json);
}

static cJSON *snapshot_offline(const struct client *client, const char *id) {
  bool offline;
  return client_ask(client, "/api/v1/snapshots", QUERY_SNAPSHOT, id, &offline);
}

/* Both configurations from the database, compared here. */
static cJSON *diff_offline(const struct client *client) {
  cJSON *a = snapshot_offline(client, client->names[0]);
  cJSON *b = a ? snapshot_offline(client, client->names[1]) : NULL;
  const char *from = cJSON_GetStringValue(cJSON_GetObjectItem(a, "config"));
  const char *to = cJSON_GetStringValue(cJSON_GetObjectItem(b, "config"));
  char *text = from && to ? snapshot_diff(from, to) : NULL;
  cJSON *json = text ? cJSON_Parse(text) : NULL;
  free(text);
  cJSON_Delete(a);
  cJSON_Delete(b);
  return json;
}

int cli_diff(int argc, char **argv) {
  struct client client;
  char a[PATH_SIZE / 3], b[PATH_SIZE / 3], path[PATH_SIZE], *answer = NULL;
  if (!client_parse(&client, argc, argv, 2, 2)) return cli_misused("diff");
  client_escape(client.names[0], a, sizeof a);
  client_escape(client.names[1], b, sizeof b);
  snprintf(path, sizeof path, "/api/v1/snapshots/%s/diff/%s", a, b);
  int status = client_call(&client, path, NULL, &answer);
  cJSON *json = status == 0 ? diff_offline(&client) : status == 200 ? cJSON_Parse(answer) : NULL;
  if (status != 0 && !json) client_tell(status, answer);
  free(answer);
  if (!json) return CLI_FAILED;
  if (!printed(&client, json))
    table_print(json, difference_columns, COUNT(difference_columns), "the two are the same");
  return finish(json);
}

int cli_rollback(int argc, char **argv) {
  struct client client;
  char id[PATH_SIZE / 3], path[PATH_SIZE], *answer = NULL;
  if (!client_parse(&client, argc, argv, 1, 1)) return cli_misused("rollback");
  client_escape(client.names[0], id, sizeof id);
  snprintf(path, sizeof path, "/api/v1/snapshots/%s/rollback", id);
  cJSON *asked = cJSON_CreateObject();
  cJSON_AddStringToObject(asked, "reason", client.reason ? client.reason : "asked for on the command line");
  char *body = cJSON_PrintUnformatted(asked);
  cJSON_Delete(asked);
  int status = client_call(&client, path, body, &answer);
  free(body);
  if (status == 0)
    fprintf(stderr, "self-improve: no daemon answers at %s; a rollback needs one that runs (--url)\n",
            client.url);
  else if (status != 200)
    client_tell(status, answer);
  else
    puts(client.json && answer ? answer : "rolled back; self-improve history shows what is in force");
  free(answer);
  return status == 200 ? CLI_OK : CLI_FAILED;
}

int cli_experiments(int argc, char **argv) {
  struct client client;
  char path[PATH_SIZE];
  bool offline;
  if (!client_parse(&client, argc, argv, 0, 0)) return cli_misused("experiments");
  snprintf(path, sizeof path, "/api/v1/experiments?limit=%lld", (long long)client.limit);
  cJSON *json = client_ask(&client, path, QUERY_EXPERIMENTS, NULL, &offline);
  if (!json) return CLI_FAILED;
  if (printed(&client, json)) return finish(json);
  note_offline(&client, offline);
  table_print(json, experiment_columns, COUNT(experiment_columns), "there was no experiment yet");
  return finish(json);
}
