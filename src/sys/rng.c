#include "sys/rng.h"

#include <math.h>

uint64_t mix64(uint64_t x) {
  x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
  x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
  return x ^ (x >> 31);
}

uint64_t hash_bytes(const void *bytes, uint64_t len, uint64_t salt) {
  const unsigned char *p = bytes;
  uint64_t h = UINT64_C(0xcbf29ce484222325) ^ mix64(salt + UINT64_C(0x9e3779b97f4a7c15));
  for (uint64_t i = 0; i < len; i++)
    h = (h ^ p[i]) * UINT64_C(0x100000001b3);
  return mix64(h);
}

void rng_seed(struct rng *r, uint64_t seed, uint64_t stream) {
  uint64_t x = mix64(seed) ^ mix64(~stream);
  for (int i = 0; i < 4; i++)
    r->s[i] = mix64(x += UINT64_C(0x9e3779b97f4a7c15));
}

static uint64_t rotl(uint64_t x, int k) {
  return (x << k) | (x >> (64 - k));
}

uint64_t rng_u64(struct rng *r) {
  uint64_t *s = r->s, result = rotl(s[0] + s[3], 23) + s[0], t = s[1] << 17;
  s[2] ^= s[0];
  s[3] ^= s[1];
  s[1] ^= s[2];
  s[0] ^= s[3];
  s[2] ^= t;
  s[3] = rotl(s[3], 45);
  return result;
}

double rng_uniform(struct rng *r) {
  return (double)(rng_u64(r) >> 11) * 0x1p-53;
}

uint64_t rng_below(struct rng *r, uint64_t n) {
  uint64_t limit = UINT64_MAX - UINT64_MAX % n, x;
  do
    x = rng_u64(r);
  while (x >= limit);
  return x % n;
}

double rng_normal(struct rng *r) {
  double u = 1.0 - rng_uniform(r);
  return sqrt(-2.0 * log(u)) * cos(6.283185307179586 * rng_uniform(r));
}

double rng_exponential(struct rng *r, double mean) {
  return -mean * log(1.0 - rng_uniform(r));
}
