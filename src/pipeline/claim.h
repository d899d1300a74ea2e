#ifndef PIPELINE_CLAIM_H
#define PIPELINE_CLAIM_H

/* Who is next at a provider whose places are all taken, over all shards. A shard that frees a place would
 * take it again at once for its own, while the others only look now and then: what waits there would starve,
 * however urgent. So a shard leaves a claim for its most urgent request that has to wait, and a shard lets a
 * claim more urgent than its own request go first. A claim is renewed at each look, and expires by itself
 * soon after. Any thread; no locks: a race costs one look. */

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct claim {
  _Atomic uint64_t key; /* 0: none */
  _Atomic int64_t until_ns;
};

/* Orders requests over all shards: by urgency (0 first, below 4), then by arrival. Never 0. */
uint64_t claim_key(int64_t urgency, int64_t arrived_ns, unsigned shard);

/* Does another shard wait for something more urgent? */
bool claim_goes_before(const struct claim *claim, uint64_t key, int64_t now_ns);

/* This request waits, until it is looked at again before until_ns. */
void claim_post(struct claim *claim, uint64_t key, int64_t now_ns, int64_t until_ns);

/* This shard has got a place. */
void claim_drop(struct claim *claim, uint64_t key);

#endif
