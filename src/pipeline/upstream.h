#ifndef PIPELINE_UPSTREAM_H
#define PIPELINE_UPSTREAM_H

/* The seam to whatever answers prompts: libcurl, the echo provider, the simulated plant. A transport serves
 * one shard and runs on its thread.
 *
 * Contract: start() returns at once; events and the one final result arrive later, from the event loop, never
 * from inside start(). After cancel() returns, nothing more arrives for that attempt; cancel() may come from
 * inside attempt_event(). Between start() and the final result (or cancel) the request stays valid and
 * unchanged. The pipeline owns every timeout. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct request;

enum upstream_error {
  UPSTREAM_OK,        /* a whole answer with a 2xx status */
  UPSTREAM_STATUS,    /* a whole answer with another status */
  UPSTREAM_CONNECT,   /* no connection: refused, unresolved, TLS */
  UPSTREAM_RESET,     /* the connection ended before any byte of an answer */
  UPSTREAM_CUT,       /* the answer stopped before its end */
  UPSTREAM_INVALID,   /* not an answer that can be understood */
  UPSTREAM_TOO_LARGE, /* past the size limit of answers */
  UPSTREAM_ERRORS
};

/* One call. Lives inside its request. */
struct attempt {
  struct request *request;
  void *transport; /* the transport's own state; NULL when idle */
  uint8_t provider;
  bool streaming; /* content has arrived */
  bool complete;  /* all of it has: the transport ends the call within two seconds, whatever still comes */
  int64_t started_ns, first_ns, last_ns;
  uint32_t tokens;    /* content events seen */
  uint32_t malformed; /* events that the transport skipped */
  int64_t paused_ns;  /* since when its reader, who is behind, has read nothing; 0: it is not paused */
  size_t unread;      /* then: bytes that wait for that reader */
};

/* What arrives inside a stream: one whole server-sent event, "data: {...}\n\n", already in the form that the
 * client gets (our id, no usage chunk that it did not ask for). Bytes are borrowed for the call. */
struct upstream_event {
  const char *bytes;
  size_t size;
  uint32_t tokens; /* output tokens that it carries; 0 for role, finish, usage and end events */
};

struct upstream_result {
  enum upstream_error error;
  int status;             /* HTTP status, 0 when none came */
  int64_t retry_after_ns; /* from now; -1 when not said */
  char *body; /* whole answer (not for streams), or the error body; malloc'ed, taken over by the callee; may
                 be NULL */
  size_t body_size;
  bool usage_known;
  uint32_t tokens_in, tokens_cached, tokens_out;
  double cost_usd;           /* as reported by the provider; NAN when not */
  double requests_left;      /* x-ratelimit-remaining-requests; NAN when not said */
  int64_t requests_reset_ns; /* from now: until one more is allowed; -1 when not said */
  const char *detail; /* for logs and dead letters: static or owned by the caller until the call returns */
};

struct upstream;

struct upstream_ops {
  /* 0, or -errno: then no result follows. The body to send is request->body with the provider's model. */
  int (*start)(struct upstream *upstream, struct attempt *attempt, int64_t now_ns);
  void (*cancel)(struct upstream *upstream, struct attempt *attempt);
  /* From a stream nothing more is read until it is told to go on; what has been read already may still come.
   * NULL: it cannot be paused. */
  void (*pause)(struct upstream *upstream, struct attempt *attempt, bool paused);
};

struct upstream {
  const struct upstream_ops *ops;
};

/* The pipeline's side, called by transports on the shard's thread. */
void attempt_event(struct attempt *attempt, const struct upstream_event *event, int64_t now_ns);
void attempt_done(struct attempt *attempt, struct upstream_result *result, int64_t now_ns);

const char *upstream_error_name(enum upstream_error error);

#endif
