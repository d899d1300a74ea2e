/* Clients: each intent is submitted, watched until an answer, an error or the end of its patience, and then
 * judged. A share of those that got an error come back once; a share of those that got an answer say later
 * how good it was. */

#include "sim/world_internal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct sim_reward {
  struct timer timer;
  struct world *world;
  uint64_t request;
  double value;
  int provider;
  struct sim_reward *next, *previous;
};

/* ---- rewards ---- */

static void send_reward(struct timer *timer, int64_t now_ns) {
  struct sim_reward *r = (struct sim_reward *)((char *)timer - offsetof(struct sim_reward, timer));
  struct world *w = r->world;
  (void)now_ns;
  if (!w->feedback_out) {
    struct command c = {.kind = COMMAND_REWARD,
                        .request = r->request,
                        .value = r->value,
                        .provider = r->provider,
                        .text = "client"};
    w->shares.rewards_sent++;
    w->shares.rewards_accepted += world_command(w, &c) == 200;
  }
  *(r->previous ? &r->previous->next : &w->rewards) = r->next;
  if (r->next) r->next->previous = r->previous;
  r->next = w->spare_rewards;
  w->spare_rewards = r;
}

static void plan_reward(struct sim_client *client, const struct request *request, double quality,
                        int64_t now_ns) {
  struct world *w = client->world;
  struct sim_reward *r = w->spare_rewards;
  if (r)
    w->spare_rewards = r->next;
  else if (!(r = malloc(sizeof *r)))
    return;
  *r = (struct sim_reward){.timer = {.fire = send_reward},
                           .world = w,
                           .request = request->id,
                           .value = intent_feedback(&client->intent, quality),
                           .provider = request->outcome.provider,
                           .next = w->rewards};
  if (w->rewards) w->rewards->previous = r;
  w->rewards = r;
  timer_arm(w->timers, &r->timer, now_ns + client->intent.feedback_after_ns);
}

/* ---- the end of an intent ---- */

static int64_t began_ns(const struct sim_client *client) {
  return WORLD_START_NS + client->intent.at_ns;
}

static void fold(struct world *w, uint64_t value) {
  w->digest = mix64(w->digest ^ value);
}

static void conclude(struct sim_client *client, struct intent_result *result, int64_t now_ns) {
  struct world *w = client->world;
  const struct intent *in = &client->intent;
  result->at_ns = in->at_ns;
  result->stream = in->stream;
  result->shed = client->shed;
  result->submissions = client->submissions;
  result->total_ms = (double)(now_ns - began_ns(client)) / 1e6;
  measure_intent(w->measure, result);
  fold(w, in->number);
  fold(w, (uint64_t)now_ns);
  fold(w, (uint64_t)(result->quality * 1e9));
  w->busy -= client->busy;
  client->busy = false;
}

static void conclude_empty(struct sim_client *client, bool timed_out, int64_t now_ns) {
  struct intent_result result = {.timed_out = timed_out, .ttft_ms = NAN, .tpot_ms = NAN};
  conclude(client, &result, now_ns);
}

static void answered(struct sim_client *client, const struct request *request, int64_t now_ns) {
  struct world *w = client->world;
  const struct intent *in = &client->intent;
  unsigned provider = request->outcome.provider;
  struct intent_result result = {
      .complete = true, .ttft_ms = NAN, .tpot_ms = NAN, .tokens_out = in->tokens_out};
  result.quality = plant_quality(w->plant, w->scenario->providers[provider].model_index, in->prompt, now_ns);
  if (in->stream && client->first_ns) {
    result.ttft_ms = (double)(client->first_ns - began_ns(client)) / 1e6;
    if (in->tokens_out > 1) result.tpot_ms = (double)(now_ns - client->first_ns) / 1e6 / (in->tokens_out - 1);
  }
  w->shares.answered[provider]++;
  if (in->gives_feedback) plan_reward(client, request, result.quality, now_ns);
  conclude(client, &result, now_ns);
}

static void failed(struct sim_client *client, int64_t now_ns) {
  struct world *w = client->world;
  client->request = NULL;
  timer_disarm(w->timers, &client->timer);
  if (client->submissions > 1 || !client->intent.comes_back) {
    conclude_empty(client, false, now_ns);
    return;
  }
  timer_arm(w->timers, &client->timer, now_ns + client->intent.comes_back_after_ns);
}

/* ---- what the pipeline calls ---- */

static void begin(void *client, const struct request *request, const struct answer *answer) {
  (void)client, (void)request, (void)answer;
}

static size_t event(void *ctx, const char *bytes, size_t size) {
  struct sim_client *client = ctx;
  (void)bytes, (void)size;
  if (!client->first_ns) client->first_ns = client->world->now_ns;
  return 0;
}

static void finish(void *ctx, const struct request *request, const struct answer *answer) {
  struct sim_client *client = ctx;
  struct world *w = client->world;
  w->shares.finished++;
  if (answer->status != 200) {
    failed(client, w->now_ns);
    return;
  }
  client->request = NULL;
  timer_disarm(w->timers, &client->timer);
  answered(client, request, w->now_ns);
}

static const struct client_ops ops = {.begin = begin, .event = event, .finish = finish};

/* ---- submission ---- */

static char *make_body(const struct intent *in, struct request_spec *spec) {
  static const char head[] = "{\"model\":\"auto\",\"messages\":[{\"role\":\"user\",\"content\":\"";
  char *body = malloc(160);
  if (!body) return NULL;
  int n =
      snprintf(body, 160, "%sprompt %u of %u for %u\"}]}", head, in->prompt, in->tokens_in, in->tokens_out);
  spec->body_size = (size_t)n;
  spec->model_at = 9;
  spec->model_size = 6;
  return body;
}

static void submit(struct sim_client *client, int64_t now_ns) {
  struct world *w = client->world;
  const struct intent *in = &client->intent;
  enum refusal why;
  int retry_after_s;
  struct request_spec spec = {.form = FORM_CHAT,
                              .priority = in->priority,
                              .stream = in->stream,
                              .session = in->session,
                              .tenant = in->tenant,
                              .tokens_in = in->tokens_in,
                              .ops = &ops,
                              .client = client};
  client->submissions++;
  client->first_ns = 0;
  w->shares.submitted++;
  spec.body = make_body(in, &spec);
  counter_add(&w->telemetry->counters, COUNTER_requests_received, 0, 1);
  client->request = spec.body ? pipeline_submit(w->pipeline, &spec, now_ns, &why, &retry_after_s) : NULL;
  if (client->request) {
    timer_arm(w->timers, &client->timer, now_ns + w->scenario->client_timeout_ns);
    return;
  }
  free(spec.body);
  client->shed = true;
  w->shares.refused++;
  failed(client, now_ns);
}

/* Patience is over, or it is time to come back. */
static void client_fired(struct timer *timer, int64_t now_ns) {
  struct sim_client *client = (struct sim_client *)((char *)timer - offsetof(struct sim_client, timer));
  if (!client->request) {
    submit(client, now_ns);
    return;
  }
  client->world->shares.left++;
  struct request *request = client->request;
  client->request = NULL;
  request_cancel(request, now_ns);
  conclude_empty(client, true, now_ns);
}

static void arm_next(struct world *w) {
  if (workload_next(w->workload, &w->next_intent))
    timer_arm(w->timers, &w->arrival, WORLD_START_NS + w->next_intent.at_ns);
}

/* An intent takes the place of one 65,536 before it; if that one is not done, the new one is turned away. */
void clients_arrival(struct timer *timer, int64_t now_ns) {
  struct world *w = (struct world *)((char *)timer - offsetof(struct world, arrival));
  struct sim_client *client = &w->clients[w->next_intent.number % WORLD_CLIENTS];
  if (client->busy) {
    struct sim_client away = {.intent = w->next_intent, .world = w, .shed = true, .submissions = 1};
    conclude_empty(&away, false, now_ns);
  } else {
    *client = (struct sim_client){
        .intent = w->next_intent, .world = w, .busy = true, .timer = {.fire = client_fired}};
    w->busy++;
    submit(client, now_ns);
  }
  arm_next(w);
}

void clients_free(struct world *w) {
  for (int list = 0; list < 2; list++)
    for (struct sim_reward *r = list ? w->spare_rewards : w->rewards, *next; r; r = next) {
      next = r->next;
      timer_disarm(w->timers, &r->timer);
      free(r);
    }
  free(w->clients);
}
