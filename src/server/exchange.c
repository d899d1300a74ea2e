/* One request and its answer.
 *
 *   NEW ─► RECEIVING ─► HANDLED ─► ANSWERED        any ─► ABORTED
 *    └───► DRAINING ──────────────────┘
 *
 * libmicrohttpd calls exchange_step for the headers, for each piece of body, and a last time for the whole
 * request. The handler then owns the exchange. When it has no answer ready the connection is suspended; the
 * answer resumes it, and the step after that queues the response. `suspended` is true exactly between our
 * suspend and our resume, since the library forgets a suspend that follows a pending resume, and a connection
 * that was resumed twice.
 *
 * A streamed answer is pulled: the library asks stream_read for bytes, which suspends when the backlog is
 * empty; the next write resumes. The response is queued with the first bytes, so that header and first chunk
 * leave together.
 *
 * A refusal of a body that is too large is only sent once the body has been read: closing a socket with
 * unread bytes resets it, and the client would lose the answer. Beyond DRAIN_LIMIT, or when the client waits
 * for "100 Continue", it is sent at once. */

#include "server/exchange.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

enum { DRAIN_LIMIT = 64 << 20, FIRST_BODY = 4096, FIRST_BACKLOG = 1024, BLOCK = 2048, MOST_ARGUMENTS = 64 };

static void hold(struct exchange *ex, size_t size) {
  if (!ex->front->settings.held) return;
  atomic_fetch_add_explicit(ex->front->settings.held, (int64_t)size, memory_order_relaxed);
  ex->held += size;
}

static void let_fall(struct exchange *ex, size_t size) {
  if (size > ex->held) size = ex->held;
  if (size) atomic_fetch_sub_explicit(ex->front->settings.held, (int64_t)size, memory_order_relaxed);
  ex->held -= size;
}

static void drop_body(struct exchange *ex) {
  let_fall(ex, ex->body_capacity);
  free(ex->body);
  ex->body = NULL;
  ex->body_size = ex->body_capacity = 0;
}

static void release(struct exchange *ex) {
  if (ex->owned || ex->connection) return;
  let_fall(ex, ex->held);
  if (ex->open) ex->front->open--;
  if (ex->response) MHD_destroy_response(ex->response);
  free(ex->body);
  free(ex->backlog);
  free(ex);
}

/* Makes the daemon look at the connection again. */
static void kick(struct exchange *ex) {
  if (!ex->suspended) return;
  ex->suspended = false;
  ex->front->resumed = true;
  MHD_resume_connection(ex->connection);
}

static void suspend(struct exchange *ex) {
  if (ex->suspended) return;
  ex->suspended = true;
  MHD_suspend_connection(ex->connection);
}

static void dress(struct exchange *ex, const char *content_type, const struct front_header *headers,
                  size_t count, bool close) {
  if (content_type) MHD_add_response_header(ex->response, MHD_HTTP_HEADER_CONTENT_TYPE, content_type);
  for (size_t i = 0; i < count; i++)
    MHD_add_response_header(ex->response, headers[i].name, headers[i].value);
  if (close || ex->chunked || ex->front->closing)
    MHD_add_response_header(ex->response, MHD_HTTP_HEADER_CONNECTION, "close");
}

static enum MHD_Result queue(struct exchange *ex) {
  ex->queued = true;
  enum MHD_Result result = MHD_queue_response(ex->connection, (unsigned)ex->status, ex->response);
  MHD_destroy_response(ex->response);
  ex->response = NULL;
  return result;
}

/* The front's own answers. message: nothing that needs escaping in JSON. */
static void refuse(struct exchange *ex, int status, const char *type, const char *code, const char *message) {
  char text[512], id[FRONT_ID_SIZE] = "";
  struct front_header headers[2];
  size_t count = 0;
  int size = snprintf(text, sizeof text,
                      "{\"error\":{\"message\":\"%s\",\"type\":\"%s\",\"param\":null,\"code\":\"%s\"}}",
                      message, type, code);
  if (ex->front->settings.refuses) ex->front->settings.refuses(ex->front->ctx, ex->path, status, id);
  if (id[0]) headers[count++] = (struct front_header){"X-Request-Id", id};
  if (status == 503) headers[count++] = (struct front_header){"Retry-After", "1"};
  ex->status = status;
  ex->response = MHD_create_response_from_buffer((size_t)size, text, MHD_RESPMEM_MUST_COPY);
  if (!ex->response)
    ex->state = EXCHANGE_ABORTED;
  else
    dress(ex, "application/json", headers, count, true);
}

static void escape_quotes(const char *from, char *to, size_t size) {
  size_t n = 0;
  for (; *from && n + 2 < size; from++) {
    if (*from == '"' || *from == '\\') to[n++] = '\\';
    to[n++] = *from;
  }
  to[n] = '\0';
}

static void refuse_size(struct exchange *ex) {
  char message[160];
  snprintf(
      message, sizeof message,
      "the request body is larger than the limit of %zu bytes; send less, or raise server.body_limit_mib",
      ex->front->settings.body_limit);
  refuse(ex, 413, "invalid_request_error", "request_too_large", message);
}

static void refuse_memory(struct exchange *ex) {
  refuse(ex, 503, "overloaded_error", "memory_limit",
         "The daemon holds as many bytes as it may (server.memory_mib). Try again after the time in "
         "Retry-After.");
}

static enum MHD_Result answer_now(struct exchange *ex) {
  if (ex->state == EXCHANGE_ABORTED) return MHD_NO;
  ex->state = EXCHANGE_ANSWERED;
  peer_enter(ex->peer, PEER_SENDING);
  return queue(ex);
}

/* Past some 150 arguments of a query libmicrohttpd runs out of the connection's memory and never answers. So
 * such a request is refused while its first line is read, when only the socket itself takes an answer. */
static bool crowded(const char *uri) {
  const char *query = strchr(uri, '?');
  unsigned arguments = 0;
  for (; query; query = strchr(query + 1, '&'))
    arguments++;
  return arguments > MOST_ARGUMENTS;
}

static void refuse_at_once(const struct peer *peer) {
  static const char body[] = "{\"error\":{\"message\":\"the query has too many arguments; send at most "
                             "64\",\"type\":\"invalid_request_error\","
                             "\"param\":null,\"code\":\"query_too_long\"}}";
  char text[512];
  int size = snprintf(text, sizeof text,
                      "HTTP/1.1 414 URI Too Long\r\nConnection: close\r\nContent-Type: application/json\r\n"
                      "Content-Length: %zu\r\n\r\n%s",
                      sizeof body - 1, body);
  send(peer->watch.fd, text, (size_t)size, MSG_NOSIGNAL | MSG_DONTWAIT);
  shutdown(peer->watch.fd, SHUT_WR);
}

void *exchange_open(void *front, const char *uri, struct MHD_Connection *connection) {
  const union MHD_ConnectionInfo *info =
      MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
  struct peer *peer = info ? info->socket_context : NULL;
  if (peer && crowded(uri)) {
    refuse_at_once(peer);
    return NULL;
  }
  struct exchange *ex = peer && !peer->cut ? calloc(1, sizeof *ex) : NULL;
  if (!ex) return NULL;
  *ex = (struct exchange){.front = front, .peer = peer, .connection = connection, .path = "", .method = ""};
  peer->exchange = ex;
  peer_enter(peer, PEER_HEADERS);
  return ex;
}

static enum MHD_Result read_headers(struct exchange *ex, const char *version) {
  struct framing framing;
  framing_read(ex->connection, version, &framing);
  if (framing.refusal) {
    char message[200];
    escape_quotes(framing.refusal, message, sizeof message);
    refuse(ex, 400, "invalid_request_error", "bad_framing", message);
    return answer_now(ex);
  }
  size_t limit = ex->front->settings.body_limit;
  ex->chunked = framing.chunked;
  ex->expected = framing.length;
  if (framing.length > limit) {
    if (framing.expects_continue || framing.length > limit + DRAIN_LIMIT) {
      refuse_size(ex);
      return answer_now(ex);
    }
    ex->state = EXCHANGE_DRAINING;
  } else {
    ex->state = EXCHANGE_RECEIVING;
  }
  if (framing.length || framing.chunked) peer_enter(ex->peer, PEER_BODY);
  return MHD_YES;
}

static bool grow_body(struct exchange *ex, size_t need) {
  size_t capacity = ex->body_capacity ? ex->body_capacity : FIRST_BODY;
  while (capacity < need)
    capacity *= 2;
  if (ex->expected && capacity > ex->expected + 1 && ex->expected + 1 >= need) capacity = ex->expected + 1;
  if (capacity == ex->body_capacity) return true;
  const struct front_settings *s = &ex->front->settings;
  bool small = capacity <= FIRST_BODY; /* or nobody could raise the limit any more */
  if (!small && s->has_room && !s->has_room(ex->front->ctx, capacity - ex->body_capacity)) return false;
  char *body = realloc(ex->body, capacity);
  if (!body) return false;
  hold(ex, capacity - ex->body_capacity);
  ex->body = body;
  ex->body_capacity = capacity;
  return true;
}

static enum MHD_Result take_data(struct exchange *ex, const char *data, size_t size) {
  if (ex->state == EXCHANGE_RECEIVING && ex->body_size + size > ex->front->settings.body_limit) {
    drop_body(ex);
    ex->state = EXCHANGE_DRAINING;
  }
  if (ex->state == EXCHANGE_RECEIVING && !grow_body(ex, ex->body_size + size + 1)) {
    ex->overfull = true;
    drop_body(ex);
    ex->state = EXCHANGE_DRAINING;
  }
  if (ex->state == EXCHANGE_DRAINING) {
    ex->drained += size;
    return ex->drained > DRAIN_LIMIT + ex->front->settings.body_limit ? MHD_NO : MHD_YES;
  }
  memcpy(ex->body + ex->body_size, data, size);
  ex->body_size += size;
  ex->body[ex->body_size] = '\0';
  return MHD_YES;
}

static enum MHD_Result after_handler(struct exchange *ex) {
  if (ex->state == EXCHANGE_ANSWERED) return queue(ex);
  if (ex->state == EXCHANGE_ABORTED) return MHD_NO;
  suspend(ex);
  if (ex->peer->hung_up) peer_recheck(ex->peer);
  return MHD_YES;
}

/* "http://host/path", as clients write it for a proxy, means the same here (RFC 9112, section 3.2.2). */
static const char *origin_form(const char *target) {
  if (strncasecmp(target, "http://", 7) != 0) return target;
  const char *path = strchr(target + 7, '/');
  return path ? path : "/";
}

static enum MHD_Result dispatch(struct exchange *ex, const char *path, const char *method) {
  struct front *front = ex->front;
  ex->path = origin_form(path);
  ex->method = method;
  ex->state = EXCHANGE_HANDLED;
  ex->owned = ex->open = true;
  front->open++;
  front->dispatched = true;
  peer_enter(ex->peer, PEER_WAITING);
  front->handler(front->ctx, ex, evloop_now_ns(front->loop));
  return after_handler(ex);
}

enum MHD_Result exchange_step(void *front, struct MHD_Connection *connection, const char *path,
                              const char *method, const char *version, const char *data, size_t *size,
                              void **request) {
  (void)front;
  (void)connection;
  struct exchange *ex = *request;
  if (!ex) return MHD_NO;
  if (ex->state == EXCHANGE_NEW) {
    ex->path = origin_form(path);
    return read_headers(ex, version);
  }
  if (*size) {
    enum MHD_Result result = take_data(ex, data, *size);
    *size = 0;
    return result;
  }
  switch (ex->state) {
  case EXCHANGE_RECEIVING:
    return dispatch(ex, path, method);
  case EXCHANGE_DRAINING:
    if (ex->overfull)
      refuse_memory(ex);
    else
      refuse_size(ex);
    return answer_now(ex);
  case EXCHANGE_HANDLED:
  case EXCHANGE_ANSWERED:
  case EXCHANGE_ABORTED:
    return ex->queued ? MHD_YES : after_handler(ex);
  case EXCHANGE_NEW:
    break;
  }
  return MHD_NO;
}

static void tell_gone(struct exchange *ex, int64_t now_ns) {
  if (!ex->owned || !ex->gone) return;
  ex->owned = false;
  ex->gone(ex, ex->owner, now_ns);
}

void exchange_completed(void *front, struct MHD_Connection *connection, void **request,
                        enum MHD_RequestTerminationCode code) {
  (void)connection;
  (void)code;
  struct exchange *ex = *request;
  if (!ex) return;
  *request = NULL;
  struct peer *peer = ex->peer;
  ex->peer = NULL;
  ex->connection = NULL;
  ex->suspended = false;
  ex->path = ex->method = "";
  ex->state = EXCHANGE_ABORTED; /* whatever the handler still says goes nowhere */
  peer->exchange = NULL;
  peer_enter(peer, PEER_IDLE);
  if (((struct front *)front)->closing) peer_cut(peer);
  tell_gone(ex, evloop_now_ns(ex->front->loop));
  release(ex);
}

void exchange_client_left(struct exchange *ex, int64_t now_ns) {
  if (!ex->owned) return; /* nobody works for it: the daemon sends what is left, or sees the end by itself */
  ex->state = EXCHANGE_ABORTED;
  peer_cut(ex->peer);
  tell_gone(ex, now_ns);
  kick(ex);
}

void exchange_drop(struct exchange *ex) {
  ex->owned = false;
  ex->state = EXCHANGE_ABORTED;
  peer_cut(ex->peer);
  kick(ex);
}

const char *exchange_method(const struct exchange *ex) {
  return ex->method;
}

const char *exchange_path(const struct exchange *ex) {
  return ex->path;
}

const char *exchange_header(const struct exchange *ex, const char *name) {
  return ex->connection ? MHD_lookup_connection_value(ex->connection, MHD_HEADER_KIND, name) : NULL;
}

const char *exchange_query(const struct exchange *ex, const char *name) {
  return ex->connection ? MHD_lookup_connection_value(ex->connection, MHD_GET_ARGUMENT_KIND, name) : NULL;
}

const char *exchange_body(const struct exchange *ex, size_t *size) {
  *size = ex->body_size;
  return ex->body ? ex->body : "";
}

char *exchange_take_body(struct exchange *ex, size_t *size) {
  char *body = ex->body;
  *size = ex->body_size;
  let_fall(ex, ex->body_capacity);
  ex->body = NULL;
  ex->body_size = ex->body_capacity = 0;
  return body;
}

void exchange_set_owner(struct exchange *ex, void *owner) {
  ex->owner = owner;
}

void *exchange_owner(const struct exchange *ex) {
  return ex->owner;
}

void exchange_on_gone(struct exchange *ex, void (*gone)(struct exchange *, void *, int64_t)) {
  ex->gone = gone;
}

/* The handler has said its last word. */
static void let_go(struct exchange *ex) {
  ex->owned = false;
  kick(ex);
  release(ex);
}

void exchange_reply_owned(struct exchange *ex, int status, const char *content_type, char *body, size_t size,
                          const struct front_header *headers, size_t count) {
  assert(ex->owned && !ex->stream);
  if (ex->state == EXCHANGE_HANDLED) {
    ex->response = MHD_create_response_from_buffer(size, body, MHD_RESPMEM_MUST_FREE);
    if (ex->response) {
      body = NULL;
      hold(ex, size);
    }
    ex->state = ex->response ? EXCHANGE_ANSWERED : EXCHANGE_ABORTED;
  }
  free(body);
  if (ex->state == EXCHANGE_ANSWERED) {
    ex->status = status;
    dress(ex, content_type, headers, count, false);
    peer_enter(ex->peer, PEER_SENDING);
  }
  let_go(ex);
}

void exchange_reply(struct exchange *ex, int status, const char *content_type, const void *body, size_t size,
                    const struct front_header *headers, size_t count) {
  char *copy = malloc(size ? size : 1);
  if (!copy) {
    exchange_abort(ex);
    return;
  }
  if (size) memcpy(copy, body, size);
  exchange_reply_owned(ex, status, content_type, copy, size, headers, count);
}

/* The daemon's pull. Runs inside MHD_run. */
static ssize_t stream_read(void *ctx, uint64_t position, char *out, size_t max) {
  (void)position;
  struct exchange *ex = ctx;
  if (ex->state == EXCHANGE_ABORTED) return MHD_CONTENT_READER_END_WITH_ERROR;
  size_t waiting = ex->filled - ex->sent;
  if (waiting) {
    size_t n = waiting < max ? waiting : max;
    memcpy(out, ex->backlog + ex->sent, n);
    ex->sent += n;
    if (ex->sent == ex->filled) ex->sent = ex->filled = 0;
    return (ssize_t)n;
  }
  if (ex->ended) return MHD_CONTENT_READER_END_OF_STREAM;
  suspend(ex);
  return 0;
}

void exchange_begin(struct exchange *ex, int status, const char *content_type,
                    const struct front_header *headers, size_t count) {
  assert(ex->owned && !ex->stream);
  ex->stream = true;
  if (ex->state != EXCHANGE_HANDLED) return;
  ex->status = status;
  ex->response = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, BLOCK, stream_read, ex, NULL);
  if (ex->response)
    dress(ex, content_type, headers, count, false);
  else
    ex->state = EXCHANGE_ABORTED;
}

static bool append(struct exchange *ex, const void *bytes, size_t size) {
  if (ex->sent && ex->filled + size > ex->backlog_capacity) {
    memmove(ex->backlog, ex->backlog + ex->sent, ex->filled - ex->sent);
    ex->filled -= ex->sent;
    ex->sent = 0;
  }
  if (ex->filled + size > ex->backlog_capacity) {
    size_t capacity = ex->backlog_capacity ? ex->backlog_capacity : FIRST_BACKLOG;
    while (capacity < ex->filled + size)
      capacity *= 2;
    char *backlog = realloc(ex->backlog, capacity);
    if (!backlog) return false;
    ex->backlog = backlog;
    ex->backlog_capacity = capacity;
  }
  memcpy(ex->backlog + ex->filled, bytes, size);
  ex->filled += size;
  return true;
}

/* The response may be queued now. */
static void stream_start(struct exchange *ex) {
  if (ex->state != EXCHANGE_HANDLED) return;
  ex->state = EXCHANGE_ANSWERED;
  peer_enter(ex->peer, PEER_SENDING);
}

size_t exchange_write(struct exchange *ex, const void *bytes, size_t size) {
  assert(ex->owned && ex->stream && !ex->ended);
  if (ex->state == EXCHANGE_ABORTED || !size) return ex->filled - ex->sent;
  if (!append(ex, bytes, size)) {
    ex->state = EXCHANGE_ABORTED;
    peer_cut(ex->peer);
  }
  stream_start(ex);
  kick(ex);
  return ex->filled - ex->sent;
}

void exchange_end(struct exchange *ex) {
  assert(ex->owned && ex->stream);
  ex->ended = true;
  stream_start(ex);
  let_go(ex);
}

void exchange_abort(struct exchange *ex) {
  assert(ex->owned);
  ex->state = EXCHANGE_ABORTED;
  if (ex->peer) peer_cut(ex->peer);
  let_go(ex);
}
