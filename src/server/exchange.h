#ifndef SERVER_EXCHANGE_H
#define SERVER_EXCHANGE_H

/* The inside of the front, shared by front.c (daemon and loop), peer.c (connections) and exchange.c (requests
 * and answers) only. */

#include "server/front.h"
#include "sys/evloop.h"
#include "sys/timer.h"

#include <microhttpd.h>

enum peer_phase {
  PEER_IDLE,    /* between requests */
  PEER_HEADERS, /* headers are arriving */
  PEER_BODY,    /* a body is arriving */
  PEER_WAITING, /* the handler is at work: no time-out of ours */
  PEER_SENDING  /* an answer is under way */
};

/* One connection. Made and freed by the daemon's connection notices. */
struct peer {
  struct watch watch; /* for EPOLLRDHUP, edge-triggered: registered once for the life of the connection */
  struct timer timer; /* lazy: may fire early, then moves to deadline_ns */
  int64_t deadline_ns;
  uint64_t acked; /* bytes that the client had acknowledged when the deadline was set */
  struct front *front;
  struct exchange *exchange; /* the request under way */
  struct peer *next, *previous;
  enum peer_phase phase;
  bool hung_up; /* the client has sent its FIN or a reset */
  bool cut;     /* we have shut the socket down */
};

enum exchange_state {
  EXCHANGE_NEW,       /* request line read */
  EXCHANGE_RECEIVING, /* headers accepted, body arriving */
  EXCHANGE_DRAINING,  /* refused; the body is read and thrown away so that the refusal can be read */
  EXCHANGE_HANDLED,   /* with the handler */
  EXCHANGE_ANSWERED,  /* response made, not yet queued or being sent */
  EXCHANGE_ABORTED    /* the connection is to be closed */
};

struct exchange {
  struct front *front;
  struct peer *peer;                 /* NULL once the connection has done with it */
  struct MHD_Connection *connection; /* NULL likewise */
  struct MHD_Response *response;     /* ours until queued */
  enum exchange_state state;
  int status;
  bool suspended; /* by us, and not resumed since: never resume what is not suspended */
  bool owned;     /* belongs to the handler */
  bool open;      /* counted in front->open */
  bool chunked;   /* came chunked: its connection is not reused */
  bool overfull;  /* there was no room for its body */
  bool stream, ended, queued;
  const char *path, *method;
  char *body;
  size_t body_size, body_capacity, expected, drained;
  size_t held;   /* of it and of the answer, as counted in settings.held */
  char *backlog; /* stream: bytes [sent, filled) wait for the daemon */
  size_t sent, filled, backlog_capacity;
  void *owner;
  void (*gone)(struct exchange *exchange, void *owner, int64_t now_ns);
};

struct front {
  struct evloop *loop;
  struct front_settings settings;
  front_handler *handler;
  void *ctx;
  struct MHD_Daemon *daemon;
  struct watch watch; /* the daemon's own epoll descriptor */
  struct turn_hook hook;
  struct timer last_call;
  struct peer *peers;
  unsigned open;
  uint16_t port;
  bool resumed;    /* something waits for MHD_run */
  bool dispatched; /* the handler has been called since the flag was cleared */
  bool closing, listening;
};

/* peer.c */
void peer_notice(void *front, struct MHD_Connection *connection, void **socket_context,
                 enum MHD_ConnectionNotificationCode code);
void peer_enter(struct peer *peer, enum peer_phase phase);
void peer_cut(struct peer *peer);
void peer_recheck(struct peer *peer); /* reports a hang-up that was seen before, once more */

/* exchange.c */
void *exchange_open(void *front, const char *uri, struct MHD_Connection *connection);
enum MHD_Result exchange_step(void *front, struct MHD_Connection *connection, const char *url,
                              const char *method, const char *version, const char *data, size_t *size,
                              void **request);
void exchange_completed(void *front, struct MHD_Connection *connection, void **request,
                        enum MHD_RequestTerminationCode code);
void exchange_drop(struct exchange *exchange); /* ends it, whoever owns it; says so to nobody */
void exchange_client_left(struct exchange *exchange, int64_t now_ns);

/* framing.c: what the headers say about the body. */
struct framing {
  bool chunked, expects_continue;
  size_t length;       /* Content-Length; SIZE_MAX when larger */
  const char *refusal; /* NULL, or why the framing is not to be trusted */
};

void framing_read(struct MHD_Connection *connection, const char *version, struct framing *framing);

#endif
