/* The model endpoints: HTTP in, struct request_spec out; struct answer in, HTTP out.
 *
 * A request before admission is refused here in its dialect and counted as refused; pipeline_submit refuses
 * and counts the rest. After admission the pipeline says how it ends, once, through client_ops; a client that
 * leaves first is reported with request_cancel.
 *
 * An error inside a begun stream is one more event, `data: {"error":{...}}`, and the stream ends without
 * [DONE]. x-should-retry: false tells the official clients that the daemon has already tried again for them.
 */

#include "server/internal.h"

#include "bus/counters.h"
#include "bus/telemetry.h"
#include "dialect/buffer.h"
#include "dialect/openai.h"
#include "dialect/openai_answer.h"
#include "pipeline/pipeline.h"
#include "pipeline/plane.h"
#include "sys/clock.h"
#include "sys/rng.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ANSWER_HEADERS = 9, LONGEST_DEADLINE_MS = 3600000 };

struct client {
  struct server *server;
  struct exchange *exchange;
  struct request *request;
  enum request_form form;
  bool begun;
};

struct answer_headers {
  struct front_header list[ANSWER_HEADERS];
  size_t count;
  char attempts[16], retry_after[16];
};

static void put(struct answer_headers *h, const char *name, const char *value) {
  if (value && h->count < ANSWER_HEADERS) h->list[h->count++] = (struct front_header){name, value};
}

static void describe(struct answer_headers *h, const struct request *request, const struct answer *answer) {
  h->count = 0;
  snprintf(h->attempts, sizeof h->attempts, "%u", answer->attempts);
  put(h, "X-Request-Id", request->id_text);
  put(h, "X-Self-Improve-Provider", answer->provider);
  put(h, "X-Self-Improve-Model", answer->model);
  put(h, "X-Self-Improve-Attempts", h->attempts);
  put(h, "X-Self-Improve-Coalesced", answer->coalesced ? "true" : "false");
  if (answer->status == 200) return;
  if (answer->retry_after_s >= 0) {
    snprintf(h->retry_after, sizeof h->retry_after, "%d", answer->retry_after_s);
    put(h, "Retry-After", h->retry_after);
  } else {
    put(h, "X-Should-Retry", "false");
  }
}

static void error_text(const struct answer *a, struct buffer *out) {
  openai_error_body(out, a->error_type ? a->error_type : "api_error", a->error_code, NULL,
                    a->error_message ? a->error_message : "The provider refused the request.");
}

/* {"request_id","output","model","provider","usage"}; the answer's text keeps its JSON form. */
static bool prompt_answer(const struct request *request, const struct answer *a, struct buffer *out) {
  struct openai_answer parsed;
  if (!a->body || openai_parse_answer(a->body, a->body_size, &parsed) < 0) return false;
  buffer_format(out, "{\"request_id\":\"%s\",\"output\":", request->id_text);
  if (parsed.content_size)
    buffer_append(out, a->body + parsed.content_at, parsed.content_size);
  else
    buffer_text(out, "null");
  buffer_format(out, ",\"model\":\"%s\",\"provider\":\"%s\"", a->model ? a->model : "",
                a->provider ? a->provider : "");
  buffer_format(out, ",\"usage\":{\"input_tokens\":%u,\"output_tokens\":%u,\"cost_usd\":%.9g}}", a->tokens_in,
                a->tokens_out, a->cost_usd);
  return true;
}

static void finish_whole(struct client *c, const struct request *request, const struct answer *a) {
  struct answer_headers headers;
  struct buffer made = {0};
  describe(&headers, request, a);
  if (a->status != 200 && !a->body)
    error_text(a, &made);
  else if (a->status == 200 && c->form == FORM_PROMPT)
    prompt_answer(request, a, &made);
  if (!made.size) {
    exchange_reply(c->exchange, a->status, "application/json", a->body, a->body ? a->body_size : 0,
                   headers.list, headers.count);
    return;
  }
  size_t size;
  char *text = buffer_take(&made, &size);
  if (text)
    exchange_reply_owned(c->exchange, a->status, "application/json", text, size, headers.list, headers.count);
  else
    exchange_abort(c->exchange);
}

static void finish_stream(struct client *c, const struct answer *a) {
  if (a->status != 200) {
    struct buffer event = {0};
    buffer_text(&event, "data: ");
    error_text(a, &event);
    buffer_text(&event, "\n\n");
    if (!event.failed) exchange_write(c->exchange, event.bytes, event.size);
    buffer_free(&event);
  }
  /* Whoever does not read would hold the backlog until the write time-out. */
  if (a->error_code && !strcmp(a->error_code, "slow_reader"))
    exchange_abort(c->exchange);
  else
    exchange_end(c->exchange);
}

static void on_begin(void *client, const struct request *request, const struct answer *answer) {
  struct client *c = client;
  struct answer_headers headers;
  describe(&headers, request, answer);
  put(&headers, "Cache-Control", "no-cache");
  put(&headers, "X-Accel-Buffering", "no");
  c->begun = true;
  exchange_begin(c->exchange, 200, "text/event-stream; charset=utf-8", headers.list, headers.count);
}

static size_t on_event(void *client, const char *bytes, size_t size) {
  return exchange_write(((struct client *)client)->exchange, bytes, size);
}

static void on_finish(void *client, const struct request *request, const struct answer *answer) {
  struct client *c = client;
  if (c->begun)
    finish_stream(c, answer);
  else
    finish_whole(c, request, answer);
  free(c);
}

static const struct client_ops ops = {.begin = on_begin, .event = on_event, .finish = on_finish};

static void on_gone(struct exchange *exchange, void *owner, int64_t now_ns) {
  (void)exchange;
  struct client *c = owner;
  request_cancel(c->request, now_ns);
  free(c);
}

/* ---- before admission ---- */

static void count(struct server *server, enum counter_id id) {
  counter_add(&server->env.telemetries[server->env.shard]->counters, id, 0, 1);
}

static void refuse(struct server *server, struct exchange *exchange, int status, const char *code,
                   const char *param, const char *message) {
  struct refusal_text refusal = {status, -1, "invalid_request_error", code, param, message};
  count(server, COUNTER_requests_refused);
  reply_error(server, exchange, &refusal, NULL, 0);
}

static bool is_model_endpoint(const char *path) {
  return !strcmp(path, "/v1/chat/completions") || !strcmp(path, "/v1/prompt");
}

void api_refused(struct server *server, const char *path, bool limited) {
  if (!is_model_endpoint(path)) return;
  count(server, COUNTER_requests_received);
  count(server, limited ? COUNTER_requests_limited : COUNTER_requests_refused);
}

static bool read_priority(struct exchange *exchange, enum priority *priority) {
  const char *text = exchange_header(exchange, "X-Priority");
  *priority = PRIORITY_NORMAL;
  if (!text) return true;
  for (int p = 0; p < PRIORITIES; p++)
    if (!strcmp(text, priority_name((enum priority)p))) {
      *priority = (enum priority)p;
      return true;
    }
  return false;
}

static bool read_deadline(struct exchange *exchange, int64_t now_ns, int64_t *deadline_ns) {
  const char *text = exchange_header(exchange, "X-Deadline-Ms");
  *deadline_ns = 0;
  if (!text) return true;
  int64_t ms = 0;
  for (; *text >= '0' && *text <= '9' && ms <= LONGEST_DEADLINE_MS; text++)
    ms = ms * 10 + (*text - '0');
  if (*text || ms < 1 || ms > LONGEST_DEADLINE_MS) return false;
  *deadline_ns = now_ns + ms * NS_PER_MS;
  return true;
}

static uint64_t read_session(struct exchange *exchange, const char *body, const struct openai_request *parsed,
                             uint64_t tenant) {
  const char *text = exchange_header(exchange, "X-Session-Id");
  size_t size = text ? strlen(text) : parsed->session_size;
  if (!text) text = body + parsed->session_at;
  if (!size) return 0;
  uint64_t session = hash_bytes(text, size, tenant);
  return session ? session : 1;
}

static int find_route(const struct plane *plane, const struct openai_request *parsed) {
  if (parsed->model_size) return plane_find_route(plane, parsed->model, strlen(parsed->model));
  int route = plane_find_route(plane, "auto", 4);
  return route >= 0 || plane->route_count == 0 ? route : 0;
}

static bool parse(struct server *server, struct exchange *exchange, enum request_form form,
                  struct openai_request *parsed) {
  struct openai_error error = {0};
  size_t size;
  const char *body = exchange_body(exchange, &size);
  unsigned depth = server->env.settings->max_depth;
  int status = form == FORM_CHAT ? openai_parse_chat(body, size, depth, parsed, &error)
                                 : openai_parse_prompt(body, size, depth, parsed, &error);
  if (status == 0) return true;
  struct refusal_text refusal = {400,        -1,          error.type ? error.type : "invalid_request_error",
                                 error.code, error.param, error.message};
  count(server, COUNTER_requests_refused);
  reply_error(server, exchange, &refusal, NULL, 0);
  return false;
}

/* Fills spec but for the body. False: the answer has been given. */
static bool read_spec(struct server *server, struct exchange *exchange, struct request_spec *spec,
                      int64_t now_ns) {
  struct openai_request parsed;
  size_t size;
  if (!parse(server, exchange, spec->form, &parsed)) return false;
  int route = find_route(server->env.plane, &parsed);
  if (route < 0) {
    refuse(server, exchange, 404, "model_not_found", "model",
           "No route has the name in \"model\". GET /v1/models lists the names that are served.");
    return false;
  }
  if (!read_priority(exchange, &spec->priority)) {
    refuse(server, exchange, 400, "invalid_value", "X-Priority",
           "X-Priority must be critical, high, normal or low.");
    return false;
  }
  if (!read_deadline(exchange, now_ns, &spec->deadline_ns)) {
    refuse(server, exchange, 400, "invalid_value", "X-Deadline-Ms",
           "X-Deadline-Ms must be a whole number of milliseconds from 1 to 3600000.");
    return false;
  }
  spec->route = (uint16_t)route;
  spec->stream = parsed.stream;
  spec->include_usage = parsed.include_usage;
  spec->choices = (uint8_t)parsed.n;
  spec->no_coalesce = exchange_header(exchange, "X-No-Coalesce") != NULL;
  spec->session = read_session(exchange, exchange_body(exchange, &size), &parsed, spec->tenant);
  spec->model_at = parsed.model_at;
  spec->model_size = parsed.model_size;
  spec->tokens_in = parsed.tokens_in;
  return true;
}

static void turn_away(struct server *server, struct exchange *exchange, enum refusal why, int retry_after_s) {
  static const struct refusal_text texts[] = {
      [REFUSED_RATE] = {429, 0, "rate_limit_error", "rate_limit_exceeded", NULL,
                        "The daemon's rate limit is reached. Try again after the time in Retry-After."},
      [REFUSED_MEMORY] =
          {503, 0, "overloaded_error", "memory_limit", NULL,
           "The daemon holds as many bytes as it may (server.memory_mib). Try again after the time in "
           "Retry-After."},
      [REFUSED_OVERLOAD] =
          {503, 0, "overloaded_error", "overloaded", NULL,
           "Too many requests wait already. Try again after the time in Retry-After, or send a higher "
           "X-Priority."},
      [REFUSED_DRAINING] = {503, 0, "overloaded_error", "shutting_down", NULL,
                            "The daemon is stopping. Try again after the time in Retry-After."},
  };
  struct refusal_text text = texts[why == ADMITTED ? REFUSED_MEMORY : why];
  text.retry_after_s = retry_after_s;
  reply_error(server, exchange, &text, NULL, 0);
}

static void submit(struct server *server, struct exchange *exchange, struct request_spec *spec,
                   int64_t now_ns) {
  struct client *c = malloc(sizeof *c);
  enum refusal why = REFUSED_MEMORY;
  int retry_after_s = 1;
  spec->body = c ? exchange_take_body(exchange, &spec->body_size) : NULL;
  struct request *request = NULL;
  if (c) {
    *c = (struct client){.server = server, .exchange = exchange, .form = spec->form};
    spec->ops = &ops;
    spec->client = c;
    request = pipeline_submit(server->env.pipeline, spec, now_ns, &why, &retry_after_s);
  }
  if (!request) {
    free(spec->body);
    free(c);
    turn_away(server, exchange, why, retry_after_s);
    return;
  }
  c->request = request;
  exchange_set_owner(exchange, c);
  exchange_on_gone(exchange, on_gone);
}

static void serve(struct server *server, struct exchange *exchange, enum request_form form, int64_t now_ns) {
  struct request_spec spec = {.form = form};
  count(server, COUNTER_requests_received);
  if (!server_authorise(server, exchange, &spec.tenant)) {
    count(server, COUNTER_requests_refused);
    return;
  }
  if (strcmp(exchange_method(exchange), "POST") != 0) {
    count(server, COUNTER_requests_refused);
    reply_method(server, exchange, "POST");
    return;
  }
  if (read_spec(server, exchange, &spec, now_ns)) submit(server, exchange, &spec, now_ns);
}

static void model_json(struct buffer *out, const struct plane *plane, int route) {
  buffer_format(out, "{\"id\":\"%s\",\"object\":\"model\",\"created\":0,\"owned_by\":\"self-improve\"}",
                plane->routes[route].name);
}

/* name: one model; NULL: all. */
static void models(struct server *server, struct exchange *exchange, const char *name) {
  const struct plane *plane = server->env.plane;
  uint64_t tenant;
  if (!server_authorise(server, exchange, &tenant)) return;
  if (!reply_is_read(exchange)) {
    reply_method(server, exchange, "GET, HEAD");
    return;
  }
  struct buffer out = {0};
  int route = name ? plane_find_route(plane, name, strlen(name)) : -1;
  if (name && route < 0) {
    reply_simple(server, exchange, 404, "invalid_request_error", "model_not_found",
                 "No route has this name. GET /v1/models lists the names that are served.");
    return;
  }
  if (name)
    model_json(&out, plane, route);
  else
    buffer_text(&out, "{\"object\":\"list\",\"data\":[");
  for (unsigned i = 0; !name && i < plane->route_count; i++) {
    if (i) buffer_append(&out, ",", 1);
    model_json(&out, plane, (int)i);
  }
  if (!name) buffer_text(&out, "]}");
  buffer_append(&out, "", 1);
  size_t size;
  reply_json(server, exchange, 200, buffer_take(&out, &size));
}

void api_handle(struct server *server, struct exchange *exchange, int64_t now_ns) {
  const char *path = exchange_path(exchange);
  if (!strcmp(path, "/v1/chat/completions"))
    serve(server, exchange, FORM_CHAT, now_ns);
  else if (!strcmp(path, "/v1/prompt"))
    serve(server, exchange, FORM_PROMPT, now_ns);
  else if (!strcmp(path, "/v1/models"))
    models(server, exchange, NULL);
  else if (!strncmp(path, "/v1/models/", 11))
    models(server, exchange, path + 11);
  else
    reply_simple(server, exchange, 404, "invalid_request_error", "not_found",
                 "There is no such model endpoint. Served: POST /v1/chat/completions, POST /v1/prompt, GET "
                 "/v1/models.");
}
