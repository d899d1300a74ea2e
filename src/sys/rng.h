#ifndef SYS_RNG_H
#define SYS_RNG_H

/* Random numbers that replay: xoshiro256++ (Blackman and Vigna 2019, public domain algorithm), seeded through
 * splitmix64. A value type: whoever owns it draws from it, on one thread. Not for secrets. */

#include <stdint.h>

struct rng {
  uint64_t s[4];
};

/* Streams with the same seed and different numbers are independent. */
void rng_seed(struct rng *r, uint64_t seed, uint64_t stream);

uint64_t rng_u64(struct rng *r);
double rng_uniform(struct rng *r);                  /* [0, 1) */
uint64_t rng_below(struct rng *r, uint64_t n);      /* 0 .. n-1; n > 0 */
double rng_normal(struct rng *r);                   /* mean 0, variance 1 */
double rng_exponential(struct rng *r, double mean); /* mean > 0 */

/* The finaliser of splitmix64: a bijection that mixes every bit. Assignment and sharding hash through it. */
uint64_t mix64(uint64_t x);

/* FNV-1a over bytes, finished with mix64. Not for keys that an attacker chooses. */
uint64_t hash_bytes(const void *bytes, uint64_t len, uint64_t salt);

#endif
