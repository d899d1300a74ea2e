#ifndef EVOLVE_SWITCHBACK_H
#define EVOLVE_SWITCHBACK_H

/* The calendar of a switchback experiment: groups of equal time blocks, one treatment block in each at a
 * random place. Gives the arm that is due, files requests under their block, and hands over each group's
 * differences once it is complete. A value type; everything is drawn from the seed, so that a run replays. */

#include "evolve/sessions.h"

#include <stdbool.h>
#include <stdint.h>

enum { SWITCHBACK_BLOCKS = 10, SWITCHBACK_MIN_REQUESTS = 3 };

struct switchback_block {
  int64_t start_ns, end_ns;
  bool treated;
  uint32_t requests;
  double sum[MEASURES];
};

struct switchback_group {
  unsigned size; /* 0: none */
  struct switchback_block blocks[SWITCHBACK_BLOCKS];
};

struct switchback {
  uint64_t seed, number; /* of the next group */
  unsigned size;
  struct switchback_group now, before; /* before: ended, but late answers may still come */
};

struct switchback_difference {
  double value[MEASURES]; /* treatment block - mean of control blocks */
  uint32_t control_blocks;
};

void switchback_init(struct switchback *s, uint64_t seed, double share, uint64_t first_group);

/* Moves to now_ns. True when a group came to its end with enough requests on both sides: then *out holds it.
 */
bool switchback_advance(struct switchback *s, int64_t now_ns, struct switchback_difference *out);

bool switchback_treats(const struct switchback *s, int64_t now_ns);

/* Files a request by its arrival. False when it is left out; else *treated says where it went. */
bool switchback_add(struct switchback *s, int64_t arrived_ns, const double value[MEASURES], bool *treated);

#endif
