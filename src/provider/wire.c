/* Sockets are watched with few system calls: when libcurl lets go of a connection's socket, the watch on it
 * stays, for the next call will want the same. Should the peer speak or close meanwhile, the watch ends then;
 * libcurl finds the connection dead when it next looks. This needs to know when a socket closes, so only
 * sockets that we opened ourselves are treated so; others (libcurl's own, of its resolver) come and go as it
 * says.
 *
 * A call that was added leaves in the same turn: libcurl asks for a time-out of 0, and the turn's hook grants
 * it. A timer stands in when whoever starts calls runs after the hook. */

#include "provider/wire.h"

#include "sys/clock.h"
#include "sys/evloop.h"
#include "sys/timer.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { KEPT_CONNECTIONS = 1024, RECEIVE_BYTES = 8192, ROUNDS_A_TURN = 8 };

#define CONNECT_MS                                                                                           \
  5000L /* name, TCP and TLS together: a host that is gone is not waited for like an answer */

struct wire_socket {
  struct watch watch;
  struct wire *wire;
  uint32_t wanted; /* by libcurl; the watch may have more while this is 0 */
  bool ours;       /* opened by open_socket, and so closed by close_socket */
};

struct wire {
  struct evloop *loop;
  CURLM *multi;
  struct timer timer;
  struct turn_hook hook;
  bool due;       /* libcurl wants to run at once */
  bool delivered; /* a call was told something */
  struct wire_call *touched;
  struct wire_socket **sockets; /* by descriptor */
  size_t socket_count;
};

static void initialise_curl(void) {
  curl_global_init(CURL_GLOBAL_DEFAULT);
}

void wire_initialise(void) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, initialise_curl);
}

/* ---- news for calls ---- */

static void untouch(struct wire *w, struct wire_call *call) {
  if (!call->touched) return;
  call->touched = false;
  if (call->previous)
    call->previous->next = call->next;
  else
    w->touched = call->next;
  if (call->next) call->next->previous = call->previous;
}

void wire_touch(struct wire_call *call) {
  struct wire *w = call->wire;
  if (call->touched) return;
  call->touched = true;
  call->previous = NULL;
  call->next = w->touched;
  if (call->next) call->next->previous = call;
  w->touched = call;
}

static void deliver_ends(struct wire *w, int64_t now_ns) {
  CURLMsg *message;
  int left;
  while ((message = curl_multi_info_read(w->multi, &left))) {
    if (message->msg != CURLMSG_DONE) continue;
    CURLcode code = message->data.result;
    struct wire_call *call = NULL;
    curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, (char **)&call);
    wire_stop(call);
    w->delivered = true;
    call->done(call, code, now_ns);
  }
}

static void act(struct wire *w, curl_socket_t fd, int events, int64_t now_ns) {
  int running;
  curl_multi_socket_action(w->multi, fd, events, &running);
  while (w->touched) {
    struct wire_call *call = w->touched;
    untouch(w, call);
    w->delivered = true;
    call->moved(call, now_ns);
  }
  deliver_ends(w, now_ns);
}

/* ---- time ---- */

static int want_timer(CURLM *multi, long timeout_ms, void *ctx) {
  struct wire *w = ctx;
  (void)multi;
  w->due = timeout_ms == 0;
  if (timeout_ms < 0) {
    timer_disarm(evloop_timers(w->loop), &w->timer);
    return 0;
  }
  int64_t now_ns = timeout_ms == 0 ? evloop_now_ns(w->loop) : clock_now_ns();
  return timer_arm(evloop_timers(w->loop), &w->timer, now_ns + timeout_ms * NS_PER_MS) < 0 ? -1 : 0;
}

static void timer_fired(struct timer *timer, int64_t now_ns) {
  struct wire *w = (struct wire *)((char *)timer - offsetof(struct wire, timer));
  w->due = false;
  act(w, CURL_SOCKET_TIMEOUT, 0, now_ns);
}

static bool end_of_turn(struct turn_hook *hook, int64_t now_ns) {
  struct wire *w = (struct wire *)((char *)hook - offsetof(struct wire, hook));
  w->delivered = false;
  for (int round = 0; w->due && round < ROUNDS_A_TURN; round++) {
    w->due = false;
    timer_disarm(evloop_timers(w->loop), &w->timer);
    act(w, CURL_SOCKET_TIMEOUT, 0, now_ns);
  }
  return w->due || w->delivered;
}

/* ---- sockets ---- */

static void socket_ready(struct watch *watch, uint32_t events, int64_t now_ns) {
  struct wire_socket *s = (struct wire_socket *)((char *)watch - offsetof(struct wire_socket, watch));
  struct wire *w = s->wire;
  if (s->wanted == 0) {
    evloop_watch(w->loop, watch, 0);
    return;
  }
  int mask = events & (EPOLLIN | EPOLLHUP | EPOLLRDHUP) ? CURL_CSELECT_IN : 0;
  if (events & EPOLLOUT) mask |= CURL_CSELECT_OUT;
  if (events & EPOLLERR) mask |= CURL_CSELECT_ERR;
  act(w, watch->fd, mask, now_ns);
}

static struct wire_socket *socket_at(struct wire *w, curl_socket_t fd) {
  size_t index = (size_t)fd;
  if (index >= w->socket_count) {
    size_t count = index + 64;
    struct wire_socket **grown = realloc(w->sockets, count * sizeof(struct wire_socket *));
    if (!grown) return NULL;
    memset(grown + w->socket_count, 0, (count - w->socket_count) * sizeof(struct wire_socket *));
    w->sockets = grown;
    w->socket_count = count;
  }
  if (!w->sockets[index]) {
    struct wire_socket *s = calloc(1, sizeof *s);
    if (!s) return NULL;
    s->wire = w;
    s->watch = (struct watch){.fd = fd, .ready = socket_ready};
    w->sockets[index] = s;
  }
  return w->sockets[index];
}

static void forget_socket(struct wire *w, curl_socket_t fd) {
  if ((size_t)fd >= w->socket_count || !w->sockets[fd]) return;
  evloop_watch(w->loop, &w->sockets[fd]->watch, 0);
  free(w->sockets[fd]);
  w->sockets[fd] = NULL;
}

/* libcurl 7.88 closes a socket that was still connecting by itself, past close_socket. Whoever has its number
 * next is not to be taken for ours: a watch that we believe to be there could not be changed, and libcurl
 * gives up all calls when we say so. */
static void let_go(struct wire *w, struct wire_socket *s) {
  s->wanted = 0;
  if (s->ours && s->watch.events == EPOLLIN) return;
  if (!s->ours || evloop_watch(w->loop, &s->watch, 0) < 0) forget_socket(w, s->watch.fd);
}

static int want_socket(CURL *easy, curl_socket_t fd, int what, void *ctx, void *socket_ctx) {
  struct wire *w = ctx;
  (void)easy;
  (void)socket_ctx;
  struct wire_socket *s = socket_at(w, fd);
  if (!s) return -1;
  if (what == CURL_POLL_REMOVE) {
    let_go(w, s);
    return 0;
  }
  s->wanted = (what & CURL_POLL_IN ? EPOLLIN : 0) | (what & CURL_POLL_OUT ? EPOLLOUT : 0);
  return evloop_watch(w->loop, &s->watch, s->wanted) < 0 ? -1 : 0;
}

static curl_socket_t open_socket(void *ctx, curlsocktype purpose, struct curl_sockaddr *address) {
  struct wire *w = ctx;
  (void)purpose;
  int fd = socket(address->family, address->socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, address->protocol);
  if (fd < 0) return CURL_SOCKET_BAD;
  struct wire_socket *s = socket_at(w, fd);
  if (!s) {
    close(fd);
    return CURL_SOCKET_BAD;
  }
  s->ours = true;
  return fd;
}

static int close_socket(void *ctx, curl_socket_t fd) {
  forget_socket(ctx, fd);
  return close(fd);
}

/* ---- life ---- */

struct wire *wire_create(struct evloop *loop) {
  wire_initialise();
  struct wire *w = calloc(1, sizeof *w);
  if (!w) return NULL;
  w->loop = loop;
  w->timer.fire = timer_fired;
  w->hook.run = end_of_turn;
  w->multi = curl_multi_init();
  if (!w->multi) {
    free(w);
    return NULL;
  }
  curl_multi_setopt(w->multi, CURLMOPT_SOCKETFUNCTION, want_socket);
  curl_multi_setopt(w->multi, CURLMOPT_SOCKETDATA, w);
  curl_multi_setopt(w->multi, CURLMOPT_TIMERFUNCTION, want_timer);
  curl_multi_setopt(w->multi, CURLMOPT_TIMERDATA, w);
  curl_multi_setopt(w->multi, CURLMOPT_MAXCONNECTS, (long)KEPT_CONNECTIONS);
  evloop_add_hook(loop, &w->hook);
  return w;
}

void wire_destroy(struct wire *w) {
  if (!w) return;
  curl_multi_cleanup(w->multi);
  timer_disarm(evloop_timers(w->loop), &w->timer);
  for (size_t i = 0; i < w->socket_count; i++)
    forget_socket(w, (curl_socket_t)i);
  free(w->sockets);
  free(w);
}

bool wire_prepare(struct wire *w, struct wire_call *call) {
  CURL *easy = call->easy;
  call->wire = w;
  CURLcode bad = CURLE_OK;
  bad |= curl_easy_setopt(easy, CURLOPT_PRIVATE, call);
  bad |= curl_easy_setopt(easy, CURLOPT_OPENSOCKETFUNCTION, open_socket);
  bad |= curl_easy_setopt(easy, CURLOPT_OPENSOCKETDATA, w);
  bad |= curl_easy_setopt(easy, CURLOPT_CLOSESOCKETFUNCTION, close_socket);
  bad |= curl_easy_setopt(easy, CURLOPT_CLOSESOCKETDATA, w);
  bad |= curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
  bad |= curl_easy_setopt(easy, CURLOPT_PROXY, "");
  bad |= curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
  bad |= curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L);
  bad |= curl_easy_setopt(easy, CURLOPT_TCP_NODELAY, 1L);
  bad |= curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, CONNECT_MS);
  bad |= curl_easy_setopt(easy, CURLOPT_BUFFERSIZE, (long)RECEIVE_BYTES);
  return bad == CURLE_OK;
}

int wire_start(struct wire_call *call) {
  if (curl_multi_add_handle(call->wire->multi, call->easy) != CURLM_OK) return -EIO;
  call->running = true;
  return 0;
}

void wire_stop(struct wire_call *call) {
  untouch(call->wire, call);
  if (!call->running) return;
  call->running = false;
  curl_multi_remove_handle(call->wire->multi, call->easy);
}
