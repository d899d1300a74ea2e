#ifndef PROVIDER_TRANSFER_H
#define PROVIDER_TRANSFER_H

/* One call over HTTP from its first byte to its result, inside openai_upstream: shared by its two halves, the
 * one that starts and ends calls (openai_upstream.c) and the one that reads what comes back (transfer.c). */

#include "dialect/buffer.h"
#include "dialect/openai_stream.h"
#include "dialect/sse.h"
#include "pipeline/upstream.h"
#include "provider/wire.h"
#include "sys/timer.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct local_instance;
struct openai_upstream;

/* What the headers of the present answer said. */
struct reply_headers {
  int status;                                                   /* 0: none yet */
  int64_t retry_after_ns, retry_after_ms_ns, requests_reset_ns; /* -1: not said */
  double requests_left, requests_limit;                         /* NAN: not said */
};

struct transfer {
  struct wire_call call;
  struct openai_upstream *owner;
  struct attempt *attempt; /* NULL: idle, or at its end and only draining its connection */
  uint32_t serial;         /* of uses: whoever calls out compares it after */
  bool stream;
  struct local_instance *instance;
  struct buffer request; /* the body sent, when it is not the client's own */
  struct buffer in;      /* received and not looked at yet; of a whole answer all of it */
  size_t received;
  struct reply_headers headers;
  enum upstream_error failure; /* decided by us while libcurl was still reading; UPSTREAM_OK: none */
  const char *failure_detail;
  struct sse sse;
  struct openai_stream chunks;
  unsigned events, malformed;
  bool finished; /* every choice that was seen has its finish_reason */
  bool complete; /* and there are as many as were asked for: only [DONE] is missing */
  bool draining; /* the attempt is over, the HTTP message not yet */
  struct timer
      grace;      /* what is allowed to take a little longer: [DONE], the end of the connection's answer */
  unsigned sends; /* how often libcurl has sent the request: twice when a kept connection was stale */
  char detail[48];
  struct transfer *next, *next_of_all; /* among the idle ones; among all of the upstream */
};

/* Callbacks for libcurl: they only store. */
size_t reply_take_body(char *bytes, size_t one, size_t size, void *transfer);
size_t reply_take_header(char *bytes, size_t one, size_t size, void *transfer);

void reply_reset(struct transfer *t);

/* A complete stream may take a moment longer for [DONE], but not while its reader holds it back. */
void reply_grace(struct transfer *t, bool held_back, int64_t now_ns);

/* Stream: hands the events received so far to the pipeline. The transfer may be in other use when this
 * returns. */
void reply_read_events(struct transfer *t, int64_t now_ns);

/* The HTTP message is complete (code CURLE_OK), broken, or given up by us: ends the transfer's attempt. */
void reply_end(struct transfer *t, CURLcode code, int64_t now_ns);

/* openai_upstream.c: ends the attempt with attempt_done. The transfer becomes idle, unless it is draining. */
void transfer_finish(struct transfer *t, struct upstream_result *result, int64_t now_ns);
void transfer_grace(struct transfer *t, int64_t due_ns); /* NS_NEVER: no more */
struct buffer *transfer_scratch(struct transfer *t);     /* the shard's, for one event */
size_t transfer_limit(const struct transfer *t);         /* bytes of one answer */
const char *transfer_name(const struct transfer *t);     /* of the provider, for logs */
const char *transfer_secret(const struct transfer *t);   /* the key: must not come back to anyone */

#endif
