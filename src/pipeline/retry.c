#include "pipeline/retry.h"

#include "sys/clock.h"
#include "sys/rng.h"

#include <string.h>

static void advance(struct retry_budget *b, int64_t now_ns) {
  int64_t slot = now_ns / NS_PER_S;
  if (slot - b->slot >= RETRY_SLOTS || slot < b->slot) {
    memset(b->attempts, 0, sizeof b->attempts);
    memset(b->retries, 0, sizeof b->retries);
    b->slot = slot;
    return;
  }
  while (b->slot < slot) {
    b->slot++;
    b->attempts[b->slot % RETRY_SLOTS] = b->retries[b->slot % RETRY_SLOTS] = 0;
  }
}

static uint32_t total(const uint32_t *slots) {
  uint32_t sum = 0;
  for (int i = 0; i < RETRY_SLOTS; i++)
    sum += slots[i];
  return sum;
}

void retry_budget_attempt(struct retry_budget *b, int64_t now_ns) {
  advance(b, now_ns);
  b->attempts[b->slot % RETRY_SLOTS]++;
}

bool retry_budget_take(struct retry_budget *b, double percent, int64_t now_ns) {
  advance(b, now_ns);
  uint32_t used = total(b->retries);
  if (used >= RETRY_FLOOR && used + 1 > total(b->attempts) * percent / 100.0) return false;
  b->retries[b->slot % RETRY_SLOTS]++;
  return true;
}

int64_t retry_backoff_ns(unsigned attempt, int64_t base_ns, int64_t max_ns, struct rng *rng) {
  unsigned doublings = attempt > 1 ? attempt - 1 : 0;
  int64_t ceiling = doublings >= 30 || base_ns > max_ns >> doublings ? max_ns : base_ns << doublings;
  return (int64_t)(rng_uniform(rng) * (double)ceiling);
}
