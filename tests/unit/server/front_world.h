#ifndef TESTS_UNIT_SERVER_FRONT_WORLD_H
#define TESTS_UNIT_SERVER_FRONT_WORLD_H

/* A front on a loop with a thread of its own, and a blocking client with raw sockets. /hold and /stream keep
 * their exchange for the test to steer; every other path is answered at once with what was asked. */

#include "server/front.h"
#include "sys/clock.h"
#include "sys/evloop.h"

#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

enum { LIMIT = 1 << 20, FLOOD = 4 << 20, PLACES = 100 };

struct world {
  struct evloop *loop;
  struct front *front;
  pthread_t thread;
  struct turn_hook hook;
  struct exchange *held; /* by /hold and /stream */
  _Atomic bool stop, stop_accepting, feed, flood, finish, abort;
  _Atomic int calls, admin_calls, gone, open;
  _Atomic int64_t gone_ns;
  _Atomic size_t backlog;
};

static inline void on_gone(struct exchange *ex, void *owner, int64_t now_ns) {
  (void)ex;
  struct world *w = owner;
  w->held = NULL;
  w->gone_ns = now_ns;
  w->gone++;
}

static inline void hold(struct world *w, struct exchange *ex) {
  w->held = ex;
  exchange_set_owner(ex, w);
  exchange_on_gone(ex, on_gone);
}

static inline void handle(void *ctx, struct exchange *ex, int64_t now_ns) {
  (void)now_ns;
  struct world *w = ctx;
  const char *path = exchange_path(ex);
  w->calls++;
  if (!strncmp(path, "/admin", 6)) w->admin_calls++;
  if (!strcmp(path, "/hold")) {
    hold(w, ex);
  } else if (!strcmp(path, "/stream")) {
    hold(w, ex);
    exchange_begin(ex, 200, "text/event-stream", NULL, 0);
  } else if (!strcmp(path, "/echo")) {
    size_t size;
    char *body = exchange_take_body(ex, &size);
    exchange_reply_owned(ex, 200, "application/octet-stream", body, size, NULL, 0);
  } else {
    char text[128];
    size_t size;
    exchange_body(ex, &size);
    const char *q = exchange_query(ex, "q");
    int n = snprintf(text, sizeof text, "%s %s %zu %s", exchange_method(ex), path, size, q ? q : "-");
    struct front_header extra = {"X-Test", "yes"};
    exchange_reply(ex, 200, "text/plain", text, (size_t)n, &extra, 1);
  }
}

/* Lets the test's thread steer the held exchange. */
static inline bool steer(struct turn_hook *hook, int64_t now_ns) {
  (void)now_ns;
  struct world *w = (struct world *)((char *)hook - offsetof(struct world, hook));
  w->open = (int)front_open(w->front);
  if (w->stop_accepting) front_stop_accepting(w->front);
  if (!w->held) return false;
  if (atomic_exchange(&w->feed, false)) w->backlog = exchange_write(w->held, "data: chunk\n\n", 13);
  static const char much[65536] = "data:";
  if (w->flood && w->backlog < FLOOD) w->backlog = exchange_write(w->held, much, sizeof much);
  if (atomic_exchange(&w->abort, false)) {
    struct exchange *ex = w->held;
    w->held = NULL;
    exchange_abort(ex);
  } else if (atomic_exchange(&w->finish, false)) {
    struct exchange *ex = w->held;
    w->held = NULL;
    if (!strcmp(exchange_path(ex), "/hold"))
      exchange_reply(ex, 200, "text/plain", "late", 4, NULL, 0);
    else
      exchange_end(ex);
  }
  return false;
}

static inline void *turns(void *arg) {
  struct world *w = arg;
  while (!w->stop)
    evloop_turn(w->loop, 5 * NS_PER_MS);
  return NULL;
}

static inline int start(void **state) {
  struct world *w = calloc(1, sizeof *w);
  struct front_settings settings = {.host = "127.0.0.1",
                                    .body_limit = LIMIT,
                                    .max_connections = PLACES,
                                    .header_timeout_ns = 400 * NS_PER_MS,
                                    .body_timeout_ns = 600 * NS_PER_MS,
                                    .idle_timeout_ns = 800 * NS_PER_MS,
                                    .write_timeout_ns = 300 * NS_PER_MS};
  char error[200];
  w->loop = evloop_create();
  w->front = front_create(w->loop, &settings, handle, w, error, sizeof error);
  w->hook.run = steer;
  evloop_add_hook(w->loop, &w->hook);
  *state = w;
  return !w->front || pthread_create(&w->thread, NULL, turns, w);
}

static inline int stop(void **state) {
  struct world *w = *state;
  w->stop = true;
  pthread_join(w->thread, NULL);
  front_destroy(w->front);
  evloop_destroy(w->loop);
  free(w);
  return 0;
}

static inline int dial(struct world *w) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(front_port(w->front))};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  struct timeval wait = {.tv_sec = 5};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait);
  assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
  return fd;
}

static inline void say(int fd, const char *text) {
  size_t size = strlen(text);
  assert_int_equal(send(fd, text, size, MSG_NOSIGNAL), (ssize_t)size);
}

/* Reads until the peer closes (0), an error (-errno), or `until` has been seen. */
static inline int hear_until(int fd, char *out, size_t size, const char *until) {
  size_t n = 0;
  out[0] = '\0';
  while (n + 1 < size) {
    ssize_t got = recv(fd, out + n, size - 1 - n, 0);
    if (got <= 0) return got < 0 ? -errno : 0;
    n += (size_t)got;
    out[n] = '\0';
    if (until && strstr(out, until)) return 1;
  }
  return 1;
}

static inline int status_of(const char *answer) {
  int status = 0;
  return sscanf(answer, "HTTP/1.1 %d", &status) == 1 ? status : 0;
}

static inline int answers_in(const char *text) {
  int n = 0;
  for (const char *at = text; (at = strstr(at, "HTTP/1.1 ")); at++)
    n++;
  return n;
}

static inline bool wait_for(_Atomic int *value, int wanted, int ms) {
  for (int i = 0; i < ms && *value != wanted; i++)
    usleep(1000);
  return *value == wanted;
}

static inline int64_t ms_since(int64_t start_ns) {
  return (clock_now_ns() - start_ns) / NS_PER_MS;
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, start, stop)

#endif
