/* A key is urgency, arrival in steps of 65 us, and shard, in one word: smaller is more urgent. */

#include "pipeline/claim.h"

enum { SHARD_BITS = 6, ARRIVAL_SHIFT = 16, URGENCY_SHIFT = 61 };

uint64_t claim_key(int64_t urgency, int64_t arrived_ns, unsigned shard) {
  const uint64_t arrivals = (UINT64_C(1) << (URGENCY_SHIFT - SHARD_BITS)) - 1;
  uint64_t arrival = ((uint64_t)arrived_ns >> ARRIVAL_SHIFT) & arrivals;
  return (uint64_t)(urgency + 1) << URGENCY_SHIFT | arrival << SHARD_BITS | shard;
}

static bool same_shard(uint64_t a, uint64_t b) {
  return ((a ^ b) & ((1u << SHARD_BITS) - 1)) == 0;
}

bool claim_goes_before(const struct claim *claim, uint64_t key, int64_t now_ns) {
  struct claim *c = (struct claim *)claim;
  uint64_t held = atomic_load_explicit(&c->key, memory_order_relaxed);
  return held && held < key && !same_shard(held, key) &&
         atomic_load_explicit(&c->until_ns, memory_order_relaxed) > now_ns;
}

void claim_post(struct claim *claim, uint64_t key, int64_t now_ns, int64_t until_ns) {
  if (claim_goes_before(claim, key, now_ns)) return;
  atomic_store_explicit(&claim->key, key, memory_order_relaxed);
  atomic_store_explicit(&claim->until_ns, until_ns, memory_order_relaxed);
}

void claim_drop(struct claim *claim, uint64_t key) {
  if (same_shard(atomic_load_explicit(&claim->key, memory_order_relaxed), key))
    atomic_store_explicit(&claim->key, 0, memory_order_relaxed);
}
