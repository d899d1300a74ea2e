#ifndef EVOLVE_SESSIONS_H
#define EVOLVE_SESSIONS_H

/* A bounded table of sessions with the running means of what is measured on each. Grows by doubling up to its
 * bound; nothing is ever removed. One thread. */

#include <stdbool.h>
#include <stdint.h>

enum { MEASURES = 3 };
enum measure { MEASURE_UTILITY, MEASURE_ERROR, MEASURE_MISS };

struct sessions;

struct session {
  uint64_t id;
  uint32_t requests; /* 0: just made */
  bool treated;
  double mean[MEASURES];
};

struct sessions *sessions_create(uint32_t most); /* NULL: no memory */
void sessions_destroy(struct sessions *s);

/* Finds or makes. NULL when it is new and the table is full or cannot grow. Valid until the next call. */
struct session *sessions_at(struct sessions *s, uint64_t id);

#endif
