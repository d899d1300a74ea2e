/* libcurl says which sockets it waits for and when it wants to be called; each socket is one watch, the time
 * one timer. A finished handle goes back to a pool and keeps its connection in the multi's cache. */

#include "sim/caller.h"

#include "sys/clock.h"
#include "sys/evloop.h"
#include "sys/timer.h"

#include <curl/curl.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

enum { POOLED = 256, CONNECTIONS = 2000 };

struct socket_watch {
  struct watch watch; /* first: the watch is cast back */
  struct caller *caller;
};

struct call {
  CURL *easy;
  struct caller *caller;
  struct curl_slist *headers;
  const struct call_ops *ops;
  void *ctx;
  struct call *next, *previous; /* under way, or in the pool (next only) */
};

struct caller {
  struct timer timer; /* first: cast back */
  struct evloop *loop;
  CURLM *multi;
  struct call live; /* ring head */
  struct call *pool;
  unsigned pooled, busy;
  char authorization[256];
};

static void finish(struct caller *caller, CURL *easy, CURLcode code, int64_t now_ns);

static void collect(struct caller *caller, int64_t now_ns) {
  CURLMsg *message;
  int left;
  while ((message = curl_multi_info_read(caller->multi, &left)))
    if (message->msg == CURLMSG_DONE) finish(caller, message->easy_handle, message->data.result, now_ns);
}

static void socket_ready(struct watch *watch, uint32_t events, int64_t now_ns) {
  struct caller *caller = ((struct socket_watch *)watch)->caller;
  int what = 0, running;
  if (events & EPOLLIN) what |= CURL_CSELECT_IN;
  if (events & EPOLLOUT) what |= CURL_CSELECT_OUT;
  if (events & (EPOLLERR | EPOLLHUP)) what |= CURL_CSELECT_ERR;
  curl_multi_socket_action(caller->multi, watch->fd, what, &running);
  collect(caller, now_ns);
}

static int on_socket(CURL *easy, curl_socket_t fd, int what, void *ctx, void *slot) {
  (void)easy;
  struct caller *caller = ctx;
  struct socket_watch *socket = slot;
  if (what == CURL_POLL_REMOVE) {
    if (socket) evloop_watch(caller->loop, &socket->watch, 0);
    free(socket);
    return 0;
  }
  if (!socket) {
    socket = calloc(1, sizeof *socket);
    if (!socket) return -1;
    socket->watch.fd = fd;
    socket->watch.ready = socket_ready;
    socket->caller = caller;
    curl_multi_assign(caller->multi, fd, socket);
  }
  uint32_t events = (what & CURL_POLL_IN ? EPOLLIN : 0) | (what & CURL_POLL_OUT ? EPOLLOUT : 0);
  return evloop_watch(caller->loop, &socket->watch, events) < 0 ? -1 : 0;
}

static int on_timeout(CURLM *multi, long ms, void *ctx) {
  (void)multi;
  struct caller *caller = ctx;
  struct timers *timers = evloop_timers(caller->loop);
  if (ms < 0)
    timer_disarm(timers, &caller->timer);
  else
    timer_arm(timers, &caller->timer, clock_now_ns() + ms * NS_PER_MS);
  return 0;
}

static void timer_fired(struct timer *timer, int64_t now_ns) {
  struct caller *caller = (struct caller *)timer;
  int running;
  curl_multi_socket_action(caller->multi, CURL_SOCKET_TIMEOUT, 0, &running);
  collect(caller, now_ns);
}

static size_t on_bytes(char *bytes, size_t one, size_t size, void *ctx) {
  (void)one;
  struct call *call = ctx;
  long status = 0;
  curl_easy_getinfo(call->easy, CURLINFO_RESPONSE_CODE, &status);
  if (call->ops->bytes) call->ops->bytes(call->ctx, (int)status, bytes, size, clock_now_ns());
  return size;
}

struct caller *caller_create(struct evloop *loop, const char *key) {
  struct caller *caller = calloc(1, sizeof *caller);
  if (!caller) return NULL;
  caller->loop = loop;
  caller->timer.fire = timer_fired;
  caller->live.next = caller->live.previous = &caller->live;
  if (key) snprintf(caller->authorization, sizeof caller->authorization, "Authorization: Bearer %s", key);
  curl_global_init(CURL_GLOBAL_DEFAULT);
  caller->multi = curl_multi_init();
  if (!caller->multi) {
    caller_destroy(caller);
    return NULL;
  }
  curl_multi_setopt(caller->multi, CURLMOPT_SOCKETFUNCTION, on_socket);
  curl_multi_setopt(caller->multi, CURLMOPT_SOCKETDATA, caller);
  curl_multi_setopt(caller->multi, CURLMOPT_TIMERFUNCTION, on_timeout);
  curl_multi_setopt(caller->multi, CURLMOPT_TIMERDATA, caller);
  curl_multi_setopt(caller->multi, CURLMOPT_MAXCONNECTS, (long)CONNECTIONS);
  return caller;
}

static void free_call(struct call *call) {
  curl_easy_cleanup(call->easy);
  curl_slist_free_all(call->headers);
  free(call);
}

void caller_destroy(struct caller *caller) {
  if (!caller) return;
  for (struct call *call = caller->live.next, *next; call != &caller->live; call = next) {
    next = call->next;
    curl_multi_remove_handle(caller->multi, call->easy);
    free_call(call);
  }
  while (caller->pool) {
    struct call *call = caller->pool;
    caller->pool = call->next;
    free_call(call);
  }
  if (caller->multi) curl_multi_cleanup(caller->multi);
  timer_disarm(evloop_timers(caller->loop), &caller->timer);
  curl_global_cleanup();
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

static void finish(struct caller *caller, CURL *easy, CURLcode code, int64_t now_ns) {
  struct call *call = NULL;
  long status = 0;
  curl_easy_getinfo(easy, CURLINFO_PRIVATE, (char **)&call);
  curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
  const struct call_ops *ops = call->ops;
  void *ctx = call->ctx;
  curl_multi_remove_handle(caller->multi, easy);
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
  call->easy = curl_easy_init();
  if (!call->easy) {
    free(call);
    return NULL;
  }
  curl_easy_setopt(call->easy, CURLOPT_PRIVATE, call);
  curl_easy_setopt(call->easy, CURLOPT_WRITEFUNCTION, on_bytes);
  curl_easy_setopt(call->easy, CURLOPT_WRITEDATA, call);
  curl_easy_setopt(call->easy, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(call->easy, CURLOPT_PROXY, "");
  curl_easy_setopt(call->easy, CURLOPT_TCP_NODELAY, 1L);
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
  call->ops = ops;
  call->ctx = ctx;
  const char *authorization = caller->authorization[0] ? caller->authorization : NULL;
  bool fine = add_header(call, "Content-Type: ", "application/json") && add_header(call, "Expect:", "") &&
              add_header(call, "X-Session-Id: ", session) && add_header(call, "X-Priority: ", priority) &&
              add_header(call, "", authorization);
  curl_easy_setopt(call->easy, CURLOPT_URL, url);
  curl_easy_setopt(call->easy, CURLOPT_HTTPHEADER, call->headers);
  curl_easy_setopt(call->easy, CURLOPT_CUSTOMREQUEST, method);
  curl_easy_setopt(call->easy, CURLOPT_POSTFIELDSIZE, (long)size);
  curl_easy_setopt(call->easy, CURLOPT_TIMEOUT_MS, (long)(timeout_ns / NS_PER_MS));
  fine = fine && curl_easy_setopt(call->easy, CURLOPT_COPYPOSTFIELDS, body) == CURLE_OK;
  if (!fine || curl_multi_add_handle(caller->multi, call->easy) != CURLM_OK) {
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
