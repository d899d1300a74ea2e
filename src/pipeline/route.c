/* One draw decides twice: below explore_share it is stretched over the candidates evenly, above it over the
 * Boltzmann shares. Both halves are inverse distribution functions in the order of the candidates, so that a
 * draw that stays the same (a sticky session) keeps its candidate while the shares move little. The
 * propensity is the whole mixture's, on exactly the candidates that were available. */

#include "pipeline/route.h"

#include <math.h>

/* Shares of the exploiting half, zero where not available. A score that is no number counts as the lowest. */
static void boltzmann(const struct route_table *table, unsigned route, uint32_t available,
                      double share[MAX_CANDIDATES]) {
  const float *utility = table->routes[route].utility;
  double best = -INFINITY, sum = 0.0;
  for (unsigned i = 0; i < MAX_CANDIDATES; i++)
    if (available >> i & 1 && utility[i] > best) best = utility[i];
  for (unsigned i = 0; i < MAX_CANDIDATES; i++) {
    bool in = available >> i & 1;
    double behind = isfinite(best) ? best - utility[i] : 0.0;
    if (isnan(behind)) in = false;
    share[i] = !in                      ? 0.0
               : behind <= 0.0          ? 1.0
               : table->temperature > 0 ? exp(-behind / table->temperature)
                                        : 0.0;
    sum += share[i];
  }
  for (unsigned i = 0; i < MAX_CANDIDATES; i++)
    share[i] /= sum;
}

static uint8_t nth_available(uint32_t available, unsigned n) {
  for (uint8_t i = 0;; i++)
    if (available >> i & 1 && n-- == 0) return i;
}

/* The candidate whose share holds the draw; rounding at the upper end falls to the last one with a share. */
static uint8_t inverse(const double share[MAX_CANDIDATES], double draw) {
  uint8_t last = 0;
  double below = 0.0;
  for (uint8_t i = 0; i < MAX_CANDIDATES; i++) {
    if (share[i] <= 0.0) continue;
    last = i;
    below += share[i];
    if (draw < below) break;
  }
  return last;
}

bool route_pick(const struct route_table *table, unsigned route, uint32_t available, double draw,
                uint32_t turn, struct route_choice *choice) {
  available &= (UINT32_C(1) << MAX_CANDIDATES) - 1;
  unsigned count = (unsigned)__builtin_popcount(available);
  if (count == 0) return false;
  if (table->version == 0) {
    *choice = (struct route_choice){nth_available(available, turn % count), false, (float)(1.0 / count)};
    return true;
  }
  double share[MAX_CANDIDATES], explore = fmin(fmax(table->explore_share, 0.0), 1.0);
  boltzmann(table, route, available, share);
  bool explored = draw < explore;
  uint8_t picked = explored ? nth_available(available, (unsigned)fmin(draw / explore * count, count - 1))
                            : inverse(share, (draw - explore) / (1.0 - explore));
  double propensity = explore / count + (1.0 - explore) * share[picked];
  *choice = (struct route_choice){picked, explored, (float)propensity};
  return true;
}
