#ifndef BUS_OUTCOME_H
#define BUS_OUTCOME_H

/* What became of one admitted request: the record that the router learns from, experiments and trials are
 * judged on, and the store keeps. Written once by the shard when the request ends, then handed up by value.
 */

#include "bus/limits.h"

#include <stdbool.h>
#include <stdint.h>

enum outcome_kind {
  OUTCOME_ANSWERED,    /* whole answer delivered (or handed to a slow client's socket) */
  OUTCOME_FAILED,      /* error answer, dead-lettered: providers failed */
  OUTCOME_SHED,        /* error answer, dead-lettered: turned away after admission */
  OUTCOME_EXPIRED,     /* error answer, dead-lettered: deadline passed */
  OUTCOME_CLIENT_GONE, /* the client left first */
  OUTCOME_KINDS
};

enum attempt_result {
  ATTEMPT_OK,
  ATTEMPT_FAILED,    /* 5xx, connection, cut, invalid */
  ATTEMPT_TIMED_OUT, /* first token, idle or total */
  ATTEMPT_THROTTLED, /* 429 */
  ATTEMPT_REJECTED,  /* other 4xx: the request's own fault */
  ATTEMPT_CANCELLED,
  ATTEMPT_RESULTS
};

enum { OUTCOME_TRIED = 6, NO_PROVIDER = 255 };

struct outcome {
  uint64_t id;                  /* of the request */
  int64_t arrived_ns, ended_ns; /* monotonic */
  uint64_t session, tenant;     /* hashes */
  double cost_usd;
  float propensity; /* probability with which the router chose `provider`; 0 when none was chosen */
  float queued_ms, ttft_ms, tpot_ms, total_ms; /* as the client saw them; NAN when there was none */
  uint32_t tokens_in, tokens_out;
  uint16_t route;
  uint8_t provider; /* that answered, or was tried last; NO_PROVIDER */
  uint8_t kind;     /* enum outcome_kind */
  uint8_t priority;
  uint8_t attempts;    /* calls made in all */
  uint8_t tried_count; /* entries of tried[]: the first OUTCOME_TRIED calls */
  struct {
    uint8_t provider, result; /* enum attempt_result */
  } tried[OUTCOME_TRIED];
  bool stream, coalesced, explored, treated, in_target;
};

const char *outcome_kind_name(enum outcome_kind kind); /* "answered", "failed", ... */
const char *attempt_result_name(enum attempt_result result);

#endif
