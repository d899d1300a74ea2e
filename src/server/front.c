/* libmicrohttpd on external epoll: its epoll descriptor is watched by our loop, and MHD_run does a step
 * without waiting. A step leaves work behind when a connection was resumed or has data at hand
 * (MHD_get_timeout says 0); the turn's hook runs it again, so that what the handler answered within a turn
 * leaves within that turn.
 *
 * The library's own time-outs stay off: a byte now and then would renew them. peer.c has ours. */

#include "server/exchange.h"
#include "sys/clock.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/filter.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

/* POOL holds a request's headers, then the pieces of its answer. It is zeroed for each request, so it is
 * small. */
enum { ROUNDS = 8, POOL = 12 << 10, BACKLOG = 1024, SPARE_DESCRIPTORS = 64 };

#define LAST_CALL_NS (100 * NS_PER_MS) /* for a handshake under way */

static bool run_daemon(struct front *front) {
  for (int i = 0; i < ROUNDS; i++) {
    front->resumed = false;
    MHD_run(front->daemon);
    MHD_UNSIGNED_LONG_LONG wait;
    bool pending = MHD_get_timeout(front->daemon, &wait) == MHD_YES && wait == 0;
    if (!front->resumed && !pending) return false;
  }
  front->resumed = true;
  return true;
}

static void on_ready(struct watch *watch, uint32_t events, int64_t now_ns) {
  (void)events;
  (void)now_ns;
  run_daemon((struct front *)((char *)watch - offsetof(struct front, watch)));
}

/* True when the handler was called: what it started has had no turn yet. */
static bool on_turn(struct turn_hook *hook, int64_t now_ns) {
  (void)now_ns;
  struct front *front = (struct front *)((char *)hook - offsetof(struct front, hook));
  if (!front->resumed || !front->daemon) return false;
  front->dispatched = false;
  return run_daemon(front) || front->dispatched;
}

static int resolve(const char *host, uint16_t port, struct sockaddr_storage *out, socklen_t *size) {
  struct addrinfo hints = {.ai_flags = AI_NUMERICHOST | AI_PASSIVE, .ai_socktype = SOCK_STREAM};
  struct addrinfo *found = NULL;
  char service[8];
  snprintf(service, sizeof service, "%u", port);
  if (getaddrinfo(strcmp(host, "localhost") ? host : "127.0.0.1", service, &hints, &found) != 0)
    return -EINVAL;
  memcpy(out, found->ai_addr, found->ai_addrlen);
  *size = found->ai_addrlen;
  freeaddrinfo(found);
  return 0;
}

/* A listening socket, or -errno. */
static int listen_on(const char *host, uint16_t port, bool reuse_port) {
  struct sockaddr_storage address = {0};
  socklen_t size = 0;
  if (resolve(host, port, &address, &size) < 0) return -EINVAL;
  int fd = socket(address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return -errno;
  int on = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (reuse_port) setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on);
  if (bind(fd, (struct sockaddr *)&address, size) < 0 || listen(fd, BACKLOG) < 0) {
    int error = errno;
    close(fd);
    return -error;
  }
  return fd;
}

int front_claim(const char *host, uint16_t port) {
  int fd = listen_on(host, port, false);
  if (fd < 0) return fd;
  close(fd);
  return 0;
}

static uint16_t bound_port(int fd) {
  union {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
  } address = {.v6 = {0}};
  socklen_t size = sizeof address;
  if (getsockname(fd, &address.any, &size) < 0) return 0;
  return ntohs(address.any.sa_family == AF_INET6 ? address.v6.sin6_port : address.v4.sin_port);
}

static void explain(const struct front_settings *s, int error, char *out, size_t size) {
  const char *advice = "";
  if (error == EADDRINUSE)
    advice = "; another program listens there: stop it or choose another port";
  else if (error == EACCES)
    advice = "; ports below 1024 need privileges: choose a higher one";
  else if (error == EADDRNOTAVAIL)
    advice = "; this machine has no such address";
  else if (error == EINVAL)
    advice = "; give a numeric address such as 127.0.0.1 or ::1";
  snprintf(out, size, "cannot listen on %s port %u: %s%s", s->host, s->port, strerror(error), advice);
}

static struct MHD_Daemon *start_daemon(struct front *front, int fd, unsigned connections) {
  unsigned flags = MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME;
  return MHD_start_daemon(flags, 0, NULL, NULL, exchange_step, front, MHD_OPTION_LISTEN_SOCKET, fd,
                          MHD_OPTION_CONNECTION_LIMIT, connections, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
                          (size_t)POOL, MHD_OPTION_NOTIFY_CONNECTION, peer_notice, front,
                          MHD_OPTION_NOTIFY_COMPLETED, exchange_completed, front, MHD_OPTION_URI_LOG_CALLBACK,
                          exchange_open, front, MHD_OPTION_CONNECTION_TIMEOUT, 0u, MHD_OPTION_END);
}

/* Closing the socket resets the connections that nobody has accepted yet, and those whose handshake is under
 * way. So it is made deaf to new ones first (their clients are refused when they knock again) and closed
 * after LAST_CALL_NS, when nobody waits there any more. */

static int listener(const struct front *front) {
  return MHD_get_daemon_info(front->daemon, MHD_DAEMON_INFO_LISTEN_FD)->listen_fd;
}

static void hear_no_syn(int fd) {
  enum { FLAGS = 13, SYN = 0x02, ACK = 0x10 }; /* a filter on a TCP socket sees from the TCP header on */
  struct sock_filter drop_syn[] = {BPF_STMT(BPF_LD | BPF_B | BPF_ABS, FLAGS),
                                   BPF_STMT(BPF_ALU | BPF_AND | BPF_K, SYN | ACK),
                                   BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYN, 0, 1),
                                   BPF_STMT(BPF_RET | BPF_K, 0), BPF_STMT(BPF_RET | BPF_K, UINT32_MAX)};
  struct sock_fprog filter = {.len = sizeof drop_syn / sizeof *drop_syn, .filter = drop_syn};
  setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &filter, sizeof filter);
}

static void stop_listening(struct front *front) {
  int fd = MHD_quiesce_daemon(front->daemon);
  if (fd >= 0) close(fd);
  front->listening = false;
}

static void on_last_call(struct timer *timer, int64_t now_ns) {
  struct front *front = (struct front *)((char *)timer - offsetof(struct front, last_call));
  struct pollfd waiting = {.fd = listener(front), .events = POLLIN};
  if (poll(&waiting, 1, 0) > 0) {
    front->resumed = true;
    timer_arm(evloop_timers(front->loop), timer, now_ns + LAST_CALL_NS);
  } else {
    stop_listening(front);
  }
}

struct front *front_create(struct evloop *loop, const struct front_settings *settings, front_handler *handler,
                           void *ctx, char *error, size_t error_size) {
  int fd = listen_on(settings->host, settings->port, settings->reuse_port);
  if (fd < 0) {
    explain(settings, -fd, error, error_size);
    return NULL;
  }
  struct front *front = calloc(1, sizeof *front);
  unsigned connections = settings->max_connections;
  if (front) {
    *front = (struct front){
        .loop = loop, .settings = *settings, .handler = handler, .ctx = ctx, .port = bound_port(fd)};
    front->daemon = start_daemon(front, fd, connections);
  }
  if (!front || !front->daemon) {
    snprintf(error, error_size, "cannot start the HTTP front: out of memory or descriptors; raise ulimit -n");
    free(front);
    close(fd);
    return NULL;
  }
  const union MHD_DaemonInfo *info = MHD_get_daemon_info(front->daemon, MHD_DAEMON_INFO_EPOLL_FD);
  front->watch = (struct watch){.fd = info->epoll_fd, .ready = on_ready};
  front->hook.run = on_turn;
  front->last_call.fire = on_last_call;
  front->listening = true;
  front->resumed = true; /* the first step puts the listening socket into the set */
  evloop_watch(loop, &front->watch, EPOLLIN);
  evloop_add_hook(loop, &front->hook);
  MHD_run(front->daemon);
  return front;
}

uint16_t front_port(const struct front *front) {
  return front->port;
}

unsigned front_open(const struct front *front) {
  unsigned n = front->open + (front->closing && front->listening);
  for (const struct peer *peer = front->closing ? front->peers : NULL; peer; peer = peer->next)
    if (!peer->cut && !(peer->exchange && peer->exchange->open)) n++;
  return n;
}

/* A kept connection on which nothing has come is closed; any other gets a last moment to say what it came
 * for. */
static void dismiss(struct peer *peer) {
  int waiting = 0;
  ioctl(peer->watch.fd, FIONREAD, &waiting);
  if (peer->phase == PEER_IDLE && waiting == 0)
    peer_cut(peer);
  else
    peer_enter(peer, PEER_HEADERS);
}

void front_stop_accepting(struct front *front) {
  if (front->closing) return;
  front->closing = true;
  hear_no_syn(listener(front));
  timer_arm(evloop_timers(front->loop), &front->last_call, evloop_now_ns(front->loop) + LAST_CALL_NS);
  for (struct peer *peer = front->peers; peer; peer = peer->next)
    if (!peer->exchange) dismiss(peer);
  front->resumed = true;
}

void front_destroy(struct front *front) {
  if (!front) return;
  timer_disarm(evloop_timers(front->loop), &front->last_call);
  if (front->listening) stop_listening(front);
  front->closing = true;
  for (struct peer *peer = front->peers; peer; peer = peer->next)
    if (peer->exchange)
      exchange_drop(peer->exchange);
    else
      peer_cut(peer);
  run_daemon(front); /* the library aborts the process when a connection is still suspended */
  evloop_watch(front->loop, &front->watch, 0);
  MHD_stop_daemon(front->daemon);
  front->daemon = NULL;
  free(front);
}

unsigned front_raise_descriptors(unsigned connections) {
  struct rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) < 0) return connections;
  rlim_t need = 2 * (rlim_t)connections + SPARE_DESCRIPTORS; /* a client's and its upstream's */
  if (limit.rlim_cur < need) {
    struct rlimit raised = {.rlim_cur = need < limit.rlim_max ? need : limit.rlim_max,
                            .rlim_max = limit.rlim_max};
    if (setrlimit(RLIMIT_NOFILE, &raised) == 0) limit = raised;
  }
  if (limit.rlim_cur >= need) return connections;
  return limit.rlim_cur > SPARE_DESCRIPTORS + 2 ? (unsigned)((limit.rlim_cur - SPARE_DESCRIPTORS) / 2) : 1;
}
