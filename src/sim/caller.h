#ifndef SIM_CALLER_H
#define SIM_CALLER_H

/* HTTP calls with JSON bodies from an event loop, for clients of a gateway: libcurl's multi interface on that
 * loop, connections reused. Everything runs on the loop's thread; callbacks come from the loop, never from
 * inside caller_send. */

#include <stddef.h>
#include <stdint.h>

struct evloop;
struct caller;
struct call;

enum call_error {
  CALL_OK,        /* a whole answer, whatever its status */
  CALL_CONNECT,   /* no connection */
  CALL_CUT,       /* the connection ended inside the answer, or before it */
  CALL_TIMED_OUT, /* the time limit passed */
};

struct call_ops {
  /* Bytes of the answer's body as they arrive. */
  void (*bytes)(void *ctx, int status, const char *bytes, size_t size, int64_t now_ns);
  /* Exactly once, last. status 0: none came. */
  void (*done)(void *ctx, enum call_error error, int status, int64_t now_ns);
};

/* key: sent as bearer token; NULL: none. NULL: no memory. */
struct caller *caller_create(struct evloop *loop, const char *key);
void caller_destroy(struct caller *caller); /* calls under way end without a callback */

/* Sends body (copied) as JSON. session: value of X-Session-Id, priority: of X-Priority; either may be NULL.
 * 0, or -errno: then no callback follows. */
int caller_send(struct caller *caller, const char *method, const char *url, const char *session,
                const char *priority, const char *body, size_t size, int64_t timeout_ns,
                const struct call_ops *ops, void *ctx);

unsigned caller_busy(const struct caller *caller);

#endif
