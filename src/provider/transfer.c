/* What comes back. libcurl's callbacks store bytes and headers; everything else happens after it has
 * returned.
 *
 * A stream ends well with [DONE], or with a finish_reason and silence: the missing [DONE] is then made up.
 * Without either it was cut. At [DONE] the client has its whole answer, so the attempt ends there, and the
 * transfer only waits for the end of the HTTP message, so that the connection can be used again. */

#include "provider/transfer.h"

#include "dialect/json_scan.h"
#include "dialect/openai_answer.h"
#include "dialect/retry_after.h"
#include "dialect/utf8.h"
#include "pipeline/request.h"
#include "sys/clock.h"
#include "sys/log.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { MALFORMED_MAX = 16, RESERVE_MAX = 1 << 20 };

#define DONE_GRACE_NS (1500 * NS_PER_MS) /* from the last event of a finished stream to a made-up [DONE] */
#define DRAIN_GRACE_NS NS_PER_S          /* from [DONE] to the end of the HTTP message */

static void forget_headers(struct reply_headers *h) {
  *h = (struct reply_headers){.retry_after_ns = -1,
                              .retry_after_ms_ns = -1,
                              .requests_reset_ns = -1,
                              .requests_left = NAN,
                              .requests_limit = NAN};
}

void reply_reset(struct transfer *t) {
  forget_headers(&t->headers);
  t->received = 0;
  t->failure = UPSTREAM_OK;
  t->failure_detail = NULL;
  t->events = t->malformed = 0;
  t->finished = t->complete = t->draining = false;
  t->sends = 0;
  if (t->stream) {
    sse_reset(&t->sse);
    openai_stream_init(&t->chunks);
  }
}

void reply_grace(struct transfer *t, bool held_back, int64_t now_ns) {
  transfer_grace(t, t->complete && !held_back ? now_ns + DONE_GRACE_NS : NS_NEVER);
}

static size_t give_up(struct transfer *t, enum upstream_error error, const char *detail) {
  t->failure = error;
  t->failure_detail = detail;
  return 0;
}

size_t reply_take_body(char *bytes, size_t one, size_t size, void *ctx) {
  struct transfer *t = ctx;
  (void)one;
  t->received += size;
  if (t->received > transfer_limit(t))
    return give_up(t, UPSTREAM_TOO_LARGE, "the answer is larger than allowed");
  buffer_append(&t->in, bytes, size);
  if (t->in.failed) return give_up(t, UPSTREAM_TOO_LARGE, "no memory for the answer");
  if (t->stream && t->headers.status / 100 == 2) wire_touch(&t->call);
  return size;
}

/* ---- headers ---- */

static bool known_encoding(const char *value, size_t size) {
  static const char *const known[] = {"identity", "gzip", "x-gzip", "deflate"};
  for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
    if (strlen(known[i]) == size && strncasecmp(value, known[i], size) == 0) return true;
  return size == 0;
}

static bool named(const char *line, size_t name_size, const char *name) {
  return strlen(name) == name_size && strncasecmp(line, name, name_size) == 0;
}

static double number_of(const char *value, size_t size) {
  char text[24];
  if (size == 0 || size >= sizeof text || !isdigit((unsigned char)value[0])) return NAN;
  memcpy(text, value, size);
  text[size] = '\0';
  return strtod(text, NULL);
}

static size_t take_field(struct transfer *t, const char *line, size_t name_size, const char *value,
                         size_t size) {
  struct reply_headers *h = &t->headers;
  if (named(line, name_size, "retry-after")) h->retry_after_ns = retry_after_ns(value, size, clock_wall_ms());
  if (named(line, name_size, "retry-after-ms")) h->retry_after_ms_ns = retry_after_ms_ns(value, size);
  if (named(line, name_size, "x-ratelimit-remaining-requests")) h->requests_left = number_of(value, size);
  if (named(line, name_size, "x-ratelimit-limit-requests")) h->requests_limit = number_of(value, size);
  if (named(line, name_size, "x-ratelimit-reset-requests"))
    h->requests_reset_ns = reset_duration_ns(value, size);
  if (named(line, name_size, "content-encoding") && !known_encoding(value, size))
    return give_up(t, UPSTREAM_INVALID, "the answer has a content encoding that was not asked for");
  if (named(line, name_size, "content-length") && !t->stream) {
    double bytes = number_of(value, size);
    if (bytes > 0) buffer_reserve(&t->in, bytes < RESERVE_MAX ? (size_t)bytes : RESERVE_MAX);
  }
  return 1;
}

/* "HTTP/1.1 200 OK": of a new answer, when an interim one came before. */
static void take_status(struct transfer *t, const char *line, size_t size) {
  const char *blank = memchr(line, ' ', size);
  forget_headers(&t->headers);
  if (blank && size - (size_t)(blank - line) > 3) t->headers.status = (int)number_of(blank + 1, 3);
}

size_t reply_take_header(char *line, size_t one, size_t size, void *ctx) {
  struct transfer *t = ctx;
  (void)one;
  if (size >= 5 && memcmp(line, "HTTP/", 5) == 0) {
    take_status(t, line, size);
    return size;
  }
  char first = size ? (char)(line[0] | 0x20) : 0;
  if (first != 'r' && first != 'x' && first != 'c') return size;
  const char *colon = memchr(line, ':', size), *end = line + size;
  if (!colon) return size;
  const char *value = colon + 1;
  while (value < end && (*value == ' ' || *value == '\t'))
    value++;
  while (end > value && isspace((unsigned char)end[-1]))
    end--;
  return take_field(t, line, (size_t)(colon - line), value, (size_t)(end - value)) ? size : 0;
}

/* ---- results ---- */

/* The header says when the whole limit is there again (OpenAI's words: "resets to its initial state"); the
 * first request of it is allowed as much sooner as the limit is large. */
static int64_t next_allowed_ns(const struct reply_headers *h) {
  return h->requests_limit > 1 ? (int64_t)((double)h->requests_reset_ns / h->requests_limit)
                               : h->requests_reset_ns;
}

static void fill(struct transfer *t, struct upstream_result *result, enum upstream_error error,
                 const char *detail) {
  const struct reply_headers *h = &t->headers;
  const struct openai_usage *u = &t->chunks.usage;
  bool known = t->stream && u->known;
  *result = (struct upstream_result){.error = error,
                                     .status = h->status,
                                     .retry_after_ns =
                                         h->retry_after_ms_ns >= 0 ? h->retry_after_ms_ns : h->retry_after_ns,
                                     .usage_known = known,
                                     .tokens_in = known ? u->tokens_in : 0,
                                     .tokens_cached = known ? u->tokens_cached : 0,
                                     .tokens_out = known ? u->tokens_out : 0,
                                     .cost_usd = known ? u->cost_usd : NAN,
                                     .requests_left = h->requests_left,
                                     .requests_reset_ns = next_allowed_ns(h),
                                     .detail = detail};
}

/* ---- streams ---- */

static void end_stream(struct transfer *t, enum upstream_error error, const char *detail, int64_t now_ns) {
  struct upstream_result result;
  fill(t, &result, error, detail);
  transfer_finish(t, &result, now_ns);
}

/* True while the transfer is still this attempt's. */
static bool send_event(struct transfer *t, const char *bytes, size_t size, uint32_t tokens, int64_t now_ns) {
  struct upstream_event event = {.bytes = bytes, .size = size, .tokens = tokens};
  uint32_t serial = t->serial;
  attempt_event(t->attempt, &event, now_ns);
  return t->serial == serial;
}

static void send_done(struct transfer *t, int64_t now_ns) {
  if (!send_event(t, OPENAI_DONE_EVENT, sizeof OPENAI_DONE_EVENT - 1, 0, now_ns)) return;
  t->draining = true;
  transfer_grace(t, now_ns + DRAIN_GRACE_NS);
  end_stream(t, UPSTREAM_OK, NULL, now_ns);
}

static bool take_malformed(struct transfer *t, int64_t now_ns) {
  t->attempt->malformed++;
  if (t->malformed++ == 0) log_warn("provider", "%s: skipped an event that is not a chunk", transfer_name(t));
  if (t->malformed <= MALFORMED_MAX) return true;
  end_stream(t, UPSTREAM_INVALID, "too many events of the stream were malformed", now_ns);
  return false;
}

struct reading {
  struct transfer *t;
  int64_t now_ns;
};

static bool take_chunk(struct reading *r, const struct openai_chunk *chunk, const struct buffer *event) {
  struct transfer *t = r->t;
  const struct request *request = t->attempt->request;
  t->events++;
  if (chunk->kind == OPENAI_CHUNK) {
    int asked = request->spec.choices ? request->spec.choices : 1;
    t->finished = chunk->finished;
    t->complete = chunk->finished && __builtin_popcountll(t->chunks.ended) >= (asked < 64 ? asked : 64);
    t->attempt->complete = t->complete;
  }
  reply_grace(t, t->attempt->paused_ns != 0, r->now_ns);
  if (chunk->kind == OPENAI_USAGE && !request->spec.include_usage) return true;
  return send_event(t, event->bytes, event->size, chunk->content ? 1 : 0, r->now_ns);
}

static bool take_event(void *ctx, const char *type, const char *data, size_t size) {
  struct reading *r = ctx;
  struct transfer *t = r->t;
  const struct request *request = t->attempt->request;
  struct buffer *out = transfer_scratch(t);
  struct openai_chunk chunk;
  buffer_clear(out);
  int error = openai_stream_chunk(&t->chunks, data, size, request->id_text, !request->spec.include_usage,
                                  &chunk, out);
  if (error < 0) {
    end_stream(t, UPSTREAM_TOO_LARGE, "no memory for the answer", r->now_ns);
    return false;
  }
  if (chunk.kind == OPENAI_DONE) {
    if (t->events > 0)
      send_done(t, r->now_ns);
    else
      end_stream(t, UPSTREAM_INVALID, "the stream was empty", r->now_ns);
    return false;
  }
  if (chunk.kind == OPENAI_FAILED || strcmp(type, "error") == 0) {
    end_stream(t, UPSTREAM_INVALID, "the provider reported an error inside the stream", r->now_ns);
    return false;
  }
  if (chunk.kind == OPENAI_MALFORMED) return take_malformed(t, r->now_ns);
  return take_chunk(r, &chunk, out);
}

void reply_read_events(struct transfer *t, int64_t now_ns) {
  if (!t->attempt) {
    buffer_clear(&t->in);
    return;
  }
  struct reading reading = {.t = t, .now_ns = now_ns};
  int stopped = sse_push(&t->sse, t->in.bytes, t->in.size, take_event, &reading);
  if (stopped == 1) return;
  buffer_clear(&t->in);
  if (stopped == -EMSGSIZE)
    end_stream(t, UPSTREAM_TOO_LARGE, "an event of the stream is larger than allowed", now_ns);
  if (stopped == -ENOMEM) end_stream(t, UPSTREAM_TOO_LARGE, "no memory for the answer", now_ns);
}

/* The stream is over and no [DONE] came. */
static void finish_stream(struct transfer *t, int64_t now_ns) {
  if (t->finished) {
    if (send_event(t, OPENAI_DONE_EVENT, sizeof OPENAI_DONE_EVENT - 1, 0, now_ns))
      end_stream(t, UPSTREAM_OK, NULL, now_ns);
  } else if (t->events == 0) {
    end_stream(t, UPSTREAM_INVALID, "the answer is not a stream of events", now_ns);
  } else {
    end_stream(t, UPSTREAM_CUT, "the stream ended without a finish_reason", now_ns);
  }
}

/* ---- whole answers ---- */

static void whole_result(struct transfer *t, struct upstream_result *result) {
  struct buffer repaired = {0}, out = {0}, *body = &t->in;
  struct openai_answer answer;
  if (!utf8_valid(t->in.bytes, t->in.size)) {
    utf8_repair(t->in.bytes, t->in.size, &repaired);
    body = &repaired;
  }
  int error = repaired.failed ? -ENOMEM
                              : openai_rewrite_answer(body->bytes, body->size, t->attempt->request->id_text,
                                                      &answer, &out);
  fill(t, result,
       error == 0         ? UPSTREAM_OK
       : error == -ENOMEM ? UPSTREAM_TOO_LARGE
                          : UPSTREAM_INVALID,
       error == 0 ? NULL : "the answer is not a chat completion");
  if (error == 0) {
    result->usage_known = answer.usage.known;
    result->tokens_in = answer.usage.tokens_in;
    result->tokens_cached = answer.usage.tokens_cached;
    result->tokens_out = answer.usage.tokens_out;
    result->cost_usd = answer.usage.cost_usd;
    result->body = buffer_take(&out, &result->body_size);
  }
  buffer_free(&repaired);
  buffer_free(&out);
}

/* The provider's own words, as JSON and without our key, or nothing. */
static void take_error_body(struct transfer *t, struct upstream_result *result) {
  const char *secret = transfer_secret(t);
  struct buffer out = {0};
  struct json_scan s;
  size_t secret_size = strlen(secret);
  utf8_repair(t->in.bytes, t->in.size, &out);
  bool leaks = secret_size > 0 && out.size > 0 && memmem(out.bytes, out.size, secret, secret_size);
  bool json = !out.failed && !leaks && json_scan(&s, out.bytes, out.size, 0, false) == 0;
  if (!out.failed && !leaks) json_release(&s);
  if (json) result->body = buffer_take(&out, &result->body_size);
  buffer_free(&out);
}

static void status_result(struct transfer *t, struct upstream_result *result) {
  int status = t->headers.status;
  snprintf(t->detail, sizeof t->detail, "HTTP status %d", status);
  if (status < 400) {
    fill(t, result, UPSTREAM_INVALID, "the provider redirects; put the final address into base_url");
    return;
  }
  fill(t, result, UPSTREAM_STATUS, t->detail);
  if (status != 401 && status != 403) take_error_body(t, result);
}

/* ---- broken connections ---- */

static enum upstream_error classify(CURLcode code, bool any_answer) {
  switch (code) {
  case CURLE_COULDNT_RESOLVE_HOST:
  case CURLE_COULDNT_RESOLVE_PROXY:
  case CURLE_COULDNT_CONNECT:
  case CURLE_OPERATION_TIMEDOUT:
  case CURLE_SSL_CONNECT_ERROR:
  case CURLE_PEER_FAILED_VERIFICATION:
  case CURLE_SSL_CACERT_BADFILE:
    return UPSTREAM_CONNECT;
  case CURLE_GOT_NOTHING:
  case CURLE_SEND_ERROR:
  case CURLE_RECV_ERROR:
  case CURLE_ABORTED_BY_CALLBACK:
    return any_answer ? UPSTREAM_CUT : UPSTREAM_RESET;
  case CURLE_PARTIAL_FILE:
  case CURLE_HTTP2_STREAM:
    return UPSTREAM_CUT;
  default:
    return UPSTREAM_INVALID;
  }
}

static const char *explain(const struct transfer *t, CURLcode code) {
  if (code != CURLE_PEER_FAILED_VERIFICATION && code != CURLE_SSL_CACERT_BADFILE)
    return curl_easy_strerror(code);
  static const char untrusted[] =
      "its certificate is not trusted; name who vouches for it in the provider's ca_file (PEM)";
  log_warn("provider", "%s: %s", transfer_name(t), untrusted);
  return untrusted;
}

void reply_end(struct transfer *t, CURLcode code, int64_t now_ns) {
  struct upstream_result result;
  bool success = t->headers.status / 100 == 2;
  if (t->failure == UPSTREAM_OK && t->stream && success && (code == CURLE_OK || t->finished)) {
    finish_stream(t, now_ns);
    return;
  }
  if (t->failure != UPSTREAM_OK)
    fill(t, &result, t->failure, t->failure_detail);
  else if (code != CURLE_OK)
    fill(t, &result, classify(code, t->headers.status != 0), explain(t, code));
  else if (!success)
    status_result(t, &result);
  else
    whole_result(t, &result);
  transfer_finish(t, &result, now_ns);
}
