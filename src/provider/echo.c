/* Answers arrive from a timer that is due at once: as the seam demands, never from inside start(). A stream
 * goes out in portions, and waits while its reader is behind. */

#include "provider/echo.h"

#include "dialect/buffer.h"
#include "dialect/json_scan.h"
#include "dialect/openai_stream.h"
#include "pipeline/request.h"
#include "provider/provider.h"
#include "sys/clock.h"
#include "sys/timer.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct echo {
  struct upstream upstream;
  const struct provider_settings *settings;
  struct timers *timers;
};

struct echo_call {
  struct echo *owner;
  struct attempt *attempt; /* NULL: cancelled */
  struct timer timer;
  struct buffer text, out;
  uint32_t words_in, words_out;
  size_t at; /* of the text, streamed so far */
  bool begun, over, paused;
  bool sending; /* inside answer(), which frees a call that is cancelled meanwhile */
  bool broken;  /* memory was short */
};

enum { PORTION = 64 };       /* words */
#define PORTION_NS NS_PER_MS /* between two: the socket gets its turn */

static bool blank(char c) {
  return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

/* The offset behind the next word and the blanks before it. */
static size_t word_end(const char *text, size_t size, size_t at) {
  while (at < size && blank(text[at]))
    at++;
  while (at < size && !blank(text[at]))
    at++;
  return at;
}

static uint32_t count_words(const char *text, size_t size) {
  uint32_t n = 0;
  for (size_t at = 0; at < size; n++) {
    size_t end = word_end(text, size, at);
    if (blank(text[end - 1])) break;
    at = end;
  }
  return n;
}

/* The text of a message: its content, or the text parts of it. */
static void append_content(const struct json_scan *s, int message, struct buffer *out) {
  int content = json_member(s, message, "content");
  if (json_type(s, content) == JSON_STRING) json_append(s, content, out);
  if (json_type(s, content) != JSON_ARRAY) return;
  for (int part = json_first(s, content); part >= 0; part = json_next(s, content, part))
    json_append(s, json_member(s, part, "text"), out);
}

static int read_request(struct echo_call *call, const struct request *request) {
  struct json_scan s;
  struct buffer all = {0};
  int error = json_scan(&s, request->spec.body, request->spec.body_size, JSON_DEPTH_CEILING, false),
      last = -1;
  int messages = json_member(&s, 0, "messages");
  for (int m = json_first(&s, messages); m >= 0; m = json_next(&s, messages, m)) {
    if (json_is_text(&s, json_member(&s, m, "role"), "user")) last = m;
    append_content(&s, m, &all);
    buffer_text(&all, " ");
  }
  append_content(&s, last, &call->text);
  json_release(&s);
  call->words_in = count_words(all.bytes, all.size);
  call->words_out = count_words(call->text.bytes, call->text.size);
  if (error == 0 && (all.failed || call->text.failed)) error = -ENOMEM;
  buffer_free(&all);
  return error;
}

/* ---- answers ---- */

static void append_head(struct echo_call *call, const char *object) {
  const char *model = call->owner->settings->model;
  buffer_format(&call->out, "{\"id\":\"%s\",\"object\":\"%s\",\"created\":%lld,\"model\":",
                call->attempt->request->id_text, object, (long long)(clock_wall_ms() / 1000));
  json_quote(&call->out, model, strlen(model));
}

static void append_usage(struct echo_call *call) {
  buffer_format(&call->out, ",\"usage\":{\"prompt_tokens\":%u,\"completion_tokens\":%u,\"total_tokens\":%u}",
                call->words_in, call->words_out, call->words_in + call->words_out);
}

static void append_answer(struct echo_call *call) {
  append_head(call, "chat.completion");
  buffer_text(&call->out, ",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":");
  json_quote(&call->out, call->text.bytes, call->text.size);
  buffer_text(&call->out, "},\"finish_reason\":\"stop\"}]");
  append_usage(call);
  buffer_text(&call->out, "}");
}

/* True while the attempt is still there. The buffer is empty after. */
static bool send_event(struct echo_call *call, uint32_t tokens, int64_t now_ns) {
  struct upstream_event event = {.bytes = call->out.bytes, .size = call->out.size, .tokens = tokens};
  if (call->out.failed)
    call->broken = true;
  else
    attempt_event(call->attempt, &event, now_ns);
  buffer_clear(&call->out);
  return !call->broken && call->attempt;
}

static bool send_chunk(struct echo_call *call, const char *word, size_t size, const char *finish,
                       int64_t now_ns) {
  buffer_text(&call->out, "data: ");
  append_head(call, "chat.completion.chunk");
  buffer_text(&call->out, ",\"choices\":[{\"index\":0,\"delta\":{");
  if (word) {
    buffer_text(&call->out, "\"content\":");
    json_quote(&call->out, word, size);
  } else if (!finish) {
    buffer_text(&call->out, "\"role\":\"assistant\",\"content\":\"\"");
  }
  buffer_format(&call->out, "},\"finish_reason\":%s}]}\n\n", finish ? finish : "null");
  return send_event(call, word ? 1 : 0, now_ns);
}

/* False: the attempt is gone, or the rest must wait. */
static bool send_words(struct echo_call *call, int64_t now_ns) {
  const char *text = call->text.bytes;
  for (int n = 0; call->at < call->text.size; n++) {
    if (call->paused || n == PORTION) return false;
    size_t from = call->at;
    call->at = word_end(text, call->text.size, from);
    if (!send_chunk(call, text + from, call->at - from, NULL, now_ns)) return false;
  }
  return true;
}

static bool send_usage(struct echo_call *call, int64_t now_ns) {
  if (!call->attempt->request->spec.include_usage) return true;
  buffer_text(&call->out, "data: ");
  append_head(call, "chat.completion.chunk");
  buffer_text(&call->out, ",\"choices\":[]");
  append_usage(call);
  buffer_text(&call->out, "}\n\n");
  return send_event(call, 0, now_ns);
}

static void send_stream(struct echo_call *call, int64_t now_ns) {
  bool begins = !call->begun;
  call->begun = true;
  if ((begins && !send_chunk(call, NULL, 0, NULL, now_ns)) || !send_words(call, now_ns)) return;
  call->over = true;
  if (!send_chunk(call, NULL, 0, "\"stop\"", now_ns) || !send_usage(call, now_ns)) return;
  buffer_text(&call->out, OPENAI_DONE_EVENT);
  send_event(call, 0, now_ns);
}

/* ---- the seam ---- */

static void free_call(struct echo_call *call) {
  timer_disarm(call->owner->timers, &call->timer);
  buffer_free(&call->text);
  buffer_free(&call->out);
  free(call);
}

static void finish(struct echo_call *call, int64_t now_ns) {
  struct upstream_result result = {.status = 200,
                                   .retry_after_ns = -1,
                                   .usage_known = true,
                                   .tokens_in = call->words_in,
                                   .tokens_out = call->words_out,
                                   .cost_usd = NAN,
                                   .requests_left = NAN,
                                   .requests_reset_ns = -1};
  struct attempt *attempt = call->attempt;
  if (call->broken || call->out.failed) result.error = UPSTREAM_TOO_LARGE;
  result.body = buffer_take(&call->out, &result.body_size);
  call->attempt = NULL;
  free_call(call);
  attempt_done(attempt, &result, now_ns);
}

static void answer(struct timer *timer, int64_t now_ns) {
  struct echo_call *call = (struct echo_call *)((char *)timer - offsetof(struct echo_call, timer));
  call->sending = true;
  if (call->attempt->request->spec.stream) {
    send_stream(call, now_ns);
  } else {
    append_answer(call);
    call->over = true;
  }
  call->sending = false;
  if (!call->attempt)
    free_call(call);
  else if (call->over || call->broken)
    finish(call, now_ns);
  else if (!call->paused)
    timer_arm(call->owner->timers, &call->timer, now_ns + PORTION_NS);
}

static int start(struct upstream *upstream, struct attempt *attempt, int64_t now_ns) {
  struct echo *e = (struct echo *)((char *)upstream - offsetof(struct echo, upstream));
  struct echo_call *call = calloc(1, sizeof *call);
  if (!call) return -ENOMEM;
  call->owner = e;
  call->attempt = attempt;
  call->timer.fire = answer;
  int error = read_request(call, attempt->request);
  if (error == 0) error = timer_arm(e->timers, &call->timer, now_ns);
  if (error < 0) {
    free_call(call);
    return error;
  }
  attempt->transport = call;
  return 0;
}

static void cancel(struct upstream *upstream, struct attempt *attempt) {
  struct echo_call *call = attempt->transport;
  (void)upstream;
  if (!call) return;
  attempt->transport = NULL;
  call->attempt = NULL;
  if (!call->sending) free_call(call);
}

static void pause_stream(struct upstream *upstream, struct attempt *attempt, bool paused) {
  struct echo_call *call = attempt->transport;
  (void)upstream;
  if (!call) return;
  call->paused = paused;
  if (!paused && !call->sending && call->timer.slot == 0)
    timer_arm(call->owner->timers, &call->timer, clock_now_ns());
}

static const struct upstream_ops ops = {.start = start, .cancel = cancel, .pause = pause_stream};

struct upstream *echo_create(const struct provider_settings *settings, struct timers *timers) {
  struct echo *e = calloc(1, sizeof *e);
  if (!e) return NULL;
  *e = (struct echo){.upstream.ops = &ops, .settings = settings, .timers = timers};
  return &e->upstream;
}

void echo_destroy(struct upstream *upstream) {
  if (upstream) free((char *)upstream - offsetof(struct echo, upstream));
}
