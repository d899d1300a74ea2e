/* The wire of provider/wire.h does the work with libcurl; here are calls with a body and a time limit. A
 * finished handle goes back to a pool and keeps what was set once. */

#include "sim/caller.h"

#include "provider/wire.h"
#include "sys/clock.h"
#include "sys/evloop.h"

#include <curl/curl.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

enum { POOLED = 256 };

struct call {
  struct wire_call wire; /* first: cast back */
  struct caller *caller;
  struct curl_slist *headers;
  const struct call_ops *ops;
  void *ctx;
  struct call *next, *previous; /* under way, or in the pool (next only) */
};

struct caller {
  struct wire *wire;
  struct call live; /* ring head */
  struct call *pool;
  unsigned pooled, busy;
  char authorization[256];
};

static size_t on_bytes(char *bytes, size_t one, size_t size, void *ctx) {
  (void)one;
  struct call *call = ctx;
  long status = 0;
  curl_easy_getinfo(call->wire.easy, CURLINFO_RESPONSE_CODE, &status);
  if (call->ops->bytes) call->ops->bytes(call->ctx, (int)status, bytes, size, clock_now_ns());
  return size;
}

struct caller *caller_create(struct evloop *loop, const char *key) {
  struct caller *caller = calloc(1, sizeof *caller);
  if (!caller) return NULL;
  caller->live.next = caller->live.previous = &caller->live;
  if (key) snprintf(caller->authorization, sizeof caller->authorization, "Authorization: Bearer %s", key);
  caller->wire = wire_create(loop);
  if (caller->wire) return caller;
  free(caller);
  return NULL;
}

static void free_call(struct call *call) {
  curl_easy_cleanup(call->wire.easy);
  curl_slist_free_all(call->headers);
  free(call);
}

void caller_destroy(struct caller *caller) {
  if (!caller) return;
  for (struct call *call = caller->live.next, *next; call != &caller->live; call = next) {
    next = call->next;
    wire_stop(&call->wire);
    free_call(call);
  }
  while (caller->pool) {
    struct call *call = caller->pool;
    caller->pool = call->next;
    free_call(call);
  }
  wire_destroy(caller->wire);
  free(caller);
}

static enum call_error error_of(CURLcode code) {
  switch (code) {
  case CURLE_OK:
    return CALL_OK;
  case CURLE_COULDNT_CONNECT:
  case CURLE_COULDNT_RESOLVE_HOST:
    return CALL_CONNECT;
  case CURLE_OPERATION_TIMEDOUT:
    return CALL_TIMED_OUT;
  default:
    return CALL_CUT;
  }
}

static void finished(struct wire_call *wire, CURLcode code, int64_t now_ns) {
  struct call *call = (struct call *)wire;
  struct caller *caller = call->caller;
  const struct call_ops *ops = call->ops;
  void *ctx = call->ctx;
  long status = 0;
  curl_easy_getinfo(wire->easy, CURLINFO_RESPONSE_CODE, &status);
  call->previous->next = call->next;
  call->next->previous = call->previous;
  caller->busy--;
  if (caller->pooled < POOLED) {
    curl_slist_free_all(call->headers);
    call->headers = NULL;
    call->next = caller->pool;
    caller->pool = call;
    caller->pooled++;
  } else {
    free_call(call);
  }
  ops->done(ctx, error_of(code), (int)status, now_ns);
}

static struct call *take_call(struct caller *caller) {
  struct call *call = caller->pool;
  if (call) {
    caller->pool = call->next;
    caller->pooled--;
    return call;
  }
  call = calloc(1, sizeof *call);
  if (!call) return NULL;
  call->caller = caller;
  call->wire.done = finished; /* and no moved(): nothing here touches the wire */
  call->wire.easy = curl_easy_init();
  if (!call->wire.easy || !wire_prepare(caller->wire, &call->wire)) {
    free_call(call);
    return NULL;
  }
  curl_easy_setopt(call->wire.easy, CURLOPT_WRITEFUNCTION, on_bytes);
  curl_easy_setopt(call->wire.easy, CURLOPT_WRITEDATA, call);
  return call;
}

static bool add_header(struct call *call, const char *name, const char *value) {
  char line[320];
  if (!value) return true;
  snprintf(line, sizeof line, "%s%s", name, value);
  struct curl_slist *longer = curl_slist_append(call->headers, line);
  if (longer) call->headers = longer;
  return longer != NULL;
}

int caller_send(struct caller *caller, const char *method, const char *url, const char *session,
                const char *priority, const char *body, size_t size, int64_t timeout_ns,
                const struct call_ops *ops, void *ctx) {
  struct call *call = take_call(caller);
  if (!call) return -ENOMEM;
  CURL *easy = call->wire.easy;
  call->ops = ops;
  call->ctx = ctx;
  const char *authorization = caller->authorization[0] ? caller->authorization : NULL;
  bool fine = add_header(call, "Content-Type: ", "application/json") && add_header(call, "Expect:", "") &&
              add_header(call, "X-Session-Id: ", session) && add_header(call, "X-Priority: ", priority) &&
              add_header(call, "", authorization);
  curl_easy_setopt(easy, CURLOPT_URL, url);
  curl_easy_setopt(easy, CURLOPT_HTTPHEADER, call->headers);
  curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, method);
  curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE, (long)size);
  curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, (long)(timeout_ns / NS_PER_MS));
  fine = fine && curl_easy_setopt(easy, CURLOPT_COPYPOSTFIELDS, body) == CURLE_OK;
  if (!fine || wire_start(&call->wire) < 0) {
    free_call(call);
    return -ENOMEM;
  }
  call->next = &caller->live;
  call->previous = caller->live.previous;
  call->previous->next = call->next->previous = call;
  caller->busy++;
  return 0;
}

unsigned caller_busy(const struct caller *caller) {
  return caller->busy;
}
