/* One chat is one plant call and one exchange. The plant says when the first token comes and when the call is
 * over; in between a timer asks it how many tokens exist by now and writes those not yet sent, an event each,
 * at most every FLUSH_NS so that a fast stream does not cost a system call a token. */

#include "sim/service.h"

#include "server/front.h"
#include "sim/chat_request.h"
#include "sim/dataset.h"
#include "sim/plant.h"
#include "sim/scenario.h"
#include "sim/wording.h"
#include "sys/clock.h"
#include "sys/evloop.h"
#include "sys/rng.h"
#include "sys/timer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FLUSH_NS (20 * NS_PER_MS)

enum { BATCH_EVENTS = 16, HEADERS = 8, HEADER_VALUE = 40 };

struct chat {
  struct timer timer; /* first: cast back */
  struct service *service;
  unsigned provider;
  struct exchange *exchange;
  struct plant_call *call;
  struct chat_request request;
  struct wording wording;
  uint32_t tokens_in, tokens_out, sent;
  bool begun, shortened; /* shortened: max_tokens ends the answer */
  struct chat *next, *previous;
};

struct service {
  struct evloop *loop;
  struct plant *plant;
  const struct scenario *scenario;
  const struct dataset *data;
  struct chat live; /* ring head */
  uint64_t counts[MAX_PROVIDERS];
};

/* Answer headers, with room for the values that are printed. */
struct header_list {
  struct front_header list[HEADERS];
  char values[HEADERS][HEADER_VALUE];
  unsigned count;
};

struct service *service_create(struct evloop *loop, struct plant *plant, const struct scenario *scenario,
                               const struct dataset *data) {
  struct service *service = calloc(1, sizeof *service);
  if (!service) return NULL;
  service->loop = loop;
  service->plant = plant;
  service->scenario = scenario;
  service->data = data;
  service->live.next = service->live.previous = &service->live;
  return service;
}

static void free_chat(struct chat *chat) {
  timer_disarm(evloop_timers(chat->service->loop), &chat->timer);
  chat->previous->next = chat->next;
  chat->next->previous = chat->previous;
  chat_request_free(&chat->request);
  free(chat);
}

void service_destroy(struct service *service) {
  if (!service) return;
  while (service->live.next != &service->live) {
    struct chat *chat = service->live.next;
    if (chat->call) plant_cancel(service->plant, chat->call, NULL, evloop_now_ns(service->loop));
    free_chat(chat);
  }
  free(service);
}

static void chat_gone(struct exchange *exchange, void *owner, int64_t now_ns) {
  (void)exchange;
  struct chat *chat = owner;
  if (chat->call) plant_cancel(chat->service->plant, chat->call, NULL, now_ns);
  free_chat(chat);
}

static void add_header(struct header_list *headers, const char *name, const char *format, double value) {
  if (headers->count == HEADERS) return;
  char *text = headers->values[headers->count];
  snprintf(text, HEADER_VALUE, format, value);
  headers->list[headers->count++] = (struct front_header){name, text};
}

/* What a hosted provider says of its limits. Seconds until the bucket is full again. */
static void add_limits(const struct chat *chat, struct header_list *headers, int64_t now_ns) {
  const struct service *service = chat->service;
  const struct scenario_provider *provider = &service->scenario->providers[chat->provider];
  if (!provider->ratelimit_headers || provider->requests_per_min <= 0) return;
  struct plant_view view = plant_look(service->plant, chat->provider, now_ns);
  double rate = provider->requests_per_min / 60, depth = rate * service->scenario->bucket_s;
  add_header(headers, "x-ratelimit-limit-requests", "%.0f", provider->requests_per_min);
  add_header(headers, "x-ratelimit-remaining-requests", "%.0f", fmax(0, floor(view.requests_bucket)));
  add_header(headers, "x-ratelimit-reset-requests", "%.3fs", fmax(0, depth - view.requests_bucket) / rate);
  if (provider->tokens_per_min <= 0) return;
  add_header(headers, "x-ratelimit-limit-tokens", "%.0f", provider->tokens_per_min);
  add_header(headers, "x-ratelimit-remaining-tokens", "%.0f", fmax(0, floor(view.tokens_bucket)));
}

static void first_token(void *ctx, int64_t now_ns);
static void done(void *ctx, const struct plant_result *result, int64_t now_ns);

static const struct plant_client client = {.first_token = first_token, .done = done};

/* Writes the tokens up to number `until`, a few events a write. */
static void write_tokens(struct chat *chat, uint32_t until) {
  char out[BATCH_EVENTS * WORDING_EVENT];
  while (chat->sent < until) {
    size_t used = 0;
    for (unsigned i = 0; i < BATCH_EVENTS && chat->sent < until; i++)
      used += wording_token(&chat->wording, chat->sent++, out + used);
    exchange_write(chat->exchange, out, used);
  }
}

static void plan_flush(struct chat *chat, int64_t now_ns) {
  if (chat->sent >= chat->tokens_out) return;
  int64_t due_ns = plant_token_ns(chat->service->plant, chat->call, chat->sent + 1, now_ns);
  if (due_ns < now_ns + FLUSH_NS) due_ns = now_ns + FLUSH_NS;
  if (due_ns > now_ns + NS_PER_S)
    due_ns = now_ns + NS_PER_S; /* a batch that grows or shrinks moves the next token */
  timer_arm(evloop_timers(chat->service->loop), &chat->timer, due_ns);
}

static void flush(struct timer *timer, int64_t now_ns) {
  struct chat *chat = (struct chat *)timer;
  uint32_t tokens = plant_tokens(chat->service->plant, chat->call, now_ns);
  write_tokens(chat, tokens < chat->tokens_out ? tokens : chat->tokens_out);
  plan_flush(chat, now_ns);
}

static void begin_stream(struct chat *chat, int64_t now_ns) {
  struct header_list headers = {.count = 0};
  char out[WORDING_EVENT];
  add_limits(chat, &headers, now_ns);
  exchange_begin(chat->exchange, 200, "text/event-stream", headers.list, headers.count);
  exchange_write(chat->exchange, out, wording_role(&chat->wording, out));
  chat->begun = true;
}

static void first_token(void *ctx, int64_t now_ns) {
  struct chat *chat = ctx;
  if (!chat->request.stream) return;
  begin_stream(chat, now_ns);
  write_tokens(chat, 1);
  plan_flush(chat, now_ns);
}

static void end_stream(struct chat *chat, const struct wording_usage *usage, int64_t now_ns) {
  char out[3 * WORDING_EVENT];
  if (!chat->begun) begin_stream(chat, now_ns);
  write_tokens(chat, usage->tokens_out);
  size_t used = wording_finish(&chat->wording, chat->shortened ? "length" : "stop", out);
  if (chat->request.include_usage) used += wording_usage_event(&chat->wording, usage, out + used);
  used += wording_done(out + used);
  exchange_write(chat->exchange, out, used);
  exchange_end(chat->exchange);
}

static void reply_whole(struct chat *chat, const struct wording_usage *usage, int64_t now_ns) {
  struct header_list headers = {.count = 0};
  size_t size;
  char *body = wording_answer(&chat->wording, usage, chat->shortened ? "length" : "stop", &size);
  add_limits(chat, &headers, now_ns);
  if (body)
    exchange_reply_owned(chat->exchange, 200, "application/json", body, size, headers.list, headers.count);
  else
    exchange_abort(chat->exchange);
}

static void refuse(struct exchange *exchange, int status, const char *type, const char *code,
                   const char *message, struct header_list *headers) {
  char body[WORDING_EVENT];
  size_t size = wording_error(type, code, message, body);
  exchange_reply(exchange, status, "application/json", body, size, headers ? headers->list : NULL,
                 headers ? headers->count : 0);
}

static void refuse_chat(struct chat *chat, const struct plant_result *result, int64_t now_ns) {
  struct header_list headers = {.count = 0};
  if (result->retry_after_ns >= 0)
    add_header(&headers, "Retry-After", "%.0f", ceil((double)result->retry_after_ns / 1e9));
  if (result->end == PLANT_THROTTLED) {
    add_limits(chat, &headers, now_ns);
    refuse(chat->exchange, 429, "rate_limit_error", "rate_limit_exceeded", "rate limit reached", &headers);
  } else if (result->end == PLANT_OVERLOADED) {
    refuse(chat->exchange, 503, "server_error", "overloaded", "the queue is full", &headers);
  } else if (result->end == PLANT_TOO_LONG) {
    refuse(chat->exchange, 400, "invalid_request_error", "context_length_exceeded", "the prompt does not fit",
           &headers);
  } else {
    refuse(chat->exchange, 500, "server_error", "internal_error", "the provider failed", &headers);
  }
}

static void done(void *ctx, const struct plant_result *result, int64_t now_ns) {
  struct chat *chat = ctx;
  const struct wording_usage usage = {result->tokens_in, result->tokens_out, result->usd};
  chat->call = NULL;
  if (result->end == PLANT_OK && chat->request.stream)
    end_stream(chat, &usage, now_ns);
  else if (result->end == PLANT_OK)
    reply_whole(chat, &usage, now_ns);
  else if (chat->begun || result->end == PLANT_REFUSED || result->end == PLANT_CUT) {
    if (chat->begun) write_tokens(chat, result->tokens_out);
    exchange_abort(chat->exchange);
  } else
    refuse_chat(chat, result, now_ns);
  free_chat(chat);
}

/* Lengths that the request does not say are drawn by its text, so that a repeated prompt has the same. */
static void set_lengths(struct chat *chat) {
  const struct dataset *data = chat->service->data;
  const struct chat_request *request = &chat->request;
  uint64_t hash = hash_bytes(request->prompt, request->prompt_size, 1);
  const struct dataset_lengths *drawn = &data->lengths[hash % data->lengths_count];
  chat->tokens_in = request->tokens_in ? request->tokens_in : drawn->in;
  chat->tokens_out = request->tokens_out ? request->tokens_out : drawn->out;
  chat->shortened = request->max_tokens && request->max_tokens < chat->tokens_out;
  if (chat->shortened) chat->tokens_out = request->max_tokens;
}

static void start_chat(struct service *service, struct exchange *exchange, unsigned provider,
                       struct chat_request *request, int64_t now_ns) {
  struct chat *chat = calloc(1, sizeof *chat);
  if (!chat) {
    exchange_abort(exchange);
    chat_request_free(request);
    return;
  }
  chat->timer.fire = flush;
  chat->service = service;
  chat->provider = provider;
  chat->exchange = exchange;
  chat->request = *request;
  chat->next = &service->live;
  chat->previous = service->live.previous;
  chat->previous->next = chat->next->previous = chat;
  uint64_t number = service->counts[provider];
  wording_init(&chat->wording, request->model, request->prompt, request->prompt_size, number,
               clock_wall_ms() / 1000);
  set_lengths(chat);
  exchange_set_owner(exchange, chat);
  exchange_on_gone(exchange, chat_gone);
  uint64_t draw = hash_bytes(request->prompt, request->prompt_size, number);
  chat->call =
      plant_begin(service->plant, provider, chat->tokens_in, chat->tokens_out, draw, &client, chat, now_ns);
  if (chat->call) return;
  exchange_abort(exchange);
  free_chat(chat);
}

void service_chat(struct service *service, struct exchange *exchange, unsigned provider, int64_t now_ns) {
  struct chat_request request;
  const char *error;
  service->counts[provider]++;
  if (chat_request_read(exchange, &request, &error) < 0) {
    refuse(exchange, 400, "invalid_request_error", "invalid_body", error, NULL);
    return;
  }
  if (strcmp(request.model, service->scenario->providers[provider].model) != 0) {
    refuse(exchange, 404, "invalid_request_error", "model_not_found",
           "this provider does not serve that model", NULL);
    chat_request_free(&request);
    return;
  }
  start_chat(service, exchange, provider, &request, now_ns);
}

uint64_t service_count(const struct service *service, unsigned provider) {
  return service->counts[provider];
}
