/* One timer walks the arrivals of the workload; each becomes a visit, which lives until its intent has ended:
 * the answer is whole, or it failed and the client does not come back. What an answer was worth comes from a
 * plant of our own with the fleet's scenario and seed: quality is a matter of model, prompt and time, and
 * needs no provider. */

#include "sim/loadgen.h"

#include "bus/objective.h"
#include "sim/caller.h"
#include "sim/dataset.h"
#include "sim/measure.h"
#include "sim/plant.h"
#include "sim/reply_reader.h"
#include "sim/scenario.h"
#include "sim/workload.h"
#include "sys/clock.h"
#include "sys/evloop.h"
#include "sys/timer.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LATE_NS (10 * NS_PER_MS)

enum { MAX_REWARDS = 100000, FEEDBACK_TIMEOUT_S = 10, URL_SIZE = 512 };

struct visit {
  struct timer timer; /* first: cast back; the client's second try */
  struct loadgen *gen;
  struct intent intent;
  struct reply_reader reader;
  int64_t began_ns, first_ns, last_ns; /* began: the intent, however often it is sent */
  unsigned tries;
  double usd;
  struct visit *next, *previous;
};

/* A reward that is to be posted later. */
struct reward {
  struct timer timer; /* first: cast back */
  struct loadgen *gen;
  char id[80];
  double value;
  struct reward *next, *previous;
};

struct loadgen {
  struct timer arrival; /* first: cast back */
  struct evloop *loop;
  struct loadgen_settings settings;
  struct scenario *scenario;
  struct dataset *data;
  struct workload *workload;
  struct plant *plant;
  struct timers *plant_timers; /* run by hand: only events live there */
  struct caller *caller;
  struct measure *measure;
  int64_t start_ns;
  struct intent next;
  bool over;             /* no more arrivals */
  struct visit visits;   /* ring head */
  struct reward rewards; /* ring head */
  unsigned reward_count;
  struct loadgen_report report;
  char chat_url[URL_SIZE], feedback_url[URL_SIZE];
};

static int64_t real_ns(const struct loadgen *gen, int64_t scenario_ns) {
  return (int64_t)((double)scenario_ns / gen->settings.speed);
}

static void count_error(struct loadgen_report *report, const char *name) {
  for (unsigned i = 0; i < LOADGEN_ERRORS; i++) {
    bool is_free = report->errors[i].count == 0;
    if (!is_free && strcmp(report->errors[i].name, name) != 0 && i + 1 < LOADGEN_ERRORS) continue;
    if (is_free) snprintf(report->errors[i].name, sizeof report->errors[i].name, "%s", name);
    report->errors[i].count++; /* the last row takes what finds no place */
    return;
  }
}

static void count_model(struct loadgen_report *report, const char *model) {
  for (unsigned i = 0; i < LOADGEN_MODELS; i++) {
    bool is_free = report->models[i].count == 0;
    if (!is_free && strcmp(report->models[i].model, model) != 0 && i + 1 < LOADGEN_MODELS) continue;
    if (is_free) snprintf(report->models[i].model, sizeof report->models[i].model, "%s", model);
    report->models[i].count++;
    return;
  }
}

/* ---- rewards ---- */

static void free_reward(struct reward *reward) {
  timer_disarm(evloop_timers(reward->gen->loop), &reward->timer);
  reward->previous->next = reward->next;
  reward->next->previous = reward->previous;
  reward->gen->reward_count--;
  free(reward);
}

static void feedback_done(void *ctx, enum call_error error, int status, int64_t now_ns) {
  struct loadgen *gen = ctx;
  (void)now_ns;
  if (error != CALL_OK || status >= 300) gen->report.feedback_refused++;
}

static const struct call_ops feedback_ops = {.done = feedback_done};

static void post_reward(struct timer *timer, int64_t now_ns) {
  struct reward *reward = (struct reward *)timer;
  struct loadgen *gen = reward->gen;
  char body[160];
  (void)now_ns;
  int size = snprintf(body, sizeof body, "{\"request_id\":\"%s\",\"reward\":%.4f,\"source\":\"user\"}",
                      reward->id, reward->value);
  gen->report.feedback_sent++;
  if (caller_send(gen->caller, "POST", gen->feedback_url, NULL, NULL, body, (size_t)size,
                  FEEDBACK_TIMEOUT_S * NS_PER_S, &feedback_ops, gen) < 0)
    gen->report.feedback_refused++;
  free_reward(reward);
}

/* No client gives feedback while an event says so. */
static bool feedback_is_out(const struct loadgen *gen, int64_t scenario_ns) {
  const struct scenario *s = gen->scenario;
  for (unsigned i = 0; i < s->event_count; i++)
    if (s->events[i].kind == EVENT_FEEDBACK_OUTAGE && scenario_ns >= s->events[i].at_ns &&
        scenario_ns < s->events[i].until_ns)
      return true;
  return false;
}

static void plan_reward(struct loadgen *gen, const struct intent *intent, const char *id, double quality,
                        int64_t now_ns) {
  if (!intent->gives_feedback || !id[0] || gen->reward_count == MAX_REWARDS) return;
  if (feedback_is_out(gen, intent->at_ns)) return;
  struct reward *reward = calloc(1, sizeof *reward);
  if (!reward) return;
  reward->timer.fire = post_reward;
  reward->gen = gen;
  reward->value = intent_feedback(intent, quality);
  snprintf(reward->id, sizeof reward->id, "%s", id);
  reward->next = &gen->rewards;
  reward->previous = gen->rewards.previous;
  reward->previous->next = reward->next->previous = reward;
  gen->reward_count++;
  timer_arm(evloop_timers(gen->loop), &reward->timer, now_ns + real_ns(gen, intent->feedback_after_ns));
}

/* ---- visits ---- */

static void free_visit(struct visit *visit) {
  timer_disarm(evloop_timers(visit->gen->loop), &visit->timer);
  reply_reader_free(&visit->reader);
  visit->previous->next = visit->next;
  visit->next->previous = visit->previous;
  free(visit);
}

/* What the answer was worth; NAN: the scenario does not know the model. "provider/model" counts as the model.
 */
static double quality_of(struct loadgen *gen, const struct visit *visit, int64_t now_ns) {
  const char *model = visit->reader.reply.model, *slash = strrchr(model, '/');
  int index = scenario_find_model(gen->scenario, slash ? slash + 1 : model);
  if (index < 0) return NAN;
  timers_run(gen->plant_timers, now_ns);
  return plant_quality(gen->plant, (unsigned)index, visit->intent.prompt, now_ns);
}

static void measure_times(const struct visit *visit, struct intent_result *result, int64_t now_ns) {
  const struct reply *reply = &visit->reader.reply;
  result->tokens_out = reply->tokens_out ? reply->tokens_out : reply->events;
  result->total_ms = (double)(now_ns - visit->began_ns) / 1e6;
  if (!visit->intent.stream || !visit->first_ns) return;
  result->ttft_ms = (double)(visit->first_ns - visit->began_ns) / 1e6;
  if (result->tokens_out > 1)
    result->tpot_ms = (double)(visit->last_ns - visit->first_ns) / 1e6 / (result->tokens_out - 1);
}

/* Returns what the answer was worth. */
static double book_answer(struct loadgen *gen, const struct visit *visit, int64_t now_ns) {
  const struct reply *reply = &visit->reader.reply;
  double quality = quality_of(gen, visit, now_ns);
  count_model(&gen->report, reply->model);
  gen->report.streams += visit->intent.stream && visit->first_ns;
  gen->report.tokens_in += reply->tokens_in;
  gen->report.tokens_out += reply->tokens_out;
  if (isnan(quality)) return 0;
  gen->report.quality_known++;
  plan_reward(gen, &visit->intent, reply->id, quality, now_ns);
  return quality;
}

/* The intent has ended with this visit. */
static void book(struct loadgen *gen, struct visit *visit, enum loadgen_end end, int64_t now_ns) {
  struct intent_result result = {.at_ns = real_ns(gen, visit->intent.at_ns),
                                 .stream = visit->intent.stream,
                                 .complete = end == LOADGEN_ANSWERED,
                                 .shed = end == LOADGEN_REFUSED,
                                 .timed_out = end == LOADGEN_TIMED_OUT,
                                 .ttft_ms = NAN,
                                 .tpot_ms = NAN,
                                 .total_ms = NAN,
                                 .submissions = visit->tries};
  if (result.complete) {
    measure_times(visit, &result, now_ns);
    result.quality = book_answer(gen, visit, now_ns);
  }
  gen->report.intents++;
  measure_intent(gen->measure, &result);
  measure_call(gen->measure, result.at_ns, visit->usd);
}

/* How one request ended, and under which name it is counted when it was not answered. */
static enum loadgen_end classify(const struct reply *reply, enum call_error error, int status,
                                 char name[48]) {
  const char *type = reply->error_type[0] ? reply->error_type : "";
  if (error == CALL_TIMED_OUT) {
    snprintf(name, 48, "timed out");
    return LOADGEN_TIMED_OUT;
  }
  if (error != CALL_OK)
    snprintf(name, 48, "%s", error == CALL_CONNECT ? "no connection" : "cut");
  else if (status != 200)
    snprintf(name, 48, "%d %.40s", status, type);
  else if (type[0])
    snprintf(name, 48, "error frame %.34s", type);
  else if (!reply->complete)
    snprintf(name, 48, "%s", reply->broken ? "not an answer" : "stream without an end");
  else
    return LOADGEN_ANSWERED;
  return error == CALL_OK && (status == 429 || status == 503) ? LOADGEN_REFUSED : LOADGEN_FAILED;
}

static void visit_bytes(void *ctx, int status, const char *bytes, size_t size, int64_t now_ns) {
  struct visit *visit = ctx;
  if (reply_reader_feed(&visit->reader, status, bytes, size) == 0) return;
  if (!visit->first_ns) visit->first_ns = now_ns;
  visit->last_ns = now_ns;
}

static void visit_done(void *ctx, enum call_error error, int status, int64_t now_ns) {
  struct visit *visit = ctx;
  struct loadgen *gen = visit->gen;
  char name[48];
  reply_reader_end(&visit->reader, status);
  enum loadgen_end end = classify(&visit->reader.reply, error, status, name);
  gen->report.in_flight--;
  gen->report.ends[end]++;
  gen->report.seconds = (double)(now_ns - gen->start_ns) / 1e9;
  if (!isnan(visit->reader.reply.usd)) visit->usd += visit->reader.reply.usd;
  if (end != LOADGEN_ANSWERED) count_error(&gen->report, name);
  bool again =
      end != LOADGEN_ANSWERED && visit->intent.comes_back && visit->tries == 1 && !gen->over &&
      timer_arm(evloop_timers(gen->loop), &visit->timer, now_ns + visit->intent.comes_back_after_ns) == 0;
  if (again) return;
  book(gen, visit, end, now_ns);
  free_visit(visit);
}

static const struct call_ops visit_ops = {.bytes = visit_bytes, .done = visit_done};

static char *chat_body(const struct loadgen *gen, const struct intent *intent) {
  cJSON *root = cJSON_CreateObject();
  char number[16];
  cJSON_AddStringToObject(root, "model", gen->settings.route ? gen->settings.route : "auto");
  cJSON *message = cJSON_CreateObject();
  cJSON_AddStringToObject(message, "role", "user");
  const struct dataset_prompt *prompt = &gen->data->prompts[intent->prompt];
  cJSON_AddStringToObject(message, "content", prompt->text);
  cJSON_AddItemToArray(cJSON_AddArrayToObject(root, "messages"), message);
  if (intent->stream) {
    cJSON_AddTrueToObject(root, "stream");
    cJSON_AddTrueToObject(cJSON_AddObjectToObject(root, "stream_options"), "include_usage");
  }
  cJSON *metadata = cJSON_AddObjectToObject(root, "metadata");
  snprintf(number, sizeof number, "%u", intent->tokens_in);
  cJSON_AddStringToObject(metadata, "tokens_in", number);
  snprintf(number, sizeof number, "%u", intent->tokens_out);
  cJSON_AddStringToObject(metadata, "tokens_out", number);
  char *text = cJSON_PrintUnformatted(root);
  cJSON_Delete(root);
  return text;
}

static int send_visit(struct visit *visit) {
  static const char *const priorities[] = {"critical", "high", "normal", "low"};
  struct loadgen *gen = visit->gen;
  char session[24], *body = chat_body(gen, &visit->intent);
  if (!body) return -ENOMEM;
  snprintf(session, sizeof session, "%016" PRIx64, visit->intent.session);
  reply_reader_free(&visit->reader);
  reply_reader_init(&visit->reader, visit->intent.stream);
  visit->first_ns = visit->last_ns = 0;
  int status = caller_send(gen->caller, "POST", gen->chat_url, session, priorities[visit->intent.priority],
                           body, strlen(body), (int64_t)(gen->settings.timeout_s * 1e9), &visit_ops, visit);
  free(body);
  if (status < 0) return status;
  visit->tries++;
  gen->report.sent++;
  gen->report.in_flight++;
  return 0;
}

static void come_back(struct timer *timer, int64_t now_ns) {
  struct visit *visit = (struct visit *)timer;
  visit->gen->report.retries++;
  if (send_visit(visit) == 0) return;
  book(visit->gen, visit, LOADGEN_FAILED, now_ns);
  free_visit(visit);
}

static void begin_visit(struct loadgen *gen, const struct intent *intent, int64_t now_ns) {
  struct visit *visit = gen->report.in_flight < gen->settings.max_in_flight ? calloc(1, sizeof *visit) : NULL;
  if (!visit) {
    gen->report.unsent++;
    return;
  }
  visit->timer.fire = come_back;
  visit->gen = gen;
  visit->intent = *intent;
  visit->began_ns = now_ns;
  visit->next = &gen->visits;
  visit->previous = gen->visits.previous;
  visit->previous->next = visit->next->previous = visit;
  if (send_visit(visit) == 0) return;
  gen->report.unsent++;
  free_visit(visit);
}

/* ---- arrivals ---- */

static bool enough(const struct loadgen *gen, int64_t due_ns) {
  const struct loadgen_settings *s = &gen->settings;
  return (s->requests && gen->report.due >= s->requests) ||
         (s->seconds > 0 && due_ns - gen->start_ns > (int64_t)(s->seconds * 1e9));
}

static void arrive(struct timer *timer, int64_t now_ns) {
  struct loadgen *gen = (struct loadgen *)timer;
  while (!gen->over) {
    int64_t due_ns = gen->start_ns + real_ns(gen, gen->next.at_ns);
    if (enough(gen, due_ns)) {
      gen->over = true;
    } else if (due_ns > now_ns) {
      timer_arm(evloop_timers(gen->loop), &gen->arrival, due_ns);
      return;
    } else {
      gen->report.due++;
      if (now_ns - due_ns > LATE_NS) gen->report.late++;
      begin_visit(gen, &gen->next, now_ns);
      gen->over = !workload_next(gen->workload, &gen->next);
    }
  }
}

/* ---- life ---- */

/* "data/traces/AzureLLMInferenceTrace_conv.csv" and "azure_conv" alike: the name by which the data directory
 * is searched. */
static void set_trace(struct scenario *scenario, const char *trace) {
  const char *slash = strrchr(trace, '/');
  snprintf(scenario->gaps, sizeof scenario->gaps, "%s", slash ? slash + 1 : trace);
  snprintf(scenario->lengths, sizeof scenario->lengths, "%s", scenario->gaps);
}

static void adapt_scenario(struct loadgen *gen) {
  struct scenario *s = gen->scenario;
  struct loadgen_settings *o = &gen->settings;
  if (o->speed <= 0) o->speed = 1;
  if (o->max_in_flight == 0) o->max_in_flight = 1000;
  if (o->timeout_s <= 0) o->timeout_s = (double)s->client_timeout_ns / 1e9;
  if (o->trace) set_trace(s, o->trace);
  if (o->stream_share >= 0) s->stream_share = o->stream_share;
  if (o->feedback_share >= 0) s->explicit_share = o->feedback_share;
  if (o->feedback_delay_s >= 0) s->delay_mean_s = o->feedback_delay_s * o->speed;
  if (o->rate > 0) {
    s->mean_rps = o->rate / o->speed;
    snprintf(s->daily_shape, sizeof s->daily_shape, "flat");
  }
}

static bool create_measure(struct loadgen *gen) {
  const struct scenario *s = gen->scenario;
  const struct objective objective = {s->ttft_ms, s->tpot_ms, s->lambda_per_usd, 1};
  int64_t length_ns = real_ns(gen, s->length_ns), event_ns = NS_NEVER, until_ns = NS_NEVER;
  if (gen->settings.seconds > 0 && gen->settings.seconds * 1e9 < (double)length_ns)
    length_ns = (int64_t)(gen->settings.seconds * 1e9);
  if (s->event_count) {
    event_ns = real_ns(gen, s->events[0].at_ns);
    if (s->events[0].until_ns != NS_NEVER) until_ns = real_ns(gen, s->events[0].until_ns);
  }
  gen->measure = measure_create(&objective, length_ns, event_ns, until_ns);
  return gen->measure != NULL;
}

static bool create_plant(struct loadgen *gen) {
  int64_t age_ms = gen->settings.epoch_ms ? clock_wall_ms() - gen->settings.epoch_ms : 0;
  gen->plant_timers = timers_create();
  if (!gen->plant_timers) return false;
  const struct plant_options options = {
      .scenario = gen->scenario,
      .data = gen->data,
      .timers = gen->plant_timers,
      .seed = gen->settings.seed,
      .start_ns = gen->start_ns - age_ms * NS_PER_MS,
      .speed = gen->settings.speed,
  };
  gen->plant = plant_create(&options);
  return gen->plant != NULL;
}

static bool create_parts(struct loadgen *gen, char *error, size_t size) {
  const struct loadgen_settings *s = &gen->settings;
  gen->scenario = scenario_load(s->scenario, s->seed, error, size);
  if (!gen->scenario) return false;
  adapt_scenario(gen);
  gen->data = dataset_load(gen->scenario, s->data ? s->data : "data", 0, error, size);
  if (!gen->data) return false;
  gen->workload = workload_create(gen->scenario, gen->data, s->seed);
  gen->caller = caller_create(gen->loop, s->key);
  if (gen->workload && gen->caller && create_measure(gen) && create_plant(gen)) return true;
  snprintf(error, size, "out of memory");
  return false;
}

struct loadgen *loadgen_create(struct evloop *loop, const struct loadgen_settings *settings, char *error,
                               size_t size) {
  struct loadgen *gen = calloc(1, sizeof *gen);
  if (!gen) {
    snprintf(error, size, "out of memory");
    return NULL;
  }
  gen->arrival.fire = arrive;
  gen->loop = loop;
  gen->settings = *settings;
  gen->start_ns = clock_now_ns();
  gen->visits.next = gen->visits.previous = &gen->visits;
  gen->rewards.next = gen->rewards.previous = &gen->rewards;
  snprintf(gen->chat_url, URL_SIZE, "%s/v1/chat/completions", settings->url);
  snprintf(gen->feedback_url, URL_SIZE, "%s/api/v1/feedback", settings->url);
  if (!create_parts(gen, error, size)) {
    loadgen_destroy(gen);
    return NULL;
  }
  gen->start_ns = clock_now_ns(); /* loading the data took its time */
  gen->over = !workload_next(gen->workload, &gen->next);
  if (!gen->over) timer_arm(evloop_timers(loop), &gen->arrival, gen->start_ns);
  return gen;
}

void loadgen_destroy(struct loadgen *gen) {
  if (!gen) return;
  timer_disarm(evloop_timers(gen->loop), &gen->arrival);
  caller_destroy(gen->caller);
  while (gen->visits.next != &gen->visits)
    free_visit(gen->visits.next);
  while (gen->rewards.next != &gen->rewards)
    free_reward(gen->rewards.next);
  measure_destroy(gen->measure);
  plant_destroy(gen->plant);
  timers_destroy(gen->plant_timers);
  workload_destroy(gen->workload);
  dataset_destroy(gen->data);
  scenario_destroy(gen->scenario);
  free(gen);
}

void loadgen_stop(struct loadgen *gen) {
  gen->over = true;
}

bool loadgen_finished(const struct loadgen *gen) {
  return gen->over && gen->visits.next == &gen->visits && caller_busy(gen->caller) == 0;
}

const struct loadgen_report *loadgen_report(const struct loadgen *gen) {
  return &gen->report;
}

const struct measure *loadgen_measure(const struct loadgen *gen) {
  return gen->measure;
}

const struct scenario *loadgen_scenario(const struct loadgen *gen) {
  return gen->scenario;
}
