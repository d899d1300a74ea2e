/* Transfers are pooled: an easy handle gets what never changes once (address, headers, callbacks), a call
 * sets its body and no more. Idle transfers are kept up to the greatest number that was ever under way.
 *
 * Stale connections: a kept connection that the provider has closed in the meantime is found when the request
 * is sent on it, or when no byte comes back. libcurl then sends the request once more; FRESH_CONNECT, set at
 * the first sending, makes it do so on a new connection and so only once. */

#include "provider/openai_upstream.h"

#include "dialect/openai.h"
#include "pipeline/request.h"
#include "provider/local.h"
#include "provider/provider.h"
#include "provider/transfer.h"
#include "sys/clock.h"
#include "sys/timer.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { KEPT_BUFFER = 16384 };

struct openai_upstream {
  struct upstream upstream;
  const struct provider_settings *settings;
  unsigned provider;
  struct local_pool *pool;
  struct wire *wire;
  struct timers *timers;
  CURLU *url; /* parsed once; NULL: every local instance has its own */
  struct curl_slist *headers;
  struct transfer *all, *idle;
  struct buffer scratch;
};

/* ---- pooled transfers ---- */

static int before_sending(void *ctx, char *remote_ip, char *local_ip, int remote_port, int local_port) {
  struct transfer *t = ctx;
  (void)remote_ip;
  (void)local_ip;
  (void)remote_port;
  (void)local_port;
  if (t->sends++ == 0) curl_easy_setopt(t->call.easy, CURLOPT_FRESH_CONNECT, 1L);
  return CURL_PREREQFUNC_OK;
}

static void call_moved(struct wire_call *call, int64_t now_ns);
static void call_done(struct wire_call *call, CURLcode code, int64_t now_ns);
static void grace_over(struct timer *timer, int64_t now_ns);

static bool set_constants(struct openai_upstream *u, struct transfer *t) {
  CURL *easy = t->call.easy;
  CURLcode bad = CURLE_OK;
  if (u->url) bad |= curl_easy_setopt(easy, CURLOPT_CURLU, u->url);
  if (u->settings->ca_file[0]) bad |= curl_easy_setopt(easy, CURLOPT_CAINFO, u->settings->ca_file);
  bad |= curl_easy_setopt(easy, CURLOPT_HTTPHEADER, u->headers);
  bad |= curl_easy_setopt(easy, CURLOPT_USERAGENT, "self-improve");
  bad |= curl_easy_setopt(easy, CURLOPT_ACCEPT_ENCODING,
                          "identity"); /* asks for none, decodes what comes all the same */
  bad |= curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, reply_take_body);
  bad |= curl_easy_setopt(easy, CURLOPT_WRITEDATA, t);
  bad |= curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, reply_take_header);
  bad |= curl_easy_setopt(easy, CURLOPT_HEADERDATA, t);
  bad |= curl_easy_setopt(easy, CURLOPT_PREREQFUNCTION, before_sending);
  bad |= curl_easy_setopt(easy, CURLOPT_PREREQDATA, t);
  return bad == CURLE_OK && wire_prepare(u->wire, &t->call);
}

static void transfer_free(struct transfer *t) {
  if (t->call.easy) curl_easy_cleanup(t->call.easy);
  buffer_free(&t->request);
  buffer_free(&t->in);
  sse_free(&t->sse);
  free(t);
}

static struct transfer *transfer_create(struct openai_upstream *u) {
  struct transfer *t = calloc(1, sizeof *t);
  if (!t) return NULL;
  t->owner = u;
  t->call.moved = call_moved;
  t->call.done = call_done;
  t->grace.fire = grace_over;
  sse_init(&t->sse, transfer_limit(t));
  t->call.easy = curl_easy_init();
  if (!t->call.easy || !set_constants(u, t)) {
    transfer_free(t);
    return NULL;
  }
  t->next_of_all = u->all;
  u->all = t;
  return t;
}

static struct transfer *take_transfer(struct openai_upstream *u) {
  struct transfer *t = u->idle;
  if (!t) return transfer_create(u);
  u->idle = t->next;
  return t;
}

static void recycle(struct transfer *t) {
  struct openai_upstream *u = t->owner;
  timer_disarm(u->timers, &t->grace);
  wire_stop(&t->call);
  if (t->instance) local_release(u->pool, t->instance);
  t->instance = NULL;
  t->attempt = NULL;
  t->serial++;
  buffer_trim(&t->request, KEPT_BUFFER);
  buffer_trim(&t->in, KEPT_BUFFER);
  t->next = u->idle;
  u->idle = t;
}

/* ---- for transfer.c ---- */

void transfer_finish(struct transfer *t, struct upstream_result *result, int64_t now_ns) {
  struct attempt *attempt = t->attempt;
  t->attempt = NULL;
  t->serial++;
  if (!t->draining || !t->call.running) recycle(t);
  attempt_done(attempt, result, now_ns);
}

void transfer_grace(struct transfer *t, int64_t due_ns) {
  if (due_ns == NS_NEVER)
    timer_disarm(t->owner->timers, &t->grace);
  else
    timer_arm(t->owner->timers, &t->grace, due_ns);
}

struct buffer *transfer_scratch(struct transfer *t) {
  return &t->owner->scratch;
}

size_t transfer_limit(const struct transfer *t) {
  size_t limit = t->owner->settings->answer_limit;
  return limit ? limit : PROVIDER_ANSWER_LIMIT;
}

const char *transfer_name(const struct transfer *t) {
  return t->owner->settings->name;
}

const char *transfer_secret(const struct transfer *t) {
  return t->owner->settings->api_key;
}

/* ---- what the wire tells ---- */

static struct transfer *transfer_of(struct wire_call *call) {
  return (struct transfer *)((char *)call - offsetof(struct transfer, call));
}

static void call_moved(struct wire_call *call, int64_t now_ns) {
  reply_read_events(transfer_of(call), now_ns);
}

static void call_done(struct wire_call *call, CURLcode code, int64_t now_ns) {
  struct transfer *t = transfer_of(call);
  if (t->attempt)
    reply_end(t, code, now_ns);
  else
    recycle(t);
}

/* A finished stream whose provider says nothing more, or a message that does not end: the connection is given
 * up. */
static void grace_over(struct timer *timer, int64_t now_ns) {
  struct transfer *t = (struct transfer *)((char *)timer - offsetof(struct transfer, grace));
  wire_stop(&t->call);
  call_done(&t->call, CURLE_OK, now_ns);
}

/* ---- the seam ---- */

static struct openai_upstream *upstream_of(struct upstream *upstream) {
  return (struct openai_upstream *)((char *)upstream - offsetof(struct openai_upstream, upstream));
}

static bool same_model(const struct request *request, const char *model) {
  size_t size = strlen(model);
  const char *value = request->spec.body + request->spec.model_at;
  return request->spec.model_size == size + 2 && memcmp(value + 1, model, size) == 0;
}

/* The client's own bytes when nothing is to be edited, else a copy. */
static int set_body(struct openai_upstream *u, struct transfer *t, const struct request *request) {
  const struct request_spec *spec = &request->spec;
  const char *bytes = spec->body;
  size_t size = spec->body_size;
  bool add_usage = spec->stream && !spec->include_usage;
  if (add_usage || !same_model(request, u->settings->model)) {
    int error = openai_prepare_body(spec->body, spec->body_size, spec->model_at, spec->model_size,
                                    u->settings->model, add_usage, &t->request);
    if (error < 0) return error;
    bytes = t->request.bytes;
    size = t->request.size;
  }
  CURLcode bad = curl_easy_setopt(t->call.easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)size);
  bad |= curl_easy_setopt(t->call.easy, CURLOPT_POSTFIELDS, bytes);
  bad |= curl_easy_setopt(t->call.easy, CURLOPT_FRESH_CONNECT, 0L);
  return bad == CURLE_OK ? 0 : -ENOMEM;
}

static int choose_instance(struct openai_upstream *u, struct transfer *t) {
  if (!u->pool) return 0;
  t->instance = local_acquire(u->pool, u->provider);
  if (!t->instance) return -ENOTCONN;
  return curl_easy_setopt(t->call.easy, CURLOPT_URL, local_url(t->instance)) == CURLE_OK ? 0 : -ENOMEM;
}

static int start(struct upstream *upstream, struct attempt *attempt, int64_t now_ns) {
  struct openai_upstream *u = upstream_of(upstream);
  struct transfer *t = take_transfer(u);
  (void)now_ns;
  if (!t) return -ENOMEM;
  t->stream = attempt->request->spec.stream;
  reply_reset(t);
  int error = choose_instance(u, t);
  if (error == 0) error = set_body(u, t, attempt->request);
  if (error == 0) error = wire_start(&t->call);
  if (error < 0) {
    recycle(t);
    return error;
  }
  t->attempt = attempt;
  attempt->transport = t;
  return 0;
}

static void cancel(struct upstream *upstream, struct attempt *attempt) {
  struct transfer *t = attempt->transport;
  (void)upstream;
  if (!t) return;
  attempt->transport = NULL;
  recycle(t);
}

static void pause_stream(struct upstream *upstream, struct attempt *attempt, bool paused) {
  struct transfer *t = attempt->transport;
  (void)upstream;
  if (!t) return;
  if (t->complete) reply_grace(t, paused, clock_now_ns());
  curl_easy_pause(t->call.easy, paused ? CURLPAUSE_RECV : CURLPAUSE_CONT);
}

static const struct upstream_ops ops = {.start = start, .cancel = cancel, .pause = pause_stream};

/* ---- life ---- */

static bool add_header(struct openai_upstream *u, const char *line) {
  struct curl_slist *grown = curl_slist_append(u->headers, line);
  if (!grown) return false;
  u->headers = grown;
  return true;
}

static bool build_headers(struct openai_upstream *u) {
  char line[PROVIDER_KEY_SIZE + 32];
  bool good =
      add_header(u, "Content-Type: application/json") && add_header(u, "Accept:") && add_header(u, "Expect:");
  if (!u->settings->api_key[0]) return good;
  snprintf(line, sizeof line, "Authorization: Bearer %s", u->settings->api_key);
  return good && add_header(u, line);
}

static bool parse_url(struct openai_upstream *u) {
  char url[PROVIDER_URL_SIZE + 32], error[1];
  if (u->pool) return true;
  if (provider_chat_url(u->settings->base_url, url, sizeof url, error, sizeof error) < 0) return false;
  u->url = curl_url();
  return u->url && curl_url_set(u->url, CURLUPART_URL, url, 0) == CURLUE_OK;
}

struct upstream *openai_upstream_create(const struct provider_settings *settings, unsigned provider,
                                        struct local_pool *pool, struct wire *wire, struct timers *timers) {
  struct openai_upstream *u = calloc(1, sizeof *u);
  if (!u) return NULL;
  *u = (struct openai_upstream){.upstream.ops = &ops,
                                .settings = settings,
                                .provider = provider,
                                .pool = settings->local ? pool : NULL,
                                .wire = wire,
                                .timers = timers};
  if (parse_url(u) && build_headers(u)) return &u->upstream;
  openai_upstream_destroy(&u->upstream);
  return NULL;
}

void openai_upstream_destroy(struct upstream *upstream) {
  if (!upstream) return;
  struct openai_upstream *u = upstream_of(upstream);
  while (u->all) { /* some may still be draining */
    struct transfer *t = u->all;
    u->all = t->next_of_all;
    timer_disarm(u->timers, &t->grace);
    wire_stop(&t->call);
    transfer_free(t);
  }
  curl_slist_free_all(u->headers);
  curl_url_cleanup(u->url);
  buffer_free(&u->scratch);
  free(u);
}
