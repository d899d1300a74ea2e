/* FNV-like hashes of "user-1000", "user-1001", ... differ in few bits, and a threshold on their top bits then
 * splits them badly. The salted id goes through the finaliser of splitmix64, in which every input bit moves
 * every output bit. */

#include "evolve/assign.h"

#include "sys/rng.h"

uint64_t assign_salt(uint64_t seed, int64_t experiment_id) {
  return mix64(mix64(seed) + (uint64_t)experiment_id);
}

double assign_uniform(uint64_t unit, uint64_t salt) {
  return (double)(mix64(unit ^ mix64(salt)) >> 11) * 0x1p-53;
}

bool assign_treats(uint64_t unit, uint64_t salt, double share) {
  return assign_uniform(unit, salt) < share;
}
