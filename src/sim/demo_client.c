/* A table of acts, each due some seconds after the start. One that is refused because a trial of the same
 * effect group is still open (409), or that does not get through, is tried again. The harmful change waits a
 * while for the experiment's verdict, as somebody would who looks on: two changes at once are hard to tell
 * apart. */

#include "sim/demo_client.h"

#include "sim/caller.h"
#include "sim/scenario.h"
#include "sys/clock.h"
#include "sys/evloop.h"
#include "sys/timer.h"

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
  AGAIN_S = 10,
  LOOK_S = 5,
  PAUSE_S = 20,
  TRIES = 30,
  TIMEOUT_S = 10,
  TEXT_SIZE = 512,
  ANSWER_SIZE = 8192,
  HARMFUL_LIMIT = 2
};

#define EXPERIMENT "impatience"

struct act {
  int at_s, patience_s; /* how long it waits for the experiment; 0: not at all */
  const char *what;     /* completes "the demo client ..." */
  const char *method, *path;
  cJSON *(*body)(const struct scenario *scenario);
};

static cJSON *experiment(const struct scenario *scenario) {
  (void)scenario;
  cJSON *root = cJSON_CreateObject();
  cJSON_AddStringToObject(root, "name", EXPERIMENT);
  cJSON_AddStringToObject(root, "tunable", "first_token_timeout_ms");
  cJSON_AddNumberToObject(root, "treatment", 1000);
  cJSON_AddNumberToObject(root, "share", 0.5);
  cJSON_AddNumberToObject(root, "duration_s", 900);
  return root;
}

static cJSON *harmful_change(const struct scenario *scenario) {
  cJSON *root = cJSON_CreateObject(), *changes = cJSON_AddObjectToObject(root, "changes");
  for (unsigned i = 0; i < scenario->provider_count; i++) {
    char name[NAME_SIZE + 24];
    snprintf(name, sizeof name, "concurrency_limit.%s", scenario->providers[i].name);
    cJSON_AddNumberToObject(changes, name, HARMFUL_LIMIT);
  }
  cJSON_AddStringToObject(root, "reason", "the demo client asks for two calls at a time");
  return root;
}

static const struct act acts[] = {
    {10, 0,
     "creates an experiment: does giving up on a first token after 1 s instead of 10 s pay? (half of the "
     "sessions)",
     "POST", "/api/v1/experiments", experiment},
    {165, 40, "pushes a harmful change: only two calls at a time to each provider (guarded, as any change)",
     "PUT", "/api/v1/tunables", harmful_change},
};

enum { ACTS = sizeof acts / sizeof *acts };

struct performance {
  struct timer timer; /* first: cast back */
  struct demo_client *client;
  const struct act *act;
  int64_t patient_ns; /* until then it waits for the experiment */
  unsigned tries;
  char answer[ANSWER_SIZE];
  size_t used;
};

struct demo_client {
  struct evloop *loop;
  struct caller *caller;
  const char *url;
  const struct scenario *scenario;
  void (*say)(const char *line);
  struct performance performances[ACTS];
};

static void say(const struct demo_client *client, const char *what, const char *more) {
  char line[2 * TEXT_SIZE];
  snprintf(line, sizeof line, "%s%.500s", what, more);
  client->say(line);
}

static void again(struct performance *p, int64_t now_ns) {
  if (p->tries < TRIES)
    timer_arm(evloop_timers(p->client->loop), &p->timer, now_ns + AGAIN_S * NS_PER_S);
  else
    say(p->client, "gives up: ", p->act->what);
}

static void act_bytes(void *ctx, int status, const char *bytes, size_t size, int64_t now_ns) {
  struct performance *p = ctx;
  (void)status;
  (void)now_ns;
  size_t room = sizeof p->answer - 1 - p->used;
  if (size > room) size = room;
  memcpy(p->answer + p->used, bytes, size);
  p->used += size;
  p->answer[p->used] = '\0';
}

static void act_done(void *ctx, enum call_error error, int status, int64_t now_ns) {
  struct performance *p = ctx;
  if (error == CALL_OK && status < 300) return;
  if (error == CALL_OK && status != 409 && status < 500) {
    say(p->client, "is refused: ", p->answer);
    return;
  }
  if (p->tries == 1) say(p->client, "is told to wait and tries again: ", p->answer);
  again(p, now_ns);
}

static const struct call_ops act_ops = {.bytes = act_bytes, .done = act_done};

static int ask(struct performance *p, const char *method, const char *path, const char *body,
               const struct call_ops *ops) {
  char url[TEXT_SIZE];
  p->used = 0;
  p->answer[0] = '\0';
  snprintf(url, sizeof url, "%s%s", p->client->url, path);
  return caller_send(p->client->caller, method, url, NULL, NULL, body, strlen(body), TIMEOUT_S * NS_PER_S,
                     ops, p);
}

/* The experiment's state has come: it is either still open, or the act may follow after a pause. */
static void look_done(void *ctx, enum call_error error, int status, int64_t now_ns) {
  struct performance *p = ctx;
  bool running = error == CALL_OK && status == 200 && strstr(p->answer, "\"status\":\"running\"");
  if (!running) p->patient_ns = now_ns;
  timer_arm(evloop_timers(p->client->loop), &p->timer, now_ns + (running ? LOOK_S : PAUSE_S) * NS_PER_S);
}

static const struct call_ops look_ops = {.bytes = act_bytes, .done = look_done};

static void perform(struct timer *timer, int64_t now_ns) {
  struct performance *p = (struct performance *)timer;
  if (now_ns < p->patient_ns && ask(p, "GET", "/api/v1/experiments/" EXPERIMENT, "", &look_ops) == 0) return;
  cJSON *root = p->act->body(p->client->scenario);
  char *body = cJSON_PrintUnformatted(root);
  cJSON_Delete(root);
  if (!body) return;
  if (p->tries++ == 0) say(p->client, p->act->what, "");
  if (ask(p, p->act->method, p->act->path, body, &act_ops) < 0) again(p, now_ns);
  free(body);
}

struct demo_client *demo_client_create(struct evloop *loop, const char *url, const struct scenario *scenario,
                                       void (*line)(const char *line)) {
  struct demo_client *client = calloc(1, sizeof *client);
  if (!client) return NULL;
  *client = (struct demo_client){.loop = loop, .url = url, .scenario = scenario, .say = line};
  client->caller = caller_create(loop, NULL);
  if (!client->caller) {
    free(client);
    return NULL;
  }
  int64_t now_ns = clock_now_ns();
  for (unsigned i = 0; i < ACTS; i++) {
    client->performances[i].timer.fire = perform;
    client->performances[i].client = client;
    client->performances[i].act = &acts[i];
    int64_t due_ns = now_ns + acts[i].at_s * NS_PER_S;
    client->performances[i].patient_ns = acts[i].patience_s ? due_ns + acts[i].patience_s * NS_PER_S : 0;
    timer_arm(evloop_timers(loop), &client->performances[i].timer, due_ns);
  }
  return client;
}

void demo_client_destroy(struct demo_client *client) {
  if (!client) return;
  for (unsigned i = 0; i < ACTS; i++)
    timer_disarm(evloop_timers(client->loop), &client->performances[i].timer);
  caller_destroy(client->caller);
  free(client);
}
