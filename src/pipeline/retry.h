#ifndef PIPELINE_RETRY_H
#define PIPELINE_RETRY_H

/* Retry budget of one provider: over the last ten one-second slots, retries stay within a share of the
 * attempts, and at least three are always allowed. Back-off with full jitter. Not locked: the owner locks. */

#include <stdbool.h>
#include <stdint.h>

struct rng;

enum { RETRY_SLOTS = 10, RETRY_FLOOR = 3 };

struct retry_budget {
  int64_t slot; /* second that the newest slot stands for */
  uint32_t attempts[RETRY_SLOTS], retries[RETRY_SLOTS];
};

void retry_budget_attempt(struct retry_budget *b, int64_t now_ns); /* a first attempt was made */
bool retry_budget_take(struct retry_budget *b, double percent,
                       int64_t now_ns); /* may one retry be made? takes it */

/* Uniform in [0, min(max, base * 2^(attempt-1))]; attempt counts from 1. */
int64_t retry_backoff_ns(unsigned attempt, int64_t base_ns, int64_t max_ns, struct rng *rng);

#endif
