/* A connection. libmicrohttpd neither sees a client leave while its connection is suspended, nor bounds the
 * time that headers or a body may drip; both are done here.
 *
 * Leaving: the socket is also in our own epoll set, once for its whole life, for EPOLLRDHUP and
 * edge-triggered, so that data wakes nobody. Time: one lazy timer a connection. A phase only moves
 * deadline_ns; the timer fires at the earliest deadline that it was armed for and moves on. While an answer
 * is sent, progress is what the client's TCP has acknowledged. Where the end of a connection comes together
 * with the last bytes, the library reads those and takes no second look; so a peer that hung up before its
 * request was whole gets a moment, in which what has come is read, and is cut. */

#include "server/exchange.h"
#include "sys/clock.h"

#include <linux/tcp.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>

/* Bytes of a whole answer that its client acknowledges in a write time-out. */
enum { LEAST_PROGRESS = 16384 };

#define LAST_MOMENT_NS NS_PER_S /* for a request that must be here already, or come now */

static uint64_t acknowledged(int fd) {
  struct tcp_info info = {0};
  socklen_t size = sizeof info;
  if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) < 0) return 0;
  return info.tcpi_bytes_acked;
}

void peer_cut(struct peer *peer) {
  if (peer->cut) return;
  peer->cut = true;
  shutdown(peer->watch.fd, SHUT_RDWR);
}

static int64_t phase_limit_ns(const struct peer *peer) {
  const struct front_settings *s = &peer->front->settings;
  int64_t limit = 0;
  switch (peer->phase) {
  case PEER_IDLE:
    limit = s->idle_timeout_ns;
    break;
  case PEER_HEADERS:
    limit = s->header_timeout_ns;
    break;
  case PEER_BODY:
    limit = s->body_timeout_ns;
    break;
  case PEER_SENDING:
    return s->write_timeout_ns;
  case PEER_WAITING:
    return 0;
  }
  bool last = peer->hung_up || (peer->front->closing && peer->phase == PEER_HEADERS);
  return last && limit > LAST_MOMENT_NS ? LAST_MOMENT_NS : limit;
}

void peer_enter(struct peer *peer, enum peer_phase phase) {
  peer->phase = phase;
  int64_t limit = phase_limit_ns(peer);
  peer->deadline_ns = limit > 0 ? evloop_now_ns(peer->front->loop) + limit : NS_NEVER;
  if (phase == PEER_SENDING) peer->acked = UINT64_MAX; /* the first look only takes the figure */
  if (peer->deadline_ns == NS_NEVER) return;
  if (!peer->timer.slot || peer->timer.due_ns > peer->deadline_ns)
    timer_arm(evloop_timers(peer->front->loop), &peer->timer, peer->deadline_ns);
}

/* A stream with nothing to send waits for its upstream, not for its client. */
static bool stuck(struct peer *peer) {
  struct exchange *ex = peer->exchange;
  if (ex && ex->stream && ex->sent == ex->filled && !ex->ended) return false;
  uint64_t now = acknowledged(peer->watch.fd), before = peer->acked;
  uint64_t least = ex && !ex->stream ? LEAST_PROGRESS : 1; /* a stream's backlog is bounded besides */
  peer->acked = now;
  return before != UINT64_MAX && now - before < least;
}

/* Else the kernel would go on sending what it holds for as long as the client drips. */
static void forget_unsent(struct peer *peer) {
  struct linger at_once = {.l_onoff = 1, .l_linger = 0};
  setsockopt(peer->watch.fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
}

static void on_deadline(struct timer *timer, int64_t now_ns) {
  struct peer *peer = (struct peer *)((char *)timer - offsetof(struct peer, timer));
  if (peer->deadline_ns == NS_NEVER) return;
  if (now_ns >= peer->deadline_ns) {
    if (peer->phase != PEER_SENDING || stuck(peer)) {
      if (peer->phase == PEER_SENDING) forget_unsent(peer);
      peer_cut(peer);
      if (peer->exchange) exchange_client_left(peer->exchange, now_ns);
      return;
    }
    peer->deadline_ns = now_ns + phase_limit_ns(peer);
  }
  timer_arm(evloop_timers(peer->front->loop), &peer->timer, peer->deadline_ns);
}

static void on_hang_up(struct watch *watch, uint32_t events, int64_t now_ns) {
  (void)events;
  struct peer *peer = (struct peer *)((char *)watch - offsetof(struct peer, watch));
  if (peer->cut) return;
  peer->hung_up = true;
  if (peer->exchange && peer->exchange->owned)
    exchange_client_left(peer->exchange, now_ns);
  else if (peer->phase <= PEER_BODY)
    peer_enter(peer, peer->phase);
}

void peer_recheck(struct peer *peer) {
  evloop_watch(peer->front->loop, &peer->watch, 0);
  evloop_watch(peer->front->loop, &peer->watch, EPOLLRDHUP | EPOLLET);
}

static void peer_open(struct front *front, struct MHD_Connection *connection, void **socket_context) {
  struct peer *peer = calloc(1, sizeof *peer);
  *socket_context = peer;
  if (!peer) return; /* exchange_open refuses its requests */
  const union MHD_ConnectionInfo *info =
      MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
  int on = 1;
  setsockopt(info->connect_fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  peer->front = front;
  peer->watch = (struct watch){.fd = info->connect_fd, .ready = on_hang_up};
  peer->timer.fire = on_deadline;
  peer->next = front->peers;
  if (front->peers) front->peers->previous = peer;
  front->peers = peer;
  evloop_watch(front->loop, &peer->watch, EPOLLRDHUP | EPOLLET);
  peer_enter(peer, PEER_HEADERS);
}

static void peer_close(struct front *front, struct peer *peer) {
  if (!peer) return;
  evloop_watch(front->loop, &peer->watch, 0);
  timer_disarm(evloop_timers(front->loop), &peer->timer);
  if (peer->next) peer->next->previous = peer->previous;
  if (peer->previous)
    peer->previous->next = peer->next;
  else
    front->peers = peer->next;
  free(peer);
  front->resumed = true; /* the library looks at who waits for this place in the step after */
}

void peer_notice(void *front, struct MHD_Connection *connection, void **socket_context,
                 enum MHD_ConnectionNotificationCode code) {
  if (code == MHD_CONNECTION_NOTIFY_STARTED)
    peer_open(front, connection, socket_context);
  else
    peer_close(front, *socket_context);
}
